//! History of one resource as a ring of shared events, and watchers that read it by cursor. A
//! watcher is only woken for events it may care about; events are never copied per watcher. Must
//! not know selectors: finer filtering is the caller's.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use crate::store::{Cell, Core};
use crate::{Event, HistoryError};

/// Which events a watch wants. Anything finer, the caller filters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Interest {
    /// Every event of the resource.
    All,
    /// Events in one namespace.
    Namespace(Arc<str>),
    /// Events of one object.
    Object(Arc<str>, Arc<str>),
    /// Events whose new or old version has this value in this selectable field.
    Field(Arc<str>, Arc<str>),
}

impl Interest {
    /// True if the watch wants this event.
    pub fn wants(&self, event: &Event) -> bool {
        let key = &event.object.key;
        match self {
            Interest::All => true,
            Interest::Namespace(namespace) => key.namespace == *namespace,
            Interest::Object(namespace, name) => key.namespace == *namespace && key.name == *name,
            Interest::Field(path, value) => {
                let has = |attrs: &crate::Attrs| attrs.field(path) == Some(value);
                has(&event.object.attrs)
                    || event.previous.as_ref().is_some_and(|previous| has(&previous.attrs))
            }
        }
    }
}

/// Where a watch starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchFrom {
    /// With the next event.
    Now,
    /// With the first event after this revision.
    Revision(u64),
}

/// The recent events of one resource, numbered from the first ever.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    events: VecDeque<Arc<Event>>,
    /// Number of the first event in `events`.
    first: u64,
    /// Watches can start from this revision on: no event after it has been dropped.
    pub(crate) floor: u64,
}

impl Ring {
    /// A ring that has lost nothing after `floor`.
    pub(crate) fn starting_at(floor: u64) -> Self {
        Self { floor, ..Self::default() }
    }

    pub(crate) fn end(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    pub(crate) fn push(&mut self, event: Arc<Event>) -> u64 {
        let number = self.end();
        self.events.push_back(event);
        number
    }

    /// Drops the oldest event and hands it over to be freed outside of any lock.
    pub(crate) fn drop_first(&mut self) -> Option<Arc<Event>> {
        let event = self.events.pop_front()?;
        self.first += 1;
        self.floor = self.floor.max(event.revision);
        if self.events.capacity() > 1024 && self.events.len() * 4 < self.events.capacity() {
            self.events.shrink_to(self.events.len() * 2);
        }
        Some(event)
    }

    /// Forgets everything; a watch that is told of the number returned finds that it has lagged.
    pub(crate) fn reset(&mut self, floor: u64) -> u64 {
        let lost = self.end();
        self.events.clear();
        self.first = lost + 1;
        self.floor = floor;
        lost
    }

    /// Number of the first event after `revision`.
    fn after(&self, revision: u64) -> u64 {
        self.first + self.events.partition_point(|event| event.revision <= revision) as u64
    }

    /// Events after `revision`, oldest first.
    pub(crate) fn since(&self, revision: u64) -> impl DoubleEndedIterator<Item = &Arc<Event>> {
        self.events.range((self.after(revision) - self.first) as usize..)
    }

    fn from(&self, number: u64) -> impl Iterator<Item = &Arc<Event>> {
        self.events.range((number - self.first) as usize..)
    }
}

const NOTHING: u64 = u64::MAX;

/// One watcher as the publisher sees it.
#[derive(Debug)]
struct Waiter {
    interest: Interest,
    /// Number of the first event it wants and has not read, or `NOTHING`. Written by the publisher
    /// under the cell's write lock, by the watcher under its read lock.
    pending: AtomicU64,
    waker: Mutex<Option<Waker>>,
}

impl Waiter {
    fn mark(&self, number: u64, wake: &mut Vec<Waker>) {
        if self.pending.load(Ordering::Relaxed) != NOTHING {
            return;
        }
        self.pending.store(number, Ordering::Relaxed);
        if let Some(waker) = self.waker.lock().take() {
            wake.push(waker);
        }
    }
}

/// The watchers of one resource, found by what they want.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    all: Vec<Arc<Waiter>>,
    // Ordered maps: the order of waking must be the same in every run of a simulation.
    keyed: BTreeMap<Interest, Vec<Arc<Waiter>>>,
    /// Number of watchers that want one namespace, one object, one field value.
    kinds: [usize; 2],
    /// Field paths that some watcher names, with how many do.
    fields: BTreeMap<Arc<str>, usize>,
    /// Number of all watchers.
    count: usize,
}

