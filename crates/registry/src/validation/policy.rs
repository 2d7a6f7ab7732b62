//! Small kinds of several groups: disruption budgets, RBAC, priorities, leases, runtime classes,
//! autoscalers, events, certificate requests.

use std::collections::BTreeSet;

use api::names;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

use super::apps::{at_most_all, int_or_percent};
use super::resources::{self, Names, amount};
use super::{ErrorKind, ErrorList, FieldError, Path, Report, meta, scheduling, shown};
use crate::strategy::differs;
use crate::tree::Tree;

const RBAC: &str = "rbac.authorization.k8s.io";

/// A pod disruption budget.
pub fn disruption_budget(pdb: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, path) = (pdb.at("spec"), Path::new("spec"));
    if spec.has("minAvailable") && spec.has("maxUnavailable") {
        let detail = "minAvailable and maxUnavailable cannot be both set";
        shown::report(&mut errors, ErrorKind::Invalid, &path, shown::text(spec, shown::BUDGET), detail);
    }
    for field in ["minAvailable", "maxUnavailable"] {
        if spec.has(field) {
            int_or_percent(&mut errors, spec.at(field), &path.child(field));
            at_most_all(&mut errors, spec.at(field), &path.child(field));
        }
    }
    meta::selector(&mut errors, spec.at("selector"), &path.child("selector"));
    if let Some(policy) = spec.at("unhealthyPodEvictionPolicy").as_str() {
        let all = ["AlwaysAllow", "IfHealthyBudget"];
        errors.one_of(&path.child("unhealthyPodEvictionPolicy"), policy, &all);
    }
    errors
}

/// A budget's `/status`.
pub fn disruption_budget_status(pdb: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    for field in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
        errors.non_negative(&Path::new("status").child(field), pdb.at("status").int(field));
    }
    let path = Path::new("status").child("conditions");
    meta::conditions(&mut errors, pdb.list("status.conditions"), &path);
    errors
}

/// A Role or ClusterRole.
pub fn role(role: &Value, namespaced: bool) -> ErrorList {
    let mut errors = ErrorList::new();
    for (i, rule) in role.list("rules").iter().enumerate() {
        policy_rule(&mut errors, rule, namespaced, &Path::new("rules").index(i));
    }
    if role.has("aggregationRule") {
        let path = Path::new("aggregationRule").child("clusterRoleSelectors");
        let all = role.list("aggregationRule.clusterRoleSelectors");
        if all.is_empty() {
            let detail = "at least one clusterRoleSelector required if aggregationRule is non-nil";
            errors.required(&path, detail);
        }
        for (i, selector) in all.iter().enumerate() {
            meta::selector(&mut errors, selector, &path.index(i));
        }
    }
    errors
}

fn policy_rule(errors: &mut ErrorList, rule: &Value, namespaced: bool, path: &Path) {
    if rule.list("verbs").is_empty() {
        errors.required(&path.child("verbs"), "verbs must contain at least one value");
    }
    if !rule.list("nonResourceURLs").is_empty() {
        let (at, shown) = (path.child("nonResourceURLs"), rule.at("nonResourceURLs"));
        if namespaced {
            let detail = "namespaced rules cannot apply to non-resource URLs";
            errors.invalid(&at, shown.clone(), detail);
        }
        if ["apiGroups", "resources", "resourceNames"].iter().any(|f| !rule.list(f).is_empty()) {
            let detail = "rules cannot apply to both regular resources and non-resource URLs";
            errors.invalid(&at, shown.clone(), detail);
        }
        return;
    }
    if rule.list("apiGroups").is_empty() {
        let detail = "resource rules must supply at least one api group";
        errors.required(&path.child("apiGroups"), detail);
    }
    if rule.list("resources").is_empty() {
        let detail = "resource rules must supply at least one resource";
        errors.required(&path.child("resources"), detail);
    }
}

/// A RoleBinding or ClusterRoleBinding.
pub fn role_binding(binding: &Value, namespaced: bool) -> ErrorList {
    let mut errors = ErrorList::new();
    let (reference, path) = (binding.at("roleRef"), Path::new("roleRef"));
    errors.one_of(&path.child("apiGroup"), reference.text("apiGroup"), &[RBAC]);
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    errors.one_of(&path.child("kind"), reference.text("kind"), kinds);
    match reference.text("name") {
        "" => errors.required(&path.child("name"), ""),
        name => errors.messages(&path.child("name"), name, names::path_segment(name)),
    }
    for (i, subject) in binding.list("subjects").iter().enumerate() {
        self::subject(&mut errors, subject, namespaced, &Path::new("subjects").index(i));
    }
    errors
}

