//! Pruning: dropping the fields that a custom resource's schema does not know.

use serde_json::Value;

use super::{Node, NodeKind};
use crate::codec::MAX_STRICT_ERRORS;
use crate::codec::canonical::canonicalize;
use crate::codec::scalar::go_quote;
use crate::schema::Schema;

/// Drops the fields that a custom resource's schema does not know and names them, sorted, as a strict reader
/// reports them: `unknown field "spec.foo"`. Metadata is brought into its built-in canonical form.
pub fn prune(node: &Node, value: &mut Value) -> Vec<String> {
    let mut paths = Vec::new();
    prune_at(Schema::Node(node), value, &mut String::new(), &mut paths);
    paths.sort();
    paths.truncate(MAX_STRICT_ERRORS);
    paths.into_iter().map(|path| format!("unknown field {}", go_quote(&path))).collect()
}

fn prune_at(schema: Schema<'_>, value: &mut Value, path: &mut String, unknown: &mut Vec<String>) {
    if matches!(schema, Schema::Any) {
        return;
    }
    let length = path.len();
    match value {
        Value::Object(object) => {
            let builtin = schema.object_type();
            let open = match schema {
                Schema::Node(node) => {
                    builtin.is_none() && (node.preserve_unknown || node.kind == NodeKind::Any)
                }
                _ => false,
            };
            object.retain(|key, inner| {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(key);
                let known = schema.field(key);
                match known {
                    Some(place) => prune_at(place, inner, path, unknown),
                    None if !open => unknown.push(path.clone()),
                    None => {}
                }
                path.truncate(length);
                known.is_some() || open
            });
            if builtin.is_some() {
                canonicalize(schema, value);
            }
        }
        Value::Array(items) => {
            for (index, inner) in items.iter_mut().enumerate() {
                path.push_str(&format!("[{index}]"));
                prune_at(schema.item(), inner, path, unknown);
                path.truncate(length);
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
    fn unknown_fields_go_and_are_named() {
        let node = Node::resource(&json!({"type": "object", "properties": {
            "spec": {"type": "object", "properties": {
                "known": {"type": "string"},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                "list": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "integer"}}}},
                "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"a": {"type": "integer"}}}},
            }},
        }}));
        let mut value = json!({
            "apiVersion": "x/v1", "kind": "X", "metadata": {"name": "n", "creationTimestamp": null, "foo": 1},
            "spec": {"zzz": 1, "known": "k", "free": {"any": {"thing": 1}}, "list": [{"a": 1, "b": 2}], "map": {"k": {"a": 1, "c": 1}}},
        });
        let unknown = prune(&node, &mut value);
        assert_eq!(
            unknown,
            [
                "unknown field \"metadata.foo\"",
                "unknown field \"spec.list[0].b\"",
                "unknown field \"spec.map.k.c\"",
                "unknown field \"spec.zzz\""
            ]
        );
        assert_eq!(
            value,
            json!({
                "apiVersion": "x/v1", "kind": "X", "metadata": {"name": "n"},
                "spec": {"known": "k", "free": {"any": {"thing": 1}}, "list": [{"a": 1}], "map": {"k": {"a": 1}}},
            })
        );
    }
}
