//! Plugins about CPU, memory and counted resources.

use super::{Cycle, MAX_SCORE, Reasons, Refusal};
use crate::pod::{PodInfo, Resources};
use crate::profile::Strategy;
use crate::snapshot::NodeInfo;

/// Does the pod fit?
pub const FIT: &str = "NodeResourcesFit";
/// Keeps CPU and memory use in proportion.
pub const BALANCED: &str = "NodeResourcesBalancedAllocation";

/// NodeResourcesFit.
pub fn fit(cycle: &Cycle<'_>, node: &NodeInfo) -> Option<Refusal> {
    if has_room(cycle.pod, node, &cycle.settings.ignored) {
        return None;
    }
    let (reasons, unresolvable) = shortages(cycle.pod, node, &cycle.settings.ignored);
    (!reasons.is_empty()).then_some(Refusal { plugin: FIT, reasons: Reasons::Many(reasons), unresolvable })
}

/// True when the node lacks nothing for the pod.
pub fn has_room(pod: &PodInfo, node: &NodeInfo, ignored: &[String]) -> bool {
    let (want, have, used) = (&pod.requests, &node.allocatable, &node.requested);
    let fits = |want: i64, have: i64, used: i64| want <= 0 || want <= have - used;
    i64::try_from(node.pods.len()).unwrap_or(i64::MAX) < node.max_pods
        && fits(want.milli_cpu, have.milli_cpu, used.milli_cpu)
        && fits(want.memory, have.memory, used.memory)
        && fits(want.ephemeral, have.ephemeral, used.ephemeral)
        && (want.scalar.is_empty() || shortages(pod, node, ignored).0.is_empty())
}

/// What the node lacks for the pod, and whether even an empty node would.
pub fn shortages(pod: &PodInfo, node: &NodeInfo, ignored: &[String]) -> (Vec<String>, bool) {
    let (mut reasons, mut unresolvable) = (Vec::new(), false);
    if i64::try_from(node.pods.len()).unwrap_or(i64::MAX) + 1 > node.max_pods {
        reasons.push("Too many pods".to_owned());
    }
    let (want, have, used) = (&pod.requests, &node.allocatable, &node.requested);
    let mut check = |name: &str, want: i64, have: i64, used: i64| {
        if want > 0 && want > have - used {
            reasons.push(format!("Insufficient {name}"));
            unresolvable |= want > have;
        }
    };
    check("cpu", want.milli_cpu, have.milli_cpu, used.milli_cpu);
    check("memory", want.memory, have.memory, used.memory);
    check("ephemeral-storage", want.ephemeral, have.ephemeral, used.ephemeral);
    let is_ignored = |name: &str| {
        let group = name.split_once('/').map(|(group, _)| group);
        ignored.iter().any(|one| one == name || Some(one.as_str()) == group)
    };
    for (name, amount) in want.scalar.iter().filter(|(name, _)| !is_ignored(name)) {
        let of = |resources: &Resources| resources.scalar.get(name).copied().unwrap_or(0);
        check(name, *amount, of(have), of(used));
    }
    (reasons, unresolvable)
}

/// Wanted, used and allocatable amounts of a resource as scoring counts them.
fn amounts(pod: &PodInfo, node: &NodeInfo, name: &str, nonzero: bool) -> (i64, i64, i64) {
    let of = |resources: &Resources| resources.scalar.get(name).copied().unwrap_or(0);
    match name {
        "cpu" if nonzero => (pod.nonzero.0, node.nonzero.0, node.allocatable.milli_cpu),
        "cpu" => (pod.requests.milli_cpu, node.requested.milli_cpu, node.allocatable.milli_cpu),
        "memory" if nonzero => (pod.nonzero.1, node.nonzero.1, node.allocatable.memory),
        "memory" => (pod.requests.memory, node.requested.memory, node.allocatable.memory),
        "ephemeral-storage" => (pod.requests.ephemeral, node.requested.ephemeral, node.allocatable.ephemeral),
        _ => (of(&pod.requests), of(&node.requested), of(&node.allocatable)),
    }
}

