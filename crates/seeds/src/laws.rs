//! Laws that every commit must keep. Each is as strong as what upstream's controllers promise: they act on caches, so
//! that where a law speaks of what somebody else may just have changed, that somebody's change excuses it for a while.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use crate::tap::{Commit, Watcher};
use crate::truth::{
    Place, Truth, condition, controlled_by, controller, cpu, is_active, is_deleting, is_over, is_ready,
    milli, priority, reason, selects, text, uid,
};

/// How long a change from outside excuses those who may not have seen it, milliseconds.
const WINDOW: u64 = 90_000;

/// A commit with what was there before.
pub struct Step<'a> {
    /// Virtual milliseconds.
    pub at: u64,
    /// Resource.
    pub resource: &'a str,
    /// Namespace and name.
    pub place: &'a Place,
    /// Before.
    pub old: Option<&'a Arc<Value>>,
    /// After.
    pub new: Option<&'a Arc<Value>>,
}

/// What a seed's faults allow to be asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Strict {
    /// Components do not die between a write and its echo, and no write's answer is lost: nothing is made twice.
    pub once: bool,
}

/// Watches over the laws.
#[derive(Default)]
pub struct Judge {
    /// All objects.
    pub truth: Truth,
    /// The broken laws, in order.
    pub broken: Vec<String>,
    /// What may be asked.
    pub strict: Strict,
    /// Last change from outside, by (namespace, app).
    disturbed: BTreeMap<Place, u64>,
    /// What a replica set wanted since when, by its uid.
    sizes: BTreeMap<String, Vec<(u64, u64)>>,
    /// Pods that ever ended: uid → succeeded.
    ended: BTreeMap<String, bool>,
    /// When pods without a node were last seen, by uid: with their priority.
    waited: BTreeMap<String, (i64, u64)>,
    /// Pods that belonged to a job, by the job's uid.
    job_pods: BTreeMap<String, BTreeSet<String>>,
    /// Pod uids that a job has claimed to count, by the job's uid.
    counted: BTreeMap<String, BTreeSet<String>>,
}

/// A law: what it is called, and how it looks at a step.
type Law = (&'static str, fn(&Judge, &Step<'_>) -> Result<(), String>);

const LAWS: &[Law] = &[
    ("a pod is bound once", bound_once),
    ("a node is never promised twice", node_room),
    ("a set has no more pods than it wants", set_size),
    ("a rollout keeps enough pods available", rollout_available),
    ("a rollout makes no more pods than allowed", rollout_total),
    ("a budget is never broken by evictions", budget),
    ("a stateful set starts its pods in order", stateful_order),
    ("a daemon set has one pod a node", daemon_once),
    ("a job counts what happened", job_counts),
    ("a job's pod is let go only when counted", job_finalizer),
    ("a job runs no more pods than allowed", job_active),
    ("a job's end is final", job_end),
    ("jobs that forbid it do not overlap", cron_forbid),
    ("a quota is never exceeded", quota),
    ("only for more important pods is one removed", preemption),
];

impl Watcher for Judge {
    fn commit(&mut self, commit: &Commit<'_>) {
        let place = (commit.namespace.to_owned(), commit.name.to_owned());
        let old = self.truth.take(commit.resource, place.clone(), commit.object);
        let step = Step {
            at: commit.at,
            resource: commit.resource,
            place: &place,
            old: old.as_ref(),
            new: commit.object,
        };
        self.remember(&step);
        for (name, law) in LAWS {
            if let Err(what) = law(self, &step) {
                self.broken.push(format!("{name}: {what} (at {} ms, r{})", commit.at, commit.revision));
            }
        }
    }
}

fn app(object: &Value) -> String {
    text(&object["metadata"]["labels"]["app"]).to_owned()
}

impl Judge {
    /// Says that somebody outside changed what concerns an app.
    pub fn disturb(&mut self, namespace: &str, app: &str, at: u64) {
        self.disturbed.insert((namespace.to_owned(), app.to_owned()), at);
    }

