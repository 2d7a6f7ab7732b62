//! Between trees and stored bytes: the one text form in which objects are kept, and the attributes they are
//! indexed by.
//!
//! The text begins with `{"kind":"K","apiVersion":"GV",`, so that a list can leave that prefix out and a reader
//! can tell the version without parsing. It must not know HTTP.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use machinery::cel::RuleSet;
use machinery::schema::structural::{self, Node};
use machinery::schema::{Schema, facts};
use parking_lot::{Mutex, RwLock};
use registry::{Catalog, Resource};
use serde_json::Value;
use store::{Attrs, Draft, Index, Indexer, Key};

/// What a custom resource's definition says beyond its row.
pub struct CustomKind {
    /// The schema.
    pub node: Node,
    /// Its compiled rules (`x-kubernetes-validations`).
    pub rules: RuleSet,
    /// The schema as written, for OpenAPI.
    pub schema: Option<Value>,
    /// `spec.preserveUnknownFields`.
    pub preserve_unknown: bool,
    /// The version that objects are stored in.
    pub storage_version: String,
    /// Who converts between versions; without it they differ in nothing but their name.
    pub conversion: Option<Arc<crate::convert::Webhook>>,
    /// What clients of a deprecated version are told.
    pub deprecation: Option<String>,
    /// Objects up to this revision were stored before the schema: they are pruned and defaulted when read.
    pub since: u64,
}

/// Everything served at one time.
pub struct Serving {
    /// The rows.
    pub catalog: Arc<Catalog>,
    customs: BTreeMap<(String, String, String), Arc<CustomKind>>,
}

impl Serving {
    /// Of a row.
    pub fn custom(&self, row: &Resource) -> Option<&Arc<CustomKind>> {
        if !row.custom {
            return None;
        }
        self.customs.get(&(row.group.clone(), row.version.clone(), row.plural.clone()))
    }
}

/// The served rows, swapped as a whole when custom resources come and go.
#[derive(Clone)]
pub struct Rows(Arc<RwLock<Arc<Serving>>>);

impl Rows {
    /// The built-in kinds.
    pub fn builtin() -> Rows {
        let serving = Serving { catalog: Arc::new(Catalog::builtin()), customs: BTreeMap::new() };
        Rows(Arc::new(RwLock::new(Arc::new(serving))))
    }

    /// The rows as they are now.
    pub fn now(&self) -> Arc<Catalog> {
        self.0.read().catalog.clone()
    }

    /// Everything as it is now.
    pub fn serving(&self) -> Arc<Serving> {
        self.0.read().clone()
    }

    /// Serves other custom resources from now on: the row and its kind.
    pub fn replace_customs(&self, customs: Vec<(Arc<Resource>, Arc<CustomKind>)>) {
        let mut held = self.0.write();
        let builtin = held.catalog.rows().iter().filter(|row| !row.custom).cloned();
        let catalog = Catalog::from_rows(builtin.chain(customs.iter().map(|(row, _)| row.clone())));
        let key = |row: &Resource| (row.group.clone(), row.version.clone(), row.plural.clone());
        let customs = customs.into_iter().map(|(row, kind)| (key(&row), kind)).collect();
        *held = Arc::new(Serving { catalog: Arc::new(catalog), customs });
    }

    /// What the store asks for attributes when it loads objects.
    pub fn indexer(&self) -> Arc<dyn Indexer> {
        Arc::new(RowIndexer(self.clone()))
    }
}

struct RowIndexer(Rows);

impl Indexer for RowIndexer {
    fn version(&self) -> u32 {
        1
    }

    fn attrs(&self, key: &Key, json: &[u8]) -> Attrs {
        let Ok(object) = serde_json::from_slice::<Value>(json) else { return Attrs::default() };
        match self.0.now().by_storage(&key.resource) {
            Some(row) => attrs(row, &object),
            None => plain_attrs(&object, Vec::new()),
        }
    }

    fn indexes(&self, resource: &str) -> Vec<Index> {
        match resource {
            "pods" => vec![Index::Owner, Index::Field("spec.nodeName".into())],
            "discovery.k8s.io/endpointslices" => vec![Index::Label("kubernetes.io/service-name".into())],
            "apps/replicasets" | "batch/jobs" | "apps/controllerrevisions" => vec![Index::Owner],
            _ => Vec::new(),
        }
    }
}

/// Labels, fields, uid and owners of an object in its stored form.
pub fn attrs(row: &Resource, object: &Value) -> Attrs {
    let fields = row.fields(object).into_iter().map(|(k, v)| (Arc::from(k), Arc::from(v))).collect();
    plain_attrs(object, fields)
}

