//! Pods for benchmarks in process, and the requests that make them.

use api::user::UserInfo;
use apiserver::Server;
use http::{Method, Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};

/// A request of the administrator's that must succeed; the length of its answer.
pub async fn send(server: &Server, method: Method, path: &str, media: &'static str, body: String) -> usize {
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

/// A pod that takes 3.3 KB as stored, like those of `cargo xtask bench api`.
pub fn pod(at: usize) -> String {
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

/// A patch that says that it runs.
pub fn status(at: usize) -> Value {
    let since = "2026-01-01T00:00:00Z";
    json!({"status": {"phase": "Running", "hostIP": "10.0.0.1", "startTime": since,
        "podIP": format!("10.1.{}.{}", at / 250 % 250, at % 250),
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": since}],
        "containerStatuses": [{"name": "main", "ready": true, "restartCount": at, "image": "example.com/app:1",
            "imageID": "sha256:0123", "state": {"running": {"startedAt": since}}}]}})
}
