//! ComponentStatus: an old view on parts of the control plane, computed on request.

use api::ApiError;
use base::http::Body;
use http::Response;
use registry::Verb;
use serde_json::{Value, json};

use super::computed;
use crate::verbs::{self, Call};

const NAMES: [&str; 3] = ["controller-manager", "etcd-0", "scheduler"];

/// GET and LIST.
pub fn components(call: &Call<'_>, verb: Verb) -> Result<Response<Body>, ApiError> {
    let accept = call.exchange.accept(call.offer())?;
    let component = |name: &str| {
        json!({"kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": name},
            "conditions": [{"type": "Healthy", "status": "True", "message": "ok"}]})
    };
    match verb {
        Verb::Get => {
            let name = NAMES.into_iter().find(|name| *name == call.name());
            let name = name.ok_or_else(|| ApiError::not_found("", "componentstatus", call.name()))?;
            computed::one(call, &accept, &component(name))
        }
        Verb::List => {
            let items: Vec<Value> = NAMES.into_iter().map(component).collect();
            computed::list(call, &accept, &items)
        }
        _ => Err(verbs::method_not_allowed()),
    }
}
