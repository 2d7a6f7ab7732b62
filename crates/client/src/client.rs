//! Calls: one method a verb, for built-in types and for untyped objects. JSON on the wire.

use std::sync::Arc;
use std::time::Duration;

use api::wire::Wire;
use api::{ApiError, Gvr};
use base::Clock;
use base::http::{self as body, Body};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::transport::Transport;
use crate::watch::WatchStream;
use crate::{ClientError, Kind, Meta};

/// Longer answers are refused: a list of half a million pods stays below it.
const MAX_ANSWER_BYTES: usize = 4 << 30;
/// How long a call other than a watch may take.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(64);
/// How often a call is repeated when the server asks to come back later.
const MAX_RETRIES: u32 = 10;

/// The content of a patch and its kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Patch {
    /// RFC 6902.
    Json(Value),
    /// RFC 7386.
    Merge(Value),
    /// Strategic merge: built-in kinds only.
    Strategic(Value),
    /// Server-side apply.
    Apply {
        /// The fields wanted, with apiVersion and kind.
        object: Value,
        /// Who owns them.
        manager: String,
        /// Take fields from other managers.
        force: bool,
    },
}

impl Patch {
    fn content_type(&self) -> &'static str {
        match self {
            Patch::Json(_) => "application/json-patch+json",
            Patch::Merge(_) => "application/merge-patch+json",
            Patch::Strategic(_) => "application/strategic-merge-patch+json",
            Patch::Apply { .. } => "application/apply-patch+yaml",
        }
    }

    /// The patch itself.
    pub fn body(&self) -> &Value {
        match self {
            Patch::Json(body) | Patch::Merge(body) | Patch::Strategic(body) => body,
            Patch::Apply { object, .. } => object,
        }
    }
}

/// What a list or watch selects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListOptions {
    /// `labelSelector`.
    pub labels: String,
    /// `fieldSelector`.
    pub fields: String,
    /// `limit`: 0 = all at once.
    pub limit: u32,
    /// `continue`.
    pub continue_token: String,
    /// `resourceVersion`: empty = the most recent.
    pub resource_version: String,
    /// `resourceVersionMatch`.
    pub version_match: String,
}

impl ListOptions {
    fn query(&self, query: &mut Query) {
        query.text("labelSelector", &self.labels);
        query.text("fieldSelector", &self.fields);
        if self.limit > 0 {
            query.text("limit", &self.limit.to_string());
        }
        query.text("continue", &self.continue_token);
        query.text("resourceVersion", &self.resource_version);
        query.text("resourceVersionMatch", &self.version_match);
    }
}

/// How to watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchOptions {
    /// `labelSelector`.
    pub labels: String,
    /// `fieldSelector`.
    pub fields: String,
    /// `resourceVersion` to start after; empty = any recent state first.
    pub resource_version: String,
    /// `allowWatchBookmarks`.
    pub bookmarks: bool,
    /// `sendInitialEvents` with `resourceVersionMatch=NotOlderThan`: the current state as events, then a
    /// bookmark, then changes.
    pub initial_events: bool,
    /// `timeoutSeconds`: 0 = the server's choice.
    pub timeout_seconds: u32,
    /// Ask for `PartialObjectMetadata`.
    pub metadata_only: bool,
}

/// How dependents of a deleted object are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// Dependents go later.
    Background,
    /// Dependents go first.
    Foreground,
    /// Dependents stay.
    Orphan,
}

impl Propagation {
    /// The text of `propagationPolicy`.
    pub fn as_str(self) -> &'static str {
        match self {
            Propagation::Background => "Background",
            Propagation::Foreground => "Foreground",
            Propagation::Orphan => "Orphan",
        }
    }
}

/// What must hold for a deletion or update; empty = anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preconditions {
    /// The object's uid.
    pub uid: String,
    /// The object's resourceVersion.
    pub resource_version: String,
}

/// How to delete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// What must hold.
    pub preconditions: Preconditions,
    /// `propagationPolicy`.
    pub propagation: Option<Propagation>,
    /// `gracePeriodSeconds`.
    pub grace_seconds: Option<i64>,
    /// Only try.
    pub dry_run: bool,
}

