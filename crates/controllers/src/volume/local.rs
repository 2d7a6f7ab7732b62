//! Plans of the provisioner of local volumes: a directory of the node the first pod goes to, its size counted
//! against the node's room, removed by the node when its claim is gone.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::k8s::api::core::v1::{
    LocalVolumeSource, Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume,
    PersistentVolumeClaim, PersistentVolumeSpec, VolumeNodeAffinity,
};
use api::k8s::api::storage::v1::{CSIStorageCapacity, StorageClass};
use api::k8s::apimachinery::pkg::api::resource::Quantity;
use api::k8s::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use api::volumes::{
    self, LOCAL, LOCAL_DIRECTORY, LOCAL_REMOVE, LOCAL_REMOVED, PROVISIONED_BY, SELECTED_NODE,
};
use client::{EventKind, Meta, Plan};
use serde_json::json;

use super::binder;

/// Where the capacities of nodes are told.
pub const CAPACITY_NAMESPACE: &str = "kube-system";
/// Keeps a volume until its directory is gone.
const FINALIZER: &str = "local.navarch.io/directory";
const HOSTNAME: &str = "kubernetes.io/hostname";
/// What an annotation says that asks for a directory's removal.
const ASKED: &str = "remove";

/// What a plan looks at besides its object.
pub struct World<'a> {
    /// All volumes.
    pub volumes: &'a [Arc<PersistentVolume>],
    /// All nodes.
    pub nodes: &'a [Arc<Node>],
}

impl World<'_> {
    fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name() == name).map(|node| &**node)
    }
}

fn is_ours(volume: &PersistentVolume) -> bool {
    volume.annotation(PROVISIONED_BY) == Some(LOCAL)
}

/// The node that holds a local volume.
pub fn node_of(volume: &PersistentVolume) -> Option<&str> {
    let affinity = volume.spec.as_ref()?.node_affinity.as_ref()?;
    let term = affinity.required.as_ref()?.node_selector_terms.first()?;
    let requirement = term.match_expressions.as_ref()?.iter().find(|one| one.key == HOSTNAME)?;
    is_ours(volume).then_some(())?;
    requirement.values.as_ref()?.first().map(String::as_str)
}

/// The name by which volumes and capacities know a node.
fn host(node: &Node) -> &str {
    node.label(HOSTNAME).unwrap_or(node.name())
}

fn bytes(quantity: &api::Quantity) -> i64 {
    quantity.value()
}

/// What counts for a node's room.
pub fn room_facts(node: &Node) -> (Option<&str>, Option<&Quantity>, Option<&str>) {
    let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
    let size = allocatable.and_then(|list| list.get("ephemeral-storage"));
    (node.annotation(LOCAL_DIRECTORY), size, node.label(HOSTNAME))
}

/// Bytes left for volumes; `None` when the node keeps none.
fn free(node: &Node, volumes: &[Arc<PersistentVolume>]) -> Option<i64> {
    let (directory, size, _) = room_facts(node);
    directory?;
    let mine = volumes.iter().filter(|volume| node_of(volume) == Some(host(node)));
    let used: i64 = mine.map(|volume| bytes(&volumes::capacity(volume))).sum();
    Some((size.map_or(0, |size| api::quantity::of(size).value()) - used).max(0))
}

/// What to do about a claim: make its volume, or make that larger.
pub fn claim(claim: &PersistentVolumeClaim, class: Option<&StorageClass>, world: &World<'_>) -> Plan {
    let mut plan = Plan::none();
    let Some(class) = class.filter(|class| class.provisioner == LOCAL && !claim.is_deleting()) else {
        return plan;
    };
    if binder::is_bound(claim) {
        expand(claim, class, world, &mut plan);
        return plan;
    }
    let named = world.volumes.iter().any(|volume| volumes::is_meant_for(volume, claim));
    let asked = claim.annotation(volumes::PROVISIONER) == Some(LOCAL);
    if named || !asked || volumes::volume_name(claim).is_some() {
        return plan;
    }
    let waits = class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer");
    let wanted = bytes(&volumes::requested(claim));
    let chosen = match volumes::selected_node(claim) {
        Some(name) => world.node(name).ok_or_else(|| format!("node {name:?} not found")),
        None if waits => return plan,
        None => roomiest(world).ok_or_else(|| "no node keeps local volumes".to_owned()),
    };
    let fitting = chosen.and_then(|node| match free(node, world.volumes) {
        None => Err(format!("node {:?} keeps no local volumes", node.name())),
        Some(free) if free < wanted => {
            Err(format!("node {:?} has {free} bytes left for volumes, {wanted} are wanted", node.name()))
        }
        Some(_) => Ok(node),
    });
    let is_block = claim.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref()) == Some("Block");
    match fitting {
        Ok(_) if is_block => {
            refuse(claim, "local volumes are directories: volumeMode Block cannot be had", &mut plan)
        }
        Ok(node) => make(claim, class, node, &mut plan),
        Err(why) => refuse(claim, &why, &mut plan),
    }
    plan
}

