//! Who asks: client certificates, bearer tokens, front proxies, in-process identities, impersonation.

mod bootstrap;
pub mod certificate;
pub mod jwt;
pub mod oidc;
pub mod service_account;
mod token_file;

use std::collections::BTreeMap;

use api::ApiError;
use api::user::UserInfo;
use http::header::AUTHORIZATION;

use crate::config::Config;
use crate::listen::Peer;
use crate::server::{Exchange, Server};

const AUTHENTICATED: &str = "system:authenticated";
const UNAUTHENTICATED: &str = "system:unauthenticated";

/// What tokens are checked with.
pub struct Authenticator {
    tokens: token_file::Tokens,
    /// Service-account tokens.
    pub accounts: service_account::Issuer,
    issuers: oidc::Issuers,
    remote: Option<crate::remote::Tokens>,
}

impl Authenticator {
    /// From the configured files.
    pub fn new(config: &Config) -> Result<Authenticator, ApiError> {
        let unfit = |what: &str, why: String| ApiError::internal(format!("{what}: {why}"));
        let remote = match &config.token_webhook {
            Some(text) => Some(
                crate::remote::Tokens::from_kubeconfig(text, config.system_ca.as_deref())
                    .map_err(|why| unfit("the token webhook's kubeconfig", why))?,
            ),
            None => None,
        };
        Ok(Authenticator {
            issuers: oidc::Issuers::new(config)
                .map_err(|why| unfit("the authentication configuration", why))?,
            remote,
            tokens: token_file::Tokens::parse(&config.tokens),
            accounts: service_account::Issuer::new(config)?,
        })
    }
}

/// The user of a request; 401 for credentials that are wrong.
pub async fn authenticate(server: &Server, exchange: &mut Exchange) -> Result<UserInfo, ApiError> {
    let extensions = &mut exchange.head.extensions;
    if let Some(user) = extensions.remove::<UserInfo>() {
        return Ok(user);
    }
    let peer = extensions.get::<Peer>().cloned();
    if let Some(Peer(_, Some(proxy))) = &peer
        && let Some(user) = certificate::fronted(server, exchange.headers(), proxy)
    {
        return Ok(user);
    }
    if let Some(Peer(Some(user), _)) = &peer {
        return Ok((**user).clone());
    }
    match bearer(exchange) {
        Some(token) => match token_user(server, &token, &server.config.audiences(), exchange.now).await {
            Some(identified) => Ok(authenticated(identified.user)),
            None => Err(ApiError::unauthorized()),
        },
        None if may_be_anonymous(server, exchange) => Ok(UserInfo::anonymous()),
        None => Err(ApiError::unauthorized()),
    }
}

fn may_be_anonymous(server: &Server, exchange: &Exchange) -> bool {
    match &server.authenticator.issuers.anonymous {
        Some(anonymous) => anonymous.allows(&exchange.info.path),
        None => server.config.anonymous,
    }
}

/// A user that a token stands for, and the audiences it was found good for.
pub struct Identified {
    /// The user.
    pub user: UserInfo,
    /// The audiences, when the token is bound to some.
    pub audiences: Vec<String>,
}

/// The user of a bearer token.
pub async fn token_user(
    server: &Server,
    token: &str,
    audiences: &[String],
    now: jiff::Timestamp,
) -> Option<Identified> {
    let authenticator = &server.authenticator;
    if let Some(user) = authenticator.tokens.user(token) {
        return Some(Identified { user, audiences: audiences.to_vec() });
    }
    if let Some(found) = authenticator.accounts.verify(server, token, audiences, now) {
        return Some(found);
    }
    if server.config.bootstrap_tokens
        && let Some(user) = bootstrap::user(server, token, now)
    {
        return Some(Identified { user, audiences: audiences.to_vec() });
    }
    if let Some(found) = authenticator.issuers.verify(server, token, audiences, now).await {
        return Some(found);
    }
    match &authenticator.remote {
        Some(remote) => remote.user(server, token, audiences).await,
        None => None,
    }
}

