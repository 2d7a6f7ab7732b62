//! Objects with one field spoiled, for every field of a type. Must not know requests.

use std::collections::BTreeSet;

use machinery::schema::{Base, FieldFacts, Scalar, Shape, TypeFacts};
use serde_json::{Map, Value, json};

/// Types whose fields were spoiled already: each is needed once in the whole corpus.
#[derive(Default)]
pub struct Seen(BTreeSet<&'static str>);

/// One spoiled object: what was done, and the outcome.
pub type Spoiled = (String, Value);

/// A way to a field: keys, and `0` for the first element of a list.
type Way = Vec<Step>;

#[derive(Clone)]
enum Step {
    Key(&'static str),
    First,
    Entry,
}

/// Deeper fields are left alone.
const DEEPEST: usize = 9;

/// Every way to spoil the fields of the type below `root` (all but status, or status only).
pub fn spoil(object: &Value, facts: &'static TypeFacts, seen: &mut Seen, status: bool) -> Vec<Spoiled> {
    let mut out = Vec::new();
    for flat in facts.flat() {
        let field = flat.field;
        if matches!(field.json, "apiVersion" | "kind") || (field.json == "status") != status {
            continue;
        }
        spoil_field(object, field, &Vec::new(), seen, &mut out);
    }
    out
}

fn spoil_type(object: &Value, facts: &'static TypeFacts, way: &Way, seen: &mut Seen, out: &mut Vec<Spoiled>) {
    if way.len() > DEEPEST || !seen.0.insert(&facts.name) {
        return;
    }
    for flat in facts.flat() {
        spoil_field(object, flat.field, way, seen, out);
    }
}

fn spoil_field(
    object: &Value,
    field: &'static FieldFacts,
    way: &Way,
    seen: &mut Seen,
    out: &mut Vec<Spoiled>,
) {
    let mut at = way.clone();
    at.push(Step::Key(field.json));
    let name = at.iter().map(Step::text).collect::<Vec<_>>().join(".");
    let mut put = |what: &str, value: Value| {
        let mut changed = object.clone();
        *reach(&mut changed, &at) = value;
        out.push((format!("{what}/{name}"), changed));
    };
    put("wrong", wrong(field));
    for (number, value) in odd(field).into_iter().enumerate() {
        put(&format!("odd{number}"), value);
    }
    if let Some(removed) = without(object, &at) {
        out.push((format!("without/{name}"), removed));
    }
    let Some(facts) = field.message() else { return };
    match field.shape {
        Shape::One => (),
        Shape::List => at.push(Step::First),
        Shape::Map => at.push(Step::Entry),
    }
    spoil_type(object, facts, &at, seen, out);
}

impl Step {
    fn text(&self) -> &str {
        match self {
            Step::Key(key) => key,
            Step::First => "0",
            Step::Entry => "key",
        }
    }
}

/// The place of a field, made where it is not there.
fn reach<'a>(object: &'a mut Value, way: &[Step]) -> &'a mut Value {
    let mut at = object;
    for step in way {
        at = match step {
            Step::First => {
                if !at.as_array().is_some_and(|items| !items.is_empty()) {
                    *at = json!([null]);
                }
                &mut at[0]
            }
            Step::Key(_) | Step::Entry => {
                if !at.is_object() {
                    *at = Value::Object(Map::new());
                }
                &mut at[step.text()]
            }
        };
    }
    at
}

/// The object without a field, if it has it.
fn without(object: &Value, way: &[Step]) -> Option<Value> {
    let mut changed = object.clone();
    let (last, parents) = way.split_last()?;
    let mut at = &mut changed;
    for step in parents {
        at = match step {
            Step::First => at.get_mut(0)?,
            _ => at.get_mut(step.text())?,
        };
    }
    at.as_object_mut()?.remove(last.text())?;
    Some(changed)
}

/// A value of another type than the field's.
fn wrong(field: &FieldFacts) -> Value {
    match (field.shape, field.base) {
        (Shape::List, _) => json!({"a": 1}),
        (Shape::Map, _) => json!(["a"]),
        (Shape::One, Base::Message(_)) => json!("text"),
        (Shape::One, Base::Scalar(Scalar::Str)) => json!(5),
        (Shape::One, Base::Scalar(Scalar::Bool)) => json!("true"),
        (Shape::One, Base::Scalar(_)) => json!({"a": [1]}),
    }
}

/// Values of the right type that few would write.
pub fn odd(field: &FieldFacts) -> Vec<Value> {
    let one = |value: &Value| match field.shape {
        Shape::One => value.clone(),
        Shape::List => json!([value]),
        Shape::Map => json!({"key": value}),
    };
    let Base::Scalar(scalar) = field.base else {
        return match field.shape {
            Shape::One => vec![json!({})],
            Shape::List => vec![json!([{}]), json!([])],
            Shape::Map => vec![json!({"key": {}}), json!({"odd key": {}})],
        };
    };
    let mut values: Vec<Value> = match scalar {
        Scalar::Bool => vec![json!(true), json!(false)],
        Scalar::I32 | Scalar::I64 | Scalar::U8 => vec![json!(-1), json!(0), json!(2_147_483_647)],
        Scalar::F64 => vec![json!(-1.5)],
        Scalar::Str => vec![json!("-Odd_/ value"), json!("")],
        Scalar::Bytes => vec![json!("%%%"), json!("YQ==")],
        Scalar::Quantity => vec![json!("-1"), json!("odd"), json!("0.5")],
        Scalar::Time | Scalar::MicroTime => vec![json!("odd"), json!("2026-01-01T00:00:00Z")],
        Scalar::Duration => vec![json!("odd"), json!("-1s")],
        Scalar::IntOrString => vec![json!("-odd-"), json!(-1), json!("101%")],
        Scalar::Raw | Scalar::Unknown | Scalar::Any | Scalar::Fields | Scalar::Json => {
            vec![json!({"a": 1}), json!([])]
        }
        Scalar::SchemaOrArray | Scalar::SchemaOrBool | Scalar::SchemaOrStrings => vec![json!({}), json!([])],
        Scalar::Strs => vec![json!(["-Odd_/ value"]), json!([])],
    };
    values.extend(field.enumeration().into_iter().map(Value::from));
    let mut values: Vec<Value> = values.iter().map(one).collect();
    match field.shape {
        Shape::One => (),
        Shape::List => values.push(json!(["other", "other"])),
        Shape::Map => values.push(json!({"odd key": "-Odd_/ value"})),
    }
    values
}
