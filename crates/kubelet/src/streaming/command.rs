//! Commands and attachments: finding the container, choosing the protocol, and the bridge for WebSocket clients.
//!
//! Must not know how the runtime runs anything.

use std::time::Duration;

use api::ApiError;
use base::Clock;
use base::http::{self as body, Body};
use bytes::Bytes;
use client::streaming::channel::{self, Ending, Event, Protocol};
use client::streaming::command::{Exit, PROTOCOL_HEADER, SPDY_COMMAND, STREAM_TYPE};
use client::streaming::mux::{Limits, MuxError, Role, Session, Stream, StreamReader, StreamWriter};
use client::streaming::websocket::{self, PING_INTERVAL, Socket};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use super::backend::{self, Io};
use super::route::{Action, Query, Streams};
use super::{Refusal, Streaming, Target};

/// The largest account of how a command ended.
const MAX_STATUS_BYTES: usize = 64 * 1024;
/// How long a client may take to take leave.
const FAREWELL: Duration = Duration::from_secs(5);

impl Streaming {
    /// `/exec` and `/attach`.
    pub(super) async fn command(
        &self,
        target: &Target,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, Refusal> {
        let query = Query::parse(request.uri().query());
        let streams = Streams::parse(&query).map_err(Refusal::bad)?;
        let id = self.running(target).await?;
        let protocol = websocket_protocol(&request, channel::COMMAND)?;
        let spdy = websocket::wants_upgrade(request.headers(), "SPDY/3.1");
        if protocol.is_none() && !spdy {
            return Err(Refusal::bad("Upgrade request required"));
        }
        let url = match target.action {
            Action::Attach => self.node.attach(&id, streams).await?,
            _ => self.node.exec(&id, query.all("command").map(str::to_owned).collect(), streams).await?,
        };
        let Some(protocol) = protocol else {
            let versions: Vec<HeaderValue> =
                request.headers().get_all(PROTOCOL_HEADER).into_iter().cloned().collect();
            let backend = backend::dial(&url, request.method(), &versions, &self.clock, &self.tasks).await?;
            let client = hyper::upgrade::on(&mut request);
            return Ok(backend::connect(backend, client, &self.clock, &self.tasks));
        };
        let answer = websocket::accept(request.headers(), protocol.name)
            .map_err(|error| Refusal::bad(error.to_string()))?;
        let versions = [HeaderValue::from_static(SPDY_COMMAND)];
        let backend = backend::dial(&url, &Method::POST, &versions, &self.clock, &self.tasks).await?;
        let session = Session::start(backend.io, Role::Client, Limits::default(), &self.clock, &self.tasks);
        let runtime = Runtime::open(&session, streams).await.map_err(Refusal::broken)?;
        let client = hyper::upgrade::on(&mut request);
        let clock = self.clock.clone();
        self.tasks.spawn("command bridge", async move {
            let _session = session;
            if let Some(io) = backend::upgraded(client, &clock).await {
                bridge(io, protocol, streams, runtime, &clock).await;
            }
        });
        Ok(answer)
    }

    /// `/run`: the command's output is the answer.
    pub(super) async fn run(&self, target: &Target, query: Option<&str>) -> Result<Response<Body>, Refusal> {
        let query = Query::parse(query);
        let command = query.get("cmd").unwrap_or_default().split(' ').map(str::to_owned).collect::<Vec<_>>();
        let id = self.running(target).await?;
        let text = command.join(" ");
        let output = self.node.run(&id, command).await.map_err(Refusal::broken)?;
        if output.exit_code != 0 {
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(Refusal::broken(format!(
                "command '{text}' exited with {}: {stderr}",
                output.exit_code
            )));
        }
        let mut response = Response::new(body::full([output.stdout, output.stderr].concat()));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(response)
    }

    /// The id of the target's running container.
    async fn running(&self, target: &Target) -> Result<String, Refusal> {
        let found = self.find(target)?;
        let uid = found.pod.metadata.uid.as_deref().unwrap_or_default();
        let id = self.node.running(uid, &target.container).await?;
        id.ok_or_else(|| Refusal::broken(format!("container not found ({:?})", target.container)))
    }
}

/// The subprotocol of a WebSocket request; `None` when it is not one.
pub(super) fn websocket_protocol(
    request: &Request<Body>,
    known: &[Protocol],
) -> Result<Option<Protocol>, Refusal> {
    if !websocket::wants_upgrade(request.headers(), "websocket") {
        return Ok(None);
    }
    let offers = websocket::offers(request.headers());
    match channel::negotiate(&offers, known) {
        Some(protocol) => Ok(Some(protocol)),
        None => {
            let known: Vec<&str> = known.iter().map(|protocol| protocol.name).collect();
            let (offered, known) = (offers.join(" "), known.join(" "));
            let error = websocket::HandshakeError::Protocol { offered, known };
            Err(Refusal::new(StatusCode::FORBIDDEN, error.to_string()))
        }
    }
}

/// A command's streams at the runtime.
struct Runtime {
    error: StreamReader,
    stdin: Option<StreamWriter>,
    stdout: Option<StreamReader>,
    stderr: Option<StreamReader>,
    resize: Option<StreamWriter>,
    /// Halves that carry nothing, held so that the streams are not reset.
    _idle: (Vec<StreamWriter>, Vec<StreamReader>),
}

impl Runtime {
    /// Opens them in the order that kubectl does. The runtime waits for exactly these.
    async fn open(session: &Session, streams: Streams) -> Result<Runtime, MuxError> {
        let open = async |kind: &str| session.open(vec![(STREAM_TYPE.to_owned(), kind.to_owned())]).await;
        let (mut writers, mut readers) = (Vec::new(), Vec::new());
        let mut output = |stream: Stream| {
            writers.push(stream.writer);
            stream.reader
        };
        let mut input = |stream: Stream| {
            readers.push(stream.reader);
            stream.writer
        };
        let error = output(open("error").await?);
        let stdin = if streams.stdin { Some(input(open("stdin").await?)) } else { None };
        let stdout = if streams.stdout { Some(output(open("stdout").await?)) } else { None };
        let stderr = if streams.stderr { Some(output(open("stderr").await?)) } else { None };
        let resize = if streams.tty { Some(input(open("resize").await?)) } else { None };
        Ok(Runtime { error, stdin, stdout, stderr, resize, _idle: (writers, readers) })
    }
}

/// Carries a command between a WebSocket client and the runtime until either is done.
async fn bridge(io: Io, protocol: Protocol, streams: Streams, mut runtime: Runtime, clock: &Clock) {
    let (mut sink, mut source) = websocket::server(io).await.split();
    // An empty message tells the client that the connection stands.
    let first = if streams.stdout {
        channel::STDOUT
    } else if streams.stderr {
        channel::STDERR
    } else {
        channel::ERROR
    };
    if send(&mut sink, protocol, first, &[]).await.is_err() {
        return;
    }
    let (stdin, resize) = (runtime.stdin.take(), runtime.resize.take());
    let ending = tokio::select! {
        // The client is gone. The command goes on, as upstream's does.
        () = inward(&mut source, protocol, stdin.as_ref(), resize.as_ref()) => return,
        ending = outward(&mut sink, protocol, &mut runtime, clock) => ending,
    };
    let Ok(ending) = ending else { return };
    let farewell = async {
        if let Some(bytes) = ending_message(protocol, &ending) {
            send(&mut sink, protocol, channel::ERROR, &bytes).await?;
        }
        sink.send(websocket::goodbye()).await?;
        // Closing before the client has read everything could lose the end.
        while let Some(Ok(_)) = source.next().await {}
        Ok::<(), WsError>(())
    };
    clock.timeout(FAREWELL, farewell).await;
}

/// What is said on the error channel, if anything.
fn ending_message(protocol: Protocol, ending: &[u8]) -> Option<Vec<u8>> {
    let exit = if ending.is_empty() {
        Exit::Error(ApiError::internal("the connection to the container runtime was lost"))
    } else if protocol.ending == Ending::Status {
        return Some(ending.to_vec());
    } else {
        Exit::parse(ending)
    };
    match protocol.ending {
        Ending::Status => Some(exit.to_status().to_string().into_bytes()),
        Ending::Text => exit.to_text().map(String::into_bytes),
    }
}

async fn send(
    sink: &mut SplitSink<Socket, Message>,
    protocol: Protocol,
    channel: u8,
    bytes: &[u8],
) -> Result<(), WsError> {
    sink.send(websocket::message(protocol.encode(channel, bytes), protocol.base64)).await
}

/// From the client, until it closes or breaks the protocol.
async fn inward(
    source: &mut SplitStream<Socket>,
    protocol: Protocol,
    stdin: Option<&StreamWriter>,
    resize: Option<&StreamWriter>,
) {
    while let Some(Ok(message)) = source.next().await {
        let Some(bytes) = websocket::content(message) else { continue };
        let writer = |channel| match channel {
            channel::STDIN => stdin,
            channel::RESIZE => resize,
            _ => None,
        };
        // A stream that the runtime has closed takes no more; the command may still write.
        match protocol.decode(&bytes) {
            Ok(Some(Event::Data { channel, bytes })) => {
                if let Some(writer) = writer(channel) {
                    let _ = writer.send(bytes).await;
                }
            }
            Ok(Some(Event::Close { channel })) => {
                if let Some(writer) = writer(channel) {
                    let _ = writer.finish().await;
                }
            }
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(%error, "client broke the channel protocol");
                return;
            }
        }
    }
}

