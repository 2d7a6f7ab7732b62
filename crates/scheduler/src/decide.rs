//! One scheduling decision: filter, score, choose. Pure: same pod, snapshot and randomness, same answer.

use std::collections::{BTreeMap, BTreeSet};

use base::Rng;

use crate::memo::{Looks, Memo};
use crate::plugins::{Cycle, Filter, Refusal, Score, node, normalize};
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

/// Nodes that refused a pod in the same words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What they say.
    pub refusal: Refusal,
    /// Their positions in the snapshot.
    pub nodes: Vec<usize>,
}

/// Why no node took a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnosis {
    /// How many nodes there are.
    pub total: usize,
    /// The nodes' refusals.
    pub refused: Vec<Refused>,
    /// A reason that holds whatever the node.
    pub pre_filter: Option<String>,
    /// The plugin that gave it.
    pub by: Option<&'static str>,
    /// What preemption said.
    pub post_filter: Option<String>,
}

/// The reasons with the number of nodes that gave each, sorted as upstream sorts them: as text.
pub fn tell<'a>(counts: impl IntoIterator<Item = (&'a str, usize)>) -> String {
    let mut sums: BTreeMap<&str, usize> = BTreeMap::new();
    counts.into_iter().for_each(|(reason, count)| *sums.entry(reason).or_default() += count);
    let mut parts: Vec<String> = sums.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    parts.sort();
    parts.join(", ")
}

impl Diagnosis {
    /// The plugins that refused.
    pub fn plugins(&self) -> BTreeSet<&'static str> {
        self.refused.iter().map(|refused| refused.refusal.plugin).chain(self.by).collect()
    }

    /// The message of the `PodScheduled` condition and the `FailedScheduling` event, as upstream's `FitError`.
    pub fn message(&self) -> String {
        let mut text = format!("0/{} nodes are available:", self.total);
        match &self.pre_filter {
            Some(reason) => text.push_str(&format!(" {reason}.")),
            None => {
                let counts = self.refused.iter().flat_map(|refused| {
                    refused.refusal.reasons().map(|reason| (reason, refused.nodes.len()))
                });
                let reasons = tell(counts);
                if !reasons.is_empty() {
                    text.push_str(&format!(" {reasons}."));
                }
            }
        }
        if let Some(post) = &self.post_filter {
            text.push_str(&format!(" {post}"));
        }
        text
    }

    /// Notes a node's refusal.
    pub fn add(&mut self, refusal: Refusal, node: usize) {
        match self.refused.iter_mut().find(|known| known.refusal == refusal) {
            Some(known) => known.nodes.push(node),
            None => self.refused.push(Refused { refusal, nodes: vec![node] }),
        }
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
    /// What earlier decisions found.
    pub memo: &'a mut Memo,
}

/// The nodes that take a pod.
#[derive(Debug)]
pub struct Feasible {
    /// Their positions.
    pub nodes: Vec<usize>,
    /// What others said, for when these are refused later.
    pub diagnosis: Diagnosis,
}

/// Chooses a node for the cycle's pod.
pub fn decide(round: &mut Round<'_>, cycle: &Cycle<'_>) -> Decision {
    let enough = if round.profile.scores().next().is_some() { None } else { Some(1) };
    match feasible(round, cycle, enough) {
        Ok(found) => Decision::Bind(choose(round, cycle, &found.nodes, &BTreeMap::new()).to_owned()),
        Err(diagnosis) => Decision::Unschedulable(diagnosis),
    }
}

/// Finds nodes that take the cycle's pod: so many as the profile says unless told.
pub fn feasible(
    round: &mut Round<'_>,
    cycle: &Cycle<'_>,
    enough: Option<usize>,
) -> Result<Feasible, Diagnosis> {
    let (pod, snapshot, profile) = (cycle.pod, cycle.snapshot, round.profile);
    let total = snapshot.nodes().len();
    if total == 0 {
        let pre_filter = Some("no nodes available to schedule pods".to_owned());
        return Err(Diagnosis { pre_filter, ..Diagnosis::default() });
    }
    if let Some(refusal) = pre_filter(profile, cycle) {
        let (pre_filter, by) = (Some(refusal.reasons().collect::<Vec<_>>().join(", ")), Some(refusal.plugin));
        return Err(Diagnosis { total, pre_filter, by, ..Diagnosis::default() });
    }
    let mut search = Search {
        profile,
        cycle,
        wide: profile.wide_filters(cycle),
        looks: round.memo.looks(profile, pod),
        feasible: Vec::new(),
        diagnosis: Diagnosis { total, ..Diagnosis::default() },
        by_node: Vec::new(),
    };
    let nominated = pod.nominated_node().and_then(|name| snapshot.node(name));
    if let Some(node) = nominated.filter(|node| refusal(profile, cycle, node).is_none()) {
        return Ok(Feasible { nodes: vec![node.position], diagnosis: search.diagnosis });
    }
    match node::named(pod) {
        Some(names) => search.named(&names),
        None => {
            let usual = || enough_nodes(total, profile.settings.percent_of_nodes);
            search.from(round.start, enough.unwrap_or_else(usual));
        }
    }
    let nodes = std::mem::take(&mut search.feasible);
    let diagnosis = search.diagnosis();
    if nodes.is_empty() { Err(diagnosis) } else { Ok(Feasible { nodes, diagnosis }) }
}

