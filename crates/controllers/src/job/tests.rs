//! A Job's life, step by step; the test decides how pods end.

use std::collections::BTreeMap;
use std::time::Duration;

use api::k8s::api::batch::v1::{Job, JobStatus};
use api::k8s::api::core::v1::Pod;
use client::{Cache, Key, Meta, Outcome, Reconcile, Step};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{BY_JOB, Controller, work};
use crate::context::index_orphans;

struct World {
    job: Job,
    pods: Vec<Pod>,
    made: usize,
    now: Timestamp,
    controller: Option<Controller>,
    events: Vec<String>,
}

fn world(spec: Value) -> World {
    let mut all = json!({
        "parallelism": 1, "completions": 1, "backoffLimit": 6, "selector": {"matchLabels": {"job": "j"}},
        "template": {
            "metadata": {"labels": {"job": "j"}},
            "spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]},
        },
    });
    for (key, value) in spec.as_object().into_iter().flatten() {
        all[key] = value.clone();
    }
    let job = json!({"metadata": {"name": "j", "namespace": "n", "uid": "J"}, "spec": all});
    World {
        job: serde_json::from_value(job).expect("a Job"),
        pods: Vec::new(),
        made: 0,
        now: "2030-01-01T00:00:00Z".parse().expect("a time"),
        controller: None,
        events: Vec::new(),
    }
}

impl World {
    /// Reconciles until nothing happens; returns how many pods were made.
    fn settle(&mut self) -> usize {
        let before = self.made;
        for _ in 0..50 {
            if !self.step() {
                return self.made - before;
            }
        }
        panic!("no end");
    }

    fn step(&mut self) -> bool {
        let pods = Cache::of(self.pods.clone());
        index_orphans(&pods);
        pods.add_index(BY_JOB, std::sync::Arc::new(|_: &Pod| vec!["n/j".to_owned()]));
        let failures =
            self.controller.take().map(|old| old.failures).unwrap_or_else(|| Mutex::new(BTreeMap::new()));
        let controller = Controller { jobs: Cache::of([self.job.clone()]), pods, failures };
        let plan = controller.reconcile(&Key::new("n", "j"), self.now).expect("a plan");
        self.controller = Some(controller);
        let mut steps: Vec<Step> = plan.stages.into_iter().flat_map(|stage| stage.steps).collect();
        steps.extend(plan.then.into_iter().flat_map(|then| then(&Outcome::default())));
        let busy = !steps.is_empty();
        for step in steps {
            match step {
                Step::Create { object, .. } => {
                    let mut pod: Pod = serde_json::from_value(object).expect("a Pod");
                    let name = format!("p{}", self.made);
                    self.made += 1;
                    pod.metadata.uid = Some(name.clone());
                    pod.metadata.name = Some(name);
                    self.pods.push(pod);
                }
                Step::Update { object, .. } => self.job = serde_json::from_value(object).expect("a Job"),
                Step::Patch { key, .. } => {
                    let pod = self.pods.iter_mut().find(|pod| pod.name() == &*key.name).expect("known");
                    pod.metadata.finalizers = None;
                }
                Step::Delete { key, .. } => self.pods.retain(|pod| pod.name() != &*key.name),
                Step::Event(note) => self.events.push(note.message),
            }
        }
        busy
    }

    /// Ends the running pods.
    fn end(&mut self, phase: &str, code: i32) {
        let at = api::time::format(self.now);
        for pod in self.pods.iter_mut().filter(|pod| crate::pods::is_active(pod)) {
            let terminated = json!({"terminated": {"exitCode": code, "finishedAt": at}});
            let container = json!({"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": terminated});
            let status = json!({"phase": phase, "containerStatuses": [container]});
            pod.status = serde_json::from_value(status).expect("a status");
        }
    }

