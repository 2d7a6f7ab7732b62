//! What pods cost in memory, step by step, beside what the store counts of it, in process and over the memory store:
//! `cargo run --profile perf -p apiserver --example memory [PODS]`. (The binaries are static: heap profilers that are
//! loaded before a program's libraries see nothing of them.)

use api::user::UserInfo;
use apiserver::{Config, Rows, Server};
use base::{Clock, Rng, Tasks};
use http::{Method, Request};
use http_body_util::BodyExt;
use serde_json::json;
use store::{Engine, Options, Store};

/// The product's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Pods made, when nothing is said.
const PODS: usize = 20_000;
const ALL: &str = "/api/v1/namespaces/default/pods";

async fn send(server: &Server, method: Method, path: &str, media: &'static str, body: String) {
    let mut request = Request::new(base::http::full(body));
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().expect("a path");
    request.headers_mut().insert("content-type", http::HeaderValue::from_static(media));
    request.extensions_mut().insert(UserInfo::component("admin", &["system:masters"]));
    let response = server.call(request).await;
    let code = response.status();
    let bytes = response.into_body().collect().await.expect("a body").to_bytes();
    assert!(code.is_success(), "{code} {}", String::from_utf8_lossy(&bytes));
}

fn pod(at: usize) -> String {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("pod-{at}"), "labels": {"app": format!("app-{}", at % 100), "tier": "bench"},
            "annotations": {"example.com/owner": "team", "example.com/note": "a pod of the benchmark"}},
        "spec": {"nodeName": format!("node-{}", at % 200), "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": "example.com/app:1",
                "env": [{"name": "SETTING", "value": format!("value-{at}")}],
                "ports": [{"containerPort": 8080, "name": "http"}],
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
                "readinessProbe": {"httpGet": {"path": "/", "port": "http"}}}]}})
    .to_string()
}

fn status(at: usize) -> String {
    let since = "2026-01-01T00:00:00Z";
    json!({"status": {"phase": "Running", "hostIP": "10.0.0.1", "startTime": since,
        "podIP": format!("10.1.{}.{}", at / 250 % 250, at % 250),
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": since}],
        "containerStatuses": [{"name": "main", "ready": true, "restartCount": at, "image": "example.com/app:1",
            "imageID": "sha256:0123", "state": {"running": {"startedAt": since}}}]}})
    .to_string()
}

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
        send(&server, Method::PATCH, &path, "application/strategic-merge-patch+json", status(at)).await;
    }
    tell(&server, "half patched");
}
