//! The plan for one Deployment: which ReplicaSets to make, resize or remove, and the status.

use std::sync::Arc;

use api::k8s::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStatus, ReplicaSet, ReplicaSetSpec};
use api::k8s::api::core::v1::Pod;
use api::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use client::plan::{About, Mode};
use client::{DeleteOptions, EventKind, Meta, Plan, Step};
use jiff::Timestamp;

use super::{rolling, sets, status};
use crate::owner::{Claimed, controller_ref};
use crate::{pods, template};

/// The longest name an object may have.
const MAX_NAME: usize = 253;

pub fn is_recreate(deployment: &Deployment) -> bool {
    deployment.spec.as_ref().is_some_and(|spec| !sets::is_rolling(spec))
}

/// A Deployment that would own every pod does nothing.
pub fn selecting_all(deployment: &Deployment) -> Plan {
    let mut plan = Plan::none();
    let text = "This deployment is selecting all pods. A non-empty selector is required.";
    plan.event(deployment, EventKind::Warning, "SelectingAll", text);
    let observed = deployment.status.as_ref().and_then(|status| status.observed_generation).unwrap_or(0);
    if observed < deployment.meta().generation.unwrap_or(0) {
        let mut deployment = deployment.clone();
        deployment.status.get_or_insert_default().observed_generation = deployment.metadata.generation;
        plan.update_status(&deployment);
    }
    plan
}

/// A Deployment and its sets while a plan is made for it.
struct Work<'a> {
    before: &'a Deployment,
    /// With the revision annotation and conditions as they come.
    deployment: Deployment,
    spec: DeploymentSpec,
    /// Sets as they are in the cache, by the same index as `sets`.
    originals: Vec<ReplicaSet>,
    sets: Vec<ReplicaSet>,
    new: Option<usize>,
    created: Option<ReplicaSet>,
    events: Vec<(String, String)>,
    removed: Vec<ReplicaSet>,
    now: Timestamp,
}

/// What to do about one Deployment. `taken` finds any ReplicaSet of the namespace by name.
pub fn plan(
    deployment: &Deployment,
    claimed: Claimed<ReplicaSet>,
    pods_of: &dyn Fn(&ReplicaSet) -> Vec<Arc<Pod>>,
    taken: &dyn Fn(&str) -> Option<Arc<ReplicaSet>>,
    now: Timestamp,
) -> Plan {
    let spec = deployment.spec.clone().unwrap_or_default();
    let mut originals: Vec<ReplicaSet> = claimed.objects.iter().map(|set| (**set).clone()).collect();
    sets::sort_oldest_first(&mut originals);
    let new = sets::find_new(&spec, &originals);
    let mut work = Work {
        before: deployment,
        deployment: deployment.clone(),
        sets: originals.clone(),
        originals,
        new,
        created: None,
        events: Vec::new(),
        removed: Vec::new(),
        spec,
        now,
    };
    let mut plan = Plan::none();
    plan.stage(Mode::InOrder, claimed.steps);
    if deployment.is_deleting() {
        let status = work.counts();
        work.finish(&mut plan, status);
        return plan;
    }
    work.note_pause();
    let status = if work.spec.paused == Some(true) {
        work.sync_new(false, taken, &mut plan);
        work.scale();
        work.clean_up();
        work.counts()
    } else if work.is_scaling() {
        work.sync_new(false, taken, &mut plan);
        work.scale();
        work.counts()
    } else if sets::is_rolling(&work.spec) {
        work.roll(taken, &mut plan)
    } else {
        work.recreate(pods_of, taken, &mut plan)
    };
    work.finish(&mut plan, status);
    plan
}