fn roomiest<'a>(world: &'a World<'_>) -> Option<&'a Node> {
    let usable = |node: &&Arc<Node>| !node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
    let nodes = world.nodes.iter().filter(usable);
    let free = nodes.filter_map(|node| Some((free(node, world.volumes)?, node)));
    let best = free.max_by(|a, b| a.0.cmp(&b.0).then_with(|| b.1.name().cmp(a.1.name())));
    best.map(|(_, node)| &**node)
}

/// Tells why there is no volume. A claim whose node was chosen by the scheduler goes back to it.
fn refuse(claim: &PersistentVolumeClaim, why: &str, plan: &mut Plan) {
    let text = format!("failed to provision volume with StorageClass {:?}: {why}", volumes::class_of(claim));
    plan.event(claim, EventKind::Warning, "ProvisioningFailed", text);
    if claim.annotation(SELECTED_NODE).is_some() {
        plan.merge(claim, json!({"metadata": {"uid": claim.uid(), "annotations": {SELECTED_NODE: null}}}));
    }
}

fn make(claim: &PersistentVolumeClaim, class: &StorageClass, node: &Node, plan: &mut Plan) {
    let name = format!("pvc-{}", claim.uid());
    let directory = node.annotation(LOCAL_DIRECTORY).unwrap_or_default();
    let wish = claim.spec.clone().unwrap_or_default();
    let requests = wish.resources.and_then(|resources| resources.requests);
    let size = requests.and_then(|mut requests| requests.remove("storage")).unwrap_or_default();
    let policy = class.reclaim_policy.clone().unwrap_or_else(|| "Delete".to_owned());
    let requirement = NodeSelectorRequirement {
        key: HOSTNAME.to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![host(node).to_owned()]),
    };
    let term = NodeSelectorTerm { match_expressions: Some(vec![requirement]), ..NodeSelectorTerm::default() };
    let volume = PersistentVolume {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            annotations: Some(BTreeMap::from([(PROVISIONED_BY.to_owned(), LOCAL.to_owned())])),
            finalizers: Some(vec![FINALIZER.to_owned()]),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: wish.access_modes,
            capacity: Some(BTreeMap::from([("storage".to_owned(), size)])),
            claim_ref: Some(binder::reference(claim)),
            local: Some(LocalVolumeSource {
                path: format!("{directory}/{name}"),
                ..LocalVolumeSource::default()
            }),
            node_affinity: Some(VolumeNodeAffinity {
                required: Some(NodeSelector { node_selector_terms: vec![term] }),
            }),
            persistent_volume_reclaim_policy: Some(policy),
            storage_class_name: class.metadata.name.clone(),
            volume_mode: Some("Filesystem".to_owned()),
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    };
    plan.create(&volume);
    let text = format!("Successfully provisioned volume {name}");
    plan.event(claim, EventKind::Normal, "ProvisioningSucceeded", text);
}

/// Grows a bound volume to what its claim asks for: first the volume, then what the claim says it has.
fn expand(claim: &PersistentVolumeClaim, class: &StorageClass, world: &World<'_>, plan: &mut Plan) {
    let name = volumes::volume_name(claim).unwrap_or_default();
    let Some(volume) = world.volumes.iter().find(|volume| volume.name() == name && is_ours(volume)) else {
        return;
    };
    let wanted = volumes::requested(claim);
    // What has no capacity yet is still being bound.
    let Some(has) = claim.status.as_ref().and_then(|status| status.capacity.as_ref()) else { return };
    if volumes::storage(Some(has)) >= wanted {
        return;
    }
    let requests = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
    let size = requests.and_then(|requests| requests.get("storage")).cloned().unwrap_or_default();
    let more = bytes(&wanted) - bytes(&volumes::capacity(volume));
    if more > 0 {
        let node = node_of(volume).and_then(|name| world.nodes.iter().find(|node| host(node) == name));
        let room = node.and_then(|node| free(node, world.volumes)).unwrap_or(0);
        if class.allow_volume_expansion != Some(true) || room < more {
            let text = format!("the node has {room} bytes left for volumes, {more} more are wanted");
            plan.event(claim, EventKind::Warning, "VolumeResizeFailed", text);
            return;
        }
        let mut after = (**volume).clone();
        let capacity = after.spec.get_or_insert_default().capacity.get_or_insert_default();
        capacity.insert("storage".to_owned(), size.clone());
        plan.update(&after);
    }
    let mut after = claim.clone();
    let capacity = after.status.get_or_insert_default().capacity.get_or_insert_default();
    capacity.insert("storage".to_owned(), size);
    plan.update_status(&after);
    plan.event(claim, EventKind::Normal, "VolumeResizeSuccessful", "Resize volume succeeded");
}

