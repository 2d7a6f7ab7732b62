//! Cells of every kind that is no workload.

use jiff::Timestamp;
use serde_json::Value;

use super::age;
use super::workload::{labels, selector, selector_text};
use crate::tree::Tree;

fn name(object: &Value) -> Value {
    object.text("metadata.name").into()
}

fn or<'a>(text: &'a str, absent: &'a str) -> &'a str {
    if text.is_empty() { absent } else { text }
}

pub fn name_age(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(o), age::of(o, now)]
}

pub fn created_at(o: &Value, _now: Timestamp) -> Vec<Value> {
    vec![name(o), o.text("metadata.creationTimestamp").into()]
}

/// Joins the first three, then says how many more there are.
fn first_three(all: &[String], empty: &str) -> String {
    match all.len() {
        0 => empty.to_string(),
        1..=3 => all.join(","),
        n => format!("{} + {} more...", all[..3].join(","), n - 3),
    }
}

fn ingress_points(status: &Value) -> String {
    let mut all: Vec<&str> = status
        .list("loadBalancer.ingress")
        .iter()
        .map(|i| or(i.text("ip"), i.text("hostname")))
        .filter(|t| !t.is_empty())
        .collect();
    all.sort_unstable();
    all.dedup();
    all.join(",")
}

fn external_ip(service: &Value) -> String {
    let spec = service.at("spec");
    let external: Vec<&str> = spec.list("externalIPs").iter().filter_map(Value::as_str).collect();
    match spec.text("type") {
        "ClusterIP" | "NodePort" => or(&external.join(","), "<none>").to_string(),
        "LoadBalancer" => {
            let points = ingress_points(service.at("status"));
            let mut all: Vec<&str> = points.split(',').filter(|p| !p.is_empty()).collect();
            all.extend(external);
            or(&all.join(","), "<pending>").to_string()
        }
        "ExternalName" => spec.text("externalName").to_string(),
        _ => "<unknown>".to_string(),
    }
}

pub fn service(o: &Value, now: Timestamp) -> Vec<Value> {
    let ports: Vec<String> = o
        .list("spec.ports")
        .iter()
        .map(|p| match p.int("nodePort") {
            0 => format!("{}/{}", p.int("port"), p.text("protocol")),
            node => format!("{}:{node}/{}", p.int("port"), p.text("protocol")),
        })
        .collect();
    let cluster_ip = o.list("spec.clusterIPs").first().and_then(Value::as_str).unwrap_or("<none>");
    vec![
        name(o),
        o.text("spec.type").into(),
        cluster_ip.into(),
        external_ip(o).into(),
        or(&ports.join(","), "<none>").into(),
        age::of(o, now),
        labels(o.map("spec.selector")).into(),
    ]
}

pub fn ingress(o: &Value, now: Timestamp) -> Vec<Value> {
    let rules = o.list("spec.rules");
    let hosts: Vec<&str> = rules.iter().map(|r| r.text("host")).filter(|h| !h.is_empty()).take(3).collect();
    let hosts = match (hosts.is_empty(), rules.len()) {
        (true, _) => "*".to_string(),
        (false, n) if n > 3 && hosts.len() == 3 => {
            format!("{} + {} more...", hosts.join(","), n - 3)
        }
        _ => hosts.join(","),
    };
    let ports = if o.list("spec.tls").is_empty() { "80" } else { "80, 443" };
    vec![
        name(o),
        o.at("spec.ingressClassName").as_str().unwrap_or("<none>").into(),
        hosts.into(),
        ingress_points(o.at("status")).into(),
        ports.into(),
        age::of(o, now),
    ]
}

fn marked_default(o: &Value, annotations: &[&str]) -> Value {
    let all = o.map("metadata.annotations");
    let yes = annotations.iter().any(|a| all.get(*a).is_some_and(|v| v == "true"));
    let suffix = if yes { " (default)" } else { "" };
    format!("{}{suffix}", o.text("metadata.name")).into()
}

pub fn ingress_class(o: &Value, now: Timestamp) -> Vec<Value> {
    let p = o.at("spec.parameters");
    let parameters = match (p.is_null(), p.at("apiGroup").as_str()) {
        (true, _) => "<none>".to_string(),
        (false, Some(group)) => format!("{}.{group}/{}", p.text("kind"), p.text("name")),
        (false, None) => format!("{}/{}", p.text("kind"), p.text("name")),
    };
    vec![
        marked_default(o, &["ingressclass.kubernetes.io/is-default-class"]),
        o.text("spec.controller").into(),
        parameters.into(),
        age::of(o, now),
    ]
}

