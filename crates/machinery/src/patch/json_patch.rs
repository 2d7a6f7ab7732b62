//! RFC 6902 with the oddities of the library that upstream uses: negative indexes, `replace` of a missing
//! object key succeeds, a missing value reads as null.

use serde_json::Value;

use super::PatchError;

/// At most this many operations in one patch, as upstream.
pub const MAX_OPERATIONS: usize = 10_000;
/// At most this many bytes may be added by `copy` operations: upstream's limit on a request.
pub const MAX_COPY_BYTES: usize = 3 * 1024 * 1024;

/// One operation of a JSON patch.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    /// `add`, `remove`, `replace`, `move`, `copy` or `test`.
    pub op: String,
    /// Where.
    pub path: Option<String>,
    /// From where, for `move` and `copy`.
    pub from: Option<String>,
    /// The value; absent and null read alike.
    pub value: Value,
}

/// Decodes and applies a JSON patch.
pub fn json_patch(object: &Value, patch: &[u8]) -> Result<Value, PatchError> {
    let mut out = object.clone();
    apply_operations(&mut out, &decode_operations(patch)?)?;
    Ok(out)
}

/// Decodes the operations and bounds their number.
pub fn decode_operations(patch: &[u8]) -> Result<Vec<Operation>, PatchError> {
    let decoded = crate::codec::json::decode_any(patch).map_err(|e| PatchError::Malformed(e.to_string()))?;
    let Value::Array(items) = decoded.value else {
        return Err(PatchError::Malformed(
            "json: cannot unmarshal object into Go value of type jsonpatch.Patch".to_string(),
        ));
    };
    if items.len() > MAX_OPERATIONS {
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            items.len()
        )));
    }
    items.into_iter().map(operation).collect()
}

fn operation(item: Value) -> Result<Operation, PatchError> {
    let Value::Object(mut fields) = item else {
        return Err(PatchError::Malformed(
            "json: cannot unmarshal array into Go value of type jsonpatch.Operation".to_string(),
        ));
    };
    let mut text = |name: &str| match fields.remove(name) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    };
    let (op, path, from) = (text("op"), text("path"), text("from"));
    Ok(Operation {
        op: op.unwrap_or_else(|| "unknown".to_string()),
        path,
        from,
        value: fields.remove("value").unwrap_or(Value::Null),
    })
}

/// Applies operations in order.
pub fn apply_operations(document: &mut Value, operations: &[Operation]) -> Result<(), PatchError> {
    let mut copied = 0usize;
    for operation in operations {
        apply(document, operation, &mut copied)?;
    }
    Ok(())
}

fn apply(document: &mut Value, operation: &Operation, copied: &mut usize) -> Result<(), PatchError> {
    let name = operation.op.as_str();
    let missing = |what: &str, why: &str| fail(format!("{name} operation {what}: {why}: missing value"));
    let path = match (&operation.path, name) {
        (Some(path), _) => path.as_str(),
        (None, "add" | "remove") => {
            return Err(fail(format!("{name} operation failed to decode path: missing value")));
        }
        (None, _) => return Err(missing("failed to decode path", "operation missing path field")),
    };
    let from = || {
        operation
            .from
            .as_deref()
            .ok_or_else(|| missing("failed to decode from", "operation, missing from field"))
    };
    match name {
        "add" => add(document, path, operation.value.clone()),
        "remove" => remove(document, path),
        "replace" => replace(document, path, operation.value.clone()),
        "move" => relocate(document, from()?, path),
        "copy" => copy(document, from()?, path, copied),
        "test" => test(document, path, &operation.value),
        other => Err(fail(format!("Unexpected kind: {other}"))),
    }
}

fn fail(message: String) -> PatchError {
    PatchError::Inapplicable(message)
}

/// The container that a path's last segment is in, and that segment; `None` when the way there is missing.
fn find<'a>(document: &'a mut Value, path: &str) -> Option<(&'a mut Value, String)> {
    let mut parts: Vec<&str> = path.split('/').collect();
    if parts.len() < 2 {
        return None;
    }
    let last = unescape(parts.pop()?);
    let mut at = document;
    for part in &parts[1..] {
        at = match at {
            Value::Object(map) => map.get_mut(&unescape(part))?,
            Value::Array(items) => {
                let index = position(part, items.len()).ok()?;
                items.get_mut(index)?
            }
            _ => return None,
        };
    }
    matches!(at, Value::Object(_) | Value::Array(_)).then_some((at, last))
}

