//! The plan for what is attached to one node: a VolumeAttachment for every CSI volume that a pod there needs and
//! whose driver attaches, none for others.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::k8s::api::core::v1::{Node, PersistentVolume};
use api::k8s::api::storage::v1::{VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec};
use api::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use client::{Key, Meta, Patch, Plan, Step};
use ring::digest;
use serde_json::json;

/// Driver and handle of a CSI volume.
pub fn csi(volume: &PersistentVolume) -> Option<(&str, &str)> {
    let source = volume.spec.as_ref()?.csi.as_ref()?;
    Some((&source.driver, &source.volume_handle))
}

/// The name under which nodes report a volume.
fn unique_name(driver: &str, handle: &str) -> String {
    format!("kubernetes.io/csi/{driver}^{handle}")
}

/// The name of an attachment, as every controller and driver derives it.
fn attachment_name(driver: &str, handle: &str, node: &str) -> String {
    let hash = digest::digest(&digest::SHA256, format!("{handle}{driver}{node}").as_bytes());
    let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("csi-{hex}")
}

fn attachment(name: &str, driver: &str, volume: &str, node: &str) -> VolumeAttachment {
    VolumeAttachment {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        spec: VolumeAttachmentSpec {
            attacher: driver.to_owned(),
            node_name: node.to_owned(),
            source: VolumeAttachmentSource {
                persistent_volume_name: Some(volume.to_owned()),
                ..VolumeAttachmentSource::default()
            },
        },
        status: None,
    }
}

/// What to do for one node. `needed` are the volumes that pods there use and that are attached by their drivers;
/// `present` the node's attachments; `volume` finds volumes by name.
pub fn plan(
    node: &Node,
    needed: &[Arc<PersistentVolume>],
    present: &[Arc<VolumeAttachment>],
    volume: &dyn Fn(&str) -> Option<Arc<PersistentVolume>>,
) -> Plan {
    let mut plan = Plan::none();
    let mut wanted: BTreeMap<String, (&str, &PersistentVolume)> = BTreeMap::new();
    for volume in needed {
        if let Some((driver, handle)) = csi(volume) {
            wanted.insert(attachment_name(driver, handle, node.name()), (driver, volume));
        }
    }
    for (name, (driver, volume)) in &wanted {
        if !present.iter().any(|known| known.name() == name) {
            let made = attachment(name, driver, volume.name(), node.name());
            plan.step(Step::create(&made).or_exists());
        }
    }
    let status = node.status.as_ref();
    let in_use = status.and_then(|status| status.volumes_in_use.as_deref()).unwrap_or_default();
    let mut attached = Vec::new();
    for known in present {
        let source = known.spec.source.persistent_volume_name.as_deref();
        let source = source.and_then(volume);
        let of_csi = source.as_deref().and_then(csi);
        let name = of_csi.map(|(driver, handle)| unique_name(driver, handle));
        let mounted = name.as_ref().is_some_and(|name| in_use.contains(name));
        // Attachments of other names were made by others, who also remove them.
        let ours = of_csi
            .is_some_and(|(driver, handle)| attachment_name(driver, handle, node.name()) == known.name());
        if ours && !wanted.contains_key(known.name()) && !mounted && !known.is_deleting() {
            plan.delete(&**known);
        } else if known.status.as_ref().is_some_and(|status| status.attached) {
            attached.extend(name);
        }
    }
    attached.sort();
    let told = status.and_then(|status| status.volumes_attached.as_deref()).unwrap_or_default();
    if !told.iter().map(|one| &one.name).eq(&attached) {
        let list: Vec<serde_json::Value> =
            attached.iter().map(|name| json!({"name": name, "devicePath": ""})).collect();
        let patch = Patch::Merge(json!({"status": {"volumesAttached": list}}));
        plan.step(Step::patch::<Node>(&Key::of(node), "status", patch));
    }
    plan
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn attachments_follow_pods() {
        let node = |in_use: Value| -> Node {
            serde_json::from_value(json!({"metadata": {"name": "n"}, "status": {"volumesInUse": in_use}}))
                .expect("a node")
        };
        let volume: Arc<PersistentVolume> = Arc::new(
            serde_json::from_value(
                json!({"metadata": {"name": "v"}, "spec": {"csi": {"driver": "d", "volumeHandle": "h"}}}),
            )
            .expect("a volume"),
        );
        let find = |_: &str| Some(volume.clone());
        let steps = |plan: Plan| plan.steps().iter().map(|step| step.summary()).collect::<Vec<_>>();
        let name = attachment_name("d", "h", "n");
        assert_eq!(name.len(), 68);
        let made = steps(plan(&node(json!([])), std::slice::from_ref(&volume), &[], &find));
        assert_eq!(made, [format!("create volumeattachments.storage.k8s.io {name}")]);
        let mut there = attachment(&name, "d", "v", "n");
        there.status = Some(serde_json::from_value(json!({"attached": true})).expect("a status"));
        let there = [Arc::new(there)];
        let kept = steps(plan(&node(json!([])), std::slice::from_ref(&volume), &there, &find));
        assert!(kept[0].contains("kubernetes.io/csi/d^h") && kept.len() == 1, "{kept:?}");
        let busy = steps(plan(&node(json!(["kubernetes.io/csi/d^h"])), &[], &there, &find));
        assert!(!busy.iter().any(|step| step.starts_with("delete")), "still mounted: {busy:?}");
        let other = [Arc::new(attachment("mine", "d", "v", "n"))];
        assert!(plan(&node(json!([])), &[], &other, &find).is_empty(), "made by somebody else");
        let gone = steps(plan(&node(json!([])), &[], &there, &find));
        assert!(gone[0].starts_with("delete volumeattachments"), "{gone:?}");
    }
}
