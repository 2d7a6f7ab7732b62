//! What happens to any object on its way into the store: system metadata, name generation,
//! preparation, validation, deletion with grace and finalizers. One path for every kind.
//! It must not know the store, HTTP, randomness or the clock: ids and time are handed in.

use api::error::{ApiError, Reason};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use crate::canonical;
use crate::resource::Resource;
use crate::strategy::{Context, Grace, Part, generation, set_generation};
use crate::tree::Tree;
use crate::validation::meta::{self, NameRule};
use crate::validation::{self, ErrorList, FieldError, Path};

/// The longest generated name, in bytes; longer prefixes are cut.
const NAME_MAX: usize = 63;
/// Random characters appended to metadata.generateName.
pub const SUFFIX_LENGTH: usize = 5;

/// Finalizer by which dependents lose their owner before it goes.
pub const ORPHAN: &str = "orphan";
/// Finalizer by which dependents go before their owner does.
pub const FOREGROUND: &str = "foregroundDeletion";

impl Resource {
    /// Canonical form and defaults: right after decoding, and after every patch.
    pub fn default(&self, object: &mut Value) {
        self.canonicalize(object);
        self.strategy.default(object);
        self.canonicalize(object);
    }

    /// Canonical form only (custom resources have none).
    pub fn canonicalize(&self, object: &mut Value) {
        if self.custom {
            canonical::canonicalize_type(
                "meta.ObjectMeta",
                object.get_mut("metadata").unwrap_or(&mut Value::Null),
            );
        } else {
            canonical::canonicalize(&self.group, &self.version, &self.kind, object);
        }
        self.stamp(object);
    }
}

/// Makes a decoded, defaulted, admitted object ready to be stored for the first time.
/// Returns warnings for the client.
pub fn before_create(
    cx: &Context<'_>,
    namespace: &str,
    object: &mut Value,
    uid: impl FnOnce() -> String,
    suffix: impl FnOnce() -> String,
) -> Result<Vec<String>, ApiError> {
    let resource = cx.resource;
    if !object.at("metadata").is_object() {
        object.set("metadata", json!({}));
    }
    match_namespace(resource, namespace, object)?;
    fill_system_fields(object, cx.now, uid);
    generate_name(object, suffix);
    if !resource.custom {
        crate::disabled::drop_fields(&resource.kind, object, &Value::Null);
    }
    resource.strategy.prepare_create(cx, object);
    resource.default(object);
    let rule = resource.strategy.name_rule();
    let mut errors = ErrorList::new();
    if rule != NameRule::Later {
        errors = meta::check(object, resource.namespaced, rule);
    }
    plain_finalizers(resource, object, &mut errors);
    errors.extend(resource.strategy.validate(cx, object));
    reject(resource, object, errors)?;
    let errors = meta::check(object, resource.namespaced, NameRule::PathSegment);
    reject(resource, object, errors)?;
    let mut warnings = resource.strategy.warnings(cx, object, None);
    warnings.extend(crate::warnings::of(resource, object, None));
    resource.strategy.finish(object);
    resource.canonicalize(object);
    Ok(warnings)
}

/// Finalizers of built-in kinds are qualified or ours.
fn plain_finalizers(resource: &Resource, object: &Value, errors: &mut ErrorList) {
    // Upstream looks at the metadata of these by its generic rules alone.
    let generic = matches!(
        resource.group.as_str(),
        "admissionregistration.k8s.io" | "apiextensions.k8s.io" | "apiregistration.k8s.io"
    ) || matches!(resource.kind.as_str(), "Lease" | "RuntimeClass" | "PodDisruptionBudget")
        || (resource.kind == "Event" && resource.group.is_empty());
    if resource.custom || generic {
        return;
    }
    let path = Path::new("metadata").child("finalizers");
    for (i, name) in object.list("metadata.finalizers").iter().filter_map(Value::as_str).enumerate() {
        validation::core::plain_finalizer(errors, name, &path.index(i));
    }
}

fn reject(resource: &Resource, object: &Value, errors: ErrorList) -> Result<(), ApiError> {
    if errors.is_empty() {
        return Ok(());
    }
    let group = internal_group(resource);
    Err(ApiError::invalid(group, &resource.kind, object.text("metadata.name"), &errors))
}

