//! What may change in a pod: the spec through the main resource, status, ephemeral containers,
//! resources.

use api::names;
use serde_json::Value;

use super::pod::{annotation_changes, annotations, metadata_and_spec};
use super::{ErrorList, Path, Report, scheduling};
use crate::strategies::qos_class;
use crate::strategy::differs;
use crate::tree::Tree;

const MIRROR: &str = "kubernetes.io/config.mirror";

/// An update of the pod itself.
pub fn update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    metadata_and_spec(&mut errors, new);
    annotation_changes(&mut errors, new, old);
    let path = Path::new("spec");
    for list in ["containers", "initContainers"] {
        let (now, before) = (new.at("spec").list(list), old.at("spec").list(list));
        let at = path.child(list);
        if now.len() != before.len() {
            errors.forbidden(&at, "pod updates may not add or remove containers");
            return errors;
        }
        for (i, c) in now.iter().enumerate() {
            errors.required_text(&at.index(i), c, "image");
            super::container::image_padding(&mut errors, c, &at.index(i));
        }
    }
    if !deadline(&mut errors, new, old, &path.child("activeDeadlineSeconds")) {
        return errors;
    }
    let at = path.child("tolerations");
    tolerations(&mut errors, new.list("spec.tolerations"), old.list("spec.tolerations"), &at);
    gates(&mut errors, new, old, &path.child("schedulingGates"));
    spec_changes(&mut errors, new, old, &path);
    errors
}

/// False when the check ends here.
fn deadline(errors: &mut ErrorList, new: &Value, old: &Value, path: &Path) -> bool {
    let seconds = |pod: &Value| pod.at("spec.activeDeadlineSeconds").as_i64();
    match (seconds(new), seconds(old)) {
        (Some(now), _) if !(0..=i64::from(i32::MAX)).contains(&now) => {
            errors.invalid(path, now, names::in_range(0, i64::from(i32::MAX)));
            false
        }
        (Some(now), Some(before)) if before < now => {
            errors.invalid(path, now, "must be less than or equal to previous value");
            false
        }
        (None, Some(_)) => {
            let detail = "must not update from a positive integer to nil value";
            errors.invalid(path, Value::Null, detail);
            true
        }
        _ => true,
    }
}

/// Tolerations may only be added, and change nothing but their seconds.
fn tolerations(errors: &mut ErrorList, new: &[Value], old: &[Value], path: &Path) {
    let strip = |t: &Value| {
        let mut t = t.clone();
        t.unset("tolerationSeconds");
        t
    };
    if old.iter().any(|o| !new.iter().any(|n| strip(n) == strip(o))) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.forbidden(path, detail);
        return;
    }
    scheduling::tolerations(errors, new, path);
}

fn gates(errors: &mut ErrorList, new: &Value, old: &Value, path: &Path) {
    let before = old.list("spec.schedulingGates");
    for (i, gate) in new.list("spec.schedulingGates").iter().enumerate() {
        let name = gate.text("name");
        if !before.iter().any(|b| b.text("name") == name) {
            let detail = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            errors.forbidden(&path.index(i).child("name"), detail);
        }
    }
}

const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,\
    `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
    `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// With everything that may change put back, the specs must be equal.
fn spec_changes(errors: &mut ErrorList, new: &Value, old: &Value, path: &Path) {
    let (mut spec, before) = (new.at("spec").clone(), old.at("spec"));
    if !differs(Some(&spec), Some(before)) {
        return;
    }
    for list in ["containers", "initContainers"] {
        for (c, was) in spec.list_mut(list).iter_mut().zip(before.list(list)) {
            c.set("image", was.at("image").clone());
        }
    }
    for field in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        put_back(&mut spec, before, field);
    }
    const GRACE: &str = "terminationGracePeriodSeconds";
    if before.int(GRACE) < 0 && spec.int(GRACE) == 1 {
        put_back(&mut spec, before, GRACE);
    }
    if !before.list("schedulingGates").is_empty() {
        gated_changes(errors, &mut spec, before, path);
    }
    if differs(Some(&spec), Some(before)) {
        let mut changes = String::new();
        describe(&spec, before, "", &mut changes);
        let detail = format!("pod updates may not change fields other than {UPDATABLE}\n{changes}");
        errors.forbidden(path, detail);
    }
}

