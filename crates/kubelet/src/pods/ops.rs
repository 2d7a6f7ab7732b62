//! The steps of starting and stopping a pod: each one talks to the runtime or the API and returns how it went.
//!
//! Must not decide which step comes next.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::k8s::api::core::v1::{
    Container, PersistentVolume, PersistentVolumeClaim, Pod, ResourceRequirements, Secret, Volume,
};
use base::tasks::blocking;
use client::{EventKind, Kind};
use jiff::Timestamp;
use runtime::cri::messages as m;

use super::hooks;
use super::observed::{Observed, Sandbox, State};
use super::pod::{PodExt, Slot, hostname_and_domain};
use super::status::Waiting;
use crate::container::config::DEFAULT_MESSAGE_PATH;
use crate::container::security::ImageUser;
use crate::container::{
    Referenced, SpecError, config, env, fields, files, references, resources, sandbox, security,
};
use crate::images::Local;
use crate::shared::Shared;
use crate::volumes::payload::Sources;
use crate::volumes::{self, Claims, Volumes, subpath};

/// The shortest grace a container gets, so that it can act on its signal at all.
const LEAST_GRACE: Duration = Duration::from_secs(2);

/// Pause after something that could not be stopped or removed.
const PAUSE: Duration = Duration::from_secs(1);

/// What containers need and what exists before they do.
#[derive(Clone, Debug, Default)]
pub struct Prepared {
    /// Volumes by name.
    pub volumes: Volumes,
    /// Config maps, secrets and services.
    pub referenced: Referenced,
    /// When tokens are to be renewed.
    pub renew: Option<Timestamp>,
}

/// Why a step failed: an event's reason and text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Such as `FailedMount`.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// Why a container did not start, and when to try again at the latest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartError {
    /// What the status shows.
    pub waiting: Waiting,
    /// `None` = the back-off of restarts decides.
    pub again_in: Option<Duration>,
}

/// Resources as admitted, by container.
pub type Allocated = BTreeMap<String, ResourceRequirements>;

/// Fetches everything a pod refers to.
pub async fn fetch(shared: &Shared, pod: &Pod) -> Result<Referenced, String> {
    let names = references(pod);
    let mut out = Referenced::default();
    for name in names.config_maps {
        let object = shared.objects.config_map(pod.uid(), pod.namespace(), &name).await;
        out.config_maps.insert(name, object.map_err(|error| error.to_string())?);
    }
    for name in names.secrets {
        let object = shared.objects.secret(pod.uid(), pod.namespace(), &name).await;
        out.secrets.insert(name, object.map_err(|error| error.to_string())?);
    }
    out.services = env::visible_services(pod, shared.services.cache().list().iter());
    Ok(out)
}

