//! Upstream's own example objects (`staging/src/k8s.io/api/testdata`), read from a source tree named by
//! `KUBERNETES_SRC`; nothing is checked when it is not set.

use std::path::Path;

use machinery::codec::{json, proto};
use machinery::schema::{Schema, TypeFacts, facts};
use serde_json::Value;

#[test]
fn upstream_examples_read_alike_as_json_and_protobuf() {
    let Ok(root) = std::env::var("KUBERNETES_SRC") else { return };
    let dir = Path::new(&root).join("staging/src/k8s.io/api/testdata/HEAD");
    let (mut checked, mut failures) = (0, Vec::new());
    let mut files: Vec<_> =
        std::fs::read_dir(dir).expect("testdata").map(|f| f.expect("entry").path()).collect();
    files.sort();
    for path in files.iter().filter(|path| path.extension().is_some_and(|e| e == "json")) {
        let text = std::fs::read(path).expect("readable");
        let tree: Value = serde_json::from_slice(&text).expect("json");
        let Some(api_version) = tree["apiVersion"].as_str() else { continue };
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let kind = tree["kind"].as_str().expect("kind");
        let Some(facts) = facts().by_gvk(group, version, kind) else { continue };
        checked += 1;
        if let Err(why) = check(facts, &text, &tree, &path.with_extension("pb")) {
            failures.push(format!("{group}/{version} {kind}: {why}"));
        }
    }
    assert!(failures.is_empty(), "{} of {checked}:\n{}", failures.len(), failures.join("\n"));
    assert!(checked > 100, "only {checked} kinds were checked");
}

fn check(facts: &'static TypeFacts, text: &[u8], tree: &Value, pb: &Path) -> Result<(), String> {
    let decoded = json::decode(Schema::Type(facts), text).map_err(|e| e.to_string())?;
    if !decoded.strict_errors.is_empty() {
        return Err(decoded.strict_errors.join(", "));
    }
    same("json", tree, &decoded.value)?;
    let bytes = std::fs::read(pb).map_err(|e| e.to_string())?;
    let (from_proto, _) = proto::decode_object(&bytes).map_err(|e| e.to_string())?;
    same("proto", tree, &from_proto)?;
    let (again, _) = proto::decode_object(&proto::encode_object(facts, tree)).map_err(|e| e.to_string())?;
    same("re-encoded", tree, &again)?;
    match proto::encode_object(facts, tree) == bytes {
        true => Ok(()),
        false => Err("other bytes".to_string()),
    }
}

fn same(what: &str, left: &Value, right: &Value) -> Result<(), String> {
    match differ("", left, right) {
        Some(at) => Err(format!("{what}{at}")),
        None => Ok(()),
    }
}

fn differ(path: &str, a: &Value, b: &Value) -> Option<String> {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            x.keys().chain(y.keys()).find_map(|key| match (x.get(key), y.get(key)) {
                (Some(a), Some(b)) => differ(&format!("{path}.{key}"), a, b),
                (a, b) => Some(format!("{path}.{key}: {a:?} against {b:?}")),
            })
        }
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
            x.iter().zip(y).find_map(|(a, b)| differ(&format!("{path}[]"), a, b))
        }
        _ => (a != b).then(|| format!("{path}: {a} against {b}")),
    }
}
