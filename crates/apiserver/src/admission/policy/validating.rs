//! ValidatingAdmissionPolicies: what they say of a request, and what the bindings make of it.

use std::collections::BTreeMap;

use api::ApiError;
use api::error::{Cause, Reason};
use machinery::cel::{Budget, REQUEST_BUDGET, Val};
use registry::tree::Tree;
use serde_json::{Value, json};

use super::compiled::{Expression, Failure, Subject, conditions_hold, evaluate};
use super::{Invocation, Misfit, VALIDATING, VALIDATING_BINDINGS, matched};
use crate::admission::{Review, matching, seen};

/// Longest message that an expression may give, in bytes.
const MESSAGE: usize = 5 * 1024;
/// Longest value of an audit annotation, in bytes.
const ANNOTATION: usize = 10 * 1024;
/// The annotation of failures that a binding wants audited.
const FAILURE: &str = "validation.policy.admission.k8s.io/validation_failure";

/// One validation that does not hold.
struct Decision {
    index: usize,
    reason: Reason,
    message: String,
}

/// What one invocation gives.
#[derive(Default)]
struct Judgement {
    decisions: Vec<Decision>,
    /// Keys and values to be audited.
    annotations: Vec<(String, String)>,
    /// Annotations that failed, which refuses whatever the binding's actions are.
    broken: Vec<String>,
}

impl Judgement {
    fn failed(ignore: bool, message: String) -> Judgement {
        let decision = Decision { index: 0, reason: Reason::Invalid, message };
        Judgement { decisions: Vec::from_iter((!ignore).then_some(decision)), ..Judgement::default() }
    }
}

/// Refuses what the policies refuse.
pub async fn validate(
    review: &Review<'_>,
    object: Option<&Value>,
    old: Option<&Value>,
) -> Result<(), ApiError> {
    let none = Value::Null;
    let object = object.unwrap_or(&none);
    let found = matched(review, (VALIDATING, VALIDATING_BINDINGS), object, old);
    let mut denied: Vec<(Reason, String)> = Vec::new();
    denied.extend(found.misfits.iter().filter(|m| !m.policy.ignores_failures()).map(misfit));
    let namespace = if found.invocations.is_empty() { Value::Null } else { matching::namespace(review) };
    let namespace = exposed(&namespace);
    let mut annotations: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for invocation in &found.invocations {
        let seen = match seen(review, &invocation.row, object, old).await {
            Ok(seen) => seen,
            Err(error) => {
                let why = format!("failed to configure binding: failed to convert object version: {error}");
                denied.extend(
                    (!invocation.policy.ignores_failures())
                        .then(|| refusal(invocation, Reason::Invalid, &why)),
                );
                continue;
            }
        };
        let subject = Subject {
            server: review.server,
            object: &seen.object,
            old: &seen.old,
            request: &seen.request,
            params: &invocation.params,
            namespace: &namespace,
        };
        let judgement = judge(review, invocation, subject);
        for decision in &judgement.decisions {
            denied.extend(act(review, invocation, decision));
        }
        for (key, value) in judgement.annotations {
            let values = annotations.entry(format!("{}/{key}", invocation.policy.name)).or_default();
            if !values.contains(&value) {
                values.push(value);
            }
        }
        denied.extend(judgement.broken.iter().map(|why| refusal(invocation, Reason::Invalid, why)));
    }
    for (key, values) in annotations {
        review.exchange.annotate(&key, values.join(", "));
    }
    match denied.into_iter().next() {
        None => Ok(()),
        Some((reason, message)) => Err(answer(review, object, reason, message)),
    }
}

fn misfit(misfit: &Misfit) -> (Reason, String) {
    let by = match &misfit.binding {
        Some(binding) => format!(" with binding '{}'", binding.text("metadata.name")),
        None => String::new(),
    };
    let name = &misfit.policy.name;
    (Reason::Invalid, format!("ValidatingAdmissionPolicy '{name}'{by} denied request: {}", misfit.message()))
}

fn refusal(invocation: &Invocation, reason: Reason, why: &str) -> (Reason, String) {
    let (policy, binding) = (&invocation.policy.name, invocation.binding.text("metadata.name"));
    (reason, format!("ValidatingAdmissionPolicy '{policy}' with binding '{binding}' denied request: {why}"))
}

fn answer(review: &Review<'_>, object: &Value, reason: Reason, message: String) -> ApiError {
    let mut error = review.forbidden(Some(object).filter(|o| o.is_object()), &message);
    error.reason = reason;
    error.code = match reason {
        Reason::Unauthorized => 401,
        Reason::Forbidden => 403,
        Reason::RequestEntityTooLarge => 413,
        _ => 422,
    };
    error.with_causes(vec![Cause { reason: String::new(), message, field: String::new() }])
}

