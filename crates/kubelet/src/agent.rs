//! The agent as a whole: connected, wired, running.
//!
//! Must not decide anything about pods or the node.

use std::sync::Arc;
use std::time::Duration;

use api::k8s::api::core::v1::{Node, Pod, Service};
use api::k8s::api::node::v1::RuntimeClass;
use base::metrics::Metrics;
use base::{Clock, Rng, Tasks};
use client::{Client, Recorder, Scope, SharedInformers};
use runtime::cgroup::Cgroups;
use runtime::cri::messages as m;
use runtime::{Cri, CriError};
use tokio::sync::mpsc;

use crate::collector::Collector;
use crate::devices::Devices;
use crate::events::Events;
use crate::eviction::Pressures;
use crate::images::{Arriving, Images};
use crate::objects::Objects;
use crate::pods::registry::{Registry, Signal};
use crate::pods::{manager, ops};
use crate::qos::Classes;
use crate::shared::{RuntimeFacts, Shared};
use crate::shutdown::Shutdown;
use crate::stats::sampler::Sampler;
use crate::tokens::TokenStore;
use crate::{Config, node, server, statics, volumes};

/// How long the agent waits between tries to reach the runtime.
const RUNTIME_RETRY: Duration = Duration::from_millis(50);

/// Why an agent does not run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The runtime's endpoint is not usable.
    #[error(transparent)]
    Runtime(#[from] CriError),
    /// A directory cannot be made.
    #[error("cannot make {path:?}: {source}")]
    Directory {
        /// The directory.
        path: std::path::PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The server cannot be started.
    #[error(transparent)]
    Server(#[from] server::ServerError),
}

/// What an agent is given.
pub struct Parts {
    /// Settings.
    pub config: Config,
    /// The API, as this node.
    pub client: Client,
    /// Time.
    pub clock: Clock,
    /// Randomness.
    pub rng: Rng,
    /// Background work.
    pub tasks: Tasks,
    /// Counters.
    pub metrics: Metrics,
    /// The server's TLS, client CA and streams.
    pub server: server::Parts,
}

/// Connects to the runtime, starts everything as tasks, and returns what they share.
pub async fn start(parts: Parts) -> Result<Arc<Shared>, AgentError> {
    start_while(parts, Arriving::default()).await
}

/// Starts while images are still being brought to the runtime.
pub async fn start_while(parts: Parts, arriving: Arriving) -> Result<Arc<Shared>, AgentError> {
    let Parts { config, client, clock, rng, tasks, metrics, server: server_parts } = parts;
    for path in [config.root_dir.join("pods"), config.log_dir.clone()] {
        std::fs::create_dir_all(&path).map_err(|source| AgentError::Directory { path, source })?;
    }
    let cri = Cri::new(&config.runtime_endpoint)?;
    let (runtime, systemd) = meet_runtime(&cri, &config, &clock).await;
    let machine = node::machine::machine();
    let (_, allocatable) = node::object::resources(&config, &machine);
    let host_ips = if config.node_ips.is_empty() {
        vec![node::machine::default_address().to_string()]
    } else {
        config.node_ips.iter().map(ToString::to_string).collect()
    };
    let recorder = Recorder::new(client.clone(), "kubelet", &config.node_name, clock.clone(), &tasks);
    let events = Events::new(recorder);
    let informers = SharedInformers::new(client.clone(), clock.clone(), rng.clone(), tasks.clone());
    let (changed, mut changes) = mpsc::unbounded_channel();
    let store = volumes::Store::new(&config.root_dir);
    let devices = Devices::new(&config.root_dir);
    let shared = Arc::new(Shared {
        objects: Objects::new(client.clone(), clock.clone(), tasks.clone(), changed),
        tokens: TokenStore::new(client.clone(), clock.clone()),
        images: Images::new(cri.clone(), clock.clone(), events.clone(), arriving),
        services: informers.of::<Service>(),
        runtime_classes: informers.of::<RuntimeClass>(),
        registry: Registry::default(),
        sampler: Sampler::default(),
        pressures: Pressures::default(),
        shutdown: Shutdown::default(),
        collector: Collector::default(),
        classes: Classes::default(),
        devices,
        cgroups: Cgroups::detect().through_systemd(systemd),
        config,
        client,
        cri,
        clock,
        rng,
        tasks,
        metrics,
        events,
        systemd,
        store,
        machine,
        host_ips,
        allocatable,
        runtime,
    });
    shared.classes.keep(&shared).await;
    let registry = shared.registry.clone();
    shared.tasks.spawn("object changes", async move {
        while let Some(uid) = changes.recv().await {
            registry.tell(&uid, Signal::Refresh);
        }
    });
    shared.tasks.spawn("runtime events", follow_runtime(shared.clone()));
    shared.tasks.spawn("node", node::run(shared.clone()));
    shared.tasks.spawn("node lease", node::keep_lease(shared.clone()));
    follow_api(&shared, &informers);
    shared.tasks.spawn("statistics", crate::stats::run(shared.clone()));
    shared.tasks.spawn("devices", crate::devices::run(shared.clone()));
    shared.tasks.spawn("eviction", crate::eviction::run(shared.clone()));
    shared.tasks.spawn("shutdown", crate::shutdown::run(shared.clone()));
    shared.tasks.spawn("housekeeping", crate::housekeeping::run(shared.clone()));
    server::start(&shared, server_parts).await?;
    Ok(shared)
}

/// Starts what reads the API: the pods bound to this node, the node itself, and static pods.
fn follow_api(shared: &Arc<Shared>, informers: &SharedInformers) {
    let by_node = format!("spec.nodeName={}", shared.config.node_name);
    let pods = informers.scoped::<Pod>(Scope { fields: by_node, ..Scope::default() });
    let by_name = format!("metadata.name={}", shared.config.node_name);
    let own_node = informers.scoped::<Node>(Scope { fields: by_name, ..Scope::default() });
    shared.tasks.spawn("local volumes", volumes::local::run(shared.clone(), own_node.clone()));
    let (wanted, statics_wanted) = mpsc::unbounded_channel();
    if let Some(dir) = shared.config.manifest_dir.clone() {
        // Known before any mirror is seen: a mirror without its pod would be deleted.
        let known = statics::load(shared, &dir, &wanted);
        shared.tasks.spawn("static pods", statics::watch(shared.clone(), dir, known, wanted.clone()));
    }
    let manager_shared = shared.clone();
    shared.tasks.spawn("pods", async move {
        // Environment variables of services must be complete from the first pod on.
        manager_shared.services.synced().await;
        own_node.synced().await;
        manager::run(manager_shared.clone(), Some(pods), Some(own_node), statics_wanted).await;
        drop(wanted);
    });
}

/// Waits for the runtime and asks what it is and who makes its control groups.
async fn meet_runtime(cri: &Cri, config: &Config, clock: &Clock) -> (RuntimeFacts, bool) {
    let mut told = false;
    let version = loop {
        match cri.version(m::VersionRequest { version: "v1".into() }).await {
            Ok(version) => break version,
            Err(error) if !told => {
                tracing::info!(%error, endpoint = config.runtime_endpoint, "waiting for the container runtime");
                told = true;
            }
            Err(_) => {}
        }
        clock.sleep(RUNTIME_RETRY).await;
    };
    let offered = cri.runtime_config(m::RuntimeConfigRequest {}).await.ok().and_then(|answer| answer.linux);
    let offered = offered.map(|linux| linux.cgroup_driver == m::CgroupDriver::Systemd as i32);
    let systemd = offered.or(config.systemd_cgroups).unwrap_or(false);
    let number = |part: Option<&str>| part.and_then(|part| part.parse::<u32>().ok()).unwrap_or(0);
    let text = version.runtime_version.trim_start_matches('v').to_owned();
    let mut parts = text.split(['.', '~', '-']);
    let at = (number(parts.next()), number(parts.next()));
    let image_mounts = version.runtime_name == "containerd" && at >= (2, 1);
    let name = version.runtime_name.clone();
    let disks = cri.image_fs_info(m::ImageFsInfoRequest {}).await.ok();
    let image_dir = disks.and_then(|answer| {
        let id = answer.image_filesystems.into_iter().next()?.fs_id?;
        Some(std::path::PathBuf::from(id.mountpoint)).filter(|dir| dir.is_dir())
    });
    (RuntimeFacts { name, version: version.runtime_version, image_mounts, image_dir }, systemd)
}

/// Hands the runtime's events to the pods they concern; subscribes again when the stream ends.
async fn follow_runtime(shared: Arc<Shared>) {
    loop {
        match runtime::events::Events::subscribe(&shared.cri).await {
            Ok(mut events) => {
                shared.registry.set_events(true);
                while let Some(event) = events.next().await {
                    shared.registry.runtime_event(&event);
                }
                shared.registry.set_events(false);
            }
            Err(error) => tracing::debug!(%error, "no events from the runtime"),
        }
        shared.clock.sleep(Duration::from_secs(1)).await;
    }
}

/// Waits for the first pods to be adopted, then stops all tasks; running pods are left alone.
pub async fn stop(shared: &Shared) {
    let _ = ops::NODE_LABEL;
    shared.tasks.drain(Duration::from_secs(5)).await;
}
