//! Admission webhooks: who is asked, what they are sent, what becomes of their answers.

use std::sync::Arc;
use std::time::Duration;

use api::ApiError;
use api::error::Reason;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use registry::Resource;
use registry::tree::Tree;
use serde_json::{Value, json};

use super::{Operation, Reinvocation, Review, Seen, matching, policy, seen};
use crate::measure::{self, Part};
use crate::webhook;

const VALIDATING: &str = "admissionregistration.k8s.io/validatingwebhookconfigurations";
const MUTATING: &str = "admissionregistration.k8s.io/mutatingwebhookconfigurations";

/// One webhook of a configuration.
struct Hook {
    /// What reinvocation knows it by.
    key: String,
    tree: Value,
}

/// Asks the mutating webhooks and applies their patches.
pub async fn mutate(
    review: &Review<'_>,
    object: &mut Value,
    old: Option<&Value>,
    again: &mut Reinvocation,
) -> Result<(), ApiError> {
    let hooks = hooks(review, MUTATING);
    if hooks.is_empty() {
        return Ok(());
    }
    again.webhooks.begin(again.second, object);
    for hook in &hooks {
        if !again.webhooks.wants(again.second, &hook.key) {
            continue;
        }
        let Some(changed) = ask(review, Part::Admit, &hook.tree, object, old).await? else { continue };
        if changed {
            again.webhooks.changed();
            again.needed = true;
        }
        if hook.tree.text("reinvocationPolicy") == "IfNeeded" {
            again.webhooks.ran(hook.key.clone());
        }
    }
    again.webhooks.end(object);
    Ok(())
}

/// Asks the validating webhooks, all at once; the first refusal in their order counts.
pub async fn validate(
    review: &Review<'_>,
    object: Option<&Value>,
    old: Option<&Value>,
) -> Result<(), ApiError> {
    let hooks = hooks(review, VALIDATING);
    let asked = hooks.iter().map(|hook| async move {
        let mut copy = object.cloned().unwrap_or(Value::Null);
        ask(review, Part::Validate, &hook.tree, &mut copy, old).await
    });
    for answer in futures::future::join_all(asked).await {
        answer?;
    }
    Ok(())
}

/// Webhooks in order of configuration and place. They never see admission's own configuration.
fn hooks(review: &Review<'_>, resource: &str) -> Vec<Hook> {
    if review.row.group == matching::GROUP {
        return Vec::new();
    }
    let of = |tree: &Arc<Value>| {
        let name = tree.text("metadata.name").to_owned();
        let hook =
            move |(at, hook): (usize, &Value)| Hook { key: format!("{name}/{at}"), tree: hook.clone() };
        tree.list("webhooks").iter().enumerate().map(hook).collect::<Vec<_>>()
    };
    policy::trees(review.server, resource).iter().flat_map(of).collect()
}

