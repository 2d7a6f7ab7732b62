//! Feeds decisions from watches and writes their outcome: bindings, conditions, events, preemptions.
//!
//! One task owns cache and queue and never waits for a write: bindings run beside it, on the assumption that
//! they succeed, and report back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::k8s::api::apps::v1::{ReplicaSet, StatefulSet};
use api::k8s::api::core::v1::{
    Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ReplicationController, Service,
};
use api::k8s::api::policy::v1::PodDisruptionBudget;
use api::k8s::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use api::k8s::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment};
use api::labels::Selector;
use base::{Clock, Rng, Tasks};
use client::plan::About;
use client::{
    Change as CacheChange, Client, EventKind, Informer, Key, Kind, Meta, Patch, Recorder, SharedInformers,
};
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};

use crate::bind::{BindError, Binder};
use crate::cache::Cache;
use crate::config::Setup;
use crate::decide::{Decision, Diagnosis, Feasible, Round, choose, decide, feasible};
use crate::extender::{Extender, ExtenderError};
use crate::hints::{Dirty, Supply};
use crate::memo::Memo;
use crate::plugins::spread::Owners;
use crate::plugins::volumes::Binding;
use crate::plugins::{self, Cycle, Refusal};
use crate::pod::PodInfo;
use crate::preempt::{Budget, Preemption, best, candidates};
use crate::profile::Profile;
use crate::queue::{Change, Queue};
use crate::snapshot::{Devices, NodeInfo};
use crate::storage::Storage;
use crate::victim::Removal;

/// Writes under way at one time; more would only queue in the server.
const MAX_WRITES: usize = 128;
/// Decisions between two looks at the watches.
const DECISIONS_PER_TURN: usize = 64;

/// Said when extenders leave no preemption.
const NOBODY: &str = "preemption: extenders leave no node on which it is helpful for scheduling.";
const WAITS: &str = "preemption: not eligible due to a terminating pod on the nominated node.";

/// What reaches the scheduling task.
enum Input {
    Node(CacheChange<Node>),
    Pod(CacheChange<Pod>),
    Namespace(CacheChange<Namespace>),
    Claim(Key),
    Supply(Supply),
    /// The drivers of a node, or what is attached to it.
    StorageNode(String),
    Devices(CacheChange<ResourceClaim>),
    Other(Change),
    Bound {
        pod: Arc<PodInfo>,
        node: String,
        binding: Binding,
        outcome: Result<(), BindError>,
    },
}

/// What becomes of a pod's nominated node.
enum Nominate {
    Keep,
    Set(String),
    Clear,
}

/// The nodes that extenders leave, with their scores.
#[derive(Default)]
struct Among {
    nodes: Vec<usize>,
    scores: BTreeMap<String, i64>,
    diagnosis: Diagnosis,
}

/// What becomes of a pod.
enum Verdict {
    Bind(String, Binding),
    Refused(Box<Refused>),
}

/// A pod that no node takes: why, the preemptions that would help, and what its claims give back.
struct Refused {
    diagnosis: Diagnosis,
    candidates: Option<Result<Vec<Arc<Preemption>>, String>>,
    back: Back,
}

/// What becomes of the devices of a pod that no node takes.
enum Back {
    NoClaims,
    Nothing,
    Claim(Box<ResourceClaim>),
}

/// The scheduling task's state.
struct Scheduler {
    profiles: BTreeMap<String, Arc<Profile>>,
    client: Client,
    recorders: BTreeMap<String, Recorder>,
    clock: Clock,
    rng: Rng,
    tasks: Tasks,
    binder: Binder,
    budgets: client::Cache<PodDisruptionBudget>,
    cache: Cache,
    queue: Queue,
    dirty: Dirty,
    nominated: BTreeMap<String, (String, Arc<PodInfo>)>,
    memo: Memo,
    start: usize,
    reports: mpsc::UnboundedSender<Input>,
}

