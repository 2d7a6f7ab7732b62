//! Two answers side by side: what may differ is taken out, the rest is listed path by path. Must not know the corpus.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::LazyLock;

use bytes::Bytes;
use http::HeaderMap;
use machinery::codec::{proto, yaml};
use regex::{Captures, Regex};
use serde_json::Value;

use crate::corpus::Case;

/// Differences of one case that are printed.
pub const SHOWN: usize = 8;
/// The longest text that is printed of a value.
const LONGEST: usize = 4000;

/// What a server said.
pub struct Answer {
    /// The HTTP status.
    pub code: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub bytes: Bytes,
}

/// Headers whose values must be alike.
const HEADERS: &[&str] = &[
    "content-type",
    "warning",
    "retry-after",
    "location",
    "allow",
    "www-authenticate",
    "cache-control",
    "x-content-type-options",
    "vary",
];
/// Headers that both must send or both leave out.
const PRESENT: &[&str] =
    &["audit-id", "x-kubernetes-pf-flowschema-uid", "x-kubernetes-pf-prioritylevel-uid", "etag"];

/// What differs from run to run and from server to server, and what stands for it.
static NOISE: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    [
        (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "UID"),
        (r"(19|20)\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME"),
        (r"\b10\.96\.\d+\.\d+\b", "CLUSTER-IP"),
        (r"127\.0\.0\.1:\d+", "SERVER"),
        (r"eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*", "TOKEN"),
        (r"(RUN-gen-|Odd_|\bG-|kube-api-access-)[a-z0-9]{5}\b", "${1}SUFFIX"),
        (r"current: \d+", "current: N"),
        (r"ResourceVersion in object meta: \d+", "ResourceVersion in object meta: N"),
        (r"in record \(\d+\)", "in record (N)"),
        (r"hash=[0-9A-Fa-f]+", "hash=HASH"),
        (r"X509SHA256=[0-9a-f]{64}", "X509SHA256=HASH"),
    ]
    .into_iter()
    .map(|(pattern, with)| (Regex::new(pattern).expect("a pattern"), with))
    .collect()
});

/// Object members that differ from server to server.
const NOISY: &[(&str, &str)] = &[
    ("resourceVersion", "RV"),
    ("continue", "NEXT"),
    ("nodePort", "PORT"),
    ("healthCheckNodePort", "PORT"),
    ("token", "TOKEN"),
    ("pid", "PID"),
];

fn clean(run: &str, text: &str) -> String {
    let mut text = text.replace(run, "RUN");
    for (pattern, with) in NOISE.iter() {
        if let std::borrow::Cow::Owned(changed) = pattern.replace_all(&text, |found: &Captures<'_>| {
            let mut out = String::new();
            found.expand(with, &mut out);
            out
        }) {
            text = changed;
        }
    }
    text
}

/// Lists whose order is that of a map upstream.
const UNORDERED: &[&str] = &["resourceRules", "nonResourceRules"];

fn scrub(value: &mut Value, descriptions: bool) {
    match value {
        Value::Object(map) => {
            let has_rules = map.contains_key("incomplete");
            for list in UNORDERED.iter().filter(|_| has_rules) {
                if let Some(Value::Array(rules)) = map.get_mut(*list) {
                    rules.sort_by_key(Value::to_string);
                }
            }
            for (name, with) in NOISY {
                let Some(found) = map.get_mut(*name) else { continue };
                if found.as_str().is_some_and(|text| !text.is_empty() && text != "0") || found.is_number() {
                    *found = Value::from(*with);
                }
            }
            if !descriptions && map.get("description").is_some_and(Value::is_string) {
                map.remove("description");
            }
            if let Some(Value::Array(cells)) = map.get_mut("cells") {
                let age = |cell: &Value| {
                    cell.as_str().is_some_and(|text| {
                        text.ends_with('s') && text[..text.len() - 1].parse::<u32>().is_ok()
                    })
                };
                cells.iter_mut().filter(|cell| age(cell)).for_each(|cell| *cell = Value::from("AGE"));
            }
            map.values_mut().for_each(|value| scrub(value, descriptions));
        }
        Value::Array(items) => items.iter_mut().for_each(|value| scrub(value, descriptions)),
        _ => (),
    }
}

/// What an OpenAPI v2 document says, whatever way it says it: an operation has all its parameters, by place and name,
/// and what is required is a set. Names of shared parameters mean nothing.
fn settle_openapi(document: &mut Value) {
    let shared = document["parameters"].take();
    let resolve = |given: &Value| -> Vec<Value> {
        let one = |parameter: &Value| match parameter["$ref"].as_str() {
            Some(name) => shared[name.trim_start_matches("#/parameters/")].clone(),
            None => parameter.clone(),
        };
        given.as_array().into_iter().flatten().map(one).collect()
    };
    for item in document["paths"].as_object_mut().into_iter().flat_map(|paths| paths.values_mut()) {
        let Value::Object(item) = item else { continue };
        let common = item.remove("parameters").unwrap_or_default();
        for operation in item.values_mut() {
            let own = operation["parameters"].take();
            let all = resolve(&own).into_iter().chain(resolve(&common));
            let named = |one: Value| (format!("{}:{}", one["in"], one["name"]), one);
            operation["parameters"] = Value::Object(all.map(named).collect());
        }
    }
    for definition in document["definitions"].as_object_mut().into_iter().flat_map(|all| all.values_mut()) {
        if let Some(Value::Array(required)) = definition.get_mut("required") {
            required.sort_by_key(Value::to_string);
        }
    }
}

