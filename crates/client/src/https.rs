//! Requests over a socket: TLS or plain, HTTP/2 shared by many requests, HTTP/1.1 where the server or an
//! upgrade asks for it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use base::http::Body;
use base::pki::LiveIdentity;
use base::trust::{self, Trust};
use base::{BoxError, Clock, Tasks};
use base64::Engine as _;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::{AUTHORIZATION, CONNECTION, HOST};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, Uri, Version};
use http_body::Frame;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;

use crate::kubeconfig::Settings;
use crate::transport::Transport;
use crate::{ClientError, Kubeconfig};

/// Requests that share one HTTP/2 connection: below the 100 streams that servers commonly allow.
const MAX_STREAMS: usize = 90;
/// Bytes that a server may send ahead on one stream and on one connection, as Go's client allows.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 1 << 30;
/// The largest HTTP/2 frame taken: a long list in the least frames costs the fewest writes.
const FRAME: u32 = 256 << 10;
/// Idle HTTP/1.1 connections kept.
const MAX_IDLE: usize = 16;
/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// A silent HTTP/2 connection is asked after this time whether it still lives.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// A token file is read again when its content is older than this.
const TOKEN_AGE: Duration = Duration::from_secs(60);

trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Stream for T {}

#[derive(Clone)]
struct Spawner(Tasks);

impl<F> hyper::rt::Executor<F> for Spawner
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, work: F) {
        self.0.spawn("http2", work);
    }
}

struct Shared2 {
    sender: http2::SendRequest<Body>,
    active: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Pool {
    h2: Vec<Shared2>,
    h1: Vec<http1::SendRequest<Body>>,
}

struct Inner {
    scheme: Scheme,
    authority: Authority,
    /// Put before every path; no slash at its end.
    prefix: String,
    server_name: Option<ServerName<'static>>,
    tls: Option<Arc<rustls::ClientConfig>>,
    tls_h1: Option<Arc<rustls::ClientConfig>>,
    settings: Settings,
    token: Mutex<Option<(Duration, HeaderValue)>>,
    pool: Mutex<Pool>,
    tasks: Tasks,
    clock: Clock,
}

/// A server reached over the network; cheap to clone.
#[derive(Clone)]
pub struct Https(Arc<Inner>);

impl Https {
    /// From resolved settings. Connections are made when needed, as tasks of `tasks`.
    pub fn new(settings: Settings, clock: Clock, tasks: Tasks) -> Result<Self, ClientError> {
        let bad = |detail: String| ClientError::config(format!("server {:?}", settings.server), detail);
        let text = if settings.server.contains("://") {
            settings.server.clone()
        } else {
            format!("http://{}", settings.server)
        };
        let uri: Uri = text.parse().map_err(|error: http::uri::InvalidUri| bad(error.to_string()))?;
        let scheme = uri.scheme().cloned().unwrap_or(Scheme::HTTPS);
        let authority = uri.authority().cloned().ok_or_else(|| bad("no host".to_owned()))?;
        let (mut tls, mut tls_h1, mut server_name) = (None, None, None);
        if scheme == Scheme::HTTPS {
            let name = settings.server_name.as_deref().unwrap_or(host_of(&authority)).to_owned();
            server_name = Some(ServerName::try_from(name).map_err(|error| bad(error.to_string()))?);
            let mut config = tls_config(&settings)?;
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            tls_h1 = Some(Arc::new(config.clone()));
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            tls = Some(Arc::new(config));
        } else if scheme != Scheme::HTTP {
            return Err(bad("the scheme must be http or https".to_owned()));
        }
        let prefix = uri.path().trim_end_matches('/').to_owned();
        let (token, pool) = (Mutex::default(), Mutex::default());
        Ok(Https(Arc::new(Inner {
            scheme,
            authority,
            prefix,
            server_name,
            tls,
            tls_h1,
            settings,
            token,
            pool,
            tasks,
            clock,
        })))
    }