/// Upstream keeps both kinds of events as the core group's.
fn internal_group(resource: &Resource) -> &str {
    if resource.group == "events.k8s.io" { "" } else { &resource.group }
}

/// An object's namespace must be the request's; empty takes the request's.
pub fn match_namespace(resource: &Resource, namespace: &str, object: &mut Value) -> Result<(), ApiError> {
    let wanted = if resource.namespaced { namespace } else { "" };
    let own = object.text("metadata.namespace");
    if own == wanted {
        return Ok(());
    }
    if own.is_empty() {
        object.set("metadata.namespace", wanted);
        return Ok(());
    }
    if wanted.is_empty() && !resource.namespaced {
        object.unset("metadata.namespace");
        return Ok(());
    }
    Err(ApiError::bad_request(
        "the namespace of the provided object does not match the namespace sent on the request",
    ))
}

fn fill_system_fields(object: &mut Value, now: Timestamp, uid: impl FnOnce() -> String) {
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion"] {
        object.unset(&format!("metadata.{field}"));
    }
    object.set("metadata.creationTimestamp", api::time::format(now));
    object.set("metadata.uid", uid());
}

fn generate_name(object: &mut Value, suffix: impl FnOnce() -> String) {
    let prefix = object.text("metadata.generateName");
    if prefix.is_empty() || !object.text("metadata.name").is_empty() {
        return;
    }
    let mut end = prefix.len().min(NAME_MAX - SUFFIX_LENGTH);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    let name = format!("{}{}", &prefix[..end], suffix());
    object.set("metadata.name", name);
}

/// Makes a new version of an object ready to be stored. The caller has already compared
/// metadata.resourceVersion (and put the current one in when an unconditional update may).
/// Returns warnings for the client.
pub fn before_update(
    cx: &Context<'_>,
    part: Part,
    new: &mut Value,
    old: &Value,
) -> Result<Vec<String>, ApiError> {
    let resource = cx.resource;
    match_namespace(resource, old.text("metadata.namespace"), new)?;
    set_generation(new, generation(old));
    if !resource.custom {
        crate::disabled::drop_fields(&resource.kind, new, old);
    }
    resource.strategy.prepare_update(cx, part, new, old);
    keep_system_fields(new, old);
    resource.default(new);
    check_update(cx, part, new, old)?;
    let mut warnings = resource.strategy.warnings(cx, new, Some(old));
    if part == Part::Main {
        warnings.extend(crate::warnings::of(resource, new, Some(old)));
    }
    resource.strategy.finish(new);
    resource.canonicalize(new);
    Ok(warnings)
}

/// The validation half of [`before_update`].
fn check_update(cx: &Context<'_>, part: Part, new: &Value, old: &Value) -> Result<(), ApiError> {
    let resource = cx.resource;
    let mut errors = meta::check(new, resource.namespaced, NameRule::PathSegment);
    errors.extend(meta::check_update(new, old));
    // Upstream looks at metadata once for all kinds and once with each: the causes are told twice.
    errors.extend(errors.clone());
    plain_finalizers(resource, new, &mut errors);
    errors.extend(resource.strategy.validate_update(cx, part, new, old));
    reject(resource, new, errors)
}

fn keep_system_fields(new: &mut Value, old: &Value) {
    if new.text("metadata.uid").is_empty() {
        new.set("metadata.uid", old.at("metadata.uid").clone());
    }
    for field in ["metadata.creationTimestamp", "metadata.deletionTimestamp"] {
        if old.has(field) {
            new.set(field, old.at(field).clone());
        }
    }
    if old.has("metadata.deletionGracePeriodSeconds") {
        let seconds = old.at("metadata.deletionGracePeriodSeconds").clone();
        new.set_default("metadata.deletionGracePeriodSeconds", seconds);
    }
    new.unset("metadata.selfLink");
}

