//! What the store's tests share: small objects, an indexer, and stores in temporary directories.
#![allow(dead_code, clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base::clock::Clock;
use store::{
    Attrs, DiskOptions, Draft, Engine, Event, Expect, HistoryError, Index, Indexer, Key, Options,
    PlainIndexer, Store, Watch, Write,
};

/// Knows one indexed field.
pub struct Pods;

impl Indexer for Pods {
    fn attrs(&self, key: &Key, json: &[u8]) -> Attrs {
        PlainIndexer.attrs(key, json)
    }

    fn indexes(&self, _: &str) -> Vec<Index> {
        vec![Index::Field("spec.nodeName".into()), Index::Owner]
    }
}

pub fn options() -> Options {
    Options::new(Arc::new(Pods), Clock::system())
}

pub async fn memory() -> Store {
    Store::open(Engine::Memory, options()).await.unwrap()
}

/// Tiny files, so that a test goes through many of them.
pub fn tiny(dir: &Path) -> DiskOptions {
    DiskOptions { segment_bytes: 4 << 10, garbage_bytes: 8 << 10, ..DiskOptions::new(dir) }
}

pub async fn disk(options_of_disk: DiskOptions) -> Store {
    Store::open(Engine::disk(options_of_disk).unwrap(), options()).await.unwrap()
}

/// `{"rv":"<revision>","x":"<text>"}`
pub fn draft(text: &str) -> Draft {
    let json = format!(r#"{{"rv":"","x":"{text}"}}"#);
    Draft { json: json.into_bytes(), revision_at: 7 }
}

pub fn json(revision: u64, text: &str) -> String {
    format!(r#"{{"rv":"{revision}","x":"{text}"}}"#)
}

pub fn on_node(node: &str) -> Attrs {
    let fields = [(Arc::from("spec.nodeName"), Arc::from(node))];
    let labels = [(Arc::from("app"), Arc::from("web"))];
    Attrs { fields: Box::new(fields), labels: Box::new(labels), ..Attrs::default() }
}

pub fn pod(namespace: &str, name: &str) -> Key {
    Key::new("pods", namespace, name)
}

pub fn put(key: Key, text: &str) -> Write {
    Write { key, expect: Expect::Any, op: store::Op::Put(draft(text), on_node("n1")) }
}

/// The next event, or a failed test.
pub async fn next(watch: &mut Watch) -> Result<Arc<Event>, HistoryError> {
    let wait = tokio::time::timeout(Duration::from_secs(20), watch.next()).await;
    wait.expect("an event within twenty seconds")
}

/// Everything in a store, as text.
pub fn dump(store: &Store) -> Vec<String> {
    let mut lines = Vec::new();
    for resource in store.resources() {
        for object in store.snapshot(&resource).range(None, None) {
            let text = String::from_utf8_lossy(&object.json).into_owned();
            lines.push(format!("{} {} {text} {:?}", object.key, object.revision, object.attrs));
        }
    }
    lines
}
