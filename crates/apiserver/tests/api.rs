//! The server in process over the memory store: requests in, answers out.

#[path = "api/answers.rs"]
mod answers;
#[path = "api/identity.rs"]
mod identity;
#[path = "api/operation.rs"]
mod operation;
#[path = "api/rights.rs"]
mod rights;

use std::time::Duration;

use api::user::UserInfo;
use apiserver::{Config, Rows, Server};
use base::{Clock, Rng, Tasks};
use http::{Method, Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use store::{Engine, Options, Store};

struct Api(Server);

struct Answer {
    code: u16,
    headers: http::HeaderMap,
    bytes: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or(Value::Null)
    }

    fn message(&self) -> String {
        self.json()["message"].as_str().unwrap_or("").to_owned()
    }
}

impl Api {
    async fn new() -> Api {
        let (clock, rng) = (Clock::system(), Rng::seeded(7));
        let rows = Rows::builtin();
        let store =
            Store::open(Engine::Memory, Options::new(rows.indexer(), clock.clone())).await.expect("memory");
        let config = Config {
            tokens: "t-alice,alice,1,devs".to_owned(),
            service_account_signing_key: Some(base::pki::new_key_pem().expect("a key")),
            ..Config::default()
        };
        let server = Server::new(config, rows, store, clock, rng, Tasks::new()).expect("a server");
        server.start().await.expect("boots");
        let api = Api(server);
        api.create("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}}))
            .await;
        api
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Vec<u8>>,
        user: Option<UserInfo>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(base::http::full(body.into())).expect("a request");
        if let Some(user) = user {
            request.extensions_mut().insert(user);
        }
        let response = self.0.call(request).await;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.expect("a body").to_bytes().to_vec();
        Answer { code: parts.status.as_u16(), headers: parts.headers, bytes }
    }

    async fn admin(&self, method: Method, path: &str, media: &str, body: impl Into<Vec<u8>>) -> Answer {
        let user = UserInfo::component("admin", &["system:masters"]);
        self.send(method, path, &[("content-type", media)], body, Some(user)).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.admin(Method::GET, path, "application/json", "").await
    }

    async fn create(&self, path: &str, body: Value) -> Answer {
        self.admin(Method::POST, path, "application/json", body.to_string()).await
    }

    async fn patch(&self, path: &str, body: Value) -> Answer {
        self.admin(Method::PATCH, path, "application/merge-patch+json", body.to_string()).await
    }
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"a": "1"}})
}

#[tokio::test]
async fn objects_are_created_read_changed_and_deleted() {
    let api = Api::new().await;
    let made = api.create(MAPS, map("m")).await;
    assert_eq!(made.code, 201);
    let first = made.json()["metadata"]["resourceVersion"].clone();
    assert_eq!(api.create(MAPS, map("m")).await.message(), "configmaps \"m\" already exists");
    let same = api.patch(&format!("{MAPS}/m"), json!({"data": {"a": "1"}})).await;
    assert_eq!(same.json()["metadata"]["resourceVersion"], first, "no change, no revision");
    let changed = api.patch(&format!("{MAPS}/m"), json!({"data": {"b": "2"}})).await.json();
    assert_ne!(changed["metadata"]["resourceVersion"], first);
    let mut stale = changed.clone();
    stale["metadata"]["resourceVersion"] = first;
    let answer = api.admin(Method::PUT, &format!("{MAPS}/m"), "application/json", stale.to_string()).await;
    assert_eq!((answer.code, answer.json()["reason"].clone()), (409, json!("Conflict")));
    let gone = api.admin(Method::DELETE, &format!("{MAPS}/m"), "application/json", "").await;
    assert_eq!((gone.code, gone.json()["status"].clone()), (200, json!("Success")));
    assert_eq!(api.get(&format!("{MAPS}/m")).await.message(), "configmaps \"m\" not found");
}

