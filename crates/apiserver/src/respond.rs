//! Answers: objects, trees, statuses and tables, in the form that was negotiated. It must not know verbs.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use api::ApiError;
use api::validation::{FieldError, Path};
use base::http::{Body, full};
use jiff::Timestamp;
use machinery::codec::{proto, yaml};
use machinery::schema::facts;
use registry::columns::Columns;

use crate::negotiate::{Accept, Format, View};
use crate::object::{Served, plain_text, text};

/// A whole answer of these bytes.
pub fn bytes(code: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Plain text.
pub fn plain(code: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = bytes(code, "text/plain; charset=utf-8", body);
    response
        .headers_mut()
        .insert(HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
    response
}

/// An error as a Status.
pub fn error(accept: &Accept, error: &ApiError) -> Response<Body> {
    let code = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let plain = Accept { format: accept.format, view: View::Object };
    let mut response = tree(&plain, code, &error.to_status());
    let seconds = error.details.as_ref().map_or(0, |details| details.retry_after_seconds);
    if seconds > 0 {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// A tree that carries `apiVersion` and `kind`, written as it is.
pub fn tree(accept: &Accept, code: StatusCode, object: &Value) -> Response<Body> {
    bytes(code, accept.content_type(), write(accept.format, object))
}

/// A tree's bytes. Kinds without protobuf form are written as JSON inside the envelope's absence: callers
/// offer protobuf only where it exists.
pub fn write(format: Format, object: &Value) -> Vec<u8> {
    match format {
        Format::Json { pretty: false } => text(object),
        Format::Json { pretty: true } => pretty(object),
        Format::Yaml => yaml::encode(object).into_bytes(),
        Format::Protobuf => {
            let (group, version, kind) = gvk(object);
            match facts().by_gvk(group, version, kind) {
                Some(facts) => proto::encode_object(facts, object),
                None => plain_text(object),
            }
        }
    }
}

fn gvk(object: &Value) -> (&str, &str, &str) {
    let api_version = object["apiVersion"].as_str().unwrap_or("");
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    (group, version, object["kind"].as_str().unwrap_or(""))
}

/// Indented JSON with kind and version first.
pub fn pretty(object: &Value) -> Vec<u8> {
    let mut out = serde_json::to_vec_pretty(object).expect("a tree is always written to memory");
    out.push(b'\n');
    out
}

/// A stored object, from its bytes where the form allows.
pub fn object(
    accept: &Accept,
    code: StatusCode,
    served: &Served,
    object: &store::Object,
    now: Timestamp,
    include: Include,
) -> Response<Body> {
    if accept.view == View::Object {
        match accept.format {
            Format::Json { pretty: false } => return bytes(code, accept.content_type(), served.json(object)),
            Format::Protobuf => {
                if let Some(message) = served.message(object) {
                    return bytes(code, accept.content_type(), envelope(served, &message));
                }
            }
            _ => {}
        }
    }
    viewed(accept, code, served.row.columns.clone(), &served.tree(object), now, include)
}

/// A message in its envelope.
pub fn envelope(served: &Served, message: &[u8]) -> Vec<u8> {
    let mut out = proto::envelope_start(&served.row.api_version(), &served.row.kind, message.len());
    out.extend_from_slice(message);
    out.extend_from_slice(&proto::ENVELOPE_END);
    out
}

/// A tree in the view that was negotiated.
pub fn viewed(
    accept: &Accept,
    code: StatusCode,
    columns: Columns,
    object: &Value,
    now: Timestamp,
    include: Include,
) -> Response<Body> {
    let body = match &accept.view {
        View::Object => return tree(accept, code, object),
        View::Table(version) => {
            let mut table = table(version, &columns, object["metadata"]["resourceVersion"].clone());
            table["rows"] = json!([row(&columns, object, version, now, include)]);
            table
        }
        View::Metadata(version, _) => partial(object, version),
    };
    tree(accept, code, &body)
}

/// What a table's rows carry of the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Include {
    /// Nothing.
    None,
    /// Its metadata.
    Metadata,
    /// All of it.
    Object,
}

impl Include {
    /// What a request for tables asks for.
    pub fn of(exchange: &crate::server::Exchange, accept: &Accept) -> Result<Include, ApiError> {
        match accept.view {
            View::Table(_) => Include::parse(exchange.query.text("includeObject")),
            _ => Ok(Include::Metadata),
        }
    }

    /// Reads `?includeObject`.
    pub fn parse(text: &str) -> Result<Include, ApiError> {
        match text {
            "None" => Ok(Include::None),
            "" | "Metadata" => Ok(Include::Metadata),
            "Object" => Ok(Include::Object),
            other => {
                let detail = "must be 'Metadata', 'Object', 'None', or empty";
                let error = FieldError::invalid(&Path::new("includeObject"), other, detail);
                let why = format!("Unable to convert to Table as requested: {error}");
                Err(ApiError::bad_request(why))
            }
        }
    }
}

/// A table without rows.
pub fn table(version: &str, columns: &Columns, revision: Value) -> Value {
    let metadata = if revision.is_null() { json!({}) } else { json!({"resourceVersion": revision}) };
    json!({"kind": "Table", "apiVersion": version, "metadata": metadata,
        "columnDefinitions": columns.definitions(), "rows": []})
}

/// One row.
pub fn row(columns: &Columns, object: &Value, version: &str, now: Timestamp, include: Include) -> Value {
    let mut row = json!({"cells": columns.cells(object, now)});
    if let Some(conditions) = columns.row_conditions(object) {
        row["conditions"] = conditions;
    }
    match include {
        Include::None => row["object"] = Value::Null,
        Include::Metadata => row["object"] = partial(object, version),
        Include::Object => row["object"] = object.clone(),
    }
    row
}

/// A PartialObjectMetadata of an object.
pub fn partial(object: &Value, version: &str) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": version, "metadata": object["metadata"]})
}

/// `Status` of success.
pub fn success(details: Value) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}
