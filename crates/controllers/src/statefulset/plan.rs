//! The plan for one StatefulSet: one pod after the other, or all at a time; updates from the highest ordinal
//! down; the status.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::k8s::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetSpec, StatefulSetStatus};
use api::k8s::api::core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec};
use client::plan::{About, Mode, Report};
use client::{DeleteOptions, EventKind, Key, Meta, Patch, Plan, Step};
use jiff::Timestamp;

use super::{identity, retention};
use crate::history::{self, History, REVISION_LABEL};
use crate::owner::{Claimed, controller_ref};
use crate::{pods, template};

/// A StatefulSet and the objects around it.
pub struct View<'a> {
    pub set: &'a StatefulSet,
    pub spec: &'a StatefulSetSpec,
    pub now: Timestamp,
    pub revisions: Vec<Arc<ControllerRevision>>,
    /// True when a ControllerRevision of this name exists.
    pub taken: &'a dyn Fn(&str) -> bool,
    pub claim: &'a dyn Fn(&str) -> Option<Arc<PersistentVolumeClaim>>,
}

struct Work<'a> {
    view: &'a View<'a>,
    replicas: BTreeMap<i32, Option<Arc<Pod>>>,
    condemned: Vec<(i32, Arc<Pod>)>,
    current: String,
    update: String,
    current_template: PodTemplateSpec,
    min_ready: i32,
    ordered: bool,
    steps: Vec<Step>,
}

/// What to do about one StatefulSet.
pub fn plan(view: &View<'_>, claimed: Claimed<Pod>) -> Plan {
    let (set, spec) = (view.set, view.spec);
    let mut plan = Plan::none();
    plan.stage(Mode::InOrder, claimed.steps);
    let old = set.status.clone().unwrap_or_default();
    let reference = || controller_ref(set);
    let owned = view.revisions.clone();
    let history = history::sync(
        &reference,
        &set.metadata,
        &spec.template,
        history::HASH_LABEL,
        old.collision_count,
        owned,
        view.taken,
    );
    plan.stage(Mode::InOrder, history.steps.clone());
    let current = current_revision(&history, &old);
    let mut status = count(view, &claimed.objects, current.name(), history.update.name());
    if history.collision {
        status.collision_count = Some(old.collision_count.unwrap_or(0) + 1);
    } else if !set.is_deleting() {
        let mut work = Work::new(view, &claimed.objects, &history, &current);
        work.run();
        let mode = if work.ordered { Mode::InOrder } else { Mode::Together };
        plan.stage(mode, work.steps);
        let live: Vec<&str> = claimed.objects.iter().filter_map(|pod| pod.label(REVISION_LABEL)).collect();
        let live = [live, vec![current.name(), history.update.name()]].concat();
        let limit = spec.revision_history_limit.unwrap_or(10);
        plan.stage(Mode::InOrder, history::truncate(&history.revisions, &live, limit));
    }
    finish_rollout(spec, &mut status);
    let mut after = set.clone();
    after.status = Some(status);
    if after.status != set.status {
        // Written whatever becomes of the rest, but last.
        plan.then(move |_| vec![Step::update(&after, "status")]);
    }
    let waits = claimed.objects.iter().filter(|pod| pods::is_active(pod));
    let waits =
        waits.filter_map(|pod| pods::available_in(pod, spec.min_ready_seconds.unwrap_or(0), view.now));
    if let Some(wait) = waits.filter(|wait| !wait.is_zero()).min() {
        plan.requeue(wait);
    }
    plan
}

fn current_revision(history: &History, status: &StatefulSetStatus) -> ControllerRevision {
    let named = status.current_revision.as_deref().unwrap_or("");
    let found = history.revisions.iter().find(|revision| revision.name() == named);
    found.unwrap_or(&history.update).clone()
}

fn is_running_and_ready(pod: &Pod) -> bool {
    pods::phase(pod) == "Running" && pods::is_ready(pod)
}

fn count(view: &View<'_>, all: &[Arc<Pod>], current: &str, update: &str) -> StatefulSetStatus {
    let old = view.set.status.clone().unwrap_or_default();
    let min_ready = view.spec.min_ready_seconds.unwrap_or(0);
    let mut status = StatefulSetStatus {
        observed_generation: view.set.meta().generation,
        current_revision: Some(current.to_owned()),
        update_revision: Some(update.to_owned()),
        collision_count: old.collision_count.or(Some(0)),
        conditions: old.conditions,
        available_replicas: Some(0),
        ..StatefulSetStatus::default()
    };
    let bump = |count: &mut Option<i32>| *count = Some(count.unwrap_or(0) + 1);
    for pod in all {
        if pods::phase(pod).is_empty() {
            continue;
        }
        status.replicas += 1;
        if is_running_and_ready(pod) {
            bump(&mut status.ready_replicas);
            if pods::is_available(pod, min_ready, view.now) {
                bump(&mut status.available_replicas);
            }
        }
        if !pod.is_deleting() {
            let revision = pod.label(REVISION_LABEL).unwrap_or("");
            if revision == current {
                bump(&mut status.current_replicas);
            }
            if revision == update {
                bump(&mut status.updated_replicas);
            }
        }
    }
    status
}

