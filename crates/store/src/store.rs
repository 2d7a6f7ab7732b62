//! The store's front: reads from memory, and writes handed to the one writer. Must not know how an
//! engine keeps things.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use base::clock::Clock;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::engine::{BackupSummary, Engine, Forget, Seal, Sealed, sealed, write_backup, write_objects};
use crate::table::Table;
use crate::watch::{Ring, Waiters};
use crate::writer::{Command, Writer, run_writer};
use crate::{
    CommitError, Committed, EngineError, Event, Expect, Feed, HistoryError, Index, Indexer, Interest, Key,
    Object, Remote, Snapshot, Watch, WatchFrom, Write,
};

/// How much of the past is kept for watches and paginated lists.
#[derive(Clone, Copy, Debug)]
pub struct HistoryLimits {
    /// Memory of past versions, in bytes, over all resources: the most, where the current ones take four times that;
    /// beside fewer it is less, but not below 16 MiB.
    pub bytes: usize,
    /// Number of events over all resources.
    pub events: usize,
    /// Age of an event.
    pub age: Duration,
}

impl Default for HistoryLimits {
    fn default() -> Self {
        Self { bytes: 64 << 20, events: 200_000, age: Duration::from_secs(300) }
    }
}

/// What part of the memory of current objects past versions may take: nobody pays for each object twice.
const HISTORY_SHARE: u64 = 4;
/// What past versions may always take, in bytes: a few thousand changes.
const HISTORY_BYTES_MIN: usize = 16 << 20;

impl HistoryLimits {
    /// Memory for past versions beside `live` bytes of current ones.
    pub(crate) fn room(&self, live: u64) -> usize {
        let share = usize::try_from(live / HISTORY_SHARE).unwrap_or(usize::MAX);
        share.max(HISTORY_BYTES_MIN).min(self.bytes)
    }
}

/// How a store is opened.
#[derive(Clone)]
pub struct Options {
    /// Reads attributes of stored bytes, names the indexes.
    pub indexer: Arc<dyn Indexer>,
    /// Ages history.
    pub clock: Clock,
    /// Bounds history.
    pub history: HistoryLimits,
    /// Seals what is kept on disk.
    pub seal: Option<Arc<dyn Seal>>,
}

impl Options {
    /// Default bounds.
    pub fn new(indexer: Arc<dyn Indexer>, clock: Clock) -> Self {
        Self { indexer, clock, history: HistoryLimits::default(), seal: None }
    }
}

/// Sizes, for metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// The current revision.
    pub revision: u64,
    /// Per resource: number of objects and their bytes in memory.
    pub resources: Vec<(Arc<str>, usize, usize)>,
    /// Events kept.
    pub history_events: usize,
    /// Bytes of past versions that they keep.
    pub history_bytes: usize,
    /// Watches open.
    pub watches: usize,
    /// Bytes that the engine has on disk.
    pub disk_bytes: u64,
}

/// One resource: its objects, its history, its watchers.
#[derive(Debug)]
pub(crate) struct Cell {
    pub(crate) resource: Arc<str>,
    pub(crate) state: RwLock<CellState>,
    /// Past states that paginated lists are reading, each with the time at which it was last used.
    kept: Mutex<Vec<(i64, Snapshot)>>,
}

#[derive(Debug)]
pub(crate) struct CellState {
    pub(crate) table: Table,
    pub(crate) ring: Ring,
    pub(crate) waiters: Waiters,
}

/// Past states kept per resource at most: as many lists can be paginated at once at different
/// revisions beyond what history covers.
const KEPT_MAX: usize = 8;

impl Cell {
    /// Forgets past states that nobody has asked for in `age_ms`.
    pub(crate) fn expire(&self, now_ms: i64, age_ms: i64) {
        self.kept.lock().retain(|(used, _)| now_ms.saturating_sub(*used) <= age_ms);
    }

    fn keep(&self, now_ms: i64, snapshot: &Snapshot) {
        let mut kept = self.kept.lock();
        kept.retain(|(_, other)| other.revision != snapshot.revision);
        if kept.len() >= KEPT_MAX {
            kept.remove(0);
        }
        kept.push((now_ms, snapshot.clone()));
    }

