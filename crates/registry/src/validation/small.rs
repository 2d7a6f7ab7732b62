//! API services, flow control, and what never changes in claims of devices.

use api::names;
use serde_json::Value;

use super::{ErrorList, Path, Report};
use crate::tree::Tree;

/// An APIService.
pub fn api_service(object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, path) = (object.at("spec"), Path::new("spec"));
    let (group, version, name) = (spec.text("group"), spec.text("version"), object.text("metadata.name"));
    let wanted = format!("{version}.{group}");
    for (field, text) in [("generateName", object.text("metadata.generateName")), ("name", name)] {
        if !text.is_empty() && text != wanted && names::path_segment(text).is_empty() {
            let detail = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
            errors.invalid(&Path::new("metadata").child(field), text, detail);
        }
    }
    if group.is_empty() && version != "v1" {
        let detail = "only v1 may have an empty group and it better be legacy kube";
        errors.required(&path.child("group"), detail);
    }
    if !group.is_empty() {
        errors.messages(&path.child("group"), group, names::dns1123_subdomain(group));
    }
    errors.messages(&path.child("version"), version, names::dns1035_label(version));
    for (field, most) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1_000)] {
        let n = spec.int(field);
        if n <= 0 || n > most {
            errors.invalid(&path.child(field), n, format!("must be positive and less than {most}"));
        }
    }
    let (insecure, bundle) = (spec.flag("insecureSkipTLSVerify"), spec.text("caBundle"));
    let at = path.child("insecureSkipTLSVerify");
    if !spec.has("service") {
        if !bundle.is_empty() {
            let bytes = bundle.trim_end_matches('=').len() * 3 / 4;
            let detail = "local APIServices may not have a caBundle";
            errors.invalid(&path.child("caBundle"), format!("{bytes} bytes"), detail);
        }
        if insecure {
            errors.invalid(&at, true, "local APIServices may not have insecureSkipTLSVerify");
        }
        return errors;
    }
    let service = path.child("service");
    for field in ["namespace", "name"] {
        errors.required_text(&service, spec.at("service"), field);
    }
    let port = spec.int("service.port");
    let messages = names::port_number(port);
    if !messages.is_empty() {
        let detail = format!("port is not valid: {}", messages.join(", "));
        errors.invalid(&service.child("port"), port, detail);
    }
    if insecure && !bundle.is_empty() {
        errors.invalid(&at, true, "may not be true if caBundle is present");
    }
    errors
}

/// The status of an APIService.
pub fn api_service_status(object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("status").child("conditions");
    for (i, condition) in object.list("status.conditions").iter().enumerate() {
        let at = path.index(i).child("status");
        errors.one_of(&at, condition.text("status"), &["True", "False", "Unknown"]);
    }
    errors
}

/// A FlowSchema.
pub fn flow_schema(object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, path) = (object.at("spec"), Path::new("spec"));
    let (precedence, at) = (spec.int("matchingPrecedence"), path.child("matchingPrecedence"));
    if precedence <= 0 {
        errors.invalid(&at, precedence, "must be a positive value");
    }
    if precedence > 10_000 {
        errors.invalid(&at, precedence, "must not be greater than 10000");
    }
    if precedence == 1 && object.text("metadata.name") != "exempt" {
        errors.invalid(&at, 1, "only the schema named 'exempt' may have matchingPrecedence 1");
    }
    if spec.has("distinguisherMethod") {
        let at = path.child("distinguisherMethod").child("type");
        errors.one_of(&at, spec.text("distinguisherMethod.type"), &["ByNamespace", "ByUser"]);
    }
    let (level, at) =
        (spec.text("priorityLevelConfiguration.name"), path.child("priorityLevelConfiguration"));
    if level.is_empty() {
        errors.required(&at.child("name"), "must reference a priority level");
    } else {
        errors.messages(&at.child("name"), level, names::dns1123_subdomain(level));
    }
    for (i, rule) in spec.list("rules").iter().enumerate() {
        flow_rule(&mut errors, rule, &path.child("rules").index(i));
    }
    errors.extend(conditions(object));
    errors
}

