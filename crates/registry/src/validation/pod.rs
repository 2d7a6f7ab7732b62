//! Pods and pod templates as a whole.

use std::collections::BTreeSet;

use api::names;
use serde_json::{Map, Value};

use super::container::{Scene, image_padding};
use super::resources::{self, Names};
use super::{ErrorKind, ErrorList, FieldError, Path, Report, meta, scheduling, security, shown, volume};
use crate::tree::Tree;

const MIRROR: &str = "kubernetes.io/config.mirror";
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// A new pod.
pub fn create(pod: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    metadata_and_spec(&mut errors, pod);
    let path = Path::new("spec");
    if !pod.list("spec.ephemeralContainers").is_empty() {
        errors.forbidden(&path.child("ephemeralContainers"), "cannot be set on create");
    }
    if !pod.text("spec.nodeName").is_empty() && !pod.list("spec.schedulingGates").is_empty() {
        let detail = "cannot be set until all schedulingGates have been cleared";
        errors.forbidden(&path.child("nodeName"), detail);
    }
    errors
}

/// What holds for a pod at any time.
pub fn metadata_and_spec(errors: &mut ErrorList, pod: &Value) {
    let path = Path::new("metadata").child("annotations");
    annotations(errors, pod, &path);
    let spec = Path::new("spec");
    self::spec(errors, pod.at("spec"), Some(pod.at("metadata")), &spec);
    if pod.text("spec.serviceAccountName").is_empty() {
        for (i, v) in pod.list("spec.volumes").iter().enumerate() {
            for (j, source) in v.list("projected.sources").iter().enumerate() {
                if source.has("serviceAccountToken") {
                    let at = spec.child("volumes").index(i).child("projected.sources").index(j);
                    let detail = "must not be specified when serviceAccountName is not set";
                    errors.forbidden(&at.child("serviceAccountToken"), detail);
                }
            }
        }
    }
    for list in ["containers", "initContainers"] {
        for (i, c) in pod.at("spec").list(list).iter().enumerate() {
            image_padding(errors, c, &spec.child(list).index(i));
        }
    }
}

/// Annotations that mean something to pods.
pub fn annotations(errors: &mut ErrorList, pod: &Value, path: &Path) {
    let all = pod.map("metadata.annotations");
    if let Some(mirror) = all.get(MIRROR)
        && pod.text("spec.nodeName").is_empty()
    {
        let detail = "must set spec.nodeName if mirror pod annotation is set";
        errors.invalid(&path.key(MIRROR), mirror.clone(), detail);
    }
    if let Some(cost) = all.get(DELETION_COST).and_then(Value::as_str) {
        let plain = !(cost.starts_with('+') || (cost.len() > 1 && cost.starts_with('0')));
        if !plain || cost.parse::<i32>().is_err() {
            errors.invalid(&path.key(DELETION_COST), cost, "must be a 32bit integer");
        }
    }
    for (key, value) in all {
        let value = value.as_str().unwrap_or("");
        if key == SECCOMP_POD || key.starts_with(SECCOMP_CONTAINER) {
            security::seccomp_annotation(errors, value, &path.child(key));
        }
        if let Some(name) = key.strip_prefix(APP_ARMOR) {
            if !has_container(pod, name) {
                errors.invalid(&path.key(key), name, "container not found");
            }
            let known = matches!(value, "" | "runtime/default" | "unconfined");
            if !known && !value.starts_with("localhost/") {
                let detail = format!("invalid AppArmor profile name: {value:?}");
                errors.invalid(&path.key(key), value, detail);
            }
        }
    }
}

fn has_container(pod: &Value, name: &str) -> bool {
    let lists = ["spec.initContainers", "spec.containers", "spec.ephemeralContainers"];
    lists.iter().flat_map(|l| pod.list(l)).any(|c| c.text("name") == name)
}

/// Annotations that no update may add, change or take away.
pub fn annotation_changes(errors: &mut ErrorList, new: &Value, old: &Value) {
    let path = Path::new("metadata").child("annotations");
    let (now, before) = (new.map("metadata.annotations"), old.map("metadata.annotations"));
    for (key, value) in before {
        if now.get(key) == Some(value) {
            continue;
        }
        if key.starts_with(APP_ARMOR) {
            errors.forbidden(&path.key(key), "may not remove or update AppArmor annotations");
        }
        if key == MIRROR {
            errors.forbidden(&path.key(key), "may not remove or update mirror pod annotation");
        }
    }
    for key in now.keys().filter(|k| !before.contains_key(*k)) {
        if key.starts_with(APP_ARMOR) {
            errors.forbidden(&path.key(key), "may not add AppArmor annotations");
        }
        if key == MIRROR {
            errors.forbidden(&path.key(key), "may not add mirror pod annotation");
        }
    }
}