#[tokio::test]
async fn finalizers_hold_a_deletion() {
    let api = Api::new().await;
    let mut object = map("f");
    object["metadata"]["finalizers"] = json!(["x.io/hold"]);
    api.create(MAPS, object).await;
    let marked = api.admin(Method::DELETE, &format!("{MAPS}/f"), "application/json", "").await.json();
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    api.patch(&format!("{MAPS}/f"), json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(api.get(&format!("{MAPS}/f")).await.code, 404);
}

#[tokio::test]
async fn lists_come_in_pages_of_one_revision() {
    let api = Api::new().await;
    for name in ["p1", "p2", "p3", "p4", "p5"] {
        assert_eq!(api.create(PODS, pod(name)).await.code, 201);
    }
    let first = api.get(&format!("{PODS}?limit=2")).await.json();
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    api.admin(Method::DELETE, &format!("{PODS}/p3?gracePeriodSeconds=0"), "application/json", "").await;
    let token = first["metadata"]["continue"].as_str().expect("more").to_owned();
    let second = api.get(&format!("{PODS}?limit=2&continue={token}")).await.json();
    assert_eq!(second["items"][0]["metadata"]["name"], "p3", "the snapshot is the first page's");
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let labelled = api.get(&format!("{PODS}?labelSelector=app%3Dp2")).await.json();
    assert_eq!(labelled["items"].as_array().map(Vec::len), Some(1));
    let unbound = api.get(&format!("{PODS}?fieldSelector=spec.nodeName%3D")).await.json();
    assert_eq!(unbound["items"].as_array().map(Vec::len), Some(4));
    assert_eq!(api.get(&format!("{PODS}?fieldSelector=spec.foo%3D")).await.code, 400);
}

#[tokio::test]
async fn watches_tell_what_a_selector_sees() {
    let api = Api::new().await;
    let start =
        api.get(PODS).await.json()["metadata"]["resourceVersion"].as_str().expect("a revision").to_owned();
    api.create(PODS, pod("w")).await;
    api.patch(&format!("{PODS}/w"), json!({"metadata": {"labels": {"app": "other"}}})).await;
    let path = format!("{PODS}?watch=1&resourceVersion={start}&labelSelector=app%3Dw&timeoutSeconds=1");
    let bytes = api.get(&path).await.bytes;
    let kinds: Vec<String> = String::from_utf8_lossy(&bytes)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok()?["type"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(kinds, ["ADDED", "DELETED"]);
    let path = format!(
        "{PODS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1"
    );
    let text = String::from_utf8(api.get(&path).await.bytes).expect("UTF-8");
    assert!(text.lines().last().is_some_and(|line| line.contains("k8s.io/initial-events-end")), "{text}");
}

#[tokio::test]
async fn other_forms_are_negotiated() {
    let api = Api::new().await;
    api.create(PODS, pod("n")).await;
    let admin = || Some(UserInfo::component("admin", &["system:masters"]));
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let answer = api.send(Method::GET, PODS, &[("accept", table)], "", admin()).await.json();
    assert_eq!((answer["kind"].clone(), answer["rows"][0]["cells"][0].clone()), (json!("Table"), json!("n")));
    let answer = api
        .send(
            Method::GET,
            &format!("{PODS}/n"),
            &[("accept", "application/vnd.kubernetes.protobuf")],
            "",
            admin(),
        )
        .await;
    assert_eq!(&answer.bytes[..4], b"k8s\0");
    let back = api
        .send(
            Method::PUT,
            &format!("{PODS}/n"),
            &[("content-type", "application/vnd.kubernetes.protobuf")],
            answer.bytes,
            admin(),
        )
        .await;
    assert_eq!(back.code, 200, "{}", back.message());
    assert_eq!(api.send(Method::GET, PODS, &[("accept", "image/png")], "", admin()).await.code, 406);
    assert_eq!(api.send(Method::POST, PODS, &[("content-type", "text/plain")], "x", admin()).await.code, 415);
}

#[tokio::test]
async fn delete_options_of_any_group_will_do() {
    let api = Api::new().await;
    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let facts = machinery::schema::facts().meta("DeleteOptions").expect("known");
    let text =
        json!({"kind": "DeleteOptions", "apiVersion": "coordination.k8s.io/v1", "gracePeriodSeconds": 0});
    let encoded = machinery::codec::proto::encode_object(facts, &text);
    for (media, body) in [
        ("application/json", text.to_string().into_bytes()),
        ("application/vnd.kubernetes.protobuf", encoded),
    ] {
        assert_eq!(api.create(leases, json!({"metadata": {"name": "l"}, "spec": {}})).await.code, 201);
        let answer = api.admin(Method::DELETE, &format!("{leases}/l"), media, body).await;
        assert_eq!(answer.code, 200, "{media}: {}", answer.message());
    }
}

#[tokio::test]
async fn events_of_either_group_are_found_by_both() {
    let api = Api::new().await;
    let new = "/apis/events.k8s.io/v1/namespaces/default/events";
    let event = json!({"metadata": {"name": "e"}, "reportingController": "me", "reportingInstance": "i", "action": "a",
        "reason": "r", "type": "Normal", "eventTime": "2030-01-01T00:00:00.000000Z",
        "regarding": {"kind": "Pod", "namespace": "default", "name": "p"}});
    let made = api.create(new, event).await;
    assert_eq!(made.code, 201, "{}", made.message());
    for path in [
        format!("{new}?fieldSelector=reportingController%3Dme"),
        "/api/v1/namespaces/default/events?fieldSelector=source%3Dme,involvedObject.name%3Dp".to_owned(),
    ] {
        let items = api.get(&path).await.json()["items"].as_array().map(Vec::len);
        assert_eq!(items, Some(1), "{path}");
    }
}

#[tokio::test]
async fn bad_input_is_named() {
    let api = Api::new().await;
    let strict = format!("{PODS}?fieldValidation=Strict");
    let answer =
        api.create(&strict, json!({"metadata": {"name": "s"}, "spec": {"containers": [], "foo": 1}})).await;
    assert_eq!(
        answer.message(),
        "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: unknown field \"spec.foo\""
    );
    let warned = api.create(PODS, json!({"metadata": {"name": "s"}, "spec": {"containers": [{"name": "c", "image": "i"}], "foo": 1}})).await;
    assert_eq!(warned.headers["warning"], "299 - \"unknown field \\\"spec.foo\\\"\"");
    let answer = api.create(PODS, json!({"metadata": {"name": "UPPER"}, "spec": {}})).await;
    assert_eq!((answer.code, answer.json()["reason"].clone()), (422, json!("Invalid")));
    for body in ["", "{", "[]", "{\"kind\":\"Service\",\"apiVersion\":\"v1\"}"] {
        let answer = api.admin(Method::POST, PODS, "application/json", body).await;
        assert_eq!(answer.code, 400, "{body}: {}", answer.message());
    }
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(3 * 1024 * 1024));
    assert_eq!(api.admin(Method::POST, PODS, "application/json", large).await.code, 413);
    assert_eq!(
        api.create("/api/v1/namespaces/none/pods", pod("x")).await.message(),
        "namespaces \"none\" not found"
    );
    assert_eq!(api.get("/api/v1/namespaces/default/nodes").await.code, 404);
}

#[tokio::test]
async fn rights_are_checked() {
    let api = Api::new().await;
    let alice = [("authorization", "Bearer t-alice")];
    let answer = api.send(Method::GET, PODS, &alice, "", None).await;
    let expect = "pods is forbidden: User \"alice\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\"";
    assert_eq!((answer.code, answer.message().as_str()), (403, expect));
    let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    let binding = json!({"metadata": {"name": "b"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
        "subjects": [{"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": "devs"}]});
    assert_eq!(api.create(bindings, binding).await.code, 201);
    assert_eq!(api.send(Method::GET, PODS, &alice, "", None).await.code, 200);
    assert_eq!(api.send(Method::GET, "/api/v1/pods", &alice, "", None).await.code, 403);
    assert_eq!(api.send(Method::GET, PODS, &[("authorization", "Bearer no")], "", None).await.code, 401);
    assert_eq!(api.send(Method::GET, "/livez", &[], "", None).await.code, 200);
    assert_eq!(api.send(Method::GET, PODS, &[], "", None).await.code, 403);
}

#[tokio::test]
async fn service_account_tokens_live_with_their_objects() {
    let api = Api::new().await;
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let answer = api.create(path, json!({"spec": {}})).await;
    let token = answer.json()["status"]["token"].as_str().expect("a token").to_owned();
    let header = format!("Bearer {token}");
    let review = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let who = api.send(Method::POST, review, &[("authorization", &header)], "{}", None).await.json();
    assert_eq!(who["status"]["userInfo"]["username"], "system:serviceaccount:default:default");
    api.admin(Method::DELETE, "/api/v1/namespaces/default/serviceaccounts/default", "application/json", "")
        .await;
    assert_eq!(api.send(Method::POST, review, &[("authorization", &header)], "{}", None).await.code, 401);
}

#[tokio::test]
async fn a_node_asks_for_the_audiences_its_pods_name() {
    let api = Api::new().await;
    let uid = api.create(PODS, pod("a")).await.json()["metadata"]["uid"].clone();
    let binding = json!({"metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n1"}});
    assert_eq!(api.create(&format!("{PODS}/a/binding"), binding).await.code, 201);
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let bound = json!({"kind": "Pod", "apiVersion": "v1", "name": "a", "uid": uid});
    let ask = async |audiences: Value| {
        let request = json!({"spec": {"boundObjectRef": bound, "audiences": audiences}}).to_string();
        let node = UserInfo::component("system:node:n1", &["system:nodes"]);
        api.send(Method::POST, path, &[("content-type", "application/json")], request, Some(node)).await
    };
    assert_eq!(ask(json!([])).await.code, 201);
    let refused = ask(json!(["vault"])).await.message();
    let why = "audience \"vault\" not found in pod spec volume, system:node:n1 is not authorized";
    assert!(refused.contains(why), "{refused}");
    assert!(ask(json!(["a", "b"])).await.message().contains("node may only request 0 or 1 audiences"));
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let rules = json!([{"apiGroups": [""], "resources": ["vault"], "verbs": ["request-serviceaccounts-token-audience"]}]);
    let role = json!({"metadata": {"name": "vault"}, "rules": rules});
    assert_eq!(api.create(&format!("{rbac}/clusterroles"), role).await.code, 201);
    let group = json!([{"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": "system:nodes"}]);
    let role = json!({"kind": "ClusterRole", "apiGroup": "rbac.authorization.k8s.io", "name": "vault"});
    let binding = json!({"metadata": {"name": "vault"}, "subjects": group, "roleRef": role});
    assert_eq!(api.create(&format!("{rbac}/clusterrolebindings"), binding).await.code, 201);
    assert_eq!(ask(json!(["vault"])).await.code, 201);
}

#[tokio::test]
async fn services_get_addresses_and_ports() {
    let api = Api::new().await;
    let path = "/api/v1/namespaces/default/services";
    let service = |name: &str, spec: Value| json!({"metadata": {"name": name}, "spec": spec});
    let made =
        api.create(path, service("a", json!({"type": "NodePort", "ports": [{"port": 80}]}))).await.json();
    let (ip, port) = (made["spec"]["clusterIP"].clone(), made["spec"]["ports"][0]["nodePort"].clone());
    assert!(
        ip.as_str().is_some_and(|ip| ip.starts_with("10.")) && port.as_i64().is_some_and(|p| p >= 30_000),
        "{made}"
    );
    let taken = api.create(path, service("b", json!({"clusterIP": ip, "ports": [{"port": 80}]}))).await;
    assert!(taken.message().ends_with("provided IP is already allocated"), "{}", taken.message());
    let taken = api
        .create(path, service("b", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]})))
        .await;
    assert!(taken.message().ends_with("provided port is already allocated"), "{}", taken.message());
    api.admin(Method::DELETE, &format!("{path}/a"), "application/json", "").await;
    assert_eq!(
        api.create(path, service("b", json!({"clusterIP": ip, "ports": [{"port": 80}]}))).await.code,
        201
    );
    let headless =
        api.create(path, service("h", json!({"clusterIP": "None", "selector": {"a": "b"}}))).await.json();
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
}

