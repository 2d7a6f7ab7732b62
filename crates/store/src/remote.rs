//! Engines that decide for several servers: the trait, and the way their changes reach memory. Must
//! not know how such an engine is reached.

use std::sync::Arc;

use futures::future::BoxFuture;
use parking_lot::Mutex;

use crate::store::{CloseOnPanic, Core};
use crate::writer::Writer;
use crate::{Attrs, CommitError, Draft, EngineError, Key, Seal, Write};

/// Decides conditions and revisions for several servers, and tells each of all changes in order.
pub trait Remote: Send + Sync {
    /// Loads everything into `feed`, and from then on keeps telling it of changes. What is kept elsewhere is sealed
    /// by [`Feed::seal`].
    fn start(self: Arc<Self>, feed: Feed) -> BoxFuture<'static, Result<(), EngineError>>;

    /// Commits all writes or none; the revision, one for all of them.
    fn commit(&self, writes: Vec<Write>) -> BoxFuture<'_, Result<u64, CommitError>>;

    /// The revision now, as all servers agree.
    fn latest(&self) -> BoxFuture<'_, Result<u64, EngineError>>;

    /// Makes a change that the feed will be told of; its revision.
    fn touch(&self) -> BoxFuture<'_, Result<u64, EngineError>>;

    /// Ends what `start` began.
    fn stop(&self);
}

/// A change as a remote engine tells it.
#[derive(Clone, Debug)]
pub enum Seen {
    /// An object is now this.
    Put {
        /// Which object.
        key: Key,
        /// The revision of the change.
        revision: u64,
        /// Its text.
        draft: Draft,
        /// Its attributes.
        attrs: Attrs,
        /// The version of the indexer that made them.
        indexer_version: u32,
    },
    /// An object is gone.
    Delete {
        /// Which object.
        key: Key,
        /// The revision of the change.
        revision: u64,
    },
}

impl Seen {
    /// The revision of the change.
    pub fn revision(&self) -> u64 {
        match self {
            Seen::Put { revision, .. } | Seen::Delete { revision, .. } => *revision,
        }
    }
}

/// Where a remote engine puts the changes that it learns of.
#[derive(Clone)]
pub struct Feed {
    pub(crate) core: Arc<Core>,
    pub(crate) writer: Arc<Mutex<Writer>>,
}

impl Feed {
    /// The revision up to which changes have been fed.
    pub fn revision(&self) -> u64 {
        self.core.published()
    }

    /// To be held by what feeds: the store closes if its holder panics.
    pub fn guard(&self) -> impl Send + use<> {
        CloseOnPanic(Arc::clone(&self.core))
    }

    /// The version of the indexer that makes attributes here.
    pub fn indexer_version(&self) -> u32 {
        self.core.options.indexer.version()
    }

    /// What seals objects that leave this server, if anything does.
    pub fn seal(&self) -> Option<Arc<dyn Seal>> {
        self.core.options.seal.clone()
    }

    /// Takes changes in order of revision, all of those up to `reached`.
    pub fn changes(&self, changes: Vec<Seen>, reached: u64) {
        self.writer.lock().observe(changes, reached);
    }

    /// Takes a whole new state instead of changes: history is lost, and every watch with it.
    pub fn replace(&self, objects: Vec<Seen>, revision: u64) {
        self.writer.lock().replace(objects, revision);
    }
}
