//! The plan for one Job: count what ended, make and remove pods, decide whether it is over.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use api::k8s::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods};
use api::k8s::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use api::k8s::apimachinery::pkg::apis::meta::v1::Time;
use client::plan::{About, Mode, Report};
use client::{DeleteOptions, EventKind, Key, Meta, Patch, Plan, Step};
use jiff::Timestamp;
use serde_json::json;

use super::work::{self, FINALIZER, Finished, INDEX_FAILURES};
use super::{delay_after, indexes, policy};
use crate::owner::{Claimed, controller_ref};
use crate::pods;

/// Pods made or removed in one go, as upstream.
const BURST: usize = 500;

/// Why and how a Job ends.
struct End {
    success: bool,
    reason: &'static str,
    message: String,
}

struct Work<'a> {
    job: &'a Job,
    spec: &'a JobSpec,
    finished: Finished,
    active: Vec<Arc<Pod>>,
    terminating: usize,
    status: JobStatus,
    now: Timestamp,
}

/// Takes our finalizer from pods whose Job is over or gone.
pub fn strip(all: &[Arc<Pod>]) -> Plan {
    let mut plan = Plan::none();
    let steps = all.iter().filter(|pod| work::is_tracked(pod)).map(|pod| release(pod));
    plan.stage(Mode::Together, steps.collect());
    plan
}

fn release(pod: &Pod) -> Step {
    let patch = json!({"metadata": {"uid": pod.uid(), "$deleteFromPrimitiveList/finalizers": [FINALIZER]}});
    Step::patch::<Pod>(&Key::of(pod), "", Patch::Strategic(patch))
}

/// Adopted pods are to be counted like the others.
pub fn track_adopted(job: &Job, claimed: &mut Claimed<Pod>) {
    let bare = claimed.objects.iter().filter(|pod| {
        !work::is_tracked(pod) && !pods::is_finished(pod) && !pod.is_deleting() && pod_is_orphan(pod, job)
    });
    let track = |pod: &Arc<Pod>| {
        let patch = json!({"metadata": {"uid": pod.uid(), "finalizers": [FINALIZER]}});
        Step::patch::<Pod>(&Key::of(&**pod), "", Patch::Strategic(patch))
    };
    let steps: Vec<Step> = bare.map(track).collect();
    claimed.steps.extend(steps);
}

fn pod_is_orphan(pod: &Pod, job: &Job) -> bool {
    !crate::owner::is_controlled_by(pod, job.uid())
}

/// What to do about one unfinished Job. `delay` holds back new pods after failures.
pub fn plan(
    job: &Job,
    spec: &JobSpec,
    claimed: Claimed<Pod>,
    finished: Finished,
    delay: Duration,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::none();
    plan.stage(Mode::InOrder, claimed.steps);
    let active: Vec<Arc<Pod>> = claimed.objects.iter().filter(|pod| pods::is_active(pod)).cloned().collect();
    let terminating = claimed.objects.iter().filter(|pod| pods::is_terminating(pod)).count();
    let status = job.status.clone().unwrap_or_default();
    let mut work = Work { job, spec, finished, active, terminating, status, now };
    let mut events = Vec::new();
    work.begin(&mut plan);
    work.count();
    let end = work.end();
    let suspended = spec.suspend == Some(true);
    if end.is_none() {
        // Only what has not ended can be held up.
        work.suspend_or_resume(suspended, &mut events);
    }
    let (mut create, mut delete) = (Vec::new(), Vec::new());
    if job.is_deleting() {
        // Its pods are the garbage collector's.
    } else if let Some(end) = &end {
        delete = work.active.clone();
        work.mark_end(end);
    } else if suspended {
        delete = work.active.clone();
    } else {
        (create, delete) = work.manage(delay, &mut plan);
    }
    delete.truncate(BURST);
    work.settle(&end, delete.is_empty(), &mut events);
    work.write(plan, create, &delete, events)
}

