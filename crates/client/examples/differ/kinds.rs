//! The cases that every kind goes through: made from its row, its type and one example. Must not know other kinds.

use machinery::schema::{TypeFacts, facts};
use registry::{Resource, Role, Verb};
use serde_json::{Value, json};

use crate::corpus::{Body, Case, NAMESPACE};
use crate::fields::{self, Seen};

const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const JSON_PATCH: &str = "application/json-patch+json";
const APPLY: &str = "application/apply-patch+yaml";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const TABLE: &str = "application/json;as=Table;g=meta.k8s.io;v=v1";
const PARTIAL: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const PARTIALS: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

/// A kind under test.
struct Of<'a> {
    row: &'a Resource,
    object: &'a Value,
    /// Path of the collection.
    all: String,
    /// Path of the object.
    one: String,
    /// What ids begin with.
    id: String,
    cases: Vec<Case>,
}

/// All cases of one kind.
pub fn cases(row: &Resource, object: &Value, seen: &mut Seen) -> Vec<Case> {
    let prefix =
        if row.group.is_empty() { "/api/v1".to_owned() } else { format!("/apis/{}", row.api_version()) };
    let scope = if row.namespaced { format!("/namespaces/{NAMESPACE}") } else { String::new() };
    let all = format!("{prefix}{scope}/{}", row.plural);
    let one = format!("{all}/{}", object["metadata"]["name"].as_str().expect("a name"));
    let id = format!("{}.{}", row.plural, row.api_version());
    let mut of = Of { row, object, all, one, id, cases: Vec::new() };
    let types = facts().by_gvk(&row.group, &row.version, &row.kind).expect("a type of that kind");
    of.absent();
    of.bad_creates();
    of.spoiled_creates(types, seen);
    of.creates(types);
    if row.verbs.has(Verb::Get) {
        of.reads();
        of.lists();
        of.updates(types);
        of.patches();
        of.applies();
        of.subresources(types, seen);
        of.users();
        of.deletes();
    }
    of.cases
}

