//! ResourceQuota: what a namespace may hold in all. The use is counted in the quota's status, written with the
//! object in mind before it is stored; the quota controller puts right what fails afterwards.

use std::collections::{BTreeMap, BTreeSet};

use api::{ApiError, Quantity};
use registry::tree::Tree;
use serde_json::{Map, Value};
use store::{CommitError, Expect};

use super::plugins::limits;
use super::{Operation, Review};
use crate::object;
use crate::write;

/// How often a count is tried again when others change the same quota.
const TRIES: u32 = 8;

/// Amounts by resource name.
pub type Usage = BTreeMap<String, Quantity>;

/// Counts the request against every quota that matches; refuses what exceeds one.
pub async fn admit(review: &Review<'_>, object: Option<&Value>, old: Option<&Value>) -> Result<(), ApiError> {
    let Some(new) = object.filter(|_| applies(review)) else { return Ok(()) };
    let snapshot = review.server.store.snapshot("resourcequotas");
    let quotas: Vec<_> = snapshot.range(Some(&review.namespace), None).cloned().collect();
    if quotas.is_empty() {
        return Ok(());
    }
    let mut delta = usage(review, new);
    if let Some(old) = old.filter(|_| review.operation == Operation::Update) {
        for (name, amount) in usage(review, old) {
            let left = delta.get(&name).copied().unwrap_or_default().sub(&amount);
            delta.insert(name, left);
        }
    }
    delta.retain(|_, amount| !amount.is_zero());
    for quota in &quotas {
        count(review, &quota.key.name, new, &delta).await?;
    }
    Ok(())
}

fn applies(review: &Review<'_>) -> bool {
    if review.namespace.is_empty()
        || review.row.storage.is_none()
        || review.is("", "resourcequotas") && review.operation != Operation::Create
    {
        return false;
    }
    match (review.operation, review.subresource.as_str()) {
        (Operation::Create, "") => true,
        (Operation::Update, "") => review.is("", "services") || review.is("", "persistentvolumeclaims"),
        (Operation::Update, "resize") => review.is("", "pods"),
        _ => false,
    }
}

async fn count(review: &Review<'_>, name: &str, new: &Value, delta: &Usage) -> Result<(), ApiError> {
    let catalog = review.server.rows.now();
    let Some(row) = catalog.get("", "v1", "resourcequotas") else { return Ok(()) };
    for _ in 0..TRIES {
        let Ok(stored) = review.server.find(row, &review.namespace, name) else { return Ok(()) };
        let mut quota = object::tree(&stored);
        if !in_scope(review, &quota, new) {
            return Ok(());
        }
        let hard = amounts(quota.map("spec.hard"));
        constraints(review, name, new, &hard)?;
        let own: Usage =
            delta.iter().filter(|(k, _)| hard.contains_key(*k)).map(|(k, v)| (k.clone(), *v)).collect();
        if own.is_empty() {
            return Ok(());
        }
        let used = amounts(quota.map("status.used"));
        let fresh: Usage =
            own.iter().map(|(k, v)| (k.clone(), used.get(k).copied().unwrap_or_default().add(v))).collect();
        let over: Vec<&String> =
            own.iter().filter(|(k, v)| !v.is_negative() && fresh[*k] > hard[*k]).map(|(k, _)| k).collect();
        if !over.is_empty() {
            let show = |from: &Usage| {
                let parts: Vec<String> = over
                    .iter()
                    .map(|k| format!("{k}={}", from.get(*k).copied().unwrap_or_default()))
                    .collect();
                parts.join(",")
            };
            let why = format!(
                "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
                show(&own),
                show(&used),
                show(&hard)
            );
            return Err(review.forbidden(Some(new), &why));
        }
        if review.dry_run {
            return Ok(());
        }
        for (key, amount) in &fresh {
            if !quota.at("status.used").is_object() {
                quota.set("status.used", Value::Object(Map::new()));
            }
            quota["status"]["used"][key] = amount.to_string().into();
            if !quota.at("status.hard").is_object() {
                quota.set("status.hard", quota.at("spec.hard").clone());
            }
        }
        let write = write::put_stored(row, stored.key.clone(), Expect::Revision(stored.revision), &quota);
        match review.server.commit(write).await {
            Ok(_) | Err(CommitError::NotFound(_)) => return Ok(()),
            Err(CommitError::Conflict(_)) => {}
            Err(error) => return Err(write::commit_error(row, name, error)),
        }
    }
    Err(ApiError::stale("", "resourcequotas", name))
}

