//! The client's side of commands and port-forwards, over WebSocket as today's kubectl speaks it: `v5.channel.k8s.io`
//! and SPDY tunnelled in `SPDY/3.1+portforward.k8s.io`.
//!
//! Must not know terminals or local ports: the caller pumps bytes.

use std::time::Duration;

use base::{Clock, Rng, Tasks};
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use http::StatusCode;
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use super::channel::{self, Event, Protocol};
use super::command::{Exit, STREAM_TYPE, TerminalSize};
use super::mux::{Limits, Role, Session, Stream};
use super::websocket::{self, PING_INTERVAL, Socket};
use crate::{Client, ClientError};
use api::error::{ApiError, Reason};

/// Pieces of output or input waiting.
const QUEUE: usize = 16;
/// A refusal's body.
const MAX_STATUS_BYTES: usize = 64 * 1024;
/// How long the server may take from its answer to the open connection.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(30);

/// What a stream runs on.
#[derive(Clone)]
pub struct Context {
    /// The API server.
    pub client: Client,
    /// Time.
    pub clock: Clock,
    /// Randomness, for the handshake.
    pub rng: Rng,
    /// Background work.
    pub tasks: Tasks,
}

/// A command to run in a container, or the container to attach to.
#[derive(Clone, Debug, Default)]
pub struct CommandOptions {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// The container; empty = the server chooses.
    pub container: String,
    /// The command; unused by attach.
    pub command: Vec<String>,
    /// Send standard input.
    pub stdin: bool,
    /// Receive standard output.
    pub stdout: bool,
    /// Receive standard error; it is part of standard output with a terminal.
    pub stderr: bool,
    /// With a terminal.
    pub tty: bool,
}

impl CommandOptions {
    fn path(&self, verb: &str) -> String {
        let mut path = format!("/api/v1/namespaces/{}/pods/{}/{verb}?", self.namespace, self.pod);
        let mut query = form::Query::new(&mut path);
        for word in &self.command {
            query.add("command", word);
        }
        if !self.container.is_empty() {
            query.add("container", &self.container);
        }
        for (name, wanted) in
            [("stdin", self.stdin), ("stdout", self.stdout), ("stderr", self.stderr), ("tty", self.tty)]
        {
            if wanted {
                query.add(name, "true");
            }
        }
        path
    }
}

/// Percent-encoding of query strings.
mod form {
    pub(super) struct Query<'a> {
        out: &'a mut String,
        first: bool,
    }

    impl<'a> Query<'a> {
        pub(super) fn new(out: &'a mut String) -> Self {
            Query { out, first: true }
        }

        pub(super) fn add(&mut self, name: &str, value: &str) {
            if !std::mem::take(&mut self.first) {
                self.out.push('&');
            }
            self.out.push_str(name);
            self.out.push('=');
            for byte in value.bytes() {
                match byte {
                    b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                        self.out.push(char::from(byte));
                    }
                    _ => {
                        const HEX: &[u8; 16] = b"0123456789ABCDEF";
                        self.out.push('%');
                        self.out.push(char::from(HEX[usize::from(byte >> 4)]));
                        self.out.push(char::from(HEX[usize::from(byte & 15)]));
                    }
                }
            }
        }
    }
}

/// What comes from a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Standard output, and with a terminal everything.
    Stdout(Bytes),
    /// Standard error.
    Stderr(Bytes),
    /// It ended; the last of all.
    Exit(Exit),
}

/// What goes to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Standard input.
    Stdin(Bytes),
    /// Standard input ends.
    Eof,
    /// The terminal's size changed.
    Resize(TerminalSize),
}

/// A running command. Dropping both ends closes the connection.
pub struct Command {
    /// To it.
    pub input: mpsc::Sender<Input>,
    /// From it; the last item is [`Output::Exit`].
    pub output: mpsc::Receiver<Output>,
}

/// Runs a command in a container (`kubectl exec`).
pub async fn exec(context: &Context, options: &CommandOptions) -> Result<Command, ClientError> {
    command(context, &options.path("exec")).await
}

