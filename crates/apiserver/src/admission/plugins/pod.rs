//! What pods get: a service account and its token volume, a priority, tolerations, a runtime class's needs.

use std::sync::Arc;

use api::ApiError;
use registry::tree::Tree;
use serde_json::{Value, json};
use store::Key;

use super::super::{Operation, Review};

/// The labels of a node that its pods wear.
const TOPOLOGY: [&str; 2] = ["topology.kubernetes.io/region", "topology.kubernetes.io/zone"];
const MIRROR: &str = "kubernetes.io/config.mirror";
const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const TOKEN_VOLUME: &str = "kube-api-access-";
/// Seconds that default token volumes ask for; the extra 7 mark them as the default.
const TOKEN_SECONDS: i64 = 3607;

fn creates_pod(review: &Review<'_>) -> bool {
    review.operation == Operation::Create && review.is("", "pods") && review.subresource.is_empty()
}

fn is_mirror(pod: &Value) -> bool {
    pod.at("metadata.annotations").get(MIRROR).is_some()
}

fn account(review: &Review<'_>, pod: &Value, name: &str) -> Result<Arc<Value>, ApiError> {
    let key = Key::new("serviceaccounts", review.namespace.as_str(), name);
    match review.server.store.get(&key) {
        Some(stored) => Ok(review.server.trees.of(&stored)),
        None => {
            let wrong = api::names::path_segment(name);
            let why = match wrong.is_empty() {
                true => format!("serviceaccount \"{name}\" not found"),
                false => format!("invalid resource name \"{name}\": [{}]", wrong.join(", ")),
            };
            let why = format!("error looking up service account {}/{name}: {why}", review.namespace);
            Err(review.forbidden(Some(pod), &why))
        }
    }
}

/// Sets the account, its pull secrets and its token volume.
pub fn service_account(review: &Review<'_>, pod: &mut Value, _old: Option<&Value>) -> Result<(), ApiError> {
    if !creates_pod(review) || is_mirror(pod) {
        return Ok(());
    }
    if pod.text("spec.serviceAccountName").is_empty() {
        pod.set("spec.serviceAccountName", "default");
    }
    let name = pod.text("spec.serviceAccountName").to_owned();
    pod.set("spec.serviceAccount", name.clone());
    let account = account(review, pod, &name)?;
    let wanted = [pod.at("spec.automountServiceAccountToken"), account.at("automountServiceAccountToken")];
    if wanted.iter().find_map(|flag| flag.as_bool()).unwrap_or(true) {
        mount_token(review, pod);
    }
    if pod.list("spec.imagePullSecrets").is_empty() && !account.list("imagePullSecrets").is_empty() {
        pod.set("spec.imagePullSecrets", account.at("imagePullSecrets").clone());
    }
    Ok(())
}

fn mount_token(review: &Review<'_>, pod: &mut Value) {
    let known = pod.list("spec.volumes").iter().find(|v| v.text("name").starts_with(TOKEN_VOLUME));
    let existing = known.map(|volume| volume.text("name").to_owned());
    let name = existing.clone().unwrap_or_else(|| format!("{TOKEN_VOLUME}{}", review.server.rng.suffix(5)));
    let mut needed = false;
    for list in ["spec.initContainers", "spec.containers"] {
        for container in pod.list_mut(list) {
            if container.list("volumeMounts").iter().any(|mount| mount.text("mountPath") == TOKEN_PATH) {
                continue;
            }
            let mut mounts = container.list("volumeMounts").to_vec();
            mounts.push(json!({"name": name, "readOnly": true, "mountPath": TOKEN_PATH}));
            container.set("volumeMounts", mounts);
            needed = true;
        }
    }
    if needed && existing.is_none() {
        let mut volumes = pod.list("spec.volumes").to_vec();
        volumes.push(token_volume(&name));
        pod.set("spec.volumes", volumes);
    }
}

fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [
            {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}})
}

