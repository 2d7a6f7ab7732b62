//! The garbage collector: removes what lost its last owner, in the background or before the owner, or lets it
//! go. Watches every resource that can be deleted, those of custom resource definitions included.

mod graph;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use api::k8s::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use api::k8s::api::batch::v1::{CronJob, Job};
use api::k8s::api::core::v1::{
    ConfigMap, Endpoints, Namespace, PersistentVolume, PersistentVolumeClaim, Pod, ReplicationController,
    Secret, Service, ServiceAccount,
};
use api::k8s::api::discovery::v1::EndpointSlice;
use api::k8s::apimachinery::pkg::apis::meta::v1::OwnerReference;
use client::client::{Preconditions, absent};
use client::{
    Change, Client, ClientError, DeleteOptions, Discovery, Informer, Kind, Meta, Partial, Patch, Propagation,
    Queue, ResourceRef,
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::context::Context;
use crate::worker;
use graph::{FOREGROUND, Graph, Node, ORPHAN, Owner, Verdict, Work};

/// Workers, as upstream's `--concurrent-gc-syncs`.
const WORKERS: usize = 20;
/// After a change of definitions, wait for the server's discovery to follow.
const SETTLE: Duration = Duration::from_secs(1);
/// Resources may also come from other servers, unseen: look this often.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Resources whose objects own nothing and are owned by nothing that matters.
const IGNORED: &[(&str, &str)] = &[("", "events"), ("events.k8s.io", "events")];

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Work::Check(uid) => write!(f, "check {uid}"),
            Work::Orphan(uid) => write!(f, "orphan {uid}"),
        }
    }
}

struct Collector {
    context: Context,
    client: Client,
    graph: Mutex<Graph>,
    queue: Queue<Work>,
    discovery: Mutex<Arc<Discovery>>,
    watched: Mutex<BTreeMap<ResourceRef, bool>>,
    changed: Notify,
}

macro_rules! shared_kinds {
    ($self:expr, $resource:expr, $($kind:ty),*) => {
        $(if $resource.gvr == ResourceRef::of::<$kind>().gvr {
            return Some($self.feed_shared::<$kind>($resource));
        })*
    };
}

