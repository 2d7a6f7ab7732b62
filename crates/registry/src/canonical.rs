//! The canonical form of a built-in object: what Go's decoder and encoder would make of it.
//! Upstream decodes into structs and encodes those, so empty values vanish or appear by the field's
//! tags, quantities and times are written anew. Clients compare against that, so we do the same.
//! It must not know what fields mean.

use std::collections::HashMap;
use std::sync::LazyLock;

use api::Quantity;
use serde_json::{Map, Value};

/// What a field holds.
#[derive(Clone, Debug)]
enum Shape {
    Any,
    Text,
    Int,
    Number,
    Bool,
    Bytes,
    Time,
    MicroTime,
    Quantity,
    IntOrString,
    Struct(&'static str),
    Pointer(Box<Shape>),
    List(Box<Shape>),
    Map(Box<Shape>),
}

/// What becomes of an empty value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Empty {
    /// Written all the same.
    Written,
    /// Left out, except structs.
    Omitted,
    /// Left out, structs too.
    ZeroOmitted,
}

struct Field {
    name: &'static str,
    shape: Shape,
    empty: Empty,
}

static SHAPES: LazyLock<HashMap<&'static str, Vec<Field>>> = LazyLock::new(|| {
    let lines = include_str!("shapes.txt").lines().filter(|l| !l.starts_with('#'));
    lines.filter_map(parse_line).collect()
});

fn parse_line(line: &'static str) -> Option<(&'static str, Vec<Field>)> {
    let mut words = line.split(' ');
    let name = words.next().filter(|n| !n.is_empty())?;
    let fields = words.filter_map(|word| {
        let (name, code) = word.split_once(':')?;
        let (code, empty) = match (code.strip_suffix('?'), code.strip_suffix('!')) {
            (Some(code), _) => (code, Empty::Omitted),
            (_, Some(code)) => (code, Empty::ZeroOmitted),
            _ => (code, Empty::Written),
        };
        Some(Field { name, shape: parse_shape(code), empty })
    });
    Some((name, fields.collect()))
}

fn parse_shape(code: &'static str) -> Shape {
    let rest = |n: usize| Box::new(parse_shape(&code[n..]));
    match code {
        "str" => Shape::Text,
        "int" => Shape::Int,
        "num" => Shape::Number,
        "bool" => Shape::Bool,
        "bytes" => Shape::Bytes,
        "time" => Shape::Time,
        "micro" => Shape::MicroTime,
        "qty" => Shape::Quantity,
        "intstr" => Shape::IntOrString,
        c if c.starts_with('@') => Shape::Struct(&c[1..]),
        c if c.starts_with('*') => Shape::Pointer(rest(1)),
        c if c.starts_with("[]") => Shape::List(rest(2)),
        c if c.starts_with("{}") => Shape::Map(rest(2)),
        _ => Shape::Any,
    }
}

/// Brings an object of a built-in kind into canonical form. Values of the wrong type are left
/// alone, fields that the type does not have too: decoding has dealt with both.
pub fn canonicalize(group: &str, version: &str, kind: &str, object: &mut Value) {
    canonicalize_type(&type_name(group, version, kind), object);
}

/// As [`canonicalize`], by type name such as `core.PodSpec`.
pub fn canonicalize_type(name: &str, value: &mut Value) {
    if let (Some(fields), Value::Object(map)) = (SHAPES.get(name), value) {
        each_field(fields, map);
    }
}

/// The type's name in the facts: `core.Pod`, `apps.Deployment`, `autoscalingv2.…`.
fn type_name(group: &str, version: &str, kind: &str) -> String {
    let group = if group.is_empty() { "core" } else { group.split('.').next().unwrap_or(group) };
    match version {
        "v1" => format!("{group}.{kind}"),
        version => format!("{group}{version}.{kind}"),
    }
}

fn each_field(fields: &'static [Field], map: &mut Map<String, Value>) {
    for field in fields {
        match map.get_mut(field.name) {
            None => {
                if let Some(zero) = zero(field) {
                    map.insert(field.name.to_string(), zero);
                }
            }
            Some(Value::Null) => match zero(field) {
                Some(zero) => {
                    map.insert(field.name.to_string(), zero);
                }
                None => {
                    map.remove(field.name);
                }
            },
            Some(value) => {
                convert(&field.shape, value);
                if !is_zero(&field.shape, value) {
                    continue;
                }
                match zero(field) {
                    Some(zero) => *value = zero,
                    None => {
                        map.remove(field.name);
                    }
                }
            }
        }
    }
}

