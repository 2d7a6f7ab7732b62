//! What a user may do: system:masters, the Node authorizer, RBAC; and the words of a refusal.

pub mod bootstrap;
mod node;
pub use node::node_name;
pub mod rbac;
pub mod reconcile;
mod structured;

use std::collections::BTreeMap;

use api::ApiError;
use api::error::Reason;
use api::user::UserInfo;

use crate::config::Config;
use crate::request::RequestInfo;
use crate::server::{Exchange, Server};

/// What a decision is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// True for resources, false for other paths.
    pub is_resource: bool,
    /// The verb.
    pub verb: String,
    /// API group.
    pub group: String,
    /// API version.
    pub version: String,
    /// Resource.
    pub resource: String,
    /// Subresource.
    pub subresource: String,
    /// Namespace.
    pub namespace: String,
    /// Object name.
    pub name: String,
    /// Path, when not a resource.
    pub path: String,
    /// The field selector's text.
    pub field_selector: String,
    /// The label selector's text.
    pub label_selector: String,
}

impl Attributes {
    /// Of a request.
    pub fn of(info: &RequestInfo) -> Attributes {
        Attributes {
            is_resource: info.is_resource,
            verb: info.verb.clone(),
            group: info.group.clone(),
            version: info.version.clone(),
            resource: info.resource.clone(),
            subresource: info.subresource.clone(),
            namespace: info.namespace.clone(),
            name: info.name.clone(),
            path: info.path.clone(),
            field_selector: String::new(),
            label_selector: String::new(),
        }
    }

    /// A question about a resource.
    pub fn resource(verb: &str, group: &str, resource: &str, namespace: &str, name: &str) -> Attributes {
        Attributes {
            is_resource: true,
            verb: verb.to_owned(),
            group: group.to_owned(),
            version: "v1".to_owned(),
            resource: resource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..Attributes::default()
        }
    }

    fn combined(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }
}

/// The answer of the authorizers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Allowed.
    pub allowed: bool,
    /// Why, when there is more to say.
    pub reason: String,
}

impl Decision {
    fn of(allowed: bool, reason: String) -> Decision {
        Decision { allowed, reason }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Node,
    Rbac,
    AlwaysAllow,
    AlwaysDeny,
    /// The webhook with this number.
    Webhook(usize),
}

impl Mode {
    /// By the name that flags and configurations use.
    fn parse(name: &str, hook: usize) -> Option<Mode> {
        match name {
            "Node" => Some(Mode::Node),
            "RBAC" => Some(Mode::Rbac),
            "AlwaysAllow" => Some(Mode::AlwaysAllow),
            "AlwaysDeny" => Some(Mode::AlwaysDeny),
            "Webhook" => Some(Mode::Webhook(hook)),
            _ => None,
        }
    }
}

/// The configured authorizers.
pub struct Authorizer {
    modes: Vec<Mode>,
    /// RBAC's view of roles and bindings.
    pub rbac: rbac::Cache,
    hooks: Vec<structured::Hook>,
}

impl Authorizer {
    /// From `--authorization-config`, or `--authorization-mode`.
    pub fn new(config: &Config) -> Result<Authorizer, ApiError> {
        let rbac = rbac::Cache::default();
        if let Some(text) = &config.authorization {
            let read = structured::read(text, config);
            let (modes, hooks) =
                read.map_err(|why| ApiError::internal(format!("the authorization configuration: {why}")))?;
            return Ok(Authorizer { modes, rbac, hooks });
        }
        let hook = config.authorization_webhook.as_ref().map(|text| {
            crate::remote::Rights::from_kubeconfig(text, config.system_ca.as_deref())
                .map(structured::Hook::plain)
                .map_err(|why| ApiError::internal(format!("the authorization webhook's kubeconfig: {why}")))
        });
        let modes = config.authorizers.iter().filter_map(|name| Mode::parse(name, 0)).collect();
        Ok(Authorizer { modes, rbac, hooks: hook.transpose()?.into_iter().collect() })
    }

    /// A write to this resource happened.
    pub fn note(&self, resource: &str) {
        if resource.starts_with("rbac.authorization.k8s.io/") {
            self.rbac.stale();
        }
    }

    /// Decides by what is known here; webhooks are not asked.
    pub fn decide(&self, server: &Server, user: &UserInfo, attributes: &Attributes) -> Decision {
        if user.in_group("system:masters") {
            return Decision::of(true, String::new());
        }
        let mut reasons = Vec::new();
        for mode in &self.modes {
            match here(*mode, server, user, attributes) {
                Ok(reason) => return Decision::of(true, reason),
                Err(reason) => reasons.extend(Some(reason).filter(|reason| !reason.is_empty())),
            }
        }
        Decision::of(false, reasons.join("\n"))
    }

