//! One task a pod: it looks at what the runtime holds, plans, starts steps without waiting for them, and reports.
//!
//! Must not block: every step runs beside it and comes back as a message, so that a deletion, a probe or a new
//! specification is always heard.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::k8s::api::core::v1::{Pod, PodStatus};
use client::{ClientError, EventKind};
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::backoff::{self, RestartBackoff};
use super::observed::{Observed, Sandbox, State};
use super::ops::{self, Allocated, Failure, KillOrder, Prepared, StartError, StartInputs};
use super::plan::{self, Kill, Plan, Probe, Reason, Results};
use super::pod::{PodExt, Slot, container_hash, deadline, grace_seconds, is_sidecar};
use super::probes;
use super::registry::Signal;
use super::report;
use super::resize::{self, Resize};
use super::status::{self, Facts, Verdict, Waiting};
use crate::images::go_duration;
use crate::shared::Shared;

/// How often the runtime is asked although nothing seems to happen: events can be lost.
const SLOW_LOOK: Duration = Duration::from_secs(60);
/// How often it is asked where it offers no events.
const FAST_LOOK: Duration = Duration::from_secs(1);
/// Pauses between looks right after an event: the runtime tells of an exit before it shows it.
const RECHECKS_MS: [u64; 6] = [10, 20, 50, 100, 300, 1000];
/// How often a resize that the node cannot give now is tried again.
const RESIZE_RETRY: Duration = Duration::from_secs(10);
/// How long the report of a pod that is being started waits for more to report.
const REPORT_PAUSE: Duration = Duration::from_millis(300);
/// First and longest pause after a failed step.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(16));

/// How a step ended.
enum Done {
    Prepared(Result<Prepared, Failure>),
    Sandbox(Result<Sandbox, Failure>),
    Started { name: String, result: Result<String, StartError> },
    PostStarted { name: String, result: Result<(), StartError> },
    Killed { id: String },
    Stopped,
    Cleaned(bool),
    Removed(bool),
    Reported { status: Box<PodStatus>, result: Result<(), ClientError> },
    Deleted(Result<(), ClientError>),
    Resized(Result<Arc<Allocated>, String>),
    Pruned,
}

/// Everything a worker hears.
enum Message {
    Signal(Signal),
    Done(Done),
    Probe(probes::Result_),
}

/// Grows from the first pause to the longest.
#[derive(Clone, Copy, Debug, Default)]
struct Retry {
    delay: Duration,
    at: Option<Duration>,
}

impl Retry {
    fn fail(&mut self, now: Duration) {
        self.delay = (self.delay * 2).clamp(RETRY.0, RETRY.1);
        self.at = Some(now + self.delay);
    }

    fn succeed(&mut self) {
        *self = Retry::default();
    }

    fn waits(&self, now: Duration) -> bool {
        self.at.is_some_and(|at| at > now)
    }
}

/// The worker of one pod.
pub struct Worker {
    shared: Arc<Shared>,
    pod: Arc<Pod>,
    gone: bool,
    observed: Observed,
    results: Results,
    waiting: BTreeMap<String, Waiting>,
    backoffs: BTreeMap<String, Option<RestartBackoff>>,
    start_after: BTreeMap<String, Duration>,
    verdict: Option<Verdict>,
    status: PodStatus,
    reported: Option<PodStatus>,
    allocated: Arc<Allocated>,
    applied: Allocated,
    resize: Option<Resize>,
    resize_retry: Retry,
    prepared: Option<Arc<Prepared>>,
    refresh: bool,
    stale: bool,
    /// The runtime could not be read at the last look.
    blind: bool,
    rechecks: usize,
    /// Told to have ended, and perhaps not yet shown so.
    ended: BTreeSet<String>,
    look_at: Duration,
    wake_at: Option<Duration>,
    terminating: bool,
    killing: BTreeMap<String, Duration>,
    busy: BTreeSet<&'static str>,
    starting: Option<(String, JoinHandle<()>)>,
    probes: BTreeMap<(String, Probe), JoinHandle<()>>,
    prepare_retry: Retry,
    sandbox_retry: Retry,
    report_retry: Retry,
    changed_at: Option<Duration>,
    cleaned: bool,
    removed: bool,
    delete_sent: bool,
    done: mpsc::UnboundedSender<Done>,
    probe_results: mpsc::UnboundedSender<probes::Result_>,
}

