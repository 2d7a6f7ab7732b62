//! Who may approve and sign certificate requests, and what may be asked for.

use api::ApiError;
use base64::Engine as _;
use registry::tree::Tree;
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer, X509CertificationRequest};

use super::super::{Operation, Review};
use crate::authz::Attributes;

fn is_request(review: &Review<'_>, subresource: &str, operation: Operation) -> bool {
    review.is("certificates.k8s.io", "certificatesigningrequests")
        && review.subresource == subresource
        && review.operation == operation
}

/// May the user do this with a signer, or with all signers of its domain?
fn may(review: &Review<'_>, verb: &str, signer: &str) -> bool {
    let domain = signer.split('/').next().unwrap_or("");
    [signer.to_owned(), format!("{domain}/*")].iter().any(|name| {
        let what = Attributes::resource(verb, "certificates.k8s.io", "signers", "", name);
        review.server.authorizer.decide(review.server, &review.exchange.user, &what).allowed
    })
}

/// Approving needs the right for the signer.
pub fn approve(review: &Review<'_>, object: Option<&Value>, old: Option<&Value>) -> Result<(), ApiError> {
    if !is_request(review, "approval", Operation::Update) {
        return Ok(());
    }
    let signer = old.unwrap_or(&Value::Null).text("spec.signerName");
    if may(review, "approve", signer) {
        return Ok(());
    }
    let why = format!("user not permitted to approve requests with signerName {signer:?}");
    Err(review.forbidden(object, &why))
}

/// Signing (or failing) a request needs the right for the signer.
pub fn sign(review: &Review<'_>, object: Option<&Value>, old: Option<&Value>) -> Result<(), ApiError> {
    let (Some(new), Some(old)) = (object, old) else { return Ok(()) };
    if !is_request(review, "status", Operation::Update) {
        return Ok(());
    }
    let same = new.text("status.certificate") == old.text("status.certificate")
        && new.list("status.conditions") == old.list("status.conditions");
    let signer = old.text("spec.signerName");
    if same || may(review, "sign", signer) {
        return Ok(());
    }
    let why = format!("user not permitted to sign requests with signerName {signer:?}");
    Err(review.forbidden(object, &why))
}

/// Client certificates never carry the group of masters.
pub fn subject(review: &Review<'_>, object: Option<&Value>, _old: Option<&Value>) -> Result<(), ApiError> {
    let Some(object) = object.filter(|_| is_request(review, "", Operation::Create)) else { return Ok(()) };
    if object.text("spec.signerName") != "kubernetes.io/kube-apiserver-client" {
        return Ok(());
    }
    let pem =
        base64::engine::general_purpose::STANDARD.decode(object.text("spec.request")).unwrap_or_default();
    let broken = |why: &str| review.forbidden(Some(object), &format!("failed to parse CSR: {why}"));
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem)
        .map_err(|_| broken("PEM block type must be CERTIFICATE REQUEST"))?;
    let (_, request) =
        X509CertificationRequest::from_der(&pem.contents).map_err(|error| broken(&error.to_string()))?;
    let masters = request
        .certification_request_info
        .subject
        .iter_organization()
        .any(|organization| organization.as_str().is_ok_and(|name| name == "system:masters"));
    if masters {
        let why =
            "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed";
        return Err(review.forbidden(Some(object), why));
    }
    Ok(())
}

/// Who asks is written into the request.
pub fn requester(review: &Review<'_>, object: &mut Value, _old: Option<&Value>) -> Result<(), ApiError> {
    if !is_request(review, "", Operation::Create) {
        return Ok(());
    }
    let user = &review.exchange.user;
    object.set("spec.username", user.name.clone());
    object.set("spec.groups", json!(user.groups));
    for (field, value) in [("spec.uid", json!(user.uid)), ("spec.extra", json!(user.extra))] {
        let empty = value.as_str().is_some_and(str::is_empty)
            || value.as_object().is_some_and(serde_json::Map::is_empty);
        if empty {
            object.unset(field);
        } else {
            object.set(field, value);
        }
    }
    Ok(())
}
