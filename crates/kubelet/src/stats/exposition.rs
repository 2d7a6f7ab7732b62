//! Statistics as Prometheus reads them: `/metrics`, `/metrics/resource` and `/metrics/cadvisor`, with upstream's
//! names.
//!
//! Must not keep anything.

use std::fmt::Write as _;

use api::k8s::api::core::v1::PodStatus;
use jiff::Timestamp;

use super::network::Traffic;
use super::{ContainerUse, NodeUse, PodUse};
use crate::pods::pod::PodExt;
use crate::shared::Shared;

/// One metric: its samples are written together.
struct Family {
    text: String,
    name: &'static str,
    at_ms: i64,
}

impl Family {
    fn new(name: &'static str, kind: &str, help: &str, at: Timestamp) -> Family {
        let text = format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
        Family { text, name, at_ms: at.as_millisecond() }
    }

    fn add(&mut self, labels: &[(&str, &str)], value: f64) {
        self.text.push_str(self.name);
        for (index, (name, value)) in labels.iter().enumerate() {
            let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.text, "{}{name}=\"{escaped}\"", if index == 0 { '{' } else { ',' });
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{end} {value} {}", self.at_ms);
    }
}

#[allow(clippy::cast_precision_loss, reason = "metrics are floating-point numbers")]
fn number(value: u64) -> f64 {
    value as f64
}

fn cpu_seconds(ns: u64) -> f64 {
    number(ns) / 1e9
}

#[allow(clippy::cast_precision_loss, reason = "metrics are floating-point numbers")]
fn time(at: Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1e3
}

/// `/metrics`: the agent's own counters, brought up to date.
pub fn own(shared: &Shared) -> String {
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
    let containers = entries.iter().map(|entry| entry.containers.len()).sum();
    set("kubelet_running_containers", "Containers of pods here.", &[], containers);
    set("kubelet_node_name", "The node's name.", &[("node", &shared.config.node_name)], 1);
    shared.metrics.render()
}

fn of_pod(pod: &PodUse) -> [(&'static str, &str); 2] {
    [("namespace", pod.entry.pod.namespace()), ("pod", pod.entry.pod.name())]
}

fn of_container<'a>(pod: &'a PodUse, container: &'a ContainerUse) -> [(&'static str, &'a str); 3] {
    let [namespace, name] = of_pod(pod);
    [("container", container.name.as_str()), namespace, name]
}

/// `/metrics/resource`, which metrics servers read.
pub async fn resource(shared: &Shared) -> String {
    resource_text(&super::read(shared).await)
}

fn resource_text(used: &NodeUse) -> String {
    let family = |name: &'static str, kind: &str, help: &str| Family::new(name, kind, help, used.at);
    let stable = |text: &str| format!("[STABLE] {text}");
    let mut container_cpu = family(
        "container_cpu_usage_seconds_total",
        "counter",
        &stable("Cumulative cpu time consumed by the container in core-seconds"),
    );
    let mut container_memory = family(
        "container_memory_working_set_bytes",
        "gauge",
        &stable("Current working set of the container in bytes"),
    );
    let mut container_start = family(
        "container_start_time_seconds",
        "gauge",
        &stable("Start time of the container since unix epoch in seconds"),
    );
    let mut node_cpu = family(
        "node_cpu_usage_seconds_total",
        "counter",
        &stable("Cumulative cpu time consumed by the node in core-seconds"),
    );
    let mut node_memory =
        family("node_memory_working_set_bytes", "gauge", &stable("Current working set of the node in bytes"));
    let mut pod_cpu = family(
        "pod_cpu_usage_seconds_total",
        "counter",
        &stable("Cumulative cpu time consumed by the pod in core-seconds"),
    );
    let mut pod_memory =
        family("pod_memory_working_set_bytes", "gauge", &stable("Current working set of the pod in bytes"));
    let mut failed = family(
        "resource_scrape_error",
        "gauge",
        &stable("1 if there was an error while getting container metrics, 0 otherwise"),
    );
    node_cpu.add(&[], cpu_seconds(used.node.usage.cpu_ns));
    node_memory.add(&[], number(used.node.usage.working_set_bytes));
    failed.add(&[], 0.0);
    for pod in &used.pods {
        if let Some(reading) = &pod.reading {
            pod_cpu.add(&of_pod(pod), cpu_seconds(reading.usage.cpu_ns));
            pod_memory.add(&of_pod(pod), number(reading.usage.working_set_bytes));
        }
        for container in &pod.containers {
            let labels = of_container(pod, container);
            container_cpu.add(&labels, cpu_seconds(container.reading.usage.cpu_ns));
            container_memory.add(&labels, number(container.reading.usage.working_set_bytes));
            if let Some(started) = container.started {
                container_start.add(&labels, time(started));
            }
        }
    }
    let all = [
        container_cpu,
        container_memory,
        container_start,
        node_cpu,
        node_memory,
        pod_cpu,
        pod_memory,
        failed,
    ];
    all.into_iter().map(|family| family.text).collect()
}

