//! The Scale view of a workload: autoscaling/v1 Scale read from an object and written back to it.

use api::error::ApiError;
use api::validation::{ErrorList, FieldError, Path};
use serde_json::{Value, json};

use crate::columns::selector_text;
use crate::resource::{Resource, ScalePaths};
use crate::tree::Tree;
use crate::validation::NEGATIVE;

/// The Scale of an object.
pub fn read(paths: &ScalePaths, object: &Value) -> Value {
    let meta = object.at("metadata");
    let mut out = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {}, "spec": {},
        "status": {"replicas": object.int(&paths.status_replicas)}});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if meta.has(field) {
            out["metadata"].set(field, meta.at(field).clone());
        }
    }
    let replicas = object.int(&paths.spec_replicas);
    if replicas != 0 {
        out.set("spec.replicas", replicas);
    }
    let selector = paths.selector.as_deref().map(|path| object.at(path));
    let text = match selector {
        Some(Value::String(text)) => text.clone(),
        Some(map @ Value::Object(fields)) => {
            let is_selector = fields.keys().all(|k| k == "matchLabels" || k == "matchExpressions");
            if is_selector { selector_text(map) } else { selector_text(&json!({"matchLabels": map})) }
        }
        _ => String::new(),
    };
    if !text.is_empty() {
        out.set("status.selector", text);
    }
    out
}

/// Writes the wanted replicas (and, when given, the resourceVersion and uid to compare) into the object.
pub fn apply(
    resource: &Resource,
    paths: &ScalePaths,
    object: &mut Value,
    scale: &Value,
) -> Result<(), ApiError> {
    let replicas = scale.int("spec.replicas");
    // A custom resource is judged as a whole.
    if replicas < 0 && !resource.custom {
        let mut errors = ErrorList::new();
        errors.push(FieldError::invalid(&Path::new("spec.replicas"), replicas, NEGATIVE));
        return Err(ApiError::invalid("autoscaling", "Scale", scale.text("metadata.name"), &errors));
    }
    let name = object.text("metadata.name").to_string();
    let (wanted, own) = (scale.text("metadata.resourceVersion"), object.text("metadata.resourceVersion"));
    if !wanted.is_empty() && wanted != own {
        return Err(ApiError::stale(&resource.group, &resource.plural, &name));
    }
    let (wanted, own) = (scale.text("metadata.uid"), object.text("metadata.uid"));
    if !wanted.is_empty() && wanted != own {
        let why = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {own}");
        return Err(ApiError::conflict(&resource.group, &resource.plural, &name, &why));
    }
    object.set(&paths.spec_replicas, replicas);
    Ok(())
}

/// What is wrong with a custom resource's wanted replicas.
pub fn check(paths: &ScalePaths, object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let at = Path::new(&format!(".{}", paths.spec_replicas));
    match count(object, &paths.spec_replicas) {
        Err(why) => errors.push(FieldError::invalid(&at, 0, why)),
        Ok(count) if count < 0 => {
            errors.push(FieldError::invalid(&at, count, "should be a non-negative integer"));
        }
        Ok(count) if count > i64::from(i32::MAX) => {
            let detail = format!("should be less than or equal to {}", i32::MAX);
            errors.push(FieldError::invalid(&at, count, detail));
        }
        Ok(_) => {}
    }
    errors
}

/// The number at a path, 0 when there is none, or what stands in the way in upstream's words.
fn count(object: &Value, path: &str) -> Result<i64, String> {
    let refused = |value: &Value, upto: &str, wanted: &str| {
        let (shown, kind) = match value {
            Value::String(text) => (text.clone(), "string"),
            Value::Bool(set) => (set.to_string(), "bool"),
            Value::Number(number) if number.is_i64() => (number.to_string(), "int64"),
            Value::Number(number) => (number.to_string(), "float64"),
            Value::Array(_) => (value.to_string(), "[]interface {}"),
            _ => (value.to_string(), "map[string]interface {}"),
        };
        format!(".{upto} accessor error: {shown} is of the type {kind}, expected {wanted}")
    };
    let mut at = object;
    for part in path.split('.') {
        match at {
            Value::Object(map) => match map.get(part) {
                Some(inner) => at = inner,
                None => return Ok(0),
            },
            other => return Err(refused(other, path, "map[string]interface{}")),
        }
    }
    at.as_i64().ok_or_else(|| refused(at, path, "int64"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_of_custom_resources_are_counts() {
        let paths = ScalePaths::workload();
        for (spec, expect) in [
            (json!({"replicas": 3}), ""),
            (json!({}), ""),
            (json!({"replicas": -1}), ".spec.replicas: Invalid value: -1: should be a non-negative integer"),
            (
                json!("x"),
                ".spec.replicas: Invalid value: 0: .spec.replicas accessor error: x is of the type string, expected map[string]interface{}",
            ),
        ] {
            let found: Vec<String> =
                check(&paths, &json!({"spec": spec})).0.iter().map(ToString::to_string).collect();
            assert_eq!(found.join("; "), expect);
        }
    }

    #[test]
    fn reads_both_kinds_of_selector() {
        let paths = ScalePaths::workload();
        let mut object = json!({"metadata": {"name": "a"}, "spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}}},
            "status": {"replicas": 1}});
        let scale = read(&paths, &object);
        assert_eq!(scale.text("status.selector"), "a=b");
        assert_eq!((scale.int("spec.replicas"), scale.int("status.replicas")), (2, 1));
        object.set("spec.selector", json!({"x": "y"}));
        assert_eq!(read(&paths, &object).text("status.selector"), "x=y");
    }
}
