//! Webhook configurations, admission policies and their bindings.

use std::collections::BTreeSet;

use api::names;
use machinery::cel::{KEYWORDS, Program, Type};
use machinery::jsonpath::Template;
use machinery::policy::Names;
use serde_json::Value;

use super::{ErrorList, FieldError, Path, Report, meta};
use crate::tree::Tree;

const FAILURE: &[&str] = &["Fail", "Ignore"];
const MATCH: &[&str] = &["Equivalent", "Exact"];
const NO_EFFECTS: &[&str] = &["None", "NoneOnDryRun"];
const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const MUTABLE: &[&str] = &["*", "CONNECT", "CREATE", "UPDATE"];
const REINVOCATION: &[&str] = &["IfNeeded", "Never"];
const REVIEWS: [&str; 2] = ["v1", "v1beta1"];

/// Compiles an expression that must give one of the types; none of them means any.
pub fn compile(text: &str, names: Names<'_>, wanted: &[Type]) -> Result<Program, String> {
    let program = Program::compile(text, &names.env()).map_err(|e| format!("compilation failed: {e}"))?;
    let got = program.result_type().clone();
    // Our checker says dyn more often than cel-go does; the evaluator looks again.
    if wanted.is_empty() || got == Type::Dyn || wanted.contains(&got) {
        return Ok(program);
    }
    let name = |ty: &Type| if *ty == Type::Null { "null_type".to_string() } else { ty.to_string() };
    let all: Vec<String> = wanted.iter().map(name).collect();
    Err(match &all[..] {
        [one] => format!("must evaluate to {one} but got {got}"),
        _ => format!("must evaluate to one of [{}] but got {got}", all.join(" ")),
    })
}

fn expression(errors: &mut ErrorList, path: &Path, text: &str, names: Names<'_>, wanted: &[Type]) -> Type {
    match compile(text, names, wanted) {
        Ok(program) => program.result_type().clone(),
        Err(why) => {
            errors.invalid(path, text, why);
            Type::Dyn
        }
    }
}

fn strings<'a>(object: &'a Value, field: &str) -> Vec<&'a str> {
    object.list(field).iter().filter_map(Value::as_str).collect()
}

fn choice(errors: &mut ErrorList, object: &Value, field: &str, allowed: &[&str], path: &Path) {
    if let Some(text) = object.at(field).as_str() {
        errors.one_of(&path.child(field), text, allowed);
    }
}

fn needed_choice(errors: &mut ErrorList, object: &Value, field: &str, allowed: &[&str], path: &Path) {
    if object.at(field).is_null() {
        errors.required(&path.child(field), "");
    }
    choice(errors, object, field, allowed, path);
}

/// A rule: operations, groups, versions and resources.
fn rule(errors: &mut ErrorList, rule: &Value, path: &Path) {
    let (all, at) = (strings(rule, "operations"), path.child("operations"));
    let lone_star = |errors: &mut ErrorList, field: &str, what: &str| {
        let all = strings(rule, field);
        let at = path.child(field);
        if all.is_empty() {
            errors.required(&at, "");
        }
        if all.len() > 1 && all.contains(&"*") {
            let detail = format!("if '*' is present, must not specify other {what}");
            errors.invalid(&at, rule.at(field).clone(), detail);
        }
    };
    lone_star(errors, "operations", "operations");
    for (i, operation) in all.iter().enumerate() {
        errors.one_of(&at.index(i), operation, OPERATIONS);
    }
    lone_star(errors, "apiGroups", "API groups");
    lone_star(errors, "apiVersions", "API versions");
    let at = path.child("apiVersions");
    for (i, _) in strings(rule, "apiVersions").iter().enumerate().filter(|(_, v)| v.is_empty()) {
        errors.required(&at.index(i), "");
    }
    resources(errors, rule, &path.child("resources"));
    choice(errors, rule, "scope", &["*", "Cluster", "Namespaced"], path);
}

