//! From readings to a number of replicas: the largest wish, held within the limits and the behavior; and the
//! autoscaler's conditions.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use api::k8s::api::autoscaling::v2::{
    HPAScalingRules, HorizontalPodAutoscaler, HorizontalPodAutoscalerBehavior,
    HorizontalPodAutoscalerCondition, MetricStatus,
};
use api::k8s::api::core::v1::Pod;
use api::k8s::apimachinery::pkg::apis::meta::v1::Time;
use api::labels::Selector;
use client::Key;
use jiff::Timestamp;

use super::load::Tolerance;
use super::metric::{Reading, Unread};

/// Before scaling down, the highest wish of this time counts.
const DOWN_WINDOW: Duration = Duration::from_secs(300);
/// Entries of a history at most.
const MAX_HISTORY: usize = 1_000;

/// Past wishes and changes of one autoscaler, by a monotonic clock.
#[derive(Clone, Debug, Default)]
pub struct History {
    wishes: VecDeque<(Duration, i32)>,
    changes: VecDeque<(Duration, i32)>,
}

impl History {
    /// The history of an autoscaler that looks for the first time: its target has the number it has for a reason.
    pub fn starting(current: i32, at: Duration) -> History {
        History { wishes: VecDeque::from([(at, current)]), changes: VecDeque::new() }
    }

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

/// How far from one a ratio changes nothing, by the behavior.
pub fn tolerance(behavior: Option<&HorizontalPodAutoscalerBehavior>) -> Tolerance {
    let default = Tolerance::default();
    let of = |rules: Option<&HPAScalingRules>| {
        let text = rules.and_then(|rules| rules.tolerance.as_ref())?;
        text.0.parse::<api::Quantity>().ok().map(|quantity| quantity.as_f64())
    };
    let (up, down) =
        behavior.map_or((None, None), |rules| (rules.scale_up.as_ref(), rules.scale_down.as_ref()));
    Tolerance { up: of(up).unwrap_or(default.up), down: of(down).unwrap_or(default.down) }
}

/// Several metrics as one wish.
pub struct Combined {
    /// Replicas asked for, and the metric that asks.
    pub wish: Option<(i32, String)>,
    /// What could not be read, of how many.
    pub unread: Option<String>,
    /// The condition's reason when that keeps the autoscaler from working.
    pub reason: Option<(&'static str, String)>,
    /// For the status.
    pub metrics: Vec<MetricStatus>,
}

/// The largest wish; with part of the metrics unknown, the others may only add.
pub fn combine(readings: &[Result<Reading, Unread>], current: i32) -> Combined {
    let good: Vec<&Reading> = readings.iter().filter_map(|reading| reading.as_ref().ok()).collect();
    let bad: Vec<&Unread> = readings.iter().filter_map(|reading| reading.as_ref().err()).collect();
    let mut wish: Option<(i32, String)> = None;
    for reading in &good {
        if wish.as_ref().is_none_or(|(replicas, _)| reading.replicas > *replicas) {
            wish = Some((reading.replicas, reading.name.clone()));
        }
    }
    let unread = bad.first().map(|first| {
        let (count, all) = (bad.len(), readings.len());
        format!("invalid metrics ({count} invalid out of {all}), first error is: {}", first.error)
    });
    let stuck = good.is_empty() || wish.as_ref().is_some_and(|(replicas, _)| *replicas < current);
    let first = bad.first().filter(|_| stuck);
    let reason = first.map(|first| {
        let text = format!("the HPA was unable to compute the replica count: {}", first.error);
        (first.reason, text)
    });
    if reason.is_some() {
        wish = None;
    }
    let metrics = good.iter().map(|reading| reading.status.clone()).collect();
    Combined { wish, unread, reason, metrics }
}

/// The number of replicas to have, from a wish that metrics make.
pub fn decide(
    scaler: &mut HorizontalPodAutoscaler,
    current: i32,
    (wish, metric): (i32, &str),
    history: &mut History,
    at: Duration,
    now: Timestamp,
) -> Wanted {
    let text = format!("the HPA was able to successfully calculate a replica count from {metric}");
    set_condition(scaler, "ScalingActive", true, "ValidMetricFound", &text, now);
    let reason = match wish.cmp(&current) {
        std::cmp::Ordering::Greater => format!("{metric} above target"),
        std::cmp::Ordering::Less => "All metrics below target".to_owned(),
        std::cmp::Ordering::Equal => String::new(),
    };
    let limits = Limits {
        least: scaler.spec.min_replicas.unwrap_or(1),
        most: scaler.spec.max_replicas,
        behavior: scaler.spec.behavior.clone().unwrap_or_default(),
    };
    let held = stabilize(scaler, &limits.behavior, wish, current, history, at, now);
    let (replicas, why, text) = limits.rate(held, current, history, at);
    set_condition(scaler, "ScalingLimited", replicas != held, why, text, now);
    Wanted { replicas, reason }
}

/// The autoscalers of a namespace that scale any of these pods, as Go prints such a list's entries.
pub fn scaling(selectors: &BTreeMap<Key, Selector>, namespace: &str, pods: &[Arc<Pod>]) -> Vec<String> {
    let of_any =
        |selector: &Selector| pods.iter().any(|pod| selector.matches_opt(pod.metadata.labels.as_ref()));
    let here = selectors.iter().filter(|(key, selector)| &*key.namespace == namespace && of_any(selector));
    here.map(|(key, _)| format!("{{{} {}}}", key.name, key.namespace)).collect()
}

/// A number outside of the limits needs no metrics.
pub fn out_of_limits(scaler: &HorizontalPodAutoscaler, current: i32) -> Option<Wanted> {
    let (least, most) = (scaler.spec.min_replicas.unwrap_or(1), scaler.spec.max_replicas);
    let wanted = |replicas, reason: &str| Some(Wanted { replicas, reason: reason.to_owned() });
    if current > most {
        wanted(most, "Current number of replicas above Spec.MaxReplicas")
    } else if current < least {
        wanted(least, "Current number of replicas below Spec.MinReplicas")
    } else {
        None
    }
}

/// Holds a wish back by recent ones.
fn stabilize(
    scaler: &mut HorizontalPodAutoscaler,
    behavior: &HorizontalPodAutoscalerBehavior,
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
    let up_window = seconds(behavior.scale_up.as_ref(), Duration::ZERO);
    let down_window = seconds(behavior.scale_down.as_ref(), DOWN_WINDOW);
    let within = |window: Duration| {
        let recent = history.wishes.iter().filter(move |(when, _)| at.saturating_sub(*when) < window);
        recent.map(|(_, wish)| *wish)
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
    let (reason, text) = if held == wish {
        ("ReadyForNewScale", "recommended size matches current size")
    } else if wish >= current {
        (
            "ScaleUpStabilized",
            "recent recommendations were lower than current one, applying the lowest recent recommendation",
        )
    } else {
        (
            "ScaleDownStabilized",
            "recent recommendations were higher than current one, applying the highest recent recommendation",
        )
    };
    set_condition(scaler, "AbleToScale", true, reason, text, now);
    held
}

/// How far and how fast the number may change.
struct Limits {
    least: i32,
    most: i32,
    behavior: HorizontalPodAutoscalerBehavior,
}

impl Limits {
    /// The number that is allowed now, and why it is no other.
    fn rate(
        &self,
        held: i32,
        current: i32,
        history: &History,
        at: Duration,
    ) -> (i32, &'static str, &'static str) {
        let within = ("DesiredWithinRange", "the desired count is within the acceptable range");
        if held > current {
            let limit = bound(self.behavior.scale_up.as_ref(), current, history, at, true).max(current);
            let (allowed, why, text) = if self.most > limit {
                let text = "the desired replica count is increasing faster than the maximum scale rate";
                (limit, "ScaleUpLimit", text)
            } else {
                (
                    self.most,
                    "TooManyReplicas",
                    "the desired replica count is more than the maximum replica count",
                )
            };
            if held > allowed {
                return (allowed, why, text);
            }
        } else if held < current {
            let limit = bound(self.behavior.scale_down.as_ref(), current, history, at, false).min(current);
            let (allowed, why, text) = if self.least < limit {
                let text = "the desired replica count is decreasing faster than the maximum scale rate";
                (limit, "ScaleDownLimit", text)
            } else {
                (
                    self.least,
                    "TooFewReplicas",
                    "the desired replica count is less than the minimum replica count",
                )
            };
            if held < allowed {
                return (allowed, why, text);
            }
        }
        (held, within.0, within.1)
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

    fn scaler(behavior: serde_json::Value) -> HorizontalPodAutoscaler {
        let spec = json!({"minReplicas": 2, "maxReplicas": 20, "behavior": behavior,
            "scaleTargetRef": {"kind": "Deployment", "name": "d"}});
        serde_json::from_value(json!({"spec": spec})).expect("valid")
    }

    #[test]
    fn limits_windows_and_policies() {
        let mut scaler = scaler(json!({}));
        let mut history = History::default();
        let mut ask = |replicas: i32, current: i32, second: u64| {
            let at = Duration::from_secs(second);
            let wish = (replicas, "cpu");
            let wanted = decide(&mut scaler, current, wish, &mut history, at, Timestamp::UNIX_EPOCH).replicas;
            history.note(wanted - current, at);
            let status = scaler.status.clone().unwrap_or_default();
            let limited = status.conditions.unwrap_or_default().into_iter();
            let limited = limited.filter(|condition| condition.type_ == "ScalingLimited");
            (wanted, limited.filter_map(|condition| condition.reason).collect::<String>())
        };
        let is = |wanted: i32, reason: &str| (wanted, reason.to_owned());
        assert_eq!(ask(10, 3, 1_000), is(7, "ScaleUpLimit"), "at most four more in 15 s");
        assert_eq!(ask(10, 7, 1_030), is(10, "DesiredWithinRange"));
        assert_eq!(ask(1, 10, 1_060), is(10, "DesiredWithinRange"), "recent wishes were higher");
        assert_eq!(ask(1, 10, 1_400), is(2, "TooFewReplicas"), "the minimum");
        assert_eq!(ask(90, 15, 1_500), is(20, "TooManyReplicas"), "the maximum");
        assert_eq!(out_of_limits(&scaler, 30).map(|wanted| wanted.replicas), Some(20));
        assert_eq!(out_of_limits(&scaler, 1).map(|wanted| wanted.replicas), Some(2));
        assert!(out_of_limits(&scaler, 2).is_none());
    }

    #[test]
    fn behavior_is_kept() {
        let mut scaler = scaler(json!({
            "scaleUp": {"stabilizationWindowSeconds": 60, "selectPolicy": "Min", "tolerance": "200m", "policies": [
                {"type": "Pods", "value": 1, "periodSeconds": 15}, {"type": "Percent", "value": 100, "periodSeconds": 15}]},
            "scaleDown": {"selectPolicy": "Disabled"}}));
        let tolerance = tolerance(scaler.spec.behavior.as_ref());
        assert!(tolerance.holds(1.15) && !tolerance.holds(0.85));
        let mut history = History::default();
        let mut ask = |replicas: i32, current: i32, second: u64| {
            let at = Duration::from_secs(second);
            decide(&mut scaler, current, (replicas, "m"), &mut history, at, Timestamp::UNIX_EPOCH).replicas
        };
        assert_eq!(ask(5, 5, 0), 5);
        assert_eq!(ask(9, 5, 30), 5, "a minute ago fewer were wished for");
        assert_eq!(ask(9, 5, 61), 6, "one at a time");
        assert_eq!(ask(2, 5, 600), 5, "never down");
    }

    #[test]
    fn the_number_at_the_first_look_counts_as_wished_for() {
        let mut scaler = scaler(json!({}));
        let mut history = History::starting(8, Duration::from_secs(1_000));
        let mut ask = |second: u64| {
            let at = Duration::from_secs(second);
            decide(&mut scaler, 8, (2, "cpu"), &mut history, at, Timestamp::UNIX_EPOCH).replicas
        };
        assert_eq!((ask(1_000), ask(1_299), ask(1_301)), (8, 8, 2));
    }

    #[test]
    fn several_autoscalers_of_the_same_pods_are_found() {
        let selector = |text: &str| Selector::parse(text).expect("a selector");
        let selectors = BTreeMap::from([
            (Key::new("n", "a"), selector("app=web")),
            (Key::new("n", "b"), selector("app in (web,db)")),
            (Key::new("n", "c"), selector("app=db")),
            (Key::new("o", "d"), selector("app=web")),
        ]);
        let labels = Some(BTreeMap::from([("app".to_owned(), "web".to_owned())]));
        let pod = Arc::new(Pod {
            metadata: api::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                labels,
                ..Default::default()
            },
            ..Pod::default()
        });
        assert_eq!(scaling(&selectors, "n", &[pod]), ["{a n}", "{b n}"]);
        assert!(scaling(&selectors, "n", &[]).is_empty());
    }

    #[test]
    fn unknown_metrics_only_keep_from_shrinking() {
        let good = |replicas| Ok(Reading { replicas, name: "cpu".into(), status: MetricStatus::default() });
        let bad = || Err(Unread { reason: "FailedGetPodsMetric", error: "no adapter".into() });
        let check = |readings: &[Result<Reading, Unread>], current, wish: Option<i32>, unread: bool| {
            let combined = combine(readings, current);
            assert_eq!(combined.wish.map(|wish| wish.0), wish, "{readings:?}");
            assert_eq!((combined.unread.is_some(), combined.reason.is_some()), (unread, wish.is_none()));
        };
        check(&[good(3), good(5)], 4, Some(5), false);
        check(&[good(5), bad()], 4, Some(5), true);
        check(&[good(3), bad()], 4, None, true);
        check(&[bad()], 4, None, true);
        let text = "invalid metrics (1 invalid out of 2), first error is: no adapter";
        assert_eq!(combine(&[good(5), bad()], 4).unread.as_deref(), Some(text));
    }
}
