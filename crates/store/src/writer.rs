//! The one writer: takes writes in batches, checks their conditions against the newest state, gives
//! them revisions, has the journal make them durable, and only then shows them to readers and
//! watchers. Must not be reachable by two threads at once.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;

use tokio::sync::{mpsc, oneshot};

use crate::engine::{Change, Journal, Live, Loaded};
use crate::store::{Cell, CloseOnPanic, Core};
use crate::table::Table;
use crate::{
    Attrs, CommitError, Committed, EngineError, Event, EventKind, Expect, Index, Interner, Key, Object, Op,
    Seen, Snapshot, Write,
};

type CommitResult = Result<Vec<Committed>, CommitError>;

/// What can be asked of the writer.
pub(crate) enum Command {
    Write { writes: Vec<Write>, reply: oneshot::Sender<CommitResult> },
    Index { resource: Arc<str>, index: Index, reply: oneshot::Sender<()> },
    Snapshots { reply: oneshot::Sender<(u64, Vec<Snapshot>)> },
    Compact { revision: u64, reply: oneshot::Sender<()> },
    Close { reply: oneshot::Sender<()> },
}

/// A resource being changed by a batch: a private copy until the batch is durable.
struct Draft {
    cell: Arc<Cell>,
    table: Table,
    events: Vec<Arc<Event>>,
}

#[derive(Default)]
struct Batch {
    /// Bytes of the objects in `changes`, those of writes taken back included.
    bytes: usize,
    drafts: BTreeMap<Arc<str>, Draft>,
    changes: Vec<Change>,
    replies: Vec<(oneshot::Sender<CommitResult>, CommitResult)>,
}

/// An event in history, in commit order over all resources.
struct Remembered {
    cell: Arc<Cell>,
    weight: usize,
    time_ms: i64,
}

pub(crate) struct Writer {
    core: Arc<Core>,
    /// Absent once closed.
    journal: Option<Box<dyn Journal>>,
    interner: Interner,
    revision: u64,
    history: VecDeque<Remembered>,
    history_bytes: usize,
    /// Memory of all current objects, which is about what they take on disk.
    live_bytes: u64,
    indexer_version: u32,
}

impl Writer {
    /// Loads what the journal kept.
    pub(crate) fn load(core: Arc<Core>, mut journal: Box<dyn Journal>) -> Result<Self, EngineError> {
        let mut loader = Loader::new(&core);
        let mut interner = Interner::default();
        let end = journal.load(&mut interner, &mut |change| loader.apply(change))?;
        let (history, history_bytes) = loader.finish(end.complete_after);
        let indexer_version = core.options.indexer.version();
        core.set_published(end.revision);
        core.disk_bytes.store(journal.disk_bytes(), Ordering::Relaxed);
        let live_bytes = core.cells().iter().map(|cell| cell.state.read().table.bytes as u64).sum();
        let mut writer = Self {
            core,
            live_bytes,
            journal: Some(journal),
            interner,
            revision: end.revision,
            history,
            history_bytes,
            indexer_version,
        };
        writer.trim();
        Ok(writer)
    }

    /// Carries out commands in order; writes become durable together.
    pub(crate) fn run(&mut self, commands: Vec<Command>) {
        let mut batch = Batch::default();
        for command in commands {
            if let Command::Write { writes, reply } = command {
                let result = match self.journal {
                    Some(_) => self.stage(&mut batch, writes),
                    None => Err(CommitError::Closed),
                };
                batch.replies.push((reply, result));
                if batch.bytes >= BATCH_BYTES {
                    self.finish(std::mem::take(&mut batch));
                }
                continue;
            }
            // Other commands see what was written before them.
            self.finish(std::mem::take(&mut batch));
            self.control(command);
        }
        self.finish(batch);
    }

    fn control(&mut self, command: Command) {
        match command {
            Command::Write { .. } => unreachable!("run takes the writes"),
            Command::Index { resource, index, reply } => {
                let cell = self.core.cell(&resource);
                let mut table = cell.state.read().table.clone();
                table.add_index(index);
                let _old = std::mem::replace(&mut cell.state.write().table, table);
                let _ = reply.send(());
            }
            Command::Snapshots { reply } => {
                let revision = self.core.published();
                let one = |cell: Arc<Cell>| Snapshot {
                    resource: Arc::clone(&cell.resource),
                    revision,
                    table: cell.state.read().table.clone(),
                };
                let all = self.core.cells().into_iter().map(one).collect();
                let _ = reply.send((revision, all));
            }
            Command::Compact { revision, reply } => {
                self.compact(revision);
                let _ = reply.send(());
            }
            Command::Close { reply } => {
                self.journal = None;
                self.core.close();
                let _ = reply.send(());
            }
        }
    }

