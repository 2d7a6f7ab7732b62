//! Tokens of other issuers, as an AuthenticationConfiguration (or the older flags) describes them: keys are
//! fetched from the issuer, claims are held against rules and mapped to a user.

use std::sync::Arc;
use std::time::Duration;

use api::user::UserInfo;
use base::trust::{self, Trust};
use jiff::Timestamp;
use machinery::cel::{Activation, Budget, Env, Program, Type, Val};
use machinery::schema::Schema;
use parking_lot::Mutex;
use registry::tree::Tree;
use serde_json::{Value, json};

use super::{Identified, jwt};
use crate::config::Config;
use crate::server::Server;
use crate::sub::agent::Scheme;
use crate::webhook;

/// How often an issuer's keys are fetched at most.
const REFETCH: Duration = Duration::from_secs(10);
/// How long fetching may take.
const LIMIT: Duration = Duration::from_secs(10);
/// Clocks may differ so much, in seconds.
const LEEWAY_SECONDS: i64 = 10;

/// The issuers that are trusted, and who may come without credentials.
#[derive(Default)]
pub struct Issuers {
    issuers: Vec<Issuer>,
    /// Paths that anonymous requests may be for; `None` when the flag alone decides.
    pub anonymous: Option<Anonymous>,
}

/// Requests without credentials.
#[derive(Debug, PartialEq)]
pub struct Anonymous {
    enabled: bool,
    paths: Vec<String>,
}

impl Anonymous {
    /// Whether a request for a path may be anonymous.
    pub fn allows(&self, path: &str) -> bool {
        self.enabled && (self.paths.is_empty() || self.paths.iter().any(|own| own == path))
    }
}

struct Issuer {
    url: String,
    discovery: String,
    scheme: Scheme,
    audiences: Vec<String>,
    rules: Vec<ClaimRule>,
    user_rules: Vec<(Program, String)>,
    username: Mapping,
    groups: Option<Mapping>,
    uid: Option<Mapping>,
    extra: Vec<(String, Program)>,
    keys: Mutex<(Option<Duration>, Arc<Vec<jwt::PublicKey>>)>,
}

enum ClaimRule {
    Equal(String, String),
    Expression(Program, String),
}

enum Mapping {
    Claim(String, String),
    Expression(Program),
}

fn program(text: &str, variable: &str) -> Result<Program, String> {
    Program::compile(text, &Env::new().plain(variable, Type::Dyn))
        .map_err(|e| format!("compilation failed: {e}"))
}

impl Mapping {
    fn new(tree: &Value, place: &str) -> Result<Option<Mapping>, String> {
        match (tree.text("claim"), tree.text("expression")) {
            ("", "") => Ok(None),
            ("", expression) => Ok(Some(Mapping::Expression(
                program(expression, "claims").map_err(|why| format!("{place}.expression: {why}"))?,
            ))),
            (claim, "") => Ok(Some(Mapping::Claim(claim.to_owned(), tree.text("prefix").to_owned()))),
            _ => Err(format!("{place}: expression and claim cannot both be set")),
        }
    }

    /// The texts that it gives; `None` when the claim is absent or of no use.
    fn texts(&self, claims: &Value) -> Option<Vec<String>> {
        let (value, prefix) = match self {
            Mapping::Claim(name, prefix) => (claims.get(name)?.clone(), prefix.as_str()),
            Mapping::Expression(program) => (run(program, "claims", claims)?, ""),
        };
        let add = |text: &str| format!("{prefix}{text}");
        match value {
            Value::String(text) if text.is_empty() => Some(Vec::new()),
            Value::String(text) => Some(vec![add(&text)]),
            Value::Array(items) => items.iter().map(|item| item.as_str().map(add)).collect(),
            Value::Null => Some(Vec::new()),
            _ => None,
        }
    }
}

fn run(program: &Program, variable: &str, about: &Value) -> Option<Value> {
    let activation = Activation::new().with(variable, Val::json(about, Schema::Any));
    match program.eval(&activation, &mut Budget::default()) {
        Ok(value) => value.to_json(),
        Err(error) => {
            tracing::debug!(%error, expression = program.source(), "a claim expression failed");
            None
        }
    }
}

