//! Making patches: what `kubectl` computes for edit, apply and friends.

use serde_json::{Map, Value, json};

use super::PatchError;
use super::merge::{create_merge, merge_patch};
use super::strategic::{
    DELETE_FROM, Options, PATCH, RETAIN_KEYS, SET_ORDER, identity, malformed, merge_maps,
};
use crate::schema::Schema;

/// What a three-way patch found changed on both sides.
#[derive(Debug, Clone, PartialEq)]
pub struct Conflict {
    /// The patch that was about to be sent.
    pub patch: Value,
    /// What changed on the server since.
    pub changed: Value,
}

type Object = Map<String, Value>;
type Result<T, E = PatchError> = std::result::Result<T, E>;

#[derive(Clone, Copy)]
struct Want {
    deletions: bool,
    changes: bool,
    order: bool,
}

/// The strategic merge patch that leads from one object to another.
pub fn create_two_way(schema: Schema<'_>, from: &Value, to: &Value) -> Result<Value> {
    let want = Want { deletions: true, changes: true, order: true };
    diff_maps(schema, object(from)?, object(to)?, false, want).map(Value::Object)
}

/// The strategic merge patch that brings `current` to `modified` and removes what `original` had and
/// `modified` has not.
pub fn create_three_way(
    schema: Schema<'_>,
    original: &Value,
    modified: &Value,
    current: &Value,
) -> Result<Value> {
    let empty = json!({});
    let original = if original.is_null() { &empty } else { original };
    let (original, modified, current) = (object(original)?, object(modified)?, object(current)?);
    let additions = Want { deletions: false, changes: true, order: true };
    let deletions = Want { deletions: true, changes: false, order: true };
    let delta = diff_maps(schema, current, modified, false, additions)?;
    let gone = diff_maps(schema, original, modified, false, deletions)?;
    merge_maps(schema, gone, delta, Options { act: false }).map(Value::Object)
}

/// The same as a JSON merge patch, for objects without a known schema.
pub fn create_three_way_merge(original: &Value, modified: &Value, current: &Value) -> Value {
    let additions = keep(&create_merge(current, modified), false).unwrap_or_else(|| json!({}));
    let deletions = keep(&create_merge(original, modified), true).unwrap_or_else(|| json!({}));
    overlay(deletions, additions)
}

/// The nulls of a merge patch, or all but the nulls.
fn keep(patch: &Value, nulls: bool) -> Option<Value> {
    match patch {
        Value::Object(map) => {
            let kept: Object =
                map.iter().filter_map(|(key, inner)| Some((key.clone(), keep(inner, nulls)?))).collect();
            (!kept.is_empty()).then_some(Value::Object(kept))
        }
        other => (other.is_null() == nulls).then(|| other.clone()),
    }
}

fn overlay(mut under: Value, over: Value) -> Value {
    match (&mut under, over) {
        (Value::Object(map), Value::Object(over)) => {
            for (key, inner) in over {
                let joined = match map.remove(&key) {
                    Some(old) => overlay(old, inner),
                    None => inner,
                };
                map.insert(key, joined);
            }
            under
        }
        (_, over) => over,
    }
}

impl Conflict {
    /// Whether a patch touches what changed on the server in another way.
    pub fn find(original: &Value, current: &Value, patch: &Value) -> Option<Conflict> {
        let changed = create_merge(original, current);
        let mine = merge_patch(original, patch);
        let theirs = merge_patch(original, &changed);
        clashes(patch, &changed, &mine, &theirs).then(|| Conflict { patch: patch.clone(), changed })
    }
}

fn clashes(patch: &Value, changed: &Value, mine: &Value, theirs: &Value) -> bool {
    match (patch, changed) {
        (Value::Object(patch), Value::Object(changed)) => patch.iter().any(|(key, inner)| {
            let null = Value::Null;
            let of = |value: &Value| value.get(key).cloned().unwrap_or(Value::Null);
            changed.get(key).is_some_and(|other| {
                clashes(inner, other, &of(mine), &of(theirs)) || (other == &null) != (inner == &null)
            })
        }),
        _ => mine != theirs,
    }
}

fn object(value: &Value) -> Result<&Object> {
    value.as_object().ok_or_else(|| malformed("invalid JSON document"))
}

fn diff_maps(schema: Schema<'_>, from: &Object, to: &Object, retain: bool, want: Want) -> Result<Object> {
    let mut patch = Object::new();
    for (key, new) in to {
        let Some(old) = from.get(key) else {
            if want.changes {
                patch.insert(key.clone(), new.clone());
            }
            continue;
        };
        if old == new {
            continue;
        }
        let place = schema.field(key).unwrap_or(Schema::Any);
        let marks = place.patch();
        match (old, new) {
            (Value::Object(old), Value::Object(new)) if !marks.replace => {
                let inner = diff_maps(place, old, new, marks.retain_keys, want)?;
                if !inner.is_empty() {
                    patch.insert(key.clone(), Value::Object(inner));
                }
            }
            (Value::Array(old), Value::Array(new)) if marks.merge => {
                diff_lists(place, key, old, new, &mut patch, want)?;
            }
            _ if want.changes => {
                patch.insert(key.clone(), new.clone());
            }
            _ => {}
        }
    }
    if want.deletions {
        for key in from.keys().filter(|key| !to.contains_key(*key)) {
            patch.insert(key.clone(), Value::Null);
        }
    }
    let cleared = from.keys().any(|key| !to.contains_key(key));
    if retain && (!patch.is_empty() || cleared) {
        let keys: Vec<&String> =
            to.iter().filter(|(_, value)| !value.is_null()).map(|(key, _)| key).collect();
        if !keys.is_empty() {
            patch.insert(RETAIN_KEYS.to_string(), json!(keys));
        }
    }
    Ok(patch)
}

