//! WATCH: events of one resource as frames, with bookmarks, initial events and selector transitions.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use api::ApiError;
use api::validation::{ErrorList, FieldError, Path};
use base::http::Body;
use bytes::{Bytes, BytesMut};
use futures::stream;
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use jiff::Timestamp;
use machinery::codec::proto;
use parking_lot::Mutex;
use serde_json::{Value, json};
use store::{Event, EventKind, HistoryError, Interest, Object, Watch, WatchFrom};

use super::Call;
use super::list::{Selection, candidates, selects_after_conversion};
use super::read;
use crate::measure::AtWork;
use crate::negotiate::{Accept, Format, Offer, View};
use crate::object::Served;
use crate::respond::{self, Include};
use crate::server::Server;

/// How often bookmarks are sent to those who allow them.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// The shortest life of a watch without timeoutSeconds; at most twice that, as upstream's min-request-timeout.
const SHORTEST: Duration = Duration::from_secs(1800);
/// The annotation of the bookmark that ends the initial events.
const INITIAL_END: &str = "k8s.io/initial-events-end";
/// The time that a change's watchers share: each is written to at most once in this times their number, so that a
/// resource with many watchers costs a write for a batch of changes, not for each. What comes after a pause is
/// written at once.
const PACE_EACH: Duration = Duration::from_micros(25);
/// The longest that pace delays a change; below the shortest, nothing is delayed.
const PACE: std::ops::Range<Duration> = Duration::from_millis(1)..Duration::from_millis(20);
/// Initial objects brought into their version at a time.
const INITIAL_CHUNK: usize = 64;
/// Bytes of initial objects in the first chunk; each further one is twice as long, up to the most. Whoever does not
/// read costs the first ones.
const FIRST_BYTES: usize = 16 * 1024;
/// Bytes put together at most: of what is longer, watches share each object's own.
const TOGETHER_BYTES: usize = 128 * 1024;
/// From this length on an object is not copied into a chunk.
const LARGE_BYTES: usize = 16 * 1024;

/// Answers a watch.
pub async fn watch(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let offer = Offer { watch: true, ..call.offer() };
    let accept = call.exchange.accept(offer)?;
    let query = &call.exchange.query;
    check_options(call)?;
    let mut selection = Selection::parse(call)?;
    if !call.name().is_empty() && selection.fields.exact("metadata.name").is_none() {
        let own = api::fields::Requirement {
            field: "metadata.name".into(),
            value: call.name().into(),
            equal: true,
        };
        selection.fields.0.push(own);
    }
    let include = Include::of(call.exchange, &accept)?;
    let (initial, watch, start) = open(call, &selection).await?;
    let timeout = match query.integer("timeoutSeconds")? {
        Some(seconds) if seconds > 0 => Duration::from_secs(u64::try_from(seconds).unwrap_or(0)),
        _ => SHORTEST + Duration::from_secs(call.server.rng.below(SHORTEST.as_secs())),
    };
    let initial_end = query.flag("sendInitialEvents") && query.flag("allowWatchBookmarks");
    let writer = Writer {
        served: call.served.clone(),
        accept: accept.clone(),
        include,
        now: call.exchange.now,
        described: false,
    };
    let state = State {
        server: call.server.clone(),
        selection,
        writer,
        watch,
        initial: initial.into(),
        ready: VecDeque::new(),
        parts: VecDeque::new(),
        room: FIRST_BYTES,
        initial_revision: start,
        initial_end,
        bookmarks: query.flag("allowWatchBookmarks"),
        ends_at: call.server.clock.monotonic() + timeout,
        next_bookmark: call.server.clock.monotonic() + BOOKMARK_EVERY,
        rests_until: Duration::ZERO,
        sent: 0,
        batch: Vec::new(),
        over: false,
        _running: call.server.measures.running(call.exchange),
    };
    let frames = stream::unfold(state, |mut state| async move {
        state.next().await.map(|bytes| (Ok::<_, base::BoxError>(Frame::data(bytes)), state))
    });
    let mut response = respond::bytes(StatusCode::OK, accept.stream_type(), Bytes::new());
    *response.body_mut() = StreamBody::new(frames).boxed_unsync();
    Ok(response)
}