#[tokio::test]
async fn definitions_become_resources() {
    let api = Api::new().await;
    let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object",
        "properties": {"size": {"type": "integer", "default": 3, "minimum": 1}}}}});
    let crd = json!({"metadata": {"name": "widgets.x.io"}, "spec": {"group": "x.io", "scope": "Namespaced",
        "names": {"plural": "widgets", "kind": "Widget"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}});
    let made = api.create(crds, crd).await;
    assert_eq!(made.code, 201, "{}", made.message());
    let widgets = "/apis/x.io/v1/namespaces/default/widgets";
    wait(|| async { api.get(widgets).await.code == 200 }).await;
    let widget = api.create(widgets, json!({"apiVersion": "x.io/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {"other": 1}})).await;
    assert_eq!(widget.json()["spec"], json!({"size": 3}), "{}", widget.message());
    let bad = api.create(widgets, json!({"apiVersion": "x.io/v1", "kind": "Widget", "metadata": {"name": "v"}, "spec": {"size": 0}})).await;
    assert_eq!(bad.code, 422, "{}", bad.message());
    api.admin(Method::DELETE, &format!("{crds}/widgets.x.io"), "application/json", "").await;
    wait(|| async { api.get(widgets).await.code == 404 }).await;
}

#[tokio::test]
async fn versions_of_custom_resources_share_what_the_stored_one_has() {
    let api = Api::new().await;
    let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let version = |name: &str, field: &str, stored: bool| {
        let fields = json!({"both": {"type": "string"}, field: {"type": "string"}});
        let spec = json!({"type": "object", "properties": fields});
        json!({"name": name, "served": true, "storage": stored,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}})
    };
    let crd = json!({"metadata": {"name": "gears.x.io"}, "spec": {"group": "x.io", "scope": "Namespaced",
        "names": {"plural": "gears", "kind": "Gear"},
        "versions": [version("v1", "old", true), version("v2", "new", false)]}});
    assert_eq!(api.create(crds, crd).await.code, 201);
    let gears = "/apis/x.io/v2/namespaces/default/gears";
    wait(|| async { api.get(gears).await.code == 200 }).await;
    let gear = json!({"apiVersion": "x.io/v2", "kind": "Gear", "metadata": {"name": "g"},
        "spec": {"both": "a", "new": "b"}});
    let merge = "application/merge-patch+json";
    let path = format!("{gears}/g");
    for query in ["?dryRun=All", ""] {
        let made = api.create(&format!("{gears}{query}"), gear.clone()).await;
        assert_eq!(made.json()["spec"], json!({"both": "a"}), "{}", made.message());
    }
    for query in ["?dryRun=All", ""] {
        let change = r#"{"spec": {"both": "c", "new": "d"}}"#;
        let changed = api.admin(Method::PATCH, &format!("{path}{query}"), merge, change).await;
        assert_eq!(changed.json()["spec"], json!({"both": "c"}), "{}", changed.message());
    }
    assert_eq!(api.get(&path).await.json()["spec"], json!({"both": "c"}));
}

async fn wait<F: Future<Output = bool>>(mut check: impl FnMut() -> F) {
    for _ in 0..500 {
        if check().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it did not happen in time");
}

#[tokio::test]
async fn the_service_of_the_api_comes_back() {
    let api = Api::new().await;
    let path = "/api/v1/namespaces/default/services/kubernetes";
    let before = api.get(path).await.json();
    let gone = api.admin(Method::DELETE, path, "application/json", "").await;
    assert_eq!(gone.code, 200, "{}", gone.message());
    let back = || async { api.get(path).await.json()["metadata"]["uid"] != before["metadata"]["uid"] };
    wait(|| async { api.get(path).await.code == 200 && back().await }).await;
    assert_eq!(api.get(path).await.json()["spec"]["clusterIP"], before["spec"]["clusterIP"]);
}

#[tokio::test]
async fn applies_conflict_and_take_over() {
    let api = Api::new().await;
    let path = format!("{MAPS}/a");
    let apply = |manager: &str, value: &str, force: bool| {
        let body =
            format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a}}\ndata: {{k: {value:?}}}\n");
        (format!("{path}?fieldManager={manager}&force={force}"), body)
    };
    for (manager, value, force, code) in
        [("one", "1", false, 201), ("two", "2", false, 409), ("two", "2", true, 200)]
    {
        let (path, body) = apply(manager, value, force);
        let answer = api.admin(Method::PATCH, &path, "application/apply-patch+yaml", body).await;
        assert_eq!(answer.code, code, "{}", answer.message());
    }
    assert_eq!(api.get(&path).await.json()["data"]["k"], "2");
}

#[tokio::test]
async fn pods_are_bound_evicted_and_counted() {
    let api = Api::new().await;
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "1"}}});
    assert_eq!(api.create("/api/v1/namespaces/default/resourcequotas", quota).await.code, 201);
    let made = api.create(PODS, pod("a")).await.json();
    assert_eq!(made["spec"]["serviceAccountName"], "default");
    assert_eq!(made["spec"]["volumes"].as_array().map(Vec::len), Some(1));
    let refused = api.create(PODS, pod("b")).await.message();
    assert_eq!(
        refused,
        "pods \"b\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1"
    );
    let place =
        json!({"topology.kubernetes.io/zone": "z1", "topology.kubernetes.io/region": "r1", "other": "x"});
    let node = json!({"metadata": {"name": "n1", "labels": place}});
    assert_eq!(api.create("/api/v1/nodes", node).await.code, 201);
    let binding = json!({"metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n1"}});
    assert_eq!(api.create(&format!("{PODS}/a/binding"), binding).await.code, 201);
    let worn = api.get(&format!("{PODS}/a")).await.json()["metadata"]["labels"].clone();
    assert_eq!(worn["topology.kubernetes.io/zone"], "z1");
    assert_eq!(worn["topology.kubernetes.io/region"], "r1");
    assert_eq!(worn["other"], Value::Null);
    assert_eq!(
        api.get(&format!("{PODS}?fieldSelector=spec.nodeName%3Dn1")).await.json()["items"][0]["metadata"]["name"],
        "a"
    );
    let marked = api.admin(Method::DELETE, &format!("{PODS}/a"), "application/json", "").await.json();
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "a"}, "deleteOptions": {"gracePeriodSeconds": 0}});
    assert_eq!(api.create(&format!("{PODS}/a/eviction"), eviction).await.code, 201);
    assert_eq!(api.get(&format!("{PODS}/a")).await.code, 404);
}

