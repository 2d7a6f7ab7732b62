//! The proxy subresources of nodes, pods and services: requests passed on to them.
//!
//! Targets are checked by address: nothing of this machine or of its link is reached through a pod or service.

use std::net::IpAddr;

use api::ApiError;
use base::http::Body;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use registry::tree::Tree;
use serde_json::Value;
use store::Key;

use super::agent::{self, Scheme, Target};
use crate::admission::{Operation, Review};
use crate::object;
use crate::server::Server;
use crate::verbs::Call;
use crate::write::{FieldValidation, WriteOptions};

/// HTML pages up to this size get their links rewritten; others pass as they are.
const PAGE: usize = 4 << 20;

/// Passes a request on.
pub async fn serve(call: &Call<'_>, body: Body) -> Result<Response<Body>, ApiError> {
    let info = &call.exchange.info;
    let path = if info.rest.is_empty() { info_path(call) } else { info.rest.clone() };
    if path.is_empty() && matches!(call.exchange.head.method, Method::GET | Method::HEAD) && !upgrades(call) {
        return Ok(redirect(call));
    }
    let options = WriteOptions {
        dry_run: false,
        validation: FieldValidation::Ignore,
        manager: String::new(),
        force: false,
    };
    let review = Review::new(call, Operation::Connect, &options);
    let kind = match info.resource.as_str() {
        "nodes" => "NodeProxyOptions",
        "pods" => "PodProxyOptions",
        _ => "ServiceProxyOptions",
    };
    let given = serde_json::json!({"apiVersion": "v1", "kind": kind, "path": path});
    call.server.admission.announce(&review, &given, None).await?;
    call.server.admission.validate(&review, Some(&given), None).await?;
    let (scheme, name, port) = split(call.name());
    let target = match info.resource.as_str() {
        "nodes" => node(call, scheme, name, port)?,
        "pods" => pod(call, scheme, name, port)?,
        _ => service(call, scheme, name, port)?,
    };
    let query = call.exchange.head.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let raw = match split_path(call.exchange.head.uri.path(), &info.namespace).1 {
        "" if path.is_empty() => "/",
        "" => &path,
        rest => rest,
    };
    let response = agent::pass(
        call.server,
        &target,
        &format!("{raw}{query}"),
        &call.exchange.head,
        &HeaderMap::new(),
        body,
    )
    .await?;
    rewrite(call, &target, response).await
}

fn upgrades(call: &Call<'_>) -> bool {
    call.exchange.headers().contains_key(http::header::UPGRADE)
}

/// `/` when the request's path ends so, else nothing.
fn info_path(call: &Call<'_>) -> String {
    if call.exchange.info.path.ends_with('/') { "/".to_owned() } else { String::new() }
}

/// A path as it was sent, escapes and all: up to and with the subresource `/proxy`, and what follows. Namespaces
/// and objects may be called `proxy`, too, so the place of the segment counts:
/// `/api/VERSION/[namespaces/NAMESPACE/]RESOURCE/NAME/proxy`.
fn split_path<'p>(raw: &'p str, namespace: &str) -> (&'p str, &'p str) {
    let segments = if namespace.is_empty() { 5 } else { 7 };
    let mut slashes = raw.match_indices('/').map(|(at, _)| at);
    raw.split_at(slashes.nth(segments).unwrap_or(raw.len()))
}

/// Where the proxied tree begins in our paths.
fn base<'c>(call: &'c Call<'_>) -> &'c str {
    split_path(call.exchange.head.uri.path(), &call.exchange.info.namespace).0
}

/// Sends to the same path with a slash, so that relative links work.
fn redirect(call: &Call<'_>) -> Response<Body> {
    let query = call.exchange.head.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut response = Response::new(base::http::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(value) = HeaderValue::from_str(&format!("{}/{query}", base(call))) {
        response.headers_mut().insert(LOCATION, value);
    }
    response
}

/// `[scheme:]name[:port]`
fn split(text: &str) -> (&str, &str, &str) {
    match text.split(':').collect::<Vec<_>>().as_slice() {
        [name] => ("", name, ""),
        [name, port] => ("", name, port),
        [scheme, name, port] => (scheme, name, port),
        _ => ("", text, ""),
    }
}

fn node(call: &Call<'_>, scheme: &str, name: &str, port: &str) -> Result<Target, ApiError> {
    let node = object::tree(&*call.server.find(call.row(), "", name)?);
    let agent = call.server.agents.target(&node)?;
    match port.parse::<u16>() {
        Err(_) => Ok(agent),
        Ok(port) if port == agent.port => Ok(agent),
        Ok(port) => {
            if let Ok(ip) = agent.host.parse::<IpAddr>() {
                check(ip)?;
            }
            Ok(Target { port, scheme: plain(scheme), ..agent })
        }
    }
}

fn plain(scheme: &str) -> Scheme {
    if scheme == "https" { Scheme::Https } else { Scheme::Http }
}

/// Addresses that upstream's `IsProxyableIP` lets through.
fn check(ip: IpAddr) -> Result<(), ApiError> {
    let local = match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local() || ip.is_unspecified() || ip.is_multicast(),
        IpAddr::V6(ip) => {
            ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unspecified() || ip.is_multicast()
        }
    };
    if local { Err(ApiError::bad_request("address not allowed")) } else { Ok(()) }
}

