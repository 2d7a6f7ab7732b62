//! What keeps the store's changes: the trait, and the engine that keeps nothing. An engine must not
//! know conditions, watches or indexes; it takes changes in order and gives them back on load.

use std::sync::Arc;

use crate::{EngineError, Interner, Key, Object};

/// Which engine to open.
pub enum Engine {
    /// Keeps nothing; commits happen in the caller's thread, so that a simulation is repeatable.
    Memory,
    /// Any journal, written by a thread of its own.
    Journal(Box<dyn Journal>),
    /// Any journal, written in the caller's thread: for simulated disks.
    Inline(Box<dyn Journal>),
}

/// One change to keep.
#[derive(Clone, Debug)]
pub enum Change {
    /// The object is now this version.
    Put {
        /// The new version.
        object: Arc<Object>,
        /// It did not exist before.
        created: bool,
    },
    /// The object is gone.
    Delete {
        /// Which object.
        key: Key,
        /// The revision of the deletion.
        revision: u64,
    },
}

/// One change given back on load, in the order in which it was made.
#[derive(Debug)]
pub enum Loaded {
    /// A version that was written.
    Put {
        /// The version.
        object: Object,
        /// [`crate::Indexer::version`] when its attributes were made.
        indexer_version: u32,
        /// It was created by this change.
        created: bool,
        /// Not a change: a version written again unchanged to let an old file go.
        moved: bool,
        /// When, in milliseconds since 1970.
        time_ms: i64,
    },
    /// A deletion.
    Delete {
        /// Which object.
        key: Key,
        /// The revision of the deletion.
        revision: u64,
        /// When, in milliseconds since 1970.
        time_ms: i64,
    },
}

/// What a journal knows once it has given everything back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadEnd {
    /// The highest revision ever used.
    pub revision: u64,
    /// All changes after this revision were given back.
    pub complete_after: u64,
}

/// Looks up the current version of an object.
pub type Current<'a> = dyn Fn(&Key) -> Option<Arc<Object>> + 'a;

/// Keeps changes in order. Owned by the writer; called from one thread at a time; may block.
pub trait Journal: Send {
    /// Gives back everything kept, in order. Called once, first.
    fn load(
        &mut self,
        interner: &mut Interner,
        apply: &mut dyn FnMut(Loaded),
    ) -> Result<LoadEnd, EngineError>;

    /// Makes the changes durable, all or none. After an error none of them may come back.
    fn append(&mut self, changes: &[Change], indexer_version: u32, time_ms: i64) -> Result<(), EngineError>;

    /// Does one short step of housekeeping; true if there is more to do.
    fn tidy(&mut self, current: &Current<'_>, time_ms: i64) -> Result<bool, EngineError> {
        let _ = (current, time_ms);
        Ok(false)
    }

    /// Bytes on disk.
    fn disk_bytes(&self) -> u64 {
        0
    }
}

/// The journal that keeps nothing.
#[derive(Debug, Default)]
pub(crate) struct Forget;

impl Journal for Forget {
    fn load(&mut self, _: &mut Interner, _: &mut dyn FnMut(Loaded)) -> Result<LoadEnd, EngineError> {
        Ok(LoadEnd::default())
    }

    fn append(&mut self, _: &[Change], _: u32, _: i64) -> Result<(), EngineError> {
        Ok(())
    }
}
