//! `auth can-i | whoami` and `certificate approve | deny`.

use serde_json::{Value, json};

use crate::Error;
use crate::app::App;
use crate::commands::{Command, EVERYWHERE, FILES, Group, PRINT};
use crate::describe::{self, list, text};
use crate::flags::{Args, Flag, Takes, flag, short};
use crate::print::table::Widths;
use crate::print::{Done, Format, go_value};
use crate::request::{self, Write};
use crate::select::{self, Info, Selector};
use crate::verbs::run;

const CAN_I: &[Flag] = &[
    flag("list", Takes::Switch, "false", "Everything the user may do"),
    flag("no-headers", Takes::Switch, "false", "No header"),
    short("quiet", 'q', Takes::Switch, "false", "Only the exit code"),
    flag("subresource", Takes::Text, "", "A subresource such as log"),
];
const OUTPUT: &[Flag] = &[
    short("output", 'o', Takes::Text, "", "json, yaml, …"),
    flag("template", Takes::Text, "", "Template of -o go-template or jsonpath"),
    flag("show-managed-fields", Takes::Switch, "false", "Keep managedFields"),
];
const FORCE: &[Flag] = &[flag("force", Takes::Switch, "false", "Also when it has been decided already")];

/// Rows of the table.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "auth can-i",
        aliases: &[],
        group: Group::Troubleshooting,
        usage: "VERB [TYPE | TYPE/NAME | NONRESOURCEURL]",
        about: "Check whether an action is allowed",
        examples: "kubectl auth can-i create pods -A\nkubectl auth can-i --list",
        flags: &[EVERYWHERE, CAN_I],
        run: run!(can_i),
    },
    Command {
        name: "auth whoami",
        aliases: &[],
        group: Group::Troubleshooting,
        usage: "",
        about: "Experimental: Check self subject attributes",
        examples: "",
        flags: &[OUTPUT],
        run: run!(whoami),
    },
    Command {
        name: "certificate approve",
        aliases: &[],
        group: Group::Cluster,
        usage: "(-f FILENAME | NAME)",
        about: "Approve a certificate signing request",
        examples: "kubectl certificate approve csr-sqgzp",
        flags: &[PRINT, FILES, FORCE],
        run: run!(approve),
    },
    Command {
        name: "certificate deny",
        aliases: &[],
        group: Group::Cluster,
        usage: "(-f FILENAME | NAME)",
        about: "Deny a certificate signing request",
        examples: "",
        flags: &[PRINT, FILES, FORCE],
        run: run!(deny),
    },
];

const REVIEWS: &str = "/apis/authorization.k8s.io/v1";

async fn can_i(app: &App, args: &Args) -> Result<(), Error> {
    let everywhere = args.on("all-namespaces");
    let namespace = if everywhere { String::new() } else { app.namespace()? };
    if args.on("list") {
        if !args.words.is_empty() {
            return Err(Error::usage("list option must be specified with no arguments"));
        }
        if args.on("quiet") || everywhere || args.given("subresource") {
            return Err(Error::usage(
                "list option can't be specified with neither quiet, all-namespaces nor subresource options",
            ));
        }
        return list_rules(app, args, &namespace).await;
    }
    if args.on("no-headers") {
        return Err(Error::usage("--no-headers cannot be set without --list specified"));
    }
    let (verb, what, name) = match args.words.as_slice() {
        [verb, what] => (verb, what, ""),
        [verb, what, name] => (verb, what, name.as_str()),
        _ => {
            return Err(Error::usage(
                "you must specify two arguments: verb resource or verb resource/resourceName.\nSee 'kubectl auth can-i -h' \
                 for help and examples.",
            ));
        }
    };
    let attributes = attributes(app, args, &namespace, (verb, what, name)).await?;
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "metadata": {}, "spec": attributes});
    let answer =
        request::post(app.client()?, &format!("{REVIEWS}/selfsubjectaccessreviews"), &review).await?;
    let allowed = answer["status"]["allowed"] == true;
    if !args.on("quiet") {
        let mut line = if allowed { "yes" } else { "no" }.to_owned();
        if !allowed {
            for field in ["/status/reason", "/status/evaluationError"] {
                let why = text(&answer, field);
                if !why.is_empty() {
                    line.push_str(&format!(" - {why}"));
                }
            }
        }
        app.out.line(&line);
    }
    if allowed { Ok(()) } else { Err(Error::Exit(1)) }
}

