//! Conversions between a served version and the stored one: autoscaling/v1 ↔ v2 and
//! events.k8s.io/v1 ↔ core/v1.

use serde_json::{Map, Value, json};

use crate::resource::Conversion;
use crate::tree::Tree;

/// autoscaling/v1 served, autoscaling/v2 stored.
pub const HPA_V1: Conversion = Conversion { to_served: hpa_to_v1, to_stored: hpa_to_v2 };

/// events.k8s.io/v1 served, core/v1 stored.
pub const EVENT_NEW: Conversion = Conversion { to_served: event_to_new, to_stored: event_to_core };

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// Default target when a v1 object names none, in percent of the request.
const DEFAULT_CPU_PERCENT: i64 = 80;

fn is_cpu_utilization(metric: &Value, field: &str) -> bool {
    metric.text("type") == "Resource"
        && metric.text("resource.name") == "cpu"
        && metric.at("resource").at(field).has("averageUtilization")
}

fn annotation(object: &Value, key: &str) -> Option<Value> {
    serde_json::from_str(object.map("metadata.annotations").get(key)?.as_str()?).ok()
}

fn annotate(object: &mut Value, key: &str, value: &Value) {
    if !object.has("metadata.annotations") {
        object.set("metadata.annotations", Value::Object(Map::new()));
    }
    if let Some(map) = object.at_mut("metadata.annotations").and_then(Value::as_object_mut) {
        map.insert(key.to_string(), value.to_string().into());
    }
}

fn drop_annotations(object: &mut Value, keys: &[&str]) {
    let Some(map) = object.at_mut("metadata.annotations").and_then(Value::as_object_mut) else {
        return;
    };
    keys.iter().for_each(|key| {
        map.remove(*key);
    });
    if map.is_empty() {
        object.unset("metadata.annotations");
    }
}

/// A v2 metric in the form the v1 annotations hold.
fn metric_to_v1(metric: &Value, field: &str) -> Value {
    let mut out = metric.clone();
    for source in ["object", "pods", "resource", "external", "containerResource"] {
        let Some(Value::Object(body)) = out.get_mut(source) else { continue };
        let target = body.remove(field).unwrap_or_default();
        let (value, average, percent) = match (source, field) {
            ("object", "target") => ("targetValue", "averageValue", ""),
            ("object", _) => ("currentValue", "averageValue", ""),
            ("pods", "target") => ("", "targetAverageValue", ""),
            ("pods", _) => ("", "currentAverageValue", ""),
            ("external", "target") => ("targetValue", "targetAverageValue", ""),
            ("external", _) => ("currentValue", "currentAverageValue", ""),
            (_, "target") => ("", "targetAverageValue", "targetAverageUtilization"),
            _ => ("", "currentAverageValue", "currentAverageUtilization"),
        };
        for (from, to) in [("value", value), ("averageValue", average), ("averageUtilization", percent)] {
            if let (false, Some(v)) = (to.is_empty(), target.get(from)) {
                body.insert(to.to_string(), v.clone());
            }
        }
        if source == "object"
            && let Some(described) = body.remove("describedObject")
        {
            body.insert("target".into(), described);
        }
        if let Some(metric) = body.remove("metric") {
            body.insert("metricName".into(), metric.text("name").into());
            if metric.has("selector") {
                let key = if source == "external" { "metricSelector" } else { "selector" };
                body.insert(key.into(), metric.at("selector").clone());
            }
        }
    }
    out
}

/// The reverse of [`metric_to_v1`].
fn metric_to_v2(metric: &Value, field: &str) -> Value {
    let mut out = metric.clone();
    for source in ["object", "pods", "resource", "external", "containerResource"] {
        let Some(Value::Object(body)) = out.get_mut(source) else { continue };
        let described = body.remove("target");
        let prefix = if field == "target" { "target" } else { "current" };
        let mut target = Map::new();
        for (from, to, ty) in [
            (format!("{prefix}Value"), "value", "Value"),
            ("averageValue".into(), "averageValue", "AverageValue"),
            (format!("{prefix}AverageValue"), "averageValue", "AverageValue"),
            (format!("{prefix}AverageUtilization"), "averageUtilization", "Utilization"),
        ] {
            if let Some(v) = body.remove(&from) {
                target.insert(to.into(), v);
                if field == "target" {
                    target.insert("type".into(), ty.into());
                }
            }
        }
        if let Some(name) = body.remove("metricName") {
            let mut metric = json!({"name": name});
            let selector = body.remove("selector").or_else(|| body.remove("metricSelector"));
            if let Some(selector) = selector {
                metric.set("selector", selector);
            }
            body.insert("metric".into(), metric);
        }
        if let (Some(described), "object") = (described, source) {
            body.insert("describedObject".into(), described);
        }
        body.insert(field.to_string(), Value::Object(target));
    }
    out
}

