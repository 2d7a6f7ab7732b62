//! The store against a model of it: any sequence of writes, compactions, restarts and watches gives
//! what a plain map and a plain list of changes give.
#![allow(clippy::unwrap_used)]

mod kit;

use std::collections::BTreeMap;
use std::task::{Context, Poll, Waker};

use kit::{Pods, json, options, tiny};
use proptest::prelude::*;
use store::{
    CommitError, Disk, DiskOptions, Draft, Engine, Event, EventKind, Expect, HistoryError, Index, Indexer,
    Interest, Key, Op, Store, Watch, WatchFrom, Write,
};

const RESOURCES: [&str; 2] = ["pods", "apps/deployments"];

#[derive(Clone, Debug)]
struct Step {
    resource: usize,
    namespace: u8,
    name: u8,
    node: u8,
    expect: u8,
    delete: bool,
}

#[derive(Clone, Debug)]
enum Action {
    Write(Vec<Step>),
    Compact(u8),
    Reopen,
    Watch { resource: usize, interest: u8, back: u8 },
    Look { back: u8 },
    Index(u8),
    Keep,
}

fn step() -> impl Strategy<Value = Step> {
    (0..2usize, 0..3u8, 0..4u8, 0..3u8, 0..8u8, prop::bool::weighted(0.3)).prop_map(
        |(resource, namespace, name, node, expect, delete)| Step {
            resource,
            namespace,
            name,
            node,
            expect,
            delete,
        },
    )
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        24 => prop::collection::vec(step(), 1..2).prop_map(Action::Write),
        4 => prop::collection::vec(step(), 2..5).prop_map(Action::Write),
        1 => any::<u8>().prop_map(Action::Compact),
        1 => Just(Action::Reopen),
        3 => (0..2usize, 0..8u8, any::<u8>())
            .prop_map(|(resource, interest, back)| Action::Watch { resource, interest, back }),
        4 => any::<u8>().prop_map(|back| Action::Look { back }),
        1 => (0..2u8).prop_map(Action::Index),
        1 => Just(Action::Keep),
    ]
}

#[derive(Clone, Debug, PartialEq)]
struct Version {
    revision: u64,
    text: String,
    node: String,
}

#[derive(Clone, Debug)]
struct Change {
    kind: EventKind,
    key: Key,
    revision: u64,
    text: String,
    node: String,
    before: Option<Version>,
}

#[derive(Clone, Default)]
struct Model {
    objects: BTreeMap<Key, Version>,
    changes: Vec<Change>,
    revision: u64,
}

impl Model {
    fn write(&mut self, write: &Write, text: &str, node: &str) -> Result<u64, &'static str> {
        let before = self.objects.get(&write.key).cloned();
        match (write.expect, &before) {
            (Expect::Absent, Some(_)) => return Err("exists"),
            (Expect::Revision(_), None) => return Err("not found"),
            (Expect::Revision(wanted), Some(found)) if found.revision != wanted => return Err("conflict"),
            (_, None) if matches!(write.op, Op::Delete) => return Err("not found"),
            _ => {}
        }
        self.revision += 1;
        let revision = self.revision;
        let (kind, text, node) = match (&write.op, &before) {
            (Op::Delete, Some(before)) => {
                self.objects.remove(&write.key);
                (EventKind::Deleted, before.text.clone(), before.node.clone())
            }
            _ => {
                let version = Version { revision, text: text.into(), node: node.into() };
                self.objects.insert(write.key.clone(), version);
                let kind = if before.is_some() { EventKind::Modified } else { EventKind::Added };
                (kind, text.into(), node.into())
            }
        };
        self.changes.push(Change { kind, key: write.key.clone(), revision, text, node, before });
        Ok(revision)
    }

    fn at(&self, revision: u64) -> BTreeMap<Key, Version> {
        let mut objects = BTreeMap::new();
        for change in self.changes.iter().filter(|change| change.revision <= revision) {
            let version =
                Version { revision: change.revision, text: change.text.clone(), node: change.node.clone() };
            match change.kind {
                EventKind::Deleted => objects.remove(&change.key),
                _ => objects.insert(change.key.clone(), version),
            };
        }
        objects
    }
}

struct Watched {
    resource: usize,
    interest: Interest,
    watch: Watch,
    seen: u64,
}

fn wants(interest: &Interest, change: &Change) -> bool {
    match interest {
        Interest::All => true,
        Interest::Namespace(namespace) => change.key.namespace == *namespace,
        Interest::Object(namespace, name) => change.key.namespace == *namespace && change.key.name == *name,
        Interest::Field(_, node) => {
            change.node == **node || change.before.as_ref().is_some_and(|before| before.node == **node)
        }
    }
}