/// Runs a pod until it is gone from the API, the runtime and the disk.
pub async fn run(
    shared: Arc<Shared>,
    pod: Arc<Pod>,
    verdict: Option<Verdict>,
    mut signals: mpsc::UnboundedReceiver<Signal>,
) {
    let (done, mut dones) = mpsc::unbounded_channel();
    let (probe_results, mut probe_messages) = mpsc::unbounded_channel();
    let status = pod.status().clone();
    let mut worker = Worker {
        gone: false,
        observed: Observed::default(),
        results: Results::default(),
        waiting: BTreeMap::new(),
        backoffs: BTreeMap::new(),
        start_after: BTreeMap::new(),
        verdict,
        reported: None,
        allocated: Arc::new(Allocated::new()),
        applied: Allocated::new(),
        resize: None,
        resize_retry: Retry::default(),
        prepared: None,
        refresh: false,
        stale: true,
        blind: false,
        rechecks: 0,
        ended: BTreeSet::new(),
        look_at: Duration::ZERO,
        wake_at: None,
        terminating: false,
        killing: BTreeMap::new(),
        busy: BTreeSet::new(),
        starting: None,
        probes: BTreeMap::new(),
        prepare_retry: Retry::default(),
        sandbox_retry: Retry::default(),
        report_retry: Retry::default(),
        changed_at: None,
        cleaned: false,
        removed: false,
        delete_sent: false,
        done,
        probe_results,
        status,
        shared,
        pod,
    };
    worker.look().await;
    worker.adopt();
    while worker.step().await {
        let clock = worker.shared.clock.clone();
        let wait =
            worker.wake_at.unwrap_or(worker.look_at).min(worker.look_at).saturating_sub(clock.monotonic());
        let message = tokio::select! {
            biased;
            Some(signal) = signals.recv() => Some(Message::Signal(signal)),
            Some(done) = dones.recv() => Some(Message::Done(done)),
            Some(result) = probe_messages.recv() => Some(Message::Probe(result)),
            () = clock.sleep(wait) => None,
        };
        let mut next = message;
        while let Some(message) = next {
            worker.hear(message);
            next = signals.try_recv().ok().map(Message::Signal);
            next = next.or_else(|| dones.try_recv().ok().map(Message::Done));
            next = next.or_else(|| probe_messages.try_recv().ok().map(Message::Probe));
        }
    }
}

impl Worker {
    fn now(&self) -> Duration {
        self.shared.clock.monotonic()
    }

