//! The store over the memory engine: conditions, snapshots, watches, history.

#![allow(clippy::unwrap_used)]

mod kit;

use std::sync::Arc;
use std::time::Duration;

use kit::{draft, memory, next, on_node, options, pod};
use store::{
    Attrs, CommitError, Engine, EventKind, Expect, HistoryError, Index, Interest, Store, WatchFrom, Write,
};

#[tokio::test]
async fn conditions_decide_and_carry_the_current_object() {
    let store = memory().await;
    let key = pod("default", "a");
    let first = store.commit(Write::create(key.clone(), draft("1"), Attrs::default())).await.unwrap();
    assert_eq!(first.revision, 1);
    assert_eq!(&first.object.json[..], br#"{"rv":"1","x":"1"}"#);
    let again = store.commit(Write::create(key.clone(), draft("2"), Attrs::default())).await;
    assert!(matches!(again, Err(CommitError::Exists(object)) if object.revision == 1));
    let second = store.commit(Write::update(key.clone(), 1, draft("2"), Attrs::default())).await.unwrap();
    assert_eq!(second.previous.unwrap().revision, 1);
    let late = store.commit(Write::update(key.clone(), 1, draft("3"), Attrs::default())).await;
    assert!(matches!(late, Err(CommitError::Conflict(object)) if object.revision == 2));
    let gone = store.commit(Write::delete(key.clone(), Expect::Revision(2))).await.unwrap();
    assert_eq!(&gone.object.json[..], br#"{"rv":"3","x":"2"}"#);
    assert!(store.get(&key).is_none());
    let absent = store.commit(Write::delete(key.clone(), Expect::Any)).await;
    assert!(matches!(absent, Err(CommitError::NotFound(_))));
    assert_eq!(store.revision(), 3);
}

#[tokio::test]
async fn several_writes_happen_together_or_not_at_all() {
    let store = memory().await;
    let put = |name: &str| Write::create(pod("default", name), draft(name), Attrs::default());
    store.commit_all(vec![put("a"), put("b")]).await.unwrap();
    let failed = store.commit_all(vec![put("c"), put("a")]).await;
    assert!(matches!(failed, Err(CommitError::Exists(_))));
    assert!(store.get(&pod("default", "c")).is_none());
    assert_eq!(store.snapshot("pods").len(), 2);
}

#[tokio::test]
async fn ranges_and_indexes_keep_order_and_namespace() {
    let store = memory().await;
    for (namespace, name, node) in
        [("b", "2", "n1"), ("a", "1", "n1"), ("b", "1", "n2"), ("a", "2", "n1"), ("c", "1", "n1")]
    {
        let write = Write::create(pod(namespace, name), draft(name), on_node(node));
        store.commit(write).await.unwrap();
    }
    let snapshot = store.snapshot("pods");
    let names = |objects: Vec<&Arc<store::Object>>| -> Vec<String> {
        objects.iter().map(|o| format!("{}/{}", o.key.namespace, o.key.name)).collect()
    };
    assert_eq!(names(snapshot.range(None, None).collect()), ["a/1", "a/2", "b/1", "b/2", "c/1"]);
    assert_eq!(names(snapshot.range(Some("b"), None).collect()), ["b/1", "b/2"]);
    assert_eq!(names(snapshot.range(Some("b"), Some(("b", "1"))).collect()), ["b/2"]);
    assert_eq!(names(snapshot.range(Some("b"), Some(("a", "9"))).collect()), ["b/1", "b/2"]);
    assert!(names(snapshot.range(Some("a"), Some(("b", "1"))).collect()).is_empty());
    let node = Index::Field("spec.nodeName".into());
    let by = |ns, after| names(snapshot.lookup(&node, "n1", ns, after).unwrap().collect());
    assert_eq!(by(None, None), ["a/1", "a/2", "b/2", "c/1"]);
    assert_eq!(by(Some("a"), None), ["a/1", "a/2"]);
    assert_eq!(by(None, Some(("a", "2"))), ["b/2", "c/1"]);
    let label = Index::Label("app".into());
    assert!(snapshot.lookup(&label, "web", None, None).is_none());
    store.index("pods", label.clone()).await.unwrap();
    assert_eq!(store.snapshot("pods").lookup(&label, "web", None, None).unwrap().count(), 5);
}

#[tokio::test]
async fn a_past_state_can_be_listed_while_history_is_kept() {
    let store = memory().await;
    for name in ["a", "b", "c"] {
        store.commit(Write::create(pod("x", name), draft(name), on_node("n1"))).await.unwrap();
    }
    store.commit(Write::delete(pod("x", "a"), Expect::Any)).await.unwrap();
    store.commit(Write::update(pod("x", "b"), 2, draft("B"), on_node("n2"))).await.unwrap();
    let past = store.snapshot_at("pods", 3).unwrap();
    assert_eq!(past.revision(), 3);
    assert_eq!(past.range(None, None).map(|o| o.revision).collect::<Vec<_>>(), [1, 2, 3]);
    let node = Index::Field("spec.nodeName".into());
    assert_eq!(past.lookup(&node, "n1", None, None).unwrap().count(), 3);
    assert!(matches!(store.snapshot_at("pods", 9), Err(HistoryError::Future { current: 5, .. })));
    store.compact(4).await.unwrap();
    assert!(store.snapshot_at("pods", 3).is_ok(), "kept: a list is reading it");
    assert_eq!(
        store.snapshot_at("pods", 2).unwrap_err(),
        HistoryError::Compacted { requested: 2, oldest: 4 }
    );
    assert!(store.watch("pods", Interest::All, WatchFrom::Revision(3)).is_err());
    assert!(store.watch("pods", Interest::All, WatchFrom::Revision(4)).is_ok());
    assert!(store.watch("others", Interest::All, WatchFrom::Revision(3)).is_err());
}

#[tokio::test]
async fn a_watch_wants_only_its_own_and_promises_progress() {
    let store = memory().await;
    let put = |name: &str, node: &str| Write::create(pod("x", name), draft(name), on_node(node));
    let field = Interest::Field("spec.nodeName".into(), "n1".into());
    let (snapshot, mut watch) = store.snapshot_then_watch("pods", field.clone());
    assert_eq!(snapshot.revision(), 0);
    store.commit(put("a", "n1")).await.unwrap();
    store.commit(put("b", "n2")).await.unwrap();
    assert_eq!(watch.progress(), None);
    let event = next(&mut watch).await.unwrap();
    assert_eq!((event.kind, event.revision), (EventKind::Added, 1));
    let idle = tokio::time::timeout(Duration::from_millis(20), watch.next()).await;
    assert!(idle.is_err());
    assert_eq!(watch.progress(), Some(2));
    // Leaving the selection is seen as well.
    store.commit(Write::update(pod("x", "a"), 1, draft("a"), on_node("n3"))).await.unwrap();
    let event = next(&mut watch).await.unwrap();
    assert_eq!(event.kind, EventKind::Modified);
    assert!(event.previous.is_some());
    let mut resumed = store.watch("pods", field, WatchFrom::Revision(1)).unwrap();
    assert_eq!(next(&mut resumed).await.unwrap().revision, 3);
}

#[tokio::test]
async fn a_slow_watch_is_cut_off_and_history_is_bounded() {
    let mut options = options();
    options.history.events = 10;
    let store = Store::open(Engine::Memory, options).await.unwrap();
    let mut slow = store.watch("pods", Interest::All, WatchFrom::Now).unwrap();
    let other = Interest::Namespace("other".into());
    let mut idle = store.watch("pods", other, WatchFrom::Now).unwrap();
    for i in 0..50 {
        let write = Write::create(pod("x", &format!("p{i}")), draft("t"), Attrs::default());
        store.commit(write).await.unwrap();
    }
    assert_eq!(store.stats().history_events, 10);
    assert_eq!(next(&mut slow).await.unwrap_err(), HistoryError::Lagged { oldest: 40 });
    store.commit(Write::create(pod("other", "a"), draft("t"), Attrs::default())).await.unwrap();
    assert_eq!(next(&mut idle).await.unwrap().revision, 51);
}

#[tokio::test]
async fn closing_ends_watches_and_refuses_writes() {
    let store = memory().await;
    let mut watch = store.watch("pods", Interest::All, WatchFrom::Now).unwrap();
    store.close().await;
    assert_eq!(next(&mut watch).await.unwrap_err(), HistoryError::Closed);
    let write = Write::create(pod("x", "a"), draft("t"), Attrs::default());
    assert!(matches!(store.commit(write).await, Err(CommitError::Closed)));
}

#[tokio::test(start_paused = true)]
async fn what_nobody_writes_expires() {
    let origin = "2030-01-01T00:00:00Z".parse().unwrap();
    let clock = base::clock::Clock::starting_at(origin);
    let options = store::Options { clock: clock.clone(), ..options() };
    let store = Store::open(Engine::Memory, options).await.unwrap();
    let hour = Duration::from_secs(3600);
    for i in 0..90u64 {
        let name = format!("p{i}");
        store.commit(Write::create(pod("x", &name), draft("t"), Attrs::default())).await.unwrap();
        clock.sleep(Duration::from_secs(60)).await;
        store.expire("pods", hour).await.unwrap();
        store.commit(kit::put(pod("x", "kept"), &name)).await.unwrap();
        let left = store.snapshot("pods").len() as u64;
        assert!(left >= i.min(58) + 2 && left <= i.min(60) + 2, "{left} after {i} minutes");
    }
    assert!(store.get(&pod("x", "kept")).is_some() && store.get(&pod("x", "p0")).is_none());
}
