//! `get`: tables made by the server, or objects in the format that `-o` names; and watches of both.

use client::client::Call;
use client::{WatchEvent, WatchStream};
use http::Method;
use serde_json::{Value, json};

use crate::Error;
use crate::app::App;
use crate::commands::{Command, EVERYWHERE, FIELDS, FILES, Group, LABELS, PRINT};
use crate::flags::{Args, Flag, Takes, flag, short};
use crate::print::table::{self, Printer, View};
use crate::print::{Format, sort, without_managed_fields};
use crate::select::{self, Pick, Picked, Selector};
use crate::verbs::run;
use crate::{kinds, request};

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,\
    application/json";

const FLAGS: &[Flag] = &[
    flag("chunk-size", Takes::Number, "500", "Objects in one answer of the server; 0 = all"),
    flag("ignore-not-found", Takes::Switch, "false", "A missing object is no error"),
    short("label-columns", 'L', Takes::List, "", "Labels to show as columns"),
    flag("no-headers", Takes::Switch, "false", "No header in tables"),
    flag("output-watch-events", Takes::Switch, "false", "Show the type of events with -w"),
    flag("raw", Takes::Text, "", "Any path of the server, as it answers"),
    flag("server-print", Takes::Switch, "true", "The server makes the columns of tables"),
    flag("show-kind", Takes::Switch, "false", "Show the kind before names"),
    flag("show-labels", Takes::Switch, "false", "Show labels as the last column"),
    flag("sort-by", Takes::Text, "", "A JSONPath to sort by"),
    flag("subresource", Takes::Text, "", "The subresource to read: status, scale, …"),
    short("watch", 'w', Takes::Switch, "false", "Keep showing changes"),
    flag("watch-only", Takes::Switch, "false", "Show changes only"),
];

/// Rows of the table.
pub const COMMANDS: &[Command] = &[Command {
    name: "get",
    aliases: &[],
    group: Group::Intermediate,
    usage: "(TYPE[.VERSION][.GROUP] [NAME | -l label] | TYPE[.VERSION][.GROUP]/NAME ...) [flags]",
    about: "Display one or many resources",
    examples: "kubectl get pods -A -o wide\nkubectl get deploy,svc -l app=web\nkubectl get pod x -o jsonpath='{.status.podIP}'",
    flags: &[PRINT, FILES, LABELS, FIELDS, EVERYWHERE, FLAGS],
    run: run!(get),
}];

async fn get(app: &App, args: &Args) -> Result<(), Error> {
    if let Some(path) = args.text_if("raw") {
        let bytes = request::bytes(app.client()?, path).await?;
        app.out.bytes(&bytes);
        return Ok(());
    }
    let format = Format::of(args)?;
    if args.words.is_empty() && !args.given("filename") {
        return Err(Error::Bare {
            message: "You must specify the type of resource to get. Use \"kubectl api-resources\" for a complete list \
                of supported resources.\n\nerror: Required resource not specified.\nUse \"kubectl explain <resource>\" \
                for a detailed description of that resource (e.g. kubectl explain pods).\nSee 'kubectl get -h' for \
                help and examples"
                .to_owned(),
            code: 1,
        });
    }
    let how = Selector { words: &args.words, type_alone: true, ..Selector::default() };
    let picked = select::pick(app, args, &how).await?;
    let bulk = picked.picks.iter().any(|pick| matches!(pick, Pick::Many { .. }));
    if bulk && !args.text("subresource").is_empty() {
        return Err(Error::usage("subresource cannot be used when bulk resources are specified"));
    }
    let wide = matches!(format, Some(Format::Wide));
    let objects = format.filter(|format| !matches!(format, Format::Wide));
    if args.on("watch") || args.on("watch-only") {
        return watch(app, args, &picked, objects.as_ref(), wide).await;
    }
    match objects {
        Some(format) => show_objects(app, args, &picked, &format).await,
        None => show_tables(app, args, &picked, wide).await,
    }
}

fn is_ignored(args: &Args, error: &Error) -> bool {
    args.on("ignore-not-found") && error.is_not_found()
}