#[tokio::test]
async fn what_is_served_is_told() {
    let api = Api::new().await;
    for (path, key) in [
        ("/api", "versions"),
        ("/apis", "groups"),
        ("/api/v1", "resources"),
        ("/apis/apps/v1/", "resources"),
        ("/version", "gitVersion"),
        ("/openapi/v3", "paths"),
        ("/openid/v1/jwks", "keys"),
        ("/", "paths"),
    ] {
        assert!(!api.get(path).await.json()[key].is_null(), "{path}");
    }
    assert_eq!(api.get("/readyz").await.bytes, b"ok");
    assert_eq!(api.get("/apis/none").await.code, 404);
}

const ADMISSION: &str = "/apis/admissionregistration.k8s.io/v1";

/// Rules for all that is done to config maps.
fn config_maps() -> Value {
    json!({"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"],
        "resources": ["configmaps"]}]})
}

#[tokio::test]
async fn validating_policies_refuse_warn_and_take_parameters() {
    let api = Api::new().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    api.create(maps, json!({"metadata": {"name": "limits"}, "data": {"most": "2"}})).await;
    let spec = json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}, "matchConstraints": config_maps(),
        "variables": [{"name": "size", "expression": "has(object.data) ? size(object.data) : 0"}],
        "matchConditions": [{"name": "others", "expression": "request.name != 'limits'"}],
        "validations": [
            {"expression": "variables.size <= int(params.data.most)",
                "messageExpression": "'holds ' + string(variables.size) + ' of ' + params.data.most"},
            {"expression": "!has(object.data) || !('secret' in object.data) || authorizer.group('').resource('secrets').namespace(request.namespace).check('get').allowed()",
                "reason": "Forbidden"},
            {"expression": "namespaceObject.metadata.name == 'default'"}]});
    let policy = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "sizes"}, "spec": spec});
    let made = api.create(&format!("{ADMISSION}/validatingadmissionpolicies"), policy).await;
    assert_eq!(made.code, 201, "{}", made.message());
    let binding = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": "sizes-here"},
        "spec": {"policyName": "sizes", "validationActions": ["Deny"],
            "paramRef": {"name": "limits", "namespace": "default", "parameterNotFoundAction": "Deny"}}});
    let made = api.create(&format!("{ADMISSION}/validatingadmissionpolicybindings"), binding).await;
    assert_eq!(made.code, 201, "{}", made.message());
    let fine =
        api.create(maps, json!({"metadata": {"name": "fine"}, "data": {"a": "1", "secret": "2"}})).await;
    assert_eq!(fine.code, 201, "{}", fine.message());
    let much =
        api.create(maps, json!({"metadata": {"name": "much"}, "data": {"a": "1", "b": "2", "c": "3"}})).await;
    assert_eq!((much.code, much.json()["reason"].as_str()), (422, Some("Invalid")));
    assert_eq!(
        much.message(),
        "configmaps \"much\" is forbidden: ValidatingAdmissionPolicy 'sizes' with binding 'sizes-here' denied request: holds 3 of 2"
    );
    let warn = json!({"spec": {"validationActions": ["Warn", "Audit"]}});
    let path = format!("{ADMISSION}/validatingadmissionpolicybindings/sizes-here");
    api.admin(Method::PATCH, &path, "application/merge-patch+json", warn.to_string()).await;
    let much =
        api.create(maps, json!({"metadata": {"name": "much"}, "data": {"a": "1", "b": "2", "c": "3"}})).await;
    assert_eq!(much.code, 201);
    let warning = much.headers["warning"].to_str().expect("text");
    assert!(warning.contains("Validation failed for ValidatingAdmissionPolicy 'sizes'"), "{warning}");
    api.admin(Method::DELETE, &format!("{maps}/limits"), "application/json", "").await;
    let lost = api.create(maps, json!({"metadata": {"name": "lost"}})).await;
    assert!(lost.message().ends_with("denied request: failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"), "{}", lost.message());
    // Its own configuration is never judged.
    assert_eq!(api.admin(Method::DELETE, &path, "application/json", "").await.code, 200);
}

