//! Namespaces that go away: their content is removed, pods first, then the namespace itself is let go. Watches
//! namespaces and pods.

mod plan;

use std::sync::Arc;
use std::time::Duration;

use api::Gvr;
use api::k8s::api::core::v1::{Namespace, Pod};
use base::Clock;
use client::client::{Call, absent};
use client::{
    Cache, Change, Client, ClientError, DeleteOptions, Discovered, Discovery, Key, ListOptions, Meta,
    Partial, Propagation, Queue,
};
use http::Method;
use serde_json::Value;

use crate::context::Context;
use crate::worker;
use plan::{Content, Remaining};

/// Namespaces emptied at a time, as upstream.
const WORKERS: usize = 10;
/// When content with finalizers remains, look again after this time.
const WAIT: Duration = Duration::from_secs(5);

struct Cleaner {
    client: Client,
    namespaces: Cache<Namespace>,
    clock: Clock,
}

impl Cleaner {
    async fn sync(&self, key: Key) -> Result<Option<Duration>, ClientError> {
        let Some(cached) = self.namespaces.get_key(&key) else { return Ok(None) };
        if !cached.is_deleting() {
            return Ok(None);
        }
        let Some(mut namespace) = self.client.get_opt::<Namespace>("", &key.name).await? else {
            return Ok(None);
        };
        if !namespace.is_deleting() || namespace.uid() != cached.uid() {
            return Ok(None);
        }
        if plan::is_finalized(&namespace) {
            return Ok(None);
        }
        if plan::mark_terminating(&mut namespace) {
            namespace = self.client.update_status(&namespace).await?;
        }
        let content = self.empty(&key.name).await?;
        let now = client::runner::whole_seconds(self.clock.now());
        if plan::set_conditions(&mut namespace, &content, now) {
            namespace = self.client.update_status(&namespace).await?;
        }
        if content.is_empty() {
            self.finalize(namespace).await?;
            return Ok(None);
        }
        Ok(Some(WAIT))
    }

    /// Removes what can be removed; returns what is left.
    async fn empty(&self, namespace: &str) -> Result<Content, ClientError> {
        let mut content = Content::default();
        let discovery = Discovery::fetch(&self.client).await?;
        for (version, error) in &discovery.failed {
            content.discovery_errors.push(format!("{version}: {error}"));
        }
        let deletable = |found: &&Discovered| found.resource.namespaced && found.can(&["delete", "list"]);
        let resources: Vec<&Discovered> = discovery.preferred().filter(deletable).collect();
        let is_pods = |found: &&Discovered| {
            found.resource.gvr.group.is_empty() && found.resource.gvr.resource == "pods"
        };
        if let Some(pods) = resources.iter().find(|found| is_pods(found)) {
            self.remove(namespace, pods, &mut content).await;
            if !content.is_empty() {
                // Pods may still need what the namespace holds until they are gone.
                return Ok(content);
            }
        }
        for resource in resources.iter().filter(|found| !is_pods(found)) {
            self.remove(namespace, resource, &mut content).await;
        }
        Ok(content)
    }

    async fn remove(&self, namespace: &str, found: &Discovered, content: &mut Content) {
        let gvr = &found.resource.gvr;
        if let Err(error) = self.try_remove(namespace, gvr, found.can(&["deletecollection"]), content).await
            && !error.is_not_found()
        {
            content.errors.push(error.to_string());
        }
    }

    async fn try_remove(
        &self,
        namespace: &str,
        gvr: &Gvr,
        collection: bool,
        content: &mut Content,
    ) -> Result<(), ClientError> {
        // Most kinds have nothing here: one list tells, and nothing is deleted in vain.
        let everything = ListOptions::default();
        let before = self.client.list_at::<Partial>(gvr, namespace, &everything, true).await?.items;
        if before.is_empty() {
            return Ok(());
        }
        let options = DeleteOptions::default().propagate(Propagation::Background);
        let due = before.iter().filter(|object| !plan::goes_by_itself(*object));
        if collection && due.clone().next().is_some() {
            self.client.delete_collection_at(gvr, namespace, &everything, &options).await?;
        } else if !collection {
            for object in due {
                absent(self.client.delete_at(gvr, namespace, object.name(), &options).await)?;
            }
        }
        let left = self.client.list_at::<Partial>(gvr, namespace, &everything, true).await?.items;
        content.add(Remaining::of(gvr, &left));
        Ok(())
    }

    async fn finalize(&self, mut namespace: Namespace) -> Result<(), ClientError> {
        plan::drop_finalizer(&mut namespace);
        let path = format!("{}/finalize", Gvr::new("", "v1", "namespaces").path("", namespace.name()));
        let call = Call::new(Method::PUT, path).json(&namespace)?;
        absent(self.client.json::<Value>(&call).await).map(drop)
    }
}

/// Starts the controller.
pub fn start(context: &Context) {
    let queue: Queue<Key> = Queue::new(context.clock.clone());
    let namespaces = context.informers.of::<Namespace>();
    let pods = context.informers.of::<Pod>();
    let deleting = queue.clone();
    namespaces.on_change(move |change| {
        let namespace = change.object();
        if namespace.is_deleting() && !matches!(change, Change::Deleted(_)) {
            deleting.add(Key::of(&**namespace));
        }
    });
    // The last pod's end lets the rest go.
    let (again, cache, left) = (queue.clone(), namespaces.cache().clone(), pods.cache().clone());
    pods.on_change(move |change| {
        if let Change::Deleted(pod) = change
            && left.count_in(pod.namespace()) == 0
            && cache.get("", pod.namespace()).is_some_and(|namespace| namespace.is_deleting())
        {
            again.add(Key::new("", pod.namespace()));
        }
    });
    let cleaner = Arc::new(Cleaner {
        client: (context.client_for)("namespace-controller"),
        namespaces: namespaces.cache().clone(),
        clock: context.clock.clone(),
    });
    worker::start("namespace", queue, WORKERS, &context.tasks, move |key| {
        let cleaner = cleaner.clone();
        async move { cleaner.sync(key).await }
    });
}
