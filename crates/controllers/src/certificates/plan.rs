//! Which requests are recognized, how they are signed, when they go.

use std::collections::BTreeSet;
use std::time::Duration;

use api::k8s::ByteString;
use api::k8s::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use api::k8s::apimachinery::pkg::apis::meta::v1::Time;
use base::Rng;
use base::pki::Ca;
use client::Plan;
use jiff::Timestamp;

use super::request::{self, Subject};

const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub(super) const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
const LEGACY: &str = "kubernetes.io/legacy-unknown";
/// Shorter lifetimes than this are not given.
const SHORTEST: Duration = Duration::from_secs(600);

/// A kind of request that may be approved without a person.
pub struct Recognizer {
    /// The subresource of certificatesigningrequests that the requester must be allowed to create.
    pub subresource: &'static str,
    /// What the approval says.
    pub message: &'static str,
}

const SELF_NODE: Recognizer = Recognizer {
    subresource: "selfnodeclient",
    message: "Auto approving self kubelet client certificate after SubjectAccessReview.",
};
const NODE: Recognizer = Recognizer {
    subresource: "nodeclient",
    message: "Auto approving kubelet client certificate after SubjectAccessReview.",
};

pub(super) fn has(csr: &CertificateSigningRequest, kind: &str) -> bool {
    let conditions = csr.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == kind)
}

pub(super) fn certificate(csr: &CertificateSigningRequest) -> Option<&[u8]> {
    let certificate = csr.status.as_ref()?.certificate.as_ref()?;
    Some(certificate.0.as_slice()).filter(|bytes| !bytes.is_empty())
}

fn usages(csr: &CertificateSigningRequest) -> BTreeSet<&str> {
    csr.spec.usages.iter().flatten().map(String::as_str).collect()
}

fn only(usages: &BTreeSet<&str>, needed: &str) -> bool {
    usages.contains(needed)
        && usages.contains("digital signature")
        && usages.iter().all(|one| [needed, "digital signature", "key encipherment"].contains(one))
}

fn is_node(subject: &Subject) -> bool {
    subject.common_name.starts_with("system:node:") && subject.organizations == ["system:nodes"]
}

fn is_kubelet_client(csr: &CertificateSigningRequest, subject: &Subject) -> bool {
    is_node(subject)
        && subject.dns_names.len() + subject.addresses.len() + subject.others == 0
        && only(&usages(csr), "client auth")
}

pub(super) fn is_kubelet_serving(csr: &CertificateSigningRequest, subject: &Subject) -> bool {
    is_node(subject)
        && subject.dns_names.len() + subject.addresses.len() > 0
        && subject.others == 0
        && only(&usages(csr), "server auth")
}

/// The ways in which an undecided request could be approved.
pub fn recognized(csr: &CertificateSigningRequest) -> Vec<Recognizer> {
    if has(csr, "Approved") || has(csr, "Denied") || certificate(csr).is_some() {
        return Vec::new();
    }
    let Some(subject) = request::parse(&csr.spec.request.0) else { return Vec::new() };
    if csr.spec.signer_name != KUBELET_CLIENT || !is_kubelet_client(csr, &subject) {
        return Vec::new();
    }
    if csr.spec.username.as_deref() == Some(&subject.common_name) {
        vec![SELF_NODE, NODE]
    } else {
        vec![NODE]
    }
}

fn with_condition(
    csr: &CertificateSigningRequest,
    kind: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> CertificateSigningRequest {
    let mut csr = csr.clone();
    let conditions = csr.status.get_or_insert_default().conditions.get_or_insert_default();
    conditions.push(CertificateSigningRequestCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    });
    csr
}

/// The request with an approval.
pub fn approve(csr: &CertificateSigningRequest, message: &str, now: Timestamp) -> CertificateSigningRequest {
    with_condition(csr, "Approved", "AutoApproved", message, now)
}

