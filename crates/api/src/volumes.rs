//! Which volume a claim may have: the one reading of PersistentVolumes and claims, for the binder and the
//! scheduler.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::k8s::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use crate::k8s::apimachinery::pkg::api::resource;
use crate::labels::Selector;
use crate::{Quantity, nodes};

/// On a claim: its binding is done.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// On a volume or claim: the reference in it was made by a controller, which may take it back.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// On a claim: the node its first pod goes to.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// On a claim: who is to make its volume.
pub const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
/// On a volume: who made it.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// The provisioner of classes whose volumes people make.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// The provisioner of volumes that are directories of nodes.
pub const LOCAL: &str = "local.navarch.io";
/// On a node: where it keeps such directories.
pub const LOCAL_DIRECTORY: &str = "local.navarch.io/directory";
/// On a node, followed by a volume's name: its directory is to go, or is [`LOCAL_REMOVED`].
pub const LOCAL_REMOVE: &str = "remove.local.navarch.io/";
/// The node has removed the directory.
pub const LOCAL_REMOVED: &str = "done";

type Amounts = BTreeMap<String, resource::Quantity>;

/// The annotation of an object.
fn annotation<'a>(annotations: Option<&'a BTreeMap<String, String>>, name: &str) -> Option<&'a str> {
    annotations?.get(name).map(String::as_str)
}

/// The storage amount of a list; zero when absent.
pub fn storage(list: Option<&Amounts>) -> Quantity {
    list.and_then(|list| list.get("storage")).and_then(|text| text.0.parse().ok()).unwrap_or_default()
}

/// What a volume holds.
pub fn capacity(volume: &PersistentVolume) -> Quantity {
    storage(volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()))
}

/// What a claim asks for.
pub fn requested(claim: &PersistentVolumeClaim) -> Quantity {
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    storage(resources.and_then(|resources| resources.requests.as_ref()))
}

/// The name of the claim's StorageClass; empty for none.
pub fn class_of(claim: &PersistentVolumeClaim) -> &str {
    let old = annotation(claim.metadata.annotations.as_ref(), "volume.beta.kubernetes.io/storage-class");
    old.or(claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref())).unwrap_or("")
}

/// The name of the volume's StorageClass; empty for none.
pub fn class_of_volume(volume: &PersistentVolume) -> &str {
    let old = annotation(volume.metadata.annotations.as_ref(), "volume.beta.kubernetes.io/storage-class");
    old.or(volume.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref())).unwrap_or("")
}

/// The volume a claim names; `None` when it names none.
pub fn volume_name(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.spec.as_ref()?.volume_name.as_deref().filter(|name| !name.is_empty())
}

/// True when the claim's binding is done.
pub fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    volume_name(claim).is_some() && annotation(claim.metadata.annotations.as_ref(), BIND_COMPLETED).is_some()
}

/// The node a claim's first pod goes to.
pub fn selected_node(claim: &PersistentVolumeClaim) -> Option<&str> {
    annotation(claim.metadata.annotations.as_ref(), SELECTED_NODE)
}

/// True when the volume names this claim.
pub fn is_meant_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    reference.is_some_and(|reference| {
        reference.name == claim.metadata.name
            && reference.namespace == claim.metadata.namespace
            && reference
                .uid
                .as_deref()
                .is_none_or(|uid| uid.is_empty() || Some(uid) == claim.metadata.uid.as_deref())
    })
}

/// True when pods on a node of this name and these labels can use the volume.
pub fn reaches(volume: &PersistentVolume, node: &str, labels: Option<&BTreeMap<String, String>>) -> bool {
    let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required.as_ref());
    required.is_none_or(|selector| nodes::admits(selector, node, labels))
}

/// True when size, mode and attributes class of the volume serve the claim: what must hold even for a volume
/// that names the claim.
pub fn serves(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let (Some(offer), Some(wish)) = (&volume.spec, &claim.spec) else { return false };
    let mode = |mode: &Option<String>| mode.clone().unwrap_or_else(|| "Filesystem".to_owned());
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    volume.metadata.deletion_timestamp.is_none()
        && mode(&offer.volume_mode) == mode(&wish.volume_mode)
        && text(&offer.volume_attributes_class_name) == text(&wish.volume_attributes_class_name)
        && capacity(volume) >= requested(claim)
}

