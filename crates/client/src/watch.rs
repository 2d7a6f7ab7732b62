//! A watch as a stream of events, one JSON document a line.

use std::collections::VecDeque;
use std::marker::PhantomData;

use api::ApiError;
use api::wire::Wire;
use base::http::Body;
use bytes::{Buf, BytesMut};
use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::ClientError;

/// A longer event is refused: objects are at most 3 MiB.
const MAX_EVENT_BYTES: usize = 64 << 20;

/// One change.
#[derive(Clone, Debug, PartialEq)]
pub enum WatchEvent<T> {
    /// An object appeared.
    Added(T),
    /// An object changed.
    Modified(T),
    /// An object went; this is its last state.
    Deleted(T),
    /// Nothing older than this revision will come.
    Bookmark {
        /// The resourceVersion.
        resource_version: String,
        /// True when the initial events are complete.
        initial_events_end: bool,
    },
}

/// The events of one watch request.
pub struct WatchStream<T> {
    body: Body,
    what: String,
    buffer: BytesMut,
    scanned: usize,
    ready: VecDeque<Result<WatchEvent<T>, ClientError>>,
    types: PhantomData<fn() -> T>,
}

#[derive(Deserialize)]
struct RawEvent<'a> {
    #[serde(rename = "type")]
    kind: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Mark {
    metadata: MarkMeta,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct MarkMeta {
    resource_version: String,
    annotations: std::collections::BTreeMap<String, String>,
}

impl<T: Wire> WatchStream<T> {
    /// Reads events from a response's body; `what` names the request in errors.
    pub fn new(body: Body, what: String) -> Self {
        WatchStream {
            body,
            what,
            buffer: BytesMut::new(),
            scanned: 0,
            ready: VecDeque::new(),
            types: PhantomData,
        }
    }

    /// The next event; `None` when the server ended the watch.
    pub async fn next(&mut self) -> Option<Result<WatchEvent<T>, ClientError>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            match self.body.frame().await {
                None => return None,
                Some(Err(error)) => return Some(Err(ClientError::transport(self.what.clone(), error))),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.feed(&data);
                    }
                }
            }
            if self.buffer.len() > MAX_EVENT_BYTES {
                return Some(Err(ClientError::transport(self.what.clone(), "a watch event is too long")));
            }
        }
    }

    fn feed(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
        while let Some(at) = memchr::memchr(b'\n', &self.buffer[self.scanned..]) {
            let line = self.buffer.split_to(self.scanned + at);
            self.buffer.advance(1);
            self.scanned = 0;
            if !line.iter().all(u8::is_ascii_whitespace) {
                let event = parse(&line, &self.what);
                self.ready.push_back(event);
            }
        }
        self.scanned = self.buffer.len();
    }
}

fn parse<T: Wire>(line: &[u8], what: &str) -> Result<WatchEvent<T>, ClientError> {
    let decode = |source| ClientError::Decode { what: what.to_owned(), source };
    let raw: RawEvent<'_> = serde_json::from_slice(line).map_err(decode)?;
    let object = || T::from_json(raw.object.get().as_bytes()).map_err(decode);
    match raw.kind.as_ref() {
        "ADDED" => Ok(WatchEvent::Added(object()?)),
        "MODIFIED" => Ok(WatchEvent::Modified(object()?)),
        "DELETED" => Ok(WatchEvent::Deleted(object()?)),
        "BOOKMARK" => {
            let mark: Mark = serde_json::from_str(raw.object.get()).map_err(decode)?;
            let end = mark.metadata.annotations.get("k8s.io/initial-events-end");
            Ok(WatchEvent::Bookmark {
                resource_version: mark.metadata.resource_version,
                initial_events_end: end.is_some_and(|text| text == "true"),
            })
        }
        _ => {
            let status: Value = serde_json::from_str(raw.object.get()).map_err(decode)?;
            Err(ApiError::from_status(500, &status).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn events_split_over_chunks_are_joined() {
        let text = concat!(
            r#"{"type":"ADDED","object":{"metadata":{"name":"a"}}}"#,
            "\n",
            r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"7","annotations":{"k8s.io/initial-events-end":"true"}}}}"#,
            "\n",
            r#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"old"}}"#,
            "\n"
        );
        for size in [1, 7, 1_000] {
            let (sender, body) = base::http::channel(1_000);
            for chunk in text.as_bytes().chunks(size) {
                sender.try_send(Ok(chunk.to_vec().into())).expect("room");
            }
            drop(sender);
            let mut stream = WatchStream::<crate::Partial>::new(body, "test".into());
            let first = stream.next().await.expect("an event").expect("good");
            assert!(
                matches!(first, WatchEvent::Added(object) if object.metadata.name.as_deref() == Some("a"))
            );
            let second = stream.next().await.expect("an event").expect("good");
            let mark = WatchEvent::Bookmark { resource_version: "7".into(), initial_events_end: true };
            assert_eq!(second, mark);
            assert!(stream.next().await.expect("an event").expect_err("an error").is_expired());
            assert!(stream.next().await.is_none());
        }
    }
}