fn check_options(call: &Call<'_>) -> Result<(), ApiError> {
    let query = &call.exchange.query;
    let (initial, matching) = (query.get("sendInitialEvents").is_some(), query.text("resourceVersionMatch"));
    let mut errors = ErrorList::new();
    let path = Path::new("resourceVersionMatch");
    if initial && matching != "NotOlderThan" {
        let detail = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        errors.push(FieldError::forbidden(&path, detail));
    }
    if !initial && !matching.is_empty() {
        let detail = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
        errors.push(FieldError::forbidden(&path, detail));
    }
    if !matching.is_empty() && matching != "NotOlderThan" {
        errors.push(FieldError::not_supported(&path, matching, &["NotOlderThan"]));
    }
    // Upstream sets the match of a watch from "any" before it looks.
    let any = matches!(query.text("resourceVersion"), "" | "0");
    if !query.text("continue").is_empty() && (any || !matching.is_empty()) {
        errors.push(FieldError::forbidden(
            &path,
            "resourceVersionMatch is forbidden when continue is provided",
        ));
    }
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid("meta.k8s.io", "ListOptions", "", &errors)) }
}

fn interest(call: &Call<'_>, selection: &Selection) -> Interest {
    let namespace = if call.row().namespaced { call.namespace() } else { "" };
    if let Some(name) = selection.fields.exact("metadata.name")
        && (!namespace.is_empty() || !call.row().namespaced)
    {
        return Interest::Object(namespace.into(), name.into());
    }
    if !namespace.is_empty() {
        return Interest::Namespace(namespace.into());
    }
    if call.row().conversion.is_none()
        && !call.row().custom
        && let Some(requirement) =
            selection.fields.0.iter().find(|r| r.equal && !r.field.starts_with("metadata."))
    {
        return Interest::Field(requirement.field.as_str().into(), requirement.value.as_str().into());
    }
    Interest::All
}

/// Objects to send first, the watch that follows them, and the revision between the two.
async fn open(call: &Call<'_>, selection: &Selection) -> Result<(Vec<Arc<Object>>, Watch, u64), ApiError> {
    let (store, query) = (&call.server.store, &call.exchange.query);
    let resource = call.row().storage.clone().unwrap_or_else(|| "".into());
    let interest = interest(call, selection);
    let version = query.text("resourceVersion");
    let initial = query.optional_flag("sendInitialEvents");
    let revision = read::revision_of_one(version)?;
    let wants_state = match initial {
        Some(wanted) => wanted,
        None => revision.is_none(),
    };
    if let (Some(revision), false) = (revision, wants_state) {
        let from = WatchFrom::Revision(revision);
        let watch = match store.watch(&resource, interest.clone(), from) {
            // Nothing is told until that revision has passed, as upstream's cache does.
            Err(HistoryError::Future { .. }) => store.watch(&resource, interest, WatchFrom::Now),
            other => other,
        };
        return Ok((Vec::new(), watch.map_err(|error| gone(revision, &error))?, revision));
    }
    if let Some(revision) = revision {
        read::not_older_than(call.server, revision).await?;
    } else if version.is_empty() {
        store.latest().await.map_err(ApiError::internal)?;
    }
    let (snapshot, watch) = store.snapshot_then_watch(&resource, interest);
    let start = snapshot.revision();
    if !wants_state {
        return Ok((Vec::new(), watch, start));
    }
    let namespace = Some(call.namespace()).filter(|n| !n.is_empty() && call.row().namespaced);
    let mut objects: Vec<Arc<Object>> = candidates(&snapshot, selection, namespace, None).cloned().collect();
    if selects_after_conversion(&call.served, selection) {
        objects = crate::convert::many(call.server, &call.served, objects).await?;
    }
    objects.retain(|object| selection.wants(&call.served, object));
    Ok((objects, watch, start))
}

fn gone(revision: u64, error: &HistoryError) -> ApiError {
    match error {
        HistoryError::Compacted { oldest, .. } => {
            ApiError::expired(format!("too old resource version: {revision} ({oldest})"))
        }
        other => ApiError::internal(other),
    }
}

struct State {
    server: Server,
    selection: Selection,
    writer: Writer,
    watch: Watch,
    initial: VecDeque<Arc<Object>>,
    /// The next of them, in their version.
    ready: VecDeque<Arc<Object>>,
    /// What goes out before anything else.
    parts: VecDeque<Bytes>,
    /// Bytes of the next chunk.
    room: usize,
    initial_revision: u64,
    initial_end: bool,
    bookmarks: bool,
    ends_at: Duration,
    next_bookmark: Duration,
    /// Nothing is written before.
    rests_until: Duration,
    /// The revision the client knows of.
    sent: u64,
    batch: Vec<Arc<Event>>,
    over: bool,
    /// Counted while it lives.
    _running: AtWork,
}

