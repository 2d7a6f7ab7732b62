//! A Deployment's status: counts and conditions.

use std::time::Duration;

use api::k8s::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use api::k8s::apimachinery::pkg::apis::meta::v1::Time;
use client::Meta;
use jiff::Timestamp;

use super::sets;

/// A deadline this large means none.
const NO_DEADLINE: i32 = i32::MAX;

pub fn condition<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == kind)
}

pub fn new_condition(
    kind: &str,
    state: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) -> DeploymentCondition {
    DeploymentCondition {
        type_: kind.to_owned(),
        status: state.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: Some(Time(now)),
        last_update_time: Some(Time(now)),
    }
}

/// Sets a condition; one with the same status and reason stays as it is.
pub fn set_condition(status: &mut DeploymentStatus, mut condition: DeploymentCondition) {
    let list = status.conditions.get_or_insert_default();
    if let Some(at) = list.iter().position(|known| known.type_ == condition.type_) {
        if list[at].status == condition.status && list[at].reason == condition.reason {
            return;
        }
        if list[at].status == condition.status {
            condition.last_transition_time = list[at].last_transition_time.clone();
        }
        list.remove(at);
    }
    list.push(condition);
}

pub fn remove_condition(status: &mut DeploymentStatus, kind: &str) {
    if let Some(list) = &mut status.conditions {
        list.retain(|condition| condition.type_ != kind);
        if list.is_empty() {
            status.conditions = None;
        }
    }
}

pub fn deadline(deployment: &Deployment) -> Option<Duration> {
    let seconds = deployment.spec.as_ref()?.progress_deadline_seconds?;
    (seconds != NO_DEADLINE).then(|| Duration::from_secs(u64::from(seconds.unsigned_abs())))
}

fn nonzero(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

fn terminating(all: &[&ReplicaSet]) -> Option<i32> {
    let mut sum = 0;
    for set in all {
        match set.status.as_ref().and_then(|status| status.terminating_replicas) {
            Some(count) => sum += count,
            None if sets::observed(set) == 0 => {}
            None => return None,
        }
    }
    Some(sum)
}

/// The counts that follow from the ReplicaSets, and the Available condition.
pub fn counts(
    deployment: &Deployment,
    all: &[&ReplicaSet],
    new: Option<&ReplicaSet>,
    now: Timestamp,
) -> DeploymentStatus {
    let old = deployment.status.clone().unwrap_or_default();
    let spec = deployment.spec.clone().unwrap_or_default();
    let sum = |count: fn(&ReplicaSet) -> i32| all.iter().map(|set| count(set)).sum::<i32>();
    let available = sum(sets::available);
    let mut status = DeploymentStatus {
        observed_generation: deployment.meta().generation,
        replicas: nonzero(sum(sets::actual)),
        updated_replicas: nonzero(new.map_or(0, sets::actual)),
        ready_replicas: nonzero(sum(sets::ready)),
        available_replicas: nonzero(available),
        unavailable_replicas: nonzero((sum(sets::replicas) - available).max(0)),
        terminating_replicas: terminating(all),
        collision_count: old.collision_count,
        conditions: old.conditions,
    };
    let enough = available >= sets::wanted(&spec) - sets::max_unavailable(&spec);
    let condition = if enough {
        let text = "Deployment has minimum availability.".to_owned();
        new_condition("Available", "True", "MinimumReplicasAvailable", text, now)
    } else {
        let text = "Deployment does not have minimum availability.".to_owned();
        new_condition("Available", "False", "MinimumReplicasUnavailable", text, now)
    };
    set_condition(&mut status, condition);
    status
}

pub fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = deployment.spec.as_ref().map_or(1, sets::wanted);
    status.updated_replicas.unwrap_or(0) == wanted
        && status.replicas.unwrap_or(0) == wanted
        && status.available_replicas.unwrap_or(0) == wanted
        && status.observed_generation >= deployment.meta().generation
}