impl DeleteOptions {
    /// Only the object with this uid.
    pub fn uid(uid: &str) -> Self {
        DeleteOptions {
            preconditions: Preconditions { uid: uid.to_owned(), ..Preconditions::default() },
            ..DeleteOptions::default()
        }
    }

    /// With a propagation policy.
    pub fn propagate(mut self, propagation: Propagation) -> Self {
        self.propagation = Some(propagation);
        self
    }

    /// With a grace period in seconds.
    pub fn grace(mut self, seconds: i64) -> Self {
        self.grace_seconds = Some(seconds);
        self
    }

    fn to_json(&self) -> Value {
        let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions"});
        if !self.preconditions.uid.is_empty() {
            options["preconditions"]["uid"] = json!(self.preconditions.uid);
        }
        if !self.preconditions.resource_version.is_empty() {
            options["preconditions"]["resourceVersion"] = json!(self.preconditions.resource_version);
        }
        if let Some(propagation) = self.propagation {
            options["propagationPolicy"] = json!(propagation.as_str());
        }
        if let Some(seconds) = self.grace_seconds {
            options["gracePeriodSeconds"] = json!(seconds);
        }
        if self.dry_run {
            options["dryRun"] = json!(["All"]);
        }
        options
    }
}

/// Options of create, update and patch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// `fieldManager`; empty = from the user agent.
    pub manager: String,
    /// `dryRun=All`.
    pub dry_run: bool,
    /// `fieldValidation`: empty, `Ignore`, `Warn` or `Strict`.
    pub validation: String,
}

impl WriteOptions {
    fn query(&self, query: &mut Query) {
        query.text("fieldManager", &self.manager);
        if self.dry_run {
            query.text("dryRun", "All");
        }
        query.text("fieldValidation", &self.validation);
    }
}

/// A page of objects.
#[derive(Clone, Debug, PartialEq)]
pub struct List<T> {
    /// The objects.
    pub items: Vec<T>,
    /// The list's resourceVersion.
    pub resource_version: String,
    /// Set when there is more.
    pub continue_token: String,
}

/// A query string in the making.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(String);

impl Query {
    /// Adds `name=value` unless the value is empty.
    pub fn text(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.any(name, value);
        }
    }

    /// Adds `name=value`.
    pub fn any(&mut self, name: &str, value: &str) {
        self.0.push(if self.0.is_empty() { '?' } else { '&' });
        self.0.push_str(name);
        self.0.push('=');
        for byte in value.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                    self.0.push(char::from(byte));
                }
                other => self.0.push_str(&format!("%{other:02X}")),
            }
        }
    }

    /// `?a=b&c=d`, or nothing.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One call before it is sent.
#[derive(Clone, Debug)]
pub struct Call {
    /// The verb.
    pub method: Method,
    /// The path, such as `/api/v1/nodes/a`.
    pub path: String,
    /// The query.
    pub query: Query,
    /// `Accept`; empty = JSON.
    pub accept: &'static str,
    /// `Content-Type`; empty = JSON.
    pub content_type: &'static str,
    /// The body.
    pub body: Bytes,
}

impl Call {
    /// Without query and body.
    pub fn new(method: Method, path: String) -> Self {
        Call { method, path, query: Query::default(), accept: "", content_type: "", body: Bytes::new() }
    }

    /// With a JSON body.
    pub fn json(mut self, value: &impl Wire) -> Result<Self, ClientError> {
        let encoded = value.to_json();
        self.body =
            encoded.map_err(|error| ClientError::Encode { what: self.what(), source: error.into() })?.into();
        Ok(self)
    }

    fn what(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

struct Inner {
    transport: Arc<dyn Transport>,
    user_agent: HeaderValue,
    clock: Clock,
    timeout: Duration,
}

/// A client with one identity; cheap to clone.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("user_agent", &self.0.user_agent).finish_non_exhaustive()
    }
}

