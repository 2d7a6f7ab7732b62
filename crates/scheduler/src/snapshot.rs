//! The nodes and the pods on them, as one scheduling cycle sees them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use api::k8s::api::core::v1::{Node, Taint};
use api::k8s::api::resource::v1::ResourceClaim;
use client::Cache;

use crate::plugins::spread::Owners;
use crate::pod::{PodInfo, Resources};
use crate::storage::Storage;

/// A node and what its pods use.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    /// The object.
    pub node: Arc<Node>,
    /// Its name.
    pub name: String,
    /// What pods may use.
    pub allocatable: Resources,
    /// How many pods it may run.
    pub max_pods: i64,
    /// What its pods request.
    pub requested: Resources,
    /// What they use as spreading counts it (CPU thousandths, memory bytes).
    pub nonzero: (i64, i64),
    /// The pods bound or assumed here.
    pub pods: Vec<Arc<PodInfo>>,
    /// How many of them have required anti-affinity.
    pub with_anti_affinity: usize,
    /// How many of them have any affinity term.
    pub with_affinity: usize,
    /// Images present: name and size in bytes.
    pub images: HashMap<String, i64>,
}

impl NodeInfo {
    /// A node without pods.
    pub fn new(node: Arc<Node>) -> NodeInfo {
        let mut info = NodeInfo {
            name: node.metadata.name.clone().unwrap_or_default(),
            node: node.clone(),
            allocatable: Resources::default(),
            max_pods: 0,
            requested: Resources::default(),
            nonzero: (0, 0),
            pods: Vec::new(),
            with_anti_affinity: 0,
            with_affinity: 0,
            images: HashMap::new(),
        };
        info.set_node(node);
        info
    }

    /// Takes a newer version of the node.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let status = node.status.as_ref();
        let list = status.and_then(|status| status.allocatable.as_ref());
        self.allocatable = Resources::from_list(list);
        self.max_pods = list.and_then(|list| list.get("pods")).map_or(0, |n| api::quantity::of(n).value());
        self.images.clear();
        for image in status.and_then(|status| status.images.as_ref()).into_iter().flatten() {
            for name in image.names.iter().flatten() {
                self.images.insert(name.clone(), image.size_bytes.unwrap_or(0));
            }
        }
        self.node = node;
    }

    /// Adds a pod.
    pub fn add_pod(&mut self, pod: Arc<PodInfo>) {
        self.count(&pod, 1);
        self.pods.push(pod);
    }

    /// Removes a pod; false when it was not here.
    pub fn remove_pod(&mut self, uid: &str) -> bool {
        let Some(index) = self.pods.iter().position(|pod| pod.uid == uid) else { return false };
        let pod = self.pods.swap_remove(index);
        self.count(&pod, -1);
        true
    }

    fn count(&mut self, pod: &PodInfo, sign: i64) {
        self.requested.add(&pod.requests, sign);
        self.nonzero.0 += sign * pod.nonzero.0;
        self.nonzero.1 += sign * pod.nonzero.1;
        let step = |count: &mut usize, has: bool| {
            if has {
                *count = if sign > 0 { *count + 1 } else { count.saturating_sub(1) };
            }
        };
        step(&mut self.with_anti_affinity, !pod.anti_affinity.is_empty());
        step(&mut self.with_affinity, !pod.affinity.is_empty() || !pod.preferred.is_empty());
    }

    /// A label of the node.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.node.metadata.labels.as_ref()?.get(key).map(String::as_str)
    }

    /// The node's taints.
    pub fn taints(&self) -> &[Taint] {
        self.node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
    }

    /// True when cordoned.
    pub fn is_unschedulable(&self) -> bool {
        self.node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false)
    }
}

/// The cache of claims of devices.
#[derive(Clone, Default)]
pub struct Devices(pub Cache<ResourceClaim>);

impl std::fmt::Debug for Devices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Devices")
    }
}

impl std::ops::Deref for Devices {
    type Target = Cache<ResourceClaim>;

    fn deref(&self) -> &Cache<ResourceClaim> {
        &self.0
    }
}

/// All nodes at one moment. Cloning shares the nodes; changing one copies that one.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    nodes: Vec<Arc<NodeInfo>>,
    index: HashMap<String, usize>,
    /// Labels of namespaces, for affinity's `namespaceSelector`.
    pub namespaces: HashMap<String, Arc<BTreeMap<String, String>>>,
    /// Claims, volumes and classes.
    pub storage: Storage,
    /// What says which pods are alike.
    pub owners: Owners,
    /// Claims of devices.
    pub devices: Devices,
    /// Nodes with a pod that has required anti-affinity.
    anti_affinity_nodes: usize,
}

impl Snapshot {
    /// The nodes, in the order they came.
    pub fn nodes(&self) -> &[Arc<NodeInfo>] {
        &self.nodes
    }

    /// A node by name.
    pub fn node(&self, name: &str) -> Option<&Arc<NodeInfo>> {
        self.index.get(name).map(|index| &self.nodes[*index])
    }

    /// The position of a node in `nodes`.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }

    /// True when any pod has required anti-affinity.
    pub fn has_anti_affinity(&self) -> bool {
        self.anti_affinity_nodes > 0
    }

    /// Adds a node or takes its newer version, keeping its pods.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let name = node.metadata.name.clone().unwrap_or_default();
        match self.index.get(&name) {
            Some(index) => Arc::make_mut(&mut self.nodes[*index]).set_node(node),
            None => {
                self.index.insert(name, self.nodes.len());
                self.nodes.push(Arc::new(NodeInfo::new(node)));
            }
        }
    }

    /// Removes a node with its pods, which are returned.
    pub fn remove_node(&mut self, name: &str) -> Vec<Arc<PodInfo>> {
        let Some(index) = self.index.remove(name) else { return Vec::new() };
        let info = self.nodes.swap_remove(index);
        if let Some(moved) = self.nodes.get(index) {
            self.index.insert(moved.name.clone(), index);
        }
        self.anti_affinity_nodes -= usize::from(info.with_anti_affinity > 0);
        info.pods.clone()
    }

    /// Changes a node's pods. False when the node is not known.
    pub fn change_node(&mut self, name: &str, change: impl FnOnce(&mut NodeInfo)) -> bool {
        let Some(index) = self.index.get(name) else { return false };
        let info = Arc::make_mut(&mut self.nodes[*index]);
        let before = info.with_anti_affinity > 0;
        change(info);
        let after = info.with_anti_affinity > 0;
        self.anti_affinity_nodes = self.anti_affinity_nodes + usize::from(after) - usize::from(before);
        true
    }
}