fn interest(number: u8) -> Interest {
    match number {
        0 | 1 => Interest::All,
        2 | 3 => Interest::Namespace(format!("ns{}", number - 2).into()),
        4 => Interest::Object("ns1".into(), "o1".into()),
        _ => Interest::Field("spec.nodeName".into(), format!("n{}", number - 5).into()),
    }
}

fn draft(text: &str, node: &str) -> Draft {
    let json = format!(r#"{{"rv":"","x":"{text}","metadata":{{"labels":{{"node":"{node}"}}}}}}"#);
    Draft { json: json.into_bytes(), revision_at: 7 }
}

fn text_of(revision: u64, text: &str, node: &str) -> String {
    let plain = json(revision, text);
    format!(r#"{},"metadata":{{"labels":{{"node":"{node}"}}}}}}"#, plain.trim_end_matches('}'))
}

struct Run {
    store: Store,
    model: Model,
    watches: Vec<Watched>,
    dir: Option<tempfile::TempDir>,
    written: u64,
}

impl Run {
    async fn new(disk: bool) -> Self {
        let dir = disk.then(|| tempfile::tempdir().unwrap());
        let store = open(dir.as_ref()).await;
        Self { store, model: Model::default(), watches: Vec::new(), dir, written: 0 }
    }

    async fn act(&mut self, action: Action) {
        match action {
            Action::Write(steps) => self.write(steps).await,
            Action::Compact(share) => {
                let revision = self.model.revision * u64::from(share) / 255;
                self.store.compact(revision).await.unwrap();
            }
            Action::Reopen => self.reopen().await,
            Action::Watch { resource, interest: number, back } => {
                let from = self.model.revision.saturating_sub(u64::from(back) / 8);
                self.watch(resource, interest(number), from);
            }
            Action::Look { back } => self.look(self.model.revision.saturating_sub(u64::from(back) / 4)),
            Action::Index(number) => {
                let index = [Index::Label("node".into()), Index::Owner][number as usize].clone();
                self.store.index(RESOURCES[0], index).await.unwrap();
            }
            Action::Keep => self.store.keep(&self.store.snapshot(RESOURCES[0])),
        }
        self.drain();
        self.compare();
    }

    async fn write(&mut self, steps: Vec<Step>) {
        let mut model = self.model.clone();
        let mut expected = Ok(Vec::new());
        let mut writes = Vec::new();
        for step in steps {
            self.written += 1;
            let key = Key::new(
                RESOURCES[step.resource],
                format!("ns{}", step.namespace),
                format!("o{}", step.name),
            );
            let (text, node) = (format!("t{}", self.written), format!("n{}", step.node));
            let current = model.objects.get(&key).map_or(0, |version| version.revision);
            let expect = match step.expect {
                0..3 => Expect::Any,
                3 | 4 => Expect::Absent,
                5 | 6 => Expect::Revision(current),
                _ => Expect::Revision(current.saturating_sub(1)),
            };
            let draft = draft(&text, &node);
            let mut attrs = Pods.attrs(&key, &draft.json);
            let field = ("spec.nodeName".into(), node.as_str().into());
            attrs.fields = attrs.fields.into_iter().chain([field]).collect();
            let op = if step.delete { Op::Delete } else { Op::Put(draft, attrs) };
            let write = Write { key, expect, op };
            if let Ok(revisions) = &mut expected {
                match model.write(&write, &text, &node) {
                    Ok(revision) => revisions.push(revision),
                    Err(error) => expected = Err(error),
                }
            }
            writes.push(write);
        }
        let got = self.store.commit_all(writes).await;
        let got = got.map(|done| done.iter().map(|one| one.revision).collect::<Vec<_>>());
        let got = got.map_err(|error| match error {
            CommitError::Exists(_) => "exists",
            CommitError::NotFound(_) => "not found",
            CommitError::Conflict(_) => "conflict",
            other => panic!("{other}"),
        });
        match (&got, &expected) {
            (Ok(got), Ok(expected)) => {
                assert_eq!(got, expected);
                self.model = model;
            }
            _ => assert_eq!(got, expected),
        }
    }

    async fn reopen(&mut self) {
        if self.dir.is_none() {
            return;
        }
        self.store.close().await;
        self.store = open(self.dir.as_ref()).await;
        assert_eq!(self.store.revision(), self.model.revision);
        for watched in std::mem::take(&mut self.watches) {
            self.watch(watched.resource, watched.interest, watched.seen);
        }
    }

    fn watch(&mut self, resource: usize, interest: Interest, from: u64) {
        match self.store.watch(RESOURCES[resource], interest.clone(), WatchFrom::Revision(from)) {
            Ok(watch) => self.watches.push(Watched { resource, interest, watch, seen: from }),
            Err(HistoryError::Compacted { requested, oldest }) => {
                assert!(requested == from && from < oldest && oldest <= self.store.revision());
            }
            Err(other) => panic!("{other}"),
        }
    }

    fn drain(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        let model = &self.model;
        let published = self.store.revision();
        self.watches.retain_mut(|watched| {
            let resource = RESOURCES[watched.resource];
            let due = model.changes.iter().filter(|change| {
                change.revision > watched.seen
                    && *change.key.resource == *resource
                    && wants(&watched.interest, change)
            });
            for change in due {
                match watched.watch.poll_next(&mut cx) {
                    Poll::Ready(Ok(event)) => same(&event, change),
                    Poll::Ready(Err(HistoryError::Lagged { .. })) => return false,
                    other => panic!("{other:?} instead of {change:?}"),
                }
            }
            assert!(watched.watch.poll_next(&mut cx).is_pending(), "an event too many");
            assert_eq!(watched.watch.progress(), Some(published));
            watched.seen = published;
            true
        });
    }

    /// The present state.
    fn compare(&self) {
        for resource in RESOURCES {
            let snapshot = self.store.snapshot(resource);
            assert_eq!(state(&snapshot), expected(&self.model.objects, resource));
            for node in ["n0", "n1", "n2"] {
                let index = Index::Field("spec.nodeName".into());
                let by_index: Vec<_> = snapshot.lookup(&index, node, None, None).unwrap().collect();
                let by_scan: Vec<_> = snapshot
                    .range(None, None)
                    .filter(|object| object.attrs.field("spec.nodeName").is_some_and(|have| **have == *node))
                    .collect();
                assert_eq!(by_index.len(), by_scan.len());
                assert!(by_index.iter().zip(by_scan).all(|(a, b)| std::sync::Arc::ptr_eq(a, b)));
            }
        }
        let weight: usize = self.store.stats().resources.iter().map(|(_, _, bytes)| bytes).sum();
        assert!(weight > 0 || self.model.objects.is_empty());
    }

    /// A past state.
    fn look(&self, revision: u64) {
        for resource in RESOURCES {
            match self.store.snapshot_at(resource, revision) {
                Ok(snapshot) => {
                    assert_eq!(snapshot.revision(), revision);
                    assert_eq!(state(&snapshot), expected(&self.model.at(revision), resource));
                }
                Err(HistoryError::Compacted { oldest, .. }) => assert!(revision < oldest),
                Err(other) => panic!("{other}"),
            }
        }
    }
}

fn same(event: &Event, change: &Change) {
    assert_eq!((event.kind, event.revision), (change.kind, change.revision));
    let json = String::from_utf8_lossy(&event.object.json);
    assert_eq!(json, text_of(change.revision, &change.text, &change.node));
    let before = event.previous.as_ref().map(|previous| previous.json.clone());
    let expect = change.before.as_ref().map(|before| text_of(before.revision, &before.text, &before.node));
    assert_eq!(before.as_deref(), expect.as_ref().map(|text| text.as_bytes()));
}

fn state(snapshot: &store::Snapshot) -> Vec<(Key, u64, String)> {
    let line = |object: &std::sync::Arc<store::Object>| {
        (object.key.clone(), object.revision, String::from_utf8_lossy(&object.json).into_owned())
    };
    snapshot.range(None, None).map(line).collect()
}

fn expected(objects: &BTreeMap<Key, Version>, resource: &str) -> Vec<(Key, u64, String)> {
    let of_it = objects.iter().filter(|(key, _)| *key.resource == *resource);
    of_it.map(|(key, v)| (key.clone(), v.revision, text_of(v.revision, &v.text, &v.node))).collect()
}

async fn open(dir: Option<&tempfile::TempDir>) -> Store {
    let engine = match dir {
        None => Engine::Memory,
        Some(dir) => {
            let options = DiskOptions { segment_bytes: 700, garbage_bytes: 1200, ..tiny(dir.path()) };
            Engine::Inline(Box::new(Disk::open(options).unwrap()))
        }
    };
    let mut options = options();
    options.history.events = 60;
    Store::open(engine, options).await.unwrap()
}

fn run(disk: bool, actions: Vec<Action>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut run = Run::new(disk).await;
        for action in actions {
            run.act(action).await;
        }
    });
}

/// Each case waits for the disk many times.
const DISK_CASES: u32 = 64;

proptest! {
    #[test]
    fn in_memory_it_does_what_the_model_does(actions in prop::collection::vec(action(), 1..150)) {
        run(false, actions);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(DISK_CASES))]

    #[test]
    fn on_disk_it_does_what_the_model_does(actions in prop::collection::vec(action(), 1..150)) {
        run(true, actions);
    }
}
