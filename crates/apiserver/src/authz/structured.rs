//! Authorizers as an AuthorizationConfiguration describes them (KEP-3221): their order, and webhooks with conditions
//! under which they are asked. It must not know requests.

use std::collections::HashSet;
use std::time::Duration;

use api::names;
use api::user::UserInfo;
use api::validation::{ErrorList, FieldError, Path};
use machinery::cel::{Activation, Budget, Env, Program, Type, Val};
use machinery::codec::scalar::parse_duration;
use machinery::schema::{Schema, facts};
use registry::tree::Tree;
use serde_json::Value;

use super::{Attributes, Mode};
use crate::config::Config;
use crate::remote::{self, Rights, Terms};
use crate::server::Server;

/// Conditions of one webhook.
const CONDITIONS: usize = 64;
/// The longest time that a webhook may be given.
const LIMIT: Duration = Duration::from_secs(30);
/// What conditions are about.
const QUESTION: &str = "io.k8s.api.authorization.v1.SubjectAccessReviewSpec";
/// The types of authorizers, sorted; all but the webhook may stand once.
const TYPES: [&str; 5] = ["AlwaysAllow", "AlwaysDeny", "Node", "RBAC", "Webhook"];

/// An authorizer elsewhere, when it is asked and what its silence means.
pub struct Hook {
    rights: Rights,
    terms: Terms,
    /// A failure refuses, instead of leaving the decision to the next.
    closed: bool,
    conditions: Vec<Program>,
}

impl Hook {
    /// A webhook without conditions, as the older flags describe it.
    pub fn plain(rights: Rights) -> Hook {
        Hook { rights, terms: Terms::default(), closed: false, conditions: Vec::new() }
    }

    /// Allowed, refused for good, or (`None`) no opinion; and why.
    pub async fn decide(
        &self,
        server: &Server,
        user: &UserInfo,
        what: &Attributes,
    ) -> (Option<bool>, String) {
        let asked = match self.applies(user, what) {
            Ok(false) => return (None, String::new()),
            Ok(true) => self.rights.decide(server, user, what, &self.terms).await,
            Err(why) => Err(why),
        };
        asked.unwrap_or_else(|why| {
            tracing::warn!(%why, "the authorization webhook gives no answer");
            (self.closed.then_some(false), String::new())
        })
    }

    /// Whether the conditions hold: one that is false decides, whatever the others do.
    fn applies(&self, user: &UserInfo, what: &Attributes) -> Result<bool, String> {
        if self.conditions.is_empty() {
            return Ok(true);
        }
        let question = remote::question(user, what);
        let activation = Activation::new().with("request", Val::json(&question, question_schema()));
        let mut failed = Vec::new();
        for condition in &self.conditions {
            match condition.eval_bool(&activation, &mut Budget::default()) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(error) => failed.push(format!("{:?}: {error}", condition.source())),
            }
        }
        if failed.is_empty() { Ok(true) } else { Err(failed.join(", ")) }
    }
}

fn question_schema() -> Schema<'static> {
    facts().by_name(QUESTION).map_or(Schema::Any, Schema::Type)
}

/// Reads a configuration: the order, and the webhooks that it speaks of. All that is wrong with it otherwise.
pub fn read(text: &str, config: &Config) -> Result<(Vec<Mode>, Vec<Hook>), String> {
    let document = machinery::codec::yaml::decode_first(text.as_bytes()).map_err(|e| e.to_string())?;
    let tree = document.value;
    if tree.text("kind") != "AuthorizationConfiguration"
        || !tree.text("apiVersion").starts_with("apiserver.config.k8s.io/")
    {
        return Err("it must be an AuthorizationConfiguration of apiserver.config.k8s.io/v1".to_owned());
    }
    let (mut errors, mut modes, mut hooks) = (ErrorList::new(), Vec::new(), Vec::new());
    let list = tree.list("authorizers");
    if list.is_empty() {
        let why = "at least one authorization mode must be defined";
        errors.push(FieldError::required(&Path::new("authorizers"), why));
    }
    let (mut types, mut known) = (HashSet::new(), HashSet::new());
    for (index, entry) in list.iter().enumerate() {
        let path = Path::new("authorizers").index(index);
        let kind = entry.text("type");
        let at = path.child("type");
        let fault = match kind {
            "" => Some(FieldError::required(&at, "")),
            _ if !TYPES.contains(&kind) => Some(FieldError::not_supported(&at, kind, &TYPES)),
            _ if !types.insert(kind) && kind != "Webhook" => Some(FieldError::duplicate(&at, kind)),
            _ => None,
        };
        if let Some(fault) = fault {
            errors.push(fault);
            continue;
        }
        name(entry.text("name"), &path.child("name"), &mut known, &mut errors);
        let webhook = entry.at("webhook");
        if kind != "Webhook" {
            if !webhook.is_null() {
                let why = "may only be specified when type=Webhook";
                errors.push(FieldError::invalid(&path.child("webhook"), "non-null", why));
            }
            modes.extend(Mode::parse(kind, 0));
        } else if webhook.is_null() {
            errors.push(FieldError::required(&path.child("webhook"), "required when type=Webhook"));
        } else if let Some(hook) = hook(webhook, &path, config, &mut errors) {
            modes.push(Mode::Webhook(hooks.len()));
            hooks.push(hook);
        }
    }
    if errors.is_empty() { Ok((modes, hooks)) } else { Err(errors.aggregate()) }
}

