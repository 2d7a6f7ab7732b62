//! The objects of one resource, as last seen: read by many, written by one informer (or a test).
//!
//! Must not know where the objects come from.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use api::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta;
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
pub enum Change<K: ?Sized> {
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

impl<K: ?Sized> Clone for Change<K> {
    fn clone(&self) -> Self {
        match self {
            Change::Added(object) => Change::Added(object.clone()),
            Change::Modified { old, new } => Change::Modified { old: old.clone(), new: new.clone() },
            Change::Deleted(object) => Change::Deleted(object.clone()),
        }
    }
}

impl<K: ?Sized> Change<K> {
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

/// An object whose type only the reader knows. Caches and reflectors work on these, so that they are compiled once
/// and not once a kind.
pub(crate) trait Erased: Any + Send + Sync {
    /// The metadata.
    fn metadata(&self) -> &ObjectMeta;
    /// The metadata, to change it.
    fn metadata_mut(&mut self) -> &mut ObjectMeta;
}

impl<K: Meta> Erased for K {
    fn metadata(&self) -> &ObjectMeta {
        self.meta()
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        self.meta_mut()
    }
}

pub(crate) type Shared = Arc<dyn Erased>;

impl dyn Erased {
    fn uid(&self) -> &str {
        self.metadata().uid.as_deref().unwrap_or("")
    }

    pub(crate) fn revision(&self) -> u64 {
        self.metadata().resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    pub(crate) fn key(&self) -> Key {
        let meta = self.metadata();
        Key::new(meta.namespace.as_deref().unwrap_or(""), meta.name.as_deref().unwrap_or(""))
    }
}

fn typed<K: Meta>(object: Shared) -> Arc<K> {
    let object: Arc<dyn Any + Send + Sync> = object;
    object.downcast().unwrap_or_else(|_| unreachable!("a cache holds objects of one type"))
}

fn typed_all<K: Meta>(objects: Vec<Shared>) -> Vec<Arc<K>> {
    objects.into_iter().map(typed).collect()
}

fn owner_uids(object: &dyn Erased) -> Vec<String> {
    object.metadata().owner_references.iter().flatten().map(|owner| owner.uid.clone()).collect()
}

impl Change<dyn Erased> {
    /// The same change of objects whose type is known.
    pub(crate) fn typed<K: Meta>(&self) -> Change<K> {
        match self {
            Change::Added(object) => Change::Added(typed(object.clone())),
            Change::Modified { old, new } => {
                Change::Modified { old: typed(old.clone()), new: typed(new.clone()) }
            }
            Change::Deleted(object) => Change::Deleted(typed(object.clone())),
        }
    }
}

struct Index {
    values_of: Box<dyn Fn(&dyn Erased) -> Vec<String> + Send + Sync>,
    entries: BTreeMap<String, BTreeSet<Key>>,
}

impl Index {
    fn insert(&mut self, key: &Key, object: &dyn Erased) {
        for value in (self.values_of)(object) {
            self.entries.entry(value).or_default().insert(key.clone());
        }
    }

