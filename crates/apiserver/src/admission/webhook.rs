//! Admission webhooks: who is asked, what they are sent, what becomes of their answers.

use std::sync::Arc;
use std::time::Duration;

use api::ApiError;
use api::error::Reason;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{ACCEPT, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request};
use machinery::cel::{Activation, Budget, Env, Program, Type, Val};
use machinery::schema::Schema;
use registry::Resource;
use registry::tree::Tree;
use serde_json::{Value, json};
use store::Key;

use super::{Operation, Review};
use crate::object;
use crate::sub::agent::{self, Scheme, Target};

const GROUP: &str = "admissionregistration.k8s.io";
const VALIDATING: &str = "admissionregistration.k8s.io/validatingwebhookconfigurations";
const MUTATING: &str = "admissionregistration.k8s.io/mutatingwebhookconfigurations";
/// Bytes of a webhook's answer.
const ANSWER: usize = 16 << 20;

/// Asks the mutating webhooks and applies their patches. True when the object changed.
pub async fn mutate(review: &Review<'_>, object: &mut Value, old: Option<&Value>) -> Result<bool, ApiError> {
    let hooks = hooks(review, MUTATING);
    let mut changed_by: Option<usize> = None;
    for (at, hook) in hooks.iter().enumerate() {
        if ask(review, hook, object, old).await? {
            changed_by = Some(at);
        }
    }
    // Those that want to see what later ones made of the object are asked once more.
    let Some(last) = changed_by else { return Ok(false) };
    for hook in hooks[..last].iter().filter(|hook| hook.text("reinvocationPolicy") == "IfNeeded") {
        ask(review, hook, object, old).await?;
    }
    Ok(true)
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
        ask(review, hook, &mut copy, old).await
    });
    for answer in futures::future::join_all(asked).await {
        answer?;
    }
    Ok(())
}

/// Webhooks in order of configuration and place. They never see their own configurations.
fn hooks(review: &Review<'_>, resource: &str) -> Vec<Value> {
    let snapshot = review.server.store.snapshot(resource);
    if snapshot.is_empty() || review.row.group == GROUP {
        return Vec::new();
    }
    let configurations = snapshot.range(None, None).map(|stored| object::tree(stored));
    configurations.flat_map(|tree| tree.list("webhooks").to_vec()).collect()
}

