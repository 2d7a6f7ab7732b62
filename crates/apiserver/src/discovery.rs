//! What is served: discovery documents, OpenAPI, version, health, metrics, keys; everything that is no
//! resource. Documents are made once per catalog.

use std::sync::Arc;

use api::ApiError;
use api::error::Reason;
use base::http::Body;
use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, ETAG, IF_NONE_MATCH, VARY};
use http::{HeaderValue, Method, Response, StatusCode};
use parking_lot::Mutex;
use registry::{Catalog, Resource};
use serde_json::{Value, json};
use sha2::{Digest, Sha256, Sha512};

use crate::aggregate::Remotes;
use crate::negotiate::{Accept, Offer};
use crate::object::Serving;
use crate::server::{Exchange, Server};
use crate::{negotiate, respond};

/// Paths that the root lists, beside API groups.
const PATHS: &[&str] = &[
    "/.well-known/openid-configuration",
    "/metrics",
    "/openapi/v2",
    "/openapi/v3",
    "/openapi/v3/",
    "/openid/v1/jwks",
    "/version",
];

/// Documents made of one catalog.
#[derive(Default)]
pub struct Documents(Mutex<Option<Arc<Made>>>);

/// Documents that cost something to make.
pub struct Made {
    serving: Arc<Serving>,
    remotes: Arc<Remotes>,
    aggregated: [(Bytes, String); 2],
    openapi: crate::openapi::Documents,
    protobuf: std::sync::OnceLock<Bytes>,
}

/// How clients ask for the v2 document in protobuf.
const V2_PROTOBUF: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
];

impl Documents {
    fn of(&self, server: &Server) -> Arc<Made> {
        let (serving, remotes) = (server.rows.serving(), server.remotes.now());
        let mut held = self.0.lock();
        if let Some(made) = held.as_ref()
            && Arc::ptr_eq(&made.serving, &serving)
            && Arc::ptr_eq(&made.remotes, &remotes)
        {
            return made.clone();
        }
        let core = tagged(&aggregated(&serving.catalog, &remotes, true));
        let made = Arc::new(Made {
            aggregated: [core, tagged(&aggregated(&serving.catalog, &remotes, false))],
            openapi: crate::openapi::Documents::new(serving.clone()),
            protobuf: std::sync::OnceLock::new(),
            serving,
            remotes,
        });
        *held = Some(made.clone());
        made
    }
}

/// The groups served here and elsewhere, in order of priority.
fn groups(catalog: &Catalog, remotes: &Remotes) -> Vec<registry::Group> {
    crate::aggregate::discovery::merged(catalog.groups(), crate::crd::group_priority, remotes)
}

fn tagged(document: &Value) -> (Bytes, String) {
    let bytes = Bytes::from(document.to_string());
    let tag = tag(&bytes);
    (bytes, tag)
}

/// Upper-case hexadecimal SHA-512, as upstream's.
fn tag(bytes: &[u8]) -> String {
    Sha512::digest(bytes).iter().map(|byte| format!("{byte:02X}")).collect()
}

/// Serves a path that is no resource.
pub async fn serve(server: &Server, exchange: &Exchange) -> Result<Response<Body>, ApiError> {
    let info = &exchange.info;
    let path = info.path.trim_end_matches('/');
    let places: Vec<&str> = path.split('/').skip(1).collect();
    let routed = matches!(places[..], ["api"] | ["api", "v1"])
        || matches!(places[..], ["apis", group, version] if server.rows.now().version_rows(group, version).next().is_some());
    if routed && exchange.head.method != Method::GET {
        return Err(crate::verbs::method_not_allowed());
    }
    let any_method = matches!(places[..], ["apis"] | ["apis", _] | ["healthz" | "livez" | "readyz", ..]);
    if !any_method && exchange.head.method != Method::GET && exchange.head.method != Method::HEAD {
        return Ok(page_not_found());
    }
    if info.path.starts_with("//") {
        return Ok(page_not_found());
    }
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match segments.as_slice() {
        [""] | ["index.html"] => Ok(root(server, exchange)),
        ["api"] => api_versions(server, exchange),
        ["apis"] => api_groups(server, exchange),
        ["api", version] => resource_list(server, exchange, "", version),
        ["apis", group] => api_group(server, exchange, group),
        ["apis", group, version] => resource_list(server, exchange, group, version),
        ["version"] => object(exchange, &version()),
        [kind @ ("healthz" | "livez" | "readyz"), rest @ ..] => {
            let answer = crate::health::serve(server, exchange, kind, &rest.join("/")).await;
            Ok(answer.unwrap_or_else(page_not_found))
        }
        ["metrics"] => Ok(respond::bytes(
            StatusCode::OK,
            "text/plain; version=0.0.4; charset=utf-8",
            server.exposition(),
        )),
        ["navarch", "backup"] if exchange.head.method == Method::GET => Ok(crate::backup::serve(server)),
        ["openapi", "v2"] if info.path == path => openapi_v2(server, exchange),
        ["openapi", "v3", rest @ ..] => openapi_v3(server, exchange, &rest.join("/")).await,
        [".well-known", "openid-configuration"] => Ok(openid(server)),
        ["openid", "v1", "jwks"] => key_set(server, exchange),
        _ => Ok(page_not_found()),
    }
}

