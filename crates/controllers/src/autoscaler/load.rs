//! The load of pods and what it says about how many there should be, as upstream's replica calculator.

use std::collections::BTreeMap;

use api::k8s::api::core::v1::{Container, Pod};
use api::k8s::apimachinery::pkg::api::resource::Quantity;
use api::k8s::apimachinery::pkg::apis::meta::v1::Time;
use client::Meta;
use jiff::Timestamp;

use super::usage::Usage;
use crate::pods;

/// A pod younger than this is judged by its CPU only when it is ready, seconds.
const INITIAL_SECONDS: i64 = 300;
/// A pod that was never ready so long after its start may have been ready before, seconds.
const READINESS_SECONDS: i64 = 30;

/// What is known about one pod.
#[derive(Clone, Debug, PartialEq)]
pub enum PodLoad {
    /// It does not count: going or failed.
    Ignored,
    /// It is starting: its usage says nothing yet.
    Unready {
        /// Thousandths.
        request: i64,
    },
    /// It should have usage but has none.
    Missing {
        /// Thousandths.
        request: i64,
    },
    /// It counts.
    Known {
        /// Thousandths.
        used: i64,
        /// Thousandths.
        request: i64,
    },
}

/// How far from one a ratio may be before anything changes, upwards and downwards.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Above one.
    pub up: f64,
    /// Below one.
    pub down: f64,
}

impl Default for Tolerance {
    fn default() -> Self {
        Tolerance { up: 0.1, down: 0.1 }
    }
}

impl Tolerance {
    /// Whether a ratio changes nothing.
    pub fn holds(self, ratio: f64) -> bool {
        (1.0 - self.down..=1.0 + self.up).contains(&ratio)
    }
}

/// The load of a pod by a resource; `container` limits it to one container. An error when a request is missing that
/// is needed.
pub fn of(
    pod: &Pod,
    usage: Option<&Usage>,
    resource: &str,
    container: Option<&str>,
    with_requests: bool,
    now: Timestamp,
) -> Result<PodLoad, String> {
    let request = if with_requests { request(pod, resource, container)? } else { 0 };
    if pod.is_deleting() || pods::phase(pod) == "Failed" {
        return Ok(PodLoad::Ignored);
    }
    if pods::phase(pod) == "Pending" {
        return Ok(PodLoad::Unready { request });
    }
    let used = usage.and_then(|usage| Some((usage, used(usage, resource, container)?)));
    let Some((usage, used)) = used else { return Ok(PodLoad::Missing { request }) };
    if resource == "cpu" && is_starting(pod, usage, now) {
        return Ok(PodLoad::Unready { request });
    }
    Ok(PodLoad::Known { used, request })
}

/// The load of a pod by a value of its own.
pub fn by_value(pod: &Pod, value: Option<i64>) -> PodLoad {
    match (pods::phase(pod), value) {
        _ if pod.is_deleting() => PodLoad::Ignored,
        ("Failed", _) => PodLoad::Ignored,
        ("Pending", _) => PodLoad::Unready { request: 0 },
        (_, Some(used)) => PodLoad::Known { used, request: 0 },
        (_, None) => PodLoad::Missing { request: 0 },
    }
}

/// What a pod or one of its containers uses; `None` when one of them does not tell.
fn used(usage: &Usage, resource: &str, container: Option<&str>) -> Option<i64> {
    match container {
        Some(name) => usage.containers.get(name)?.get(resource).copied(),
        None => usage.containers.values().map(|amounts| amounts.get(resource).copied()).sum(),
    }
}

fn is_starting(pod: &Pod, usage: &Usage, now: Timestamp) -> bool {
    let status = pod.status.as_ref();
    let started = status.and_then(|status| status.start_time.as_ref()).map(|Time(at)| at.as_second());
    let conditions = status.and_then(|status| status.conditions.as_ref());
    let ready = conditions.into_iter().flatten().find(|condition| condition.type_ == "Ready");
    let (Some(started), Some(ready)) = (started, ready) else { return true };
    let since = ready.last_transition_time.as_ref().map_or(0, |Time(at)| at.as_second());
    let unready = ready.status == "False";
    if started + INITIAL_SECONDS > now.as_second() {
        // A measurement that began before the pod was ready tells of its start.
        return unready || usage.at.as_second() < since + usage.window_seconds;
    }
    unready && started + READINESS_SECONDS > since
}

