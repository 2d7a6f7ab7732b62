//! Plans for one pod, and for too many finished ones.

use std::sync::Arc;
use std::time::Duration;

use api::k8s::api::core::v1::{Node, Pod};
use client::plan::Mode;
use client::{DeleteOptions, Key, Meta, Patch, Plan, Step};
use jiff::Timestamp;
use serde_json::json;

use crate::node::is_ready;
use crate::pods;

/// A node must be gone for this long before its pods go: it may be registering again.
const QUARANTINE: Duration = Duration::from_secs(40);
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

fn force(pod: &Pod) -> Step {
    Step::delete(pod, DeleteOptions::uid(pod.uid()).grace(0))
}

/// Marks a pod that nobody runs any more as failed, disrupted when `message` says by what.
fn fail(pod: &Pod, message: Option<&str>, now: Timestamp) -> Option<Step> {
    if pods::is_finished(pod) {
        return None;
    }
    let mut status = json!({"phase": "Failed"});
    if let Some(message) = message {
        status["conditions"] = json!([{
            "type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC", "message": message,
            "lastTransitionTime": api::time::format(now), "observedGeneration": pod.metadata.generation,
        }]);
    }
    let patch = json!({"metadata": {"uid": pod.uid()}, "status": status});
    Some(Step::patch::<Pod>(&Key::of(pod), "status", Patch::Strategic(patch)))
}

fn remove(pod: &Pod, message: Option<&str>, now: Timestamp) -> Plan {
    let mut plan = Plan::none();
    if let Some(step) = fail(pod, message, now) {
        plan.step(step);
    }
    plan.step(force(pod));
    plan
}

/// A pod whose node has been gone since `since`.
pub fn orphan(pod: &Pod, since: Timestamp, now: Timestamp) -> Plan {
    let left = Duration::try_from((since + QUARANTINE).duration_since(now)).unwrap_or(Duration::ZERO);
    if left.is_zero() {
        return remove(pod, Some("PodGC: node no longer exists"), now);
    }
    let mut plan = Plan::none();
    plan.requeue(left);
    plan
}

/// A pod without a node that is being deleted: no agent will ever finish that, and whoever waits for its end (a Job
/// that counts it) must learn of it.
pub fn unscheduled(pod: &Pod, now: Timestamp) -> Plan {
    if pod.is_deleting() { remove(pod, None, now) } else { Plan::none() }
}

pub fn is_out_of_service(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    taints.into_iter().flatten().any(|taint| taint.key == OUT_OF_SERVICE)
}

/// A going pod on a node that somebody declared out of service.
pub fn out_of_service(pod: &Pod, node: &Node, now: Timestamp) -> Plan {
    if !pod.is_deleting() || !is_out_of_service(node) || is_ready(node) {
        return Plan::none();
    }
    remove(pod, Some("PodGC: node is out-of-service"), now)
}

/// The oldest finished pods beyond `keep`; 0 keeps all.
pub fn too_many(pods: &[Arc<Pod>], keep: usize) -> Plan {
    let mut plan = Plan::none();
    let mut finished: Vec<&Arc<Pod>> =
        pods.iter().filter(|pod| pods::is_finished(pod) && !pod.is_deleting()).collect();
    if keep == 0 || finished.len() <= keep {
        return plan;
    }
    finished.sort_by_key(|pod| {
        (pod.metadata.creation_timestamp.as_ref().map(|time| time.0), pod.name().to_owned())
    });
    let excess = finished.len() - keep;
    plan.stage(Mode::Together, finished[..excess].iter().map(|pod| force(pod)).collect());
    plan
}

#[cfg(test)]
mod tests {
    use api::k8s::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    #[test]
    fn orphans_wait_and_the_oldest_finished_go() {
        let pod = |name: &str, phase: &str| -> Pod {
            serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": "n", "uid": name}, "status": {"phase": phase},
            }))
            .expect("a pod")
        };
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(orphan(&pod("a", "Running"), now, now).requeue_after, Some(QUARANTINE));
        assert_eq!(orphan(&pod("a", "Running"), now, now + QUARANTINE).steps().len(), 2);
        let mut going = pod("a", "Pending");
        assert!(unscheduled(&going, now).is_empty());
        going.metadata.deletion_timestamp = Some(Time(now));
        let told: Vec<String> = unscheduled(&going, now).steps().iter().map(|step| step.summary()).collect();
        let failed = r#"patch pods/status n/a {"metadata":{"uid":"a"},"status":{"phase":"Failed"}}"#;
        assert_eq!(told, [failed, "delete pods n/a"]);
        let pods: Vec<Arc<Pod>> = ["a", "b", "c"].map(|name| Arc::new(pod(name, "Failed"))).into();
        assert_eq!(too_many(&pods, 2).steps()[0].summary(), "delete pods n/a");
        assert!(too_many(&pods, 0).is_empty());
    }
}