fn resources(errors: &mut ErrorList, rule: &Value, path: &Path) {
    let all = strings(rule, "resources");
    if all.is_empty() {
        errors.required(path, "");
    }
    let (mut of_resource, mut of_sub) = (BTreeSet::new(), BTreeSet::new());
    let mut plain = false;
    for (i, text) in all.iter().enumerate() {
        let at = path.index(i);
        if text.is_empty() {
            errors.required(&at, "");
            continue;
        }
        let Some((resource, sub)) = text.split_once('/') else {
            plain = *text != "*";
            continue;
        };
        if of_resource.contains(resource) {
            errors.invalid(&at, *text, format!("if '{resource}/*' is present, must not specify {text}"));
        }
        if of_sub.contains(sub) {
            errors.invalid(&at, *text, format!("if '*/{sub}' is present, must not specify {text}"));
        }
        if sub == "*" {
            of_resource.insert(resource);
        }
        if resource == "*" {
            of_sub.insert(sub);
        }
    }
    if all.len() > 1 && all.contains(&"*/*") {
        let detail = "if '*/*' is present, must not specify other resources";
        errors.invalid(path, rule.at("resources").clone(), detail);
    }
    if plain && all.contains(&"*") {
        let detail = "if '*' is present, must not specify other resources without subresources";
        errors.invalid(path, rule.at("resources").clone(), detail);
    }
}

/// A webhook configuration; `old` on update.
pub fn webhooks(configuration: &Value, old: Option<&Value>, mutating: bool) -> ErrorList {
    let mut errors = ErrorList::new();
    let hooks = configuration.list("webhooks");
    let before = old.map(|o| o.list("webhooks"));
    // What was wrong before may stay so.
    let held = |check: fn(&Value) -> bool| before.is_none_or(|all| all.iter().all(check));
    let no_effects = held(|h| NO_EFFECTS.contains(&h.text("sideEffects")));
    let reviewed = held(|h| h.list("admissionReviewVersions").is_empty() || recognized(h));
    let unique = before.is_none_or(|all| {
        let names: BTreeSet<&str> = all.iter().map(|h| h.text("name")).collect();
        names.len() == all.len()
    });
    let same_conditions = before.is_some_and(|all| {
        all.len() == hooks.len()
            && all.iter().zip(hooks).all(|(a, b)| a.at("matchConditions") == b.at("matchConditions"))
    });
    for (i, hook) in hooks.iter().enumerate() {
        let path = Path::new("webhooks").index(i);
        webhook(&mut errors, hook, no_effects, mutating, &path);
        if !same_conditions {
            match_conditions(&mut errors, hook, false, &path.child("matchConditions"));
        }
        review_versions(&mut errors, hook, reviewed, &path.child("admissionReviewVersions"));
        let name = hook.text("name");
        if unique && !name.is_empty() && hooks[..i].iter().any(|h| h.text("name") == name) {
            errors.duplicate(&path.child("name"), name);
        }
    }
    errors
}

fn recognized(hook: &Value) -> bool {
    strings(hook, "admissionReviewVersions").iter().any(|v| REVIEWS.contains(v))
}

fn webhook(errors: &mut ErrorList, hook: &Value, no_effects: bool, mutating: bool, path: &Path) {
    domain(errors, hook.text("name"), &path.child("name"));
    for (i, r) in hook.list("rules").iter().enumerate() {
        rule(errors, r, &path.child("rules").index(i));
    }
    choice(errors, hook, "failurePolicy", FAILURE, path);
    choice(errors, hook, "matchPolicy", MATCH, path);
    let effects: &[&str] = if no_effects { NO_EFFECTS } else { &["None", "NoneOnDryRun", "Some", "Unknown"] };
    if hook.at("sideEffects").is_null() {
        let detail = format!("must specify one of {}", effects.join(", "));
        errors.required(&path.child("sideEffects"), &detail);
    }
    choice(errors, hook, "sideEffects", effects, path);
    if let Some(seconds) = hook.at("timeoutSeconds").as_i64().filter(|s| !(1..=30).contains(s)) {
        let detail = "the timeout value must be between 1 and 30 seconds";
        errors.invalid(&path.child("timeoutSeconds"), seconds, detail);
    }
    for field in ["namespaceSelector", "objectSelector"] {
        meta::selector(errors, hook.at(field), &path.child(field));
    }
    if mutating {
        choice(errors, hook, "reinvocationPolicy", REINVOCATION, path);
    }
    client_config(errors, hook.at("clientConfig"), &path.child("clientConfig"));
}

