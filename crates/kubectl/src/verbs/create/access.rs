//! `create serviceaccount | token | role | rolebinding | clusterrole | clusterrolebinding`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{finish, generator, known_resource, name, start};
use crate::app::App;
use crate::commands::Command;
use crate::flags::{Args, Flag, Takes, flag};
use crate::{Error, request};

const NONE: &[Flag] = &[];
const TOKEN: &[Flag] = &[
    flag("audience", Takes::Each, "", "Whom the token is for; may be repeated"),
    flag("duration", Takes::Time, "0s", "How long it is valid; 0 = the server's choice"),
    flag("bound-object-kind", Takes::Text, "", "Pod, Secret or Node: the token lives as long as it"),
    flag("bound-object-name", Takes::Text, "", "Its name"),
    flag("bound-object-uid", Takes::Text, "", "Its uid"),
];
const ROLE: &[Flag] = &[
    flag("verb", Takes::List, "", "Verbs"),
    flag("resource", Takes::List, "", "resource.group/subresource"),
    flag("resource-name", Takes::Each, "", "Only objects of these names"),
];
const CLUSTER_ROLE: &[Flag] = &[
    flag("verb", Takes::List, "", "Verbs"),
    flag("resource", Takes::List, "", "resource.group/subresource"),
    flag("resource-name", Takes::Each, "", "Only objects of these names"),
    flag("non-resource-url", Takes::List, "", "Paths such as /healthz"),
    flag("aggregation-rule", Takes::List, "", "Labels of roles to gather"),
];
const BINDING: &[Flag] = &[
    flag("role", Takes::Text, "", "The role"),
    flag("clusterrole", Takes::Text, "", "The cluster role"),
    flag("user", Takes::Each, "", "Users"),
    flag("group", Takes::Each, "", "Groups"),
    flag("serviceaccount", Takes::Each, "", "namespace:name"),
];

/// Rows of the table.
pub const COMMANDS: &[Command] = &[
    generator!(
        "serviceaccount",
        &["sa"],
        "NAME",
        "Create a service account with the specified name",
        NONE,
        |app, args| {
            Box::pin(async move {
                finish(app, args, account(app, args), "failed to create serviceaccount: ").await
            })
        }
    ),
    generator!(
        "token",
        &[],
        "SERVICE_ACCOUNT_NAME",
        "Request a service account token",
        TOKEN,
        |app, args| { Box::pin(token(app, args)) }
    ),
    generator!(
        "role",
        &[],
        "NAME --verb=verb --resource=resource.group/subresource",
        "Create a role with single rule",
        ROLE,
        |app, args| Box::pin(async move {
            finish(app, args, role(app, args, "Role").await, "failed to create role: ").await
        })
    ),
    generator!(
        "clusterrole",
        &[],
        "NAME --verb=verb --resource=resource.group",
        "Create a cluster role",
        CLUSTER_ROLE,
        |app, args| Box::pin(
            async move { finish(app, args, role(app, args, "ClusterRole").await, "").await }
        )
    ),
    generator!(
        "rolebinding",
        &[],
        "NAME --clusterrole=NAME|--role=NAME [--user=username] [--group=groupname]",
        "Create a role binding for a particular role or cluster role",
        BINDING,
        |app, args| Box::pin(async move {
            finish(app, args, binding(app, args, "RoleBinding"), "failed to create rolebinding: ").await
        })
    ),
    generator!(
        "clusterrolebinding",
        &[],
        "NAME --clusterrole=NAME [--user=username] [--group=groupname]",
        "Create a cluster role binding for a particular cluster role",
        BINDING,
        |app, args| Box::pin(async move {
            finish(
                app,
                args,
                binding(app, args, "ClusterRoleBinding"),
                "failed to create clusterrolebinding: ",
            )
            .await
        })
    ),
];

fn account(app: &App, args: &Args) -> Result<Value, Error> {
    Ok(start(app, "v1", "ServiceAccount", name(args)?, true))
}

async fn token(app: &App, args: &Args) -> Result<(), Error> {
    let name = name(args)?;
    let mut object = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "metadata": {}, "spec": {"audiences": args.list("audience")},
    });
    let seconds = args.time("duration").as_secs();
    if seconds > 0 {
        object["spec"]["expirationSeconds"] = json!(seconds);
    }
    if let Some(kind) = args.text_if("bound-object-kind") {
        let wrong = || Error::usage("supported --bound-object-kind values are Node, Pod, Secret");
        let kind = ["Node", "Pod", "Secret"].into_iter().find(|known| known.eq_ignore_ascii_case(kind));
        let bound = args.text_if("bound-object-name").ok_or_else(|| {
            Error::usage("--bound-object-name is required if --bound-object-kind is provided")
        })?;
        object["spec"]["boundObjectRef"] =
            json!({"apiVersion": "v1", "kind": kind.ok_or_else(wrong)?, "name": bound});
        if let Some(uid) = args.text_if("bound-object-uid") {
            object["spec"]["boundObjectRef"]["uid"] = json!(uid);
        }
    }
    let path = format!("/api/v1/namespaces/{}/serviceaccounts/{name}/token", app.namespace()?);
    let answer = request::post(app.client()?, &path, &object).await.map_err(|error| match error.api() {
        Some(api) => Error::state(format!("failed to create token: {}", api.message)),
        None => error.into(),
    })?;
    if let Some(format) = crate::print::Format::of(args)? {
        app.out.text(&format.show(&answer, true)?);
        return Ok(());
    }
    let token = answer.pointer("/status/token").and_then(Value::as_str);
    app.out.line(token.ok_or_else(|| Error::state("failed to create token: no token in server response"))?);
    Ok(())
}

