//! InterPodAffinity: near to or far from other pods, by domains of nodes.

use std::collections::HashMap;

use super::{Cycle, MAX_SCORE, Refusal};
use crate::pod::{AffinityTerm, PodInfo};
use crate::snapshot::{NodeInfo, Snapshot};

/// The plugin's name.
pub const NAME: &str = "InterPodAffinity";

/// Counts by domain: topology key, then its value on a node.
type Counts<'a> = HashMap<&'a str, HashMap<&'a str, i64>>;

/// What required terms have found.
#[derive(Debug, Default)]
pub struct FilterState<'a> {
    /// Domains where an existing pod's anti-affinity refuses this pod.
    existing_anti: Counts<'a>,
    /// Domains with pods that match all of this pod's affinity terms, one map for all terms.
    affinity: Counts<'a>,
    /// Domains with pods that this pod's anti-affinity refuses.
    anti: Counts<'a>,
}

/// Adds to the domain of the node.
fn add<'a>(counts: &mut Counts<'a>, node: &'a NodeInfo, key: &'a str, amount: i64) {
    if let Some(value) = node.label(key) {
        *counts.entry(key).or_default().entry(value).or_default() += amount;
    }
}

/// What is counted in the node's domain.
fn count(counts: &Counts<'_>, node: &NodeInfo, key: &str) -> Option<i64> {
    counts.get(key)?.get(node.label(key)?).copied()
}

/// True when `other` is what `term` looks for.
fn term_matches(term: &AffinityTerm, other: &PodInfo, snapshot: &Snapshot) -> bool {
    let named = term.namespaces.contains(&other.namespace);
    let selected = || {
        if term.namespace_selector.is_nothing() {
            return false;
        }
        let labels = snapshot.namespaces.get(&other.namespace);
        term.namespace_selector.matches_opt(labels.map(std::convert::AsRef::as_ref))
    };
    (named || selected()) && term.selector.matches_opt(other.labels())
}

impl<'a> FilterState<'a> {
    /// Looks at every pod once for the pod's own terms, and at pods with anti-affinity for theirs.
    pub fn new(pod: &'a PodInfo, snapshot: &'a Snapshot) -> FilterState<'a> {
        let mut state = FilterState::default();
        let own_terms = !pod.affinity.is_empty() || !pod.anti_affinity.is_empty();
        if !own_terms && !snapshot.has_anti_affinity() {
            return state;
        }
        for node in snapshot.nodes() {
            if own_terms || node.with_anti_affinity > 0 {
                node.pods.iter().for_each(|other| state.look_at(pod, other, node, snapshot));
            }
        }
        state
    }

    fn look_at(&mut self, pod: &'a PodInfo, other: &'a PodInfo, node: &'a NodeInfo, snapshot: &Snapshot) {
        for term in &other.anti_affinity {
            if term_matches(term, pod, snapshot) {
                add(&mut self.existing_anti, node, &term.topology_key, 1);
            }
        }
        if !pod.affinity.is_empty() && pod.affinity.iter().all(|term| term_matches(term, other, snapshot)) {
            pod.affinity.iter().for_each(|term| add(&mut self.affinity, node, &term.topology_key, 1));
        }
        for term in &pod.anti_affinity {
            if term_matches(term, other, snapshot) {
                add(&mut self.anti, node, &term.topology_key, 1);
            }
        }
    }
}

/// InterPodAffinity's filter.
pub fn filter(cycle: &Cycle<'_>, node: &NodeInfo) -> Option<Refusal> {
    let (pod, state) = (cycle.pod, &cycle.affinity);
    let has = |counts: &Counts<'_>, key: &str| count(counts, node, key).is_some();
    if !pod.affinity.is_empty() {
        let labelled = pod.affinity.iter().all(|term| node.label(&term.topology_key).is_some());
        let near = pod.affinity.iter().all(|term| has(&state.affinity, &term.topology_key));
        // The first pod of a group that wants to be near itself may go anywhere with the labels.
        let first = || {
            state.affinity.is_empty()
                && pod.affinity.iter().all(|term| term_matches(term, pod, cycle.snapshot))
        };
        if !labelled || !(near || first()) {
            return Some(Refusal::unresolvable(NAME, "node(s) didn't match pod affinity rules"));
        }
    }
    if pod.anti_affinity.iter().any(|term| has(&state.anti, &term.topology_key)) {
        return Some(Refusal::new(NAME, "node(s) didn't match pod anti-affinity rules"));
    }
    let refused = state.existing_anti.keys().any(|key| has(&state.existing_anti, key));
    refused.then(|| Refusal::new(NAME, "node(s) didn't satisfy existing pods anti-affinity rules"))
}

/// InterPodAffinity's score: preferred terms of this pod and of the pods already there.
pub fn score(cycle: &Cycle<'_>, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
    let (pod, snapshot) = (cycle.pod, cycle.snapshot);
    let mut sums: Counts<'_> = HashMap::new();
    for node in snapshot.nodes() {
        if pod.preferred.is_empty() && node.with_affinity == 0 {
            continue;
        }
        for other in &node.pods {
            let own = pod.preferred.iter().filter(|term| term_matches(term, other, snapshot));
            own.for_each(|term| add(&mut sums, node, &term.topology_key, term.weight));
            let theirs = other.preferred.iter().filter(|term| term_matches(term, pod, snapshot));
            theirs.for_each(|term| add(&mut sums, node, &term.topology_key, term.weight));
            let required = other.affinity.iter().filter(|term| term_matches(term, pod, snapshot));
            let weight = cycle.settings.hard_affinity_weight;
            required.for_each(|term| add(&mut sums, node, &term.topology_key, weight));
        }
    }
    if sums.is_empty() {
        return None;
    }
    let sum = |node: &&NodeInfo| -> i64 { sums.keys().filter_map(|key| count(&sums, node, key)).sum() };
    let scores: Vec<i64> = nodes.iter().map(sum).collect();
    let least = scores.iter().copied().min().unwrap_or(0);
    let spread = scores.iter().copied().max().unwrap_or(0) - least;
    let scale = |score: i64| if spread == 0 { 0 } else { MAX_SCORE * (score - least) / spread };
    Some(scores.into_iter().map(scale).collect())
}