/// Mirror pods have none of the API's objects; others have an account that exists.
pub fn has_service_account(
    review: &Review<'_>,
    pod: Option<&Value>,
    _old: Option<&Value>,
) -> Result<(), ApiError> {
    let Some(pod) = pod.filter(|_| creates_pod(review)) else { return Ok(()) };
    if !is_mirror(pod) {
        return Ok(());
    }
    if !pod.text("spec.serviceAccountName").is_empty() {
        return Err(review.forbidden(Some(pod), "a mirror pod may not reference service accounts"));
    }
    if pod.list("spec.volumes").iter().any(|volume| volume.has("secret")) {
        return Err(review.forbidden(Some(pod), "a mirror pod may not reference secrets"));
    }
    let projects =
        |volume: &Value| volume.list("projected.sources").iter().any(|s| s.has("serviceAccountToken"));
    if pod.list("spec.volumes").iter().any(projects) {
        return Err(
            review.forbidden(Some(pod), "a mirror pod may not use ServiceAccountToken volume projections")
        );
    }
    Ok(())
}

fn class(review: &Review<'_>, name: &str) -> Option<Arc<Value>> {
    let key = Key::new("scheduling.k8s.io/priorityclasses", "", name);
    review.server.store.get(&key).map(|stored| review.server.trees.of(&stored))
}

/// A pod wears the zone and region of its node (KEP-4742): taken from the binding, or at once when it is created
/// on a node.
pub fn topology(review: &Review<'_>, object: &mut Value, _old: Option<&Value>) -> Result<(), ApiError> {
    if review.operation != Operation::Create || !review.is("", "pods") {
        return Ok(());
    }
    let node = match review.subresource.as_str() {
        "" => object.text("spec.nodeName"),
        "binding" if object.text("target.kind") == "Node" => object.text("target.name"),
        _ => "",
    };
    if node.is_empty() {
        return Ok(());
    }
    let Some(node) = review.server.store.get(&Key::new("nodes", "", node)) else { return Ok(()) };
    let own = TOPOLOGY.iter().filter_map(|label| Some((*label, node.attrs.label(label)?)));
    let own: Vec<(&str, String)> = own.map(|(label, value)| (label, value.to_string())).collect();
    if own.is_empty() {
        return Ok(());
    }
    let mut labels = object.map("metadata.labels").clone();
    labels.extend(own.into_iter().map(|(label, value)| (label.to_owned(), value.into())));
    object.set("metadata.labels", Value::Object(labels));
    Ok(())
}

fn default_class(review: &Review<'_>) -> Option<Arc<Value>> {
    let snapshot = review.server.store.snapshot("scheduling.k8s.io/priorityclasses");
    let trees = snapshot.range(None, None).map(|stored| review.server.trees.of(stored));
    let classes = trees.filter(|class| class.flag("globalDefault"));
    classes.min_by_key(|class| class.int("value"))
}

/// Sets priority and preemption policy by the class.
pub fn priority(review: &Review<'_>, pod: &mut Value, old: Option<&Value>) -> Result<(), ApiError> {
    if !creates_pod(review) {
        let updates = review.is("", "pods") && review.subresource.is_empty();
        if let Some(old) = old.filter(|_| updates && review.operation == Operation::Update) {
            // What an update leaves out stays.
            for field in ["spec.priority", "spec.preemptionPolicy"].into_iter().filter(|field| old.has(field))
            {
                pod.set_default(field, old.at(field).clone());
            }
        }
        return Ok(());
    }
    let name = pod.text("spec.priorityClassName").to_owned();
    let class = if name.is_empty() {
        default_class(review)
    } else {
        let missing = format!("no PriorityClass with name {name} was found");
        Some(class(review, &name).ok_or_else(|| review.forbidden(Some(pod), &missing))?)
    };
    let (value, policy) = match &class {
        Some(class) => (class.int("value"), class.text("preemptionPolicy")),
        None => (0, ""),
    };
    let policy = if policy.is_empty() { "PreemptLowerPriority" } else { policy };
    if let Some(own) = pod.at("spec.priority").as_i64().filter(|own| *own != value) {
        let why = format!(
            "the integer value of priority ({own}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
        );
        return Err(review.forbidden(Some(pod), &why));
    }
    let own = pod.text("spec.preemptionPolicy");
    if pod.has("spec.preemptionPolicy") && own != policy {
        let why = format!(
            "the string value of PreemptionPolicy ({own}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
        );
        return Err(review.forbidden(Some(pod), &why));
    }
    if let Some(class) = &class {
        pod.set("spec.priorityClassName", class.text("metadata.name"));
    }
    pod.set("spec.priority", value);
    pod.set("spec.preemptionPolicy", policy);
    Ok(())
}

