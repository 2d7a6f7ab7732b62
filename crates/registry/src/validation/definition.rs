//! CustomResourceDefinitions: names, versions, columns, subresources and conversion. Schemas have a
//! file of their own.

use api::names;
use serde_json::Value;

use super::meta::NameRule;
use super::{ErrorList, FieldError, Path, Report, admission, schema};
use crate::tree::Tree;

const COLUMN_TYPES: &[&str] = &["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: &[&str] =
    &["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];

/// The value that all versions set alike. Upstream's internal form has it once, outside of the
/// versions, and names that place in messages.
fn shared<'a>(spec: &'a Value, field: &str) -> Option<&'a Value> {
    let versions = spec.list("versions");
    let first = versions.first()?.at(field);
    let set = match first {
        Value::Array(list) => !list.is_empty(),
        other => !other.is_null(),
    };
    (set && versions.iter().all(|v| v.at(field) == first)).then_some(first)
}

/// A new definition, or the new form of an old one.
pub fn definition(crd: &Value, old: Option<&Value>) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, path) = (crd.at("spec"), Path::new("spec"));
    let full = format!("{}.{}", spec.text("names.plural"), spec.text("group"));
    for field in ["generateName", "name"] {
        let text = crd.at("metadata").text(field);
        let at = Path::new("metadata").child(field);
        if old.is_none() && !text.is_empty() {
            errors.messages(&at, text, NameRule::DnsSubdomain.check(text, field == "generateName"));
            if text != full {
                errors.invalid(&at, text, "must be spec.names.plural+\".\"+spec.group");
            }
        }
    }
    group(&mut errors, spec.text("group"), &path.child("group"));
    errors.required_one_of(&path.child("scope"), spec.text("scope"), &["Cluster", "Namespaced"]);
    if spec.flag("preserveUnknownFields") && !old.is_some_and(|o| o.flag("spec.preserveUnknownFields")) {
        let detail = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.invalid(&path.child("preserveUnknownFields"), true, detail);
    }
    versions(&mut errors, spec, &path);
    let at = path.child("names");
    for field in ["plural", "singular", "kind", "listKind"] {
        errors.required_text(&at, spec.at("names"), field);
    }
    all_names(&mut errors, spec.at("names"), &at);
    top_level(&mut errors, spec, &path);
    conversion(&mut errors, spec.at("conversion"), &path.child("conversion"));
    let status = Path::new("status");
    all_names(&mut errors, crd.at("status.acceptedNames"), &status.child("acceptedNames"));
    stored_versions(&mut errors, crd, &status.child("storedVersions"));
    if let Some(old) = old {
        fixed(&mut errors, spec, old, &path);
    }
    approval(&mut errors, crd, old);
    errors
}

/// What clients are warned of: formats that mean nothing, unless the old definition had them.
pub fn warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    let unknown = |crd: &Value| -> Vec<String> {
        let versions = crd.list("spec.versions").iter();
        versions.flat_map(|version| schema::unknown_formats(version.at("schema.openAPIV3Schema"))).collect()
    };
    let known = old.map(unknown).unwrap_or_default();
    let fresh = unknown(new).into_iter().filter(|format| !known.contains(format));
    fresh.map(|format| format!("unrecognized format {format:?}")).collect()
}

/// A definition's `/status`.
pub fn status(crd: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("status").child("acceptedNames");
    all_names(&mut errors, crd.at("status.acceptedNames"), &path);
    errors
}

fn group(errors: &mut ErrorList, group: &str, path: &Path) {
    let messages = names::dns1123_subdomain(group);
    if group.is_empty() {
        errors.required(path, "");
    } else if !messages.is_empty() {
        errors.invalid(path, group, messages.join(","));
    } else if !group.contains('.') {
        errors.invalid(path, group, "should be a domain with at least one dot");
    }
}

