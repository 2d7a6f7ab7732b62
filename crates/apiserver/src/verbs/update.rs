//! PUT, and the read-modify-write loop that every change of an existing object goes through.

use std::sync::Arc;

use api::ApiError;
use base::http::Body;
use http::{Response, StatusCode};
use registry::{Part, Resource, lifecycle};
use serde_json::Value;
use store::{CommitError, Expect, Object, Write};

use super::Call;
use super::create::{Written, create_tree};
use crate::admission::{Operation, Review};
use crate::alloc::{Failed, all_releases, is_service};
use crate::respond::Include;
use crate::write::{self, WriteOptions};

/// How often a change is tried again when others write the same object.
const TRIES: u32 = 10;

/// Replaces an object, or a part of it.
pub async fn replace(call: &Call<'_>, part: Part, body: Body) -> Result<Response<Body>, ApiError> {
    let accept = call.exchange.accept(call.offer())?;
    let options = WriteOptions::parse(call.exchange, "UpdateOptions")?;
    let include = Include::of(call.exchange, &accept)?;
    let body = write::read_body(body).await?;
    let mut new = write::decode_served(call, &body, options.validation)?;
    check_name(call, &mut new)?;
    call.default(&mut new);
    let absent =
        matches!(call.server.find(call.row(), call.namespace(), call.name()), Err(e) if e.code == 404);
    if absent && part == Part::Main && call.row().strategy.create_on_update() {
        return create_instead(call, &accept, new, &options, include).await;
    }
    let asked = new["metadata"]["resourceVersion"].as_str().unwrap_or("").to_owned();
    let uid = new["metadata"]["uid"].as_str().unwrap_or("").to_owned();
    let written = change(call, part, &options, &mut |old: &Value| {
        check_identity(call, &asked, &uid, old)?;
        Ok(new.clone())
    })
    .await?;
    Ok(written.respond(call, &accept, StatusCode::OK, include))
}

async fn create_instead(
    call: &Call<'_>,
    accept: &crate::negotiate::Accept,
    mut new: Value,
    options: &WriteOptions,
    include: Include,
) -> Result<Response<Body>, ApiError> {
    let meta = &new["metadata"];
    let has = |key: &str| !meta[key].as_str().unwrap_or("").is_empty();
    if has("uid") {
        let why = format!(
            "Precondition failed: UID in precondition: {}, UID in object meta: ",
            meta["uid"].as_str().unwrap_or("")
        );
        return Err(ApiError::conflict(&call.row().group, &call.row().plural, call.name(), &why));
    }
    if has("resourceVersion") {
        return Err(ApiError::not_found(&call.row().group, &call.row().plural, call.name()));
    }
    new["metadata"]["name"] = call.name().into();
    let written = create_tree(call, new, options).await?;
    Ok(written.respond(call, accept, StatusCode::CREATED, include))
}

/// The body's name must be the URL's; an empty one takes it.
pub fn check_name(call: &Call<'_>, object: &mut Value) -> Result<(), ApiError> {
    let name = object["metadata"]["name"].as_str().unwrap_or("");
    if name.is_empty() {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({} based on URL) was undeterminable: name must be provided",
            call.name()
        )));
    }
    if name != call.name() {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            call.name()
        )));
    }
    lifecycle::match_namespace(call.row(), call.namespace(), object)
}

/// Kinds whose objects upstream's store has under another name.
const PREFIXES: &[(&str, &str)] = &[
    ("endpoints", "services/endpoints"),
    ("ingresses", "ingress"),
    ("nodes", "minions"),
    ("replicationcontrollers", "controllers"),
    ("services", "services/specs"),
];

/// What upstream's store says when an object is not the one that was meant: the field, what was asked and what is.
pub fn failed_precondition(
    call: &Call<'_>,
    row: &Resource,
    name: &str,
    (what, wanted, own): (&str, &str, &str),
) -> ApiError {
    // The key as upstream's store has it, and as it is before it comes there.
    let dry = call.exchange.query.all("dryRun").next().is_some();
    let root = if dry { "" } else { "/registry" };
    let own_store = matches!(row.group.as_str(), "apiextensions.k8s.io" | "apiregistration.k8s.io");
    let group = if own_store || row.custom { &row.group } else { "" };
    let prefix = match PREFIXES.iter().find(|(plural, _)| *plural == row.plural) {
        Some((_, prefix)) if !row.custom => prefix,
        _ => row.plural.as_str(),
    };
    let namespace = if row.namespaced { call.namespace() } else { "" };
    let key = format!("{root}/{group}/{prefix}/{namespace}/{name}");
    let why = format!(
        "StorageError: invalid object, Code: 4, Key: {}, ResourceVersion: 0, AdditionalErrorMsg: \
         Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {own}",
        key.replace("//", "/").replace("//", "/")
    );
    ApiError::conflict(&row.group, &row.plural, name, &why)
}

