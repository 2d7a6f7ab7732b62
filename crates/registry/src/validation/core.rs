//! The remaining core kinds: namespaces, nodes, config maps, secrets, controllers, quotas.

use api::names;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

use super::resources::{self, Names, amount};
use super::{ErrorKind, ErrorList, FieldError, Path, Report, pod, scheduling, service, shown};
use crate::tree::Tree;

/// The most bytes that a ConfigMap's or Secret's values may have together.
const DATA_MAX: usize = 1 << 20;

/// A finalizer without a domain must be one of ours.
pub fn plain_finalizer(errors: &mut ErrorList, name: &str, path: &Path) {
    if !name.contains('/') && !matches!(name, "kubernetes" | "orphan" | "foregroundDeletion") {
        let detail = "name is neither a standard finalizer name nor is it fully qualified";
        errors.invalid(path, name, detail);
    }
}

/// A namespace.
pub fn namespace(ns: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec").child("finalizers");
    for name in ns.list("spec.finalizers").iter().filter_map(Value::as_str) {
        errors.messages(&path, name, names::qualified_name(name));
        plain_finalizer(&mut errors, name, &path);
    }
    errors
}

/// A namespace's `/status`.
pub fn namespace_status(ns: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (phase, path) = (ns.text("status.phase"), Path::new("status").child("Phase"));
    if !ns.has("metadata.deletionTimestamp") {
        if phase != "Active" {
            errors.invalid(&path, phase, "may only be 'Active' if `deletionTimestamp` is empty");
        }
    } else if phase != "Terminating" {
        errors.invalid(&path, phase, "may only be 'Terminating' if `deletionTimestamp` is not empty");
    }
    errors
}

/// A namespace's `/finalize`.
pub fn namespace_finalize(ns: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    for (i, name) in ns.list("spec.finalizers").iter().filter_map(Value::as_str).enumerate() {
        let path = Path::new("spec").child("finalizers").index(i);
        errors.messages(&path, name, names::qualified_name(name));
        plain_finalizer(&mut errors, name, &path);
    }
    errors
}

/// A new node.
pub fn node(node: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    taints(&mut errors, node);
    node_resources(&mut errors, node);
    declared_features(&mut errors, node);
    let path = Path::new("spec").child("podCIDRs");
    let ranges: Vec<&str> = node.list("spec.podCIDRs").iter().filter_map(Value::as_str).collect();
    for (i, range) in ranges.iter().enumerate() {
        service::cidr(&mut errors, range, &path.index(i));
    }
    let wrong = ranges.iter().position(|r| r.parse::<ipnet::IpNet>().is_err());
    if let (Some(i), true) = (wrong, ranges.len() > 1) {
        let range = ranges[i];
        let detail = format!(
            "invalid PodCIDRs. failed to check with dual stack with error:invalid CIDR[{i}]: <nil> (invalid CIDR address: {range})"
        );
        errors.push(FieldError::internal(&path, detail));
    }
    let of = |v6: bool| ranges.iter().filter(|r| r.contains(':') == v6).count();
    if of(true) > 1 || of(false) > 1 {
        let detail = "may specify no more than one CIDR for each IP family";
        errors.invalid(&path, node.at("spec.podCIDRs").clone(), detail);
    }
    errors
}

fn taints(errors: &mut ErrorList, node: &Value) {
    // Upstream reports taints under metadata.
    let path = Path::new("metadata").child("taints");
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (i, taint) in node.list("spec.taints").iter().enumerate() {
        let at = path.index(i);
        let (key, effect, value) = (taint.text("key"), taint.text("effect"), taint.text("value"));
        errors.messages(&at.child("key"), key, names::qualified_name(key));
        let messages = names::label_value(value);
        if !messages.is_empty() {
            errors.invalid(&at.child("value"), value, messages.join(";"));
        }
        errors.required_one_of(&at.child("effect"), effect, scheduling::EFFECTS);
        if seen.contains(&(key, effect)) {
            let text = shown::text(taint, shown::TAINT);
            let detail = "taints must be unique by key and effect pair";
            shown::report(errors, ErrorKind::Duplicate, &at, text, detail);
            continue;
        }
        seen.push((key, effect));
    }
}

