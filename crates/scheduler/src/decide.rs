//! One scheduling decision: filter, score, choose. Pure: same pod, snapshot and randomness, same answer.

use std::collections::{BTreeMap, BTreeSet};

use base::Rng;

use crate::plugins::{Cycle, Refusal, node};
use crate::profile::Profile;
use crate::snapshot::NodeInfo;

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
    /// The plugin that gave it.
    pub by: Option<&'static str>,
    /// What preemption said.
    pub post_filter: Option<String>,
}

impl Diagnosis {
    /// The plugins that refused.
    pub fn plugins(&self) -> BTreeSet<&'static str> {
        self.refusals.values().map(|refusal| refusal.plugin).chain(self.by).collect()
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
pub fn enough_nodes(total: usize, percent: Option<usize>) -> usize {
    if total < MIN_FEASIBLE {
        return total;
    }
    let percent = percent.unwrap_or_else(|| 50_usize.saturating_sub(total / 125).max(MIN_PERCENT));
    (total * percent.min(100) / 100).max(MIN_FEASIBLE)
}

/// What a decision starts from.
pub struct Round<'a> {
    /// The plugins and their settings.
    pub profile: &'a Profile,
    /// The node to look at first; it moves on so that all nodes get their turn when there are more than a
    /// decision looks at.
    pub start: &'a mut usize,
    /// Chooses among equals.
    pub rng: &'a Rng,
}

/// Chooses a node for the cycle's pod.
pub fn decide(round: &mut Round<'_>, cycle: &Cycle<'_>) -> Decision {
    let (pod, snapshot, profile) = (cycle.pod, cycle.snapshot, round.profile);
    let total = snapshot.nodes().len();
    if total == 0 {
        let pre_filter = Some("no nodes available to schedule pods".to_owned());
        return Decision::Unschedulable(Diagnosis { pre_filter, ..Diagnosis::default() });
    }
    if let Some(refusal) = pre_filter(profile, cycle) {
        let (pre_filter, by) = (Some(refusal.reasons.join(", ")), Some(refusal.plugin));
        return Decision::Unschedulable(Diagnosis { total, pre_filter, by, ..Diagnosis::default() });
    }
    let nominated = pod.nominated_node().and_then(|name| snapshot.node(name));
    if let Some(node) = nominated.filter(|node| refusal(profile, cycle, node).is_none()) {
        return Decision::Bind(node.name.clone());
    }
    let (feasible, refusals) = match node::named(pod) {
        Some(names) => filter_named(profile, cycle, &names),
        None => filter(profile, cycle, round.start),
    };
    if feasible.is_empty() {
        return Decision::Unschedulable(Diagnosis { total, refusals, ..Diagnosis::default() });
    }
    Decision::Bind(choose(profile, cycle, &feasible, round.rng).to_owned())
}

/// The first refusal that holds for every node.
fn pre_filter(profile: &Profile, cycle: &Cycle<'_>) -> Option<Refusal> {
    let active = profile.plugins.iter().filter(|active| active.pre_filter);
    active.filter_map(|active| active.plugin.pre_filter).find_map(|pre_filter| pre_filter(cycle))
}

/// The first refusal of a node.
pub fn refusal(profile: &Profile, cycle: &Cycle<'_>, node: &NodeInfo) -> Option<Refusal> {
    let active = profile.plugins.iter().filter(|active| active.filter);
    active.filter_map(|active| active.plugin.filter).find_map(|filter| filter(cycle, node))
}

/// Looks only at the nodes that the pod names: pods of DaemonSets name one of many.
fn filter_named<'a>(
    profile: &Profile,
    cycle: &Cycle<'a>,
    names: &BTreeSet<String>,
) -> (Vec<&'a NodeInfo>, BTreeMap<String, Refusal>) {
    let (mut feasible, mut refusals) = (Vec::new(), BTreeMap::new());
    for node in cycle.snapshot.nodes() {
        if !names.contains(&node.name) {
            let reason = format!("node(s) didn't satisfy plugin(s) [{}]", node::AFFINITY);
            refusals.insert(node.name.clone(), Refusal::unresolvable(node::AFFINITY, &reason));
            continue;
        }
        match refusal(profile, cycle, node) {
            None => feasible.push(&**node),
            Some(refusal) => drop(refusals.insert(node.name.clone(), refusal)),
        }
    }
    (feasible, refusals)
}

