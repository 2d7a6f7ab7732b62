//! Finalizers that keep claims and volumes while they are used; claims of ephemeral volumes.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::k8s::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use api::k8s::api::storage::v1::VolumeAttributesClass;
use api::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use client::{Kind, Meta, Plan};

use crate::owner::controller_ref;
use crate::pods;

const CLAIM: &str = "kubernetes.io/pvc-protection";
const ATTRIBUTES: &str = "kubernetes.io/vac-protection";
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

/// Keeps a class of attributes while a claim or a volume has it, or is about to.
pub fn attributes_class(class: &VolumeAttributesClass, in_use: bool) -> Plan {
    keep(class, ATTRIBUTES, in_use)
}

/// Names of the classes of attributes that a claim has, wants, or is being given.
pub fn classes_of_claim(claim: &PersistentVolumeClaim) -> BTreeSet<String> {
    let status = claim.status.as_ref();
    let modified = status.and_then(|status| status.modify_volume_status.as_ref());
    let names = [
        claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.clone()),
        status.and_then(|status| status.current_volume_attributes_class_name.clone()),
        modified.and_then(|modified| modified.target_volume_attributes_class_name.clone()),
    ];
    names.into_iter().flatten().filter(|name| !name.is_empty()).collect()
}

/// The name of the class of attributes that a volume has.
pub fn class_of_volume(volume: &PersistentVolume) -> Option<String> {
    let name = volume.spec.as_ref()?.volume_attributes_class_name.clone()?;
    Some(name).filter(|name| !name.is_empty())
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
    fn used_classes_of_attributes_stay() {
        let class: VolumeAttributesClass =
            serde_json::from_value(json!({"driverName": "d", "metadata": {"name": "c",
            "finalizers": [ATTRIBUTES], "deletionTimestamp": "2030-01-01T00:00:00Z"}}))
            .expect("a class");
        assert!(attributes_class(&class, true).is_empty());
        assert_eq!(attributes_class(&class, false).steps().len(), 1);
        let claim: PersistentVolumeClaim =
            serde_json::from_value(json!({"spec": {"volumeAttributesClassName": "a"},
            "status": {"currentVolumeAttributesClassName": "b", "modifyVolumeStatus": {
                "status": "Pending", "targetVolumeAttributesClassName": "c"}}}))
            .expect("a claim");
        assert_eq!(classes_of_claim(&claim).into_iter().collect::<String>(), "abc");
    }

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
