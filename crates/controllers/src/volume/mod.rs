//! Volumes: claims are bound to volumes that fit, volumes are made of nodes' directories, both are kept while in
//! use, claims of ephemeral volumes are made. Watches claims, volumes, storage classes and pods.

mod attach;
mod binder;
mod local;
mod protection;

use std::sync::Arc;

use api::k8s::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use api::k8s::api::storage::v1::{
    CSIDriver, CSIStorageCapacity, StorageClass, VolumeAttachment, VolumeAttributesClass,
};
use client::{Cache, Change, Key, Meta, Plan, Reconcile, ReconcileError};
use jiff::Timestamp;

use crate::context::Context;

/// The service account of the provisioner of local volumes.
pub const LOCAL_ACCOUNT: &str = "local-volume-provisioner";
/// The index of pods by `namespace/claim`.
const BY_CLAIM: &str = "claim";

/// Names of the claims a pod uses.
fn claims_of(pod: &Pod) -> Vec<String> {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
    let name = |volume: &api::k8s::api::core::v1::Volume| {
        if let Some(source) = &volume.persistent_volume_claim {
            return Some(source.claim_name.clone());
        }
        volume.ephemeral.as_ref().map(|_| format!("{}-{}", pod.name(), volume.name))
    };
    volumes.into_iter().flatten().filter_map(name).collect()
}

fn index_claims(cache: &Cache<Pod>) {
    let claims = |pod: &Pod| {
        claims_of(pod).into_iter().map(|name| Key::new(pod.namespace(), &name).to_string()).collect()
    };
    cache.add_index(BY_CLAIM, Arc::new(claims));
}

struct ClaimProtection {
    claims: Cache<PersistentVolumeClaim>,
    pods: Cache<Pod>,
}

impl Reconcile for ClaimProtection {
    fn reconcile(&self, key: &Key, _: Timestamp) -> Result<Plan, ReconcileError> {
        let Some(claim) = self.claims.get_key(key) else { return Ok(Plan::none()) };
        Ok(protection::claim(&claim, &self.pods.by_index(BY_CLAIM, &key.to_string())))
    }
}

/// Starts the controller that keeps claims in use.
pub fn start_claim_protection(context: &Context) {
    let mut setup = context.setup("pvc-protection-controller", "pvc-protection-controller");
    let claims = setup.watch::<PersistentVolumeClaim>();
    let pods = setup.read::<Pod>();
    index_claims(pods.cache());
    setup.enqueue(&claims);
    setup.map(&pods, |change| {
        let pod = change.object();
        let ended = matches!(change, Change::Deleted(_)) || crate::pods::is_finished(pod);
        let names = if ended { claims_of(pod) } else { Vec::new() };
        names.iter().map(|name| Key::new(pod.namespace(), name)).collect()
    });
    let controller = ClaimProtection { claims: claims.cache().clone(), pods: pods.cache().clone() };
    setup.start(Arc::new(controller), 2);
}

struct VolumeProtection {
    volumes: Cache<PersistentVolume>,
}

impl Reconcile for VolumeProtection {
    fn reconcile(&self, key: &Key, _: Timestamp) -> Result<Plan, ReconcileError> {
        Ok(self.volumes.get_key(key).map(|volume| protection::volume(&volume)).unwrap_or_default())
    }
}

/// Starts the controller that keeps bound volumes.
pub fn start_volume_protection(context: &Context) {
    let mut setup = context.setup("pv-protection-controller", "pv-protection-controller");
    let volumes = setup.watch::<PersistentVolume>();
    setup.enqueue(&volumes);
    setup.start(Arc::new(VolumeProtection { volumes: volumes.cache().clone() }), 1);
}

/// The index of claims and volumes by the classes of attributes they name.
const BY_ATTRIBUTES: &str = "attributes";

