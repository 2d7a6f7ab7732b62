//! Who asks the agent's server, and whether they may.
//!
//! Must not know what is asked for beyond its method and path.

use std::collections::BTreeMap;
use std::time::Duration;

use api::UserInfo;
use api::k8s::api::authentication::v1::{TokenReview, TokenReviewSpec};
use api::k8s::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use base::Clock;
use client::Client;
use http::{HeaderMap, Method, header};
use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};

/// How long a token's user is remembered.
const TOKEN_TTL: Duration = Duration::from_secs(120);
/// How long a permission is remembered.
const ALLOWED_TTL: Duration = Duration::from_secs(300);
/// How long a refusal is remembered.
const DENIED_TTL: Duration = Duration::from_secs(30);
/// The most answers remembered of each kind.
const REMEMBERED: usize = 1024;

type Question = (String, Vec<String>, String, String);

/// Asks the API server and remembers its answers.
pub struct Auth {
    client: Client,
    clock: Clock,
    node: String,
    tokens: Mutex<BTreeMap<[u8; 32], (Duration, UserInfo)>>,
    answers: Mutex<BTreeMap<Question, (Duration, bool)>>,
}

/// The user that a client certificate names.
pub fn user_of(certificate: &CertificateDer<'_>) -> Option<UserInfo> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate.as_ref()).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups: Vec<&str> = subject.iter_organization().filter_map(|part| part.as_str().ok()).collect();
    Some(UserInfo::component(&name, &groups))
}

/// Verb and subresource of `nodes` that a request needs (upstream's `server/auth.go`). Whatever runs or reaches
/// into a container counts as creation, also by GET: reading a node must not mean running commands on it.
pub fn attributes(method: &Method, path: &str) -> (&'static str, &'static str) {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or("");
    let verb = match *method {
        Method::POST => "create",
        Method::GET | Method::HEAD => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    };
    match first {
        "exec" | "attach" | "portForward" | "run" => ("create", "proxy"),
        "stats" => (verb, "stats"),
        "metrics" => (verb, "metrics"),
        "logs" => (verb, "log"),
        "configz" => (verb, "configz"),
        "healthz" | "livez" | "readyz" => (verb, "healthz"),
        "pods" | "runningpods" => (verb, "pods"),
        _ => (verb, "proxy"),
    }
}

impl Auth {
    /// Asks through `client` about the node `node`.
    pub fn new(client: Client, clock: Clock, node: &str) -> Auth {
        Auth { client, clock, node: node.to_owned(), tokens: Mutex::default(), answers: Mutex::default() }
    }

    /// The user of a bearer token; `None` when there is none or it is not accepted.
    pub async fn authenticate(&self, headers: &HeaderMap) -> Option<UserInfo> {
        let token =
            headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")?.trim().to_owned();
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let now = self.clock.monotonic();
        if let Some((until, user)) = self.tokens.lock().get(&digest).filter(|(until, _)| *until > now) {
            let _ = until;
            return Some(user.clone());
        }
        let spec = TokenReviewSpec { token, audiences: None };
        let review = TokenReview { spec, ..TokenReview::default() };
        let status = self.client.create(&review).await.ok()?.status?;
        if status.authenticated != Some(true) {
            return None;
        }
        let found = status.user?;
        let user = UserInfo {
            name: found.username.unwrap_or_default(),
            uid: found.uid.unwrap_or_default(),
            groups: found.groups.unwrap_or_default(),
            extra: found.extra.unwrap_or_default().into_iter().collect(),
        };
        let mut tokens = self.tokens.lock();
        tokens.retain(|_, (until, _)| *until > now);
        if tokens.len() < REMEMBERED {
            tokens.insert(digest, (now + TOKEN_TTL, user.clone()));
        }
        Some(user)
    }

    /// Whether the user may do this; an API server that cannot be asked means no.
    pub async fn authorize(&self, user: &UserInfo, method: &Method, path: &str) -> bool {
        let (verb, subresource) = attributes(method, path);
        // Narrow permissions are newer than the wide one, which includes them.
        let narrow = matches!(subresource, "pods" | "healthz" | "configz");
        self.may(user, verb, subresource).await || (narrow && self.may(user, verb, "proxy").await)
    }

    async fn may(&self, user: &UserInfo, verb: &str, subresource: &str) -> bool {
        let question: Question =
            (user.name.clone(), user.groups.clone(), verb.to_owned(), subresource.to_owned());
        let now = self.clock.monotonic();
        if let Some((_, allowed)) = self.answers.lock().get(&question).filter(|(until, _)| *until > now) {
            return *allowed;
        }
        let attributes = ResourceAttributes {
            verb: Some(verb.to_owned()),
            version: Some("v1".into()),
            resource: Some("nodes".into()),
            subresource: Some(subresource.to_owned()),
            name: Some(self.node.clone()),
            ..ResourceAttributes::default()
        };
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.name.clone()),
                uid: Some(user.uid.clone()).filter(|uid| !uid.is_empty()),
                groups: Some(user.groups.clone()),
                extra: Some(user.extra.clone()),
                resource_attributes: Some(attributes),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let Ok(answer) = self.client.create(&review).await else { return false };
        let allowed = answer.status.is_some_and(|status| status.allowed);
        let until = now + if allowed { ALLOWED_TTL } else { DENIED_TTL };
        let mut answers = self.answers.lock();
        answers.retain(|_, (until, _)| *until > now);
        if answers.len() < REMEMBERED {
            answers.insert(question, (until, allowed));
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_commands_is_never_reading() {
        for (method, path, expect) in [
            (Method::GET, "/exec/n/p/c", ("create", "proxy")),
            (Method::POST, "/run/n/p/c", ("create", "proxy")),
            (Method::GET, "/containerLogs/n/p/c", ("get", "proxy")),
            (Method::GET, "/stats/summary", ("get", "stats")),
            (Method::GET, "/metrics/resource", ("get", "metrics")),
            (Method::GET, "/pods", ("get", "pods")),
            (Method::DELETE, "/x", ("delete", "proxy")),
        ] {
            assert_eq!(attributes(&method, path), expect, "{path}");
        }
    }
}