fn subject(errors: &mut ErrorList, subject: &Value, namespaced: bool, path: &Path) {
    let (name, group) = (subject.text("name"), subject.text("apiGroup"));
    errors.required_text(path, subject, "name");
    match subject.text("kind") {
        "ServiceAccount" => {
            if !name.is_empty() {
                errors.messages(&path.child("name"), name, names::dns1123_subdomain(name));
            }
            errors.one_of(&path.child("apiGroup"), group, &[""]);
            if !namespaced {
                errors.required_text(path, subject, "namespace");
            }
        }
        "User" | "Group" => errors.one_of(&path.child("apiGroup"), group, &[RBAC]),
        other => errors.one_of(&path.child("kind"), other, &["ServiceAccount", "User", "Group"]),
    }
}

/// An update of a binding: the role stays.
pub fn role_binding_update(new: &Value, old: &Value, namespaced: bool) -> ErrorList {
    let mut errors = role_binding(new, namespaced);
    if new.at("roleRef") != old.at("roleRef") {
        let text = shown::text(new.at("roleRef"), shown::ROLE_REF);
        let path = Path::new("roleRef");
        shown::report(&mut errors, ErrorKind::Invalid, &path, text, "cannot change roleRef");
    }
    errors
}

/// Priority classes that the system has: name and value.
const SYSTEM_CLASSES: [(&str, i64); 2] =
    [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];
const HIGHEST_USER_PRIORITY: i64 = 1_000_000_000;

/// A priority class.
pub fn priority_class(class: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (name, value) = (class.text("metadata.name"), class.int("value"));
    if name.starts_with("system-") {
        let why = match SYSTEM_CLASSES.iter().find(|(n, _)| *n == name) {
            None => Some(format!("{name} is not a known system priority class")),
            Some((_, v)) if *v != value => Some(format!("value of {name} PriorityClass must be {v}")),
            Some(_) if class.flag("globalDefault") => {
                Some(format!("globalDefault of {name} PriorityClass must be false"))
            }
            Some(_) => None,
        };
        if let Some(why) = why {
            let detail = format!(
                "priority class names with 'system-' prefix are reserved for system use only. error: {why}"
            );
            errors.forbidden(&Path::new("metadata").child("name"), detail);
        }
    } else if value > HIGHEST_USER_PRIORITY {
        let detail = format!("maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}");
        errors.forbidden(&Path::new("value"), detail);
    }
    if let Some(policy) = class.at("preemptionPolicy").as_str() {
        let at = Path::new("preemptionPolicy");
        errors.required_one_of(&at, policy, &["PreemptLowerPriority", "Never"]);
    }
    errors
}

/// An update of a priority class.
pub fn priority_class_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    if new.int("value") != old.int("value") {
        errors.forbidden(&Path::new("value"), "may not be changed in an update.");
    }
    let field = "preemptionPolicy";
    errors.immutable(&Path::new(field), new.at(field), old.at(field));
    errors
}

/// A lease.
pub fn lease(lease: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, path) = (lease.at("spec"), Path::new("spec"));
    if let Some(seconds) = spec.at("leaseDurationSeconds").as_i64()
        && seconds <= 0
    {
        errors.invalid(&path.child("leaseDurationSeconds"), seconds, "must be greater than 0");
    }
    errors.non_negative(&path.child("leaseTransitions"), spec.int("leaseTransitions"));
    if let Some(strategy) = spec.at("strategy").as_str() {
        let at = path.child("strategy.strategy");
        if strategy.contains('/') {
            errors.messages(&at, strategy, names::qualified_name(strategy));
        } else {
            errors.one_of(&at, strategy, &["OldestEmulationVersion"]);
        }
    }
    if !spec.text("preferredHolder").is_empty() && spec.text("strategy").is_empty() {
        let detail = "may only be specified if `strategy` is defined";
        errors.forbidden(&path.child("preferredHolder"), detail);
    }
    errors
}

