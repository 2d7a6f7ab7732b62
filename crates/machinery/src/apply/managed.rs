//! `metadata.managedFields`: reading, writing, and who a manager is.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Value, json};

use super::FieldSet;

/// Who owns fields: appliers are one manager across versions.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id {
    pub(super) manager: String,
    pub(super) applied: bool,
    version: String,
    pub(super) subresource: String,
}

impl Id {
    pub(super) fn new(manager: &str, applied: bool, api_version: &str, subresource: &str) -> Id {
        Id {
            manager: if manager.is_empty() { "unknown".to_string() } else { manager.to_string() },
            applied,
            version: if applied { String::new() } else { api_version.to_string() },
            subresource: subresource.to_string(),
        }
    }
}

/// What a manager owns. Its wire form stays as it is until a change touches it: most writes touch one manager.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    fields: Owned,
    pub(super) api_version: String,
    pub(super) time: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
enum Owned {
    Wire(Value),
    Set(FieldSet),
}

impl Default for Entry {
    fn default() -> Self {
        Entry::new(FieldSet::default(), "", None)
    }
}

impl Entry {
    pub(super) fn new(set: FieldSet, api_version: &str, time: Option<String>) -> Entry {
        Entry { fields: Owned::Set(set), api_version: api_version.to_string(), time }
    }

    /// The set, read from the wire form if need be.
    pub(super) fn set(&self) -> Cow<'_, FieldSet> {
        match &self.fields {
            Owned::Set(set) => Cow::Borrowed(set),
            Owned::Wire(wire) => Cow::Owned(FieldSet::from_value(wire.clone()).unwrap_or_default()),
        }
    }

    /// The set, to be changed.
    pub(super) fn change(&mut self) -> &mut FieldSet {
        if let Owned::Wire(wire) = &mut self.fields {
            self.fields = Owned::Set(FieldSet::from_value(wire.take()).unwrap_or_default());
        }
        match &mut self.fields {
            Owned::Set(set) => set,
            Owned::Wire(_) => unreachable!("just made a set"),
        }
    }

    /// Whether it has any of these paths.
    pub(super) fn touched_by(&self, changes: &FieldSet) -> bool {
        match &self.fields {
            Owned::Set(set) => !set.intersection(changes).is_empty(),
            Owned::Wire(wire) => changes.touches(wire),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        match &self.fields {
            Owned::Set(set) => set.is_empty(),
            Owned::Wire(wire) => wire.as_object().is_none_or(serde_json::Map::is_empty),
        }
    }
}

/// All managers of an object.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Managed {
    pub(super) entries: BTreeMap<Id, Entry>,
}

/// Takes the raw entries out of an object.
pub(super) fn take(object: &mut Value) -> Option<Vec<Value>> {
    let meta = object.get_mut("metadata")?.as_object_mut()?;
    match meta.remove("managedFields") {
        Some(Value::Array(list)) => Some(list),
        _ => None,
    }
}

/// An object's raw entries.
pub(super) fn list(object: &Value) -> Option<&[Value]> {
    object.get("metadata")?.get("managedFields")?.as_array().map(Vec::as_slice)
}

/// Reads an object's entries; broken ones count as none.
pub(super) fn read(object: &Value) -> Managed {
    list(object).and_then(|list| Managed::decode(list.to_vec())).unwrap_or_default()
}

/// Whether a client asks for all entries to be dropped: an empty list, or one empty entry.
pub(super) fn is_reset(list: &[Value]) -> bool {
    match list {
        [] => true,
        [only] => {
            only.as_object().is_some_and(|entry| entry.values().all(|value| value.is_null() || value == ""))
        }
        _ => false,
    }
}

