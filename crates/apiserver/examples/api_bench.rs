//! CPU time of the commonest requests, in process over the memory store, without TLS:
//! `cargo run --release -p apiserver --example api_bench`.

mod support;

use std::time::Duration;

use apiserver::{Config, Rows, Server};
use base::{Clock, Rng, Tasks};
use http::Method;
use serde_json::json;
use store::{Engine, Options, Store};

use support::{pod, send, status};

/// The product's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Pods made and read.
const PODS: usize = 20_000;
/// Pods whose status is patched.
const PATCHED: usize = 10_000;

/// CPU time of this thread: others on the machine do not count.
struct Cpu(u64);

impl Cpu {
    fn now() -> Cpu {
        let text = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
        Cpu(text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0))
    }

    fn elapsed(&self) -> Duration {
        Duration::from_nanos(Cpu::now().0 - self.0)
    }
}

fn report(what: &str, count: usize, took: Duration) {
    println!("{what:<28} {:>9.1} us CPU each", took.as_secs_f64() * 1e6 / count as f64);
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let clock = Clock::system();
    let rows = Rows::builtin();
    let store =
        Store::open(Engine::Memory, Options::new(rows.indexer(), clock.clone())).await.expect("memory");
    let server =
        Server::new(Config::default(), rows, store, clock, Rng::system(), Tasks::new()).expect("a server");
    let start = Cpu::now();
    server.start().await.expect("boots");
    report("boot", 1, start.elapsed());
    let account = json!({"metadata": {"name": "default"}}).to_string();
    send(&server, Method::POST, "/api/v1/namespaces/default/serviceaccounts", "application/json", account)
        .await;
    let pods = "/api/v1/namespaces/default/pods";
    let start = Cpu::now();
    for at in 0..PODS {
        send(&server, Method::POST, pods, "application/json", pod(at)).await;
    }
    report("create pod", PODS, start.elapsed());
    let start = Cpu::now();
    for at in 0..PODS {
        send(&server, Method::GET, &format!("{pods}/pod-{at}"), "application/json", String::new()).await;
    }
    report("get pod", PODS, start.elapsed());
    let start = Cpu::now();
    for at in 0..PATCHED {
        let path = format!("{pods}/pod-{at}/status");
        let mut patch = status(at);
        patch["status"]["message"] = format!("round {at}").into();
        let media = "application/strategic-merge-patch+json";
        send(&server, Method::PATCH, &path, media, patch.to_string()).await;
    }
    report("patch pod status", PATCHED, start.elapsed());
    let start = Cpu::now();
    let bytes = send(&server, Method::GET, "/api/v1/pods", "application/json", String::new()).await;
    report(&format!("list {PODS} pods ({} MB)", bytes / 1_000_000), 1, start.elapsed());
    let start = Cpu::now();
    for at in 0..200 {
        let path = format!("/api/v1/pods?fieldSelector=spec.nodeName%3Dnode-{at}");
        send(&server, Method::GET, &path, "application/json", String::new()).await;
    }
    report("list one node's pods", 200, start.elapsed());
    let start = Cpu::now();
    for at in 0..PODS {
        send(
            &server,
            Method::DELETE,
            &format!("{pods}/pod-{at}?gracePeriodSeconds=0"),
            "application/json",
            String::new(),
        )
        .await;
    }
    report("delete pod", PODS, start.elapsed());
}