/// A runtime class.
pub fn runtime_class(class: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("handler");
    match class.text("handler") {
        "" => errors.required(&path, ""),
        name => errors.messages(&path, name, names::dns1123_label(name)),
    }
    if class.has("overhead") {
        let limits = serde_json::json!({"limits": class.at("overhead.podFixed")});
        let at = Path::new("overhead");
        resources::requirements(&mut errors, &at, &limits, Names::Container, &BTreeSet::new());
    }
    let (part, path) = (class.at("scheduling"), Path::new("scheduling"));
    meta::labels(&mut errors, part.at("nodeSelector"), &path.child("nodeSelector"));
    let (all, at) = (part.list("tolerations"), path.child("tolerations"));
    scheduling::tolerations(&mut errors, all, &at);
    let same =
        |a: &Value, b: &Value| ["key", "operator", "value", "effect"].iter().all(|f| a.text(f) == b.text(f));
    for (i, t) in all.iter().enumerate().filter(|(i, t)| all[..*i].iter().any(|o| same(o, t))) {
        let text = shown::text(t, shown::TOLERATION);
        shown::report(&mut errors, ErrorKind::Duplicate, &at.index(i), text, "");
    }
    errors
}

/// An update of a runtime class.
pub fn runtime_class_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = runtime_class(new);
    errors.immutable(&Path::new("handler"), new.at("handler"), old.at("handler"));
    errors
}

/// A horizontal pod autoscaler in its v2 form.
pub fn autoscaler(hpa: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, path) = (hpa.at("spec"), Path::new("spec"));
    let (min, max) = (spec.at("minReplicas").as_i64(), spec.int("maxReplicas"));
    if let Some(n) = min.filter(|n| *n < 1) {
        errors.invalid(&path.child("minReplicas"), n, "must be greater than or equal to 1");
    }
    let at = path.child("maxReplicas");
    match max {
        0 => errors.required(&at, "must be set and greater than 0"),
        n if n < 0 => errors.invalid(&at, n, "must be greater than or equal to 1"),
        _ => {}
    }
    if min.is_some_and(|min| max < min) {
        errors.invalid(&at, max, "must be greater than or equal to `minReplicas`");
    }
    let (target, at) = (spec.at("scaleTargetRef"), path.child("scaleTargetRef"));
    object_reference(&mut errors, target, &at);
    if !target.text("apiVersion").contains('/') && target.text("kind") != "ReplicationController" {
        let detail = "apiVersion must specify API group";
        errors.invalid(&at.child("apiVersion"), target.text("apiVersion"), detail);
    }
    for (i, metric) in spec.list("metrics").iter().enumerate() {
        self::metric(&mut errors, metric, &path.child("metrics").index(i));
    }
    let by_load = spec.list("metrics").iter().any(|m| matches!(m.text("type"), "Object" | "External"));
    if min == Some(0) && !by_load {
        let detail =
            "must specify at least one Object or External metric to support scaling to zero replicas";
        errors.forbidden(&path.child("metrics"), detail);
    }
    for direction in ["scaleUp", "scaleDown"] {
        let rules = spec.at("behavior").at(direction);
        if !rules.is_null() {
            scaling_rules(&mut errors, rules, &path.child("behavior").child(direction));
        }
    }
    errors
}

fn object_reference(errors: &mut ErrorList, reference: &Value, path: &Path) {
    for field in ["kind", "name"] {
        match reference.text(field) {
            "" => errors.required(&path.child(field), ""),
            text => errors.messages(&path.child(field), text, names::path_segment(text)),
        }
    }
    let version = reference.text("apiVersion");
    if version.matches('/').count() > 1 {
        let detail = format!("unexpected GroupVersion string: {version}");
        errors.invalid(&path.child("apiVersion"), version, detail);
    }
}

const METRIC_TYPES: &[&str] = &["ContainerResource", "External", "Object", "Pods", "Resource"];

fn metric(errors: &mut ErrorList, metric: &Value, path: &Path) {
    let ty = metric.text("type");
    if ty.is_empty() {
        errors.required(&path.child("type"), "must specify a metric source type");
    }
    errors.one_of(&path.child("type"), ty, METRIC_TYPES);
    let sources = ["object", "external", "pods", "resource", "containerResource"];
    let present: Vec<&str> = sources.into_iter().filter(|s| metric.has(s)).collect();
    if let Some(first) = present.first() {
        metric_source(errors, first, metric.at(first), &path.child(first));
    }
    let expected = match ty {
        "Object" => "object",
        "Pods" => "pods",
        "Resource" => "resource",
        "External" => "external",
        "ContainerResource" => "containerResource",
        _ => {
            errors.one_of(&path.child("type"), ty, METRIC_TYPES);
            ""
        }
    };
    if !expected.is_empty() && !metric.has(expected) {
        let detail = "must populate information for the given metric source";
        errors.required(&path.child(expected), detail);
    }
    if present.len() != 1 {
        for other in present.into_iter().filter(|p| *p != expected) {
            errors.forbidden(&path.child(other), "must populate the given metric source only");
        }
    }
}