/// The score of one resource when `after` of `have` would be used.
fn score_of(strategy: &Strategy, after: i64, have: i64) -> i64 {
    match strategy {
        Strategy::LeastAllocated if after > have => 0,
        Strategy::LeastAllocated => (have - after) * MAX_SCORE / have,
        Strategy::MostAllocated => after.min(have) * MAX_SCORE / have,
        Strategy::RequestedToCapacityRatio(points) => shaped(points, after.min(have) * 100 / have),
    }
}

/// The score between the points to the left and right of `used` percent; scores of points are 0 to 10.
fn shaped(points: &[(i64, i64)], used: i64) -> i64 {
    let scaled = |score: i64| score * MAX_SCORE / 10;
    let mut before: Option<(i64, i64)> = None;
    for (at, score) in points {
        if used <= *at {
            return match before {
                None => scaled(*score),
                Some((from, low)) => {
                    scaled(low) + (scaled(*score) - scaled(low)) * (used - from) / (at - from).max(1)
                }
            };
        }
        before = Some((*at, *score));
    }
    points.last().map_or(0, |(_, score)| scaled(*score))
}

/// NodeResourcesFit's score by the profile's strategy.
pub fn score_fit(cycle: &Cycle<'_>, node: &NodeInfo) -> i64 {
    let settings = cycle.settings;
    let (mut sum, mut weights) = (0, 0);
    for (name, weight) in &settings.fit_resources {
        let (want, used, have) = amounts(cycle.pod, node, name, true);
        let counted = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage");
        if have > 0 && (counted || want > 0) {
            sum += weight * score_of(&settings.strategy, used + want, have);
            weights += weight;
        }
    }
    if weights == 0 { 0 } else { sum / weights }
}

/// How even the use of the resources is: 1 for equal shares.
fn balance(shares: &[f64]) -> f64 {
    let deviation = match shares {
        [] | [_] => 0.0,
        [a, b] => ((a - b) / 2.0).abs(),
        many => {
            let count = many.len() as f64;
            let mean = many.iter().sum::<f64>() / count;
            (many.iter().map(|share| (share - mean).powi(2)).sum::<f64>() / count).sqrt()
        }
    };
    1.0 - deviation
}

/// NodeResourcesBalancedAllocation: how much the pod improves the balance of the node.
pub fn score_balanced(cycle: &Cycle<'_>, node: &NodeInfo) -> i64 {
    let names = &cycle.settings.balanced;
    if !names.iter().any(|name| amounts(cycle.pod, node, name, false).0 > 0) {
        return 0;
    }
    let shares = |with: bool| -> Vec<f64> {
        let share = |name: &String| {
            let (want, used, have) = amounts(cycle.pod, node, name, false);
            let used = if with { used + want } else { used };
            (have > 0).then(|| (used as f64 / have as f64).min(1.0))
        };
        names.iter().filter_map(share).collect()
    };
    let level = |with: bool| (balance(&shares(with)) * MAX_SCORE as f64) as i64;
    MAX_SCORE / 2 + (MAX_SCORE / 2 + level(true) - level(false)) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strategies_score_the_share_used() {
        let ratio = Strategy::RequestedToCapacityRatio(vec![(0, 0), (100, 10)]);
        let cases = [
            (Strategy::LeastAllocated, 25, 75),
            (Strategy::MostAllocated, 25, 25),
            (ratio, 25, 25),
            (Strategy::RequestedToCapacityRatio(vec![(0, 10), (50, 2), (100, 0)]), 25, 60),
            (Strategy::LeastAllocated, 200, 0),
        ];
        for (strategy, after, expect) in cases {
            assert_eq!(score_of(&strategy, after, 100), expect, "{strategy:?}");
        }
    }
}
