//! Schemas of custom resources: that they are structural, that what they say fits together, and that
//! their rules compile.

use machinery::cel::RuleSet;
use machinery::schema::structural::{self, Node};
use serde_json::Value;

use super::{ErrorKind, ErrorList, Path, Report, shown};
use crate::tree::Tree;

const TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];
const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";
const INT_OR_STRING: &str = "x-kubernetes-int-or-string";
const EMBEDDED: &str = "x-kubernetes-embedded-resource";
const LIST_TYPE: &str = "x-kubernetes-list-type";
const LIST_KEYS: &str = "x-kubernetes-list-map-keys";
const MAP_TYPE: &str = "x-kubernetes-map-type";
const RULES: &str = "x-kubernetes-validations";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// The schema of a version; `path` is what holds `openAPIV3Schema`.
pub fn root(errors: &mut ErrorList, schema: &Value, has_status: bool, path: &Path) {
    if schema.is_null() {
        return;
    }
    let path = path.child("openAPIV3Schema");
    let before = errors.0.len();
    if has_status {
        root_with_status(errors, schema, &path);
    }
    if schema.flag("nullable") {
        errors.forbidden(&path.child("nullable"), "nullable cannot be true at the root");
    }
    let whole = errors.0.len();
    structural(errors, schema, Level::Root, &path);
    errors.0[whole..].sort_by_cached_key(ToString::to_string);
    if errors.0.len() == whole {
        defaults(errors, schema, Level::Root, false, &path);
    }
    fits(errors, schema, true, "", &path);
    if errors.0.len() == before {
        rules(errors, schema, &path);
    }
}

/// With `/status`, its schema is cut out of the root's: what speaks of the whole may not stand there.
fn root_with_status(errors: &mut ErrorList, schema: &Value, path: &Path) {
    // In upstream's order, as only the first is told.
    const BEFORE_TYPE: &[&str] = &["id", "$schema", "$ref"];
    const AFTER_TYPE: &[&str] = &[
        "nullable",
        "default",
        "enum",
        "maxProperties",
        "minProperties",
        "allOf",
        "oneOf",
        "anyOf",
        "not",
        "additionalProperties",
        "patternProperties",
        "dependencies",
        "additionalItems",
        "definitions",
        EMBEDDED,
        INT_OR_STRING,
        LIST_KEYS,
        LIST_TYPE,
        MAP_TYPE,
    ];
    let set = |field: &&&str| schema.get(**field).is_some_and(|v| !v.is_null() && *v != false);
    let bad_type = schema.text("type") != "object" && schema.has("type");
    if bad_type && !BEFORE_TYPE.iter().any(|field| set(&field)) {
        let detail = "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        errors.invalid(&path.child("type"), schema.text("type"), detail);
    } else if BEFORE_TYPE.iter().chain(AFTER_TYPE).any(|field| set(&field)) {
        let allowed = "Description Type Format Title Maximum ExclusiveMaximum Minimum ExclusiveMinimum MaxLength \
                       MinLength Pattern MaxItems MinItems UniqueItems MultipleOf Required Items Properties \
                       ExternalDocs Example XPreserveUnknownFields XValidations";
        let detail = format!(
            "only [{allowed}] fields are allowed at the root of the schema if the status subresource is enabled"
        );
        errors.invalid(path, schema.clone(), detail);
    }
}

/// Defaults are what the schema asks for, with nothing that it would drop. Those of metadata are not looked into.
fn defaults(errors: &mut ErrorList, schema: &Value, level: Level, in_meta: bool, path: &Path) {
    let embedded = level == Level::Root || schema.flag(EMBEDDED);
    let in_meta = in_meta && !embedded;
    let default = schema.at("default");
    if !default.is_null() && !in_meta {
        a_default(errors, schema, default, embedded, &path.child("default"));
    }
    if schema.at("items").is_object() {
        defaults(errors, schema.at("items"), Level::Item, in_meta, &path.child("items"));
    }
    for (name, property) in schema.map("properties") {
        let in_meta = in_meta || (embedded && matches!(&**name, "metadata" | "apiVersion" | "kind"));
        defaults(errors, property, Level::Field, in_meta, &path.child("properties").key(name));
    }
}

