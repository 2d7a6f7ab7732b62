//! Tables: those the server makes (`metav1.Table`) and our own, with the columns that flags add.
//!
//! Must not know any kind.

use serde_json::{Value, json};

use crate::Error;
use crate::print::{age, go_value, sort};

/// Column widths that only grow: what a watch prints stays aligned.
#[derive(Clone, Debug, Default)]
pub struct Widths(Vec<usize>);

impl Widths {
    /// Lays out rows; the last cell of a row is not padded.
    pub fn format(&mut self, rows: &[Vec<String>]) -> String {
        for row in rows {
            for (at, cell) in row.iter().enumerate().take(row.len().saturating_sub(1)) {
                let width = (cell.chars().count() + 3).max(6);
                match self.0.get_mut(at) {
                    Some(known) => *known = width.max(*known),
                    None => self.0.push(width),
                }
            }
        }
        let mut out = String::new();
        for row in rows {
            for (at, cell) in row.iter().enumerate() {
                out.push_str(cell);
                if at + 1 < row.len() {
                    let pad = self.0[at].saturating_sub(cell.chars().count());
                    out.extend(std::iter::repeat_n(' ', pad));
                }
            }
            out.push('\n');
        }
        out
    }
}

/// What a table shows beside the server's columns.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Columns of lower priority too.
    pub wide: bool,
    /// The namespace first.
    pub namespace: bool,
    /// `pod/` before names.
    pub kind: String,
    /// All labels last.
    pub labels: bool,
    /// A column for each of these labels.
    pub label_columns: Vec<String>,
    /// A header.
    pub headers: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Column {
    name: String,
    wide: bool,
    is_name: bool,
}

/// Prints tables one after the other; headers again when columns change.
#[derive(Clone, Debug, Default)]
pub struct Printer {
    /// What to show.
    pub view: View,
    columns: Vec<Column>,
    widths: Widths,
    headed: bool,
}

impl Printer {
    /// With nothing printed yet.
    pub fn new(view: View) -> Self {
        Printer { view, ..Printer::default() }
    }

    /// The text of a table's rows; `event` is the type of a watch event or empty.
    pub fn show(&mut self, table: &Value, event: &str) -> String {
        let told = columns_of(table);
        let mut rows: Vec<Vec<String>> = Vec::new();
        if !told.is_empty() && told != self.columns {
            self.columns = told;
            self.headed = false;
        }
        let data = table["rows"].as_array().map(Vec::as_slice).unwrap_or_default();
        if data.is_empty() {
            return String::new();
        }
        if self.view.headers && !self.headed {
            rows.push(self.header(event));
        }
        self.headed = true;
        rows.extend(data.iter().map(|row| self.row(row, event)));
        self.widths.format(&rows)
    }

    fn header(&self, event: &str) -> Vec<String> {
        let mut cells = Vec::new();
        if !event.is_empty() {
            cells.push("EVENT".to_owned());
        }
        if self.view.namespace {
            cells.push("NAMESPACE".to_owned());
        }
        let shown = self.columns.iter().filter(|column| self.view.wide || !column.wide);
        cells.extend(shown.map(|column| column.name.to_uppercase()));
        let last = |label: &String| label.rsplit('/').next().unwrap_or_default().to_uppercase();
        cells.extend(self.view.label_columns.iter().map(last));
        if self.view.labels {
            cells.push("LABELS".to_owned());
        }
        cells
    }

    fn row(&self, row: &Value, event: &str) -> Vec<String> {
        let mut cells = Vec::new();
        if !event.is_empty() {
            cells.push(format!("{event:<10}"));
        }
        let meta = &row["object"]["metadata"];
        if self.view.namespace {
            cells.push(meta["namespace"].as_str().unwrap_or_default().to_owned());
        }
        let given = row["cells"].as_array().map(Vec::as_slice).unwrap_or_default();
        for (column, cell) in self.columns.iter().zip(given) {
            if column.wide && !self.view.wide {
                continue;
            }
            let text = cell_text(cell);
            let prefixed = column.is_name && !self.view.kind.is_empty();
            cells.push(if prefixed { format!("{}/{text}", self.view.kind) } else { text });
        }
        for label in &self.view.label_columns {
            cells.push(meta["labels"][label].as_str().unwrap_or_default().to_owned());
        }
        if self.view.labels {
            cells.push(labels_text(&meta["labels"]));
        }
        cells
    }
}