pub fn endpoints(o: &Value, now: Timestamp) -> Vec<Value> {
    let subsets = o.list("subsets");
    let mut all = Vec::new();
    for subset in subsets {
        let ips = subset.list("addresses").iter().map(|a| a.text("ip"));
        if subset.list("ports").is_empty() {
            all.extend(ips.map(str::to_string));
            continue;
        }
        for port in subset.list("ports") {
            all.extend(ips.clone().map(|ip| match ip.contains(':') {
                true => format!("[{ip}]:{}", port.int("port")),
                false => format!("{ip}:{}", port.int("port")),
            }));
        }
    }
    let empty = if subsets.is_empty() { "<none>" } else { "" };
    vec![name(o), first_three(&all, empty).into(), age::of(o, now)]
}

pub fn endpoint_slice(o: &Value, now: Timestamp) -> Vec<Value> {
    let ports: Vec<String> = o
        .list("ports")
        .iter()
        .map(|p| match (p.at("port").as_i64(), p.at("name").as_str()) {
            (Some(port), _) => port.to_string(),
            (None, Some(name)) => name.to_string(),
            (None, None) => "*".to_string(),
        })
        .collect();
    let addresses: Vec<String> = o
        .list("endpoints")
        .iter()
        .flat_map(|e| e.list("addresses"))
        .filter_map(|a| a.as_str().map(str::to_string))
        .collect();
    let unset = |text: String| if text.is_empty() { "<unset>".to_string() } else { text };
    vec![
        name(o),
        o.text("addressType").into(),
        unset(first_three(&ports, "")).into(),
        unset(first_three(&addresses, "")).into(),
        age::of(o, now),
    ]
}

pub fn network_policy(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(o), selector(o.at("spec.podSelector")).into(), age::of(o, now)]
}

fn joined(items: &[Value]) -> String {
    items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
}

pub fn service_cidr(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(o), joined(o.list("spec.cidrs")).into(), age::of(o, now)]
}

pub fn ip_address(o: &Value, _now: Timestamp) -> Vec<Value> {
    let parent = o.at("spec.parentRef");
    let mut text = "<none>".to_string();
    if !parent.is_null() {
        text = match parent.text("group") {
            "" => parent.text("resource").to_lowercase(),
            group => format!("{}.{group}", parent.text("resource")).to_lowercase(),
        };
        for part in [parent.text("namespace"), parent.text("name")] {
            if !part.is_empty() {
                text = format!("{text}/{part}");
            }
        }
    }
    vec![name(o), text.into()]
}

fn node_roles(o: &Value) -> String {
    let mut roles: Vec<&str> = Vec::new();
    for (key, value) in o.map("metadata.labels") {
        if let Some(role) = key.strip_prefix("node-role.kubernetes.io/") {
            roles.push(role);
        } else if key == "kubernetes.io/role" {
            roles.extend(value.as_str());
        }
    }
    roles.retain(|r| !r.is_empty());
    roles.sort_unstable();
    roles.dedup();
    or(&roles.join(","), "<none>").to_string()
}

pub fn node(o: &Value, now: Timestamp) -> Vec<Value> {
    let ready = o.list("status.conditions").iter().rfind(|c| c.text("type") == "Ready");
    let mut status = match ready.map(|c| c.text("status")) {
        Some("True") => "Ready".to_string(),
        Some(_) => "NotReady".to_string(),
        None => "Unknown".to_string(),
    };
    if o.flag("spec.unschedulable") {
        status.push_str(",SchedulingDisabled");
    }
    let address = |ty: &str| {
        let found = o.list("status.addresses").iter().find(|a| a.text("type") == ty);
        found.map_or("<none>", |a| a.text("address"))
    };
    let info = o.at("status.nodeInfo");
    let mut kernel = or(info.text("kernelVersion"), "<unknown>").to_string();
    if !info.text("architecture").is_empty() {
        kernel = format!("{kernel} ({})", info.text("architecture"));
    }
    vec![
        name(o),
        status.into(),
        node_roles(o).into(),
        age::of(o, now),
        info.text("kubeletVersion").into(),
        address("InternalIP").into(),
        address("ExternalIP").into(),
        or(info.text("osImage"), "<unknown>").into(),
        kernel.into(),
        or(info.text("containerRuntimeVersion"), "<unknown>").into(),
    ]
}