    /// Stages several writes, all or none.
    fn stage(&mut self, batch: &mut Batch, writes: Vec<Write>) -> CommitResult {
        let mut done = Vec::with_capacity(writes.len());
        let before = (writes.len() > 1).then(|| batch.mark());
        let revision = self.revision;
        for write in writes {
            match self.stage_one(batch, write) {
                Ok(committed) => done.push(committed),
                Err(error) => {
                    if let Some(before) = before {
                        batch.rewind(before);
                        self.revision = revision;
                    }
                    return Err(error);
                }
            }
        }
        Ok(done)
    }

    fn stage_one(&mut self, batch: &mut Batch, write: Write) -> Result<Committed, CommitError> {
        let Write { mut key, expect, op } = write;
        self.interner.key(&mut key);
        let current = draft(&mut batch.drafts, &self.core, &key.resource);
        let current = current.table.get(&key.namespace, &key.name);
        check(&key, expect, matches!(op, Op::Delete), current)?;
        self.revision += 1;
        let revision = self.revision;
        let done = match op {
            Op::Put(text, attrs) => self.put(batch, key, revision, &text, attrs),
            Op::Delete => self.delete(batch, key, revision).expect("checked: it is there"),
        };
        batch.changes.push(match &done {
            (EventKind::Deleted, done) => Change::Delete { key: done.object.key.clone(), revision },
            (kind, done) => {
                batch.bytes += done.object.json.len();
                let created = *kind == EventKind::Added;
                Change::Put { object: Arc::clone(&done.object), created }
            }
        });
        Ok(done.1)
    }

    /// Puts a version into a batch's copy of its table.
    fn put(
        &mut self,
        batch: &mut Batch,
        mut key: Key,
        revision: u64,
        text: &crate::Draft,
        mut attrs: Attrs,
    ) -> (EventKind, Committed) {
        let draft = draft(&mut batch.drafts, &self.core, &key.resource);
        let previous = draft.table.get(&key.namespace, &key.name).cloned();
        if let Some(previous) = &previous {
            key = previous.key.clone();
        }
        attrs.sort();
        self.interner.attrs(&key, &mut attrs);
        let object = Arc::new(Object::new(key, revision, text, attrs));
        draft.table.put(Arc::clone(&object));
        let kind = if previous.is_some() { EventKind::Modified } else { EventKind::Added };
        draft.events.push(Arc::new(Event::new(kind, Arc::clone(&object), previous.clone())));
        (kind, Committed { object, previous, revision })
    }

    /// Takes an object out of a batch's copy of its table, if it is there.
    fn delete(&mut self, batch: &mut Batch, key: Key, revision: u64) -> Option<(EventKind, Committed)> {
        let draft = draft(&mut batch.drafts, &self.core, &key.resource);
        let previous = draft.table.remove(&key.namespace, &key.name, revision)?;
        let object = Arc::new(previous.deleted_at(revision));
        let kind = EventKind::Deleted;
        draft.events.push(Arc::new(Event::new(kind, Arc::clone(&object), Some(Arc::clone(&previous)))));
        Some((kind, Committed { object, previous: Some(previous), revision }))
    }

    /// Takes changes that a remote engine has decided on.
    pub(crate) fn observe(&mut self, changes: Vec<Seen>, reached: u64) {
        if self.journal.is_none() {
            return;
        }
        let mut batch = Batch::default();
        let known = self.revision;
        for change in changes.into_iter().filter(|change| change.revision() > known) {
            self.take(&mut batch, change);
        }
        self.revision = known.max(reached);
        self.publish(batch.drafts, self.core.now_ms());
        self.trim();
    }

