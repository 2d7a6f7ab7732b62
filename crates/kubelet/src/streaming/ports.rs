//! Port-forwards: SPDY clients and SPDY tunnelled in WebSocket messages are passed through; the old WebSocket
//! protocol, a pair of channels for each port, is bridged.
//!
//! Must not know how the runtime reaches a port inside a pod.

use std::time::Duration;

use base::Clock;
use base::http::Body;
use bytes::Bytes;
use client::streaming::PortForward;
use client::streaming::channel::{self, Event, Protocol};
use client::streaming::command::{PROTOCOL_HEADER, SPDY_PORTS};
use client::streaming::mux::{Limits, Role, Session, StreamReader, StreamWriter};
use client::streaming::websocket::{self, PING_INTERVAL};
use futures::stream::FuturesUnordered;
use futures::{SinkExt, StreamExt};
use http::{HeaderValue, Method, Request, Response};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use super::backend::{self, Backend, Io};
use super::command::websocket_protocol;
use super::route::{self, Query};
use super::{Refusal, Streaming, Target};

/// Ports of one old-style request: their channels must fit a byte.
const MAX_PORTS: usize = 100;
/// Messages waiting for the client.
const QUEUE: usize = 16;
/// How long a client may take to take leave.
const FAREWELL: Duration = Duration::from_secs(5);

