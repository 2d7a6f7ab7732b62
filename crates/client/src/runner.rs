//! Runs a controller: takes keys from its queue, asks it for a plan, writes the plan, and waits until the caches
//! have seen those writes before it asks again.
//!
//! Must not know any controller.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use api::meta::ObjectExt;
use api::{Gvr, Reason};
use base::{Clock, Tasks};
use futures::StreamExt;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::Value;

use crate::cache::Probe;
use crate::client::WriteOptions;
use crate::events::{EventKind, Recorder};
use crate::plan::{Mode, Outcome, Plan, Report, Stage, Step};
use crate::{Client, ClientError, Key, Queue, ResourceRef};

/// After this time a write that no cache has shown is forgotten, as upstream's expectations: a watch that is behind for
/// longer must not make things twice.
const EXPECT_FOR: Duration = Duration::from_secs(300);
/// How soon to look again for writes that the caches have not shown: the event itself usually comes first.
const EXPECT_AGAIN: Duration = Duration::from_millis(250);
/// Steps that run at a time.
const MAX_TOGETHER: usize = 64;

/// Why a key could not be reconciled; it is tried again with back-off.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReconcileError {
    /// Something needed is not there yet.
    #[error("{0}")]
    NotReady(String),
    /// The object cannot be handled as it is.
    #[error("{0}")]
    Object(String),
}

/// A controller: pure, reads caches, returns writes.
pub trait Reconcile: Send + Sync + 'static {
    /// What to write so that the object named `key` is as wanted. `now` has whole seconds.
    fn reconcile(&self, key: &Key, now: Timestamp) -> Result<Plan, ReconcileError>;
}

/// A write that a cache should show.
#[derive(Clone, Debug)]
enum Pending {
    Written { gvr: Gvr, key: Key, revision: u64 },
    Deleted { gvr: Gvr, key: Key, uid: String },
}

struct Expected {
    pending: Vec<Pending>,
    since: Duration,
}

/// The tools of one running controller.
pub struct Runner {
    name: &'static str,
    client: Client,
    recorder: Recorder,
    queue: Queue<Key>,
    clock: Clock,
    probes: BTreeMap<Gvr, Arc<dyn Probe>>,
    expected: Mutex<BTreeMap<Key, Expected>>,
}

impl Runner {
    /// A runner that writes with `client` and takes keys from `queue`.
    pub fn new(
        name: &'static str,
        client: Client,
        recorder: Recorder,
        queue: Queue<Key>,
        clock: Clock,
    ) -> Self {
        Runner { name, client, recorder, queue, clock, probes: BTreeMap::new(), expected: Mutex::default() }
    }

    /// Writes to this resource count as done only when `cache` shows them.
    pub fn expect_in(mut self, resource: ResourceRef, cache: Arc<dyn Probe>) -> Self {
        self.probes.insert(resource.gvr, cache);
        self
    }

    /// Starts `workers` tasks that run until `tasks` are cancelled.
    pub fn start(self, controller: Arc<dyn Reconcile>, workers: usize, tasks: &Tasks) {
        let runner = Arc::new(self);
        for _ in 0..workers {
            let (runner, controller) = (runner.clone(), controller.clone());
            tasks.spawn("controller", async move { runner.work(&*controller).await });
        }
    }

    async fn work(&self, controller: &dyn Reconcile) {
        loop {
            let key = self.queue.next().await;
            self.process(controller, &key).await;
            self.queue.done(&key);
        }
    }

