//! ComponentStatus: an old view on parts of the control plane, computed on request.

use api::ApiError;
use base::http::Body;
use http::{Response, StatusCode};
use registry::Verb;
use serde_json::{Value, json};

use crate::negotiate::View;
use crate::respond::{self, Include};
use crate::verbs::{self, Call};

/// GET and LIST.
pub fn components(call: &Call<'_>, verb: Verb) -> Result<Response<Body>, ApiError> {
    let accept = call.exchange.accept(call.offer())?;
    let (columns, now) = (call.row().columns.clone(), call.exchange.now);
    let one = |name: &str| {
        json!({"kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": name},
            "conditions": [{"type": "Healthy", "status": "True", "message": "ok"}]})
    };
    let names = ["controller-manager", "etcd-0", "scheduler"];
    match verb {
        Verb::Get => {
            let name = names.iter().find(|name| **name == call.name());
            let name = name.ok_or_else(|| ApiError::not_found("", "componentstatuses", call.name()))?;
            Ok(respond::viewed(&accept, StatusCode::OK, columns, &one(name), now, Include::Metadata))
        }
        Verb::List => {
            let items: Vec<Value> = names.iter().map(|name| one(name)).collect();
            let list = match &accept.view {
                View::Object => {
                    json!({"kind": "ComponentStatusList", "apiVersion": "v1", "metadata": {}, "items": items})
                }
                View::Table(version) => {
                    let mut table = respond::table(version, &columns, Value::Null);
                    let row = |item: &Value| respond::row(&columns, item, version, now, Include::Metadata);
                    table["rows"] = items.iter().map(row).collect();
                    table
                }
                View::Metadata(version) => {
                    let items: Vec<Value> =
                        items.iter().map(|item| respond::partial(item, version)).collect();
                    json!({"kind": "PartialObjectMetadataList", "apiVersion": version, "metadata": {}, "items": items})
                }
            };
            Ok(respond::tree(&accept, StatusCode::OK, &list))
        }
        _ => Err(verbs::method_not_allowed()),
    }
}
