//! The pods on this node and how to reach their workers.
//!
//! Must not know what workers do.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use api::k8s::api::core::v1::{Pod, PodStatus};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::pod::PodExt;

/// What a worker is told.
#[derive(Clone, Debug)]
pub enum Signal {
    /// The pod as wanted now.
    Wanted(Arc<Pod>),
    /// The pod is no longer in the API or in its file.
    Gone,
    /// Something of the pod changed in the runtime; the id of what ended, if anything did.
    Runtime(Option<String>),
    /// An object that the pod shows changed.
    Refresh,
    /// The status may have to be written again.
    Report,
    /// End the pod.
    Evict(super::status::Verdict),
}

/// A pod here.
#[derive(Clone, Debug)]
pub struct Entry {
    /// As wanted.
    pub pod: Arc<Pod>,
    /// As last reported.
    pub status: Option<Arc<PodStatus>>,
    /// Its worker.
    pub worker: mpsc::UnboundedSender<Signal>,
    /// Newest container of each name: its id in the runtime.
    pub containers: BTreeMap<String, String>,
    /// The sandbox in use.
    pub sandbox: Option<String>,
}

/// How many early ends are remembered: more than containers can start at once.
const EARLY: usize = 512;

#[derive(Default)]
struct Inner {
    pods: BTreeMap<String, Entry>,
    /// Uids in the order their pods came.
    arrived: Vec<String>,
    /// Pod uid by container or sandbox id.
    ids: BTreeMap<String, String>,
    /// The runtime tells what happens.
    events: bool,
    /// What ended and belongs to nobody yet, oldest first.
    early: VecDeque<String>,
    /// Mirrors in the API, by the uid of their static pod.
    mirrors: BTreeMap<String, Arc<Pod>>,
}

/// All pods here by uid; cheap to clone.
#[derive(Clone, Default)]
pub struct Registry(Arc<Mutex<Inner>>);

impl Registry {
    /// Adds a pod.
    pub fn insert(&self, uid: &str, entry: Entry) {
        let mut inner = self.0.lock();
        inner.arrived.retain(|known| known != uid);
        inner.arrived.push(uid.to_owned());
        inner.pods.insert(uid.to_owned(), entry);
    }

    /// Removes a pod.
    pub fn remove(&self, uid: &str) {
        let mut inner = self.0.lock();
        inner.pods.remove(uid);
        inner.arrived.retain(|known| known != uid);
        inner.ids.retain(|_, owner| owner != uid);
    }

    /// A pod.
    pub fn get(&self, uid: &str) -> Option<Entry> {
        self.0.lock().pods.get(uid).cloned()
    }

    /// A pod by name; of two the one that is not going away, else the one that came last: a pod that was deleted
    /// without grace is still being ended when its successor runs.
    pub fn by_name(&self, namespace: &str, name: &str) -> Option<Entry> {
        let inner = self.0.lock();
        let newest_first = inner.arrived.iter().rev().filter_map(|uid| inner.pods.get(uid));
        let named =
            newest_first.filter(|entry| entry.pod.namespace() == namespace && entry.pod.name() == name);
        named.min_by_key(|entry| entry.pod.deleting()).cloned()
    }

    /// All pods.
    pub fn all(&self) -> Vec<Entry> {
        self.0.lock().pods.values().cloned().collect()
    }

    /// The other pods here that are not finished.
    pub fn others(&self, uid: &str) -> Vec<Arc<Pod>> {
        let ended = |entry: &Entry| {
            let phase = entry.status.as_ref().and_then(|status| status.phase.clone());
            entry.pod.finished() || matches!(phase.as_deref(), Some("Failed" | "Succeeded"))
        };
        let inner = self.0.lock();
        let others = inner.pods.iter().filter(|(other, entry)| *other != uid && !ended(entry));
        others.map(|(_, entry)| entry.pod.clone()).collect()
    }

    /// True when the pod is here.
    pub fn contains(&self, uid: &str) -> bool {
        self.0.lock().pods.contains_key(uid)
    }

    /// Tells a pod's worker. False when there is none.
    pub fn tell(&self, uid: &str, signal: Signal) -> bool {
        self.0.lock().pods.get(uid).is_some_and(|entry| entry.worker.send(signal).is_ok())
    }

    /// Tells the worker of the pod that a container or sandbox belongs to.
    pub fn runtime_event(&self, event: &runtime::events::Event) {
        let mut inner = self.0.lock();
        if let Some(entry) = inner.ids.get(&event.id).and_then(|uid| inner.pods.get(uid)) {
            let _ = entry.worker.send(Signal::Runtime(event.exit.then(|| event.id.clone())));
        } else if event.exit {
            // It may have ended before its worker could tell that it is there.
            inner.early.push_back(event.id.clone());
            if inner.early.len() > EARLY {
                inner.early.pop_front();
            }
        }
    }

