//! Strategies of apps, batch and autoscaling.

use serde_json::{Map, Value};

use crate::defaults::apps as defaults;
use crate::strategy::{Context, Generation, PLAIN, Part, Rules, SPEC_STATUS, differs, generation};
use crate::tree::Tree;
use crate::validation as v;
use crate::validation::apps as check;
use crate::validation::meta::NameRule;

/// ControllerRevision.
pub static CONTROLLER_REVISION: Rules = Rules {
    validate: |_, o| check::controller_revision(o),
    validate_update: |_, _, new, old| check::controller_revision_update(new, old),
    ..PLAIN
};

/// Deployment. Annotations are copied to replica sets, so they count as spec.
pub static DEPLOYMENT: Rules = Rules {
    default: defaults::deployment,
    generation: Generation::Function(|new, old| {
        differs(new.get("spec"), old.get("spec"))
            || differs(Some(new.at("metadata.annotations")), Some(old.at("metadata.annotations")))
    }),
    update: |_, part, new, old| {
        if part == Part::Status {
            keep(new, old, "metadata.labels");
        }
    },
    resets: &[(Part::Status, &["metadata.labels", "spec"])],
    validate: |_, o| check::deployment(o),
    validate_update: |_, part, new, old| match part {
        Part::Status => check::deployment_status(new, old),
        _ => check::with_fixed_selector(check::deployment, new, old),
    },
    ..SPEC_STATUS
};

fn keep(new: &mut Value, old: &Value, path: &str) {
    match old.at(path) {
        Value::Null => drop(new.unset(path)),
        value => new.set(path, value.clone()),
    }
}

/// ReplicaSet.
pub static REPLICA_SET: Rules = Rules {
    default: defaults::replica_set,
    validate: |_, o| check::replica_set(o),
    validate_update: |_, part, new, old| match part {
        Part::Status => v::core::replica_status(new),
        _ => check::with_fixed_selector(check::replica_set, new, old),
    },
    ..SPEC_STATUS
};

/// StatefulSet.
pub static STATEFUL_SET: Rules = Rules {
    default: defaults::stateful_set,
    name: NameRule::DnsLabel,
    validate: |_, o| check::stateful_set(o),
    validate_update: |_, part, new, old| match part {
        Part::Status => check::stateful_set_status(new, old),
        _ => check::stateful_set_update(new, old),
    },
    ..SPEC_STATUS
};

/// DaemonSet.
pub static DAEMON_SET: Rules = Rules {
    default: |set| {
        defaults::daemon_set(set);
        // Upstream's stored form has the number as a field, so the annotation is always there.
        if set.has("metadata") && template_generation(set) == 0 {
            number_template(set, 0);
        }
    },
    create: |_, set| number_template(set, 1),
    validate: |_, o| check::daemon_set(o),
    validate_update: |_, part, new, old| match part {
        Part::Status => check::daemon_set_status(new, old),
        _ => check::with_fixed_selector(check::daemon_set, new, old),
    },
    update: |_, part, new, old| {
        if part != Part::Main {
            return;
        }
        let before = template_generation(old).max(generation(old).min(1));
        number_template(new, before);
        let changed = differs(Some(new.at("spec.template")), Some(old.at("spec.template")));
        if changed {
            number_template(new, before + 1);
        }
    },
    ..SPEC_STATUS
};

/// The old template generation lives on in an annotation.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

fn template_generation(set: &Value) -> i64 {
    let found = set.map("metadata.annotations").get(TEMPLATE_GENERATION);
    found.and_then(Value::as_str).and_then(|s| s.parse().ok()).unwrap_or(0)
}

fn number_template(set: &mut Value, number: i64) {
    if !set.has("metadata.annotations") {
        set.set("metadata.annotations", Value::Object(Map::new()));
    }
    if let Some(map) = set.at_mut("metadata.annotations").and_then(Value::as_object_mut) {
        map.insert(TEMPLATE_GENERATION.into(), number.to_string().into());
    }
}

/// Job.
pub static JOB: Rules = Rules {
    default: defaults::job,
    finish: defaults::job_labels,
    orphan_by_default: true,
    create: generate_selector,
    validate: |_, o| v::batch::job(o),
    validate_update: |_, part, new, old| match part {
        Part::Status => v::job_status::job_status(new, old),
        _ => v::batch::job_update(new, old),
    },
    ..SPEC_STATUS
};

/// Labels the job's pods and selects them by the job's uid, unless the client does it by hand.
fn generate_selector(_cx: &Context<'_>, job: &mut Value) {
    if job.flag("spec.manualSelector") {
        return;
    }
    let (name, uid) = (job.at("metadata.name").clone(), job.at("metadata.uid").clone());
    let mut labels = job.map("spec.template.metadata.labels").clone();
    for (key, value) in [
        ("job-name", &name),
        ("batch.kubernetes.io/job-name", &name),
        ("controller-uid", &uid),
        ("batch.kubernetes.io/controller-uid", &uid),
    ] {
        labels.entry(key).or_insert_with(|| value.clone());
    }
    job.set("spec.template.metadata.labels", Value::Object(labels));
    let mut selector = job.map("spec.selector.matchLabels").clone();
    selector.entry("batch.kubernetes.io/controller-uid").or_insert(uid);
    job.set("spec.selector.matchLabels", Value::Object(selector));
}

/// CronJob.
pub static CRON_JOB: Rules = Rules {
    default: defaults::cron_job,
    validate: |_, o| v::batch::cron_job(o, None),
    validate_update: |_, part, new, old| match part {
        Part::Status => v::ErrorList::new(),
        _ => v::batch::cron_job(new, Some(old)),
    },
    ..SPEC_STATUS
};

/// HorizontalPodAutoscaler of autoscaling/v1.
pub static HPA_V1: Rules = Rules {
    default: defaults::hpa_v1,
    status: true,
    validate: |_, o| v::policy::autoscaler_v1(o),
    validate_update: |_, part, new, old| match part {
        Part::Status => v::policy::autoscaler_status(new),
        _ => v::policy::autoscaler_v1_update(new, old),
    },
    ..PLAIN
};

/// HorizontalPodAutoscaler of autoscaling/v2.
pub static HPA_V2: Rules = Rules {
    default: defaults::hpa_v2,
    status: true,
    validate: |_, o| v::policy::autoscaler(o),
    validate_update: |_, part, new, old| match part {
        Part::Status => v::policy::autoscaler_status(new),
        _ => v::policy::autoscaler_update(new, old),
    },
    ..PLAIN
};
