//! The plan for one CronJob: what ended, what to remove, whether it is time, when to look again.

use std::sync::Arc;
use std::time::Duration;

use api::k8s::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use api::k8s::api::core::v1::ObjectReference;
use api::k8s::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use client::plan::{About, Report};
use client::{DeleteOptions, EventKind, Meta, Plan, Propagation, Step};
use jiff::Timestamp;

use super::schedule::Schedule;
use crate::owner::controller_ref;

const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// More missed times than this are told as a warning.
const MANY_MISSED: usize = 100;

/// `Complete` or `Failed`, if the Job has ended.
fn ended(job: &Job) -> Option<&str> {
    let status = job.status.as_ref()?;
    let done = |kind: &str| {
        status
            .conditions
            .iter()
            .flatten()
            .any(|condition| condition.type_ == kind && condition.status == "True")
    };
    ["Complete", "Failed"].into_iter().find(|kind| done(kind))
}

/// The name of the Job of a scheduled time: a second try makes no second Job.
fn job_name(cron: &str, due: Timestamp) -> String {
    format!("{cron}-{}", due.as_second() / 60)
}

struct Work<'a> {
    cron: &'a CronJob,
    spec: &'a CronJobSpec,
    status: CronJobStatus,
    plan: Plan,
    now: Timestamp,
}

/// What to do about one CronJob and its Jobs.
pub fn plan(
    cron: &CronJob,
    jobs: &[Arc<Job>],
    find: &dyn Fn(&str) -> Option<Arc<Job>>,
    now: Timestamp,
) -> Plan {
    let spec = &cron.spec;
    let status = cron.status.clone().unwrap_or_default();
    let mut work = Work { cron, spec, status, plan: Plan::none(), now };
    work.clean_history(jobs);
    work.note_ended(jobs, find);
    if !cron.is_deleting() {
        work.run(find);
    }
    if work.status.active.as_ref().is_some_and(Vec::is_empty) {
        work.status.active = None;
    }
    if cron.status.as_ref() != Some(&work.status)
        && (cron.status.is_some() || work.status != CronJobStatus::default())
    {
        let mut after = cron.clone();
        after.status = Some(work.status);
        work.plan.update_status(&after);
    }
    work.plan
}

