//! Plans for `cluster-info` and for one bootstrap token.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::k8s::api::core::v1::{ConfigMap, Secret};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use client::{Meta, Plan};
use jiff::Timestamp;
use ring::hmac;

/// Where bootstrap tokens are.
pub const TOKEN_NAMESPACE: &str = "kube-system";
/// Where the map is that says how to reach the cluster.
pub const INFO_NAMESPACE: &str = "kube-public";
/// Its name.
pub const INFO_NAME: &str = "cluster-info";

const TOKEN_TYPE: &str = "bootstrap.kubernetes.io/token";
/// What is signed.
const KUBECONFIG: &str = "kubeconfig";
/// A signature's key in the map begins so and ends with the token's id.
const SIGNATURE: &str = "jws-kubeconfig-";

/// True for bootstrap tokens.
pub fn is_token(secret: &Secret) -> bool {
    secret.type_.as_deref() == Some(TOKEN_TYPE) && secret.namespace() == TOKEN_NAMESPACE
}

fn field<'a>(secret: &'a Secret, name: &str) -> &'a str {
    let bytes = secret.data.as_ref().and_then(|data| data.get(name));
    bytes.and_then(|bytes| std::str::from_utf8(&bytes.0).ok()).unwrap_or("")
}

/// When a token ends; a time that cannot be read is over.
fn ends(secret: &Secret) -> Option<Timestamp> {
    let text = field(secret, "expiration");
    (!text.is_empty()).then(|| text.parse().unwrap_or(Timestamp::MIN))
}

/// Id and secret of a token that may sign now.
fn signing(secret: &Secret, now: Timestamp) -> Option<(&str, &str)> {
    let (id, key) = (field(secret, "token-id"), field(secret, "token-secret"));
    let named = secret.name().strip_prefix("bootstrap-token-") == Some(id);
    let fresh = ends(secret).is_none_or(|end| end > now);
    let may = is_token(secret) && !secret.is_deleting() && field(secret, "usage-bootstrap-signing") == "true";
    (may && named && fresh && !id.is_empty() && !key.is_empty()).then_some((id, key))
}

/// A JSON Web Signature without its content (RFC 7515, appendix F), HMAC-SHA256 under the token's secret.
pub fn detached_signature(content: &str, id: &str, secret: &str) -> String {
    let header = URL_SAFE_NO_PAD.encode(serde_json::json!({"alg": "HS256", "kid": id}).to_string());
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), signed.as_bytes());
    format!("{header}..{}", URL_SAFE_NO_PAD.encode(tag.as_ref()))
}

/// Signs the map's kubeconfig with every token that may sign; signatures of others go.
pub fn sign(map: &ConfigMap, secrets: &[Arc<Secret>], now: Timestamp) -> Plan {
    let mut plan = Plan::none();
    let Some(content) = map.data.as_ref().and_then(|data| data.get(KUBECONFIG)) else { return plan };
    let mut data: BTreeMap<String, String> = map.data.clone().unwrap_or_default();
    data.retain(|key, _| !key.starts_with(SIGNATURE));
    for (id, key) in secrets.iter().filter_map(|secret| signing(secret, now)) {
        data.insert(format!("{SIGNATURE}{id}"), detached_signature(content, id, key));
    }
    if map.data.as_ref() != Some(&data) {
        let mut after = map.clone();
        after.data = Some(data);
        plan.update(&after);
    }
    plan
}

/// Removes a token whose time is over, or looks again when it will be.
pub fn clean(secret: &Secret, now: Timestamp) -> Plan {
    let mut plan = Plan::none();
    let Some(end) = ends(secret).filter(|_| is_token(secret)) else { return plan };
    match Duration::try_from(end.duration_since(now)) {
        Ok(left) if !left.is_zero() => plan.requeue(left),
        _ => plan.delete(secret),
    };
    plan
}

#[cfg(test)]
mod tests {
    use client::Step;
    use serde_json::json;

    use super::*;

    fn token(id: &str, more: &[(&str, &str)]) -> Arc<Secret> {
        let mut data = BTreeMap::from([("token-id", id), ("token-secret", "0123456789abcdef")]);
        data.insert("usage-bootstrap-signing", "true");
        data.extend(more.iter().copied());
        let data: BTreeMap<&str, String> = data
            .into_iter()
            .map(|(key, text)| (key, base64::engine::general_purpose::STANDARD.encode(text)))
            .collect();
        let name = format!("bootstrap-token-{id}");
        let object =
            json!({"metadata": {"name": name, "namespace": "kube-system"}, "type": TOKEN_TYPE, "data": data});
        Arc::new(serde_json::from_value(object).expect("a secret"))
    }

    fn now() -> Timestamp {
        "2030-01-01T00:00:00Z".parse().expect("a time")
    }

    #[test]
    fn each_token_that_may_signs() {
        let map: ConfigMap = serde_json::from_value(json!({
            "metadata": {"name": INFO_NAME, "namespace": INFO_NAMESPACE},
            "data": {"kubeconfig": "content", "jws-kubeconfig-gone": "x"},
        }))
        .expect("a map");
        let tokens = [
            token("aaaaaa", &[]),
            token("bbbbbb", &[("usage-bootstrap-signing", "false")]),
            token("cccccc", &[("expiration", "2029-12-31T00:00:00Z")]),
        ];
        let plan = sign(&map, &tokens, now());
        let Step::Update { object, .. } = plan.steps()[0] else { panic!("an update") };
        let keys: Vec<&String> = object["data"].as_object().expect("data").keys().collect();
        assert_eq!(keys, ["jws-kubeconfig-aaaaaa", "kubeconfig"]);
        let after: ConfigMap = serde_json::from_value(object.clone()).expect("a map");
        assert!(sign(&after, &tokens, now()).is_empty(), "nothing left to do");
    }

    #[test]
    fn signatures_are_detached_jws() {
        // Made with an independent implementation of HS256.
        let expect = "eyJhbGciOiJIUzI1NiIsImtpZCI6Impvc2h1YSJ9..Ix_bz2x3Fy-DET8KOSFsOYQ8vAWfQnFeGXnF8H0UamU";
        assert_eq!(detached_signature("pay-load", "joshua", "my-cool-secret"), expect);
    }

    #[test]
    fn tokens_end() {
        assert!(clean(&token("aaaaaa", &[]), now()).is_empty());
        assert_eq!(
            clean(&token("aaaaaa", &[("expiration", "2029-12-31T00:00:00Z")]), now()).steps().len(),
            1
        );
        let later = clean(&token("aaaaaa", &[("expiration", "2030-01-01T00:01:00Z")]), now());
        assert_eq!(later.requeue_after, Some(Duration::from_secs(60)));
    }
}