/// Sends each change of a kind to the scheduling task, unless it can help nobody.
fn forward<K: Kind, I: Into<Option<Input>>>(
    informer: &Informer<K>,
    sender: &mpsc::UnboundedSender<Input>,
    wrap: impl Fn(&CacheChange<K>) -> I + Send + Sync + 'static,
) {
    let sender = sender.clone();
    informer.on_change(move |change| {
        if let Some(input) = wrap(change).into() {
            // The task has ended when nobody receives.
            drop(sender.send(input));
        }
    });
}

/// The object of a change that leaves one.
fn present<K>(change: &CacheChange<K>) -> Option<&Arc<K>> {
    (!matches!(change, CacheChange::Deleted(_))).then(|| change.object())
}

/// The caches of storage, complete.
async fn storage(informers: &SharedInformers, sender: &mpsc::UnboundedSender<Input>) -> Storage {
    let claims = informers.of::<PersistentVolumeClaim>();
    let volumes = informers.of::<PersistentVolume>();
    let classes = informers.of::<StorageClass>();
    let drivers = informers.of::<CSIDriver>();
    let capacities = informers.of::<CSIStorageCapacity>();
    let nodes = informers.of::<CSINode>();
    let attachments = informers.of::<VolumeAttachment>();
    tokio::join!(claims.synced(), volumes.synced(), classes.synced(), drivers.synced());
    tokio::join!(capacities.synced(), nodes.synced(), attachments.synced());
    forward(&claims, sender, |change| Input::Claim(Key::of(&**change.object())));
    forward(&volumes, sender, |change| present(change).map(|volume| Input::Supply(Supply::of(volume))));
    forward(&classes, sender, |change| {
        present(change).map(|class| Input::Supply(Supply::Class(class.name().to_owned())))
    });
    forward(&drivers, sender, |_| Input::Supply(Supply::Driver));
    forward(&capacities, sender, |change| {
        present(change).map(|room| Input::Supply(Supply::Class(room.storage_class_name.clone())))
    });
    forward(&nodes, sender, |change| present(change).map(|node| Input::StorageNode(node.name().to_owned())));
    // What is detached makes room.
    forward(&attachments, sender, |change| match change {
        CacheChange::Deleted(gone) => Some(Input::StorageNode(gone.spec.node_name.clone())),
        _ => None,
    });
    let mut storage = Storage::default();
    storage.claims = claims.cache().clone();
    storage.volumes = volumes.cache().clone();
    storage.classes = classes.cache().clone();
    storage.drivers = drivers.cache().clone();
    storage.capacities = capacities.cache().clone();
    storage.nodes = nodes.cache().clone();
    storage.attachments = attachments.cache().clone();
    storage
}

/// The caches of devices, complete.
async fn devices(informers: &SharedInformers, sender: &mpsc::UnboundedSender<Input>) -> Devices {
    let claims = informers.of::<ResourceClaim>();
    claims.synced().await;
    forward(&claims, sender, |change| Input::Devices(change.clone()));
    let (slices, classes) = (informers.of::<ResourceSlice>(), informers.of::<DeviceClass>());
    tokio::join!(slices.synced(), classes.synced());
    forward(&slices, sender, |_| Input::Other(Change::Device));
    forward(&classes, sender, |_| Input::Other(Change::Device));
    Devices {
        claims: claims.cache().clone(),
        slices: slices.cache().clone(),
        classes: classes.cache().clone(),
        pending: BTreeMap::new(),
    }
}

/// The caches that say which pods are alike, complete.
async fn owners(informers: &SharedInformers) -> Owners {
    let services = informers.of::<Service>();
    let controllers = informers.of::<ReplicationController>();
    let replica_sets = informers.of::<ReplicaSet>();
    let stateful_sets = informers.of::<StatefulSet>();
    tokio::join!(services.synced(), controllers.synced(), replica_sets.synced(), stateful_sets.synced());
    Owners {
        services: services.cache().clone(),
        controllers: controllers.cache().clone(),
        replica_sets: replica_sets.cache().clone(),
        stateful_sets: stateful_sets.cache().clone(),
    }
}

