//! What every part of the agent works with: connections, settings, facts of the machine.
//!
//! Must not decide anything.

use std::path::PathBuf;
use std::sync::Arc;

use api::k8s::api::core::v1::Service;
use api::k8s::api::node::v1::RuntimeClass;
use base::metrics::Metrics;
use base::{Clock, Rng, Tasks};
use client::plan::About;
use client::{Client, Informer};
use runtime::Cri;
use runtime::cgroup::Cgroups;
use runtime::cri::messages as m;

use crate::Config;
use crate::amount::Amounts;
use crate::collector::Collector;
use crate::container::fields::Place;
use crate::container::{files, resources, security};
use crate::devices::Devices;
use crate::events::Events;
use crate::eviction::Pressures;
use crate::images::Images;
use crate::objects::Objects;
use crate::pods::registry::Registry;
use crate::qos::Classes;
use crate::shutdown::Shutdown;
use crate::stats::sampler::Sampler;
use crate::tokens::TokenStore;
use crate::volumes;

/// The machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// CPUs.
    pub cpus: i64,
    /// Memory, bytes.
    pub memory_bytes: i64,
}

/// The container runtime.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeFacts {
    /// Such as `containerd`; the scheme of container ids.
    pub name: String,
    /// Its version.
    pub version: String,
    /// It takes images as mounts (containerd 2.1 and later).
    pub image_mounts: bool,
    /// Where it keeps images; `None` when it does not say.
    pub image_dir: Option<PathBuf>,
}

/// Shared by all tasks of an agent.
pub struct Shared {
    /// Settings.
    pub config: Config,
    /// The API.
    pub client: Client,
    /// The runtime.
    pub cri: Cri,
    /// Time.
    pub clock: Clock,
    /// Randomness.
    pub rng: Rng,
    /// Background work.
    pub tasks: Tasks,
    /// Counters.
    pub metrics: Metrics,
    /// Events about pods.
    pub events: Events,
    /// Control groups.
    pub cgroups: Cgroups,
    /// systemd makes control groups.
    pub systemd: bool,
    /// Pods' directories.
    pub store: volumes::Store,
    /// Config maps and secrets in use.
    pub objects: Objects,
    /// Tokens in use.
    pub tokens: TokenStore,
    /// Images.
    pub images: Images,
    /// Services, for environment variables.
    pub services: Arc<Informer<Service>>,
    /// Runtime classes.
    pub runtime_classes: Arc<Informer<RuntimeClass>>,
    /// The machine.
    pub machine: Machine,
    /// The node's addresses.
    pub host_ips: Vec<String>,
    /// What pods may use.
    pub allocatable: Amounts,
    /// The runtime.
    pub runtime: RuntimeFacts,
    /// The pods here.
    pub registry: Registry,
    /// CPU rates.
    pub sampler: Sampler,
    /// What runs out.
    pub pressures: Pressures,
    /// Unused images.
    pub collector: Collector,
    /// Whether the machine is about to end.
    pub shutdown: Shutdown,
    /// Plugins' devices.
    pub devices: Devices,
    /// Control groups above pods.
    pub classes: Classes,
}

impl Shared {
    /// Node facts for the downward API.
    pub fn place<'a>(&'a self, pod_ips: &'a [String]) -> Place<'a> {
        Place {
            node: &self.config.node_name,
            host_ips: &self.host_ips,
            pod_ips,
            allocatable: Some(&self.allocatable),
        }
    }

    /// Settings of the node that security depends on.
    pub fn defaults(&self) -> security::Defaults {
        security::Defaults {
            seccomp_runtime_default: self.config.seccomp_default,
            root_dir: self.config.root_dir.to_string_lossy().into_owned(),
        }
    }

    /// The node, as the subject of events; its name stands for its uid, as in upstream's.
    pub fn about_node(&self) -> About {
        let name = self.config.node_name.clone();
        About { api_version: "v1".into(), kind: "Node".into(), uid: name.clone(), name, ..About::default() }
    }

    /// The node's resolver configuration, as it is now.
    pub fn node_dns(&self) -> m::DnsConfig {
        let path = self.config.resolv_conf.as_ref();
        let text = path.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
        files::parse_resolv_conf(&text)
    }

    /// A directory on the disk of images and containers' own files.
    pub fn image_dir(&self) -> PathBuf {
        self.runtime.image_dir.clone().unwrap_or_else(|| self.config.root_dir.clone())
    }

    /// A pod's control group as the kernel names it.
    pub fn group(&self, pod: &api::k8s::api::core::v1::Pod) -> String {
        let group = resources::pod_group(&self.config.cgroup_root, pod);
        if self.systemd { resources::systemd_group(&group) } else { group }
    }

    /// A pod's control group as the runtime is told.
    pub fn cgroup_parent(&self, pod: &api::k8s::api::core::v1::Pod) -> String {
        let group = self.group(pod);
        // systemd takes the last slice's name alone.
        if self.systemd { group.rsplit('/').next().unwrap_or_default().to_owned() } else { group }
    }
}
