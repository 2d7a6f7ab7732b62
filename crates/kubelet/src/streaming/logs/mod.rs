//! `/containerLogs`: which container's log is meant, what of it is wanted, and the answer as a stream, over HTTP
//! or over WebSocket (`binary.k8s.io`).
//!
//! Must not know the format of log files.

pub mod file;
pub mod line;
mod watch;

use api::k8s::api::core::v1::{ContainerStatus, PodStatus};
use base::http::{self as body, Body};
use bytes::Bytes;
use client::streaming::channel;
use client::streaming::websocket::{self, PING_INTERVAL};
use futures::{SinkExt, StreamExt};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use jiff::{SignedDuration, Timestamp};
use tokio_tungstenite::tungstenite::Message;

use super::command::websocket_protocol;
use super::route::Query;
use super::{Refusal, Streaming, Target, backend};
use crate::pods::pod::PodExt;

/// Pieces of output waiting for a slow client: a MiB.
const QUEUE: usize = 16;

/// What of a log is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Go on while the container runs.
    pub follow: bool,
    /// Of the container before the last restart.
    pub previous: bool,
    /// Nothing older.
    pub since: Option<Timestamp>,
    /// Each line begins with its time.
    pub timestamps: bool,
    /// So many lines from the end.
    pub tail: Option<u64>,
    /// At most so many bytes.
    pub limit_bytes: Option<u64>,
    /// Of this stream only.
    pub stream: Option<line::Stream>,
}

impl Options {
    /// From the query, as `PodLogOptions` read from it.
    pub fn parse(query: &Query, now: Timestamp) -> Result<Options, Refusal> {
        let undecodable = || Refusal::bad(r#"{"message": "Unable to decode query."}"#);
        let invalid = || Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, r#"{"message": "Invalid request."}"#);
        // As Go's converter: anything but these is yes.
        let flag =
            |name| query.get(name).is_some_and(|text| text != "0" && !text.eq_ignore_ascii_case("false"));
        let number = |name: &str| match query.get(name) {
            None => Ok(None),
            Some(text) => text.parse::<i64>().map(Some).map_err(|_| undecodable()),
        };
        let tail = match query.get("tail") {
            Some("all") => None,
            Some(text) if !text.is_empty() => Some(text.parse::<i64>().map_err(|_| undecodable())?),
            _ => number("tailLines")?,
        };
        let (seconds, limit) = (number("sinceSeconds")?, number("limitBytes")?);
        let time = match query.get("sinceTime") {
            None | Some("") => None,
            Some(text) => Some(text.parse::<Timestamp>().map_err(|_| undecodable())?),
        };
        if seconds.is_some() && time.is_some() || seconds.is_some_and(|seconds| seconds < 1) {
            return Err(invalid());
        }
        let stream = match query.get("stream") {
            None | Some("" | "All") => None,
            Some("Stdout") => Some(line::Stream::Stdout),
            Some("Stderr") => Some(line::Stream::Stderr),
            Some(_) => return Err(invalid()),
        };
        if tail.is_some_and(|tail| tail < 0)
            || limit.is_some_and(|limit| limit < 1)
            || stream.is_some() && tail.is_some()
        {
            return Err(invalid());
        }
        let ago = |seconds| now.checked_sub(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MIN);
        Ok(Options {
            follow: flag("follow"),
            previous: flag("previous"),
            since: time.or(seconds.map(ago)),
            timestamps: flag("timestamps"),
            tail: tail.and_then(|tail| u64::try_from(tail).ok()),
            limit_bytes: limit.and_then(|limit| u64::try_from(limit).ok()),
            stream,
        })
    }
}

/// The id of the container whose log is meant; the error is the text of a 400.
pub fn choose(status: &PodStatus, pod: &str, container: &str, previous: bool) -> Result<String, String> {
    let lists =
        [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    let found = lists.into_iter().flatten().flatten().find(|status| status.name == container);
    let what = format!("container {container:?} in pod {pod:?}");
    let Some(found) = found else { return Err(format!("{what} is not available")) };
    let id = if previous {
        last(found).ok_or_else(|| format!("previous terminated {what} not found"))?
    } else {
        current(found, &what)?
    };
    Ok(id.split_once("://").map_or(id, |(_, id)| id).to_owned())
}

/// The container before the last restart.
fn last(status: &ContainerStatus) -> Option<&str> {
    status.last_state.as_ref()?.terminated.as_ref()?.container_id.as_deref().filter(|id| !id.is_empty())
}

fn current<'a>(status: &'a ContainerStatus, what: &str) -> Result<&'a str, String> {
    let state = status.state.as_ref();
    let ended = || format!("{what} is terminated");
    if state.is_some_and(|state| state.running.is_some()) {
        return status.container_id.as_deref().ok_or_else(|| format!("{what} is not available"));
    }
    if let Some(terminated) = state.and_then(|state| state.terminated.as_ref()) {
        let id = terminated.container_id.as_deref().filter(|id| !id.is_empty());
        return id.or_else(|| last(status)).ok_or_else(ended);
    }
    if status.last_state.as_ref().is_some_and(|state| state.terminated.is_some()) {
        return last(status).ok_or_else(ended);
    }
    let Some(waiting) = state.and_then(|state| state.waiting.as_ref()) else {
        return Err(format!("{what} is waiting to start - no logs yet"));
    };
    let reason = match waiting.reason.as_deref().unwrap_or_default() {
        "ErrImagePull" => "image can't be pulled",
        "ImagePullBackOff" => "trying and failing to pull image",
        other => other,
    };
    Err(format!("{what} is waiting to start: {reason}"))
}

