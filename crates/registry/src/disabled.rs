//! Fields of features that upstream 1.36 has switched off by default: what a client sends there is
//! dropped, unless the stored object has it already.

use serde_json::Value;

use crate::tree::Tree;

/// Drops what is switched off from a built-in object.
pub fn drop_fields(kind: &str, object: &mut Value, old: &Value) {
    let pods = match kind {
        "Pod" => "spec",
        "PodTemplate" => "template.spec",
        "CronJob" => "spec.jobTemplate.spec.template.spec",
        "DaemonSet" | "Deployment" | "Job" | "ReplicaSet" | "ReplicationController" | "StatefulSet" => {
            "spec.template.spec"
        }
        _ => "",
    };
    if kind == "Pod" {
        image_volumes(object, old);
    }
    let claims = "status.nodeAllocatableResourceClaimStatuses";
    if kind == "Pod" && !old.has(claims) {
        object.unset(claims);
    }
    if !pods.is_empty()
        && let Some(spec) = object.at_mut(pods)
    {
        pod(spec, old.at(pods));
    }
    if kind == "ResourceSlice" {
        devices(object, old);
    }
    let field = match kind {
        "StatefulSet" => "spec.updateStrategy.rollingUpdate.maxUnavailable",
        "CSIDriver" => "spec.preventPodSchedulingIfMissing",
        _ => return,
    };
    if !old.has(field) {
        object.unset(field);
    }
}

/// Lists as attributes, and devices that stand for amounts of a node's own resources.
fn devices(slice: &mut Value, old: &Value) {
    const LISTS: [&str; 4] = ["bools", "ints", "strings", "versions"];
    let has_lists = |device: &Value| {
        device.map("attributes").values().any(|value| LISTS.iter().any(|list| value.has(list)))
    };
    let mappings = "nodeAllocatableResourceMappings";
    let (old, lists) = (old.list("spec.devices"), old.list("spec.devices").iter().any(has_lists));
    let mapped = old.iter().any(|device| device.has(mappings));
    for device in slice.list_mut("spec.devices") {
        if !mapped {
            device.unset(mappings);
        }
        let attributes = device.get_mut("attributes").and_then(Value::as_object_mut);
        for value in attributes.into_iter().flat_map(|all| all.values_mut()).filter(|_| !lists) {
            LISTS.iter().for_each(|list| drop(value.unset(list)));
        }
    }
}

/// What became of the images of volumes.
fn image_volumes(pod: &mut Value, old: &Value) {
    let lists =
        ["status.containerStatuses", "status.initContainerStatuses", "status.ephemeralContainerStatuses"];
    let mounts = |pod: &Value, list: &str| -> Vec<Value> {
        pod.list(list).iter().flat_map(|status| status.list("volumeMounts").to_vec()).collect()
    };
    if lists.iter().any(|list| mounts(old, list).iter().any(|mount| mount.has("volumeStatus"))) {
        return;
    }
    for list in lists {
        for status in pod.list_mut(list) {
            status.list_mut("volumeMounts").iter_mut().for_each(|mount| drop(mount.unset("volumeStatus")));
        }
    }
}

const CONTAINERS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];

fn pod(spec: &mut Value, old: &Value) {
    if !old.has("schedulingGroup") {
        spec.unset("schedulingGroup");
    }
    let had = |list: &str, field: &str| old.list(list).iter().any(|item| item.has(field));
    if !CONTAINERS.into_iter().any(|list| had(list, "lifecycle.stopSignal")) {
        for list in CONTAINERS {
            for container in spec.list_mut(list) {
                let dropped = container.unset("lifecycle.stopSignal").is_some();
                if dropped && container.map("lifecycle").is_empty() {
                    container.unset("lifecycle");
                }
            }
        }
    }
    let certificates =
        |volume: &Value| volume.list("projected.sources").iter().any(|s| s.has("podCertificate"));
    if !old.list("volumes").iter().any(certificates) {
        for volume in spec.list_mut("volumes") {
            for source in volume.list_mut("projected.sources") {
                source.unset("podCertificate");
            }
        }
    }
    let bundles =
        |volume: &Value| volume.list("projected.sources").iter().any(|s| s.has("clusterTrustBundle"));
    if !old.list("volumes").iter().any(bundles) {
        for volume in spec.list_mut("volumes") {
            for source in volume.list_mut("projected.sources") {
                source.unset("clusterTrustBundle");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_stored_stays() {
        let object = json!({"spec": {"containers": [{"lifecycle": {"stopSignal": "SIGTERM"}}]}});
        let mut new = object.clone();
        drop_fields("Pod", &mut new, &object);
        assert_eq!(new, object);
        drop_fields("Pod", &mut new, &Value::Null);
        assert_eq!(new, json!({"spec": {"containers": [{}]}}));
    }
}
