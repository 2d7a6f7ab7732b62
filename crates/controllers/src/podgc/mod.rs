//! Pods that nobody else removes: those of nodes that are gone, those deleted before they got a node, and the
//! oldest finished ones when there are too many. Watches pods and nodes.

mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;

use api::k8s::api::core::v1::{Node, Pod};
use client::{Cache, Change, Key, Meta, Plan, Reconcile, ReconcileError};
use jiff::Timestamp;
use parking_lot::Mutex;

use crate::context::Context;
use crate::node::{BY_NODE, index_by_node};
use crate::pods;

struct Controller {
    pods: Cache<Pod>,
    nodes: Cache<Node>,
    missing: Mutex<BTreeMap<String, Timestamp>>,
    keep_finished: usize,
}

/// The key under which finished pods are counted.
fn counting() -> Key {
    Key::new("", "")
}

impl Reconcile for Controller {
    fn reconcile(&self, key: &Key, now: Timestamp) -> Result<Plan, ReconcileError> {
        if *key == counting() {
            return Ok(plan::too_many(&self.pods.list(), self.keep_finished));
        }
        let Some(pod) = self.pods.get_key(key) else { return Ok(Plan::none()) };
        let node = pods::node(&pod);
        if node.is_empty() {
            return Ok(plan::unscheduled(&pod, now));
        }
        let mut missing = self.missing.lock();
        if let Some(node) = self.nodes.get("", node) {
            missing.remove(pods::node(&pod));
            return Ok(plan::out_of_service(&pod, &node, now));
        }
        let since = *missing.entry(node.to_owned()).or_insert(now);
        Ok(plan::orphan(&pod, since, now))
    }
}

/// Starts the controller.
pub fn start(context: &Context) {
    let mut setup = context.setup("pod-garbage-collector", "pod-garbage-collector");
    let pods = setup.watch::<Pod>();
    let nodes = setup.read::<Node>();
    index_by_node(pods.cache());
    let known = nodes.cache().clone();
    setup.map(&pods, move |change| {
        let pod = change.object();
        let mut keys = Vec::new();
        let node = pods::node(pod);
        if (node.is_empty() && pod.is_deleting()) || (!node.is_empty() && known.get("", node).is_none()) {
            keys.push(Key::of(&**pod));
        }
        if pods::is_finished(pod) && change.old().is_none_or(|old| !pods::is_finished(old)) {
            keys.push(counting());
        }
        keys
    });
    let on_node = pods.cache().clone();
    setup.map(&nodes, move |change| {
        let node = change.object();
        if !matches!(change, Change::Deleted(_)) && !plan::is_out_of_service(node) {
            return Vec::new();
        }
        on_node.by_index(BY_NODE, node.name()).iter().map(|pod| Key::of(&**pod)).collect()
    });
    let controller = Controller {
        pods: pods.cache().clone(),
        nodes: nodes.cache().clone(),
        missing: Mutex::default(),
        keep_finished: context.config.terminated_pods,
    };
    setup.start(Arc::new(controller), 2);
}
