//! Paths: one operation per verb, with the parameters that clients look for (`fieldValidation`, `dryRun`).

use serde_json::{Map, Value, json};

use super::definitions::META;
use super::{Dialect, ResourceDoc, SubresourceDoc, definition_name};
use crate::schema::{Base, Scalar, Shape, facts};

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
const DELETE_COLLECTION: [&str; 14] = [
    "continue",
    "dryRun",
    "fieldSelector",
    "gracePeriodSeconds",
    "ignoreStoreReadErrorWithClusterBreakingPotential",
    "labelSelector",
    "limit",
    "orphanDependents",
    "propagationPolicy",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "shardSelector",
    "timeoutSeconds",
];

const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const STREAMS: [&str; 2] =
    ["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];
const OBJECTS: &[&str] = &[JSON, YAML, PROTOBUF];
const LISTS: &[&str] = &[JSON, YAML, PROTOBUF, STREAMS[0], STREAMS[1]];
/// Custom resources have no protobuf form.
const CUSTOM_OBJECTS: &[&str] = &[JSON, YAML];
const ANY: &[&str] = &["*/*"];
const PATCHES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];
const CUSTOM_PATCHES: &[&str] =
    &["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"];

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
    query_parameter(dialect, name, kind, text)
}

fn query_parameter(dialect: Dialect, name: &str, kind: &str, text: &str) -> Value {
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

/// The options of `exec`, `log` and the like are query parameters: those fields of their kind that a query can hold.
fn option_parameters(dialect: Dialect, kind: &str) -> Vec<Value> {
    let Some(kind) = facts().by_gvk("", "v1", kind) else { return Vec::new() };
    let typed = kind.flat().iter().filter_map(|flat| {
        let kind = match flat.field.base {
            Base::Scalar(Scalar::Str) => "string",
            Base::Scalar(Scalar::Bool) => "boolean",
            Base::Scalar(Scalar::I32 | Scalar::I64) => "integer",
            _ => return None,
        };
        let is_option = flat.field.shape != Shape::Map && !matches!(flat.field.json, "kind" | "apiVersion");
        is_option.then_some((flat.field.json, kind))
    });
    let mut all: Vec<(&str, &str)> = typed.collect();
    all.sort_unstable();
    all.into_iter()
        .map(|(name, kind)| query_parameter(dialect, name, kind, &format!("Sets {name} of the options.")))
        .collect()
}

/// What names and parameters a path has for all its operations.
struct Place<'a> {
    path: String,
    names: &'a [&'a str],
    pretty: bool,
    /// A kind whose fields are parameters.
    options: Option<&'a str>,
}

impl<'a> Place<'a> {
    fn of(path: String, names: &'a [&'a str]) -> Self {
        Place { path, names, pretty: true, options: None }
    }
}

/// One operation to be written.
#[derive(Clone)]
struct Operation<'a> {
    method: &'a str,
    /// `x-kubernetes-action`; empty for documents that are no resources.
    action: &'a str,
    text: String,
    gvk: (&'a str, &'a str, &'a str),
    id: String,
    tag: &'a str,
    parameters: &'a [&'a str],
    body: Option<String>,
    /// The definition of the answer; without one it is text.
    answer: Option<String>,
    /// Good answers beside 200.
    also: &'a [(&'a str, &'a str)],
    consumes: &'a [&'a str],
    produces: &'a [&'a str],
}

const CREATED: (&str, &str) = ("201", "Created");
const ACCEPTED: (&str, &str) = ("202", "Accepted");

/// A document that is no resource: path, tag, id, what it is, definition of the answer, its types.
type Surface<'a> = (&'a str, &'a str, &'a str, &'a str, Option<&'a str>, &'a [&'a str]);

