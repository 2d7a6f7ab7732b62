//! Persistent volumes and claims, and the storage.k8s.io kinds.

use std::collections::{BTreeMap, BTreeSet};

use api::names;
use serde_json::Value;

use super::resources::amount;
use super::{ErrorList, FieldError, NOT_POSITIVE, Path, Report, meta, scheduling, volume};
use crate::strategy::differs;
use crate::tree::Tree;

const MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const VOLUME_MODES: &[&str] = &["Block", "Filesystem"];
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

fn access_modes(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let at = path.child("accessModes");
    let modes: Vec<&str> = spec.list("accessModes").iter().filter_map(Value::as_str).collect();
    modes.iter().for_each(|mode| errors.one_of(&at, mode, MODES));
    let known_other = modes.iter().any(|m| *m != "ReadWriteOncePod" && MODES.contains(m));
    if modes.contains(&"ReadWriteOncePod") && known_other {
        errors.forbidden(&at, "may not use ReadWriteOncePod with other access modes");
    }
}

/// A claim's spec, wherever it appears.
pub fn claim_spec(errors: &mut ErrorList, spec: &Value, path: &Path) {
    if spec.list("accessModes").is_empty() {
        errors.required(&path.child("accessModes"), "at least 1 access mode is required");
    }
    meta::selector(errors, spec.at("selector"), &path.child("selector"));
    access_modes(errors, spec, path);
    let at = path.child("resources").key("storage");
    match spec.map("resources.requests").get("storage").and_then(amount) {
        None => errors.required(&at, ""),
        Some(size) if size.is_negative() || size.is_zero() => {
            errors.invalid(&at, size.to_string(), NOT_POSITIVE);
        }
        Some(_) => {}
    }
    for field in ["storageClassName", "volumeAttributesClassName"] {
        if field == "volumeAttributesClassName" {
            data_sources(errors, spec, path);
        }
        if let Some(name) = spec.at(field).as_str().filter(|n| !n.is_empty()) {
            errors.messages(&path.child(field), name, names::dns1123_subdomain(name));
        }
        if field == "storageClassName"
            && let Some(mode) = spec.at("volumeMode").as_str()
        {
            errors.one_of(&path.child("volumeMode"), mode, VOLUME_MODES);
        }
    }
}

fn data_sources(errors: &mut ErrorList, spec: &Value, path: &Path) {
    for field in ["dataSource", "dataSourceRef"] {
        let (source, at) = (spec.at(field), path.child(field));
        if source.is_null() {
            continue;
        }
        errors.required_text(&at, source, "name");
        errors.required_text(&at, source, "kind");
        let group = source.text("apiGroup");
        if group.is_empty() && source.text("kind") != "PersistentVolumeClaim" {
            let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
            errors.invalid(&at, source.text("kind"), detail);
        }
        if !group.is_empty() {
            errors.messages(&at.child("apiGroup"), group, names::dns1123_subdomain(group));
        }
        let namespace = source.text("namespace");
        if !namespace.is_empty() {
            errors.messages(&at.child("namespace"), namespace, names::dns1123_label(namespace));
        }
    }
    let (source, reference) = (spec.at("dataSource"), spec.at("dataSourceRef"));
    if source.is_null() || reference.is_null() {
        return;
    }
    if !reference.text("namespace").is_empty() {
        let detail = "may not be specified when dataSourceRef.namespace is specified";
        errors.invalid(path, path.child("dataSource").to_string(), detail);
    } else if ["apiGroup", "kind", "name"].iter().any(|f| source.at(f) != reference.at(f)) {
        errors.invalid(path, path.child("dataSource").to_string(), "must match dataSourceRef");
    }
}

/// A new claim.
pub fn claim(pvc: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    claim_spec(&mut errors, pvc.at("spec"), &Path::new("spec"));
    errors
}