/// A name of three parts or more.
fn domain(errors: &mut ErrorList, name: &str, path: &Path) {
    if name.is_empty() {
        errors.required(path, "");
        return;
    }
    let messages = names::dns1123_subdomain(name);
    if !messages.is_empty() {
        errors.invalid(path, name, messages.join(","));
    } else if name.split('.').count() < 3 {
        errors.invalid(path, name, "should be a domain with at least three segments separated by dots");
    }
}

/// Where a webhook is: a URL or a service.
pub(super) fn client_config(errors: &mut ErrorList, config: &Value, path: &Path) {
    match (config.at("url").as_str(), config.has("service")) {
        (Some(url), false) => webhook_url(errors, url, &path.child("url")),
        (None, true) => service(errors, config.at("service"), &path.child("service")),
        _ => errors.required(path, "exactly one of url or service is required"),
    }
}

fn webhook_url(errors: &mut ErrorList, url: &str, path: &Path) {
    const FORM: &str = "; desired format: https://host[/path]";
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    if scheme != "https" {
        errors.invalid(path, scheme, format!("'https' is the only allowed URL scheme{FORM}"));
    }
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = if scheme.is_empty() { "" } else { rest.split('/').next().unwrap_or("") };
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    if host.is_empty() {
        errors.invalid(path, "", format!("host must be specified{FORM}"));
    }
    if let Some(user) = user {
        errors.invalid(path, user, "user information is not permitted in the URL");
    }
    if !fragment.is_empty() {
        errors.invalid(path, fragment, "fragments are not permitted in the URL");
    }
    if !query.is_empty() {
        errors.invalid(path, query, "query parameters are not permitted in the URL");
    }
}

fn service(errors: &mut ErrorList, service: &Value, path: &Path) {
    // Upstream has these two the wrong way round.
    for (field, shown) in [("namespace", "name"), ("name", "namespace")] {
        if service.text(field).is_empty() {
            errors.required(&path.child(shown), "");
        }
    }
    let messages = names::port_number(service.int("port"));
    if !messages.is_empty() {
        let detail = format!("port is not valid: {}", messages.join(", "));
        errors.invalid(&path.child("port"), service.int("port"), detail);
    }
    let (text, at) = (service.text("path"), path.child("path"));
    match text {
        "" | "/" => return,
        "//" => {
            errors.invalid(&at, text, "segment[0] may not be empty");
            return;
        }
        _ => {}
    }
    if !text.starts_with('/') {
        errors.invalid(&at, text, "must start with a '/'");
    }
    let inner: String = text.chars().skip(1).collect();
    for (i, step) in inner.strip_suffix('/').unwrap_or(&inner).split('/').enumerate() {
        if step.is_empty() {
            errors.invalid(&at, text, format!("segment[{i}] may not be empty"));
            continue;
        }
        for message in names::dns1123_subdomain(step) {
            errors.invalid(&at, text, format!("segment[{i}]: {message}"));
        }
    }
}

fn review_versions(errors: &mut ErrorList, hook: &Value, must_know: bool, path: &Path) {
    let versions = strings(hook, "admissionReviewVersions");
    if versions.is_empty() {
        errors.required(path, "must specify one of v1, v1beta1");
        return;
    }
    for (i, version) in versions.iter().enumerate() {
        if versions[..i].contains(version) {
            errors.invalid(&path.index(i), *version, "duplicate version");
        } else {
            errors.messages(&path.index(i), version, names::dns1035_label(version));
        }
    }
    if must_know && !recognized(hook) {
        let shown = hook.at("admissionReviewVersions").clone();
        errors.invalid(path, shown, "must include at least one of v1, v1beta1");
    }
}

fn match_conditions(errors: &mut ErrorList, owner: &Value, params: bool, path: &Path) {
    let all = owner.list("matchConditions");
    if all.len() > 64 {
        errors.push(FieldError::too_many(path, all.len(), 64));
    }
    for (i, condition) in all.iter().enumerate() {
        let path = path.index(i);
        let (text, at) = (condition.text("expression").trim(), path.child("expression"));
        if text.is_empty() {
            errors.required(&at, "");
        } else {
            let names = Names { params, authorizer: true, variables: &[], builds: false };
            expression(errors, &at, text, names, &[Type::Bool]);
        }
        let (name, at) = (condition.text("name"), path.child("name"));
        if name.is_empty() {
            errors.required(&at, "");
            continue;
        }
        errors.messages(&at, name, names::qualified_name(name));
        if all[..i].iter().any(|c| c.text("name") == name) {
            errors.duplicate(&at, name);
        }
    }
}

