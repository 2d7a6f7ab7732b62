//! PodDisruptionBudgets: how many pods may be evicted now; and announced disruptions that never came. Watches
//! budgets, pods and the pods' controllers.

mod plan;
mod stale;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::k8s::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use api::k8s::api::core::v1::{Pod, PodTemplateSpec, ReplicationController};
use api::k8s::api::policy::v1::PodDisruptionBudget;
use api::labels::Selector;
use client::{Cache, Change, Key, Meta, Plan, Reconcile, ReconcileError};
use jiff::Timestamp;

use crate::context::{Context, controller_of};
use crate::pods;
use crate::selection::{self, Selecting};

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

/// What a budget guards; one that cannot be read guards nothing.
fn selector_of(budget: &PodDisruptionBudget) -> Selector {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    Selector::from_object(selector).unwrap_or_else(|_| Selector::nothing())
}

/// True when a change of a pod cannot change what any budget counts.
fn counts_alike(old: &Pod, new: &Pod) -> bool {
    old.uid() == new.uid()
        && old.is_deleting() == new.is_deleting()
        && pods::is_ready(old) == pods::is_ready(new)
        && old.meta().labels == new.meta().labels
        && controller_of(old) == controller_of(new)
}

fn of_pod(change: &Change<Pod>, budgets: &Selecting<PodDisruptionBudget>) -> Vec<Key> {
    let pod = change.object();
    if let Change::Modified { old, new } = change
        && counts_alike(old, new)
    {
        return Vec::new();
    }
    let mut keys = BTreeSet::new();
    for pod in change.old().into_iter().chain([pod]) {
        let guarding = budgets.of(pod.namespace(), pod.meta().labels.as_ref());
        keys.extend(guarding.iter().map(|budget| Key::of(&**budget)));
    }
    keys.into_iter().collect()
}

/// A kind whose objects say how many pods are expected, and the labels of these.
type Scale<'a> = (Option<i32>, Option<&'a BTreeMap<String, String>>);

/// The budgets of the pods of a controller whose size changed.
fn of_scale<K: Meta>(
    change: &Change<K>,
    budgets: &Selecting<PodDisruptionBudget>,
    scale: for<'a> fn(&'a K) -> Option<Scale<'a>>,
) -> Vec<Key> {
    let object = change.object();
    let Some((size, labels)) = scale(object) else { return Vec::new() };
    let before = change.old().and_then(|old| scale(old)).map(|scale| scale.0);
    if matches!(change, Change::Modified { .. }) && before == Some(size) {
        return Vec::new();
    }
    budgets.of(object.namespace(), labels).iter().map(|budget| Key::of(&**budget)).collect()
}

fn labels_of(template: Option<&PodTemplateSpec>) -> Option<&BTreeMap<String, String>> {
    template?.metadata.as_ref()?.labels.as_ref()
}

fn deployment_scale(object: &Deployment) -> Option<Scale<'_>> {
    object.spec.as_ref().map(|spec| (spec.replicas, labels_of(Some(&spec.template))))
}

fn stateful_scale(object: &StatefulSet) -> Option<Scale<'_>> {
    object.spec.as_ref().map(|spec| (spec.replicas, labels_of(Some(&spec.template))))
}

fn set_scale(object: &ReplicaSet) -> Option<Scale<'_>> {
    object.spec.as_ref().map(|spec| (spec.replicas, labels_of(spec.template.as_ref())))
}

fn controller_scale(object: &ReplicationController) -> Option<Scale<'_>> {
    object.spec.as_ref().map(|spec| (spec.replicas, labels_of(spec.template.as_ref())))
}

impl Reconcile for Controller {
    fn reconcile(&self, key: &Key, now: Timestamp) -> Result<Plan, ReconcileError> {
        let Some(budget) = self.budgets.get_key(key) else { return Ok(Plan::none()) };
        let pods = selection::selected(&self.pods, &key.namespace, &selector_of(&budget));
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
    selection::index_labels(pods.cache());
    let guards = Selecting::new(budgets.cache(), selector_of);
    let own = guards.clone();
    setup.map(&pods, move |change| of_pod(change, &own));
    // A scaled controller changes how many pods are expected.
    let own = guards.clone();
    setup.map(&deployments, move |change| of_scale(change, &own, deployment_scale));
    let own = guards.clone();
    setup.map(&stateful, move |change| of_scale(change, &own, stateful_scale));
    let own = guards.clone();
    setup.map(&sets, move |change| of_scale(change, &own, set_scale));
    setup.map(&controllers, move |change| of_scale(change, &guards, controller_scale));
    let controller = Controller {
        budgets: budgets.cache().clone(),
        pods: pods.cache().clone(),
        sets: sets.cache().clone(),
        deployments: deployments.cache().clone(),
        stateful: stateful.cache().clone(),
        controllers: controllers.cache().clone(),
    };
    setup.start(Arc::new(controller), 2);
    start_stale(context);
}

/// Starts the part that withdraws disruptions which never came.
fn start_stale(context: &Context) {
    let mut setup = context.setup("disruption-controller", "controllermanager");
    let pods = setup.watch::<Pod>();
    setup.map(&pods, |change| match change {
        Change::Deleted(_) => Vec::new(),
        _ => stale::announced(change.object()).map(|_| Key::of(&**change.object())).into_iter().collect(),
    });
    setup.start(Arc::new(stale::Stale { pods: pods.cache().clone() }), 1);
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read<K: serde::de::DeserializeOwned>(object: Value) -> Arc<K> {
        Arc::new(serde_json::from_value(object).expect("an object"))
    }

    #[test]
    fn only_changes_that_count_are_looked_at() {
        let budget = |name: &str, app: &str| -> PodDisruptionBudget {
            let selector = json!({"matchLabels": {"app": app}});
            let object =
                json!({"metadata": {"name": name, "namespace": "n"}, "spec": {"selector": selector}});
            serde_json::from_value(object).expect("a budget")
        };
        let budgets = Cache::of([budget("x", "x"), budget("y", "y")]);
        let guards = Selecting::new(&budgets, selector_of);
        let pod = |app: &str, ready: &str, node: &str| -> Arc<Pod> {
            read(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"app": app}},
                "spec": {"nodeName": node, "containers": []},
                "status": {"conditions": [{"type": "Ready", "status": ready}]}}))
        };
        let check = |old: Arc<Pod>, new: Arc<Pod>, expect: &[&str]| {
            let found = of_pod(&Change::Modified { old, new }, &guards);
            assert_eq!(found.iter().map(|key| &*key.name).collect::<Vec<_>>(), expect);
        };
        check(pod("x", "True", "a"), pod("x", "True", "b"), &[]);
        check(pod("x", "True", "a"), pod("x", "False", "a"), &["x"]);
        check(pod("x", "True", "a"), pod("y", "True", "a"), &["x", "y"]);
        let set = |replicas: i32, status: i32| -> Arc<ReplicaSet> {
            read(json!({"metadata": {"name": "s", "namespace": "n"}, "status": {"replicas": status},
                "spec": {"replicas": replicas, "selector": {}, "template": {"metadata": {"labels": {"app": "x"}}}}}))
        };
        let scaled = |old, new| of_scale(&Change::Modified { old, new }, &guards, set_scale).len();
        assert_eq!((scaled(set(1, 0), set(1, 1)), scaled(set(1, 1), set(2, 1))), (0, 1));
    }
}
