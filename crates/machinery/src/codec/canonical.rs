//! The one spelling of an object: what upstream prints after reading it.
//!
//! Optional zero fields and nulls vanish; fields that Go always prints are present. It must not know defaults,
//! which are the registry's.

use serde_json::{Map, Value, json};

use super::scalar;
use crate::schema::{Base, FieldFacts, Scalar, Schema, Shape, Sort, TypeFacts};

/// Brings a whole value of a built-in type into canonical form, dropping unknown fields.
/// Leaves of a wrong type are left alone: decoding reports those.
pub fn canonicalize(schema: Schema<'_>, value: &mut Value) {
    if let Some(props) = schema_or(schema) {
        return match value {
            Value::Array(items) => {
                items.iter_mut().filter(|v| v.is_object()).for_each(|v| canonicalize(props, v))
            }
            Value::Object(_) => canonicalize(props, value),
            _ => {}
        };
    }
    match value {
        Value::Object(object) => match schema.object_type() {
            Some(facts) => {
                object.retain(|name, inner| {
                    let Some(field) = facts.field(name) else { return false };
                    canonicalize(Schema::Field(field), inner);
                    !omitted(field, inner)
                });
                add_printed(facts, object);
            }
            None => {
                for (key, inner) in object.iter_mut() {
                    let Some(place) = schema.field(key) else { continue };
                    canonicalize(place, inner);
                    if inner.is_null() && !matches!(place, Schema::Any) {
                        *inner = zero(place);
                    }
                }
            }
        },
        Value::Array(items) => {
            let place = schema.item();
            for inner in items {
                canonicalize(place, inner);
                if inner.is_null() && !matches!(place, Schema::Any) {
                    *inner = zero(place);
                }
            }
        }
        Value::Null | Value::Bool(_) => {}
        Value::Number(_) | Value::String(_) => {
            if let Some(kind) = leaf(schema)
                && let Ok(spelled) = scalar::from_json(kind, value.clone(), None)
            {
                *value = spelled;
            }
        }
    }
}

