//! `rollout status | history | undo | pause | resume | restart`.

use std::collections::BTreeMap;

use client::client::Patch;
use serde_json::{Value, json};

use crate::Error;
use crate::app::App;
use crate::commands::{Command, FILES, Group, LABELS, PRINT, WRITE};
use crate::describe;
use crate::flags::{Args, Flag, Takes, flag, short};
use crate::print::Done;
use crate::request::{self, DryRun, Write};
use crate::select::{self, Info, Selector};
use crate::tabs;
use crate::verbs::{change, run, wait};

const STATUS: &[Flag] = &[
    flag("revision", Takes::Number, "0", "The revision that must be rolled out; 0 = the latest"),
    flag("timeout", Takes::Time, "0s", "How long to watch; 0 = as long as it takes"),
    short("watch", 'w', Takes::Switch, "true", "Watch until it is done"),
];
const HISTORY: &[Flag] = &[flag("revision", Takes::Number, "0", "Show this revision's pod template")];
const UNDO: &[Flag] =
    &[flag("to-revision", Takes::Number, "0", "The revision to go back to; 0 = the one before")];
const NONE: &[Flag] = &[];

const CAUSE: &str = "kubernetes.io/change-cause";
const REVISION: &str = "deployment.kubernetes.io/revision";
const RESTARTED: &str = "kubectl.kubernetes.io/restartedAt";

/// A row of the table.
macro_rules! rollout {
    ($name:literal, $about:literal, $flags:expr, $run:path) => {
        Command {
            name: concat!("rollout ", $name),
            aliases: &[],
            group: Group::Deploy,
            usage: "(TYPE NAME | TYPE/NAME) [flags]",
            about: $about,
            examples: concat!("kubectl rollout ", $name, " deployment/nginx"),
            flags: &[PRINT, FILES, LABELS, WRITE, $flags],
            run: run!($run),
        }
    };
}

/// Rows of the table.
pub const COMMANDS: &[Command] = &[
    rollout!("status", "Show the status of the rollout", STATUS, status),
    rollout!("history", "View rollout history", HISTORY, history),
    rollout!("undo", "Undo a previous rollout", UNDO, undo),
    rollout!("pause", "Mark the provided resource as paused", NONE, pause),
    rollout!("resume", "Resume a paused resource", NONE, resume),
    rollout!("restart", "Restart a resource", NONE, restart),
];

async fn targets(app: &App, args: &Args) -> Result<Vec<Info>, Error> {
    if args.words.is_empty() && !args.given("filename") {
        return Err(Error::usage("required resource not specified"));
    }
    let how = Selector { words: &args.words, type_alone: true, ..Selector::default() };
    let infos = select::objects(app, args, &how).await?;
    if infos.is_empty() {
        app.err.line(&format!("No resources found in {} namespace.", app.namespace()?));
    }
    Ok(infos)
}

fn int(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

/// What to tell of a rollout, and whether it is done.
pub fn progress(kind: &str, object: &Value, revision: i64) -> Result<(String, bool), Error> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let rolling = object.pointer("/spec/updateStrategy/type").is_none_or(|kind| kind == "RollingUpdate");
    if !rolling && kind != "Deployment" {
        return Err(Error::state("rollout status is only available for RollingUpdate strategy type"));
    }
    let observed = int(object, "/metadata/generation") <= int(object, "/status/observedGeneration");
    match kind {
        "Deployment" => deployment_progress(object, name, observed, revision),
        "DaemonSet" => Ok(daemon_progress(object, name, observed)),
        "StatefulSet" => Ok(stateful_progress(object, observed)),
        other => Err(Error::state(format!("no status viewer has been implemented for {other}"))),
    }
}