impl Work<'_> {
    fn event(&mut self, kind: EventKind, reason: &str, text: String) {
        self.plan.event(self.cron, kind, reason, text);
    }

    fn delete(&mut self, job: &Job) {
        let options = DeleteOptions::uid(job.uid()).propagate(Propagation::Background);
        let told = Report {
            about: About::of(self.cron),
            done: ("SuccessfulDelete", "Deleted job ".to_owned()),
            failed: ("FailedDelete", "Deleted job: ".to_owned()),
        };
        self.plan.step(Step::delete(job, options).reported(told));
    }

    fn clean_history(&mut self, jobs: &[Arc<Job>]) {
        for (kind, limit) in [
            ("Complete", self.spec.successful_jobs_history_limit.unwrap_or(3)),
            ("Failed", self.spec.failed_jobs_history_limit.unwrap_or(1)),
        ] {
            let mut done: Vec<&Arc<Job>> =
                jobs.iter().filter(|job| ended(job) == Some(kind) && !job.is_deleting()).collect();
            done.sort_by_key(|job| {
                let start = job.status.as_ref().and_then(|status| status.start_time.clone());
                (start, job.name().to_owned())
            });
            let excess = done.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
            for job in &done[..excess] {
                self.delete(job);
            }
        }
    }

    fn is_active(&self, uid: &str) -> bool {
        self.status.active.iter().flatten().any(|active| active.uid.as_deref() == Some(uid))
    }

    /// True for the Job made at the last scheduled time.
    fn is_latest(&self, job: &str) -> bool {
        let last = self.status.last_schedule_time.as_ref();
        last.is_some_and(|at| job == job_name(self.cron.name(), at.0))
    }

    fn drop_active(&mut self, uid: &str) {
        if let Some(active) = &mut self.status.active {
            active.retain(|reference| reference.uid.as_deref() != Some(uid));
        }
    }

    fn note_ended(&mut self, jobs: &[Arc<Job>], find: &dyn Fn(&str) -> Option<Arc<Job>>) {
        for job in jobs {
            let listed = self.is_active(job.uid());
            match ended(job) {
                None if !listed && self.is_latest(job.name()) => self.add_active(job),
                None if !listed => {
                    let name = job.name();
                    let text = format!("Saw a job that the controller did not create or forgot: {name}");
                    self.event(EventKind::Warning, "UnexpectedJob", text);
                }
                Some(kind) if listed => {
                    self.drop_active(job.uid());
                    let text = format!("Saw completed job: {}, condition: {kind}", job.name());
                    self.event(EventKind::Normal, "SawCompletedJob", text);
                }
                _ => {}
            }
            if ended(job) == Some("Complete") {
                let time = job.status.as_ref().and_then(|status| status.completion_time.clone());
                if time > self.status.last_successful_time {
                    self.status.last_successful_time = time;
                }
            }
        }
        for reference in self.status.active.clone().unwrap_or_default() {
            let (name, uid) = (reference.name.unwrap_or_default(), reference.uid.unwrap_or_default());
            if find(&name).is_none_or(|job| job.uid() != uid) {
                self.event(EventKind::Normal, "MissingJob", format!("Active job went missing: {name}"));
                self.drop_active(&uid);
            }
        }
    }

    fn add_active(&mut self, job: &Job) {
        let reference = ObjectReference {
            api_version: Some("batch/v1".to_owned()),
            kind: Some("Job".to_owned()),
            name: job.metadata.name.clone(),
            namespace: job.metadata.namespace.clone(),
            uid: job.metadata.uid.clone(),
            resource_version: job.metadata.resource_version.clone(),
            ..ObjectReference::default()
        };
        self.status.active.get_or_insert_default().push(reference);
    }

    fn run(&mut self, find: &dyn Fn(&str) -> Option<Arc<Job>>) {
        if self.spec.suspend == Some(true) {
            return;
        }
        let schedule = match Schedule::parse(&self.spec.schedule, self.spec.time_zone.as_deref()) {
            Ok(schedule) => schedule,
            Err(error) => {
                let text = format!("unparseable schedule: {:?} : {error}", self.spec.schedule);
                return self.event(EventKind::Warning, "UnparseableSchedule", text);
            }
        };
        if let Some(next) = schedule.next(self.now) {
            let wait = Duration::try_from(next.duration_since(self.now)).unwrap_or(Duration::ZERO);
            self.plan.requeue(wait);
        }
        let Some(due) = self.last_due(&schedule) else { return };
        if self
            .spec
            .starting_deadline_seconds
            .is_some_and(|limit| due.as_second().saturating_add(limit) < self.now.as_second())
        {
            let text =
                format!("Missed scheduled time to start a job: {}", due.strftime("%a, %d %b %Y %H:%M:%S %z"));
            return self.event(EventKind::Warning, "MissSchedule", text);
        }
        let name = job_name(self.cron.name(), due);
        if self.status.active.iter().flatten().any(|active| active.name.as_deref() == Some(&name))
            || self.status.last_schedule_time.as_ref().is_some_and(|last| last.0 == due)
        {
            return;
        }
        let active = self.status.active.clone().unwrap_or_default();
        match self.spec.concurrency_policy.as_deref() {
            Some("Forbid") if !active.is_empty() => {
                let text =
                    "Not starting job because prior execution is running and concurrency policy is Forbid";
                return self.event(EventKind::Normal, "JobAlreadyActive", text.to_owned());
            }
            Some("Replace") => {
                for reference in active {
                    if let Some(job) = find(reference.name.as_deref().unwrap_or("")) {
                        self.delete(&job);
                        self.drop_active(job.uid());
                    }
                }
            }
            _ => {}
        }
        self.create(&schedule, &name, due, find);
    }

    /// The latest time that has come since the last one used.
    fn last_due(&mut self, schedule: &Schedule) -> Option<Timestamp> {
        let created = self.cron.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let mut earliest = self.status.last_schedule_time.as_ref().map(|time| time.0).or(created)?;
        if let Some(limit) = self.spec.starting_deadline_seconds
            && let Ok(bound) = Timestamp::from_second(self.now.as_second().saturating_sub(limit))
        {
            earliest = earliest.max(bound);
        }
        let (mut due, mut at, mut missed) = (None, earliest, 0_usize);
        while let Some(next) = schedule.next(at).filter(|next| *next <= self.now) {
            due = Some(next);
            missed += 1;
            at = next;
            if missed > MANY_MISSED {
                // Far behind: jump close to now instead of counting every minute of a year.
                let period = schedule.next(next).map(|after| after.duration_since(next)).unwrap_or_default();
                let jump = self.now - period * 2;
                at = at.max(jump);
            }
        }
        if missed > MANY_MISSED {
            let text = format!(
                "too many missed start times: {missed}. Set or decrease .spec.startingDeadlineSeconds or check clock skew"
            );
            self.event(EventKind::Warning, "TooManyMissedTimes", text);
        }
        due
    }

    fn create(
        &mut self,
        schedule: &Schedule,
        name: &str,
        due: Timestamp,
        find: &dyn Fn(&str) -> Option<Arc<Job>>,
    ) {
        if let Some(job) = find(name) {
            // Made before, by a run whose status was not written.
            if !self.is_active(job.uid()) && ended(&job).is_none() {
                self.add_active(&job);
            }
            self.status.last_schedule_time = Some(Time(due));
            return;
        }
        let template = &self.spec.job_template;
        let meta = template.metadata.clone().unwrap_or_default();
        let mut annotations = meta.annotations.unwrap_or_default();
        let at = due.to_zoned(schedule.zone().clone());
        let offset = if at.offset().is_zero() { "Z".to_owned() } else { at.strftime("%:z").to_string() };
        annotations.insert(SCHEDULED_AT.to_owned(), format!("{}{offset}", at.strftime("%Y-%m-%dT%H:%M:%S")));
        let job = Job {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: self.cron.metadata.namespace.clone(),
                labels: meta.labels,
                annotations: Some(annotations),
                owner_references: Some(vec![controller_ref(self.cron)]),
                ..ObjectMeta::default()
            },
            spec: template.spec.clone(),
            status: None,
        };
        let told = Report {
            about: About::of(self.cron),
            done: ("SuccessfulCreate", "Created job ".to_owned()),
            failed: ("FailedCreate", "Error creating job: ".to_owned()),
        };
        // The Job enters the list of active ones when the cache shows it; its time is noted at once.
        self.plan.step(Step::create(&job).or_exists().reported(told));
        self.status.last_schedule_time = Some(Time(due));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn cron(more: Value) -> CronJob {
        let mut spec = json!({"schedule": "*/5 * * * *", "jobTemplate": {"spec": {"template": {}}}});
        for (key, value) in more.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        serde_json::from_value(json!({
            "metadata": {"name": "c", "namespace": "n", "uid": "C", "creationTimestamp": "2030-01-01T00:00:00Z"},
            "spec": spec,
        }))
        .expect("a CronJob")
    }

    fn job(name: &str, condition: Option<&str>) -> Arc<Job> {
        let conditions: Vec<Value> =
            condition.iter().map(|kind| json!({"type": kind, "status": "True"})).collect();
        let job = json!({
            "metadata": {"name": name, "namespace": "n", "uid": name}, "status": {"conditions": conditions},
        });
        Arc::new(serde_json::from_value(job).expect("a Job"))
    }

    fn steps(cron: &CronJob, jobs: &[Arc<Job>], now: &str) -> (Vec<String>, Option<u64>) {
        let find = |name: &str| jobs.iter().find(|job| job.name() == name).cloned();
        let plan = plan(cron, jobs, &find, now.parse().expect("a time"));
        let steps = plan.steps().iter().map(|step| step.summary()).collect();
        (steps, plan.requeue_after.map(|wait| wait.as_secs()))
    }

    #[test]
    fn jobs_are_made_on_time() {
        assert_eq!(steps(&cron(Value::Null), &[], "2030-01-01T00:03:00Z"), (vec![], Some(120)));
        let (made, wait) = steps(&cron(Value::Null), &[], "2030-01-01T00:05:00Z");
        assert_eq!(made, ["create jobs.batch n/c-31557605", "update cronjobs.batch/status n/c"]);
        assert_eq!(wait, Some(300));
        assert_eq!(
            steps(&cron(json!({"suspend": true})), &[], "2030-01-01T00:05:00Z").0,
            Vec::<String>::new()
        );
    }

    #[test]
    fn running_jobs_forbid_or_are_replaced() {
        let mut cron = cron(json!({"concurrencyPolicy": "Forbid"}));
        let running = [job("old", None)];
        cron.status =
            serde_json::from_value(json!({"active": [{"name": "old", "uid": "old"}]})).expect("a status");
        let (told, _) = steps(&cron, &running, "2030-01-01T00:05:00Z");
        assert!(told.len() == 1 && told[0].contains("JobAlreadyActive"), "{told:?}");
        cron.spec.concurrency_policy = Some("Replace".into());
        let (made, _) = steps(&cron, &running, "2030-01-01T00:05:00Z");
        assert_eq!(made[0], "delete jobs.batch n/old");
        assert!(made[1].starts_with("create jobs.batch"));
    }

    #[test]
    fn only_jobs_of_the_schedule_count_as_active() {
        let mut cron = cron(json!({"concurrencyPolicy": "Forbid"}));
        let by_hand = [job("by-hand", None)];
        let (told, _) = steps(&cron, &by_hand, "2030-01-01T00:03:00Z");
        assert!(told.len() == 1 && told[0].contains("UnexpectedJob"), "{told:?}");
        let (made, _) = steps(&cron, &by_hand, "2030-01-01T00:05:00Z");
        assert!(made.iter().any(|step| step.starts_with("create jobs.batch")), "{made:?}");
        cron.status =
            serde_json::from_value(json!({"lastScheduleTime": "2030-01-01T00:05:00Z"})).expect("a status");
        let (noted, _) = steps(&cron, &[job("c-31557605", None)], "2030-01-01T00:05:01Z");
        assert_eq!(noted, ["update cronjobs.batch/status n/c"]);
    }

    #[test]
    fn history_is_cleaned_and_completion_noted() {
        let jobs: Vec<Arc<Job>> =
            ["a", "b", "c", "d"].iter().map(|name| job(name, Some("Complete"))).collect();
        let (gone, _) = steps(&cron(Value::Null), &jobs, "2030-01-01T00:01:00Z");
        assert_eq!(gone, ["delete jobs.batch n/a"]);
    }
}