/// What a policy is about: parameters and the resources it matches.
fn policy(errors: &mut ErrorList, object: &Value, old: Option<&Value>, path: &Path) {
    let spec = object.at("spec");
    needed_choice(errors, spec, "failurePolicy", FAILURE, path);
    if spec.has("paramKind") {
        param_kind(errors, spec.at("paramKind"), &path.child("paramKind"));
    }
    let (constraints, at) = (spec.at("matchConstraints"), path.child("matchConstraints"));
    if constraints.is_null() {
        errors.required(&at, "");
    } else {
        match_resources(errors, constraints, &at);
        if constraints.list("resourceRules").is_empty() {
            errors.required(&at.child("resourceRules"), "");
        }
    }
    let same = old.is_some_and(|o| {
        ["spec.paramKind", "spec.matchConditions"].into_iter().all(|f| o.at(f) == object.at(f))
    });
    if !same {
        match_conditions(errors, spec, spec.has("paramKind"), &path.child("matchConditions"));
    }
}

fn param_kind(errors: &mut ErrorList, kind: &Value, path: &Path) {
    let (version, at) = (kind.text("apiVersion"), path.child("apiVersion"));
    match version.matches('/').count() {
        0 if version.is_empty() => errors.required(&at, ""),
        0 | 1 => {
            let (group, version_part) = version.split_once('/').unwrap_or(("", version));
            let messages = names::dns1123_subdomain(group);
            if !group.is_empty() && !messages.is_empty() {
                errors.invalid(&at, group, messages.join(","));
            }
            let messages = names::dns1035_label(version_part);
            if version_part.is_empty() {
                errors.invalid(&at, version, "version must be specified");
            } else if !messages.is_empty() {
                errors.invalid(&at, version_part, messages.join(","));
            }
        }
        _ => errors.invalid(&at, version, format!("unexpected GroupVersion string: {version}")),
    }
    let (kind, at) = (kind.text("kind"), path.child("kind"));
    let messages = names::dns1035_label(&kind.to_lowercase());
    if kind.is_empty() {
        errors.required(&at, "");
    } else if !messages.is_empty() {
        let detail = format!("may have mixed case, but should otherwise match: {}", messages.join(","));
        errors.invalid(&at, kind, detail);
    }
}

fn match_resources(errors: &mut ErrorList, resources: &Value, path: &Path) {
    needed_choice(errors, resources, "matchPolicy", MATCH, path);
    for field in ["namespaceSelector", "objectSelector"] {
        if resources.has(field) {
            meta::selector(errors, resources.at(field), &path.child(field));
        } else {
            errors.required(&path.child(field), "");
        }
    }
    for list in ["resourceRules", "excludeResourceRules"] {
        for (i, r) in resources.list(list).iter().enumerate() {
            let path = path.child(list).index(i);
            let all = strings(r, "resourceNames");
            for (i, name) in all.iter().enumerate() {
                let at = path.child("resourceNames").index(i);
                errors.messages(&at, name, names::path_segment(name));
                if all[..i].contains(name) {
                    errors.duplicate(&at, *name);
                }
            }
            rule(errors, r, &path);
        }
    }
}

/// The variables of a policy with the types they have, as far as they compile.
fn variables(errors: &mut ErrorList, spec: &Value, path: &Path) -> Vec<(String, Type)> {
    let mut known: Vec<(String, Type)> = Vec::new();
    for (i, variable) in spec.list("variables").iter().enumerate() {
        let path = path.child("variables").index(i);
        let name = variable.text("name");
        let identifier = !name.starts_with(|c: char| c.is_ascii_digit())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && !KEYWORDS.contains(&name);
        if name.trim().is_empty() {
            errors.required(&path.child("name"), "name is not specified");
        } else if !identifier {
            errors.invalid(&path.child("name"), name, "must be a valid CEL identifier");
        }
        let (text, at) = (variable.text("expression"), path.child("expression"));
        let mut found = Type::Dyn;
        if text.trim().is_empty() {
            errors.required(&at, "expression is not specified");
        } else {
            let params = spec.has("paramKind");
            let names = Names { params, authorizer: true, variables: &known, builds: false };
            found = expression(errors, &at, text, names, &[]);
        }
        known.push((name.to_string(), found));
    }
    known
}