/// An update of a claim: a bound one may grow, little else changes.
pub fn claim_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = claim(new);
    let (mut now, mut was) = (new.at("spec").clone(), old.at("spec").clone());
    let path = Path::new("spec");
    if was.text("volumeName").is_empty() {
        was.set("volumeName", now.text("volumeName"));
        now.set("volumeName", new.text("spec.volumeName"));
    }
    class_upgrade(&mut errors, new, old, &mut now, &was);
    if new.text("status.phase") == "Bound" {
        if now.has("resources.requests") {
            now.set("resources.requests.storage", was.at("resources.requests.storage").clone());
        }
        now.unset("volumeAttributesClassName");
        was.unset("volumeAttributesClassName");
    }
    if differs(Some(&now), Some(&was)) {
        let detail = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n";
        errors.forbidden(&path, detail);
    }
    let size = |object: &Value, path: &str| object.map(path).get("storage").and_then(amount);
    let (now, was) = (size(new, "spec.resources.requests"), size(old, "spec.resources.requests"));
    if let (Some(now), Some(was)) = (now, was)
        && now < was
        && size(old, "status.capacity").is_none_or(|have| now <= have)
    {
        let at = path.child("resources.requests.storage");
        let have = size(old, "status.capacity");
        if have.is_some() {
            errors.forbidden(&at, "field can not be less than status.capacity");
        }
    }
    errors.immutable(&Path::new("volumeMode"), new.at("spec.volumeMode"), old.at("spec.volumeMode"));
    if old.has("status.currentVolumeAttributesClassName") && !differs_class(new, old) {
        return errors;
    }
    if old.has("status.currentVolumeAttributesClassName") {
        let at = path.child("volumeAttributesClassName");
        const WHY: &str = "is forbidden when status.currentVolumeAttributesClassName is not nil";
        match new.at("spec.volumeAttributesClassName").as_str() {
            None => errors.forbidden(&at, format!("update to nil {WHY}")),
            Some("") => errors.forbidden(&at, format!("update to empty string {WHY}")),
            Some(_) => {}
        }
    }
    errors
}

fn differs_class(new: &Value, old: &Value) -> bool {
    new.at("spec.volumeAttributesClassName") != old.at("spec.volumeAttributesClassName")
}

/// The class may move from the old annotation to the field, and be set where there was none.
fn class_upgrade(errors: &mut ErrorList, new: &Value, old: &Value, now: &mut Value, was: &Value) {
    let annotation = |o: &Value| o.map("metadata.annotations").get(BETA_CLASS).cloned();
    let (before, after) = (annotation(old), annotation(new));
    let (class, old_class) = (new.at("spec.storageClassName"), old.at("spec.storageClassName"));
    let upgraded = before.is_some()
        && old_class.is_null()
        && Some(class) == before.as_ref()
        && (after.is_none() || after == before);
    if upgraded {
        now.unset("storageClassName");
        return;
    }
    if before != after {
        let path = Path::new("metadata").child("annotations").child(BETA_CLASS);
        errors.invalid(&path, after.unwrap_or_else(|| "".into()), super::IMMUTABLE);
    }
    if !class.is_null() && old_class.is_null() && before.is_none_or(|b| b == *class) {
        match was.at("storageClassName") {
            Value::Null => drop(now.unset("storageClassName")),
            value => now.set("storageClassName", value.clone()),
        }
    }
}

/// Sources of a persistent volume, in upstream's order.
const PV_SOURCES: &[&str] = &[
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];

