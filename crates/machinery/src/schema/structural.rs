//! Structural schemas of custom resources, as a tree that the [`Schema`](super::Schema) view can walk.
//!
//! Built from the JSON of `openAPIV3Schema`. Whether a schema is structural at all is for the registry to
//! judge; here an odd one only yields a laxer tree.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::Value;

use super::{ListKind, Schema, TypeFacts, facts};
use crate::codec::MAX_STRICT_ERRORS;
use crate::codec::canonical::canonicalize;
use crate::codec::scalar::go_quote;

/// The JSON type of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// No type given: anything.
    Any,
    /// `object`.
    Object,
    /// `array`.
    Array,
    /// `string`.
    String,
    /// `integer`.
    Integer,
    /// `number`.
    Number,
    /// `boolean`.
    Boolean,
    /// `x-kubernetes-int-or-string`.
    IntOrString,
}

/// One node of a structural schema.
#[derive(Clone, Debug)]
pub struct Node {
    /// JSON type.
    pub kind: NodeKind,
    /// Known fields of an object.
    pub properties: BTreeMap<String, Node>,
    /// Schema of the values of a map.
    pub additional: Option<Box<Node>>,
    /// Schema of list elements.
    pub items: Option<Box<Node>>,
    /// Whether unknown fields are kept.
    pub preserve_unknown: bool,
    /// Whether the object has `apiVersion`, `kind` and `metadata` of its own.
    pub embedded: bool,
    /// Whether `null` is a value.
    pub nullable: bool,
    /// Default value.
    pub default: Option<Value>,
    /// How server-side apply merges the list.
    pub list: Option<ListKind>,
    /// Whether server-side apply replaces the object as a whole.
    pub map_atomic: bool,
    /// A built-in type that stands here (`metadata`).
    pub builtin: Option<&'static TypeFacts>,
    /// The schema's JSON, for value validation and rules.
    pub source: Value,
}

impl Node {
    /// Builds the tree of a custom resource: the given schema with `apiVersion`, `kind` and `metadata` added.
    pub fn resource(schema: &Value) -> Node {
        let mut root = Node::new(schema);
        root.embed();
        root
    }

    /// Builds the tree of any schema.
    pub fn new(schema: &Value) -> Node {
        let flag = |name: &str| schema.get(name).and_then(Value::as_bool).unwrap_or(false);
        let text = |name: &str| schema.get(name).and_then(Value::as_str);
        let kind = match text("type") {
            _ if flag("x-kubernetes-int-or-string") => NodeKind::IntOrString,
            Some("object") => NodeKind::Object,
            Some("array") => NodeKind::Array,
            Some("string") => NodeKind::String,
            Some("integer") => NodeKind::Integer,
            Some("number") => NodeKind::Number,
            Some("boolean") => NodeKind::Boolean,
            _ => NodeKind::Any,
        };
        let properties = schema.get("properties").and_then(Value::as_object);
        let mut node = Node {
            kind,
            properties: properties.into_iter().flatten().map(|(k, v)| (k.clone(), Node::new(v))).collect(),
            additional: additional(schema.get("additionalProperties")),
            items: schema.get("items").map(|items| Box::new(Node::new(items))),
            preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            nullable: flag("nullable"),
            default: schema.get("default").cloned(),
            list: list_kind(schema),
            map_atomic: text("x-kubernetes-map-type") == Some("atomic"),
            builtin: None,
            source: own_facts(schema),
        };
        if node.embedded {
            node.embed();
        }
        node
    }

    fn embed(&mut self) {
        let string = Node { kind: NodeKind::String, ..Node::any() };
        self.kind = NodeKind::Object;
        for name in ["apiVersion", "kind"] {
            self.properties.entry(name.to_string()).or_insert_with(|| string.clone());
        }
        let meta = self.properties.entry("metadata".to_string()).or_insert_with(Node::any);
        meta.kind = NodeKind::Object;
        meta.builtin = facts().meta("ObjectMeta");
    }

    /// A node that allows anything.
    pub fn any() -> Node {
        Node {
            kind: NodeKind::Any,
            properties: BTreeMap::new(),
            additional: None,
            items: None,
            preserve_unknown: true,
            embedded: false,
            nullable: false,
            default: None,
            list: None,
            map_atomic: false,
            builtin: None,
            source: Value::Null,
        }
    }

    /// The schema of a field; `None` when it is unknown and would be pruned.
    pub fn field(&self, name: &str) -> Option<Schema<'_>> {
        if let Some(builtin) = self.builtin {
            return builtin.field(name).map(Schema::Field);
        }
        if let Some(node) = self.properties.get(name) {
            return Some(Schema::Node(node));
        }
        if let Some(node) = &self.additional {
            return Some(Schema::Node(node));
        }
        (self.preserve_unknown || self.kind == NodeKind::Any).then_some(Schema::Any)
    }
}

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

fn additional(value: Option<&Value>) -> Option<Box<Node>> {
    match value {
        Some(Value::Bool(true)) => Some(Box::new(Node::any())),
        Some(schema @ Value::Object(_)) => Some(Box::new(Node::new(schema))),
        _ => None,
    }
}

fn list_kind(schema: &Value) -> Option<ListKind> {
    match schema.get("x-kubernetes-list-type").and_then(Value::as_str)? {
        "set" => Some(ListKind::Set),
        "map" => {
            let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
            let keys = keys.into_iter().flatten().filter_map(Value::as_str);
            Some(ListKind::Map(keys.map(|key| Cow::Owned(key.to_string())).collect()))
        }
        _ => Some(ListKind::Atomic),
    }
}

/// The node's own keywords without its children's schemas, which the tree already holds.
fn own_facts(schema: &Value) -> Value {
    let Some(object) = schema.as_object() else { return Value::Null };
    let children = ["properties", "items", "additionalProperties", "description"];
    object
        .iter()
        .filter(|(k, _)| !children.contains(&k.as_str()))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect()
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