    fn take(&mut self, batch: &mut Batch, change: Seen) {
        match change {
            Seen::Put { mut key, revision, draft, mut attrs, indexer_version } => {
                self.interner.key(&mut key);
                if indexer_version != self.indexer_version {
                    attrs = self.core.options.indexer.attrs(&key, &draft.render(revision));
                }
                self.put(batch, key, revision, &draft, attrs);
            }
            Seen::Delete { mut key, revision } => {
                self.interner.key(&mut key);
                self.delete(batch, key, revision);
            }
        }
    }

    /// Takes a whole state that a remote engine has read, instead of what there was.
    pub(crate) fn replace(&mut self, objects: Vec<Seen>, revision: u64) {
        let mut batch = Batch::default();
        for cell in self.core.cells() {
            let table = cell.state.read().table.cleared();
            batch.drafts.insert(Arc::clone(&cell.resource), Draft { cell, table, events: Vec::new() });
        }
        objects.into_iter().for_each(|object| self.take(&mut batch, object));
        self.history.clear();
        self.history_bytes = 0;
        self.core.floor.store(revision, Ordering::Release);
        let mut wake = Vec::new();
        self.live_bytes = 0;
        for Draft { cell, table, .. } in batch.drafts.into_values() {
            self.live_bytes += table.bytes as u64;
            let mut state = cell.state.write();
            state.table = table;
            let lost = state.ring.reset(revision);
            state.waiters.mark_all(lost, &mut wake);
        }
        self.revision = self.revision.max(revision);
        self.core.set_published(self.revision);
        wake.into_iter().for_each(Waker::wake);
        self.trim();
    }

    /// Makes a batch durable, shows it, and answers.
    fn finish(&mut self, batch: Batch) {
        let Batch { drafts, changes, mut replies, .. } = batch;
        if !changes.is_empty() {
            let time_ms = self.core.now_ms();
            let journal = self.journal.as_mut().expect("writes are staged only while open");
            match journal.append(&changes, self.indexer_version, time_ms) {
                Ok(()) => self.publish(drafts, time_ms),
                Err(error) => {
                    tracing::error!(%error, writes = changes.len(), "store: commit failed");
                    let error = Arc::new(error);
                    for (_, result) in &mut replies {
                        *result = Err(CommitError::Engine(Arc::clone(&error)));
                    }
                }
            }
        }
        for (reply, result) in replies {
            let _ = reply.send(result);
        }
        if !changes.is_empty() {
            self.trim();
        }
    }

    fn publish(&mut self, drafts: BTreeMap<Arc<str>, Draft>, time_ms: i64) {
        let mut wake: Vec<Waker> = Vec::new();
        let mut replaced = Vec::with_capacity(drafts.len());
        for Draft { cell, table, events } in drafts.into_values() {
            if events.is_empty() {
                continue;
            }
            for event in &events {
                let weight = event.weight();
                self.history_bytes += weight;
                self.history.push_back(Remembered { cell: Arc::clone(&cell), weight, time_ms });
            }
            let mut state = cell.state.write();
            self.live_bytes += table.bytes as u64;
            self.live_bytes -= state.table.bytes as u64;
            replaced.push(std::mem::replace(&mut state.table, table));
            for event in events {
                let number = state.ring.push(Arc::clone(&event));
                state.waiters.mark(number, &event, &mut wake);
            }
        }
        self.core.set_published(self.revision);
        self.core.marks.lock().note(time_ms, self.revision);
        wake.into_iter().for_each(Waker::wake);
    }

    /// Drops history beyond its bounds, oldest first over all resources.
    fn trim(&mut self) {
        let core = Arc::clone(&self.core);
        let limits = core.options.history;
        let room = limits.room(self.live_bytes);
        let now_ms = core.now_ms();
        let age_ms = core.age_ms();
        while let Some(oldest) = self.history.front() {
            let over = self.history_bytes > room || self.history.len() > limits.events;
            if !over && now_ms.saturating_sub(oldest.time_ms) <= age_ms {
                break;
            }
            self.drop_oldest(now_ms, age_ms);
        }
        if self.history.capacity() > 4096 && self.history.len() * 4 < self.history.capacity() {
            self.history.shrink_to(self.history.len() * 2);
        }
        core.history_events.store(self.history.len(), Ordering::Relaxed);
        core.history_bytes.store(self.history_bytes, Ordering::Relaxed);
        let disk = self.journal.as_ref().map_or(0, |journal| journal.disk_bytes());
        core.disk_bytes.store(disk, Ordering::Relaxed);
    }

