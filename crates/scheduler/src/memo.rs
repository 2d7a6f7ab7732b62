//! What decisions share: pods of one template see the same counts and the same nodes, so only what changed since the
//! last of them is looked at again. Answers are those of a fresh look.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::k8s::api::core::v1::{NodeSelector, PreferredSchedulingTerm, Toleration};

use crate::counts::Columns;
use crate::plugins::{Cycle, MAX_LOCAL_SCORES, Refusal, affinity, spread};
use crate::pod::{AffinityTerm, HostPort, PodInfo, Resources, Spread};
use crate::preempt::Dry;
use crate::profile::{Profile, Settings};
use crate::snapshot::Snapshot;

/// Templates remembered; the one not seen for longest goes first.
const TEMPLATES: usize = 16;

/// What is remembered between decisions.
#[derive(Debug, Default)]
pub struct Memo {
    columns: Columns,
    counts: Vec<Counts>,
    looks: Vec<Looks>,
}

/// What decides how a pod counts others.
#[derive(Debug, PartialEq)]
struct CountsKey {
    namespace: String,
    labels: Option<BTreeMap<String, String>>,
    terms: [Vec<AffinityTerm>; 3],
    constraints: Vec<Spread>,
    selector: Option<BTreeMap<String, String>>,
    nodes: Option<NodeSelector>,
    tolerations: Vec<Toleration>,
    weight: i64,
    own_default: bool,
}

impl CountsKey {
    fn of(pod: &PodInfo, settings: &Settings, constraints: &[Spread]) -> CountsKey {
        CountsKey {
            namespace: pod.namespace.clone(),
            labels: pod.labels().cloned(),
            terms: [pod.affinity.clone(), pod.anti_affinity.clone(), pod.preferred.clone()],
            constraints: constraints.to_vec(),
            selector: pod.node_selector().cloned(),
            nodes: pod.node_affinity().cloned(),
            tolerations: pod.tolerations().to_vec(),
            weight: settings.hard_affinity_weight,
            own_default: settings.default_spread.is_some(),
        }
    }

    fn is(&self, pod: &PodInfo, settings: &Settings, constraints: &[Spread]) -> bool {
        self.namespace == pod.namespace
            && self.labels.as_ref() == pod.labels()
            && self.terms[0] == pod.affinity
            && self.terms[1] == pod.anti_affinity
            && self.terms[2] == pod.preferred
            && self.constraints == constraints
            && self.selector.as_ref() == pod.node_selector()
            && self.nodes.as_ref() == pod.node_affinity()
            && self.tolerations == pod.tolerations()
            && self.weight == settings.hard_affinity_weight
            && self.own_default == settings.default_spread.is_some()
    }
}

/// The pods that those of one template count.
#[derive(Debug)]
struct Counts {
    key: CountsKey,
    epoch: u64,
    moves: u64,
    affinity: Arc<affinity::State>,
    spread: Arc<spread::State>,
}

/// Moves the entry that `is` finds to the end, where the latest are; room is made for a new one if none is there.
fn latest<T>(list: &mut Vec<T>, is: impl Fn(&T) -> bool) -> bool {
    if let Some(at) = list.iter().rposition(is) {
        let found = list.remove(at);
        list.push(found);
        return true;
    }
    if list.len() >= TEMPLATES {
        list.remove(0);
    }
    false
}

impl Memo {
    /// The pods counted as `pod` sees them.
    pub fn counts(
        &mut self,
        pod: &PodInfo,
        settings: &Settings,
        constraints: &[Spread],
        snapshot: &Snapshot,
    ) -> (Arc<affinity::State>, Arc<spread::State>) {
        if constraints.is_empty() && !affinity::concerns(pod, snapshot) {
            return Default::default();
        }
        if !latest(&mut self.counts, |known| known.key.is(pod, settings, constraints)) {
            let key = CountsKey::of(pod, settings, constraints);
            // Behind from the start, so that it is counted below.
            let (affinity, spread) = Default::default();
            self.counts.push(Counts { key, epoch: u64::MAX, moves: 0, affinity, spread });
        }
        let Some(known) = self.counts.last_mut() else { return Default::default() };
        let columns = &mut self.columns;
        match snapshot.moves_since(known.moves).filter(|_| known.epoch == snapshot.epoch()) {
            Some(moves) => {
                let (near, even) = (Arc::make_mut(&mut known.affinity), Arc::make_mut(&mut known.spread));
                for moved in moves {
                    let Some(node) = snapshot.nodes().get(moved.node) else { continue };
                    near.fold(pod, &moved.pod, node, moved.sign, settings, snapshot, columns);
                    even.fold(constraints, pod, &moved.pod, node, moved.sign);
                }
            }
            None => {
                known.epoch = snapshot.epoch();
                known.affinity = Arc::new(affinity::State::new(pod, settings, snapshot, columns));
                known.spread = Arc::new(spread::State::new(constraints, pod, settings, snapshot, columns));
            }
        }
        known.moves = snapshot.moves();
        Arc::make_mut(&mut known.spread).settle(constraints);
        (known.affinity.clone(), known.spread.clone())
    }

