//! NodeRestriction: an agent changes only its own node and the pods bound to it. TaintNodesByCondition: a new
//! node takes no pods before it is ready.

use api::ApiError;
use registry::tree::Tree;
use serde_json::{Value, json};
use store::Key;

use super::super::{Operation, Review};
use crate::authz;
use crate::object;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// Label prefixes under kubernetes.io and k8s.io that an agent may set.
const LABEL_PREFIXES: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];
/// Labels under kubernetes.io and k8s.io that an agent may set.
const LABELS: [&str; 12] = [
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "node.kubernetes.io/windows-build",
];

/// A new node is not ready.
pub fn taint(review: &Review<'_>, node: &mut Value, _old: Option<&Value>) -> Result<(), ApiError> {
    if review.operation != Operation::Create || !review.is("", "nodes") || !review.subresource.is_empty() {
        return Ok(());
    }
    let mut taints = node.list("spec.taints").to_vec();
    if !taints.iter().any(|t| t.text("key") == NOT_READY && t.text("effect") == "NoSchedule") {
        taints.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
        node.set("spec.taints", taints);
    }
    Ok(())
}

/// What an agent may not do.
pub fn restrict(review: &Review<'_>, object: Option<&Value>, old: Option<&Value>) -> Result<(), ApiError> {
    let user = &review.exchange.user;
    if !user.in_group("system:nodes") {
        return Ok(());
    }
    let Some(node) = authz::node_name(user) else {
        return Err(review.forbidden(object, &format!("could not determine node from user {:?}", user.name)));
    };
    let result = match (review.row.group.as_str(), review.row.plural.as_str()) {
        ("", "pods") => pods(review, node, object, old),
        ("", "nodes") => own_node(review, node, object, old),
        ("", "persistentvolumeclaims") if review.subresource != "status" => {
            Err("may only update PVC status".to_owned())
        }
        ("", "serviceaccounts") if review.subresource == "token" => token(review, node, object),
        ("coordination.k8s.io", "leases") => lease(review, node, object),
        ("storage.k8s.io", "csinodes") => csi_node(review, node, object),
        ("resource.k8s.io", "resourceslices") => slice(node, object, old),
        _ => Ok(()),
    };
    result.map_err(|why| review.forbidden(object.or(old), &why))
}

