//! The v2 document as protobuf (`com.github.proto-openapi.spec.v2.v1.0`), which client-go's discovery asks for.
//!
//! Field numbers are gnostic's `OpenAPIv2.proto`. What clients read is carried: definitions, paths, parameters.

use serde_json::{Map, Value};

use crate::codec::proto::{put_bytes, put_double, put_int, put_nested};

type Object = Map<String, Value>;

/// Turns the JSON of [`super::v2`] into protobuf. Anything but such a document gives an empty message.
pub fn v2_protobuf(json: &[u8]) -> Vec<u8> {
    let document: Object = serde_json::from_slice(json).unwrap_or_default();
    let mut out = Vec::with_capacity(json.len());
    text(&document, "swagger", 1, &mut out);
    if let Some(info) = object(&document, "info") {
        put_nested(&mut out, 2, |out| {
            text(info, "title", 1, out);
            text(info, "version", 2, out);
        });
    }
    if let Some(paths) = object(&document, "paths") {
        put_nested(&mut out, 8, |out| named(paths, 2, out, path_item));
    }
    if let Some(definitions) = object(&document, "definitions") {
        put_nested(&mut out, 9, |out| named(definitions, 1, out, schema));
    }
    if let Some(parameters) = object(&document, "parameters") {
        put_nested(&mut out, 10, |out| named(parameters, 1, out, parameter));
    }
    if let Some(security) = object(&document, "securityDefinitions") {
        put_nested(&mut out, 13, |out| {
            named(security, 1, out, |item, out| {
                put_nested(out, 2, |out| {
                    for (number, name) in [(1, "type"), (2, "name"), (3, "in"), (4, "description")] {
                        text(item, name, number, out);
                    }
                });
            });
        });
    }
    out
}

fn object<'v>(of: &'v Object, name: &str) -> Option<&'v Object> {
    of.get(name).and_then(Value::as_object)
}

fn text(of: &Object, name: &str, number: u32, out: &mut Vec<u8>) {
    if let Some(text) = of.get(name).and_then(Value::as_str) {
        put_bytes(out, number, text.as_bytes());
    }
}

fn texts(of: &Object, name: &str, number: u32, out: &mut Vec<u8>) {
    for item in of.get(name).and_then(Value::as_array).into_iter().flatten() {
        put_bytes(out, number, item.as_str().unwrap_or_default().as_bytes());
    }
}

fn flag(of: &Object, name: &str, number: u32, out: &mut Vec<u8>) {
    if of.get(name).and_then(Value::as_bool) == Some(true) {
        put_int(out, number, 1);
    }
}

fn integer(of: &Object, name: &str, number: u32, out: &mut Vec<u8>) {
    if let Some(n) = of.get(name).and_then(Value::as_i64) {
        put_int(out, number, n);
    }
}

fn double(of: &Object, name: &str, number: u32, out: &mut Vec<u8>) {
    if let Some(n) = of.get(name).and_then(Value::as_f64) {
        put_double(out, number, n);
    }
}

/// Entries of a map as messages of name and value.
fn named(of: &Object, number: u32, out: &mut Vec<u8>, write: impl Fn(&Object, &mut Vec<u8>)) {
    for (name, value) in of {
        let Some(value) = value.as_object() else { continue };
        put_nested(out, number, |out| {
            put_bytes(out, 1, name.as_bytes());
            put_nested(out, 2, |out| write(value, out));
        });
    }
}

/// Any value, as YAML (JSON is YAML).
fn any(value: &Value, number: u32, out: &mut Vec<u8>) {
    put_nested(out, number, |out| put_bytes(out, 2, format!("{value}\n").as_bytes()));
}

fn extensions(of: &Object, number: u32, out: &mut Vec<u8>) {
    for (name, value) in of.iter().filter(|(name, _)| name.starts_with("x-")) {
        put_nested(out, number, |out| {
            put_bytes(out, 1, name.as_bytes());
            any(value, 2, out);
        });
    }
}