/// Everything as one object or one list.
async fn show_objects(app: &App, args: &Args, picked: &Picked, format: &Format) -> Result<(), Error> {
    let subresource = args.text("subresource");
    let (mut infos, mut errors) = (Vec::new(), Vec::new());
    let client = app.client()?;
    for pick in &picked.picks {
        let found = match pick {
            Pick::One { kind, namespace, name } => {
                let got = request::get(client, &kind.resource, namespace, name, subresource).await;
                got.map(|object| vec![object]).map_err(Error::from)
            }
            Pick::Given(info) => {
                let got =
                    request::get(client, &info.kind.resource, &info.namespace, &info.name, subresource).await;
                got.map(|object| vec![object]).map_err(Error::from)
            }
            Pick::Many { kind, namespace } => {
                let path = kind.resource.gvr.path(namespace, "");
                let list = request::list(client, &path, &picked.select, "", &[]).await;
                list.map(|list| select::items(&list)).map_err(Error::from)
            }
        };
        match found {
            Ok(objects) => infos.extend(objects),
            Err(error) if is_ignored(args, &error) => {}
            Err(error) => errors.push(error),
        }
    }
    if picked.single && !errors.is_empty() {
        return Error::all(errors);
    }
    if infos.is_empty() && args.on("ignore-not-found") {
        return Error::all(errors);
    }
    if let Some(field) = args.text_if("sort-by") {
        sort::by(&mut infos, field, |object| object)?;
    }
    let object = match infos.as_slice() {
        [one] if picked.single => one.clone(),
        _ => json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": infos}),
    };
    let object = if args.on("show-managed-fields") { object } else { without_managed_fields(object) };
    app.out.text(&format.show(&object, !args.on("no-headers"))?);
    Error::all(errors)
}

fn view(args: &Args, wide: bool, namespaced: bool, kind: String) -> View {
    View {
        wide,
        namespace: namespaced && args.on("all-namespaces"),
        kind,
        labels: args.on("show-labels"),
        label_columns: args.list("label-columns"),
        headers: !args.on("no-headers"),
    }
}

/// Asks for a table: of one object, or of all that fit.
async fn ask(app: &App, args: &Args, picked: &Picked, pick: &Pick) -> Result<Value, Error> {
    let include = if args.given("sort-by") { "Object" } else { "" };
    let extra = [("includeObject", include)];
    let mut path = match pick {
        Pick::One { kind, namespace, name } => kind.resource.gvr.path(namespace, name),
        Pick::Given(info) => info.kind.resource.gvr.path(&info.namespace, &info.name),
        Pick::Many { kind, namespace } => kind.resource.gvr.path(namespace, ""),
    };
    let mut select = picked.select.clone();
    if !matches!(pick, Pick::Many { .. }) {
        select = request::Select::default();
        if let Some(subresource) = args.text_if("subresource") {
            path = format!("{path}/{subresource}");
        }
    } else if args.given("sort-by") {
        select.page = 0;
    }
    let accept = if args.on("server-print") { TABLE } else { "" };
    let answer = request::list(app.client()?, &path, &select, accept, &extra).await?;
    if table::is_table(&answer) {
        return Ok(answer);
    }
    let objects = match answer.get("items") {
        Some(_) => select::items(&answer),
        None => vec![answer],
    };
    Ok(table::plain(&objects, app.clock.now()))
}

async fn show_tables(app: &App, args: &Args, picked: &Picked, wide: bool) -> Result<(), Error> {
    let (mut tables, mut errors) = (Vec::new(), Vec::new());
    for pick in &picked.picks {
        match ask(app, args, picked, pick).await {
            Ok(mut table) => {
                if let Some(field) = args.text_if("sort-by") {
                    table::sort_rows(&mut table, field)?;
                }
                tables.push((pick.kind(), table));
            }
            Err(error) if is_ignored(args, &error) => {}
            Err(error) => errors.push(error),
        }
    }
    let several = tables.windows(2).any(|pair| pair[0].0.resource != pair[1].0.resource);
    let with_kind = several || args.on("show-kind");
    let mut written = false;
    let mut namespaced = !args.on("all-namespaces");
    // Tables of one kind in a row share a header and column widths.
    let mut at = 0;
    while at < tables.len() {
        let kind = tables[at].0;
        namespaced &= kind.resource.namespaced;
        let prefix = if with_kind { kinds::singular_of(kind) } else { String::new() };
        let mut printer = Printer::new(view(args, wide, kind.resource.namespaced, prefix));
        let mut joined = tables[at].1.clone();
        at += 1;
        while at < tables.len() && tables[at].0.resource == kind.resource {
            let more = tables[at].1["rows"].take();
            if let (Some(rows), Value::Array(more)) = (joined["rows"].as_array_mut(), more) {
                rows.extend(more);
            }
            at += 1;
        }
        let text = printer.show(&joined, "");
        if text.is_empty() {
            continue;
        }
        if written && !args.on("no-headers") {
            app.out.line("");
        }
        written = true;
        app.out.text(&text);
    }
    if !written && errors.is_empty() && !args.on("ignore-not-found") {
        app.err.line(&match namespaced {
            true => format!("No resources found in {} namespace.", app.namespace()?),
            false => "No resources found".to_owned(),
        });
    }
    Error::all(errors)
}

