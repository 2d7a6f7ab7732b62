//! Kinds that are computed when they are asked for: how one of them, and a list, is answered. It must not know them.

use api::ApiError;
use base::http::Body;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::negotiate::{Accept, View};
use crate::respond::{self, Include};
use crate::verbs::Call;

/// Answers with one object.
pub fn one(call: &Call<'_>, accept: &Accept, object: &Value) -> Result<Response<Body>, ApiError> {
    let include = Include::of(call.exchange, accept)?;
    let columns = call.row().columns.clone();
    Ok(respond::viewed(accept, StatusCode::OK, columns, object, call.exchange.now, include))
}

/// Answers with a list.
pub fn list(call: &Call<'_>, accept: &Accept, items: &[Value]) -> Result<Response<Body>, ApiError> {
    let (row, now) = (call.row(), call.exchange.now);
    let list = match &accept.view {
        View::Object => {
            json!({"kind": row.list_kind, "apiVersion": row.api_version(), "metadata": {}, "items": items})
        }
        View::Table(version) => {
            let include = Include::of(call.exchange, accept)?;
            let mut table = respond::table(version, &row.columns, Value::Null);
            let cells = |item: &Value| respond::row(&row.columns, item, version, now, include);
            table["rows"] = items.iter().map(cells).collect();
            table
        }
        View::Metadata(version, _) => {
            let items: Vec<Value> = items.iter().map(|item| respond::partial(item, version)).collect();
            json!({"kind": "PartialObjectMetadataList", "apiVersion": version, "metadata": {}, "items": items})
        }
    };
    Ok(respond::tree(accept, StatusCode::OK, &list))
}
