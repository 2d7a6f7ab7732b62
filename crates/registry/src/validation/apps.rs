//! Deployments, replica sets, stateful sets, daemon sets, controller revisions.

use api::names;
use serde_json::Value;

use super::core::always_restarts;
use super::{ErrorKind, ErrorList, FieldError, Path, Report, meta, pod, shown, storage};
use crate::strategy::differs;
use crate::tree::Tree;

const NO_MATCH: &str = "`selector` does not match template `labels`";
const PERCENT: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";

/// Whether a label selector selects the labels; a missing selector selects nothing, unless
/// `nil_matches`.
pub fn selects(selector: &Value, labels: &Value) -> bool {
    let has = |key: &str| labels.get(key).and_then(Value::as_str);
    selector.map("matchLabels").iter().all(|(k, v)| has(k) == v.as_str())
        && selector.list("matchExpressions").iter().all(|rule| {
            let own = has(rule.text("key"));
            let listed = own.is_some_and(|own| rule.list("values").iter().any(|v| v == own));
            match rule.text("operator") {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => own.is_some(),
                _ => own.is_none(),
            }
        })
}

/// Whether a selector is well-formed.
fn usable(selector: &Value) -> bool {
    let mut errors = ErrorList::new();
    meta::selector(&mut errors, selector, &Path::new("selector"));
    errors.is_empty()
}

/// `spec.selector`: there, well-formed, not empty. False when it is missing.
fn selector(errors: &mut ErrorList, spec: &Value, path: &Path, kind: &str) -> bool {
    let (selector, at) = (spec.at("selector"), path.child("selector"));
    if selector.is_null() {
        errors.required(&at, "");
        return false;
    }
    meta::selector(errors, selector, &at);
    if selector.map("matchLabels").is_empty() && selector.list("matchExpressions").is_empty() {
        errors.invalid(&at, selector.clone(), format!("empty selector is invalid for {kind}"));
    }
    true
}

/// The pod template of a deployment or replica set.
fn replica_template(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let (template, at) = (spec.at("template"), path.child("template"));
    let labels = template.at("metadata.labels");
    let selector = spec.at("selector");
    if !usable(selector) {
        let at = path.child("selector");
        let text = shown::selector(selector);
        shown::report(errors, ErrorKind::Invalid, &at, text, "invalid label selector");
        return;
    }
    if selector.is_null() || !selects(selector, labels) {
        errors.invalid(&at.child("metadata.labels"), labels.clone(), NO_MATCH);
    }
    pod::template(errors, template, &at);
    always_restarts(errors, template, &at, "ReplicaSet");
}

/// A number or percentage that is not negative.
pub fn int_or_percent(errors: &mut ErrorList, value: &Value, path: &Path) {
    match value {
        Value::String(text) if percent(value).is_none() => errors.invalid(path, text.as_str(), PERCENT),
        Value::String(_) => {}
        other => errors.non_negative(path, other.as_i64().unwrap_or(0)),
    }
}

/// The number before `%`.
fn percent(value: &Value) -> Option<i64> {
    let digits = value.as_str()?.strip_suffix('%')?;
    let good = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    good.then(|| digits.parse().unwrap_or(i64::MAX))
}

/// The number, of a percentage its percents.
fn size(value: &Value) -> i64 {
    percent(value).or_else(|| value.as_i64()).unwrap_or(0)
}

/// At most everything.
pub fn at_most_all(errors: &mut ErrorList, value: &Value, path: &Path) {
    if percent(value).is_some_and(|p| p > 100) {
        errors.invalid(path, value.clone(), "must not be greater than 100%");
    }
}

/// A deployment.
pub fn deployment(d: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, path) = (d.at("spec"), Path::new("spec"));
    errors.non_negative(&path.child("replicas"), spec.int("replicas"));
    selector(&mut errors, spec, &path, "deployment");
    replica_template(&mut errors, spec, &path);
    strategy(&mut errors, spec.at("strategy"), &path.child("strategy"));
    for field in ["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"] {
        errors.non_negative(&path.child(field), spec.int(field));
    }
    if let Some(deadline) = spec.at("progressDeadlineSeconds").as_i64()
        && deadline <= spec.int("minReadySeconds")
    {
        let at = path.child("progressDeadlineSeconds");
        errors.invalid(&at, deadline, "must be greater than minReadySeconds");
    }
    errors
}