fn diff_lists(
    place: Schema<'_>,
    name: &str,
    from: &[Value],
    to: &[Value],
    patch: &mut Object,
    want: Want,
) -> Result<()> {
    if from.is_empty() {
        if want.changes && !to.is_empty() {
            patch.insert(name.to_string(), json!(to));
        }
        return Ok(());
    }
    let marks = place.patch();
    let maps = from.iter().chain(to).next().is_some_and(Value::is_object);
    if maps {
        let key = marks.key.ok_or_else(|| malformed("cannot merge lists without merge key"))?;
        return diff_map_lists(place, name, key, from, to, patch, want);
    }
    let added: Vec<&Value> = to.iter().filter(|item| !from.contains(item)).collect();
    let mut removed: Vec<Value> = Vec::new();
    for item in from {
        if !to.contains(item) && !removed.contains(item) {
            removed.push(item.clone());
        }
    }
    removed.sort_by_key(Value::to_string);
    if want.order && ((want.deletions && !removed.is_empty()) || (want.changes && from != to)) {
        patch.insert(format!("{SET_ORDER}/{name}"), json!(to));
    }
    if want.changes && !added.is_empty() {
        patch.insert(name.to_string(), json!(added));
    }
    if want.deletions && !removed.is_empty() {
        patch.insert(format!("{DELETE_FROM}/{name}"), json!(removed));
    }
    Ok(())
}

fn diff_map_lists(
    place: Schema<'_>,
    name: &str,
    key: &str,
    from: &[Value],
    to: &[Value],
    patch: &mut Object,
    want: Want,
) -> Result<()> {
    let mut changes = Vec::new();
    for new in to {
        let id = new.get(key).ok_or_else(|| {
            PatchError::Malformed(format!("map: {new} does not contain declared merge key: {key}"))
        })?;
        match (from.iter().find(|old| old.get(key) == Some(id)), new) {
            (Some(Value::Object(old)), Value::Object(new)) => {
                let mut inner = diff_maps(place.item(), old, new, place.patch().retain_keys, want)?;
                if !inner.is_empty() {
                    inner.insert(key.to_string(), id.clone());
                    changes.push(Value::Object(inner));
                }
            }
            _ if want.changes => changes.push(new.clone()),
            _ => {}
        }
    }
    if want.deletions {
        for old in from {
            if let Some(id) = old.get(key)
                && !to.iter().any(|new| new.get(key) == Some(id))
            {
                changes.push(json!({PATCH: "delete", key: id}));
            }
        }
    }
    let same_order = from.len() == to.len()
        && from.iter().zip(to).all(|(a, b)| identity(a, Some(key)) == identity(b, Some(key)));
    let ordered =
        (want.changes && (!changes.is_empty() || !same_order)) || (want.deletions && !changes.is_empty());
    if want.order && ordered {
        let order: Vec<Value> = to.iter().map(|item| json!({key: item.get(key)})).collect();
        patch.insert(format!("{SET_ORDER}/{name}"), json!(order));
    }
    if !changes.is_empty() {
        patch.insert(name.to_string(), Value::Array(changes));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::patch::strategic_merge;
    use crate::schema::facts;

    fn pod_spec() -> Schema<'static> {
        Schema::Type(facts().by_name("io.k8s.api.core.v1.PodSpec").expect("known"))
    }

    #[test]
    fn a_two_way_patch_leads_from_one_to_the_other() {
        for (from, to) in [
            (json!({"a": 1}), json!({"b": 2})),
            (
                json!({"containers": [{"name": "a", "image": "x"}, {"name": "b"}]}),
                json!({"containers": [{"name": "c"}, {"name": "a", "image": "y"}]}),
            ),
            (
                json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
                json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}),
            ),
            (json!({"tolerations": [{"key": "a"}]}), json!({"tolerations": [{"key": "b"}, {"key": "a"}]})),
        ] {
            let patch = create_two_way(pod_spec(), &from, &to).expect("a patch");
            assert_eq!(strategic_merge(pod_spec(), &from, &patch), Ok(to), "{patch}");
        }
    }

    #[test]
    fn a_three_way_patch_keeps_what_others_set() {
        let original = json!({"containers": [{"name": "a", "image": "x", "tty": true}], "nodeName": "n"});
        let modified = json!({"containers": [{"name": "a", "image": "y"}]});
        let current = json!({"containers": [{"name": "side"}, {"name": "a", "image": "x", "tty": true, "stdin": true}], "nodeName": "n"});
        let patch = create_three_way(pod_spec(), &original, &modified, &current).expect("a patch");
        assert_eq!(
            patch,
            json!({
                "$setElementOrder/containers": [{"name": "a"}],
                "containers": [{"name": "a", "image": "y", "tty": null}],
                "nodeName": null
            })
        );
        let merged = strategic_merge(pod_spec(), &current, &patch).expect("applies");
        assert_eq!(
            merged,
            json!({"containers": [{"name": "side"}, {"name": "a", "image": "y", "stdin": true}]})
        );
    }

    #[test]
    fn a_three_way_merge_patch_works_without_a_schema() {
        let patch = create_three_way_merge(
            &json!({"spec": {"a": 1, "b": 2}}),
            &json!({"spec": {"a": 3}}),
            &json!({"spec": {"a": 1, "b": 2, "c": 4}}),
        );
        assert_eq!(patch, json!({"spec": {"a": 3, "b": null}}));
    }
}
