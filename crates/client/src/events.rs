//! Events: recorded without waiting, repeated ones counted, floods cut, as upstream's event correlator.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

use api::{Gvr, time};
use base::{Clock, Tasks};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::client::{Patch, WriteOptions};
use crate::plan::{About, Note};
use crate::{Client, ClientError};

/// Events waiting to be written; more are dropped.
const QUEUE: usize = 1_000;
/// Entries remembered of each kind, as upstream's LRU caches.
const REMEMBERED: usize = 4_096;
/// Events about one object from one source at once; then one more every `REFILL`.
const BURST: f64 = 25.0;
const REFILL: Duration = Duration::from_secs(300);
/// Different messages of one reason within `SIMILAR_FOR` after which they are combined.
const SIMILAR: usize = 10;
const SIMILAR_FOR: Duration = Duration::from_secs(600);
/// Tries to write one event.
const TRIES: u32 = 12;
const RETRY: Duration = Duration::from_secs(10);
/// Longer messages are cut: the API refuses them.
const MAX_MESSAGE: usize = 1_024;

/// The type of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventKind {
    /// All is well.
    Normal,
    /// Somebody should look.
    Warning,
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EventKind::Normal => "Normal",
            EventKind::Warning => "Warning",
        })
    }
}

/// Records the events of one component; cheap to clone.
#[derive(Clone, Debug)]
pub struct Recorder(mpsc::Sender<(Note, Timestamp)>, Clock);

impl Recorder {
    /// Writes core/v1 events with `client`, in a task of `tasks`. `component` and `host` are the events' source.
    pub fn new(client: Client, component: &str, host: &str, clock: Clock, tasks: &Tasks) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let source = Source { component: component.to_owned(), host: host.to_owned() };
        let writer = Writer { client, source, clock: clock.clone(), state: Correlator::default() };
        tasks.spawn("events", writer.run(receiver));
        Recorder(sender, clock)
    }

    /// A recorder that hands events to `sender` (for tests).
    pub fn to_channel(sender: mpsc::Sender<(Note, Timestamp)>, clock: Clock) -> Self {
        Recorder(sender, clock)
    }

    /// Records an event; dropped when too many wait.
    pub fn record(&self, note: Note) {
        let now = self.1.now();
        if let Err(error) = self.0.try_send((note, now)) {
            tracing::debug!(%error, "an event is dropped");
        }
    }

    /// Records an event about an object.
    pub fn event(&self, about: &About, kind: EventKind, reason: &str, message: &str) {
        let (reason, message) = (reason.to_owned(), message.to_owned());
        self.record(Note { about: about.clone(), kind, reason, message });
    }
}

struct Source {
    component: String,
    host: String,
}

/// What makes two events similar: everything but the message.
type Similar = (About, EventKind, String);
/// What makes two events the same.
type Same = (Similar, String);

#[derive(Default)]
struct Seen {
    count: i64,
    first: Timestamp,
    namespace: String,
    name: String,
}

/// A map that forgets its oldest entries.
struct Bounded<K, V> {
    map: BTreeMap<K, V>,
    order: VecDeque<K>,
}

impl<K, V> Default for Bounded<K, V> {
    fn default() -> Self {
        Bounded { map: BTreeMap::new(), order: VecDeque::new() }
    }
}

impl<K: Ord + Clone, V: Default> Bounded<K, V> {
    fn entry(&mut self, key: &K) -> &mut V {
        if !self.map.contains_key(key) {
            while self.order.len() >= REMEMBERED {
                if let Some(oldest) = self.order.pop_front() {
                    self.map.remove(&oldest);
                }
            }
            self.order.push_back(key.clone());
        }
        self.map.entry(key.clone()).or_default()
    }
}

#[derive(Default)]
struct Correlator {
    tokens: Bounded<About, Option<(f64, Timestamp)>>,
    similar: Bounded<Similar, (BTreeSet<String>, Option<Timestamp>)>,
    seen: Bounded<Same, Seen>,
}

/// What to write for an event.
#[derive(Debug, PartialEq)]
enum Action {
    Drop,
    Create(Note),
    Count { note: Note, namespace: String, name: String, count: i64, first: Timestamp },
}

impl Correlator {
    fn admit(&mut self, mut note: Note, now: Timestamp) -> Action {
        // The version an event is about differs from event to event and must not tell them apart.
        let mut about = note.about.clone();
        about.resource_version.clear();
        if !self.take_token(&about, now) {
            return Action::Drop;
        }
        let similar: Similar = (about, note.kind, note.reason.clone());
        let (messages, since) = self.similar.entry(&similar);
        let age = since.map(|since| now.duration_since(since));
        if age.is_none_or(|age| age > jiff::SignedDuration::try_from(SIMILAR_FOR).unwrap_or_default()) {
            messages.clear();
        }
        *since = Some(now);
        messages.insert(note.message.clone());
        let mut same: Same = (similar, note.message.clone());
        if messages.len() >= SIMILAR {
            messages.pop_first();
            note.message = format!("(combined from similar events): {}", note.message);
            same.1.clear();
        }
        let seen = self.seen.entry(&same);
        seen.count += 1;
        if seen.count == 1 || seen.name.is_empty() {
            seen.count = 1;
            seen.first = now;
            return Action::Create(note);
        }
        let (namespace, name) = (seen.namespace.clone(), seen.name.clone());
        Action::Count { note, namespace, name, count: seen.count, first: seen.first }
    }