fn request(pod: &Pod, resource: &str, container: Option<&str>) -> Result<i64, String> {
    let spec = pod.spec.as_ref().ok_or("the pod has no specification")?;
    let milli = |quantity: &Quantity| quantity.0.parse::<api::Quantity>().ok().map(|q| q.milli_value());
    let whole = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    if let (Some(requests), None) = (whole.filter(|requests| !requests.is_empty()), container) {
        let found = requests.get(resource).and_then(milli);
        return found
            .ok_or_else(|| format!("missing pod-level request for {resource} in Pod {}", pod.name()));
    }
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let all = spec.containers.iter().chain(sidecars);
    let wanted: Vec<&Container> = all.filter(|one| container.is_none_or(|only| only == one.name)).collect();
    if let (Some(name), true) = (container, wanted.is_empty()) {
        return Err(format!("container {name} not found in Pod {}", pod.name()));
    }
    let one = |container: &&Container| {
        let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        requests.and_then(|requests| requests.get(resource)).and_then(milli).ok_or_else(|| {
            format!("missing request for {resource} in container {} of Pod {}", container.name, pod.name())
        })
    };
    wanted.iter().map(one).sum()
}

/// The goal a metric sets for pods.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// Percent of the requests.
    Utilization(i32),
    /// Thousandths for each pod.
    Average(i64),
}

/// What a load asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Asked {
    /// This many pods.
    pub replicas: i32,
    /// The present utilization in percent.
    pub percent: i64,
    /// The present average, thousandths.
    pub average: i64,
}

/// How many pods their load asks for.
pub fn replicas(goal: Goal, loads: &[PodLoad], current: i32, tolerance: Tolerance) -> Result<Asked, String> {
    let (mut entries, mut unready, mut missing) = (Vec::new(), Vec::new(), Vec::new());
    for load in loads {
        match *load {
            PodLoad::Ignored => {}
            PodLoad::Unready { request } => unready.push((0, request)),
            PodLoad::Missing { request } => missing.push((0, request)),
            PodLoad::Known { used, request } => entries.push((used, request)),
        }
    }
    if loads.is_empty() {
        return Err("no pods returned by selector while calculating replica count".to_owned());
    }
    if entries.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".to_owned());
    }
    let ratio = ratio(goal, &entries);
    let used: i64 = entries.iter().map(|entry| entry.0).sum();
    let average = used / i64::try_from(entries.len()).unwrap_or(1);
    #[allow(clippy::cast_possible_truncation, reason = "a percentage")]
    let percent = (utilization(&entries) * 100.0) as i64;
    let asked = |replicas| Ok(Asked { replicas, percent, average });
    let up = ratio > 1.0;
    let doubtful = up && !unready.is_empty();
    if missing.is_empty() && !doubtful {
        return asked(if tolerance.holds(ratio) { current } else { ceil(ratio * len(&entries)) });
    }
    // Doubtful pods damp the change: idle when more are asked for, fully used when fewer are.
    let full = |request: i64| match goal {
        Goal::Average(average) => average,
        Goal::Utilization(percent) => request * i64::from(percent.max(100)) / 100,
    };
    for (_, request) in missing {
        entries.push((if ratio < 1.0 { full(request) } else { 0 }, request));
    }
    if doubtful {
        entries.append(&mut unready);
    }
    let damped = self::ratio(goal, &entries);
    let crossed = (ratio < 1.0 && damped > 1.0) || (ratio > 1.0 && damped < 1.0);
    if tolerance.holds(damped) || crossed {
        return asked(current);
    }
    let count = ceil(damped * len(&entries));
    let turned = (damped < 1.0 && count > current) || (damped > 1.0 && count < current);
    asked(if turned { current } else { count })
}

