//! DefaultPreemption: which pods must go so that a more important one fits. Pure; the runner does the writes.

use std::sync::Arc;

use api::labels::Selector;

use crate::decide::{Diagnosis, tell};
use crate::plugins::{Cycle, Filter, Refusal};
use crate::pod::PodInfo;
use crate::profile::Profile;
use crate::snapshot::NodeInfo;

/// The plugin's name.
pub const NAME: &str = "DefaultPreemption";
/// So many candidates are enough, as a share of the nodes, percent, and at least.
const CANDIDATES_PERCENT: usize = 10;
const MIN_CANDIDATES: usize = 100;
const NO_VICTIMS: &str = "No preemption victims found for incoming pod";
const NO_HELP: &str = "Preemption is not helpful for scheduling";

/// Dry runs done for pods of one template.
#[derive(Debug, Default)]
pub struct Dry {
    budgets: Vec<Budget>,
    /// By position: the node's generation and what was found.
    nodes: Vec<Option<(u64, Result<Arc<Preemption>, Refusal>)>>,
}

/// A PodDisruptionBudget as preemption reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    harm: Harm,
}

/// Smaller is better: budgets broken, highest priority, sum of priorities, count, youngest first.
type Harm = (usize, i32, i64, usize, std::cmp::Reverse<i64>);

impl Preemption {
    /// What removing these pods from a node costs.
    pub fn new(node: String, victims: Vec<Arc<PodInfo>>, violations: usize) -> Preemption {
        let harm = harm(&victims, violations);
        Preemption { node, victims, violations, harm }
    }
}

/// The least harmful of some preemptions.
pub fn best(candidates: Vec<Arc<Preemption>>) -> Option<Arc<Preemption>> {
    candidates.into_iter().min_by_key(|candidate| candidate.harm)
}

/// Finds preemptions that would help, or says why there are none. Begins to look at node `offset`.
pub fn candidates(
    profile: &Profile,
    cycle: &Cycle<'_>,
    dry: &mut Dry,
    diagnosis: &Diagnosis,
    budgets: &[Budget],
    offset: usize,
) -> Result<Vec<Arc<Preemption>>, String> {
    let pod = cycle.pod;
    let spec = pod.pod.spec.as_ref();
    if spec.and_then(|spec| spec.preemption_policy.as_deref()) == Some("Never") {
        return Err("preemption: not eligible due to preemptionPolicy=Never.".to_owned());
    }
    let total = diagnosis.total;
    let message = |reasons: String| format!("preemption: 0/{total} nodes are available: {reasons}.");
    if diagnosis.pre_filter.is_some() {
        return Err(message(tell([(NO_HELP, total)])));
    }
    let helps = diagnosis.refused.iter().filter(|refused| !refused.refusal.unresolvable);
    let mut nodes: Vec<usize> = helps.flat_map(|refused| refused.nodes.iter().copied()).collect();
    nodes.sort_unstable();
    let hopeless = total.saturating_sub(nodes.len());
    let first = nodes.partition_point(|node| *node < offset);
    nodes.rotate_left(first);
    if dry.budgets != budgets {
        *dry = Dry { budgets: budgets.to_vec(), ..Dry::default() };
    }
    let own = cycle.snapshot.nominated_node(&pod.uid);
    let mut run = DryRun { profile, cycle: cycle.clone(), wide: profile.wide_filters(cycle), budgets, own };
    let enough = (total * CANDIDATES_PERCENT / 100).max(MIN_CANDIDATES);
    let (mut found, mut harmless) = (Vec::new(), false);
    let mut refusals: Vec<(Refusal, usize)> = Vec::new();
    for position in nodes {
        if found.len() >= enough && harmless {
            break;
        }
        match run.at(position, dry) {
            Ok(candidate) => {
                harmless |= candidate.violations == 0;
                found.push(candidate);
            }
            Err(refusal) => match refusals.iter_mut().find(|(known, _)| *known == refusal) {
                Some((_, count)) => *count += 1,
                None => refusals.push((refusal, 1)),
            },
        }
    }
    if found.is_empty() {
        let told =
            refusals.iter().flat_map(|(refusal, count)| refusal.reasons().map(|reason| (reason, *count)));
        return Err(message(tell(told.chain((hopeless > 0).then_some((NO_HELP, hopeless))))));
    }
    Ok(found)
}

fn harm(victims: &[Arc<PodInfo>], violations: usize) -> Harm {
    let highest = victims.iter().map(|pod| pod.priority).max().unwrap_or(i32::MIN);
    let offset = |pod: &Arc<PodInfo>| i64::from(pod.priority) + i64::from(i32::MAX) + 1;
    let sum = victims.iter().map(offset).sum();
    let top = victims.iter().filter(|pod| pod.priority == highest);
    let oldest = top.map(|pod| start_second(pod)).min().unwrap_or(0);
    (violations, highest, sum, victims.len(), std::cmp::Reverse(oldest))
}

