//! Pods that wait for a node: ready, backing off, or set aside until something changes that can help.
//!
//! Sans-IO: times come in, pods come out. What waits costs nothing: wake times and awaited changes are indexed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::plugins;
use crate::pod::PodInfo;

/// A pod set aside is tried again after this long whatever happens.
const MAX_ASIDE: Duration = Duration::from_secs(300);

/// What changed in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// A node came, or its allocatable, labels, taints or cordon changed.
    Node,
    /// A bound pod went or gave back resources.
    PodGone,
    /// A pod was bound or its labels changed.
    PodPlaced,
    /// A claim came or changed.
    Claim,
    /// A volume, a StorageClass or a capacity came or changed.
    Volume,
    /// What CSI drivers a node has, or what is attached to it, changed.
    StorageNode,
    /// A claim, slice or class of devices came or changed.
    Device,
}

impl Change {
    /// All there are.
    pub const ALL: &[Change] = &[
        Change::Node,
        Change::PodGone,
        Change::PodPlaced,
        Change::Claim,
        Change::Volume,
        Change::StorageNode,
        Change::Device,
    ];
}

/// How long a pod waits after failed tries.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// After the first.
    pub first: Duration,
    /// At most.
    pub longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(10) }
    }
}

impl Backoff {
    fn after(&self, tries: u32) -> Duration {
        let factor = 1_u32.checked_shl(tries.saturating_sub(1)).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.longest)
    }
}

#[derive(Debug)]
struct Entry {
    pod: Arc<PodInfo>,
    tries: u32,
    added: Timestamp,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Ready { order: Order },
    Backoff { until: Timestamp },
    Aside { since: Timestamp, plugins: BTreeSet<&'static str> },
    Gated,
    InFlight { since: u64 },
}

/// More important first, then older, then by key.
type Order = (std::cmp::Reverse<i32>, Timestamp, String);

/// The queue.
#[derive(Debug, Default)]
pub struct Queue {
    entries: HashMap<String, Entry>,
    ready: BTreeMap<Order, String>,
    /// Ends of back-offs and of the longest time aside.
    wakes: BTreeSet<(Timestamp, String)>,
    /// Pods set aside, by the changes they wait for.
    waiting: BTreeMap<Change, BTreeSet<String>>,
    /// When each change was last seen, in changes counted.
    last: BTreeMap<Change, u64>,
    changes: u64,
    backoff: Backoff,
}

impl Queue {
    /// An empty queue.
    pub fn new(backoff: Backoff) -> Queue {
        Queue { backoff, ..Queue::default() }
    }

    /// A pod to schedule came, or a newer version of it.
    pub fn set(&mut self, pod: Arc<PodInfo>, now: Timestamp) {
        let key = pod.key.clone();
        let gated = is_gated(&pod);
        if let Some(entry) = self.entries.get_mut(&key) {
            let same = entry.pod.uid == pod.uid;
            let changed = entry.pod.pod.spec != pod.pod.spec
                || entry.pod.pod.metadata.labels != pod.pod.metadata.labels
                || claims_of(&entry.pod) != claims_of(&pod);
            entry.pod = pod;
            let wake = match &entry.place {
                Place::Gated => !gated,
                Place::Aside { .. } | Place::Backoff { .. } => changed || !same,
                Place::Ready { .. } | Place::InFlight { .. } => false,
            };
            if wake {
                self.make_ready(&key);
            }
            return;
        }
        self.entries.insert(key.clone(), Entry { pod, tries: 0, added: now, place: Place::Gated });
        if !gated {
            self.make_ready(&key);
        }
    }

    /// A pod went or was bound.
    pub fn remove(&mut self, key: &str) {
        self.leave(key);
        self.entries.remove(key);
    }

    /// Takes a pod out of the index of its place.
    fn leave(&mut self, key: &str) {
        let Some(entry) = self.entries.get(key) else { return };
        match &entry.place {
            Place::Ready { order } => {
                self.ready.remove(order);
            }
            Place::Backoff { until } => {
                self.wakes.remove(&(*until, key.to_owned()));
            }
            Place::Aside { since, plugins } => {
                self.wakes.remove(&(*since + MAX_ASIDE, key.to_owned()));
                for change in awaited(plugins) {
                    if let Some(pods) = self.waiting.get_mut(&change) {
                        pods.remove(key);
                    }
                }
            }
            Place::Gated | Place::InFlight { .. } => {}
        }
    }

