//! All current objects of one resource as a copy-on-write ordered set with indexes, and immutable
//! snapshots of it. Must not know how changes are agreed on or kept.

use std::cmp::Ordering;
use std::ops::Bound;
use std::sync::Arc;

use equivalent::{Comparable, Equivalent};
use imbl::OrdSet;

use crate::key::cmp_shared;
use crate::{Attrs, Event, Key, Object};

/// Something to look objects up by, besides their place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Index {
    /// A selectable field, such as `spec.nodeName`.
    Field(Arc<str>),
    /// The value of a label.
    Label(Arc<str>),
    /// The uid of an owner.
    Owner,
}

/// Tells the store what it cannot know of an object. Pure: the same bytes give the same answer.
pub trait Indexer: Send + Sync {
    /// Changes whenever `attrs` would give something else for the same bytes. Objects stored under
    /// another version are read anew on load.
    fn version(&self) -> u32 {
        0
    }

    /// Attributes of stored bytes. Called on load, and for changes made by other servers.
    fn attrs(&self, key: &Key, json: &[u8]) -> Attrs;

    /// The indexes that a resource has from the start.
    fn indexes(&self, resource: &str) -> Vec<Index> {
        let _ = resource;
        Vec::new()
    }
}

/// An object ordered by namespace and name.
#[derive(Clone, Debug)]
struct Slot(Arc<Object>);

impl Ord for Slot {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.key.cmp_place(&other.0.key)
    }
}
impl PartialOrd for Slot {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for Slot {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Slot {}

/// A point in the order of slots.
#[derive(Clone, Copy)]
enum Point<'a> {
    At(&'a str, &'a str),
    NamespaceEnd(&'a str),
}

impl Equivalent<Slot> for Point<'_> {
    fn equivalent(&self, slot: &Slot) -> bool {
        self.compare(slot) == Ordering::Equal
    }
}
impl Comparable<Slot> for Point<'_> {
    fn compare(&self, slot: &Slot) -> Ordering {
        let (namespace, name) = slot.0.key.place();
        match *self {
            Point::At(wanted, wanted_name) => wanted.cmp(namespace).then_with(|| wanted_name.cmp(name)),
            Point::NamespaceEnd(wanted) => wanted.cmp(namespace).then(Ordering::Greater),
        }
    }
}

/// An object under one of its index values, ordered by value, namespace and name.
#[derive(Clone, Debug)]
struct Posting {
    value: Arc<str>,
    object: Arc<Object>,
}

impl Ord for Posting {
    fn cmp(&self, other: &Self) -> Ordering {
        cmp_shared(&self.value, &other.value).then_with(|| self.object.key.cmp_place(&other.object.key))
    }
}
impl PartialOrd for Posting {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for Posting {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Posting {}

/// A point in the order of postings.
#[derive(Clone, Copy)]
enum PostingPoint<'a> {
    At(&'a str, &'a str, &'a str),
    NamespaceEnd(&'a str, &'a str),
    ValueEnd(&'a str),
}

impl Equivalent<Posting> for PostingPoint<'_> {
    fn equivalent(&self, posting: &Posting) -> bool {
        self.compare(posting) == Ordering::Equal
    }
}
impl Comparable<Posting> for PostingPoint<'_> {
    fn compare(&self, posting: &Posting) -> Ordering {
        let (namespace, name) = posting.object.key.place();
        let value = posting.value.as_ref();
        match *self {
            PostingPoint::At(v, ns, n) => {
                v.cmp(value).then_with(|| ns.cmp(namespace)).then_with(|| n.cmp(name))
            }
            PostingPoint::NamespaceEnd(v, ns) => {
                v.cmp(value).then_with(|| ns.cmp(namespace)).then(Ordering::Greater)
            }
            PostingPoint::ValueEnd(v) => v.cmp(value).then(Ordering::Greater),
        }
    }
}

type Postings = (Index, OrdSet<Posting>);

/// The current objects of one resource. A clone costs a few counters and shares everything.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    objects: OrdSet<Slot>,
    indexes: Arc<Vec<Postings>>,
    /// Revision of the last change.
    pub(crate) changed: u64,
    /// Sum of the objects' weights.
    pub(crate) bytes: usize,
}

impl Table {
    pub(crate) fn new(indexes: Vec<Index>) -> Self {
        let mut table = Self::default();
        for index in indexes {
            table.add_index(index);
        }
        table
    }

    /// An empty table with the same indexes.
    pub(crate) fn cleared(&self) -> Self {
        Self::new(self.indexes.iter().map(|(index, _)| index.clone()).collect())
    }

    pub(crate) fn len(&self) -> usize {
        self.objects.len()
    }

    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<&Arc<Object>> {
        self.objects.get(&Point::At(namespace, name)).map(|slot| &slot.0)
    }

    pub(crate) fn has_index(&self, index: &Index) -> bool {
        self.indexes.iter().any(|(known, _)| known == index)
    }

    /// Adds an index over the objects present and to come.
    pub(crate) fn add_index(&mut self, index: Index) {
        if self.has_index(&index) {
            return;
        }
        let mut set = OrdSet::new();
        for slot in &self.objects {
            post(&mut set, &index, &slot.0);
        }
        Arc::make_mut(&mut self.indexes).push((index, set));
    }

    /// Inserts or replaces an object.
    pub(crate) fn put(&mut self, object: Arc<Object>) -> Option<Arc<Object>> {
        self.changed = self.changed.max(object.revision);
        self.bytes += object.weight();
        let previous = self.objects.insert(Slot(Arc::clone(&object))).map(|slot| slot.0);
        if let Some(previous) = &previous {
            self.bytes -= previous.weight();
        }
        if !self.indexes.is_empty() {
            for (index, set) in Arc::make_mut(&mut self.indexes) {
                unpost(set, index, previous.as_ref(), Some(&object));
                post(set, index, &object);
            }
        }
        previous
    }

