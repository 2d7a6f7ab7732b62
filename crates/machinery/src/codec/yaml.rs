//! YAML as upstream reads and writes it: YAML 1.1 scalars (`yes`, `0644`, `1_000`), merge keys, the first
//! document of many, sorted keys on output.
//!
//! Events come from serde-saphyr's parser; what scalars mean is decided here. Expansion of aliases is bounded.
//! It must not know kinds: values go on to [`super::json`].

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Number, Value};
use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, Tag};

use super::json::{self, Decoded};
use super::{DecodeError, MAX_DEPTH, MAX_STRICT_ERRORS, scalar};
use crate::schema::Schema;

/// Aliases may add at most this many nodes to a document: a page of anchors needs hundreds, a bomb billions.
pub const MAX_ALIAS_NODES: usize = 100_000;

/// One document as a value.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Document {
    /// The value; null for an empty document.
    pub value: Value,
    /// Keys that a mapping has twice, as upstream lists them: `line 3: key "a" already set in map`.
    pub duplicates: Vec<String>,
}

/// Reads the first document and holds it against a schema. Duplicate keys come first among the strict errors,
/// as one error, as upstream.
pub fn decode(schema: Schema<'_>, bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let document = decode_first(bytes)?;
    let mut decoded = json::conform(schema, &document.value)?;
    if !document.duplicates.is_empty() {
        let listed = document.duplicates.join("\n  ");
        decoded.strict_errors.insert(0, format!("yaml: unmarshal errors:\n  {listed}"));
    }
    Ok(decoded)
}

/// Reads the first document.
pub fn decode_first(bytes: &[u8]) -> Result<Document, DecodeError> {
    Ok(read(bytes, 1)?.into_iter().next().unwrap_or_default())
}

/// Reads every document; empty ones are left out.
pub fn decode_all(bytes: &[u8]) -> Result<Vec<Document>, DecodeError> {
    let mut documents = read(bytes, usize::MAX)?;
    documents.retain(|document| !document.value.is_null());
    Ok(documents)
}

fn bad(message: impl Into<String>) -> DecodeError {
    DecodeError::Yaml { message: format!("yaml: {}", message.into()) }
}

// ---- reading ----

enum Open {
    List { items: Vec<Value>, anchor: usize, start: usize },
    Map { map: Map<String, Value>, key: Option<Key>, anchor: usize, start: usize },
}

enum Key {
    Name(String),
    Merge,
}

#[derive(Default)]
struct Builder {
    stack: Vec<Open>,
    anchors: HashMap<usize, (Value, usize)>,
    nodes: usize,
    alias_nodes: usize,
    document: Document,
}

fn read(bytes: &[u8], most: usize) -> Result<Vec<Document>, DecodeError> {
    let text = String::from_utf8_lossy(bytes);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let mut builder = Builder::default();
    let mut documents = Vec::new();
    for next in Parser::new_from_str(text) {
        let (event, span) =
            next.map_err(|error| bad(format!("line {}: {}", error.marker().line(), error.info())))?;
        match event {
            Event::DocumentEnd => {
                documents.push(std::mem::take(&mut builder).document);
                if documents.len() == most {
                    break;
                }
            }
            event => builder.event(event, span.start.line())?,
        }
    }
    Ok(documents)
}