/// The token of `Authorization: Bearer`, or of a WebSocket's subprotocol as browsers send it.
fn bearer(exchange: &Exchange) -> Option<String> {
    let header = exchange.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    if let Some((scheme, token)) = header.and_then(|text| text.trim().split_once(' '))
        && scheme.eq_ignore_ascii_case("bearer")
        && !token.trim().is_empty()
    {
        return Some(token.trim().to_owned());
    }
    let protocols = exchange.headers().get("sec-websocket-protocol")?.to_str().ok()?;
    let encoded =
        protocols.split(',').find_map(|p| p.trim().strip_prefix("base64url.bearer.authorization.k8s.io."))?;
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(encoded).ok()?;
    String::from_utf8(bytes).ok()
}

/// Adds the group of everyone who is known.
pub fn authenticated(mut user: UserInfo) -> UserInfo {
    if !user.in_group(AUTHENTICATED) && !user.in_group(UNAUTHENTICATED) {
        user.groups.push(AUTHENTICATED.to_owned());
    }
    user
}

impl Config {
    /// Audiences of this API: those configured, else the issuers.
    pub fn audiences(&self) -> Vec<String> {
        if self.audiences.is_empty() { self.issuers.clone() } else { self.audiences.clone() }
    }
}

/// Replaces the user by the one that `Impersonate-*` headers name, if the user may do that.
pub async fn impersonate(server: &Server, exchange: &mut Exchange) -> Result<(), ApiError> {
    let values = |name: &str| -> Vec<String> {
        exchange.headers().get_all(name).iter().filter_map(|v| v.to_str().ok().map(str::to_owned)).collect()
    };
    let name = values("impersonate-user").into_iter().next().unwrap_or_default();
    let (groups, uid) =
        (values("impersonate-group"), values("impersonate-uid").into_iter().next().unwrap_or_default());
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (header, value) in exchange.headers() {
        if let (Some(key), Ok(value)) = (header.as_str().strip_prefix("impersonate-extra-"), value.to_str()) {
            extra.entry(crate::request::percent_decode(key)).or_default().push(value.to_owned());
        }
    }
    if name.is_empty() {
        if groups.is_empty() && uid.is_empty() && extra.is_empty() {
            return Ok(());
        }
        let groups: Vec<String> = groups.iter().map(|group| api::validation::go_quote(group)).collect();
        let uid = api::validation::go_quote(&uid);
        return Err(ApiError::bad_request(format!(
            "requested &user.DefaultInfo{{Name:\"\", UID:{uid}, Groups:[]string{{{}}}, Extra:map[string][]string(nil)}} \
             without impersonating a user name",
            groups.join(", ")
        )));
    }
    for check in crate::authz::impersonation(&name, &groups, &uid, &extra) {
        crate::authz::require(server, &exchange.user, &check).await?;
    }
    exchange.user = impersonated(name, groups, uid, extra);
    for header in ["impersonate-user", "impersonate-group", "impersonate-uid"] {
        exchange.head.headers.remove(header);
    }
    Ok(())
}

fn impersonated(
    name: String,
    groups: Vec<String>,
    uid: String,
    extra: BTreeMap<String, Vec<String>>,
) -> UserInfo {
    let mut user = UserInfo { name, uid, groups, extra };
    if user.groups.is_empty()
        && let Some((namespace, account)) = user.as_service_account()
    {
        user.groups = UserInfo::service_account(namespace, account).groups;
    }
    if user.name == "system:anonymous" {
        if !user.in_group(UNAUTHENTICATED) {
            user.groups.push(UNAUTHENTICATED.to_owned());
        }
        return user;
    }
    authenticated(user)
}

/// Compares without telling by its timing where two secrets differ.
fn same_bytes(a: &[u8], b: &[u8]) -> bool {
    use sha2::{Digest, Sha256};
    // Digests of unequal secrets share no useful prefix.
    Sha256::digest(a) == Sha256::digest(b)
}