/// From the runtime, until it says how the command ended: what it says is returned.
async fn outward(
    sink: &mut SplitSink<Socket, Message>,
    protocol: Protocol,
    runtime: &mut Runtime,
    clock: &Clock,
) -> Result<Vec<u8>, WsError> {
    let mut ending = Vec::new();
    loop {
        // In this order: output comes before the end, and both may be waiting.
        let (channel, piece) = tokio::select! {
            biased;
            piece = next(&mut runtime.stdout) => (channel::STDOUT, piece),
            piece = next(&mut runtime.stderr) => (channel::STDERR, piece),
            piece = runtime.error.recv() => (channel::ERROR, piece),
            () = clock.sleep(PING_INTERVAL) => {
                sink.send(Message::Ping(Bytes::new())).await?;
                continue;
            }
        };
        match (channel, piece) {
            (channel::ERROR, None) => return Ok(ending),
            (channel::ERROR, Some(bytes)) => {
                if ending.len() + bytes.len() <= MAX_STATUS_BYTES {
                    ending.extend_from_slice(&bytes);
                }
            }
            (channel::STDOUT, None) => runtime.stdout = None,
            (_, None) => runtime.stderr = None,
            (channel, Some(bytes)) => send(sink, protocol, channel, &bytes).await?,
        }
    }
}

/// The next piece of a stream that is there; waits forever without one.
async fn next(reader: &mut Option<StreamReader>) -> Option<Bytes> {
    match reader {
        Some(reader) => reader.recv().await,
        None => std::future::pending().await,
    }
}
