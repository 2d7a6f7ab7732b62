//! The plan for one pod on a node with NoExecute taints.

use std::time::Duration;

use api::k8s::api::core::v1::{Node, Pod, Taint, Toleration};
use client::{DeleteOptions, EventKind, Key, Meta, Patch, Plan, Step};
use jiff::Timestamp;
use serde_json::json;

/// The node's NoExecute taints.
pub fn taints(node: &Node) -> Vec<Taint> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    taints.into_iter().flatten().filter(|taint| taint.effect == "NoExecute").cloned().collect()
}

/// True when the toleration covers the taint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or("");
    let key = toleration.key.as_deref().unwrap_or("");
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or("Equal") {
        "Exists" => true,
        "" | "Equal" => toleration.value.as_deref().unwrap_or("") == taint.value.as_deref().unwrap_or(""),
        _ => false,
    }
}

/// How long the pod may stay: `None` = for good; zero = not at all.
fn allowed(pod: &Pod, taints: &[Taint]) -> Option<Duration> {
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.clone()).unwrap_or_default();
    let mut shortest: Option<Duration> = None;
    for taint in taints {
        let mut covering = tolerations.iter().filter(|toleration| tolerates(toleration, taint)).peekable();
        if covering.peek().is_none() {
            return Some(Duration::ZERO);
        }
        for seconds in covering.filter_map(|toleration| toleration.toleration_seconds) {
            let limit = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
            shortest = Some(shortest.map_or(limit, |known| known.min(limit)));
        }
    }
    shortest
}

/// Evicts the pod now, later, or never. `since` is when the taints were first seen on its node.
pub fn plan(pod: &Pod, taints: &[Taint], since: Timestamp, now: Timestamp) -> Plan {
    let mut plan = Plan::none();
    let Some(limit) = allowed(pod, taints) else { return plan };
    let left = Duration::try_from((since + limit).duration_since(now)).unwrap_or(Duration::ZERO);
    if !left.is_zero() {
        plan.requeue(left);
        return plan;
    }
    let text = format!("Marking for deletion Pod {}/{}", pod.namespace(), pod.name());
    plan.event(pod, EventKind::Normal, "TaintManagerEviction", text);
    plan.step(disruption(
        pod,
        "DeletionByTaintManager",
        "Taint manager: deleting due to NoExecute taint",
        now,
    ));
    plan.step(Step::delete(pod, DeleteOptions::uid(pod.uid())));
    plan
}

/// The step that tells in the pod's status why it is being removed.
pub fn disruption(pod: &Pod, reason: &str, message: &str, now: Timestamp) -> Step {
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": reason, "message": message,
        "lastTransitionTime": api::time::format(now),
        "observedGeneration": pod.metadata.generation,
    });
    let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [condition]}});
    Step::patch::<Pod>(&Key::of(pod), "status", Patch::Strategic(patch))
}

/// The taints went before the pod had to.
pub fn cancelled(pod: &Pod) -> Plan {
    let mut plan = Plan::none();
    let text = format!("Cancelling deletion of Pod {}/{}", pod.namespace(), pod.name());
    plan.event(pod, EventKind::Normal, "TaintManagerEviction", text);
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerations_delay_or_prevent() {
        let taint = Taint { key: "k".into(), effect: "NoExecute".into(), ..Taint::default() };
        let pod = |tolerations: serde_json::Value| -> Pod {
            serde_json::from_value(json!({
                "metadata": {"name": "p", "namespace": "n", "uid": "u"},
                "spec": {"containers": [], "tolerations": tolerations},
            }))
            .expect("a pod")
        };
        let now = Timestamp::UNIX_EPOCH;
        let check = |tolerations, at: u64| {
            let plan =
                plan(&pod(tolerations), std::slice::from_ref(&taint), now, now + Duration::from_secs(at));
            (plan.steps().len(), plan.requeue_after.map(|wait| wait.as_secs()))
        };
        assert_eq!(check(json!([]), 0), (3, None));
        assert_eq!(check(json!([{"operator": "Exists"}]), 0), (0, None));
        let timed = json!([{"key": "k", "operator": "Exists", "tolerationSeconds": 300}]);
        assert_eq!(check(timed.clone(), 0), (0, Some(300)));
        assert_eq!(check(timed, 300), (3, None));
    }
}
