//! Schemas of custom resources as published: the user's schema with the fields every object has, and for v2
//! without what v2 (and kubectl's reading of it) cannot say.

use serde_json::{Map, Value, json};

use super::definitions::{Definitions, META};
use super::{CustomDoc, Dialect, ResourceDoc};

pub(super) fn define(resource: &ResourceDoc<'_>, custom: &CustomDoc<'_>, definitions: &mut Definitions<'_>) {
    let dialect = definitions.dialect();
    let mut schema = match custom.schema {
        None => json!({"type": "object"}),
        Some(schema) if dialect == Dialect::V2 && (custom.preserve_unknown || flag(schema, PRESERVE)) => {
            json!({"type": "object"})
        }
        Some(schema) => {
            let mut schema = schema.clone();
            unfold(&mut schema);
            if dialect == Dialect::V2 {
                narrow(&mut schema);
            }
            add_object_fields(&mut schema, definitions);
            embed(&mut schema, definitions);
            schema
        }
    };
    let kind = json!([{"group": resource.group, "version": resource.version, "kind": resource.kind}]);
    insert(&mut schema, "x-kubernetes-group-version-kind", kind);
    if !custom.selectable_fields.is_empty() {
        let fields: Vec<Value> = custom
            .selectable_fields
            .iter()
            .map(|path| json!({"fieldPath": path.trim_start_matches('.')}))
            .collect();
        insert(&mut schema, "x-kubernetes-selectable-fields", Value::Array(fields));
    }
    let list = list_schema(resource, definitions);
    definitions.put(resource.definition(), schema);
    definitions.put(resource.list_definition(), list);
}

const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";

fn flag(schema: &Value, name: &str) -> bool {
    schema.get(name).and_then(Value::as_bool).unwrap_or(false)
}

fn insert(schema: &mut Value, key: &str, value: Value) {
    if let Value::Object(map) = schema {
        map.insert(key.to_string(), value);
    }
}

fn list_schema(resource: &ResourceDoc<'_>, definitions: &mut Definitions<'_>) -> Value {
    let dialect = definitions.dialect();
    let meta = format!("{META}.ListMeta");
    definitions.need(&meta);
    json!({
        "description": format!("{} is a list of {}", resource.list_kind, resource.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string", "description": definitions.type_meta("apiVersion")},
            "kind": {"type": "string", "description": definitions.type_meta("kind")},
            "items": {
                "description": format!("List of {}. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md", resource.plural),
                "type": "array",
                "items": dialect.reference(&resource.definition()),
            },
            "metadata": described(dialect.reference(&meta), "Standard list metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds", dialect),
        },
        "x-kubernetes-group-version-kind": [
            {"group": resource.group, "version": resource.version, "kind": resource.list_kind}
        ],
    })
}

fn described(reference: Value, text: &str, dialect: Dialect) -> Value {
    let mut schema = match dialect {
        Dialect::V2 => reference,
        Dialect::V3 => json!({"allOf": [reference]}),
    };
    insert(&mut schema, "description", json!(text));
    schema
}

fn object_meta(definitions: &mut Definitions<'_>) -> Value {
    let name = format!("{META}.ObjectMeta");
    definitions.need(&name);
    let dialect = definitions.dialect();
    described(
        dialect.reference(&name),
        "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata",
        dialect,
    )
}

fn properties(schema: &mut Value) -> Option<&mut Map<String, Value>> {
    let Value::Object(map) = schema else { return None };
    map.entry("properties").or_insert_with(|| json!({})).as_object_mut()
}

fn add_object_fields(schema: &mut Value, definitions: &mut Definitions<'_>) {
    let (api_version, kind) = (definitions.type_meta("apiVersion"), definitions.type_meta("kind"));
    let meta = object_meta(definitions);
    if let Some(fields) = properties(schema) {
        fields.insert("metadata".to_string(), meta);
        fields.insert("apiVersion".to_string(), json!({"type": "string", "description": api_version}));
        fields.insert("kind".to_string(), json!({"type": "string", "description": kind}));
    }
}

fn children(schema: &mut Value, mut visit: impl FnMut(&mut Value)) {
    let Value::Object(map) = schema else { return };
    if let Some(Value::Object(fields)) = map.get_mut("properties") {
        fields.values_mut().for_each(&mut visit);
    }
    for name in ["items", "additionalProperties"] {
        if let Some(inner @ Value::Object(_)) = map.get_mut(name) {
            visit(inner);
        }
    }
}

/// Integers-or-strings state their two types.
fn unfold(schema: &mut Value) {
    children(schema, unfold);
    if flag(schema, "x-kubernetes-int-or-string")
        && schema.get("anyOf").is_none()
        && schema.get("allOf").is_none()
    {
        insert(schema, "anyOf", json!([{"type": "integer"}, {"type": "string"}]));
    }
}

/// Embedded resources get the fields every object has.
fn embed(schema: &mut Value, definitions: &mut Definitions<'_>) {
    let dialect = definitions.dialect();
    children(schema, |inner| embed(inner, definitions));
    if !flag(schema, "x-kubernetes-embedded-resource") || (dialect == Dialect::V2 && flag(schema, PRESERVE)) {
        return;
    }
    let meta = object_meta(definitions);
    let text = |field: &str, what: &str| json!({"type": "string", "description": format!("{field} {what}")});
    if let Some(fields) = properties(schema) {
        fields.insert(
            "apiVersion".to_string(),
            text("apiVersion", "names the schema of this representation of the object."),
        );
        fields.insert("kind".to_string(), text("kind", "names the type of this object, in CamelCase."));
        fields.insert("metadata".to_string(), meta);
    }
    let mut required: Vec<Value> =
        schema.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
    for name in ["kind", "apiVersion"] {
        if !required.iter().any(|have| have == name) {
            required.push(json!(name));
        }
    }
    insert(schema, "required", Value::Array(required));
}

/// Takes out what OpenAPI v2 cannot say and what kubectl misreads there.
fn narrow(schema: &mut Value) {
    let nullable_fields = nullable_fields(schema);
    children(schema, narrow);
    let Value::Object(map) = schema else { return };
    for junctor in ["allOf", "anyOf", "oneOf", "not"] {
        map.remove(junctor);
    }
    let preserve = map.get(PRESERVE).and_then(Value::as_bool).unwrap_or(false);
    let nullable = map.remove("nullable").and_then(|value| value.as_bool()).unwrap_or(false);
    if nullable {
        map.remove("type");
    }
    if nullable || preserve {
        map.remove("items");
        map.remove("properties");
    }
    let kind = map.get("type").and_then(Value::as_str).unwrap_or_default();
    if (kind == "array" && !map.contains_key("items")) || (preserve && kind == "object") {
        map.remove("type");
    }
    if let Some(Value::Array(required)) = map.get_mut("required") {
        required.retain(|name| !name.as_str().is_some_and(|name| nullable_fields.iter().any(|n| n == name)));
        if required.is_empty() {
            map.remove("required");
        }
    }
}

fn nullable_fields(schema: &Value) -> Vec<String> {
    let fields = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
    fields.filter(|(_, field)| flag(field, "nullable")).map(|(name, _)| name.clone()).collect()
}
