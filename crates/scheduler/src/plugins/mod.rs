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
use std::sync::Arc;

use crate::counts::Columns;
use crate::extender;
use crate::memo::Memo;
use crate::pod::{PodInfo, Spread};
use crate::profile::Settings;
use crate::queue::Change;
use crate::snapshot::{NodeInfo, Snapshot};

/// The best score a plugin gives a node.
pub const MAX_SCORE: i64 = 100;

/// What a refusal says, one entry a reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reasons {
    /// Always the same words.
    One(&'static str),
    /// Words of the moment.
    Many(Vec<String>),
}

/// Why a pod cannot run on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The plugin that refused.
    pub plugin: &'static str,
    /// For people, as upstream says it.
    pub reasons: Reasons,
    /// False when removing other pods could change the answer.
    pub unresolvable: bool,
}

impl Refusal {
    /// One reason that preemption may resolve.
    pub fn new(plugin: &'static str, reason: &'static str) -> Refusal {
        Refusal { plugin, reasons: Reasons::One(reason), unresolvable: false }
    }

    /// One reason that preemption cannot resolve.
    pub fn unresolvable(plugin: &'static str, reason: &'static str) -> Refusal {
        Refusal { plugin, reasons: Reasons::One(reason), unresolvable: true }
    }

    /// Reasons of the moment that preemption cannot resolve.
    pub fn told(plugin: &'static str, reasons: Vec<String>) -> Refusal {
        Refusal { plugin, reasons: Reasons::Many(reasons), unresolvable: true }
    }

    /// The reasons.
    pub fn reasons(&self) -> impl Iterator<Item = &str> {
        let (one, many) = match &self.reasons {
            Reasons::One(reason) => (Some(*reason), [].as_slice()),
            Reasons::Many(reasons) => (None, reasons.as_slice()),
        };
        one.into_iter().chain(many.iter().map(String::as_str))
    }
}

/// What plugins compute once for a pod, before looking at nodes.
#[derive(Clone)]
pub struct Cycle<'a> {
    /// The pod.
    pub pod: &'a PodInfo,
    /// All nodes.
    pub snapshot: &'a Snapshot,
    /// The plugins' settings.
    pub settings: &'a Settings,
    /// The pod's spread constraints, or the profile's.
    pub constraints: Cow<'a, [Spread]>,
    /// Counts for spread constraints.
    pub spread: Arc<spread::State>,
    /// Counts for inter-pod affinity.
    pub affinity: Arc<affinity::State>,
    /// The pod's claims and their volumes.
    pub volumes: Arc<volumes::State>,
    /// The pod's claims of devices.
    pub devices: Arc<devices::State>,
}

impl<'a> Cycle<'a> {
    /// Computes the states the filters need.
    pub fn new(settings: &'a Settings, pod: &'a PodInfo, snapshot: &'a Snapshot) -> Cycle<'a> {
        Cycle::with(&mut Memo::default(), settings, pod, snapshot)
    }

    /// The same, from what was computed for other pods.
    pub fn with(
        memo: &mut Memo,
        settings: &'a Settings,
        pod: &'a PodInfo,
        snapshot: &'a Snapshot,
    ) -> Cycle<'a> {
        let constraints = spread::constraints(settings, pod, snapshot);
        let (affinity, spread) = memo.counts(pod, settings, &constraints, snapshot);
        Cycle {
            pod,
            snapshot,
            settings,
            constraints,
            spread,
            affinity,
            volumes: Arc::new(volumes::State::new(pod, snapshot)),
            devices: Arc::new(devices::State::new(pod, snapshot)),
        }
    }

    /// Counts a pod as if it had come to the node (`sign` 1) or left it (-1).
    pub fn moved(&mut self, other: &PodInfo, node: &NodeInfo, sign: i64) {
        // Labels that no state has yet are rare here.
        let mut columns = Columns::default();
        let (snapshot, settings) = (self.snapshot, self.settings);
        if affinity::concerns(self.pod, snapshot) || affinity::concerns(other, snapshot) {
            let state = Arc::make_mut(&mut self.affinity);
            state.fold(self.pod, other, node, sign, settings, snapshot, &mut columns);
        }
        if self.volumes.is_alone() {
            Arc::make_mut(&mut self.volumes).fold(self.pod, other, sign);
        }
        if !self.constraints.is_empty() {
            let state = Arc::make_mut(&mut self.spread);
            state.fold(&self.constraints, self.pod, other, node, sign);
            state.settle(&self.constraints);
        }
    }

    /// The node with the pods that room on it is kept for; `None` when there are none.
    pub fn occupied(&self, node: &NodeInfo) -> Option<Arc<NodeInfo>> {
        let mut pods = self.snapshot.nominated(&node.name, self.pod).peekable();
        pods.peek()?;
        let mut occupied = node.clone();
        pods.for_each(|pod| occupied.add_pod(pod.clone()));
        Some(Arc::new(occupied))
    }
}

