//! LimitRanger: defaults and bounds of resources from a namespace's LimitRanges.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::{ApiError, Quantity};
use registry::tree::Tree;
use serde_json::{Map, Value, json};

use super::super::{Operation, Review};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

type Amounts = BTreeMap<String, Quantity>;

fn limits(review: &Review<'_>) -> Vec<Arc<Value>> {
    let snapshot = review.server.store.snapshot("limitranges");
    snapshot.range(Some(&review.namespace), None).map(|stored| review.server.trees.of(stored)).collect()
}

fn applies(review: &Review<'_>, pods_only: bool) -> bool {
    let pod = review.is("", "pods");
    if review.subresource == "resize" {
        return pod && review.operation == Operation::Update;
    }
    if !review.subresource.is_empty() {
        return false;
    }
    match review.operation {
        Operation::Create => pod || (!pods_only && review.is("", "persistentvolumeclaims")),
        Operation::Update => !pods_only && review.is("", "persistentvolumeclaims"),
        _ => false,
    }
}

fn amounts(map: &Map<String, Value>) -> Amounts {
    map.iter().filter_map(|(k, v)| Some((k.clone(), v.as_str()?.parse().ok()?))).collect()
}

/// Fills in what containers leave out.
pub fn default(review: &Review<'_>, pod: &mut Value, _old: Option<&Value>) -> Result<(), ApiError> {
    if !applies(review, true) || review.operation != Operation::Create {
        return Ok(());
    }
    for range in limits(review) {
        let (mut requests, mut limits) = (Map::new(), Map::new());
        for limit in range.list("spec.limits").iter().filter(|l| l.text("type") == "Container") {
            for (key, value) in limit.map("defaultRequest") {
                requests.insert(key.clone(), value.clone());
            }
            for (key, value) in limit.map("default") {
                limits.insert(key.clone(), value.clone());
            }
        }
        merge(pod, &requests, &limits);
    }
    Ok(())
}

fn merge(pod: &mut Value, requests: &Map<String, Value>, limits: &Map<String, Value>) {
    let mut notes = Vec::new();
    for (list, what) in [("spec.containers", "container"), ("spec.initContainers", "init container")] {
        for container in pod.list_mut(list) {
            let name = container.text("name").to_owned();
            for (field, defaults, word) in [("requests", requests, "request"), ("limits", limits, "limit")] {
                let path = format!("resources.{field}");
                let missing: Vec<&String> =
                    defaults.keys().filter(|key| !container.map(&path).contains_key(*key)).collect();
                if missing.is_empty() {
                    continue;
                }
                let mut all = container.map(&path).clone();
                for key in &missing {
                    all.insert((*key).clone(), defaults[*key].clone());
                }
                let names: Vec<&str> = missing.iter().map(|key| key.as_str()).collect();
                notes.push(format!("{} {word} for {what} {name}", names.join(", ")));
                container.set(&path, Value::Object(all));
            }
        }
    }
    if notes.is_empty() {
        return;
    }
    if !pod.at("metadata.annotations").is_object() {
        pod.set("metadata.annotations", json!({}));
    }
    pod["metadata"]["annotations"][ANNOTATION] =
        format!("LimitRanger plugin set: {}", notes.join("; ")).into();
}

/// Refuses what is outside the bounds.
pub fn check(review: &Review<'_>, object: Option<&Value>, _old: Option<&Value>) -> Result<(), ApiError> {
    let Some(object) = object.filter(|_| applies(review, false)) else { return Ok(()) };
    for range in limits(review) {
        let mut errors = Vec::new();
        for limit in range.list("spec.limits") {
            match limit.text("type") {
                "PersistentVolumeClaim" if review.is("", "persistentvolumeclaims") => {
                    claim(limit, object, &mut errors)
                }
                "Container" if review.is("", "pods") => {
                    for list in ["spec.containers", "spec.initContainers"] {
                        for container in object.list(list) {
                            let requests = amounts(container.map("resources.requests"));
                            bounds(
                                limit,
                                &requests,
                                &amounts(container.map("resources.limits")),
                                &mut errors,
                            );
                        }
                    }
                }
                "Pod" if review.is("", "pods") => {
                    bounds(limit, &total(object, "requests"), &total(object, "limits"), &mut errors);
                }
                _ => {}
            }
        }
        if !errors.is_empty() {
            let why = if errors.len() == 1 { errors.remove(0) } else { format!("[{}]", errors.join(", ")) };
            return Err(review.forbidden(Some(object), &why));
        }
    }
    Ok(())
}