fn texts(tree: &Value, path: &str) -> Vec<String> {
    tree.list(path).iter().filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

impl Issuer {
    fn new(tree: &Value, place: &str, config: &Config) -> Result<Issuer, String> {
        let issuer = tree.at("issuer");
        let url = issuer.text("url").to_owned();
        if !url.starts_with("https://") {
            return Err(format!("{place}.issuer.url: Invalid value: {url:?}: URL scheme must be https"));
        }
        let ca = issuer.at("certificateAuthority").as_str().or(config.system_ca.as_deref());
        let ca = ca.ok_or_else(|| format!("{place}.issuer.certificateAuthority: Required value"))?;
        let tls =
            trust::client_config(Trust::Among(ca), None).map_err(|error| format!("{place}: {error}"))?;
        let mut rules = Vec::new();
        for (at, rule) in tree.list("claimValidationRules").iter().enumerate() {
            rules.push(match rule.text("expression") {
                "" => ClaimRule::Equal(rule.text("claim").to_owned(), rule.text("requiredValue").to_owned()),
                text => ClaimRule::Expression(
                    program(text, "claims")
                        .map_err(|why| format!("{place}.claimValidationRules[{at}].expression: {why}"))?,
                    rule.text("message").to_owned(),
                ),
            });
        }
        let mut user_rules = Vec::new();
        for (at, rule) in tree.list("userValidationRules").iter().enumerate() {
            let made = program(rule.text("expression"), "user")
                .map_err(|why| format!("{place}.userValidationRules[{at}].expression: {why}"))?;
            user_rules.push((made, rule.text("message").to_owned()));
        }
        let mapping = |field: &str| {
            let place = format!("{place}.claimMappings.{field}");
            Mapping::new(tree.at("claimMappings").at(field), &place)
        };
        let username = mapping("username")?;
        let username = username.ok_or_else(|| {
            format!("{place}.claimMappings.username: Required value: claim or expression is required")
        })?;
        let mut extra = Vec::new();
        for item in tree.list("claimMappings.extra") {
            let made = program(item.text("valueExpression"), "claims")
                .map_err(|why| format!("{place}.claimMappings.extra: {why}"))?;
            extra.push((item.text("key").to_owned(), made));
        }
        let discovery = match issuer.text("discoveryURL") {
            "" => format!("{}/.well-known/openid-configuration", url.trim_end_matches('/')),
            other => other.to_owned(),
        };
        Ok(Issuer {
            url,
            discovery,
            scheme: Scheme::Given(tls.into()),
            audiences: texts(issuer, "audiences"),
            rules,
            user_rules,
            username,
            groups: mapping("groups")?,
            uid: mapping("uid")?,
            extra,
            keys: Mutex::default(),
        })
    }

    /// The verified claims of a token.
    async fn claims(&self, server: &Server, token: &str) -> Option<Value> {
        let (fetched, keys) = self.keys.lock().clone();
        if let Some(claims) = jwt::verify(token, &keys) {
            return Some(claims);
        }
        let now = server.clock.monotonic();
        if fetched.is_some_and(|at| now.saturating_sub(at) < REFETCH) {
            return None;
        }
        self.keys.lock().0 = Some(now);
        match self.fetch(server).await {
            Ok(keys) => {
                let keys = Arc::new(keys);
                self.keys.lock().1 = keys.clone();
                jwt::verify(token, &keys)
            }
            Err(why) => {
                tracing::warn!(issuer = %self.url, %why, "the keys of an issuer cannot be fetched");
                None
            }
        }
    }

    async fn fetch(&self, server: &Server) -> Result<Vec<jwt::PublicKey>, String> {
        let get = async |url: &str| {
            let endpoint = webhook::at_url(url, "", self.scheme.clone())?;
            webhook::get(server, &endpoint, LIMIT).await
        };
        let document = get(&self.discovery).await?;
        if document.text("issuer") != self.url {
            return Err(format!("the document is of issuer {:?}", document.text("issuer")));
        }
        let set = get(document.text("jwks_uri")).await?;
        Ok(set.list("keys").iter().filter_map(jwt::PublicKey::from_jwk).collect())
    }

    /// The user of verified claims, or why there is none.
    fn user(&self, claims: &Value, now: Timestamp) -> Result<UserInfo, String> {
        let seconds = now.as_second();
        let expires = claims["exp"].as_i64().ok_or("the token has no expiry")?;
        if expires + LEEWAY_SECONDS < seconds {
            return Err("the token is expired".to_owned());
        }
        if claims["nbf"].as_i64().is_some_and(|at| at > seconds + LEEWAY_SECONDS) {
            return Err("the token is not valid yet".to_owned());
        }
        let given = match &claims["aud"] {
            Value::String(one) => vec![one.clone()],
            _ => texts(claims, "aud"),
        };
        if !given.iter().any(|audience| self.audiences.contains(audience)) {
            return Err(format!("expected one of the audiences {:?}, got {given:?}", self.audiences));
        }
        for rule in &self.rules {
            match rule {
                ClaimRule::Equal(claim, value) if claims[claim] == value.as_str() => {}
                ClaimRule::Equal(claim, _) => return Err(format!("claim {claim:?} has another value")),
                ClaimRule::Expression(program, message) => {
                    if run(program, "claims", claims) != Some(Value::Bool(true)) {
                        return Err(message.clone());
                    }
                }
            }
        }
        if matches!(&self.username, Mapping::Claim(name, _) if name == "email")
            && claims.get("email_verified").is_some_and(|verified| *verified != true)
        {
            return Err("the email is not verified".to_owned());
        }
        let single = |mapping: &Mapping| mapping.texts(claims).and_then(|all| all.into_iter().next());
        let mut user = UserInfo {
            name: single(&self.username).ok_or("the username claim is empty")?,
            uid: self.uid.as_ref().and_then(single).unwrap_or_default(),
            groups: match &self.groups {
                Some(mapping) => mapping.texts(claims).unwrap_or_default(),
                None => Vec::new(),
            },
            ..UserInfo::default()
        };
        for (key, program) in &self.extra {
            let values = match run(program, "claims", claims) {
                Some(Value::String(text)) if !text.is_empty() => vec![text],
                Some(Value::Array(items)) => {
                    items.iter().filter_map(|i| i.as_str().map(str::to_owned)).collect()
                }
                _ => Vec::new(),
            };
            if !values.is_empty() {
                user.extra.insert(key.clone(), values);
            }
        }
        let shown =
            json!({"username": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra});
        for (program, message) in &self.user_rules {
            if run(program, "user", &shown) != Some(Value::Bool(true)) {
                return Err(message.clone());
            }
        }
        Ok(user)
    }
}

impl Issuers {
    /// From the configuration; what is wrong with it.
    pub fn new(config: &Config) -> Result<Issuers, String> {
        let Some(text) = &config.authentication else { return Ok(Issuers::default()) };
        let document = machinery::codec::yaml::decode_first(text.as_bytes()).map_err(|e| e.to_string())?;
        let tree = document.value;
        if tree.text("kind") != "AuthenticationConfiguration" {
            return Err("it must be an AuthenticationConfiguration of apiserver.config.k8s.io".to_owned());
        }
        let mut issuers = Vec::new();
        for (at, issuer) in tree.list("jwt").iter().enumerate() {
            issuers.push(Issuer::new(issuer, &format!("jwt[{at}]"), config)?);
        }
        let anonymous = tree.at("anonymous");
        let anonymous = anonymous.is_object().then(|| Anonymous {
            enabled: anonymous.flag("enabled"),
            paths: anonymous.list("conditions").iter().map(|c| c.text("path").to_owned()).collect(),
        });
        Ok(Issuers { issuers, anonymous })
    }

    /// The user of a token, if one of the issuers made it and it is still good.
    pub async fn verify(
        &self,
        server: &Server,
        token: &str,
        audiences: &[String],
        now: Timestamp,
    ) -> Option<Identified> {
        if self.issuers.is_empty() {
            return None;
        }
        let named = jwt::peek(token)?["iss"].as_str()?.to_owned();
        let issuer = self.issuers.iter().find(|issuer| issuer.url == named)?;
        let claims = issuer.claims(server, token).await?;
        match issuer.user(&claims, now) {
            Ok(user) => Some(Identified { user, audiences: audiences.to_vec() }),
            Err(why) => {
                tracing::debug!(issuer = %issuer.url, %why, "a token is refused");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_become_users() {
        let text = r#"
apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
jwt:
- issuer: {url: "https://id.x", audiences: [me]}
  claimValidationRules:
  - {claim: hd, requiredValue: x.io}
  - {expression: "claims.exp - claims.iat <= 3600", message: "lives too long"}
  claimMappings:
    username: {expression: "'oidc:' + claims.sub"}
    groups: {claim: roles, prefix: "oidc:"}
    extra: [{key: "x.io/tenant", valueExpression: "claims.tenant"}]
  userValidationRules:
  - {expression: "!user.username.startsWith('system:')", message: "reserved"}
anonymous: {enabled: true, conditions: [{path: /livez}]}
"#;
        let rng = base::Rng::seeded(1);
        let ca =
            base::pki::Ca::new("ca", Timestamp::UNIX_EPOCH, Duration::from_secs(3600), &rng).expect("a CA");
        let config = Config {
            authentication: Some(text.to_owned()),
            system_ca: Some(ca.identity().cert.clone()),
            ..Config::default()
        };
        let issuers = Issuers::new(&config).expect("sound");
        let anonymous = issuers.anonymous.as_ref().expect("configured");
        assert!(anonymous.allows("/livez") && !anonymous.allows("/api"));
        let issuer = &issuers.issuers[0];
        let good = json!({"sub": "jane", "aud": ["me"], "hd": "x.io", "iat": 0, "exp": 3600, "roles": ["a"], "tenant": "t"});
        let now = Timestamp::UNIX_EPOCH;
        let user = issuer.user(&good, now).expect("a user");
        assert_eq!((user.name.as_str(), &user.groups[..]), ("oidc:jane", &["oidc:a".to_owned()][..]));
        assert_eq!(user.extra["x.io/tenant"], ["t"]);
        for (field, value, why) in [
            ("aud", json!("you"), "expected one of the audiences"),
            ("hd", json!("y.io"), "claim \"hd\" has another value"),
            ("exp", json!(7200), "lives too long"),
            ("exp", json!(-60), "the token is expired"),
            ("sub", json!(1), "the username claim is empty"),
        ] {
            let mut bad = good.clone();
            bad[field] = value;
            let error = issuer.user(&bad, now).expect_err(field);
            assert!(error.starts_with(why), "{error}");
        }
    }
}
