//! DaemonSets: one pod on every fitting node. Watches the sets, pods, nodes and revisions.

mod fit;
mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::k8s::api::apps::v1::{ControllerRevision, DaemonSet};
use api::k8s::api::core::v1::{Node, Pod};
use api::labels::Selector;
use base::{Backoff, Clock};
use client::{Cache, Key, Meta, Plan, Reconcile, ReconcileError};
use jiff::Timestamp;
use parking_lot::Mutex;

use crate::context::{Context, index_orphans};
use crate::owner;

/// A pod that fails again and again is replaced ever more slowly, as upstream.
const FAILED: Backoff = Backoff::doubling(Duration::from_secs(1), Duration::from_secs(900));

struct Controller {
    sets: Cache<DaemonSet>,
    pods: Cache<Pod>,
    nodes: Cache<Node>,
    revisions: Cache<ControllerRevision>,
    clock: Clock,
    failures: Mutex<BTreeMap<(Key, String), (Backoff, Duration)>>,
}

impl Controller {
    /// How long to wait before a failed pod on this node may be replaced; zero counts a failure.
    fn hold_back(&self, key: &Key, node: &str) -> Duration {
        let now = self.clock.monotonic();
        let mut failures = self.failures.lock();
        let (backoff, due) =
            failures.entry((key.clone(), node.to_owned())).or_insert_with(|| (FAILED, Duration::ZERO));
        // Long without a failure: begin again.
        if now.saturating_sub(*due) > backoff.peek() * 2 && *due != Duration::ZERO {
            backoff.reset();
        }
        if *due > now {
            return *due - now;
        }
        *due = now + backoff.next_plain();
        Duration::ZERO
    }
}

impl Reconcile for Controller {
    fn reconcile(&self, key: &Key, now: Timestamp) -> Result<Plan, ReconcileError> {
        let Some(set) = self.sets.get_key(key) else {
            self.failures.lock().retain(|(known, _), _| known != key);
            return Ok(Plan::none());
        };
        let Some(spec) = &set.spec else { return Ok(Plan::none()) };
        let selector = Selector::from_object(Some(&spec.selector))
            .map_err(|error| ReconcileError::Object(error.to_string()))?;
        if selector.is_everything() {
            return Ok(plan::selecting_all(&set));
        }
        let claimed = owner::claim(&*set, &selector, &self.pods, |_| true);
        let view = plan::View {
            set: &set,
            spec,
            now,
            nodes: self.nodes.list(),
            revisions: self.revisions.owned_by(set.uid()),
            taken: &|name| self.revisions.get(set.namespace(), name).is_some(),
            hold_back: &|node| self.hold_back(key, node),
        };
        Ok(plan::plan(&view, claimed))
    }
}

/// Starts the controller.
pub fn start(context: &Context) {
    let mut setup = context.setup("daemon-set-controller", "daemonset-controller");
    let sets = setup.watch::<DaemonSet>();
    let pods = setup.watch::<Pod>();
    let nodes = setup.read::<Node>();
    let revisions = setup.watch::<ControllerRevision>();
    index_orphans(pods.cache());
    setup.enqueue(&sets);
    setup.map_claimed(&sets, &pods, |owner: &DaemonSet| {
        owner.spec.as_ref().and_then(|spec| Selector::from_object(Some(&spec.selector)).ok())
    });
    setup.map_owner::<DaemonSet, ControllerRevision>(&revisions, |_| Vec::new());
    let all = sets.cache().clone();
    setup.map(&nodes, move |change| {
        // Heartbeats change nothing here: only what decides about fitting does.
        let facts = |node: &Node| {
            let spec = node.spec.as_ref();
            (node.meta().labels.clone(), spec.map(|spec| (spec.taints.clone(), spec.unschedulable)))
        };
        let node = change.object();
        if !matches!(change, client::Change::Deleted(_))
            && change.old().is_some_and(|old| facts(old) == facts(node))
        {
            return Vec::new();
        }
        all.list().iter().map(|set| Key::of(&**set)).collect()
    });
    let controller = Controller {
        sets: sets.cache().clone(),
        pods: pods.cache().clone(),
        nodes: nodes.cache().clone(),
        revisions: revisions.cache().clone(),
        clock: context.clock.clone(),
        failures: Mutex::default(),
    };
    setup.start(Arc::new(controller), 2);
}

#[cfg(test)]
mod tests;