fn unescape(part: &str) -> String {
    part.replace("~1", "/").replace("~0", "~")
}

/// A list index; negative ones count from `length`.
fn position(key: &str, length: usize) -> Result<usize, String> {
    let index: i64 = key.parse().map_err(|_| {
        format!("strconv.Atoi: parsing {}: invalid syntax", crate::codec::scalar::go_quote(key))
    })?;
    let counted =
        if index < 0 { i64::try_from(length).unwrap_or(i64::MAX).checked_add(index) } else { Some(index) };
    match counted.and_then(|n| usize::try_from(n).ok()) {
        Some(n) => Ok(n),
        None => Err(format!("Unable to access invalid index: {index}: invalid index referenced")),
    }
}

fn element(key: &str, length: usize) -> Result<usize, String> {
    match position(key, length)? {
        n if n < length => Ok(n),
        _ => Err(format!("Unable to access invalid index: {key}: invalid index referenced")),
    }
}

fn get(container: &Value, key: &str) -> Result<Value, String> {
    match container {
        Value::Array(items) => Ok(items[element(key, items.len())?].clone()),
        other => Ok(other.get(key).cloned().unwrap_or(Value::Null)),
    }
}

fn put(container: &mut Value, key: String, value: Value) -> Result<(), String> {
    match container {
        Value::Array(items) if key == "-" => items.push(value),
        Value::Array(items) => {
            let index = position(&key, items.len() + 1).map_err(|e| {
                if e.starts_with("strconv") {
                    format!("value was not a proper array index: '{key}': {e}")
                } else {
                    e
                }
            })?;
            if index > items.len() {
                return Err(format!("Unable to access invalid index: {key}: invalid index referenced"));
            }
            items.insert(index, value);
        }
        Value::Object(map) => {
            map.insert(key, value);
        }
        _ => {}
    }
    Ok(())
}

fn take(container: &mut Value, key: &str) -> Result<Value, String> {
    match container {
        Value::Array(items) => {
            let index = element(key, items.len())?;
            Ok(items.remove(index))
        }
        Value::Object(map) => {
            map.remove(key).ok_or_else(|| format!("Unable to remove nonexistent key: {key}: missing value"))
        }
        _ => Ok(Value::Null),
    }
}

fn add(document: &mut Value, path: &str, value: Value) -> Result<(), PatchError> {
    let Some((container, key)) = find(document, path) else {
        return Err(fail(format!(
            "add operation does not apply: doc is missing path: \"{path}\": missing value"
        )));
    };
    put(container, key, value).map_err(|e| fail(format!("error in add for path: '{path}': {e}")))
}

fn remove(document: &mut Value, path: &str) -> Result<(), PatchError> {
    let Some((container, key)) = find(document, path) else {
        return Err(fail(format!(
            "remove operation does not apply: doc is missing path: \"{path}\": missing value"
        )));
    };
    take(container, &key).map(|_| ()).map_err(|e| fail(format!("error in remove for path: '{path}': {e}")))
}

fn replace(document: &mut Value, path: &str, value: Value) -> Result<(), PatchError> {
    if path.is_empty() {
        if !matches!(value, Value::Object(_) | Value::Array(_)) {
            return Err(fail("replace operation value must be object or array".to_string()));
        }
        *document = value;
        return Ok(());
    }
    let Some((container, key)) = find(document, path) else {
        return Err(fail(format!(
            "replace operation does not apply: doc is missing path: {path}: missing value"
        )));
    };
    match container {
        Value::Array(items) => match element(&key, items.len()) {
            Ok(index) => items[index] = value,
            Err(_) => {
                return Err(fail(format!(
                    "replace operation does not apply: doc is missing key: {path}: missing value"
                )));
            }
        },
        Value::Object(map) => {
            map.insert(key, value);
        }
        _ => {}
    }
    Ok(())
}

