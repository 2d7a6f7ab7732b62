//! `apply`: three-way patches against what was applied last, or server-side apply; and `diff`.

use std::process::Command as Program;
use std::time::Duration;

use api::validation::go_quote;
use client::ClientError;
use client::client::{Patch, absent};
use machinery::patch;
use machinery::schema::{Schema, facts};
use serde_json::{Value, json};

use crate::Error;
use crate::app::App;
use crate::commands::{ALL, Command, FILES, Group, LABELS, PRINT, VALIDATE, WRITE};
use crate::flags::{Args, Flag, Takes, flag};
use crate::print::{Done, json as print_json, without_managed_fields};
use crate::request::{self, Delete, DryRun, Write};
use crate::select::{self, Info, Pick, Selector};
use crate::verbs::{create, delete, run, wait};

/// Where the configuration that was applied last is kept.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// How often a patch is made anew when the object changed meanwhile.
const TRIES: usize = 5;

const FLAGS: &[Flag] = &[
    flag(
        "cascade",
        Takes::Optional("background"),
        "background",
        "With --force: dependents of deleted objects",
    ),
    flag("force", Takes::Switch, "false", "Delete and create again what cannot be patched"),
    flag("force-conflicts", Takes::Switch, "false", "With --server-side: take fields from other managers"),
    flag("grace-period", Takes::Number, "-1", "With --force: seconds a pod has to end"),
    flag("openapi-patch", Takes::Switch, "true", "Accepted for compatibility"),
    flag("overwrite", Takes::Switch, "true", "Accepted for compatibility"),
    flag("prune", Takes::Switch, "false", "Not supported"),
    flag("server-side", Takes::Switch, "false", "The server merges"),
    flag("timeout", Takes::Time, "0s", "With --force: how long to wait for deletions"),
    flag("wait", Takes::Switch, "false", "With --force: wait for deletions"),
];
const DIFF: &[Flag] = &[
    flag("concurrency", Takes::Number, "1", "Accepted for compatibility"),
    flag("field-manager", Takes::Text, "kubectl-client-side-apply", "Who owns the changed fields"),
    flag("force-conflicts", Takes::Switch, "false", "With --server-side: take fields from other managers"),
    flag("prune", Takes::Switch, "false", "Not supported"),
    flag("server-side", Takes::Switch, "false", "The server merges"),
    flag("show-managed-fields", Takes::Switch, "false", "Compare managedFields too"),
];

const VIEW: &[Flag] = &[crate::flags::short("output", 'o', Takes::Text, "yaml", "yaml or json")];
const SET: &[Flag] =
    &[flag("create-annotation", Takes::Switch, "false", "Also when there is no annotation yet")];

/// Rows of the table.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "apply view-last-applied",
        aliases: &[],
        group: Group::Advanced,
        usage: "(TYPE [NAME | -l label] | TYPE/NAME | -f FILENAME)",
        about: "View the latest last-applied-configuration annotations of a resource/object",
        examples: "kubectl apply view-last-applied deployment/nginx",
        flags: &[FILES, LABELS, ALL, VIEW],
        run: run!(view_last),
    },
    Command {
        name: "apply set-last-applied",
        aliases: &[],
        group: Group::Advanced,
        usage: "-f FILENAME",
        about: "Set the last-applied-configuration annotation on a live object to match the contents of a file",
        examples: "kubectl apply set-last-applied -f deploy.yaml",
        flags: &[PRINT, FILES, WRITE, SET],
        run: run!(set_last),
    },
    Command {
        name: "apply",
        aliases: &[],
        group: Group::Advanced,
        usage: "(-f FILENAME | -k DIRECTORY)",
        about: "Apply a configuration to a resource by file name or stdin",
        examples: "kubectl apply -f ./pod.json\ncat pod.json | kubectl apply -f -\nkubectl apply --server-side -f x.yaml",
        flags: &[PRINT, FILES, LABELS, ALL, WRITE, VALIDATE, FLAGS],
        run: run!(apply),
    },
    Command {
        name: "diff",
        aliases: &[],
        group: Group::Advanced,
        usage: "-f FILENAME",
        about: "Diff the live version against a would-be applied version",
        examples: "kubectl diff -f pod.json",
        flags: &[FILES, LABELS, DIFF],
        run: run!(diff),
    },
];

