//! Config maps and secrets that pods refer to: each one watched by itself while a pod here needs it, as the node
//! authorizer allows, and nothing else.
//!
//! Must not know what pods do with them.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::k8s::api::core::v1::{ConfigMap, Secret};
use base::{Cancel, Clock, Tasks};
use client::client::WatchOptions;
use client::{Client, ClientError, Kind, Meta, WatchEvent};
use parking_lot::Mutex;
use tokio::sync::mpsc;

/// Pause after a watch that ended.
const PAUSE: Duration = Duration::from_secs(1);
/// A watch is begun again after this many seconds.
const WATCH_SECONDS: u32 = 1800;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Slot {
    kind: &'static str,
    namespace: String,
    name: String,
}

struct Entry {
    value: Option<Arc<dyn Any + Send + Sync>>,
    /// Known to be current (or known absent) at least once.
    known: bool,
    users: BTreeSet<String>,
    cancel: Cancel,
}

/// The objects in use; cheap to clone.
#[derive(Clone)]
pub struct Objects {
    client: Client,
    clock: Clock,
    tasks: Tasks,
    entries: Arc<Mutex<BTreeMap<Slot, Entry>>>,
    changed: mpsc::UnboundedSender<String>,
}

impl Objects {
    /// None in use; `changed` gets the uid of each pod whose object changed.
    pub fn new(
        client: Client,
        clock: Clock,
        tasks: Tasks,
        changed: mpsc::UnboundedSender<String>,
    ) -> Objects {
        Objects { client, clock, tasks, entries: Arc::default(), changed }
    }

    /// A config map, `None` when absent.
    pub async fn config_map(
        &self,
        pod: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<ConfigMap>>, ClientError> {
        self.get::<ConfigMap>(pod, namespace, name).await
    }

    /// A secret, `None` when absent.
    pub async fn secret(
        &self,
        pod: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Secret>>, ClientError> {
        self.get::<Secret>(pod, namespace, name).await
    }

    /// The pod with this uid is gone: what only it used is no longer watched.
    pub fn release(&self, pod: &str) {
        self.entries.lock().retain(|_, entry| {
            entry.users.remove(pod);
            if entry.users.is_empty() {
                entry.cancel.cancel();
            }
            !entry.users.is_empty()
        });
    }

    async fn get<K: Kind>(
        &self,
        pod: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<K>>, ClientError> {
        let slot = Slot { kind: K::KIND, namespace: namespace.to_owned(), name: name.to_owned() };
        if let Some(entry) = self.entries.lock().get_mut(&slot) {
            entry.users.insert(pod.to_owned());
            if entry.known {
                return Ok(entry.value.clone().and_then(|value| value.downcast::<K>().ok()));
            }
        }
        let fetched = self.client.get_opt::<K>(namespace, name).await?.map(Arc::new);
        let revision =
            fetched.as_ref().and_then(|object| object.meta().resource_version.clone()).unwrap_or_default();
        let value = fetched.clone().map(|object| object as Arc<dyn Any + Send + Sync>);
        let mut entries = self.entries.lock();
        match entries.get_mut(&slot) {
            Some(entry) => {
                (entry.value, entry.known) = (value, true);
                entry.users.insert(pod.to_owned());
            }
            None => {
                let cancel = self.tasks.cancel_token().child();
                let users = [pod.to_owned()].into();
                entries.insert(slot.clone(), Entry { value, known: true, users, cancel: cancel.clone() });
                let this = self.clone();
                self.tasks.spawn("watch object", async move {
                    cancel.run(this.follow::<K>(slot, revision)).await;
                });
            }
        }
        Ok(fetched)
    }

    /// Watches one object for as long as it is used.
    async fn follow<K: Kind>(&self, slot: Slot, mut revision: String) {
        loop {
            let options = WatchOptions {
                fields: format!("metadata.name={}", slot.name),
                resource_version: revision.clone(),
                bookmarks: true,
                timeout_seconds: WATCH_SECONDS,
                ..WatchOptions::default()
            };
            if let Ok(mut stream) = self.client.watch::<K>(&slot.namespace, &options).await {
                while let Some(Ok(event)) = stream.next().await {
                    match event {
                        WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                            revision = object.meta().resource_version.clone().unwrap_or_default();
                            self.store(&slot, Some(Arc::new(object)));
                        }
                        WatchEvent::Deleted(object) => {
                            revision = object.meta().resource_version.clone().unwrap_or_default();
                            self.store(&slot, None);
                        }
                        WatchEvent::Bookmark { resource_version, .. } => revision = resource_version,
                    }
                }
            }
            self.clock.sleep(PAUSE).await;
            // What happened meanwhile is unknown: read again.
            if let Ok(current) = self.client.get_opt::<K>(&slot.namespace, &slot.name).await {
                revision = current
                    .as_ref()
                    .and_then(|object| object.meta().resource_version.clone())
                    .unwrap_or_default();
                let value = current.map(|object| Arc::new(object) as Arc<dyn Any + Send + Sync>);
                self.store(&slot, value);
            }
        }
    }

    fn store(&self, slot: &Slot, value: Option<Arc<dyn Any + Send + Sync>>) {
        if let Some(entry) = self.entries.lock().get_mut(slot) {
            entry.value = value;
            entry.known = true;
            for user in &entry.users {
                let _ = self.changed.send(user.clone());
            }
        }
    }
}
