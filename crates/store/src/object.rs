//! One version of one object: its bytes, what selectors and indexes need of it, and its revision.
//! Must not know what the bytes mean, apart from where the revision stands in them.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::Key;

/// JSON text of an object as a writer hands it over: complete but for its revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Draft {
    /// JSON text with an empty place for the revision, as in `"resourceVersion":""`.
    pub json: Vec<u8>,
    /// Byte offset in `json` at which the commit inserts the decimal revision.
    pub revision_at: usize,
}

/// Longest decimal revision.
const REVISION_DIGITS_MAX: usize = 20;

impl Draft {
    /// The text with `revision` written into its place.
    pub(crate) fn render(&self, revision: u64) -> Bytes {
        let at = self.revision_at.min(self.json.len());
        splice(&self.json[..at], revision, &self.json[at..])
    }
}

fn splice(before: &[u8], revision: u64, after: &[u8]) -> Bytes {
    let mut digits = [0u8; REVISION_DIGITS_MAX];
    let digits = decimal(revision, &mut digits);
    let mut text = Vec::with_capacity(before.len() + digits.len() + after.len());
    text.extend_from_slice(before);
    text.extend_from_slice(digits);
    text.extend_from_slice(after);
    Bytes::from(text)
}

fn decimal(mut number: u64, buffer: &mut [u8; REVISION_DIGITS_MAX]) -> &[u8] {
    let mut start = REVISION_DIGITS_MAX;
    loop {
        start -= 1;
        buffer[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &buffer[start..];
        }
    }
}

fn decimal_len(number: u64) -> usize {
    number.checked_ilog10().map_or(1, |log| log as usize + 1)
}

/// A sorted list of names and values, shared with every other object that has the same ones.
pub type Pairs = Box<[(Arc<str>, Arc<str>)]>;

/// What selectors and indexes look at, so that neither parses JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attrs {
    /// Labels, sorted by key.
    pub labels: Pairs,
    /// Selectable fields (`metadata.name`, `spec.nodeName` …), sorted by path.
    pub fields: Pairs,
    /// The object's uid; may be empty.
    pub uid: Arc<str>,
    /// Uids of the owners.
    pub owners: Box<[Arc<str>]>,
}

impl Attrs {
    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&Arc<str>> {
        find(&self.labels, key)
    }

    /// The value of a selectable field.
    pub fn field(&self, path: &str) -> Option<&Arc<str>> {
        find(&self.fields, path)
    }

    /// Sorts labels and fields, which look-ups rely on.
    pub(crate) fn sort(&mut self) {
        for pairs in [&mut self.labels, &mut self.fields] {
            if !pairs.is_sorted_by(|a, b| a.0 <= b.0) {
                pairs.sort_by(|a, b| a.0.cmp(&b.0));
            }
        }
    }
}

fn find<'a>(pairs: &'a [(Arc<str>, Arc<str>)], key: &str) -> Option<&'a Arc<str>> {
    let at = pairs.binary_search_by(|(name, _)| name.as_ref().cmp(key)).ok()?;
    Some(&pairs[at].1)
}

/// One committed version of an object, shared by every reader.
#[derive(Debug)]
pub struct Object {
    /// Where it lives.
    pub key: Key,
    /// The revision at which this version was committed. For the object of a `Deleted` event: the
    /// revision of the deletion.
    pub revision: u64,
    /// The complete JSON text, revision included.
    pub json: Bytes,
    /// Labels, fields, uid and owners.
    pub attrs: Attrs,
    pub(crate) revision_at: u32,
    // Boxed, here and in events: most versions never have it.
    protobuf: OnceLock<Box<Bytes>>,
}

impl Object {
    pub(crate) fn new(key: Key, revision: u64, draft: &Draft, attrs: Attrs) -> Self {
        Self::from_parts(key, revision, draft.render(revision), draft.revision_at as u32, attrs)
    }

    /// A version as an engine gives it back on load: `revision_at` is where in `json` its revision
    /// stands.
    pub fn from_parts(key: Key, revision: u64, json: Bytes, revision_at: u32, attrs: Attrs) -> Self {
        Self { key, revision, json, attrs, revision_at, protobuf: OnceLock::new() }
    }

    /// The same object as it looked last, but carrying the revision of its deletion.
    pub(crate) fn deleted_at(&self, revision: u64) -> Self {
        let (before, after) = self.around_revision();
        let json = splice(before, revision, after);
        Self::from_parts(self.key.clone(), revision, json, self.revision_at, self.attrs.clone())
    }

