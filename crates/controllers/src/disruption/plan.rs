//! The plan for one budget.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::k8s::api::core::v1::Pod;
use api::k8s::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use api::k8s::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use api::k8s::apimachinery::pkg::util::intstr::IntOrString;
use api::labels::Selector;
use client::{EventKind, Meta, Plan};
use jiff::Timestamp;

use crate::{pods, template};

/// An eviction that has not shown by then did not happen.
const EVICTION_TIMEOUT: Duration = Duration::from_secs(120);

/// What to do about one budget. `scale` names a pod's controller and how many pods that wants.
pub fn plan(
    budget: &PodDisruptionBudget,
    all: &[Arc<Pod>],
    scale: &dyn Fn(&Pod) -> Option<(String, i32)>,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::none();
    if all.is_empty() {
        plan.event(budget, EventKind::Normal, "NoPods", "No matching pods found");
    }
    let mut status = budget.status.clone().unwrap_or_default();
    match counts(budget, all, scale) {
        Err(error) => {
            let text = format!("Failed to calculate the number of expected pods: {error}");
            plan.event(budget, EventKind::Warning, "CalculateExpectedPodCountFailed", text);
            set_condition(&mut status, budget, "SyncFailed", false, &error, now);
            status.disruptions_allowed = Some(0);
        }
        Ok(Counts { expected, desired, unmanaged }) => {
            if unmanaged {
                plan.event(budget, EventKind::Warning, "UnmanagedPods", unmanaged_text(budget));
            }
            status.disrupted_pods = recent(budget, all, now, &mut plan);
            let evicting = status.disrupted_pods.clone().unwrap_or_default();
            let healthy = all.iter().filter(|pod| {
                !pod.is_deleting() && !evicting.contains_key(pod.name()) && pods::is_ready(pod)
            });
            let healthy = i32::try_from(healthy.count()).unwrap_or(i32::MAX);
            status.current_healthy = Some(healthy);
            status.desired_healthy = Some(desired);
            status.expected_pods = Some(expected);
            let allowed = if expected > 0 { (healthy - desired).max(0) } else { 0 };
            status.disruptions_allowed = Some(allowed);
            let reason = if allowed > 0 { "SufficientPods" } else { "InsufficientPods" };
            set_condition(&mut status, budget, reason, allowed > 0, "", now);
        }
    }
    status.observed_generation = budget.metadata.generation;
    if budget.status.as_ref() != Some(&status) {
        let mut after = budget.clone();
        after.status = Some(status);
        plan.update_status(&after);
    }
    plan
}

/// What a budget is measured by.
struct Counts {
    /// How many pods there should be.
    expected: i32,
    /// How many of them must be healthy.
    desired: i32,
    /// Some pods have no controller that would say how many there should be.
    unmanaged: bool,
}

fn counts(
    budget: &PodDisruptionBudget,
    all: &[Arc<Pod>],
    scale: &dyn Fn(&Pod) -> Option<(String, i32)>,
) -> Result<Counts, String> {
    let spec = budget.spec.clone().unwrap_or_default();
    let present = i32::try_from(all.len()).unwrap_or(i32::MAX);
    let plain = |expected, desired| Counts { expected, desired, unmanaged: false };
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => {
            let counts = expected(all, scale)?;
            let most = template::scaled(Some(most), counts.expected, true).ok_or("invalid maxUnavailable")?;
            Ok(Counts { desired: (counts.expected - most).max(0), ..counts })
        }
        (None, Some(IntOrString::Int(least))) => Ok(plain(present, *least)),
        (None, Some(least)) => {
            let counts = expected(all, scale)?;
            let desired =
                template::scaled(Some(least), counts.expected, true).ok_or("invalid minAvailable")?;
            Ok(Counts { desired, ..counts })
        }
        (None, None) => Ok(plain(0, 0)),
    }
}

/// What the controllers of the pods want together. Pods without a controller do not count, as upstream.
fn expected(all: &[Arc<Pod>], scale: &dyn Fn(&Pod) -> Option<(String, i32)>) -> Result<Counts, String> {
    let mut controllers: BTreeMap<String, i32> = BTreeMap::new();
    let mut unmanaged = false;
    for pod in all {
        match scale(pod) {
            Some((uid, replicas)) => {
                controllers.insert(uid, replicas);
            }
            None if crate::context::controller_of(&**pod).is_none() => unmanaged = true,
            None => return Err(format!("found no controllers for pod {:?}", pod.name())),
        }
    }
    Ok(Counts { expected: controllers.values().sum(), desired: 0, unmanaged })
}

fn unmanaged_text(budget: &PodDisruptionBudget) -> String {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let selector = Selector::from_object(selector).unwrap_or_default();
    format!(
        "Some pods that {selector} selects have no controller, so that their number is not known and disruptions \
         may be counted wrongly; set .spec.minAvailable to a number to count these pods"
    )
}