    /// What is known of the nodes for pods like `pod`.
    pub fn looks(&mut self, profile: &Profile, pod: &PodInfo) -> &mut Looks {
        if !latest(&mut self.looks, |known| known.is(profile, pod)) {
            self.looks.push(Looks::new(profile, pod));
        }
        let last = self.looks.len() - 1;
        &mut self.looks[last]
    }
}

/// What decides how the filters and scores that look at one node see a pod.
#[derive(Debug, PartialEq)]
struct LooksKey {
    profile: String,
    node_name: Option<String>,
    tolerations: Vec<Toleration>,
    selector: Option<BTreeMap<String, String>>,
    nodes: Option<NodeSelector>,
    preferred: Vec<PreferredSchedulingTerm>,
    requests: Resources,
    nonzero: (i64, i64),
    ports: Vec<HostPort>,
    priority: i32,
}

/// One node, as it was when last looked at.
#[derive(Clone, Copy, Debug, Default)]
struct Look {
    generation: u64,
    /// 0: the node takes the pod; else the index of the refusal plus one.
    refusal: u16,
    scores: [i64; MAX_LOCAL_SCORES],
}

/// The nodes as pods of one template see them, as far as that depends on pod and node alone.
#[derive(Debug)]
pub struct Looks {
    key: LooksKey,
    refusals: Vec<Refusal>,
    nodes: Vec<Look>,
    /// What preemption has found.
    pub dry: Dry,
}

impl Looks {
    fn new(profile: &Profile, pod: &PodInfo) -> Looks {
        let key = LooksKey {
            profile: profile.name.clone(),
            node_name: pod.node_name().map(str::to_owned),
            tolerations: pod.tolerations().to_vec(),
            selector: pod.node_selector().cloned(),
            nodes: pod.node_affinity().cloned(),
            preferred: pod.preferred_nodes().to_vec(),
            requests: pod.requests.clone(),
            nonzero: pod.nonzero,
            ports: pod.host_ports.clone(),
            priority: pod.priority,
        };
        Looks { key, refusals: Vec::new(), nodes: Vec::new(), dry: Dry::default() }
    }

    fn is(&self, profile: &Profile, pod: &PodInfo) -> bool {
        let key = &self.key;
        key.requests == pod.requests
            && key.nonzero == pod.nonzero
            && key.priority == pod.priority
            && key.ports == pod.host_ports
            && key.selector.as_ref() == pod.node_selector()
            && key.nodes.as_ref() == pod.node_affinity()
            && key.preferred == pod.preferred_nodes()
            && key.tolerations == pod.tolerations()
            && key.node_name.as_deref() == pod.node_name()
            && key.profile == profile.name
    }

    /// Looks at the node unless it is as it was: the number of its refusal, `None` when it takes the pod.
    pub fn refusal(&mut self, profile: &Profile, cycle: &Cycle<'_>, position: usize) -> Option<usize> {
        let node = &cycle.snapshot.nodes()[position];
        if self.nodes.len() <= position {
            self.nodes.resize(cycle.snapshot.nodes().len(), Look::default());
        }
        if self.nodes[position].generation != node.generation {
            // What a pod sees of a node where room is kept for itself is not what others see.
            let own = cycle.snapshot.nominates(&node.name, &cycle.pod.uid);
            let generation = if own { 0 } else { node.generation };
            let mut look = Look { generation, ..Look::default() };
            let occupied = cycle.occupied(node);
            let refusal = profile.refusal_by_node(cycle, occupied.as_deref().unwrap_or(node));
            match refusal {
                Some(refusal) => look.refusal = self.number(refusal),
                None => look.scores = profile.local_scores(cycle, node),
            }
            self.nodes[position] = look;
        }
        usize::from(self.nodes[position].refusal).checked_sub(1)
    }

    /// The number of a refusal plus one. Bounded: there are few, and what is beyond counts as the last.
    fn number(&mut self, refusal: Refusal) -> u16 {
        let at = self.refusals.iter().position(|known| *known == refusal).unwrap_or_else(|| {
            self.refusals.push(refusal);
            self.refusals.len() - 1
        });
        u16::try_from(at + 1).unwrap_or(u16::MAX)
    }

    /// The refusals by number.
    pub fn refusals(&self) -> &[Refusal] {
        &self.refusals
    }

    /// The scores of a node that was looked at and takes the pod.
    pub fn scores(&self, position: usize) -> &[i64; MAX_LOCAL_SCORES] {
        &self.nodes[position].scores
    }
}

#[cfg(test)]
mod tests {
    use base::Rng;
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::Score;

    const ZONE: &str = "topology.kubernetes.io/zone";
    const HOST: &str = "kubernetes.io/hostname";

    fn node(rng: &Rng, n: u64) -> Arc<api::k8s::api::core::v1::Node> {
        let mut labels = json!({HOST: format!("n{n}")});
        if rng.below(5) > 0 {
            labels[ZONE] = json!(format!("z{}", rng.below(3)));
        }
        let taints =
            if rng.below(6) == 0 { json!([{"key": "t", "effect": "NoSchedule"}]) } else { json!([]) };
        let amounts = json!({"cpu": "2", "memory": "4Gi", "pods": "8"});
        let node = json!({"metadata": {"name": format!("n{n}"), "labels": labels},
            "spec": {"taints": taints}, "status": {"allocatable": amounts}});
        Arc::new(serde_json::from_value(node).expect("a node"))
    }

