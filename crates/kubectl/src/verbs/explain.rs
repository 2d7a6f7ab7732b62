//! `explain`: what a kind's fields mean, from the server's OpenAPI documents.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::Error;
use crate::app::App;
use crate::commands::{Command, Group};
use crate::describe::text;
use crate::flags::{Args, Flag, Takes, flag, short};
use crate::verbs::run;

/// Deeper nesting is not shown.
const MAX_DEPTH: usize = 32;

const FLAGS: &[Flag] = &[
    flag("api-version", Takes::Text, "", "The group and version to explain"),
    short("output", 'o', Takes::Text, "plaintext", "plaintext"),
    flag("recursive", Takes::Switch, "false", "Names of all fields below"),
];

/// Rows of the table.
pub const COMMANDS: &[Command] = &[Command {
    name: "explain",
    aliases: &[],
    group: Group::Intermediate,
    usage: "TYPE [--recursive=FALSE|TRUE] [--api-version=api-version-group]",
    about: "Get documentation for a resource",
    examples: "kubectl explain pods\nkubectl explain pods.spec.containers",
    flags: &[FLAGS],
    run: run!(explain),
}];

async fn explain(app: &App, args: &Args) -> Result<(), Error> {
    let [word] = args.words.as_slice() else {
        return Err(Error::usage(if args.words.is_empty() {
            "You must specify the type of resource to explain. Use \"kubectl api-resources\" for a complete list of \
             supported resources."
        } else {
            "We accept only this format: explain RESOURCE"
        }));
    };
    let kinds = app.kinds().await?;
    let mut parts: Vec<&str> = word.trim_end_matches('.').split('.').collect();
    let mut fields: Vec<&str> = parts.split_off(1);
    // The words after the kind may name its group.
    let mut row = kinds.resource(parts[0]);
    for count in (1..=fields.len()).rev() {
        if let Ok(found) = kinds.resource(&format!("{}.{}", parts[0], fields[..count].join(".")))
            && found.resource.gvr.group == fields[..count].join(".")
        {
            row = Ok(found);
            fields.drain(..count);
            break;
        }
    }
    // Here the message stands alone.
    let mut resource = row.map_err(|error| Error::Bare { message: error.to_string(), code: 1 })?.resource;
    if let Some(version) = args.text_if("api-version") {
        let found = kinds.all().iter().find(|row| {
            row.resource.gvr.resource == resource.gvr.resource && row.resource.api_version() == version
        });
        let missing = || Error::usage(format!("couldn't find resource for {version:?}"));
        resource = found.ok_or_else(missing)?.resource.clone();
    }
    let path = match resource.gvr.group.as_str() {
        "" => format!("/openapi/v3/api/{}", resource.gvr.version),
        group => format!("/openapi/v3/apis/{group}/{}", resource.gvr.version),
    };
    let document: Value = app.client()?.get_path(&path).await?;
    let page = Page { document: &document, recursive: args.on("recursive") };
    app.out.text(&page.show(&resource.gvk(), &fields)?);
    Ok(())
}

struct Page<'a> {
    document: &'a Value,
    recursive: bool,
}

impl<'a> Page<'a> {
    fn show(&self, gvk: &api::Gvk, fields: &[&str]) -> Result<String, Error> {
        let is_it = |schema: &&Value| {
            let kinds = schema["x-kubernetes-group-version-kind"].as_array();
            kinds.into_iter().flatten().any(|known| {
                text(known, "/group") == gvk.group
                    && text(known, "/version") == gvk.version
                    && text(known, "/kind") == gvk.kind
            })
        };
        let schemas = self.document["components"]["schemas"].as_object();
        let root = schemas.into_iter().flat_map(|schemas| schemas.values()).find(is_it);
        let root = root.ok_or_else(|| Error::state(format!("GVK {gvk} not found in OpenAPI schema")))?;
        let mut out = String::new();
        if !gvk.group.is_empty() {
            out.push_str(&format!("GROUP:      {}\n", gvk.group));
        }
        out.push_str(&format!("KIND:       {}\nVERSION:    {}\n\n", gvk.kind, gvk.version));
        let mut schema = root;
        for (at, field) in fields.iter().enumerate() {
            schema = self
                .property(schema, field)
                .ok_or_else(|| Error::state(format!("field {field:?} does not exist")))?;
            if at + 1 == fields.len() {
                out.push_str(&format!("FIELD: {field} <{}>\n", self.kind(schema)));
                out.push_str(&self.values(schema, 0, usize::MAX));
                out.push_str("\n\n");
            }
        }
        let about = self.description(schema);
        let about = if about.is_empty() { "<empty>".to_owned() } else { about };
        out.push_str(&format!("DESCRIPTION:\n{}", indented(&about, 4, 76)));
        let list = self.fields(schema, 1, &mut BTreeSet::new(), 0);
        if !list.is_empty() {
            out.push_str(&format!("FIELDS:\n{list}"));
        }
        out.push('\n');
        Ok(out)
    }

