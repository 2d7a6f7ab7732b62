//! Which requests a webhook or policy is about: rules, equivalent versions, selectors. It must not know what
//! follows from a match.

use std::sync::Arc;

use registry::Resource;
use registry::tree::Tree;
use serde_json::Value;
use store::Key;

use super::Review;
use crate::object;

/// The group of admission's own configuration, which admission never judges.
pub const GROUP: &str = "admissionregistration.k8s.io";

/// The row as which a webhook or policy sees the object: the request's own, or (unless the match policy is
/// Exact) another version of the same storage. `None` when no rule fits.
pub fn row(review: &Review<'_>, rules: &[Value], match_policy: &str, name: &str) -> Option<Arc<Resource>> {
    let own = &review.served.row;
    let wants = |row: &Resource| rules.iter().any(|rule| rule_matches(rule, review, row, name));
    if wants(own) {
        return Some(own.clone());
    }
    if match_policy == "Exact" || own.storage.is_none() {
        return None;
    }
    let catalog = review.server.rows.now();
    catalog.rows().iter().find(|row| row.storage == own.storage && wants(row)).cloned()
}

/// The name that rules with `resourceNames` look at.
pub fn name<'a>(review: &'a Review<'_>, object: &'a Value, old: Option<&'a Value>) -> &'a str {
    let of = |tree: &'a Value| Some(tree.text("metadata.name")).filter(|name| !name.is_empty());
    of(object).or_else(|| of(old?)).unwrap_or(&review.name)
}

fn has(list: &[Value], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

fn rule_matches(rule: &Value, review: &Review<'_>, row: &Resource, name: &str) -> bool {
    // Namespaces count as cluster-scoped, as their own namespace is only their name.
    let scope = match rule.text("scope") {
        "Namespaced" => row.namespaced,
        "Cluster" => !row.namespaced,
        _ => true,
    };
    let resource = rule.list("resources").iter().filter_map(Value::as_str).any(|wanted| {
        let (plural, sub) = wanted.split_once('/').unwrap_or((wanted, ""));
        let plural = plural == "*" || plural == row.plural;
        match (wanted, review.subresource.as_str()) {
            ("*/*", _) => true,
            (_, "") => plural && sub.is_empty(),
            (_, own) => plural && (sub == "*" || sub == own),
        }
    });
    let names = rule.list("resourceNames");
    scope
        && resource
        && has(rule.list("operations"), review.operation.as_str())
        && has(rule.list("apiGroups"), &row.group)
        && has(rule.list("apiVersions"), &row.version)
        && (names.is_empty() || names.iter().any(|wanted| wanted == name))
}

fn selects(selector: &Value, labels: &Value) -> bool {
    let selector = serde_json::from_value(selector.clone()).unwrap_or_default();
    let selector = api::labels::Selector::from_object(Some(&selector)).unwrap_or_default();
    selector.matches_with(|key| labels.get(key).and_then(Value::as_str))
}

fn is_empty(selector: &Value) -> bool {
    selector.as_object().is_none_or(serde_json::Map::is_empty)
}

/// Whether `namespaceSelector` and `objectSelector` of the owner select the request.
pub fn selected(review: &Review<'_>, owner: &Value, object: &Value, old: Option<&Value>) -> bool {
    let by_namespace = owner.at("namespaceSelector");
    if !is_empty(by_namespace)
        && let Some(labels) = namespace_labels(review, object, old)
        && !selects(by_namespace, &labels)
    {
        return false;
    }
    let by_object = owner.at("objectSelector");
    let fits = |tree: &Value| tree.is_object() && selects(by_object, tree.at("metadata.labels"));
    is_empty(by_object) || fits(object) || old.is_some_and(fits)
}

/// Labels of the request's namespace; `None` for what is in none and is none.
fn namespace_labels(review: &Review<'_>, object: &Value, old: Option<&Value>) -> Option<Value> {
    if review.is("", "namespaces") {
        let none = Value::Null;
        let tree = if object.is_object() { object } else { old.unwrap_or(&none) };
        return Some(tree.at("metadata.labels").clone());
    }
    if review.namespace.is_empty() {
        return None;
    }
    Some(namespace(review).at("metadata.labels").clone())
}

/// The request's namespace; null when it is gone, or when the request is about a namespace.
pub fn namespace(review: &Review<'_>) -> Value {
    if review.namespace.is_empty() || review.is("", "namespaces") {
        return Value::Null;
    }
    let key = Key::new("namespaces", "", review.namespace.as_str());
    review.server.store.get(&key).map_or(Value::Null, |stored| object::tree(&stored))
}