type Evicting = BTreeMap<String, Time>;

/// Evictions under way that the pods do not show yet.
fn recent(
    budget: &PodDisruptionBudget,
    all: &[Arc<Pod>],
    now: Timestamp,
    plan: &mut Plan,
) -> Option<Evicting> {
    let known = budget.status.as_ref().and_then(|status| status.disrupted_pods.clone())?;
    let mut left = Evicting::new();
    for (name, at) in known {
        let waiting = all.iter().any(|pod| pod.name() == name && !pod.is_deleting());
        let due = at.0 + EVICTION_TIMEOUT;
        if waiting && due > now && !base::mutated("budget-forgets") {
            plan.requeue(Duration::try_from(due.duration_since(now)).unwrap_or(EVICTION_TIMEOUT));
            left.insert(name, at);
        } else if waiting {
            let text =
                format!("Pod {name:?} was expected by PDB {:?} to be deleted but it wasn't", budget.name());
            plan.event(budget, EventKind::Warning, "NotDeleted", text);
        }
    }
    (!left.is_empty()).then_some(left)
}

fn set_condition(
    status: &mut PodDisruptionBudgetStatus,
    budget: &PodDisruptionBudget,
    reason: &str,
    allowed: bool,
    message: &str,
    now: Timestamp,
) {
    let list = status.conditions.get_or_insert_default();
    let state = if allowed { "True" } else { "False" };
    let new = Condition {
        type_: "DisruptionAllowed".to_owned(),
        status: state.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: budget.metadata.generation,
        last_transition_time: Time(now),
    };
    match list.iter_mut().find(|condition| condition.type_ == new.type_) {
        None => list.push(new),
        Some(known) => {
            let since = if known.status == state { known.last_transition_time.clone() } else { Time(now) };
            *known = Condition { last_transition_time: since, ..new };
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn allowance_follows_health() {
        let pod = |name: &str, ready: &str| -> Arc<Pod> {
            let conditions = json!([{"type": "Ready", "status": ready}]);
            let pod = json!({"metadata": {"name": name}, "status": {"conditions": conditions}});
            Arc::new(serde_json::from_value(pod).expect("a pod"))
        };
        let pods = [pod("a", "True"), pod("b", "True"), pod("c", "False")];
        let check = |spec: Value| {
            let budget =
                serde_json::from_value(json!({"metadata": {"name": "b"}, "spec": spec})).expect("a budget");
            let scale = |_: &Pod| Some(("x".to_owned(), 4));
            let plan = plan(&budget, &pods, &scale, Timestamp::UNIX_EPOCH);
            let client::Step::Update { object, .. } = plan.steps()[0] else { panic!("an update") };
            let status = &object["status"];
            let number = |field: &str| status[field].as_i64().unwrap_or(-1);
            let reason = status["conditions"][0]["reason"].as_str().unwrap_or("").to_owned();
            (number("expectedPods"), number("desiredHealthy"), number("disruptionsAllowed"), reason)
        };
        assert_eq!(check(json!({"minAvailable": 1})), (3, 1, 1, "SufficientPods".into()));
        assert_eq!(check(json!({"minAvailable": "50%"})), (4, 2, 0, "InsufficientPods".into()));
        assert_eq!(check(json!({"maxUnavailable": 3})), (4, 1, 1, "SufficientPods".into()));
    }

    #[test]
    fn pods_without_a_controller_do_not_count() {
        let pod = |owners: Value| -> Arc<Pod> {
            let pod = json!({"metadata": {"name": "p", "ownerReferences": owners},
                "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
            Arc::new(serde_json::from_value(pod).expect("a pod"))
        };
        let owner = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "s", "uid": "u", "controller": true}]);
        let pods = [pod(Value::Null), pod(owner)];
        let scale = |pod: &Pod| crate::context::controller_of(pod).map(|owner| (owner.uid.clone(), 2));
        let (counts, spec) = (expected(&pods, &scale).expect("counts"), json!({"maxUnavailable": 1}));
        assert_eq!((counts.expected, counts.unmanaged), (2, true));
        let budget =
            serde_json::from_value(json!({"metadata": {"name": "b"}, "spec": spec})).expect("a budget");
        let plan = plan(&budget, &pods, &scale, Timestamp::UNIX_EPOCH);
        let update = plan.steps().into_iter().find_map(|step| match step {
            client::Step::Update { object, .. } => Some(object),
            _ => None,
        });
        let object = update.expect("an update");
        assert_eq!(object["status"]["currentHealthy"], 2);
        assert_eq!(object["status"]["disruptionsAllowed"], 1);
    }
}