fn schema(of: &Object, out: &mut Vec<u8>) {
    for (number, name) in [(1, "$ref"), (2, "format"), (3, "title"), (4, "description")] {
        text(of, name, number, out);
    }
    if let Some(default) = of.get("default") {
        any(default, 5, out);
    }
    for (number, name) in [(6, "multipleOf"), (7, "maximum"), (9, "minimum")] {
        double(of, name, number, out);
    }
    for (number, name) in [(8, "exclusiveMaximum"), (10, "exclusiveMinimum"), (16, "uniqueItems")] {
        flag(of, name, number, out);
    }
    let counts = [
        (11, "maxLength"),
        (12, "minLength"),
        (14, "maxItems"),
        (15, "minItems"),
        (17, "maxProperties"),
        (18, "minProperties"),
    ];
    for (number, name) in counts {
        integer(of, name, number, out);
    }
    text(of, "pattern", 13, out);
    texts(of, "required", 19, out);
    for value in of.get("enum").and_then(Value::as_array).into_iter().flatten() {
        any(value, 20, out);
    }
    match of.get("additionalProperties") {
        Some(Value::Object(inner)) => put_nested(out, 21, |out| put_nested(out, 1, |out| schema(inner, out))),
        Some(Value::Bool(set)) => put_nested(out, 21, |out| put_int(out, 2, i64::from(*set))),
        _ => {}
    }
    if let Some(kind) = of.get("type").and_then(Value::as_str) {
        put_nested(out, 22, |out| put_bytes(out, 1, kind.as_bytes()));
    }
    if let Some(items) = object(of, "items") {
        put_nested(out, 23, |out| put_nested(out, 1, |out| schema(items, out)));
    }
    for inner in of.get("allOf").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object)
    {
        put_nested(out, 24, |out| schema(inner, out));
    }
    if let Some(properties) = object(of, "properties") {
        put_nested(out, 25, |out| named(properties, 1, out, schema));
    }
    extensions(of, 31, out);
}

fn path_item(of: &Object, out: &mut Vec<u8>) {
    let methods =
        [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (6, "options"), (7, "head"), (8, "patch")];
    for (number, name) in methods {
        if let Some(inner) = object(of, name) {
            put_nested(out, number, |out| operation(inner, out));
        }
    }
    parameter_items(of, 9, out);
    extensions(of, 10, out);
}

fn operation(of: &Object, out: &mut Vec<u8>) {
    texts(of, "tags", 1, out);
    text(of, "description", 3, out);
    text(of, "operationId", 5, out);
    texts(of, "produces", 6, out);
    texts(of, "consumes", 7, out);
    parameter_items(of, 8, out);
    if let Some(responses) = object(of, "responses") {
        put_nested(out, 9, |out| {
            named(responses, 1, out, |response, out| {
                put_nested(out, 1, |out| {
                    text(response, "description", 1, out);
                    if let Some(inner) = object(response, "schema") {
                        put_nested(out, 2, |out| put_nested(out, 1, |out| schema(inner, out)));
                    }
                });
            });
        });
    }
    texts(of, "schemes", 10, out);
    extensions(of, 13, out);
}

fn parameter_items(of: &Object, number: u32, out: &mut Vec<u8>) {
    for item in
        of.get("parameters").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object)
    {
        put_nested(out, number, |out| match item.get("$ref").and_then(Value::as_str) {
            Some(reference) => put_nested(out, 2, |out| put_bytes(out, 1, reference.as_bytes())),
            None => put_nested(out, 1, |out| parameter(item, out)),
        });
    }
}

fn parameter(of: &Object, out: &mut Vec<u8>) {
    let place = of.get("in").and_then(Value::as_str).unwrap_or_default();
    if place == "body" {
        put_nested(out, 1, |out| {
            for (number, name) in [(1, "description"), (2, "name"), (3, "in")] {
                text(of, name, number, out);
            }
            flag(of, "required", 4, out);
            if let Some(inner) = object(of, "schema") {
                put_nested(out, 5, |out| schema(inner, out));
            }
        });
        return;
    }
    let (number, kind, unique) = if place == "path" { (4, 5, 19) } else { (3, 6, 20) };
    put_nested(out, 2, |out| {
        put_nested(out, number, |out| {
            flag(of, "required", 1, out);
            for (number, name) in [(2, "in"), (3, "description"), (4, "name"), (kind, "type")] {
                text(of, name, number, out);
            }
            flag(of, "uniqueItems", unique, out);
        });
    });
}
