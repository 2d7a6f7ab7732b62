//! How objects print as tables: columns of a kind, and one row of cells per object, as upstream's
//! printers give them. The cells always hold the wide columns too; clients hide by priority.
//! It must not know HTTP; the time is handed in.

mod age;
pub mod builtin;
mod cluster;
mod pod;
mod workload;

pub use age::{human_duration, since};
pub use workload::selector_text;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::tree::Tree;

/// One column of a built-in kind.
#[derive(Clone, Copy, Debug)]
pub struct ColumnDef {
    /// Header as upstream spells it; kubectl prints it in capitals.
    pub name: &'static str,
    /// OpenAPI type.
    pub ty: &'static str,
    /// `name` for the object's name, else empty.
    pub format: &'static str,
    /// 0 always, 1 in wide output.
    pub priority: i32,
}

/// Columns of one kind and how its cells are made.
pub struct ColumnSet {
    /// The columns, in order.
    pub columns: &'static [ColumnDef],
    /// One cell per column.
    pub cells: fn(&Value, Timestamp) -> Vec<Value>,
}

/// A column of a custom resource.
#[derive(Clone, Debug)]
pub struct CustomColumn {
    /// Header.
    pub name: String,
    /// OpenAPI type; `date` prints as an age.
    pub ty: String,
    /// OpenAPI format.
    pub format: String,
    /// Description.
    pub description: String,
    /// 0 always, else in wide output.
    pub priority: i32,
    /// JSONPath without braces, as `.spec.replicas`.
    pub path: String,
}

/// How a row's objects print.
#[derive(Clone)]
pub enum Columns {
    /// Name and Created At: kinds without a printer.
    NameAge,
    /// A built-in printer.
    BuiltIn(&'static ColumnSet),
    /// Columns that a CustomResourceDefinition names (the name comes first in any case); empty
    /// means name and age.
    Custom(Vec<CustomColumn>),
}

impl Columns {
    /// The `columnDefinitions` of a metav1 Table.
    pub fn definitions(&self) -> Vec<Value> {
        match self {
            Columns::NameAge => vec![
                definition("Name", "string", "name", describe("Name"), 0),
                definition("Created At", "date", "", describe("Created At"), 0),
            ],
            Columns::BuiltIn(set) => set
                .columns
                .iter()
                .map(|c| definition(c.name, c.ty, c.format, describe(c.name), c.priority))
                .collect(),
            Columns::Custom(columns) => {
                let mut out = vec![definition("Name", "string", "name", describe("Name"), 0)];
                if columns.is_empty() {
                    out.push(definition("Age", "date", "", describe("Age"), 0));
                }
                out.extend(
                    columns.iter().map(|c| definition(&c.name, &c.ty, &c.format, &c.description, c.priority)),
                );
                out
            }
        }
    }

    /// One object's cells.
    pub fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        match self {
            Columns::NameAge => {
                vec![object.text("metadata.name").into(), object.text("metadata.creationTimestamp").into()]
            }
            Columns::BuiltIn(set) => (set.cells)(object, now),
            Columns::Custom(columns) => {
                let mut out: Vec<Value> = vec![object.text("metadata.name").into()];
                if columns.is_empty() {
                    out.push(age::of(object, now));
                }
                out.extend(columns.iter().map(|c| custom_cell(c, object, now)));
                out
            }
        }
    }

    /// The `conditions` of a table row: pods that ended are marked.
    pub fn row_conditions(&self, object: &Value) -> Option<Value> {
        let Columns::BuiltIn(set) = self else { return None };
        if !std::ptr::eq(*set, &builtin::POD) {
            return None;
        }
        let (reason, message) = match object.text("status.phase") {
            "Succeeded" => ("Succeeded", "The pod has completed successfully."),
            "Failed" => ("Failed", "The pod failed."),
            _ => return None,
        };
        Some(json!([{"type": "Completed", "status": "True", "reason": reason, "message": message}]))
    }
}

/// The columns and cells of an autoscaling/v1 Scale.
pub const SCALE: Columns = Columns::BuiltIn(&builtin::SCALE);

fn definition(name: &str, ty: &str, format: &str, description: &str, priority: i32) -> Value {
    json!({"name": name, "type": ty, "format": format, "description": description, "priority": priority})
}