fn deployment_progress(
    object: &Value,
    name: &str,
    observed: bool,
    revision: i64,
) -> Result<(String, bool), Error> {
    let running =
        object["metadata"]["annotations"][REVISION].as_str().and_then(|text| text.parse().ok()).unwrap_or(0);
    if revision > 0 && revision != running {
        return Err(Error::state(format!(
            "desired revision ({revision}) is different from the running revision ({running})"
        )));
    }
    if !observed {
        return Ok(("Waiting for deployment spec update to be observed...".to_owned(), false));
    }
    let conditions = object["status"]["conditions"].as_array();
    let late = |condition: &Value| {
        condition["type"] == "Progressing" && condition["reason"] == "ProgressDeadlineExceeded"
    };
    if conditions.into_iter().flatten().any(late) {
        return Err(Error::state(format!("deployment {name:?} exceeded its progress deadline")));
    }
    let wanted = int(object, "/spec/replicas");
    let (updated, all) = (int(object, "/status/updatedReplicas"), int(object, "/status/replicas"));
    let available = int(object, "/status/availableReplicas");
    let start = format!("Waiting for deployment {name:?} rollout to finish:");
    if updated < wanted {
        return Ok((format!("{start} {updated} out of {wanted} new replicas have been updated..."), false));
    }
    if all > updated {
        return Ok((format!("{start} {} old replicas are pending termination...", all - updated), false));
    }
    if available < updated {
        return Ok((format!("{start} {available} of {updated} updated replicas are available..."), false));
    }
    Ok((format!("deployment {name:?} successfully rolled out"), true))
}

fn daemon_progress(object: &Value, name: &str, observed: bool) -> (String, bool) {
    if !observed {
        return ("Waiting for daemon set spec update to be observed...".to_owned(), false);
    }
    let wanted = int(object, "/status/desiredNumberScheduled");
    let (updated, available) =
        (int(object, "/status/updatedNumberScheduled"), int(object, "/status/numberAvailable"));
    let start = format!("Waiting for daemon set {name:?} rollout to finish:");
    if updated < wanted {
        return (format!("{start} {updated} out of {wanted} new pods have been updated..."), false);
    }
    if available < wanted {
        return (format!("{start} {available} of {wanted} updated pods are available..."), false);
    }
    (format!("daemon set {name:?} successfully rolled out"), true)
}

fn stateful_progress(object: &Value, observed: bool) -> (String, bool) {
    if !observed || int(object, "/status/observedGeneration") == 0 {
        return ("Waiting for statefulset spec update to be observed...".to_owned(), false);
    }
    let (wanted, ready) = (int(object, "/spec/replicas"), int(object, "/status/readyReplicas"));
    let updated = int(object, "/status/updatedReplicas");
    if ready < wanted {
        return (format!("Waiting for {} pods to be ready...", wanted - ready), false);
    }
    if object.pointer("/spec/updateStrategy/rollingUpdate").is_some() {
        let share = wanted - int(object, "/spec/updateStrategy/rollingUpdate/partition");
        if updated < share {
            let text = format!(
                "Waiting for partitioned roll out to finish: {updated} out of {share} new pods have been updated..."
            );
            return (text, false);
        }
        return (format!("partitioned roll out complete: {updated} new pods have been updated..."), true);
    }
    let text = |key: &str| object["status"][key].as_str().unwrap_or_default();
    let (current, update) = (text("currentRevision"), text("updateRevision"));
    if current != update {
        return (
            format!(
                "waiting for statefulset rolling update to complete {updated} pods at revision {update}..."
            ),
            false,
        );
    }
    let done = int(object, "/status/currentReplicas");
    (format!("statefulset rolling update complete {done} pods at revision {current}..."), true)
}

