//! The Node authorizer: an agent reads what the pods bound to its node need, and writes its own objects.

use api::user::UserInfo;
use serde_json::Value;
use store::{Index, Key};

use super::Attributes;
use crate::object;
use crate::server::Server;

/// The node that a user is, if it is one.
pub fn node_name(user: &UserInfo) -> Option<&str> {
    user.in_group("system:nodes")
        .then(|| user.name.strip_prefix("system:node:"))
        .flatten()
        .filter(|n| !n.is_empty())
}

/// Allowed, or refused with a reason (empty: no opinion).
pub fn decide(server: &Server, user: &UserInfo, what: &Attributes) -> Result<String, String> {
    let Some(node) = node_name(user) else { return Err(String::new()) };
    if what.is_resource {
        let key = (what.group.as_str(), what.resource.as_str());
        match key {
            ("", "secrets" | "configmaps") => return reads(server, node, what, &["get", "list", "watch"]),
            ("", "persistentvolumeclaims") if what.subresource == "status" => {
                return one_of(what, &["get", "update", "patch"]).and_then(|()| related(server, node, what));
            }
            ("", "persistentvolumeclaims") => return reads(server, node, what, &["get"]),
            ("", "persistentvolumes") => return reads(server, node, what, &["get"]),
            ("resource.k8s.io", "resourceclaims") => return reads(server, node, what, &["get"]),
            ("", "serviceaccounts") if what.subresource == "token" => {
                return one_of(what, &["create"]).and_then(|()| related(server, node, what));
            }
            ("", "serviceaccounts") => return reads(server, node, what, &["get"]),
            ("coordination.k8s.io", "leases") => return lease(node, what),
            ("storage.k8s.io", "csinodes") => return own_object(node, what, "CSINode"),
            ("", "nodes") => return own_node(node, what),
            ("", "pods") => return pods(server, node, what),
            ("resource.k8s.io", "resourceslices") => return Ok(String::new()),
            _ => {}
        }
    }
    static_rules(what)
}

fn one_of(what: &Attributes, verbs: &[&str]) -> Result<(), String> {
    if verbs.contains(&what.verb.as_str()) {
        Ok(())
    } else {
        Err(format!("can only {} this resource", verbs.join("/")))
    }
}

fn reads(server: &Server, node: &str, what: &Attributes, verbs: &[&str]) -> Result<String, String> {
    if !verbs.contains(&what.verb.as_str()) {
        return Err("can only read resources of this type".to_owned());
    }
    if !what.subresource.is_empty() {
        return Err("cannot read subresource".to_owned());
    }
    related(server, node, what)
}

fn related(server: &Server, node: &str, what: &Attributes) -> Result<String, String> {
    if what.name.is_empty() {
        return Err("No Object name found".to_owned());
    }
    if pods_of(server, node).iter().any(|pod| needs(server, pod, what)) {
        return Ok(String::new());
    }
    Err(format!("no relationship found between node '{node}' and this object"))
}

/// Pods bound to a node, as trees.
pub fn pods_of(server: &Server, node: &str) -> Vec<Value> {
    let snapshot = server.store.snapshot("pods");
    let index = Index::Field("spec.nodeName".into());
    match snapshot.lookup(&index, node, None, None) {
        Some(found) => found.map(|pod| object::tree(pod)).collect(),
        None => Vec::new(),
    }
}

fn needs(server: &Server, pod: &Value, what: &Attributes) -> bool {
    let spec = &pod["spec"];
    if what.resource == "persistentvolumes" {
        return claims(pod).iter().any(|claim| {
            let key = Key::new(
                "persistentvolumeclaims",
                pod["metadata"]["namespace"].as_str().unwrap_or(""),
                claim.as_str(),
            );
            server
                .store
                .get(&key)
                .is_some_and(|claim| object::tree(&claim)["spec"]["volumeName"] == what.name.as_str())
        });
    }
    if pod["metadata"]["namespace"] != what.namespace.as_str() {
        return false;
    }
    match what.resource.as_str() {
        "serviceaccounts" => spec["serviceAccountName"] == what.name.as_str(),
        "persistentvolumeclaims" => claims(pod).contains(&what.name),
        "resourceclaims" => {
            mentions(&spec["resourceClaims"], "resourceClaimName", &what.name)
                || mentions(&pod["status"]["resourceClaimStatuses"], "resourceClaimName", &what.name)
        }
        "secrets" => secret_names(spec).contains(&what.name),
        "configmaps" => config_map_names(spec).contains(&what.name),
        _ => false,
    }
}

/// Claims of a pod's volumes, generic ephemeral ones included.
fn claims(pod: &Value) -> Vec<String> {
    let name = pod["metadata"]["name"].as_str().unwrap_or("");
    let volumes = pod["spec"]["volumes"].as_array();
    volumes
        .into_iter()
        .flatten()
        .filter_map(|volume| match (&volume["persistentVolumeClaim"]["claimName"], &volume["ephemeral"]) {
            (Value::String(claim), _) => Some(claim.clone()),
            (_, Value::Object(_)) => Some(format!("{name}-{}", volume["name"].as_str().unwrap_or(""))),
            _ => None,
        })
        .collect()
}

fn mentions(tree: &Value, key: &str, name: &str) -> bool {
    match tree {
        Value::Array(items) => items.iter().any(|item| mentions(item, key, name)),
        Value::Object(map) => map.iter().any(|(k, v)| (k == key && v == name) || mentions(v, key, name)),
        _ => false,
    }
}

