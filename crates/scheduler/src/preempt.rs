//! DefaultPreemption: which pods must go so that a more important one fits. Pure; the runner does the writes.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::labels::Selector;

use crate::decide::{Diagnosis, refusal};
use crate::plugins::Cycle;
use crate::pod::PodInfo;
use crate::profile::Profile;
use crate::snapshot::{NodeInfo, Snapshot};

/// How many nodes a preemption looks at, at most.
const MAX_CANDIDATES: usize = 100;

/// A PodDisruptionBudget as preemption reads it.
#[derive(Clone, Debug)]
pub struct Budget {
    /// Its namespace.
    pub namespace: String,
    /// The pods it covers.
    pub selector: Selector,
    /// How many may go now.
    pub allowed: i64,
}

/// A node and the pods to remove from it.
#[derive(Clone, Debug)]
pub struct Preemption {
    /// The node cleared.
    pub node: String,
    /// The pods to delete, most important first.
    pub victims: Vec<Arc<PodInfo>>,
    /// How many of them break a budget.
    pub violations: usize,
}

/// Finds the least harmful preemption, or says why there is none.
pub fn preempt(
    profile: &Profile,
    pod: &PodInfo,
    snapshot: &Snapshot,
    diagnosis: &Diagnosis,
    budgets: &[Budget],
) -> Result<Preemption, String> {
    let message = |reasons: &BTreeMap<String, usize>| {
        let mut parts: Vec<String> =
            reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        parts.sort();
        format!("preemption: 0/{} nodes are available: {}.", diagnosis.total, parts.join(", "))
    };
    let spec = pod.pod.spec.as_ref();
    if spec.and_then(|spec| spec.preemption_policy.as_deref()) == Some("Never") {
        return Err("preemption: not eligible due to preemptionPolicy=Never.".to_owned());
    }
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    if diagnosis.pre_filter.is_some() {
        reasons.insert("Preemption is not helpful for scheduling".to_owned(), diagnosis.total);
        return Err(message(&reasons));
    }
    let mut candidates = Vec::new();
    for (name, refused) in &diagnosis.refusals {
        let Some(node) = snapshot.node(name) else { continue };
        if refused.unresolvable {
            *reasons.entry("Preemption is not helpful for scheduling".to_owned()).or_default() += 1;
            continue;
        }
        if candidates.len() >= MAX_CANDIDATES {
            break;
        }
        match victims_on(profile, pod, snapshot, node, budgets) {
            Ok(found) => candidates.push(found),
            Err(reason) => *reasons.entry(reason).or_default() += 1,
        }
    }
    candidates.into_iter().min_by_key(harm).ok_or_else(|| message(&reasons))
}

/// Smaller is better: budgets broken, highest priority, sum of priorities, count, youngest first.
fn harm(preemption: &Preemption) -> (usize, i32, i64, usize, std::cmp::Reverse<i64>) {
    let highest = preemption.victims.iter().map(|pod| pod.priority).max().unwrap_or(i32::MIN);
    let offset = |pod: &Arc<PodInfo>| i64::from(pod.priority) + i64::from(i32::MAX) + 1;
    let sum = preemption.victims.iter().map(offset).sum();
    let top = preemption.victims.iter().filter(|pod| pod.priority == highest);
    let oldest = top.map(|pod| start_second(pod)).min().unwrap_or(0);
    (preemption.violations, highest, sum, preemption.victims.len(), std::cmp::Reverse(oldest))
}

fn start_second(pod: &PodInfo) -> i64 {
    let start = pod.pod.status.as_ref().and_then(|status| status.start_time.as_ref());
    start.or(pod.pod.metadata.creation_timestamp.as_ref()).map_or(i64::MAX, |time| time.0.as_second())
}

/// True when the pod would fit if the node were `info`.
fn fits(profile: &Profile, pod: &PodInfo, snapshot: &Snapshot, info: &NodeInfo) -> bool {
    let local = pod.spread.is_empty()
        && profile.settings.default_spread.is_none()
        && pod.affinity.is_empty()
        && pod.anti_affinity.is_empty()
        && pod.claims.is_empty()
        && !snapshot.has_anti_affinity();
    if local {
        return refusal(profile, &Cycle::new(&profile.settings, pod, snapshot), info).is_none();
    }
    let mut changed = snapshot.clone();
    changed.change_node(&info.name, |node| *node = info.clone());
    refusal(profile, &Cycle::new(&profile.settings, pod, &changed), info).is_none()
}

