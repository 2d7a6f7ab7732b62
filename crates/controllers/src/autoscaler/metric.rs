//! What one metric of an autoscaler asks for, from values that were fetched before. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::Quantity;
use api::k8s::api::autoscaling::v2::{
    ContainerResourceMetricStatus, ExternalMetricStatus, MetricSpec, MetricStatus, MetricTarget,
    MetricValueStatus, ObjectMetricStatus, PodsMetricStatus, ResourceMetricStatus,
};
use api::k8s::api::core::v1::Pod;
use api::k8s::apimachinery::pkg::api::resource::Quantity as Text;
use api::quantity::Format;
use client::Meta;
use jiff::Timestamp;

use super::load::{self, Asked, Goal, PodLoad, Tolerance, UsageByPod};

/// What one metric says.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Replicas asked for.
    pub replicas: i32,
    /// In words, for events: `cpu resource utilization (percentage of request)`.
    pub name: String,
    /// For the status.
    pub status: MetricStatus,
}

/// Why a metric says nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    /// The reason of the condition and the event.
    pub reason: &'static str,
    /// For people.
    pub error: String,
}

/// What was fetched for a metric.
#[derive(Clone, Debug)]
pub enum Fetched {
    /// Usage of the pods.
    Usage(Arc<Result<UsageByPod, String>>),
    /// A value of each pod.
    Pods(Result<BTreeMap<String, i64>, String>),
    /// One value.
    Value(Result<i64, String>),
}

/// The scaled workload.
pub struct Scaled<'a> {
    /// The pods that its selector chooses.
    pub pods: &'a [Arc<Pod>],
    /// `spec.replicas` of the scale.
    pub wanted: i32,
    /// `status.replicas` of the scale.
    pub current: i32,
    /// How far from one a ratio changes nothing.
    pub tolerance: Tolerance,
    /// The time.
    pub now: Timestamp,
}

fn milli(text: Option<&Text>) -> Option<i64> {
    text.and_then(|text| text.0.parse::<Quantity>().ok()).map(|quantity| quantity.milli_value())
}

/// A quantity of thousandths; memory in powers of two, as metrics servers write it.
fn shown(resource: &str, milli: i64) -> Text {
    let quantity = match resource {
        "memory" => Quantity::new(milli / 1000, Format::BinarySi),
        _ => Quantity::from_milli(milli),
    };
    Text(quantity.to_string())
}

/// What a metric asks for.
pub fn read(metric: &MetricSpec, fetched: Fetched, scaled: &Scaled<'_>) -> Result<Reading, Unread> {
    let unread = |reason, error| Unread { reason, error };
    if let (Some(source), Fetched::Usage(usage)) = (&metric.resource, &fetched) {
        let reason = "FailedGetResourceMetric";
        let (replicas, name, current) = resource(&source.name, None, &source.target, usage, scaled)
            .map_err(|error| unread(reason, error))?;
        let name_of = source.name.clone();
        let status = MetricStatus {
            type_: "Resource".to_owned(),
            resource: Some(ResourceMetricStatus { name: name_of, current }),
            ..MetricStatus::default()
        };
        return Ok(Reading { replicas, name, status });
    }
    if let (Some(source), Fetched::Usage(usage)) = (&metric.container_resource, &fetched) {
        let container = source.container.clone();
        let (replicas, name, current) =
            resource(&source.name, Some(&container), &source.target, usage, scaled)
                .map_err(|error| unread("FailedGetContainerResourceMetric", error))?;
        let status = MetricStatus {
            type_: "ContainerResource".to_owned(),
            container_resource: Some(ContainerResourceMetricStatus {
                name: source.name.clone(),
                container,
                current,
            }),
            ..MetricStatus::default()
        };
        return Ok(Reading { replicas, name, status });
    }
    match fetched {
        Fetched::Pods(values) => pods(metric, values, scaled).map_err(|e| unread("FailedGetPodsMetric", e)),
        Fetched::Value(value) if metric.object.is_some() => {
            object(metric, value, scaled).map_err(|error| unread("FailedGetObjectMetric", error))
        }
        Fetched::Value(value) => {
            external(metric, value, scaled).map_err(|error| unread("FailedGetExternalMetric", error))
        }
        Fetched::Usage(_) => {
            let error = format!("unknown metric source type {:?}", metric.type_);
            Err(unread("InvalidMetricSourceType", error))
        }
    }
}