impl Work<'_> {
    fn status_mut(&mut self) -> &mut DeploymentStatus {
        self.deployment.status.get_or_insert_default()
    }

    fn old(&self) -> impl Iterator<Item = (usize, &ReplicaSet)> {
        self.sets.iter().enumerate().filter(|(index, _)| Some(*index) != self.new)
    }

    fn all(&self) -> Vec<&ReplicaSet> {
        // As they were read: sizes planned here are not real yet, only their replicas field counts.
        self.sets.iter().chain(&self.created).collect()
    }

    fn new_set(&self) -> Option<&ReplicaSet> {
        self.created.as_ref().or_else(|| self.new.map(|index| &self.sets[index]))
    }

    fn counts(&self) -> DeploymentStatus {
        status::counts(&self.deployment, &self.all(), self.new_set(), self.now)
    }

    fn rollout_status(&self) -> DeploymentStatus {
        status::rollout(&self.deployment, &self.all(), self.new_set(), self.now)
    }

    /// A paused rollout makes no progress, and that must not count against it.
    fn note_pause(&mut self) {
        if status::deadline(self.before).is_none() {
            return;
        }
        let now = self.now;
        let current =
            self.deployment.status.as_ref().and_then(|status| status::condition(status, "Progressing"));
        let reason = current.and_then(|condition| condition.reason.clone());
        if reason.as_deref() == Some("ProgressDeadlineExceeded") {
            return;
        }
        let noted = reason.as_deref() == Some("DeploymentPaused");
        let paused = self.spec.paused == Some(true);
        let (reason, text) = match (paused, noted) {
            (true, false) => ("DeploymentPaused", "Deployment is paused"),
            (false, true) => ("DeploymentResumed", "Deployment is resumed"),
            _ => return,
        };
        let condition = status::new_condition("Progressing", "Unknown", reason, text.to_owned(), now);
        status::set_condition(self.status_mut(), condition);
    }

    /// True when nothing but the number of replicas changes. Without rolling updates, several sets have no proportion
    /// to keep: the old ones go, or (as upstream's do) they would stay for ever.
    fn is_scaling(&self) -> bool {
        let wanted = sets::wanted(&self.spec);
        let active: Vec<&ReplicaSet> = self.sets.iter().filter(|set| sets::replicas(set) > 0).collect();
        let scales = sets::is_rolling(&self.spec) || active.len() < 2;
        scales && active.into_iter().filter_map(sets::desired).any(|desired| desired != wanted)
    }

    /// Brings the new set's annotations and the Deployment's revision up to date; makes the set if asked to.
    fn sync_new(&mut self, create: bool, taken: &dyn Fn(&str) -> Option<Arc<ReplicaSet>>, plan: &mut Plan) {
        let revision = self.old().map(|(_, set)| sets::revision(set)).max().unwrap_or(0) + 1;
        let (now, with_deadline) = (self.now, status::deadline(self.before).is_some());
        if let Some(index) = self.new {
            let set = &mut self.sets[index];
            sets::annotate_new(self.before, set, revision);
            if let Some(own) = &mut set.spec
                && own.min_ready_seconds.unwrap_or(0) != self.spec.min_ready_seconds.unwrap_or(0)
            {
                own.min_ready_seconds = self.spec.min_ready_seconds;
            }
            let (revision, name) = (sets::revision(set), set.name().to_owned());
            self.note_revision(revision);
            let status = self.status_mut();
            if with_deadline && status::condition(status, "Progressing").is_none() {
                let text = format!("Found new replica set {name:?}");
                let condition = status::new_condition("Progressing", "True", "FoundNewReplicaSet", text, now);
                status::set_condition(status, condition);
            }
        } else if create {
            self.create(revision, taken, plan);
        }
    }

    fn note_revision(&mut self, revision: i64) {
        let annotations = self.deployment.metadata.annotations.get_or_insert_default();
        annotations.insert(sets::REVISION.to_owned(), revision.to_string());
    }

    fn create(&mut self, revision: i64, taken: &dyn Fn(&str) -> Option<Arc<ReplicaSet>>, plan: &mut Plan) {
        let collisions = self.deployment.status.as_ref().and_then(|status| status.collision_count);
        let hash = template::hash(&self.spec.template, collisions);
        let name = set_name(self.before.name(), &hash);
        if taken(&name).is_some() {
            // Not ours, or it would have been found by its template: the next try takes another hash.
            self.status_mut().collision_count = Some(collisions.unwrap_or(0) + 1);
            return;
        }
        let mut template = self.spec.template.clone();
        let meta = template.metadata.get_or_insert_default();
        meta.labels.get_or_insert_default().insert(template::HASH_LABEL.to_owned(), hash.clone());
        let labels = meta.labels.clone();
        let mut selector = self.spec.selector.clone();
        selector.match_labels.get_or_insert_default().insert(template::HASH_LABEL.to_owned(), hash);
        let total = self.sets.iter().map(sets::replicas).sum();
        let size = rolling::new_size(&self.spec, total, 0);
        let mut set = ReplicaSet {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: self.before.metadata.namespace.clone(),
                labels,
                owner_references: Some(vec![controller_ref(self.before)]),
                ..ObjectMeta::default()
            },
            spec: Some(ReplicaSetSpec {
                replicas: Some(size),
                min_ready_seconds: self.spec.min_ready_seconds,
                selector,
                template: Some(template),
            }),
            status: None,
        };
        sets::annotate_new(self.before, &mut set, revision);
        sets::note_replicas(&mut set, &self.spec);
        plan.create(&set);
        if size > 0 {
            let text = format!("Scaled up replica set {name} from 0 to {size}");
            self.events.push(("ScalingReplicaSet".to_owned(), text));
        }
        self.note_revision(revision);
        if status::deadline(self.before).is_some() {
            let text = format!("Created new replica set {name:?}");
            let condition =
                status::new_condition("Progressing", "True", "NewReplicaSetCreated", text, self.now);
            status::set_condition(self.status_mut(), condition);
        }
        self.created = Some(set);
    }

    /// Gives a set another size; true when that changes it.
    fn resize(&mut self, index: usize, size: i32, always_note: bool) -> bool {
        let set = &mut self.sets[index];
        let before = sets::replicas(set);
        if before == size && !always_note {
            return false;
        }
        sets::note_replicas(set, &self.spec);
        if before == size {
            return false;
        }
        sets::set_replicas(set, size);
        let direction = if before < size { "up" } else { "down" };
        let text = format!("Scaled {direction} replica set {} from {before} to {size}", set.name());
        self.events.push(("ScalingReplicaSet".to_owned(), text));
        true
    }

    /// Follows a change of the Deployment's replicas, or keeps a paused one in proportion.
    fn scale(&mut self) {
        let wanted = sets::wanted(&self.spec);
        let active: Vec<usize> =
            (0..self.sets.len()).filter(|i| sets::replicas(&self.sets[*i]) > 0).collect();
        let only = match active[..] {
            [] => self.new.or_else(|| self.sets.len().checked_sub(1)),
            [one] => Some(one),
            _ => None,
        };
        if let Some(index) = only {
            self.resize(index, wanted, false);
            return;
        }
        if active.is_empty() {
            return;
        }
        let saturated = |set: &ReplicaSet| {
            sets::replicas(set) == wanted
                && sets::desired(set) == Some(wanted)
                && sets::available(set) == wanted
        };
        if self.new.is_some_and(|index| saturated(&self.sets[index])) {
            let new = self.new;
            for index in active.into_iter().filter(|index| Some(*index) != new) {
                self.resize(index, 0, false);
            }
        } else if sets::is_rolling(&self.spec) {
            let status = self.before.status.clone().unwrap_or_default();
            let mut copies: Vec<ReplicaSet> = active.iter().map(|index| self.sets[*index].clone()).collect();
            let mut refs: Vec<&mut ReplicaSet> = copies.iter_mut().collect();
            let sizes = rolling::proportional(&self.spec, &status, &mut refs);
            let names: Vec<String> = refs.iter().map(|set| set.name().to_owned()).collect();
            for (name, size) in names.iter().zip(sizes) {
                if let Some(index) = self.sets.iter().position(|set| set.name() == name) {
                    self.resize(index, size, true);
                }
            }
        }
    }

    fn roll(&mut self, taken: &dyn Fn(&str) -> Option<Arc<ReplicaSet>>, plan: &mut Plan) -> DeploymentStatus {
        self.sync_new(true, taken, plan);
        if self.created.is_some() || self.new.is_none() {
            return self.rollout_status();
        }
        let Some(new) = self.new else { return self.rollout_status() };
        let wanted = sets::wanted(&self.spec);
        let (size, total) = (sets::replicas(&self.sets[new]), self.sets.iter().map(sets::replicas).sum());
        let goal = match size.cmp(&wanted) {
            std::cmp::Ordering::Equal => size,
            std::cmp::Ordering::Greater => wanted,
            std::cmp::Ordering::Less => rolling::new_size(&self.spec, total, size),
        };
        if self.resize(new, goal, false) {
            return self.rollout_status();
        }
        let indexes: Vec<usize> = self.old().map(|(index, _)| index).collect();
        let old: Vec<ReplicaSet> = indexes.iter().map(|index| self.sets[*index].clone()).collect();
        let sizes = rolling::old_sizes(&self.spec, &self.sets[new], &old);
        let mut scaled = false;
        for (index, size) in indexes.into_iter().zip(sizes) {
            scaled |= self.resize(index, size, false);
        }
        if !scaled {
            self.clean_up_if_complete();
        }
        self.rollout_status()
    }

    fn recreate(
        &mut self,
        pods_of: &dyn Fn(&ReplicaSet) -> Vec<Arc<Pod>>,
        taken: &dyn Fn(&str) -> Option<Arc<ReplicaSet>>,
        plan: &mut Plan,
    ) -> DeploymentStatus {
        self.sync_new(false, taken, plan);
        let indexes: Vec<usize> = self.old().map(|(index, _)| index).collect();
        let mut scaled = false;
        for index in &indexes {
            scaled |= sets::replicas(&self.sets[*index]) > 0 && self.resize(*index, 0, false);
        }
        let running = |set: &ReplicaSet| {
            sets::actual(set) > 0 || pods_of(set).iter().any(|pod| !pods::is_finished(pod))
        };
        if scaled || indexes.iter().any(|index| running(&self.sets[*index])) {
            return self.rollout_status();
        }
        match self.new {
            None => self.sync_new(true, taken, plan),
            Some(new) => {
                self.resize(new, sets::wanted(&self.spec), false);
            }
        }
        self.clean_up_if_complete();
        self.rollout_status()
    }

    fn clean_up_if_complete(&mut self) {
        let status = self.before.status.clone().unwrap_or_default();
        if status::is_complete(self.before, &status) {
            self.clean_up();
        }
    }

    /// Removes the oldest empty sets beyond the history limit.
    fn clean_up(&mut self) {
        let Some(limit) = self.spec.revision_history_limit.filter(|limit| *limit != i32::MAX) else { return };
        let mut old: Vec<&ReplicaSet> =
            self.old().map(|(_, set)| set).filter(|set| !set.is_deleting()).collect();
        old.sort_by_key(|set| sets::revision(set));
        let excess = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        let empty = |set: &&&ReplicaSet| {
            sets::actual(set) == 0
                && sets::replicas(set) == 0
                && set.meta().generation.unwrap_or(0) <= sets::observed(set)
        };
        self.removed = old[..excess].iter().filter(empty).map(|set| (*set).clone()).collect();
    }

    /// Turns what was decided into steps.
    fn finish(self, plan: &mut Plan, status: DeploymentStatus) {
        for (set, original) in self.sets.iter().zip(&self.originals) {
            if set != original {
                plan.update(set);
            }
        }
        for (reason, message) in self.events {
            plan.event(self.before, EventKind::Normal, &reason, message);
        }
        for set in &self.removed {
            plan.step(Step::delete(set, DeleteOptions::uid(set.uid())));
        }
        if let Some(wait) = status::check_again(self.before, &status, self.now) {
            plan.requeue(wait);
        }
        let mut after = self.deployment;
        after.status = Some(status);
        let (before, creating, now) = (self.before.clone(), self.created, self.now);
        plan.then(move |outcome| {
            if let (Some(set), Some(error)) = (&creating, &outcome.error)
                && outcome.created == 0
            {
                return failed_create(&before, set.name(), error, now);
            }
            if outcome.error.is_some() || after == before {
                return Vec::new();
            }
            vec![Step::update(&after, "status")]
        });
    }
}

fn failed_create(before: &Deployment, set: &str, error: &str, now: Timestamp) -> Vec<Step> {
    let text = format!("Failed to create new replica set {set:?}: {error}");
    let reason = "ReplicaSetCreateError";
    let mut steps = Vec::new();
    if status::deadline(before).is_some() {
        let mut after = before.clone();
        let condition = status::new_condition("Progressing", "False", reason, text.clone(), now);
        status::set_condition(after.status.get_or_insert_default(), condition);
        if after != *before {
            steps.push(Step::update(&after, "status"));
        }
    }
    steps.push(Step::event(About::of(before), EventKind::Warning, reason, text));
    steps
}

fn set_name(deployment: &str, hash: &str) -> String {
    let room = MAX_NAME.saturating_sub(hash.len() + 1);
    format!("{}-{hash}", &deployment[..deployment.len().min(room)])
}
