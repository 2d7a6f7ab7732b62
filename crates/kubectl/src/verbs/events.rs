//! `events`: of a namespace or an object, the latest last.

use client::client::Call;
use client::{WatchEvent, WatchStream};
use http::Method;
use serde_json::{Value, json};

use crate::Error;
use crate::app::App;
use crate::commands::{Command, EVERYWHERE, Group, PRINT};
use crate::describe::text;
use crate::flags::{Args, Flag, Takes, flag, short};
use crate::print::age;
use crate::print::table::Widths;
use crate::print::{Format, without_managed_fields};
use crate::request::{self, Select};
use crate::select;
use crate::verbs::run;

const FLAGS: &[Flag] = &[
    flag("chunk-size", Takes::Number, "500", "Objects in one answer of the server"),
    flag("for", Takes::Text, "", "TYPE/NAME: only events about it"),
    flag("no-headers", Takes::Switch, "false", "No header"),
    flag("types", Takes::List, "", "Normal, Warning"),
    short("watch", 'w', Takes::Switch, "false", "Keep showing new events"),
];

/// Rows of the table.
pub const COMMANDS: &[Command] = &[Command {
    name: "events",
    aliases: &[],
    group: Group::Troubleshooting,
    usage: "[(-o|--output=)json|yaml|...] [--for TYPE/NAME] [--watch]",
    about: "List events",
    examples: "kubectl events -A\nkubectl events --for pod/web-pod-13je7 --watch",
    flags: &[PRINT, EVERYWHERE, FLAGS],
    run: run!(events),
}];

async fn selected(app: &App, args: &Args) -> Result<Select, Error> {
    let page = args.number("chunk-size");
    let Some(about) = args.text_if("for") else { return Ok(Select { page, ..Select::default() }) };
    let wrong = || Error::usage(format!("--for must be in resource/name form: {about}"));
    let (kind, name) = about.split_once('/').ok_or_else(wrong)?;
    let row = app.kinds().await?.resource(kind)?;
    let fields = format!(
        "involvedObject.kind={},involvedObject.apiVersion={},involvedObject.name={name}",
        row.resource.kind,
        row.resource.api_version()
    );
    Ok(Select { fields, page, ..Select::default() })
}

async fn events(app: &App, args: &Args) -> Result<(), Error> {
    let types = args.list("types");
    for kind in &types {
        if !["normal", "warning"].contains(&kind.to_lowercase().as_str()) {
            return Err(Error::usage("valid --types are Normal or Warning"));
        }
    }
    let format = Format::of(args)?;
    let everywhere = args.on("all-namespaces");
    let namespace = if everywhere { String::new() } else { app.namespace()? };
    let path = api::Gvr::new("", "v1", "events").path(&namespace, "");
    let select = selected(app, args).await?;
    let wanted = |event: &Value| {
        types.is_empty() || types.iter().any(|kind| kind.eq_ignore_ascii_case(text(event, "/type")))
    };
    let mut shown =
        Shown { widths: Widths::default(), headed: args.on("no-headers"), everywhere, now: app.clock.now() };
    if args.on("watch") {
        let mut call = Call::new(Method::GET, path);
        call.query.text("watch", "true");
        call.query.text("fieldSelector", &select.fields);
        let response = app.client()?.send(&call).await?;
        let mut stream = WatchStream::<Value>::new(response.into_body(), "watch events".to_owned());
        while let Some(event) = stream.next().await {
            let (WatchEvent::Added(event) | WatchEvent::Modified(event)) = event? else { continue };
            if !wanted(&event) {
                continue;
            }
            shown.now = app.clock.now();
            match &format {
                Some(format) => app.out.text(&format.show(&without_managed_fields(event), true)?),
                None => app.out.text(&shown.rows(&[event])),
            }
        }
        return Ok(());
    }
    let list = request::list(app.client()?, &path, &select, "", &[]).await?;
    let mut found: Vec<Value> = select::items(&list).into_iter().filter(wanted).collect();
    if found.is_empty() {
        app.err.line(&match everywhere {
            true => "No events found.".to_owned(),
            false => format!("No events found in {namespace} namespace."),
        });
        return Ok(());
    }
    found.sort_by_key(time_of);
    match format {
        Some(format) => {
            let list = json!({"apiVersion": "v1", "kind": "EventList", "metadata": {}, "items": found});
            app.out.text(&format.show(&without_managed_fields(list), true)?);
        }
        None => app.out.text(&shown.rows(&found)),
    }
    Ok(())
}

/// When an event happened last.
fn time_of(event: &Value) -> Option<jiff::Timestamp> {
    let fields = ["/series/lastObservedTime", "/lastTimestamp", "/eventTime"];
    fields.iter().find_map(|field| api::time::parse(text(event, field)))
}

struct Shown {
    widths: Widths,
    headed: bool,
    everywhere: bool,
    now: jiff::Timestamp,
}

impl Shown {
    fn rows(&mut self, events: &[Value]) -> String {
        let mut rows: Vec<Vec<String>> = Vec::new();
        if !std::mem::replace(&mut self.headed, true) {
            let mut header = vec!["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"];
            if self.everywhere {
                header.insert(0, "NAMESPACE");
            }
            rows.push(header.into_iter().map(str::to_owned).collect());
        }
        for event in events {
            let get = |field: &str| text(event, field);
            let mut cells = Vec::new();
            if self.everywhere {
                cells.push(get("/metadata/namespace").to_owned());
            }
            cells.extend([
                self.interval(event),
                get("/type").to_owned(),
                get("/reason").to_owned(),
                format!("{}/{}", get("/involvedObject/kind"), get("/involvedObject/name")),
                get("/message").trim().to_owned(),
            ]);
            rows.push(cells);
        }
        self.widths.format(&rows)
    }

    fn interval(&self, event: &Value) -> String {
        let since =
            |field: &str| age::since(Some(text(event, field)).filter(|text| !text.is_empty()), self.now);
        let first =
            if text(event, "/eventTime").is_empty() { since("/firstTimestamp") } else { since("/eventTime") };
        if event["series"].is_object() {
            return format!(
                "{} (x{} over {first})",
                since("/series/lastObservedTime"),
                event["series"]["count"]
            );
        }
        match event["count"].as_i64() {
            Some(count) if count > 1 => format!("{} (x{count} over {first})", since("/lastTimestamp")),
            _ => first,
        }
    }
}