fn resource(
    resource: &str,
    container: Option<&str>,
    target: &MetricTarget,
    usage: &Result<UsageByPod, String>,
    scaled: &Scaled<'_>,
) -> Result<(i32, String, MetricValueStatus), String> {
    let (goal, what) = match (milli(target.average_value.as_ref()), target.average_utilization) {
        (Some(average), _) => (Goal::Average(average), "usage"),
        (None, Some(percent)) => (Goal::Utilization(percent), "utilization"),
        (None, None) => {
            let text = "neither an average utilization target nor an average value (usage) target was set";
            return Err(format!("invalid resource metric source: {text}"));
        }
    };
    let asked = ask(resource, container, goal, usage, scaled)
        .map_err(|error| format!("failed to get {resource} {what}: {error}"))?;
    let kind = if container.is_some() { "container resource" } else { "resource" };
    let utilization = matches!(goal, Goal::Utilization(_));
    let name = match goal {
        Goal::Average(_) => format!("{resource} resource"),
        Goal::Utilization(_) => format!("{resource} {kind} utilization (percentage of request)"),
    };
    let current = MetricValueStatus {
        average_value: Some(shown(resource, asked.average)),
        average_utilization: utilization.then(|| i32::try_from(asked.percent).unwrap_or(i32::MAX)),
        value: None,
    };
    Ok((asked.replicas, name, current))
}

fn ask(
    resource: &str,
    container: Option<&str>,
    goal: Goal,
    usage: &Result<UsageByPod, String>,
    scaled: &Scaled<'_>,
) -> Result<Asked, String> {
    let usage =
        usage.as_ref().map_err(|error| format!("unable to get metrics for resource {resource}: {error}"))?;
    let requests = matches!(goal, Goal::Utilization(_));
    let of = |pod: &Arc<Pod>| load::of(pod, usage.get(pod.name()), resource, container, requests, scaled.now);
    let loads = scaled.pods.iter().map(of).collect::<Result<Vec<PodLoad>, String>>()?;
    load::replicas(goal, &loads, scaled.wanted, scaled.tolerance)
}

fn pods(
    metric: &MetricSpec,
    values: Result<BTreeMap<String, i64>, String>,
    scaled: &Scaled<'_>,
) -> Result<Reading, String> {
    let source = metric.pods.clone().unwrap_or_default();
    let name = &source.metric.name;
    let fail =
        |error: String| format!("failed to get pods metric value: unable to get metric {name}: {error}");
    let values = values.map_err(fail)?;
    let average = milli(source.target.average_value.as_ref()).unwrap_or(0);
    let loads: Vec<PodLoad> =
        scaled.pods.iter().map(|pod| load::by_value(pod, values.get(pod.name()).copied())).collect();
    let asked = load::replicas(Goal::Average(average), &loads, scaled.wanted, scaled.tolerance);
    let asked = asked.map_err(|error| format!("failed to get pods metric value: {error}"))?;
    let average_value = Some(shown("", asked.average));
    let current = MetricValueStatus { average_value, ..MetricValueStatus::default() };
    let name = format!("pods metric {name}");
    let status = MetricStatus {
        type_: "Pods".to_owned(),
        pods: Some(PodsMetricStatus { metric: source.metric, current }),
        ..MetricStatus::default()
    };
    Ok(Reading { replicas: asked.replicas, name, status })
}

/// What a value asks for that is no pod's own.
fn by_target(
    target: &MetricTarget,
    value: i64,
    scaled: &Scaled<'_>,
) -> Result<(i32, MetricValueStatus), String> {
    #[allow(clippy::cast_precision_loss, reason = "amounts far below 2^52")]
    let share = |part: i64, whole: i64| part as f64 / whole.max(1) as f64;
    if let Some(goal) = milli(target.value.as_ref()) {
        let ready = load::ready(scaled.pods);
        let replicas = load::by_ratio(share(value, goal), scaled.wanted, ready, scaled.tolerance);
        let current = MetricValueStatus { value: Some(shown("", value)), ..MetricValueStatus::default() };
        return Ok((replicas, current));
    }
    let Some(goal) = milli(target.average_value.as_ref()) else {
        return Err("neither a value target nor an average value target was set".to_owned());
    };
    let count = i64::from(scaled.current.max(1));
    let ratio = share(value, goal.saturating_mul(count));
    let changes = !scaled.tolerance.holds(ratio);
    let replicas = if changes { load::ceil(share(value, goal)) } else { scaled.current };
    let average_value = Some(shown("", (value + count - 1) / count));
    Ok((replicas, MetricValueStatus { average_value, ..MetricValueStatus::default() }))
}

