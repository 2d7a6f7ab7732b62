//! Paths: one operation per verb, with the parameters that clients look for (`fieldValidation`, `dryRun`).

use serde_json::{Map, Value, json};

use super::definitions::META;
use super::{Dialect, ResourceDoc, SubresourceDoc, definition_name};

/// Query parameters: name, type, what it does.
const PARAMETERS: [(&str, &str, &str); 20] = [
    ("allowWatchBookmarks", "boolean", "Ask for BOOKMARK events in a watch."),
    ("continue", "string", "Continue a paginated list from where it stopped."),
    ("dryRun", "string", "Go through all steps but keep nothing. The one valid value is All."),
    ("fieldManager", "string", "Name of the actor that makes the change, at most 128 printable characters."),
    ("fieldSelector", "string", "Select objects by their fields."),
    ("fieldValidation", "string", "What to do about unknown and duplicate fields: Ignore, Warn or Strict."),
    ("force", "boolean", "Take over fields that others own when applying."),
    ("gracePeriodSeconds", "integer", "Seconds before the object is deleted; 0 means at once."),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean", "Delete an object that cannot be read."),
    ("labelSelector", "string", "Select objects by their labels."),
    ("limit", "integer", "At most this many objects in one answer."),
    ("orphanDependents", "boolean", "Deprecated: use propagationPolicy."),
    ("pretty", "string", "Indent the answer."),
    ("propagationPolicy", "string", "What becomes of dependents: Orphan, Background or Foreground."),
    ("resourceVersion", "string", "The version from which to read."),
    ("resourceVersionMatch", "string", "How resourceVersion is to be met: Exact or NotOlderThan."),
    ("sendInitialEvents", "boolean", "Begin a watch with the present objects."),
    ("shardSelector", "string", "Select a part of the objects by hash."),
    ("timeoutSeconds", "integer", "End a list or watch after this many seconds."),
    ("watch", "boolean", "Watch for changes instead of listing."),
];

const LIST: [&str; 11] = [
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "shardSelector",
    "timeoutSeconds",
    "watch",
];
const WRITE: [&str; 3] = ["dryRun", "fieldManager", "fieldValidation"];
const PATCH: [&str; 4] = ["dryRun", "fieldManager", "fieldValidation", "force"];
const DELETE: [&str; 5] = [
    "dryRun",
    "gracePeriodSeconds",
    "ignoreStoreReadErrorWithClusterBreakingPotential",
    "orphanDependents",
    "propagationPolicy",
];

/// The parameters that v2 operations refer to.
pub(super) fn shared_parameters() -> Value {
    let mut out: Map<String, Value> =
        PARAMETERS.iter().map(|(name, ..)| (name.to_string(), parameter(Dialect::V2, name))).collect();
    for name in ["name", "namespace", "path"] {
        out.insert(format!("{name}-in-path"), path_parameter(Dialect::V2, name));
    }
    Value::Object(out)
}

fn parameter(dialect: Dialect, name: &str) -> Value {
    let (_, kind, text) =
        PARAMETERS.iter().find(|(known, ..)| *known == name).expect("a parameter of the table");
    match dialect {
        Dialect::V2 => {
            json!({"in": "query", "name": name, "description": text, "type": kind, "uniqueItems": true})
        }
        Dialect::V3 => {
            json!({"in": "query", "name": name, "description": text, "schema": {"type": kind, "uniqueItems": true}})
        }
    }
}

fn path_parameter(dialect: Dialect, name: &str) -> Value {
    let text = match name {
        "namespace" => "The namespace of the object.",
        "name" => "The name of the object.",
        _ => "The rest of the path.",
    };
    let mut out = json!({"in": "path", "name": name, "description": text, "required": true});
    match dialect {
        Dialect::V2 => {
            out["type"] = json!("string");
            out["uniqueItems"] = json!(true);
        }
        Dialect::V3 => out["schema"] = json!({"type": "string", "uniqueItems": true}),
    }
    out
}

fn refer(dialect: Dialect, name: &str) -> Value {
    match dialect {
        Dialect::V2 => json!({"$ref": format!("#/parameters/{name}")}),
        Dialect::V3 => parameter(dialect, name),
    }
}

fn refer_path(dialect: Dialect, name: &str) -> Value {
    match dialect {
        Dialect::V2 => json!({"$ref": format!("#/parameters/{name}-in-path")}),
        Dialect::V3 => path_parameter(dialect, name),
    }
}

/// One operation to be written.
struct Operation<'a> {
    method: &'a str,
    action: &'a str,
    /// Verb in the operation's id, such as `replace`.
    word: &'a str,
    gvk: (&'a str, &'a str, &'a str),
    id: String,
    tag: &'a str,
    parameters: &'a [&'a str],
    body: Option<String>,
    answer: Option<String>,
}

