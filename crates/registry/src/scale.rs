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
    if replicas < 0 {
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

#[cfg(test)]
mod tests {
    use super::*;

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
