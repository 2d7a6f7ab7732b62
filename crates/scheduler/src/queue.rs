//! Pods that wait for a node: ready, backing off, or set aside until something changes that can help.
//!
//! Sans-IO: times come in, pods come out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use jiff::Timestamp;

use crate::plugins::{affinity, node, resources, spread};
use crate::pod::PodInfo;
use std::sync::Arc;

/// The first and the longest delay after a failed try.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// A pod set aside is tried again after this long whatever happens.
const MAX_ASIDE: Duration = Duration::from_secs(300);

/// What changed in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A node came, or its allocatable, labels, taints or cordon changed.
    Node,
    /// A bound pod went or gave back resources.
    PodGone,
    /// A pod was bound or its labels changed.
    PodPlaced,
    /// A volume, claim or class changed.
    Volume,
    /// Something else; everything is tried again.
    Other,
}

/// True when `change` can turn the refusal of `plugin`.
fn helps(plugin: &str, change: Change) -> bool {
    match change {
        Change::Other | Change::Node => true,
        Change::PodGone => {
            matches!(plugin, resources::FIT | node::PORTS | spread::NAME | affinity::NAME)
        }
        Change::PodPlaced => matches!(plugin, spread::NAME | affinity::NAME),
        Change::Volume => plugin.starts_with("Volume"),
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
    InFlight { missed: Vec<Change> },
}

/// More important first, then older, then by key.
type Order = (std::cmp::Reverse<i32>, Timestamp, String);

/// The queue.
#[derive(Debug, Default)]
pub struct Queue {
    entries: HashMap<String, Entry>,
    ready: BTreeMap<Order, String>,
}

impl Queue {
    /// A pod to schedule came, or a newer version of it.
    pub fn set(&mut self, pod: Arc<PodInfo>, now: Timestamp) {
        let key = pod.key.clone();
        let gated = is_gated(&pod);
        if let Some(entry) = self.entries.get_mut(&key) {
            let same = entry.pod.uid == pod.uid;
            let spec_changed = entry.pod.pod.spec != pod.pod.spec
                || entry.pod.pod.metadata.labels != pod.pod.metadata.labels;
            entry.pod = pod;
            let wake = match &entry.place {
                Place::Gated => !gated,
                Place::Aside { .. } | Place::Backoff { .. } => spec_changed || !same,
                Place::Ready { .. } | Place::InFlight { .. } => false,
            };
            if wake {
                self.make_ready(&key, now);
            }
            return;
        }
        let place = Place::Gated;
        self.entries.insert(key.clone(), Entry { pod, tries: 0, added: now, place });
        if !gated {
            self.make_ready(&key, now);
        }
    }

    /// A pod went or was bound.
    pub fn remove(&mut self, key: &str) {
        if let Some(Entry { place: Place::Ready { order }, .. }) = self.entries.remove(key) {
            self.ready.remove(&order);
        }
    }

    fn make_ready(&mut self, key: &str, _now: Timestamp) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        if let Place::Ready { order } = &entry.place {
            self.ready.remove(order);
        }
        let order = (std::cmp::Reverse(entry.pod.priority), entry.added, key.to_owned());
        entry.place = Place::Ready { order: order.clone() };
        self.ready.insert(order, key.to_owned());
    }

    /// The next pod to try; it stays in flight until `done`, `failed` or `remove`.
    pub fn pop(&mut self, now: Timestamp) -> Option<Arc<PodInfo>> {
        self.wake(now);
        let (_, key) = self.ready.pop_first()?;
        let entry = self.entries.get_mut(&key)?;
        entry.tries = entry.tries.saturating_add(1);
        entry.place = Place::InFlight { missed: Vec::new() };
        Some(entry.pod.clone())
    }

    /// No node took the pod: it waits for a change that can help these plugins. No plugins: for a retry.
    pub fn failed(&mut self, key: &str, plugins: BTreeSet<&'static str>, now: Timestamp) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let Place::InFlight { missed } = &entry.place else { return };
        let helped = missed.iter().any(|change| plugins.iter().any(|plugin| helps(plugin, *change)));
        let until = now + backoff(entry.tries);
        entry.place = if plugins.is_empty() || helped {
            Place::Backoff { until }
        } else {
            Place::Aside { since: now, plugins }
        };
    }

    /// Something changed; pods it can help become ready after their back-off.
    pub fn changed(&mut self, change: Change, now: Timestamp) {
        let mut woken = Vec::new();
        for (key, entry) in &mut self.entries {
            match &mut entry.place {
                Place::InFlight { missed } => missed.push(change),
                Place::Aside { since, plugins } if plugins.iter().any(|plugin| helps(plugin, change)) => {
                    let until = *since + backoff(entry.tries);
                    if until > now {
                        entry.place = Place::Backoff { until };
                    } else {
                        woken.push(key.clone());
                    }
                }
                _ => {}
            }
        }
        woken.iter().for_each(|key| self.make_ready(key, now));
    }

    fn wake(&mut self, now: Timestamp) {
        let due = |entry: &Entry| match &entry.place {
            Place::Backoff { until } => *until <= now,
            Place::Aside { since, .. } => *since + MAX_ASIDE <= now,
            _ => false,
        };
        let keys: Vec<String> =
            self.entries.iter().filter(|(_, entry)| due(entry)).map(|(key, _)| key.clone()).collect();
        keys.iter().for_each(|key| self.make_ready(key, now));
    }

    /// When `pop` may give a pod again without a change; `None` when nothing waits.
    pub fn next_wake(&self) -> Option<Timestamp> {
        let at = |entry: &Entry| match &entry.place {
            Place::Backoff { until } => Some(*until),
            Place::Aside { since, .. } => Some(*since + MAX_ASIDE),
            _ => None,
        };
        self.entries.values().filter_map(at).min()
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

fn is_gated(pod: &PodInfo) -> bool {
    let gates = pod.pod.spec.as_ref().and_then(|spec| spec.scheduling_gates.as_ref());
    gates.is_some_and(|gates| !gates.is_empty())
}

fn backoff(tries: u32) -> Duration {
    BACKOFF.0.saturating_mul(1_u32.checked_shl(tries.saturating_sub(1)).unwrap_or(u32::MAX)).min(BACKOFF.1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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
        queue.changed(Change::PodGone, at(1));
        assert_eq!(names(&mut queue, at(1)), Vec::<String>::new(), "still backing off");
        assert_eq!(names(&mut queue, at(2)), ["high"], "only a plugin that the change helps");
        queue.set(pod("gated", 9, &[]), at(3));
        assert_eq!(names(&mut queue, at(3)), ["gated"]);
        queue.changed(Change::Node, at(4));
        assert_eq!(names(&mut queue, at(4)), ["low"]);
        queue.remove("d/low");
        queue.failed("d/gated", BTreeSet::from([resources::FIT]), at(5));
        assert_eq!(names(&mut queue, at(5 + 300)), ["gated"], "set aside for five minutes at most");
    }

    #[test]
    fn changes_in_flight_count() {
        let now: Timestamp = "2030-01-01T00:00:00Z".parse().expect("a time");
        let mut queue = Queue::default();
        queue.set(pod("a", 0, &[]), now);
        queue.pop(now).expect("ready");
        queue.changed(Change::PodGone, now);
        queue.failed("d/a", BTreeSet::from([resources::FIT]), now);
        assert!(queue.pop(now + Duration::from_secs(1)).is_some());
    }
}