fn a_default(errors: &mut ErrorList, schema: &Value, default: &Value, embedded: bool, path: &Path) {
    let node = if embedded { Node::resource(schema) } else { Node::new(schema) };
    let mut pruned = default.clone();
    structural::prune(&node, &mut pruned);
    if pruned != *default {
        errors.invalid(path, default.clone(), "must not have unknown fields");
    }
    if embedded && default.is_object() {
        let before = errors.0.len();
        ["apiVersion", "kind"].into_iter().for_each(|field| errors.required_text(path, default, field));
        if errors.0.len() > before {
            return;
        }
    }
    for mut error in structural::validate(&node, default) {
        let below = error.path.to_string();
        error.path = match below.as_str() {
            "<nil>" => path.clone(),
            field => path.child(field),
        };
        errors.push(error);
    }
}

/// Formats that mean something, of texts and what has no type.
const FORMATS: &[&str] = &[
    "bsonobjectid",
    "uri",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "cidr",
    "mac",
    "uuid",
    "uuid3",
    "uuid4",
    "uuid5",
    "isbn",
    "isbn10",
    "isbn13",
    "creditcard",
    "ssn",
    "hexcolor",
    "rgbcolor",
    "byte",
    "password",
    "date",
    "duration",
    "datetime",
    "k8sshortname",
    "k8slongname",
];

/// The formats in a schema that mean nothing.
pub fn unknown_formats(schema: &Value) -> Vec<String> {
    let mut out = Vec::new();
    let format = schema.text("format");
    let known = match schema.text("type") {
        "" | "string" => FORMATS.contains(&format.replace('-', "").as_str()),
        "integer" => matches!(format, "int32" | "int64"),
        "number" => matches!(format, "float" | "double"),
        _ => false,
    };
    if !format.is_empty() && !known {
        out.push(format.to_owned());
    }
    for field in ["items", "not", "additionalProperties", "additionalItems"] {
        if schema.at(field).is_object() {
            out.extend(unknown_formats(schema.at(field)));
        }
    }
    for field in ["allOf", "anyOf", "oneOf"] {
        out.extend(schema.list(field).iter().flat_map(unknown_formats));
    }
    for field in ["properties", "patternProperties", "definitions"] {
        out.extend(schema.map(field).values().flat_map(unknown_formats));
    }
    out
}

/// The pieces of a path: its delimiters, quoted names and plain ones.
fn pieces(text: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '.' | '[' | ']' => 1,
            '\'' => {
                let end =
                    rest.char_indices().skip(1).find(|(at, c)| *c == '\'' && !rest[..*at].ends_with('\\'));
                end.map_or(rest.len(), |(at, _)| at + 1)
            }
            _ => rest.find(['.', '[', ']']).unwrap_or(rest.len()),
        };
        out.push(&rest[..length]);
        rest = &rest[length..];
    }
    out
}

/// The schema that a path such as `.spec['a b'].c` leads to.
pub fn field_path<'a>(text: &str, schema: &'a Value, brackets: bool) -> Result<&'a Value, String> {
    const NONE: &str = "does not refer to a valid field";
    const END: &str = "unexpected end of JSON path";
    let mut at = schema;
    let mut pieces = pieces(text).into_iter();
    while let Some(piece) = pieces.next() {
        let unescaped;
        let name = match piece {
            "[" if !brackets => return Err("array notation is not allowed".to_owned()),
            "[" => {
                let quoted = pieces.next().ok_or(END)?;
                let inner = quoted.strip_prefix('\'').and_then(|text| text.strip_suffix('\''));
                let inner = inner.filter(|_| quoted.len() > 1);
                unescaped = inner
                    .ok_or_else(|| format!("expected single quoted string but got {quoted}"))?
                    .replace("\\'", "'")
                    .replace("\\\\", "\\");
                match pieces.next() {
                    Some("]") => unescaped.as_str(),
                    Some(other) => return Err(format!("expected ] but got {other}")),
                    None => return Err(END.to_owned()),
                }
            }
            "." => pieces.next().ok_or(END)?,
            other => return Err(format!("expected [ or . but got: {other}")),
        };
        at = match (at.at("properties").as_object(), at.at("additionalProperties")) {
            (Some(all), _) => all.get(name).ok_or(NONE)?,
            (None, Value::Null) => return Err(NONE.to_owned()),
            (None, rest) => rest,
        };
    }
    Ok(at)
}

