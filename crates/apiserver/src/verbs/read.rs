//! GET of one object.

use std::time::Duration;

use api::ApiError;
use api::error::{Cause, Reason};
use base::http::Body;
use http::{Response, StatusCode};

use super::Call;
use crate::respond::{self, Include};
use crate::server::Server;

/// How long a read waits for a revision that has not come yet.
const FRESH_WAIT: Duration = Duration::from_secs(3);

/// Answers with the object's stored bytes.
pub async fn get(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let accept = call.exchange.accept(call.offer())?;
    let include = Include::of(call.exchange, &accept)?;
    accept.is_for(call.row(), false)?;
    let version = call.exchange.query.text("resourceVersion");
    match if is_uncached(call.row()) { revision(version)? } else { revision_of_one(version)? } {
        Some(revision) => not_older_than(call.server, revision).await?,
        // With several servers over one etcd, another one's write may not have come here yet.
        None if version.is_empty() => drop(call.server.store.latest().await.map_err(ApiError::internal)?),
        None => {}
    }
    let object = call.server.find(call.row(), call.namespace(), call.name())?;
    let object = crate::convert::one(call.server, &call.served, object).await?;
    Ok(respond::object(&accept, StatusCode::OK, &call.served, &object, call.exchange.now, include))
}

/// Whether upstream reads the kind past its cache: it has the words of the store.
pub fn is_uncached(row: &registry::Resource) -> bool {
    row.plural == "events" && !row.custom
}

/// As [`revision`], of a get or watch: upstream says less of a bad one, and calls it an error of its own.
pub fn revision_of_one(text: &str) -> Result<Option<u64>, ApiError> {
    revision(text).map_err(|error| {
        let why = error.message.trim_start_matches(BAD_REVISION).to_owned();
        ApiError::new(Reason::Unknown, why)
    })
}

/// How a list says that a resourceVersion is none.
const BAD_REVISION: &str = "invalid resource version: ";

/// Reads a resourceVersion; `None` when empty or 0 ("any").
pub fn revision(text: &str) -> Result<Option<u64>, ApiError> {
    match text {
        "" | "0" => Ok(None),
        text => text.parse().map(Some).map_err(|_| {
            let quoted = api::validation::go_quote(text);
            let error = api::validation::FieldError::invalid(
                &api::validation::Path::new("resourceVersion"),
                text,
                format!("strconv.ParseUint: parsing {quoted}: invalid syntax"),
            );
            ApiError::bad_request(format!("{BAD_REVISION}{error}"))
        }),
    }
}

/// Waits until the store is at least at this revision.
pub async fn not_older_than(server: &Server, revision: u64) -> Result<(), ApiError> {
    if server.store.revision() >= revision {
        return Ok(());
    }
    match server.clock.timeout(FRESH_WAIT, server.store.wait_for(revision)).await {
        Some(Ok(())) => Ok(()),
        _ => Err(too_large(revision, server.store.revision())),
    }
}

/// 504 for a revision from the future.
pub fn too_large(revision: u64, current: u64) -> ApiError {
    let message = format!("Too large resource version: {revision}, current: {current}");
    let cause = Cause {
        reason: "ResourceVersionTooLarge".to_owned(),
        message: "Too large resource version".to_owned(),
        field: String::new(),
    };
    ApiError::new(Reason::Timeout, format!("Timeout: {message}")).with_causes(vec![cause]).with_retry_after(1)
}
