//! The CRI v1 client: one method a call, over the runtime's unix socket.
//!
//! Must not know pods as the API describes them: it speaks sandboxes, containers and images only.

pub mod messages;

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use messages as m;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint, Uri};

/// Calls that only read or set small things.
const SHORT: Duration = Duration::from_secs(10);
/// Calls that make or remove something; CNI and slow disks included.
const LONG: Duration = Duration::from_secs(240);
/// Pulling an image: registries and large layers.
const PULL: Duration = Duration::from_secs(30 * 60);
/// The largest answer taken: a list of many containers, or the output of an exec (16 MB each stream).
const MAX_ANSWER_BYTES: usize = 48 * 1024 * 1024;

/// Why a runtime call failed.
#[derive(Debug, thiserror::Error)]
pub enum CriError {
    /// The endpoint is not a unix socket path.
    #[error("container runtime endpoint {endpoint:?} is not a unix socket")]
    Endpoint {
        /// What was given.
        endpoint: String,
    },
    /// The runtime answered with an error or could not be reached. The text is gRPC's, as upstream shows it.
    #[error("rpc error: code = {} desc = {}", code_name(.status.code()), .status.message())]
    Call {
        /// The method that failed.
        method: &'static str,
        /// What was answered.
        status: Box<tonic::Status>,
    },
}

impl CriError {
    /// The runtime says that the thing does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, CriError::Call { status, .. } if status.code() == tonic::Code::NotFound)
    }

    /// The runtime knows no such call.
    pub fn is_unimplemented(&self) -> bool {
        matches!(self, CriError::Call { status, .. } if status.code() == tonic::Code::Unimplemented)
    }

    /// The call ran out of time.
    pub fn is_timeout(&self) -> bool {
        matches!(self, CriError::Call { status, .. }
            if matches!(status.code(), tonic::Code::DeadlineExceeded | tonic::Code::Cancelled))
    }

    /// The runtime's own words.
    pub fn description(&self) -> String {
        match self {
            CriError::Call { status, .. } => status.message().to_owned(),
            CriError::Endpoint { .. } => self.to_string(),
        }
    }
}

/// gRPC's code as Go prints it.
fn code_name(code: tonic::Code) -> &'static str {
    use tonic::Code;
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

/// A connection to a container runtime; cheap to clone, connects when first used and again when lost.
#[derive(Clone, Debug)]
pub struct Cri {
    channel: Channel,
    socket: PathBuf,
}

/// Strips `unix://` from an endpoint.
pub fn socket_path(endpoint: &str) -> Result<PathBuf, CriError> {
    let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
    if path.starts_with('/') {
        Ok(PathBuf::from(path))
    } else {
        Err(CriError::Endpoint { endpoint: endpoint.to_owned() })
    }
}

/// A lazily connected gRPC channel over a unix socket.
pub(crate) fn channel(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    let connect = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(tokio::net::UnixStream::connect(socket).await?)) }
    });
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(connect)
}

macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident, $service:literal, $method:literal, $limit:expr, $request:ident -> $response:ident;)*) => {
        $($(#[$doc])*
        pub async fn $name(&self, request: m::$request) -> Result<m::$response, CriError> {
            const PATH: &str = concat!("/runtime.v1.", $service, "/", $method);
            self.call($method, PATH, request, $limit).await
        })*
    };
}

impl Cri {
    /// A client of the runtime at `endpoint` (`unix:///run/containerd/containerd.sock`).
    pub fn new(endpoint: &str) -> Result<Cri, CriError> {
        let socket = socket_path(endpoint)?;
        Ok(Cri { channel: channel(&socket), socket })
    }