/// What makes a schema structural.
fn structural(errors: &mut ErrorList, schema: &Value, level: Level, path: &Path) {
    let ty = schema.text("type");
    let items = schema.at("items");
    if ty == "array" && items.is_null() {
        errors.required(&path.child("items"), "must be specified");
    }
    if items.is_object() {
        structural(errors, items, Level::Item, &path.child("items"));
    }
    for (name, property) in schema.map("properties") {
        structural(errors, property, Level::Field, &path.child("properties").key(name));
    }
    let rest = schema.at("additionalProperties");
    if rest.is_object() {
        structural(errors, rest, Level::Field, &path.child("additionalProperties"));
    }
    if !rest.is_null() && level == Level::Root {
        errors.forbidden(&path.child("additionalProperties"), "must not be used at the root");
    }
    let (either, preserve, embedded) =
        (schema.flag(INT_OR_STRING), schema.flag(PRESERVE), schema.flag(EMBEDDED));
    for (field, set) in [(PRESERVE, preserve), (EMBEDDED, embedded)] {
        if either && set {
            errors.invalid(&path.child(field), true, "must be false if x-kubernetes-int-or-string is true");
        }
    }
    nested_values(errors, schema, path);
    let at = path.child("type");
    if embedded && ty != "object" {
        let detail = "must be object if x-kubernetes-embedded-resource is true";
        if ty.is_empty() {
            errors.required(&at, detail);
        } else {
            errors.invalid(&at, ty, detail);
        }
    } else if ty.is_empty() && !either && !preserve {
        let place = match level {
            Level::Root => "at the root",
            Level::Item => "for specified array items",
            Level::Field => "for specified object fields",
        };
        errors.required(&at, &format!("must not be empty {place}"));
    }
    if embedded && !rest.is_null() {
        let detail = "must not be used if x-kubernetes-embedded-resource is set";
        errors.forbidden(&path.child("additionalProperties"), detail);
    }
    if level == Level::Root && !ty.is_empty() && ty != "object" {
        errors.invalid(&at, ty, "must be object at the root");
    }
    metadata(errors, schema, level, path);
    if embedded && !preserve && schema.map("properties").is_empty() {
        let detail = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        errors.required(&path.child("properties"), detail);
    }
}

/// `apiVersion`, `kind` and `metadata` where they mean what they mean in objects.
fn metadata(errors: &mut ErrorList, schema: &Value, level: Level, path: &Path) {
    if level != Level::Root && !schema.flag(EMBEDDED) {
        return;
    }
    let properties = schema.map("properties");
    for (name, ty) in [("kind", "string"), ("apiVersion", "string"), ("metadata", "object")] {
        let Some(property) = properties.get(name) else { continue };
        if property.text("type") != ty {
            let at = path.child("properties").key(name).child("type");
            errors.invalid(&at, property.text("type"), format!("must be {ty}"));
        }
    }
    let Some(metadata) = properties.get("metadata").filter(|_| level == Level::Root) else { return };
    let known = metadata.map("properties").keys().all(|k| k == "name" || k == "generateName");
    let plain = metadata
        .as_object()
        .is_none_or(|m| m.keys().all(|k| matches!(&**k, "type" | "properties" | "default")));
    if !known || !plain {
        let detail = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        errors.forbidden(&path.child("properties").key("metadata"), detail);
    }
}

/// Validations below `allOf`, `anyOf`, `oneOf` and `not`, which may narrow but not describe.
fn nested_values(errors: &mut ErrorList, schema: &Value, path: &Path) {
    let int_or_string = |list: &Value| *list == serde_json::json!([{"type": "integer"}, {"type": "string"}]);
    for list in ["anyOf", "allOf", "oneOf"] {
        if list == "anyOf" && int_or_string(schema.at(list)) {
            continue;
        }
        for (i, part) in schema.list(list).iter().enumerate() {
            let mut part = part.clone();
            if list == "allOf" && i == 0 && int_or_string(part.at("anyOf")) {
                part.unset("anyOf");
            }
            nested(errors, &part, list == "allOf", &path.child(list).index(i));
        }
    }
    if schema.has("not") {
        nested(errors, schema.at("not"), false, &path.child("not"));
    }
    let pattern = schema.text("pattern");
    if !pattern.is_empty() && structural::compile_pattern(pattern).is_none() {
        let detail = "must be a valid regular expression";
        errors.invalid(&path.child("pattern"), pattern, detail);
    }
}