fn claim(limit: &Value, object: &Value, errors: &mut Vec<String>) {
    let requests = amounts(object.map("spec.resources.requests"));
    for (name, bound) in amounts(limit.map("min")) {
        minimum("PersistentVolumeClaim", &name, &bound, requests.get(&name), None, errors);
    }
    for (name, bound) in amounts(limit.map("max")) {
        let what = format!("maximum {name} usage per PersistentVolumeClaim is {bound}");
        match requests.get(&name) {
            None => errors.push(format!("{what}.  No request is specified")),
            Some(request) if *request > bound => errors.push(format!("{what}, but request is {request}")),
            Some(_) => {}
        }
    }
}

fn minimum(
    kind: &str,
    name: &str,
    bound: &Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
    errors: &mut Vec<String>,
) {
    let what = format!("minimum {name} usage per {kind} is {bound}");
    match (request, limit) {
        (None, _) => errors.push(format!("{what}.  No request is specified")),
        (Some(request), _) if request < bound => errors.push(format!("{what}, but request is {request}")),
        (_, Some(limit)) if limit < bound => errors.push(format!("{what}, but limit is {limit}")),
        _ => {}
    }
}

fn bounds(limit: &Value, requests: &Amounts, limits: &Amounts, errors: &mut Vec<String>) {
    let kind = limit.text("type");
    for (name, bound) in amounts(limit.map("min")) {
        minimum(kind, &name, &bound, requests.get(&name), limits.get(&name), errors);
    }
    for (name, bound) in amounts(limit.map("max")) {
        let what = format!("maximum {name} usage per {kind} is {bound}");
        match (requests.get(&name), limits.get(&name)) {
            (_, None) => errors.push(format!("{what}.  No limit is specified")),
            (_, Some(limit)) if *limit > bound => errors.push(format!("{what}, but limit is {limit}")),
            (Some(request), _) if *request > bound => {
                errors.push(format!("{what}, but request is {request}"))
            }
            _ => {}
        }
    }
    for (name, bound) in amounts(limit.map("maxLimitRequestRatio")) {
        let what = format!("{name} max limit to request ratio per {kind} is {bound}");
        match (requests.get(&name).filter(|q| !q.is_zero()), limits.get(&name).filter(|q| !q.is_zero())) {
            (None, _) => errors.push(format!("{what}, but no request is specified or request is 0")),
            (_, None) => errors.push(format!("{what}, but no limit is specified or limit is 0")),
            (Some(request), Some(limit)) => {
                let ratio = limit.as_f64() / request.as_f64();
                if ratio > bound.as_f64() {
                    errors.push(format!("{what}, but provided ratio is {ratio:.6}"));
                }
            }
        }
    }
}

fn add(into: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let sum = into.get(name).map_or(*amount, |own| own.add(amount));
        into.insert(name.clone(), sum);
    }
}

fn raise(into: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        if into.get(name).is_none_or(|own| own < amount) {
            into.insert(name.clone(), *amount);
        }
    }
}

/// What a pod needs in all: containers and sidecars together, or the hungriest step of its start.
pub fn total(pod: &Value, field: &str) -> Amounts {
    let path = format!("resources.{field}");
    let mut sum = Amounts::new();
    for container in pod.list("spec.containers") {
        add(&mut sum, &amounts(container.map(&path)));
    }
    let (mut sidecars, mut start) = (Amounts::new(), Amounts::new());
    for container in pod.list("spec.initContainers") {
        let own = amounts(container.map(&path));
        if container.text("restartPolicy") == "Always" {
            add(&mut sum, &own);
            add(&mut sidecars, &own);
            raise(&mut start, &sidecars);
        } else {
            let mut step = own;
            add(&mut step, &sidecars);
            raise(&mut start, &step);
        }
    }
    raise(&mut sum, &start);
    for (name, amount) in amounts(pod.map(&format!("spec.{path}"))) {
        sum.insert(name, amount);
    }
    sum
}
