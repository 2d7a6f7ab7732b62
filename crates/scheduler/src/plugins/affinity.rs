//! InterPodAffinity: near to or far from other pods, by domains of nodes.

use std::collections::BTreeMap;

use super::{Cycle, MAX_SCORE, Refusal};
use crate::counts::{Columns, Tally};
use crate::pod::{AffinityTerm, PodInfo};
use crate::profile::Settings;
use crate::snapshot::{NodeInfo, Snapshot};

/// The plugin's name.
pub const NAME: &str = "InterPodAffinity";

/// Pods counted as the terms of one pod, and those of others about it, see them.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// By topology key: pods whose anti-affinity refuses this pod.
    existing_anti: BTreeMap<String, Tally>,
    /// A term of the pod's affinity each: pods that match all of its terms.
    affinity: Vec<Tally>,
    /// How many such pods are counted, over all terms.
    near: i64,
    /// A term of the pod's anti-affinity each: pods that it refuses.
    anti: Vec<Tally>,
    /// By topology key: weights of preferred terms, its own and others'.
    preferred: BTreeMap<String, Tally>,
}

/// True when `other` is what `term` looks for.
fn term_matches(term: &AffinityTerm, other: &PodInfo, snapshot: &Snapshot) -> bool {
    let named = || term.namespaces.contains(&other.namespace);
    let selected = || {
        !term.namespace_selector.is_nothing()
            && term.namespace_selector.matches_opt(snapshot.namespace(&other.namespace))
    };
    term.selector.matches_opt(other.labels()) && (named() || selected())
}

/// True when other pods matter to where the pod goes, or it to them.
pub fn concerns(pod: &PodInfo, snapshot: &Snapshot) -> bool {
    snapshot.has_affinity() || has_terms(pod)
}

/// True when the pod must be near pods such as `other`.
pub fn attracts(pod: &PodInfo, other: &PodInfo, snapshot: &Snapshot) -> bool {
    !pod.affinity.is_empty() && pod.affinity.iter().all(|term| term_matches(term, other, snapshot))
}

/// True when the pod must be away from pods such as `other`, or they from it.
pub fn repels(pod: &PodInfo, other: &PodInfo, snapshot: &Snapshot) -> bool {
    pod.anti_affinity.iter().any(|term| term_matches(term, other, snapshot))
        || other.anti_affinity.iter().any(|term| term_matches(term, pod, snapshot))
}

fn has_terms(pod: &PodInfo) -> bool {
    !pod.affinity.is_empty() || !pod.anti_affinity.is_empty() || !pod.preferred.is_empty()
}

impl State {
    /// Looks at every pod once for the pod's own terms, and at pods with terms for theirs.
    pub fn new(pod: &PodInfo, settings: &Settings, snapshot: &Snapshot, columns: &mut Columns) -> State {
        let mut tallies = |terms: &[AffinityTerm]| -> Vec<Tally> {
            terms.iter().map(|term| Tally::new(columns.get(snapshot, &term.topology_key))).collect()
        };
        let (affinity, anti) = (tallies(&pod.affinity), tallies(&pod.anti_affinity));
        let mut state = State { affinity, anti, ..State::default() };
        let own = has_terms(pod);
        for node in snapshot.nodes() {
            if own || node.with_affinity > 0 || node.with_anti_affinity > 0 {
                for other in &node.pods {
                    state.fold(pod, other, node, 1, settings, snapshot, columns);
                }
            }
        }
        state
    }

    /// Counts `other`, which came to the node (`sign` 1) or left it (-1).
    #[allow(clippy::too_many_arguments, reason = "what is counted, and what it is counted by")]
    pub fn fold(
        &mut self,
        pod: &PodInfo,
        other: &PodInfo,
        node: &NodeInfo,
        sign: i64,
        settings: &Settings,
        snapshot: &Snapshot,
        columns: &mut Columns,
    ) {
        let mut add = |tallies: &mut BTreeMap<String, Tally>, key: &String, amount: i64| {
            if !tallies.contains_key(key) {
                tallies.insert(key.clone(), Tally::new(columns.get(snapshot, key)));
            }
            if let Some(tally) = tallies.get_mut(key) {
                tally.add(node, amount);
            }
        };
        for term in other.anti_affinity.iter().filter(|term| term_matches(term, pod, snapshot)) {
            add(&mut self.existing_anti, &term.topology_key, sign);
        }
        for term in other.preferred.iter().filter(|term| term_matches(term, pod, snapshot)) {
            add(&mut self.preferred, &term.topology_key, sign * term.weight);
        }
        if settings.hard_affinity_weight > 0 {
            for term in other.affinity.iter().filter(|term| term_matches(term, pod, snapshot)) {
                add(&mut self.preferred, &term.topology_key, sign * settings.hard_affinity_weight);
            }
        }
        for term in pod.preferred.iter().filter(|term| term_matches(term, other, snapshot)) {
            add(&mut self.preferred, &term.topology_key, sign * term.weight);
        }
        if attracts(pod, other, snapshot) {
            for tally in &mut self.affinity {
                tally.add(node, sign);
                self.near += if tally.at(node).is_some() { sign } else { 0 };
            }
        }
        for (term, tally) in pod.anti_affinity.iter().zip(&mut self.anti) {
            if term_matches(term, other, snapshot) {
                tally.add(node, sign);
            }
        }
    }

    /// True when the filter has something to say.
    pub fn filters(&self) -> bool {
        !self.affinity.is_empty() || !self.anti.is_empty() || !self.existing_anti.is_empty()
    }
}

/// InterPodAffinity's filter.
pub fn filter(cycle: &Cycle<'_>, node: &NodeInfo) -> Option<Refusal> {
    let (pod, state) = (cycle.pod, &cycle.affinity);
    let has = |tally: &Tally| tally.at(node).is_some_and(|count| count > 0);
    if !pod.affinity.is_empty() {
        let labelled = state.affinity.iter().all(|tally| tally.at(node).is_some());
        let near = state.affinity.iter().all(has);
        // The first pod of a group that wants to be near itself may go anywhere with the labels.
        let first =
            || state.near == 0 && pod.affinity.iter().all(|term| term_matches(term, pod, cycle.snapshot));
        if !labelled || !(near || first()) {
            return Some(Refusal::unresolvable(NAME, "node(s) didn't match pod affinity rules"));
        }
    }
    if state.anti.iter().any(has) {
        return Some(Refusal::new(NAME, "node(s) didn't match pod anti-affinity rules"));
    }
    let refused = state.existing_anti.values().any(has);
    refused.then(|| Refusal::new(NAME, "node(s) didn't satisfy existing pods anti-affinity rules"))
}

/// InterPodAffinity's score: preferred terms of this pod and of the pods already there.
pub fn score(cycle: &Cycle<'_>, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
    let tallies = &cycle.affinity.preferred;
    if tallies.is_empty() {
        return None;
    }
    let sum = |node: &&NodeInfo| -> i64 { tallies.values().filter_map(|tally| tally.at(node)).sum() };
    let scores: Vec<i64> = nodes.iter().map(sum).collect();
    let least = scores.iter().copied().min().unwrap_or(0);
    let spread = scores.iter().copied().max().unwrap_or(0) - least;
    let scale = |score: i64| if spread == 0 { 0 } else { MAX_SCORE * (score - least) / spread };
    Some(scores.into_iter().map(scale).collect())
}
