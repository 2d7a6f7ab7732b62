//! `run`: one pod from flags, attached to if wanted.

use std::time::Duration;

use serde_json::{Value, json};

use crate::Error;
use crate::app::App;
use crate::commands::{Command, Group, PRINT, WRITE};
use crate::describe::{list, text};
use crate::flags::{Args, Flag, Takes, flag, short};
use crate::print::Done;
use crate::request::{self, Delete, DryRun, Write};
use crate::select::{self, Info};
use crate::verbs::{apply, delete, exec, logs, run, wait};

const FLAGS: &[Flag] = &[
    flag("annotations", Takes::Each, "", "key=value; may be repeated"),
    flag("attach", Takes::Switch, "false", "Attach to the pod when it runs"),
    flag("command", Takes::Switch, "false", "The words after -- are the command, not its arguments"),
    flag("cascade", Takes::Optional("background"), "background", "With --rm: dependents"),
    flag("env", Takes::Each, "", "NAME=value; may be repeated"),
    flag("expose", Takes::Switch, "false", "Make a service for --port too"),
    flag("image", Takes::Text, "", "The image"),
    flag("image-pull-policy", Takes::Text, "", "Always, IfNotPresent or Never"),
    short("labels", 'l', Takes::Text, "", "Labels of the pod"),
    flag("leave-stdin-open", Takes::Switch, "false", "Standard input stays open after the first attach"),
    flag("override-type", Takes::Text, "merge", "merge, strategic or json"),
    flag("overrides", Takes::Text, "", "JSON to merge into the pod"),
    flag("pod-running-timeout", Takes::Time, "1m", "How long to wait for the pod"),
    flag("port", Takes::Text, "", "The port the container listens on"),
    flag("privileged", Takes::Switch, "false", "Run privileged"),
    short("quiet", 'q', Takes::Switch, "false", "Only the output of the session"),
    flag("restart", Takes::Text, "Always", "Always, OnFailure or Never"),
    flag("rm", Takes::Switch, "false", "Delete the pod afterwards"),
    flag("save-config", Takes::Switch, "false", "Remember the configuration for apply"),
    short("stdin", 'i', Takes::Switch, "false", "Keep standard input open"),
    short("tty", 't', Takes::Switch, "false", "Allocate a terminal"),
];

/// Rows of the table.
pub const COMMANDS: &[Command] = &[Command {
    name: "run",
    aliases: &[],
    group: Group::Beginner,
    usage: "NAME --image=image [--env=\"key=value\"] [--port=port] [--command] -- [COMMAND] [args...]",
    about: "Run a particular image on the cluster",
    examples: "kubectl run nginx --image=nginx\nkubectl run -i -t busybox --image=busybox --restart=Never --rm -- sh",
    flags: &[PRINT, WRITE, FLAGS],
    run: run!(start),
}];

fn check(args: &Args) -> Result<bool, Error> {
    let misuse = |why: &str| Err(Error::misuse("run", why));
    if args.text("image").is_empty() {
        return Err(Error::usage("required flag(s) \"image\" not set"));
    }
    if args.split().0.is_empty() {
        return misuse("NAME is required for run");
    }
    if args.on("tty") && !args.on("stdin") {
        return misuse("-i/--stdin is required for containers with -t/--tty=true");
    }
    if args.on("expose") && args.text("port").is_empty() {
        return misuse("--port must be set when exposing a service");
    }
    let attach = if args.given("attach") { args.on("attach") } else { args.on("stdin") };
    if args.on("rm") && !attach {
        return misuse("--rm should only be used for attached containers");
    }
    if attach && args.text("dry-run") != "none" {
        return misuse(
            "--dry-run=[server|client] can't be used with attached containers options (--attach, --stdin, or --tty)",
        );
    }
    if !["Always", "OnFailure", "Never"].contains(&args.text("restart")) {
        return misuse(&format!("invalid restart policy: {}", args.text("restart")));
    }
    if !["", "Always", "IfNotPresent", "Never"].contains(&args.text("image-pull-policy")) {
        return misuse(&format!("invalid image pull policy: {}", args.text("image-pull-policy")));
    }
    Ok(attach)
}

