//! What the runtime holds of one pod.
//!
//! Must not know how it was asked: [`Observed`] is a value, and the plan and the status are computed from it.

use api::k8s::api::core::v1::Pod;
use jiff::Timestamp;
use runtime::cri::messages as m;

use super::pod::PodExt;

/// Keys of the labels and annotations on sandboxes and containers (upstream's `kubetypes` and `labels.go`): other
/// tools read them, and a restarted agent finds its pods by them.
pub mod keys {
    /// Pod name label.
    pub const POD_NAME: &str = "io.kubernetes.pod.name";
    /// Pod namespace label.
    pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    /// Pod uid label.
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
    /// Container name label.
    pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
    /// Annotation: identity of the container's definition.
    pub const HASH: &str = "io.kubernetes.container.hash";
    /// Annotation: how many times it was restarted.
    pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
    /// Annotation: where its termination message is mounted.
    pub const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
    /// Annotation: whether logs stand in for a missing message.
    pub const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
    /// Annotation: the pod's grace, seconds.
    pub const POD_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
    /// Annotation: the preStop hook, JSON, so that an orphan is stopped as its pod asked.
    pub const PRE_STOP: &str = "io.kubernetes.container.preStopHandler";
    /// Annotation: the ports, JSON.
    pub const PORTS: &str = "io.kubernetes.container.ports";
}

/// A sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sandbox {
    /// The runtime's id.
    pub id: String,
    /// How many came before it.
    pub attempt: u32,
    /// It runs.
    pub ready: bool,
    /// When it was made.
    pub created: Timestamp,
    /// Its addresses; none with the node's network.
    pub ips: Vec<String>,
    /// It has the node's network.
    pub host_network: bool,
}

/// A container's state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Made, not started.
    Created,
    /// Running.
    Running,
    /// Ended.
    Exited,
    /// The runtime does not know.
    #[default]
    Unknown,
}

/// A container.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// The runtime's id, without its scheme.
    pub id: String,
    /// The container's name.
    pub name: String,
    /// The sandbox it is in.
    pub sandbox: String,
    /// Its state.
    pub state: State,
    /// When it was made.
    pub created: Timestamp,
    /// When it was started.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub finished: Option<Timestamp>,
    /// Its exit code.
    pub exit_code: i32,
    /// Why it ended, such as `OOMKilled`.
    pub reason: String,
    /// The termination message.
    pub message: String,
    /// How many times it was restarted before.
    pub restarts: i32,
    /// Identity of its definition.
    pub hash: String,
    /// The image's name.
    pub image: String,
    /// The image as pulled, with digest.
    pub image_ref: String,
    /// Its log file.
    pub log_path: String,
    /// Its limits as applied.
    pub resources: Option<m::LinuxContainerResources>,
    /// Its user and groups, where the runtime says.
    pub user: Option<m::LinuxContainerUser>,
}

/// All of a pod in the runtime.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Newest first.
    pub sandboxes: Vec<Sandbox>,
    /// Newest first.
    pub containers: Vec<Seen>,
}

/// What is to be done about the sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxNeed {
    /// A new one must be made.
    pub create: bool,
    /// The number of the new one, or of the one in use.
    pub attempt: u32,
    /// The newest one, whatever its state.
    pub id: Option<String>,
}

impl Observed {
    /// The newest container called `name`.
    pub fn find(&self, name: &str) -> Option<&Seen> {
        self.containers.iter().find(|container| container.name == name)
    }

    /// The container with this id.
    pub fn by_id(&self, id: &str) -> Option<&Seen> {
        self.containers.iter().find(|container| container.id == id)
    }

    /// True while a container runs.
    pub fn any_running(&self) -> bool {
        self.containers.iter().any(|container| container.state == State::Running)
    }

    /// True while a sandbox runs.
    pub fn any_ready_sandbox(&self) -> bool {
        self.sandboxes.iter().any(|sandbox| sandbox.ready)
    }

    /// The addresses of the newest running sandbox.
    pub fn ips(&self) -> &[String] {
        self.sandboxes.iter().find(|sandbox| sandbox.ready).map_or(&[], |sandbox| &sandbox.ips)
    }

