//! OpenAPI documents: `/openapi/v2` and `/openapi/v3`, from the facts and the served resources.
//!
//! Made on demand; the caller caches the bytes and their hash. It must not know the registry: a resource comes
//! as a [`ResourceDoc`].

mod custom;
mod definitions;
mod descriptions;
mod paths;
mod protobuf;

pub use protobuf::v2_protobuf;

use serde_json::{Map, Value, json};

use definitions::Definitions;

/// A served resource, as far as OpenAPI shows it.
#[derive(Debug, Clone)]
pub struct ResourceDoc<'a> {
    /// API group; empty for core.
    pub group: &'a str,
    /// Version.
    pub version: &'a str,
    /// Kind.
    pub kind: &'a str,
    /// Kind of its list.
    pub list_kind: &'a str,
    /// Plural, as in paths.
    pub plural: &'a str,
    /// Whether it lives in namespaces.
    pub namespaced: bool,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verbs: Vec<&'a str>,
    /// Whether its deletion answers with the object; a Status otherwise.
    pub returns_deleted: bool,
    /// Its subresources.
    pub subresources: Vec<SubresourceDoc<'a>>,
    /// Set for custom resources.
    pub custom: Option<CustomDoc<'a>>,
}

/// A subresource.
#[derive(Debug, Clone)]
pub struct SubresourceDoc<'a> {
    /// Name, such as `status`.
    pub name: &'a str,
    /// Group of the kind it takes and gives.
    pub group: &'a str,
    /// Version of that kind.
    pub version: &'a str,
    /// That kind.
    pub kind: &'a str,
    /// Verbs it serves.
    pub verbs: Vec<&'a str>,
}

impl SubresourceDoc<'_> {
    /// True for connections to a pod, service or node (`exec`, `proxy`).
    fn is_connected(&self) -> bool {
        self.kind.ends_with("Options")
    }
}

/// What a custom resource adds.
#[derive(Debug, Clone, Default)]
pub struct CustomDoc<'a> {
    /// `openAPIV3Schema` of the version; `None` when it has none or it is not structural.
    pub schema: Option<&'a Value>,
    /// `spec.preserveUnknownFields` of the definition.
    pub preserve_unknown: bool,
    /// JSON paths of the selectable fields.
    pub selectable_fields: Vec<&'a str>,
}

impl ResourceDoc<'_> {
    /// The name of the kind's definition.
    pub fn definition(&self) -> String {
        definition_name(self.group, self.version, self.kind, self.custom.is_some())
    }

    fn list_definition(&self) -> String {
        definition_name(self.group, self.version, self.list_kind, self.custom.is_some())
    }
}

fn definition_name(group: &str, version: &str, kind: &str, custom: bool) -> String {
    let builtin = if custom { None } else { crate::schema::facts().by_gvk(group, version, kind) };
    match builtin {
        Some(facts) => facts.name.clone(),
        None => {
            let reversed: Vec<&str> = group.split('.').rev().collect();
            format!("{}.{version}.{kind}", reversed.join("."))
        }
    }
}

/// Which document is being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    V2,
    V3,
}

impl Dialect {
    fn reference(self, name: &str) -> Value {
        match self {
            Dialect::V2 => json!({"$ref": format!("#/definitions/{name}")}),
            Dialect::V3 => json!({"$ref": format!("#/components/schemas/{name}")}),
        }
    }
}

/// The OpenAPI v3 document of one group and version, as JSON bytes. `resources` are those of that group and
/// version only.
pub fn v3(group: &str, version: &str, resources: &[ResourceDoc<'_>]) -> Vec<u8> {
    let (definitions, paths) = parts(Dialect::V3, resources, &[(group, version)]);
    v3_document(definitions, paths)
}

fn v3_document(definitions: Value, paths: Value) -> Vec<u8> {
    to_bytes(&json!({
        "openapi": "3.0.0",
        "info": info(),
        "paths": paths,
        "components": {
            "schemas": definitions,
            "securitySchemes": {"BearerToken": bearer()},
        },
    }))
}

/// The names of the OpenAPI v3 documents about what is served: `api`, `apis`, `apis/apps`, `version` and so on.
pub fn v3_surface_names<'a>(groups: impl Iterator<Item = &'a str>) -> Vec<String> {
    paths::surface_names(groups)
}

/// The OpenAPI v3 document of that name, as JSON bytes.
pub fn v3_surface(name: &str) -> Vec<u8> {
    let group = name.strip_prefix("apis/").unwrap_or_default();
    let paths = paths::surface_paths(Dialect::V3, &[group], Some(name));
    let mut definitions = Definitions::new(Dialect::V3, &[]);
    paths::surface_answer(name).iter().for_each(|answer| definitions.need(answer));
    v3_document(definitions.finish(), paths)
}

