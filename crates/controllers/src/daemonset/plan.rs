//! The plan for one DaemonSet: pods to make and remove node by node, the rolling update, the status.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::k8s::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetSpec, DaemonSetStatus};
use api::k8s::api::core::v1::{Node, Pod, PodTemplateSpec};
use client::plan::{About, Mode, Report};
use client::{DeleteOptions, EventKind, Meta, Plan, Step};
use jiff::Timestamp;

use super::fit;
use crate::history::{self, REVISION_LABEL};
use crate::owner::{Claimed, controller_ref};
use crate::{pods, template};

const GENERATION_LABEL: &str = "pod-template-generation";
const GENERATION: &str = "deprecated.daemonset.template.generation";
/// Pods made or removed at a time, as upstream.
const BURST: usize = 250;

/// A DaemonSet and the objects around it.
pub struct View<'a> {
    pub set: &'a DaemonSet,
    pub spec: &'a DaemonSetSpec,
    pub now: Timestamp,
    pub nodes: Vec<Arc<Node>>,
    pub revisions: Vec<Arc<ControllerRevision>>,
    /// True when a ControllerRevision of this name exists.
    pub taken: &'a dyn Fn(&str) -> bool,
    /// How long to wait before a failed pod on a node is replaced.
    pub hold_back: &'a dyn Fn(&str) -> Duration,
}

/// A DaemonSet that would own every pod does nothing.
pub fn selecting_all(set: &DaemonSet) -> Plan {
    let mut plan = Plan::none();
    let text = "This daemon set is selecting all pods. A non-empty selector is required.";
    plan.event(set, EventKind::Warning, "SelectingAll", text);
    plan
}

struct Work<'a> {
    view: &'a View<'a>,
    template: PodTemplateSpec,
    update: String,
    min_ready: i32,
    by_node: BTreeMap<String, Vec<Arc<Pod>>>,
    create: Vec<String>,
    delete: Vec<Arc<Pod>>,
    events: Vec<Step>,
    wait: Option<Duration>,
}

/// What to do about one DaemonSet.
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
        REVISION_LABEL,
        old.collision_count,
        owned,
        view.taken,
    );
    if set.is_deleting() {
        return plan;
    }
    plan.stage(Mode::InOrder, history.steps.clone());
    let mut work = Work::new(view, &claimed.objects, hash_of(&history.update));
    if !history.collision {
        work.manage();
        // While pods are still missing or superfluous, the update waits: its counts would be wrong.
        if work.create.is_empty() && work.delete.is_empty() {
            work.roll();
        }
    }
    let mut status = work.status(&old);
    if history.collision {
        status.collision_count = Some(old.collision_count.unwrap_or(0) + 1);
    }
    work.write(&mut plan);
    let worn: Vec<&str> = claimed.objects.iter().filter_map(|pod| pod.label(REVISION_LABEL)).collect();
    let in_use = |revision: &&ControllerRevision| {
        worn.contains(&hash_of(revision)) || revision.name() == history.update.name()
    };
    let live: Vec<&str> = history.revisions.iter().filter(in_use).map(|revision| revision.name()).collect();
    let limit = spec.revision_history_limit.unwrap_or(10);
    plan.stage(Mode::InOrder, history::truncate(&history.revisions, &live, limit));
    let mut after = set.clone();
    after.status = Some(status);
    if after.status != set.status {
        plan.then(move |_| vec![Step::update(&after, "status")]);
    }
    plan
}

/// The hash of a revision, which its pods wear as a label.
fn hash_of(revision: &ControllerRevision) -> &str {
    revision.label(REVISION_LABEL).unwrap_or("")
}

fn target(pod: &Pod) -> String {
    match pods::node(pod) {
        "" => pod.spec.as_ref().and_then(fit::pinned_to).unwrap_or("").to_owned(),
        node => node.to_owned(),
    }
}

impl<'a> Work<'a> {
    fn new(view: &'a View<'a>, all: &[Arc<Pod>], update: &str) -> Self {
        let mut template = view.spec.template.clone();
        fit::add_tolerations(template.spec.get_or_insert_default());
        let meta = template.metadata.get_or_insert_default();
        history::label(&mut meta.labels, update);
        if let Some(generation) = view.set.annotation(GENERATION) {
            meta.labels.get_or_insert_default().insert(GENERATION_LABEL.to_owned(), generation.to_owned());
        }
        let mut by_node: BTreeMap<String, Vec<Arc<Pod>>> = BTreeMap::new();
        for pod in all {
            by_node.entry(target(pod)).or_default().push(pod.clone());
        }
        Work {
            view,
            template,
            update: update.to_owned(),
            min_ready: view.spec.min_ready_seconds.unwrap_or(0),
            by_node,
            create: Vec::new(),
            delete: Vec::new(),
            events: Vec::new(),
            wait: None,
        }
    }