    fn is_disturbed(&self, namespace: &str, app: &str, at: u64) -> bool {
        let key = (namespace.to_owned(), app.to_owned());
        self.disturbed.get(&key).is_some_and(|last| at.saturating_sub(*last) < WINDOW)
    }

    /// Notes what later steps are judged by.
    fn remember(&mut self, step: &Step<'_>) {
        match (step.resource, step.new.or(step.old)) {
            ("pods", Some(pod)) => self.remember_pod(step, &pod.clone()),
            ("batch/jobs", Some(job)) => {
                let uncounted = &job["status"]["uncountedTerminatedPods"];
                let names = ["succeeded", "failed"].into_iter().filter_map(|kind| uncounted[kind].as_array());
                let names: Vec<String> = names.flatten().map(|name| text(name).to_owned()).collect();
                self.counted.entry(uid(job).to_owned()).or_default().extend(names);
            }
            ("apps/replicasets", Some(set)) => {
                let size = set["spec"]["replicas"].as_u64().unwrap_or(1);
                let sizes = self.sizes.entry(uid(set).to_owned()).or_default();
                if sizes.last().is_none_or(|last| last.1 != size) {
                    sizes.push((step.at, size));
                }
            }
            ("apps/deployments", Some(one)) => {
                // Another size or way: what follows from it is no surprise. Another template is none.
                let part =
                    |one: &Arc<Value>| (one["spec"]["replicas"].clone(), one["spec"]["strategy"].clone());
                let pauses = |one: &Arc<Value>| one["spec"]["paused"].clone();
                if step.old.is_some_and(|old| (part(old), pauses(old)) != (part(one), pauses(one))) {
                    let (namespace, app) = (step.place.0.clone(), app(one));
                    self.disturb(&namespace, &app, step.at);
                }
            }
            ("apps/statefulsets", Some(one)) => {
                if step.old.is_some_and(|old| old["spec"]["replicas"] != one["spec"]["replicas"]) {
                    let (namespace, app) = (step.place.0.clone(), app(one));
                    self.disturb(&namespace, &app, step.at);
                }
            }
            _ => {}
        }
    }

    fn remember_pod(&mut self, step: &Step<'_>, pod: &Value) {
        let (namespace, app) = (&step.place.0, app(pod));
        if let Some(owner) = controlled_by(pod, "Job") {
            self.job_pods.entry(text(&owner["uid"]).to_owned()).or_default().insert(uid(pod).to_owned());
        }
        if is_over(pod) {
            self.ended.entry(uid(pod).to_owned()).or_insert(pod["status"]["phase"] == "Succeeded");
        }
        if [step.old, step.new].into_iter().flatten().any(|pod| text(&pod["spec"]["nodeName"]).is_empty()) {
            self.waited.insert(uid(pod).to_owned(), (priority(pod), step.at));
        }
        let was_ready = step.old.is_some_and(|old| is_ready(old));
        // Readiness lost by itself, ends, and disruptions by the scheduler, taints or the collector.
        let lost = was_ready
            && !is_ready(pod)
            && (!is_deleting(pod) || !condition(pod, "DisruptionTarget").is_empty());
        let unowned = step.new.is_none() && step.old.is_some_and(|old| !is_deleting(old));
        let evicted = reason(pod, "DisruptionTarget") == "EvictionByEvictionAPI";
        if (lost && !evicted) || unowned {
            self.disturb(namespace, &app, step.at);
            self.disturb(namespace, &format!("{app}/lost"), step.at);
        }
        if lost && evicted {
            // Rollouts do not know of evictions; budgets do.
            self.disturb(namespace, &format!("{app}/evicted"), step.at);
        }
        if was_ready && is_deleting(pod) && condition(pod, "DisruptionTarget").is_empty() {
            // Taken by a controller: budgets hear of it later.
            self.disturb(namespace, &format!("{app}/taken"), step.at);
        }
    }
}

