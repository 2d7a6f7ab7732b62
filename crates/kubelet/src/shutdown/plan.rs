//! In what order pods end when the machine shuts down, and how long each may take.
//!
//! Must not know how they are ended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::k8s::api::core::v1::Pod;

use crate::pods::pod::PodExt;

/// From this priority on, pods are critical to the system.
const CRITICAL: i32 = 2_000_000_000;

/// How long pods of at least a priority may take to end, seconds; by that priority. Empty = a shutdown waits for none.
pub type Periods = BTreeMap<i32, i64>;

/// The periods of `shutdownGracePeriod`, of which `critical` is for the pods that the system needs.
pub fn periods(all: Duration, critical: Duration) -> Periods {
    let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    if all.is_zero() || critical > all {
        return Periods::new();
    }
    Periods::from([(0, seconds(all - critical)), (CRITICAL, seconds(critical))])
}

/// How long all of it may take.
pub fn total(periods: &Periods) -> Duration {
    let sum = periods.values().fold(0_i64, |sum, seconds| sum.saturating_add((*seconds).max(0)));
    Duration::from_secs(sum.unsigned_abs())
}

/// Pods that end together.
#[derive(Clone, Debug)]
pub struct Group {
    /// How long, seconds.
    pub seconds: i64,
    /// Which.
    pub pods: Vec<Arc<Pod>>,
}

impl Group {
    /// How long a pod of it may take to end, seconds: as it wishes, but no longer than the group.
    pub fn grace(&self, pod: &Pod) -> i64 {
        pod.spec().termination_grace_period_seconds.map_or(self.seconds, |own| own.min(self.seconds))
    }
}

/// The pods in the order they end, groups without any left out. A pod belongs to the highest priority that is not
/// above its own; one below all of them to the lowest.
pub fn groups(periods: &Periods, pods: Vec<Arc<Pod>>) -> Vec<Group> {
    let mut out: BTreeMap<i32, Vec<Arc<Pod>>> = BTreeMap::new();
    for pod in pods {
        let priority = pod.spec().priority.unwrap_or(0);
        let at = periods.range(..=priority).next_back().or_else(|| periods.iter().next());
        if let Some((at, _)) = at {
            out.entry(*at).or_default().push(pod);
        }
    }
    out.into_iter()
        .map(|(at, pods)| Group { seconds: periods.get(&at).copied().unwrap_or(0), pods })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, priority: Option<i32>) -> Arc<Pod> {
        let pod = json!({"metadata": {"name": name}, "spec": {"containers": [], "priority": priority}});
        Arc::new(serde_json::from_value(pod).expect("a pod"))
    }

    fn check(periods: &[(i32, i64)], expect: &str) {
        let pods =
            [("a", None), ("b", Some(-5)), ("c", Some(100)), ("d", Some(99)), ("e", Some(2_000_001_000))];
        let pods = pods.map(|(name, priority)| pod(name, priority)).to_vec();
        let shown: Vec<String> = groups(&periods.iter().copied().collect(), pods)
            .iter()
            .map(|group| {
                let names: String = group.pods.iter().map(|pod| pod.name()).collect();
                format!("{names} {}", group.seconds)
            })
            .collect();
        assert_eq!(shown.join(", "), expect);
    }

    #[test]
    fn lower_priorities_end_first() {
        check(&[(0, 20), (CRITICAL, 10)], "abcd 20, e 10");
        check(&[(10, 3), (100, 2), (1_000, 1)], "abd 3, c 2, e 1");
        check(&[], "");
        let seconds = Duration::from_secs;
        assert_eq!(periods(seconds(30), seconds(10)), Periods::from([(0, 20), (CRITICAL, 10)]));
        assert!(periods(seconds(0), seconds(0)).is_empty() && periods(seconds(5), seconds(6)).is_empty());
        assert_eq!(total(&periods(seconds(30), seconds(10))), seconds(30));
    }

    #[test]
    fn a_pod_may_ask_for_less_but_not_for_more() {
        let group = Group { seconds: 20, pods: Vec::new() };
        let with = |seconds: Option<i64>| -> Pod {
            serde_json::from_value(
                json!({"spec": {"containers": [], "terminationGracePeriodSeconds": seconds}}),
            )
            .expect("a pod")
        };
        assert_eq!([Some(5), Some(60), None].map(|own| group.grace(&with(own))), [5, 20, 20]);
    }
}