struct AttributesProtection {
    classes: Cache<VolumeAttributesClass>,
    claims: Cache<PersistentVolumeClaim>,
    volumes: Cache<PersistentVolume>,
}

impl Reconcile for AttributesProtection {
    fn reconcile(&self, key: &Key, _: Timestamp) -> Result<Plan, ReconcileError> {
        let Some(class) = self.classes.get_key(key) else { return Ok(Plan::none()) };
        let in_use = !self.volumes.by_index(BY_ATTRIBUTES, &key.name).is_empty()
            || !self.claims.by_index(BY_ATTRIBUTES, &key.name).is_empty();
        Ok(protection::attributes_class(&class, in_use))
    }
}

/// Starts the controller that keeps classes of attributes in use.
pub fn start_attributes_protection(context: &Context) {
    let account = "volumeattributesclass-protection-controller";
    let mut setup = context.setup(account, account);
    let classes = setup.watch::<VolumeAttributesClass>();
    let claims = setup.read::<PersistentVolumeClaim>();
    let volumes = setup.read::<PersistentVolume>();
    let of_claim = |claim: &PersistentVolumeClaim| protection::classes_of_claim(claim).into_iter().collect();
    claims.cache().add_index(BY_ATTRIBUTES, Arc::new(of_claim));
    let of_volume = |volume: &PersistentVolume| protection::class_of_volume(volume).into_iter().collect();
    volumes.cache().add_index(BY_ATTRIBUTES, Arc::new(of_volume));
    setup.enqueue(&classes);
    // Those that were named until now may be free.
    setup.map(&claims, |change| {
        let before = change.old().unwrap_or(change.object());
        protection::classes_of_claim(before).iter().map(|name| Key::new("", name)).collect()
    });
    setup.map(&volumes, |change| {
        let before = change.old().unwrap_or(change.object());
        protection::class_of_volume(before).map(|name| Key::new("", &name)).into_iter().collect()
    });
    let controller = AttributesProtection {
        classes: classes.cache().clone(),
        claims: claims.cache().clone(),
        volumes: volumes.cache().clone(),
    };
    setup.start(Arc::new(controller), 1);
}

struct Binder {
    claims: Cache<PersistentVolumeClaim>,
    volumes: Cache<PersistentVolume>,
    classes: Cache<StorageClass>,
    pods: Cache<Pod>,
}

impl Reconcile for Binder {
    fn reconcile(&self, key: &Key, _: Timestamp) -> Result<Plan, ReconcileError> {
        if key.namespace.is_empty() {
            let Some(volume) = self.volumes.get_key(key) else { return Ok(Plan::none()) };
            let claim = binder::claim_key(&volume).and_then(|key| self.claims.get_key(&key));
            return Ok(binder::volume(&volume, claim.as_deref()));
        }
        let Some(claim) = self.claims.get_key(key) else { return Ok(Plan::none()) };
        let users = || self.pods.by_index(BY_CLAIM, &key.to_string());
        let waiting = || {
            let waits = |pod: &Arc<Pod>| !crate::pods::is_finished(pod) && crate::pods::node(pod).is_empty();
            users().iter().filter(|pod| waits(pod)).map(|pod| pod.name().to_owned()).collect()
        };
        let around = binder::Around {
            volumes: &self.volumes.list(),
            class: &|name| self.classes.get("", name),
            waiting_pods: &waiting,
        };
        Ok(binder::claim(&claim, &around))
    }
}