/// A persistent volume.
pub fn persistent_volume(pv: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, path) = (pv.at("spec"), Path::new("spec"));
    if spec.list("accessModes").is_empty() {
        errors.required(&path.child("accessModes"), "");
    }
    access_modes(&mut errors, spec, &path);
    capacity(&mut errors, spec, &path.child("capacity"));
    let policy = spec.text("persistentVolumeReclaimPolicy");
    let policy_at = path.child("persistentVolumeReclaimPolicy");
    if !policy.is_empty() {
        errors.one_of(&policy_at, policy, &["Delete", "Recycle", "Retain"]);
    }
    let affinity = spec.at("nodeAffinity");
    if !affinity.is_null() {
        let at = path.child("nodeAffinity.required");
        match affinity.has("required") {
            true => scheduling::node_selector(&mut errors, affinity.at("required"), &at),
            false => errors.required(&at, "must specify required node constraints"),
        }
    }
    pv_source(&mut errors, spec, &path);
    if spec.text("hostPath.path").trim_matches('/').is_empty() && spec.has("hostPath") && policy == "Recycle"
    {
        errors.forbidden(&policy_at, "may not be 'recycle' for a hostPath mount of '/'");
    }
    let class = spec.text("storageClassName");
    if !class.is_empty() {
        errors.messages(&path.child("storageClassName"), class, names::dns1123_subdomain(class));
    }
    if let Some(mode) = spec.at("volumeMode").as_str() {
        errors.one_of(&path.child("volumeMode"), mode, VOLUME_MODES);
    }
    if let Some(class) = spec.at("volumeAttributesClassName").as_str() {
        let at = path.child("volumeAttributesClassName");
        match class {
            "" => errors.required(&at, "an empty string is disallowed"),
            name => errors.messages(&at, name, names::dns1123_subdomain(name)),
        }
        if !spec.has("csi") {
            errors.required(&path.child("csi"), "has to be specified when using volumeAttributesClassName");
        }
    }
    errors
}

fn capacity(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let all = spec.map("capacity");
    if all.is_empty() {
        errors.required(path, "");
    }
    if !all.contains_key("storage") || all.len() > 1 {
        errors.push(FieldError::not_supported(path, spec.at("capacity").clone(), &["storage"]));
    }
    for (name, size) in all {
        let Some(size) = amount(size) else { continue };
        if size.is_negative() {
            errors.invalid(&path.key(name), size.value(), "must be a valid resource quantity");
        }
        if size.is_negative() || size.is_zero() {
            errors.invalid(&path.key(name), size.to_string(), NOT_POSITIVE);
        }
    }
}

fn pv_source(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let mut found = false;
    for kind in PV_SOURCES.iter().filter(|k| spec.has(k)) {
        // A flexVolume beside others has always passed.
        if found && *kind != "flexVolume" {
            let shown = if *kind == "cephfs" { "cephFS" } else { kind };
            errors.forbidden(&path.child(shown), "may not specify more than 1 volume type");
            continue;
        }
        found = true;
        let (body, at) = (spec.at(kind), path.child(kind));
        match *kind {
            "hostPath" => volume::host_path(errors, body, &at),
            "nfs" => {
                errors.required_text(&at, body, "server");
                errors.required_text(&at, body, "path");
                if !body.text("path").starts_with('/') {
                    errors.invalid(&at.child("path"), body.text("path"), "must be an absolute path");
                }
            }
            "local" => {
                match body.text("path") {
                    "" => errors.required(&at.child("path"), ""),
                    text => volume::no_backsteps(errors, &at.child("path"), text),
                }
                if !spec.has("nodeAffinity") {
                    errors.required(&path.child("nodeAffinity"), "Local volume requires node affinity");
                }
            }
            "flexVolume" => errors.required_text(&at, body, "driver"),
            "csi" => {
                volume::csi_driver_name(errors, &at.child("driver"), body.text("driver"));
                errors.required_text(&at, body, "volumeHandle");
                for field in [
                    "controllerPublishSecretRef",
                    "controllerExpandSecretRef",
                    "nodePublishSecretRef",
                    "nodeExpandSecretRef",
                ] {
                    if body.has(field) {
                        secret_ref(errors, body.at(field), &at.child(field));
                    }
                }
            }
            _ => {}
        }
    }
    if !found {
        errors.required(path, "must specify a volume type");
    }
}

fn secret_ref(errors: &mut ErrorList, reference: &Value, path: &Path) {
    type Check = fn(&str) -> Vec<String>;
    for (field, check) in [("name", names::dns1123_subdomain as Check), ("namespace", names::dns1123_label)] {
        match reference.text(field) {
            "" => errors.required(&path.child(field), ""),
            text => errors.messages(&path.child(field), text, check(text)),
        }
    }
}

