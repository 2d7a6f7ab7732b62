//! The plugins, one row each, under upstream's names and with its semantics and messages
//! (`pkg/scheduler/framework/plugins`).
//!
//! A plugin never awaits and never writes: it looks at one pod and one snapshot.

pub mod affinity;
pub mod devices;
pub mod node;
pub mod resources;
pub mod spread;
pub mod volumes;

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::pod::{PodInfo, Spread};
use crate::profile::Settings;
use crate::queue::Change;
use crate::snapshot::{NodeInfo, Snapshot};

/// The best score a plugin gives a node.
pub const MAX_SCORE: i64 = 100;

/// Why a pod cannot run on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The plugin that refused.
    pub plugin: &'static str,
    /// For people, as upstream says it; one entry a reason.
    pub reasons: Vec<String>,
    /// False when removing other pods could change the answer.
    pub unresolvable: bool,
}

impl Refusal {
    /// One reason that preemption may resolve.
    pub fn new(plugin: &'static str, reason: &str) -> Refusal {
        Refusal { plugin, reasons: vec![reason.to_owned()], unresolvable: false }
    }

    /// One reason that preemption cannot resolve.
    pub fn unresolvable(plugin: &'static str, reason: &str) -> Refusal {
        Refusal { plugin, reasons: vec![reason.to_owned()], unresolvable: true }
    }
}

/// What plugins compute once for a pod, before looking at nodes.
pub struct Cycle<'a> {
    /// The pod.
    pub pod: &'a PodInfo,
    /// All nodes.
    pub snapshot: &'a Snapshot,
    /// The plugins' settings.
    pub settings: &'a Settings,
    /// The pod's spread constraints, or the profile's.
    pub constraints: Cow<'a, [Spread]>,
    /// Counts for hard spread constraints.
    pub spread: spread::FilterState,
    /// Counts for required inter-pod affinity.
    pub affinity: affinity::FilterState<'a>,
    /// The pod's claims and their volumes.
    pub volumes: volumes::State,
    /// The pod's claims of devices.
    pub devices: devices::State,
}