pub(super) fn paths(dialect: Dialect, resources: &[ResourceDoc<'_>], served: &[(&str, &str)]) -> Value {
    let mut out = Map::new();
    for (group, version) in served {
        let root = root(group, version);
        let tag = tag(group, version);
        let discovery = Operation {
            method: "get",
            action: "",
            word: "get",
            gvk: (group, version, ""),
            id: format!("get{}APIResources", camel(group, version)),
            tag: &tag,
            parameters: &[],
            body: None,
            answer: Some(format!("{META}.APIResourceList")),
        };
        add(dialect, &mut out, format!("{root}/"), &discovery, &[]);
    }
    for resource in resources {
        resource_paths(dialect, resource, &mut out);
    }
    Value::Object(out)
}

fn root(group: &str, version: &str) -> String {
    match group {
        "" => format!("/api/{version}"),
        _ => format!("/apis/{group}/{version}"),
    }
}

fn tag(group: &str, version: &str) -> String {
    match group {
        "" => format!("core_{version}"),
        _ => format!("{}_{version}", short_group(group)),
    }
}

fn short_group(group: &str) -> String {
    let name = group.strip_suffix(".k8s.io").unwrap_or(group);
    let mut words = name.split('.');
    let mut out = words.next().unwrap_or_default().to_string();
    words.for_each(|word| out.push_str(&capital(word)));
    out
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

/// `AppsV1`, `CoreV1`.
fn camel(group: &str, version: &str) -> String {
    let group = if group.is_empty() { "core".to_string() } else { short_group(group) };
    format!("{}{}", capital(&group), capital(version))
}

fn add(
    dialect: Dialect,
    out: &mut Map<String, Value>,
    path: String,
    operation: &Operation<'_>,
    path_names: &[&str],
) {
    let entry = out.entry(path).or_insert_with(|| {
        let mut shared: Vec<Value> = path_names.iter().map(|name| refer_path(dialect, name)).collect();
        if !path_names.is_empty() || !operation.action.is_empty() {
            shared.push(refer(dialect, "pretty"));
        }
        match shared.is_empty() {
            true => json!({}),
            false => json!({"parameters": shared}),
        }
    });
    entry[operation.method] = render(dialect, operation);
}

const PRODUCED: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const PATCHES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

fn render(dialect: Dialect, operation: &Operation<'_>) -> Value {
    let consumed: &[&str] = if operation.action == "patch" { &PATCHES } else { &["*/*"] };
    let mut parameters: Vec<Value> = operation.parameters.iter().map(|name| refer(dialect, name)).collect();
    let mut out = json!({
        "description": format!("{} {}", operation.word, operation.gvk.2),
        "operationId": operation.id,
        "tags": [operation.tag],
    });
    let content = |types: &[&str], name: &str| -> Value {
        let schema = json!({"schema": dialect.reference(name)});
        Value::Object(types.iter().map(|kind| (kind.to_string(), schema.clone())).collect())
    };
    let ok = match (&operation.answer, dialect) {
        (Some(name), Dialect::V2) => json!({"description": "OK", "schema": dialect.reference(name)}),
        (Some(name), Dialect::V3) => json!({"description": "OK", "content": content(&PRODUCED, name)}),
        (None, Dialect::V2) => json!({"description": "OK", "schema": {"type": "string"}}),
        (None, Dialect::V3) => {
            json!({"description": "OK", "content": {"*/*": {"schema": {"type": "string"}}}})
        }
    };
    let mut responses = json!({"200": ok, "401": {"description": "Unauthorized"}});
    if matches!(operation.action, "post" | "put" | "patch") {
        responses["201"] = responses["200"].clone();
        responses["201"]["description"] = json!("Created");
    }
    out["responses"] = responses;
    match (&operation.body, dialect) {
        (Some(name), Dialect::V2) => parameters.push(json!({
            "in": "body", "name": "body", "required": operation.action != "delete", "schema": dialect.reference(name),
        })),
        (Some(name), Dialect::V3) => {
            out["requestBody"] = json!({"content": content(consumed, name), "required": operation.action != "delete"});
        }
        (None, _) => {}
    }
    if !parameters.is_empty() {
        out["parameters"] = Value::Array(parameters);
    }
    if dialect == Dialect::V2 {
        out["consumes"] = json!(consumed);
        out["produces"] = json!(PRODUCED);
        out["schemes"] = json!(["https"]);
    }
    if !operation.action.is_empty() {
        let (group, version, kind) = operation.gvk;
        out["x-kubernetes-action"] = json!(operation.action);
        out["x-kubernetes-group-version-kind"] = json!({"group": group, "version": version, "kind": kind});
    }
    out
}

/// How a verb appears: method, action, word of the description, word of the operation's id, whether it is on
/// the collection, and its parameters.
type VerbRow = (&'static str, &'static str, &'static str, &'static str, bool, &'static [&'static str]);

const VERBS: [(&str, VerbRow); 7] = [
    ("list", ("get", "list", "list or watch", "list", true, &LIST)),
    ("create", ("post", "post", "create", "create", true, &WRITE)),
    (
        "deletecollection",
        ("delete", "deletecollection", "delete collection of", "deleteCollection", true, &DELETE),
    ),
    ("get", ("get", "get", "read", "read", false, &[])),
    ("update", ("put", "put", "replace", "replace", false, &WRITE)),
    ("patch", ("patch", "patch", "partially update", "patch", false, &PATCH)),
    ("delete", ("delete", "delete", "delete", "delete", false, &DELETE)),
];

fn resource_paths(dialect: Dialect, resource: &ResourceDoc<'_>, out: &mut Map<String, Value>) {
    let root = root(resource.group, resource.version);
    let tag = tag(resource.group, resource.version);
    let names = camel(resource.group, resource.version);
    let scope = if resource.namespaced { "Namespaced" } else { "" };
    let (collection, path_names): (String, &[&str]) = match resource.namespaced {
        true => (format!("{root}/namespaces/{{namespace}}/{}", resource.plural), &["namespace"]),
        false => (format!("{root}/{}", resource.plural), &[]),
    };
    let item = format!("{collection}/{{name}}");
    let item_names: &[&str] = if resource.namespaced { &["name", "namespace"] } else { &["name"] };
    let gvk = (resource.group, resource.version, resource.kind);
    let own = Some(resource.definition());
    let mut base = None;
    for (verb, (method, action, word, id, on_collection, parameters)) in VERBS {
        let operation = Operation {
            method,
            action,
            word,
            gvk,
            id: format!("{id}{names}{scope}{}", resource.kind),
            tag: &tag,
            parameters,
            body: match action {
                "post" | "put" => own.clone(),
                "patch" => Some(format!("{META}.Patch")),
                "delete" | "deletecollection" => Some(format!("{META}.DeleteOptions")),
                _ => None,
            },
            answer: match action {
                "list" => Some(resource.list_definition()),
                "delete" | "deletecollection" => Some(format!("{META}.Status")),
                _ => own.clone(),
            },
        };
        if resource.verbs.contains(&verb) {
            if verb == "list" && resource.namespaced {
                let id = format!("list{names}{}ForAllNamespaces", resource.kind);
                let everywhere = Operation { id, ..base_of(&operation) };
                add(dialect, out, format!("{root}/{}", resource.plural), &everywhere, &[]);
            }
            let (path, names) = if on_collection { (&collection, path_names) } else { (&item, item_names) };
            add(dialect, out, path.clone(), &operation, names);
        }
        base = Some(operation);
    }
    let Some(base) = base else { return };
    for subresource in &resource.subresources {
        subresource_paths(dialect, resource, subresource, &item, item_names, &base, out);
    }
}

fn base_of<'a>(base: &Operation<'a>) -> Operation<'a> {
    Operation { id: base.id.clone(), body: base.body.clone(), answer: base.answer.clone(), ..*base }
}

