//! Bootstrap tokens: `id.secret`, kept in Secrets `kube-system/bootstrap-token-ID`.

use api::user::UserInfo;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;
use store::Key;

use crate::object;
use crate::server::Server;

/// The user of a bootstrap token.
pub fn user(server: &Server, token: &str, now: Timestamp) -> Option<UserInfo> {
    let (id, secret) = token.split_once('.')?;
    let fits = |text: &str, length| {
        text.len() == length && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    if !fits(id, 6) || !fits(secret, 16) {
        return None;
    }
    let key = Key::new("secrets", "kube-system", format!("bootstrap-token-{id}").as_str());
    let object = object::tree(&*server.store.get(&key)?);
    if object["type"] != "bootstrap.kubernetes.io/token" || !object["metadata"]["deletionTimestamp"].is_null()
    {
        return None;
    }
    let data = |name: &str| field(&object, name);
    let same = super::same_bytes(data("token-secret").as_bytes(), secret.as_bytes());
    if data("token-id") != id || !same || data("usage-bootstrap-authentication") != "true" {
        return None;
    }
    let expiry = data("expiration");
    if !expiry.is_empty() && api::time::parse(&expiry).is_none_or(|at| at < now) {
        return None;
    }
    let mut groups = vec!["system:bootstrappers".to_owned()];
    let extra = data("auth-extra-groups");
    groups.extend(
        extra.split(',').filter(|group| group.starts_with("system:bootstrappers:")).map(str::to_owned),
    );
    Some(UserInfo { name: format!("system:bootstrap:{id}"), groups, ..UserInfo::default() })
}

fn field(secret: &Value, name: &str) -> String {
    let encoded = secret["data"][name].as_str().unwrap_or("");
    STANDARD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
}