impl Builder {
    fn event(&mut self, event: Event<'_>, line: usize) -> Result<(), DecodeError> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.nodes += 1;
                let plain = style == ScalarStyle::Plain;
                if plain && tag.is_none() && text == "<<" && self.expects_key() {
                    return self.key(Key::Merge);
                }
                let value = resolve(&text, plain, tag.as_deref())?;
                if anchor > 0 {
                    self.anchors.insert(anchor, (value.clone(), 1));
                }
                self.place(value, line)
            }
            Event::SequenceStart(_, anchor, _) => {
                self.open(Open::List { items: Vec::new(), anchor, start: self.nodes })
            }
            Event::MappingStart(_, anchor, _) => {
                self.open(Open::Map { map: Map::new(), key: None, anchor, start: self.nodes })
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(line),
            Event::Alias(anchor) => {
                let Some((value, nodes)) = self.anchors.get(&anchor) else {
                    return Err(bad(format!("line {line}: anchor value contains itself")));
                };
                self.alias_nodes += nodes;
                self.nodes += nodes;
                if self.alias_nodes > MAX_ALIAS_NODES {
                    return Err(bad("document contains excessive aliasing"));
                }
                let value = value.clone();
                self.place(value, line)
            }
            _ => Ok(()),
        }
    }

    fn open(&mut self, open: Open) -> Result<(), DecodeError> {
        self.nodes += 1;
        self.stack.push(open);
        match self.stack.len() > MAX_DEPTH {
            true => Err(bad("exceeded max depth")),
            false => Ok(()),
        }
    }

    fn close(&mut self, line: usize) -> Result<(), DecodeError> {
        let (value, anchor, start) = match self.stack.pop() {
            Some(Open::List { items, anchor, start }) => (Value::Array(items), anchor, start),
            Some(Open::Map { map, anchor, start, .. }) => (Value::Object(map), anchor, start),
            None => return Ok(()),
        };
        if anchor > 0 {
            self.anchors.insert(anchor, (value.clone(), self.nodes - start));
        }
        self.place(value, line)
    }

    fn expects_key(&self) -> bool {
        matches!(self.stack.last(), Some(Open::Map { key: None, .. }))
    }

    fn key(&mut self, name: Key) -> Result<(), DecodeError> {
        if let Some(Open::Map { key, .. }) = self.stack.last_mut() {
            *key = Some(name);
        }
        Ok(())
    }

    fn place(&mut self, value: Value, line: usize) -> Result<(), DecodeError> {
        match self.stack.last_mut() {
            None => self.document.value = value,
            Some(Open::List { items, .. }) => items.push(value),
            Some(Open::Map { key: slot @ None, .. }) => *slot = Some(Key::Name(key_text(value)?)),
            Some(Open::Map { map, key, .. }) => match key.take() {
                Some(Key::Name(name)) => {
                    if map.contains_key(&name) && self.document.duplicates.len() < MAX_STRICT_ERRORS {
                        let shown = scalar::go_quote(&name);
                        self.document.duplicates.push(format!("line {line}: key {shown} already set in map"));
                    }
                    map.insert(name, value);
                }
                _ => merge(map, value)?,
            },
        }
        Ok(())
    }
}

fn merge(map: &mut Map<String, Value>, value: Value) -> Result<(), DecodeError> {
    match value {
        Value::Object(other) => map.extend(other),
        Value::Array(items) => {
            for item in items.into_iter().rev() {
                match item {
                    Value::Object(other) => map.extend(other),
                    _ => return Err(bad("map merge requires map or sequence of maps as the value")),
                }
            }
        }
        _ => return Err(bad("map merge requires map or sequence of maps as the value")),
    }
    Ok(())
}

fn key_text(value: Value) -> Result<String, DecodeError> {
    match value {
        Value::String(text) => Ok(text),
        Value::Bool(set) => Ok(set.to_string()),
        Value::Number(n) => Ok(n.to_string()),
        other => Err(DecodeError::Yaml { message: format!("unsupported map key: {other}") }),
    }
}

fn resolve(text: &str, plain: bool, tag: Option<&Tag>) -> Result<Value, DecodeError> {
    let tag = tag.map(|tag| (tag.handle(), tag.suffix()));
    match tag {
        Some(("tag:yaml.org,2002:" | "!!", "binary")) => {
            let clean: String = text.chars().filter(|c| !c.is_whitespace()).collect();
            let bytes =
                STANDARD.decode(clean).map_err(|_| bad("!!binary value contains invalid base64 data"))?;
            Ok(Value::String(String::from_utf8_lossy(&bytes).into_owned()))
        }
        Some(("tag:yaml.org,2002:" | "!!", "int" | "float" | "bool" | "null")) => plain_scalar(text),
        None if plain => plain_scalar(text),
        _ => Ok(Value::String(text.to_string())),
    }
}

/// What an unquoted scalar means.
fn plain_scalar(text: &str) -> Result<Value, DecodeError> {
    let Some(first) = text.bytes().next() else { return Ok(Value::Null) };
    match first {
        b'y' | b'Y' | b'n' | b'N' | b't' | b'T' | b'f' | b'F' | b'o' | b'O' | b'~' => {
            Ok(word(text).unwrap_or_else(|| Value::String(text.to_string())))
        }
        b'.' | b'+' | b'-' | b'0'..=b'9' => {
            if infinite(text) {
                return Err(DecodeError::Yaml { message: "json: unsupported value".to_string() });
            }
            Ok(number(text).or_else(|| timestamp(text)).unwrap_or_else(|| Value::String(text.to_string())))
        }
        _ => Ok(Value::String(text.to_string())),
    }
}

