//! The Node object and its status, from facts of the machine, the runtime and the settings.
//!
//! Must not write it.

use std::collections::BTreeMap;

use api::k8s::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints,
    NodeRuntimeHandler, NodeSpec, NodeStatus, NodeSystemInfo,
};
use api::k8s::apimachinery::pkg::api::resource::Quantity;
use api::k8s::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use runtime::cri::messages as m;

use super::machine;
use crate::amount::{self, Amounts};
use crate::config::Config;
use crate::eviction::threshold::{Pressure, Signal};
use crate::pods::status::seconds;
use crate::shared::{Machine, Shared};

/// The version that the node reports.
pub const VERSION: &str = "v1.36.2";
/// The most images listed in the status.
const IMAGES: usize = 50;

/// What the machine has and what pods may use of it.
pub fn resources(config: &Config, machine_facts: &Machine) -> (Amounts, Amounts) {
    let disk = machine::filesystem(&config.root_dir);
    let mut capacity = Amounts::new();
    let mut put = |name: &str, text: String| capacity.insert(name.to_owned(), Quantity(text));
    put("cpu", machine_facts.cpus.to_string());
    put("memory", format!("{}Ki", machine_facts.memory_bytes / 1024));
    put("ephemeral-storage", format!("{}Ki", disk.capacity_bytes / 1024));
    put("pods", config.max_pods.to_string());
    for (size, bytes) in machine::hugepages() {
        put(&format!("hugepages-{size}"), amount::bytes_text(bytes).0);
    }
    let mut allocatable = capacity.clone();
    let held = |signal, capacity| config.eviction.hard(signal).map_or(0, |least| least.of(capacity));
    let machine_bytes = u64::try_from(machine_facts.memory_bytes).unwrap_or(0);
    let eviction = i64::try_from(held(Signal::Memory, machine_bytes)).unwrap_or(0) * 1000;
    for (name, quantity) in &mut allocatable {
        let reserved = config.reserved.get(name).map_or(0, |text| amount::milli(text));
        let held_back = reserved + if name == "memory" { eviction } else { 0 };
        if held_back == 0 {
            continue;
        }
        let left = (amount::milli(&quantity.0) - held_back).max(0);
        *quantity = if name == "cpu" {
            amount::cpu_text(left)
        } else {
            Quantity(format!("{}Ki", left / 1000 / 1024))
        };
    }
    if let Some(disk) = allocatable.get_mut("ephemeral-storage") {
        let bytes = u64::try_from(amount::whole(&disk.0)).unwrap_or(0);
        *disk = Quantity(bytes.saturating_sub(held(Signal::NodeFs, bytes)).to_string());
    }
    (capacity, allocatable)
}

/// The labels that say what the node is.
pub fn labels(config: &Config) -> BTreeMap<String, String> {
    let architecture = machine::architecture();
    let own = [
        ("kubernetes.io/hostname", config.node_name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", architecture),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", architecture),
    ];
    let mut labels: BTreeMap<_, _> = own.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    labels.extend(config.labels.clone());
    labels
}

/// The Node object of a first registration.
pub fn node(shared: &Shared, status: &NodeStatus) -> Node {
    let config = &shared.config;
    Node {
        metadata: ObjectMeta {
            name: Some(config.node_name.clone()),
            labels: Some(labels(config)),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            taints: (!config.taints.is_empty()).then(|| config.taints.clone()),
            provider_id: config.provider_id.clone(),
            unschedulable: config.unschedulable.then_some(true),
            ..NodeSpec::default()
        }),
        status: Some(status.clone()),
    }
}

/// The images here, largest first, as the status lists them.
pub async fn images(shared: &Shared) -> Vec<ContainerImage> {
    let Ok(answer) = shared.cri.list_images(m::ListImagesRequest { filter: None }).await else {
        return Vec::new();
    };
    let mut images: Vec<ContainerImage> = answer
        .images
        .into_iter()
        .map(|image| ContainerImage {
            names: Some(image.repo_digests.into_iter().chain(image.repo_tags).collect()),
            size_bytes: i64::try_from(image.size).ok(),
        })
        .filter(|image| image.names.as_ref().is_some_and(|names| !names.is_empty()))
        .collect();
    images.sort_by(|a, b| b.size_bytes.cmp(&a.size_bytes).then(a.names.cmp(&b.names)));
    images.truncate(IMAGES);
    images
}

