//! Service-account tokens: issuing them, and the user behind one. A token is good only while the objects that
//! it is bound to exist.

use api::ApiError;
use api::user::UserInfo;
use jiff::Timestamp;
use serde_json::{Value, json};
use store::Key;

use super::Identified;
use super::jwt::{self, PublicKey, SigningKey};
use crate::config::Config;
use crate::object;
use crate::server::Server;

/// The label of a token's Secret with the day of its last use.
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
/// The label that makes a token invalid.
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
/// Legacy tokens (in Secrets) carry this issuer.
const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";
/// How long a token bound to a deleted object stays good after the object's deletion time.
const DELETION_LEEWAY_SECONDS: i64 = 60;

/// Signs and verifies.
pub struct Issuer {
    key: Option<SigningKey>,
    keys: Vec<PublicKey>,
    issuers: Vec<String>,
}

/// What a token is bound to.
#[derive(Clone, Debug, Default)]
pub struct Bound {
    /// Kind of the object in the token: `pod`, `secret` or `node`.
    pub objects: Vec<(&'static str, String, String)>,
}

/// How long a token lives.
#[derive(Clone, Copy, Debug)]
pub struct Lifetime {
    /// Seconds until it expires.
    pub seconds: i64,
    /// Seconds after which its use is warned of.
    pub warn_after: Option<i64>,
}

impl Issuer {
    /// From the configured keys.
    pub fn new(config: &Config) -> Result<Issuer, ApiError> {
        let key = config.service_account_signing_key.as_deref().map(SigningKey::from_pem).transpose();
        let key = key.map_err(ApiError::internal)?;
        let mut keys: Vec<PublicKey> = key.iter().map(|key| key.public.clone()).collect();
        for pem in &config.service_account_keys {
            for key in PublicKey::all_from_pem(pem).map_err(ApiError::internal)? {
                if !keys.contains(&key) {
                    keys.push(key);
                }
            }
        }
        Ok(Issuer { key, keys, issuers: config.issuers.clone() })
    }

    /// The issuer that signs.
    pub fn name(&self) -> &str {
        self.issuers.first().map_or("", String::as_str)
    }

    /// The JSON web key set.
    pub fn key_set(&self) -> Value {
        json!({"keys": self.keys.iter().map(PublicKey::jwk).collect::<Vec<_>>()})
    }

    /// A token for a service account; `None` without a signing key.
    pub fn issue(
        &self,
        account: &Value,
        bound: &Bound,
        audiences: &[String],
        lifetime: Lifetime,
        now: Timestamp,
        id: String,
    ) -> Option<String> {
        let key = self.key.as_ref()?;
        let meta = &account["metadata"];
        let (namespace, name) = (meta["namespace"].as_str()?, meta["name"].as_str()?);
        let mut kubernetes =
            json!({"namespace": namespace, "serviceaccount": {"name": name, "uid": meta["uid"]}});
        for (kind, name, uid) in &bound.objects {
            kubernetes[*kind] =
                if uid.is_empty() { json!({"name": name}) } else { json!({"name": name, "uid": uid}) };
        }
        let issued = now.as_second();
        let mut claims = json!({
            "iss": self.name(), "sub": format!("system:serviceaccount:{namespace}:{name}"), "aud": audiences,
            "iat": issued, "nbf": issued, "exp": issued + lifetime.seconds, "jti": id, "kubernetes.io": kubernetes,
        });
        if let Some(seconds) = lifetime.warn_after {
            claims["kubernetes.io"]["warnafter"] = json!(issued + seconds);
        }
        Some(key.sign(&claims))
    }

    /// A legacy token for a Secret of type service-account-token.
    pub fn issue_legacy(&self, account: &Value, secret: &str) -> Option<String> {
        let key = self.key.as_ref()?;
        let meta = &account["metadata"];
        let (namespace, name) = (meta["namespace"].as_str()?, meta["name"].as_str()?);
        let claims = json!({
            "iss": LEGACY_ISSUER, "sub": format!("system:serviceaccount:{namespace}:{name}"),
            "kubernetes.io/serviceaccount/namespace": namespace,
            "kubernetes.io/serviceaccount/secret.name": secret,
            "kubernetes.io/serviceaccount/service-account.name": name,
            "kubernetes.io/serviceaccount/service-account.uid": meta["uid"],
        });
        Some(key.sign(&claims))
    }

