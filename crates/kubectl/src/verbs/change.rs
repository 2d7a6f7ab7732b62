//! One way to change objects that exist: read, change in memory, send the difference, tell.
//!
//! Must not know what is changed.

use client::client::Patch;
use serde_json::{Value, json};

use crate::app::App;
use crate::flags::Args;
use crate::print::Done;
use crate::request::{self, DryRun, Write};
use crate::select::{self, Info, Selector};
use crate::verbs::apply;
use crate::{Error, files, kinds};

/// What became of a change.
pub struct Changed {
    /// The object afterwards.
    pub object: Value,
    /// False when there was nothing to change.
    pub changed: bool,
}

/// The objects a command acts on: from the server, or with `--local` as they are written.
pub async fn objects(app: &App, args: &Args, words: &[String]) -> Result<Vec<Info>, Error> {
    if !args.on("local") {
        let how = Selector { words, all: args.on("all"), ..Selector::default() };
        return select::objects(app, args, &how).await;
    }
    if args.text("dry-run") == "server" {
        return Err(Error::usage(
            "cannot specify --local and --dry-run=server - did you mean --dry-run=client?",
        ));
    }
    if !args.given("filename") {
        return Err(Error::usage(
            "error: you must specify resources by --filename when --local is set.\nExample resource specifications \
             include:\n   '-f rsrc.yaml'\n   '--filename=rsrc.json'",
        ));
    }
    let manifests = files::read(app, &args.list("filename"), args.on("recursive"))?;
    Ok(manifests.into_iter().map(local).collect())
}

/// An object that no server knows.
fn local(manifest: files::Manifest) -> Info {
    let text = |pointer: &str| {
        manifest.object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let gvk = api::Gvk::from_api_version(&text("/apiVersion"), &text("/kind"));
    let plural = format!("{}s", gvk.kind.to_lowercase());
    let resource = client::ResourceRef::new(&gvk.group, &gvk.version, &plural, &gvk.kind, true);
    let kind = client::Discovered {
        resource,
        verbs: Vec::new(),
        singular: String::new(),
        short_names: Vec::new(),
        categories: Vec::new(),
        subresources: Vec::new(),
        preferred: true,
    };
    let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
    Info { kind, namespace, name, object: manifest.object, source: manifest.source }
}

/// Sends what differs, unless the run is dry or local.
pub async fn send(
    app: &App,
    args: &Args,
    info: &Info,
    wanted: &Value,
    write: &Write,
) -> Result<Changed, Error> {
    let patch = apply::two_way(&info.object, wanted)?;
    if patch.body() == &json!({}) {
        return Ok(Changed { object: info.object.clone(), changed: false });
    }
    send_patch(app, args, info, &patch, wanted, write).await
}

/// The same as a JSON merge patch.
pub async fn send_merge(
    app: &App,
    args: &Args,
    info: &Info,
    wanted: &Value,
    write: &Write,
) -> Result<Changed, Error> {
    let body = machinery::patch::create_merge(&info.object, wanted);
    if body == json!({}) {
        return Ok(Changed { object: info.object.clone(), changed: false });
    }
    send_patch(app, args, info, &Patch::Merge(body), wanted, write).await
}

async fn send_patch(
    app: &App,
    args: &Args,
    info: &Info,
    patch: &Patch,
    wanted: &Value,
    write: &Write,
) -> Result<Changed, Error> {
    if write.dry_run == DryRun::Client || args.on("local") {
        return Ok(Changed { object: wanted.clone(), changed: true });
    }
    let at = (info.namespace.as_str(), info.name.as_str(), "");
    let object = request::patch(app.client()?, &info.kind.resource, at, patch, write).await?;
    Ok(Changed { object, changed: true })
}

/// Changes each object and tells of those that changed. `edit` returns false when an object cannot be changed.
pub async fn each(
    app: &App,
    args: &Args,
    infos: Vec<Info>,
    (manager, operation): (&str, &str),
    mut edit: impl FnMut(&Info, &mut Value) -> Result<(), Error>,
) -> Result<(), Error> {
    let (done, write) = (Done::of(args)?, Write::of(args, manager)?);
    let mut errors = Vec::new();
    for info in infos {
        let mut wanted = info.object.clone();
        let outcome = match edit(&info, &mut wanted) {
            Ok(()) => send(app, args, &info, &wanted, &write).await,
            Err(error) => Err(error),
        };
        match outcome {
            // Nothing is said about what stayed as it was, unless somebody wants to see the object.
            Ok(Changed { changed: false, .. }) if done.is_plain() && !args.on("local") => {}
            Ok(Changed { object, .. }) => done.show_info(app, &Info { object, ..info }, operation)?,
            Err(error) => errors.push(error),
        }
    }
    Error::all(errors)
}

/// The pod template in an object: the object itself for a pod.
pub fn pod_template<'a>(object: &'a mut Value, info: &Info) -> Result<&'a mut Value, Error> {
    let place = match info.kind.resource.kind.as_str() {
        "Pod" => "",
        "CronJob" => "/spec/jobTemplate/spec/template",
        _ => "/spec/template",
    };
    let missing = || {
        Error::input(format!(
            "the object is not a pod or does not have a pod template: {}",
            kinds::singular_of(&info.kind)
        ))
    };
    object.pointer_mut(place).filter(|template| template["spec"].is_object()).ok_or_else(missing)
}
