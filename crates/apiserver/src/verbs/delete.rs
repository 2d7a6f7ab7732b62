//! DELETE of one object and of a collection.

use std::sync::Arc;

use api::ApiError;
use base::http::Body;
use http::{Response, StatusCode};
use registry::Resource;
use registry::lifecycle::{self, Deletion};
use serde_json::{Value, json};
use store::{CommitError, Expect, Object, Write};

use super::Call;
use super::list::{Selection, candidates, selects_after_conversion};
use crate::admission::{Operation, Review};
use crate::alloc::{Failed, all_releases};
use crate::negotiate::{Accept, Format};
use crate::respond::{self, Include};
use crate::write::{self, FieldValidation, Target, WriteOptions};

/// How often a deletion is tried again when others write the object.
const TRIES: u32 = 10;

/// Objects of a collection that are deleted at one time: their commits share a sync of the disk.
const AT_ONCE: usize = 32;

/// What a deletion left.
pub enum Deleted {
    /// Gone: its last state.
    Gone(Value),
    /// Still there, marked.
    Marked(Value),
}

/// Deletes one object.
pub async fn delete(call: &Call<'_>, body: Body) -> Result<Response<Body>, ApiError> {
    let accept = call.exchange.accept(call.offer())?;
    let options = options(call, body).await?;
    warn_of_orphans(call, &options)?;
    let deleted = delete_named(call, call.namespace(), call.name(), &options).await?;
    let include = Include::Metadata;
    let (object, whole) = match deleted {
        Deleted::Marked(object) => (object, true),
        Deleted::Gone(object) => (object, returns_deleted(call.row())),
    };
    if whole {
        let columns = call.row().columns.clone();
        return Ok(respond::viewed(&accept, StatusCode::OK, columns, &object, call.exchange.now, include));
    }
    let details = json!({"name": call.name(), "group": call.row().group, "kind": call.row().plural,
        "uid": object["metadata"]["uid"]});
    let mut status = respond::success(details);
    if call.row().group.is_empty()
        && let Some(details) = status["details"].as_object_mut()
    {
        details.remove("group");
    }
    Ok(respond::tree(&plain(&accept), StatusCode::OK, &status))
}

/// Jobs leave their pods behind unless told otherwise, which few expect.
fn warn_of_orphans(call: &Call<'_>, options: &Value) -> Result<(), ApiError> {
    lifecycle::check_options(options)?;
    let silent = options["orphanDependents"].is_null() && options["propagationPolicy"].is_null();
    if silent && call.row().group == "batch" && call.row().kind == "Job" {
        call.exchange.warn(
            "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove \
             them or set propagationPolicy=Orphan to suppress this warning",
        );
    }
    Ok(())
}

fn plain(accept: &Accept) -> Accept {
    Accept { format: accept.format, view: crate::negotiate::View::Object }
}

/// Kinds whose deletion answers with the object (upstream's `ReturnDeletedObject`).
pub fn returns_deleted(row: &Resource) -> bool {
    row.group.is_empty()
        && matches!(
            row.plural.as_str(),
            "pods"
                | "services"
                | "serviceaccounts"
                | "persistentvolumes"
                | "persistentvolumeclaims"
                | "podtemplates"
                | "resourcequotas"
        )
        || row.group == "storage.k8s.io" && row.plural != "csistoragecapacities"
        || row.group == "resource.k8s.io"
        || row.group == "policy" && row.plural == "podsecuritypolicies"
}

/// DeleteOptions from the body, else from the query.
pub async fn options(call: &Call<'_>, body: Body) -> Result<Value, ApiError> {
    let exchange = call.exchange;
    let bytes = write::read_body(body).await?;
    if !bytes.is_empty() {
        let target = Target { group: "", version: "v1", kind: "DeleteOptions", custom: false };
        let mut given = bytes.to_vec();
        // Any group's version of DeleteOptions will do: they are one type.
        if let Ok(mut tree) = serde_json::from_slice::<Value>(&bytes)
            && tree["kind"] == "DeleteOptions"
        {
            tree["apiVersion"] = "v1".into();
            given = tree.to_string().into_bytes();
        }
        let format = crate::negotiate::body_format(exchange.headers(), true)?;
        let mut options = if format == crate::negotiate::Format::Protobuf {
            decode_proto(&bytes)?
        } else {
            write::decode_as(exchange, target, format, &given, FieldValidation::Ignore).map_err(unwrapped)?
        };
        if let Some(map) = options.as_object_mut() {
            map.remove("kind");
            map.remove("apiVersion");
        }
        return Ok(options);
    }
    let query = &exchange.query;
    let mut options = json!({});
    if let Some(seconds) = query.integer("gracePeriodSeconds")? {
        options["gracePeriodSeconds"] = json!(seconds);
    }
    if let Some(policy) = query.get("propagationPolicy") {
        options["propagationPolicy"] = json!(policy);
    }
    if let Some(orphan) = query.optional_flag("orphanDependents") {
        options["orphanDependents"] = json!(orphan);
    }
    let dry_run: Vec<&str> = query.all("dryRun").collect();
    if !dry_run.is_empty() {
        options["dryRun"] = json!(dry_run);
    }
    Ok(options)
}

