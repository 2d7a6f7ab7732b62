//! PATCH: JSON patch, merge patch, strategic merge patch and server-side apply.

use api::ApiError;
use api::error::Reason;
use base::http::Body;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Response, StatusCode};
use machinery::patch;
use registry::Part;
use serde_json::Value;

use super::Call;
use super::update::change;
use crate::respond::Include;
use crate::write::{self, FieldValidation, Target, WriteOptions};

const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY_YAML: &str = "application/apply-patch+yaml";

/// The kinds of patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// RFC 6902.
    Json,
    /// RFC 7396.
    Merge,
    /// Upstream's own.
    Strategic,
    /// Server-side apply.
    Apply,
}

/// Patches an object, or a part of it.
pub async fn patch(call: &Call<'_>, part: Part, body: Body) -> Result<Response<Body>, ApiError> {
    let kind = kind(call)?;
    let accept = call.exchange.accept(call.offer())?;
    let options = WriteOptions::parse(call.exchange, "PatchOptions")?;
    check_options(call, kind, &options)?;
    let include = Include::of(call.exchange, &accept)?;
    let body = write::read_body(body).await?;
    if kind == Kind::Apply {
        let (written, code) = crate::sub::apply::apply(call, part, &body, &options).await?;
        return Ok(written.respond(call, &accept, code, include));
    }
    let written =
        change(call, part, &options, &mut |old: &Value| patched(call, kind, old, &body, &options)).await?;
    Ok(written.respond(call, &accept, StatusCode::OK, include))
}

/// The kind of patch that the content type names.
pub fn kind(call: &Call<'_>) -> Result<Kind, ApiError> {
    let header = call.exchange.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    match header.split(';').next().unwrap_or("").trim() {
        JSON_PATCH => Ok(Kind::Json),
        MERGE_PATCH => Ok(Kind::Merge),
        STRATEGIC if !call.row().custom => Ok(Kind::Strategic),
        APPLY_YAML => Ok(Kind::Apply),
        // Custom resources have no router that would refuse it first.
        _ if call.row().custom => {
            let types = [JSON_PATCH, MERGE_PATCH, APPLY_YAML].join(", ");
            let why = "the body of the request was in an unknown format - accepted media types include";
            Err(ApiError::new(Reason::UnsupportedMediaType, format!("{why}: {types}")))
        }
        _ => {
            let mut error = ApiError::new(Reason::UnsupportedMediaType, "415: Unsupported Media Type");
            error.details = Some(Box::default());
            Err(error)
        }
    }
}

fn check_options(call: &Call<'_>, kind: Kind, options: &WriteOptions) -> Result<(), ApiError> {
    use api::validation::{ErrorList, FieldError, Path};
    let mut errors = ErrorList::new();
    if kind == Kind::Apply && call.exchange.query.text("fieldManager").is_empty() {
        errors.push(FieldError::required(&Path::new("fieldManager"), "is required for apply patch"));
    }
    if kind != Kind::Apply && call.exchange.query.get("force").is_some() {
        let _ = options;
        errors.push(FieldError::forbidden(&Path::new("force"), "may not be specified for non-apply patch"));
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(ApiError::invalid("meta.k8s.io", "PatchOptions", "", &errors))
    }
}

/// The patched object: decoded anew, so that types and unknown fields are checked.
fn patched(
    call: &Call<'_>,
    kind: Kind,
    old: &Value,
    body: &Bytes,
    options: &WriteOptions,
) -> Result<Value, ApiError> {
    let row = call.row();
    let mut new = patch_tree(call, Target::of(row), kind, old, body, options)?;
    if new == *old {
        return Ok(new);
    }
    for field in ["name", "namespace"] {
        if new["metadata"][field] != old["metadata"][field] && !old["metadata"][field].is_null() {
            super::update::check_name(call, &mut new)?;
        }
    }
    let asked = new["metadata"]["resourceVersion"].as_str().unwrap_or("");
    if !asked.is_empty() && asked != old["metadata"]["resourceVersion"].as_str().unwrap_or("") {
        return Err(ApiError::stale(&row.group, &row.plural, call.name()));
    }
    call.default(&mut new);
    Ok(new)
}

