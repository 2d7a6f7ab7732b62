//! Who may do what, and what is refused: RBAC's guard against escalation, impersonation, signers, and what a node
//! may see and write.

use api::user::UserInfo;
use apiserver::Config;
use http::Method;
use serde_json::{Value, json};

use super::identity::api;
use super::{Answer, Api};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const GROUP: &str = "rbac.authorization.k8s.io";

impl Api {
    async fn by(&self, user: &str, method: Method, path: &str, body: Value) -> Answer {
        self.as_user(UserInfo::component(user, &["system:authenticated"]), method, path, body).await
    }

    async fn as_user(&self, user: UserInfo, method: Method, path: &str, body: Value) -> Answer {
        let media = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(method, path, &[("content-type", media)], body, Some(user)).await
    }

    async fn node(&self, method: Method, path: &str, body: Value) -> Answer {
        let node = UserInfo::component("system:node:n1", &["system:nodes", "system:authenticated"]);
        self.as_user(node, method, path, body).await
    }

    /// Gives a user these rules everywhere.
    async fn grant(&self, user: &str, name: &str, rules: Value) {
        let role = json!({"metadata": {"name": name}, "rules": rules});
        assert_eq!(self.create(&format!("{RBAC}/clusterroles"), role).await.code, 201);
        let binding = json!({"metadata": {"name": name}, "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "User", "apiGroup": GROUP, "name": user}]});
        assert_eq!(self.create(&format!("{RBAC}/clusterrolebindings"), binding).await.code, 201);
    }
}

fn rule(verbs: &[&str], group: &str, resources: &[&str]) -> Value {
    json!({"verbs": verbs, "apiGroups": [group], "resources": resources})
}

fn role(name: &str, rules: Value) -> Value {
    json!({"metadata": {"name": name}, "rules": rules})
}

fn binding(name: &str, kind: &str, to: &str) -> Value {
    json!({"metadata": {"name": name}, "roleRef": {"apiGroup": GROUP, "kind": kind, "name": to},
        "subjects": [{"kind": "User", "apiGroup": GROUP, "name": "alice"}]})
}

#[tokio::test]
async fn nobody_grants_what_they_do_not_have() {
    let api = api(Config::default()).await;
    let kinds = ["roles", "rolebindings", "clusterroles", "clusterrolebindings"];
    let writes = ["create", "update", "patch", "get"];
    api.grant("alice", "author", json!([rule(&writes, GROUP, &kinds), rule(&["get"], "", &["pods"])])).await;
    let roles = format!("{RBAC}/namespaces/default/roles");
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    let (cluster_roles, cluster_bindings) =
        (format!("{RBAC}/clusterroles"), format!("{RBAC}/clusterrolebindings"));
    let secrets = json!([rule(&["get"], "", &["secrets"])]);
    let pods = json!([rule(&["get"], "", &["pods"])]);
    let urls = json!([{"verbs": ["get"], "nonResourceURLs": ["/metrics"]}]);
    let aggregate = json!({"metadata": {"name": "a"}, "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}});
    let mut labelled = role("l", secrets.clone());
    labelled["metadata"]["labels"] = json!({"rbac.authorization.k8s.io/aggregate-to-view": "true"});
    let cases = [
        ("a role within one's own", &roles, role("p", pods.clone()), 201),
        ("a role with more", &roles, role("s", secrets.clone()), 403),
        ("a role with every verb", &roles, role("v", json!([rule(&["*"], "", &["pods"])])), 403),
        ("a role with a subresource", &roles, role("x", json!([rule(&["get"], "", &["pods/exec"])])), 403),
        ("a cluster role within one's own", &cluster_roles, role("p", pods.clone()), 201),
        ("a cluster role with more", &cluster_roles, role("s", secrets.clone()), 403),
        ("a cluster role with paths", &cluster_roles, role("u", urls), 403),
        ("a cluster role that gathers others", &cluster_roles, aggregate, 403),
        ("a cluster role that others gather", &cluster_roles, labelled, 403),
        ("a binding to what one has", &bindings, binding("p", "Role", "p"), 201),
        ("a binding to more", &bindings, binding("c", "ClusterRole", "cluster-admin"), 403),
        ("a binding to a role that is not there", &bindings, binding("n", "Role", "none"), 404),
        ("a cluster binding to more", &cluster_bindings, binding("c", "ClusterRole", "cluster-admin"), 403),
    ];
    for (name, path, body, code) in cases {
        let answer = api.by("alice", Method::POST, path, body).await;
        assert_eq!(answer.code, code, "{name}: {}", answer.message());
    }
    let more = json!({"rules": secrets});
    assert_eq!(api.by("alice", Method::PATCH, &format!("{roles}/p"), more.clone()).await.code, 403);
    assert_eq!(
        api.by("alice", Method::PUT, &format!("{roles}/p"), role("p", secrets.clone())).await.code,
        403
    );
    assert_eq!(api.by("alice", Method::PATCH, &format!("{cluster_roles}/p"), more).await.code, 403);
    // With the verbs made for it one may.
    api.grant("alice", "escalator", json!([rule(&["escalate"], GROUP, &["roles"])])).await;
    assert_eq!(api.by("alice", Method::POST, &roles, role("s", secrets.clone())).await.code, 201);
    assert_eq!(api.by("alice", Method::POST, &cluster_roles, role("s", secrets)).await.code, 403);
    let binds = json!([{"verbs": ["bind"], "apiGroups": [GROUP], "resources": ["clusterroles"], "resourceNames": ["view"]}]);
    api.grant("alice", "binder", binds).await;
    assert_eq!(api.by("alice", Method::POST, &bindings, binding("v", "ClusterRole", "view")).await.code, 201);
    assert_eq!(api.by("alice", Method::POST, &bindings, binding("e", "ClusterRole", "edit")).await.code, 403);
}

#[tokio::test]
async fn roles_that_are_not_there_are_told_of() {
    let api = api(Config::default()).await;
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    for (name, kind, to) in [("a", "Role", "none"), ("b", "Role", "none"), ("c", "ClusterRole", "gone")] {
        assert_eq!(api.create(&bindings, binding(name, kind, to)).await.code, 201);
    }
    let gone = "[clusterrole.rbac.authorization.k8s.io \"gone\" not found, role.rbac.authorization.k8s.io \"none\" not found]";
    let pods = "/api/v1/namespaces/default/pods";
    let refused = api.by("alice", Method::GET, pods, Value::Null).await;
    assert_eq!(
        (refused.code, refused.message().ends_with(&format!(": RBAC: {gone}"))),
        (403, true),
        "{}",
        refused.message()
    );
    let other = api.by("alice", Method::GET, "/api/v1/namespaces/other/pods", Value::Null).await;
    assert!(!other.message().contains("not found"), "{}", other.message());
    let path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let rules = api.by("alice", Method::POST, path, json!({"spec": {"namespace": "default"}})).await;
    assert_eq!(rules.json()["status"]["evaluationError"], gone);
}

#[tokio::test]
async fn impersonation_needs_a_right_for_each_part() {
    let api = api(Config::default()).await;
    let users = json!([{"verbs": ["impersonate"], "apiGroups": [""], "resources": ["users"], "resourceNames": ["bob"]}]);
    api.grant("alice", "as-bob", users).await;
    let review = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let cases: [(&[(&str, &str)], u16); 8] = [
        (&[("impersonate-user", "bob")], 201),
        (&[("impersonate-user", "carol")], 403),
        (&[("impersonate-user", "bob"), ("impersonate-group", "system:masters")], 403),
        (&[("impersonate-user", "bob"), ("impersonate-uid", "1")], 403),
        (&[("impersonate-user", "bob"), ("impersonate-extra-scope", "all")], 403),
        (&[("impersonate-user", "system:serviceaccount:kube-system:x")], 403),
        (&[("impersonate-user", "system:node:n1")], 403),
        (&[("impersonate-group", "system:masters")], 400),
    ];
    for (headers, code) in cases {
        let user = UserInfo::component("alice", &["system:authenticated"]);
        let mut all = vec![("content-type", "application/json")];
        all.extend(headers);
        let answer = api.send(Method::POST, review, &all, "{}", Some(user)).await;
        assert_eq!(answer.code, code, "{headers:?}: {}", answer.message());
    }
}

#[tokio::test]
async fn reading_rights_open_no_streams() {
    let api = api(Config::default()).await;
    let verbs =
        rule(&["get"], "", &["pods/exec", "pods/attach", "pods/portforward", "pods/log", "nodes/proxy"]);
    api.grant("alice", "reader", json!([verbs])).await;
    assert_eq!(api.create("/api/v1/nodes", json!({"metadata": {"name": "n1"}})).await.code, 201);
    let pod = json!({"metadata": {"name": "a"}, "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}});
    assert_eq!(api.create("/api/v1/namespaces/default/pods", pod).await.code, 201);
    let upgrade = [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA=="),
    ];
    let alice = || Some(UserInfo::component("alice", &["system:authenticated"]));
    for path in [
        "/api/v1/namespaces/default/pods/a/exec?command=id",
        "/api/v1/namespaces/default/pods/a/attach",
        "/api/v1/namespaces/default/pods/a/portforward?ports=80",
        "/api/v1/nodes/n1/proxy/exec/default/a/c?command=id",
        "/api/v1/nodes/n1/proxy/run/default/a/c",
    ] {
        let answer = api.send(Method::GET, path, &upgrade, "", alice()).await;
        assert_eq!(answer.code, 403, "{path}: {}", answer.message());
        assert!(answer.message().contains("cannot create resource"), "{}", answer.message());
    }
    let plain = api.send(Method::GET, "/api/v1/nodes/n1/proxy/healthz", &[], "", alice()).await;
    assert_ne!(plain.code, 403, "reading through the proxy stays: {}", plain.message());
}

#[tokio::test]
async fn signers_are_answered_for_by_those_who_may() {
    let api = api(Config::default()).await;
    let all = [
        "certificatesigningrequests",
        "certificatesigningrequests/approval",
        "certificatesigningrequests/status",
    ];
    api.grant(
        "alice",
        "requests",
        json!([rule(&["get", "update", "patch", "create"], "certificates.k8s.io", &all)]),
    )
    .await;
    let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let subject = base::pki::Subject { common_name: "some".to_owned(), ..Default::default() };
    let (_, request) = base::pki::request(&subject).expect("a request");
    use base64::Engine as _;
    let request = base64::engine::general_purpose::STANDARD.encode(request);
    let body = |name: &str, signer: &str, request: &str| {
        json!({"metadata": {"name": name},
        "spec": {"signerName": signer, "request": request, "usages": ["client auth"]}})
    };
    assert_eq!(api.by("alice", Method::POST, path, body("r", "example.com/s", &request)).await.code, 201);
    let approved = json!({"status": {"conditions": [{"type": "Approved", "status": "True", "reason": "r", "message": "m"}]}});
    let failed = json!({"status": {"conditions": [{"type": "Failed", "status": "True", "reason": "r", "message": "m"}]}});
    let approval = api.by("alice", Method::PATCH, &format!("{path}/r/approval"), approved.clone()).await;
    let why = "user not permitted to approve requests with signerName \"example.com/s\"";
    assert!(approval.code == 403 && approval.message().contains(why), "{}", approval.message());
    assert_eq!(api.by("alice", Method::PATCH, &format!("{path}/r/status"), failed).await.code, 403);
    let signers = |verb: &str, name: &str| json!([{"verbs": [verb], "apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "resourceNames": [name]}]);
    api.grant("alice", "other-signer", signers("approve", "example.com/other")).await;
    assert_eq!(
        api.by("alice", Method::PATCH, &format!("{path}/r/approval"), approved.clone()).await.code,
        403
    );
    api.grant("alice", "domain", signers("approve", "example.com/*")).await;
    assert_eq!(api.by("alice", Method::PATCH, &format!("{path}/r/approval"), approved).await.code, 200);
    let subject = base::pki::Subject {
        common_name: "m".to_owned(),
        organization: Some("system:masters".to_owned()),
        ..Default::default()
    };
    let (_, masters) = base::pki::request(&subject).expect("a request");
    let masters = base64::engine::general_purpose::STANDARD.encode(masters);
    let answer =
        api.by("alice", Method::POST, path, body("m", "kubernetes.io/kube-apiserver-client", &masters)).await;
    assert_eq!(answer.code, 403, "{}", answer.message());
}

/// Two nodes; `a` runs on n1, `b` on n2, each with a Secret, a ConfigMap, a claim and an account of its own.
async fn two_nodes() -> Api {
    let config = Config {
        admission_on: vec!["NodeRestriction".to_owned()],
        service_account_signing_key: Some(base::pki::new_key_pem().expect("a key")),
        ..Config::default()
    };
    let api = api(config).await;
    for (name, node) in [("a", "n1"), ("b", "n2")] {
        assert_eq!(api.create("/api/v1/nodes", json!({"metadata": {"name": node}})).await.code, 201);
        for resource in ["secrets", "configmaps", "serviceaccounts"] {
            let path = format!("/api/v1/namespaces/default/{resource}");
            assert_eq!(api.create(&path, json!({"metadata": {"name": name}})).await.code, 201);
        }
        let claim = json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
        assert_eq!(api.create("/api/v1/namespaces/default/persistentvolumeclaims", claim).await.code, 201);
        let pod = json!({"metadata": {"name": name}, "spec": {"nodeName": node, "serviceAccountName": name, "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": "i", "envFrom": [{"configMapRef": {"name": name}}]}],
            "volumes": [{"name": "s", "secret": {"secretName": name}}, {"name": "p", "persistentVolumeClaim": {"claimName": name}}]}});
        let made = api.create("/api/v1/namespaces/default/pods", pod).await;
        assert_eq!(made.code, 201, "{}", made.message());
    }
    api
}

#[tokio::test]
async fn a_node_sees_and_writes_its_own() {
    let api = two_nodes().await;
    let core = "/api/v1/namespaces/default";
    let (leases, csi) = (
        "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases",
        "/apis/storage.k8s.io/v1/csinodes",
    );
    let status = json!({"status": {"phase": "Running"}});
    let lease = |name: &str| json!({"metadata": {"name": name}, "spec": {"holderIdentity": name}});
    let csi_node = |name: &str| json!({"metadata": {"name": name}, "spec": {"drivers": []}});
    let none = || Value::Null;
    let cases: Vec<(Method, String, Value, u16)> = vec![
        (Method::GET, format!("{core}/secrets/a"), none(), 200),
        (Method::GET, format!("{core}/secrets/b"), none(), 403),
        (Method::GET, format!("{core}/secrets"), none(), 403),
        (Method::PATCH, format!("{core}/secrets/a"), json!({}), 403),
        (Method::GET, format!("{core}/configmaps/a"), none(), 200),
        (Method::GET, format!("{core}/configmaps/b"), none(), 403),
        (Method::GET, format!("{core}/persistentvolumeclaims/a"), none(), 200),
        (Method::GET, format!("{core}/persistentvolumeclaims/b"), none(), 403),
        (Method::GET, format!("{core}/pods/a"), none(), 200),
        (Method::GET, format!("{core}/pods/b"), none(), 403),
        (Method::GET, "/api/v1/pods".into(), none(), 403),
        (Method::GET, "/api/v1/pods?fieldSelector=spec.nodeName%3Dn2".into(), none(), 403),
        (Method::GET, "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1".into(), none(), 200),
        (Method::PATCH, format!("{core}/pods/a/status"), status.clone(), 200),
        (Method::PATCH, format!("{core}/pods/b/status"), status, 403),
        (Method::PATCH, format!("{core}/pods/a/status"), json!({"metadata": {"labels": {"x": "y"}}}), 403),
        (Method::PATCH, format!("{core}/pods/a"), json!({"metadata": {"labels": {"x": "y"}}}), 403),
        (Method::DELETE, format!("{core}/pods/b"), none(), 403),
        (Method::POST, format!("{core}/pods/b/eviction"), json!({"metadata": {"name": "b"}}), 403),
        (Method::GET, "/api/v1/nodes/n1".into(), none(), 200),
        (Method::GET, "/api/v1/nodes/n2".into(), none(), 403),
        (Method::GET, "/api/v1/nodes".into(), none(), 403),
        (Method::PATCH, "/api/v1/nodes/n1/status".into(), json!({"status": {"capacity": {"cpu": "1"}}}), 200),
        (Method::PATCH, "/api/v1/nodes/n2/status".into(), json!({"status": {"capacity": {"cpu": "1"}}}), 403),
        (Method::DELETE, "/api/v1/nodes/n1".into(), none(), 403),
        (Method::POST, "/api/v1/nodes".into(), json!({"metadata": {"name": "n3"}}), 403),
        (Method::POST, leases.into(), lease("n1"), 201),
        (Method::POST, leases.into(), lease("n2"), 403),
        (Method::GET, format!("{leases}/n2"), none(), 403),
        (Method::POST, "/apis/coordination.k8s.io/v1/namespaces/default/leases".into(), lease("n1"), 403),
        (Method::POST, csi.into(), csi_node("n1"), 201),
        (Method::POST, csi.into(), csi_node("n2"), 403),
        (Method::GET, format!("{csi}/n2"), none(), 403),
        (Method::GET, "/api/v1/nodes/n1/proxy/pods".into(), none(), 403),
        (Method::GET, format!("{RBAC}/clusterroles"), none(), 403),
    ];
    for (method, path, body, code) in cases {
        let answer = api.node(method.clone(), &path, body).await;
        assert_eq!(answer.code, code, "{method} {path}: {}", answer.message());
    }
}

#[tokio::test]
async fn a_node_gets_tokens_for_its_own_pods() {
    let api = two_nodes().await;
    let uid = async |name: &str| {
        api.get(&format!("/api/v1/namespaces/default/pods/{name}")).await.json()["metadata"]["uid"].clone()
    };
    let (a, b) = (uid("a").await, uid("b").await);
    let token = |account: &str| format!("/api/v1/namespaces/default/serviceaccounts/{account}/token");
    let bound = |kind: &str, name: &str, uid: &Value| json!({"spec": {"boundObjectRef": {"kind": kind, "apiVersion": "v1", "name": name, "uid": uid}}});
    for (what, account, request, code) in [
        ("of a pod here", "a", bound("Pod", "a", &a), 201),
        ("of a pod elsewhere", "b", bound("Pod", "b", &b), 403),
        ("of another account for a pod here", "b", bound("Pod", "a", &a), 403),
        ("of an account here for a pod elsewhere", "a", bound("Pod", "b", &b), 403),
        ("bound to nothing", "a", json!({"spec": {}}), 403),
        ("bound to a Secret", "a", bound("Secret", "a", &Value::Null), 403),
        ("without the pod's uid", "a", bound("Pod", "a", &Value::Null), 403),
        ("of another pod of the name", "a", bound("Pod", "a", &json!("old")), 403),
    ] {
        let answer = api.node(Method::POST, &token(account), request).await;
        assert_eq!(answer.code, code, "a token {what}: {}", answer.message());
    }
}

#[tokio::test]
async fn a_node_says_only_so_much_of_itself() {
    let api = two_nodes().await;
    let labels = |key: &str| json!({"metadata": {"labels": {key: "x"}}});
    let owner = json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n2", "uid": "x"}]}});
    for (body, code) in [
        (labels("example.com/any"), 200),
        (labels("node.kubernetes.io/any"), 200),
        (labels("kubelet.kubernetes.io/any"), 200),
        (labels("topology.kubernetes.io/zone"), 200),
        (labels("node-restriction.kubernetes.io/team"), 403),
        (labels("x.node-restriction.kubernetes.io/team"), 403),
        (labels("node-role.kubernetes.io/control-plane"), 403),
        (labels("any.k8s.io/x"), 403),
        (json!({"spec": {"taints": null}}), 403),
        (owner, 403),
    ] {
        let answer = api.node(Method::PATCH, "/api/v1/nodes/n1", body.clone()).await;
        assert_eq!(answer.code, code, "{body}: {}", answer.message());
    }
}

/// A mirror pod of n1 with more in its spec and metadata.
fn mirror_of(uid: &Value, spec: &Value, meta: &Value) -> Value {
    let mut pod = json!({"metadata": {"name": "m", "annotations": {"kubernetes.io/config.mirror": "x"},
        "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": uid, "controller": true}]},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}});
    for (key, value) in spec.as_object().expect("a map") {
        pod["spec"][key] = value.clone();
    }
    for (key, value) in meta.as_object().expect("a map") {
        pod["metadata"][key] = value.clone();
    }
    pod
}

#[tokio::test]
async fn mirror_pods_refer_to_nothing() {
    let api = two_nodes().await;
    let uid = api.get("/api/v1/nodes/n1").await.json()["metadata"]["uid"].clone();
    let mirror = |spec: Value, meta: Value| mirror_of(&uid, &spec, &meta);
    let volume = |source: Value| json!({"volumes": [source]});
    let from =
        |reference: Value| json!({"containers": [{"name": "c", "image": "i", "envFrom": [reference]}]});
    let plain = || json!({});
    let owned = |mut owner: Value| {
        owner["apiVersion"] = "v1".into();
        owner["kind"] = "Node".into();
        owner["controller"] = true.into();
        json!({"ownerReferences": [owner]})
    };
    for (what, pod) in [
        ("that is no mirror", mirror(plain(), json!({"annotations": {}}))),
        ("on another node", mirror(json!({"nodeName": "n2"}), plain())),
        ("owned by another node", mirror(plain(), owned(json!({"name": "n2", "uid": "x"})))),
        ("with another's uid", mirror(plain(), owned(json!({"name": "n1", "uid": "x"})))),
        (
            "that blocks its owner",
            mirror(plain(), owned(json!({"name": "n1", "uid": uid, "blockOwnerDeletion": true}))),
        ),
        ("with an account", mirror(json!({"serviceAccountName": "b"}), plain())),
        ("with a Secret", mirror(volume(json!({"name": "v", "secret": {"secretName": "b"}})), plain())),
        (
            "with a Secret among sources",
            mirror(
                volume(json!({"name": "v", "projected": {"sources": [{"secret": {"name": "b"}}]}})),
                plain(),
            ),
        ),
        (
            "with a Secret of a driver",
            mirror(
                volume(
                    json!({"name": "v", "csi": {"driver": "x.io", "nodePublishSecretRef": {"name": "b"}}}),
                ),
                plain(),
            ),
        ),
        ("with a Secret's variables", mirror(from(json!({"secretRef": {"name": "b"}})), plain())),
        ("with a Secret to pull with", mirror(json!({"imagePullSecrets": [{"name": "b"}]}), plain())),
        ("with a ConfigMap", mirror(volume(json!({"name": "v", "configMap": {"name": "b"}})), plain())),
        ("with a ConfigMap's variables", mirror(from(json!({"configMapRef": {"name": "b"}})), plain())),
        (
            "with a claim",
            mirror(volume(json!({"name": "v", "persistentVolumeClaim": {"claimName": "b"}})), plain()),
        ),
        (
            "with a claim made for it",
            mirror(
                volume(
                    json!({"name": "v", "ephemeral": {"volumeClaimTemplate": {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}}}),
                ),
                plain(),
            ),
        ),
    ] {
        let answer = api.node(Method::POST, "/api/v1/namespaces/default/pods", pod).await;
        assert_eq!(answer.code, 403, "a pod {what}: {}", answer.message());
    }
    let answer = api.node(Method::POST, "/api/v1/namespaces/default/pods", mirror(plain(), plain())).await;
    assert_eq!(answer.code, 201, "{}", answer.message());
}