fn strategy(errors: &mut ErrorList, strategy: &Value, path: &Path) {
    let (rolling, at) = (strategy.at("rollingUpdate"), path.child("rollingUpdate"));
    match strategy.text("type") {
        "Recreate" if !rolling.is_null() => {
            errors.forbidden(&at, "may not be specified when strategy `type` is 'Recreate'");
        }
        "Recreate" => {}
        "RollingUpdate" => {
            let (down, up) = (rolling.at("maxUnavailable"), rolling.at("maxSurge"));
            int_or_percent(errors, down, &at.child("maxUnavailable"));
            int_or_percent(errors, up, &at.child("maxSurge"));
            if size(down) == 0 && size(up) == 0 {
                let detail = "may not be 0 when `maxSurge` is 0";
                errors.invalid(&at.child("maxUnavailable"), down.clone(), detail);
            }
            at_most_all(errors, down, &at.child("maxUnavailable"));
        }
        _ => {
            let all = ["Recreate", "RollingUpdate"];
            let mut error = FieldError::not_supported(path, "", &all);
            error.value = Some(shown::strategy(strategy));
            errors.push(error);
        }
    }
}

/// An update of a deployment or replica set: the selector stays.
pub fn with_fixed_selector(check: fn(&Value) -> ErrorList, new: &Value, old: &Value) -> ErrorList {
    let mut errors = check(new);
    let path = Path::new("spec").child("selector");
    errors.immutable(&path, new.at("spec.selector"), old.at("spec.selector"));
    errors
}

/// Counts of a status: none negative, none above `replicas`, available ones not above ready ones.
fn counts(errors: &mut ErrorList, status: &Value, fields: &[&str], below: &[&str], last: &str) {
    let path = Path::new("status");
    for field in fields {
        errors.non_negative(&path.child(field), status.int(field));
    }
    for field in below.iter().filter(|f| status.int(f) > status.int("replicas")) {
        let detail = "cannot be greater than status.replicas";
        errors.invalid(&path.child(field), status.int(field), detail);
    }
    if !below.is_empty() && status.int("availableReplicas") > status.int("readyReplicas") {
        errors.invalid(&path.child("availableReplicas"), status.int("availableReplicas"), last);
    }
}

fn collisions(errors: &mut ErrorList, new: &Value, old: &Value) {
    let (now, was) = (new.int("status.collisionCount"), old.int("status.collisionCount"));
    if old.has("status.collisionCount") && now < was {
        errors.invalid(&Path::new("status").child("collisionCount"), now, "cannot be decremented");
    }
}

/// A deployment's `/status`.
pub fn deployment_status(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let fields = [
        "observedGeneration",
        "replicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
        "terminatingReplicas",
        "collisionCount",
    ];
    let below = ["updatedReplicas", "readyReplicas", "availableReplicas"];
    let last = "cannot be greater than readyReplicas";
    counts(&mut errors, new.at("status"), &fields, &below, last);
    collisions(&mut errors, new, old);
    errors
}

/// A replica set.
pub fn replica_set(r: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, path) = (r.at("spec"), Path::new("spec"));
    errors.non_negative(&path.child("replicas"), spec.int("replicas"));
    errors.non_negative(&path.child("minReadySeconds"), spec.int("minReadySeconds"));
    selector(&mut errors, spec, &path, "deployment");
    replica_template(&mut errors, spec, &path);
    errors
}

/// A new stateful set.
pub fn stateful_set(s: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, path) = (s.at("spec"), Path::new("spec"));
    stateful_spec(&mut errors, spec, &path, true);
    errors
}