fn word(text: &str) -> Option<Value> {
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            Some(Value::Bool(true))
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            Some(Value::Bool(false))
        }
        "~" | "null" | "Null" | "NULL" => Some(Value::Null),
        _ => None,
    }
}

fn infinite(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN")
}

fn number(text: &str) -> Option<Value> {
    if text.starts_with('.') {
        return float(text);
    }
    let clean = text.replace('_', "");
    let (negative, digits) = match clean.as_bytes().first()? {
        b'-' => (true, &clean[1..]),
        b'+' => (false, &clean[1..]),
        _ => (false, clean.as_str()),
    };
    let lower = digits.to_ascii_lowercase();
    let (base, body) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    if !body.is_empty()
        && body.bytes().all(|b| b.is_ascii_alphanumeric())
        && let Ok(n) = i128::from_str_radix(body, base)
    {
        let signed = if negative { -n } else { n };
        if let Ok(n) = i64::try_from(signed) {
            return Some(Value::from(n));
        }
        if let (Ok(n), false) = (u64::try_from(signed), text.starts_with('+')) {
            return Some(Value::from(n));
        }
    }
    float(&clean)
}

/// A float in YAML's own grammar: no `inf`, no hexadecimal.
fn float(text: &str) -> Option<Value> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let shaped = unsigned.bytes().any(|b| b.is_ascii_digit())
        && unsigned.bytes().all(|b| matches!(b, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-'))
        && !unsigned.starts_with(['e', 'E', '+', '-']);
    let n: f64 = if shaped { text.parse().ok()? } else { return None };
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if n.fract() == 0.0 && n.abs() < EXACT {
        #[expect(clippy::cast_possible_truncation, reason = "a whole number below 2^53 is an i64")]
        return Some(Value::from(n as i64));
    }
    Number::from_f64(n).map(Value::Number)
}

/// Unquoted timestamps become RFC 3339 text, as Go prints the time it read.
fn timestamp(text: &str) -> Option<Value> {
    if text.len() < 8 || text.as_bytes().get(4) != Some(&b'-') {
        return None;
    }
    if text.len() <= 10 {
        let mut parts = text.split('-');
        let year: i16 = parts.next()?.parse().ok()?;
        let month: i8 = parts.next()?.parse().ok()?;
        let day: i8 = parts.next()?.parse().ok()?;
        let date = jiff::civil::Date::new(year, month, day).ok()?;
        return parts.next().is_none().then(|| Value::String(format!("{date}T00:00:00Z")));
    }
    let time: jiff::Timestamp = text.parse().ok()?;
    match text.ends_with(['Z', 'z']) || text.contains('+') {
        true if text.as_bytes().get(10) == Some(&b'T') => Some(Value::String(text.to_string())),
        _ => Some(Value::String(time.to_string())),
    }
}

// ---- writing ----

/// Writes a value as YAML with sorted keys, as `kubectl -o yaml` shows it. Ends in a line break.
pub fn encode(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => write_map(map, 0, &mut out),
        Value::Array(items) if !items.is_empty() => write_list(items, 0, &mut out),
        leaf => {
            write_leaf(leaf, 2, false, &mut out);
            out.push('\n');
        }
    }
    out
}

fn indent(depth: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', depth));
}

/// Writes entries, the first at the current position, the rest on lines of their own.
fn write_map(map: &Map<String, Value>, depth: usize, out: &mut String) {
    for (position, (key, value)) in map.iter().enumerate() {
        if position > 0 {
            indent(depth, out);
        }
        let long = key.len() > 128;
        if long {
            out.push_str("? ");
        }
        write_text(key, depth, true, out);
        if long {
            out.push('\n');
            indent(depth, out);
        }
        out.push(':');
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                out.push('\n');
                indent(depth + 2, out);
                write_map(inner, depth + 2, out);
            }
            Value::Array(items) if !items.is_empty() => {
                out.push('\n');
                indent(depth, out);
                write_list(items, depth, out);
            }
            leaf => {
                out.push(' ');
                write_leaf(leaf, depth + 2, false, out);
                out.push('\n');
            }
        }
    }
}