/// How long anybody may keep what tokens are verified with.
const PUBLIC: HeaderValue = HeaderValue::from_static("public, max-age=3600");

/// The keys of service accounts' tokens, in the one form they have.
fn key_set(server: &Server, exchange: &Exchange) -> Result<Response<Body>, ApiError> {
    const FORM: &str = "application/jwk-set+json";
    let accept = exchange.headers().get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("*/*");
    let taken = |clause: &str| matches!(clause.split(';').next().unwrap_or("").trim(), FORM | "*/*");
    if !accept.split(',').any(taken) {
        let message = format!("406: Not Acceptable\n\nAvailable representations: {FORM}");
        let mut error = ApiError::new(Reason::NotAcceptable, message);
        error.details = Some(Box::default());
        return Err(error);
    }
    let mut response =
        respond::bytes(StatusCode::OK, FORM, server.authenticator.accounts.key_set().to_string());
    response.headers_mut().insert(CACHE_CONTROL, PUBLIC);
    Ok(response)
}

/// A resource path that names no row: 404 with the path's text.
pub async fn unknown(server: &Server, exchange: &Exchange, _body: Body) -> Result<Response<Body>, ApiError> {
    let info = &exchange.info;
    // Groups of custom resources have no router that would say it.
    if !server.rows.now().rows().iter().any(|row| row.group == info.group && !row.custom) {
        return Ok(page_not_found());
    }
    Err(no_such_path(exchange))
}

/// 404 as Go's HTTP server says it.
fn page_not_found() -> Response<Body> {
    respond::plain(StatusCode::NOT_FOUND, "404 page not found\n")
}

fn no_such_path(_exchange: &Exchange) -> ApiError {
    let mut error = ApiError::no_such_path();
    error.details = Some(Box::default());
    error
}

fn object(exchange: &Exchange, value: &Value) -> Result<Response<Body>, ApiError> {
    let accept = exchange.accept(Offer { tables: false, protobuf: true, watch: false })?;
    Ok(respond::tree(&accept, StatusCode::OK, value))
}

fn root(server: &Server, exchange: &Exchange) -> Response<Body> {
    let mut paths: Vec<String> = PATHS.iter().map(|path| (*path).to_owned()).collect();
    paths.extend(["/api", "/api/v1", "/apis", "/apis/"].map(str::to_owned));
    for group in groups(&server.rows.now(), &server.remotes.now()).into_iter().filter(|g| !g.name.is_empty())
    {
        paths.push(format!("/apis/{}", group.name));
        paths.extend(group.versions.iter().map(|version| format!("/apis/{}/{version}", group.name)));
    }
    paths.extend(crate::health::paths());
    paths.sort();
    paths.dedup();
    let accept =
        exchange.accept(Offer { tables: false, protobuf: false, watch: false }).unwrap_or(Accept::PLAIN);
    respond::bytes(StatusCode::OK, negotiate::JSON, respond::write(accept.format, &json!({"paths": paths})))
}

/// The version of aggregated discovery that the client asks for, if it does.
fn aggregated_version(exchange: &Exchange) -> Option<&'static str> {
    let accept = exchange.headers().get(ACCEPT)?.to_str().ok()?;
    accept.split(',').find_map(|clause| {
        let compact: String = clause.chars().filter(|c| !c.is_whitespace()).collect();
        if !compact.starts_with("application/json") && !compact.starts_with("*/*") {
            return None;
        }
        let has = |part: &str| compact.split(';').any(|p| p == part);
        if !has("g=apidiscovery.k8s.io") || !has("as=APIGroupDiscoveryList") {
            // The first clause that can be served wins.
            return compact.starts_with("application/json").then_some("");
        }
        ["v2", "v2beta1"].into_iter().find(|version| has(&format!("v={version}")))
    })
}

