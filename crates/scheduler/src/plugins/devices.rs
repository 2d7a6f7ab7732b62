//! DynamicResources: a pod with claims of devices waits until they exist and are allocated, goes where the
//! allocation can be reached, and is noted in the claims before it is bound.
//!
//! Devices are not chosen here: an allocation is made by who fills the claim's status.

use std::sync::Arc;

use api::k8s::api::resource::v1::{ResourceClaim, ResourceClaimConsumerReference};
use api::nodes;

use super::{Cycle, Refusal};
use crate::pod::PodInfo;
use crate::snapshot::{NodeInfo, Snapshot};

/// The plugin's name.
pub const NAME: &str = "DynamicResources";
/// So many pods may use one claim.
const MAX_CONSUMERS: usize = 256;

/// The pod's claims, looked up once.
#[derive(Debug, Default)]
pub struct State {
    /// The claims that exist.
    pub claims: Vec<Arc<ResourceClaim>>,
    /// Why the pod cannot go anywhere yet.
    waits: Option<String>,
}

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

/// The claim with the pod noted; `None` when it is already.
pub fn reserved(claim: &ResourceClaim, pod: &PodInfo) -> Option<ResourceClaim> {
    if is_reserved(claim, &pod.uid) {
        return None;
    }
    let mut after = claim.clone();
    after.status.get_or_insert_default().reserved_for.get_or_insert_default().push(
        ResourceClaimConsumerReference {
            resource: "pods".to_owned(),
            name: pod.pod.metadata.name.clone().unwrap_or_default(),
            uid: pod.uid.clone(),
            ..ResourceClaimConsumerReference::default()
        },
    );
    Some(after)
}

impl State {
    /// Looks up the pod's claims.
    pub fn new(pod: &PodInfo, snapshot: &Snapshot) -> State {
        let mut state = State::default();
        let names = match names(pod) {
            Ok(names) => names,
            Err(text) => return State { waits: Some(text), ..state },
        };
        for name in names {
            let Some(claim) = snapshot.devices.get(&pod.namespace, &name) else {
                let text = format!("resourceclaim.resource.k8s.io {name:?} not found");
                return State { waits: Some(text), ..state };
            };
            let consumers = claim.status.as_ref().and_then(|status| status.reserved_for.as_deref());
            if claim.metadata.deletion_timestamp.is_some() {
                state.waits.get_or_insert(format!("resourceclaim {name:?} is being deleted"));
            } else if consumers.unwrap_or_default().len() >= MAX_CONSUMERS && !is_reserved(&claim, &pod.uid) {
                state.waits.get_or_insert("resourceclaim in use".to_owned());
            }
            state.claims.push(claim);
        }
        state
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
    for claim in &cycle.devices.claims {
        let status = claim.status.as_ref();
        let Some(allocation) = status.and_then(|status| status.allocation.as_ref()) else {
            return Some(Refusal::unresolvable(NAME, "cannot allocate all claims"));
        };
        let labels = node.node.metadata.labels.as_ref();
        let reached = allocation
            .node_selector
            .as_ref()
            .is_none_or(|selector| nodes::admits(selector, &node.name, labels));
        if !reached {
            return Some(Refusal::unresolvable(NAME, "resourceclaim not available on the node"));
        }
    }
    None
}
