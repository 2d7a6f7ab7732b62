//! Pod templates: their hash, their comparison, and numbers given as a count or a percentage.

use api::k8s::api::core::v1::PodTemplateSpec;
use api::k8s::apimachinery::pkg::util::intstr::IntOrString;
use client::plan::to_value;
use serde_json::Value;

/// The label that carries a template's hash.
pub const HASH_LABEL: &str = "pod-template-hash";

/// 32-bit FNV-1a.
pub fn fnv32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// Digits as characters fit for names, as upstream's `SafeEncodeString`.
pub fn safe_encode(text: &str) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    text.bytes().map(|byte| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()])).collect()
}

/// A short text that differs between templates; `collisions` gives another one for the same template.
pub fn hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    let mut text = canonical(template).to_string();
    if let Some(count) = collisions {
        text.push_str(&count.to_string());
    }
    safe_encode(&fnv32(text.as_bytes()).to_string())
}

/// True when two templates are the same but for the hash label.
pub fn same(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    canonical(a) == canonical(b)
}

/// The template without what does not matter: the hash label, nulls, empty lists and maps.
fn canonical(template: &PodTemplateSpec) -> Value {
    let mut value = to_value(template);
    if let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("creationTimestamp");
        if let Some(labels) = meta.get_mut("labels").and_then(Value::as_object_mut) {
            labels.remove(HASH_LABEL);
        }
    }
    prune(&mut value);
    value
}

fn prune(value: &mut Value) {
    // An empty map that names something (`emptyDir: {}`) must stay: only lists, nulls and metadata go.
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(prune);
            map.retain(|key, value| match value {
                Value::Null => false,
                Value::Array(list) => !list.is_empty(),
                Value::Object(map) => !(map.is_empty() && matches!(key.as_str(), "labels" | "annotations")),
                _ => true,
            });
        }
        Value::Array(list) => list.iter_mut().for_each(prune),
        _ => {}
    }
}

/// A count, or a percentage of `total` rounded up or down; `None` when it is neither.
pub fn scaled(value: Option<&IntOrString>, total: i32, round_up: bool) -> Option<i32> {
    match value? {
        IntOrString::Int(count) => Some(*count),
        IntOrString::String(text) => {
            let percent: i64 = text.strip_suffix('%')?.parse().ok()?;
            let product = percent * i64::from(total);
            let share = if round_up { (product + 99).div_euclid(100) } else { product.div_euclid(100) };
            i32::try_from(share).ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_round_both_ways() {
        let of = |text: &str, total, up| scaled(Some(&IntOrString::String(text.into())), total, up);
        assert_eq!((of("25%", 10, true), of("25%", 10, false)), (Some(3), Some(2)));
        assert_eq!((of("0%", 10, true), of("x", 10, true)), (Some(0), None));
        assert_eq!(scaled(Some(&IntOrString::Int(4)), 10, true), Some(4));
    }

    #[test]
    fn the_hash_ignores_its_own_label() {
        let template = |label: &str| -> PodTemplateSpec {
            serde_json::from_value(serde_json::json!({"metadata": {"labels": {"a": "b", HASH_LABEL: label}}}))
                .expect("a template")
        };
        assert!(same(&template("x"), &template("y")));
        assert_eq!(hash(&template("x"), None), hash(&template("y"), None));
        assert_ne!(hash(&template("x"), None), hash(&template("x"), Some(1)));
    }
}
