//! What the node, its pods and their containers use: CPU rates over samples, memory, disks and networks.
//!
//! Must not know HTTP; `summary` and `exposition` give what is read here its forms.

pub mod exposition;
pub mod network;
pub mod sampler;
pub mod summary;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::k8s::api::core::v1::PodStatus;
use base::tasks::blocking;
use jiff::Timestamp;
use runtime::cri::messages as m;

use crate::container::resources::{container_group, systemd_group};
use crate::node::machine;
use crate::pods::pod::PodExt;
use crate::pods::registry::Entry;
use crate::shared::Shared;
use network::Traffic;
use sampler::{Reading, Wanted};

/// How often CPU counters are read for rates.
const TICK: Duration = Duration::from_secs(10);

/// A container's use.
#[derive(Clone, Debug)]
pub struct ContainerUse {
    /// Its name.
    pub name: String,
    /// Its id in the runtime.
    pub id: String,
    /// When it started.
    pub started: Option<Timestamp>,
    /// Its control group's.
    pub reading: Reading,
}

/// A pod's use.
#[derive(Clone, Debug)]
pub struct PodUse {
    /// The pod.
    pub entry: Entry,
    /// Its control group's; `None` when it has none.
    pub reading: Option<Reading>,
    /// Its running containers'.
    pub containers: Vec<ContainerUse>,
    /// Its network interfaces'; `None` for pods on the node's network.
    pub traffic: Option<Vec<Traffic>>,
}

/// Everything here.
#[derive(Clone, Debug)]
pub struct NodeUse {
    /// When it was read.
    pub at: Timestamp,
    /// The machine's.
    pub node: Reading,
    /// That of all pods together.
    pub pods_group: Option<Reading>,
    /// Each pod's.
    pub pods: Vec<PodUse>,
    /// The machine's network interfaces'.
    pub traffic: Vec<Traffic>,
}

/// Keeps rates going until cancelled.
pub async fn run(shared: Arc<Shared>) {
    loop {
        let wanted = groups(&shared, &shared.registry.all());
        let (sampler, cgroups) = (shared.sampler.clone(), shared.cgroups.clone());
        let now = (shared.clock.monotonic(), shared.clock.now());
        blocking(move || sampler.tick(&cgroups, &wanted, now)).await;
        shared.clock.sleep(TICK).await;
    }
}

/// The control group above all pods'.
pub fn pods_group(shared: &Shared) -> String {
    let group = format!("{}/kubepods", shared.config.cgroup_root);
    if shared.systemd { systemd_group(&group) } else { group }
}

/// When a container of a pod started, if it runs.
fn started(status: Option<&Arc<PodStatus>>, name: &str) -> Option<Timestamp> {
    let status = status?;
    let lists = [
        status.container_statuses.as_ref(),
        status.init_container_statuses.as_ref(),
        status.ephemeral_container_statuses.as_ref(),
    ];
    let found = lists.into_iter().flatten().flatten().find(|container| container.name == name)?;
    Some(found.state.as_ref()?.running.as_ref()?.started_at.as_ref()?.0)
}

/// Every control group that is read, with the time since when it counts.
fn groups(shared: &Shared, entries: &[Entry]) -> Vec<Wanted> {
    let wanted = |group: String, since: Option<Timestamp>| Wanted { group, since };
    let mut out = vec![wanted("/".into(), None), wanted(pods_group(shared), None)];
    for entry in entries.iter().filter(|entry| entry.sandbox.is_some()) {
        let group = shared.group(&entry.pod);
        for (name, id) in &entry.containers {
            let started = started(entry.status.as_ref(), name);
            if started.is_some() {
                out.push(wanted(container_group(&group, id, shared.systemd), started));
            }
        }
        let since = entry.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0);
        out.push(wanted(group, since));
    }
    out
}

/// Reads everything now.
pub async fn read(shared: &Shared) -> NodeUse {
    let entries = shared.registry.all();
    let wanted = groups(shared, &entries);
    let (sampler, cgroups) = (shared.sampler.clone(), shared.cgroups.clone());
    let (mono, at) = (shared.clock.monotonic(), shared.clock.now());
    let sandboxes: Vec<(String, Option<String>)> = entries
        .iter()
        .map(|entry| {
            let group = shared.group(&entry.pod);
            let sandbox = entry.sandbox.as_ref().filter(|_| !entry.pod.host_network());
            let sandbox = sandbox.map(|id| container_group(&group, id, shared.systemd));
            (entry.pod.uid().to_owned(), sandbox)
        })
        .collect();
    let (mut readings, mut traffic, own_traffic) = blocking(move || {
        let readings = sampler.read(&cgroups, &wanted, (mono, at));
        let of = |group: Option<String>| network::of_process(cgroups.first_process(&group?)?);
        let traffic: BTreeMap<String, Option<Vec<Traffic>>> =
            sandboxes.into_iter().map(|(uid, sandbox)| (uid, of(sandbox))).collect();
        (readings, traffic, network::of_machine())
    })
    .await;
    let mut node = readings.remove("/").unwrap_or_default();
    // The machine's memory as the kernel tells it: the root group of v2 has no such file.
    let available = machine::meminfo("MemAvailable");
    node.usage.working_set_bytes = u64::try_from(shared.machine.memory_bytes - available).unwrap_or(0);
    let pods_group = readings.remove(&pods_group(shared));
    let pods = entries
        .into_iter()
        .filter(|entry| entry.sandbox.is_some())
        .map(|entry| {
            let group = shared.group(&entry.pod);
            let container = |(name, id): (&String, &String)| {
                let reading = readings.get(&container_group(&group, id, shared.systemd))?.clone();
                let started = started(entry.status.as_ref(), name);
                Some(ContainerUse { name: name.clone(), id: id.clone(), started, reading })
            };
            PodUse {
                containers: entry.containers.iter().filter_map(container).collect(),
                reading: readings.get(&group).cloned(),
                traffic: traffic.remove(entry.pod.uid()).flatten(),
                entry,
            }
        })
        .collect();
    NodeUse { at, node, pods_group, pods, traffic: own_traffic }
}

/// What containers have written to their own layer, by id: bytes and inodes.
pub async fn written_layers(shared: &Shared) -> BTreeMap<String, (u64, u64)> {
    let answer = shared.cri.list_container_stats(m::ListContainerStatsRequest { filter: None }).await;
    let number = |value: Option<m::UInt64Value>| value.map_or(0, |value| value.value);
    let stats = answer.map(|answer| answer.stats).unwrap_or_default().into_iter();
    stats
        .filter_map(|stats| {
            let layer = stats.writable_layer?;
            Some((stats.attributes?.id, (number(layer.used_bytes), number(layer.inodes_used))))
        })
        .collect()
}