/// What is written for an absent value, if anything is.
fn zero(field: &Field) -> Option<Value> {
    let always = field.empty == Empty::Written;
    match &field.shape {
        _ if field.empty == Empty::ZeroOmitted => None,
        Shape::Struct(name) => {
            let mut value = Value::Object(Map::new());
            canonicalize_type(name, &mut value);
            Some(value)
        }
        Shape::Time | Shape::MicroTime | Shape::Any => Some(Value::Null),
        Shape::Quantity => Some("0".into()),
        Shape::IntOrString => Some(0.into()),
        Shape::Text => always.then(|| "".into()),
        Shape::Int | Shape::Number => always.then(|| 0.into()),
        Shape::Bool => always.then(|| false.into()),
        Shape::Pointer(_) | Shape::List(_) | Shape::Map(_) | Shape::Bytes => always.then_some(Value::Null),
    }
}

/// Whether a present value is one that Go cannot tell from an absent one.
fn is_zero(shape: &Shape, value: &Value) -> bool {
    match (shape, value) {
        (Shape::Text | Shape::Bytes, Value::String(s)) => s.is_empty(),
        (Shape::Int | Shape::Number, Value::Number(n)) => n.as_f64() == Some(0.0),
        (Shape::Bool, Value::Bool(b)) => !b,
        (Shape::List(_), Value::Array(a)) => a.is_empty(),
        (Shape::Map(_), Value::Object(m)) => m.is_empty(),
        _ => false,
    }
}

fn convert(shape: &Shape, value: &mut Value) {
    match (shape, &mut *value) {
        (Shape::Pointer(inner), _) => convert(inner, value),
        (Shape::Struct(name), _) => canonicalize_type(name, value),
        (Shape::List(inner), Value::Array(items)) => {
            items.iter_mut().for_each(|item| convert(inner, item));
        }
        (Shape::Map(inner), Value::Object(map)) => {
            map.values_mut().for_each(|item| convert(inner, item));
        }
        (Shape::Quantity, _) => quantity(value),
        (Shape::Time, Value::String(s)) => {
            if let Some(time) = api::time::parse(s) {
                *s = api::time::format(time);
            }
        }
        (Shape::MicroTime, Value::String(s)) => {
            if let Some(time) = api::time::parse(s) {
                *s = api::time::format_micro(time);
            }
        }
        _ => {}
    }
}

/// Rewrites a quantity in its canonical text, `0.5` as `500m`.
pub fn quantity(value: &mut Value) {
    let text = match value {
        Value::String(s) => s.clone(),
        Value::Number(n) => n.to_string(),
        _ => return,
    };
    if let Ok(quantity) = text.parse::<Quantity>() {
        *value = quantity.to_string().into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_struct_is_known() {
        for fields in SHAPES.values() {
            for field in fields {
                let mut shape = &field.shape;
                while let Shape::Pointer(s) | Shape::List(s) | Shape::Map(s) = shape {
                    shape = s;
                }
                if let Shape::Struct(name) = shape {
                    assert!(SHAPES.contains_key(name), "{name}");
                }
            }
        }
    }

    #[test]
    fn empty_values_follow_the_tags() {
        let mut pod = json!({"metadata": {"name": "a", "labels": {}, "creationTimestamp": null},
            "spec": {"containers": [{"name": "c", "image": "i", "env": [], "tty": false,
                "resources": {"limits": {"cpu": "0.5", "memory": 1048576}}}], "nodeName": "", "hostNetwork": null},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        canonicalize("", "v1", "Pod", &mut pod);
        let expect = json!({"metadata": {"name": "a"},
            "spec": {"containers": [{"name": "c", "image": "i",
                "resources": {"limits": {"cpu": "500m", "memory": "1048576"}}}]},
            "status": {"conditions": [{"type": "Ready", "status": "True", "lastProbeTime": null, "lastTransitionTime": null}]}});
        assert_eq!(pod, expect);
        let mut role = json!({"metadata": {"name": "r"}});
        canonicalize("rbac.authorization.k8s.io", "v1", "Role", &mut role);
        assert_eq!(role, json!({"metadata": {"name": "r"}, "rules": null}));
    }
}
