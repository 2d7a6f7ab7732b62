//! A profile: which plugins decide for pods of one scheduler name, with which weights and settings.

use api::k8s::api::core::v1::{NodeSelector, PreferredSchedulingTerm, TopologySpreadConstraint};

use crate::plugins::{Check, Cycle, Filter, MAX_LOCAL_SCORES, PLUGINS, Plugin, Refusal, Score};
use crate::snapshot::NodeInfo;

/// A plugin of a profile, and which of its parts run.
#[derive(Clone, Copy, Debug)]
pub struct Active {
    /// The plugin.
    pub plugin: &'static Plugin,
    /// It may refuse before nodes are looked at.
    pub pre_filter: bool,
    /// It may refuse nodes.
    pub filter: bool,
    /// It scores nodes.
    pub score: bool,
    /// The weight of its score.
    pub weight: i64,
}

/// How NodeResourcesFit scores.
#[derive(Clone, Debug, PartialEq)]
pub enum Strategy {
    /// Emptier nodes are better.
    LeastAllocated,
    /// Fuller nodes are better.
    MostAllocated,
    /// The score at a share of use, by points of (percent used, score 0 to 10), in rising order.
    RequestedToCapacityRatio(Vec<(i64, i64)>),
}

/// What the plugins can be told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// NodeResourcesFit's strategy.
    pub strategy: Strategy,
    /// The resources it looks at, with weights.
    pub fit_resources: Vec<(String, i64)>,
    /// Extended resources that NodeResourcesFit leaves to others: names, and groups before the slash.
    pub ignored: Vec<String>,
    /// The resources NodeResourcesBalancedAllocation keeps in proportion.
    pub balanced: Vec<String>,
    /// The weight of other pods' required affinity when InterPodAffinity scores.
    pub hard_affinity_weight: i64,
    /// Node affinity that every pod has besides its own.
    pub added_affinity: Option<NodeSelector>,
    /// Preferred node affinity that every pod has besides its own.
    pub added_preferred: Vec<PreferredSchedulingTerm>,
    /// Spread constraints for pods without their own; `None` = the cluster's: softly by host and by zone.
    pub default_spread: Option<Vec<TopologySpreadConstraint>>,
    /// The share of nodes to look at, percent; `None` = by the size of the cluster.
    pub percent_of_nodes: Option<usize>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            strategy: Strategy::LeastAllocated,
            fit_resources: vec![("cpu".to_owned(), 1), ("memory".to_owned(), 1)],
            ignored: Vec::new(),
            balanced: vec!["cpu".to_owned(), "memory".to_owned()],
            hard_affinity_weight: 1,
            added_affinity: None,
            added_preferred: Vec::new(),
            default_spread: None,
            percent_of_nodes: None,
        }
    }
}

/// A profile.
#[derive(Clone, Debug)]
pub struct Profile {
    /// What pods name in `spec.schedulerName`.
    pub name: String,
    /// Its plugins, in order.
    pub plugins: Vec<Active>,
    /// Their settings.
    pub settings: Settings,
    /// Less important pods may be removed for more important ones.
    pub preemption: bool,
}

impl Profile {
    /// All plugins with their default weights.
    pub fn new(name: &str) -> Profile {
        let active = |plugin: &'static Plugin| Active {
            plugin,
            pre_filter: plugin.pre_filter.is_some(),
            filter: plugin.filter.is_some(),
            score: plugin.score.is_some(),
            weight: plugin.weight,
        };
        Profile {
            name: name.to_owned(),
            plugins: PLUGINS.iter().map(active).collect(),
            settings: Settings::default(),
            preemption: true,
        }
    }
}

impl Profile {
    fn checks(&self) -> impl Iterator<Item = Check> + '_ {
        self.plugins.iter().filter(|active| active.filter).filter_map(|active| active.plugin.filter)
    }

    /// The plugins that score, with their weights.
    pub fn scores(&self) -> impl Iterator<Item = (Score, i64)> + '_ {
        let active = self.plugins.iter().filter(|active| active.score && active.weight > 0);
        active.filter_map(|active| Some((active.plugin.score?, active.weight)))
    }

    /// The first refusal of a node by the filters that look at pod and node alone; they come first.
    pub fn refusal_by_node(&self, cycle: &Cycle<'_>, node: &NodeInfo) -> Option<Refusal> {
        self.checks().find_map(|check| match check {
            Check::Local(filter) => filter(cycle, node),
            Check::Wide(..) => None,
        })
    }

    /// The other filters, as far as they concern the pod.
    pub fn wide_filters(&self, cycle: &Cycle<'_>) -> Vec<Filter> {
        let wide = |check| match check {
            Check::Wide(concerns, filter) if concerns(cycle) => Some(filter),
            _ => None,
        };
        self.checks().filter_map(wide).collect()
    }

    /// The raw scores of a node by the plugins that look at pod and node alone.
    pub fn local_scores(&self, cycle: &Cycle<'_>, node: &NodeInfo) -> [i64; MAX_LOCAL_SCORES] {
        let mut raw = [0; MAX_LOCAL_SCORES];
        let local = self.scores().filter_map(|(score, _)| match score {
            Score::Local(score, _) => Some(score),
            Score::Whole(_) => None,
        });
        raw.iter_mut().zip(local).for_each(|(raw, score)| *raw = score(cycle, node));
        raw
    }
}

impl Default for Profile {
    fn default() -> Self {
        Profile::new("default-scheduler")
    }
}