/// Directories, control group, objects and volumes of a pod. Repeatable: brings volumes up to date.
pub async fn prepare(
    shared: &Shared,
    pod: &Pod,
    allocated: &Allocated,
    observed: &Observed,
) -> Result<Prepared, Failure> {
    let fail = |reason, message: String| Failure { reason, message };
    let limits = resources::pod_limits(pod, allocated, shared.config.pod_pids_limit);
    shared.classes.keep(shared).await;
    let (cgroups, group) = (shared.cgroups.clone(), shared.group(pod));
    if let Err(error) = blocking(move || cgroups.ensure(&group, &limits)).await {
        return Err(fail(
            "FailedCreatePodContainer",
            format!("unable to ensure pod container exists: {error}"),
        ));
    }
    let dir = shared.store.pod_dir(pod.uid());
    for sub in ["volumes", "containers", "plugins"] {
        if let Err(error) = std::fs::create_dir_all(dir.join(sub)) {
            return Err(fail("Failed", format!("error making pod data directories: {error}")));
        }
    }
    let referenced = fetch(shared, pod).await.map_err(|error| fail("FailedMount", error))?;
    let volumes = pod.spec().volumes.clone().unwrap_or_default();
    let mount = |volume: &Volume, error: String| {
        fail("FailedMount", format!("MountVolume.SetUp failed for volume {:?} : {error}", volume.name))
    };
    let token_volume = volumes.iter().find(|volume| volume.projected.is_some());
    let (tokens, renew) = match (shared.tokens.of(pod).await, token_volume) {
        (Ok(tokens), _) => tokens,
        (Err(error), Some(volume)) => return Err(mount(volume, format!("failed to fetch token: {error}"))),
        (Err(error), None) => return Err(fail("FailedMount", error.to_string())),
    };
    let mut claims = Claims::new();
    for volume in &volumes {
        if let Some(name) = volumes::claim_name(pod, volume) {
            let found = claim(shared, pod, &name).await.map_err(|error| mount(volume, error))?;
            claims.insert(name, Arc::new(found));
        }
    }
    let place = shared.place(observed.ips());
    let sources = Sources { pod, referenced: &referenced, tokens: &tokens, place: &place };
    let version = version_name(shared);
    let mut made = Volumes::new();
    for volume in volumes.iter().filter(|volume| volume.image.is_none()) {
        let mounted = shared.store.prepare(&sources, volume, &claims, &version);
        made.insert(volume.name.clone(), mounted.map_err(|error| mount(volume, error.to_string()))?);
    }
    Ok(Prepared { volumes: made, referenced, renew })
}

/// The hidden directory of one version: its time and a random end.
fn version_name(shared: &Shared) -> String {
    let now = shared.clock.now().to_zoned(jiff::tz::TimeZone::UTC);
    format!("{}.{}", now.strftime("%Y_%m_%d_%H_%M_%S"), shared.rng.below(1 << 32))
}

async fn claim(shared: &Shared, pod: &Pod, name: &str) -> Result<PersistentVolume, String> {
    async fn get<K: Kind>(shared: &Shared, namespace: &str, name: &str) -> Result<K, String> {
        shared.client.get::<K>(namespace, name).await.map_err(|error| error.to_string())
    }
    let claim: PersistentVolumeClaim = get(shared, pod.namespace(), name).await?;
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    let volume =
        claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).filter(|_| phase == Some("Bound"));
    let volume = volume.ok_or_else(|| format!("persistentvolumeclaim {name:?} is not bound"))?;
    get(shared, "", &volume).await
}

/// The configuration of a pod's sandbox.
pub fn sandbox_config(
    shared: &Shared,
    pod: &Pod,
    attempt: u32,
    allocated: &Allocated,
) -> Result<m::PodSandboxConfig, SpecError> {
    let (hostname, domain) = hostname_and_domain(pod, &shared.config.cluster_domain);
    let full = format!("{hostname}.{domain}");
    let as_fqdn = pod.spec().set_hostname_as_fqdn == Some(true) && !domain.is_empty();
    let log_root = shared.config.log_dir.to_string_lossy().into_owned();
    let mut made = sandbox::config(&sandbox::Inputs {
        pod,
        attempt,
        hostname: if as_fqdn { &full } else { &hostname },
        dns: files::dns(pod, &shared.node_dns(), &shared.config.cluster_dns, &shared.config.cluster_domain),
        log_root: &log_root,
        cgroup_parent: shared.cgroup_parent(pod),
        allocated,
        defaults: &shared.defaults(),
    })?;
    made.labels.insert(NODE_LABEL.to_owned(), shared.config.node_name.clone());
    Ok(made)
}

/// Label of sandboxes: the agent that made them, so that several agents can share a runtime.
pub const NODE_LABEL: &str = "navarch.io/node";