fn node_resources(errors: &mut ErrorList, node: &Value) {
    for list in ["capacity", "allocatable"] {
        for (name, quantity) in node.at("status").map(list) {
            let path = Path::new("status").child(list).child(name);
            resources::value(errors, &path, name, quantity);
        }
    }
}

/// Features that an agent says it has: sorted, each named once.
fn declared_features(errors: &mut ErrorList, node: &Value) {
    const FORM: &str = "must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes";
    let path = Path::new("status").child("declaredFeatures");
    let all: Vec<&str> = node.list("status.declaredFeatures").iter().filter_map(Value::as_str).collect();
    for (i, name) in all.iter().enumerate() {
        let segment = |text: &str| {
            text.starts_with(|c: char| c.is_ascii_alphabetic())
                && text.chars().all(|c| c.is_ascii_alphanumeric())
        };
        let good = name.starts_with(|c: char| c.is_ascii_uppercase()) && name.split('/').all(segment);
        if name.len() > 253 {
            let detail = format!("invalid feature name {name:?}: must be no more than 253 characters");
            errors.invalid(&path.index(i), *name, detail);
        } else if !good {
            errors.invalid(&path.index(i), *name, format!("invalid feature name {name:?}: {FORM}"));
        }
        match all.get(i + 1) {
            Some(next) if next == name => errors.duplicate(&path.index(i + 1), *next),
            Some(next) if next < name => {
                errors.invalid(&path.index(i + 1), *next, "list must be sorted alphabetically");
            }
            _ => {}
        }
    }
}

/// An update of a node through the main resource.
pub fn node_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = node(new);
    errors.extend(node_change(new, old));
    errors
}

/// What no update of a node may do, its status included.
pub fn node_change(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    node_resources(&mut errors, new);
    declared_features(&mut errors, new);
    let addresses = new.list("status.addresses");
    for (i, address) in addresses.iter().enumerate() {
        if addresses[..i].contains(address) {
            let path = Path::new("status").child("addresses").index(i);
            let text = shown::text(address, &[("Type", "\"\""), ("Address", "\"\"")]);
            shown::report(&mut errors, ErrorKind::Duplicate, &path, text, "");
        }
    }
    let (now, was) = (new.list("spec.podCIDRs"), old.list("spec.podCIDRs"));
    if !was.is_empty() && now != was {
        let path = Path::new("spec").child("podCIDRs");
        let changes =
            if now.len() == was.len() { was.iter().zip(now).filter(|(a, b)| a != b).count() } else { 1 };
        for _ in 0..changes {
            errors.forbidden(&path, "node updates may not change podCIDR except from \"\" to valid");
        }
    }
    let provider = old.text("spec.providerID");
    if !provider.is_empty() && provider != new.text("spec.providerID") {
        let path = Path::new("spec").child("providerID");
        errors.forbidden(&path, "node updates may not change providerID except from \"\" to valid");
    }
    taints(&mut errors, new);
    if new.at("spec.externalID") != old.at("spec.externalID") {
        errors.forbidden(&Path::new("spec").child("externalID"), "may not be updated");
    }
    errors
}

/// A ConfigMap.
pub fn config_map(cm: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut size = 0;
    for (key, value) in cm.map("data") {
        let path = Path::new("data").key(key);
        errors.messages(&path, key, names::config_map_key(key));
        if cm.map("binaryData").contains_key(key) {
            errors.invalid(&path, key.as_str(), "duplicate of key present in binaryData");
        }
        size += value.as_str().map_or(0, str::len);
    }
    for (key, value) in cm.map("binaryData") {
        errors.messages(&Path::new("binaryData").key(key), key, names::config_map_key(key));
        size += decoded_len(value);
    }
    if size > DATA_MAX {
        errors.push(FieldError::too_long(&Path::new("[]"), DATA_MAX));
    }
    errors
}

