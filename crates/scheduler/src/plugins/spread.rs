//! PodTopologySpread: pods of one selector evenly over domains of nodes (KEP-895).

use std::borrow::Cow;
use std::sync::Arc;

use api::k8s::api::apps::v1::{ReplicaSet, StatefulSet};
use api::k8s::api::core::v1::{Pod, ReplicationController, Service};
use api::labels::{Operator, Requirement, Selector};
use client::Cache;

use super::{Cycle, MAX_SCORE, Refusal, node};
use crate::counts::{Column, Columns, Tally};
use crate::pod::{self, PodInfo, Spread};
use crate::profile::Settings;
use crate::snapshot::{NodeInfo, Snapshot};

/// The plugin's name.
pub const NAME: &str = "PodTopologySpread";
const HOSTNAME: &str = "kubernetes.io/hostname";

/// Caches of what says which pods are alike, for pods without constraints of their own.
#[derive(Clone, Default)]
pub struct Owners {
    /// Services.
    pub services: Cache<Service>,
    /// ReplicationControllers.
    pub controllers: Cache<ReplicationController>,
    /// ReplicaSets.
    pub replica_sets: Cache<ReplicaSet>,
    /// StatefulSets.
    pub stateful_sets: Cache<StatefulSet>,
}

impl std::fmt::Debug for Owners {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Owners")
    }
}

impl Owners {
    /// Selects the pods of the same Services and the same owner; `None` when nothing says who they are.
    fn selector(&self, pod: &Pod) -> Option<Selector> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let labels = pod.metadata.labels.as_ref()?;
        let mut selector = Selector::everything();
        let mut need = |key: &String, value: &String| {
            let values = vec![value.clone()];
            let requirement = Requirement { key: key.clone(), operator: Operator::In, values };
            if !selector.requirements.contains(&requirement) {
                selector.requirements.push(requirement);
            }
        };
        for service in self.services.namespace(namespace) {
            let wanted = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) else { continue };
            if wanted.iter().all(|(key, value)| labels.get(key) == Some(value)) {
                wanted.iter().for_each(|(key, value)| need(key, value));
            }
        }
        let owner =
            pod.metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
        let own = owner.and_then(|owner| match owner.kind.as_str() {
            "ReplicationController" => {
                let found = self.controllers.get(namespace, &owner.name)?;
                let wanted = found.spec.as_ref()?.selector.clone()?;
                wanted.iter().for_each(|(key, value)| need(key, value));
                None
            }
            "ReplicaSet" => {
                Some(self.replica_sets.get(namespace, &owner.name)?.spec.as_ref()?.selector.clone())
            }
            "StatefulSet" => {
                Some(self.stateful_sets.get(namespace, &owner.name)?.spec.as_ref()?.selector.clone())
            }
            _ => None,
        });
        let own = own.and_then(|own| Selector::from_object(Some(&own)).ok());
        selector.requirements.extend(own.into_iter().flat_map(|own| own.requirements));
        (!selector.requirements.is_empty()).then_some(selector)
    }
}

/// The constraints of a pod: its own, or the profile's defaults for pods like it.
pub fn constraints<'a>(settings: &Settings, pod: &'a PodInfo, snapshot: &Snapshot) -> Cow<'a, [Spread]> {
    if !pod.spread.is_empty() {
        return Cow::Borrowed(&pod.spread);
    }
    // What the cluster has by default, without a profile's own list.
    let usual = [(HOSTNAME, 3), ("topology.kubernetes.io/zone", 5)];
    if settings.default_spread.as_ref().is_some_and(Vec::is_empty) {
        return Cow::Borrowed(&[]);
    }
    let Some(selector) = snapshot.owners.selector(&pod.pod) else { return Cow::Borrowed(&[]) };
    Cow::Owned(match &settings.default_spread {
        Some(list) => {
            let one = |constraint| Spread {
                selector: selector.clone(),
                ..pod::spread_constraint(&pod.pod, constraint)
            };
            list.iter().map(one).collect()
        }
        None => {
            let one = |(key, skew): (&str, i64)| Spread {
                max_skew: skew,
                topology_key: key.to_owned(),
                hard: false,
                selector: selector.clone(),
                min_domains: 1,
                honor_affinity: true,
                honor_taints: false,
            };
            usual.into_iter().map(one).collect()
        }
    })
}

