//! The agent's HTTPS server: who asks, what they may, and where each path goes.
//!
//! Must not know streams: [`Streaming`] takes logs, exec, attach and port-forward.

pub mod auth;
mod logs;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::UserInfo;
use api::k8s::api::core::v1::Pod;
use base::http::{Body, full};
use base::pki::{self, Ca, Identity, LiveIdentity, Subject};
use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::json;
use tokio::net::TcpListener;

use crate::shared::Shared;
use crate::stats::{exposition, summary};
use crate::streaming::{Query, Streaming};

/// Life of a certificate that the agent makes for itself.
const OWN_CERT_LIFE: Duration = Duration::from_secs(365 * 86_400);
/// A TLS handshake takes no longer.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The port is taken or not allowed.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: std::io::Error,
    },
    /// A certificate, key or CA file cannot be read.
    #[error("cannot read {path:?}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A certificate cannot be made or used.
    #[error(transparent)]
    Pki(#[from] pki::PkiError),
}

/// What the server is given.
#[derive(Clone, Default)]
pub struct Parts {
    /// Its certificate, which may be replaced at any time; `None` = from the settings' files, else made.
    pub identity: Option<LiveIdentity>,
    /// CA of client certificates, PEM; `None` = from the settings' file.
    pub client_ca: Option<String>,
}

struct Server {
    shared: Arc<Shared>,
    auth: auth::Auth,
    streaming: Streaming,
}

fn read(path: &PathBuf) -> Result<String, ServerError> {
    std::fs::read_to_string(path).map_err(|source| ServerError::File { path: path.clone(), source })
}

/// Starts the server and the health server as tasks.
pub async fn start(shared: &Arc<Shared>, parts: Parts) -> Result<(), ServerError> {
    if let Some(address) = shared.config.healthz {
        serve_health(shared, address).await;
    }
    let Some(address) = shared.config.listen else { return Ok(()) };
    let client_ca = match (&parts.client_ca, &shared.config.client_ca) {
        (Some(pem), _) => Some(pem.clone()),
        (None, Some(path)) => Some(read(path)?),
        (None, None) => None,
    };
    let identity = match (parts.identity, &shared.config.tls_cert, &shared.config.tls_key) {
        (Some(identity), _, _) => identity,
        (None, Some(cert), Some(key)) => LiveIdentity::new(&Identity { cert: read(cert)?, key: read(key)? })?,
        _ => LiveIdentity::new(&own_identity(shared)?)?,
    };
    let config = Arc::new(pki::server_config(&identity, client_ca.as_deref())?);
    let listener =
        TcpListener::bind(address).await.map_err(|source| ServerError::Listen { address, source })?;
    let streaming = Streaming::new(shared.clone(), shared.clock.clone(), shared.tasks.clone());
    let auth = auth::Auth::new(shared.client.clone(), shared.clock.clone(), &shared.config.node_name);
    let server = Arc::new(Server { shared: shared.clone(), auth, streaming });
    shared.tasks.spawn("server", accept(server, listener, tokio_rustls::TlsAcceptor::from(config)));
    Ok(())
}

/// A certificate of the agent's own CA: good enough for a server that is reached through the API server.
fn own_identity(shared: &Shared) -> Result<Identity, ServerError> {
    let now = shared.clock.now();
    let ca = Ca::new("navarch-agent-ca", now, OWN_CERT_LIFE, &shared.rng)?;
    let mut addresses: Vec<IpAddr> = shared.host_ips.iter().filter_map(|ip| ip.parse().ok()).collect();
    addresses.push(IpAddr::from([127, 0, 0, 1]));
    let subject = Subject {
        common_name: format!("system:node:{}", shared.config.node_name),
        organization: Some("system:nodes".into()),
        dns_names: vec![shared.config.node_name.clone(), "localhost".into()],
        addresses,
        server: true,
        client: false,
    };
    Ok(ca.issue(&subject, now, OWN_CERT_LIFE, &shared.rng)?)
}

