//! Access to devices that are in use: only in namespaces that are marked for it (upstream: the strategies of claims).

use api::ApiError;
use api::validation::{ErrorList, FieldError, Path};
use registry::tree::Tree;
use serde_json::Value;

use super::super::{Operation, Review};
use crate::object;

/// The label of such namespaces.
const LABEL: &str = "resource.kubernetes.io/admin-access";

/// Refuses claims and allocations with admin access elsewhere.
pub fn admin(review: &Review<'_>, object: Option<&Value>, old: Option<&Value>) -> Result<(), ApiError> {
    let Some(object) = object.filter(|_| review.row.group == "resource.k8s.io") else { return Ok(()) };
    let (list, field) = match (review.row.plural.as_str(), review.operation, review.subresource.as_str()) {
        ("resourceclaims", Operation::Create, "") => ("spec.devices.requests", "exactly.adminAccess"),
        ("resourceclaimtemplates", Operation::Create, "") => {
            ("spec.spec.devices.requests", "exactly.adminAccess")
        }
        ("resourceclaims", Operation::Update, "status") => {
            ("status.allocation.devices.results", "adminAccess")
        }
        _ => return Ok(()),
    };
    let asked = |object: &Value| object.list(list).iter().position(|one| one.flag(field));
    let Some(at) = asked(object).filter(|_| old.and_then(asked).is_none()) else { return Ok(()) };
    let store = &review.server.store;
    let marked = store
        .snapshot("namespaces")
        .get("", &review.namespace)
        .is_some_and(|namespace| object::tree(&namespace).at("metadata.labels")[LABEL] == "true");
    if marked {
        return Ok(());
    }
    // Templates are spoken of as claims.
    let path = list.replace("spec.spec", "spec");
    let path = Path::new(&path).index(at).child("adminAccess");
    let detail =
        format!("admin access to devices requires the `{LABEL}: true` label on the containing namespace");
    let errors = ErrorList(vec![FieldError::forbidden(&path, detail)]);
    Err(ApiError::invalid(&review.row.group, &review.row.kind, object.text("metadata.name"), &errors))
}