/// The status of a ValidatingAdmissionPolicy.
pub fn validating_policy_status(policy: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("status");
    let at = path.child("typeChecking").child("expressionWarnings");
    for (i, warning) in policy.list("status.typeChecking.expressionWarnings").iter().enumerate() {
        let at = at.index(i);
        errors.required_text(&at, warning, "warning");
        let (field, at) = (warning.text("fieldRef").trim(), at.child("fieldRef"));
        if field.is_empty() {
            errors.required(&at, "");
        } else if let Err(why) = Template::parse(&format!("{{{field}}}")) {
            errors.invalid(&at, field, format!("invalid JSONPath: {why}"));
        }
    }
    meta::conditions(&mut errors, policy.list("status.conditions"), &path.child("conditions"));
    errors
}

/// A ValidatingAdmissionPolicy; `old` on update.
pub fn validating_policy(object: &Value, old: Option<&Value>) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, path) = (object.at("spec"), Path::new("spec"));
    policy(&mut errors, object, old, &path);
    let known = variables(&mut errors, spec, &path);
    let params = spec.has("paramKind");
    let names = Names { params, authorizer: true, variables: &known, builds: false };
    let (validations, notes) = (spec.list("validations"), spec.list("auditAnnotations"));
    if validations.is_empty() && notes.is_empty() {
        let detail = "validations or auditAnnotations must contain at least one item";
        errors.required(&path.child("validations"), detail);
        errors.required(&path.child("auditAnnotations"), detail);
    }
    for (i, v) in validations.iter().enumerate() {
        validation(&mut errors, v, names, &path.child("validations").index(i));
    }
    let at = path.child("auditAnnotations");
    if notes.len() > 20 {
        errors.invalid(
            &at,
            spec.at("auditAnnotations").clone(),
            "must not have more than 20 auditAnnotations",
        );
    }
    for (i, note) in notes.iter().enumerate() {
        let (at, key) = (at.index(i), note.text("key"));
        let full = format!("{}/{key}", object.text("metadata.name"));
        errors.messages(&at.child("key"), &full, names::qualified_name(&full));
        let (text, value_at) = (note.text("valueExpression"), at.child("valueExpression"));
        if text.trim().is_empty() {
            errors.required(&value_at, "valueExpression is not specified");
        } else if text.trim().len() > 5 * 1024 {
            errors.required(&value_at, "must not exceed 5120 bytes in length");
        } else {
            expression(&mut errors, &value_at, text, names, &[Type::String, Type::Null]);
        }
        if notes[..i].iter().any(|n| n.text("key") == key) {
            errors.duplicate(&at.child("key"), key);
        }
    }
    errors
}

fn validation(errors: &mut ErrorList, v: &Value, names: Names<'_>, path: &Path) {
    let (text, at) = (v.text("expression"), path.child("expression"));
    if text.trim().is_empty() {
        errors.required(&at, "expression is not specified");
    } else {
        expression(errors, &at, text, names, &[Type::Bool]);
    }
    let (text, at) = (v.text("messageExpression"), path.child("messageExpression"));
    if !text.is_empty() && text.trim().is_empty() {
        errors.invalid(&at, text, "must be non-empty if specified");
    } else if !text.is_empty() {
        let names = Names { authorizer: false, ..names };
        expression(errors, &at, text, names, &[Type::String]);
    }
    let (text, at) = (v.text("message"), path.child("message"));
    if !text.is_empty() && text.trim().is_empty() {
        errors.invalid(&at, text, "must be non-empty if specified");
    } else if text.trim().contains(['\n', '\r']) {
        errors.invalid(&at, text, "must not contain line breaks");
    }
    choice(errors, v, "reason", &["Forbidden", "Invalid", "RequestEntityTooLarge"], path);
}

/// A MutatingAdmissionPolicy; `old` on update.
pub fn mutating_policy(object: &Value, old: Option<&Value>) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, path) = (object.at("spec"), Path::new("spec"));
    policy(&mut errors, object, old, &path);
    mutable(&mut errors, spec.at("matchConstraints"), &path.child("matchConstraints"));
    let known = variables(&mut errors, spec, &path);
    let params = spec.has("paramKind");
    let names = Names { params, authorizer: true, variables: &known, builds: true };
    let mutations = spec.list("mutations");
    if mutations.is_empty() {
        errors.required(&path.child("mutations"), "mutations must contain at least one item");
    }
    for (i, m) in mutations.iter().enumerate() {
        mutation(&mut errors, m, names, &path.child("mutations").index(i));
    }
    errors.required_one_of(&path.child("reinvocationPolicy"), spec.text("reinvocationPolicy"), REINVOCATION);
    errors
}

