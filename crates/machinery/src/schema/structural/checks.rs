//! Validation of custom resources against the value checks of their schema, in upstream's words.
//!
//! CEL rules (`x-kubernetes-validations`) are only carried here; `cel` evaluates them.

use std::sync::OnceLock;

use api::validation::{FieldError, Path};
use regex::Regex;
use serde_json::Value;

use super::{Node, NodeKind};
use crate::codec::scalar::go_quote;
use crate::schema::ListKind;

/// One rule of `x-kubernetes-validations`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// The expression.
    pub rule: String,
    /// What to say when it is false.
    pub message: Option<String>,
    /// An expression that gives the message.
    pub message_expression: Option<String>,
    /// The reason of the error, such as `FieldValueForbidden`.
    pub reason: Option<String>,
    /// The field the error is about, relative to the node.
    pub field_path: Option<String>,
    /// Whether `oldSelf` is optional, so that the rule also runs on create.
    pub optional_old_self: bool,
}

/// The largest compiled pattern, in bytes.
const PATTERN_BYTES: usize = 1 << 20;

/// A pattern of a schema as a regular expression; `None` for one that is broken or larger than any that is of use.
pub fn compile_pattern(source: &str) -> Option<Regex> {
    regex::RegexBuilder::new(source).size_limit(PATTERN_BYTES).build().ok()
}

/// A pattern, compiled when a text is first held against it: a schema may have thousands that never are.
#[derive(Clone, Debug)]
struct Pattern {
    source: String,
    compiled: OnceLock<Option<Regex>>,
}

impl Pattern {
    fn allows(&self, text: &str) -> bool {
        let compiled = self.compiled.get_or_init(|| compile_pattern(&self.source));
        compiled.as_ref().is_none_or(|regex| regex.is_match(text))
    }
}

/// Value checks of a node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Checks {
    enumeration: Vec<Value>,
    pattern: Option<Pattern>,
    format: Option<String>,
    minimum: Option<(f64, bool)>,
    maximum: Option<(f64, bool)>,
    multiple_of: Option<f64>,
    length: (Option<u64>, Option<u64>),
    items: (Option<u64>, Option<u64>),
    properties: (Option<u64>, Option<u64>),
    unique: bool,
    required: Vec<String>,
    all_of: Vec<Node>,
    any_of: Vec<Node>,
    one_of: Vec<Node>,
    not: Option<Box<Node>>,
}

pub(super) fn rules(schema: &Value) -> Vec<Rule> {
    let list = schema.get("x-kubernetes-validations").and_then(Value::as_array);
    let one = |rule: &Value| {
        let text =
            |name: &str| rule.get(name).and_then(Value::as_str).filter(|t| !t.is_empty()).map(str::to_string);
        Rule {
            rule: text("rule").unwrap_or_default(),
            message: text("message"),
            message_expression: text("messageExpression"),
            reason: text("reason"),
            field_path: text("fieldPath"),
            optional_old_self: rule.get("optionalOldSelf").and_then(Value::as_bool).unwrap_or(false),
        }
    };
    list.into_iter().flatten().map(one).collect()
}

impl Checks {
    pub(super) fn format(&self) -> Option<&str> {
        self.format.as_deref()
    }

    pub(super) fn new(schema: &Value) -> Checks {
        let text = |name: &str| schema.get(name).and_then(Value::as_str);
        let flag = |name: &str| schema.get(name).and_then(Value::as_bool).unwrap_or(false);
        let number = |name: &str| schema.get(name).and_then(Value::as_f64);
        let count = |name: &str| schema.get(name).and_then(Value::as_u64);
        let nodes = |name: &str| -> Vec<Node> {
            schema.get(name).and_then(Value::as_array).into_iter().flatten().map(Node::new).collect()
        };
        let strings = |name: &str| -> Vec<String> {
            let list = schema.get(name).and_then(Value::as_array).into_iter().flatten();
            list.filter_map(Value::as_str).map(str::to_string).collect()
        };
        Checks {
            enumeration: schema.get("enum").and_then(Value::as_array).cloned().unwrap_or_default(),
            pattern: text("pattern")
                .map(|source| Pattern { source: source.to_string(), compiled: OnceLock::new() }),
            format: text("format").map(str::to_string),
            minimum: number("minimum").map(|n| (n, flag("exclusiveMinimum"))),
            maximum: number("maximum").map(|n| (n, flag("exclusiveMaximum"))),
            multiple_of: number("multipleOf"),
            length: (count("minLength"), count("maxLength")),
            items: (count("minItems"), count("maxItems")),
            properties: (count("minProperties"), count("maxProperties")),
            unique: flag("uniqueItems"),
            required: strings("required"),
            all_of: nodes("allOf"),
            any_of: nodes("anyOf"),
            one_of: nodes("oneOf"),
            not: schema.get("not").map(|not| Box::new(Node::new(not))),
        }
    }
}