async fn accept(server: Arc<Server>, listener: TcpListener, acceptor: tokio_rustls::TlsAcceptor) {
    loop {
        let Ok((tcp, _)) = listener.accept().await else {
            server.shared.clock.sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (server, acceptor) = (server.clone(), acceptor.clone());
        let tasks = server.shared.tasks.clone();
        tasks.spawn("connection", async move {
            let clock = server.shared.clock.clone();
            let Some(Ok(tls)) = clock.timeout(HANDSHAKE, acceptor.accept(tcp)).await else { return };
            let user = tls.get_ref().1.peer_certificates().and_then(|chain| auth::user_of(chain.first()?));
            let service = service_fn(move |request| {
                let (server, user) = (server.clone(), user.clone());
                async move { Ok::<_, std::convert::Infallible>(server.handle(request, user).await) }
            });
            let connection = auto::Builder::new(TokioExecutor::new());
            let _ = connection.serve_connection_with_upgrades(TokioIo::new(tls), service).await;
        });
    }
}

/// Answers `/healthz` on loopback without questions.
async fn serve_health(shared: &Arc<Shared>, address: SocketAddr) {
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(%address, %error, "no health server");
            return;
        }
    };
    let tasks = shared.tasks.clone();
    shared.tasks.spawn("health", async move {
        loop {
            let Ok((tcp, _)) = listener.accept().await else { return };
            tasks.spawn("health connection", async move {
                let service = service_fn(|request: Request<Incoming>| async move {
                    let fine = matches!(request.uri().path(), "/healthz" | "/livez" | "/readyz");
                    let answer = if fine {
                        text(StatusCode::OK, "ok")
                    } else {
                        text(StatusCode::NOT_FOUND, "404 page not found\n")
                    };
                    Ok::<_, std::convert::Infallible>(answer)
                });
                let connection = hyper::server::conn::http1::Builder::new();
                let _ = connection.serve_connection(TokioIo::new(tcp), service).await;
            });
        }
    });
}

/// A plain-text answer.
pub fn text(code: StatusCode, body: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(full(body.into()));
    *response.status_mut() = code;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// A JSON answer.
pub fn json_answer(value: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(full(value.to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

impl Server {
    async fn handle(&self, request: Request<Incoming>, certificate: Option<UserInfo>) -> Response<Body> {
        let user = match certificate {
            Some(user) => user,
            None => match self.auth.authenticate(request.headers()).await {
                Some(user) => user,
                None => return text(StatusCode::UNAUTHORIZED, "Unauthorized"),
            },
        };
        let path = request.uri().path().to_owned();
        if !self.auth.authorize(&user, request.method(), &path).await {
            let (verb, resource) = auth::attributes(request.method(), &path);
            let message = format!(
                "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{resource}])\n",
                user.name
            );
            return text(StatusCode::FORBIDDEN, message);
        }
        if Streaming::owns(&path) {
            return self.streaming.serve(request.map(base::http::wrap)).await;
        }
        self.route(request, &path).await
    }

    async fn route(&self, request: Request<Incoming>, path: &str) -> Response<Body> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let get = request.method() == Method::GET;
        match parts.as_slice() {
            ["healthz" | "livez" | "readyz", ..] if get => text(StatusCode::OK, "ok"),
            ["pods"] if get => json_answer(&self.pods()),
            ["runningpods"] if get => json_answer(&self.pods()),
            ["stats", "summary"] if get => {
                let query = Query::parse(request.uri().query());
                let brief = matches!(query.get("only_cpu_and_memory"), Some("true" | "1" | "t" | "T"));
                json_answer(&summary::summary(&self.shared, brief).await)
            }
            ["metrics"] if get => text(StatusCode::OK, exposition::own(&self.shared)),
            ["metrics", "resource"] if get => text(StatusCode::OK, exposition::resource(&self.shared).await),
            ["metrics", "cadvisor"] if get => text(StatusCode::OK, exposition::cadvisor(&self.shared).await),
            ["metrics", "probes"] if get => text(StatusCode::OK, ""),
            ["logs", ..] if get => {
                logs::answer(&self.shared, path.strip_prefix("/logs").unwrap_or_default()).await
            }
            ["configz"] if get => json_answer(&self.configz()),
            _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        }
    }

    fn pods(&self) -> serde_json::Value {
        let items: Vec<Pod> = self
            .shared
            .registry
            .all()
            .into_iter()
            .map(|entry| {
                let mut pod = (*entry.pod).clone();
                pod.status = entry.status.map(|status| (*status).clone()).or(pod.status);
                pod
            })
            .collect();
        let items: Vec<serde_json::Value> =
            items.iter().filter_map(|pod| serde_json::to_value(pod).ok()).collect();
        json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
    }

    fn configz(&self) -> serde_json::Value {
        let config = &self.shared.config;
        json!({"kubeletconfig": {
            "kind": "KubeletConfiguration", "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "address": config.listen.map(|listen| listen.ip().to_string()), "port": config.port(),
            "clusterDNS": config.cluster_dns, "clusterDomain": config.cluster_domain,
            "maxPods": config.max_pods, "cgroupRoot": config.cgroup_root,
            "cgroupDriver": if self.shared.systemd { "systemd" } else { "cgroupfs" },
            "containerRuntimeEndpoint": config.runtime_endpoint, "seccompDefault": config.seccomp_default,
            "containerLogMaxSize": config.log_max_bytes.to_string(), "containerLogMaxFiles": config.log_max_files,
            "nodeLeaseDurationSeconds": config.lease_seconds, "podLogsDir": config.log_dir,
        }})
    }
}
