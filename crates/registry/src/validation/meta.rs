//! Metadata rules that hold for every kind (apimachinery pkg/api/validation/objectmeta.go), and
//! label selectors.

use api::names;
use api::validation::{ErrorList, FieldError, Path};
use serde_json::Value;

use super::{ErrorKind, NEGATIVE, Report, each, shown};
use crate::tree::Tree;

/// What names a kind accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    /// RFC 1123 subdomain: most kinds.
    DnsSubdomain,
    /// The same in the words of upstream's declarative rules, and without a look at generateName.
    LongName,
    /// RFC 1123 label: namespaces.
    DnsLabel,
    /// RFC 1035 label: services.
    Dns1035Label,
    /// An IP address, canonically written.
    Address,
    /// What the kind's own rules say.
    Own,
    /// Anything that is one path segment: RBAC kinds, custom checks.
    PathSegment,
    /// As `PathSegment`, and metadata is looked at only when the rest is right.
    Later,
}

impl NameRule {
    /// What is wrong with a name; `prefix` for metadata.generateName, where a dash may come last.
    pub fn check(self, name: &str, prefix: bool) -> Vec<String> {
        match self {
            NameRule::PathSegment | NameRule::Later => return path_segment(name, prefix),
            NameRule::Address => return super::networking::address_messages(name),
            _ => {}
        }
        let masked;
        let name = match name.strip_suffix('-') {
            Some(rest) if prefix && !rest.is_empty() => {
                masked =
                    format!("{}a", &rest[..rest.len() - rest.chars().next_back().map_or(0, char::len_utf8)]);
                masked.as_str()
            }
            _ => name,
        };
        match self {
            NameRule::LongName if prefix => Vec::new(),
            NameRule::LongName => {
                let said = names::dns1123_subdomain(name).into_iter();
                said.map(|why| why.replace("no more than 253 characters", "no more than 253 bytes")).collect()
            }
            NameRule::DnsSubdomain => names::dns1123_subdomain(name),
            NameRule::DnsLabel => names::dns1123_label(name),
            NameRule::Dns1035Label => names::dns1035_label(name),
            NameRule::Address | NameRule::PathSegment | NameRule::Later | NameRule::Own => Vec::new(),
        }
    }
}

fn path_segment(name: &str, prefix: bool) -> Vec<String> {
    if prefix && (name == "." || name == "..") { Vec::new() } else { names::path_segment(name) }
}

/// The longest sum of annotation keys and values, in bytes.
pub const ANNOTATIONS_MAX: usize = 256 << 10;

/// Checks the metadata of any object.
pub fn check(object: &Value, namespaced: bool, rule: NameRule) -> ErrorList {
    check_at(object.at("metadata"), namespaced, rule, &Path::new("metadata"))
}

/// As [`check`], of a metadata object anywhere (a claim template's, say).
pub fn check_at(meta: &Value, namespaced: bool, rule: NameRule, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let generate = meta.text("generateName");
    if !generate.is_empty() {
        each(&mut errors, &path.child("generateName"), generate, rule.check(generate, true));
    }
    match meta.text("name") {
        "" => {
            let detail = "name or generateName is required";
            errors.push(FieldError::required(&path.child("name"), detail));
        }
        name => each(&mut errors, &path.child("name"), name, rule.check(name, false)),
    }
    let namespace = meta.text("namespace");
    let at = path.child("namespace");
    match (namespaced, namespace) {
        (true, "") => errors.push(FieldError::required(&at, "")),
        (true, ns) => each(&mut errors, &at, ns, names::dns1123_label(ns)),
        (false, "") => {}
        (false, _) => errors.push(FieldError::forbidden(&at, "not allowed on this type")),
    }
    if meta.int("generation") < 0 {
        let generation = meta.int("generation");
        errors.push(FieldError::invalid(&path.child("generation"), generation, NEGATIVE));
    }
    labels(&mut errors, meta.at("labels"), &path.child("labels"));
    annotations(&mut errors, meta.at("annotations"), &path.child("annotations"));
    owners(&mut errors, meta.at("ownerReferences"), &path.child("ownerReferences"));
    finalizers(&mut errors, meta.at("finalizers"), &path.child("finalizers"));
    errors
}

