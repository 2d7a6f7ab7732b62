//! InterPodAffinity: near to or far from other pods, by domains of nodes.

use std::collections::HashMap;

use super::{Cycle, MAX_SCORE, Refusal};
use crate::pod::{AffinityTerm, PodInfo};
use crate::snapshot::{NodeInfo, Snapshot};

/// The plugin's name.
pub const NAME: &str = "InterPodAffinity";

/// Domain: topology key and value.
type Domain = (String, String);

/// What required terms have found.
#[derive(Debug, Default)]
pub struct FilterState {
    /// Domains where an existing pod's anti-affinity refuses this pod.
    existing_anti: HashMap<Domain, i64>,
    /// Domains with pods that match all of this pod's affinity terms, one map for all terms.
    affinity: HashMap<Domain, i64>,
    /// Domains with pods that this pod's anti-affinity refuses.
    anti: HashMap<Domain, i64>,
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

fn domain(node: &NodeInfo, key: &str) -> Option<Domain> {
    node.label(key).map(|value| (key.to_owned(), value.to_owned()))
}

impl FilterState {
    /// Looks at every pod once for the pod's own terms, and at pods with anti-affinity for theirs.
    pub fn new(pod: &PodInfo, snapshot: &Snapshot) -> FilterState {
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

    fn look_at(&mut self, pod: &PodInfo, other: &PodInfo, node: &NodeInfo, snapshot: &Snapshot) {
        let count = |map: &mut HashMap<Domain, i64>, term: &AffinityTerm| {
            if let Some(domain) = domain(node, &term.topology_key) {
                *map.entry(domain).or_default() += 1;
            }
        };
        for term in &other.anti_affinity {
            if term_matches(term, pod, snapshot) {
                count(&mut self.existing_anti, term);
            }
        }
        if !pod.affinity.is_empty() && pod.affinity.iter().all(|term| term_matches(term, other, snapshot)) {
            pod.affinity.iter().for_each(|term| count(&mut self.affinity, term));
        }
        for term in &pod.anti_affinity {
            if term_matches(term, other, snapshot) {
                count(&mut self.anti, term);
            }
        }
    }
}

/// InterPodAffinity's filter.
pub fn filter(cycle: &Cycle<'_>, node: &NodeInfo) -> Option<Refusal> {
    let (pod, state) = (cycle.pod, &cycle.affinity);
    let has = |map: &HashMap<Domain, i64>, key: &str| domain(node, key).is_some_and(|d| map.contains_key(&d));
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
    let labels = node.node.metadata.labels.as_ref();
    let refused = !state.existing_anti.is_empty()
        && state.existing_anti.keys().any(|(key, value)| labels.and_then(|l| l.get(key)) == Some(value));
    refused.then(|| Refusal::new(NAME, "node(s) didn't satisfy existing pods anti-affinity rules"))
}

/// InterPodAffinity's score: preferred terms of this pod and of the pods already there.
pub fn score(cycle: &Cycle<'_>, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
    let (pod, snapshot) = (cycle.pod, cycle.snapshot);
    let mut sums: HashMap<Domain, i64> = HashMap::new();
    for node in snapshot.nodes() {
        if pod.preferred.is_empty() && node.with_affinity == 0 {
            continue;
        }
        let mut add = |term: &AffinityTerm, weight: i64| {
            if let Some(domain) = domain(node, &term.topology_key) {
                *sums.entry(domain).or_default() += weight;
            }
        };
        for other in &node.pods {
            let own = pod.preferred.iter().filter(|term| term_matches(term, other, snapshot));
            own.for_each(|term| add(term, term.weight));
            let theirs = other.preferred.iter().filter(|term| term_matches(term, pod, snapshot));
            theirs.for_each(|term| add(term, term.weight));
            let required = other.affinity.iter().filter(|term| term_matches(term, pod, snapshot));
            required.for_each(|term| add(term, cycle.settings.hard_affinity_weight));
        }
    }
    if sums.is_empty() {
        return None;
    }
    let sum = |node: &&NodeInfo| -> i64 {
        let labels = node.node.metadata.labels.as_ref();
        let here = |key: &String, value: &String| labels.and_then(|l| l.get(key)) == Some(value);
        sums.iter().filter(|((key, value), _)| here(key, value)).map(|(_, sum)| sum).sum()
    };
    let scores: Vec<i64> = nodes.iter().map(sum).collect();
    let least = scores.iter().copied().min().unwrap_or(0);
    let spread = scores.iter().copied().max().unwrap_or(0) - least;
    let scale = |score: i64| if spread == 0 { 0 } else { MAX_SCORE * (score - least) / spread };
    Some(scores.into_iter().map(scale).collect())
}
