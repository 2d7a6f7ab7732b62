//! Authenticators and authorizers elsewhere: webhooks described by a kubeconfig, asked with TokenReviews and
//! SubjectAccessReviews, their answers kept for a while.

use std::collections::HashMap;
use std::time::Duration;

use api::user::UserInfo;
use base::trust::{self, Trust};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use registry::tree::Tree;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::authn::Identified;
use crate::authz::Attributes;
use crate::server::Server;
use crate::sub::agent::Scheme;
use crate::webhook::{self, Endpoint};

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(30);
/// How long tokens are remembered, as upstream.
const TOKENS: Duration = Duration::from_secs(120);
/// How long permissions are remembered, when nothing else is said.
pub const ALLOWED: Duration = Duration::from_secs(300);
/// How long refusals are remembered, when nothing else is said.
pub const REFUSED: Duration = Duration::from_secs(30);
/// Answers that are remembered.
const KEPT: usize = 10_000;

/// How an authorizer elsewhere is asked.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// How long an answer may take.
    pub limit: Duration,
    /// How long permissions are remembered; `None`: not at all.
    pub allowed: Option<Duration>,
    /// How long refusals are remembered.
    pub refused: Option<Duration>,
    /// The review is of v1beta1.
    pub beta: bool,
}

impl Default for Terms {
    fn default() -> Self {
        Terms { limit: LIMIT, allowed: Some(ALLOWED), refused: Some(REFUSED), beta: false }
    }
}

/// A digest of what was asked.
type Question = [u8; 32];

/// A webhook and what it said lately.
pub struct Remote<T> {
    url: String,
    scheme: Scheme,
    bearer: Option<String>,
    answers: Mutex<HashMap<Question, (Duration, T)>>,
}

/// Inline data, or the file that a key names.
fn material(tree: &Value, key: &str) -> Result<Option<String>, String> {
    let inline = tree.text(&format!("{key}-data"));
    if !inline.is_empty() {
        let bytes = STANDARD.decode(inline).map_err(|error| format!("{key}-data: {error}"))?;
        return String::from_utf8(bytes).map(Some).map_err(|error| format!("{key}-data: {error}"));
    }
    match tree.text(key) {
        "" => Ok(None),
        path => std::fs::read_to_string(path).map(Some).map_err(|error| format!("{key} {path}: {error}")),
    }
}

impl<T: Clone> Remote<T> {
    /// Of the current context of a kubeconfig.
    pub fn from_kubeconfig(text: &str, system_ca: Option<&str>) -> Result<Remote<T>, String> {
        let document = machinery::codec::yaml::decode_first(text.as_bytes()).map_err(|e| e.to_string())?;
        let tree = document.value;
        let named = |list: &str, name: &str, part: &str| -> Value {
            let found = tree.list(list).iter().find(|item| item.text("name") == name);
            found.map_or(Value::Null, |item| item.at(part).clone())
        };
        let context = named("contexts", tree.text("current-context"), "context");
        let cluster = named("clusters", context.text("cluster"), "cluster");
        let user = named("users", context.text("user"), "user");
        let url = cluster.text("server").to_owned();
        if url.is_empty() {
            return Err("the current context names no server".to_owned());
        }
        let scheme = if url.starts_with("http://") {
            Scheme::Http
        } else {
            let ca = material(&cluster, "certificate-authority")?.or_else(|| system_ca.map(str::to_owned));
            let ca = ca.ok_or("the cluster names no certificate authority")?;
            let cert = material(&user, "client-certificate")?.zip(material(&user, "client-key")?);
            let identity = cert.map(|(cert, key)| base::pki::Identity { cert, key });
            let identity = identity.as_ref().map(base::pki::LiveIdentity::new).transpose();
            let identity = identity.map_err(|error| error.to_string())?;
            let config = trust::client_config(Trust::Among(&ca), identity.as_ref())
                .map_err(|error| error.to_string())?;
            Scheme::Given(config.into())
        };
        let bearer = Some(user.text("token").to_owned()).filter(|token| !token.is_empty());
        Ok(Remote { url, scheme, bearer, answers: Mutex::default() })
    }