    fn around_revision(&self) -> (&[u8], &[u8]) {
        let at = (self.revision_at as usize).min(self.json.len());
        let end = (at + decimal_len(self.revision)).min(self.json.len());
        (&self.json[..at], &self.json[end..])
    }

    /// True if committing `draft` would change nothing but the revision.
    pub fn same_text(&self, draft: &Draft) -> bool {
        let (before, after) = self.around_revision();
        let at = draft.revision_at.min(draft.json.len());
        before == &draft.json[..at] && after == &draft.json[at..]
    }

    /// The text without its revision: a draft that a writer can start from.
    pub fn to_draft(&self) -> Draft {
        let (before, after) = self.around_revision();
        Draft { json: [before, after].concat(), revision_at: before.len() }
    }

    /// The protobuf form, made by `encode` at most once for this version.
    pub fn protobuf(&self, encode: impl FnOnce(&Self) -> Bytes) -> &Bytes {
        self.protobuf.get_or_init(|| Box::new(encode(self)))
    }

    /// Memory held by this version, roughly, in bytes.
    pub(crate) fn weight(&self) -> usize {
        const FIXED: usize = 256;
        self.json.len() + FIXED
    }
}

/// What a write expects to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Whatever is there, or nothing.
    Any,
    /// No object.
    Absent,
    /// The object at exactly this revision.
    Revision(u64),
}

/// What a write does.
#[derive(Clone, Debug)]
pub enum Op {
    /// Creates or replaces.
    Put(Draft, Attrs),
    /// Removes.
    Delete,
}

/// One conditional write.
#[derive(Clone, Debug)]
pub struct Write {
    /// Which object.
    pub key: Key,
    /// Under what condition.
    pub expect: Expect,
    /// What to do.
    pub op: Op,
}

impl Write {
    /// Creates an object that must not exist yet.
    pub fn create(key: Key, draft: Draft, attrs: Attrs) -> Self {
        Self { key, expect: Expect::Absent, op: Op::Put(draft, attrs) }
    }

    /// Replaces an object that must still be at `revision`.
    pub fn update(key: Key, revision: u64, draft: Draft, attrs: Attrs) -> Self {
        Self { key, expect: Expect::Revision(revision), op: Op::Put(draft, attrs) }
    }

    /// Deletes an object, under `expect`.
    pub fn delete(key: Key, expect: Expect) -> Self {
        Self { key, expect, op: Op::Delete }
    }
}

/// What a write did.
#[derive(Clone, Debug)]
pub struct Committed {
    /// The object as committed; for a delete, its last state carrying the deletion's revision.
    pub object: Arc<Object>,
    /// The version it replaced or removed.
    pub previous: Option<Arc<Object>>,
    /// The revision of this write.
    pub revision: u64,
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// It came into being.
    Added,
    /// It was replaced.
    Modified,
    /// It was removed.
    Deleted,
}

/// One change, as every watcher sees it.
#[derive(Debug)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The new version; for `Deleted`, the last state carrying the deletion's revision.
    pub object: Arc<Object>,
    /// The version before, absent for `Added`.
    pub previous: Option<Arc<Object>>,
    /// The revision of the change.
    pub revision: u64,
    frames: OnceLock<Box<[OnceLock<Bytes>; FRAME_FORMS]>>,
}

/// Number of encoded forms that an event can keep for its watchers.
pub const FRAME_FORMS: usize = 2;

impl Event {
    pub(crate) fn new(kind: EventKind, object: Arc<Object>, previous: Option<Arc<Object>>) -> Self {
        let revision = object.revision;
        Self { kind, object, previous, revision, frames: OnceLock::new() }
    }

    /// The encoded watch frame in form number `form` (below [`FRAME_FORMS`]; which form is which is
    /// the caller's affair), made by `encode` at most once and shared by every watcher.
    pub fn frame(&self, form: usize, encode: impl FnOnce(&Self) -> Bytes) -> &Bytes {
        self.frames.get_or_init(Box::default)[form].get_or_init(|| encode(self))
    }

    /// Memory that history holds for this event, roughly, in bytes. An added object is nearly
    /// always also the current one, so that it weighs little.
    pub(crate) fn weight(&self) -> usize {
        const FIXED: usize = 128;
        let removed = if self.kind == EventKind::Deleted { self.object.weight() } else { 0 };
        FIXED + removed + self.previous.as_ref().map_or(0, |previous| previous.weight())
    }
}
