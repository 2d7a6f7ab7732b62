//! The plan for one set: adopt and release, create or remove pods, write the status.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::k8s::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use api::k8s::api::core::v1::{
    Pod, PodTemplateSpec, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use api::k8s::apimachinery::pkg::apis::meta::v1::Time;
use api::labels::Selector;
use client::plan::{About, Mode, Report};
use client::{DeleteOptions, Meta, Outcome, Plan, Step};
use jiff::Timestamp;

use super::PodSet;
use crate::owner::{Claimed, controller_ref};
use crate::pods;

/// At most so many pods are created or removed in one go, as upstream's burst.
const BURST: usize = 500;

/// What a set wants, whatever its kind.
pub struct Set<'a> {
    pub selector: Selector,
    pub replicas: i32,
    pub min_ready_seconds: i32,
    pub template: &'a PodTemplateSpec,
    pub status: Status,
}

/// The status of either kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    pub replicas: i32,
    pub fully_labeled: i32,
    pub ready: i32,
    pub available: i32,
    pub terminating: Option<i32>,
    pub observed_generation: i64,
    pub conditions: Vec<Condition>,
}

/// A condition of either kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    pub kind: String,
    pub status: String,
    pub reason: Option<String>,
    pub message: Option<String>,
    pub since: Option<Time>,
}

macro_rules! conditions {
    ($list:expr) => {
        $list
            .iter()
            .flatten()
            .map(|condition| Condition {
                kind: condition.type_.clone(),
                status: condition.status.clone(),
                reason: condition.reason.clone(),
                message: condition.message.clone(),
                since: condition.last_transition_time.clone(),
            })
            .collect()
    };
}

macro_rules! conditions_back {
    ($list:expr, $kind:ident) => {{
        let list: Vec<$kind> = $list
            .into_iter()
            .map(|condition| $kind {
                type_: condition.kind,
                status: condition.status,
                reason: condition.reason,
                message: condition.message,
                last_transition_time: condition.since,
            })
            .collect();
        (!list.is_empty()).then_some(list)
    }};
}

fn nonzero(number: i32) -> Option<i32> {
    (number != 0).then_some(number)
}

impl PodSet for ReplicaSet {
    fn view(&self) -> Option<Set<'_>> {
        let spec = self.spec.as_ref()?;
        let status = self.status.clone().unwrap_or_default();
        Some(Set {
            selector: Selector::from_object(Some(&spec.selector)).ok()?,
            replicas: spec.replicas.unwrap_or(1),
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
            template: spec.template.as_ref()?,
            status: Status {
                replicas: status.replicas,
                fully_labeled: status.fully_labeled_replicas.unwrap_or(0),
                ready: status.ready_replicas.unwrap_or(0),
                available: status.available_replicas.unwrap_or(0),
                terminating: status.terminating_replicas,
                observed_generation: status.observed_generation.unwrap_or(0),
                conditions: conditions!(status.conditions),
            },
        })
    }

    fn with_status(&self, status: Status) -> Self {
        let mut set = self.clone();
        set.status = Some(ReplicaSetStatus {
            replicas: status.replicas,
            fully_labeled_replicas: nonzero(status.fully_labeled),
            ready_replicas: nonzero(status.ready),
            available_replicas: nonzero(status.available),
            terminating_replicas: status.terminating,
            observed_generation: Some(status.observed_generation),
            conditions: conditions_back!(status.conditions, ReplicaSetCondition),
        });
        set
    }
}

impl PodSet for ReplicationController {
    fn view(&self) -> Option<Set<'_>> {
        let spec = self.spec.as_ref()?;
        let status = self.status.clone().unwrap_or_default();
        let selector = spec.selector.as_ref().filter(|selector| !selector.is_empty())?;
        Some(Set {
            selector: Selector::from_map(selector),
            replicas: spec.replicas.unwrap_or(1),
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
            template: spec.template.as_ref()?,
            status: Status {
                replicas: status.replicas,
                fully_labeled: status.fully_labeled_replicas.unwrap_or(0),
                ready: status.ready_replicas.unwrap_or(0),
                available: status.available_replicas.unwrap_or(0),
                terminating: None,
                observed_generation: status.observed_generation.unwrap_or(0),
                conditions: conditions!(status.conditions),
            },
        })
    }

    fn with_status(&self, status: Status) -> Self {
        let mut set = self.clone();
        set.status = Some(ReplicationControllerStatus {
            replicas: status.replicas,
            fully_labeled_replicas: nonzero(status.fully_labeled),
            ready_replicas: nonzero(status.ready),
            available_replicas: nonzero(status.available),
            observed_generation: Some(status.observed_generation),
            conditions: conditions_back!(status.conditions, ReplicationControllerCondition),
        });
        set
    }
}