async fn attributes(
    app: &App,
    args: &Args,
    namespace: &str,
    (verb, what, name): (&str, &str, &str),
) -> Result<Value, Error> {
    if what.starts_with('/') {
        if args.given("subresource") {
            return Err(Error::usage("--subresource can not be used with NonResourceURL"));
        }
        return Ok(json!({"nonResourceAttributes": {"verb": verb, "path": what}}));
    }
    let (kind, name) = match what.split_once('/') {
        Some((kind, name)) => (kind, name),
        None => (what, name),
    };
    let (mut group, mut resource) = (String::new(), kind.to_owned());
    if kind != "*" {
        match app.kinds().await?.resource(kind) {
            Ok(row) => {
                if !row.resource.namespaced && !namespace.is_empty() {
                    let full = row.resource.gvr.group_resource();
                    let tail = match full.split_once('.') {
                        Some((plain, group)) => {
                            format!("'{plain}' is not namespace scoped in group '{group}'")
                        }
                        None => format!("'{full}' is not namespace scoped"),
                    };
                    app.err.line(&format!("Warning: resource {tail}\n"));
                }
                (group, resource) = (row.resource.gvr.group, row.resource.gvr.resource);
            }
            Err(_) if ["users", "groups"].contains(&kind) => {}
            Err(_) => app.err.line(&format!("Warning: the server doesn't have a resource type '{kind}'\n")),
        }
    }
    Ok(json!({"resourceAttributes": {
        "namespace": namespace, "verb": verb, "group": group, "resource": resource,
        "subresource": args.text("subresource"), "name": name,
    }}))
}

async fn list_rules(app: &App, args: &Args, namespace: &str) -> Result<(), Error> {
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "metadata": {},
        "spec": {"namespace": namespace},
    });
    let answer = request::post(app.client()?, &format!("{REVIEWS}/selfsubjectrulesreviews"), &review).await?;
    if answer["status"]["incomplete"] == true {
        let why = text(&answer, "/status/evaluationError");
        app.err.line(&format!("Warning: the list may be incomplete: {why}"));
    }
    let mut rules = list(&answer, "/status/resourceRules").to_vec();
    rules.extend_from_slice(list(&answer, "/status/nonResourceRules"));
    let mut rows: Vec<Vec<String>> = Vec::new();
    if !args.on("no-headers") {
        rows.push(["Resources", "Non-Resource URLs", "Resource Names", "Verbs"].map(str::to_owned).to_vec());
    }
    rows.extend(
        describe::rule_lines(&rules).iter().map(|line| line.split('\t').map(str::to_owned).collect()),
    );
    app.out.text(&Widths::default().format(&rows));
    Ok(())
}

async fn whoami(app: &App, args: &Args) -> Result<(), Error> {
    let review =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview", "metadata": {}});
    let answer =
        request::post(app.client()?, "/apis/authentication.k8s.io/v1/selfsubjectreviews", &review).await?;
    if let Some(format) = Format::of(args)? {
        app.out.text(&format.show(&answer, true)?);
        return Ok(());
    }
    let user = &answer["status"]["userInfo"];
    let mut rows = vec![vec!["ATTRIBUTE".to_owned(), "VALUE".to_owned()]];
    let mut add = |name: &str, value: &Value| {
        let shown = go_value(value);
        if !value.is_null() && !shown.is_empty() {
            rows.push(vec![name.to_owned(), shown]);
        }
    };
    add("Username", &user["username"]);
    add("UID", &user["uid"]);
    add("Groups", &user["groups"]);
    for (key, value) in user["extra"].as_object().into_iter().flatten() {
        add(&format!("Extra: {key}"), value);
    }
    app.out.text(&Widths::default().format(&rows));
    Ok(())
}

async fn approve(app: &App, args: &Args) -> Result<(), Error> {
    decide(app, args, "Approved", ("KubectlApprove", "This CSR was approved by kubectl certificate approve."))
        .await
}

async fn deny(app: &App, args: &Args) -> Result<(), Error> {
    decide(app, args, "Denied", ("KubectlDeny", "This CSR was denied by kubectl certificate deny.")).await
}

async fn decide(app: &App, args: &Args, verdict: &str, (reason, message): (&str, &str)) -> Result<(), Error> {
    if args.words.is_empty() && !args.given("filename") {
        return Err(Error::usage("one or more CSRs must be specified as <name> or -f <filename>"));
    }
    let done = Done::of(args)?;
    let how =
        Selector { words: &args.words, default_kind: "certificatesigningrequests", ..Selector::default() };
    let now = api::time::format(app.clock.now());
    for info in select::objects(app, args, &how).await? {
        let mut object = info.object.clone();
        let held = list(&object, "/status/conditions").to_vec();
        let other = if verdict == "Approved" { "Denied" } else { "Approved" };
        if held.iter().any(|condition| condition["type"] == other) {
            let name = &info.name;
            return Err(Error::state(format!("certificate signing request {name:?} is already {other}")));
        }
        let known = held.iter().any(|condition| condition["type"] == verdict);
        if !known || args.on("force") {
            let mut conditions: Vec<Value> =
                held.into_iter().filter(|condition| condition["type"] != verdict).collect();
            conditions.push(json!({
                "type": verdict, "status": "True", "reason": reason, "message": message, "lastUpdateTime": now,
            }));
            object["status"]["conditions"] = json!(conditions);
            let at = ("", info.name.as_str(), "approval");
            object =
                request::replace(app.client()?, &info.kind.resource, at, &object, &Write::default()).await?;
        }
        done.show_info(app, &Info { object, ..info }, &verdict.to_lowercase())?;
    }
    Ok(())
}