fn pod(call: &Call<'_>, scheme: &str, name: &str, port: &str) -> Result<Target, ApiError> {
    let pod = object::tree(&*call.server.find(call.row(), call.namespace(), name)?);
    let port = match port {
        "" => {
            let containers = pod.list("spec.containers").iter();
            let first = containers.flat_map(|c| c.list("ports").iter()).next();
            first.map_or(80, |port| port.int("containerPort"))
        }
        text => match text.parse::<i64>() {
            Ok(port) => port,
            Err(_) => named_port(&pod, text)
                .ok_or_else(|| ApiError::bad_request(format!("invalid port {text:?}")))?,
        },
    };
    let ip: IpAddr =
        pod.text("status.podIP").parse().map_err(|_| ApiError::bad_request("address not allowed"))?;
    check(ip)?;
    let port = u16::try_from(port).map_err(|_| ApiError::bad_request(format!("invalid port {port}")))?;
    Ok(Target { host: ip.to_string(), name: ip.to_string(), port, scheme: plain(scheme) })
}

fn named_port(pod: &Value, name: &str) -> Option<i64> {
    let ports = pod.list("spec.containers").iter().flat_map(|c| c.list("ports").iter());
    ports.into_iter().find(|port| port.text("name") == name).map(|port| port.int("containerPort"))
}

fn service(call: &Call<'_>, scheme: &str, name: &str, port: &str) -> Result<Target, ApiError> {
    let service = object::tree(&*call.server.find(call.row(), call.namespace(), name)?);
    let ports = service.list("spec.ports");
    // A number is the service's port; a name, or nothing, the endpoints' port of that name.
    let wanted = match port.parse::<i64>() {
        Ok(number) => {
            let found = ports.iter().find(|p| p.int("port") == number);
            let unavailable = || {
                ApiError::service_unavailable(format!("no service port {number} found for service {name:?}"))
            };
            found.ok_or_else(unavailable)?.text("name").to_owned()
        }
        Err(_) => port.to_owned(),
    };
    let (ip, port) = endpoint(call.server, call.namespace(), name, &wanted).ok_or_else(|| {
        ApiError::service_unavailable(format!("no endpoints available for service {name:?}"))
    })?;
    check(ip)?;
    Ok(Target { host: ip.to_string(), name: ip.to_string(), port, scheme: plain(scheme) })
}

/// One ready endpoint at random.
fn endpoint(server: &Server, namespace: &str, service: &str, port: &str) -> Option<(IpAddr, u16)> {
    let snapshot = server.store.snapshot("discovery.k8s.io/endpointslices");
    let mut found = Vec::new();
    for stored in snapshot.range(Some(namespace), None) {
        if stored.attrs.label("kubernetes.io/service-name").is_none_or(|name| &**name != service) {
            continue;
        }
        let slice = object::tree(stored);
        let Some(port) = slice.list("ports").iter().find(|p| p.text("name") == port) else { continue };
        let Ok(port) = u16::try_from(port.int("port")) else { continue };
        for endpoint in
            slice.list("endpoints").iter().filter(|e| e.at("conditions.ready") != &Value::Bool(false))
        {
            found.extend(
                endpoint
                    .list("addresses")
                    .first()
                    .and_then(|a| a.as_str()?.parse().ok())
                    .map(|ip| (ip, port)),
            );
        }
    }
    if found.is_empty() {
        return legacy_endpoint(server, namespace, service, port);
    }
    let at = server.rng.below(found.len() as u64);
    found.get(usize::try_from(at).unwrap_or(0)).copied()
}

