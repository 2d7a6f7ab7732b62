//! What every Navarch cluster has for storage: a default StorageClass of directories on the nodes, and what its
//! provisioner may do. Objects that exist stay as they are, so that what an administrator changed is kept.

use api::Gvr;
use api::volumes::LOCAL;
use client::{Client, WriteOptions};
use serde_json::{Value, json};

use crate::error::CliError;

const RBAC: &str = "rbac.authorization.k8s.io";
/// The name of the provisioner's ClusterRole and of its binding.
const ROLE: &str = "navarch:local-volume-provisioner";

/// Creates what is missing.
pub async fn publish(client: &Client) -> Result<(), CliError> {
    for (gvr, object) in objects() {
        let made = client.create_at::<Value, Value>(&gvr, "", &object, &WriteOptions::default()).await;
        if let Err(error) = made.map(drop) {
            if !error.is_already_exists() {
                return Err(error.into());
            }
        }
    }
    Ok(())
}

fn objects() -> [(Gvr, Value); 4] {
    let storage = |plural: &str| Gvr::new("storage.k8s.io", "v1", plural);
    let class = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": "local", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": LOCAL, "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer", "allowVolumeExpansion": true,
    });
    // Tells schedulers, ours and upstream's, to look at the CSIStorageCapacities of the nodes.
    let driver = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver",
        "metadata": {"name": LOCAL},
        "spec": {"attachRequired": false, "podInfoOnMount": false, "storageCapacity": true},
    });
    let subject = json!({"kind": "ServiceAccount", "namespace": "kube-system", "name": controllers::LOCAL_VOLUMES_ACCOUNT});
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": ROLE},
        "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": ROLE}, "subjects": [subject],
    });
    [
        (storage("storageclasses"), class),
        (storage("csidrivers"), driver),
        (Gvr::new(RBAC, "v1", "clusterroles"), role()),
        (Gvr::new(RBAC, "v1", "clusterrolebindings"), binding),
    ]
}

fn role() -> Value {
    let rule = |group: &str, resources: &[&str], verbs: &[&str]| json!({"apiGroups": [group], "resources": resources, "verbs": verbs});
    let all = ["create", "delete", "get", "list", "patch", "update", "watch"];
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": ROLE},
        "rules": [
            rule("", &["persistentvolumes"], &all),
            rule("", &["persistentvolumeclaims"], &["get", "list", "patch", "update", "watch"]),
            rule("", &["persistentvolumeclaims/status"], &["patch", "update"]),
            rule("", &["nodes"], &["get", "list", "patch", "watch"]),
            rule("storage.k8s.io", &["storageclasses"], &["get", "list", "watch"]),
            rule("storage.k8s.io", &["csistoragecapacities"], &all),
            rule("", &["events"], &["create", "patch", "update"]),
            rule("events.k8s.io", &["events"], &["create", "patch", "update"]),
        ],
    })
}