fn hpa_to_v1(hpa: &mut Value) {
    let metrics = hpa.unset("spec.metrics").unwrap_or_default();
    let mut others = Vec::new();
    for metric in metrics.as_array().into_iter().flatten() {
        if is_cpu_utilization(metric, "target") && !hpa.has("spec.targetCPUUtilizationPercentage") {
            let percent = metric.at("resource.target.averageUtilization").clone();
            hpa.set("spec.targetCPUUtilizationPercentage", percent);
        } else {
            others.push(metric_to_v1(metric, "target"));
        }
    }
    if !others.is_empty() {
        annotate(hpa, METRICS, &Value::Array(others));
    }
    // The old form always tells the number.
    if hpa.has("status") {
        hpa.set_default("status.currentReplicas", 0);
    }
    let current = hpa.unset("status.currentMetrics").unwrap_or_default();
    let mut all = Vec::new();
    for metric in current.as_array().into_iter().flatten() {
        if is_cpu_utilization(metric, "current") {
            let percent = metric.at("resource.current.averageUtilization").clone();
            hpa.set("status.currentCPUUtilizationPercentage", percent);
        }
        all.push(metric_to_v1(metric, "current"));
    }
    if !all.is_empty() {
        annotate(hpa, CURRENT_METRICS, &Value::Array(all));
    }
    for (path, key) in [("spec.behavior", BEHAVIOR), ("status.conditions", CONDITIONS)] {
        if let Some(value) = hpa.unset(path) {
            annotate(hpa, key, &value);
        }
    }
}

fn hpa_to_v2(hpa: &mut Value) {
    let mut metrics: Vec<Value> = Vec::new();
    if let Some(Value::Array(others)) = annotation(hpa, METRICS) {
        metrics.extend(others.iter().map(|m| metric_to_v2(m, "target")));
    }
    let percent = hpa.unset("spec.targetCPUUtilizationPercentage").filter(|p| !p.is_null());
    let percent = match percent {
        None if metrics.is_empty() => Some(DEFAULT_CPU_PERCENT.into()),
        percent => percent,
    };
    if let Some(percent) = percent {
        let cpu = json!({"type": "Resource", "resource": {"name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": percent}}});
        metrics.insert(0, cpu);
    }
    hpa.set("spec.metrics", Value::Array(metrics));
    let percent = hpa.unset("status.currentCPUUtilizationPercentage").filter(|p| !p.is_null());
    if let Some(Value::Array(current)) = annotation(hpa, CURRENT_METRICS) {
        let all: Vec<Value> = current.iter().map(|m| metric_to_v2(m, "current")).collect();
        hpa.set("status.currentMetrics", Value::Array(all));
    } else if let Some(percent) = percent {
        let cpu = json!([{"type": "Resource", "resource": {"name": "cpu",
            "current": {"averageUtilization": percent, "averageValue": "0"}}}]);
        hpa.set("status.currentMetrics", cpu);
    } else if hpa.has("status") {
        hpa.set("status.currentMetrics", Value::Null);
    }
    // The newer form leaves out what is none.
    if hpa.has("status") && hpa.int("status.currentReplicas") == 0 {
        hpa.unset("status.currentReplicas");
    }
    for (path, key) in [("spec.behavior", BEHAVIOR), ("status.conditions", CONDITIONS)] {
        if let Some(value) = annotation(hpa, key) {
            hpa.set(path, value);
        }
    }
    drop_annotations(hpa, &[METRICS, CURRENT_METRICS, CONDITIONS, BEHAVIOR]);
}

/// Fields of an event that only change their name: (core/v1, events.k8s.io/v1).
const EVENT_NAMES: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

fn event_to_new(event: &mut Value) {
    let Some(map) = event.as_object_mut() else { return };
    for (core, new) in EVENT_NAMES {
        if let Some(value) = map.remove(*core) {
            map.insert((*new).to_string(), value);
        }
    }
    tidy_event(event, "events.k8s.io", "v1");
}

fn event_to_core(event: &mut Value) {
    let Some(map) = event.as_object_mut() else { return };
    for (core, new) in EVENT_NAMES {
        if let Some(value) = map.remove(*new) {
            map.insert((*core).to_string(), value);
        }
    }
    tidy_event(event, "", "v1");
}

/// The two forms leave different fields out when empty.
fn tidy_event(event: &mut Value, group: &str, version: &str) {
    crate::canonical::canonicalize(group, version, "Event", event);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hpa_round_trips() {
        let v2 = json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 3, "metrics": [
            {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}},
            {"type": "Pods", "pods": {"metric": {"name": "q"}, "target": {"type": "AverageValue", "averageValue": "5"}}}]}});
        let mut other = v2.clone();
        hpa_to_v1(&mut other);
        assert_eq!(other.int("spec.targetCPUUtilizationPercentage"), 50);
        assert!(!other.has("spec.metrics"));
        hpa_to_v2(&mut other);
        assert_eq!(other, v2);
    }

    #[test]
    fn plain_v1_hpa_gets_the_default_target() {
        let mut hpa = json!({"metadata": {}, "spec": {"maxReplicas": 2}});
        hpa_to_v2(&mut hpa);
        assert_eq!(hpa.at("spec.metrics").list("x").len(), 0);
        assert_eq!(hpa.list("spec.metrics")[0].int("resource.target.averageUtilization"), 80);
    }

    #[test]
    fn events_round_trip() {
        let core = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod"}, "message": "m",
            "source": {"component": "x"}, "reportingComponent": "x", "reportingInstance": "", "reason": "R",
            "firstTimestamp": null, "lastTimestamp": null, "eventTime": null});
        let mut other = core.clone();
        event_to_new(&mut other);
        assert_eq!(other.text("regarding.kind"), "Pod");
        assert_eq!(other.text("note"), "m");
        event_to_core(&mut other);
        assert_eq!(other, core);
    }
}
