//! One scheduling decision: filter, score, choose. Pure: same pod, snapshot and randomness, same answer.

use std::collections::{BTreeMap, BTreeSet};

use base::Rng;

use crate::plugins::{Cycle, Plugin, Refusal};
use crate::pod::PodInfo;
use crate::snapshot::{NodeInfo, Snapshot};

/// Below this many feasible nodes sampling never stops, as upstream's `minFeasibleNodesToFind`.
const MIN_FEASIBLE: usize = 100;
/// The smallest share of nodes looked at, percent.
const MIN_PERCENT: usize = 5;

/// Where a pod goes, or why nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Bind it to this node.
    Bind(String),
    /// No node takes it now.
    Unschedulable(Diagnosis),
}

/// Why no node took a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnosis {
    /// How many nodes there are.
    pub total: usize,
    /// Each node's refusal.
    pub refusals: BTreeMap<String, Refusal>,
    /// A reason that holds whatever the node.
    pub pre_filter: Option<String>,
    /// What preemption said.
    pub post_filter: Option<String>,
}

impl Diagnosis {
    /// The plugins that refused.
    pub fn plugins(&self) -> BTreeSet<&'static str> {
        self.refusals.values().map(|refusal| refusal.plugin).collect()
    }

    /// The message of the `PodScheduled` condition and the `FailedScheduling` event, as upstream's `FitError`.
    pub fn message(&self) -> String {
        let mut text = format!("0/{} nodes are available:", self.total);
        match &self.pre_filter {
            Some(reason) => text.push_str(&format!(" {reason}.")),
            None => {
                let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
                for reason in self.refusals.values().flat_map(|refusal| &refusal.reasons) {
                    *counts.entry(reason).or_default() += 1;
                }
                let mut parts: Vec<String> =
                    counts.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
                parts.sort();
                if !parts.is_empty() {
                    text.push_str(&format!(" {}.", parts.join(", ")));
                }
            }
        }
        if let Some(post) = &self.post_filter {
            text.push_str(&format!(" {post}"));
        }
        text
    }
}

/// How many feasible nodes are enough.
pub fn enough_nodes(total: usize) -> usize {
    if total < MIN_FEASIBLE {
        return total;
    }
    let percent = 50_usize.saturating_sub(total / 125).max(MIN_PERCENT);
    (total * percent / 100).max(MIN_FEASIBLE)
}

/// Chooses a node for `pod`. `start` is the node to look at first; it moves on so that all nodes get their
/// turn when there are more than a decision looks at.
pub fn decide(
    plugins: &[Plugin],
    pod: &PodInfo,
    snapshot: &Snapshot,
    start: &mut usize,
    rng: &Rng,
) -> Decision {
    let total = snapshot.nodes().len();
    if total == 0 {
        let pre_filter = Some("no nodes available to schedule pods".to_owned());
        return Decision::Unschedulable(Diagnosis { pre_filter, ..Diagnosis::default() });
    }
    let cycle = Cycle::new(pod, snapshot);
    if let Some(node) = pod.nominated_node().and_then(|name| snapshot.node(name)) {
        if refusal(plugins, &cycle, node).is_none() {
            return Decision::Bind(node.name.clone());
        }
    }
    let (feasible, refusals) = filter(plugins, &cycle, start);
    if feasible.is_empty() {
        return Decision::Unschedulable(Diagnosis { total, refusals, ..Diagnosis::default() });
    }
    Decision::Bind(choose(plugins, &cycle, &feasible, rng).to_owned())
}

/// The first refusal of a node.
pub fn refusal(plugins: &[Plugin], cycle: &Cycle<'_>, node: &NodeInfo) -> Option<Refusal> {
    plugins.iter().filter_map(|plugin| plugin.filter).find_map(|filter| filter(cycle, node))
}

fn filter<'a>(
    plugins: &[Plugin],
    cycle: &Cycle<'a>,
    start: &mut usize,
) -> (Vec<&'a NodeInfo>, BTreeMap<String, Refusal>) {
    let nodes = cycle.snapshot.nodes();
    let enough = enough_nodes(nodes.len());
    let (mut feasible, mut refusals) = (Vec::new(), BTreeMap::new());
    let mut looked = 0;
    for offset in 0..nodes.len() {
        let node: &'a NodeInfo = &nodes[(*start + offset) % nodes.len()];
        looked += 1;
        match refusal(plugins, cycle, node) {
            None => feasible.push(node),
            Some(refusal) => {
                refusals.insert(node.name.clone(), refusal);
            }
        }
        if feasible.len() >= enough {
            break;
        }
    }
    *start = (*start + looked) % nodes.len();
    (feasible, refusals)
}

