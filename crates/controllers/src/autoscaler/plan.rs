//! From readings to a number of replicas: the largest wish, held within the limits and the behavior; and the
//! autoscaler's conditions.

use std::collections::VecDeque;
use std::time::Duration;

use api::Quantity;
use api::k8s::api::autoscaling::v2::{
    ContainerResourceMetricStatus, HPAScalingRules, HorizontalPodAutoscaler,
    HorizontalPodAutoscalerCondition, MetricSpec, MetricStatus, MetricTarget, MetricValueStatus,
    ResourceMetricStatus,
};
use api::k8s::apimachinery::pkg::apis::meta::v1::Time;
use jiff::Timestamp;

use super::load::{self, Goal, PodLoad};

/// Before scaling down, the highest wish of this time counts.
const DOWN_WINDOW: Duration = Duration::from_secs(300);
/// Entries of a history at most.
const MAX_HISTORY: usize = 1_000;

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

/// Past wishes and changes of one autoscaler, by a monotonic clock.
#[derive(Clone, Debug, Default)]
pub struct History {
    wishes: VecDeque<(Duration, i32)>,
    changes: VecDeque<(Duration, i32)>,
}

impl History {
    /// Notes a change of the number of replicas.
    pub fn note(&mut self, change: i32, at: Duration) {
        self.changes.push_back((at, change));
        if self.changes.len() > MAX_HISTORY {
            self.changes.pop_front();
        }
    }

    fn changed(&self, since: Duration, up: bool) -> i32 {
        let recent = self.changes.iter().filter(|(at, change)| *at >= since && (*change > 0) == up);
        recent.map(|(_, change)| change.abs()).sum()
    }
}

/// A decided number and why.
pub struct Wanted {
    /// The number.
    pub replicas: i32,
    /// In words.
    pub reason: String,
}

/// Sets a condition of the autoscaler.
pub fn set_condition(
    scaler: &mut HorizontalPodAutoscaler,
    kind: &str,
    holds: bool,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let list = scaler.status.get_or_insert_default().conditions.get_or_insert_default();
    let state = if holds { "True" } else { "False" };
    let known = list.iter().position(|condition| condition.type_ == kind);
    let since =
        known.filter(|at| list[*at].status == state).and_then(|at| list[at].last_transition_time.clone());
    let condition = HorizontalPodAutoscalerCondition {
        type_: kind.to_owned(),
        status: state.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: since.or(Some(Time(now))),
    };
    match known {
        Some(at) => list[at] = condition,
        None => list.push(condition),
    }
}

/// Notes that the target was scaled.
pub fn scaled(scaler: &mut HorizontalPodAutoscaler, replicas: i32, now: Timestamp) {
    let text = format!("the HPA controller was able to update the target scale to {replicas}");
    set_condition(scaler, "AbleToScale", true, "SucceededRescale", &text, now);
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    scaler.status.get_or_insert_default().last_scale_time = Some(Time(now));
}

/// The resource, container and target of a metric; other kinds of metric are not served here.
pub fn resource_metric(metric: &MetricSpec) -> Result<(String, Option<String>, MetricTarget), String> {
    if let Some(source) = &metric.resource {
        return Ok((source.name.clone(), None, source.target.clone()));
    }
    if let Some(source) = &metric.container_resource {
        return Ok((source.name.clone(), Some(source.container.clone()), source.target.clone()));
    }
    Err(format!("metrics of type {} need an adapter for custom metrics, and there is none", metric.type_))
}

/// What one resource metric says.
pub fn reading(
    resource: &str,
    container: Option<&str>,
    target: &MetricTarget,
    loads: &[PodLoad],
    current: i32,
) -> Result<Reading, String> {
    let average = target.average_value.as_ref().and_then(|text| text.0.parse::<Quantity>().ok());
    let (goal, name) = match (target.average_utilization, average) {
        (Some(percent), _) => {
            (Goal::Utilization(percent), format!("{resource} resource utilization (percentage of request)"))
        }
        (None, Some(average)) => (Goal::Average(average.milli_value()), format!("{resource} resource")),
        (None, None) => return Err("neither a utilization nor an average value is set".to_owned()),
    };
    let (replicas, shown) = load::replicas(&goal, loads, current)
        .map_err(|error| format!("failed to get {resource} utilization: {error}"))?;
    let used: Vec<i64> = loads
        .iter()
        .filter_map(|load| if let PodLoad::Known { used, .. } = load { Some(*used) } else { None })
        .collect();
    let mean = used.iter().sum::<i64>() / i64::try_from(used.len().max(1)).unwrap_or(1);
    let value = Quantity::from_milli(if matches!(goal, Goal::Average(_)) { shown } else { mean });
    let present = MetricValueStatus {
        average_value: Some(api::k8s::apimachinery::pkg::api::resource::Quantity(value.to_string())),
        average_utilization: match goal {
            Goal::Utilization(_) => i32::try_from(shown).ok(),
            Goal::Average(_) => None,
        },
        value: None,
    };
    let name_of = resource.to_owned();
    let status = match container {
        None => MetricStatus {
            type_: "Resource".to_owned(),
            resource: Some(ResourceMetricStatus { name: name_of, current: present }),
            ..MetricStatus::default()
        },
        Some(container) => MetricStatus {
            type_: "ContainerResource".to_owned(),
            container_resource: Some(ContainerResourceMetricStatus {
                name: name_of,
                container: container.to_owned(),
                current: present,
            }),
            ..MetricStatus::default()
        },
    };
    Ok(Reading { replicas, name, status })
}

