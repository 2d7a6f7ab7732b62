//! How objects are shown: `-o` and its formats, one way for all commands.
//!
//! Must not know where objects come from.

pub mod age;
pub mod columns;
pub mod json;
pub mod sort;
pub mod table;
pub mod template;

use machinery::codec::yaml;
use machinery::jsonpath::Template;
use serde_json::Value;

use crate::Error;
use crate::app::App;
use crate::flags::Args;
use crate::request::DryRun;
use crate::select::Info;

/// A format that `-o` names.
#[derive(Debug)]
pub enum Format {
    /// `wide`.
    Wide,
    /// `name`.
    Name,
    /// `json`.
    Json,
    /// `yaml`.
    Yaml,
    /// `kyaml`.
    Kyaml,
    /// `jsonpath=…`.
    Path(Template, String),
    /// `jsonpath-as-json=…`.
    PathAsJson(Template),
    /// `go-template=…`.
    Template(template::Template),
    /// `custom-columns=…`.
    Columns(columns::Columns),
}

const KNOWN: &str = "custom-columns,custom-columns-file,go-template,go-template-file,json,jsonpath,jsonpath-as-json,\
    jsonpath-file,kyaml,name,template,templatefile,wide,yaml";

impl Format {
    /// Reads `-o` and `--template`; `None` = for people.
    pub fn of(args: &Args) -> Result<Option<Format>, Error> {
        let text = args.text("output");
        let (name, inline) = text.split_once('=').unwrap_or((text, ""));
        let argument = if inline.is_empty() { args.text("template") } else { inline };
        let path = |text: &str| {
            Template::parse(text)
                .map_err(|error| Error::usage(format!("error parsing jsonpath {text}, {error}")))
        };
        let lacking = |what: &str| Error::usage(format!("{what} format specified but no {what} given"));
        Ok(Some(match name {
            "" if args.given("template") => Format::Template(template::Template::parse(argument)?),
            "" => return Ok(None),
            "wide" => Format::Wide,
            "name" => Format::Name,
            "json" => Format::Json,
            "yaml" => Format::Yaml,
            "kyaml" => Format::Kyaml,
            "jsonpath" | "jsonpath-as-json" | "jsonpath-file" if argument.is_empty() => {
                return Err(Error::usage("template format specified but no template given"));
            }
            "jsonpath" => Format::Path(path(argument)?, argument.to_owned()),
            "jsonpath-as-json" => Format::PathAsJson(path(argument)?),
            "jsonpath-file" => {
                let text = read(argument)?;
                Format::Path(path(&text)?, text)
            }
            "go-template" | "template" | "go-template-file" | "templatefile" if argument.is_empty() => {
                return Err(lacking("template"));
            }
            "go-template" | "template" => Format::Template(template::Template::parse(argument)?),
            "go-template-file" | "templatefile" => {
                Format::Template(template::Template::parse(&read(argument)?)?)
            }
            "custom-columns" => Format::Columns(columns::Columns::parse(argument)?),
            "custom-columns-file" => Format::Columns(columns::Columns::parse_file(&read(argument)?)?),
            _ => {
                return Err(Error::usage(format!(
                    "unable to match a printer suitable for the output format {text:?}, allowed formats are: {KNOWN}"
                )));
            }
        }))
    }

    /// The text of an object or list; `None` when people should see a table.
    pub fn show(&self, object: &Value, headers: bool) -> Result<String, Error> {
        Ok(match self {
            Format::Json => json::pretty(object),
            Format::Yaml => yaml::encode(object),
            Format::Kyaml => json::kyaml(object),
            Format::Name => {
                let mut out = String::new();
                for item in each(object) {
                    out.push_str(&title(&item));
                    out.push('\n');
                }
                out
            }
            Format::Path(template, text) => template.execute(object, true).map_err(|error| {
                Error::input(format!("error executing jsonpath {text:?}: Error executing template: {error}"))
            })?,
            Format::PathAsJson(template) => {
                let found = template.find(object, true).map_err(|error| Error::input(error.to_string()))?;
                let all: Vec<Value> = found.into_iter().flatten().collect();
                json::pretty(&Value::Array(all))
            }
            Format::Template(template) => template.execute(object)?,
            Format::Columns(columns) => columns.show(&each(object), headers),
            Format::Wide => String::new(),
        })
    }
}

fn read(path: &str) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Error::input(format!("error reading template {path}, open {path}: no such file or directory"))
        }
        _ => Error::local(format!("error reading template {path}"), error),
    })
}

