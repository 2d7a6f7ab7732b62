//! Scenarios of field tracking and server-side apply.

use serde_json::json;

use super::*;
use crate::schema::facts;

fn write<'a>(manager: &'a str, second: i64) -> Write<'a> {
    Write {
        schema: Schema::Type(facts().by_gvk("apps", "v1", "Deployment").expect("known")),
        api_version: "apps/v1",
        manager,
        subresource: "",
        now: Timestamp::from_second(second).expect("in range"),
        reset: &["status"],
    }
}

fn deployment(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "n"}, "spec": spec})
}

fn created(manager: &str, spec: Value) -> Value {
    let mut new = deployment(spec);
    canonical::canonicalize(write(manager, 0).schema, &mut new);
    update(write(manager, 0), None, &mut new);
    new
}

fn owners(object: &Value) -> Vec<(String, Value)> {
    let list = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let shown = |entry: &Value| {
        format!("{} {}", entry["manager"].as_str().unwrap_or(""), entry["operation"].as_str().unwrap_or(""))
    };
    list.iter().map(|entry| (shown(entry), entry["fieldsV1"].clone())).collect()
}

#[test]
fn a_create_is_owned_as_upstream_shows_it() {
    let object = created(
        "kubectl-create",
        json!({
            "replicas": 1,
            "selector": {"matchLabels": {"app": "a"}},
            "template": {
                "metadata": {"labels": {"app": "a"}},
                "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}], "securityContext": {}},
            },
        }),
    );
    assert_eq!(
        owners(&object),
        [(
            "kubectl-create Update".to_string(),
            json!({"f:spec": {
                "f:replicas": {},
                "f:selector": {},
                "f:template": {
                    "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                    "f:spec": {
                        "f:containers": {"k:{\"name\":\"c\"}": {
                            ".": {}, "f:image": {}, "f:name": {},
                            "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}},
                            "f:resources": {},
                        }},
                        "f:securityContext": {},
                    },
                },
            }})
        )]
    );
}

#[test]
fn an_update_takes_the_fields_it_changes() {
    let live = created("a", json!({"replicas": 1, "paused": true}));
    let mut new = live.clone();
    new["spec"]["replicas"] = json!(2);
    update(write("b", 60), Some(&live), &mut new);
    assert_eq!(
        owners(&new),
        [
            ("a Update".to_string(), json!({"f:spec": {"f:paused": {}}})),
            ("b Update".to_string(), json!({"f:spec": {"f:replicas": {}}})),
        ]
    );
    let same = {
        let mut again = new.clone();
        update(write("c", 120), Some(&new), &mut again);
        again
    };
    assert_eq!(same, new, "nothing changed, nothing is recorded");
    let mut reset = new.clone();
    reset["metadata"]["managedFields"] = json!([{}]);
    update(write("c", 120), Some(&new), &mut reset);
    assert_eq!(owners(&reset), []);
}

#[test]
fn an_apply_conflicts_forces_shares_and_gives_up() {
    let live = created("a", json!({"replicas": 1, "paused": true}));
    let config = deployment(json!({"replicas": 3}));
    let error = apply(write("b", 60), Some(&live), &config, false).expect_err("conflict");
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"a\" using apps/v1: .spec.replicas"
    );
    let forced = apply(write("b", 60), Some(&live), &config, true).expect("forced");
    assert_eq!(forced["spec"]["replicas"], 3);
    assert_eq!(
        owners(&forced),
        [
            ("b Apply".to_string(), json!({"f:spec": {"f:replicas": {}}})),
            ("a Update".to_string(), json!({"f:spec": {"f:paused": {}}})),
        ]
    );
    let shared =
        apply(write("c", 120), Some(&forced), &config, false).expect("the same value is no conflict");
    assert_eq!(owners(&shared).len(), 3);
    let nothing =
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "n"}});
    let without = apply(write("b", 180), Some(&shared), &nothing, false).expect("gives up");
    assert_eq!(without["spec"]["replicas"], 3, "c still wants it");
    let gone = apply(write("c", 240), Some(&without), &nothing, false).expect("gives up");
    assert_eq!(gone["spec"].get("replicas"), None);
    assert_eq!(owners(&gone), [("a Update".to_string(), json!({"f:spec": {"f:paused": {}}}))]);
}

#[test]
fn list_elements_are_owned_one_by_one() {
    let containers = |names: &[&str]| {
        let list: Vec<Value> = names.iter().map(|name| json!({"name": name, "image": "i"})).collect();
        deployment(json!({"template": {"spec": {"containers": list}}}))
    };
    let one = apply(write("a", 0), None, &containers(&["x", "y"]), false).expect("created");
    let two = apply(write("b", 60), Some(&one), &containers(&["z"]), false).expect("added");
    let names = |object: &Value| -> Vec<String> {
        let list = object["spec"]["template"]["spec"]["containers"].as_array().cloned().unwrap_or_default();
        list.iter().filter_map(|c| c["name"].as_str().map(str::to_string)).collect()
    };
    assert_eq!(names(&two), ["x", "y", "z"]);
    let three = apply(write("a", 120), Some(&two), &containers(&["y"]), false).expect("removed");
    assert_eq!(names(&three), ["y", "z"]);
}

#[test]
fn configurations_must_fit_the_schema() {
    for (config, expect) in [
        (
            deployment(json!({"foo": 1})),
            "failed to create typed patch object (n/d; apps/v1, Kind=Deployment): .spec.foo: field not declared in schema",
        ),
        (
            deployment(json!({"template": {"spec": {"containers": [{"name": "a"}, {"name": "a"}]}}})),
            "failed to create typed patch object (n/d; apps/v1, Kind=Deployment): .spec.template.spec.containers: duplicate entries for key [name=\"a\"]",
        ),
        (
            json!({"apiVersion": "apps/v2", "kind": "Deployment"}),
            "Incorrect version specified in apply patch. Specified patch version: apps/v2, expected: apps/v1",
        ),
    ] {
        assert_eq!(apply(write("a", 0), None, &config, false).expect_err("refused").to_string(), expect);
    }
}

#[test]
fn too_many_updaters_become_ancient() {
    let mut object = created("m00", json!({"replicas": 1}));
    for n in 1..13_i64 {
        let mut new = object.clone();
        new["metadata"]["labels"][format!("l{n}")] = json!("x");
        update(write(&format!("m{n:02}"), n * 60), Some(&object), &mut new);
        object = new;
    }
    let names: Vec<String> = owners(&object).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), 10);
    assert_eq!(names[0], "ancient-changes Update");
}

#[test]
fn merging_refuses_atomic_parts() {
    let schema = write("a", 0).schema;
    let live = deployment(json!({"replicas": 1, "selector": {"matchLabels": {"a": "b"}}}));
    let merged =
        merge(schema, &live, &json!({"metadata": {"annotations": {"k": "v"}}, "spec": {"replicas": 7}}));
    let merged = merged.expect("merges");
    assert_eq!(merged["spec"]["replicas"], 7);
    assert_eq!(merged["metadata"]["annotations"], json!({"k": "v"}));
    let refused = merge(schema, &live, &json!({"spec": {"selector": {"matchLabels": {"c": "d"}}}}));
    assert_eq!(
        refused.expect_err("refused").to_string(),
        "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.selector"
    );
}