/// Whether a write would change nothing; then the stored object is the answer and no revision is
/// spent. Times in managedFields do not count.
pub fn unchanged(new: &Value, old: &Value) -> bool {
    let timeless = |a: &Value, b: &Value| same_but(a, b, &["time"], |_, _| true);
    let entries = |a: &Value, b: &Value| match (a, b) {
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| timeless(a, b))
        }
        (a, b) => a == b,
    };
    let meta = |a: &Value, b: &Value| {
        same_but(a, b, &["resourceVersion", "managedFields"], |a, b| {
            entries(a.at("managedFields"), b.at("managedFields"))
        })
    };
    same_but(new, old, &["metadata"], |a, b| meta(a.at("metadata"), b.at("metadata")))
}

/// Whether two values are equal but for some fields, and those pass `rest`.
fn same_but(a: &Value, b: &Value, fields: &[&str], rest: impl Fn(&Value, &Value) -> bool) -> bool {
    let (Value::Object(x), Value::Object(y)) = (a, b) else { return a == b };
    fn others<'a>(
        map: &'a Map<String, Value>,
        fields: &'a [&str],
    ) -> impl Iterator<Item = (&'a String, &'a Value)> {
        map.iter().filter(move |(key, _)| !fields.contains(&key.as_str()))
    }
    others(x, fields).eq(others(y, fields)) && rest(a, b)
}

/// What a delete request comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// Remove the object from the store.
    Now,
    /// Store the object, which now carries its deletion mark.
    Marked,
    /// It is already on its way; nothing to do.
    Pending,
}

/// Applies DeleteOptions to an object: preconditions, grace period, garbage-collection finalizers.
pub fn before_delete(cx: &Context<'_>, object: &mut Value, options: &Value) -> Result<Deletion, ApiError> {
    check_options(options)?;
    check_preconditions(cx.resource, object, options)?;
    let asked = options.at("gracePeriodSeconds").as_i64().map(|s| if s < 0 { 1 } else { s });
    let finalizers_changed = set_gc_finalizers(cx.resource, object, options);
    let grace = cx.resource.strategy.grace(object, asked);
    let deleting = object.has("metadata.deletionTimestamp");
    let changed = match (grace, deleting) {
        (Grace::Seconds(_), true) => shorten(object, asked),
        (Grace::Seconds(seconds), false) => {
            mark(object, cx.now, seconds);
            true
        }
        (Grace::None, _) => false,
    };
    let finalizers = !object.list("metadata.finalizers").is_empty() || spec_finalizers(object);
    let seconds = object.int("metadata.deletionGracePeriodSeconds");
    if grace == Grace::None || (seconds == 0 && object.has("metadata.deletionTimestamp")) {
        if !finalizers {
            return Ok(Deletion::Now);
        }
        if deleting && !finalizers_changed && !changed {
            return Ok(Deletion::Pending);
        }
        if !object.has("metadata.deletionTimestamp") {
            mark(object, cx.now, 0);
        }
        return Ok(Deletion::Marked);
    }
    Ok(if changed || finalizers_changed { Deletion::Marked } else { Deletion::Pending })
}

/// Namespaces hold a second list of finalizers.
fn spec_finalizers(object: &Value) -> bool {
    object.text("kind") == "Namespace"
        && object.text("apiVersion") == "v1"
        && !object.list("spec.finalizers").is_empty()
}

/// Whether an update has taken away the last thing that held a deleted object.
pub fn may_go(new: &Value) -> bool {
    new.has("metadata.deletionTimestamp")
        && new.int("metadata.deletionGracePeriodSeconds") == 0
        && new.list("metadata.finalizers").is_empty()
        && !spec_finalizers(new)
}

fn mark(object: &mut Value, now: Timestamp, seconds: i64) {
    let at = now.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(now);
    object.set("metadata.deletionTimestamp", api::time::format(at));
    object.set("metadata.deletionGracePeriodSeconds", seconds);
    let before = generation(object);
    if before > 0 {
        set_generation(object, before + 1);
    }
}

/// A second delete may only shorten what is left.
fn shorten(object: &mut Value, seconds: Option<i64>) -> bool {
    let left = object.int("metadata.deletionGracePeriodSeconds");
    let Some(seconds) = seconds.filter(|s| *s < left) else { return false };
    let Some(due) = api::time::parse(object.text("metadata.deletionTimestamp")) else { return false };
    let earlier = SignedDuration::from_secs(seconds - left);
    let due = due.checked_add(earlier).unwrap_or(due);
    object.set("metadata.deletionTimestamp", api::time::format(due));
    object.set("metadata.deletionGracePeriodSeconds", seconds);
    true
}

