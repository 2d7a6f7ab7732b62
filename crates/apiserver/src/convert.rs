//! Between the versions of a kind: by the row's own functions, by changing only the version (custom resources
//! without a webhook), or by asking a conversion webhook. It must not know verbs.

use std::sync::Arc;
use std::time::Duration;

use api::ApiError;
use api::error::Reason;
use machinery::schema::structural;
use registry::Resource;
use registry::tree::Tree;
use serde_json::{Value, json};
use store::Object;

use crate::object::{self, Served};
use crate::server::Server;
use crate::webhook;

/// How long a conversion may take, as upstream.
const LIMIT: Duration = Duration::from_secs(30);
/// The versions of ConversionReview spoken here, preferred first.
const REVIEWS: [&str; 2] = ["v1", "v1beta1"];

/// A conversion webhook: `spec.conversion.webhook` of a definition.
#[derive(Debug, PartialEq)]
pub struct Webhook(pub Value);

/// A tree of one row's version in another's.
pub async fn between(
    server: &Server,
    from: &Resource,
    to: &Resource,
    mut tree: Value,
) -> Result<Value, ApiError> {
    if !tree.is_object() || (from.group == to.group && from.version == to.version) {
        return Ok(tree);
    }
    let hook = server.rows.serving().custom(from).and_then(|custom| custom.conversion.clone());
    if let Some(hook) = hook {
        let converted = ask(server, &hook, &to.api_version(), vec![tree]).await?;
        return Ok(converted.into_iter().next().unwrap_or_default());
    }
    from.to_stored(&mut tree);
    to.to_served(&mut tree);
    Ok(tree)
}

/// A custom resource's tree in the version that is stored; others are left as they are.
pub async fn to_storage(server: &Server, served: &Served, mut tree: Value) -> Result<Value, ApiError> {
    let Some(custom) = &served.custom else { return Ok(tree) };
    if custom.storage_version.is_empty() || custom.storage_version == served.row.version {
        return Ok(tree);
    }
    let wanted = api::meta::api_version(&served.row.group, &custom.storage_version);
    match &custom.conversion {
        Some(hook) => {
            let converted = ask(server, hook, &wanted, vec![tree]).await?;
            let mut tree = converted.into_iter().next().unwrap_or_default();
            prune_as_stored(server, served, &mut tree);
            Ok(tree)
        }
        None => {
            tree["apiVersion"] = wanted.into();
            Ok(tree)
        }
    }
}

/// Takes away what the stored version does not have, of an object whose versions differ in nothing but their schema:
/// the answer shows it no more than later reads do.
pub fn keep_what_is_stored(server: &Server, served: &Served, tree: &mut Value) {
    if served.custom.as_ref().is_some_and(|custom| custom.conversion.is_none()) {
        prune_as_stored(server, served, tree);
    }
}

fn prune_as_stored(server: &Server, served: &Served, tree: &mut Value) {
    let (row, Some(custom)) = (&served.row, &served.custom) else { return };
    if custom.storage_version == row.version {
        return;
    }
    let stored = server.rows.now().get(&row.group, &custom.storage_version, &row.plural).cloned();
    if let Some(kind) = stored.and_then(|stored| server.rows.serving().custom(&stored).cloned()) {
        structural::prune(&kind.node, tree);
    }
}

/// Stored objects as the row serves them, so far as a webhook has to be asked for that.
pub async fn many(
    server: &Server,
    served: &Served,
    mut objects: Vec<Arc<Object>>,
) -> Result<Vec<Arc<Object>>, ApiError> {
    let hook = served.custom.as_ref().and_then(|custom| custom.conversion.as_ref());
    let Some(hook) = hook else { return Ok(objects) };
    let places: Vec<usize> = (0..objects.len()).filter(|at| !served.has_version(&objects[*at])).collect();
    if places.is_empty() {
        return Ok(objects);
    }
    let trees = places.iter().map(|at| object::tree(&objects[*at])).collect();
    let converted = ask(server, hook, &served.row.api_version(), trees).await?;
    for (at, mut tree) in places.into_iter().zip(converted) {
        if let Some(custom) = &served.custom {
            structural::prune(&custom.node, &mut tree);
            structural::apply_defaults(&custom.node, &mut tree);
        }
        let own = &objects[at];
        let attrs = object::attrs(&served.row, &tree);
        let text = object::text(&tree).into();
        objects[at] = Arc::new(Object::from_parts(own.key.clone(), own.revision, text, 0, attrs));
    }
    Ok(objects)
}

/// As [`many`], of one.
pub async fn one(server: &Server, served: &Served, object: Arc<Object>) -> Result<Arc<Object>, ApiError> {
    let needs = served.custom.as_ref().is_some_and(|custom| custom.conversion.is_some());
    if !needs || served.has_version(&object) {
        return Ok(object);
    }
    let mut converted = many(server, served, vec![object]).await?;
    Ok(converted.remove(0))
}