fn relocate(document: &mut Value, from: &str, path: &str) -> Result<(), PatchError> {
    let Some((container, key)) = find(document, from) else {
        return Err(fail(format!(
            "move operation does not apply: doc is missing from path: {from}: missing value"
        )));
    };
    let value = take(container, &key).map_err(|e| fail(format!("error in move for path: '{key}': {e}")))?;
    let Some((container, key)) = find(document, path) else {
        return Err(fail(format!(
            "move operation does not apply: doc is missing destination path: {path}: missing value"
        )));
    };
    put(container, key, value).map_err(|e| fail(format!("error in move for path: '{path}': {e}")))
}

fn copy(document: &mut Value, from: &str, path: &str, copied: &mut usize) -> Result<(), PatchError> {
    let Some((container, key)) = find(document, from) else {
        return Err(fail(format!(
            "copy operation does not apply: doc is missing from path: {from}: missing value"
        )));
    };
    let value = get(container, &key).map_err(|e| fail(format!("error in copy for from: '{from}': {e}")))?;
    *copied += serde_json::to_string(&value).map_or(0, |text| text.len());
    if *copied > MAX_COPY_BYTES {
        return Err(PatchError::TooLarge(format!(
            "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the limit {MAX_COPY_BYTES}"
        )));
    }
    let Some((container, key)) = find(document, path) else {
        return Err(fail(format!(
            "copy operation does not apply: doc is missing destination path: {path}: missing value"
        )));
    };
    put(container, key, value).map_err(|e| fail(format!("error while adding value during copy: {e}")))
}

fn test(document: &mut Value, path: &str, expected: &Value) -> Result<(), PatchError> {
    let failed = || fail(format!("testing value {path} failed: test failed"));
    if path.is_empty() {
        return if document == expected { Ok(()) } else { Err(failed()) };
    }
    let Some((container, key)) = find(document, path) else {
        return Err(fail(format!("test operation does not apply: is missing path: {path}: missing value")));
    };
    let found = get(container, &key).map_err(|e| fail(format!("error in test for path: '{path}': {e}")))?;
    if &found == expected { Ok(()) } else { Err(failed()) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn operations_apply_or_say_why() {
        let object = json!({"a": {"b": [1, 2, 3]}, "c": "x"});
        for (patch, expect) in [
            (
                json!([{"op": "add", "path": "/a/b/1", "value": 9}]),
                Ok(json!({"a": {"b": [1, 9, 2, 3]}, "c": "x"})),
            ),
            (
                json!([{"op": "add", "path": "/a/b/-", "value": 9}]),
                Ok(json!({"a": {"b": [1, 2, 3, 9]}, "c": "x"})),
            ),
            (json!([{"op": "remove", "path": "/a/b/-1"}]), Ok(json!({"a": {"b": [1, 2]}, "c": "x"}))),
            (
                json!([{"op": "replace", "path": "/d", "value": 1}]),
                Ok(json!({"a": {"b": [1, 2, 3]}, "c": "x", "d": 1})),
            ),
            (
                json!([{"op": "move", "from": "/c", "path": "/a/c"}]),
                Ok(json!({"a": {"b": [1, 2, 3], "c": "x"}})),
            ),
            (
                json!([{"op": "copy", "from": "/c", "path": "/a~1b"}]),
                Ok(json!({"a": {"b": [1, 2, 3]}, "c": "x", "a/b": "x"})),
            ),
            (
                json!([{"op": "test", "path": "/c", "value": "y"}]),
                Err("testing value /c failed: test failed"),
            ),
            (
                json!([{"op": "remove", "path": "/d"}]),
                Err("error in remove for path: '/d': Unable to remove nonexistent key: d: missing value"),
            ),
            (
                json!([{"op": "add", "path": "/x/y", "value": 1}]),
                Err("add operation does not apply: doc is missing path: \"/x/y\": missing value"),
            ),
            (json!([{"op": "frob", "path": "/x"}]), Err("Unexpected kind: frob")),
        ] {
            let text = patch.to_string();
            let got = json_patch(&object, text.as_bytes()).map_err(|e| e.to_string());
            assert_eq!(got, expect.map_err(str::to_string), "{text}");
        }
    }
}
