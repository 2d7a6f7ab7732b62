//! Certificate signing requests: approves those of nodes, signs approved ones, removes old ones. Watches the
//! requests.

mod plan;
mod request;
pub mod serving;

use std::sync::Arc;
use std::time::Duration;

use api::k8s::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use api::k8s::api::certificates::v1::CertificateSigningRequest;
use base::pki::Ca;
use base::{Clock, Rng};
use client::{Cache, Client, ClientError, Key, Meta, Plan, Queue, Reconcile, ReconcileError};
use jiff::Timestamp;
use serde_json::Value;

use crate::context::Context;
use crate::worker;

const WORKERS: usize = 2;

struct Approver {
    client: Client,
    requests: Cache<CertificateSigningRequest>,
    clock: Clock,
}

impl Approver {
    async fn sync(&self, key: Key) -> Result<Option<Duration>, ClientError> {
        let Some(csr) = self.requests.get_key(&key) else { return Ok(None) };
        for recognizer in plan::recognized(&csr) {
            if self.may(&csr, recognizer.subresource).await? {
                let approved = plan::approve(&csr, recognizer.message, self.clock.now());
                let gvr = client::ResourceRef::of::<CertificateSigningRequest>().gvr;
                let _: Value = self.client.update_at(&gvr, "", csr.name(), "approval", &approved).await?;
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// Asks the server whether the requester may have such a certificate.
    async fn may(&self, csr: &CertificateSigningRequest, subresource: &str) -> Result<bool, ClientError> {
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: csr.spec.username.clone(),
                uid: csr.spec.uid.clone(),
                groups: csr.spec.groups.clone(),
                extra: csr.spec.extra.clone(),
                resource_attributes: Some(ResourceAttributes {
                    group: Some("certificates.k8s.io".to_owned()),
                    resource: Some("certificatesigningrequests".to_owned()),
                    verb: Some("create".to_owned()),
                    subresource: Some(subresource.to_owned()),
                    version: Some("*".to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let answer = self.client.create(&review).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }
}

/// Starts the approver.
pub fn start_approver(context: &Context) {
    let queue: Queue<Key> = Queue::new(context.clock.clone());
    let requests = context.informers.of::<CertificateSigningRequest>();
    let add = queue.clone();
    requests.on_change(move |change| add.add(Key::of(&**change.object())));
    let approver = Arc::new(Approver {
        client: (context.client_for)("certificate-controller"),
        requests: requests.cache().clone(),
        clock: context.clock.clone(),
    });
    worker::start("certificate approver", queue, WORKERS, &context.tasks, move |key| {
        let approver = approver.clone();
        async move { approver.sync(key).await }
    });
}

struct Signer {
    requests: Cache<CertificateSigningRequest>,
    ca: Ca,
    longest: Duration,
    rng: Rng,
}

impl Reconcile for Signer {
    fn reconcile(&self, key: &Key, now: Timestamp) -> Result<Plan, ReconcileError> {
        let Some(csr) = self.requests.get_key(key) else { return Ok(Plan::none()) };
        Ok(plan::sign(&csr, &self.ca, self.longest, &self.rng, now))
    }
}

/// Starts the signer, if there is a CA to sign with.
pub fn start_signer(context: &Context) {
    let Some(identity) = context.config.signing.clone() else { return };
    let ca = match Ca::from_pem(identity) {
        Ok(ca) => ca,
        Err(error) => return tracing::error!(%error, "certificates will not be signed"),
    };
    let mut setup = context.setup("certificate-controller", "certificate-controller");
    let requests = setup.watch::<CertificateSigningRequest>();
    setup.enqueue(&requests);
    let (longest, rng) = (context.config.signing_duration, context.rng.clone());
    setup.start(Arc::new(Signer { requests: requests.cache().clone(), ca, longest, rng }), WORKERS);
}

struct Cleaner {
    requests: Cache<CertificateSigningRequest>,
}

impl Reconcile for Cleaner {
    fn reconcile(&self, key: &Key, now: Timestamp) -> Result<Plan, ReconcileError> {
        Ok(self.requests.get_key(key).map(|csr| plan::clean(&csr, now)).unwrap_or_default())
    }
}

/// Starts the cleaner.
pub fn start_cleaner(context: &Context) {
    let mut setup = context.setup("certificate-controller", "certificate-controller");
    let requests = setup.watch::<CertificateSigningRequest>();
    setup.enqueue(&requests);
    setup.start(Arc::new(Cleaner { requests: requests.cache().clone() }), 1);
}