fn put_back(spec: &mut Value, before: &Value, field: &str) {
    match before.at(field) {
        Value::Null => drop(spec.unset(field)),
        value => spec.set(field, value.clone()),
    }
}

/// A pod that is not scheduled yet may narrow where it goes.
fn gated_changes(errors: &mut ErrorList, spec: &mut Value, before: &Value, path: &Path) {
    if differs(spec.get("nodeSelector"), before.get("nodeSelector")) {
        let now = spec.map("nodeSelector");
        if before.map("nodeSelector").iter().any(|(k, v)| now.get(k) != Some(v)) {
            let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
            errors.invalid(&path.child("nodeSelector"), spec.at("nodeSelector").clone(), detail);
        }
        put_back(spec, before, "nodeSelector");
    }
    let (now, was) = (spec.at("affinity.nodeAffinity").clone(), before.at("affinity.nodeAffinity"));
    if differs(Some(&now), Some(was)) {
        node_affinity(errors, &now, was, &path.child("affinity.nodeAffinity"));
        put_back(spec, before, "affinity.nodeAffinity");
        if !before.has("affinity") && spec.map("affinity").is_empty() {
            spec.unset("affinity");
        }
    }
}

fn node_affinity(errors: &mut ErrorList, now: &Value, was: &Value, path: &Path) {
    const TERMS: &str = "requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    if !was.has("requiredDuringSchedulingIgnoredDuringExecution") {
        return;
    }
    let (new_terms, old_terms) = (now.list(TERMS), was.list(TERMS));
    let at = path.child(TERMS);
    if !old_terms.is_empty() && old_terms.len() != new_terms.len() {
        let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        errors.invalid(&at, now.at(TERMS).clone(), detail);
        return;
    }
    for (i, (new, old)) in new_terms.iter().zip(old_terms).enumerate() {
        let empty = |t: &Value| t.list("matchExpressions").is_empty() && t.list("matchFields").is_empty();
        let grown = ["matchExpressions", "matchFields"]
            .iter()
            .all(|f| new.list(f).len() >= old.list(f).len() && new.list(f).starts_with(old.list(f)));
        if (empty(old) && !empty(new)) || !grown {
            let detail = "only additions are allowed (no mutations or deletions)";
            errors.invalid(&at.index(i), new.clone(), detail);
        }
    }
}

/// One line per changed leaf: upstream prints a Go diff here; tools only look at the first line.
fn describe(new: &Value, old: &Value, at: &str, out: &mut String) {
    match (new, old) {
        (Value::Object(a), Value::Object(b)) => {
            let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                let next = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                describe(new.at(key), old.at(key), &next, out);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                describe(a, b, &format!("{at}[{i}]"), out);
            }
        }
        _ if differs(Some(new), Some(old)) => out.push_str(&format!("  {at}: {old} -> {new}\n")),
        _ => {}
    }
}