/// What is wrong with DeleteOptions by themselves.
pub fn check_options(options: &Value) -> Result<(), ApiError> {
    let mut errors = ErrorList::new();
    let policy = options.text("propagationPolicy");
    if options.has("orphanDependents") && options.has("propagationPolicy") {
        let detail = "orphanDependents and deletionPropagation cannot be both set";
        errors.push(FieldError::invalid(&Path::new("propagationPolicy"), policy, detail));
    }
    if options.has("propagationPolicy") && !matches!(policy, "Foreground" | "Background" | "Orphan") {
        errors.push(FieldError::not_supported(
            &Path::new("propagationPolicy"),
            policy,
            &["Foreground", "Background", "Orphan", "nil"],
        ));
    }
    let dry_run = options.list("dryRun");
    if dry_run.iter().any(|value| value != "All") {
        errors.push(FieldError::not_supported(&Path::new("dryRun"), dry_run.to_vec(), &["All"]));
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid("meta.k8s.io", "DeleteOptions", "", &errors))
}

fn check_preconditions(resource: &Resource, object: &Value, options: &Value) -> Result<(), ApiError> {
    let checks = [
        ("uid", "UID", "The object might have been deleted and then recreated"),
        ("resourceVersion", "ResourceVersion", "The object might have been modified"),
    ];
    for (field, shown, why) in checks {
        let wanted = options.at("preconditions").at(field);
        let own = object.at("metadata").text(field);
        if let Some(wanted) = wanted.as_str().filter(|w| *w != own) {
            let name = object.text("metadata.name");
            let namespace = object.text("kind") == "Namespace" && resource.group.is_empty();
            if namespace || (resource.kind == "CustomResourceDefinition" && !resource.custom) {
                // Upstream's namespaces and definitions look for themselves, and have other words.
                let detail = format!(
                    "Precondition failed: {shown} in precondition: {wanted}, {shown} in object meta: {own}"
                );
                return Err(ApiError::conflict(&resource.group, &resource.plural, name, &detail));
            }
            let detail = format!(
                "the {shown} in the precondition ({wanted}) does not match the {shown} in record ({own}). {why}"
            );
            return Err(ApiError::conflict(internal_group(resource), &resource.kind, name, &detail));
        }
    }
    Ok(())
}

/// Puts the garbage collector's finalizers as the options (or the kind's default) ask; true when
/// that changed something.
fn set_gc_finalizers(resource: &Resource, object: &mut Value, options: &Value) -> bool {
    let before: Vec<Value> = object.list("metadata.finalizers").to_vec();
    let had = |name: &str| before.iter().any(|f| f == name);
    let (orphan, foreground) = match (options.at("orphanDependents"), options.text("propagationPolicy")) {
        _ if resource.qualified() == "events" || resource.qualified() == "events.events.k8s.io" => {
            (false, false)
        }
        (Value::Bool(orphan), _) => (*orphan, false),
        (_, "Orphan") => (true, false),
        (_, "Foreground") => (false, true),
        (_, "Background") => (false, false),
        _ if had(ORPHAN) => (true, false),
        _ if had(FOREGROUND) => (false, true),
        _ => (resource.strategy.orphan_by_default(), false),
    };
    let mut after: Vec<Value> = before.clone();
    after.retain(|f| f != ORPHAN && f != FOREGROUND);
    for (wanted, name) in [(orphan, ORPHAN), (foreground, FOREGROUND)] {
        if wanted {
            after.push(name.into());
        }
    }
    let same = before.len() == after.len() && before.iter().all(|f| after.contains(f));
    if same {
        return false;
    }
    if after.is_empty() {
        object.unset("metadata.finalizers");
    } else {
        object.set("metadata.finalizers", Value::Array(after));
    }
    true
}

/// Whether an error says that a generated name was taken, so that the caller may try another.
pub fn name_taken(error: &ApiError) -> bool {
    error.is(Reason::AlreadyExists)
}