async fn status(app: &App, args: &Args) -> Result<(), Error> {
    let revision = args.number("revision");
    if revision < 0 {
        return Err(Error::usage(format!("revision must be a positive integer: {revision}")));
    }
    for info in targets(app, args).await? {
        let kind = info.kind.resource.kind.clone();
        let mut last = String::new();
        let mut seen = false;
        let check = |object: Option<&Value>| {
            let Some(object) = object else {
                return if seen { Err(Error::state("object has been deleted")) } else { Ok(None) };
            };
            seen = true;
            let (text, done) = progress(&kind, object, revision)?;
            if text != last {
                app.out.line(&text);
                last = text;
            }
            Ok((done || !args.on("watch")).then_some(()))
        };
        if wait::until(app, &info, args.time("timeout"), check).await?.is_none() {
            return Err(Error::state("timed out waiting for the condition"));
        }
    }
    Ok(())
}

/// A revision of a workload.
struct Revision {
    template: Value,
    cause: String,
    /// The object that holds it.
    object: Value,
}

/// The revisions of a workload: replica sets of a deployment, controller revisions of the others.
async fn revisions(app: &App, info: &Info) -> Result<BTreeMap<i64, Revision>, Error> {
    let kind = info.kind.resource.kind.as_str();
    let word = match kind {
        "Deployment" => "replicasets.apps",
        "DaemonSet" | "StatefulSet" => "controllerrevisions.apps",
        other => return Err(Error::state(format!("no history viewer has been implemented for {other:?}"))),
    };
    let row = app.kinds().await?.resource(word)?;
    let list = request::list(
        app.client()?,
        &row.resource.gvr.path(&info.namespace, ""),
        &Default::default(),
        "",
        &[],
    )
    .await?;
    let uid = info.object["metadata"]["uid"].clone();
    let mut found = BTreeMap::new();
    for object in select::items(&list) {
        let owners = object["metadata"]["ownerReferences"].as_array();
        if !owners.into_iter().flatten().any(|owner| owner["controller"] == true && owner["uid"] == uid) {
            continue;
        }
        let cause = object["metadata"]["annotations"][CAUSE].as_str().unwrap_or_default().to_owned();
        let (number, template) = if kind == "Deployment" {
            let number =
                object["metadata"]["annotations"][REVISION].as_str().and_then(|text| text.parse().ok());
            (number, object["spec"]["template"].clone())
        } else {
            // The data is a patch that replaces the template.
            (object["revision"].as_i64(), object["data"]["spec"]["template"].clone())
        };
        if let Some(number) = number {
            found.insert(number, Revision { template, cause, object });
        }
    }
    Ok(found)
}

async fn history(app: &App, args: &Args) -> Result<(), Error> {
    let revision = args.number("revision");
    if revision < 0 {
        return Err(Error::usage(format!("revision must be a positive integer: {revision}")));
    }
    let format = crate::print::Format::of(args)?;
    for info in targets(app, args).await? {
        let found = revisions(app, &info).await?;
        if let Some(format) = &format {
            let shown: Vec<&Revision> = match revision {
                0 => found.values().collect(),
                wanted => vec![
                    found
                        .get(&wanted)
                        .ok_or_else(|| Error::state("unable to find the specified revision"))?,
                ],
            };
            for revision in shown {
                app.out.text(
                    &format.show(&crate::print::without_managed_fields(revision.object.clone()), true)?,
                );
            }
            continue;
        }
        let (note, text) = if found.is_empty() {
            (String::new(), "No rollout history found.".to_owned())
        } else if revision > 0 {
            let entry =
                found.get(&revision).ok_or_else(|| Error::state("unable to find the specified revision"))?;
            let mut template = entry.template.clone();
            if !entry.cause.is_empty() {
                template["metadata"]["annotations"][CAUSE] = json!(entry.cause);
            }
            (format!(" with revision #{revision}"), describe::pod_template(&template))
        } else {
            let mut table = "REVISION\tCHANGE-CAUSE\n".to_owned();
            for (number, entry) in &found {
                let cause = if entry.cause.is_empty() { "<none>" } else { &entry.cause };
                table.push_str(&format!("{number}\t{cause}\n"));
            }
            (String::new(), tabs::DESCRIBE.format(&table))
        };
        let space = if note.is_empty() { " " } else { "" };
        app.out.line(&format!("{}{space}{note}\n{text}", info.title()));
    }
    Ok(())
}