    /// Handles one key: plan, writes, what comes next.
    pub async fn process(&self, controller: &dyn Reconcile, key: &Key) {
        if !self.caught_up(key) {
            self.queue.add_after(key.clone(), EXPECT_AGAIN);
            return;
        }
        let now = whole_seconds(self.clock.now());
        // A user's object must not end the controller: a panic is a failure of this key only.
        let planned = std::panic::catch_unwind(AssertUnwindSafe(|| controller.reconcile(key, now)));
        let plan = match planned {
            Ok(Ok(plan)) => plan,
            Ok(Err(error)) => {
                tracing::debug!(controller = self.name, %key, %error, "not reconciled");
                return self.queue.add_failed(key.clone());
            }
            Err(_) => {
                tracing::error!(controller = self.name, %key, "reconciling panicked");
                return self.queue.add_failed(key.clone());
            }
        };
        let again = plan.requeue_after;
        match self.execute(key, plan).await {
            Ok(()) => {
                self.queue.forget(key);
                if let Some(delay) = again {
                    self.queue.add_after(key.clone(), delay);
                }
            }
            Err(error) => {
                if error.is_conflict() || error.is_not_found() {
                    tracing::debug!(controller = self.name, %key, %error, "write failed; trying again");
                } else {
                    tracing::warn!(controller = self.name, %key, %error, "write failed; trying again");
                }
                self.queue.add_failed(key.clone());
            }
        }
    }

    /// Writes a plan; returns the first failure.
    pub async fn execute(&self, key: &Key, plan: Plan) -> Result<(), ClientError> {
        let (mut outcome, mut first) = (Outcome::default(), None);
        for stage in plan.stages {
            self.run_stage(key, stage, &mut outcome, &mut first).await;
            if first.is_some() {
                break;
            }
        }
        if let Some(then) = plan.then {
            outcome.error = first.as_ref().map(ClientError::to_string);
            let steps = then(&outcome);
            let mut second = None;
            let stage = Stage { mode: Mode::InOrder, steps };
            self.run_stage(key, stage, &mut outcome, &mut second).await;
            first = first.or(second);
        }
        first.map_or(Ok(()), Err)
    }

    async fn run_stage(&self, key: &Key, stage: Stage, out: &mut Outcome, first: &mut Option<ClientError>) {
        let mut steps = stage.steps.into_iter();
        let mut batch = match stage.mode {
            Mode::InOrder | Mode::SlowStart => 1,
            Mode::Together => MAX_TOGETHER,
        };
        loop {
            let now: Vec<Step> = steps.by_ref().take(batch).collect();
            if now.is_empty() {
                return;
            }
            let together = now.len().min(MAX_TOGETHER);
            let mut results = futures::stream::iter(now.into_iter().map(|step| self.run_step(key, step)))
                .buffered(together);
            let (mut failed, mut in_vain) = (false, false);
            while let Some(result) = results.next().await {
                match result {
                    Ok(Done::InVain) => in_vain = true,
                    Ok(Done::Created) => out.created += 1,
                    Ok(Done::Deleted) => out.deleted += 1,
                    Ok(Done::Other) => {}
                    Err(error) => {
                        out.failed += 1;
                        failed = true;
                        first.get_or_insert(error);
                    }
                }
            }
            if failed && stage.mode != Mode::Together {
                return;
            }
            if stage.mode == Mode::SlowStart {
                // What could not be made once cannot be made many times.
                if in_vain {
                    return;
                }
                batch *= 2;
            }
        }
    }

    async fn run_step(&self, key: &Key, step: Step) -> Result<Done, ClientError> {
        match step {
            Step::Create { resource, object, exists_is_fine, report } => {
                self.create(key, &resource.gvr, object, exists_is_fine, report.as_ref()).await
            }
            Step::Update { resource, subresource, object } => {
                let (gvr, namespace, name) = (&resource.gvr, object.namespace(), object.name());
                let answer: Value = self.client.update_at(gvr, namespace, name, subresource, &object).await?;
                self.expect_written(key, gvr, &answer);
                Ok(Done::Other)
            }
            Step::Patch { resource, key: target, subresource, patch } => {
                let (namespace, name) = (&target.namespace, &target.name);
                let gvr = &resource.gvr;
                let answer: Value = self.client.patch_at(gvr, namespace, name, subresource, &patch).await?;
                self.expect_written(key, gvr, &answer);
                Ok(Done::Other)
            }
            Step::Delete { resource, key: target, options, report } => {
                let (namespace, name) = (&target.namespace, &target.name);
                let answer = self.client.delete_at(&resource.gvr, namespace, name, &options).await;
                if let Err(error) = answer
                    && !error.is_not_found()
                {
                    self.tell(report.as_ref(), Err(&error));
                    return Err(error);
                }
                self.tell(report.as_ref(), Ok(name));
                let uid = options.preconditions.uid;
                self.expect(key, Pending::Deleted { gvr: resource.gvr, key: target, uid });
                Ok(Done::Deleted)
            }
            Step::Event(note) => {
                self.recorder.record(note);
                Ok(Done::Other)
            }
        }
    }

