//! Walks over one or two values along a schema: comparing, merging, removing, listing fields.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::FieldSet;
use super::fields::show;
use crate::schema::{ListKind, Schema, Sort};

/// What differs between two values.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    pub(super) added: FieldSet,
    pub(super) modified: FieldSet,
    pub(super) removed: FieldSet,
}

/// How a place is merged.
enum Atom {
    /// As a whole.
    Leaf,
    /// Field by field.
    Map,
    /// Element by element.
    List(ListKind),
}

fn atom(schema: Schema<'_>, sample: &Value) -> Atom {
    match (schema, schema.sort()) {
        (Schema::Any, _) | (Schema::Node(_), Sort::Any) => match sample {
            Value::Object(_) => Atom::Map,
            _ => Atom::Leaf,
        },
        (_, Sort::Object | Sort::Map) if schema.is_atomic() => Atom::Leaf,
        (_, Sort::Object | Sort::Map) => Atom::Map,
        (_, Sort::List) => match schema.list_kind() {
            ListKind::Atomic => Atom::Leaf,
            kind => Atom::List(kind),
        },
        _ => Atom::Leaf,
    }
}

/// Whether a name is a declared field, rather than a key of a map.
pub(super) fn is_struct_field(schema: Schema<'_>, name: &str) -> bool {
    match schema {
        Schema::Node(node) if node.builtin.is_none() => node.properties.contains_key(name),
        _ => schema.object_type().is_some_and(|facts| facts.field(name).is_some()),
    }
}

fn child<'a>(schema: Schema<'a>, name: &str) -> Schema<'a> {
    schema.field(name).unwrap_or(Schema::Any)
}

fn field_element(name: &str) -> String {
    ["f:", name].concat()
}

/// The element that identifies a list item; `None` when it has none of the keys.
fn item_element(schema: Schema<'_>, kind: &ListKind, item: &Value) -> Option<String> {
    match kind {
        ListKind::Map(keys) => {
            let fields = item.as_object()?;
            let place = schema.item();
            let mut id: Vec<(&str, Cow<'_, Value>)> = Vec::with_capacity(keys.len());
            for key in keys {
                let value = fields.get(key.as_ref()).filter(|value| !value.is_null()).map(Cow::Borrowed);
                let value = value.or_else(|| place.field(key).and_then(Schema::default).map(Cow::Owned));
                id.extend(value.map(|value| (key.as_ref(), value)));
            }
            id.sort_by_key(|(key, _)| *key);
            (!id.is_empty()).then(|| key_element(&id))
        }
        _ => Some(format!("v:{item}")),
    }
}

/// `k:` and the keys as a JSON object.
fn key_element(id: &[(&str, Cow<'_, Value>)]) -> String {
    let mut text = b"k:".to_vec();
    for (at, (key, value)) in id.iter().enumerate() {
        text.push(if at == 0 { b'{' } else { b',' });
        serde_json::to_writer(&mut text, key).expect("text is always written to memory");
        text.push(b':');
        serde_json::to_writer(&mut text, value.as_ref()).expect("a tree is always written to memory");
    }
    text.push(b'}');
    String::from_utf8(text).expect("JSON is UTF-8")
}

fn is_empty(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        Some(_) => false,
    }
}

// ---- comparing ----

/// What differs at a place itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    None,
    Added,
    Modified,
    Removed,
}

impl Comparison {
    fn attach(&mut self, element: impl Fn() -> String, change: Change, below: Comparison) {
        self.added.attach(&element, change == Change::Added, below.added);
        self.modified.attach(&element, change == Change::Modified, below.modified);
        self.removed.attach(&element, change == Change::Removed, below.removed);
    }
}

/// Collects the differences between two objects.
pub(super) fn compare(schema: Schema<'_>, old: &Value, new: &Value) -> Comparison {
    compare_at(schema, Some(old), Some(new)).1
}

fn compare_at(schema: Schema<'_>, old: Option<&Value>, new: Option<&Value>) -> (Change, Comparison) {
    let mut below = Comparison::default();
    let Some(sample) = new.or(old) else { return (Change::None, below) };
    let filled = |value: Option<&Value>| value.and_then(Value::as_object).is_some_and(|map| !map.is_empty());
    // Maps are compared on the way down: asking whether they are equal at each level would cost the depth.
    let descend = filled(old) && filled(new) && matches!(atom(schema, sample), Atom::Map);
    if !descend && old == new {
        return (Change::None, below);
    }
    let structured = match atom(schema, sample) {
        _ if is_empty(old) && is_empty(new) => false,
        Atom::Leaf => false,
        Atom::Map => compare_maps(schema, old, new, &mut below),
        Atom::List(kind) => compare_lists(schema, &kind, old, new, &mut below),
    };
    let change = match (old, new) {
        (None, _) => Change::Added,
        (_, None) => Change::Removed,
        _ if structured => Change::None,
        _ => Change::Modified,
    };
    (change, below)
}

fn compare_maps(schema: Schema<'_>, old: Option<&Value>, new: Option<&Value>, out: &mut Comparison) -> bool {
    let none = Map::new();
    let mapped = |value: Option<&Value>| matches!(value, None | Some(Value::Null | Value::Object(_)));
    if !mapped(old) || !mapped(new) {
        return false;
    }
    let left = old.and_then(Value::as_object).unwrap_or(&none);
    let right = new.and_then(Value::as_object).unwrap_or(&none);
    let mut one = |key: &str, before: Option<&Value>, after: Option<&Value>| {
        let (change, below) = compare_at(child(schema, key), before, after);
        out.attach(|| field_element(key), change, below);
    };
    for (key, value) in left {
        one(key, Some(value), right.get(key));
    }
    for (key, value) in right.iter().filter(|(key, _)| !left.contains_key(*key)) {
        one(key, None, Some(value));
    }
    true
}

fn compare_lists(
    schema: Schema<'_>,
    kind: &ListKind,
    old: Option<&Value>,
    new: Option<&Value>,
    out: &mut Comparison,
) -> bool {
    let listed = |value: Option<&Value>| matches!(value, None | Some(Value::Null | Value::Array(_)));
    if !listed(old) || !listed(new) {
        return false;
    }
    let (left, right) = (by_element(schema, kind, old), by_element(schema, kind, new));
    let elements: std::collections::BTreeSet<&String> = left.keys().chain(right.keys()).collect();
    for element in elements {
        let (before, after) = (left.get(element), right.get(element));
        let many = before.is_some_and(|items| items.len() > 1) || after.is_some_and(|items| items.len() > 1);
        let (change, below) = match (before, after) {
            (Some(before), Some(after)) if many && before != after => {
                (Change::Modified, Comparison::default())
            }
            (None, Some(_)) if many => (Change::Added, Comparison::default()),
            (Some(_), None) if many => (Change::Removed, Comparison::default()),
            _ if many => continue,
            _ => {
                let before = before.and_then(|items| items.first().copied());
                let after = after.and_then(|items| items.first().copied());
                compare_at(schema.item(), before, after)
            }
        };
        out.attach(|| element.clone(), change, below);
    }
    true
}

fn by_element<'v>(
    schema: Schema<'_>,
    kind: &ListKind,
    list: Option<&'v Value>,
) -> BTreeMap<String, Vec<&'v Value>> {
    let mut out: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
    for item in list.and_then(Value::as_array).into_iter().flatten() {
        if let Some(element) = item_element(schema, kind, item) {
            out.entry(element).or_default().push(item);
        }
    }
    out
}

