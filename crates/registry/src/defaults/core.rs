//! Defaults of the core kinds, pods aside.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value, json};

use super::{fill, pod};
use crate::tree::Tree;

pub fn service(s: &mut Value) {
    if !s.get("spec").is_some_and(Value::is_object) {
        return;
    }
    fill(s, &[("spec.sessionAffinity", json!("None")), ("spec.type", json!("ClusterIP"))]);
    match s.text("spec.sessionAffinity") {
        "None" => {
            s.unset("spec.sessionAffinityConfig");
        }
        "ClientIP" => {
            s.set_default("spec.sessionAffinityConfig.clientIP.timeoutSeconds", 10800);
        }
        _ => {}
    }
    for port in s.list_mut("spec.ports") {
        port.set_default("protocol", "TCP");
        let target = port.at("targetPort");
        if target.is_null() || target == 0 || target == "" {
            let number = port.at("port").clone();
            port.set("targetPort", number);
        }
    }
    let ty = s.text("spec.type").to_string();
    let external_ips = !s.list("spec.externalIPs").is_empty();
    let external = matches!(ty.as_str(), "LoadBalancer" | "NodePort") || (ty == "ClusterIP" && external_ips);
    if external {
        s.set_default("spec.externalTrafficPolicy", "Cluster");
    }
    if matches!(ty.as_str(), "NodePort" | "LoadBalancer" | "ClusterIP") {
        s.set_default("spec.internalTrafficPolicy", "Cluster");
    }
    if ty == "LoadBalancer" {
        s.set_default("spec.allocateLoadBalancerNodePorts", true);
        for point in s.list_mut("status.loadBalancer.ingress") {
            if !point.text("ip").is_empty() {
                point.set_default("ipMode", "VIP");
            }
        }
    }
}

pub fn replication_controller(rc: &mut Value) {
    let labels = rc.at("spec.template.metadata.labels").clone();
    if labels.is_object() {
        if rc.map("spec.selector").is_empty() {
            rc.set("spec.selector", labels.clone());
        }
        if rc.map("metadata.labels").is_empty() {
            rc.set("metadata.labels", labels);
        }
    }
    rc.set_default("spec.replicas", 1);
    if let Some(template) = rc.at_mut("spec.template") {
        pod::template(template);
    }
}

pub fn pod_template(t: &mut Value) {
    if let Some(template) = t.get_mut("template") {
        pod::template(template);
    }
}

pub fn secret(s: &mut Value) {
    // stringData is write-only: it lands in data at once.
    if let Some(Value::Object(texts)) = s.unset("stringData") {
        if !s.has("data") && !texts.is_empty() {
            s.set("data", json!({}));
        }
        if let Some(data) = s.get_mut("data").and_then(Value::as_object_mut) {
            for (key, text) in texts {
                let bytes = text.as_str().unwrap_or("").as_bytes();
                data.insert(key, BASE64.encode(bytes).into());
            }
        }
    }
    s.set_default("type", "Opaque");
}

pub fn persistent_volume(pv: &mut Value) {
    fill(
        pv,
        &[
            ("status.phase", json!("Pending")),
            ("spec.persistentVolumeReclaimPolicy", json!("Retain")),
            ("spec.volumeMode", json!("Filesystem")),
        ],
    );
    pod::round_up(pv.at_mut("spec.capacity"));
    if let Some(spec) = pv.get_mut("spec") {
        pod::volume_source(spec);
    }
}

pub fn claim(pvc: &mut Value) {
    pvc.set_default("status.phase", "Pending");
    if let Some(spec) = pvc.get_mut("spec") {
        claim_spec(spec);
    }
    for path in ["status.capacity", "status.allocatedResources"] {
        pod::round_up(pvc.at_mut(path));
    }
}

/// Defaults of a claim's spec, wherever it appears.
pub fn claim_spec(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    spec.set_default("volumeMode", "Filesystem");
    for path in ["resources.limits", "resources.requests"] {
        pod::round_up(spec.at_mut(path));
    }
}

pub fn endpoints(e: &mut Value) {
    for subset in e.list_mut("subsets") {
        for port in subset.list_mut("ports") {
            port.set_default("protocol", "TCP");
        }
    }
}

pub fn namespace(ns: &mut Value) {
    let name = ns.text("metadata.name").to_string();
    if !name.is_empty() {
        if !ns.has("metadata.labels") {
            ns.set("metadata.labels", Value::Object(Map::new()));
        }
        if let Some(labels) = ns.at_mut("metadata.labels").and_then(Value::as_object_mut) {
            labels.insert("kubernetes.io/metadata.name".into(), name.into());
        }
    }
    ns.set_default("status.phase", "Active");
}

pub fn node(n: &mut Value) {
    if !n.has("status.allocatable") && n.has("status.capacity") {
        let capacity = n.at("status.capacity").clone();
        n.set("status.allocatable", capacity);
    }
    for path in ["status.capacity", "status.allocatable"] {
        pod::round_up(n.at_mut(path));
    }
    // The older of two fields for one thing wins, and follows the newer when it is empty.
    let (one, all) = (n.text("spec.podCIDR").to_owned(), n.list("spec.podCIDRs"));
    let first = all.first().and_then(Value::as_str).unwrap_or("").to_owned();
    if !one.is_empty() && one != first {
        n.set("spec.podCIDRs", json!([one]));
    } else if one.is_empty() && !first.is_empty() {
        n.set("spec.podCIDR", first);
    }
}

pub fn limit_range(l: &mut Value) {
    for item in l.list_mut("spec.limits") {
        if item.text("type") == "Container" {
            container_limits(item);
        }
        for list in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
            pod::round_up(item.get_mut(list));
        }
    }
}

fn container_limits(item: &mut Value) {
    let mut limits = item.map("default").clone();
    let mut requests = item.map("defaultRequest").clone();
    for (name, quantity) in item.map("max") {
        limits.entry(name.clone()).or_insert_with(|| quantity.clone());
    }
    for (name, quantity) in limits.iter().chain(item.map("min")) {
        requests.entry(name.clone()).or_insert_with(|| quantity.clone());
    }
    for (key, value) in [("default", limits), ("defaultRequest", requests)] {
        if !value.is_empty() {
            item.set(key, Value::Object(value));
        }
    }
}

pub fn resource_quota(q: &mut Value) {
    for path in ["spec.hard", "status.hard", "status.used"] {
        pod::round_up(q.at_mut(path));
    }
}