    /// Whether the pod needs a new sandbox.
    pub fn sandbox_need(&self, pod: &Pod) -> SandboxNeed {
        let Some(newest) = self.sandboxes.first() else {
            return SandboxNeed { create: true, attempt: 0, id: None };
        };
        let ready = self.sandboxes.iter().filter(|sandbox| sandbox.ready).count();
        let lost_network = !newest.host_network && newest.ips.is_empty();
        let create = ready > 1 || !newest.ready || newest.host_network != pod.host_network() || lost_network;
        let attempt = if create { newest.attempt + 1 } else { newest.attempt };
        SandboxNeed { create, attempt, id: Some(newest.id.clone()) }
    }

    /// True when a container of `spec.containers` was ever made.
    pub fn any_app_created(&self, pod: &Pod) -> bool {
        pod.apps().iter().any(|container| {
            self.find(&container.name)
                .is_some_and(|seen| matches!(seen.state, State::Created | State::Running | State::Exited))
        })
    }

    /// True when a container of `spec.containers` was ever started in the sandbox in use.
    pub fn any_app_started(&self, pod: &Pod) -> bool {
        let Some(current) = self.sandboxes.first() else { return false };
        pod.apps().iter().any(|container| {
            self.containers.iter().any(|seen| {
                seen.name == container.name
                    && seen.sandbox == current.id
                    && matches!(seen.state, State::Running | State::Exited)
            })
        })
    }

    /// Puts newest first.
    pub fn sort(&mut self) {
        self.sandboxes.sort_by(|a, b| b.created.cmp(&a.created).then(b.attempt.cmp(&a.attempt)));
        self.containers.sort_by(|a, b| b.created.cmp(&a.created).then(b.restarts.cmp(&a.restarts)));
    }
}

/// A CRI time, nanoseconds; 0 = never.
pub fn timestamp(nanoseconds: i64) -> Option<Timestamp> {
    if nanoseconds == 0 { None } else { Timestamp::from_nanosecond(i128::from(nanoseconds)).ok() }
}

/// A sandbox from the runtime's answer.
pub fn sandbox(status: &m::PodSandboxStatus) -> Sandbox {
    let network = status.network.clone().unwrap_or_default();
    let options = status.linux.as_ref().and_then(|linux| linux.namespaces.as_ref()?.options.clone());
    let host_network = options.is_some_and(|options| options.network == m::NamespaceMode::Node as i32);
    let mut ips: Vec<String> = Vec::new();
    if !host_network {
        ips.extend((!network.ip.is_empty()).then_some(network.ip));
        ips.extend(network.additional_ips.into_iter().map(|ip| ip.ip));
    }
    Sandbox {
        id: status.id.clone(),
        attempt: status.metadata.as_ref().map_or(0, |metadata| metadata.attempt),
        ready: status.state == m::PodSandboxState::Ready as i32,
        created: timestamp(status.created_at).unwrap_or_default(),
        ips,
        host_network,
    }
}

/// A container from the runtime's answer; its termination message is still the runtime's.
pub fn container(status: &m::ContainerStatus, sandbox: &str) -> Seen {
    let annotation = |key: &str| status.annotations.get(key).cloned().unwrap_or_default();
    let metadata = status.metadata.clone().unwrap_or_default();
    let state = match m::ContainerState::try_from(status.state) {
        Ok(m::ContainerState::Created) => State::Created,
        Ok(m::ContainerState::Running) => State::Running,
        Ok(m::ContainerState::Exited) => State::Exited,
        _ => State::Unknown,
    };
    let named = status.image.as_ref().map(|image| {
        if image.user_specified_image.is_empty() {
            image.image.clone()
        } else {
            image.user_specified_image.clone()
        }
    });
    Seen {
        id: status.id.clone(),
        name: metadata.name,
        sandbox: sandbox.to_owned(),
        state,
        created: timestamp(status.created_at).unwrap_or_default(),
        started: timestamp(status.started_at),
        finished: timestamp(status.finished_at),
        exit_code: status.exit_code,
        reason: status.reason.clone(),
        message: status.message.clone(),
        restarts: annotation(keys::RESTART_COUNT).parse().unwrap_or(0),
        hash: annotation(keys::HASH),
        image: named.unwrap_or_default(),
        image_ref: status.image_ref.clone(),
        log_path: status.log_path.clone(),
        resources: status.resources.as_ref().and_then(|resources| resources.linux.clone()),
        user: status.user.as_ref().and_then(|user| user.linux.clone()),
    }
}