/// A PodTemplateSpec.
pub fn template(errors: &mut ErrorList, template: &Value, path: &Path) {
    // Upstream leaves `metadata` out of these paths.
    meta::labels(errors, template.at("metadata.labels"), &path.child("labels"));
    meta::annotations(errors, template.at("metadata.annotations"), &path.child("annotations"));
    annotations(errors, template, &path.child("annotations"));
    spec(errors, template.at("spec"), None, &path.child("spec"));
    if !template.list("spec.ephemeralContainers").is_empty() {
        let detail = "ephemeral containers not allowed in pod template";
        errors.forbidden(&path.child("spec.ephemeralContainers"), detail);
    }
}

/// A PodSpec; `meta` is given for pods, not for templates.
pub fn spec(errors: &mut ErrorList, spec: &Value, meta: Option<&Value>, path: &Path) {
    if !spec.has("terminationGracePeriodSeconds") {
        errors.required(&path.child("terminationGracePeriodSeconds"), "");
    }
    let name = meta.map_or("", |m| m.text("name"));
    let at = path.child("volumes");
    let volumes = volume::volumes(errors, spec.list("volumes"), &at, name, meta.is_some());
    let claims: BTreeSet<String> = spec
        .list("resourceClaims")
        .iter()
        .map(|c| c.text("name").to_string())
        .filter(|n| !n.is_empty())
        .collect();
    resource_claims(errors, spec, meta, &path.child("resourceClaims"));
    let scene = Scene {
        volumes,
        claims,
        grace: spec.at("terminationGracePeriodSeconds").as_i64(),
        restart_policy: spec.text("restartPolicy"),
        os: spec.at("os.name").as_str(),
        host_users: spec.at("hostUsers") != &Value::Bool(false),
    };
    let (main, init) = (spec.list("containers"), spec.list("initContainers"));
    scene.main(errors, main, &path.child("containers"));
    scene.init(errors, init, main, &path.child("initContainers"));
    let others: Vec<&Value> = main.iter().chain(init).collect();
    let at = path.child("ephemeralContainers");
    scene.ephemeral(errors, spec.list("ephemeralContainers"), &others, &at);
    pod_resources(errors, spec, &scene, path);
    host_network(errors, spec, meta.is_some(), path);
    policies(errors, spec, path);
    placement(errors, spec, path);
    security::host_processes(errors, spec, path);
    host_users(errors, spec, path);
    identity(errors, spec, path);
    os(errors, spec, path);
    file_keys(errors, spec, path);
}