    /// From a kubeconfig's context (`None` = the current one).
    pub fn from_kubeconfig(
        config: &Kubeconfig,
        context: Option<&str>,
        clock: Clock,
        tasks: Tasks,
    ) -> Result<Self, ClientError> {
        Https::new(config.settings(context)?, clock, tasks)
    }
}

fn host_of(authority: &Authority) -> &str {
    authority.host().trim_start_matches('[').trim_end_matches(']')
}

fn tls_config(settings: &Settings) -> Result<rustls::ClientConfig, ClientError> {
    let bad = |error: &dyn std::fmt::Display| ClientError::config("TLS", error);
    let system: String;
    let trust = match &settings.ca {
        _ if settings.insecure => Trust::Anyone,
        Some(ca) => Trust::From(ca),
        None => {
            system = std::fs::read_to_string("/etc/ssl/certs/ca-certificates.crt").unwrap_or_default();
            Trust::From(&system)
        }
    };
    let identity = settings.identity.as_ref().map(LiveIdentity::new).transpose();
    let identity = identity.map_err(|error| bad(&error))?;
    trust::client_config(trust, identity.as_ref()).map_err(|error| bad(&error))
}

enum Made {
    H1(http1::SendRequest<Body>),
    H2(http2::SendRequest<Body>, Active),
}

/// Counts a request on a shared connection while it or its body lives.
struct Active(Arc<AtomicUsize>);

impl Active {
    fn on(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Active(count.clone())
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Inner {
    fn what(&self) -> String {
        format!("connecting to {}://{}", self.scheme, self.authority)
    }

    async fn open(&self, upgrade: bool) -> Result<(Box<dyn Stream>, bool), ClientError> {
        let fail = |error: BoxError| ClientError::transport(self.what(), error);
        let default = if self.scheme == Scheme::HTTPS { 443 } else { 80 };
        let port = self.authority.port_u16().unwrap_or(default);
        let tcp = TcpStream::connect((host_of(&self.authority), port)).await.map_err(|e| fail(e.into()))?;
        tcp.set_nodelay(true).map_err(|e| fail(e.into()))?;
        let tls = if upgrade { &self.tls_h1 } else { &self.tls };
        let (Some(tls), Some(name)) = (tls, &self.server_name) else {
            return Ok((Box::new(tcp), false));
        };
        let connector = tokio_rustls::TlsConnector::from(tls.clone());
        let stream = connector.connect(name.clone(), tcp).await.map_err(|e| fail(e.into()))?;
        let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok((Box::new(stream), h2))
    }

    async fn connect(&self, upgrade: bool) -> Result<Made, ClientError> {
        let opened = self.clock.timeout(CONNECT_TIMEOUT, self.open(upgrade)).await;
        let seconds = CONNECT_TIMEOUT.as_secs();
        let (stream, h2) = opened.ok_or_else(|| ClientError::Timeout { what: self.what(), seconds })??;
        let fail = |error: hyper::Error| ClientError::transport(self.what(), error);
        if h2 {
            let (sender, connection) = http2::Builder::new(Spawner(self.tasks.clone()))
                .timer(TokioTimer::new())
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_frame_size(FRAME)
                .keep_alive_interval(PING_INTERVAL)
                .keep_alive_timeout(PING_INTERVAL)
                .handshake(TokioIo::new(stream))
                .await
                .map_err(fail)?;
            self.tasks.spawn("connection", async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "connection ended");
                }
            });
            let count = Arc::new(AtomicUsize::new(0));
            let active = Active::on(&count);
            self.pool.lock().h2.push(Shared2 { sender: sender.clone(), active: count });
            return Ok(Made::H2(sender, active));
        }
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(fail)?;
        self.tasks.spawn("connection", async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection ended");
            }
        });
        Ok(Made::H1(sender))
    }

    fn pooled(&self) -> Option<Made> {
        let mut pool = self.pool.lock();
        pool.h2.retain(|shared| !shared.sender.is_closed());
        let free = |shared: &&Shared2| shared.active.load(Ordering::Relaxed) < MAX_STREAMS;
        if let Some(shared) = pool.h2.iter().find(free) {
            return Some(Made::H2(shared.sender.clone(), Active::on(&shared.active)));
        }
        pool.h1.retain(|sender| !sender.is_closed());
        let at = pool.h1.iter().position(http1::SendRequest::is_ready)?;
        Some(Made::H1(pool.h1.swap_remove(at)))
    }

    fn authorization(&self) -> Option<HeaderValue> {
        let settings = &self.settings;
        let secret = |text: String| {
            let mut value = HeaderValue::from_str(&text).ok()?;
            value.set_sensitive(true);
            Some(value)
        };
        if let Some(path) = &settings.token_file {
            let now = self.clock.monotonic();
            let mut cached = self.token.lock();
            if let Some((read, value)) = &*cached
                && now.saturating_sub(*read) < TOKEN_AGE
            {
                return Some(value.clone());
            }
            if let Ok(text) = std::fs::read_to_string(path)
                && let Some(value) = secret(format!("Bearer {}", text.trim()))
            {
                *cached = Some((now, value.clone()));
                return Some(value);
            }
            if let Some((_, value)) = &*cached {
                return Some(value.clone());
            }
        }
        if let Some(token) = &settings.token {
            return secret(format!("Bearer {token}"));
        }
        let (name, password) = settings.basic.as_ref()?;
        let pair = base64::engine::general_purpose::STANDARD.encode(format!("{name}:{password}"));
        secret(format!("Basic {pair}"))
    }

    fn prepare(&self, request: &mut Request<Body>) -> Result<(), ClientError> {
        let path = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
        let uri = Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(format!("{}{path}", self.prefix))
            .build();
        *request.uri_mut() = uri.map_err(|error| ClientError::transport(self.what(), error))?;
        if !request.headers().contains_key(AUTHORIZATION)
            && let Some(value) = self.authorization()
        {
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        Ok(())
    }

    /// HTTP/1.1 wants the path alone and a Host header.
    fn origin_form(&self, request: &mut Request<Body>) {
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = path.map(Uri::from).unwrap_or_default();
        *request.version_mut() = Version::HTTP_11;
        if let Ok(host) = HeaderValue::from_str(self.authority.as_str()) {
            request.headers_mut().insert(HOST, host);
        }
    }
}