    fn endpoint(&self) -> Result<Endpoint, String> {
        let endpoint = webhook::at_url(&self.url, "", self.scheme.clone())?;
        Ok(endpoint.with_bearer(self.bearer.clone()))
    }

    fn known(&self, server: &Server, question: &Question) -> Option<T> {
        let answers = self.answers.lock();
        let (until, answer) = answers.get(question)?;
        (*until > server.clock.monotonic()).then(|| answer.clone())
    }

    fn keep(&self, server: &Server, question: Question, answer: &T, life: Duration) {
        let (now, mut answers) = (server.clock.monotonic(), self.answers.lock());
        if answers.len() >= KEPT {
            answers.retain(|_, (until, _)| *until > now);
        }
        if answers.len() < KEPT {
            answers.insert(question, (now + life, answer.clone()));
        }
    }
}

/// An authenticator elsewhere.
pub type Tokens = Remote<Option<UserInfo>>;
/// An authorizer elsewhere: allowed, refused for good, or (`None`) no opinion.
pub type Rights = Remote<(Option<bool>, String)>;

fn texts(tree: &Value, path: &str) -> Vec<String> {
    tree.list(path).iter().filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

impl Tokens {
    /// The user of a token.
    pub async fn user(&self, server: &Server, token: &str, audiences: &[String]) -> Option<Identified> {
        let question: Question = Sha256::digest(format!("{token}\0{}", audiences.join("\0"))).into();
        let found = match self.known(server, &question) {
            Some(found) => found,
            None => {
                let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
                    "metadata": {}, "spec": {"token": token, "audiences": audiences}});
                let asked = match self.endpoint() {
                    Ok(endpoint) => webhook::post(server, &endpoint, &review, LIMIT).await,
                    Err(why) => Err(why),
                };
                let status = match asked {
                    Ok(answer) => answer.at("status").clone(),
                    Err(why) => {
                        tracing::warn!(%why, "the token webhook gives no answer");
                        return None;
                    }
                };
                let user = status.flag("authenticated").then(|| UserInfo {
                    name: status.text("user.username").to_owned(),
                    uid: status.text("user.uid").to_owned(),
                    groups: texts(&status, "user.groups"),
                    extra: serde_json::from_value(status.at("user.extra").clone()).unwrap_or_default(),
                });
                self.keep(server, question, &user, TOKENS);
                user
            }
        };
        found.map(|user| Identified { user, audiences: audiences.to_vec() })
    }
}

impl Rights {
    /// The webhook's opinion, or why it has not been told.
    pub async fn decide(
        &self,
        server: &Server,
        user: &UserInfo,
        what: &Attributes,
        terms: &Terms,
    ) -> Result<(Option<bool>, String), String> {
        let review = review(question(user, what), terms.beta);
        let question: Question = Sha256::digest(review.to_string()).into();
        if let Some(known) = self.known(server, &question) {
            return Ok(known);
        }
        let answer = webhook::post(server, &self.endpoint()?, &review, terms.limit).await?;
        let status = answer.at("status");
        let verdict = match (status.flag("allowed"), status.flag("denied")) {
            (true, false) => Some(true),
            (false, true) => Some(false),
            (false, false) => None,
            (true, true) => return Err("the answer allows and denies at once".to_owned()),
        };
        let answer = (verdict, status.text("reason").to_owned());
        let life = if verdict == Some(true) { terms.allowed } else { terms.refused };
        if let Some(life) = life {
            self.keep(server, question, &answer, life);
        }
        Ok(answer)
    }
}

