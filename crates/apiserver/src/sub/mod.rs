//! Subresources and kinds that are not stored, one handler per role.

pub mod agent;
pub mod apply;
pub mod namespace;

use api::ApiError;
use base::http::Body;
use http::Response;
use registry::{Part, Role, Verb};

use crate::verbs::{self, Call};

/// Serves a subresource.
pub async fn dispatch(call: &Call<'_>, body: Body) -> Result<Response<Body>, ApiError> {
    let info = &call.exchange.info;
    let Some(sub) = call.row().subresource(&info.subresource).cloned() else {
        return Err(ApiError::no_such_path());
    };
    let part = match &sub.role {
        Role::Status => Part::Status,
        Role::EphemeralContainers => Part::EphemeralContainers,
        Role::Resize => Part::Resize,
        Role::Approval => Part::Approval,
        Role::Finalize => Part::Finalize,
        _ => return Err(ApiError::no_such_path()),
    };
    verbs::part(call, &sub.role, part, body).await
}

/// Serves a kind that is not stored.
pub async fn virtual_kind(_call: &Call<'_>, _verb: Verb, _body: Body) -> Result<Response<Body>, ApiError> {
    Err(ApiError::no_such_path())
}
