//! Objects in, plan out.

use std::time::Duration;

use api::k8s::api::apps::v1::ReplicaSet;
use api::k8s::api::core::v1::Pod;
use client::{Cache, Key, Outcome, Plan, Reconcile};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Controller;
use crate::context::index_orphans;

fn set(replicas: i32, status: Value) -> ReplicaSet {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "n", "uid": "U", "generation": 1, "resourceVersion": "5"},
        "spec": {
            "replicas": replicas, "minReadySeconds": 10, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c"}]}},
        },
        "status": status,
    }))
    .expect("a ReplicaSet")
}

fn pod(name: &str, change: Value) -> Pod {
    let mut pod = json!({
        "metadata": {
            "name": name, "namespace": "n", "uid": name, "labels": {"app": "web"},
            "creationTimestamp": "2030-01-01T00:00:00Z",
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "U", "controller": true,
            }],
        },
        "spec": {"nodeName": "node", "containers": []},
        "status": {"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2030-01-01T00:00:00Z"},
        ]},
    });
    merge(&mut pod, change);
    serde_json::from_value(pod).expect("a Pod")
}

fn merge(target: &mut Value, change: Value) {
    match (target, change) {
        (Value::Object(target), Value::Object(change)) => {
            for (key, value) in change {
                merge(target.entry(key).or_insert(Value::Null), value);
            }
        }
        (target, change) => *target = change,
    }
}

fn at(seconds: i64) -> Timestamp {
    "2030-01-01T00:00:00Z".parse::<Timestamp>().expect("a time") + Duration::from_secs(seconds.unsigned_abs())
}

fn reconcile(set: ReplicaSet, pods: Vec<Pod>, now: Timestamp) -> Plan {
    let pods = Cache::of(pods);
    index_orphans(&pods);
    let controller = Controller { sets: Cache::of([set]), pods };
    controller.reconcile(&Key::new("n", "web"), now).expect("a plan")
}

fn check(set: ReplicaSet, pods: Vec<Pod>, expect: &[&str]) {
    let plan = reconcile(set, pods, at(100));
    let steps: Vec<String> = plan.steps().iter().map(|step| step.summary()).collect();
    assert_eq!(steps, expect);
}

#[test]
fn creates_what_is_missing() {
    check(set(2, Value::Null), vec![], &["create pods n/web-", "create pods n/web-"]);
    check(
        set(1, Value::Null),
        vec![pod("a", json!({"status": {"phase": "Failed"}}))],
        &["create pods n/web-"],
    );
}

#[test]
fn removes_the_least_useful_first() {
    let not_ready = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    let cheap = json!({"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": "-5"}}});
    let pods = || vec![pod("a", json!({})), pod("b", not_ready.clone()), pod("c", cheap.clone())];
    check(set(2, Value::Null), pods(), &["delete pods n/b"]);
    check(set(1, Value::Null), pods(), &["delete pods n/b", "delete pods n/c"]);
}

#[test]
fn adopts_and_releases() {
    let orphan = pod("a", json!({"metadata": {"ownerReferences": null}}));
    let stranger = pod("b", json!({"metadata": {"labels": {"app": "other"}}}));
    let plan = reconcile(set(1, Value::Null), vec![orphan, stranger], at(100));
    let steps: Vec<String> = plan.steps().iter().map(|step| step.summary()).collect();
    assert_eq!(steps.len(), 2);
    assert!(steps[0].starts_with("patch pods n/b") && steps[0].contains(r#""$patch":"delete","uid":"U""#));
    assert!(steps[1].starts_with("patch pods n/a") && steps[1].contains(r#""controller":true"#));
}

#[test]
fn status_tells_availability_and_failures() {
    let plan = reconcile(set(1, Value::Null), vec![pod("a", json!({}))], at(4));
    assert_eq!(plan.requeue_after, Some(Duration::from_secs(6)));
    let failed = Outcome { failed: 1, error: Some("no quota".into()), ..Outcome::default() };
    let steps = plan.then.expect("a status")(&failed);
    let client::Step::Update { object, .. } = &steps[0] else { panic!("an update") };
    assert_eq!(object["status"]["readyReplicas"], 1);
    assert_eq!(object["status"]["availableReplicas"], Value::Null);
    assert_eq!(object["status"]["conditions"][0]["message"], "no quota");
    let full = json!({
        "replicas": 1, "fullyLabeledReplicas": 1, "readyReplicas": 1, "availableReplicas": 1,
        "terminatingReplicas": 0, "observedGeneration": 1,
    });
    let plan = reconcile(set(1, full), vec![pod("a", json!({}))], at(10));
    assert!(plan.then.expect("a status")(&Outcome::default()).is_empty(), "nothing changed");
}
