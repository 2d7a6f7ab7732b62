//! Changing a running pod's resources in place: whether the node can give them, and to which containers.
//!
//! Must not apply anything: pure functions and one checkpoint file, so that a restarted agent knows what it gave.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::k8s::api::core::v1::{Container, Pod, ResourceRequirements};
use runtime::cgroup::Limits;

use super::ops::Allocated;
use super::pod::{PodExt, is_sidecar};
use crate::amount::{self, Amounts};
use crate::container::resources::pod_total;

/// What the status says about a resize.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resize {
    /// The node could never give it.
    Infeasible(String),
    /// The node cannot give it now.
    Deferred(String),
    /// It is being applied; the text says what went wrong last, if anything.
    InProgress(Option<String>),
}

/// Containers whose resources can change.
pub fn resizable(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.apps().iter().chain(pod.inits().iter().filter(|container| is_sidecar(container)))
}

/// The specification's resources by container.
pub fn wanted(pod: &Pod) -> Allocated {
    let all = pod.inits().iter().chain(pod.apps());
    all.map(|container| (container.name.clone(), container.resources.clone().unwrap_or_default())).collect()
}

fn amounts(map: Option<&Amounts>) -> (Option<i64>, Option<i64>) {
    (amount::milli_of(map, "cpu"), amount::milli_of(map, "memory"))
}

fn same(a: &ResourceRequirements, b: &ResourceRequirements) -> bool {
    amounts(a.requests.as_ref()) == amounts(b.requests.as_ref())
        && amounts(a.limits.as_ref()) == amounts(b.limits.as_ref())
}

/// Names of containers whose resources differ.
pub fn differing(pod: &Pod, a: &Allocated, b: &Allocated) -> Vec<String> {
    let none = ResourceRequirements::default();
    let get = |map: &Allocated, name: &str| map.get(name).cloned().unwrap_or_else(|| none.clone());
    let names = resizable(pod).map(|container| container.name.clone());
    names.filter(|name| !same(&get(a, name), &get(b, name))).collect()
}

/// Whether the node can give a pod what it wants; `others` are the other pods here.
pub fn fits(pod: &Pod, wanted: &Allocated, others: &[Arc<Pod>], allocatable: &Amounts) -> Result<(), Resize> {
    let none = BTreeMap::new();
    let (mut infeasible, mut deferred) = (Vec::new(), Vec::new());
    for name in ["cpu", "memory"] {
        let Some(capacity) = amount::milli_of(Some(allocatable), name) else { continue };
        let (request, _) = pod_total(pod, wanted, name);
        let used: i64 = others.iter().map(|other| pod_total(other, &none, name).0).sum();
        // CPU is told in thousandths, memory in bytes.
        let unit = if name == "cpu" { 1 } else { 1000 };
        if request > capacity {
            infeasible.push(format!("{name}, requested: {}, capacity: {}", request / unit, capacity / unit));
        } else if request.saturating_add(used) > capacity {
            let text = format!(
                "{name}, requested: {}, used: {}, capacity: {}",
                request / unit,
                used / unit,
                capacity / unit
            );
            deferred.push(text);
        }
    }
    if !infeasible.is_empty() {
        return Err(Resize::Infeasible(format!(
            "Node didn't have enough capacity: {}",
            infeasible.join("; ")
        )));
    }
    if !deferred.is_empty() {
        return Err(Resize::Deferred(format!("Node didn't have enough resource: {}", deferred.join("; "))));
    }
    Ok(())
}

/// Whether a change of resources restarts the container.
pub fn needs_restart(
    container: &Container,
    before: &ResourceRequirements,
    after: &ResourceRequirements,
) -> bool {
    let restarts = |name: &str| {
        let policies = container.resize_policy.iter().flatten();
        policies
            .into_iter()
            .any(|policy| policy.resource_name == name && policy.restart_policy == "RestartContainer")
    };
    let changed = |name: &str| {
        let of = |r: &ResourceRequirements| {
            (amount::milli_of(r.requests.as_ref(), name), amount::milli_of(r.limits.as_ref(), name))
        };
        of(before) != of(after)
    };
    ["cpu", "memory"].into_iter().any(|name| restarts(name) && changed(name))
}

/// The wider of two limits each: in force while containers change.
pub fn widest(a: &Limits, b: &Limits) -> Limits {
    let wide = |a: Option<i64>, b: Option<i64>| match (a, b) {
        (Some(a), Some(b)) if a < 0 || b < 0 => Some(a.min(b)),
        (a, b) => a.max(b),
    };
    Limits {
        cpu_shares: a.cpu_shares.max(b.cpu_shares),
        cpu_quota_us: wide(a.cpu_quota_us, b.cpu_quota_us),
        cpu_period_us: b.cpu_period_us,
        memory_bytes: wide(a.memory_bytes, b.memory_bytes),
        pids: b.pids,
    }
}

fn file(pod_dir: &Path) -> PathBuf {
    pod_dir.join("allocated.json")
}

/// What was given before a restart of the agent.
pub fn load(pod_dir: &Path) -> Option<Allocated> {
    serde_json::from_str(&std::fs::read_to_string(file(pod_dir)).ok()?).ok()
}

/// Notes what was given.
pub fn save(pod_dir: &Path, allocated: &Allocated) {
    let Ok(text) = serde_json::to_string(allocated) else { return };
    let path = file(pod_dir);
    let next = path.with_extension("tmp");
    let written = std::fs::create_dir_all(pod_dir)
        .and_then(|()| std::fs::write(&next, text))
        .and_then(|()| std::fs::rename(&next, &path));
    if let Err(error) = written {
        tracing::warn!(path = %path.display(), %error, "allocated resources not noted");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(cpu: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"}, "spec": {"containers": [{"name": "c",
            "resizePolicy": [{"resourceName": "memory", "restartPolicy": "RestartContainer"}, {"resourceName": "cpu", "restartPolicy": "NotRequired"}],
            "resources": {"requests": {"cpu": cpu, "memory": "1Mi"}}}]}}))
        .expect("a pod")
    }

    #[test]
    fn feasibility() {
        let allocatable: Amounts =
            serde_json::from_value(json!({"cpu": "2", "memory": "1Gi"})).expect("amounts");
        let others = [Arc::new(pod("1"))];
        for (cpu, expect) in [("1", None), ("1500m", Some("Deferred")), ("3", Some("Infeasible"))] {
            let pod = pod(cpu);
            let verdict = fits(&pod, &wanted(&pod), &others, &allocatable).err();
            let name =
                verdict.map(
                    |verdict| if matches!(verdict, Resize::Deferred(_)) { "Deferred" } else { "Infeasible" },
                );
            assert_eq!(name, expect, "{cpu}");
        }
        let (a, b) = (wanted(&pod("1")), wanted(&pod("1500m")));
        assert_eq!(differing(&pod("1"), &a, &b), ["c"]);
        assert!(differing(&pod("1"), &a, &wanted(&pod("1000m"))).is_empty());
        assert!(!needs_restart(&pod("1").apps()[0], &a["c"], &b["c"]));
    }
}