fn amounts(map: &Map<String, Value>) -> Usage {
    map.iter().filter_map(|(k, v)| Some((k.clone(), v.as_str()?.parse().ok()?))).collect()
}

/// What an object uses.
fn usage(review: &Review<'_>, new: &Value) -> Usage {
    let mut out = Usage::new();
    let one = Quantity::new(1, api::quantity::Format::DecimalSi);
    let row = review.row;
    out.insert(format!("count/{}", row.qualified()), one);
    match (row.group.as_str(), row.plural.as_str()) {
        ("", "pods") => pod(new, &mut out),
        ("", "services") => service(new, &mut out),
        ("", "persistentvolumeclaims") => claim(new, &mut out),
        ("", "configmaps" | "secrets" | "resourcequotas" | "replicationcontrollers") => {
            out.insert(row.plural.clone(), one);
        }
        _ => {}
    }
    out
}

fn pod(new: &Value, out: &mut Usage) {
    let one = Quantity::new(1, api::quantity::Format::DecimalSi);
    if matches!(new.text("status.phase"), "Succeeded" | "Failed") {
        out.clear();
        out.insert("count/pods".to_owned(), one);
        return;
    }
    out.insert("pods".to_owned(), one);
    let (mut requests, mut limits) = (limits::total(new, "requests"), limits::total(new, "limits"));
    for (name, overhead) in amounts(new.map("spec.overhead")) {
        for (sums, always) in [(&mut requests, true), (&mut limits, false)] {
            if let Some(own) = sums.get_mut(&name) {
                *own = own.add(&overhead);
            } else if always {
                sums.insert(name.clone(), overhead);
            }
        }
    }
    for (name, amount) in requests {
        match name.as_str() {
            "cpu" | "memory" | "ephemeral-storage" => {
                out.insert(name.clone(), amount);
                out.insert(format!("requests.{name}"), amount);
            }
            name if name.starts_with("hugepages-") => {
                out.insert(name.to_owned(), amount);
                out.insert(format!("requests.{name}"), amount);
            }
            name if name.contains('/') => {
                out.insert(format!("requests.{name}"), amount);
            }
            _ => {}
        }
    }
    for name in ["cpu", "memory", "ephemeral-storage"] {
        if let Some(amount) = limits.get(name) {
            out.insert(format!("limits.{name}"), *amount);
        }
    }
}

fn service(new: &Value, out: &mut Usage) {
    let number = |n: usize| Quantity::new(i64::try_from(n).unwrap_or(0), api::quantity::Format::DecimalSi);
    out.insert("services".to_owned(), number(1));
    let ports = new.list("spec.ports");
    match new.text("spec.type") {
        "NodePort" => {
            out.insert("services.nodeports".to_owned(), number(ports.len()));
        }
        "LoadBalancer" => {
            let own = if new.at("spec.allocateLoadBalancerNodePorts") == &Value::Bool(false) {
                ports.iter().filter(|p| p.int("nodePort") != 0).count()
            } else {
                ports.len()
            };
            out.insert("services.nodeports".to_owned(), number(own));
            out.insert("services.loadbalancers".to_owned(), number(1));
        }
        _ => {}
    }
}

fn claim(new: &Value, out: &mut Usage) {
    let one = Quantity::new(1, api::quantity::Format::DecimalSi);
    out.insert("persistentvolumeclaims".to_owned(), one);
    let class = new.text("spec.storageClassName");
    let prefix = format!("{class}.storageclass.storage.k8s.io/");
    if !class.is_empty() {
        out.insert(format!("{prefix}persistentvolumeclaims"), one);
    }
    if let Ok(size) = new.text("spec.resources.requests.storage").parse::<Quantity>() {
        out.insert("requests.storage".to_owned(), size);
        if !class.is_empty() {
            out.insert(format!("{prefix}requests.storage"), size);
        }
    }
}