/// An update through `/status`.
pub fn status(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    annotation_changes(&mut errors, new, old);
    annotations(&mut errors, new, &Path::new("metadata").child("annotations"));
    let path = Path::new("status");
    let (now, was) = (new.at("status"), old.at("status"));
    for (i, condition) in now.list("conditions").iter().enumerate() {
        let at = path.child("conditions").index(i);
        let generation = condition.int("observedGeneration");
        if generation < 0 {
            errors.invalid(&at.child("observedGeneration"), generation, "must be a non-negative integer");
        }
        let ty = condition.text("type");
        if !matches!(ty, "PodScheduled" | "Ready" | "Initialized") {
            errors.messages(&at.child("Type"), ty, names::qualified_name(ty));
        }
    }
    nominated(&mut errors, new, old, &path.child("nominatedNodeName"));
    if now.int("observedGeneration") < 0 {
        let at = path.child("observedGeneration");
        errors.invalid(&at, now.int("observedGeneration"), "must be a non-negative integer");
    }
    errors.immutable(&path.child("qosClass"), now.at("qosClass"), was.at("qosClass"));
    for (list, containers) in [
        ("containerStatuses", "containers"),
        ("initContainerStatuses", "initContainers"),
        ("ephemeralContainerStatuses", "ephemeralContainers"),
    ] {
        transitions(&mut errors, now.list(list), was.list(list), old, containers, &path.child(list));
    }
    claims(&mut errors, new, &path.child("resourceClaimStatuses"));
    if now.has("extendedResourceClaimStatus") {
        extended_claim(&mut errors, new, &path.child("extendedResourceClaimStatus"));
    }
    addresses(&mut errors, now, was, "podIPs", &path);
    host_addresses(&mut errors, now, was, &path);
    let lists = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
    for list in lists {
        users(&mut errors, new, now.list(list), &path.child(list));
    }
    for (list, containers) in lists.into_iter().zip(["containers", "initContainers"]) {
        allocated(&mut errors, now.list(list), new.at("spec").list(containers), &path.child(list));
    }
    for (i, status) in now.list(lists[2]).iter().enumerate() {
        if !status.list("allocatedResourcesStatus").is_empty() {
            let at = path.child(lists[2]).index(i).child("allocatedResourcesStatus");
            errors.forbidden(&at, "must not be specified in container status");
        }
    }
    errors
}

/// The claim that stands for the pod's extended resources.
fn extended_claim(errors: &mut ErrorList, pod: &Value, path: &Path) {
    let status = pod.at("status.extendedResourceClaimStatus");
    let at = path.child("requestMappings");
    let all = status.list("requestMappings");
    if all.is_empty() {
        errors.required(&at, "at least one request mapping is required");
    }
    for (i, mapping) in all.iter().enumerate() {
        let at = at.index(i);
        let [container, resource, request] =
            ["containerName", "resourceName", "requestName"].map(|field| mapping.text(field));
        let mut containers = pod.list("spec.containers").iter().chain(pod.list("spec.initContainers"));
        match containers.find(|c| c.text("name") == container) {
            None => {
                let detail =
                    "must match the name of an entry in spec.initContainers.name or spec.containers.name";
                errors.invalid(&at.child("containerName"), container, detail);
            }
            Some(found) if !found.map("resources.requests").contains_key(resource) => {
                let detail = "must match the extended resource name of an entry in spec.initContainers.resources.requests or spec.containers.resources.requests";
                errors.invalid(&at.child("resourceName"), resource, detail);
            }
            Some(_) => {}
        }
        errors.messages(&path.child("requestName"), request, names::dns1123_label(request));
        if all[..i].contains(mapping) {
            errors.duplicate(&at.child("containerName"), container);
            errors.duplicate(&at.child("resourceName"), resource);
            errors.duplicate(&at.child("requestName"), request);
        }
    }
    match status.text("resourceClaimName") {
        "" => errors.required(&path.child("resourceClaimName"), ""),
        name => errors.messages(&path.child("resourceClaimName"), name, names::dns1123_subdomain(name)),
    }
}

/// Whom the containers run as.
fn users(errors: &mut ErrorList, pod: &Value, statuses: &[Value], path: &Path) {
    const RANGE: &str = "must be between 0 and 2147483647, inclusive";
    let windows = pod.text("spec.os.name") == "windows";
    for (i, status) in statuses.iter().enumerate() {
        let (user, at) = (status.at("user.linux"), path.index(i).child("user.linux"));
        if user.is_null() {
            continue;
        }
        if windows {
            errors.forbidden(&at, "cannot be set for a windows pod");
            continue;
        }
        let mut check = |id: i64, path: &Path| {
            if !(0..=i64::from(i32::MAX)).contains(&id) {
                errors.invalid(path, id, RANGE);
            }
        };
        check(user.int("uid"), &at.child("uid"));
        check(user.int("gid"), &at.child("gid"));
        for (j, group) in user.list("supplementalGroups").iter().enumerate() {
            check(group.as_i64().unwrap_or(0), &at.child("supplementalGroups").index(j));
        }
    }
}

