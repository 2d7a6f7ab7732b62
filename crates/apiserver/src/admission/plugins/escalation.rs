//! RBAC's own guard: nobody grants rights that they do not have (upstream: policybased storage).

use api::ApiError;
use registry::tree::Tree;
use serde_json::Value;

use super::super::{Operation, Review};
use crate::authz::Attributes;
use crate::authz::rbac::{Rule, uncovered};

/// Roles need `escalate` or all of their rules; bindings need `bind` or all rules of the role.
pub fn check(review: &Review<'_>, object: Option<&Value>, old: Option<&Value>) -> Result<(), ApiError> {
    let writes = matches!(review.operation, Operation::Create | Operation::Update);
    let Some(object) = object.filter(|_| writes && review.row.group == "rbac.authorization.k8s.io") else {
        return Ok(());
    };
    if review.exchange.user.in_group("system:masters") {
        return Ok(());
    }
    match review.row.plural.as_str() {
        "roles" | "clusterroles" => role(review, object, old),
        _ => binding(review, object, old),
    }
}

fn may(review: &Review<'_>, verb: &str, plural: &str, namespace: &str, name: &str) -> bool {
    let what = Attributes::resource(verb, "rbac.authorization.k8s.io", plural, namespace, name);
    review.server.authorizer.decide(review.server, &review.exchange.user, &what).allowed
}

fn role(review: &Review<'_>, object: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    let same = old.is_some_and(|old| {
        old.at("rules") == object.at("rules") && old.at("aggregationRule") == object.at("aggregationRule")
    });
    let plural = review.row.plural.as_str();
    if same || may(review, "escalate", plural, &review.namespace, object.text("metadata.name")) {
        return Ok(());
    }
    let mut rules: Vec<Rule> = serde_json::from_value(object.at("rules").clone()).unwrap_or_default();
    if object.has("aggregationRule") {
        // What it will hold is open: only one who may do everything may make it.
        let all = || vec!["*".to_owned()];
        rules.push(Rule { verbs: all(), api_groups: all(), resources: all(), ..Rule::default() });
        rules.push(Rule { verbs: all(), urls: all(), ..Rule::default() });
    }
    let namespace = if plural == "roles" { review.namespace.as_str() } else { "" };
    covered(review, object, namespace, &rules)
}

fn binding(review: &Review<'_>, object: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    if old.is_some_and(|old| {
        old.at("subjects") == object.at("subjects") && old.at("roleRef") == object.at("roleRef")
    }) {
        return Ok(());
    }
    let (kind, name) = (object.text("roleRef.kind"), object.text("roleRef.name"));
    let plural = if kind == "ClusterRole" { "clusterroles" } else { "roles" };
    if may(review, "bind", plural, &review.namespace, name) {
        return Ok(());
    }
    let rbac = &review.server.authorizer.rbac;
    let Some(rules) = rbac.rules_of(review.server, &review.namespace, kind, name) else {
        return Err(ApiError::not_found("rbac.authorization.k8s.io", plural, name));
    };
    covered(review, object, &review.namespace, &rules)
}

fn covered(review: &Review<'_>, object: &Value, namespace: &str, rules: &[Rule]) -> Result<(), ApiError> {
    let user = &review.exchange.user;
    let (owned, unknown) = review.server.authorizer.rbac.rules_for(review.server, user, namespace);
    let missing = uncovered(&owned, rules);
    if missing.is_empty() {
        return Ok(());
    }
    let shown: Vec<String> = missing.iter().map(compact).collect();
    let unknown = unknown.map(|unknown| format!("; resolution errors: [{unknown}]")).unwrap_or_default();
    let why = format!(
        "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}{unknown}",
        user.name,
        quoted(&user.groups),
        shown.join("\n")
    );
    Err(review.forbidden(Some(object), &why))
}

fn quoted(list: &[String]) -> String {
    let items: Vec<String> = list.iter().map(|item| format!("{item:?}")).collect();
    format!("[{}]", items.join(" "))
}

/// `{APIGroups:[""], Resources:["pods"], Verbs:["get"]}`
fn compact(rule: &Rule) -> String {
    let list = |items: &[String]| {
        let items: Vec<String> = items.iter().map(|item| format!("{item:?}")).collect();
        format!("[{}]", items.join(" "))
    };
    let parts = [
        ("APIGroups", &rule.api_groups),
        ("Resources", &rule.resources),
        ("ResourceNames", &rule.resource_names),
        ("NonResourceURLs", &rule.urls),
        ("Verbs", &rule.verbs),
    ];
    let shown: Vec<String> = parts
        .iter()
        .filter(|(_, items)| !items.is_empty())
        .map(|(name, items)| format!("{name}:{}", list(items)))
        .collect();
    format!("{{{}}}", shown.join(", "))
}
