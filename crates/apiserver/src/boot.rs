//! What exists from the start: namespaces, bootstrap RBAC, priority classes, default/kubernetes and more.
//! Created through the server's own path as an internal user.

use std::sync::atomic::Ordering;
use std::time::Duration;

use api::ApiError;
use api::user::UserInfo;
use http::{Method, Request};
use serde_json::{Value, json};
use store::{HistoryError, Interest, Key, WatchFrom};

use crate::authz::bootstrap;
use crate::authz::reconcile::{self, Repair};
use crate::server::Server;

/// How long an event is kept after it was last written: the default of upstream's `--event-ttl`.
const EVENT_TTL: Duration = Duration::from_secs(3600);
/// How often old events are looked for.
const EXPIRE_EVERY: Duration = Duration::from_secs(60);
/// The resources of which `default/kubernetes` is one object each.
const SERVICE_PARTS: [&str; 3] = ["services", "endpoints", "discovery.k8s.io/endpointslices"];

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
            self.reconcile(&collection(self, &object), object).await?;
        }
        for object in boot_objects(self).into_iter().chain(crate::fairness::objects()) {
            self.ensure(&collection(self, &object), object).await?;
        }
        // An address that cannot be an endpoint (loopback) leaves the service without; all else works.
        if let Err(error) = self.publish_endpoints().await {
            tracing::warn!(%error, "default/kubernetes has no endpoints");
        }
        self.follow_definitions().await;
        self.follow_flows();
        self.mend_claims().await;
        self.keep_claims();
        self.follow_services();
        self.expire_events();
        self.keep_service();
        self.ready.store(true, Ordering::Release);
        Ok(())
    }

    /// Makes the service of this API again when somebody deletes it or its endpoints: every pod depends on it.
    fn keep_service(&self) {
        self.follow("service of the API", |server| async move { server.keep_service_once().await });
    }

    /// Follows the three objects until a watch ends.
    async fn keep_service_once(&self) -> HistoryError {
        let object = || Interest::Object("default".into(), "kubernetes".into());
        let open = |resource: &str| self.store.watch(resource, object(), WatchFrom::Now);
        let (mut service, mut endpoints, mut slice) = match SERVICE_PARTS.map(open) {
            [Ok(a), Ok(b), Ok(c)] => (a, b, c),
            [Err(error), ..] | [_, Err(error), _] | [.., Err(error)] => return error,
        };
        loop {
            self.repair_service().await;
            let (mut a, mut b, mut c) = (Vec::new(), Vec::new(), Vec::new());
            let ended = tokio::select! {
                () = self.tasks.cancel_token().cancelled() => return HistoryError::Closed,
                result = service.next_batch(&mut a) => result,
                result = endpoints.next_batch(&mut b) => result,
                result = slice.next_batch(&mut c) => result,
            };
            if let Err(error) = ended {
                return error;
            }
        }
    }

    async fn repair_service(&self) {
        let there = |resource| self.store.get(&Key::new(resource, "default", "kubernetes")).is_some();
        if SERVICE_PARTS.into_iter().all(there) {
            return;
        }
        let result = async {
            self.ensure("/api/v1/namespaces/default/services", api_service(self)).await?;
            self.publish_endpoints().await
        };
        if let Err(error) = result.await {
            tracing::warn!(%error, "default/kubernetes cannot be made again");
        }
    }

    /// Lets events go that nobody has written for a while: nothing else ever deletes them.
    fn expire_events(&self) {
        let server = self.clone();
        self.tasks.spawn("event expiry", async move {
            loop {
                server.clock.sleep(EXPIRE_EVERY).await;
                match server.store.expire("events", EVENT_TTL).await {
                    Ok(_) => {}
                    Err(store::CommitError::Closed) => return,
                    Err(error) => tracing::warn!(%error, "old events stay for now"),
                }
            }
        });
    }

    /// True once the boot objects exist.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Creates a bootstrap role or binding, or gives it back what it lacks.
    async fn reconcile(&self, path: &str, wanted: Value) -> Result<(), ApiError> {
        let own = format!("{path}/{}", wanted["metadata"]["name"].as_str().unwrap_or(""));
        let (code, found) = self.internal(Method::GET, &own, None).await;
        if code != 200 {
            return self.ensure(path, wanted).await;
        }
        let (code, status) = match reconcile::repair(&wanted, &found) {
            Repair::Keep => return Ok(()),
            Repair::Update(object) => self.internal(Method::PUT, &own, Some(object)).await,
            Repair::Replace => {
                self.internal(Method::DELETE, &own, None).await;
                self.internal(Method::POST, path, Some(wanted)).await
            }
        };
        match code {
            200 | 201 | 409 => Ok(()),
            code => Err(ApiError::from_status(code, &status)),
        }
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

    /// One merge patch by the server itself.
    pub async fn internal_patch(&self, path: &str, patch: Value) -> (u16, Value) {
        self.internal_as(Method::PATCH, path, Some(patch), "application/merge-patch+json").await
    }

    /// One request by the server itself.
    pub async fn internal(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        self.internal_as(method, path, body, crate::negotiate::JSON).await
    }

    async fn internal_as(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        media: &'static str,
    ) -> (u16, Value) {
        let body = body.map_or_else(base::http::empty, |body| base::http::full(body.to_string()));
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().unwrap_or_default();
        request.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(media));
        request
            .headers_mut()
            .insert(http::header::USER_AGENT, http::HeaderValue::from_static("kube-apiserver/v1.36"));
        request.extensions_mut().insert(loopback());
        let response = self.call(request).await;
        let code = response.status().as_u16();
        let bytes = base::http::read(response.into_body(), usize::MAX).await.unwrap_or_default();
        (code, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }
}