/// The text of a configuration as `apply` remembers it.
fn configuration(object: &Value) -> String {
    let mut bare = object.clone();
    if let Some(meta) = bare.get_mut("metadata").and_then(Value::as_object_mut) {
        let annotations = meta.entry("annotations").or_insert_with(|| json!({}));
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.remove(LAST_APPLIED);
        }
    }
    format!("{}\n", print_json::compact(&bare))
}

/// Notes in an object how it was configured.
pub fn remember(object: &mut Value) {
    let text = configuration(object);
    if !object["metadata"]["annotations"].is_object() {
        object["metadata"]["annotations"] = json!({});
    }
    object["metadata"]["annotations"][LAST_APPLIED] = json!(text);
}

/// What was applied last.
fn original(live: &Value) -> Value {
    let text = live["metadata"]["annotations"][LAST_APPLIED].as_str().unwrap_or_default();
    serde_json::from_str(text).unwrap_or(Value::Null)
}

/// The facts of a built-in kind; others are merged as plain JSON.
pub fn schema_of(object: &Value) -> Option<Schema<'static>> {
    let (api_version, kind) = (object["apiVersion"].as_str()?, object["kind"].as_str()?);
    let gvk = api::Gvk::from_api_version(api_version, kind);
    facts().by_gvk(&gvk.group, &gvk.version, &gvk.kind).map(Schema::Type)
}

/// The patch that leads from one state of an object to another.
pub fn two_way(from: &Value, to: &Value) -> Result<Patch, Error> {
    match schema_of(from) {
        Some(schema) => {
            let made = patch::create_two_way(schema, from, to);
            Ok(Patch::Strategic(made.map_err(|error| Error::input(error.to_string()))?))
        }
        None => Ok(Patch::Merge(patch::create_merge(from, to))),
    }
}

/// The patch that brings a live object to the wanted configuration (which has the annotation).
pub fn three_way(live: &Value, wanted: &Value) -> Result<Patch, Error> {
    let original = original(live);
    match schema_of(live) {
        Some(schema) => {
            let made = patch::create_three_way(schema, &original, wanted, live);
            Ok(Patch::Strategic(made.map_err(|error| Error::input(format!("creating patch: {error}")))?))
        }
        None => {
            let original = if original.is_null() { json!({}) } else { original };
            Ok(Patch::Merge(patch::create_three_way_merge(&original, wanted, live)))
        }
    }
}

/// Patches an object of this process.
pub fn patched(object: &Value, patch: &Patch) -> Result<Value, Error> {
    match (patch, schema_of(object)) {
        (Patch::Strategic(body), Some(schema)) => {
            patch::strategic_merge(schema, object, body).map_err(|error| Error::input(error.to_string()))
        }
        (Patch::Json(body), _) => patch::json_patch(object, body.to_string().as_bytes())
            .map_err(|error| Error::input(error.to_string())),
        (other, _) => Ok(patch::merge_patch(object, other.body())),
    }
}

fn without_nulls(value: &mut Value) {
    if let Value::Object(fields) = value {
        fields.retain(|_, field| !field.is_null());
        fields.values_mut().for_each(without_nulls);
    }
}

async fn given(app: &App, args: &Args) -> Result<Vec<Info>, Error> {
    if !args.given("filename") && !args.given("kustomize") {
        return Err(Error::usage("must specify one of -f and -k"));
    }
    let picked = select::pick(app, args, &Selector { words: &args.words, ..Selector::default() }).await?;
    let infos = picked.picks.into_iter().filter_map(|pick| match pick {
        Pick::Given(info) => Some(info),
        _ => None,
    });
    Ok(infos.collect())
}

struct Applying<'a> {
    app: &'a App,
    args: &'a Args,
    write: Write,
    server_side: bool,
}

