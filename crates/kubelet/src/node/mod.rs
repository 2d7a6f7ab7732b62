//! The Node object: registered, its status and lease kept.
//!
//! Must not know pods.

pub mod machine;
pub mod object;

use std::sync::Arc;
use std::time::Duration;

use api::k8s::api::coordination::v1::{Lease, LeaseSpec};
use api::k8s::api::core::v1::{Node, NodeStatus};
use api::k8s::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use api::wire::Wire;
use client::{ClientError, EventKind, Patch};
use runtime::cri::messages as m;
use serde_json::{Value, json};

use crate::shared::Shared;

/// The namespace of nodes' leases.
const LEASES: &str = "kube-node-lease";
/// The first pause between looks while it is not ready, and the longest.
const LOOK_UNREADY: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(500));

/// Registers the node and keeps its status; returns only on cancellation.
pub async fn run(shared: Arc<Shared>) {
    let mut reported: Option<NodeStatus> = None;
    let mut reported_at = Duration::ZERO;
    let mut images = (Duration::ZERO, Vec::new());
    let mut unready = LOOK_UNREADY.0;
    loop {
        let now = shared.clock.monotonic();
        if images.1.is_empty() || now >= images.0 {
            images = (now + Duration::from_secs(60), object::images(&shared).await);
        }
        let status = object::status(&shared, reported.as_ref(), &images.1).await;
        let due = now.saturating_sub(reported_at) >= shared.config.status_period;
        let changed = reported.as_ref().is_none_or(|old| object::differs(old, &status));
        if due || changed {
            match write(&shared, &status, reported.as_ref()).await {
                Ok(()) => (reported, reported_at) = (Some(status.clone()), now),
                Err(error) => tracing::warn!(%error, "node status not written"),
            }
        }
        let ready = reported.is_some() && object::is_ready(&status);
        unready = if ready { LOOK_UNREADY.0 } else { (unready * 3 / 2).min(LOOK_UNREADY.1) };
        let wait = if ready { shared.config.node_look } else { unready };
        tokio::select! {
            () = shared.clock.sleep(wait) => {}
            () = shared.pressures.changed() => {}
            () = shared.devices.changed() => {}
            () = shared.shutdown.changed() => {}
        }
    }
}

async fn write(shared: &Shared, status: &NodeStatus, before: Option<&NodeStatus>) -> Result<(), ClientError> {
    let name = &shared.config.node_name;
    if before.is_none() {
        register(shared, status).await?;
    }
    let body = Patch::Strategic(patch(status, before));
    match shared.client.patch_status::<Node>("", name, &body).await {
        // Somebody deleted it: it comes back.
        Err(error) if error.is_not_found() && shared.config.register => {
            register(shared, status).await?;
            shared.client.patch_status::<Node>("", name, &body).await.map(drop)
        }
        Err(error) => Err(error),
        Ok(_) => {
            let ready = |status: &NodeStatus| object::is_ready(status);
            if ready(status) && before.is_none_or(|before| !ready(before)) {
                let message = format!("Node {name} status is now: NodeReady");
                shared.events.about(&shared.about_node(), EventKind::Normal, "NodeReady", &message);
            }
            Ok(())
        }
    }
}

/// Only our own fields and resources: what others put into capacity (extended resources) stays.
fn patch(status: &NodeStatus, before: Option<&NodeStatus>) -> Value {
    let mut fields = Wire::to_tree(status).unwrap_or_else(|_| json!({}));
    let addresses = |status: &NodeStatus| serde_json::to_value(&status.addresses).unwrap_or_default();
    if let (Some(list), true) = (
        fields.get_mut("addresses").and_then(Value::as_array_mut),
        before.is_none_or(|before| addresses(before) != addresses(status)),
    ) {
        list.push(json!({"$patch": "replace"}));
    }
    json!({"status": fields})
}