fn name<'a>(name: &'a str, path: &Path, known: &mut HashSet<&'a str>, errors: &mut ErrorList) {
    let wrong = names::dns1123_subdomain(name);
    if name.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else if !known.insert(name) {
        errors.push(FieldError::duplicate(path, name));
    } else if !wrong.is_empty() {
        let why = format!("authorizer name is invalid: {}", wrong.join(", "));
        errors.push(FieldError::invalid(path, name, why));
    }
}

/// A webhook's settings; `None` when one of them is wrong, which stands in `errors`.
fn hook(tree: &Value, path: &Path, config: &Config, errors: &mut ErrorList) -> Option<Hook> {
    let before = errors.0.len();
    let timeout = duration(tree, "timeout", None, path, errors);
    if timeout > LIMIT {
        let why = "must be > 0s and <= 30s";
        errors.push(FieldError::invalid(&path.child("timeout"), tree.text("timeout"), why));
    }
    let allowed = duration(tree, "authorizedTTL", Some(remote::ALLOWED), path, errors);
    let refused = duration(tree, "unauthorizedTTL", Some(remote::REFUSED), path, errors);
    let kept = |flag: &str| tree.at(flag).as_bool().unwrap_or(true);
    let terms = Terms {
        limit: timeout,
        allowed: kept("cacheAuthorizedRequests").then_some(allowed),
        refused: kept("cacheUnauthorizedRequests").then_some(refused),
        beta: tree.text("subjectAccessReviewVersion") == "v1beta1",
    };
    choice(tree, "subjectAccessReviewVersion", &["v1", "v1beta1"], path, errors);
    choice(tree, "failurePolicy", &["NoOpinion", "Deny"], path, errors);
    let conditions = conditions(tree, path, errors);
    let rights = connection(tree.at("connectionInfo"), &path.child("connectionInfo"), config, errors)?;
    let closed = tree.text("failurePolicy") == "Deny";
    (errors.0.len() == before).then_some(Hook { rights, terms, closed, conditions })
}

fn choice(tree: &Value, field: &str, allowed: &[&str], path: &Path, errors: &mut ErrorList) {
    match tree.text(field) {
        "" => errors.push(FieldError::required(&path.child(field), "")),
        text if allowed.contains(&text) => {}
        text => errors.push(FieldError::not_supported(&path.child(field), text, allowed)),
    }
}

/// A positive Go duration, or what stands for it when it is absent; without that it is required.
fn duration(
    tree: &Value,
    field: &str,
    absent: Option<Duration>,
    path: &Path,
    errors: &mut ErrorList,
) -> Duration {
    let (text, at) = (tree.text(field), path.child(field));
    let nanos = match (text, absent) {
        ("", Some(absent)) => return absent,
        ("", None) => Ok(0),
        _ => parse_duration(text),
    };
    match nanos {
        Ok(0) => errors.push(FieldError::required(&at, "")),
        Ok(nanos) if nanos < 0 => errors.push(FieldError::invalid(&at, text, "must be > 0s")),
        Ok(nanos) => return Duration::from_nanos(nanos.unsigned_abs()),
        Err(why) => errors.push(FieldError::invalid(&at, text, why)),
    }
    Duration::ZERO
}

fn conditions(tree: &Value, path: &Path, errors: &mut ErrorList) -> Vec<Program> {
    let list = tree.list("matchConditions");
    let at = path.child("matchConditions");
    if list.len() > CONDITIONS {
        errors.push(FieldError::too_many(&at, list.len(), CONDITIONS));
        return Vec::new();
    }
    if !list.is_empty() {
        let version = path.child("matchConditionSubjectAccessReviewVersion");
        match tree.text("matchConditionSubjectAccessReviewVersion") {
            "" => errors.push(FieldError::required(&version, "required if match conditions are specified")),
            "v1" => {}
            text => errors.push(FieldError::not_supported(&version, text, &["v1"])),
        }
    }
    let env = Env::new().schema("request", question_schema());
    let (mut seen, mut programs) = (HashSet::new(), Vec::new());
    for (index, condition) in list.iter().enumerate() {
        let (at, text) = (at.index(index).child("expression"), condition.text("expression"));
        if text.trim().is_empty() {
            errors.push(FieldError::required(&at, ""));
            continue;
        }
        if !seen.insert(text) {
            errors.push(FieldError::duplicate(&at, text));
            continue;
        }
        match Program::compile(text, &env) {
            Ok(program) if matches!(program.result_type(), Type::Bool | Type::Dyn) => programs.push(program),
            Ok(_) => errors.push(FieldError::invalid(&at, text, "must evaluate to bool")),
            Err(why) => errors.push(FieldError::invalid(&at, text, format!("compilation failed: {why}"))),
        }
    }
    programs
}