// ---- listing fields ----

/// Every field that a configuration sets.
pub(super) fn field_set(schema: Schema<'_>, value: &Value) -> FieldSet {
    collect(schema, value).1
}

/// Whether the place itself is set, and what is below it.
fn collect(schema: Schema<'_>, value: &Value) -> (bool, FieldSet) {
    let mut below = FieldSet::default();
    match (atom(schema, value), value) {
        (Atom::Map, Value::Object(map)) => {
            for (key, inner) in map {
                let (set, deeper) = collect(child(schema, key), inner);
                let empty = inner.is_null() || inner.as_object().is_some_and(Map::is_empty);
                below.attach(|| field_element(key), set || empty || !is_struct_field(schema, key), deeper);
            }
            (false, below)
        }
        (Atom::List(kind), Value::Array(_)) => {
            for (element, items) in by_element(schema, &kind, Some(value)) {
                let deeper = match items.as_slice() {
                    [only] => collect(schema.item(), only).1,
                    _ => FieldSet::default(),
                };
                below.attach(|| element, true, deeper);
            }
            (false, below)
        }
        (Atom::Map | Atom::List(_), Value::Null) => (false, below),
        _ => (true, below),
    }
}

// ---- merging ----

/// The live value with a configuration laid over it.
pub(super) fn merge(schema: Schema<'_>, live: Option<&Value>, config: Option<&Value>) -> Option<Value> {
    let (live, config) = match (live, config) {
        (live, None) => return live.cloned(),
        (None, Some(config)) => return Some(config.clone()),
        (Some(live), Some(config)) => (live, config),
    };
    if is_empty(Some(live)) && is_empty(Some(config)) {
        return Some(config.clone());
    }
    match (atom(schema, config), live, config) {
        (Atom::Map, Value::Object(left), Value::Object(right)) => {
            let mut out = left.clone();
            for (key, value) in right {
                if let Some(merged) = merge(child(schema, key), left.get(key), Some(value)) {
                    out.insert(key.clone(), merged);
                }
            }
            Some(Value::Object(out))
        }
        (Atom::List(kind), Value::Array(left), Value::Array(right)) => {
            Some(Value::Array(merge_lists(schema, &kind, left, right)))
        }
        // A null map or list in the configuration merges nothing in.
        (Atom::Map, Value::Object(_), Value::Null) | (Atom::List(_), Value::Array(_), Value::Null) => {
            Some(live.clone())
        }
        _ => Some(config.clone()),
    }
}