    /// Removes an object, at `revision`.
    pub(crate) fn remove(&mut self, namespace: &str, name: &str, revision: u64) -> Option<Arc<Object>> {
        let previous = self.objects.remove(&Point::At(namespace, name))?.0;
        self.changed = self.changed.max(revision);
        self.bytes -= previous.weight();
        if !self.indexes.is_empty() {
            for (index, set) in Arc::make_mut(&mut self.indexes) {
                unpost(set, index, Some(&previous), None);
            }
        }
        Some(previous)
    }

    /// Takes one change back.
    pub(crate) fn undo(&mut self, event: &Event) {
        match &event.previous {
            Some(previous) => drop(self.put(Arc::clone(previous))),
            None => {
                let (namespace, name) = event.object.key.place();
                self.remove(namespace, name, 0);
            }
        }
    }
}

/// The values of `index` that an object has.
fn values<'a>(index: &Index, object: &'a Object) -> impl Iterator<Item = &'a Arc<str>> {
    let (one, many): (Option<&Arc<str>>, &[Arc<str>]) = match index {
        Index::Field(path) => (object.attrs.field(path), &[]),
        Index::Label(key) => (object.attrs.label(key), &[]),
        Index::Owner => (None, &object.attrs.owners),
    };
    one.into_iter().chain(many)
}

fn post(set: &mut OrdSet<Posting>, index: &Index, object: &Arc<Object>) {
    for value in values(index, object) {
        set.insert(Posting { value: Arc::clone(value), object: Arc::clone(object) });
    }
}

/// Takes the old version's postings out, except those that the new version will replace.
fn unpost(set: &mut OrdSet<Posting>, index: &Index, old: Option<&Arc<Object>>, new: Option<&Arc<Object>>) {
    let Some(old) = old else { return };
    for value in values(index, old) {
        let stays = new.is_some_and(|new| values(index, new).any(|kept| kept == value));
        if !stays {
            let (namespace, name) = old.key.place();
            set.remove(&PostingPoint::At(value, namespace, name));
        }
    }
}

/// All objects of one resource at one revision. Immutable, cheap to clone, never blocks a writer.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub(crate) resource: Arc<str>,
    pub(crate) revision: u64,
    pub(crate) table: Table,
}

impl Snapshot {
    /// The resource it is of.
    pub fn resource(&self) -> &Arc<str> {
        &self.resource
    }

    /// The revision at which this was the state: every change up to it is in, none after it.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Number of objects in all namespaces.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// True if there are no objects.
    pub fn is_empty(&self) -> bool {
        self.table.len() == 0
    }

    /// Memory of all objects, roughly, in bytes.
    pub fn bytes(&self) -> usize {
        self.table.bytes
    }

    /// One object.
    pub fn get(&self, namespace: &str, name: &str) -> Option<&Arc<Object>> {
        self.table.get(namespace, name)
    }

    /// Objects in order of namespace and name: those of `namespace` (all namespaces if `None`; `""`
    /// for cluster-scoped objects), strictly after the place `after` (namespace, name).
    pub fn range<'a>(
        &'a self,
        namespace: Option<&'a str>,
        after: Option<(&'a str, &'a str)>,
    ) -> impl Iterator<Item = &'a Arc<Object>> {
        let end = namespace.map_or(Bound::Unbounded, |ns| Bound::Included(Point::NamespaceEnd(ns)));
        let start = match (namespace, after) {
            (Some(ns), Some((after_ns, _))) if after_ns < ns => Bound::Included(Point::At(ns, "")),
            // The place is past the namespace: nothing is left, and a range must not be inverted.
            (Some(ns), Some((after_ns, _))) if after_ns > ns => Bound::Included(Point::NamespaceEnd(ns)),
            (_, Some((ns, name))) => Bound::Excluded(Point::At(ns, name)),
            (Some(ns), None) => Bound::Included(Point::At(ns, "")),
            (None, None) => Bound::Unbounded,
        };
        self.table.objects.range::<_, Point<'_>>((start, end)).map(|slot| &slot.0)
    }

    /// Objects having `value` under `index`, in order of namespace and name, or `None` if there is
    /// no such index (the caller then filters `range`).
    pub fn lookup<'a>(
        &'a self,
        index: &Index,
        value: &'a str,
        namespace: Option<&'a str>,
        after: Option<(&'a str, &'a str)>,
    ) -> Option<impl Iterator<Item = &'a Arc<Object>>> {
        let (_, set) = self.table.indexes.iter().find(|(known, _)| known == index)?;
        let end = Bound::Included(match namespace {
            Some(ns) => PostingPoint::NamespaceEnd(value, ns),
            None => PostingPoint::ValueEnd(value),
        });
        let start = match (namespace, after) {
            (Some(ns), Some((after_ns, _))) if after_ns < ns => {
                Bound::Included(PostingPoint::At(value, ns, ""))
            }
            (Some(ns), Some((after_ns, _))) if after_ns > ns => {
                Bound::Included(PostingPoint::NamespaceEnd(value, ns))
            }
            (_, Some((ns, name))) => Bound::Excluded(PostingPoint::At(value, ns, name)),
            (ns, None) => Bound::Included(PostingPoint::At(value, ns.unwrap_or(""), "")),
        };
        Some(set.range::<_, PostingPoint<'_>>((start, end)).map(|posting| &posting.object))
    }
}
