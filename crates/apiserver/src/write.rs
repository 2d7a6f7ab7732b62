//! From a request's body to a tree, and from a tree to a commit. It must not know verbs or kinds.

use std::sync::Arc;

use base::http::Body;
use bytes::Bytes;
use machinery::codec::{DecodeError, json, proto, yaml};
use machinery::schema::{Schema, facts, structural};
use registry::Resource;
use serde_json::Value;
use store::{CommitError, Expect, Key, Object, Op, Write};

use api::ApiError;
use api::error::Reason;
use api::validation::{ErrorList, FieldError, Path, go_quote};

use crate::negotiate::{self, Format};
use crate::object::{CustomKind, attrs, draft};
use crate::server::{BODY_LIMIT, Exchange, Server};
use crate::verbs::Call;

/// What becomes of unknown and duplicate fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldValidation {
    /// The request is refused.
    Strict,
    /// The client is warned.
    Warn,
    /// They are dropped in silence.
    Ignore,
}

/// Create, update and patch options from the query.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    /// Nothing is stored.
    pub dry_run: bool,
    /// What becomes of unknown and duplicate fields.
    pub validation: FieldValidation,
    /// Who owns the fields written; falls back to the user agent.
    pub manager: String,
    /// Server-side apply takes conflicting fields over.
    pub force: bool,
}

impl WriteOptions {
    /// Reads and validates them; `kind` names the options in errors.
    pub fn parse(exchange: &Exchange, kind: &str) -> Result<WriteOptions, ApiError> {
        let query = &exchange.query;
        let agent =
            exchange.headers().get(http::header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("");
        let mut errors = dry_run_errors(exchange);
        let validation = match query.text("fieldValidation") {
            "" | "Warn" => FieldValidation::Warn,
            "Strict" => FieldValidation::Strict,
            "Ignore" => FieldValidation::Ignore,
            other => {
                let allowed = ["", "Ignore", "Strict", "Warn"];
                errors.push(FieldError::not_supported(&Path::new("fieldValidation"), other, &allowed));
                FieldValidation::Warn
            }
        };
        let manager = query.text("fieldManager");
        if manager.len() > 128 {
            errors.push(FieldError::too_long(&Path::new("fieldManager"), 128));
        }
        if let Some((at, bad)) = manager.chars().enumerate().find(|(_, c)| c.is_control()) {
            let detail = format!("invalid character U+{:04X} (at position {at})", u32::from(bad));
            errors.push(FieldError::invalid(&Path::new("fieldManager"), manager, detail));
        }
        if !errors.is_empty() {
            return Err(ApiError::invalid("meta.k8s.io", kind, "", &errors));
        }
        Ok(WriteOptions {
            dry_run: query.all("dryRun").next().is_some(),
            validation,
            manager: machinery::apply::manager_name(manager, agent),
            force: query.flag("force"),
        })
    }
}

/// What is wrong with `?dryRun`.
pub fn dry_run_errors(exchange: &Exchange) -> ErrorList {
    let mut errors = ErrorList::new();
    let all: Vec<&str> = exchange.query.all("dryRun").collect();
    if all.iter().any(|value| *value != "All") {
        errors.push(FieldError::not_supported(&Path::new("dryRun"), serde_json::json!(all), &["All"]));
    }
    errors
}

/// Reads a body within the limit.
pub async fn read_body(body: Body) -> Result<Bytes, ApiError> {
    base::http::read(body, BODY_LIMIT).await.map_err(|error| match error {
        base::http::ReadError::TooLarge { limit } => ApiError::new(
            Reason::RequestEntityTooLarge,
            format!("Request entity too large: limit is {limit}"),
        ),
        base::http::ReadError::Broken(error) => ApiError::bad_request(error.to_string()),
    })
}

/// The kind that a body is to have.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Group.
    pub group: &'a str,
    /// Version.
    pub version: &'a str,
    /// Kind.
    pub kind: &'a str,
    /// A custom resource: no facts.
    pub custom: bool,
}

impl<'a> Target<'a> {
    /// A row's own kind.
    pub fn of(row: &'a Resource) -> Self {
        Target { group: &row.group, version: &row.version, kind: &row.kind, custom: row.custom }
    }

    fn api_version(&self) -> String {
        api::meta::api_version(self.group, self.version)
    }

