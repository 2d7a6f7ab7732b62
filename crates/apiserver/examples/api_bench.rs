//! CPU time of the commonest requests, in process over the memory store, without TLS:
//! `cargo run --release -p apiserver --example api_bench`.

use std::time::Duration;

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

/// Pods made and read.
const PODS: usize = 20_000;
/// Pods whose status is patched.
const PATCHED: usize = 10_000;

async fn send(server: &Server, method: Method, path: &str, media: &'static str, body: String) -> usize {
    let mut request = Request::new(base::http::full(body));
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().expect("a path");
    request.headers_mut().insert("content-type", http::HeaderValue::from_static(media));
    request.extensions_mut().insert(UserInfo::component("admin", &["system:masters"]));
    let response = server.call(request).await;
    let code = response.status();
    let bytes = response.into_body().collect().await.expect("a body").to_bytes();
    assert!(code.is_success(), "{code} {}", String::from_utf8_lossy(&bytes));
    bytes.len()
}

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

/// A pod that takes 3.3 KB as stored, like those of `cargo xtask bench api`.
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
        "podIP": format!("10.1.{}.{}", at / 250 % 250, at % 250), "message": format!("round {at}"),
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": since}],
        "containerStatuses": [{"name": "main", "ready": true, "restartCount": at, "image": "example.com/app:1",
            "imageID": "sha256:0123", "state": {"running": {"startedAt": since}}}]}})
    .to_string()
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
        send(&server, Method::PATCH, &path, "application/strategic-merge-patch+json", status(at)).await;
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
