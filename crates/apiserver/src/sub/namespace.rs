//! What is special to namespaces: a deletion only begins it, the namespace controller ends it.

use api::ApiError;
use registry::lifecycle::Deletion;
use serde_json::Value;

use crate::verbs::Call;

/// Marks a namespace as terminating.
pub fn before_delete(call: &Call<'_>, object: &mut Value, deletion: Deletion) -> Result<Deletion, ApiError> {
    let waits = object["spec"]["finalizers"].as_array().is_some_and(|all| !all.is_empty());
    if deletion == Deletion::Now && !waits {
        return Ok(deletion);
    }
    if object["metadata"]["deletionTimestamp"].is_null() {
        object["metadata"]["deletionTimestamp"] = api::time::format(call.exchange.now).into();
    }
    // Only the time: there is no grace period to count down.
    if let Some(meta) = object["metadata"].as_object_mut() {
        meta.remove("deletionGracePeriodSeconds");
    }
    if object["status"]["phase"] == "Terminating" {
        return Ok(deletion);
    }
    object["status"]["phase"] = "Terminating".into();
    Ok(Deletion::Marked)
}
