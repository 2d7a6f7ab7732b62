//! `cargo xtask facts`: holds the schema facts of `machinery` against the crates that carry them.
//!
//! Names, types and required fields come from k8s-openapi, protobuf numbers and list and patch markers from
//! k8s-pb (one version behind). What neither says (pointers, what Go always prints, enumerations) stays as it
//! stands in `facts.txt`. With `--write` new types and fields are added and changed facts replaced; without,
//! differences are printed and fail the task. Known differences are in `facts-overlay.txt`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use syn::{Attribute, Expr, ExprLit, Fields, Item, Lit, Meta, Type};

const FACTS: &str = "crates/machinery/src/schema/facts.txt";
const OVERLAY: &str = "tools/xtask/facts-overlay.txt";

/// A field as one source tells it.
#[derive(Debug, Default, Clone, PartialEq)]
struct Field {
    number: Option<u32>,
    required: bool,
    ty: String,
    /// `a`, `s` or `k:name,…`.
    list: Option<String>,
    patch: Option<String>,
    merge_key: Option<String>,
}

type Types = BTreeMap<String, BTreeMap<String, Field>>;

/// Runs the task and gives the differences found (empty when written).
pub fn run(root: &Path, write: bool) -> Result<Vec<String>, String> {
    let sources = sources(root)?;
    let openapi = sources.get("k8s-openapi").ok_or("k8s-openapi is not among the packages")?;
    let pb = sources.get("k8s-pb").ok_or("k8s-pb is not among the packages")?;
    let types = read_openapi(&openapi.join("src/v1_36"))?;
    let messages = read_pb(&pb.join("src"))?;
    let text = std::fs::read_to_string(root.join(FACTS)).map_err(|e| format!("{FACTS}: {e}"))?;
    let overlay = std::fs::read_to_string(root.join(OVERLAY)).unwrap_or_default();
    let known: BTreeSet<&str> = overlay.lines().filter(|line| !line.starts_with('#')).collect();
    let mut table = Table::parse(&text);
    let mut problems = Vec::new();
    for (name, fields) in &types {
        table.hold(name, fields, messages.get(name), &mut problems);
    }
    problems.retain(|problem| !known.contains(problem.as_str()));
    if write {
        std::fs::write(root.join(FACTS), table.print()).map_err(|e| format!("{FACTS}: {e}"))?;
    }
    Ok(problems)
}

/// Where cargo keeps the packages' sources.
fn sources(root: &Path) -> Result<BTreeMap<String, PathBuf>, String> {
    let output = Command::new("cargo")
        .args(["metadata", "--format-version=1"])
        .current_dir(root)
        .output()
        .map_err(|e| format!("cargo metadata: {e}"))?;
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).map_err(|e| format!("cargo metadata: {e}"))?;
    let packages = metadata["packages"].as_array().cloned().unwrap_or_default();
    let entry = |package: &serde_json::Value| {
        let manifest = Path::new(package["manifest_path"].as_str()?).parent()?.to_path_buf();
        Some((package["name"].as_str()?.to_string(), manifest))
    };
    Ok(packages.iter().filter_map(entry).collect())
}