/// Signs an approved request of a signer that is ours; what breaks the signer's rules fails.
pub fn sign(csr: &CertificateSigningRequest, ca: &Ca, longest: Duration, rng: &Rng, now: Timestamp) -> Plan {
    let mut plan = Plan::none();
    if !has(csr, "Approved") || has(csr, "Denied") || has(csr, "Failed") || certificate(csr).is_some() {
        return plan;
    }
    let subject = request::parse(&csr.spec.request.0);
    let usages = usages(csr);
    let fits = match (csr.spec.signer_name.as_str(), &subject) {
        (KUBELET_CLIENT, Some(subject)) => is_kubelet_client(csr, subject),
        (KUBELET_SERVING, Some(subject)) => is_kubelet_serving(csr, subject),
        (CLIENT, Some(subject)) => {
            usages.contains("client auth")
                && usages
                    .iter()
                    .all(|one| ["client auth", "digital signature", "key encipherment"].contains(one))
                && !subject.organizations.iter().any(|group| group == "system:masters")
        }
        (LEGACY, Some(_)) => true,
        (CLIENT | KUBELET_CLIENT | KUBELET_SERVING | LEGACY, None) => false,
        _ => return plan,
    };
    if !fits {
        let message = "the request does not follow the rules of its signer";
        plan.update_status(&with_condition(csr, "Failed", "SignerValidationFailure", message, now));
        return plan;
    }
    let asked =
        csr.spec.expiration_seconds.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
    let lifetime = asked.map_or(longest, |asked| asked.clamp(SHORTEST, longest));
    let pem = String::from_utf8_lossy(&csr.spec.request.0).into_owned();
    let (server, client) = (usages.contains("server auth"), usages.contains("client auth"));
    match ca.sign_request(&pem, server, client, now, lifetime, rng) {
        Ok(signed) => {
            let mut csr = csr.clone();
            csr.status.get_or_insert_default().certificate = Some(ByteString(signed.into_bytes()));
            plan.update_status(&csr);
        }
        Err(error) => {
            let message = error.to_string();
            plan.update_status(&with_condition(csr, "Failed", "SignerFailure", &message, now));
        }
    }
    plan
}

/// Removes requests whose time is over: approved, denied or failed for an hour, undecided for a day.
pub fn clean(csr: &CertificateSigningRequest, now: Timestamp) -> Plan {
    const DECIDED: Duration = Duration::from_secs(3_600);
    const PENDING: Duration = Duration::from_secs(24 * 3_600);
    let mut plan = Plan::none();
    let conditions = csr.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let decided = conditions
        .iter()
        .filter_map(|condition| condition.last_update_time.as_ref().map(|time| time.0))
        .max();
    let created = csr.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let (since, limit) = match decided {
        Some(at) => (Some(at), DECIDED),
        None => (created, PENDING),
    };
    let Some(since) = since else { return plan };
    let left = Duration::try_from((since + limit).duration_since(now)).unwrap_or(Duration::ZERO);
    if left.is_zero() {
        plan.delete(csr);
    } else {
        plan.requeue(left);
    }
    plan
}

#[cfg(test)]
mod tests {
    use base::pki::Ca;
    use serde_json::json;

    use super::*;

    fn csr(pem: &str, signer: &str, usages: &[&str]) -> CertificateSigningRequest {
        let mut csr: CertificateSigningRequest = serde_json::from_value(json!({
            "metadata": {"name": "c", "creationTimestamp": "2030-01-01T00:00:00Z"},
            "spec": {"request": "", "signerName": signer, "usages": usages, "username": "system:node:a"},
        }))
        .expect("a request");
        csr.spec.request = ByteString(pem.as_bytes().to_vec());
        csr
    }

    #[test]
    fn node_requests_are_recognized_and_signed() {
        let pem = include_str!("../../testdata/node.csr");
        let now: Timestamp = "2030-01-01T00:00:00Z".parse().expect("a time");
        let usages = ["client auth", "digital signature", "key encipherment"];
        let wanted = csr(pem, KUBELET_CLIENT, &usages);
        let ways: Vec<&str> = recognized(&wanted).iter().map(|way| way.subresource).collect();
        assert_eq!(ways, ["selfnodeclient", "nodeclient"]);
        assert!(recognized(&csr(pem, CLIENT, &usages)).is_empty());
        let rng = Rng::seeded(1);
        let ca = Ca::new("ca", now, Duration::from_secs(86_400 * 365), &rng).expect("a CA");
        let signed = sign(&approve(&wanted, "", now), &ca, Duration::from_secs(86_400), &rng, now);
        let client::Step::Update { object, .. } = signed.steps()[0] else { panic!("an update") };
        assert!(object["status"]["certificate"].as_str().is_some_and(|text| !text.is_empty()));
        let wrong = sign(
            &approve(&csr(pem, KUBELET_SERVING, &usages), "", now),
            &ca,
            Duration::from_secs(86_400),
            &rng,
            now,
        );
        let client::Step::Update { object, .. } = wrong.steps()[0] else { panic!("an update") };
        assert_eq!(object["status"]["conditions"][1]["type"], "Failed");
        assert!(sign(&wanted, &ca, Duration::from_secs(86_400), &rng, now).is_empty(), "not approved");
    }

    #[test]
    fn old_requests_go() {
        let now: Timestamp = "2030-01-02T00:00:00Z".parse().expect("a time");
        assert_eq!(clean(&csr("", CLIENT, &[]), now).steps().len(), 1);
        let fresh = approve(&csr("", CLIENT, &[]), "", now);
        assert_eq!(clean(&fresh, now).requeue_after, Some(Duration::from_secs(3_600)));
    }
}