/// How the devices of containers are.
fn allocated(errors: &mut ErrorList, statuses: &[Value], containers: &[Value], path: &Path) {
    const MESSAGE_MAX: usize = 1 << 10;
    for (i, status) in statuses.iter().enumerate() {
        let container = containers.iter().find(|c| c.text("name") == status.text("name"));
        for (j, resource) in status.list("allocatedResourcesStatus").iter().enumerate() {
            let (name, at) =
                (resource.text("name"), path.index(i).child("allocatedResourcesStatus").index(j));
            if let Some(why) = container.and_then(|container| unknown_resource(container, name)) {
                errors.invalid(&at.child("name"), name, why);
            }
            let all = resource.list("resources");
            for (k, device) in all.iter().enumerate() {
                let (at, id) = (at.child("resources").index(k), device.text("resourceID"));
                errors.one_of(
                    &at.child("health"),
                    device.text("health"),
                    &["Healthy", "Unhealthy", "Unknown"],
                );
                match device.at("message").as_str() {
                    Some("") => errors.required(&at.child("message"), "must be non-empty if specified"),
                    Some(text) if text.len() > MESSAGE_MAX => {
                        errors.push(super::FieldError::too_long(&at.child("message"), MESSAGE_MAX));
                    }
                    _ => {}
                }
                if all[..k].iter().any(|earlier| earlier.text("resourceID") == id) {
                    errors.duplicate(&at.child("resourceID"), id);
                }
            }
        }
    }
}

/// Why a resource is none that the container asks for.
fn unknown_resource(container: &Value, name: &str) -> Option<&'static str> {
    let Some(claim) = name.strip_prefix("claim:") else {
        let known = container.map("resources.requests").contains_key(name);
        return (!known).then_some("must match one of the container's resource requests");
    };
    let is = |c: &Value| match c.text("request") {
        "" => claim == c.text("name"),
        request => claim == format!("{}/{request}", c.text("name")),
    };
    let known = container.list("resources.claims").iter().any(is);
    (!known).then_some(
        "must match one of the container's resource claims in a format 'claim:<claimName>/<request>' or 'claim:<claimName>' if request is empty",
    )
}

/// What became of the pod's resource claims.
fn claims(errors: &mut ErrorList, pod: &Value, path: &Path) {
    let all = pod.list("status.resourceClaimStatuses");
    for (i, status) in all.iter().enumerate() {
        let (name, path) = (status.text("name"), path.index(i));
        if !pod.list("spec.resourceClaims").iter().any(|c| c.text("name") == name) {
            let detail = "must match the name of an entry in `spec.resourceClaims`";
            errors.invalid(&path.child("name"), name, detail);
        }
        if all[..i].iter().any(|s| s.text("name") == name) {
            errors.duplicate(&path.child("name"), name);
        }
        if let Some(claim) = status.at("resourceClaimName").as_str() {
            errors.messages(&path.child("resourceClaimName"), claim, names::dns1123_subdomain(claim));
        }
    }
}

fn nominated(errors: &mut ErrorList, new: &Value, old: &Value, path: &Path) {
    let (now, was) = (new.text("status.nominatedNodeName"), old.text("status.nominatedNodeName"));
    if now == was || now.is_empty() {
        return;
    }
    errors.messages(path, now, names::dns1123_subdomain(now));
    if !old.text("spec.nodeName").is_empty() {
        errors.forbidden(path, "may not be set on pods that are already bound to a node");
    }
}