/// Attaches to a container's main process (`kubectl attach`).
pub async fn attach(context: &Context, options: &CommandOptions) -> Result<Command, ClientError> {
    let options = CommandOptions { command: Vec::new(), ..options.clone() };
    command(context, &options.path("attach")).await
}

async fn command(context: &Context, path: &str) -> Result<Command, ClientError> {
    let names: Vec<&str> = channel::COMMAND[..2].iter().map(|protocol| protocol.name).collect();
    let (socket, chosen) = dial(context, path, &names).await?;
    let protocol = channel::negotiate(&[chosen], channel::COMMAND).unwrap_or(channel::COMMAND[1]);
    let (input, input_queue) = mpsc::channel(QUEUE);
    let (output_queue, output) = mpsc::channel(QUEUE);
    let clock = context.clock.clone();
    context.tasks.spawn("remote command", run(socket, protocol, input_queue, output_queue, clock));
    Ok(Command { input, output })
}

/// Opens a WebSocket to the API server; the second value is the chosen subprotocol.
async fn dial(context: &Context, path: &str, protocols: &[&str]) -> Result<(Socket, String), ClientError> {
    let fail =
        |error: base::BoxError| ClientError::Transport { what: format!("streaming {path}"), source: error };
    let (request, key) =
        websocket::request(path, protocols, &context.rng).map_err(|error| fail(error.into()))?;
    let response = context.client.raw(request).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(refusal(response).await.into());
    }
    let chosen = websocket::accepted(&response, &key).map_err(|error| fail(error.into()))?;
    let upgraded = context.clock.timeout(UPGRADE_TIMEOUT, hyper::upgrade::on(response)).await;
    let upgraded = upgraded.ok_or_else(|| fail("the server did not go on".into()))?;
    let io = TokioIo::new(upgraded.map_err(|error| fail(error.into()))?);
    Ok((websocket::client(io).await, chosen))
}

/// The error in an answer that is not an upgrade; kubelets answer with text.
async fn refusal(response: http::Response<base::http::Body>) -> ApiError {
    let code = response.status().as_u16();
    let body = base::http::read(response.into_body(), MAX_STATUS_BYTES).await.unwrap_or_default();
    match serde_json::from_slice(&body) {
        Ok(status) => ApiError::from_status(code, &status),
        Err(_) => {
            let text = String::from_utf8_lossy(&body);
            let mut error =
                ApiError::new(Reason::Unknown, format!("unable to upgrade connection: {}", text.trim()));
            error.code = code;
            error
        }
    }
}

/// Pumps a command's socket until it closes. What comes is read also while what goes waits: a command that ended
/// reads no more input.
async fn run(
    socket: Socket,
    protocol: Protocol,
    input: mpsc::Receiver<Input>,
    output: mpsc::Sender<Output>,
    clock: Clock,
) {
    let (sink, source) = socket.split();
    let exit = tokio::select! {
        exit = read_output(source, protocol, &output) => exit,
        () = write_input(sink, protocol, input, &clock) => None,
        () = output.closed() => None,
    };
    if let Some(exit) = exit {
        let _ = output.send(Output::Exit(exit)).await;
    }
}

/// Hands on what comes until the socket closes; `None` when nobody takes it.
async fn read_output(
    mut source: SplitStream<Socket>,
    protocol: Protocol,
    output: &mpsc::Sender<Output>,
) -> Option<Exit> {
    let (mut ending, mut ended) = (Vec::new(), false);
    while let Some(Ok(message)) = source.next().await {
        let Some(bytes) = websocket::content(message) else { continue };
        let Ok(Some(Event::Data { channel, bytes })) = protocol.decode(&bytes) else { continue };
        let item = match channel {
            channel::STDOUT => Output::Stdout(bytes),
            channel::STDERR => Output::Stderr(bytes),
            channel::ERROR => {
                ended |= !bytes.is_empty();
                if ending.len() < MAX_STATUS_BYTES {
                    ending.extend_from_slice(&bytes);
                }
                continue;
            }
            _ => continue,
        };
        let empty = matches!(&item, Output::Stdout(bytes) | Output::Stderr(bytes) if bytes.is_empty());
        if !empty {
            output.send(item).await.ok()?;
        }
    }
    Some(if ended {
        Exit::parse(&ending)
    } else {
        Exit::Error(ApiError::new(Reason::Unknown, "the connection was lost before the command ended"))
    })
}

