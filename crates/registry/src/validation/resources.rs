//! Compute resources: names, amounts, requests against limits.

use std::collections::BTreeSet;

use api::{Quantity, names};
use serde_json::Value;

use super::{ErrorList, FieldError, NEGATIVE, Path, Report};
use crate::tree::Tree;

const CONTAINER: &[&str] = &["cpu", "memory", "ephemeral-storage"];
const STANDARD: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "storage",
    "requests.storage",
    "services.nodeports",
    "services.loadbalancers",
];
const QUOTA: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
];
/// Amounts of these are whole numbers.
const WHOLE: &[&str] = &[
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

/// Whether the name is that of huge pages.
pub fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// A resource of the default namespace: no prefix, or one of kubernetes.io.
pub fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// A resource that a device plugin brought: `example.com/thing`.
pub fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && names::qualified_name(&format!("requests.{name}")).is_empty()
}

/// Whether more may be promised than there is.
pub fn may_overcommit(name: &str) -> bool {
    is_native(name) && !is_huge_page(name)
}

fn is_whole(name: &str) -> bool {
    WHOLE.contains(&name) || is_extended(name)
}

/// What a resource name may be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// In a container.
    Container,
    /// For a whole pod.
    Pod,
    /// In a quota.
    Quota,
    /// Anything standard or qualified.
    Any,
}

/// Checks a resource's name.
pub fn name(errors: &mut ErrorList, path: &Path, name: &str, which: Names) {
    let before = errors.0.len();
    errors.messages(path, name, names::qualified_name(name));
    let bare = !name.contains('/');
    let quota_extra = |n: &str| n.starts_with("requests.hugepages-") || n.starts_with("limits.hugepages-");
    if errors.0.len() == before
        && bare
        && !STANDARD.contains(&name)
        && !is_huge_page(name)
        && !quota_extra(name)
    {
        errors.invalid(path, name, "must be a standard resource type or fully qualified");
        if which == Names::Pod {
            return;
        }
    }
    match which {
        Names::Container if bare && !CONTAINER.contains(&name) && !is_huge_page(name) => {
            errors.invalid(path, name, "must be a standard resource for containers");
        }
        Names::Container if !bare && !is_native(name) && !is_extended(name) => {
            errors.invalid(path, name, "doesn't follow extended resource name standard");
        }
        Names::Pod
            if errors.0.len() == before && !matches!(name, "cpu" | "memory") && !is_huge_page(name) =>
        {
            errors.push(FieldError::not_supported(path, name, &["cpu", "hugepages-", "memory"]));
        }
        Names::Quota if bare && !QUOTA.contains(&name) && !is_huge_page(name) && !quota_extra(name) => {
            errors.invalid(path, name, "must be a standard resource for quota");
        }
        _ => {}
    }
}

/// The amount at a value, when it is one.
pub fn amount(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.to_string().parse().ok(),
        _ => None,
    }
}

/// Checks an amount: not negative, whole where only whole ones make sense.
pub fn value(errors: &mut ErrorList, path: &Path, name: &str, value: &Value) {
    let Some(quantity) = amount(value) else { return };
    if quantity.is_negative() {
        errors.invalid(path, quantity.to_string(), NEGATIVE);
    }
    if is_whole(name) && !quantity.is_integer() {
        errors.invalid(path, quantity.to_string(), "must be an integer");
    }
}

fn huge_page_value(errors: &mut ErrorList, path: &Path, name: &str, value: &Value) {
    let size = name.strip_prefix("hugepages-").and_then(|s| s.parse::<Quantity>().ok());
    let (Some(size), Some(have)) = (size, amount(value)) else { return };
    if size.value() == 0 || have.value() % size.value() != 0 {
        let detail = format!("{have} is not positive integer multiple of {name}");
        errors.invalid(path, have.to_string(), detail);
    }
}

/// Checks `resources` of a container or of a whole pod.
pub fn requirements(
    errors: &mut ErrorList,
    path: &Path,
    resources: &Value,
    which: Names,
    claims: &BTreeSet<String>,
) {
    let (limits_path, requests_path) = (path.child("limits"), path.child("requests"));
    let (limits, requests) = (resources.map("limits"), resources.map("requests"));
    for (key, quantity) in limits {
        one(errors, &limits_path.key(key), key, quantity, which);
    }
    for (key, quantity) in requests {
        one(errors, &requests_path.key(key), key, quantity, which);
        let Some(request) = amount(quantity) else { continue };
        match limits.get(key).and_then(amount) {
            Some(limit) if request != limit && !may_overcommit(key) => {
                let detail = format!("must be equal to {key} limit of {limit}");
                errors.invalid(&requests_path, request.to_string(), detail);
            }
            Some(limit) if request > limit => {
                let detail = format!("must be less than or equal to {key} limit of {limit}");
                errors.invalid(&requests_path, request.to_string(), detail);
            }
            None if !may_overcommit(key) => {
                errors.required(&limits_path, "Limit must be set for non overcommitable resources");
            }
            _ => {}
        }
    }
    let all = || limits.keys().chain(requests.keys());
    if all().any(|k| is_huge_page(k)) && !all().any(|k| k == "cpu" || k == "memory") {
        errors.forbidden(path, "HugePages require cpu or memory");
    }
    claim_names(errors, &path.child("claims"), resources.list("claims"), claims);
}

fn one(errors: &mut ErrorList, path: &Path, key: &str, quantity: &Value, which: Names) {
    name(errors, path, key, which);
    value(errors, path, key, quantity);
    if is_huge_page(key) {
        huge_page_value(errors, path, key, quantity);
    }
}

fn claim_names(errors: &mut ErrorList, path: &Path, claims: &[Value], known: &BTreeSet<String>) {
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for (i, claim) in claims.iter().enumerate() {
        let path = path.index(i);
        let (name, request) = (claim.text("name"), claim.text("request"));
        if name.is_empty() {
            errors.required(&path, "");
            continue;
        }
        let key = if request.is_empty() { name.to_string() } else { format!("{name}/{request}") };
        if seen.contains(name) {
            errors.duplicate(&path, name);
        } else {
            if !request.is_empty() {
                errors.messages(&path.child("request"), request, names::dns1123_label(request));
            }
            if seen.contains(&key) {
                errors.duplicate(&path, key.clone());
            } else if request.is_empty() && seen.iter().any(|k| k.split('/').next() == Some(name)) {
                errors.duplicate(&path, name);
            }
            seen.insert(key);
        }
        if !known.contains(name) {
            let mut error = FieldError::not_found(&path, name);
            let all: Vec<&str> = known.iter().map(String::as_str).collect();
            error.detail = "must be one of the names in pod.spec.resourceClaims".into();
            error.detail += &match all.is_empty() {
                true => " which is empty".to_string(),
                false => format!(": {}", all.join(", ")),
            };
            errors.push(error);
        }
    }
}
