//! The objects of one resource, as last seen: read by many, written by one informer (or a test).
//!
//! Must not know where the objects come from.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::Meta;

/// Namespace and name; the namespace of cluster-scoped objects is empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl Key {
    /// From namespace and name.
    pub fn new(namespace: &str, name: &str) -> Self {
        Key { namespace: namespace.into(), name: name.into() }
    }

    /// The key of an object.
    pub fn of<K: Meta>(object: &K) -> Self {
        Key::new(object.namespace(), object.name())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// What happened to one object of a cache.
#[derive(Debug)]
pub enum Change<K> {
    /// It is new.
    Added(Arc<K>),
    /// It changed.
    Modified {
        /// Before.
        old: Arc<K>,
        /// After.
        new: Arc<K>,
    },
    /// It is gone; the last known state.
    Deleted(Arc<K>),
}

impl<K> Clone for Change<K> {
    fn clone(&self) -> Self {
        match self {
            Change::Added(object) => Change::Added(object.clone()),
            Change::Modified { old, new } => Change::Modified { old: old.clone(), new: new.clone() },
            Change::Deleted(object) => Change::Deleted(object.clone()),
        }
    }
}

impl<K> Change<K> {
    /// The object after the change, or its last state.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Change::Added(object) | Change::Deleted(object) | Change::Modified { new: object, .. } => object,
        }
    }

    /// The object before the change, unless it is new.
    pub fn old(&self) -> Option<&Arc<K>> {
        match self {
            Change::Added(_) => None,
            Change::Modified { old, .. } => Some(old),
            Change::Deleted(object) => Some(object),
        }
    }
}

/// Computes the values under which an object is found in an index.
pub type IndexFn<K> = Arc<dyn Fn(&K) -> Vec<String> + Send + Sync>;

struct Index<K> {
    values_of: IndexFn<K>,
    entries: BTreeMap<String, BTreeSet<Key>>,
}

impl<K> Index<K> {
    fn insert(&mut self, key: &Key, object: &K) {
        for value in (self.values_of)(object) {
            self.entries.entry(value).or_default().insert(key.clone());
        }
    }

    fn remove(&mut self, key: &Key, object: &K) {
        for value in (self.values_of)(object) {
            if let Some(keys) = self.entries.get_mut(&value) {
                keys.remove(key);
                if keys.is_empty() {
                    self.entries.remove(&value);
                }
            }
        }
    }
}

type Named<K> = BTreeMap<Arc<str>, Arc<K>>;

struct Inner<K> {
    namespaces: BTreeMap<Arc<str>, Named<K>>,
    indexes: BTreeMap<&'static str, Index<K>>,
    revision: u64,
    count: usize,
}

/// The name of the index by owner uid that every cache has.
pub const BY_OWNER: &str = "owner-uid";

/// A cache; cheap to clone, all clones are one.
pub struct Cache<K>(Arc<RwLock<Inner<K>>>);

impl<K> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Cache(self.0.clone())
    }
}

impl<K: Meta> Default for Cache<K> {
    fn default() -> Self {
        Cache::new()
    }
}

fn owner_uids<K: Meta>(object: &K) -> Vec<String> {
    object.meta().owner_references.iter().flatten().map(|owner| owner.uid.clone()).collect()
}

impl<K: Meta> Cache<K> {
    /// An empty cache with the index by owner.
    pub fn new() -> Self {
        let cache = Cache(Arc::new(RwLock::new(Inner {
            namespaces: BTreeMap::new(),
            indexes: BTreeMap::new(),
            revision: 0,
            count: 0,
        })));
        cache.add_index(BY_OWNER, Arc::new(owner_uids::<K>));
        cache
    }

    /// A cache of these objects, for tests and one-off plans.
    pub fn of(objects: impl IntoIterator<Item = K>) -> Self {
        let cache = Cache::new();
        for object in objects {
            cache.put(object);
        }
        cache
    }

    /// Adds an index; a second one of the same name is ignored.
    pub fn add_index(&self, name: &'static str, values_of: IndexFn<K>) {
        let mut inner = self.0.write();
        if inner.indexes.contains_key(name) {
            return;
        }
        let mut index = Index { values_of, entries: BTreeMap::new() };
        for (namespace, objects) in &inner.namespaces {
            for (object_name, object) in objects {
                index.insert(&Key { namespace: namespace.clone(), name: object_name.clone() }, object);
            }
        }
        inner.indexes.insert(name, index);
    }