impl Work<'_> {
    fn set_condition(&mut self, kind: &str, state: &str, reason: &str, message: &str) -> bool {
        let now = Some(Time(self.now));
        let list = self.status.conditions.get_or_insert_default();
        let new = JobCondition {
            type_: kind.to_owned(),
            status: state.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_probe_time: now.clone(),
            last_transition_time: now,
        };
        match list.iter_mut().find(|condition| condition.type_ == kind) {
            Some(known) if known.status == state => false,
            Some(known) => {
                *known = new;
                true
            }
            None if state == "False" => false,
            None => {
                list.push(new);
                true
            }
        }
    }

    fn event(&self, kind: EventKind, reason: &str, message: &str) -> Step {
        Step::event(About::of(self.job), kind, reason, message)
    }

    fn begin(&mut self, plan: &mut Plan) {
        if self.spec.suspend == Some(true) {
            return;
        }
        self.status.start_time.get_or_insert(Time(self.now));
        if let Some(left) = self.deadline_left().filter(|left| !left.is_zero()) {
            plan.requeue(left);
        }
    }

    fn suspend_or_resume(&mut self, suspended: bool, events: &mut Vec<Step>) {
        if suspended {
            if self.set_condition("Suspended", "True", "JobSuspended", "Job suspended") {
                events.push(self.event(EventKind::Normal, "Suspended", "Job suspended"));
                self.status.start_time = None;
            }
        } else if self.set_condition("Suspended", "False", "JobResumed", "Job resumed") {
            events.push(self.event(EventKind::Normal, "Resumed", "Job resumed"));
            self.status.start_time = Some(Time(self.now));
        }
    }

    fn deadline_left(&self) -> Option<Duration> {
        let seconds = u64::try_from(self.spec.active_deadline_seconds?).ok()?;
        let due = self.status.start_time.as_ref()?.0 + Duration::from_secs(seconds);
        Some(Duration::try_from(due.duration_since(self.now)).unwrap_or(Duration::ZERO))
    }

    /// The numbers of the status, as far as they are counted for good.
    fn count(&mut self) {
        let finished = &self.finished;
        let status = &mut self.status;
        status.failed = add(status.failed, finished.counted_failures);
        if work::is_indexed(self.spec) {
            status.succeeded = nonzero(i32::try_from(finished.succeeded.len()).unwrap_or(i32::MAX));
            let text = indexes::render(&finished.succeeded);
            status.completed_indexes = (!text.is_empty()).then_some(text);
            if self.spec.backoff_limit_per_index.is_some() {
                status.failed_indexes = Some(indexes::render(&finished.failed));
            }
        } else {
            status.succeeded = add(status.succeeded, finished.counted_successes);
        }
        status.uncounted_terminated_pods = Some(UncountedTerminatedPods {
            succeeded: finished.pending.succeeded.clone(),
            failed: finished.pending.failed.clone(),
        });
        let ready = self.active.iter().filter(|pod| pods::is_ready(pod)).count();
        status.active = nonzero(i32::try_from(self.active.len()).unwrap_or(i32::MAX));
        status.ready = Some(i32::try_from(ready).unwrap_or(i32::MAX));
        status.terminating = Some(i32::try_from(self.terminating).unwrap_or(i32::MAX));
    }

    fn pending(list: &Option<Vec<String>>) -> i32 {
        i32::try_from(list.as_ref().map_or(0, Vec::len)).unwrap_or(i32::MAX)
    }

    fn succeeded(&self) -> i32 {
        self.status.succeeded.unwrap_or(0) + Self::pending(&self.finished.pending.succeeded)
    }

    fn failed(&self) -> i32 {
        self.status.failed.unwrap_or(0) + Self::pending(&self.finished.pending.failed)
    }

    /// Why the Job is to end, if it is.
    fn end(&self) -> Option<End> {
        if let Some(known) = work::condition(&self.status, "FailureTarget") {
            return Some(known_end(false, known));
        }
        if let Some(known) = work::condition(&self.status, "SuccessCriteriaMet") {
            return Some(known_end(true, known));
        }
        let fail = |reason, message: &str| Some(End { success: false, reason, message: message.to_owned() });
        if let Some(why) = &self.finished.fail_job {
            return fail("PodFailurePolicy", why);
        }
        let limit = self.spec.backoff_limit.unwrap_or(6);
        if self.failed() > limit || self.restarts_over(limit) {
            return fail("BackoffLimitExceeded", "Job has reached the specified backoff limit");
        }
        if self.spec.suspend != Some(true) && self.deadline_left().is_some_and(|left| left.is_zero()) {
            return fail("DeadlineExceeded", "Job was active longer than specified deadline");
        }
        if let Some(message) = policy::success(self.spec, &self.finished.succeeded) {
            return Some(End { success: true, reason: "SuccessPolicy", message });
        }
        if work::is_indexed(self.spec) && self.spec.backoff_limit_per_index.is_some() {
            let failed = self.finished.failed.len();
            let over =
                self.spec.max_failed_indexes.is_some_and(|most| failed > usize::try_from(most).unwrap_or(0));
            if over {
                let text = "Job has exceeded the specified maximal number of failed indexes";
                return fail("MaxFailedIndexesExceeded", text);
            }
            let total = usize::try_from(self.spec.completions.unwrap_or(0)).unwrap_or(0);
            if failed > 0 && failed + self.finished.succeeded.len() >= total {
                return fail("FailedIndexes", "Job has failed indexes");
            }
        }
        let complete = match self.spec.completions {
            None => self.succeeded() > 0 && self.active.is_empty(),
            Some(completions) => self.succeeded() >= completions,
        };
        let message = "Reached expected number of succeeded pods".to_owned();
        complete.then_some(End { success: true, reason: "CompletionsReached", message })
    }

    /// Containers that restart in place count against the limit too.
    fn restarts_over(&self, limit: i32) -> bool {
        let template = self.spec.template.spec.as_ref();
        if template.and_then(|spec| spec.restart_policy.as_deref()) != Some("OnFailure") {
            return false;
        }
        let running = self.active.iter().filter(|pod| matches!(pods::phase(pod), "Running" | "Pending"));
        let restarts: i32 = running
            .filter_map(|pod| pod.status.as_ref())
            .flat_map(|status| {
                status.container_statuses.iter().chain(&status.init_container_statuses).flatten()
            })
            .map(|container| container.restart_count)
            .sum();
        if limit == 0 { restarts > 0 } else { restarts >= limit }
    }

    fn mark_end(&mut self, end: &End) {
        let kind = if end.success { "SuccessCriteriaMet" } else { "FailureTarget" };
        self.set_condition(kind, "True", end.reason, &end.message);
        // Its last pods ended while it was suspended: what ended has begun.
        self.status.start_time.get_or_insert(Time(self.now));
    }

    /// Ends the Job once all its pods have ended and are counted.
    fn settle(&mut self, end: &Option<End>, nothing_to_delete: bool, events: &mut Vec<Step>) {
        let Some(end) = end else { return };
        let quiet = nothing_to_delete && self.active.is_empty() && self.terminating == 0;
        if !quiet || self.finished.has_pending() {
            return;
        }
        self.status.uncounted_terminated_pods = Some(UncountedTerminatedPods::default());
        self.set_condition(if end.success { "Complete" } else { "Failed" }, "True", end.reason, &end.message);
        if end.success {
            self.status.completion_time = Some(Time(self.now));
            events.push(self.event(EventKind::Normal, "Completed", "Job completed"));
        } else {
            events.push(self.event(EventKind::Warning, end.reason, &end.message));
        }
    }

    /// Pods to make and pods to remove so that as many run as should.
    fn manage(&self, delay: Duration, plan: &mut Plan) -> (Vec<Pod>, Vec<Arc<Pod>>) {
        let parallelism = usize::try_from(self.spec.parallelism.unwrap_or(1)).unwrap_or(0);
        let mut delete = self.superfluous_indexes();
        let active = self.active.len() - delete.len();
        let done = usize::try_from(self.succeeded()).unwrap_or(0);
        let wanted = match self.spec.completions {
            None if done > 0 => active.min(parallelism),
            None => parallelism,
            Some(completions) => {
                let left = usize::try_from(completions).unwrap_or(0).saturating_sub(done);
                let failed =
                    if self.spec.backoff_limit_per_index.is_some() { self.finished.failed.len() } else { 0 };
                left.saturating_sub(failed).min(parallelism)
            }
        };
        if active > wanted {
            let mut rest: Vec<Arc<Pod>> = self
                .active
                .iter()
                .filter(|pod| !delete.iter().any(|one| one.uid() == pod.uid()))
                .cloned()
                .collect();
            rest.sort_by(|a, b| pods::removal_order((a, 0), (b, 0), self.now));
            delete.extend(rest.into_iter().take(active - wanted));
            return (Vec::new(), delete);
        }
        let going = if work::replaces_failed_only(self.spec) { self.terminating } else { 0 };
        let missing = wanted.saturating_sub(active + going).min(BURST);
        if missing == 0 {
            return (Vec::new(), delete);
        }
        let per_index = self.spec.backoff_limit_per_index.is_some();
        if !delay.is_zero() && !per_index {
            plan.requeue(delay);
            return (Vec::new(), delete);
        }
        let pods = if work::is_indexed(self.spec) {
            self.free_indexes(missing, plan).into_iter().map(|index| self.new_pod(Some(index))).collect()
        } else {
            vec![self.new_pod(None); missing]
        };
        (pods, delete)
    }

    /// Active pods whose index is done, out of range, or taken twice.
    fn superfluous_indexes(&self) -> Vec<Arc<Pod>> {
        if !work::is_indexed(self.spec) {
            return Vec::new();
        }
        let mut seen = BTreeSet::new();
        let total = self.spec.completions.unwrap_or(0);
        let needless = |pod: &&Arc<Pod>| match indexes::of(pod) {
            None => true,
            Some(index) => index >= total || self.finished.succeeded.contains(&index) || !seen.insert(index),
        };
        self.active.iter().filter(needless).cloned().collect()
    }

    /// The lowest indexes that are neither done nor at work, and whose own delay has passed.
    fn free_indexes(&self, count: usize, plan: &mut Plan) -> Vec<i32> {
        let busy: BTreeSet<i32> = self.active.iter().filter_map(|pod| indexes::of(pod)).collect();
        let mut free = Vec::new();
        for index in 0..self.spec.completions.unwrap_or(0) {
            if free.len() == count {
                break;
            }
            let done = self.finished.succeeded.contains(&index) || self.finished.failed.contains(&index);
            if done || busy.contains(&index) {
                continue;
            }
            if self.spec.backoff_limit_per_index.is_some()
                && let Some(pod) = self.finished.last_of_index.get(&index)
            {
                let failures = u32::try_from(work::index_failures(self.spec, pod)).unwrap_or(0);
                let due = work::finish_time(pod).unwrap_or(self.now) + delay_after(failures);
                let left = Duration::try_from(due.duration_since(self.now)).unwrap_or(Duration::ZERO);
                if !left.is_zero() {
                    plan.requeue(left);
                    continue;
                }
            }
            free.push(index);
        }
        free
    }

    fn new_pod(&self, index: Option<i32>) -> Pod {
        let name = self.job.name();
        let prefix = match index {
            Some(index) => pods::name_prefix(&format!("{name}-{index}")),
            None => pods::name_prefix(name),
        };
        let reference = controller_ref(self.job);
        let mut pod = pods::from_template(&self.spec.template, self.job.namespace(), &prefix, reference);
        pod.metadata.finalizers.get_or_insert_default().push(FINALIZER.to_owned());
        if let Some(index) = index {
            let text = index.to_string();
            let annotations = pod.metadata.annotations.get_or_insert_default();
            annotations.insert(indexes::INDEX.to_owned(), text.clone());
            if self.spec.backoff_limit_per_index.is_some() {
                let before = self.finished.last_of_index.get(&index);
                let failures = before.map_or(0, |pod| work::index_failures(self.spec, pod));
                annotations.insert(INDEX_FAILURES.to_owned(), failures.to_string());
            }
            pod.metadata.labels.get_or_insert_default().insert(indexes::INDEX.to_owned(), text);
            let spec = pod.spec.get_or_insert_default();
            spec.hostname = Some(format!("{name}-{index}"));
            for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
                add_index_variable(&mut container.env);
            }
        }
        pod
    }

    /// A failed pod carries its index's count: it stays until the next pod of the index has taken it over.
    fn is_needed(&self, pod: &Pod, ended: bool) -> bool {
        if ended || self.spec.backoff_limit_per_index.is_none() || pods::phase(pod) == "Succeeded" {
            return false;
        }
        let Some(index) = indexes::of(pod) else { return false };
        let latest = self.finished.last_of_index.get(&index).is_some_and(|last| last.uid() == pod.uid());
        let settled = self.finished.failed.contains(&index) || self.finished.succeeded.contains(&index);
        let replaced = self.active.iter().any(|active| indexes::of(active) == Some(index));
        latest && !settled && !replaced
    }

    fn write(self, mut plan: Plan, create: Vec<Pod>, delete: &[Arc<Pod>], events: Vec<Step>) -> Plan {
        let mut after = self.job.clone();
        after.status = Some(self.status.clone());
        let before = self.job.status.clone().unwrap_or_default();
        if !same_status(&before, &self.status) && !base::mutated("job-releases-early") {
            // First the uids are on record, then the finalizers go: no end is counted twice or never.
            plan.update_status(&after);
        }
        plan.stage(Mode::InOrder, events);
        let ended = work::condition(&self.status, "FailureTarget").is_some()
            || work::condition(&self.status, "SuccessCriteriaMet").is_some();
        let free = self.finished.release.iter().filter(|pod| !self.is_needed(pod, ended));
        plan.stage(Mode::Together, free.map(|pod| release(pod)).collect());
        let about = About::of(self.job);
        let remove = |pod: &Arc<Pod>| {
            Step::delete(&**pod, DeleteOptions::uid(pod.uid())).reported(Report {
                about: about.clone(),
                done: ("SuccessfulDelete", "Deleted pod: ".to_owned()),
                failed: ("FailedDelete", "Error deleting: ".to_owned()),
            })
        };
        plan.stage(Mode::Together, delete.iter().map(remove).collect());
        let make = |pod: &Pod| {
            Step::create(pod).reported(Report {
                about: about.clone(),
                done: ("SuccessfulCreate", "Created pod: ".to_owned()),
                failed: ("FailedCreate", "Error creating: ".to_owned()),
            })
        };
        plan.stage(Mode::SlowStart, create.iter().map(make).collect());
        plan
    }
}

