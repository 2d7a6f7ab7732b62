//! Structural schemas of custom resources, as a tree that the [`Schema`](super::Schema) view can walk.
//!
//! Built from the JSON of `openAPIV3Schema`. Whether a schema is structural at all is for the registry to
//! judge; here an odd one only yields a laxer tree.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::Value;

use super::{ListKind, Schema, TypeFacts, facts};

mod checks;
mod default;
mod prune;

pub use checks::{Rule, compile_pattern, validate, validate_update};
pub use default::apply_defaults;
pub use prune::prune;

use checks::Checks;

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
    /// What values must satisfy.
    pub(crate) checks: Checks,
    /// `x-kubernetes-validations` of the node.
    pub rules: Vec<Rule>,
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
            checks: Checks::new(schema),
            rules: checks::rules(schema),
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
            checks: Checks::default(),
            rules: Vec::new(),
        }
    }

    /// The `format` of a string or number.
    pub fn format(&self) -> Option<&str> {
        self.checks.format()
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