impl State {
    /// The next bytes; `None` ends the watch.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(part) = self.parts.pop_front() {
            return Some(part);
        }
        if self.over {
            return None;
        }
        if !self.initial.is_empty() || !self.ready.is_empty() {
            return self.initial_chunk().await;
        }
        if std::mem::take(&mut self.initial_end) {
            self.sent = self.initial_revision;
            return Some(self.writer.bookmark(self.initial_revision, true));
        }
        loop {
            let now = self.server.clock.monotonic();
            if now >= self.ends_at {
                return None;
            }
            if self.bookmarks && now >= self.next_bookmark {
                self.next_bookmark = now + BOOKMARK_EVERY;
                let past = self.sent.max(self.initial_revision);
                if let Some(revision) = self.watch.progress().filter(|r| *r > past) {
                    self.sent = revision;
                    return Some(self.writer.bookmark(revision, false));
                }
            }
            let mut wake = if self.bookmarks { self.ends_at.min(self.next_bookmark) } else { self.ends_at };
            let rests = now < self.rests_until;
            if rests {
                wake = wake.min(self.rests_until);
            }
            self.batch.clear();
            let result = tokio::select! {
                biased;
                () = self.server.tasks.cancel_token().cancelled() => return None,
                () = self.server.clock.sleep(wake.saturating_sub(now)) => continue,
                result = self.watch.next_batch(&mut self.batch), if !rests => result,
            };
            if let Err(error) = result {
                self.over = true;
                return self.failure(&error);
            }
            match self.write_batch().await {
                Ok(None) => {}
                Ok(Some(bytes)) => {
                    self.rests_until = self.server.clock.monotonic() + pace(self.watch.company());
                    return Some(bytes);
                }
                Err(error) => return Some(self.stop(&error)),
            }
        }
    }

    fn failure(&mut self, error: &HistoryError) -> Option<Bytes> {
        match error {
            HistoryError::Closed => None,
            error => {
                let expired =
                    ApiError::expired(format!("too old resource version: the watch was too slow ({error})"));
                Some(self.writer.status(&expired))
            }
        }
    }

    async fn initial_chunk(&mut self) -> Option<Bytes> {
        if self.ready.is_empty() {
            let count = self.initial.len().min(INITIAL_CHUNK);
            let objects = self.initial.drain(..count).collect();
            match crate::convert::many(&self.server, &self.writer.served, objects).await {
                Ok(objects) => self.ready = objects.into(),
                Err(error) => return Some(self.stop(&error)),
            }
        }
        let mut out = BytesMut::new();
        while out.len() < self.room
            && let Some(object) = self.ready.pop_front()
        {
            match self.writer.pieces("ADDED", &object) {
                Some(pieces) => {
                    self.parts.extend(pieces);
                    break;
                }
                None => out.extend_from_slice(&self.writer.object("ADDED", &object)),
            }
        }
        self.room = (self.room * 2).min(TOGETHER_BYTES);
        if out.is_empty() { self.parts.pop_front() } else { Some(out.freeze()) }
    }

    /// Ends the watch with an error.
    fn stop(&mut self, error: &ApiError) -> Bytes {
        self.over = true;
        self.writer.status(error)
    }

    async fn write_batch(&mut self) -> Result<Option<Bytes>, ApiError> {
        let mut batch = std::mem::take(&mut self.batch);
        batch.retain(|event| event.revision > self.initial_revision);
        self.sent = batch.last().map_or(self.sent, |event| event.revision);
        let written = match self.whole(&batch) {
            Some(bytes) => Ok(Some(bytes)),
            None => self.selected(&batch).await,
        };
        self.batch = batch;
        written
    }

    /// All events as they are stored: the same bytes for everyone who wants them so.
    fn whole(&mut self, batch: &[Arc<Event>]) -> Option<Bytes> {
        let (served, form) = (&self.writer.served, self.writer.form());
        let plain = self.writer.accept.view == View::Object
            && self.selection.is_everything()
            && batch.iter().all(|event| served.is_native(&event.object));
        let bytes = |event: &Arc<Event>| event.object.json.len();
        match batch {
            _ if !plain => None,
            [] => None,
            [event] => Some(self.writer.shared(event)),
            _ if self.watch.company() < BUNDLED_FROM
                || batch.iter().map(bytes).sum::<usize>() > TOGETHER_BYTES =>
            {
                let frames = batch.iter().map(|event| self.writer.shared(event)).collect();
                self.send(frames)
            }
            _ => Some(self.server.bundles.of(served, form, batch, |event| self.writer.shared(event))),
        }
    }

    /// Frames as one, or one after the other when they are long.
    fn send(&mut self, frames: Vec<Bytes>) -> Option<Bytes> {
        if frames.len() > 1 && frames.iter().map(Bytes::len).sum::<usize>() <= TOGETHER_BYTES {
            return Some(join(&frames, Bytes::clone));
        }
        self.parts.extend(frames);
        self.parts.pop_front()
    }

    /// What the selection makes of the events.
    async fn selected(&mut self, batch: &[Arc<Event>]) -> Result<Option<Bytes>, ApiError> {
        let mut frames = Vec::new();
        for event in batch {
            let (server, served) = (&self.server, &self.writer.served);
            let object = crate::convert::one(server, served, event.object.clone()).await?;
            let mut previous = event.previous.clone();
            if selects_after_conversion(served, &self.selection)
                && let Some(before) = previous
            {
                previous = Some(crate::convert::one(server, served, before).await?);
            }
            let Some(kind) = transition(&self.selection, served, event.kind, &object, previous.as_deref())
            else {
                continue;
            };
            frames.push(match Arc::ptr_eq(&object, &event.object) {
                true => self.writer.event(kind, event),
                false => self.writer.object(name(kind), &object),
            });
        }
        Ok(self.send(frames))
    }
}

