//! The plain streams: logs read from the runtime's files, and upgrades handed through to the runtime's own
//! streaming server, byte for byte.
//!
//! Must not interpret streams.

use std::io::SeekFrom;
use std::sync::Arc;
use std::time::Duration;

use base::http::{Body, BodySender, channel, empty};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use runtime::cri::messages as m;
use tokio::io::{AsyncBufReadExt, AsyncSeekExt, BufReader};
use tokio::net::TcpStream;

use super::{StreamKind, Streams, Target, text};
use crate::shared::Shared;

/// How often a followed log is looked at.
const FOLLOW: Duration = Duration::from_millis(100);

/// Streams without translation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain;

/// All values of a query parameter, decoded.
pub fn query_values(query: &str, name: &str) -> Vec<String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('=').or(Some((pair, ""))));
    pairs.filter(|(key, _)| *key == name).map(|(_, value)| decode(value)).collect()
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match (byte, hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(code)) => {
                bytes.push(code);
                rest = &tail[2..];
            }
            (b'+', _) => {
                bytes.push(b' ');
                rest = tail;
            }
            _ => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Streams for Plain {
    fn serve(
        &self,
        shared: Arc<Shared>,
        kind: StreamKind,
        target: Target,
        request: Request<Incoming>,
    ) -> BoxFuture<'static, Response<Body>> {
        Box::pin(async move {
            match kind {
                StreamKind::Logs => logs(shared, target, request.uri().query().unwrap_or("")).await,
                _ => upgrade(shared, kind, target, request).await,
            }
        })
    }
}

/// Hands an upgraded connection through to the runtime.
async fn upgrade(
    shared: Arc<Shared>,
    kind: StreamKind,
    target: Target,
    mut request: Request<Incoming>,
) -> Response<Body> {
    let query = request.uri().query().unwrap_or("").to_owned();
    let flag = |names: [&str; 2]| {
        names.iter().any(|name| {
            query_values(&query, name).first().is_some_and(|value| value == "1" || value == "true")
        })
    };
    let (stdin, stdout) = (flag(["input", "stdin"]), flag(["output", "stdout"]));
    let (stderr, tty) = (flag(["error", "stderr"]), flag(["tty", "tty"]));
    let id = target.entry.containers.get(&target.container).cloned().unwrap_or_default();
    let url = match kind {
        StreamKind::Exec => {
            let mut cmd = query_values(&query, "command");
            cmd.retain(|part| !part.is_empty());
            let ask = m::ExecRequest { container_id: id, cmd, tty, stdin, stdout, stderr: stderr && !tty };
            shared.cri.exec(ask).await.map(|answer| answer.url)
        }
        StreamKind::Attach => {
            let ask = m::AttachRequest { container_id: id, tty, stdin, stdout, stderr: stderr && !tty };
            shared.cri.attach(ask).await.map(|answer| answer.url)
        }
        _ => {
            let sandbox = target.entry.sandbox.clone().unwrap_or_default();
            let port = query_values(&query, "ports")
                .join(",")
                .split(',')
                .filter_map(|port| port.parse().ok())
                .collect();
            let ask = m::PortForwardRequest { pod_sandbox_id: sandbox, port };
            shared.cri.port_forward(ask).await.map(|answer| answer.url)
        }
    };
    let url = match url {
        Ok(url) => url,
        Err(error) => return text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    };
    match hand_through(&shared, &url, &mut request).await {
        Ok(response) => response,
        Err(error) => text(StatusCode::BAD_GATEWAY, format!("error dialing the container runtime: {error}")),
    }
}

async fn hand_through(
    shared: &Arc<Shared>,
    url: &str,
    request: &mut Request<Incoming>,
) -> Result<Response<Body>, String> {
    let uri: http::Uri = url.parse().map_err(|error: http::uri::InvalidUri| error.to_string())?;
    let authority = uri.authority().ok_or("no host in the runtime's URL")?.clone();
    let tcp = TcpStream::connect(authority.as_str()).await.map_err(|error| error.to_string())?;
    let (mut sender, driver) =
        hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await.map_err(|error| error.to_string())?;
    shared.tasks.spawn("runtime stream", async move {
        let _ = driver.with_upgrades().await;
    });
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut onward = Request::builder().method(request.method().clone()).uri(path);
    if let Some(headers) = onward.headers_mut() {
        for (name, value) in request.headers() {
            // The agent's own credentials and addressing end here.
            if name != header::AUTHORIZATION && name != header::HOST {
                headers.append(name, value.clone());
            }
        }
        headers.insert(
            header::HOST,
            HeaderValue::try_from(authority.as_str()).map_err(|error| error.to_string())?,
        );
        if *request.method() == Method::POST && !headers.contains_key(header::CONTENT_LENGTH) {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
    }
    let onward = onward.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    let mut answer = sender.send_request(onward).await.map_err(|error| error.to_string())?;
    let mut response = Response::new(empty());
    *response.status_mut() = answer.status();
    *response.headers_mut() = answer.headers().clone();
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        // No tunnel stays open after a refused upgrade.
        *response.body_mut() = base::http::wrap(answer.into_body());
        return Ok(response);
    }
    let near = hyper::upgrade::on(request);
    let far = hyper::upgrade::on(&mut answer);
    shared.tasks.spawn("stream", async move {
        if let (Ok(near), Ok(far)) = (near.await, far.await) {
            let (mut near, mut far) = (TokioIo::new(near), TokioIo::new(far));
            let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
        }
    });
    Ok(response)
}

