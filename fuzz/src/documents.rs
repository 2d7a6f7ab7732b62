//! The codecs: what decodes must be canonical and survive every encoding.

use machinery::codec::{json, proto, yaml};
use machinery::schema::{Schema, Shape, TypeFacts};
use serde_json::Value;

use crate::{Target, choose, field_names, kind, samples};

/// See [`Target`].
pub const TARGETS: &[Target] = &[
    Target { name: "json", run: run_json, seeds: json_seeds, words: json_words },
    Target { name: "yaml", run: run_yaml, seeds: yaml_seeds, words: yaml_words },
    Target { name: "protobuf", run: run_protobuf, seeds: protobuf_seeds, words: Vec::new },
];

/// Whether a list is empty somewhere: protobuf cannot tell it from none.
fn has_empty_list(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty() || items.iter().any(has_empty_list),
        Value::Object(map) => map.values().any(has_empty_list),
        _ => false,
    }
}

/// A decoded object reads the same from each of its encodings.
fn survives(facts: &'static TypeFacts, value: &Value) {
    let schema = Schema::Type(facts);
    let text = serde_json::to_vec(value).expect("a tree has a text");
    let again = json::decode(schema, &text).expect("what was decoded once decodes again");
    assert_eq!(&again.value, value, "JSON is canonical");
    assert_eq!(again.strict_errors, Vec::<String>::new(), "nothing unknown is left");
    let conformed = json::conform(schema, value).expect("what was decoded conforms");
    assert_eq!(&conformed.value, value, "conforming changes nothing");
    let from_yaml = yaml::decode(schema, yaml::encode(value).as_bytes()).expect("YAML of ours is read");
    assert_eq!(&from_yaml.value, value, "YAML");
}

/// Takes away what has no protobuf form: kinds travel in the envelope, those of embedded objects not at all.
fn strip(facts: &'static TypeFacts, value: &mut Value) {
    let Some(map) = value.as_object_mut() else { return };
    map.retain(|name, _| facts.field(name).is_some_and(|field| field.number > 0));
    for (name, inner) in map {
        let Some((field, facts)) = facts.field(name).and_then(|field| Some((field, field.message()?))) else {
            continue;
        };
        match (field.shape, inner) {
            (Shape::List, Value::Array(items)) => items.iter_mut().for_each(|item| strip(facts, item)),
            (Shape::Map, Value::Object(entries)) => entries.values_mut().for_each(|item| strip(facts, item)),
            (_, inner) => strip(facts, inner),
        }
    }
}

fn survives_protobuf(facts: &'static TypeFacts, value: &Value) {
    // Tables and their like are told in JSON only, as is nothing at all.
    if value.is_null() || facts.wire_order().next().is_none() {
        return;
    }
    let first = proto::decode(facts, &proto::encode(facts, value)).expect("protobuf of ours is read");
    if !has_empty_list(value) {
        let mut bare = value.clone();
        strip(facts, &mut bare);
        assert_eq!(first, bare, "protobuf");
    }
    let second = proto::decode(facts, &proto::encode(facts, &first)).expect("protobuf of ours is read");
    assert_eq!(second, first, "protobuf is stable");
}

fn run_json(data: &[u8]) {
    let Some((facts, text)) = kind(data) else { return };
    let any = json::decode_any(text);
    if let (Err(error), Ok(tree)) = (&any, serde_json::from_slice::<Value>(text)) {
        panic!("{error}: another decoder reads {tree}");
    }
    if let Ok(decoded) = any {
        let text = serde_json::to_vec(&decoded.value).expect("a tree has a text");
        assert_eq!(json::decode_any(&text).expect("our own text").value, decoded.value);
    }
    if let Ok(decoded) = json::decode(Schema::Type(facts), text) {
        survives(facts, &decoded.value);
        survives_protobuf(facts, &decoded.value);
    }
}

fn run_yaml(data: &[u8]) {
    let Some((facts, text)) = kind(data) else { return };
    for document in yaml::decode_all(text).unwrap_or_default() {
        let written = yaml::encode(&document.value);
        let again = yaml::decode_first(written.as_bytes()).expect("YAML of ours is read");
        assert_eq!(again.value, document.value, "{written}");
    }
    if let Ok(decoded) = yaml::decode(Schema::Type(facts), text) {
        survives(facts, &decoded.value);
    }
}

fn run_protobuf(data: &[u8]) {
    let Some((facts, bytes)) = kind(data) else { return };
    let _ = proto::read_watch_frame(bytes);
    if let Ok((value, _)) = proto::decode_object(bytes) {
        let _ = serde_json::to_vec(&value).expect("a tree has a text");
    }
    if let Ok(value) = proto::decode(facts, bytes) {
        survives(facts, &value);
        survives_protobuf(facts, &value);
    }
}

fn json_seeds() -> Vec<Vec<u8>> {
    let text = |(facts, value): (&'static TypeFacts, Value)| {
        [&choose(facts)[..], value.to_string().as_bytes()].concat()
    };
    samples(3).into_iter().map(text).collect()
}

fn yaml_seeds() -> Vec<Vec<u8>> {
    let text = |(facts, value): (&'static TypeFacts, Value)| {
        [&choose(facts)[..], yaml::encode(&value).as_bytes()].concat()
    };
    let mut seeds: Vec<Vec<u8>> = samples(2).into_iter().map(text).collect();
    seeds.extend(ODD_YAML.iter().map(|text| [b"\0\0", text.as_bytes()].concat()));
    seeds
}

const ODD_YAML: &[&str] = &[
    "a: &x {b: 1}\nc: *x\nd:\n  <<: *x\n  e: 0644\n",
    "a: |\n  text\n  more\nb: >-\n  folded\n  text\n\nc: |+2\n    kept\n\n",
    "--- # first\na: yes\n---\nb: ~\n...\n---\n- !!str 1\n- !!binary Zm9v\n- !!int \"7\"\n",
    "? complex\n: value\n? [a, b]\n: {c: d}\n",
    "%YAML 1.1\n---\na: 1_000\nb: 0x1F\nc: 0b101\nd: 1e3\ne: .inf\nf: .nan\ng: 190:20:30\nh: 2001-12-14\n",
    "a: \"\\x41\\u00e9\\U0001F600\\n\"\nb: 'it''s'\nc: plain text # comment\n",
];

fn protobuf_seeds() -> Vec<Vec<u8>> {
    let both = |(facts, value): (&'static TypeFacts, Value)| {
        let choose = choose(facts);
        let object = proto::encode_object(facts, &value);
        let event = proto::watch_frame("ADDED", &object);
        [proto::encode(facts, &value), object, event].map(|bytes| [&choose[..], &bytes].concat())
    };
    samples(2).into_iter().flat_map(both).collect()
}

fn json_words() -> Vec<String> {
    let mut words = field_names();
    words.extend(
        ["null", "true", "[]", "{}", "\"\"", "\\u0000", "\\ud83d", "1e30", "-0", "\"1Gi\""].map(String::from),
    );
    words
}

fn yaml_words() -> Vec<String> {
    let plain = [
        "---\n",
        "...\n",
        "<<: *",
        "&a ",
        "*a",
        "!!str ",
        "!!binary ",
        "|+\n",
        ">-\n",
        "? ",
        ": ",
        "- ",
        "~",
        "0644",
        "0o17",
        ".inf",
        ".nan",
        "yes",
        "%YAML 1.1\n",
        "\u{85}",
        "\u{2028}",
        "\u{feff}",
        "\\U0001F600",
    ];
    let keys = field_names().into_iter().map(|name| name.replace('"', ""));
    keys.chain(plain.map(String::from)).collect()
}