impl Streaming {
    /// `/portForward`.
    pub(super) async fn port_forward(
        &self,
        target: &Target,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, Refusal> {
        let query = Query::parse(request.uri().query());
        let websocket = websocket::wants_upgrade(request.headers(), "websocket");
        let tunnel =
            channel::negotiate(&websocket::offers(request.headers()), channel::TUNNEL).filter(|_| websocket);
        let ports = match websocket && tunnel.is_none() {
            true => route::ports(&query).map_err(Refusal::bad)?,
            false => Vec::new(),
        };
        if ports.len() > MAX_PORTS {
            return Err(Refusal::bad(format!(
                "at most {MAX_PORTS} ports may be forwarded over one connection"
            )));
        }
        if !websocket && !websocket::wants_upgrade(request.headers(), "SPDY/3.1") {
            return Err(Refusal::bad("Upgrade request required"));
        }
        let url = self.forward_url(target, &ports).await?;
        if !websocket {
            let versions: Vec<HeaderValue> =
                request.headers().get_all(PROTOCOL_HEADER).into_iter().cloned().collect();
            let backend = backend::dial(&url, request.method(), &versions, &self.clock, &self.tasks).await?;
            let client = hyper::upgrade::on(&mut request);
            return Ok(backend::connect(backend, client, &self.clock, &self.tasks));
        }
        let protocol = match tunnel {
            Some(tunnel) => tunnel,
            None => websocket_protocol(&request, channel::PORTS)?.expect("it is a websocket request"),
        };
        let answer = websocket::accept(request.headers(), protocol.name)
            .map_err(|error| Refusal::bad(error.to_string()))?;
        let versions = [HeaderValue::from_static(SPDY_PORTS)];
        let Backend { io: runtime, .. } =
            backend::dial(&url, &Method::POST, &versions, &self.clock, &self.tasks).await?;
        let client = hyper::upgrade::on(&mut request);
        let (clock, tasks) = (self.clock.clone(), self.tasks.clone());
        let uid = target.pod.clone();
        self.tasks.spawn("port-forward bridge", async move {
            let Some(io) = backend::upgraded(client, &clock).await else { return };
            if tunnel.is_some() {
                return websocket::tunnel(websocket::server(io).await, runtime, &clock).await;
            }
            let session = Session::start(runtime, Role::Client, Limits::default(), &clock, &tasks);
            tracing::debug!(pod = uid, ?ports, "forwarding ports over the old protocol");
            bridge(io, protocol, &ports, &PortForward::over(session), &clock).await;
        });
        Ok(answer)
    }

    async fn forward_url(&self, target: &Target, ports: &[u16]) -> Result<String, Refusal> {
        let found = self.find(target)?;
        let uid = found.pod.metadata.uid.as_deref().unwrap_or_default();
        let sandbox = self.node.sandbox(uid).await?;
        let name = format!("{}_{}", target.pod, target.namespace);
        let sandbox = sandbox.ok_or_else(|| Refusal::broken(format!("pod not found ({name:?})")))?;
        Ok(self.node.port_forward(&sandbox, ports).await?)
    }
}

/// Serves a pair of channels for each port: data on 2n, errors on 2n+1, each opened by its port number.
async fn bridge(io: Io, protocol: Protocol, ports: &[u16], forward: &PortForward, clock: &Clock) {
    let (mut sink, mut source) = websocket::server(io).await.split();
    let (queue, mut messages) = mpsc::channel::<Message>(QUEUE);
    let message = |channel: usize, bytes: &[u8]| {
        let channel = u8::try_from(channel).expect("the number of ports is bounded");
        websocket::message(protocol.encode(channel, bytes), protocol.base64)
    };
    let mut inputs: Vec<mpsc::Sender<Bytes>> = Vec::new();
    let mut pumps = FuturesUnordered::new();
    for (index, port) in ports.iter().enumerate() {
        let (input, inputs_of_port) = mpsc::channel(QUEUE);
        inputs.push(input);
        let queue = queue.clone();
        pumps.push(async move {
            let opened = async {
                queue.send(message(index * 2, &port.to_le_bytes())).await.ok()?;
                queue.send(message(index * 2 + 1, &port.to_le_bytes())).await.ok()?;
                Some(())
            };
            if opened.await.is_none() {
                return;
            }
            match forward.connect(*port).await {
                Ok(streams) => {
                    let data = (streams.data.writer, streams.data.reader);
                    pump(data, streams.error.reader, inputs_of_port, &queue, |is_error, bytes| {
                        message(index * 2 + usize::from(is_error), bytes)
                    })
                    .await;
                }
                Err(error) => {
                    let text = format!("error forwarding port {port}: {error}");
                    let _ = queue.send(message(index * 2 + 1, text.as_bytes())).await;
                }
            }
        });
    }
    drop(queue);
    let inward = async {
        while let Some(Ok(received)) = source.next().await {
            let Some(bytes) = websocket::content(received) else { continue };
            let Ok(Some(Event::Data { channel, bytes })) = protocol.decode(&bytes) else { continue };
            let input = inputs.get(usize::from(channel) / 2).filter(|_| channel % 2 == 0);
            if let Some(input) = input {
                let _ = input.send(bytes).await;
            }
        }
    };
    let outward = async {
        loop {
            let next = tokio::select! {
                message = messages.recv() => message,
                () = clock.sleep(PING_INTERVAL) => Some(Message::Ping(Bytes::new())),
            };
            let Some(next) = next else { break };
            if sink.send(next).await.is_err() {
                return;
            }
        }
        clock.timeout(FAREWELL, sink.send(websocket::goodbye())).await;
    };
    let pumped = async { while pumps.next().await.is_some() {} };
    tokio::select! {
        () = inward => {}
        ((), ()) = futures::future::join(pumped, outward) => {}
    }
}

/// Carries one port's connection until the pod closes it.
async fn pump(
    (writer, mut reader): (StreamWriter, StreamReader),
    mut error: StreamReader,
    mut input: mpsc::Receiver<Bytes>,
    queue: &mpsc::Sender<Message>,
    message: impl Fn(bool, &[u8]) -> Message,
) {
    let (mut reading, mut erring, mut writing) = (true, true, true);
    while reading || erring {
        tokio::select! {
            piece = reader.recv(), if reading => match piece {
                Some(bytes) => if queue.send(message(false, &bytes)).await.is_err() { return },
                None => reading = false,
            },
            piece = error.recv(), if erring => match piece {
                Some(bytes) => if queue.send(message(true, &bytes)).await.is_err() { return },
                None => erring = false,
            },
            bytes = input.recv(), if writing => match bytes {
                Some(bytes) => writing = writer.send(bytes).await.is_ok(),
                None => writing = false,
            },
        }
    }
}