/// What a binding does with a failure: the refusal, if it refuses.
fn act(review: &Review<'_>, invocation: &Invocation, decision: &Decision) -> Option<(Reason, String)> {
    let (policy, binding) = (&invocation.policy.name, &invocation.binding);
    let name = binding.text("metadata.name");
    let actions = binding.list("spec.validationActions");
    let has = |action: &str| actions.iter().any(|own| own == action);
    if has("Audit") {
        let value = json!([{"message": decision.message, "policy": policy, "binding": name,
            "expressionIndex": decision.index, "validationActions": actions}]);
        review.exchange.annotate(FAILURE, value.to_string());
    }
    if has("Warn") {
        review.exchange.warn(format!(
            "Validation failed for ValidatingAdmissionPolicy '{policy}' with binding '{name}': {}",
            decision.message
        ));
    }
    has("Deny").then(|| refusal(invocation, decision.reason, &decision.message))
}

/// The fields of a namespace that expressions see.
pub(super) fn exposed(namespace: &Value) -> Value {
    if !namespace.is_object() {
        return Value::Null;
    }
    let mut meta = namespace.at("metadata").clone();
    if let Some(map) = meta.as_object_mut() {
        map.remove("managedFields");
        map.remove("ownerReferences");
    }
    json!({"metadata": meta, "spec": namespace.at("spec"), "status": namespace.at("status")})
}

/// Evaluates a policy.
fn judge<'v>(review: &Review<'_>, invocation: &'v Invocation, subject: Subject<'v>) -> Judgement {
    let policy = &*invocation.policy;
    let ignore = policy.ignores_failures();
    let none = Value::Null;
    let outside = Subject { namespace: &none, ..subject };
    match conditions_hold(&policy.conditions, &outside.activation(review, Some(policy), true)) {
        Ok(true) => {}
        Ok(false) => return Judgement::default(),
        Err(why) => return Judgement::failed(ignore, why),
    }
    let mut budget = Budget::new(REQUEST_BUDGET);
    let activation = subject.activation(review, Some(policy), true);
    let quiet = subject.activation(review, Some(policy), false);
    let mut out = Judgement::default();
    for (index, (expression, message)) in policy.validations.iter().enumerate() {
        let rule = &policy.tree.list("spec.validations")[index];
        let decision = match evaluate(expression, &activation, &mut budget) {
            Ok(Val::Bool(true)) => continue,
            Ok(_) => {
                let said = message.as_ref().and_then(|m| said(m, &quiet, &mut budget));
                let message = said.unwrap_or_else(|| fixed_message(rule, expression));
                let reason = rule.at("reason").as_str().map_or(Reason::Invalid, Reason::parse);
                Decision { index, reason, message }
            }
            Err(Failure::Spent) => return Judgement::failed(ignore, Failure::Spent.to_string()),
            Err(Failure::Failed(_)) if ignore => continue,
            Err(Failure::Failed(message)) => Decision { index, reason: Reason::Invalid, message },
        };
        out.decisions.push(decision);
    }
    annotate(&mut out, invocation, &quiet, ignore);
    out
}

/// The message that an expression gives, when it can be used.
fn said(
    message: &Expression,
    activation: &machinery::cel::Activation<'_>,
    budget: &mut Budget,
) -> Option<String> {
    let Ok(Val::Str(text)) = evaluate(message, activation, budget) else { return None };
    let text = text.trim();
    (!text.is_empty() && text.len() <= MESSAGE && !text.contains('\n')).then(|| text.to_owned())
}

fn fixed_message(rule: &Value, expression: &Expression) -> String {
    match rule.text("message").trim() {
        "" => format!("failed expression: {}", expression.text.trim()),
        message => message.to_owned(),
    }
}

fn annotate(
    out: &mut Judgement,
    invocation: &Invocation,
    activation: &machinery::cel::Activation<'_>,
    ignore: bool,
) {
    let mut budget = Budget::new(REQUEST_BUDGET);
    for (key, expression) in &invocation.policy.annotations {
        match evaluate(expression, activation, &mut budget) {
            Ok(Val::Null) => {}
            Ok(Val::Str(text)) => {
                let mut text = text.trim().to_owned();
                if text.len() > ANNOTATION {
                    text.truncate(text.floor_char_boundary(ANNOTATION));
                }
                if !text.is_empty() {
                    out.annotations.push((key.clone(), text));
                }
            }
            Ok(other) => out.broken.push(format!(
                "valueExpression '{}' resulted in unsupported return type: {}. Return type must be either string or null.",
                expression.text,
                other.type_name()
            )),
            Err(_) if ignore => {}
            Err(failure) => out.broken.push(failure.to_string()),
        }
    }
}