/// `a=b,c=d` or `<none>`.
pub fn labels_text(labels: &Value) -> String {
    let pairs: Vec<String> = labels
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(",") }
}

fn columns_of(table: &Value) -> Vec<Column> {
    let definitions = table["columnDefinitions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let column = |definition: &Value| Column {
        name: definition["name"].as_str().unwrap_or_default().to_owned(),
        wide: definition["priority"].as_i64().unwrap_or(0) != 0,
        is_name: definition["format"] == "name" && definition["type"] == "string",
    };
    definitions.iter().map(column).collect()
}

fn cell_text(cell: &Value) -> String {
    match cell {
        Value::Null => String::new(),
        Value::String(text) => match text.find(['\n', '\r', '\u{c}']) {
            Some(at) => format!("{}...", escaped(&text[..at])),
            None => escaped(text),
        },
        other => escaped(&go_value(other)),
    }
}

/// Control characters must not reach a terminal.
fn escaped(text: &str) -> String {
    text.replace('\u{1b}', "^[").replace('\r', "\\r")
}

/// True for an answer that is a table.
pub fn is_table(answer: &Value) -> bool {
    answer["kind"] == "Table"
}

/// A table of objects whose server makes none: name and age.
pub fn plain(objects: &[Value], now: jiff::Timestamp) -> Value {
    let row = |object: &Value| {
        let meta = &object["metadata"];
        json!({
            "cells": [meta["name"], age::since(meta["creationTimestamp"].as_str(), now)],
            "object": object,
        })
    };
    json!({
        "kind": "Table",
        "columnDefinitions": [
            {"name": "Name", "type": "string", "format": "name"},
            {"name": "Age", "type": "string"},
        ],
        "rows": objects.iter().map(row).collect::<Vec<_>>(),
    })
}

/// Orders a table's rows by their objects.
pub fn sort_rows(table: &mut Value, field: &str) -> Result<(), Error> {
    match table["rows"].as_array_mut() {
        Some(rows) => sort::by(rows, field, |row| &row["object"]),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Value {
        json!({
            "kind": "Table",
            "columnDefinitions": [
                {"name": "Name", "type": "string", "format": "name", "priority": 0},
                {"name": "Restarts", "type": "integer", "priority": 0},
                {"name": "Node", "type": "string", "priority": 1},
            ],
            "rows": [
                {"cells": ["a", 3, "n1"], "object": {"metadata": {"namespace": "x", "labels": {"app": "w", "b/c": "d"}}}},
                {"cells": ["long-name", null, "two\nlines"], "object": {"metadata": {"namespace": "y"}}},
            ],
        })
    }

    #[test]
    fn views() {
        let plain = View { headers: true, ..View::default() };
        for (view, expect) in [
            (plain.clone(), "NAME        RESTARTS\na           3\nlong-name   \n"),
            (
                View { wide: true, ..plain.clone() },
                "NAME        RESTARTS   NODE\na           3          n1\nlong-name              two...\n",
            ),
            (
                View { namespace: true, kind: "pod".into(), headers: false, ..plain.clone() },
                "x     pod/a           3\ny     pod/long-name   \n",
            ),
            (
                View { labels: true, label_columns: vec!["b/c".into()], ..plain },
                "NAME        RESTARTS   C     LABELS\na           3          d     app=w,b/c=d\nlong-name                    <none>\n",
            ),
        ] {
            assert_eq!(Printer::new(view).show(&table(), ""), expect);
        }
    }

    #[test]
    fn watches_stay_aligned() {
        let mut printer = Printer::new(View { headers: true, ..View::default() });
        printer.show(&table(), "");
        let event = json!({"kind": "Table", "rows": [{"cells": ["b", 1, ""], "object": null}]});
        assert_eq!(printer.show(&event, ""), "b           1\n");
    }
}
