//! Sample manifests and what upstream 1.36.2 stores for them.

use registry::Catalog;
use serde_json::{Value, json};

fn defaulted(group: &str, version: &str, kind: &str, mut object: Value) -> Value {
    let catalog = Catalog::builtin();
    catalog.by_kind(group, version, kind).expect("kind").default(&mut object);
    object
}

#[test]
fn a_small_pod() {
    let pod = json!({"spec": {"containers": [{"name": "c", "image": "nginx", "ports": [{"containerPort": 80}],
        "resources": {"limits": {"cpu": "500m"}}, "livenessProbe": {"httpGet": {"port": 80}}}]}});
    let spec = defaulted("", "v1", "Pod", pod)["spec"].take();
    let expected = json!({
        "containers": [{
            "name": "c", "image": "nginx", "imagePullPolicy": "Always",
            "ports": [{"containerPort": 80, "protocol": "TCP"}],
            "resources": {"limits": {"cpu": "500m"}, "requests": {"cpu": "500m"}},
            "livenessProbe": {"httpGet": {"path": "/", "port": 80, "scheme": "HTTP"}, "timeoutSeconds": 1,
                "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}],
        "dnsPolicy": "ClusterFirst", "enableServiceLinks": true, "restartPolicy": "Always",
        "schedulerName": "default-scheduler", "securityContext": {}, "terminationGracePeriodSeconds": 30});
    assert_eq!(spec, expected);
}

#[test]
fn tags_decide_the_pull_policy() {
    let cases = [
        ("a", "Always"),
        ("a:latest", "Always"),
        ("a:1", "IfNotPresent"),
        ("h:5000/a", "Always"),
        ("a@sha256:00", "IfNotPresent"),
    ];
    for (image, policy) in cases {
        let pod = json!({"spec": {"containers": [{"name": "c", "image": image}]}});
        let pod = defaulted("", "v1", "Pod", pod);
        assert_eq!(pod["spec"]["containers"][0]["imagePullPolicy"], policy, "{image}");
    }
}

#[test]
fn workloads() {
    let template = json!({"spec": {"containers": []}});
    let d = defaulted("apps", "v1", "Deployment", json!({"spec": {"template": template}}));
    assert_eq!(d["spec"]["replicas"], 1);
    assert_eq!(d["spec"]["revisionHistoryLimit"], 10);
    assert_eq!(d["spec"]["progressDeadlineSeconds"], 600);
    let rolling =
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}});
    assert_eq!(d["spec"]["strategy"], rolling);
    let s = defaulted("apps", "v1", "StatefulSet", json!({"spec": {"template": template}}));
    assert_eq!(s["spec"]["podManagementPolicy"], "OrderedReady");
    assert_eq!(
        s["spec"]["updateStrategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}})
    );
    let j = defaulted("batch", "v1", "Job", json!({"spec": {"template": template}}));
    assert_eq!((&j["spec"]["completions"], &j["spec"]["backoffLimit"]), (&json!(1), &json!(6)));
    assert_eq!(j["spec"]["completionMode"], "NonIndexed");
}

#[test]
fn defaults_are_stable() {
    let service = json!({"spec": {"ports": [{"port": 80}]}});
    let once = defaulted("", "v1", "Service", service);
    assert_eq!(once["spec"]["ports"][0], json!({"port": 80, "protocol": "TCP", "targetPort": 80}));
    assert_eq!(once["spec"]["internalTrafficPolicy"], "Cluster");
    assert_eq!(defaulted("", "v1", "Service", once.clone()), once);
}