fn nested(errors: &mut ErrorList, schema: &Value, all_of: bool, path: &Path) {
    nested_values(errors, schema, path);
    if schema.at("items").is_object() {
        nested(errors, schema.at("items"), all_of, &path.child("items"));
    }
    for (name, property) in schema.map("properties") {
        nested(errors, property, all_of, &path.child("properties").key(name));
    }
    let forbidden = [
        ("type", "must be empty"),
        ("title", "must be empty"),
        ("description", "must be empty"),
        (LIST_KEYS, "must be empty"),
        ("additionalProperties", "must be undefined"),
        ("default", "must be undefined"),
        (LIST_TYPE, "must be undefined"),
        (MAP_TYPE, "must be undefined"),
        ("nullable", "must be false"),
        (PRESERVE, "must be false"),
        (EMBEDDED, "must be false"),
        (INT_OR_STRING, "must be false"),
    ];
    for (field, detail) in forbidden.into_iter().filter(|(f, _)| schema.has(f) && *schema.at(f) != false) {
        errors.forbidden(&path.child(field), format!("{detail} to be structural"));
    }
    if !schema.list(RULES).is_empty() && !all_of {
        errors.forbidden(&path.child(RULES), "must be empty to be structural");
    }
    if schema.map("properties").contains_key("metadata") {
        let at = path.child("properties").key("metadata");
        errors.forbidden(&at, "must not be specified in a nested context");
    }
}

/// What a schema says must fit together. `no_defaults` says where defaults are not allowed.
fn fits(errors: &mut ErrorList, schema: &Value, is_root: bool, no_defaults: &str, path: &Path) {
    let ty = schema.text("type");
    if ty == "null" {
        let detail = "type cannot be set to null, use nullable as an alternative";
        errors.forbidden(&path.child("type"), detail);
    }
    if !ty.is_empty() {
        errors.one_of(&path.child("type"), ty, TYPES);
    }
    if schema.has("default") && !no_defaults.is_empty() {
        errors.forbidden(&path.child("default"), format!("must not be set {no_defaults}"));
    }
    for field in ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"] {
        if schema.get(field).is_some_and(|v| !v.is_null() && (*v != "" || field == "$ref")) {
            errors.forbidden(&path.child(field), format!("{field} is not supported"));
        }
    }
    if schema.at("items").is_array() {
        errors.forbidden(&path.child("items"), "items must be a schema object and not an array");
    }
    if schema.flag("uniqueItems") {
        let detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.forbidden(&path.child("uniqueItems"), detail);
    }
    let rest = schema.at("additionalProperties");
    if !rest.is_null() && *rest != true && !schema.map("properties").is_empty() {
        let detail = "additionalProperties and properties are mutual exclusive";
        errors.forbidden(&path.child("additionalProperties"), detail);
    }
    if *schema.at(PRESERVE) == false {
        errors.invalid(&path.child(PRESERVE), false, "must be true or undefined");
    }
    lists_and_maps(errors, schema, path);
    rule_texts(errors, schema, path);
    for field in ["additionalProperties", "items", "not"] {
        if schema.at(field).is_object() {
            fits(errors, schema.at(field), false, no_defaults, &path.child(field));
        }
    }
    for (name, property) in schema.map("properties") {
        let own = format!("in top-level {name}");
        let top = is_root && matches!(&**name, "metadata" | "kind" | "apiVersion");
        let no_defaults = if top { &own } else { no_defaults };
        fits(errors, property, false, no_defaults, &path.child("properties").key(name));
    }
    for list in ["allOf", "anyOf", "oneOf"] {
        for (i, part) in schema.list(list).iter().enumerate() {
            fits(errors, part, false, no_defaults, &path.child(list).index(i));
        }
    }
}