/// Asks one webhook if it wants to be; whether it changed the object.
async fn ask(
    review: &Review<'_>,
    part: Part,
    hook: &Value,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<Option<bool>, ApiError> {
    let name = matching::name(review, object, old);
    let Some(row) = matching::row(review, hook.list("rules"), hook.text("matchPolicy"), name) else {
        return Ok(None);
    };
    if !matching::selected(review, hook, object, old) {
        return Ok(None);
    }
    let ignores = hook.text("failurePolicy") == "Ignore";
    let seen = seen(review, &row, object, old).await?;
    match conditions(review, hook, &seen) {
        Ok(true) => {}
        Ok(false) => return Ok(None),
        Err(_) if ignores => return Ok(None),
        Err(why) => return Err(review.forbidden(Some(&*object).filter(|o| o.is_object()), &why)),
    }
    if review.dry_run && !matches!(hook.text("sideEffects"), "None" | "NoneOnDryRun") {
        let name = hook.text("name");
        return Err(ApiError::bad_request(format!("admission webhook {name:?} does not support dry run")));
    }
    let mut request = seen.request;
    request["uid"] = review.server.rng.uuid().into();
    request["object"] = seen.object.into_owned();
    request["oldObject"] = seen.old.into_owned();
    let clock = &review.server.clock;
    let (began, answer) = (clock.monotonic(), call(review, hook, &request).await);
    let took = clock.monotonic().saturating_sub(began);
    review.exchange.wait(took);
    let refused = !answer.as_ref().is_ok_and(|response| response.flag("allowed"));
    measure::webhook(&review.server.metrics, hook.text("name"), part, review.operation, refused, took);
    let response = match answer {
        Ok(response) => response,
        Err(why) if ignores => {
            tracing::warn!(webhook = hook.text("name"), %why, "webhook failed, its policy says to go on");
            return Ok(Some(false));
        }
        Err(why) => {
            return Err(ApiError::internal(format!("failed calling webhook {:?}: {why}", hook.text("name"))));
        }
    };
    for warning in response.list("warnings").iter().filter_map(Value::as_str) {
        review.exchange.warn(warning);
    }
    for (key, value) in response.map("auditAnnotations") {
        review.exchange.annotate(&format!("{}/{key}", hook.text("name")), value.as_str().unwrap_or(""));
    }
    if !response.flag("allowed") {
        return Err(denied(hook.text("name"), response.at("status")));
    }
    match patched(review, hook, &row, &response, &request["object"])? {
        None => Ok(Some(false)),
        Some(new) => {
            *object = crate::convert::between(review.server, &row, &review.served.row, new).await?;
            Ok(Some(true))
        }
    }
}

/// What the webhook's patch makes of the object; `None` when it changes nothing.
fn patched(
    review: &Review<'_>,
    hook: &Value,
    row: &Arc<Resource>,
    response: &Value,
    object: &Value,
) -> Result<Option<Value>, ApiError> {
    let encoded = response.text("patch");
    if encoded.is_empty() || !object.is_object() || review.operation == Operation::Connect {
        return Ok(None);
    }
    let broken =
        |why: String| ApiError::internal(format!("admission webhook {:?}: {why}", hook.text("name")));
    let patch = STANDARD.decode(encoded).map_err(|error| broken(error.to_string()))?;
    let mut patched =
        machinery::patch::json_patch(object, &patch).map_err(|error| broken(error.to_string()))?;
    if patched == *object {
        return Ok(None);
    }
    super::settle(review, row, &mut patched);
    Ok(Some(patched))
}

fn denied(name: &str, status: &Value) -> ApiError {
    let by = format!("admission webhook {name:?} denied the request");
    let (message, reason) = (status.text("message"), status.text("reason"));
    let text = match (message.is_empty(), reason.is_empty()) {
        (false, _) => format!("{by}: {message}"),
        (true, false) => format!("{by}: {reason}"),
        (true, true) => format!("{by} without explanation"),
    };
    let mut error = ApiError::new(Reason::parse(reason), text);
    error.code = u16::try_from(status.int("code")).ok().filter(|code| *code >= 400).unwrap_or(400);
    error
}

/// Whether the webhook's match conditions hold; an error is a condition that failed.
fn conditions(review: &Review<'_>, hook: &Value, seen: &Seen<'_>) -> Result<bool, String> {
    if hook.list("matchConditions").is_empty() {
        return Ok(true);
    }
    let conditions = policy::webhook_conditions(review.server, hook);
    let none = Value::Null;
    let subject = policy::Subject {
        server: review.server,
        object: &seen.object,
        old: &seen.old,
        request: &seen.request,
        params: &none,
        namespace: &none,
    };
    policy::conditions_hold(&conditions, &subject.activation(review, None, true))
}

/// Sends a review; the answer's `response`.
async fn call(review: &Review<'_>, hook: &Value, request: &Value) -> Result<Value, String> {
    let versions = hook.list("admissionReviewVersions");
    let version = ["v1", "v1beta1"].into_iter().find(|v| versions.iter().any(|own| own == v));
    let version = version.ok_or("webhook does not accept known AdmissionReview versions (v1, v1beta1)")?;
    let seconds = u64::try_from(hook.int("timeoutSeconds")).ok().filter(|s| *s > 0).unwrap_or(10);
    let failed = |why: String| format!("failed to call webhook: {why}");
    let query = format!("?timeout={seconds}s");
    let endpoint = webhook::endpoint(review.server, hook.at("clientConfig"), &query).map_err(failed)?;
    let body = json!({"kind": "AdmissionReview", "apiVersion": format!("admission.k8s.io/{version}"), "request": request});
    let limit = Duration::from_secs(seconds);
    let answer = webhook::post(review.server, &endpoint, &body, limit).await.map_err(failed)?;
    if answer.text("response.uid") != request.text("uid") && version == "v1" {
        return Err(format!(
            "received invalid webhook response: expected response.uid={:?}, got {:?}",
            request.text("uid"),
            answer.text("response.uid")
        ));
    }
    Ok(answer.at("response").clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_the_webhook() {
        let status = json!({"message": "no", "code": 403, "reason": "Forbidden"});
        let error = denied("x.io", &status);
        assert_eq!(
            (error.code, error.message.as_str()),
            (403, "admission webhook \"x.io\" denied the request: no")
        );
        let error = denied("x.io", &Value::Null);
        assert_eq!(error.message, "admission webhook \"x.io\" denied the request without explanation");
        assert_eq!(error.code, 400);
    }
}