    fn remove(&mut self, key: &Key, object: &dyn Erased) {
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

struct Inner {
    namespaces: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Shared>>,
    indexes: BTreeMap<&'static str, Index>,
    revision: u64,
    count: usize,
}

/// The name of the index by owner uid that every cache has.
pub const BY_OWNER: &str = "owner-uid";

/// The objects behind a [`Cache`], their type forgotten.
#[derive(Clone)]
pub(crate) struct Objects(Arc<RwLock<Inner>>);

impl Objects {
    fn new() -> Self {
        let objects = Objects(Arc::new(RwLock::new(Inner {
            namespaces: BTreeMap::new(),
            indexes: BTreeMap::new(),
            revision: 0,
            count: 0,
        })));
        objects.add_index(BY_OWNER, Box::new(owner_uids));
        objects
    }

    fn add_index(
        &self,
        name: &'static str,
        values_of: Box<dyn Fn(&dyn Erased) -> Vec<String> + Send + Sync>,
    ) {
        let mut inner = self.0.write();
        if inner.indexes.contains_key(name) {
            return;
        }
        let mut index = Index { values_of, entries: BTreeMap::new() };
        for (namespace, objects) in &inner.namespaces {
            for (object_name, object) in objects {
                let key = Key { namespace: namespace.clone(), name: object_name.clone() };
                index.insert(&key, &**object);
            }
        }
        inner.indexes.insert(name, index);
    }

    fn get(&self, namespace: &str, name: &str) -> Option<Shared> {
        self.0.read().namespaces.get(namespace)?.get(name).cloned()
    }

    fn list(&self) -> Vec<Shared> {
        self.0.read().namespaces.values().flat_map(BTreeMap::values).cloned().collect()
    }

    fn namespace(&self, namespace: &str) -> Vec<Shared> {
        let inner = self.0.read();
        inner.namespaces.get(namespace).map(|named| named.values().cloned().collect()).unwrap_or_default()
    }

    fn by_index(&self, index: &str, value: &str) -> Vec<Shared> {
        let inner = self.0.read();
        let keys = inner.indexes.get(index).and_then(|index| index.entries.get(value));
        let find = |key: &Key| inner.namespaces.get(&key.namespace)?.get(&key.name).cloned();
        keys.into_iter().flatten().filter_map(find).collect()
    }

    /// Raises the revision (a bookmark).
    pub(crate) fn advance(&self, revision: u64) {
        let mut inner = self.0.write();
        inner.revision = inner.revision.max(revision);
    }

    /// As [`Cache::put`].
    pub(crate) fn put(&self, new: Shared) -> Option<Change<dyn Erased>> {
        let revision = new.revision();
        let change = self.set(new);
        self.advance(revision);
        change
    }

    /// Stores an object; says nothing about what else has been seen.
    fn set(&self, new: Shared) -> Option<Change<dyn Erased>> {
        let key = new.key();
        let mut inner = self.0.write();
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
                index.remove(&key, &**old);
            }
            index.insert(&key, &*new);
        }
        match old {
            None => {
                inner.count += 1;
                Some(Change::Added(new))
            }
            Some(old) => Some(Change::Modified { old, new }),
        }
    }

    /// As [`Cache::remove`].
    pub(crate) fn remove(&self, key: &Key, revision: u64) -> Option<Change<dyn Erased>> {
        let mut inner = self.0.write();
        inner.revision = inner.revision.max(revision);
        let inner = &mut *inner;
        let named = inner.namespaces.get_mut(&key.namespace)?;
        let old = named.remove(&key.name)?;
        if named.is_empty() {
            inner.namespaces.remove(&key.namespace);
        }
        for index in inner.indexes.values_mut() {
            index.remove(key, &*old);
        }
        inner.count -= 1;
        Some(Change::Deleted(old))
    }

    /// As [`Cache::replace`].
    pub(crate) fn replace(&self, objects: Vec<Shared>, revision: u64) -> Vec<Change<dyn Erased>> {
        let wanted: BTreeSet<Key> = objects.iter().map(|object| object.key()).collect();
        let present: Vec<Key> = self.list().iter().map(|object| object.key()).collect();
        let gone = present.iter().filter(|key| !wanted.contains(key));
        let mut changes: Vec<Change<dyn Erased>> = gone.filter_map(|key| self.remove(key, 0)).collect();
        // The list's revision counts once all of it is here: until then a reader could believe to have seen writes
        // that are still to come.
        changes.extend(objects.into_iter().filter_map(|object| self.set(object)));
        self.advance(revision);
        changes
    }
}

/// A cache; cheap to clone, all clones are one.
pub struct Cache<K> {
    objects: Objects,
    types: PhantomData<fn() -> K>,
}

impl<K> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Cache { objects: self.objects.clone(), types: PhantomData }
    }
}

impl<K: Meta> Default for Cache<K> {
    fn default() -> Self {
        Cache::new()
    }
}

impl<K: Meta> Cache<K> {
    /// An empty cache with the index by owner.
    pub fn new() -> Self {
        Cache { objects: Objects::new(), types: PhantomData }
    }

