//! Strategic merge patch: lists merge by key, with upstream's directives (`$patch`, `$retainKeys`,
//! `$deleteFromPrimitiveList`, `$setElementOrder`).

use serde_json::{Map, Value};

use super::PatchError;
use crate::schema::Schema;

pub(super) const PATCH: &str = "$patch";
pub(super) const RETAIN_KEYS: &str = "$retainKeys";
pub(super) const DELETE_FROM: &str = "$deleteFromPrimitiveList";
pub(super) const SET_ORDER: &str = "$setElementOrder";

/// How two maps are merged.
#[derive(Clone, Copy)]
pub(super) struct Options {
    /// Act on the directives (applying a patch) rather than carry them over (joining two patches).
    pub act: bool,
}

/// The object with a strategic merge patch applied. The schema gives merge keys and strategies; a custom
/// resource has none, so upstream refuses this patch type for it.
pub fn strategic_merge(schema: Schema<'_>, object: &Value, patch: &Value) -> Result<Value, PatchError> {
    let (Value::Object(object), Value::Object(patch)) = (object, patch) else {
        return Err(malformed("invalid JSON document"));
    };
    merge_maps(schema, object.clone(), patch.clone(), Options { act: true }).map(Value::Object)
}

pub(super) fn malformed(message: &str) -> PatchError {
    PatchError::Malformed(message.to_string())
}

type Result<T, E = PatchError> = std::result::Result<T, E>;
type Object = Map<String, Value>;

pub(super) fn merge_maps(
    schema: Schema<'_>,
    mut original: Object,
    mut patch: Object,
    options: Options,
) -> Result<Object> {
    if let Some(directive) = patch.get(PATCH) {
        return match directive.as_str() {
            Some("replace") => {
                patch.remove(PATCH);
                Ok(patch)
            }
            Some("delete") => Ok(Object::new()),
            _ => Err(PatchError::Malformed(format!(
                "unknown patch type: {} in map: {}",
                plain(directive),
                go_map(&patch)
            ))),
        };
    }
    retain_keys(&mut original, &mut patch, options)?;
    set_element_order(schema, &mut original, &mut patch, options)?;
    for (key, change) in patch {
        merge_key(schema, &mut original, key, change, options)?;
    }
    Ok(original)
}

fn merge_key(
    schema: Schema<'_>,
    original: &mut Object,
    key: String,
    mut change: Value,
    options: Options,
) -> Result<()> {
    let mut deleting = false;
    let mut name = key.as_str();
    if key.starts_with(DELETE_FROM) {
        if !options.act {
            original.insert(key, change);
            return Ok(());
        }
        name = directive_target(&key, DELETE_FROM)
            .ok_or_else(|| malformed("invalid patch format of primitive list"))?;
        deleting = true;
    }
    if change.is_null() {
        original.remove(name);
        if options.act {
            return Ok(());
        }
    }
    let same_type = original.get(name).is_some_and(|old| same_type(old, &change));
    if !same_type {
        if !deleting {
            if options.act {
                drop_nulls(&mut change);
            }
            insert_or_drop(original, name, without_directives(change));
        }
        return Ok(());
    }
    let place = schema.field(name).unwrap_or(Schema::Any);
    let marks = place.patch();
    match (original.remove(name), change) {
        (Some(Value::Object(old)), Value::Object(new)) => {
            let merged = if marks.replace { new } else { merge_maps(place, old, new, options)? };
            original.insert(name.to_string(), Value::Object(merged));
        }
        (Some(Value::Array(old)), Value::Array(new)) => {
            let merged = match marks.merge || deleting {
                true => merge_lists(place, old, new, marks.key, deleting, options)?,
                false => new,
            };
            original.insert(name.to_string(), Value::Array(merged));
        }
        (_, new) => insert_or_drop(original, name, without_directives(new)),
    }
    Ok(())
}

fn insert_or_drop(original: &mut Object, name: &str, value: Option<Value>) {
    match value {
        Some(value) => {
            original.insert(name.to_string(), value);
        }
        None => {
            original.remove(name);
        }
    }
}

fn directive_target<'a>(key: &'a str, prefix: &str) -> Option<&'a str> {
    key.strip_prefix(prefix)?.strip_prefix('/')
}