fn has_progressed(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let number = |count: Option<i32>| count.unwrap_or(0);
    let outdated = |status: &DeploymentStatus| number(status.replicas) - number(status.updated_replicas);
    number(new.updated_replicas) > number(old.updated_replicas)
        || outdated(new) < outdated(old)
        || number(new.ready_replicas) > number(old.ready_replicas)
        || number(new.available_replicas) > number(old.available_replicas)
}

fn has_timed_out(limit: Duration, status: &DeploymentStatus, now: Timestamp) -> bool {
    let Some(condition) = condition(status, "Progressing") else { return false };
    match condition.reason.as_deref() {
        Some("NewReplicaSetAvailable") => false,
        Some("ProgressDeadlineExceeded") => true,
        _ => condition.last_update_time.as_ref().is_some_and(|from| from.0 + limit < now),
    }
}

/// Counts and conditions during a rollout: Progressing and ReplicaFailure besides Available.
pub fn rollout(
    deployment: &Deployment,
    all: &[&ReplicaSet],
    new: Option<&ReplicaSet>,
    now: Timestamp,
) -> DeploymentStatus {
    let old = deployment.status.clone().unwrap_or_default();
    let mut status = counts(deployment, all, new, now);
    let current = condition(&old, "Progressing").cloned();
    let settled = status.replicas == status.updated_replicas
        && current.as_ref().is_some_and(|known| known.reason.as_deref() == Some("NewReplicaSetAvailable"));
    match deadline(deployment) {
        None => remove_condition(&mut status, "Progressing"),
        Some(limit) if !settled => progress(deployment, new, limit, current, &mut status, now),
        Some(_) => {}
    }
    let failure = |set: &ReplicaSet| {
        let status = set.status.as_ref()?;
        status.conditions.iter().flatten().find(|condition| condition.type_ == "ReplicaFailure").cloned()
    };
    match new.and_then(failure).or_else(|| all.iter().find_map(|set| failure(set))) {
        None => remove_condition(&mut status, "ReplicaFailure"),
        Some(found) => {
            let time = found.last_transition_time;
            set_condition(
                &mut status,
                DeploymentCondition {
                    type_: found.type_,
                    status: found.status,
                    reason: found.reason,
                    message: found.message,
                    last_update_time: time.clone(),
                    last_transition_time: time,
                },
            );
        }
    }
    status
}

fn progress(
    deployment: &Deployment,
    new: Option<&ReplicaSet>,
    limit: Duration,
    current: Option<DeploymentCondition>,
    status: &mut DeploymentStatus,
    now: Timestamp,
) {
    let who = match new {
        Some(set) => format!("ReplicaSet {:?}", set.name()),
        None => format!("Deployment {:?}", deployment.name()),
    };
    let old = deployment.status.clone().unwrap_or_default();
    if is_complete(deployment, status) {
        let text = format!("{who} has successfully progressed.");
        set_condition(status, new_condition("Progressing", "True", "NewReplicaSetAvailable", text, now));
    } else if has_progressed(&old, status) {
        let text = format!("{who} is progressing.");
        let mut condition = new_condition("Progressing", "True", "ReplicaSetUpdated", text, now);
        if let Some(current) = current {
            if current.status == "True" {
                condition.last_transition_time = current.last_transition_time;
            }
            remove_condition(status, "Progressing");
        }
        set_condition(status, condition);
    } else if has_timed_out(limit, status, now) {
        let text = format!("{who} has timed out progressing.");
        set_condition(status, new_condition("Progressing", "False", "ProgressDeadlineExceeded", text, now));
    }
}

/// When to look again whether the deadline has passed, if the rollout is under way.
pub fn check_again(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> Option<Duration> {
    let limit = deadline(deployment)?;
    let current = condition(status, "Progressing")?;
    let reason = current.reason.as_deref();
    if is_complete(deployment, status)
        || matches!(reason, Some("ProgressDeadlineExceeded" | "NewReplicaSetAvailable"))
    {
        return None;
    }
    let due = current.last_update_time.as_ref()?.0 + limit;
    let left = Duration::try_from(due.duration_since(now)).unwrap_or(Duration::ZERO);
    Some(left + Duration::from_secs(1))
}
