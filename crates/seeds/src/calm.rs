//! What must be so once faults have ended and some time has passed: everything is as it was asked for, nothing is left
//! over. Each line says what is not yet so.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::laws::target;
use crate::truth::{
    Truth, condition, controlled_by, cpu, is_active, is_deleting, is_over, is_ready, milli, priority,
    selects, text, uid,
};

/// A check of everything.
type Check = fn(&Truth, &mut Vec<String>);

const CHECKS: &[Check] = &[
    nodes,
    nothing_goes,
    no_orphans,
    pods,
    sets,
    deployments,
    stateful_sets,
    daemon_sets,
    jobs,
    endpoints,
    budgets,
    quotas,
];

/// Everything that is not as it should be.
pub fn problems(truth: &Truth) -> Vec<String> {
    let mut found = Vec::new();
    CHECKS.iter().for_each(|check| check(truth, &mut found));
    found
}

fn label(place: &(String, String)) -> String {
    format!("{}/{}", place.0, place.1)
}

fn nodes(truth: &Truth, out: &mut Vec<String>) {
    for (place, node) in truth.all("nodes") {
        let taints = node["spec"]["taints"].as_array().into_iter().flatten();
        let sick =
            taints.map(|taint| text(&taint["key"])).filter(|key| key.starts_with("node.kubernetes.io/"));
        let sick: Vec<&str> = sick.filter(|key| *key != "node.kubernetes.io/unschedulable").collect();
        if condition(node, "Ready") != "True" || !sick.is_empty() {
            out.push(format!("node {} is not ready: {sick:?}", place.1));
        }
    }
}

fn nothing_goes(truth: &Truth, out: &mut Vec<String>) {
    for (resource, place, object) in truth.everything() {
        if is_deleting(object) {
            out.push(format!("{resource} {} still goes: {}", label(place), object["metadata"]["finalizers"]));
        }
        let namespace = (place.0 != "").then(|| truth.get("namespaces", "", &place.0));
        if namespace.is_some_and(|namespace| namespace.is_none()) && resource != "events" {
            out.push(format!("{resource} {} is in no namespace", label(place)));
        }
    }
}

fn no_orphans(truth: &Truth, out: &mut Vec<String>) {
    for (resource, place, object) in truth.everything() {
        let owners = object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
        let (mut some, mut alive) = (false, false);
        for owner in owners {
            some = true;
            alive |= truth.by_uid(text(&owner["uid"])).is_some();
        }
        if some && !alive {
            out.push(format!("{resource} {} outlived its owners", label(place)));
        }
    }
}

/// True when a node would take this pod now, less important pods removed.
fn fits(truth: &Truth, pod: &Value, node: &Value) -> bool {
    let name = text(&node["metadata"]["name"]);
    let here = || {
        let pods = truth.all("pods").map(|(_, pod)| pod);
        let pods = pods.filter(|other| other["spec"]["nodeName"] == name && !is_over(other));
        pods.filter(|other| priority(other) >= priority(pod))
    };
    let room = &node["status"]["allocatable"];
    let used: i64 = here().map(|pod| cpu(pod)).sum();
    let tainted = node["spec"]["taints"].as_array().is_some_and(|taints| !taints.is_empty());
    used + cpu(pod) <= milli(&room["cpu"])
        && (here().count() as i64 + 1) * 1000 <= milli(&room["pods"])
        && node["spec"]["unschedulable"] != true
        && !tainted
        && selects(pod.pointer("/spec/nodeSelector").unwrap_or(&Value::Object(Default::default())), node)
}

fn pods(truth: &Truth, out: &mut Vec<String>) {
    for (place, pod) in truth.all("pods").filter(|(_, pod)| is_active(pod)) {
        let node = text(&pod["spec"]["nodeName"]);
        if condition(pod, "DisruptionTarget") == "True" {
            out.push(format!("pod {} waits for a disruption that does not come", label(place)));
        }
        if node.is_empty() {
            let daemon = controlled_by(pod, "DaemonSet").is_some();
            let spread =
                !pod["spec"]["affinity"].is_null() || !pod["spec"]["topologySpreadConstraints"].is_null();
            // A daemon's pod has one node only, which may be full.
            let meant = |node: &&Value| !daemon || node["metadata"]["name"] == target(pod);
            let mut nodes = truth.all("nodes").map(|(_, node)| &**node).filter(meant);
            if (daemon || !spread) && nodes.any(|node| fits(truth, pod, node)) {
                out.push(format!("pod {} could be bound", label(place)));
            }
        } else if truth.get("nodes", "", node).is_none() {
            out.push(format!("pod {} is on {node}, which is gone", label(place)));
        } else if !is_ready(pod) && controlled_by(pod, "Job").is_none() {
            out.push(format!("pod {} is not ready", label(place)));
        }
    }
}