/// The pods one constraint counts.
#[derive(Clone, Debug)]
struct Counted {
    /// Matching pods on nodes that count, by domain; on each node for itself where the score is by host.
    tally: Tally,
    /// Nodes that count, by position.
    eligible: Vec<bool>,
    /// Domains of these nodes.
    present: Vec<bool>,
    /// The least count of such a domain.
    least: i64,
}

/// The pods each of a pod's constraints counts.
#[derive(Clone, Debug, Default)]
pub struct State {
    counted: Vec<Counted>,
}

fn counts_node(pod: &PodInfo, constraint: &Spread, info: &NodeInfo) -> bool {
    (!constraint.honor_affinity || node::node_matches(pod, info))
        && (!constraint.honor_taints || node::tolerates_node(pod, info))
}

fn by_host(constraint: &Spread) -> bool {
    !constraint.hard && constraint.topology_key == HOSTNAME
}

/// True when `other` counts for where the pod may go. One without constraints of its own has the profile's, which
/// count whoever is like it.
pub fn counts(pod: &PodInfo, other: &PodInfo) -> bool {
    let selects = |one: &Spread| one.hard && one.selector.matches_opt(other.labels());
    pod.namespace == other.namespace && (pod.spread.is_empty() || pod.spread.iter().any(selects))
}

/// True when a node counts only with the labels of all constraints of this kind: not for the cluster's own
/// defaults, which spread by host where there are no zones.
fn all_needed(pod: &PodInfo, settings: &Settings) -> bool {
    !pod.spread.is_empty() || settings.default_spread.is_some()
}

fn has_labels(constraints: &[Spread], hard: bool, info: &NodeInfo) -> bool {
    let mut wanted = constraints.iter().filter(|constraint| constraint.hard == hard);
    wanted.all(|constraint| info.label(&constraint.topology_key).is_some())
}

impl State {
    /// Counts the pods that match the pod's constraints.
    pub fn new(
        constraints: &[Spread],
        pod: &PodInfo,
        settings: &Settings,
        snapshot: &Snapshot,
        columns: &mut Columns,
    ) -> State {
        let all_needed = all_needed(pod, settings);
        let one = |constraint: &Spread| {
            let each = by_host(constraint);
            let column = columns.get(snapshot, &constraint.topology_key);
            let counts = |info: &Arc<NodeInfo>| {
                let labelled =
                    (!constraint.hard && !all_needed) || has_labels(constraints, constraint.hard, info);
                each || (labelled && counts_node(pod, constraint, info))
            };
            let eligible: Vec<bool> = snapshot.nodes().iter().map(counts).collect();
            let mut present = vec![false; column.len()];
            for info in snapshot.nodes().iter().filter(|info| eligible[info.position]) {
                if let Some(domain) = column.domain(info) {
                    present[domain] = true;
                }
            }
            let tally = Tally::new(if each { Arc::new(Column::each(snapshot)) } else { column });
            Counted { tally, eligible, present, least: 0 }
        };
        let mut state = State { counted: constraints.iter().map(one).collect() };
        if !constraints.is_empty() {
            for info in snapshot.nodes() {
                info.pods.iter().for_each(|other| state.fold(constraints, pod, other, info, 1));
            }
        }
        state
    }

    /// Counts `other`, which came to the node (`sign` 1) or left it (-1). To be followed by `settle`.
    pub fn fold(
        &mut self,
        constraints: &[Spread],
        pod: &PodInfo,
        other: &PodInfo,
        info: &NodeInfo,
        sign: i64,
    ) {
        if other.namespace != pod.namespace || other.is_deleting() {
            return;
        }
        for (constraint, counted) in constraints.iter().zip(&mut self.counted) {
            let eligible = counted.eligible.get(info.position).copied().unwrap_or(false);
            if eligible && constraint.selector.matches_opt(other.labels()) {
                counted.tally.add(info, sign);
            }
        }
    }