fn write_list(items: &[Value], depth: usize, out: &mut String) {
    for (position, value) in items.iter().enumerate() {
        if position > 0 {
            indent(depth, out);
        }
        out.push_str("- ");
        match value {
            Value::Object(inner) if !inner.is_empty() => write_map(inner, depth + 2, out),
            Value::Array(inner) if !inner.is_empty() => write_list(inner, depth + 2, out),
            leaf => {
                write_leaf(leaf, depth + 2, false, out);
                out.push('\n');
            }
        }
    }
}

fn write_leaf(value: &Value, depth: usize, key: bool, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(set) => out.push_str(if *set { "true" } else { "false" }),
        Value::Number(n) => out.push_str(&n.to_string()),
        Value::String(text) => write_text(text, depth, key, out),
        Value::Array(_) => out.push_str("[]"),
        Value::Object(_) => out.push_str("{}"),
    }
}

/// What a scalar's characters allow, in libyaml's terms.
#[derive(Default)]
struct Traits {
    indicators: bool,
    breaks: bool,
    special: bool,
    leading: bool,
    trailing_space: bool,
    trailing_break: bool,
    break_space: bool,
    space_break: bool,
}

fn analyze(text: &str) -> Traits {
    let mut traits =
        Traits { indicators: text.starts_with("---") || text.starts_with("..."), ..Traits::default() };
    let (mut after_space, mut was_space, mut was_break) = (true, false, false);
    let mut chars = text.chars().peekable();
    let mut first = true;
    while let Some(c) = chars.next() {
        let before_space = chars
            .peek()
            .is_none_or(|n| matches!(n, ' ' | '\t' | '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}'));
        traits.indicators |= match c {
            '#' | ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%' | '@'
            | '`'
                if first =>
            {
                true
            }
            '?' | ':' | '-' if first => before_space,
            ':' => before_space,
            '#' => after_space,
            _ => false,
        };
        let is_break = matches!(c, '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}');
        // A line break other than `\n` would be read back as one of those: it is escaped.
        let printable = c == '\n'
            || !is_break
                && matches!(c, '\t' | ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
                && c != '\u{feff}';
        // libyaml escapes tabs and what lies beyond the basic plane.
        traits.special |= !printable || c == '\t' || c > '\u{ffff}';
        traits.breaks |= is_break;
        let last = chars.peek().is_none();
        if c == ' ' {
            traits.leading |= first;
            traits.trailing_space |= last;
            traits.break_space |= was_break;
            (was_space, was_break) = (true, false);
        } else if is_break {
            traits.leading |= first;
            traits.trailing_break |= last;
            traits.space_break |= was_space;
            (was_space, was_break) = (false, true);
        } else {
            (was_space, was_break) = (false, false);
        }
        after_space = matches!(c, ' ' | '\t') || is_break;
        first = false;
    }
    traits
}

fn write_text(text: &str, depth: usize, key: bool, out: &mut String) {
    let traits = analyze(text);
    if text.contains('\n') {
        let block = !key && !traits.trailing_space && !traits.space_break && !traits.special;
        return if block {
            write_block(text, depth, out)
        } else {
            write_flow(text, Style::Double, depth, key, out)
        };
    }
    let string = matches!(plain_scalar(text), Ok(Value::String(_)))
        && timestamp(text).is_none()
        && !base60(text)
        && !text.is_empty()
        // A key that would merge.
        && text != "<<";
    if !string {
        return write_flow(text, Style::Double, depth, key, out);
    }
    let barred = traits.space_break || traits.special;
    let plain = !barred
        && !traits.leading
        && !traits.trailing_space
        && !traits.trailing_break
        && !traits.breaks
        && !traits.indicators;
    let style = match (plain, barred || traits.break_space || traits.breaks) {
        (true, _) => Style::Plain,
        (false, true) => Style::Double,
        (false, false) => Style::Single,
    };
    write_flow(text, style, depth, key, out);
}

/// Numbers in base 60 (`1:30`) are quoted for readers of YAML 1.1.
fn base60(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let mut parts = unsigned.split(':');
    let first = parts.next().unwrap_or_default();
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit() || b == b'_');
    let rest: Vec<&str> = parts.collect();
    if rest.is_empty() || !first.starts_with(|c: char| c.is_ascii_digit()) || !digits(first) {
        return false;
    }
    let (last, middle) = rest.split_last().expect("checked not to be empty");
    let sixty = |part: &str| !part.is_empty() && part.len() <= 2 && part.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = last.split_once('.').unwrap_or((last, ""));
    middle.iter().all(|part| sixty(part)) && sixty(whole) && digits(fraction)
}