fn known_end(success: bool, condition: &JobCondition) -> End {
    const REASONS: &[&str] = &[
        "PodFailurePolicy",
        "BackoffLimitExceeded",
        "DeadlineExceeded",
        "SuccessPolicy",
        "MaxFailedIndexesExceeded",
        "FailedIndexes",
        "CompletionsReached",
    ];
    let reason = condition.reason.as_deref().unwrap_or("");
    let reason = REASONS.iter().find(|known| **known == reason).copied().unwrap_or("BackoffLimitExceeded");
    End { success, reason, message: condition.message.clone().unwrap_or_default() }
}

fn add(count: Option<i32>, more: i32) -> Option<i32> {
    nonzero(count.unwrap_or(0) + more)
}

fn nonzero(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

fn same_status(a: &JobStatus, b: &JobStatus) -> bool {
    let plain = |status: &JobStatus| {
        let mut status = status.clone();
        let uncounted = status.uncounted_terminated_pods.take().unwrap_or_default();
        let (s, f) = (uncounted.succeeded.unwrap_or_default(), uncounted.failed.unwrap_or_default());
        status.uncounted_terminated_pods =
            Some(UncountedTerminatedPods { succeeded: Some(s), failed: Some(f) });
        status
    };
    plain(a) == plain(b)
}

fn add_index_variable(env: &mut Option<Vec<EnvVar>>) {
    const NAME: &str = "JOB_COMPLETION_INDEX";
    let list = env.get_or_insert_default();
    if list.iter().any(|variable| variable.name == NAME) {
        return;
    }
    list.push(EnvVar {
        name: NAME.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: format!("metadata.labels['{}']", indexes::INDEX),
                api_version: None,
            }),
            ..EnvVarSource::default()
        }),
    });
}
