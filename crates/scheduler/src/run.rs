//! Feeds decisions from watches and writes their outcome: bindings, conditions, events, preemptions.
//!
//! One task owns cache and queue and never waits for a write: bindings run beside it, on the assumption that
//! they succeed, and report back.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use api::k8s::api::core::v1::{Namespace, Node, Pod};
use api::k8s::api::policy::v1::PodDisruptionBudget;
use api::labels::Selector;
use base::{Clock, Rng, Tasks};
use client::plan::About;
use client::{
    Change as CacheChange, Client, ClientError, DeleteOptions, EventKind, Patch, Recorder, SharedInformers,
};
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};

use crate::cache::Cache;
use crate::config::Config;
use crate::decide::{Decision, Diagnosis, decide};
use crate::plugins::DEFAULT_PLUGINS;
use crate::pod::PodInfo;
use crate::preempt::{Budget, Preemption, preempt};
use crate::queue::{Change, Queue};

/// Writes under way at one time; more would only queue in the server.
const MAX_WRITES: usize = 128;
/// Decisions between two looks at the watches.
const DECISIONS_PER_TURN: usize = 64;

/// What reaches the scheduling task.
enum Input {
    Node(CacheChange<Node>),
    Pod(CacheChange<Pod>),
    Namespace(CacheChange<Namespace>),
    Bound { pod: Arc<PodInfo>, node: String, outcome: Result<(), ClientError> },
}

/// The scheduling task's state.
struct Scheduler {
    config: Config,
    client: Client,
    recorder: Recorder,
    clock: Clock,
    rng: Rng,
    tasks: Tasks,
    writes: Arc<Semaphore>,
    budgets: client::Cache<PodDisruptionBudget>,
    cache: Cache,
    queue: Queue,
    nominated: HashMap<String, (String, Arc<PodInfo>)>,
    start: usize,
    reports: mpsc::UnboundedSender<Input>,
}

