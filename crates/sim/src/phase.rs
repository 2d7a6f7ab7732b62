//! What comes after the deployment: every Deployment rolled, a tenth of the nodes drained against budgets, all of it
//! deleted; each waits until the cluster has followed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use api::Gvr;
use api::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use api::wire::Wire;
use client::{Cache, ClientError, DeleteOptions, Informer, Meta, Patch, ResourceRef, Scope, SharedInformers};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::json;

use crate::load::{call, core, pod_spec, post};
use crate::pod::{Hollow, Ignored};
use crate::usage::Phase;
use crate::{Sim, SimError};

/// Between looks whether the drained nodes are empty, and between tries of a refused eviction.
const LOOK: Duration = Duration::from_millis(500);

/// How far a Deployment is.
#[derive(Debug)]
pub struct Rollout {
    meta: ObjectMeta,
    status: Status,
    replicas: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    observed_generation: i64,
    replicas: u64,
    updated_replicas: u64,
    available_replicas: u64,
}

#[derive(Deserialize)]
struct Spec {
    #[serde(default)]
    replicas: u64,
}

#[derive(Deserialize)]
struct Raw {
    metadata: ObjectMeta,
    spec: Spec,
    #[serde(default)]
    status: Status,
}

impl Wire for Rollout {
    fn from_json(text: &[u8]) -> Result<Self, serde_json::Error> {
        let Raw { metadata, spec, status } = serde_json::from_slice(text)?;
        Ok(Rollout { meta: metadata, status, replicas: spec.replicas })
    }

    fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(&json!({"metadata": self.meta}))
    }
}

impl Meta for Rollout {
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

impl Rollout {
    /// True when all pods are of the newest template and serve.
    fn is_complete(&self, generation: i64) -> bool {
        let Status { observed_generation, replicas, updated_replicas, available_replicas } = self.status;
        observed_generation >= generation
            && [replicas, updated_replicas, available_replicas] == [self.replicas; 3]
    }
}

/// What the phases look at.
pub struct Follower {
    rollouts: Arc<Informer<Rollout>>,
    pods: Cache<Hollow>,
}

impl Follower {
    /// Follows the load's Deployments; `pods` are followed already.
    pub async fn new(sim: &Sim, informers: &SharedInformers, pods: Cache<Hollow>) -> Follower {
        let resource = ResourceRef::new("apps", "v1", "deployments", "Deployment", true);
        let scope = Scope { namespace: sim.namespace(), ..Scope::default() };
        let rollouts = informers.any::<Rollout>(resource, scope);
        rollouts.synced().await;
        Follower { rollouts, pods }
    }