fn check_identity(call: &Call<'_>, asked: &str, uid: &str, old: &Value) -> Result<(), ApiError> {
    let row = call.row();
    let own = old["metadata"]["uid"].as_str().unwrap_or("");
    if !uid.is_empty() && uid != own {
        return Err(failed_precondition(call, row, call.name(), ("UID", uid, own)));
    }
    if !asked.is_empty() && asked.parse::<u64>().is_err() {
        let quoted = api::validation::go_quote(asked);
        let why = format!("strconv.ParseUint: parsing {quoted}: invalid syntax");
        return Err(ApiError::new(api::error::Reason::Unknown, why));
    }
    if asked.is_empty() || asked == "0" {
        if row.strategy.unconditional_update() {
            return Ok(());
        }
        let path = api::validation::Path::new("metadata").child("resourceVersion");
        let error = api::validation::FieldError {
            kind: api::validation::ErrorKind::Invalid,
            path,
            value: Some("0".to_owned()),
            detail: "must be specified for an update".to_owned(),
        };
        let errors = api::validation::ErrorList(vec![error]);
        return Err(ApiError::invalid(&row.group, &row.plural, call.name(), &errors));
    }
    if old["metadata"]["resourceVersion"].as_str() != Some(asked) {
        return Err(ApiError::stale(&row.group, &row.plural, call.name()));
    }
    Ok(())
}

/// Makes a new version of an object from its current one; may be called again after a conflict.
pub type Make<'a> = dyn FnMut(&Value) -> Result<Value, ApiError> + Send + 'a;

/// Changes an existing object, noting who set its fields: `make` sees the current state in the row's version
/// and gives the wanted one.
pub async fn change(
    call: &Call<'_>,
    part: Part,
    options: &WriteOptions,
    make: &mut Make<'_>,
) -> Result<Written, ApiError> {
    change_untracked(call, part, options, &mut |old: &Value| {
        let mut new = make(old)?;
        crate::sub::apply::track(call, options, &mut new, Some(old));
        Ok(new)
    })
    .await
}

/// Changes an existing object: `make` sees the current state in the row's version and gives the wanted one.
pub async fn change_untracked(
    call: &Call<'_>,
    part: Part,
    options: &WriteOptions,
    make: &mut Make<'_>,
) -> Result<Written, ApiError> {
    let changed = change_known(call, part, options, make).await;
    let Err(error) = &changed else { return changed };
    match call.server.was_behind(error.code).await? {
        true => change_known(call, part, options, make).await,
        false => changed,
    }
}

/// Changes an object as this server knows it.
async fn change_known(
    call: &Call<'_>,
    part: Part,
    options: &WriteOptions,
    make: &mut Make<'_>,
) -> Result<Written, ApiError> {
    let mut current = call.server.find(call.row(), call.namespace(), call.name())?;
    for _ in 0..TRIES {
        match change_once(call, part, options, make, &current).await? {
            Ok(written) => return Ok(written),
            Err(newer) => current = newer,
        }
    }
    Err(ApiError::stale(&call.row().group, &call.row().plural, call.name()))
}

/// One try; the inner error is the newer object that got in between.
async fn change_once(
    call: &Call<'_>,
    part: Part,
    options: &WriteOptions,
    make: &mut Make<'_>,
    current: &Arc<Object>,
) -> Result<Result<Written, Arc<Object>>, ApiError> {
    let (row, server) = (call.row(), call.server);
    let shown = crate::convert::one(server, &call.served, current.clone()).await?;
    let old = call.served.tree(&shown);
    let mut new = make(&old)?;
    new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
    let holds = if part == Part::Main && is_service(row) {
        Some(server.allocators.on_update(server, row, &mut new, &old, options.dry_run).await?)
    } else {
        None
    };
    let mut review = Review::new(call, Operation::Update, options);
    server.admission.mutate(&mut review, &mut new, Some(&old)).await?;
    call.default(&mut new);
    // Only now: what admission adds may be what makes the object valid.
    let warnings = lifecycle::before_update(&call.context(), part, &mut new, &old)?;
    call.check_schema(&new, Some(&old))?;
    server.admission.validate(&review, Some(&new), Some(&old)).await?;
    warnings.into_iter().for_each(|text| call.exchange.warn(text));
    let goes = lifecycle::may_go(&new);
    let stale = server.config.encryption.as_ref().is_some_and(|sealer| sealer.is_stale(&current.key));
    if !goes && !stale && lifecycle::unchanged(&new, &old) {
        return Ok(Ok(Written::Stored(shown)));
    }
    if !goes {
        crate::convert::keep_what_is_stored(server, &call.served, &mut new);
    }
    if options.dry_run {
        return Ok(Ok(Written::Dry(new)));
    }
    let key = current.key.clone();
    let claims = match &holds {
        _ if goes => all_releases(server, row, &old),
        Some(holds) => holds.claims(server, &new),
        None => Vec::new(),
    };
    let write = if goes {
        Write::delete(key, Expect::Revision(current.revision))
    } else {
        // A built-in kind's answer is what is stored.
        let given = if row.custom { new.clone() } else { std::mem::take(&mut new) };
        let stored = crate::convert::to_storage(server, &call.served, given).await?;
        write::put(row, key, Expect::Revision(current.revision), stored)
    };
    match server.commit_claiming(write, claims).await {
        Ok(committed) if goes => {
            let mut last = new;
            last["metadata"]["resourceVersion"] = committed.revision.to_string().into();
            Ok(Ok(Written::Dry(last)))
        }
        Ok(committed) => Ok(Ok(Written::of(&call.served, committed.object, new))),
        Err(Failed::Claim) => Ok(Err(current.clone())),
        Err(Failed::Own(CommitError::Conflict(newer))) => Ok(Err(newer)),
        Err(Failed::Own(error)) => Err(write::commit_error(row, call.name(), error)),
    }
}
