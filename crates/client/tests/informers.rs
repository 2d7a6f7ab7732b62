//! Informers and the runner against a scripted server, in virtual time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use api::UserInfo;
use api::k8s::api::core::v1::ConfigMap;
use base::http::{self as body, Body, BodySender};
use base::{Clock, Rng, Tasks};
use client::plan::{Mode, to_value};
use client::{
    Cache, Client, InProcess, Informer, Key, Meta, Plan, Queue, Reconcile, ReconcileError, Recorder,
    ResourceRef, Runner, SharedInformers, Step,
};
use futures::FutureExt;
use http::{Request, Response};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};

/// One answer of the server, and what the request must contain.
struct Answer {
    expect: &'static str,
    code: u16,
    body: Body,
}

#[derive(Default)]
struct Script {
    answers: VecDeque<Answer>,
    log: Vec<String>,
}

#[derive(Clone, Default)]
struct Server(Arc<Mutex<Script>>);

impl Server {
    fn answer(&self, expect: &'static str, code: u16, content: Value) {
        self.push(expect, code, body::full(content.to_string()));
    }

    fn stream(&self, expect: &'static str) -> BodySender {
        let (sender, stream) = body::channel(100);
        self.push(expect, 200, stream);
        sender
    }

    fn push(&self, expect: &'static str, code: u16, body: Body) {
        self.0.lock().answers.push_back(Answer { expect, code, body });
    }

    fn client(&self, clock: &Clock) -> Client {
        let server = self.clone();
        let handler = Arc::new(move |request: Request<Body>| {
            let line = format!("{} {}", request.method(), request.uri());
            let mut script = server.0.lock();
            script.log.push(line.clone());
            let answer = script.answers.pop_front();
            async move {
                let Some(answer) = answer else { return std::future::pending().await };
                assert!(line.contains(answer.expect), "{line} does not contain {}", answer.expect);
                Response::builder().status(answer.code).body(answer.body).expect("a response")
            }
            .boxed()
        });
        Client::new(Arc::new(InProcess::new(handler, UserInfo::anonymous())), "test", clock.clone())
    }
}

fn map(name: &str, revision: u64) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "n", "uid": name, "resourceVersion": revision.to_string()},
    })
}

fn event(kind: &str, object: Value) -> Vec<u8> {
    format!("{}\n", json!({"type": kind, "object": object})).into_bytes()
}

fn mark(revision: u64, end: bool) -> Vec<u8> {
    let annotations = if end { json!({"k8s.io/initial-events-end": "true"}) } else { json!({}) };
    let meta = json!({"resourceVersion": revision.to_string(), "annotations": annotations});
    event("BOOKMARK", json!({"kind": "ConfigMap", "metadata": meta}))
}

async fn send(sender: &BodySender, bytes: Vec<u8>) {
    sender.send(Ok(bytes.into())).await.expect("the watch is open");
}

struct World {
    server: Server,
    tasks: Tasks,
    informer: Arc<Informer<ConfigMap>>,
    changes: Arc<Mutex<Vec<String>>>,
}

fn world(script: impl FnOnce(&Server)) -> World {
    let (clock, tasks, server) = (Clock::system(), Tasks::new(), Server::default());
    script(&server);
    let informers = SharedInformers::new(server.client(&clock), clock, Rng::seeded(1), tasks.clone());
    let informer = informers.of::<ConfigMap>();
    assert!(Arc::ptr_eq(&informer, &informers.of::<ConfigMap>()), "one informer a kind");
    let changes: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = changes.clone();
    informer.on_change(move |change| {
        let word = match change {
            client::Change::Added(_) => "+",
            client::Change::Modified { .. } => "~",
            client::Change::Deleted(_) => "-",
        };
        log.lock().push(format!("{word}{}", change.object().name()));
    });
    World { server, tasks, informer, changes }
}

async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_list_fills_the_cache_and_resumes() {
    let mut streams = Vec::new();
    let world = world(|server| {
        streams.push(server.stream("sendInitialEvents=true"));
        streams.push(server.stream("resourceVersion=9"));
    });
    send(&streams[0], event("ADDED", map("a", 3))).await;
    settle().await;
    assert!(!world.informer.is_synced());
    send(&streams[0], mark(5, true)).await;
    world.informer.synced().await;
    send(&streams[0], event("MODIFIED", map("a", 7))).await;
    send(&streams[0], mark(9, false)).await;
    settle().await;
    assert_eq!(*world.changes.lock(), ["+a", "~a"]);
    assert_eq!(world.informer.cache().revision(), 9);
    // The server ends the watch; the next one begins where this one stopped.
    tokio::time::sleep(Duration::from_secs(300)).await;
    drop(streams.remove(0));
    settle().await;
    send(&streams[0], event("DELETED", map("a", 11))).await;
    settle().await;
    assert!(world.informer.cache().is_empty());
    assert!(world.tasks.drain(Duration::from_secs(1)).await);
}