/// Whether all scopes of a quota match the object.
fn in_scope(review: &Review<'_>, quota: &Value, new: &Value) -> bool {
    let plain = quota
        .list("spec.scopes")
        .iter()
        .filter_map(Value::as_str)
        .map(|s| (s.to_owned(), "Exists".to_owned(), Vec::new()));
    let selected = quota.list("spec.scopeSelector.matchExpressions").iter().map(|e| {
        let values = e.list("values").iter().filter_map(|v| v.as_str().map(str::to_owned)).collect();
        (e.text("scopeName").to_owned(), e.text("operator").to_owned(), values)
    });
    let all: Vec<(String, String, Vec<String>)> = plain.chain(selected).collect();
    if all.is_empty() {
        return true;
    }
    let pods = review.is("", "pods");
    all.iter().all(|(scope, operator, values)| match scope.as_str() {
        "Terminating" => pods && has_deadline(new),
        "NotTerminating" => pods && !has_deadline(new),
        "BestEffort" => pods && best_effort(new),
        "NotBestEffort" => pods && !best_effort(new),
        "PriorityClass" => pods && selects(operator, values, new.text("spec.priorityClassName")),
        "CrossNamespacePodAffinity" => pods && crosses(new.at("spec.affinity")),
        "VolumeAttributesClass" => {
            review.is("", "persistentvolumeclaims")
                && selects(operator, values, new.text("spec.volumeAttributesClassName"))
        }
        _ => false,
    })
}

fn selects(operator: &str, values: &[String], own: &str) -> bool {
    match operator {
        "In" => values.iter().any(|v| v == own),
        "NotIn" => !values.iter().any(|v| v == own),
        "Exists" => !own.is_empty(),
        "DoesNotExist" => own.is_empty(),
        _ => false,
    }
}

fn has_deadline(pod: &Value) -> bool {
    pod.at("spec.activeDeadlineSeconds").as_i64().is_some_and(|seconds| seconds >= 0)
}

fn best_effort(pod: &Value) -> bool {
    let containers = pod.list("spec.containers").iter().chain(pod.list("spec.initContainers"));
    let mut named = containers.flat_map(|c| ["requests", "limits"].map(|f| c.map(&format!("resources.{f}"))));
    !named.any(|amounts| amounts.contains_key("cpu") || amounts.contains_key("memory"))
}

fn crosses(affinity: &Value) -> bool {
    match affinity {
        Value::Object(map) => map.iter().any(|(key, value)| {
            (key == "namespaces" && value.as_array().is_some_and(|all| !all.is_empty()))
                || (key == "namespaceSelector" && !value.is_null())
                || crosses(value)
        }),
        Value::Array(items) => items.iter().any(crosses),
        _ => false,
    }
}

/// A quota on compute wants every container to say what it needs.
fn constraints(review: &Review<'_>, quota: &str, pod: &Value, hard: &Usage) -> Result<(), ApiError> {
    if !review.is("", "pods") || review.operation != Operation::Create {
        return Ok(());
    }
    let known = [
        ("cpu", "requests", "cpu"),
        ("memory", "requests", "memory"),
        ("requests.cpu", "requests", "cpu"),
        ("requests.memory", "requests", "memory"),
        ("limits.cpu", "limits", "cpu"),
        ("limits.memory", "limits", "memory"),
    ];
    let mut missing: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (name, field, resource) in known.iter().filter(|k| hard.contains_key(k.0)) {
        if pod.map(&format!("spec.resources.{field}")).contains_key(*resource) {
            continue;
        }
        for container in pod.list("spec.containers").iter().chain(pod.list("spec.initContainers")) {
            if !container.map(&format!("resources.{field}")).contains_key(*resource) {
                missing.entry(*name).or_default().insert(container.text("name").to_owned());
            }
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let parts: Vec<String> = missing
        .iter()
        .map(|(name, containers)| {
            let names: Vec<&str> = containers.iter().map(String::as_str).collect();
            format!("{name} for: {}", names.join(","))
        })
        .collect();
    Err(review.forbidden(Some(pod), &format!("failed quota: {quota}: must specify {}", parts.join("; "))))
}