fn pod(app: &App, args: &Args) -> Result<Value, Error> {
    let (before, after) = args.split();
    let name = &before[0];
    let words: Vec<&String> = before[1..].iter().chain(after).collect();
    let labels = match args.text_if("labels") {
        None => json!({"run": name}),
        Some(text) => {
            let parts: Vec<String> = text.split(',').map(str::to_owned).collect();
            Value::Object(super::create::pairs(&parts, |part| format!("unexpected label spec: {part}"))?)
        }
    };
    let mut container = json!({"name": name, "image": args.text("image"), "resources": {}});
    if !words.is_empty() {
        container[if args.on("command") { "command" } else { "args" }] = json!(words);
    }
    let mut env = Vec::new();
    for text in args.list("env") {
        let (key, value) =
            text.split_once('=').ok_or_else(|| Error::usage(format!("invalid env: {text}")))?;
        env.push(if value.is_empty() { json!({"name": key}) } else { json!({"name": key, "value": value}) });
    }
    if !env.is_empty() {
        container["env"] = json!(env);
    }
    if let Some(port) = args.text_if("port") {
        let port: i64 = port
            .parse()
            .map_err(|_| Error::usage(format!("strconv.Atoi: parsing {port:?}: invalid syntax")))?;
        container["ports"] = json!([{"containerPort": port}]);
    }
    if let Some(policy) = args.text_if("image-pull-policy") {
        container["imagePullPolicy"] = json!(policy);
    }
    if args.on("privileged") {
        container["securityContext"] = json!({"privileged": true});
    }
    if args.on("stdin") {
        container["stdin"] = json!(true);
        if !args.on("leave-stdin-open") {
            container["stdinOnce"] = json!(true);
        }
    }
    if args.on("tty") {
        container["tty"] = json!(true);
    }
    let mut object = super::create::start(app, "v1", "Pod", name, true);
    object["metadata"]["labels"] = labels;
    let annotations =
        super::create::pairs(&args.list("annotations"), |text| format!("invalid annotation: {text}"))?;
    if !annotations.is_empty() {
        object["metadata"]["annotations"] = Value::Object(annotations);
    }
    object["spec"] = json!({"containers": [container], "dnsPolicy": "ClusterFirst", "restartPolicy": args.text("restart")});
    object["status"] = json!({});
    overridden(args, object)
}

fn overridden(args: &Args, object: Value) -> Result<Value, Error> {
    let Some(text) = args.text_if("overrides") else { return Ok(object) };
    let wrong = |error: String| Error::usage(format!("Invalid JSON Patch: {error}"));
    let body: Value = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
    let patch = match args.text("override-type") {
        "strategic" => client::Patch::Strategic(body),
        "json" => client::Patch::Json(body),
        _ => client::Patch::Merge(body),
    };
    apply::patched(&object, &patch)
}

async fn start(app: &App, args: &Args) -> Result<(), Error> {
    let attach = check(args)?;
    let (done, write) = (Done::of(args)?, Write::of(args, "kubectl-run")?);
    let mut object = pod(app, args)?;
    if args.on("save-config") {
        apply::remember(&mut object);
    }
    let service = args.on("expose").then(|| service(&object, args));
    if write.dry_run == DryRun::Client {
        if let Some(service) = &service {
            done.show(app, service, "created")?;
        }
        return done.show(app, &object, "created");
    }
    let client = app.client()?;
    let namespace = app.namespace()?;
    let row = app.kinds().await?.resource("pods")?;
    let made = request::create(client, &row.resource, &namespace, &object, &write).await?;
    let pod = select::info_of(&row, made);
    let mut made_service = None;
    if let Some(service) = &service {
        let row = app.kinds().await?.resource("services")?;
        let object = request::create(client, &row.resource, &namespace, service, &write).await?;
        done.show(app, &object, "created")?;
        made_service = Some(select::info_of(&row, object));
    }
    if !attach {
        return done.show(app, &pod.object, "created");
    }
    let outcome = attached(app, args, &pod).await;
    if args.on("rm") {
        remove(app, args, &pod).await?;
        if let Some(service) = &made_service {
            remove(app, args, service).await?;
        }
    }
    outcome
}

