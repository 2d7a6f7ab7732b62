//! Facts about a Deployment's ReplicaSets: sizes, revisions, annotations, which one is new.

use std::collections::BTreeMap;

use api::k8s::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};
use client::Meta;

use crate::template;

pub const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAXIMUM: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations that a Deployment does not hand to its ReplicaSets.
const OWN: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED,
    MAXIMUM,
    "deprecated.deployment.rollback.to",
];
/// A longer list of old revisions is cut at its beginning.
const MAX_HISTORY_CHARS: usize = 2_000;

pub fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

pub fn set_replicas(set: &mut ReplicaSet, count: i32) {
    set.spec.get_or_insert_default().replicas = Some(count);
}

pub fn actual(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |status| status.replicas)
}

pub fn ready(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0)
}

pub fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

pub fn observed(set: &ReplicaSet) -> i64 {
    set.status.as_ref().and_then(|status| status.observed_generation).unwrap_or(0)
}

pub fn wanted(spec: &DeploymentSpec) -> i32 {
    spec.replicas.unwrap_or(1)
}

pub fn is_rolling(spec: &DeploymentSpec) -> bool {
    let kind = spec.strategy.as_ref().and_then(|strategy| strategy.type_.as_deref());
    kind.is_none_or(|kind| kind == "RollingUpdate")
}

/// The pods above and below the wanted number that a rollout may have; never both zero.
fn fenceposts(spec: &DeploymentSpec) -> (i32, i32) {
    let rolling = spec.strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
    let replicas = wanted(spec);
    let surge = rolling.and_then(|rolling| template::scaled(rolling.max_surge.as_ref(), replicas, true));
    let below =
        rolling.and_then(|rolling| template::scaled(rolling.max_unavailable.as_ref(), replicas, false));
    match (surge.unwrap_or(0), below.unwrap_or(0)) {
        (0, 0) => (0, 1),
        other => other,
    }
}

pub fn max_surge(spec: &DeploymentSpec) -> i32 {
    if is_rolling(spec) { fenceposts(spec).0 } else { 0 }
}

pub fn max_unavailable(spec: &DeploymentSpec) -> i32 {
    if !is_rolling(spec) || wanted(spec) == 0 { 0 } else { fenceposts(spec).1.min(wanted(spec)) }
}

pub fn revision(set: &ReplicaSet) -> i64 {
    set.annotation(REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

pub fn desired(set: &ReplicaSet) -> Option<i32> {
    set.annotation(DESIRED)?.parse().ok().filter(|count| *count >= 0)
}

pub fn maximum(set: &ReplicaSet) -> Option<i32> {
    set.annotation(MAXIMUM)?.parse().ok().filter(|count| *count >= 0)
}

fn created(set: &ReplicaSet) -> (Option<jiff::Timestamp>, String) {
    (set.meta().creation_timestamp.as_ref().map(|time| time.0), set.name().to_owned())
}

pub fn sort_oldest_first(sets: &mut [ReplicaSet]) {
    sets.sort_by_key(created);
}

/// The index of the oldest set with the Deployment's template.
pub fn find_new(spec: &DeploymentSpec, sets: &[ReplicaSet]) -> Option<usize> {
    let matches = |set: &ReplicaSet| {
        let own = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
        own.is_some_and(|own| template::same(own, &spec.template))
    };
    (0..sets.len()).filter(|index| matches(&sets[*index])).min_by_key(|index| created(&sets[*index]))
}

fn put(annotations: &mut BTreeMap<String, String>, key: &str, value: &str) -> bool {
    if annotations.get(key).is_some_and(|known| known == value) {
        return false;
    }
    annotations.insert(key.to_owned(), value.to_owned());
    true
}

/// Notes the numbers a proportional scaling needs; true when they changed.
pub fn note_replicas(set: &mut ReplicaSet, spec: &DeploymentSpec) -> bool {
    let (desired, maximum) = (wanted(spec).to_string(), (wanted(spec) + max_surge(spec)).to_string());
    let annotations = set.metadata.annotations.get_or_insert_default();
    let changed = put(annotations, DESIRED, &desired);
    put(annotations, MAXIMUM, &maximum) || changed
}

/// Copies the Deployment's annotations and raises the revision; true when something changed.
pub fn annotate_new(deployment: &Deployment, set: &mut ReplicaSet, revision: i64) -> bool {
    let annotations = set.metadata.annotations.get_or_insert_default();
    let mut changed = false;
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if !OWN.contains(&key.as_str()) {
            changed |= put(annotations, key, value);
        }
    }
    let old = annotations.get(REVISION).cloned();
    let Ok(known) = old.as_deref().unwrap_or("0").parse::<i64>() else { return changed };
    if known >= revision {
        return changed;
    }
    annotations.insert(REVISION.to_owned(), revision.to_string());
    // A rollback: the numbers this set had before are kept.
    if let Some(old) = old {
        let history = annotations.get(HISTORY).cloned().unwrap_or_default();
        let mut entries: Vec<&str> = history.split(',').filter(|entry| !entry.is_empty()).collect();
        entries.push(&old);
        while entries.join(",").len() > MAX_HISTORY_CHARS {
            entries.remove(0);
        }
        let joined = entries.join(",");
        annotations.insert(HISTORY.to_owned(), joined);
    }
    true
}
