//! Watches while many write: order, completeness, and what progress promises.
#![allow(clippy::unwrap_used)]

mod kit;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kit::{disk, draft, memory, next, on_node, pod, put, tiny};
use store::{EventKind, Expect, Interest, Op, Store, Watch, WatchFrom, Write};

const WRITERS: usize = 6;
const WRITES: usize = 300;

async fn writer(store: Store, number: usize) {
    for i in 0..WRITES {
        let key = pod(&format!("ns{}", i % 3), &format!("w{number}-{}", i % 11));
        let op = match i % 4 {
            3 => Op::Delete,
            _ => Op::Put(draft(&format!("{i}")), on_node(&format!("n{}", (i + number) % 4))),
        };
        // Deleting what is not there is part of the game.
        let _ = store.commit(Write { key, expect: Expect::Any, op }).await;
        if i % 16 == 0 {
            tokio::task::yield_now().await;
        }
    }
}

type State = BTreeMap<(String, String), u64>;

fn state(snapshot: &store::Snapshot) -> State {
    let place = |key: &store::Key| (key.namespace.to_string(), key.name.to_string());
    snapshot.range(None, None).map(|object| (place(&object.key), object.revision)).collect()
}

/// Follows a watch up to `end`, checking order, and gives the state that its events build.
async fn follow(mut watch: Watch, mut state: State, interest: Interest, end: Arc<AtomicU64>) -> State {
    let (mut last, mut promised) = (0, 0);
    loop {
        if let Some(progress) = watch.progress() {
            assert!(progress >= promised && progress >= last, "{progress} after {promised}, {last}");
            promised = progress;
        }
        if end.load(Ordering::SeqCst) != 0 && promised >= end.load(Ordering::SeqCst) {
            return state;
        }
        let next = tokio::time::timeout(std::time::Duration::from_millis(20), watch.next()).await;
        let Ok(event) = next else { continue };
        let event = event.unwrap();
        assert!(event.revision > last, "{} after {last}", event.revision);
        assert!(event.revision > promised, "{} though {promised} was promised", event.revision);
        assert!(interest.wants(&event));
        last = event.revision;
        let key = &event.object.key;
        let place = (key.namespace.to_string(), key.name.to_string());
        let before = state.get(&place).copied();
        if interest == Interest::All {
            assert_eq!(before, event.previous.as_ref().map(|previous| previous.revision));
            assert_eq!(before.is_none(), event.kind == EventKind::Added);
        }
        match event.kind {
            EventKind::Deleted => state.remove(&place),
            _ => state.insert(place, event.revision),
        };
    }
}

/// Snapshots taken all the while hold nothing newer than they say, and never go back.
fn look(store: &Store, end: &AtomicU64) {
    let mut last = 0;
    while end.load(Ordering::SeqCst) == 0 {
        let snapshot = store.snapshot("pods");
        assert!(snapshot.revision() >= last);
        last = snapshot.revision();
        let newest = snapshot.range(None, None).map(|object| object.revision).max();
        assert!(newest.unwrap_or(0) <= last, "{newest:?} in a snapshot at {last}");
    }
}

async fn storm(store: Store) {
    let end = Arc::new(AtomicU64::new(0));
    let mut followers = tokio::task::JoinSet::new();
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..WRITERS {
        writers.spawn(writer(store.clone(), number));
    }
    let (reader, stop) = (store.clone(), Arc::clone(&end));
    let reader = std::thread::spawn(move || look(&reader, &stop));
    for round in 0..20 {
        let interest = match round % 4 {
            0 => Interest::All,
            1 => Interest::Namespace("ns1".into()),
            2 => Interest::Object("ns2".into(), "w1-2".into()),
            _ => Interest::Field("spec.nodeName".into(), "n2".into()),
        };
        let (snapshot, watch) = store.snapshot_then_watch("pods", interest.clone());
        let state = state(&snapshot);
        let all = interest == Interest::All;
        let following = follow(watch, state, interest, Arc::clone(&end));
        followers.spawn(async move { (all, following.await) });
        tokio::task::yield_now().await;
    }
    writers.join_all().await;
    end.store(store.revision(), Ordering::SeqCst);
    reader.join().unwrap();
    let finished = state(&store.snapshot("pods"));
    for (all, built) in followers.join_all().await {
        assert!(!all || built == finished);
    }
    assert_eq!(store.stats().watches, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_watcher_sees_every_change_once_in_order_in_memory() {
    storm(memory().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_watcher_sees_every_change_once_in_order_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    storm(disk(tiny(dir.path())).await).await;
}

#[tokio::test]
async fn a_reader_that_waits_for_a_revision_sees_it() {
    let store = memory().await;
    let waiting = store.clone();
    let mut reader = tokio::task::JoinSet::new();
    reader.spawn(async move {
        waiting.wait_for(3).await.unwrap();
        waiting.snapshot("pods").revision()
    });
    for i in 0..3 {
        tokio::task::yield_now().await;
        store.commit(put(pod("x", "a"), &format!("{i}"))).await.unwrap();
    }
    assert_eq!(reader.join_all().await, [3]);
}

#[tokio::test]
async fn a_frame_is_encoded_once_for_all_watchers() {
    let store = memory().await;
    let watch = || store.watch("pods", Interest::All, WatchFrom::Now).unwrap();
    let mut watches = [watch(), watch(), watch()];
    store.commit(put(pod("x", "a"), "1")).await.unwrap();
    let mut made = 0;
    for watch in &mut watches {
        let event = next(watch).await.unwrap();
        let frame = event.frame(0, |event| {
            made += 1;
            event.object.json.clone()
        });
        assert_eq!(frame.len(), event.object.json.len());
    }
    assert_eq!(made, 1);
}
