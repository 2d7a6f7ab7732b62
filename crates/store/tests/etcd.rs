//! The store over a real etcd on loopback. Where no `etcd` is installed these tests say so and pass.
#![allow(clippy::unwrap_used)]

mod kit;

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use base::Tasks;
use base::clock::Clock;
use kit::{draft, dump, json, next, on_node, options, pod, put};
use store::{
    CommitError, Engine, EngineError, EtcdOptions, EventKind, Expect, HistoryError, Index, Interest, Key,
    Options, Seal, Store, WatchFrom, Write,
};

struct Server {
    process: Child,
    port: u16,
    dir: tempfile::TempDir,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn run(port: u16, dir: &std::path::Path) -> Option<Child> {
    let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{}", free_port()));
    let started = Command::new("etcd")
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}"), "--log-level", "error"])
        .arg("--data-dir")
        .arg(dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    if started.is_err() {
        println!("etcd is not installed: not tested");
    }
    started.ok()
}

impl Server {
    fn start() -> Option<Self> {
        let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
        let process = run(port, dir.path())?;
        Some(Self { process, port, dir })
    }

    fn stop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn restart(&mut self) {
        self.process = run(self.port, self.dir.path()).unwrap();
    }

    async fn open(&self) -> Store {
        self.try_open().await.expect("etcd should answer within ten seconds")
    }