fn fail<T>(text: String) -> Result<T, String> {
    Err(text)
}

fn started_to_go(step: &Step<'_>) -> bool {
    step.resource == "pods"
        && step.old.is_some_and(|old| !is_deleting(old))
        && step.new.is_none_or(|new| is_deleting(new))
}

/// A pod that appears.
fn created<'a>(step: &Step<'a>) -> Option<&'a Arc<Value>> {
    if step.old.is_none() { step.new } else { None }
}

fn name(step: &Step<'_>) -> String {
    format!("{}/{}", step.place.0, step.place.1)
}

fn bound_once(judge: &Judge, step: &Step<'_>) -> Result<(), String> {
    let (Some(old), Some(new)) = (step.old, step.new) else { return Ok(()) };
    if step.resource != "pods" || uid(old) != uid(new) {
        return Ok(());
    }
    let (before, after) = (text(&old["spec"]["nodeName"]), text(&new["spec"]["nodeName"]));
    if !before.is_empty() && before != after {
        return fail(format!("{} went from {before} to {after}", name(step)));
    }
    let terminal = is_over(old) && old["status"]["phase"] != new["status"]["phase"];
    if terminal {
        return fail(format!("{} came back from {}", name(step), old["status"]["phase"]));
    }
    let _ = judge;
    Ok(())
}

fn node_room(judge: &Judge, step: &Step<'_>) -> Result<(), String> {
    let Some(new) = step.new.filter(|_| step.resource == "pods" && judge.strict.once) else { return Ok(()) };
    let node = text(&new["spec"]["nodeName"]);
    if node.is_empty() || step.old.is_none_or(|old| !text(&old["spec"]["nodeName"]).is_empty()) {
        return Ok(());
    }
    let Some(machine) = judge.truth.get("nodes", "", node) else { return Ok(()) };
    let here = || {
        let pods = judge.truth.all("pods").map(|(_, pod)| pod);
        pods.filter(|pod| pod["spec"]["nodeName"] == node && !is_over(pod))
    };
    let (used, count) = (here().map(|pod| cpu(pod)).sum::<i64>(), here().count());
    let room = &machine["status"]["allocatable"];
    if used > milli(&room["cpu"]) || count as i64 * 1000 > milli(&room["pods"]) {
        return fail(format!("{} to {node}: {used}m CPU, {count} pods", name(step)));
    }
    Ok(())
}

fn set_size(judge: &Judge, step: &Step<'_>) -> Result<(), String> {
    let Some(pod) = created(step).filter(|_| step.resource == "pods" && judge.strict.once) else {
        return Ok(());
    };
    let Some(owner) = controlled_by(pod, "ReplicaSet") else { return Ok(()) };
    if judge.is_disturbed(&step.place.0, &app(pod), step.at) {
        return Ok(());
    }
    let Some((_, set)) = judge.truth.by_uid(text(&owner["uid"])) else { return Ok(()) };
    let wanted = judge.most_wanted(uid(set), step.at);
    let count = judge.truth.pods_of(uid(set)).filter(|pod| is_active(pod)).count() as u64;
    if count > wanted {
        return fail(format!(
            "{}: {count} pods, {wanted} wanted by {}",
            name(step),
            text(&set["metadata"]["name"])
        ));
    }
    Ok(())
}

impl Judge {
    /// The most that a set wanted lately: its controller may not know better yet.
    fn most_wanted(&self, set: &str, at: u64) -> u64 {
        let sizes = self.sizes.get(set).map_or(&[][..], |sizes| sizes);
        let ends = sizes.iter().skip(1).map(|next| next.0).chain([u64::MAX]);
        let lately = sizes.iter().zip(ends).filter(|(_, end)| at.saturating_sub(*end) < WINDOW);
        lately.map(|(size, _)| size.1).max().unwrap_or(0)
    }
}

/// The replica set that controls a pod.
fn set_of<'a>(judge: &'a Judge, pod: &Value) -> Option<&'a Arc<Value>> {
    let owner = controlled_by(pod, "ReplicaSet")?;
    judge.truth.by_uid(text(&owner["uid"])).map(|(_, set)| set)
}