fn start_second(pod: &PodInfo) -> i64 {
    let start = pod.pod.status.as_ref().and_then(|status| status.start_time.as_ref());
    start.or(pod.pod.metadata.creation_timestamp.as_ref()).map_or(i64::MAX, |time| time.0.as_second())
}

/// Looks at nodes as they would be without some of their pods.
struct DryRun<'a> {
    profile: &'a Profile,
    cycle: Cycle<'a>,
    wide: Vec<Filter>,
    budgets: &'a [Budget],
    /// The node on which room is kept for the pod itself.
    own: Option<usize>,
}

impl DryRun<'_> {
    /// The preemption on one node. What depends on pod and node alone is remembered as long as the node is the same.
    fn at(&mut self, position: usize, dry: &mut Dry) -> Result<Arc<Preemption>, Refusal> {
        let node = &self.cycle.snapshot.nodes()[position];
        if !self.wide.is_empty() || self.own == Some(position) {
            return self.victims_on(node).map(Arc::new);
        }
        if dry.nodes.len() <= position {
            dry.nodes.resize(self.cycle.snapshot.nodes().len(), None);
        }
        if let Some((generation, known)) = &dry.nodes[position]
            && *generation == node.generation
        {
            return known.clone();
        }
        let found = self.victims_on(node).map(Arc::new);
        dry.nodes[position] = Some((node.generation, found.clone()));
        found
    }

    fn refusal(&self, info: &NodeInfo) -> Option<Refusal> {
        let local = self.profile.refusal_by_node(&self.cycle, info);
        local.or_else(|| self.wide.iter().find_map(|filter| filter(&self.cycle, info)))
    }

    fn add(&mut self, info: &mut NodeInfo, pod: &Arc<PodInfo>) {
        info.add_pod(pod.clone());
        if !self.wide.is_empty() {
            self.cycle.moved(pod, info, 1);
        }
    }

    fn remove(&mut self, info: &mut NodeInfo, pod: &Arc<PodInfo>) {
        info.remove_pod(pod);
        if !self.wide.is_empty() {
            self.cycle.moved(pod, info, -1);
        }
    }

    fn victims_on(&mut self, node: &NodeInfo) -> Result<Preemption, Refusal> {
        let pod = self.cycle.pod;
        let mut lower: Vec<Arc<PodInfo>> =
            node.pods.iter().filter(|other| other.priority < pod.priority).cloned().collect();
        if lower.is_empty() {
            return Err(Refusal::new(NAME, NO_VICTIMS));
        }
        let mut info = node.clone();
        let kept: Vec<Arc<PodInfo>> = self.cycle.snapshot.nominated(&node.name, pod).cloned().collect();
        kept.iter().for_each(|pod| self.add(&mut info, pod));
        lower.iter().for_each(|victim| self.remove(&mut info, victim));
        let refused = self.refusal(&info);
        // Put back as many as possible: those whose budget would break first, then by importance.
        lower.sort_by_key(|victim| (std::cmp::Reverse(victim.priority), start_second(victim)));
        let (mut victims, mut violations) = (Vec::new(), 0);
        let (breaking, rest) = split_by_budget(lower, self.budgets);
        let ordered = breaking.into_iter().map(|p| (p, true)).chain(rest.into_iter().map(|p| (p, false)));
        for (candidate, breaks) in ordered {
            self.add(&mut info, &candidate);
            if refused.is_none() && self.refusal(&info).is_some() {
                self.remove(&mut info, &candidate);
                violations += usize::from(breaks);
                victims.push(candidate);
            }
        }
        // As it was before, for the next node.
        victims.iter().for_each(|victim| self.add(&mut info, victim));
        kept.iter().for_each(|pod| self.remove(&mut info, pod));
        if let Some(refusal) = refused {
            return Err(refusal);
        }
        victims.sort_by_key(|victim| std::cmp::Reverse(victim.priority));
        Ok(Preemption::new(node.name.clone(), victims, violations))
    }
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
    use crate::memo::Memo;
    use crate::snapshot::Snapshot;

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
            snapshot.add_pod(node, pod.clone());
        }
        let new = pod("new", 10, 800);
        let profile = Profile::default();
        let mut memo = Memo::default();
        let cycle = Cycle::with(&mut memo, &profile.settings, &new, &snapshot);
        let mut round =
            Round { profile: &profile, start: &mut 0, rng: &base::Rng::seeded(1), memo: &mut memo };
        let decision = decide(&mut round, &cycle);
        let Decision::Unschedulable(diagnosis) = decision else { panic!("it fits: {decision:?}") };
        let dry = &mut memo.looks(&profile, &new).dry;
        let found = candidates(&profile, &cycle, dry, &diagnosis, budgets, 0)?;
        let found = best(found).expect("there are some");
        Ok((found.node.clone(), found.victims.iter().map(|pod| pod.uid.clone()).collect()))
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