/// Where the webhook is.
fn connection(tree: &Value, path: &Path, config: &Config, errors: &mut ErrorList) -> Option<Rights> {
    let (kind, file) = (tree.text("type"), tree.text("kubeConfigFile"));
    let (kind_path, file_path) = (path.child("type"), path.child("kubeConfigFile"));
    let fault = match kind {
        "" => FieldError::required(&kind_path, ""),
        "KubeConfigFile" if file.is_empty() => FieldError::required(&file_path, ""),
        "KubeConfigFile" if !file.starts_with('/') => {
            FieldError::invalid(&file_path, file, "must be an absolute path")
        }
        "KubeConfigFile" => {
            let text = std::fs::read_to_string(file).map_err(|error| format!("error loading file: {error}"));
            match text.and_then(|text| Rights::from_kubeconfig(&text, config.system_ca.as_deref())) {
                Ok(rights) => return Some(rights),
                Err(why) => FieldError::invalid(&file_path, file, why),
            }
        }
        "InClusterConfig" => {
            let why = "the server cannot ask itself: use KubeConfigFile";
            FieldError::invalid(&kind_path, kind, why)
        }
        other => FieldError::not_supported(&kind_path, other, &["InClusterConfig", "KubeConfigFile"]),
    };
    errors.push(fault);
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const KUBECONFIG: &str = "current-context: c\ncontexts: [{name: c, context: {cluster: k, user: u}}]\n\
        clusters: [{name: k, cluster: {server: 'http://127.0.0.1:1/'}}]\nusers: [{name: u, user: {}}]\n";

    fn text(authorizers: &str) -> String {
        format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers: {authorizers}\n"
        )
    }

    fn webhook(file: &std::path::Path, more: &str) -> String {
        let connection =
            format!("connectionInfo: {{type: KubeConfigFile, kubeConfigFile: '{}'}}", file.display());
        let rest = "timeout: 3s, subjectAccessReviewVersion: v1, failurePolicy: Deny";
        format!("{{type: Webhook, name: hook, webhook: {{{connection}, {rest}{more}}}}}")
    }

    #[test]
    fn order_and_conditions_are_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("config");
        std::fs::write(&file, KUBECONFIG).expect("written");
        let more = ", matchConditionSubjectAccessReviewVersion: v1, matchConditions: [\
            {expression: \"has(request.resourceAttributes)\"}, \
            {expression: \"request.resourceAttributes.namespace == 'shop'\"}]";
        let all = format!("[{{type: Node, name: node}}, {}, {{type: RBAC, name: r}}]", webhook(&file, more));
        let (modes, hooks) = read(&text(&all), &Config::default()).expect("sound");
        assert_eq!(modes, [Mode::Node, Mode::Webhook(0), Mode::Rbac]);
        let hook = &hooks[0];
        assert!(hook.closed && hook.terms.limit == Duration::from_secs(3));
        assert_eq!(hook.terms.allowed, Some(remote::ALLOWED));
        let user = UserInfo::component("jane", &[]);
        let about = |namespace: &str| Attributes::resource("get", "", "pods", namespace, "");
        assert_eq!(hook.applies(&user, &about("shop")), Ok(true));
        assert_eq!(hook.applies(&user, &about("other")), Ok(false));
        let path = Attributes { path: "/healthz".to_owned(), ..Attributes::default() };
        assert_eq!(hook.applies(&user, &path), Ok(false), "the first condition decides, the second fails");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let missing = webhook(std::path::Path::new("/nowhere/config"), "");
        let cases = [
            ("[]", "authorizers: Required value: at least one authorization mode must be defined"),
            ("[{name: a}]", "authorizers[0].type: Required value"),
            ("[{type: ABC, name: a}]", "authorizers[0].type: Unsupported value: \"ABC\""),
            (
                "[{type: RBAC, name: a}, {type: RBAC, name: b}]",
                "authorizers[1].type: Duplicate value: \"RBAC\"",
            ),
            ("[{type: RBAC}]", "authorizers[0].name: Required value"),
            ("[{type: RBAC, name: a}, {type: Node, name: a}]", "authorizers[1].name: Duplicate value: \"a\""),
            ("[{type: RBAC, name: a, webhook: {}}]", "may only be specified when type=Webhook"),
            (
                "[{type: Webhook, name: a}]",
                "authorizers[0].webhook: Required value: required when type=Webhook",
            ),
            ("[{type: Webhook, name: a, webhook: {timeout: 1m}}]", "must be > 0s and <= 30s"),
            (
                "[{type: Webhook, name: a, webhook: {timeout: 1s}}]",
                "authorizers[0].failurePolicy: Required value",
            ),
            (&missing, "authorizers: Required value"),
            (&format!("[{missing}]"), "error loading file"),
            (
                "[{type: Webhook, name: a, webhook: {matchConditions: [{expression: 'request.user'}]}}]",
                "authorizers[0].matchConditions[0].expression: Invalid value: \"request.user\": must evaluate to bool",
            ),
        ];
        for (given, wanted) in cases {
            let error = read(&text(given), &Config::default()).err().expect(given);
            assert!(error.contains(wanted), "{given}: {error}");
        }
    }
}
