//! What pods and the node use, as `/stats/summary` and `/metrics/resource` tell it.
//!
//! Must not keep anything.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use api::k8s::api::core::v1::PodStatus;
use runtime::cgroup::Usage;
use runtime::cri::messages as m;
use serde_json::{Value, json};

use crate::container::resources::systemd_group;
use crate::node::machine;
use crate::pods::observed::keys;
use crate::pods::pod::PodExt;
use crate::pods::status::seconds;
use crate::shared::Shared;

fn value(value: Option<&m::UInt64Value>) -> Value {
    value.map_or(Value::Null, |value| json!(value.value))
}

fn pods_group(shared: &Shared) -> String {
    let group = format!("{}/kubepods", shared.config.cgroup_root);
    if shared.systemd { systemd_group(&group) } else { group }
}

fn node_usage(shared: &Shared) -> Usage {
    shared.cgroups.usage("/").unwrap_or_default()
}

fn group_stats(shared: &Shared, group: &str, time: &str) -> (Value, Value, u64) {
    let usage = shared.cgroups.usage(group).unwrap_or_default();
    let cpu = json!({"time": time, "usageCoreNanoSeconds": usage.cpu_ns});
    let memory = json!({
        "time": time, "usageBytes": usage.memory_bytes, "workingSetBytes": usage.working_set_bytes,
        "rssBytes": usage.rss_bytes, "pageFaults": usage.page_faults, "majorPageFaults": usage.major_page_faults,
    });
    (cpu, memory, usage.pids)
}

fn filesystem(path: &std::path::Path, time: &str) -> Value {
    let disk = machine::filesystem(path);
    json!({
        "time": time, "availableBytes": disk.available_bytes, "capacityBytes": disk.capacity_bytes,
        "usedBytes": disk.used_bytes, "inodes": disk.inodes, "inodesFree": disk.inodes_free,
        "inodesUsed": disk.inodes - disk.inodes_free,
    })
}

fn container_stats(stats: &m::ContainerStats, time: &str) -> Value {
    let name =
        stats.attributes.as_ref().and_then(|a| a.metadata.as_ref()).map(|metadata| metadata.name.clone());
    let (cpu, memory) = (stats.cpu.clone().unwrap_or_default(), stats.memory.clone().unwrap_or_default());
    let rootfs = stats.writable_layer.clone().unwrap_or_default();
    json!({
        "name": name,
        "cpu": {"time": time, "usageNanoCores": value(cpu.usage_nano_cores.as_ref()),
            "usageCoreNanoSeconds": value(cpu.usage_core_nano_seconds.as_ref())},
        "memory": {"time": time, "workingSetBytes": value(memory.working_set_bytes.as_ref()),
            "usageBytes": value(memory.usage_bytes.as_ref()), "rssBytes": value(memory.rss_bytes.as_ref()),
            "availableBytes": value(memory.available_bytes.as_ref())},
        "rootfs": {"time": time, "usedBytes": value(rootfs.used_bytes.as_ref()),
            "inodesUsed": value(rootfs.inodes_used.as_ref())},
        "logs": {"time": time},
    })
}

/// Usage of containers by pod uid.
async fn by_pod(shared: &Shared) -> BTreeMap<String, Vec<m::ContainerStats>> {
    let mut out: BTreeMap<String, Vec<m::ContainerStats>> = BTreeMap::new();
    let answer = shared.cri.list_container_stats(m::ListContainerStatsRequest { filter: None }).await;
    for stats in answer.map(|answer| answer.stats).unwrap_or_default() {
        let uid =
            stats.attributes.as_ref().and_then(|a| a.labels.get(keys::POD_UID)).cloned().unwrap_or_default();
        out.entry(uid).or_default().push(stats);
    }
    out
}