/// The number of replicas to have; `None` when the metrics do not allow a judgement.
pub fn decide(
    scaler: &mut HorizontalPodAutoscaler,
    current: i32,
    readings: &[Result<Reading, String>],
    history: &mut History,
    at: Duration,
    now: Timestamp,
) -> Option<Wanted> {
    let spec = scaler.spec.clone();
    let (least, most) = (spec.min_replicas.unwrap_or(1), spec.max_replicas);
    let good: Vec<&Reading> = readings.iter().filter_map(|reading| reading.as_ref().ok()).collect();
    let bad = readings.iter().find_map(|reading| reading.as_ref().err());
    let highest = good.iter().max_by_key(|reading| reading.replicas);
    scaler.status.get_or_insert_default().current_metrics =
        Some(good.iter().map(|reading| reading.status.clone()).collect());
    let (mut wish, mut reason) = match (highest, bad) {
        // With part of the metrics unknown, the others may only add.
        (Some(highest), Some(error)) if highest.replicas < current => return fail(scaler, error, now),
        (Some(highest), _) => (highest.replicas, format!("{} above target", highest.name)),
        (None, error) => return fail(scaler, error.map_or("no metrics are set", String::as_str), now),
    };
    let name = highest.map_or("", |highest| highest.name.as_str());
    let text = format!("the HPA was able to successfully calculate a replica count from {name}");
    set_condition(scaler, "ScalingActive", true, "ValidMetricFound", &text, now);
    if wish < current {
        reason = "All metrics below target".to_owned();
    }
    if current > most {
        (wish, reason) = (most, "Current number of replicas above Spec.MaxReplicas".to_owned());
    } else if current < least {
        (wish, reason) = (least, "Current number of replicas below Spec.MinReplicas".to_owned());
    } else {
        wish = stabilize(scaler, &spec.behavior.unwrap_or_default(), wish, current, history, at, now);
    }
    let bounded = wish.clamp(least, most.max(least));
    let (limited, why, text) = match wish.cmp(&bounded) {
        std::cmp::Ordering::Less => {
            (true, "TooFewReplicas", "the desired replica count is less than the minimum replica count")
        }
        std::cmp::Ordering::Greater => {
            (true, "TooManyReplicas", "the desired replica count is more than the maximum replica count")
        }
        std::cmp::Ordering::Equal => {
            (false, "DesiredWithinRange", "the desired count is within the acceptable range")
        }
    };
    set_condition(scaler, "ScalingLimited", limited, why, text, now);
    Some(Wanted { replicas: bounded, reason })
}

fn fail(scaler: &mut HorizontalPodAutoscaler, error: &str, now: Timestamp) -> Option<Wanted> {
    let text = format!("the HPA was unable to compute the replica count: {error}");
    set_condition(scaler, "ScalingActive", false, "FailedGetResourceMetric", &text, now);
    None
}