/// Everything wrong with a new object.
pub fn validate(node: &Node, value: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    check(node, value, None, &Path::root(), &mut errors);
    errors
}

/// Everything wrong with a changed object; what did not change is not held against it (ratcheting).
pub fn validate_update(node: &Node, value: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    check(node, value, Some(old), &Path::root(), &mut errors);
    errors
}

fn check(node: &Node, value: &Value, old: Option<&Value>, path: &Path, errors: &mut Vec<FieldError>) {
    if node.builtin.is_some() || old == Some(value) {
        return;
    }
    if value.is_null() && (node.nullable || node.kind == NodeKind::Any) {
        return;
    }
    if let Some(wanted) = wrong_type(node.kind, value) {
        let found = type_name(value);
        let detail = format!("{} must be of type {wanted}: {}", within(path), go_quote(found));
        errors.push(FieldError::type_invalid(path, found, detail));
        if node.kind == NodeKind::Integer && value.is_number() {
            errors.push(unchecked(path, "(default format)"));
        }
        return;
    }
    junctors(node, value, path, errors);
    match value {
        Value::String(text) => check_string(&node.checks, text, path, errors),
        Value::Number(_) => check_number(&node.checks, value, path, errors),
        Value::Array(items) => check_list(node, items, old, path, errors),
        Value::Object(_) => check_object(node, value, old, path, errors),
        _ => {}
    }
    let allowed = &node.checks.enumeration;
    if !allowed.is_empty() && !allowed.contains(value) {
        let shown: Vec<String> = allowed.iter().map(plain).collect();
        let shown: Vec<&str> = shown.iter().map(String::as_str).collect();
        errors.push(FieldError::not_supported(path, value.clone(), &shown));
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_string)
}