/// The items of a list, or the object alone.
pub fn each(object: &Value) -> Vec<Value> {
    match object.get("items") {
        Some(Value::Array(_)) if object["kind"].as_str().is_some_and(|kind| kind.ends_with("List")) => {
            crate::select::items(object)
        }
        _ => vec![object.clone()],
    }
}

/// `pod/x`, `deployment.apps/x`.
pub fn title(object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let group = text("/apiVersion").split_once('/').map_or("", |(group, _)| group);
    let kind = text("/kind").to_lowercase();
    format!("{}/{}", api::meta::group_resource(group, &kind), text("/metadata/name"))
}

/// Leaves out what people rarely want to see.
pub fn without_managed_fields(mut object: Value) -> Value {
    fn strip(object: &mut Value) {
        if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            meta.remove("managedFields");
        }
    }
    strip(&mut object);
    for item in object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
        strip(item);
    }
    object
}

/// Tells what was done to an object: `pod/x created`, or the object as `-o` asks.
pub struct Done {
    format: Option<Format>,
    managed: bool,
    dry_run: DryRun,
    /// How many YAML documents have been written.
    documents: std::cell::Cell<usize>,
}

impl Done {
    /// From flags.
    pub fn of(args: &Args) -> Result<Done, Error> {
        let format = Format::of(args)?.filter(|format| !matches!(format, Format::Wide));
        let (managed, dry_run) = (args.on("show-managed-fields"), DryRun::of(args)?);
        Ok(Done { format, managed, dry_run, documents: std::cell::Cell::new(0) })
    }

    /// True when people read it.
    pub fn is_plain(&self) -> bool {
        self.format.is_none()
    }

    /// Shows one object.
    pub fn show(&self, app: &App, object: &Value, operation: &str) -> Result<(), Error> {
        match &self.format {
            None => app.out.line(&format!("{} {operation}{}", title(object), self.dry_run.suffix())),
            Some(Format::Name) => app.out.line(&title(object)),
            Some(format) => {
                let object =
                    if self.managed { object.clone() } else { without_managed_fields(object.clone()) };
                let count = self.documents.replace(self.documents.get() + 1);
                if count > 0 && matches!(format, Format::Yaml) {
                    app.out.line("---");
                }
                app.out.text(&format.show(&object, true)?);
            }
        }
        Ok(())
    }

    /// Shows an object with a title of its own: for answers that lack a type.
    pub fn show_info(&self, app: &App, info: &Info, operation: &str) -> Result<(), Error> {
        if self.format.is_none() {
            app.out.line(&format!("{} {operation}{}", info.title(), self.dry_run.suffix()));
            return Ok(());
        }
        self.show(app, &info.object, operation)
    }
}

/// A value as Go's `%v` shows it: `map[a:1 b:2]`, `[x y]`.
pub fn go_value(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(go_value).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Object(fields) => {
            let fields: Vec<String> =
                fields.iter().map(|(key, value)| format!("{key}:{}", go_value(value))).collect();
            format!("map[{}]", fields.join(" "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(output: &str, object: &Value) -> String {
        let line = [format!("-o{output}")];
        let known = [crate::flags::short("output", 'o', crate::flags::Takes::Text, "", "")];
        let args = Args::parse(&line, &[&known]).expect("reads");
        match Format::of(&args) {
            Ok(Some(format)) => format.show(object, true).unwrap_or_else(|error| error.to_string()),
            Ok(None) => String::new(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn formats() {
        let pod =
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {"x": "<y>"}}});
        let list = json!({"apiVersion": "v1", "kind": "List", "items": [pod]});
        for (output, expect) in [
            ("name", "pod/a\n"),
            ("jsonpath={.metadata.name}", "a"),
            ("jsonpath={.nope}", ""),
            ("jsonpath-as-json={.metadata.name}", "[\n    \"a\"\n]\n"),
            ("yaml", "apiVersion: v1\nkind: Pod\nmetadata:\n  labels:\n    x: <y>\n  name: a\n"),
            (
                "custom-columns=N:.metadata.name,L:.metadata.labels,Z:.nope",
                "N     L            Z\na     map[x:<y>]   <none>\n",
            ),
            ("go-template={{.metadata.name}}", "a"),
        ] {
            assert_eq!(shown(output, &pod), expect, "{output}");
        }
        assert_eq!(shown("name", &list), "pod/a\n");
        assert!(shown("json", &pod).contains(r#""x": "\u003cy\u003e""#));
        assert!(
            shown("nope", &pod)
                .starts_with("unable to match a printer suitable for the output format \"nope\"")
        );
    }
}
