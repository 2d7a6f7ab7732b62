//! PodDisruptionBudgets: how many pods may be evicted now. Watches budgets, pods and the pods' controllers.

mod plan;

use std::sync::Arc;

use api::k8s::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use api::k8s::api::core::v1::{Pod, ReplicationController};
use api::k8s::api::policy::v1::PodDisruptionBudget;
use api::labels::Selector;
use client::{Cache, Key, Meta, Plan, Reconcile, ReconcileError};
use jiff::Timestamp;

use crate::context::{Context, controller_of};

struct Controller {
    budgets: Cache<PodDisruptionBudget>,
    pods: Cache<Pod>,
    sets: Cache<ReplicaSet>,
    deployments: Cache<Deployment>,
    stateful: Cache<StatefulSet>,
    controllers: Cache<ReplicationController>,
}

impl Controller {
    /// The uid and wanted number of the controller that a pod belongs to in the end.
    fn scale_of(&self, pod: &Pod) -> Option<(String, i32)> {
        let owner = controller_of(pod)?;
        let namespace = pod.namespace();
        match owner.kind.as_str() {
            "ReplicaSet" => {
                let set = self.sets.get(namespace, &owner.name).filter(|set| set.uid() == owner.uid)?;
                if let Some(above) = controller_of(&*set).filter(|above| above.kind == "Deployment") {
                    let deployment = self.deployments.get(namespace, &above.name)?;
                    let replicas = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
                    return Some((deployment.uid().to_owned(), replicas));
                }
                Some((owner.uid.clone(), set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)))
            }
            "StatefulSet" => {
                let set = self.stateful.get(namespace, &owner.name).filter(|set| set.uid() == owner.uid)?;
                Some((owner.uid.clone(), set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)))
            }
            "ReplicationController" => {
                let set =
                    self.controllers.get(namespace, &owner.name).filter(|set| set.uid() == owner.uid)?;
                Some((owner.uid.clone(), set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)))
            }
            _ => None,
        }
    }
}

fn selects(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    Selector::from_object(selector).is_ok_and(|selector| selector.matches_opt(pod.meta().labels.as_ref()))
}

impl Reconcile for Controller {
    fn reconcile(&self, key: &Key, now: Timestamp) -> Result<Plan, ReconcileError> {
        let Some(budget) = self.budgets.get_key(key) else { return Ok(Plan::none()) };
        let mut pods = self.pods.namespace(&key.namespace);
        pods.retain(|pod| selects(&budget, pod));
        Ok(plan::plan(&budget, &pods, &|pod| self.scale_of(pod), now))
    }
}

/// Starts the controller.
pub fn start(context: &Context) {
    let mut setup = context.setup("disruption-controller", "controllermanager");
    let budgets = setup.watch::<PodDisruptionBudget>();
    let pods = setup.read::<Pod>();
    let sets = setup.read::<ReplicaSet>();
    let deployments = setup.read::<Deployment>();
    let stateful = setup.read::<StatefulSet>();
    let controllers = setup.read::<ReplicationController>();
    setup.enqueue(&budgets);
    let all = budgets.cache().clone();
    setup.map(&pods, move |change| {
        let mut keys = Vec::new();
        for pod in change.old().into_iter().chain([change.object()]) {
            let own = all.namespace(pod.namespace());
            keys.extend(own.iter().filter(|budget| selects(budget, pod)).map(|budget| Key::of(&**budget)));
        }
        keys.dedup();
        keys
    });
    // A scaled controller changes how many pods are expected.
    fn in_namespace(all: &Cache<PodDisruptionBudget>, namespace: &str) -> Vec<Key> {
        all.namespace(namespace).iter().map(|budget| Key::of(&**budget)).collect()
    }
    let all = budgets.cache().clone();
    setup.map(&deployments, move |change| in_namespace(&all, change.object().namespace()));
    let all = budgets.cache().clone();
    setup.map(&stateful, move |change| in_namespace(&all, change.object().namespace()));
    let all = budgets.cache().clone();
    setup.map(&sets, move |change| in_namespace(&all, change.object().namespace()));
    let all = budgets.cache().clone();
    setup.map(&controllers, move |change| in_namespace(&all, change.object().namespace()));
    let controller = Controller {
        budgets: budgets.cache().clone(),
        pods: pods.cache().clone(),
        sets: sets.cache().clone(),
        deployments: deployments.cache().clone(),
        stateful: stateful.cache().clone(),
        controllers: controllers.cache().clone(),
    };
    setup.start(Arc::new(controller), 2);
}