    /// The user of a token, if it is one of ours and still good.
    pub fn verify(
        &self,
        server: &Server,
        token: &str,
        audiences: &[String],
        now: Timestamp,
    ) -> Option<Identified> {
        let issuer = jwt::peek(token)?["iss"].as_str()?.to_owned();
        let legacy = issuer == LEGACY_ISSUER;
        if !legacy && !self.issuers.contains(&issuer) {
            return None;
        }
        let claims = jwt::verify(token, &self.keys)?;
        if legacy {
            legacy_user(server, &claims, token, audiences)
        } else {
            bound_user(server, &claims, audiences, now)
        }
    }
}

fn bound_user(server: &Server, claims: &Value, audiences: &[String], now: Timestamp) -> Option<Identified> {
    let seconds = now.as_second();
    let number = |name: &str| claims[name].as_i64();
    if number("exp")? <= seconds || number("nbf").is_some_and(|at| at > seconds + DELETION_LEEWAY_SECONDS) {
        return None;
    }
    let own: Vec<&str> = match &claims["aud"] {
        Value::String(one) => vec![one],
        Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let good: Vec<String> = audiences.iter().filter(|a| own.contains(&a.as_str())).cloned().collect();
    if good.is_empty() {
        return None;
    }
    let bound = &claims["kubernetes.io"];
    let namespace = bound["namespace"].as_str()?;
    let account = &bound["serviceaccount"];
    let name = account["name"].as_str()?;
    alive(server, "serviceaccounts", namespace, name, account["uid"].as_str(), seconds)?;
    let mut user = UserInfo::service_account(namespace, name);
    user.uid = account["uid"].as_str().unwrap_or("").to_owned();
    let mut note = |key: &str, value: &Value| {
        if let Some(text) = value.as_str().filter(|text| !text.is_empty()) {
            user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![text.to_owned()]);
        }
    };
    if let Some(id) = claims["jti"].as_str() {
        note("credential-id", &json!(format!("JTI={id}")));
    }
    for (claim, resource) in [("pod", "pods"), ("secret", "secrets"), ("node", "nodes")] {
        let object = &bound[claim];
        let Some(name) = object["name"].as_str() else { continue };
        let (namespace, uid) = (if claim == "node" { "" } else { namespace }, object["uid"].as_str());
        // A node beside a pod is told, not checked: the pod's life decides.
        if claim != "node" || bound["pod"].is_null() {
            alive(server, resource, namespace, name, uid, seconds)?;
        }
        if claim != "secret" {
            note(&format!("{claim}-name"), &object["name"]);
            note(&format!("{claim}-uid"), &object["uid"]);
        }
    }
    Some(Identified { user, audiences: good })
}

/// The object if it exists, is the same one, and is not long deleted.
fn alive(
    server: &Server,
    resource: &str,
    namespace: &str,
    name: &str,
    uid: Option<&str>,
    now: i64,
) -> Option<()> {
    let found = server.store.get(&Key::new(resource, namespace, name))?;
    if uid.is_some_and(|uid| !uid.is_empty() && uid != &*found.attrs.uid) {
        return None;
    }
    let tree = object::tree(&found);
    let deleted = tree["metadata"]["deletionTimestamp"].as_str().and_then(api::time::parse);
    deleted.is_none_or(|at| at.as_second() + DELETION_LEEWAY_SECONDS > now).then_some(())
}

fn legacy_user(server: &Server, claims: &Value, token: &str, audiences: &[String]) -> Option<Identified> {
    let text = |key: &str| claims[format!("kubernetes.io/serviceaccount/{key}")].as_str();
    let (namespace, name) = (text("namespace")?, text("service-account.name")?);
    let secret = server.store.get(&Key::new("secrets", namespace, text("secret.name")?))?;
    let secret = object::tree(&secret);
    use base64::Engine as _;
    let kept = base64::engine::general_purpose::STANDARD.decode(secret["data"]["token"].as_str()?).ok()?;
    super::same_bytes(&kept, token.as_bytes()).then_some(())?;
    alive(server, "serviceaccounts", namespace, name, text("service-account.uid"), i64::MIN)?;
    note_use(server, &secret);
    if !secret["metadata"]["labels"][INVALID_SINCE].as_str().unwrap_or("").is_empty() {
        return None;
    }
    let mut user = UserInfo::service_account(namespace, name);
    user.uid = text("service-account.uid").unwrap_or("").to_owned();
    Some(Identified { user, audiences: audiences.to_vec() })
}

/// Labels a token's Secret with the day it was used last, for the controller that removes unused ones.
fn note_use(server: &Server, secret: &Value) {
    let meta = &secret["metadata"];
    let now = server.clock.now();
    let [today, tomorrow] = [0, 86_400]
        .map(|later| (now + std::time::Duration::from_secs(later)).strftime("%Y-%m-%d").to_string());
    // A server whose clock is ahead may have written tomorrow's.
    if meta["labels"][LAST_USED].as_str().is_some_and(|used| used == today || used == tomorrow) {
        return;
    }
    let (Some(namespace), Some(name)) = (meta["namespace"].as_str(), meta["name"].as_str()) else { return };
    let path = format!("/api/v1/namespaces/{namespace}/secrets/{name}");
    let patch = json!({"metadata": {"uid": meta["uid"], "labels": {LAST_USED: today}}});
    let writer = server.clone();
    server.tasks.spawn("use of a token", async move {
        let (code, answer) = writer.internal_patch(&path, patch).await;
        if code >= 300 {
            tracing::warn!(
                secret = path,
                message = answer["message"].as_str(),
                "the use of a token is not noted"
            );
        }
    });
}