/// A container that ended for good does not come back.
fn transitions(
    errors: &mut ErrorList,
    new: &[Value],
    old: &[Value],
    pod: &Value,
    containers: &str,
    path: &Path,
) {
    if any_restarts_all(pod) && containers != "ephemeralContainers" {
        return;
    }
    for (i, was) in old.iter().enumerate() {
        let ended = was.at("state.terminated");
        if ended.is_null() {
            continue;
        }
        let back = new.iter().find(|n| n.text("name") == was.text("name"));
        if back.is_none_or(|n| n.has("state.terminated")) {
            continue;
        }
        let container = pod.at("spec").list(containers).iter().find(|c| c.text("name") == was.text("name"));
        let allowed = containers != "ephemeralContainers"
            && container.is_some_and(|c| may_restart(c, pod, ended.int("exitCode")));
        if !allowed {
            errors
                .forbidden(&path.index(i).child("state"), "may not be transitioned to non-terminated state");
        }
    }
}

fn any_restarts_all(pod: &Value) -> bool {
    let all = pod.list("spec.containers").iter().chain(pod.list("spec.initContainers"));
    all.flat_map(|c| c.list("restartPolicyRules")).any(|r| r.text("action") == "RestartAllContainers")
}

fn may_restart(container: &Value, pod: &Value, code: i64) -> bool {
    for rule in container.list("restartPolicyRules") {
        let listed = rule.list("exitCodes.values").iter().any(|v| v.as_i64() == Some(code));
        if listed == (rule.text("exitCodes.operator") == "In") && rule.has("exitCodes") {
            return true;
        }
    }
    let policy = match container.text("restartPolicy") {
        "" => pod.text("spec.restartPolicy"),
        own => own,
    };
    match policy {
        "Always" => true,
        "OnFailure" => code != 0,
        _ => false,
    }
}

fn addresses(errors: &mut ErrorList, now: &Value, was: &Value, field: &str, path: &Path) {
    let at = path.child(field);
    let ips: Vec<&str> = now.list(field).iter().map(|a| a.text("ip")).collect();
    for (i, ip) in ips.iter().enumerate() {
        if !was.list(field).iter().any(|a| a.text("ip") == *ip) {
            errors.ip(&at.index(i), ip);
        }
    }
    let wrong = ips.iter().position(|ip| ip.parse::<std::net::IpAddr>().is_err());
    if let (Some(i), true) = (wrong, ips.len() > 1) {
        let detail = format!("failed to check for dual stack with error:invalid IP[{i}]: {}", ips[i]);
        errors.push(super::FieldError::internal(&at, detail));
    }
    let families = |v6: bool| ips.iter().filter(|ip| ip.contains(':') == v6).count();
    if ips.len() > 1 && (families(true) > 1 || families(false) > 1) {
        let detail = "may specify no more than one IP for each IP family";
        let all: Vec<Value> = ips.iter().map(|ip| serde_json::json!({"IP": ip})).collect();
        errors.invalid(&at, Value::Array(all), detail);
    }
}

fn host_addresses(errors: &mut ErrorList, now: &Value, was: &Value, path: &Path) {
    if let Some(first) = now.list("hostIPs").first()
        && first.text("ip") != now.text("hostIP")
    {
        let at = path.child("hostIPs").index(0).child("ip");
        errors.invalid(&at, first.text("ip"), "must be equal to `hostIP`");
    }
    addresses(errors, now, was, "hostIPs", path);
}

/// An update through `/ephemeralcontainers`: they may be added, never changed or taken away.
pub fn ephemeral_containers(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    if old.map("metadata.annotations").contains_key(MIRROR) {
        errors.forbidden(&Path::root(), "static pods do not support ephemeral containers");
        return errors;
    }
    metadata_and_spec(&mut errors, new);
    annotation_changes(&mut errors, new, old);
    let path = Path::new("spec").child("ephemeralContainers");
    for was in old.list("spec.ephemeralContainers") {
        let name = was.text("name");
        match new.list("spec.ephemeralContainers").iter().rfind(|c| c.text("name") == name) {
            None => {
                let detail = format!("existing ephemeral containers {name:?} may not be removed\n");
                errors.forbidden(&path, detail);
            }
            Some(now) if differs(Some(now), Some(was)) => {
                let mut changes = String::new();
                describe(now, was, "", &mut changes);
                let detail = format!("existing ephemeral containers {name:?} may not be changed\n{changes}");
                errors.forbidden(&path, detail);
            }
            Some(_) => {}
        }
    }
    errors
}