/// The deployment of a replica set and its numbers: replicas, unavailable, surge.
fn rollout<'a>(judge: &'a Judge, set: &Value) -> Option<(&'a Arc<Value>, i64, i64, i64)> {
    let owner = controlled_by(set, "Deployment")?;
    let (_, deployment) = judge.truth.by_uid(text(&owner["uid"]))?;
    if is_deleting(deployment) || is_deleting(set) || deployment["spec"]["strategy"]["type"] == "Recreate" {
        return None;
    }
    let replicas = deployment["spec"]["replicas"].as_i64()?;
    let rolling = &deployment["spec"]["strategy"]["rollingUpdate"];
    let surge = part(&rolling["maxSurge"], replicas, true);
    let unavailable = part(&rolling["maxUnavailable"], replicas, false);
    let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
    Some((deployment, replicas, unavailable.min(replicas), surge))
}

/// A number or a share of `of`.
fn part(value: &Value, of: i64, up: bool) -> i64 {
    let Some(share) = value.as_str().and_then(|text| text.strip_suffix('%')) else {
        return value.as_i64().unwrap_or(0);
    };
    let share = share.parse::<i64>().unwrap_or(0) * of;
    if up { (share + 99) / 100 } else { share / 100 }
}

fn rollout_available(judge: &Judge, step: &Step<'_>) -> Result<(), String> {
    let Some(old) = step.old.filter(|old| started_to_go(step) && is_ready(old)) else { return Ok(()) };
    let disrupted = step.new.is_some_and(|new| !condition(new, "DisruptionTarget").is_empty());
    let app = app(old);
    let evicted = judge.is_disturbed(&step.place.0, &format!("{app}/evicted"), step.at);
    if disrupted || evicted || judge.is_disturbed(&step.place.0, &app, step.at) {
        return Ok(());
    }
    let Some(set) = set_of(judge, old) else { return Ok(()) };
    let Some((deployment, replicas, unavailable, _)) = rollout(judge, set) else { return Ok(()) };
    let left = judge.truth.pods_of_deployment(uid(deployment)).filter(|pod| is_ready(pod)).count() as i64;
    if left < replicas - unavailable {
        return fail(format!("{}: {left} of {replicas} left, {unavailable} may be missing", name(step)));
    }
    Ok(())
}

fn rollout_total(judge: &Judge, step: &Step<'_>) -> Result<(), String> {
    let Some(set) = step.new.filter(|_| step.resource == "apps/replicasets") else { return Ok(()) };
    let size = |set: &Value| set["spec"]["replicas"].as_i64().unwrap_or(1);
    if step.old.map_or(0, |old| size(old)) >= size(set)
        || judge.is_disturbed(&step.place.0, &app(set), step.at)
    {
        return Ok(());
    }
    let Some((deployment, replicas, _, surge)) = rollout(judge, set) else { return Ok(()) };
    let sets = judge.truth.all("apps/replicasets").map(|(_, set)| set);
    let owned =
        sets.filter(|set| controller(set).is_some_and(|owner| owner["uid"] == deployment["metadata"]["uid"]));
    let total: i64 = owned.map(|set| size(set)).sum();
    if total > replicas + surge {
        return fail(format!(
            "{}: {total} asked for, {replicas} wanted and {surge} more allowed",
            name(step)
        ));
    }
    Ok(())
}