/// Makes and starts the sandbox.
pub async fn run_sandbox(
    shared: &Shared,
    pod: &Pod,
    attempt: u32,
    allocated: &Allocated,
) -> Result<Sandbox, Failure> {
    let fail = |error: String| Failure {
        reason: "FailedCreatePodSandBox",
        message: format!("Failed to create pod sandbox: {error}"),
    };
    let config = sandbox_config(shared, pod, attempt, allocated).map_err(|error| fail(error.to_string()))?;
    std::fs::create_dir_all(&config.log_directory).map_err(|error| fail(error.to_string()))?;
    let runtime_handler = runtime_handler(shared, pod).await.map_err(fail)?;
    shared.images.sandbox_ready().await;
    let request = m::RunPodSandboxRequest { config: Some(config), runtime_handler };
    let id =
        shared.cri.run_pod_sandbox(request).await.map_err(|error| fail(error.to_string()))?.pod_sandbox_id;
    let request = m::PodSandboxStatusRequest { pod_sandbox_id: id, verbose: false };
    let status = shared.cri.pod_sandbox_status(request).await.map_err(|error| fail(error.to_string()))?;
    status
        .status
        .as_ref()
        .map(super::observed::sandbox)
        .ok_or_else(|| fail("the sandbox vanished".to_owned()))
}

/// The handler of the pod's runtime class.
async fn runtime_handler(shared: &Shared, pod: &Pod) -> Result<String, String> {
    let Some(name) = pod.spec().runtime_class_name.as_deref().filter(|name| !name.is_empty()) else {
        return Ok(String::new());
    };
    let found = shared.runtime_classes.cache().get("", name);
    let class = match found {
        Some(class) => Some(class),
        None => shared.client.get_opt("", name).await.map_err(|error| error.to_string())?.map(Arc::new),
    };
    let class = class.ok_or_else(|| {
        format!("failed to get sandbox runtime: runtimeclass.node.k8s.io {name:?} not found")
    })?;
    Ok(class.handler.clone())
}

/// What a start needs beside the pod.
#[derive(Clone)]
pub struct StartInputs {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Which container.
    pub slot: Slot,
    /// Volumes and objects.
    pub prepared: Arc<Prepared>,
    /// The sandbox to start in.
    pub sandbox: Sandbox,
    /// How many times the container was restarted, if it ran before.
    pub restarts: Option<i32>,
    /// The container whose processes an ephemeral one sees.
    pub target: Option<String>,
    /// Resources as admitted.
    pub allocated: Arc<Allocated>,
}

/// Pulls, creates and starts a container, and runs its postStart hook. Returns its id.
pub async fn start(shared: &Shared, inputs: &StartInputs) -> Result<String, StartError> {
    let pod = &inputs.pod;
    let Some(container) = pod.container(inputs.slot) else { return Ok(String::new()) };
    let warn = |message: &str| {
        let message = format!("Error: {message}");
        shared.events.container(pod, &container.name, EventKind::Warning, "Failed", &message);
    };
    let config_error = |error: String| {
        warn(&error);
        StartError {
            waiting: Waiting { reason: "CreateContainerConfigError".into(), message: error },
            again_in: Some(Duration::from_secs(10)),
        }
    };
    let sandbox_config = sandbox_config(shared, pod, inputs.sandbox.attempt, &inputs.allocated)
        .map_err(|error| config_error(error.to_string()))?;
    let secrets = pull_secrets(pod, &inputs.prepared.referenced);
    let image = shared.images.ensure(pod, &container, &secrets, &sandbox_config).await.map_err(|error| {
        warn(error.reason);
        StartError {
            waiting: Waiting { reason: error.reason.into(), message: error.message },
            again_in: Some(error.again_in.unwrap_or(Duration::from_secs(10))),
        }
    })?;
    let mut inputs = inputs.clone();
    inputs.prepared = Arc::new(image_volumes(shared, &inputs, &container, &secrets, &sandbox_config).await?);
    let inputs = &inputs;
    let restarts =
        inputs.restarts.unwrap_or_else(|| restarts_by_logs(&sandbox_config.log_directory, &container.name));
    let mut made =
        container_config(shared, inputs, &container, &image, restarts).await.map_err(config_error)?;
    shared.devices.add(pod.uid(), &container.name, &mut made).await.map_err(config_error)?;
    let log = format!("{}/{}", sandbox_config.log_directory, made.log_path);
    let request = m::CreateContainerRequest {
        pod_sandbox_id: inputs.sandbox.id.clone(),
        config: Some(made),
        sandbox_config: Some(sandbox_config),
    };
    let runtime_error = |reason: &str, error: runtime::CriError| {
        warn(&error.description());
        StartError {
            waiting: Waiting { reason: reason.into(), message: error.description() },
            again_in: (reason == "CreateContainerError").then_some(Duration::from_secs(10)),
        }
    };
    let created = shared.cri.create_container(request).await;
    let id = created.map_err(|error| runtime_error("CreateContainerError", error))?.container_id;
    shared.events.container(pod, &container.name, EventKind::Normal, "Created", "Container created");
    let started = shared.cri.start_container(m::StartContainerRequest { container_id: id.clone() }).await;
    started.map_err(|error| runtime_error("RunContainerError", error))?;
    shared.events.container(pod, &container.name, EventKind::Normal, "Started", "Container started");
    link_log(shared, pod, &container.name, &id, &log);
    Ok(id)
}

