//! A whole set's life, step by step: pods become ready at once.

use api::k8s::api::apps::v1::{ControllerRevision, StatefulSet};
use api::k8s::api::core::v1::{PersistentVolumeClaim, Pod};
use client::{Cache, Key, Meta, Outcome, Reconcile, Step};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Controller;
use crate::context::index_orphans;
use crate::history::REVISION_LABEL;

struct World {
    set: StatefulSet,
    pods: Vec<Pod>,
    claims: Vec<PersistentVolumeClaim>,
    revisions: Vec<ControllerRevision>,
    log: Vec<String>,
}

fn set(replicas: i32, image: &str, more: Value) -> StatefulSet {
    let mut value = json!({
        "metadata": {"name": "db", "namespace": "n", "uid": "S", "generation": 1},
        "spec": {
            "replicas": replicas, "serviceName": "svc", "selector": {"matchLabels": {"app": "db"}},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            "template": {
                "metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "c", "image": image}]},
            },
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}],
        },
    });
    for (key, entry) in more.as_object().into_iter().flatten() {
        value["spec"][key] = entry.clone();
    }
    serde_json::from_value(value).expect("a StatefulSet")
}

impl World {
    fn new(set: StatefulSet) -> Self {
        World { set, pods: Vec::new(), claims: Vec::new(), revisions: Vec::new(), log: Vec::new() }
    }

    fn step(&mut self) -> bool {
        let pods = Cache::of(self.pods.clone());
        index_orphans(&pods);
        let controller = Controller {
            sets: Cache::of([self.set.clone()]),
            pods,
            claims: Cache::of(self.claims.clone()),
            revisions: Cache::of(self.revisions.clone()),
        };
        let now: Timestamp = "2030-01-01T00:00:00Z".parse().expect("a time");
        let plan = controller.reconcile(&Key::new("n", "db"), now).expect("a plan");
        let mut steps: Vec<Step> = plan.stages.into_iter().flat_map(|stage| stage.steps).collect();
        steps.extend(plan.then.into_iter().flat_map(|then| then(&Outcome::default())));
        let busy = !steps.is_empty();
        steps.into_iter().for_each(|step| self.apply(step));
        busy
    }

    fn apply(&mut self, step: Step) {
        if !matches!(&step, Step::Update { .. } | Step::Event(_)) {
            self.log.push(step.summary());
        }
        match step {
            Step::Create { resource, object, .. } if resource.kind == "Pod" => {
                let mut pod: Pod = serde_json::from_value(object).expect("a Pod");
                pod.metadata.uid = pod.metadata.name.clone();
                let status = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
                pod.status = serde_json::from_value(status).expect("a status");
                self.pods.push(pod);
            }
            Step::Create { resource, object, .. } if resource.kind == "ControllerRevision" => {
                self.revisions.push(serde_json::from_value(object).expect("a revision"));
            }
            Step::Create { object, .. } => self.claims.push(serde_json::from_value(object).expect("a claim")),
            Step::Update { resource, object, .. } if resource.kind == "StatefulSet" => {
                self.set = serde_json::from_value(object).expect("a StatefulSet");
            }
            Step::Delete { resource, key, .. } if resource.kind == "Pod" => {
                self.pods.retain(|pod| pod.name() != &*key.name);
            }
            _ => {}
        }
    }

    fn settle(&mut self) {
        self.log.clear();
        for _ in 0..100 {
            if !self.step() {
                return;
            }
        }
        panic!("no end: {:?}", self.log);
    }

    fn change(&mut self, mut next: StatefulSet) {
        next.status = self.set.status.take();
        next.metadata.generation = self.set.metadata.generation.map(|number| number + 1);
        self.set = next;
    }
}

#[test]
fn pods_come_and_go_in_order() {
    let mut world = World::new(set(3, "a", Value::Null));
    world.settle();
    let log: Vec<&str> = world.log.iter().filter(|line| line.contains(" n/d")).map(String::as_str).collect();
    let claims = log.iter().filter(|line| line.contains("persistentvolumeclaims")).count();
    assert_eq!((log.len(), claims), (7, 3), "{log:?}");
    let created: Vec<&String> = world.log.iter().filter(|line| line.starts_with("create pods")).collect();
    assert_eq!(created, ["create pods n/db-0", "create pods n/db-1", "create pods n/db-2"]);
    let pod = &world.pods[1];
    assert_eq!(pod.label("statefulset.kubernetes.io/pod-name"), Some("db-1"));
    assert_eq!(pod.spec.as_ref().and_then(|spec| spec.hostname.as_deref()), Some("db-1"));
    let status = world.set.status.as_ref().expect("a status");
    assert_eq!((status.replicas, status.ready_replicas, status.current_replicas), (3, Some(3), Some(3)));
    world.change(set(1, "a", Value::Null));
    world.settle();
    assert_eq!(world.log, ["delete pods n/db-2", "delete pods n/db-1"]);
}

#[test]
fn updates_go_down_to_the_partition() {
    let mut world = World::new(set(3, "a", Value::Null));
    world.settle();
    let old = world.pods[0].label(REVISION_LABEL).map(str::to_owned);
    world.change(set(3, "b", json!({"updateStrategy": {"rollingUpdate": {"partition": 1}}})));
    world.settle();
    let deleted: Vec<&String> = world.log.iter().filter(|line| line.starts_with("delete")).collect();
    assert_eq!(deleted, ["delete pods n/db-2", "delete pods n/db-1"]);
    let zero = world.pods.iter().find(|pod| pod.name() == "db-0").expect("kept");
    assert_eq!(zero.label(REVISION_LABEL).map(str::to_owned), old);
    let status = world.set.status.clone().expect("a status");
    assert_ne!(status.current_revision, status.update_revision);
    // The old template still serves ordinals below the partition.
    world.pods.retain(|pod| pod.name() != "db-0");
    world.settle();
    let zero = world.pods.iter().find(|pod| pod.name() == "db-0").expect("made again");
    assert_eq!(zero.label(REVISION_LABEL).map(str::to_owned), old);
    world.change(set(3, "b", Value::Null));
    world.settle();
    let status = world.set.status.clone().expect("a status");
    assert_eq!(status.current_revision, status.update_revision);
    assert_eq!(world.revisions.len(), 2);
}

#[test]
fn parallel_sets_do_not_wait() {
    let mut world = World::new(set(3, "a", json!({"podManagementPolicy": "Parallel"})));
    world.step();
    assert_eq!(world.pods.len(), 3);
}
