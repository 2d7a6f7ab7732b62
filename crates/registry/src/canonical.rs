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
    Struct(usize),
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
    /// Whether something is written for an absent value.
    printed: bool,
}

/// Every type: its fields, sorted by name.
struct Types {
    fields: Vec<Vec<Field>>,
    by_name: HashMap<&'static str, usize>,
}

static TYPES: LazyLock<Types> = LazyLock::new(|| {
    let lines = || include_str!("shapes.txt").lines().filter(|l| !l.starts_with('#') && !l.is_empty());
    let names = lines().map(|line| line.split(' ').next().unwrap_or(""));
    let by_name: HashMap<_, _> = names.enumerate().map(|(at, name)| (name, at)).collect();
    let fields = lines().map(|line| parse_line(line, &by_name)).collect();
    Types { fields, by_name }
});

fn parse_line(line: &'static str, types: &HashMap<&'static str, usize>) -> Vec<Field> {
    let fields = line.split(' ').skip(1).filter_map(|word| {
        let (name, code) = word.split_once(':')?;
        let (code, empty) = match (code.strip_suffix('?'), code.strip_suffix('!')) {
            (Some(code), _) => (code, Empty::Omitted),
            (_, Some(code)) => (code, Empty::ZeroOmitted),
            _ => (code, Empty::Written),
        };
        let shape = parse_shape(code, types);
        let printed = match (&shape, empty) {
            (_, Empty::ZeroOmitted) => false,
            (Shape::Struct(_) | Shape::Time | Shape::MicroTime | Shape::Any, _) => true,
            (Shape::Quantity | Shape::IntOrString, _) => true,
            (_, empty) => empty == Empty::Written,
        };
        Some(Field { name, shape, empty, printed })
    });
    let mut fields: Vec<Field> = fields.collect();
    fields.sort_by_key(|field| field.name);
    fields
}

fn parse_shape(code: &'static str, types: &HashMap<&'static str, usize>) -> Shape {
    let rest = |n: usize| Box::new(parse_shape(&code[n..], types));
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
        c if c.starts_with('@') => Shape::Struct(*types.get(&c[1..]).expect("shapes.txt has every struct")),
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
    let types = &*TYPES;
    if let Some(id) = types.by_name.get(name) {
        types.of(*id, value);
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

impl Types {
    fn of(&self, id: usize, value: &mut Value) {
        if let Value::Object(map) = value {
            self.each_field(&self.fields[id], map);
        }
    }

    /// One walk over the map and the type's fields, both in order of names.
    fn each_field(&self, fields: &[Field], map: &mut Map<String, Value>) {
        let (mut absent, mut gone): (Vec<&Field>, Vec<&Field>) = Default::default();
        let mut left = fields;
        for (key, value) in map.iter_mut() {
            while let [first, rest @ ..] = left
                && first.name < key.as_str()
            {
                absent.extend(Some(first).filter(|field| field.printed));
                left = rest;
            }
            let [field, rest @ ..] = left else { break };
            if field.name != key {
                continue;
            }
            left = rest;
            self.convert(&field.shape, value);
            if !value.is_null() && !is_zero(&field.shape, value) {
                continue;
            }
            match self.zero(field) {
                Some(zero) => *value = zero,
                None => gone.push(field),
            }
        }
        absent.extend(left.iter().filter(|field| field.printed));
        for field in gone {
            map.remove(field.name);
        }
        for field in absent {
            map.insert(field.name.to_string(), self.zero(field).unwrap_or_default());
        }
    }

    /// What is written for an absent value, if anything is.
    fn zero(&self, field: &Field) -> Option<Value> {
        let always = field.empty == Empty::Written;
        match &field.shape {
            _ if field.empty == Empty::ZeroOmitted => None,
            Shape::Struct(id) => {
                let mut value = Value::Object(Map::new());
                self.of(*id, &mut value);
                Some(value)
            }
            Shape::Time | Shape::MicroTime | Shape::Any => Some(Value::Null),
            Shape::Quantity => Some("0".into()),
            Shape::IntOrString => Some(0.into()),
            Shape::Text => always.then(|| "".into()),
            Shape::Int | Shape::Number => always.then(|| 0.into()),
            Shape::Bool => always.then(|| false.into()),
            Shape::Pointer(_) | Shape::List(_) | Shape::Map(_) | Shape::Bytes => {
                always.then_some(Value::Null)
            }
        }
    }

    fn convert(&self, shape: &Shape, value: &mut Value) {
        match (shape, &mut *value) {
            (Shape::Pointer(inner), _) => self.convert(inner, value),
            (Shape::Struct(id), _) => self.of(*id, value),
            (Shape::List(inner), Value::Array(items)) => {
                items.iter_mut().for_each(|item| self.convert(inner, item));
            }
            (Shape::Map(inner), Value::Object(map)) if !matches!(**inner, Shape::Text) => {
                map.values_mut().for_each(|item| self.convert(inner, item));
            }
            (Shape::Quantity, _) => quantity(value),
            (Shape::Time, Value::String(s)) if !is_time(s) => {
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
}

/// Whether a time is spelled `2026-01-02T03:04:05Z` already, or is none that could be spelled so.
fn is_time(text: &str) -> bool {
    const SPELLED: &[u8; 20] = b"0000-00-00T00:00:00Z";
    let same =
        |(have, wanted): (&u8, &u8)| if *wanted == b'0' { have.is_ascii_digit() } else { have == wanted };
    // A leap second is written as the second before it.
    text.len() == SPELLED.len() && text.as_bytes().iter().zip(SPELLED).all(same) && !text.ends_with("60Z")
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

/// Rewrites a quantity in its canonical text, `0.5` as `500m`.
pub fn quantity(value: &mut Value) {
    let text = match value {
        Value::String(s) => s.clone(),
        Value::Number(n) => n.to_string(),
        _ => return,
    };
    let Ok(quantity) = text.parse::<Quantity>() else { return };
    let spelled = quantity.to_string();
    if value.as_str() != Some(&spelled) {
        *value = spelled.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_struct_is_known() {
        assert!(TYPES.fields.len() > 100, "parsing the shapes looks every struct up");
        for fields in &TYPES.fields {
            for field in fields {
                assert_eq!(field.printed, TYPES.zero(field).is_some(), "{}", field.name);
            }
        }
    }

    #[test]
    fn times_that_are_spelled_right_are_left_alone() {
        for (text, expect) in [
            ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z"),
            ("2026-01-02T03:04:05.5Z", "2026-01-02T03:04:05Z"),
            ("2026-01-02T03:04:05+01:00", "2026-01-02T02:04:05Z"),
            ("2026-01-02T03:04:60Z", "2026-01-02T03:04:59Z"),
        ] {
            let mut meta = json!({"creationTimestamp": text});
            canonicalize_type("meta.ObjectMeta", &mut meta);
            assert_eq!(meta["creationTimestamp"], expect);
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
