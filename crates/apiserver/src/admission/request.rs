//! The `request` that webhooks are sent and that expressions see.

use registry::Resource;
use serde_json::{Value, json};

use super::{Operation, Review, matching};

/// The request as the row sees it, without uid and objects.
pub fn attributes(review: &Review<'_>, row: &Resource, object: &Value, old: Option<&Value>) -> Value {
    let own = &review.served.row;
    let kind_of = |row: &Resource| match row.subresource(&review.subresource) {
        Some(sub) => json!({"group": sub.group, "version": sub.version, "kind": sub.kind}),
        None => json!({"group": row.group, "version": row.version, "kind": row.kind}),
    };
    let place_of =
        |row: &Resource| json!({"group": row.group, "version": row.version, "resource": row.plural});
    let user = &review.exchange.user;
    let mut out = json!({
        "uid": "", "kind": kind_of(row), "resource": place_of(row), "requestKind": kind_of(own),
        "requestResource": place_of(own), "operation": review.operation.as_str(), "dryRun": review.dry_run,
        "userInfo": {"username": user.name, "groups": user.groups},
    });
    let name = matching::name(review, object, old);
    for (key, text) in [
        ("name", name),
        ("namespace", review.namespace.as_str()),
        ("subResource", review.subresource.as_str()),
        ("requestSubResource", review.subresource.as_str()),
    ] {
        if !text.is_empty() {
            out[key] = text.into();
        }
    }
    // Namespaces are in the namespace of their own name, as upstream has it.
    if review.is("", "namespaces") && !name.is_empty() {
        out["namespace"] = name.into();
    }
    if !user.uid.is_empty() {
        out["userInfo"]["uid"] = json!(user.uid);
    }
    if !user.extra.is_empty() {
        out["userInfo"]["extra"] = json!(user.extra);
    }
    if review.operation != Operation::Connect {
        out["options"] = options(review);
    }
    out
}

fn options(review: &Review<'_>) -> Value {
    let exchange = review.exchange;
    let kind = match (review.operation, exchange.info.verb.as_str()) {
        (Operation::Delete, _) => "DeleteOptions",
        (_, "patch") => "PatchOptions",
        (Operation::Create, _) => "CreateOptions",
        _ => "UpdateOptions",
    };
    let mut out = review.options.clone().filter(Value::is_object).unwrap_or_else(|| json!({}));
    out["kind"] = kind.into();
    out["apiVersion"] = "meta.k8s.io/v1".into();
    if review.operation == Operation::Delete {
        return out;
    }
    for key in ["fieldManager", "fieldValidation"] {
        if let Some(text) = exchange.query.get(key).filter(|text| !text.is_empty()) {
            out[key] = text.into();
        }
    }
    if review.dry_run {
        out["dryRun"] = json!(["All"]);
    }
    if kind == "PatchOptions" && exchange.query.flag("force") {
        out["force"] = true.into();
    }
    out
}
