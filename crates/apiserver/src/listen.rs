//! Serving over sockets: TLS, HTTP/1.1 and HTTP/2, client certificates, limits, graceful end.

use std::sync::Arc;
use std::time::Duration;

use api::user::UserInfo;
use base::pki::{self, PkiError};
use http::Request;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::authn::certificate;
use crate::gather::Gather;
use crate::server::Server;

/// How long a client may take for the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a client may take for a request's head on HTTP/1.1.
const HEAD: Duration = Duration::from_secs(30);
/// Bytes of headers, as Go's default.
const HEADER_BYTES: usize = 1 << 20;
/// Streams at one time on one HTTP/2 connection, as upstream.
const STREAMS: u32 = 250;
/// Connections at one time; beyond it they wait in the kernel's queue.
const CONNECTIONS: usize = 20_000;
/// Resets that a client may send before it is cut off (rapid reset).
const RESETS: usize = 200;
/// How long connections get to finish at the end.
const DRAIN: Duration = Duration::from_secs(10);

/// The client's verified certificate, in a request's extensions.
#[derive(Clone)]
pub struct Peer(pub Option<Arc<UserInfo>>, pub Option<Arc<str>>);

/// The client's address, in a request's extensions.
#[derive(Clone, Copy)]
pub struct Address(pub std::net::SocketAddr);

/// A body that broke off. (A type of its own: boxed errors confuse the proof that connections may change threads.)
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Broken(base::BoxError);

impl Server {
    /// Serves TLS connections of `listener` until the server's tasks are cancelled.
    pub async fn serve(&self, listener: TcpListener) -> Result<(), PkiError> {
        let identity = self.config.identity.clone().ok_or(PkiError::Pem {
            what: "the serving certificate",
            detail: "none is configured".to_owned(),
        })?;
        let mut authorities = self.config.client_ca.clone().unwrap_or_default();
        authorities.push_str(self.config.requestheader_ca.as_deref().unwrap_or(""));
        let authorities = Some(authorities.as_str()).filter(|pem| !pem.trim().is_empty());
        let acceptor = TlsAcceptor::from(Arc::new(pki::server_config(&identity, authorities)?));
        let places = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return Ok(()) };
            let stream = tokio::select! {
                () = self.tasks.cancel_token().cancelled() => return Ok(()),
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        // Out of descriptors, mostly: give others time to close theirs.
                        tracing::warn!(%error, "cannot accept a connection");
                        self.clock.sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                },
            };
            let (server, acceptor) = (self.clone(), acceptor.clone());
            self.tasks.spawn_detached("connection", async move {
                server.connection(stream, acceptor).await;
                drop(place);
            });
        }
    }

    async fn connection(&self, stream: TcpStream, acceptor: TlsAcceptor) {
        let _ = stream.set_nodelay(true);
        let address = stream.peer_addr().ok().map(Address);
        let Some(Ok(tls)) = self.clock.timeout(HANDSHAKE, acceptor.accept(stream)).await else { return };
        let peer = certificate::peer(self, tls.get_ref().1.peer_certificates().unwrap_or(&[]));
        let h2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
        let server = self.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let (server, peer) = (server.clone(), peer.clone());
            // In a box of its own: a connection or stream that goes on for hours, as watches do, keeps the answer only.
            Box::pin(async move {
                let mut request = request.map(base::http::wrap);
                request.extensions_mut().insert(peer);
                if let Some(address) = address {
                    request.extensions_mut().insert(address);
                }
                let response = server.call(request).await;
                Ok::<_, std::convert::Infallible>(response.map(|body| body.map_err(Broken).boxed_unsync()))
            })
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEADER_BYTES);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(u32::try_from(HEADER_BYTES).unwrap_or(u32::MAX))
            .max_pending_accept_reset_streams(RESETS)
            .max_local_error_reset_streams(RESETS)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20));
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(Gather::new(tls, h2)), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            result = connection.as_mut() => Some(result),
            () = self.tasks.cancel_token().cancelled() => None,
        };
        match ended {
            Some(Ok(())) => {}
            Some(Err(error)) => tracing::debug!(%error, "connection ended"),
            None => {
                connection.as_mut().graceful_shutdown();
                self.clock.timeout(DRAIN, connection).await;
            }
        }
    }
}