impl Of<'_> {
    fn add(&mut self, name: &str, method: &str, path: String, body: Value) -> &mut Case {
        self.cases.push(Case::new(format!("{}/{name}", self.id), method, path, body));
        self.cases.last_mut().expect("just added")
    }

    fn typed(&mut self, name: &str, media: &str, path: String, body: &str) {
        let case = self.add(name, "PATCH", path, Value::Null);
        case.body = Body::Text(body.to_owned());
        case.headers.push(("content-type".into(), media.into()));
    }

    fn accepting(&mut self, name: &str, path: String, accept: &str) {
        self.add(name, "GET", path, Value::Null).headers.push(("accept".into(), accept.into()));
    }

    fn with(&self, edit: Value) -> Value {
        let mut object = self.object.clone();
        crate::merge(&mut object, &edit);
        object
    }

    /// What is not there, and what is not served.
    fn absent(&mut self) {
        let (all, one) = (self.all.clone(), self.one.clone());
        self.add("absent/get", "GET", one.clone(), Value::Null);
        self.add("absent/list", "GET", all.clone(), Value::Null);
        self.add("absent/delete", "DELETE", one.clone(), Value::Null);
        self.add("absent/update", "PUT", format!("{one}?dryRun=All"), self.object.clone());
        self.typed("absent/patch", MERGE, one.clone(), "{}");
        self.add("unserved/put-all", "PUT", all.clone(), json!({}));
        self.typed("unserved/patch-all", MERGE, all, "{}");
        self.add("unserved/post-one", "POST", one.clone(), json!({}));
        self.add("unserved/sub", "GET", format!("{one}/nothing"), Value::Null);
        self.add("unserved/head", "HEAD", one.clone(), Value::Null);
        self.add("unserved/options", "OPTIONS", one, Value::Null);
    }

    fn bad_creates(&mut self) {
        let all = format!("{}?dryRun=All", self.all);
        let bodies: Vec<(&str, Value)> = vec![
            ("empty", json!({})),
            ("list", json!([])),
            ("text", json!("x")),
            ("kind", self.with(json!({"kind": "Other"}))),
            ("group", self.with(json!({"apiVersion": "example.com/v1"}))),
            ("version", self.with(json!({"apiVersion": "v7"}))),
            ("kind-only", json!({"kind": self.row.kind})),
            ("bare", json!({"metadata": {"name": self.object["metadata"]["name"]}})),
            ("nameless", self.with(json!({"metadata": {"name": null}}))),
            ("name", self.with(json!({"metadata": {"name": "Odd_name"}}))),
            ("long", self.with(json!({"metadata": {"name": "x".repeat(254)}}))),
            ("slash", self.with(json!({"metadata": {"name": "a/b%"}}))),
            ("namespace", self.with(json!({"metadata": {"namespace": "other"}}))),
            ("generate", self.with(json!({"metadata": {"name": null, "generateName": "RUN-gen-"}}))),
            ("generate-odd", self.with(json!({"metadata": {"name": null, "generateName": "Odd_"}}))),
            ("version-set", self.with(json!({"metadata": {"resourceVersion": "5"}}))),
            ("labels", self.with(json!({"metadata": {"labels": {"odd key": "b"}}}))),
            ("unknown", self.with(json!({"oddField": 1, "metadata": {"otherField": {"a": 1}}}))),
            ("finalizers", self.with(json!({"metadata": {"finalizers": ["odd", "example.com/ok"]}}))),
        ];
        for (name, body) in bodies {
            self.add(&format!("bad/{name}"), "POST", all.clone(), body);
        }
        self.add("bad/nothing", "POST", all.clone(), Value::Null);
        self.add("bad/syntax", "POST", all.clone(), Value::Null).body = Body::Text("{\"a\":".into());
        self.add("bad/null", "POST", all.clone(), Value::Null).body = Body::Text("null".into());
        self.add("bad/media", "POST", all.clone(), json!({}))
            .headers
            .push(("content-type".into(), "text/plain".into()));
        self.add("bad/accept", "POST", all.clone(), json!({}))
            .headers
            .push(("accept".into(), "image/png".into()));
        for mode in ["Strict", "Warn", "Ignore", "Odd"] {
            let text = self.with(json!({"oddField": 1})).to_string();
            let twice = text.replacen("\"oddField\":1", "\"oddField\":1,\"kind\":\"X\",\"oddField\":2", 1);
            let case = self.add(
                &format!("bad/field-{mode}"),
                "POST",
                format!("{all}&fieldValidation={mode}"),
                Value::Null,
            );
            case.body = Body::Text(twice);
        }
        for (name, query) in [
            ("dry-odd", "dryRun=Odd"),
            ("manager-long", &*format!("fieldManager={}", "x".repeat(129))),
            ("manager", "dryRun=All&fieldManager=a%01b"),
        ] {
            let body = self.object.clone();
            self.add(&format!("bad/{name}"), "POST", format!("{}?{query}", self.all), body);
        }
    }

    fn spoiled_creates(&mut self, types: &'static TypeFacts, seen: &mut Seen) {
        for (what, object) in fields::spoil(self.object, types, seen, false) {
            self.add(&format!("field/{what}"), "POST", format!("{}?dryRun=All", self.all), object);
        }
    }

    fn creates(&mut self, types: &'static TypeFacts) {
        let (all, object) = (self.all.clone(), self.object.clone());
        self.add("create/dry", "POST", format!("{all}?dryRun=All"), object.clone());
        let case = self.add("create/protobuf", "POST", format!("{all}?dryRun=All"), Value::Null);
        case.body = Body::Protobuf(types, object.clone());
        case.headers.extend([("content-type".into(), PROTOBUF.into()), ("accept".into(), PROTOBUF.into())]);
        let yaml = machinery::codec::yaml::encode(&object);
        let case = self.add("create/yaml", "POST", format!("{all}?dryRun=All"), Value::Null);
        case.body = Body::Text(yaml);
        case.headers.push(("content-type".into(), "application/yaml".into()));
        self.add("create/real", "POST", all.clone(), object.clone());
        if matches!(
            self.row.kind.as_str(),
            "CustomResourceDefinition" | "APIService" | "FlowSchema" | "PriorityLevelConfiguration"
        ) {
            self.cases.push(Case::wait(1500));
        }
        if self.row.verbs.has(Verb::Get) {
            self.add("create/again", "POST", all, object);
        }
    }

    fn reads(&mut self) {
        let one = self.one.clone();
        self.add("read/json", "GET", one.clone(), Value::Null);
        self.add("read/pretty", "GET", format!("{one}?pretty=true"), Value::Null);
        let all = [
            ("yaml", "application/yaml"),
            ("protobuf", PROTOBUF),
            ("table", TABLE),
            ("partial", PARTIAL),
            ("partials", PARTIALS),
            ("odd", "application/json;as=Odd;g=meta.k8s.io;v=v1"),
            ("table-beta", "application/json;as=Table;g=meta.k8s.io;v=v1beta1"),
            ("text", "text/html"),
            ("any", "text/html, */*;q=0.1"),
            ("fallback", "application/json;as=Odd;g=meta.k8s.io;v=v1,application/json"),
            (
                "partial-protobuf",
                "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
            ),
            ("cbor", "application/cbor"),
        ];
        for (name, accept) in all {
            self.accepting(&format!("read/{name}"), one.clone(), accept);
        }
        for include in ["None", "Object", "Metadata", "Odd"] {
            self.accepting(
                &format!("read/include-{include}"),
                format!("{one}?includeObject={include}"),
                TABLE,
            );
        }
        self.add("read/version-0", "GET", format!("{one}?resourceVersion=0"), Value::Null);
        self.add("read/version-odd", "GET", format!("{one}?resourceVersion=odd"), Value::Null);
        self.add("read/unknown-option", "GET", format!("{one}?oddOption=1"), Value::Null);
    }

    fn lists(&mut self) {
        let all = self.all.clone();
        let name = self.object["metadata"]["name"].as_str().expect("a name").to_owned();
        let fields: Vec<String> = self.row.selectable.iter().map(|field| field.label.clone()).collect();
        let own = format!("fieldSelector=metadata.name%3D{name}");
        for (id, accept) in [
            ("json", "application/json"),
            ("yaml", "application/yaml"),
            ("protobuf", PROTOBUF),
            ("table", TABLE),
            ("partials", PARTIALS),
            ("partial", PARTIAL),
        ] {
            self.accepting(&format!("list/{id}"), format!("{all}?{own}"), accept);
        }
        let queries = [
            "labelSelector=a%20b",
            "labelSelector=a%3D%3Db",
            "labelSelector=a%20in%20(b",
            "labelSelector=a%20notin%20(b,c)",
            "labelSelector=-a%3Db",
            "labelSelector=a%3D-b",
            "fieldSelector=odd%3D1",
            "fieldSelector=odd",
            "fieldSelector=metadata.name!%3Dx&labelSelector=none%3Dthere",
            "limit=odd",
            "limit=-1&labelSelector=none",
            "continue=odd",
            "resourceVersion=odd",
            "resourceVersion=999999999",
            "resourceVersionMatch=Exact",
            "resourceVersion=1&resourceVersionMatch=Odd",
            "resourceVersion=0&resourceVersionMatch=Exact",
            "resourceVersion=0&labelSelector=none",
            "sendInitialEvents=true",
            "watch=1&sendInitialEvents=true",
            "watch=1&resourceVersion=odd",
            "watch=1&resourceVersionMatch=Exact",
            "watch=1&continue=x",
            "watch=1&fieldSelector=odd%3D1",
            "timeoutSeconds=odd",
            "allowWatchBookmarks=odd&labelSelector=none",
        ];
        for query in queries {
            self.add(&format!("list/{query}"), "GET", format!("{all}?{query}"), Value::Null);
        }
        for field in fields {
            self.add(
                &format!("list/field-{field}"),
                "GET",
                format!("{all}?fieldSelector={field}%3Dodd"),
                Value::Null,
            );
        }
    }

    fn updates(&mut self, types: &'static TypeFacts) {
        let (one, dry) = (self.one.clone(), format!("{}?dryRun=All", self.one));
        let mut edits: Vec<(String, Value)> = vec![
            ("same".into(), json!({})),
            ("stale".into(), json!({"metadata": {"resourceVersion": "1"}})),
            ("version-odd".into(), json!({"metadata": {"resourceVersion": "odd"}})),
            ("version-none".into(), json!({"metadata": {"resourceVersion": null}})),
            ("uid".into(), json!({"metadata": {"uid": "other"}})),
            ("name".into(), json!({"metadata": {"name": "other"}})),
            ("nameless".into(), json!({"metadata": {"name": null}})),
            ("namespace".into(), json!({"metadata": {"namespace": "other"}})),
            ("created".into(), json!({"metadata": {"creationTimestamp": "2020-01-01T00:00:00Z"}})),
            ("generation".into(), json!({"metadata": {"generation": 77}})),
            ("labels".into(), json!({"metadata": {"labels": {"some": "label"}}})),
            ("labels-odd".into(), json!({"metadata": {"labels": {"odd key": "-"}}})),
            ("managed".into(), json!({"metadata": {"managedFields": []}})),
            (
                "owner".into(),
                json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "", "uid": ""}]}}),
            ),
            ("kind".into(), json!({"kind": "Other"})),
        ];
        // Every field of the root and of the spec set to something else: what may not change says so.
        for (prefix, facts) in
            [("", Some(types)), ("spec", types.field("spec").and_then(|spec| spec.message()))]
        {
            for flat in facts.into_iter().flat_map(|facts| facts.flat()) {
                let name = flat.field.json;
                if prefix.is_empty() && matches!(name, "apiVersion" | "kind" | "metadata" | "status" | "spec")
                {
                    continue;
                }
                for (at, value) in fields::odd(flat.field).into_iter().enumerate() {
                    let edit = json!({name: value});
                    let edit = if prefix.is_empty() { edit } else { json!({prefix: edit}) };
                    edits.push((format!("{prefix}.{name}-{at}"), edit));
                }
                let removed =
                    if prefix.is_empty() { json!({name: null}) } else { json!({prefix: {name: null}}) };
                edits.push((format!("{prefix}.{name}-removed"), removed));
            }
        }
        for (name, edit) in edits {
            self.add(&format!("update/{name}"), "PUT", dry.clone(), Value::Null).body = Body::Last(edit);
        }
        let label = json!({"metadata": {"labels": {"some": "label"}}});
        self.add("update/real", "PUT", one.clone(), Value::Null).body = Body::Last(label.clone());
        self.add("update/real-same", "PUT", one, Value::Null).body = Body::Last(label);
    }

    fn patches(&mut self) {
        let (one, dry) = (self.one.clone(), format!("{}?dryRun=All", self.one));
        let all: &[(&str, &str, &str)] = &[
            ("merge-none", MERGE, "{}"),
            ("merge-list", MERGE, "[]"),
            ("merge-syntax", MERGE, "{"),
            ("merge-name", MERGE, r#"{"metadata":{"name":"other"}}"#),
            ("merge-uid", MERGE, r#"{"metadata":{"uid":"other"}}"#),
            ("merge-stale", MERGE, r#"{"metadata":{"resourceVersion":"1"}}"#),
            ("merge-unknown", MERGE, r#"{"odd":1,"metadata":{"odd":2}}"#),
            ("merge-wrong", MERGE, r#"{"metadata":{"labels":"odd"}}"#),
            ("merge-spec-wrong", MERGE, r#"{"spec":"odd"}"#),
            ("merge-labels", MERGE, r#"{"metadata":{"labels":{"more":"x","some":null}}}"#),
            ("merge-status", MERGE, r#"{"status":{"phase":"Odd","replicas":9}}"#),
            ("json-none", JSON_PATCH, "[]"),
            ("json-object", JSON_PATCH, "{}"),
            ("json-op", JSON_PATCH, r#"[{"op":"odd","path":"/a"}]"#),
            ("json-remove", JSON_PATCH, r#"[{"op":"remove","path":"/metadata/none"}]"#),
            ("json-test", JSON_PATCH, r#"[{"op":"test","path":"/kind","value":"Odd"}]"#),
            ("json-add", JSON_PATCH, r#"[{"op":"add","path":"/metadata/labels","value":{"x":"y"}}]"#),
            (
                "json-copy",
                JSON_PATCH,
                r#"[{"op":"copy","from":"/metadata/name","path":"/metadata/generateName"}]"#,
            ),
            ("json-index", JSON_PATCH, r#"[{"op":"add","path":"/metadata/finalizers/5","value":"a"}]"#),
            ("json-wrong", JSON_PATCH, r#"[{"op":"replace","path":"/metadata/labels","value":"x"}]"#),
            ("strategic-none", STRATEGIC, "{}"),
            ("strategic-labels", STRATEGIC, r#"{"metadata":{"labels":{"more":"x"}}}"#),
            ("strategic-directive", STRATEGIC, r#"{"$patch":"odd"}"#),
            ("strategic-replace", STRATEGIC, r#"{"metadata":{"labels":{"$patch":"replace","only":"x"}}}"#),
            ("strategic-delete", STRATEGIC, r#"{"metadata":{"$deleteFromPrimitiveList/finalizers":["a"]}}"#),
            ("strategic-wrong", STRATEGIC, r#"{"metadata":{"labels":["odd"]}}"#),
            ("strategic-unknown", STRATEGIC, r#"{"odd":{"a":1}}"#),
            ("media", "text/plain", "{}"),
            ("media-json", "application/json", "{}"),
        ];
        for (name, media, body) in all {
            self.typed(&format!("patch/{name}"), media, dry.clone(), body);
        }
        let twice = r#"{"odd":1,"metadata":{"labels":{"a":"1","a":"2"}}}"#;
        for mode in ["Strict", "Warn", "Ignore"] {
            for (name, media) in [("merge", MERGE), ("strategic", STRATEGIC)] {
                self.typed(
                    &format!("patch/{name}-{mode}"),
                    media,
                    format!("{dry}&fieldValidation={mode}"),
                    twice,
                );
            }
        }
        self.typed("patch/force", MERGE, format!("{dry}&force=true"), "{}");
        self.typed("patch/real", MERGE, one.clone(), r#"{"metadata":{"annotations":{"some":"note"}}}"#);
        self.typed("patch/real-same", MERGE, one, r#"{"metadata":{"annotations":{"some":"note"}}}"#);
    }

    fn applies(&mut self) {
        let one = self.one.clone();
        let head = json!({"apiVersion": self.row.api_version(), "kind": self.row.kind,
            "metadata": {"name": self.object["metadata"]["name"]}});
        let with = |edit: Value| {
            let mut body = head.clone();
            crate::merge(&mut body, &edit);
            body.to_string()
        };
        let labels = |value: &str| with(json!({"metadata": {"labels": {"some": value}}}));
        let all = [
            ("no-manager", "", labels("x")),
            ("empty", "fieldManager=m&dryRun=All", "{}".to_owned()),
            ("syntax", "fieldManager=m", "a: [".to_owned()),
            ("name", "fieldManager=m", with(json!({"metadata": {"name": "other"}}))),
            ("nameless", "fieldManager=m&dryRun=All", with(json!({"metadata": {"name": null}}))),
            ("kind", "fieldManager=m", with(json!({"kind": "Other"}))),
            ("version", "fieldManager=m", with(json!({"apiVersion": "odd/v1"}))),
            ("unknown", "fieldManager=m&dryRun=All", with(json!({"odd": 1}))),
            ("unknown-strict", "fieldManager=m&fieldValidation=Strict", with(json!({"odd": 1}))),
            ("wrong", "fieldManager=m", with(json!({"metadata": {"labels": "odd"}}))),
            ("managed", "fieldManager=m", with(json!({"metadata": {"managedFields": [{}]}}))),
            ("conflict", "fieldManager=m", labels("mine")),
            ("conflict-dry", "fieldManager=m&dryRun=All", labels("mine")),
            ("forced", "fieldManager=m&force=true", labels("mine")),
            ("again", "fieldManager=m", labels("mine")),
            ("shared", "fieldManager=n", labels("mine")),
            ("changed", "fieldManager=m", labels("other")),
            ("dropped", "fieldManager=m", head.to_string()),
            ("whole", "fieldManager=w&force=true", self.object.to_string()),
        ];
        for (name, query, body) in all {
            self.typed(&format!("apply/{name}"), APPLY, format!("{one}?{query}"), &body);
        }
        self.add("apply/read", "GET", one, Value::Null);
    }

    fn subresources(&mut self, types: &'static TypeFacts, seen: &mut Seen) {
        for sub in self.row.subresources.clone() {
            let path = format!("{}/{}", self.one, sub.name);
            let quiet = matches!(
                sub.role,
                Role::Status
                    | Role::Scale(_)
                    | Role::Finalize
                    | Role::Approval
                    | Role::Resize
                    | Role::EphemeralContainers
            );
            if !quiet {
                continue;
            }
            let id = format!("sub/{}", sub.name);
            self.add(&format!("{id}/get"), "GET", path.clone(), Value::Null);
            self.accepting(&format!("{id}/table"), path.clone(), TABLE);
            self.add(&format!("{id}/post"), "POST", path.clone(), json!({}));
            self.add(&format!("{id}/delete"), "DELETE", path.clone(), Value::Null);
            self.add(&format!("{id}/put-empty"), "PUT", format!("{path}?dryRun=All"), json!({}));
            let edits = [
                ("same", json!({})),
                ("labels", json!({"metadata": {"labels": {"other": "label"}}})),
                ("stale", json!({"metadata": {"resourceVersion": "1"}})),
                ("uid", json!({"metadata": {"uid": "other"}})),
                ("name", json!({"metadata": {"name": "other"}})),
                ("kind", json!({"kind": "Other"})),
            ];
            for (name, edit) in edits {
                self.add(&format!("{id}/put-{name}"), "PUT", format!("{path}?dryRun=All"), Value::Null)
                    .body = Body::Last(edit);
            }
            let conditions = r#"{"status":{"conditions":[{"type":"Some","status":"True","reason":"Because","message":"m","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}"#;
            for (name, media, body) in [
                ("merge", MERGE, conditions),
                ("merge-labels", MERGE, r#"{"metadata":{"labels":{"via":"sub"}}}"#),
                ("merge-wrong", MERGE, r#"{"status":{"conditions":"odd"}}"#),
                ("merge-spec", MERGE, r#"{"spec":{"replicas":-1}}"#),
                ("strategic", STRATEGIC, conditions),
                ("strategic-spec", STRATEGIC, r#"{"spec":{"replicas":7}}"#),
                ("json", JSON_PATCH, r#"[{"op":"test","path":"/status/none","value":1}]"#),
            ] {
                self.typed(&format!("{id}/{name}"), media, format!("{path}?dryRun=All"), body);
            }
            let apply = json!({"apiVersion": sub_version(&sub.group, &sub.version), "kind": sub.kind,
                "metadata": {"name": self.object["metadata"]["name"]}});
            self.typed(
                &format!("{id}/apply"),
                APPLY,
                format!("{path}?fieldManager=s&dryRun=All"),
                &apply.to_string(),
            );
            if sub.role == Role::Status {
                for (what, object) in fields::spoil(&json!({}), types, seen, true) {
                    let case =
                        self.add(&format!("{id}/{what}"), "PUT", format!("{path}?dryRun=All"), Value::Null);
                    case.body = Body::Last(object);
                }
                self.typed(&format!("{id}/real"), MERGE, path.clone(), r#"{"status":{}}"#);
            }
            self.add(&format!("{id}/none"), "GET", format!("{}-none/{}", self.one, sub.name), Value::Null);
        }
    }

    fn users(&mut self) {
        let (all, one, object) = (self.all.clone(), self.one.clone(), self.object.clone());
        for (name, method, path, body) in [
            ("get", "GET", one.clone(), Value::Null),
            ("list", "GET", all.clone(), Value::Null),
            ("watch", "GET", format!("{all}?watch=1"), Value::Null),
            ("create", "POST", all.clone(), object),
            ("delete", "DELETE", one, Value::Null),
            ("deletecollection", "DELETE", all, Value::Null),
        ] {
            self.add(&format!("user/{name}"), method, path, body)
                .headers
                .push(("impersonate-user".into(), "bob".into()));
        }
    }

    fn deletes(&mut self) {
        let (all, one) = (self.all.clone(), self.one.clone());
        let options = |edit: Value| {
            let mut body = json!({"kind": "DeleteOptions", "apiVersion": "v1"});
            crate::merge(&mut body, &edit);
            body
        };
        for (name, body) in [
            ("uid", options(json!({"preconditions": {"uid": "other"}}))),
            ("version", options(json!({"preconditions": {"resourceVersion": "1"}}))),
            ("propagation-odd", options(json!({"propagationPolicy": "Odd"}))),
            ("both", options(json!({"propagationPolicy": "Orphan", "orphanDependents": true}))),
            ("grace-negative", options(json!({"gracePeriodSeconds": -5, "dryRun": ["All"]}))),
            ("dry", options(json!({"dryRun": ["All"]}))),
            ("dry-odd", options(json!({"dryRun": ["Odd"]}))),
            ("kind", json!({"kind": "Odd", "apiVersion": "v1"})),
            ("unknown", options(json!({"odd": 1, "dryRun": ["All"]}))),
            ("wrong", options(json!({"gracePeriodSeconds": "x"}))),
        ] {
            self.add(&format!("delete/{name}"), "DELETE", one.clone(), body);
        }
        for query in [
            "gracePeriodSeconds=odd",
            "propagationPolicy=Odd",
            "dryRun=Odd",
            "orphanDependents=odd",
            "dryRun=All&propagationPolicy=Background",
        ] {
            self.add(&format!("delete/{query}"), "DELETE", format!("{one}?{query}"), Value::Null);
        }
        self.add(
            "delete/collection-none",
            "DELETE",
            format!("{all}?labelSelector=none%3Dthere"),
            Value::Null,
        );
        self.add("delete/collection-odd", "DELETE", format!("{all}?labelSelector=a%20b"), Value::Null);
        self.add(
            "delete/collection-dry",
            "DELETE",
            format!("{all}?dryRun=All&fieldSelector=metadata.name%3Dnone"),
            Value::Null,
        );
        self.add("delete/real", "DELETE", one.clone(), Value::Null);
        if self.row.kind == "Namespace" {
            let case = self.add("delete/finalize", "PUT", format!("{one}/finalize"), Value::Null);
            case.body =
                Body::Last(json!({"spec": {"finalizers": null}, "metadata": {"resourceVersion": null}}));
        }
        self.add("delete/gone", "GET", one.clone(), Value::Null);
        self.add("delete/again", "DELETE", one, Value::Null);
    }
}

fn sub_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}