/// Pods that a set may be short of: those that fit nowhere, or that a quota forbids.
fn short(truth: &Truth, namespace: &str) -> bool {
    truth.all("resourcequotas").any(|(place, quota)| {
        place.0 == namespace && quota["status"]["used"]["pods"] == quota["status"]["hard"]["pods"]
    })
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

fn observed(resource: &str, place: &(String, String), object: &Value, out: &mut Vec<String>) {
    if object["status"]["observedGeneration"] != object["metadata"]["generation"] {
        out.push(format!(
            "{resource} {}: generation {} not observed",
            label(place),
            object["metadata"]["generation"]
        ));
    }
}

fn sets(truth: &Truth, out: &mut Vec<String>) {
    for (place, set) in truth.all("apps/replicasets") {
        observed("replicaset", place, set, out);
        let pods = || truth.pods_of(uid(set)).filter(|pod| is_active(pod));
        let (wanted, count) = (number(&set["spec"]["replicas"]), pods().count() as u64);
        let ready = pods().filter(|pod| is_ready(pod)).count() as u64;
        if count != wanted && !(count < wanted && short(truth, &place.0)) {
            out.push(format!("replicaset {}: {count} pods of {wanted}", label(place)));
        }
        if number(&set["status"]["replicas"]) != count || number(&set["status"]["readyReplicas"]) != ready {
            out.push(format!(
                "replicaset {}: {count} pods, {ready} ready, status {}",
                label(place),
                set["status"]
            ));
        }
    }
}

/// True when some pod of these waits for room.
fn waits<'a>(mut pods: impl Iterator<Item = &'a std::sync::Arc<Value>>) -> bool {
    pods.any(|pod| is_active(pod) && text(&pod["spec"]["nodeName"]).is_empty())
}

fn deployments(truth: &Truth, out: &mut Vec<String>) {
    for (place, one) in truth.all("apps/deployments") {
        observed("deployment", place, one, out);
        if short(truth, &place.0) || waits(truth.pods_of_deployment(uid(one))) {
            continue;
        }
        let (wanted, status) = (number(&one["spec"]["replicas"]), &one["status"]);
        let counts = ["replicas", "updatedReplicas", "availableReplicas"].map(|name| number(&status[name]));
        // One that was paused in the middle of a rollout stays there.
        if one["spec"]["paused"] != true && counts != [wanted; 3] {
            out.push(format!("deployment {}: {wanted} wanted, status {status}", label(place)));
        }
    }
}

fn stateful_sets(truth: &Truth, out: &mut Vec<String>) {
    for (place, one) in truth.all("apps/statefulsets") {
        observed("statefulset", place, one, out);
        if short(truth, &place.0) || waits(truth.pods_of(uid(one))) {
            continue;
        }
        let (wanted, status) = (number(&one["spec"]["replicas"]), &one["status"]);
        let counts = ["replicas", "readyReplicas", "updatedReplicas"].map(|name| number(&status[name]));
        if counts != [wanted; 3] {
            out.push(format!("statefulset {}: {wanted} wanted, status {status}", label(place)));
        }
        if truth.pods_of(uid(one)).count() as u64 != wanted {
            out.push(format!(
                "statefulset {}: {} pods of {wanted}",
                label(place),
                truth.pods_of(uid(one)).count()
            ));
        }
    }
}

fn daemon_sets(truth: &Truth, out: &mut Vec<String>) {
    for (place, one) in truth.all("apps/daemonsets") {
        observed("daemonset", place, one, out);
        let pods: Vec<_> = truth.pods_of(uid(one)).collect();
        for (node, _) in truth.all("nodes") {
            let here = pods.iter().filter(|pod| is_active(pod) && target(pod) == node.1).count();
            if here != 1 {
                out.push(format!("daemonset {}: {here} pods on {}", label(place), node.1));
            }
        }
        let (nodes, status) = (truth.all("nodes").count() as u64, &one["status"]);
        let counts = ["desiredNumberScheduled", "numberReady", "updatedNumberScheduled"]
            .map(|name| number(&status[name]));
        if counts != [nodes; 3] && !waits(pods.iter().copied()) {
            out.push(format!("daemonset {}: {nodes} nodes, status {status}", label(place)));
        }
    }
}