impl Client {
    /// A client over `transport`. The part of `user_agent` before `/` becomes the default field manager.
    pub fn new(transport: Arc<dyn Transport>, user_agent: &str, clock: Clock) -> Self {
        let user_agent =
            HeaderValue::from_str(user_agent).unwrap_or_else(|_| HeaderValue::from_static("navarch"));
        Client(Arc::new(Inner { transport, user_agent, clock, timeout: DEFAULT_TIMEOUT }))
    }

    /// The clock that measures this client's timeouts.
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// Sends a request as it is; the answer is not judged. For logs, proxies and upgrades.
    pub async fn raw(&self, mut request: Request<Body>) -> Result<Response<Body>, ClientError> {
        request.headers_mut().entry(USER_AGENT).or_insert(self.0.user_agent.clone());
        self.0.transport.call(request).await
    }

    /// Sends a call; an error status becomes `ClientError::Api`. The body is still to be read.
    pub async fn send(&self, call: &Call) -> Result<Response<Body>, ClientError> {
        let mut tries = 0;
        loop {
            let response = self.send_once(call).await?;
            let status = response.status();
            if status.is_success() {
                return Ok(response);
            }
            let after = retry_after(&response);
            let text = read_all(response.into_body()).await;
            let text = text.map_err(|error| ClientError::transport(call.what(), error))?;
            tries += 1;
            let retry = status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error();
            match after {
                Some(wait) if retry && tries < MAX_RETRIES && !is_eviction(&call.path) => {
                    self.0.clock.sleep(wait).await;
                }
                _ => return Err(api_error(status, &text).into()),
            }
        }
    }

    async fn send_once(&self, call: &Call) -> Result<Response<Body>, ClientError> {
        let uri = format!("{}{}", call.path, call.query.as_str());
        let accept = if call.accept.is_empty() { "application/json" } else { call.accept };
        let mut request = Request::builder().method(call.method.clone()).uri(uri).header(ACCEPT, accept);
        if !call.body.is_empty() {
            let kind = if call.content_type.is_empty() { "application/json" } else { call.content_type };
            request = request.header(CONTENT_TYPE, kind);
        }
        let content = if call.body.is_empty() { body::empty() } else { body::full(call.body.clone()) };
        let request = request
            .body(content)
            .map_err(|error| ClientError::Encode { what: call.what(), source: error.into() })?;
        match self.0.clock.timeout(self.0.timeout, self.raw(request)).await {
            Some(answer) => answer,
            None => Err(ClientError::Timeout { what: call.what(), seconds: self.0.timeout.as_secs() }),
        }
    }

    /// Sends a call and returns the answer's bytes.
    pub async fn bytes(&self, call: &Call) -> Result<Bytes, ClientError> {
        let response = self.send(call).await?;
        let read = read_all(response.into_body());
        match self.0.clock.timeout(self.0.timeout, read).await {
            Some(bytes) => bytes.map_err(|error| ClientError::transport(call.what(), error)),
            None => Err(ClientError::Timeout { what: call.what(), seconds: self.0.timeout.as_secs() }),
        }
    }

    /// Sends a call and reads its JSON answer.
    pub async fn json<T: Wire>(&self, call: &Call) -> Result<T, ClientError> {
        let bytes = self.bytes(call).await?;
        T::from_json(&bytes).map_err(|source| ClientError::Decode { what: call.what(), source })
    }

    /// Reads any path as JSON, for example `/version` or `/apis`.
    pub async fn get_path<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let call = Call::new(Method::GET, path.to_owned());
        let bytes = self.bytes(&call).await?;
        serde_json::from_slice(&bytes).map_err(|source| ClientError::Decode { what: call.what(), source })
    }
}

/// Built-in types.
impl Client {
    /// One object; the namespace is ignored for cluster-scoped kinds.
    pub async fn get<K: Kind>(&self, namespace: &str, name: &str) -> Result<K, ClientError> {
        self.json(&Call::new(Method::GET, path_of::<K>(namespace, name))).await
    }

    /// One object, or `None` when it does not exist.
    pub async fn get_opt<K: Kind>(&self, namespace: &str, name: &str) -> Result<Option<K>, ClientError> {
        absent(self.get(namespace, name).await)
    }

