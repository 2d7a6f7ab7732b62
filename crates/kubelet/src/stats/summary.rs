//! `/stats/summary`: everything in use, as upstream's stats API names it.
//!
//! Must not keep anything.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use api::k8s::api::core::v1::Pod;
use base::tasks::blocking;
use jiff::Timestamp;
use runtime::disk::{Filesystem, Taken};
use serde_json::{Value, json};

use super::network::Traffic;
use super::sampler::Reading;
use super::{ContainerUse, PodUse};
use crate::container::sandbox;
use crate::node::machine;
use crate::pods::pod::PodExt;
use crate::pods::status::seconds;
use crate::shared::Shared;
use crate::volumes;

/// What a pod has on disks.
#[derive(Clone, Debug, Default)]
struct OnDisk {
    /// By volume: its claim's name and what it takes.
    volumes: BTreeMap<String, (Option<String>, Taken)>,
    /// By container: what its logs take.
    logs: BTreeMap<String, Taken>,
}

/// Of a pod, the directories to be summed.
struct Directories {
    uid: String,
    volumes: Vec<(String, Option<String>, PathBuf)>,
    logs: Vec<(String, PathBuf)>,
}

fn cpu(reading: &Reading) -> Value {
    let mut out = json!({"time": reading.at, "usageCoreNanoSeconds": reading.usage.cpu_ns});
    if let Some(rate) = reading.nano_cores {
        out["usageNanoCores"] = rate.into();
    }
    out
}

fn memory(reading: &Reading, at: Timestamp, limit: Option<u64>) -> Value {
    let usage = &reading.usage;
    let mut out = json!({
        "time": at, "usageBytes": usage.memory_bytes, "workingSetBytes": usage.working_set_bytes,
        "rssBytes": usage.rss_bytes, "pageFaults": usage.page_faults,
        "majorPageFaults": usage.major_page_faults,
    });
    if let Some(limit) = limit {
        out["availableBytes"] = limit.saturating_sub(usage.working_set_bytes).into();
    }
    out
}

fn filesystem(disk: Filesystem, at: Timestamp) -> Value {
    json!({
        "time": at, "availableBytes": disk.available_bytes, "capacityBytes": disk.capacity_bytes,
        "usedBytes": disk.used_bytes, "inodes": disk.inodes, "inodesFree": disk.inodes_free,
        "inodesUsed": disk.inodes - disk.inodes_free,
    })
}

/// A filesystem of which something takes a part.
fn part(disk: Filesystem, at: Timestamp, bytes: u64, inodes: u64) -> Value {
    let mut out = filesystem(disk, at);
    out["usedBytes"] = bytes.into();
    out["inodesUsed"] = inodes.into();
    out
}

fn network(traffic: &[Traffic], at: Timestamp) -> Value {
    let interface = |traffic: &Traffic| {
        json!({"name": traffic.name, "rxBytes": traffic.rx_bytes, "rxErrors": traffic.rx_errors,
            "txBytes": traffic.tx_bytes, "txErrors": traffic.tx_errors})
    };
    let mut out = match traffic.iter().find(|traffic| traffic.name == "eth0").or(traffic.first()) {
        Some(first) => interface(first),
        None => json!({"name": ""}),
    };
    out["time"] = json!(at);
    out["interfaces"] = traffic.iter().map(interface).collect();
    out
}

/// `/stats/summary`; `brief` leaves out all but CPU and memory.
pub async fn summary(shared: &Shared, brief: bool) -> Value {
    let used = super::read(shared).await;
    let at = seconds(used.at);
    let layers = if brief { BTreeMap::new() } else { super::written_layers(shared).await };
    let on_disk = if brief { BTreeMap::new() } else { on_disk(shared, &used.pods).await };
    let disk = machine::filesystem(&shared.config.root_dir);
    let pods: Vec<Value> = used
        .pods
        .iter()
        .map(|pod| {
            let mut out = pod_value(shared, pod, at);
            if !brief {
                let none = OnDisk::default();
                add_disks(
                    &mut out,
                    on_disk.get(pod.entry.pod.uid()).unwrap_or(&none),
                    pod,
                    &layers,
                    disk,
                    at,
                );
            }
            out
        })
        .collect();
    let machine_bytes = u64::try_from(shared.machine.memory_bytes).ok();
    let mut node = json!({
        "nodeName": shared.config.node_name, "startTime": seconds(machine::boot_time(used.at)),
        "cpu": cpu(&used.node), "memory": memory(&used.node, at, machine_bytes),
    });
    if let Some(group) = &used.pods_group {
        let allocatable = crate::amount::whole_of(Some(&shared.allocatable), "memory");
        let limit = allocatable.and_then(|bytes| u64::try_from(bytes).ok());
        node["systemContainers"] = json!([{"name": "pods", "startTime": node["startTime"],
            "cpu": cpu(group), "memory": memory(group, at, limit)}]);
    }
    if !brief {
        let images = machine::filesystem(&shared.image_dir());
        node["network"] = network(&used.traffic, at);
        node["fs"] = filesystem(disk, at);
        node["runtime"] = json!({"imageFs": filesystem(images, at), "containerFs": filesystem(images, at)});
        let pids = machine::pids();
        node["rlimit"] = json!({"time": at, "maxpid": pids.max, "curproc": pids.used});
    }
    json!({"node": node, "pods": pods})
}

