//! Manifests: `-f` with files, directories, patterns and standard input, read into single objects.
//!
//! Must not know the server.

use std::path::{Path, PathBuf};

use machinery::codec::yaml;
use serde_json::Value;

use crate::Error;
use crate::app::App;

/// What files in a directory must end in.
const ENDINGS: [&str; 3] = ["json", "yaml", "yml"];

/// An object of a manifest and where it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// The object.
    pub object: Value,
    /// The file, or `STDIN`.
    pub source: String,
}

/// Reads everything that `-f` names.
pub fn read(app: &App, names: &[String], recursive: bool) -> Result<Vec<Manifest>, Error> {
    let mut found = Vec::new();
    for name in names {
        if name == "-" {
            parse(&app.read_stdin()?, "STDIN", &mut found)?;
            continue;
        }
        if name.starts_with("http://") || name.starts_with("https://") {
            let why = "manifests are read from files; fetch it first, for example with curl, and use -f -";
            return Err(Error::usage(format!("unable to read URL {name:?}: {why}")));
        }
        for path in paths(name, recursive)? {
            let what = || format!("error reading {:?}", path.display().to_string());
            let bytes = std::fs::read(&path).map_err(|error| Error::local(what(), error))?;
            parse(&bytes, &path.display().to_string(), &mut found)?;
        }
    }
    Ok(found)
}

fn paths(name: &str, recursive: bool) -> Result<Vec<PathBuf>, Error> {
    let path = Path::new(name);
    if path.is_dir() {
        let mut found = Vec::new();
        walk(path, recursive, &mut found)?;
        if found.is_empty() {
            let why = format!("error reading [{name}]: recognized file extensions are [.json .yaml .yml]");
            return Err(Error::usage(why));
        }
        return Ok(found);
    }
    if path.exists() {
        return Ok(vec![path.to_owned()]);
    }
    let matches = if name.contains(['*', '?']) { matching(path) } else { Vec::new() };
    if matches.is_empty() {
        Err(Error::usage(format!("the path {name:?} does not exist")))
    } else {
        Ok(matches)
    }
}

fn walk(dir: &Path, recursive: bool, found: &mut Vec<PathBuf>) -> Result<(), Error> {
    let fail = |error| Error::local(format!("error reading {:?}", dir.display().to_string()), error);
    let mut entries: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(fail)? {
        entries.push(entry.map_err(fail)?.path());
    }
    entries.sort();
    for path in entries {
        if path.is_dir() {
            if recursive {
                walk(&path, true, found)?;
            }
        } else if path.extension().is_some_and(|end| ENDINGS.iter().any(|known| end == *known)) {
            found.push(path);
        }
    }
    Ok(())
}

/// Files whose name fits a pattern of `*` and `?` in the last part of a path.
fn matching(path: &Path) -> Vec<PathBuf> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Some(pattern) = path.file_name().and_then(|name| name.to_str()) else { return Vec::new() };
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let fits = |name: &std::ffi::OsStr| name.to_str().is_some_and(|name| glob(pattern, name));
    let mut found: Vec<PathBuf> =
        entries.filter(|entry| fits(&entry.file_name())).map(|entry| entry.path()).collect();
    found.sort();
    found
}

/// True when a name fits a pattern of `*` and `?`.
fn glob(pattern: &str, name: &str) -> bool {
    let mut rest = pattern.chars();
    match rest.next() {
        None => name.is_empty(),
        Some('*') => {
            let ends = name.char_indices().map(|(at, _)| at).chain([name.len()]);
            ends.into_iter().any(|at| glob(rest.as_str(), &name[at..]))
        }
        Some(letter) => {
            let mut letters = name.chars();
            let first = letters.next();
            first.is_some_and(|first| letter == '?' || letter == first)
                && glob(rest.as_str(), letters.as_str())
        }
    }
}

/// Reads the documents of a text; lists become their items.
pub fn parse(bytes: &[u8], source: &str, found: &mut Vec<Manifest>) -> Result<(), Error> {
    let documents = yaml::decode_all(bytes).map_err(|error| {
        Error::input(format!("error parsing {source}: error converting YAML to JSON: {error}"))
    })?;
    for document in documents {
        if document.value.is_null() {
            continue;
        }
        flatten(document.value, source, found)?;
    }
    Ok(())
}

fn flatten(object: Value, source: &str, found: &mut Vec<Manifest>) -> Result<(), Error> {
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    if !object.is_object() {
        let why = format!("error parsing {source}: the document is no object");
        return Err(Error::input(why));
    }
    if kind.is_empty() || api_version.is_empty() {
        let mut lacking = Vec::new();
        for (key, value) in [("apiVersion", &api_version), ("kind", &kind)] {
            if value.is_empty() {
                lacking.push(format!("{key} not set"));
            }
        }
        let lacking =
            if lacking.len() == 1 { lacking.remove(0) } else { format!("[{}]", lacking.join(", ")) };
        return Err(Error::input(format!(
            "error validating {source:?}: error validating data: {lacking}; if you choose to ignore these \
             errors, turn validation off with --validate=false"
        )));
    }
    if let (true, Some(Value::Array(items))) = (kind.ends_with("List"), object.get("items")) {
        for item in items {
            let mut item = item.clone();
            // Items of a typed list may leave out what the list says.
            if let Some(fields) = item.as_object_mut()
                && kind != "List"
            {
                fields.entry("apiVersion").or_insert(Value::String(api_version.clone()));
                fields.entry("kind").or_insert(Value::String(kind.trim_end_matches("List").to_owned()));
            }
            flatten(item, source, found)?;
        }
        return Ok(());
    }
    found.push(Manifest { object, source: source.to_owned() });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_and_lists_are_taken_apart() {
        let text = "---\n# nothing\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: a}\n---\n\
            apiVersion: v1\nkind: ConfigMapList\nitems:\n- metadata: {name: b}\n";
        let mut found = Vec::new();
        parse(text.as_bytes(), "f", &mut found).expect("reads");
        let kinds: Vec<&str> = found.iter().filter_map(|found| found.object["kind"].as_str()).collect();
        assert_eq!(kinds, ["Pod", "ConfigMap"]);
    }

    #[test]
    fn types_are_needed() {
        let error = parse(b"metadata: {name: a}", "f", &mut Vec::new()).expect_err("no type");
        assert!(error.to_string().contains("[apiVersion not set, kind not set]"), "{error}");
    }

    #[test]
    fn patterns() {
        for (pattern, name, expect) in
            [("*.yaml", "a.yaml", true), ("a?.yaml", "ab.yaml", true), ("*.yaml", "a.yml", false)]
        {
            assert_eq!(glob(pattern, name), expect);
        }
    }

    #[test]
    fn directories() {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["b.yaml", "a.json", "x.txt"] {
            std::fs::write(dir.path().join(name), "").expect("written");
        }
        let found = paths(&dir.path().display().to_string(), false).expect("a directory");
        let names: Vec<String> =
            found.iter().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect();
        assert_eq!(names, ["a.json", "b.yaml"]);
        let error = paths("/nope/x", false).expect_err("missing").to_string();
        assert_eq!(error, "the path \"/nope/x\" does not exist");
    }
}