fn victims_on(
    profile: &Profile,
    pod: &PodInfo,
    snapshot: &Snapshot,
    node: &NodeInfo,
    budgets: &[Budget],
) -> Result<Preemption, String> {
    let mut info = node.clone();
    let mut lower: Vec<Arc<PodInfo>> =
        node.pods.iter().filter(|other| other.priority < pod.priority).cloned().collect();
    if lower.is_empty() {
        return Err("No preemption victims found for incoming pod".to_owned());
    }
    for victim in &lower {
        info.remove_pod(&victim.uid);
    }
    if !fits(profile, pod, snapshot, &info) {
        let refused = refusal(profile, &Cycle::new(&profile.settings, pod, snapshot), &info);
        let reason = refused.and_then(|refused| refused.reasons.into_iter().next());
        return Err(reason.unwrap_or_else(|| "Preemption is not helpful for scheduling".to_owned()));
    }
    // Put back as many as possible: those whose budget would break first, then by importance.
    lower.sort_by_key(|victim| (std::cmp::Reverse(victim.priority), start_second(victim)));
    let (breaking, rest) = split_by_budget(lower, budgets);
    let (mut victims, mut violations) = (Vec::new(), 0);
    for (candidate, breaks) in
        breaking.into_iter().map(|p| (p, true)).chain(rest.into_iter().map(|p| (p, false)))
    {
        info.add_pod(candidate.clone());
        if !fits(profile, pod, snapshot, &info) {
            info.remove_pod(&candidate.uid);
            violations += usize::from(breaks);
            victims.push(candidate);
        }
    }
    victims.sort_by_key(|victim| std::cmp::Reverse(victim.priority));
    Ok(Preemption { node: node.name.clone(), victims, violations })
}

fn split_by_budget(pods: Vec<Arc<PodInfo>>, budgets: &[Budget]) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
    let mut allowed: Vec<i64> = budgets.iter().map(|budget| budget.allowed).collect();
    pods.into_iter().partition(|pod| {
        let mut breaks = false;
        for (budget, allowed) in budgets.iter().zip(&mut allowed) {
            let covers = budget.namespace == pod.namespace
                && !budget.selector.is_everything()
                && budget.selector.matches_opt(pod.labels());
            if covers {
                *allowed -= 1;
                breaks |= *allowed < 0;
            }
        }
        breaks
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::decide::{Decision, Round, decide};

    fn pod(name: &str, priority: i32, milli: i64) -> Arc<PodInfo> {
        let object = json!({
            "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": name}},
            "spec": {"priority": priority, "containers": [
                {"name": "c", "resources": {"requests": {"cpu": format!("{milli}m")}}}]},
        });
        Arc::new(PodInfo::new(Arc::new(serde_json::from_value(object).expect("a pod"))))
    }

    fn check(pods: &[(&str, Arc<PodInfo>)], budgets: &[Budget]) -> Result<(String, Vec<String>), String> {
        let mut snapshot = Snapshot::default();
        for name in ["a", "b"] {
            let node = json!({"metadata": {"name": name},
                "status": {"allocatable": {"cpu": "1", "memory": "1Gi", "pods": "10"}}});
            snapshot.set_node(Arc::new(serde_json::from_value(node).expect("a node")));
        }
        for (node, pod) in pods {
            snapshot.change_node(node, |info| info.add_pod(pod.clone()));
        }
        let new = pod("new", 10, 800);
        let profile = Profile::default();
        let mut round = Round { profile: &profile, start: &mut 0, rng: &base::Rng::seeded(1) };
        let decision = decide(&mut round, &Cycle::new(&profile.settings, &new, &snapshot));
        let Decision::Unschedulable(diagnosis) = decision else { panic!("it fits: {decision:?}") };
        let found = preempt(&profile, &new, &snapshot, &diagnosis, budgets)?;
        Ok((found.node, found.victims.iter().map(|pod| pod.uid.clone()).collect()))
    }

    #[test]
    fn takes_the_least_important() {
        let found = check(&[("a", pod("x", 5, 500)), ("a", pod("y", 1, 100)), ("b", pod("z", 2, 500))], &[]);
        assert_eq!(found, Ok(("b".to_owned(), vec!["z".to_owned()])));
        let refused = check(&[("a", pod("x", 10, 500)), ("b", pod("z", 20, 500))], &[]);
        let text = "preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod.";
        assert_eq!(refused, Err(text.to_owned()));
    }

    #[test]
    fn spares_budgets() {
        let budget = Budget {
            namespace: "default".into(),
            selector: Selector::parse("app=z").expect("valid"),
            allowed: 0,
        };
        let found = check(&[("a", pod("x", 5, 500)), ("b", pod("z", 2, 500))], &[budget]);
        assert_eq!(found, Ok(("a".to_owned(), vec!["x".to_owned()])));
    }
}