/// True when the volume has all access modes that the claim wants.
pub fn has_modes(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let modes = volume.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
    let wanted = claim.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
    wanted.iter().all(|mode| modes.contains(mode))
}

/// A node, as far as volumes care.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The node's name.
    pub node: &'a str,
    /// The node's labels.
    pub labels: Option<&'a BTreeMap<String, String>>,
}

/// The volume for a claim: one that names the claim, else the smallest free one that fits, by name among equals.
/// `taken` are names of volumes given away already. `place`: where it will be used, when that is known.
pub fn find<'a>(
    claim: &PersistentVolumeClaim,
    volumes: &'a [Arc<PersistentVolume>],
    taken: &BTreeSet<String>,
    place: Option<Place<'_>>,
) -> Option<&'a Arc<PersistentVolume>> {
    let selector = match claim.spec.as_ref().and_then(|spec| spec.selector.as_ref()) {
        None => Selector::everything(),
        Some(selector) => Selector::from_object(Some(selector)).unwrap_or_else(|_| Selector::nothing()),
    };
    let reached =
        |volume: &PersistentVolume| place.is_none_or(|place| reaches(volume, place.node, place.labels));
    let open = |volume: &&Arc<PersistentVolume>| {
        let name = volume.metadata.name.as_deref().unwrap_or("");
        !taken.contains(name) && serves(volume, claim)
    };
    if let Some(named) = volumes.iter().filter(open).find(|volume| is_meant_for(volume, claim)) {
        return Some(named).filter(|volume| reached(volume));
    }
    let free = volumes.iter().filter(open).filter(|volume| {
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        phase == Some("Available")
            && volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_none())
            && class_of_volume(volume) == class_of(claim)
            && selector.matches_opt(volume.metadata.labels.as_ref())
            && has_modes(volume, claim)
            && reached(volume)
    });
    free.min_by(|a, b| {
        let by_size = capacity(a).partial_cmp(&capacity(b)).unwrap_or(std::cmp::Ordering::Equal);
        by_size.then_with(|| a.metadata.name.cmp(&b.metadata.name))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn volume(name: &str, size: &str, more: Value) -> Arc<PersistentVolume> {
        let mut spec = json!({"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"]});
        more.as_object().into_iter().flatten().for_each(|(key, value)| spec[key] = value.clone());
        let object = json!({"metadata": {"name": name}, "spec": spec, "status": {"phase": "Available"}});
        Arc::new(serde_json::from_value(object).expect("a volume"))
    }

    #[test]
    fn the_smallest_within_reach() {
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({
            "metadata": {"name": "c", "namespace": "n", "uid": "C"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}},
        }))
        .expect("a claim");
        let on = |node: &str| {
            json!({"nodeAffinity": {"required": {"nodeSelectorTerms": [
                {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]}}})
        };
        let mut all = vec![
            volume("big", "10Gi", json!({})),
            volume("there", "2Gi", on("b")),
            volume("small", "1Gi", json!({})),
            volume("wide", "3Gi", json!({})),
        ];
        let name = |all: &[Arc<PersistentVolume>], taken: &[&str], node: &str| {
            let taken = taken.iter().map(|name| (*name).to_owned()).collect();
            let found = find(&claim, all, &taken, Some(Place { node, labels: None }));
            found.and_then(|volume| volume.metadata.name.clone()).unwrap_or_default()
        };
        assert_eq!(name(&all, &[], "a"), "wide");
        assert_eq!(name(&all, &[], "b"), "there");
        assert_eq!(name(&all, &["wide"], "a"), "big");
        all.push(volume("mine", "2Gi", json!({"claimRef": {"name": "c", "namespace": "n"}})));
        assert_eq!(name(&all, &[], "b"), "mine");
    }
}
