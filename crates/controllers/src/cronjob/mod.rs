//! CronJobs: Jobs made on a schedule. Watches CronJobs and Jobs.

mod plan;
mod schedule;

use std::sync::Arc;

use api::k8s::api::batch::v1::{CronJob, Job};
use client::{Cache, Key, Meta, Plan, Reconcile, ReconcileError};
use jiff::Timestamp;

use crate::context::Context;
use crate::owner::is_controlled_by;

struct Controller {
    crons: Cache<CronJob>,
    jobs: Cache<Job>,
}

impl Reconcile for Controller {
    fn reconcile(&self, key: &Key, now: Timestamp) -> Result<Plan, ReconcileError> {
        let Some(cron) = self.crons.get_key(key) else { return Ok(Plan::none()) };
        let mut jobs = self.jobs.owned_by(cron.uid());
        jobs.retain(|job| is_controlled_by(&**job, cron.uid()));
        let find = |name: &str| self.jobs.get(cron.namespace(), name);
        Ok(plan::plan(&cron, &jobs, &find, now))
    }
}

/// Starts the controller.
pub fn start(context: &Context) {
    let mut setup = context.setup("cronjob-controller", "cronjob-controller");
    let crons = setup.watch::<CronJob>();
    let jobs = setup.watch::<Job>();
    setup.enqueue(&crons);
    setup.map_owner::<CronJob, Job>(&jobs, |_| Vec::new());
    let controller = Controller { crons: crons.cache().clone(), jobs: jobs.cache().clone() };
    setup.start(Arc::new(controller), 5);
}
