//! Values as upstream's messages show them where it shows a struct of its own: with Go's field
//! names, in Go's order, and with the fields that are not set.

use serde_json::Value;

use super::{ErrorKind, ErrorList, FieldError, Path};
use crate::tree::Tree;

/// The fields of a struct in order: Go's name, and how its zero value shows.
type Shape = &'static [(&'static str, &'static str)];

pub(crate) const TAINT: Shape =
    &[("Key", "\"\""), ("Value", "\"\""), ("Effect", "\"\""), ("TimeAdded", "null")];

pub(crate) const TOLERATION: Shape = &[
    ("Key", "\"\""),
    ("Operator", "\"\""),
    ("Value", "\"\""),
    ("Effect", "\"\""),
    ("TolerationSeconds", "null"),
];

pub(crate) const BUDGET: Shape = &[
    ("MinAvailable", "null"),
    ("Selector", "null"),
    ("MaxUnavailable", "null"),
    ("UnhealthyPodEvictionPolicy", "null"),
];

pub(crate) const POD_CLAIM: Shape =
    &[("Name", "\"\""), ("ResourceClaimName", "null"), ("ResourceClaimTemplateName", "null")];

pub(crate) const SERVICE_PORT: Shape = &[
    ("Name", "\"\""),
    ("Protocol", "\"\""),
    ("AppProtocol", "null"),
    ("Port", "0"),
    ("TargetPort", "0"),
    ("NodePort", "0"),
];

pub(crate) const ROLE_REF: Shape = &[("APIGroup", "\"\""), ("Kind", "\"\""), ("Name", "\"\"")];

pub(crate) const RULE: Shape = &[
    ("Rule", "\"\""),
    ("Message", "\"\""),
    ("MessageExpression", "\"\""),
    ("Reason", "null"),
    ("FieldPath", "\"\""),
    ("OptionalOldSelf", "null"),
];

pub(crate) const ROLLING_SET: Shape = &[("Partition", "0"), ("MaxUnavailable", "null")];

const ROLLING: Shape = &[("MaxUnavailable", "null"), ("MaxSurge", "null")];

/// The object as a struct of that shape.
pub(crate) fn text(object: &Value, shape: Shape) -> String {
    let field = |(name, zero): &(&str, &str)| {
        // An abbreviation at the start is lower-cased as a whole, as in `apiGroup`.
        let length = if name.starts_with("API") { 3 } else { 1 };
        let (first, rest) = name.split_at(length);
        let value = object.at(&format!("{}{rest}", first.to_lowercase()));
        let shown = if value.is_null() { (*zero).to_string() } else { value.to_string() };
        format!("\"{name}\":{shown}")
    };
    let fields: Vec<String> = shape.iter().map(field).collect();
    format!("{{{}}}", fields.join(","))
}

/// The strategy of a deployment or daemon set.
pub(crate) fn strategy(strategy: &Value) -> String {
    let rolling = match strategy.at("rollingUpdate") {
        Value::Null => "null".to_string(),
        rolling => text(rolling, ROLLING),
    };
    format!("{{\"Type\":{},\"RollingUpdate\":{rolling}}}", strategy.at("type"))
}

/// A label selector.
pub(crate) fn selector(selector: &Value) -> String {
    let field = |name: &str| match selector.at(name) {
        Value::Null => None,
        Value::Array(rules) => {
            let rules: Vec<String> = rules.iter().map(requirement).collect();
            Some(format!("\"{name}\":[{}]", rules.join(",")))
        }
        value => Some(format!("\"{name}\":{value}")),
    };
    let fields: Vec<String> = ["matchLabels", "matchExpressions"].into_iter().filter_map(field).collect();
    format!("{{{}}}", fields.join(","))
}

fn requirement(rule: &Value) -> String {
    let values = match rule.at("values") {
        Value::Null => String::new(),
        values => format!(",\"values\":{values}"),
    };
    let quoted = |field: &str| Value::from(rule.text(field));
    format!("{{\"key\":{},\"operator\":{}{values}}}", quoted("key"), quoted("operator"))
}

/// A list of owners.
pub(crate) fn owners(owners: &[Value]) -> String {
    let owner = |owner: &Value| {
        let fields: Vec<String> = ["apiVersion", "kind", "name", "uid", "controller", "blockOwnerDeletion"]
            .into_iter()
            .filter(|f| owner.has(f))
            .map(|f| format!("\"{f}\":{}", owner.at(f)))
            .collect();
        format!("{{{}}}", fields.join(","))
    };
    let all: Vec<String> = owners.iter().map(owner).collect();
    format!("[{}]", all.join(","))
}

/// An object's metadata: upstream has no names of its own for these.
pub(crate) fn meta(meta: &Value) -> String {
    const FIELDS: &[&str] = &[
        "name",
        "generateName",
        "namespace",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "labels",
        "annotations",
        "ownerReferences",
        "finalizers",
        "managedFields",
    ];
    const ENTRY: &[&str] =
        &["manager", "operation", "apiVersion", "time", "fieldsType", "fieldsV1", "subresource"];
    let of = |value: &Value, names: &[&str], one: &dyn Fn(&str, &Value) -> String| {
        let fields: Vec<String> = names
            .iter()
            .filter(|name| value.has(name))
            .map(|name| format!("\"{name}\":{}", one(name, value.at(name))))
            .collect();
        format!("{{{}}}", fields.join(","))
    };
    of(meta, FIELDS, &|name, value| match (name, value) {
        ("ownerReferences", Value::Array(all)) => owners(all),
        ("managedFields", Value::Array(all)) => {
            let all: Vec<String> = all.iter().map(|e| of(e, ENTRY, &|_, value| value.to_string())).collect();
            format!("[{}]", all.join(","))
        }
        (_, value) => value.to_string(),
    })
}

/// Adds an error about a value that shows as `text`.
pub(crate) fn report(errors: &mut ErrorList, kind: ErrorKind, path: &Path, text: String, detail: &str) {
    // Go's encoder writes these three so, for HTML's sake.
    let text = text.replace('&', "\\u0026").replace('<', "\\u003c").replace('>', "\\u003e");
    errors.push(FieldError { kind, path: path.clone(), value: Some(text), detail: detail.into() });
}