fn same_type(a: &Value, b: &Value) -> bool {
    std::mem::discriminant(a) == std::mem::discriminant(b)
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, inner| !inner.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// A new value as it is stored: maps that carry a `$patch` directive are dropped.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) if map.contains_key(PATCH) => None,
        Value::Object(map) => {
            Some(map.into_iter().filter_map(|(key, inner)| Some((key, without_directives(inner)?))).collect())
        }
        Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(without_directives).collect())),
        other => Some(other),
    }
}

fn retain_keys(original: &mut Object, patch: &mut Object, options: Options) -> Result<()> {
    let Some(directive) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    if !options.act {
        original.entry(RETAIN_KEYS).or_insert(directive);
        return Ok(());
    }
    let bad = || malformed("invalid patch format of retainKeys");
    let Value::Array(keys) = directive else { return Err(bad()) };
    let kept = |key: &str| keys.iter().any(|k| k.as_str() == Some(key));
    let stray = patch.iter().any(|(key, value)| {
        !value.is_null() && !key.starts_with(DELETE_FROM) && !key.starts_with(SET_ORDER) && !kept(key)
    });
    if stray {
        return Err(bad());
    }
    original.retain(|key, _| kept(key));
    Ok(())
}

/// Merges every list that has a `$setElementOrder` directive and sorts it by that.
fn set_element_order(
    schema: Schema<'_>,
    original: &mut Object,
    patch: &mut Object,
    options: Options,
) -> Result<()> {
    let directives: Vec<String> = patch.keys().filter(|key| key.starts_with(SET_ORDER)).cloned().collect();
    for directive in directives {
        let Some(order) = patch.remove(&directive) else { continue };
        if !options.act {
            match original.get(&directive) {
                Some(other) if *other != order => {
                    return Err(malformed("invalid patch format of setElementOrder list"));
                }
                _ => original.insert(directive.clone(), order.clone()),
            };
        }
        let name = directive_target(&directive, SET_ORDER)
            .ok_or_else(|| malformed("invalid patch format of setElementOrder list"))?;
        let order = list(order)?;
        let old = original.get(name).cloned().map(list).transpose()?;
        let new = patch.remove(name).map(list).transpose()?;
        let place = schema.field(name).unwrap_or(Schema::Any);
        let marks = place.patch();
        if let Some(new) = &new {
            check_order(new, &order, marks.key)?;
        }
        let server_order = old.clone().unwrap_or_default();
        let merged = match (old, new) {
            (None, None) => continue,
            (Some(old), None) => old,
            (None, Some(new)) => match without_directives(Value::Array(new)) {
                Some(Value::Array(items)) => items,
                _ => continue,
            },
            (Some(old), Some(new)) if marks.merge => merge_lists(place, old, new, marks.key, false, options)?,
            (Some(_), Some(new)) => new,
        };
        let (from_patch, from_server) = partition(merged, &order, marks.key)?;
        let sorted = interleave(from_patch, from_server, &order, &server_order, marks.key);
        original.insert(name.to_string(), Value::Array(sorted));
    }
    Ok(())
}

fn list(value: Value) -> Result<Vec<Value>> {
    match value {
        Value::Array(items) => Ok(items),
        other => Err(PatchError::Malformed(format!("expected a list, but received a {}", kind(&other)))),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nil",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "list",
        Value::Object(_) => "map",
    }
}

/// The patch's list must be a subsequence of the wanted order (deletions aside).
fn check_order(patch: &[Value], order: &[Value], key: Option<&str>) -> Result<()> {
    if patch.is_empty() || order.is_empty() {
        return Ok(());
    }
    let mut wanted = order.iter();
    for item in patch.iter().filter(|item| item.get(PATCH).is_none()) {
        if !wanted.any(|candidate| identity(candidate, key) == identity(item, key)) {
            return Err(PatchError::Malformed(format!(
                "The order in patch list:\n{}\n doesn't match {SET_ORDER} list:\n{}\n",
                go_list(patch),
                go_list(order)
            )));
        }
    }
    Ok(())
}

/// What identifies a list element: its merge key's value, or itself.
pub(super) fn identity<'a>(item: &'a Value, key: Option<&str>) -> Option<&'a Value> {
    match key {
        Some(key) if item.is_object() => item.get(key),
        _ => Some(item),
    }
}