/// Sends input and keeps the connection alive. Never returns: the reading side tells when all is over.
async fn write_input(
    mut sink: SplitSink<Socket, Message>,
    protocol: Protocol,
    mut input: mpsc::Receiver<Input>,
    clock: &Clock,
) {
    let mut open = true;
    loop {
        let sent = tokio::select! {
            item = input.recv(), if open => match item {
                Some(item) => send_input(&mut sink, protocol, item).await,
                None => { open = false; Ok(()) }
            },
            () = clock.sleep(PING_INTERVAL) => sink.send(Message::Ping(Bytes::new())).await,
        };
        if sent.is_err() {
            return std::future::pending().await;
        }
    }
}

async fn send_input(
    sink: &mut SplitSink<Socket, Message>,
    protocol: Protocol,
    item: Input,
) -> Result<(), tokio_tungstenite::tungstenite::Error> {
    let content = match item {
        Input::Stdin(bytes) => protocol.encode(channel::STDIN, &bytes),
        Input::Eof if protocol.closes => protocol.encode_close(channel::STDIN),
        // Before v5 the end of the input cannot be said.
        Input::Eof => return Ok(()),
        Input::Resize(size) => {
            let text = serde_json::to_vec(&size).expect("two numbers serialize");
            protocol.encode(channel::RESIZE, &text)
        }
    };
    sink.send(websocket::message(content, protocol.base64)).await
}

/// A connection to a pod over which many connections to its ports are carried.
pub struct PortForward {
    session: Session,
    next: std::sync::atomic::AtomicU64,
}

/// A connection to a port in a pod.
pub struct Forwarded {
    /// The bytes, both ways.
    pub data: Stream,
    /// What went wrong, as text; ends without data when nothing did.
    pub error: Stream,
}

/// Opens a port-forward to a pod (`kubectl port-forward`).
pub async fn port_forward(context: &Context, namespace: &str, pod: &str) -> Result<PortForward, ClientError> {
    let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}/portforward");
    let (socket, _) = dial(context, &path, &[channel::TUNNEL[0].name]).await?;
    let io = websocket::byte_stream(socket, &context.clock, &context.tasks);
    let session = Session::start(io, Role::Client, Limits::default(), &context.clock, &context.tasks);
    Ok(PortForward { session, next: std::sync::atomic::AtomicU64::new(0) })
}

impl PortForward {
    /// Over a session that is already there.
    pub fn over(session: Session) -> Self {
        PortForward { session, next: std::sync::atomic::AtomicU64::new(0) }
    }

    /// Connects to a port in the pod. Whether anybody listens there shows on the streams.
    pub async fn connect(&self, port: u16) -> Result<Forwarded, ClientError> {
        let number = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed).to_string();
        let headers = |kind: &str| {
            [(STREAM_TYPE, kind), ("port", &port.to_string()), ("requestid", &number)]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec()
        };
        let fail = |error| ClientError::transport(format!("connecting to port {port} of the pod"), error);
        // The error stream first: older servers pair streams by that.
        let error = self.session.open(headers("error")).await.map_err(fail)?;
        error.writer.finish().await.map_err(fail)?;
        let data = self.session.open(headers("data")).await.map_err(fail)?;
        Ok(Forwarded { data, error })
    }

    /// Waits until the connection to the pod ended.
    pub async fn closed(&self) {
        self.session.closed().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let options = CommandOptions {
            namespace: "n".into(),
            pod: "p".into(),
            command: vec!["sh".into(), "-c".into(), "echo a&b=ü".into()],
            stdin: true,
            ..CommandOptions::default()
        };
        let expect =
            "/api/v1/namespaces/n/pods/p/exec?command=sh&command=-c&command=echo%20a%26b%3D%C3%BC&stdin=true";
        assert_eq!(options.path("exec"), expect);
    }
}