fn aggregated_answer(server: &Server, exchange: &Exchange, core: bool) -> Option<Response<Body>> {
    let version = aggregated_version(exchange).filter(|version| !version.is_empty())?;
    let made = server.documents.of(server);
    let (bytes, tag) = &made.aggregated[usize::from(!core)];
    let bytes = if version == "v2" {
        bytes.clone()
    } else {
        let text =
            String::from_utf8_lossy(bytes).replace("apidiscovery.k8s.io/v2", "apidiscovery.k8s.io/v2beta1");
        Bytes::from(text)
    };
    let media = if version == "v2" {
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    } else {
        "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"
    };
    Some(cached(exchange, media, bytes, tag))
}

/// An answer with an ETag; 304 when the client has it.
fn cached(exchange: &Exchange, media: &'static str, bytes: Bytes, tag: &str) -> Response<Body> {
    let quoted = format!("\"{tag}\"");
    let known = exchange.headers().get(IF_NONE_MATCH).and_then(|v| v.to_str().ok()).unwrap_or("");
    let mut response = if known.split(',').any(|t| t.trim() == quoted || t.trim() == tag) {
        let mut response = Response::new(base::http::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        respond::bytes(StatusCode::OK, media, bytes)
    };
    if let Ok(value) = HeaderValue::from_str(&quoted) {
        response.headers_mut().insert(ETAG, value);
    }
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    response
}

fn api_versions(server: &Server, exchange: &Exchange) -> Result<Response<Body>, ApiError> {
    if let Some(response) = aggregated_answer(server, exchange, true) {
        return Ok(response);
    }
    let address = match server.config.advertise {
        Some((ip, port)) => std::net::SocketAddr::new(ip, port).to_string(),
        None => String::new(),
    };
    let document = json!({"kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]});
    let accept = exchange.accept(Offer { tables: false, protobuf: true, watch: false })?;
    Ok(respond::tree(&accept, StatusCode::OK, &document))
}

fn group_value(name: &str, versions: &[String]) -> Value {
    let entry = |version: &String| json!({"groupVersion": format!("{name}/{version}"), "version": version});
    let versions: Vec<Value> = versions.iter().map(entry).collect();
    json!({"name": name, "preferredVersion": versions[0], "versions": versions})
}

fn api_groups(server: &Server, exchange: &Exchange) -> Result<Response<Body>, ApiError> {
    if let Some(response) = aggregated_answer(server, exchange, false) {
        return Ok(response);
    }
    let catalog = server.rows.now();
    let groups = groups(&catalog, &server.remotes.now());
    let groups: Vec<Value> =
        groups.iter().filter(|g| !g.name.is_empty()).map(|g| group_value(&g.name, &g.versions)).collect();
    grouped(exchange, &json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
}

/// As [`object`], where upstream has no router that would refuse media types first.
fn grouped(exchange: &Exchange, value: &Value) -> Result<Response<Body>, ApiError> {
    object(exchange, value).map_err(|error| match error.message.strip_prefix("406: ") {
        Some(_) => negotiate::not_acceptable(Offer { tables: false, protobuf: true, watch: false }),
        None => error,
    })
}

fn api_group(server: &Server, exchange: &Exchange, name: &str) -> Result<Response<Body>, ApiError> {
    let groups = groups(&server.rows.now(), &server.remotes.now());
    let Some(group) = groups.iter().find(|g| g.name == name && !name.is_empty()) else {
        return Ok(page_not_found());
    };
    let mut value = group_value(&group.name, &group.versions);
    value["kind"] = "APIGroup".into();
    value["apiVersion"] = "v1".into();
    grouped(exchange, &value)
}

fn resource_list(
    server: &Server,
    exchange: &Exchange,
    group: &str,
    version: &str,
) -> Result<Response<Body>, ApiError> {
    let serving = server.rows.serving();
    let catalog = &serving.catalog;
    let mut rows = catalog.version_rows(group, version).peekable();
    if rows.peek().is_none() {
        // A version that a known group does not have is told otherwise.
        let known = catalog.rows().iter().any(|row| row.group == group && !row.custom);
        return if known { Err(no_such_path(exchange)) } else { Ok(page_not_found()) };
    }
    let mut resources: Vec<Value> = rows.flat_map(|row| plain_entries(&serving, row)).collect();
    // Custom resources are listed each with its parts, the others all by name.
    if catalog.version_rows(group, version).any(|row| !row.custom) {
        resources.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    }
    let mut list = json!({"kind": "APIResourceList",
        "groupVersion": api::meta::api_version(group, version), "resources": resources});
    // The oldest list never had one.
    if !group.is_empty() {
        list["apiVersion"] = "v1".into();
    }
    object(exchange, &list)
}

fn verbs(verbs: registry::Verbs) -> Vec<&'static str> {
    verbs.iter().map(registry::Verb::as_str).collect()
}

/// Kinds that upstream stores in another version than the one that is served.
const STORED: &[(&str, &str, &str)] = &[
    ("admissionregistration.k8s.io", "MutatingAdmissionPolicy", "admissionregistration.k8s.io/v1beta1"),
    (
        "admissionregistration.k8s.io",
        "MutatingAdmissionPolicyBinding",
        "admissionregistration.k8s.io/v1beta1",
    ),
    ("apiextensions.k8s.io", "CustomResourceDefinition", "apiextensions.k8s.io/v1beta1"),
    ("autoscaling", "HorizontalPodAutoscaler", "autoscaling/v2"),
    ("events.k8s.io", "Event", "/v1"),
];

/// What tells whether the form in which a kind is stored has changed.
fn storage_hash(serving: &Serving, row: &Arc<Resource>) -> String {
    use base64::Engine as _;
    let stored = STORED.iter().find(|(group, kind, _)| *group == row.group && *kind == row.kind);
    let version = match (stored, serving.custom(row)) {
        (_, Some(custom)) => format!("{}/{}", row.group, custom.storage_version),
        (Some((_, _, version)), None) => (*version).to_owned(),
        (None, None) => format!("{}/{}", row.group, row.version),
    };
    let hash = Sha256::digest(format!("{version}/{}", row.kind));
    base64::engine::general_purpose::STANDARD.encode(&hash[..8])
}

/// The verbs of custom resources, in the order in which upstream lists them.
const CUSTOM_VERBS: &[&str] =
    &["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];

fn plain_entries(serving: &Serving, row: &Arc<Resource>) -> Vec<Value> {
    let mut entry = json!({"name": row.plural, "singularName": row.singular, "namespaced": row.namespaced,
        "kind": row.kind, "verbs": if row.custom { CUSTOM_VERBS.to_vec() } else { verbs(row.verbs) }});
    for (key, list) in [("shortNames", &row.short_names), ("categories", &row.categories)] {
        if !list.is_empty() {
            entry[key] = json!(list);
        }
    }
    if row.verbs.has(registry::Verb::Watch) {
        entry["storageVersionHash"] = storage_hash(serving, row).into();
    }
    let mut out = vec![entry];
    for sub in &row.subresources {
        let mut entry = json!({"name": format!("{}/{}", row.plural, sub.name), "singularName": "",
            "namespaced": row.namespaced, "kind": sub.kind, "verbs": verbs(sub.verbs)});
        if (sub.group.as_str(), sub.version.as_str()) != (row.group.as_str(), row.version.as_str()) {
            entry["group"] = sub.group.clone().into();
            entry["version"] = sub.version.clone().into();
        }
        out.push(entry);
    }
    out
}

fn aggregated(catalog: &Catalog, remotes: &Remotes, core: bool) -> Value {
    let groups = groups(catalog, remotes);
    let items: Vec<Value> = groups
        .iter()
        .filter(|group| group.name.is_empty() == core)
        .map(|group| {
            let versions: Vec<Value> = group
                .versions
                .iter()
                .map(|version| {
                    if let Some(remote) = remotes.get(&(group.name.clone(), version.clone())) {
                        return crate::aggregate::discovery::version(remote);
                    }
                    let mut rows: Vec<_> = catalog.version_rows(&group.name, version).collect();
                    rows.sort_by(|a, b| a.plural.cmp(&b.plural));
                    let resources: Vec<Value> = rows.into_iter().map(aggregated_entry).collect();
                    json!({"version": version, "freshness": "Current", "resources": resources})
                })
                .collect();
            let mut metadata = json!({"creationTimestamp": null});
            if !core {
                metadata["name"] = group.name.clone().into();
            }
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated_entry(row: &Arc<Resource>) -> Value {
    let kind =
        |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let mut entry = json!({"resource": row.plural, "responseKind": kind(&row.group, &row.version, &row.kind),
        "scope": if row.namespaced { "Namespaced" } else { "Cluster" }, "singularResource": row.singular,
        "verbs": verbs(row.verbs)});
    for (key, list) in [("shortNames", &row.short_names), ("categories", &row.categories)] {
        if !list.is_empty() {
            entry[key] = json!(list);
        }
    }
    let mut subs: Vec<_> = row.subresources.iter().collect();
    subs.sort_by(|a, b| a.name.cmp(&b.name));
    if !subs.is_empty() {
        let make = |sub: &&registry::Subresource| json!({"subresource": sub.name, "responseKind": kind(&sub.group, &sub.version, &sub.kind), "verbs": verbs(sub.verbs)});
        entry["subresources"] = subs.iter().map(make).collect();
    }
    entry
}

/// What `/version` tells: the Kubernetes that is served.
pub fn version() -> Value {
    json!({"major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "36", "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "35", "gitVersion": "v1.36.2+navarch", "gitCommit": option_env!("NAVARCH_COMMIT").unwrap_or("unknown"),
        "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "rust", "compiler": "rustc",
        "platform": concat!("linux/", "amd64")})
}

fn openid(server: &Server) -> Response<Body> {
    let accounts = &server.authenticator.accounts;
    let issuer = accounts.name();
    let uri = server.config.jwks_uri.clone().unwrap_or_else(|| match server.config.advertise {
        Some((ip, port)) => format!("https://{}/openid/v1/jwks", std::net::SocketAddr::new(ip, port)),
        None => format!("{issuer}/openid/v1/jwks"),
    });
    let mut algorithms: Vec<String> = accounts.key_set()["keys"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|key| key["alg"].as_str().map(str::to_owned))
        .collect();
    algorithms.sort();
    algorithms.dedup();
    let document = json!({"issuer": issuer, "jwks_uri": uri, "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": algorithms});
    let mut response = respond::bytes(StatusCode::OK, negotiate::JSON, document.to_string());
    response.headers_mut().insert(CACHE_CONTROL, PUBLIC);
    response
}

fn openapi_v2(server: &Server, exchange: &Exchange) -> Result<Response<Body>, ApiError> {
    let made = server.documents.of(server);
    let (bytes, tag) = made.openapi.v2();
    let accept = exchange.headers().get(ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
    let spread = |mut response: Response<Body>| {
        response.headers_mut().insert(VARY, HeaderValue::from_static("Accept-Encoding"));
        response.headers_mut().append(VARY, HeaderValue::from_static("Accept"));
        response
    };
    if V2_PROTOBUF.iter().any(|media| accept.contains(media)) {
        let encoded = made.protobuf.get_or_init(|| machinery::openapi::v2_protobuf(bytes).into());
        // Always the second: the first, with its `@`, is no media type and clients refuse it.
        return Ok(spread(cached(exchange, V2_PROTOBUF[1], encoded.clone(), tag)));
    }
    Ok(spread(cached(exchange, negotiate::JSON, bytes.clone(), tag)))
}

async fn openapi_v3(server: &Server, exchange: &Exchange, path: &str) -> Result<Response<Body>, ApiError> {
    let made = server.documents.of(server);
    if path.is_empty() {
        let elsewhere = made.remotes.values().filter_map(|remote| {
            let hash = remote.openapi_hash.clone()?;
            Some((format!("apis/{}/{}", remote.group, remote.version), hash))
        });
        return Ok(respond::bytes(
            StatusCode::OK,
            negotiate::JSON,
            made.openapi.v3_index(elsewhere.collect()),
        ));
    }
    if let Some(document) = crate::aggregate::openapi(server, path).await {
        return Ok(respond::bytes(StatusCode::OK, negotiate::JSON, document));
    }
    let (bytes, tag) = made.openapi.v3(path).ok_or_else(|| no_such_path(exchange))?;
    Ok(cached(exchange, negotiate::JSON, bytes, tag))
}