    /// The kind's schema, when it is built in.
    pub fn schema(&self) -> Schema<'static> {
        facts().by_gvk(self.group, self.version, self.kind).map_or(Schema::Any, Schema::Type)
    }
}

/// Decodes a body that must be of the target's kind.
pub fn decode(
    exchange: &Exchange,
    target: Target<'_>,
    body: &[u8],
    validation: FieldValidation,
) -> Result<Value, ApiError> {
    let format = negotiate::body_format(exchange.headers(), !target.custom)?;
    decode_as(exchange, target, format, body, validation)
}

/// Decodes a body of the row's own kind.
pub fn decode_served(call: &Call<'_>, body: &[u8], validation: FieldValidation) -> Result<Value, ApiError> {
    let target = Target::of(call.row());
    if !target.custom {
        return decode(call.exchange, target, body, validation);
    }
    let format = negotiate::body_format(call.exchange.headers(), false)?;
    decode_custom(call, format, body, validation)
}

/// Decodes a custom resource: unknown fields are dropped by its schema.
pub fn decode_custom(
    call: &Call<'_>,
    format: Format,
    body: &[u8],
    validation: FieldValidation,
) -> Result<Value, ApiError> {
    let target = Target::of(call.row());
    let (mut value, mut strict) = decode_parts(target, format, body)?;
    if let Some(custom) = &call.served.custom {
        strict.extend(structural::prune(&custom.node, &mut value));
    }
    report_strict(call.exchange, target, strict, validation)?;
    Ok(value)
}

/// As [`decode`], in a given format.
pub fn decode_as(
    exchange: &Exchange,
    target: Target<'_>,
    format: Format,
    body: &[u8],
    validation: FieldValidation,
) -> Result<Value, ApiError> {
    let (value, strict) = decode_parts(target, format, body)?;
    report_strict(exchange, target, strict, validation)?;
    Ok(value)
}

/// A body's tree and what a strict reader would object to.
fn decode_parts(target: Target<'_>, format: Format, body: &[u8]) -> Result<(Value, Vec<String>), ApiError> {
    let decoded = match format {
        Format::Protobuf => proto::decode_object(body).map(|(value, _)| (value, Vec::new())),
        Format::Yaml => yaml::decode(target.schema(), body).map(|d| (d.value, d.strict_errors)),
        Format::Json { .. } => json::decode(target.schema(), body).map(|d| (d.value, d.strict_errors)),
    };
    let (mut value, strict) = decoded.map_err(|error| undecodable(target, format, body, &error))?;
    if value.is_null() {
        value = serde_json::json!({});
    }
    let Value::Object(map) = &mut value else {
        let found = if value.is_array() { "array" } else { "string" };
        let why = format!(
            "couldn't get version/kind; json parse error: json: cannot unmarshal {found} into Go value of type {TYPE_META}"
        );
        return Err(unrecognized(target, body, &why));
    };
    if target.custom {
        check_custom(target, &value, body)?;
        return Ok((value, strict));
    }
    for (key, own) in [("apiVersion", target.api_version()), ("kind", target.kind.to_owned())] {
        if map.get(key).and_then(Value::as_str).unwrap_or("").is_empty() {
            map.insert(key.to_owned(), own.into());
        }
    }
    check_kind(target, &value)?;
    Ok((value, strict))
}

/// A custom resource says what it is, and its metadata is what metadata is.
fn check_custom(target: Target<'_>, value: &Value, body: &[u8]) -> Result<(), ApiError> {
    if value["kind"].as_str().unwrap_or("").is_empty() {
        let why = format!("Object 'Kind' is missing in '{}'", String::from_utf8_lossy(body));
        return Err(unrecognized(target, body, &why));
    }
    check_kind(target, value)?;
    check_meta(value).map_err(|why| cannot_be_handled(target, target.kind, target.version, &why))
}