/// An update through `/resize`: only cpu and memory of existing containers.
pub fn resize(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    if old.map("metadata.annotations").contains_key(MIRROR) {
        errors.forbidden(&Path::root(), "static pods cannot be resized");
        return errors;
    }
    if old.text("spec.os.name") == "windows" {
        errors.forbidden(&Path::root(), "windows pods cannot be resized");
        return errors;
    }
    metadata_and_spec(&mut errors, new);
    let path = Path::new("spec");
    let was = match old.text("status.qosClass") {
        "" => qos_class(old),
        class => class,
    };
    if was != qos_class(new) {
        let detail = "Pod QOS Class may not change as a result of resizing";
        errors.invalid(&path, new.text("status.qosClass"), detail);
    }
    let running = old.list("status.containerStatuses").iter().find(|c| c.has("state.running"));
    if running.is_some_and(|c| !c.has("resources")) {
        errors.forbidden(&path, "Pod running on node without support for resize");
    }
    if !same_containers(&mut errors, new, old, &path) {
        return errors;
    }
    removed(&mut errors, new.at("spec.resources"), old.at("spec.resources"), &path.child("resources"), true);
    let mut spec = new.at("spec").clone();
    for list in ["initContainers", "containers"] {
        for (i, (c, was)) in spec.list_mut(list).iter_mut().zip(old.at("spec").list(list)).enumerate() {
            let at = path.child(list).index(i);
            removed(&mut errors, c.at("resources"), was.at("resources"), &at.child("resources"), false);
            restore_compute(c, was);
            if differs(Some(c), Some(was)) {
                match list {
                    "containers" => errors.forbidden(&path, "only cpu and memory resources are mutable"),
                    _ => {
                        let detail =
                            "only cpu and memory resources for init or sidecar containers are mutable";
                        errors.forbidden(&at, detail);
                    }
                }
            }
        }
    }
    if spec.has("resources") {
        restore_compute(&mut spec, old.at("spec"));
    }
    if errors.is_empty() && differs(Some(&spec), Some(old.at("spec"))) {
        errors.forbidden(&path, "only cpu and memory resources are mutable");
    }
    errors
}

fn same_containers(errors: &mut ErrorList, new: &Value, old: &Value, path: &Path) -> bool {
    let before = errors.0.len();
    for list in ["containers", "initContainers"] {
        let (now, was) = (new.at("spec").list(list), old.at("spec").list(list));
        let at = path.child(list);
        if now.len() != was.len() {
            errors.forbidden(&at, format!("{list} may not be added or removed on resize"));
            continue;
        }
        for (i, (now, was)) in now.iter().zip(was).enumerate() {
            if now.text("name") != was.text("name") {
                let detail = format!("{list} may not be renamed or reordered on resize");
                errors.forbidden(&at.index(i).child("name"), detail);
            }
        }
    }
    errors.0.len() == before
}

/// Requests and limits may change, not go.
fn removed(errors: &mut ErrorList, new: &Value, old: &Value, path: &Path, whole: bool) {
    if whole && !old.is_null() && new.is_null() {
        errors.forbidden(path, "pod-level resources cannot be removed");
        return;
    }
    for what in ["requests", "limits"] {
        let now = new.map(what);
        if old.map(what).keys().any(|k| !now.contains_key(k)) {
            let level = if whole { "pod-level " } else { "" };
            errors.forbidden(&path.child(what), format!("{level}resource {what} cannot be removed"));
        }
    }
}

/// Puts the old cpu and memory back, so that what else changed shows.
fn restore_compute(c: &mut Value, was: &Value) {
    for what in ["resources.requests", "resources.limits"] {
        let before = was.map(what).clone();
        let mut now = c.map(what).clone();
        for name in ["cpu", "memory"] {
            match before.get(name) {
                Some(amount) => now.insert(name.to_string(), amount.clone()),
                None => now.remove(name),
            };
        }
        if now.is_empty() {
            c.unset(what);
        } else {
            c.set(what, Value::Object(now));
        }
    }
}
