//! `delete`: by name, selector or manifest; waits until the objects are gone.

use std::io::BufRead as _;

use serde_json::Value;

use crate::Error;
use crate::app::App;
use crate::commands::{ALL, Command, EVERYWHERE, FIELDS, FILES, Group, LABELS};
use crate::flags::{Args, Flag, Takes, flag, short};
use crate::kinds;
use crate::request::{self, Delete, DryRun};
use crate::select::{self, Info, Pick, Selector};
use crate::verbs::{run, wait};

const FLAGS: &[Flag] = &[
    flag(
        "cascade",
        Takes::Optional("background"),
        "background",
        "background, orphan or foreground: dependents",
    ),
    flag("dry-run", Takes::Optional("unchanged"), "none", "none, server or client: only try"),
    flag("force", Takes::Switch, "false", "Delete at once, without waiting for the node"),
    flag("grace-period", Takes::Number, "-1", "Seconds a pod has to end; -1 = its own"),
    flag("ignore-not-found", Takes::Switch, "false", "A missing object is no error"),
    short("interactive", 'i', Takes::Switch, "false", "Ask before deleting"),
    flag("now", Takes::Switch, "false", "The same as --grace-period=1"),
    short("output", 'o', Takes::Text, "", "name: print only titles"),
    flag("raw", Takes::Text, "", "Delete any path of the server"),
    flag("timeout", Takes::Time, "0s", "How long to wait; 0 = as long as it takes"),
    flag("wait", Takes::Switch, "true", "Wait until the objects are gone"),
];

/// Rows of the table.
pub const COMMANDS: &[Command] = &[Command {
    name: "delete",
    aliases: &[],
    group: Group::Intermediate,
    usage: "([-f FILENAME] | TYPE [(NAME | -l label | --all)])",
    about: "Delete resources by file names, stdin, resources and names, or by resources and label selector",
    examples: "kubectl delete -f pod.yaml\nkubectl delete pods -l app=web\nkubectl delete pod x --now",
    flags: &[FILES, LABELS, FIELDS, EVERYWHERE, ALL, FLAGS],
    run: run!(delete),
}];

/// What was asked, checked.
pub struct Plan {
    /// How to delete.
    pub how: Delete,
    /// Only try.
    pub dry_run: DryRun,
    /// `deleted` or `force deleted`.
    verb: &'static str,
    names_only: bool,
    ignore_missing: bool,
}

impl Plan {
    /// From flags.
    pub fn of(app: &App, args: &Args) -> Result<Plan, Error> {
        let dry_run = DryRun::of(args)?;
        let mut grace = args.number("grace-period");
        if args.on("now") {
            if grace != -1 {
                return Err(Error::usage("--now and --grace-period cannot be specified together"));
            }
            grace = 1;
        }
        if args.on("force") && grace < 0 {
            grace = 0;
        }
        if grace == 0 && !args.on("force") {
            // Without --force the shortest honest grace is one second.
            grace = 1;
        } else if args.on("force") && grace > 0 {
            return Err(Error::usage(
                "--force and --grace-period greater than 0 cannot be specified together",
            ));
        }
        if grace == 0 {
            app.err.line(
                "Warning: Immediate deletion does not wait for confirmation that the running resource has been \
                 terminated. The resource may continue to run on the cluster indefinitely.",
            );
        }
        let output = args.text("output");
        if !output.is_empty() && output != "name" {
            return Err(Error::usage(format!(
                "unexpected -o output mode: {output}. We only support '-o name'"
            )));
        }
        let how = Delete {
            propagation: cascade(args)?.to_owned(),
            grace_seconds: (grace >= 0).then_some(grace),
            dry_run: dry_run == DryRun::Server,
            ..Delete::default()
        };
        let verb = if grace == 0 { "force deleted" } else { "deleted" };
        let names_only = output == "name";
        Ok(Plan { how, dry_run, verb, names_only, ignore_missing: args.on("ignore-not-found") })
    }