/// Bytes that a base64 text stands for.
fn decoded_len(value: &Value) -> usize {
    let text = value.as_str().unwrap_or("");
    (text.len() / 4 * 3).saturating_sub(text.bytes().rev().take_while(|b| *b == b'=').count())
}

/// `immutable` data stays.
fn immutable_data(errors: &mut ErrorList, new: &Value, old: &Value, fields: &[&str]) {
    const WHY: &str = "field is immutable when `immutable` is set";
    if !old.flag("immutable") {
        return;
    }
    if !new.flag("immutable") {
        errors.forbidden(&Path::new("immutable"), WHY);
    }
    for field in fields.iter().filter(|f| new.at(f) != old.at(f)) {
        errors.forbidden(&Path::new(field), WHY);
    }
}

/// An update of a ConfigMap.
pub fn config_map_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    immutable_data(&mut errors, new, old, &["data", "binaryData"]);
    errors.extend(config_map(new));
    errors
}

/// A Secret: key names, size, and what its type asks for.
pub fn secret(s: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("data");
    let data = s.map("data");
    let mut size = 0;
    for (key, value) in data {
        errors.messages(&path.key(key), key, names::config_map_key(key));
        size += decoded_len(value);
    }
    if size > DATA_MAX {
        errors.push(FieldError::too_long(&path, DATA_MAX));
    }
    let need = |errors: &mut ErrorList, keys: &[&str]| {
        for key in keys.iter().filter(|k| !data.contains_key(**k)) {
            errors.required(&path.key(key), "");
        }
    };
    match s.text("type") {
        "kubernetes.io/service-account-token" => {
            const NAME: &str = "kubernetes.io/service-account.name";
            let name = s.map("metadata.annotations").get(NAME).and_then(Value::as_str);
            if name.is_none_or(str::is_empty) {
                errors.required(&Path::new("metadata").child("annotations").key(NAME), "");
            }
        }
        "kubernetes.io/dockercfg" => docker(&mut errors, s, ".dockercfg"),
        "kubernetes.io/dockerconfigjson" => docker(&mut errors, s, ".dockerconfigjson"),
        "kubernetes.io/basic-auth" if !data.contains_key("username") && !data.contains_key("password") => {
            need(&mut errors, &["username", "password"]);
        }
        "kubernetes.io/ssh-auth" if data.get("ssh-privatekey").is_none_or(|v| v == "") => {
            errors.required(&path.key("ssh-privatekey"), "");
        }
        "kubernetes.io/tls" => need(&mut errors, &["tls.crt", "tls.key"]),
        _ => {}
    }
    errors
}

fn docker(errors: &mut ErrorList, secret: &Value, key: &str) {
    let path = Path::new("data").key(key);
    let Some(text) = secret.map("data").get(key).and_then(Value::as_str) else {
        errors.required(&path, "");
        return;
    };
    let bytes = BASE64.decode(text).unwrap_or_default();
    const HIDDEN: &str = "<secret contents redacted>";
    match serde_json::from_slice::<Value>(&bytes) {
        Ok(Value::Object(_) | Value::Null) => {}
        Ok(other) => {
            let kind = match other {
                Value::String(_) => "string",
                Value::Number(_) => "number",
                Value::Bool(_) => "bool",
                _ => "array",
            };
            let detail =
                format!("json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}");
            errors.invalid(&path, HIDDEN, detail);
        }
        Err(_) => {
            let detail = match bytes.iter().find(|b| !b.is_ascii_whitespace()) {
                None => "unexpected end of JSON input".to_string(),
                Some(b'{') => {
                    let after = bytes.iter().skip_while(|b| b.is_ascii_whitespace()).skip(1);
                    let next = after.copied().find(|b| !b.is_ascii_whitespace());
                    match next.filter(|b| *b != b'"') {
                        Some(b) => {
                            let c = char::from(b);
                            format!("invalid character '{c}' looking for beginning of object key string")
                        }
                        None => "unexpected end of JSON input".to_string(),
                    }
                }
                Some(b) => {
                    format!("invalid character '{}' looking for beginning of value", char::from(*b))
                }
            };
            errors.invalid(&path, HIDDEN, detail);
        }
    }
}

