//! Connections to agents and to pods: one request each, upgrades tunnelled, redirects never followed.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api::ApiError;
use base::http::Body;
use base::trust::{Trust, client_config};
use http::header::{CONNECTION, HOST, HeaderMap, HeaderName, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{Request, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use registry::tree::Tree;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::config::Config;
use crate::server::Server;

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long the other side may take to begin its answer.
const ANSWER: Duration = Duration::from_secs(60);
/// An agent's port when its node does not tell one.
const AGENT_PORT: u16 = 10_250;
/// Headers that belong to one connection, not to a request passed on.
const HOP: [&str; 7] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "proxy-authenticate",
];

/// What it takes to reach agents.
pub struct Agents {
    tls: Arc<rustls::ClientConfig>,
    /// TLS to what is not an agent (pods, services): any certificate will do.
    any: Arc<rustls::ClientConfig>,
    /// The same with our certificate as a front proxy.
    front: Arc<rustls::ClientConfig>,
    address_types: Vec<String>,
}

/// Where a request goes.
#[derive(Clone, Debug)]
pub struct Target {
    /// Name or address.
    pub host: String,
    /// The name that its certificate must be for.
    pub name: String,
    /// Port.
    pub port: u16,
    /// TLS, and whose.
    pub scheme: Scheme,
}

/// How a target is spoken to.
#[derive(Clone, Debug)]
pub enum Scheme {
    /// Plain text.
    Http,
    /// TLS, any certificate.
    Https,
    /// TLS to an agent, with our client certificate.
    Agent,
    /// TLS as given.
    Given(Arc<rustls::ClientConfig>),
}

impl Agents {
    /// From the configured certificates.
    pub fn new(config: &Config) -> Result<Agents, ApiError> {
        let tls = |trust, identity| client_config(trust, identity).map(Arc::new).map_err(ApiError::internal);
        let agents = config.kubelet_ca.as_deref().map_or(Trust::Anyone, Trust::From);
        Ok(Agents {
            tls: tls(agents, config.kubelet_client.as_ref())?,
            any: tls(Trust::Anyone, None)?,
            front: tls(Trust::Anyone, config.proxy_client.as_ref())?,
            address_types: config.address_types.clone(),
        })
    }

    /// TLS to other API servers whose certificates are not checked.
    pub fn front(&self) -> Arc<rustls::ClientConfig> {
        self.front.clone()
    }

    /// A node's agent.
    pub fn target(&self, node: &Value) -> Result<Target, ApiError> {
        let addresses = node.list("status.addresses");
        let find = |kind: &String| {
            addresses.iter().find(|a| a["type"] == kind.as_str()).and_then(|a| a["address"].as_str())
        };
        let host = self.address_types.iter().find_map(find).ok_or_else(|| {
            ApiError::internal(format!(
                "no preferred addresses found; known addresses: {}",
                node.at("status.addresses")
            ))
        })?;
        let port = node.int("status.daemonEndpoints.kubeletEndpoint.Port");
        let port = u16::try_from(port).ok().filter(|port| *port != 0).unwrap_or(AGENT_PORT);
        Ok(Target { host: host.to_owned(), name: host.to_owned(), port, scheme: Scheme::Agent })
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

fn unreachable(target: &Target, error: impl std::fmt::Display) -> ApiError {
    let mut refused = ApiError::internal(format!(
        "error dialing backend: dial tcp {}:{}: {error}",
        target.host, target.port
    ));
    if !matches!(target.scheme, Scheme::Agent) {
        refused = ApiError::service_unavailable(format!(
            "error trying to reach service: dial tcp {}:{}: {error}",
            target.host, target.port
        ));
    }
    refused
}

async fn connect(server: &Server, target: &Target) -> Result<Box<dyn Stream>, ApiError> {
    let dial = TcpStream::connect((target.host.as_str(), target.port));
    let stream = match server.clock.timeout(CONNECT, dial).await {
        Some(Ok(stream)) => stream,
        Some(Err(error)) => return Err(unreachable(target, error)),
        None => return Err(unreachable(target, "i/o timeout")),
    };
    let _ = stream.set_nodelay(true);
    let config = match &target.scheme {
        Scheme::Http => return Ok(Box::new(stream)),
        Scheme::Https => server.agents.any.clone(),
        Scheme::Agent => server.agents.tls.clone(),
        Scheme::Given(config) => config.clone(),
    };
    let name = match target.name.parse::<IpAddr>() {
        Ok(ip) => ServerName::IpAddress(ip.into()),
        Err(_) => ServerName::try_from(target.name.clone()).map_err(|error| unreachable(target, error))?,
    };
    let connector = tokio_rustls::TlsConnector::from(config);
    match server.clock.timeout(CONNECT, connector.connect(name, stream)).await {
        Some(Ok(tls)) => Ok(Box::new(tls)),
        Some(Err(error)) => Err(unreachable(target, error)),
        None => Err(unreachable(target, "TLS handshake timeout")),
    }
}

/// Sends one request over a connection of its own. The connection lives until both bodies have ended.
pub async fn send(
    server: &Server,
    target: &Target,
    request: Request<Body>,
) -> Result<Response<hyper::body::Incoming>, ApiError> {
    let stream = connect(server, target).await?;
    let handshake =
        hyper::client::conn::http1::Builder::new().handshake::<_, Body>(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| unreachable(target, error))?;
    server.tasks.spawn("connection to an agent", async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "connection to an agent ended");
        }
    });
    match server.clock.timeout(ANSWER, sender.send_request(request)).await {
        Some(Ok(response)) => Ok(response),
        Some(Err(error)) => Err(unreachable(target, error)),
        None => Err(unreachable(target, "timeout awaiting response headers")),
    }
}