impl Collector {
    /// Lets an informer that other controllers use too feed the graph.
    fn feed_shared<K: Kind>(
        self: &Arc<Self>,
        resource: &ResourceRef,
    ) -> futures::future::BoxFuture<'static, ()> {
        self.feed(self.context.informers.of::<K>(), resource)
    }

    fn feed<K: Meta>(
        self: &Arc<Self>,
        informer: Arc<Informer<K>>,
        resource: &ResourceRef,
    ) -> futures::future::BoxFuture<'static, ()> {
        let (collector, resource) = (Arc::downgrade(self), resource.clone());
        informer.on_change(move |change| {
            let Some(collector) = collector.upgrade() else { return };
            let mut graph = collector.graph.lock();
            let mut work = Vec::new();
            if let Change::Modified { old, new } = change
                && old.uid() != new.uid()
            {
                work.extend(graph.forget(old.uid()));
            }
            work.extend(match change {
                Change::Added(object) | Change::Modified { new: object, .. } => {
                    graph.observe(&resource, object.meta())
                }
                Change::Deleted(_) if base::mutated("garbage-stays") => Vec::new(),
                Change::Deleted(object) => graph.forget(object.uid()),
            });
            drop(graph);
            work.into_iter().for_each(|item| collector.queue.add(item));
        });
        Box::pin(async move { informer.synced().await })
    }

    /// Most built-in kinds are watched in full by other controllers: their caches serve here too.
    fn shared(self: &Arc<Self>, resource: &ResourceRef) -> Option<futures::future::BoxFuture<'static, ()>> {
        shared_kinds!(
            self,
            resource,
            Pod,
            ReplicaSet,
            Deployment,
            StatefulSet,
            DaemonSet,
            ControllerRevision,
            Job,
            CronJob,
            ReplicationController,
            Service,
            Endpoints,
            EndpointSlice,
            ConfigMap,
            Secret,
            ServiceAccount,
            Namespace,
            api::k8s::api::core::v1::Node,
            PersistentVolume,
            PersistentVolumeClaim
        );
        None
    }

    /// Follows the server's resources: watches new ones, forgets those that are gone.
    async fn sync_resources(self: &Arc<Self>) -> Result<(), ClientError> {
        let discovery = Arc::new(Discovery::fetch(&self.client).await?);
        let wanted: BTreeSet<ResourceRef> = discovery
            .preferred()
            .filter(|found| found.can(&["delete", "list", "watch"]))
            .map(|found| found.resource.clone())
            .filter(|resource| {
                !IGNORED.contains(&(resource.gvr.group.as_str(), resource.gvr.resource.as_str()))
            })
            .collect();
        let failed = !discovery.failed.is_empty();
        *self.discovery.lock() = discovery;
        let mut waits = Vec::new();
        {
            let mut watched = self.watched.lock();
            for resource in
                wanted.iter().filter(|resource| !watched.contains_key(*resource)).cloned().collect::<Vec<_>>()
            {
                let shared = self.shared(&resource);
                let alone = shared.is_none();
                waits.push(shared.unwrap_or_else(|| {
                    self.feed(self.context.informers.metadata(resource.clone()), &resource)
                }));
                watched.insert(resource, alone);
            }
            // When part of the server did not answer, what it had may still be there.
            let gone = watched.keys().filter(|known| !failed && !wanted.contains(*known)).cloned();
            for resource in gone.collect::<Vec<_>>() {
                if watched.remove(&resource) == Some(true) {
                    self.context.informers.forget_metadata(&resource);
                }
            }
        }
        self.context.clock.timeout(Duration::from_secs(30), futures::future::join_all(waits)).await;
        Ok(())
    }

    async fn keep_resources(self: Arc<Self>) {
        loop {
            self.context.clock.timeout(LOOK_AGAIN, self.changed.notified()).await;
            self.context.clock.sleep(SETTLE).await;
            if let Err(error) = self.sync_resources().await {
                tracing::debug!(%error, "resources not discovered");
            }
        }
    }

    async fn handle(&self, work: Work) -> Result<Option<Duration>, ClientError> {
        match work {
            Work::Check(uid) => self.check(&uid).await?,
            Work::Orphan(uid) => self.orphan(&uid).await?,
        }
        Ok(None)
    }

    async fn check(&self, uid: &str) -> Result<(), ClientError> {
        let Some(node) = self.graph.lock().node(uid).cloned() else { return Ok(()) };
        let mut owners = Vec::new();
        for reference in &node.owners {
            let known = self.graph.lock().owner_state(&node, reference);
            let state = match known {
                Some(state) => state,
                None => self.ask(&node, reference).await?,
            };
            owners.push((reference.clone(), state));
        }
        let verdict = self.graph.lock().judge(uid, &owners);
        match verdict {
            Verdict::Keep => Ok(()),
            Verdict::CheckDependents(dependents) => {
                let graph = self.graph.lock();
                let idle =
                    dependents.into_iter().filter(|one| graph.node(one).is_some_and(|node| !node.deleting));
                idle.for_each(|one| self.queue.add(Work::Check(one)));
                Ok(())
            }
            Verdict::StopWaiting => self.drop_finalizer(uid, &node, FOREGROUND).await,
            Verdict::Disown(gone) => self.disown(uid, &node, &gone).await,
            Verdict::Delete { propagation, unblock } => {
                if unblock {
                    self.unblock(uid, &node).await?;
                }
                self.delete(uid, &node, propagation, unblock).await
            }
        }
    }

    /// Asks the server about an owner that the graph does not know.
    async fn ask(&self, node: &Node, reference: &OwnerReference) -> Result<Owner, ClientError> {
        let (group, version) = reference.api_version.split_once('/').unwrap_or(("", &reference.api_version));
        let discovery = self.discovery.lock().clone();
        let Some(found) = discovery.by_kind(group, &reference.kind) else {
            self.changed.notify_one();
            let what = format!("owner {} of {}", reference.kind, node.key);
            let detail = format!("no resource of kind {} in {group}/{version}", reference.kind);
            return Err(ClientError::Config { what, detail });
        };
        let namespace = if found.resource.namespaced { &*node.key.namespace } else { "" };
        if found.resource.namespaced && namespace.is_empty() {
            // A cluster-scoped object cannot be owned by a namespaced one.
            return Ok(Owner::Absent);
        }
        let answer = self.client.get_metadata(&found.resource.gvr, namespace, &reference.name).await;
        match absent(answer)? {
            Some(owner) if owner.uid() == reference.uid => {
                let waits = owner.is_deleting()
                    && owner.meta().finalizers.iter().flatten().any(|finalizer| finalizer == FOREGROUND);
                Ok(if waits { Owner::Waiting } else { Owner::Solid })
            }
            _ => {
                let in_another_place = self.graph.lock().node(&reference.uid).is_some();
                if !in_another_place {
                    self.graph.lock().note_absent(&reference.uid);
                }
                Ok(Owner::Absent)
            }
        }
    }

    async fn live(&self, uid: &str, node: &Node) -> Result<Option<Partial>, ClientError> {
        let answer = self.client.get_metadata(&node.resource.gvr, &node.key.namespace, &node.key.name).await;
        Ok(absent(answer)?.filter(|object| object.uid() == uid))
    }

    async fn patch(&self, node: &Node, patch: Value) -> Result<(), ClientError> {
        let (namespace, name) = (&node.key.namespace, &node.key.name);
        let patch = Patch::Merge(patch);
        absent(self.client.patch_at::<Value>(&node.resource.gvr, namespace, name, "", &patch).await).map(drop)
    }

    async fn drop_finalizer(&self, uid: &str, node: &Node, finalizer: &str) -> Result<(), ClientError> {
        let Some(live) = self.live(uid, node).await? else { return Ok(()) };
        let mut finalizers = live.metadata.finalizers.clone().unwrap_or_default();
        let before = finalizers.len();
        finalizers.retain(|known| known != finalizer);
        if finalizers.len() == before {
            return Ok(());
        }
        let version = live.metadata.resource_version.clone();
        self.patch(node, json!({"metadata": {"resourceVersion": version, "finalizers": finalizers}})).await
    }

    async fn change_owners(
        &self,
        uid: &str,
        node: &Node,
        change: impl Fn(&mut Vec<OwnerReference>),
    ) -> Result<(), ClientError> {
        let Some(live) = self.live(uid, node).await? else { return Ok(()) };
        let before = live.metadata.owner_references.clone().unwrap_or_default();
        let mut owners = before.clone();
        change(&mut owners);
        if owners == before {
            return Ok(());
        }
        let version = live.metadata.resource_version.clone();
        self.patch(node, json!({"metadata": {"resourceVersion": version, "ownerReferences": owners}})).await
    }

    async fn disown(&self, uid: &str, node: &Node, gone: &[String]) -> Result<(), ClientError> {
        self.change_owners(uid, node, |owners| owners.retain(|owner| !gone.contains(&owner.uid))).await
    }

    async fn unblock(&self, uid: &str, node: &Node) -> Result<(), ClientError> {
        let unblock = |owners: &mut Vec<OwnerReference>| {
            owners.iter_mut().for_each(|owner| owner.block_owner_deletion = Some(false));
        };
        self.change_owners(uid, node, unblock).await
    }

    async fn delete(
        &self,
        uid: &str,
        node: &Node,
        propagation: Propagation,
        patched: bool,
    ) -> Result<(), ClientError> {
        // The version that was judged: a change in between is judged again.
        let resource_version = if patched { String::new() } else { node.revision.clone() };
        let preconditions = Preconditions { uid: uid.to_owned(), resource_version };
        let options = DeleteOptions { preconditions, ..DeleteOptions::default() }.propagate(propagation);
        let (namespace, name) = (&node.key.namespace, &node.key.name);
        match self.client.delete_at(&node.resource.gvr, namespace, name, &options).await {
            Err(error) if error.is_conflict() => {
                // Changed or replaced: decide by what is there now, not by what a cache will show later.
                let live = self.live(uid, node).await?;
                if let Some(live) = live.filter(|live| !live.is_deleting()) {
                    let work = self.graph.lock().observe(&node.resource, live.meta());
                    work.into_iter().for_each(|item| self.queue.add(item));
                    self.queue.add_failed(Work::Check(uid.to_owned()));
                }
                Ok(())
            }
            other => absent(other).map(drop),
        }
    }

    /// Takes an owner's references away from its dependents, then lets the owner go.
    async fn orphan(&self, uid: &str) -> Result<(), ClientError> {
        let (node, dependents) = {
            let graph = self.graph.lock();
            let Some(node) = graph.node(uid).cloned() else { return Ok(()) };
            let known = |one: String| graph.node(&one).cloned().map(|node| (one, node));
            (node, graph.dependents(uid).into_iter().filter_map(known).collect::<Vec<_>>())
        };
        for (dependent, its_node) in dependents {
            self.disown(&dependent, &its_node, &[uid.to_owned()]).await?;
        }
        self.drop_finalizer(uid, &node, ORPHAN).await
    }
}