/// What a node was asked about a volume's directory.
pub fn removal<'a>(node: &'a Node, volume: &str) -> Option<&'a str> {
    node.annotation(&format!("{LOCAL_REMOVE}{volume}"))
}

/// True when the node has been asked to remove any directory.
pub fn has_removals(node: &Node) -> bool {
    node.metadata.annotations.iter().flatten().any(|(key, _)| key.starts_with(LOCAL_REMOVE))
}

/// What to do about a volume of ours whose claim is gone, or which is being deleted.
pub fn reclaim(volume: &PersistentVolume, world: &World<'_>) -> Plan {
    let mut plan = Plan::none();
    if !is_ours(volume) {
        return plan;
    }
    let spec = volume.spec.as_ref();
    let deletes = spec.and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref()) == Some("Delete");
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    if !volume.is_deleting() {
        if deletes && phase == Some("Released") {
            plan.delete(volume);
        }
        return plan;
    }
    let held = volume.metadata.finalizers.iter().flatten();
    let (ours, others): (Vec<&String>, Vec<&String>) = held.partition(|one| *one == FINALIZER);
    if ours.is_empty() || !others.is_empty() {
        return plan;
    }
    let node = node_of(volume).and_then(|name| world.nodes.iter().find(|node| host(node) == name));
    let key = format!("{LOCAL_REMOVE}{}", volume.name());
    match node.filter(|_| deletes) {
        Some(node) if removal(node, volume.name()) != Some(LOCAL_REMOVED) => {
            if removal(node, volume.name()).is_none() {
                plan.merge(&**node, json!({"metadata": {"annotations": {key: ASKED}}}));
            }
            // The node's answer brings the volume back here.
        }
        removed => {
            let mut after = volume.clone();
            after.metadata.finalizers = None;
            plan.update(&after);
            if let Some(node) = removed {
                plan.merge(&**node, json!({"metadata": {"annotations": {key: null}}}));
            }
        }
    }
    plan
}

/// Tells the node's room in one CSIStorageCapacity a class, and forgets removals of volumes that are gone.
pub fn room(
    node: &Node,
    volumes: &[Arc<PersistentVolume>],
    classes: &[Arc<StorageClass>],
    known: &dyn Fn(&str) -> Option<Arc<CSIStorageCapacity>>,
) -> Plan {
    let mut plan = Plan::none();
    let removals = node.metadata.annotations.iter().flatten();
    let removals = removals.filter_map(|(key, _)| Some((key, key.strip_prefix(LOCAL_REMOVE)?)));
    for (key, _) in removals.filter(|(_, name)| !volumes.iter().any(|volume| volume.name() == *name)) {
        plan.merge(node, json!({"metadata": {"annotations": {key: null}}}));
    }
    let Some(free) = free(node, volumes) else { return plan };
    for class in classes.iter().filter(|class| class.provisioner == LOCAL) {
        let name = format!("{}-{}", class.name(), node.name());
        let capacity = Some(Quantity(free.to_string()));
        match known(&name) {
            Some(old) if old.capacity == capacity => {}
            Some(old) => {
                plan.update(&CSIStorageCapacity { capacity, ..(*old).clone() });
            }
            None => {
                plan.create(&capacity_of(node, class, name, capacity));
            }
        }
    }
    plan
}

fn capacity_of(
    node: &Node,
    class: &StorageClass,
    name: String,
    capacity: Option<Quantity>,
) -> CSIStorageCapacity {
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.name().to_owned(),
        uid: node.uid().to_owned(),
        ..OwnerReference::default()
    };
    CSIStorageCapacity {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(CAPACITY_NAMESPACE.to_owned()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        storage_class_name: class.name().to_owned(),
        node_topology: Some(LabelSelector {
            match_labels: Some(BTreeMap::from([(HOSTNAME.to_owned(), host(node).to_owned())])),
            ..LabelSelector::default()
        }),
        capacity,
        maximum_volume_size: None,
    }
}

#[cfg(test)]
mod tests {
    use client::Step;
    use serde_json::Value;

    use super::*;

    fn key(plan: &Plan) -> Vec<String> {
        plan.steps().iter().map(|step| step.summary()).collect()
    }

    fn node(annotations: Value) -> Arc<Node> {
        let mut all = json!({LOCAL_DIRECTORY: "/v"});
        annotations.as_object().into_iter().flatten().for_each(|(key, value)| all[key] = value.clone());
        let object = json!({
            "metadata": {"name": "a", "uid": "A", "labels": {HOSTNAME: "host-a"}, "annotations": all},
            "status": {"allocatable": {"ephemeral-storage": "10Gi"}},
        });
        Arc::new(serde_json::from_value(object).expect("a node"))
    }

