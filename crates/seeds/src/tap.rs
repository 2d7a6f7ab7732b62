//! The journal of a simulated store: keeps nothing, shows every commit to who wants to judge it, and sums all of
//! them up in one number. Must not know what the objects mean.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

use base::Clock;
use parking_lot::Mutex;
use serde_json::Value;
use store::{EngineError, Interner, Journal, LoadEnd, Loaded};

/// Commits that are kept to be shown when a seed fails.
const KEPT: usize = 60;

/// One commit as it happens.
pub struct Commit<'a> {
    /// Virtual milliseconds since the start.
    pub at: u64,
    /// Revision.
    pub revision: u64,
    /// Resource, such as `pods` or `apps/deployments`.
    pub resource: &'a str,
    /// Namespace; empty for cluster-scoped objects.
    pub namespace: &'a str,
    /// Name.
    pub name: &'a str,
    /// The object; `None` when it is deleted.
    pub object: Option<&'a Arc<Value>>,
}

/// Sees every commit, in order, before anybody else can.
pub trait Watcher: Send {
    /// One commit.
    fn commit(&mut self, commit: &Commit<'_>);
}

/// What a run leaves behind.
#[derive(Default)]
pub struct Log {
    hash: DefaultHasher,
    /// How many commits there were.
    pub count: u64,
    /// How many of them were no heartbeats or events.
    pub busy: u64,
    /// The last ones, a line each.
    pub last: VecDeque<String>,
    /// Print each as it happens.
    pub print: bool,
}

impl Log {
    /// A new log.
    pub fn printing(print: bool) -> Log {
        Log { print, ..Log::default() }
    }

    /// All commits in one number.
    pub fn digest(&self) -> u64 {
        self.hash.finish()
    }
}

/// The journal.
pub struct Tap<W> {
    /// The log.
    pub log: Arc<Mutex<Log>>,
    /// The judge.
    pub watcher: Arc<Mutex<W>>,
    /// Virtual time.
    pub clock: Clock,
}

/// True for writes that go on for ever in a cluster at rest.
pub fn is_heartbeat(resource: &str) -> bool {
    matches!(resource, "coordination.k8s.io/leases" | "events" | "events.k8s.io/events")
}

fn line(commit: &Commit<'_>) -> String {
    let place = match commit.namespace {
        "" => commit.name.to_owned(),
        namespace => format!("{namespace}/{}", commit.name),
    };
    let head = format!("{:>9} ms r{} {} {place}", commit.at, commit.revision, commit.resource);
    let Some(object) = commit.object else { return format!("{head} gone") };
    let meta = &object["metadata"];
    let mut text = format!(
        "{head} rv={}",
        object["metadata"]["uid"].as_str().map_or("", |uid| &uid[..8.min(uid.len())])
    );
    if let Some(at) = meta["deletionTimestamp"].as_str() {
        text.push_str(&format!(" deleting={at} finalizers={}", meta["finalizers"]));
    }
    if matches!(commit.resource, "pods") {
        let ready = object["status"]["conditions"].as_array().into_iter().flatten();
        let ready =
            ready.filter(|c| c["type"] == "Ready").map(|c| c["status"].to_string()).collect::<String>();
        text.push_str(&format!(
            " node={} phase={} ready={ready}",
            object["spec"]["nodeName"], object["status"]["phase"]
        ));
    } else if !is_heartbeat(commit.resource) {
        let mut spec = object["spec"].clone();
        if let Some(spec) = spec.as_object_mut() {
            spec.remove("template");
        }
        text.push_str(&format!(" spec={spec} status={}", object["status"]));
    } else if let Some(note) = object["message"].as_str() {
        text.push_str(&format!(" {} {note}", object["reason"]));
    }
    if text.len() > 900 {
        let mut end = 900;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
    text
}

impl<W: Watcher> Journal for Tap<W> {
    fn load(&mut self, _: &mut Interner, _: &mut dyn FnMut(Loaded)) -> Result<LoadEnd, EngineError> {
        Ok(LoadEnd::default())
    }

    fn append(&mut self, changes: &[store::Change], _: u32, _: i64) -> Result<(), EngineError> {
        let at = u64::try_from(self.clock.monotonic().as_millis()).unwrap_or(u64::MAX);
        for change in changes {
            let (key, json) = match change {
                store::Change::Put { object, .. } => (&object.key, Some(&object.json)),
                store::Change::Delete { key, .. } => (key, None),
            };
            let object: Option<Arc<Value>> =
                json.and_then(|json| serde_json::from_slice(json).ok()).map(Arc::new);
            let commit = Commit {
                at,
                revision: change.revision(),
                resource: &key.resource,
                namespace: &key.namespace,
                name: &key.name,
                object: object.as_ref(),
            };
            self.note(&commit, json.map_or(&b"gone"[..], |json| json));
            self.watcher.lock().commit(&commit);
        }
        Ok(())
    }
}

impl<W: Watcher> Tap<W> {
    fn note(&self, commit: &Commit<'_>, json: &[u8]) {
        let mut log = self.log.lock();
        for text in [commit.resource, commit.namespace, commit.name] {
            log.hash.write(text.as_bytes());
        }
        log.hash.write(json);
        log.hash.write_u64(commit.at);
        log.count += 1;
        log.busy += u64::from(!is_heartbeat(commit.resource));
        let worth = commit.resource != "coordination.k8s.io/leases" && commit.at > 0;
        if log.print && worth {
            println!("{}", line(commit));
        } else if worth && commit.resource != "events" {
            if log.last.len() == KEPT {
                log.last.pop_front();
            }
            log.last.push_back(line(commit));
        }
    }
}