/// Reads both forms of an event: core/v1 and events.k8s.io/v1.
pub fn event(o: &Value, now: Timestamp) -> Vec<Value> {
    let new_form = o.has("regarding") || o.text("apiVersion").starts_with("events.k8s.io/");
    let pick = |old: &'static str, new: &'static str| if new_form { new } else { old };
    let time = |path: &str| age::time_at(o, path);
    let first = time(pick("firstTimestamp", "deprecatedFirstTimestamp")).or(time("eventTime"));
    let first = age::since(now, first);
    let last = time(pick("lastTimestamp", "deprecatedLastTimestamp"));
    let mut last = last.map_or_else(|| first.clone(), |t| age::since(now, Some(t)));
    let mut count = o.int(pick("count", "deprecatedCount")).max(1);
    if o.has("series") {
        last = age::since_at(o, "series.lastObservedTime", now);
        count = o.int("series.count");
    }
    let about = o.at(pick("involvedObject", "regarding"));
    let mut target = about.text("kind").to_lowercase();
    if !about.text("name").is_empty() {
        target = format!("{target}/{}", about.text("name"));
    }
    let source = o.at(pick("source", "deprecatedSource"));
    let component = or(source.text("component"), o.text(pick("reportingComponent", "reportingController")));
    let instance = or(source.text("host"), o.text("reportingInstance"));
    let source = match instance {
        "" => component.to_string(),
        instance => format!("{component}, {instance}"),
    };
    vec![
        last.into(),
        o.text("type").into(),
        o.text("reason").into(),
        target.into(),
        about.text("fieldPath").into(),
        source.into(),
        o.text(pick("message", "note")).trim().into(),
        first.into(),
        count.into(),
        name(o),
    ]
}

pub fn namespace(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(o), o.text("status.phase").into(), age::of(o, now)]
}

pub fn secret(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(o), o.text("type").into(), o.map("data").len().into(), age::of(o, now)]
}

pub fn config_map(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(o), (o.map("data").len() + o.map("binaryData").len()).into(), age::of(o, now)]
}

fn access_modes(modes: &[Value]) -> String {
    const SHORT: &[(&str, &str)] = &[
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let has = |mode: &str| modes.iter().any(|m| m == mode);
    SHORT.iter().filter(|(m, _)| has(m)).map(|(_, s)| *s).collect::<Vec<_>>().join(",")
}

fn class_name(o: &Value) -> String {
    let old = o.map("metadata.annotations").get("volume.beta.kubernetes.io/storage-class");
    match old.and_then(Value::as_str) {
        Some(class) => class.to_string(),
        None => o.text("spec.storageClassName").to_string(),
    }
}

fn phase(o: &Value) -> Value {
    if o.has("metadata.deletionTimestamp") { "Terminating".into() } else { o.text("status.phase").into() }
}

fn quantity(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        Value::Number(n) => n.to_string(),
        _ => "0".into(),
    }
}

fn unset(value: &Value) -> Value {
    value.as_str().unwrap_or("<unset>").into()
}

pub fn pv(o: &Value, now: Timestamp) -> Vec<Value> {
    let claim = o.at("spec.claimRef");
    let claim = match claim.is_null() {
        true => String::new(),
        false => format!("{}/{}", claim.text("namespace"), claim.text("name")),
    };
    vec![
        name(o),
        quantity(o.at("spec.capacity.storage")).into(),
        access_modes(o.list("spec.accessModes")).into(),
        o.text("spec.persistentVolumeReclaimPolicy").into(),
        phase(o),
        claim.into(),
        class_name(o).into(),
        unset(o.at("spec.volumeAttributesClassName")),
        o.text("status.reason").into(),
        age::of(o, now),
        unset(o.at("spec.volumeMode")),
    ]
}

pub fn pvc(o: &Value, now: Timestamp) -> Vec<Value> {
    let bound = !o.text("spec.volumeName").is_empty();
    let capacity = if bound { quantity(o.at("status.capacity.storage")) } else { String::new() };
    let modes = if bound { access_modes(o.list("status.accessModes")) } else { String::new() };
    vec![
        name(o),
        phase(o),
        o.text("spec.volumeName").into(),
        capacity.into(),
        modes.into(),
        class_name(o).into(),
        unset(o.at("spec.volumeAttributesClassName")),
        age::of(o, now),
        unset(o.at("spec.volumeMode")),
    ]
}