    /// The socket's path.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The connection, for the runtime's own services beside CRI.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    async fn call<Q, A>(
        &self,
        method: &'static str,
        path: &'static str,
        request: Q,
        limit: Duration,
    ) -> Result<A, CriError>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let fail = |status: tonic::Status| CriError::Call { method, status: Box::new(status) };
        let mut grpc =
            tonic::client::Grpc::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES);
        grpc.ready().await.map_err(|error| fail(tonic::Status::unavailable(error.to_string())))?;
        let mut request = tonic::Request::new(request);
        request.set_timeout(limit);
        let codec = tonic_prost::ProstCodec::default();
        let work = grpc.unary(request, PathAndQuery::from_static(path), codec);
        match tokio::time::timeout(limit, work).await {
            Ok(answer) => answer.map(tonic::Response::into_inner).map_err(fail),
            Err(_) => Err(fail(tonic::Status::deadline_exceeded("context deadline exceeded"))),
        }
    }

    calls! {
        /// Name and version of the runtime.
        version, "RuntimeService", "Version", SHORT, VersionRequest -> VersionResponse;
        /// The runtime's conditions and handlers.
        status, "RuntimeService", "Status", SHORT, StatusRequest -> StatusResponse;
        /// The runtime's cgroup driver, where it says so.
        runtime_config, "RuntimeService", "RuntimeConfig", SHORT, RuntimeConfigRequest -> RuntimeConfigResponse;
        /// Makes and starts a sandbox, its network included.
        run_pod_sandbox, "RuntimeService", "RunPodSandbox", LONG, RunPodSandboxRequest -> RunPodSandboxResponse;
        /// Stops everything in a sandbox and frees its network. Repeatable.
        stop_pod_sandbox, "RuntimeService", "StopPodSandbox", LONG, StopPodSandboxRequest -> StopPodSandboxResponse;
        /// Removes a sandbox and its containers. Repeatable.
        remove_pod_sandbox, "RuntimeService", "RemovePodSandbox", LONG, RemovePodSandboxRequest -> RemovePodSandboxResponse;
        /// One sandbox's state and addresses.
        pod_sandbox_status, "RuntimeService", "PodSandboxStatus", SHORT, PodSandboxStatusRequest -> PodSandboxStatusResponse;
        /// All sandboxes that match.
        list_pod_sandbox, "RuntimeService", "ListPodSandbox", SHORT, ListPodSandboxRequest -> ListPodSandboxResponse;
        /// Makes a container in a sandbox.
        create_container, "RuntimeService", "CreateContainer", LONG, CreateContainerRequest -> CreateContainerResponse;
        /// Starts a made container.
        start_container, "RuntimeService", "StartContainer", LONG, StartContainerRequest -> StartContainerResponse;
        /// Removes a container, running or not. Repeatable.
        remove_container, "RuntimeService", "RemoveContainer", LONG, RemoveContainerRequest -> RemoveContainerResponse;
        /// All containers that match.
        list_containers, "RuntimeService", "ListContainers", SHORT, ListContainersRequest -> ListContainersResponse;
        /// One container's state.
        container_status, "RuntimeService", "ContainerStatus", SHORT, ContainerStatusRequest -> ContainerStatusResponse;
        /// Changes the cgroup limits of a container.
        update_container_resources, "RuntimeService", "UpdateContainerResources", SHORT, UpdateContainerResourcesRequest -> UpdateContainerResourcesResponse;
        /// Tells the runtime that a container's log file was moved away.
        reopen_container_log, "RuntimeService", "ReopenContainerLog", SHORT, ReopenContainerLogRequest -> ReopenContainerLogResponse;
        /// Prepares a streamed exec; the answer is a URL.
        exec, "RuntimeService", "Exec", SHORT, ExecRequest -> ExecResponse;
        /// Prepares a streamed attach; the answer is a URL.
        attach, "RuntimeService", "Attach", SHORT, AttachRequest -> AttachResponse;
        /// Prepares a port forward; the answer is a URL.
        port_forward, "RuntimeService", "PortForward", SHORT, PortForwardRequest -> PortForwardResponse;
        /// One container's usage.
        container_stats, "RuntimeService", "ContainerStats", SHORT, ContainerStatsRequest -> ContainerStatsResponse;
        /// All containers' usage.
        list_container_stats, "RuntimeService", "ListContainerStats", SHORT, ListContainerStatsRequest -> ListContainerStatsResponse;
        /// One sandbox's usage.
        pod_sandbox_stats, "RuntimeService", "PodSandboxStats", SHORT, PodSandboxStatsRequest -> PodSandboxStatsResponse;
        /// All sandboxes' usage.
        list_pod_sandbox_stats, "RuntimeService", "ListPodSandboxStats", SHORT, ListPodSandboxStatsRequest -> ListPodSandboxStatsResponse;
        /// Pulls an image.
        pull_image, "ImageService", "PullImage", PULL, PullImageRequest -> PullImageResponse;
        /// All images that match.
        list_images, "ImageService", "ListImages", SHORT, ListImagesRequest -> ListImagesResponse;
        /// One image, if present.
        image_status, "ImageService", "ImageStatus", SHORT, ImageStatusRequest -> ImageStatusResponse;
        /// Removes an image. Repeatable.
        remove_image, "ImageService", "RemoveImage", LONG, RemoveImageRequest -> RemoveImageResponse;
        /// Space that images take.
        image_fs_info, "ImageService", "ImageFsInfo", SHORT, ImageFsInfoRequest -> ImageFsInfoResponse;
    }

    /// Stops a container: SIGTERM (or its own stop signal), then SIGKILL after `grace`. Repeatable.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), CriError> {
        let timeout = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        let request = m::StopContainerRequest { container_id: id.to_owned(), timeout };
        let path = "/runtime.v1.RuntimeService/StopContainer";
        let _: m::StopContainerResponse =
            self.call("StopContainer", path, request, grace.saturating_add(LONG)).await?;
        Ok(())
    }

    /// Runs a command in a container and returns its output; `limit` zero = no limit of the runtime's.
    pub async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        limit: Duration,
    ) -> Result<m::ExecSyncResponse, CriError> {
        let timeout = i64::try_from(limit.as_secs_f64().ceil() as u64).unwrap_or(0);
        let request = m::ExecSyncRequest { container_id: id.to_owned(), cmd: command, timeout };
        let wait = if limit.is_zero() { PULL } else { limit.saturating_add(SHORT) };
        self.call("ExecSync", "/runtime.v1.RuntimeService/ExecSync", request, wait).await
    }

    /// Container events as they happen. Ends with an error where the runtime offers none.
    pub async fn container_events(&self) -> Result<tonic::Streaming<m::ContainerEventResponse>, CriError> {
        server_stream(
            self.channel.clone(),
            "GetContainerEvents",
            "/runtime.v1.RuntimeService/GetContainerEvents",
            tonic::Request::new(m::GetEventsRequest {}),
        )
        .await
    }
}

/// Opens a server stream.
pub(crate) async fn server_stream<Q, A>(
    channel: Channel,
    method: &'static str,
    path: &'static str,
    request: tonic::Request<Q>,
) -> Result<tonic::Streaming<A>, CriError>
where
    Q: prost::Message + Send + Sync + 'static,
    A: prost::Message + Default + Send + Sync + 'static,
{
    let fail = |status: tonic::Status| CriError::Call { method, status: Box::new(status) };
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.map_err(|error| fail(tonic::Status::unavailable(error.to_string())))?;
    let codec = tonic_prost::ProstCodec::default();
    let answer =
        grpc.server_streaming(request, PathAndQuery::from_static(path), codec).await.map_err(fail)?;
    Ok(answer.into_inner())
}
