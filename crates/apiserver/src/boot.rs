//! What exists from the start: namespaces, bootstrap RBAC, priority classes, default/kubernetes and more.
//! Created through the server's own path as an internal user.

use std::sync::atomic::Ordering;

use api::ApiError;
use api::user::UserInfo;
use http::{Method, Request};
use serde_json::{Value, json};

use crate::authz::bootstrap;
use crate::server::Server;

/// Who does this.
fn loopback() -> UserInfo {
    UserInfo::component("system:apiserver", &["system:masters"])
}

impl Server {
    /// Creates what is missing; the server then tells that it is ready.
    pub async fn start(&self) -> Result<(), ApiError> {
        for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
            self.ensure(
                "/api/v1/namespaces",
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
            )
            .await?;
        }
        for object in bootstrap::objects() {
            self.ensure(&collection(self, &object), object).await?;
        }
        self.ready.store(true, Ordering::Release);
        Ok(())
    }

    /// True once the boot objects exist.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Creates an object unless it exists.
    async fn ensure(&self, path: &str, object: Value) -> Result<(), ApiError> {
        let name = object["metadata"]["name"].as_str().unwrap_or("").to_owned();
        let (code, _) = self.internal(Method::GET, &format!("{path}/{name}"), None).await;
        if code == 200 {
            return Ok(());
        }
        match self.internal(Method::POST, path, Some(object)).await {
            (201 | 409, _) => Ok(()),
            (code, status) => Err(ApiError::from_status(code, &status)),
        }
    }

    /// One request by the server itself.
    pub async fn internal(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let body = body.map_or_else(base::http::empty, |body| base::http::full(body.to_string()));
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().unwrap_or_default();
        request.extensions_mut().insert(loopback());
        let response = self.call(request).await;
        let code = response.status().as_u16();
        let bytes = base::http::read(response.into_body(), usize::MAX).await.unwrap_or_default();
        (code, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }
}

fn collection(server: &Server, object: &Value) -> String {
    let api_version = object["apiVersion"].as_str().unwrap_or("");
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let kind = object["kind"].as_str().unwrap_or("");
    let plural =
        server.rows.now().by_kind(group, version, kind).map(|row| row.plural.clone()).unwrap_or_default();
    let root = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{api_version}") };
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("{root}/namespaces/{namespace}/{plural}"),
        None => format!("{root}/{plural}"),
    }
}

/// Removes the IPAddress object of an address that a service gave up.
pub async fn drop_address(server: &Server, ip: std::net::IpAddr) {
    let key = store::Key::new("networking.k8s.io/ipaddresses", "", ip.to_string().as_str());
    if server.store.get(&key).is_some() {
        // Absent by now is as good.
        let _ = server.commit(store::Write::delete(key, store::Expect::Any)).await;
    }
}
