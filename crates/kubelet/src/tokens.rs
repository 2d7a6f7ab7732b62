//! Service-account tokens for pods' volumes, asked for and renewed at 80 % of their life.
//!
//! Must not write them anywhere: tokens stay in memory and in volumes.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::k8s::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use api::k8s::api::core::v1::{Pod, ServiceAccount};
use base::Clock;
use client::{Client, ClientError};
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;

use crate::pods::pod::PodExt;
use crate::volumes::payload::{Tokens, wanted_tokens};

/// No token is used for longer than this.
const LONGEST_USE: SignedDuration = SignedDuration::from_hours(24);

#[derive(Clone)]
struct Issued {
    token: String,
    renew: Timestamp,
}

/// (pod uid, audience, seconds).
type Slot = (String, String, i64);

/// The tokens in use; cheap to clone.
#[derive(Clone)]
pub struct TokenStore {
    client: Client,
    clock: Clock,
    issued: Arc<Mutex<BTreeMap<Slot, Issued>>>,
}

impl TokenStore {
    /// None issued yet.
    pub fn new(client: Client, clock: Clock) -> TokenStore {
        TokenStore { client, clock, issued: Arc::default() }
    }

    /// All tokens a pod's volumes hold, and when the first is to be renewed.
    pub async fn of(&self, pod: &Pod) -> Result<(Tokens, Option<Timestamp>), ClientError> {
        let (mut tokens, mut renew) = (Tokens::new(), None);
        for (audience, seconds) in wanted_tokens(pod) {
            let issued = self.get(pod, &audience, seconds).await?;
            renew = Some(renew.map_or(issued.renew, |earliest: Timestamp| earliest.min(issued.renew)));
            tokens.insert((audience, seconds), issued.token);
        }
        Ok((tokens, renew))
    }

    async fn get(&self, pod: &Pod, audience: &str, seconds: i64) -> Result<Issued, ClientError> {
        let slot = (pod.uid().to_owned(), audience.to_owned(), seconds);
        let now = self.clock.now();
        let known = self.issued.lock().get(&slot).cloned();
        if let Some(known) = known.as_ref().filter(|known| known.renew > now) {
            return Ok(known.clone());
        }
        match self.request(pod, audience, seconds).await {
            Ok(issued) => {
                self.issued.lock().insert(slot, issued.clone());
                Ok(issued)
            }
            // The old one lives for another fifth: better than none.
            Err(error) => {
                known.map(|known| Issued { renew: now + SignedDuration::from_secs(60), ..known }).ok_or(error)
            }
        }
    }

    async fn request(&self, pod: &Pod, audience: &str, seconds: i64) -> Result<Issued, ClientError> {
        let account =
            pod.spec().service_account_name.as_deref().filter(|name| !name.is_empty()).unwrap_or("default");
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: (!audience.is_empty()).then(|| vec![audience.to_owned()]),
                expiration_seconds: Some(seconds),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: Some(pod.name().to_owned()),
                    uid: Some(pod.uid().to_owned()),
                }),
            }),
            ..TokenRequest::default()
        };
        let answer: TokenRequest = self
            .client
            .post_subresource::<ServiceAccount, _, _>(pod.namespace(), account, "token", &request)
            .await?;
        let status = answer.status.unwrap_or_default();
        let now = self.clock.now();
        let expires = status.expiration_timestamp.map_or(now + SignedDuration::from_secs(600), |at| at.0);
        let life = expires.duration_since(now);
        let renew = now + (life / 5 * 4).min(LONGEST_USE).max(SignedDuration::from_secs(10));
        Ok(Issued { token: status.token.unwrap_or_default(), renew })
    }

    /// The pod is gone.
    pub fn forget(&self, uid: &str) {
        self.issued.lock().retain(|(pod, _, _), _| pod != uid);
    }
}