fn budget(judge: &Judge, step: &Step<'_>) -> Result<(), String> {
    let Some(old) = step.old.filter(|old| started_to_go(step) && is_ready(old)) else { return Ok(()) };
    let Some(new) = step.new else { return Ok(()) };
    if reason(new, "DisruptionTarget") != "EvictionByEvictionAPI" {
        return Ok(());
    }
    let app = app(old);
    let is_disturbed = |what: &str| judge.is_disturbed(&step.place.0, &format!("{app}{what}"), step.at);
    if is_disturbed("/taken") || is_disturbed("/lost") {
        return Ok(());
    }
    for (place, budget) in judge.truth.all("policy/poddisruptionbudgets") {
        let selector = &budget["spec"]["selector"]["matchLabels"];
        if place.0 != step.place.0 || !selects(selector, old) || is_deleting(budget) {
            continue;
        }
        let pods = || judge.truth.all("pods").filter(|(at, pod)| at.0 == place.0 && selects(selector, pod));
        let spec = &budget["spec"];
        let wanted = match (spec["minAvailable"].as_i64(), spec["maxUnavailable"].as_i64()) {
            (Some(least), _) => least,
            // Only here it matters how many pods are wanted.
            (None, Some(most)) if !is_disturbed("") => expected(judge, pods().map(|(_, pod)| &**pod)) - most,
            _ => continue,
        };
        let healthy = pods().filter(|(_, pod)| is_ready(pod)).count() as i64;
        if healthy < wanted {
            return fail(format!("{}: {healthy} healthy left, {} wants {wanted}", name(step), place.1));
        }
    }
    Ok(())
}

/// How many pods the controllers of these want.
fn expected<'a>(judge: &Judge, pods: impl Iterator<Item = &'a Value>) -> i64 {
    let mut wanted = BTreeMap::new();
    for pod in pods {
        let Some(owner) = controller(pod) else { continue };
        let Some((_, set)) = judge.truth.by_uid(text(&owner["uid"])) else { continue };
        let above =
            controlled_by(set, "Deployment").and_then(|owner| judge.truth.by_uid(text(&owner["uid"])));
        let top = above.map_or(set, |(_, deployment)| deployment);
        wanted.insert(uid(top), top["spec"]["replicas"].as_i64().unwrap_or(1));
    }
    wanted.values().sum()
}

fn stateful_order(judge: &Judge, step: &Step<'_>) -> Result<(), String> {
    let Some(pod) = created(step).filter(|_| step.resource == "pods") else { return Ok(()) };
    let Some(owner) = controlled_by(pod, "StatefulSet") else { return Ok(()) };
    let Some((_, set)) = judge.truth.by_uid(text(&owner["uid"])) else { return Ok(()) };
    if set["spec"]["podManagementPolicy"] == "Parallel"
        || judge.is_disturbed(&step.place.0, &app(pod), step.at)
    {
        return Ok(());
    }
    let base = text(&set["metadata"]["name"]);
    let number = |name: &str| name.strip_prefix(base)?.strip_prefix('-')?.parse::<u32>().ok();
    let Some(own) = number(&step.place.1) else { return fail(format!("{} has no ordinal", name(step))) };
    for lower in 0..own {
        let pod = judge.truth.get("pods", &step.place.0, &format!("{base}-{lower}"));
        let taken = judge.is_disturbed(&step.place.0, &format!("{}/taken", base), step.at);
        if !pod.is_some_and(|pod| is_ready(pod)) && !taken {
            return fail(format!("{} before {base}-{lower} is ready", name(step)));
        }
    }
    Ok(())
}

fn daemon_once(judge: &Judge, step: &Step<'_>) -> Result<(), String> {
    let Some(pod) = created(step).filter(|_| step.resource == "pods" && judge.strict.once) else {
        return Ok(());
    };
    let Some(owner) = controlled_by(pod, "DaemonSet") else { return Ok(()) };
    let Some((_, set)) = judge.truth.by_uid(text(&owner["uid"])) else { return Ok(()) };
    let surge = part(&set["spec"]["updateStrategy"]["rollingUpdate"]["maxSurge"], 10, true);
    let (node, limit) = (target(pod), if surge > 0 { 2 } else { 1 });
    let here = judge.truth.pods_of(uid(set)).filter(|pod| is_active(pod) && target(pod) == node).count();
    if here > limit {
        return fail(format!("{}: {here} pods for {node}", name(step)));
    }
    Ok(())
}