    fn wake_by(&mut self, at: Duration) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }

    fn wake_by_time(&mut self, at: Timestamp) {
        let wait = Duration::try_from(at.duration_since(self.shared.clock.now())).unwrap_or_default();
        // A little late rather than a little early.
        self.wake_by(self.now() + wait + Duration::from_millis(5));
    }

    /// Starts a step beside the worker; one of each name at a time.
    fn spawn<F>(&mut self, name: &'static str, work: F) -> JoinHandle<()>
    where
        F: Future<Output = Done> + Send + 'static,
    {
        let done = self.done.clone();
        self.shared.tasks.spawn(name, async move {
            let _ = done.send(work.await);
        })
    }

    fn step_of<F>(&mut self, name: &'static str, work: F)
    where
        F: Future<Output = Done> + Send + 'static,
    {
        if self.busy.insert(name) {
            self.spawn(name, work);
        }
    }

    /// Asks the runtime; what it cannot say now stays as it was.
    async fn look(&mut self) {
        match ops_look(&self.shared, &self.pod).await {
            Ok(mut observed) => {
                self.blind = false;
                keep_messages(&mut observed, &self.observed);
                let changed = observed != self.observed;
                if changed {
                    self.shared.registry.set_ids(self.pod.uid(), &observed);
                    self.observed = observed;
                }
                self.stale = false;
                let events = self.shared.registry.has_events();
                let idle = self.observed.containers.is_empty() && self.observed.sandboxes.is_empty();
                self.look_at = self.now() + if events || idle { SLOW_LOOK } else { FAST_LOOK };
                let observed = &self.observed;
                self.ended.retain(|id| {
                    observed.by_id(id).is_some_and(|seen| seen.state == State::Running)
                        || observed.sandboxes.iter().any(|sandbox| sandbox.id == *id && sandbox.ready)
                });
                if self.ended.is_empty() {
                    self.rechecks = 0;
                } else {
                    let pause = RECHECKS_MS[self.rechecks.min(RECHECKS_MS.len() - 1)];
                    self.look_at = self.now() + Duration::from_millis(pause);
                    self.rechecks += 1;
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut self.blind, true) {
                    tracing::warn!(pod = %self.pod.display(), %error, "runtime not read; trying again");
                }
                self.look_at = self.now() + FAST_LOOK;
            }
        }
    }

    /// What was known before a restart of the agent holds until probes say otherwise.
    fn adopt(&mut self) {
        let dir = self.shared.store.pod_dir(self.pod.uid());
        let known = resize::load(&dir).filter(|_| !self.observed.containers.is_empty());
        let allocated = known.unwrap_or_else(|| resize::wanted(&self.pod));
        self.applied = allocated.clone();
        self.allocated = Arc::new(allocated);
        for seen in self.observed.containers.iter().filter(|seen| seen.restarts > 0) {
            let entry = self.backoffs.entry(seen.name.clone()).or_default();
            *entry = entry.or_else(|| {
                Some(backoff::guess(seen.restarts, seen.started?, self.shared.config.max_crash_backoff))
            });
        }
        let status = self.pod.status().clone();
        let all = status.container_statuses.iter().chain(status.init_container_statuses.iter()).flatten();
        for container in all {
            let id = container.container_id.as_deref().and_then(|id| id.split_once("://")).map(|(_, id)| id);
            let Some(seen) =
                id.and_then(|id| self.observed.by_id(id)).filter(|seen| seen.state == State::Running)
            else {
                continue;
            };
            let id = seen.id.clone();
            if container.started == Some(true) {
                self.results.set(&id, Probe::Startup, true);
            }
            if container.ready {
                self.results.set(&id, Probe::Readiness, true);
            }
        }
    }

    fn hear(&mut self, message: Message) {
        match message {
            Message::Signal(signal) => self.hear_signal(signal),
            Message::Probe(result) => {
                self.results.set(&result.id, result.probe, result.success);
            }
            Message::Done(done) => self.hear_done(done),
        }
    }

    fn hear_signal(&mut self, signal: Signal) {
        match signal {
            Signal::Wanted(pod) => {
                // Labels and annotations are shown in volumes.
                let meta = |pod: &Pod| (pod.metadata.labels.clone(), pod.metadata.annotations.clone());
                self.refresh |= meta(&pod) != meta(&self.pod);
                // Another image has not failed yet.
                for name in changed_containers(&self.pod, &pod) {
                    self.backoffs.remove(&name);
                    self.start_after.remove(&name);
                }
                self.pod = pod;
            }
            Signal::Gone => self.gone = true,
            Signal::Runtime(ended) => {
                self.ended.extend(ended);
                self.stale = true;
            }
            Signal::Refresh => {
                self.refresh = true;
                self.start_after.clear();
                self.prepare_retry.succeed();
            }
            Signal::Report => self.reported = None,
            Signal::Evict(verdict) => self.verdict = self.verdict.take().or(Some(verdict)),
        }
    }

    fn hear_done(&mut self, done: Done) {
        let now = self.now();
        match done {
            Done::Prepared(result) => {
                self.busy.remove("prepare");
                match result {
                    Ok(prepared) => {
                        self.prepare_retry.succeed();
                        self.prepared = Some(Arc::new(prepared));
                    }
                    Err(failure) => {
                        self.warn(&failure);
                        self.prepare_retry.fail(now);
                        self.refresh = true;
                    }
                }
            }
            Done::Sandbox(result) => {
                self.busy.remove("sandbox");
                self.stale = true;
                match result {
                    Ok(_) => self.sandbox_retry.succeed(),
                    Err(failure) => {
                        self.warn(&failure);
                        self.sandbox_retry.fail(now);
                    }
                }
            }
            Done::Started { name, result } => {
                self.starting = None;
                self.hear_start(&name, result.err());
            }
            Done::PostStarted { name, result } => {
                if self.starting.as_ref().is_some_and(|(starting, _)| *starting == name) {
                    self.starting = None;
                }
                self.hear_start(&name, result.err());
            }
            Done::Killed { id } => {
                self.killing.remove(&id);
                self.stale = true;
            }
            Done::Stopped => {
                self.busy.remove("stop");
                self.stale = true;
            }
            Done::Cleaned(clean) => {
                self.busy.remove("clean");
                self.cleaned = clean;
            }
            Done::Removed(removed) => {
                self.busy.remove("remove");
                self.removed = removed;
                self.stale = true;
            }
            Done::Reported { status, result } => {
                self.busy.remove("report");
                self.hear_report(*status, result);
            }
            other => self.hear_late_done(other, now),
        }
    }

    /// Steps of pods that run, or that have ended.
    fn hear_late_done(&mut self, done: Done, now: Duration) {
        match done {
            Done::Pruned => {
                self.busy.remove("prune");
                self.stale = true;
            }
            Done::Resized(result) => {
                self.busy.remove("resize");
                match result {
                    Ok(applied) => {
                        self.applied = (*applied).clone();
                        self.stale = true;
                        self.resize_retry.succeed();
                    }
                    Err(error) => {
                        self.resize_retry.fail(now);
                        self.resize = Some(Resize::InProgress(Some(error)));
                    }
                }
            }
            Done::Deleted(result) => {
                self.busy.remove("delete");
                match result {
                    Ok(()) => self.delete_sent = true,
                    Err(error) => {
                        tracing::debug!(pod = %self.pod.display(), %error, "pod not deleted");
                        self.report_retry.fail(now);
                    }
                }
            }
            _ => {}
        }
    }

    fn hear_start(&mut self, name: &str, error: Option<StartError>) {
        self.stale = true;
        let now = self.now();
        match error {
            None => {
                self.waiting.remove(name);
                self.start_after.remove(name);
            }
            Some(error) => {
                self.waiting.insert(name.to_owned(), error.waiting);
                if let Some(again_in) = error.again_in {
                    self.start_after.insert(name.to_owned(), now + again_in);
                }
            }
        }
    }

    fn hear_report(&mut self, status: PodStatus, result: Result<(), ClientError>) {
        let now = self.now();
        match result {
            Ok(()) => {
                self.reported = Some(status);
                self.report_retry.succeed();
            }
            Err(error) if (error.is_not_found() || error.is_conflict()) && !self.pod.is_static() => {
                // Deleted, or another pod of this name: the informer will tell.
                self.reported = Some(status);
            }
            Err(error) => {
                tracing::warn!(pod = %self.pod.display(), %error, "status not written");
                self.report_retry.fail(now);
            }
        }
    }

    fn warn(&self, failure: &Failure) {
        self.shared.events.pod(&self.pod, EventKind::Warning, failure.reason, &failure.message);
    }

    /// One round: look if needed, decide, act, report. False once everything is done.
    async fn step(&mut self) -> bool {
        self.wake_at = None;
        if self.stale || self.now() >= self.look_at {
            self.look().await;
        }
        self.judge();
        self.tend_resize();
        let plan = (!self.terminating).then(|| plan::compute(&self.pod, &self.observed, &self.results));
        match plan {
            Some(plan) if plan.kill_pod && plan.create_sandbox.is_none() => {
                for kill in &plan.kill {
                    self.kill(kill);
                }
                self.terminating = true;
                self.terminate();
            }
            Some(plan) => self.carry_out(&plan),
            None => self.terminate(),
        }
        self.tend_probes();
        self.update_status();
        self.report();
        self.keep_volumes();
        self.prune();
        !(self.gone && self.removed && self.cleaned)
    }

    /// Whether the pod has to end.
    fn judge(&mut self) {
        if let Some(end) = deadline(&self.pod, self.status.start_time.as_ref().map(|time| time.0)) {
            if self.verdict.is_none() && self.shared.clock.now() >= end && !self.pod.finished() {
                let message = "Pod was active on the node longer than the specified deadline".to_owned();
                self.shared.events.pod(&self.pod, EventKind::Normal, "DeadlineExceeded", &message);
                self.verdict =
                    Some(Verdict { reason: "DeadlineExceeded".into(), message, ..Verdict::default() });
            } else if self.verdict.is_none() {
                self.wake_by_time(end);
            }
        }
        let ended = matches!(self.status.phase.as_deref(), Some("Failed" | "Succeeded"));
        self.terminating |=
            self.gone || self.pod.deleting() || self.verdict.is_some() || self.pod.finished() || ended;
    }

    /// Orders a container to stop unless that has been ordered.
    fn kill(&mut self, kill: &Kill) {
        let seconds = match self.probe_grace(kill) {
            Some(own) => own,
            None => self.grace(),
        };
        let grace = ops::grace_of(seconds);
        if self.killing.get(&kill.id).is_some_and(|before| *before <= grace) {
            return;
        }
        let again = self.killing.insert(kill.id.clone(), grace).is_some();
        let order = KillOrder {
            id: kill.id.clone(),
            name: kill.name.clone(),
            message: if again { String::new() } else { kill.message.clone() },
            grace,
            hook: !again,
        };
        let (shared, pod) = (self.shared.clone(), self.pod.clone());
        let ip = self.pod_ip();
        self.spawn("kill", async move {
            ops::kill(&shared, &pod, &ip, &order).await;
            Done::Killed { id: order.id }
        });
    }

    /// How long containers may take to end, seconds.
    fn grace(&self) -> i64 {
        let own = grace_seconds(&self.pod);
        self.verdict.as_ref().and_then(|verdict| verdict.grace).map_or(own, |grace| grace.min(own))
    }

    /// A probe can set its own grace.
    fn probe_grace(&self, kill: &Kill) -> Option<i64> {
        let container = self.pod.container_named(&kill.name)?;
        let probe = match kill.reason {
            Reason::Liveness => container.liveness_probe,
            Reason::Startup => container.startup_probe,
            _ => None,
        };
        probe?.termination_grace_period_seconds
    }

    fn pod_ip(&self) -> String {
        match self.observed.sandboxes.first() {
            Some(sandbox) => ops::ip_of(&self.shared, &self.pod, sandbox),
            None => self.shared.host_ips.first().cloned().unwrap_or_default(),
        }
    }

    /// Stops containers, then sandboxes, then cleans up; asks for the pod's removal once all that is reported.
    fn terminate(&mut self) {
        if let Some((_, task)) = self.starting.take() {
            task.abort();
            self.stale = true;
        }
        if self.busy.contains("sandbox") {
            // Once made, it is found and stopped.
            return;
        }
        let alive: Vec<(String, String)> = self
            .observed
            .containers
            .iter()
            .filter(|seen| matches!(seen.state, State::Running | State::Unknown))
            .map(|seen| (seen.id.clone(), seen.name.clone()))
            .collect();
        if !alive.is_empty() {
            for (id, name) in self.first_to_stop(&alive) {
                let message = format!("Stopping container {name}");
                self.kill(&Kill { id, name, message, reason: Reason::Ordered });
            }
            return;
        }
        if !self.killing.is_empty() {
            return;
        }
        let ready: Vec<String> = self
            .observed
            .sandboxes
            .iter()
            .filter(|sandbox| sandbox.ready)
            .map(|sandbox| sandbox.id.clone())
            .collect();
        if !ready.is_empty() {
            let shared = self.shared.clone();
            self.step_of("stop", async move {
                {
                    ops::stop_sandboxes(&shared, &ready).await;
                    Done::Stopped
                }
            });
            return;
        }
        self.finish();
    }

    /// Ordinary containers stop first, then sidecars from the last to the first.
    fn first_to_stop(&self, alive: &[(String, String)]) -> Vec<(String, String)> {
        let sidecar = |name: &str| match self.pod.slot(name) {
            Some(Slot::Init(index)) if is_sidecar(&self.pod.inits()[index]) => Some(index),
            _ => None,
        };
        let plain: Vec<_> = alive.iter().filter(|(_, name)| sidecar(name).is_none()).cloned().collect();
        if !plain.is_empty() {
            return plain;
        }
        let last = alive.iter().max_by_key(|(_, name)| sidecar(name));
        last.into_iter().cloned().collect()
    }

    /// Nothing runs any more.
    fn finish(&mut self) {
        if !self.cleaned && !self.busy.contains("prepare") {
            let (shared, pod) = (self.shared.clone(), self.pod.clone());
            self.prepared = None;
            self.step_of("clean", async move { Done::Cleaned(ops::clean(&shared, &pod).await) });
        }
        if self.gone {
            let (shared, pod, observed) = (self.shared.clone(), self.pod.clone(), self.observed.clone());
            if !self.removed {
                self.step_of("remove", async move {
                    Done::Removed(ops::remove_from_runtime(&shared, &pod, &observed).await)
                });
            }
            return;
        }
        let reported = self.reported.as_ref() == Some(&self.status);
        let now = self.now();
        if self.pod.deleting()
            && !self.pod.is_static()
            && self.cleaned
            && reported
            && !self.delete_sent
            && !self.report_retry.waits(now)
        {
            let (shared, pod) = (self.shared.clone(), self.pod.clone());
            self.step_of("delete", async move { Done::Deleted(report::delete(&shared, &pod).await) });
        }
    }

    /// Carries out a plan of a pod that is to run.
    fn carry_out(&mut self, plan: &Plan) {
        for kill in &plan.kill {
            self.kill(kill);
        }
        if let Some(attempt) = plan.create_sandbox {
            self.make_sandbox(attempt);
            return;
        }
        if self.prepared.is_none() {
            self.prepare();
            return;
        }
        let killing: BTreeSet<&str> = plan.kill.iter().map(|kill| kill.name.as_str()).collect();
        for slot in &plan.start {
            if self.starting.is_some() {
                break;
            }
            let Some(container) = self.pod.container(*slot) else { continue };
            if killing.contains(container.name.as_str()) {
                continue;
            }
            if self.may_start(&container.name, *slot) {
                self.start(*slot, &container.name);
            }
        }
    }

    fn prepare(&mut self) {
        if self.prepare_retry.waits(self.now()) {
            self.prepare_retry.at.into_iter().for_each(|at| self.wake_by(at));
            return;
        }
        if self.busy.contains("prepare") {
            return;
        }
        self.refresh = false;
        let (shared, pod) = (self.shared.clone(), self.pod.clone());
        let (allocated, observed) = (self.allocated.clone(), self.observed.clone());
        self.step_of("prepare", async move {
            Done::Prepared(ops::prepare(&shared, &pod, &allocated, &observed).await)
        });
    }

    fn make_sandbox(&mut self, attempt: u32) {
        let left: Vec<(String, String)> = self
            .observed
            .containers
            .iter()
            .filter(|seen| seen.state == State::Running)
            .map(|seen| (seen.id.clone(), seen.name.clone()))
            .collect();
        for (id, name) in &left {
            let message = format!("Stopping container {name}");
            self.kill(&Kill { id: id.clone(), name: name.clone(), message, reason: Reason::Ordered });
        }
        let ready: Vec<String> = self
            .observed
            .sandboxes
            .iter()
            .filter(|sandbox| sandbox.ready)
            .map(|sandbox| sandbox.id.clone())
            .collect();
        if !left.is_empty() || !self.killing.is_empty() {
            return;
        }
        if !ready.is_empty() {
            let shared = self.shared.clone();
            self.step_of("stop", async move {
                {
                    ops::stop_sandboxes(&shared, &ready).await;
                    Done::Stopped
                }
            });
            return;
        }
        if self.prepared.is_none() {
            self.prepare();
            return;
        }
        if self.sandbox_retry.waits(self.now()) {
            self.sandbox_retry.at.into_iter().for_each(|at| self.wake_by(at));
            return;
        }
        if attempt > 0 && !self.busy.contains("sandbox") && self.sandbox_retry.at.is_none() {
            let message = "Pod sandbox changed, it will be killed and re-created.";
            self.shared.events.pod(&self.pod, EventKind::Normal, "SandboxChanged", message);
        }
        let (shared, pod, allocated) = (self.shared.clone(), self.pod.clone(), self.allocated.clone());
        self.step_of("sandbox", async move {
            Done::Sandbox(ops::run_sandbox(&shared, &pod, attempt, &allocated).await)
        });
    }

    /// Whether a container's pauses are over.
    fn may_start(&mut self, name: &str, slot: Slot) -> bool {
        if let Some(at) = self.start_after.get(name).copied().filter(|at| *at > self.now()) {
            self.wake_by(at);
            return false;
        }
        let ended = self.observed.find(name).filter(|seen| seen.state == State::Exited);
        let Some(finished) = ended.and_then(|seen| seen.finished) else { return true };
        if matches!(slot, Slot::Ephemeral(_)) {
            return false;
        }
        let entry = self.backoffs.entry(name.to_owned()).or_default();
        let longest = self.shared.config.max_crash_backoff;
        match backoff::check(entry, finished, self.shared.clock.now(), longest) {
            Ok(()) => true,
            Err((until, delay)) => {
                let display = self.pod.display();
                let message = format!(
                    "back-off {} restarting failed container={name} pod={display}",
                    go_duration(delay)
                );
                let waiting = Waiting { reason: "CrashLoopBackOff".into(), message };
                if self.waiting.insert(name.to_owned(), waiting.clone()) != Some(waiting) {
                    let message = format!("Back-off restarting failed container {name} in pod {display}");
                    self.shared.events.container(&self.pod, name, EventKind::Warning, "BackOff", &message);
                }
                self.wake_by_time(until);
                false
            }
        }
    }

    fn start(&mut self, slot: Slot, name: &str) {
        let Some(prepared) = self.prepared.clone() else { return };
        let Some(sandbox) = self.observed.sandboxes.first().filter(|sandbox| sandbox.ready).cloned() else {
            return;
        };
        let target = match slot {
            Slot::Ephemeral(index) => self.pod.ephemerals()[index].target_container_name.clone(),
            _ => None,
        };
        let target = target.and_then(|name| self.observed.find(&name).map(|seen| seen.id.clone()));
        let inputs = StartInputs {
            pod: self.pod.clone(),
            slot,
            prepared,
            sandbox,
            restarts: self.observed.find(name).map(|seen| seen.restarts + 1),
            target,
            allocated: self.allocated.clone(),
        };
        let (shared, name) = (self.shared.clone(), name.to_owned());
        let has_hook =
            self.pod.container(slot).is_some_and(|c| c.lifecycle.is_some_and(|l| l.post_start.is_some()));
        let key = name.clone();
        let task = self.spawn("start", async move {
            let result = ops::start(&shared, &inputs).await;
            match result {
                Ok(id) if has_hook => {
                    // The container runs: it is seen while its hook still does.
                    shared.registry.tell(inputs.pod.uid(), Signal::Runtime(None));
                    let result = ops::post_start(&shared, &inputs, &id).await;
                    Done::PostStarted { name, result }
                }
                result => Done::Started { name, result },
            }
        });
        self.starting = Some((key, task));
    }

    /// Starts the probes of running containers and ends those of others.
    fn tend_probes(&mut self) {
        let running: BTreeMap<String, String> = self
            .observed
            .containers
            .iter()
            .filter(|seen| seen.state == State::Running)
            .map(|seen| (seen.id.clone(), seen.name.clone()))
            .collect();
        let terminating = self.terminating;
        self.probes.retain(|(id, probe), task| {
            let keep = running.contains_key(id) && !(terminating && *probe != Probe::Readiness);
            if !keep {
                task.abort();
            }
            keep
        });
        self.results.retain(|id| running.contains_key(id));
        for (id, name) in running {
            self.start_probes(&id, &name);
        }
    }

    fn start_probes(&mut self, id: &str, name: &str) {
        let Some(container) = self.pod.container_named(name) else { return };
        let started = container.startup_probe.is_none() || self.results.get(id, Probe::Startup) == Some(true);
        for probe in [Probe::Startup, Probe::Liveness, Probe::Readiness] {
            let spec = match probe {
                Probe::Startup => container.startup_probe.clone().filter(|_| !started),
                Probe::Liveness => container.liveness_probe.clone().filter(|_| started),
                Probe::Readiness => container.readiness_probe.clone().filter(|_| started),
            };
            let Some(spec) = spec.filter(|_| !(self.terminating && probe != Probe::Readiness)) else {
                continue;
            };
            let key = (id.to_owned(), probe);
            if self.probes.contains_key(&key) {
                continue;
            }
            let ran =
                self.observed.by_id(id).and_then(|seen| seen.started).map(|at| {
                    Duration::try_from(self.shared.clock.now().duration_since(at)).unwrap_or_default()
                });
            let task = probes::Task {
                shared: self.shared.clone(),
                pod: self.pod.clone(),
                container: container.clone(),
                id: id.to_owned(),
                probe,
                spec,
                pod_ip: self.pod_ip(),
                started: self.now().saturating_sub(ran.unwrap_or_default()),
                known: self.results.get(id, probe),
                results: self.probe_results.clone(),
            };
            let handle = self.shared.tasks.spawn("probe", task.run());
            self.probes.insert(key, handle);
        }
    }

    /// Takes over changed resources when the node can give them, and applies them.
    fn tend_resize(&mut self) {
        if self.terminating || self.pod.is_static() {
            self.resize = None;
            return;
        }
        let wanted = resize::wanted(&self.pod);
        let changed = resize::differing(&self.pod, &wanted, &self.allocated);
        if !changed.is_empty() && !self.busy.contains("resize") {
            let others: Vec<Arc<Pod>> = self.shared.registry.others(self.pod.uid());
            match resize::fits(&self.pod, &wanted, &others, &self.shared.allocatable) {
                Err(verdict) => {
                    self.resize = Some(verdict);
                    self.wake_by(self.now() + RESIZE_RETRY);
                    return;
                }
                Ok(()) => self.take_resources(wanted, &changed),
            }
        }
        let pending = resize::differing(&self.pod, &self.allocated, &self.applied);
        if pending.is_empty() {
            self.resize = None;
            return;
        }
        if !matches!(self.resize, Some(Resize::InProgress(Some(_)))) {
            self.resize = Some(Resize::InProgress(None));
        }
        if self.resize_retry.waits(self.now()) {
            self.resize_retry.at.into_iter().for_each(|at| self.wake_by(at));
            return;
        }
        let (shared, pod, allocated) = (self.shared.clone(), self.pod.clone(), self.allocated.clone());
        let (before, observed) = (self.applied.clone(), self.observed.clone());
        self.step_of("resize", async move {
            let result = ops::apply_resources(&shared, &pod, &before, &allocated, &pending, &observed).await;
            Done::Resized(result.map(|()| allocated))
        });
    }

    /// The new resources hold from now on; containers that cannot change while running are restarted.
    fn take_resources(&mut self, wanted: Allocated, changed: &[String]) {
        let before = std::mem::replace(&mut self.allocated, Arc::new(wanted));
        resize::save(&self.shared.store.pod_dir(self.pod.uid()), &self.allocated);
        self.resize_retry.succeed();
        let message = "Pod resize started";
        self.shared.events.pod(&self.pod, EventKind::Normal, "ResizeStarted", message);
        for name in changed {
            let Some(container) = self.pod.container_named(name) else { continue };
            let old = before.get(name).cloned().unwrap_or_default();
            let new = self.allocated.get(name).cloned().unwrap_or_default();
            let running = self
                .observed
                .find(name)
                .filter(|seen| seen.state == State::Running)
                .map(|seen| seen.id.clone());
            if let (true, Some(id)) = (resize::needs_restart(&container, &old, &new), running) {
                let message = format!("Container {name} resize requires restart");
                self.kill(&Kill { id, name: name.clone(), message, reason: Reason::Ordered });
            }
        }
    }

    /// Of each container the running one and the last that ended stay in the runtime.
    fn prune(&mut self) {
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        let mut old = Vec::new();
        for container in &self.observed.containers {
            let count = seen.entry(container.name.as_str()).or_default();
            *count += 1;
            if *count > 2 && container.state != State::Running {
                old.push(container.id.clone());
            }
        }
        let keep = self.observed.sandboxes.first().map(|sandbox| sandbox.id.clone()).unwrap_or_default();
        let used: BTreeSet<&str> =
            self.observed.containers.iter().map(|seen| seen.sandbox.as_str()).collect();
        let empty: Vec<String> = self
            .observed
            .sandboxes
            .iter()
            .filter(|sandbox| !sandbox.ready && sandbox.id != keep && !used.contains(sandbox.id.as_str()))
            .map(|sandbox| sandbox.id.clone())
            .collect();
        if old.is_empty() && empty.is_empty() {
            return;
        }
        let shared = self.shared.clone();
        self.step_of("prune", async move {
            ops::remove_old(&shared, &old, &empty).await;
            Done::Pruned
        });
    }

    fn update_status(&mut self) {
        let nothing_runs = !self.observed.any_running() && self.killing.is_empty() && self.starting.is_none();
        let terminal = self.terminating && nothing_runs && !self.busy.contains("sandbox");
        let mut status = status::generate(&Facts {
            pod: &self.pod,
            old: &self.status,
            observed: &self.observed,
            results: &self.results,
            waiting: &self.waiting,
            verdict: self.verdict.as_ref(),
            terminal,
            host_ips: &self.shared.host_ips,
            now: self.shared.clock.now(),
            scheme: &self.shared.runtime.name,
            allocated: &self.allocated,
            applied: &self.applied,
            resize: self.resize.as_ref(),
        });
        if !terminal
            && matches!(status.phase.as_deref(), Some("Failed" | "Succeeded"))
            && !self.pod.finished()
            && self.observed.any_running()
        {
            // An end is told when it has come: others may start in the pod's place.
            status.phase = self.status.phase.clone();
            status.reason = self.status.reason.clone();
            status.message = self.status.message.clone();
        }
        if status != self.status {
            self.shared.registry.set_status(self.pod.uid(), Arc::new(status.clone()));
            self.status = status;
        }
    }

    fn report(&mut self) {
        let now = self.now();
        if self.gone || self.reported.as_ref() == Some(&self.status) || self.busy.contains("report") {
            return;
        }
        if self.report_retry.waits(now) {
            self.report_retry.at.into_iter().for_each(|at| self.wake_by(at));
            return;
        }
        if let Some(at) = self.report_after().filter(|at| *at > now) {
            self.wake_by(at);
            return;
        }
        self.changed_at = None;
        let (shared, pod, status) = (self.shared.clone(), self.pod.clone(), self.status.clone());
        self.step_of("report", async move {
            let result = report::status(&shared, &pod, &status).await;
            Done::Reported { status: Box::new(status), result }
        });
    }

    /// While a pod is being started its status changes several times in a moment: one report will do.
    fn report_after(&mut self) -> Option<Duration> {
        let now = self.now();
        let at = *self.changed_at.get_or_insert(now);
        let pending = self.status.phase.as_deref() == Some("Pending") && !self.terminating;
        let at_work =
            self.starting.is_some() || self.busy.contains("sandbox") || self.busy.contains("prepare");
        (pending && at_work).then(|| at + REPORT_PAUSE)
    }

    /// Brings volumes up to date when what they show changed or a token is old.
    fn keep_volumes(&mut self) {
        let Some(prepared) = self.prepared.clone().filter(|_| !self.terminating) else { return };
        if let Some(renew) = prepared.renew {
            if renew <= self.shared.clock.now() {
                self.refresh = true;
            } else {
                self.wake_by_time(renew);
            }
        }
        if self.refresh {
            self.prepare();
        }
    }
}

/// Containers that are to run otherwise than before.
fn changed_containers(before: &Pod, after: &Pod) -> Vec<String> {
    let containers = after.slots().into_iter().filter_map(|slot| after.container(slot));
    let changed = containers.filter(|container| {
        let old = before.container_named(&container.name);
        old.is_some_and(|old| container_hash(&old) != container_hash(container))
    });
    changed.map(|container| container.name).collect()
}

/// What a container said at its end stays, also when its file is gone.
fn keep_messages(observed: &mut Observed, before: &Observed) {
    for seen in
        observed.containers.iter_mut().filter(|seen| seen.state == State::Exited && seen.message.is_empty())
    {
        if let Some(old) = before.by_id(&seen.id).filter(|old| old.state == State::Exited) {
            seen.message = old.message.clone();
        }
    }
}

async fn ops_look(shared: &Shared, pod: &Pod) -> Result<Observed, runtime::CriError> {
    super::look::observe(&shared.cri, pod).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn another_image_is_another_container() {
        let pod = |first: &str, second: &str| -> Pod {
            let container = |name: &str, image: &str| json!({"name": name, "image": image});
            serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {
                "initContainers": [container("a", first)], "containers": [container("b", second)]}}))
            .expect("a pod")
        };
        assert!(changed_containers(&pod("x", "y"), &pod("x", "y")).is_empty());
        assert_eq!(changed_containers(&pod("x", "y"), &pod("x", "z")), ["b"]);
        assert_eq!(changed_containers(&pod("x", "y"), &pod("w", "z")), ["a", "b"]);
    }
}