fn service(pod: &Value, args: &Args) -> Value {
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": pod["metadata"]["name"], "labels": pod["metadata"]["labels"]},
        "spec": {
            "selector": pod["metadata"]["labels"],
            "ports": [{"port": args.text("port").parse::<i64>().unwrap_or(0), "protocol": "TCP",
                "targetPort": args.text("port").parse::<i64>().unwrap_or(0)}],
        },
        "status": {"loadBalancer": {}},
    });
    if let Some(namespace) = pod["metadata"]["namespace"].as_str() {
        service["metadata"]["namespace"] = json!(namespace);
    }
    service
}

async fn remove(app: &App, args: &Args, info: &Info) -> Result<(), Error> {
    let how = Delete { propagation: "Background".to_owned(), ..Delete::default() };
    let answer = request::delete(app.client()?, &info.kind.resource, &info.namespace, &info.name, &how).await;
    let Some(answer) = client::client::absent(answer)? else { return Ok(()) };
    if !args.on("quiet") {
        let kind = crate::kinds::singular_of(&info.kind);
        app.out.line(&format!("{kind} {:?} deleted from {} namespace", info.name, info.namespace));
    }
    wait::until_gone(app, info, &delete::uid_of(&answer), Duration::ZERO).await
}

fn phase(object: &Value) -> &str {
    text(object, "/status/phase")
}

/// Waits for the pod, joins it to this terminal, and ends with its exit code.
async fn attached(app: &App, args: &Args, pod: &Info) -> Result<(), Error> {
    let limit = args.time("pod-running-timeout");
    let started = |object: Option<&Value>| {
        let object = object.ok_or_else(|| Error::state(format!("pods {:?} not found", pod.name)))?;
        let ready =
            list(object, "/status/conditions").iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
        let over = ["Succeeded", "Failed"].contains(&phase(object));
        Ok((over || (phase(object) == "Running" && ready)).then(|| object.clone()))
    };
    let late = || Error::state("timed out waiting for the condition");
    let object = wait::until(app, pod, limit, started).await?.ok_or_else(late)?;
    let pod = Info { object, ..pod.clone() };
    let container = list(&pod.object, "/spec/containers").first().cloned().unwrap_or_default();
    if phase(&pod.object) == "Running" {
        exec::join(app, args, &pod, &container).await?;
    } else {
        logs::whole(app, &pod, text(&container, "/name"), true, 0).await?;
    }
    if args.on("leave-stdin-open") || args.text("restart") == "Always" {
        return Ok(());
    }
    ended(app, &pod, limit, args.text("restart") == "OnFailure").await
}

async fn ended(app: &App, pod: &Info, limit: Duration, only_success: bool) -> Result<(), Error> {
    let over = |object: Option<&Value>| {
        let Some(object) = object else { return Ok(Some(Value::Null)) };
        let done = phase(object) == "Succeeded" || (!only_success && phase(object) == "Failed");
        Ok(done.then(|| object.clone()))
    };
    let late = || Error::state("timed out waiting for the condition");
    let object = wait::until(app, pod, limit, over).await?.ok_or_else(late)?;
    if phase(&object) != "Failed" {
        return Ok(());
    }
    let place = format!("{}/{}", pod.namespace, pod.name);
    let state = object.pointer("/status/containerStatuses/0/state/terminated").cloned().unwrap_or_default();
    let code = state["exitCode"].as_i64().and_then(|code| i32::try_from(code).ok()).filter(|code| *code != 0);
    let Some(code) = code else {
        return Err(Error::state(format!("pod {place} failed with unknown exit code")));
    };
    let message =
        format!("pod {place} terminated ({})\n{}", text(&state, "/reason"), text(&state, "/message"));
    Err(Error::Bare { message, code })
}
