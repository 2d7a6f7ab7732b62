//! `label` and `annotate`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::Error;
use crate::app::App;
use crate::commands::{ALL, Command, EVERYWHERE, FIELDS, FILES, Group, LABELS, LOCAL, PRINT, WRITE};
use crate::flags::{Args, Flag, Takes, flag};
use crate::print::Done;
use crate::request::Write;
use crate::select::Info;
use crate::verbs::change;
use crate::verbs::run;

const FLAGS: &[Flag] = &[
    flag("list", Takes::Switch, "false", "Show them"),
    flag("overwrite", Takes::Switch, "false", "Replace values that are there"),
    flag("resource-version", Takes::Text, "", "Only if the object has this version"),
];

/// Rows of the table.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "label",
        aliases: &[],
        group: Group::Settings,
        usage: "[--overwrite] (-f FILENAME | TYPE NAME) KEY_1=VAL_1 ... KEY_N=VAL_N",
        about: "Update the labels on a resource",
        examples: "kubectl label pods foo unhealthy=true\nkubectl label pods foo bar-",
        flags: &[PRINT, FILES, LABELS, FIELDS, EVERYWHERE, ALL, LOCAL, WRITE, FLAGS],
        run: run!(label),
    },
    Command {
        name: "annotate",
        aliases: &[],
        group: Group::Settings,
        usage: "[--overwrite] (-f FILENAME | TYPE NAME) KEY_1=VAL_1 ... KEY_N=VAL_N",
        about: "Update the annotations on a resource",
        examples: "kubectl annotate pods foo description='my frontend'\nkubectl annotate pods foo description-",
        flags: &[PRINT, FILES, LABELS, FIELDS, EVERYWHERE, ALL, LOCAL, WRITE, FLAGS],
        run: run!(annotate),
    },
];