fn lists_and_maps(errors: &mut ErrorList, schema: &Value, path: &Path) {
    let ty = schema.text("type");
    let typed = |errors: &mut ErrorList, field: &str, wanted: &str| {
        if schema.has(field) && ty != wanted {
            let (at, detail) = (path.child("type"), format!("must be {wanted} if {field} is specified"));
            if ty.is_empty() {
                errors.required(&at, &detail);
            } else {
                errors.invalid(&at, ty, detail);
            }
        }
    };
    typed(errors, MAP_TYPE, "object");
    if schema.has(MAP_TYPE) {
        errors.one_of(&path.child(MAP_TYPE), schema.text(MAP_TYPE), &["atomic", "granular"]);
    }
    typed(errors, LIST_TYPE, "array");
    let (kind, items) = (schema.text(LIST_TYPE), schema.at("items"));
    if kind == "set" && ty == "array" {
        let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
        let field = if items.text("type") == "array" { LIST_TYPE } else { MAP_TYPE };
        let wrong = match items.text("type") {
            "array" => items.has(LIST_TYPE) && items.text(LIST_TYPE) != "atomic",
            "object" => items.text(MAP_TYPE) != "atomic",
            _ => false,
        };
        if wrong {
            errors.invalid(&path.child("items").child(field), items.at(LIST_TYPE).clone(), detail);
        }
    }
    if schema.has(LIST_TYPE) {
        errors.one_of(&path.child(LIST_TYPE), kind, &["atomic", "set", "map"]);
    }
    let keys: Vec<&str> = schema.list(LIST_KEYS).iter().filter_map(Value::as_str).collect();
    if !keys.is_empty() && kind != "map" {
        let (at, detail) = (path.child(LIST_TYPE), "must be map if x-kubernetes-list-map-keys is non-empty");
        if schema.has(LIST_TYPE) {
            errors.invalid(&at, kind, detail);
        } else {
            errors.required(&at, detail);
        }
    }
    if kind == "map" {
        map_keys(errors, schema, &keys, path);
    }
    if matches!(kind, "set" | "map") && items.flag("nullable") {
        let detail = format!("cannot be nullable when x-kubernetes-list-type is {kind}");
        errors.forbidden(&path.child("items").child("nullable"), detail);
    }
}

fn map_keys(errors: &mut ErrorList, schema: &Value, keys: &[&str], path: &Path) {
    let (items, at) = (schema.at("items"), path.child(LIST_KEYS));
    if keys.is_empty() {
        errors.required(&at, "must not be empty if x-kubernetes-list-type is map");
    }
    if items.is_null() {
        errors.required(&path.child("items"), "must have a schema if x-kubernetes-list-type is map");
        return;
    }
    if items.text("type") != "object" {
        let detail = "must be object if parent array's x-kubernetes-list-type is map";
        errors.invalid(&path.child("items").child("type"), items.text("type"), detail);
        return;
    }
    let shown = schema.at(LIST_KEYS).clone();
    for (i, key) in keys.iter().enumerate() {
        if keys[..i].contains(key) {
            errors.invalid(&at, shown.clone(), "must not contain duplicate entries");
        }
        let Some(property) = items.map("properties").get(*key) else {
            errors.invalid(&at, shown.clone(), "entries must all be names of item properties");
            continue;
        };
        let place = path.child("items").child("properties").key(key);
        if matches!(property.text("type"), "array" | "object") {
            let detail = "must be a scalar type if parent array's x-kubernetes-list-type is map";
            errors.invalid(&place.child("type"), items.text("type"), detail);
        }
        if !items.list("required").iter().any(|r| r == key) && !property.has("default") {
            let detail = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            errors.required(&place.child("default"), detail);
        }
        if property.flag("nullable") {
            let detail = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.forbidden(&place.child("nullable"), detail);
        }
    }
}

