//! What writers, watchers and the one who kills share. It must not know what any of them does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use base::{Clock, Rng, Tasks};
use parking_lot::Mutex;

use crate::call::Caller;
use crate::history::{Broken, History};
use crate::plane::Keys;

/// Before asking again a server that is down.
const PAUSE: Duration = Duration::from_millis(20);

/// A run.
pub struct World {
    /// Time.
    pub clock: Clock,
    /// Chance.
    pub rng: Rng,
    /// What runs.
    pub tasks: Tasks,
    /// Keys to the servers.
    pub keys: Keys,
    /// Where the servers listen.
    pub ports: Vec<u16>,
    history: Mutex<History>,
    broken: Mutex<Option<Broken>>,
    tokens: AtomicU64,
    stopping: AtomicBool,
    hushed: AtomicBool,
    odd: Mutex<BTreeMap<String, u64>>,
}

impl World {
    /// Nothing done yet.
    pub fn new(clock: Clock, rng: Rng, tasks: Tasks, keys: Keys, ports: Vec<u16>) -> Arc<World> {
        Arc::new(World {
            clock,
            rng,
            tasks,
            keys,
            ports,
            history: Mutex::default(),
            broken: Mutex::default(),
            tokens: AtomicU64::new(1),
            stopping: AtomicBool::new(false),
            hushed: AtomicBool::new(false),
            odd: Mutex::default(),
        })
    }

    /// A token that no write has yet.
    pub fn token(&self) -> u64 {
        self.tokens.fetch_add(1, Ordering::Relaxed)
    }

    /// Connections of one's own, one to each server.
    pub fn callers(&self) -> Vec<Caller> {
        let connect = |port: &u16| self.keys.connect(*port, &self.clock, &self.tasks);
        self.ports.iter().map(|port| Caller::new(connect(port), self.clock.clone())).collect()
    }

    /// Reads or notes something; what does not fit ends the run.
    pub fn note<T>(&self, work: impl FnOnce(&mut History) -> Result<T, Broken>) -> Option<T> {
        match work(&mut self.history.lock()) {
            Ok(done) => Some(done),
            Err(why) => {
                self.fail(why);
                None
            }
        }
    }

    /// Asks the history.
    pub fn ask<T>(&self, work: impl FnOnce(&mut History) -> T) -> T {
        work(&mut self.history.lock())
    }

    /// Something does not fit.
    pub fn fail(&self, why: Broken) {
        self.broken.lock().get_or_insert(why);
        self.stop();
    }

    /// What did not fit first.
    pub fn broken(&self) -> Option<Broken> {
        self.broken.lock().clone()
    }

    /// An answer that should be rare, to be told at the end.
    pub fn note_odd(&self, what: String) {
        *self.odd.lock().entry(what).or_default() += 1;
    }

    /// Those answers, and how often each came.
    pub fn odd(&self) -> BTreeMap<String, u64> {
        self.odd.lock().clone()
    }

    /// Everybody is to come to an end.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Whether everybody is to.
    pub fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Writers are to come to an end, watchers not yet.
    pub fn hush(&self) {
        self.hushed.store(true, Ordering::Relaxed);
    }

    /// Whether writers are to come to an end.
    pub fn hushed(&self) -> bool {
        self.hushed.load(Ordering::Relaxed) || self.stopping()
    }

    /// Waits a little.
    pub async fn pause(&self) {
        self.clock.sleep(PAUSE).await;
    }
}