fn plain_attrs(object: &Value, fields: Vec<(Arc<str>, Arc<str>)>) -> Attrs {
    let meta = &object["metadata"];
    let labels = meta["labels"].as_object();
    let owners = meta["ownerReferences"].as_array();
    Attrs {
        labels: labels
            .into_iter()
            .flatten()
            .filter_map(|(k, v)| Some((Arc::from(k.as_str()), Arc::from(v.as_str()?))))
            .collect(),
        fields: fields.into(),
        uid: Arc::from(meta["uid"].as_str().unwrap_or("")),
        owners: owners
            .into_iter()
            .flatten()
            .filter_map(|owner| owner["uid"].as_str().map(Arc::from))
            .collect(),
    }
}

/// `{"kind":"Pod","apiVersion":"v1",`
pub fn prefix(api_version: &str, kind: &str) -> String {
    // Kinds and versions are DNS labels and Go identifiers: nothing in them needs escaping.
    format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",")
}

/// The text of an object with a place for the revision.
pub fn draft(object: &Value) -> Draft {
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or("");
    let mut json = Vec::with_capacity(1024);
    json.extend_from_slice(prefix(text("apiVersion"), text("kind")).as_bytes());
    json.extend_from_slice(b"\"metadata\":{");
    let mut revision_at = 0;
    let empty = serde_json::Map::new();
    let meta = object.get("metadata").and_then(Value::as_object).unwrap_or(&empty);
    let mut first = true;
    let mut place = |json: &mut Vec<u8>, first: &mut bool| {
        comma(json, first);
        json.extend_from_slice(b"\"resourceVersion\":\"");
        revision_at = json.len();
        json.push(b'"');
    };
    let mut placed = false;
    for (key, value) in meta.iter().filter(|(key, _)| *key != "resourceVersion") {
        if !placed && key.as_str() > "resourceVersion" {
            place(&mut json, &mut first);
            placed = true;
        }
        comma(&mut json, &mut first);
        member(&mut json, key, value);
    }
    if !placed {
        place(&mut json, &mut first);
    }
    json.push(b'}');
    for (key, value) in object.as_object().unwrap_or(&empty) {
        if !matches!(key.as_str(), "apiVersion" | "kind" | "metadata") {
            json.push(b',');
            member(&mut json, key, value);
        }
    }
    json.push(b'}');
    Draft { json, revision_at }
}

fn comma(json: &mut Vec<u8>, first: &mut bool) {
    if !std::mem::take(first) {
        json.push(b',');
    }
}

fn member(json: &mut Vec<u8>, key: &str, value: &Value) {
    serde_json::to_writer(&mut *json, key).expect("text is always written to memory");
    json.push(b':');
    serde_json::to_writer(json, value).expect("a tree is always written to memory");
}

/// The text of a tree, in the order that drafts have.
pub fn text(object: &Value) -> Vec<u8> {
    let mut draft = draft(object);
    let revision = object["metadata"]["resourceVersion"].as_str().unwrap_or("");
    if revision.is_empty() && object["metadata"].get("resourceVersion").is_none() {
        return plain_text(object);
    }
    draft.json.splice(draft.revision_at..draft.revision_at, revision.bytes());
    draft.json
}

/// Kind and version first, the rest by name.
pub fn plain_text(object: &Value) -> Vec<u8> {
    let Some(map) = object.as_object() else { return object.to_string().into_bytes() };
    let mut json = Vec::with_capacity(512);
    json.push(b'{');
    let mut first = true;
    let lead = ["kind", "apiVersion", "metadata"];
    for key in lead {
        if let Some(value) = map.get(key) {
            comma(&mut json, &mut first);
            member(&mut json, key, value);
        }
    }
    for (key, value) in map.iter().filter(|(key, _)| !lead.contains(&key.as_str())) {
        comma(&mut json, &mut first);
        member(&mut json, key, value);
    }
    json.push(b'}');
    json
}

/// The tree of a stored object.
pub fn tree(object: &store::Object) -> Value {
    serde_json::from_slice(&object.json).unwrap_or(Value::Null)
}

/// Trees of objects that many requests look at (namespaces, service accounts, classes): parsed once a version.
#[derive(Default)]
pub struct Trees(Mutex<BTreeMap<Key, (u64, Arc<Value>)>>);

/// Trees held; beyond, all are dropped and begin anew.
const TREES_MAX: usize = 512;

impl Trees {
    /// The tree of a stored object.
    pub fn of(&self, object: &store::Object) -> Arc<Value> {
        if let Some((revision, tree)) = self.0.lock().get(&object.key)
            && *revision == object.revision
        {
            return tree.clone();
        }
        let tree = Arc::new(tree(object));
        let mut held = self.0.lock();
        if held.len() >= TREES_MAX {
            held.clear();
        }
        held.insert(object.key.clone(), (object.revision, tree.clone()));
        tree
    }
}

