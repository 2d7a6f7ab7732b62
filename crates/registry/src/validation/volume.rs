//! Volumes of a pod: names, exactly one source each, and what each source needs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use api::names;
use regex::Regex;
use serde_json::Value;

use super::container::{field_ref, resource_field_ref};
use super::{ErrorList, FieldError, Path, Report, meta};
use crate::tree::Tree;

static IQN: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"iqn\.\d{4}-\d{2}\.([[:alnum:].-]+)(:[^,;*&$|\s]+)$").expect("a const pattern")
});

const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

/// Field paths that a volume file may show.
const VOLUME_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

/// Sources in the order upstream looks at them, with the path segment used when there is a second
/// one (upstream's odd spellings included).
const SOURCES: &[(&str, &str)] = &[
    ("emptyDir", "emptyDir"),
    ("hostPath", "hostPath"),
    ("gitRepo", "gitRepo"),
    ("gcePersistentDisk", "gcePersistentDisk"),
    ("awsElasticBlockStore", "awsElasticBlockStore"),
    ("secret", "secret"),
    ("nfs", "nfs"),
    ("iscsi", "iscsi"),
    ("glusterfs", "glusterfs"),
    ("flocker", "flocker"),
    ("persistentVolumeClaim", "persistentVolumeClaim"),
    ("rbd", "rbd"),
    ("cinder", "cinder"),
    ("cephfs", "cephFS"),
    ("quobyte", "quobyte"),
    ("downwardAPI", "downwarAPI"),
    ("fc", "fc"),
    ("flexVolume", "flexVolume"),
    ("configMap", "configMap"),
    ("azureFile", "azureFile"),
    ("vsphereVolume", "vsphereVolume"),
    ("photonPersistentDisk", "photonPersistentDisk"),
    ("portworxVolume", "portworxVolume"),
    ("azureDisk", "azureDisk"),
    ("storageos", "storageos"),
    ("projected", "projected"),
    ("scaleIO", "scaleIO"),
    ("csi", "csi"),
    ("ephemeral", "ephemeral"),
    ("image", "image"),
];