/// Starts the controller.
pub fn start(context: &Context) {
    let collector = Arc::new(Collector {
        context: context.clone(),
        client: (context.client_for)("generic-garbage-collector"),
        graph: Mutex::default(),
        queue: Queue::new(context.clock.clone()),
        discovery: Mutex::default(),
        watched: Mutex::default(),
        changed: Notify::new(),
    });
    for (group, resource, kind) in [
        ("apiextensions.k8s.io", "customresourcedefinitions", "CustomResourceDefinition"),
        ("apiregistration.k8s.io", "apiservices", "APIService"),
    ] {
        let notify = Arc::downgrade(&collector);
        let definitions = context.informers.metadata(ResourceRef::new(group, "v1", resource, kind, false));
        definitions.on_change(move |_| {
            if let Some(collector) = notify.upgrade() {
                collector.changed.notify_one();
            }
        });
    }
    let tasks = context.tasks.clone();
    context.tasks.spawn("garbage collector", async move {
        while let Err(error) = collector.sync_resources().await {
            tracing::debug!(%error, "resources not discovered");
            collector.context.clock.sleep(SETTLE).await;
        }
        let (keeping, queue) = (collector.clone(), collector.queue.clone());
        tasks.spawn("garbage collector resources", keeping.keep_resources());
        worker::start("garbage collector", queue, WORKERS, &tasks, move |work| {
            let collector = collector.clone();
            async move { collector.handle(work).await }
        });
    });
}