    async fn create(
        &self,
        key: &Key,
        gvr: &Gvr,
        object: Value,
        exists_is_fine: bool,
        report: Option<&Report>,
    ) -> Result<Done, ClientError> {
        let options = WriteOptions::default();
        let answer: Result<Value, _> =
            self.client.create_at(gvr, object.namespace(), &object, &options).await;
        match answer {
            Ok(answer) => {
                self.expect_written(key, gvr, &answer);
                self.tell(report, Ok(answer.name()));
                Ok(Done::Created)
            }
            Err(error) if exists_is_fine && error.is(Reason::AlreadyExists) => Ok(Done::Other),
            // Nothing can be made in a namespace that goes away, and nobody needs to hear of it.
            Err(error) if error.is_namespace_terminating() => Ok(Done::InVain),
            Err(error) => {
                self.tell(report, Err(&error));
                Err(error)
            }
        }
    }

    fn tell(&self, report: Option<&Report>, result: Result<&str, &ClientError>) {
        let Some(report) = report else { return };
        let (kind, (reason, text), what) = match result {
            // A text that is open is completed by the object's name.
            Ok(name) if report.done.1.ends_with(' ') => (EventKind::Normal, &report.done, name.to_owned()),
            Ok(_) => (EventKind::Normal, &report.done, String::new()),
            Err(error) => (EventKind::Warning, &report.failed, error.to_string()),
        };
        self.recorder.event(&report.about, kind, reason, &format!("{text}{what}"));
    }

    fn expect_written(&self, key: &Key, gvr: &Gvr, answer: &Value) {
        let revision = answer.resource_version().parse().unwrap_or(0);
        let target = Key::new(answer.namespace(), answer.name());
        self.expect(key, Pending::Written { gvr: gvr.clone(), key: target, revision });
    }

    fn expect(&self, key: &Key, pending: Pending) {
        let (Pending::Written { gvr, .. } | Pending::Deleted { gvr, .. }) = &pending;
        if !self.probes.contains_key(gvr) || self.has_seen(&pending) {
            return;
        }
        let since = self.clock.monotonic();
        let mut expected = self.expected.lock();
        let entry = expected.entry(key.clone()).or_insert(Expected { pending: Vec::new(), since });
        entry.since = since;
        entry.pending.push(pending);
    }

    fn has_seen(&self, pending: &Pending) -> bool {
        match pending {
            Pending::Written { gvr, key, revision } => self.probes.get(gvr).is_none_or(|probe| {
                probe.seen() >= *revision || probe.find(key).is_some_and(|found| found.revision >= *revision)
            }),
            Pending::Deleted { gvr, key, uid } => self.probes.get(gvr).is_none_or(|probe| {
                probe.find(key).is_none_or(|found| found.deleting || (!uid.is_empty() && found.uid != *uid))
            }),
        }
    }

    fn caught_up(&self, key: &Key) -> bool {
        if base::mutated("skip-expectations") {
            return true;
        }
        let mut expected = self.expected.lock();
        let Some(entry) = expected.get_mut(key) else { return true };
        entry.pending.retain(|pending| !self.has_seen(pending));
        let late = self.clock.monotonic().saturating_sub(entry.since) > EXPECT_FOR;
        if entry.pending.is_empty() || late {
            expected.remove(key);
            return true;
        }
        false
    }
}

enum Done {
    Created,
    Deleted,
    Other,
    /// Not done, and not to be tried again.
    InVain,
}

/// The time without its fraction, as the API stores it.
pub fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}
