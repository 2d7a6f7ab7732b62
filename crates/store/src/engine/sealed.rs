//! Objects sealed before a journal sees them and opened when it gives them back. What seals and how is the
//! embedder's affair; the journal underneath must not notice.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::engine::{Change, Journal, Live, LoadEnd, Loaded};
use crate::{Attrs, Draft, EngineError, Interner, Key, Object};

/// Seals what is kept, such as secrets.
pub trait Seal: Send + Sync {
    /// The sealed form of an object's text; `None` for objects that are kept in the clear.
    fn seal(&self, key: &Key, text: &[u8]) -> Option<Vec<u8>>;
    /// The text of what [`Seal::seal`] made; `None` when it is not sealed.
    ///
    /// # Errors
    /// Says why it cannot be opened: its key is not known, or it was tampered with.
    fn open(&self, key: &Key, kept: &[u8]) -> Result<Option<Vec<u8>>, String>;
}

/// The version of attributes that no indexer has: they are made anew when a sealed object is loaded.
pub(crate) const NO_ATTRIBUTES: u32 = u32::MAX;

/// A journal of sealed objects.
pub(crate) struct Sealed {
    inner: Box<dyn Journal>,
    seal: Arc<dyn Seal>,
}

/// An object as it is kept: sealed where that is wanted, and then without labels and fields.
pub(crate) fn sealed(seal: &dyn Seal, object: &Arc<Object>, indexer_version: u32) -> (Arc<Object>, u32) {
    let mut text = Vec::with_capacity(object.json.len() + 4);
    text.extend_from_slice(&object.revision_at.to_le_bytes());
    text.extend_from_slice(&object.json);
    match seal.seal(&object.key, &text) {
        None => (Arc::clone(object), indexer_version),
        Some(kept) => {
            let (key, revision) = (object.key.clone(), object.revision);
            let kept = Object::from_parts(key, revision, Bytes::from(kept), 0, Attrs::default());
            (Arc::new(kept), NO_ATTRIBUTES)
        }
    }
}

/// A text with its place for a revision, as it is kept elsewhere than in a journal; `None` for what is kept in the
/// clear. Attributes stay behind as in [`sealed`].
pub(crate) fn sealed_draft(seal: &dyn Seal, key: &Key, draft: &Draft) -> Option<Draft> {
    let text = [&(draft.revision_at as u32).to_le_bytes(), &*draft.json].concat();
    seal.seal(key, &text).map(|json| Draft { json, revision_at: 0 })
}

/// What [`sealed_draft`] made, opened; `None` when it is not sealed.
pub(crate) fn opened_draft(seal: &dyn Seal, key: &Key, kept: &[u8]) -> Result<Option<Draft>, EngineError> {
    let failed = |reason: String| EngineError::Sealed { key: key.clone(), reason };
    let Some(text) = seal.open(key, kept).map_err(failed)? else { return Ok(None) };
    let short = || failed("what was sealed is too short".to_owned());
    let (at, json) = text.split_first_chunk::<4>().ok_or_else(short)?;
    Ok(Some(Draft { revision_at: u32::from_le_bytes(*at) as usize, json: json.to_vec() }))
}

fn opened(seal: &dyn Seal, object: Object, indexer_version: u32) -> Result<(Object, u32), EngineError> {
    let Some(draft) = opened_draft(seal, &object.key, &object.json)? else {
        return Ok((object, indexer_version));
    };
    let (json, at) = (Bytes::from(draft.json), draft.revision_at as u32);
    Ok((Object::from_parts(object.key, object.revision, json, at, Attrs::default()), NO_ATTRIBUTES))
}

impl Sealed {
    /// Over a journal.
    pub(crate) fn new(inner: Box<dyn Journal>, seal: Arc<dyn Seal>) -> Sealed {
        Sealed { inner, seal }
    }
}

impl Journal for Sealed {
    fn load(
        &mut self,
        interner: &mut Interner,
        apply: &mut dyn FnMut(Loaded),
    ) -> Result<LoadEnd, EngineError> {
        let seal = Arc::clone(&self.seal);
        // A key may be taken away once everything current is sealed with another: what it sealed before that is
        // history that cannot be told any more.
        let (mut failed, mut untold) = (HashMap::new(), 0);
        let mut end = self.inner.load(interner, &mut |change| match change {
            Loaded::Put { object, indexer_version, created, moved, time_ms } => {
                let (key, revision) = (object.key.clone(), object.revision);
                match opened(&*seal, object, indexer_version) {
                    Ok((object, indexer_version)) => {
                        failed.remove(&key);
                        apply(Loaded::Put { object, indexer_version, created, moved, time_ms });
                    }
                    Err(error) => {
                        untold = untold.max(revision);
                        failed.insert(key, error);
                    }
                }
            }
            Loaded::Delete { key, revision, time_ms } => {
                failed.remove(&key);
                apply(Loaded::Delete { key, revision, time_ms });
            }
        })?;
        end.complete_after = end.complete_after.max(untold);
        failed.into_values().next().map_or(Ok(end), Err)
    }

    fn append(&mut self, changes: &[Change], indexer_version: u32, time_ms: i64) -> Result<(), EngineError> {
        let (mut plain, mut hidden): (Vec<Change>, bool) = (Vec::with_capacity(changes.len()), false);
        for change in changes {
            plain.push(match change {
                Change::Put { object, created } => {
                    let (kept, version) = sealed(&*self.seal, object, indexer_version);
                    hidden |= version != indexer_version;
                    Change::Put { object: kept, created: *created }
                }
                change => change.clone(),
            });
        }
        // One version is noted for all: attributes are made anew for all when one has none.
        let version = if hidden { NO_ATTRIBUTES } else { indexer_version };
        self.inner.append(&plain, version, time_ms)
    }

    fn tidy(&mut self, live: &Live<'_>, time_ms: i64) -> Result<bool, EngineError> {
        let seal = &*self.seal;
        let current = |key: &Key| (live.current)(key).map(|object| sealed(seal, &object, NO_ATTRIBUTES).0);
        self.inner.tidy(&Live { bytes: live.bytes, current: &current }, time_ms)
    }

    fn disk_bytes(&self) -> u64 {
        self.inner.disk_bytes()
    }
}