fn pods(review: &Review<'_>, node: &str, object: Option<&Value>, old: Option<&Value>) -> Result<(), String> {
    match (review.subresource.as_str(), review.operation) {
        ("", Operation::Create) => mirror(review, node, object.unwrap_or(&Value::Null)),
        ("", Operation::Delete) => match old {
            Some(pod) if pod.text("spec.nodeName") != node => {
                Err(format!("node {node:?} can only delete pods with spec.nodeName set to itself"))
            }
            _ => Ok(()),
        },
        ("", operation) => Err(format!(
            "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
            operation.as_str()
        )),
        ("status", _) => status(node, object, old),
        ("eviction", _) => {
            let key = Key::new("pods", review.namespace.as_str(), review.name.as_str());
            match review.server.store.get(&key) {
                Some(pod) if object::tree(&pod).text("spec.nodeName") != node => {
                    Err(format!("node {node} can only evict pods with spec.nodeName set to itself"))
                }
                _ => Ok(()),
            }
        }
        (other, _) => {
            Err(format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"))
        }
    }
}

fn status(node: &str, object: Option<&Value>, old: Option<&Value>) -> Result<(), String> {
    let (new, old) = (object.unwrap_or(&Value::Null), old.unwrap_or(&Value::Null));
    if old.text("spec.nodeName") != node {
        return Err(format!(
            "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
        ));
    }
    if new.map("metadata.labels") != old.map("metadata.labels") {
        return Err(format!("node {node:?} cannot update labels through pod status"));
    }
    if new.list("status.resourceClaimStatuses") != old.list("status.resourceClaimStatuses") {
        return Err(format!("node {node:?} cannot update resource claim statues"));
    }
    Ok(())
}

/// A mirror pod shows what runs on the node already; it may refer to nothing.
fn mirror(review: &Review<'_>, node: &str, pod: &Value) -> Result<(), String> {
    let annotation = "kubernetes.io/config.mirror";
    if pod.at("metadata.annotations").get(annotation).is_none() {
        return Err(format!(
            "pod does not have {annotation:?} annotation, node {node:?} can only create mirror pods"
        ));
    }
    if pod.text("spec.nodeName") != node {
        return Err(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    let owners = pod.list("metadata.ownerReferences");
    if owners.len() > 1 {
        return Err(format!(
            "node {node:?} can only create pods with a single owner reference set to itself"
        ));
    }
    if let Some(owner) = owners.first() {
        if owner.text("apiVersion") != "v1" || owner.text("kind") != "Node" || owner.text("name") != node {
            return Err(format!("node {node:?} can only create pods with an owner reference set to itself"));
        }
        if !owner.flag("controller") {
            return Err(format!(
                "node {node:?} can only create pods with a controller owner reference set to itself"
            ));
        }
        if owner.flag("blockOwnerDeletion") {
            return Err(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
        }
        let uid = review
            .server
            .store
            .get(&Key::new("nodes", "", node))
            .map(|n| n.attrs.uid.to_string())
            .unwrap_or_default();
        if owner.text("uid") != uid {
            return Err(format!("node {node} UID mismatch: expected {} got {uid}", owner.text("uid")));
        }
    }
    references(pod)
        .map_or(Ok(()), |what| Err(format!("node {node:?} can not create pods that reference {what}")))
}

fn references(pod: &Value) -> Option<&'static str> {
    if !pod.text("spec.serviceAccountName").is_empty() {
        return Some("serviceaccounts");
    }
    let text = pod["spec"].to_string();
    let found = [
        ("\"secret\":", "secrets"),
        ("\"secretKeyRef\"", "secrets"),
        ("SecretRef\":", "secrets"),
        ("\"secretRef\"", "secrets"),
        ("\"secretName\"", "secrets"),
        ("\"imagePullSecrets\"", "secrets"),
        ("\"configMap", "configmaps"),
        ("\"persistentVolumeClaim\"", "persistentvolumeclaims"),
        ("\"ephemeral\":", "persistentvolumeclaims"),
        ("\"resourceClaims\"", "resourceclaims"),
    ];
    found.iter().find(|(key, _)| text.contains(key)).map(|(_, what)| *what)
}

fn own_node(
    review: &Review<'_>,
    node: &str,
    object: Option<&Value>,
    old: Option<&Value>,
) -> Result<(), String> {
    let named = object.map(|o| o.text("metadata.name")).filter(|n| !n.is_empty()).unwrap_or(&review.name);
    if named != node {
        return Err(format!("node {node:?} is not allowed to modify node {named:?}"));
    }
    let Some(new) = object else { return Ok(()) };
    match (review.operation, old) {
        (Operation::Create, _) => {
            let bad = forbidden_labels(new, None);
            if !bad.is_empty() {
                return Err(format!(
                    "node {node:?} is not allowed to set the following labels: {}",
                    bad.join(", ")
                ));
            }
        }
        (Operation::Update, Some(old)) => {
            if new.list("spec.taints") != old.list("spec.taints") {
                return Err(format!("node {node:?} is not allowed to modify taints"));
            }
            if new.list("metadata.ownerReferences") != old.list("metadata.ownerReferences") {
                return Err(format!("node {node:?} is not allowed to modify ownerReferences"));
            }
            let bad = forbidden_labels(new, Some(old));
            if !bad.is_empty() {
                return Err(format!("is not allowed to modify labels: {}", bad.join(", ")));
            }
        }
        _ => {}
    }
    Ok(())
}

/// Kubernetes' labels that an agent has no business with: those set, or (given the old node) those changed.
fn forbidden_labels(new: &Value, old: Option<&Value>) -> Vec<String> {
    let (now, before) = (new.map("metadata.labels"), old.map(|old| old.map("metadata.labels")));
    let mut keys: Vec<&String> = match before {
        None => now.keys().collect(),
        Some(before) => {
            now.keys().chain(before.keys()).filter(|key| now.get(*key) != before.get(*key)).collect()
        }
    };
    keys.sort();
    keys.dedup();
    keys.into_iter().filter(|key| is_reserved(key, old.is_some())).cloned().collect()
}

fn is_reserved(key: &str, changing: bool) -> bool {
    let Some((prefix, _)) = key.split_once('/') else { return false };
    let under = |domain: &str| {
        prefix == domain || prefix.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
    };
    if under("node-restriction.kubernetes.io") {
        return true;
    }
    if !under("kubernetes.io") && !under("k8s.io") {
        return false;
    }
    // What an agent may set at first it may change later; other labels of these domains only at first by none.
    let _ = changing;
    !(LABELS.contains(&key) || LABEL_PREFIXES.iter().any(|allowed| under(allowed)))
}

fn token(review: &Review<'_>, node: &str, request: Option<&Value>) -> Result<(), String> {
    let reference = request.map_or(&Value::Null, |request| request.at("spec.boundObjectRef"));
    if reference.text("kind") != "Pod"
        || reference.text("apiVersion") != "v1"
        || reference.text("name").is_empty()
    {
        return Err("node requested token not bound to a pod".to_owned());
    }
    if reference.text("uid").is_empty() {
        return Err("node requested token with a pod binding without a uid".to_owned());
    }
    let key = Key::new("pods", review.namespace.as_str(), reference.text("name"));
    let Some(pod) = review.server.store.get(&key) else {
        return Err(format!("pods {:?} not found", reference.text("name")));
    };
    if reference.text("uid") != &*pod.attrs.uid {
        return Err(format!(
            "the UID in the bound object reference ({}) does not match the UID in record. The object might have been deleted and then recreated",
            reference.text("uid")
        ));
    }
    let pod = object::tree(&pod);
    if pod.text("spec.nodeName") != node {
        return Err("node requested token bound to a pod scheduled on a different node".to_owned());
    }
    let wanted = request.map_or(&[][..], |request| request.list("spec.audiences"));
    let wanted = match wanted {
        [] => "",
        [one] => one.as_str().unwrap_or(""),
        _ => return Err("node may only request 0 or 1 audiences".to_owned()),
    };
    audience(review, &pod, wanted)
}

/// A node asks for the audiences that a volume of the pod names, and for those that RBAC grants it.
fn audience(review: &Review<'_>, pod: &Value, wanted: &str) -> Result<(), String> {
    let projected = |volume: &Value| {
        let sources = volume.list("projected.sources").iter().map(|source| source.at("serviceAccountToken"));
        sources.filter(|token| token.is_object()).any(|token| token.text("audience") == wanted)
    };
    let driver_asks = |volume: &Value| {
        let driver = driver_of(review, pod, volume)?;
        let driver = review.server.store.get(&Key::new("storage.k8s.io/csidrivers", "", driver.as_str()))?;
        let requests = object::tree(&driver);
        Some(requests.list("spec.tokenRequests").iter().any(|request| request.text("audience") == wanted))
    };
    let named = |volume: &Value| projected(volume) || driver_asks(volume) == Some(true);
    if pod.list("spec.volumes").iter().any(named) {
        return Ok(());
    }
    let user = &review.exchange.user;
    let verb = "request-serviceaccounts-token-audience";
    let question = authz::Attributes::resource(verb, "", wanted, &review.namespace, &review.name);
    if review.server.authorizer.decide(review.server, user, &question).allowed {
        return Ok(());
    }
    Err(format!(
        "audience {wanted:?} not found in pod spec volume, {} is not authorized to request tokens for this audience",
        user.name
    ))
}

/// The CSI driver behind a pod's volume.
fn driver_of(review: &Review<'_>, pod: &Value, volume: &Value) -> Option<String> {
    if volume.has("csi") {
        return Some(volume.text("csi.driver").to_owned());
    }
    let claim = match volume.has("ephemeral.volumeClaimTemplate") {
        true => format!("{}-{}", pod.text("metadata.name"), volume.text("name")),
        false => volume.text("persistentVolumeClaim.claimName").to_owned(),
    };
    let find = |key: Key| review.server.store.get(&key).map(|stored| object::tree(&stored));
    let claim = find(Key::new("persistentvolumeclaims", review.namespace.as_str(), claim.as_str()))?;
    let volume = find(Key::new("persistentvolumes", "", claim.text("spec.volumeName")))?;
    volume.has("spec.csi").then(|| volume.text("spec.csi.driver").to_owned())
}

fn lease(review: &Review<'_>, node: &str, object: Option<&Value>) -> Result<(), String> {
    if review.namespace != "kube-node-lease" {
        return Err("can only access leases in the \"kube-node-lease\" system namespace".to_owned());
    }
    let name = object.map(|o| o.text("metadata.name")).filter(|n| !n.is_empty()).unwrap_or(&review.name);
    if name != node {
        return Err("can only access node lease with the same name as the requesting node".to_owned());
    }
    Ok(())
}

fn csi_node(review: &Review<'_>, node: &str, object: Option<&Value>) -> Result<(), String> {
    let name = object.map(|o| o.text("metadata.name")).filter(|n| !n.is_empty()).unwrap_or(&review.name);
    if name == node {
        Ok(())
    } else {
        Err("can only access CSINode with the same name as the requesting node".to_owned())
    }
}

fn slice(node: &str, object: Option<&Value>, old: Option<&Value>) -> Result<(), String> {
    match object.or(old) {
        Some(slice) if slice.text("spec.nodeName") != node => {
            Err(format!("can only create, update or delete ResourceSlices with spec.nodeName={node:?}"))
        }
        _ => Ok(()),
    }
}
