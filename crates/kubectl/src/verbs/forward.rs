//! `port-forward` and `proxy`: local sockets that lead into the cluster.

use std::convert::Infallible;
use std::sync::Arc;

use base::http::{self as body, Body};
use client::Transport;
use client::streaming::{Forwarded, PortForward, port_forward};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener};

use crate::app::{App, Sink};
use crate::commands::{Command, Group};
use crate::describe::{list, text};
use crate::flags::{Args, Flag, Takes, flag, short};
use crate::verbs::{pods, run};
use crate::{Error, request};

/// A piece of a connection's bytes.
const PIECE_BYTES: usize = 32 << 10;
/// An error that a pod tells about a port.
const MAX_ERROR_BYTES: usize = 4 << 10;

const FORWARD: &[Flag] = &[
    flag("address", Takes::List, "localhost", "Local addresses to listen on"),
    flag("pod-running-timeout", Takes::Time, "1m", "How long to wait for a pod"),
];
const PROXY: &[Flag] = &[
    flag(
        "accept-hosts",
        Takes::Text,
        "^localhost$,^127\\.0\\.0\\.1$,^\\[::1\\]$",
        "Accepted for compatibility: only local hosts",
    ),
    flag("accept-paths", Takes::Text, "^.*", "Accepted for compatibility"),
    flag("address", Takes::Text, "127.0.0.1", "The local address"),
    flag("api-prefix", Takes::Text, "/", "Where the API is served"),
    flag("append-server-path", Takes::Switch, "false", "Accepted for compatibility"),
    flag(
        "disable-filter",
        Takes::Switch,
        "false",
        "Let requests of foreign hosts and commands in pods through",
    ),
    flag("keepalive", Takes::Time, "0s", "Accepted for compatibility"),
    short("port", 'p', Takes::Number, "8001", "The local port; 0 = a free one"),
    flag("reject-methods", Takes::Text, "^$", "Accepted for compatibility"),
    flag("reject-paths", Takes::Text, "", "Accepted for compatibility: exec and attach are refused"),
    short("unix-socket", 'u', Takes::Text, "", "A socket file instead of a port"),
];

/// Rows of the table.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "port-forward",
        aliases: &[],
        group: Group::Troubleshooting,
        usage: "TYPE/NAME [options] [LOCAL_PORT:]REMOTE_PORT [...[LOCAL_PORT_N:]REMOTE_PORT_N]",
        about: "Forward one or more local ports to a pod",
        examples: "kubectl port-forward pod/mypod 5000 6000\nkubectl port-forward service/myservice 8443:https",
        flags: &[FORWARD],
        run: run!(forward),
    },
    Command {
        name: "proxy",
        aliases: &[],
        group: Group::Troubleshooting,
        usage: "[--port=PORT] [--api-prefix=/]",
        about: "Run a proxy to the Kubernetes API server",
        examples: "kubectl proxy --port=8011",
        flags: &[PROXY],
        run: run!(proxy),
    },
];

async fn forward(app: &App, args: &Args) -> Result<(), Error> {
    if args.words.len() < 2 {
        return Err(Error::misuse(
            "port-forward",
            "TYPE/NAME and list of ports are required for port-forward",
        ));
    }
    let (target, ports) = args.words.split_at(1);
    let service = service_of(app, &target[0]).await?;
    let pod = pods::one(app, target, args.time("pod-running-timeout")).await?;
    let phase = text(&pod.object, "/status/phase");
    if phase != "Running" {
        return Err(Error::state(format!(
            "unable to forward port because pod is not running. Current status={phase}"
        )));
    }
    let mut pairs = Vec::new();
    for port in ports {
        pairs.push(ports_of(port, service.as_ref(), &pod.object)?);
    }
    let session = Arc::new(port_forward(&app.streams()?, &pod.namespace, &pod.name).await?);
    let mut listening = 0;
    for (local, remote) in pairs {
        listening += listen(app, args, (local, remote), &session).await?;
    }
    if listening == 0 {
        return Err(Error::state("unable to listen on any of the requested ports"));
    }
    session.closed().await;
    Err(Error::state("lost connection to pod"))
}

/// The service that a word names, if it names one.
async fn service_of(app: &App, word: &str) -> Result<Option<Value>, Error> {
    let Some((kind, name)) = word.split_once('/') else { return Ok(None) };
    let row = app.kinds().await?.resource(kind)?;
    if row.resource.gvr.group_resource() != "services" {
        return Ok(None);
    }
    let got = request::get(app.client()?, &row.resource, &app.namespace()?, name, "").await?;
    Ok(Some(got))
}