/// Label keys and values.
pub fn labels(errors: &mut ErrorList, labels: &Value, path: &Path) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        each(errors, path, key, names::qualified_name(key));
        let value = value.as_str().unwrap_or("");
        each(errors, path, value, names::label_value(value));
    }
}

/// Annotation keys and their total size.
pub fn annotations(errors: &mut ErrorList, annotations: &Value, path: &Path) {
    let mut size = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        each(errors, path, key, names::qualified_name(&key.to_lowercase()));
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > ANNOTATIONS_MAX {
        errors.push(FieldError::too_long(path, ANNOTATIONS_MAX));
    }
}

fn owners(errors: &mut ErrorList, owners: &Value, path: &Path) {
    let mut controller: Option<String> = None;
    for owner in owners.as_array().into_iter().flatten() {
        let version = owner.text("apiVersion");
        if version.rsplit('/').next().is_none_or(str::is_empty) {
            let at = path.child("apiVersion");
            errors.push(FieldError::invalid(&at, version, "version must not be empty"));
        }
        for field in ["kind", "name", "uid"] {
            if owner.text(field).is_empty() {
                errors.push(FieldError::invalid(&path.child(field), "", "must not be empty"));
            }
        }
        if (version, owner.text("kind")) == ("v1", "Event") {
            let detail = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(FieldError::invalid(path, owner.clone(), detail));
        }
        if !owner.flag("controller") {
            continue;
        }
        let name = format!("{}/{}", owner.text("kind"), owner.text("name"));
        match &controller {
            None => controller = Some(name),
            Some(first) => {
                let detail = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {name}"
                );
                let text = shown::owners(owners.as_array().map_or(&[], Vec::as_slice));
                shown::report(errors, ErrorKind::Invalid, path, text, &detail);
            }
        }
    }
}

/// Finalizer names; orphan and foregroundDeletion exclude each other.
pub fn finalizers(errors: &mut ErrorList, finalizers: &Value, path: &Path) {
    let all = finalizers.as_array().map_or(&[][..], Vec::as_slice);
    for name in all.iter().filter_map(Value::as_str) {
        each(errors, path, name, names::qualified_name(name));
    }
    let has = |name: &str| all.iter().any(|f| f == name);
    if has("orphan") && has("foregroundDeletion") {
        let detail = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(FieldError::invalid(path, finalizers.clone(), detail));
    }
}

/// What an update may not change in metadata.
pub fn check_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("metadata");
    let (new, old) = (new.at("metadata"), old.at("metadata"));
    if old.has("deletionTimestamp") {
        let before = old.list("finalizers");
        let mut extra: Vec<&str> =
            new.list("finalizers").iter().filter(|f| !before.contains(f)).filter_map(Value::as_str).collect();
        extra.sort_unstable();
        extra.dedup();
        if !extra.is_empty() {
            let shown: Vec<String> = extra.iter().map(|f| format!("{f:?}")).collect();
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                shown.join(", ")
            );
            errors.push(FieldError::forbidden(&path.child("finalizers"), detail));
        }
    }
    if new.text("resourceVersion").is_empty() {
        let at = path.child("resourceVersion");
        errors.push(FieldError::invalid(&at, "", "must be specified for an update"));
    }
    if new.int("generation") < old.int("generation") {
        let at = path.child("generation");
        errors.push(FieldError::invalid(&at, new.int("generation"), "must not be decremented"));
    }
    let fields =
        ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"];
    for field in fields {
        super::immutable(&mut errors, new.at(field), old.at(field), &path.child(field));
    }
    errors
}

/// What a condition's reason may be.
const REASON: &str = "a condition reason must start with alphabetic character, optionally followed by a string of \
                      alphanumeric characters or '_,:', and must end with an alphanumeric character or '_'";
const REASON_FORMAT: &str = "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?";
/// The longest reason and message of a condition, in bytes.
const REASON_MAX: usize = 1 << 10;
const MESSAGE_MAX: usize = 32 << 10;

fn is_reason(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_,:".contains(c))
}