fn filter<'a>(
    profile: &Profile,
    cycle: &Cycle<'a>,
    start: &mut usize,
) -> (Vec<&'a NodeInfo>, BTreeMap<String, Refusal>) {
    let nodes = cycle.snapshot.nodes();
    let enough = enough_nodes(nodes.len(), profile.settings.percent_of_nodes);
    let (mut feasible, mut refusals) = (Vec::new(), BTreeMap::new());
    let mut looked = 0;
    for offset in 0..nodes.len() {
        let node: &'a NodeInfo = &nodes[(*start + offset) % nodes.len()];
        looked += 1;
        match refusal(profile, cycle, node) {
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

fn choose<'a>(profile: &Profile, cycle: &Cycle<'_>, feasible: &[&'a NodeInfo], rng: &Rng) -> &'a str {
    if let [only] = feasible {
        return &only.name;
    }
    let mut sums = vec![0_i64; feasible.len()];
    for active in profile.plugins.iter().filter(|active| active.score && active.weight > 0) {
        let Some(scores) = active.plugin.score.and_then(|score| score(cycle, feasible)) else { continue };
        sums.iter_mut().zip(scores).for_each(|(sum, score)| *sum += score * active.weight);
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
    use crate::pod::PodInfo;
    use crate::snapshot::Snapshot;

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
        let profile = Profile::default();
        let mut round = Round { profile: &profile, start: &mut 0, rng: &Rng::seeded(1) };
        match decide(&mut round, &Cycle::new(&profile.settings, &pod, snapshot)) {
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
        assert_eq!(
            [5, 100, 1_000, 5_000, 20_000].map(|total| enough_nodes(total, None)),
            [5, 100, 420, 500, 1_000]
        );
    }

    #[test]
    fn volumes_decide_where_pods_go() {
        use api::k8s::api::storage::v1::{CSIDriver, CSIStorageCapacity, StorageClass};
        let claim = |name: &str, class: &str, more: Value| {
            let mut claim = json!({
                "metadata": {"name": name, "namespace": "default", "uid": name},
                "spec": {"storageClassName": class, "accessModes": ["ReadWriteOnce"],
                    "resources": {"requests": {"storage": "5Gi"}}},
            });
            merge(&mut claim, more);
            serde_json::from_value::<api::k8s::api::core::v1::PersistentVolumeClaim>(claim).expect("a claim")
        };
        let done = json!({"pv.kubernetes.io/bind-completed": "yes"});
        let bound = json!({"metadata": {"annotations": done}, "spec": {"volumeName": "on-b"}});
        let alone = json!({"metadata": {"annotations": done},
            "spec": {"volumeName": "on-b", "accessModes": ["ReadWriteOncePod"]}});
        let on_b = json!({"metadata": {"name": "on-b"}, "spec": {"nodeAffinity": {"required": {
            "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]}]}}}});
        let class = |name: &str, mode: &str, provisioner: &str| {
            let class =
                json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode});
            serde_json::from_value::<StorageClass>(class).expect("a class")
        };
        let capacity = |node: &str, size: &str| {
            let labels = json!({"matchLabels": {"kubernetes.io/hostname": node}});
            let capacity = json!({"metadata": {"name": node, "namespace": "x"}, "storageClassName": "local",
                "nodeTopology": labels, "capacity": size});
            serde_json::from_value::<CSIStorageCapacity>(capacity).expect("a capacity")
        };
        let user =
            pod("user", json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "alone"}}]}));
        let mut snapshot = snapshot(vec![node("a", json!({})), node("b", json!({}))], vec![("b", user)]);
        snapshot.storage.claims = client::Cache::of([
            claim("bound", "", bound),
            claim("alone", "", alone),
            claim("now", "now", json!({})),
            claim("later", "local", json!({})),
            claim("static", "static", json!({})),
        ]);
        snapshot.storage.volumes = client::Cache::of([serde_json::from_value(on_b).expect("a volume")]);
        snapshot.storage.classes = client::Cache::of([
            class("now", "Immediate", "x"),
            class("local", "WaitForFirstConsumer", "local.x"),
            class("static", "WaitForFirstConsumer", "kubernetes.io/no-provisioner"),
        ]);
        let driver = json!({"metadata": {"name": "local.x"}, "spec": {"storageCapacity": true}});
        let driver: CSIDriver = serde_json::from_value(driver).expect("a driver");
        snapshot.storage.drivers = client::Cache::of([driver]);
        snapshot.storage.capacities = client::Cache::of([capacity("a", "4Gi"), capacity("b", "6Gi")]);
        let with = |name: &str| {
            run(
                &snapshot,
                pod("p", json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": name}}]})),
            )
        };
        let none = "0/2 nodes are available:";
        assert_eq!(with("bound"), "b");
        assert_eq!(with("later"), "b");
        assert_eq!(with("gone"), format!("{none} persistentvolumeclaim \"gone\" not found."));
        assert_eq!(with("now"), format!("{none} pod has unbound immediate PersistentVolumeClaims."));
        assert_eq!(
            with("static"),
            format!("{none} 2 node(s) didn't find available persistent volumes to bind.")
        );
        assert!(with("alone").contains("ReadWriteOncePod access mode already in-use"));
    }

    #[test]
    fn pods_of_one_owner_are_spread_by_default() {
        let owned = |name: &str| {
            let mut pod = pod(name, json!({}));
            pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "W", "controller": true}]);
            pod
        };
        let big = json!({"status": {"allocatable": {"cpu": "64", "memory": "256Gi"}}});
        let pods = vec![("a", owned("x")), ("a", owned("y"))];
        let mut snapshot = snapshot(vec![node("a", big), node("b", json!({}))], pods);
        let set = json!({"metadata": {"name": "web", "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": "web"}}}});
        assert_eq!(run(&snapshot, owned("z")), "a", "the emptier node");
        snapshot.owners.replica_sets = client::Cache::of([serde_json::from_value(set).expect("a set")]);
        assert_eq!(run(&snapshot, owned("z")), "b", "the node without its like");
    }

    #[test]
    fn devices_must_be_allocated_within_reach() {
        let claim = |name: &str, status: Value| {
            let claim =
                json!({"metadata": {"name": name, "namespace": "default"}, "spec": {}, "status": status});
            serde_json::from_value::<api::k8s::api::resource::v1::ResourceClaim>(claim).expect("a claim")
        };
        let on_b = json!({"nodeSelectorTerms": [
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]}]});
        let mut snapshot = snapshot(vec![node("a", json!({})), node("b", json!({}))], vec![]);
        snapshot.devices = crate::snapshot::Devices(client::Cache::of([
            claim("open", json!({})),
            claim("there", json!({"allocation": {"nodeSelector": on_b}})),
        ]));
        let with = |claim: Value| run(&snapshot, pod("p", json!({"resourceClaims": [claim]})));
        assert_eq!(with(json!({"name": "x", "resourceClaimName": "there"})), "b");
        let all = "0/2 nodes are available:";
        assert_eq!(
            with(json!({"name": "x", "resourceClaimName": "open"})),
            format!("{all} 2 cannot allocate all claims.")
        );
        let template = with(json!({"name": "x", "resourceClaimTemplateName": "t"}));
        assert_eq!(template, format!("{all} pod \"default/p\": ResourceClaim not created yet."));
    }
}