fn merge_lists(
    place: Schema<'_>,
    original: Vec<Value>,
    patch: Vec<Value>,
    key: Option<&str>,
    deleting: bool,
    options: Options,
) -> Result<Vec<Value>> {
    if original.is_empty() && patch.is_empty() {
        return Ok(original);
    }
    let of_maps = element_is_map(&original, &patch)?;
    if !of_maps {
        if deleting {
            return Ok(original.into_iter().filter(|item| !patch.contains(item)).collect());
        }
        let mut merged = Vec::with_capacity(original.len() + patch.len());
        for item in original.iter().chain(&patch) {
            if !merged.contains(item) {
                merged.push(item.clone());
            }
        }
        let (from_patch, from_server) = partition(merged, &patch, None)?;
        return Ok(interleave(from_patch, from_server, &patch, &original, None));
    }
    let Some(key) = key else {
        return Err(PatchError::Malformed("cannot merge lists without merge key".to_string()));
    };
    let (original, patch) = special_elements(original, patch, key)?;
    let server_order = original.clone();
    let patch_order = patch.clone();
    let merged = merge_elements(place, original, patch, key, options)?;
    let (from_patch, from_server) = partition(merged, &patch_order, Some(key))?;
    Ok(interleave(from_patch, from_server, &patch_order, &server_order, Some(key)))
}

fn element_is_map(original: &[Value], patch: &[Value]) -> Result<bool> {
    let mut all = original.iter().chain(patch);
    let first = all.next().map(Value::is_object).unwrap_or(false);
    match all.find(|item| item.is_object() != first) {
        Some(_) => Err(malformed("list element types are not identical")),
        None => Ok(first),
    }
}

/// Acts on `$patch` directives among list elements; what is left of the patch are plain elements.
fn special_elements(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    key: &str,
) -> Result<(Vec<Value>, Vec<Value>)> {
    let mut plain_elements = Vec::with_capacity(patch.len());
    let mut replacing = false;
    for item in patch {
        match item.get(PATCH) {
            None => plain_elements.push(item),
            Some(Value::String(directive)) if directive == "delete" => match item.get(key) {
                Some(wanted) => original.retain(|old| old.get(key) != Some(wanted)),
                None => return Err(no_merge_key(&item, key)),
            },
            Some(Value::String(directive)) if directive == "replace" => replacing = true,
            Some(Value::String(directive)) if directive == "merge" => {
                return Err(malformed("merging lists cannot yet be specified in the patch"));
            }
            Some(other) => {
                let shown = item.as_object().map(go_map).unwrap_or_default();
                return Err(PatchError::Malformed(format!(
                    "unknown patch type: {} in map: {shown}",
                    plain(other)
                )));
            }
        }
    }
    Ok(if replacing { (plain_elements, Vec::new()) } else { (original, plain_elements) })
}

fn merge_elements(
    place: Schema<'_>,
    mut original: Vec<Value>,
    patch: Vec<Value>,
    key: &str,
    options: Options,
) -> Result<Vec<Value>> {
    for item in patch {
        let Some(wanted) = item.get(key) else { return Err(no_merge_key(&item, key)) };
        let found = original.iter().position(|old| old.get(key) == Some(wanted));
        match (found, item) {
            (Some(at), Value::Object(change)) => {
                let Value::Object(old) = original[at].take() else { continue };
                original[at] = Value::Object(merge_maps(place.item(), old, change, options)?);
            }
            (_, item) => original.push(item),
        }
    }
    Ok(original)
}

fn no_merge_key(item: &Value, key: &str) -> PatchError {
    let shown = item.as_object().map(go_map).unwrap_or_default();
    PatchError::Malformed(format!("map: {shown} does not contain declared merge key: {key}"))
}

/// Splits a merged list into elements that `order` names and the others.
fn partition(merged: Vec<Value>, order: &[Value], key: Option<&str>) -> Result<(Vec<Value>, Vec<Value>)> {
    let (mut named, mut others) = (Vec::new(), Vec::new());
    for item in merged {
        let wanted = identity(&item, key);
        if let (None, Some(key)) = (wanted, key) {
            return Err(no_merge_key(&item, key));
        }
        match order.iter().any(|candidate| identity(candidate, key) == wanted) {
            true => named.push(item),
            false => others.push(item),
        }
    }
    Ok((named, others))
}

fn place_in(order: &[Value], item: &Value, key: Option<&str>) -> Option<usize> {
    let wanted = identity(item, key);
    order.iter().position(|candidate| identity(candidate, key) == wanted)
}

