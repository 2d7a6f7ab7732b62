//! Nodes: silent ones become unknown, conditions become taints, NoExecute taints evict, pod ranges are given
//! out. Watches nodes, node leases and pods.

mod evict;
mod health;
mod ipam;
mod ttl;
mod zone;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::k8s::api::coordination::v1::Lease;
use api::k8s::api::core::v1::{Node, Pod};
use base::Clock;
use client::{Cache, Change, Key, Meta, Plan, Reconcile, ReconcileError, Scope};
use ipnet::IpNet;
use jiff::Timestamp;
use parking_lot::Mutex;

use crate::context::Context;
use crate::pods;
pub use evict::tolerates;
pub use health::{NOT_READY, UNREACHABLE};

/// The index of pods by their node's name.
pub const BY_NODE: &str = "node";
/// The namespace of node leases.
const LEASES: &str = "kube-node-lease";

/// True when the node's Ready condition holds.
pub fn is_ready(node: &Node) -> bool {
    health::ready_state(node) == "True"
}

/// Adds the index of pods by node.
pub fn index_by_node(cache: &Cache<Pod>) {
    let node = |pod: &Pod| match pods::node(pod) {
        "" => Vec::new(),
        name => vec![name.to_owned()],
    };
    cache.add_index(BY_NODE, Arc::new(node));
}

struct Health {
    nodes: Cache<Node>,
    pods: Cache<Pod>,
    /// When each node was last heard of, by our own clock.
    heard: Arc<Mutex<BTreeMap<String, Duration>>>,
    clock: Clock,
    grace: Duration,
    /// How fast nodes may be emptied.
    pacer: Mutex<zone::Pacer>,
    /// Nodes whose coming was told.
    told: Mutex<BTreeSet<String>>,
}

impl Reconcile for Health {
    fn reconcile(&self, key: &Key, now: Timestamp) -> Result<Plan, ReconcileError> {
        let Some(node) = self.nodes.get_key(key) else {
            self.heard.lock().remove(&*key.name);
            let known = self.told.lock().remove(&*key.name);
            return Ok(if known { health::removed(&key.name) } else { Plan::none() });
        };
        let at = self.clock.monotonic();
        let heard = *self.heard.lock().entry(key.name.to_string()).or_insert(at);
        let silence = at.saturating_sub(heard);
        let pods = || self.pods.by_index(BY_NODE, &key.name);
        let evict = |begun: bool| {
            let nodes = self.nodes.list();
            if begun { zone::Pacer::keep(&nodes) } else { self.pacer.lock().ask(&node, &nodes, at) }
        };
        let mut plan = health::plan(&node, silence, self.grace, evict, pods, now);
        if self.told.lock().insert(key.name.to_string()) {
            health::registered(&node, &mut plan);
        }
        Ok(plan)
    }
}

/// Starts the controller of node health.
pub fn start_health(context: &Context) {
    let mut setup = context.setup("node-controller", "node-controller");
    let nodes = setup.watch::<Node>();
    let pods = setup.watch::<Pod>();
    let scope = Scope { namespace: LEASES.to_owned(), ..Scope::default() };
    let leases = context.informers.scoped::<Lease>(scope);
    index_by_node(pods.cache());
    let heard: Arc<Mutex<BTreeMap<String, Duration>>> = Arc::default();
    let (hear, clock) = (heard.clone(), context.clock.clone());
    leases.on_change(move |change| {
        if !matches!(change, Change::Deleted(_)) {
            hear.lock().insert(change.object().name().to_owned(), clock.monotonic());
        }
    });
    let (hear, clock) = (heard.clone(), context.clock.clone());
    nodes.on_change(move |change| {
        let fresh =
            change.old().is_none_or(|old| health::heartbeat(old) != health::heartbeat(change.object()));
        if fresh && !matches!(change, Change::Deleted(_)) {
            hear.lock().insert(change.object().name().to_owned(), clock.monotonic());
        }
    });
    setup.enqueue(&nodes);
    // When the last healthy node goes or the first comes back, the others' taints change too.
    let (all, queue) = (nodes.cache().clone(), setup.queue.clone());
    nodes.on_change(move |change| {
        let ready = |node: &Node| health::ready_state(node) == "True";
        let before = change.old().is_some_and(|old| ready(old));
        let after = !matches!(change, Change::Deleted(_)) && ready(change.object());
        if before != after {
            all.list().iter().for_each(|node| queue.add(Key::of(&**node)));
        }
    });
    let controller = Health {
        nodes: nodes.cache().clone(),
        pods: pods.cache().clone(),
        heard,
        clock: context.clock.clone(),
        grace: context.config.node_grace,
        pacer: Mutex::default(),
        told: Mutex::default(),
    };
    setup.start(Arc::new(controller), 4);
}

