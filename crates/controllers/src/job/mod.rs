//! Jobs: pods run until enough have succeeded, or too many have failed. Watches Jobs and pods.

mod indexes;
mod plan;
mod policy;
mod work;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::k8s::api::batch::v1::Job;
use api::k8s::api::core::v1::Pod;
use api::labels::Selector;
use client::{Cache, Key, Meta, Plan, Reconcile, ReconcileError};
use jiff::Timestamp;
use parking_lot::Mutex;

use crate::context::{Context, ORPHANS, controller_of, index_orphans, is_kind};
use crate::owner;

/// The index of pods by `namespace/job`.
const BY_JOB: &str = "job";
/// Delay before the first replacement of a failed pod, and the longest one.
const FIRST_DELAY: Duration = Duration::from_secs(10);
const LONGEST_DELAY: Duration = Duration::from_secs(600);

/// The delay before pods are made again after this many failures in a row.
pub(crate) fn delay_after(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        count => LONGEST_DELAY.min(FIRST_DELAY * 2_u32.saturating_pow((count - 1).min(16))),
    }
}

/// Failures in a row of one Job.
#[derive(Clone, Debug, Default)]
struct Failures {
    count: u32,
    last: Option<Timestamp>,
    uid: String,
}

struct Controller {
    jobs: Cache<Job>,
    pods: Cache<Pod>,
    failures: Mutex<BTreeMap<Key, Failures>>,
}

impl Controller {
    /// Notes pods that finished since the last look; returns how long to wait before new pods are made.
    fn delay(&self, key: &Key, uid: &str, done: &work::Finished, now: Timestamp) -> Duration {
        let mut all = self.failures.lock();
        let entry = all.entry(key.clone()).or_default();
        if entry.uid != uid {
            *entry = Failures { uid: uid.to_owned(), ..Failures::default() };
        }
        if done.new_successes > 0 {
            entry.count = 0;
        }
        if done.new_failures > 0 {
            entry.count = entry.count.saturating_add(u32::try_from(done.new_failures).unwrap_or(u32::MAX));
            entry.last = entry.last.max(done.last_failure);
        }
        let Some(last) = entry.last else { return Duration::ZERO };
        let due = last + delay_after(entry.count);
        if entry.count == 0 {
            Duration::ZERO
        } else {
            Duration::try_from(due.duration_since(now)).unwrap_or_default()
        }
    }
}

/// The key under which pods that no Job controls are looked at, a namespace at a time.
fn orphans_of(namespace: &str) -> Key {
    Key::new(namespace, "")
}

impl Controller {
    /// Pods that were let go while they were tracked, and that no Job will take.
    fn abandoned(&self, namespace: &str) -> Vec<Arc<Pod>> {
        let jobs = self.jobs.namespace(namespace);
        let wanted = |pod: &Pod| {
            jobs.iter().any(|job| {
                let selector = job.spec.as_ref().map(|spec| Selector::from_object(spec.selector.as_ref()));
                let selects = matches!(selector, Some(Ok(selector)) if selector.matches_opt(pod.meta().labels.as_ref()));
                selects && !job.is_deleting() && !work::is_finished(job)
            })
        };
        let mut pods = self.pods.by_index(ORPHANS, namespace);
        pods.retain(|pod| work::is_tracked(pod) && (pod.is_deleting() || !wanted(pod)));
        pods
    }
}

impl Reconcile for Controller {
    fn reconcile(&self, key: &Key, now: Timestamp) -> Result<Plan, ReconcileError> {
        if key.name.is_empty() {
            return Ok(plan::strip(&self.abandoned(&key.namespace)));
        }
        let Some(job) = self.jobs.get_key(key) else {
            self.failures.lock().remove(key);
            return Ok(plan::strip(&self.pods.by_index(BY_JOB, &key.to_string())));
        };
        let Some(spec) = &job.spec else { return Ok(Plan::none()) };
        if spec.managed_by.as_deref().is_some_and(|manager| manager != "kubernetes.io/job-controller") {
            return Ok(Plan::none());
        }
        if work::is_finished(&job) {
            self.failures.lock().remove(key);
            return Ok(plan::strip(&self.pods.owned_by(job.uid())));
        }
        let selector = Selector::from_object(spec.selector.as_ref())
            .map_err(|error| ReconcileError::Object(error.to_string()))?;
        let mut claimed = owner::claim(&*job, &selector, &self.pods, |_| true);
        plan::track_adopted(&job, &mut claimed);
        let finished = work::Finished::of(&job, spec, &claimed.objects);
        let delay = self.delay(key, job.uid(), &finished, now);
        Ok(plan::plan(&job, spec, claimed, finished, delay, now))
    }
}

/// Starts the controller.
pub fn start(context: &Context) {
    let mut setup = context.setup("job-controller", "job-controller");
    let jobs = setup.watch::<Job>();
    let pods = setup.watch::<Pod>();
    index_orphans(pods.cache());
    let by_job = |pod: &Pod| {
        let owner = controller_of(pod).filter(|owner| is_kind::<Job>(owner));
        owner.map(|owner| Key::new(pod.namespace(), &owner.name).to_string()).into_iter().collect()
    };
    pods.cache().add_index(BY_JOB, Arc::new(by_job));
    setup.enqueue(&jobs);
    setup.map_claimed(&jobs, &pods, |owner: &Job| {
        owner.spec.as_ref().and_then(|spec| Selector::from_object(spec.selector.as_ref()).ok())
    });
    setup.map(&pods, |change| {
        let pod = change.object();
        let lost = work::is_tracked(pod) && controller_of(&**pod).is_none();
        if lost { vec![orphans_of(pod.namespace())] } else { Vec::new() }
    });
    let controller =
        Controller { jobs: jobs.cache().clone(), pods: pods.cache().clone(), failures: Mutex::default() };
    setup.start(Arc::new(controller), 5);
}

#[cfg(test)]
mod tests;