    /// Objects of a namespace; an empty namespace means all.
    pub async fn list<K: Kind>(
        &self,
        namespace: &str,
        options: &ListOptions,
    ) -> Result<List<K>, ClientError> {
        self.list_at(&gvr_of::<K>(), namespace, options, false).await
    }

    /// Creates in the object's own namespace.
    pub async fn create<K: Kind>(&self, object: &K) -> Result<K, ClientError> {
        self.create_with(object, &WriteOptions::default()).await
    }

    /// Creates, with options.
    pub async fn create_with<K: Kind>(&self, object: &K, options: &WriteOptions) -> Result<K, ClientError> {
        let mut call = Call::new(Method::POST, path_of::<K>(object.namespace(), "")).json(object)?;
        options.query(&mut call.query);
        self.json(&call).await
    }

    /// Replaces an object.
    pub async fn update<K: Kind>(&self, object: &K) -> Result<K, ClientError> {
        let path = path_of::<K>(object.namespace(), object.name());
        self.json(&Call::new(Method::PUT, path).json(object)?).await
    }

    /// Replaces an object's status.
    pub async fn update_status<K: Kind>(&self, object: &K) -> Result<K, ClientError> {
        let path = path_of::<K>(object.namespace(), object.name()) + "/status";
        self.json(&Call::new(Method::PUT, path).json(object)?).await
    }

    /// Patches an object.
    pub async fn patch<K: Kind>(&self, namespace: &str, name: &str, patch: &Patch) -> Result<K, ClientError> {
        self.patch_at(&gvr_of::<K>(), scope_of::<K>(namespace), name, "", patch).await
    }

    /// Patches an object's status.
    pub async fn patch_status<K: Kind>(
        &self,
        namespace: &str,
        name: &str,
        patch: &Patch,
    ) -> Result<K, ClientError> {
        self.patch_at(&gvr_of::<K>(), scope_of::<K>(namespace), name, "status", patch).await
    }

    /// Server-side apply, taking over contested fields.
    pub async fn apply<K: Kind>(&self, object: &K, manager: &str) -> Result<K, ClientError> {
        let what = || format!("apply {} {}", K::KIND, object.name());
        let mut value =
            object.to_tree().map_err(|error| ClientError::Encode { what: what(), source: error.into() })?;
        if let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            meta.remove("managedFields");
        }
        let patch = Patch::Apply { object: value, manager: manager.to_owned(), force: true };
        self.patch::<K>(object.namespace(), object.name(), &patch).await
    }

    /// Deletes an object; returns the answer (the object or a `Status`).
    pub async fn delete<K: Kind>(
        &self,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Value, ClientError> {
        self.delete_at(&gvr_of::<K>(), scope_of::<K>(namespace), name, options).await
    }

    /// Deletes all selected objects of a namespace.
    pub async fn delete_collection<K: Kind>(
        &self,
        namespace: &str,
        select: &ListOptions,
        options: &DeleteOptions,
    ) -> Result<(), ClientError> {
        self.delete_collection_at(&gvr_of::<K>(), scope_of::<K>(namespace), select, options).await
    }

    /// Watches objects of a namespace; an empty namespace means all.
    pub async fn watch<K: Kind>(
        &self,
        namespace: &str,
        options: &WatchOptions,
    ) -> Result<WatchStream<K>, ClientError> {
        self.watch_at(&gvr_of::<K>(), scope_of::<K>(namespace), options).await
    }

    /// Posts to a subresource (`eviction`, `binding`, `token`, …) and reads the answer.
    pub async fn post_subresource<K: Kind, B: Wire, T: Wire>(
        &self,
        namespace: &str,
        name: &str,
        subresource: &str,
        content: &B,
    ) -> Result<T, ClientError> {
        let path = format!("{}/{subresource}", path_of::<K>(namespace, name));
        self.json(&Call::new(Method::POST, path).json(content)?).await
    }

    /// Asks for a pod's eviction.
    pub async fn evict(
        &self,
        namespace: &str,
        pod: &str,
        options: &DeleteOptions,
    ) -> Result<(), ClientError> {
        let eviction = json!({
            "apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": {"name": pod, "namespace": namespace}, "deleteOptions": options.to_json(),
        });
        let path = format!("{}/eviction", Gvr::new("", "v1", "pods").path(namespace, pod));
        self.bytes(&Call::new(Method::POST, path).json(&eviction)?).await.map(drop)
    }

    /// Binds a pod to a node; a given uid must be the pod's.
    pub async fn bind(&self, namespace: &str, pod: &str, uid: &str, node: &str) -> Result<(), ClientError> {
        let mut binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod, "namespace": namespace},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        if !uid.is_empty() {
            binding["metadata"]["uid"] = json!(uid);
        }
        let path = format!("{}/binding", Gvr::new("", "v1", "pods").path(namespace, pod));
        self.bytes(&Call::new(Method::POST, path).json(&binding)?).await.map(drop)
    }
}

