//! Whether a pod may run here at all: the last check, after the scheduler's.
//!
//! Must not know workers: a pure function of the pod, the node and the pods already here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::k8s::api::core::v1::{ContainerPort, Node, Pod};
use api::nodes;

use super::pod::{PodExt, qos};
use super::status::Verdict;
use crate::amount::{self, Amounts};
use crate::container::resources::pod_total;
use crate::eviction::rank::is_critical;
use crate::eviction::threshold::Pressure;

/// Sysctls that concern only their own pod (upstream's `sysctl/safe_sysctls.go`).
const SAFE_SYSCTLS: [&str; 15] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.ipv4.tcp_slow_start_after_idle",
    "net.ipv4.tcp_notsent_lowat",
    "net.ipv4.tcp_max_tw_buckets",
];

/// What admission looks at.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// What pods may use.
    pub allocatable: &'a Amounts,
    /// The Node object, when known.
    pub node: Option<&'a Node>,
    /// Unfinished pods that were admitted.
    pub others: &'a [Arc<Pod>],
    /// Sysctls allowed beside the safe ones.
    pub unsafe_sysctls: &'a [String],
    /// What the node is running out of.
    pub pressures: &'a BTreeSet<Pressure>,
    /// The machine is about to end.
    pub ending: bool,
}

fn refuse(reason: &str, message: String) -> Verdict {
    let message = format!("Pod was rejected: {message}");
    Verdict { reason: reason.to_owned(), message, ..Verdict::default() }
}

/// `None` when the pod may run.
pub fn check(pod: &Pod, facts: &Facts<'_>) -> Option<Verdict> {
    let ended = facts.ending.then(ending);
    ended
        .or_else(|| system(pod))
        .or_else(|| pressed(pod, facts.pressures))
        .or_else(|| sysctls(pod, facts))
        .or_else(|| fits(pod, facts))
        .or_else(|| affinity(pod, facts))
        .or_else(|| ports(pod, facts))
}

fn system(pod: &Pod) -> Option<Verdict> {
    let os = pod.spec().os.as_ref()?;
    let message = "Failed to admit pod as the OS field doesn't match node OS".to_owned();
    (os.name != "linux").then(|| refuse("PodOSNotSupported", message))
}

fn ending() -> Verdict {
    refuse("NodeShutdown", "Pod was rejected as the node is shutting down.".to_owned())
}

/// A node that runs out takes only what the system needs; short of memory alone, also pods that asked for some.
fn pressed(pod: &Pod, pressures: &BTreeSet<Pressure>) -> Option<Verdict> {
    if pressures.is_empty() || is_critical(pod) {
        return None;
    }
    let memory_alone = pressures.iter().all(|pressure| *pressure == Pressure::Memory);
    let tolerates = pod.spec().tolerations.iter().flatten().any(|toleration| {
        let any_key = toleration.key.as_deref().unwrap_or("").is_empty();
        let key = any_key || toleration.key.as_deref() == Some("node.kubernetes.io/memory-pressure");
        let effect = toleration.effect.as_deref().unwrap_or("");
        key && (effect.is_empty() || effect == "NoSchedule")
            && (!any_key || toleration.operator.as_deref() == Some("Exists"))
    });
    if memory_alone && (qos(pod) != "BestEffort" || tolerates) {
        return None;
    }
    let names: Vec<&str> = pressures.iter().map(|pressure| pressure.condition()).collect();
    Some(refuse("Evicted", format!("The node had condition: [{}]. ", names.join(" "))))
}

fn sysctls(pod: &Pod, facts: &Facts<'_>) -> Option<Verdict> {
    let security = pod.spec().security_context.as_ref()?;
    for sysctl in security.sysctls.iter().flatten() {
        let name = sysctl.name.replace('/', ".");
        let allowed = |pattern: &String| match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => *pattern == name,
        };
        if !SAFE_SYSCTLS.contains(&name.as_str()) && !facts.unsafe_sysctls.iter().any(allowed) {
            return Some(refuse("SysctlForbidden", format!("forbidden sysctl: {name:?} not allowlisted")));
        }
    }
    None
}

fn fits(pod: &Pod, facts: &Facts<'_>) -> Option<Verdict> {
    let none = BTreeMap::new();
    let others: Vec<&Arc<Pod>> = facts.others.iter().filter(|other| other.uid() != pod.uid()).collect();
    let pods = amount::whole_of(Some(facts.allocatable), "pods").unwrap_or(0);
    if i64::try_from(others.len()).unwrap_or(i64::MAX) + 1 > pods {
        let message = format!(
            "Node didn't have enough resource: pods, requested: 1, used: {}, capacity: {pods}",
            others.len()
        );
        return Some(refuse("OutOfpods", message));
    }
    for name in ["cpu", "memory", "ephemeral-storage"] {
        let Some(capacity) = amount::milli_of(Some(facts.allocatable), name) else { continue };
        let (request, _) = pod_total(pod, &none, name);
        if request == 0 {
            continue;
        }
        let used: i64 = others.iter().map(|other| pod_total(other, &none, name).0).sum();
        if used.saturating_add(request) > capacity {
            let unit = if name == "cpu" { 1 } else { 1000 };
            let message = format!(
                "Node didn't have enough resource: {name}, requested: {}, used: {}, capacity: {}",
                request / unit,
                used / unit,
                capacity / unit
            );
            return Some(refuse(&format!("OutOf{name}"), message));
        }
    }
    None
}