/// What differs between the two commands.
struct Words {
    field: &'static str,
    noun: &'static str,
    done: [&'static str; 3],
}

const LABEL: Words = Words { field: "labels", noun: "label", done: ["labeled", "unlabeled", "not labeled"] };
const ANNOTATION: Words =
    Words { field: "annotations", noun: "annotation", done: ["annotated", "annotated", "annotated"] };

/// What is to be set and removed.
#[derive(Debug, Default, PartialEq)]
struct Wanted {
    set: BTreeMap<String, String>,
    remove: Vec<String>,
}

async fn label(app: &App, args: &Args) -> Result<(), Error> {
    update(app, args, &LABEL).await
}

async fn annotate(app: &App, args: &Args) -> Result<(), Error> {
    update(app, args, &ANNOTATION).await
}

/// A word such as `a=b` or `a-` that is no name of an object.
fn is_spec(word: &str) -> bool {
    word.contains('=') || word.ends_with('-')
}

fn parse(specs: &[String], words: &Words) -> Result<Wanted, Error> {
    let mut wanted = Wanted::default();
    for spec in specs {
        if let Some((key, value)) = spec.split_once('=') {
            if words.noun == "label" {
                if value.contains('=') {
                    return Err(Error::usage(format!("invalid label spec: {spec}")));
                }
                let errors = api::names::label_value(value);
                if !errors.is_empty() {
                    return Err(Error::usage(format!("invalid label value: {spec:?}: {}", errors.join(";"))));
                }
            }
            wanted.set.insert(key.to_owned(), value.to_owned());
        } else if let Some(key) = spec.strip_suffix('-') {
            wanted.remove.push(key.to_owned());
        } else {
            return Err(Error::usage(format!("unknown {} spec: {spec}", words.noun)));
        }
    }
    let both: Vec<&str> =
        wanted.remove.iter().filter(|key| wanted.set.contains_key(*key)).map(String::as_str).collect();
    match (both.is_empty(), words.noun) {
        (true, _) => Ok(wanted),
        (false, "label") => Err(Error::usage("can not both modify and remove a label in the same command")),
        (false, _) => Err(Error::usage(format!(
            "can not both modify and remove the following annotation(s) in the same command: {}",
            both.join(",")
        ))),
    }
}

async fn update(app: &App, args: &Args, words: &Words) -> Result<(), Error> {
    let start = args.words.iter().position(|word| is_spec(word)).unwrap_or(args.words.len());
    let (names, specs) = args.words.split_at(start);
    let noun = words.noun;
    if args.on("list") && args.given("output") {
        return Err(Error::usage("--list and --output may not be specified together"));
    }
    for selector in ["selector", "field-selector"] {
        if args.on("all") && args.given(selector) {
            return Err(Error::usage(format!("cannot set --all and --{selector} at the same time")));
        }
    }
    if names.is_empty() && !args.given("filename") {
        return Err(Error::usage(
            "one or more resources must be specified as <resource> <name> or <resource>/<name>",
        ));
    }
    if let Some(word) = specs.iter().find(|word| !is_spec(word)) {
        return Err(Error::usage(format!("all resources must be specified before {noun} changes: {word}")));
    }
    if specs.is_empty() && !args.on("list") {
        return Err(Error::usage(format!("at least one {noun} update is required")));
    }
    let wanted = parse(specs, words)?;
    let (done, write) = (
        Done::of(args)?,
        Write::of(args, if noun == "label" { "kubectl-label" } else { "kubectl-annotate" })?,
    );
    let infos = change::objects(app, args, names).await?;
    if infos.len() != 1 && args.given("resource-version") {
        return Err(Error::usage("--resource-version may only be used with a single resource"));
    }
    let alone = infos.len() == 1;
    let mut errors = Vec::new();
    for info in infos {
        if args.on("list") {
            list(app, &info, words, alone);
            continue;
        }
        if let Err(error) = update_one(app, args, info, words, &wanted, &done, &write).await {
            errors.push(error);
        }
    }
    Error::all(errors)
}

fn list(app: &App, info: &Info, words: &Words, alone: bool) {
    let indent = if alone { "" } else { " " };
    if !alone {
        let resource = &info.kind.resource;
        let title = format!("{}.{}/{}", resource.kind, resource.gvr.group, info.name);
        app.out.line(&format!("Listing {} for {title}:", words.field));
    }
    let entries = info.object["metadata"][words.field].as_object();
    for (key, value) in entries.into_iter().flatten() {
        app.out.line(&format!("{indent}{key}={}", value.as_str().unwrap_or_default()));
    }
}

async fn update_one(
    app: &App,
    args: &Args,
    mut info: Info,
    words: &Words,
    wanted: &Wanted,
    done: &Done,
    write: &Write,
) -> Result<(), Error> {
    let mut object = info.object.clone();
    let held = object["metadata"][words.field].as_object().cloned().unwrap_or_default();
    let differs = |(key, value): &(&String, &String)| held.get(*key).is_some_and(|old| old != value.as_str());
    if !args.on("overwrite") {
        let taken: Vec<_> = wanted.set.iter().filter(differs).collect();
        if !taken.is_empty() {
            return Err(taken_error(words, &taken, &held));
        }
    }
    let added = wanted.set.iter().any(|(key, value)| held.get(key).is_none_or(|old| old != value.as_str()));
    let mut removed = false;
    let mut after = held.clone();
    for (key, value) in &wanted.set {
        after.insert(key.clone(), json!(value));
    }
    for key in &wanted.remove {
        if after.remove(key).is_some() {
            removed = true;
        } else if words.noun == "label" {
            app.out.line(&format!("label {key:?} not found."));
        }
    }
    object["metadata"][words.field] = Value::Object(after);
    if let Some(version) = args.text_if("resource-version") {
        object["metadata"]["resourceVersion"] = json!(version);
        info.object["metadata"]["resourceVersion"] = Value::Null;
    }
    let operation = match (added, removed) {
        (true, true) if words.noun == "label" => "modified",
        (true, _) => words.done[0],
        (false, true) => words.done[1],
        (false, false) => words.done[2],
    };
    if added || removed {
        info.object = change::send_merge(app, args, &info, &object, write).await?.object;
    }
    done.show_info(app, &info, operation)
}

fn taken_error(words: &Words, taken: &[(&String, &String)], held: &serde_json::Map<String, Value>) -> Error {
    let old = |key: &str| held.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    if words.noun == "label" {
        let one = |key: &str| {
            Error::usage(format!("'{key}' already has a value ({}), and --overwrite is false", old(key)))
        };
        let mut errors: Vec<Error> = taken.iter().map(|(key, _)| one(key)).collect();
        return if errors.len() == 1 { errors.remove(0) } else { Error::Many(errors) };
    }
    let all: Vec<String> =
        taken.iter().map(|(key, _)| format!("'{key}' already has a value ({})", old(key))).collect();
    Error::usage(format!(
        "--overwrite is false but found the following declared annotation(s): {}",
        all.join("; ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs() {
        let read = |specs: &[&str], words: &Words| {
            parse(&specs.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>(), words)
                .map_err(|error| error.to_string())
        };
        let wanted = read(&["a=b", "c-"], &LABEL).expect("specs");
        assert_eq!((wanted.set["a"].as_str(), wanted.remove[0].as_str()), ("b", "c"));
        assert_eq!(read(&["a=b=c"], &ANNOTATION).expect("a spec").set["a"], "b=c");
        for (specs, words, expect) in [
            (["a=b=c", "x=y"], &LABEL, "invalid label spec: a=b=c"),
            (["a=b", "a-"], &LABEL, "can not both modify and remove a label in the same command"),
            (
                ["a=b", "a-"],
                &ANNOTATION,
                "can not both modify and remove the following annotation(s) in the same command: a",
            ),
        ] {
            assert_eq!(read(&specs, words).expect_err("a mistake"), expect);
        }
    }
}