/// The node's status now; conditions keep their times from `before`.
pub async fn status(shared: &Shared, before: Option<&NodeStatus>, images: &[ContainerImage]) -> NodeStatus {
    let ready = super::ready(shared).await;
    let (mut capacity, _) = resources(&shared.config, &shared.machine);
    let mut allocatable = shared.allocatable.clone();
    for (name, (all, healthy)) in shared.devices.counts() {
        capacity.insert(name.clone(), Quantity(all.to_string()));
        allocatable.insert(name, Quantity(healthy.to_string()));
    }
    let mut addresses: Vec<NodeAddress> = shared
        .host_ips
        .iter()
        .map(|ip| NodeAddress { type_: "InternalIP".into(), address: ip.clone() })
        .collect();
    addresses.push(NodeAddress { type_: "Hostname".into(), address: shared.config.node_name.clone() });
    NodeStatus {
        addresses: Some(addresses),
        capacity: Some(capacity),
        allocatable: Some(allocatable),
        conditions: Some(conditions(shared, before, ready)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(shared.config.port()) }),
        }),
        images: Some(images.to_vec()),
        node_info: Some(info(shared)),
        runtime_handlers: Some(vec![NodeRuntimeHandler {
            name: Some(String::new()),
            ..NodeRuntimeHandler::default()
        }]),
        ..NodeStatus::default()
    }
}

fn info(shared: &Shared) -> NodeSystemInfo {
    NodeSystemInfo {
        architecture: machine::architecture().to_owned(),
        boot_id: machine::boot_id(),
        container_runtime_version: format!("{}://{}", shared.runtime.name, shared.runtime.version),
        kernel_version: machine::kernel(),
        kube_proxy_version: String::new(),
        kubelet_version: VERSION.to_owned(),
        machine_id: machine::machine_id(),
        operating_system: "linux".to_owned(),
        os_image: machine::os_image(),
        system_uuid: machine::system_uuid(),
        ..NodeSystemInfo::default()
    }
}

fn conditions(shared: &Shared, before: Option<&NodeStatus>, ready: Result<(), String>) -> Vec<NodeCondition> {
    let pressures = shared.pressures.now();
    let [memory_low, disk_low, pids_low] =
        [Pressure::Memory, Pressure::Disk, Pressure::Pids].map(|pressure| pressures.contains(&pressure));
    let pressure = |kind: &'static str,
                    low: bool,
                    bad: &'static str,
                    good: &'static str,
                    said: (&'static str, &'static str)| {
        let (reason, message) = if low { (bad, said.0) } else { (good, said.1) };
        (kind, low, reason.to_owned(), message.to_owned())
    };
    let (reason, message) = match &ready {
        Ok(()) => ("KubeletReady", "kubelet is posting ready status".to_owned()),
        Err(error) => ("KubeletNotReady", error.clone()),
    };
    let rows = [
        pressure(
            "MemoryPressure",
            memory_low,
            "KubeletHasInsufficientMemory",
            "KubeletHasSufficientMemory",
            ("kubelet has insufficient memory available", "kubelet has sufficient memory available"),
        ),
        pressure(
            "DiskPressure",
            disk_low,
            "KubeletHasDiskPressure",
            "KubeletHasNoDiskPressure",
            ("kubelet has disk pressure", "kubelet has no disk pressure"),
        ),
        pressure(
            "PIDPressure",
            pids_low,
            "KubeletHasInsufficientPID",
            "KubeletHasSufficientPID",
            ("kubelet has insufficient PID available", "kubelet has sufficient PID available"),
        ),
        ("Ready", ready.is_ok(), reason.to_owned(), message),
    ];
    let now = Time(seconds(shared.clock.now()));
    rows.into_iter()
        .map(|(kind, on, reason, message)| {
            let status = if on { "True" } else { "False" };
            let old =
                before.and_then(|before| before.conditions.as_ref()?.iter().find(|old| old.type_ == kind));
            let since =
                old.filter(|old| old.status == status).and_then(|old| old.last_transition_time.clone());
            NodeCondition {
                type_: kind.to_owned(),
                status: status.to_owned(),
                reason: Some(reason),
                message: Some(message),
                last_heartbeat_time: Some(now.clone()),
                last_transition_time: Some(since.unwrap_or_else(|| now.clone())),
            }
        })
        .collect()
}

/// True when more than heartbeats changed.
pub fn differs(a: &NodeStatus, b: &NodeStatus) -> bool {
    let still = |status: &NodeStatus| {
        let mut status = status.clone();
        status.conditions.iter_mut().flatten().for_each(|condition| condition.last_heartbeat_time = None);
        status
    };
    still(a) != still(b)
}

/// True when the node says it is ready.
pub fn is_ready(status: &NodeStatus) -> bool {
    status
        .conditions
        .iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
