//! Facts about pods that several controllers share: readiness, availability, order of removal, making one from
//! a template.

use std::cmp::Ordering;
use std::time::Duration;

use api::k8s::api::core::v1::{Pod, PodCondition, PodTemplateSpec};
use api::k8s::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use client::Meta;
use jiff::Timestamp;

/// The pod's phase; empty before the first status.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("")
}

/// The pod's node; empty while it has none.
pub fn node(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or("")
}

/// True when all containers have ended for good.
pub fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// True when the pod counts as a replica: neither finished nor going.
pub fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && !pod.is_deleting()
}

/// True when the pod is going but has not finished.
pub fn is_terminating(pod: &Pod) -> bool {
    !is_finished(pod) && pod.is_deleting()
}

/// A condition of the pod.
pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

/// True when the Ready condition holds.
pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|condition| condition.status == "True")
}

/// When the pod became ready, if it is.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|condition| condition.status == "True")?;
    ready.last_transition_time.as_ref().map(|time| time.0)
}

/// How long until a ready pod counts as available; zero when it does, `None` when it is not ready.
pub fn available_in(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Option<Duration> {
    if !is_ready(pod) {
        return None;
    }
    if min_ready_seconds <= 0 {
        return Some(Duration::ZERO);
    }
    let since = ready_since(pod)?;
    let due = since + Duration::from_secs(u64::from(min_ready_seconds.unsigned_abs()));
    Some(Duration::try_from(due.duration_since(now)).unwrap_or(Duration::ZERO))
}

/// True when the pod has been ready for long enough.
pub fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    available_in(pod, min_ready_seconds, now).is_some_and(|left| left.is_zero())
}

/// The most restarts of any of the pod's containers, those of restartable init containers counted apart.
fn restarts(pod: &Pod) -> (i32, i32) {
    let Some(status) = &pod.status else { return (0, 0) };
    let most = |list: &Option<Vec<api::k8s::api::core::v1::ContainerStatus>>| {
        list.iter().flatten().map(|container| container.restart_count).max().unwrap_or(0)
    };
    (most(&status.container_statuses), most(&status.init_container_statuses))
}

/// The wish written in the annotation `controller.kubernetes.io/pod-deletion-cost`: cheap pods go first.
fn deletion_cost(pod: &Pod) -> i32 {
    pod.annotation("controller.kubernetes.io/pod-deletion-cost")
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

/// The binary logarithm of an age in nanoseconds: ages of the same magnitude count as equal.
fn magnitude(since: Option<Timestamp>, now: Timestamp) -> i32 {
    let Some(since) = since else { return -1 };
    let nanos = now.duration_since(since).as_nanos();
    if nanos <= 0 { -1 } else { i32::try_from(nanos.ilog2()).unwrap_or(i32::MAX) }
}

/// Orders pods by who should go first, as upstream's `ActivePodsWithRanks`. `rank` counts the pod's neighbours
/// of the same kind on its node.
pub fn removal_order(a: (&Pod, usize), b: (&Pod, usize), now: Timestamp) -> Ordering {
    let ((a, rank_a), (b, rank_b)) = (a, b);
    let assigned = |pod: &Pod| !node(pod).is_empty();
    let phase_rank = |pod: &Pod| match phase(pod) {
        "Pending" => 0,
        "Unknown" => 1,
        "Running" => 2,
        _ => 0,
    };
    let both_ready = is_ready(a) && is_ready(b);
    let since = |pod: &Pod| ready_since(pod);
    let created = |pod: &Pod| pod.meta().creation_timestamp.as_ref().map(|time| time.0);
    // Younger first, by magnitude of age. What is told apart by nothing goes by uid at the very end, not at the first
    // equal magnitude as upstream has it: that would be no order (three pods could each come before the next).
    let by_age = |x: Option<Timestamp>, y: Option<Timestamp>| match (x, y) {
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
        _ => magnitude(x, now).cmp(&magnitude(y, now)),
    };
    assigned(a)
        .cmp(&assigned(b))
        .then_with(|| phase_rank(a).cmp(&phase_rank(b)))
        .then_with(|| is_ready(a).cmp(&is_ready(b)))
        .then_with(|| deletion_cost(a).cmp(&deletion_cost(b)))
        .then_with(|| rank_b.cmp(&rank_a))
        .then_with(|| if both_ready { by_age(since(a), since(b)) } else { Ordering::Equal })
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| by_age(created(a), created(b)))
        .then_with(|| a.uid().cmp(b.uid()))
}

/// A pod made from a template, named after its owner.
pub fn from_template(
    template: &PodTemplateSpec,
    namespace: &str,
    generate_name: &str,
    owner: OwnerReference,
) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(generate_name.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// The beginning of the names of an owner's pods: the owner's name and a dash, if that can begin a name.
pub fn name_prefix(owner: &str) -> String {
    let dashed = format!("{owner}-");
    // A generated name replaces the trailing dash by more letters, so the prefix is judged without it.
    if api::names::dns1123_subdomain(&dashed[..dashed.len() - 1]).is_empty() {
        dashed
    } else {
        owner.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A sort may end the process when its order is none.
    #[test]
    fn removal_has_an_order() {
        let now: Timestamp = "2030-01-01T00:10:00Z".parse().expect("a time");
        let pod = |n: usize| -> Pod {
            let time = |seconds: usize| format!("2030-01-01T00:{:02}:{:02}Z", seconds / 60, seconds % 60);
            let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": time(n * 7 % 11)});
            let container =
                json!({"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": n % 3});
            serde_json::from_value(json!({
                "metadata": {"uid": format!("{}", n * 5 % 13), "creationTimestamp": time(n % 4)},
                "spec": {"nodeName": "n", "containers": []},
                "status": {"phase": "Running", "conditions": [ready], "containerStatuses": [container]},
            }))
            .expect("a pod")
        };
        let pods: Vec<Pod> = (0..13).map(pod).collect();
        let less = |a: usize, b: usize| removal_order((&pods[a], 0), (&pods[b], 0), now) == Ordering::Less;
        for (a, b) in (0..13).flat_map(|a| (0..13).map(move |b| (a, b))).filter(|(a, b)| a != b) {
            assert_ne!(less(a, b), less(b, a), "{a} and {b}");
            (0..13).for_each(|c| assert!(!(less(a, b) && less(b, c)) || less(a, c), "{a}, {b}, {c}"));
        }
    }
}
