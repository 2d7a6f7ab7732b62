//! The pod row: its STATUS text sums up phase, conditions and container states as upstream does.

use jiff::Timestamp;
use serde_json::Value;

use super::age;
use crate::tree::Tree;

/// What the container loops gather.
struct Summary {
    reason: String,
    ready: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
    /// Restarts of sidecars, which count on after initialization.
    sidecar_restarts: i64,
    sidecar_last_restart: Option<Timestamp>,
}

/// Cells of a pod.
pub fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let mut summary = Summary {
        reason: base_reason(pod),
        ready: 0,
        restarts: 0,
        last_restart: None,
        sidecar_restarts: 0,
        sidecar_last_restart: None,
    };
    let initializing = init_containers(pod, &mut summary);
    if !initializing || condition(pod, "Initialized") {
        summary.restarts = summary.sidecar_restarts;
        summary.last_restart = summary.sidecar_last_restart;
        main_containers(pod, &mut summary);
    }
    if pod.has("metadata.deletionTimestamp") {
        if pod.text("status.reason") == "NodeLost" {
            summary.reason = "Unknown".into();
        } else if !matches!(pod.text("status.phase"), "Succeeded" | "Failed") {
            summary.reason = "Terminating".into();
        }
    }
    let sidecars = pod.list("spec.initContainers").iter().filter(|c| is_sidecar(c)).count();
    let total = pod.list("spec.containers").len() + sidecars;
    let restarts = match summary.last_restart {
        Some(time) if summary.restarts != 0 => {
            format!("{} ({} ago)", summary.restarts, age::since(now, Some(time)))
        }
        _ => summary.restarts.to_string(),
    };
    vec![
        pod.text("metadata.name").into(),
        format!("{}/{total}", summary.ready).into(),
        summary.reason.into(),
        restarts.into(),
        age::of(pod, now),
        or_none(pod.list("status.podIPs").first().map_or("", |ip| ip.text("ip"))),
        or_none(pod.text("spec.nodeName")),
        or_none(pod.text("status.nominatedNodeName")),
        readiness_gates(pod),
    ]
}

fn or_none(text: &str) -> Value {
    if text.is_empty() { "<none>".into() } else { text.into() }
}

fn base_reason(pod: &Value) -> String {
    let gated = pod
        .list("status.conditions")
        .iter()
        .any(|c| c.text("type") == "PodScheduled" && c.text("reason") == "SchedulingGated");
    if gated {
        return "SchedulingGated".into();
    }
    let reason = pod.text("status.reason");
    if reason.is_empty() { pod.text("status.phase").into() } else { reason.into() }
}

fn is_sidecar(container: &Value) -> bool {
    container.text("restartPolicy") == "Always"
}

fn condition(pod: &Value, ty: &str) -> bool {
    let found = pod.list("status.conditions").iter().find(|c| c.text("type") == ty);
    found.is_some_and(|c| c.text("status") == "True")
}

fn ended_text(prefix: &str, ended: &Value) -> String {
    if !ended.text("reason").is_empty() {
        format!("{prefix}{}", ended.text("reason"))
    } else if ended.int("signal") != 0 {
        format!("{prefix}Signal:{}", ended.int("signal"))
    } else {
        format!("{prefix}ExitCode:{}", ended.int("exitCode"))
    }
}

/// Walks the init containers up to the first that has not done its work; true when there is one.
fn init_containers(pod: &Value, summary: &mut Summary) -> bool {
    let specs = pod.list("spec.initContainers");
    for (i, status) in pod.list("status.initContainerStatuses").iter().enumerate() {
        let ended_at = age::time_at(status, "lastState.terminated.finishedAt");
        summary.restarts += status.int("restartCount");
        summary.last_restart = summary.last_restart.max(ended_at);
        let sidecar = specs.iter().any(|c| c.text("name") == status.text("name") && is_sidecar(c));
        if sidecar {
            summary.sidecar_restarts += status.int("restartCount");
            summary.sidecar_last_restart = summary.sidecar_last_restart.max(ended_at);
        }
        let ended = status.at("state.terminated");
        let waiting = status.text("state.waiting.reason");
        if !ended.is_null() && ended.int("exitCode") == 0 {
            continue;
        }
        if sidecar && status.flag("started") {
            summary.ready += usize::from(status.flag("ready"));
            continue;
        }
        summary.reason = if !ended.is_null() {
            ended_text("Init:", ended)
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{i}/{}", specs.len())
        };
        return true;
    }
    false
}

