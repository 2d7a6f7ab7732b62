//! The text of a description: indented lines whose cells are aligned, and the parts that many kinds share.
//!
//! Must not know any kind.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;

use crate::print::age;
use crate::tabs;

/// Annotations that say nothing to people.
const HIDDEN: [&str; 1] = [crate::verbs::apply::LAST_APPLIED];
/// Longer annotations get lines of their own and are cut.
const MAX_ANNOTATION: usize = 140;

/// A description in the making.
#[derive(Debug)]
pub struct Doc {
    done: String,
    block: String,
    now: Timestamp,
    zone: TimeZone,
}

/// A text in an object; empty when it is not there.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// A number in an object; 0 when it is not there.
pub fn int(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

/// The items of a list in an object.
pub fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// Any scalar as text: numbers, percentages, quantities.
pub fn scalar(object: &Value, pointer: &str) -> String {
    match object.pointer(pointer) {
        None | Some(Value::Null) => String::new(),
        Some(value) => crate::print::go_value(value),
    }
}

/// A text, or `<none>`.
pub fn or_none(text: &str) -> &str {
    if text.is_empty() { "<none>" } else { text }
}

impl Doc {
    /// Empty, at this time, in the zone of the reader.
    pub fn new(now: Timestamp, zone: TimeZone) -> Doc {
        Doc { done: String::new(), block: String::new(), now, zone }
    }

    /// Everything, aligned.
    pub fn finish(mut self) -> String {
        self.flush();
        self.done
    }

    /// Everything as it was written.
    pub fn unaligned(self) -> String {
        self.block
    }

    /// What follows is aligned on its own.
    pub fn flush(&mut self) {
        let block = std::mem::take(&mut self.block);
        self.done.push_str(&tabs::DESCRIBE.format(&block));
    }

    /// A line, two spaces a level.
    pub fn line(&mut self, level: usize, line: &str) {
        self.raw(level, line);
        self.block.push('\n');
    }

    /// A piece of a line.
    pub fn raw(&mut self, level: usize, piece: &str) {
        self.block.extend(std::iter::repeat_n("  ", level));
        self.block.push_str(piece);
    }

    /// `Name:<tab>value`.
    pub fn field(&mut self, level: usize, name: &str, value: &str) {
        self.line(level, &format!("{name}:\t{value}"));
    }

    /// The same unless the value is empty.
    pub fn field_if(&mut self, level: usize, name: &str, value: &str) {
        if !value.is_empty() {
            self.field(level, name, value);
        }
    }

    /// A time as people write it, in the reader's zone.
    pub fn time(&self, text: &str) -> String {
        match api::time::parse(text) {
            Some(time) => time.to_zoned(self.zone.clone()).strftime("%a, %d %b %Y %H:%M:%S %z").to_string(),
            None => "Mon, 01 Jan 0001 00:00:00 +0000".to_owned(),
        }
    }

    /// A time as logs write it, in the reader's zone.
    pub fn plain_time(&self, text: &str) -> String {
        match api::time::parse(text) {
            Some(time) => time.to_zoned(self.zone.clone()).strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string(),
            None => String::new(),
        }
    }

    /// The time since a timestamp.
    pub fn since(&self, text: &str) -> String {
        age::since(Some(text).filter(|text| !text.is_empty()), self.now)
    }

    /// Pairs, one a line below the other.
    pub fn labels(&mut self, title: &str, labels: &Value) {
        let pairs = labels.as_object().into_iter().flatten();
        let pairs: Vec<String> =
            pairs.map(|(key, value)| format!("{key}={}", crate::print::go_value(value))).collect();
        self.lines(title, &pairs);
    }

    /// Lines, the first beside the title.
    pub fn lines(&mut self, title: &str, lines: &[String]) {
        if lines.is_empty() {
            self.line(0, &format!("{title}:\t<none>"));
        }
        for (at, line) in lines.iter().enumerate() {
            let start = if at == 0 { format!("{title}:") } else { String::new() };
            self.line(0, &format!("{start}\t{line}"));
        }
    }

    /// Annotations; long ones are cut.
    pub fn annotations(&mut self, title: &str, annotations: &Value) {
        let mut lines = Vec::new();
        for (key, value) in annotations.as_object().into_iter().flatten() {
            if HIDDEN.contains(&key.as_str()) {
                continue;
            }
            let value = value.as_str().unwrap_or_default();
            let value = value.strip_suffix('\n').unwrap_or(value);
            if value.len() + key.len() + 2 > MAX_ANNOTATION || value.contains('\n') {
                lines.push(format!("{key}:"));
                lines
                    .extend(value.split('\n').map(|line| format!("  {}", shorten(line, MAX_ANNOTATION - 2))));
            } else {
                lines.push(format!("{key}: {value}"));
            }
        }
        self.lines(title, &lines);
    }

    /// Name, namespace (of namespaced kinds), labels and annotations.
    pub fn head(&mut self, object: &Value, namespaced: bool) {
        self.field(0, "Name", text(object, "/metadata/name"));
        if namespaced {
            self.field(0, "Namespace", text(object, "/metadata/namespace"));
        }
        self.meta(object);
    }

    /// Labels and annotations.
    pub fn meta(&mut self, object: &Value) {
        self.labels("Labels", &object["metadata"]["labels"]);
        self.annotations("Annotations", &object["metadata"]["annotations"]);
    }

    /// The controller, if there is one.
    pub fn controller(&mut self, object: &Value) {
        let owners = list(object, "/metadata/ownerReferences");
        if let Some(owner) = owners.iter().find(|owner| owner["controller"] == true) {
            self.field(0, "Controlled By", &format!("{}/{}", text(owner, "/kind"), text(owner, "/name")));
        }
    }

    /// Type, status and reason.
    pub fn conditions(&mut self, object: &Value) {
        let conditions = list(object, "/status/conditions");
        if conditions.is_empty() {
            return;
        }
        self.line(0, "Conditions:\n  Type\tStatus\tReason");
        self.line(1, "----\t------\t------");
        for condition in conditions {
            let text = |key: &str| text(condition, key);
            self.line(1, &format!("{} \t{}\t{}", text("/type"), text("/status"), text("/reason")));
        }
    }

    /// Events, the oldest first.
    pub fn events(&mut self, events: &[Value]) {
        if events.is_empty() {
            return self.line(0, "Events:\t<none>");
        }
        self.flush();
        let mut events: Vec<&Value> = events.iter().collect();
        events.sort_by_key(|event| api::time::parse(text(event, "/lastTimestamp")));
        self.line(0, "Events:\n  Type\tReason\tAge\tFrom\tMessage");
        self.line(1, "----\t------\t----\t----\t-------");
        for event in events {
            let line = self.event(event);
            self.line(1, &line);
        }
    }

    fn event(&self, event: &Value) -> String {
        let first = match text(event, "/eventTime") {
            "" => self.since(text(event, "/firstTimestamp")),
            time => self.since(time),
        };
        let (series, count) = (int(event, "/series/count"), int(event, "/count"));
        let interval = if event["series"].is_object() {
            format!("{} (x{series} over {first})", self.since(text(event, "/series/lastObservedTime")))
        } else if count > 1 {
            format!("{} (x{count} over {first})", self.since(text(event, "/lastTimestamp")))
        } else {
            first
        };
        let source = match text(event, "/source/component") {
            "" => text(event, "/reportingComponent"),
            component => component,
        };
        let mut message = text(event, "/message").trim().to_owned();
        let path = text(event, "/involvedObject/fieldPath");
        if !path.is_empty() {
            message = format!("{path}: {message}");
        }
        format!("{}\t{}\t{interval}\t{source}\t{message}", text(event, "/type"), text(event, "/reason"))
    }
}

fn shorten(line: &str, most: usize) -> String {
    if line.len() <= most {
        return line.to_owned();
    }
    let cut = (0..=most).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
    format!("{}...", &line[..cut])
}

/// `a=b,c in (d,e)`: a label selector as text.
pub fn selector(selector: &Value) -> String {
    let mut parts: Vec<String> = selector["matchLabels"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    for expression in list(selector, "/matchExpressions") {
        let key = text(expression, "/key");
        let mut values: Vec<&str> = list(expression, "/values").iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        parts.push(match text(expression, "/operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        });
    }
    parts.join(",")
}