/// Asks one webhook if it wants to be; true when it changed the object.
async fn ask(
    review: &Review<'_>,
    hook: &Value,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<bool, ApiError> {
    let Some(row) = matching_row(review, hook) else { return Ok(false) };
    let ignores = hook.text("failurePolicy") == "Ignore";
    match selected(review, hook, object, old) {
        Ok(true) => {}
        Ok(false) => return Ok(false),
        Err(_) if ignores => return Ok(false),
        Err(why) => return Err(review.forbidden(Some(object), &why)),
    }
    if review.dry_run && !matches!(hook.text("sideEffects"), "None" | "NoneOnDryRun") {
        let name = hook.text("name");
        return Err(ApiError::bad_request(format!("admission webhook {name:?} does not support dry run")));
    }
    let request = request(review, &row, object, old);
    let response = match call(review, hook, &request).await {
        Ok(response) => response,
        Err(why) if ignores => {
            tracing::warn!(webhook = hook.text("name"), %why, "webhook failed, its policy says to go on");
            return Ok(false);
        }
        Err(why) => {
            return Err(ApiError::internal(format!("failed calling webhook {:?}: {why}", hook.text("name"))));
        }
    };
    for warning in response.list("warnings").iter().filter_map(Value::as_str) {
        review.exchange.warn(warning);
    }
    if !response.flag("allowed") {
        return Err(denied(hook.text("name"), response.at("status")));
    }
    patch(review, hook, &response, object)
}

fn patch(review: &Review<'_>, hook: &Value, response: &Value, object: &mut Value) -> Result<bool, ApiError> {
    let encoded = response.text("patch");
    if encoded.is_empty() || review.operation == Operation::Delete {
        return Ok(false);
    }
    let broken =
        |why: String| ApiError::internal(format!("admission webhook {:?}: {why}", hook.text("name")));
    let patch = STANDARD.decode(encoded).map_err(|error| broken(error.to_string()))?;
    let mut patched =
        machinery::patch::json_patch(object, &patch).map_err(|error| broken(error.to_string()))?;
    if patched == *object {
        return Ok(false);
    }
    if let Some(custom) = &review.served.custom {
        machinery::schema::structural::prune(&custom.node, &mut patched);
    } else if let Ok(decoded) = machinery::codec::json::conform(review.served.schema(), &patched) {
        patched = decoded.value;
    }
    review.served.default(&mut patched);
    *object = patched;
    Ok(true)
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

/// The row as which the webhook sees the object: the request's own, or (unless its policy is Exact) another
/// version of the same storage.
fn matching_row(review: &Review<'_>, hook: &Value) -> Option<Arc<Resource>> {
    let own = &review.served.row;
    let wants = |row: &Resource| hook.list("rules").iter().any(|rule| rule_matches(rule, review, row));
    if wants(own) {
        return Some(own.clone());
    }
    if hook.text("matchPolicy") == "Exact" || own.storage.is_none() {
        return None;
    }
    let catalog = review.server.rows.now();
    catalog.rows().iter().find(|row| row.storage == own.storage && wants(row)).cloned()
}

fn has(list: &[Value], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

fn rule_matches(rule: &Value, review: &Review<'_>, row: &Resource) -> bool {
    let scope = match rule.text("scope") {
        "Namespaced" => row.namespaced,
        "Cluster" => !row.namespaced,
        _ => true,
    };
    let resource = rule.list("resources").iter().filter_map(Value::as_str).any(|wanted| {
        let (name, sub) = wanted.split_once('/').unwrap_or((wanted, ""));
        let name = name == "*" || name == row.plural;
        match (wanted, review.subresource.as_str()) {
            ("*/*", _) => true,
            (_, "") => name && sub.is_empty(),
            (_, own) => name && (sub == "*" || sub == own),
        }
    });
    scope
        && resource
        && has(rule.list("operations"), review.operation.as_str())
        && has(rule.list("apiGroups"), &row.group)
        && has(rule.list("apiVersions"), &row.version)
}

/// Selectors and match conditions; an error is a condition that failed.
fn selected(review: &Review<'_>, hook: &Value, object: &Value, old: Option<&Value>) -> Result<bool, String> {
    let none = Value::Null;
    let selects = |selector: &Value, labels: &Value| {
        let selector = serde_json::from_value(selector.clone()).unwrap_or_default();
        let selector = api::labels::Selector::from_object(Some(&selector)).unwrap_or_default();
        selector.matches_with(|key| labels.get(key).and_then(Value::as_str))
    };
    let is_empty = |selector: &Value| selector.as_object().is_none_or(serde_json::Map::is_empty);
    let by_namespace = hook.at("namespaceSelector");
    if !is_empty(by_namespace) {
        let labels = if review.is("", "namespaces") && review.subresource.is_empty() {
            Some(if object.is_object() { object } else { old.unwrap_or(&none) }.at("metadata.labels").clone())
        } else if review.namespace.is_empty() {
            None
        } else {
            let key = Key::new("namespaces", "", review.namespace.as_str());
            Some(
                review
                    .server
                    .store
                    .get(&key)
                    .map_or(Value::Null, |o| object::tree(&o).at("metadata.labels").clone()),
            )
        };
        if labels.is_some_and(|labels| !selects(by_namespace, &labels)) {
            return Ok(false);
        }
    }
    let by_object = hook.at("objectSelector");
    if !is_empty(by_object) {
        let fits = |tree: &Value| tree.is_object() && selects(by_object, tree.at("metadata.labels"));
        if !fits(object) && !old.is_some_and(fits) {
            return Ok(false);
        }
    }
    conditions(review, hook, object, old)
}

fn conditions(
    review: &Review<'_>,
    hook: &Value,
    object: &Value,
    old: Option<&Value>,
) -> Result<bool, String> {
    if hook.list("matchConditions").is_empty() {
        return Ok(true);
    }
    let request = request(review, &review.served.row, object, old);
    let (none, schema) = (Value::Null, review.served.schema());
    let activation = Activation::new()
        .with("object", Val::json(object, schema))
        .with("oldObject", Val::json(old.unwrap_or(&none), schema))
        .with("request", Val::json(&request, Schema::Any));
    let env = Env::new().plain("object", Type::Dyn).plain("oldObject", Type::Dyn).plain("request", Type::Dyn);
    let mut failed = None;
    let mut budget = Budget::default();
    for condition in hook.list("matchConditions") {
        let verdict =
            Program::compile(condition.text("expression"), &env).map_err(|error| error.to_string()).and_then(
                |program| program.eval_bool(&activation, &mut budget).map_err(|error| error.to_string()),
            );
        match verdict {
            Ok(true) => {}
            // One that says no counts more than one that fails.
            Ok(false) => return Ok(false),
            Err(error) => {
                failed =
                    Some(format!("failed to evaluate match condition {:?}: {error}", condition.text("name")))
            }
        }
    }
    failed.map_or(Ok(true), Err)
}

/// The `request` of an AdmissionReview.
fn request(review: &Review<'_>, row: &Resource, object: &Value, old: Option<&Value>) -> Value {
    let own = &review.served.row;
    let kind_of = |row: &Resource| match row.subresource(&review.subresource) {
        Some(sub) => json!({"group": sub.group, "version": sub.version, "kind": sub.kind}),
        None => json!({"group": row.group, "version": row.version, "kind": row.kind}),
    };
    let place_of =
        |row: &Resource| json!({"group": row.group, "version": row.version, "resource": row.plural});
    let shown = |tree: Option<&Value>| {
        let mut tree = tree.cloned().unwrap_or(Value::Null);
        if tree.is_object() && row.version != own.version {
            own.to_stored(&mut tree);
            row.to_served(&mut tree);
        }
        tree
    };
    let user = &review.exchange.user;
    let name = object.text("metadata.name");
    let mut out = json!({
        "uid": review.server.rng.uuid(), "kind": kind_of(row), "resource": place_of(row),
        "requestKind": kind_of(own), "requestResource": place_of(own),
        "name": if name.is_empty() { review.name.as_str() } else { name },
        "operation": review.operation.as_str(), "dryRun": review.dry_run,
        "userInfo": {"username": user.name, "groups": user.groups},
        "object": shown(Some(object).filter(|object| object.is_object() && review.operation != Operation::Delete)),
        "oldObject": shown(old), "options": options(review),
    });
    if !review.subresource.is_empty() {
        out["subResource"] = review.subresource.clone().into();
        out["requestSubResource"] = review.subresource.clone().into();
    }
    if !review.namespace.is_empty() {
        out["namespace"] = review.namespace.clone().into();
    }
    if !user.uid.is_empty() {
        out["userInfo"]["uid"] = json!(user.uid);
    }
    if !user.extra.is_empty() {
        out["userInfo"]["extra"] = json!(user.extra);
    }
    out
}

fn options(review: &Review<'_>) -> Value {
    let kind = match review.operation {
        Operation::Create => "CreateOptions",
        Operation::Update => "UpdateOptions",
        Operation::Delete => "DeleteOptions",
        Operation::Connect => return Value::Null,
    };
    json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"})
}

/// Sends a review; the answer's `response`.
async fn call(review: &Review<'_>, hook: &Value, request: &Value) -> Result<Value, String> {
    let versions = hook.list("admissionReviewVersions");
    let version = ["v1", "v1beta1"].into_iter().find(|v| versions.iter().any(|own| own == v));
    let version = version.ok_or("webhook does not accept known AdmissionReview versions (v1, v1beta1)")?;
    let seconds = Some(hook.int("timeoutSeconds")).filter(|s| *s > 0).unwrap_or(10);
    let (target, url, path) = place(review, hook, seconds)?;
    let body = json!({"kind": "AdmissionReview", "apiVersion": format!("admission.k8s.io/{version}"), "request": request});
    let mut message = Request::new(base::http::full(body.to_string()));
    *message.method_mut() = Method::POST;
    *message.uri_mut() = path.parse().map_err(|_| "the path cannot be used".to_owned())?;
    let headers = message.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(HOST, HeaderValue::from_str(&target.host).map_err(|error| error.to_string())?);
    let limit = Duration::from_secs(u64::try_from(seconds).unwrap_or(10));
    let exchange = async {
        let response = agent::send(review.server, &target, message).await.map_err(|error| error.message)?;
        let code = response.status();
        let body = base::http::read(base::http::wrap(response.into_body()), ANSWER).await;
        Ok::<_, String>((code, body.map_err(|error| error.to_string())?))
    };
    let sent = review.server.clock.timeout(limit, exchange).await;
    let wrap = |why: &str| format!("failed to call webhook: Post {url:?}: {why}");
    let (code, body) = sent.ok_or_else(|| wrap("context deadline exceeded"))?.map_err(|why| wrap(&why))?;
    if !code.is_success() {
        return Err(format!(
            "failed to call webhook: the server rejected our request for an unknown reason: {code}"
        ));
    }
    let answer: Value = serde_json::from_slice(&body)
        .map_err(|error| format!("received invalid webhook response: {error}"))?;
    if answer.text("response.uid") != request.text("uid") && version == "v1" {
        return Err(format!(
            "received invalid webhook response: expected response.uid={:?}, got {:?}",
            request.text("uid"),
            answer.text("response.uid")
        ));
    }
    Ok(answer.at("response").clone())
}

/// Where a webhook is reached: target, URL as shown in errors, path.
fn place(review: &Review<'_>, hook: &Value, seconds: i64) -> Result<(Target, String, String), String> {
    let client = hook.at("clientConfig");
    let ca = STANDARD.decode(client.text("caBundle")).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let tls = match ca.filter(|ca| !ca.trim().is_empty()) {
        Some(ca) => base::pki::client_config(&ca, None).map(Arc::new).map_err(|error| error.to_string())?,
        None => return Err("the webhook names no certificate authority".to_owned()),
    };
    if client.has("url") {
        let url = format!("{}?timeout={seconds}s", client.text("url"));
        let uri: http::Uri = url.parse().map_err(|_| format!("invalid URL {url:?}"))?;
        let host = uri.host().unwrap_or("").trim_matches(['[', ']']).to_owned();
        let target = Target {
            name: host.clone(),
            host,
            port: uri.port_u16().unwrap_or(443),
            scheme: Scheme::Given(tls),
        };
        let path = uri.path_and_query().map_or("/".to_owned(), ToString::to_string);
        return Ok((target, url, path));
    }
    let service = client.at("service");
    let (namespace, name) = (service.text("namespace"), service.text("name"));
    let port = service.at("port").as_i64().unwrap_or(443);
    let host = format!("{name}.{namespace}.svc");
    let path = format!("/{}?timeout={seconds}s", service.text("path").trim_start_matches('/'));
    let url = format!("https://{host}:{port}{path}");
    let (ip, at) = crate::sub::service_address(review.server, namespace, name, port).ok_or_else(|| {
        format!("failed to call webhook: Post {url:?}: no endpoints available for service {name:?}")
    })?;
    let target = Target { name: host, host: ip.to_string(), port: at, scheme: Scheme::Given(tls) };
    Ok((target, url, path))
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
