//! Deployments and the other workloads.

use serde_json::Value;

use super::Related;
use super::doc::{Doc, int, list, or_none, scalar, selector, text};
use super::pod::template;
use crate::print::age;

/// A deployment.
pub fn deployment(doc: &mut Doc, object: &Value, related: &Related) {
    doc.field(0, "Name", text(object, "/metadata/name"));
    doc.field(0, "Namespace", text(object, "/metadata/namespace"));
    created(doc, object);
    doc.meta(object);
    doc.field(0, "Selector", &selector(&object["spec"]["selector"]));
    let status = |field: &str| int(object, &format!("/status/{field}"));
    doc.field(
        0,
        "Replicas",
        &format!(
            "{} desired | {} updated | {} total | {} available | {} unavailable",
            int(object, "/spec/replicas"),
            status("updatedReplicas"),
            status("replicas"),
            status("availableReplicas"),
            status("unavailableReplicas")
        ),
    );
    doc.field(0, "StrategyType", text(object, "/spec/strategy/type"));
    doc.field(0, "MinReadySeconds", &int(object, "/spec/minReadySeconds").to_string());
    let rolling = &object["spec"]["strategy"]["rollingUpdate"];
    if rolling.is_object() {
        let (unavailable, surge) = (scalar(rolling, "/maxUnavailable"), scalar(rolling, "/maxSurge"));
        doc.field(0, "RollingUpdateStrategy", &format!("{unavailable} max unavailable, {surge} max surge"));
    }
    template(doc, &object["spec"]["template"]);
    doc.conditions(object);
    replica_sets(doc, object, related);
    related.events(doc);
}

fn created(doc: &mut Doc, object: &Value) {
    let time = doc.time(text(object, "/metadata/creationTimestamp"));
    doc.field(0, "CreationTimestamp", &time);
}

/// Templates without the label that tells replica sets apart.
fn plain_template(object: &Value) -> Value {
    let mut template = object["spec"]["template"].clone();
    if let Some(labels) = template.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.remove("pod-template-hash");
    }
    template
}

fn replica_sets(doc: &mut Doc, object: &Value, related: &Related) {
    let own = related.owned("replicasets", object);
    let wanted = plain_template(object);
    let mut sorted = own;
    sorted.sort_by_key(|set| {
        (text(set, "/metadata/creationTimestamp").to_owned(), text(set, "/metadata/name").to_owned())
    });
    let new = sorted.iter().position(|set| plain_template(set) == wanted);
    let old: Vec<&Value> =
        sorted.iter().enumerate().filter(|(at, _)| Some(*at) != new).map(|(_, set)| *set).collect();
    let show = |sets: &[&Value]| {
        let one = |set: &&Value| {
            let (has, wants) = (int(set, "/status/replicas"), int(set, "/spec/replicas"));
            format!("{} ({has}/{wants} replicas created)", text(set, "/metadata/name"))
        };
        let all: Vec<String> = sets.iter().map(one).collect();
        or_none(&all.join(", ")).to_owned()
    };
    if !sorted.is_empty() {
        doc.field(0, "OldReplicaSets", &show(&old));
        let new: Vec<&Value> = new.and_then(|at| sorted.get(at).copied()).into_iter().collect();
        doc.field(0, "NewReplicaSet", &show(&new));
    }
}

fn pods_status(doc: &mut Doc, object: &Value, related: &Related) {
    let pods = related.owned("pods", object);
    let count = |phase: &str| pods.iter().filter(|pod| pod["status"]["phase"] == phase).count();
    let line = format!(
        "{} Running / {} Waiting / {} Succeeded / {} Failed",
        count("Running"),
        count("Pending"),
        count("Succeeded"),
        count("Failed")
    );
    doc.field(0, "Pods Status", &line);
}