fn metric_source(errors: &mut ErrorList, kind: &str, body: &Value, path: &Path) {
    let (target, at) = (body.at("target"), path.child("target"));
    if kind == "object" {
        object_reference(errors, body.at("describedObject"), &path.child("describedObject"));
    }
    if matches!(kind, "object" | "external" | "pods") {
        let (name, at) = (body.text("metric.name"), path.child("metric.name"));
        match name {
            "" => errors.required(&at, "must specify a metric name"),
            name => errors.messages(&at, name, names::path_segment(name)),
        }
    }
    if matches!(kind, "resource" | "containerResource") && body.text("name").is_empty() {
        errors.required(&path.child("name"), "must specify a resource name");
    }
    if kind == "containerResource" {
        match body.text("container") {
            "" => errors.required(&path.child("container"), "must specify a container"),
            name => errors.messages(&path.child("container"), name, names::dns1123_label(name)),
        }
    }
    metric_target(errors, target, &at);
    let has = |f: &str| target.has(f);
    match kind {
        "object" if !has("value") && !has("averageValue") => {
            let detail = "must set either a target value or averageValue";
            errors.required(&at.child("averageValue"), detail);
        }
        "external" if !has("value") && !has("averageValue") => {
            let detail = "must set either a target value for metric or a per-pod target";
            errors.required(&at.child("averageValue"), detail);
        }
        "external" if has("value") && has("averageValue") => {
            let detail = "may not set both a target value for metric and a per-pod target";
            errors.forbidden(&at.child("value"), detail);
        }
        "pods" if !has("averageValue") => {
            errors.required(&at.child("averageValue"), "must specify a positive target averageValue");
        }
        "resource" | "containerResource" => match (has("averageUtilization"), has("averageValue")) {
            (false, false) => {
                let detail = "must set either a target raw value or a target utilization";
                errors.required(&at.child("averageUtilization"), detail);
            }
            (true, true) => {
                let detail = "may not set both a target raw value and a target utilization";
                errors.forbidden(&at.child("averageValue"), detail);
            }
            _ => {}
        },
        _ => {}
    }
}

fn metric_target(errors: &mut ErrorList, target: &Value, path: &Path) {
    let ty = target.text("type");
    if ty.is_empty() {
        errors.required(&path.child("type"), "must specify a metric target type");
    }
    if !matches!(ty, "Utilization" | "Value" | "AverageValue") {
        let detail = "must be either Utilization, Value, or AverageValue";
        errors.invalid(&path.child("type"), ty, detail);
    }
    for field in ["value", "averageValue"] {
        if let Some(q) = amount(target.at(field))
            && (q.is_negative() || q.is_zero())
        {
            errors.invalid(&path.child(field), target.at(field).clone(), "must be positive");
        }
    }
    if let Some(percent) = target.at("averageUtilization").as_i64()
        && percent < 1
    {
        errors.invalid(&path.child("averageUtilization"), percent, "must be greater than 0");
    }
}

fn scaling_rules(errors: &mut ErrorList, rules: &Value, path: &Path) {
    let at = path.child("stabilizationWindowSeconds");
    match rules.at("stabilizationWindowSeconds").as_i64() {
        Some(n) if n < 0 => errors.invalid(&at, n, "must be greater than or equal to zero"),
        Some(n) if n > 3600 => errors.invalid(&at, n, "must be less than or equal to 3600"),
        _ => {}
    }
    if let Some(choice) = rules.at("selectPolicy").as_str() {
        errors.one_of(&path.child("selectPolicy"), choice, &["Disabled", "Max", "Min"]);
    }
    let at = path.child("policies");
    if rules.list("policies").is_empty() {
        errors.required(&at, "must specify at least one Policy");
    }
    for (i, policy) in rules.list("policies").iter().enumerate() {
        let at = at.index(i);
        errors.one_of(&at.child("type"), policy.text("type"), &["Percent", "Pods"]);
        errors.positive(&at.child("value"), policy.int("value"));
        let seconds = policy.int("periodSeconds");
        errors.positive(&at.child("periodSeconds"), seconds);
        if seconds > 1800 {
            errors.invalid(&at.child("periodSeconds"), seconds, "must be less than or equal to 1800");
        }
    }
    if let Some(tolerance) = amount(rules.at("tolerance")).filter(|t| t.is_negative()) {
        errors.invalid(&path.child("tolerance"), tolerance.to_string(), super::NEGATIVE);
    }
}