/// The node a daemon's pod is made for.
pub fn target(pod: &Value) -> &str {
    let bound = text(&pod["spec"]["nodeName"]);
    if !bound.is_empty() {
        return bound;
    }
    let terms = &pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    text(&terms["nodeSelectorTerms"][0]["matchFields"][0]["values"][0])
}

fn job_counts(judge: &Judge, step: &Step<'_>) -> Result<(), String> {
    let Some(job) = step.new.filter(|_| step.resource == "batch/jobs") else { return Ok(()) };
    let nobody = BTreeSet::new();
    let pods = judge.job_pods.get(uid(job)).unwrap_or(&nobody);
    let succeeded = pods.iter().filter(|pod| judge.ended.get(*pod) == Some(&true)).count() as u64;
    let claimed = job["status"]["succeeded"].as_u64().unwrap_or(0);
    if claimed > succeeded {
        return fail(format!("{}: claims {claimed} of {succeeded} that succeeded", name(step)));
    }
    let gone = |pod: &&String| judge.truth.by_uid(pod).is_none_or(|(_, pod)| is_deleting(pod));
    let failed = pods.iter().filter(|pod| judge.ended.get(*pod) == Some(&false) || gone(pod)).count() as u64;
    let claimed = job["status"]["failed"].as_u64().unwrap_or(0);
    if claimed > failed {
        return fail(format!("{}: claims {claimed} of {failed} that failed", name(step)));
    }
    Ok(())
}

const TRACKING: &str = "batch.kubernetes.io/job-tracking";

fn is_tracked(pod: &Value) -> bool {
    pod["metadata"]["finalizers"].as_array().into_iter().flatten().any(|one| one == TRACKING)
}

fn is_finished(job: &Value) -> bool {
    condition(job, "Complete") == "True" || condition(job, "Failed") == "True"
}

fn job_finalizer(judge: &Judge, step: &Step<'_>) -> Result<(), String> {
    let Some(old) = step.old.filter(|old| step.resource == "pods" && is_tracked(old) && is_over(old)) else {
        return Ok(());
    };
    if step.new.is_some_and(|new| is_tracked(new)) {
        return Ok(());
    }
    let Some(owner) = controller(old).map(|owner| text(&owner["uid"])) else { return Ok(()) };
    let Some((_, job)) = judge.truth.by_uid(owner) else { return Ok(()) };
    // A failure that policy ignores is never counted; an index that succeeded is counted by its number.
    let indexed = job["spec"]["completionMode"] == "Indexed" && old["status"]["phase"] == "Succeeded";
    if indexed || !job["spec"]["podFailurePolicy"].is_null() {
        return Ok(());
    }
    let counted = judge.counted.get(owner).is_some_and(|pods| pods.contains(uid(old)));
    let ending = is_finished(job)
        || condition(job, "FailureTarget") == "True"
        || condition(job, "SuccessCriteriaMet") == "True";
    if counted || is_deleting(job) || ending || is_deleting(old) {
        return Ok(());
    }
    fail(format!("{} was never counted", name(step)))
}

fn job_active(judge: &Judge, step: &Step<'_>) -> Result<(), String> {
    let Some(pod) = created(step).filter(|_| step.resource == "pods" && judge.strict.once) else {
        return Ok(());
    };
    let Some(owner) = controlled_by(pod, "Job") else { return Ok(()) };
    let Some((_, job)) = judge.truth.by_uid(text(&owner["uid"])) else { return Ok(()) };
    let limit = job["spec"]["parallelism"].as_u64().unwrap_or(1);
    let active = || judge.truth.pods_of(uid(job)).filter(|pod| is_active(pod));
    if active().count() as u64 > limit {
        return fail(format!("{}: {} active, {limit} allowed", name(step), active().count()));
    }
    let index =
        |pod: &Value| pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"].clone();
    let own = index(pod);
    if !own.is_null() && active().filter(|pod| index(pod) == own).count() > 1 {
        return fail(format!("{}: index {own} twice", name(step)));
    }
    if is_finished(job) {
        return fail(format!("{}: made after the job's end", name(step)));
    }
    Ok(())
}

