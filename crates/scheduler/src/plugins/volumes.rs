//! VolumeBinding, VolumeRestrictions, VolumeZone and NodeVolumeLimits: nodes must reach the pod's volumes, or
//! volumes must be had for them there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::k8s::api::core::v1::{
    PersistentVolume, PersistentVolumeClaim, RBDVolumeSource, TopologySelectorTerm, Volume,
};
use api::k8s::api::storage::v1::StorageClass;
use api::labels::Selector;
use api::volumes::{self, NO_PROVISIONER, Place};

use super::devices::Reservation;
use super::{Cycle, Refusal};
use crate::pod::PodInfo;
use crate::snapshot::{NodeInfo, Snapshot};
use crate::storage::Storage;

/// Volumes bound to claims reach the node, others can be had there.
pub const BINDING: &str = "VolumeBinding";
/// Volumes that only one pod may use.
pub const RESTRICTIONS: &str = "VolumeRestrictions";
/// Volumes and nodes in the same zone.
pub const ZONE: &str = "VolumeZone";
/// How many volumes a node takes.
pub const LIMITS: &str = "NodeVolumeLimits";

const WAIT: &str = "WaitForFirstConsumer";
const ZONE_LABELS: [&str; 4] = [
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
];

/// A claim that gets its volume when its pod gets a node.
#[derive(Clone, Debug)]
struct Waiting {
    claim: Arc<PersistentVolumeClaim>,
    class: Option<Arc<StorageClass>>,
}

/// The pod's claims, sorted out once.
#[derive(Clone, Debug, Default)]
pub struct State {
    missing: Option<String>,
    not_ready: Option<String>,
    unzoned: Option<String>,
    /// Claims that only one pod may use.
    alone: Vec<String>,
    /// Uses of them by others.
    users: i64,
    bound: Vec<Option<Arc<PersistentVolume>>>,
    waiting: Vec<Waiting>,
    candidates: Vec<Arc<PersistentVolume>>,
    zones: Vec<(String, BTreeSet<String>)>,
}

fn not_found(name: &str) -> String {
    format!("persistentvolumeclaim {name:?} not found")
}

impl State {
    /// Looks up the pod's claims, volumes and classes.
    pub fn new(pod: &PodInfo, snapshot: &Snapshot) -> State {
        let mut state = State::default();
        if pod.claims.is_empty() {
            return state;
        }
        for wanted in &pod.claims {
            let claim = snapshot.storage.claims.get(&pod.namespace, &wanted.name);
            match claim {
                Some(claim) => state.sort_in(pod, wanted.ephemeral, &claim, snapshot),
                None if wanted.ephemeral => {
                    let text = format!(
                        "waiting for ephemeral volume controller to create the persistentvolumeclaim {:?}",
                        wanted.name
                    );
                    state.not_ready.get_or_insert(text);
                }
                None => drop(state.missing.get_or_insert_with(|| not_found(&wanted.name))),
            }
        }
        state.waiting.sort_by_key(|waiting| {
            (volumes::requested(&waiting.claim).value(), waiting.claim.metadata.name.clone())
        });
        if state.is_alone() {
            for node in snapshot.nodes() {
                node.pods.iter().for_each(|other| state.fold(pod, other, 1));
            }
        }
        if !state.waiting.is_empty() {
            state.candidates = snapshot.storage.volumes.list();
        }
        state
    }

    /// True when the pod has a claim that only one pod may use.
    pub fn is_alone(&self) -> bool {
        !self.alone.is_empty()
    }

    /// Counts the uses of such claims by `other`, which came (`sign` 1) or left (-1).
    pub fn fold(&mut self, pod: &PodInfo, other: &PodInfo, sign: i64) {
        if other.namespace == pod.namespace {
            let uses = other.claims.iter().filter(|claim| self.alone.contains(&claim.name)).count();
            self.users += sign * i64::try_from(uses).unwrap_or(0);
        }
    }

