//! Webhooks of any kind: where one is reached, one POST, its answer in JSON. It must not know what is asked.

use std::time::Duration;

use base::trust::{self, Trust};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request};
use registry::tree::Tree;
use serde_json::Value;

use crate::server::Server;
use crate::sub::agent::{self, Scheme, Target};

/// Bytes of a webhook's answer.
const ANSWER: usize = 16 << 20;

/// Where a webhook is reached.
pub struct Endpoint {
    target: Target,
    /// As errors show it.
    pub url: String,
    path: String,
    bearer: Option<String>,
}

impl Endpoint {
    /// With a token that it is shown.
    pub fn with_bearer(self, bearer: Option<String>) -> Endpoint {
        Endpoint { bearer, ..self }
    }
}

/// Sends a review and reads the answer.
pub async fn post(
    server: &Server,
    endpoint: &Endpoint,
    body: &Value,
    limit: Duration,
) -> Result<Value, String> {
    let mut message = Request::new(base::http::full(body.to_string()));
    *message.method_mut() = Method::POST;
    message.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    send(server, endpoint, message, limit).await
}

/// Reads a document.
pub async fn get(server: &Server, endpoint: &Endpoint, limit: Duration) -> Result<Value, String> {
    send(server, endpoint, Request::new(base::http::empty()), limit).await
}

async fn send(
    server: &Server,
    endpoint: &Endpoint,
    mut message: Request<base::http::Body>,
    limit: Duration,
) -> Result<Value, String> {
    *message.uri_mut() = endpoint.path.parse().map_err(|_| "the path cannot be used".to_owned())?;
    let verb = if message.method() == Method::POST { "Post" } else { "Get" };
    let headers = message.headers_mut();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    let host = HeaderValue::from_str(&endpoint.target.name).map_err(|error| error.to_string())?;
    headers.insert(HOST, host);
    if let Some(bearer) = &endpoint.bearer {
        let value = HeaderValue::from_str(&format!("Bearer {bearer}")).map_err(|error| error.to_string())?;
        headers.insert(AUTHORIZATION, value);
    }
    let exchange = async {
        let response = agent::send(server, &endpoint.target, message).await.map_err(|error| error.message)?;
        let code = response.status();
        let body = base::http::read(base::http::wrap(response.into_body()), ANSWER).await;
        Ok::<_, String>((code, body.map_err(|error| error.to_string())?))
    };
    let wrap = |why: &str| format!("{verb} {:?}: {why}", endpoint.url);
    let sent = server.clock.timeout(limit, exchange).await;
    let (code, body) = sent.ok_or_else(|| wrap("context deadline exceeded"))?.map_err(|why| wrap(&why))?;
    if !code.is_success() {
        return Err(match serde_json::from_slice::<Value>(&body) {
            Ok(status) if status.text("kind") == "Status" => status.text("message").to_owned(),
            _ if code.is_server_error() => format!(
                "an error on the server ({:?}) has prevented the request from succeeding",
                String::from_utf8_lossy(&body[..body.len().min(2000)]).trim()
            ),
            _ => "the server could not find the requested resource".to_owned(),
        });
    }
    serde_json::from_slice(&body).map_err(|error| error.to_string())
}

/// Where a `clientConfig` points; `query` is added to its URL.
pub fn endpoint(server: &Server, client: &Value, query: &str) -> Result<Endpoint, String> {
    let ca = STANDARD.decode(client.text("caBundle")).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let ca = ca.filter(|ca| !ca.trim().is_empty()).or_else(|| server.config.system_ca.clone());
    let tls = match ca {
        Some(ca) => trust::client_config(Trust::Among(&ca), None).map_err(|error| error.to_string())?,
        None => return Err("the webhook names no certificate authority".to_owned()),
    };
    if client.has("url") {
        return at_url(client.text("url"), query, Scheme::Given(tls.into()));
    }
    let service = client.at("service");
    let (namespace, name) = (service.text("namespace"), service.text("name"));
    let port = service.at("port").as_i64().unwrap_or(443);
    let host = format!("{name}.{namespace}.svc");
    let path = format!("/{}{query}", service.text("path").trim_start_matches('/'));
    let url = format!("https://{host}:{port}{path}");
    let (ip, at) = crate::sub::service_address(server, namespace, name, port)
        .ok_or_else(|| format!("Post {url:?}: {}", unreachable_service(server, namespace, name, port)))?;
    let target = Target { name: host, host: ip.to_string(), port: at, scheme: Scheme::Given(tls.into()) };
    Ok(Endpoint { target, url, path, bearer: None })
}

/// At a URL as written.
pub fn at_url(url: &str, query: &str, scheme: Scheme) -> Result<Endpoint, String> {
    let url = format!("{url}{query}");
    let uri: http::Uri = url.parse().map_err(|_| format!("invalid URL {url:?}"))?;
    let host = uri.host().unwrap_or("").trim_matches(['[', ']']).to_owned();
    let plain = matches!(scheme, Scheme::Http);
    let port = uri.port_u16().unwrap_or(if plain { 80 } else { 443 });
    let target = Target { name: host.clone(), host, port, scheme };
    let path = uri.path_and_query().map_or("/".to_owned(), ToString::to_string);
    Ok(Endpoint { target, url, path, bearer: None })
}

fn unreachable_service(server: &Server, namespace: &str, name: &str, port: i64) -> String {
    match server.store.get(&store::Key::new("services", namespace, name)) {
        None => format!("service {name:?} not found"),
        Some(stored) => {
            let ports = crate::object::tree(&stored);
            match ports.list("spec.ports").iter().any(|p| p.int("port") == port) {
                true => format!("no endpoints available for service {name:?}"),
                false => format!("no service port {port} found for service {name:?}"),
            }
        }
    }
}