fn affinity(pod: &Pod, facts: &Facts<'_>) -> Option<Verdict> {
    let node = facts.node?;
    let empty = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&empty);
    let selected =
        pod.spec().node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let required = pod.spec().affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required =
        required.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    let name = node.metadata.name.as_deref().unwrap_or("");
    let matches = required.is_none_or(|selector| nodes::admits(selector, name, Some(labels)));
    let fits = selected && matches;
    (!fits).then(|| {
        refuse(
            "NodeAffinity",
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector".into(),
        )
    })
}

/// Host ports of a pod's containers and sidecars: protocol, address, port.
fn host_ports(pod: &Pod) -> Vec<(&str, &str, i32)> {
    let sidecars = pod.spec().init_containers.iter().flatten();
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let containers = pod.spec().containers.iter().chain(sidecars);
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    let number = |port: &ContainerPort| port.host_port.filter(|port| *port > 0);
    ports
        .filter_map(|port| {
            let address = port.host_ip.as_deref().filter(|address| !address.is_empty()).unwrap_or("0.0.0.0");
            Some((port.protocol.as_deref().unwrap_or("TCP"), address, number(port)?))
        })
        .collect()
}

/// Two pods cannot listen on one port of the node.
fn ports(pod: &Pod, facts: &Facts<'_>) -> Option<Verdict> {
    let wanted = host_ports(pod);
    let any = |address: &str| address == "0.0.0.0";
    let taken = |(protocol, address, port): &(&str, &str, i32)| {
        wanted.iter().any(|(own_protocol, own, number)| {
            protocol == own_protocol && port == number && (address == own || any(address) || any(own))
        })
    };
    let others = facts.others.iter().filter(|other| other.uid() != pod.uid());
    let collides = !wanted.is_empty() && others.into_iter().any(|other| host_ports(other).iter().any(taken));
    collides.then(|| {
        let why = "node(s) didn't have free ports for the requested pod ports";
        refuse("NodePorts", format!("Predicate NodePorts failed: {why}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rejections() {
        let allocatable: Amounts =
            serde_json::from_value(json!({"cpu": "1", "memory": "1Gi", "pods": "2"})).expect("amounts");
        let node: Node =
            serde_json::from_value(json!({"metadata": {"name": "n", "labels": {"a": "b"}}})).expect("a node");
        let pod = |uid: &str, spec: serde_json::Value| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": uid, "uid": uid}, "spec": spec}))
                .expect("a pod")
        };
        let cpu =
            |amount: &str| json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": amount}}}]});
        let one = [Arc::new(pod("x", cpu("600m")))];
        let two = [one[0].clone(), Arc::new(pod("y", cpu("1m")))];
        let listening = |port: i32| json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": port}]}]});
        let ported = [Arc::new(pod("w", listening(80)))];
        let none = BTreeSet::new();
        for (spec, others, expect) in [
            (cpu("400m"), &one[..], None),
            (cpu("401m"), &one[..], Some("OutOfcpu")),
            (cpu("1m"), &two[..], Some("OutOfpods")),
            (json!({"containers": [], "nodeSelector": {"a": "c"}}), &[], Some("NodeAffinity")),
            (json!({"containers": [], "nodeSelector": {"a": "b"}}), &[], None),
            (listening(80), &ported[..], Some("NodePorts")),
            (listening(81), &ported[..], None),
            (json!({"containers": [], "os": {"name": "windows"}}), &[], Some("PodOSNotSupported")),
            (
                json!({"containers": [], "securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}}),
                &[],
                Some("SysctlForbidden"),
            ),
        ] {
            let facts = Facts {
                allocatable: &allocatable,
                node: Some(&node),
                others,
                unsafe_sysctls: &[],
                pressures: &none,
                ending: false,
            };
            let verdict = check(&pod("z", spec.clone()), &facts);
            assert_eq!(verdict.map(|verdict| verdict.reason).as_deref(), expect, "{spec}");
            let refused = check(&pod("z", spec.clone()), &Facts { ending: true, ..facts.clone() })
                .map(|verdict| verdict.reason);
            assert_eq!(refused.as_deref(), Some("NodeShutdown"), "{spec}");
        }
    }

    #[test]
    fn a_node_that_runs_out_refuses() {
        use Pressure::{Disk, Memory};
        let tolerant = json!([{"key": "node.kubernetes.io/memory-pressure", "operator": "Exists", "effect": "NoSchedule"}]);
        let asks = json!([{"name": "c", "resources": {"requests": {"memory": "1Mi"}}}]);
        for (spec, pressures, expect) in [
            (json!({"containers": [{"name": "c"}]}), &[Memory][..], true),
            (json!({"containers": asks}), &[Memory], false),
            (json!({"containers": [{"name": "c"}], "tolerations": tolerant}), &[Memory], false),
            (json!({"containers": asks}), &[Disk], true),
            (json!({"containers": asks, "priority": 2_000_000_000}), &[Disk], false),
            (json!({"containers": [{"name": "c"}]}), &[], false),
        ] {
            let pod: Pod =
                serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).expect("a pod");
            let verdict = pressed(&pod, &pressures.iter().copied().collect());
            assert_eq!(verdict.is_some(), expect, "{spec} {pressures:?}");
        }
    }
}