fn job_end(_: &Judge, step: &Step<'_>) -> Result<(), String> {
    let (Some(old), Some(new)) = (step.old, step.new) else { return Ok(()) };
    if step.resource != "batch/jobs" || uid(old) != uid(new) {
        return Ok(());
    }
    let both = condition(new, "Complete") == "True" && condition(new, "Failed") == "True";
    let lost = ["Complete", "Failed"]
        .into_iter()
        .any(|kind| condition(old, kind) == "True" && condition(new, kind) != "True");
    if both || lost {
        return fail(format!("{}: {}", name(step), new["status"]));
    }
    if condition(new, "Complete") == "True" && condition(old, "Complete") != "True" {
        let (wanted, got) =
            (new["spec"]["completions"].as_u64(), new["status"]["succeeded"].as_u64().unwrap_or(0));
        if wanted.is_some_and(|wanted| got != wanted) && new["spec"]["successPolicy"].is_null() {
            return fail(format!("{}: complete with {got} of {wanted:?}", name(step)));
        }
    }
    Ok(())
}

fn cron_forbid(judge: &Judge, step: &Step<'_>) -> Result<(), String> {
    let Some(job) = created(step).filter(|_| step.resource == "batch/jobs" && judge.strict.once) else {
        return Ok(());
    };
    let Some(owner) = controlled_by(job, "CronJob") else { return Ok(()) };
    let Some((_, cron)) = judge.truth.by_uid(text(&owner["uid"])) else { return Ok(()) };
    if cron["spec"]["concurrencyPolicy"] == "Allow" {
        return Ok(());
    }
    let others = judge.truth.all("batch/jobs").map(|(_, other)| other);
    let mut others =
        others.filter(|other| uid(other) != uid(job) && !is_finished(other) && !is_deleting(other));
    match others.find(|other| controller(other).is_some_and(|one| one["uid"] == owner["uid"])) {
        Some(other) => fail(format!("{} beside {}", name(step), text(&other["metadata"]["name"]))),
        None => Ok(()),
    }
}

fn quota(judge: &Judge, step: &Step<'_>) -> Result<(), String> {
    let Some(pod) = created(step).filter(|_| step.resource == "pods") else { return Ok(()) };
    for (place, quota) in judge.truth.all("resourcequotas").filter(|(place, _)| place.0 == step.place.0) {
        let Some(hard) = quota["status"]["hard"]["pods"].as_str().and_then(|hard| hard.parse::<usize>().ok())
        else {
            continue;
        };
        let pods = judge.truth.all("pods").filter(|(at, pod)| at.0 == place.0 && !is_over(pod));
        let count = pods.count();
        if count > hard {
            return fail(format!("{}: {count} pods, {hard} allowed by {}", name(step), place.1));
        }
    }
    let _ = pod;
    Ok(())
}

fn preemption(judge: &Judge, step: &Step<'_>) -> Result<(), String> {
    let Some(pod) = step.new.filter(|_| step.resource == "pods") else { return Ok(()) };
    let preempted = |pod: &Arc<Value>| reason(pod, "DisruptionTarget") == "PreemptionByScheduler";
    if !preempted(pod) || step.old.is_none_or(|old| preempted(old)) {
        return Ok(());
    }
    let waits = |uid: &str| {
        let known = judge.truth.by_uid(uid);
        known.is_some_and(|(_, pod)| is_active(pod) && text(&pod["spec"]["nodeName"]).is_empty())
    };
    let mut others = judge.waited.iter().filter(|(_, (other, _))| *other > priority(pod));
    if others.any(|(uid, (_, at))| waits(uid) || step.at.saturating_sub(*at) < WINDOW) {
        return Ok(());
    }
    fail(format!("{} of priority {} for nobody", name(step), priority(pod)))
}
