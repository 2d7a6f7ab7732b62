//! Streaming from end to end in one process: a client over real sockets, the handlers, and a runtime's streaming
//! server that speaks SPDY as containerd's does.

use std::path::{Path, PathBuf};

use api::k8s::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStatus, Pod, PodSpec, PodStatus,
};
use bytes::Bytes;
use client::streaming::channel::{self, Event};
use client::streaming::mux::{Limits, Role, Session, Stream};
use client::streaming::{Exit, PortForward, command, spdy, websocket};
use futures::future::BoxFuture;
use futures::{SinkExt, StreamExt};
use http::header::{CONNECTION, HeaderName, UPGRADE};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use runtime::CriError;
use runtime::cri::messages as m;
use tokio::net::{TcpListener, TcpStream};

use super::route::Streams;
use super::*;

/// A node with one pod, whose runtime echoes.
struct Fake {
    url: String,
    root: PathBuf,
}

fn ready<T: Send + 'static>(value: T) -> BoxFuture<'static, Result<T, CriError>> {
    Box::pin(async move { Ok(value) })
}

impl Node for Fake {
    fn pod(&self, namespace: &str, name: &str) -> Option<Found> {
        let container = Container { name: "c".into(), ..Container::default() };
        let state = ContainerState { running: Some(ContainerStateRunning::default()), ..Default::default() };
        let id = Some("containerd://id".into());
        let status =
            ContainerStatus { name: "c".into(), container_id: id, state: Some(state), ..Default::default() };
        let spec = PodSpec { containers: vec![container], ..PodSpec::default() };
        let status = PodStatus { container_statuses: Some(vec![status]), ..PodStatus::default() };
        let pod = Arc::new(Pod { spec: Some(spec), ..Pod::default() });
        ((namespace, name) == ("n", "p")).then(|| Found { pod, status: Arc::new(status) })
    }
    fn running(&self, _: &str, container: &str) -> BoxFuture<'_, Result<Option<String>, CriError>> {
        ready((container == "c").then(|| "id".to_owned()))
    }
    fn sandbox(&self, _: &str) -> BoxFuture<'_, Result<Option<String>, CriError>> {
        ready(Some("sandbox".to_owned()))
    }
    fn exec(&self, _: &str, _: Vec<String>, _: Streams) -> BoxFuture<'_, Result<String, CriError>> {
        ready(self.url.clone())
    }
    fn attach(&self, _: &str, _: Streams) -> BoxFuture<'_, Result<String, CriError>> {
        ready(self.url.clone())
    }
    fn port_forward(&self, _: &str, _: &[u16]) -> BoxFuture<'_, Result<String, CriError>> {
        ready(self.url.clone())
    }
    fn run(&self, _: &str, command: Vec<String>) -> BoxFuture<'_, Result<m::ExecSyncResponse, CriError>> {
        ready(m::ExecSyncResponse { stdout: command.join("|").into_bytes(), ..Default::default() })
    }
    fn container(&self, _: &str) -> BoxFuture<'_, Result<Option<(String, bool)>, CriError>> {
        ready(Some((
            self.root.join("0.log").to_string_lossy().into_owned(),
            !self.root.join("over").exists(),
        )))
    }
    fn log_root(&self) -> &Path {
        &self.root
    }
}

/// Serves HTTP on loopback; the address.
async fn listen<F, R>(tasks: &Tasks, handler: F) -> String
where
    F: Fn(Request<hyper::body::Incoming>) -> R + Clone + Send + 'static,
    R: Future<Output = Response<Body>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
    let address = listener.local_addr().expect("bound").to_string();
    let inner = tasks.clone();
    tasks.spawn("listen", async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let handler = handler.clone();
            let service = service_fn(move |request| {
                let answer = handler(request);
                async move { Ok::<_, std::convert::Infallible>(answer.await) }
            });
            inner.spawn("serve", async move {
                let http = hyper::server::conn::http1::Builder::new();
                let _ = http.serve_connection(TokioIo::new(tcp), service).with_upgrades().await;
            });
        }
    });
    address
}

/// Echoes standard input to standard output and ends with code 3; for ports, echoes data.
async fn runtime(mut session: Session) {
    let mut held = std::collections::BTreeMap::<String, Stream>::new();
    while let Some(mut stream) = session.accept().await {
        let kind = spdy::header(&stream.headers, command::STREAM_TYPE).unwrap_or_default().to_owned();
        if kind == "data" {
            while let Some(piece) = stream.reader.recv().await {
                stream.writer.send(piece).await.expect("sends");
            }
            let _ = stream.writer.finish().await;
            let _ = held.remove("error").expect("comes first").writer.finish().await;
            continue;
        }
        held.insert(kind, stream);
        if held.len() == 3 && held.contains_key("stdout") {
            let mut stdin = held.remove("stdin").expect("asked for");
            while let Some(piece) = stdin.reader.recv().await {
                held["stdout"].writer.send(piece).await.expect("sends");
            }
            let _ = held["stdout"].writer.finish().await;
            let status = Exit::Code(3).to_status().to_string();
            held["error"].writer.send(status.into()).await.expect("sends");
            let _ = held["error"].writer.finish().await;
        }
    }
}

