//! Hollow nodes: registered once, alive through their leases, their conditions repeated now and then.

use std::sync::Arc;
use std::time::Duration;

use api::Gvr;
use client::{ClientError, Patch, Queue};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::load::post;
use crate::pod::{Ignored, Version};
use crate::{LABEL, Sim, SimError};

/// Upstream's kubelet repeats an unchanged status this often.
const STATUS_EVERY: Duration = Duration::from_secs(300);
const LEASES: &str = "kube-node-lease";

fn nodes() -> Gvr {
    Gvr::new("", "v1", "nodes")
}

fn leases() -> Gvr {
    Gvr::new("coordination.k8s.io", "v1", "leases")
}

/// Creates all Node objects, then keeps them alive in the background.
pub async fn register(sim: &Sim) -> Result<(), SimError> {
    let left = Arc::new(Mutex::new((0..sim.config.nodes).collect::<Vec<usize>>()));
    let failed: Arc<Mutex<Option<ClientError>>> = Arc::default();
    let alive: Queue<usize> = Queue::new(sim.clock.clone());
    let mut workers = Vec::new();
    for _ in 0..sim.config.concurrency.max(1) {
        let (sim, left, failed, alive) = (sim.clone(), left.clone(), failed.clone(), alive.clone());
        let tasks = sim.tasks.clone();
        workers.push(tasks.spawn("registering", async move {
            while let Some(number) = next(&left) {
                if let Err(error) = create(&sim, number).await {
                    *failed.lock() = Some(error);
                    return;
                }
                sim.report.node();
                // Renewals are spread over the period, so that they never come in waves.
                alive.add_after(number, sim.config.renewal().mul_f64(sim.rng.f64()));
            }
        }));
    }
    for worker in workers {
        let _ = worker.await;
    }
    if let Some(source) = failed.lock().take() {
        return Err(SimError::Call { what: "registering nodes", source });
    }
    sim.report.nodes_done();
    keep_alive(sim, alive);
    Ok(())
}

fn next(left: &Mutex<Vec<usize>>) -> Option<usize> {
    left.lock().pop()
}

async fn create(sim: &Sim, number: usize) -> Result<(), ClientError> {
    let name = sim.node_name(number);
    let now = api::time::format(sim.clock.now());
    let object = object(sim, &name, number, &now);
    post(sim, &nodes(), "", &object).await?;
    post(sim, &leases(), LEASES, &lease(sim, &name)).await
}

fn object(sim: &Sim, name: &str, number: usize, now: &str) -> Value {
    let config = &sim.config;
    let labels = json!({
        LABEL: &*sim.run, "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
        "topology.kubernetes.io/zone": format!("zone-{}", number % 3),
    });
    let room = json!({
        "cpu": config.node_cpus.to_string(), "memory": format!("{}Gi", config.node_memory_gib),
        "pods": config.node_pods.to_string(), "ephemeral-storage": "100Gi",
    });
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels},
        "status": {
            "capacity": room, "allocatable": room, "conditions": conditions(now),
            "addresses": [
                {"type": "InternalIP", "address": address(number)}, {"type": "Hostname", "address": name},
            ],
            "nodeInfo": {
                "architecture": "amd64", "operatingSystem": "linux", "osImage": "hollow", "kernelVersion": "0",
                "containerRuntimeVersion": "hollow://0", "kubeletVersion": "v1.36.2", "kubeProxyVersion": "",
                "machineID": name, "systemUUID": name, "bootID": name,
            },
        },
    })
}

/// The address of a node: of the network for benchmarks (RFC 2544), which no machine has.
pub fn address(number: usize) -> String {
    format!("198.{}.{}.{}", 18 + (number >> 16 & 1), number >> 8 & 255, number & 255)
}

fn conditions(now: &str) -> Value {
    let one = |kind: &str, status: &str, reason: &str| {
        json!({"type": kind, "status": status, "reason": reason, "message": "", "lastHeartbeatTime": now,
            "lastTransitionTime": now})
    };
    json!([
        one("MemoryPressure", "False", "KubeletHasSufficientMemory"),
        one("DiskPressure", "False", "KubeletHasNoDiskPressure"),
        one("PIDPressure", "False", "KubeletHasSufficientPID"),
        one("Ready", "True", "KubeletReady"),
    ])
}

fn lease(sim: &Sim, name: &str) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": name, "namespace": LEASES, "labels": {LABEL: &*sim.run}},
        "spec": {
            "holderIdentity": name, "leaseDurationSeconds": sim.config.lease_seconds,
            "renewTime": api::time::format_micro(sim.clock.now()),
        },
    })
}

impl crate::Config {
    /// Between renewals of a lease.
    fn renewal(&self) -> Duration {
        Duration::from_secs(u64::from(self.lease_seconds.max(4))) / 4
    }
}

/// What is remembered of each node between its beats.
#[derive(Clone, Copy, Default)]
struct Beat {
    count: u32,
    /// The lease's resourceVersion; 0 when unknown.
    revision: u64,
}

fn keep_alive(sim: &Sim, alive: Queue<usize>) {
    let beats = STATUS_EVERY.as_secs() / sim.config.renewal().as_secs().max(1);
    let beats = u32::try_from(beats).unwrap_or(1).max(1);
    let known = Arc::new(Mutex::new(vec![Beat::default(); sim.config.nodes]));
    for _ in 0..sim.config.concurrency.max(1) {
        let (sim, alive, known) = (sim.clone(), alive.clone(), known.clone());
        let tasks = sim.tasks.clone();
        tasks.spawn("leases", async move {
            loop {
                let number = alive.next().await;
                let Beat { count, revision } = known.lock()[number];
                let renewed = beat(&sim, number, revision, count % beats == beats - 1).await;
                let revision = renewed.unwrap_or_else(|error| {
                    tracing::debug!(%error, node = number, "a hollow node's heartbeat failed");
                    0
                });
                known.lock()[number] = Beat { count: count.wrapping_add(1), revision };
                alive.add_after(number, sim.config.renewal());
                alive.done(&number);
            }
        });
    }
}

/// Renews a lease as a kubelet does, by writing the one it has; the new resourceVersion.
async fn beat(sim: &Sim, number: usize, revision: u64, status: bool) -> Result<u64, ClientError> {
    let name = sim.node_name(number);
    let mut object = lease(sim, &name);
    let Version(revision) = if revision == 0 {
        let patch = Patch::Merge(json!({"spec": object["spec"]}));
        sim.client.patch_at(&leases(), LEASES, &name, "", &patch).await?
    } else {
        object["metadata"]["resourceVersion"] = revision.to_string().into();
        sim.client.update_at(&leases(), LEASES, &name, "", &object).await?
    };
    if status {
        let now = api::time::format(sim.clock.now());
        let beats: Vec<Value> = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"]
            .map(|kind| json!({"type": kind, "lastHeartbeatTime": now}))
            .into();
        let patch = Patch::Strategic(json!({"status": {"conditions": beats}}));
        sim.client.patch_at::<Ignored>(&nodes(), "", &name, "status", &patch).await?;
    }
    Ok(revision)
}
