//! Measures the store on this machine: `cargo run --release -p store --example bench -- [DIR]`.
//! DIR (default: a temporary directory) should be on the disk to be measured.

#![allow(clippy::disallowed_methods, reason = "a benchmark measures real time and starts its own tasks")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::clock::Clock;
use store::{
    Attrs, DiskOptions, Draft, Engine, Index, Indexer, Interest, Key, Options, PlainIndexer, Store,
    WatchFrom, Write,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PODS: usize = 20_000;
const PRODUCERS: usize = 64;

struct Pods;

impl Indexer for Pods {
    fn attrs(&self, key: &Key, json: &[u8]) -> Attrs {
        PlainIndexer.attrs(key, json)
    }

    fn indexes(&self, _: &str) -> Vec<Index> {
        vec![Index::Field("spec.nodeName".into()), Index::Owner]
    }
}

fn options() -> Options {
    Options::new(Arc::new(Pods), Clock::system())
}

fn key(number: usize) -> Key {
    Key::new("pods", format!("ns-{}", number % 50), format!("web-{number:05}-7d4b9c6f5-x2k8p"))
}

fn draft(number: usize, size: usize) -> Draft {
    let start = r#"{"metadata":{"resourceVersion":""#;
    let mut json = String::from(start);
    json.push_str(r#"","labels":{"app":"web"}},"spec":{"filler":""#);
    while json.len() < size - 3 {
        json.push((b'a' + ((number * 7 + json.len() * 13) % 26) as u8) as char);
    }
    json.push_str("\"}}");
    Draft { json: json.into_bytes(), revision_at: start.len() }
}

fn attrs(number: usize) -> Attrs {
    let pair = |name: &str, value: String| (Arc::from(name), Arc::from(value));
    Attrs {
        labels: Box::new([
            pair("app", format!("web-{}", number % 200)),
            pair("pod-template-hash", "7d4b9c6f5".into()),
        ]),
        fields: Box::new([
            pair("metadata.name", format!("web-{number:05}-7d4b9c6f5-x2k8p")),
            pair("metadata.namespace", format!("ns-{}", number % 50)),
            pair("spec.nodeName", format!("node-{}", number % 1000)),
            pair("status.phase", "Running".into()),
        ]),
        uid: Arc::from(format!("00000000-0000-0000-0000-{number:012}")),
        owners: Box::new([Arc::from(format!("owner-{}", number % 200))]),
    }
}

fn cpu() -> Duration {
    let usage = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks: u64 = usage
        .rsplit(')')
        .next()
        .map(|rest| rest.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum())
        .unwrap_or(0);
    Duration::from_millis(ticks * 10)
}

fn resident_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or("");
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

fn report(what: &str, count: usize, took: Duration, spent: Duration, mut lags: Vec<Duration>) {
    lags.sort();
    let at = |share: f64| lags[((lags.len() - 1) as f64 * share) as usize].as_micros();
    println!(
        "{what}: {:.0}/s, {:.1} us CPU each; latency us p50 {} p99 {} p99.9 {} max {}",
        count as f64 / took.as_secs_f64(),
        spent.as_secs_f64() * 1e6 / count as f64,
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0)
    );
}

/// `total` writes by `PRODUCERS` tasks; creates in round 0, unconditional updates later.
async fn write_load(store: &Store, what: &str, total: usize, size: usize, replace: bool) {
    let (start, spent) = (Instant::now(), cpu());
    let mut tasks = tokio::task::JoinSet::new();
    for producer in 0..PRODUCERS {
        let store = store.clone();
        tasks.spawn(async move {
            let mut lags = Vec::new();
            for number in (producer..total).step_by(PRODUCERS) {
                let number = if replace { number % PODS } else { number };
                let (draft, attrs) = (draft(number, size), attrs(number));
                let expect = if replace { store::Expect::Any } else { store::Expect::Absent };
                let op = store::Op::Put(draft, attrs);
                let begun = Instant::now();
                store.commit(Write { key: key(number), expect, op }).await.expect("a commit");
                lags.push(begun.elapsed());
            }
            lags
        });
    }
    let lags = tasks.join_all().await.concat();
    report(what, total, start.elapsed(), cpu() - spent, lags);
}

/// Everything about one durable engine.
pub async fn durable(name: &str, open: impl Fn() -> Engine, disk_bytes: impl Fn() -> u64) {
    println!("-- {name}");
    let before = resident_mb();
    let store = Store::open(open(), options()).await.expect("a store");
    write_load(&store, "create 3.3 KB, 64 producers", PODS, 3300, false).await;
    write_load(&store, "replace 3.3 KB, 64 producers", 10 * PODS, 3300, true).await;
    let live = store.stats().resources.iter().map(|r| r.2).sum::<usize>() >> 20;
    println!("live {live} MB, on disk {} MB, resident +{:.0} MB", disk_bytes() >> 20, resident_mb() - before);
    let revision = store.revision();
    store.close().await;
    drop(store);
    let start = Instant::now();
    let store = Store::open(open(), options()).await.expect("a store");
    println!("reopen with {PODS} pods: {:?}, history {}", start.elapsed(), store.stats().history_events);
    assert_eq!(store.revision(), revision);
    let start = Instant::now();
    let file = std::env::temp_dir().join(format!("store-bench-{}.backup", std::process::id()));
    let summary = store.backup(&file).await.expect("a backup");
    println!("backup: {:?}, {} MB", start.elapsed(), summary.bytes >> 20);
    let _ = std::fs::remove_file(file);
    let (start, mut lags) = (Instant::now(), Vec::new());
    for number in 0..2000 {
        let begun = Instant::now();
        let write =
            Write::create(Key::new("one", "x", format!("{number}")), draft(number, 1500), Attrs::default());
        store.commit(write).await.expect("a commit");
        lags.push(begun.elapsed());
    }
    report("create 1.5 KB, one producer", 2000, start.elapsed(), Duration::ZERO, lags);
    for number in 0..PODS {
        let write = Write::delete(key(number), store::Expect::Any);
        store.commit(write).await.expect("a delete");
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    println!("after deleting all pods: on disk {} MB", disk_bytes() >> 20);
    store.close().await;
}

async fn memory() {
    println!("-- memory");
    let before = resident_mb();
    let store = Store::open(Engine::Memory, options()).await.expect("a store");
    write_load(&store, "create 3.3 KB, 64 producers", PODS, 3300, false).await;
    println!("resident for {PODS} pods of 3.3 KB: {:.1} MB", resident_mb() - before);
    write_load(&store, "replace, 64 producers", 5 * PODS, 3300, true).await;
    println!("resident with full history: {:.1} MB", resident_mb() - before);
    reads(&store);
    fan_out(&store, Interest::All, "200 watchers of all", 1).await;
    fan_out(
        &store,
        Interest::Field("spec.nodeName".into(), "node-7".into()),
        "200 watchers of one node",
        1000,
    )
    .await;
    store.close().await;
}

fn reads(store: &Store) {
    let keys: Vec<Key> = (0..PODS).map(key).collect();
    let start = Instant::now();
    for round in 0..50 {
        for at in 0..PODS {
            let object = store.get(&keys[(at * 7919 + round) % PODS]);
            std::hint::black_box(object.expect("a pod"));
        }
    }
    println!("get: {:.0} ns", start.elapsed().as_nanos() as f64 / (50 * PODS) as f64);
    let start = Instant::now();
    for _ in 0..20 {
        let snapshot = store.snapshot("pods");
        let list: Vec<bytes::Bytes> = snapshot.range(None, None).map(|pod| pod.json.clone()).collect();
        std::hint::black_box(list);
    }
    println!("list {PODS} pods, bytes shared: {:?}", start.elapsed() / 20);
    let start = Instant::now();
    for _ in 0..5 {
        let snapshot = store.snapshot("pods");
        let mut list = Vec::with_capacity(80 << 20);
        snapshot.range(None, None).for_each(|pod| list.extend_from_slice(&pod.json));
        std::hint::black_box(list);
    }
    println!("list {PODS} pods, concatenated: {:?}", start.elapsed() / 5);
    let index = Index::Field("spec.nodeName".into());
    let start = Instant::now();
    for node in 0..1000 {
        let snapshot = store.snapshot("pods");
        let node = format!("node-{node}");
        let pods = snapshot.lookup(&index, &node, None, None).expect("an index").count();
        assert_eq!(pods, PODS / 1000);
    }
    println!("list one node's pods of {PODS}: {:?}", start.elapsed() / 1000);
}

/// Cost per watcher and event, less that of the writes alone.
async fn fan_out(store: &Store, interest: Interest, what: &str, share: usize) {
    const EVENTS: usize = 5000;
    const WATCHERS: usize = 200;
    let mut costs = Vec::new();
    for watchers in [0, WATCHERS] {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..watchers {
            let mut watch = store.watch("pods", interest.clone(), WatchFrom::Now).expect("a watch");
            tasks.spawn(async move {
                for _ in 0..EVENTS / share {
                    std::hint::black_box(watch.next().await.expect("an event"));
                }
            });
        }
        let (start, spent) = (Instant::now(), cpu());
        for number in 0..EVENTS {
            let op = store::Op::Put(draft(number, 3300), attrs(number));
            let write = Write { key: key(number), expect: store::Expect::Any, op };
            store.commit(write).await.expect("a commit");
            tokio::task::yield_now().await;
        }
        tasks.join_all().await;
        costs.push((cpu() - spent, start.elapsed()));
    }
    let each = (costs[1].0.saturating_sub(costs[0].0)).as_secs_f64() * 1e6 / (EVENTS * WATCHERS) as f64;
    println!("{what}: {each:.3} us CPU per watcher and event ({:?} for {EVENTS} events)", costs[1].1);
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let dir = std::env::args().nth(1).map(PathBuf::from);
    let dir = dir.unwrap_or_else(|| std::env::temp_dir().join(format!("store-bench-{}", std::process::id())));
    let size = |dir: &PathBuf| -> u64 {
        let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
        files.filter_map(|file| file.metadata().ok()).map(|meta| meta.len()).sum()
    };
    runtime.block_on(async {
        tokio::spawn(memory()).await.expect("the memory part");
        let (open, bytes) = (dir.clone(), dir.clone());
        let open = move || Engine::disk(DiskOptions::new(&open)).expect("a directory");
        durable("disk", open, move || size(&bytes)).await;
    });
    let _ = std::fs::remove_dir_all(dir);
}
