//! What answers say, word for word where clients may depend on it: one row for each class of requests in which the
//! server once differed from kube-apiserver.

use api::user::UserInfo;
use http::Method;
use serde_json::json;

use super::{Api, MAPS, PODS, map};

const TABLE: (&str, &str) = ("accept", "application/json;as=Table;g=meta.k8s.io;v=v1");
const PARTIAL: (&str, &str) = ("accept", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1");
const PARTIALS: (&str, &str) = ("accept", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1");
const JSON: (&str, &str) = ("accept", "application/json");

#[tokio::test]
async fn refusals_are_worded_as_upstream_does() {
    let api = Api::new().await;
    assert_eq!(api.create(MAPS, map("a")).await.code, 201);
    let one = format!("{MAPS}/a");
    let revision = "resourceVersion: Invalid value: \"x\": strconv.ParseUint: parsing \"x\": invalid syntax";
    let include = "Unable to convert to Table as requested: includeObject: Invalid value: \"Odd\": must be 'Metadata', 'Object', 'None', or empty";
    let cases = [
        (Method::GET, format!("{one}?resourceVersion=x"), JSON, 500, revision.to_owned()),
        (Method::GET, format!("{MAPS}?watch=1&resourceVersion=x"), JSON, 500, revision.to_owned()),
        (Method::GET, format!("{MAPS}?resourceVersion=x"), JSON, 400, format!("invalid resource version: {revision}")),
        (Method::GET, format!("{one}?includeObject=Odd"), TABLE, 400, include.to_owned()),
        (Method::GET, one.clone(), PARTIALS, 406, "you requested PartialObjectMetadataList, but the requested object is not a list (*core.ConfigMap)".to_owned()),
        (Method::GET, MAPS.to_owned(), PARTIAL, 406, "you requested PartialObjectMetadata, but the requested object is a list (*core.ConfigMapList)".to_owned()),
        (Method::GET, format!("{MAPS}?limit=99999999999999999999"), JSON, 400, "strconv.ParseInt: parsing \"99999999999999999999\": value out of range".to_owned()),
        (Method::GET, format!("{MAPS}?limit=x"), JSON, 400, "strconv.ParseInt: parsing \"x\": invalid syntax".to_owned()),
        (Method::GET, format!("{MAPS}?watch=1&continue=x"), JSON, 422, "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is provided".to_owned()),
        (Method::GET, format!("{MAPS}?fieldSelector=odd%3D1"), JSON, 400, "\"odd\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"".to_owned()),
        (Method::GET, format!("{PODS}?fieldSelector=odd%3D1"), JSON, 400, "field label not supported: odd".to_owned()),
        (Method::GET, "/api/v1/namespaces?fieldSelector=name%3Dx".to_owned(), JSON, 400, "field label not supported: name".to_owned()),
        (Method::GET, "/apis/batch/v1/jobs?fieldSelector=odd%3D1".to_owned(), JSON, 400, "field label \"odd\" not supported for Job".to_owned()),
    ];
    for (method, path, header, code, message) in cases {
        let admin = UserInfo::component("admin", &["system:masters"]);
        let answer = api.send(method, &path, &[header], "", Some(admin)).await;
        assert_eq!((answer.code, answer.message()), (code, message), "{path}");
    }
}

#[tokio::test]
async fn every_answer_has_a_name_and_head_has_no_body() {
    let api = Api::new().await;
    let named = [("audit-id", "my-own-name")];
    let answer = api.send(Method::GET, "/livez", &named, "", None).await;
    assert_eq!(answer.headers["audit-id"], "my-own-name");
    let long = "x".repeat(65);
    let answer = api.send(Method::GET, "/livez", &[("audit-id", long.as_str())], "", None).await;
    assert_eq!(answer.headers["audit-id"].len(), 36, "a name of its own");
    let refused = api.send(Method::GET, PODS, &[], "", None).await;
    assert_eq!((refused.code, refused.headers["x-content-type-options"].as_bytes()), (403, &b"nosniff"[..]));
    assert!(refused.headers.contains_key("audit-id"));
    for (path, code) in [(MAPS.to_owned(), 405), (format!("{MAPS}/none"), 405), ("/livez".to_owned(), 200)] {
        let answer = api.admin(Method::HEAD, &path, "application/json", "").await;
        assert_eq!((answer.code, answer.bytes.len()), (code, 0), "{path}");
    }
}

#[tokio::test]
async fn rows_without_objects_say_so_and_items_have_no_kind() {
    let api = Api::new().await;
    assert_eq!(api.create(MAPS, map("a")).await.code, 201);
    let admin = || Some(UserInfo::component("admin", &["system:masters"]));
    let table =
        api.send(Method::GET, &format!("{MAPS}/a?includeObject=None"), &[TABLE], "", admin()).await.json();
    assert!(table["rows"][0].as_object().is_some_and(|row| row.contains_key("object")), "{table}");
    let yaml = api.send(Method::GET, MAPS, &[("accept", "application/yaml")], "", admin()).await;
    let yaml = String::from_utf8(yaml.bytes).expect("text");
    assert!(!yaml.contains("kind: ConfigMap\n") && yaml.contains("kind: ConfigMapList"), "{yaml}");
}

#[tokio::test]
async fn what_the_server_adds_is_told() {
    let api = Api::new().await;
    let ranges = "/api/v1/namespaces/default/limitranges";
    let range = api.create(ranges, json!({"spec": {"limits": []}})).await.json();
    assert_eq!(range["metadata"]["name"], range["metadata"]["uid"], "limit ranges need no name");
    let classes = "/apis/storage.k8s.io/v1/volumeattributesclasses";
    let class = api
        .create(classes, json!({"metadata": {"name": "a"}, "driverName": "x.io", "parameters": {"a": "b"}}))
        .await;
    assert_eq!(
        class.json()["metadata"]["finalizers"],
        json!(["kubernetes.io/vac-protection"]),
        "{}",
        class.message()
    );
    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    let job = json!({"metadata": {"name": "j"}, "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
    assert_eq!(api.create(jobs, job).await.code, 201);
    let told = |answer: &super::Answer| {
        answer
            .headers
            .get("warning")
            .is_some_and(|w| w.to_str().is_ok_and(|w| w.contains("child pods are preserved")))
    };
    let silent = api
        .admin(
            Method::DELETE,
            &format!("{jobs}/j?propagationPolicy=Foreground&dryRun=All"),
            "application/json",
            "",
        )
        .await;
    assert!(!told(&silent));
    assert!(told(&api.admin(Method::DELETE, &format!("{jobs}/j"), "application/json", "").await));
}

#[tokio::test]
async fn an_apply_that_changes_nothing_has_no_time() {
    let api = Api::new().await;
    assert_eq!(api.create(MAPS, map("a")).await.code, 201);
    let config =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"a": "1"}});
    let path = format!("{MAPS}/a?fieldManager=m");
    let applied =
        api.admin(Method::PATCH, &path, "application/apply-patch+yaml", config.to_string()).await.json();
    let entry = &applied["metadata"]["managedFields"][0];
    assert_eq!((&entry["manager"], entry.get("time")), (&json!("m"), None));
    let other = json!({"apiVersion": "example.com/v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    let refused = api.admin(Method::PATCH, &path, "application/apply-patch+yaml", other.to_string()).await;
    assert_eq!(refused.message(), "invalid object type: example.com/v1, Kind=ConfigMap");
}
