//! Which pod goes first when something runs out, and what it is told.
//!
//! Must not read anything.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use api::k8s::api::core::v1::Pod;

use super::threshold::Signal;
use crate::amount;
use crate::container::resources::pod_total;
use crate::pods::pod::PodExt;

/// Pods of this priority and above are the system's own.
const CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// A pod that could go.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The pod.
    pub pod: Arc<Pod>,
    /// What it uses of what runs out; `None` when that is unknown.
    pub used: Option<u64>,
    /// What its containers use, by name.
    pub containers: BTreeMap<String, u64>,
}

/// Static pods and the system's own stay.
pub fn is_critical(pod: &Pod) -> bool {
    pod.is_static() || pod.spec().priority.is_some_and(|priority| priority >= CRITICAL_PRIORITY)
}

/// What a pod asked for of what runs out.
fn request(pod: &Pod, signal: Signal) -> u64 {
    let name = match signal {
        Signal::Memory => "memory",
        Signal::NodeFs | Signal::ImageFs => "ephemeral-storage",
        _ => return 0,
    };
    u64::try_from(pod_total(pod, &BTreeMap::new(), name).0 / 1000).unwrap_or(0)
}

/// Puts those first that use more than they asked for, then those of low priority, then those that use most beyond
/// what they asked for. Process ids and inodes are never asked for.
pub fn order(candidates: &mut [Candidate], signal: Signal) {
    candidates.sort_by_cached_key(|candidate| {
        let (used, asked) = (candidate.used, request(&candidate.pod, signal));
        let exceeds = match signal {
            Signal::Pids => true,
            _ => used.is_none_or(|used| used > asked),
        };
        let priority = candidate.pod.spec().priority.unwrap_or(0);
        let beyond = used.map_or(i128::MAX, |used| i128::from(used) - i128::from(asked));
        (!exceeds, priority, std::cmp::Reverse(beyond), candidate.pod.uid().to_owned())
    });
}

/// What an evicted pod is told.
pub fn message(candidate: &Candidate, signal: Signal, least: u64, available: u64) -> String {
    let shown = |number: u64| match signal.is_bytes() {
        true => amount::bytes_text(i64::try_from(number / 1024 * 1024).unwrap_or(i64::MAX)).0,
        false => number.to_string(),
    };
    let resource = signal.resource();
    let mut text = format!(
        "The node was low on resource: {resource}. Threshold quantity: {}, available: {}. ",
        shown(least),
        shown(available)
    );
    if signal == Signal::Pids {
        return text;
    }
    let key = if signal == Signal::Memory { "memory" } else { "ephemeral-storage" };
    for (name, used) in &candidate.containers {
        let container = candidate.pod.container_named(name);
        let requests = container.and_then(|container| container.resources?.requests);
        let asked = amount::whole_of(requests.as_ref(), key).unwrap_or(0);
        let asked_number = u64::try_from(asked).unwrap_or(0);
        if *used > asked_number {
            let asked = if asked == 0 { "0".to_owned() } else { amount::bytes_text(asked).0 };
            let _ = write!(
                text,
                "Container {name} was using {}, request is {asked}, has larger consumption of {resource}. ",
                shown(*used)
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::wire::Wire;
    use serde_json::json;

    fn candidate(uid: &str, priority: i32, request: &str, used: Option<u64>) -> Candidate {
        let pod = json!({"metadata": {"name": uid, "uid": uid}, "spec": {"priority": priority, "containers": [
            {"name": "c", "resources": {"requests": {"memory": request}}}]}});
        let containers = used.map(|used| ("c".to_owned(), used)).into_iter().collect();
        Candidate { pod: Arc::new(Pod::from_tree(&pod).expect("a pod")), used, containers }
    }

    #[test]
    fn the_greedy_go_first() {
        let mut all = [
            candidate("modest", 0, "1Gi", Some(1 << 20)),
            candidate("greedy", 0, "0", Some(50 << 20)),
            candidate("greedier", 0, "10Mi", Some(80 << 20)),
            candidate("important", 1000, "0", Some(900 << 20)),
            candidate("unknown", 0, "0", None),
        ];
        order(&mut all, Signal::Memory);
        let names: Vec<&str> = all.iter().map(|one| one.pod.uid()).collect();
        assert_eq!(names, ["unknown", "greedier", "greedy", "important", "modest"]);
        assert_eq!(
            message(&all[1], Signal::Memory, 100 << 20, 20 << 20),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 20Mi. \
             Container c was using 80Mi, request is 10Mi, has larger consumption of memory. "
        );
        assert!(is_critical(&candidate("system", 2_000_000_000, "0", None).pod));
        assert!(!is_critical(&all[0].pod));
    }
}