const SURFACE: [Surface<'_>; 5] = [
    (
        "/.well-known/openid-configuration/",
        "WellKnown",
        "getServiceAccountIssuerOpenIDConfiguration",
        "what verifies tokens of service accounts",
        None,
        &[JSON],
    ),
    ("/api/", "core", "getCoreAPIVersions", "versions of the core group", Some("APIVersions"), OBJECTS),
    ("/apis/", "apis", "getAPIVersions", "groups that are served", Some("APIGroupList"), OBJECTS),
    (
        "/openid/v1/jwks/",
        "openid",
        "getServiceAccountIssuerOpenIDKeyset",
        "keys that verify tokens of service accounts",
        None,
        &["application/jwk-set+json"],
    ),
    ("/version/", "version", "getCodeVersion", "version of this server", Some("Info"), &[JSON]),
];

/// The definition of the answer of `/version/`.
pub(super) const VERSION: &str = "io.k8s.apimachinery.pkg.version.Info";

fn surface<'a>((path, tag, id, text, answer, types): &Surface<'a>) -> (String, Operation<'a>) {
    let definition = |name: &str| match name {
        "Info" => VERSION.to_owned(),
        name => format!("{META}.{name}"),
    };
    let operation = Operation {
        method: "get",
        action: "",
        text: format!("get {text}"),
        gvk: ("", "", ""),
        id: (*id).to_owned(),
        tag,
        parameters: &[],
        body: None,
        answer: answer.map(definition),
        also: &[],
        consumes: if answer.is_some() { types } else { &[] },
        produces: types,
    };
    ((*path).to_owned(), operation)
}

/// The paths of the documents about what is served, which are no resources: the general ones, and one for each group.
/// `only` leaves all but one out.
pub(super) fn surface_paths(dialect: Dialect, groups: &[&str], only: Option<&str>) -> Value {
    let mut out = Map::new();
    let mut put = |path: String, operation: &Operation<'_>| {
        if only.is_none_or(|only| path.trim_matches('/') == only) {
            let place = Place { pretty: false, ..Place::of(path, &[]) };
            add(dialect, &mut out, &place, operation);
        }
    };
    for entry in &SURFACE {
        let (path, operation) = surface(entry);
        put(path, &operation);
    }
    for group in groups.iter().filter(|group| !group.is_empty()) {
        let (tag, id) = (short_group(group), format!("get{}APIGroup", capital(&short_group(group))));
        let entry = ("", tag.as_str(), id.as_str(), "versions of the group", Some("APIGroup"), OBJECTS);
        put(format!("/apis/{group}/"), &surface(&entry).1);
    }
    Value::Object(out)
}

/// The names of the documents that [`surface_paths`] tells apart, without slashes around.
pub(super) fn surface_names<'a>(groups: impl Iterator<Item = &'a str>) -> Vec<String> {
    let general = SURFACE.iter().map(|entry| entry.0.trim_matches('/').to_owned());
    general.chain(groups.filter(|group| !group.is_empty()).map(|group| format!("apis/{group}"))).collect()
}

/// The definition of the answer of the document of that name; none where it is text.
pub(super) fn surface_answer(name: &str) -> Option<String> {
    match SURFACE.iter().find(|entry| entry.0.trim_matches('/') == name) {
        Some(entry) => surface(entry).1.answer,
        None => Some(format!("{META}.APIGroup")),
    }
}