    fn take_token(&mut self, about: &About, now: Timestamp) -> bool {
        let slot = self.tokens.entry(about);
        let (tokens, last) = slot.unwrap_or((BURST, now));
        let passed = now.duration_since(last).as_secs_f64().max(0.0);
        let tokens = (tokens + passed / REFILL.as_secs_f64()).min(BURST);
        let enough = tokens >= 1.0;
        *slot = Some((if enough { tokens - 1.0 } else { tokens }, now));
        enough
    }

    fn created(&mut self, note: &Note, namespace: &str, name: &str) {
        let mut about = note.about.clone();
        about.resource_version.clear();
        let combined = note.message.starts_with("(combined from similar events): ");
        let message = if combined { String::new() } else { note.message.clone() };
        let seen = self.seen.entry(&((about, note.kind, note.reason.clone()), message));
        seen.namespace = namespace.to_owned();
        seen.name = name.to_owned();
    }
}

struct Writer {
    client: Client,
    source: Source,
    clock: Clock,
    state: Correlator,
}

impl Writer {
    async fn run(mut self, mut receiver: mpsc::Receiver<(Note, Timestamp)>) {
        while let Some((note, at)) = receiver.recv().await {
            self.write(note, at).await;
        }
    }

    async fn write(&mut self, note: Note, at: Timestamp) {
        let action = self.state.admit(note, at);
        for _ in 0..TRIES {
            match self.try_write(&action, at).await {
                Ok(()) => return,
                // The server has judged this event: trying again would not change its mind.
                Err(ClientError::Api(error)) if error.code < 500 && error.code != 429 => {
                    tracing::debug!(%error, "an event was refused");
                    return;
                }
                Err(error) => tracing::debug!(%error, "an event could not be written"),
            }
            self.clock.sleep(RETRY).await;
        }
    }

    async fn try_write(&mut self, action: &Action, at: Timestamp) -> Result<(), ClientError> {
        let gvr = Gvr::new("", "v1", "events");
        let (note, count, first) = match action {
            Action::Drop => return Ok(()),
            Action::Create(note) => (note, 1, at),
            Action::Count { note, namespace, name, count, first } => {
                let patch = json!({
                    "count": count, "lastTimestamp": time::format(at), "message": cut(&note.message),
                });
                let patch = Patch::Strategic(patch);
                match self.client.patch_at::<Value>(&gvr, namespace, name, "", &patch).await {
                    Ok(_) => return Ok(()),
                    Err(error) if error.is_not_found() => (note, *count, *first),
                    Err(error) => return Err(error),
                }
            }
        };
        let event = self.render(note, at, first, count);
        let namespace = event["metadata"]["namespace"].as_str().unwrap_or("default").to_owned();
        let name = event["metadata"]["name"].as_str().unwrap_or("").to_owned();
        let options = WriteOptions::default();
        let _: Value = self.client.create_at(&gvr, &namespace, &event, &options).await?;
        self.state.created(note, &namespace, &name);
        Ok(())
    }

    fn render(&self, note: &Note, at: Timestamp, first: Timestamp, count: i64) -> Value {
        let about = &note.about;
        let namespace = if about.namespace.is_empty() { "default" } else { &about.namespace };
        let mut object = json!({
            "apiVersion": about.api_version, "kind": about.kind, "name": about.name, "uid": about.uid,
        });
        for (field, text) in [
            ("namespace", &about.namespace),
            ("resourceVersion", &about.resource_version),
            ("fieldPath", &about.field_path),
        ] {
            if !text.is_empty() {
                object[field] = json!(text);
            }
        }
        let mut source = json!({"component": self.source.component});
        if !self.source.host.is_empty() {
            source["host"] = json!(self.source.host);
        }
        json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": format!("{}.{:x}", about.name, at.as_nanosecond()), "namespace": namespace},
            "involvedObject": object, "reason": note.reason, "message": cut(&note.message), "source": source,
            "firstTimestamp": time::format(first), "lastTimestamp": time::format(at), "count": count,
            "type": note.kind.to_string(), "reportingComponent": self.source.component,
            "reportingInstance": self.source.host,
        })
    }
}

fn cut(message: &str) -> &str {
    let mut end = message.len().min(MAX_MESSAGE);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    &message[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(name: &str, message: &str) -> Note {
        let about = About { name: name.into(), ..About::default() };
        Note { about, kind: EventKind::Normal, reason: "R".into(), message: message.into() }
    }

    #[test]
    fn repeats_are_counted_and_floods_cut() {
        let mut state = Correlator::default();
        let now = Timestamp::UNIX_EPOCH;
        let first = note("a", "m");
        assert_eq!(state.admit(first.clone(), now), Action::Create(first.clone()));
        state.created(&first, "default", "a.1");
        let again = state.admit(first.clone(), now);
        assert!(matches!(again, Action::Count { count: 2, ref name, .. } if name == "a.1"));
        for number in 0..8 {
            assert!(matches!(state.admit(note("a", &number.to_string()), now), Action::Create(_)));
        }
        let Action::Create(combined) = state.admit(note("a", "ten"), now) else { panic!("created") };
        assert_eq!(combined.message, "(combined from similar events): ten");
        for _ in 0..14 {
            assert_ne!(state.admit(note("a", "m"), now), Action::Drop);
        }
        assert_eq!(state.admit(note("a", "m"), now), Action::Drop);
        assert!(
            matches!(state.admit(note("b", "m"), now), Action::Create(_)),
            "other objects have their own"
        );
    }
}