/// Schedules pods until `tasks` is cancelled.
pub async fn run(
    client: Client,
    informers: SharedInformers,
    setup: Setup,
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
    let storage = storage(&informers, &sender).await;
    let devices = devices(&informers, &sender).await;
    forward(&nodes, &sender, |change| Input::Node(change.clone()));
    forward(&namespaces, &sender, |change| Input::Namespace(change.clone()));
    forward(&pods, &sender, |change| Input::Pod(change.clone()));
    let binder = Binder {
        client: client.clone(),
        writes: Arc::new(Semaphore::new(MAX_WRITES)),
        claims: storage.claims.clone(),
        ticks: informers.of::<PersistentVolumeClaim>().ticks(),
        pods: pods.cache().clone(),
        clock: clock.clone(),
        timeout: setup.bind_timeout,
        extenders: extenders(&setup, &clock, &tasks),
    };
    let recorder = |name: &String| Recorder::new(client.clone(), name, "", clock.clone(), &tasks);
    let mut scheduler = Scheduler {
        recorders: setup.profiles.iter().map(|p| (p.name.clone(), recorder(&p.name))).collect(),
        profiles: setup.profiles.into_iter().map(|p| (p.name.clone(), Arc::new(p))).collect(),
        client,
        clock: clock.clone(),
        rng,
        tasks,
        binder,
        budgets: budgets.cache().clone(),
        cache: Cache::new(storage, owners(&informers).await, devices),
        queue: Queue::new(setup.backoff),
        dirty: Dirty::default(),
        nominated: BTreeMap::new(),
        memo: Memo::default(),
        start: 0,
        reports: sender,
    };
    loop {
        while let Ok(input) = inputs.try_recv() {
            scheduler.take(input);
        }
        scheduler.wake();
        let mut worked = 0;
        while worked < DECISIONS_PER_TURN && scheduler.schedule_next().await {
            worked += 1;
        }
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
            biased;
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
            Input::Claim(key) => drop(self.dirty.claims.insert(key)),
            Input::Supply(supply) => drop(self.dirty.supplies.insert(supply)),
            Input::StorageNode(name) => drop(self.dirty.storage_nodes.insert(name)),
            Input::Devices(change) => self.devices_changed(&change),
            Input::Other(change) => drop(self.dirty.others.insert(change)),
            Input::Bound { pod, node, binding, outcome } => self.bound(&pod, &node, &binding, outcome),
        }
    }

    /// Wakes the waiting pods that the changes since the last time can help.
    fn wake(&mut self) {
        let now = self.clock.now();
        let dirty = std::mem::take(&mut self.dirty);
        let (snapshot, profiles) = (self.cache.snapshot(), &self.profiles);
        let nominated = &self.nominated;
        let fits = |names: &BTreeSet<String>, pod: &PodInfo| {
            let Some(profile) = profiles.get(pod.scheduler_name()) else { return true };
            // Who has a node being cleared does not displace more on another.
            let own = nominated.get(&pod.uid).map(|(node, _)| node);
            let displaces = profile.preemption && own.is_none();
            own.is_some_and(|own| names.contains(own))
                || names
                    .iter()
                    .filter_map(|name| snapshot.node(name))
                    .any(|node| plugins::may_take(&profile.settings, pod, node, displaces))
        };
        for change in dirty.changes() {
            self.queue.changed(change, now, |pod, refused| {
                dirty.helps(change, pod, refused, snapshot, |names| fits(names, pod))
            });
        }
    }

    fn devices_changed(&mut self, change: &CacheChange<ResourceClaim>) {
        let claim = change.object();
        let held = |claim: &ResourceClaim| plugins::devices::is_allocated(claim);
        let gone = matches!(change, CacheChange::Deleted(_));
        if gone || held(claim) {
            self.cache.devices_mut().pending.remove(&Key::of(&**claim).to_string());
        }
        if change.old().is_some_and(|old| held(old)) && (gone || !held(claim)) {
            // Anybody may want what was given back.
            self.dirty.others.insert(Change::Device);
        } else {
            self.dirty.device_claims.insert(Key::of(&**claim));
        }
    }

    fn node_changed(&mut self, change: &CacheChange<Node>) {
        let node = change.object();
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let helps = match change {
            CacheChange::Deleted(_) => {
                self.cache.remove_node(name);
                // It takes nobody, but it counts no more for who spreads.
                true
            }
            CacheChange::Added(node) => {
                self.cache.set_node(node.clone());
                true
            }
            CacheChange::Modified { old, new } => {
                self.cache.set_node(new.clone());
                can_take_more(old, new)
            }
        };
        if helps {
            self.dirty.nodes.insert(name.to_owned());
        }
    }

    fn pod_changed(&mut self, change: &CacheChange<Pod>) {
        let now = self.clock.now();
        let info = Arc::new(PodInfo::new(change.object().clone()));
        let gone = matches!(change, CacheChange::Deleted(_)) || info.is_terminal();
        if gone {
            self.queue.remove(&info.key);
            self.withdraw(&info.uid);
            if let Some(node) = self.cache.remove_pod(&info.uid) {
                self.dirty.freed.insert(node);
                self.dirty.gone.push(info);
            }
            return;
        }
        if let Some(node) = info.node_name() {
            let new = !self.cache.is_placed(&info.uid);
            self.queue.remove(&info.key);
            self.withdraw(&info.uid);
            let shrunk = self.cache.set_pod(&info);
            if shrunk {
                self.dirty.freed.insert(node.to_owned());
            }
            let before = change.old().filter(|old| old.metadata.labels != info.pod.metadata.labels);
            if let Some(before) = before {
                self.dirty.gone.push(Arc::new(PodInfo::new(before.clone())));
            }
            if new || before.is_some() {
                self.dirty.placed.push(info);
            }
            return;
        }
        if self.profiles.contains_key(info.scheduler_name()) && !info.is_deleting() {
            if let Some(node) = info.nominated_node() {
                // Made room for before this process began, or by another.
                if !self.nominated.contains_key(&info.uid) {
                    self.nominate(node, &info);
                }
            }
            self.queue.set(info, now);
        } else {
            self.queue.remove(&info.key);
        }
    }

    /// Tries the next pod; false when none is ready.
    async fn schedule_next(&mut self) -> bool {
        let Some(pod) = self.queue.pop(self.clock.now()) else { return false };
        let profile = self.profiles.get(pod.scheduler_name()).cloned();
        let Some(profile) = profile.filter(|_| !self.cache.is_placed(&pod.uid)) else {
            self.queue.remove(&pod.key);
            return true;
        };
        let interested = self.binder.extenders.iter().filter(|one| one.is_interested(&pod));
        let extenders: Vec<Extender> = interested.cloned().collect();
        let verdict = if extenders.is_empty() {
            self.judge(&profile, &pod, None)
        } else {
            match self.consult(&extenders, &profile, &pod).await {
                Ok(among) => self.judge(&profile, &pod, Some(among)),
                Err(error) => {
                    self.failed(&pod, &error.to_string());
                    return true;
                }
            }
        };
        match verdict {
            Verdict::Bind(node, binding) => self.bind(pod, node, binding),
            Verdict::Refused(refused) => {
                let Refused { diagnosis, candidates, back } = *refused;
                let found = match candidates {
                    Some(Ok(candidates)) => match self.approved(&extenders, &pod, candidates).await {
                        Ok(candidates) => Some(best(candidates).ok_or_else(|| NOBODY.to_owned())),
                        Err(error) => Some(Err(format!("preemption: {error}"))),
                    },
                    Some(Err(reason)) => Some(Err(reason)),
                    None => None,
                };
                self.unschedulable(&pod, diagnosis, found, back);
            }
        }
        true
    }

    /// Asks extenders about the nodes that take a pod.
    async fn consult(
        &mut self,
        extenders: &[Extender],
        profile: &Profile,
        pod: &Arc<PodInfo>,
    ) -> Result<Among, ExtenderError> {
        let snapshot = self.cache.snapshot();
        let found = {
            let cycle = Cycle::with(&mut self.memo, &profile.settings, pod, snapshot);
            let (start, rng) = (&mut self.start, &self.rng);
            feasible(&mut Round { profile, start, rng, memo: &mut self.memo }, &cycle, None)
        };
        let Feasible { nodes, mut diagnosis } = match found {
            Ok(found) => found,
            Err(diagnosis) => return Ok(Among { diagnosis, ..Among::default() }),
        };
        let mut nodes: Vec<Arc<NodeInfo>> = nodes.iter().map(|at| snapshot.nodes()[*at].clone()).collect();
        for extender in extenders {
            let filtered = match extender.filter(&pod.pod, &nodes).await {
                Ok(filtered) => filtered,
                Err(error) if extender.settings().ignorable => {
                    tracing::warn!(%error, "an extender that may fail did");
                    continue;
                }
                Err(error) => return Err(error),
            };
            for (name, why) in filtered.failed.iter().chain(&filtered.unresolvable) {
                let unresolvable = filtered.unresolvable.contains_key(name);
                if let Some(node) =
                    snapshot.node(name).filter(|_| unresolvable || !filtered.kept.contains(name))
                {
                    let told = Refusal::told(crate::extender::NAME, vec![why.clone()]);
                    diagnosis.add(Refusal { unresolvable, ..told }, node.position);
                }
            }
            nodes.retain(|node| filtered.kept.contains(&node.name));
        }
        let mut scores: BTreeMap<String, i64> = BTreeMap::new();
        for extender in extenders.iter().filter(|_| nodes.len() > 1) {
            match extender.prioritize(&pod.pod, &nodes).await {
                Ok(list) => list.into_iter().for_each(|(node, score)| {
                    *scores.entry(node).or_default() += score * crate::extender::SCALE;
                }),
                Err(error) => tracing::warn!(%error, "an extender did not score"),
            }
        }
        Ok(Among { nodes: nodes.iter().map(|node| node.position).collect(), scores, diagnosis })
    }

    /// The preemptions that extenders let stand.
    async fn approved(
        &self,
        extenders: &[Extender],
        pod: &PodInfo,
        mut candidates: Vec<Arc<Preemption>>,
    ) -> Result<Vec<Arc<Preemption>>, ExtenderError> {
        for extender in extenders.iter().filter(|one| one.settings().preempt.is_some()) {
            if candidates.is_empty() {
                break;
            }
            match extender.preempt(&pod.pod, &candidates, self.cache.snapshot()).await {
                Ok(left) => candidates = left,
                Err(error) if extender.settings().ignorable => {
                    tracing::warn!(%error, "an extender that may fail did");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(candidates)
    }

    /// Decides where the pod goes, among the nodes that extenders have left when they were asked.
    fn judge(&mut self, profile: &Profile, pod: &Arc<PodInfo>, among: Option<Among>) -> Verdict {
        let cycle = Cycle::with(&mut self.memo, &profile.settings, pod, self.cache.snapshot());
        let (start, rng) = (&mut self.start, &self.rng);
        let mut round = Round { profile, start, rng, memo: &mut self.memo };
        let decision = match among {
            None => decide(&mut round, &cycle),
            Some(among) if among.nodes.is_empty() => Decision::Unschedulable(among.diagnosis),
            Some(among) => Decision::Bind(choose(&mut round, &cycle, &among.nodes, &among.scores).to_owned()),
        };
        let diagnosis = match decision {
            Decision::Bind(node) => {
                let info = self.cache.snapshot().node(&node);
                let wanted = info.filter(|_| !pod.claims.is_empty());
                let found = wanted.and_then(|info| plugins::volumes::find(&cycle, info).ok());
                let devices = info.map(|info| cycle.devices.reservations(info)).unwrap_or_default();
                return Verdict::Bind(node, Binding { devices, ..found.unwrap_or_default() });
            }
            Decision::Unschedulable(diagnosis) => diagnosis,
        };
        let by_devices = diagnosis.plugins().contains(plugins::devices::NAME);
        let back = match plugins::devices::given_back(&cycle.devices, pod).filter(|_| by_devices) {
            Some(claim) => Back::Claim(Box::new(claim)),
            None if cycle.devices.claims.is_empty() => Back::NoClaims,
            None => Back::Nothing,
        };
        let tries = profile.preemption && diagnosis.total > 0;
        let candidates = match tries {
            false => None,
            true if self.waits_for_victims(pod, &diagnosis) => Some(Err(WAITS.to_owned())),
            true => {
                let dry = &mut self.memo.looks(profile, pod).dry;
                let offset = usize::try_from(self.rng.below(diagnosis.total as u64)).unwrap_or(0);
                Some(candidates(profile, &cycle, dry, &diagnosis, &budgets(&self.budgets), offset))
            }
        };
        Verdict::Refused(Box::new(Refused { diagnosis, candidates, back }))
    }

    /// Keeps room on a node for a pod.
    fn nominate(&mut self, node: &str, pod: &Arc<PodInfo>) {
        self.withdraw(&pod.uid);
        self.nominated.insert(pod.uid.clone(), (node.to_owned(), pod.clone()));
        self.cache.nominate(node, pod.clone());
    }

    /// Keeps no more room for a pod; true when some was kept.
    fn withdraw(&mut self, uid: &str) -> bool {
        let Some((node, _)) = self.nominated.remove(uid) else { return false };
        self.cache.withdraw(&node, uid);
        true
    }

    fn bind(&mut self, pod: Arc<PodInfo>, node: String, binding: Binding) {
        self.cache.assume(pod.clone(), &node);
        for (volume, claim) in &binding.volumes {
            let volume = volume.metadata.name.as_deref().unwrap_or_default();
            self.cache.storage_mut().assume(volume, &Key::of(&**claim).to_string());
        }
        for (claim, allocation) in &binding.devices {
            if let Some(allocation) = allocation {
                let key = Key::of(&**claim).to_string();
                self.cache.devices_mut().pending.insert(key, allocation.clone());
            }
        }
        self.withdraw(&pod.uid);
        let (binder, reports) = (self.binder.clone(), self.reports.clone());
        self.tasks.spawn("bind", async move {
            let outcome = binder.bind(&pod, &node, &binding).await;
            // The task has ended when nobody receives.
            let _ = reports.send(Input::Bound { pod, node, binding, outcome });
        });
    }

    fn bound(&mut self, pod: &Arc<PodInfo>, node: &str, binding: &Binding, outcome: Result<(), BindError>) {
        for (_, claim) in &binding.volumes {
            self.cache.storage_mut().forget(&Key::of(&**claim).to_string());
        }
        let Err(error) = outcome else {
            tracing::debug!(pod = %pod.key, node, "bound");
            let message = format!("Successfully assigned {} to {node}", pod.key);
            self.event(pod, EventKind::Normal, "Scheduled", &message);
            self.queue.remove(&pod.key);
            self.dirty.placed.push(pod.clone());
            return;
        };
        self.cache.forget(&pod.uid);
        for (claim, _) in binding.devices.iter().filter(|(_, allocation)| allocation.is_some()) {
            self.cache.devices_mut().pending.remove(&Key::of(&**claim).to_string());
        }
        if error.is_stale() {
            // Gone or bound by somebody else: the watch will say.
            tracing::debug!(pod = %pod.key, node, %error, "binding refused");
        } else {
            tracing::warn!(pod = %pod.key, node, %error, "binding failed");
            self.report_failure(pod, &error.to_string());
        }
        self.queue.failed(&pod.key, BTreeSet::new(), self.clock.now());
        self.dirty.freed.insert(node.to_owned());
        self.dirty.gone.push(pod.clone());
    }

    /// An attempt ended with an error: the pod is tried again after its back-off.
    fn failed(&mut self, pod: &Arc<PodInfo>, message: &str) {
        tracing::warn!(pod = %pod.key, message, "scheduling failed");
        self.report_failure(pod, message);
        self.queue.failed(&pod.key, BTreeSet::new(), self.clock.now());
    }

    fn report_failure(&self, pod: &Arc<PodInfo>, message: &str) {
        self.event(pod, EventKind::Warning, "FailedScheduling", message);
        self.report_condition(pod, "SchedulerError", message, &Nominate::Keep);
    }

    fn event(&self, pod: &PodInfo, kind: EventKind, reason: &str, message: &str) {
        if let Some(recorder) = self.recorders.get(pod.scheduler_name()) {
            recorder.event(&About::of(&*pod.pod), kind, reason, message);
        }
    }

    fn unschedulable(
        &mut self,
        pod: &Arc<PodInfo>,
        mut diagnosis: Diagnosis,
        found: Option<Result<Arc<Preemption>, String>>,
        back: Back,
    ) {
        let claims = match back {
            Back::NoClaims => "no new claims to deallocate",
            Back::Nothing => "still not schedulable",
            Back::Claim(claim) => {
                self.give_back(*claim);
                "deallocation of ResourceClaim completed"
            }
        };
        let mut nominate = Nominate::Keep;
        match found {
            Some(Ok(preemption)) => {
                self.outrank(pod, &preemption.node);
                self.nominate(&preemption.node, pod);
                self.evict(pod, &preemption);
                nominate = Nominate::Set(preemption.node.clone());
            }
            Some(Err(reason)) => {
                if reason != WAITS && self.withdraw(&pod.uid) {
                    nominate = Nominate::Clear;
                }
                diagnosis.post_filter = Some(format!("{claims}, {reason}"));
            }
            None => {}
        }
        let message = diagnosis.message();
        tracing::debug!(pod = %pod.key, %message, "unschedulable");
        self.event(pod, EventKind::Warning, "FailedScheduling", &message);
        self.report_condition(pod, "Unschedulable", &message, &nominate);
        let plugins = diagnosis.plugins();
        // Without nodes only a node helps; every plugin's refusal listens to that.
        let plugins = if plugins.is_empty() { BTreeSet::from([crate::plugins::node::NAME]) } else { plugins };
        self.queue.failed(&pod.key, plugins, self.clock.now());
    }

    /// Less important pods that room was made for on this node must look for another.
    fn outrank(&mut self, pod: &PodInfo, node: &str) {
        let lesser: Vec<Arc<PodInfo>> = self
            .nominated
            .values()
            .filter(|(name, other)| name == node && other.priority < pod.priority)
            .map(|(_, other)| other.clone())
            .collect();
        for other in lesser {
            self.withdraw(&other.uid);
            let body = json!({"metadata": {"uid": other.uid}, "status": {"nominatedNodeName": null}});
            self.write_pod_status(&other, body);
        }
    }

    /// True while pods that were removed for this one are still leaving its node, and the node can yet take it.
    fn waits_for_victims(&self, pod: &PodInfo, diagnosis: &Diagnosis) -> bool {
        let node = self.nominated.get(&pod.uid).and_then(|(name, _)| self.cache.snapshot().node(name));
        let hopeless = |position: usize| {
            let mut never = diagnosis.refused.iter().filter(|refused| refused.refusal.unresolvable);
            never.any(|refused| refused.nodes.contains(&position))
        };
        node.is_some_and(|node| {
            !hopeless(node.position)
                && node.pods.iter().any(|other| other.is_deleting() && other.priority < pod.priority)
        })
    }

    /// Takes the devices from a claim that keeps its pod from every node.
    fn give_back(&self, claim: ResourceClaim) {
        let client = self.client.clone();
        self.tasks.spawn("give back devices", async move {
            if let Err(error) = client.update_status(&claim).await.map(drop) {
                tracing::debug!(%error, "cannot take the devices from a claim");
            }
        });
    }

    fn report_condition(&self, pod: &Arc<PodInfo>, reason: &str, message: &str, nominate: &Nominate) {
        let status = pod.pod.status.as_ref();
        let known = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
        let same = known
            .filter(|condition| condition.type_ == "PodScheduled")
            .any(|c| c.status == "False" && c.message.as_deref() == Some(message));
        if same && matches!(nominate, Nominate::Keep) {
            return;
        }
        let mut condition = json!({
            "type": "PodScheduled", "status": "False", "reason": reason, "message": message,
            "lastProbeTime": null, "lastTransitionTime": api::time::format(self.clock.now()),
        });
        if let Some(generation) = pod.pod.metadata.generation {
            condition["observedGeneration"] = json!(generation);
        }
        let mut body = json!({"metadata": {"uid": pod.uid}, "status": {"conditions": [condition]}});
        match nominate {
            Nominate::Keep => {}
            Nominate::Set(node) => body["status"]["nominatedNodeName"] = json!(node),
            Nominate::Clear => body["status"]["nominatedNodeName"] = json!(null),
        }
        self.write_pod_status(pod, body);
    }

    fn write_pod_status(&self, pod: &Arc<PodInfo>, body: serde_json::Value) {
        let (client, writes, pod) = (self.client.clone(), self.binder.writes.clone(), pod.clone());
        self.tasks.spawn("pod status", async move {
            // The semaphore is never closed.
            let _permit = writes.acquire().await;
            let name = pod.pod.metadata.name.as_deref().unwrap_or_default();
            let patched = client.patch_status::<Pod>(&pod.namespace, name, &Patch::Strategic(body)).await;
            match patched.map(drop) {
                Err(error) if !error.is_not_found() && !error.is_conflict() => {
                    tracing::warn!(pod = %pod.key, %error, "cannot write the pod's status");
                }
                _ => {}
            }
        });
    }

    fn evict(&self, pod: &PodInfo, preemption: &Preemption) {
        for victim in &preemption.victims {
            let message = format!("Preempted by pod {} on node {}", pod.uid, preemption.node);
            let recorder = self.recorders.get(pod.scheduler_name());
            if let Some(recorder) = recorder {
                recorder.event(&About::of(&*victim.pod), EventKind::Normal, "Preempted", &message);
            }
            let condition = json!({
                "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
                "message": format!("{}: preempting to accommodate a higher priority pod", pod.scheduler_name()),
                "lastTransitionTime": api::time::format(self.clock.now()),
            });
            let body = json!({"metadata": {"uid": victim.uid}, "status": {"conditions": [condition]}});
            let removal = Removal {
                client: self.client.clone(),
                writes: self.binder.writes.clone(),
                victim: victim.clone(),
                condition: Patch::Strategic(body),
            };
            self.tasks.spawn("preempt", removal.run(self.clock.clone()));
        }
    }
}

/// The extenders, ready to be asked. One that cannot be used is left out, and told.
fn extenders(setup: &Setup, clock: &Clock, tasks: &Tasks) -> Arc<[Extender]> {
    let ready = |settings: &crate::extender::Settings| {
        Extender::new(settings.clone(), clock, tasks)
            .inspect_err(|error| tracing::error!(url = settings.url, %error, "the extender cannot be used"))
            .ok()
    };
    setup.extenders.iter().filter_map(ready).collect()
}

/// The budgets as preemption reads them.
fn budgets(cache: &client::Cache<PodDisruptionBudget>) -> Vec<Budget> {
    let budget = |pdb: &Arc<PodDisruptionBudget>| Budget {
        namespace: pdb.metadata.namespace.clone().unwrap_or_default(),
        selector: Selector::from_object(pdb.spec.as_ref().and_then(|spec| spec.selector.as_ref()))
            .unwrap_or_else(|_| Selector::nothing()),
        allowed: pdb.status.as_ref().map_or(0, |status| i64::from(status.disruptions_allowed.unwrap_or(0))),
    };
    cache.list().iter().map(budget).collect()
}

/// True when the node may take pods that it refused before.
fn can_take_more(old: &Node, new: &Node) -> bool {
    let spec = |node: &Node| node.spec.as_ref().map(|spec| (spec.taints.clone(), spec.unschedulable));
    let allocatable = |node: &Node| node.status.as_ref().and_then(|status| status.allocatable.clone());
    spec(old) != spec(new)
        || allocatable(old) != allocatable(new)
        || old.metadata.labels != new.metadata.labels
}