#[tokio::test]
async fn mutating_policies_merge_patch_and_run_again() {
    let api = Api::new().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    for (name, again, mutations) in [
        (
            "a-count",
            "IfNeeded",
            json!([{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
            "Object{metadata: Object.metadata{annotations: {'size': string(size(object.data))}}}"}}]),
        ),
        (
            "b-add",
            "Never",
            json!([{"patchType": "JSONPatch", "jsonPatch": {"expression":
            "[JSONPatch{op: 'add', path: '/data/' + jsonpatch.escapeKey('x.y'), value: 'added'}]"}}]),
        ),
    ] {
        let policy = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicy", "metadata": {"name": name},
            "spec": {"matchConstraints": config_maps(), "reinvocationPolicy": again, "mutations": mutations}});
        let made = api.create(&format!("{ADMISSION}/mutatingadmissionpolicies"), policy).await;
        assert_eq!(made.code, 201, "{}", made.message());
        let binding = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicyBinding", "metadata": {"name": name},
            "spec": {"policyName": name}});
        let made = api.create(&format!("{ADMISSION}/mutatingadmissionpolicybindings"), binding).await;
        assert_eq!(made.code, 201, "{}", made.message());
    }
    let made = api.create(maps, json!({"metadata": {"name": "m"}, "data": {"a": "1"}})).await;
    assert_eq!(made.code, 201, "{}", made.message());
    assert_eq!(made.json()["data"], json!({"a": "1", "x.y": "added"}));
    assert_eq!(made.json()["metadata"]["annotations"]["size"], "2");
    let broken = json!({"spec": {"mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
        "Object{metadata: Object.spec{}}"}}]}});
    let path = format!("{ADMISSION}/mutatingadmissionpolicies/a-count");
    api.admin(Method::PATCH, &path, "application/merge-patch+json", broken.to_string()).await;
    let refused = api.create(maps, json!({"metadata": {"name": "n"}})).await;
    assert_eq!((refused.code, refused.json()["reason"].as_str()), (403, Some("Invalid")));
    assert_eq!(
        refused.message(),
        "policy 'a-count' with binding 'a-count' denied request: type mismatch: unexpected type name \"Object.spec\", expected \"Object.metadata\", which matches field name path from root Object type"
    );
}