pub fn component_status(o: &Value, _now: Timestamp) -> Vec<Value> {
    let found = o.list("conditions").iter().find(|c| c.text("type") == "Healthy");
    let (status, message, error) = match found {
        None => ("Unknown", "", ""),
        Some(c) if c.text("status") == "True" => ("Healthy", c.text("message"), c.text("error")),
        Some(c) => ("Unhealthy", c.text("message"), c.text("error")),
    };
    vec![name(o), status.into(), message.into(), error.into()]
}

/// Of a node or of a pod, whose containers are added up.
pub fn metrics(o: &Value, _now: Timestamp) -> Vec<Value> {
    let sum = |resource: &str| {
        let parts = o.list("containers").iter().map(|c| c["usage"][resource].as_str());
        let quantities = parts.chain([o["usage"][resource].as_str()]).flatten();
        let milli = quantities.filter_map(|text| text.parse::<api::Quantity>().ok()).map(|q| q.milli_value());
        milli.fold(0i64, i64::saturating_add)
    };
    let (cpu, memory) = (format!("{}m", sum("cpu")), format!("{}Ki", sum("memory") / 1000 / 1024));
    vec![name(o), cpu.into(), memory.into(), o.text("window").into()]
}

pub fn role_binding(o: &Value, now: Timestamp) -> Vec<Value> {
    let names = |kind: &str| -> Value {
        let of_kind = o.list("subjects").iter().filter(|s| s.text("kind") == kind);
        let all: Vec<String> = of_kind
            .map(|s| match kind {
                "ServiceAccount" => format!("{}/{}", s.text("namespace"), s.text("name")),
                _ => s.text("name").to_string(),
            })
            .collect();
        all.join(", ").into()
    };
    vec![
        name(o),
        format!("{}/{}", o.text("roleRef.kind"), o.text("roleRef.name")).into(),
        age::of(o, now),
        names("User"),
        names("Group"),
        names("ServiceAccount"),
    ]
}

pub fn api_service(o: &Value, now: Timestamp) -> Vec<Value> {
    let service = o.at("spec.service");
    let service = match service.is_null() {
        true => "Local".to_string(),
        false => format!("{}/{}", service.text("namespace"), service.text("name")),
    };
    let found = o.list("status.conditions").iter().find(|c| c.text("type") == "Available");
    let available = match found {
        None => "Unknown".to_string(),
        Some(c) if c.text("status") == "True" => "True".to_string(),
        Some(c) => format!("{} ({})", c.text("status"), c.text("reason")),
    };
    vec![name(o), service.into(), available.into(), age::of(o, now)]
}

pub fn csr(o: &Value, now: Timestamp) -> Vec<Value> {
    let has = |ty: &str| o.list("status.conditions").iter().any(|c| c.text("type") == ty);
    let mut state = match (has("Denied"), has("Approved")) {
        (true, _) => "Denied".to_string(),
        (_, true) => "Approved".to_string(),
        _ => "Pending".to_string(),
    };
    if has("Failed") {
        state.push_str(",Failed");
    }
    if !o.text("status.certificate").is_empty() {
        state.push_str(",Issued");
    }
    let duration = match o.at("spec.expirationSeconds").as_i64() {
        Some(seconds) => age::human_duration(seconds),
        None => "<none>".into(),
    };
    vec![
        name(o),
        age::of(o, now),
        or(o.text("spec.signerName"), "<none>").into(),
        o.text("spec.username").into(),
        duration.into(),
        state.into(),
    ]
}

pub fn lease(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(o), o.text("spec.holderIdentity").into(), age::of(o, now)]
}

pub fn storage_class(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        marked_default(
            o,
            &[
                "storageclass.kubernetes.io/is-default-class",
                "storageclass.beta.kubernetes.io/is-default-class",
            ],
        ),
        o.text("provisioner").into(),
        or(o.text("reclaimPolicy"), "Delete").into(),
        or(o.text("volumeBindingMode"), "Immediate").into(),
        o.flag("allowVolumeExpansion").into(),
        age::of(o, now),
    ]
}

pub fn volume_attributes_class(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(o), o.text("driverName").into(), age::of(o, now)]
}

pub fn resource_quota(o: &Value, now: Timestamp) -> Vec<Value> {
    let used = o.map("status.used");
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (resource, hard) in o.map("status.hard") {
        let used = used.get(resource).unwrap_or(&Value::Null);
        let text = format!("{resource}: {}/{}", quantity(used), quantity(hard));
        if resource.starts_with("limits.") { limits.push(text) } else { requests.push(text) }
    }
    vec![name(o), requests.join(", ").into(), limits.join(", ").into(), age::of(o, now)]
}