/// Starts the controller that binds claims to volumes.
pub fn start_binder(context: &Context) {
    let mut setup = context.setup("persistent-volume-binder", "persistentvolume-controller");
    let claims = setup.watch::<PersistentVolumeClaim>();
    let volumes = setup.watch::<PersistentVolume>();
    let classes = setup.read::<StorageClass>();
    let pods = setup.read::<Pod>();
    index_claims(pods.cache());
    setup.enqueue(&claims);
    setup.enqueue(&volumes);
    // A claim that goes frees its volume; a volume that comes may serve any waiting claim.
    let all = volumes.cache().clone();
    setup.map(&claims, move |change| {
        let claim = change.object();
        let name = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or("");
        all.get("", name).map(|volume| Key::of(&*volume)).into_iter().collect()
    });
    let waiting = claims.cache().clone();
    setup.map(&volumes, move |change| {
        let named = binder::claim_key(change.object());
        let pending = waiting.list().into_iter().filter(|claim| !binder::is_bound(claim));
        named.into_iter().chain(pending.map(|claim| Key::of(&*claim))).collect()
    });
    let waiting = claims.cache().clone();
    setup.map(&classes, move |_| {
        waiting
            .list()
            .into_iter()
            .filter(|claim| !binder::is_bound(claim))
            .map(|claim| Key::of(&*claim))
            .collect()
    });
    let controller = Binder {
        claims: claims.cache().clone(),
        volumes: volumes.cache().clone(),
        classes: classes.cache().clone(),
        pods: pods.cache().clone(),
    };
    // One worker: two claims must not take one volume.
    setup.start(Arc::new(controller), 1);
}

struct Local {
    claims: Cache<PersistentVolumeClaim>,
    volumes: Cache<PersistentVolume>,
    classes: Cache<StorageClass>,
    nodes: Cache<Node>,
}

impl Reconcile for Local {
    fn reconcile(&self, key: &Key, _: Timestamp) -> Result<Plan, ReconcileError> {
        let world = local::World { volumes: &self.volumes.list(), nodes: &self.nodes.list() };
        if key.namespace.is_empty() {
            let volume = self.volumes.get_key(key);
            return Ok(volume.map(|volume| local::reclaim(&volume, &world)).unwrap_or_default());
        }
        let Some(claim) = self.claims.get_key(key) else { return Ok(Plan::none()) };
        let class = self.classes.get("", api::volumes::class_of(&claim));
        Ok(local::claim(&claim, class.as_deref(), &world))
    }
}

struct Room {
    nodes: Cache<Node>,
    volumes: Cache<PersistentVolume>,
    classes: Cache<StorageClass>,
    capacities: Cache<CSIStorageCapacity>,
}

impl Reconcile for Room {
    fn reconcile(&self, key: &Key, _: Timestamp) -> Result<Plan, ReconcileError> {
        let Some(node) = self.nodes.get_key(key) else { return Ok(Plan::none()) };
        let known = |name: &str| self.capacities.get(local::CAPACITY_NAMESPACE, name);
        Ok(local::room(&node, &self.volumes.list(), &self.classes.list(), &known))
    }
}

/// Starts the provisioner of local volumes: directories of the nodes pods go to.
pub fn start_local(context: &Context) {
    let mut setup = context.setup(LOCAL_ACCOUNT, "local-volume-provisioner");
    let claims = setup.watch::<PersistentVolumeClaim>();
    let volumes = setup.watch::<PersistentVolume>();
    let classes = setup.read::<StorageClass>();
    let nodes = setup.watch::<Node>();
    setup.enqueue(&claims);
    setup.enqueue(&volumes);
    // A node that removed a directory, or went, may let volumes go.
    let all = volumes.cache().clone();
    setup.map(&nodes, move |change| {
        let node = change.object();
        let gone = matches!(change, Change::Deleted(_));
        let mine = |volume: &Arc<PersistentVolume>| {
            volume.is_deleting() && (gone || local::removal(node, volume.name()).is_some())
        };
        if gone || local::has_removals(node) {
            all.list().iter().filter(|volume| mine(volume)).map(|volume| Key::of(&**volume)).collect()
        } else {
            Vec::new()
        }
    });
    let controller = Local {
        claims: claims.cache().clone(),
        volumes: volumes.cache().clone(),
        classes: classes.cache().clone(),
        nodes: nodes.cache().clone(),
    };
    // One worker: two claims must not take the same room.
    setup.start(Arc::new(controller), 1);
    start_room(context);
}