/// `/stats/summary`.
pub async fn summary(shared: &Shared) -> Value {
    let now = seconds(shared.clock.now()).to_string();
    let containers = by_pod(shared).await;
    let mut pods = Vec::new();
    for entry in shared.registry.all() {
        let Some(stats) = containers.get(entry.pod.uid()) else { continue };
        let (cpu, memory, pids) = group_stats(shared, &shared.group(&entry.pod), &now);
        pods.push(json!({
            "podRef": {"name": entry.pod.name(), "namespace": entry.pod.namespace(), "uid": entry.pod.uid()},
            "startTime": entry.status.as_ref().and_then(|status| status.start_time.clone()),
            "containers": stats.iter().map(|stats| container_stats(stats, &now)).collect::<Vec<_>>(),
            "cpu": cpu, "memory": memory,
            "process_stats": {"process_count": pids},
        }));
    }
    let (_, memory, _) = group_stats(shared, "/", &now);
    let usage = node_usage(shared);
    let available = machine::meminfo("MemAvailable");
    let mut memory = memory;
    memory["availableBytes"] = json!(available);
    memory["workingSetBytes"] = json!(shared.machine.memory_bytes - available);
    let (pods_cpu, pods_memory, _) = group_stats(shared, &pods_group(shared), &now);
    json!({
        "node": {
            "nodeName": shared.config.node_name, "startTime": now,
            "cpu": {"time": now, "usageCoreNanoSeconds": usage.cpu_ns, "usageNanoCores": 0},
            "memory": memory,
            "fs": filesystem(&shared.config.root_dir, &now),
            "runtime": {"imageFs": filesystem(&shared.config.root_dir, &now)},
            "systemContainers": [{"name": "pods", "startTime": now, "cpu": pods_cpu, "memory": pods_memory}],
        },
        "pods": pods,
    })
}

/// `/metrics`: the agent's own counters, brought up to date.
pub fn own_metrics(shared: &Shared) -> String {
    let entries = shared.registry.all();
    let running = entries.iter().filter(|entry| entry.sandbox.is_some()).count();
    let states = [("running", "Running"), ("pending", "Pending")];
    let set = |name: &'static str, help: &'static str, labels: &[(&str, &str)], count: usize| {
        shared.metrics.gauge(name, help, labels).set(f64::from(u32::try_from(count).unwrap_or(u32::MAX)));
    };
    set("kubelet_running_pods", "Pods with a running sandbox.", &[], running);
    for (label, phase) in states {
        let is = |status: &PodStatus| status.phase.as_deref() == Some(phase);
        let count = entries.iter().filter(|entry| entry.status.as_deref().is_some_and(is)).count();
        set("kubelet_pods", "Pods by phase.", &[("phase", label)], count);
    }
    set("kubelet_node_name", "The node's name.", &[("node", &shared.config.node_name)], 1);
    shared.metrics.render()
}

/// `/metrics/resource`, which the metrics API is made from.
pub async fn resource_metrics(shared: &Shared) -> String {
    let mut out = String::new();
    let usage = node_usage(shared);
    let working_set = shared.machine.memory_bytes - machine::meminfo("MemAvailable");
    #[allow(clippy::cast_precision_loss, reason = "seconds with a fraction are what the format wants")]
    let cpu_seconds = |ns: u64| ns as f64 / 1e9;
    let at = shared.clock.now().as_millisecond();
    let _ = writeln!(out, "# TYPE node_cpu_usage_seconds_total counter");
    let _ = writeln!(out, "node_cpu_usage_seconds_total {} {at}", cpu_seconds(usage.cpu_ns));
    let _ = writeln!(
        out,
        "# TYPE node_memory_working_set_bytes gauge\nnode_memory_working_set_bytes {working_set} {at}"
    );
    let (mut cpu, mut memory) = (String::new(), String::new());
    let containers = by_pod(shared).await;
    for entry in shared.registry.all() {
        for stats in containers.get(entry.pod.uid()).into_iter().flatten() {
            let name =
                stats.attributes.as_ref().and_then(|a| a.metadata.as_ref()).map_or("", |m| m.name.as_str());
            let labels = format!(
                "container={name:?},namespace={:?},pod={:?}",
                entry.pod.namespace(),
                entry.pod.name()
            );
            let used =
                stats.cpu.as_ref().and_then(|cpu| cpu.usage_core_nano_seconds.clone()).map_or(0, |v| v.value);
            let _ = writeln!(cpu, "container_cpu_usage_seconds_total{{{labels}}} {} {at}", cpu_seconds(used));
            let bytes = stats
                .memory
                .as_ref()
                .and_then(|memory| memory.working_set_bytes.clone())
                .map_or(0, |v| v.value);
            let _ = writeln!(memory, "container_memory_working_set_bytes{{{labels}}} {bytes} {at}");
        }
    }
    let _ = write!(out, "# TYPE container_cpu_usage_seconds_total counter\n{cpu}");
    let _ = write!(out, "# TYPE container_memory_working_set_bytes gauge\n{memory}");
    out
}
