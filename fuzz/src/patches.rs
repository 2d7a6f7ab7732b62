//! Patches and server-side apply: what they make is an object again, and making it twice changes nothing.

use jiff::Timestamp;
use machinery::apply::{self, ApplyError, Write};
use machinery::codec::json;
use machinery::patch;
use machinery::schema::Schema;
use serde_json::{Value, json};

use crate::{Target, choose, field_names, join, kind, parts, samples};

/// See [`Target`].
pub const TARGETS: &[Target] = &[
    Target { name: "patch", run: run_patch, seeds: patch_seeds, words: patch_words },
    Target { name: "strategic", run: run_strategic, seeds: strategic_seeds, words: strategic_words },
    Target { name: "apply", run: run_apply, seeds: apply_seeds, words: field_names },
];

fn any(text: &[u8]) -> Option<Value> {
    json::decode_any(text).ok().map(|decoded| decoded.value)
}

fn has_null(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.values().any(|inner| inner.is_null() || has_null(inner)),
        _ => false,
    }
}

/// JSON patches and merge patches.
fn run_patch(data: &[u8]) {
    let [from, to, operations] = parts::<3>(data);
    let Some(from) = any(from) else { return };
    if let Ok(patched) = patch::json_patch(&from, operations) {
        let text = patched.to_string();
        assert!(text.len() < 16 << 20, "a patch made {} bytes of {}", text.len(), data.len());
    }
    let Some(to) = any(to) else { return };
    let merged = patch::merge_patch(&from, &to);
    assert_eq!(patch::merge_patch(&merged, &to), merged, "a merge patch applied twice");
    if from.is_object() && to.is_object() && !has_null(&from) && !has_null(&to) {
        let made = patch::create_merge(&from, &to);
        assert_eq!(patch::merge_patch(&from, &made), to, "the patch {made} leads from one to the other");
    }
    let _ = patch::create_three_way_merge(&from, &to, &merged);
    let _ = patch::Conflict::find(&from, &to, &merged);
}

fn run_strategic(data: &[u8]) {
    let Some((facts, rest)) = kind(data) else { return };
    let schema = Schema::Type(facts);
    let [from, to, patch] = parts::<3>(rest);
    let Ok(from) = json::decode(schema, from) else { return };
    if let Some(patch) = any(patch)
        && let Ok(patched) = patch::strategic_merge(schema, &from.value, &patch)
    {
        let _ = json::conform(schema, &patched);
    }
    let Ok(to) = json::decode(schema, to) else { return };
    if let Ok(made) = patch::create_two_way(schema, &from.value, &to.value) {
        let _ = patch::strategic_merge(schema, &from.value, &made);
    }
    if let Ok(made) = patch::create_two_way(schema, &from.value, &from.value) {
        assert_eq!(made, json!({}), "nothing leads from an object to itself");
    }
    let _ = patch::create_three_way(schema, &from.value, &to.value, &from.value);
}

/// Two appliers and an updater over one object.
fn run_apply(data: &[u8]) {
    let Some((facts, rest)) = kind(data) else { return };
    let schema = Schema::Type(facts);
    let api_version = match facts.gvks.first() {
        Some(("", version, _)) => version.to_string(),
        Some((group, version, _)) => format!("{group}/{version}"),
        None => return,
    };
    let decode = |text: &[u8]| {
        let decoded = json::decode(schema, text).ok()?;
        let mut value = decoded.value;
        value.as_object_mut()?.insert("apiVersion".to_owned(), json!(api_version));
        Some(value)
    };
    let [live, one, two] = parts::<3>(rest).map(decode);
    let Some(one) = one else { return };
    let write = |manager: &'static str| Write {
        schema,
        api_version: &api_version,
        manager,
        subresource: "",
        now: Timestamp::UNIX_EPOCH,
        reset: &["status"],
    };
    let settle = |value: Value| json::conform(schema, &value).expect("what was applied conforms").value;
    let Ok(first) = apply::apply(write("one"), live.as_ref(), &one, true) else { return };
    let first = settle(first);
    if first.pointer("/metadata/managedFields").is_none() {
        // Empty lists alone are nobody's, as upstream has it: the next apply takes the object for an untracked one.
        return;
    }
    match apply::apply(write("one"), Some(&first), &one, false) {
        Ok(second) => {
            let second = settle(second);
            assert!(apply::same_but_times(&first, &second), "applied twice: {first}\nthen {second}");
        }
        Err(error) => panic!("the same manager's same configuration: {error}"),
    }
    let Some(two) = two else { return };
    match apply::apply(write("two"), Some(&first), &two, false) {
        Ok(_) | Err(ApplyError::BadRequest(_) | ApplyError::Internal(_)) => {}
        Err(ApplyError::Conflicts(conflicts)) => assert!(!conflicts.is_empty()),
    }
    if let Ok(forced) = apply::apply(write("two"), Some(&first), &two, true) {
        let mut updated = settle(forced.clone());
        apply::update(write("three"), Some(&first), &mut updated);
        let _ = settle(updated);
    }
    let _ = apply::merge(schema, &first, &two);
}

