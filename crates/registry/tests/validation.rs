//! Objects with what upstream 1.36.2 says about them: `field: message` per line, compared as sets.
//! The expectations were read from a real API server.

use registry::{Catalog, Context, lifecycle};
use serde_json::{Value, json};

/// Creates the object as the API server would and gives the errors, sorted.
fn errors(group: &str, version: &str, kind: &str, mut object: Value) -> Vec<String> {
    let catalog = Catalog::builtin();
    let resource = catalog.by_kind(group, version, kind).expect("kind").clone();
    let user = api::UserInfo::component("test", &[]);
    let now = jiff::Timestamp::UNIX_EPOCH;
    let cx = Context { now, user: Some(&user), resource: &resource };
    resource.default(&mut object);
    let namespace = if resource.namespaced { "default" } else { "" };
    let done = lifecycle::before_create(&cx, namespace, &mut object, || "u".into(), || "xxxxx".into());
    let Err(error) = done else { return Vec::new() };
    let status = error.to_status();
    let causes = status["details"]["causes"].as_array().cloned().unwrap_or_default();
    let line =
        |c: &Value| format!("{}: {}", c["field"].as_str().unwrap_or(""), c["message"].as_str().unwrap_or(""));
    let mut all: Vec<String> = causes.iter().map(line).collect();
    all.sort();
    all
}

fn check(group: &str, version: &str, kind: &str, object: Value, mut expected: Vec<&str>) {
    expected.sort_unstable();
    assert_eq!(errors(group, version, kind, object), expected, "{kind}");
}

#[test]
fn a_pod_without_containers() {
    let pod = json!({"metadata": {"name": "p"}, "spec": {"restartPolicy": "Foo"}});
    let expected = vec![
        "spec.containers: Required value",
        "spec.restartPolicy: Unsupported value: \"Foo\": supported values: \"Always\", \"OnFailure\", \"Never\"",
    ];
    check("", "v1", "Pod", pod, expected);
}

#[test]
fn a_mount_of_nothing() {
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [
        {"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": ""}]}]}});
    let expected = vec![
        "spec.containers[0].volumeMounts[0].mountPath: Required value",
        "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
    ];
    check("", "v1", "Pod", pod, expected);
}

#[test]
fn a_deployment_that_selects_others() {
    let deployment = json!({"metadata": {"name": "d"}, "spec": {
        "replicas": -1,
        "selector": {"matchLabels": {"a": "b"}},
        "strategy": {"type": "Foo"},
        "template": {"metadata": {"labels": {"a": "c"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let expected = vec![
        "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
        "spec.strategy: Unsupported value: {\"Type\":\"Foo\",\"RollingUpdate\":null}: supported values: \"Recreate\", \"RollingUpdate\"",
        "spec.template.metadata.labels: Invalid value: {\"a\":\"c\"}: `selector` does not match template `labels`",
    ];
    check("apps", "v1", "Deployment", deployment, expected);
}

#[test]
fn a_budget_of_both_kinds() {
    let budget = json!({"metadata": {"name": "p"}, "spec": {"minAvailable": 1, "maxUnavailable": 1}});
    let expected = vec![
        "spec: Invalid value: {\"MinAvailable\":1,\"Selector\":null,\"MaxUnavailable\":1,\"UnhealthyPodEvictionPolicy\":null}: minAvailable and maxUnavailable cannot be both set",
    ];
    check("policy", "v1", "PodDisruptionBudget", budget, expected);
}

#[test]
fn names_follow_their_kind() {
    check(
        "",
        "v1",
        "Namespace",
        json!({"metadata": {"name": "a.b"}}),
        vec!["metadata.name: Invalid value: \"a.b\": must not contain dots"],
    );
    let role = json!({"metadata": {"name": "system:x"}, "rules": []});
    check("rbac.authorization.k8s.io", "v1", "Role", role, vec![]);
}

#[test]
fn a_webhook_with_a_bad_condition() {
    let hooks = json!({"metadata": {"name": "w"}, "webhooks": [{
        "name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"url": "https://x"},
        "matchConditions": [{"name": "x", "expression": "1"}]}]});
    let expected = vec![
        "webhooks[0].matchConditions[0].expression: Invalid value: \"1\": must evaluate to bool but got int",
    ];
    check("admissionregistration.k8s.io", "v1", "ValidatingWebhookConfiguration", hooks, expected);
}

#[test]
fn a_definition_that_is_not_structural() {
    let crd = json!({"metadata": {"name": "foos.a.b"}, "spec": {
        "group": "a.b", "scope": "Namespaced", "names": {"plural": "foos", "kind": "Foo"},
        "versions": [{"name": "v1", "served": true, "storage": true,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {}}}}}]}});
    let expected = vec![
        "spec.validation.openAPIV3Schema.properties[spec].type: Required value: must not be empty for specified object fields",
    ];
    check("apiextensions.k8s.io", "v1", "CustomResourceDefinition", crd, expected);
}