fn write_block(text: &str, depth: usize, out: &mut String) {
    out.push('|');
    if text.starts_with([' ', '\n']) {
        out.push('2');
    }
    match text.strip_suffix('\n') {
        None => out.push('-'),
        Some(rest) if rest.is_empty() || rest.ends_with('\n') => out.push('+'),
        Some(_) => {}
    }
    for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
        out.push('\n');
        if !line.is_empty() {
            indent(depth, out);
            out.push_str(line);
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Plain,
    Single,
    Double,
}

/// Lines of flow scalars are folded at the first space after this column.
const WIDTH: usize = 80;

/// Writes text in a style that stands on a line, folding long ones (keys never).
fn write_flow(text: &str, style: Style, depth: usize, key: bool, out: &mut String) {
    let quote = match style {
        Style::Plain => "",
        Style::Single => "'",
        Style::Double => "\"",
    };
    let line = out.rfind('\n').map_or(0, |at| at + 1);
    let mut column = out[line..].chars().count() + quote.len();
    out.push_str(quote);
    let mut after_space = false;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let next_is_space = matches!(chars.peek(), Some((_, ' ')));
        let edge = at == 0 || chars.peek().is_none();
        let may = match style {
            Style::Plain => !next_is_space,
            Style::Single => !next_is_space && !edge,
            Style::Double => !edge,
        };
        if c == ' ' && !key && !after_space && column > WIDTH && may {
            out.push('\n');
            indent(depth, out);
            column = depth;
            if style == Style::Double && next_is_space {
                out.push('\\');
                column += 1;
            }
        } else {
            let start = out.len();
            match style {
                Style::Single if c == '\'' => out.push_str("''"),
                Style::Double => push_escaped(c, out),
                _ => out.push(c),
            }
            column += out[start..].chars().count();
        }
        after_space = c == ' ';
    }
    out.push_str(quote);
}

