//! One handler per verb, for every kind. A kind differs only through its row.

mod create;
mod delete;
mod list;
mod patch;
mod read;
pub mod update;
pub(crate) mod watch;

use std::sync::Arc;

use api::ApiError;
use api::validation::{ErrorKind, ErrorList, FieldError, Path};
use base::http::Body;
use http::Response;
use machinery::cel::Budget;
use machinery::schema::structural::{self, Node};
use registry::{Context, Resource, Role, Verb};
use serde_json::Value;

use crate::negotiate::Offer;
use crate::object::Served;
use crate::server::{Exchange, Server};
use crate::sub;

pub use create::{Written, create_untracked};
pub use delete::{delete_named, returns_deleted};
pub use list::Selection;
pub use patch::{kind as patch_kind, patch_tree};
pub use update::{change, change_untracked};

/// A request to a row.
pub struct Call<'a> {
    /// The server.
    pub server: &'a Server,
    /// The request.
    pub exchange: &'a Exchange,
    /// The row with its serving data.
    pub served: Served,
}

impl Call<'_> {
    /// The row.
    pub fn row(&self) -> &Resource {
        &self.served.row
    }

    /// What strategies may know.
    pub fn context(&self) -> Context<'_> {
        Context { now: self.exchange.now, user: Some(&self.exchange.user), resource: self.row() }
    }

    /// Canonical form and defaults of an object of this kind.
    pub fn default(&self, object: &mut Value) {
        self.served.default(object);
    }

    /// What a custom resource's schema refuses.
    pub fn check_schema(&self, new: &Value, old: Option<&Value>) -> Result<(), ApiError> {
        let Some(custom) = &self.served.custom else { return Ok(()) };
        let mut errors = match old {
            None => structural::validate(&custom.node, new),
            Some(old) => structural::validate_update(&custom.node, new, old),
        };
        if let Some(Role::Scale(paths)) = self.row().subresource("scale").map(|sub| &sub.role) {
            errors.extend(registry::scale::check(paths, new));
        }
        embedded_metadata(&custom.node, new, &Path::root(), &mut errors);
        // Rules judge only what has the right shape.
        if !custom.rules.is_empty() {
            if errors.iter().any(|error| BLOCKING.contains(&error.kind)) {
                errors.push(FieldError::invalid(&Path::root(), Value::Null, NOT_CHECKED));
            } else {
                errors.extend(custom.rules.validate(&custom.node, new, old, &mut Budget::default()));
            }
        }
        if errors.is_empty() {
            return Ok(());
        }
        let row = self.row();
        let name = new["metadata"]["name"].as_str().unwrap_or("");
        Err(ApiError::invalid(&row.group, &row.kind, name, &ErrorList(errors)))
    }

    /// The request's namespace.
    pub fn namespace(&self) -> &str {
        &self.exchange.info.namespace
    }

    /// The request's object name.
    pub fn name(&self) -> &str {
        &self.exchange.info.name
    }

    /// What this row can be answered in.
    pub fn offer(&self) -> Offer {
        let row = self.row();
        let plain_part = !self.exchange.info.subresource.is_empty()
            && (PLAIN_PARTS.contains(&(row.group.as_str(), row.kind.as_str()))
                || PLAIN_SUBRESOURCES.contains(&self.exchange.info.subresource.as_str()));
        Offer {
            tables: (row.storage.is_some() || row.verbs.has(Verb::List)) && !plain_part,
            protobuf: !row.custom,
            watch: false,
        }
    }
}

/// The length of the stored object that a request changes; zero when it changes none.
fn changed_bytes(call: &Call<'_>) -> usize {
    let changes = matches!(call.exchange.head.method, http::Method::PUT | http::Method::PATCH);
    let key = changes.then(|| crate::write::key(call.row(), call.namespace(), call.name())).flatten();
    key.and_then(|key| call.server.store.get(&key)).map_or(0, |object| object.json.len())
}

