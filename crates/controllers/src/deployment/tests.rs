//! Objects in, plan out; and whole rollouts, step by step.

use api::k8s::api::apps::v1::{Deployment, ReplicaSet};
use client::{Cache, Key, Meta, Outcome, Plan, Reconcile, Step};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Controller, sets};
use crate::context::index_orphans;

fn now() -> Timestamp {
    "2030-01-01T00:01:00Z".parse().expect("a time")
}

fn deployment(replicas: i32, image: &str, more: Value) -> Deployment {
    let mut value = json!({
        "metadata": {"name": "web", "namespace": "n", "uid": "D", "generation": 1},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "revisionHistoryLimit": 1,
            "progressDeadlineSeconds": 600,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
            "template": {
                "metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]},
            },
        },
    });
    for (key, entry) in more.as_object().into_iter().flatten() {
        value["spec"][key] = entry.clone();
    }
    serde_json::from_value(value).expect("a Deployment")
}

fn reconcile(deployment: &Deployment, sets: &[ReplicaSet]) -> Plan {
    let sets = Cache::of(sets.to_vec());
    index_orphans(&sets);
    let controller = Controller { deployments: Cache::of([deployment.clone()]), sets, pods: Cache::new() };
    controller.reconcile(&Key::new("n", "web"), now()).expect("a plan")
}

/// A cluster of one Deployment: applies plans, and makes the pods of every set ready at once.
struct World {
    deployment: Deployment,
    sets: Vec<ReplicaSet>,
    events: Vec<String>,
    least: i32,
    most: i32,
}

impl World {
    fn step(&mut self) -> bool {
        let plan = reconcile(&self.deployment, &self.sets);
        let mut steps: Vec<Step> = plan.stages.into_iter().flat_map(|stage| stage.steps).collect();
        steps.extend(
            plan.then.into_iter().flat_map(|then| then(&Outcome { created: 1, ..Outcome::default() })),
        );
        let busy = !steps.is_empty();
        for step in steps {
            match step {
                Step::Create { object, .. } => {
                    let mut set: ReplicaSet = serde_json::from_value(object).expect("a ReplicaSet");
                    set.metadata.uid = set.metadata.name.clone();
                    let at = now() + std::time::Duration::from_secs(self.sets.len() as u64);
                    set.metadata.creation_timestamp =
                        Some(api::k8s::apimachinery::pkg::apis::meta::v1::Time(at));
                    self.sets.push(set);
                }
                Step::Update { resource, object, .. } if resource.kind == "ReplicaSet" => {
                    let set: ReplicaSet = serde_json::from_value(object).expect("a ReplicaSet");
                    let at = self.sets.iter().position(|known| known.name() == set.name()).expect("known");
                    self.sets[at] = set;
                }
                Step::Update { object, .. } => {
                    self.deployment = serde_json::from_value(object).expect("a Deployment");
                }
                Step::Delete { key, .. } => self.sets.retain(|set| set.name() != &*key.name),
                Step::Event(note) => self.events.push(note.message),
                Step::Patch { .. } => panic!("no patch expected"),
            }
        }
        let total: i32 = self.sets.iter().map(sets::replicas).sum();
        self.most = self.most.max(total);
        busy
    }

    fn pods_follow(&mut self) {
        for set in &mut self.sets {
            let size = sets::replicas(set);
            let status = set.status.get_or_insert_default();
            status.replicas = size;
            status.available_replicas = Some(size);
            status.ready_replicas = Some(size);
        }
        let available: i32 = self.sets.iter().map(sets::available).sum();
        self.least = self.least.min(available);
    }

    fn settle(&mut self) {
        for _ in 0..100 {
            let busy = self.step();
            self.pods_follow();
            if !busy {
                return;
            }
        }
        panic!("no end");
    }

    fn change(&mut self, next: Deployment) {
        let generation = self.deployment.metadata.generation.unwrap_or(0) + 1;
        let (status, annotations) =
            (self.deployment.status.take(), self.deployment.metadata.annotations.take());
        self.deployment = next;
        self.deployment.metadata.generation = Some(generation);
        self.deployment.metadata.annotations = annotations;
        self.deployment.status = status;
        self.events.clear();
        (self.least, self.most) = (i32::MAX, 0);
    }

    fn sizes(&self) -> Vec<i32> {
        self.sets.iter().map(sets::replicas).collect()
    }

    fn condition(&self, kind: &str) -> (String, String) {
        let status = self.deployment.status.as_ref().expect("a status");
        let found = super::status::condition(status, kind).expect("the condition");
        (found.status.clone(), found.reason.clone().unwrap_or_default())
    }
}

fn world(deployment: Deployment) -> World {
    World { deployment, sets: Vec::new(), events: Vec::new(), least: i32::MAX, most: 0 }
}

