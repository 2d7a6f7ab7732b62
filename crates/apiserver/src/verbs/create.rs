//! POST of one object.

use api::ApiError;
use base::http::Body;
use http::{Response, StatusCode};
use registry::lifecycle;
use serde_json::Value;
use store::{CommitError, Expect};

use super::Call;
use crate::admission::{Operation, Review};
use crate::alloc::{Failed, is_service};
use crate::object::Served;
use crate::respond::{self, Include};
use crate::write::{self, WriteOptions};

/// How often a generated name is tried, as upstream.
const NAME_TRIES: u32 = 8;
/// How often addresses and ports are looked for when other servers give away the same.
const CLAIM_TRIES: u32 = 8;

/// Decodes, admits, validates, stores and answers 201.
pub async fn create(call: &Call<'_>, body: Body) -> Result<Response<Body>, ApiError> {
    let accept = call.exchange.accept(call.offer())?;
    let options = WriteOptions::parse(call.exchange, "CreateOptions")?;
    let include = Include::of(call.exchange, &accept)?;
    let body = write::read_body(body).await?;
    let object = write::decode_served(call, &body, options.validation)?;
    let created = create_tree(call, object, &options).await?;
    Ok(created.respond(call, &accept, StatusCode::CREATED, include))
}

/// What a write left behind: a stored object, or the tree of a dry run.
pub enum Written {
    /// Stored.
    Stored(std::sync::Arc<store::Object>),
    /// A tree of the row's version: a dry run's result, or of what is stored in another version.
    Dry(Value),
}

impl Written {
    /// Of a committed object whose tree in the row's version is known.
    pub fn of(served: &Served, object: std::sync::Arc<store::Object>, mut tree: Value) -> Written {
        if served.custom.is_none() || served.has_version(&object) {
            return Written::Stored(object);
        }
        tree["metadata"]["resourceVersion"] = object.revision.to_string().into();
        Written::Dry(tree)
    }

    /// The tree in the row's version.
    pub fn tree(&self, served: &Served) -> Value {
        match self {
            Written::Stored(object) => served.tree(object),
            Written::Dry(tree) => tree.clone(),
        }
    }

    /// The answer.
    pub fn respond(
        &self,
        call: &Call<'_>,
        accept: &crate::negotiate::Accept,
        code: StatusCode,
        include: Include,
    ) -> Response<Body> {
        let now = call.exchange.now;
        match self {
            Written::Stored(object) => respond::object(accept, code, &call.served, object, now, include),
            Written::Dry(tree) => {
                respond::viewed(accept, code, call.row().columns.clone(), tree, now, include)
            }
        }
    }
}

/// Metadata that a new object does not bring along.
const SYSTEM_FIELDS: [&str; 5] =
    ["creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp", "selfLink", "uid"];

/// Creates a decoded object, noting who set its fields.
pub async fn create_tree(
    call: &Call<'_>,
    mut object: Value,
    options: &WriteOptions,
) -> Result<Written, ApiError> {
    lifecycle::match_namespace(call.row(), call.namespace(), &mut object)?;
    call.default(&mut object);
    // Nobody comes to own what is the server's to say.
    if let Some(meta) = object["metadata"].as_object_mut() {
        SYSTEM_FIELDS.iter().for_each(|field| drop(meta.remove(*field)));
    }
    crate::sub::apply::track(call, options, &mut object, None);
    create_untracked(call, object, options).await
}

/// Creates a defaulted object as it is.
pub async fn create_untracked(
    call: &Call<'_>,
    object: Value,
    options: &WriteOptions,
) -> Result<Written, ApiError> {
    let generated = object["metadata"]["name"].as_str().unwrap_or("").is_empty()
        && !object["metadata"]["generateName"].as_str().unwrap_or("").is_empty();
    for _ in 1..if generated { NAME_TRIES } else { 1 } {
        match create_claiming(call, object.clone(), options).await {
            Err(error) if lifecycle::name_taken(&error) => {}
            other => return other,
        }
    }
    create_claiming(call, object, options).await
}

/// Tries again when another server gave away what this one was about to give.
async fn create_claiming(
    call: &Call<'_>,
    object: Value,
    options: &WriteOptions,
) -> Result<Written, ApiError> {
    // Other kinds have nothing that could be given away.
    let tries = if is_service(call.row()) { CLAIM_TRIES } else { 1 };
    for _ in 1..tries {
        if let Some(written) = create_once(call, object.clone(), options).await? {
            return Ok(written);
        }
    }
    let given_away =
        || ApiError::internal("addresses and ports were given away by other servers at every try");
    create_once(call, object, options).await?.ok_or_else(given_away)
}

/// One try; `None` when an address or port was taken meanwhile.
async fn create_once(
    call: &Call<'_>,
    mut object: Value,
    options: &WriteOptions,
) -> Result<Option<Written>, ApiError> {
    let (row, server) = (call.row(), call.server);
    let mut review = Review::new(call, Operation::Create, options);
    server.admission.mutate(&mut review, &mut object, None).await?;
    let holds = server.allocators.on_create(server, row, &mut object, options.dry_run).await?;
    let rng = &server.rng;
    let warnings = lifecycle::before_create(
        &call.context(),
        call.namespace(),
        &mut object,
        || rng.uuid(),
        || rng.suffix(lifecycle::SUFFIX_LENGTH),
    )?;
    warnings.into_iter().for_each(|text| call.exchange.warn(text));
    call.check_schema(&object, None)?;
    server.admission.validate(&review, Some(&object), None).await?;
    let name = object["metadata"]["name"].as_str().unwrap_or("").to_owned();
    let key = write::key(row, call.namespace(), &name).ok_or_else(ApiError::no_such_path)?;
    crate::convert::keep_what_is_stored(server, &call.served, &mut object);
    if options.dry_run {
        if server.store.get(&key).is_some() {
            return Err(exists(call, &name));
        }
        return Ok(Some(Written::Dry(object)));
    }
    let claims = holds.claims(server, &object);
    // A built-in kind's answer is what is stored.
    let shown = if row.custom { object.clone() } else { Value::Null };
    let stored = crate::convert::to_storage(server, &call.served, object).await?;
    match server.commit_claiming(write::put(row, key, Expect::Absent, stored), claims).await {
        Ok(committed) => Ok(Some(Written::of(&call.served, committed.object, shown))),
        Err(Failed::Claim) => Ok(None),
        Err(Failed::Own(CommitError::Exists(_))) => Err(exists(call, &name)),
        Err(Failed::Own(error)) => Err(write::commit_error(row, &name, error)),
    }
}

fn exists(call: &Call<'_>, name: &str) -> ApiError {
    let row = call.row();
    let mut error = ApiError::already_exists(&row.group, &row.plural, name);
    let there = call.server.find(row, call.namespace(), name);
    if there.is_ok_and(|there| call.served.tree(&there)["metadata"]["deletionTimestamp"].is_string()) {
        error.message = format!("object is being deleted: {}", error.message);
    }
    error
}
