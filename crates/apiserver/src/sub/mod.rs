//! Subresources and kinds that are not stored, one handler per role.

pub mod agent;
pub mod apply;
pub mod binding;
mod computed;
pub mod eviction;
pub mod metrics;
pub mod namespace;
mod pods;
mod pods_ws;
mod proxy;
mod reviews;
mod scale;
mod status;
mod token;

pub use proxy::service_address;

use std::sync::Arc;

use api::ApiError;
use base::http::Body;
use http::{Method, Response, StatusCode};
use registry::{Part, Role, Verb};
use serde_json::Value;
use store::{CommitError, Expect, Object};

use crate::respond;
use crate::verbs::{self, Call};
use crate::write;

/// Serves a subresource.
pub async fn dispatch(call: &Call<'_>, body: Body) -> Result<Response<Body>, ApiError> {
    let info = &call.exchange.info;
    let Some(sub) = call.row().subresource(&info.subresource).cloned() else {
        // What a definition could have switched on is missing in another way.
        if call.row().custom && matches!(info.subresource.as_str(), "status" | "scale") {
            return Err(ApiError::not_found(&info.group, &info.resource, &info.name));
        }
        return Err(verbs::no_such_path());
    };
    let verb = Verb::ALL.into_iter().find(|verb| verb.as_str() == info.verb);
    // OPTIONS is no verb of the API, but what is behind a proxy may know it.
    let passed_on = sub.role == Role::Proxy && call.exchange.head.method == Method::OPTIONS;
    if !(passed_on || verb.is_some_and(|verb| sub.verbs.has(verb))) || info.name.is_empty() {
        return Err(verbs::method_not_allowed());
    }
    let part = match &sub.role {
        Role::Status => Part::Status,
        Role::EphemeralContainers => Part::EphemeralContainers,
        Role::Resize => Part::Resize,
        Role::Approval => Part::Approval,
        Role::Finalize => Part::Finalize,
        Role::Scale(paths) => return scale::serve(call, paths, body).await,
        Role::Binding => return binding::create(call, body).await,
        Role::Eviction => return eviction::create(call, body).await,
        Role::Token => return token::create(call, body).await,
        Role::Exec | Role::Attach | Role::PortForward => return pods::connect(call, &sub.role, body).await,
        Role::Log => return pods::log(call).await,
        Role::Proxy => return proxy::serve(call, body).await,
    };
    verbs::part(call, part, body).await
}

/// Serves a kind that is not stored.
pub async fn virtual_kind(call: &Call<'_>, verb: Verb, body: Body) -> Result<Response<Body>, ApiError> {
    match (call.row().kind.as_str(), verb) {
        ("Binding", Verb::Create) => binding::create(call, body).await,
        ("ComponentStatus", _) => status::components(call, verb),
        ("NodeMetrics" | "PodMetrics", _) => metrics::serve(call, verb).await,
        (_, Verb::Create) => reviews::create(call, body).await,
        _ => Err(verbs::method_not_allowed()),
    }
}

/// `Status` of success with code 201, as bindings and evictions answer.
pub fn created(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let accept = call.exchange.accept(call.offer())?;
    let status = serde_json::json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    let accept = crate::negotiate::Accept { format: accept.format, view: crate::negotiate::View::Object };
    Ok(respond::tree(&accept, StatusCode::CREATED, &status))
}

/// How often a raw change is tried again after conflicts.
const TRIES: u32 = 10;

/// Changes a stored object past its strategy: for the server's own writes (binding, eviction, token secrets).
/// `change` sees the stored form.
pub async fn raw_change(
    call: &Call<'_>,
    row: &Arc<registry::Resource>,
    namespace: &str,
    name: &str,
    dry_run: bool,
    change: &mut (dyn FnMut(&mut Value) -> Result<(), ApiError> + Send),
) -> Result<Arc<Object>, ApiError> {
    let server = call.server;
    let mut current = server.find(row, namespace, name)?;
    for _ in 0..TRIES {
        let mut tree = crate::object::tree(&current);
        change(&mut tree)?;
        if dry_run {
            return Ok(current);
        }
        let write = write::put_stored(row, current.key.clone(), Expect::Revision(current.revision), &tree);
        match server.commit(write).await {
            Ok(committed) => return Ok(committed.object),
            Err(CommitError::Conflict(newer)) => current = newer,
            Err(error) => return Err(write::commit_error(row, name, error)),
        }
    }
    Err(ApiError::stale(&row.group, &row.plural, name))
}
