//! What the pod subresources do to a pod: binding, and status helpers.

use api::error::ApiError;
use jiff::Timestamp;
use serde_json::{Value, json};

pub use crate::strategies::qos_class;
use crate::tree::Tree;

/// Binds a pod to the binding's node: node name, annotations and labels of the binding, and the
/// PodScheduled condition.
pub fn bind(pod: &mut Value, binding: &Value, now: Timestamp) -> Result<(), ApiError> {
    let name = pod.text("metadata.name").to_string();
    let conflict = |why: &str| ApiError::conflict("", "pods/binding", &name, why);
    let wanted = binding.text("metadata.uid");
    let own = pod.text("metadata.uid");
    if !wanted.is_empty() && wanted != own {
        let why = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {own}");
        return Err(conflict(&why));
    }
    if pod.has("metadata.deletionTimestamp") {
        return Err(conflict(&format!("pod {name} is being deleted, cannot be assigned to a host")));
    }
    let bound = pod.text("spec.nodeName");
    if !bound.is_empty() {
        return Err(conflict(&format!("pod {name} is already assigned to node {bound:?}")));
    }
    if !pod.list("spec.schedulingGates").is_empty() {
        return Err(conflict(&format!("pod {name} has non-empty .spec.schedulingGates")));
    }
    pod.set("spec.nodeName", binding.text("target.name"));
    for field in ["metadata.annotations", "metadata.labels"] {
        let more = binding.map(field);
        if more.is_empty() {
            continue;
        }
        let mut all = pod.map(field).clone();
        all.extend(more.clone());
        pod.set(field, Value::Object(all));
    }
    pod.unset("status.nominatedNodeName");
    // The generation counts changes of what was asked for; a binding is none (BindingREST).
    set_condition(pod, json!({"type": "PodScheduled", "status": "True"}), now);
    Ok(())
}

/// Puts a condition into status.conditions; its transition time moves when the status does.
pub fn set_condition(pod: &mut Value, mut condition: Value, now: Timestamp) {
    condition.set("lastTransitionTime", api::time::format(now));
    condition.set_default("lastProbeTime", Value::Null);
    let mut all = pod.list("status.conditions").to_vec();
    match all.iter_mut().find(|c| c.text("type") == condition.text("type")) {
        Some(same) => {
            if same.text("status") == condition.text("status") {
                condition.set("lastTransitionTime", same.at("lastTransitionTime").clone());
            }
            *same = condition;
        }
        None => all.push(condition),
    }
    pod.set("status.conditions", Value::Array(all));
}