/// An update of a persistent volume: its source stays.
pub fn persistent_volume_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = persistent_volume(new);
    let source = |pv: &Value| -> Vec<(String, Value)> {
        let kinds = PV_SOURCES.iter().filter(|k| pv.at("spec").has(k));
        kinds.map(|k| ((*k).to_string(), pv.at("spec").at(k).clone())).collect()
    };
    let (mut now, was) = (source(new), source(old));
    for (kind, body) in &mut now {
        if kind == "csi" && old.has("spec.csi") && !old.has("spec.csi.controllerExpandSecretRef") {
            body.unset("controllerExpandSecretRef");
        }
    }
    if now != was {
        let path = Path::new("spec").child("persistentvolumesource");
        errors.forbidden(&path, "spec.persistentvolumesource is immutable after creation\n");
    }
    errors.immutable(&Path::new("volumeMode"), new.at("spec.volumeMode"), old.at("spec.volumeMode"));
    let (now, was) = (new.at("spec.nodeAffinity"), old.at("spec.nodeAffinity"));
    if !was.is_null() && differs(Some(now), Some(was)) {
        let detail = "field is immutable, except for updating from beta label to GA";
        errors.invalid(&Path::new("nodeAffinity"), now.clone(), detail);
    }
    if old.has("spec.volumeAttributesClassName") && !new.has("spec.volumeAttributesClassName") {
        let path = Path::new("spec").child("volumeAttributesClassName");
        errors.forbidden(&path, "update from non-nil value to nil is forbidden");
    }
    errors
}

/// A StorageClass.
pub fn storage_class(class: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    provisioner(&mut errors, class.text("provisioner"), &Path::new("provisioner"));
    let at = Path::new("parameters");
    let mut size = 0;
    for (key, value) in class.map("parameters") {
        if key.is_empty() {
            errors.invalid(&at, "", "field can not be empty.");
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > 256 * 1024 {
        errors.push(FieldError::too_long(&at, 256 * 1024));
    }
    if class.map("parameters").len() > 512 {
        errors.push(FieldError::too_long(&Path::new("Provisioner Parameters Length"), 512));
    }
    let policy = class.text("reclaimPolicy");
    if !policy.is_empty() {
        errors.one_of(&Path::new("reclaimPolicy"), policy, &["Delete", "Retain"]);
    }
    let mode = class.text("volumeBindingMode");
    match class.has("volumeBindingMode") {
        true => errors.one_of(&Path::new("volumeBindingMode"), mode, &["Immediate", "WaitForFirstConsumer"]),
        false => errors.required(&Path::new("volumeBindingMode"), ""),
    }
    topologies(&mut errors, class);
    errors
}

fn topologies(errors: &mut ErrorList, class: &Value) {
    let all = class.list("allowedTopologies");
    let rules = |term: &Value| -> BTreeMap<String, BTreeSet<String>> {
        let of = |rule: &Value| {
            let values = rule.list("values").iter().filter_map(Value::as_str).map(str::to_owned);
            (rule.text("key").to_owned(), values.collect())
        };
        term.list("matchLabelExpressions").iter().map(of).collect()
    };
    for (i, term) in all.iter().enumerate() {
        let at = Path::new("allowedTopologies").index(i).child("matchLabelExpressions");
        let mut seen: Vec<&str> = Vec::new();
        for (j, rule) in term.list("matchLabelExpressions").iter().enumerate() {
            let at = at.index(j);
            let (key, values) = (rule.text("key"), rule.list("values"));
            if values.is_empty() {
                errors.required(&at.child("values"), "");
            }
            for (k, value) in values.iter().enumerate().filter(|(k, v)| values[..*k].contains(v)) {
                errors.duplicate(&at.child("values").index(k), value.clone());
            }
            errors.messages(&at.child("key"), key, names::qualified_name(key));
            if seen.contains(&key) {
                errors.duplicate(&at.child("key"), key);
            }
            seen.push(key);
        }
        // A term without rules is a repetition by itself: upstream's list of earlier ones begins with empty ones.
        if rules(term).is_empty() || all[..i].iter().any(|earlier| rules(earlier) == rules(term)) {
            errors.duplicate(&at, "");
        }
    }
}

fn provisioner(errors: &mut ErrorList, name: &str, path: &Path) {
    if name.is_empty() {
        errors.required(path, "");
        return;
    }
    let name = name.to_lowercase();
    errors.messages(path, &name, names::qualified_name(&name));
}

/// An update of a StorageClass.
pub fn storage_class_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = storage_class(new);
    for field in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
        errors.immutable(&Path::new(field), new.at(field), old.at(field));
    }
    errors
}

