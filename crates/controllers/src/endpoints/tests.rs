//! Objects in, plan out.

use std::sync::Arc;

use api::k8s::api::core::v1::{Endpoints, Pod, Service};
use api::k8s::api::discovery::v1::EndpointSlice;
use client::{Plan, Step};
use serde_json::{Value, json};

use super::{facts, mirror, plain, slices};

fn service(more: Value) -> Service {
    let mut spec = json!({
        "selector": {"app": "web"}, "clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"],
        "ports": [{"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP"}],
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "n", "uid": "S", "labels": {"l": "v"}}, "spec": spec,
    }))
    .expect("a Service")
}

fn pod(number: usize, ready: bool, deleting: bool) -> Arc<Pod> {
    let mut pod = json!({
        "metadata": {"name": format!("p{number}"), "namespace": "n", "uid": format!("u{number}"), "labels": {"app": "web"}},
        "spec": {"nodeName": "node", "hostname": "h", "subdomain": "web", "containers": [
            {"name": "c", "ports": [{"name": "web", "containerPort": 8080, "protocol": "TCP"}]},
        ]},
        "status": {
            "phase": "Running", "podIPs": [{"ip": format!("10.1.{}.{}", number / 250, number % 250)}],
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
        },
    });
    if deleting {
        pod["metadata"]["deletionTimestamp"] = json!("2030-01-01T00:00:00Z");
    }
    Arc::new(serde_json::from_value(pod).expect("a Pod"))
}

fn written(plan: &Plan) -> Vec<Value> {
    let object = |step: &&Step| match step {
        Step::Create { object, .. } | Step::Update { object, .. } => Some(object.clone()),
        _ => None,
    };
    plan.steps().iter().filter_map(object).collect()
}

fn stored(plan: &Plan) -> Vec<Arc<EndpointSlice>> {
    let read = |(index, mut object): (usize, Value)| {
        object["metadata"]["name"] = json!(format!("web-{index}"));
        Arc::new(serde_json::from_value(object).expect("a slice"))
    };
    written(plan).into_iter().enumerate().map(read).collect()
}

#[test]
fn conditions_and_names_of_endpoints() {
    let zone = |node: &str| (node == "node").then(|| "z".to_owned());
    let pods = [pod(1, true, false), pod(2, false, false), pod(3, true, true)];
    let made = slices::plan(&service(Value::Null), &pods, &[], &zone);
    let slice = &written(&made)[0];
    assert_eq!(slice["metadata"]["labels"]["kubernetes.io/service-name"], "web");
    assert_eq!(slice["metadata"]["labels"]["l"], "v");
    assert_eq!(slice["ports"], json!([{"name": "http", "port": 8080, "protocol": "TCP"}]));
    let states: Vec<String> = slice["endpoints"]
        .as_array()
        .expect("endpoints")
        .iter()
        .map(|endpoint| {
            let flag = |name: &str| if endpoint["conditions"][name] == true { name } else { "-" }.to_owned();
            [flag("ready"), flag("serving"), flag("terminating")].join(" ")
        })
        .collect();
    assert_eq!(states, ["ready serving -", "- - -", "- serving terminating"]);
    let first = &slice["endpoints"][0];
    assert_eq!(
        (&first["hostname"], &first["zone"], &first["nodeName"]),
        (&json!("h"), &json!("z"), &json!("node"))
    );
    let again = slices::plan(&service(Value::Null), &pods, &stored(&made), &zone);
    assert!(again.is_empty(), "{again:?}");
}

#[test]
fn slices_hold_a_hundred_and_are_reused() {
    let zone = |_: &str| None;
    let pods: Vec<Arc<Pod>> = (0..250).map(|number| pod(number, true, false)).collect();
    let made = slices::plan(&service(Value::Null), &pods, &[], &zone);
    let sizes: Vec<usize> =
        written(&made).iter().map(|slice| slice["endpoints"].as_array().map_or(0, Vec::len)).collect();
    assert_eq!(sizes, [100, 100, 50]);
    let fewer = slices::plan(&service(Value::Null), &pods[..249], &stored(&made), &zone);
    assert_eq!(fewer.steps().len(), 1, "only one slice changes");
    let none = slices::plan(&service(Value::Null), &[], &[], &zone);
    assert_eq!(written(&none)[0]["endpoints"], json!([]));
    assert!(slices::plan(&service(Value::Null), &[], &stored(&none), &zone).is_empty());
}

#[test]
fn endpoints_split_by_readiness() {
    let pods = [pod(1, true, false), pod(2, false, false), pod(3, true, true)];
    let made = plain::plan(&service(json!({"clusterIP": "None"})), &pods, None);
    let object = &written(&made)[0];
    assert_eq!(object["subsets"][0]["addresses"][0]["ip"], "10.1.0.1");
    assert_eq!(object["subsets"][0]["notReadyAddresses"][0]["ip"], "10.1.0.2");
    assert_eq!(object["subsets"][0]["addresses"].as_array().map(Vec::len), Some(1));
    assert_eq!(object["metadata"]["labels"]["service.kubernetes.io/headless"], "");
    let known: Endpoints = serde_json::from_value(object.clone()).expect("Endpoints");
    assert!(plain::plan(&service(json!({"clusterIP": "None"})), &pods, Some(&known)).is_empty());
    let publishing = service(json!({"publishNotReadyAddresses": true}));
    assert_eq!(
        written(&plain::plan(&publishing, &pods, None))[0]["subsets"][0]["addresses"]
            .as_array()
            .map(Vec::len),
        Some(3)
    );
}

#[test]
fn manual_endpoints_are_mirrored() {
    let endpoints: Endpoints = serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "n"},
        "subsets": [{"addresses": [{"ip": "1.2.3.4"}], "ports": [{"port": 99, "protocol": "TCP"}]}],
    }))
    .expect("Endpoints");
    let bare = service(json!({"selector": null}));
    let made = mirror::plan(Some(&bare), Some(&endpoints), &[]);
    assert_eq!(written(&made)[0]["endpoints"][0]["addresses"][0], "1.2.3.4");
    assert!(mirror::plan(Some(&bare), Some(&endpoints), &stored(&made)).is_empty());
    assert_eq!(mirror::plan(None, Some(&endpoints), &stored(&made)).steps().len(), 1, "the mirror goes");
    assert!(mirror::plan(Some(&service(Value::Null)), Some(&endpoints), &[]).is_empty(), "it has a selector");
}

#[test]
fn services_that_lead_elsewhere_select_nothing() {
    assert!(!facts::selector(&service(Value::Null)).is_nothing());
    assert!(facts::selector(&service(json!({"selector": {}}))).is_nothing());
    assert!(facts::selector(&service(json!({"type": "ExternalName"}))).is_nothing());
}