fn push_escaped(c: char, out: &mut String) {
    match c {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\0' => out.push_str("\\0"),
        '\u{7}' => out.push_str("\\a"),
        '\u{8}' => out.push_str("\\b"),
        '\u{b}' => out.push_str("\\v"),
        '\u{c}' => out.push_str("\\f"),
        '\u{1b}' => out.push_str("\\e"),
        '\u{85}' => out.push_str("\\N"),
        '\u{2028}' => out.push_str("\\L"),
        '\u{2029}' => out.push_str("\\P"),
        '\u{feff}' | '\u{fffe}' | '\u{ffff}' => out.push_str(&format!("\\u{:04X}", c as u32)),
        c if (c as u32) < 0x20 || (0x7f..0xa0).contains(&(c as u32)) => {
            out.push_str(&format!("\\x{:02X}", c as u32));
        }
        c if c > '\u{ffff}' => out.push_str(&format!("\\U{:08X}", c as u32)),
        c => out.push(c),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn scalars_read_as_yaml_1_1() {
        for (text, expect) in [
            ("yes", json!(true)),
            ("Off", json!(false)),
            ("0644", json!(420)),
            ("0o644", json!(420)),
            ("0x1f", json!(31)),
            ("1_000", json!(1000)),
            ("08", json!(8)),
            ("1.50", json!(1.5)),
            ("1e3", json!(1000)),
            ("~", json!(null)),
            ("'yes'", json!("yes")),
            ("!!str 12", json!("12")),
            ("!!binary Zm9v", json!("foo")),
            ("1.2.3", json!("1.2.3")),
            ("10.0.0.1", json!("10.0.0.1")),
            ("100m", json!("100m")),
            ("12e", json!("12e")),
            ("2030-01-02", json!("2030-01-02T00:00:00Z")),
            ("2030-01-02T03:04:05Z", json!("2030-01-02T03:04:05Z")),
            ("-", json!([null])),
            ("-1", json!(-1)),
            ("18446744073709551615", json!(u64::MAX)),
        ] {
            assert_eq!(decode_first(text.as_bytes()).expect("reads").value, expect, "{text}");
        }
    }

    #[test]
    fn documents_anchors_and_duplicates() {
        let text =
            b"a: &x {b: 1, c: 2}\nd:\n  <<: *x\n  c: 3\nl: [*x]\n---\n1: x\ntrue: z\n---\n---\nz: 1\nz: 2\n";
        let all = decode_all(text).expect("reads");
        assert_eq!(
            all[0].value,
            json!({"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}, "l": [{"b": 1, "c": 2}]})
        );
        assert_eq!(all[1].value, json!({"1": "x", "true": "z"}));
        assert_eq!(all[2].value, json!({"z": 2}));
        assert_eq!(all[2].duplicates, ["line 12: key \"z\" already set in map"]);
        assert_eq!(all.len(), 3);
    }

    #[test]
    fn a_bomb_is_refused() {
        let mut text = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_string();
        for level in 1..10 {
            let prior = format!("*a{}", level - 1);
            let refs = [prior.as_str(); 9].join(",");
            text.push_str(&format!("a{level}: &a{level} [{refs}]\n"));
        }
        let error = decode_first(text.as_bytes()).expect_err("refused").to_string();
        assert_eq!(error, "error converting YAML to JSON: yaml: document contains excessive aliasing");
        assert!(decode_first("[".repeat(5000).as_bytes()).is_err());
    }

    #[test]
    fn values_are_written_as_kubectl_does() {
        let value = json!({
            "apiVersion": "v1",
            "data": {"a": "x\ny\n", "b": "x\ny", "c": " lead\n", "e": "", "n": "123", "t": "true", "col": "a: b", "sp": "x ", "tab": "\tx\n y", "dash": "-", "d2": "- a", "star": "*x", "time": "1:30", "date": "2030-01-01", "uni": "é", "nul": "null", "q": "it's"},
            "empty": {}, "list": [{"a": 1, "b": [1, [2, 3]]}, [], "x"], "none": null, "float": 1.5,
        });
        let text = "apiVersion: v1\ndata:\n  a: |\n    x\n    y\n  b: |-\n    x\n    y\n  c: |2\n     lead\n  col: 'a: b'\n  d2: '- a'\n  dash: '-'\n  date: \"2030-01-01\"\n  e: \"\"\n  \"n\": \"123\"\n  nul: \"null\"\n  q: it's\n  sp: 'x '\n  star: '*x'\n  t: \"true\"\n  tab: \"\\tx\\n y\"\n  time: \"1:30\"\n  uni: é\nempty: {}\nfloat: 1.5\nlist:\n- a: 1\n  b:\n  - 1\n  - - 2\n    - 3\n- []\n- x\nnone: null\n";
        assert_eq!(encode(&value), text);
        assert_eq!(decode_first(text.as_bytes()).expect("reads").value, value);
    }

    #[test]
    fn odd_texts_are_read_back() {
        let odd =
            ["\r", "\n\r", "\u{85}", "\u{2028}", "\u{2029}x", "\u{feff}", "\u{ffff}", "\u{0}", "\u{7f}"];
        let around = ["", "a", "\n", " ", "a\n", "\n: x\n", ": ", "- ", "\u{10ffff}"];
        for odd in odd {
            for (before, after) in
                around.iter().flat_map(|before| around.iter().map(move |after| (before, after)))
            {
                let text = format!("{before}{odd}{after}");
                let value =
                    json!({"v": {"a": text.as_str()}, "k": {text.as_str(): 1}, "l": [text.as_str(), [text]]});
                let written = encode(&value);
                let read =
                    decode_first(written.as_bytes()).unwrap_or_else(|error| panic!("{written:?}: {error}"));
                assert_eq!(read.value, value, "{written:?}");
                let alone = encode(&value["v"]["a"]);
                assert_eq!(
                    decode_first(alone.as_bytes()).expect("reads").value,
                    value["v"]["a"],
                    "{alone:?}"
                );
            }
        }
    }
}
