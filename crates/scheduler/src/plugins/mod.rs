//! The plugins, one row each, under upstream's names and with its semantics and messages
//! (`pkg/scheduler/framework/plugins`).
//!
//! A plugin never awaits and never writes: it looks at one pod and one snapshot.

pub mod affinity;
pub mod node;
pub mod resources;
pub mod spread;

use crate::pod::PodInfo;
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
    /// Counts for hard spread constraints.
    pub spread: spread::FilterState,
    /// Counts for required inter-pod affinity.
    pub affinity: affinity::FilterState,
}

impl<'a> Cycle<'a> {
    /// Computes the states the filters need.
    pub fn new(pod: &'a PodInfo, snapshot: &'a Snapshot) -> Cycle<'a> {
        Cycle {
            pod,
            snapshot,
            spread: spread::FilterState::new(pod, snapshot),
            affinity: affinity::FilterState::new(pod, snapshot),
        }
    }
}

/// Refuses a node or not.
pub type Filter = fn(&Cycle<'_>, &NodeInfo) -> Option<Refusal>;
/// Scores all feasible nodes, each 0 to `MAX_SCORE`. `None` when the plugin has nothing to say of this pod.
pub type Score = fn(&Cycle<'_>, &[&NodeInfo]) -> Option<Vec<i64>>;

/// A plugin.
pub struct Plugin {
    /// Upstream's name.
    pub name: &'static str,
    /// The weight of its score; 0 without one.
    pub weight: i64,
    /// Its filter.
    pub filter: Option<Filter>,
    /// Its score.
    pub score: Option<Score>,
}

/// The default profile, in upstream's order.
pub const DEFAULT_PLUGINS: &[Plugin] = &[
    Plugin { name: node::UNSCHEDULABLE, weight: 0, filter: Some(node::unschedulable), score: None },
    Plugin { name: node::NAME, weight: 0, filter: Some(node::name), score: None },
    Plugin { name: node::TAINTS, weight: 3, filter: Some(node::taints), score: Some(node::score_taints) },
    Plugin {
        name: node::AFFINITY,
        weight: 2,
        filter: Some(node::affinity),
        score: Some(node::score_affinity),
    },
    Plugin { name: node::PORTS, weight: 0, filter: Some(node::ports), score: None },
    Plugin {
        name: resources::FIT,
        weight: 1,
        filter: Some(resources::fit),
        score: Some(resources::score_least_allocated),
    },
    Plugin { name: spread::NAME, weight: 2, filter: Some(spread::filter), score: Some(spread::score) },
    Plugin { name: affinity::NAME, weight: 2, filter: Some(affinity::filter), score: Some(affinity::score) },
    Plugin { name: resources::BALANCED, weight: 1, filter: None, score: Some(resources::score_balanced) },
    Plugin { name: node::IMAGES, weight: 1, filter: None, score: Some(node::score_images) },
];

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