fn rust_files(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            rust_files(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

fn parse(path: &Path) -> Result<(String, syn::File), String> {
    let source = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let file = syn::parse_file(&source).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok((source, file))
}

/// Types of k8s-openapi by definition name.
fn read_openapi(dir: &Path) -> Result<Types, String> {
    let mut files = Vec::new();
    rust_files(dir, &mut files);
    let mut types = Types::new();
    for path in files {
        let (source, file) = parse(&path)?;
        let Some(name) = source.lines().find_map(|line| line.strip_prefix("// Generated from definition "))
        else {
            continue;
        };
        let keys: BTreeMap<&str, &str> = source
            .lines()
            .filter_map(|line| line.trim().split_once(" => Field::Key_"))
            .map(|(json, field)| (field.trim_end_matches(','), json.trim_matches('"')))
            .collect();
        for item in &file.items {
            let Item::Struct(item) = item else { continue };
            let Fields::Named(named) = &item.fields else { continue };
            let fields = named.named.iter().filter_map(|field| {
                let ident = field.ident.as_ref()?.to_string();
                let json = keys.get(ident.trim_start_matches("r#"))?;
                let (ty, optional) = openapi_type(&field.ty);
                Some((json.to_string(), Field { ty, required: !optional, ..Field::default() }))
            });
            types.insert(name.to_string(), fields.collect());
        }
    }
    Ok(types)
}

fn last_segment(ty: &Type) -> Option<(&syn::PathSegment, String)> {
    let Type::Path(path) = ty else { return None };
    let full: Vec<String> = path.path.segments.iter().map(|s| s.ident.to_string()).collect();
    Some((path.path.segments.last()?, full.join("::")))
}

fn argument(segment: &syn::PathSegment, at: usize) -> Option<&Type> {
    let syn::PathArguments::AngleBracketed(arguments) = &segment.arguments else { return None };
    arguments
        .args
        .iter()
        .filter_map(|a| if let syn::GenericArgument::Type(ty) = a { Some(ty) } else { None })
        .nth(at)
}

/// The facts' word for a Rust type, and whether it is optional.
fn openapi_type(ty: &Type) -> (String, bool) {
    let Some((segment, full)) = last_segment(ty) else { return (String::new(), false) };
    let name = segment.ident.to_string();
    let inner = |at| argument(segment, at).map(|ty| openapi_type(ty).0).unwrap_or_default();
    let word = match name.as_str() {
        "Option" => return (inner(0), true),
        "Box" => inner(0),
        "Vec" => format!("[]{}", inner(0)),
        "BTreeMap" => format!("{{}}{}", inner(1)),
        "i32" => "i32".to_string(),
        "i64" => "i64".to_string(),
        "f64" => "f64".to_string(),
        "bool" => "bool".to_string(),
        "String" => "str".to_string(),
        "ByteString" => "bytes".to_string(),
        "Quantity" => "qty".to_string(),
        "Time" => "time".to_string(),
        "MicroTime" => "mtime".to_string(),
        "IntOrString" => "ios".to_string(),
        "RawExtension" => "raw".to_string(),
        "FieldsV1" => "fields".to_string(),
        "JSON" => "json".to_string(),
        "JSONSchemaPropsOrArray" => "schemaOrArray".to_string(),
        "JSONSchemaPropsOrBool" => "schemaOrBool".to_string(),
        "JSONSchemaPropsOrStringArray" => "schemaOrStrings".to_string(),
        _ => message_word(&full, &name),
    };
    (word, false)
}

/// `crate::api::core::v1::PodSpec` is `core.v1.PodSpec`.
fn message_word(full: &str, name: &str) -> String {
    let parts: Vec<&str> = full.split("::").collect();
    match parts.as_slice() {
        [.., group, version, _] => format!("{group}.{version}.{name}"),
        _ => name.to_string(),
    }
}

/// Messages of k8s-pb by definition name; field names are squashed.
fn read_pb(dir: &Path) -> Result<Types, String> {
    let mut files = Vec::new();
    rust_files(dir, &mut files);
    let mut messages = Types::new();
    for path in files {
        let (_, file) = parse(&path)?;
        let module =
            path.parent().and_then(|p| p.strip_prefix(dir).ok()).map(Path::to_path_buf).unwrap_or_default();
        let parts: Vec<String> = module.iter().map(|part| part.to_string_lossy().replace('_', "-")).collect();
        let prefix = format!("io.k8s.{}", parts.join("."));
        for item in &file.items {
            let Item::Struct(item) = item else { continue };
            let Fields::Named(named) = &item.fields else { continue };
            let fields = named.named.iter().filter_map(|field| {
                let number = prost_number(&field.attrs)?;
                let mut fact = markers(&field.attrs);
                fact.number = Some(number);
                Some((squash(&field.ident.as_ref()?.to_string()), fact))
            });
            messages.insert(format!("{prefix}.{}", item.ident), fields.collect());
        }
    }
    Ok(messages)
}

/// Names differ in case and underscores only: `hostIP`, `host_ip`.
fn squash(name: &str) -> String {
    name.trim_start_matches("r#")
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|c| c.to_ascii_lowercase())
        .collect()
}

fn prost_number(attributes: &[Attribute]) -> Option<u32> {
    let prost = attributes.iter().find(|attribute| attribute.path().is_ident("prost"))?;
    let Meta::List(list) = &prost.meta else { return None };
    let text = list.tokens.to_string();
    let (_, after) = text.split_once("tag = \"")?;
    after.split('"').next()?.parse().ok()
}

/// List and patch markers among the comments.
fn markers(attributes: &[Attribute]) -> Field {
    let mut field = Field::default();
    let mut keys = Vec::new();
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("doc")) {
        let Meta::NameValue(value) = &attribute.meta else { continue };
        let Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) = &value.value else { continue };
        let text = text.value();
        match text.trim().strip_prefix('+').and_then(|marker| marker.split_once('=')) {
            Some(("listType", "atomic")) => field.list = Some("a".to_string()),
            Some(("listType", "set")) => field.list = Some("s".to_string()),
            Some(("listMapKey", key)) => keys.push(key.to_string()),
            Some(("patchStrategy", strategy)) => field.patch = Some(strategy.to_string()),
            Some(("patchMergeKey", key)) => field.merge_key = Some(key.to_string()),
            _ => {}
        }
    }
    if !keys.is_empty() {
        field.list = Some(format!("k:{}", keys.join(",")));
    }
    field
}

