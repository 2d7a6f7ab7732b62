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

/// Pods made and read.
const PODS: usize = 20_000;

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
    let body = |at: usize| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("pod-{at}"), "labels": {"app": "bench", "n": format!("{}", at % 100)}},
            "spec": {"nodeName": format!("node-{}", at % 500), "containers": [{"name": "c", "image": "registry.k8s.io/pause:3.10",
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}, "env": [{"name": "A", "value": "b"}]}]}})
        .to_string()
    };
    let start = Cpu::now();
    for at in 0..PODS {
        send(&server, Method::POST, pods, "application/json", body(at)).await;
    }
    report("create pod", PODS, start.elapsed());
    let start = Cpu::now();
    for at in 0..PODS {
        send(&server, Method::GET, &format!("{pods}/pod-{at}"), "application/json", String::new()).await;
    }
    report("get pod", PODS, start.elapsed());
    let start = Cpu::now();
    let patch = json!({"status": {"phase": "Running", "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]}}).to_string();
    for at in 0..5000 {
        let path = format!("{pods}/pod-{at}/status");
        send(&server, Method::PATCH, &path, "application/strategic-merge-patch+json", patch.clone()).await;
    }
    report("patch pod status", 5000, start.elapsed());
    let start = Cpu::now();
    let bytes = send(&server, Method::GET, "/api/v1/pods", "application/json", String::new()).await;
    report(&format!("list {PODS} pods ({} MB)", bytes / 1_000_000), 1, start.elapsed());
    let start = Cpu::now();
    for at in 0..500 {
        let path = format!("/api/v1/pods?fieldSelector=spec.nodeName%3Dnode-{at}");
        send(&server, Method::GET, &path, "application/json", String::new()).await;
    }
    report("list one node's pods", 500, start.elapsed());
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