    fn later(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    fn status(&self) -> JobStatus {
        self.job.status.clone().expect("a status")
    }

    fn reason(&self, kind: &str) -> Option<String> {
        work::condition(&self.status(), kind).and_then(|condition| condition.reason.clone())
    }
}

#[test]
fn runs_to_completion() {
    let mut world = world(json!({"completions": 3, "parallelism": 2}));
    assert_eq!(world.settle(), 2);
    assert!(world.pods.iter().all(work::is_tracked));
    world.end("Succeeded", 0);
    assert_eq!(world.settle(), 1);
    world.end("Succeeded", 0);
    assert_eq!(world.settle(), 0);
    let status = world.status();
    assert_eq!((status.succeeded, status.active, status.completion_time.is_some()), (Some(3), None, true));
    assert_eq!(world.reason("Complete"), Some("CompletionsReached".into()));
    assert!(world.pods.iter().all(|pod| !work::is_tracked(pod)));
    assert_eq!(world.events, ["Job completed"]);
}

#[test]
fn failures_are_retried_with_delay_up_to_the_limit() {
    let mut world = world(json!({"backoffLimit": 1}));
    world.settle();
    world.end("Failed", 1);
    assert_eq!(world.settle(), 0, "held back");
    world.later(10);
    assert_eq!(world.settle(), 1);
    world.end("Failed", 1);
    assert_eq!(world.settle(), 0);
    assert_eq!(world.reason("Failed"), Some("BackoffLimitExceeded".into()));
    assert_eq!(world.status().failed, Some(2));
}

#[test]
fn indexes_have_names_and_are_completed() {
    let mut world = world(json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed"}));
    assert_eq!(world.settle(), 3);
    let spec = world.pods[1].spec.as_ref().expect("a spec");
    assert_eq!(spec.hostname.as_deref(), Some("j-1"));
    assert_eq!(spec.containers[0].env.as_ref().map(|env| env[0].name.as_str()), Some("JOB_COMPLETION_INDEX"));
    world.end("Succeeded", 0);
    world.settle();
    assert_eq!(world.status().completed_indexes.as_deref(), Some("0-2"));
    assert_eq!(world.reason("Complete"), Some("CompletionsReached".into()));
}

#[test]
fn failed_indexes_end_alone() {
    let spec = json!({
        "completions": 2, "parallelism": 2, "completionMode": "Indexed", "backoffLimitPerIndex": 1, "backoffLimit": 100,
    });
    let mut world = world(spec);
    world.settle();
    let mut last = world.pods.pop().expect("two pods");
    world.end("Failed", 1);
    last.status = serde_json::from_value(json!({"phase": "Succeeded"})).expect("a status");
    world.pods.push(last);
    world.settle();
    assert_eq!(world.status().completed_indexes.as_deref(), Some("1"));
    world.later(10);
    assert_eq!(world.settle(), 1);
    world.end("Failed", 1);
    world.settle();
    assert_eq!(world.status().failed_indexes.as_deref(), Some("0"));
    assert_eq!(world.reason("Failed"), Some("FailedIndexes".into()));
}

#[test]
fn the_failure_policy_decides() {
    let rules = json!([
        {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [7]}},
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}},
    ]);
    let mut world = world(json!({"podFailurePolicy": {"rules": rules}, "backoffLimit": 0}));
    world.settle();
    world.end("Failed", 7);
    assert_eq!(world.settle(), 1, "an ignored failure is replaced at once");
    world.end("Failed", 42);
    world.settle();
    assert_eq!(world.reason("Failed"), Some("PodFailurePolicy".into()));
    assert!(
        world.events[0].ends_with("failed with exit code 42 matching FailJob rule at index 1"),
        "{:?}",
        world.events
    );
}

#[test]
fn success_policy_suspension_and_deadline() {
    let rules = json!([{"succeededIndexes": "0"}]);
    let mut world = world(json!({
        "completions": 2, "parallelism": 1, "completionMode": "Indexed", "successPolicy": {"rules": rules},
        "activeDeadlineSeconds": 60,
    }));
    world.settle();
    world.job.spec.as_mut().expect("a spec").suspend = Some(true);
    world.settle();
    assert!(world.pods.is_empty() && world.status().start_time.is_none());
    world.job.spec.as_mut().expect("a spec").suspend = Some(false);
    assert_eq!(world.settle(), 1);
    world.end("Succeeded", 0);
    world.settle();
    assert_eq!(world.reason("Complete"), Some("SuccessPolicy".into()));
    let mut world = self::world(json!({"activeDeadlineSeconds": 60}));
    world.settle();
    world.later(60);
    world.settle();
    assert_eq!(world.reason("Failed"), Some("DeadlineExceeded".into()));
}

#[test]
fn pods_let_go_are_no_longer_tracked() {
    let mut world = world(json!({"completions": 2, "parallelism": 1}));
    world.settle();
    let pod = &mut world.pods[0];
    pod.metadata.owner_references = None;
    pod.metadata.labels = None;
    let pods = Cache::of(world.pods.clone());
    index_orphans(&pods);
    let jobs = Cache::of([world.job.clone()]);
    let controller = Controller { jobs, pods, failures: Mutex::new(BTreeMap::new()) };
    let plan = controller.reconcile(&super::orphans_of("n"), world.now).expect("a plan");
    assert!(plan.steps()[0].summary().contains("$deleteFromPrimitiveList/finalizers"));
}

#[test]
fn a_failure_stays_one_when_the_pod_ends_well_after_all() {
    let mut world = world(json!({"completions": 2}));
    world.settle();
    world.job.status =
        serde_json::from_value(json!({"uncountedTerminatedPods": {"failed": ["p0"]}})).expect("it");
    let mut pod = world.pods[0].clone();
    pod.status = serde_json::from_value(json!({"phase": "Succeeded"})).expect("a status");
    let spec = world.job.spec.clone().expect("a spec");
    let finished = work::Finished::of(&world.job, &spec, &[std::sync::Arc::new(pod)]);
    assert_eq!(finished.pending.succeeded, None, "no pod is counted twice");
    assert_eq!((finished.new_successes, finished.new_failures, finished.release.len()), (0, 0, 1));
}

#[test]
fn a_job_ends_while_it_is_suspended() {
    let mut world = world(json!({}));
    world.settle();
    let mut last = world.pods[0].clone();
    world.job.spec.as_mut().expect("a spec").suspend = Some(true);
    world.settle();
    assert!(world.status().start_time.is_none());
    // It had ended before its deletion was seen.
    last.metadata.deletion_timestamp = Some(api::k8s::apimachinery::pkg::apis::meta::v1::Time(world.now));
    last.status.get_or_insert_default().phase = Some("Succeeded".to_owned());
    world.pods.push(last);
    world.settle();
    assert_eq!(world.reason("Complete"), Some("CompletionsReached".into()));
    assert!(world.status().start_time.is_some(), "a finished Job without startTime is invalid");
}
