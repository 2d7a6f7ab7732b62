//! Where a pod may run: affinity, tolerations, topology spread, node selectors.

use api::names;
use serde_json::Value;

use super::meta::selector;
use super::{ErrorList, Path, Report, each};
use crate::tree::Tree;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

fn label_name(errors: &mut ErrorList, path: &Path, name: &str) {
    errors.messages(path, name, names::qualified_name(name));
}

/// `spec.affinity`.
pub fn affinity(errors: &mut ErrorList, affinity: &Value, path: &Path) {
    let node = affinity.at("nodeAffinity");
    let node_path = path.child("nodeAffinity");
    if node.has(REQUIRED) {
        node_selector(errors, node.at(REQUIRED), &node_path.child(REQUIRED));
    }
    for (i, term) in node.list(PREFERRED).iter().enumerate() {
        let path = node_path.child(PREFERRED).index(i);
        weight(errors, term, &path);
        node_term(errors, term.at("preference"), &path.child("preference"), false);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let (terms, path) = (affinity.at(kind), path.child(kind));
        for (i, term) in terms.list(REQUIRED).iter().enumerate() {
            pod_term(errors, term, &path.child(REQUIRED).index(i));
        }
        for (i, term) in terms.list(PREFERRED).iter().enumerate() {
            let path = path.child(PREFERRED).index(i);
            weight(errors, term, &path);
            pod_term(errors, term.at("podAffinityTerm"), &path.child("podAffinityTerm"));
        }
    }
}

fn weight(errors: &mut ErrorList, term: &Value, path: &Path) {
    let weight = term.int("weight");
    if !(1..=100).contains(&weight) {
        errors.invalid(&path.child("weight"), weight, "must be in the range 1-100");
    }
}

/// A core/v1 NodeSelector.
pub fn node_selector(errors: &mut ErrorList, selector: &Value, path: &Path) {
    let path = path.child("nodeSelectorTerms");
    let terms = selector.list("nodeSelectorTerms");
    if terms.is_empty() {
        errors.required(&path, "must have at least one node selector term");
    }
    for (i, term) in terms.iter().enumerate() {
        node_term(errors, term, &path.index(i), true);
    }
}

fn node_term(errors: &mut ErrorList, term: &Value, path: &Path, check_values: bool) {
    for (i, rule) in term.list("matchExpressions").iter().enumerate() {
        node_rule(errors, rule, &path.child("matchExpressions").index(i), check_values);
    }
    for (i, rule) in term.list("matchFields").iter().enumerate() {
        field_rule(errors, rule, &path.child("matchFields").index(i));
    }
}

fn node_rule(errors: &mut ErrorList, rule: &Value, path: &Path, check_values: bool) {
    let values = rule.list("values");
    let at = path.child("values");
    match rule.text("operator") {
        "In" | "NotIn" => {
            if values.is_empty() {
                errors.required(&at, "must be specified when `operator` is 'In' or 'NotIn'");
            }
        }
        "Exists" | "DoesNotExist" => {
            if !values.is_empty() {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.forbidden(&at, detail);
            }
        }
        "Gt" | "Lt" => {
            if values.len() != 1 {
                errors.required(&at, "must be specified single value when `operator` is 'Lt' or 'Gt'");
            }
        }
        other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
    }
    label_name(errors, &path.child("key"), rule.text("key"));
    if check_values {
        for (i, value) in values.iter().filter_map(Value::as_str).enumerate() {
            errors.messages(&at.index(i), value, names::label_value(value));
        }
    }
}

fn field_rule(errors: &mut ErrorList, rule: &Value, path: &Path) {
    let values = rule.list("values");
    match rule.text("operator") {
        "In" | "NotIn" => {
            if values.len() != 1 {
                let detail =
                    "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                errors.required(&path.child("values"), detail);
            }
        }
        other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
    }
    if rule.text("key") != "metadata.name" {
        errors.invalid(&path.child("key"), rule.text("key"), "not a valid field selector key");
        return;
    }
    for (i, value) in values.iter().filter_map(Value::as_str).enumerate() {
        errors.messages(&path.child("values").index(i), value, names::dns1123_subdomain(value));
    }
}

fn pod_term(errors: &mut ErrorList, term: &Value, path: &Path) {
    for field in ["labelSelector", "namespaceSelector"] {
        selector(errors, term.at(field), &path.child(field));
    }
    for namespace in term.list("namespaces").iter().filter_map(Value::as_str) {
        errors.messages(&path.child("namespace"), namespace, names::dns1123_label(namespace));
    }
    label_keys(errors, term, path);
    let (key, at) = (term.text("topologyKey"), path.child("topologyKey"));
    if key.is_empty() {
        errors.required(&at, "can not be empty");
    }
    label_name(errors, &at, key);
}