/// A horizontal pod autoscaler in its v1 form.
pub fn autoscaler_v1(hpa: &Value) -> ErrorList {
    let mut v2 = hpa.clone();
    (crate::convert::HPA_V1.to_stored)(&mut v2);
    crate::defaults::apps::hpa_v2(&mut v2);
    autoscaler(&v2)
}

/// An update of an autoscaler in its v1 form.
pub fn autoscaler_v1_update(new: &Value, old: &Value) -> ErrorList {
    let form = |hpa: &Value| {
        let mut v2 = hpa.clone();
        (crate::convert::HPA_V1.to_stored)(&mut v2);
        crate::defaults::apps::hpa_v2(&mut v2);
        v2
    };
    autoscaler_update(&form(new), &form(old))
}

/// An update of an autoscaler: a target that stays is not looked at again.
pub fn autoscaler_update(new: &Value, old: &Value) -> ErrorList {
    let target = |o: &Value, field: &str| o.at("spec.scaleTargetRef").text(field).to_string();
    let mut errors = autoscaler(new);
    if ["apiVersion", "kind"].into_iter().all(|f| target(new, f) == target(old, f)) {
        let skip = Path::new("spec").child("scaleTargetRef").child("apiVersion").to_string();
        errors.0.retain(|e| e.path.to_string() != skip);
    }
    errors
}

/// An autoscaler's `/status`.
pub fn autoscaler_status(hpa: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    for field in ["currentReplicas", "desiredReplicas"] {
        errors.non_negative(&Path::new("status").child(field), hpa.at("status").int(field));
    }
    errors
}

/// An event of core/v1 (`new_form` false) or events.k8s.io/v1.
pub fn event(event: &Value, new_form: bool) -> ErrorList {
    let mut errors = ErrorList::new();
    let own = event.text("metadata.namespace");
    let about = event.at(if new_form { "regarding" } else { "involvedObject" }).text("namespace");
    // Upstream validates its internal form, so these paths are core/v1's in both.
    let path = Path::new("involvedObject").child("namespace");
    const WHY: &str = "does not match event.namespace";
    if !event.has("eventTime") {
        let fits = if about.is_empty() { own == "default" || own.is_empty() } else { about == own };
        if !fits {
            errors.invalid(&path, about, WHY);
        }
    } else {
        if about.is_empty() && own != "default" && own != "kube-system" {
            errors.invalid(&path, about, WHY);
        }
        reporter(&mut errors, event, new_form);
    }
    errors.messages(&Path::new("namespace"), own, names::dns1123_subdomain(own));
    errors
}

/// A new event of events.k8s.io/v1: more is asked than of the old form.
pub fn new_event(object: &Value) -> ErrorList {
    let mut errors = event(object, true);
    strict_event(&mut errors, object);
    errors
}

fn reporter(errors: &mut ErrorList, event: &Value, new_form: bool) {
    let field = if new_form { "reportingController" } else { "reportingComponent" };
    let controller = event.text(field);
    if controller.is_empty() {
        errors.required(&Path::new(field), "");
    }
    errors.messages(&Path::new(field), controller, names::qualified_name(controller));
    let message = if new_form { "note" } else { "message" };
    for (field, shown, needed) in [
        ("reportingInstance", "reportingInstance", true),
        ("action", "action", true),
        ("reason", "reason", true),
        (message, "message", false),
    ] {
        let (text, path) = (event.text(field), Path::new(shown));
        let longest = if needed { 128 } else { 1024 };
        if needed && text.is_empty() {
            errors.required(&path, "");
        }
        if text.len() > longest {
            errors.invalid(&path, "", format!("can have at most {longest} characters"));
        }
    }
}