    fn decide(&self, node: &Node) -> (bool, bool) {
        fit::decide(self.template.spec.as_ref().unwrap_or(&Default::default()), node)
    }

    fn pods_on(&self, node: &str) -> &[Arc<Pod>] {
        self.by_node.get(node).map_or(&[], Vec::as_slice)
    }

    fn is_new(&self, pod: &Pod) -> bool {
        let generation = self.view.set.annotation(GENERATION);
        let by_generation = generation.is_some() && pod.label(GENERATION_LABEL) == generation;
        pod.label(REVISION_LABEL) == Some(&self.update)
            || (pod.label(REVISION_LABEL).is_none() && by_generation)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        pods::is_available(pod, self.min_ready, self.view.now)
    }

    fn surge(&self) -> i32 {
        let rolling =
            self.view.spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
        let surge =
            rolling.and_then(|rolling| template::scaled(rolling.max_surge.as_ref(), self.desired(), true));
        if self.is_rolling() { surge.unwrap_or(0) } else { 0 }
    }

    fn max_unavailable(&self) -> i32 {
        let rolling =
            self.view.spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
        let most = rolling
            .and_then(|rolling| template::scaled(rolling.max_unavailable.as_ref(), self.desired(), true));
        match (most.unwrap_or(1), self.surge()) {
            (0, 0) => 1,
            (most, _) => most,
        }
    }