/// The name of the feasible node with the highest score; `extra` is added to the scores of the nodes it names.
pub fn choose<'a>(
    round: &mut Round<'_>,
    cycle: &Cycle<'a>,
    feasible: &[usize],
    extra: &BTreeMap<String, i64>,
) -> &'a str {
    let nodes: Vec<&'a NodeInfo> = feasible.iter().map(|at| &*cycle.snapshot.nodes()[*at]).collect();
    if let [only] = nodes.as_slice() {
        return &only.name;
    }
    let looks = round.memo.looks(round.profile, cycle.pod);
    let mut sums: Vec<i64> = nodes
        .iter()
        .map(|node| if extra.is_empty() { 0 } else { extra.get(&node.name).copied().unwrap_or(0) })
        .collect();
    let mut locals = 0;
    for (score, weight) in round.profile.scores() {
        let scores = match score {
            Score::Local(_, scale) => {
                let mut scores: Vec<i64> = feasible.iter().map(|at| looks.scores(*at)[locals]).collect();
                normalize(&mut scores, scale);
                locals += 1;
                scores
            }
            Score::Whole(score) => match score(cycle, &nodes) {
                Some(scores) => scores,
                None => continue,
            },
        };
        sums.iter_mut().zip(scores).for_each(|(sum, score)| *sum += score * weight);
    }
    let best = sums.iter().copied().max().unwrap_or(0);
    let tied: Vec<&&NodeInfo> =
        nodes.iter().zip(&sums).filter(|(_, sum)| **sum == best).map(|(n, _)| n).collect();
    let pick = usize::try_from(round.rng.below(tied.len() as u64)).unwrap_or(0);
    &tied[pick].name
}

/// The first refusal that holds for every node.
fn pre_filter(profile: &Profile, cycle: &Cycle<'_>) -> Option<Refusal> {
    let active = profile.plugins.iter().filter(|active| active.pre_filter);
    active.filter_map(|active| active.plugin.pre_filter).find_map(|pre_filter| pre_filter(cycle))
}

/// The first refusal of a node, with the pods that room there is kept for and without.
fn refusal(profile: &Profile, cycle: &Cycle<'_>, node: &NodeInfo) -> Option<Refusal> {
    let occupied = cycle.occupied(node);
    let local = profile.refusal_by_node(cycle, occupied.as_deref().unwrap_or(node));
    local.or_else(|| refused_widely(&profile.wide_filters(cycle), cycle, node))
}

/// The first refusal by filters that look at more than the node.
fn refused_widely(wide: &[Filter], cycle: &Cycle<'_>, node: &NodeInfo) -> Option<Refusal> {
    if wide.is_empty() {
        return None;
    }
    if let Some(occupied) = cycle.occupied(node) {
        let mut with = cycle.clone();
        for pod in cycle.snapshot.nominated(&node.name, cycle.pod) {
            with.moved(pod, node, 1);
        }
        if let Some(refusal) = wide.iter().find_map(|filter| filter(&with, &occupied)) {
            return Some(refusal);
        }
    }
    wide.iter().find_map(|filter| filter(cycle, node))
}

/// A decision under way.
struct Search<'a> {
    profile: &'a Profile,
    cycle: &'a Cycle<'a>,
    wide: Vec<Filter>,
    looks: &'a mut Looks,
    /// Positions of the nodes that take the pod.
    feasible: Vec<usize>,
    diagnosis: Diagnosis,
    /// Positions of those that do not, by the number of what `looks` says of them.
    by_node: Vec<Vec<usize>>,
}