/// What is wrong with the types of an object's metadata.
fn check_meta(value: &Value) -> Result<(), String> {
    let Some(meta) = value.get("metadata").filter(|meta| !meta.is_null()) else { return Ok(()) };
    let facts = facts().by_name("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
    let schema = facts.map_or(Schema::Any, Schema::Type);
    json::conform(schema, meta).map(drop).map_err(|error| error.to_string())
}

/// Holds a tree against the kind it must have: canonical value and what a strict reader objects to.
pub fn conform(
    target: Target<'_>,
    custom: Option<&Arc<CustomKind>>,
    value: &Value,
) -> Result<(Value, Vec<String>), String> {
    let decoded = json::conform(target.schema(), value).map_err(|error| error.to_string())?;
    let (mut value, mut strict) = (decoded.value, decoded.strict_errors);
    if let Some(custom) = custom {
        check_meta(&value)?;
        strict.extend(structural::prune(&custom.node, &mut value));
    }
    check_kind(target, &value).map_err(|error| error.message)?;
    Ok((value, strict))
}

/// Makes of a tree what [`conform`] would, when there is nothing to object to; otherwise it stays as it is, and false.
pub fn settle(target: Target<'_>, custom: Option<&Arc<CustomKind>>, value: &mut Value) -> bool {
    custom.is_none() && check_kind(target, value).is_ok() && json::settle(target.schema(), value)
}

/// Refuses or warns of unknown and duplicate fields.
pub fn report_strict(
    exchange: &Exchange,
    target: Target<'_>,
    strict: Vec<String>,
    validation: FieldValidation,
) -> Result<(), ApiError> {
    if strict.is_empty() {
        return Ok(());
    }
    match validation {
        FieldValidation::Ignore => {}
        FieldValidation::Warn => {
            strict.iter().flat_map(|text| warnings(text)).for_each(|text| exchange.warn(text))
        }
        FieldValidation::Strict => {
            let why = format!("strict decoding error: {}", strict.join(", "));
            return Err(cannot_be_handled(target, target.kind, target.version, &why));
        }
    }
    Ok(())
}

/// YAML's strict errors come as one text of many lines; each is a warning of its own.
fn warnings(text: &str) -> impl Iterator<Item = &str> {
    text.strip_prefix("yaml: unmarshal errors:\n").unwrap_or(text).lines().map(str::trim)
}

fn cannot_be_handled(target: Target<'_>, kind: &str, version: &str, why: &str) -> ApiError {
    let version = go_quote(version);
    ApiError::bad_request(format!(
        "{kind} in version {version} cannot be handled as a {}: {why}",
        target.kind
    ))
}

fn undecodable(target: Target<'_>, format: Format, body: &[u8], error: &DecodeError) -> ApiError {
    let message = error.to_string();
    let first = body.iter().find(|byte| !byte.is_ascii_whitespace());
    // In YAML, what is no object shows only by what reading it says.
    let no_object = match format {
        Format::Json { .. } => matches!(error, DecodeError::Syntax { .. }) || first != Some(&b'{'),
        Format::Yaml => message.contains(" into Go value of type "),
        Format::Protobuf => false,
    };
    if no_object {
        // The kind could not be read either.
        let why = match message.split_once(" into Go value of type ") {
            Some((what, _)) => format!("{what} into Go value of type {TYPE_META}"),
            None => message,
        };
        return unrecognized(target, body, &format!("couldn't get version/kind; json parse error: {why}"));
    }
    // The same of an envelope and of text that is no YAML.
    match error {
        DecodeError::Yaml { message } => unrecognized(target, body, message),
        DecodeError::Proto { message } if proto::unwrap_unknown(body).is_err() => {
            let why = if body.is_empty() { "empty data" } else { message };
            unrecognized(target, body, why)
        }
        _ => cannot_be_handled(target, target.kind, target.version, &message),
    }
}

/// What upstream reads the kind into.
const TYPE_META: &str =
    r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;

fn unrecognized(target: Target<'_>, body: &[u8], why: &str) -> ApiError {
    let shown = &body[..body.len().min(30)];
    let dots = if body.len() > 30 { " ..." } else { "" };
    let shown = match body.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => String::from_utf8_lossy(shown).into_owned(),
        Some(_) => shown.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    ApiError::bad_request(format!(
        "the object provided is unrecognized (must be of type {}): {why} ({shown}{dots})",
        target.kind
    ))
}

/// Where upstream registers nearly all kinds.
const CORE_SCHEME: &str = "pkg/api/legacyscheme/scheme.go:30";

/// Where upstream registers a group's kinds: two of its three servers know none but their own.
fn scheme(group: &str) -> &'static str {
    match group {
        "apiextensions.k8s.io" => "pkg/apiserver/apiserver.go:55",
        "apiregistration.k8s.io" => "pkg/apiserver/scheme/scheme.go:28",
        _ => CORE_SCHEME,
    }
}