/// A row with what serving it needs at every request.
#[derive(Clone)]
pub struct Served {
    /// The row.
    pub row: Arc<Resource>,
    /// Its schema, when it is custom.
    pub custom: Option<Arc<CustomKind>>,
    /// How its stored text begins; see [`prefix`].
    pub(crate) prefix: Arc<str>,
}

impl Served {
    /// Prepares a row.
    pub fn new(row: Arc<Resource>, custom: Option<Arc<CustomKind>>) -> Served {
        let prefix = prefix(&row.api_version(), &row.kind).into();
        Served { row, custom, prefix }
    }

    /// The kind's schema.
    pub fn schema(&self) -> Schema<'_> {
        if let Some(custom) = &self.custom {
            return Schema::Node(&custom.node);
        }
        facts().by_gvk(&self.row.group, &self.row.version, &self.row.kind).map_or(Schema::Any, Schema::Type)
    }

    /// Canonical form and defaults.
    pub fn default(&self, object: &mut Value) {
        if let Some(custom) = &self.custom {
            structural::apply_defaults(&custom.node, object);
        }
        self.row.default(object);
    }

    /// True when the stored text is what this row serves.
    pub fn is_native(&self, object: &store::Object) -> bool {
        let current = self.custom.as_ref().is_none_or(|custom| object.revision > custom.since);
        current && self.row.conversion.is_none() && object.json.starts_with(self.prefix.as_bytes())
    }

    /// True when the stored text is of this row's version.
    pub fn has_version(&self, object: &store::Object) -> bool {
        object.json.starts_with(self.prefix.as_bytes())
    }

    /// The object's text in this row's version.
    pub fn json(&self, object: &store::Object) -> Bytes {
        if self.is_native(object) { object.json.clone() } else { text(&self.tree(object)).into() }
    }

    /// As an item of a list: without kind and version for built-in kinds. The second part is to follow the
    /// first.
    pub fn item(&self, object: &store::Object) -> (&'static [u8], Bytes) {
        let json = self.json(object);
        if self.row.custom || !json.starts_with(self.prefix.as_bytes()) {
            return (b"", json);
        }
        (b"{", json.slice(self.prefix.len()..))
    }

    /// The object's tree in this row's version.
    pub fn tree(&self, object: &store::Object) -> Value {
        let mut tree = tree(object);
        if !self.is_native(object) {
            self.row.to_served(&mut tree);
            if let Some(custom) = &self.custom {
                structural::prune(&custom.node, &mut tree);
                structural::apply_defaults(&custom.node, &mut tree);
            }
        }
        tree
    }

    /// The object's protobuf message without envelope; `None` when the kind has none.
    pub fn message(&self, object: &store::Object) -> Option<Bytes> {
        let facts = facts().by_gvk(&self.row.group, &self.row.version, &self.row.kind)?;
        if self.is_native(object) {
            let encode =
                |object: &store::Object| machinery::codec::proto::encode(facts, &tree(object)).into();
            return Some(object.protobuf(encode).clone());
        }
        Some(machinery::codec::proto::encode(facts, &self.tree(object)).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn drafts_lead_with_the_kind_and_leave_room_for_the_revision() {
        let object = json!({"apiVersion": "v1", "kind": "Pod", "a": 1,
            "metadata": {"name": "x", "resourceVersion": "7", "uid": "u"}, "spec": {}});
        let draft = draft(&object);
        let text_of = String::from_utf8(draft.json.clone()).expect("UTF-8");
        assert_eq!(
            text_of,
            r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"x","resourceVersion":"","uid":"u"},"a":1,"spec":{}}"#
        );
        assert_eq!(&draft.json[draft.revision_at - 1..=draft.revision_at], b"\"\"");
        assert_eq!(serde_json::from_slice::<Value>(&text(&object)).expect("JSON"), object);
    }

    #[test]
    fn trees_are_of_the_version_asked_for() {
        let trees = Trees::default();
        for (revision, json) in [(1, "{\"a\":1}"), (2, "{\"a\":2}"), (1, "{\"a\":1}")] {
            let key = Key::new("things", "", "x");
            let object = store::Object::from_parts(key, revision, Bytes::from(json), 0, Attrs::default());
            assert_eq!(*trees.of(&object), tree(&object));
        }
        for at in 0..2 * TREES_MAX {
            let key = Key::new("things", "", format!("x-{at}"));
            trees.of(&store::Object::from_parts(key, 1, Bytes::from("{}"), 0, Attrs::default()));
            assert!(trees.0.lock().len() <= TREES_MAX);
        }
    }
}