    fn wish(size: &str) -> PersistentVolumeClaim {
        let annotations = json!({SELECTED_NODE: "a", volumes::PROVISIONER: LOCAL});
        let object = json!({
            "metadata": {"name": "c", "namespace": "n", "uid": "C", "annotations": annotations},
            "spec": {"storageClassName": "local", "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": size}}},
        });
        serde_json::from_value(object).expect("a claim")
    }

    fn class() -> StorageClass {
        let object = json!({"metadata": {"name": "local"}, "provisioner": LOCAL, "reclaimPolicy": "Delete",
            "volumeBindingMode": "WaitForFirstConsumer", "allowVolumeExpansion": true});
        serde_json::from_value(object).expect("a class")
    }

    fn made() -> PersistentVolume {
        let world = World { volumes: &[], nodes: &[node(json!({}))] };
        let plan = claim(&wish("4Gi"), Some(&class()), &world);
        let Step::Create { object, .. } = plan.steps()[0] else { panic!("a volume") };
        serde_json::from_value(object.clone()).expect("a volume")
    }

    #[test]
    fn volumes_are_made_where_the_pod_goes_while_there_is_room() {
        let volume = made();
        assert_eq!(volume.name(), "pvc-C");
        assert_eq!(node_of(&volume), Some("host-a"));
        let path = volume.spec.as_ref().and_then(|spec| spec.local.as_ref()).map(|local| local.path.clone());
        assert_eq!(path.as_deref(), Some("/v/pvc-C"));
        let nodes = [node(json!({}))];
        let world = World { volumes: &[Arc::new(volume.clone())], nodes: &nodes };
        assert!(claim(&wish("4Gi"), Some(&class()), &world).is_empty(), "made already");
        let mut other = wish("7Gi");
        other.metadata.uid = Some("D".to_owned());
        other.metadata.name = Some("d".to_owned());
        let refused = key(&claim(&other, Some(&class()), &world));
        assert!(refused[0].contains("ProvisioningFailed"), "{refused:?}");
        assert!(refused[1].contains("\"volume.kubernetes.io/selected-node\":null"), "{refused:?}");
        let told = room(&nodes[0], world.volumes, &[Arc::new(class())], &|_| None);
        let Step::Create { object, .. } = told.steps()[0] else { panic!("a capacity") };
        assert_eq!(object["capacity"], (6_i64 << 30).to_string());
    }

    #[test]
    fn volumes_grow() {
        let mut larger = wish("6Gi");
        let annotations = larger.metadata.annotations.get_or_insert_default();
        annotations.insert(volumes::BIND_COMPLETED.to_owned(), "yes".to_owned());
        larger.spec.get_or_insert_default().volume_name = Some("pvc-C".to_owned());
        let capacity = BTreeMap::from([("storage".to_owned(), Quantity("4Gi".to_owned()))]);
        larger.status.get_or_insert_default().capacity = Some(capacity);
        let world = World { volumes: &[Arc::new(made())], nodes: &[node(json!({}))] };
        let steps = key(&claim(&larger, Some(&class()), &world));
        assert_eq!(steps[0], "update persistentvolumes pvc-C");
        assert_eq!(steps[1], "update persistentvolumeclaims/status n/c");
    }

    #[test]
    fn directories_go_before_their_volumes() {
        let mut volume = made();
        volume.status.get_or_insert_default().phase = Some("Released".to_owned());
        let plan = |volume: &PersistentVolume, annotations: Value| {
            let nodes = [node(annotations)];
            key(&reclaim(volume, &World { volumes: &[], nodes: &nodes }))
        };
        assert_eq!(plan(&volume, json!({})), ["delete persistentvolumes pvc-C"]);
        let time = "2030-01-01T00:00:00Z".parse().expect("a time");
        volume.metadata.deletion_timestamp = Some(api::k8s::apimachinery::pkg::apis::meta::v1::Time(time));
        assert!(plan(&volume, json!({}))[0].starts_with("patch nodes"));
        let asked = "remove.local.navarch.io/pvc-C";
        assert!(plan(&volume, json!({asked: "remove"})).is_empty(), "the node is at it");
        let done = plan(&volume, json!({asked: "done"}));
        assert_eq!(done[0], "update persistentvolumes pvc-C");
        assert!(done[1].contains("null"));
        let gone = key(&reclaim(&volume, &World { volumes: &[], nodes: &[] }));
        assert_eq!(gone, ["update persistentvolumes pvc-C"], "the node is gone with its disk");
    }
}