/// Claims and the service are only looked at when they are new: they never change.
fn stateful_spec(errors: &mut ErrorList, spec: &Value, path: &Path, new: bool) {
    let (policy, at) = (spec.text("podManagementPolicy"), path.child("podManagementPolicy"));
    match policy {
        "" => errors.required(&at, ""),
        "OrderedReady" | "Parallel" => {}
        other => errors.invalid(&at, other, "must be 'OrderedReady' or 'Parallel'"),
    }
    stateful_strategy(errors, spec.at("updateStrategy"), &path.child("updateStrategy"));
    let retention = spec.at("persistentVolumeClaimRetentionPolicy");
    for field in ["whenDeleted", "whenScaled"].iter().filter(|_| !retention.is_null()) {
        let at = path.child("persistentVolumeClaimRetentionPolicy").child(field);
        errors.one_of(&at, retention.text(field), &["Retain", "Delete"]);
    }
    let at = path.child("volumeClaimTemplates");
    for (i, claim) in spec.list("volumeClaimTemplates").iter().enumerate().filter(|_| new) {
        storage::claim_spec(errors, claim.at("spec"), &at.index(i).child("spec"));
    }
    errors.non_negative(&path.child("replicas"), spec.int("replicas"));
    errors.non_negative(&path.child("minReadySeconds"), spec.int("minReadySeconds"));
    errors.non_negative(&path.child("ordinals.start"), spec.int("ordinals.start"));
    let service = spec.text("serviceName");
    if new && !service.is_empty() {
        errors.messages(&path.child("serviceName"), service, names::dns1123_label(service));
    }
    selector(errors, spec, path, "statefulset");
    let at = path.child("template");
    let labels = spec.at("template.metadata.labels");
    if spec.at("selector").is_null() || !selects(spec.at("selector"), labels) {
        errors.invalid(&at.child("metadata.labels"), labels.clone(), NO_MATCH);
    }
    pod::template(errors, &template_with_claims(spec), &at);
    let policy = spec.text("template.spec.restartPolicy");
    errors.one_of(&at.child("spec.restartPolicy"), policy, &["Always"]);
    if spec.has("template.spec.activeDeadlineSeconds") {
        let detail = "activeDeadlineSeconds in StatefulSet is not Supported";
        errors.forbidden(&at.child("spec.activeDeadlineSeconds"), detail);
    }
}

/// The pods get their claims as volumes, and names of their own.
fn template_with_claims(spec: &Value) -> Value {
    let mut template = spec.at("template").clone();
    let claims = spec.list("volumeClaimTemplates");
    if !template.at("spec").is_object() {
        return template;
    }
    template.unset("spec.subdomain");
    template.unset("spec.hostname");
    if claims.is_empty() {
        return template;
    }
    let named = |v: &Value| claims.iter().any(|c| c.text("metadata.name") == v.text("name"));
    let mut volumes: Vec<Value> = claims
        .iter()
        .map(|c| {
            let name = c.text("metadata.name");
            serde_json::json!({"name": name, "persistentVolumeClaim": {"claimName": name}})
        })
        .collect();
    volumes.extend(template.list("spec.volumes").iter().filter(|v| !named(v)).cloned());
    template.set("spec.volumes", Value::Array(volumes));
    template
}

fn stateful_strategy(errors: &mut ErrorList, strategy: &Value, path: &Path) {
    let (rolling, at) = (strategy.at("rollingUpdate"), path.child("rollingUpdate"));
    match strategy.text("type") {
        "" => errors.required(path, ""),
        "OnDelete" if !rolling.is_null() => {
            let detail = "only allowed for updateStrategy 'RollingUpdate'";
            shown::report(errors, ErrorKind::Invalid, &at, shown::text(rolling, shown::ROLLING_SET), detail);
        }
        "OnDelete" => {}
        "RollingUpdate" => {
            errors.non_negative(&at.child("partition"), rolling.int("partition"));
            let max = rolling.at("maxUnavailable");
            if !max.is_null() {
                let at = at.child("maxUnavailable");
                int_or_percent(errors, max, &at);
                if size(max) == 0 {
                    errors.invalid(&at, max.clone(), "cannot be 0");
                }
                at_most_all(errors, max, &at);
            }
        }
        _ => errors.invalid(path, strategy.clone(), "must be 'RollingUpdate' or 'OnDelete'"),
    }
}

/// An update of a stateful set.
pub fn stateful_set_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    stateful_spec(&mut errors, new.at("spec"), &path, false);
    let strip = |s: &Value| {
        let mut spec = s.at("spec").clone();
        for field in [
            "replicas",
            "template",
            "updateStrategy",
            "minReadySeconds",
            "ordinals",
            "revisionHistoryLimit",
            "persistentVolumeClaimRetentionPolicy",
        ] {
            spec.unset(field);
        }
        spec
    };
    if differs(Some(&strip(new)), Some(&strip(old))) {
        let detail = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
        errors.forbidden(&path, detail);
    }
    errors
}