const NAMESPACE: usize = 0;
const OBJECT: usize = 1;

impl Waiters {
    fn add(&mut self, waiter: Arc<Waiter>) {
        self.count += 1;
        match &waiter.interest {
            Interest::All => {
                self.all.push(waiter);
                return;
            }
            Interest::Namespace(_) => self.kinds[NAMESPACE] += 1,
            Interest::Object(..) => self.kinds[OBJECT] += 1,
            Interest::Field(path, _) => *self.fields.entry(Arc::clone(path)).or_default() += 1,
        }
        self.keyed.entry(waiter.interest.clone()).or_default().push(waiter);
    }

    fn remove(&mut self, waiter: &Arc<Waiter>) {
        self.count -= 1;
        let without = |list: &mut Vec<Arc<Waiter>>| {
            if let Some(at) = list.iter().position(|other| Arc::ptr_eq(other, waiter)) {
                list.swap_remove(at);
            }
        };
        match &waiter.interest {
            Interest::All => return without(&mut self.all),
            Interest::Namespace(_) => self.kinds[NAMESPACE] -= 1,
            Interest::Object(..) => self.kinds[OBJECT] -= 1,
            Interest::Field(path, _) => {
                if let Some(count) = self.fields.get_mut(path) {
                    *count -= 1;
                    if *count == 0 {
                        self.fields.remove(path);
                    }
                }
            }
        }
        if let Some(list) = self.keyed.get_mut(&waiter.interest) {
            without(list);
            if list.is_empty() {
                self.keyed.remove(&waiter.interest);
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Tells every watcher that wants the event with this number.
    pub(crate) fn mark(&self, number: u64, event: &Event, wake: &mut Vec<Waker>) {
        for waiter in &self.all {
            waiter.mark(number, wake);
        }
        if self.keyed.is_empty() {
            return;
        }
        let mut tell = |interest: Interest| {
            for waiter in self.keyed.get(&interest).into_iter().flatten() {
                waiter.mark(number, wake);
            }
        };
        let key = &event.object.key;
        if self.kinds[NAMESPACE] > 0 {
            tell(Interest::Namespace(Arc::clone(&key.namespace)));
        }
        if self.kinds[OBJECT] > 0 {
            tell(Interest::Object(Arc::clone(&key.namespace), Arc::clone(&key.name)));
        }
        for path in self.fields.keys() {
            let now = event.object.attrs.field(path);
            let before = event.previous.as_ref().and_then(|previous| previous.attrs.field(path));
            if let Some(value) = now {
                tell(Interest::Field(Arc::clone(path), Arc::clone(value)));
            }
            if let Some(value) = before.filter(|value| Some(*value) != now) {
                tell(Interest::Field(Arc::clone(path), Arc::clone(value)));
            }
        }
    }

    /// Tells every watcher of `number`, whatever it wants.
    pub(crate) fn mark_all(&self, number: u64, wake: &mut Vec<Waker>) {
        for waiter in self.all.iter().chain(self.keyed.values().flatten()) {
            waiter.mark(number, wake);
        }
    }

    /// Wakes everybody, as when the store closes.
    pub(crate) fn wakers(&self, wake: &mut Vec<Waker>) {
        for waiter in self.all.iter().chain(self.keyed.values().flatten()) {
            wake.extend(waiter.waker.lock().take());
        }
    }
}

/// Events that one call hands out at most: it bounds the time a reader holds the ring.
const BATCH_MAX: usize = 256;
/// Events that one call looks at at most.
const SCAN_MAX: usize = 8192;

/// A watch on one resource: the events its interest names, in revision order, each once.
///
/// Dropping it ends it. A watcher slower than history gets [`HistoryError::Lagged`].
#[derive(Debug)]
pub struct Watch {
    core: Arc<Core>,
    cell: Arc<Cell>,
    waiter: Arc<Waiter>,
    /// Read but not yet handed out by `next`.
    ready: VecDeque<Arc<Event>>,
    batch: Vec<Arc<Event>>,
    /// Revision up to which everything has been handed out.
    seen: u64,
    /// Events up to this revision are not handed out.
    after: u64,
    /// Number of watches on the resource when events were last read.
    company: usize,
}

impl Watch {
    /// Starts a watch; the caller holds the cell's lock, so that nothing falls between a snapshot
    /// and the watch that follows it.
    pub(crate) fn start(
        core: Arc<Core>,
        cell: Arc<Cell>,
        state: &mut crate::store::CellState,
        interest: Interest,
        after: u64,
    ) -> Self {
        let number = state.ring.after(after);
        let pending = if number == state.ring.end() { NOTHING } else { number };
        let waiter = Arc::new(Waiter { interest, pending: AtomicU64::new(pending), waker: Mutex::new(None) });
        state.waiters.add(Arc::clone(&waiter));
        Self { core, cell, waiter, ready: VecDeque::new(), batch: Vec::new(), seen: after, after, company: 0 }
    }

    /// The next event. Cancelling the future loses nothing.
    pub async fn next(&mut self) -> Result<Arc<Event>, HistoryError> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The next event, for hand-written streams.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Arc<Event>, HistoryError>> {
        if let Some(event) = self.ready.pop_front() {
            return Poll::Ready(Ok(event));
        }
        let mut batch = std::mem::take(&mut self.batch);
        let polled = self.poll_batch(cx, &mut batch);
        self.ready.extend(batch.drain(..));
        self.batch = batch;
        match polled {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) => match self.ready.pop_front() {
                Some(event) => Poll::Ready(Ok(event)),
                None => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
            },
        }
    }

    /// Appends all events at hand to `out` (some hundreds at most), waiting for the first.
    pub async fn next_batch(&mut self, out: &mut Vec<Arc<Event>>) -> Result<(), HistoryError> {
        out.extend(self.ready.drain(..));
        let before = out.len();
        if before > 0 {
            return Ok(());
        }
        poll_fn(|cx| match self.poll_batch(cx, out) {
            Poll::Ready(Ok(())) if out.len() == before => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            other => other,
        })
        .await
    }

    fn poll_batch(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Vec<Arc<Event>>,
    ) -> Poll<Result<(), HistoryError>> {
        let state = self.cell.state.read();
        let start = self.waiter.pending.load(Ordering::Relaxed);
        if start == NOTHING {
            if self.core.is_closed() {
                return Poll::Ready(Err(HistoryError::Closed));
            }
            let mut waker = self.waiter.waker.lock();
            if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
            return Poll::Pending;
        }
        if start < state.ring.first {
            return Poll::Ready(Err(HistoryError::Lagged { oldest: state.ring.floor }));
        }
        let mut number = start;
        let mut taken = 0;
        for event in state.ring.from(start).take(SCAN_MAX) {
            number += 1;
            self.seen = self.seen.max(event.revision);
            if event.revision > self.after && self.waiter.interest.wants(event) {
                out.push(Arc::clone(event));
                taken += 1;
                if taken == BATCH_MAX {
                    break;
                }
            }
        }
        self.company = state.waiters.len();
        let rest = if number == state.ring.end() { NOTHING } else { number };
        self.waiter.pending.store(rest, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }

    /// How many watches the resource had when this one last read events, itself included.
    pub fn company(&self) -> usize {
        self.company
    }

    /// The current revision, if every event up to it has been handed out: what a bookmark may
    /// promise. `None` while events wait to be read.
    pub fn progress(&self) -> Option<u64> {
        if !self.ready.is_empty() {
            return None;
        }
        let state = self.cell.state.read();
        if self.waiter.pending.load(Ordering::Relaxed) != NOTHING {
            return None;
        }
        let reached = self.core.published().max(self.seen);
        drop(state);
        Some(reached)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.cell.state.write().waiters.remove(&self.waiter);
    }
}