fn check_kind(target: Target<'_>, value: &Value) -> Result<(), ApiError> {
    let api_version = value["apiVersion"].as_str().unwrap_or("");
    let kind = value["kind"].as_str().unwrap_or("");
    let expected = target.api_version();
    if api_version == expected && kind == target.kind {
        return Ok(());
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let scheme = scheme(target.group);
    let elsewhere = scheme != CORE_SCHEME && group != target.group;
    if !target.custom && (elsewhere || facts().by_gvk(group, version, kind).is_none()) {
        let why = format!(
            "no kind {} is registered for version {} in scheme \"{scheme}\"",
            go_quote(kind),
            go_quote(api_version)
        );
        return Err(cannot_be_handled(target, kind, version, &why));
    }
    if api_version != expected && (target.custom || (kind == target.kind && group == target.group)) {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({expected})"
        )));
    }
    if target.custom {
        let error = FieldError::invalid(&Path::new("kind"), kind, format!("must be {}", target.kind));
        let name = value["metadata"]["name"].as_str().unwrap_or("");
        return Err(ApiError::invalid(target.group, kind, name, &ErrorList(vec![error])));
    }
    let why = format!(
        "converting ({version}.{kind}) to ({}.{}): unknown conversion",
        group_package(target.group),
        target.kind
    );
    Err(cannot_be_handled(target, kind, version, &why))
}

fn group_package(group: &str) -> &str {
    if group.is_empty() { "core" } else { group.split('.').next().unwrap_or(group) }
}

/// The store's key of an object of a row; `None` for kinds that are not stored.
pub fn key(row: &Resource, namespace: &str, name: &str) -> Option<Key> {
    let storage = row.storage.clone()?;
    Some(Key::new(storage, if row.namespaced { namespace } else { "" }, name))
}

/// The built-in rows: only they have versions that are stored as another.
static STORED: std::sync::LazyLock<registry::Catalog> = std::sync::LazyLock::new(registry::Catalog::builtin);

/// A write of a tree in the row's version.
pub fn put(row: &Resource, key: Key, expect: Expect, mut object: Value) -> Write {
    row.to_stored(&mut object);
    // Fields are those of the version that is stored, whichever version the request came in.
    let stored = row.conversion.and_then(|_| STORED.by_storage(&key.resource));
    put_stored(stored.map_or(row, |stored| stored), key, expect, &object)
}

/// A write of a tree in the stored form.
pub fn put_stored(row: &Resource, key: Key, expect: Expect, object: &Value) -> Write {
    Write { key, expect, op: Op::Put(draft(object), attrs(row, object)) }
}

impl Server {
    /// Commits one write, telling those who follow the store from inside.
    pub async fn commit(&self, write: Write) -> Result<store::Committed, CommitError> {
        let resource = write.key.resource.clone();
        let committed = self.store.commit(write).await?;
        self.authorizer.note(&resource);
        Ok(committed)
    }

    /// Whether a refusal with this code may be due to another server's change that had not come here yet. By now it
    /// has.
    pub async fn was_behind(&self, code: u16) -> Result<bool, ApiError> {
        if !self.store.is_shared() || !matches!(code, 404 | 409) {
            return Ok(false);
        }
        self.store.latest().await.map_err(ApiError::internal)?;
        Ok(true)
    }

    /// The stored object, or 404.
    pub fn find(&self, row: &Resource, namespace: &str, name: &str) -> Result<Arc<Object>, ApiError> {
        let not_found = || ApiError::not_found(&row.group, &row.plural, name);
        let key = key(row, namespace, name).ok_or_else(not_found)?;
        self.store.get(&key).ok_or_else(not_found)
    }
}

/// A failed commit as an answer.
pub fn commit_error(row: &Resource, name: &str, error: CommitError) -> ApiError {
    match error {
        CommitError::Exists(_) => ApiError::already_exists(&row.group, &row.plural, name),
        CommitError::NotFound(_) => ApiError::not_found(&row.group, &row.plural, name),
        CommitError::Conflict(_) => ApiError::stale(&row.group, &row.plural, name),
        other => ApiError::internal(other),
    }
}