/// matchLabelKeys and mismatchLabelKeys of an affinity term or a spread constraint. The keys are
/// merged into the selector on create, so only a second requirement on the same key is a conflict.
fn label_keys(errors: &mut ErrorList, term: &Value, path: &Path) {
    for field in ["matchLabelKeys", "mismatchLabelKeys"] {
        let (keys, at) = (term.list(field), path.child(field));
        if keys.is_empty() {
            continue;
        }
        if !term.has("labelSelector") {
            errors.forbidden(&at, "must not be specified when labelSelector is not set");
            continue;
        }
        for (i, key) in keys.iter().filter_map(Value::as_str).enumerate() {
            label_name(errors, &at.index(i), key);
        }
    }
    let matched = term.list("matchLabelKeys");
    let mut seen: Vec<&str> = term.map("labelSelector.matchLabels").keys().map(String::as_str).collect();
    for rule in term.list("labelSelector.matchExpressions") {
        let key = rule.text("key");
        if let Some(i) = matched.iter().rposition(|k| k == key)
            && seen.contains(&key)
        {
            errors.invalid(&path.index(i), key, "exists in both matchLabelKeys and labelSelector");
        }
        seen.push(key);
    }
    for (i, key) in matched.iter().enumerate() {
        if term.list("mismatchLabelKeys").contains(key) {
            let at = path.child("matchLabelKeys").index(i);
            errors.invalid(&at, key.clone(), "exists in both matchLabelKeys and mismatchLabelKeys");
        }
    }
}

/// Effects of taints.
pub const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// `spec.tolerations`.
pub fn tolerations(errors: &mut ErrorList, tolerations: &[Value], path: &Path) {
    for (i, toleration) in tolerations.iter().enumerate() {
        let path = path.index(i);
        let (key, operator) = (toleration.text("key"), toleration.text("operator"));
        let (value, effect) = (toleration.text("value"), toleration.text("effect"));
        let at = path.child("operator");
        if !key.is_empty() {
            label_name(errors, &path.child("key"), key);
        } else if operator != "Exists" {
            let detail =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.invalid(&at, operator, detail);
        }
        if toleration.has("tolerationSeconds") && effect != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.invalid(&path.child("effect"), effect, detail);
        }
        match operator {
            "" | "Equal" => {
                let messages = names::label_value(value);
                if !messages.is_empty() {
                    errors.invalid(&at, value, messages.join(";"));
                }
            }
            "Exists" => {
                if !value.is_empty() {
                    errors.invalid(&at, value, "value must be empty when `operator` is 'Exists'");
                }
            }
            "Lt" | "Gt" => {
                let all = ["Equal", "Exists", "Lt", "Gt"];
                errors.push(super::FieldError::not_supported(&at, operator, &all));
            }
            other => errors.one_of(&at, other, &["Equal", "Exists"]),
        }
        if !effect.is_empty() {
            errors.one_of(&path.child("effect"), effect, EFFECTS);
        }
    }
}

/// `spec.topologySpreadConstraints`.
pub fn spread(errors: &mut ErrorList, constraints: &[Value], path: &Path) {
    for (i, constraint) in constraints.iter().enumerate() {
        let path = path.index(i);
        errors.positive(&path.child("maxSkew"), constraint.int("maxSkew"));
        let (key, action) = (constraint.text("topologyKey"), constraint.text("whenUnsatisfiable"));
        if key.is_empty() {
            errors.required(&path.child("topologyKey"), "can not be empty");
        }
        errors.one_of(&path.child("whenUnsatisfiable"), action, &["DoNotSchedule", "ScheduleAnyway"]);
        let again = constraints[i + 1..]
            .iter()
            .any(|c| c.text("topologyKey") == key && c.text("whenUnsatisfiable") == action);
        if again {
            let at = path.child("{topologyKey, whenUnsatisfiable}");
            errors.duplicate(&at, format!("{{{key}, {action}}}"));
        }
        if let Some(domains) = constraint.at("minDomains").as_i64() {
            let at = path.child("minDomains");
            errors.positive(&at, domains);
            if action != "DoNotSchedule" {
                let detail =
                    format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
                errors.invalid(&at, domains, detail);
            }
        }
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            if constraint.has(field) {
                errors.one_of(&path.child(field), constraint.text(field), &["Honor", "Ignore"]);
            }
        }
        label_keys(errors, constraint, &path);
        selector(errors, constraint.at("labelSelector"), &path.child("labelSelector"));
    }
}

/// Qualified names in a list of objects (`conditionType` of readiness gates, say).
pub fn qualified(errors: &mut ErrorList, path: &Path, name: &str) {
    each(errors, path, name, names::qualified_name(name));
}