/// Shows what is, then what changes, until interrupted.
async fn watch(
    app: &App,
    args: &Args,
    picked: &Picked,
    format: Option<&Format>,
    wide: bool,
) -> Result<(), Error> {
    let [pick] = picked.picks.as_slice() else {
        return Err(Error::usage("you may only specify a single resource type"));
    };
    let kind = pick.kind().clone();
    let (namespace, name) = match pick {
        Pick::One { namespace, name, .. } => (namespace.clone(), name.clone()),
        Pick::Given(info) => (info.namespace.clone(), info.name.clone()),
        Pick::Many { namespace, .. } => (namespace.clone(), String::new()),
    };
    let prefix = if args.on("show-kind") { kinds::singular_of(&kind) } else { String::new() };
    let mut shown = Shown {
        printer: Printer::new(view(args, wide, kind.resource.namespaced, prefix)),
        format,
        events: args.on("output-watch-events"),
        managed: args.on("show-managed-fields"),
        headers: !args.on("no-headers"),
        now: app.clock.now(),
    };
    let accept = if format.is_none() { TABLE } else { "" };
    let path = kind.resource.gvr.path(&namespace, "");
    let mut select = picked.select.clone();
    if !name.is_empty() {
        // A missing object is an error before anything is watched.
        request::get(app.client()?, &kind.resource, &namespace, &name, "").await?;
        select = request::Select { fields: format!("metadata.name={name}"), ..request::Select::default() };
    }
    let list = request::list(app.client()?, &path, &select, accept, &[]).await?;
    if !args.on("watch-only") {
        shown.existing(app, &list)?;
    }
    let mut call = Call::new(Method::GET, path);
    call.accept = accept;
    call.query.text("watch", "true");
    call.query.text("labelSelector", &select.labels);
    call.query.text("fieldSelector", &select.fields);
    call.query.text("resourceVersion", list["metadata"]["resourceVersion"].as_str().unwrap_or_default());
    let response = app.client()?.send(&call).await?;
    let mut events = WatchStream::<Value>::new(response.into_body(), format!("watch {}", call.path));
    while let Some(event) = events.next().await {
        let (kind, object) = match event? {
            WatchEvent::Added(object) => ("ADDED", object),
            WatchEvent::Modified(object) => ("MODIFIED", object),
            WatchEvent::Deleted(object) => ("DELETED", object),
            WatchEvent::Bookmark { .. } => continue,
        };
        shown.event(app, kind, object)?;
    }
    Ok(())
}

struct Shown<'a> {
    printer: Printer,
    format: Option<&'a Format>,
    events: bool,
    managed: bool,
    headers: bool,
    now: jiff::Timestamp,
}

impl Shown<'_> {
    fn existing(&mut self, app: &App, list: &Value) -> Result<(), Error> {
        if self.format.is_some() {
            for item in select::items(list) {
                self.event(app, "ADDED", item)?;
            }
            return Ok(());
        }
        let table =
            if table::is_table(list) { list.clone() } else { table::plain(&select::items(list), self.now) };
        app.out.text(&self.printer.show(&table, if self.events { "ADDED" } else { "" }));
        Ok(())
    }

    fn event(&mut self, app: &App, kind: &str, object: Value) -> Result<(), Error> {
        match self.format {
            Some(format) => {
                let object = if self.managed { object } else { without_managed_fields(object) };
                let object = if self.events { json!({"type": kind, "object": object}) } else { object };
                app.out.text(&format.show(&object, std::mem::take(&mut self.headers))?);
            }
            None => {
                let table = if table::is_table(&object) { object } else { table::plain(&[object], self.now) };
                app.out.text(&self.printer.show(&table, if self.events { kind } else { "" }));
            }
        }
        Ok(())
    }
}
