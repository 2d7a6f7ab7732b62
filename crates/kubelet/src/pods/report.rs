//! Writing a pod's status to the API, and asking for its removal.
//!
//! Must not decide what the status is.

use api::k8s::api::core::v1::{Pod, PodStatus};
use api::wire::Wire;
use client::{ClientError, DeleteOptions, Patch};
use serde_json::{Map, Value, json};

use super::pod::PodExt;
use super::status::{DISRUPTION, OWN_CONDITIONS, RESIZE_CONDITIONS};
use crate::shared::Shared;

/// The strategic merge patch that makes the API's status ours: only our own conditions, and fields that we leave
/// out are removed where the API has them.
pub fn patch(pod: &Pod, status: &PodStatus) -> Value {
    let mut fields = to_map(status);
    let before = to_map(pod.status());
    // Others own these.
    for key in ["resourceClaimStatuses", "nominatedNodeName", "extendedResourceClaimStatus"] {
        fields.remove(key);
    }
    for key in ["reason", "message", "podIP", "initContainerStatuses", "ephemeralContainerStatuses", "resize"]
    {
        if before.contains_key(key) && !fields.contains_key(key) {
            fields.insert(key.to_owned(), Value::Null);
        }
    }
    if let Some(Value::Array(conditions)) = fields.get_mut("conditions") {
        let kind_of =
            |condition: &Value| condition.get("type").and_then(Value::as_str).unwrap_or("").to_owned();
        conditions.retain(|condition| {
            let kind = kind_of(condition);
            let kind = kind.as_str();
            OWN_CONDITIONS.contains(&kind) || RESIZE_CONDITIONS.contains(&kind) || kind == DISRUPTION
        });
        // Conditions are merged by type: what one no longer says must be taken away.
        for condition in conditions.iter_mut().filter_map(Value::as_object_mut) {
            for key in ["reason", "message"] {
                condition.entry(key).or_insert(Value::Null);
            }
        }
        let old = pod.status().conditions.iter().flatten();
        for over in old.filter(|condition| RESIZE_CONDITIONS.contains(&condition.type_.as_str())) {
            if !conditions.iter().any(|condition| kind_of(condition) == over.type_) {
                conditions.push(json!({"type": over.type_, "$patch": "delete"}));
            }
        }
    }
    for key in ["podIPs", "hostIPs"] {
        let differs = before.get(key).is_some_and(|old| fields.get(key) != Some(old));
        if let (true, Some(Value::Array(list))) = (differs, fields.get_mut(key)) {
            list.push(json!({"$patch": "replace"}));
        }
    }
    json!({"metadata": {"uid": pod.uid()}, "status": fields})
}

fn to_map(status: &PodStatus) -> Map<String, Value> {
    match Wire::to_tree(status) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

/// Writes the status; static pods report through their mirror.
pub async fn status(shared: &Shared, pod: &Pod, status: &PodStatus) -> Result<(), ClientError> {
    if pod.is_static() {
        return crate::statics::report(shared, pod, status).await;
    }
    let body = Patch::Strategic(patch(pod, status));
    shared.client.patch_status::<Pod>(pod.namespace(), pod.name(), &body).await.map(drop)
}

/// Takes the pod out of the API for good.
pub async fn delete(shared: &Shared, pod: &Pod) -> Result<(), ClientError> {
    let options = DeleteOptions::uid(pod.uid()).grace(0);
    match shared.client.delete::<Pod>(pod.namespace(), pod.name(), &options).await {
        Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_longer_said_is_removed() {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"}, "spec": {"containers": []},
            "status": {"reason": "Old", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}], "conditions": [
                {"type": "Ready", "status": "False", "reason": "ContainersNotReady"},
                {"type": "example.com/gate", "status": "True"},
                {"type": "PodResizePending", "status": "True"}]}}))
            .expect("a pod");
        let status: PodStatus = serde_json::from_value(json!({"phase": "Running", "podIP": "10.0.0.2", "podIPs": [{"ip": "10.0.0.2"}],
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "example.com/gate", "status": "True"}]}))
        .expect("a status");
        let patch = patch(&pod, &status);
        let expect = json!({"metadata": {"uid": "u"}, "status": {
            "phase": "Running", "reason": null, "podIP": "10.0.0.2", "podIPs": [{"ip": "10.0.0.2"}, {"$patch": "replace"}],
            "conditions": [
                {"type": "Ready", "status": "True", "reason": null, "message": null},
                {"type": "PodResizePending", "$patch": "delete"}]}});
        assert_eq!(patch, expect);
    }
}
