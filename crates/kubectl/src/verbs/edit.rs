//! `edit`, `replace` and `patch`: whole objects and parts of them.

use std::process::Command as Program;

use client::client::Patch;
use machinery::codec::yaml;
use serde_json::{Value, json};

use crate::app::App;
use crate::commands::{Command, FILES, Group, LABELS, LOCAL, PRINT, VALIDATE, WRITE};
use crate::flags::{Args, Flag, Takes, flag};
use crate::print::{Done, json as print_json};
use crate::request::{self, Delete, DryRun, Write};
use crate::select::{self, Info, Pick, Selector};
use crate::verbs::{apply, create, delete, run, wait};
use crate::{Error, files};

const EDIT: &[Flag] = &[
    flag("output-patch", Takes::Switch, "false", "Show the patch"),
    flag("save-config", Takes::Switch, "false", "Remember the configuration for apply"),
    flag("subresource", Takes::Text, "", "The subresource to edit"),
    flag("windows-line-endings", Takes::Switch, "false", "Accepted for compatibility"),
];
const REPLACE: &[Flag] = &[
    flag("cascade", Takes::Optional("background"), "background", "With --force: dependents"),
    flag("force", Takes::Switch, "false", "Delete and create again"),
    flag("grace-period", Takes::Number, "-1", "With --force: seconds a pod has to end"),
    flag("raw", Takes::Text, "", "Put a file to any path of the server"),
    flag("save-config", Takes::Switch, "false", "Remember the configuration for apply"),
    flag("subresource", Takes::Text, "", "The subresource to replace"),
    flag("timeout", Takes::Time, "0s", "With --force: how long to wait"),
    flag("wait", Takes::Switch, "false", "With --force: wait for deletions"),
];
const PATCH: &[Flag] = &[
    crate::flags::short("patch", 'p', Takes::Text, "", "The patch, as JSON or YAML"),
    flag("patch-file", Takes::Text, "", "A file with the patch"),
    flag("subresource", Takes::Text, "", "The subresource to patch"),
    flag("type", Takes::Text, "strategic", "json, merge or strategic"),
];

/// Rows of the table.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "edit",
        aliases: &[],
        group: Group::Intermediate,
        usage: "(RESOURCE/NAME | -f FILENAME)",
        about: "Edit a resource on the server",
        examples: "kubectl edit svc/registry\nKUBE_EDITOR=\"nano\" kubectl edit svc/registry",
        flags: &[PRINT, FILES, LABELS, WRITE, VALIDATE, EDIT],
        run: run!(edit),
    },
    Command {
        name: "replace",
        aliases: &[],
        group: Group::Advanced,
        usage: "-f FILENAME",
        about: "Replace a resource by file name or stdin",
        examples: "kubectl replace -f ./pod.json\nkubectl replace --force -f ./pod.json",
        flags: &[PRINT, FILES, WRITE, VALIDATE, REPLACE],
        run: run!(replace),
    },
    Command {
        name: "patch",
        aliases: &[],
        group: Group::Advanced,
        usage: "(-f FILENAME | TYPE NAME) [-p PATCH|--patch-file FILE]",
        about: "Update fields of a resource",
        examples: "kubectl patch node x -p '{\"spec\":{\"unschedulable\":true}}'\n\
            kubectl patch deploy x --type=json -p='[{\"op\":\"replace\",\"path\":\"/spec/replicas\",\"value\":2}]'",
        flags: &[PRINT, FILES, LOCAL, WRITE, PATCH],
        run: run!(patch),
    },
];

async fn patch(app: &App, args: &Args) -> Result<(), Error> {
    let text = match (args.text("patch"), args.text("patch-file")) {
        ("", "") => {
            return Err(Error::usage(
                "must specify --patch or --patch-file containing the contents of the patch",
            ));
        }
        (text, "") => text.to_owned(),
        ("", path) => std::fs::read_to_string(path)
            .map_err(|error| Error::local(format!("unable to read patch file: {path}"), error))?,
        _ => return Err(Error::usage("cannot specify --patch and --patch-file together")),
    };
    let body = yaml::decode_first(text.as_bytes())
        .map_err(|error| Error::input(format!("unable to parse {text:?}: {error}")))?
        .value;
    let patch = match args.text("type").to_lowercase().as_str() {
        "json" => Patch::Json(body),
        "merge" => Patch::Merge(body),
        "strategic" => Patch::Strategic(body),
        _ => {
            return Err(Error::usage(format!(
                "--type must be one of [json merge strategic], not {:?}",
                args.text("type")
            )));
        }
    };
    let (done, write) = (Done::of(args)?, Write::of(args, "kubectl-patch")?);
    if args.on("local") {
        for manifest in files::read(app, &args.list("filename"), args.on("recursive"))? {
            done.show(app, &apply::patched(&manifest.object, &patch)?, "patched")?;
        }
        return Ok(());
    }
    let picked = select::pick(app, args, &Selector { words: &args.words, ..Selector::default() }).await?;
    let mut errors = Vec::new();
    for pick in &picked.picks {
        let (kind, namespace, name) = match pick {
            Pick::One { kind, namespace, name } => (kind, namespace, name),
            Pick::Given(info) => (&info.kind, &info.namespace, &info.name),
            Pick::Many { .. } => {
                return Err(Error::usage("resource(s) were provided, but no name was specified"));
            }
        };
        if let Err(error) = patch_one(app, (kind, namespace, name), args, &patch, &write, &done).await {
            errors.push(error);
        }
    }
    Error::all(errors)
}