    /// Waits until all Deployments are complete, having seen `generation`.
    async fn complete(&self, generation: i64) {
        let mut ticks = self.rollouts.ticks();
        loop {
            // The cache may still miss the newest ones: they are not complete when they come.
            ticks.mark_unchanged();
            if self.rollouts.cache().list().iter().all(|one| one.is_complete(generation)) {
                return;
            }
            // The informer lives as long as this.
            let _ = ticks.changed().await;
        }
    }
}

fn deployments() -> Gvr {
    Gvr::new("apps", "v1", "deployments")
}

/// Runs `work` for all items, some at a time; the first failure.
async fn each<T, F, W>(sim: &Sim, items: Vec<T>, what: &'static str, work: W) -> Result<(), SimError>
where
    T: Send + 'static,
    F: Future<Output = Result<(), ClientError>> + Send + 'static,
    W: Fn(Sim, T) -> F + Clone + Send + Sync + 'static,
{
    let (left, failed) = (Arc::new(Mutex::new(items)), Arc::new(Mutex::new(None)));
    let mut workers = Vec::new();
    for _ in 0..sim.config.concurrency.max(1) {
        let (sim, left, failed, work) = (sim.clone(), left.clone(), failed.clone(), work.clone());
        let tasks = sim.tasks.clone();
        workers.push(tasks.spawn("phase", async move {
            loop {
                let Some(item) = left.lock().pop() else { return };
                if let Err(error) = work(sim.clone(), item).await {
                    *failed.lock() = Some(error);
                    return;
                }
            }
        }));
    }
    for worker in workers {
        // A panic has been logged.
        let _ = worker.await;
    }
    failed.lock().take().map_or(Ok(()), |error| Err(call(what)(error)))
}

/// A new template for every Deployment, then waits until no old pod is left.
pub async fn roll(sim: &Sim, follower: &Follower) -> Result<(), SimError> {
    let phase = Phase::begin("roll", &sim.clock);
    let names: Vec<String> =
        follower.rollouts.cache().list().iter().map(|one| one.name().to_owned()).collect();
    let count = names.len();
    let mut template = json!({"spec": pod_spec(sim)});
    template["spec"]["containers"][0]["image"] = json!("hollow:2");
    let patch = Patch::Merge(json!({"spec": {"template": template}}));
    each(sim, names, "rolling", move |sim, name| {
        let patch = patch.clone();
        async move {
            let space = sim.namespace();
            sim.client.patch_at::<Ignored>(&deployments(), &space, &name, "", &patch).await.map(drop)
        }
    })
    .await?;
    follower.complete(2).await;
    phase.end(&format!("{count} Deployments, {} pods", sim.config.pods));
    Ok(())
}

/// A budget for each Deployment, then a tenth of the nodes cordoned and their pods evicted; waits until they are empty
/// and everything serves again.
pub async fn drain(sim: &Sim, follower: &Follower) -> Result<(), SimError> {
    let names: Vec<String> =
        follower.rollouts.cache().list().iter().map(|one| one.name().to_owned()).collect();
    each(sim, names, "making budgets", |sim, name| async move {
        let spec = json!({"maxUnavailable": "10%", "selector": {"matchLabels": {"app": name}}});
        let object = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
            "metadata": {"name": name}, "spec": spec});
        post(&sim, &Gvr::new("policy", "v1", "poddisruptionbudgets"), &sim.namespace(), &object).await
    })
    .await?;
    let phase = Phase::begin("drain", &sim.clock);
    let count = sim.config.nodes.div_ceil(10);
    let nodes: BTreeSet<String> = (0..count).map(|number| sim.node_name(number)).collect();
    mark(sim, &nodes, true).await?;
    let mut evicted = 0;
    loop {
        let here: Vec<_> =
            follower.pods.list().into_iter().filter(|pod| nodes.contains(&*pod.node)).collect();
        if here.is_empty() {
            break;
        }
        let due: Vec<String> =
            here.iter().filter(|pod| !pod.is_deleting()).map(|pod| pod.name().to_owned()).collect();
        evicted = evicted.max(due.len());
        each(sim, due, "evicting", |sim, name| async move {
            match sim.client.evict(&sim.namespace(), &name, &DeleteOptions::default()).await {
                // Its budget is used up for now, or it is gone.
                Err(error) if error.api().is_some_and(|e| matches!(e.code, 404 | 409 | 429)) => Ok(()),
                other => other,
            }
        })
        .await?;
        sim.clock.sleep(LOOK).await;
    }
    follower.complete(2).await;
    phase.end(&format!("{count} nodes, {evicted} pods"));
    mark(sim, &nodes, false).await
}

async fn mark(sim: &Sim, nodes: &BTreeSet<String>, unschedulable: bool) -> Result<(), SimError> {
    each(sim, nodes.iter().cloned().collect(), "marking nodes", move |sim, name| async move {
        let patch = Patch::Merge(json!({"spec": {"unschedulable": unschedulable}}));
        sim.client.patch_at::<Ignored>(&core("nodes"), "", &name, "", &patch).await.map(drop)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollout_is_complete_when_all_pods_are_new_and_serve() {
        let check = |observed: i64, replicas: u64, updated: u64, available: u64| {
            let object = json!({"metadata": {"name": "d"}, "spec": {"replicas": 3}, "status": {
                "observedGeneration": observed, "replicas": replicas, "updatedReplicas": updated,
                "availableReplicas": available}});
            Rollout::from_tree(&object).expect("a deployment").is_complete(2)
        };
        assert!(check(2, 3, 3, 3));
        assert!(!check(1, 3, 3, 3) && !check(2, 4, 3, 3) && !check(2, 3, 2, 3) && !check(2, 3, 3, 2));
    }
}