/// How many pods a number asks for that is not any pod's own; `ready` pods share it.
pub fn by_ratio(ratio: f64, current: i32, ready: usize, tolerance: Tolerance) -> i32 {
    match current {
        0 => ceil(ratio),
        _ if tolerance.holds(ratio) => current,
        #[allow(clippy::cast_precision_loss, reason = "a number of pods")]
        _ => ceil(ratio * ready as f64),
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts and amounts far below 2^52")]
fn utilization(entries: &[(i64, i64)]) -> f64 {
    let (used, request): (i64, i64) = entries.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    used as f64 / request.max(1) as f64
}

#[allow(clippy::cast_precision_loss, reason = "counts and amounts far below 2^52")]
fn ratio(goal: Goal, entries: &[(i64, i64)]) -> f64 {
    match goal {
        Goal::Utilization(percent) => (utilization(entries) * 100.0).trunc() / f64::from(percent.max(1)),
        Goal::Average(average) => {
            let used: i64 = entries.iter().map(|entry| entry.0).sum();
            used as f64 / len(entries) / average.max(1) as f64
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "a number of pods")]
fn len(entries: &[(i64, i64)]) -> f64 {
    entries.len().max(1) as f64
}

/// Rounds up; what is too large is the largest number.
#[allow(clippy::cast_possible_truncation, reason = "saturates")]
pub fn ceil(number: f64) -> i32 {
    number.ceil() as i32
}

/// Pods that run and are ready.
pub fn ready(pods: &[std::sync::Arc<Pod>]) -> usize {
    pods.iter().filter(|pod| pods::phase(pod) == "Running" && pods::is_ready(pod)).count()
}

/// Usage of pods by name.
pub type UsageByPod = BTreeMap<String, Usage>;

#[cfg(test)]
mod tests {
    use super::*;
    use api::wire::Wire;
    use serde_json::json;

    #[test]
    fn load_decides_and_doubt_damps() {
        let known = |used| PodLoad::Known { used, request: 1_000 };
        let goal = Goal::Utilization(50);
        let tolerance = Tolerance::default();
        let check = |loads: &[PodLoad]| replicas(goal, loads, 3, tolerance).map(|asked| asked.replicas);
        assert_eq!(check(&[known(500), known(520), known(480)]), Ok(3));
        assert_eq!(check(&[known(900), known(900), known(900)]), Ok(6));
        assert_eq!(check(&[known(100), known(100), known(100)]), Ok(1));
        let unready = PodLoad::Unready { request: 1_000 };
        assert_eq!(check(&[known(900), known(900), unready]), Ok(4));
        let missing = PodLoad::Missing { request: 1_000 };
        assert_eq!(check(&[known(100), known(100), missing]), Ok(3));
        assert!(check(&[PodLoad::Ignored]).is_err() && check(&[]).is_err());
        let average = replicas(Goal::Average(100), &[known(150), known(150)], 2, tolerance);
        assert_eq!(average.map(|asked| (asked.replicas, asked.average)), Ok((3, 150)));
        let patient = Tolerance { up: 1.0, down: 0.1 };
        assert_eq!(replicas(goal, &[known(900)], 1, patient).map(|asked| asked.replicas), Ok(1));
        assert_eq!((by_ratio(2.5, 2, 2, tolerance), by_ratio(1.05, 2, 2, tolerance)), (5, 2));
        assert_eq!(by_ratio(2.5, 0, 0, tolerance), 3);
    }

    #[test]
    fn a_start_is_no_load() {
        let pod = |ready: &str, since: i64| {
            let at = |second: i64| Timestamp::from_second(second).expect("a time").to_string();
            Pod::from_tree(&json!({"metadata": {"name": "p"}, "spec": {"containers": [
                {"name": "c", "resources": {"requests": {"cpu": "100m"}}}]},
                "status": {"phase": "Running", "startTime": at(1_000), "conditions": [
                    {"type": "Ready", "status": ready, "lastTransitionTime": at(since)}]}}))
            .expect("a pod")
        };
        let usage = |at: i64| Usage {
            containers: [("c".to_owned(), [("cpu".to_owned(), 50)].into())].into(),
            at: Timestamp::from_second(at).expect("a time"),
            window_seconds: 10,
        };
        for (ready, since, at, now, known) in [
            ("True", 1_010, 1_015, 1_016, false),
            ("True", 1_010, 1_020, 1_021, true),
            ("False", 1_010, 1_050, 1_051, false),
            ("True", 1_010, 1_400, 1_401, true),
            ("False", 1_010, 1_400, 1_401, false),
            ("False", 1_100, 1_400, 1_401, true),
        ] {
            let now = Timestamp::from_second(now).expect("a time");
            let load = of(&pod(ready, since), Some(&usage(at)), "cpu", None, true, now).expect("requests");
            assert_eq!(matches!(load, PodLoad::Known { .. }), known, "{ready} {since} {at}");
        }
        let none = of(&pod("True", 1_010), None, "memory", Some("c"), true, Timestamp::UNIX_EPOCH);
        assert_eq!(none, Err("missing request for memory in container c of Pod p".to_owned()));
        let other = of(&pod("True", 1_010), None, "cpu", Some("d"), true, Timestamp::UNIX_EPOCH);
        assert_eq!(other, Err("container d not found in Pod p".to_owned()));
    }
}
