//! The load: pods, alone or through Deployments, in a namespace of their own; and the end of all of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use api::Gvr;
use client::{ClientError, DeleteOptions, ListOptions, WriteOptions};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::pod::Ignored;
use crate::{LABEL, Sim, SimError};

/// Between looks whether everything is gone.
const LOOK: Duration = Duration::from_millis(500);

/// A resource of the core group.
pub fn core(resource: &str) -> Gvr {
    Gvr::new("", "v1", resource)
}

/// Names what failed.
pub fn call(what: &'static str) -> impl Fn(ClientError) -> SimError {
    move |source| SimError::Call { what, source }
}

/// Creates an object.
pub async fn post(sim: &Sim, gvr: &Gvr, namespace: &str, object: &Value) -> Result<(), ClientError> {
    let options = WriteOptions::default();
    sim.client.create_at::<Value, Ignored>(gvr, namespace, object, &options).await.map(drop)
}

/// Makes the load's namespace, with its service account, which pods need.
pub async fn namespace(sim: &Sim) -> Result<(), SimError> {
    let name = sim.namespace();
    let object = json!({"apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": name, "labels": {LABEL: &*sim.run}}});
    post(sim, &core("namespaces"), "", &object).await.map_err(call("creating a namespace"))?;
    loop {
        match sim.client.get_at::<Ignored>(&core("serviceaccounts"), &name, "default").await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_not_found() => sim.clock.sleep(Duration::from_millis(50)).await,
            Err(error) => return Err(call("waiting for the service account")(error)),
        }
    }
}

/// Creates everything, as fast as it goes or as configured.
pub async fn create(sim: &Sim) -> Result<(), SimError> {
    let size = sim.config.deployment_size;
    let objects = if size == 0 { sim.config.pods } else { sim.config.pods.div_ceil(size) };
    let (made, failed): (Arc<AtomicUsize>, Arc<Mutex<Option<ClientError>>>) = Default::default();
    let began = sim.clock.monotonic();
    sim.report.load_begins();
    let mut workers = Vec::new();
    for _ in 0..sim.config.concurrency.clamp(1, objects.max(1)) {
        let (sim, made, failed) = (sim.clone(), made.clone(), failed.clone());
        let tasks = sim.tasks.clone();
        workers.push(tasks.spawn("load", async move {
            loop {
                let number = made.fetch_add(1, Ordering::Relaxed);
                if number >= objects || failed.lock().is_some() {
                    return;
                }
                if sim.config.rate > 0 {
                    let due = began + Duration::from_secs_f64(number as f64 / sim.config.rate as f64);
                    sim.clock.sleep(due.saturating_sub(sim.clock.monotonic())).await;
                }
                let done = if size == 0 { pod(&sim, number).await } else { deployment(&sim, number).await };
                if let Err(error) = done {
                    *failed.lock() = Some(error);
                }
            }
        }));
    }
    for worker in workers {
        let _ = worker.await;
    }
    match failed.lock().take() {
        Some(source) => Err(SimError::Call { what: "creating pods", source }),
        None => Ok(()),
    }
}

/// The load's pods.
pub fn pod_spec(sim: &Sim) -> Value {
    let requests = json!({"cpu": format!("{}m", sim.config.pod_cpu_milli),
        "memory": format!("{}Mi", sim.config.pod_memory_mib)});
    json!({
        "containers": [{"name": "main", "image": "hollow", "resources": {"requests": requests}}],
        "nodeSelector": {LABEL: &*sim.run},
        "automountServiceAccountToken": false,
        "terminationGracePeriodSeconds": 1,
    })
}

async fn pod(sim: &Sim, number: usize) -> Result<(), ClientError> {
    let name = format!("pod-{number}");
    let mut spec = pod_spec(sim);
    if sim.config.lifetime_ms > 0 {
        spec["restartPolicy"] = "Never".into();
    }
    let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
    sim.report.creating(&name);
    post(sim, &core("pods"), &sim.namespace(), &object).await?;
    sim.report.created(1);
    Ok(())
}

async fn deployment(sim: &Sim, number: usize) -> Result<(), ClientError> {
    let size = sim.config.deployment_size;
    let replicas = size.min(sim.config.pods - number * size);
    let name = format!("load-{number}");
    let labels = json!({"app": name});
    let object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod_spec(sim)}},
    });
    post(sim, &Gvr::new("apps", "v1", "deployments"), &sim.namespace(), &object).await?;
    sim.report.created(replicas);
    Ok(())
}

/// Deletes the namespace, waits until it is gone, then deletes the nodes and their leases.
pub async fn clean(sim: &Sim) -> Result<(), SimError> {
    let name = sim.namespace();
    let deleted = sim.client.delete_at(&core("namespaces"), "", &name, &DeleteOptions::default()).await;
    deleted.map_err(call("deleting the namespace"))?;
    while sim.client.get_at::<Ignored>(&core("namespaces"), "", &name).await.is_ok() {
        sim.clock.sleep(LOOK).await;
    }
    let select = ListOptions { labels: format!("{LABEL}={}", sim.run), ..ListOptions::default() };
    for (gvr, namespace) in
        [(core("nodes"), ""), (Gvr::new("coordination.k8s.io", "v1", "leases"), "kube-node-lease")]
    {
        let deleted =
            sim.client.delete_collection_at(&gvr, namespace, &select, &DeleteOptions::default()).await;
        deleted.map_err(call("deleting nodes"))?;
    }
    Ok(())
}
