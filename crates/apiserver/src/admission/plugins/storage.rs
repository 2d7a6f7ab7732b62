//! Defaults and guards of storage and ingress objects.

use api::ApiError;
use registry::tree::Tree;
use serde_json::Value;
use store::Key;

use super::super::{Operation, Review};
use crate::object;

fn creates(review: &Review<'_>, group: &str, plural: &str) -> bool {
    review.operation == Operation::Create && review.is(group, plural) && review.subresource.is_empty()
}

/// The newest object marked as default, by this annotation.
fn marked(review: &Review<'_>, resource: &str, annotations: &[&str]) -> Vec<Value> {
    let snapshot = review.server.store.snapshot(resource);
    let is_default = |o: &Value| {
        annotations.iter().any(|a| o.at("metadata.annotations").get(*a).is_some_and(|v| v == "true"))
    };
    let mut found: Vec<Value> =
        snapshot.range(None, None).map(|o| object::tree(o)).filter(is_default).collect();
    // Newest first, then by name.
    found.sort_by(|a, b| {
        let time = |o: &Value| o.text("metadata.creationTimestamp").to_owned();
        time(b).cmp(&time(a)).then_with(|| a.text("metadata.name").cmp(b.text("metadata.name")))
    });
    found
}

/// A claim without class gets the default one.
pub fn default_class(review: &Review<'_>, claim: &mut Value, _old: Option<&Value>) -> Result<(), ApiError> {
    let old_name = "volume.beta.kubernetes.io/storage-class";
    let has_class =
        claim.has("spec.storageClassName") || claim.at("metadata.annotations").get(old_name).is_some();
    if !creates(review, "", "persistentvolumeclaims") || has_class {
        return Ok(());
    }
    let annotations =
        ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
    if let Some(class) = marked(review, "storage.k8s.io/storageclasses", &annotations).first() {
        claim.set("spec.storageClassName", class.text("metadata.name"));
    }
    Ok(())
}

/// An ingress without class gets the default one.
pub fn default_ingress_class(
    review: &Review<'_>,
    ingress: &mut Value,
    _old: Option<&Value>,
) -> Result<(), ApiError> {
    let has_class = ingress.has("spec.ingressClassName")
        || ingress.at("metadata.annotations").get("kubernetes.io/ingress.class").is_some();
    if !creates(review, "networking.k8s.io", "ingresses") || has_class {
        return Ok(());
    }
    let annotation = "ingressclass.kubernetes.io/is-default-class";
    if let Some(class) = marked(review, "networking.k8s.io/ingressclasses", &[annotation]).first() {
        ingress.set("spec.ingressClassName", class.text("metadata.name"));
    }
    Ok(())
}

/// Volumes and claims in use are kept by a finalizer.
pub fn protect(review: &Review<'_>, object: &mut Value, _old: Option<&Value>) -> Result<(), ApiError> {
    let finalizer = if creates(review, "", "persistentvolumeclaims") {
        "kubernetes.io/pvc-protection"
    } else if creates(review, "", "persistentvolumes") {
        "kubernetes.io/pv-protection"
    } else if creates(review, "storage.k8s.io", "volumeattributesclasses") {
        "kubernetes.io/vac-protection"
    } else {
        return Ok(());
    };
    let mut all = object.list("metadata.finalizers").to_vec();
    if !all.iter().any(|f| f == finalizer) {
        all.push(finalizer.into());
        object.set("metadata.finalizers", all);
    }
    Ok(())
}

/// Only bound claims of a class that allows it grow.
pub fn resize(review: &Review<'_>, object: Option<&Value>, old: Option<&Value>) -> Result<(), ApiError> {
    let (Some(new), Some(old)) = (object, old) else { return Ok(()) };
    let applies = review.operation == Operation::Update
        && review.is("", "persistentvolumeclaims")
        && review.subresource.is_empty();
    let size = |claim: &Value| {
        claim.text("spec.resources.requests.storage").parse::<api::Quantity>().unwrap_or_default()
    };
    if !applies || size(new) <= size(old) {
        return Ok(());
    }
    if old.text("status.phase") != "Bound" {
        return Err(review.forbidden(Some(new), "Only bound persistent volume claims can be expanded"));
    }
    let key = Key::new("storage.k8s.io/storageclasses", "", new.text("spec.storageClassName"));
    let allows =
        review.server.store.get(&key).is_some_and(|class| object::tree(&class).flag("allowVolumeExpansion"));
    if allows {
        return Ok(());
    }
    let why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";
    Err(review.forbidden(Some(new), why))
}