struct Evict {
    nodes: Cache<Node>,
    pods: Cache<Pod>,
    /// When a taint without a time of its own was first seen on a pod's node.
    since: Mutex<BTreeMap<Key, Timestamp>>,
}

impl Reconcile for Evict {
    fn reconcile(&self, key: &Key, now: Timestamp) -> Result<Plan, ReconcileError> {
        let pod = self.pods.get_key(key).filter(|pod| !pod.is_deleting() && !pods::is_finished(pod));
        let node = pod.as_ref().and_then(|pod| self.nodes.get("", pods::node(pod)));
        let (Some(pod), Some(node)) = (pod, node) else {
            self.since.lock().remove(key);
            return Ok(Plan::none());
        };
        let taints = evict::taints(&node);
        if taints.is_empty() {
            let cancelled = self.since.lock().remove(key).is_some();
            return Ok(if cancelled { evict::cancelled(&pod) } else { Plan::none() });
        }
        let since = *self.since.lock().entry(key.clone()).or_insert(now);
        Ok(evict::plan(&pod, &taints, since, now))
    }
}

/// Starts the controller that evicts pods from tainted nodes.
pub fn start_eviction(context: &Context) {
    let mut setup = context.setup("node-controller", "taint-eviction-controller");
    let nodes = setup.read::<Node>();
    let pods = setup.watch::<Pod>();
    index_by_node(pods.cache());
    let on_node = pods.cache().clone();
    setup.map(&nodes, move |change| {
        let node = change.object();
        let old = change.old().map(|old| evict::taints(old)).unwrap_or_default();
        if old == evict::taints(node) && (old.is_empty() || change.old().is_some()) {
            return Vec::new();
        }
        on_node.by_index(BY_NODE, node.name()).iter().map(|pod| Key::of(&**pod)).collect()
    });
    let all = nodes.cache().clone();
    setup.map(&pods, move |change| {
        let pod = change.object();
        let tainted = all.get("", pods::node(pod)).is_some_and(|node| !evict::taints(&node).is_empty());
        if tainted { vec![Key::of(&**pod)] } else { Vec::new() }
    });
    let controller =
        Evict { nodes: nodes.cache().clone(), pods: pods.cache().clone(), since: Mutex::default() };
    setup.start(Arc::new(controller), 4);
}

struct Ipam {
    nodes: Cache<Node>,
    ranges: Vec<IpNet>,
    masks: (u8, u8),
    /// Ranges given out that the cache may not show yet.
    given: Mutex<BTreeMap<String, Vec<IpNet>>>,
}

impl Reconcile for Ipam {
    fn reconcile(&self, key: &Key, _: Timestamp) -> Result<Plan, ReconcileError> {
        let mut given = self.given.lock();
        let Some(node) = self.nodes.get_key(key) else {
            given.remove(&*key.name);
            return Ok(Plan::none());
        };
        if !ipam::ranges(&node).is_empty() {
            given.remove(&*key.name);
            return Ok(Plan::none());
        }
        let mut used: Vec<IpNet> = self.nodes.list().iter().flat_map(|node| ipam::ranges(node)).collect();
        used.extend(given.iter().filter(|(name, _)| **name != *key.name).flat_map(|(_, list)| list));
        match ipam::choose(&self.ranges, self.masks, &used) {
            None => Ok(ipam::exhausted(&node)),
            Some(chosen) => {
                given.insert(key.name.to_string(), chosen.clone());
                Ok(ipam::assign(&node, &chosen))
            }
        }
    }
}

/// Starts the controller that gives nodes their pod ranges, if there are ranges to give.
pub fn start_ipam(context: &Context) {
    let ranges: Vec<IpNet> =
        context.config.cluster_cidrs.iter().filter_map(|text| text.parse().ok()).collect();
    if ranges.is_empty() {
        return;
    }
    let mut setup = context.setup("node-controller", "node-ipam-controller");
    let nodes = setup.watch::<Node>();
    setup.enqueue(&nodes);
    let masks = context.config.node_cidr_mask;
    let controller = Ipam { nodes: nodes.cache().clone(), ranges, masks, given: Mutex::default() };
    // One worker: a choice must see the one before it.
    setup.start(Arc::new(controller), 1);
}

struct Ttl {
    nodes: Cache<Node>,
}

impl Reconcile for Ttl {
    fn reconcile(&self, key: &Key, _: Timestamp) -> Result<Plan, ReconcileError> {
        Ok(self.nodes.get_key(key).map(|node| ttl::plan(&node, self.nodes.len())).unwrap_or_default())
    }
}

/// Starts the controller that tells agents how long to keep Secrets and ConfigMaps.
pub fn start_ttl(context: &Context) {
    let mut setup = context.setup("ttl-controller", "ttl-controller");
    let nodes = setup.watch::<Node>();
    setup.enqueue(&nodes);
    setup.start(Arc::new(Ttl { nodes: nodes.cache().clone() }), 2);
}
