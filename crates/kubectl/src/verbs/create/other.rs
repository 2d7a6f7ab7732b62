//! `create namespace | quota | priorityclass`.

use serde_json::{Value, json};

use super::{finish, generator, name, start};
use crate::Error;
use crate::app::App;
use crate::commands::Command;
use crate::flags::{Args, Flag, Takes, flag};

const NONE: &[Flag] = &[];
const QUOTA: &[Flag] = &[
    flag("hard", Takes::List, "", "resource=quantity,…"),
    flag("scopes", Takes::List, "", "Scopes that must all fit"),
];
const PRIORITY: &[Flag] = &[
    flag("value", Takes::Number, "0", "The priority"),
    flag("global-default", Takes::Switch, "false", "Of pods that name no class"),
    flag("description", Takes::Text, "", "For people"),
    flag("preemption-policy", Takes::Text, "PreemptLowerPriority", "PreemptLowerPriority or Never"),
];

/// Rows of the table.
pub const COMMANDS: &[Command] = &[
    generator!(
        "namespace",
        &["ns"],
        "NAME",
        "Create a namespace with the specified name",
        NONE,
        |app, args| { Box::pin(async move { finish(app, args, namespace(app, args), "").await }) }
    ),
    generator!(
        "quota",
        &["resourcequota"],
        "NAME [--hard=key1=value1,key2=value2] [--scopes=Scope1,Scope2]",
        "Create a quota with the specified name",
        QUOTA,
        |app, args| Box::pin(
            async move { finish(app, args, quota(app, args), "failed to create quota: ").await }
        )
    ),
    generator!(
        "priorityclass",
        &["pc"],
        "NAME --value=VALUE --global-default=BOOL",
        "Create a priority class with the specified name",
        PRIORITY,
        |app, args| Box::pin(async move {
            finish(app, args, priority(app, args), "failed to create priorityclass: ").await
        })
    ),
];

fn namespace(app: &App, args: &Args) -> Result<Value, Error> {
    let mut object = start(app, "v1", "Namespace", name(args)?, false);
    object["spec"] = json!({});
    object["status"] = json!({});
    Ok(object)
}

fn quota(app: &App, args: &Args) -> Result<Value, Error> {
    let mut object = start(app, "v1", "ResourceQuota", name(args)?, true);
    let hard = super::pairs(&args.list("hard"), |text| {
        format!("Invalid argument syntax {text}, expected <resource>=<value>")
    })?;
    object["spec"] = json!({});
    if !hard.is_empty() {
        object["spec"]["hard"] = Value::Object(hard);
    }
    let scopes = args.list("scopes");
    if !scopes.is_empty() {
        object["spec"]["scopes"] = json!(scopes);
    }
    object["status"] = json!({});
    Ok(object)
}

fn priority(app: &App, args: &Args) -> Result<Value, Error> {
    let mut object = start(app, "scheduling.k8s.io/v1", "PriorityClass", name(args)?, false);
    object["value"] = json!(args.number("value"));
    object["preemptionPolicy"] = json!(args.text("preemption-policy"));
    if args.on("global-default") {
        object["globalDefault"] = json!(true);
    }
    if let Some(text) = args.text_if("description") {
        object["description"] = json!(text);
    }
    Ok(object)
}