/// A simple path as CRDs write it: `.spec.a`, `.spec.list[0].x`, `.metadata.labels['a.b/c']`,
/// `.status.conditions[?(@.type=="Ready")].status`.
pub fn select<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    let mut at = object;
    let mut rest = path.trim_start_matches('$');
    while !rest.is_empty() {
        if let Some(tail) = rest.strip_prefix('[') {
            let end = tail.find(']')?;
            let (inner, after) = (&tail[..end], &tail[end + 1..]);
            at = index(at, inner)?;
            rest = after;
        } else {
            let tail = rest.strip_prefix('.').unwrap_or(rest);
            let mut key = String::new();
            let mut chars = tail.char_indices();
            let mut end = tail.len();
            while let Some((i, c)) = chars.next() {
                match c {
                    '\\' => key.extend(chars.next().map(|(_, c)| c)),
                    '.' | '[' => {
                        end = i;
                        break;
                    }
                    c => key.push(c),
                }
            }
            at = at.get(&key)?;
            rest = &tail[end..];
        }
    }
    Some(at)
}

fn index<'a>(at: &'a Value, inner: &str) -> Option<&'a Value> {
    if let Some(filter) = inner.strip_prefix("?(@.").and_then(|f| f.strip_suffix(')')) {
        let (key, wanted) = filter.split_once("==")?;
        let wanted = wanted.trim().trim_matches(['"', '\'']);
        return at.as_array()?.iter().find(|item| match item.at(key.trim()) {
            Value::String(s) => s == wanted,
            Value::Number(n) => n.to_string() == wanted,
            Value::Bool(b) => (if *b { "true" } else { "false" }) == wanted,
            _ => false,
        });
    }
    if let Some(key) = inner.strip_prefix('\'').and_then(|k| k.strip_suffix('\'')) {
        return at.get(key);
    }
    let items = at.as_array()?;
    // Of many, the first is shown.
    if inner == "*" {
        return items.first();
    }
    let n: i64 = inner.parse().ok()?;
    let n = if n < 0 { n + items.len() as i64 } else { n };
    items.get(usize::try_from(n).ok()?)
}

fn custom_cell(column: &CustomColumn, object: &Value, now: Timestamp) -> Value {
    let Some(value) = select(object, &column.path) else { return Value::Null };
    match (column.ty.as_str(), value) {
        ("date", Value::String(time)) => match time.parse::<Timestamp>() {
            Ok(time) => since(now, Some(time)).into(),
            Err(_) => "<unknown>".into(),
        },
        ("string", Value::String(s)) => s.clone().into(),
        ("string", other) => other.to_string().into(),
        ("integer", Value::Number(n)) if n.is_i64() => n.clone().into(),
        ("integer", Value::Number(n)) => n.as_f64().map_or(Value::Null, |f| (f as i64).into()),
        ("number", Value::Number(n)) => n.clone().into(),
        ("boolean", Value::Bool(b)) => (*b).into(),
        _ => Value::Null,
    }
}

/// What a column shows, in our words.
fn describe(name: &str) -> &'static str {
    const ABOUT: &[(&str, &str)] = &[
        ("Name", "Name of the object, unique for its kind within the namespace."),
        ("Created At", "When the object was created."),
        ("Age", "How long ago the object was created."),
        ("Ready", "How many are ready, of how many wanted."),
        ("Status", "Where the object is in its life."),
        ("Restarts", "How often containers were restarted, and when the last time was."),
        ("IP", "Address of the pod."),
        ("Node", "Node that the object is on."),
        ("Nominated Node", "Node where preemption made room for the pod."),
        ("Readiness Gates", "Extra conditions that are true, of those the pod asks for."),
        ("Desired", "How many are wanted."),
        ("Current", "How many exist."),
        ("Up-to-date", "How many run the latest template."),
        ("Available", "How many have been ready for the required time."),
        ("Containers", "Names of the containers in the template."),
        ("Images", "Images of the containers in the template."),
        ("Selector", "Labels that select the pods."),
        ("Roles", "Roles of the node."),
        ("Version", "Version of the kubelet."),
        ("Type", "Type of the object."),
        ("Cluster-IP", "Address inside the cluster."),
        ("External-IP", "Addresses outside the cluster."),
        ("Port(s)", "Ports that the service offers."),
        ("Last Seen", "How long ago the event was last observed."),
        ("Reason", "Short cause, for programs."),
        ("Message", "What happened, for people."),
        ("Data", "Number of entries."),
    ];
    ABOUT.iter().find(|(n, _)| *n == name).map_or("", |(_, d)| d)
}