/// The local and the pod's port of `8080:http`; names and service ports are looked up.
fn ports_of(spec: &str, service: Option<&Value>, pod: &Value) -> Result<(u16, u16), Error> {
    let (local, remote) = spec.split_once(':').unwrap_or((spec, spec));
    if remote.is_empty() {
        return Err(Error::usage("remote port cannot be empty"));
    }
    let number: Option<u16> = remote.parse().ok();
    let mut shown = number;
    let target = match service {
        None => number.or_else(|| container_port(pod, remote)),
        Some(service) => {
            let ports = list(service, "/spec/ports");
            let found = ports.iter().find(|port| match number {
                Some(number) => port["port"] == number,
                None => port["name"] == remote,
            });
            let missing = || {
                let name = text(service, "/metadata/name");
                Error::usage(format!("Service {name} does not have a service port {remote}"))
            };
            let found = found.ok_or_else(missing)?;
            if text(found, "/protocol") == "UDP" {
                return Err(Error::usage(format!("UDP protocol is not supported for {remote}")));
            }
            shown = found["port"].as_u64().and_then(|port| u16::try_from(port).ok());
            match &found["targetPort"] {
                Value::String(name) => container_port(pod, name),
                target => target
                    .as_u64()
                    .and_then(|port| u16::try_from(port).ok())
                    .filter(|port| *port != 0)
                    .or(shown),
            }
        }
    };
    let missing = || {
        Error::usage(format!("Pod '{}' does not have a named port '{remote}'", text(pod, "/metadata/name")))
    };
    let target = target.ok_or_else(missing)?;
    let local = match local {
        "" => 0,
        same if same == remote => shown.unwrap_or(target),
        other => other.parse().map_err(|_| Error::usage(format!("error parsing local port '{other}'")))?,
    };
    Ok((local, target))
}

fn container_port(pod: &Value, name: &str) -> Option<u16> {
    let containers = list(pod, "/spec/containers").iter().chain(list(pod, "/spec/initContainers"));
    let mut ports = containers.flat_map(|container| list(container, "/ports"));
    let found = ports.find(|port| port["name"] == name)?;
    u16::try_from(found["containerPort"].as_u64()?).ok()
}

/// Listens on all addresses; returns on how many it worked.
async fn listen(
    app: &App,
    args: &Args,
    (mut local, remote): (u16, u16),
    session: &Arc<PortForward>,
) -> Result<usize, Error> {
    let mut count = 0;
    for address in args.list("address") {
        let hosts = if address == "localhost" { vec!["127.0.0.1", "::1"] } else { vec![address.as_str()] };
        for host in hosts {
            let listener = match TcpListener::bind((host, local)).await {
                Ok(listener) => listener,
                // Either family will do for localhost.
                Err(_) if address == "localhost" => continue,
                Err(error) => {
                    return Err(Error::local(format!("unable to create listener on {host}:{local}"), error));
                }
            };
            if let Ok(bound) = listener.local_addr() {
                local = bound.port();
            }
            count += 1;
            let shown = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
            app.out.line(&format!("Forwarding from {shown}:{local} -> {remote}"));
            let (session, out, err, tasks) =
                (session.clone(), app.out.clone(), app.err.clone(), app.tasks.clone());
            app.tasks.spawn("listener", async move {
                while let Ok((socket, _)) = listener.accept().await {
                    out.line(&format!("Handling connection for {local}"));
                    let (session, err) = (session.clone(), err.clone());
                    tasks.spawn("forward", async move { carry(socket, &session, remote, local, &err).await });
                }
            });
        }
    }
    if count == 0 {
        let why = format!("unable to listen on port {local}");
        app.err.line(&format!("Unable to listen on port {local}"));
        return Err(Error::state(why));
    }
    Ok(count)
}

/// Carries one connection both ways.
async fn carry(mut socket: TcpStream, session: &PortForward, remote: u16, local: u16, err: &Sink) {
    let Forwarded { data, mut error } = match session.connect(remote).await {
        Ok(forwarded) => forwarded,
        Err(error) => return err.line(&format!("error forwarding port {remote}: {error}")),
    };
    let (mut reader, writer) = (data.reader, data.writer);
    let (mut from, mut to) = socket.split();
    let up = async {
        let mut piece = vec![0; PIECE_BYTES];
        while let Ok(count @ 1..) = from.read(&mut piece).await {
            if writer.send(bytes::Bytes::copy_from_slice(&piece[..count])).await.is_err() {
                break;
            }
        }
        let _ = writer.finish().await;
    };
    // True when the local side went away before the pod's side was done.
    let down = async {
        while let Some(bytes) = reader.recv().await {
            if to.write_all(&bytes).await.is_err() {
                return true;
            }
        }
        let _ = to.shutdown().await;
        false
    };
    let broken = tokio::select! {
        broken = down => broken,
        // The pod's side ends the connection.
        never = async { up.await; std::future::pending().await } => never,
    };
    if broken {
        // What the pod still sends must not fill the connection that all share.
        return writer.reset();
    }
    let mut message = Vec::new();
    while let Some(bytes) = error.reader.recv().await {
        if message.len() < MAX_ERROR_BYTES {
            message.extend_from_slice(&bytes);
        }
    }
    if !message.is_empty() {
        let text = String::from_utf8_lossy(&message);
        err.line(&format!("an error occurred forwarding {local} -> {remote}: {text}"));
    }
}

/// What the proxy lets through.
struct Gate {
    transport: Arc<dyn Transport>,
    prefix: String,
    filter: bool,
}