/// The volumes with those added that are images and that this container mounts.
async fn image_volumes(
    shared: &Shared,
    inputs: &StartInputs,
    container: &Container,
    secrets: &[Arc<Secret>],
    sandbox: &m::PodSandboxConfig,
) -> Result<Prepared, StartError> {
    let pod = &inputs.pod;
    let mut prepared = (*inputs.prepared).clone();
    for volume in pod.spec().volumes.iter().flatten() {
        let Some(source) = &volume.image else { continue };
        if !container.volume_mounts.iter().flatten().any(|mount| mount.name == volume.name) {
            continue;
        }
        let reference = source.reference.clone().unwrap_or_default();
        let policy = source.pull_policy.as_deref();
        let error = |reason: &str, event: &str, message: String, again_in| {
            let event = format!("Error: {event}");
            shared.events.container(pod, &container.name, EventKind::Warning, "Failed", &event);
            StartError { waiting: Waiting { reason: reason.into(), message }, again_in }
        };
        let usual = Some(Duration::from_secs(10));
        let image =
            shared.images.ensure_named(pod, &container.name, &reference, policy, secrets, sandbox).await;
        let image = image.map_err(|failure| {
            let again_in = failure.again_in.or(usual);
            error(failure.reason, failure.reason, failure.message, again_in)
        })?;
        let path = shared.store.image_dir(pod, volume);
        let key = image_key(pod.uid(), &volume.name);
        let mounted = runtime::snapshot::mount_image(&shared.cri, &image.id, &key, &path).await;
        mounted.map_err(|failure| {
            error("CreateContainerError", &failure.to_string(), failure.to_string(), usual)
        })?;
        prepared.volumes.insert(volume.name.clone(), volumes::Mounted { path, read_only: true });
    }
    Ok(prepared)
}

/// The runtime's name for an image volume.
fn image_key(uid: &str, volume: &str) -> String {
    format!("navarch-{uid}-{volume}")
}

/// Runs the postStart hook; the container is stopped when it fails.
pub async fn post_start(shared: &Shared, inputs: &StartInputs, id: &str) -> Result<(), StartError> {
    let pod = &inputs.pod;
    let Some(container) = pod.container(inputs.slot) else { return Ok(()) };
    let Some(hook) = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.clone()) else {
        return Ok(());
    };
    let ip = ip_of(shared, pod, &inputs.sandbox);
    let Err(message) = hooks::run(shared, &container, id, &ip, &hook).await else { return Ok(()) };
    shared.events.container(
        pod,
        &container.name,
        EventKind::Warning,
        "FailedPostStartHook",
        "PostStartHook failed",
    );
    let grace = grace_of(pod.spec().termination_grace_period_seconds.unwrap_or(30));
    let order = KillOrder {
        id: id.to_owned(),
        name: container.name.clone(),
        message: "FailedPostStartHook".into(),
        grace,
        hook: true,
    };
    kill(shared, pod, &ip, &order).await;
    Err(StartError { waiting: Waiting { reason: "PostStartHookError".into(), message }, again_in: None })
}