/// DeleteOptions of any group: clients send those of the object's group.
fn decode_proto(bytes: &[u8]) -> Result<Value, ApiError> {
    let (options, _) = machinery::codec::proto::decode_object(bytes)
        .map_err(|error| ApiError::bad_request(error.to_string()))?;
    if options["kind"] != "DeleteOptions" {
        let why = format!("decoded object cannot be handled as a DeleteOptions: {}", options["kind"]);
        return Err(ApiError::bad_request(why));
    }
    Ok(options)
}

/// Upstream does not wrap what it says of options.
fn unwrapped(mut error: ApiError) -> ApiError {
    let starts = [
        "the object provided is unrecognized (must be of type DeleteOptions): ",
        "cannot be handled as a DeleteOptions: ",
    ];
    for start in starts {
        if let Some(at) = error.message.find(start) {
            let rest = &error.message[at + start.len()..];
            // Nor does it show the body.
            error.message = rest.rsplit_once(" (").map_or(rest, |(why, _)| why).to_owned();
        }
    }
    // These have a scheme of their own.
    let own = "pkg/apis/meta/internalversion/scheme/register.go:27";
    error.message = error.message.replace("pkg/api/legacyscheme/scheme.go:30", own);
    error
}

fn dry_run(options: &Value) -> bool {
    options["dryRun"].as_array().is_some_and(|all| !all.is_empty())
}

/// Deletes an object by name: finalizers, grace and preconditions included.
pub async fn delete_named(
    call: &Call<'_>,
    namespace: &str,
    name: &str,
    options: &Value,
) -> Result<Deleted, ApiError> {
    let deleted = delete_known(call, namespace, name, options).await;
    let Err(error) = &deleted else { return deleted };
    match call.server.was_behind(error.code).await? {
        true => delete_known(call, namespace, name, options).await,
        false => deleted,
    }
}

/// Deletes an object as this server knows it.
async fn delete_known(
    call: &Call<'_>,
    namespace: &str,
    name: &str,
    options: &Value,
) -> Result<Deleted, ApiError> {
    let mut current = call.server.find(call.row(), namespace, name)?;
    for _ in 0..TRIES {
        match delete_once(call, options, &current).await? {
            Ok(deleted) => return Ok(deleted),
            Err(newer) => current = newer,
        }
    }
    Err(ApiError::stale(&call.row().group, &call.row().plural, name))
}

async fn delete_once(
    call: &Call<'_>,
    options: &Value,
    current: &Arc<Object>,
) -> Result<Result<Deleted, Arc<Object>>, ApiError> {
    let (row, server) = (call.row(), call.server);
    let name = current.key.name.to_string();
    let shown = crate::convert::one(server, &call.served, current.clone()).await?;
    let old = call.served.tree(&shown);
    let mut object = old.clone();
    let write_options = WriteOptions {
        dry_run: dry_run(options),
        validation: FieldValidation::Ignore,
        manager: String::new(),
        force: false,
    };
    let mut review = Review::new(call, Operation::Delete, &write_options);
    review.name = name.clone();
    review.namespace = current.key.namespace.to_string();
    review.options = Some(options.clone());
    server.admission.announce(&review, &Value::Null, Some(&old)).await?;
    server.admission.validate(&review, None, Some(&old)).await?;
    let mut deletion = lifecycle::before_delete(&call.context(), &mut object, options)?;
    if row.group.is_empty() && row.plural == "namespaces" {
        deletion = crate::sub::namespace::before_delete(call, &mut object, deletion)?;
    }
    if row.group == "apiextensions.k8s.io" && row.plural == "customresourcedefinitions" {
        deletion = crate::crd::before_delete(call.exchange.now, &old, &mut object, deletion);
    }
    let expect = Expect::Revision(current.revision);
    let key = current.key.clone();
    match deletion {
        Deletion::Pending => Ok(Ok(Deleted::Marked(old))),
        Deletion::Marked if write_options.dry_run => Ok(Ok(Deleted::Marked(object))),
        Deletion::Now if write_options.dry_run => Ok(Ok(Deleted::Gone(object))),
        Deletion::Marked => {
            let stored = crate::convert::to_storage(server, &call.served, object.clone()).await?;
            match server.commit(write::put(row, key, expect, stored)).await {
                Ok(committed) => {
                    let written = super::Written::of(&call.served, committed.object, object);
                    Ok(Ok(Deleted::Marked(written.tree(&call.served))))
                }
                Err(CommitError::Conflict(newer)) => Ok(Err(newer)),
                Err(error) => Err(write::commit_error(row, &name, error)),
            }
        }
        Deletion::Now => {
            let claims = all_releases(server, row, &old);
            match server.commit_claiming(Write::delete(key, expect), claims).await {
                Ok(committed) => {
                    object["metadata"]["resourceVersion"] = committed.revision.to_string().into();
                    Ok(Ok(Deleted::Gone(object)))
                }
                Err(Failed::Claim) => Ok(Err(current.clone())),
                Err(Failed::Own(CommitError::Conflict(newer))) => Ok(Err(newer)),
                Err(Failed::Own(error)) => Err(write::commit_error(row, &name, error)),
            }
        }
    }
}