fn pod_value(shared: &Shared, pod: &PodUse, at: Timestamp) -> Value {
    let (entry, group) = (&pod.entry, shared.group(&pod.entry.pod));
    let systemd = shared.systemd;
    let container = |one: &ContainerUse| {
        let path = crate::container::resources::container_group(&group, &one.id, systemd);
        json!({"name": one.name, "startTime": one.started.map(seconds), "cpu": cpu(&one.reading),
            "memory": memory(&one.reading, at, shared.cgroups.memory_limit(&path))})
    };
    let mut out = json!({
        "podRef": {"name": entry.pod.name(), "namespace": entry.pod.namespace(), "uid": entry.pod.uid()},
        "startTime": entry.status.as_ref().and_then(|status| status.start_time.clone()),
        "containers": pod.containers.iter().map(container).collect::<Vec<_>>(),
    });
    if let Some(reading) = &pod.reading {
        out["cpu"] = cpu(reading);
        out["memory"] = memory(reading, at, shared.cgroups.memory_limit(&group));
        out["process_stats"] = json!({"process_count": reading.usage.pids});
    }
    if let Some(traffic) = &pod.traffic {
        out["network"] = network(traffic, at);
    }
    out
}

fn add_disks(
    out: &mut Value,
    on_disk: &OnDisk,
    pod: &PodUse,
    layers: &BTreeMap<String, (u64, u64)>,
    disk: Filesystem,
    at: Timestamp,
) {
    let (mut bytes, mut inodes) = (0, 0);
    for (index, container) in pod.containers.iter().enumerate() {
        let layer = layers.get(&container.id).copied().unwrap_or_default();
        let logs = on_disk.logs.get(&container.name).copied().unwrap_or_default();
        out["containers"][index]["rootfs"] = part(disk, at, layer.0, layer.1);
        out["containers"][index]["logs"] = part(disk, at, logs.bytes, logs.inodes);
        bytes += layer.0 + logs.bytes;
        inodes += layer.1 + logs.inodes;
    }
    let mut listed = Vec::new();
    for (name, (claim, taken)) in &on_disk.volumes {
        let mut volume = part(disk, at, taken.bytes, taken.inodes);
        volume["name"] = name.clone().into();
        match claim {
            Some(claim) => {
                volume["pvcRef"] = json!({"name": claim, "namespace": pod.entry.pod.namespace()});
            }
            None => {
                bytes += taken.bytes;
                inodes += taken.inodes;
            }
        }
        listed.push(volume);
    }
    if !listed.is_empty() {
        out["volume"] = listed.into();
    }
    out["ephemeral-storage"] = part(disk, at, bytes, inodes);
}

/// What pods take on disks, by uid.
async fn on_disk(shared: &Shared, pods: &[PodUse]) -> BTreeMap<String, OnDisk> {
    let wanted: Vec<Directories> = pods.iter().map(|pod| directories(shared, &pod.entry.pod)).collect();
    blocking(move || wanted.into_iter().map(sum).collect()).await
}

/// What a pod takes on disks: volumes of its own, logs and its containers' own files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskUse {
    /// In all, bytes.
    pub bytes: u64,
    /// In all.
    pub inodes: u64,
    /// Logs and own files by container, bytes.
    pub containers: BTreeMap<String, u64>,
}

/// What pods take on disks, by uid.
pub async fn on_disks(shared: &Shared, pods: &[PodUse]) -> BTreeMap<String, DiskUse> {
    let layers = super::written_layers(shared).await;
    let found = on_disk(shared, pods).await;
    let total = |pod: &PodUse| {
        let uid = pod.entry.pod.uid().to_owned();
        let own = found.get(&uid)?;
        let mut used = DiskUse::default();
        for (_, taken) in own.volumes.values().filter(|(claim, _)| claim.is_none()) {
            used.bytes += taken.bytes;
            used.inodes += taken.inodes;
        }
        for container in &pod.containers {
            let logs = own.logs.get(&container.name).copied().unwrap_or_default();
            let layer = layers.get(&container.id).copied().unwrap_or_default();
            used.bytes += logs.bytes + layer.0;
            used.inodes += logs.inodes + layer.1;
            used.containers.insert(container.name.clone(), logs.bytes + layer.0);
        }
        Some((uid, used))
    };
    pods.iter().filter_map(total).collect()
}

fn sum(wanted: Directories) -> (String, OnDisk) {
    let taken = |path: &Path| runtime::disk::taken(path);
    let volumes = wanted
        .volumes
        .iter()
        .map(|(name, claim, path)| (name.clone(), (claim.clone(), taken(path))))
        .collect();
    let logs = wanted.logs.iter().map(|(name, path)| (name.clone(), taken(path))).collect();
    (wanted.uid, OnDisk { volumes, logs })
}

fn directories(shared: &Shared, pod: &Pod) -> Directories {
    let mut found = Vec::new();
    for volume in pod.spec().volumes.iter().flatten() {
        let in_memory =
            volume.empty_dir.as_ref().is_some_and(|source| source.medium.as_deref() == Some("Memory"));
        if let Some(path) = shared.store.own_dir(pod, volume).filter(|_| !in_memory) {
            found.push((volume.name.clone(), volumes::claim_name(pod, volume), path));
        }
    }
    let logs = PathBuf::from(sandbox::log_dir(&shared.config.log_dir.to_string_lossy(), pod));
    let names = pod.slots().into_iter().filter_map(|slot| Some(pod.container(slot)?.name));
    Directories {
        uid: pod.uid().to_owned(),
        volumes: found,
        logs: names.map(|name| (name.clone(), logs.join(name))).collect(),
    }
}