/// Tells schedulers how much room for local volumes each node has.
fn start_room(context: &Context) {
    let mut setup = context.setup(LOCAL_ACCOUNT, "local-volume-capacity");
    let nodes = setup.read::<Node>();
    let volumes = setup.read::<PersistentVolume>();
    let classes = setup.read::<StorageClass>();
    let capacities = setup.watch::<CSIStorageCapacity>();
    setup.map(&nodes, |change| {
        let changed = |old: &Arc<Node>| local::room_facts(old) != local::room_facts(change.object());
        if change.old().is_none_or(changed) { vec![Key::of(&**change.object())] } else { Vec::new() }
    });
    setup.map(&volumes, |change| {
        local::node_of(change.object()).map(|name| Key::new("", name)).into_iter().collect()
    });
    let all = nodes.cache().clone();
    setup.map(&classes, move |_| all.list().iter().map(|node| Key::of(&**node)).collect());
    let controller = Room {
        nodes: nodes.cache().clone(),
        volumes: volumes.cache().clone(),
        classes: classes.cache().clone(),
        capacities: capacities.cache().clone(),
    };
    setup.start(Arc::new(controller), 1);
}

/// The index of attachments by their node's name.
const BY_ATTACHED_NODE: &str = "attached-node";

struct Attach {
    nodes: Cache<Node>,
    pods: Cache<Pod>,
    claims: Cache<PersistentVolumeClaim>,
    volumes: Cache<PersistentVolume>,
    drivers: Cache<CSIDriver>,
    attachments: Cache<VolumeAttachment>,
}

impl Attach {
    /// Volumes that pods of the node use and that their drivers attach.
    fn needed(&self, node: &str) -> Vec<Arc<PersistentVolume>> {
        let attaches = |volume: &Arc<PersistentVolume>| {
            let driver = attach::csi(volume).map(|(driver, _)| self.drivers.get("", driver));
            driver
                .is_some_and(|driver| driver.is_none_or(|driver| driver.spec.attach_required != Some(false)))
        };
        let pods = self.pods.by_index(crate::node::BY_NODE, node);
        let claims = pods.iter().filter(|pod| !crate::pods::is_finished(pod)).flat_map(|pod| {
            claims_of(pod).into_iter().filter_map(|name| self.claims.get(pod.namespace(), &name))
        });
        let volumes = claims.filter(|claim| api::volumes::is_bound(claim)).filter_map(|claim| {
            api::volumes::volume_name(&claim).and_then(|name| self.volumes.get("", name))
        });
        volumes.filter(attaches).collect()
    }
}

impl Reconcile for Attach {
    fn reconcile(&self, key: &Key, _: Timestamp) -> Result<Plan, ReconcileError> {
        let Some(node) = self.nodes.get_key(key) else { return Ok(Plan::none()) };
        let present = self.attachments.by_index(BY_ATTACHED_NODE, &key.name);
        let needed = self.needed(&key.name);
        if present.is_empty() && needed.is_empty() {
            return Ok(Plan::none());
        }
        Ok(attach::plan(&node, &needed, &present, &|name| self.volumes.get("", name)))
    }
}