    /// Finds the least counts anew.
    pub fn settle(&mut self, constraints: &[Spread]) {
        for (constraint, counted) in constraints.iter().zip(&mut self.counted).filter(|(one, _)| one.hard) {
            let counts = counted.tally.sums().iter().zip(&counted.present);
            let counts = counts.filter(|(_, present)| **present).map(|(count, _)| *count);
            let domains = counts.clone().count();
            // Fewer domains than asked for: the missing ones count as empty.
            counted.least = if domains < constraint.min_domains { 0 } else { counts.min().unwrap_or(0) };
        }
    }
}

/// True when the pod has hard constraints.
pub fn filters(constraints: &[Spread]) -> bool {
    constraints.iter().any(|constraint| constraint.hard)
}

/// Refuses nodes whose domain would be too far ahead.
pub fn filter(cycle: &Cycle<'_>, info: &NodeInfo) -> Option<Refusal> {
    const REASON: &str = "node(s) didn't match pod topology spread constraints";
    const MISSING: &str = "node(s) didn't match pod topology spread constraints (missing required label)";
    let counted = cycle.constraints.iter().zip(&cycle.spread.counted);
    for (constraint, counted) in counted.filter(|(constraint, _)| constraint.hard) {
        let Some(domain) = counted.tally.column().domain(info) else {
            return Some(Refusal::unresolvable(NAME, MISSING));
        };
        let own = i64::from(constraint.selector.matches_opt(cycle.pod.labels()));
        let here = if counted.present[domain] { counted.tally.sums()[domain] } else { 0 };
        if here + own - counted.least > constraint.max_skew {
            return Some(Refusal::new(NAME, REASON));
        }
    }
    None
}

/// Scores by soft constraints: domains with fewer matching pods are better.
pub fn score(cycle: &Cycle<'_>, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
    let soft: Vec<(&Spread, &Counted)> = cycle
        .constraints
        .iter()
        .zip(&cycle.spread.counted)
        .filter(|(constraint, _)| !constraint.hard)
        .collect();
    if soft.is_empty() {
        return None;
    }
    let all_needed = all_needed(cycle.pod, cycle.settings);
    let counted = |info: &&&NodeInfo| !all_needed || has_labels(&cycle.constraints, false, info);
    let candidates: Vec<bool> = nodes.iter().map(|info| counted(&info)).collect();
    let chosen = || nodes.iter().zip(&candidates).filter(|(_, counted)| **counted).map(|(info, _)| *info);
    let weights: Vec<f64> = soft
        .iter()
        .map(|(constraint, counted)| {
            let domains = if by_host(constraint) {
                chosen().count()
            } else {
                let mut seen = vec![false; counted.tally.column().len()];
                chosen()
                    .filter_map(|info| counted.tally.column().domain(info))
                    .for_each(|at| seen[at] = true);
                seen.into_iter().filter(|seen| *seen).count()
            };
            ((domains + 2) as f64).ln()
        })
        .collect();
    let raw = |info: &NodeInfo| {
        let parts = soft.iter().zip(&weights).filter_map(|((constraint, counted), weight)| {
            if by_host(constraint) {
                info.label(HOSTNAME)?;
            }
            Some(counted.tally.at(info)? as f64 * weight + (constraint.max_skew - 1) as f64)
        });
        parts.sum::<f64>().round() as i64
    };
    let scores: Vec<Option<i64>> =
        nodes.iter().zip(&candidates).map(|(info, counted)| counted.then(|| raw(info))).collect();
    let least = scores.iter().flatten().copied().min().unwrap_or(0);
    let most = scores.iter().flatten().copied().max().unwrap_or(0);
    let scale = |score: Option<i64>| match (score, most) {
        (None, _) => 0,
        (Some(_), 0) => MAX_SCORE,
        (Some(score), most) => MAX_SCORE * (most + least - score) / most,
    };
    Some(scores.into_iter().map(scale).collect())
}