/// A VolumeAttachment.
pub fn volume_attachment(attachment: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, path) = (attachment.at("spec"), Path::new("spec"));
    volume::csi_driver_name(&mut errors, &path.child("attacher"), spec.text("attacher"));
    let source = spec.at("source");
    let at = path.child("source");
    match (source.at("persistentVolumeName").as_str(), source.has("inlineVolumeSpec")) {
        (None, false) => {
            errors.required(&at, "must specify exactly one of inlineVolumeSpec and persistentVolumeName")
        }
        (Some(_), true) => {
            errors.forbidden(&at, "must specify exactly one of inlineVolumeSpec and persistentVolumeName");
        }
        (Some(""), false) => {
            errors.required(&at.child("persistentVolumeName"), "must specify non empty persistentVolumeName");
        }
        _ => {}
    }
    let node = spec.text("nodeName");
    errors.messages(&path.child("nodeName"), node, names::dns1123_subdomain(node));
    attachment_status(&mut errors, attachment.at("status"));
    if let Some(name) = source.at("persistentVolumeName").as_str() {
        errors.messages(&at.child("persistentVolumeName"), name, names::dns1123_subdomain(name));
    }
    errors
}

fn attachment_status(errors: &mut ErrorList, status: &Value) {
    const METADATA_MAX: usize = 256 << 10;
    let path = Path::new("status");
    let size: usize = status
        .map("attachmentMetadata")
        .iter()
        .map(|(key, value)| key.len() + value.as_str().map_or(0, str::len))
        .sum();
    if size > METADATA_MAX {
        errors.push(FieldError::too_long(&path.child("attachmentMetadata"), METADATA_MAX));
    }
    for field in ["attachError", "detachError"] {
        let (error, at) = (status.at(field), path.child(field));
        if error.text("message").len() > 1024 {
            // Upstream names the wrong limit.
            errors.push(FieldError::too_long(&at.child("message"), METADATA_MAX));
        }
        let code = error.int("errorCode");
        if code < 0 {
            let detail = "must be between 0 and 2147483647, inclusive";
            errors.invalid(&at.child("errorCode"), code, detail);
        }
    }
}

/// An update of a VolumeAttachment.
pub fn volume_attachment_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = volume_attachment(new);
    if differs(new.get("spec"), old.get("spec")) {
        errors.invalid(&Path::new("spec"), new.at("spec").clone(), super::IMMUTABLE);
    }
    errors
}