/// Pieces as one.
fn join<T>(parts: &[T], piece: impl Fn(&T) -> Bytes) -> Bytes {
    let pieces: Vec<Bytes> = parts.iter().map(piece).collect();
    let mut out = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    pieces.iter().for_each(|piece| out.extend_from_slice(piece));
    out.freeze()
}

/// Watches on a resource from which on what they are sent is kept for the next of them.
const BUNDLED_FROM: usize = 4;
/// Bundles kept: those of the last few moments.
const BUNDLES: usize = 4;

/// Runs of events as they were sent last: watches that are written to at the same time mostly get the same ones.
#[derive(Default)]
pub struct Bundles(Mutex<VecDeque<Bundle>>);

struct Bundle {
    /// Kind and version, and the form.
    prefix: Arc<str>,
    form: usize,
    /// Revisions of the events: they name them.
    revisions: Box<[u64]>,
    bytes: Bytes,
}

impl Bundles {
    fn of(
        &self,
        served: &Served,
        form: usize,
        batch: &[Arc<Event>],
        piece: impl Fn(&Arc<Event>) -> Bytes,
    ) -> Bytes {
        let same = |bundle: &&Bundle| {
            bundle.form == form
                && bundle.prefix == served.prefix
                && bundle.revisions.iter().copied().eq(batch.iter().map(|event| event.revision))
        };
        if let Some(found) = self.0.lock().iter().find(same) {
            return found.bytes.clone();
        }
        let bytes = join(batch, piece);
        let revisions = batch.iter().map(|event| event.revision).collect();
        let mut kept = self.0.lock();
        kept.truncate(BUNDLES - 1);
        kept.push_front(Bundle { prefix: served.prefix.clone(), form, revisions, bytes: bytes.clone() });
        bytes
    }
}

/// How long a watch rests after a write, by the number of watches on its resource.
fn pace(company: usize) -> Duration {
    let pace = PACE_EACH * u32::try_from(company).unwrap_or(u32::MAX);
    if pace < PACE.start { Duration::ZERO } else { pace.min(PACE.end) }
}

/// What an event is to a client with this selection.
fn transition(
    selection: &Selection,
    served: &Served,
    kind: EventKind,
    object: &Object,
    previous: Option<&Object>,
) -> Option<EventKind> {
    if selection.is_everything() {
        return Some(kind);
    }
    let before = previous.is_some_and(|object| selection.wants(served, object));
    let after = kind != EventKind::Deleted && selection.wants(served, object);
    match (before, after) {
        (false, false) => None,
        (false, true) => Some(EventKind::Added),
        (true, true) => Some(EventKind::Modified),
        (true, false) => Some(EventKind::Deleted),
    }
}