    /// One object.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.0.read().namespaces.get(namespace)?.get(name).cloned()
    }

    /// One object.
    pub fn get_key(&self, key: &Key) -> Option<Arc<K>> {
        self.get(&key.namespace, &key.name)
    }

    /// All objects, by namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.0.read().namespaces.values().flat_map(BTreeMap::values).cloned().collect()
    }

    /// The objects of a namespace, by name.
    pub fn namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let inner = self.0.read();
        inner.namespaces.get(namespace).map(|named| named.values().cloned().collect()).unwrap_or_default()
    }

    /// The objects that an index files under `value`; empty when there is no such index.
    pub fn by_index(&self, index: &str, value: &str) -> Vec<Arc<K>> {
        let inner = self.0.read();
        let keys = inner.indexes.get(index).and_then(|index| index.entries.get(value));
        let find = |key: &Key| inner.namespaces.get(&key.namespace)?.get(&key.name).cloned();
        keys.into_iter().flatten().filter_map(find).collect()
    }

    /// The objects with an owner reference to `uid`.
    pub fn owned_by(&self, uid: &str) -> Vec<Arc<K>> {
        self.by_index(BY_OWNER, uid)
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.0.read().count
    }

    /// True when there is no object.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The revision up to which the cache is known to be complete; 0 before the first list.
    pub fn revision(&self) -> u64 {
        self.0.read().revision
    }

    /// Raises the revision (a bookmark).
    pub fn advance(&self, revision: u64) {
        let mut inner = self.0.write();
        inner.revision = inner.revision.max(revision);
    }

    /// Adds or replaces an object. `None` when the cache already holds this or a newer version of it.
    pub fn put(&self, object: K) -> Option<Change<K>> {
        let new = Arc::new(object);
        let key = Key::of(&*new);
        let mut inner = self.0.write();
        inner.revision = inner.revision.max(new.revision());
        let inner = &mut *inner;
        let named = inner.namespaces.entry(key.namespace.clone()).or_default();
        if let Some(old) = named.get(&key.name)
            && old.uid() == new.uid()
            && new.revision() != 0
            && old.revision() >= new.revision()
        {
            return None;
        }
        let old = named.insert(key.name.clone(), new.clone());
        for index in inner.indexes.values_mut() {
            if let Some(old) = &old {
                index.remove(&key, old);
            }
            index.insert(&key, &new);
        }
        match old {
            None => {
                inner.count += 1;
                Some(Change::Added(new))
            }
            Some(old) => Some(Change::Modified { old, new }),
        }
    }

    /// Removes an object; `revision` is that of the deletion (0 = not known).
    pub fn remove(&self, key: &Key, revision: u64) -> Option<Change<K>> {
        let mut inner = self.0.write();
        inner.revision = inner.revision.max(revision);
        let inner = &mut *inner;
        let named = inner.namespaces.get_mut(&key.namespace)?;
        let old = named.remove(&key.name)?;
        if named.is_empty() {
            inner.namespaces.remove(&key.namespace);
        }
        for index in inner.indexes.values_mut() {
            index.remove(key, &old);
        }
        inner.count -= 1;
        Some(Change::Deleted(old))
    }

    /// Makes the cache hold exactly these objects; returns what changed.
    pub fn replace(&self, objects: Vec<K>, revision: u64) -> Vec<Change<K>> {
        let wanted: BTreeSet<Key> = objects.iter().map(Key::of).collect();
        let present: Vec<Key> = self.list().iter().map(|object| Key::of(&**object)).collect();
        let gone = present.iter().filter(|key| !wanted.contains(key));
        let mut changes: Vec<Change<K>> = gone.filter_map(|key| self.remove(key, 0)).collect();
        changes.extend(objects.into_iter().filter_map(|object| self.put(object)));
        self.advance(revision);
        changes
    }
}

/// What a runner asks of a cache to know whether it has seen a write.
pub trait Probe: Send + Sync {
    /// The revision up to which the cache is complete.
    fn seen(&self) -> u64;
    /// The uid and whether deletion has begun, of an object it holds.
    fn find(&self, key: &Key) -> Option<Found>;
}

/// An object in a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its uid.
    pub uid: String,
    /// Its revision.
    pub revision: u64,
    /// True when its deletion has begun.
    pub deleting: bool,
}

impl<K: Meta> Probe for Cache<K> {
    fn seen(&self) -> u64 {
        self.revision()
    }

    fn find(&self, key: &Key) -> Option<Found> {
        let object = self.get_key(key)?;
        let (uid, revision, deleting) = (object.uid().to_owned(), object.revision(), object.is_deleting());
        Some(Found { uid, revision, deleting })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Partial;

    fn object(name: &str, revision: u64, owner: &str) -> Partial {
        serde_json::from_value(json!({"metadata": {
            "name": name, "namespace": "n", "uid": name, "resourceVersion": revision.to_string(),
            "ownerReferences": [{"apiVersion": "v1", "kind": "X", "name": "x", "uid": owner}],
        }}))
        .expect("an object")
    }

    #[test]
    fn indexes_follow_changes() {
        let cache = Cache::of([object("a", 1, "o1"), object("b", 2, "o1")]);
        assert_eq!(cache.owned_by("o1").len(), 2);
        assert!(cache.put(object("a", 1, "o2")).is_none(), "the same version changes nothing");
        assert!(matches!(cache.put(object("a", 3, "o2")), Some(Change::Modified { .. })));
        assert_eq!((cache.owned_by("o1").len(), cache.owned_by("o2").len()), (1, 1));
        let changes = cache.replace(vec![object("a", 3, "o2"), object("c", 5, "o2")], 9);
        assert_eq!(changes.len(), 2);
        assert_eq!((cache.len(), cache.revision(), cache.owned_by("o1").len()), (2, 9, 0));
    }
}