    /// Follows references.
    fn resolve(&self, schema: &'a Value) -> &'a Value {
        let target = |schema: &Value| schema["$ref"].as_str().map(str::to_owned);
        match target(schema) {
            Some(reference) => self.document.pointer(reference.trim_start_matches('#')).unwrap_or(schema),
            None => schema,
        }
    }

    /// The schema of a field, through lists and maps.
    fn property(&self, schema: &'a Value, field: &str) -> Option<&'a Value> {
        let schema = self.resolve(schema);
        if let Some(found) = schema["properties"].get(field) {
            return Some(found);
        }
        for inner in ["items", "additionalProperties"] {
            if schema[inner].is_object()
                && let Some(found) = self.property(&schema[inner], field)
            {
                return Some(found);
            }
        }
        schema["allOf"].as_array()?.iter().find_map(|part| self.property(part, field))
    }

    fn reference(schema: &Value) -> Option<&str> {
        let own = schema["$ref"].as_str();
        let part =
            schema["allOf"].as_array().and_then(|parts| parts.iter().find_map(|part| part["$ref"].as_str()));
        own.or(part)
    }

    /// The name of a schema's type.
    fn kind(&self, schema: &'a Value) -> String {
        if schema["items"].is_object() {
            return format!("[]{}", self.kind(&schema["items"]));
        }
        if schema["additionalProperties"].is_object() {
            return format!("map[string]{}", self.kind(&schema["additionalProperties"]));
        }
        if let Some(reference) = Self::reference(schema) {
            let resolved = self.document.pointer(reference.trim_start_matches('#')).unwrap_or(&Value::Null);
            // Only objects, and what has several types, are called by their name.
            return match resolved["type"].as_str() {
                Some(kind) if kind != "object" => kind.to_owned(),
                _ => reference.rsplit(['.', '/']).next().unwrap_or_default().to_owned(),
            };
        }
        if schema["x-kubernetes-int-or-string"] == true {
            return "IntOrString".to_owned();
        }
        match schema["type"].as_str() {
            Some("object") | None => "Object".to_owned(),
            Some(kind) => kind.to_owned(),
        }
    }

    fn values(&self, schema: &Value, indent: usize, most: usize) -> String {
        let found = schema["enum"].as_array().or_else(|| schema["items"]["enum"].as_array());
        let Some(values) = found else { return String::new() };
        let mut texts: Vec<String> = values.iter().map(crate::print::go_value).collect();
        texts.iter_mut().filter(|text| text.is_empty()).for_each(|text| *text = "\"\"".to_owned());
        let more = texts.len() > most;
        texts.truncate(most);
        let tail = if more { ", ...." } else { "" };
        if most == usize::MAX {
            let lines: Vec<String> = texts.iter().map(|text| format!("    {text}\n")).collect();
            return format!("ENUM:\n{}", lines.concat()).trim_end_matches('\n').to_owned();
        }
        format!("\n{:indent$}enum: {}{tail}", "", texts.join(", "))
    }

    /// The field's own words, then its type's.
    fn description(&self, schema: &'a Value) -> String {
        let mut parts: Vec<String> = Vec::new();
        self.describe(schema, &mut parts, 0);
        parts.iter().map(|part| format!("{part}\n")).collect()
    }

    fn describe(&self, schema: &'a Value, parts: &mut Vec<String>, depth: usize) {
        if depth > MAX_DEPTH {
            return;
        }
        let own = text(schema, "/description");
        if !own.is_empty() {
            parts.push(own.to_owned());
        }
        if schema["$ref"].is_string() {
            self.describe(self.resolve(schema), parts, depth + 1);
        }
        for part in schema["allOf"].as_array().into_iter().flatten() {
            self.describe(part, parts, depth + 1);
        }
        for inner in ["items", "additionalProperties"] {
            if schema[inner].is_object() {
                self.describe(&schema[inner], parts, depth + 1);
            }
        }
    }

    fn fields(&self, schema: &'a Value, level: usize, above: &mut BTreeSet<String>, depth: usize) -> String {
        if depth > MAX_DEPTH {
            return String::new();
        }
        let reference = schema["$ref"].as_str().map(str::to_owned);
        if let Some(reference) = &reference
            && !above.insert(reference.clone())
        {
            return String::new();
        }
        let resolved = self.resolve(schema);
        let mut out = String::new();
        let required = resolved["required"].as_array();
        for (name, field) in resolved["properties"].as_object().into_iter().flatten() {
            let needed = required.is_some_and(|required| required.iter().any(|other| other == name.as_str()));
            out.push_str(&self.field(name, field, needed, level));
            if self.recursive {
                out.push_str(&self.fields(field, level + 1, above, depth + 1));
            }
        }
        for part in resolved["allOf"].as_array().into_iter().flatten() {
            out.push_str(&self.fields(part, level, above, depth + 1));
        }
        for inner in ["items", "additionalProperties"] {
            if resolved[inner].is_object() {
                out.push_str(&self.fields(&resolved[inner], level, above, depth + 1));
            }
        }
        if let Some(reference) = reference {
            above.remove(&reference);
        }
        out
    }

    fn field(&self, name: &str, field: &'a Value, required: bool, level: usize) -> String {
        let indent = level * 2;
        let mark = if required { " -required-" } else { "" };
        let values = self.values(field, indent, 4);
        let mut out = format!("{:indent$}{name}\t<{}>{mark}{values}\n", "", self.kind(field));
        if !self.recursive {
            let about = text(field, "/description");
            let about = if about.is_empty() { "<no description>" } else { about };
            out.push_str(&indented(about, indent + 2, 78 - indent));
            out.push('\n');
        }
        out
    }
}

/// Lines of at most this width, indented.
fn indented(content: &str, indent: usize, width: usize) -> String {
    let mut out = String::new();
    for paragraph in content.split('\n') {
        let words = paragraph.trim_start_matches(' ');
        let mut line = " ".repeat(paragraph.len() - words.len());
        let mut first = true;
        for word in words.split(' ') {
            if !first && line.chars().count() + 1 + word.chars().count() > width {
                out.push_str(&format!("{:indent$}{line}\n", ""));
                line.clear();
                first = true;
            }
            line.push_str(if first { "" } else { " " });
            line.push_str(word);
            first = false;
        }
        out.push_str(&format!("{:indent$}{line}\n", ""));
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pages() {
        let document = json!({"components": {"schemas": {
            "x.Thing": {
                "description": "A thing.", "required": ["spec"],
                "x-kubernetes-group-version-kind": [{"group": "x", "version": "v1", "kind": "Thing"}],
                "properties": {
                    "spec": {"allOf": [{"$ref": "#/components/schemas/x.Spec"}], "description": "What is wanted."},
                    "names": {"type": "array", "items": {"type": "string"}, "description": "Names."},
                },
            },
            "x.Spec": {
                "description": "Spec tells.",
                "properties": {
                    "mode": {"type": "string", "enum": ["A", "B"], "description": "How."},
                    "self": {"$ref": "#/components/schemas/x.Spec"},
                },
            },
        }}});
        let gvk = api::Gvk::new("x", "v1", "Thing");
        let page = |recursive| Page { document: &document, recursive };
        let expect = "GROUP:      x\nKIND:       Thing\nVERSION:    v1\n\nDESCRIPTION:\n    A thing.\n    \nFIELDS:\n  names\t<[]string>\n    \
            Names.\n\n  spec\t<Spec> -required-\n    What is wanted.\n\n\n";
        assert_eq!(page(false).show(&gvk, &[]).expect("a page"), expect);
        let nested = page(true).show(&gvk, &["spec"]).expect("a page");
        assert!(nested.contains("FIELD: spec <Spec>\n"), "{nested}");
        assert!(nested.contains("  mode\t<string>\n  enum: A, B\n  self\t<Spec>\n"), "{nested}");
        let error = page(false).show(&gvk, &["nope"]).expect_err("no such field").to_string();
        assert_eq!(error, "field \"nope\" does not exist");
    }
}