async fn patch_one(
    app: &App,
    (kind, namespace, name): (&client::Discovered, &str, &str),
    args: &Args,
    patch: &Patch,
    write: &Write,
    done: &Done,
) -> Result<(), Error> {
    let client = app.client()?;
    let subresource = args.text("subresource");
    let before = request::get(client, &kind.resource, namespace, name, subresource).await?;
    let after = if write.dry_run == DryRun::Client {
        apply::patched(&before, patch)?
    } else {
        request::patch(client, &kind.resource, (namespace, name, subresource), patch, write).await?
    };
    let operation = if after == before { "patched (no change)" } else { "patched" };
    let info = Info {
        kind: kind.clone(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        object: after,
        source: String::new(),
    };
    done.show_info(app, &info, operation)
}

async fn replace(app: &App, args: &Args) -> Result<(), Error> {
    if !args.given("filename") && !args.given("kustomize") {
        return Err(Error::usage("must specify one of -f and -k"));
    }
    if let Some(path) = args.text_if("raw") {
        let name = args.list("filename").remove(0);
        let bytes = if name == "-" {
            app.read_stdin()?
        } else {
            std::fs::read(&name).map_err(|error| Error::local(name, error))?
        };
        let mut call = client::client::Call::new(http::Method::PUT, path.to_owned());
        call.body = bytes.into();
        app.out.bytes(&app.client()?.bytes(&call).await?);
        return Ok(());
    }
    let (done, write) = (Done::of(args)?, Write::of(args, "kubectl-replace")?);
    let force = args.on("force");
    if args.number("grace-period") >= 0 && !force {
        return Err(Error::usage("--grace-period must have --force specified"));
    }
    let picked = select::pick(app, args, &Selector { words: &args.words, ..Selector::default() }).await?;
    let infos: Vec<Info> = picked
        .picks
        .into_iter()
        .filter_map(|pick| if let Pick::Given(info) = pick { Some(info) } else { None })
        .collect();
    if force {
        for info in &infos {
            force_away(app, args, info).await?;
        }
    }
    let mut errors = Vec::new();
    for mut info in infos {
        if args.on("save-config") || info.object["metadata"]["annotations"][apply::LAST_APPLIED].is_string() {
            apply::remember(&mut info.object);
        }
        if write.dry_run == DryRun::Client {
            done.show(app, &info.object, "replaced")?;
            continue;
        }
        let client = app.client()?;
        let at = (info.namespace.as_str(), info.name.as_str(), args.text("subresource"));
        let sent = if force {
            request::create(client, &info.kind.resource, &info.namespace, &info.object, &write).await
        } else {
            request::replace(client, &info.kind.resource, at, &info.object, &write).await
        };
        match sent {
            Ok(object) => done.show(app, &object, "replaced")?,
            Err(error) => {
                errors.push(Error::during(format!("error when replacing {:?}", info.source))(error))
            }
        }
    }
    Error::all(errors)
}

async fn force_away(app: &App, args: &Args, info: &Info) -> Result<(), Error> {
    let grace = args.number("grace-period");
    let how = Delete {
        propagation: "Background".to_owned(),
        grace_seconds: Some(grace).filter(|grace| *grace >= 0),
        ..Delete::default()
    };
    match request::delete(app.client()?, &info.kind.resource, &info.namespace, &info.name, &how).await {
        Ok(answer) => {
            app.out.line(&format!("{} {:?} deleted", crate::kinds::singular_of(&info.kind), info.name));
            wait::until_gone(app, info, &delete::uid_of(&answer), args.time("timeout")).await
        }
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Lets the user edit a text; returns what was saved.
fn in_editor(app: &App, text: &str) -> Result<String, Error> {
    let chosen = ["KUBE_EDITOR", "EDITOR"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|text| !text.is_empty()));
    let editor = chosen.unwrap_or_else(|| "vi".to_owned());
    let path = std::env::temp_dir().join(format!("kubectl-edit-{}.yaml", app.rng.suffix(10)));
    let fail = |error| Error::local(format!("editing {}", path.display()), error);
    std::fs::write(&path, text).map_err(fail)?;
    let quoted = format!("{editor} \"$1\"");
    let status = Program::new("/bin/sh").arg("-c").arg(quoted).arg("sh").arg(&path).status().map_err(fail)?;
    let edited = std::fs::read_to_string(&path).map_err(fail);
    let _ = std::fs::remove_file(&path);
    if !status.success() {
        return Err(Error::state(format!("there was a problem with the editor {editor:?}")));
    }
    edited
}

const HEADER: &str =
    "# Change the object below and save. Lines that begin with '#' are left out; an empty file cancels.\n#\n";

fn is_blank(text: &str) -> bool {
    text.lines().all(|line| line.trim().is_empty() || line.starts_with('#'))
}

async fn edit(app: &App, args: &Args) -> Result<(), Error> {
    let (done, write) = (Done::of(args)?, Write::of(args, "kubectl-edit")?);
    let infos = select::objects(app, args, &Selector { words: &args.words, ..Selector::default() }).await?;
    let mut errors = Vec::new();
    for info in infos {
        if let Err(error) = edit_one(app, args, &info, &done, &write).await {
            errors.push(error);
        }
    }
    Error::all(errors)
}

async fn edit_one(app: &App, args: &Args, info: &Info, done: &Done, write: &Write) -> Result<(), Error> {
    let shown = crate::print::without_managed_fields(info.object.clone());
    let original = yaml::encode(&shown);
    let (mut text, mut note) = (original.clone(), String::new());
    loop {
        let saved = in_editor(app, &format!("{HEADER}{note}{text}"))?;
        let kept: String =
            saved.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
        if is_blank(&kept) {
            app.err.line("Edit cancelled, saved file was empty.");
            return Ok(());
        }
        if kept == original || (!note.is_empty() && kept == text) {
            app.err.line("Edit cancelled, no changes made.");
            return if note.is_empty() { Ok(()) } else { Err(Error::Exit(1)) };
        }
        let outcome = match yaml::decode_first(kept.as_bytes()) {
            Ok(document) => send_edited(app, args, info, (&shown, &document.value), write).await,
            Err(error) => Err(Error::input(format!("The edited file had a syntax error: {error}"))),
        };
        match outcome {
            Ok(None) => {
                app.err.line("Edit cancelled, no changes made.");
                return Ok(());
            }
            Ok(Some(object)) => return done.show_info(app, &Info { object, ..info.clone() }, "edited"),
            Err(error) => {
                let (message, _) = error.report(&app.server());
                note = message.lines().map(|line| format!("# {line}\n")).collect::<String>() + "#\n";
                app.err.line(&message);
                text = kept;
            }
        }
    }
}

async fn send_edited(
    app: &App,
    args: &Args,
    info: &Info,
    (before, after): (&Value, &Value),
    write: &Write,
) -> Result<Option<Value>, Error> {
    for key in ["/apiVersion", "/kind", "/metadata/name"] {
        if before.pointer(key) != after.pointer(key) {
            return Err(Error::input("At least one of apiVersion, kind and name was changed"));
        }
    }
    let mut after = after.clone();
    if args.on("save-config") || after["metadata"]["annotations"][apply::LAST_APPLIED].is_string() {
        apply::remember(&mut after);
    }
    let patch = apply::two_way(before, &after)?;
    if patch.body() == &json!({}) {
        return Ok(None);
    }
    if args.on("output-patch") {
        app.out.line(&format!("Patch: {}", print_json::compact(patch.body())));
    }
    let at = (info.namespace.as_str(), info.name.as_str(), args.text("subresource"));
    Ok(Some(request::patch(app.client()?, &info.kind.resource, at, &patch, write).await?))
}

/// `create --edit`: the manifests as the user changed them.
pub async fn created(app: &App, args: &Args) -> Result<(), Error> {
    let (done, write) = (Done::of(args)?, Write::of(args, "kubectl-create")?);
    for manifest in files::read(app, &args.list("filename"), args.on("recursive"))? {
        let saved = in_editor(app, &format!("{HEADER}{}", yaml::encode(&manifest.object)))?;
        if is_blank(&saved) {
            app.err.line("Edit cancelled, saved file was empty.");
            continue;
        }
        let mut changed = Vec::new();
        files::parse(saved.as_bytes(), &manifest.source, &mut changed)?;
        for manifest in changed {
            let info = select::locate(app, manifest).await?;
            let made =
                request::create(app.client()?, &info.kind.resource, &info.namespace, &info.object, &write)
                    .await;
            let object = made.map_err(|error| create::created_error(&info.source, error))?;
            done.show(app, &object, "created")?;
        }
    }
    Ok(())
}