/// The texts around rules.
fn rule_texts(errors: &mut ErrorList, schema: &Value, path: &Path) {
    const REASONS: &[&str] =
        &["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
    let breaks = |text: &str| text.contains(['\n', '\r']);
    for (i, rule) in schema.list(RULES).iter().enumerate() {
        let path = path.child(RULES).index(i);
        let (text, message) = (rule.text("rule").trim(), rule.text("message"));
        if text.is_empty() {
            errors.required(&path.child("rule"), "rule is not specified");
        } else if !message.is_empty() && message.trim().is_empty() {
            errors.invalid(&path.child("message"), message, "must be non-empty if specified");
        } else if breaks(message.trim()) {
            errors.invalid(&path.child("message"), message, "must not contain line breaks");
        } else if breaks(text) && message.trim().is_empty() {
            let detail = "message must be specified if rule contains line breaks";
            errors.required(&path.child("message"), detail);
        }
        let expression = rule.text("messageExpression");
        if !expression.is_empty() && expression.trim().is_empty() {
            let detail = "messageExpression must be non-empty if specified";
            errors.required(&path.child("messageExpression"), detail);
        }
        if rule.has("reason") {
            errors.one_of(&path.child("reason"), rule.text("reason"), REASONS);
        }
        let field = rule.text("fieldPath");
        if !field.is_empty() && field.trim().is_empty() {
            errors.invalid(&path.child("fieldPath"), field, "must be non-empty if specified");
        } else if breaks(field) {
            errors.invalid(&path.child("fieldPath"), field, "must not contain line breaks");
        }
        if !field.is_empty() && field_path(field, schema, true).is_err() {
            errors.invalid(&path.child("fieldPath"), field, "must be a valid path");
        }
    }
}

/// Rules that do not compile.
fn rules(errors: &mut ErrorList, schema: &Value, path: &Path) {
    let (_, bad) = RuleSet::compile(&Node::resource(schema));
    for rule in bad {
        let mut at = path.clone();
        if !rule.path.is_empty() {
            at = at.child(rule.path.trim_start_matches('.'));
        }
        at = at.child(RULES).index(rule.index).child("rule");
        let text = shown::text(&given(schema, &rule.path, rule.index), shown::RULE);
        shown::report(errors, ErrorKind::Invalid, &at, text, &rule.message);
    }
}

/// The rule at a path such as `properties[spec].items`.
fn given(schema: &Value, path: &str, index: usize) -> Value {
    let mut node = schema;
    for part in path.split('.').filter(|p| !p.is_empty()) {
        node = match part.strip_prefix("properties[").and_then(|p| p.strip_suffix(']')) {
            Some(name) => node.at("properties").get(name).unwrap_or(&Value::Null),
            None => node.get(part).unwrap_or(&Value::Null),
        };
    }
    node.list(RULES).get(index).cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(schema: Value, has_status: bool) -> Vec<String> {
        let mut errors = ErrorList::new();
        root(&mut errors, &json!({"type": "object", "properties": schema}), has_status, &Path::new("s"));
        errors.0.iter().map(|error| error.to_string().replace("s.openAPIV3Schema.properties", "P")).collect()
    }

    #[test]
    fn defaults_are_held_against_their_schema() {
        let of = |kind: &str, default: Value| {
            json!({"a": {"type": kind, "default": default,
            "properties": {"b": {"type": "integer", "minimum": 3}}}})
        };
        let none: [&str; 0] = [];
        assert_eq!(found(of("object", json!({"b": 5})), true), none);
        assert_eq!(
            found(of("object", json!({"b": 1, "c": 2})), true),
            [
                "P[a].default: Invalid value: {\"b\":1,\"c\":2}: must not have unknown fields",
                "P[a].default.b: Invalid value: 1: b in body should be greater than or equal to 3",
            ]
        );
        assert_eq!(
            found(json!({"a": {"type": "string", "default": []}}), true),
            ["P[a].default: Invalid value: \"array\":  in body must be of type string: \"array\""]
        );
    }

    #[test]
    fn paths_of_fields() {
        let schema = json!({"properties": {"spec": {"properties": {"a b": {"type": "string"}}},
            "map": {"additionalProperties": {"type": "integer"}}}});
        for (path, brackets, expect) in [
            (".spec['a b']", true, Ok("string")),
            (".map.any", false, Ok("integer")),
            (".spec['a b']", false, Err("array notation is not allowed")),
            ("spec", true, Err("expected [ or . but got: spec")),
            (".spec.none", true, Err("does not refer to a valid field")),
            (".spec.", true, Err("unexpected end of JSON path")),
        ] {
            let found = field_path(path, &schema, brackets).map(|node| node.text("type"));
            assert_eq!(found, expect.map_err(str::to_owned), "{path}");
        }
    }

    #[test]
    fn formats_that_mean_nothing() {
        let schema = json!({"type": "object", "properties": {"a": {"type": "string", "format": "date-time"},
            "b": {"type": "integer", "format": "odd"}, "c": {"items": {"format": "odder"}}}});
        assert_eq!(unknown_formats(&schema), ["odd", "odder"]);
    }
}
