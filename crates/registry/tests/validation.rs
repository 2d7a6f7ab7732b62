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

#[test]
fn volumes_of_older_systems() {
    let pod = |volume: Value| json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}], "volumes": [volume]}});
    let at = "spec.volumes[0]";
    let blob =
        "supported values: \"https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd\"";
    let cases = [
        (json!({"name": "v", "rbd": {}}), vec!["rbd.monitors: Required value", "rbd.image: Required value"]),
        (
            json!({"name": "v", "flocker": {"datasetName": "a/b"}}),
            vec!["flocker.datasetName: Invalid value: \"a/b\": must not contain '/'"],
        ),
        (
            json!({"name": "v", "azureDisk": {"diskName": "d", "diskURI": "u", "kind": "Odd", "cachingMode": "Odd"}}),
            vec![
                "azureDisk.cachingMode: Unsupported value: \"Odd\": supported values: \"None\", \"ReadOnly\", \"ReadWrite\"",
                "azureDisk.kind: Unsupported value: \"Odd\": supported values: \"Dedicated\", \"Managed\", \"Shared\"",
                "azureDisk.diskURI: Unsupported value: \"u\": BLOB",
            ],
        ),
        (
            json!({"name": "v", "azureDisk": {"diskName": "d", "diskURI": "/subscriptions/x", "kind": "Managed"}}),
            vec![],
        ),
    ];
    for (volume, expected) in cases {
        let expected: Vec<String> =
            expected.iter().map(|line| format!("{at}.{}", line.replace("BLOB", blob))).collect();
        check("", "v1", "Pod", pod(volume), expected.iter().map(String::as_str).collect());
    }
}

#[test]
fn finalizers_of_any_name_where_upstream_takes_them() {
    let meta = json!({"name": "x", "finalizers": ["odd"]});
    let odd = "metadata.finalizers[0]: Invalid value: \"odd\": name is neither a standard finalizer name nor is it fully qualified";
    check("", "v1", "ConfigMap", json!({"metadata": meta}), vec![odd]);
    check("node.k8s.io", "v1", "RuntimeClass", json!({"metadata": meta, "handler": "h"}), vec![]);
    let budget =
        json!({"metadata": meta, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}}});
    check("policy", "v1", "PodDisruptionBudget", budget, vec![]);
}

#[test]
fn labels_and_names_count_in_their_own_units() {
    let long = "x".repeat(254);
    let name = format!("metadata.name: Invalid value: {long:?}: must be no more than 253 characters");
    check("", "v1", "ConfigMap", json!({"metadata": {"name": long}}), vec![&name]);
    let value = "x".repeat(64);
    let label = format!("metadata.labels: Invalid value: {value:?}: must be no more than 63 bytes");
    check("", "v1", "ConfigMap", json!({"metadata": {"name": "x", "labels": {"a": value}}}), vec![&label]);
}

#[test]
fn a_nodes_address_range_follows_the_older_field() {
    let catalog = Catalog::builtin();
    let node = catalog.by_kind("", "v1", "Node").expect("kind");
    for (spec, one, all) in [
        (json!({"podCIDR": "10.0.0.0/24"}), json!("10.0.0.0/24"), json!(["10.0.0.0/24"])),
        (json!({"podCIDRs": ["10.0.0.0/24"]}), json!("10.0.0.0/24"), json!(["10.0.0.0/24"])),
        (
            json!({"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.0.0.0/24", "::/64"]}),
            json!("10.1.0.0/24"),
            json!(["10.1.0.0/24"]),
        ),
        (json!({}), Value::Null, Value::Null),
    ] {
        let mut object = json!({"metadata": {"name": "n"}, "spec": spec});
        node.default(&mut object);
        assert_eq!((&object["spec"]["podCIDR"], &object["spec"]["podCIDRs"]), (&one, &all), "{spec}");
    }
}
