//! A tiny HTTP server for health and metrics: GET a path, get a text.
//!
//! Must not know what is reported; each server is given one function from path to reply.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use base::{Clock, Tasks};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Connections served at one time; probes are few, so more is abuse.
const CONNECTION_LIMIT: usize = 64;
/// How long a client may take to send its request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// What a path answers.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The media type.
    pub content_type: &'static str,
    /// More headers.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: String,
}

impl Reply {
    /// A plain text.
    pub fn text(status: u16, body: impl Into<String>) -> Reply {
        Reply { status, content_type: "text/plain; charset=utf-8", headers: Vec::new(), body: body.into() }
    }

    /// A JSON document.
    pub fn json(status: u16, body: &serde_json::Value) -> Reply {
        Reply { status, content_type: "application/json", headers: Vec::new(), body: body.to_string() }
    }
}

/// From a path to what it answers; `None` is a 404.
pub type Handler = Arc<dyn Fn(&str) -> Option<Reply> + Send + Sync>;

/// Serves until the task is dropped. Each connection is a task of `tasks`.
pub async fn serve(listener: TcpListener, handler: Handler, tasks: Tasks, clock: Clock) {
    let room = Arc::new(Semaphore::new(CONNECTION_LIMIT));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // For instance: no file descriptors left. Trying again at once would spin.
                tracing::debug!(%error, "accepting a connection");
                clock.sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let handler = Arc::clone(&handler);
        tasks.spawn("health connection", async move {
            let service = service_fn(move |request| {
                let response = respond(&request, &handler);
                async move { Ok::<_, Infallible>(response) }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            drop(permit);
        });
    }
}

fn respond(request: &Request<hyper::body::Incoming>, handler: &Handler) -> Response<base::http::Body> {
    let reply = if matches!(*request.method(), Method::GET | Method::HEAD) {
        handler(request.uri().path()).unwrap_or_else(|| Reply::text(404, "404 page not found\n"))
    } else {
        Reply::text(405, "method not allowed\n")
    };
    let mut response = Response::new(base::http::full(reply.body));
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(hyper::header::CONTENT_TYPE, hyper::header::HeaderValue::from_static(reply.content_type));
    headers.insert("x-content-type-options", hyper::header::HeaderValue::from_static("nosniff"));
    for (name, value) in reply.headers {
        if let Ok(value) = value.parse() {
            headers.insert(name, value);
        }
    }
    response
}