    fn kept(&self, now_ms: i64, revision: u64) -> Option<Snapshot> {
        let mut kept = self.kept.lock();
        let (used, snapshot) = kept.iter_mut().find(|(_, one)| one.revision == revision)?;
        *used = now_ms;
        Some(snapshot.clone())
    }
}

/// Which revision had been reached when: a mark a minute, for a day.
#[derive(Default)]
pub(crate) struct Marks(VecDeque<(i64, u64)>);

const MARK_EVERY_MS: i64 = 60_000;
const MARKS_MAX: usize = 24 * 60;

impl Marks {
    /// Notes that `revision` had been reached at `time_ms`.
    pub(crate) fn note(&mut self, time_ms: i64, revision: u64) {
        if self.0.back().is_some_and(|(last, _)| time_ms < last.saturating_add(MARK_EVERY_MS)) {
            return;
        }
        if self.0.len() == MARKS_MAX {
            self.0.pop_front();
        }
        self.0.push_back((time_ms, revision));
    }

    /// The highest revision known to have been reached at `time_ms`.
    fn reached(&self, time_ms: i64) -> u64 {
        let later = self.0.partition_point(|(at, _)| *at <= time_ms);
        later.checked_sub(1).map_or(0, |last| self.0[last].1)
    }
}

/// What readers and the writer share.
pub(crate) struct Core {
    cells: RwLock<HashMap<Arc<str>, Arc<Cell>>>,
    published: AtomicU64,
    advanced: Notify,
    closed: AtomicBool,
    /// Revision at which history begins for a resource without any events.
    pub(crate) floor: AtomicU64,
    pub(crate) options: Options,
    pub(crate) marks: Mutex<Marks>,
    pub(crate) history_events: AtomicUsize,
    pub(crate) history_bytes: AtomicUsize,
    pub(crate) disk_bytes: AtomicU64,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("published", &self.published()).finish_non_exhaustive()
    }
}

impl Core {
    fn new(options: Options) -> Self {
        Self {
            cells: RwLock::default(),
            published: AtomicU64::new(0),
            advanced: Notify::new(),
            closed: AtomicBool::new(false),
            floor: AtomicU64::new(0),
            options,
            marks: Mutex::default(),
            history_events: AtomicUsize::new(0),
            history_bytes: AtomicUsize::new(0),
            disk_bytes: AtomicU64::new(0),
        }
    }

    pub(crate) fn published(&self) -> u64 {
        self.published.load(Ordering::Acquire)
    }

    /// Declares every change up to `revision` visible.
    pub(crate) fn set_published(&self, revision: u64) {
        self.published.store(revision, Ordering::Release);
        self.advanced.notify_waiters();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Ends all watches and refuses new ones.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let mut wake = Vec::new();
        for cell in self.cells() {
            cell.state.write().waiters.wakers(&mut wake);
        }
        wake.into_iter().for_each(std::task::Waker::wake);
        self.advanced.notify_waiters();
    }

    pub(crate) fn cell(&self, resource: &str) -> Arc<Cell> {
        if let Some(cell) = self.cells.read().get(resource) {
            return Arc::clone(cell);
        }
        let mut cells = self.cells.write();
        if let Some(cell) = cells.get(resource) {
            return Arc::clone(cell);
        }
        let resource: Arc<str> = Arc::from(resource);
        let indexes = self.options.indexer.indexes(&resource);
        let ring = Ring::starting_at(self.floor.load(Ordering::Acquire));
        let state = CellState { table: Table::new(indexes), ring, waiters: Waiters::default() };
        let cell = Arc::new(Cell {
            resource: Arc::clone(&resource),
            state: RwLock::new(state),
            kept: Mutex::default(),
        });
        cells.insert(resource, Arc::clone(&cell));
        cell
    }

    /// All resources, by name.
    pub(crate) fn cells(&self) -> Vec<Arc<Cell>> {
        let mut cells: Vec<_> = self.cells.read().values().cloned().collect();
        cells.sort_by(|a, b| a.resource.cmp(&b.resource));
        cells
    }

    pub(crate) fn now_ms(&self) -> i64 {
        self.options.clock.now().as_millisecond()
    }

