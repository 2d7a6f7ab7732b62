//! Connections to the runtime's streaming server: dialing the URL that the runtime gave, and carrying bytes
//! between it and a client.
//!
//! Must not know commands or ports.

use std::time::Duration;

use base::http::{self as body, Body};
use base::{Clock, Tasks};
use client::streaming::command::PROTOCOL_HEADER;
use http::header::{CONNECTION, HOST, UPGRADE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Refusal;

/// How long the runtime's server and the client's connection may take to switch protocols.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(30);
/// A refusal of the runtime's server.
const MAX_REFUSAL_BYTES: usize = 64 * 1024;
/// How long what was sent last may take to reach the client.
const DRAIN: Duration = Duration::from_secs(2);

/// A connection that switched protocols.
pub type Io = TokioIo<Upgraded>;

/// An open stream to the runtime, and how its server answered.
pub struct Backend {
    /// The bytes.
    pub io: Io,
    /// Connection, upgrade and version headers of the answer.
    pub head: Response<()>,
}

/// Asks the runtime's server at `url` to switch to SPDY; `versions` are offered in order.
pub async fn dial(
    url: &str,
    method: &Method,
    versions: &[HeaderValue],
    clock: &Clock,
    tasks: &Tasks,
) -> Result<Backend, Refusal> {
    let fail =
        |error: String| Refusal::broken(format!("unable to reach the container runtime's streams: {error}"));
    let uri: Uri = url.parse().map_err(|error: http::uri::InvalidUri| fail(error.to_string()))?;
    let authority = uri.authority().filter(|_| uri.scheme_str() == Some("http"));
    let authority = authority.ok_or_else(|| fail(format!("{url:?} is not an http URL")))?.clone();
    let work = async {
        let address = (authority.host().trim_matches(['[', ']']), authority.port_u16().unwrap_or(80));
        let stream = TcpStream::connect(address).await.map_err(|error| fail(error.to_string()))?;
        let _ = stream.set_nodelay(true);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| fail(error.to_string()))?;
        tasks.spawn("stream connection", async move {
            let _ = connection.with_upgrades().await;
        });
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::builder().method(method).uri(path).header(HOST, authority.as_str());
        request = request.header(CONNECTION, "Upgrade").header(UPGRADE, "SPDY/3.1");
        for version in versions {
            request = request.header(PROTOCOL_HEADER, version);
        }
        let request = request.body(body::empty()).map_err(|error| fail(error.to_string()))?;
        let response = sender.send_request(request).await.map_err(|error| fail(error.to_string()))?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let code = response.status();
            let text =
                body::read(body::wrap(response.into_body()), MAX_REFUSAL_BYTES).await.unwrap_or_default();
            return Err(Refusal::new(code, String::from_utf8_lossy(&text)));
        }
        let mut head = Response::new(());
        *head.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        for name in [CONNECTION.as_str(), UPGRADE.as_str(), PROTOCOL_HEADER] {
            if let Some(value) = response.headers().get(name) {
                let name = http::HeaderName::from_bytes(name.as_bytes()).expect("a header's name");
                head.headers_mut().insert(name, value.clone());
            }
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(|error| fail(error.to_string()))?;
        Ok(Backend { io: TokioIo::new(upgraded), head })
    };
    let done = clock.timeout(UPGRADE_TIMEOUT, work).await;
    done.unwrap_or_else(|| Err(fail("no answer in time".to_owned())))
}

/// The client's side after our 101; `None` when it never came. Nothing may be left open then.
pub async fn upgraded(client: OnUpgrade, clock: &Clock) -> Option<Io> {
    match clock.timeout(UPGRADE_TIMEOUT, client).await {
        Some(Ok(upgraded)) => Some(TokioIo::new(upgraded)),
        Some(Err(error)) => {
            tracing::debug!(%error, "client did not switch protocols");
            None
        }
        None => None,
    }
}

/// Connects a SPDY client with the runtime's answer, byte for byte, until either side ends.
pub fn connect(backend: Backend, client: OnUpgrade, clock: &Clock, tasks: &Tasks) -> Response<Body> {
    let Backend { io, head } = backend;
    let clock = clock.clone();
    tasks.spawn("stream tunnel", async move {
        if let Some(client) = upgraded(client, &clock).await {
            carry(client, io, &clock).await;
        }
    });
    head.map(|()| body::empty())
}

/// A client that goes away ends the runtime's side, a runtime that is done ends the client's: SPDY has no use
/// for half-open connections.
async fn carry(client: Io, runtime: Io, clock: &Clock) {
    let (mut client_read, mut client_write) = tokio::io::split(client);
    let (mut runtime_read, mut runtime_write) = tokio::io::split(runtime);
    let done = tokio::select! {
        _ = tokio::io::copy(&mut client_read, &mut runtime_write) => false,
        result = tokio::io::copy(&mut runtime_read, &mut client_write) => result.is_ok(),
    };
    let _ = clock.timeout(DRAIN, runtime_write.shutdown()).await;
    if done {
        // Closing with unread bytes would throw away what the client has not read yet.
        let drain = async {
            let _ = client_write.shutdown().await;
            let mut rest = [0; 4096];
            while matches!(client_read.read(&mut rest).await, Ok(size) if size > 0) {}
        };
        clock.timeout(DRAIN, drain).await;
    }
}