/// Joins the patch's elements (in the wanted order) with the server's own (in the server's order): a server
/// element goes first only where the server had it before the patch's next one.
fn interleave(
    mut from_patch: Vec<Value>,
    mut from_server: Vec<Value>,
    order: &[Value],
    server_order: &[Value],
    key: Option<&str>,
) -> Vec<Value> {
    from_patch.sort_by_key(|item| place_in(order, item, key));
    from_server.sort_by_key(|item| place_in(server_order, item, key));
    let mut out = Vec::with_capacity(from_patch.len() + from_server.len());
    let (mut patch, mut server) = (from_patch.into_iter().peekable(), from_server.into_iter().peekable());
    while let (Some(next), Some(own)) = (patch.peek(), server.peek()) {
        let own_first = match (place_in(server_order, own, key), place_in(server_order, next, key)) {
            (Some(own), Some(next)) => own < next,
            _ => false,
        };
        out.extend(if own_first { server.next() } else { patch.next() });
    }
    out.extend(patch);
    out.extend(server);
    out
}

/// A value as Go's `%v` prints it.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_string(),
        Value::String(text) => text.clone(),
        Value::Array(items) => go_list(items),
        Value::Object(map) => go_map(map),
        other => other.to_string(),
    }
}

fn go_list(items: &[Value]) -> String {
    format!("[{}]", items.iter().map(plain).collect::<Vec<_>>().join(" "))
}

fn go_map(map: &Object) -> String {
    format!("map[{}]", map.iter().map(|(k, v)| format!("{k}:{}", plain(v))).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::facts;

    fn check(object: Value, patch: Value, expect: Value) {
        let schema = Schema::Type(facts().by_name("io.k8s.api.core.v1.PodSpec").expect("known"));
        assert_eq!(strategic_merge(schema, &object, &patch), Ok(expect), "{patch}");
    }

    #[test]
    fn lists_merge_by_key() {
        let two = json!({"containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]});
        check(
            two.clone(),
            json!({"containers": [{"name": "b", "image": "z"}]}),
            json!({"containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "z"}]}),
        );
        check(
            two.clone(),
            json!({"containers": [{"name": "a", "$patch": "delete"}]}),
            json!({"containers": [{"name": "b", "image": "y"}]}),
        );
        check(
            two.clone(),
            json!({"containers": [{"$patch": "replace"}, {"name": "c"}]}),
            json!({"containers": [{"name": "c"}]}),
        );
        check(
            two.clone(),
            json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}),
            json!({"containers": [{"name": "b", "image": "y"}, {"name": "a", "image": "x"}]}),
        );
        check(
            two,
            json!({"$setElementOrder/containers": [{"name": "a"}, {"name": "c"}, {"name": "b"}], "containers": [{"name": "c", "image": "w"}]}),
            json!({"containers": [{"name": "a", "image": "x"}, {"name": "c", "image": "w"}, {"name": "b", "image": "y"}]}),
        );
    }

    #[test]
    fn maps_and_directives() {
        check(
            json!({"nodeSelector": {"a": "1", "b": "2"}, "restartPolicy": "Always"}),
            json!({"nodeSelector": {"a": null, "c": "3"}, "restartPolicy": null}),
            json!({"nodeSelector": {"b": "2", "c": "3"}}),
        );
        check(
            json!({"nodeSelector": {"a": "1"}}),
            json!({"nodeSelector": {"$patch": "replace", "c": "3"}}),
            json!({"nodeSelector": {"c": "3"}}),
        );
        check(
            json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
            json!({"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}),
            json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}),
        );
        check(
            json!({"tolerations": [{"key": "a"}]}),
            json!({"tolerations": [{"key": "b"}]}),
            json!({"tolerations": [{"key": "b"}]}),
        );
    }

    #[test]
    fn finalizers_are_deleted_by_value() {
        let schema = Schema::Type(facts().meta("ObjectMeta").expect("known"));
        let got = strategic_merge(
            schema,
            &json!({"finalizers": ["a", "b", "c"]}),
            &json!({"$deleteFromPrimitiveList/finalizers": ["b"], "$setElementOrder/finalizers": ["c", "a"]}),
        );
        assert_eq!(got, Ok(json!({"finalizers": ["c", "a"]})));
    }
}
