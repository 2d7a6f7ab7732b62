//! DynamicResources: a pod with claims of devices waits until they exist; devices are chosen for those without an
//! allocation, and the pod goes where all can be reached. The choice is written before the pod is bound.

pub mod allocate;
pub mod pools;
pub mod select;

use std::collections::BTreeSet;
use std::sync::Arc;

use api::k8s::api::resource::v1::{AllocationResult, ResourceClaim, ResourceClaimConsumerReference};
use api::nodes;

use self::allocate::Work;
use self::pools::DeviceId;
use super::{Cycle, Refusal};
use crate::pod::PodInfo;
use crate::snapshot::{Devices, NodeInfo, Snapshot};

/// The plugin's name.
pub const NAME: &str = "DynamicResources";
/// So many pods may use one claim.
const MAX_CONSUMERS: usize = 256;
/// Keeps a claim while devices are allocated to it.
const FINALIZER: &str = "resource.kubernetes.io/delete-protection";

/// The pod's claims, looked up once.
#[derive(Debug, Default)]
pub struct State {
    /// The claims that exist.
    pub claims: Vec<Arc<ResourceClaim>>,
    /// Why the pod cannot go anywhere yet.
    waits: Option<String>,
    /// What is to be allocated.
    work: Option<Work>,
}

/// A claim to write before its pod is bound: with its allocation, when one was made.
pub type Reservation = (Arc<ResourceClaim>, Option<AllocationResult>);

/// Names of the claims a pod uses; an error tells what it waits for.
fn names(pod: &PodInfo) -> Result<Vec<String>, String> {
    let spec = pod.pod.spec.as_ref();
    let wanted = spec.and_then(|spec| spec.resource_claims.as_deref()).unwrap_or_default();
    let status = pod.pod.status.as_ref();
    let told = status.and_then(|status| status.resource_claim_statuses.as_deref()).unwrap_or_default();
    let mut names = Vec::new();
    for claim in wanted {
        if let Some(name) = &claim.resource_claim_name {
            names.push(name.clone());
            continue;
        }
        match told.iter().find(|known| known.name == claim.name) {
            // A claim that the pod turned out not to need has no name.
            Some(known) => names.extend(known.resource_claim_name.clone()),
            None => return Err(format!("pod {:?}: ResourceClaim not created yet", pod.key)),
        }
    }
    Ok(names)
}

/// True when the claim notes the pod.
fn is_reserved(claim: &ResourceClaim, uid: &str) -> bool {
    let consumers = claim.status.as_ref().and_then(|status| status.reserved_for.as_deref());
    consumers.unwrap_or_default().iter().any(|consumer| consumer.uid == uid)
}

/// True when devices are allocated to the claim.
pub fn is_allocated(claim: &ResourceClaim) -> bool {
    claim.status.as_ref().is_some_and(|status| status.allocation.is_some())
}

/// The claim protected from deletion; `None` when it is already.
pub fn protected(claim: &ResourceClaim) -> Option<ResourceClaim> {
    let finalizers = claim.metadata.finalizers.iter().flatten();
    if is_allocated(claim) || finalizers.into_iter().any(|one| one == FINALIZER) {
        return None;
    }
    let mut after = claim.clone();
    after.metadata.finalizers.get_or_insert_default().push(FINALIZER.to_owned());
    Some(after)
}

/// The claim with its allocation and the pod noted; `None` when it has both already.
pub fn reserved(
    claim: &ResourceClaim,
    pod: &PodInfo,
    allocation: Option<&AllocationResult>,
) -> Option<ResourceClaim> {
    if is_reserved(claim, &pod.uid) {
        return None;
    }
    let mut after = claim.clone();
    let status = after.status.get_or_insert_default();
    if let Some(allocation) = allocation {
        status.allocation = Some(allocation.clone());
    }
    status.reserved_for.get_or_insert_default().push(ResourceClaimConsumerReference {
        resource: "pods".to_owned(),
        name: pod.pod.metadata.name.clone().unwrap_or_default(),
        uid: pod.uid.clone(),
        ..ResourceClaimConsumerReference::default()
    });
    Some(after)
}

/// A claim that keeps the pod from every node and nobody else uses, without its allocation.
pub fn given_back(state: &State, pod: &PodInfo) -> Option<ResourceClaim> {
    let unused = |claim: &&Arc<ResourceClaim>| {
        let users =
            claim.status.as_ref().and_then(|status| status.reserved_for.as_deref()).unwrap_or_default();
        let status = claim.status.as_ref().and_then(|status| status.allocation.as_ref());
        status.is_some_and(|allocation| allocation.node_selector.is_some())
            && users.iter().all(|user| user.uid == pod.uid)
    };
    let mut after = (**state.claims.iter().find(unused)?).clone();
    let status = after.status.as_mut()?;
    (status.allocation, status.reserved_for) = (None, None);
    Some(after)
}