/// Deletions cannot be mutated.
fn mutable(errors: &mut ErrorList, resources: &Value, path: &Path) {
    let at = path.child("resourceRules").child("operations");
    for r in resources.list("resourceRules") {
        for operation in strings(r, "operations") {
            errors.one_of(&at, operation, MUTABLE);
        }
    }
}

fn mutation(errors: &mut ErrorList, m: &Value, names: Names<'_>, path: &Path) {
    let (own, other) = match m.text("patchType") {
        "JSONPatch" => ("jsonPatch", "applyConfiguration"),
        "ApplyConfiguration" => ("applyConfiguration", "jsonPatch"),
        ty => {
            let all = ["ApplyConfiguration", "JSONPatch"];
            errors.required_one_of(&path.child("patchType"), ty, &all);
            return;
        }
    };
    let ty = m.text("patchType");
    if !m.has(own) {
        errors.required(&path.child(own), &format!("must be specified when patchType is {ty}"));
    } else {
        let (text, at) = (m.at(own).text("expression").trim(), path.child(own).child("expression"));
        let built = |name: &str| Type::Named(name.to_string());
        if text.is_empty() {
            errors.required(&at, "");
        } else if own == "jsonPatch" {
            let patch = Type::List(Box::new(built("JSONPatch")));
            // An empty patch has no type of its own.
            if compile(text, names, &[Type::List(Box::new(Type::Dyn))]).is_err() {
                expression(errors, &at, text, names, &[patch]);
            }
        } else {
            expression(errors, &at, text, names, &[built("Object")]);
        }
    }
    if m.has(other) {
        let detail = format!("must not be specified when patchType is {ty}");
        errors.invalid(&path.child(other), format!("{{{other}}}"), detail);
    }
}

/// A binding of either kind of policy.
pub fn binding(object: &Value, mutating: bool) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, path) = (object.at("spec"), Path::new("spec"));
    let (name, at) = (spec.text("policyName"), path.child("policyName"));
    if name.is_empty() {
        errors.required(&at, "");
    } else {
        errors.messages(&at, name, names::dns1123_subdomain(name));
    }
    if spec.has("paramRef") {
        param_ref(&mut errors, spec.at("paramRef"), &path.child("paramRef"));
    }
    if spec.has("matchResources") {
        match_resources(&mut errors, spec.at("matchResources"), &path.child("matchResources"));
    }
    if mutating {
        mutable(&mut errors, spec.at("matchResources"), &path.child("matchResources"));
        return errors;
    }
    let (actions, at) = (strings(spec, "validationActions"), path.child("validationActions"));
    for (i, action) in actions.iter().enumerate() {
        errors.one_of(&at.index(i), action, &["Audit", "Deny", "Warn"]);
        if actions[..i].contains(action) {
            errors.duplicate(&at.index(i), *action);
        }
    }
    if actions.contains(&"Deny") && actions.contains(&"Warn") {
        let detail = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        errors.invalid(&at, spec.at("validationActions").clone(), detail);
    }
    if actions.is_empty() {
        errors.required(&at, "at least one validation action is required");
    }
    errors
}

fn param_ref(errors: &mut ErrorList, reference: &Value, path: &Path) {
    const ONE: &str = "name and selector are mutually exclusive";
    let (name, selector) = (reference.text("name"), reference.has("selector"));
    if !name.is_empty() {
        errors.messages(&path.child("name"), name, names::path_segment(name));
        if selector {
            errors.forbidden(&path.child("name"), ONE);
        }
    }
    if selector {
        meta::selector(errors, reference.at("selector"), &path.child("selector"));
        if !name.is_empty() {
            errors.forbidden(&path.child("selector"), ONE);
        }
    }
    if name.is_empty() && !selector {
        errors.required(path, "one of name or selector must be specified");
    }
    let action = reference.text("parameterNotFoundAction");
    errors.required_one_of(&path.child("parameterNotFoundAction"), action, &["Deny", "Allow"]);
}