/// The conditions of a flow schema or priority level.
pub fn conditions(object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("status").child("conditions");
    let all = object.list("status.conditions");
    for (i, condition) in all.iter().enumerate() {
        let (ty, at) = (condition.text("type"), path.index(i).child("type"));
        if all[..i].iter().any(|c| c.text("type") == ty) {
            errors.duplicate(&at, ty);
        }
        if ty.is_empty() {
            errors.required(&at, "");
        }
    }
    errors
}

fn flow_rule(errors: &mut ErrorList, rule: &Value, path: &Path) {
    let subjects = rule.list("subjects");
    if subjects.is_empty() {
        errors.required(&path.child("subjects"), "subjects must contain at least one value");
    }
    for (i, subject) in subjects.iter().enumerate() {
        flow_subject(errors, subject, &path.child("subjects").index(i));
    }
    let (resources, urls) = (rule.list("resourceRules"), rule.list("nonResourceRules"));
    if resources.is_empty() && urls.is_empty() {
        errors.required(path, "at least one of resourceRules and nonResourceRules has to be non-empty");
    }
    for (i, rule) in resources.iter().enumerate() {
        let path = path.child("resourceRules").index(i);
        verbs(errors, rule, &path);
        lone_star(
            errors,
            rule,
            "apiGroups",
            "api groups",
            "resource rules must supply at least one api group",
            &path,
        );
        lone_star(
            errors,
            rule,
            "resources",
            "resources",
            "resource rules must supply at least one resource",
            &path,
        );
        let namespaces = rule.list("namespaces");
        if !namespaces.is_empty() || !rule.flag("clusterScope") {
            let none = "resource rules that are not cluster scoped must supply at least one namespace";
            lone_star(errors, rule, "namespaces", "namespaces", none, &path);
        }
        if namespaces.iter().any(|n| n == "*") {
            continue;
        }
        for (i, name) in namespaces.iter().filter_map(Value::as_str).enumerate() {
            for message in names::dns1123_label(name) {
                let detail = format!("each member of this list must be '*' or a DNS-1123 label; {message}");
                errors.invalid(&path.child("namespaces").index(i), name, detail);
            }
        }
    }
    for (i, rule) in urls.iter().enumerate() {
        let path = path.child("nonResourceRules").index(i);
        verbs(errors, rule, &path);
        let none = "nonResourceURLs must contain at least one value";
        lone_star(errors, rule, "nonResourceURLs", "non-resource URLs", none, &path);
        let urls: Vec<&str> = rule.list("nonResourceURLs").iter().filter_map(Value::as_str).collect();
        for (i, url) in urls.iter().enumerate().filter(|_| !urls.contains(&"*")) {
            if let Some(why) = url_problem(url) {
                errors.invalid(&path.child("nonResourceURLs").index(i), *url, why);
            }
        }
    }
}

fn url_problem(url: &str) -> Option<&'static str> {
    let stars = url.matches('*').count();
    match url {
        "" => Some("must not be empty"),
        "/" => None,
        _ if !url.starts_with('/') => Some("must start with slash"),
        _ if url.contains(' ') => Some("must not contain white-space"),
        _ if url.contains("//") => Some("must not contain double slash"),
        _ if stars > 1 || (stars == 1 && !url.ends_with("/*")) => {
            Some("wildcard can only do suffix matching")
        }
        _ => None,
    }
}

fn lone_star(errors: &mut ErrorList, rule: &Value, field: &str, what: &str, none: &str, path: &Path) {
    let (all, at) = (rule.list(field), path.child(field));
    if all.is_empty() {
        errors.required(&at, none);
    } else if all.len() > 1 && all.iter().any(|v| v == "*") {
        let detail = format!("if '*' is present, must not specify other {what}");
        errors.invalid(&at, rule.at(field).clone(), detail);
    }
}