    fn sort_in(
        &mut self,
        pod: &PodInfo,
        ephemeral: bool,
        claim: &Arc<PersistentVolumeClaim>,
        snapshot: &Snapshot,
    ) {
        let storage = &snapshot.storage;
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        let volume = volumes::volume_name(claim);
        let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
        let owned = || claim.metadata.owner_references.iter().flatten().any(|owner| owner.uid == pod.uid);
        let complaint = if phase == Some("Lost") {
            let gone = volume.unwrap_or_default();
            Some(format!("persistentvolumeclaim {name:?} bound to non-existent persistentvolume {gone:?}"))
        } else if claim.metadata.deletion_timestamp.is_some() {
            Some(format!("persistentvolumeclaim {name:?} is being deleted"))
        } else if ephemeral && !owned() {
            let key = format!("{}/{name}", pod.namespace);
            Some(format!("PVC {key} was not created for pod {} (pod is not owner)", pod.key))
        } else {
            None
        };
        if let Some(text) = complaint {
            self.not_ready.get_or_insert(text);
        }
        let modes = claim.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
        if modes.iter().any(|mode| mode == "ReadWriteOncePod") {
            self.alone.push(name.to_owned());
        }
        let class = storage.classes.get("", volumes::class_of(claim));
        if volumes::is_bound(claim) {
            let found = volume.and_then(|volume| storage.volumes.get("", volume));
            match &found {
                Some(volume) => self.zones.extend(zones(volume)),
                None => {
                    let text = format!("persistentvolume {:?} not found", volume.unwrap_or_default());
                    self.unzoned.get_or_insert(text);
                }
            }
            self.bound.push(found);
            return;
        }
        let waits = class.as_ref().is_some_and(|class| class.volume_binding_mode.as_deref() == Some(WAIT));
        if waits && volume.is_none() {
            self.waiting.push(Waiting { claim: claim.clone(), class });
        } else {
            self.not_ready
                .get_or_insert_with(|| "pod has unbound immediate PersistentVolumeClaims".to_owned());
        }
    }
}

/// The zones a volume's labels name.
fn zones(volume: &PersistentVolume) -> Vec<(String, BTreeSet<String>)> {
    let labels = volume.metadata.labels.iter().flatten();
    let zones = labels.filter(|(key, _)| ZONE_LABELS.contains(&key.as_str()));
    zones.map(|(key, value)| (key.clone(), value.split("__").map(str::to_owned).collect())).collect()
}

/// True when the pod has claims.
pub fn has_claims(cycle: &Cycle<'_>) -> bool {
    !cycle.pod.claims.is_empty()
}

/// True when the pod has claims, or disks that others may not write to.
pub fn uses_volumes(cycle: &Cycle<'_>) -> bool {
    has_claims(cycle) || cycle.pod.has_disks
}

/// VolumeRestrictions, whatever the node: claims must exist.
pub fn restricted(cycle: &Cycle<'_>) -> Option<Refusal> {
    cycle.volumes.missing.as_deref().map(|reason| Refusal::told(RESTRICTIONS, vec![reason.to_owned()]))
}

/// VolumeRestrictions.
pub fn restrictions(cycle: &Cycle<'_>, node: &NodeInfo) -> Option<Refusal> {
    if cycle.pod.has_disks {
        let own = || cycle.pod.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        let others = node.pods.iter().filter(|other| other.has_disks);
        let mut theirs =
            others.flat_map(|other| &other.pod.spec).flat_map(|spec| spec.volumes.iter().flatten());
        if theirs.any(|theirs| own().any(|own| disks_collide(own, theirs))) {
            return Some(Refusal::new(RESTRICTIONS, "node(s) had no available disk"));
        }
    }
    let text = "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by \
                another pod";
    (cycle.volumes.users > 0).then(|| Refusal::new(RESTRICTIONS, text))
}

/// True when two pods may want a claim or disk that only one of them can have.
pub fn may_collide(pod: &PodInfo, other: &PodInfo) -> bool {
    let same = |name: &str| other.claims.iter().any(|theirs| theirs.name == name);
    pod.has_disks && other.has_disks
        || pod.namespace == other.namespace && pod.claims.iter().any(|own| same(&own.name))
}

/// True for volumes that name a disk which only one writer may use.
pub fn is_disk(volume: &Volume) -> bool {
    volume.gce_persistent_disk.is_some()
        || volume.aws_elastic_block_store.is_some()
        || volume.iscsi.is_some()
        || volume.rbd.is_some()
}

fn disks_collide(a: &Volume, b: &Volume) -> bool {
    let reads = |flag: Option<bool>| flag.unwrap_or(false);
    let gce = a
        .gce_persistent_disk
        .as_ref()
        .zip(b.gce_persistent_disk.as_ref())
        .is_some_and(|(a, b)| a.pd_name == b.pd_name && !(reads(a.read_only) && reads(b.read_only)));
    let aws = a.aws_elastic_block_store.as_ref().zip(b.aws_elastic_block_store.as_ref());
    let aws = aws.is_some_and(|(a, b)| a.volume_id == b.volume_id);
    let iscsi = a
        .iscsi
        .as_ref()
        .zip(b.iscsi.as_ref())
        .is_some_and(|(a, b)| a.iqn == b.iqn && !(reads(a.read_only) && reads(b.read_only)));
    let pool = |rbd: &RBDVolumeSource| rbd.pool.clone().unwrap_or_else(|| "rbd".to_owned());
    let rbd = a.rbd.as_ref().zip(b.rbd.as_ref()).is_some_and(|(a, b)| {
        a.monitors.iter().any(|monitor| b.monitors.contains(monitor))
            && pool(a) == pool(b)
            && a.image == b.image
            && !(reads(a.read_only) && reads(b.read_only))
    });
    gce || aws || iscsi || rbd
}