/// A replica set or replication controller.
pub fn replica_set(doc: &mut Doc, object: &Value, related: &Related) {
    doc.field(0, "Name", text(object, "/metadata/name"));
    doc.field(0, "Namespace", text(object, "/metadata/namespace"));
    let held = &object["spec"]["selector"];
    let shown = if object["kind"] == "ReplicationController" {
        crate::print::table::labels_text(held)
    } else {
        selector(held)
    };
    doc.field(0, "Selector", or_none(&shown));
    doc.meta(object);
    doc.controller(object);
    let (has, wants) = (int(object, "/status/replicas"), int(object, "/spec/replicas"));
    doc.field(0, "Replicas", &format!("{has} current / {wants} desired"));
    pods_status(doc, object, related);
    template(doc, &object["spec"]["template"]);
    doc.conditions(object);
    related.events(doc);
}

/// A stateful set.
pub fn stateful_set(doc: &mut Doc, object: &Value, related: &Related) {
    doc.field(0, "Name", text(object, "/metadata/name"));
    doc.field(0, "Namespace", text(object, "/metadata/namespace"));
    created(doc, object);
    doc.field(0, "Selector", &selector(&object["spec"]["selector"]));
    doc.meta(object);
    let (wants, has) = (int(object, "/spec/replicas"), int(object, "/status/replicas"));
    doc.field(0, "Replicas", &format!("{wants} desired | {has} total"));
    doc.field(0, "Update Strategy", text(object, "/spec/updateStrategy/type"));
    let partition = scalar(object, "/spec/updateStrategy/rollingUpdate/partition");
    if !partition.is_empty() {
        doc.field(1, "Partition", &partition);
        doc.field_if(
            1,
            "MaxUnavailable",
            &scalar(object, "/spec/updateStrategy/rollingUpdate/maxUnavailable"),
        );
    }
    pods_status(doc, object, related);
    template(doc, &object["spec"]["template"]);
    let claims = list(object, "/spec/volumeClaimTemplates");
    doc.line(0, if claims.is_empty() { "Volume Claims:\t<none>" } else { "Volume Claims:" });
    for claim in claims {
        doc.field(1, "Name", text(claim, "/metadata/name"));
        doc.field(1, "StorageClass", text(claim, "/spec/storageClassName"));
        doc.labels("  Labels", &claim["metadata"]["labels"]);
        doc.labels("  Annotations", &claim["metadata"]["annotations"]);
        let capacity = scalar(claim, "/spec/resources/requests/storage");
        doc.field(1, "Capacity", if capacity.is_empty() { "<default>" } else { &capacity });
        doc.field(1, "Access Modes", &scalar(claim, "/spec/accessModes"));
    }
    related.events(doc);
}

/// A daemon set.
pub fn daemon_set(doc: &mut Doc, object: &Value, related: &Related) {
    doc.field(0, "Name", text(object, "/metadata/name"));
    doc.field(0, "Namespace", text(object, "/metadata/namespace"));
    doc.field(0, "Selector", &selector(&object["spec"]["selector"]));
    doc.field(
        0,
        "Node-Selector",
        &crate::print::table::labels_text(&object["spec"]["template"]["spec"]["nodeSelector"]),
    );
    doc.meta(object);
    for (title, field) in [
        ("Desired Number of Nodes Scheduled", "desiredNumberScheduled"),
        ("Current Number of Nodes Scheduled", "currentNumberScheduled"),
        ("Number of Nodes Scheduled with Up-to-date Pods", "updatedNumberScheduled"),
        ("Number of Nodes Scheduled with Available Pods", "numberAvailable"),
        ("Number of Nodes Misscheduled", "numberMisscheduled"),
    ] {
        doc.line(0, &format!("{title}: {}", int(object, &format!("/status/{field}"))));
    }
    pods_status(doc, object, related);
    template(doc, &object["spec"]["template"]);
    related.events(doc);
}