/// Holds a wish back: by recent wishes, then by how much may change in a time.
fn stabilize(
    scaler: &mut HorizontalPodAutoscaler,
    behavior: &api::k8s::api::autoscaling::v2::HorizontalPodAutoscalerBehavior,
    wish: i32,
    current: i32,
    history: &mut History,
    at: Duration,
    now: Timestamp,
) -> i32 {
    let seconds = |rules: Option<&HPAScalingRules>, default: Duration| {
        let set = rules.and_then(|rules| rules.stabilization_window_seconds);
        set.map_or(default, |seconds| Duration::from_secs(u64::from(seconds.unsigned_abs())))
    };
    let (up, down) = (behavior.scale_up.as_ref(), behavior.scale_down.as_ref());
    let (up_window, down_window) = (seconds(up, Duration::ZERO), seconds(down, DOWN_WINDOW));
    let within = |window: Duration| {
        let since = at.saturating_sub(window);
        history
            .wishes
            .iter()
            .filter(move |(when, _)| *when >= since && !window.is_zero())
            .map(|(_, wish)| *wish)
    };
    let lowest_up = within(up_window).min().unwrap_or(wish).min(wish);
    let highest_down = within(down_window).max().unwrap_or(wish).max(wish);
    let held = current.max(lowest_up).min(highest_down);
    let longest = up_window.max(down_window);
    history.wishes.retain(|(when, _)| *when + longest >= at);
    history.wishes.push_back((at, wish));
    if history.wishes.len() > MAX_HISTORY {
        history.wishes.pop_front();
    }
    let (reason, text) = if held > wish {
        (
            "ScaleDownStabilized",
            "recent recommendations were higher than current one, applying the highest recent recommendation",
        )
    } else if held < wish {
        (
            "ScaleUpStabilized",
            "recent recommendations were lower than current one, applying the lowest recent recommendation",
        )
    } else {
        ("ReadyForNewScale", "recommended size matches current size")
    };
    set_condition(scaler, "AbleToScale", true, reason, text, now);
    if held > current {
        held.min(bound(up, current, history, at, true))
    } else {
        held.max(bound(down, current, history, at, false))
    }
}

/// How far the number may go now by the policies of one direction.
fn bound(rules: Option<&HPAScalingRules>, current: i32, history: &History, at: Duration, up: bool) -> i32 {
    const DEFAULT_UP: &[(&str, i32, i32)] = &[("Pods", 4, 15), ("Percent", 100, 15)];
    const DEFAULT_DOWN: &[(&str, i32, i32)] = &[("Percent", 100, 15)];
    let select = rules.and_then(|rules| rules.select_policy.as_deref()).unwrap_or("Max");
    if select == "Disabled" {
        return current;
    }
    let own: Vec<(&str, i32, i32)> = rules
        .and_then(|rules| rules.policies.as_ref())
        .into_iter()
        .flatten()
        .map(|policy| (policy.type_.as_str(), policy.value, policy.period_seconds))
        .collect();
    let policies = match (own.is_empty(), up) {
        (false, _) => own,
        (true, true) => DEFAULT_UP.to_vec(),
        (true, false) => DEFAULT_DOWN.to_vec(),
    };
    let goes_to = |(kind, value, period): &(&str, i32, i32)| {
        let since = at.saturating_sub(Duration::from_secs(u64::from(period.unsigned_abs())));
        let (more, less) = (history.changed(since, true), history.changed(since, false));
        let start = if up { current - more + less } else { current + less - more };
        let step = match *kind {
            "Percent" => (f64::from(start) * f64::from(*value) / 100.0).ceil(),
            _ => f64::from(*value),
        };
        #[allow(clippy::cast_possible_truncation, reason = "saturates")]
        let step = step as i32;
        if up { start.saturating_add(step) } else { start.saturating_sub(step) }
    };
    let goals = policies.iter().map(goes_to);
    let farthest = (select != "Min") == up;
    if farthest { goals.max() } else { goals.min() }.unwrap_or(current)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn limits_windows_and_policies() {
        let spec = json!({"minReplicas": 2, "maxReplicas": 20, "scaleTargetRef": {"kind": "Deployment", "name": "d"}});
        let mut scaler: HorizontalPodAutoscaler =
            serde_json::from_value(json!({"spec": spec})).expect("valid");
        let mut history = History::default();
        let mut ask = |replicas: i32, current: i32, second: u64| {
            let status = MetricStatus::default();
            let reading = Reading { replicas, name: "cpu".into(), status };
            let at = Duration::from_secs(second);
            let wanted =
                decide(&mut scaler, current, &[Ok(reading)], &mut history, at, Timestamp::UNIX_EPOCH);
            let wanted = wanted.expect("decided").replicas;
            history.note(wanted - current, at);
            wanted
        };
        assert_eq!(ask(10, 3, 1_000), 7, "at most four more in 15 s");
        assert_eq!(ask(10, 7, 1_030), 10);
        assert_eq!(ask(1, 10, 1_060), 10, "recent wishes were higher");
        assert_eq!(ask(1, 10, 1_400), 2, "the minimum");
        assert_eq!(ask(1, 30, 1_500), 20, "the maximum");
    }
}