/// Creates the Node object, or brings labels of an existing one up to date.
async fn register(shared: &Shared, status: &NodeStatus) -> Result<(), ClientError> {
    let node = object::node(shared, status);
    if !shared.config.register {
        return Ok(());
    }
    match shared.client.create(&node).await {
        Ok(_) => {
            tracing::info!(node = shared.config.node_name, "registered");
            return Ok(());
        }
        Err(error) if error.is_already_exists() => {}
        Err(error) => return Err(error),
    }
    let labels = node.metadata.labels.unwrap_or_default();
    let current: Node = shared.client.get("", &shared.config.node_name).await?;
    let there = current.metadata.labels.unwrap_or_default();
    if labels.iter().all(|(key, value)| there.get(key) == Some(value)) {
        return Ok(());
    }
    let body = Patch::Merge(json!({"metadata": {"labels": labels}}));
    // A label that a node may not give itself must not keep the node from working.
    if let Err(error) = shared.client.patch::<Node>("", &shared.config.node_name, &body).await {
        tracing::warn!(%error, "node labels not brought up to date");
    }
    Ok(())
}

/// Renews the node's lease four times per its duration.
pub async fn keep_lease(shared: Arc<Shared>) {
    let seconds = shared.config.lease_seconds.max(4);
    let period = Duration::from_secs(u64::try_from(seconds).unwrap_or(40) / 4);
    let mut held: Option<Lease> = None;
    loop {
        match renew(&shared, held.take(), seconds).await {
            Ok(lease) => {
                held = Some(lease);
                shared.clock.sleep(period).await;
            }
            Err(error) => {
                tracing::debug!(%error, "node lease not renewed");
                shared.clock.sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn renew(shared: &Shared, held: Option<Lease>, seconds: i32) -> Result<Lease, ClientError> {
    let name = &shared.config.node_name;
    let now = Some(MicroTime(shared.clock.now()));
    let current = match held {
        Some(lease) => Some(lease),
        None => shared.client.get_opt::<Lease>(LEASES, name).await?,
    };
    if let Some(mut lease) = current {
        if lease.metadata.owner_references.as_ref().is_none_or(Vec::is_empty) {
            lease.metadata.owner_references = owner(shared).await?;
        }
        let spec = lease.spec.get_or_insert_default();
        spec.renew_time = now;
        spec.holder_identity = Some(name.clone());
        spec.lease_duration_seconds = Some(seconds);
        return shared.client.update(&lease).await;
    }
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(LEASES.into()),
            owner_references: owner(shared).await?,
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name.clone()),
            lease_duration_seconds: Some(seconds),
            renew_time: now,
            ..LeaseSpec::default()
        }),
    };
    shared.client.create(&lease).await
}

/// The lease goes when its node goes; the node may not exist yet.
async fn owner(shared: &Shared) -> Result<Option<Vec<OwnerReference>>, ClientError> {
    let name = &shared.config.node_name;
    let node = shared.client.get_opt::<Node>("", name).await?;
    Ok(node.map(|node| {
        vec![OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: name.clone(),
            uid: node.metadata.uid.unwrap_or_default(),
            ..OwnerReference::default()
        }]
    }))
}

/// Why the node cannot take pods, if it cannot.
pub async fn ready(shared: &Shared) -> Result<(), String> {
    runtime_ready(shared).await?;
    if shared.shutdown.begun() { Err("node is shutting down".to_owned()) } else { Ok(()) }
}

/// The runtime's readiness: (runtime, network and why not).
async fn runtime_ready(shared: &Shared) -> Result<(), String> {
    let answer = shared.cri.status(m::StatusRequest { verbose: false }).await;
    let status =
        answer.map_err(|error| format!("container runtime is down: {error}"))?.status.unwrap_or_default();
    for condition in status.conditions {
        if !condition.status {
            let what = if condition.r#type == "NetworkReady" {
                "container runtime network not ready"
            } else {
                "container runtime not ready"
            };
            return Err(format!(
                "{what}: {}=false reason:{} message:{}",
                condition.r#type, condition.reason, condition.message
            ));
        }
    }
    Ok(())
}