impl Https {
    async fn send(&self, mut request: Request<Body>) -> Result<Response<Body>, ClientError> {
        let inner = &self.0;
        inner.prepare(&mut request)?;
        let upgrade = request.headers().contains_key(CONNECTION);
        let what = format!("{} {}", request.method(), request.uri());
        let mut fresh = upgrade;
        loop {
            let made = if fresh { None } else { inner.pooled() };
            let pooled = made.is_some();
            let made = match made {
                Some(made) => made,
                None => inner.connect(upgrade).await?,
            };
            let (error, returned) = match made {
                Made::H2(mut sender, active) => match sender.try_send_request(request).await {
                    Ok(response) => return Ok(response.map(|body| hold(body, Some(active), None))),
                    Err(mut error) => (error.take_message(), error.into_error()),
                },
                Made::H1(mut sender) => {
                    let absolute = request.uri().clone();
                    inner.origin_form(&mut request);
                    match sender.try_send_request(request).await {
                        Ok(response) => {
                            let back = (!upgrade).then(|| (self.clone(), sender));
                            return Ok(response.map(|body| hold(body, None, back)));
                        }
                        Err(mut error) => {
                            let mut message = error.take_message();
                            if let Some(request) = &mut message {
                                *request.uri_mut() = absolute;
                                *request.version_mut() = Version::default();
                            }
                            (message, error.into_error())
                        }
                    }
                }
            };
            // A pooled connection may have been closed by the server; what was not sent can go to a new one.
            match error {
                Some(unsent) if pooled => {
                    request = unsent;
                    fresh = true;
                }
                _ => return Err(ClientError::transport(what, returned)),
            }
        }
    }
}

impl Transport for Https {
    fn call(&self, request: Request<Body>) -> BoxFuture<'_, Result<Response<Body>, ClientError>> {
        Box::pin(self.send(request))
    }
}

/// A response's body that frees its place on the connection, or returns the connection, at its end.
struct Held {
    body: Incoming,
    active: Option<Active>,
    back: Option<(Https, http1::SendRequest<Body>)>,
}

fn hold(body: Incoming, active: Option<Active>, back: Option<(Https, http1::SendRequest<Body>)>) -> Body {
    base::http::wrap(Held { body, active, back })
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if matches!(polled, Poll::Ready(None)) {
            self.active = None;
            if let Some((https, sender)) = self.back.take() {
                let mut pool = https.0.pool.lock();
                if pool.h1.len() < MAX_IDLE {
                    pool.h1.push(sender);
                }
            }
        }
        polled.map(|item| item.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        // Only at `None` does the connection go back, so the reader must come for it.
        false
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
