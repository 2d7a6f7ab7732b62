//! Finished Jobs with a time to live are removed when it is over. Watches Jobs.

use std::sync::Arc;
use std::time::Duration;

use api::k8s::api::batch::v1::Job;
use client::{Cache, DeleteOptions, Key, Meta, Plan, Propagation, Reconcile, ReconcileError, Step};
use jiff::Timestamp;

use crate::context::Context;

struct Controller {
    jobs: Cache<Job>,
}

impl Reconcile for Controller {
    fn reconcile(&self, key: &Key, now: Timestamp) -> Result<Plan, ReconcileError> {
        Ok(self.jobs.get_key(key).map(|job| plan(&job, now)).unwrap_or_default())
    }
}

/// When the Job ended, if it has.
fn finished_at(job: &Job) -> Option<Timestamp> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let ended = conditions.iter().find(|condition| {
        matches!(condition.type_.as_str(), "Complete" | "Failed") && condition.status == "True"
    })?;
    ended.last_transition_time.as_ref().map(|time| time.0)
}

fn plan(job: &Job, now: Timestamp) -> Plan {
    let mut plan = Plan::none();
    let ttl = job.spec.as_ref().and_then(|spec| spec.ttl_seconds_after_finished);
    let (Some(ttl), Some(at)) = (ttl, finished_at(job)) else { return plan };
    if job.is_deleting() {
        return plan;
    }
    let due = at + Duration::from_secs(u64::try_from(ttl).unwrap_or(0));
    let left = Duration::try_from(due.duration_since(now)).unwrap_or(Duration::ZERO);
    if left.is_zero() {
        let options = DeleteOptions::uid(job.uid()).propagate(Propagation::Foreground);
        plan.step(Step::delete(job, options));
    } else {
        plan.requeue(left);
    }
    plan
}

/// Starts the controller.
pub fn start(context: &Context) {
    let mut setup = context.setup("ttl-after-finished-controller", "ttl-after-finished-controller");
    let jobs = setup.watch::<Job>();
    setup.map(&jobs, |change| {
        let job = change.object();
        let has_ttl = job.spec.as_ref().is_some_and(|spec| spec.ttl_seconds_after_finished.is_some());
        if has_ttl && finished_at(job).is_some() { vec![Key::of(&**job)] } else { Vec::new() }
    });
    setup.start(Arc::new(Controller { jobs: jobs.cache().clone() }), 2);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn waits_then_removes() {
        let job: Job = serde_json::from_value(json!({
            "metadata": {"name": "j", "namespace": "n", "uid": "J"},
            "spec": {"ttlSecondsAfterFinished": 60, "template": {}},
            "status": {"conditions": [
                {"type": "Complete", "status": "True", "lastTransitionTime": "1970-01-01T00:00:00Z"},
            ]},
        }))
        .expect("a Job");
        let at = |seconds| Timestamp::from_second(seconds).expect("a time");
        assert_eq!(plan(&job, at(20)).requeue_after, Some(Duration::from_secs(40)));
        assert_eq!(plan(&job, at(60)).steps()[0].summary(), "delete jobs.batch n/j");
    }
}
