//! The load of one pod and what it says about how many pods there should be, as upstream's replica calculator.

use std::collections::BTreeMap;

use api::k8s::api::core::v1::Pod;
use api::k8s::apimachinery::pkg::apis::meta::v1::Time;
use client::Meta;
use jiff::Timestamp;

use crate::pods;

/// A ratio this close to one changes nothing.
pub const TOLERANCE: f64 = 0.1;
/// A pod that became ready less than this long after its start is not yet judged by its CPU, seconds.
const INITIAL_SECONDS: i64 = 300;

/// A pod's usage by container and resource, in thousandths.
pub type Usage = BTreeMap<String, BTreeMap<String, i64>>;

/// What is known about one pod.
#[derive(Clone, Debug, PartialEq)]
pub enum PodLoad {
    /// It does not count: going or failed.
    Ignored,
    /// It is starting: its usage says nothing yet.
    Unready {
        /// Thousandths.
        request: Option<i64>,
    },
    /// It should have usage but has none.
    Missing {
        /// Thousandths.
        request: Option<i64>,
    },
    /// It counts.
    Known {
        /// Thousandths.
        used: i64,
        /// Thousandths.
        request: Option<i64>,
    },
}

/// The load of a pod by one resource; `container` limits it to one container.
pub fn of(
    pod: &Pod,
    usage: Option<&Usage>,
    resource: &str,
    container: Option<&str>,
    now: Timestamp,
) -> PodLoad {
    if pod.is_deleting() || pods::phase(pod) == "Failed" {
        return PodLoad::Ignored;
    }
    let request = request(pod, resource, container);
    if pods::phase(pod) == "Pending" {
        return PodLoad::Unready { request };
    }
    let Some(usage) = usage else { return PodLoad::Missing { request } };
    if resource == "cpu" && is_starting(pod, now) {
        return PodLoad::Unready { request };
    }
    let wanted = usage.iter().filter(|(name, _)| container.is_none_or(|only| only == name.as_str()));
    let used = wanted.filter_map(|(_, amounts)| amounts.get(resource)).sum();
    PodLoad::Known { used, request }
}

fn is_starting(pod: &Pod, now: Timestamp) -> bool {
    let started =
        pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|Time(at)| at.as_second());
    let Some(started) = started else { return true };
    let fresh = now.as_second() < started + INITIAL_SECONDS;
    fresh && !pods::is_ready(pod)
}

fn request(pod: &Pod, resource: &str, container: Option<&str>) -> Option<i64> {
    let spec = pod.spec.as_ref()?;
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let mut sum = 0;
    for one in
        spec.containers.iter().chain(sidecars).filter(|one| container.is_none_or(|only| only == one.name))
    {
        let requests = one.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        let text = requests.and_then(|requests| requests.get(resource))?;
        sum += text.0.parse::<api::Quantity>().ok()?.milli_value();
    }
    Some(sum)
}

/// The goal a metric sets.
#[derive(Clone, Debug, PartialEq)]
pub enum Goal {
    /// Percent of the requests.
    Utilization(i32),
    /// Thousandths for each pod.
    Average(i64),
}

/// How many pods the load asks for, and the present utilization (percent) or average (thousandths).
pub fn replicas(goal: &Goal, loads: &[PodLoad], current: i32) -> Result<(i32, i64), String> {
    let (mut entries, mut unready, mut missing) = (Vec::new(), Vec::new(), Vec::new());
    for load in loads {
        let (request, list, used) = match load {
            PodLoad::Ignored => continue,
            PodLoad::Unready { request } => (request, &mut unready, 0),
            PodLoad::Missing { request } => (request, &mut missing, 0),
            PodLoad::Known { used, request } => (request, &mut entries, *used),
        };
        let weight = match goal {
            Goal::Average(_) => 1,
            Goal::Utilization(_) => request.ok_or("missing request for a container of a pod")?,
        };
        list.push((used, weight));
    }
    if entries.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".to_owned());
    }
    let present = share(goal, &entries);
    let ratio = present / target(goal);
    #[allow(clippy::cast_possible_truncation, reason = "a percentage or an amount")]
    let shown = present as i64;
    let up = ratio > 1.0;
    if missing.is_empty() && (unready.is_empty() || !up) {
        let count = if close(ratio) { current } else { ceil(ratio * len(&entries)) };
        return Ok((count, shown));
    }
    // Doubtful pods damp the change: idle when more are asked for, fully used when fewer are.
    let full = |weight: i64| match goal {
        Goal::Average(average) => *average,
        Goal::Utilization(percent) => weight * i64::from((*percent).max(100)) / 100,
    };
    for (_, weight) in missing {
        entries.push((if up { 0 } else { full(weight) }, weight));
    }
    if up {
        entries.extend(unready.into_iter().map(|(_, weight)| (0, weight)));
    }
    let damped = share(goal, &entries) / target(goal);
    if close(damped) || (damped > 1.0) != up {
        return Ok((current, shown));
    }
    let count = ceil(damped * len(&entries));
    let turned = (damped < 1.0 && count > current) || (damped > 1.0 && count < current);
    Ok((if turned { current } else { count }, shown))
}

#[allow(clippy::cast_precision_loss, reason = "counts and amounts far below 2^52")]
fn share(goal: &Goal, entries: &[(i64, i64)]) -> f64 {
    let (used, weight): (i64, i64) = entries.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    let weight = weight.max(1) as f64;
    match goal {
        Goal::Utilization(_) => used as f64 * 100.0 / weight,
        Goal::Average(_) => used as f64 / weight,
    }
}

#[allow(clippy::cast_precision_loss, reason = "amounts far below 2^52")]
fn target(goal: &Goal) -> f64 {
    match goal {
        Goal::Utilization(percent) => f64::from((*percent).max(1)),
        Goal::Average(average) => (*average).max(1) as f64,
    }
}

#[allow(clippy::cast_precision_loss, reason = "a number of pods")]
fn len(entries: &[(i64, i64)]) -> f64 {
    entries.len() as f64
}

fn close(ratio: f64) -> bool {
    (ratio - 1.0).abs() <= TOLERANCE
}

#[allow(clippy::cast_possible_truncation, reason = "saturates")]
fn ceil(number: f64) -> i32 {
    number.ceil() as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_decides_and_doubt_damps() {
        let known = |used| PodLoad::Known { used, request: Some(1_000) };
        let goal = Goal::Utilization(50);
        let check = |loads: &[PodLoad]| replicas(&goal, loads, 3).map(|(count, _)| count);
        assert_eq!(check(&[known(500), known(520), known(480)]), Ok(3));
        assert_eq!(check(&[known(900), known(900), known(900)]), Ok(6));
        assert_eq!(check(&[known(100), known(100), known(100)]), Ok(1));
        let unready = PodLoad::Unready { request: Some(1_000) };
        assert_eq!(check(&[known(900), known(900), unready]), Ok(4));
        let missing = PodLoad::Missing { request: Some(1_000) };
        assert_eq!(check(&[known(100), known(100), missing]), Ok(3));
        assert!(check(&[PodLoad::Ignored]).is_err());
        assert_eq!(replicas(&Goal::Average(100), &[known(150), known(150)], 2), Ok((3, 150)));
    }
}