/// A server over a directory whose secrets are sealed with these keys.
async fn sealed(dir: &std::path::Path, keys: &[&str]) -> Api {
    use base64::Engine as _;
    let encode = |key: &&str| {
        let secret = base64::engine::general_purpose::STANDARD.encode(key.repeat(32));
        format!("{{name: {key}, secret: {secret}}}")
    };
    let keys: Vec<String> = keys.iter().map(encode).collect();
    let text = format!(
        "kind: EncryptionConfiguration\nresources: [{{resources: [secrets], providers: [{{aesgcm: {{keys: [{}]}}}}, {{identity: {{}}}}]}}]",
        keys.join(", ")
    );
    let sealer = std::sync::Arc::new(apiserver::encryption::Sealer::parse(&text).expect("sound"));
    let (clock, rng, rows) = (Clock::system(), Rng::seeded(7), Rows::builtin());
    let mut options = Options::new(rows.indexer(), clock.clone());
    options.seal = Some(sealer.clone());
    let engine = Engine::disk(store::DiskOptions::new(dir.to_owned())).expect("a directory");
    let store = Store::open(engine, options).await.expect("opens");
    let config = Config { encryption: Some(sealer), ..Config::default() };
    let server = Server::new(config, rows, store, clock, rng, Tasks::new()).expect("a server");
    server.start().await.expect("boots");
    Api(server)
}