impl<'a> Search<'a> {
    fn look_at(&mut self, position: usize) {
        if let Some(number) = self.looks.refusal(self.profile, self.cycle, position) {
            if self.by_node.len() <= number {
                self.by_node.resize(number + 1, Vec::new());
            }
            self.by_node[number].push(position);
            return;
        }
        match refused_widely(&self.wide, self.cycle, &self.cycle.snapshot.nodes()[position]) {
            Some(refusal) => self.diagnosis.add(refusal, position),
            None => self.feasible.push(position),
        }
    }

    /// Looks at nodes from `start` on until enough are found.
    fn from(&mut self, start: &mut usize, enough: usize) {
        let total = self.cycle.snapshot.nodes().len();
        let mut looked = 0;
        while looked < total && self.feasible.len() < enough {
            self.look_at((*start + looked) % total);
            looked += 1;
        }
        *start = (*start + looked) % total;
    }

    /// Looks only at the nodes that the pod names: pods of DaemonSets name one of many.
    fn named(&mut self, names: &BTreeSet<String>) {
        let snapshot = self.cycle.snapshot;
        let positions: BTreeSet<usize> =
            names.iter().filter_map(|name| snapshot.node(name)).map(|node| node.position).collect();
        positions.iter().for_each(|position| self.look_at(*position));
        if self.feasible.is_empty() {
            let reason = format!("node(s) didn't satisfy plugin(s) [{}]", node::AFFINITY);
            let nodes: Vec<usize> =
                (0..snapshot.nodes().len()).filter(|at| !positions.contains(at)).collect();
            if !nodes.is_empty() {
                let refusal = Refusal::told(node::AFFINITY, vec![reason]);
                self.diagnosis.refused.push(Refused { refusal, nodes });
            }
        }
    }

    fn diagnosis(self) -> Diagnosis {
        let mut diagnosis = self.diagnosis;
        let known = self.looks.refusals().iter().zip(self.by_node).filter(|(_, nodes)| !nodes.is_empty());
        for (refusal, nodes) in known {
            diagnosis.refused.push(Refused { refusal: refusal.clone(), nodes });
        }
        diagnosis
    }
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
            assert!(snapshot.add_pod(node, pod));
        }
        snapshot
    }

    fn run(snapshot: &Snapshot, pod: Value) -> String {
        let pod = PodInfo::new(Arc::new(serde_json::from_value(pod).expect("a pod")));
        let profile = Profile::default();
        let mut round =
            Round { profile: &profile, start: &mut 0, rng: &Rng::seeded(1), memo: &mut Memo::default() };
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
    fn room_kept_for_a_pod_is_its_own() {
        let wants = |name: &str, priority: i32| {
            let containers =
                json!([{"name": "c", "image": "i", "resources": {"requests": {"cpu": "1500m"}}}]);
            pod(name, json!({"priority": priority, "containers": containers}))
        };
        let mut snapshot = snapshot(vec![node("a", json!({}))], vec![]);
        let mut cleared = wants("cleared", 5);
        cleared["status"] = json!({"nominatedNodeName": "a"});
        let info = PodInfo::new(Arc::new(serde_json::from_value(cleared.clone()).expect("a pod")));
        snapshot.nominate("a", Arc::new(info));
        let short = "0/1 nodes are available: 1 Insufficient cpu.";
        assert_eq!(run(&snapshot, wants("equal", 5)), short);
        assert_eq!(run(&snapshot, wants("less", 1)), short);
        assert_eq!(run(&snapshot, wants("more", 9)), "a", "more important pods do not wait");
        assert_eq!(run(&snapshot, cleared), "a");
        snapshot.withdraw("a", "cleared");
        assert_eq!(run(&snapshot, wants("equal", 5)), "a");
    }

    #[test]
    fn devices_must_be_allocated_within_reach() {
        let claim = |name: &str, status: Value| {
            let devices = json!({"requests": [{"name": "r", "exactly": {"deviceClassName": "gpu"}}]});
            let meta = json!({"name": name, "namespace": "default"});
            let claim = json!({"metadata": meta, "spec": {"devices": devices}, "status": status});
            serde_json::from_value::<api::k8s::api::resource::v1::ResourceClaim>(claim).expect("a claim")
        };
        let on_b = json!({"nodeSelectorTerms": [
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]}]});
        let mut snapshot = snapshot(vec![node("a", json!({})), node("b", json!({}))], vec![]);
        snapshot.devices.claims = client::Cache::of([
            claim("open", json!({})),
            claim("there", json!({"allocation": {"nodeSelector": on_b}})),
        ]);
        let class = json!({"metadata": {"name": "gpu"}, "spec": {}});
        snapshot.devices.classes = client::Cache::of([serde_json::from_value(class).expect("a class")]);
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