/// The name that kube-openapi's messages begin with.
fn within(path: &Path) -> String {
    match path == &Path::root() {
        true => " in body".to_string(),
        false => format!("{path} in body"),
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn wrong_type(kind: NodeKind, value: &Value) -> Option<&'static str> {
    let (fits, wanted) = match kind {
        NodeKind::Any => (true, ""),
        NodeKind::Object => (value.is_object(), "object"),
        NodeKind::Array => (value.is_array(), "array"),
        NodeKind::String => (value.is_string(), "string"),
        NodeKind::Integer => (value.as_f64().is_some_and(|n| n.fract() == 0.0), "integer"),
        NodeKind::Number => (value.is_number(), "number"),
        NodeKind::Boolean => (value.is_boolean(), "boolean"),
        NodeKind::IntOrString => (value.is_i64() || value.is_u64() || value.is_string(), "integer,string"),
    };
    (!fits).then_some(wanted)
}

fn holds(node: &Node, value: &Value) -> bool {
    let mut errors = Vec::new();
    check(node, value, None, &Path::root(), &mut errors);
    errors.is_empty()
}

fn junctors(node: &Node, value: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let checks = &node.checks;
    let name = if path == &Path::root() { String::new() } else { path.to_string() };
    // Upstream gives these no path.
    let mut bad = |detail: String| errors.push(FieldError::invalid(&Path::root(), "", detail));
    if !checks.any_of.is_empty() && !checks.any_of.iter().any(|inner| holds(inner, value)) {
        bad(format!("{} must validate at least one schema (anyOf)", go_quote(&name)));
        check(&checks.any_of[0], value, None, path, errors);
    }
    // Upstream gives these no path, and goes on with what is wrong by the first alternative.
    let mut bad = |detail: String| errors.push(FieldError::invalid(&Path::root(), "", detail));
    let mut none = false;
    if !checks.one_of.is_empty() {
        match checks.one_of.iter().filter(|inner| holds(inner, value)).count() {
            1 => {}
            0 => {
                none = true;
                bad(format!(
                    "{} must validate one and only one schema (oneOf). Found none valid",
                    go_quote(&name)
                ));
            }
            many => bad(format!(
                "{} must validate one and only one schema (oneOf). Found {many} valid alternatives",
                go_quote(&name)
            )),
        }
    }
    if none {
        check(&checks.one_of[0], value, None, path, errors);
    }
    let mut bad = |detail: String| errors.push(FieldError::invalid(&Path::root(), "", detail));
    if checks.not.as_ref().is_some_and(|inner| holds(inner, value)) {
        bad(format!("{} must not validate the schema (not)", go_quote(&name)));
    }
    let failing = checks.all_of.iter().any(|inner| !holds(inner, value));
    if failing {
        bad(format!("{} must validate all the schemas (allOf)", go_quote(&name)));
    }
    for inner in &checks.all_of {
        check(inner, value, None, path, errors);
    }
}

fn check_string(checks: &Checks, text: &str, path: &Path, errors: &mut Vec<FieldError>) {
    let length = text.chars().count() as u64;
    if let (_, Some(most)) = checks.length
        && length > most
    {
        errors.push(FieldError::too_long(path, usize::try_from(most).unwrap_or(usize::MAX)));
        return check_format(checks, text, path, errors);
    }
    let mut bad =
        |detail: String| errors.push(FieldError::invalid(path, text, format!("{} {detail}", within(path))));
    // Of these, upstream tells the first.
    if let (Some(least), _) = checks.length
        && length < least
    {
        bad(format!("should be at least {least} chars long"));
    } else if let Some(pattern) = &checks.pattern
        && !pattern.allows(text)
    {
        bad(format!("should match '{}'", pattern.source));
    }
    check_format(checks, text, path, errors);
}

fn check_format(checks: &Checks, text: &str, path: &Path, errors: &mut Vec<FieldError>) {
    if let Some(format) = &checks.format
        && !fits_format(format, text)
    {
        let detail = format!("{} must be of type {format}: {}", within(path), go_quote(text));
        errors.push(FieldError::type_invalid(path, text, detail));
    }
}

/// The formats that upstream checks and that are common; others pass.
fn fits_format(format: &str, text: &str) -> bool {
    match format.replace('-', "").as_str() {
        "datetime" => text.parse::<jiff::Timestamp>().is_ok(),
        "date" => text.parse::<jiff::civil::Date>().is_ok() && text.len() == 10,
        "duration" => crate::codec::scalar::parse_duration(text).is_ok(),
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        "uuid" | "uuid3" | "uuid4" | "uuid5" => {
            let hex: Vec<&str> = text.split('-').collect();
            let lengths: Vec<usize> = hex.iter().map(|part| part.len()).collect();
            (lengths == [8, 4, 4, 4, 12] || lengths == [32])
                && hex.concat().bytes().all(|b| b.is_ascii_hexdigit())
        }
        "byte" => {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD.decode(text).is_ok()
        }
        _ => true,
    }
}

fn number_text(n: f64) -> String {
    Value::from(n).to_string().trim_end_matches(".0").to_string()
}

fn check_number(checks: &Checks, value: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let Some(n) = value.as_f64() else { return };
    let mut bad = |detail: String| {
        errors.push(FieldError::invalid(path, value.clone(), format!("{} {detail}", within(path))));
    };
    match checks.maximum {
        Some((most, true)) if n >= most => bad(format!("should be less than {}", number_text(most))),
        Some((most, false)) if n > most => {
            bad(format!("should be less than or equal to {}", number_text(most)))
        }
        _ => {}
    }
    match checks.minimum {
        Some((least, true)) if n <= least => bad(format!("should be greater than {}", number_text(least))),
        Some((least, false)) if n < least => {
            bad(format!("should be greater than or equal to {}", number_text(least)))
        }
        _ => {}
    }
    if let Some(factor) = checks.multiple_of
        && factor != 0.0
        && (n / factor).fract() != 0.0
    {
        bad(format!("should be a multiple of {}", number_text(factor)));
    }
    let (in_range, format) = match checks.format.as_deref() {
        Some("int32") => (i32::try_from(value.as_i64().unwrap_or(i64::MAX)).is_ok(), "int32"),
        Some("int64") => (value.is_i64() || value.as_u64().is_none(), "int64"),
        _ => (true, ""),
    };
    if !in_range {
        errors.push(unchecked(path, &format!("with format {format}")));
    }
}

/// A number that upstream's reader of numbers does not take.
fn unchecked(path: &Path, kind: &str) -> FieldError {
    let detail = format!("Checked value must be of type integer {kind} in {path}");
    FieldError::invalid(&Path::root(), "", detail)
}

fn check_list(node: &Node, items: &[Value], old: Option<&Value>, path: &Path, errors: &mut Vec<FieldError>) {
    let count = items.len() as u64;
    if let Some(place) = node.items.as_deref() {
        for (index, item) in items.iter().enumerate() {
            check(place, item, counterpart(node, item, old), &path.index(index), errors);
        }
    }
    if let (_, Some(most)) = node.checks.items
        && count > most
    {
        errors.push(FieldError::too_many(path, items.len(), usize::try_from(most).unwrap_or(usize::MAX)));
    }
    if let (Some(least), _) = node.checks.items
        && count < least
    {
        let detail = format!("{} should have at least {least} items", within(path));
        errors.push(FieldError::invalid(path, count, detail));
    }
    let repeated = |(index, item): (usize, &Value)| items[..index].contains(item);
    if node.checks.unique && items.iter().enumerate().any(repeated) {
        errors.push(FieldError::invalid(path, "", format!("{} shouldn't contain duplicates", within(path))));
    }
    match &node.list {
        Some(ListKind::Set) => {
            for (index, _) in items.iter().enumerate().filter(|entry| repeated(*entry)) {
                errors.push(FieldError::duplicate(&path.index(index), items[index].clone()));
            }
        }
        Some(ListKind::Map(keys)) => {
            let id = |item: &Value| -> Value {
                keys.iter()
                    .filter_map(|key| Some((key.to_string(), item.get(key.as_ref())?.clone())))
                    .collect()
            };
            let ids: Vec<Value> = items.iter().map(id).collect();
            for index in 0..ids.len() {
                if ids[..index].contains(&ids[index]) {
                    errors.push(FieldError::duplicate(&path.index(index), ids[index].clone()));
                }
            }
        }
        _ => {}
    }
}

/// The old element that a list element stands for, where the list has keys.
fn counterpart<'v>(node: &Node, item: &Value, old: Option<&'v Value>) -> Option<&'v Value> {
    let Some(ListKind::Map(keys)) = &node.list else { return None };
    let same = |other: &&Value| keys.iter().all(|key| other.get(key.as_ref()) == item.get(key.as_ref()));
    old?.as_array()?.iter().find(same)
}

