//! Aggregation: group versions that another API server serves, behind a service. Requests for them are passed
//! on under the user's identity, which our client certificate vouches for.

mod available;
pub mod discovery;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::ApiError;
use api::user::UserInfo;
use base::http::Body;
use base::trust::{self, Trust};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, HOST, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use parking_lot::RwLock;
use registry::tree::Tree;
use serde_json::Value;

use crate::respond;
use crate::server::{Exchange, Server};
use crate::sub::agent::{self, Scheme, Target};

const STORAGE: &str = "apiregistration.k8s.io/apiservices";
/// Bytes of a discovery or OpenAPI document from another server.
const DOCUMENT: usize = 16 << 20;
/// How long another server may take to tell what it serves.
const LIMIT: Duration = Duration::from_secs(5);

/// A group version that is served elsewhere.
#[derive(Debug)]
pub struct Remote {
    /// Group.
    pub group: String,
    /// Version.
    pub version: String,
    /// Priorities of group and version.
    pub priorities: (i64, i64),
    service: (String, String, i64),
    /// What its connections follow from.
    spec: Value,
    tls: Result<Scheme, String>,
    /// Its checks pass.
    pub available: bool,
    /// What it serves: its APIResourceList, once known.
    pub resources: Option<Value>,
    /// The hash that it gives its OpenAPI document.
    pub openapi_hash: Option<String>,
}

/// Remote group versions by group and version.
pub type Remotes = BTreeMap<(String, String), Arc<Remote>>;

/// The table of remote group versions, swapped as a whole.
#[derive(Default)]
pub struct Table(RwLock<Arc<Remotes>>);

impl Table {
    /// As it is now.
    pub fn now(&self) -> Arc<Remotes> {
        self.0.read().clone()
    }
}

/// The remote that a request is for.
fn wanted(server: &Server, exchange: &Exchange) -> Option<Arc<Remote>> {
    let remotes = server.remotes.now();
    if remotes.is_empty() {
        return None;
    }
    let info = &exchange.info;
    if info.is_resource {
        return remotes.get(&(info.group.clone(), info.version.clone())).cloned();
    }
    let mut parts = info.path.trim_matches('/').split('/');
    let (root, group, version) = (parts.next()?, parts.next()?, parts.next()?);
    let key = (group.to_owned(), version.to_owned());
    remotes.get(&key).filter(|_| root == "apis" && parts.next().is_none()).cloned()
}

/// Passes a request on when another server serves it; else gives the body back.
pub async fn serve(
    server: &Server,
    exchange: &Exchange,
    body: Body,
) -> Result<Result<Response<Body>, Body>, ApiError> {
    let Some(remote) = wanted(server, exchange) else { return Ok(Err(body)) };
    let unavailable = || Ok(Ok(respond::plain(StatusCode::SERVICE_UNAVAILABLE, "service unavailable\n")));
    if !remote.available {
        return unavailable();
    }
    let target = match target(server, &remote) {
        Ok(target) => target,
        Err(Missing::Address) => return unavailable(),
        Err(Missing::Tls(why)) => return Ok(Ok(respond::plain(StatusCode::INTERNAL_SERVER_ERROR, why))),
    };
    let path = exchange.head.uri.path_and_query().map_or("/", |path| path.as_str());
    let identity = identity_headers(&exchange.user);
    match agent::pass(server, &target, path, &exchange.head, &identity, body).await {
        Ok(response) => Ok(Ok(unredirected(response))),
        Err(error) => Ok(Ok(respond::plain(StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", error.message)))),
    }
}

/// A redirect would send our identity elsewhere: it is not passed on.
fn unredirected(response: Response<Body>) -> Response<Body> {
    if response.status().is_redirection() && response.headers().contains_key(LOCATION) {
        let why = "the backend attempted to redirect this request, which is not permitted";
        return respond::plain(StatusCode::BAD_GATEWAY, why);
    }
    response
}

enum Missing {
    Address,
    Tls(String),
}

fn target(server: &Server, remote: &Remote) -> Result<Target, Missing> {
    let (namespace, name, port) = &remote.service;
    let scheme = remote.tls.clone().map_err(Missing::Tls)?;
    let (ip, port) = crate::sub::service_address(server, namespace, name, *port).ok_or(Missing::Address)?;
    Ok(Target { host: ip.to_string(), name: format!("{name}.{namespace}.svc"), port, scheme })
}

/// The headers that tell the other server who asks.
fn identity_headers(user: &UserInfo) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut add = |name: &str, value: &str| {
        let name = HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    };
    add("x-remote-user", &user.name);
    if !user.uid.is_empty() {
        add("x-remote-uid", &user.uid);
    }
    user.groups.iter().for_each(|group| add("x-remote-group", group));
    for (key, values) in &user.extra {
        let header = format!("x-remote-extra-{}", escaped(key));
        values.iter().for_each(|value| add(&header, value));
    }
    headers
}

/// A key as a header's name can carry it.
fn escaped(key: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte);
    key.bytes().fold(String::new(), |mut out, byte| {
        if plain(byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02x}"));
        }
        out
    })
}