    /// Deletes one; returns false when it was not there and that is no error.
    pub async fn delete(&self, app: &App, info: &Info, told: bool) -> Result<Option<Value>, Error> {
        let mut answer = Value::Null;
        if self.dry_run != DryRun::Client {
            let client = app.client()?;
            let sent =
                request::delete(client, &info.kind.resource, &info.namespace, &info.name, &self.how).await;
            answer = match sent {
                Ok(answer) => answer,
                Err(error) if self.ignore_missing && error.is_not_found() => return Ok(None),
                Err(error) if info.source.is_empty() => return Err(error.into()),
                Err(error) => {
                    return Err(Error::during(format!("error when deleting {:?}", info.source))(error));
                }
            };
        }
        if told {
            self.tell(app, info);
        }
        Ok(Some(answer))
    }

    fn tell(&self, app: &App, info: &Info) {
        if self.names_only {
            return app.out.line(&info.title());
        }
        let kind = kinds::singular_of(&info.kind);
        let place = if info.namespace.is_empty() {
            String::new()
        } else {
            format!(" from {} namespace", info.namespace)
        };
        let suffix = self.dry_run.suffix();
        app.out.line(&format!("{kind} {:?} {}{place}{suffix}", info.name, self.verb));
    }
}

fn cascade(args: &Args) -> Result<&'static str, Error> {
    match args.text("cascade") {
        "background" | "" | "true" => Ok("Background"),
        "foreground" => Ok("Foreground"),
        "orphan" | "false" => Ok("Orphan"),
        other => Err(Error::usage(format!(
            "invalid cascade value ({other}). Must be \"background\", \"foreground\", or \"orphan\""
        ))),
    }
}

async fn delete(app: &App, args: &Args) -> Result<(), Error> {
    if let Some(path) = args.text_if("raw") {
        let call = client::client::Call::new(http::Method::DELETE, path.to_owned());
        app.out.bytes(&app.client()?.bytes(&call).await?);
        return Ok(());
    }
    let plan = Plan::of(app, args)?;
    let all = args.on("all");
    let how = Selector { words: &args.words, all, ..Selector::default() };
    let mut picked = select::pick(app, args, &how).await?;
    // Files are deleted as they are named; the rest is asked for by name.
    let mut infos = Vec::new();
    let mut errors = Vec::new();
    for pick in std::mem::take(&mut picked.picks) {
        match pick {
            Pick::Given(info) => infos.push(info),
            Pick::One { kind, namespace, name } => {
                infos.push(Info { kind, namespace, name, object: Value::Null, source: String::new() });
            }
            many @ Pick::Many { .. } => {
                let one = select::Picked { picks: vec![many], single: false, select: picked.select.clone() };
                let (found, failed) = select::fetch(app, &one).await;
                infos.extend(found);
                errors.extend(failed);
            }
        }
    }
    if args.on("interactive") && !confirmed(app, &infos) {
        app.out.line("deletion is cancelled");
        return Ok(());
    }
    let cluster_scoped = infos.iter().any(|info| !info.kind.resource.namespaced);
    if cluster_scoped && app.namespace_given() {
        app.err.line("Warning: deleting cluster-scoped resources, not scoped to the provided namespace");
    }
    let nothing = infos.is_empty() && errors.is_empty();
    let mut gone = Vec::new();
    for info in infos {
        match plan.delete(app, &info, true).await {
            Ok(Some(answer)) => gone.push((info, uid_of(&answer))),
            Ok(None) => {}
            Err(error) => errors.push(error),
        }
    }
    if nothing {
        app.out.line("No resources found");
    }
    Error::all(errors)?;
    if args.on("wait") && plan.dry_run == DryRun::No {
        for (info, uid) in &gone {
            wait::until_gone(app, info, uid, args.time("timeout")).await?;
        }
    }
    Ok(())
}

/// The uid of a deleted object: from the object itself, or from a `Status` about it.
pub fn uid_of(answer: &Value) -> String {
    let uid = answer.pointer("/metadata/uid").or_else(|| answer.pointer("/details/uid"));
    uid.and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn confirmed(app: &App, infos: &[Info]) -> bool {
    app.out.line(&format!("You are about to delete the following {} resource(s):", infos.len()));
    for info in infos {
        app.out.line(&info.title());
    }
    app.out.text("Do you want to continue? (y/N): ");
    let mut line = String::new();
    match app.given_stdin() {
        Some(bytes) => line = String::from_utf8_lossy(&bytes).into_owned(),
        None => {
            let _ = std::io::stdin().lock().read_line(&mut line);
        }
    }
    line.trim().eq_ignore_ascii_case("y")
}
