//! Generated objects of the built-in types, for tests, fuzzing and load: the same seed gives the same objects.
//!
//! Values fit their fields' types and nothing more: it must not know validation.

use serde_json::{Map, Value, json};

use super::{Base, FieldFacts, Scalar, Shape, TypeFacts};

/// A small generator of numbers.
#[derive(Clone, Debug)]
pub struct Dice(u64);

/// How much of an object is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Some fields, among them empty and zero values.
    Some,
    /// Every field at every depth, with values that no encoding leaves out.
    All,
}

/// How often a type may stand within itself (`JSONSchemaProps` is all that does).
const MAX_RECURSION: usize = 2;
/// Nesting of messages in half-filled objects: enough for the containers of a pod template.
const MAX_DEPTH: usize = 8;

impl Dice {
    /// From a seed.
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// A number below `sides`.
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        let at = usize::try_from(self.roll(of.len() as u64)).expect("below the length of a slice");
        of[at].clone()
    }
}

/// An object of a type, without `kind` and `apiVersion`.
pub fn object(dice: &mut Dice, facts: &'static TypeFacts, fill: Fill) -> Value {
    Sampler { dice, fill, within: Vec::new() }.object(facts)
}

/// An object with the `kind` and `apiVersion` under which its type is served first; `None` for other types.
pub fn resource(dice: &mut Dice, facts: &'static TypeFacts, fill: Fill) -> Option<Value> {
    let (group, version, kind) = *facts.gvks.first().filter(|_| facts.is_object())?;
    let mut value = object(dice, facts, fill);
    let both = if group.is_empty() { version.to_string() } else { format!("{group}/{version}") };
    value["apiVersion"] = json!(both);
    value["kind"] = json!(kind);
    Some(value)
}

struct Sampler<'a> {
    dice: &'a mut Dice,
    fill: Fill,
    /// The types that the place is within.
    within: Vec<*const TypeFacts>,
}

impl Sampler<'_> {
    fn object(&mut self, facts: &'static TypeFacts) -> Value {
        self.within.push(facts);
        let mut out = Map::new();
        for flat in facts.flat() {
            let field = flat.field;
            if field.number == 0 || (self.fill == Fill::Some && self.dice.roll(3) == 0) {
                continue;
            }
            if let Some(value) = self.value(field) {
                out.insert(field.json.to_string(), value);
            }
        }
        self.within.pop();
        Value::Object(out)
    }

    fn value(&mut self, field: &'static FieldFacts) -> Option<Value> {
        // An empty list that Go always prints has no protobuf form: it reads back as null.
        let least = u64::from(!field.omit_empty || self.fill == Fill::All);
        let most = if field.message().is_some() && self.fill == Fill::All { 1 } else { 3 - least };
        let count = usize::try_from(least + self.dice.roll(most)).expect("small");
        Some(match field.shape {
            Shape::One => self.element(field)?,
            Shape::List => Value::Array((0..count).map(|_| self.element(field)).collect::<Option<_>>()?),
            Shape::Map => {
                let entries = (0..count).map(|at| Some((format!("k{at}"), self.element(field)?)));
                Value::Object(entries.collect::<Option<_>>()?)
            }
        })
    }

    fn element(&mut self, field: &'static FieldFacts) -> Option<Value> {
        match (field.base, field.message()) {
            (Base::Message(_), Some(inner)) => {
                let same = self.within.iter().filter(|outer| std::ptr::eq(**outer, inner)).count();
                let deep = self.fill == Fill::Some && self.within.len() >= MAX_DEPTH;
                (same < MAX_RECURSION && !deep).then(|| self.object(inner))
            }
            (Base::Scalar(scalar), _) => self.scalar(scalar),
            (Base::Message(_), None) => None,
        }
    }

    /// The first of each row is the zero value, which full objects do not hold.
    fn scalar(&mut self, scalar: Scalar) -> Option<Value> {
        let n = i64::try_from(self.dice.roll(1000)).expect("small") + 1;
        let signed = if self.dice.roll(2) == 0 { n } else { -n };
        let row = match scalar {
            Scalar::Bool => vec![json!(false), json!(true)],
            Scalar::I32 => vec![json!(0), json!(signed), json!(i32::MAX), json!(i32::MIN)],
            Scalar::I64 => vec![json!(0), json!(signed), json!(i64::MAX), json!(i64::MIN)],
            Scalar::U8 => vec![json!(0), json!(n % 255 + 1)],
            Scalar::F64 => vec![json!(0), json!(1.5), json!(-2.25), json!(1e30)],
            Scalar::Str => vec![json!(""), json!("a"), json!("\u{e9}\"\\\n\t"), json!("yes")],
            Scalar::Bytes => vec![json!(""), json!("Zm9v"), json!("AP8=")],
            Scalar::Quantity => vec![json!("0"), json!("1"), json!("1500m"), json!("1Gi"), json!("12e6")],
            Scalar::Time => vec![json!("1969-12-31T23:59:59Z"), json!("2030-01-02T03:04:05Z")],
            Scalar::MicroTime => {
                vec![json!("1970-01-01T00:00:00.000000Z"), json!("2030-01-02T03:04:05.000006Z")]
            }
            Scalar::Duration => vec![json!("0s"), json!("1h0m0s"), json!("1.5s")],
            Scalar::IntOrString => vec![json!(0), json!(""), json!(signed), json!("25%")],
            Scalar::Raw | Scalar::Json => vec![json!({}), json!({"a": [1, null, "x"]})],
            Scalar::Fields => vec![json!({"f:a": {".": {}, "f:b": {}}})],
            Scalar::Strs => vec![json!(["a", "b"])],
            Scalar::SchemaOrBool => vec![json!(false), json!(true)],
            Scalar::SchemaOrArray => vec![json!({"type": "string"})],
            Scalar::SchemaOrStrings => vec![json!(["a", "b"])],
            Scalar::Any | Scalar::Unknown => return None,
        };
        let zeros = if self.fill == Fill::All && row.len() > 1 { 1 } else { 0 };
        let zeros = zeros + usize::from(zeros == 1 && scalar == Scalar::IntOrString);
        Some(self.dice.pick(&row[zeros..]))
    }
}
