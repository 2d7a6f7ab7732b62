//! Pods: the only kind with graceful deletion, and three ways to write besides the main one.

use serde_json::{Map, Value, json};

use crate::defaults;
use crate::strategy::{Context, Generation, Grace, PLAIN, Part, Rules, take_over, take_over_all_but};
use crate::tree::Tree;
use crate::validation as v;

/// Pod.
pub static POD: Rules = Rules {
    default: defaults::pod::pod,
    generation: Generation::Fields(&["spec"]),
    create,
    update,
    validate: |_, pod| v::pod::create(pod),
    validate_update: |_, part, new, old| match part {
        Part::Status => v::pod_update::status(new, old),
        Part::EphemeralContainers => v::pod_update::ephemeral_containers(new, old),
        Part::Resize => v::pod_update::resize(new, old),
        _ => v::pod_update::update(new, old),
    },
    grace,
    resets: &[(Part::Status, &["metadata.deletionTimestamp", "metadata.ownerReferences", "spec"])],
    ..PLAIN
};

/// QoS class by upstream's rule: all limits equal requests is Guaranteed, none at all BestEffort.
pub fn qos_class(pod: &Value) -> &'static str {
    let (mut any, mut guaranteed) = (false, true);
    let spec = pod.at("spec");
    let whole = spec.at("resources");
    let pod_level = !whole.map("limits").is_empty() || !whole.map("requests").is_empty();
    let parts: Vec<&Value> = if pod_level {
        vec![whole]
    } else {
        let all = spec.list("containers").iter().chain(spec.list("initContainers"));
        all.map(|c| c.at("resources")).collect()
    };
    for part in parts {
        for name in ["cpu", "memory"] {
            let amount = |what: &str| {
                let text = part.map(what).get(name).and_then(Value::as_str)?;
                text.parse::<api::Quantity>().ok().filter(|q| !q.is_zero())
            };
            let (request, limit) = (amount("requests"), amount("limits"));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

fn create(cx: &Context<'_>, pod: &mut Value) {
    let qos = qos_class(pod);
    pod.set("status", json!({"phase": "Pending", "qosClass": qos}));
    if !pod.list("spec.schedulingGates").is_empty() {
        let gated = json!([{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
            "lastTransitionTime": api::time::format(cx.now)}]);
        pod.set("status.conditions", gated);
    }
    merge_label_keys(pod);
}

/// matchLabelKeys and mismatchLabelKeys become requirements on the pod's own label values.
fn merge_label_keys(pod: &mut Value) {
    let labels = pod.map("metadata.labels").clone();
    for kind in ["spec.affinity.podAffinity", "spec.affinity.podAntiAffinity"] {
        let Some(affinity) = pod.at_mut(kind) else { continue };
        for term in affinity.list_mut("requiredDuringSchedulingIgnoredDuringExecution") {
            merge_term(term, &labels);
        }
        for weighted in affinity.list_mut("preferredDuringSchedulingIgnoredDuringExecution") {
            if let Some(term) = weighted.get_mut("podAffinityTerm") {
                merge_term(term, &labels);
            }
        }
    }
    for constraint in pod.list_mut("spec.topologySpreadConstraints") {
        merge_term(constraint, &labels);
    }
}

fn merge_term(term: &mut Value, labels: &Map<String, Value>) {
    if !term.has("labelSelector") {
        return;
    }
    for (field, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        let keys: Vec<Value> = term.list(field).to_vec();
        let found = keys.iter().filter_map(Value::as_str).filter_map(|k| Some((k, labels.get(k)?)));
        let mut rules = term.list("labelSelector.matchExpressions").to_vec();
        let before = rules.len();
        rules.extend(found.map(|(k, v)| json!({"key": k, "operator": operator, "values": [v]})));
        if rules.len() > before {
            term.set("labelSelector.matchExpressions", Value::Array(rules));
        }
    }
}

fn update(_cx: &Context<'_>, part: Part, new: &mut Value, old: &Value) {
    match part {
        Part::Main => take_over(new, old, &["status"]),
        Part::Status => update_status(new, old),
        Part::EphemeralContainers => {
            let wanted = new.at("spec.ephemeralContainers").clone();
            *new = keep_identity(new, old);
            new.set("spec.ephemeralContainers", wanted);
        }
        Part::Resize => resize(new, old),
        Part::Approval | Part::Finalize => {}
    }
}

fn update_status(new: &mut Value, old: &Value) {
    take_over_all_but(new, old, &["metadata", "status"]);
    // The one address of old and the list of them say the same; the one wins.
    let (one, first) = (new.text("status.podIP"), new.list("status.podIPs").first().map(|ip| ip.text("ip")));
    match (one, first) {
        ("", None) => {}
        ("", Some(first)) => new.set("status.podIP", first.to_owned()),
        (one, first) if first != Some(one) => new.set("status.podIPs", json!([{"ip": one}])),
        _ => {}
    }
    // The agent reports status; it neither starts deletions nor changes owners.
    new.unset("metadata.deletionTimestamp");
    new.unset("metadata.ownerReferences");
    if old.has("metadata.ownerReferences") {
        new.set("metadata.ownerReferences", old.at("metadata.ownerReferences").clone());
    }
    if new.text("status.qosClass").is_empty() {
        new.set("status.qosClass", old.text("status.qosClass"));
    }
    if new.int("status.observedGeneration") == 0 && old.has("status.observedGeneration") {
        new.set("status.observedGeneration", old.at("status.observedGeneration").clone());
    }
}

/// The old object under the new one's resourceVersion and managed fields.
fn keep_identity(new: &Value, old: &Value) -> Value {
    let mut out = old.clone();
    for field in ["metadata.resourceVersion", "metadata.managedFields"] {
        if new.has(field) {
            out.set(field, new.at(field).clone());
        }
    }
    out
}

/// Only container resources and resize policies pass; an object with other containers is left
/// alone, so that validation says what is wrong.
fn resize(new: &mut Value, old: &Value) {
    let mut out = keep_identity(new, old);
    for list in ["spec.containers", "spec.initContainers"] {
        let wanted: Vec<Value> = new.list(list).to_vec();
        let have = out.list_mut(list);
        let same = |(a, b): (&Value, &Value)| a.text("name") == b.text("name");
        if wanted.len() != have.len() || !wanted.iter().zip(have.iter()).all(same) {
            return;
        }
        for (have, wanted) in have.iter_mut().zip(&wanted) {
            take_over(have, wanted, &["resources", "resizePolicy"]);
        }
    }
    if let (Some(spec), Some(wanted)) = (out.get_mut("spec"), new.get("spec")) {
        take_over(spec, wanted, &["resources"]);
    }
    *new = out;
}

fn grace(pod: &Value, asked: Option<i64>) -> Grace {
    let mut seconds = asked.or_else(|| pod.at("spec.terminationGracePeriodSeconds").as_i64()).unwrap_or(0);
    let unscheduled = pod.text("spec.nodeName").is_empty();
    if unscheduled || matches!(pod.text("status.phase"), "Failed" | "Succeeded") {
        seconds = 0;
    }
    Grace::Seconds(if seconds < 0 { 1 } else { seconds })
}
