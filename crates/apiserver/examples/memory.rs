//! What pods cost in memory, step by step, beside what the store counts of it, in process and over the memory store:
//! `cargo run --profile perf -p apiserver --example memory [PODS]`. (The binaries are static: heap profilers that are
//! loaded before a program's libraries see nothing of them.)

mod support;

use apiserver::{Config, Rows, Server};
use base::{Clock, Rng, Tasks};
use http::Method;
use serde_json::json;
use store::{Engine, Options, Store};

use support::{pod, send, status};

/// The product's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Pods made, when nothing is said.
const PODS: usize = 20_000;
const ALL: &str = "/api/v1/namespaces/default/pods";

/// One line: what the process has for itself, and what the store counts.
fn tell(server: &Server, when: &str) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let own = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or("").trim().to_owned();
    let stats = server.store().stats();
    let objects: usize = stats.resources.iter().map(|(_, count, _)| count).sum();
    let bytes: usize = stats.resources.iter().map(|(_, _, bytes)| bytes).sum();
    println!(
        "{when:<16} {own:>10} | {objects} objects, {} KB | history: {} events, {} KB",
        bytes / 1024,
        stats.history_events,
        stats.history_bytes / 1024
    );
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let pods = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(PODS);
    let (clock, rows) = (Clock::system(), Rows::builtin());
    let store =
        Store::open(Engine::Memory, Options::new(rows.indexer(), clock.clone())).await.expect("memory");
    let server =
        Server::new(Config::default(), rows, store, clock, Rng::system(), Tasks::new()).expect("a server");
    server.start().await.expect("boots");
    tell(&server, "empty");
    let account = json!({"metadata": {"name": "default"}}).to_string();
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    send(&server, Method::POST, accounts, "application/json", account).await;
    for at in 0..pods {
        send(&server, Method::POST, ALL, "application/json", pod(at)).await;
    }
    tell(&server, "pods made");
    for at in 0..pods / 2 {
        let path = format!("{ALL}/pod-{at}/status");
        send(&server, Method::PATCH, &path, "application/strategic-merge-patch+json", status(at).to_string())
            .await;
    }
    tell(&server, "half patched");
}