/// The `spec` of a SubjectAccessReview.
pub fn question(user: &UserInfo, what: &Attributes) -> Value {
    let mut spec = json!({"user": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        spec["uid"] = json!(user.uid);
    }
    if !user.extra.is_empty() {
        spec["extra"] = json!(user.extra);
    }
    if !what.is_resource {
        spec["nonResourceAttributes"] = json!({"path": what.path, "verb": what.verb});
        return spec;
    }
    let mut resource = json!({});
    for (key, text) in [
        ("namespace", &what.namespace),
        ("verb", &what.verb),
        ("group", &what.group),
        ("version", &what.version),
        ("resource", &what.resource),
        ("subresource", &what.subresource),
        ("name", &what.name),
    ] {
        if !text.is_empty() {
            resource[key] = text.as_str().into();
        }
    }
    for (key, requirements) in
        [("fieldSelector", fields(&what.field_selector)), ("labelSelector", labels(&what.label_selector))]
    {
        if !requirements.is_empty() {
            resource[key] = json!({"requirements": requirements});
        }
    }
    spec["resourceAttributes"] = resource;
    spec
}

/// The requirements of a field selector; of one that cannot be read, none.
fn fields(text: &str) -> Vec<Value> {
    let selector = api::fields::Selector::parse(text).unwrap_or_default();
    let one = |r: &api::fields::Requirement| {
        let operator = if r.equal { "In" } else { "NotIn" };
        json!({"key": r.field, "operator": operator, "values": [r.value]})
    };
    selector.0.iter().map(one).collect()
}

/// The requirements of a label selector that reviews can tell of; of one that cannot be read, none.
fn labels(text: &str) -> Vec<Value> {
    use api::labels::Operator;
    let selector = api::labels::Selector::parse(text).unwrap_or_default();
    let one = |r: &api::labels::Requirement| match r.operator {
        Operator::In => Some(json!({"key": r.key, "operator": "In", "values": r.values})),
        Operator::NotIn => Some(json!({"key": r.key, "operator": "NotIn", "values": r.values})),
        Operator::Exists => Some(json!({"key": r.key, "operator": "Exists"})),
        Operator::DoesNotExist => Some(json!({"key": r.key, "operator": "DoesNotExist"})),
        Operator::GreaterThan | Operator::LessThan => None,
    };
    selector.requirements.iter().filter_map(one).collect()
}

/// The review that asks it; v1beta1 has another name for the groups.
fn review(mut spec: Value, beta: bool) -> Value {
    if beta && let Some(map) = spec.as_object_mut() {
        let groups = map.remove("groups").unwrap_or_default();
        map.insert("group".to_owned(), groups);
    }
    let version = if beta { "v1beta1" } else { "v1" };
    json!({"apiVersion": format!("authorization.k8s.io/{version}"), "kind": "SubjectAccessReview",
        "metadata": {}, "spec": spec})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubeconfigs_tell_where_to_ask() {
        let text = "current-context: c\ncontexts: [{name: c, context: {cluster: k, user: u}}]\nclusters: [{name: k, cluster: {server: 'http://127.0.0.1:1/x'}}]\nusers: [{name: u, user: {token: t}}]\n";
        let remote = Tokens::from_kubeconfig(text, None).expect("sound");
        assert_eq!((remote.url.as_str(), remote.bearer.as_deref()), ("http://127.0.0.1:1/x", Some("t")));
        assert!(Tokens::from_kubeconfig("current-context: c", None).is_err());
        let user = UserInfo::component("jane", &[]);
        let mut what = Attributes::resource("list", "apps", "deployments", "n", "");
        what.field_selector = "metadata.name!=a".to_owned();
        what.label_selector = "app in (b,c),!old".to_owned();
        let spec = question(&user, &what);
        let resource = &spec["resourceAttributes"];
        assert_eq!(resource["resource"], "deployments");
        assert_eq!(
            resource["fieldSelector"]["requirements"],
            json!([{"key": "metadata.name", "operator": "NotIn", "values": ["a"]}])
        );
        assert_eq!(
            resource["labelSelector"]["requirements"],
            json!([{"key": "app", "operator": "In", "values": ["b", "c"]}, {"key": "old", "operator": "DoesNotExist"}])
        );
        let beta = review(spec, true);
        assert!(beta["spec"].get("groups").is_none() && beta["spec"]["group"].is_array());
    }
}