/// Deletes what a selection finds.
pub async fn delete_collection(call: &Call<'_>, body: Body) -> Result<Response<Body>, ApiError> {
    let accept = call.exchange.accept(call.offer())?;
    let options = options(call, body).await?;
    let selection = Selection::parse(call)?;
    let resource = call.row().storage.clone().unwrap_or_else(|| "".into());
    warn_of_orphans(call, &options)?;
    let snapshot = call.server.store.snapshot(&resource);
    let namespace = Some(call.namespace()).filter(|n| !n.is_empty() && call.row().namespaced);
    let mut found: Vec<Arc<Object>> = candidates(&snapshot, &selection, namespace, None).cloned().collect();
    if selects_after_conversion(&call.served, &selection) {
        found = crate::convert::many(call.server, &call.served, found).await?;
    }
    found.retain(|object| selection.wants(&call.served, object));
    let mut items = Items::new(plain(&accept));
    for some in found.chunks(AT_ONCE) {
        let one = |object| delete_of_collection(call, object, &options);
        for deleted in futures::future::join_all(some.iter().map(one)).await {
            items.extend(deleted?);
        }
    }
    let mut list = json!({"kind": call.row().list_kind, "apiVersion": call.row().api_version(),
        "metadata": {"resourceVersion": call.server.store.revision().to_string()}, "items": []});
    if call.row().custom {
        list["metadata"]["continue"] = "".into();
    }
    Ok(items.respond(list))
}

/// Deletes one object of a collection; `None` when somebody else did.
async fn delete_of_collection(
    call: &Call<'_>,
    object: &Arc<Object>,
    options: &Value,
) -> Result<Option<Value>, ApiError> {
    match delete_named(call, &object.key.namespace, &object.key.name, options).await {
        Ok(Deleted::Gone(object) | Deleted::Marked(object)) => Ok(Some(object)),
        Err(error) if error.code == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

/// The objects of an answer. Trees are much larger than text: where text is wanted, that is all that is kept.
struct Items {
    accept: Accept,
    text: Option<Vec<u8>>,
    trees: Vec<Value>,
}

impl Items {
    fn new(accept: Accept) -> Items {
        let text = (accept.format == Format::Json { pretty: false }).then(Vec::new);
        Items { accept, text, trees: Vec::new() }
    }

    /// Answers with `list`, whose items are empty.
    fn respond(self, mut list: Value) -> Response<Body> {
        let Some(text) = self.text else {
            list["items"] = self.trees.into();
            return respond::tree(&self.accept, StatusCode::OK, &list);
        };
        // "items" is the first of a list's fields whose value is an empty list.
        let frame = respond::write(self.accept.format, &list);
        let hole = b"\"items\":[";
        let at = frame.windows(hole.len()).position(|bytes| bytes == hole).expect("it was just written");
        let (head, tail) = frame.split_at(at + hole.len());
        respond::bytes(StatusCode::OK, self.accept.content_type(), [head, &text, tail].concat())
    }
}

impl Extend<Value> for Items {
    fn extend<I: IntoIterator<Item = Value>>(&mut self, objects: I) {
        for object in objects {
            match &mut self.text {
                None => self.trees.push(object),
                Some(text) => {
                    if !text.is_empty() {
                        text.push(b',');
                    }
                    text.extend(respond::write(self.accept.format, &object));
                }
            }
        }
    }
}
