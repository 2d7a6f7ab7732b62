//! Generated objects of every kind survive JSON → protobuf → JSON → YAML, and no decoder panics on noise.

use machinery::codec::{canonical, json, proto, yaml};
use machinery::schema::{Base, FieldFacts, Scalar, Schema, Shape, TypeFacts, facts};
use serde_json::{Map, Value, json};

/// A small generator of numbers; the same seed gives the same objects.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

fn object(dice: &mut Dice, facts: &'static TypeFacts, depth: usize) -> Value {
    let mut out = Map::new();
    for flat in facts.flat() {
        let field = flat.field;
        if field.number == 0 || dice.roll(3) == 0 {
            continue;
        }
        if let Some(value) = value(dice, field, depth) {
            out.insert(field.json.to_string(), value);
        }
    }
    Value::Object(out)
}

fn value(dice: &mut Dice, field: &'static FieldFacts, depth: usize) -> Option<Value> {
    // An empty list that Go always prints has no protobuf form: it reads back as null.
    let least = u64::from(!field.omit_empty);
    let count = usize::try_from(least + dice.roll(3 - least)).expect("small");
    Some(match field.shape {
        Shape::One => element(dice, field, depth)?,
        Shape::List => Value::Array((0..count).map(|_| element(dice, field, depth)).collect::<Option<_>>()?),
        Shape::Map => {
            let entry = |at: usize, dice: &mut Dice| Some((format!("k{at}"), element(dice, field, depth)?));
            Value::Object((0..count).map(|at| entry(at, dice)).collect::<Option<_>>()?)
        }
    })
}

fn element(dice: &mut Dice, field: &'static FieldFacts, depth: usize) -> Option<Value> {
    let scalar = match (field.base, field.message()) {
        (Base::Message(_), Some(inner)) => return (depth > 0).then(|| object(dice, inner, depth - 1)),
        (Base::Scalar(scalar), _) => scalar,
        (Base::Message(_), None) => return None,
    };
    let n = i64::try_from(dice.roll(1000)).expect("small");
    let signed = if dice.roll(2) == 0 { n } else { -n };
    Some(match scalar {
        Scalar::Bool => json!(n % 2 == 0),
        Scalar::I32 => json!([0, signed, i64::from(i32::MAX), i64::from(i32::MIN)][dice.roll(4) as usize]),
        Scalar::I64 => json!([0, signed, i64::MAX, i64::MIN][dice.roll(4) as usize]),
        Scalar::U8 => json!(n % 256),
        Scalar::F64 => [json!(0), json!(1.5), json!(-2.25), json!(1e30)][dice.roll(4) as usize].clone(),
        Scalar::Str => json!(["", "a", "\u{e9}\"\\\n\t", "yes"][dice.roll(4) as usize]),
        Scalar::Bytes => json!(["", "Zm9v", "AP8="][dice.roll(3) as usize]),
        Scalar::Quantity => json!(["0", "1", "1500m", "1Gi", "12e6"][dice.roll(5) as usize]),
        Scalar::Time => json!(["2030-01-02T03:04:05Z", "1969-12-31T23:59:59Z"][dice.roll(2) as usize]),
        Scalar::MicroTime => {
            json!(["2030-01-02T03:04:05.000006Z", "1970-01-01T00:00:00.000000Z"][dice.roll(2) as usize])
        }
        Scalar::Duration => json!(["0s", "1h0m0s", "1.5s"][dice.roll(3) as usize]),
        Scalar::IntOrString => [json!(signed), json!("25%"), json!("")][dice.roll(3) as usize].clone(),
        Scalar::Raw | Scalar::Json => {
            [json!({"a": [1, null, "x"]}), json!({})][dice.roll(2) as usize].clone()
        }
        Scalar::Fields => json!({"f:a": {".": {}, "f:b": {}}}),
        Scalar::Strs => json!(["a", "b"]),
        Scalar::SchemaOrBool => json!(n % 2 == 0),
        Scalar::SchemaOrArray => json!({"type": "string"}),
        Scalar::SchemaOrStrings => json!(["a", "b"]),
        Scalar::Any | Scalar::Unknown => return None,
    })
}

fn kinds() -> impl Iterator<Item = (&'static TypeFacts, (&'static str, &'static str, &'static str))> {
    facts().types().iter().filter_map(|facts| Some((facts, *facts.gvks.first()?)))
}

#[test]
fn every_kind_survives_json_protobuf_and_yaml() {
    let mut dice = Dice(42);
    let mut checked = 0;
    for (facts, (group, version, kind)) in kinds() {
        if matches!(kind, "Table" | "AdmissionReview" | "Event" | "EventList" | "Policy" | "PolicyList")
            && group != ""
        {
            continue;
        }
        if !facts.is_object() {
            continue;
        }
        for _ in 0..8 {
            let mut first = object(&mut dice, facts, 6);
            let schema = Schema::Type(facts);
            first["apiVersion"] =
                json!(if group.is_empty() { version.to_string() } else { format!("{group}/{version}") });
            first["kind"] = json!(kind);
            canonical::canonicalize(schema, &mut first);
            let text = serde_json::to_vec(&first).expect("json");
            let decoded = json::decode(schema, &text).unwrap_or_else(|e| panic!("{kind}: {e}"));
            assert_eq!(decoded.strict_errors, Vec::<String>::new(), "{kind}");
            assert_eq!(decoded.value, first, "{kind}: canonical JSON reads as itself");
            let (again, unknown) =
                proto::decode_object(&proto::encode_object(facts, &first)).expect("protobuf");
            assert!(!unknown, "{kind} of {group}/{version}");
            assert_eq!(again, first, "{kind}: protobuf");
            let from_yaml = yaml::decode(schema, yaml::encode(&first).as_bytes()).expect("yaml").value;
            assert_eq!(from_yaml, first, "{kind}: yaml");
            checked += 1;
        }
    }
    assert!(checked > 1000, "{checked}");
}

#[test]
fn decoders_do_not_panic_on_noise() {
    let mut dice = Dice(7);
    let pods = facts().by_name("io.k8s.api.core.v1.Pod").expect("known");
    let samples: Vec<(Vec<u8>, Vec<u8>)> = (0..20)
        .map(|_| {
            let value = object(&mut dice, pods, 6);
            (serde_json::to_vec(&value).expect("json"), proto::encode_object(pods, &value))
        })
        .collect();
    for round in 0..1500 {
        let (text, message) = &samples[round % samples.len()];
        let (mut text, mut message) = (text.clone(), message.clone());
        for _ in 0..=dice.roll(4) {
            for bytes in [&mut text, &mut message] {
                let at = usize::try_from(dice.roll(bytes.len() as u64)).expect("small");
                let byte = u8::try_from(dice.roll(256)).expect("a byte");
                match dice.roll(4) {
                    0 => bytes[at] = byte,
                    1 => bytes.truncate(at.max(1)),
                    2 => bytes.insert(at, byte),
                    _ => {
                        bytes.remove(at);
                        bytes.push(byte);
                    }
                }
            }
        }
        let _ = json::decode(Schema::Type(pods), &text);
        let _ = json::decode_any(&text);
        let _ = yaml::decode_all(&text);
        let _ = proto::decode_object(&message);
        let _ = proto::decode(pods, &message);
        let _ = proto::read_watch_frame(&message);
    }
}