impl<'a> Cycle<'a> {
    /// Computes the states the filters need.
    pub fn new(settings: &'a Settings, pod: &'a PodInfo, snapshot: &'a Snapshot) -> Cycle<'a> {
        let constraints = spread::constraints(settings, pod, snapshot);
        Cycle {
            pod,
            snapshot,
            settings,
            spread: spread::FilterState::new(&constraints, pod, snapshot),
            constraints,
            affinity: affinity::FilterState::new(pod, snapshot),
            volumes: volumes::State::new(pod, snapshot),
            devices: devices::State::new(pod, snapshot),
        }
    }
}

/// Refuses the pod whatever the node, or not.
pub type PreFilter = fn(&Cycle<'_>) -> Option<Refusal>;
/// Refuses a node or not.
pub type Filter = fn(&Cycle<'_>, &NodeInfo) -> Option<Refusal>;
/// Scores all feasible nodes, each 0 to `MAX_SCORE`. `None` when the plugin has nothing to say of this pod.
pub type Score = fn(&Cycle<'_>, &[&NodeInfo]) -> Option<Vec<i64>>;

/// A plugin.
#[derive(Debug)]
pub struct Plugin {
    /// Upstream's name.
    pub name: &'static str,
    /// The weight of its score in the default profile; 0 without one.
    pub weight: i64,
    /// What it says before any node is looked at.
    pub pre_filter: Option<PreFilter>,
    /// Its filter.
    pub filter: Option<Filter>,
    /// Its score.
    pub score: Option<Score>,
    /// Changes of the cluster that can turn its refusals: its queueing hints.
    pub events: &'static [Change],
}

/// A row without anything, to be filled in.
const NOTHING: Plugin =
    Plugin { name: "", weight: 0, pre_filter: None, filter: None, score: None, events: &[] };

/// All plugins, in the order of upstream's default profile.
pub const PLUGINS: &[Plugin] = &[
    Plugin {
        name: node::UNSCHEDULABLE,
        filter: Some(node::unschedulable),
        events: &[Change::Node],
        ..NOTHING
    },
    Plugin { name: node::NAME, filter: Some(node::name), events: &[Change::Node], ..NOTHING },
    Plugin {
        name: node::TAINTS,
        weight: 3,
        filter: Some(node::taints),
        score: Some(node::score_taints),
        events: &[Change::Node],
        ..NOTHING
    },
    Plugin {
        name: node::AFFINITY,
        weight: 2,
        filter: Some(node::affinity),
        score: Some(node::score_affinity),
        events: &[Change::Node],
        ..NOTHING
    },
    Plugin {
        name: node::PORTS,
        filter: Some(node::ports),
        events: &[Change::Node, Change::PodGone],
        ..NOTHING
    },
    Plugin {
        name: resources::FIT,
        weight: 1,
        filter: Some(resources::fit),
        score: Some(resources::score_fit),
        events: &[Change::Node, Change::PodGone],
        ..NOTHING
    },
    Plugin {
        name: volumes::RESTRICTIONS,
        pre_filter: Some(volumes::restricted),
        filter: Some(volumes::restrictions),
        events: &[Change::Node, Change::PodGone, Change::Claim],
        ..NOTHING
    },
    Plugin {
        name: volumes::LIMITS,
        filter: Some(volumes::limits),
        events: &[Change::Node, Change::PodGone, Change::Claim, Change::StorageNode],
        ..NOTHING
    },
    Plugin {
        name: volumes::BINDING,
        pre_filter: Some(volumes::ready),
        filter: Some(volumes::binding),
        events: &[Change::Node, Change::Claim, Change::Volume, Change::StorageNode],
        ..NOTHING
    },
    Plugin {
        name: volumes::ZONE,
        pre_filter: Some(volumes::zoned),
        filter: Some(volumes::zone),
        events: &[Change::Node, Change::Claim, Change::Volume],
        ..NOTHING
    },
    Plugin {
        name: spread::NAME,
        weight: 2,
        filter: Some(spread::filter),
        score: Some(spread::score),
        events: &[Change::Node, Change::PodGone, Change::PodPlaced],
        ..NOTHING
    },
    Plugin {
        name: affinity::NAME,
        weight: 2,
        filter: Some(affinity::filter),
        score: Some(affinity::score),
        events: &[Change::Node, Change::PodGone, Change::PodPlaced],
        ..NOTHING
    },
    Plugin {
        name: devices::NAME,
        pre_filter: Some(devices::ready),
        filter: Some(devices::filter),
        events: &[Change::Device],
        ..NOTHING
    },
    Plugin { name: resources::BALANCED, weight: 1, score: Some(resources::score_balanced), ..NOTHING },
    Plugin { name: node::IMAGES, weight: 1, score: Some(node::score_images), ..NOTHING },
];

/// Changes that can turn a refusal of the plugin of this name.
pub fn events(name: &str) -> &'static [Change] {
    PLUGINS.iter().find(|plugin| plugin.name == name).map_or(&[], |plugin| plugin.events)
}

/// True when nothing on the node itself keeps the pod off, or only pods that it may remove: a cheap look before
/// a pod that waits is tried again.
pub fn may_take(settings: &Settings, pod: &PodInfo, node: &NodeInfo) -> bool {
    let fits = || {
        let (short, hopeless) = resources::shortages(pod, node, &settings.ignored);
        short.is_empty() || (!hopeless && node.pods.iter().any(|other| other.priority < pod.priority))
    };
    !node::keeps_off(pod, node) && node::tolerates_node(pod, node) && node::node_matches(pod, node) && fits()
}

/// True when one of these plugins looks at pods on other nodes.
pub fn looks_beyond_node(refused: &BTreeSet<&'static str>) -> bool {
    [spread::NAME, affinity::NAME, volumes::RESTRICTIONS].iter().any(|name| refused.contains(name))
}

/// Scales scores so that the largest becomes `MAX_SCORE` (reversed: the largest becomes 0).
pub fn normalize(scores: &mut [i64], reverse: bool) {
    let max = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        *score = match (max, reverse) {
            (0, true) => MAX_SCORE,
            (0, false) => 0,
            (max, true) => MAX_SCORE - MAX_SCORE * *score / max,
            (max, false) => MAX_SCORE * *score / max,
        };
    }
}
