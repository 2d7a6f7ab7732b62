//! Keeps the node alive when memory, disk or process ids run out: says so in its conditions, removes what nobody
//! uses, then ends pods one at a time.
//!
//! Must not know how a pod is ended.

pub mod rank;
pub mod threshold;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use base::tasks::blocking;
use client::EventKind;
use parking_lot::Mutex;

use crate::node::machine;
use crate::pods::pod::PodExt;
use crate::pods::registry;
use crate::pods::status::Verdict;
use crate::shared::Shared;
use crate::stats;
use rank::Candidate;
use threshold::{Keeper, Observed, Pressure, Signal, Threshold};

/// How often signals are read, as upstream.
const PERIOD: Duration = Duration::from_secs(10);
/// How long an evicted pod may take to be gone before another is chosen.
const GONE: Duration = Duration::from_secs(30);
/// The grace of pods that a hard threshold ends, seconds.
const HARD_GRACE_SECONDS: i64 = 1;

/// The conditions that hold now, and who waits for them to change; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Pressures(Arc<(Mutex<BTreeSet<Pressure>>, tokio::sync::Notify)>);

impl Pressures {
    /// The conditions that hold.
    pub fn now(&self) -> BTreeSet<Pressure> {
        self.0.0.lock().clone()
    }

    fn set(&self, pressures: BTreeSet<Pressure>) {
        let mut held = self.0.0.lock();
        if *held != pressures {
            *held = pressures;
            self.0.1.notify_one();
        }
    }

    /// Waits until they change.
    pub async fn changed(&self) {
        self.0.1.notified().await;
    }
}

/// Watches until cancelled.
pub async fn run(shared: Arc<Shared>) {
    let mut keeper = Keeper::default();
    loop {
        let observed = observe(&shared).await;
        let look = keeper.look(&shared.config.eviction, &observed, shared.clock.monotonic());
        shared.pressures.set(look.pressures);
        if let Some(threshold) = look.due.first() {
            act(&shared, threshold, &observed).await;
        }
        shared.clock.sleep(PERIOD).await;
    }
}

/// Reads all signals.
async fn observe(shared: &Shared) -> BTreeMap<Signal, Observed> {
    let (root, images) = (shared.config.root_dir.clone(), shared.image_dir());
    let memory = u64::try_from(shared.machine.memory_bytes).unwrap_or(0);
    blocking(move || {
        let (nodefs, imagefs) = (machine::filesystem(&root), machine::filesystem(&images));
        let pids = machine::pids();
        let available = u64::try_from(machine::meminfo("MemAvailable")).unwrap_or(0);
        let observed = |available, capacity| Observed { available, capacity };
        [
            (Signal::Memory, observed(available, memory)),
            (Signal::NodeFs, observed(nodefs.available_bytes, nodefs.capacity_bytes)),
            (Signal::NodeFsInodes, observed(nodefs.inodes_free, nodefs.inodes)),
            (Signal::ImageFs, observed(imagefs.available_bytes, imagefs.capacity_bytes)),
            (Signal::ImageFsInodes, observed(imagefs.inodes_free, imagefs.inodes)),
            (Signal::Pids, observed(pids.max.saturating_sub(pids.used), pids.max)),
        ]
        .into()
    })
    .await
}

/// Makes room: what nobody uses first, then a pod.
async fn act(shared: &Arc<Shared>, threshold: &Threshold, observed: &BTreeMap<Signal, Observed>) {
    let signal = threshold.signal;
    let seen = observed.get(&signal).copied().unwrap_or_default();
    let least = threshold.least.of(seen.capacity);
    tracing::warn!(?signal, least, available = seen.available, "the node is running out");
    let text = format!("Attempting to reclaim {}", signal.resource());
    shared.events.about(&shared.about_node(), EventKind::Warning, "EvictionThresholdMet", &text);
    if signal.pressure() == Pressure::Disk {
        shared.collector.remove_unused(shared).await;
        let now = observe(shared).await.get(&signal).copied().unwrap_or_default();
        if now.available >= least {
            return;
        }
    }
    let mut candidates = candidates(shared, signal).await;
    rank::order(&mut candidates, signal);
    let Some(first) = candidates.first() else {
        tracing::warn!(?signal, "no pod could be evicted");
        return;
    };
    let pod = &first.pod;
    let own = pod.spec().termination_grace_period_seconds.unwrap_or(30);
    let grace = match threshold.grace {
        None => HARD_GRACE_SECONDS,
        Some(_) => own.min(shared.config.eviction.max_grace_seconds),
    };
    let message = rank::message(first, signal, least, seen.available);
    tracing::warn!(pod = %pod.display(), message, "evicting");
    shared.events.pod(pod, EventKind::Warning, "Evicted", &message);
    let verdict = Verdict { reason: "Evicted".into(), message, grace: Some(grace), disrupted: true };
    shared.registry.tell(pod.uid(), registry::Signal::Evict(verdict));
    wait_until_gone(shared, pod.uid()).await;
}

async fn wait_until_gone(shared: &Shared, uid: &str) {
    let until = shared.clock.monotonic() + GONE;
    while shared.clock.monotonic() < until {
        let runs = shared.registry.get(uid).is_some_and(|entry| entry.sandbox.is_some());
        if !runs {
            return;
        }
        shared.clock.sleep(Duration::from_millis(200)).await;
    }
}

/// Pods that may go, with what they use.
async fn candidates(shared: &Shared, signal: Signal) -> Vec<Candidate> {
    let used = stats::read(shared).await;
    let disks = match signal.pressure() {
        Pressure::Disk => stats::summary::on_disks(shared, &used.pods).await,
        _ => BTreeMap::new(),
    };
    let active = used.pods.iter().filter(|pod| {
        let entry = &pod.entry;
        !rank::is_critical(&entry.pod) && !entry.pod.deleting() && !entry.pod.finished()
    });
    active
        .map(|pod| {
            let usage = pod.reading.as_ref().map(|reading| reading.usage);
            let containers = match signal {
                Signal::Memory => pod
                    .containers
                    .iter()
                    .map(|one| (one.name.clone(), one.reading.usage.working_set_bytes))
                    .collect(),
                Signal::NodeFs | Signal::ImageFs => {
                    disks.get(pod.entry.pod.uid()).map(|disk| disk.containers.clone()).unwrap_or_default()
                }
                _ => BTreeMap::new(),
            };
            let disk = disks.get(pod.entry.pod.uid());
            let used = match signal {
                Signal::Memory => usage.map(|usage| usage.working_set_bytes),
                Signal::Pids => usage.map(|usage| usage.pids),
                Signal::NodeFs | Signal::ImageFs => disk.map(|disk| disk.bytes),
                Signal::NodeFsInodes | Signal::ImageFsInodes => disk.map(|disk| disk.inodes),
            };
            Candidate { pod: pod.entry.pod.clone(), used, containers }
        })
        .collect()
}