impl Managed {
    pub(super) fn decode(list: Vec<Value>) -> Option<Managed> {
        let mut entries: BTreeMap<Id, Entry> = BTreeMap::new();
        for mut item in list {
            let wire = item.get_mut("fieldsV1").map(Value::take).unwrap_or_default();
            let text = |name: &str| item.get(name).and_then(Value::as_str).unwrap_or_default();
            let applied = match text("operation") {
                "Apply" => true,
                "Update" => false,
                _ => return None,
            };
            if text("apiVersion").is_empty() {
                return None;
            }
            let fields = match wire {
                Value::Null => Owned::Set(FieldSet::default()),
                wire if sound(&wire) => Owned::Wire(wire),
                _ => return None,
            };
            let id = Id::new(text("manager"), applied, text("apiVersion"), text("subresource"));
            let time = item.get("time").and_then(Value::as_str).map(str::to_string);
            entries.insert(id, Entry { fields, api_version: text("apiVersion").to_string(), time });
        }
        Some(Managed { entries })
    }

    /// Puts the entries into an object: applies before updates, then by time and name.
    pub(super) fn write(self, object: &mut Value) {
        let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
        if self.entries.is_empty() {
            meta.remove("managedFields");
            return;
        }
        let mut list: Vec<(Id, Entry)> = self.entries.into_iter().collect();
        list.sort_by(|(a, x), (b, y)| {
            let of = |id: &Id, entry: &Entry| {
                (
                    !id.applied,
                    entry.time.clone(),
                    id.manager.clone(),
                    entry.api_version.clone(),
                    id.subresource.clone(),
                )
            };
            of(a, x).cmp(&of(b, y))
        });
        let list = list.into_iter().map(|(id, entry)| entry_value(id, entry)).collect();
        meta.insert("managedFields".to_string(), Value::Array(list));
    }
}

/// Whether a value has the shape of a set.
fn sound(wire: &Value) -> bool {
    let Some(map) = wire.as_object() else { return false };
    map.iter().all(|(element, inner)| {
        element == "." || (matches!(element.get(..2), Some("f:" | "k:" | "v:" | "i:")) && sound(inner))
    })
}

fn entry_value(id: Id, entry: Entry) -> Value {
    let fields = match entry.fields {
        Owned::Wire(wire) => wire,
        Owned::Set(set) => set.into_value(),
    };
    let mut value = json!({
        "manager": id.manager,
        "operation": if id.applied { "Apply" } else { "Update" },
        "apiVersion": entry.api_version,
        "fieldsType": "FieldsV1",
        "fieldsV1": fields,
    });
    if let Some(time) = &entry.time {
        value["time"] = json!(time);
    }
    if !id.subresource.is_empty() {
        value["subresource"] = json!(id.subresource);
    }
    value
}

/// Fields that the system keeps and nobody owns.
pub(super) fn system_fields() -> &'static FieldSet {
    static FIELDS: LazyLock<FieldSet> = LazyLock::new(|| {
        let mut set = FieldSet::default();
        for name in ["apiVersion", "kind", "metadata"] {
            set.insert(&[format!("f:{name}")]);
        }
        for name in [
            "name",
            "namespace",
            "creationTimestamp",
            "selfLink",
            "uid",
            "clusterName",
            "generation",
            "managedFields",
            "resourceVersion",
        ] {
            set.insert(&["f:metadata".to_string(), format!("f:{name}")]);
        }
        set
    });
    &FIELDS
}

/// Takes the system's fields from one manager.
pub(super) fn strip(managed: &mut Managed, id: &Id) {
    if let Some(entry) = managed.entries.get_mut(id) {
        entry.change().subtract(system_fields());
        if entry.is_empty() {
            managed.entries.remove(id);
        }
    }
}

/// Takes the fields that an endpoint resets out of a set.
pub(super) fn filter(set: &mut FieldSet, reset: &[&str]) {
    for path in reset {
        let parts: Vec<&str> = path.split('.').collect();
        set.cut(&parts);
    }
}

/// The manager's name: what the client says, or the start of its user agent; at most 128 bytes.
pub fn manager_name(field_manager: &str, user_agent: &str) -> String {
    if !field_manager.is_empty() {
        return field_manager.to_string();
    }
    let prefix = user_agent.split('/').next().unwrap_or_default();
    let printable: String = prefix.chars().filter(|c| !c.is_control()).collect();
    let mut end = printable.len().min(128);
    while !printable.is_char_boundary(end) {
        end -= 1;
    }
    printable[..end].to_string()
}