#[tokio::test(start_paused = true)]
async fn an_older_server_is_listed_and_an_expired_watch_is_mended() {
    let mut streams = Vec::new();
    let list = |items: &[Value], revision: u64| json!({"metadata": {"resourceVersion": revision.to_string()}, "items": items});
    let gone = json!({"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"});
    let world = world(|server| {
        let refused = json!({"kind": "Status", "code": 422, "reason": "Invalid", "message": "no"});
        server.answer("sendInitialEvents", 422, refused);
        server.answer("GET /api/v1/configmaps", 200, list(&[map("a", 1), map("b", 2)], 4));
        streams.push(server.stream("resourceVersion=4"));
        server.answer("GET /api/v1/configmaps", 200, list(&[map("b", 6), map("c", 7)], 8));
        streams.push(server.stream("resourceVersion=8"));
    });
    world.informer.synced().await;
    settle().await;
    send(&streams[0], event("ERROR", gone)).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(*world.changes.lock(), ["+a", "+b", "-a", "~b", "+c"]);
    assert_eq!(world.server.0.lock().log.len(), 5);
}

struct Maker(Cache<ConfigMap>);

impl Reconcile for Maker {
    fn reconcile(&self, key: &Key, _: Timestamp) -> Result<Plan, ReconcileError> {
        let mut plan = Plan::none();
        if &*key.name == "panics" {
            panic!("a bad object");
        }
        if self.0.get_key(key).is_none() {
            let object: ConfigMap = serde_json::from_value(map(&key.name, 0)).expect("an object");
            plan.create(&object);
        }
        Ok(plan)
    }
}

#[tokio::test(start_paused = true)]
async fn the_runner_waits_for_its_own_writes() {
    let (clock, tasks, server) = (Clock::system(), Tasks::new(), Server::default());
    server.answer("POST /api/v1/namespaces/n/configmaps", 201, map("a", 12));
    let client = server.client(&clock);
    let (sender, _events) = tokio::sync::mpsc::channel(10);
    let recorder = Recorder::to_channel(sender, clock.clone());
    let (queue, cache) = (Queue::new(clock.clone()), Cache::new());
    let runner = Runner::new("test", client, recorder, queue.clone(), clock)
        .expect_in(ResourceRef::of::<ConfigMap>(), Arc::new(cache.clone()));
    let key = Key::new("n", "a");
    runner.start(Arc::new(Maker(cache.clone())), 2, &tasks);
    queue.add(Key::new("n", "panics"));
    queue.add(key.clone());
    settle().await;
    for _ in 0..5 {
        queue.add(key.clone());
        settle().await;
    }
    assert_eq!(server.0.lock().log.len(), 1, "the cache has not shown the first one yet");
    let seen: ConfigMap = serde_json::from_value(map("a", 12)).expect("an object");
    assert_eq!(to_value(&seen)["metadata"]["resourceVersion"], "12");
    cache.put(seen);
    queue.add(key.clone());
    settle().await;
    // Once it is gone again, it is made again.
    cache.remove(&key, 13);
    queue.add(key);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(server.0.lock().log.len(), 2);
    assert!(tasks.drain(Duration::from_secs(1)).await);
}

#[tokio::test(start_paused = true)]
async fn in_a_namespace_that_goes_nothing_is_tried_twice() {
    let (clock, server) = (Clock::system(), Server::default());
    let cause = json!({"reason": "NamespaceTerminating", "message": "namespace n is being terminated"});
    let refusal = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden",
        "code": 403, "message": "no", "details": {"causes": [cause]}});
    server.answer("POST /api/v1/namespaces/n/configmaps", 403, refusal);
    let (sender, _events) = tokio::sync::mpsc::channel(10);
    let recorder = Recorder::to_channel(sender, clock.clone());
    let runner = Runner::new("test", server.client(&clock), recorder, Queue::new(clock.clone()), clock);
    let object: ConfigMap = serde_json::from_value(map("a", 0)).expect("an object");
    let mut plan = Plan::none();
    plan.stage(Mode::SlowStart, (0..9).map(|_| Step::create(&object)).collect());
    runner.execute(&Key::new("n", "a"), plan).await.expect("it is no failure");
    assert_eq!(server.0.lock().log.len(), 1);
}