    /// A cache of these objects, for tests and one-off plans.
    pub fn of(objects: impl IntoIterator<Item = K>) -> Self {
        let cache = Cache::new();
        for object in objects {
            cache.put(object);
        }
        cache
    }

    /// What the cache shares with the reflector that feeds it.
    pub(crate) fn objects(&self) -> &Objects {
        &self.objects
    }

    /// Adds an index; a second one of the same name is ignored.
    pub fn add_index(&self, name: &'static str, values_of: IndexFn<K>) {
        let values_of = move |object: &dyn Erased| {
            let object: &dyn Any = object;
            object.downcast_ref::<K>().map(|object| values_of(object)).unwrap_or_default()
        };
        self.objects.add_index(name, Box::new(values_of));
    }

    /// One object.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.objects.get(namespace, name).map(typed)
    }

    /// One object.
    pub fn get_key(&self, key: &Key) -> Option<Arc<K>> {
        self.get(&key.namespace, &key.name)
    }

    /// All objects, by namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        typed_all(self.objects.list())
    }

    /// The objects of a namespace, by name.
    pub fn namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        typed_all(self.objects.namespace(namespace))
    }

    /// How many objects a namespace has.
    pub fn count_in(&self, namespace: &str) -> usize {
        self.objects.0.read().namespaces.get(namespace).map_or(0, BTreeMap::len)
    }

    /// The objects that an index files under `value`; empty when there is no such index.
    pub fn by_index(&self, index: &str, value: &str) -> Vec<Arc<K>> {
        typed_all(self.objects.by_index(index, value))
    }

    /// The objects with an owner reference to `uid`.
    pub fn owned_by(&self, uid: &str) -> Vec<Arc<K>> {
        self.by_index(BY_OWNER, uid)
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.objects.0.read().count
    }

    /// True when there is no object.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The revision up to which the cache is known to be complete; 0 before the first list.
    pub fn revision(&self) -> u64 {
        self.objects.0.read().revision
    }

    /// Raises the revision (a bookmark).
    pub fn advance(&self, revision: u64) {
        self.objects.advance(revision);
    }

    /// Adds or replaces an object. `None` when the cache already holds this or a newer version of it.
    pub fn put(&self, object: K) -> Option<Change<K>> {
        Some(self.objects.put(Arc::new(object))?.typed())
    }

    /// Removes an object; `revision` is that of the deletion (0 = not known).
    pub fn remove(&self, key: &Key, revision: u64) -> Option<Change<K>> {
        Some(self.objects.remove(key, revision)?.typed())
    }

    /// Makes the cache hold exactly these objects; returns what changed.
    pub fn replace(&self, objects: Vec<K>, revision: u64) -> Vec<Change<K>> {
        let objects = objects.into_iter().map(|object| Arc::new(object) as Shared).collect();
        self.objects.replace(objects, revision).iter().map(Change::typed).collect()
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
        assert_eq!((cache.owned_by("o1").len(), cache.count_in("n"), cache.count_in("m")), (2, 2, 0));
        assert!(cache.put(object("a", 1, "o2")).is_none(), "the same version changes nothing");
        assert!(matches!(cache.put(object("a", 3, "o2")), Some(Change::Modified { .. })));
        assert_eq!((cache.owned_by("o1").len(), cache.owned_by("o2").len()), (1, 1));
        let changes = cache.replace(vec![object("a", 3, "o2"), object("c", 5, "o2")], 9);
        assert_eq!(changes.len(), 2);
        assert_eq!((cache.len(), cache.revision(), cache.owned_by("o1").len()), (2, 9, 0));
    }
}