/// Refuses the pod whatever the node, or not.
pub type PreFilter = fn(&Cycle<'_>) -> Option<Refusal>;
/// Refuses a node or not.
pub type Filter = fn(&Cycle<'_>, &NodeInfo) -> Option<Refusal>;
/// Whether a filter has anything to say of a pod.
pub type Concerns = fn(&Cycle<'_>) -> bool;

/// How a plugin scores.
#[derive(Clone, Copy, Debug)]
pub enum Score {
    /// By pod and node alone: the node's raw score, and how it becomes 0 to `MAX_SCORE`.
    Local(fn(&Cycle<'_>, &NodeInfo) -> i64, Scale),
    /// All feasible nodes, each 0 to `MAX_SCORE`. `None` when the plugin has nothing to say of this pod.
    Whole(fn(&Cycle<'_>, &[&NodeInfo]) -> Option<Vec<i64>>),
}

/// How raw scores become scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// They are.
    Keep,
    /// The largest becomes `MAX_SCORE`.
    Up,
    /// The largest becomes 0.
    Down,
}

/// At most so many plugins score by pod and node alone.
pub const MAX_LOCAL_SCORES: usize = 4;

/// A filter.
#[derive(Clone, Copy, Debug)]
pub enum Check {
    /// It looks at pod and node alone.
    Local(Filter),
    /// It looks at more, when it concerns the pod at all.
    Wide(Concerns, Filter),
}

impl Check {
    /// The filter.
    pub fn filter(self) -> Filter {
        match self {
            Check::Local(filter) | Check::Wide(_, filter) => filter,
        }
    }
}

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
    pub filter: Option<Check>,
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
        filter: Some(Check::Local(node::unschedulable)),
        events: &[Change::Node],
        ..NOTHING
    },
    Plugin { name: node::NAME, filter: Some(Check::Local(node::name)), events: &[Change::Node], ..NOTHING },
    Plugin {
        name: node::TAINTS,
        weight: 3,
        filter: Some(Check::Local(node::taints)),
        score: Some(Score::Local(node::score_taints, Scale::Down)),
        events: &[Change::Node],
        ..NOTHING
    },
    Plugin {
        name: node::AFFINITY,
        weight: 2,
        filter: Some(Check::Local(node::affinity)),
        score: Some(Score::Local(node::score_affinity, Scale::Up)),
        events: &[Change::Node],
        ..NOTHING
    },
    Plugin {
        name: node::PORTS,
        filter: Some(Check::Local(node::ports)),
        events: &[Change::Node, Change::PodGone],
        ..NOTHING
    },
    Plugin {
        name: resources::FIT,
        weight: 1,
        filter: Some(Check::Local(resources::fit)),
        score: Some(Score::Local(resources::score_fit, Scale::Keep)),
        events: &[Change::Node, Change::PodGone],
        ..NOTHING
    },
    Plugin {
        name: volumes::RESTRICTIONS,
        pre_filter: Some(volumes::restricted),
        filter: Some(Check::Wide(volumes::uses_volumes, volumes::restrictions)),
        events: &[Change::Node, Change::PodGone, Change::Claim],
        ..NOTHING
    },
    Plugin {
        name: volumes::LIMITS,
        filter: Some(Check::Wide(volumes::has_claims, volumes::limits)),
        events: &[Change::Node, Change::PodGone, Change::Claim, Change::StorageNode],
        ..NOTHING
    },
    Plugin {
        name: volumes::BINDING,
        pre_filter: Some(volumes::ready),
        filter: Some(Check::Wide(volumes::has_claims, volumes::binding)),
        events: &[Change::Node, Change::Claim, Change::Volume, Change::StorageNode],
        ..NOTHING
    },
    Plugin {
        name: volumes::ZONE,
        pre_filter: Some(volumes::zoned),
        filter: Some(Check::Wide(volumes::has_claims, volumes::zone)),
        events: &[Change::Node, Change::Claim, Change::Volume],
        ..NOTHING
    },
    Plugin {
        name: spread::NAME,
        weight: 2,
        filter: Some(Check::Wide(|cycle| spread::filters(&cycle.constraints), spread::filter)),
        score: Some(Score::Whole(spread::score)),
        events: &[Change::Node, Change::PodGone, Change::PodPlaced],
        ..NOTHING
    },
    Plugin {
        name: affinity::NAME,
        weight: 2,
        filter: Some(Check::Wide(|cycle| cycle.affinity.filters(), affinity::filter)),
        score: Some(Score::Whole(affinity::score)),
        events: &[Change::Node, Change::PodGone, Change::PodPlaced],
        ..NOTHING
    },
    Plugin {
        name: devices::NAME,
        pre_filter: Some(devices::ready),
        filter: Some(Check::Wide(devices::concerns, devices::filter)),
        events: &[Change::Device],
        ..NOTHING
    },
    Plugin {
        name: resources::BALANCED,
        weight: 1,
        score: Some(Score::Local(resources::score_balanced, Scale::Keep)),
        ..NOTHING
    },
    Plugin { name: node::IMAGES, weight: 1, score: Some(Score::Whole(node::score_images)), ..NOTHING },
];

/// Changes that can turn a refusal of the plugin of this name.
pub fn events(name: &str) -> &'static [Change] {
    if name == extender::NAME {
        // Nobody knows what it looks at.
        return Change::ALL;
    }
    PLUGINS.iter().find(|plugin| plugin.name == name).map_or(&[], |plugin| plugin.events)
}

/// True when nothing on the node itself keeps the pod off, or only pods that it may remove: a cheap look before
/// a pod that waits is tried again.
/// `displace`: the pod may remove less important ones.
pub fn may_take(settings: &Settings, pod: &PodInfo, node: &NodeInfo, displace: bool) -> bool {
    let fits = || {
        resources::has_room(pod, node, &settings.ignored) || {
            let displaces = || node.pods.iter().any(|other| other.priority < pod.priority);
            displace && displaces() && !resources::shortages(pod, node, &settings.ignored).1
        }
    };
    fits() && !node::keeps_off(pod, node) && node::tolerates_node(pod, node) && node::node_matches(pod, node)
}

/// Scales raw scores.
pub fn normalize(scores: &mut [i64], scale: Scale) {
    let reverse = match scale {
        Scale::Keep => return,
        Scale::Up => false,
        Scale::Down => true,
    };
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
