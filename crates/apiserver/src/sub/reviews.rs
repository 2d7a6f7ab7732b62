//! Reviews: questions about tokens and rights, answered without being stored.

use std::collections::BTreeMap;

use api::ApiError;
use api::user::UserInfo;
use base::http::Body;
use http::{Response, StatusCode};
use registry::tree::Tree;
use serde_json::{Value, json};

use crate::authz::Attributes;
use crate::respond;
use crate::verbs::Call;
use crate::write::{self, Target, WriteOptions};

/// POST of a review.
pub async fn create(call: &Call<'_>, body: Body) -> Result<Response<Body>, ApiError> {
    let offer = crate::negotiate::Offer { tables: false, protobuf: true, watch: false };
    let accept = call.exchange.accept(offer)?;
    let options = WriteOptions::parse(call.exchange, "CreateOptions")?;
    let body = write::read_body(body).await?;
    let mut review = write::decode(call.exchange, Target::of(call.row()), &body, options.validation)?;
    review.set_default("metadata", json!({}));
    registry::lifecycle::match_namespace(call.row(), call.namespace(), &mut review)?;
    super::apply::track(call, &options, &mut review, None);
    match call.row().kind.as_str() {
        "TokenReview" => token(call, &mut review).await?,
        "SelfSubjectReview" => own(call, &mut review),
        "SelfSubjectRulesReview" => rules(call, &mut review)?,
        "SelfSubjectAccessReview" => access(call, &mut review, Some(&call.exchange.user)).await?,
        "SubjectAccessReview" | "LocalSubjectAccessReview" => access(call, &mut review, None).await?,
        _ => return Err(ApiError::no_such_path()),
    }
    Ok(respond::tree(&accept, StatusCode::CREATED, &review))
}

fn user_value(user: &UserInfo) -> Value {
    let mut out = json!({});
    if !user.name.is_empty() {
        out["username"] = json!(user.name);
    }
    if !user.uid.is_empty() {
        out["uid"] = json!(user.uid);
    }
    if !user.groups.is_empty() {
        out["groups"] = json!(user.groups);
    }
    if !user.extra.is_empty() {
        out["extra"] = json!(user.extra);
    }
    out
}

fn own(call: &Call<'_>, review: &mut Value) {
    review["metadata"] = json!({"creationTimestamp": api::time::format(call.exchange.now)});
    review["status"] = json!({"userInfo": user_value(&call.exchange.user)});
}

async fn token(call: &Call<'_>, review: &mut Value) -> Result<(), ApiError> {
    let text = review.text("spec.token").to_owned();
    if text.is_empty() {
        return Err(ApiError::bad_request("token is required for TokenReview in authentication"));
    }
    let mut audiences: Vec<String> =
        review.list("spec.audiences").iter().filter_map(|a| a.as_str().map(str::to_owned)).collect();
    if audiences.is_empty() {
        audiences = call.server.config.audiences();
    }
    let found = crate::authn::token_user(call.server, &text, &audiences, call.exchange.now).await;
    review["status"] = match found {
        Some(found) => {
            json!({"authenticated": true, "user": user_value(&crate::authn::authenticated(found.user)), "audiences": found.audiences})
        }
        None => json!({"user": {}, "error": rejection(&text)}),
    };
    Ok(())
}

/// Tokens that look like ours are refused by two authenticators.
fn rejection(token: &str) -> &'static str {
    if token.split('.').count() == 3 {
        "[invalid bearer token, service account token is invalid]"
    } else {
        "invalid bearer token"
    }
}

fn texts(tree: &Value, path: &str) -> Vec<String> {
    tree.list(path).iter().filter_map(|t| t.as_str().map(str::to_owned)).collect()
}

fn attributes(review: &Value) -> Option<Attributes> {
    let resource = review.at("spec.resourceAttributes");
    let other = review.at("spec.nonResourceAttributes");
    match (resource.is_object(), other.is_object()) {
        (true, false) => Some(Attributes {
            is_resource: true,
            verb: resource.text("verb").to_owned(),
            group: resource.text("group").to_owned(),
            version: resource.text("version").to_owned(),
            resource: resource.text("resource").to_owned(),
            subresource: resource.text("subresource").to_owned(),
            namespace: resource.text("namespace").to_owned(),
            name: resource.text("name").to_owned(),
            ..Attributes::default()
        }),
        (false, true) => Some(Attributes {
            verb: other.text("verb").to_owned(),
            path: other.text("path").to_owned(),
            ..Attributes::default()
        }),
        _ => None,
    }
}

