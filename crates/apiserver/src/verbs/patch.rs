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
use crate::negotiate;
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
    let include = Include::parse(call.exchange.query.text("includeObject"))?;
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
        _ => {
            let mut types = vec![JSON_PATCH, MERGE_PATCH];
            if !call.row().custom {
                types.push(STRATEGIC);
            }
            types.push(APPLY_YAML);
            Err(negotiate::unsupported_media(&types))
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
    let (uid, own) =
        (new["metadata"]["uid"].as_str().unwrap_or(""), old["metadata"]["uid"].as_str().unwrap_or(""));
    if !uid.is_empty() && uid != own {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {own}");
        return Err(ApiError::conflict(&row.group, &row.plural, call.name(), &why));
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
    let decoded = || -> Result<Value, ApiError> {
        let decoded = machinery::codec::json::decode_any(body)
            .map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))?;
        write::report_strict(call.exchange, target, decoded.strict_errors, options.validation)?;
        Ok(decoded.value)
    };
    let result = match kind {
        Kind::Json => patch::json_patch(old, body),
        Kind::Merge => Ok(patch::merge_patch(old, &decoded()?)),
        _ => patch::strategic_merge(target.schema(), old, &decoded()?),
    };
    let new = result.map_err(|error| patch_error(&error))?;
    if new == *old { Ok(new) } else { redecode(call, target, &new, options.validation) }
}

/// Reads a patched tree as a body of the kind would be.
pub fn redecode(
    call: &Call<'_>,
    target: Target<'_>,
    new: &Value,
    validation: FieldValidation,
) -> Result<Value, ApiError> {
    let text = new.to_string();
    let format = negotiate::Format::Json { pretty: false };
    let decoded = if target.custom {
        write::decode_custom(call, format, text.as_bytes(), validation)
    } else {
        write::decode_as(call.exchange, target, format, text.as_bytes(), validation)
    };
    decoded.map_err(|error| {
        // Upstream reports what a patch made of an object as unprocessable, but for strictness.
        if error.message.contains("strict decoding error") || error.reason != Reason::BadRequest {
            return error;
        }
        let why = error.message.split(": ").skip(1).collect::<Vec<_>>().join(": ");
        invalid(call, &why)
    })
}

fn invalid(call: &Call<'_>, why: &str) -> ApiError {
    use api::validation::{ErrorKind, ErrorList, FieldError, Path};
    let error = FieldError {
        kind: ErrorKind::Invalid,
        path: Path::new("patch"),
        value: None,
        detail: why.to_owned(),
    };
    ApiError::invalid(&call.row().group, &call.row().kind, call.name(), &ErrorList(vec![error]))
}

/// What a patch that cannot be applied answers.
fn patch_error(error: &patch::PatchError) -> ApiError {
    match error {
        patch::PatchError::Malformed(why) => ApiError::bad_request(why.clone()),
        // The reason is not told, as upstream does not tell it either.
        patch::PatchError::Inapplicable(_) => {
            ApiError::new(Reason::Invalid, "the server rejected our request due to an error in our request")
        }
        patch::PatchError::TooLarge(why) => ApiError::new(Reason::RequestEntityTooLarge, why.clone()),
    }
}
