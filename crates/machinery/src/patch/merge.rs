//! RFC 7386 merge patches: applying one, and making one from two objects.

use serde_json::{Map, Value};

/// The object with a merge patch applied: null removes, objects merge, all else replaces.
pub fn merge_patch(object: &Value, patch: &Value) -> Value {
    let Value::Object(changes) = patch else { return patch.clone() };
    let mut out = match object {
        Value::Object(map) => map.clone(),
        _ => Map::new(),
    };
    for (key, change) in changes {
        match change {
            Value::Null => {
                out.remove(key);
            }
            Value::Object(_) => {
                let merged = merge_patch(out.get(key).unwrap_or(&Value::Null), change);
                out.insert(key.clone(), merged);
            }
            other => {
                out.insert(key.clone(), other.clone());
            }
        }
    }
    Value::Object(out)
}

/// The merge patch that leads from one object to another.
pub fn create_merge(from: &Value, to: &Value) -> Value {
    let (Value::Object(from), Value::Object(to)) = (from, to) else { return to.clone() };
    let mut patch = Map::new();
    for (key, new) in to {
        match (from.get(key), new) {
            (Some(old), _) if old == new => {}
            (Some(old @ Value::Object(_)), Value::Object(_)) => {
                patch.insert(key.clone(), create_merge(old, new));
            }
            _ => {
                patch.insert(key.clone(), new.clone());
            }
        }
    }
    for key in from.keys().filter(|key| !to.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    Value::Object(patch)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn merging_and_making_are_inverse() {
        for (from, patch, to) in [
            (
                json!({"a": 1, "b": {"c": 2, "d": 3}}),
                json!({"a": null, "b": {"c": 5}}),
                json!({"b": {"c": 5, "d": 3}}),
            ),
            (json!({"a": [1, 2]}), json!({"a": [3]}), json!({"a": [3]})),
            (json!({}), json!({"a": {"b": 1}}), json!({"a": {"b": 1}})),
        ] {
            assert_eq!(merge_patch(&from, &patch), to);
            assert_eq!(create_merge(&from, &to), patch);
        }
        assert_eq!(merge_patch(&json!({"a": 1}), &json!({"b": {"c": null}})), json!({"a": 1, "b": {}}));
    }
}