/// Any resource, by group, version and plural. An empty namespace means cluster-scoped (or all namespaces).
impl Client {
    /// One object.
    pub async fn get_at<T: Wire>(&self, gvr: &Gvr, namespace: &str, name: &str) -> Result<T, ClientError> {
        self.json(&Call::new(Method::GET, gvr.path(namespace, name))).await
    }

    /// One object's type and metadata.
    pub async fn get_metadata(
        &self,
        gvr: &Gvr,
        namespace: &str,
        name: &str,
    ) -> Result<crate::Partial, ClientError> {
        let mut call = Call::new(Method::GET, gvr.path(namespace, name));
        call.accept = PARTIAL;
        self.json(&call).await
    }

    /// Objects; `metadata_only` asks for `PartialObjectMetadata`.
    pub async fn list_at<T: Wire>(
        &self,
        gvr: &Gvr,
        namespace: &str,
        options: &ListOptions,
        metadata_only: bool,
    ) -> Result<List<T>, ClientError> {
        let mut call = Call::new(Method::GET, gvr.path(namespace, ""));
        options.query(&mut call.query);
        if metadata_only {
            call.accept = PARTIAL_LIST;
        }
        let bytes = self.bytes(&call).await?;
        parse_list(&bytes).map_err(|source| ClientError::Decode { what: call.what(), source })
    }

    /// Creates an object.
    pub async fn create_at<B: Wire, T: Wire>(
        &self,
        gvr: &Gvr,
        namespace: &str,
        object: &B,
        options: &WriteOptions,
    ) -> Result<T, ClientError> {
        let mut call = Call::new(Method::POST, gvr.path(namespace, "")).json(object)?;
        options.query(&mut call.query);
        self.json(&call).await
    }

    /// Replaces an object or one of its subresources (`status`, `scale`, …; empty = the object).
    pub async fn update_at<B: Wire, T: Wire>(
        &self,
        gvr: &Gvr,
        namespace: &str,
        name: &str,
        subresource: &str,
        object: &B,
    ) -> Result<T, ClientError> {
        let path = with_subresource(gvr.path(namespace, name), subresource);
        self.json(&Call::new(Method::PUT, path).json(object)?).await
    }

    /// Patches an object or one of its subresources.
    pub async fn patch_at<T: Wire>(
        &self,
        gvr: &Gvr,
        namespace: &str,
        name: &str,
        subresource: &str,
        patch: &Patch,
    ) -> Result<T, ClientError> {
        let path = with_subresource(gvr.path(namespace, name), subresource);
        let mut call = Call::new(Method::PATCH, path).json(patch.body())?;
        call.content_type = patch.content_type();
        if let Patch::Apply { manager, force, .. } = patch {
            call.query.text("fieldManager", manager);
            call.query.text("force", if *force { "true" } else { "" });
        }
        self.json(&call).await
    }