/// When every pod is of the new revision, it becomes the current one.
fn finish_rollout(spec: &StatefulSetSpec, status: &mut StatefulSetStatus) {
    let rolling = strategy(spec) == "RollingUpdate";
    let all = |count: Option<i32>| count.unwrap_or(0) == status.replicas;
    if rolling
        && status.update_revision != status.current_revision
        && all(status.updated_replicas)
        && all(status.ready_replicas)
    {
        status.current_replicas = status.updated_replicas;
        status.current_revision = status.update_revision.clone();
    }
}

fn strategy(spec: &StatefulSetSpec) -> &str {
    let kind = spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref());
    kind.filter(|kind| !kind.is_empty()).unwrap_or("RollingUpdate")
}

impl<'a> Work<'a> {
    fn new(view: &'a View<'a>, all: &[Arc<Pod>], history: &History, current: &ControllerRevision) -> Self {
        let spec = view.spec;
        let start = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0);
        let wanted = start..start.saturating_add(spec.replicas.unwrap_or(1));
        let mut replicas: BTreeMap<i32, Option<Arc<Pod>>> = wanted.map(|ordinal| (ordinal, None)).collect();
        let mut condemned = Vec::new();
        for pod in all {
            let Some(ordinal) = identity::ordinal(view.set.name(), pod.name()) else { continue };
            match replicas.get_mut(&ordinal) {
                Some(slot) => *slot = Some(pod.clone()),
                None => condemned.push((ordinal, pod.clone())),
            }
        }
        condemned.sort_by_key(|(ordinal, _)| std::cmp::Reverse(*ordinal));
        Work {
            view,
            replicas,
            condemned,
            current: current.name().to_owned(),
            update: history.update.name().to_owned(),
            current_template: history::template_of(current).unwrap_or_else(|| spec.template.clone()),
            min_ready: spec.min_ready_seconds.unwrap_or(0),
            ordered: spec.pod_management_policy.as_deref() != Some("Parallel"),
            steps: Vec::new(),
        }
    }

    fn available(&self, pod: &Pod) -> bool {
        is_running_and_ready(pod) && pods::is_available(pod, self.min_ready, self.view.now)
    }

    fn healthy(&self, pod: &Pod) -> bool {
        self.available(pod) && !pod.is_deleting()
    }

    fn run(&mut self) {
        let replicas: Vec<(i32, Option<Arc<Pod>>)> =
            self.replicas.iter().map(|(ordinal, pod)| (*ordinal, pod.clone())).collect();
        for (ordinal, pod) in &replicas {
            if self.settle(*ordinal, pod.as_deref()) && self.ordered && !base::mutated("stateful-at-once") {
                return;
            }
        }
        if self.remove_condemned() {
            return;
        }
        if strategy(self.view.spec) == "RollingUpdate" {
            self.roll(&replicas);
        }
    }

    /// Brings one ordinal forward; true when the next must wait for it.
    fn settle(&mut self, ordinal: i32, pod: Option<&Pod>) -> bool {
        let Some(pod) = pod else {
            self.create(ordinal);
            return true;
        };
        if pods::is_finished(pod) {
            if !pod.is_deleting() {
                let set = self.view.set;
                let text = format!(
                    "StatefulSet {}/{} is recreating failed Pod {}",
                    set.namespace(),
                    set.name(),
                    pod.name()
                );
                let reason = if pods::phase(pod) == "Failed" {
                    "RecreatingFailedPod"
                } else {
                    "RecreatingTerminatedPod"
                };
                self.steps.push(Step::event(About::of(set), EventKind::Warning, reason, text));
                self.delete(pod);
            }
            return true;
        }
        if pods::phase(pod) == "Pending" {
            self.create_claims(ordinal);
        }
        if self.healthy(pod) {
            self.correct_claims(ordinal, pod, false);
        }
        if !identity::has_identity(pod) {
            let patch = Patch::Merge(identity::identity_patch(pod, ordinal));
            self.steps.push(Step::patch::<Pod>(&Key::of(pod), "", patch));
        }
        !self.healthy(pod)
    }

    fn create(&mut self, ordinal: i32) {
        let (set, spec) = (self.view.set, self.view.spec);
        let name = identity::pod_name(set.name(), ordinal);
        let known = |claim: &PersistentVolumeClaim| (self.view.claim)(claim.name());
        let claims = identity::claims(set, spec, ordinal);
        if claims.iter().filter_map(known).any(|claim| retention::is_stale(spec, &claim, &name)) {
            return;
        }
        self.create_claims(ordinal);
        let (template, revision) = if self.is_current(ordinal) {
            (&self.current_template, &self.current)
        } else {
            (&spec.template, &self.update)
        };
        let pod = identity::new_pod(set, spec, template, ordinal, revision);
        let (name, set_name) = (pod.name(), set.name());
        let told = Report {
            about: About::of(set),
            done: ("SuccessfulCreate", format!("create Pod {name} in StatefulSet {set_name} successful")),
            failed: ("FailedCreate", format!("create Pod {name} in StatefulSet {set_name} failed error: ")),
        };
        self.steps.push(Step::create(&pod).reported(told));
    }

    /// True when a new pod of this ordinal still gets the old template.
    fn is_current(&self, ordinal: i32) -> bool {
        let spec = self.view.spec;
        if strategy(spec) != "RollingUpdate" {
            return false;
        }
        let start = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0);
        match partition(spec) {
            Some(partition) => ordinal < start + partition,
            None => {
                let status = self.view.set.status.as_ref();
                ordinal < start + status.and_then(|status| status.current_replicas).unwrap_or(0)
            }
        }
    }

    /// Gives the claims of a pod the owners that the retention policy asks for.
    fn correct_claims(&mut self, ordinal: i32, pod: &Pod, condemned: bool) {
        let (set, spec) = (self.view.set, self.view.spec);
        for claim in identity::claims(set, spec, ordinal) {
            let known = (self.view.claim)(claim.name());
            let after = known.and_then(|known| retention::corrected(set, spec, &known, pod, condemned));
            self.steps.extend(after.map(|after| Step::update(&after, "")));
        }
    }

    fn create_claims(&mut self, ordinal: i32) {
        let (set, spec) = (self.view.set, self.view.spec);
        for claim in identity::claims(set, spec, ordinal) {
            if (self.view.claim)(claim.name()).is_some() {
                continue;
            }
            let (name, set_name) = (claim.name(), set.name());
            let pod = identity::pod_name(set_name, ordinal);
            let told = Report {
                about: About::of(set),
                done: (
                    "SuccessfulCreate",
                    format!("create Claim {name} Pod {pod} in StatefulSet {set_name} success"),
                ),
                failed: (
                    "FailedCreate",
                    format!("create Claim {name} for Pod {pod} in StatefulSet {set_name} failed error: "),
                ),
            };
            self.steps.push(Step::create(&claim).or_exists().reported(told));
        }
    }

    fn delete(&mut self, pod: &Pod) {
        let (set, name) = (self.view.set, pod.name());
        let told = Report {
            about: About::of(set),
            done: ("SuccessfulDelete", format!("delete Pod {name} in StatefulSet {} successful", set.name())),
            failed: (
                "FailedDelete",
                format!("delete Pod {name} in StatefulSet {} failed error: ", set.name()),
            ),
        };
        self.steps.push(Step::delete(pod, DeleteOptions::uid(pod.uid())).reported(told));
    }

    /// Removes pods beyond the wanted number, the highest first; true when the update must wait.
    fn remove_condemned(&mut self) -> bool {
        let unhealthy = self.first_unhealthy();
        let condemned = std::mem::take(&mut self.condemned);
        for (ordinal, pod) in &condemned {
            self.correct_claims(*ordinal, pod, true);
        }
        for (_, pod) in &condemned {
            if pod.is_deleting() {
                if self.ordered {
                    return true;
                }
                continue;
            }
            // An unhealthy pod below must recover before a healthy one above goes.
            let waits = unhealthy.as_ref().is_some_and(|name| *name != pod.name());
            if self.ordered && !self.available(pod) && waits {
                return true;
            }
            self.delete(pod);
            if self.ordered {
                return true;
            }
        }
        !condemned.is_empty() && self.ordered
    }

    /// The unhealthy pod with the lowest ordinal.
    fn first_unhealthy(&self) -> Option<String> {
        let replicas = self.replicas.values().flatten();
        let all = replicas.chain(self.condemned.iter().rev().map(|(_, pod)| pod));
        all.filter(|pod| !self.healthy(pod)).map(|pod| pod.name().to_owned()).next()
    }

    /// Replaces pods of old revisions, the highest ordinal first.
    fn roll(&mut self, replicas: &[(i32, Option<Arc<Pod>>)]) {
        let spec = self.view.spec;
        let start = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0);
        let lowest = start + partition(spec).unwrap_or(0);
        let rolling = spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
        let total = spec.replicas.unwrap_or(1);
        let most =
            rolling.and_then(|rolling| template::scaled(rolling.max_unavailable.as_ref(), total, true));
        let mut room = most.unwrap_or(1).max(1);
        let unhealthy = replicas.iter().filter(|(_, pod)| pod.as_ref().is_none_or(|pod| !self.healthy(pod)));
        let single = room == 1;
        room -= i32::try_from(unhealthy.count()).unwrap_or(i32::MAX);
        for (_, pod) in replicas.iter().rev().filter(|(ordinal, _)| *ordinal >= lowest) {
            let Some(pod) = pod else { return };
            let outdated = pod.label(REVISION_LABEL) != Some(&self.update);
            if outdated && !pod.is_deleting() {
                let healthy = self.healthy(pod);
                if !single && healthy && room <= 0 {
                    return;
                }
                self.delete(pod);
                if single {
                    return;
                }
                room -= i32::from(healthy);
            } else if single && !self.healthy(pod) {
                return;
            }
        }
    }
}

fn partition(spec: &StatefulSetSpec) -> Option<i32> {
    spec.update_strategy.as_ref()?.rolling_update.as_ref()?.partition
}
