//! Pods of hollow nodes: what is kept of them, and what happens to each next.

use std::sync::Arc;
use std::time::Duration;

use api::Gvr;
use api::k8s::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use api::wire::Wire;
use base::Clock;
use client::{
    Cache, Change, ClientError, DeleteOptions, Key, Meta, Patch, Queue, ResourceRef, Scope, SharedInformers,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Sim, node};

/// An answer that nobody reads.
pub struct Ignored;

impl Wire for Ignored {
    fn from_json(_: &[u8]) -> Result<Self, serde_json::Error> {
        Ok(Ignored)
    }

    fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        Ok(b"null".to_vec())
    }
}

/// An answer of which only the resourceVersion is read.
pub struct Version(pub u64);

impl Wire for Version {
    fn from_json(text: &[u8]) -> Result<Self, serde_json::Error> {
        let Raw { metadata, .. } = serde_json::from_slice(text)?;
        Ok(Version(metadata.resource_version.parse().unwrap_or(0)))
    }

    fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(&self.0)
    }
}

/// What is kept of a pod: half a million of them fit in memory.
#[derive(Debug)]
pub struct Hollow {
    meta: ObjectMeta,
    /// The node; empty while unbound.
    pub node: Box<str>,
    /// `Pending`, `Running`, …
    pub phase: Box<str>,
    /// Names and images of the containers.
    pub containers: Box<[(Box<str>, Box<str>)]>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawMeta {
    name: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    uid: String,
    #[serde(default)]
    resource_version: String,
    deletion_timestamp: Option<Time>,
}

#[derive(Deserialize)]
struct RawContainer {
    name: Box<str>,
    #[serde(default)]
    image: Box<str>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawSpec {
    node_name: Box<str>,
    containers: Vec<RawContainer>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawStatus {
    phase: Box<str>,
}

#[derive(Deserialize)]
struct Raw {
    metadata: RawMeta,
    #[serde(default)]
    spec: RawSpec,
    #[serde(default)]
    status: RawStatus,
}

impl Wire for Hollow {
    fn from_json(text: &[u8]) -> Result<Self, serde_json::Error> {
        let Raw { metadata, spec, status } = serde_json::from_slice(text)?;
        let meta = ObjectMeta {
            name: Some(metadata.name),
            namespace: Some(metadata.namespace),
            uid: Some(metadata.uid),
            resource_version: Some(metadata.resource_version),
            deletion_timestamp: metadata.deletion_timestamp,
            ..ObjectMeta::default()
        };
        let containers = spec.containers.into_iter().map(|one| (one.name, one.image)).collect();
        Ok(Hollow { meta, node: spec.node_name, phase: status.phase, containers })
    }

    fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(&json!({"metadata": self.meta}))
    }
}

impl Meta for Hollow {
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

/// What happens to a pod next, and after how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Nothing,
    Run,
    Complete,
    Remove,
}

fn next(pod: &Hollow, config: &crate::Config) -> (Next, Duration) {
    let after = Duration::from_millis;
    match &*pod.phase {
        _ if pod.is_deleting() => (Next::Remove, after(config.shutdown_ms)),
        "" | "Pending" => (Next::Run, after(config.startup_ms)),
        "Running" if config.lifetime_ms > 0 => (Next::Complete, after(config.lifetime_ms)),
        _ => (Next::Nothing, Duration::ZERO),
    }
}

/// A pod and what is to happen to it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    key: Key,
    /// A pod that is deleted is told apart from the same pod before.
    deleting: bool,
    running: bool,
}

/// Watches all pods and walks those of hollow nodes through their phases.
pub async fn follow(sim: &Sim, informers: &SharedInformers) -> Cache<Hollow> {
    let resource = ResourceRef::new("", "v1", "pods", "Pod", true);
    let scope = Scope { fields: "spec.nodeName!=".to_owned(), ..Scope::default() };
    let pods = informers.any::<Hollow>(resource, scope);
    let queue: Queue<Due> = Queue::new(sim.clock.clone());
    let (add, this, namespace) = (queue.clone(), sim.clone(), sim.namespace());
    pods.on_change(move |change| {
        let pod = change.object();
        if this.node_number(&pod.node).is_none() {
            return;
        }
        if pod.namespace() == namespace {
            this.report.seen(pod.name(), &pod.phase);
        }
        if matches!(change, Change::Deleted(_)) {
            return;
        }
        let (next, delay) = next(pod, &this.config);
        if next != Next::Nothing {
            let due =
                Due { key: Key::of(&**pod), deleting: pod.is_deleting(), running: &*pod.phase == "Running" };
            add.add_after(due, delay);
        }
    });
    for _ in 0..sim.config.concurrency.max(1) {
        let (sim, queue, cache) = (sim.clone(), queue.clone(), pods.cache().clone());
        let tasks = sim.tasks.clone();
        tasks.spawn("hollow pods", async move { work(&sim, &queue, &cache).await });
    }
    pods.synced().await;
    pods.cache().clone()
}

async fn work(sim: &Sim, queue: &Queue<Due>, cache: &Cache<Hollow>) {
    loop {
        let due = queue.next().await;
        let done = match cache.get_key(&due.key) {
            Some(pod) => act(sim, &pod).await,
            None => Ok(()),
        };
        match done {
            Ok(()) => queue.forget(&due),
            Err(error) if error.is_not_found() => queue.forget(&due),
            Err(error) => {
                tracing::debug!(%error, pod = %due.key, "a hollow pod's step failed");
                queue.add_failed(due.clone());
            }
        }
        queue.done(&due);
    }
}

async fn act(sim: &Sim, pod: &Arc<Hollow>) -> Result<(), ClientError> {
    let gvr = Gvr::new("", "v1", "pods");
    let status = match next(pod, &sim.config).0 {
        Next::Nothing => return Ok(()),
        Next::Remove => {
            let options = DeleteOptions::uid(pod.uid()).grace(0);
            return sim.client.delete_at(&gvr, pod.namespace(), pod.name(), &options).await.map(drop);
        }
        Next::Run => running(pod, sim),
        Next::Complete => completed(pod, &sim.clock),
    };
    let patch = Patch::Merge(json!({"metadata": {"uid": pod.uid()}, "status": status}));
    sim.client.patch_at::<Ignored>(&gvr, pod.namespace(), pod.name(), "status", &patch).await.map(drop)
}

fn conditions(now: &str, ready: bool) -> Value {
    let one = |kind: &str, status: bool| json!({"type": kind, "status": if status { "True" } else { "False" }, "lastTransitionTime": now});
    json!([
        one("PodScheduled", true),
        one("Initialized", true),
        one("ContainersReady", ready),
        one("Ready", ready)
    ])
}

fn running(pod: &Hollow, sim: &Sim) -> Value {
    let now = api::time::format(sim.clock.now());
    let containers: Vec<Value> = pod
        .containers
        .iter()
        .map(|(name, image)| {
            json!({"name": name, "image": image, "imageID": image, "ready": true, "started": true,
                "restartCount": 0, "containerID": format!("hollow://{}/{name}", pod.uid()),
                "state": {"running": {"startedAt": now}}})
        })
        .collect();
    let address = sim.report.address();
    json!({
        "phase": "Running", "conditions": conditions(&now, true), "startTime": now,
        "hostIP": node::address(sim.node_number(&pod.node).unwrap_or(0)),
        "podIP": address, "podIPs": [{"ip": address}], "containerStatuses": containers,
    })
}

fn completed(pod: &Hollow, clock: &Clock) -> Value {
    let now = api::time::format(clock.now());
    let containers: Vec<Value> = pod
        .containers
        .iter()
        .map(|(name, image)| {
            json!({"name": name, "image": image, "imageID": image, "ready": false, "started": false,
                "restartCount": 0, "state": {"terminated": {"exitCode": 0, "reason": "Completed", "finishedAt": now}}})
        })
        .collect();
    json!({"phase": "Succeeded", "conditions": conditions(&now, false), "containerStatuses": containers})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(phase: &str, deleting: bool) -> Hollow {
        let mut pod = json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "resourceVersion": "7", "labels": {"a": "b"}},
            "spec": {"nodeName": "x", "containers": [{"name": "c", "image": "i", "env": []}], "volumes": []},
            "status": {"phase": phase, "qosClass": "Burstable"},
        });
        if deleting {
            pod["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z".into();
        }
        Hollow::from_tree(&pod).expect("a pod")
    }

    #[test]
    fn pods_walk_through_their_phases() {
        #[derive(clap::Parser)]
        struct Args {
            #[command(flatten)]
            config: crate::Config,
        }
        let config =
            <Args as clap::Parser>::parse_from(["sim", "--startup-ms", "7", "--lifetime-ms", "9"]).config;
        let check = |phase: &str, deleting: bool| next(&pod(phase, deleting), &config);
        assert_eq!(check("Pending", false), (Next::Run, Duration::from_millis(7)));
        assert_eq!(check("Running", false), (Next::Complete, Duration::from_millis(9)));
        assert_eq!(check("Succeeded", false).0, Next::Nothing);
        assert_eq!(check("Running", true), (Next::Remove, Duration::from_millis(500)));
        let pod = pod("Pending", false);
        assert_eq!((pod.name(), pod.revision(), &*pod.node, pod.containers.len()), ("p", 7, "x", 1));
    }
}