/// Finds row and verb, and runs the handler.
pub async fn dispatch(server: &Server, exchange: &Exchange, body: Body) -> Result<Response<Body>, ApiError> {
    let info = &exchange.info;
    let serving = server.rows.serving();
    let Some(row) = serving.catalog.get(&info.group, &info.version, &info.resource) else {
        return crate::discovery::unknown(server, exchange, body).await;
    };
    check_scope(row, exchange)?;
    if exchange.head.method == http::Method::HEAD && info.subresource != "proxy" {
        return Err(method_not_allowed());
    }
    let call = Call { server, exchange, served: Served::new(row.clone(), serving.custom(row).cloned()) };
    let (body, place) = crate::bodies::admit(server, exchange, body, changed_bytes(&call)).await?;
    // On the heap: it holds what any verb could need, and requests that the server makes of itself nest.
    let work = Box::pin(handle(&call, body));
    let answer = match place {
        None => work.await,
        // A large body can take seconds of a core.
        Some(_place) => base::tasks::apart(work).await,
    };
    if !answer.as_ref().is_err_and(unserved) {
        warn_deprecated(row, exchange);
        call.served
            .custom
            .iter()
            .filter_map(|kind| kind.deprecation.as_ref())
            .for_each(|text| exchange.warn(text));
    }
    answer
}

/// Whether an error is about the way to a kind: nothing was served that one could be warned of.
fn unserved(error: &ApiError) -> bool {
    error.code == 405
        || ["406: ", "415: "].iter().any(|start| error.message.starts_with(start))
        || error.message == no_such_path().message
}

async fn handle(call: &Call<'_>, body: Body) -> Result<Response<Body>, ApiError> {
    if !call.exchange.info.subresource.is_empty() {
        return sub::dispatch(call, body).await;
    }
    let verb = verb(call.row(), call.exchange)?;
    if call.row().storage.is_none() {
        return sub::virtual_kind(call, verb, body).await;
    }
    run(call, verb, body).await
}

async fn run(call: &Call<'_>, verb: Verb, body: Body) -> Result<Response<Body>, ApiError> {
    match verb {
        Verb::Get => read::get(call).await,
        Verb::List => list::list(call).await,
        Verb::Watch => watch::watch(call).await,
        Verb::Create => create::create(call, body).await,
        Verb::Update => update::replace(call, registry::Part::Main, body).await,
        Verb::Patch => patch::patch(call, registry::Part::Main, body).await,
        Verb::Delete => delete::delete(call, body).await,
        Verb::DeleteCollection => delete::delete_collection(call, body).await,
    }
}

/// Reads, replaces or patches a part of an object: what status and its like offer.
pub async fn part(call: &Call<'_>, part: registry::Part, body: Body) -> Result<Response<Body>, ApiError> {
    match call.exchange.info.verb.as_str() {
        "get" => read::get(call).await,
        "update" => update::replace(call, part, body).await,
        "patch" => patch::patch(call, part, body).await,
        _ => Err(method_not_allowed()),
    }
}

/// Subresources that are not shown as tables.
const PLAIN_SUBRESOURCES: [&str; 3] = ["approval", "ephemeralcontainers", "resize"];

/// What is wrong with the metadata of objects inside a custom resource.
fn embedded_metadata(node: &Node, value: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    if let (Some(map), true) = (value.as_object(), node.embedded && *path != Path::root()) {
        let meta = map.get("metadata").unwrap_or(&Value::Null);
        let (mut found, at) = (ErrorList::new(), path.child("metadata"));
        registry::validation::meta::labels(&mut found, &meta["labels"], &at.child("labels"));
        registry::validation::meta::annotations(&mut found, &meta["annotations"], &at.child("annotations"));
        registry::validation::meta::finalizers(&mut found, &meta["finalizers"], &at.child("finalizers"));
        errors.extend(found);
    }
    for (name, inner) in value.as_object().into_iter().flatten() {
        if let Some(place) = node.properties.get(name).or(node.additional.as_deref()) {
            embedded_metadata(place, inner, &path.child(name), errors);
        }
    }
    if let (Some(place), Some(items)) = (node.items.as_deref(), value.as_array()) {
        items.iter().enumerate().for_each(|(i, item)| embedded_metadata(place, item, &path.index(i), errors));
    }
}

