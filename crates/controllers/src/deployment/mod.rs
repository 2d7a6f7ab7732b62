//! Deployments: one ReplicaSet a template, moved to step by step. Watches Deployments, ReplicaSets and pods.

mod plan;
mod rolling;
mod sets;
mod status;

use std::sync::Arc;

use api::k8s::api::apps::v1::{Deployment, ReplicaSet};
use api::k8s::api::core::v1::Pod;
use api::labels::Selector;
use client::{Cache, Change, Key, Meta, Plan, Reconcile, ReconcileError};
use jiff::Timestamp;

use crate::context::{Context, controller_of, index_orphans, is_kind};
use crate::owner;

const WORKERS: usize = 5;

struct Controller {
    deployments: Cache<Deployment>,
    sets: Cache<ReplicaSet>,
    pods: Cache<Pod>,
}

impl Reconcile for Controller {
    fn reconcile(&self, key: &Key, now: Timestamp) -> Result<Plan, ReconcileError> {
        let Some(deployment) = self.deployments.get_key(key) else { return Ok(Plan::none()) };
        let Some(spec) = &deployment.spec else { return Ok(Plan::none()) };
        let selector = Selector::from_object(Some(&spec.selector))
            .map_err(|error| ReconcileError::Object(error.to_string()))?;
        if selector.is_everything() {
            return Ok(plan::selecting_all(&deployment));
        }
        let claimed = owner::claim(&*deployment, &selector, &self.sets, |_| true);
        let pods_of = |set: &ReplicaSet| self.pods.owned_by(set.uid());
        let taken = |name: &str| self.sets.get(deployment.namespace(), name);
        Ok(plan::plan(&deployment, claimed, &pods_of, &taken, now))
    }
}

/// Starts the controller.
pub fn start(context: &Context) {
    let mut setup = context.setup("deployment-controller", "deployment-controller");
    let deployments = setup.watch::<Deployment>();
    let sets = setup.watch::<ReplicaSet>();
    let pods = setup.read::<Pod>();
    index_orphans(sets.cache());
    setup.enqueue(&deployments);
    setup.map_claimed(&deployments, &sets, |owner: &Deployment| {
        owner.spec.as_ref().and_then(|spec| Selector::from_object(Some(&spec.selector)).ok())
    });
    // A Recreate rollout waits until the old pods are gone.
    let (all, owners) = (deployments.cache().clone(), sets.cache().clone());
    setup.map(&pods, move |change| {
        let Change::Deleted(pod) = change else { return Vec::new() };
        let Some(reference) = controller_of(&**pod).filter(|owner| is_kind::<ReplicaSet>(owner)) else {
            return Vec::new();
        };
        let Some(set) = owners.get(pod.namespace(), &reference.name) else { return Vec::new() };
        let Some(owner) = controller_of(&*set).filter(|owner| is_kind::<Deployment>(owner)) else {
            return Vec::new();
        };
        let deployment = all.get(pod.namespace(), &owner.name);
        deployment
            .filter(|deployment| plan::is_recreate(deployment))
            .map(|d| Key::of(&*d))
            .into_iter()
            .collect()
    });
    let controller = Controller {
        deployments: deployments.cache().clone(),
        sets: sets.cache().clone(),
        pods: pods.cache().clone(),
    };
    setup.start(Arc::new(controller), WORKERS);
}

#[cfg(test)]
mod tests;