    /// Deletes an object.
    pub async fn delete_at(
        &self,
        gvr: &Gvr,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Value, ClientError> {
        let call = Call::new(Method::DELETE, gvr.path(namespace, name)).json(&options.to_json())?;
        self.json(&call).await
    }

    /// Deletes all selected objects.
    pub async fn delete_collection_at(
        &self,
        gvr: &Gvr,
        namespace: &str,
        select: &ListOptions,
        options: &DeleteOptions,
    ) -> Result<(), ClientError> {
        let mut call = Call::new(Method::DELETE, gvr.path(namespace, "")).json(&options.to_json())?;
        select.query(&mut call.query);
        self.bytes(&call).await.map(drop)
    }

    /// Watches objects.
    pub async fn watch_at<T: Wire>(
        &self,
        gvr: &Gvr,
        namespace: &str,
        options: &WatchOptions,
    ) -> Result<WatchStream<T>, ClientError> {
        let mut call = Call::new(Method::GET, gvr.path(namespace, ""));
        call.query.text("watch", "true");
        call.query.text("labelSelector", &options.labels);
        call.query.text("fieldSelector", &options.fields);
        call.query.text("resourceVersion", &options.resource_version);
        call.query.text("allowWatchBookmarks", if options.bookmarks { "true" } else { "" });
        if options.initial_events {
            call.query.text("sendInitialEvents", "true");
            call.query.text("resourceVersionMatch", "NotOlderThan");
        }
        if options.timeout_seconds > 0 {
            call.query.text("timeoutSeconds", &options.timeout_seconds.to_string());
        }
        if options.metadata_only {
            call.accept = PARTIAL;
        }
        let response = self.send(&call).await?;
        Ok(WatchStream::new(response.into_body(), call.what()))
    }
}

const PARTIAL: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
const PARTIAL_LIST: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";

fn gvr_of<K: Kind>() -> Gvr {
    Gvr::new(K::GROUP, K::VERSION, K::URL_PATH_SEGMENT)
}

fn scope_of<K: Kind>(namespace: &str) -> &str {
    if K::NAMESPACED { namespace } else { "" }
}

fn path_of<K: Kind>(namespace: &str, name: &str) -> String {
    gvr_of::<K>().path(scope_of::<K>(namespace), name)
}

fn with_subresource(mut path: String, subresource: &str) -> String {
    if !subresource.is_empty() {
        path.push('/');
        path.push_str(subresource);
    }
    path
}

/// Boxed: the compiler cannot see through the body's error type that the nested future is `Send`.
fn read_all(content: Body) -> BoxFuture<'static, Result<Bytes, body::ReadError>> {
    Box::pin(body::read(content, MAX_ANSWER_BYTES))
}

fn is_eviction(path: &str) -> bool {
    path.ends_with("/eviction")
}

/// A missing object as `None`.
pub fn absent<T>(answer: Result<T, ClientError>) -> Result<Option<T>, ClientError> {
    match answer {
        Ok(object) => Ok(Some(object)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

fn retry_after(response: &Response<Body>) -> Option<Duration> {
    let text = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    text.parse().ok().map(Duration::from_secs)
}

fn api_error(status: StatusCode, text: &[u8]) -> ApiError {
    let value: Value = serde_json::from_slice(text).unwrap_or(Value::Null);
    let mut error = ApiError::from_status(status.as_u16(), &value);
    if value.is_null() && !text.is_empty() {
        let text = String::from_utf8_lossy(&text[..text.len().min(2_000)]);
        error.message = format!("{} ({})", error.message, text.trim());
    }
    error
}

/// Reads a list. An item that cannot be read is left out and logged: one bad object must not hide the rest.
fn parse_list<T: Wire>(bytes: &[u8]) -> Result<List<T>, serde_json::Error> {
    #[derive(serde::Deserialize, Default)]
    #[serde(rename_all = "camelCase", default)]
    struct ListMeta {
        resource_version: String,
        #[serde(rename = "continue")]
        continue_token: String,
    }
    #[derive(serde::Deserialize)]
    struct RawList<'a> {
        #[serde(default)]
        metadata: ListMeta,
        #[serde(borrow)]
        items: Option<Vec<&'a RawValue>>,
    }
    let raw: RawList<'_> = serde_json::from_slice(bytes)?;
    let read = |item: &&RawValue| match T::from_json(item.get().as_bytes()) {
        Ok(item) => Some(item),
        Err(error) => {
            tracing::warn!(%error, "an item of a list cannot be read");
            None
        }
    };
    let items = raw.items.iter().flatten().filter_map(read).collect();
    Ok(List {
        items,
        resource_version: raw.metadata.resource_version,
        continue_token: raw.metadata.continue_token,
    })
}