/// A stateful set's `/status`.
pub fn stateful_set_status(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let fields = [
        "replicas",
        "readyReplicas",
        "currentReplicas",
        "updatedReplicas",
        "availableReplicas",
        "observedGeneration",
        "collisionCount",
    ];
    let below = ["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"];
    let last = "cannot be greater than status.readyReplicas";
    counts(&mut errors, new.at("status"), &fields, &below, last);
    collisions(&mut errors, new, old);
    errors
}

/// A daemon set.
pub fn daemon_set(d: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, path) = (d.at("spec"), Path::new("spec"));
    let (selector, at) = (spec.at("selector"), path.child("selector"));
    meta::selector(&mut errors, selector, &at);
    let labels = spec.at("template.metadata.labels");
    if selector.is_null() || !selects(selector, labels) {
        errors.invalid(&path.child("template.metadata.labels"), labels.clone(), NO_MATCH);
    }
    let empty = selector.map("matchLabels").is_empty() && selector.list("matchExpressions").is_empty();
    if !selector.is_null() && empty {
        errors.invalid(&at, selector.clone(), "empty selector is invalid for daemonset");
    }
    let (template, at) = (spec.at("template"), path.child("template"));
    pod::template(&mut errors, template, &at);
    always_restarts(&mut errors, template, &at, "DaemonSet");
    errors.non_negative(&path.child("minReadySeconds"), spec.int("minReadySeconds"));
    daemon_strategy(&mut errors, spec.at("updateStrategy"), &path.child("updateStrategy"));
    errors.non_negative(&path.child("revisionHistoryLimit"), spec.int("revisionHistoryLimit"));
    errors
}

fn daemon_strategy(errors: &mut ErrorList, strategy: &Value, path: &Path) {
    let (rolling, at) = (strategy.at("rollingUpdate"), path.child("rollingUpdate"));
    match strategy.text("type") {
        "OnDelete" => {}
        "RollingUpdate" if rolling.is_null() => errors.required(&at, ""),
        "RollingUpdate" => {
            let (down, up) = (rolling.at("maxUnavailable"), rolling.at("maxSurge"));
            let (down_at, up_at) = (at.child("maxUnavailable"), at.child("maxSurge"));
            int_or_percent(errors, down, &down_at);
            int_or_percent(errors, up, &up_at);
            at_most_all(errors, down, &down_at);
            at_most_all(errors, up, &up_at);
            match (size(down) != 0, size(up) != 0) {
                (true, true) => {
                    errors.invalid(&up_at, up.clone(), "may not be set when maxUnavailable is non-zero");
                }
                (false, false) => errors.required(&down_at, "cannot be 0 when maxSurge is 0"),
                _ => {}
            }
        }
        _ => {
            let all = ["RollingUpdate", "OnDelete"];
            let mut error = FieldError::not_supported(path, "", &all);
            error.value = Some(shown::strategy(strategy));
            errors.push(error);
        }
    }
}

/// A daemon set's `/status`.
pub fn daemon_set_status(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let fields = [
        "currentNumberScheduled",
        "numberMisscheduled",
        "desiredNumberScheduled",
        "numberReady",
        "observedGeneration",
        "updatedNumberScheduled",
        "numberAvailable",
        "numberUnavailable",
        "collisionCount",
    ];
    counts(&mut errors, new.at("status"), &fields, &[], "");
    collisions(&mut errors, new, old);
    errors
}

/// A controller revision.
pub fn controller_revision(r: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    errors.non_negative(&Path::new("revision"), r.int("revision"));
    let data = r.at("data");
    if data.is_null() {
        errors.required(&Path::new("data"), "data is mandatory");
    } else if !data.is_object() {
        errors.required(&Path::new("data"), "data must be a valid JSON object");
    }
    errors
}

/// An update of a controller revision.
pub fn controller_revision_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    errors.non_negative(&Path::new("revision"), new.int("revision"));
    errors.immutable(&Path::new("data"), new.at("data"), old.at("data"));
    errors
}