/// A CSIDriver.
pub fn csi_driver(driver: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, path) = (driver.at("spec"), Path::new("spec"));
    let needed = [
        ("attachRequired", "attachedRequired"),
        ("podInfoOnMount", "podInfoOnMount"),
        ("storageCapacity", "storageCapacity"),
    ];
    for (field, shown) in needed {
        if !spec.has(field) {
            errors.required(&path.child(shown), "");
        }
    }
    if let Some(policy) = spec.at("fsGroupPolicy").as_str() {
        let all = ["File", "None", "ReadWriteOnceWithFSType"];
        errors.one_of(&path.child("fsGroupPolicy"), policy, &all);
    }
    let mut seen: Vec<&str> = Vec::new();
    for (i, request) in spec.list("tokenRequests").iter().enumerate() {
        let at = path.child("tokenRequests").index(i);
        let audience = request.text("audience");
        if seen.contains(&audience) {
            errors.duplicate(&at.child("audience"), audience);
            continue;
        }
        seen.push(audience);
        if let Some(seconds) = request.at("expirationSeconds").as_i64() {
            let at = at.child("expirationSeconds");
            if seconds < 600 {
                errors.invalid(&at, seconds, "may not specify a duration less than 10 minutes");
            }
            if seconds > 1 << 32 {
                errors.invalid(&at, seconds, "may not specify a duration larger than 2^32 seconds");
            }
        }
    }
    for mode in spec.list("volumeLifecycleModes").iter().filter_map(Value::as_str) {
        errors.one_of(&path.child("volumeLifecycleModes"), mode, &["Persistent", "Ephemeral"]);
    }
    if let Some(seconds) = spec.at("nodeAllocatableUpdatePeriodSeconds").as_i64().filter(|n| *n < 10) {
        let at = path.child("nodeAllocatableUpdatePeriodSeconds");
        errors.invalid(&at, seconds, "must be greater than or equal to 10 seconds");
    }
    if spec.has("serviceAccountTokenInSecrets") && spec.list("tokenRequests").is_empty() {
        let (at, detail) = (
            path.child("serviceAccountTokenInSecrets"),
            "serviceAccountTokenInSecrets is set but no tokenRequests are specified",
        );
        errors.invalid(&at, spec.at("serviceAccountTokenInSecrets").clone(), detail);
    }
    errors
}

/// What is said of a CSIDriver whose tokens travel where they may be logged.
pub fn csi_driver_warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    let requests = |driver: &Value| driver.list("spec.tokenRequests").to_vec();
    let exposed = !requests(new).is_empty() && !new.has("spec.serviceAccountTokenInSecrets");
    if !exposed || old.is_some_and(|old| requests(old) == requests(new)) {
        return Vec::new();
    }
    let text = "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes";
    vec![text.to_string()]
}

/// An update of a CSIDriver.
pub fn csi_driver_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = csi_driver(new);
    // Upstream's path has this spelling.
    for (field, shown) in
        [("attachRequired", "attachedRequired"), ("volumeLifecycleModes", "volumeLifecycleModes")]
    {
        let (now, was) = (new.at("spec").at(field), old.at("spec").at(field));
        errors.immutable(&Path::new("spec").child(shown), now, was);
    }
    errors
}

/// A CSIStorageCapacity.
pub fn csi_capacity(capacity: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    meta::selector(&mut errors, capacity.at("nodeTopology"), &Path::new("nodeTopology"));
    let class = capacity.text("storageClassName");
    errors.messages(&Path::new("storageClassName"), class, names::dns1123_subdomain(class));
    if let Some(size) = amount(capacity.at("capacity"))
        && size.is_negative()
    {
        errors.invalid(&Path::new("capacity"), size.to_string(), super::NEGATIVE);
    }
    errors
}

/// An update of a CSIStorageCapacity.
pub fn csi_capacity_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = csi_capacity(new);
    for field in ["nodeTopology", "storageClassName"] {
        errors.immutable(&Path::new(field), new.at(field), old.at(field));
    }
    errors
}

/// A CSINode.
pub fn csi_node(node: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec").child("drivers");
    let mut seen: Vec<&str> = Vec::new();
    for (i, driver) in node.list("spec.drivers").iter().enumerate() {
        let at = path.index(i);
        volume::csi_driver_name(&mut errors, &at.child("name"), driver.text("name"));
        if driver.text("nodeID").is_empty() {
            errors.required(&at.child("nodeID"), "");
        }
        if driver.text("nodeID").len() > 256 {
            let detail = "must be 256 characters or less";
            errors.invalid(&at.child("nodeID"), driver.text("nodeID"), detail);
        }
        errors.non_negative(&at.child("allocatable").child("count"), driver.int("allocatable.count"));
        if seen.contains(&driver.text("name")) {
            errors.duplicate(&at.child("name"), driver.text("name"));
        }
        seen.push(driver.text("name"));
        let keys: Vec<&str> = driver.list("topologyKeys").iter().filter_map(Value::as_str).collect();
        for (j, key) in keys.iter().enumerate() {
            if key.is_empty() {
                errors.required(&at, "");
            }
            if keys[..j].contains(key) {
                errors.duplicate(&at, *key);
            }
            errors.messages(&at, key, names::qualified_name(key));
        }
    }
    errors
}

