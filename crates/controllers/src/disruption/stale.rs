//! Disruptions that were announced on a pod and never came: after a while the pod says so. Watches pods.

use std::time::Duration;

use api::k8s::api::core::v1::{Pod, PodCondition};
use api::k8s::apimachinery::pkg::apis::meta::v1::Time;
use client::{Cache, Key, Meta, Plan, Reconcile, ReconcileError};
use jiff::Timestamp;

use crate::pods;

/// A disruption that has not come by then will not.
const TIMEOUT: Duration = Duration::from_secs(120);
const CONDITION: &str = "DisruptionTarget";
/// The agent may take long between saying so and the pod's end: what it announces never becomes stale.
const BY_AGENT: &str = "TerminationByKubelet";

/// Looks at pods that were told of a disruption.
pub struct Stale {
    /// All pods.
    pub pods: Cache<Pod>,
}

/// The announcement of a disruption on a pod that lives on.
pub fn announced(pod: &Pod) -> Option<&PodCondition> {
    let mut conditions = pod.status.as_ref()?.conditions.iter().flatten();
    let found = conditions.find(|condition| condition.type_ == CONDITION && condition.status == "True")?;
    let lives = !pod.is_deleting() && !pods::is_finished(pod);
    (lives && found.reason.as_deref() != Some(BY_AGENT)).then_some(found)
}

impl Reconcile for Stale {
    fn reconcile(&self, key: &Key, now: Timestamp) -> Result<Plan, ReconcileError> {
        let mut plan = Plan::none();
        let Some(pod) = self.pods.get_key(key) else { return Ok(plan) };
        let Some(condition) = announced(&pod) else { return Ok(plan) };
        let since = condition.last_transition_time.as_ref().map_or(now, |time| time.0);
        let left = TIMEOUT.saturating_sub(Duration::try_from(now.duration_since(since)).unwrap_or_default());
        if left.is_zero() {
            plan.update_status(&withdrawn(&pod, now));
        } else {
            plan.requeue(left);
        }
        Ok(plan)
    }
}

/// The pod with its announcement withdrawn.
fn withdrawn(pod: &Pod, now: Timestamp) -> Pod {
    let mut after = pod.clone();
    let conditions = after.status.get_or_insert_default().conditions.iter_mut().flatten();
    for condition in conditions.filter(|condition| condition.type_ == CONDITION) {
        *condition = PodCondition {
            type_: CONDITION.to_owned(),
            status: "False".to_owned(),
            observed_generation: condition.observed_generation,
            last_transition_time: Some(Time(now)),
            ..PodCondition::default()
        };
    }
    after
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn disruptions_that_do_not_come_are_withdrawn() {
        let now: Timestamp = "2030-01-01T00:10:00Z".parse().expect("a time");
        let check = |change: Value| {
            let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
                "lastTransitionTime": "2030-01-01T00:07:00Z"});
            let mut pod = json!({"metadata": {"name": "p", "namespace": "n"},
                "status": {"phase": "Running", "conditions": [condition]}});
            for (path, value) in change.as_object().into_iter().flatten() {
                let (part, field) = path.split_once('.').expect("two parts");
                let target =
                    if part == "condition" { &mut pod["status"]["conditions"][0] } else { &mut pod[part] };
                target[field] = value.clone();
            }
            let pods = Cache::of([serde_json::from_value(pod).expect("a pod")]);
            let plan = Stale { pods }.reconcile(&Key::new("n", "p"), now).expect("a plan");
            let object = match plan.steps().first() {
                Some(client::Step::Update { object, .. }) => object["status"]["conditions"][0].clone(),
                _ => Value::Null,
            };
            (object["status"].clone(), plan.requeue_after.map_or(0, |delay| delay.as_secs()))
        };
        assert_eq!(check(json!({})), (json!("False"), 0));
        assert_eq!(check(json!({"condition.lastTransitionTime": "2030-01-01T00:09:00Z"})), (Value::Null, 60));
        assert_eq!(check(json!({"metadata.deletionTimestamp": "2030-01-01T00:07:00Z"})), (Value::Null, 0));
        assert_eq!(check(json!({"status.phase": "Failed"})), (Value::Null, 0));
        assert_eq!(check(json!({"condition.reason": "TerminationByKubelet"})), (Value::Null, 0));
        assert_eq!(check(json!({"condition.status": "False"})), (Value::Null, 0));
    }
}