fn verbs(errors: &mut ErrorList, rule: &Value, path: &Path) {
    const VERBS: &[&str] =
        &["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];
    lone_star(errors, rule, "verbs", "verbs", "verbs must contain at least one value", path);
    let all: Vec<&str> = rule.list("verbs").iter().filter_map(Value::as_str).collect();
    if !all.contains(&"*") && all.iter().any(|v| !VERBS.contains(v)) {
        let shown = rule.at("verbs").clone();
        errors.push(super::FieldError::not_supported(&path.child("verbs"), shown, VERBS));
    }
}

fn flow_subject(errors: &mut ErrorList, subject: &Value, path: &Path) {
    const KINDS: [(&str, &str); 3] =
        [("Group", "group"), ("ServiceAccount", "serviceAccount"), ("User", "user")];
    let kind = subject.text("kind");
    let Some((_, own)) = KINDS.iter().find(|(k, _)| *k == kind) else {
        errors.one_of(&path.child("kind"), kind, &["Group", "ServiceAccount", "User"]);
        return;
    };
    for (other, field) in KINDS.iter().filter(|(k, f)| *k != kind && subject.has(f)) {
        errors.forbidden(
            &path.child(field),
            format!("{field} is forbidden when subject kind is not '{other}'"),
        );
    }
    let (given, at) = (subject.at(own), path.child(own));
    if given.is_null() {
        errors.required(&at, &format!("{own} is required when subject kind is '{kind}'"));
        return;
    }
    errors.required_text(&at, given, "name");
    if kind != "ServiceAccount" {
        return;
    }
    let (name, namespace) = (given.text("name"), given.text("namespace"));
    if !name.is_empty() && name != "*" {
        errors.messages(&at.child("name"), name, names::dns1123_subdomain(name));
    }
    if namespace.is_empty() {
        errors.required(&at.child("namespace"), "must specify namespace for service account");
    } else {
        errors.messages(&at.child("namespace"), namespace, names::dns1123_label(namespace));
    }
}

/// A PriorityLevelConfiguration.
pub fn priority_level(object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, path) = (object.at("spec"), Path::new("spec"));
    let ty = spec.text("type");
    if (object.text("metadata.name") == "exempt") != (ty == "Exempt") {
        errors.invalid(&path.child("type"), ty, "must be 'Exempt' if and only if `name` is 'exempt'");
    }
    match ty {
        "Exempt" if spec.has("limited") => {
            errors.forbidden(&path.child("limited"), "must be nil if the type is not Limited");
        }
        "Exempt" => shares(&mut errors, spec.at("exempt"), &path.child("exempt")),
        "Limited" => {
            if spec.has("exempt") {
                errors.forbidden(&path.child("exempt"), "must be nil if the type is Limited");
            }
            if spec.has("limited") {
                limited(&mut errors, spec.at("limited"), &path.child("limited"));
            } else {
                errors.required(&path.child("limited"), "must not be empty when type is Limited");
            }
        }
        _ => errors.one_of(&path.child("type"), ty, &["Exempt", "Limited"]),
    }
    errors.extend(conditions(object));
    errors
}

/// What a level has and lends.
fn shares(errors: &mut ErrorList, level: &Value, path: &Path) {
    let shares = level.int("nominalConcurrencyShares");
    if shares < 0 {
        let detail = "must be a non-negative integer";
        errors.invalid(&path.child("nominalConcurrencyShares"), shares, detail);
    }
    let lent = level.int("lendablePercent");
    if !(0..=100).contains(&lent) {
        errors.invalid(&path.child("lendablePercent"), lent, "must be between 0 and 100, inclusive");
    }
    let borrowed = level.int("borrowingLimitPercent");
    if borrowed < 0 {
        let detail = "if specified, must be a non-negative integer";
        errors.invalid(&path.child("borrowingLimitPercent"), borrowed, detail);
    }
}

fn limited(errors: &mut ErrorList, limits: &Value, path: &Path) {
    shares(errors, limits, path);
    let (answer, at) = (limits.at("limitResponse"), path.child("limitResponse"));
    let queuing = answer.at("queuing");
    match answer.text("type") {
        "Reject" if !queuing.is_null() => {
            errors
                .forbidden(&at.child("queuing"), "must be nil if limited.limitResponse.type is not Limited");
        }
        "Reject" => {}
        "Queue" if queuing.is_null() => {
            let detail = "must not be empty if limited.limitResponse.type is Limited";
            errors.required(&at.child("queuing"), detail);
        }
        "Queue" => {
            for field in ["queueLengthLimit", "queues", "handSize"] {
                let n = queuing.int(field);
                if n <= 0 {
                    errors.invalid(&at.child("queuing").child(field), n, "must be positive");
                }
            }
        }
        ty => errors.one_of(&at.child("type"), ty, &["Queue", "Reject"]),
    }
}

/// Whole specs that never change: claims of devices and their templates.
pub fn fixed_spec(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    errors.immutable(&Path::new("spec"), new.at("spec"), old.at("spec"));
    errors
}
