//! Plugins about CPU, memory and counted resources.

use super::{Cycle, MAX_SCORE, Refusal};
use crate::pod::{PodInfo, Resources};
use crate::snapshot::NodeInfo;

/// Does the pod fit?
pub const FIT: &str = "NodeResourcesFit";
/// Keeps CPU and memory use in proportion.
pub const BALANCED: &str = "NodeResourcesBalancedAllocation";

/// NodeResourcesFit.
pub fn fit(cycle: &Cycle<'_>, node: &NodeInfo) -> Option<Refusal> {
    let (reasons, unresolvable) = shortages(cycle.pod, node);
    (!reasons.is_empty()).then_some(Refusal { plugin: FIT, reasons, unresolvable })
}

/// What the node lacks for the pod, and whether even an empty node would.
fn shortages(pod: &PodInfo, node: &NodeInfo) -> (Vec<String>, bool) {
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
    for (name, amount) in &want.scalar {
        let of = |resources: &Resources| resources.scalar.get(name).copied().unwrap_or(0);
        check(name, *amount, of(have), of(used));
    }
    (reasons, unresolvable)
}

/// NodeResourcesFit's score, strategy LeastAllocated over CPU and memory.
pub fn score_least_allocated(cycle: &Cycle<'_>, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
    let free = |want: i64, used: i64, have: i64| {
        let after = used + want;
        (have > 0).then(|| if after > have { 0 } else { (have - after) * MAX_SCORE / have })
    };
    let score = |node: &&NodeInfo| {
        let parts = [
            free(cycle.pod.nonzero.0, node.nonzero.0, node.allocatable.milli_cpu),
            free(cycle.pod.nonzero.1, node.nonzero.1, node.allocatable.memory),
        ];
        let count = i64::try_from(parts.iter().flatten().count()).unwrap_or(1);
        parts.iter().flatten().sum::<i64>() / count.max(1)
    };
    Some(nodes.iter().map(score).collect())
}

fn balance(cpu: i64, memory: i64, node: &NodeInfo) -> i64 {
    let share = |used: i64, have: i64| (have > 0).then(|| (used as f64 / have as f64).min(1.0));
    let shares = (share(cpu, node.allocatable.milli_cpu), share(memory, node.allocatable.memory));
    let deviation = if let (Some(cpu), Some(memory)) = shares { ((cpu - memory) / 2.0).abs() } else { 0.0 };
    ((1.0 - deviation) * MAX_SCORE as f64) as i64
}

/// NodeResourcesBalancedAllocation: how much the pod improves the balance of the node.
pub fn score_balanced(cycle: &Cycle<'_>, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
    let want = &cycle.pod.requests;
    if want.milli_cpu == 0 && want.memory == 0 {
        return None;
    }
    let score = |node: &&NodeInfo| {
        let used = &node.requested;
        let with = balance(used.milli_cpu + want.milli_cpu, used.memory + want.memory, node);
        let without = balance(used.milli_cpu, used.memory, node);
        MAX_SCORE / 2 + (MAX_SCORE / 2 + with - without) / 2
    };
    Some(nodes.iter().map(score).collect())
}
