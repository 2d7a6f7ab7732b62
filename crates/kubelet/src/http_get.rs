//! The HTTP requests that probes and hooks make to containers.
//!
//! Must not know why a request is made. Certificates of containers are not checked: nobody could vouch for them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api::k8s::api::core::v1::{Container, HTTPGetAction};
use api::k8s::apimachinery::pkg::util::intstr::IntOrString;
use base::trust::{self, Trust};
use base::{Clock, Tasks};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// The most of an answer that is read, bytes.
const BODY_BYTES: usize = 10 * 1024;
/// The most redirects that are followed.
const REDIRECTS: usize = 10;

/// A request to a container.
#[derive(Clone, Debug)]
pub struct Get {
    /// `http` or `https`.
    pub https: bool,
    /// The address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Path and query.
    pub path: String,
    /// Headers.
    pub headers: HeaderMap,
}

/// An answer: code and the beginning of its body.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub code: u16,
    /// The beginning of the body.
    pub body: String,
}

/// A port by number or by name.
pub fn port_of(container: &Container, port: &IntOrString) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .find(|port| port.name.as_deref() == Some(name.as_str()))
            .map(|port| port.container_port)
            .or_else(|| name.parse().ok()),
    };
    number.and_then(|number| u16::try_from(number).ok()).filter(|port| *port > 0).ok_or_else(|| match port {
        IntOrString::Int(number) => format!("invalid port number: {number}"),
        IntOrString::String(name) => format!("couldn't find port {name:?} in container {:?}", container.name),
    })
}

impl Get {
    /// What an `httpGet` action asks for.
    pub fn new(action: &HTTPGetAction, container: &Container, pod_ip: &str) -> Result<Get, String> {
        let host = action.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(|| pod_ip.to_owned());
        let mut path = action.path.clone().unwrap_or_default();
        if !path.starts_with('/') {
            path.insert(0, '/');
        }
        let mut headers = HeaderMap::new();
        for header in action.http_headers.iter().flatten() {
            if let (Ok(name), Ok(value)) =
                (HeaderName::try_from(&header.name), HeaderValue::try_from(&header.value))
            {
                headers.append(name, value);
            }
        }
        Ok(Get {
            https: action.scheme.as_deref() == Some("HTTPS"),
            host,
            port: port_of(container, &action.port)?,
            path: path.replace(' ', "%20"),
            headers,
        })
    }

    /// The URL, as messages show it.
    pub fn url(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("{}://{host}:{}{}", if self.https { "https" } else { "http" }, self.port, self.path)
    }

    /// Sends the request and follows redirects to the same host. An error is the text to show.
    pub async fn send(
        &self,
        agent: &str,
        limit: Duration,
        clock: &Clock,
        tasks: &Tasks,
    ) -> Result<Answer, String> {
        let work = self.follow(agent, tasks);
        match clock.timeout(limit, work).await {
            Some(answer) => answer.map_err(|error| format!("Get {:?}: {error}", self.url())),
            None => Err(format!(
                "Get {:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
                self.url()
            )),
        }
    }

    async fn follow(&self, agent: &str, tasks: &Tasks) -> Result<Answer, String> {
        let mut get = self.clone();
        for _ in 0..=REDIRECTS {
            let (code, location, body) = get.once(agent, tasks).await?;
            let Some(location) = location.filter(|_| matches!(code, 301 | 302 | 303 | 307 | 308)) else {
                return Ok(Answer { code, body });
            };
            match get.redirected(&location) {
                Some(next) => get = next,
                // Never leave the container: what answers elsewhere says nothing about it.
                None => return Ok(Answer { code, body }),
            }
        }
        Err(format!("stopped after {REDIRECTS} redirects"))
    }