/// A list of metav1 Conditions (apimachinery ValidateConditions).
pub fn conditions(errors: &mut ErrorList, all: &[Value], path: &Path) {
    for (i, condition) in all.iter().enumerate() {
        let (at, kind) = (path.index(i), condition.text("type"));
        if all[..i].iter().any(|earlier| earlier.text("type") == kind) {
            errors.push(FieldError::duplicate(&at.child("type"), kind));
        }
        each(errors, &at.child("type"), kind, names::qualified_name(kind));
        errors.one_of(&at.child("status"), condition.text("status"), &["False", "True", "Unknown"]);
        let generation = condition.int("observedGeneration");
        if generation < 0 {
            let detail = "must be greater than or equal to zero";
            errors.push(FieldError::invalid(&at.child("observedGeneration"), generation, detail));
        }
        errors.required_text(&at, condition, "lastTransitionTime");
        errors.required_text(&at, condition, "reason");
        let reason = condition.text("reason");
        if !reason.is_empty() && !is_reason(reason) {
            let examples = ["my_name", "MY_NAME", "MyName", "ReasonA,ReasonB", "ReasonA:ReasonB"];
            let detail = names::format_error(REASON, REASON_FORMAT, &examples);
            errors.push(FieldError::invalid(&at.child("reason"), reason, detail));
        }
        for (field, limit) in [("reason", REASON_MAX), ("message", MESSAGE_MAX)] {
            if condition.text(field).len() > limit {
                errors.push(FieldError::too_long(&at.child(field), limit));
            }
        }
    }
}

/// A metav1 LabelSelector.
pub fn selector(errors: &mut ErrorList, selector: &Value, path: &Path) {
    labels(errors, selector.at("matchLabels"), &path.child("matchLabels"));
    for (i, rule) in selector.list("matchExpressions").iter().enumerate() {
        let path = path.child("matchExpressions").index(i);
        let values = rule.list("values");
        match rule.text("operator") {
            "In" | "NotIn" if values.is_empty() => {
                let detail = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.push(FieldError::required(&path.child("values"), detail));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(FieldError::forbidden(&path.child("values"), detail));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                let detail = "not a valid selector operator";
                errors.push(FieldError::invalid(&path.child("operator"), other, detail));
            }
        }
        let key = rule.text("key");
        each(errors, &path.child("key"), key, names::qualified_name(key));
        for (i, value) in values.iter().enumerate() {
            let text = value.as_str().unwrap_or("");
            each(errors, &path.child("values").index(i), text, names::label_value(text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(errors: ErrorList) -> Vec<String> {
        errors.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn names_and_namespaces() {
        let found = texts(check(&json!({"metadata": {}}), true, NameRule::DnsSubdomain));
        assert_eq!(
            found,
            [
                "metadata.name: Required value: name or generateName is required",
                "metadata.namespace: Required value"
            ]
        );
        let bad = json!({"metadata": {"name": "A", "generateName": "a-", "namespace": "x"}});
        let found = texts(check(&bad, false, NameRule::DnsLabel));
        assert_eq!(found.len(), 2);
        assert!(found[0].starts_with("metadata.name: Invalid value: \"A\": a lowercase RFC 1123 label"));
        assert_eq!(found[1], "metadata.namespace: Forbidden: not allowed on this type");
    }

    #[test]
    fn conditions_are_whole() {
        let whole = json!({"type": "Ready", "status": "True", "reason": "AsIs", "lastTransitionTime": "t"});
        let mut errors = ErrorList::new();
        conditions(&mut errors, &[whole, json!({"type": "Ready", "reason": "a b"})], &Path::new("c"));
        let found = texts(errors);
        assert_eq!(found[0], "c[1].type: Duplicate value: \"Ready\"");
        assert_eq!(
            found[1],
            "c[1].status: Unsupported value: \"\": supported values: \"False\", \"True\", \"Unknown\""
        );
        assert_eq!(found[2], "c[1].lastTransitionTime: Required value");
        assert!(found[3].starts_with("c[1].reason: Invalid value: \"a b\": a condition reason must start"));
    }

    #[test]
    fn updates() {
        let old =
            json!({"metadata": {"name": "a", "uid": "1", "deletionTimestamp": "t", "finalizers": ["a/b"]}});
        let new = json!({"metadata": {"name": "a", "uid": "2", "deletionTimestamp": "t", "finalizers": ["a/b", "c/d"]}});
        assert_eq!(
            texts(check_update(&new, &old)),
            [
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"c/d\"}",
                "metadata.resourceVersion: Invalid value: \"\": must be specified for an update",
                "metadata.uid: Invalid value: \"2\": field is immutable",
            ]
        );
    }
}
