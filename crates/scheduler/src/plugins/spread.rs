//! PodTopologySpread: pods of one selector evenly over domains of nodes (KEP-895).

use std::collections::HashMap;

use super::{Cycle, MAX_SCORE, Refusal, node};
use crate::pod::{PodInfo, Spread};
use crate::snapshot::{NodeInfo, Snapshot};

/// The plugin's name.
pub const NAME: &str = "PodTopologySpread";

/// Matching pods a domain, one map a hard constraint of the pod.
#[derive(Debug, Default)]
pub struct FilterState {
    counts: Vec<HashMap<String, i64>>,
}

fn counts_node(pod: &PodInfo, constraint: &Spread, info: &NodeInfo) -> bool {
    (!constraint.honor_affinity || node::node_matches(pod, info))
        && (!constraint.honor_taints || node::tolerates_node(pod, info))
}

fn matching(constraint: &Spread, namespace: &str, info: &NodeInfo) -> i64 {
    let counts = |pod: &&std::sync::Arc<PodInfo>| {
        pod.namespace == namespace && !pod.is_deleting() && constraint.selector.matches_opt(pod.labels())
    };
    i64::try_from(info.pods.iter().filter(counts).count()).unwrap_or(i64::MAX)
}

fn hard(pod: &PodInfo) -> impl Iterator<Item = &Spread> {
    pod.spread.iter().filter(|constraint| constraint.hard)
}

impl FilterState {
    /// Counts the pods that match the pod's hard constraints.
    pub fn new(pod: &PodInfo, snapshot: &Snapshot) -> FilterState {
        let mut counts: Vec<HashMap<String, i64>> = hard(pod).map(|_| HashMap::new()).collect();
        if counts.is_empty() {
            return FilterState::default();
        }
        for info in snapshot.nodes() {
            // A node counts only when it has the label of every constraint.
            if !hard(pod).all(|constraint| info.label(&constraint.topology_key).is_some()) {
                continue;
            }
            for (constraint, counts) in hard(pod).zip(&mut counts) {
                let Some(domain) = info.label(&constraint.topology_key) else { continue };
                if counts_node(pod, constraint, info) {
                    *counts.entry(domain.to_owned()).or_default() +=
                        matching(constraint, &pod.namespace, info);
                }
            }
        }
        FilterState { counts }
    }
}

/// Refuses nodes whose domain would be too far ahead.
pub fn filter(cycle: &Cycle<'_>, info: &NodeInfo) -> Option<Refusal> {
    let reason = "node(s) didn't match pod topology spread constraints";
    for (constraint, counts) in hard(cycle.pod).zip(&cycle.spread.counts) {
        let Some(domain) = info.label(&constraint.topology_key) else {
            return Some(Refusal::unresolvable(NAME, &format!("{reason} (missing required label)")));
        };
        let least = counts.values().copied().min().unwrap_or(0);
        // Fewer domains than asked for: the missing ones count as empty.
        let least = if counts.len() < constraint.min_domains { 0 } else { least };
        let own = i64::from(constraint.selector.matches_opt(cycle.pod.labels()));
        let here = counts.get(domain).copied().unwrap_or(0);
        if here + own - least > constraint.max_skew {
            return Some(Refusal::new(NAME, reason));
        }
    }
    None
}

/// Scores by soft constraints: domains with fewer matching pods are better.
pub fn score(cycle: &Cycle<'_>, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
    let pod = cycle.pod;
    let soft: Vec<&Spread> = pod.spread.iter().filter(|constraint| !constraint.hard).collect();
    if soft.is_empty() {
        return None;
    }
    let has_all = |info: &NodeInfo| soft.iter().all(|c| info.label(&c.topology_key).is_some());
    let mut tables: Vec<HashMap<&str, i64>> = soft.iter().map(|_| HashMap::new()).collect();
    for info in nodes.iter().filter(|info| has_all(info)) {
        for (constraint, table) in soft.iter().zip(&mut tables) {
            if let Some(domain) = info.label(&constraint.topology_key) {
                table.entry(domain).or_default();
            }
        }
    }
    for info in cycle.snapshot.nodes().iter().filter(|info| has_all(info)) {
        for (constraint, table) in soft.iter().zip(&mut tables) {
            let count = info.label(&constraint.topology_key).and_then(|domain| table.get_mut(domain));
            if let Some(count) = count.filter(|_| counts_node(pod, constraint, info)) {
                *count += matching(constraint, &pod.namespace, info);
            }
        }
    }
    let raw = |info: &&NodeInfo| {
        has_all(info).then(|| {
            let parts = soft.iter().zip(&tables).map(|(constraint, table)| {
                let domain = info.label(&constraint.topology_key).unwrap_or_default();
                let count = table.get(domain).copied().unwrap_or(0) as f64;
                count * ((table.len() + 2) as f64).ln() + (constraint.max_skew - 1) as f64
            });
            parts.sum::<f64>().round() as i64
        })
    };
    let scores: Vec<Option<i64>> = nodes.iter().map(raw).collect();
    let least = scores.iter().flatten().copied().min().unwrap_or(0);
    let most = scores.iter().flatten().copied().max().unwrap_or(0);
    let scale = |score: Option<i64>| match (score, most) {
        (None, _) => 0,
        (Some(_), 0) => MAX_SCORE,
        (Some(score), most) => MAX_SCORE * (most + least - score) / most,
    };
    Some(scores.into_iter().map(scale).collect())
}