    /// Notes whether the runtime's events arrive. When they begin to, some may have been missed.
    pub fn set_events(&self, on: bool) {
        let mut inner = self.0.lock();
        inner.events = on;
        for entry in inner.pods.values() {
            let _ = entry.worker.send(Signal::Runtime(None));
        }
    }

    /// True while the runtime's events arrive.
    pub fn has_events(&self) -> bool {
        self.0.lock().events
    }

    /// The mirror of a static pod.
    pub fn mirror(&self, uid: &str) -> Option<Arc<Pod>> {
        self.0.lock().mirrors.get(uid).cloned()
    }

    /// Notes the mirror of a static pod; `None` = it is gone.
    pub fn set_mirror(&self, uid: &str, mirror: Option<Arc<Pod>>) {
        let mut inner = self.0.lock();
        match mirror {
            Some(mirror) => inner.mirrors.insert(uid.to_owned(), mirror),
            None => inner.mirrors.remove(uid),
        };
    }

    /// Replaces the pod as wanted.
    pub fn set_pod(&self, uid: &str, pod: Arc<Pod>) {
        if let Some(entry) = self.0.lock().pods.get_mut(uid) {
            entry.pod = pod;
        }
    }

    /// Notes the status.
    pub fn set_status(&self, uid: &str, status: Arc<PodStatus>) {
        if let Some(entry) = self.0.lock().pods.get_mut(uid) {
            entry.status = Some(status);
        }
    }

    /// Notes which containers and sandboxes a pod has in the runtime.
    pub fn set_ids(&self, uid: &str, observed: &super::observed::Observed) {
        let mut inner = self.0.lock();
        inner.ids.retain(|_, owner| owner != uid);
        let ids = observed.sandboxes.iter().map(|sandbox| &sandbox.id);
        let mut ended = Vec::new();
        for id in ids.chain(observed.containers.iter().map(|container| &container.id)) {
            inner.ids.insert(id.clone(), uid.to_owned());
            if let Some(at) = inner.early.iter().position(|early| early == id) {
                ended.extend(inner.early.remove(at));
            }
        }
        if let Some(entry) = inner.pods.get_mut(uid) {
            for id in ended {
                let _ = entry.worker.send(Signal::Runtime(Some(id)));
            }
            entry.containers.clear();
            for container in &observed.containers {
                entry.containers.entry(container.name.clone()).or_insert_with(|| container.id.clone());
            }
            entry.sandbox =
                observed.sandboxes.iter().find(|sandbox| sandbox.ready).map(|sandbox| sandbox.id.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::observed::{Observed, Seen};
    use super::*;
    use runtime::events::Event;

    #[test]
    fn the_last_pod_of_a_name_is_meant() {
        let registry = Registry::default();
        let add = |uid: &str, deleted: bool| {
            let (worker, _) = mpsc::unbounded_channel();
            let mut pod = Pod::default();
            pod.metadata.name = Some("p".into());
            pod.metadata.uid = Some(uid.into());
            pod.metadata.deletion_timestamp = deleted
                .then(|| api::k8s::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH));
            let (pod, containers) = (Arc::new(pod), BTreeMap::new());
            registry.insert(uid, Entry { pod, status: None, worker, containers, sandbox: None });
            registry.by_name("", "p").and_then(|entry| entry.pod.metadata.uid.clone())
        };
        let found = [add("b", false), add("c", false), add("a", false), add("d", true)];
        assert_eq!(found.map(Option::unwrap_or_default), ["b", "c", "a", "a"]);
        registry.remove("a");
        assert_eq!(
            registry.by_name("", "p").and_then(|entry| entry.pod.metadata.uid.clone()).as_deref(),
            Some("c")
        );
        assert!(registry.by_name("n", "p").is_none());
    }

    #[test]
    fn an_end_before_its_beginning_is_remembered() {
        let registry = Registry::default();
        let (worker, mut signals) = mpsc::unbounded_channel();
        let entry =
            Entry { pod: Arc::default(), status: None, worker, containers: BTreeMap::new(), sandbox: None };
        registry.insert("u", entry);
        registry.runtime_event(&Event { id: "c".into(), exit: true });
        assert!(signals.try_recv().is_err());
        let seen = Seen { id: "c".into(), name: "main".into(), ..Seen::default() };
        registry.set_ids("u", &Observed { sandboxes: Vec::new(), containers: vec![seen] });
        assert!(matches!(signals.try_recv(), Ok(Signal::Runtime(Some(id))) if id == "c"));
        registry.runtime_event(&Event { id: "c".into(), exit: true });
        assert!(matches!(signals.try_recv(), Ok(Signal::Runtime(Some(_)))));
    }
}