fn check_object(node: &Node, value: &Value, old: Option<&Value>, path: &Path, errors: &mut Vec<FieldError>) {
    let Value::Object(map) = value else { return };
    let count = map.len() as u64;
    if let (_, Some(most)) = node.checks.properties
        && count > most
    {
        errors.push(FieldError::too_many(path, map.len(), usize::try_from(most).unwrap_or(usize::MAX)));
    }
    if let (Some(least), _) = node.checks.properties
        && count < least
    {
        let detail = format!("{} should have at least {least} properties", within(path));
        errors.push(FieldError::invalid(path, count, detail));
    }
    for name in &node.checks.required {
        if !map.contains_key(name) {
            errors.push(FieldError::required(&path.child(name), ""));
        }
    }
    for (name, inner) in map {
        let place = node.properties.get(name).or(node.additional.as_deref());
        if let Some(place) = place {
            check(place, inner, old.and_then(|old| old.get(name)), &path.child(name), errors);
        }
    }
    if node.embedded {
        for name in ["apiVersion", "kind"] {
            if map.get(name).and_then(Value::as_str).is_none_or(str::is_empty) {
                errors.push(FieldError::required(&path.child(name), ""));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn errors_are_in_upstream_words() {
        let node = Node::resource(
            &json!({"type": "object", "properties": {"spec": {"type": "object", "required": ["name"], "properties": {
                "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 3},
                "size": {"type": "integer", "minimum": 1, "maximum": 5},
                "mood": {"type": "string", "enum": ["good", "bad"]},
                "list": {"type": "array", "maxItems": 1, "items": {"type": "string"}},
                "port": {"x-kubernetes-int-or-string": true},
                "either": {"type": "object", "anyOf": [{"required": ["a"]}, {"required": ["b"]}], "properties": {"a": {"type": "string"}, "b": {"type": "string"}}},
            }}}}),
        );
        for (spec, expect) in [
            (json!({}), "spec.name: Required value"),
            (
                json!({"name": "A"}),
                "spec.name: Invalid value: \"A\": spec.name in body should match '^[a-z]+$'",
            ),
            (json!({"name": "abcd"}), "spec.name: Too long: may not be more than 3 bytes"),
            (json!({"name": "ABCD"}), "spec.name: Too long: may not be more than 3 bytes"),
            (
                json!({"name": 1}),
                "spec.name: Invalid value: \"integer\": spec.name in body must be of type string: \"integer\"",
            ),
            (
                json!({"name": "a", "size": 9}),
                "spec.size: Invalid value: 9: spec.size in body should be less than or equal to 5",
            ),
            (
                json!({"name": "a", "mood": "ok"}),
                "spec.mood: Unsupported value: \"ok\": supported values: \"good\", \"bad\"",
            ),
            (json!({"name": "a", "list": ["a", "b"]}), "spec.list: Too many: 2: must have at most 1 item"),
            (
                json!({"name": "a", "either": {}}),
                "<nil>: Invalid value: \"\": \"spec.either\" must validate at least one schema (anyOf); spec.either.a: Required value",
            ),
            (json!({"name": "a", "port": "x", "either": {"a": "y"}}), ""),
        ] {
            let value = json!({"apiVersion": "x/v1", "kind": "X", "metadata": {"name": "n"}, "spec": spec});
            let errors: Vec<String> = validate(&node, &value).iter().map(ToString::to_string).collect();
            assert_eq!(errors.join("; "), expect, "{}", value["spec"]);
            assert!(validate_update(&node, &value, &value).is_empty(), "what did not change is not checked");
        }
    }
}
