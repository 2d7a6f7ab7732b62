//! A container in the runtime's terms.
//!
//! Must not know how it is created; mounts, image and environment are inputs.

use std::collections::BTreeMap;

use api::k8s::api::core::v1::{Container, Pod};
use runtime::cri::messages as m;

use super::env::{Environment, expand};
use super::sandbox::pod_labels;
use crate::pods::observed::keys;
use crate::pods::pod::{PodExt, container_hash};

/// Where a termination message is written unless the container says otherwise.
pub const DEFAULT_MESSAGE_PATH: &str = "/dev/termination-log";

/// What a container is made from.
#[derive(Clone, Debug)]
pub struct Inputs<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container.
    pub container: &'a Container,
    /// How many times it was restarted.
    pub restarts: i32,
    /// The image as the runtime knows it.
    pub image_ref: &'a str,
    /// The environment.
    pub env: &'a Environment,
    /// Mounts.
    pub mounts: Vec<m::Mount>,
    /// Devices.
    pub devices: Vec<m::Device>,
    /// Limits.
    pub resources: m::LinuxContainerResources,
    /// The security context.
    pub security: m::LinuxContainerSecurityContext,
}

/// The container's configuration.
pub fn config(inputs: &Inputs<'_>) -> m::ContainerConfig {
    let (pod, container) = (inputs.pod, inputs.container);
    let expanded = |list: &Option<Vec<String>>| {
        list.iter().flatten().map(|text| expand(text, |name| inputs.env.get(name))).collect::<Vec<_>>()
    };
    let mut labels: BTreeMap<String, String> = pod_labels(pod).into();
    labels.insert(keys::CONTAINER_NAME.to_owned(), container.name.clone());
    m::ContainerConfig {
        metadata: Some(m::ContainerMetadata {
            name: container.name.clone(),
            attempt: u32::try_from(inputs.restarts).unwrap_or(0),
        }),
        image: Some(m::ImageSpec {
            image: inputs.image_ref.to_owned(),
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..m::ImageSpec::default()
        }),
        command: expanded(&container.command),
        args: expanded(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: inputs
            .env
            .pairs()
            .map(|(key, value)| m::KeyValue { key: key.to_owned(), value: value.as_bytes().to_vec() })
            .collect(),
        mounts: inputs.mounts.clone(),
        devices: inputs.devices.clone(),
        labels,
        annotations: annotations(pod, container, inputs.restarts),
        log_path: log_path(&container.name, inputs.restarts),
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        tty: container.tty.unwrap_or(false),
        linux: Some(m::LinuxContainerConfig {
            resources: Some(inputs.resources.clone()),
            security_context: Some(inputs.security.clone()),
        }),
        cdi_devices: Vec::new(),
        stop_signal: stop_signal(container),
    }
}

/// A container's log beneath the pod's log directory.
pub fn log_path(container: &str, restarts: i32) -> String {
    format!("{container}/{restarts}.log")
}

fn annotations(pod: &Pod, container: &Container, restarts: i32) -> BTreeMap<String, String> {
    let path = container.termination_message_path.as_deref().unwrap_or(DEFAULT_MESSAGE_PATH);
    let policy = container.termination_message_policy.as_deref().unwrap_or("File");
    let mut out: BTreeMap<String, String> = [
        (keys::HASH, container_hash(container)),
        (keys::RESTART_COUNT, restarts.to_string()),
        (keys::MESSAGE_PATH, path.to_owned()),
        (keys::MESSAGE_POLICY, policy.to_owned()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    if let Some(grace) = pod.spec().termination_grace_period_seconds {
        out.insert(keys::POD_GRACE.to_owned(), grace.to_string());
    }
    if let Some(hook) = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref()) {
        out.extend(serde_json::to_string(hook).ok().map(|text| (keys::PRE_STOP.to_owned(), text)));
    }
    if let Some(ports) = container.ports.as_ref().filter(|ports| !ports.is_empty()) {
        out.extend(serde_json::to_string(ports).ok().map(|text| (keys::PORTS.to_owned(), text)));
    }
    out
}

/// Signals at the numbers that CRI gives them: in alphabetical order.
#[rustfmt::skip]
const SIGNALS: [&str; 66] = [
    "", "SIGABRT", "SIGALRM", "SIGBUS", "SIGCHLD", "SIGCLD", "SIGCONT", "SIGFPE",
    "SIGHUP", "SIGILL", "SIGINT", "SIGIO", "SIGIOT", "SIGKILL", "SIGPIPE", "SIGPOLL",
    "SIGPROF", "SIGPWR", "SIGQUIT", "SIGSEGV", "SIGSTKFLT", "SIGSTOP", "SIGSYS", "SIGTERM",
    "SIGTRAP", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGURG", "SIGUSR1", "SIGUSR2", "SIGVTALRM",
    "SIGWINCH", "SIGXCPU", "SIGXFSZ", "SIGRTMIN", "SIGRTMIN+1", "SIGRTMIN+2", "SIGRTMIN+3", "SIGRTMIN+4",
    "SIGRTMIN+5", "SIGRTMIN+6", "SIGRTMIN+7", "SIGRTMIN+8", "SIGRTMIN+9", "SIGRTMIN+10", "SIGRTMIN+11", "SIGRTMIN+12",
    "SIGRTMIN+13", "SIGRTMIN+14", "SIGRTMIN+15", "SIGRTMAX-14", "SIGRTMAX-13", "SIGRTMAX-12", "SIGRTMAX-11", "SIGRTMAX-10",
    "SIGRTMAX-9", "SIGRTMAX-8", "SIGRTMAX-7", "SIGRTMAX-6", "SIGRTMAX-5", "SIGRTMAX-4", "SIGRTMAX-3", "SIGRTMAX-2",
    "SIGRTMAX-1", "SIGRTMAX",
];

/// The number of a container's stop signal; 0 = the image's.
fn stop_signal(container: &Container) -> i32 {
    let wanted =
        container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.as_deref()).unwrap_or("");
    SIGNALS.iter().position(|signal| *signal == wanted).and_then(|at| i32::try_from(at).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_cri_numbers() {
        let with = |signal: &str| Container {
            lifecycle: Some(api::k8s::api::core::v1::Lifecycle {
                stop_signal: Some(signal.into()),
                ..Default::default()
            }),
            ..Container::default()
        };
        assert_eq!(
            (stop_signal(&with("SIGTERM")), stop_signal(&with("SIGRTMAX")), stop_signal(&with(""))),
            (23, 65, 0)
        );
    }
}
