//! What streaming needs of the agent: finding pods, and the runtime's calls.
//!
//! Must not know HTTP.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use api::k8s::api::core::v1::{Pod, PodStatus};
use futures::future::BoxFuture;
use runtime::CriError;
use runtime::cri::messages as m;

use super::route::Streams;
use crate::pods::observed::keys;
use crate::shared::Shared;

/// A pod here.
#[derive(Clone, Debug)]
pub struct Found {
    /// As wanted.
    pub pod: Arc<Pod>,
    /// As last reported.
    pub status: Arc<PodStatus>,
}

/// The agent, as streaming sees it.
pub trait Node: Send + Sync + 'static {
    /// A pod by name.
    fn pod(&self, namespace: &str, name: &str) -> Option<Found>;
    /// The id of a pod's running container.
    fn running(&self, uid: &str, container: &str) -> BoxFuture<'_, Result<Option<String>, CriError>>;
    /// The id of a pod's running sandbox.
    fn sandbox(&self, uid: &str) -> BoxFuture<'_, Result<Option<String>, CriError>>;
    /// Prepares a command; the URL of its streams.
    fn exec(
        &self,
        id: &str,
        command: Vec<String>,
        streams: Streams,
    ) -> BoxFuture<'_, Result<String, CriError>>;
    /// Prepares an attachment; the URL of its streams.
    fn attach(&self, id: &str, streams: Streams) -> BoxFuture<'_, Result<String, CriError>>;
    /// Prepares a port-forward; the URL of its streams.
    fn port_forward(&self, sandbox: &str, ports: &[u16]) -> BoxFuture<'_, Result<String, CriError>>;
    /// Runs a command to its end.
    fn run(&self, id: &str, command: Vec<String>) -> BoxFuture<'_, Result<m::ExecSyncResponse, CriError>>;
    /// A container by id: its log file and whether it runs; `None` when the runtime knows none.
    fn container(&self, id: &str) -> BoxFuture<'_, Result<Option<(String, bool)>, CriError>>;
    /// The directory beneath which all log files are.
    fn log_root(&self) -> &Path;
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

impl Node for Shared {
    fn pod(&self, namespace: &str, name: &str) -> Option<Found> {
        let entry = self.registry.by_name(namespace, name)?;
        let status = entry.status.unwrap_or_else(|| Arc::new(entry.pod.status.clone().unwrap_or_default()));
        Some(Found { pod: entry.pod, status })
    }

    fn running(&self, uid: &str, container: &str) -> BoxFuture<'_, Result<Option<String>, CriError>> {
        let filter = m::ContainerFilter {
            state: Some(m::ContainerStateValue { state: m::ContainerState::Running as i32 }),
            label_selector: labels(&[(keys::POD_UID, uid), (keys::CONTAINER_NAME, container)]),
            ..m::ContainerFilter::default()
        };
        Box::pin(async move {
            let answer = self.cri.list_containers(m::ListContainersRequest { filter: Some(filter) }).await?;
            let newest = answer.containers.into_iter().max_by_key(|container| container.created_at);
            Ok(newest.map(|container| container.id))
        })
    }

    fn sandbox(&self, uid: &str) -> BoxFuture<'_, Result<Option<String>, CriError>> {
        let filter = m::PodSandboxFilter {
            state: Some(m::PodSandboxStateValue { state: m::PodSandboxState::Ready as i32 }),
            label_selector: labels(&[(keys::POD_UID, uid)]),
            ..m::PodSandboxFilter::default()
        };
        Box::pin(async move {
            let answer = self.cri.list_pod_sandbox(m::ListPodSandboxRequest { filter: Some(filter) }).await?;
            let newest = answer.items.into_iter().max_by_key(|sandbox| sandbox.created_at);
            Ok(newest.map(|sandbox| sandbox.id))
        })
    }

    fn exec(
        &self,
        id: &str,
        command: Vec<String>,
        streams: Streams,
    ) -> BoxFuture<'_, Result<String, CriError>> {
        let request = m::ExecRequest {
            container_id: id.to_owned(),
            cmd: command,
            tty: streams.tty,
            stdin: streams.stdin,
            stdout: streams.stdout,
            stderr: streams.stderr,
        };
        Box::pin(async move { Ok(self.cri.exec(request).await?.url) })
    }

    fn attach(&self, id: &str, streams: Streams) -> BoxFuture<'_, Result<String, CriError>> {
        let request = m::AttachRequest {
            container_id: id.to_owned(),
            stdin: streams.stdin,
            tty: streams.tty,
            stdout: streams.stdout,
            stderr: streams.stderr,
        };
        Box::pin(async move { Ok(self.cri.attach(request).await?.url) })
    }

    fn port_forward(&self, sandbox: &str, ports: &[u16]) -> BoxFuture<'_, Result<String, CriError>> {
        let port = ports.iter().map(|port| i32::from(*port)).collect();
        let request = m::PortForwardRequest { pod_sandbox_id: sandbox.to_owned(), port };
        Box::pin(async move { Ok(self.cri.port_forward(request).await?.url) })
    }

    fn run(&self, id: &str, command: Vec<String>) -> BoxFuture<'_, Result<m::ExecSyncResponse, CriError>> {
        let id = id.to_owned();
        Box::pin(async move { self.cri.exec_sync(&id, command, Duration::ZERO).await })
    }

    fn container(&self, id: &str) -> BoxFuture<'_, Result<Option<(String, bool)>, CriError>> {
        let request = m::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        Box::pin(async move {
            match self.cri.container_status(request).await {
                Ok(answer) => Ok(answer.status.map(|status| {
                    let running = status.state == m::ContainerState::Running as i32;
                    (status.log_path, running)
                })),
                Err(error) if error.is_not_found() => Ok(None),
                Err(error) => Err(error),
            }
        })
    }

    fn log_root(&self) -> &Path {
        &self.config.log_dir
    }
}