fn jobs(truth: &Truth, out: &mut Vec<String>) {
    for (place, job) in truth.all("batch/jobs") {
        let finished = condition(job, "Complete") == "True" || condition(job, "Failed") == "True";
        let suspended = job["spec"]["suspend"] == true;
        if !finished && !suspended && !short(truth, &place.0) && !waits(truth.pods_of(uid(job))) {
            out.push(format!("job {} has not ended: {}", label(place), job["status"]));
        }
        let active = truth.pods_of(uid(job)).filter(|pod| is_active(pod)).count();
        if (finished || suspended) && active > 0 {
            out.push(format!("job {} has ended and {active} pods run", label(place)));
        }
        if number(&job["status"]["active"]) != active as u64 {
            out.push(format!("job {}: {active} active, status {}", label(place), job["status"]));
        }
        let tracked =
            truth.pods_of(uid(job)).filter(|pod| is_over(pod) && !pod["metadata"]["finalizers"].is_null());
        for pod in tracked {
            out.push(format!(
                "pod {} of job {} is still tracked",
                text(&pod["metadata"]["name"]),
                label(place)
            ));
        }
    }
}

fn endpoints(truth: &Truth, out: &mut Vec<String>) {
    for (place, service) in truth.all("services") {
        let selector = &service["spec"]["selector"];
        if selector.is_null() {
            continue;
        }
        let pods =
            truth.all("pods").filter(|(at, pod)| at.0 == place.0 && selects(selector, pod) && is_ready(pod));
        let wanted: BTreeSet<&str> = pods.map(|(at, _)| &*at.1).collect();
        let slices = truth.all("discovery.k8s.io/endpointslices").filter(|(at, _)| at.0 == place.0);
        let slices =
            slices.filter(|(_, slice)| slice["metadata"]["labels"]["kubernetes.io/service-name"] == place.1);
        let ends = slices.flat_map(|(_, slice)| slice["endpoints"].as_array().into_iter().flatten());
        let mut found = BTreeMap::new();
        for end in ends.filter(|end| end["conditions"]["ready"] == true) {
            *found.entry(text(&end["targetRef"]["name"])).or_insert(0) += 1;
        }
        if !found.keys().copied().eq(wanted.iter().copied()) || found.values().any(|count| *count != 1) {
            out.push(format!("service {}: slices have {found:?}, ready are {wanted:?}", label(place)));
        }
        let classic = truth.get("endpoints", &place.0, &place.1);
        let subsets = classic.and_then(|one| one["subsets"].as_array()).into_iter().flatten();
        let named = subsets.flat_map(|subset| subset["addresses"].as_array().into_iter().flatten());
        let named: BTreeSet<&str> = named.map(|one| text(&one["targetRef"]["name"])).collect();
        if named != wanted {
            out.push(format!("service {}: endpoints have {named:?}, ready are {wanted:?}", label(place)));
        }
    }
}

fn budgets(truth: &Truth, out: &mut Vec<String>) {
    for (place, budget) in truth.all("policy/poddisruptionbudgets") {
        observed("budget", place, budget, out);
        let selector = &budget["spec"]["selector"]["matchLabels"];
        let pods = truth.all("pods").filter(|(at, pod)| at.0 == place.0 && selects(selector, pod));
        let healthy = pods.filter(|(_, pod)| is_ready(pod)).count() as u64;
        if number(&budget["status"]["currentHealthy"]) != healthy {
            out.push(format!("budget {}: {healthy} healthy, status {}", label(place), budget["status"]));
        }
    }
}

fn quotas(truth: &Truth, out: &mut Vec<String>) {
    for (place, quota) in truth.all("resourcequotas") {
        let pods = truth.all("pods").filter(|(at, pod)| at.0 == place.0 && !is_over(pod)).count();
        if quota["status"]["used"]["pods"] != pods.to_string() {
            out.push(format!("quota {}: {pods} pods, status {}", label(place), quota["status"]));
        }
    }
}
