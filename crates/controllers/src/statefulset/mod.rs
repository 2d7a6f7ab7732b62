//! StatefulSets: pods with names, claims and an order. Watches the sets, pods, claims and revisions.

mod identity;
mod plan;
mod retention;

use std::sync::Arc;

use api::k8s::api::apps::v1::{ControllerRevision, StatefulSet};
use api::k8s::api::core::v1::{PersistentVolumeClaim, Pod};
use api::labels::Selector;
use client::{Cache, Change, Key, Meta, Plan, Reconcile, ReconcileError};
use jiff::Timestamp;

use crate::context::{Context, index_orphans};
use crate::owner;

struct Controller {
    sets: Cache<StatefulSet>,
    pods: Cache<Pod>,
    claims: Cache<PersistentVolumeClaim>,
    revisions: Cache<ControllerRevision>,
}

impl Reconcile for Controller {
    fn reconcile(&self, key: &Key, now: Timestamp) -> Result<Plan, ReconcileError> {
        let Some(set) = self.sets.get_key(key) else { return Ok(Plan::none()) };
        let Some(spec) = &set.spec else { return Ok(Plan::none()) };
        let selector = Selector::from_object(Some(&spec.selector))
            .map_err(|error| ReconcileError::Object(error.to_string()))?;
        let ours = |pod: &Pod| identity::ordinal(set.name(), pod.name()).is_some();
        let mut claimed = owner::claim(&*set, &selector, &self.pods, ours);
        claimed.objects.retain(|pod| ours(pod));
        let view = plan::View {
            set: &set,
            spec,
            now,
            revisions: self.revisions.owned_by(set.uid()),
            taken: &|name| self.revisions.get(set.namespace(), name).is_some(),
            claim: &|name| self.claims.get(set.namespace(), name),
        };
        Ok(plan::plan(&view, claimed))
    }
}

/// Starts the controller.
pub fn start(context: &Context) {
    let mut setup = context.setup("statefulset-controller", "statefulset-controller");
    let sets = setup.watch::<StatefulSet>();
    let pods = setup.watch::<Pod>();
    let claims = setup.watch::<PersistentVolumeClaim>();
    let revisions = setup.watch::<ControllerRevision>();
    index_orphans(pods.cache());
    setup.enqueue(&sets);
    setup.map_claimed(&sets, &pods, |owner: &StatefulSet| {
        owner.spec.as_ref().and_then(|spec| Selector::from_object(Some(&spec.selector)).ok())
    });
    setup.map_owner::<StatefulSet, ControllerRevision>(&revisions, |_| Vec::new());
    // A claim that went may be what a new pod waits for.
    let all = sets.cache().clone();
    setup.map(&claims, move |change| {
        let claim = change.object();
        let uses = |set: &Arc<StatefulSet>| {
            let templates = set.spec.iter().flat_map(|spec| spec.volume_claim_templates.iter().flatten());
            templates.into_iter().any(|template| {
                let prefix = format!("{}-{}-", template.name(), set.name());
                claim.name().starts_with(&prefix)
            })
        };
        if !matches!(change, Change::Deleted(_)) {
            return Vec::new();
        }
        let sets = all.namespace(claim.namespace());
        sets.iter().filter(|set| uses(set)).map(|set| Key::of(&**set)).collect()
    });
    let controller = Controller {
        sets: sets.cache().clone(),
        pods: pods.cache().clone(),
        claims: claims.cache().clone(),
        revisions: revisions.cache().clone(),
    };
    setup.start(Arc::new(controller), 5);
}

#[cfg(test)]
mod tests;
