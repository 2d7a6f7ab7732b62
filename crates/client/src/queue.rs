//! A queue of keys to look at: each at most once in it, none handed to two workers at a time, delays and
//! back-off a key.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use base::{Backoff, Clock};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// First and longest delay of a failing key. The longest is that of upstream's Jobs (its other controllers wait up to
/// 1,000 s): what a full quota held up goes on within a minute after there is room.
const BACKOFF: Backoff = Backoff::doubling(Duration::from_millis(5), Duration::from_secs(60));

struct State<T> {
    ready: VecDeque<T>,
    queued: BTreeSet<T>,
    active: BTreeSet<T>,
    /// Due time and key, soonest first; an entry counts only while `due` holds the same time.
    delayed: BinaryHeap<Reverse<(Duration, T)>>,
    due: BTreeMap<T, Duration>,
    failures: BTreeMap<T, Backoff>,
}

struct Inner<T> {
    state: Mutex<State<T>>,
    wake: Notify,
    clock: Clock,
    backoff: Backoff,
}

/// A work queue; cheap to clone, all clones are one. Bounded by the number of distinct keys.
pub struct Queue<T>(Arc<Inner<T>>);

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Queue(self.0.clone())
    }
}

impl<T: Ord + Clone> Queue<T> {
    /// An empty queue whose failing keys come again after 5 ms, doubling to a minute.
    pub fn new(clock: Clock) -> Self {
        Queue::with_backoff(clock, BACKOFF)
    }

    /// An empty queue; `backoff` delays failing keys.
    pub fn with_backoff(clock: Clock, backoff: Backoff) -> Self {
        let state = State {
            ready: VecDeque::new(),
            queued: BTreeSet::new(),
            active: BTreeSet::new(),
            delayed: BinaryHeap::new(),
            due: BTreeMap::new(),
            failures: BTreeMap::new(),
        };
        Queue(Arc::new(Inner { state: Mutex::new(state), wake: Notify::new(), clock, backoff }))
    }

    /// Adds a key now. A key that a worker holds comes again when the worker is done with it.
    pub fn add(&self, key: T) {
        let mut state = self.0.state.lock();
        if state.queued.insert(key.clone()) && !state.active.contains(&key) {
            state.ready.push_back(key);
            drop(state);
            self.0.wake.notify_one();
        }
    }

    /// Adds a key after `delay`; the soonest of several wishes counts.
    pub fn add_after(&self, key: T, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let due = self.0.clock.monotonic() + delay;
        let mut state = self.0.state.lock();
        if state.due.get(&key).is_some_and(|known| *known <= due) {
            return;
        }
        state.due.insert(key.clone(), due);
        state.delayed.push(Reverse((due, key)));
        drop(state);
        self.0.wake.notify_one();
    }

    /// Adds a key after its own back-off, which grows with each call until `forget`.
    pub fn add_failed(&self, key: T) {
        let delay = {
            let mut state = self.0.state.lock();
            let backoff = state.failures.entry(key.clone()).or_insert_with(|| self.0.backoff.clone());
            backoff.next_plain()
        };
        self.add_after(key, delay);
    }

    /// How often the key has failed since `forget`.
    pub fn failures(&self, key: &T) -> u32 {
        self.0.state.lock().failures.get(key).map_or(0, Backoff::tries)
    }

    /// Ends the key's back-off.
    pub fn forget(&self, key: &T) {
        self.0.state.lock().failures.remove(key);
    }

    /// The next key; the caller must hand it back with `done`.
    pub async fn next(&self) -> T {
        loop {
            let wait = {
                let now = self.0.clock.monotonic();
                let mut state = self.0.state.lock();
                state.move_due(now);
                if let Some(key) = state.ready.pop_front() {
                    state.queued.remove(&key);
                    state.active.insert(key.clone());
                    if !state.ready.is_empty() {
                        self.0.wake.notify_one();
                    }
                    return key;
                }
                state.delayed.peek().map(|Reverse((due, _))| due.saturating_sub(now))
            };
            match wait {
                None => self.0.wake.notified().await,
                Some(wait) => {
                    tokio::select! {
                        biased;
                        () = self.0.wake.notified() => {}
                        () = self.0.clock.sleep(wait) => {}
                    }
                }
            }
        }
    }

    /// A key without waiting, for tests and simulations.
    pub fn try_next(&self) -> Option<T> {
        let mut state = self.0.state.lock();
        state.move_due(self.0.clock.monotonic());
        let key = state.ready.pop_front()?;
        state.queued.remove(&key);
        state.active.insert(key.clone());
        Some(key)
    }

    /// Ends the work on a key.
    pub fn done(&self, key: &T) {
        let mut state = self.0.state.lock();
        state.active.remove(key);
        if state.queued.contains(key) {
            state.ready.push_back(key.clone());
            drop(state);
            self.0.wake.notify_one();
        }
    }

    /// Keys ready now.
    pub fn len(&self) -> usize {
        self.0.state.lock().ready.len()
    }

    /// True when no key is ready.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True when nothing is ready and no worker holds a key.
    pub fn is_idle(&self) -> bool {
        let state = self.0.state.lock();
        state.ready.is_empty() && state.active.is_empty()
    }
}

impl<T: Ord + Clone> State<T> {
    fn move_due(&mut self, now: Duration) {
        while let Some(Reverse((due, _))) = self.delayed.peek() {
            if *due > now {
                return;
            }
            let Some(Reverse((due, key))) = self.delayed.pop() else { return };
            if self.due.get(&key) != Some(&due) {
                continue;
            }
            self.due.remove(&key);
            if self.queued.insert(key.clone()) && !self.active.contains(&key) {
                self.ready.push_back(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn deduplicates_delays_and_backs_off() {
        let clock = Clock::system();
        let queue = Queue::new(clock.clone());
        queue.add("a");
        queue.add("a");
        queue.add_after("b", Duration::from_secs(5));
        queue.add_after("b", Duration::from_secs(2));
        assert_eq!(queue.next().await, "a");
        queue.add("a");
        assert!(queue.is_empty(), "a is in work");
        queue.done(&"a");
        assert_eq!(queue.next().await, "a");
        queue.done(&"a");
        assert_eq!(queue.next().await, "b");
        assert_eq!(clock.monotonic().as_secs(), 2);
        queue.done(&"b");
        queue.add_failed("b");
        queue.add_failed("b");
        assert_eq!(queue.failures(&"b"), 2);
        assert_eq!(queue.next().await, "b");
        queue.done(&"b");
        assert!(queue.try_next().is_none());
        queue.forget(&"b");
        assert_eq!(queue.failures(&"b"), 0);
    }
}