fn unique(texts: Vec<String>) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for text in texts {
        if !found.contains(&text) {
            found.push(text);
        }
    }
    found
}

/// One rule a group of resources.
async fn rules(app: &App, args: &Args) -> Result<Vec<Value>, Error> {
    let mut verbs = unique(args.list("verb"));
    if verbs.iter().any(|verb| verb == "*") {
        verbs = vec!["*".to_owned()];
    }
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for text in args.list("resource") {
        let (resource, sub) = text.split_once('/').unwrap_or((&text, ""));
        if resource.is_empty() {
            return Err(Error::usage("resource must be specified if apiGroup/subresource specified"));
        }
        let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
        let mut found = (group.to_owned(), plural.to_owned());
        if plural != "*"
            && let Some(known) = known_resource(app, resource).await
        {
            found = known;
        }
        let full = if sub.is_empty() { found.1 } else { format!("{}/{sub}", found.1) };
        let list = groups.entry(found.0).or_default();
        if !list.contains(&full) {
            list.push(full);
        }
    }
    let names = unique(args.list("resource-name"));
    let mut rules = Vec::new();
    for (group, resources) in groups {
        let mut rule = json!({"verbs": verbs, "resources": resources, "apiGroups": [group]});
        if !names.is_empty() {
            rule["resourceNames"] = json!(names);
        }
        rules.push(rule);
    }
    let urls = args.list("non-resource-url");
    if !urls.is_empty() {
        rules.push(json!({"verbs": verbs, "nonResourceURLs": urls}));
    }
    Ok(rules)
}

async fn role(app: &App, args: &Args, kind: &str) -> Result<Value, Error> {
    let name = name(args)?;
    let mut object = start(app, "rbac.authorization.k8s.io/v1", kind, name, kind == "Role");
    let gathered = args.list("aggregation-rule");
    if !gathered.is_empty() {
        if ["verb", "resource", "resource-name", "non-resource-url"].into_iter().any(|flag| args.given(flag))
        {
            return Err(Error::usage(
                "aggregation rule must be specified without nonResourceURLs, verbs, resources or resourceNames",
            ));
        }
        let labels = super::pairs(&gathered, |text| format!("{text} must be formatted as key=value"))?;
        object["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": labels}]});
        object["rules"] = Value::Null;
        return Ok(object);
    }
    if args.list("verb").is_empty() {
        return Err(Error::usage("at least one verb must be specified"));
    }
    if args.list("resource").is_empty() && args.list("non-resource-url").is_empty() {
        return Err(Error::usage(match kind {
            "Role" => "at least one resource must be specified",
            _ => "one of resource or nonResourceURL must be specified",
        }));
    }
    object["rules"] = json!(rules(app, args).await?);
    Ok(object)
}

fn binding(app: &App, args: &Args, kind: &str) -> Result<Value, Error> {
    let name = name(args)?;
    let (role, cluster) = (args.text("role"), args.text("clusterrole"));
    if kind == "ClusterRoleBinding" && cluster.is_empty() {
        return Err(Error::usage("required flag(s) \"clusterrole\" not set"));
    }
    if role.is_empty() == cluster.is_empty() {
        return Err(Error::usage("exactly one of clusterrole or role must be specified"));
    }
    let group = "rbac.authorization.k8s.io";
    let mut subjects = Vec::new();
    // Everywhere else --user picks the kubeconfig's user.
    for user in args.list("user") {
        subjects.push(json!({"kind": "User", "apiGroup": group, "name": user}));
    }
    for called in args.list("group") {
        subjects.push(json!({"kind": "Group", "apiGroup": group, "name": called}));
    }
    for account in args.list("serviceaccount") {
        let wrong = || Error::usage("serviceaccount must be <namespace>:<name>");
        let (namespace, called) =
            account.split_once(':').filter(|(_, name)| !name.is_empty()).ok_or_else(wrong)?;
        subjects.push(json!({"kind": "ServiceAccount", "namespace": namespace, "name": called}));
    }
    let mut object = start(app, "rbac.authorization.k8s.io/v1", kind, name, kind == "RoleBinding");
    let (role_kind, role) = if role.is_empty() { ("ClusterRole", cluster) } else { ("Role", role) };
    object["roleRef"] = json!({"apiGroup": group, "kind": role_kind, "name": role});
    if !subjects.is_empty() {
        object["subjects"] = json!(subjects);
    }
    Ok(object)
}