    /// Moves a pod to another place, and into its index.
    fn put(&mut self, key: &str, place: Place) {
        self.leave(key);
        match &place {
            Place::Ready { order } => {
                self.ready.insert(order.clone(), key.to_owned());
            }
            Place::Backoff { until } => {
                self.wakes.insert((*until, key.to_owned()));
            }
            Place::Aside { since, plugins } => {
                self.wakes.insert((*since + MAX_ASIDE, key.to_owned()));
                for change in awaited(plugins) {
                    self.waiting.entry(change).or_default().insert(key.to_owned());
                }
            }
            Place::Gated | Place::InFlight { .. } => {}
        }
        if let Some(entry) = self.entries.get_mut(key) {
            entry.place = place;
        }
    }

    fn make_ready(&mut self, key: &str) {
        let Some(entry) = self.entries.get(key) else { return };
        let order = (std::cmp::Reverse(entry.pod.priority), entry.added, key.to_owned());
        self.put(key, Place::Ready { order });
    }

    /// The next pod to try; it stays in flight until `done`, `failed` or `remove`.
    pub fn pop(&mut self, now: Timestamp) -> Option<Arc<PodInfo>> {
        self.wake(now);
        let (_, key) = self.ready.pop_first()?;
        let since = self.changes;
        let entry = self.entries.get_mut(&key)?;
        entry.tries = entry.tries.saturating_add(1);
        entry.place = Place::InFlight { since };
        Some(entry.pod.clone())
    }

    /// No node took the pod: it waits for a change that can help these plugins. No plugins: for a retry.
    pub fn failed(&mut self, key: &str, plugins: BTreeSet<&'static str>, now: Timestamp) {
        let Some(entry) = self.entries.get(key) else { return };
        let Place::InFlight { since } = entry.place else { return };
        let missed = |change: Change| self.last.get(&change).is_some_and(|last| *last > since);
        let place = if plugins.is_empty() || awaited(&plugins).into_iter().any(missed) {
            Place::Backoff { until: now + self.backoff.after(entry.tries) }
        } else {
            Place::Aside { since: now, plugins }
        };
        self.put(key, place);
    }