/// VolumeBinding, whatever the node: claims that do not wait for a node must be bound.
pub fn ready(cycle: &Cycle<'_>) -> Option<Refusal> {
    cycle.volumes.not_ready.as_deref().map(|reason| Refusal::told(BINDING, vec![reason.to_owned()]))
}

/// What is to be done so that a pod has its volumes and devices on a node.
#[derive(Clone, Debug, Default)]
pub struct Binding {
    /// Volumes that exist, to be bound.
    pub volumes: Vec<(Arc<PersistentVolume>, Arc<PersistentVolumeClaim>)>,
    /// Claims whose volume is to be made for the node.
    pub provisions: Vec<Arc<PersistentVolumeClaim>>,
    /// Claims of devices in which the pod is to be noted.
    pub devices: Vec<Reservation>,
}

impl Binding {
    /// True when nothing is to be done about volumes.
    pub fn is_empty(&self) -> bool {
        self.volumes.is_empty() && self.provisions.is_empty()
    }
}

/// How the pod's claims are served on a node, or why they cannot be.
pub fn find(cycle: &Cycle<'_>, node: &NodeInfo) -> Result<Binding, Vec<String>> {
    let state = &cycle.volumes;
    let mut reasons = Vec::new();
    let labels = node.node.metadata.labels.as_ref();
    if state.bound.iter().flatten().any(|volume| !volumes::reaches(volume, &node.name, labels)) {
        reasons.push("node(s) didn't match PersistentVolume's node affinity".to_owned());
    }
    let served = serve(cycle, node);
    if let Err(reason) = &served {
        reasons.push((*reason).to_owned());
    }
    if state.bound.iter().any(Option::is_none) {
        reasons.push("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)".to_owned());
    }
    if reasons.is_empty() { Ok(served.unwrap_or_default()) } else { Err(reasons) }
}

