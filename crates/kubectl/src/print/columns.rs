//! `-o custom-columns=NAME:.metadata.name,…`.

use machinery::jsonpath::Template;
use serde_json::Value;

use crate::Error;
use crate::print::go_value;
use crate::print::table::Widths;

/// Columns of a user's making.
#[derive(Debug)]
pub struct Columns {
    headers: Vec<String>,
    paths: Vec<Template>,
}

impl Columns {
    /// From `HEADER:path,HEADER:path`.
    pub fn parse(spec: &str) -> Result<Columns, Error> {
        if spec.is_empty() {
            return Err(Error::usage("custom-columns format specified but no custom columns given"));
        }
        let mut columns = Columns { headers: Vec::new(), paths: Vec::new() };
        for part in split(spec) {
            let Some((header, path)) = part.split_once(':') else {
                return Err(Error::usage(format!(
                    "unexpected custom-columns spec: {part}, expected <header>:<json-path-expr>"
                )));
            };
            columns.add(header, path)?;
        }
        Ok(columns)
    }

    /// From two lines: headers, and paths below them.
    pub fn parse_file(text: &str) -> Result<Columns, Error> {
        let mut lines = text.lines();
        let (Some(headers), Some(paths)) = (lines.next(), lines.next()) else {
            return Err(Error::usage(
                "template file for custom-columns must have two lines: headers and paths",
            ));
        };
        let headers: Vec<&str> = headers.split_whitespace().collect();
        let paths: Vec<&str> = paths.split_whitespace().collect();
        if headers.len() != paths.len() {
            let why = format!(
                "number of headers ({}) and field specifications ({}) don't match",
                headers.len(),
                paths.len()
            );
            return Err(Error::usage(why));
        }
        let mut columns = Columns { headers: Vec::new(), paths: Vec::new() };
        for (header, path) in headers.iter().zip(paths) {
            columns.add(header, path)?;
        }
        Ok(columns)
    }

    fn add(&mut self, header: &str, path: &str) -> Result<(), Error> {
        let template = Template::parse_relaxed(path)
            .map_err(|error| Error::usage(format!("error parsing jsonpath {path}, {error}")))?;
        self.headers.push(header.to_owned());
        self.paths.push(template);
        Ok(())
    }

    /// The table of these objects.
    pub fn show(&self, objects: &[Value], headers: bool) -> String {
        let mut rows = Vec::new();
        if headers {
            rows.push(self.headers.clone());
        }
        rows.extend(objects.iter().map(|object| self.paths.iter().map(|path| cell(path, object)).collect()));
        Widths::default().format(&rows)
    }
}

fn cell(path: &Template, object: &Value) -> String {
    let found: Vec<Value> = path.find(object, true).unwrap_or_default().into_iter().flatten().collect();
    if found.is_empty() {
        return "<none>".to_owned();
    }
    let texts: Vec<String> = found
        .iter()
        .map(|value| if value.is_null() { "<nil>".to_owned() } else { go_value(value) })
        .collect();
    texts.join(",")
}

/// Commas inside brackets and quotes belong to a path.
fn split(spec: &str) -> Vec<String> {
    let (mut parts, mut depth, mut quote) = (vec![String::new()], 0, None);
    for letter in spec.chars() {
        match (letter, quote) {
            (',', None) if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            ('[' | '(' | '{', None) => depth += 1,
            (']' | ')' | '}', None) => depth -= 1,
            ('\'' | '"', None) => quote = Some(letter),
            (_, Some(open)) if letter == open => quote = None,
            _ => {}
        }
        if let Some(last) = parts.last_mut() {
            last.push(letter);
        }
    }
    parts
}
