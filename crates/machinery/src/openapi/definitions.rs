//! Schemas of built-in types.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::Dialect;
use super::descriptions::Descriptions;
use super::paths::VERSION;
use crate::codec::canonical;
use crate::schema::{Base, FieldFacts, ListKind, Scalar, Schema, Shape, TypeFacts, facts};

pub(super) const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const EXTENSIONS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1";

/// Types of which one field is set: name, the field that says which (if there is one), and what it says for each.
type Union = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const LOCALHOST: &[(&str, &str)] = &[("localhostProfile", "LocalhostProfile")];
const UNIONS: [Union; 6] = [
    ("io.k8s.api.core.v1.AppArmorProfile", "type", LOCALHOST),
    ("io.k8s.api.core.v1.PodSchedulingGroup", "", &[("podGroupName", "PodGroupName")]),
    ("io.k8s.api.core.v1.SeccompProfile", "type", LOCALHOST),
    ("io.k8s.api.flowcontrol.v1.LimitResponse", "type", &[("queuing", "Queuing")]),
    (
        "io.k8s.api.flowcontrol.v1.PriorityLevelConfigurationSpec",
        "type",
        &[("exempt", "Exempt"), ("limited", "Limited")],
    ),
    (
        "io.k8s.api.flowcontrol.v1.Subject",
        "kind",
        &[("group", "Group"), ("serviceAccount", "ServiceAccount"), ("user", "User")],
    ),
];

/// The definitions of a document, with what they refer to.
pub(super) struct Definitions<'a> {
    served: &'a [(&'a str, &'a str)],
    dialect: Dialect,
    descriptions: Descriptions,
    wanted: BTreeSet<String>,
    done: BTreeMap<String, Value>,
}

impl<'a> Definitions<'a> {
    pub(super) fn new(dialect: Dialect, served: &'a [(&'a str, &'a str)]) -> Self {
        let descriptions = Descriptions::load();
        Definitions { served, dialect, descriptions, wanted: BTreeSet::new(), done: BTreeMap::new() }
    }

    pub(super) fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Asks for a definition and all that it refers to.
    pub(super) fn need(&mut self, name: &str) {
        if !self.done.contains_key(name) {
            self.wanted.insert(name.to_string());
        }
    }

    /// Adds a definition made elsewhere.
    pub(super) fn put(&mut self, name: String, schema: Value) {
        self.done.insert(name, schema);
    }

    /// What `apiVersion` or `kind` is.
    pub(super) fn type_meta(&self, field: &str) -> String {
        let name = format!("{META}.DeleteOptions");
        self.descriptions.of_field(&name, field).unwrap_or_default().to_string()
    }

    /// Makes what is still wanted and gives all.
    pub(super) fn finish(mut self) -> Value {
        while let Some(name) = self.wanted.pop_first() {
            if self.done.contains_key(&name) {
                continue;
            }
            let schema = match facts().by_name(&name) {
                Some(facts) => self.object(facts),
                None => self.leaf(&name),
            };
            self.done.insert(name, schema);
        }
        Value::Object(self.done.into_iter().collect())
    }

    fn object(&mut self, facts: &'static TypeFacts) -> Value {
        let mut properties = Map::new();
        let mut required = Vec::new();
        for flat in facts.flat() {
            let mut schema = self.field(flat.field);
            if let (Some(text), Value::Object(map)) = (self.describe(facts, flat.field.json), &mut schema) {
                map.insert("description".to_string(), Value::String(text));
            }
            properties.insert(flat.field.json.to_string(), schema);
            if flat.field.required {
                required.push(flat.field.json);
            }
        }
        let mut out = Map::new();
        if let Some(text) = self.describe_type(facts) {
            out.insert("description".to_string(), Value::String(text));
        }
        out.insert("type".to_string(), json!("object"));
        if !properties.is_empty() {
            out.insert("properties".to_string(), Value::Object(properties));
        }
        if !required.is_empty() {
            out.insert("required".to_string(), json!(required));
        }
        if facts.atomic {
            out.insert("x-kubernetes-map-type".to_string(), json!("atomic"));
        }
        if let Some((_, discriminator, fields)) = UNIONS.iter().find(|(name, ..)| *name == facts.name) {
            let fields: Map<String, Value> =
                fields.iter().map(|(field, value)| (field.to_string(), json!(value))).collect();
            let mut union = json!({"fields-to-discriminateBy": fields});
            if !discriminator.is_empty() {
                union["discriminator"] = json!(discriminator);
            }
            out.insert("x-kubernetes-unions".to_string(), json!([union]));
        }
        let mut kinds = facts.gvks.clone();
        if matches!(facts.go_name, "DeleteOptions" | "WatchEvent") && facts.name.starts_with(META) {
            kinds.extend(
                self.served.iter().filter(|gv| **gv != ("", "v1")).map(|(g, v)| (*g, *v, facts.go_name)),
            );
        }
        let kinds: Vec<Value> =
            kinds.iter().map(|(g, v, k)| json!({"group": g, "version": v, "kind": k})).collect();
        if !kinds.is_empty() {
            out.insert("x-kubernetes-group-version-kind".to_string(), Value::Array(kinds));
        }
        Value::Object(out)
    }