pub fn priority_class(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(o),
        o.int("value").into(),
        o.flag("globalDefault").into(),
        age::of(o, now),
        o.text("preemptionPolicy").into(),
    ]
}

pub fn runtime_class(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(o), o.text("handler").into(), age::of(o, now)]
}

pub fn volume_attachment(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(o),
        o.text("spec.attacher").into(),
        o.text("spec.source.persistentVolumeName").into(),
        o.text("spec.nodeName").into(),
        o.flag("status.attached").into(),
        age::of(o, now),
    ]
}

pub fn csi_node(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(o), o.list("spec.drivers").len().into(), age::of(o, now)]
}

pub fn csi_driver(o: &Value, now: Timestamp) -> Vec<Value> {
    let spec = o.at("spec");
    let tokens = match spec.has("tokenRequests") {
        false => "<unset>".to_string(),
        true => {
            let all = spec.list("tokenRequests").iter().map(|t| t.text("audience"));
            all.collect::<Vec<_>>().join(",")
        }
    };
    vec![
        name(o),
        spec.at("attachRequired").as_bool().unwrap_or(true).into(),
        spec.flag("podInfoOnMount").into(),
        spec.flag("storageCapacity").into(),
        tokens.into(),
        spec.flag("requiresRepublish").into(),
        or(&joined(spec.list("volumeLifecycleModes")), "<none>").into(),
        age::of(o, now),
    ]
}

pub fn webhook(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(o), o.list("webhooks").len().into(), age::of(o, now)]
}

fn param_kind(o: &Value) -> Value {
    let kind = o.at("spec.paramKind");
    match kind.is_null() {
        true => "<unset>".into(),
        false => format!("{}/{}", kind.text("apiVersion"), kind.text("kind")).into(),
    }
}

pub fn validating_policy(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(o), o.list("spec.validations").len().into(), param_kind(o), age::of(o, now)]
}

pub fn mutating_policy(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(o), o.list("spec.mutations").len().into(), param_kind(o), age::of(o, now)]
}

pub fn policy_binding(o: &Value, now: Timestamp) -> Vec<Value> {
    let param = o.at("spec.paramRef");
    let text = match (param.is_null(), param.text("name"), param.text("namespace")) {
        (true, ..) => "<unset>".to_string(),
        (_, "", _) if param.has("selector") => selector_text(param.at("selector")),
        (_, "", _) => "<unset>".to_string(),
        (_, name, "") => format!("*/{name}"),
        (_, name, namespace) => format!("{namespace}/{name}"),
    };
    vec![name(o), o.text("spec.policyName").into(), text.into(), age::of(o, now)]
}

pub fn flow_schema(o: &Value, now: Timestamp) -> Vec<Value> {
    let found = o.list("status.conditions").iter().find(|c| c.text("type") == "Dangling");
    vec![
        name(o),
        o.text("spec.priorityLevelConfiguration.name").into(),
        o.int("spec.matchingPrecedence").into(),
        or(o.text("spec.distinguisherMethod.type"), "<none>").into(),
        age::of(o, now),
        found.map_or("?", |c| c.text("status")).into(),
    ]
}

pub fn priority_level(o: &Value, now: Timestamp) -> Vec<Value> {
    let limited = o.at("spec.limited");
    let queuing = limited.at("limitResponse.queuing");
    let number = |tree: &Value, key: &str| match tree.at(key).as_i64() {
        Some(n) => n.into(),
        None => Value::from("<none>"),
    };
    vec![
        name(o),
        o.text("spec.type").into(),
        number(limited, "nominalConcurrencyShares"),
        number(queuing, "queues"),
        number(queuing, "handSize"),
        number(queuing, "queueLengthLimit"),
        age::of(o, now),
    ]
}

pub fn resource_claim(o: &Value, now: Timestamp) -> Vec<Value> {
    let deleted = o.has("metadata.deletionTimestamp");
    let mut states = Vec::new();
    if deleted {
        states.push("deleted");
    }
    if o.has("status.allocation") {
        states.push("allocated");
        if !o.list("status.reservedFor").is_empty() {
            states.push("reserved");
        }
    } else if !deleted {
        states.push("pending");
    }
    vec![name(o), states.join(",").into(), age::of(o, now)]
}

pub fn resource_slice(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(o),
        o.text("spec.nodeName").into(),
        o.text("spec.driver").into(),
        o.text("spec.pool.name").into(),
        age::of(o, now),
    ]
}