/// What may be wrong with a custom resource so that its rules would not know what they judge.
const BLOCKING: [ErrorKind; 5] = [
    ErrorKind::NotSupported,
    ErrorKind::Required,
    ErrorKind::TooLong,
    ErrorKind::TooMany,
    ErrorKind::TypeInvalid,
];
const NOT_CHECKED: &str = "some validation rules were not checked because the object was invalid; correct the existing \
                           errors to complete validation";

/// Group and kind of what shows no tables of its subresources.
const PLAIN_PARTS: &[(&str, &str)] = &[
    ("apiextensions.k8s.io", "CustomResourceDefinition"),
    ("apiregistration.k8s.io", "APIService"),
    ("resource.k8s.io", "ResourceClaim"),
];

/// Kind, and what clients of it are told.
const DEPRECATED: &[(&str, &str)] = &[
    ("ComponentStatus", "v1 ComponentStatus is deprecated in v1.19+"),
    ("Endpoints", "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
];

fn warn_deprecated(row: &Resource, exchange: &Exchange) {
    if let Some((_, text)) = DEPRECATED.iter().find(|entry| row.group.is_empty() && entry.0 == row.kind) {
        exchange.warn_first(text);
    }
}

/// Cluster-scoped kinds are not served below namespaces, names only below a namespace, and what is never stored has
/// none.
fn check_scope(row: &Arc<Resource>, exchange: &Exchange) -> Result<(), ApiError> {
    let info = &exchange.info;
    // A prefix that was dropped long ago.
    if info.verb == "proxy" {
        return Err(no_such_path());
    }
    let by_name =
        [Verb::Get, Verb::Update, Verb::Patch, Verb::Delete].iter().any(|verb| row.verbs.has(*verb));
    if !info.name.is_empty() && info.subresource.is_empty() && !by_name {
        return Err(no_such_path());
    }
    let below_namespace = info.path.contains("/namespaces/") && info.resource != "namespaces";
    if !row.namespaced && below_namespace {
        return Err(no_such_path());
    }
    let named = !info.name.is_empty() && !matches!(info.verb.as_str(), "list" | "watch" | "deletecollection");
    let alone = info.namespace.is_empty() && row.namespaced;
    if alone && info.verb == "deletecollection" {
        return Err(method_not_allowed());
    }
    if alone && named {
        return Err(no_such_path());
    }
    if alone && info.verb == "create" && row.storage.is_some() {
        return Err(method_not_allowed());
    }
    Ok(())
}

/// 405.
pub fn method_not_allowed() -> ApiError {
    let message = "the server does not allow this method on the requested resource";
    let mut error = ApiError::new(api::error::Reason::MethodNotAllowed, message);
    error.details = Some(Box::default());
    error
}

/// 404 for a path below a known version.
pub fn no_such_path() -> ApiError {
    let mut error = ApiError::no_such_path();
    error.details = Some(Box::default());
    error
}

fn verb(row: &Resource, exchange: &Exchange) -> Result<Verb, ApiError> {
    let info = &exchange.info;
    let verb = Verb::ALL.into_iter().find(|verb| verb.as_str() == info.verb);
    // A POST to an object's own path is no create.
    let posted_to_object = info.verb == "create" && !info.name.is_empty();
    let unnamed = matches!(info.verb.as_str(), "update" | "patch") && info.name.is_empty();
    match verb {
        Some(verb) if row.verbs.has(verb) && !posted_to_object && !unnamed => Ok(verb),
        _ => Err(method_not_allowed()),
    }
}