fn serve(cycle: &Cycle<'_>, node: &NodeInfo) -> Result<Binding, &'static str> {
    const NONE: &str = "node(s) didn't find available persistent volumes to bind";
    let (state, storage) = (&cycle.volumes, &cycle.snapshot.storage);
    let mut binding = Binding::default();
    let mut chosen = BTreeSet::new();
    let place = Place { node: &node.name, labels: node.node.metadata.labels.as_ref() };
    for Waiting { claim, class } in &state.waiting {
        let selected = volumes::selected_node(claim);
        if selected.is_some_and(|selected| selected != node.name) {
            return Err(NONE);
        }
        if selected.is_none() {
            let key =
                format!("{}/{}", cycle.pod.namespace, claim.metadata.name.as_deref().unwrap_or_default());
            let mut taken = storage.taken(&key);
            taken.extend(chosen.iter().cloned());
            if let Some(volume) = volumes::find(claim, &state.candidates, &taken, Some(place)) {
                chosen.extend(volume.metadata.name.clone());
                binding.volumes.push((volume.clone(), claim.clone()));
                continue;
            }
        }
        let Some(class) = class.as_ref().filter(|class| can_be_made(class, node)) else { return Err(NONE) };
        if !has_room(storage, claim, class, node) {
            return Err("node(s) did not have enough free storage");
        }
        binding.provisions.push(claim.clone());
    }
    Ok(binding)
}

/// True when somebody makes volumes of the class where the node is.
fn can_be_made(class: &StorageClass, node: &NodeInfo) -> bool {
    let admits = |term: &TopologySelectorTerm| {
        term.match_label_expressions.iter().flatten().all(|requirement| {
            node.label(&requirement.key)
                .is_some_and(|value| requirement.values.iter().any(|one| one == value))
        })
    };
    let terms = class.allowed_topologies.as_deref().unwrap_or_default();
    !class.provisioner.is_empty()
        && class.provisioner != NO_PROVISIONER
        && (terms.is_empty() || terms.iter().any(admits))
}

/// True when the driver does not tell its capacity, or it has enough where the node is.
fn has_room(storage: &Storage, claim: &PersistentVolumeClaim, class: &StorageClass, node: &NodeInfo) -> bool {
    let wanted = volumes::requested(claim);
    let driver = storage.drivers.get("", &class.provisioner);
    let tells = driver.is_some_and(|driver| driver.spec.storage_capacity == Some(true));
    if !tells || wanted.value() == 0 {
        return true;
    }
    let name = class.metadata.name.as_deref().unwrap_or_default();
    storage.capacities.list().iter().any(|capacity| {
        let most = capacity.maximum_volume_size.as_ref().or(capacity.capacity.as_ref());
        let reached = || {
            Selector::from_object(capacity.node_topology.as_ref())
                .is_ok_and(|selector| selector.matches_opt(node.node.metadata.labels.as_ref()))
        };
        capacity.storage_class_name == name
            && most.is_some_and(|most| api::quantity::of(most) >= wanted)
            && capacity.node_topology.is_some()
            && reached()
    })
}

/// VolumeBinding.
pub fn binding(cycle: &Cycle<'_>, node: &NodeInfo) -> Option<Refusal> {
    if cycle.pod.claims.is_empty() {
        return None;
    }
    let reasons = find(cycle, node).err()?;
    Some(Refusal::told(BINDING, reasons))
}

/// VolumeZone, whatever the node: volumes of bound claims must be known.
pub fn zoned(cycle: &Cycle<'_>) -> Option<Refusal> {
    cycle.volumes.unzoned.as_deref().map(|reason| Refusal::told(ZONE, vec![reason.to_owned()]))
}

/// VolumeZone.
pub fn zone(cycle: &Cycle<'_>, node: &NodeInfo) -> Option<Refusal> {
    let zones = &cycle.volumes.zones;
    if zones.is_empty() || !ZONE_LABELS.iter().any(|label| node.label(label).is_some()) {
        return None;
    }
    let today = |key: &str| key.replace("failure-domain.beta.kubernetes.io/", "topology.kubernetes.io/");
    let outside = zones.iter().any(|(key, values)| {
        let own = node.label(key).or_else(|| node.label(&today(key)));
        own.is_none_or(|own| !values.contains(own))
    });
    outside.then(|| Refusal::unresolvable(ZONE, "node(s) had no available volume zone"))
}

/// The CSI volumes of a pod's claims: driver and handle; claims without a volume count by themselves.
fn csi_volumes(pod: &PodInfo, storage: &Storage) -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    for wanted in &pod.claims {
        let Some(claim) = storage.claims.get(&pod.namespace, &wanted.name) else { continue };
        let volume = volumes::volume_name(&claim).and_then(|name| storage.volumes.get("", name));
        if let Some(volume) = volume {
            let csi = volume.spec.as_ref().and_then(|spec| spec.csi.as_ref());
            found.extend(csi.map(|csi| (csi.driver.clone(), csi.volume_handle.clone())));
        } else if let Some(class) = storage.classes.get("", volumes::class_of(&claim)) {
            found.insert((class.provisioner.clone(), format!("{}/{}", pod.namespace, wanted.name)));
        }
    }
    found
}

/// NodeVolumeLimits.
pub fn limits(cycle: &Cycle<'_>, node: &NodeInfo) -> Option<Refusal> {
    if cycle.pod.claims.is_empty() {
        return None;
    }
    let storage = &cycle.snapshot.storage;
    let known = storage.nodes.get("", &node.name)?;
    let limits: BTreeMap<&str, i32> = known
        .spec
        .drivers
        .iter()
        .filter_map(|driver| Some((driver.name.as_str(), driver.allocatable.as_ref()?.count?)))
        .collect();
    if limits.is_empty() {
        return None;
    }
    let mut present: BTreeSet<(String, String)> =
        node.pods.iter().flat_map(|pod| csi_volumes(pod, storage)).collect();
    let attached = storage.attachments.list();
    for attachment in attached.iter().filter(|attachment| attachment.spec.node_name == node.name) {
        let name = attachment.spec.source.persistent_volume_name.as_deref();
        let volume = name.and_then(|name| storage.volumes.get("", name));
        let csi = volume.as_ref().and_then(|volume| volume.spec.as_ref()?.csi.as_ref());
        present.extend(csi.map(|csi| (csi.driver.clone(), csi.volume_handle.clone())));
    }
    let new = csi_volumes(cycle.pod, storage);
    let count = |volumes: &BTreeSet<(String, String)>, driver: &str| {
        volumes.iter().filter(|(name, _)| name == driver).count()
    };
    let over = limits.iter().any(|(driver, limit)| {
        let fresh = new.iter().filter(|volume| volume.0 == *driver && !present.contains(*volume)).count();
        fresh > 0 && count(&present, driver) + fresh > usize::try_from(*limit).unwrap_or(0)
    });
    over.then(|| Refusal::new(LIMITS, "node(s) exceed max volume count"))
}
