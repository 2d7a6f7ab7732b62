//! Questions about rights (pkg/apis/authorization/validation). It must not know the answers.

use api::names;
use serde_json::{Value, json};

use super::{ErrorKind, ErrorList, FieldError, Path, Report, shown};
use crate::tree::Tree;

/// A SubjectAccessReview; the question of a SelfSubjectAccessReview has no subject, that of a
/// LocalSubjectAccessReview is about its namespace.
pub fn access(review: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (kind, spec, path) = (review.text("kind"), review.at("spec"), Path::new("spec"));
    let (resource, other) = (spec.has("resourceAttributes"), spec.has("nonResourceAttributes"));
    let at = path.child("nonResourceAttributes");
    let shown_other = json!({"Path": spec.text("nonResourceAttributes.path"),
        "Verb": spec.text("nonResourceAttributes.verb")});
    if resource && other {
        let detail = "cannot be specified in combination with resourceAttributes";
        errors.invalid(&at, shown_other.clone(), detail);
    }
    if !resource && !other {
        let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        errors.invalid(&path.child("resourceAttributes"), Value::Null, detail);
    }
    let nobody = spec.text("user").is_empty() && spec.list("groups").is_empty();
    if kind != "SelfSubjectAccessReview" && nobody {
        errors.invalid(&path.child("user"), "", "at least one of user or group must be specified");
    }
    let at_resource = path.child("resourceAttributes");
    for (field, check) in
        [("fieldSelector", field_rule as fn(&mut ErrorList, &Value, &Path)), ("labelSelector", label_rule)]
    {
        selector(&mut errors, spec.at("resourceAttributes").at(field), &at_resource.child(field), check);
    }
    let local = kind == "LocalSubjectAccessReview";
    metadata(&mut errors, review.at("metadata"), local);
    if local {
        let namespace = spec.text("resourceAttributes.namespace");
        if resource && namespace != review.text("metadata.namespace") {
            let at = at_resource.child("namespace");
            errors.invalid(&at, namespace, "must match metadata.namespace");
        }
        if other {
            errors.invalid(&at, shown_other, "disallowed on this kind of request");
        }
    }
    errors
}

/// A question has no name and no labels.
fn metadata(errors: &mut ErrorList, meta: &Value, local: bool) {
    let allowed = |name: &str| name == "managedFields" || (local && name == "namespace");
    if meta.as_object().is_some_and(|map| map.keys().any(|name| !allowed(name))) {
        let detail = if local { "must be empty except for namespace" } else { "must be empty" };
        shown::report(errors, ErrorKind::Invalid, &Path::new("metadata"), shown::meta(meta), detail);
    }
}

fn selector(errors: &mut ErrorList, selector: &Value, path: &Path, rule: fn(&mut ErrorList, &Value, &Path)) {
    if selector.is_null() {
        return;
    }
    let (raw, rules) = (selector.text("rawSelector"), selector.list("requirements"));
    let at = path.child("requirements");
    if !raw.is_empty() && !rules.is_empty() {
        let detail = "may not specified at the same time as requirements";
        errors.invalid(&path.child("rawSelector"), raw, detail);
    }
    if raw.is_empty() && rules.is_empty() {
        errors.required(&at, &format!("when {path} is specified, requirements or rawSelector is required"));
    }
    for (i, one) in rules.iter().enumerate() {
        rule(errors, one, &at.index(i));
    }
}

/// The number of values that an operator wants; operators that are not known pass.
fn operands(errors: &mut ErrorList, rule: &Value, path: &Path) {
    let (values, at) = (rule.list("values"), path.child("values"));
    match rule.text("operator") {
        "In" | "NotIn" if values.is_empty() => {
            errors.required(&at, "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            errors.forbidden(&at, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
        }
        _ => {}
    }
}

fn field_rule(errors: &mut ErrorList, rule: &Value, path: &Path) {
    if rule.text("key").is_empty() {
        errors.push(FieldError::required(&path.child("key"), "must be specified"));
    }
    operands(errors, rule, path);
}

fn label_rule(errors: &mut ErrorList, rule: &Value, path: &Path) {
    operands(errors, rule, path);
    let key = rule.text("key");
    errors.messages(&path.child("key"), key, names::qualified_name(key));
    for (i, value) in rule.list("values").iter().filter_map(Value::as_str).enumerate() {
        errors.messages(&path.child("values").index(i), value, names::label_value(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions() {
        let check =
            |review: Value| -> Vec<String> { access(&review).0.iter().map(ToString::to_string).collect() };
        let none: [&str; 0] = [];
        let spec = json!({"user": "u", "resourceAttributes": {"namespace": "n",
            "labelSelector": {"requirements": [{"key": "a", "operator": "Later"}]}}});
        assert_eq!(check(json!({"kind": "SubjectAccessReview", "metadata": {}, "spec": spec})), none);
        let local = json!({"kind": "LocalSubjectAccessReview", "metadata": {"namespace": "o", "name": "x"}, "spec": spec});
        assert_eq!(
            check(local),
            [
                "metadata: Invalid value: {\"name\":\"x\",\"namespace\":\"o\"}: must be empty except for namespace",
                "spec.resourceAttributes.namespace: Invalid value: \"n\": must match metadata.namespace",
            ]
        );
        let odd = json!({"kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes":
            {"fieldSelector": {}, "labelSelector": {"rawSelector": "a", "requirements": [{"key": "b", "operator": "In"}]}}}});
        assert_eq!(
            check(odd),
            [
                "spec.resourceAttributes.fieldSelector.requirements: Required value: when spec.resourceAttributes.fieldSelector is specified, requirements or rawSelector is required",
                "spec.resourceAttributes.labelSelector.rawSelector: Invalid value: \"a\": may not specified at the same time as requirements",
                "spec.resourceAttributes.labelSelector.requirements[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
            ]
        );
    }
}