/// Names below these keys of a pod's spec, wherever they are.
fn collect(tree: &Value, keys: &[(&str, &str)], out: &mut Vec<String>) {
    match tree {
        Value::Array(items) => items.iter().for_each(|item| collect(item, keys, out)),
        Value::Object(map) => {
            for (key, value) in map {
                if let Some((_, field)) = keys.iter().find(|(k, _)| k == key) {
                    out.extend(value[*field].as_str().map(str::to_owned));
                }
                collect(value, keys, out);
            }
        }
        _ => {}
    }
}

fn secret_names(spec: &Value) -> Vec<String> {
    let mut out = Vec::new();
    // `secret` is a volume (secretName) or a projection (name).
    let keys = [
        ("secret", "secretName"),
        ("secret", "name"),
        ("secretKeyRef", "name"),
        ("secretRef", "name"),
        ("nodePublishSecretRef", "name"),
    ];
    for key in keys {
        collect(spec, &[key], &mut out);
    }
    let pulls = spec["imagePullSecrets"].as_array();
    out.extend(pulls.into_iter().flatten().filter_map(|s| s["name"].as_str().map(str::to_owned)));
    out
}

fn config_map_names(spec: &Value) -> Vec<String> {
    let mut out = Vec::new();
    collect(spec, &[("configMap", "name"), ("configMapKeyRef", "name"), ("configMapRef", "name")], &mut out);
    out
}

fn lease(node: &str, what: &Attributes) -> Result<String, String> {
    one_of(what, &["get", "create", "update", "patch", "delete"])?;
    if what.namespace != "kube-node-lease" {
        return Err("can only access leases in the \"kube-node-lease\" system namespace".to_string());
    }
    if what.verb != "create" && what.name != node {
        return Err("can only access node lease with the same name as the requesting node".to_owned());
    }
    Ok(String::new())
}

fn own_object(node: &str, what: &Attributes, kind: &str) -> Result<String, String> {
    one_of(what, &["get", "create", "update", "patch", "delete"])?;
    if !what.subresource.is_empty() {
        return Err(format!("cannot authorize {kind} subresources"));
    }
    if what.verb != "create" && what.name != node {
        return Err(format!("can only access {kind} with the same name as the requesting node"));
    }
    Ok(String::new())
}

fn own_node(node: &str, what: &Attributes) -> Result<String, String> {
    match (what.verb.as_str(), what.subresource.as_str()) {
        ("create", "") => Ok(String::new()),
        ("get" | "list" | "watch", "") if what.name == node => Ok(String::new()),
        ("update" | "patch", "" | "status") if what.name.is_empty() || what.name == node => Ok(String::new()),
        ("get" | "list" | "watch", _) => {
            Err(format!("node '{node}' cannot read '{}', only its own Node object", what.name))
        }
        _ => Err(String::new()),
    }
}

fn pods(server: &Server, node: &str, what: &Attributes) -> Result<String, String> {
    match (what.verb.as_str(), what.subresource.as_str()) {
        ("create", "" | "eviction") => Ok(String::new()),
        ("delete" | "patch" | "update", "" | "status") => Ok(String::new()),
        ("get", "") => match server.store.get(&Key::new("pods", what.namespace.as_str(), what.name.as_str()))
        {
            Some(pod) if pod.attrs.field("spec.nodeName").is_some_and(|n| **n == *node) => Ok(String::new()),
            Some(_) => Err(format!("no relationship found between node '{node}' and this object")),
            // A pod that is gone tells nothing: upstream refuses, agents then take it as forbidden; 404 is kinder.
            None => Ok(String::new()),
        },
        ("list" | "watch", "") => {
            let selector = api::fields::Selector::parse(&what.field_selector).unwrap_or_default();
            if selector.exact("spec.nodeName") == Some(node) {
                return Ok(String::new());
            }
            Err("can only list/watch pods with spec.nodeName field selector".to_string())
        }
        _ => Err(String::new()),
    }
}

/// Verbs, group and resources (with subresources) that every agent has.
const RULES: &[(&[&str], &str, &[&str])] = &[
    (&["create"], "authentication.k8s.io", &["tokenreviews"]),
    (&["create"], "authorization.k8s.io", &["localsubjectaccessreviews", "subjectaccessreviews"]),
    (&["get", "list", "watch"], "", &["services"]),
    (&["create", "patch", "update"], "", &["events"]),
    (&["create", "patch", "update"], "events.k8s.io", &["events"]),
    (&["create", "get", "list", "watch"], "certificates.k8s.io", &["certificatesigningrequests"]),
    (&["get", "list", "watch"], "node.k8s.io", &["runtimeclasses"]),
    (&["get", "list", "watch"], "storage.k8s.io", &["csidrivers"]),
    (&["get"], "storage.k8s.io", &["volumeattachments"]),
    (&["get", "list", "watch"], "resource.k8s.io", &["deviceclasses"]),
];

fn static_rules(what: &Attributes) -> Result<String, String> {
    let fits = |rule: &&(&[&str], &str, &[&str])| {
        what.is_resource
            && rule.0.contains(&what.verb.as_str())
            && rule.1 == what.group
            && rule.2.contains(&what.resource.as_str())
            && what.subresource.is_empty()
    };
    RULES.iter().find(fits).map(|_| String::new()).ok_or_else(String::new)
}