fn choose<'a>(plugins: &[Plugin], cycle: &Cycle<'_>, feasible: &[&'a NodeInfo], rng: &Rng) -> &'a str {
    if let [only] = feasible {
        return &only.name;
    }
    let mut sums = vec![0_i64; feasible.len()];
    for plugin in plugins {
        let Some(scores) = plugin.score.and_then(|score| score(cycle, feasible)) else { continue };
        sums.iter_mut().zip(scores).for_each(|(sum, score)| *sum += score * plugin.weight);
    }
    let best = sums.iter().copied().max().unwrap_or(0);
    let tied: Vec<&&NodeInfo> =
        feasible.iter().zip(&sums).filter(|(_, sum)| **sum == best).map(|(n, _)| n).collect();
    let pick = usize::try_from(rng.below(tied.len() as u64)).unwrap_or(0);
    &tied[pick].name
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::DEFAULT_PLUGINS;

    fn node(name: &str, extra: Value) -> Value {
        let mut node = json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "10"}},
        });
        merge(&mut node, extra);
        node
    }

    fn pod(name: &str, spec: Value) -> Value {
        let mut base = json!({"containers": [{"name": "c", "image": "i"}]});
        merge(&mut base, spec);
        json!({"metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": "web"}}, "spec": base})
    }

    fn merge(into: &mut Value, from: Value) {
        match (into, from) {
            (Value::Object(into), Value::Object(from)) => {
                from.into_iter()
                    .for_each(|(key, value)| merge(into.entry(key).or_insert(Value::Null), value));
            }
            (into, from) => *into = from,
        }
    }

    fn snapshot(nodes: Vec<Value>, pods: Vec<(&str, Value)>) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for node in nodes {
            snapshot.set_node(Arc::new(serde_json::from_value(node).expect("a node")));
        }
        for (node, pod) in pods {
            let pod = Arc::new(PodInfo::new(Arc::new(serde_json::from_value(pod).expect("a pod"))));
            assert!(snapshot.change_node(node, |info| info.add_pod(pod)));
        }
        snapshot
    }

    fn run(snapshot: &Snapshot, pod: Value) -> String {
        let pod = PodInfo::new(Arc::new(serde_json::from_value(pod).expect("a pod")));
        match decide(DEFAULT_PLUGINS, &pod, snapshot, &mut 0, &Rng::seeded(1)) {
            Decision::Bind(node) => node,
            Decision::Unschedulable(diagnosis) => diagnosis.message(),
        }
    }

    #[test]
    fn refusals_read_as_upstream() {
        let busy = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1900m"}}}]});
        let anti = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "kubernetes.io/hostname"}]}}});
        let taint = json!({"spec": {"taints": [{"key": "a", "value": "b", "effect": "NoSchedule"}]}});
        let ports = json!({"containers": [{"name": "c", "ports": [{"hostPort": 80, "containerPort": 80}]}]});
        let cases = [
            (vec![], vec![], json!({}), "0/0 nodes are available: no nodes available to schedule pods."),
            (vec![node("a", json!({}))], vec![], json!({}), "a"),
            (
                vec![node("a", json!({})), node("b", taint.clone())],
                vec![("a", pod("x", busy.clone()))],
                busy.clone(),
                "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s).",
            ),
            (
                vec![node("b", taint)],
                vec![],
                json!({"tolerations": [{"key": "a", "operator": "Exists"}]}),
                "b",
            ),
            (
                vec![node("a", json!({"spec": {"unschedulable": true}}))],
                vec![],
                json!({}),
                "0/1 nodes are available: 1 node(s) were unschedulable.",
            ),
            (
                vec![node("a", json!({}))],
                vec![],
                json!({"nodeSelector": {"disk": "ssd"}}),
                "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.",
            ),
            (
                vec![node("a", json!({}))],
                vec![("a", pod("x", ports.clone()))],
                ports,
                "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.",
            ),
            (
                vec![node("a", json!({})), node("b", json!({}))],
                vec![("a", pod("x", json!({})))],
                anti.clone(),
                "b",
            ),
            (
                vec![node("a", json!({}))],
                vec![("a", pod("x", anti))],
                json!({}),
                "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules.",
            ),
            (
                vec![node("a", json!({"status": {"allocatable": {"pods": "1"}}}))],
                vec![("a", pod("x", json!({})))],
                json!({}),
                "0/1 nodes are available: 1 Too many pods.",
            ),
        ];
        for (nodes, pods, spec, expect) in cases {
            assert_eq!(run(&snapshot(nodes, pods), pod("new", spec)), expect);
        }
    }

    #[test]
    fn spreads_and_balances() {
        let spread = json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}}]});
        let nodes = || vec![node("a", json!({})), node("b", json!({}))];
        let state = snapshot(nodes(), vec![("a", pod("x", json!({})))]);
        assert_eq!(run(&state, pod("new", spread.clone())), "b");
        // Even without constraints the emptier node scores higher.
        assert_eq!(run(&state, pod("new", json!({}))), "b");
        let affinity = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "kubernetes.io/hostname"}]}}});
        assert_eq!(run(&state, pod("new", affinity)), "a");
        let prefer = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 100, "preference": {"matchFields": [
                {"key": "metadata.name", "operator": "In", "values": ["a"]}]}}]}}});
        assert_eq!(run(&state, pod("new", prefer)), "a");
    }

    #[test]
    fn sampling_is_bounded() {
        assert_eq!([5, 100, 1_000, 5_000, 20_000].map(enough_nodes), [5, 100, 420, 500, 1_000]);
    }
}
