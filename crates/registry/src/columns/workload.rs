//! Cells of the workload kinds.

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::age;
use crate::tree::Tree;

fn name(object: &Value) -> Value {
    object.text("metadata.name").into()
}

/// `a=b,c=d`, or `<none>`.
pub fn labels(map: &Map<String, Value>) -> String {
    if map.is_empty() {
        return "<none>".into();
    }
    let pairs: Vec<String> = map.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or(""))).collect();
    pairs.join(",")
}

/// A label selector's text, requirements in key order; empty when it selects everything.
pub fn selector_text(selector: &Value) -> String {
    let mut parts: Vec<(String, String)> = selector
        .map("matchLabels")
        .iter()
        .map(|(k, v)| (k.clone(), format!("{k}={}", v.as_str().unwrap_or(""))))
        .collect();
    for rule in selector.list("matchExpressions") {
        let key = rule.text("key");
        let mut values: Vec<&str> = rule.list("values").iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        let text = match rule.text("operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_string(),
            "DoesNotExist" => format!("!{key}"),
            _ => continue,
        };
        parts.push((key.to_string(), text));
    }
    parts.sort_by(|a, b| a.0.cmp(&b.0));
    parts.into_iter().map(|p| p.1).collect::<Vec<_>>().join(",")
}

/// As [`selector_text`], `<none>` for an empty one.
pub fn selector(selector: &Value) -> String {
    let text = selector_text(selector);
    if text.is_empty() { "<none>".into() } else { text }
}

fn containers(template: &Value) -> [Value; 2] {
    let all = template.list("spec.containers");
    let join = |key: &str| all.iter().map(|c| c.text(key)).collect::<Vec<_>>().join(",").into();
    [join("name"), join("image")]
}

/// Containers, Images, Selector.
fn wide(template: &Value, selector: String) -> [Value; 3] {
    let [names, images] = containers(template);
    [names, images, selector.into()]
}

pub fn pod_template(o: &Value, _now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(o.at("template"));
    vec![name(o), names, images, labels(o.map("template.metadata.labels")).into()]
}

pub fn pdb(o: &Value, now: Timestamp) -> Vec<Value> {
    let bound = |path: &str| match o.at(path) {
        Value::Null => Value::from("N/A"),
        Value::String(s) => s.clone().into(),
        other => other.to_string().into(),
    };
    vec![
        name(o),
        bound("spec.minAvailable"),
        bound("spec.maxUnavailable"),
        o.int("status.disruptionsAllowed").into(),
        age::of(o, now),
    ]
}

fn replicas(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(o),
        o.int("spec.replicas").into(),
        o.int("status.replicas").into(),
        o.int("status.readyReplicas").into(),
        age::of(o, now),
    ]
}

pub fn replication_controller(o: &Value, now: Timestamp) -> Vec<Value> {
    let mut cells = replicas(o, now);
    cells.extend(wide(o.at("spec.template"), labels(o.map("spec.selector"))));
    cells
}

pub fn replica_set(o: &Value, now: Timestamp) -> Vec<Value> {
    let mut cells = replicas(o, now);
    cells.extend(wide(o.at("spec.template"), selector(o.at("spec.selector"))));
    cells
}

pub fn daemon_set(o: &Value, now: Timestamp) -> Vec<Value> {
    let mut cells = vec![
        name(o),
        o.int("status.desiredNumberScheduled").into(),
        o.int("status.currentNumberScheduled").into(),
        o.int("status.numberReady").into(),
        o.int("status.updatedNumberScheduled").into(),
        o.int("status.numberAvailable").into(),
        labels(o.map("spec.template.spec.nodeSelector")).into(),
        age::of(o, now),
    ];
    cells.extend(wide(o.at("spec.template"), selector(o.at("spec.selector"))));
    cells
}

fn job_condition(job: &Value, ty: &str) -> bool {
    let found = job.list("status.conditions").iter().find(|c| c.text("type") == ty);
    found.is_some_and(|c| c.text("status") == "True")
}

fn job_status(job: &Value) -> &'static str {
    if job_condition(job, "Complete") {
        return "Complete";
    }
    if job_condition(job, "Failed") {
        return "Failed";
    }
    if job.has("metadata.deletionTimestamp") {
        return "Terminating";
    }
    ["Suspended", "FailureTarget", "SuccessCriteriaMet"]
        .into_iter()
        .find(|ty| job_condition(job, ty))
        .unwrap_or("Running")
}

pub fn job(o: &Value, now: Timestamp) -> Vec<Value> {
    let done = o.int("status.succeeded");
    let completions = match (o.at("spec.completions").as_i64(), o.int("spec.parallelism")) {
        (Some(wanted), _) => format!("{done}/{wanted}"),
        (None, workers) if workers > 1 => format!("{done}/1 of {workers}"),
        (None, _) => format!("{done}/1"),
    };
    let duration = match age::time_at(o, "status.startTime") {
        None => String::new(),
        Some(start) => {
            let end = age::time_at(o, "status.completionTime").unwrap_or(now);
            age::human_duration(end.duration_since(start).as_secs())
        }
    };
    let mut cells = vec![name(o), job_status(o).into(), completions.into(), duration.into(), age::of(o, now)];
    cells.extend(wide(o.at("spec.template"), selector(o.at("spec.selector"))));
    cells
}