    fn drop_oldest(&mut self, now_ms: i64, age_ms: i64) {
        if let Some(Remembered { cell, weight, .. }) = self.history.pop_front() {
            self.history_bytes -= weight;
            let dropped = cell.state.write().ring.drop_first();
            cell.expire(now_ms, age_ms);
            drop(dropped);
        }
    }

    fn compact(&mut self, revision: u64) {
        let revision = revision.min(self.core.published());
        let now_ms = self.core.now_ms();
        let age_ms = self.core.age_ms();
        while let Some(oldest) = self.history.front() {
            let first = oldest.cell.state.read().ring.since(0).next().map(|event| event.revision);
            if first.is_none_or(|first| first > revision) {
                break;
            }
            self.drop_oldest(now_ms, age_ms);
        }
        self.core.floor.fetch_max(revision, Ordering::AcqRel);
        for cell in self.core.cells() {
            let mut state = cell.state.write();
            state.ring.floor = state.ring.floor.max(revision);
        }
        self.trim();
    }

    /// One step of housekeeping; true if there is more to do.
    pub(crate) fn tidy(&mut self) -> bool {
        let Some(journal) = self.journal.as_mut() else { return false };
        let core = &self.core;
        let current = |key: &Key| {
            let cell = core.cell(&key.resource);
            let state = cell.state.read();
            state.table.get(&key.namespace, &key.name).cloned()
        };
        let live = Live { bytes: self.live_bytes, current: &current };
        match journal.tidy(&live, core.now_ms()) {
            Ok(more) => more,
            Err(error) => {
                tracing::warn!(%error, "store: housekeeping failed, will be tried again");
                false
            }
        }
    }
}

/// Whether what is there is what a write expects.
pub(crate) fn check(
    key: &Key,
    expect: Expect,
    delete: bool,
    current: Option<&Arc<Object>>,
) -> Result<(), CommitError> {
    match (expect, current) {
        (Expect::Absent, Some(current)) => Err(CommitError::Exists(Arc::clone(current))),
        (Expect::Revision(_), None) => Err(CommitError::NotFound(key.clone())),
        (Expect::Revision(revision), Some(current)) if current.revision != revision => {
            Err(CommitError::Conflict(Arc::clone(current)))
        }
        (_, None) if delete => Err(CommitError::NotFound(key.clone())),
        _ => Ok(()),
    }
}

/// How far a batch had got, to return to.
struct Mark {
    tables: BTreeMap<Arc<str>, (Table, usize)>,
    changes: usize,
}

/// The working copy of a resource in a batch.
fn draft<'a>(drafts: &'a mut BTreeMap<Arc<str>, Draft>, core: &Core, resource: &Arc<str>) -> &'a mut Draft {
    drafts.entry(Arc::clone(resource)).or_insert_with(|| {
        let cell = core.cell(resource);
        let table = cell.state.read().table.clone();
        Draft { cell, table, events: Vec::new() }
    })
}

impl Batch {
    fn mark(&self) -> Mark {
        let table = |(resource, draft): (&Arc<str>, &Draft)| {
            (Arc::clone(resource), (draft.table.clone(), draft.events.len()))
        };
        Mark { tables: self.drafts.iter().map(table).collect(), changes: self.changes.len() }
    }

    fn rewind(&mut self, mark: Mark) {
        self.changes.truncate(mark.changes);
        self.drafts.retain(|resource, _| mark.tables.contains_key(resource));
        for (resource, (table, events)) in mark.tables {
            if let Some(draft) = self.drafts.get_mut(&resource) {
                draft.table = table;
                draft.events.truncate(events);
            }
        }
    }
}

/// Rebuilds state and history from a journal.
struct Loader<'a> {
    core: &'a Core,
    indexer_version: u32,
    interner: Interner,
    tables: BTreeMap<Arc<str>, (Arc<Cell>, Table)>,
    history: VecDeque<(Arc<Cell>, Arc<Event>, i64)>,
    history_bytes: usize,
    /// History up to here has gaps.
    floor: u64,
}

impl<'a> Loader<'a> {
    fn new(core: &'a Core) -> Self {
        Self {
            core,
            indexer_version: core.options.indexer.version(),
            interner: Interner::default(),
            tables: BTreeMap::new(),
            history: VecDeque::new(),
            history_bytes: 0,
            floor: 0,
        }
    }