fn subresource_paths(
    dialect: Dialect,
    resource: &ResourceDoc<'_>,
    subresource: &SubresourceDoc<'_>,
    item: &str,
    item_names: &[&str],
    base: &Operation<'_>,
    out: &mut Map<String, Value>,
) {
    let names = camel(resource.group, resource.version);
    let scope = if resource.namespaced { "Namespaced" } else { "" };
    let suffix = format!("{names}{scope}{}{}", resource.kind, capital(subresource.name));
    let own_kind = subresource.kind == resource.kind;
    let definition = match own_kind {
        true => resource.definition(),
        false => definition_name(subresource.group, subresource.version, subresource.kind, false),
    };
    let gvk = (subresource.group, subresource.version, subresource.kind);
    let connect = subresource.kind.ends_with("Options");
    let text = connect || subresource.name == "log";
    for verb in &subresource.verbs {
        let (method, action, word) = match *verb {
            "get" => ("get", "get", "read"),
            "create" => ("post", "post", "create"),
            "update" => ("put", "put", "replace"),
            "patch" => ("patch", "patch", "patch"),
            "delete" => ("delete", "delete", "delete"),
            _ => continue,
        };
        let body = match action {
            _ if text => None,
            "patch" => Some(format!("{META}.Patch")),
            "post" | "put" => Some(definition.clone()),
            _ => None,
        };
        let operation = Operation {
            method,
            action: if connect { "connect" } else { action },
            word: if connect { "connect to" } else { word },
            gvk,
            id: if connect {
                format!("connect{}{suffix}", capital(method))
            } else {
                format!("{word}{suffix}")
            },
            parameters: match action {
                _ if text => &[],
                "patch" => &PATCH,
                "post" | "put" => &WRITE,
                _ => &[],
            },
            body,
            answer: (!text).then(|| definition.clone()),
            ..base_of(base)
        };
        add(dialect, out, format!("{item}/{}", subresource.name), &operation, item_names);
    }
}