/// Joins two lists: elements keep the configuration's order among themselves, and the live object's own
/// elements stay where they were between them.
fn merge_lists(schema: Schema<'_>, kind: &ListKind, left: &[Value], right: &[Value]) -> Vec<Value> {
    let name = |item: &Value| item_element(schema, kind, item).unwrap_or_default();
    let lefts: Vec<String> = left.iter().map(name).collect();
    let rights: Vec<String> = right.iter().map(name).collect();
    let in_left = |element: &String| lefts.iter().position(|e| e == element);
    let in_right = |element: &String| rights.iter().position(|e| e == element);
    let joined = |element: &String, at: usize| {
        let unique = lefts.iter().filter(|e| *e == element).count() == 1;
        let live = in_left(element).filter(|_| unique).map(|i| &left[i]);
        merge(schema.item(), live, Some(&right[at])).unwrap_or(Value::Null)
    };
    let mut shared = rights.iter().filter(|element| in_left(element).is_some()).peekable();
    let mut done: Vec<&String> = Vec::new();
    let mut out = Vec::new();
    let (mut l, mut r) = (0, 0);
    while l < left.len() || r < right.len() {
        if l < left.len() && r < right.len() {
            if lefts[l] == rights[r] {
                done.push(&rights[r]);
                out.push(joined(&rights[r], r));
                (l, r) = (l + 1, r + 1);
                shared.next();
                continue;
            }
            if in_right(&lefts[l]).is_some() && shared.peek().is_some_and(|next| **next != lefts[l]) {
                l += 1;
                continue;
            }
        }
        if l < left.len() {
            if in_right(&lefts[l]).is_none() {
                out.push(left[l].clone());
                l += 1;
                continue;
            }
            if done.contains(&&lefts[l]) {
                l += 1;
            }
        }
        if r < right.len() {
            done.push(&rights[r]);
            out.push(joined(&rights[r], r));
            if shared.peek() == Some(&&rights[r]) {
                shared.next();
            }
            r += 1;
        }
    }
    out
}

// ---- removing ----

/// The value without some of its fields. An object or list left empty by that stays, empty.
pub(super) fn remove(schema: Schema<'_>, value: &Value, gone: &FieldSet) -> Value {
    match (atom(schema, value), value) {
        (Atom::Map, Value::Object(map)) => {
            let mut out = Map::new();
            for (key, inner) in map {
                let element = field_element(key);
                if gone.has_element(&element) {
                    continue;
                }
                let left = match gone.below(&element) {
                    Some(below) => remove(child(schema, key), inner, below),
                    None => inner.clone(),
                };
                out.insert(key.clone(), left);
            }
            Value::Object(out)
        }
        (Atom::List(kind), Value::Array(items)) => {
            let mut out = Vec::new();
            for item in items {
                let element = item_element(schema, &kind, item).unwrap_or_default();
                if gone.has_element(&element) {
                    continue;
                }
                out.push(match gone.below(&element) {
                    Some(below) => remove(schema.item(), item, below),
                    None => item.clone(),
                });
            }
            Value::Array(out)
        }
        _ => value.clone(),
    }
}

/// Drops the nulls that removing left in a custom resource, where its schema does not allow them.
pub(super) fn drop_nulls(schema: Schema<'_>, value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, inner| {
                let place = child(schema, key);
                let nullable =
                    matches!(place, Schema::Node(node) if node.nullable) || matches!(place, Schema::Any);
                if inner.is_null() && !nullable {
                    return false;
                }
                drop_nulls(place, inner);
                true
            });
        }
        Value::Array(items) => items.iter_mut().for_each(|inner| drop_nulls(schema.item(), inner)),
        _ => {}
    }
}

/// Paths of the atomic lists, maps and objects that a configuration sets.
pub(super) fn atomics(schema: Schema<'_>, value: &Value) -> Vec<String> {
    let mut out = Vec::new();
    atomics_at(schema, value, &mut Vec::new(), &mut out);
    out
}