    /// Decides, asking webhooks where they stand in the order.
    pub async fn ask(&self, server: &Server, user: &UserInfo, attributes: &Attributes) -> Decision {
        if self.hooks.is_empty() {
            return self.decide(server, user, attributes);
        }
        if user.in_group("system:masters") {
            return Decision::of(true, String::new());
        }
        let mut reasons = Vec::new();
        for mode in &self.modes {
            let hook = if let Mode::Webhook(number) = mode { self.hooks.get(*number) } else { None };
            let verdict = match hook {
                Some(hook) => match hook.decide(server, user, attributes).await {
                    (Some(false), reason) => return Decision::of(false, reason),
                    (Some(true), reason) => Ok(reason),
                    (None, reason) => Err(reason),
                },
                None => here(*mode, server, user, attributes),
            };
            match verdict {
                Ok(reason) => return Decision::of(true, reason),
                Err(reason) => reasons.extend(Some(reason).filter(|reason| !reason.is_empty())),
            }
        }
        Decision::of(false, reasons.join("\n"))
    }
}

/// What one of the authorizers here says.
fn here(mode: Mode, server: &Server, user: &UserInfo, attributes: &Attributes) -> Result<String, String> {
    match mode {
        Mode::AlwaysAllow => Ok(String::new()),
        Mode::AlwaysDeny => Err("Everything is forbidden.".to_owned()),
        Mode::Node => node::decide(server, user, attributes),
        Mode::Rbac => server.authorizer.rbac.decide(server, user, attributes),
        Mode::Webhook(_) => Err(String::new()),
    }
}

/// Lets a request pass or refuses it with 403.
pub async fn authorize(server: &Server, exchange: &Exchange) -> Result<(), ApiError> {
    let mut attributes = Attributes::of(&exchange.info);
    attributes.field_selector = exchange.query.text("fieldSelector").to_owned();
    attributes.label_selector = exchange.query.text("labelSelector").to_owned();
    let decision = server.authorizer.ask(server, &exchange.user, &attributes).await;
    if exchange.record.is_some() {
        let verdict = if decision.allowed { "allow" } else { "forbid" };
        exchange.annotate("authorization.k8s.io/decision", verdict);
        exchange.annotate("authorization.k8s.io/reason", decision.reason.clone());
    }
    if !decision.allowed {
        return Err(forbidden(&exchange.user, &attributes, &decision.reason));
    }
    if takes_over(exchange) {
        attributes.verb = "create".to_owned();
        require(server, &exchange.user, &attributes).await?;
    }
    Ok(())
}

/// Whether a GET turns into a connection that runs commands or carries anything: a WebSocket to a pod's streams, or
/// through an agent's own server. Reading rights are not enough for that.
fn takes_over(exchange: &Exchange) -> bool {
    let info = &exchange.info;
    info.verb == "get"
        && info.group.is_empty()
        && exchange.headers().contains_key(http::header::UPGRADE)
        && matches!(
            (info.resource.as_str(), info.subresource.as_str()),
            ("pods", "exec" | "attach" | "portforward") | ("nodes", "proxy")
        )
}

/// 403 unless the user may.
pub async fn require(server: &Server, user: &UserInfo, attributes: &Attributes) -> Result<(), ApiError> {
    let decision = server.authorizer.ask(server, user, attributes).await;
    if decision.allowed { Ok(()) } else { Err(forbidden(user, attributes, &decision.reason)) }
}

/// The refusal in upstream's words.
pub fn forbidden(user: &UserInfo, attributes: &Attributes, reason: &str) -> ApiError {
    let quote = api::validation::go_quote;
    if !attributes.is_resource {
        let mut message = format!(
            "forbidden: User {} cannot {} path {}",
            quote(&user.name),
            attributes.verb,
            quote(&attributes.path)
        );
        if !reason.is_empty() {
            message = format!("{message}: {reason}");
        }
        let mut error = ApiError::new(Reason::Forbidden, message);
        error.details = Some(Box::default());
        return error;
    }
    let mut why = format!(
        "User {} cannot {} resource {} in API group {}",
        quote(&user.name),
        attributes.verb,
        quote(&attributes.combined()),
        quote(&attributes.group)
    );
    if attributes.namespace.is_empty() {
        why.push_str(" at the cluster scope");
    } else {
        why.push_str(&format!(" in the namespace {}", quote(&attributes.namespace)));
    }
    if !reason.is_empty() {
        why = format!("{why}: {reason}");
    }
    ApiError::forbidden(&attributes.group, &attributes.resource, &attributes.name, &why)
}

/// The questions that impersonation asks.
pub fn impersonation(
    name: &str,
    groups: &[String],
    uid: &str,
    extra: &BTreeMap<String, Vec<String>>,
) -> Vec<Attributes> {
    let mut checks = Vec::new();
    match name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':')) {
        Some((namespace, account)) => {
            checks.push(Attributes::resource("impersonate", "", "serviceaccounts", namespace, account));
        }
        None => checks.push(Attributes::resource("impersonate", "", "users", "", name)),
    }
    checks.extend(groups.iter().map(|group| Attributes::resource("impersonate", "", "groups", "", group)));
    if !uid.is_empty() {
        checks.push(Attributes::resource("impersonate", "authentication.k8s.io", "uids", "", uid));
    }
    for (key, values) in extra {
        for value in values {
            let mut check =
                Attributes::resource("impersonate", "authentication.k8s.io", "userextras", "", value);
            check.subresource = key.clone();
            checks.push(check);
        }
    }
    checks
}