    /// Something changed; waiting pods that it can help, as `hint` says of each, become ready after their
    /// back-off. The hint is given the plugins that refused the pod.
    pub fn changed(
        &mut self,
        change: Change,
        now: Timestamp,
        hint: impl Fn(&PodInfo, &BTreeSet<&'static str>) -> bool,
    ) {
        self.changes += 1;
        self.last.insert(change, self.changes);
        let mut woken = Vec::new();
        for key in self.waiting.get(&change).into_iter().flatten() {
            let Some(entry) = self.entries.get(key) else { continue };
            let Place::Aside { since, plugins } = &entry.place else { continue };
            if hint(&entry.pod, plugins) {
                woken.push((key.clone(), *since + self.backoff.after(entry.tries)));
            }
        }
        for (key, until) in woken {
            if until > now {
                self.put(&key, Place::Backoff { until });
            } else {
                self.make_ready(&key);
            }
        }
    }

    fn wake(&mut self, now: Timestamp) {
        while let Some((at, key)) = self.wakes.first().filter(|(at, _)| *at <= now).cloned() {
            self.make_ready(&key);
            self.wakes.remove(&(at, key));
        }
    }

    /// When `pop` may give a pod again without a change; `None` when nothing waits.
    pub fn next_wake(&self) -> Option<Timestamp> {
        self.wakes.first().map(|(at, _)| *at)
    }

    /// True when a pod is ready.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// How many pods wait, in whatever place.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when no pod waits.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// The changes that can turn refusals of these plugins.
fn awaited(refused: &BTreeSet<&'static str>) -> BTreeSet<Change> {
    refused.iter().flat_map(|name| plugins::events(name)).copied().collect()
}

fn is_gated(pod: &PodInfo) -> bool {
    let gates = pod.pod.spec.as_ref().and_then(|spec| spec.scheduling_gates.as_ref());
    gates.is_some_and(|gates| !gates.is_empty())
}

/// The device claims made for a pod so far.
fn claims_of(pod: &PodInfo) -> Option<&Vec<api::k8s::api::core::v1::PodResourceClaimStatus>> {
    pod.pod.status.as_ref()?.resource_claim_statuses.as_ref()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::{node, resources};

    fn pod(name: &str, priority: i32, gates: &[&str]) -> Arc<PodInfo> {
        let gates: Vec<_> = gates.iter().map(|name| json!({"name": name})).collect();
        let object = json!({"metadata": {"name": name, "namespace": "d", "uid": name},
            "spec": {"containers": [], "priority": priority, "schedulingGates": gates}});
        Arc::new(PodInfo::new(Arc::new(serde_json::from_value(object).expect("a pod"))))
    }

    fn names(queue: &mut Queue, now: Timestamp) -> Vec<String> {
        std::iter::from_fn(|| queue.pop(now)).map(|pod| pod.uid.clone()).collect()
    }

    #[test]
    fn order_back_off_and_hints() {
        let start: Timestamp = "2030-01-01T00:00:00Z".parse().expect("a time");
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut queue = Queue::default();
        queue.set(pod("low", 0, &[]), at(0));
        queue.set(pod("high", 5, &[]), at(1));
        queue.set(pod("gated", 9, &["g"]), at(1));
        assert_eq!(names(&mut queue, at(1)), ["high", "low"]);
        queue.failed("d/high", BTreeSet::from([resources::FIT]), at(1));
        queue.failed("d/low", BTreeSet::from([node::AFFINITY]), at(1));
        queue.changed(Change::PodGone, at(1), |_, _| true);
        assert_eq!(names(&mut queue, at(1)), Vec::<String>::new(), "still backing off");
        assert_eq!(names(&mut queue, at(2)), ["high"], "only a plugin that the change helps");
        queue.set(pod("gated", 9, &[]), at(3));
        assert_eq!(names(&mut queue, at(3)), ["gated"]);
        queue.changed(Change::Node, at(4), |_, _| false);
        assert_eq!(names(&mut queue, at(4)), Vec::<String>::new(), "the hint says no");
        queue.changed(Change::Node, at(4), |_, _| true);
        assert_eq!(names(&mut queue, at(4)), ["low"]);
        queue.remove("d/low");
        queue.failed("d/gated", BTreeSet::from([resources::FIT]), at(5));
        assert_eq!(queue.next_wake(), Some(at(6)), "a change came while it was in flight");
        assert_eq!(names(&mut queue, at(6)), ["gated"]);
        queue.failed("d/gated", BTreeSet::from([resources::FIT]), at(6));
        assert_eq!(queue.next_wake(), Some(at(306)));
        assert_eq!(names(&mut queue, at(306)), ["gated"], "set aside for five minutes at most");
        assert_eq!(queue.next_wake(), None);
    }

    #[test]
    fn changes_in_flight_count() {
        let now: Timestamp = "2030-01-01T00:00:00Z".parse().expect("a time");
        let mut queue = Queue::default();
        queue.set(pod("a", 0, &[]), now);
        queue.pop(now).expect("ready");
        queue.changed(Change::PodGone, now, |_, _| true);
        queue.failed("d/a", BTreeSet::from([resources::FIT]), now);
        assert!(queue.pop(now + Duration::from_secs(1)).is_some());
    }

    #[test]
    fn indexes_hold_only_what_waits() {
        let now: Timestamp = "2030-01-01T00:00:00Z".parse().expect("a time");
        let mut queue = Queue::default();
        for name in ["a", "b", "c"] {
            queue.set(pod(name, 0, &[]), now);
            queue.pop(now).expect("ready");
            queue.failed(&format!("d/{name}"), BTreeSet::from([resources::FIT]), now);
        }
        queue.remove("d/a");
        queue.changed(Change::Node, now, |_, _| true);
        queue.remove("d/b");
        queue.pop(now + Duration::from_secs(1)).expect("ready");
        queue.remove("d/c");
        assert!(queue.is_empty() && queue.wakes.is_empty() && queue.ready.is_empty());
        assert!(queue.waiting.values().all(BTreeSet::is_empty));
    }
}
