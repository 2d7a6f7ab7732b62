//! Generated objects of every kind survive JSON → protobuf → JSON → YAML, and no decoder panics on noise.

use machinery::codec::{canonical, json, proto, yaml};
use machinery::schema::sample::{Dice, Fill, object, resource};
use machinery::schema::{Schema, TypeFacts, facts};

fn kinds() -> impl Iterator<Item = (&'static TypeFacts, (&'static str, &'static str, &'static str))> {
    facts().types().iter().filter_map(|facts| Some((facts, *facts.gvks.first()?)))
}

#[test]
fn every_kind_survives_json_protobuf_and_yaml() {
    let mut dice = Dice::new(42);
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
        for fill in [Fill::All, Fill::Some].repeat(4) {
            let mut first = resource(&mut dice, facts, fill).expect("a kind");
            let schema = Schema::Type(facts);
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
    let mut dice = Dice::new(7);
    let pods = facts().by_name("io.k8s.api.core.v1.Pod").expect("known");
    let samples: Vec<(Vec<u8>, Vec<u8>)> = (0..20)
        .map(|_| {
            let value = object(&mut dice, pods, Fill::Some);
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