/// `/metrics/cadvisor`: per container and pod, under the names that dashboards know.
pub async fn cadvisor(shared: &Shared) -> String {
    let used = super::read(shared).await;
    let machine = u64::try_from(shared.machine.memory_bytes).unwrap_or(0);
    let mut text = cadvisor_text(&used, &|pod| shared.group(&pod.entry.pod));
    for (name, value) in
        [("machine_cpu_cores", shared.machine.cpus.unsigned_abs()), ("machine_memory_bytes", machine)]
    {
        let mut family = Family::new(name, "gauge", "What the machine has.", used.at);
        family.add(&[], number(value));
        text.push_str(&family.text);
    }
    text
}

/// A metric of control groups: its name, type, help and how it is read.
type GroupMetric = (&'static str, &'static str, &'static str, fn(&runtime::cgroup::Usage) -> f64);

const GROUP_METRICS: [GroupMetric; 5] = [
    ("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.", |usage| {
        cpu_seconds(usage.cpu_ns)
    }),
    ("container_memory_usage_bytes", "gauge", "Current memory usage in bytes.", |usage| {
        number(usage.memory_bytes)
    }),
    ("container_memory_working_set_bytes", "gauge", "Current working set in bytes.", |usage| {
        number(usage.working_set_bytes)
    }),
    ("container_memory_rss", "gauge", "Size of RSS in bytes.", |usage| number(usage.rss_bytes)),
    ("container_processes", "gauge", "Number of processes.", |usage| number(usage.pids)),
];

/// A metric of interfaces: its name and how it is read.
type TrafficMetric = (&'static str, fn(&Traffic) -> u64);

const TRAFFIC_METRICS: [TrafficMetric; 4] = [
    ("container_network_receive_bytes_total", |traffic| traffic.rx_bytes),
    ("container_network_receive_errors_total", |traffic| traffic.rx_errors),
    ("container_network_transmit_bytes_total", |traffic| traffic.tx_bytes),
    ("container_network_transmit_errors_total", |traffic| traffic.tx_errors),
];

fn cadvisor_text(used: &NodeUse, group_of: &dyn Fn(&PodUse) -> String) -> String {
    let mut out = String::new();
    for (name, kind, help, read) in GROUP_METRICS {
        let mut family = Family::new(name, kind, help, used.at);
        let root =
            [("container", ""), ("id", "/"), ("image", ""), ("name", ""), ("namespace", ""), ("pod", "")];
        family.add(&root, read(&used.node.usage));
        for pod in &used.pods {
            let group = group_of(pod);
            let [namespace, pod_name] = of_pod(pod);
            let mut add = |container: &str, id: &str, name: &str, usage| {
                let own = [("container", container), ("id", id), ("image", ""), ("name", name)];
                family.add(&[own[0], own[1], own[2], own[3], namespace, pod_name], read(usage));
            };
            if let Some(reading) = &pod.reading {
                add("", &group, "", &reading.usage);
            }
            for container in &pod.containers {
                let id = format!("{group}/{}", container.id);
                add(&container.name, &id, &container.id, &container.reading.usage);
            }
        }
        out.push_str(&family.text);
    }
    for (name, read) in TRAFFIC_METRICS {
        let mut family =
            Family::new(name, "counter", "Cumulative count since the interface was made.", used.at);
        for pod in &used.pods {
            let [namespace, pod_name] = of_pod(pod);
            for traffic in pod.traffic.iter().flatten() {
                family.add(&[("interface", &traffic.name), namespace, pod_name], number(read(traffic)));
            }
        }
        out.push_str(&family.text);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_have_labels_and_times() {
        let at = Timestamp::from_millisecond(1_500).expect("a time");
        let mut family = Family::new("m", "gauge", "Help.", at);
        family.add(&[], 0.5);
        family.add(&[("a", "x\"y"), ("b", "")], 2.0);
        assert_eq!(
            family.text,
            "# HELP m Help.\n# TYPE m gauge\nm 0.5 1500\nm{a=\"x\\\"y\",b=\"\"} 2 1500\n"
        );
    }
}
