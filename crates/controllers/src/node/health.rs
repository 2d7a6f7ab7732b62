//! The plan for one node's conditions and taints.

use std::sync::Arc;
use std::time::Duration;

use api::k8s::api::core::v1::{Node, NodeCondition, Pod, Taint};
use api::k8s::apimachinery::pkg::apis::meta::v1::Time;
use client::plan::About;
use client::{EventKind, Key, Meta, Patch, Plan, Step};
use jiff::Timestamp;
use serde_json::json;

use super::zone::Eviction;
use crate::pods;

/// A node that never reported has this long to begin.
const STARTUP_GRACE: Duration = Duration::from_secs(60);
/// The taint of a node whose Ready condition is false.
pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// The taint of a node that has not been heard of.
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// Condition, its status, and the NoSchedule taint that follows.
const CONDITION_TAINTS: &[(&str, &str, &str)] = &[
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

/// `True`, `False`, `Unknown`, or empty before the first report.
pub fn ready_state(node: &Node) -> &str {
    condition(node, "Ready").map_or("", |condition| condition.status.as_str())
}

/// When the node last reported, by its own clock.
pub fn heartbeat(node: &Node) -> Option<Timestamp> {
    condition(node, "Ready")?.last_heartbeat_time.as_ref().map(|time| time.0)
}

/// Tells that a node has come.
pub fn registered(node: &Node, plan: &mut Plan) {
    let name = node.name();
    let text = format!("Node {name} event: Registered Node {name} in Controller");
    plan.event(node, EventKind::Normal, "RegisteredNode", text);
}

/// Tells that a node is gone.
pub fn removed(name: &str) -> Plan {
    let mut plan = Plan::none();
    let about = About {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: name.to_owned(),
        ..About::default()
    };
    let text = format!("Node {name} event: Removing Node {name} from Controller");
    plan.step(Step::event(about, EventKind::Normal, "RemovingNode", text));
    plan
}

/// What to do about one node that has been silent for `silence`. `evict` is asked whether its pods may be removed,
/// and told whether that has begun.
pub fn plan(
    node: &Node,
    silence: Duration,
    grace: Duration,
    evict: impl FnOnce(bool) -> Eviction,
    pods: impl FnOnce() -> Vec<Arc<Pod>>,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::none();
    let limit = if condition(node, "Ready").is_none() { STARTUP_GRACE.max(grace) } else { grace };
    let mut after = node.clone();
    if silence >= limit {
        mark_unknown(&mut after, now);
        if after.status != node.status {
            // Taints follow when the cache shows this: one write of the node at a time.
            plan.update_status(&after);
            return plan;
        }
    } else {
        plan.requeue(limit - silence);
    }
    let taints = wanted_taints(&after, evict, now, &mut plan);
    if taints != node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default() {
        // The version guards taints that somebody else sets meanwhile.
        let version = &node.metadata.resource_version;
        plan.merge(node, json!({"metadata": {"resourceVersion": version}, "spec": {"taints": taints}}));
    }
    if matches!(ready_state(&after), "False" | "Unknown") {
        disown_pods(node, &pods(), now, &mut plan);
    }
    plan
}

/// Conditions that only the node can know become unknown.
fn mark_unknown(node: &mut Node, now: Timestamp) {
    let created = node.metadata.creation_timestamp.clone();
    let list = node.status.get_or_insert_default().conditions.get_or_insert_default();
    for kind in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"] {
        match list.iter_mut().find(|condition| condition.type_ == kind) {
            None => list.push(NodeCondition {
                type_: kind.to_owned(),
                status: "Unknown".to_owned(),
                reason: Some("NodeStatusNeverUpdated".to_owned()),
                message: Some("Kubelet never posted node status.".to_owned()),
                last_heartbeat_time: created.clone(),
                last_transition_time: Some(Time(now)),
            }),
            Some(condition) if condition.status != "Unknown" => {
                condition.status = "Unknown".to_owned();
                condition.reason = Some("NodeStatusUnknown".to_owned());
                condition.message = Some("Kubelet stopped posting node status.".to_owned());
                condition.last_transition_time = Some(Time(now));
            }
            Some(_) => {}
        }
    }
}