/// The schema of JSON schemas, where one stands beside another form (`items`, `additionalProperties`).
fn schema_or(schema: Schema<'_>) -> Option<Schema<'static>> {
    let (Schema::Field(field) | Schema::Item(field)) = schema else { return None };
    let whole = matches!(schema, Schema::Item(_)) || field.shape == Shape::One;
    let Base::Scalar(Scalar::SchemaOrArray | Scalar::SchemaOrBool | Scalar::SchemaOrStrings) = field.base
    else {
        return None;
    };
    let name = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
    whole.then(|| crate::schema::facts().by_name(name).map(Schema::Type)).flatten()
}

fn leaf(schema: Schema<'_>) -> Option<Scalar> {
    let field = match schema {
        Schema::Field(field) if field.shape == Shape::One => field,
        Schema::Item(field) => field,
        _ => return None,
    };
    match field.base {
        Base::Scalar(
            kind @ (Scalar::Quantity
            | Scalar::Time
            | Scalar::MicroTime
            | Scalar::Duration
            | Scalar::IntOrString),
        ) => Some(kind),
        _ => None,
    }
}

/// Drops what Go would omit from one object and adds what it would always print.
/// The fields' own values must already be canonical.
pub fn finish(facts: &'static TypeFacts, object: &mut Map<String, Value>) {
    object.retain(|name, value| facts.field(name).is_none_or(|field| !omitted(field, value)));
    add_printed(facts, object);
}

/// Adds the fields that are always printed and are not there.
pub(super) fn add_printed(facts: &'static TypeFacts, object: &mut Map<String, Value>) {
    for at in facts.printed() {
        let field = facts.flat()[*at].field;
        if !object.contains_key(field.json)
            && let Some(printed) = always_printed(field)
        {
            object.insert(field.json.to_string(), printed);
        }
    }
}

/// Whether decoding a value's text would give the same value again, without any complaint, but for fields that are
/// always printed and are not there: `lacks` is set when there are such, and [`complete`] adds them. Never true
/// where that is not so; custom resources and rare leaves are left to the decoder.
pub(super) fn holds(schema: Schema<'_>, value: &Value, depth: usize, lacks: &mut bool) -> bool {
    if depth > super::MAX_DEPTH {
        return false;
    }
    match (schema.sort(), value) {
        (Sort::Any, value) => holds_any(value, depth),
        (Sort::Object, Value::Object(map)) => {
            schema.object_type().is_some_and(|facts| holds_fields(facts, map, depth, lacks))
        }
        (Sort::Map, Value::Object(map)) => map.iter().all(|(key, inner)| {
            schema.field(key).is_some_and(|place| holds_item(place, inner, depth, lacks))
        }),
        (Sort::List, Value::Array(items)) => {
            let strings = matches!(
                schema,
                Schema::Item(_) | Schema::Field(FieldFacts { base: Base::Scalar(Scalar::Strs), .. })
            );
            let place = schema.item();
            items
                .iter()
                .all(|item| if strings { item.is_string() } else { holds_item(place, item, depth, lacks) })
        }
        (Sort::Scalar(kind), value) => holds_scalar(kind, value, depth),
        _ => false,
    }
}

fn holds_item(place: Schema<'_>, value: &Value, depth: usize, lacks: &mut bool) -> bool {
    (!value.is_null() || matches!(place.sort(), Sort::Any)) && holds(place, value, depth + 1, lacks)
}

fn holds_fields(facts: &'static TypeFacts, map: &Map<String, Value>, depth: usize, lacks: &mut bool) -> bool {
    let known = map.iter().all(|(key, value)| match facts.field(key) {
        None => false,
        Some(field) if omitted(field, value) => always_printed(field).as_ref() == Some(value),
        Some(field) => holds(Schema::Field(field), value, depth + 1, lacks),
    });
    *lacks |= known && facts.printed().iter().any(|at| !map.contains_key(facts.flat()[*at].field.json));
    known
}

/// Adds what a value that [`holds`] lacks.
pub(super) fn complete(schema: Schema<'_>, value: &mut Value) {
    match (schema.sort(), value) {
        (Sort::Object | Sort::Map, Value::Object(map)) => {
            for (key, inner) in map.iter_mut().filter(|(_, inner)| inner.is_object() || inner.is_array()) {
                if let Some(place) = schema.field(key) {
                    complete(place, inner);
                }
            }
            if let Some(facts) = schema.object_type() {
                add_printed(facts, map);
            }
        }
        (Sort::List, Value::Array(items)) => items.iter_mut().for_each(|item| complete(schema.item(), item)),
        _ => {}
    }
}

fn holds_any(value: &Value, depth: usize) -> bool {
    if depth > super::MAX_DEPTH {
        return false;
    }
    match value {
        Value::Array(items) => items.iter().all(|item| holds_any(item, depth + 1)),
        Value::Object(map) => map.values().all(|inner| holds_any(inner, depth + 1)),
        Value::Number(number) => number.is_i64(),
        _ => true,
    }
}

fn holds_scalar(kind: Scalar, value: &Value, depth: usize) -> bool {
    match (kind, value) {
        (Scalar::Str, Value::String(_)) | (Scalar::Bool, Value::Bool(_)) => true,
        (Scalar::IntOrString, Value::String(_)) => true,
        (Scalar::I64, Value::Number(n)) => n.is_i64(),
        (Scalar::I32 | Scalar::IntOrString, Value::Number(n)) => {
            n.as_i64().is_some_and(|n| i32::try_from(n).is_ok())
        }
        (Scalar::U8, Value::Number(n)) => n.as_i64().is_some_and(|n| u8::try_from(n).is_ok()),
        (Scalar::Fields, Value::Object(_)) => holds_any(value, depth),
        (
            Scalar::Quantity | Scalar::Time | Scalar::MicroTime | Scalar::Duration | Scalar::Bytes,
            Value::String(_),
        ) => scalar::from_json(kind, value.clone(), None).as_ref() == Ok(value),
        _ => false,
    }
}

/// Whether a present value counts as absent: null, or a zero that Go's `omitempty` drops.
pub(super) fn omitted(field: &FieldFacts, value: &Value) -> bool {
    match value {
        Value::Null => true,
        _ if !field.omit_empty => false,
        // What the server does not look into is kept as it is.
        Value::Array(_)
            if field.shape == Shape::One
                && matches!(field.base, Base::Scalar(Scalar::Raw | Scalar::Json)) =>
        {
            false
        }
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => field.shape == Shape::Map && map.is_empty(),
        _ if field.pointer => false,
        Value::Bool(set) => !set,
        Value::String(text) => {
            text.is_empty() && matches!(field.base, Base::Scalar(Scalar::Str | Scalar::Bytes))
        }
        Value::Number(n) => {
            let counted =
                matches!(field.base, Base::Scalar(Scalar::I32 | Scalar::I64 | Scalar::U8 | Scalar::F64));
            counted && n.as_f64() == Some(0.0)
        }
    }
}

/// What Go prints for an absent field, or `None` when it prints nothing.
pub(crate) fn always_printed(field: &'static FieldFacts) -> Option<Value> {
    if field.pointer || field.shape != Shape::One {
        return (!field.omit_empty).then_some(Value::Null);
    }
    match field.base {
        Base::Message(_) if field.omit_zero => None,
        Base::Message(_) => Some(zero(Schema::Field(field))),
        Base::Scalar(Scalar::Time | Scalar::MicroTime | Scalar::Raw | Scalar::Json) => {
            (!field.omit_zero).then_some(Value::Null)
        }
        // These are structs to Go, which `omitempty` never drops.
        Base::Scalar(kind @ (Scalar::Quantity | Scalar::IntOrString | Scalar::Duration)) => {
            Some(zero_scalar(kind))
        }
        Base::Scalar(kind) => (!field.omit_empty).then(|| zero_scalar(kind)),
    }
}

/// The canonical zero of a place: `{}` with its always-printed fields, `""`, `0`, `false` or null.
pub fn zero(schema: Schema<'_>) -> Value {
    if let Some(facts) = schema.object_type() {
        let mut object = Map::new();
        finish(facts, &mut object);
        return Value::Object(object);
    }
    match schema {
        Schema::Field(FieldFacts { shape: Shape::One, base: Base::Scalar(kind), .. })
        | Schema::Item(FieldFacts { base: Base::Scalar(kind), .. }) => zero_scalar(*kind),
        _ => Value::Null,
    }
}

fn zero_scalar(kind: Scalar) -> Value {
    match kind {
        Scalar::Bool => json!(false),
        Scalar::I32 | Scalar::I64 | Scalar::U8 | Scalar::F64 | Scalar::IntOrString => json!(0),
        Scalar::Str => json!(""),
        Scalar::Quantity => json!("0"),
        Scalar::Duration => json!("0s"),
        _ => Value::Null,
    }
}