/// Schedules pods until `tasks` is cancelled.
pub async fn run(
    client: Client,
    informers: SharedInformers,
    config: Config,
    clock: Clock,
    rng: Rng,
    tasks: Tasks,
) {
    let (sender, mut inputs) = mpsc::unbounded_channel();
    let nodes = informers.of::<Node>();
    let pods = informers.of::<Pod>();
    let namespaces = informers.of::<Namespace>();
    let budgets = informers.of::<PodDisruptionBudget>();
    tokio::join!(nodes.synced(), pods.synced(), namespaces.synced());
    let forward = |wrap: fn(CacheChange<Node>) -> Input| {
        let sender = sender.clone();
        move |change: &CacheChange<Node>| drop(sender.send(wrap(change.clone())))
    };
    nodes.on_change(forward(Input::Node));
    let out = sender.clone();
    namespaces.on_change(move |change| drop(out.send(Input::Namespace(change.clone()))));
    let out = sender.clone();
    pods.on_change(move |change| drop(out.send(Input::Pod(change.clone()))));
    let recorder = Recorder::new(client.clone(), &config.scheduler_name, "", clock.clone(), &tasks);
    let mut scheduler = Scheduler {
        config,
        client,
        recorder,
        clock: clock.clone(),
        rng,
        tasks,
        writes: Arc::new(Semaphore::new(MAX_WRITES)),
        budgets: budgets.cache().clone(),
        cache: Cache::default(),
        queue: Queue::default(),
        nominated: HashMap::new(),
        start: 0,
        reports: sender,
    };
    loop {
        while let Ok(input) = inputs.try_recv() {
            scheduler.take(input);
        }
        let worked = (0..DECISIONS_PER_TURN).take_while(|_| scheduler.schedule_next()).count();
        if worked > 0 {
            tokio::task::yield_now().await;
            continue;
        }
        let wake = scheduler.queue.next_wake();
        let sleep = async {
            match wake {
                Some(at) => clock.sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            input = inputs.recv() => match input {
                Some(input) => scheduler.take(input),
                None => return,
            },
            () = sleep => {}
        }
    }
}

impl Scheduler {
    fn take(&mut self, input: Input) {
        match input {
            Input::Node(change) => self.node_changed(&change),
            Input::Pod(change) => self.pod_changed(&change),
            Input::Namespace(change) => {
                let namespace = change.object();
                let labels = namespace.metadata.labels.clone().unwrap_or_default();
                let gone = matches!(change, CacheChange::Deleted(_));
                let name = namespace.metadata.name.as_deref().unwrap_or_default();
                self.cache.set_namespace(name, (!gone).then(|| Arc::new(labels)));
            }
            Input::Bound { pod, node, outcome } => self.bound(&pod, &node, outcome),
        }
    }

    fn node_changed(&mut self, change: &CacheChange<Node>) {
        let node = change.object();
        let name = node.metadata.name.as_deref().unwrap_or_default();
        match change {
            CacheChange::Deleted(_) => self.cache.remove_node(name),
            CacheChange::Added(node) => {
                self.cache.set_node(node.clone());
                self.queue.changed(Change::Node, self.clock.now());
            }
            CacheChange::Modified { old, new } => {
                self.cache.set_node(new.clone());
                if can_take_more(old, new) {
                    self.queue.changed(Change::Node, self.clock.now());
                }
            }
        }
    }

    fn pod_changed(&mut self, change: &CacheChange<Pod>) {
        let now = self.clock.now();
        let info = Arc::new(PodInfo::new(change.object().clone()));
        let gone = matches!(change, CacheChange::Deleted(_)) || info.is_terminal();
        if gone {
            self.queue.remove(&info.key);
            self.nominated.remove(&info.uid);
            if self.cache.remove_pod(&info.uid) {
                self.queue.changed(Change::PodGone, now);
            }
            return;
        }
        if info.node_name().is_some() {
            let new = !self.cache.is_placed(&info.uid);
            self.queue.remove(&info.key);
            self.nominated.remove(&info.uid);
            self.cache.set_pod(info.pod.clone());
            let labels = change.old().is_none_or(|old| old.metadata.labels != info.pod.metadata.labels);
            if new || labels {
                self.queue.changed(Change::PodPlaced, now);
            }
            return;
        }
        let spec = info.pod.spec.as_ref();
        let scheduler = spec.and_then(|spec| spec.scheduler_name.as_deref()).unwrap_or("default-scheduler");
        if scheduler == self.config.scheduler_name && !info.is_deleting() {
            self.queue.set(info, now);
        } else {
            self.queue.remove(&info.key);
        }
    }

    /// Tries the next pod; false when none is ready.
    fn schedule_next(&mut self) -> bool {
        let Some(pod) = self.queue.pop(self.clock.now()) else { return false };
        if self.cache.is_placed(&pod.uid) {
            self.queue.remove(&pod.key);
            return true;
        }
        let reserved = self.reserve_nominated(&pod);
        let snapshot = self.cache.snapshot();
        let decision = decide(DEFAULT_PLUGINS, &pod, snapshot, &mut self.start, &self.rng);
        let found = match &decision {
            Decision::Unschedulable(diagnosis) if diagnosis.pre_filter.is_none() => {
                Some(self.find_preemption(&pod, diagnosis))
            }
            _ => None,
        };
        for (uid, _) in &reserved {
            self.cache.remove_pod(uid);
        }
        match decision {
            Decision::Bind(node) => self.bind(pod, node),
            Decision::Unschedulable(diagnosis) => self.unschedulable(&pod, diagnosis, found),
        }
        true
    }

    /// Counts pods that a preemption has made room for, unless `pod` is more important.
    fn reserve_nominated(&mut self, pod: &PodInfo) -> Vec<(String, String)> {
        let others: Vec<(String, Arc<PodInfo>)> = self
            .nominated
            .iter()
            .filter(|(uid, (_, other))| **uid != pod.uid && other.priority >= pod.priority)
            .map(|(_, (node, other))| (node.clone(), other.clone()))
            .collect();
        let mut reserved = Vec::new();
        for (node, other) in others {
            if !self.cache.is_placed(&other.uid) {
                self.cache.assume(other.clone(), &node);
                reserved.push((other.uid.clone(), node));
            }
        }
        reserved
    }

    fn bind(&mut self, pod: Arc<PodInfo>, node: String) {
        self.cache.assume(pod.clone(), &node);
        self.nominated.remove(&pod.uid);
        let (client, reports, writes) = (self.client.clone(), self.reports.clone(), self.writes.clone());
        self.tasks.spawn("bind", async move {
            // The semaphore is never closed.
            let _permit = writes.acquire().await;
            let name = pod.pod.metadata.name.as_deref().unwrap_or_default();
            let outcome = client.bind(&pod.namespace, name, &pod.uid, &node).await;
            let _ = reports.send(Input::Bound { pod, node, outcome });
        });
    }

    fn bound(&mut self, pod: &Arc<PodInfo>, node: &str, outcome: Result<(), ClientError>) {
        match outcome {
            Ok(()) => {
                tracing::debug!(pod = %pod.key, node, "bound");
                let message = format!("Successfully assigned {} to {node}", pod.key);
                self.recorder.event(&About::of(&*pod.pod), EventKind::Normal, "Scheduled", &message);
                self.queue.remove(&pod.key);
                self.queue.changed(Change::PodPlaced, self.clock.now());
            }
            Err(error) => {
                self.cache.forget(&pod.uid);
                if error.is_not_found() || error.is_conflict() {
                    // Gone or bound by somebody else: the watch will say.
                    tracing::debug!(pod = %pod.key, node, %error, "binding refused");
                } else {
                    tracing::warn!(pod = %pod.key, node, %error, "binding failed");
                }
                self.queue.failed(&pod.key, BTreeSet::new(), self.clock.now());
                self.queue.changed(Change::PodGone, self.clock.now());
            }
        }
    }

    fn find_preemption(&self, pod: &PodInfo, diagnosis: &Diagnosis) -> Result<Preemption, String> {
        // Victims of an earlier preemption are still leaving: wait for them.
        if let Some(node) =
            self.nominated.get(&pod.uid).and_then(|(name, _)| self.cache.snapshot().node(name))
        {
            if node.pods.iter().any(|other| other.is_deleting() && other.priority < pod.priority) {
                return Err(
                    "preemption: not eligible due to a terminating pod on the nominated node.".to_owned()
                );
            }
        }
        let budget = |pdb: &Arc<PodDisruptionBudget>| Budget {
            namespace: pdb.metadata.namespace.clone().unwrap_or_default(),
            selector: Selector::from_object(pdb.spec.as_ref().and_then(|spec| spec.selector.as_ref()))
                .unwrap_or_else(|_| Selector::nothing()),
            allowed: pdb
                .status
                .as_ref()
                .map_or(0, |status| i64::from(status.disruptions_allowed.unwrap_or(0))),
        };
        let budgets: Vec<Budget> = self.budgets.list().iter().map(budget).collect();
        preempt(DEFAULT_PLUGINS, pod, self.cache.snapshot(), diagnosis, &budgets)
    }

    fn unschedulable(
        &mut self,
        pod: &Arc<PodInfo>,
        mut diagnosis: Diagnosis,
        found: Option<Result<Preemption, String>>,
    ) {
        let mut nominate = None;
        match found {
            Some(Ok(preemption)) => {
                nominate = Some(preemption.node.clone());
                self.nominated.insert(pod.uid.clone(), (preemption.node.clone(), pod.clone()));
                self.evict(pod, &preemption);
            }
            Some(Err(reason)) => {
                diagnosis.post_filter = Some(format!("no new claims to deallocate, {reason}"));
            }
            None => {}
        }
        let message = diagnosis.message();
        tracing::debug!(pod = %pod.key, %message, "unschedulable");
        self.recorder.event(&About::of(&*pod.pod), EventKind::Warning, "FailedScheduling", &message);
        self.report_condition(pod, &message, nominate);
        let plugins = diagnosis.plugins();
        // Without nodes only a node helps; every plugin's refusal listens to that.
        let plugins = if plugins.is_empty() { BTreeSet::from([crate::plugins::node::NAME]) } else { plugins };
        self.queue.failed(&pod.key, plugins, self.clock.now());
    }

    fn report_condition(&self, pod: &Arc<PodInfo>, message: &str, nominate: Option<String>) {
        let status = pod.pod.status.as_ref();
        let known = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
        let same = known
            .filter(|condition| condition.type_ == "PodScheduled")
            .any(|c| c.status == "False" && c.message.as_deref() == Some(message));
        if same && nominate.is_none() {
            return;
        }
        let mut condition = json!({
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
            "lastProbeTime": null, "lastTransitionTime": api::time::format(self.clock.now()),
        });
        if let Some(generation) = pod.pod.metadata.generation {
            condition["observedGeneration"] = json!(generation);
        }
        let mut body = json!({"metadata": {"uid": pod.uid}, "status": {"conditions": [condition]}});
        if let Some(node) = nominate {
            body["status"]["nominatedNodeName"] = json!(node);
        }
        self.write_pod_status(pod, body);
    }

    fn write_pod_status(&self, pod: &Arc<PodInfo>, body: serde_json::Value) {
        let (client, writes, pod) = (self.client.clone(), self.writes.clone(), pod.clone());
        self.tasks.spawn("pod status", async move {
            // The semaphore is never closed.
            let _permit = writes.acquire().await;
            let name = pod.pod.metadata.name.as_deref().unwrap_or_default();
            let patched = client.patch_status::<Pod>(&pod.namespace, name, &Patch::Strategic(body)).await;
            if let Err(error) = patched.map(drop) {
                if !error.is_not_found() && !error.is_conflict() {
                    tracing::warn!(pod = %pod.key, %error, "cannot write the pod's status");
                }
            }
        });
    }

    fn evict(&self, pod: &PodInfo, preemption: &Preemption) {
        for victim in &preemption.victims {
            let message = format!("Preempted by pod {} on node {}", pod.uid, preemption.node);
            self.recorder.event(&About::of(&*victim.pod), EventKind::Normal, "Preempted", &message);
            let condition = json!({
                "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
                "message": format!("{}: preempting to accommodate a higher priority pod", self.config.scheduler_name),
                "lastTransitionTime": api::time::format(self.clock.now()),
            });
            let body = json!({"metadata": {"uid": victim.uid}, "status": {"conditions": [condition]}});
            let (client, victim) = (self.client.clone(), victim.clone());
            self.tasks.spawn("preempt", async move {
                let name = victim.pod.metadata.name.as_deref().unwrap_or_default();
                let marked =
                    client.patch_status::<Pod>(&victim.namespace, name, &Patch::Strategic(body)).await;
                if let Err(error) = marked {
                    tracing::debug!(pod = %victim.key, %error, "cannot mark the victim");
                }
                let options = DeleteOptions::uid(&victim.uid);
                match client.delete::<Pod>(&victim.namespace, name, &options).await.map(drop) {
                    Err(error) if !error.is_not_found() => {
                        tracing::warn!(pod = %victim.key, %error, "cannot delete the victim");
                    }
                    _ => {}
                }
            });
        }
    }
}

/// True when the node may take pods that it refused before.
fn can_take_more(old: &Node, new: &Node) -> bool {
    let spec = |node: &Node| node.spec.as_ref().map(|spec| (spec.taints.clone(), spec.unschedulable));
    let allocatable = |node: &Node| node.status.as_ref().and_then(|status| status.allocatable.clone());
    spec(old) != spec(new)
        || allocatable(old) != allocatable(new)
        || old.metadata.labels != new.metadata.labels
}
