//! What the server tells of itself: metrics and health checks.

use api::user::UserInfo;
use http::{Method, Request};
use serde_json::json;

use crate::Api;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn metrics_tell_of_requests_objects_and_the_process() {
    let api = Api::new().await;
    api.create(MAPS, json!({"metadata": {"name": "a"}})).await;
    api.get(&format!("{MAPS}/none")).await;
    api.get("/api/v1/namespaces/default/nosuch").await;
    api.get(&format!("{MAPS}/a/nosuch")).await;
    api.send(Method::GET, &format!("{MAPS}/a"), &[("authorization", "Bearer wrong")], "", None).await;
    let mut watch = Request::get(format!("{MAPS}?watch=true")).body(base::http::empty()).expect("a request");
    watch.extensions_mut().insert(UserInfo::component("admin", &["system:masters"]));
    let watching = api.0.call(watch).await;
    let text = String::from_utf8(api.get("/metrics").await.bytes).expect("text");
    let value = |series: &str| -> f64 {
        let line =
            text.lines().find(|line| line.starts_with(series) && line[series.len()..].starts_with(' '));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
            .unwrap_or_else(|| panic!("{series}: {text}"))
    };
    let row = "component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"configmaps\",scope=\"resource\",subresource=\"\"";
    for (code, verb) in [("201", "POST"), ("404", "GET")] {
        let series =
            format!("apiserver_request_total{{code=\"{code}\",{row},verb=\"{verb}\",version=\"v1\"}}");
        assert!(value(&series) >= 1.0, "{series}");
    }
    assert!(!text.contains("nosuch"), "names of nothing make no series");
    let names = [
        "authentication_attempts{result=\"success\"}",
        "authentication_attempts{result=\"failure\"}",
        "authorization_attempts_total{result=\"allowed\"}",
        "apiserver_storage_objects{resource=\"configmaps\"}",
        "apiserver_storage_objects{resource=\"clusterroles.rbac.authorization.k8s.io\"}",
        "apiserver_flowcontrol_nominal_limit_seats{priority_level=\"global-default\"}",
        "apiserver_flowcontrol_dispatched_requests_total{flow_schema=\"exempt\",priority_level=\"exempt\"}",
        "apiserver_admission_step_admission_duration_seconds_count{operation=\"CREATE\",rejected=\"false\",type=\"admit\"}",
        "apiserver_admission_controller_admission_duration_seconds_count{name=\"LimitRanger\",operation=\"CREATE\",rejected=\"false\",type=\"validate\"}",
        "process_resident_memory_bytes",
    ];
    let running = "apiserver_longrunning_requests{component=\"apiserver\",group=\"\",resource=\"configmaps\",scope=\"namespace\",subresource=\"\",verb=\"WATCH\",version=\"v1\"}";
    assert!(value(running) >= 1.0);
    drop(watching);
    names.into_iter().for_each(|name| assert!(value(name) >= 1.0, "{name}"));
    assert!(value("apiserver_current_inflight_requests{request_kind=\"mutating\"}").abs() < f64::EPSILON);
}

#[tokio::test]
async fn each_health_check_has_its_path() {
    let api = Api::new().await;
    for (path, code, body) in [
        ("/readyz/etcd", 200, "ok"),
        ("/readyz/shutdown", 200, "ok"),
        ("/livez/shutdown", 404, "404 page not found\n"),
        ("/healthz/poststarthook/rbac/bootstrap-roles", 200, "ok"),
        ("/readyz/none", 404, "404 page not found\n"),
    ] {
        let answer = api.get(path).await;
        assert_eq!((answer.code, String::from_utf8_lossy(&answer.bytes).as_ref()), (code, body), "{path}");
    }
    let told =
        String::from_utf8(api.get("/readyz?verbose&exclude=etcd&exclude=z").await.bytes).expect("text");
    assert!(told.starts_with("[+]ping ok\n[+]log ok\n[+]etcd excluded: ok\n"), "{told}");
    assert!(told.ends_with("no matches for \"z\"\nreadyz check passed\n"), "{told}");
    let paths = api.get("/").await.json();
    let all: Vec<&str> = paths["paths"].as_array().into_iter().flatten().filter_map(|p| p.as_str()).collect();
    assert!(all.contains(&"/livez/autoregister-completion") && all.contains(&"/readyz"), "{all:?}");
}