pub fn cron_job(o: &Value, now: Timestamp) -> Vec<Value> {
    let last = match age::time_at(o, "status.lastScheduleTime") {
        Some(time) => age::since(now, Some(time)),
        None => "<none>".into(),
    };
    let zone = o.at("spec.timeZone").as_str().unwrap_or("<none>");
    let suspend = match o.at("spec.suspend").as_bool() {
        Some(true) => "True",
        Some(false) => "False",
        None => "<unset>",
    };
    let job = o.at("spec.jobTemplate.spec");
    let mut cells = vec![
        name(o),
        o.text("spec.schedule").into(),
        zone.into(),
        suspend.into(),
        o.list("status.active").len().into(),
        last.into(),
        age::of(o, now),
    ];
    cells.extend(wide(job.at("template"), selector(job.at("selector"))));
    cells
}

pub fn stateful_set(o: &Value, now: Timestamp) -> Vec<Value> {
    let ready = format!("{}/{}", o.int("status.readyReplicas"), o.int("spec.replicas"));
    let [names, images] = containers(o.at("spec.template"));
    vec![name(o), ready.into(), age::of(o, now), names, images]
}

pub fn deployment(o: &Value, now: Timestamp) -> Vec<Value> {
    let ready = format!("{}/{}", o.int("status.readyReplicas"), o.int("spec.replicas"));
    let mut cells = vec![
        name(o),
        ready.into(),
        o.int("status.updatedReplicas").into(),
        o.int("status.availableReplicas").into(),
        age::of(o, now),
    ];
    cells.extend(wide(o.at("spec.template"), selector_text(o.at("spec.selector"))));
    cells
}

pub fn controller_revision(o: &Value, now: Timestamp) -> Vec<Value> {
    let owner = o.list("metadata.ownerReferences").iter().find(|r| r.flag("controller"));
    let controller = match owner {
        None => "<none>".to_string(),
        Some(owner) => {
            let kind = owner.text("kind").to_lowercase();
            match owner.text("apiVersion").split_once('/') {
                Some((group, _)) => format!("{kind}.{group}/{}", owner.text("name")),
                None => format!("{kind}/{}", owner.text("name")),
            }
        }
    };
    vec![name(o), controller.into(), o.int("revision").into(), age::of(o, now)]
}

pub fn scale(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(o), o.int("spec.replicas").into(), o.int("status.replicas").into(), age::of(o, now)]
}

pub fn hpa(o: &Value, now: Timestamp) -> Vec<Value> {
    let target = o.at("spec.scaleTargetRef");
    let min = o.at("spec.minReplicas").as_i64().map_or("<unset>".into(), |n| n.to_string());
    let targets = if o.text("apiVersion") == "autoscaling/v1" {
        let mut v2 = o.clone();
        (crate::convert::HPA_V1.to_stored)(&mut v2);
        metrics(v2.list("spec.metrics"), v2.list("status.currentMetrics"))
    } else {
        metrics(o.list("spec.metrics"), o.list("status.currentMetrics"))
    };
    vec![
        name(o),
        format!("{}/{}", target.text("kind"), target.text("name")).into(),
        targets.into(),
        min.into(),
        o.int("spec.maxReplicas").into(),
        o.int("status.currentReplicas").into(),
        age::of(o, now),
    ]
}

fn metrics(specs: &[Value], statuses: &[Value]) -> String {
    if specs.is_empty() {
        return "<none>".into();
    }
    let all: Vec<String> = specs.iter().enumerate().map(|(i, spec)| metric(spec, statuses.get(i))).collect();
    if all.len() > 2 {
        format!("{} + {} more...", all[..2].join(", "), all.len() - 2)
    } else {
        all.join(", ")
    }
}

fn metric(spec: &Value, status: Option<&Value>) -> String {
    const UNKNOWN: &str = "<unknown>";
    let source = match spec.text("type") {
        "External" => "external",
        "Pods" => "pods",
        "Object" => "object",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        _ => return "<unknown type>".into(),
    };
    let target = spec.at(source).at("target");
    let current = status.map(|s| s.at(source)).filter(|s| !s.is_null()).map(|s| s.at("current"));
    let now = |key: &str| match current.map(|c| c.at(key)) {
        Some(Value::String(s)) => s.clone(),
        Some(Value::Number(n)) => n.to_string(),
        _ => UNKNOWN.to_string(),
    };
    let average = target.text("averageValue");
    if source == "resource" || source == "containerResource" {
        let label = spec.at(source).text("name");
        if !average.is_empty() {
            return format!("{label}: {}/{average}", now("averageValue"));
        }
        let percent = |n: Option<i64>| n.map(|n| format!("{n}%"));
        let current = percent(current.and_then(|c| c.at("averageUtilization").as_i64()));
        let wanted = percent(target.at("averageUtilization").as_i64());
        let current = current.unwrap_or(UNKNOWN.into());
        return format!("{label}: {current}/{}", wanted.unwrap_or("<auto>".into()));
    }
    if source == "pods" {
        return format!("{}/{average}", now("averageValue"));
    }
    if average.is_empty() {
        format!("{}/{}", now("value"), target.text("value"))
    } else {
        format!("{}/{average} (avg)", now("averageValue"))
    }
}
