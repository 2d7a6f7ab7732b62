//! MutatingAdmissionPolicies: what they make of an object.

use api::ApiError;
use api::error::{Cause, Reason};
use machinery::cel::{Budget, REQUEST_BUDGET, Val};
use machinery::patch::{self, PatchError};
use machinery::schema::{Schema, facts};
use registry::Resource;
use registry::tree::Tree;
use serde_json::Value;

use super::compiled::{Subject, conditions_hold, evaluate};
use super::validating::exposed;
use super::{Invocation, MUTATING, MUTATING_BINDINGS, matched, unconverted};
use crate::admission::{Reinvocation, Review, Seen, matching, seen, settle};

/// Lets the policies change the object.
pub async fn mutate(
    review: &Review<'_>,
    object: &mut Value,
    old: Option<&Value>,
    again: &mut Reinvocation,
) -> Result<(), ApiError> {
    let found = matched(review, (MUTATING, MUTATING_BINDINGS), object, old);
    let mut denied: Vec<String> = Vec::new();
    for misfit in found.misfits.iter().filter(|m| !m.policy.ignores_failures()) {
        denied.push(match &misfit.binding {
            Some(binding) => refusal(&misfit.policy.name, binding, &misfit.message()),
            None => format!("policy {:?} denied request: {}", misfit.policy.name, misfit.message()),
        });
    }
    if !found.invocations.is_empty() {
        let namespace = exposed(&matching::namespace(review));
        again.policies.begin(again.second, object);
        for invocation in &found.invocations {
            if let Err(why) = run(review, invocation, object, old, &namespace, again).await?
                && !invocation.policy.ignores_failures()
            {
                denied.push(refusal(&invocation.policy.name, &invocation.binding, &why));
            }
        }
        again.policies.end(object);
    }
    let Some(first) = denied.first() else { return Ok(()) };
    let mut error = review.forbidden(Some(object), "");
    error.message.clone_from(first);
    error.reason = Reason::Invalid;
    let cause = |message| Cause { reason: String::new(), message, field: String::new() };
    Err(error.with_causes(denied.into_iter().map(cause).collect()))
}

fn refusal(policy: &str, binding: &Value, why: &str) -> String {
    format!("policy '{policy}' with binding '{}' denied request: {why}", binding.text("metadata.name"))
}

/// Runs one policy; the inner error is what its failure policy decides on.
async fn run(
    review: &Review<'_>,
    invocation: &Invocation,
    object: &mut Value,
    old: Option<&Value>,
    namespace: &Value,
    again: &mut Reinvocation,
) -> Result<Result<(), String>, ApiError> {
    let policy = &*invocation.policy;
    let Seen { object: shown, old, request } =
        seen(review, &invocation.row, object, old).await.map_err(|error| unconverted(review, &error))?;
    let mut tree = shown.into_owned();
    let params = &*invocation.params;
    let about = |namespace| Subject {
        server: review.server,
        object: &Value::Null,
        old: &old,
        request: &request,
        params,
        namespace,
    };
    let holds = {
        let subject = Subject { object: &tree, ..about(&Value::Null) };
        conditions_hold(&policy.conditions, &subject.activation(review, Some(policy), true))
    };
    match holds {
        Ok(true) => {}
        Ok(false) => return Ok(Ok(())),
        Err(why) => return Ok(Err(why)),
    }
    let key = key(invocation);
    if !again.policies.wants(again.second, &key) {
        return Ok(Ok(()));
    }
    let before = tree.clone();
    let mut result = Ok(());
    for index in 0..policy.mutations.len() {
        // Without an object there is nothing to change.
        if !tree.is_object() {
            break;
        }
        match patched(review, invocation, index, Subject { object: &tree, ..about(namespace) }) {
            Ok(mut new) => {
                settle(review, &invocation.row, &mut new);
                tree = new;
            }
            Err(why) => result = Err(why),
        }
    }
    if tree != before {
        again.policies.changed();
        again.needed = true;
        *object = crate::convert::between(review.server, &invocation.row, &review.served.row, tree).await?;
    }
    if policy.tree.text("spec.reinvocationPolicy") == "IfNeeded" {
        again.policies.ran(key);
    }
    Ok(result)
}

/// What reinvocation knows an invocation by.
fn key(invocation: &Invocation) -> String {
    let params = &invocation.params;
    format!(
        "{}/{}/{}/{}",
        invocation.policy.name,
        invocation.binding.text("metadata.name"),
        params.text("metadata.namespace"),
        params.text("metadata.name")
    )
}

/// The object after one mutation.
fn patched(
    review: &Review<'_>,
    invocation: &Invocation,
    index: usize,
    subject: Subject<'_>,
) -> Result<Value, String> {
    let policy = &*invocation.policy;
    let expression = &policy.mutations[index];
    let mut budget = Budget::new(REQUEST_BUDGET);
    let activation = subject.activation(review, Some(policy), true);
    let made = evaluate(expression, &activation, &mut budget).map_err(|failure| failure.to_string())?;
    match policy.tree.list("spec.mutations")[index].text("patchType") {
        "JSONPatch" => json_patched(subject.object, &made),
        _ => merged(review, &invocation.row, subject.object, &made),
    }
}

fn well_typed(made: &Val<'_>) -> Result<(), String> {
    let wrong = made.misplaced();
    if wrong.is_empty() { Ok(()) } else { Err(format!("type mismatch: {}", wrong.join("\n"))) }
}

fn merged(review: &Review<'_>, row: &Resource, object: &Value, made: &Val<'_>) -> Result<Value, String> {
    if !matches!(made, Val::Object(built) if built.0 == "Object") {
        let kind = made.type_name();
        return Err(format!("unsupported return type from ApplyConfiguration expression: {kind}"));
    }
    well_typed(made)?;
    let mut config = made.to_json().ok_or("invalid return type: the object has no JSON form")?;
    for key in ["apiVersion", "kind"] {
        config[key] = object[key].clone();
    }
    let serving = review.server.rows.serving();
    let custom = serving.custom(row);
    let schema = match &custom {
        _ if review.other_kind().is_some() => {
            let sub = review.other_kind();
            let known = sub.and_then(|sub| facts().by_gvk(&sub.group, &sub.version, &sub.kind));
            known.map_or(Schema::Any, Schema::Type)
        }
        Some(custom) => Schema::Node(&custom.node),
        None => facts().by_gvk(&row.group, &row.version, &row.kind).map_or(Schema::Any, Schema::Type),
    };
    machinery::apply::merge(schema, object, &config).map_err(|error| format!("error applying patch: {error}"))
}

fn json_patched(object: &Value, made: &Val<'_>) -> Result<Value, String> {
    let wrong = || "type mismatch: JSONPatchType.expression should evaluate to array".to_owned();
    let items = made.items().ok_or_else(wrong)?;
    for item in &items {
        let Val::Object(operation) = item else {
            return Err(format!("{} of JSONPatch, got element of {}", wrong(), item.type_name()));
        };
        for (_, value) in &operation.1 {
            well_typed(value)?;
        }
    }
    let operations: Option<Vec<Value>> = items.iter().map(Val::to_json).collect();
    let operations = operations
        .ok_or("JSONPath valueExpression evaluated to a type that could not marshal to JSON: no JSON form")?;
    let text = Value::Array(operations).to_string();
    match patch::json_patch(object, text.as_bytes()) {
        Ok(patched) => Ok(patched),
        // A test that fails means that the patch is not wanted.
        Err(PatchError::Inapplicable(why)) if why.contains("testing value") => Ok(object.clone()),
        Err(error) => Err(format!("JSON Patch: {error}")),
    }
}