/// Patches a tree of the target's kind.
pub fn patch_tree(
    call: &Call<'_>,
    target: Target<'_>,
    kind: Kind,
    old: &Value,
    body: &Bytes,
    options: &WriteOptions,
) -> Result<Value, ApiError> {
    let decoded = machinery::codec::json::decode_any(body)
        .map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))?;
    check_shape(kind, &decoded.value)?;
    let result = match kind {
        Kind::Json => patch::json_patch(old, body),
        Kind::Merge => Ok(patch::merge_patch(old, &decoded.value)),
        _ => patch::strategic_merge(target.schema(), old, &decoded.value),
    };
    let mut new = result.map_err(|error| patch_error(&error))?;
    let custom = call.served.custom.as_ref().filter(|_| target.custom);
    // With something to complain of, the object is shown as the patch left it.
    let settled = decoded.strict_errors.is_empty() && write::settle(target, custom, &mut new);
    // What upstream shows of a patch that does not fit: the patched object, or the patch as Go prints maps.
    let shown = || match kind {
        Kind::Strategic => go_print(&decoded.value),
        _ => String::from_utf8_lossy(&crate::object::text(&new)).into_owned(),
    };
    let (changed, mut strict) = match settled {
        true => (None, Vec::new()),
        false => {
            let (value, strict) =
                write::conform(target, custom, &new).map_err(|why| unfit(&shown(), &why))?;
            (Some(value), strict)
        }
    };
    // Duplicates of a JSON patch are in its operations: upstream does not look for them.
    if kind != Kind::Json {
        strict.splice(0..0, decoded.strict_errors);
    }
    match options.validation {
        _ if strict.is_empty() => {}
        FieldValidation::Ignore => {}
        FieldValidation::Warn => strict.into_iter().for_each(|text| call.exchange.warn(text)),
        FieldValidation::Strict => {
            return Err(unfit(&shown(), &format!("strict decoding error: {}", strict.join(", "))));
        }
    }
    Ok(changed.unwrap_or(new))
}

fn check_shape(kind: Kind, patch: &Value) -> Result<(), ApiError> {
    let what = match patch {
        Value::Array(_) => "array",
        Value::Object(_) => "object",
        Value::String(_) => "string",
        Value::Number(_) => "number",
        Value::Bool(_) => "bool",
        Value::Null => return Ok(()),
    };
    let (wanted, into) = match kind {
        Kind::Json => ("array", "[]handlers.jsonPatchOp"),
        _ => ("object", "map[string]interface {}"),
    };
    if what == wanted {
        return Ok(());
    }
    let why = format!("error decoding patch: json: cannot unmarshal {what} into Go value of type {into}");
    Err(ApiError::bad_request(why))
}

/// A tree as Go's `%+v` prints decoded JSON.
fn go_print(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(go_print).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Object(map) => {
            let items: Vec<String> =
                map.iter().map(|(key, value)| format!("{key}:{}", go_print(value))).collect();
            format!("map[{}]", items.join(" "))
        }
        other => other.to_string(),
    }
}

/// 422 for a patch whose result is no object of the kind.
fn unfit(shown: &str, why: &str) -> ApiError {
    use api::validation::{ErrorList, FieldError, Path};
    let error = FieldError::invalid(&Path::new("patch"), shown, why);
    ApiError::invalid("", "", "", &ErrorList(vec![error]))
}

/// What a patch that cannot be applied answers.
fn patch_error(error: &patch::PatchError) -> ApiError {
    match error {
        // Upstream lets this one through as it is.
        patch::PatchError::Malformed(why) if why.starts_with("unknown patch type") => {
            ApiError::new(Reason::Unknown, why.clone())
        }
        patch::PatchError::Malformed(why) => ApiError::bad_request(why.clone()),
        // The reason is not told, as upstream does not tell it either.
        patch::PatchError::Inapplicable(_) => {
            let message = "the server rejected our request due to an error in our request";
            let mut error = ApiError::new(Reason::Invalid, message);
            error.details = Some(Box::default());
            error
        }
        patch::PatchError::TooLarge(why) => ApiError::new(Reason::RequestEntityTooLarge, why.clone()),
    }
}
