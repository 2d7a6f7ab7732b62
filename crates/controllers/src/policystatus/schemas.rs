//! Schemas of kinds: of built-in ones from the facts, of all others from what the server publishes of them.

use std::collections::BTreeMap;

use machinery::policy::{Gvk, Schemas};
use machinery::schema::structural::Node;
use machinery::schema::{Schema, facts};
use serde_json::{Map, Value};

/// References within references are followed this far: a schema may refer to itself.
const DEPTH: usize = 16;
const REFERENCE: &str = "#/components/schemas/";

/// True for kinds that need no document.
pub fn is_builtin(kind: &Gvk) -> bool {
    facts().by_gvk(&kind.group, &kind.version, &kind.kind).is_some()
}

/// Schemas by kind.
#[derive(Default)]
pub struct Known(BTreeMap<Gvk, Node>);

impl Known {
    /// Takes a kind's schema from an OpenAPI v3 document of its group and version, if it has one.
    pub fn learn(&mut self, kind: &Gvk, document: &Value) {
        let Some(schemas) = document.pointer("/components/schemas").and_then(Value::as_object) else {
            return;
        };
        let is_it = |schema: &&Value| {
            let names = schema["x-kubernetes-group-version-kind"].as_array().into_iter().flatten();
            let mut names = names.map(|one| [&one["group"], &one["version"], &one["kind"]]);
            names.any(|one| one == [&*kind.group, &*kind.version, &*kind.kind])
        };
        if let Some(schema) = schemas.values().find(is_it) {
            self.0.insert(kind.clone(), Node::resource(&resolved(schema, schemas, 0)));
        }
    }
}

impl Schemas for Known {
    fn schema(&self, kind: &Gvk) -> Option<Schema<'_>> {
        let builtin = facts().by_gvk(&kind.group, &kind.version, &kind.kind).map(Schema::Type);
        builtin.or_else(|| self.0.get(kind).map(Schema::Node))
    }
}

/// The schema with what it refers to in place of the references.
fn resolved(schema: &Value, schemas: &Map<String, Value>, depth: usize) -> Value {
    if depth > DEPTH {
        return Value::Object(Map::new());
    }
    // A reference with a default or description beside it is published as `allOf` of one.
    let place = schema.pointer("/allOf/0/$ref").or_else(|| schema.get("$ref")).and_then(Value::as_str);
    if let Some(target) = place.and_then(|place| schemas.get(place.strip_prefix(REFERENCE)?)) {
        return resolved(target, schemas, depth + 1);
    }
    match schema {
        Value::Object(map) => {
            let inner = map.iter().map(|(key, value)| (key.clone(), resolved(value, schemas, depth + 1)));
            Value::Object(inner.collect())
        }
        Value::Array(items) => items.iter().map(|item| resolved(item, schemas, depth + 1)).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn kind(group: &str, kind: &str) -> Gvk {
        Gvk { group: group.to_owned(), version: "v1".to_owned(), kind: kind.to_owned() }
    }

    #[test]
    fn published_schemas_are_found_by_kind_and_resolved() {
        let document = json!({"components": {"schemas": {
            "org.example.v1.Toy": {
                "type": "object",
                "properties": {"spec": {"allOf": [{"$ref": "#/components/schemas/org.example.v1.ToySpec"}], "default": {}}},
                "x-kubernetes-group-version-kind": [{"group": "example.org", "version": "v1", "kind": "Toy"}]},
            "org.example.v1.ToySpec": {
                "type": "object",
                "properties": {"wheels": {"type": "integer"}, "inner": {"$ref": "#/components/schemas/org.example.v1.ToySpec"}}},
        }}});
        let mut known = Known::default();
        let toy = kind("example.org", "Toy");
        known.learn(&toy, &document);
        known.learn(&kind("example.org", "Other"), &document);
        assert_eq!(known.0.len(), 1);
        let policy = |expression: &str| {
            serde_json::from_value(json!({"spec": {"validations": [{"expression": expression}]}}))
                .expect("a policy")
        };
        let kinds = [toy].into_iter().collect();
        let check = |text: &str| machinery::policy::check(&policy(text), &kinds, &known).len();
        assert_eq!(check("object.spec.wheels > 1 && object.metadata.name != ''"), 0);
        assert_eq!(check("object.spec.inner.inner.wheels > 1"), 0);
        assert_eq!(check("object.spec.wheels > 'x'"), 1);
        assert_eq!(check("object.spec.legs > 1"), 1);
    }

    #[test]
    fn built_in_kinds_need_no_document() {
        assert!(is_builtin(&kind("apps", "Deployment")) && !is_builtin(&kind("apps", "Toy")));
        assert!(Known::default().schema(&kind("", "Pod")).is_some());
    }
}