/// The devices that claims have, or are about to have.
fn taken(devices: &Devices) -> BTreeSet<DeviceId> {
    let claims = devices.claims.list();
    let written = claims.iter().filter_map(|claim| claim.status.as_ref()?.allocation.as_ref());
    let results = written
        .chain(devices.pending.values())
        .filter_map(|allocation| allocation.devices.as_ref()?.results.as_deref())
        .flatten();
    let held = results.filter(|result| result.admin_access != Some(true));
    held.map(|result| (result.driver.clone(), result.pool.clone(), result.device.clone())).collect()
}

impl State {
    /// Looks up the pod's claims.
    pub fn new(pod: &PodInfo, snapshot: &Snapshot) -> State {
        let mut state = State::default();
        let devices = &snapshot.devices;
        let names = match names(pod) {
            Ok(names) => names,
            Err(text) => return State { waits: Some(text), ..state },
        };
        for name in names {
            let Some(claim) = devices.claims.get(&pod.namespace, &name) else {
                let text = format!("resourceclaim.resource.k8s.io {name:?} not found");
                return State { waits: Some(text), ..state };
            };
            let consumers = claim.status.as_ref().and_then(|status| status.reserved_for.as_deref());
            let waits = if claim.metadata.deletion_timestamp.is_some() {
                Some(format!("resourceclaim {name:?} is being deleted"))
            } else if consumers.unwrap_or_default().len() >= MAX_CONSUMERS && !is_reserved(&claim, &pod.uid) {
                Some("resourceclaim in use".to_owned())
            } else if !is_allocated(&claim)
                && devices.pending.contains_key(&format!("{}/{name}", pod.namespace))
            {
                Some(format!("resource claim {}/{name} is in the process of being allocated", pod.namespace))
            } else {
                None
            };
            state.waits = state.waits.or(waits);
            state.claims.push(claim);
        }
        let open: Vec<_> = state.claims.iter().filter(|claim| !is_allocated(claim)).cloned().collect();
        if state.waits.is_none() && !open.is_empty() {
            let class = |name: &str| devices.classes.get("", name);
            match Work::new(&open, &class, devices.slices.list(), taken(devices)) {
                Ok(work) => state.work = Some(work),
                Err(text) => state.waits = Some(text),
            }
        }
        state
    }

    /// What is to be written so that the pod has its devices on the node.
    pub fn reservations(&self, node: &NodeInfo) -> Vec<Reservation> {
        let mut out: Vec<Reservation> = self.claims.iter().map(|claim| (claim.clone(), None)).collect();
        let Some(work) = &self.work else { return out };
        // The filter has found it there before.
        let found = work.allocate(node).ok().flatten().unwrap_or_default();
        for (claim, allocation) in work.claims().zip(found) {
            if let Some(entry) = out.iter_mut().find(|(known, _)| Arc::ptr_eq(known, claim)) {
                entry.1 = Some(allocation);
            }
        }
        out
    }
}

/// DynamicResources, whatever the node: claims must exist.
pub fn ready(cycle: &Cycle<'_>) -> Option<Refusal> {
    cycle.devices.waits.as_deref().map(|reason| Refusal::told(NAME, vec![reason.to_owned()]))
}

/// True when the pod has claims.
pub fn concerns(cycle: &Cycle<'_>) -> bool {
    !cycle.devices.claims.is_empty()
}

/// DynamicResources.
pub fn filter(cycle: &Cycle<'_>, node: &NodeInfo) -> Option<Refusal> {
    let labels = node.node.metadata.labels.as_ref();
    let allocations =
        cycle.devices.claims.iter().filter_map(|claim| claim.status.as_ref()?.allocation.as_ref());
    for selector in allocations.filter_map(|allocation| allocation.node_selector.as_ref()) {
        if !nodes::admits(selector, &node.name, labels) {
            return Some(Refusal::unresolvable(NAME, "resourceclaim not available on the node"));
        }
    }
    match cycle.devices.work.as_ref()?.allocate(node) {
        Ok(Some(_)) => None,
        Ok(None) => Some(Refusal::unresolvable(NAME, "cannot allocate all claims")),
        Err(text) => Some(Refusal::told(NAME, vec![text])),
    }
}
