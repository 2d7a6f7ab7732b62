//! Finalizers that keep claims and volumes while they are used; claims of ephemeral volumes.

use std::sync::Arc;

use api::k8s::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use api::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use client::{Kind, Meta, Plan};

use crate::owner::controller_ref;
use crate::pods;

const CLAIM: &str = "kubernetes.io/pvc-protection";
const VOLUME: &str = "kubernetes.io/pv-protection";

fn keep<K: Kind>(object: &K, finalizer: &str, in_use: bool) -> Plan {
    let mut plan = Plan::none();
    let held = object.meta().finalizers.iter().flatten().any(|known| known == finalizer);
    let mut after = object.clone();
    if object.is_deleting() && held && !in_use {
        after.meta_mut().finalizers.get_or_insert_default().retain(|known| known != finalizer);
        plan.update(&after);
    } else if !object.is_deleting() && !held {
        after.meta_mut().finalizers.get_or_insert_default().push(finalizer.to_owned());
        plan.update(&after);
    }
    plan
}

/// Keeps a claim while a placed pod that has not ended uses it.
pub fn claim(claim: &PersistentVolumeClaim, users: &[Arc<Pod>]) -> Plan {
    let in_use = users.iter().any(|pod| !pods::is_finished(pod) && !pods::node(pod).is_empty());
    keep(claim, CLAIM, in_use)
}

/// Keeps a volume while it is bound.
pub fn volume(volume: &PersistentVolume) -> Plan {
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    keep(volume, VOLUME, phase == Some("Bound"))
}

/// Makes the claims of a pod's ephemeral volumes.
pub fn ephemeral(pod: &Pod, known: &dyn Fn(&str) -> bool) -> Plan {
    let mut plan = Plan::none();
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
    for volume in volumes.into_iter().flatten() {
        let template = volume.ephemeral.as_ref().and_then(|source| source.volume_claim_template.as_ref());
        let Some(template) = template else { continue };
        let name = format!("{}-{}", pod.name(), volume.name);
        if known(&name) {
            continue;
        }
        let meta = template.metadata.clone().unwrap_or_default();
        plan.create(&PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: pod.metadata.namespace.clone(),
                labels: meta.labels,
                annotations: meta.annotations,
                owner_references: Some(vec![controller_ref(pod)]),
                ..ObjectMeta::default()
            },
            spec: Some(template.spec.clone()),
            status: None,
        });
    }
    plan
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn used_claims_stay() {
        let claim = |deleting: bool| -> PersistentVolumeClaim {
            let mut value = json!({"metadata": {"name": "c", "namespace": "n", "finalizers": [CLAIM]}});
            if deleting {
                value["metadata"]["deletionTimestamp"] = json!("2030-01-01T00:00:00Z");
            }
            serde_json::from_value(value).expect("a claim")
        };
        let user: Arc<Pod> = Arc::new(
            serde_json::from_value(json!({"spec": {"nodeName": "a", "containers": []}})).expect("a pod"),
        );
        assert!(super::claim(&claim(true), &[user.clone()]).is_empty());
        assert!(super::claim(&claim(false), &[user]).is_empty());
        assert_eq!(super::claim(&claim(true), &[]).steps().len(), 1);
    }
}