    fn is_rolling(&self) -> bool {
        let kind = self.view.spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref());
        kind.is_none_or(|kind| kind != "OnDelete")
    }

    fn desired(&self) -> i32 {
        let count = self.view.nodes.iter().filter(|node| self.decide(node).0).count();
        i32::try_from(count).unwrap_or(i32::MAX)
    }

    /// One pod where one should be, none elsewhere.
    fn manage(&mut self) {
        for node in &self.view.nodes {
            let (run, stay) = self.decide(node);
            let here = self.pods_on(node.name()).to_vec();
            if here.is_empty() {
                if run {
                    self.create.push(node.name().to_owned());
                }
            } else if !stay {
                self.delete.extend(here.into_iter().filter(|pod| !pod.is_deleting()));
            } else {
                self.keep_one(node.name(), here, run);
            }
        }
        // Pods meant for nodes that are gone and that were never placed there.
        let known: Vec<&str> = self.view.nodes.iter().map(|node| node.name()).collect();
        for (node, list) in &self.by_node {
            if !known.contains(&node.as_str()) {
                let unplaced = list.iter().filter(|pod| pods::node(pod).is_empty() && !pod.is_deleting());
                self.delete.extend(unplaced.cloned());
            }
        }
    }

    fn keep_one(&mut self, node: &str, here: Vec<Arc<Pod>>, run: bool) {
        let (mut living, mut going) = (Vec::new(), 0);
        for pod in here {
            if pod.is_deleting() {
                going += 1;
            } else if pods::is_finished(&pod) {
                self.replace_finished(node, &pod);
                going += 1;
            } else {
                living.push(pod);
            }
        }
        let surging = self.surge() > 0;
        if living.is_empty() {
            // A pod that is going holds its place, unless surge allows the next one beside it.
            if run && surging && going > 0 && !self.delete.iter().any(|pod| target(pod) == node) {
                self.create.push(node.to_owned());
            }
            return;
        }
        living.sort_by_key(|pod| {
            (pods::node(pod).is_empty(), pod.metadata.creation_timestamp.clone(), pod.name().to_owned())
        });
        if !surging {
            self.delete.extend(living.drain(1..));
            return;
        }
        let (new, old): (Vec<Arc<Pod>>, Vec<Arc<Pod>>) = living.into_iter().partition(|pod| self.is_new(pod));
        self.delete.extend(old.iter().skip(1).chain(new.iter().skip(1)).cloned());
        if let (Some(old), Some(new)) = (old.first(), new.first())
            && (self.is_available(new) || !pods::is_ready(old))
        {
            self.delete.push(old.clone());
        }
    }

    fn replace_finished(&mut self, node: &str, pod: &Arc<Pod>) {
        let failed = pods::phase(pod) == "Failed";
        if failed {
            let wait = (self.view.hold_back)(node);
            if !wait.is_zero() {
                self.wait = Some(self.wait.map_or(wait, |known| known.min(wait)));
                return;
            }
        }
        let (reason, word) =
            if failed { ("FailedDaemonPod", "failed") } else { ("SucceededDaemonPod", "succeeded") };
        let verb = if failed { "kill" } else { "delete" };
        let text = format!(
            "Found {word} daemon pod {}/{} on node {node}, will try to {verb} it",
            pod.namespace(),
            pod.name()
        );
        let kind = if failed { EventKind::Warning } else { EventKind::Normal };
        self.events.push(Step::event(About::of(self.view.set), kind, reason, text));
        self.delete.push(pod.clone());
    }

    /// Replaces old pods as availability allows.
    fn roll(&mut self) {
        if !self.is_rolling() {
            return;
        }
        if self.surge() > 0 {
            return self.roll_surging();
        }
        let (mut unavailable, mut useless, mut useful) = (0, Vec::new(), Vec::new());
        for node in self.view.nodes.iter().filter(|node| self.decide(node).0) {
            let living: Vec<&Arc<Pod>> = self
                .pods_on(node.name())
                .iter()
                .filter(|pod| !pod.is_deleting() && !pods::is_finished(pod))
                .collect();
            let Some(pod) = living.first() else {
                unavailable += 1;
                continue;
            };
            let available = self.is_available(pod);
            if !available {
                unavailable += 1;
            }
            if !self.is_new(pod) {
                if available { useful.push((*pod).clone()) } else { useless.push((*pod).clone()) }
            }
        }
        let room = usize::try_from(self.max_unavailable() - unavailable).unwrap_or(0);
        self.delete.extend(useless);
        self.delete.extend(useful.into_iter().take(room));
    }

    fn roll_surging(&mut self) {
        let (mut surging, mut waiting) = (0, Vec::new());
        for node in self.view.nodes.iter().filter(|node| self.decide(node).0) {
            let living =
                self.pods_on(node.name()).iter().filter(|pod| !pod.is_deleting() && !pods::is_finished(pod));
            let (new, old): (Vec<&Arc<Pod>>, Vec<&Arc<Pod>>) = living.partition(|pod| self.is_new(pod));
            match (new.first(), old.first()) {
                (Some(_), Some(_)) => surging += 1,
                (None, Some(_)) => waiting.push(node.name().to_owned()),
                _ => {}
            }
        }
        let room = usize::try_from(self.surge() - surging).unwrap_or(0);
        self.create.extend(waiting.into_iter().take(room));
    }

    fn status(&self, old: &DaemonSetStatus) -> DaemonSetStatus {
        let mut status = DaemonSetStatus {
            observed_generation: self.view.set.meta().generation,
            collision_count: old.collision_count,
            conditions: old.conditions.clone(),
            ..DaemonSetStatus::default()
        };
        let (mut updated, mut available) = (0, 0);
        for node in &self.view.nodes {
            let run = self.decide(node).0;
            let here: Vec<&Arc<Pod>> =
                self.pods_on(node.name()).iter().filter(|pod| !pods::is_finished(pod) || run).collect();
            if !run {
                status.number_misscheduled += i32::from(!here.is_empty());
                continue;
            }
            status.desired_number_scheduled += 1;
            let oldest = here
                .iter()
                .min_by_key(|pod| (pod.metadata.creation_timestamp.clone(), pod.name().to_owned()));
            let Some(oldest) = oldest else { continue };
            status.current_number_scheduled += 1;
            let best = here.iter().find(|pod| pods::is_ready(pod) && !pod.is_deleting()).unwrap_or(oldest);
            if pods::is_ready(best) {
                status.number_ready += 1;
                available += i32::from(self.is_available(best));
            }
            updated += i32::from(here.iter().any(|pod| self.is_new(pod)));
        }
        let unavailable = status.desired_number_scheduled - available;
        status.updated_number_scheduled = (updated != 0).then_some(updated);
        status.number_available = (available != 0).then_some(available);
        status.number_unavailable = (unavailable != 0).then_some(unavailable);
        status
    }

    fn write(self, plan: &mut Plan) {
        let set = self.view.set;
        let report = |done: (&'static str, &str), failed: (&'static str, &str)| Report {
            about: About::of(set),
            done: (done.0, done.1.to_owned()),
            failed: (failed.0, failed.1.to_owned()),
        };
        plan.stage(Mode::InOrder, self.events);
        let prefix = pods::name_prefix(set.name());
        let make = |node: &String| {
            let mut pod = pods::from_template(&self.template, set.namespace(), &prefix, controller_ref(set));
            fit::pin(pod.spec.get_or_insert_default(), node);
            let told = report(("SuccessfulCreate", "Created pod: "), ("FailedCreate", "Error creating: "));
            Step::create(&pod).reported(told)
        };
        plan.stage(Mode::SlowStart, self.create.iter().take(BURST).map(make).collect());
        let remove = |pod: &Arc<Pod>| {
            let told = report(("SuccessfulDelete", "Deleted pod: "), ("FailedDelete", "Error deleting: "));
            Step::delete(&**pod, DeleteOptions::uid(pod.uid())).reported(told)
        };
        plan.stage(Mode::Together, self.delete.iter().take(BURST).map(remove).collect());
        if let Some(wait) = self.wait {
            plan.requeue(wait);
        }
        let all = self.by_node.values().flatten();
        let waits = all.filter_map(|pod| pods::available_in(pod, self.min_ready, self.view.now));
        if let Some(wait) = waits.filter(|wait| !wait.is_zero()).min() {
            plan.requeue(wait);
        }
    }
}