    fn describe_type(&self, facts: &TypeFacts) -> Option<String> {
        if let Some(text) = self.descriptions.of_type(&facts.name) {
            return Some(text.to_string());
        }
        let element = facts.go_name.strip_suffix("List")?;
        Some(format!("{} is a list of {element} objects.", facts.go_name))
    }

    fn describe(&self, facts: &'static TypeFacts, field: &str) -> Option<String> {
        if let Some(text) = self.descriptions.of_field(&facts.name, field) {
            return Some(text.to_string());
        }
        match field {
            "kind" | "apiVersion" if facts.is_object() => Some(self.type_meta(field)),
            "metadata" => Some("Standard metadata of the object or list.".to_string()),
            "items" => Some("The objects of the list.".to_string()),
            _ => None,
        }
    }

    /// The schema of a field, description aside.
    fn field(&mut self, field: &'static FieldFacts) -> Value {
        let element = self.element(field);
        let mut schema = match field.shape {
            Shape::One => element,
            Shape::List => json!({"type": "array", "items": element}),
            Shape::Map => json!({"type": "object", "additionalProperties": element}),
        };
        if field.shape == Shape::One && self.dialect == Dialect::V3 {
            schema = lift_reference(schema);
            let printed = !field.pointer && field.default.is_none();
            let zero = match field.base {
                Base::Message(_) => Some(json!({})),
                Base::Scalar(Scalar::Time | Scalar::MicroTime | Scalar::Raw | Scalar::Json) => None,
                Base::Scalar(_) if field.omit_empty => None,
                Base::Scalar(_) => Some(canonical::zero(Schema::Field(field))).filter(|zero| !zero.is_null()),
            };
            if let (true, Some(zero), Value::Object(map)) = (printed, zero, &mut schema) {
                map.insert("default".to_string(), zero);
            }
        }
        self.mark(field, &mut schema);
        schema
    }

    fn mark(&self, field: &FieldFacts, schema: &mut Value) {
        let Value::Object(map) = schema else { return };
        let mut put = |key: &str, value: Value| {
            map.insert(key.to_string(), value);
        };
        match &field.list {
            Some(ListKind::Atomic) => put("x-kubernetes-list-type", json!("atomic")),
            Some(ListKind::Set) => put("x-kubernetes-list-type", json!("set")),
            Some(ListKind::Map(keys)) => {
                put("x-kubernetes-list-type", json!("map"));
                put("x-kubernetes-list-map-keys", json!(keys));
            }
            None => {}
        }
        match field.base {
            Base::Scalar(Scalar::Bytes) if field.map_atomic => put("x-kubernetes-list-type", json!("atomic")),
            _ if field.map_atomic => put("x-kubernetes-map-type", json!("atomic")),
            _ if field.map_granular => put("x-kubernetes-map-type", json!("granular")),
            _ => {}
        }
        let marks = field.patch;
        let strategies =
            [(marks.merge, "merge"), (marks.retain_keys, "retainKeys"), (marks.replace, "replace")];
        let strategies: Vec<&str> =
            strategies.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect();
        if !strategies.is_empty() {
            put("x-kubernetes-patch-strategy", json!(strategies.join(",")));
        }
        if let Some(key) = marks.key {
            put("x-kubernetes-patch-merge-key", json!(key));
        }
        if let (Some(text), Dialect::V3) = (field.default, self.dialect) {
            put("default", serde_json::from_str(text).unwrap_or(Value::Null));
        }
    }