/// Only one class is the default.
pub fn one_default_class(
    review: &Review<'_>,
    object: Option<&Value>,
    _old: Option<&Value>,
) -> Result<(), ApiError> {
    let Some(class) = object.filter(|_| review.is("scheduling.k8s.io", "priorityclasses")) else {
        return Ok(());
    };
    if !class.flag("globalDefault") {
        return Ok(());
    }
    match default_class(review) {
        Some(other) if other.text("metadata.name") != class.text("metadata.name") => {
            let why = format!(
                "PriorityClass {} is already marked as default. Only one default can exist",
                other.text("metadata.name")
            );
            Err(review.forbidden(Some(class), &why))
        }
        _ => Ok(()),
    }
}

/// Pods stay five minutes on nodes that are not ready or unreachable.
pub fn tolerations(review: &Review<'_>, pod: &mut Value, _old: Option<&Value>) -> Result<(), ApiError> {
    let writes = matches!(review.operation, Operation::Create | Operation::Update);
    if !writes || !review.is("", "pods") || !review.subresource.is_empty() {
        return Ok(());
    }
    let mut all = pod.list("spec.tolerations").to_vec();
    for taint in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let covers = |t: &Value| {
            (t.text("key") == taint || t.text("key").is_empty())
                && matches!(t.text("effect"), "NoExecute" | "")
        };
        if !all.iter().any(covers) {
            all.push(
                json!({"key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}),
            );
        }
    }
    if all.len() != pod.list("spec.tolerations").len() {
        pod.set("spec.tolerations", all);
    }
    Ok(())
}

fn runtime_class_of(review: &Review<'_>, pod: &Value) -> Result<Option<Arc<Value>>, ApiError> {
    let name = pod.text("spec.runtimeClassName");
    if name.is_empty() {
        return Ok(None);
    }
    let key = Key::new("node.k8s.io/runtimeclasses", "", name);
    let missing = || review.forbidden(Some(pod), &format!("pod rejected: RuntimeClass \"{name}\" not found"));
    review.server.store.get(&key).map(|stored| Some(review.server.trees.of(&stored))).ok_or_else(missing)
}

/// Overhead, node selector and tolerations of the runtime class.
pub fn runtime_class(review: &Review<'_>, pod: &mut Value, _old: Option<&Value>) -> Result<(), ApiError> {
    if !creates_pod(review) {
        return Ok(());
    }
    let Some(class) = runtime_class_of(review, pod)? else { return Ok(()) };
    let overhead = class.at("overhead.podFixed");
    if overhead.is_object() {
        if pod.has("spec.overhead") && pod.at("spec.overhead") != overhead {
            let why = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
            return Err(review.forbidden(Some(pod), why));
        }
        pod.set("spec.overhead", overhead.clone());
    }
    for (key, value) in class.map("scheduling.nodeSelector") {
        let own = pod.map("spec.nodeSelector").get(key);
        if let Some(own) = own.filter(|own| *own != value) {
            let show = |v: &Value| v.as_str().unwrap_or("").to_owned();
            let why = format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                show(value),
                show(own)
            );
            return Err(review.forbidden(Some(pod), &why));
        }
        if !pod.at("spec.nodeSelector").is_object() {
            pod.set("spec.nodeSelector", json!({}));
        }
        pod["spec"]["nodeSelector"][key.as_str()] = value.clone();
    }
    let mut all = pod.list("spec.tolerations").to_vec();
    for toleration in class.list("scheduling.tolerations") {
        if !all.contains(toleration) {
            all.push(toleration.clone());
        }
    }
    if !all.is_empty() {
        pod.set("spec.tolerations", all);
    }
    Ok(())
}

/// Overhead is the class's, nobody else's.
pub fn overhead(review: &Review<'_>, pod: Option<&Value>, _old: Option<&Value>) -> Result<(), ApiError> {
    let Some(pod) = pod.filter(|_| creates_pod(review)) else { return Ok(()) };
    let class = runtime_class_of(review, pod)?;
    let wanted = class.as_ref().map_or(&Value::Null, |class| class.at("overhead.podFixed"));
    let own = pod.at("spec.overhead");
    if own == wanted || own.as_object().is_none_or(serde_json::Map::is_empty) {
        return Ok(());
    }
    let why = if wanted.is_null() {
        "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"
    } else {
        "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"
    };
    Err(review.forbidden(Some(pod), why))
}