#[test]
fn a_new_deployment_gets_a_set() {
    let mut world = world(deployment(3, "a", Value::Null));
    world.settle();
    assert_eq!(world.sizes(), [3]);
    let name = world.sets[0].name().to_owned();
    assert_eq!(world.events, [format!("Scaled up replica set {name} from 0 to 3")]);
    assert_eq!(world.deployment.annotation(sets::REVISION), Some("1"));
    assert_eq!(world.condition("Available"), ("True".into(), "MinimumReplicasAvailable".into()));
    assert_eq!(world.condition("Progressing"), ("True".into(), "NewReplicaSetAvailable".into()));
    assert!(name.starts_with("web-") && world.sets[0].label("pod-template-hash") == Some(&name[4..]));
}

#[test]
fn a_rolling_update_keeps_its_bounds() {
    let mut world = world(deployment(10, "a", Value::Null));
    world.settle();
    world.change(deployment(10, "b", Value::Null));
    world.settle();
    assert_eq!(world.sizes(), [0, 10]);
    assert!(world.least >= 8 && world.most <= 13, "{} {}", world.least, world.most);
    assert!(world.events[0].starts_with("Scaled up replica set") && world.events[0].ends_with("from 0 to 3"));
    // Back to the first template: its set is used again with a new revision.
    world.change(deployment(10, "a", Value::Null));
    world.settle();
    assert_eq!(world.sizes(), [10, 0]);
    assert_eq!(world.deployment.annotation(sets::REVISION), Some("3"));
    assert_eq!(world.sets[0].annotation("deployment.kubernetes.io/revision-history"), Some("1"));
    // The history limit of one removes the oldest.
    world.change(deployment(10, "c", Value::Null));
    world.settle();
    assert_eq!(world.sizes(), [0, 10]);
}

#[test]
fn surge_only_never_goes_below() {
    let rolling = json!({"strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}});
    let mut world = world(deployment(4, "a", rolling.clone()));
    world.settle();
    world.change(deployment(4, "b", rolling));
    world.settle();
    assert_eq!((world.sizes(), world.least, world.most), (vec![0, 4], 4, 5));
}

#[test]
fn recreate_waits_for_the_old_pods() {
    let recreate = json!({"strategy": {"type": "Recreate"}});
    let mut world = world(deployment(3, "a", recreate.clone()));
    world.settle();
    world.change(deployment(3, "b", recreate));
    world.step();
    assert_eq!(world.sizes(), [0]);
    world.step();
    assert_eq!(world.sets.len(), 1, "old pods are still there");
    world.pods_follow();
    world.settle();
    assert_eq!((world.sizes(), world.most), (vec![0, 3], 3));
}

#[test]
fn recreate_ends_a_rollout_even_when_it_is_scaled_at_once() {
    let mut world = world(deployment(6, "a", Value::Null));
    world.settle();
    world.change(deployment(6, "b", Value::Null));
    world.step();
    world.step();
    assert!(world.sizes().iter().all(|size| *size > 0), "{:?}", world.sizes());
    world.change(deployment(3, "a", json!({"strategy": {"type": "Recreate"}})));
    world.settle();
    assert_eq!(world.sizes(), [3, 0]);
}

#[test]
fn scaling_during_a_rollout_is_proportional() {
    let mut world = world(deployment(10, "a", Value::Null));
    world.settle();
    world.change(deployment(10, "b", Value::Null));
    world.step();
    world.step();
    let before = world.sizes();
    assert_eq!(before, [8, 3]);
    world.change(deployment(20, "b", Value::Null));
    world.step();
    assert_eq!(world.sizes().iter().sum::<i32>(), 25);
    assert!(world.sizes()[0] > 12 && world.sizes()[1] > 5, "{:?}", world.sizes());
}

#[test]
fn a_paused_deployment_makes_no_set_but_scales() {
    let mut world = world(deployment(2, "a", Value::Null));
    world.settle();
    world.change(deployment(5, "b", json!({"paused": true})));
    world.settle();
    assert_eq!(world.sizes(), [5]);
    assert_eq!(world.condition("Progressing").1, "DeploymentPaused");
}

#[test]
fn a_refused_set_is_told() {
    let plan = reconcile(&deployment(1, "a", Value::Null), &[]);
    let failed = Outcome { failed: 1, error: Some("quota".into()), ..Outcome::default() };
    let steps = plan.then.expect("a follow-up")(&failed);
    assert_eq!(steps.len(), 2);
    assert!(
        steps[1]
            .summary()
            .starts_with("event Warning ReplicaSetCreateError: Failed to create new replica set")
    );
}

#[test]
fn pods_about_to_go_are_not_counted_on() {
    let set = |replicas: i32, available: i32| -> ReplicaSet {
        let spec = json!({"replicas": replicas, "selector": {}});
        let status = json!({"replicas": available, "availableReplicas": available});
        serde_json::from_value(json!({"metadata": {}, "spec": spec, "status": status})).expect("a ReplicaSet")
    };
    let spec = deployment(4, "2", json!({})).spec.expect("a spec");
    for (reported, expect) in [(3, 2), (4, 2), (2, 2)] {
        let sizes = super::rolling::old_sizes(&spec, &set(2, 1), &[set(3, reported)]);
        assert_eq!(sizes, [expect], "{reported} reported");
    }
}