struct World {
    address: String,
    tasks: Tasks,
    clock: Clock,
    dir: tempfile::TempDir,
}

async fn world() -> World {
    let (clock, tasks) = (Clock::system(), Tasks::new());
    let (tasks2, clock2) = (tasks.clone(), clock.clone());
    let backend = listen(&tasks, move |mut request| {
        let (tasks, clock) = (tasks2.clone(), clock2.clone());
        async move {
            let client = hyper::upgrade::on(&mut request);
            let inner = tasks.clone();
            tasks.spawn("runtime", async move {
                let io = TokioIo::new(client.await.expect("upgrades"));
                runtime(Session::start(io, Role::Server, Limits::default(), &clock, &inner)).await;
            });
            let mut response = Response::new(base::http::empty());
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert(CONNECTION, "Upgrade".parse().expect("a value"));
            response.headers_mut().insert(UPGRADE, "SPDY/3.1".parse().expect("a value"));
            response
        }
    })
    .await;
    let dir = tempfile::tempdir().expect("a directory");
    let node = Fake { url: format!("http://{backend}/exec/token"), root: dir.path().to_owned() };
    let streaming = Streaming::new(Arc::new(node), clock.clone(), tasks.clone());
    let address = listen(&tasks, move |request| {
        let streaming = streaming.clone();
        async move { streaming.serve(request.map(base::http::wrap)).await }
    })
    .await;
    World { address, tasks, clock, dir }
}

impl World {
    async fn send(&self, mut request: Request<Body>) -> Response<hyper::body::Incoming> {
        request.headers_mut().insert("host", "node".parse().expect("a value"));
        let tcp = TcpStream::connect(&self.address).await.expect("connects");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await.expect("shakes");
        self.tasks.spawn("client", async move {
            let _ = connection.with_upgrades().await;
        });
        sender.send_request(request).await.expect("answers")
    }

    async fn websocket(&self, path: &str, protocols: &[&str]) -> websocket::Socket {
        let (request, key) = websocket::request(path, protocols, &base::Rng::seeded(1)).expect("made");
        let response = self.send(request).await;
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(websocket::accepted(&response, &key).expect("fits"), protocols[0]);
        websocket::client(TokioIo::new(hyper::upgrade::on(response).await.expect("upgrades"))).await
    }

    async fn spdy(&self, path: &str) -> Session {
        let mut request = Request::post(path).body(base::http::empty()).expect("made");
        request.headers_mut().insert(CONNECTION, "Upgrade".parse().expect("a value"));
        request.headers_mut().insert(UPGRADE, "SPDY/3.1".parse().expect("a value"));
        let name = HeaderName::from_static("x-stream-protocol-version");
        request.headers_mut().insert(name, "v4.channel.k8s.io".parse().expect("a value"));
        let response = self.send(request).await;
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        let io = TokioIo::new(hyper::upgrade::on(response).await.expect("upgrades"));
        Session::start(io, Role::Client, Limits::default(), &self.clock, &self.tasks)
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let response = self.send(Request::get(path).body(base::http::empty()).expect("made")).await;
        let code = response.status().as_u16();
        let bytes = base::http::read(base::http::wrap(response.into_body()), 1 << 20).await.expect("reads");
        (code, String::from_utf8_lossy(&bytes).into_owned())
    }
}

#[tokio::test]
async fn a_command_over_websocket_v5() {
    let world = world().await;
    let mut socket =
        world.websocket("/exec/n/p/c?input=1&output=1&command=cat", &["v5.channel.k8s.io"]).await;
    let protocol = channel::COMMAND[0];
    let send = |content: Vec<u8>| websocket::message(content, false);
    socket.send(send(protocol.encode(channel::STDIN, b"hello"))).await.expect("sends");
    socket.send(send(protocol.encode_close(channel::STDIN))).await.expect("sends");
    let (mut output, mut ending) = (Vec::new(), Vec::new());
    while let Some(Ok(message)) = socket.next().await {
        let Some(bytes) = websocket::content(message) else { continue };
        match protocol.decode(&bytes).expect("decodes") {
            Some(Event::Data { channel: channel::STDOUT, bytes }) => output.extend_from_slice(&bytes),
            Some(Event::Data { channel: channel::ERROR, bytes }) => ending.extend_from_slice(&bytes),
            other => panic!("unexpected {other:?}"),
        }
    }
    assert_eq!((output.as_slice(), Exit::parse(&ending)), (&b"hello"[..], Exit::Code(3)));
}