/// From a hand-written Endpoints object that has not been mirrored.
fn legacy_endpoint(server: &Server, namespace: &str, service: &str, port: &str) -> Option<(IpAddr, u16)> {
    let stored = server.store.get(&Key::new("endpoints", namespace, service))?;
    let endpoints = object::tree(&stored);
    endpoints.list("subsets").iter().find_map(|subset| {
        let port = subset.list("ports").iter().find(|p| p.text("name") == port)?.int("port");
        let ip = subset.list("addresses").first()?.text("ip").parse().ok()?;
        Some((ip, u16::try_from(port).ok()?))
    })
}

/// Where a service's port leads: one ready endpoint, else the service's own address.
pub fn service_address(server: &Server, namespace: &str, name: &str, port: i64) -> Option<(IpAddr, u16)> {
    let service = object::tree(&*server.store.get(&Key::new("services", namespace, name))?);
    let wanted = service.list("spec.ports").iter().find(|p| p.int("port") == port)?;
    endpoint(server, namespace, name, wanted.text("name")).or_else(|| {
        let ip = service.text("spec.clusterIP").parse().ok()?;
        Some((ip, u16::try_from(port).ok()?))
    })
}

/// Redirects and pages that point at the target are made to point below our path.
async fn rewrite(
    call: &Call<'_>,
    target: &Target,
    mut response: Response<Body>,
) -> Result<Response<Body>, ApiError> {
    let base = base(call);
    let location = response.headers().get(LOCATION).and_then(|v| v.to_str().ok()).map(str::to_owned);
    if let Some(value) = location.and_then(|text| HeaderValue::from_str(&relocate(&text, target, base)).ok())
    {
        response.headers_mut().insert(LOCATION, value);
    }
    let html = response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|t| t.starts_with("text/html"));
    let encoded = response.headers().contains_key(http::header::CONTENT_ENCODING);
    if !html || encoded || matches!(target.scheme, Scheme::Agent) {
        return Ok(response);
    }
    let (mut parts, body) = response.into_parts();
    let bytes = base::http::read(body, PAGE).await.map_err(ApiError::internal)?;
    let page = links(&String::from_utf8_lossy(&bytes), target, base);
    parts.headers.remove(CONTENT_LENGTH);
    Ok(Response::from_parts(parts, base::http::full(page)))
}

fn relocate(location: &str, target: &Target, base: &str) -> String {
    let host = format!("{}:{}", target.host, target.port);
    for scheme in ["http://", "https://"] {
        if let Some(rest) = location.strip_prefix(scheme) {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            return if authority == host || authority == target.host {
                format!("{base}{path}")
            } else {
                location.to_owned()
            };
        }
    }
    if location.starts_with('/') && !location.starts_with("//") {
        format!("{base}{location}")
    } else {
        location.to_owned()
    }
}

/// Attributes whose values are links.
const LINKS: [&str; 6] = ["href=\"", "src=\"", "action=\"", "data=\"", "cite=\"", "background=\""];

fn links(page: &str, target: &Target, base: &str) -> String {
    let mut out = String::with_capacity(page.len() + 256);
    let mut rest = page;
    while let Some((at, attribute)) = LINKS.iter().filter_map(|a| rest.find(a).map(|at| (at, *a))).min() {
        let start = at + attribute.len();
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let Some(end) = rest.find('"') else { break };
        out.push_str(&relocate(&rest[..end], target, base));
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_point_below_our_path() {
        let target =
            Target { host: "10.0.0.1".into(), name: "10.0.0.1".into(), port: 80, scheme: Scheme::Http };
        let page = "<a href=\"/x\">a</a><img src=\"http://10.0.0.1:80/y\"><a href=\"http://other/z\">";
        let expect = "<a href=\"/b/proxy/x\">a</a><img src=\"/b/proxy/y\"><a href=\"http://other/z\">";
        assert_eq!(links(page, &target, "/b/proxy"), expect);
        for (path, namespace, expect) in [
            (
                "/api/v1/namespaces/proxy/pods/proxy/proxy/a%2Fb",
                "proxy",
                ("/api/v1/namespaces/proxy/pods/proxy/proxy", "/a%2Fb"),
            ),
            ("/api/v1/namespaces/n/pods/p/proxy", "n", ("/api/v1/namespaces/n/pods/p/proxy", "")),
            ("/api/v1/nodes/proxy/proxy/proxy/", "", ("/api/v1/nodes/proxy/proxy", "/proxy/")),
        ] {
            assert_eq!(split_path(path, namespace), expect, "{path}");
        }
        assert_eq!(split("https:web:443"), ("https", "web", "443"));
        assert!(check("127.0.0.1".parse().expect("an address")).is_err());
    }
}
