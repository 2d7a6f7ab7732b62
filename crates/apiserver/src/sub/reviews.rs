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
    match call.row().kind.as_str() {
        "TokenReview" => token(call, &mut review).await?,
        "SelfSubjectReview" => own(call, &mut review),
        "SelfSubjectRulesReview" => rules(call, &mut review)?,
        "SelfSubjectAccessReview" => access(call, &mut review, Some(&call.exchange.user)).await?,
        "SubjectAccessReview" => access(call, &mut review, None).await?,
        "LocalSubjectAccessReview" => local(call, &mut review).await?,
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

async fn access(call: &Call<'_>, review: &mut Value, user: Option<&UserInfo>) -> Result<(), ApiError> {
    use api::validation::{ErrorList, FieldError, Path};
    let path = Path::new("spec");
    let mut errors = ErrorList::new();
    let (resource, other) = (review.has("spec.resourceAttributes"), review.has("spec.nonResourceAttributes"));
    if resource && other {
        let detail = "cannot be specified in combination with resourceAttributes";
        errors.push(FieldError::invalid(
            &path.child("nonResourceAttributes"),
            json!({"Path": review.text("spec.nonResourceAttributes.path"), "Verb": review.text("spec.nonResourceAttributes.verb")}),
            detail,
        ));
    }
    if !resource && !other {
        let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        errors.push(FieldError::invalid(&path.child("resourceAttributes"), Value::Null, detail));
    }
    if user.is_none() && review.text("spec.user").is_empty() && review.list("spec.groups").is_empty() {
        errors.push(FieldError::invalid(
            &path.child("user"),
            "",
            "at least one of user or group must be specified",
        ));
    }
    if !errors.is_empty() {
        let row = call.row();
        return Err(ApiError::invalid(&row.group, "", "", &errors));
    }
    let own = subject(review);
    let wanted = attributes(review).unwrap_or_default();
    let decision = call.server.authorizer.ask(call.server, user.unwrap_or(&own), &wanted).await;
    let mut status = json!({"allowed": decision.allowed});
    if !decision.reason.is_empty() {
        status["reason"] = json!(decision.reason);
    }
    review["status"] = status;
    Ok(())
}

async fn local(call: &Call<'_>, review: &mut Value) -> Result<(), ApiError> {
    use api::validation::{ErrorList, FieldError, Path};
    let namespace = review.text("spec.resourceAttributes.namespace").to_owned();
    if review.has("spec.resourceAttributes") && namespace != call.namespace() {
        let detail = "must match metadata.namespace";
        let error = FieldError::invalid(
            &Path::new("spec").child("resourceAttributes").child("namespace"),
            namespace,
            detail,
        );
        return Err(ApiError::invalid(
            "authorization.k8s.io",
            "LocalSubjectAccessReview",
            "",
            &ErrorList(vec![error]),
        ));
    }
    access(call, review, None).await?;
    review.set("metadata.namespace", call.namespace());
    Ok(())
}

fn rules(call: &Call<'_>, review: &mut Value) -> Result<(), ApiError> {
    let namespace = review.text("spec.namespace").to_owned();
    if namespace.is_empty() {
        return Err(ApiError::bad_request("no namespace on request"));
    }
    let user = &call.exchange.user;
    let (mut resources, mut urls) = (Vec::new(), Vec::new());
    if user.in_group("system:masters") {
        resources.push(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
        urls.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
    }
    for rule in call.server.authorizer.rbac.rules_for(call.server, user, &namespace) {
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
    review["status"] = json!({"resourceRules": resources, "nonResourceRules": urls, "incomplete": false});
    Ok(())
}