fn strict_event(errors: &mut ErrorList, event: &Value) {
    errors.extend(meta::check(event, true, meta::NameRule::DnsSubdomain));
    series(errors, event);
    if !event.has("eventTime") {
        errors.required(&Path::new("eventTime"), "");
    }
    let ty = event.text("type");
    if !matches!(ty, "Normal" | "Warning") {
        errors.invalid(&Path::new("type"), "", format!("has invalid value: {ty}"));
    }
    let unset = [
        ("deprecatedFirstTimestamp", "firstTimestamp"),
        ("deprecatedLastTimestamp", "lastTimestamp"),
        ("deprecatedCount", "count"),
    ];
    for (field, shown) in unset {
        if event.has(field) && event.at(field) != 0 {
            errors.invalid(&Path::new(shown), "", "needs to be unset");
        }
    }
    if !event.map("deprecatedSource").is_empty() {
        errors.invalid(&Path::new("source"), "", "needs to be unset");
    }
}

fn series(errors: &mut ErrorList, event: &Value) {
    if !event.has("series") {
        return;
    }
    if event.int("series.count") < 2 {
        errors.invalid(&Path::new("series.count"), "", "should be at least 2");
    }
    if !event.has("series.lastObservedTime") {
        errors.required(&Path::new("series.lastObservedTime"), "");
    }
}

/// What kind of value a field has that never changes.
#[derive(Clone, Copy)]
enum Fixed {
    Text,
    Number,
    Reference,
    Other,
}

/// Fields of an event that never change, and what messages call them.
const EVENT_FIXED: &[(&str, &str, Fixed)] = &[
    ("regarding", "involvedObject", Fixed::Other),
    ("reason", "reason", Fixed::Text),
    ("note", "message", Fixed::Text),
    ("deprecatedSource", "source", Fixed::Other),
    ("deprecatedFirstTimestamp", "firstTimestamp", Fixed::Other),
    ("deprecatedLastTimestamp", "lastTimestamp", Fixed::Other),
    ("deprecatedCount", "count", Fixed::Number),
    ("type", "type", Fixed::Text),
    ("eventTime", "eventTime", Fixed::Other),
    ("action", "action", Fixed::Text),
    ("related", "related", Fixed::Reference),
    ("reportingController", "reportingController", Fixed::Text),
    ("reportingInstance", "reportingInstance", Fixed::Text),
];

/// An update of an event of events.k8s.io/v1: only the series moves.
pub fn event_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = event(new, true);
    if differs(Some(new.at("series")), Some(old.at("series"))) {
        series(&mut errors, new);
    }
    for &(field, shown, kind) in EVENT_FIXED {
        let (now, was) = (new.at(field), old.at(field));
        let same = match kind {
            // Upstream tells an empty reference from none.
            Fixed::Reference => now == was,
            _ => !differs(Some(now), Some(was)),
        };
        if !same {
            let value = match kind {
                Fixed::Text => new.text(field).into(),
                Fixed::Number => new.int(field).into(),
                _ => now.clone(),
            };
            errors.invalid(&Path::new(shown), value, super::IMMUTABLE);
        }
    }
    errors
}

const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// A new certificate signing request. The request itself is only looked at as PEM.
pub fn certificate_request(csr: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, path) = (csr.at("spec"), Path::new("spec"));
    let bytes = BASE64.decode(spec.text("request")).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let pem = text.contains("-----BEGIN CERTIFICATE REQUEST-----")
        || text.contains("-----BEGIN NEW CERTIFICATE REQUEST-----");
    if !pem {
        let detail = "PEM block type must be CERTIFICATE REQUEST";
        errors.invalid(&path.child("request"), spec.at("request").clone(), detail);
    }
    let usages: Vec<&str> = spec.list("usages").iter().filter_map(Value::as_str).collect();
    let at = path.child("usages");
    if usages.is_empty() {
        errors.required(&at, "");
    }
    for (i, usage) in usages.iter().enumerate() {
        errors.one_of(&at.index(i), usage, USAGES);
    }
    for (i, usage) in usages.iter().enumerate().filter(|(i, u)| usages[..*i].contains(u)) {
        errors.duplicate(&at.index(i), *usage);
    }
    signer_name(&mut errors, spec.text("signerName"), &path.child("signerName"));
    if let Some(seconds) = spec.at("expirationSeconds").as_i64()
        && seconds < 600
    {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.invalid(&path.child("expirationSeconds"), seconds, detail);
    }
    errors
}

