//! NamespaceLifecycle: nothing is created in a namespace that is absent or going; some namespaces stay.

use api::ApiError;
use api::error::Cause;
use registry::tree::Tree;
use serde_json::Value;
use store::Key;

use super::super::{Operation, Review};

/// Namespaces that cannot be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// A create needs a live namespace.
pub fn enter(review: &Review<'_>, object: &mut Value, _old: Option<&Value>) -> Result<(), ApiError> {
    if review.operation != Operation::Create || review.namespace.is_empty() {
        return Ok(());
    }
    let key = Key::new("namespaces", "", review.namespace.as_str());
    let Some(stored) = review.server.store.get(&key) else {
        return Err(ApiError::not_found("", "namespaces", &review.namespace));
    };
    let namespace = review.server.trees.of(&stored);
    if namespace.text("status.phase") != "Terminating" && !namespace.has("metadata.deletionTimestamp") {
        return Ok(());
    }
    let why = format!(
        "unable to create new content in namespace {} because it is being terminated",
        review.namespace
    );
    let mut error = review.forbidden(Some(object), &why);
    let cause = Cause {
        reason: "NamespaceTerminating".to_owned(),
        message: format!("namespace {} is being terminated", review.namespace),
        field: "metadata.namespace".to_owned(),
    };
    error.details.get_or_insert_default().causes.push(cause);
    Err(error)
}

/// Subresources are created in live namespaces only, too.
pub fn enter_below(
    review: &Review<'_>,
    _object: Option<&Value>,
    _old: Option<&Value>,
) -> Result<(), ApiError> {
    if review.subresource.is_empty() {
        return Ok(());
    }
    enter(review, &mut Value::Null, None)
}

/// Some namespaces may not be deleted.
pub fn leave(review: &Review<'_>, _object: Option<&Value>, _old: Option<&Value>) -> Result<(), ApiError> {
    if review.operation == Operation::Delete
        && review.is("", "namespaces")
        && IMMORTAL.contains(&review.name.as_str())
    {
        return Err(review.forbidden(None, "this namespace may not be deleted"));
    }
    Ok(())
}