/// What may not change, once served or ever.
fn fixed(errors: &mut ErrorList, spec: &Value, old: &Value, path: &Path) {
    let established = old
        .list("status.conditions")
        .iter()
        .any(|c| c.text("type") == "Established" && c.text("status") == "True");
    let fields = ["scope", "names.kind", "group", "names.plural"];
    for field in &fields[if established { 0 } else { 2 }..] {
        errors.immutable(&path.child(field), spec.at(field), old.at("spec").at(field));
    }
}

fn versions(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let (all, at) = (spec.list("versions"), path.child("versions"));
    for (i, version) in all.iter().enumerate() {
        let path = at.index(i);
        if !version.has("schema.openAPIV3Schema") {
            errors.required(&path.child("schema").child("openAPIV3Schema"), "");
        }
        let name = version.text("name");
        let messages = names::dns1035_label(name);
        if !messages.is_empty() {
            errors.invalid(&path.child("name"), name, messages.join(","));
            if i == 0 && !name.is_empty() {
                // The first version is also what upstream's internal form has as the version.
                errors.invalid(&Path::new("spec").child("version"), name, messages.join(","));
            }
        }
        deprecation(errors, version, &path.child("deprecationWarning"));
        if shared(spec, "schema").is_none() {
            let has_status = version.has("subresources.status");
            schema::root(errors, version.at("schema.openAPIV3Schema"), has_status, &path.child("schema"));
        }
        if shared(spec, "subresources").is_none() {
            subresources(errors, version.at("subresources"), &path.child("subresources"));
        }
        if shared(spec, "additionalPrinterColumns").is_none() {
            columns(errors, version, &path);
        }
        if shared(spec, "selectableFields").is_none() {
            selectable(errors, version, version, &path);
        }
    }
    let shown = spec.at("versions").clone();
    if all.iter().enumerate().any(|(i, v)| all[..i].iter().any(|o| o.text("name") == v.text("name"))) {
        errors.invalid(&at, shown.clone(), "must contain unique version names");
    }
    if all.iter().filter(|v| v.flag("storage")).count() != 1 {
        errors.invalid(&at, shown, "must have exactly one version marked as storage version");
    }
}

/// What all versions share.
fn top_level(errors: &mut ErrorList, spec: &Value, path: &Path) {
    if let Some(schema) = shared(spec, "schema") {
        let has_status = spec.list("versions").iter().any(|v| v.has("subresources.status"));
        schema::root(errors, schema.at("openAPIV3Schema"), has_status, &path.child("validation"));
    }
    if let Some(value) = shared(spec, "subresources") {
        subresources(errors, value, &path.child("subresources"));
    }
    if let (Some(_), Some(version)) =
        (shared(spec, "additionalPrinterColumns"), spec.list("versions").first())
    {
        columns(errors, version, path);
    }
    if let (Some(_), Some(version)) = (shared(spec, "selectableFields"), spec.list("versions").first()) {
        selectable(errors, version, version, path);
    }
}

fn deprecation(errors: &mut ErrorList, version: &Value, path: &Path) {
    let Some(warning) = version.at("deprecationWarning").as_str() else { return };
    if !version.flag("deprecated") {
        errors.invalid(path, warning, "can only be set for deprecated versions");
        return;
    }
    if warning.len() > 256 {
        errors.invalid(path, warning, "must be <= 256 characters long");
    }
    if warning.is_empty() {
        errors.invalid(path, warning, "must not be an empty string");
    }
    if let Some((i, _)) = warning.char_indices().find(|(_, c)| c.is_control()) {
        let detail = format!(
            "must only contain printable UTF-8 characters; non-printable character found at index {i}"
        );
        errors.invalid(path, warning, detail);
    }
}