async fn apply(app: &App, args: &Args) -> Result<(), Error> {
    if args.on("prune") {
        return Err(Error::usage(
            "--prune is not part of this kubectl: delete what is no longer wanted by its labels",
        ));
    }
    let server_side = args.on("server-side");
    if args.on("force-conflicts") && !server_side {
        return Err(Error::usage("--force-conflicts only works with --server-side"));
    }
    if server_side && args.on("force") {
        return Err(Error::usage("--force cannot be used with --server-side"));
    }
    let write = Write::of(args, if server_side { "kubectl" } else { "kubectl-client-side-apply" })?;
    if server_side && write.dry_run == DryRun::Client {
        return Err(Error::usage(
            "--dry-run=client doesn't work with --server-side (did you mean --dry-run=server instead?)",
        ));
    }
    let done = Done::of(args)?;
    let (mut errors, mut results) = (Vec::new(), Vec::new());
    let applying = Applying { app, args, write, server_side };
    for info in given(app, args).await? {
        match applying.one(&info).await {
            Ok((object, operation)) if done.is_plain() || args.text("output") == "name" => {
                let shown = Info { object, ..info };
                done.show_info(app, &shown, operation)?;
            }
            Ok((object, _)) => results.push(object),
            Err(error) => errors.push(error),
        }
    }
    if results.len() == 1 {
        done.show(app, &results[0], "")?;
    } else if !results.is_empty() {
        let list = json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": results});
        done.show(app, &without_managed_fields(list), "")?;
    }
    Error::all(errors)
}

impl Applying<'_> {
    async fn one(&self, info: &Info) -> Result<(Value, &'static str), Error> {
        if info.name.is_empty() {
            let generated = info.object["metadata"]["generateName"].as_str().unwrap_or_default();
            return Err(Error::input(format!("from {generated}: cannot use generate name with apply")));
        }
        if self.server_side { self.by_server(info).await } else { self.by_patch(info).await }
    }

    async fn by_server(&self, info: &Info) -> Result<(Value, &'static str), Error> {
        let (manager, force) = (self.write.manager.clone(), self.args.on("force-conflicts"));
        let patch = Patch::Apply { object: info.object.clone(), manager, force };
        let at = (info.namespace.as_str(), info.name.as_str(), "");
        match request::patch(self.app.client()?, &info.kind.resource, at, &patch, &self.write).await {
            Ok(object) => Ok((object, "serverside-applied")),
            Err(error) if error.is_conflict() => Err(Error::state(format!(
                "{error}\nOther managers own the fields above. Run again with `--force-conflicts` to take them over, \
                 leave them out of the manifest to let the others keep them, or write their present values to share \
                 them.\nSee https://kubernetes.io/docs/reference/using-api/server-side-apply/#conflicts"
            ))),
            Err(error) => Err(error.into()),
        }
    }

    async fn by_patch(&self, info: &Info) -> Result<(Value, &'static str), Error> {
        let client = self.app.client()?;
        let mut wanted = info.object.clone();
        remember(&mut wanted);
        let got = request::get(client, &info.kind.resource, &info.namespace, &info.name, "").await;
        let retrieving = || {
            format!(
                "error when retrieving current configuration of:\n{}\nfrom server for: {:?}",
                place(info),
                info.source
            )
        };
        let Some(live) = absent(got).map_err(Error::during(retrieving()))? else {
            without_nulls(&mut wanted);
            if self.write.dry_run == DryRun::Client {
                return Ok((wanted, "created"));
            }
            let made =
                request::create(client, &info.kind.resource, &info.namespace, &wanted, &self.write).await;
            return Ok((made.map_err(|error| create::created_error(&info.source, error))?, "created"));
        };
        if live["metadata"]["annotations"][LAST_APPLIED].is_null() {
            self.app.err.line(&format!(
                "Warning: resource {}/{} is missing the {LAST_APPLIED} annotation which is required by kubectl apply. \
                 kubectl apply should only be used on resources created declaratively by either kubectl create \
                 --save-config or kubectl apply. The missing annotation will be patched automatically.",
                info.kind.resource.gvr.resource, info.name
            ));
        }
        let (patch, object) = self.patch(info, live, &wanted).await?;
        if object["metadata"]["deletionTimestamp"].is_string() {
            self.app.err.line(&format!(
                "Warning: Detected changes to resource {} which is currently being deleted.",
                info.name
            ));
        }
        Ok((object, if is_empty(&patch) { "unchanged" } else { "configured" }))
    }

    async fn patch(&self, info: &Info, mut live: Value, wanted: &Value) -> Result<(Patch, Value), Error> {
        let client = self.app.client()?;
        let at = (info.namespace.as_str(), info.name.as_str(), "");
        let mut tries = 0;
        loop {
            let patch = three_way(&live, wanted)?;
            if is_empty(&patch) {
                return Ok((patch, live));
            }
            if self.write.dry_run == DryRun::Client {
                let object = patched(&live, &patch)?;
                return Ok((patch, object));
            }
            let error = match request::patch(client, &info.kind.resource, at, &patch, &self.write).await {
                Ok(object) => return Ok((patch, object)),
                Err(error) => error,
            };
            tries += 1;
            if error.is_conflict() && tries < TRIES {
                self.app.clock.sleep(Duration::from_millis(100)).await;
                live = request::get(client, &info.kind.resource, &info.namespace, &info.name, "").await?;
                continue;
            }
            if self.args.on("force") && (error.is_conflict() || error.is(api::Reason::Invalid)) {
                return Ok((patch, self.replace(info, wanted, &live).await?));
            }
            return Err(applying_error(info, &patch, error));
        }
    }

    /// Deletes and creates again; what cannot be created is put back.
    async fn replace(&self, info: &Info, wanted: &Value, live: &Value) -> Result<Value, Error> {
        let client = self.app.client()?;
        let grace = self.args.number("grace-period");
        let how = Delete {
            propagation: "Background".to_owned(),
            grace_seconds: (grace >= 0).then_some(grace),
            ..Delete::default()
        };
        let answer = request::delete(client, &info.kind.resource, &info.namespace, &info.name, &how).await?;
        wait::until_gone(self.app, info, &delete::uid_of(&answer), self.args.time("timeout")).await?;
        match request::create(client, &info.kind.resource, &info.namespace, wanted, &self.write).await {
            Ok(object) => Ok(object),
            Err(error) => {
                let mut old = live.clone();
                if let Some(meta) = old["metadata"].as_object_mut() {
                    meta.remove("resourceVersion");
                    meta.remove("uid");
                }
                // The old one is better than none; the first error is the one to tell.
                let _ =
                    request::create(client, &info.kind.resource, &info.namespace, &old, &self.write).await;
                Err(error.into())
            }
        }
    }
}