fn resource_claims(errors: &mut ErrorList, spec: &Value, meta: Option<&Value>, path: &Path) {
    let mut seen: Vec<&str> = Vec::new();
    let mirror = meta.is_some_and(|m| m.map("annotations").contains_key(MIRROR));
    for (i, claim) in spec.list("resourceClaims").iter().enumerate() {
        let path = path.index(i);
        if mirror {
            errors.forbidden(&Path::root(), "static pods do not support resource claims");
            continue;
        }
        let name = claim.text("name");
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        } else if seen.contains(&name) {
            errors.duplicate(&path.child("name"), name);
        } else {
            errors.messages(&path.child("name"), name, names::dns1123_label(name));
            seen.push(name);
        }
        match (claim.has("resourceClaimName"), claim.has("resourceClaimTemplateName")) {
            (true, true) => {
                let detail =
                    "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified";
                let text = shown::text(claim, shown::POD_CLAIM);
                shown::report(errors, ErrorKind::Invalid, &path, text, detail);
            }
            (false, false) => {
                let detail = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`";
                let text = shown::text(claim, shown::POD_CLAIM);
                shown::report(errors, ErrorKind::Invalid, &path, text, detail);
            }
            _ => {}
        }
        for field in ["resourceClaimName", "resourceClaimTemplateName"] {
            if let Some(name) = claim.at(field).as_str() {
                errors.messages(&path.child(field), name, names::dns1123_subdomain(name));
            }
        }
    }
}

fn pod_resources(errors: &mut ErrorList, spec: &Value, scene: &Scene<'_>, path: &Path) {
    let whole = spec.at("resources");
    if whole.is_null() {
        return;
    }
    let path = path.child("resources");
    if scene.os == Some("windows") {
        errors.forbidden(&path, "may not be set for a windows pod");
        return;
    }
    if whole.has("claims") {
        errors.forbidden(&path.child("claims"), "claims may not be set for Resources at pod-level");
    }
    resources::requirements(errors, &path, whole, Names::Pod, &scene.claims);
    let compare = |errors: &mut ErrorList, what: &str, only_huge: bool| {
        let sums: Map<String, Value> = crate::defaults::pod::aggregate(spec, what);
        for (name, sum) in &sums {
            if only_huge && !resources::is_huge_page(name) {
                continue;
            }
            let Some(have) = whole.map(what).get(name).and_then(resources::amount) else { continue };
            let Some(sum) = resources::amount(sum) else { continue };
            if sum > have {
                let detail = format!("must be greater than or equal to aggregate container {what} of {sum}");
                errors.invalid(&path.child(what).key(name), have.to_string(), detail);
            }
        }
    };
    compare(errors, "requests", false);
    compare(errors, "limits", true);
    for (i, c) in spec.list("containers").iter().enumerate() {
        for (name, limit) in c.map("resources.limits") {
            let whole = whole.map("limits").get(name).and_then(resources::amount);
            let (Some(whole), Some(limit)) = (whole, resources::amount(limit)) else { continue };
            if limit > whole {
                let at = path.child("containers").index(i).key(name).child("limits");
                let detail = format!("must be less than or equal to pod limits of {whole}");
                errors.invalid(&at, limit.to_string(), detail);
            }
        }
    }
}

fn host_network(errors: &mut ErrorList, spec: &Value, is_pod: bool, path: &Path) {
    if !spec.flag("hostNetwork") {
        return;
    }
    for (i, c) in spec.list("containers").iter().enumerate() {
        for (j, port) in c.list("ports").iter().enumerate() {
            let (host, own) = (port.int("hostPort"), port.int("containerPort"));
            if (is_pod || host != 0) && host != own {
                let at = path.child("containers").index(i).child("ports").index(j).child("hostPort");
                errors.invalid(&at, host, "must match `containerPort` when `hostNetwork` is true");
            }
        }
    }
}

fn policies(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let restart = spec.text("restartPolicy");
    errors.required_one_of(&path.child("restartPolicy"), restart, &["Always", "OnFailure", "Never"]);
    let dns = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    errors.required_one_of(&path.child("dnsPolicy"), spec.text("dnsPolicy"), &dns);
    meta::labels(errors, spec.at("nodeSelector"), &path.child("nodeSelector"));
    security::pod(errors, spec, &path.child("securityContext"));
    scheduling::affinity(errors, spec.at("affinity"), &path.child("affinity"));
    dns_config(errors, spec, &path.child("dnsConfig"));
    for (i, gate) in spec.list("readinessGates").iter().enumerate() {
        let at = path.child("readinessGates").index(i).child("conditionType");
        scheduling::qualified(errors, &at, gate.text("conditionType"));
    }
    let mut seen: Vec<&str> = Vec::new();
    for (i, gate) in spec.list("schedulingGates").iter().enumerate() {
        let (at, name) = (path.child("schedulingGates").index(i), gate.text("name"));
        scheduling::qualified(errors, &at, name);
        if seen.contains(&name) {
            errors.duplicate(&at, name);
        }
        seen.push(name);
    }
    let at = path.child("topologySpreadConstraints");
    scheduling::spread(errors, spec.list("topologySpreadConstraints"), &at);
}

fn dns_config(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let config = spec.at("dnsConfig");
    let servers = config.list("nameservers");
    if spec.text("dnsPolicy") == "None" {
        if config.is_null() {
            errors.required(path, "must provide `dnsConfig` when `dnsPolicy` is None");
            return;
        }
        if servers.is_empty() {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errors.required(&path.child("nameservers"), detail);
            return;
        }
    }
    let at = path.child("nameservers");
    if servers.len() > 3 {
        errors.invalid(&at, config.at("nameservers").clone(), "must not have more than 3 nameservers");
    }
    for (i, server) in servers.iter().filter_map(Value::as_str).enumerate() {
        errors.ip(&at.index(i), server);
    }
    let at = path.child("searches");
    let searches: Vec<&str> = config.list("searches").iter().filter_map(Value::as_str).collect();
    if searches.len() > 32 {
        errors.invalid(&at, config.at("searches").clone(), "must not have more than 32 search paths");
    }
    if searches.join(" ").len() > 2048 {
        let detail = "must not have more than 2048 characters (including spaces) in the search list";
        errors.invalid(&at, config.at("searches").clone(), detail);
    }
    for (i, search) in searches.iter().enumerate().filter(|(_, s)| **s != ".") {
        let search = search.strip_suffix('.').unwrap_or(search);
        errors.messages(&at.index(i), search, subdomain_with_underscore(search));
    }
    for (i, option) in config.list("options").iter().enumerate() {
        if option.text("name").is_empty() {
            errors.required(&path.child("options").index(i), "must not be empty");
        }
    }
}

fn subdomain_with_underscore(text: &str) -> Vec<String> {
    let edge = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let good = text.split('.').all(|label| {
        let bytes = label.strip_prefix('_').unwrap_or(label).as_bytes();
        match (bytes.first(), bytes.last()) {
            (Some(a), Some(z)) => edge(a) && edge(z) && bytes.iter().all(|b| edge(b) || b"-_".contains(b)),
            _ => false,
        }
    });
    let mut out = Vec::new();
    if text.len() > names::DNS1123_SUBDOMAIN_MAX {
        out.push(format!("must be no more than {} bytes", names::DNS1123_SUBDOMAIN_MAX));
    }
    if !good {
        let detail = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', \
                      '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', \
                      regex used for validation is \
                      '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')";
        out.push(detail.to_string());
    }
    out
}

fn placement(errors: &mut ErrorList, spec: &Value, path: &Path) {
    if !spec.list("tolerations").is_empty() {
        scheduling::tolerations(errors, spec.list("tolerations"), &path.child("tolerations"));
    }
    for (i, alias) in spec.list("hostAliases").iter().enumerate() {
        let at = path.child("hostAliases").index(i);
        errors.ip(&at.child("ip"), alias.text("ip"));
        for (j, host) in alias.list("hostnames").iter().filter_map(Value::as_str).enumerate() {
            errors.messages(&at.child("hostnames").index(j), host, names::dns1123_subdomain(host));
        }
    }
}

fn host_users(errors: &mut ErrorList, spec: &Value, path: &Path) {
    if spec.at("hostUsers") != &Value::Bool(false) {
        return;
    }
    for (field, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if spec.flag(field) {
            errors.forbidden(&path.child(shown), "when `hostUsers` is false");
        }
    }
    for (c, at) in all_containers(spec, path) {
        if !c.list("volumeDevices").is_empty() {
            errors.forbidden(&at.child("volumeDevices"), "when `hostUsers` is false");
        }
    }
}

/// Every container with its path: init, main, ephemeral.
fn all_containers<'a>(spec: &'a Value, path: &Path) -> Vec<(&'a Value, Path)> {
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    let mut out = Vec::new();
    for list in lists {
        for (i, c) in spec.list(list).iter().enumerate() {
            out.push((c, path.child(list).index(i)));
        }
    }
    out
}

fn identity(errors: &mut ErrorList, spec: &Value, path: &Path) {
    if let Some(host) = spec.at("hostnameOverride").as_str() {
        let at = path.child("hostnameOverride");
        if spec.flag("setHostnameAsFQDN") {
            errors.forbidden(&at, "may not be specified when setHostnameAsFQDN is true");
        }
        if spec.flag("hostNetwork") {
            errors.forbidden(&at, "may not be specified when hostNetwork is true");
        }
        if host.len() > 64 {
            errors.push(FieldError::too_long(&at, 64));
        }
        errors.messages(&at, host, names::dns1123_subdomain(host));
    }
    for field in ["serviceAccountName", "nodeName"] {
        let name = spec.text(field);
        if !name.is_empty() {
            errors.messages(&path.child(field), name, names::dns1123_subdomain(name));
        }
    }
    if let Some(seconds) = spec.at("activeDeadlineSeconds").as_i64()
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        let detail = names::in_range(1, i64::from(i32::MAX));
        errors.invalid(&path.child("activeDeadlineSeconds"), seconds, detail);
    }
    for field in ["hostname", "subdomain"] {
        let name = spec.text(field);
        if !name.is_empty() {
            errors.messages(&path.child(field), name, names::dns1123_label(name));
        }
    }
    let class = spec.text("priorityClassName");
    if !class.is_empty() {
        errors.messages(&path.child("priorityClassName"), class, names::dns1123_subdomain(class));
    }
    if let Some(class) = spec.at("runtimeClassName").as_str() {
        errors.messages(&path.child("runtimeClassName"), class, names::dns1123_subdomain(class));
    }
    if let Some(policy) = spec.at("preemptionPolicy").as_str() {
        let at = path.child("preemptionPolicy");
        errors.required_one_of(&at, policy, &["PreemptLowerPriority", "Never"]);
    }
    if spec.has("overhead") {
        let limits = serde_json::json!({"limits": spec.at("overhead")});
        let at = path.child("overhead");
        resources::requirements(errors, &at, &limits, Names::Container, &BTreeSet::new());
    }
}

fn os(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let os = spec.at("os");
    if os.is_null() {
        return;
    }
    match os.text("name") {
        "" => errors.required(&path.child("os.name"), ""),
        "linux" => {
            const WHY: &str = "windows options cannot be set for a linux pod";
            if spec.has("securityContext.windowsOptions") {
                errors.forbidden(&path.child("securityContext.windowsOptions"), WHY);
            }
            for (c, at) in all_containers(spec, path) {
                if c.has("securityContext.windowsOptions") {
                    errors.forbidden(&at.child("securityContext.windowsOptions"), WHY);
                }
            }
        }
        "windows" => windows(errors, spec, path),
        other => errors.one_of(&path.child("os"), other, &["linux", "windows"]),
    }
}

fn windows(errors: &mut ErrorList, spec: &Value, path: &Path) {
    const WHY: &str = "cannot be set for a windows pod";
    const POD: &[&str] = &[
        "appArmorProfile",
        "seLinuxOptions",
        "seccompProfile",
        "fsGroup",
        "fsGroupChangePolicy",
        "sysctls",
        "runAsUser",
        "runAsGroup",
        "supplementalGroups",
        "supplementalGroupsPolicy",
        "seLinuxChangePolicy",
    ];
    const CONTAINER: &[&str] = &[
        "appArmorProfile",
        "seLinuxOptions",
        "seccompProfile",
        "capabilities",
        "readOnlyRootFilesystem",
        "privileged",
        "allowPrivilegeEscalation",
        "procMount",
        "runAsUser",
        "runAsGroup",
    ];
    let at = path.child("securityContext");
    for field in POD.iter().filter(|f| spec.at("securityContext").has(f)) {
        errors.forbidden(&at.child(field), WHY);
    }
    for field in ["hostUsers", "hostPID", "hostIPC", "shareProcessNamespace"] {
        if spec.has(field) {
            errors.forbidden(&path.child(field), WHY);
        }
    }
    for (c, at) in all_containers(spec, path) {
        for field in CONTAINER.iter().filter(|f| c.at("securityContext").has(f)) {
            errors.forbidden(&at.child("securityContext").child(field), WHY);
        }
    }
}

fn file_keys(errors: &mut ErrorList, spec: &Value, path: &Path) {
    for (c, at) in all_containers(spec, path) {
        for (i, var) in c.list("env").iter().enumerate() {
            let Some(name) = var.at("valueFrom.fileKeyRef.volumeName").as_str() else { continue };
            let at = at.child("env").index(i).child("valueFrom.fileKeyRef.volumeName");
            match spec.list("volumes").iter().rfind(|v| v.text("name") == name) {
                None => errors.not_found(&at, name),
                Some(v) if !v.has("emptyDir") => {
                    errors.invalid(&at, name, "referenced volume must be of type emptyDir");
                }
                Some(_) => {}
            }
        }
    }
}

/// A Binding, as posted to `pods/NAME/binding`.
pub fn binding(binding: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("target");
    let kind = binding.text("target.kind");
    if !kind.is_empty() && kind != "Node" {
        errors.push(FieldError::not_supported(&path.child("kind"), kind, &["Node", "<empty>"]));
    }
    errors.required_text(&path, binding.at("target"), "name");
    errors
}