/// The address at which hooks and probes reach a pod.
pub fn ip_of(shared: &Shared, pod: &Pod, sandbox: &Sandbox) -> String {
    let ips = if pod.host_network() { &shared.host_ips } else { &sandbox.ips };
    ips.first().cloned().unwrap_or_default()
}

fn pull_secrets(pod: &Pod, referenced: &Referenced) -> Vec<Arc<Secret>> {
    let names = pod.spec().image_pull_secrets.iter().flatten();
    names.filter_map(|secret| referenced.secrets.get(&secret.name).cloned().flatten()).collect()
}

/// After a loss of the runtime's state, logs tell how often a container ran.
fn restarts_by_logs(log_dir: &str, container: &str) -> i32 {
    let entries = std::fs::read_dir(PathBuf::from(log_dir).join(container)).into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        name.split_once(".log").and_then(|(number, _)| number.parse::<i32>().ok())
    });
    numbers.max().map_or(0, |last| last + 1)
}

async fn container_config(
    shared: &Shared,
    inputs: &StartInputs,
    container: &Container,
    image: &Local,
    restarts: i32,
) -> Result<m::ContainerConfig, String> {
    let pod = &inputs.pod;
    let text = |error: SpecError| error.to_string();
    let ips = if pod.host_network() { shared.host_ips.clone() } else { inputs.sandbox.ips.clone() };
    let place = shared.place(&ips);
    // As they are now: a config map may have appeared since the volumes were made.
    let referenced = fetch(shared, pod).await?;
    let env = env::environment(pod, container, &referenced, &place).map_err(text)?;
    let user: &ImageUser = &image.user;
    let target = inputs.target.as_deref();
    let security =
        security::container(pod, container, user, target, &[], &shared.defaults()).map_err(text)?;
    let unified = shared.cgroups.version() == runtime::cgroup::Version::V2;
    let own = resources::of(container, &inputs.allocated);
    let limits = resources::container(pod, own, shared.machine.memory_bytes, unified);
    let mounts = mounts(shared, inputs, container, &env, &ips, &place)?;
    Ok(config::config(&config::Inputs {
        pod,
        container,
        restarts,
        image_ref: &image.id,
        env: &env,
        mounts,
        devices: Vec::new(),
        resources: limits,
        security,
    }))
}

fn propagation(mode: Option<&str>) -> i32 {
    let mode = match mode {
        Some("HostToContainer") => m::MountPropagation::HostToContainer,
        Some("Bidirectional") => m::MountPropagation::Bidirectional,
        _ => m::MountPropagation::Private,
    };
    mode as i32
}