fn is_empty(patch: &Patch) -> bool {
    patch.body().as_object().is_some_and(serde_json::Map::is_empty)
}

fn place(info: &Info) -> String {
    let resource = &info.kind.resource;
    let gvr = format!("{}, Resource={}", resource.api_version(), resource.gvr.resource);
    let gvk = format!("{}, Kind={}", resource.api_version(), resource.kind);
    format!(
        "Resource: {gvr:?}, GroupVersionKind: {gvk:?}\nName: {:?}, Namespace: {:?}",
        info.name, info.namespace
    )
}

fn applying_error(info: &Info, patch: &Patch, error: ClientError) -> Error {
    let source = go_quote(&info.source);
    Error::during(format!(
        "error when applying patch:\n{}\nto:\n{}\nfor: {source}: error when patching {source}",
        print_json::compact(patch.body()),
        place(info)
    ))(error)
}

async fn view_last(app: &App, args: &Args) -> Result<(), Error> {
    let how = Selector { words: &args.words, all: args.on("all"), ..Selector::default() };
    for info in select::objects(app, args, &how).await? {
        let last = original(&info.object);
        if last.is_null() {
            return Err(Error::state(format!(
                "no last-applied-configuration annotation found on resource: {}",
                info.name
            )));
        }
        app.out.text(&match args.text("output") {
            "json" => print_json::pretty(&last).replace("    ", "  "),
            "yaml" => machinery::codec::yaml::encode(&last),
            other => {
                let why =
                    format!("Unexpected -o output mode: {other}, the flag 'output' must be one of yaml|json");
                return Err(Error::misuse("apply view-last-applied", &why));
            }
        });
    }
    Ok(())
}

