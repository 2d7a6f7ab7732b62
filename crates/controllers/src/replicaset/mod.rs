//! ReplicaSets and ReplicationControllers: as many pods as wanted. Watches the sets and pods.

mod plan;

use std::sync::Arc;

use api::k8s::api::apps::v1::ReplicaSet;
use api::k8s::api::core::v1::{Pod, ReplicationController};
use api::labels::Selector;
use client::{Cache, Key, Kind, Meta, Plan, Reconcile, ReconcileError};
use jiff::Timestamp;

use crate::context::{Context, index_orphans};
use crate::owner;
use plan::Set;

/// Workers of one of the two controllers.
const WORKERS: usize = 5;

/// A kind whose objects want a number of pods.
trait PodSet: Kind {
    /// The kind-independent view.
    fn view(&self) -> Option<Set<'_>>;
    /// The object with another status.
    fn with_status(&self, status: plan::Status) -> Self;
}

struct Controller<S> {
    sets: Cache<S>,
    pods: Cache<Pod>,
}

impl<S: PodSet> Reconcile for Controller<S> {
    fn reconcile(&self, key: &Key, now: Timestamp) -> Result<Plan, ReconcileError> {
        let Some(set) = self.sets.get_key(key) else { return Ok(Plan::none()) };
        let Some(view) = set.view() else { return Ok(Plan::none()) };
        let claimed = owner::claim(&*set, &view.selector, &self.pods, |pod| crate::pods::is_active(pod));
        let neighbours = || self.neighbours(&set, &view.selector);
        Ok(plan::plan(&*set, &view, claimed, neighbours, now))
    }
}

impl<S: PodSet> Controller<S> {
    /// Pods of the sets that share this set's controller, this set's included: they tell which node is crowded.
    fn neighbours(&self, set: &S, own: &Selector) -> Vec<Arc<Pod>> {
        let mut out = Vec::new();
        let siblings: Vec<Arc<S>> = match crate::context::controller_of(set) {
            Some(owner) => self.sets.owned_by(&owner.uid),
            None => Vec::new(),
        };
        for pod in self.pods.owned_by(set.uid()) {
            if own.matches_opt(pod.meta().labels.as_ref()) {
                out.push(pod);
            }
        }
        for sibling in siblings.iter().filter(|sibling| sibling.uid() != set.uid()) {
            out.extend(self.pods.owned_by(sibling.uid()));
        }
        out
    }
}

fn start<S: PodSet>(context: &Context, account: &'static str, component: &'static str) {
    let mut setup = context.setup(account, component);
    let sets = setup.watch::<S>();
    let pods = setup.watch::<Pod>();
    index_orphans(pods.cache());
    setup.enqueue(&sets);
    if !base::mutated("lose-changes-of-pods") {
        setup.map_claimed(&sets, &pods, |set: &S| set.view().map(|view| view.selector));
    }
    let controller = Controller { sets: sets.cache().clone(), pods: pods.cache().clone() };
    setup.start(Arc::new(controller), WORKERS);
}

/// Starts the controller of ReplicaSets.
pub fn start_replica_sets(context: &Context) {
    start::<ReplicaSet>(context, "replicaset-controller", "replicaset-controller");
}

/// Starts the controller of ReplicationControllers.
pub fn start_replication_controllers(context: &Context) {
    start::<ReplicationController>(context, "replication-controller", "replication-controller");
}

#[cfg(test)]
mod tests;