fn mounts(
    shared: &Shared,
    inputs: &StartInputs,
    container: &Container,
    env: &env::Environment,
    ips: &[String],
    place: &fields::Place<'_>,
) -> Result<Vec<m::Mount>, String> {
    let _ = place;
    let pod = &inputs.pod;
    let dir = shared.store.pod_dir(pod.uid());
    let mut out = Vec::new();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let no_volume = || {
            SpecError::NoVolume { name: mount.name.clone(), container: container.name.clone() }.to_string()
        };
        let volume = inputs.prepared.volumes.get(&mount.name).ok_or_else(no_volume)?;
        let mut host = volume.path.clone();
        let sub = match mount.sub_path_expr.as_deref().filter(|expr| !expr.is_empty()) {
            Some(expr) => Some(expand_strictly(expr, env)?),
            None => mount.sub_path.clone().filter(|sub| !sub.is_empty()),
        };
        if let Some(sub) = sub {
            let target = subpath::target(&dir, &mount.name, &container.name, index);
            let fails = || {
                SpecError::SubPath { mount: mount.name.clone(), container: container.name.clone() }
                    .to_string()
            };
            subpath::bind(&host, &sub, &target, !volume.read_only).map_err(|error| {
                tracing::warn!(pod = %pod.display(), container = container.name, %error, "subPath refused");
                fails()
            })?;
            host = target;
        }
        out.push(m::Mount {
            container_path: mount.mount_path.clone(),
            host_path: host.to_string_lossy().into_owned(),
            readonly: volume.read_only || mount.read_only.unwrap_or(false),
            propagation: propagation(mount.mount_propagation.as_deref()),
            ..m::Mount::default()
        });
    }
    let taken = |path: &str| container.volume_mounts.iter().flatten().any(|mount| mount.mount_path == path);
    if !taken("/etc/hosts") && (pod.host_network() || !ips.is_empty()) {
        out.push(hosts_mount(shared, pod, ips)?);
    }
    let message_path = container.termination_message_path.as_deref().unwrap_or(DEFAULT_MESSAGE_PATH);
    if !message_path.is_empty() && !taken(message_path) {
        out.push(message_mount(shared, &dir.join("containers").join(&container.name), message_path)?);
    }
    Ok(out)
}

/// Unlike in commands, a sub-path must not keep a reference that stands for nothing.
fn expand_strictly(expr: &str, env: &env::Environment) -> Result<String, String> {
    let missing = std::cell::RefCell::new(None);
    let text = env::expand(expr, |name| {
        let value = env.get(name);
        if value.is_none() {
            *missing.borrow_mut() = Some(name.to_owned());
        }
        value
    });
    match missing.into_inner() {
        Some(name) => Err(format!("missing value for {name:?}")),
        None if text.starts_with('/') => Err(format!("subPath {text:?} must not be an absolute path")),
        None if text.split('/').any(|part| part == "..") => {
            Err(format!("subPath {text:?} must not contain '..'"))
        }
        None => Ok(text),
    }
}

fn hosts_mount(shared: &Shared, pod: &Pod, ips: &[String]) -> Result<m::Mount, String> {
    let aliases = pod.spec().host_aliases.clone().unwrap_or_default();
    let (hostname, domain) = hostname_and_domain(pod, &shared.config.cluster_domain);
    let text = if pod.host_network() {
        let node = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
        files::node_hosts(&node, &aliases)
    } else {
        files::hosts(ips, &hostname, &domain, &aliases)
    };
    let path = shared.store.pod_dir(pod.uid()).join("etc-hosts");
    // Written in place: running containers have this very file mounted.
    if std::fs::read_to_string(&path).ok().as_deref() != Some(text.as_str()) {
        std::fs::write(&path, &text).map_err(|error| format!("cannot write the hosts file: {error}"))?;
    }
    Ok(m::Mount {
        container_path: "/etc/hosts".into(),
        host_path: path.to_string_lossy().into_owned(),
        ..m::Mount::default()
    })
}

fn message_mount(shared: &Shared, dir: &std::path::Path, container_path: &str) -> Result<m::Mount, String> {
    use std::os::unix::fs::PermissionsExt;
    let fail = |error: std::io::Error| format!("cannot make the termination message file: {error}");
    std::fs::create_dir_all(dir).map_err(fail)?;
    let path = dir.join(format!("{:08x}", shared.rng.below(1 << 32)));
    std::fs::write(&path, b"").map_err(fail)?;
    // The container's user, whoever that is, writes it.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).map_err(fail)?;
    Ok(m::Mount {
        container_path: container_path.to_owned(),
        host_path: path.to_string_lossy().into_owned(),
        ..m::Mount::default()
    })
}

/// Log collectors look for `<pod>_<namespace>_<container>-<id>.log`.
fn link_log(shared: &Shared, pod: &Pod, container: &str, id: &str, log: &str) {
    let Some(dir) = &shared.config.log_links else { return };
    let _ = std::fs::create_dir_all(dir);
    let mut name = format!("{}_{}_{container}", pod.name(), pod.namespace());
    name.truncate(251 - id.len().min(250) - 1);
    let _ = std::os::unix::fs::symlink(log, dir.join(format!("{name}-{id}.log")));
}