    fn element(&mut self, field: &'static FieldFacts) -> Value {
        let scalar = match (field.base, field.message()) {
            (Base::Scalar(scalar), _) => scalar,
            (Base::Message(_), Some(inner)) => return self.reference(&inner.name),
            (Base::Message(_), None) => return json!({}),
        };
        match scalar {
            Scalar::Bool => json!({"type": "boolean"}),
            Scalar::I32 => json!({"type": "integer", "format": "int32"}),
            Scalar::I64 => json!({"type": "integer", "format": "int64"}),
            Scalar::U8 => json!({"type": "integer", "format": "byte"}),
            Scalar::F64 => json!({"type": "number", "format": "double"}),
            Scalar::Str if field.enumeration.is_some() => {
                json!({"type": "string", "enum": field.enumeration()})
            }
            Scalar::Str => json!({"type": "string"}),
            Scalar::Bytes => json!({"type": "string", "format": "byte"}),
            Scalar::Any => json!({"type": "object"}),
            Scalar::Strs => json!({"type": "array", "items": {"type": "string"}}),
            other => {
                let name = leaf_name(other);
                self.reference(&name)
            }
        }
    }

    fn reference(&mut self, name: &str) -> Value {
        self.need(name);
        self.dialect.reference(name)
    }

    /// Types that are not objects, or whose JSON form is their own.
    fn leaf(&self, name: &str) -> Value {
        if name == VERSION {
            return version_info();
        }
        let short = name.rsplit('.').next().unwrap_or_default();
        let mut schema = match short {
            "Time" | "MicroTime" => json!({"type": "string", "format": "date-time"}),
            "Duration" => json!({"type": "string"}),
            "Quantity" if self.dialect == Dialect::V3 => {
                json!({"oneOf": [{"type": "string"}, {"type": "number"}]})
            }
            "Quantity" => json!({"type": "string"}),
            "IntOrString" if self.dialect == Dialect::V3 => {
                json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
            }
            "IntOrString" => json!({"type": "string", "format": "int-or-string"}),
            "RawExtension" | "FieldsV1" | "Patch" | "Unknown" => json!({"type": "object"}),
            _ => json!({}),
        };
        if let (Some(text), Value::Object(map)) = (self.descriptions.of_type(name), &mut schema) {
            map.insert("description".to_string(), json!(text));
        }
        schema
    }
}

fn version_info() -> Value {
    const ALWAYS: [&str; 9] = [
        "major",
        "minor",
        "gitVersion",
        "gitCommit",
        "gitTreeState",
        "buildDate",
        "goVersion",
        "compiler",
        "platform",
    ];
    const MAYBE: [&str; 4] =
        ["emulationMajor", "emulationMinor", "minCompatibilityMajor", "minCompatibilityMinor"];
    let properties: Map<String, Value> =
        ALWAYS.iter().chain(&MAYBE).map(|name| ((*name).to_owned(), json!({"type": "string"}))).collect();
    json!({"type": "object", "description": "Which build of the server answers.", "required": ALWAYS, "properties": properties})
}

/// In v3 a reference stands alone or in `allOf`: siblings of `$ref` are not allowed, and a described field has
/// some.
fn lift_reference(schema: Value) -> Value {
    match schema.get("$ref") {
        Some(_) => json!({"allOf": [schema]}),
        None => schema,
    }
}

fn leaf_name(scalar: Scalar) -> String {
    match scalar {
        Scalar::Quantity => "io.k8s.apimachinery.pkg.api.resource.Quantity".to_string(),
        Scalar::IntOrString => "io.k8s.apimachinery.pkg.util.intstr.IntOrString".to_string(),
        Scalar::Raw => "io.k8s.apimachinery.pkg.runtime.RawExtension".to_string(),
        Scalar::Unknown => "io.k8s.apimachinery.pkg.runtime.Unknown".to_string(),
        Scalar::MicroTime => format!("{META}.MicroTime"),
        Scalar::Duration => format!("{META}.Duration"),
        Scalar::Fields => format!("{META}.FieldsV1"),
        Scalar::Json => format!("{EXTENSIONS}.JSON"),
        Scalar::SchemaOrArray => format!("{EXTENSIONS}.JSONSchemaPropsOrArray"),
        Scalar::SchemaOrBool => format!("{EXTENSIONS}.JSONSchemaPropsOrBool"),
        Scalar::SchemaOrStrings => format!("{EXTENSIONS}.JSONSchemaPropsOrStringArray"),
        _ => format!("{META}.Time"),
    }
}
