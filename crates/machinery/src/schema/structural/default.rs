//! Defaults of custom resources.

use serde_json::Value;

use super::Node;

/// Fills in the schema's defaults, in requests and on reading what was stored. Nulls where the schema does not
/// allow them become the default, or go when there is none.
pub fn apply_defaults(node: &Node, value: &mut Value) {
    if node.builtin.is_some() {
        return;
    }
    match value {
        Value::Object(map) => {
            for (name, field) in &node.properties {
                let missing = map.get(name).is_none_or(|value| value.is_null() && !field.nullable);
                if let (true, Some(default)) = (missing, &field.default) {
                    map.insert(name.clone(), default.clone());
                }
            }
            map.retain(|name, inner| {
                let known = node.properties.get(name);
                let place = known.or(node.additional.as_deref());
                if let Some(place) = place {
                    if inner.is_null() && !place.nullable {
                        match &place.default {
                            Some(default) => *inner = default.clone(),
                            None => return known.is_none() || place.kind == super::NodeKind::Any,
                        }
                    }
                    apply_defaults(place, inner);
                }
                true
            });
        }
        Value::Array(items) => {
            let Some(place) = node.items.as_deref() else { return };
            for inner in items {
                if let (Value::Null, false, Some(default)) = (&*inner, place.nullable, &place.default) {
                    *inner = default.clone();
                }
                apply_defaults(place, inner);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_fill_in_and_nulls_go() {
        let node = Node::resource(
            &json!({"type": "object", "properties": {"spec": {"type": "object", "default": {}, "properties": {
                "a": {"type": "string", "default": "x"},
                "b": {"type": "string", "nullable": true, "default": "y"},
                "c": {"type": "integer"},
                "l": {"type": "array", "items": {"type": "object", "properties": {"d": {"type": "integer", "default": 4}}}},
            }}}}),
        );
        for (value, expect) in [
            (json!({}), json!({"spec": {"a": "x", "b": "y"}})),
            (
                json!({"spec": {"a": null, "b": null, "c": null, "l": [{}, {"d": 5}]}}),
                json!({"spec": {"a": "x", "b": null, "l": [{"d": 4}, {"d": 5}]}}),
            ),
        ] {
            let mut got = value;
            apply_defaults(&node, &mut got);
            assert_eq!(got, expect);
        }
    }
}