async fn set_last(app: &App, args: &Args) -> Result<(), Error> {
    let (done, write) = (Done::of(args)?, Write::of(args, "kubectl-client-side-apply")?);
    for mut info in given(app, args).await? {
        let live = request::get(app.client()?, &info.kind.resource, &info.namespace, &info.name, "").await?;
        let known = live["metadata"]["annotations"][LAST_APPLIED].is_string();
        if !known && !args.on("create-annotation") {
            let why = "no last-applied-configuration annotation found on resource";
            return Err(Error::state(format!(
                "{why}: {}, to create the annotation, run the command with --create-annotation",
                info.name
            )));
        }
        let text = configuration(&info.object);
        if write.dry_run != DryRun::Client && live["metadata"]["annotations"][LAST_APPLIED] != text.as_str() {
            let patch = Patch::Merge(json!({"metadata": {"annotations": {LAST_APPLIED: text}}}));
            let at = (info.namespace.as_str(), info.name.as_str(), "");
            info.object = request::patch(app.client()?, &info.kind.resource, at, &patch, &write).await?;
        }
        done.show_info(app, &info, "configured")?;
    }
    Ok(())
}

/// Compares what is with what an apply would make of it.
async fn diff(app: &App, args: &Args) -> Result<(), Error> {
    if !args.given("filename") && !args.given("kustomize") {
        return Err(Error::usage("must specify one of -f and -k"));
    }
    let server_side = args.on("server-side");
    let manager =
        if server_side && !args.given("field-manager") { "kubectl" } else { args.text("field-manager") };
    let write = Write { manager: manager.to_owned(), dry_run: DryRun::Server, validation: String::new() };
    let applying = Applying { app, args, write, server_side };
    let dirs = Dirs::new(app)?;
    for info in given(app, args).await? {
        let got = request::get(app.client()?, &info.kind.resource, &info.namespace, &info.name, "").await;
        let live = absent(got)?;
        let (merged, _) = match &live {
            None if !server_side => {
                let made = request::create(
                    app.client()?,
                    &info.kind.resource,
                    &info.namespace,
                    &info.object,
                    &applying.write,
                );
                (made.await.map_err(|error| create::created_error(&info.source, error))?, "created")
            }
            _ => applying.one(&info).await?,
        };
        let keep = args.on("show-managed-fields");
        let clean = |object: Value| if keep { object } else { without_managed_fields(object) };
        let (mut live, mut merged) = (live.map(clean).unwrap_or(Value::Null), clean(merged));
        if info.kind.resource.kind == "Secret" {
            mask(&mut live, &mut merged);
        }
        dirs.write(&info, &live, &merged)?;
    }
    let code = dirs.compare(app)?;
    match code {
        0 => Ok(()),
        code => Err(Error::Exit(code)),
    }
}

/// Values of secrets are not shown; that they differ is.
fn mask(live: &mut Value, merged: &mut Value) {
    let keys: std::collections::BTreeSet<String> = [&*live, &*merged]
        .iter()
        .filter_map(|object| object["data"].as_object())
        .flat_map(|data| data.keys().cloned())
        .collect();
    for key in keys {
        let same = live["data"][&key] == merged["data"][&key];
        for (object, text) in [(&mut *live, "*** (before)"), (&mut *merged, "*** (after)")] {
            if let Some(value) = object.get_mut("data").and_then(|data| data.get_mut(&key)) {
                *value = json!(if same { "***" } else { text });
            }
        }
    }
    for object in [live, merged] {
        if let Some(annotations) = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut)
        {
            annotations.remove(LAST_APPLIED);
        }
    }
}

/// Two directories for an external diff; removed with the value.
struct Dirs {
    root: std::path::PathBuf,
    names: [String; 2],
}