/// An update of a Secret.
pub fn secret_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    errors.immutable(&Path::new("type"), new.at("type"), old.at("type"));
    immutable_data(&mut errors, new, old, &["data"]);
    errors.extend(secret(new));
    errors
}

/// A PodTemplate.
pub fn pod_template(template: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    pod::template(&mut errors, template.at("template"), &Path::new("template"));
    errors
}

/// A ReplicationController.
pub fn replication_controller(rc: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, path) = (rc.at("spec"), Path::new("spec"));
    errors.non_negative(&path.child("minReadySeconds"), spec.int("minReadySeconds"));
    let selector = spec.map("selector");
    if selector.is_empty() {
        errors.required(&path.child("selector"), "");
    }
    match spec.at("replicas").as_i64() {
        None => errors.required(&path.child("replicas"), ""),
        Some(n) => errors.non_negative(&path.child("replicas"), n),
    }
    let (template, at) = (spec.at("template"), path.child("template"));
    if template.is_null() {
        errors.required(&at, "");
        return errors;
    }
    let labels = template.map("metadata.labels");
    if selector.iter().any(|(k, v)| labels.get(k) != Some(v)) {
        let detail = "`selector` does not match template `labels`";
        errors.invalid(&at.child("metadata.labels"), template.at("metadata.labels").clone(), detail);
    }
    pod::template(&mut errors, template, &at);
    always_restarts(&mut errors, template, &at, "ReplicationController");
    errors
}

/// Pods of this controller restart always and have no deadline.
pub fn always_restarts(errors: &mut ErrorList, template: &Value, path: &Path, kind: &str) {
    let policy = template.text("spec.restartPolicy");
    errors.one_of(&path.child("spec.restartPolicy"), policy, &["Always"]);
    if template.has("spec.activeDeadlineSeconds") {
        let detail = format!("activeDeadlineSeconds in {kind} is not Supported");
        errors.forbidden(&path.child("spec.activeDeadlineSeconds"), detail);
    }
}

/// Counts in a replica controller's status (ReplicaSet and ReplicationController).
pub fn replica_status(object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (status, path) = (object.at("status"), Path::new("status"));
    let counts =
        ["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration"];
    for field in counts {
        errors.non_negative(&path.child(field), status.int(field));
    }
    errors.non_negative(&path.child("terminatingReplicas"), status.int("terminatingReplicas"));
    for field in ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"] {
        if status.int(field) > status.int("replicas") {
            let detail = "cannot be greater than status.replicas";
            errors.invalid(&path.child(field), status.int(field), detail);
        }
    }
    if status.int("availableReplicas") > status.int("readyReplicas") {
        let at = path.child("availableReplicas");
        errors.invalid(&at, status.int("availableReplicas"), "cannot be greater than readyReplicas");
    }
    errors
}

/// A LimitRange.
pub fn limit_range(range: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec").child("limits");
    let mut seen: Vec<&str> = Vec::new();
    for (i, limit) in range.list("spec.limits").iter().enumerate() {
        let at = path.index(i);
        let ty = limit.text("type");
        let messages = names::qualified_name(ty);
        let standard = ["Pod", "Container", "PersistentVolumeClaim"];
        if messages.is_empty() && !ty.contains('/') && !standard.contains(&ty) {
            let detail = "must be a standard limit type or fully qualified";
            errors.invalid(&at.child("type"), ty, detail);
        }
        errors.messages(&at.child("type"), ty, messages);
        if seen.contains(&ty) {
            errors.duplicate(&at.child("type"), ty);
        }
        seen.push(ty);
        limit_names(&mut errors, limit, &at);
        limit_values(&mut errors, limit, &at);
    }
    errors
}

