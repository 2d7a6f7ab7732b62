//! The Scale view of a workload.

use api::ApiError;
use base::http::Body;
use http::{Response, StatusCode};
use registry::{Part, ScalePaths, columns, scale};
use serde_json::Value;

use crate::respond::{self, Include};
use crate::verbs::{self, Call, change, patch_kind, patch_tree};
use crate::write::{self, Target, WriteOptions};

const TARGET: Target<'static> = Target { group: "autoscaling", version: "v1", kind: "Scale", custom: false };

/// GET, PUT and PATCH of `scale`.
pub async fn serve(call: &Call<'_>, paths: &ScalePaths, body: Body) -> Result<Response<Body>, ApiError> {
    let offer = crate::negotiate::Offer { protobuf: true, ..call.offer() };
    let accept = call.exchange.accept(offer)?;
    let verb = call.exchange.info.verb.as_str();
    let view = match verb {
        "get" => scale::read(
            paths,
            &call.served.tree(&*call.server.find(call.row(), call.namespace(), call.name())?),
        ),
        "update" => update(call, paths, body).await?,
        "patch" => patch(call, paths, body).await?,
        _ => return Err(verbs::method_not_allowed()),
    };
    let now = call.exchange.now;
    Ok(respond::viewed(&accept, StatusCode::OK, columns::SCALE, &view, now, Include::Metadata))
}

async fn update(call: &Call<'_>, paths: &ScalePaths, body: Body) -> Result<Value, ApiError> {
    let options = WriteOptions::parse(call.exchange, "UpdateOptions")?;
    let body = write::read_body(body).await?;
    let new = write::decode(call.exchange, TARGET, &body, options.validation)?;
    let name = new["metadata"]["name"].as_str().unwrap_or("");
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
    store(call, paths, &options, &mut |_| Ok(new.clone())).await
}

async fn patch(call: &Call<'_>, paths: &ScalePaths, body: Body) -> Result<Value, ApiError> {
    let kind = patch_kind(call)?;
    let options = WriteOptions::parse(call.exchange, "PatchOptions")?;
    let body = write::read_body(body).await?;
    store(call, paths, &options, &mut |old| patch_tree(call, TARGET, kind, old, &body, &options)).await
}

/// Puts a view's replicas into the object.
async fn store(
    call: &Call<'_>,
    paths: &ScalePaths,
    options: &WriteOptions,
    make: &mut (dyn FnMut(&Value) -> Result<Value, ApiError> + Send),
) -> Result<Value, ApiError> {
    let row = call.row();
    let written = change(call, Part::Main, options, &mut |old: &Value| {
        let wanted = make(&scale::read(paths, old))?;
        for (field, what) in [("resourceVersion", true), ("uid", false)] {
            let asked = wanted["metadata"][field].as_str().unwrap_or("");
            let own = old["metadata"][field].as_str().unwrap_or("");
            if asked.is_empty() || asked == own {
                continue;
            }
            if what {
                return Err(ApiError::stale(&row.group, &row.plural, call.name()));
            }
            let why = format!("Precondition failed: UID in precondition: {asked}, UID in object meta: {own}");
            return Err(ApiError::conflict(&row.group, &row.plural, call.name(), &why));
        }
        let mut new = old.clone();
        scale::apply(row, paths, &mut new, &wanted)?;
        Ok(new)
    })
    .await?;
    Ok(scale::read(paths, &written.tree(&call.served)))
}