fn without_hash(mut template: Value) -> Value {
    if let Some(labels) = template.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.remove("pod-template-hash");
    }
    template
}

async fn undo(app: &App, args: &Args) -> Result<(), Error> {
    let (done, write) = (Done::of(args)?, Write::of(args, "kubectl-rollout")?);
    let wanted = args.number("to-revision");
    for info in targets(app, args).await? {
        let found = revisions(app, &info).await?;
        let kind = info.kind.resource.kind.as_str();
        if info.object["metadata"]["annotations"][crate::verbs::apply::LAST_APPLIED].is_string() {
            app.err.line(&format!(
                "Warning: resource {}/{} was previously managed with 'kubectl apply'. Rolling back will not update the \
                 {} annotation, which may cause unexpected behavior on future 'kubectl apply' operations. Consider using \
                 'kubectl apply' with your previous configuration file instead.",
                info.kind.resource.gvr.resource,
                info.name,
                crate::verbs::apply::LAST_APPLIED
            ));
        }
        let (number, entry) = chosen(&found, wanted, (kind, &info.name))?;
        if write.dry_run == DryRun::Client {
            let text = describe::pod_template(&entry.template);
            done.show_info(app, &info, &format!("{}\n", text.trim_end()))?;
            continue;
        }
        if info.object["spec"]["paused"] == true {
            return Err(Error::state(
                "you cannot rollback a paused deployment; resume it first with 'kubectl rollout resume' and try again",
            ));
        }
        let template = without_hash(entry.template.clone());
        let mut held = without_hash(info.object["spec"]["template"].clone());
        clean(&mut held);
        let mut clean_template = template.clone();
        clean(&mut clean_template);
        if held == clean_template {
            let text = format!("skipped rollback (current template already matches revision {number})");
            done.show_info(app, &info, &text)?;
            continue;
        }
        let patch = undo_patch(&info, entry, &template, kind);
        let at = (info.namespace.as_str(), info.name.as_str(), "");
        let sent = request::patch(app.client()?, &info.kind.resource, at, &patch, &write).await;
        sent.map_err(|error| Error::state(format!("failed restoring revision {wanted}: {error}")))?;
        done.show_info(app, &info, "rolled back")?;
    }
    Ok(())
}

/// Markers of patches are no part of a template.
fn clean(template: &mut Value) {
    if let Some(fields) = template.as_object_mut() {
        fields.remove("$patch");
    }
    if let Some(meta) = template.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("creationTimestamp");
    }
}

fn undo_patch(info: &Info, entry: &Revision, template: &Value, kind: &str) -> Patch {
    if kind != "Deployment" {
        return Patch::Strategic(entry.object["data"].clone());
    }
    // Annotations of the deployment come back with its template; a few belong to the present.
    const KEEP: [&str; 6] = [
        crate::verbs::apply::LAST_APPLIED,
        REVISION,
        "deployment.kubernetes.io/revision-history",
        "deployment.kubernetes.io/desired-replicas",
        "deployment.kubernetes.io/max-replicas",
        "deprecated.deployment.rollback.to",
    ];
    let of = |object: &Value| object["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
    let mut annotations = of(&info.object);
    annotations.retain(|key, _| KEEP.contains(&key.as_str()));
    for (key, value) in of(&entry.object) {
        if !KEEP.contains(&key.as_str()) {
            annotations.insert(key, value);
        }
    }
    Patch::Json(json!([
        {"op": "replace", "path": "/spec/template", "value": template},
        {"op": "replace", "path": "/metadata/annotations", "value": annotations},
    ]))
}

fn chosen<'a>(
    found: &'a BTreeMap<i64, Revision>,
    wanted: i64,
    (kind, name): (&str, &str),
) -> Result<(i64, &'a Revision), Error> {
    if wanted != 0 {
        let missing = || Error::state(format!("unable to find specified revision {wanted} in history"));
        return found.get_key_value(&wanted).map(|(number, entry)| (*number, entry)).ok_or_else(missing);
    }
    let before = found.iter().rev().nth(1).map(|(number, entry)| (*number, entry));
    before.ok_or_else(|| match kind {
        "Deployment" => Error::state(format!("no rollout history found for deployment {name:?}")),
        _ => Error::state("no last revision to roll back to"),
    })
}