/// Texts that a source must have.
const NEEDED: &[(&str, &[&str])] = &[
    ("nfs", &["server", "path"]),
    ("glusterfs", &["endpoints", "path"]),
    ("persistentVolumeClaim", &["claimName"]),
    ("secret", &["secretName"]),
    ("configMap", &["name"]),
    ("cinder", &["volumeID"]),
    ("flexVolume", &["driver"]),
    ("azureFile", &["secretName", "shareName"]),
    ("vsphereVolume", &["volumePath"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("storageos", &["volumeName"]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
    ("gcePersistentDisk", &["pdName"]),
    ("awsElasticBlockStore", &["volumeID"]),
    ("gitRepo", &["repository"]),
];

/// Checks `spec.volumes`; returns the good ones by name. `pod_name` is empty in templates, and
/// `is_pod` false.
pub fn volumes<'a>(
    errors: &mut ErrorList,
    volumes: &'a [Value],
    path: &Path,
    pod_name: &str,
    is_pod: bool,
) -> BTreeMap<&'a str, &'a Value> {
    let mut good = BTreeMap::new();
    let generated: BTreeSet<String> = volumes
        .iter()
        .filter(|v| v.has("ephemeral") && !pod_name.is_empty())
        .map(|v| format!("{pod_name}-{}", v.text("name")))
        .collect();
    for (i, volume) in volumes.iter().enumerate() {
        let (name, path) = (volume.text("name"), path.index(i));
        let mut own = ErrorList::new();
        source(&mut own, volume, &path, pod_name, is_pod);
        let at = path.child("name");
        if name.is_empty() {
            own.required(&at, "");
        } else {
            own.messages(&at, name, names::dns1123_label(name));
        }
        if good.contains_key(name) {
            own.duplicate(&at, name);
        }
        if own.is_empty() {
            good.insert(name, volume);
        }
        errors.extend(own);
        let claim = volume.text("persistentVolumeClaim.claimName");
        if generated.contains(claim) {
            let at = path.child("persistentVolumeClaim.claimName");
            errors.invalid(&at, claim, "must not reference a PVC that gets created for an ephemeral volume");
        }
    }
    good
}

fn source(errors: &mut ErrorList, volume: &Value, path: &Path, pod_name: &str, is_pod: bool) {
    let mut found = false;
    for (kind, second) in SOURCES {
        let body = volume.at(kind);
        if body.is_null() {
            continue;
        }
        if found {
            errors.forbidden(&path.child(second), "may not specify more than 1 volume type");
            continue;
        }
        found = true;
        one(errors, kind, body, path, is_pod);
        let name = volume.text("name");
        if *kind == "ephemeral" && !pod_name.is_empty() && !name.is_empty() {
            let claim = format!("{pod_name}-{name}");
            for message in names::dns1123_subdomain(&claim) {
                errors.invalid(&path.child("name"), name, format!("PVC name {claim:?}: {message}"));
            }
        }
    }
    if !found {
        errors.required(path, "must specify a volume type");
    }
}

fn one(errors: &mut ErrorList, kind: &str, body: &Value, at: &Path, is_pod: bool) {
    // Upstream names this one otherwise.
    let path = at.child(if kind == "gcePersistentDisk" { "persistentDisk" } else { kind });
    if let Some((_, needed)) = NEEDED.iter().find(|(k, _)| *k == kind) {
        needed.iter().for_each(|field| errors.required_text(&path, body, field));
    }
    match kind {
        "emptyDir" => {
            let limit = super::resources::amount(body.at("sizeLimit"));
            if limit.is_some_and(|l| l.is_negative()) {
                let detail = "SizeLimit field must be a valid resource quantity";
                errors.forbidden(&path.child("sizeLimit"), detail);
            }
        }
        "hostPath" => host_path(errors, body, &path),
        "gitRepo" => descending_path(errors, &path.child("directory"), body.text("directory")),
        "nfs" if !body.text("path").starts_with('/') => {
            errors.invalid(&path.child("path"), body.text("path"), "must be an absolute path");
        }
        "secret" | "configMap" => {
            mode(errors, body, &path, "defaultMode");
            key_paths(errors, body.list("items"), &path.child("items"));
        }
        "downwardAPI" => {
            mode(errors, body, &path, "defaultMode");
            body.list("items").iter().for_each(|file| downward_file(errors, file, &path));
        }
        "projected" => {
            mode(errors, body, &path, "defaultMode");
            projected(errors, body, &path);
        }
        "csi" => csi(errors, body, &path),
        "ephemeral" => ephemeral(errors, body, &path),
        "image" => {
            if is_pod {
                errors.required_text(&path, body, "reference");
            }
            let policy = body.text("pullPolicy");
            errors.required_one_of(&path.child("pullPolicy"), policy, super::container::PULL_POLICIES);
        }
        other => old_source(errors, other, body, &path),
    }
}

/// Sources of storage systems that CSI has replaced.
fn old_source(errors: &mut ErrorList, kind: &str, body: &Value, path: &Path) {
    match kind {
        "gcePersistentDisk" | "awsElasticBlockStore" => {
            let partition = body.int("partition");
            if !(0..=255).contains(&partition) {
                errors.invalid(&path.child("partition"), partition, names::in_range(1, 255));
            }
        }
        "rbd" | "cephfs" => {
            if body.list("monitors").is_empty() {
                errors.required(&path.child("monitors"), "");
            }
            if kind == "rbd" {
                errors.required_text(path, body, "image");
            }
        }
        "azureDisk" => azure_disk(errors, body, path),
        "storageos" => {
            for field in ["volumeName", "volumeNamespace"] {
                let name = body.text(field);
                let messages = if name.is_empty() { Vec::new() } else { names::dns1123_label(name) };
                messages.into_iter().for_each(|message| errors.invalid(&path.child(field), name, message));
            }
            named_secret(errors, body, path);
        }
        "cinder" => named_secret(errors, body, path),
        "iscsi" => iscsi(errors, body, path),
        "fc" => fibre_channel(errors, body, path),
        "flocker" => {
            let (name, uuid) = (body.text("datasetName"), body.text("datasetUUID"));
            if name.is_empty() && uuid.is_empty() {
                errors.required(path, "one of datasetName and datasetUUID is required");
            } else if !name.is_empty() && !uuid.is_empty() {
                let detail = "datasetName and datasetUUID can not be specified simultaneously";
                errors.invalid(path, "resource", detail);
            }
            if name.contains('/') {
                errors.invalid(&path.child("datasetName"), name, "must not contain '/'");
            }
        }
        "quobyte" => {
            let detail = "must be a host:port pair or multiple pairs separated by commas";
            let (registry, at) = (body.text("registry"), path.child("registry"));
            if registry.is_empty() {
                errors.required(&at, detail);
            } else if body.text("tenant").len() > 64 {
                let detail = "must be a UUID and may not exceed a length of 64 characters";
                errors.required(&path.child("tenant"), detail);
            } else if registry.split(',').any(|pair| pair.matches(':').count() != 1) {
                errors.invalid(&at, registry, detail);
            }
            errors.required_text(path, body, "volume");
        }
        _ => {}
    }
}

/// A reference to a Secret names one.
fn named_secret(errors: &mut ErrorList, body: &Value, path: &Path) {
    if body.has("secretRef") {
        errors.required_text(&path.child("secretRef"), body.at("secretRef"), "name");
    }
}

fn iscsi(errors: &mut ErrorList, body: &Value, path: &Path) {
    errors.required_text(path, body, "targetPortal");
    errors.required_text(path, body, "iqn");
    let prefix = "must be valid format starting with iqn, eui, or naa";
    let iqn = body.text("iqn");
    match iscsi_problem(iqn).filter(|_| !iqn.is_empty()) {
        Some(true) => errors.invalid(&path.child("iqn"), iqn, prefix),
        Some(false) => errors.invalid(&path.child("iqn"), iqn, "must be valid format"),
        None => {}
    }
    if !(0..=255).contains(&body.int("lun")) {
        errors.invalid(&path.child("lun"), body.int("lun"), names::in_range(0, 255));
    }
    let chap = body.flag("chapAuthDiscovery") || body.flag("chapAuthSession");
    if chap && !body.has("secretRef") {
        errors.required(&path.child("secretRef"), "");
    }
    if let Some(initiator) = body.at("initiatorName").as_str() {
        let at = path.child("initiatorname");
        match iscsi_problem(initiator) {
            Some(true) => errors.invalid(&at, initiator, prefix),
            Some(false) => errors.invalid(&at, initiator, "must be valid format"),
            None => {}
        }
    }
}

/// What is wrong with an iSCSI name: `Some(true)` is its kind, `Some(false)` the rest.
fn iscsi_problem(name: &str) -> Option<bool> {
    let digits = |text: Option<&str>, n: usize| {
        text.is_some_and(|t| t.len() == n + 1 && t[1..].bytes().all(|b| b.is_ascii_alphanumeric()))
    };
    let good = match name.get(..3) {
        Some("iqn") => IQN.is_match(name),
        Some("eui") => digits(name.get(3..), 16),
        Some("naa") => digits(name.get(3..), 32),
        _ => return Some(true),
    };
    (!good).then_some(false)
}

/// The forms of an Azure disk's address, as upstream names them.
const MANAGED_DISK: &str =
    "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}";
const BLOB_DISK: &str = "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd";

fn azure_disk(errors: &mut ErrorList, body: &Value, path: &Path) {
    let mut known = |field: &str, values: &[&str]| {
        if let Some(value) = body.at(field).as_str().filter(|value| !values.contains(value)) {
            errors.push(super::FieldError::not_supported(&path.child(field), value, values));
        }
    };
    known("cachingMode", &["None", "ReadOnly", "ReadWrite"]);
    known("kind", &["Dedicated", "Managed", "Shared"]);
    let address = body.text("diskURI");
    let (start, form) = match body.at("kind").as_str() {
        None => return,
        Some("Managed") => ("/subscriptions/", MANAGED_DISK),
        Some(_) => ("https://", BLOB_DISK),
    };
    if !address.starts_with(start) {
        errors.push(super::FieldError::not_supported(&path.child("diskURI"), address, &[form]));
    }
}

fn fibre_channel(errors: &mut ErrorList, body: &Value, path: &Path) {
    let (targets, ids) = (body.list("targetWWNs"), body.list("wwids"));
    let at = path.child("targetWWNs");
    match (targets.is_empty(), ids.is_empty()) {
        (true, true) => errors.required(&at, "must specify either targetWWNs or wwids, but not both"),
        (false, false) => {
            let detail = "targetWWNs and wwids can not be specified simultaneously";
            errors.invalid(&at, body.at("targetWWNs").clone(), detail);
        }
        _ => {}
    }
    if !targets.is_empty() {
        match body.at("lun").as_i64() {
            None => errors.required(&path.child("lun"), "lun is required if targetWWNs is specified"),
            Some(lun) if !(0..=255).contains(&lun) => {
                errors.invalid(&path.child("lun"), lun, names::in_range(0, 255));
            }
            Some(_) => {}
        }
    }
}

/// A host path: not empty, no `..`, a known type.
pub fn host_path(errors: &mut ErrorList, body: &Value, path: &Path) {
    let text = body.text("path");
    if text.is_empty() {
        errors.required(&path.child("path"), "");
        return;
    }
    no_backsteps(errors, &path.child("path"), text);
    let types =
        ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    if body.has("type") {
        errors.one_of(&path.child("type"), body.text("type"), &types);
    }
}

fn mode(errors: &mut ErrorList, body: &Value, path: &Path, field: &str) {
    if let Some(mode) = body.at(field).as_i64()
        && !(0..=0o777).contains(&mode)
    {
        errors.invalid(&path.child(field), mode, MODE);
    }
}

fn key_paths(errors: &mut ErrorList, items: &[Value], path: &Path) {
    for (i, item) in items.iter().enumerate() {
        key_path(errors, item, &path.index(i));
    }
}

fn key_path(errors: &mut ErrorList, item: &Value, path: &Path) {
    errors.required_text(path, item, "key");
    errors.required_text(path, item, "path");
    local_path(errors, &path.child("path"), item.text("path"));
    mode(errors, item, path, "mode");
}

/// `..` is no part of the path.
pub fn no_backsteps(errors: &mut ErrorList, path: &Path, text: &str) {
    if text.split('/').any(|part| part == "..") {
        errors.invalid(path, text, "must not contain '..'");
    }
}

/// A relative path that never goes up.
pub fn descending_path(errors: &mut ErrorList, path: &Path, text: &str) {
    if text.starts_with('/') {
        errors.invalid(path, text, "must be a relative path");
    }
    no_backsteps(errors, path, text);
}

/// As [`descending_path`]; names that start with `..` are the volume's own.
fn local_path(errors: &mut ErrorList, path: &Path, text: &str) {
    descending_path(errors, path, text);
    if text.starts_with("..") && !text.starts_with("../") {
        errors.invalid(path, text, "must not start with '..'");
    }
}

/// Upstream gives downward files the path of their volume, without an index.
fn downward_file(errors: &mut ErrorList, file: &Value, path: &Path) {
    errors.required_text(path, file, "path");
    local_path(errors, &path.child("path"), file.text("path"));
    match (file.has("fieldRef"), file.has("resourceFieldRef")) {
        (true, both) => {
            field_ref(errors, file.at("fieldRef"), VOLUME_FIELDS, &path.child("fieldRef"));
            if both {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.invalid(path, "resource", detail);
            }
        }
        (false, true) => {
            resource_field_ref(errors, file.at("resourceFieldRef"), &path.child("resourceFieldRef"), true);
        }
        (false, false) => errors.required(path, "one of fieldRef and resourceFieldRef is required"),
    }
    mode(errors, file, path, "mode");
}

fn projected(errors: &mut ErrorList, body: &Value, path: &Path) {
    let mut taken: BTreeSet<String> = BTreeSet::new();
    for (i, source) in body.list("sources").iter().enumerate() {
        let at = path.child("sources").index(i);
        let kinds = [
            "secret",
            "configMap",
            "downwardAPI",
            "serviceAccountToken",
            "clusterTrustBundle",
            "podCertificate",
        ];
        for kind in kinds {
            let part = source.at(kind);
            if part.is_null() {
                continue;
            }
            let at = at.child(kind);
            match kind {
                "secret" | "configMap" => {
                    errors.required_text(&at, part, "name");
                    for (i, item) in part.list("items").iter().enumerate() {
                        key_path(errors, item, &at.child("items").index(i));
                        take(errors, &mut taken, path, item.text("path"), part.text("name"));
                    }
                }
                "downwardAPI" => {
                    for file in part.list("items") {
                        downward_file(errors, file, &at);
                        take(errors, &mut taken, path, file.text("path"), file.text("path"));
                    }
                }
                "serviceAccountToken" => token(errors, part, &at, path),
                "clusterTrustBundle" => {
                    trust_bundle(errors, part, &at);
                    take(errors, &mut taken, path, part.text("path"), part.text("path"));
                }
                _ => certificate(errors, part, &at, path, &mut taken),
            }
        }
        if kinds.iter().filter(|k| source.has(k)).count() > 1 {
            errors.forbidden(&at, "may not specify more than 1 volume type per source");
        }
    }
}

fn take(errors: &mut ErrorList, taken: &mut BTreeSet<String>, path: &Path, file: &str, shown: &str) {
    if !file.is_empty() && !taken.insert(file.to_string()) {
        errors.invalid(path, shown, "conflicting duplicate paths");
    }
}

fn token(errors: &mut ErrorList, token: &Value, path: &Path, volume: &Path) {
    let seconds = token.int("expirationSeconds");
    let at = path.child("expirationSeconds");
    if seconds < 600 {
        errors.invalid(&at, seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds > 1 << 32 {
        errors.invalid(&at, seconds, "may not specify a duration larger than 2^32 seconds");
    }
    match token.text("path") {
        "" => errors.required(&volume.child("path"), ""),
        text => local_path(errors, &volume.child("path"), text),
    }
}

fn trust_bundle(errors: &mut ErrorList, part: &Value, path: &Path) {
    match (part.at("name").as_str(), part.at("signerName").as_str()) {
        (Some(_), Some(_)) => {
            errors.invalid(path, part.clone(), "only one of name and signerName may be used");
        }
        (Some(name), None) => {
            if name.is_empty() {
                errors.required(&path.child("name"), "must be a valid object name");
            }
            if part.has("labelSelector") {
                let detail = "labelSelector must be unset if name is specified";
                errors.invalid(&path.child("labelSelector"), part.at("labelSelector").clone(), detail);
            }
        }
        (None, Some(signer)) => {
            if signer.is_empty() {
                errors.required(&path.child("signerName"), "must be a valid signer name");
            }
            meta::selector(errors, part.at("labelSelector"), &path.child("labelSelector"));
        }
        (None, None) => errors.required(path, "either name or signerName must be specified"),
    }
    errors.required_text(path, part, "path");
    local_path(errors, &path.child("path"), part.text("path"));
}

fn certificate(
    errors: &mut ErrorList,
    part: &Value,
    path: &Path,
    volume: &Path,
    taken: &mut BTreeSet<String>,
) {
    errors.required_text(path, part, "signerName");
    let types = ["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];
    errors.one_of(&path.child("keyType"), part.text("keyType"), &types);
    let files = ["credentialBundlePath", "keyPath", "certificateChainPath"];
    for field in files {
        let text = part.text(field);
        if !text.is_empty() {
            local_path(errors, &path.child(field), text);
            take(errors, taken, volume, text, text);
        }
    }
    if files.iter().all(|f| part.text(f).is_empty()) {
        let detail = "specify at least one of credentialBundlePath, keyPath, and certificateChainPath";
        errors.required(path, detail);
    }
}

/// A CSI driver's name.
pub fn csi_driver_name(errors: &mut ErrorList, path: &Path, name: &str) {
    if name.is_empty() {
        errors.required(path, "");
        return;
    }
    if name.len() > 63 {
        errors.push(FieldError::too_long(path, 63));
    }
    errors.messages(path, name, names::dns1123_subdomain(&name.to_lowercase()));
}

fn csi(errors: &mut ErrorList, body: &Value, path: &Path) {
    csi_driver_name(errors, &path.child("driver"), body.text("driver"));
    if body.has("nodePublishSecretRef") {
        match body.text("nodePublishSecretRef.name") {
            "" => errors.required(&path.child("nodePublishSecretRef.name"), ""),
            name => errors.messages(&path.child("name"), name, names::dns1123_subdomain(name)),
        }
    }
}

fn ephemeral(errors: &mut ErrorList, body: &Value, path: &Path) {
    let (template, path) = (body.at("volumeClaimTemplate"), path.child("volumeClaimTemplate"));
    if template.is_null() {
        errors.required(&path, "");
        return;
    }
    let at = path.child("metadata");
    meta::annotations(errors, template.at("metadata.annotations"), &at.child("annotations"));
    meta::labels(errors, template.at("metadata.labels"), &at.child("labels"));
    for field in template.map("metadata").keys().filter(|k| !matches!(k.as_str(), "annotations" | "labels")) {
        errors.forbidden(&at.child(field), "cannot be set");
    }
    super::storage::claim_spec(errors, template.at("spec"), &path.child("spec"));
}