fn on_disk(dir: &std::path::Path, wanted: &str) -> bool {
    let entries = std::fs::read_dir(dir).expect("a directory").flatten();
    let mut files = entries.filter(|entry| entry.path().is_file());
    let has = |entry: std::fs::DirEntry| {
        let bytes = std::fs::read(entry.path()).expect("readable");
        bytes.windows(wanted.len()).any(|window| window == wanted.as_bytes())
    };
    files.any(has)
}

#[tokio::test]
async fn secrets_are_sealed_on_disk_and_keys_change() {
    let dir = tempfile::tempdir().expect("a directory");
    let secrets = "/api/v1/namespaces/default/secrets";
    let api = sealed(dir.path(), &["a"]).await;
    let made = api.create(secrets, json!({"metadata": {"name": "s", "labels": {"l": "hidden-label"}}, "stringData": {"k": "v"}, "type": "x.io/kind"})).await;
    assert_eq!(made.code, 201, "{}", made.message());
    api.create(MAPS, map("in-the-clear")).await;
    api.0.store().close().await;
    assert!(on_disk(dir.path(), "in-the-clear"));
    assert!(!on_disk(dir.path(), "x.io/kind") && !on_disk(dir.path(), "hidden-label"));
    drop(api);
    // A new key seals, the old one still opens; a write without a change seals anew.
    let api = sealed(dir.path(), &["b", "a"]).await;
    let found =
        api.get(&format!("{secrets}?labelSelector=l%3Dhidden-label&fieldSelector=type%3Dx.io/kind")).await;
    let secret = found.json()["items"][0].clone();
    assert_eq!(secret["data"]["k"], "dg==");
    let same = api.patch(&format!("{secrets}/s"), json!({"data": {"k": "dg=="}})).await.json();
    assert_ne!(same["metadata"]["resourceVersion"], secret["metadata"]["resourceVersion"]);
    let again = api.patch(&format!("{secrets}/s"), json!({"data": {"k": "dg=="}})).await.json();
    assert_eq!(again["metadata"]["resourceVersion"], same["metadata"]["resourceVersion"]);
    api.0.store().close().await;
    drop(api);
    let engine = Engine::disk(store::DiskOptions::new(dir.path().to_owned())).expect("a directory");
    let mut options = Options::new(Rows::builtin().indexer(), Clock::system());
    let wrong =
        "kind: EncryptionConfiguration\nresources: [{resources: [secrets], providers: [{identity: {}}]}]";
    options.seal = Some(std::sync::Arc::new(apiserver::encryption::Sealer::parse(wrong).expect("sound")));
    let error = Store::open(engine, options).await.err().expect("no key opens it").to_string();
    assert_eq!(error, "secrets/default/s cannot be decrypted: no configured key sealed it");
}