pub(super) fn paths(dialect: Dialect, resources: &[ResourceDoc<'_>], served: &[(&str, &str)]) -> Value {
    let mut out = Map::new();
    for (group, version) in served {
        let tag = tag(group, version);
        let id = format!("get{}APIResources", camel(group, version));
        let entry =
            ("", tag.as_str(), id.as_str(), "resources of this version", Some("APIResourceList"), OBJECTS);
        let place = Place { pretty: false, ..Place::of(format!("{}/", root(group, version)), &[]) };
        add(dialect, &mut out, &place, &surface(&entry).1);
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

fn add(dialect: Dialect, out: &mut Map<String, Value>, place: &Place<'_>, operation: &Operation<'_>) {
    let entry = out.entry(place.path.clone()).or_insert_with(|| {
        let mut shared: Vec<Value> =
            place.options.map(|kind| option_parameters(dialect, kind)).unwrap_or_default();
        shared.extend(place.names.iter().map(|name| refer_path(dialect, name)));
        if place.pretty {
            shared.push(refer(dialect, "pretty"));
        }
        match shared.is_empty() {
            true => json!({}),
            false => json!({"parameters": shared}),
        }
    });
    entry[operation.method] = render(dialect, operation);
}

fn render(dialect: Dialect, operation: &Operation<'_>) -> Value {
    let mut parameters: Vec<Value> = operation.parameters.iter().map(|name| refer(dialect, name)).collect();
    let mut out =
        json!({"description": operation.text, "operationId": operation.id, "tags": [operation.tag]});
    let content = |types: &[&str], schema: Value| -> Value {
        let schema = json!({"schema": schema});
        Value::Object(types.iter().map(|kind| (kind.to_string(), schema.clone())).collect())
    };
    let schema = match &operation.answer {
        Some(name) => dialect.reference(name),
        None => json!({"type": "string"}),
    };
    let mut responses = json!({"401": {"description": "Unauthorized"}});
    for (code, text) in [("200", "OK")].iter().chain(operation.also) {
        responses[*code] = match dialect {
            Dialect::V2 => json!({"description": text, "schema": schema}),
            Dialect::V3 => {
                json!({"description": text, "content": content(operation.produces, schema.clone())})
            }
        };
    }
    out["responses"] = responses;
    let required = operation.method != "delete";
    match (&operation.body, dialect) {
        (Some(name), Dialect::V2) => {
            let mut body = json!({"in": "body", "name": "body", "schema": dialect.reference(name)});
            if required {
                body["required"] = json!(true);
            }
            parameters.insert(0, body);
        }
        (Some(name), Dialect::V3) => {
            out["requestBody"] = json!({"content": content(operation.consumes, dialect.reference(name))});
            if required {
                out["requestBody"]["required"] = json!(true);
            }
        }
        (None, _) => {}
    }
    if !parameters.is_empty() {
        out["parameters"] = Value::Array(parameters);
    }
    if dialect == Dialect::V2 {
        if !operation.consumes.is_empty() {
            out["consumes"] = json!(operation.consumes);
        }
        out["produces"] = json!(operation.produces);
        out["schemes"] = json!(["https"]);
    }
    if !operation.action.is_empty() {
        let (group, version, kind) = operation.gvk;
        out["x-kubernetes-action"] = json!(operation.action);
        out["x-kubernetes-group-version-kind"] = json!({"group": group, "version": version, "kind": kind});
    }
    out
}

/// How a verb appears: method, action, words of the description, what the operation's id begins with and what stands
/// before its kind, whether it is on the collection, and its parameters.
type VerbRow =
    (&'static str, &'static str, &'static str, (&'static str, &'static str), bool, &'static [&'static str]);

const VERBS: [(&str, VerbRow); 7] = [
    ("list", ("get", "list", "list or watch", ("list", ""), true, &LIST)),
    ("create", ("post", "post", "create", ("create", ""), true, &WRITE)),
    (
        "deletecollection",
        (
            "delete",
            "deletecollection",
            "delete collection of",
            ("delete", "Collection"),
            true,
            &DELETE_COLLECTION,
        ),
    ),
    ("get", ("get", "get", "read", ("read", ""), false, &[])),
    ("update", ("put", "put", "replace", ("replace", ""), false, &WRITE)),
    ("patch", ("patch", "patch", "partially update", ("patch", ""), false, &PATCH)),
    ("delete", ("delete", "delete", "delete", ("delete", ""), false, &DELETE)),
];

fn resource_paths(dialect: Dialect, resource: &ResourceDoc<'_>, out: &mut Map<String, Value>) {
    let root = root(resource.group, resource.version);
    let tag = tag(resource.group, resource.version);
    let names = camel(resource.group, resource.version);
    let (scope, scopes): (_, &[&str]) =
        if resource.namespaced { ("Namespaced", &["namespace"]) } else { ("", &[]) };
    let below = match resource.namespaced {
        true => format!("namespaces/{{namespace}}/{}", resource.plural),
        false => resource.plural.to_owned(),
    };
    let collection = Place::of(format!("{root}/{below}"), scopes);
    let item_names: &[&str] = if resource.namespaced { &["name", "namespace"] } else { &["name"] };
    let item = Place::of(format!("{root}/{below}/{{name}}"), item_names);
    let is_custom = resource.custom.is_some();
    let own = Some(resource.definition());
    let base = Operation {
        method: "get",
        action: "get",
        text: String::new(),
        gvk: (resource.group, resource.version, resource.kind),
        id: String::new(),
        tag: &tag,
        parameters: &[],
        body: None,
        answer: own.clone(),
        also: &[],
        consumes: consumed("get", is_custom),
        produces: if is_custom { CUSTOM_OBJECTS } else { OBJECTS },
    };
    for (verb, (method, action, word, (start, middle), on_collection, parameters)) in VERBS {
        if !resource.verbs.contains(&verb) {
            continue;
        }
        let operation = Operation {
            method,
            action,
            text: format!("{word} {}", resource.kind),
            id: format!("{start}{names}{middle}{scope}{}", resource.kind),
            parameters,
            body: body_of(action, &own),
            answer: match action {
                "list" => Some(resource.list_definition()),
                "delete" if resource.returns_deleted => own.clone(),
                "delete" | "deletecollection" => Some(format!("{META}.Status")),
                _ => own.clone(),
            },
            also: also(action),
            consumes: consumed(action, is_custom),
            produces: if action == "list" && !is_custom { LISTS } else { base.produces },
            ..base.clone()
        };
        if verb == "list" && resource.namespaced {
            let id = format!("list{names}{}ForAllNamespaces", resource.kind);
            let everywhere = Operation { id, ..operation.clone() };
            add(dialect, out, &Place::of(format!("{root}/{}", resource.plural), &[]), &everywhere);
        }
        add(dialect, out, if on_collection { &collection } else { &item }, &operation);
    }
    if resource.verbs.contains(&"watch") && !is_custom {
        watch_paths(dialect, resource, &root, &below, item_names, &base, out);
    }
    for subresource in &resource.subresources {
        subresource_paths(dialect, resource, subresource, &item, &base, out);
    }
}

fn body_of(action: &str, own: &Option<String>) -> Option<String> {
    match action {
        "post" | "put" => own.clone(),
        "patch" => Some(format!("{META}.Patch")),
        "delete" | "deletecollection" => Some(format!("{META}.DeleteOptions")),
        _ => None,
    }
}

fn also(action: &str) -> &'static [(&'static str, &'static str)] {
    match action {
        "post" => &[CREATED, ACCEPTED],
        "put" | "patch" => &[CREATED],
        "delete" => &[ACCEPTED],
        _ => &[],
    }
}

fn consumed(action: &str, is_custom: bool) -> &'static [&'static str] {
    match (action, is_custom) {
        ("patch", false) => PATCHES,
        ("patch", true) => CUSTOM_PATCHES,
        (_, true) => CUSTOM_OBJECTS,
        _ => ANY,
    }
}

/// The old paths of watches, `/api/v1/watch/…`.
fn watch_paths(
    dialect: Dialect,
    resource: &ResourceDoc<'_>,
    root: &str,
    below: &str,
    item_names: &[&str],
    base: &Operation<'_>,
    out: &mut Map<String, Value>,
) {
    let (names, kind) = (camel(resource.group, resource.version), resource.kind);
    let scope = if resource.namespaced { "Namespaced" } else { "" };
    let all = (
        resource.namespaced,
        resource.plural.to_owned(),
        "watchlist",
        format!("{kind}ListForAllNamespaces"),
        0,
    );
    let list = (true, below.to_owned(), "watchlist", format!("{scope}{kind}List"), item_names.len() - 1);
    let one = (true, format!("{below}/{{name}}"), "watch", format!("{scope}{kind}"), item_names.len());
    for (exists, path, action, id, count) in [all, list, one] {
        if !exists {
            continue;
        }
        let operation = Operation {
            action,
            text: format!("watch {kind}; deprecated: list with the parameter watch instead"),
            id: format!("watch{names}{id}"),
            parameters: &LIST,
            answer: Some(format!("{META}.WatchEvent")),
            produces: LISTS,
            ..base.clone()
        };
        let names = &item_names[item_names.len() - count..];
        add(dialect, out, &Place::of(format!("{root}/watch/{path}"), names), &operation);
    }
}

/// The methods of a path that is passed on to somebody else.
const PROXIED: [&str; 7] = ["get", "put", "post", "delete", "options", "head", "patch"];

fn subresource_paths(
    dialect: Dialect,
    resource: &ResourceDoc<'_>,
    subresource: &SubresourceDoc<'_>,
    item: &Place<'_>,
    base: &Operation<'_>,
    out: &mut Map<String, Value>,
) {
    let names = camel(resource.group, resource.version);
    let scope = if resource.namespaced { "Namespaced" } else { "" };
    let suffix = format!("{names}{scope}{}{}", resource.kind, capital(subresource.name));
    let definition = match subresource.kind == resource.kind {
        true => resource.definition(),
        false => definition_name(subresource.group, subresource.version, subresource.kind, false),
    };
    let gvk = (subresource.group, subresource.version, subresource.kind);
    let path = format!("{}/{}", item.path, subresource.name);
    if subresource.is_connected() {
        return connect_paths(dialect, resource, subresource, item, base, out);
    }
    let is_log = subresource.name == "log";
    let place = Place { path, options: is_log.then_some("PodLogOptions"), ..*item };
    for verb in &subresource.verbs {
        let (method, word, parameters): (_, _, &[&str]) = match *verb {
            "get" => ("get", "read", &[]),
            "create" => ("post", "create", &WRITE),
            "update" => ("put", "replace", &WRITE),
            "patch" => ("patch", "patch", &PATCH),
            "delete" => ("delete", "delete", &DELETE),
            _ => continue,
        };
        let operation = Operation {
            method,
            action: method,
            text: format!("{word} {} of {}", subresource.name, resource.kind),
            gvk,
            id: format!("{word}{suffix}"),
            parameters,
            body: body_of(method, &Some(definition.clone())),
            answer: (!is_log).then(|| definition.clone()),
            also: also(method),
            consumes: consumed(method, resource.custom.is_some()),
            produces: if is_log { &["text/plain", JSON, YAML, PROTOBUF] } else { base.produces },
            ..base.clone()
        };
        add(dialect, out, &place, &operation);
    }
}

/// Connections to a pod, service or node: their options are parameters, what comes back is anything.
fn connect_paths(
    dialect: Dialect,
    resource: &ResourceDoc<'_>,
    subresource: &SubresourceDoc<'_>,
    item: &Place<'_>,
    base: &Operation<'_>,
    out: &mut Map<String, Value>,
) {
    let names = camel(resource.group, resource.version);
    let scope = if resource.namespaced { "Namespaced" } else { "" };
    let gvk = (subresource.group, subresource.version, subresource.kind);
    let path = format!("{}/{}", item.path, subresource.name);
    let methods: Vec<&str> = match subresource.name {
        "proxy" => PROXIED.to_vec(),
        _ => vec!["get", "post"],
    };
    let rest: Vec<&str> = item.names.iter().copied().chain(["path"]).collect();
    let options = Some(subresource.kind);
    let mut places = vec![(Place { path: path.clone(), pretty: false, options, ..*item }, "")];
    if subresource.name == "proxy" {
        let path = format!("{path}/{{path}}");
        places.push((Place { path, names: &rest, pretty: false, options }, "WithPath"));
    }
    for (place, end) in &places {
        for method in &methods {
            let camel_method = capital(method);
            let id = format!(
                "connect{names}{camel_method}{scope}{}{}{end}",
                resource.kind,
                capital(subresource.name)
            );
            let text = format!("connect to {} of {}", subresource.name, resource.kind);
            let operation = Operation {
                method,
                action: "connect",
                text,
                gvk,
                id,
                answer: None,
                produces: ANY,
                ..base.clone()
            };
            add(dialect, out, place, &operation);
        }
    }
}