fn limit_names(errors: &mut ErrorList, limit: &Value, path: &Path) {
    let ty = limit.text("type");
    let which = if matches!(ty, "Pod" | "Container") { Names::Container } else { Names::Any };
    for list in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
        let at = path.child(list);
        let map = limit.map(list);
        if ty == "Pod" && list.starts_with("default") {
            if !map.is_empty() {
                errors.forbidden(&at, "may not be specified when `type` is 'Pod'");
            }
            continue;
        }
        map.keys().for_each(|name| resources::name(errors, &at.key(name), name, which));
    }
    let storage = |list: &str| limit.map(list).contains_key("storage");
    if ty == "PersistentVolumeClaim" && !storage("min") && !storage("max") {
        let detail = "either minimum or maximum storage value is required, but neither was provided";
        errors.required(&path.child("limits"), detail);
    }
}

fn limit_values(errors: &mut ErrorList, limit: &Value, path: &Path) {
    let lists = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];
    let mut keys: Vec<&String> = lists.iter().flat_map(|l| limit.map(l).keys()).collect();
    keys.sort();
    keys.dedup();
    for key in keys {
        let get = |list: &str| limit.map(list).get(key).and_then(amount);
        // (smaller, larger, where it is reported, what is shown, text)
        let orders = [
            ("min", "max", "min", "min", "min value {} is greater than max value {}"),
            (
                "min",
                "defaultRequest",
                "defaultRequest",
                "defaultRequest",
                "min value {} is greater than default request value {}",
            ),
            (
                "defaultRequest",
                "max",
                "defaultRequest",
                "defaultRequest",
                "default request value {} is greater than max value {}",
            ),
            (
                "defaultRequest",
                "default",
                "defaultRequest",
                "defaultRequest",
                "default request value {} is greater than default limit value {}",
            ),
            ("min", "default", "default", "min", "min value {} is greater than default value {}"),
            ("default", "max", "default", "max", "default value {} is greater than max value {}"),
        ];
        for (low, high, at, shown, text) in orders {
            let (Some(low), Some(high)) = (get(low), get(high)) else { continue };
            if low > high {
                let detail = text.replacen("{}", &low.to_string(), 1).replacen("{}", &high.to_string(), 1);
                let shown = limit.map(shown).get(key).cloned().unwrap_or_default();
                errors.invalid(&path.child(at).key(key), shown, detail);
            }
        }
        let at = path.child("maxLimitRequestRatio").key(key);
        if let Some(ratio) = get("maxLimitRequestRatio") {
            if ratio.as_f64() < 1.0 {
                errors.invalid(&at, ratio.to_string(), format!("ratio {ratio} is less than 1"));
            }
            if let (Some(min), Some(max)) = (get("min"), get("max")) {
                let most = max.as_f64() / min.as_f64();
                if ratio.as_f64() > most {
                    let detail = format!("ratio {ratio} is greater than max/min = {most:.6}");
                    errors.invalid(&at, ratio.to_string(), detail);
                }
            }
        }
    }
}

const SCOPES: &[&str] = &[
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];

/// Resources whose quota is a count, or storage.
const COUNTED: &[&str] = &[
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "requests.storage",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];