fn name(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Added => "ADDED",
        EventKind::Modified => "MODIFIED",
        EventKind::Deleted => "DELETED",
    }
}

/// Writes frames in the negotiated form.
struct Writer {
    served: Served,
    accept: Accept,
    include: Include,
    now: Timestamp,
    /// The columns have been sent.
    described: bool,
}

impl Writer {
    /// The form in which events are shared.
    fn form(&self) -> usize {
        match self.accept.format {
            Format::Json { .. } => 0,
            _ => 1,
        }
    }

    /// An event's frame as all get it who want it as it is stored.
    fn shared(&self, event: &Event) -> Bytes {
        let form = self.form();
        event.frame(form, |event| frame(form == 1, &self.served, name(event.kind), &event.object)).clone()
    }

    fn event(&mut self, kind: EventKind, event: &Event) -> Bytes {
        let plain = self.accept.view == View::Object && kind == event.kind;
        if plain && self.served.is_native(&event.object) {
            return self.shared(event);
        }
        self.object(name(kind), &event.object)
    }

    /// A large object's frame in pieces, one of which is its text as it is stored.
    fn pieces(&self, kind: &str, object: &Object) -> Option<[Bytes; 3]> {
        let json = matches!(self.accept.format, Format::Json { .. }) && self.accept.view == View::Object;
        if !json || object.json.len() < LARGE_BYTES {
            return None;
        }
        let (open, close) = json_around(kind);
        Some([open.into(), self.served.json(object), Bytes::from_static(close)])
    }

    fn object(&mut self, kind: &str, object: &Object) -> Bytes {
        let protobuf = self.accept.format == Format::Protobuf;
        match &self.accept.view {
            View::Object => frame(protobuf, &self.served, kind, object),
            View::Table(version) => {
                let columns = &self.served.row.columns;
                let tree = self.served.tree(object);
                let mut table = respond::table(version, columns, tree["metadata"]["resourceVersion"].clone());
                if std::mem::replace(&mut self.described, true) {
                    table["columnDefinitions"] = Value::Null;
                }
                table["rows"] = json!([respond::row(columns, &tree, version, self.now, self.include)]);
                self.tree(kind, &table)
            }
            View::Metadata(version, _) => {
                self.tree(kind, &respond::partial(&self.served.tree(object), version))
            }
        }
    }

    fn tree(&self, kind: &str, object: &Value) -> Bytes {
        let plain = Format::Json { pretty: false };
        let format = if self.accept.format == Format::Protobuf { Format::Protobuf } else { plain };
        let body = respond::write(format, object);
        if format == Format::Protobuf {
            proto::watch_frame(kind, &body).into()
        } else {
            json_frame(kind, &body)
        }
    }

    fn bookmark(&self, revision: u64, initial_end: bool) -> Bytes {
        let row = &self.served.row;
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({INITIAL_END: "true"});
        }
        let mut object = json!({"kind": row.kind, "apiVersion": row.api_version(), "metadata": metadata});
        match &self.accept.view {
            View::Object => {}
            View::Table(version) => {
                let object_of_row = respond::partial(&object, version);
                object = respond::table(version, &row.columns, object["metadata"]["resourceVersion"].clone());
                object["rows"] = json!([{"cells": [], "object": object_of_row}]);
            }
            View::Metadata(version, _) => object = respond::partial(&object, version),
        }
        self.tree("BOOKMARK", &object)
    }

    fn status(&self, error: &ApiError) -> Bytes {
        self.tree("ERROR", &error.to_status())
    }
}

fn frame(protobuf: bool, served: &Served, kind: &str, object: &Object) -> Bytes {
    if protobuf && let Some(message) = served.message(object) {
        return proto::watch_frame(kind, &respond::envelope(served, &message)).into();
    }
    json_frame(kind, &served.json(object))
}

/// What stands before and after an object's text.
fn json_around(kind: &str) -> (String, &'static [u8]) {
    (format!("{{\"type\":\"{kind}\",\"object\":"), b"}\n")
}

fn json_frame(kind: &str, json: &[u8]) -> Bytes {
    let (open, close) = json_around(kind);
    let mut out = BytesMut::with_capacity(open.len() + json.len() + close.len());
    [open.as_bytes(), json, close].iter().for_each(|part| out.extend_from_slice(part));
    out.freeze()
}