#[tokio::test]
async fn a_command_over_spdy() {
    let world = world().await;
    let session = world.spdy("/exec/n/p/c?input=1&output=1&command=cat").await;
    let open = async |kind: &str| {
        session.open(vec![(command::STREAM_TYPE.to_owned(), kind.to_owned())]).await.expect("opens")
    };
    let mut error = open("error").await;
    let (stdin, mut stdout) = (open("stdin").await, open("stdout").await);
    stdin.writer.send("hi".into()).await.expect("sends");
    stdin.writer.finish().await.expect("sends");
    assert_eq!(stdout.reader.recv().await, Some(Bytes::from_static(b"hi")));
    let ending = error.reader.recv().await.expect("an ending");
    assert_eq!(Exit::parse(&ending), Exit::Code(3));
}

#[tokio::test]
async fn ports_tunnelled_and_in_channels() {
    let world = world().await;
    let socket = world.websocket("/portForward/n/p", &["SPDY/3.1+portforward.k8s.io"]).await;
    let io = websocket::byte_stream(socket, &world.clock, &world.tasks);
    let session = Session::start(io, Role::Client, Limits::default(), &world.clock, &world.tasks);
    let forward = PortForward::over(session);
    for _ in 0..2 {
        let mut streams = forward.connect(80).await.expect("connects");
        streams.data.writer.send("ping".into()).await.expect("sends");
        streams.data.writer.finish().await.expect("sends");
        assert_eq!(streams.data.reader.recv().await, Some(Bytes::from_static(b"ping")));
        assert_eq!(streams.error.reader.recv().await, None);
    }
    let mut socket = world.websocket("/portForward/n/p?port=80", &["v4.channel.k8s.io"]).await;
    socket.send(websocket::message(b"\x00pong".to_vec(), false)).await.expect("sends");
    let mut got = Vec::new();
    while got.len() < 3 {
        got.extend(websocket::content(socket.next().await.expect("open").expect("reads")));
    }
    assert_eq!(got, [&b"\x00\x50\x00"[..], b"\x01\x50\x00", b"\x00pong"]);
}

#[tokio::test]
async fn logs_are_followed_over_rotation_to_the_end() {
    let world = world().await;
    let log = world.dir.path().join("0.log");
    let line = |text: &str| format!("2026-01-01T00:00:00Z stdout F {text}\n");
    std::fs::write(&log, [line("one"), line("two")].concat()).expect("written");
    let (code, text) = world.get("/containerLogs/n/p/c?tailLines=1").await;
    assert_eq!((code, text.as_str()), (200, "two\n"));
    let change = async {
        world.clock.sleep(std::time::Duration::from_millis(100)).await;
        std::fs::write(&log, [line("one"), line("two"), line("three")].concat()).expect("written");
        std::fs::rename(&log, world.dir.path().join("0.log.old")).expect("moved");
        std::fs::write(&log, line("four")).expect("written");
        world.clock.sleep(std::time::Duration::from_millis(100)).await;
        std::fs::write(world.dir.path().join("over"), "").expect("written");
    };
    let (followed, ()) = tokio::join!(world.get("/containerLogs/n/p/c?follow=true"), change);
    assert_eq!(followed.1, "one\ntwo\nthree\nfour\n");
    std::fs::remove_file(&log).expect("removed");
    std::os::unix::fs::symlink("/etc/passwd", &log).expect("linked");
    assert!(world.get("/containerLogs/n/p/c").await.1.starts_with("failed to open log file"));
}

#[tokio::test]
async fn refusals() {
    let world = world().await;
    for (path, code, text) in [
        ("/exec/n/p/c?input=1", 400, "Upgrade request required"),
        ("/exec/n/p/c", 400, "you must specify at least 1 of stdin, stdout, stderr"),
        ("/exec/n/x/c?input=1", 404, "pod does not exist"),
        ("/exec/n/p/x?input=1", 500, "container not found (\"x\")"),
        ("/containerLogs/n/p/x", 404, "container \"x\" not found in pod \"p\""),
        ("/containerLogs/n/x/c", 404, "pod \"x\" does not exist"),
        ("/run/n/p/c", 405, "405: Method Not Allowed"),
    ] {
        assert_eq!(world.get(path).await, (code, text.to_owned()), "{path}");
    }
}