/// GETs a document from a remote as this server itself.
async fn fetch(server: &Server, remote: &Remote, path: &str) -> Result<Bytes, String> {
    let target = target(server, remote).map_err(|missing| match missing {
        Missing::Address => "no endpoints available".to_owned(),
        Missing::Tls(why) => why,
    })?;
    let shown = format!("https://{}:{}{path}", target.host, target.port);
    let failed = |why: String| format!("failing or missing response from {shown}: {why}");
    let mut request = Request::new(base::http::empty());
    *request.uri_mut() = path.parse().map_err(|_| failed("the path cannot be used".to_owned()))?;
    let mut headers = identity_headers(&UserInfo {
        name: "system:kube-aggregator".to_owned(),
        groups: vec!["system:masters".to_owned()],
        ..UserInfo::default()
    });
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    let host = HeaderValue::from_str(&target.name).map_err(|error| failed(error.to_string()))?;
    headers.insert(HOST, host);
    *request.headers_mut() = headers;
    let exchange = async {
        let response = agent::send(server, &target, request).await.map_err(|error| failed(error.message))?;
        let code = response.status();
        if !code.is_success() {
            return Err(failed(format!("bad status from {shown}: {}", code.as_u16())));
        }
        let body = base::http::read(base::http::wrap(response.into_body()), DOCUMENT).await;
        body.map_err(|error| failed(error.to_string()))
    };
    let answer = server.clock.timeout(LIMIT, exchange).await;
    answer.unwrap_or_else(|| Err(failed("context deadline exceeded".to_owned())))
}

/// The OpenAPI v3 document of a remote group version.
pub async fn openapi(server: &Server, path: &str) -> Option<Bytes> {
    let (group, version) = path.strip_prefix("apis/")?.split_once('/')?;
    let remotes = server.remotes.now();
    let remote = remotes.get(&(group.to_owned(), version.to_owned())).filter(|r| r.available)?;
    fetch(server, remote, &format!("/openapi/v3/{path}")).await.ok()
}

impl Remote {
    /// Of an APIService with a service.
    fn new(server: &Server, tree: &Value) -> Remote {
        let spec = tree.at("spec");
        let service = spec.at("service");
        let port = service.at("port").as_i64().unwrap_or(443);
        Remote {
            group: spec.text("group").to_owned(),
            version: spec.text("version").to_owned(),
            priorities: (spec.int("groupPriorityMinimum"), spec.int("versionPriority")),
            service: (service.text("namespace").to_owned(), service.text("name").to_owned(), port),
            spec: spec.clone(),
            tls: scheme(server, spec),
            available: false,
            resources: None,
            openapi_hash: None,
        }
    }
}

fn scheme(server: &Server, spec: &Value) -> Result<Scheme, String> {
    if spec.flag("insecureSkipTLSVerify") {
        return Ok(Scheme::Given(server.agents.front()));
    }
    let ca = STANDARD.decode(spec.text("caBundle")).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let ca = ca.filter(|ca| !ca.trim().is_empty()).ok_or("the APIService names no certificate authority")?;
    let config = trust::client_config(Trust::Among(&ca), server.config.proxy_client.as_ref());
    config.map(|config| Scheme::Given(Arc::new(config))).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_travel_in_headers() {
        let user = UserInfo {
            name: "jane".to_owned(),
            uid: "7".to_owned(),
            groups: vec!["a".to_owned(), "b".to_owned()],
            extra: BTreeMap::from([("x.io/Key".to_owned(), vec!["1".to_owned()])]),
        };
        let headers = identity_headers(&user);
        assert_eq!(headers["x-remote-user"], "jane");
        assert_eq!(headers.get_all("x-remote-group").iter().count(), 2);
        assert_eq!(headers["x-remote-extra-x.io%2fkey"], "1");
        let mut moved = Response::new(base::http::empty());
        *moved.status_mut() = StatusCode::FOUND;
        moved.headers_mut().insert(LOCATION, HeaderValue::from_static("https://elsewhere/"));
        assert_eq!(unredirected(moved).status(), StatusCode::BAD_GATEWAY);
    }
}