/// `facts.txt`, kept line by line.
struct Table {
    lines: Vec<String>,
    /// Definition name to the range of its field lines.
    places: BTreeMap<String, (usize, usize)>,
    /// Lines to add after a line.
    added: BTreeMap<usize, Vec<String>>,
}

impl Table {
    fn parse(text: &str) -> Table {
        let lines: Vec<String> = text.lines().map(str::to_string).collect();
        let mut places = BTreeMap::new();
        let (mut prefix, mut open): (String, Option<(String, usize)>) = (String::new(), None);
        for (at, line) in lines.iter().enumerate() {
            let mut words = line.split(' ');
            match (words.next(), words.next(), words.next()) {
                (Some("p"), _, Some(full)) => prefix = full.to_string(),
                (Some("t"), Some(name), _) => {
                    if let Some((name, start)) = open.replace((format!("{prefix}.{name}"), at + 1)) {
                        places.insert(name, (start, at));
                    }
                }
                _ => continue,
            }
        }
        if let Some((name, start)) = open {
            places.insert(name, (start, lines.len()));
        }
        Table { lines, places, added: BTreeMap::new() }
    }

    fn hold(
        &mut self,
        name: &str,
        fields: &BTreeMap<String, Field>,
        message: Option<&BTreeMap<String, Field>>,
        problems: &mut Vec<String>,
    ) {
        let Some((start, end)) = self.places.get(name).copied() else {
            problems.push(format!("{name}: not in the table"));
            return;
        };
        let inlines = self.lines[start..end].iter().any(|line| line.starts_with("+ "));
        for (json, fact) in fields {
            let pb = message.and_then(|message| message.get(&squash(json)));
            let found = (start..end).find(|at| self.lines[*at].split(' ').next() == Some(json));
            match found {
                Some(at) => self.hold_field(name, json, at, fact, pb, problems),
                None if inlines => {}
                None => {
                    problems.push(format!("{name}.{json}: not in the table"));
                    let number = pb.and_then(|pb| pb.number).unwrap_or(0);
                    let required = if fact.required { " !" } else { "" };
                    self.added.entry(end).or_default().push(format!("{json} {number} {}{required}", fact.ty));
                }
            }
        }
    }

    fn hold_field(
        &mut self,
        name: &str,
        json: &str,
        at: usize,
        fact: &Field,
        pb: Option<&Field>,
        problems: &mut Vec<String>,
    ) {
        let line = self.lines[at].clone();
        let words: Vec<&str> = line.split(' ').collect();
        let (number, ty, flags) = (words[1], words[2], &words[3..]);
        let mut differ = |what: &str, table: &str, crates: &str| {
            if table != crates {
                problems.push(format!("{name}.{json}: {what} is {table:?}, the crates say {crates:?}"));
            }
        };
        let has = |flag: &str| flags.contains(&flag);
        let plain = ty.trim_start_matches('*').split(':').next().unwrap_or_default();
        differ("type", &type_word(plain), &type_word(&fact.ty));
        let fixed = ["apiVersion", "kind", "metadata", "items"].contains(&json);
        if !fixed {
            differ("required", if has("!") { "yes" } else { "no" }, if fact.required { "yes" } else { "no" });
        }
        let Some(pb) = pb else { return };
        differ("number", number, &pb.number.unwrap_or(0).to_string());
        let of = |prefix: &str| flags.iter().find_map(|flag| flag.strip_prefix(prefix)).unwrap_or_default();
        let list = flags.iter().find(|flag| ["a", "s"].contains(flag) || flag.starts_with("k:"));
        if ty.contains("[]") {
            differ("list type", list.copied().unwrap_or_default(), pb.list.as_deref().unwrap_or_default());
        }
        differ("patch strategy", of("p:"), pb.patch.as_deref().unwrap_or_default());
        differ("merge key", of("m:"), pb.merge_key.as_deref().unwrap_or_default());
    }

    fn print(&self) -> String {
        let mut out = String::new();
        for at in 0..=self.lines.len() {
            for line in self.added.get(&at).into_iter().flatten() {
                out.push_str(line);
                out.push('\n');
            }
            if let Some(line) = self.lines.get(at) {
                out.push_str(line);
                out.push('\n');
            }
        }
        out
    }
}

/// Words that the two sources spell differently.
fn type_word(word: &str) -> String {
    let word = word.replace("strs", "[]str").replace("int", "i64").replace("any", "raw");
    let mut parts: Vec<&str> = word.rsplitn(3, '.').collect();
    parts.reverse();
    match parts.as_slice() {
        [group, version, name] => format!("{}.{version}.{name}", group.replace('_', "-")),
        _ => word,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_agrees_with_the_crates() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let problems = run(&root, false).expect("the sources are there");
        assert!(problems.is_empty(), "{} differences:\n{}", problems.len(), problems.join("\n"));
    }
}
