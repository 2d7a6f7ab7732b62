//! The nodes and the pods on them, as one scheduling cycle sees them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use api::k8s::api::core::v1::{Node, Taint};
use api::k8s::api::resource::v1::{AllocationResult, DeviceClass, ResourceClaim, ResourceSlice};
use client::Cache;

use crate::plugins::spread::Owners;
use crate::pod::{PodInfo, Resources};
use crate::storage::Storage;

/// Moves of pods remembered; who is further behind counts anew.
const LOG: usize = 4_096;

/// A node and what its pods use.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    /// Where it is in `Snapshot::nodes`.
    pub position: usize,
    /// Unique to this state of the node and its pods.
    pub generation: u64,
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
    pub images: Arc<HashMap<String, i64>>,
}

impl NodeInfo {
    /// A node without pods.
    pub fn new(node: Arc<Node>) -> NodeInfo {
        let mut info = NodeInfo {
            position: 0,
            generation: 0,
            name: node.metadata.name.clone().unwrap_or_default(),
            node: node.clone(),
            allocatable: Resources::default(),
            max_pods: 0,
            requested: Resources::default(),
            nonzero: (0, 0),
            pods: Vec::new(),
            with_anti_affinity: 0,
            with_affinity: 0,
            images: Arc::default(),
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
        let mut images = HashMap::new();
        for image in status.and_then(|status| status.images.as_ref()).into_iter().flatten() {
            for name in image.names.iter().flatten() {
                images.insert(name.clone(), image.size_bytes.unwrap_or(0));
            }
        }
        if *self.images != images {
            self.images = Arc::new(images);
        }
        self.node = node;
    }

    /// Adds a pod.
    pub fn add_pod(&mut self, pod: Arc<PodInfo>) {
        self.count(&pod, 1);
        self.pods.push(pod);
    }

    /// Removes a pod; false when it was not here.
    pub fn remove_pod(&mut self, pod: &Arc<PodInfo>) -> bool {
        let Some(index) = self.pods.iter().rposition(|known| Arc::ptr_eq(known, pod)) else { return false };
        self.pods.swap_remove(index);
        self.count(pod, -1);
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
        taints(&self.node)
    }

    /// True when cordoned.
    pub fn is_unschedulable(&self) -> bool {
        self.node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false)
    }
}

/// What is known of devices. Clones share the caches.
#[derive(Clone, Default)]
pub struct Devices {
    /// Claims of devices.
    pub claims: Cache<ResourceClaim>,
    /// Devices that drivers offer.
    pub slices: Cache<ResourceSlice>,
    /// Classes of devices.
    pub classes: Cache<DeviceClass>,
    /// Allocations that are being written, by `namespace/claim`.
    pub pending: BTreeMap<String, AllocationResult>,
}

impl std::fmt::Debug for Devices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Devices").field("pending", &self.pending.keys()).finish_non_exhaustive()
    }
}

/// A pod that came to a node or left it.
#[derive(Clone, Debug)]
pub struct Moved {
    /// The pod.
    pub pod: Arc<PodInfo>,
    /// The position of the node.
    pub node: usize,
    /// 1 when it came, -1 when it left.
    pub sign: i64,
}