    pub(crate) fn age_ms(&self) -> i64 {
        i64::try_from(self.options.history.age.as_millis()).unwrap_or(i64::MAX)
    }
}

/// Closes the store if the thread or task that holds it panics: readers and watchers must not wait
/// for changes that nobody will make.
pub(crate) struct CloseOnPanic(pub(crate) Arc<Core>);

impl Drop for CloseOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.close();
        }
    }
}

enum Mode {
    Inline(Box<Mutex<Writer>>),
    Thread(mpsc::Sender<Command>),
    Remote(Arc<Mutex<Writer>>, Arc<dyn Remote>),
}

struct Inner {
    core: Arc<Core>,
    mode: Mode,
}

/// All objects of a cluster. A clone is another handle to the same store.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

/// How long a consistent read waits for a change that may never be told.
const TOUCH_AFTER: Duration = Duration::from_millis(20);

/// Writes that may wait for the writer; further callers wait to hand theirs over.
const QUEUE_MAX: usize = 4096;

impl Store {
    /// Opens a store: loads what the engine kept, and starts its writer. Returns when reads and
    /// writes can be served.
    pub async fn open(engine: Engine, options: Options) -> Result<Self, EngineError> {
        let seal = options.seal.clone();
        let core = Arc::new(Core::new(options));
        let (mut journal, inline) = match engine {
            Engine::Memory => (Box::new(Forget) as Box<dyn crate::Journal>, true),
            Engine::Inline(journal) => (journal, true),
            Engine::Journal(journal) => (journal, false),
            Engine::Remote(remote) => return Self::open_remote(core, remote).await,
        };
        if let Some(seal) = seal {
            journal = Box::new(Sealed::new(journal, seal));
        }
        if inline {
            let writer = Writer::load(Arc::clone(&core), journal)?;
            let mode = Mode::Inline(Box::new(Mutex::new(writer)));
            return Ok(Self { inner: Arc::new(Inner { core, mode }) });
        }
        let (commands, queue) = mpsc::channel(QUEUE_MAX);
        let (loaded, wait) = oneshot::channel();
        let shared = Arc::clone(&core);
        std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || run_writer(shared, journal, queue, loaded))
            .map_err(EngineError::Thread)?;
        wait.await.map_err(|_| EngineError::Closed)??;
        Ok(Self { inner: Arc::new(Inner { core, mode: Mode::Thread(commands) }) })
    }

    async fn open_remote(core: Arc<Core>, remote: Arc<dyn Remote>) -> Result<Self, EngineError> {
        let writer = Writer::load(Arc::clone(&core), Box::new(Forget))?;
        let writer = Arc::new(Mutex::new(writer));
        let feed = Feed { core: Arc::clone(&core), writer: Arc::clone(&writer) };
        Arc::clone(&remote).start(feed).await?;
        Ok(Self { inner: Arc::new(Inner { core, mode: Mode::Remote(writer, remote) }) })
    }

    fn core(&self) -> &Arc<Core> {
        &self.inner.core
    }

    async fn send(&self, command: Command) -> Result<(), CommitError> {
        match &self.inner.mode {
            Mode::Inline(writer) => {
                let mut writer = writer.lock();
                writer.run(vec![command]);
                writer.tidy();
                Ok(())
            }
            Mode::Remote(writer, _) => {
                writer.lock().run(vec![command]);
                Ok(())
            }
            Mode::Thread(commands) => commands.send(command).await.map_err(|_| CommitError::Closed),
        }
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, CommitError> {
        let (reply, answer) = oneshot::channel();
        self.send(command(reply)).await?;
        answer.await.map_err(|_| CommitError::Closed)
    }

    /// Commits one write. Returns once it is durable and visible to readers and watchers.
    ///
    /// If the future is dropped, the write may still happen.
    pub async fn commit(&self, write: Write) -> Result<Committed, CommitError> {
        let mut done = self.commit_all(vec![write]).await?;
        Ok(done.pop().expect("one write gives one result"))
    }

    /// Commits several writes, all or none, each with a revision of its own, in order. The error is
    /// that of the first one whose condition does not hold.
    ///
    /// On a remote engine they share one revision.
    pub async fn commit_all(&self, writes: Vec<Write>) -> Result<Vec<Committed>, CommitError> {
        if let Mode::Remote(_, remote) = &self.inner.mode {
            return self.commit_remote(remote.as_ref(), writes).await;
        }
        self.ask(|reply| Command::Write { writes, reply }).await?
    }

    async fn commit_remote(
        &self,
        remote: &dyn Remote,
        writes: Vec<Write>,
    ) -> Result<Vec<Committed>, CommitError> {
        if self.core().is_closed() {
            return Err(CommitError::Closed);
        }
        let keys: Vec<Key> = writes.iter().map(|write| write.key.clone()).collect();
        let revision = remote.commit(writes).await?;
        self.wait_for(revision).await.map_err(|_| CommitError::Closed)?;
        keys.into_iter().map(|key| self.committed(key, revision)).collect()
    }

    /// What a change that has come back from a remote engine did.
    fn committed(&self, key: Key, revision: u64) -> Result<Committed, CommitError> {
        let cell = self.core().cell(&key.resource);
        let state = cell.state.read();
        let mut events = state.ring.since(revision - 1).take_while(|event| event.revision == revision);
        if let Some(event) = events.find(|event| event.object.key == key) {
            let (object, previous) = (Arc::clone(&event.object), event.previous.clone());
            return Ok(Committed { object, previous, revision });
        }
        // History has been dropped meanwhile, as after a long time without etcd.
        let object = state.table.get(&key.namespace, &key.name).cloned();
        let object = object.ok_or(CommitError::NotFound(key))?;
        Ok(Committed { object, previous: None, revision })
    }

    /// The current version of an object.
    pub fn get(&self, key: &Key) -> Option<Arc<Object>> {
        let cell = self.core().cell(&key.resource);
        let state = cell.state.read();
        state.table.get(&key.namespace, &key.name).cloned()
    }

    /// The current revision: every change up to it can be read.
    pub fn revision(&self) -> u64 {
        self.core().published()
    }

    /// Waits until every change up to `revision` can be read.
    pub async fn wait_for(&self, revision: u64) -> Result<(), HistoryError> {
        loop {
            let advanced = self.core().advanced.notified();
            tokio::pin!(advanced);
            advanced.as_mut().enable();
            if self.core().published() >= revision {
                return Ok(());
            }
            if self.core().is_closed() {
                return Err(HistoryError::Closed);
            }
            advanced.await;
        }
    }

    /// Whether other servers write to the same store, so that memory may be behind: see [`Store::latest`].
    pub fn is_shared(&self) -> bool {
        matches!(self.inner.mode, Mode::Remote(..))
    }

    /// Waits until memory is as fresh as any write acknowledged by any server before this call, and
    /// returns the revision reached: what a consistent read needs first.
    pub async fn latest(&self) -> Result<u64, CommitError> {
        let Mode::Remote(_, remote) = &self.inner.mode else { return Ok(self.revision()) };
        let revision = remote.latest().await.map_err(Arc::new)?;
        let closed = |_| CommitError::Closed;
        let wait = self.core().options.clock.timeout(TOUCH_AFTER, self.wait_for(revision)).await;
        if let Some(reached) = wait {
            reached.map_err(closed)?;
            return Ok(revision);
        }
        // The newest change may be one that this store is not told of.
        let touched = remote.touch().await.map_err(Arc::new)?;
        self.wait_for(touched).await.map_err(closed)?;
        Ok(touched)
    }

    /// Whether the store takes and gives: not closed, and, where it is elsewhere, answered by a member now.
    pub async fn check(&self) -> Result<(), CommitError> {
        if self.core().is_closed() {
            return Err(CommitError::Closed);
        }
        self.latest().await.map(drop)
    }

    /// The current state of a resource.
    pub fn snapshot(&self, resource: &str) -> Snapshot {
        let cell = self.core().cell(resource);
        let published = self.core().published();
        let table = cell.state.read().table.clone();
        snapshot(&cell, table, published)
    }

    /// The state of a resource at a past revision, for the next page of a list.
    pub fn snapshot_at(&self, resource: &str, revision: u64) -> Result<Snapshot, HistoryError> {
        let cell = self.core().cell(resource);
        let now_ms = self.core().now_ms();
        let published = self.core().published();
        let (mut table, undo, floor) = {
            let state = cell.state.read();
            let table = state.table.clone();
            let current = published.max(table.changed);
            if revision > current {
                return Err(HistoryError::Future { requested: revision, current });
            }
            // What is older than history may be has gone, whether or not something changed since: a list
            // must end some time.
            let age_ms = i64::try_from(self.core().options.history.age.as_millis()).unwrap_or(i64::MAX);
            let oldest = self.core().marks.lock().reached(now_ms.saturating_sub(age_ms));
            if revision < oldest {
                return Err(HistoryError::Compacted { requested: revision, oldest });
            }
            if revision >= table.changed {
                return Ok(Snapshot { resource: Arc::clone(&cell.resource), revision, table });
            }
            let floor = state.ring.floor;
            let undo: Vec<Arc<Event>> =
                if revision < floor { Vec::new() } else { state.ring.since(revision).cloned().collect() };
            (table, undo, floor)
        };
        if let Some(kept) = cell.kept(now_ms, revision) {
            return Ok(kept);
        }
        if revision < floor {
            return Err(HistoryError::Compacted { requested: revision, oldest: floor });
        }
        for event in undo.iter().rev() {
            table.undo(event);
        }
        table.changed = revision;
        let snapshot = Snapshot { resource: Arc::clone(&cell.resource), revision, table };
        cell.keep(now_ms, &snapshot);
        Ok(snapshot)
    }

    /// Keeps a snapshot for [`Store::snapshot_at`] beyond what history covers, until it is too old:
    /// to be called when a list hands out its first continue token.
    pub fn keep(&self, snapshot: &Snapshot) {
        let cell = self.core().cell(&snapshot.resource);
        cell.keep(self.core().now_ms(), snapshot);
    }

    /// Watches a resource. `Compacted` if history does not reach back far enough.
    pub fn watch(&self, resource: &str, interest: Interest, from: WatchFrom) -> Result<Watch, HistoryError> {
        let cell = self.core().cell(resource);
        let published = self.core().published();
        let mut state = cell.state.write();
        let current = published.max(state.table.changed);
        let after = match from {
            WatchFrom::Now => current,
            WatchFrom::Revision(requested) if requested > current => {
                return Err(HistoryError::Future { requested, current });
            }
            WatchFrom::Revision(requested) if requested < state.ring.floor => {
                return Err(HistoryError::Compacted { requested, oldest: state.ring.floor });
            }
            WatchFrom::Revision(requested) => requested,
        };
        if self.core().is_closed() {
            return Err(HistoryError::Closed);
        }
        let core = Arc::clone(self.core());
        Ok(Watch::start(core, Arc::clone(&cell), &mut state, interest, after))
    }

    /// The current state of a resource and a watch of everything after it, with nothing between.
    pub fn snapshot_then_watch(&self, resource: &str, interest: Interest) -> (Snapshot, Watch) {
        let cell = self.core().cell(resource);
        let published = self.core().published();
        let mut state = cell.state.write();
        let snapshot = snapshot(&cell, state.table.clone(), published);
        let core = Arc::clone(self.core());
        let after = snapshot.revision;
        let watch = Watch::start(core, Arc::clone(&cell), &mut state, interest, after);
        (snapshot, watch)
    }

    /// Deletes the objects of a resource that nobody has written for `age`; how many. Ages are known
    /// to a minute, never too long; a day at most. To be called now and then.
    pub async fn expire(&self, resource: &str, age: Duration) -> Result<usize, CommitError> {
        let age_ms = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        let limit = self.core().marks.lock().reached(self.core().now_ms().saturating_sub(age_ms));
        let snapshot = self.snapshot(resource);
        let mut expired = 0;
        for object in snapshot.range(None, None).filter(|object| object.revision <= limit) {
            let write = Write::delete(object.key.clone(), Expect::Revision(object.revision));
            match self.commit(write).await {
                Ok(_) => expired += 1,
                // Somebody wrote or deleted it just now.
                Err(CommitError::Conflict(_) | CommitError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(expired)
    }

    /// Adds an index to a resource; does nothing if it is there.
    pub async fn index(&self, resource: &str, index: Index) -> Result<(), CommitError> {
        if self.core().cell(resource).state.read().table.has_index(&index) {
            return Ok(());
        }
        let resource = Arc::from(resource);
        self.ask(|reply| Command::Index { resource, index, reply }).await
    }

    /// Drops history up to `revision`: older watches and continue tokens then get `Compacted`.
    pub async fn compact(&self, revision: u64) -> Result<(), CommitError> {
        self.ask(|reply| Command::Compact { revision, reply }).await
    }

    /// All resources at one revision.
    pub async fn snapshot_all(&self) -> Result<(u64, Vec<Snapshot>), CommitError> {
        self.ask(|reply| Command::Snapshots { reply }).await
    }

    /// Writes all objects of one revision to one file, while reads and writes go on. The file is on
    /// disk when this returns; [`crate::restore`] makes a store of it.
    pub async fn backup(&self, path: &Path) -> Result<BackupSummary, CommitError> {
        let path = path.to_path_buf();
        self.backup_with(move |revision, objects| write_backup(&path, revision, objects)).await
    }

    /// Writes the same to `out`, in a thread of its own. What comes out must arrive whole: its end
    /// tells that it did.
    pub async fn backup_into(
        &self,
        out: impl io::Write + Send + 'static,
    ) -> Result<BackupSummary, CommitError> {
        let name = Path::new("a backup");
        self.backup_with(move |revision, objects| write_objects(out, name, revision, objects)).await
    }

    async fn backup_with<W>(&self, write: W) -> Result<BackupSummary, CommitError>
    where
        W: FnOnce(u64, Objects<'_>) -> Result<BackupSummary, EngineError> + Send + 'static,
    {
        self.latest().await?;
        let (revision, snapshots) = self.snapshot_all().await?;
        let version = self.core().options.indexer.version();
        let seal = self.core().options.seal.clone();
        let (done, wait) = oneshot::channel();
        std::thread::Builder::new()
            .name("store-backup".into())
            .spawn(move || {
                let objects = snapshots.iter().flat_map(|snapshot| snapshot.range(None, None));
                // What is sealed on disk is sealed in a backup, too.
                let kept = |object: &Arc<Object>| match &seal {
                    Some(seal) => sealed(&**seal, object, version),
                    None => (Arc::clone(object), version),
                };
                let objects = Box::new(objects.map(kept));
                let _ = done.send(write(revision, objects));
            })
            .map_err(|source| Arc::new(EngineError::Thread(source)))?;
        let summary = wait.await.map_err(|_| CommitError::Closed)?;
        summary.map_err(|error| CommitError::Engine(Arc::new(error)))
    }

    /// Names of the resources that have been used.
    pub fn resources(&self) -> Vec<Arc<str>> {
        self.core().cells().iter().map(|cell| Arc::clone(&cell.resource)).collect()
    }

    /// Sizes, for metrics.
    pub fn stats(&self) -> Stats {
        let core = self.core();
        let mut stats = Stats {
            revision: core.published(),
            history_events: core.history_events.load(Ordering::Relaxed),
            history_bytes: core.history_bytes.load(Ordering::Relaxed),
            disk_bytes: core.disk_bytes.load(Ordering::Relaxed),
            ..Stats::default()
        };
        for cell in core.cells() {
            let state = cell.state.read();
            stats.watches += state.waiters.len();
            let resource = Arc::clone(&cell.resource);
            stats.resources.push((resource, state.table.len(), state.table.bytes));
        }
        stats
    }

    /// Finishes the writes handed over, releases the engine and ends all watches.
    pub async fn close(&self) {
        if let Mode::Remote(_, remote) = &self.inner.mode {
            remote.stop();
        }
        // An error means that it is closed already.
        let _ = self.ask(|reply| Command::Close { reply }).await;
    }
}

/// Objects for a backup, each with the version of the indexer that made its attributes.
type Objects<'a> = Box<dyn Iterator<Item = (Arc<Object>, u32)> + 'a>;

fn snapshot(cell: &Cell, table: Table, published: u64) -> Snapshot {
    // The table may be ahead of what had been published when that was read; it is never behind.
    let revision = published.max(table.changed);
    Snapshot { resource: Arc::clone(&cell.resource), revision, table }
}
