//! `debug`: an ephemeral container in a running pod, or a pod that sees a node from inside.

use std::time::Duration;

use client::client::Patch;
use serde_json::{Value, json};

use crate::Error;
use crate::app::App;
use crate::commands::{Command, Group};
use crate::describe::{list, text};
use crate::flags::{Args, Flag, Takes, flag, short};
use crate::request::{self, Write};
use crate::select::{self, Info};
use crate::verbs::{exec, logs, run, wait};

/// How long a debugging container may take to start.
const START: Duration = Duration::from_secs(120);

const FLAGS: &[Flag] = &[
    flag("attach", Takes::Switch, "false", "Attach to the container when it runs"),
    short("container", 'c', Takes::Text, "", "The name of the debugging container"),
    flag("env", Takes::Each, "", "NAME=value; may be repeated"),
    flag("image", Takes::Text, "", "The image"),
    flag("image-pull-policy", Takes::Text, "", "Always, IfNotPresent or Never"),
    flag("profile", Takes::Text, "general", "general, baseline, restricted, netadmin or sysadmin"),
    short("quiet", 'q', Takes::Switch, "false", "Only the output of the session"),
    short("stdin", 'i', Takes::Switch, "false", "Keep standard input open"),
    flag("target", Takes::Text, "", "The container whose processes are shown"),
    short("tty", 't', Takes::Switch, "false", "Allocate a terminal"),
];

/// Rows of the table.
pub const COMMANDS: &[Command] = &[Command {
    name: "debug",
    aliases: &[],
    group: Group::Troubleshooting,
    usage: "(POD | TYPE[[.VERSION].GROUP]/NAME) [ -- COMMAND [args...] ]",
    about: "Create debugging sessions for troubleshooting workloads and nodes",
    examples: "kubectl debug mypod -it --image=busybox --target=app\nkubectl debug node/mynode -it --image=busybox",
    flags: &[FLAGS],
    run: run!(debug),
}];

fn container(app: &App, args: &Args) -> Result<Value, Error> {
    let image = args.text("image");
    if image.is_empty() {
        return Err(Error::usage("you must specify --image when not using --copy-to."));
    }
    let name =
        args.text_if("container").map_or_else(|| format!("debugger-{}", app.rng.suffix(5)), str::to_owned);
    let mut container = json!({"name": name, "image": image, "terminationMessagePolicy": "File"});
    let command = args.split().1;
    if !command.is_empty() {
        container["command"] = json!(command);
    }
    for flag in ["stdin", "tty"] {
        if args.on(flag) {
            container[flag] = json!(true);
        }
    }
    if let Some(policy) = args.text_if("image-pull-policy") {
        container["imagePullPolicy"] = json!(policy);
    }
    let variables = super::create::pairs(&args.list("env"), |text| format!("invalid env: {text}"))?;
    if !variables.is_empty() {
        let variables: Vec<Value> =
            variables.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        container["env"] = json!(variables);
    }
    let context = match args.text("profile") {
        "general" => json!({"capabilities": {"add": ["SYS_PTRACE"]}}),
        "baseline" => Value::Null,
        "restricted" => json!({
            "allowPrivilegeEscalation": false, "runAsNonRoot": true, "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        }),
        "netadmin" => json!({"capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}}),
        "sysadmin" => json!({"privileged": true}),
        other => return Err(Error::usage(format!("unknown profile: {other}"))),
    };
    if !context.is_null() {
        container["securityContext"] = context;
    }
    Ok(container)
}

async fn debug(app: &App, args: &Args) -> Result<(), Error> {
    let container = container(app, args)?;
    let (words, _) = args.split();
    let [word] = words else {
        return Err(Error::usage("NAME is required for debug"));
    };
    let (kind, name) = word.split_once('/').unwrap_or(("pods", word));
    let row = app.kinds().await?.resource(kind)?;
    let attach = if args.given("attach") { args.on("attach") } else { args.on("stdin") };
    let pod = match row.resource.gvr.group_resource().as_str() {
        "pods" => in_pod(app, args, &row, name, &container).await?,
        "nodes" => on_node(app, args, name, container.clone()).await?,
        other => return Err(Error::usage(format!("{other:?} not supported by debug"))),
    };
    if !attach {
        return Ok(());
    }
    let called = text(&container, "/name").to_owned();
    let started = |object: Option<&Value>| {
        let Some(object) = object else { return Err(Error::state("the pod is gone")) };
        let statuses = list(object, "/status/ephemeralContainerStatuses")
            .iter()
            .chain(list(object, "/status/containerStatuses"));
        let own = statuses.into_iter().find(|status| status["name"] == called.as_str());
        let state = own.map(|status| &status["state"]);
        let ready =
            state.is_some_and(|state| state["running"].is_object() || state["terminated"].is_object());
        Ok(ready.then(|| (object.clone(), state.is_some_and(|state| state["terminated"].is_object()))))
    };
    let late = || Error::state("timed out waiting for the condition");
    let (object, over) = wait::until(app, &pod, START, started).await?.ok_or_else(late)?;
    let pod = Info { object, ..pod };
    if over {
        return logs::whole(app, &pod, &called, false, 0).await.map(drop);
    }
    exec::join(app, args, &pod, &container).await
}

async fn in_pod(
    app: &App,
    args: &Args,
    row: &client::Discovered,
    name: &str,
    container: &Value,
) -> Result<Info, Error> {
    let namespace = app.namespace()?;
    let mut own = container.clone();
    match args.text_if("target") {
        Some(target) => {
            own["targetContainerName"] = json!(target);
            if !args.on("quiet") {
                app.out.line(&format!(
                    "Targeting container {target:?}. If you don't see processes from this container it may be because \
                     the container runtime doesn't support this feature."
                ));
            }
        }
        None if !args.given("container") && !args.on("quiet") => {
            app.out.line(&format!("Defaulting debug container name to {}.", text(container, "/name")));
        }
        None => {}
    }
    let patch = Patch::Strategic(json!({"spec": {"ephemeralContainers": [own]}}));
    let at = (namespace.as_str(), name, "ephemeralcontainers");
    let write = Write { manager: "kubectl-debug".to_owned(), ..Write::default() };
    let object = request::patch(app.client()?, &row.resource, at, &patch, &write).await?;
    Ok(select::info_of(row, object))
}

async fn on_node(app: &App, args: &Args, node: &str, mut container: Value) -> Result<Info, Error> {
    let row = app.kinds().await?.resource("nodes")?;
    request::get(app.client()?, &row.resource, "", node, "").await?;
    let name = format!("node-debugger-{node}-{}", app.rng.suffix(5));
    container["volumeMounts"] = json!([{"name": "host-root", "mountPath": "/host"}]);
    if args.text("profile") == "general" {
        container.as_object_mut().map(|fields| fields.remove("securityContext"));
    }
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/managed-by": "kubectl-debug"}},
        "spec": {
            "nodeName": node, "restartPolicy": "Never", "hostNetwork": true, "hostPID": true, "hostIPC": true,
            "containers": [container], "volumes": [{"name": "host-root", "hostPath": {"path": "/"}}],
            "tolerations": [{"operator": "Exists"}],
        },
    });
    if !args.on("quiet") {
        app.out.line(&format!(
            "Creating debugging pod {name} with container {} on node {node}.",
            text(&container, "/name")
        ));
    }
    let pods = app.kinds().await?.resource("pods")?;
    let write = Write { manager: "kubectl-debug".to_owned(), ..Write::default() };
    let made = request::create(app.client()?, &pods.resource, &app.namespace()?, &pod, &write).await?;
    Ok(select::info_of(&pods, made))
}
