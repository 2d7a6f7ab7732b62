//! Server-side apply and the ownership of fields.

use api::ApiError;
use api::error::{Cause, Reason};
use http::StatusCode;
use machinery::apply::{self, ApplyError};
use machinery::codec::yaml;
use registry::Part;
use serde_json::Value;

use crate::verbs::{Call, Written, change_untracked, create_untracked};
use crate::write::{self, Target, WriteOptions};

/// How often an apply is tried again after a race with a create or delete.
const TRIES: u32 = 5;

fn write<'a>(call: &'a Call<'_>, manager: &'a str, api_version: &'a str) -> apply::Write<'a> {
    apply::Write {
        schema: call.served.schema(),
        api_version,
        manager,
        subresource: &call.exchange.info.subresource,
        now: call.exchange.now,
        reset: call.row().resets(&call.exchange.info.subresource),
    }
}

/// Notes which fields a write by other means than apply has taken.
pub fn track(call: &Call<'_>, options: &WriteOptions, new: &mut Value, old: Option<&Value>) {
    let api_version = call.row().api_version();
    apply::update(write(call, &options.manager, &api_version), old, new);
}

/// Applies a configuration: creates the object or changes it.
pub async fn apply(
    call: &Call<'_>,
    part: Part,
    body: &[u8],
    options: &WriteOptions,
) -> Result<(Written, StatusCode), ApiError> {
    let config = decode(call, body, options)?;
    let row = call.row();
    for _ in 0..TRIES {
        let absent = call.server.find(row, call.namespace(), call.name()).err();
        let result = match absent {
            None => {
                change_untracked(call, part, options, &mut |old| applied(call, Some(old), &config, options))
                    .await
                    .map(|written| (written, StatusCode::OK))
            }
            Some(error) if part != Part::Main => Err(error),
            Some(_) => create(call, &config, options).await.map(|written| (written, StatusCode::CREATED)),
        };
        match result {
            // Somebody created or deleted it in between.
            Err(error)
                if error.is(Reason::AlreadyExists)
                    || (error.is(Reason::NotFound) && part == Part::Main && names(&error, call)) => {}
            other => return other,
        }
    }
    Err(ApiError::stale(&row.group, &row.plural, call.name()))
}

/// Whether a 404 is about the object itself.
fn names(error: &ApiError, call: &Call<'_>) -> bool {
    error.details.as_ref().is_some_and(|d| d.kind == call.row().plural && d.name == call.name())
}

async fn create(call: &Call<'_>, config: &Value, options: &WriteOptions) -> Result<Written, ApiError> {
    let row = call.row();
    let uid = config["metadata"]["uid"].as_str().unwrap_or("");
    if !uid.is_empty() {
        let why = format!(
            "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
        );
        return Err(ApiError::conflict(&row.group, &row.plural, call.name(), &why));
    }
    let new = applied(call, None, config, options)?;
    create_untracked(call, new, options).await
}

fn decode(call: &Call<'_>, body: &[u8], options: &WriteOptions) -> Result<Value, ApiError> {
    let row = call.row();
    let decoded = yaml::decode(machinery::schema::Schema::Any, body)
        .map_err(|error| ApiError::bad_request(format!("error decoding YAML: {error}")))?;
    write::report_strict(call.exchange, Target::of(row), decoded.strict_errors, options.validation)?;
    let mut config = decoded.value;
    if !config.is_object() {
        return Err(ApiError::bad_request("error decoding YAML: the configuration is no object"));
    }
    let (version, kind) =
        (config["apiVersion"].as_str().unwrap_or(""), config["kind"].as_str().unwrap_or(""));
    if kind != row.kind || version != row.api_version() {
        return Err(ApiError::bad_request(format!(
            "invalid object type: {}, Kind={kind}",
            if version.contains('/') { version.to_owned() } else { format!("/{version}") }
        )));
    }
    let name = config["metadata"]["name"].as_str().unwrap_or("");
    if !name.is_empty() && name != call.name() {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            call.name()
        )));
    }
    if !config["metadata"].is_object() {
        config["metadata"] = serde_json::json!({});
    }
    config["metadata"]["name"] = call.name().into();
    if row.namespaced {
        // Only compared: what the client left out stays out of what it owns.
        registry::lifecycle::match_namespace(row, call.namespace(), &mut config.clone())?;
    }
    Ok(config)
}

/// The object that a configuration makes of the live one.
fn applied(
    call: &Call<'_>,
    live: Option<&Value>,
    config: &Value,
    options: &WriteOptions,
) -> Result<Value, ApiError> {
    let row = call.row();
    let version = row.api_version();
    if let Some(live) = live {
        for (field, own) in [("uid", "uid mismatch"), ("resourceVersion", "")] {
            let asked = config["metadata"][field].as_str().unwrap_or("");
            let has = live["metadata"][field].as_str().unwrap_or("");
            if asked.is_empty() || asked == has {
                continue;
            }
            if own.is_empty() {
                return Err(ApiError::stale(&row.group, &row.plural, call.name()));
            }
            let why = format!("Precondition failed: UID in precondition: {asked}, UID in object meta: {has}");
            return Err(ApiError::conflict(&row.group, &row.plural, call.name(), &why));
        }
    }
    let mut new = apply::apply(write(call, &options.manager, &version), live, config, options.force)
        .map_err(refused)?;
    if !new["metadata"].is_object() {
        new["metadata"] = serde_json::json!({});
    }
    call.default(&mut new);
    Ok(new)
}

fn refused(error: ApplyError) -> ApiError {
    let message = error.to_string();
    match error {
        ApplyError::BadRequest(_) => ApiError::bad_request(message),
        ApplyError::Internal(_) => {
            // The core group's version is shown as /v1.
            ApiError::new(Reason::Unknown, message.replace("; v1, Kind=", "; /v1, Kind="))
        }
        ApplyError::Conflicts(conflicts) => {
            let cause = |conflict: machinery::apply::Conflict| Cause {
                reason: "FieldManagerConflict".to_owned(),
                message: format!("conflict with {}", conflict.manager),
                field: conflict.field,
            };
            ApiError::new(Reason::Conflict, message).with_causes(conflicts.into_iter().map(cause).collect())
        }
    }
}