/// What to do about one set. `neighbours` is asked only when pods must go.
pub fn plan<S: PodSet>(
    set: &S,
    view: &Set<'_>,
    claimed: Claimed<Pod>,
    neighbours: impl FnOnce() -> Vec<Arc<Pod>>,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::none();
    plan.stage(Mode::InOrder, claimed.steps);
    let active: Vec<&Arc<Pod>> = claimed.objects.iter().filter(|pod| pods::is_active(pod)).collect();
    let wanted = usize::try_from(view.replicas).unwrap_or(0);
    let missing = wanted.saturating_sub(active.len()).min(BURST);
    let excess = active.len().saturating_sub(wanted).min(BURST);
    if !set.is_deleting() && missing > 0 {
        plan.stage(Mode::SlowStart, creations(set, view.template, missing));
    } else if !set.is_deleting() && excess > 0 {
        let going = choose(&active, &neighbours(), excess, now);
        plan.stage(Mode::Together, going.into_iter().map(|pod| deletion(set, pod)).collect());
    }
    let mut status = count(view, &claimed.objects, now);
    status.observed_generation = set.meta().generation.unwrap_or(0);
    if !S::KIND.eq("ReplicaSet") {
        status.terminating = None;
    }
    let (old, set) = (view.status.clone(), set.clone());
    plan.then(move |outcome| {
        status.conditions = conditions(&old.conditions, outcome, missing > 0, now);
        if status == old { Vec::new() } else { vec![Step::update(&set.with_status(status), "status")] }
    });
    let waits = active.iter().filter_map(|pod| pods::available_in(pod, view.min_ready_seconds, now));
    if let Some(wait) = waits.filter(|wait| !wait.is_zero()).min() {
        plan.requeue(wait);
    }
    plan
}

fn report<S: PodSet>(set: &S, verb: (&'static str, &str), failed: (&'static str, &str)) -> Report {
    Report {
        about: About::of(set),
        done: (verb.0, verb.1.to_owned()),
        failed: (failed.0, failed.1.to_owned()),
    }
}

fn creations<S: PodSet>(set: &S, template: &PodTemplateSpec, count: usize) -> Vec<Step> {
    let prefix = pods::name_prefix(set.name());
    let pod = pods::from_template(template, set.namespace(), &prefix, controller_ref(set));
    let told = report(set, ("SuccessfulCreate", "Created pod: "), ("FailedCreate", "Error creating: "));
    vec![Step::create(&pod).reported(told); count]
}

fn deletion<S: PodSet>(set: &S, pod: &Pod) -> Step {
    let told = report(set, ("SuccessfulDelete", "Deleted pod: "), ("FailedDelete", "Error deleting: "));
    Step::delete(pod, DeleteOptions::uid(pod.uid())).reported(told)
}

/// The `count` pods that should go first.
pub fn choose<'a>(
    active: &[&'a Arc<Pod>],
    neighbours: &[Arc<Pod>],
    count: usize,
    now: Timestamp,
) -> Vec<&'a Pod> {
    let mut crowd: BTreeMap<&str, usize> = BTreeMap::new();
    for pod in neighbours.iter().filter(|pod| pods::is_active(pod)) {
        *crowd.entry(pods::node(pod)).or_default() += 1;
    }
    let rank = |pod: &Pod| crowd.get(pods::node(pod)).copied().unwrap_or(0);
    let mut pods: Vec<(&Pod, usize)> = active.iter().map(|pod| (&***pod, rank(pod))).collect();
    pods.sort_by(|a, b| pods::removal_order(*a, *b, now));
    pods.into_iter().take(count).map(|(pod, _)| pod).collect()
}

fn count(view: &Set<'_>, pods: &[Arc<Pod>], now: Timestamp) -> Status {
    let template = view.template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
    let template = Selector::from_map(&template);
    let mut status = Status::default();
    let mut terminating = 0;
    for pod in pods {
        if pods::is_terminating(pod) {
            terminating += 1;
        }
        if !pods::is_active(pod) {
            continue;
        }
        status.replicas += 1;
        status.fully_labeled += i32::from(template.matches_opt(pod.meta().labels.as_ref()));
        status.ready += i32::from(pods::is_ready(pod));
        status.available += i32::from(pods::is_available(pod, view.min_ready_seconds, now));
    }
    status.terminating = Some(terminating);
    status
}

/// ReplicaFailure appears with the first failure to create or remove pods and goes with the next success.
fn conditions(old: &[Condition], outcome: &Outcome, creating: bool, now: Timestamp) -> Vec<Condition> {
    let is_failure = |condition: &Condition| condition.kind == "ReplicaFailure";
    let known = old.iter().any(is_failure);
    let mut conditions = old.to_vec();
    match &outcome.error {
        None => conditions.retain(|condition| !is_failure(condition)),
        Some(_) if known => {}
        Some(error) => conditions.push(Condition {
            kind: "ReplicaFailure".to_owned(),
            status: "True".to_owned(),
            reason: Some(if creating { "FailedCreate" } else { "FailedDelete" }.to_owned()),
            message: Some(error.clone()),
            since: Some(Time(now)),
        }),
    }
    conditions
}