/// Whether a quota of this scope can count this resource; names of other quotas pass.
fn scope_fits(scope: &str, resource: &str) -> bool {
    let compute = matches!(
        resource,
        "cpu"
            | "memory"
            | "ephemeral-storage"
            | "limits.cpu"
            | "limits.memory"
            | "limits.ephemeral-storage"
            | "requests.cpu"
            | "requests.memory"
            | "requests.ephemeral-storage"
    );
    let known = compute
        || resource.starts_with("hugepages-")
        || resource.starts_with("requests.hugepages-")
        || COUNTED.contains(&resource);
    match scope {
        _ if !known => true,
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => matches!(resource, "persistentvolumeclaims" | "requests.storage"),
        s if SCOPES.contains(&s) => resource == "pods" || compute,
        _ => true,
    }
}

/// A ResourceQuota.
pub fn resource_quota(quota: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    quantities(&mut errors, quota.at("spec"), "hard", &path);
    let at = path.child("scopes");
    let scopes: Vec<&str> = quota.list("spec.scopes").iter().filter_map(Value::as_str).collect();
    let shown = quota.at("spec.scopes").clone();
    for scope in &scopes {
        if !SCOPES.contains(scope) {
            errors.invalid(&at, shown.clone(), "unsupported scope");
        }
        for _ in quota.map("spec.hard").keys().filter(|r| !scope_fits(scope, r)) {
            errors.invalid(&at, shown.clone(), "unsupported scope applied to resource");
        }
    }
    conflicts(&mut errors, &scopes, &shown, &at);
    scope_selector(&mut errors, quota, &path.child("scopeSelector.matchExpressions"));
    errors
}

fn conflicts(errors: &mut ErrorList, scopes: &[&str], shown: &Value, path: &Path) {
    for pair in [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]] {
        if pair.iter().all(|s| scopes.contains(s)) {
            errors.invalid(path, shown.clone(), "conflicting scopes");
        }
    }
}

fn quantities(errors: &mut ErrorList, part: &Value, list: &str, path: &Path) {
    for (name, quantity) in part.map(list) {
        let at = path.child(list).key(name);
        resources::name(errors, &at, name, Names::Quota);
        resources::value(errors, &at, name, quantity);
    }
}

fn scope_selector(errors: &mut ErrorList, quota: &Value, path: &Path) {
    let mut scopes: Vec<&str> = Vec::new();
    for rule in quota.list("spec.scopeSelector.matchExpressions") {
        let (scope, operator) = (rule.text("scopeName"), rule.text("operator"));
        if !SCOPES.contains(&scope) {
            errors.invalid(&path.child("scopeName"), scope, "unsupported scope");
        }
        for _ in quota.map("spec.hard").keys().filter(|r| !scope_fits(scope, r)) {
            let shown = quota.at("spec.scopeSelector").clone();
            errors.invalid(path, shown, "unsupported scope applied to resource");
        }
        let flag = !matches!(scope, "PriorityClass" | "VolumeAttributesClass") && SCOPES.contains(&scope);
        if flag && operator != "Exists" {
            let detail = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
            errors.invalid(&path.child("operator"), operator, detail);
        }
        let values = rule.list("values");
        match operator {
            "In" | "NotIn" if values.is_empty() => {
                let detail =
                    "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                errors.required(&path.child("values"), detail);
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail =
                    "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                errors.invalid(&path.child("values"), rule.at("values").clone(), detail);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
        }
        scopes.push(scope);
    }
    conflicts(errors, &scopes, quota.at("spec.scopes"), path);
}

/// An update of a ResourceQuota.
pub fn resource_quota_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = resource_quota(new);
    let set = |q: &Value| {
        let mut all: Vec<String> = q.list("spec.scopes").iter().map(Value::to_string).collect();
        all.sort();
        all
    };
    if set(new) != set(old) {
        let path = Path::new("spec").child("scopes");
        errors.invalid(&path, new.at("spec.scopes").clone(), super::IMMUTABLE);
    }
    errors
}

/// A ResourceQuota's `/status`.
pub fn resource_quota_status(quota: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    for list in ["hard", "used"] {
        quantities(&mut errors, quota.at("status"), list, &Path::new("status"));
    }
    errors
}