#[tokio::test]
async fn admission_adds_before_an_update_is_judged() {
    let api = Api::new().await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let made = api.create(pods, pod).await;
    assert_eq!(made.code, 201, "{}", made.message());
    // Replaces the default tolerations; admission gives them back, so nothing is taken away.
    let mut pod = made.json();
    pod["spec"]["tolerations"] = json!([{"key": "a", "operator": "Exists", "effect": "NoSchedule"}]);
    let changed = api.admin(Method::PUT, &format!("{pods}/p"), "application/json", pod.to_string()).await;
    assert_eq!(changed.code, 200, "{}", changed.message());
    assert_eq!(changed.json()["spec"]["tolerations"].as_array().map(Vec::len), Some(3));
}

#[tokio::test]
async fn policies_about_scales_see_scales() {
    let api = Api::new().await;
    let rules = |resource: &str| json!({"resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": [resource]}]});
    let policy = json!({"metadata": {"name": "few"}, "spec": {"matchConstraints": rules("deployments/scale"),
        "validations": [{"expression": "object.kind == 'Scale' && object.spec.replicas <= 3 && oldObject.spec.replicas == 1"}]}});
    let made = api.create(&format!("{ADMISSION}/validatingadmissionpolicies"), policy).await;
    assert_eq!(made.code, 201, "{}", made.message());
    let binding =
        json!({"metadata": {"name": "few"}, "spec": {"policyName": "few", "validationActions": ["Deny"]}});
    api.create(&format!("{ADMISSION}/validatingadmissionpolicybindings"), binding).await;
    let policy = json!({"metadata": {"name": "odd"}, "spec": {"matchConstraints": rules("deployments/scale"), "reinvocationPolicy": "Never",
        "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration":
            {"expression": "Object{spec: Object.spec{replicas: object.spec.replicas + object.spec.replicas % 2}}"}}]}});
    let made = api.create(&format!("{ADMISSION}/mutatingadmissionpolicies"), policy).await;
    assert_eq!(made.code, 201, "{}", made.message());
    let binding = json!({"metadata": {"name": "odd"}, "spec": {"policyName": "odd"}});
    api.create(&format!("{ADMISSION}/mutatingadmissionpolicybindings"), binding).await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let labels = json!({"app": "d"});
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    assert_eq!(api.create(deployments, deployment).await.code, 201);
    let scale = |count: i64| json!({"spec": {"replicas": count}});
    let many = api.patch(&format!("{deployments}/d/scale"), scale(5)).await;
    assert_eq!(many.code, 422, "{}", many.message());
    let few = api.patch(&format!("{deployments}/d/scale"), scale(1)).await;
    assert_eq!((few.code, few.json()["spec"]["replicas"].clone()), (200, json!(2)), "{}", few.message());
    assert_eq!(
        api.patch(&format!("{deployments}/d"), scale(7)).await.code,
        200,
        "the object itself is not meant"
    );
}
