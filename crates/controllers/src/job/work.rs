//! What a Job's pods and status add up to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::k8s::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods};
use api::k8s::api::core::v1::Pod;
use client::Meta;
use jiff::Timestamp;

use super::indexes;
use super::policy::{self, Action};
use crate::pods;

/// Keeps a pod until its end has been counted.
pub const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// How often a pod's index had failed before it was made.
pub const INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";

pub fn condition<'a>(status: &'a JobStatus, kind: &str) -> Option<&'a JobCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == kind && condition.status == "True")
}

pub fn is_finished(job: &Job) -> bool {
    job.status.as_ref().is_some_and(|status| {
        condition(status, "Complete").is_some() || condition(status, "Failed").is_some()
    })
}

pub fn is_tracked(pod: &Pod) -> bool {
    pod.meta().finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

pub fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

/// True when going pods are replaced only once they have failed.
pub fn replaces_failed_only(spec: &JobSpec) -> bool {
    spec.pod_replacement_policy.as_deref() == Some("Failed") || spec.pod_failure_policy.is_some()
}

fn has_failed(spec: &JobSpec, pod: &Pod) -> bool {
    let phase = pods::phase(pod);
    phase == "Failed" || (!replaces_failed_only(spec) && pod.is_deleting() && phase != "Succeeded")
}

/// When the pod's last container ended.
pub fn finish_time(pod: &Pod) -> Option<Timestamp> {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let ended = statuses.into_iter().flatten().filter_map(|container| {
        container.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref().map(|time| time.0)
    });
    let deleted = pod.metadata.deletion_timestamp.as_ref().map(|time| time.0);
    ended.max().or(deleted)
}

/// How often the pod's index has failed, this pod's failure included if it counts.
pub fn index_failures(spec: &JobSpec, pod: &Pod) -> i32 {
    let before = pod.annotation(INDEX_FAILURES).and_then(|text| text.parse().ok()).unwrap_or(0);
    if policy::judge(spec, pod) == Action::Ignore { before } else { before + 1 }
}

/// Pods that have ended, sorted by what they mean.
#[derive(Clone, Debug, Default)]
pub struct Finished {
    /// Uids the status names as not yet counted, still tracked.
    pub pending: UncountedTerminatedPods,
    /// Succeeded pods that the status counts from now on.
    pub counted_successes: i32,
    /// Failed pods that the status counts from now on.
    pub counted_failures: i32,
    /// Pods that ended since the last look.
    pub new_successes: usize,
    /// Failures since the last look.
    pub new_failures: usize,
    /// When the last of them happened.
    pub last_failure: Option<Timestamp>,
    /// Ended pods whose finalizer can go.
    pub release: Vec<Arc<Pod>>,
    /// Indexes that have succeeded, the status' included.
    pub succeeded: BTreeSet<i32>,
    /// Indexes that have failed for good, the status' included.
    pub failed: BTreeSet<i32>,
    /// Why a failed pod fails the Job.
    pub fail_job: Option<String>,
    /// The latest failed pod of each index.
    pub last_of_index: BTreeMap<i32, Arc<Pod>>,
}

impl Finished {
    pub fn of(job: &Job, spec: &JobSpec, all: &[Arc<Pod>]) -> Self {
        let status = job.status.clone().unwrap_or_default();
        let limit = spec.completions.unwrap_or(0);
        let known = status.uncounted_terminated_pods.unwrap_or_default();
        let mut finished = Finished::default();
        if is_indexed(spec) {
            finished.succeeded = indexes::parse(status.completed_indexes.as_deref().unwrap_or(""), limit);
            finished.failed = indexes::parse(status.failed_indexes.as_deref().unwrap_or(""), limit);
        }
        let tracked: BTreeMap<&str, &Arc<Pod>> =
            all.iter().filter(|pod| is_tracked(pod)).map(|pod| (pod.uid(), pod)).collect();
        for (uids, pending, counted) in [
            (known.succeeded, &mut finished.pending.succeeded, &mut finished.counted_successes),
            (known.failed, &mut finished.pending.failed, &mut finished.counted_failures),
        ] {
            for uid in uids.into_iter().flatten() {
                match tracked.contains_key(uid.as_str()) {
                    true => pending.get_or_insert_default().push(uid),
                    // Its finalizer is gone: it is counted for good.
                    false => *counted += 1,
                }
            }
        }
        finished.look_at(spec, all);
        finished
    }

    fn look_at(&mut self, spec: &JobSpec, all: &[Arc<Pod>]) {
        let listed =
            |list: &Option<Vec<String>>, pod: &Pod| list.iter().flatten().any(|uid| uid == pod.uid());
        for pod in all.iter().filter(|pod| is_tracked(pod)) {
            let index = indexes::of(pod).filter(|_| is_indexed(spec));
            // Counted as failed when its deletion began: what became of it later changes nothing.
            let known = listed(&self.pending.failed, pod);
            if pods::phase(pod) == "Succeeded" && !known {
                if is_indexed(spec) {
                    if let Some(index) = index.filter(|index| *index < spec.completions.unwrap_or(0))
                        && self.succeeded.insert(index)
                    {
                        self.new_successes += 1;
                    }
                } else if !listed(&self.pending.succeeded, pod) {
                    self.pending.succeeded.get_or_insert_default().push(pod.uid().to_owned());
                    self.new_successes += 1;
                }
                self.release.push(pod.clone());
            } else if known || has_failed(spec, pod) {
                self.look_at_failure(spec, pod, index, known);
            }
        }
        let succeeded = &self.succeeded;
        self.failed.retain(|index| !succeeded.contains(index));
    }

    fn look_at_failure(&mut self, spec: &JobSpec, pod: &Arc<Pod>, index: Option<i32>, known: bool) {
        let action = policy::judge(spec, pod);
        if let Action::FailJob(why) = &action {
            self.fail_job.get_or_insert(why.clone());
        }
        if let Some(index) = index.filter(|index| *index < spec.completions.unwrap_or(0)) {
            let over = spec.backoff_limit_per_index.is_some_and(|limit| index_failures(spec, pod) > limit);
            if action == Action::FailIndex || over {
                self.failed.insert(index);
            }
            let newer = self
                .last_of_index
                .get(&index)
                .is_none_or(|other| index_failures(spec, other) <= index_failures(spec, pod));
            if newer {
                self.last_of_index.insert(index, pod.clone());
            }
        }
        if action != Action::Ignore && !known {
            self.pending.failed.get_or_insert_default().push(pod.uid().to_owned());
            self.new_failures += 1;
            self.last_failure = self.last_failure.max(finish_time(pod));
        }
        self.release.push(pod.clone());
    }

    pub fn has_pending(&self) -> bool {
        let any = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
        any(&self.pending.succeeded) || any(&self.pending.failed)
    }
}