/// Asks a conversion webhook; what comes back is in order and differs in nothing that identifies an object.
async fn ask(
    server: &Server,
    hook: &Webhook,
    wanted: &str,
    objects: Vec<Value>,
) -> Result<Vec<Value>, ApiError> {
    let first = objects.first().cloned().unwrap_or_default();
    let failed = |why: String| {
        let version = first.text("apiVersion");
        let kind = first.text("kind");
        let why = format!("conversion webhook for {version}, Kind={kind} failed: {why}");
        ApiError { code: 500, ..ApiError::new(Reason::Unknown, why) }
    };
    let versions = hook.0.list("conversionReviewVersions");
    let version = REVIEWS.into_iter().find(|v| versions.iter().any(|own| own == v)).unwrap_or("v1");
    let endpoint = webhook::endpoint(server, hook.0.at("clientConfig"), "").map_err(&failed)?;
    let uid = server.rng.uuid();
    let review = json!({"kind": "ConversionReview", "apiVersion": format!("apiextensions.k8s.io/{version}"),
        "request": {"uid": uid, "desiredAPIVersion": wanted, "objects": objects}});
    let answer = webhook::post(server, &endpoint, &review, LIMIT).await.map_err(&failed)?;
    let response = answer.at("response");
    if version == "v1" && response.text("uid") != uid {
        let got = response.text("uid");
        return Err(failed(format!("expected response.uid={uid:?}, got {got:?}")));
    }
    if response.text("result.status") != "Success" {
        let message = response.text("result.message");
        let why = if message.is_empty() { "response.result.status was \"Failure\"" } else { message };
        return Err(failed(why.to_owned()));
    }
    let converted = response.list("convertedObjects");
    if converted.len() != objects.len() {
        return Err(failed(format!(
            "webhook returned {} objects, expected {}",
            converted.len(),
            objects.len()
        )));
    }
    let pairs = objects.iter().zip(converted).enumerate();
    pairs.map(|(at, (old, new))| accepted(old, new, wanted, at).map_err(&failed)).collect()
}

/// A converted object whose identity is untouched; of its metadata only labels and annotations count.
fn accepted(old: &Value, new: &Value, wanted: &str, at: usize) -> Result<Value, String> {
    let broken = |why: String| Err(format!("invalid converted object at index {at}: {why}"));
    if new.text("apiVersion") != wanted {
        let got = new.text("apiVersion");
        return broken(format!("invalid groupVersion (expected {wanted}, received {got})"));
    }
    if new.text("kind") != old.text("kind") {
        let (expected, got) = (old.text("kind"), new.text("kind"));
        return broken(format!("invalid kind (expected {expected}, received {got})"));
    }
    for field in ["name", "namespace", "uid"] {
        let path = format!("metadata.{field}");
        if new.text(&path) != old.text(&path) {
            let (expected, got) = (old.text(&path), new.text(&path));
            return broken(format!("invalid metadata.{field} (expected {expected:?}, received {got:?})"));
        }
    }
    let mut out = new.clone();
    let mut meta = old.at("metadata").clone();
    for field in ["labels", "annotations"] {
        match new.at("metadata").get(field).filter(|map| !map.is_null()) {
            Some(map) => meta[field] = map.clone(),
            None => {
                if let Some(map) = meta.as_object_mut() {
                    map.remove(field);
                }
            }
        }
    }
    out["metadata"] = meta;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn converted_objects_keep_their_identity() {
        let old = json!({"apiVersion": "x.io/v1", "kind": "E", "metadata": {"name": "a", "uid": "u",
            "resourceVersion": "7", "labels": {"l": "1"}}});
        let new = json!({"apiVersion": "x.io/v2", "kind": "E", "metadata": {"name": "a", "uid": "u",
            "labels": {"l": "2"}}, "host": "h"});
        let out = accepted(&old, &new, "x.io/v2", 0).expect("accepted");
        assert_eq!(
            out["metadata"],
            json!({"name": "a", "uid": "u", "resourceVersion": "7", "labels": {"l": "2"}})
        );
        assert_eq!(out["host"], "h");
        for (change, why) in [
            (json!({"apiVersion": "x.io/v3"}), "invalid groupVersion (expected x.io/v2, received x.io/v3)"),
            (json!({"kind": "F"}), "invalid kind (expected E, received F)"),
            (
                json!({"metadata": {"name": "b", "uid": "u"}}),
                "invalid metadata.name (expected \"a\", received \"b\")",
            ),
        ] {
            let mut wrong = new.clone();
            for (key, value) in change.as_object().expect("an object") {
                wrong[key] = value.clone();
            }
            let error = accepted(&old, &wrong, "x.io/v2", 0).expect_err("refused");
            assert_eq!(error, format!("invalid converted object at index 0: {why}"));
        }
    }
}