impl Dirs {
    fn new(app: &App) -> Result<Dirs, Error> {
        let root = std::env::temp_dir();
        let mark = app.rng.suffix(10);
        let dirs = Dirs { root, names: [format!("LIVE-{mark}"), format!("MERGED-{mark}")] };
        for name in &dirs.names {
            let path = dirs.root.join(name);
            std::fs::create_dir(&path)
                .map_err(|error| Error::local(format!("creating {}", path.display()), error))?;
        }
        Ok(dirs)
    }

    fn write(&self, info: &Info, live: &Value, merged: &Value) -> Result<(), Error> {
        let group = if info.kind.resource.gvr.group.is_empty() {
            String::new()
        } else {
            format!("{}.", info.kind.resource.gvr.group)
        };
        let version = &info.kind.resource.gvr.version;
        let name = format!(
            "{group}{version}.{}.{}.{}",
            info.kind.resource.kind,
            info.namespace,
            info.name.replace('/', "_")
        );
        for (dir, object) in self.names.iter().zip([live, merged]) {
            let text = if object.is_null() { String::new() } else { machinery::codec::yaml::encode(object) };
            let path = self.root.join(dir).join(&name);
            std::fs::write(&path, text)
                .map_err(|error| Error::local(format!("writing {}", path.display()), error))?;
        }
        Ok(())
    }

    /// Runs `$KUBECTL_EXTERNAL_DIFF` or `diff -u -N` and returns its exit code.
    fn compare(&self, app: &App) -> Result<i32, Error> {
        let external = std::env::var("KUBECTL_EXTERNAL_DIFF").unwrap_or_default();
        let mut words: Vec<&str> = external.split_whitespace().collect();
        if words.is_empty() {
            words = vec!["diff", "-u", "-N"];
        }
        let output = Program::new(words[0])
            .args(&words[1..])
            .args(self.names.iter().map(|name| self.root.join(name)))
            .output()
            .map_err(|error| Error::local(format!("failed to run {:?}", words[0]), error))?;
        app.out.bytes(&output.stdout);
        app.err.bytes(&output.stderr);
        Ok(output.status.code().unwrap_or(2))
    }
}

impl Drop for Dirs {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = std::fs::remove_dir_all(self.root.join(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_are_remembered() {
        let mut object =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": "<"}});
        remember(&mut object);
        let expect = "{\"apiVersion\":\"v1\",\"data\":{\"x\":\"\\u003c\"},\"kind\":\"ConfigMap\",\"metadata\":\
            {\"annotations\":{},\"name\":\"a\"}}\n";
        assert_eq!(object["metadata"]["annotations"][LAST_APPLIED], expect);
        assert_eq!(original(&object)["data"]["x"], "<");
    }

    #[test]
    fn three_ways() {
        let make = |data: Value, extra: Value| {
            let mut object =
                json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data});
            remember(&mut object);
            if let (Some(data), Some(extra)) = (object["data"].as_object_mut(), extra.as_object()) {
                data.extend(extra.clone());
            }
            object
        };
        // `a` was applied before and is gone now; `c` is somebody else's.
        let live = make(json!({"a": "1", "b": "1"}), json!({"c": "3"}));
        let wanted = make(json!({"b": "2"}), json!({}));
        let patch = three_way(&live, &wanted).expect("a patch");
        assert!(matches!(patch, Patch::Strategic(_)));
        assert_eq!(patch.body()["data"], json!({"a": null, "b": "2"}));
        let after = patched(&live, &patch).expect("patched");
        assert_eq!(after["data"], json!({"b": "2", "c": "3"}));
        assert!(is_empty(&three_way(&after, &wanted).expect("a patch")));
        let foreign = json!({"apiVersion": "x.y/v1", "kind": "Z", "metadata": {"name": "a"}});
        assert!(matches!(three_way(&foreign, &foreign), Ok(Patch::Merge(_))));
    }

    #[test]
    fn secrets_are_masked() {
        let mut live = json!({"data": {"a": "x", "b": "y"}});
        let mut merged = json!({"data": {"a": "x", "b": "z"}});
        mask(&mut live, &mut merged);
        assert_eq!(live["data"], json!({"a": "***", "b": "*** (before)"}));
        assert_eq!(merged["data"], json!({"a": "***", "b": "*** (after)"}));
    }
}