/// Passes a request on: its method, headers (without credentials, with those added) and body go to `path` at
/// the target; the answer comes back, and when both sides upgrade, their bytes are tunnelled.
pub async fn pass(
    server: &Server,
    target: &Target,
    path: &str,
    head: &Parts,
    added: &HeaderMap,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let upgrades = head.headers.contains_key(UPGRADE);
    let mut request = Request::new(if upgrades { base::http::empty() } else { body });
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = path.parse().map_err(|_| ApiError::bad_request("the path cannot be passed on"))?;
    *request.headers_mut() = passed_headers(&head.headers, upgrades);
    for (name, value) in added {
        request.headers_mut().append(name, value.clone());
    }
    let host = if target.host.contains(':') {
        format!("[{}]:{}", target.host, target.port)
    } else {
        format!("{}:{}", target.host, target.port)
    };
    request
        .headers_mut()
        .insert(HOST, host.parse().map_err(|_| ApiError::bad_request("the host cannot be named"))?);
    let mut response = send(server, target, request).await?;
    let near = head.extensions.get::<OnUpgrade>().cloned();
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let far = hyper::upgrade::on(&mut response);
        let Some(near) = near.filter(|_| upgrades) else {
            return Err(ApiError::internal("the backend upgraded a connection that cannot be"));
        };
        let mut answer = Response::new(base::http::empty());
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *answer.headers_mut() = response.headers().clone();
        server.tasks.spawn("tunnel", tunnel(near, far));
        return Ok(answer);
    }
    let (mut parts, body) = response.into_parts();
    for name in HOP {
        parts.headers.remove(name);
    }
    Ok(Response::from_parts(parts, base::http::wrap(body)))
}

async fn tunnel(near: OnUpgrade, far: OnUpgrade) {
    let (Ok(near), Ok(far)) = tokio::join!(near, far) else { return };
    let (mut near, mut far) = (TokioIo::new(near), TokioIo::new(far));
    // Either side closing or failing ends both.
    if let Err(error) = tokio::io::copy_bidirectional(&mut near, &mut far).await {
        tracing::debug!(%error, "tunnel ended");
    }
}

fn passed_headers(headers: &HeaderMap, upgrades: bool) -> HeaderMap {
    let mut out = headers.clone();
    for name in ["authorization", "cookie", "x-remote-user", "x-remote-group", "x-remote-uid"] {
        out.remove(name);
    }
    let extra: Vec<HeaderName> = out
        .keys()
        .filter(|name| {
            name.as_str().starts_with("x-remote-extra-") || name.as_str().starts_with("impersonate-")
        })
        .cloned()
        .collect();
    for name in extra {
        out.remove(name);
    }
    if upgrades {
        return out;
    }
    for name in HOP {
        out.remove(name);
    }
    out.remove(CONNECTION);
    out.remove(TRANSFER_ENCODING);
    out
}