impl Streaming {
    /// `/containerLogs`.
    pub(super) fn logs(
        &self,
        target: &Target,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, Refusal> {
        let query = Query::parse(request.uri().query());
        let options = Options::parse(&query, self.clock.now())?;
        let missing = |text| Refusal::new(StatusCode::NOT_FOUND, text);
        let found = self.node.pod(&target.namespace, &target.pod);
        let found = found.ok_or_else(|| missing(format!("pod {:?} does not exist", target.pod)))?;
        if found.pod.slot(&target.container).is_none() {
            return Err(missing(format!(
                "container {:?} not found in pod {:?}",
                target.container, target.pod
            )));
        }
        let id =
            choose(&found.status, &target.pod, &target.container, options.previous).map_err(Refusal::bad)?;
        let protocol = websocket_protocol(&request, channel::PLAIN)?;
        let (out, content) = body::channel(QUEUE);
        let (node, clock) = (self.node.clone(), self.clock.clone());
        self.tasks.spawn("container logs", async move {
            if let Err(error) = file::copy(&*node, &id, &options, &clock, &out).await {
                // The answer's head is gone: as upstream, the reason becomes the log's last line.
                let _ = out.send(Ok(error.to_string().into())).await;
            }
        });
        let Some(protocol) = protocol else {
            let mut response = Response::new(content);
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            return Ok(response);
        };
        let answer = websocket::accept(request.headers(), protocol.name);
        let answer = answer.map_err(|error| Refusal::bad(error.to_string()))?;
        let (client, clock) = (hyper::upgrade::on(&mut request), self.clock.clone());
        self.tasks.spawn("log messages", async move {
            let Some(io) = backend::upgraded(client, &clock).await else { return };
            let (mut sink, mut source) = websocket::server(io).await.split();
            let mut content = content;
            let outward = async {
                loop {
                    let message = tokio::select! {
                        frame = content.frame() => match frame {
                            Some(Ok(frame)) => {
                                let data = frame.into_data().unwrap_or_default();
                                websocket::message(protocol.encode_plain(&data), protocol.base64)
                            }
                            _ => break,
                        },
                        () = clock.sleep(PING_INTERVAL) => Message::Ping(Bytes::new()),
                    };
                    if sink.send(message).await.is_err() {
                        return;
                    }
                }
                let _ = sink.send(websocket::goodbye()).await;
            };
            let inward = async { while let Some(Ok(_)) = source.next().await {} };
            tokio::select! { () = outward => {} () = inward => {} }
        });
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use api::k8s::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStateWaiting};

    use super::*;

    fn waiting(reason: &str) -> Option<ContainerState> {
        let waiting = ContainerStateWaiting { reason: Some(reason.into()), ..Default::default() };
        Some(ContainerState { waiting: Some(waiting), ..Default::default() })
    }

    fn terminated(id: &str) -> Option<ContainerState> {
        let terminated = ContainerStateTerminated { container_id: Some(id.into()), ..Default::default() };
        Some(ContainerState { terminated: Some(terminated), ..Default::default() })
    }

    #[test]
    fn the_container_meant() {
        let running = Some(ContainerState { running: Some(Default::default()), ..Default::default() });
        let check = |state, last_state, previous, expect: Result<&str, &str>| {
            let id = Some("containerd://now".into());
            let status = ContainerStatus {
                name: "c".into(),
                container_id: id,
                state,
                last_state,
                ..Default::default()
            };
            let status = PodStatus { container_statuses: Some(vec![status]), ..Default::default() };
            let expect = expect.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(choose(&status, "p", "c", previous), expect);
        };
        check(running.clone(), None, false, Ok("now"));
        check(running.clone(), terminated("containerd://old"), true, Ok("old"));
        check(running, None, true, Err("previous terminated container \"c\" in pod \"p\" not found"));
        check(terminated("containerd://end"), None, false, Ok("end"));
        check(waiting("CrashLoopBackOff"), terminated("containerd://old"), false, Ok("old"));
        let creating = "container \"c\" in pod \"p\" is waiting to start: ContainerCreating";
        check(waiting("ContainerCreating"), None, false, Err(creating));
        let pulling = "container \"c\" in pod \"p\" is waiting to start: trying and failing to pull image";
        check(waiting("ImagePullBackOff"), None, false, Err(pulling));
    }

    #[test]
    fn options() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().expect("a time");
        let parse = |text: &str| Options::parse(&Query::parse(Some(text)), now);
        let options =
            parse("follow=true&tailLines=3&limitBytes=9&sinceSeconds=60&timestamps=1").expect("parses");
        assert_eq!((options.follow, options.previous, options.timestamps), (true, false, true));
        assert_eq!((options.tail, options.limit_bytes), (Some(3), Some(9)));
        assert_eq!(options.since, Some("2026-01-01T00:00:00Z".parse().expect("a time")));
        for (text, code) in [
            ("tailLines=x", 400),
            ("tailLines=-1", 422),
            ("limitBytes=0", 422),
            ("sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z", 422),
            ("stream=Stdout&tailLines=1", 422),
            ("stream=x", 422),
        ] {
            assert_eq!(parse(text).map_err(|error| error.code.as_u16()), Err(code), "{text}");
        }
    }
}