fn object(metric: &MetricSpec, value: Result<i64, String>, scaled: &Scaled<'_>) -> Result<Reading, String> {
    let source = metric.object.clone().unwrap_or_default();
    let (name, described) = (&source.metric.name, &source.described_object);
    let value = value.map_err(|error| {
        let on = format!("{} {}", described.kind, described.name);
        format!("failed to get object metric value: unable to get metric {name}: {error} on {on}")
    })?;
    let (replicas, current) = by_target(&source.target, value, scaled)
        .map_err(|error| format!("invalid object metric source: {error}"))?;
    let name = format!("{} metric {name}", described.kind);
    let status = MetricStatus {
        type_: "Object".to_owned(),
        object: Some(ObjectMetricStatus {
            metric: source.metric,
            described_object: source.described_object,
            current,
        }),
        ..MetricStatus::default()
    };
    Ok(Reading { replicas, name, status })
}

fn external(metric: &MetricSpec, value: Result<i64, String>, scaled: &Scaled<'_>) -> Result<Reading, String> {
    let Some(source) = metric.external.clone() else {
        return Err(format!("unknown metric source type {:?}", metric.type_));
    };
    let name = &source.metric.name;
    let value = value.map_err(|error| {
        format!("failed to get {name} external metric value: unable to get external metric {name}: {error}")
    })?;
    let (replicas, current) = by_target(&source.target, value, scaled)
        .map_err(|error| format!("invalid external metric source: {error}"))?;
    let name = format!("external metric {name}");
    let status = MetricStatus {
        type_: "External".to_owned(),
        external: Some(ExternalMetricStatus { metric: source.metric, current }),
        ..MetricStatus::default()
    };
    Ok(Reading { replicas, name, status })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(value: Value) -> MetricSpec {
        serde_json::from_value(value).expect("a metric")
    }

    #[test]
    fn values_that_are_no_pods_own() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": []},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        let pods = [Arc::new(pod.clone()), Arc::new(pod)];
        let now = Timestamp::UNIX_EPOCH;
        let scaled = Scaled { pods: &pods, wanted: 2, current: 2, tolerance: Tolerance::default(), now };
        let external = |target: Value| {
            spec(json!({"type": "External", "external": {"metric": {"name": "q"}, "target": target}}))
        };
        let described = json!({"kind": "Service", "name": "s"});
        let object = |target: Value| {
            spec(
                json!({"type": "Object", "object": {"describedObject": described, "metric": {"name": "q"}, "target": target}}),
            )
        };
        for (metric, value, replicas, name) in [
            (external(json!({"type": "Value", "value": "10"})), 30_000, 6, "external metric q"),
            (external(json!({"type": "AverageValue", "averageValue": "10"})), 45_000, 5, "external metric q"),
            (external(json!({"type": "AverageValue", "averageValue": "10"})), 21_000, 2, "external metric q"),
            (object(json!({"type": "Value", "value": "10"})), 10_500, 2, "Service metric q"),
        ] {
            let reading = read(&metric, Fetched::Value(Ok(value)), &scaled).expect("read");
            assert_eq!((reading.replicas, reading.name.as_str()), (replicas, name), "{metric:?}");
        }
        let metric = spec(
            json!({"type": "Pods", "pods": {"metric": {"name": "rps"}, "target": {"type": "AverageValue", "averageValue": "100"}}}),
        );
        let values = [("p".to_owned(), 300_000)].into();
        let reading = read(&metric, Fetched::Pods(Ok(values)), &scaled).expect("read");
        assert_eq!((reading.replicas, reading.name.as_str()), (6, "pods metric rps"));
        let failed = read(&metric, Fetched::Pods(Err("no".to_owned())), &scaled).expect_err("not read");
        let text = "failed to get pods metric value: unable to get metric rps: no";
        assert_eq!((failed.reason, failed.error.as_str()), ("FailedGetPodsMetric", text));
    }
}