/// Priority classes, the service of this API, addresses for services, what extension servers need.
fn boot_objects(server: &Server) -> Vec<Value> {
    let mut objects = vec![
        priority_class(
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
        priority_class(
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
    ];
    let cidrs: Vec<String> = server.config.service_ranges.iter().map(ToString::to_string).collect();
    objects.push(json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": cidrs}}));
    objects.push(api_service(server));
    objects.push(json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        "data": authentication_data(server)}));
    let since = server.clock.now().strftime("%Y-%m-%d").to_string();
    objects.push(json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "kube-apiserver-legacy-service-account-token-tracking", "namespace": "kube-system"},
        "data": {"since": since}}));
    objects
}

/// `default/kubernetes`.
fn api_service(server: &Server) -> Value {
    let port = server.config.advertise.map_or(6443, |(_, port)| port);
    let address = crate::alloc::first_address(&server.config).map(|ip| ip.to_string()).unwrap_or_default();
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "kubernetes", "namespace": "default",
        "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {"type": "ClusterIP", "clusterIP": address, "sessionAffinity": "None",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}]}})
}

fn priority_class(name: &str, value: i64, description: &str) -> Value {
    json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": value,
        "description": description, "globalDefault": false, "preemptionPolicy": "PreemptLowerPriority"})
}

fn authentication_data(server: &Server) -> Value {
    let config = &server.config;
    let mut data = json!({});
    if let Some(ca) = &config.client_ca {
        data["client-ca-file"] = json!(ca);
    }
    if let Some(ca) = &config.requestheader_ca {
        let list = |items: &[String]| json!(json!(items).to_string());
        let [users, groups, extras] = &config.requestheaders;
        data["requestheader-client-ca-file"] = json!(ca);
        data["requestheader-allowed-names"] = list(&config.requestheader_names);
        data["requestheader-username-headers"] = list(users);
        data["requestheader-group-headers"] = list(groups);
        data["requestheader-extra-headers-prefix"] = list(extras);
        data["requestheader-uid-headers"] = list(&[]);
    }
    data
}

impl Server {
    /// Endpoints of default/kubernetes: where this server is reached.
    async fn publish_endpoints(&self) -> Result<(), ApiError> {
        let Some((ip, port)) = self.config.advertise else { return Ok(()) };
        let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "kubernetes", "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
            "subsets": [{"addresses": [{"ip": ip.to_string()}], "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}]});
        let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": if ip.is_ipv4() { "IPv4" } else { "IPv6" },
            "endpoints": [{"addresses": [ip.to_string()], "conditions": {"ready": true}}],
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}]});
        for (path, object) in [
            ("/api/v1/namespaces/default/endpoints", endpoints),
            ("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", slice),
        ] {
            self.ensure(path, object.clone()).await?;
            let (code, status) =
                self.internal(Method::PUT, &format!("{path}/kubernetes"), Some(object)).await;
            if code != 200 {
                return Err(ApiError::from_status(code, &status));
            }
        }
        Ok(())
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
