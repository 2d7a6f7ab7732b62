//! `create`: from manifests, and from flags for common kinds.

mod access;
mod config;
mod other;
mod workload;

use http::Method;
use serde_json::{Map, Value, json};

use crate::Error;
use crate::app::App;
use crate::commands::{Command, FILES, Group, LABELS, PRINT, VALIDATE, WRITE};
use crate::flags::{Args, Flag, Takes, flag};
use crate::print::Done;
use crate::request::{self, DryRun, Write};
use crate::select::{self, Pick, Selector};
use crate::verbs::{apply, edit, run};

const FLAGS: &[Flag] = &[
    flag("edit", Takes::Switch, "false", "Edit the objects before they are created"),
    flag("raw", Takes::Text, "", "Post a file to any path of the server"),
];

/// Of every generator.
pub(super) const SAVE: &[Flag] =
    &[flag("save-config", Takes::Switch, "false", "Remember the configuration for apply")];

/// A generator's row of the table.
macro_rules! generator {
    ($name:literal, $aliases:expr, $usage:literal, $about:literal, $flags:expr, $run:expr) => {
        crate::commands::Command {
            name: concat!("create ", $name),
            aliases: $aliases,
            group: crate::commands::Group::Beginner,
            usage: $usage,
            about: $about,
            examples: "",
            flags: &[
                crate::commands::PRINT,
                crate::commands::WRITE,
                crate::commands::VALIDATE,
                crate::verbs::create::SAVE,
                $flags,
            ],
            run: $run,
        }
    };
}
use generator;

const CREATE: &[Command] = &[Command {
    name: "create",
    aliases: &[],
    group: Group::Beginner,
    usage: "-f FILENAME",
    about: "Create a resource from a file or from stdin",
    examples: "kubectl create -f pod.json\nkubectl create deployment web --image=nginx",
    flags: &[PRINT, FILES, LABELS, WRITE, VALIDATE, SAVE, FLAGS],
    run: run!(create),
}];

/// Rows of the table.
pub const TABLES: &[&[Command]] =
    &[CREATE, workload::COMMANDS, config::COMMANDS, access::COMMANDS, other::COMMANDS];

async fn create(app: &App, args: &Args) -> Result<(), Error> {
    if let Some(path) = args.text_if("raw") {
        let [name] = args
            .list("filename")
            .try_into()
            .map_err(|_| Error::usage("--raw can only use a single local file or stdin"))?;
        let bytes = if name == "-" {
            app.read_stdin()?
        } else {
            std::fs::read(&name).map_err(|error| Error::local(format!("error reading {name:?}"), error))?
        };
        let mut call = client::client::Call::new(Method::POST, path.to_owned());
        call.body = bytes.into();
        app.out.bytes(&app.client()?.bytes(&call).await?);
        return Ok(());
    }
    if !args.given("filename") && !args.given("kustomize") {
        if let Some(word) = args.words.first() {
            return Err(Error::misuse("create", &format!("unknown command {word:?}")));
        }
        return Err(Error::usage("must specify one of -f and -k"));
    }
    if args.on("edit") {
        return edit::created(app, args).await;
    }
    let (done, write) = (Done::of(args)?, Write::of(args, "kubectl-create")?);
    let picked = select::pick(app, args, &Selector { words: &args.words, ..Selector::default() }).await?;
    let mut errors = Vec::new();
    for pick in picked.picks {
        let Pick::Given(mut info) = pick else { continue };
        if args.on("save-config") {
            apply::remember(&mut info.object);
        }
        if write.dry_run != DryRun::Client {
            let sent =
                request::create(app.client()?, &info.kind.resource, &info.namespace, &info.object, &write)
                    .await;
            match sent {
                Ok(object) => info.object = object,
                Err(error) => {
                    errors.push(created_error(&info.source, error));
                    continue;
                }
            }
        }
        done.show(app, &info.object, "created")?;
    }
    Error::all(errors)
}

/// `error when creating "f.yaml": …`
pub fn created_error(source: &str, error: client::ClientError) -> Error {
    Error::during(format!("error when creating {source:?}"))(error)
}

/// Creates what flags described. `prefix` goes before the server's message; empty = the server's error as it is.
pub(super) async fn finish(
    app: &App,
    args: &Args,
    object: Result<Value, Error>,
    prefix: &str,
) -> Result<(), Error> {
    let mut object = object?;
    let (done, write) = (Done::of(args)?, Write::of(args, "kubectl-create")?);
    if args.on("save-config") {
        apply::remember(&mut object);
    }
    if write.dry_run == DryRun::Client {
        return done.show(app, &object, "created");
    }
    let text = |key: &str| object[key].as_str().unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let row = app.kinds().await?.of_type(api_version, kind).cloned();
    let row =
        row.ok_or_else(|| Error::state(format!("no matches for kind {kind:?} in version {api_version:?}")))?;
    let namespace = app.namespace()?;
    match request::create(app.client()?, &row.resource, &namespace, &object, &write).await {
        Ok(object) => done.show(app, &object, "created"),
        Err(error) if prefix.is_empty() => Err(error.into()),
        Err(error) => match error.api() {
            Some(api) => Err(Error::state(format!("{prefix}{}", api.message))),
            None => Err(error.into()),
        },
    }
}

/// The one name a generator takes.
pub(super) fn name(args: &Args) -> Result<&str, Error> {
    match args.split().0 {
        [name] => Ok(name),
        words => Err(Error::usage(format!("exactly one NAME is required, got {}", words.len()))),
    }
}

/// Type and metadata of an object in the making; the namespace only if the user named it.
pub fn start(app: &App, api_version: &str, kind: &str, name: &str, namespaced: bool) -> Value {
    let mut object = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}});
    if namespaced && app.namespace_given() {
        object["metadata"]["namespace"] = json!(app.args.text("namespace"));
    }
    object
}

/// Pairs of `key=value`; `bad` says what is wrong with others.
pub fn pairs(texts: &[String], bad: impl Fn(&str) -> String) -> Result<Map<String, Value>, Error> {
    let mut found = Map::new();
    for text in texts {
        let (key, value) = text.split_once('=').ok_or_else(|| Error::usage(bad(text)))?;
        found.insert(key.to_owned(), json!(value));
    }
    Ok(found)
}

/// A number, or the text as it is.
pub fn int_or_text(text: &str) -> Value {
    text.parse::<i64>().map_or_else(|_| json!(text), |number| json!(number))
}

/// The kind of a word in a flag, when the server knows it.
pub(super) async fn known_resource(app: &App, word: &str) -> Option<(String, String)> {
    let found = app.kinds().await.ok()?.resource(word).ok()?;
    Some((found.resource.gvr.group.clone(), found.resource.gvr.resource.clone()))
}