    async fn try_open(&self) -> Result<Store, EngineError> {
        let endpoints = vec![format!("http://127.0.0.1:{}", self.port)];
        let mut result = Err(EngineError::Closed);
        for _ in 0..100 {
            let etcd = EtcdOptions::new(endpoints.clone(), Clock::system(), Tasks::new());
            result = Store::open(Engine::etcd(etcd)?, options()).await;
            if result.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        result
    }
}

/// A test that waits for ever is a failed test.
async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(90), work).await.expect("the test should end")
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_share_one_order() {
    within(async {
        let Some(server) = Server::start() else { return };
        let (one, two) = (server.open().await, server.open().await);
        let mut watch = two.watch("pods", Interest::All, WatchFrom::Now).unwrap();

        let key = pod("x", "a");
        let created = one.commit(Write::create(key.clone(), draft("1"), on_node("n1"))).await.unwrap();
        assert_eq!(&created.object.json[..], json(created.revision, "1").as_bytes());
        assert!(created.previous.is_none());
        let event = next(&mut watch).await.unwrap();
        assert_eq!((event.kind, event.revision), (EventKind::Added, created.revision));
        assert_eq!(event.object.attrs, created.object.attrs);

        // The other server's memory may be behind; its conditions are not.
        let again = two.commit(Write::create(key.clone(), draft("2"), on_node("n1"))).await;
        assert!(matches!(again, Err(CommitError::Exists(object)) if object.json == created.object.json));
        let second = Write::update(key.clone(), created.revision, draft("2"), on_node("n2"));
        let second = two.commit(second).await.unwrap();
        assert_eq!(second.previous.unwrap().revision, created.revision);
        let late = Write::update(key.clone(), created.revision, draft("3"), on_node("n1"));
        let late = one.commit(late).await;
        assert!(matches!(late, Err(CommitError::Conflict(object)) if object.revision == second.revision));
        one.latest().await.unwrap();
        assert_eq!(one.get(&key).unwrap().revision, second.revision);

        let gone = one.commit(Write::delete(key.clone(), Expect::Revision(second.revision))).await.unwrap();
        assert_eq!(&gone.object.json[..], json(gone.revision, "2").as_bytes());
        let absent = two.commit(Write::delete(key.clone(), Expect::Any)).await;
        assert!(matches!(absent, Err(CommitError::NotFound(_))));
        let absent = two.commit(Write::update(key, 7, draft("3"), on_node("n1"))).await;
        assert!(matches!(absent, Err(CommitError::NotFound(_))));
        assert_eq!(next(&mut watch).await.unwrap().kind, EventKind::Modified);
        assert_eq!(next(&mut watch).await.unwrap().kind, EventKind::Deleted);

        let together = vec![put(pod("x", "b"), "1"), Write::create(pod("x", "c"), draft("1"), on_node("n9"))];
        one.commit_all(together.clone()).await.unwrap();
        assert!(matches!(two.commit_all(together).await, Err(CommitError::Exists(_))));
        two.latest().await.unwrap();
        let index = Index::Field("spec.nodeName".into());
        assert_eq!(two.snapshot("pods").lookup(&index, "n9", None, None).unwrap().count(), 1);
        assert_eq!(dump(&one), dump(&two));
        one.close().await;
        let closed = one.commit(put(pod("x", "d"), "1")).await;
        assert!(matches!(closed, Err(CommitError::Closed)));
        assert_eq!(dump(&server.open().await), dump(&two));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counting_from_two_servers_loses_no_count() {
    within(async {
        let Some(server) = Server::start() else { return };
        let stores = [server.open().await, server.open().await];
        stores[0].commit(Write::create(pod("x", "count"), draft("0"), on_node("n1"))).await.unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..8 {
            let store = stores[number % 2].clone();
            tasks.spawn(async move {
                store.latest().await.unwrap();
                let mut object = store.get(&pod("x", "count")).unwrap();
                for _ in 0..25 {
                    loop {
                        let text = String::from_utf8_lossy(&object.json).into_owned();
                        let count: u64 = text.split('"').nth(7).unwrap().parse().unwrap();
                        let next = draft(&format!("{}", count + 1));
                        let write = Write::update(pod("x", "count"), object.revision, next, on_node("n1"));
                        match store.commit(write).await {
                            Ok(done) => {
                                object = done.object;
                                break;
                            }
                            Err(CommitError::Conflict(current)) => object = current,
                            Err(other) => panic!("{other}"),
                        }
                    }
                }
            });
        }
        tasks.join_all().await;
        for store in &stores {
            let revision = store.latest().await.unwrap();
            let object = store.get(&pod("x", "count")).unwrap();
            assert_eq!(&object.json[..], json(object.revision, "200").as_bytes());
            assert!(revision >= object.revision);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_etcd_is_ridden_out() {
    within(async {
        let Some(mut server) = Server::start() else { return };
        let store = server.open().await;
        let seen = store.commit(put(pod("x", "a"), "1")).await.unwrap().revision;
        let mut watch = store.watch("pods", Interest::All, WatchFrom::Now).unwrap();
        server.stop();
        let failed = store.commit(put(pod("x", "a"), "2")).await;
        assert!(matches!(failed, Err(CommitError::Engine(_))), "{failed:?}");
        assert_eq!(store.get(&pod("x", "a")).unwrap().revision, seen, "reads go on");
        server.restart();
        let other = server.open().await;
        let done = other.commit(put(pod("x", "a"), "3")).await.unwrap();
        let event = next(&mut watch).await.unwrap();
        assert_eq!(event.revision, done.revision);
        assert_eq!(event.previous.as_ref().unwrap().revision, seen);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_missed_too_much_starts_anew() {
    within(async {
        let Some(mut server) = Server::start() else { return };
        let store = server.open().await;
        store.commit(put(pod("x", "a"), "1")).await.unwrap();
        store.commit(put(pod("x", "b"), "1")).await.unwrap();
        let mut watch =
            store.watch("pods", Interest::Object("x".into(), "z".into()), WatchFrom::Now).unwrap();
        // Where this store cannot reach it, etcd goes on, and forgets.
        server.stop();
        let port = std::mem::replace(&mut server.port, free_port());
        server.restart();
        let other = server.open().await;
        let missed = other.commit(Write::delete(pod("x", "a"), Expect::Any)).await.unwrap().revision;
        let last = other.commit(put(pod("x", "c"), "1")).await.unwrap().revision;
        let endpoint = format!("http://127.0.0.1:{}", server.port);
        let compact = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &endpoint, "compact", &last.to_string()])
            .output();
        assert!(compact.unwrap().status.success());
        server.stop();
        server.port = port;
        server.restart();
        tokio::time::timeout(Duration::from_secs(30), store.wait_for(last)).await.unwrap().unwrap();
        let left: Vec<_> = store.snapshot("pods").range(None, None).map(|o| o.key.name.to_string()).collect();
        assert_eq!(left, ["b", "c"]);
        assert_eq!(next(&mut watch).await.unwrap_err(), HistoryError::Lagged { oldest: last });
        let late = store.watch("pods", Interest::All, WatchFrom::Revision(missed));
        assert!(matches!(late.unwrap_err(), HistoryError::Compacted { .. }));
        let mut watch = store.watch("pods", Interest::All, WatchFrom::Revision(last)).unwrap();
        let done = other.commit(put(pod("x", "b"), "2")).await;
        assert!(done.is_err(), "the other one cannot reach it now");
        let done = store.commit(put(pod("x", "b"), "2")).await.unwrap();
        assert_eq!(next(&mut watch).await.unwrap().revision, done.revision);
    })
    .await;
}

/// Turns texts around, byte by byte.
struct Xor;

impl Seal for Xor {
    fn seal(&self, _: &Key, text: &[u8]) -> Option<Vec<u8>> {
        Some([b"sealed:".as_slice(), &text.iter().map(|byte| byte ^ 0x55).collect::<Vec<u8>>()].concat())
    }

    fn open(&self, _: &Key, kept: &[u8]) -> Result<Option<Vec<u8>>, String> {
        Ok(kept.strip_prefix(b"sealed:").map(|text| text.iter().map(|byte| byte ^ 0x55).collect()))
    }
}

#[tokio::test]
async fn what_is_sealed_is_not_readable_in_etcd() {
    let Some(server) = Server::start() else { return };
    let plain = server.open().await;
    let sealing = async || {
        let etcd = EtcdOptions::new(
            vec![format!("http://127.0.0.1:{}", server.port)],
            Clock::system(),
            Tasks::new(),
        );
        let options = Options { seal: Some(Arc::new(Xor)), ..options() };
        Store::open(Engine::etcd(etcd).unwrap(), options).await.unwrap()
    };
    let (first, second) = (sealing().await, sealing().await);
    let key = pod("x", "a");
    let done = first.commit(put(key.clone(), "sesame")).await.unwrap();
    assert_eq!(done.object.json, json(done.revision, "sesame"));
    // Told by the watch, given with a conflict, and read at the start: opened each time.
    second.wait_for(done.revision).await.unwrap();
    assert_eq!(second.get(&key).unwrap().json, done.object.json);
    let refused = second.commit(Write { expect: Expect::Absent, ..put(key.clone(), "other") }).await;
    let Err(CommitError::Exists(found)) = refused else { panic!("{refused:?}") };
    assert_eq!(found.json, done.object.json);
    assert_eq!(sealing().await.get(&key).unwrap().json, done.object.json);
    plain.wait_for(done.revision).await.unwrap();
    let kept = plain.get(&key).unwrap();
    assert!(kept.json.starts_with(b"sealed:") || !kept.json.windows(6).any(|w| w == b"sesame"));
}
