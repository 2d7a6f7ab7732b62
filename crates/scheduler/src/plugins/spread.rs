//! PodTopologySpread: pods of one selector evenly over domains of nodes (KEP-895).

use std::borrow::Cow;
use std::collections::HashMap;

use api::k8s::api::apps::v1::{ReplicaSet, StatefulSet};
use api::k8s::api::core::v1::{Pod, ReplicationController, Service};
use api::labels::{Operator, Requirement, Selector};
use client::Cache;

use super::{Cycle, MAX_SCORE, Refusal, node};
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

fn hard(constraints: &[Spread]) -> impl Iterator<Item = &Spread> {
    constraints.iter().filter(|constraint| constraint.hard)
}

impl FilterState {
    /// Counts the pods that match the hard ones of the pod's constraints.
    pub fn new(constraints: &[Spread], pod: &PodInfo, snapshot: &Snapshot) -> FilterState {
        let mut counts: Vec<HashMap<String, i64>> = hard(constraints).map(|_| HashMap::new()).collect();
        if counts.is_empty() {
            return FilterState::default();
        }
        for info in snapshot.nodes() {
            // A node counts only when it has the label of every constraint.
            if !hard(constraints).all(|constraint| info.label(&constraint.topology_key).is_some()) {
                continue;
            }
            for (constraint, counts) in hard(constraints).zip(&mut counts) {
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
    for (constraint, counts) in hard(&cycle.constraints).zip(&cycle.spread.counts) {
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
    let soft: Vec<&Spread> = cycle.constraints.iter().filter(|constraint| !constraint.hard).collect();
    if soft.is_empty() {
        return None;
    }
    // The cluster's own defaults spread by host where there are no zones.
    let all_needed = !pod.spread.is_empty() || cycle.settings.default_spread.is_some();
    let counted = |info: &NodeInfo| !all_needed || soft.iter().all(|c| info.label(&c.topology_key).is_some());
    let tables = domains(cycle, &soft, nodes, &counted);
    let candidates = nodes.iter().filter(|info| counted(info)).count();
    let raw = |info: &&NodeInfo| {
        counted(info).then(|| {
            let parts = soft.iter().zip(&tables).filter_map(|(constraint, table)| {
                let domain = info.label(&constraint.topology_key)?;
                let by_host = constraint.topology_key == HOSTNAME;
                let count = if by_host {
                    matching(constraint, &pod.namespace, info)
                } else {
                    table.get(domain).copied().unwrap_or(0)
                };
                let domains = if by_host { candidates } else { table.len() };
                Some(count as f64 * ((domains + 2) as f64).ln() + (constraint.max_skew - 1) as f64)
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

/// Matching pods a domain of the candidates, one table a constraint; hosts are counted where they are scored.
fn domains<'a>(
    cycle: &'a Cycle<'_>,
    soft: &[&Spread],
    nodes: &[&'a NodeInfo],
    counted: &dyn Fn(&NodeInfo) -> bool,
) -> Vec<HashMap<&'a str, i64>> {
    let mut tables: Vec<HashMap<&str, i64>> = soft.iter().map(|_| HashMap::new()).collect();
    for info in nodes.iter().filter(|info| counted(info)) {
        for (constraint, table) in soft.iter().zip(&mut tables) {
            if let Some(domain) =
                info.label(&constraint.topology_key).filter(|_| constraint.topology_key != HOSTNAME)
            {
                table.entry(domain).or_default();
            }
        }
    }
    if tables.iter().all(HashMap::is_empty) {
        return tables;
    }
    for info in cycle.snapshot.nodes().iter().filter(|info| counted(info)) {
        for (constraint, table) in soft.iter().zip(&mut tables) {
            let count = info.label(&constraint.topology_key).and_then(|domain| table.get_mut(domain));
            if let Some(count) = count.filter(|_| counts_node(cycle.pod, constraint, info)) {
                *count += matching(constraint, &cycle.pod.namespace, info);
            }
        }
    }
    tables
}
