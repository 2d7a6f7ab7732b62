//! The plan for one generated token Secret that nobody has used for long: marked invalid first, removed when it stays
//! unused. Tokens made by hand and mounted ones stay.

use std::collections::BTreeSet;
use std::time::Duration;

use api::k8s::api::core::v1::{Pod, Secret, ServiceAccount};
use client::{DeleteOptions, Meta, Plan, Step};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::plan::{ACCOUNT_UID, is_token};

/// The ConfigMap of `kube-system` that tells since when use is noted, under this key.
pub const TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";
/// The key in it.
pub const SINCE: &str = "since";
/// The label with the day of a token's last use.
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
/// The label with the day since which a token is refused.
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
/// How often tokens are looked at, as upstream.
const PERIOD: Duration = Duration::from_secs(86_400);

fn day(text: &str) -> Option<Date> {
    // Days are compared as text, so they must be written in full.
    text.parse().ok().filter(|_| text.len() == "2006-01-02".len())
}

/// What a token Secret depends on.
pub struct Around<'a> {
    /// The account it names, if there is one.
    pub account: Option<&'a ServiceAccount>,
    /// The day since which use is noted.
    pub since: Option<&'a str>,
    /// True when a pod refers to the Secret.
    pub used: &'a dyn Fn() -> bool,
    /// How long a token may stay unused.
    pub limit: Duration,
}

/// What to do about one token Secret.
pub fn plan(secret: &Secret, around: &Around<'_>, now: Timestamp) -> Plan {
    let mut plan = Plan::none();
    if !is_token(secret) || secret.is_deleting() {
        return plan;
    }
    plan.requeue(PERIOD);
    if !is_unused(secret, around, now).unwrap_or(false) || (around.used)() {
        return plan;
    }
    let invalid = secret.label(INVALID_SINCE).filter(|text| day(text).is_some());
    let Some(invalid) = invalid else {
        let labels = json!({INVALID_SINCE: now.strftime("%Y-%m-%d").to_string()});
        plan.merge(secret, json!({"metadata": {"uid": secret.uid(), "labels": labels}}));
        return plan;
    };
    if invalid < (now - around.limit).strftime("%Y-%m-%d").to_string().as_str() {
        let mut options = DeleteOptions::uid(secret.uid());
        options.preconditions.resource_version = secret.metadata.resource_version.clone().unwrap_or_default();
        plan.step(Step::delete(secret, options));
    }
    plan
}

/// True for a token that was generated for its account and not used for the whole time; `None` when that cannot be
/// told.
fn is_unused(secret: &Secret, around: &Around<'_>, now: Timestamp) -> Option<bool> {
    // Use is noted for whole days: the day it began does not count.
    let since = day(around.since?)?.tomorrow().ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp();
    let bound = now - around.limit;
    let created = secret.metadata.creation_timestamp.as_ref()?.0;
    if bound < since || created >= bound {
        return Some(false);
    }
    if let Some(used) = secret.label(LAST_USED) {
        day(used)?;
        if used >= bound.strftime("%Y-%m-%d").to_string().as_str() {
            return Some(false);
        }
    }
    let account = around.account?;
    let uid = secret.annotation(ACCOUNT_UID).unwrap_or("");
    let listed = account.secrets.iter().flatten().any(|known| known.name.as_deref() == Some(secret.name()));
    Some(listed && (uid.is_empty() || uid == account.uid()))
}

/// Names of all Secrets a pod refers to, in whatever way.
pub fn secrets_of(pod: &Pod) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    let pulls = pod.spec.as_ref().and_then(|spec| spec.image_pull_secrets.as_ref());
    out.extend(pulls.into_iter().flatten().map(|pull| pull.name.clone()));
    collect(&client::plan::to_value(pod)["spec"], &mut out);
    out
}

fn collect(value: &Value, out: &mut BTreeSet<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect(item, out)),
        Value::Object(fields) => {
            for (key, value) in fields {
                let name = match key.as_str() {
                    "secretName" => value.as_str(),
                    "secret" | "secretRef" | "secretKeyRef" | "nodePublishSecretRef" => {
                        value["name"].as_str()
                    }
                    _ => None,
                };
                out.extend(name.map(str::to_owned));
                collect(value, out);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl Fn(&mut Value), used: bool, expect: &str) {
        let mut all = json!({
            "secret": {"metadata": {"name": "t", "namespace": "n", "uid": "S",
                "creationTimestamp": "2028-01-01T00:00:00Z", "labels": {}, "annotations": {ACCOUNT_UID: "A"}},
                "type": "kubernetes.io/service-account-token"},
            "account": {"metadata": {"name": "a", "namespace": "n", "uid": "A"}, "secrets": [{"name": "t"}]},
            "since": "2028-01-01",
        });
        change(&mut all);
        let secret: Secret = serde_json::from_value(all["secret"].take()).expect("a Secret");
        let account: ServiceAccount = serde_json::from_value(all["account"].take()).expect("an account");
        let limit = Duration::from_secs(365 * 86_400);
        let around = Around { account: Some(&account), since: all["since"].as_str(), used: &|| used, limit };
        let plan = plan(&secret, &around, "2030-06-01T12:00:00Z".parse().expect("a time"));
        let steps: Vec<String> = plan
            .steps()
            .iter()
            .map(|step| step.summary().split(" {").next().unwrap_or_default().to_owned())
            .collect();
        assert_eq!(steps.join(", "), expect, "{secret:?}");
    }

    #[test]
    fn unused_generated_tokens_are_marked_then_removed() {
        let label = |key: &'static str, text: &'static str| {
            move |all: &mut Value| all["secret"]["metadata"]["labels"][key] = json!(text)
        };
        check(|_| {}, false, "patch secrets n/t");
        check(|_| {}, true, "");
        check(label(LAST_USED, "2029-05-31"), false, "patch secrets n/t");
        check(label(LAST_USED, "2029-06-01"), false, "");
        check(label(LAST_USED, "lately"), false, "");
        check(label(INVALID_SINCE, "2029-05-31"), false, "delete secrets n/t");
        check(label(INVALID_SINCE, "2029-06-02"), false, "");
        check(label(INVALID_SINCE, "?"), false, "patch secrets n/t");
        check(|all| all["account"]["secrets"] = json!([]), false, "");
        check(|all| all["account"]["metadata"]["uid"] = json!("B"), false, "");
        check(|all| all["since"] = json!("2029-06-01"), false, "");
        check(|all| all["since"] = Value::Null, false, "");
        check(
            |all| all["secret"]["metadata"]["creationTimestamp"] = json!("2030-01-01T00:00:00Z"),
            false,
            "",
        );
        check(|all| all["secret"]["type"] = json!("Opaque"), false, "");
    }

    #[test]
    fn all_ways_to_refer_to_a_secret_count() {
        let env = json!([{"name": "E", "valueFrom": {"secretKeyRef": {"name": "b", "key": "k"}}}]);
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "imagePullSecrets": [{"name": "a"}],
            "initContainers": [{"name": "i", "env": env}],
            "containers": [{"name": "c", "envFrom": [{"secretRef": {"name": "c"}}]}],
            "volumes": [
                {"name": "v", "secret": {"secretName": "d"}},
                {"name": "w", "projected": {"sources": [{"secret": {"name": "e"}}]}},
                {"name": "x", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "f"}}},
            ],
        }}))
        .expect("a pod");
        assert_eq!(secrets_of(&pod).into_iter().collect::<String>(), "abcdef");
    }
}