/// All nodes at one moment. Cloning shares the nodes; changing one copies that one.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    nodes: Vec<Arc<NodeInfo>>,
    index: HashMap<String, usize>,
    /// Labels of namespaces, for affinity's `namespaceSelector`.
    namespaces: HashMap<String, Arc<BTreeMap<String, String>>>,
    /// Claims, volumes and classes.
    pub storage: Storage,
    /// What says which pods are alike.
    pub owners: Owners,
    /// Claims of devices.
    pub devices: Devices,
    /// Nodes with a pod that has required anti-affinity.
    anti_affinity_nodes: usize,
    /// Nodes with a pod that has another affinity term.
    affinity_nodes: usize,
    /// Changes of nodes so far.
    generation: u64,
    /// Changes so far of which nodes there are, of their labels and taints, and of namespaces' labels.
    epoch: u64,
    /// The last moves of pods.
    log: VecDeque<Moved>,
    /// Moves so far.
    moves: u64,
    /// Pods that room has been made for, by node.
    nominated: BTreeMap<String, Vec<Arc<PodInfo>>>,
    /// How many nodes have an image.
    images: HashMap<String, usize>,
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

    /// True when any pod has required anti-affinity.
    pub fn has_anti_affinity(&self) -> bool {
        self.anti_affinity_nodes > 0
    }

    /// True when any pod has an affinity term of whatever kind.
    pub fn has_affinity(&self) -> bool {
        self.anti_affinity_nodes > 0 || self.affinity_nodes > 0
    }

    /// Bumped when anything changes by which pods are counted, except the pods themselves.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// How many moves of pods there have been.
    pub fn moves(&self) -> u64 {
        self.moves
    }

    /// The moves after the first `seen`; `None` when they are no longer all known.
    pub fn moves_since(&self, seen: u64) -> Option<impl Iterator<Item = &Moved>> {
        let new = usize::try_from(self.moves.checked_sub(seen)?).ok()?;
        let skip = self.log.len().checked_sub(new)?;
        Some(self.log.iter().skip(skip))
    }

    /// How many nodes have an image.
    pub fn holders(&self, image: &str) -> usize {
        self.images.get(image).copied().unwrap_or(0)
    }

    /// True when nodes tell of images.
    pub fn knows_images(&self) -> bool {
        !self.images.is_empty()
    }

    /// A namespace's labels.
    pub fn namespace(&self, name: &str) -> Option<&BTreeMap<String, String>> {
        self.namespaces.get(name).map(std::convert::AsRef::as_ref)
    }

    /// Takes a namespace's labels; `None` when it went.
    pub fn set_namespace(&mut self, name: &str, labels: Option<Arc<BTreeMap<String, String>>>) {
        let same = self.namespaces.get(name) == labels.as_ref();
        match labels {
            Some(labels) => self.namespaces.insert(name.to_owned(), labels),
            None => self.namespaces.remove(name),
        };
        self.epoch += u64::from(!same);
    }

    /// Adds a node or takes its newer version, keeping its pods.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let name = node.metadata.name.clone().unwrap_or_default();
        self.generation += 1;
        if let Some(index) = self.index.get(&name) {
            let info = Arc::make_mut(&mut self.nodes[*index]);
            let same = info.node.metadata.labels == node.metadata.labels && info.taints() == taints(&node);
            self.epoch += u64::from(!same);
            let before = info.images.clone();
            info.set_node(node);
            info.generation = self.generation;
            if !Arc::ptr_eq(&before, &info.images) {
                count_images(&mut self.images, &before, false);
                count_images(&mut self.images, &info.images, true);
            }
            return;
        }
        let (position, generation) = (self.nodes.len(), self.generation);
        let info = NodeInfo { position, generation, ..NodeInfo::new(node) };
        count_images(&mut self.images, &info.images, true);
        self.index.insert(name, position);
        self.nodes.push(Arc::new(info));
        self.epoch += 1;
    }

    /// Removes a node with its pods, which are returned.
    pub fn remove_node(&mut self, name: &str) -> Vec<Arc<PodInfo>> {
        let Some(index) = self.index.remove(name) else { return Vec::new() };
        let info = self.nodes.swap_remove(index);
        if let Some(moved) = self.nodes.get_mut(index) {
            self.index.insert(moved.name.clone(), index);
            Arc::make_mut(moved).position = index;
        }
        self.anti_affinity_nodes -= usize::from(info.with_anti_affinity > 0);
        self.affinity_nodes -= usize::from(info.with_affinity > 0);
        count_images(&mut self.images, &info.images, false);
        self.epoch += 1;
        info.pods.clone()
    }

    /// Counts a pod on a node. False when the node is not known.
    pub fn add_pod(&mut self, name: &str, pod: Arc<PodInfo>) -> bool {
        self.change_pods(name, 1, &pod, |info| {
            info.add_pod(pod.clone());
            true
        })
    }

    /// Takes a pod from a node. False when it was not there.
    pub fn remove_pod(&mut self, name: &str, pod: &Arc<PodInfo>) -> bool {
        self.change_pods(name, -1, pod, |info| info.remove_pod(pod))
    }

    fn change_pods(
        &mut self,
        name: &str,
        sign: i64,
        pod: &Arc<PodInfo>,
        change: impl FnOnce(&mut NodeInfo) -> bool,
    ) -> bool {
        let Some(index) = self.index.get(name) else { return false };
        let info = Arc::make_mut(&mut self.nodes[*index]);
        let (anti, any) = (info.with_anti_affinity > 0, info.with_affinity > 0);
        if !change(info) {
            return false;
        }
        let step = |count: usize, before: bool, after: bool| count + usize::from(after) - usize::from(before);
        self.anti_affinity_nodes = step(self.anti_affinity_nodes, anti, info.with_anti_affinity > 0);
        self.affinity_nodes = step(self.affinity_nodes, any, info.with_affinity > 0);
        self.generation += 1;
        info.generation = self.generation;
        if self.log.len() >= LOG {
            self.log.pop_front();
        }
        self.log.push_back(Moved { pod: pod.clone(), node: *index, sign });
        self.moves += 1;
        true
    }

    /// Notes that room on a node is kept for a pod.
    pub fn nominate(&mut self, node: &str, pod: Arc<PodInfo>) {
        let pods = self.nominated.entry(node.to_owned()).or_default();
        pods.retain(|known| known.uid != pod.uid);
        pods.push(pod);
        self.touch(node);
    }

    /// Room on a node is no longer kept for a pod.
    pub fn withdraw(&mut self, node: &str, uid: &str) {
        if let Some(pods) = self.nominated.get_mut(node) {
            pods.retain(|known| known.uid != uid);
            if pods.is_empty() {
                self.nominated.remove(node);
            }
            self.touch(node);
        }
    }

    fn touch(&mut self, node: &str) {
        self.generation += 1;
        if let Some(index) = self.index.get(node) {
            Arc::make_mut(&mut self.nodes[*index]).generation = self.generation;
        }
    }

    /// The position of the node on which room is kept for this pod.
    pub fn nominated_node(&self, uid: &str) -> Option<usize> {
        let of = |(node, pods): (&String, &Vec<Arc<PodInfo>>)| {
            pods.iter().any(|pod| pod.uid == uid).then(|| self.index.get(node).copied())
        };
        self.nominated.iter().find_map(of).flatten()
    }

    /// True when room on the node is kept for this pod.
    pub fn nominates(&self, node: &str, uid: &str) -> bool {
        !self.nominated.is_empty()
            && self.nominated.get(node).is_some_and(|pods| pods.iter().any(|pod| pod.uid == uid))
    }

    /// The pods other than `pod`, at least as important, that room on a node is kept for.
    pub fn nominated<'a>(
        &'a self,
        node: &str,
        pod: &'a PodInfo,
    ) -> impl Iterator<Item = &'a Arc<PodInfo>> + use<'a> {
        let pods = if self.nominated.is_empty() { None } else { self.nominated.get(node) };
        let counts = |other: &&Arc<PodInfo>| other.uid != pod.uid && other.priority >= pod.priority;
        pods.into_iter().flatten().filter(counts)
    }
}

fn taints(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
}

fn count_images(counts: &mut HashMap<String, usize>, images: &HashMap<String, i64>, add: bool) {
    for name in images.keys() {
        let count = counts.entry(name.clone()).or_default();
        *count = if add { *count + 1 } else { count.saturating_sub(1) };
        if *count == 0 {
            counts.remove(name);
        }
    }
}