fn subject(review: &Value) -> UserInfo {
    let extra: BTreeMap<String, Vec<String>> =
        serde_json::from_value(review.at("spec.extra").clone()).unwrap_or_default();
    UserInfo {
        name: review.text("spec.user").to_owned(),
        uid: review.text("spec.uid").to_owned(),
        groups: texts(review, "spec.groups"),
        extra,
    }
}

/// The selectors of a question, as far as they could be read, and what to say of the rest.
fn selectors(review: &Value) -> (String, Vec<String>) {
    let attributes = review.at("spec.resourceAttributes");
    let (fields, bad_fields) = field_selector(attributes.at("fieldSelector"));
    let labels = attributes.at("labelSelector");
    let raw = labels.text("rawSelector");
    let known = |rule: &Value| matches!(rule.text("operator"), "In" | "NotIn" | "Exists" | "DoesNotExist");
    let rules = labels.list("requirements");
    let bad_labels = if rules.is_empty() {
        (!raw.is_empty() && api::labels::Selector::parse(raw).is_err()).then_some(false)
    } else {
        (!rules.iter().all(known)).then(|| rules.iter().any(known))
    };
    let said = |bad: Option<bool>, field: &str| {
        let how = if bad? { "partially ignored" } else { "ignored" };
        Some(format!("spec.resourceAttributes.{field} {how} due to parse error"))
    };
    let said = [said(bad_fields, "fieldSelector"), said(bad_labels, "labelSelector")];
    (fields, said.into_iter().flatten().collect())
}

/// A field selector's text, and whether some of it could be read when some could not.
fn field_selector(selector: &Value) -> (String, Option<bool>) {
    let rules = selector.list("requirements");
    if rules.is_empty() {
        let raw = selector.text("rawSelector");
        let broken = api::fields::Selector::parse(raw).is_err();
        return (if broken { String::new() } else { raw.to_owned() }, broken.then_some(false));
    }
    let term = |rule: &Value| {
        let [value] = rule.list("values") else { return None };
        let operator = match rule.text("operator") {
            "In" => "=",
            "NotIn" => "!=",
            _ => return None,
        };
        Some(format!("{}{operator}{}", rule.text("key"), value.as_str().unwrap_or_default()))
    };
    let terms: Vec<String> = rules.iter().filter_map(term).collect();
    (terms.join(","), (terms.len() < rules.len()).then_some(!terms.is_empty()))
}

async fn access(call: &Call<'_>, review: &mut Value, user: Option<&UserInfo>) -> Result<(), ApiError> {
    let errors = registry::validation::reviews::access(review);
    if !errors.is_empty() {
        return Err(ApiError::invalid(&call.row().group, "", "", &errors));
    }
    let own = subject(review);
    let mut wanted = attributes(review).unwrap_or_default();
    let (fields, ignored) = selectors(review);
    wanted.field_selector = fields;
    let decision = call.server.authorizer.ask(call.server, user.unwrap_or(&own), &wanted).await;
    let mut status = json!({"allowed": decision.allowed});
    if !decision.reason.is_empty() {
        status["reason"] = json!(decision.reason);
    }
    if !ignored.is_empty() {
        status["evaluationError"] = json!(ignored.join("; "));
    }
    review["status"] = status;
    Ok(())
}

fn rules(call: &Call<'_>, review: &mut Value) -> Result<(), ApiError> {
    let namespace = review.text("spec.namespace").to_owned();
    if namespace.is_empty() {
        return Err(ApiError::bad_request("no namespace on request"));
    }
    let user = &call.exchange.user;
    let (mut resources, mut urls) = (Vec::new(), Vec::new());
    let (rules, missing) = call.server.authorizer.rbac.rules_for(call.server, user, &namespace);
    for rule in rules {
        if !rule.resources.is_empty() {
            let mut out =
                json!({"verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources});
            if !rule.resource_names.is_empty() {
                out["resourceNames"] = json!(rule.resource_names);
            }
            resources.push(out);
        }
        if !rule.urls.is_empty() {
            urls.push(json!({"verbs": rule.verbs, "nonResourceURLs": rule.urls}));
        }
    }
    // The answer does not repeat the question.
    review["metadata"] = json!({});
    review["spec"] = json!({});
    review["status"] = json!({"resourceRules": resources, "nonResourceRules": urls, "incomplete": false});
    if let Some(missing) = missing {
        review["status"]["evaluationError"] = json!(missing);
    }
    Ok(())
}