/// The node's taints with those that follow from its conditions.
fn wanted_taints(
    node: &Node,
    evict: impl FnOnce(bool) -> Eviction,
    now: Timestamp,
    plan: &mut Plan,
) -> Vec<Taint> {
    let spec = node.spec.clone().unwrap_or_default();
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    for (kind, status, taint) in CONDITION_TAINTS {
        if condition(node, kind).is_some_and(|condition| condition.status == *status) {
            wanted.push((taint, "NoSchedule"));
        }
    }
    if spec.unschedulable == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let evicting = match ready_state(node) {
        "False" => Some(NOT_READY),
        "Unknown" => Some(UNREACHABLE),
        _ => None,
    };
    if let Some(key) = evicting {
        let begun =
            spec.taints.iter().flatten().any(|taint| {
                taint.effect == "NoExecute" && (taint.key == NOT_READY || taint.key == UNREACHABLE)
            });
        match evict(begun) {
            Eviction::Now => wanted.push((key, "NoExecute")),
            Eviction::Later(wait) => drop(plan.requeue(wait)),
            Eviction::Paused if begun => wanted.push((key, "NoExecute")),
            Eviction::Paused | Eviction::Never => {}
        }
    }
    let managed = |taint: &Taint| match taint.effect.as_str() {
        "NoSchedule" => {
            taint.key == UNSCHEDULABLE || CONDITION_TAINTS.iter().any(|(_, _, key)| *key == taint.key)
        }
        "NoExecute" => taint.key == NOT_READY || taint.key == UNREACHABLE,
        _ => false,
    };
    let is_wanted =
        |taint: &Taint| wanted.iter().any(|(key, effect)| taint.key == *key && taint.effect == *effect);
    let mut taints: Vec<Taint> = spec
        .taints
        .clone()
        .unwrap_or_default()
        .into_iter()
        .filter(|taint| !managed(taint) || is_wanted(taint))
        .collect();
    for (key, effect) in wanted {
        if !taints.iter().any(|taint| taint.key == key && taint.effect == effect) {
            let time_added = Some(Time(now));
            taints.push(Taint { key: key.to_owned(), effect: effect.to_owned(), time_added, value: None });
        }
    }
    taints
}

/// Pods of a node that is not ready are not ready either, whatever they last said.
fn disown_pods(node: &Node, all: &[Arc<Pod>], now: Timestamp, plan: &mut Plan) {
    let mut steps = Vec::new();
    for pod in all.iter().filter(|pod| pods::is_ready(pod) && !pods::is_finished(pod)) {
        let condition =
            json!({"type": "Ready", "status": "False", "lastTransitionTime": api::time::format(now)});
        let patch = Patch::Strategic(json!({"status": {"conditions": [condition]}}));
        steps.push(Step::patch::<Pod>(&Key::of(&**pod), "status", patch));
        let about = About::of(&**pod);
        steps.push(Step::event(about, EventKind::Warning, "NodeNotReady", "Node is not ready"));
    }
    if !steps.is_empty() {
        let text = format!("Node {} status is now: NodeNotReady", node.name());
        steps.push(Step::event(About::of(node), EventKind::Normal, "NodeNotReady", text));
    }
    plan.stage(client::plan::Mode::Together, steps);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(ready: &str) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "a", "resourceVersion": "1"},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        }))
        .expect("a node")
    }

    fn taints(plan: &Plan) -> String {
        plan.steps().iter().map(|step| step.summary()).filter(|text| text.contains("taints")).collect()
    }

    #[test]
    fn silent_nodes_become_unknown_and_tainted() {
        let (now, grace) = (Timestamp::UNIX_EPOCH, Duration::from_secs(50));
        let plan = |node: &Node, silence, down| {
            let evict = |_| if down { Eviction::Never } else { Eviction::Now };
            super::plan(node, Duration::from_secs(silence), grace, evict, Vec::new, now)
        };
        let healthy = plan(&node("True"), 10, false);
        assert!(healthy.is_empty() && healthy.requeue_after == Some(Duration::from_secs(40)));
        let silent = plan(&node("True"), 50, false);
        let client::Step::Update { object, .. } = silent.steps()[0] else { panic!("an update") };
        let unknown: Node = serde_json::from_value(object.clone()).expect("a node");
        let tainted = plan(&unknown, 50, false);
        assert!(taints(&tainted).contains("unreachable") && taints(&tainted).contains("NoExecute"));
        assert!(!taints(&plan(&unknown, 50, true)).contains("NoExecute"), "nobody is healthy");
    }

    #[test]
    fn conditions_become_taints_and_go() {
        let now = Timestamp::UNIX_EPOCH;
        let mut bad = node("True");
        bad.spec = serde_json::from_value(json!({
            "unschedulable": true,
            "taints": [{"key": NOT_READY, "effect": "NoSchedule"}, {"key": "mine", "effect": "NoExecute"}],
        }))
        .expect("a spec");
        let grace = Duration::from_secs(50);
        let plan = super::plan(&bad, Duration::ZERO, grace, |_| Eviction::Now, Vec::new, now);
        let text = taints(&plan);
        assert!(
            text.contains("mine") && text.contains("unschedulable") && !text.contains("not-ready"),
            "{text}"
        );
    }
}