fn atomics_at(schema: Schema<'_>, value: &Value, path: &mut Vec<String>, out: &mut Vec<String>) {
    match (schema.sort(), value) {
        (Sort::Object | Sort::Map, Value::Object(map)) => {
            if schema.is_atomic() {
                out.push(show(path));
            }
            for (key, inner) in map.iter().filter(|(key, _)| is_struct_field(schema, key)) {
                path.push(field_element(key));
                atomics_at(child(schema, key), inner, path, out);
                path.pop();
            }
        }
        (Sort::List, Value::Array(items)) => {
            if schema.list_kind() == ListKind::Atomic {
                out.push(show(path));
            }
            for (index, inner) in items.iter().enumerate() {
                path.push(format!("i:{index}"));
                atomics_at(schema.item(), inner, path, out);
                path.pop();
            }
        }
        _ => {}
    }
}

// ---- validating ----

/// Holds a configuration against the schema; the error is upstream's text, paths included.
pub(super) fn validate(schema: Schema<'_>, value: &Value) -> Result<(), String> {
    let mut errors = Vec::new();
    validate_at(schema, value, &mut Vec::new(), &mut errors);
    match errors.as_slice() {
        [] => Ok(()),
        [only] => Err(only.clone()),
        many => {
            Err(format!("errors:\n{}", many.iter().map(|e| format!("  {e}")).collect::<Vec<_>>().join("\n")))
        }
    }
}

fn validate_at(schema: Schema<'_>, value: &Value, path: &mut Vec<String>, errors: &mut Vec<String>) {
    match (schema.sort(), value) {
        (Sort::Object | Sort::Map, Value::Object(map)) => {
            for (key, inner) in map {
                path.push(field_element(key));
                match schema.field(key) {
                    Some(place) => validate_at(place, inner, path, errors),
                    None => errors.push(format!("{}: field not declared in schema", show(path))),
                }
                path.pop();
            }
        }
        (Sort::List, Value::Array(items)) => validate_list(schema, items, path, errors),
        (Sort::Object | Sort::Map, Value::Null) | (Sort::List, Value::Null) => {}
        (Sort::Object | Sort::Map, other) => {
            errors.push(format!("{}: expected map, got {}", show(path), go_value(other)));
        }
        (Sort::List, other) => errors.push(format!("{}: expected list, got {}", show(path), go_value(other))),
        (Sort::Scalar(kind), other) => {
            if let Some(wanted) = mismatch(kind, other) {
                errors.push(format!("{}: expected {wanted}, got {}", show(path), go_value(other)));
            }
        }
        _ => {}
    }
}

fn mismatch(kind: crate::schema::Scalar, value: &Value) -> Option<&'static str> {
    use crate::schema::Scalar;
    match (kind, value) {
        (_, Value::Null) => None,
        (Scalar::Str | Scalar::Bytes | Scalar::Time | Scalar::MicroTime, Value::String(_)) => None,
        (Scalar::Str | Scalar::Bytes | Scalar::Time | Scalar::MicroTime, _) => Some("string"),
        (Scalar::Bool, Value::Bool(_)) => None,
        (Scalar::Bool, _) => Some("boolean"),
        (Scalar::I32 | Scalar::I64 | Scalar::U8 | Scalar::F64, Value::Number(_)) => None,
        (Scalar::I32 | Scalar::I64 | Scalar::U8 | Scalar::F64, _) => Some("numeric (int or float)"),
        _ => None,
    }
}

fn go_value(value: &Value) -> String {
    match value {
        Value::String(text) => format!("&{{{text}}}"),
        other => format!("&{{{other}}}"),
    }
}

fn validate_list(schema: Schema<'_>, items: &[Value], path: &mut Vec<String>, errors: &mut Vec<String>) {
    let kind = schema.list_kind();
    let mut seen = std::collections::BTreeSet::new();
    for (index, item) in items.iter().enumerate() {
        let element = match &kind {
            ListKind::Atomic => Some(format!("i:{index}")),
            kind => item_element(schema, kind, item),
        };
        let Some(element) = element else {
            let keys: Vec<String> = match &kind {
                ListKind::Map(keys) => keys.iter().map(|key| format!("{key:?}")).collect(),
                _ => Vec::new(),
            };
            errors.push(format!(
                "{}: element {index}: associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for any key fields)",
                show(path),
                keys.join(" ")
            ));
            continue;
        };
        path.push(element.clone());
        if !seen.insert(element) {
            let shown = show(&path[path.len() - 1..]);
            errors.push(format!("{}: duplicate entries for key {shown}", show(&path[..path.len() - 1])));
        }
        validate_at(schema.item(), item, path, errors);
        path.pop();
    }
}
