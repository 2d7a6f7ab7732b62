//! The `authorizer` of expressions: questions to the server's authorizers, put together step by step.

use std::rc::Rc;

use api::user::UserInfo;
use machinery::cel::{Budget, EvalError, Host, Val};

use crate::authz::{Attributes, Decision};
use crate::server::Server;

/// What one question costs, as upstream estimates it.
const CHECK_COST: u64 = 350_000;

/// A step of a question.
#[derive(Clone)]
enum Step {
    Start,
    Path,
    Group,
    Resource,
    Decided(Decision),
}

/// The authorizer or a question in the making.
#[derive(Clone)]
pub struct Authorizer<'v> {
    server: &'v Server,
    user: UserInfo,
    step: Step,
    attributes: Attributes,
    /// The request's own resource, as `authorizer.requestResource` names it.
    own: Rc<Attributes>,
}

impl<'v> Authorizer<'v> {
    /// For a user; `own` is the resource of the request.
    pub fn new(server: &'v Server, user: UserInfo, own: Attributes) -> Authorizer<'v> {
        let attributes = Attributes { version: "*".to_owned(), ..Attributes::default() };
        Authorizer { server, user, step: Step::Start, attributes, own: Rc::new(own) }
    }

    /// As a value of expressions.
    pub fn value(self) -> Val<'v> {
        Val::Host(Rc::new(self))
    }

    fn with(&self, step: Step, change: impl FnOnce(&mut Attributes)) -> Result<Val<'v>, EvalError> {
        let mut next = Authorizer { step, ..self.clone() };
        change(&mut next.attributes);
        Ok(next.value())
    }

    fn check(&self, verb: &str, budget: &mut Budget) -> Result<Val<'v>, EvalError> {
        budget.pay(CHECK_COST)?;
        let attributes = Attributes { verb: verb.to_owned(), ..self.attributes.clone() };
        let decision = self.server.authorizer.decide(self.server, &self.user, &attributes);
        self.with(Step::Decided(decision), |_| {})
    }

    fn ask_as(&self, namespace: &str, name: &str) -> Result<Val<'v>, EvalError> {
        let wrong = |what: &str| Err(EvalError::new(format!("Invalid service account {what}")));
        if !api::names::dns1123_subdomain(name).is_empty() {
            return wrong("name");
        }
        if !api::names::dns1123_label(namespace).is_empty() {
            return wrong("namespace");
        }
        let user = UserInfo::service_account(namespace, name);
        Ok(Authorizer { user, ..self.clone() }.value())
    }

    fn refine(&self, name: &str, text: &str) -> Option<Result<Val<'v>, EvalError>> {
        let text = text.to_owned();
        let empty = |what: &str| Some(Err(EvalError::new(format!("{what} must not be empty"))));
        Some(match (&self.step, name) {
            (Step::Start, "path") if text.is_empty() => return empty("path"),
            (Step::Start, "path") => self.with(Step::Path, |a| a.path = text),
            (Step::Start, "group") => self.with(Step::Group, |a| {
                a.group = text;
                a.is_resource = true;
            }),
            (Step::Group, "resource") if text.is_empty() => return empty("resource"),
            (Step::Group, "resource") => self.with(Step::Resource, |a| a.resource = text),
            (Step::Resource, "subresource") => self.with(Step::Resource, |a| a.subresource = text),
            (Step::Resource, "namespace") => self.with(Step::Resource, |a| a.namespace = text),
            (Step::Resource, "name") => self.with(Step::Resource, |a| a.name = text),
            (Step::Resource, "fieldSelector") => self.with(Step::Resource, |a| a.field_selector = text),
            (Step::Resource, "labelSelector") => self.with(Step::Resource, |_| {}),
            _ => return None,
        })
    }
}

impl<'v> Host<'v> for Authorizer<'v> {
    fn type_name(&self) -> String {
        let name = match self.step {
            Step::Start => "Authorizer",
            Step::Path => "PathCheck",
            Step::Group => "GroupCheck",
            Step::Resource => "ResourceCheck",
            Step::Decided(_) => "Decision",
        };
        format!("kubernetes.authorization.{name}")
    }

    fn select(&self, field: &str, _: &mut Budget) -> Option<Result<Val<'v>, EvalError>> {
        match (&self.step, field) {
            (Step::Start, "requestResource") => Some(self.with(Step::Resource, |a| *a = (*self.own).clone())),
            _ => None,
        }
    }

    fn call(&self, name: &str, args: &[Val<'v>], budget: &mut Budget) -> Option<Result<Val<'v>, EvalError>> {
        match (&self.step, name, args) {
            (Step::Path | Step::Resource, "check", [Val::Str(verb)]) => Some(self.check(verb, budget)),
            (Step::Start, "serviceAccount", [Val::Str(namespace), Val::Str(name)]) => {
                Some(self.ask_as(namespace, name))
            }
            (Step::Decided(decision), "allowed", []) => Some(Ok(Val::Bool(decision.allowed))),
            (Step::Decided(_), "errored", []) => Some(Ok(Val::Bool(false))),
            (Step::Decided(_), "error", []) => Some(Ok(Val::string(""))),
            (Step::Decided(decision), "reason", []) => Some(Ok(Val::string(decision.reason.clone()))),
            (_, name, [Val::Str(text)]) => self.refine(name, text),
            _ => None,
        }
    }
}
