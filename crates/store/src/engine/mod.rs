//! What keeps the store's changes: the trait, and the engine that keeps nothing. An engine must not
//! know conditions, watches or indexes; it takes changes in order and gives them back on load.

mod backup;
pub(crate) mod codec;
mod disk;
mod salvage;
mod sealed;
mod segment;

use std::sync::Arc;

pub use backup::{BackupSummary, RESTORE_JUMP, check, restore};
pub(crate) use backup::{write_backup, write_objects};
pub use disk::{Disk, DiskOp, DiskOptions, Fault};
pub use salvage::{Salvage, salvage};
pub use sealed::Seal;
pub(crate) use sealed::{NO_ATTRIBUTES, Sealed, opened_draft, sealed, sealed_draft};

use crate::{EngineError, Etcd, EtcdOptions, Interner, Key, Object, Remote};

/// Which engine to open.
pub enum Engine {
    /// Keeps nothing; commits happen in the caller's thread, so that a simulation is repeatable.
    Memory,
    /// Any journal, written by a thread of its own.
    Journal(Box<dyn Journal>),
    /// Any journal, written in the caller's thread: for simulated disks.
    Inline(Box<dyn Journal>),
    /// An engine that several servers share.
    Remote(Arc<dyn Remote>),
}

impl Engine {
    /// The default: a journal in a directory, which is locked against a second process.
    pub fn disk(options: DiskOptions) -> Result<Self, EngineError> {
        Ok(Self::Journal(Box::new(Disk::open(options)?)))
    }

    /// An etcd, which several API servers can share.
    pub fn etcd(options: EtcdOptions) -> Result<Self, EngineError> {
        Ok(Self::Remote(Arc::new(Etcd::new(options)?)))
    }
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

impl Change {
    /// The revision of the change.
    pub fn revision(&self) -> u64 {
        match self {
            Change::Put { object, .. } => object.revision,
            Change::Delete { revision, .. } => *revision,
        }
    }
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

/// What is current, for a journal that drops what is not.
pub struct Live<'a> {
    /// Bytes of all current objects, roughly.
    pub bytes: u64,
    /// Looks up the current version of an object.
    pub current: &'a dyn Fn(&Key) -> Option<Arc<Object>>,
}

/// Keeps changes in order. Owned by the writer; called from one thread at a time; may block.
pub trait Journal: Send {
    /// Gives back everything kept, in order. Called once, first.
    fn load(
        &mut self,
        interner: &mut Interner,
        apply: &mut dyn FnMut(Loaded),
    ) -> Result<LoadEnd, EngineError>;

    /// Makes the changes durable, all or none. After an error none of them may come back once a
    /// later append has succeeded.
    fn append(&mut self, changes: &[Change], indexer_version: u32, time_ms: i64) -> Result<(), EngineError>;

    /// Does one short step of housekeeping; true if there is more to do.
    fn tidy(&mut self, live: &Live<'_>, time_ms: i64) -> Result<bool, EngineError> {
        let _ = (live, time_ms);
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