const OPERATIONS: &[&str] = &[
    r#"[{"op":"add","path":"/a/b","value":1},{"op":"copy","from":"/a","path":"/c"},{"op":"test","path":"/c/b","value":1}]"#,
    r#"[{"op":"move","from":"/a","path":"/b~1c"},{"op":"remove","path":"/x/-1"},{"op":"replace","path":"/y/0","value":null}]"#,
    r#"[{"op":"add","path":"/l/-","value":[1]},{"op":"add","path":"","value":{}}]"#,
];

fn patch_seeds() -> Vec<Vec<u8>> {
    let documents =
        [r#"{"a":{"b":2},"x":[1,2],"y":[3],"l":[]}"#, r#"{"a":{"b":null,"c":[{"d":1}]},"z":"t"}"#];
    let seed =
        |operations: &&str| join(&[documents[0].as_bytes(), documents[1].as_bytes(), operations.as_bytes()]);
    OPERATIONS.iter().map(seed).collect()
}

fn patch_words() -> Vec<String> {
    [
        "\"op\":",
        "\"add\"",
        "\"remove\"",
        "\"replace\"",
        "\"move\"",
        "\"copy\"",
        "\"test\"",
        "\"path\":",
        "\"from\":",
        "\"value\":",
        "~0",
        "~1",
        "/-",
        "/-1",
        "null",
    ]
    .map(String::from)
    .to_vec()
}

fn strategic_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let all = samples(3);
    for pair in all.chunks(3) {
        let [(facts, a), (_, b), (_, c)] = pair else { continue };
        let [a, b, c] = [a, b, c].map(|value| value.to_string());
        seeds.push([&choose(facts)[..], &join(&[a.as_bytes(), b.as_bytes(), c.as_bytes()])].concat());
    }
    let (pods, _) = all.iter().find(|(facts, _)| facts.go_name == "Pod").expect("pods are rich");
    for patch in DIRECTIVES {
        let pod = br#"{"spec":{"containers":[{"name":"a","image":"i","env":[{"name":"x","value":"1"}]},{"name":"b"}],"tolerations":[{"key":"k"}]}}"#;
        seeds.push([&choose(pods)[..], &join(&[pod, pod, patch.as_bytes()])].concat());
    }
    seeds
}

const DIRECTIVES: &[&str] = &[
    r#"{"spec":{"containers":[{"name":"a","$patch":"delete"},{"$patch":"replace"}]}}"#,
    r#"{"spec":{"$setElementOrder/containers":[{"name":"b"},{"name":"a"}],"containers":[{"name":"a","image":"j"}]}}"#,
    r#"{"spec":{"$retainKeys":["containers"],"volumes":null}}"#,
    r#"{"metadata":{"$deleteFromPrimitiveList/finalizers":["a"],"$setElementOrder/finalizers":["b"],"finalizers":["b"]}}"#,
    r#"{"$patch":"replace","spec":{"volumes":[{"name":"v","emptyDir":{},"$retainKeys":["name","emptyDir"]}]}}"#,
];

fn strategic_words() -> Vec<String> {
    let mut words = field_names();
    words.extend(
        [
            "\"$patch\":",
            "\"delete\"",
            "\"replace\"",
            "\"merge\"",
            "\"$retainKeys\":",
            "\"$setElementOrder/containers\":",
            "\"$deleteFromPrimitiveList/finalizers\":",
            "\"name\":\"a\"",
        ]
        .map(String::from),
    );
    words
}

fn apply_seeds() -> Vec<Vec<u8>> {
    strategic_seeds()
}