fn main_containers(pod: &Value, summary: &mut Summary) {
    let mut running = false;
    let mut error = None;
    for status in pod.list("status.containerStatuses").iter().rev() {
        summary.restarts += status.int("restartCount");
        let ended_at = age::time_at(status, "lastState.terminated.finishedAt");
        summary.last_restart = summary.last_restart.max(ended_at);
        let ended = status.at("state.terminated");
        let waiting = status.text("state.waiting.reason");
        if !waiting.is_empty() {
            summary.reason = waiting.into();
        } else if !ended.is_null() {
            summary.reason = ended_text("", ended);
            if ended.int("exitCode") != 0 {
                error = Some(summary.reason.clone());
            }
        } else if status.flag("ready") && status.has("state.running") {
            running = true;
            summary.ready += 1;
        }
    }
    if summary.reason == "Completed" {
        if running && condition(pod, "Ready") {
            summary.reason = "Running".into();
        } else if let Some(error) = error {
            summary.reason = error;
        } else if running {
            summary.reason = "NotReady".into();
        }
    }
}

fn readiness_gates(pod: &Value) -> Value {
    let gates = pod.list("spec.readinessGates");
    if gates.is_empty() {
        return "<none>".into();
    }
    let met = gates.iter().filter(|g| condition(pod, g.text("conditionType"))).count();
    format!("{met}/{}", gates.len()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(pod: Value, expect: [&str; 3]) {
        let now: Timestamp = "2026-01-01T01:00:00Z".parse().expect("a time");
        let cells = cells(&pod, now);
        assert_eq!([&cells[1], &cells[2], &cells[3]], expect, "{pod}");
    }

    fn pod(phase: &str, statuses: Value) -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]},
            "status": {"phase": phase, "containerStatuses": statuses}})
    }

    #[test]
    fn status_texts() {
        check(pod("Pending", json!([])), ["0/2", "Pending", "0"]);
        let up = json!({"ready": true, "state": {"running": {}}});
        let back_off = json!({"restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"finishedAt": "2026-01-01T00:55:00Z"}}});
        check(pod("Running", json!([up, up])), ["2/2", "Running", "0"]);
        check(pod("Running", json!([back_off, up])), ["1/2", "CrashLoopBackOff", "3 (5m ago)"]);
        let done = json!({"state": {"terminated": {"reason": "Completed", "exitCode": 0}}});
        check(pod("Succeeded", json!([done, done])), ["0/2", "Completed", "0"]);
        check(pod("Running", json!([done, up])), ["1/2", "NotReady", "0"]);
        let failed = json!({"state": {"terminated": {"exitCode": 2}}});
        check(pod("Failed", json!([done, failed])), ["0/2", "ExitCode:2", "0"]);
        let mut leaving = pod("Running", json!([up, up]));
        leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:59:00Z");
        check(leaving, ["2/2", "Terminating", "0"]);
        let mut init = pod("Pending", json!([]));
        init["spec"]["initContainers"] = json!([{"name": "i"}, {"name": "s", "restartPolicy": "Always"}]);
        init["status"]["initContainerStatuses"] = json!([{"name": "i", "state": {"running": {}}}]);
        check(init.clone(), ["0/3", "Init:0/2", "0"]);
        init["status"]["initContainerStatuses"][0]["state"] =
            json!({"terminated": {"exitCode": 1, "reason": "Error"}});
        check(init, ["0/3", "Init:Error", "0"]);
    }
}