async fn pause(app: &App, args: &Args) -> Result<(), Error> {
    switch(app, args, true).await
}

async fn resume(app: &App, args: &Args) -> Result<(), Error> {
    switch(app, args, false).await
}

async fn switch(app: &App, args: &Args, on: bool) -> Result<(), Error> {
    let words = if on {
        ("paused", "pausing is not supported", "already paused")
    } else {
        ("resumed", "resuming is not supported", "is not paused")
    };
    let infos = targets(app, args).await?;
    change::each(app, args, infos, ("kubectl-rollout", words.0), |info, object| {
        let plural = &info.kind.resource.gvr.group_resource();
        let told = |why: &str| Error::state(format!("{plural} {:?} {why}", info.name));
        if info.kind.resource.kind != "Deployment" {
            return Err(told(words.1));
        }
        if (object["spec"]["paused"] == true) == on {
            return Err(told(words.2));
        }
        match (on, object["spec"].as_object_mut()) {
            (false, Some(spec)) => {
                spec.remove("paused");
            }
            _ => object["spec"]["paused"] = json!(true),
        }
        Ok(())
    })
    .await
}

async fn restart(app: &App, args: &Args) -> Result<(), Error> {
    let now = api::time::format(app.clock.now());
    let infos = targets(app, args).await?;
    change::each(app, args, infos, ("kubectl-rollout", "restarted"), |info, object| {
        let plural = &info.kind.resource.gvr.group_resource();
        let told = |why: &str| Error::state(format!("{plural} {:?} {why}", info.name));
        if !["Deployment", "DaemonSet", "StatefulSet"].contains(&info.kind.resource.kind.as_str()) {
            return Err(told("restarting is not supported"));
        }
        if object["spec"]["paused"] == true {
            return Err(told("can't restart paused deployment (run rollout resume first)"));
        }
        let meta = &mut object["spec"]["template"]["metadata"];
        if meta["annotations"][RESTARTED] == now.as_str() {
            let name = &info.name;
            return Err(Error::state(format!(
                "failed to create patch for {name}: if restart has already been triggered within the past second, please \
                 wait before attempting to trigger another"
            )));
        }
        if !meta["annotations"].is_object() {
            meta["annotations"] = json!({});
        }
        meta["annotations"][RESTARTED] = json!(now);
        Ok(())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told() {
        let deployment = |updated: i64, all: i64, available: i64| {
            json!({
                "metadata": {"name": "x", "generation": 2}, "spec": {"replicas": 3},
                "status": {"observedGeneration": 2, "updatedReplicas": updated, "replicas": all, "availableReplicas": available},
            })
        };
        let start = "Waiting for deployment \"x\" rollout to finish:";
        for (object, expect, done) in [
            (deployment(1, 3, 3), format!("{start} 1 out of 3 new replicas have been updated..."), false),
            (deployment(3, 4, 3), format!("{start} 1 old replicas are pending termination..."), false),
            (deployment(3, 3, 2), format!("{start} 2 of 3 updated replicas are available..."), false),
            (deployment(3, 3, 3), "deployment \"x\" successfully rolled out".to_owned(), true),
        ] {
            assert_eq!(progress("Deployment", &object, 0).expect("progress"), (expect, done));
        }
        let error =
            progress("Deployment", &deployment(3, 3, 3), 7).expect_err("another revision").to_string();
        assert_eq!(error, "desired revision (7) is different from the running revision (0)");
        assert!(progress("Job", &json!({}), 0).is_err());
    }
}