fn all_names(errors: &mut ErrorList, given: &Value, path: &Path) {
    const MIXED: &str = "may have mixed case, but should otherwise match: ";
    for (field, mixed) in [("plural", false), ("singular", false), ("kind", true), ("listKind", true)] {
        let text = given.text(field);
        let messages = names::dns1035_label(&if mixed { text.to_lowercase() } else { text.to_string() });
        if !text.is_empty() && !messages.is_empty() {
            let before = if mixed { MIXED } else { "" };
            errors.invalid(&path.child(field), text, format!("{before}{}", messages.join(",")));
        }
    }
    for list in ["shortNames", "categories"] {
        for (i, text) in given.list(list).iter().filter_map(Value::as_str).enumerate() {
            let messages = names::dns1035_label(text);
            if !messages.is_empty() {
                errors.invalid(&path.child(list).index(i), text, messages.join(","));
            }
        }
    }
    let kind = given.text("kind");
    if !kind.is_empty() && kind == given.text("listKind") {
        errors.invalid(&path.child("listKind"), kind, "kind and listKind may not be the same");
    }
}

fn simple_path(errors: &mut ErrorList, text: &str, path: &Path) -> bool {
    let good = text.starts_with('.');
    if !good {
        errors.invalid(path, text, "must be a simple json path starting with .");
    }
    good
}

fn subresources(errors: &mut ErrorList, given: &Value, path: &Path) {
    if !given.has("scale") {
        return;
    }
    for (field, under) in [("specReplicasPath", "spec"), ("statusReplicasPath", "status")] {
        let (text, at) = (given.at("scale").text(field), path.child("scale").child(field));
        if text.is_empty() {
            errors.required(&at, "");
        } else if simple_path(errors, text, &at) && !text.starts_with(&format!(".{under}.")) {
            errors.invalid(&at, text, format!("should be a json path under .{under}"));
        }
    }
    let text = given.text("scale.labelSelectorPath");
    let at = path.child("scale").child("labelSelectorPath");
    if !text.is_empty()
        && simple_path(errors, text, &at)
        && !text.starts_with(".spec.")
        && !text.starts_with(".status.")
    {
        errors.invalid(&at, text, "should be a json path under either .spec or .status");
    }
}

fn columns(errors: &mut ErrorList, version: &Value, path: &Path) {
    for (i, column) in version.list("additionalPrinterColumns").iter().enumerate() {
        let path = path.child("additionalPrinterColumns").index(i);
        errors.required_text(&path, column, "name");
        let (ty, at) = (column.text("type"), path.child("type"));
        let detail = format!("must be one of {}", COLUMN_TYPES.join(","));
        if ty.is_empty() {
            errors.required(&at, &detail);
        } else if !COLUMN_TYPES.contains(&ty) {
            errors.invalid(&at, ty, detail);
        }
        let format = column.text("format");
        if !format.is_empty() && !COLUMN_FORMATS.contains(&format) {
            let detail = format!("must be one of {}", COLUMN_FORMATS.join(","));
            errors.invalid(&path.child("format"), format, detail);
        }
        // Upstream's internal form has this name.
        let at = path.child("JSONPath");
        match column.text("jsonPath") {
            "" => errors.required(&at, ""),
            text => drop(simple_path(errors, text, &at)),
        }
    }
}

fn selectable(errors: &mut ErrorList, version: &Value, schemas: &Value, path: &Path) {
    let path = path.child("selectableFields");
    let all = version.list("selectableFields");
    for (i, field) in all.iter().enumerate() {
        let (text, at) = (field.text("jsonPath"), path.index(i).child("jsonPath"));
        if text.is_empty() {
            errors.required(&at, "");
            continue;
        }
        let node = match schema::field_path(text, schemas.at("schema.openAPIV3Schema"), false) {
            Ok(node) => node,
            Err(why) => {
                errors.invalid(&at, text, format!("is an invalid path: {why}"));
                continue;
            }
        };
        if text.starts_with(".metadata.") {
            errors.invalid(&at, text, "must not point to fields in metadata");
        }
        if !matches!(node.text("type"), "string" | "boolean" | "integer") {
            let detail = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
            errors.invalid(&at, text, detail);
        }
        if all[..i].iter().any(|f| f.text("jsonPath") == text) {
            errors.duplicate(&at, text);
        }
    }
    if all.len() > 8 {
        errors.push(FieldError::too_many(&path, all.len(), 8));
    }
}

