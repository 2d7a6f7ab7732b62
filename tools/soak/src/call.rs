//! Requests and what their answers say, with no repetition behind the caller's back: a write that got no answer may
//! have happened.

use std::sync::Arc;
use std::time::Duration;

use base::Clock;
use base::http::Body;
use client::{Https, Transport as _};
use http::{Method, Request, Response};
use serde_json::Value;

use crate::history::{Fields, Item};

/// The namespace of all objects.
pub const NAMESPACE: &str = "soak";
/// What the annotations begin with that hold tokens.
const MARK: &str = "soak/";
/// A request without an answer for this long has none.
const LIMIT: Duration = Duration::from_secs(30);

/// How a request ended.
#[derive(Clone, Debug)]
pub enum Answer {
    /// With a status and a body.
    Told(u16, Value),
    /// With none, and why.
    Lost(#[allow(dead_code, reason = "shown when a run fails")] String),
}

/// Where requests go.
#[derive(Clone)]
pub struct Caller {
    https: Arc<Https>,
    clock: Clock,
}

impl Caller {
    /// Over a connection.
    pub fn new(https: Arc<Https>, clock: Clock) -> Caller {
        Caller { https, clock }
    }

    /// One request; the answer's body is still to come.
    pub async fn open(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Response<Body>, String> {
        let content = match method {
            Method::PATCH => "application/merge-patch+json",
            _ => "application/json",
        };
        let body = body.map_or_else(base::http::empty, |body| base::http::full(body.to_string()));
        let request = Request::builder().method(method).uri(path).header("content-type", content).body(body);
        let request = request.map_err(|error| error.to_string())?;
        let sent = self.clock.timeout(LIMIT, self.https.call(request)).await;
        sent.ok_or("no answer in time")?.map_err(|error| error.to_string())
    }

    /// One request and its whole answer.
    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        let whole = async {
            let response = self.open(method, path, body).await?;
            let status = response.status().as_u16();
            let bytes =
                base::http::read(response.into_body(), usize::MAX).await.map_err(|e| e.to_string())?;
            let value = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
            Ok((status, value))
        };
        match self.clock.timeout(LIMIT, whole).await {
            Some(Ok((status, value))) => Answer::Told(status, value),
            Some(Err(why)) => Answer::Lost(why),
            None => Answer::Lost("no whole answer in time".to_owned()),
        }
    }
}

/// The path of a resource of the namespace, or of an object in it.
pub fn path(resource: &str, name: &str) -> String {
    let slash = if name.is_empty() { "" } else { "/" };
    format!("/api/v1/namespaces/{NAMESPACE}/{resource}{slash}{name}")
}

/// What an annotation with a token holds: some tokens come with a long text, so that files fill up.
pub fn text(token: u64) -> String {
    let length = if token.is_multiple_of(11) { 24_000 } else { 40 + token % 200 };
    let letter = char::from(b'a' + (token % 26) as u8);
    let mut text = format!("{token}-");
    text.extend(std::iter::repeat_n(letter, length as usize));
    text
}

/// The annotation of a field.
pub fn annotation(field: &str) -> String {
    format!("{MARK}{field}")
}

/// What an object's tree shows.
///
/// # Errors
/// A text is not as any write wrote it.
pub fn item(resource: &str, object: &Value) -> Result<Item, String> {
    let meta = &object["metadata"];
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut fields = Fields::new();
    for (name, value) in meta["annotations"].as_object().into_iter().flatten() {
        let Some(field) = name.strip_prefix(MARK) else { continue };
        let value = value.as_str().unwrap_or_default();
        let token = value.split('-').next().and_then(|token| token.parse().ok());
        let token = token.filter(|token| text(*token) == value);
        let token = token.ok_or_else(|| format!("torn: {} has {name}: {:.60}", meta["name"], value))?;
        fields.insert(field.to_owned(), token);
    }
    let mut handed = Vec::new();
    if resource == "services" {
        handed.push(word(&object["spec"]["clusterIP"]));
        let ports = object["spec"]["ports"].as_array().into_iter().flatten();
        handed.extend(ports.filter_map(|port| port["nodePort"].as_u64()).map(|port| port.to_string()));
    }
    let revision = meta["resourceVersion"].as_str().and_then(|text| text.parse().ok());
    Ok(Item {
        key: format!("{resource}/{}", word(&meta["name"])),
        uid: word(&meta["uid"]),
        revision: revision.ok_or("an object without a resource version")?,
        fields,
        handed,
    })
}

/// Whether an object is one of ours.
pub fn ours(object: &Value) -> bool {
    let meta = &object["metadata"];
    meta["namespace"] == NAMESPACE && meta["name"] != "kube-root-ca.crt"
}