async fn proxy(app: &App, args: &Args) -> Result<(), Error> {
    let prefix = args.text("api-prefix").trim_end_matches('/').to_owned();
    let transport = app.connection()?.transport.clone();
    let gate = Arc::new(Gate { transport, prefix, filter: !args.on("disable-filter") });
    if let Some(path) = args.text_if("unix-socket") {
        // A socket that a former run left behind.
        if std::os::unix::net::UnixStream::connect(path).is_err() {
            let _ = std::fs::remove_file(path);
        }
        let listener =
            UnixListener::bind(path).map_err(|error| Error::local(format!("listen unix {path}"), error))?;
        app.out.line(&format!("Starting to serve on {path}"));
        loop {
            let accepted = listener.accept().await.map_err(|error| Error::local("accepting", error))?;
            serve(app, TokioIo::new(accepted.0), gate.clone());
        }
    }
    let port = u16::try_from(args.number("port")).map_err(|_| Error::usage("invalid port"))?;
    let address = args.text("address");
    let listener = TcpListener::bind((address, port))
        .await
        .map_err(|error| Error::local(format!("listen tcp {address}:{port}"), error))?;
    let bound = listener.local_addr().map_err(|error| Error::local("listening", error))?;
    app.out.line(&format!("Starting to serve on {bound}"));
    loop {
        let accepted = listener.accept().await.map_err(|error| Error::local("accepting", error))?;
        serve(app, TokioIo::new(accepted.0), gate.clone());
    }
}

fn serve<I>(app: &App, io: I, gate: Arc<Gate>)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let tasks = app.tasks.clone();
    app.tasks.spawn("proxy connection", async move {
        let service = service_fn(move |request: Request<Incoming>| {
            let (gate, tasks) = (gate.clone(), tasks.clone());
            async move { Ok::<_, Infallible>(gate.answer(request, &tasks).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(io, service);
        // A client that goes away is no error of ours.
        let _ = connection.with_upgrades().await;
    });
}

fn plain(code: u16, text: &str) -> Response<Body> {
    let mut response = Response::new(body::full(text.to_owned()));
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap_or_default();
    response
}

impl Gate {
    fn admits(&self, request: &Request<Incoming>) -> bool {
        if !self.filter {
            return true;
        }
        let host =
            request.headers().get(http::header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let local = ["localhost", "127.0.0.1", "[::1]", ""].contains(&name) || host == "[::1]";
        let path = request.uri().path();
        // Commands in pods must not be one click on a web page away.
        let command = path.contains("/pods/") && (path.ends_with("/exec") || path.ends_with("/attach"));
        local && !command
    }

    async fn answer(&self, mut request: Request<Incoming>, tasks: &base::Tasks) -> Response<Body> {
        if !self.admits(&request) {
            return plain(403, "Forbidden");
        }
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let Some(rest) = path.strip_prefix(self.prefix.as_str()).filter(|rest| rest.starts_with('/')) else {
            return plain(404, "404 page not found\n");
        };
        match rest.parse() {
            Ok(uri) => *request.uri_mut() = uri,
            Err(_) => return plain(400, "Bad Request"),
        }
        let upgrade = request.headers().contains_key(http::header::UPGRADE);
        let ours = upgrade.then(|| hyper::upgrade::on(&mut request));
        let headers = request.headers_mut();
        headers.remove(http::header::HOST);
        headers.remove(http::header::AUTHORIZATION);
        if !upgrade {
            headers.remove(http::header::CONNECTION);
        }
        match self.transport.call(request.map(body::wrap)).await {
            Ok(mut response) => {
                if let Some(ours) = ours
                    && response.status() == http::StatusCode::SWITCHING_PROTOCOLS
                {
                    let theirs = hyper::upgrade::on(&mut response);
                    tasks.spawn("upgraded", async move {
                        if let (Ok(ours), Ok(theirs)) = (ours.await, theirs.await) {
                            let (mut ours, mut theirs) = (TokioIo::new(ours), TokioIo::new(theirs));
                            let _ = tokio::io::copy_bidirectional(&mut ours, &mut theirs).await;
                        }
                    });
                }
                response
            }
            Err(error) => plain(502, &error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ports() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"ports": [{"name": "web", "containerPort": 8080}]}]}});
        let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [
            {"port": 80, "name": "http", "targetPort": "web"}, {"port": 53, "protocol": "UDP", "targetPort": 53},
        ]}});
        for (spec, service, expect) in [
            ("8080", None, Ok((8080, 8080))),
            ("1:2", None, Ok((1, 2))),
            (":web", None, Ok((0, 8080))),
            ("web", None, Ok((8080, 8080))),
            ("80", Some(&service), Ok((80, 8080))),
            ("9:http", Some(&service), Ok((9, 8080))),
            ("81", Some(&service), Err("Service s does not have a service port 81")),
            ("53", Some(&service), Err("UDP protocol is not supported for 53")),
            ("1:", None, Err("remote port cannot be empty")),
            ("nope", None, Err("Pod 'p' does not have a named port 'nope'")),
        ] {
            let found = ports_of(spec, service, &pod).map_err(|error| error.to_string());
            assert_eq!(
                found.as_ref().map_err(String::as_str),
                expect.as_ref().map_err(|text| *text),
                "{spec}"
            );
        }
    }
}