/// The longest domain of a signer's name, and the longest name, in bytes.
const DOMAIN_MAX: usize = 253;
const SIGNER_MAX: usize = DOMAIN_MAX + 1 + DOMAIN_MAX + 63 + 1;

/// `domain/path`
pub fn signer_name(errors: &mut ErrorList, name: &str, path: &Path) {
    if name.is_empty() {
        errors.required(path, "");
        return;
    }
    if name == "kubernetes.io/legacy-unknown" {
        let detail = "the legacy signerName is not allowed via this API version";
        errors.invalid(path, name, detail);
        return;
    }
    let Some((domain, rest)) = name.split_once('/').filter(|(_, r)| !r.contains('/')) else {
        let detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        errors.invalid(path, name, detail);
        return;
    };
    let wrong = |errors: &mut ErrorList, segment: &str, check: fn(&str) -> Vec<String>, whole: &str| {
        let messages = check(segment);
        let found = !messages.is_empty();
        for message in messages {
            errors.invalid(path, whole, format!("validating label {segment:?}: {message}"));
        }
        found
    };
    if domain.len() > DOMAIN_MAX {
        errors.push(FieldError::too_long(path, DOMAIN_MAX));
    }
    let _ = domain.split('.').any(|label| wrong(errors, label, names::dns1123_label, domain));
    if !domain.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        errors.invalid(path, domain, detail);
    }
    let _ = rest.split('.').any(|label| wrong(errors, label, names::dns1123_subdomain, rest));
    if name.len() > SIGNER_MAX {
        errors.push(FieldError::too_long(path, SIGNER_MAX));
    }
}

/// Conditions of a certificate signing request, through `/status` or `/approval`.
pub fn certificate_conditions(new: &Value, old: &Value, approval: bool) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("status").child("conditions");
    let (now, was) = (new.list("status.conditions"), old.list("status.conditions"));
    let mut seen: Vec<&str> = Vec::new();
    for (i, condition) in now.iter().enumerate() {
        let (ty, status, at) = (condition.text("type"), condition.text("status"), path.index(i));
        errors.required_text(&at, condition, "type");
        if matches!(ty, "Approved" | "Denied" | "Failed") && !status.is_empty() {
            errors.one_of(&at.child("status"), status, &["True"]);
        } else {
            errors.required_one_of(&at.child("status"), status, &["False", "True", "Unknown"]);
        }
        if seen.contains(&ty) {
            errors.duplicate(&at.child("type"), ty);
        }
        for other in
            seen.iter().filter(|s| matches!((**s, ty), ("Approved", "Denied") | ("Denied", "Approved")))
        {
            let detail = format!("{other} and {ty} conditions are mutually exclusive");
            errors.invalid(&at.child("type"), ty, detail);
        }
        seen.push(ty);
    }
    if let Some(why) = certificate_problem(new.text("status.certificate")) {
        let at = Path::new("status").child("certificate");
        errors.invalid(&at, "<certificate data>", why);
    }
    for ty in ["Approved", "Denied", "Failed"] {
        let of =
            |all: &[Value]| -> Vec<Value> { all.iter().filter(|c| c.text("type") == ty).cloned().collect() };
        let (now, was) = (of(now), of(was));
        if was.len() > now.len() || (!was.is_empty() && now != was) {
            errors.forbidden(&path, format!("updates may not remove or modify a condition of type {ty:?}"));
        } else if now.len() > was.len() && !approval && ty != "Failed" {
            errors.forbidden(&path, format!("updates may not add a condition of type {ty:?}"));
        }
    }
    errors
}

/// What is wrong with the certificates of a status: base64 of PEM blocks, nothing else.
fn certificate_problem(text: &str) -> Option<String> {
    let bytes = BASE64.decode(text).unwrap_or_default();
    if bytes.is_empty() {
        return None;
    }
    let pem = String::from_utf8_lossy(&bytes);
    let mut blocks = pem.match_indices("-----BEGIN ").map(|(at, mark)| &pem[at + mark.len()..]).peekable();
    if blocks.peek().is_none() {
        return Some("must contain at least one CERTIFICATE PEM block".to_string());
    }
    blocks.find_map(|block| {
        let (kind, body) = block.split_once("-----")?;
        if kind != "CERTIFICATE" {
            return Some(format!("only CERTIFICATE PEM blocks are allowed, found {kind:?}"));
        }
        body.split("-----END").next()?.contains(':').then(|| "no PEM block headers are permitted".to_string())
    })
}
