//! Defaults of the workload kinds: apps, batch, autoscaling.

use serde_json::{Value, json};

use super::{core, fill, pod};
use crate::tree::Tree;

fn template(o: &mut Value, path: &str) {
    if let Some(template) = o.at_mut(path) {
        pod::template(template);
    }
}

pub fn deployment(d: &mut Value) {
    fill(
        d,
        &[
            ("spec.replicas", json!(1)),
            ("spec.strategy.type", json!("RollingUpdate")),
            ("spec.revisionHistoryLimit", json!(10)),
            ("spec.progressDeadlineSeconds", json!(600)),
        ],
    );
    if d.text("spec.strategy.type") == "RollingUpdate" {
        fill(
            d,
            &[
                ("spec.strategy.rollingUpdate.maxUnavailable", json!("25%")),
                ("spec.strategy.rollingUpdate.maxSurge", json!("25%")),
            ],
        );
    }
    template(d, "spec.template");
}

pub fn daemon_set(d: &mut Value) {
    fill(
        d,
        &[("spec.updateStrategy.type", json!("RollingUpdate")), ("spec.revisionHistoryLimit", json!(10))],
    );
    if d.text("spec.updateStrategy.type") == "RollingUpdate" {
        fill(
            d,
            &[
                ("spec.updateStrategy.rollingUpdate.maxUnavailable", json!(1)),
                ("spec.updateStrategy.rollingUpdate.maxSurge", json!(0)),
            ],
        );
    }
    template(d, "spec.template");
}

pub fn stateful_set(s: &mut Value) {
    fill(
        s,
        &[
            ("spec.podManagementPolicy", json!("OrderedReady")),
            ("spec.persistentVolumeClaimRetentionPolicy.whenDeleted", json!("Retain")),
            ("spec.persistentVolumeClaimRetentionPolicy.whenScaled", json!("Retain")),
            ("spec.replicas", json!(1)),
            ("spec.revisionHistoryLimit", json!(10)),
        ],
    );
    if s.set_default("spec.updateStrategy.type", "RollingUpdate") {
        s.set_default("spec.updateStrategy.rollingUpdate", json!({}));
    }
    if s.text("spec.updateStrategy.type") == "RollingUpdate" && s.has("spec.updateStrategy.rollingUpdate") {
        s.set_default("spec.updateStrategy.rollingUpdate.partition", 0);
    }
    template(s, "spec.template");
    for claim in s.list_mut("spec.volumeClaimTemplates") {
        claim.set("apiVersion", "v1");
        claim.set("kind", "PersistentVolumeClaim");
        core::claim(claim);
    }
}

pub fn replica_set(r: &mut Value) {
    r.set_default("spec.replicas", 1);
    template(r, "spec.template");
}

pub fn job(j: &mut Value) {
    if !j.map("spec.template.metadata.labels").contains_key("batch.kubernetes.io/controller-uid") {
        job_labels(j);
    }
    job_spec(j);
}

/// A job without labels has its template's. Those that the server gave the template are only taken over when all
/// has been found right.
pub fn job_labels(j: &mut Value) {
    let labels = j.at("spec.template.metadata.labels").clone();
    if labels.is_object() && j.map("metadata.labels").is_empty() {
        j.set("metadata.labels", labels);
    }
}

/// Defaults of a job's spec. Only jobs get them; the job template of a CronJob does not.
fn job_spec(j: &mut Value) {
    if !j.has("spec.completions") && !j.has("spec.parallelism") {
        j.set("spec.completions", 1);
    }
    let replacement = if j.has("spec.podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    let backoff = if j.has("spec.backoffLimitPerIndex") { i32::MAX } else { 6 };
    fill(
        j,
        &[
            ("spec.parallelism", json!(1)),
            ("spec.backoffLimit", json!(backoff)),
            ("spec.completionMode", json!("NonIndexed")),
            ("spec.suspend", json!(false)),
            ("spec.podReplacementPolicy", json!(replacement)),
            ("spec.manualSelector", json!(false)),
        ],
    );
    failure_policy(j, "spec.podFailurePolicy.rules");
    template(j, "spec.template");
}

fn failure_policy(o: &mut Value, path: &str) {
    for rule in o.list_mut(path) {
        for pattern in rule.list_mut("onPodConditions") {
            if pattern.text("status").is_empty() {
                pattern.set("status", "True");
            }
        }
    }
}

pub fn cron_job(c: &mut Value) {
    fill(
        c,
        &[
            ("spec.concurrencyPolicy", json!("Allow")),
            ("spec.suspend", json!(false)),
            ("spec.successfulJobsHistoryLimit", json!(3)),
            ("spec.failedJobsHistoryLimit", json!(1)),
        ],
    );
    failure_policy(c, "spec.jobTemplate.spec.podFailurePolicy.rules");
    template(c, "spec.jobTemplate.spec.template");
}

pub fn hpa_v1(h: &mut Value) {
    const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
    h.set_default("spec.minReplicas", 1);
    if !h.map("metadata.annotations").contains_key(METRICS) {
        h.set_default("spec.targetCPUUtilizationPercentage", 80);
    }
}

pub fn hpa_v2(h: &mut Value) {
    h.set_default("spec.minReplicas", 1);
    if h.list("spec.metrics").is_empty() {
        let cpu = json!([{"type": "Resource", "resource": {"name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": 80}}}]);
        h.set("spec.metrics", cpu);
    }
    if !h.has("spec.behavior") {
        return;
    }
    let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
    let pods = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
    fill(
        h,
        &[
            ("spec.behavior.scaleUp.stabilizationWindowSeconds", json!(0)),
            ("spec.behavior.scaleUp.selectPolicy", json!("Max")),
            ("spec.behavior.scaleUp.policies", json!([pods, percent])),
            ("spec.behavior.scaleDown.selectPolicy", json!("Max")),
            ("spec.behavior.scaleDown.policies", json!([percent])),
        ],
    );
}
