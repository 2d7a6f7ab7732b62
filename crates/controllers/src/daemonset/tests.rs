//! Objects in, plan out.

use std::collections::BTreeMap;

use api::k8s::api::apps::v1::{ControllerRevision, DaemonSet};
use api::k8s::api::core::v1::{Node, Pod};
use base::Clock;
use client::{Cache, Key, Meta, Outcome, Plan, Reconcile, Step};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::Controller;
use crate::context::index_orphans;

fn set(image: &str, strategy: Value) -> DaemonSet {
    serde_json::from_value(json!({
        "metadata": {"name": "d", "namespace": "n", "uid": "S", "generation": 2},
        "spec": {
            "selector": {"matchLabels": {"app": "d"}}, "updateStrategy": strategy,
            "template": {
                "metadata": {"labels": {"app": "d"}},
                "spec": {"nodeSelector": {"role": "x"}, "containers": [{"name": "c", "image": image}]},
            },
        },
    }))
    .expect("a DaemonSet")
}

fn node(name: &str, role: &str, taints: Value) -> Node {
    serde_json::from_value(
        json!({"metadata": {"name": name, "labels": {"role": role}}, "spec": {"taints": taints}}),
    )
    .expect("a node")
}

struct World {
    set: DaemonSet,
    nodes: Vec<Node>,
    pods: Vec<Pod>,
    revisions: Vec<ControllerRevision>,
}

impl World {
    fn plan(&self) -> Plan {
        let pods = Cache::of(self.pods.clone());
        index_orphans(&pods);
        let controller = Controller {
            sets: Cache::of([self.set.clone()]),
            pods,
            nodes: Cache::of(self.nodes.clone()),
            revisions: Cache::of(self.revisions.clone()),
            clock: Clock::system(),
            failures: Mutex::new(BTreeMap::new()),
        };
        let now = "2030-01-01T00:00:00Z".parse().expect("a time");
        controller.reconcile(&Key::new("n", "d"), now).expect("a plan")
    }

    /// Applies a plan; new pods are placed and ready at once. Returns creations and deletions.
    fn step(&mut self) -> Vec<String> {
        let plan = self.plan();
        let mut steps: Vec<Step> = plan.stages.into_iter().flat_map(|stage| stage.steps).collect();
        steps.extend(plan.then.into_iter().flat_map(|then| then(&Outcome::default())));
        let mut log = Vec::new();
        for step in steps {
            match step {
                Step::Create { resource, object, .. } if resource.kind == "Pod" => {
                    let mut pod: Pod = serde_json::from_value(object).expect("a Pod");
                    let spec = pod.spec.as_mut().expect("a spec");
                    let node = super::fit::pinned_to(spec).expect("pinned").to_owned();
                    spec.node_name = Some(node.clone());
                    let name = format!("{node}-{}", self.pods.len());
                    pod.metadata.name = Some(name.clone());
                    pod.metadata.uid = Some(name);
                    let status =
                        json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
                    pod.status = serde_json::from_value(status).expect("a status");
                    self.pods.push(pod);
                    log.push(format!("create {node}"));
                }
                Step::Create { object, .. } => {
                    self.revisions.push(serde_json::from_value(object).expect("a revision"));
                }
                Step::Update { object, .. } => self.set = serde_json::from_value(object).expect("a set"),
                Step::Delete { key, .. } => {
                    self.pods.retain(|pod| pod.name() != &*key.name);
                    log.push(format!("delete {}", key.name));
                }
                _ => {}
            }
        }
        log
    }
}

fn world(nodes: Vec<Node>) -> World {
    World { set: set("a", json!({"type": "RollingUpdate"})), nodes, pods: Vec::new(), revisions: Vec::new() }
}

#[test]
fn one_pod_on_each_fitting_node() {
    let taint = |effect: &str| json!([{"key": "k", "effect": effect}]);
    let mut world = world(vec![
        node("a", "x", json!([])),
        node("b", "y", json!([])),
        node("c", "x", taint("NoSchedule")),
        node("d", "x", json!([{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}])),
    ]);
    assert_eq!(world.step(), ["create a", "create d"]);
    world.step();
    let status = world.set.status.clone().expect("a status");
    assert_eq!(
        (status.desired_number_scheduled, status.number_ready, status.number_available),
        (2, 2, Some(2))
    );
    world.nodes[0] = node("a", "x", taint("NoSchedule"));
    assert_eq!(world.step(), Vec::<String>::new(), "a pod that is there may stay");
    world.nodes[0] = node("a", "x", taint("NoExecute"));
    assert_eq!(world.step(), ["delete a-0"]);
    world.nodes[0] = node("a", "z", json!([]));
    assert_eq!(world.step(), Vec::<String>::new());
}

#[test]
fn rolling_update_one_at_a_time() {
    let mut world = world(vec![node("a", "x", json!([])), node("b", "x", json!([]))]);
    world.step();
    let (status, generation) = (world.set.status.clone(), world.set.metadata.generation);
    world.set = set("b", json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}}));
    world.set.status = status;
    world.set.metadata.generation = generation;
    assert_eq!(world.step(), ["delete a-0"]);
    assert_eq!(world.step(), ["create a"]);
    assert_eq!(world.step(), ["delete b-1"]);
    world.step();
    assert_eq!(world.step(), Vec::<String>::new());
    assert_eq!(world.set.status.as_ref().and_then(|status| status.updated_number_scheduled), Some(2));
    assert_eq!(world.revisions.len(), 2);
    let hash = world.revisions[1].label("controller-revision-hash");
    assert!(hash.is_some() && world.pods.iter().all(|pod| pod.label("controller-revision-hash") == hash));
}

#[test]
fn failed_pods_are_replaced() {
    let mut world = world(vec![node("a", "x", json!([]))]);
    world.step();
    world.pods[0].status.as_mut().expect("a status").phase = Some("Failed".into());
    assert_eq!(world.step(), ["delete a-0"]);
    assert_eq!(world.step(), ["create a"]);
}
