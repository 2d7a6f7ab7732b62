//! The snapshot kept up to date from watches, with pods assumed bound before the server says so.

use std::collections::HashMap;
use std::sync::Arc;

use api::k8s::api::core::v1::Node;

use crate::plugins::spread::Owners;
use crate::pod::PodInfo;
use crate::snapshot::{Devices, Snapshot};
use crate::storage::Storage;

/// Where a pod is counted.
#[derive(Debug)]
struct Placed {
    node: String,
    pod: Arc<PodInfo>,
    assumed: bool,
}

/// Nodes and the pods on them, bound or assumed.
#[derive(Debug, Default)]
pub struct Cache {
    snapshot: Snapshot,
    placed: HashMap<String, Placed>,
}

impl Cache {
    /// An empty cache beside caches of storage, of owners of pods, and of devices.
    pub fn new(storage: Storage, owners: Owners, devices: Devices) -> Cache {
        let mut cache = Cache::default();
        let snapshot = &mut cache.snapshot;
        (snapshot.storage, snapshot.owners, snapshot.devices) = (storage, owners, devices);
        cache
    }

    /// Storage, to note what was given away.
    pub fn storage_mut(&mut self) -> &mut Storage {
        &mut self.snapshot.storage
    }

    /// Devices, to note what was given away.
    pub fn devices_mut(&mut self) -> &mut Devices {
        &mut self.snapshot.devices
    }

    /// Keeps room on a node for a pod.
    pub fn nominate(&mut self, node: &str, pod: Arc<PodInfo>) {
        self.snapshot.nominate(node, pod);
    }

    /// Keeps no more room for a pod.
    pub fn withdraw(&mut self, node: &str, uid: &str) {
        self.snapshot.withdraw(node, uid);
    }

    /// The state to decide on.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Namespaces' labels, for affinity.
    pub fn set_namespace(
        &mut self,
        name: &str,
        labels: Option<Arc<std::collections::BTreeMap<String, String>>>,
    ) {
        self.snapshot.set_namespace(name, labels);
    }

    /// A node came or changed.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let name = node.metadata.name.clone().unwrap_or_default();
        let new = self.snapshot.node(&name).is_none();
        self.snapshot.set_node(node);
        if new {
            // Pods seen before their node.
            for placed in self.placed.values().filter(|placed| placed.node == name) {
                self.snapshot.add_pod(&name, placed.pod.clone());
            }
        }
    }

    /// A node went. Its pods stay known until they go themselves.
    pub fn remove_node(&mut self, name: &str) {
        self.snapshot.remove_node(name);
    }

    /// A bound pod came or changed. Ended pods use nothing. True when it uses less than before.
    pub fn set_pod(&mut self, info: &Arc<PodInfo>) -> bool {
        let Some(node) = info.node_name().map(str::to_owned) else { return false };
        if info.is_terminal() {
            return self.remove_pod(&info.uid).is_some();
        }
        let before = self.placed.get(&info.uid).map(|placed| placed.pod.requests.clone());
        self.place(info.clone(), node, false);
        before.is_some_and(|before| before != info.requests)
    }

    /// Counts a pod on a node before the binding is written.
    pub fn assume(&mut self, pod: Arc<PodInfo>, node: &str) {
        if base::mutated("scheduler-forgets") {
            return;
        }
        self.place(pod, node.to_owned(), true);
    }

    /// Undoes `assume` after a failed binding; a pod meanwhile seen bound stays.
    pub fn forget(&mut self, uid: &str) {
        if self.placed.get(uid).is_some_and(|placed| placed.assumed) {
            self.remove_pod(uid);
        }
    }

    /// A pod went. The node it was counted on, if it was.
    pub fn remove_pod(&mut self, uid: &str) -> Option<String> {
        let placed = self.placed.remove(uid)?;
        self.snapshot.remove_pod(&placed.node, &placed.pod);
        Some(placed.node)
    }

    fn place(&mut self, pod: Arc<PodInfo>, node: String, assumed: bool) {
        let uid = pod.uid.clone();
        self.remove_pod(&uid);
        self.snapshot.add_pod(&node, pod.clone());
        self.placed.insert(uid, Placed { node, pod, assumed });
    }

    /// True when a pod is counted, bound or assumed.
    pub fn is_placed(&self, uid: &str) -> bool {
        self.placed.contains_key(uid)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(uid: &str, node: &str, phase: &str) -> Arc<PodInfo> {
        let pod = json!({"metadata": {"name": uid, "uid": uid}, "spec": {"nodeName": node, "containers": [
            {"name": "c", "resources": {"requests": {"cpu": "100m"}}}]}, "status": {"phase": phase}});
        Arc::new(PodInfo::new(Arc::new(serde_json::from_value(pod).expect("a pod"))))
    }

    #[test]
    fn counts_each_pod_once() {
        let mut cache = Cache::default();
        let used = |cache: &Cache| cache.snapshot().node("a").map(|info| info.requested.milli_cpu);
        cache.set_pod(&pod("early", "a", "Running"));
        cache.set_node(Arc::new(serde_json::from_value(json!({"metadata": {"name": "a"}})).expect("a node")));
        assert_eq!(used(&cache), Some(100));
        cache.assume(pod("x", "", "Pending"), "a");
        assert_eq!(used(&cache), Some(200));
        cache.set_pod(&pod("x", "a", "Running"));
        cache.forget("x");
        assert_eq!(used(&cache), Some(200), "seen bound: no longer assumed");
        cache.set_pod(&pod("x", "a", "Succeeded"));
        assert_eq!(used(&cache), Some(100));
        cache.assume(pod("y", "", "Pending"), "a");
        cache.forget("y");
        assert_eq!(used(&cache), Some(100));
        assert_eq!(cache.remove_pod("early").as_deref(), Some("a"));
        assert_eq!(cache.remove_pod("early"), None);
        assert_eq!(used(&cache), Some(0));
    }
}