/// An update of a CSINode: a driver stays what it was, but for what may be allocated.
pub fn csi_node_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = csi_node(new);
    let bare = |driver: &Value| {
        let mut driver = driver.clone();
        driver.unset("allocatable");
        driver
    };
    for was in old.list("spec.drivers") {
        for now in new.list("spec.drivers").iter().filter(|now| now.text("name") == was.text("name")) {
            errors.immutable(&Path::new("spec").child("drivers"), &bare(now), &bare(was));
        }
    }
    errors
}

/// A VolumeAttributesClass.
pub fn volume_attributes_class(class: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    provisioner(&mut errors, class.text("driverName"), &Path::new("driverName"));
    if class.map("parameters").is_empty() {
        errors.required(&Path::new("parameters"), "must contain at least one key/value pair");
    }
    errors
}

/// An update of a VolumeAttributesClass.
pub fn volume_attributes_class_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    if new.text("driverName") != old.text("driverName") {
        errors.forbidden(&Path::new("driverName"), "updates to driverName are forbidden.");
    }
    if new.at("parameters") != old.at("parameters") {
        errors.forbidden(&Path::new("parameters"), "updates to parameters are forbidden.");
    }
    errors.extend(volume_attributes_class(new));
    errors
}

const RESIZES: &[&str] = &[
    "ControllerResizeInProgress",
    "ControllerResizeInfeasible",
    "NodeResizeInProgress",
    "NodeResizeInfeasible",
    "NodeResizePending",
];

/// A claim's `/status`.
pub fn claim_status(pvc: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (status, path) = (pvc.at("status"), Path::new("status"));
    if pvc.list("spec.accessModes").is_empty() {
        errors.required(&Path::new("Spec").child("accessModes"), "");
    }
    for (name, quantity) in status.map("capacity") {
        basic_quantity(&mut errors, quantity, &path.child("capacity").key(name));
    }
    let at = path.child("allocatedResourceStatuses");
    for (name, state) in status.map("allocatedResourceStatuses") {
        claim_resource(&mut errors, name, &at);
        if !RESIZES.contains(&state.as_str().unwrap_or("")) {
            errors.one_of(&at, name, RESIZES);
        }
    }
    let at = path.child("allocatedResources");
    for (name, quantity) in status.map("allocatedResources") {
        if claim_resource(&mut errors, name, &at) {
            basic_quantity(&mut errors, quantity, &at.key(name));
        }
    }
    errors
}

fn basic_quantity(errors: &mut ErrorList, quantity: &Value, path: &Path) {
    let negative = match quantity {
        Value::String(text) => text.starts_with('-') && text != "-0",
        number => number.as_f64().is_some_and(|n| n < 0.0),
    };
    if negative {
        let shown = quantity.to_string().replace('"', "");
        let detail = "must be a valid resource quantity";
        super::shown::report(errors, super::ErrorKind::Invalid, path, shown, detail);
    }
}

/// Storage, or a name of somebody else's.
fn claim_resource(errors: &mut ErrorList, name: &str, path: &Path) -> bool {
    let messages = names::qualified_name(name);
    if !messages.is_empty() {
        errors.messages(path, name, messages);
        return false;
    }
    let ours = !name.contains('/') || name.contains("kubernetes.io/");
    if ours && name != "storage" {
        errors.one_of(path, name, &["storage"]);
        return false;
    }
    true
}