/// A job.
pub fn job(doc: &mut Doc, object: &Value, related: &Related) {
    doc.field(0, "Name", text(object, "/metadata/name"));
    doc.field(0, "Namespace", text(object, "/metadata/namespace"));
    doc.field(0, "Selector", &selector(&object["spec"]["selector"]));
    doc.meta(object);
    doc.controller(object);
    let spec = |field: &str| scalar(object, &format!("/spec/{field}"));
    doc.field_if(0, "Parallelism", &spec("parallelism"));
    doc.field(0, "Completions", unset(&spec("completions")));
    doc.field_if(0, "Completion Mode", &spec("completionMode"));
    doc.field_if(0, "Suspend", &spec("suspend"));
    doc.field_if(0, "Backoff Limit", &spec("backoffLimit"));
    doc.field_if(0, "TTL Seconds After Finished", &spec("ttlSecondsAfterFinished"));
    let (start, end) = (text(object, "/status/startTime"), text(object, "/status/completionTime"));
    for (title, time) in [("Start Time", start), ("Completed At", end)] {
        if !time.is_empty() {
            let time = doc.time(time);
            doc.field(0, title, &time);
        }
    }
    if let (Some(start), Some(end)) = (api::time::parse(start), api::time::parse(end)) {
        doc.field(0, "Duration", &age::human(end.as_second() - start.as_second()));
    }
    let deadline = spec("activeDeadlineSeconds");
    if !deadline.is_empty() {
        doc.field(0, "Active Deadline Seconds", &format!("{deadline}s"));
    }
    let status = |field: &str| int(object, &format!("/status/{field}"));
    let ready = match object["status"]["ready"].as_i64() {
        Some(ready) => format!(" ({ready} Ready)"),
        None => String::new(),
    };
    let (active, succeeded, failed) = (status("active"), status("succeeded"), status("failed"));
    doc.field(
        0,
        "Pods Statuses",
        &format!("{active} Active{ready} / {succeeded} Succeeded / {failed} Failed"),
    );
    if object["spec"]["completionMode"] == "Indexed" {
        doc.field(0, "Completed Indexes", or_none(text(object, "/status/completedIndexes")));
    }
    template(doc, &object["spec"]["template"]);
    related.events(doc);
}

fn unset(text: &str) -> &str {
    if text.is_empty() { "<unset>" } else { text }
}

/// A cron job.
pub fn cron_job(doc: &mut Doc, object: &Value, related: &Related) {
    doc.head(object, true);
    let spec = |field: &str| scalar(object, &format!("/spec/{field}"));
    doc.field(0, "Schedule", &spec("schedule"));
    doc.field(0, "Concurrency Policy", &spec("concurrencyPolicy"));
    let suspend = match object["spec"]["suspend"].as_bool() {
        Some(true) => "True",
        Some(false) => "False",
        None => "<unset>",
    };
    doc.field(0, "Suspend", suspend);
    doc.field(0, "Time Zone", unset(&spec("timeZone")));
    doc.field(0, "Successful Job History Limit", unset(&spec("successfulJobsHistoryLimit")));
    doc.field(0, "Failed Job History Limit", unset(&spec("failedJobsHistoryLimit")));
    let deadline = spec("startingDeadlineSeconds");
    let deadline = if deadline.is_empty() { "<unset>".to_owned() } else { format!("{deadline}s") };
    doc.field(0, "Starting Deadline Seconds", &deadline);
    let job = &object["spec"]["jobTemplate"]["spec"];
    doc.field(0, "Selector", unset(&selector(&job["selector"])));
    doc.field(0, "Parallelism", unset(&scalar(job, "/parallelism")));
    doc.field(0, "Completions", unset(&scalar(job, "/completions")));
    let deadline = scalar(job, "/activeDeadlineSeconds");
    if !deadline.is_empty() {
        doc.field(0, "Active Deadline Seconds", &format!("{deadline}s"));
    }
    template(doc, &job["template"]);
    let last = text(object, "/status/lastScheduleTime");
    let last = if last.is_empty() { "<unset>".to_owned() } else { doc.time(last) };
    doc.field(0, "Last Schedule Time", &last);
    let active: Vec<&str> = list(object, "/status/active").iter().map(|job| text(job, "/name")).collect();
    doc.field(0, "Active Jobs", or_none(&active.join(", ")));
    related.events(doc);
}
