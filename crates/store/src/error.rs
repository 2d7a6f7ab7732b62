//! What can go wrong, with what the caller needs to answer it. Must not know HTTP or `Status`.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::{Key, Object};

/// Why a write was not committed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommitError {
    /// The object was expected to be absent; here it is.
    #[error("{} already exists at revision {}", .0.key, .0.revision)]
    Exists(Arc<Object>),
    /// There is no such object.
    #[error("{0} does not exist")]
    NotFound(Key),
    /// The object has another revision than expected; here it is, so that the caller can try again
    /// without a read.
    #[error("{} is at revision {}, not as expected", .0.key, .0.revision)]
    Conflict(Arc<Object>),
    /// The write could not be made durable. Whether it survives a crash is unknown; it is not
    /// visible now.
    #[error("commit: {0}")]
    Engine(#[from] Arc<EngineError>),
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}

/// A failure of the engine under the store.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A file could not be read or written.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Another process holds the directory.
    #[error("{} is in use by another process", .0.display())]
    Locked(PathBuf),
    /// A file holds something other than what was written to it.
    #[error("{} is damaged at byte {offset}: {reason}", path.display())]
    Corrupt {
        /// Which file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// A file was written by a version that this one cannot read.
    #[error("{} has format {found}, this version reads up to {known}", path.display())]
    Format {
        /// Which file.
        path: PathBuf,
        /// Its format number.
        found: u32,
        /// The newest that is known here.
        known: u32,
    },
    /// Restore would overwrite a store.
    #[error("{} already holds a store", .0.display())]
    NotEmpty(PathBuf),
    /// A thread could not be started.
    #[error("start a thread: {0}")]
    Thread(#[source] io::Error),
    /// An object cannot be opened.
    #[error("{}/{}/{} cannot be decrypted: {reason}", key.resource, key.namespace, key.name)]
    Sealed {
        /// Which object.
        key: crate::Key,
        /// Why.
        reason: String,
    },
    /// etcd cannot be reached.
    #[error("connect to etcd: {0}")]
    Connect(#[source] Arc<tonic::transport::Error>),
    /// etcd refused, or did not answer in time.
    #[error("{what} etcd: {reason} (code {code})")]
    Etcd {
        /// What was attempted.
        what: &'static str,
        /// The gRPC status code.
        code: i32,
        /// etcd's words.
        reason: String,
    },
    /// One write is larger than a store record may be.
    #[error("a write of {size} bytes is above the limit of {limit}")]
    TooLarge {
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}

/// Why a past state or a watch cannot be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// The revision is older than history; `oldest` is the oldest one still served.
    #[error("revision {requested} is no longer kept, the oldest is {oldest}")]
    Compacted {
        /// The revision asked for.
        requested: u64,
        /// The oldest revision that can be asked for.
        oldest: u64,
    },
    /// The revision has not been reached.
    #[error("revision {requested} is ahead of the current {current}")]
    Future {
        /// The revision asked for.
        requested: u64,
        /// The current revision.
        current: u64,
    },
    /// The watcher was too slow: events it had not read are gone.
    #[error("the watch fell behind history, the oldest revision kept is {oldest}")]
    Lagged {
        /// The oldest revision that a new watch can start from.
        oldest: u64,
    },
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}
