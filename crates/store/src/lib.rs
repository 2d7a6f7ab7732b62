//! The store: every object's current version, one global revision, history and watches, over an
//! engine that keeps it. Knows no kind, no HTTP, no selector; a resource is a name, an object is
//! bytes with attributes.
//!
//! Reads never wait for writers: a [`Snapshot`] is an immutable copy-on-write tree. Writes are
//! conditional, ordered by one writer and acknowledged once the engine has made them durable.

mod engine;
mod error;
mod etcd;
mod intern;
mod key;
mod object;
mod plain;
mod remote;
mod store;
mod table;
mod watch;
mod writer;

pub use engine::{
    BackupSummary, Change, Disk, DiskOp, DiskOptions, Engine, Fault, Journal, Live, LoadEnd, Loaded,
    RESTORE_JUMP, Salvage, Seal, check, restore, salvage,
};
pub use error::{CommitError, EngineError, HistoryError};
pub use etcd::{Etcd, EtcdOptions, EtcdTls};
pub use intern::Interner;
pub use key::Key;
pub use object::{Attrs, Committed, Draft, Event, EventKind, Expect, FRAME_FORMS, Object, Op, Pairs, Write};
pub use plain::PlainIndexer;
pub use remote::{Feed, Remote, Seen};
pub use store::{HistoryLimits, Options, Stats, Store};
pub use table::{Index, Indexer, Snapshot};
pub use watch::{Interest, Watch, WatchFrom};