/// The OpenAPI v2 document of everything served, as JSON bytes.
pub fn v2(resources: &[ResourceDoc<'_>]) -> Vec<u8> {
    let mut served: Vec<(&str, &str)> = resources.iter().map(|r| (r.group, r.version)).collect();
    served.sort_unstable();
    served.dedup();
    let (definitions, paths) = parts(Dialect::V2, resources, &served);
    let document = json!({
        "swagger": "2.0",
        "info": info(),
        "paths": paths,
        "definitions": definitions,
        "parameters": paths::shared_parameters(),
        "securityDefinitions": {"BearerToken": bearer()},
        "security": [{"BearerToken": []}],
    });
    to_bytes(&document)
}

/// The index at `/openapi/v3`: each entry is a path below the root, such as `apis/apps/v1`, and the hash of its
/// document.
pub fn v3_index<'a>(entries: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<u8> {
    let paths: Map<String, Value> = entries
        .map(|(path, hash)| {
            (path.to_string(), json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={hash}")}))
        })
        .collect();
    to_bytes(&json!({"paths": paths}))
}

fn parts(dialect: Dialect, resources: &[ResourceDoc<'_>], served: &[(&str, &str)]) -> (Value, Value) {
    let mut definitions = Definitions::new(dialect, served);
    for resource in resources {
        match &resource.custom {
            Some(custom) => custom::define(resource, custom, &mut definitions),
            None => {
                definitions.need(&resource.definition());
                if resource.verbs.contains(&"list") {
                    definitions.need(&resource.list_definition());
                }
            }
        }
        for subresource in resource.subresources.iter().filter(|sub| !sub.is_connected()) {
            definitions.need(&definition_name(
                subresource.group,
                subresource.version,
                subresource.kind,
                false,
            ));
        }
    }
    for name in ["Status", "DeleteOptions", "Patch", "APIResourceList", "WatchEvent"] {
        definitions.need(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}"));
    }
    let mut paths = paths::paths(dialect, resources, served);
    if dialect == Dialect::V2 {
        let mut groups: Vec<&str> = served.iter().map(|(group, _)| *group).collect();
        groups.dedup();
        for name in paths::surface_names(groups.iter().copied()) {
            paths::surface_answer(&name).iter().for_each(|answer| definitions.need(answer));
        }
        if let (Value::Object(all), Value::Object(surface)) =
            (&mut paths, paths::surface_paths(dialect, &groups, None))
        {
            all.extend(surface);
        }
    }
    (definitions.finish(), paths)
}

fn info() -> Value {
    json!({"title": "Kubernetes", "version": "v1.36.2"})
}

fn bearer() -> Value {
    json!({"type": "apiKey", "in": "header", "name": "authorization", "description": "Bearer Token authentication"})
}

fn to_bytes(document: &Value) -> Vec<u8> {
    serde_json::to_vec(document).expect("a value tree is always JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment() -> ResourceDoc<'static> {
        ResourceDoc {
            group: "apps",
            version: "v1",
            kind: "Deployment",
            list_kind: "DeploymentList",
            plural: "deployments",
            namespaced: true,
            verbs: vec!["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"],
            returns_deleted: false,
            subresources: vec![SubresourceDoc {
                name: "scale",
                group: "autoscaling",
                version: "v1",
                kind: "Scale",
                verbs: vec!["get", "update", "patch"],
            }],
            custom: None,
        }
    }

    #[test]
    fn v3_serves_explain_and_validation() {
        let document: Value = serde_json::from_slice(&v3("apps", "v1", &[deployment()])).expect("json");
        let schemas = &document["components"]["schemas"];
        let spec = &schemas["io.k8s.api.apps.v1.DeploymentSpec"];
        assert_eq!(spec["required"], json!(["selector", "template"]));
        assert_eq!(spec["properties"]["replicas"]["format"], "int32");
        assert!(spec["properties"]["replicas"]["description"].as_str().is_some_and(|text| text.len() > 20));
        assert_eq!(
            schemas["io.k8s.api.core.v1.ContainerPort"]["properties"]["protocol"]["enum"],
            json!(["SCTP", "TCP", "UDP"])
        );
        let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        assert_eq!(patch["x-kubernetes-action"], "patch");
        assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Deployment");
        let names: Vec<&str> =
            patch["parameters"].as_array().expect("list").iter().filter_map(|p| p["name"].as_str()).collect();
        assert!(names.contains(&"fieldValidation"));
        assert!(
            document["paths"].get("/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale").is_some()
        );
    }

    #[test]
    fn v2_has_every_operation() {
        let sub = |name, kind, verbs: &[&'static str]| SubresourceDoc {
            name,
            group: "",
            version: "v1",
            kind,
            verbs: verbs.to_vec(),
        };
        let pods = ResourceDoc {
            group: "",
            kind: "Pod",
            list_kind: "PodList",
            plural: "pods",
            returns_deleted: true,
            subresources: vec![
                sub("exec", "PodExecOptions", &["get", "create"]),
                sub("proxy", "PodProxyOptions", &["get"]),
                sub("log", "Pod", &["get"]),
            ],
            ..deployment()
        };
        let document: Value = serde_json::from_slice(&v2(&[pods, deployment()])).expect("json");
        let at = |path: &str, method: &str| document["paths"][path][method].clone();
        let collection = "/api/v1/namespaces/{namespace}/pods";
        let item = format!("{collection}/{{name}}");
        for (path, method, id) in [
            (collection, "delete", "deleteCoreV1CollectionNamespacedPod"),
            ("/api/v1/pods", "get", "listCoreV1PodForAllNamespaces"),
            ("/api/v1/watch/pods", "get", "watchCoreV1PodListForAllNamespaces"),
            ("/api/v1/watch/namespaces/{namespace}/pods", "get", "watchCoreV1NamespacedPodList"),
            ("/api/v1/watch/namespaces/{namespace}/pods/{name}", "get", "watchCoreV1NamespacedPod"),
            (&format!("{item}/exec"), "post", "connectCoreV1PostNamespacedPodExec"),
            (&format!("{item}/proxy/{{path}}"), "head", "connectCoreV1HeadNamespacedPodProxyWithPath"),
            (&format!("{item}/log"), "get", "readCoreV1NamespacedPodLog"),
            ("/apis/apps/", "get", "getAppsAPIGroup"),
            ("/apis/apps/v1/", "get", "getAppsV1APIResources"),
            ("/version/", "get", "getCodeVersion"),
        ] {
            assert_eq!(at(path, method)["operationId"], id, "{path}");
        }
        let answer = |path: &str, code: &str| at(path, "delete")["responses"][code]["schema"]["$ref"].clone();
        assert_eq!(answer(&item, "202"), "#/definitions/io.k8s.api.core.v1.Pod");
        let other = "/apis/apps/v1/namespaces/{namespace}/deployments/{name}";
        assert_eq!(answer(other, "200"), "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.Status");
        let parameters = |path: &str| {
            let all = document["paths"][path]["parameters"].as_array().cloned().unwrap_or_default();
            all.iter()
                .filter_map(|one| Some(format!("{} {}", one["name"].as_str()?, one["type"].as_str()?)))
                .collect::<Vec<_>>()
        };
        let exec = [
            "command string",
            "container string",
            "stderr boolean",
            "stdin boolean",
            "stdout boolean",
            "tty boolean",
        ];
        assert_eq!(parameters(&format!("{item}/exec")), exec);
        assert!(parameters(&format!("{item}/log")).contains(&"tailLines integer".to_owned()));
        // Options of connections are parameters, no objects.
        assert_eq!(document["definitions"].get("io.k8s.api.core.v1.PodExecOptions"), None);
    }

    #[test]
    fn v3_has_a_document_for_each_thing_served() {
        let names = v3_surface_names(["", "apps"].into_iter());
        assert_eq!(
            names,
            [".well-known/openid-configuration", "api", "apis", "openid/v1/jwks", "version", "apis/apps"]
        );
        for name in names {
            let document: Value = serde_json::from_slice(&v3_surface(&name)).expect("json");
            let paths: Vec<&String> = document["paths"].as_object().expect("an object").keys().collect();
            assert_eq!(paths, [&format!("/{name}/")]);
            let text = document.to_string();
            for reference in text.split("#/components/schemas/").skip(1) {
                let target = reference.split('"').next().unwrap_or_default();
                assert!(document["components"]["schemas"].get(target).is_some(), "{name}: {target}");
            }
        }
    }

    #[test]
    fn custom_resources_are_published_as_v2_can_say_them() {
        let schema = json!({"type": "object", "description": "Foo", "properties": {
            "spec": {"type": "object", "required": ["a", "n"], "properties": {
                "a": {"type": "string", "enum": ["x"]},
                "n": {"type": "string", "nullable": true},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"x": {"type": "string"}}},
            }},
        }});
        let custom = ResourceDoc {
            group: "stable.example.com",
            version: "v1",
            kind: "Foo",
            list_kind: "FooList",
            plural: "foos",
            subresources: Vec::new(),
            custom: Some(CustomDoc { schema: Some(&schema), ..CustomDoc::default() }),
            ..deployment()
        };
        let document: Value = serde_json::from_slice(&v2(&[custom.clone()])).expect("json");
        let foo = &document["definitions"]["com.example.stable.v1.Foo"];
        assert_eq!(foo["description"], "Foo");
        assert_eq!(
            foo["x-kubernetes-group-version-kind"],
            json!([{"group": "stable.example.com", "version": "v1", "kind": "Foo"}])
        );
        assert_eq!(
            foo["properties"]["spec"],
            json!({"type": "object", "required": ["a"], "properties": {
                "a": {"type": "string", "enum": ["x"]}, "n": {}, "free": {"x-kubernetes-preserve-unknown-fields": true},
            }})
        );
        assert!(document["definitions"].get("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").is_some());
        let open =
            json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"a": {}}});
        let bare =
            ResourceDoc { custom: Some(CustomDoc { schema: Some(&open), ..CustomDoc::default() }), ..custom };
        let document: Value = serde_json::from_slice(&v2(&[bare])).expect("json");
        assert_eq!(document["definitions"]["com.example.stable.v1.Foo"].get("properties"), None);
    }
}