    /// The request to another path of the same host; `None` for another host.
    fn redirected(&self, location: &str) -> Option<Get> {
        let mut next = self.clone();
        if location.starts_with('/') && !location.starts_with("//") {
            next.path = location.to_owned();
            return Some(next);
        }
        let uri: http::Uri = location.parse().ok()?;
        if uri.host()? != self.host {
            return None;
        }
        next.https = uri.scheme_str() == Some("https");
        next.port = uri.port_u16().unwrap_or(if next.https { 443 } else { 80 });
        next.path = uri.path_and_query().map_or("/".to_owned(), ToString::to_string);
        Some(next)
    }

    async fn once(&self, agent: &str, tasks: &Tasks) -> Result<(u16, Option<String>, String), String> {
        let target = if let Ok(ip) = self.host.parse::<IpAddr>() {
            TcpStream::connect((ip, self.port)).await
        } else {
            TcpStream::connect((self.host.as_str(), self.port)).await
        };
        let tcp = target.map_err(|error| dial_error(&self.host, self.port, &error))?;
        let (mut sender, driver) = if self.https {
            let tls = trust::client_config(Trust::Anyone, None).map_err(|error| error.to_string())?;
            let connector = tokio_rustls::TlsConnector::from(Arc::new(tls));
            let ip_or_name = rustls_pki_types::ServerName::try_from(self.host.clone())
                .map_err(|error| error.to_string())?;
            let tls = connector.connect(ip_or_name, tcp).await.map_err(|error| error.to_string())?;
            let (sender, driver) =
                hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.map_err(|e| e.to_string())?;
            (sender, futures::future::Either::Left(driver))
        } else {
            let (sender, driver) =
                hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await.map_err(|e| e.to_string())?;
            (sender, futures::future::Either::Right(driver))
        };
        let driver = tasks.spawn("probe connection", async move {
            let _ = driver.await;
        });
        let result = self.exchange(&mut sender, agent).await;
        driver.abort();
        result
    }

    async fn exchange(
        &self,
        sender: &mut hyper::client::conn::http1::SendRequest<Empty<Bytes>>,
        agent: &str,
    ) -> Result<(u16, Option<String>, String), String> {
        let mut request = Request::get(&self.path).body(Empty::new()).map_err(|error| error.to_string())?;
        *request.headers_mut() = self.headers.clone();
        let headers = request.headers_mut();
        if !headers.contains_key(http::header::HOST) {
            let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
            let host =
                HeaderValue::try_from(format!("{host}:{}", self.port)).map_err(|error| error.to_string())?;
            headers.insert(http::header::HOST, host);
        }
        if !headers.contains_key(http::header::USER_AGENT) {
            headers.insert(
                http::header::USER_AGENT,
                HeaderValue::try_from(agent).map_err(|error| error.to_string())?,
            );
        }
        if !headers.contains_key(http::header::ACCEPT) {
            headers.insert(http::header::ACCEPT, HeaderValue::from_static("*/*"));
        }
        headers.insert(http::header::CONNECTION, HeaderValue::from_static("close"));
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let code = answer.status().as_u16();
        let location = answer
            .headers()
            .get(http::header::LOCATION)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        let body = Limited::new(answer.into_body(), BODY_BYTES).collect().await;
        let body =
            body.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned()).unwrap_or_default();
        Ok((code, location, body))
    }
}

/// A failed connection in Go's words.
pub fn dial_error(host: &str, port: u16, error: &std::io::Error) -> String {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let why = match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        std::io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => error.to_string(),
    };
    format!("dial tcp {host}:{port}: {why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_stay_on_the_host() {
        let get = Get {
            https: false,
            host: "10.0.0.1".into(),
            port: 80,
            path: "/a".into(),
            headers: HeaderMap::new(),
        };
        for (location, expect) in [
            ("/b", Some("http://10.0.0.1:80/b")),
            ("http://10.0.0.1:81/c", Some("http://10.0.0.1:81/c")),
            ("http://example.com/", None),
            ("//example.com/", None),
        ] {
            assert_eq!(get.redirected(location).map(|next| next.url()).as_deref(), expect, "{location}");
        }
    }
}