/// The body as a tree: JSON, protobuf and streams of JSON are read, all else is its lines.
fn tree(case: &Case, run: &str, answer: &Answer) -> Value {
    let bytes = &answer.bytes;
    let decoded;
    let text = if bytes.starts_with(b"k8s\0") {
        decoded = match proto::decode_object(bytes) {
            Ok((value, _)) => value.to_string(),
            Err(error) => format!("unreadable: {error}"),
        };
        decoded.as_str().into()
    } else {
        String::from_utf8_lossy(bytes)
    };
    let text = clean(run, &text);
    let stream = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
    let mut value = match stream.collect::<Result<Vec<_>, _>>() {
        Ok(mut all) if all.len() == 1 => all.remove(0),
        Ok(all) => Value::Array(all),
        // Texts that look like YAML are read as such.
        Err(_) if text.starts_with("apiVersion:") || text.contains("\napiVersion:") => {
            yaml::decode_first(text.as_bytes())
                .map_or_else(|error| Value::from(error.to_string()), |document| document.value)
        }
        Err(_) => text.lines().map(Value::from).collect(),
    };
    if value["swagger"].is_string() {
        settle_openapi(&mut value);
    }
    scrub(&mut value, !case.path.starts_with("/openapi"));
    value
}

/// Where the answers differ, as `path: A | B`; empty when nowhere.
pub fn differences(case: &Case, run: &str, a: &Answer, b: &Answer) -> Vec<String> {
    let mut out = Vec::new();
    if a.code != b.code {
        out.push(format!("code: {} | {}", a.code, b.code));
    }
    for name in HEADERS {
        let all = |answer: &Answer| -> Vec<String> {
            let values = answer.headers.get_all(*name).iter();
            values.map(|value| clean(run, &String::from_utf8_lossy(value.as_bytes()))).collect()
        };
        let (a, b) = (all(a), all(b));
        if a != b {
            out.push(format!("header {name}: {} | {}", short(&a.join("; ")), short(&b.join("; "))));
        }
    }
    for name in PRESENT {
        let (a, b) = (a.headers.contains_key(*name), b.headers.contains_key(*name));
        if a != b {
            out.push(format!("header {name} is sent: {a} | {b}"));
        }
    }
    walk("body", &tree(case, run, a), &tree(case, run, b), &mut out);
    out
}

fn walk(path: &str, a: &Value, b: &Value, out: &mut Vec<String>) {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            let keys: BTreeSet<&String> = x.keys().chain(y.keys()).collect();
            for key in keys {
                let null = Value::Null;
                let at = format!("{path}.{key}");
                match (x.get(key), y.get(key)) {
                    (Some(a), Some(b)) => walk(&at, a, b, out),
                    (a, b) => {
                        let side = |v: Option<&Value>| v.map_or("-".to_owned(), |v| short(&v.to_string()));
                        if a.unwrap_or(&null) != b.unwrap_or(&null) || a.is_some() != b.is_some() {
                            out.push(format!("{at}: {} | {}", side(a), side(b)));
                        }
                    }
                }
            }
        }
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
            for (at, (a, b)) in x.iter().zip(y).enumerate() {
                walk(&format!("{path}[{at}]"), a, b, out);
            }
        }
        (a, b) if a == b => (),
        (a, b) => out.push(format!("{path}: {} | {}", short(&a.to_string()), short(&b.to_string()))),
    }
}

fn short(text: &str) -> String {
    if text.is_empty() {
        return "-".to_owned();
    }
    match text.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// The differences that are known: which case, which difference, why.
pub struct Explained {
    rules: Vec<(&'static str, &'static str, &'static str)>,
    used: RefCell<BTreeSet<usize>>,
}

impl Explained {
    /// Reads the committed table.
    pub fn read() -> Explained {
        let lines = include_str!("explained.txt").lines();
        let rules = lines.filter(|line| !line.trim().is_empty() && !line.starts_with('#')).map(|line| {
            let mut parts = line.splitn(3, " :: ").map(str::trim);
            let mut next = || parts.next().expect("explained.txt: CASE :: DIFFERENCE :: WHY");
            (next(), next(), next())
        });
        Explained { rules: rules.collect(), used: RefCell::default() }
    }

    /// Whether a difference of a case is known.
    pub fn covers(&self, id: &str, difference: &str) -> bool {
        let found = self.rules.iter().position(|rule| glob(rule.0, id) && glob(rule.1, difference));
        self.used.borrow_mut().extend(found);
        found.is_some()
    }

    /// Rules that covered nothing.
    pub fn unused(&self) -> impl Iterator<Item = String> {
        let used = self.used.borrow();
        let rest = self.rules.iter().enumerate().filter(|(at, _)| !used.contains(at));
        rest.map(|(_, rule)| format!("{} :: {}", rule.0, rule.1)).collect::<Vec<_>>().into_iter()
    }
}

/// Whether a text matches a pattern in which `*` stands for anything.
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}