/// Starts the controller that attaches CSI volumes to nodes.
pub fn start_attach(context: &Context) {
    let mut setup = context.setup("attachdetach-controller", "attachdetach-controller");
    let nodes = setup.watch::<Node>();
    let pods = setup.read::<Pod>();
    let claims = setup.read::<PersistentVolumeClaim>();
    let volumes = setup.read::<PersistentVolume>();
    let drivers = setup.read::<CSIDriver>();
    let attachments = setup.watch::<VolumeAttachment>();
    crate::node::index_by_node(pods.cache());
    let by_node = |attachment: &VolumeAttachment| vec![attachment.spec.node_name.clone()];
    attachments.cache().add_index(BY_ATTACHED_NODE, Arc::new(by_node));
    let known = attachments.cache().clone();
    setup.map(&nodes, move |change| {
        let in_use = |node: &Arc<Node>| node.status.as_ref().and_then(|status| status.volumes_in_use.clone());
        let node = change.object();
        let changed = change.old().is_none_or(|old| in_use(old) != in_use(node));
        let any = !known.by_index(BY_ATTACHED_NODE, node.name()).is_empty();
        if changed && any { vec![Key::of(&**node)] } else { Vec::new() }
    });
    setup.map(&pods, |change| {
        let pod = change.object();
        let placed = !crate::pods::node(pod).is_empty() && !claims_of(pod).is_empty();
        if placed { vec![Key::new("", crate::pods::node(pod))] } else { Vec::new() }
    });
    setup.map(&attachments, |change| vec![Key::new("", &change.object().spec.node_name)]);
    let controller = Attach {
        nodes: nodes.cache().clone(),
        pods: pods.cache().clone(),
        claims: claims.cache().clone(),
        volumes: volumes.cache().clone(),
        drivers: drivers.cache().clone(),
        attachments: attachments.cache().clone(),
    };
    setup.start(Arc::new(controller), 2);
}

struct Expander {
    claims: Cache<PersistentVolumeClaim>,
    volumes: Cache<PersistentVolume>,
}

impl Reconcile for Expander {
    fn reconcile(&self, key: &Key, _: Timestamp) -> Result<Plan, ReconcileError> {
        let Some(claim) = self.claims.get_key(key) else { return Ok(Plan::none()) };
        let volume = api::volumes::volume_name(&claim).and_then(|name| self.volumes.get("", name));
        Ok(volume.map(|volume| binder::expand(&claim, &volume)).unwrap_or_default())
    }
}

/// Starts the controller that tells who is to expand a volume.
pub fn start_expander(context: &Context) {
    let mut setup = context.setup("expand-controller", "volume_expand");
    let claims = setup.read::<PersistentVolumeClaim>();
    let volumes = setup.read::<PersistentVolume>();
    setup.map(&claims, |change| {
        let size = |claim: &Arc<PersistentVolumeClaim>| api::volumes::requested(claim);
        let grown = change.old().is_some_and(|old| size(old) < size(change.object()));
        if grown { vec![Key::of(&**change.object())] } else { Vec::new() }
    });
    let controller = Expander { claims: claims.cache().clone(), volumes: volumes.cache().clone() };
    setup.start(Arc::new(controller), 1);
}

struct Ephemeral {
    pods: Cache<Pod>,
    claims: Cache<PersistentVolumeClaim>,
}

impl Reconcile for Ephemeral {
    fn reconcile(&self, key: &Key, _: Timestamp) -> Result<Plan, ReconcileError> {
        let Some(pod) = self.pods.get_key(key).filter(|pod| !pod.is_deleting()) else {
            return Ok(Plan::none());
        };
        Ok(protection::ephemeral(&pod, &|name| self.claims.get(pod.namespace(), name).is_some()))
    }
}

/// Starts the controller that makes the claims of ephemeral volumes.
pub fn start_ephemeral(context: &Context) {
    let mut setup = context.setup("ephemeral-volume-controller", "ephemeral_volume");
    let pods = setup.read::<Pod>();
    let claims = setup.watch::<PersistentVolumeClaim>();
    let has_ephemeral = |pod: &Pod| {
        let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
        volumes.into_iter().flatten().any(|volume| volume.ephemeral.is_some())
    };
    setup.map(&pods, move |change| {
        let pod = change.object();
        if has_ephemeral(pod) { vec![Key::of(&**pod)] } else { Vec::new() }
    });
    setup.start(Arc::new(Ephemeral { pods: pods.cache().clone(), claims: claims.cache().clone() }), 2);
}