/// What of a log is wanted.
#[derive(Clone, Debug, Default)]
struct LogOptions {
    follow: bool,
    timestamps: bool,
    tail: Option<usize>,
    since: Option<Timestamp>,
    limit: Option<usize>,
    stream: Option<String>,
}

async fn logs(shared: Arc<Shared>, target: Target, query: &str) -> Response<Body> {
    let one = |name: &str| query_values(query, name).into_iter().next();
    let on = |name: &str| one(name).is_some_and(|value| value == "true" || value == "1");
    let since_seconds = one("sinceSeconds").and_then(|text| text.parse::<i64>().ok());
    let ago = since_seconds.map(|seconds| shared.clock.now() - jiff::SignedDuration::from_secs(seconds));
    let options = LogOptions {
        follow: on("follow"),
        timestamps: on("timestamps"),
        tail: one("tailLines").and_then(|text| text.parse().ok()),
        since: one("sinceTime").and_then(|text| text.parse().ok()).or(ago),
        limit: one("limitBytes").and_then(|text| text.parse().ok()),
        stream: one("stream").map(|name| name.to_lowercase()).filter(|name| name != "all"),
    };
    let id = match container_id(&target, on("previous")) {
        Ok(id) => id,
        Err(message) => return text(StatusCode::BAD_REQUEST, message),
    };
    let request = m::ContainerStatusRequest { container_id: id.clone(), verbose: false };
    let path = match shared.cri.container_status(request).await {
        Ok(answer) => answer.status.map(|status| status.log_path).unwrap_or_default(),
        Err(error) => return text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    };
    let (sender, body) = channel(16);
    let tasks = shared.tasks.clone();
    tasks.spawn("logs", async move {
        let _ = copy_log(&shared, &path, &id, &options, &sender).await;
    });
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

/// The container whose log is wanted.
fn container_id(target: &Target, previous: bool) -> Result<String, String> {
    let pod = &target.entry.pod;
    let status = target.entry.status.as_deref().cloned().or_else(|| pod.status.clone()).unwrap_or_default();
    let lists =
        [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    let found = lists.into_iter().flatten().flatten().find(|status| status.name == target.container);
    let name = pod.metadata.name.as_deref().unwrap_or("");
    let waiting = |reason: &str| {
        format!("container {:?} in pod {name:?} is waiting to start: {reason}", target.container)
    };
    let Some(found) = found else { return Err(waiting("ContainerCreating")) };
    let last = found.last_state.as_ref().and_then(|state| state.terminated.as_ref()?.container_id.clone());
    let current = found.container_id.clone().filter(|id| !id.is_empty());
    let state = found.state.clone().unwrap_or_default();
    let id = if previous {
        last.ok_or_else(|| {
            format!("previous terminated container {:?} in pod {name:?} not found", target.container)
        })?
    } else if state.running.is_some() || state.terminated.is_some() {
        current.ok_or_else(|| waiting("ContainerCreating"))?
    } else {
        let reason =
            state.waiting.and_then(|waiting| waiting.reason).unwrap_or_else(|| "ContainerCreating".into());
        match (last.or(current), reason.as_str()) {
            (Some(id), _) => id,
            (None, "ErrImagePull") => return Err(waiting("image can't be pulled")),
            (None, "ImagePullBackOff") => return Err(waiting("trying and failing to pull image")),
            (None, reason) => return Err(waiting(reason)),
        }
    };
    Ok(id.split_once("://").map_or(id.clone(), |(_, id)| id.to_owned()))
}

async fn copy_log(
    shared: &Shared,
    path: &str,
    id: &str,
    options: &LogOptions,
    sender: &BodySender,
) -> Option<()> {
    let start = match options.tail {
        Some(lines) => tail_offset(path, lines).await,
        None => 0,
    };
    let mut file = tokio::fs::File::open(path).await.ok()?;
    file.seek(SeekFrom::Start(start)).await.ok()?;
    let mut reader = BufReader::new(file);
    let mut left = options.limit.unwrap_or(usize::MAX);
    let mut line = Vec::new();
    loop {
        let count = reader.read_until(b'\n', &mut line).await.ok()?;
        if count > 0 && line.ends_with(b"\n") {
            if let Some(mut out) = log_line(&line, options) {
                out.truncate(left);
                left -= out.len();
                sender.send(Ok(Bytes::from(out))).await.ok()?;
            }
            line.clear();
            if left == 0 {
                return Some(());
            }
            continue;
        }
        if !options.follow {
            return Some(());
        }
        let request = m::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let status = shared.cri.container_status(request).await.ok().and_then(|answer| answer.status);
        let running = status.is_some_and(|status| status.state == m::ContainerState::Running as i32);
        if sender.is_closed() {
            return None;
        }
        shared.clock.sleep(FOLLOW).await;
        if !running {
            // Read what came at the end, then stop.
            let more = LogOptions { follow: false, ..options.clone() };
            while reader.read_until(b'\n', &mut line).await.ok()? > 0 {
                if let Some(out) = log_line(&line, &more) {
                    sender.send(Ok(Bytes::from(out))).await.ok()?;
                }
                line.clear();
            }
            return Some(());
        }
    }
}

/// A line of the runtime's log as the client wants it.
fn log_line(line: &[u8], options: &LogOptions) -> Option<Vec<u8>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let (time, stream, tag) = (parts.next()?, parts.next()?, parts.next()?);
    let content = parts.next().unwrap_or(b"\n");
    if options.stream.as_deref().is_some_and(|wanted| wanted.as_bytes() != stream) {
        return None;
    }
    let time = std::str::from_utf8(time).ok()?;
    if let Some(since) = options.since
        && time.parse::<Timestamp>().ok()? < since
    {
        return None;
    }
    let content =
        if tag.starts_with(b"P") { content.strip_suffix(b"\n").unwrap_or(content) } else { content };
    let mut out = Vec::with_capacity(line.len());
    if options.timestamps {
        out.extend_from_slice(time.as_bytes());
        out.push(b' ');
    }
    out.extend_from_slice(content);
    Some(out)
}

/// Where the last lines of a file begin.
async fn tail_offset(path: &str, lines: usize) -> u64 {
    let path = path.to_owned();
    crate::pods::ops::blocking(move || {
        use std::io::{Read, Seek};
        let Ok(mut file) = std::fs::File::open(path) else { return 0 };
        let Ok(mut end) = file.seek(SeekFrom::End(0)) else { return 0 };
        if lines == 0 {
            return end;
        }
        let mut seen = 0;
        let mut buffer = [0; 4096];
        let mut last = true;
        while end > 0 {
            let size = end.min(4096);
            end -= size;
            let size = usize::try_from(size).unwrap_or(4096);
            if file.seek(SeekFrom::Start(end)).is_err() || file.read_exact(&mut buffer[..size]).is_err() {
                return 0;
            }
            for at in (0..size).rev() {
                // The file's last byte ends a line rather than beginning one.
                if buffer[at] == b'\n' && !std::mem::take(&mut last) {
                    seen += 1;
                    if seen == lines {
                        return end + at as u64 + 1;
                    }
                }
                last = false;
            }
        }
        0
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_and_lines() {
        assert_eq!(query_values("command=a%20b&command=c+d&x=1", "command"), ["a b", "c d"]);
        let line = b"2026-01-01T00:00:00.5Z stdout F hello\n";
        assert_eq!(log_line(line, &LogOptions::default()).as_deref(), Some(&b"hello\n"[..]));
        let stamped = LogOptions { timestamps: true, ..LogOptions::default() };
        assert_eq!(log_line(line, &stamped).as_deref(), Some(&b"2026-01-01T00:00:00.5Z hello\n"[..]));
        let late = LogOptions {
            since: Some("2026-01-02T00:00:00Z".parse().expect("a time")),
            ..LogOptions::default()
        };
        assert_eq!(log_line(line, &late), None);
        assert_eq!(
            log_line(b"2026-01-01T00:00:00Z stdout P he\n", &LogOptions::default()).as_deref(),
            Some(&b"he"[..])
        );
    }

    #[tokio::test]
    async fn tails() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log");
        std::fs::write(&path, "one\ntwo\nthree\n").expect("written");
        let path = path.to_string_lossy().into_owned();
        for (lines, expect) in [(0, 14), (1, 8), (2, 4), (3, 0), (9, 0)] {
            assert_eq!(tail_offset(&path, lines).await, expect, "{lines}");
        }
    }
}