fn conversion(errors: &mut ErrorList, given: &Value, path: &Path) {
    if given.is_null() {
        return;
    }
    let strategy = given.text("strategy");
    errors.required_one_of(&path.child("strategy"), strategy, &["None", "Webhook"]);
    // Upstream's internal form has no `webhook` in between.
    let (config_at, versions_at) =
        (path.child("webhookClientConfig"), path.child("conversionReviewVersions"));
    let config = given.at("webhook.clientConfig");
    let versions: Vec<&str> =
        given.list("webhook.conversionReviewVersions").iter().filter_map(Value::as_str).collect();
    if strategy != "Webhook" {
        let detail = "should not be set when strategy is not set to Webhook";
        if !config.is_null() {
            errors.forbidden(&config_at, detail);
        }
        if !versions.is_empty() {
            errors.forbidden(&versions_at, detail);
        }
        return;
    }
    if config.is_null() {
        errors.required(&config_at, "required when strategy is set to Webhook");
    } else {
        admission::client_config(errors, config, &config_at);
    }
    if versions.is_empty() {
        errors.required(&versions_at, "");
        return;
    }
    for (i, version) in versions.iter().enumerate() {
        if versions[..i].contains(version) {
            errors.invalid(&versions_at.index(i), *version, "duplicate version");
        } else {
            errors.messages(&versions_at.index(i), version, names::dns1035_label(version));
        }
    }
    if !versions.iter().any(|v| matches!(*v, "v1" | "v1beta1")) {
        let shown = given.at("webhook.conversionReviewVersions").clone();
        errors.invalid(&versions_at, shown, "must include at least one of v1, v1beta1");
    }
}

fn stored_versions(errors: &mut ErrorList, crd: &Value, path: &Path) {
    let stored: Vec<&str> = crd.list("status.storedVersions").iter().filter_map(Value::as_str).collect();
    let shown = Value::from(stored.clone());
    if stored.is_empty() {
        errors.invalid(path, Value::Null, "must have at least one stored version");
        return;
    }
    let versions = crd.list("spec.versions");
    for version in versions.iter().filter(|v| v.flag("storage") && !stored.contains(&v.text("name"))) {
        let detail = format!("must have the storage version {}", version.text("name"));
        errors.invalid(path, shown.clone(), detail);
    }
    for (i, name) in stored.iter().enumerate() {
        if !versions.iter().any(|v| v.text("name") == *name) {
            let detail = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
            );
            errors.invalid(&path.index(i), *name, detail);
        }
    }
}

/// Groups of the project need its approval.
fn approval(errors: &mut ErrorList, crd: &Value, old: Option<&Value>) {
    const KEY: &str = "api-approved.kubernetes.io";
    let group = crd.text("spec.group");
    let protected =
        ["k8s.io", "kubernetes.io"].into_iter().any(|g| group == g || group.ends_with(&format!(".{g}")));
    let note = |crd: &Value| {
        crd.map("metadata.annotations").get(KEY).and_then(Value::as_str).unwrap_or("").to_string()
    };
    let state = |text: &str| match text {
        "" => 0,
        t if t.starts_with("unapproved") => 1,
        t if t.contains("://") => 2,
        _ => 3,
    };
    let text = note(crd);
    if !protected || old.is_some_and(|old| state(&note(old)) == state(&text)) {
        return;
    }
    let at = Path::new("metadata").child("annotations").key(KEY);
    match state(&text) {
        0 => {
            let detail = "protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111";
            errors.required(&at, detail);
        }
        3 => {
            let detail = "protected groups must have approval annotation \"api-approved.kubernetes.io\" with either a URL or a reason starting with \"unapproved\", see https://github.com/kubernetes/enhancements/pull/1111";
            errors.invalid(&at, text, detail);
        }
        _ => {}
    }
}
