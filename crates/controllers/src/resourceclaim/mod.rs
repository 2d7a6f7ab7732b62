//! Claims of devices: made from templates for pods that ask so, given back when their pods are done. Watches pods,
//! claims and templates.

mod plan;

use std::sync::Arc;

use api::k8s::api::core::v1::Pod;
use api::k8s::api::resource::v1::{ResourceClaim, ResourceClaimTemplate};
use client::{Cache, Change, Key, Meta, Plan, Reconcile, ReconcileError};
use jiff::Timestamp;

use crate::context::{Context, controller_of, is_kind};

const ACCOUNT: &str = "resource-claim-controller";

/// Makes the claims of pods.
struct Pods {
    pods: Cache<Pod>,
    claims: Cache<ResourceClaim>,
    templates: Cache<ResourceClaimTemplate>,
}

impl Reconcile for Pods {
    fn reconcile(&self, key: &Key, _: Timestamp) -> Result<Plan, ReconcileError> {
        let Some(pod) = self.pods.get_key(key) else { return Ok(Plan::none()) };
        let template = |name: &str| self.templates.get(pod.namespace(), name);
        Ok(plan::pod(&pod, &self.claims.owned_by(pod.uid()), &template))
    }
}

/// Gives back what claims hold.
struct Claims {
    pods: Cache<Pod>,
    claims: Cache<ResourceClaim>,
}

impl Reconcile for Claims {
    fn reconcile(&self, key: &Key, _: Timestamp) -> Result<Plan, ReconcileError> {
        let Some(claim) = self.claims.get_key(key) else { return Ok(Plan::none()) };
        let pod = |name: &str| self.pods.get(claim.namespace(), name);
        Ok(plan::claim(&claim, &pod))
    }
}

/// Starts the controller.
pub fn start(context: &Context) {
    let mut setup = context.setup(ACCOUNT, "resource_claim");
    let pods = setup.watch::<Pod>();
    let claims = setup.watch::<ResourceClaim>();
    let templates = setup.read::<ResourceClaimTemplate>();
    setup.map(&pods, |change| {
        let pod = change.object();
        let gone = matches!(change, Change::Deleted(_));
        if !gone && plan::wants_templates(pod) { vec![Key::of(&**pod)] } else { Vec::new() }
    });
    setup.map_owner::<Pod, ResourceClaim>(&claims, |_| Vec::new());
    let all = pods.cache().clone();
    setup.map(&templates, move |change| {
        let template = change.object();
        let pods = all.namespace(template.namespace());
        let waiting = pods.iter().filter(|pod| plan::wants_template(pod, template.name()));
        waiting.map(|pod| Key::of(&**pod)).collect()
    });
    let controller = Pods {
        pods: pods.cache().clone(),
        claims: claims.cache().clone(),
        templates: templates.cache().clone(),
    };
    setup.start(Arc::new(controller), 2);
    start_claims(context);
}

fn start_claims(context: &Context) {
    let mut setup = context.setup(ACCOUNT, "resource_claim");
    let pods = setup.read::<Pod>();
    let claims = setup.watch::<ResourceClaim>();
    setup.enqueue(&claims);
    let all = claims.cache().clone();
    setup.map(&pods, move |change| {
        let pod = change.object();
        let done = matches!(change, Change::Deleted(_)) || crate::pods::is_finished(pod);
        if !done || !plan::uses_claims(pod) {
            return Vec::new();
        }
        let claims = all.namespace(pod.namespace());
        let held = claims.iter().filter(|claim| {
            let owned =
                controller_of(&***claim).is_some_and(|owner| is_kind::<Pod>(owner) && owner.uid == pod.uid());
            owned || plan::is_reserved_for(claim, pod.uid())
        });
        held.map(|claim| Key::of(&**claim)).collect()
    });
    let controller = Claims { pods: pods.cache().clone(), claims: claims.cache().clone() };
    setup.start(Arc::new(controller), 2);
}