/// An order to stop a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KillOrder {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The event's text.
    pub message: String,
    /// How long it may take.
    pub grace: Duration,
    /// Run its preStop hook first.
    pub hook: bool,
}

/// A grace in seconds as a duration.
pub fn grace_of(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// Stops a container: hook, signal, and after its grace the end.
pub async fn kill(shared: &Shared, pod: &Pod, pod_ip: &str, order: &KillOrder) {
    if !order.message.is_empty() {
        shared.events.container(pod, &order.name, EventKind::Normal, "Killing", &order.message);
    }
    let began = shared.clock.monotonic();
    let container = pod.container_named(&order.name);
    let hook = container.as_ref().and_then(|container| container.lifecycle.as_ref()?.pre_stop.clone());
    if let (Some(container), Some(hook), true) = (&container, hook, order.hook && !order.grace.is_zero()) {
        let work = hooks::run(shared, container, &order.id, pod_ip, &hook);
        if let Some(Err(error)) = shared.clock.timeout(order.grace, work).await {
            tracing::info!(pod = %pod.display(), container = order.name, %error, "preStop hook failed");
            shared.events.container(
                pod,
                &order.name,
                EventKind::Warning,
                "FailedPreStopHook",
                "PreStopHook failed",
            );
        }
    }
    let passed = shared.clock.monotonic().saturating_sub(began);
    let left = if order.grace.is_zero() {
        Duration::ZERO
    } else {
        order.grace.saturating_sub(passed).max(LEAST_GRACE)
    };
    if let Err(error) = shared.cri.stop_container(&order.id, left).await
        && !error.is_not_found()
    {
        tracing::warn!(pod = %pod.display(), container = order.name, %error, "container not stopped");
        // It will be tried again, but not at once.
        shared.clock.sleep(PAUSE).await;
    }
}

/// Stops sandboxes: their network and what is left in them.
pub async fn stop_sandboxes(shared: &Shared, ids: &[String]) {
    for id in ids {
        let request = m::StopPodSandboxRequest { pod_sandbox_id: id.clone() };
        if let Err(error) = shared.cri.stop_pod_sandbox(request).await
            && !error.is_not_found()
        {
            tracing::warn!(sandbox = id, %error, "sandbox not stopped");
            shared.clock.sleep(PAUSE).await;
        }
    }
}

/// Takes volumes and control group away once nothing runs. True when all is gone.
pub async fn clean(shared: &Shared, pod: &Pod) -> bool {
    let group = shared.group(pod);
    let (store, cgroups, uid) = (shared.store.clone(), shared.cgroups.clone(), pod.uid().to_owned());
    for attempt in 0..5u32 {
        let (store, cgroups, group, uid) = (store.clone(), cgroups.clone(), group.clone(), uid.clone());
        let result = blocking(move || -> Result<(), String> {
            store.remove_volumes(&uid).map_err(|error| error.to_string())?;
            cgroups.remove(&group).map_err(|error| error.to_string())
        })
        .await;
        match result {
            Ok(()) => {
                for volume in pod.spec().volumes.iter().flatten().filter(|volume| volume.image.is_some()) {
                    runtime::snapshot::forget_image(&shared.cri, &image_key(pod.uid(), &volume.name)).await;
                }
                shared.objects.release(pod.uid());
                shared.devices.release(pod.uid());
                shared.tokens.forget(pod.uid());
                shared.images.forget(pod.uid());
                return true;
            }
            // Processes take a moment to leave their control group.
            Err(error) => {
                tracing::debug!(pod = %pod.display(), error, "clean-up not finished");
                shared.clock.sleep(Duration::from_millis(20 << (2 * attempt))).await;
            }
        }
    }
    false
}

/// Applies changed resources to a pod's control group and its running containers.
pub async fn apply_resources(
    shared: &Shared,
    pod: &Pod,
    before: &Allocated,
    after: &Allocated,
    names: &[String],
    observed: &Observed,
) -> Result<(), String> {
    let pids = shared.config.pod_pids_limit;
    let (old, new) = (resources::pod_limits(pod, before, pids), resources::pod_limits(pod, after, pids));
    let group = shared.group(pod);
    let limit = async |limits| {
        let (cgroups, group) = (shared.cgroups.clone(), group.clone());
        blocking(move || cgroups.limit(&group, &limits)).await.map_err(|error| error.to_string())
    };
    limit(super::resize::widest(&old, &new)).await?;
    let unified = shared.cgroups.version() == runtime::cgroup::Version::V2;
    for name in names {
        let running = observed.find(name).filter(|seen| seen.state == State::Running);
        let (Some(seen), Some(container)) = (running, pod.container_named(name)) else { continue };
        let mut linux =
            resources::container(pod, resources::of(&container, after), shared.machine.memory_bytes, unified);
        // No limit must be said as such: zero would leave the old one.
        if linux.cpu_quota == 0 {
            linux.cpu_quota = -1;
        }
        let request = m::UpdateContainerResourcesRequest {
            container_id: seen.id.clone(),
            linux: Some(linux),
            ..m::UpdateContainerResourcesRequest::default()
        };
        shared.cri.update_container_resources(request).await.map_err(|error| error.to_string())?;
    }
    limit(new).await?;
    shared.events.pod(pod, EventKind::Normal, "ResizeCompleted", "Pod resize completed");
    Ok(())
}

/// Removes dead containers and empty sandboxes.
pub async fn remove_old(shared: &Shared, containers: &[String], sandboxes: &[String]) {
    for id in containers {
        let request = m::RemoveContainerRequest { container_id: id.clone() };
        if let Err(error) = shared.cri.remove_container(request).await {
            tracing::debug!(container = id, %error, "dead container not removed");
        }
    }
    for id in sandboxes {
        let request = m::RemovePodSandboxRequest { pod_sandbox_id: id.clone() };
        if let Err(error) = shared.cri.remove_pod_sandbox(request).await {
            tracing::debug!(sandbox = id, %error, "dead sandbox not removed");
        }
    }
}

/// Removes sandboxes with their containers, logs and links, after the pod is gone.
pub async fn remove_from_runtime(shared: &Shared, pod: &Pod, observed: &Observed) -> bool {
    let mut done = true;
    for container in &observed.containers {
        let request = m::RemoveContainerRequest { container_id: container.id.clone() };
        if let Err(error) = shared.cri.remove_container(request).await
            && !error.is_not_found()
        {
            tracing::debug!(container = container.id, %error, "container not removed");
            done = false;
        }
    }
    for sandbox in &observed.sandboxes {
        let request = m::RemovePodSandboxRequest { pod_sandbox_id: sandbox.id.clone() };
        if let Err(error) = shared.cri.remove_pod_sandbox(request).await
            && !error.is_not_found()
        {
            tracing::debug!(sandbox = sandbox.id, %error, "sandbox not removed");
            shared.clock.sleep(PAUSE).await;
            done = false;
        }
    }
    let logs = sandbox::log_dir(&shared.config.log_dir.to_string_lossy(), pod);
    let links = shared.config.log_links.clone();
    let ids: Vec<String> = observed.containers.iter().map(|container| container.id.clone()).collect();
    let (store, uid) = (shared.store.clone(), pod.uid().to_owned());
    blocking(move || {
        if let Err(error) = store.remove(&uid) {
            tracing::warn!(uid, %error, "pod directory not removed");
        }
        let _ = std::fs::remove_dir_all(logs);
        for entry in links.iter().filter_map(|dir| std::fs::read_dir(dir).ok()).flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if ids.iter().any(|id| name.ends_with(&format!("-{id}.log"))) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    })
    .await;
    done
}