    fn table(&mut self, resource: &Arc<str>) -> &mut (Arc<Cell>, Table) {
        self.tables.entry(Arc::clone(resource)).or_insert_with(|| {
            let cell = self.core.cell(resource);
            let table = cell.state.read().table.clone();
            (cell, table)
        })
    }

    fn apply(&mut self, change: Loaded) {
        match change {
            Loaded::Put { mut object, indexer_version, created, moved, time_ms } => {
                if indexer_version != self.indexer_version {
                    let mut attrs = self.core.options.indexer.attrs(&object.key, &object.json);
                    attrs.sort();
                    self.interner.attrs(&object.key, &mut attrs);
                    object.attrs = attrs;
                }
                let object = Arc::new(object);
                let (cell, table) = self.table(&object.key.resource);
                let cell = Arc::clone(cell);
                let previous = table.put(Arc::clone(&object));
                if moved {
                    return;
                }
                self.core.marks.lock().note(time_ms, object.revision);
                if !created && previous.is_none() {
                    self.floor = self.floor.max(object.revision);
                }
                let kind = if created { EventKind::Added } else { EventKind::Modified };
                self.remember(cell, Event::new(kind, object, previous), time_ms);
            }
            Loaded::Delete { key, revision, time_ms } => {
                let (cell, table) = self.table(&key.resource);
                let cell = Arc::clone(cell);
                let Some(previous) = table.remove(&key.namespace, &key.name, revision) else {
                    table.changed = table.changed.max(revision);
                    self.floor = self.floor.max(revision);
                    return;
                };
                let object = Arc::new(previous.deleted_at(revision));
                let event = Event::new(EventKind::Deleted, object, Some(previous));
                self.remember(cell, event, time_ms);
            }
        }
    }

    fn remember(&mut self, cell: Arc<Cell>, event: Event, time_ms: i64) {
        self.history_bytes += event.weight();
        self.history.push_back((cell, Arc::new(event), time_ms));
        let limits = &self.core.options.history;
        while self.history_bytes > limits.bytes || self.history.len() > limits.events {
            let Some((_, event, _)) = self.history.pop_front() else { break };
            self.history_bytes -= event.weight();
            self.floor = self.floor.max(event.revision);
        }
    }

    fn finish(self, complete_after: u64) -> (VecDeque<Remembered>, usize) {
        let floor = self.floor.max(complete_after);
        self.core.floor.store(floor, Ordering::Release);
        for (cell, table) in self.tables.into_values() {
            let mut state = cell.state.write();
            state.table = table;
            state.ring.floor = floor;
        }
        let mut history = VecDeque::new();
        let mut bytes = 0;
        for (cell, event, time_ms) in self.history {
            if event.revision <= floor {
                continue;
            }
            let weight = event.weight();
            bytes += weight;
            cell.state.write().ring.push(event);
            history.push_back(Remembered { cell, weight, time_ms });
        }
        (history, bytes)
    }
}

/// Commands taken off the queue at once.
const BATCH_MAX: usize = 1024;
/// Bytes after which a batch is written even if more commands are at hand.
const BATCH_BYTES: usize = 4 << 20;

/// The writer thread: loads, then serves commands until the store is closed or forgotten.
pub(crate) fn run_writer(
    core: Arc<Core>,
    journal: Box<dyn Journal>,
    mut queue: mpsc::Receiver<Command>,
    loaded: oneshot::Sender<Result<(), EngineError>>,
) {
    let mut writer = match Writer::load(Arc::clone(&core), journal) {
        Ok(writer) => writer,
        Err(error) => {
            let _ = loaded.send(Err(error));
            return;
        }
    };
    let _ = loaded.send(Ok(()));
    let _guard = CloseOnPanic(Arc::clone(&core));
    let mut more = true;
    while writer.journal.is_some() {
        let mut commands = Vec::new();
        if more {
            while commands.len() < BATCH_MAX
                && let Ok(command) = queue.try_recv()
            {
                commands.push(command);
            }
        } else if queue.blocking_recv_many(&mut commands, BATCH_MAX) == 0 {
            break;
        }
        writer.run(commands);
        more = writer.tidy();
    }
    core.close();
    drop(writer);
    queue.close();
    // Callers still waiting see their reply dropped, which reads as "closed".
}