    fn spec(template: u64) -> Value {
        let term = |key: &str| {
            json!({"labelSelector": {"matchLabels": {"app": format!("a{}", template % 3)}},
            "topologyKey": key})
        };
        let soft = |key: &str| json!([{"weight": 3, "podAffinityTerm": term(key)}]);
        let (hard, preferred) = (
            "requiredDuringSchedulingIgnoredDuringExecution",
            "preferredDuringSchedulingIgnoredDuringExecution",
        );
        let spread = |key: &str, when: &str| {
            json!([{"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": when,
                "labelSelector": {"matchLabels": {"app": "a1"}}}])
        };
        match template {
            0 => json!({}),
            1 => json!({"affinity": {"podAffinity": {hard: [term(ZONE)]}}}),
            2 => json!({"affinity": {"podAntiAffinity": {hard: [term(HOST)]}}}),
            3 => json!({"affinity": {"podAffinity": {preferred: soft(ZONE)}}}),
            4 => json!({"affinity": {"podAntiAffinity": {preferred: soft(HOST)}}}),
            5 => json!({"topologySpreadConstraints": spread(ZONE, "DoNotSchedule")}),
            6 => json!({"topologySpreadConstraints": spread(HOST, "ScheduleAnyway")}),
            _ => json!({"topologySpreadConstraints": spread(ZONE, "ScheduleAnyway"), "priority": 5}),
        }
    }

    fn pod(rng: &Rng, n: u64) -> Arc<PodInfo> {
        let mut spec = spec(rng.below(8));
        spec["containers"] = json!([{"name": "c", "image": "i",
            "resources": {"requests": {"cpu": format!("{}m", 200 + 200 * rng.below(2))}}}]);
        let pod = json!({"metadata": {"name": format!("p{n}"), "uid": format!("u{n}"), "namespace": "d",
            "labels": {"app": format!("a{}", rng.below(3))}}, "spec": spec});
        Arc::new(PodInfo::new(Arc::new(serde_json::from_value(pod).expect("a pod"))))
    }

    /// What every filter and score says of every node.
    fn answers(memo: &mut Memo, profile: &Profile, pod: &PodInfo, snapshot: &Snapshot) -> Vec<String> {
        let cycle = Cycle::with(memo, &profile.settings, pod, snapshot);
        let wide = profile.wide_filters(&cycle);
        let looks = memo.looks(profile, pod);
        let mut told = Vec::new();
        for node in snapshot.nodes() {
            let local = looks.refusal(profile, &cycle, node.position).map(|n| looks.refusals()[n].clone());
            let scores = local.is_none().then(|| *looks.scores(node.position));
            let refused: Vec<_> = wide.iter().filter_map(|filter| filter(&cycle, node)).collect();
            told.push(format!("{} {local:?} {scores:?} {refused:?}", node.name));
        }
        let nodes: Vec<_> = snapshot.nodes().iter().map(|node| &**node).collect();
        for (score, _) in profile.scores() {
            if let Score::Whole(score) = score {
                // Nothing to say and the same for all are one.
                let scores = score(&cycle, &nodes).filter(|all| all.iter().any(|one| *one != all[0]));
                told.push(format!("{scores:?}"));
            }
        }
        told
    }

    #[test]
    fn remembered_answers_are_those_of_a_fresh_look() {
        let profile = Profile::default();
        for seed in 0..40 {
            let rng = Rng::seeded(seed);
            let (mut snapshot, mut memo) = (Snapshot::default(), Memo::default());
            let mut placed: Vec<(String, Arc<PodInfo>)> = Vec::new();
            (0..8).for_each(|n| snapshot.set_node(node(&rng, n)));
            for step in 0..60 {
                let at = format!("n{}", rng.below(10));
                match rng.below(12) {
                    0 => snapshot.set_node(node(&rng, rng.below(10))),
                    1 => {
                        snapshot.remove_node(&at);
                        placed.retain(|(name, _)| *name != at);
                    }
                    2 | 3 if !placed.is_empty() => {
                        let (name, pod) = placed
                            .swap_remove(usize::try_from(rng.below(placed.len() as u64)).expect("small"));
                        assert!(snapshot.remove_pod(&name, &pod));
                    }
                    4 => snapshot.nominate(&at, pod(&rng, 1_000 + step)),
                    _ => {
                        let new = pod(&rng, step);
                        if snapshot.add_pod(&at, new.clone()) {
                            placed.push((at, new));
                        }
                    }
                }
                let new = pod(&rng, 2_000 + step);
                let fresh = answers(&mut Memo::default(), &profile, &new, &snapshot);
                assert_eq!(answers(&mut memo, &profile, &new, &snapshot), fresh, "seed {seed}, step {step}");
            }
        }
    }
}
