//! Field errors and the paths they name (apimachinery `pkg/util/validation/field`).

use std::fmt;

use serde_json::Value;

use crate::error::Cause;

/// The path of a field: `spec.containers[0].env[2].name`. Cheap to extend; built while descending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    /// The root; prints as `<nil>` like upstream's nil path.
    pub fn root() -> Self {
        Path::default()
    }

    /// A path of one field.
    pub fn new(field: &str) -> Self {
        Path(field.to_owned())
    }

    /// A field below this one. Several fields may be joined by dots.
    pub fn child(&self, field: &str) -> Path {
        if self.0.is_empty() { Path::new(field) } else { self.joined(&[".", field]) }
    }

    /// An element of this list.
    pub fn index(&self, index: usize) -> Path {
        // Nearly all lists are short.
        const DIGITS: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
        match DIGITS.get(index) {
            Some(digit) => self.key(digit),
            None => self.key(&index.to_string()),
        }
    }

    /// A key of this map.
    pub fn key(&self, key: &str) -> Path {
        self.joined(&["[", key, "]"])
    }

    /// One allocation: a validation makes hundreds of paths, nearly all for nothing.
    fn joined(&self, more: &[&str]) -> Path {
        let length = self.0.len() + more.iter().map(|part| part.len()).sum::<usize>();
        let mut text = String::with_capacity(length);
        text.push_str(&self.0);
        more.iter().for_each(|part| text.push_str(part));
        Path(text)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "<nil>" } else { &self.0 })
    }
}

impl From<&str> for Path {
    fn from(text: &str) -> Self {
        Path::new(text)
    }
}

/// What is wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "upstream's own names")]
pub enum ErrorKind {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    Internal,
    TypeInvalid,
    TooFew,
}

/// Kind, the cause's reason, and the words of the message.
const KINDS: &[(ErrorKind, &str, &str)] = &[
    (ErrorKind::NotFound, "FieldValueNotFound", "Not found"),
    (ErrorKind::Required, "FieldValueRequired", "Required value"),
    (ErrorKind::Duplicate, "FieldValueDuplicate", "Duplicate value"),
    (ErrorKind::Invalid, "FieldValueInvalid", "Invalid value"),
    (ErrorKind::NotSupported, "FieldValueNotSupported", "Unsupported value"),
    (ErrorKind::Forbidden, "FieldValueForbidden", "Forbidden"),
    (ErrorKind::TooLong, "FieldValueTooLong", "Too long"),
    (ErrorKind::TooMany, "FieldValueTooMany", "Too many"),
    (ErrorKind::Internal, "InternalError", "Internal error"),
    (ErrorKind::TypeInvalid, "FieldValueTypeInvalid", "Invalid value"),
    (ErrorKind::TooFew, "FieldValueTooFew", "Too few"),
];

/// One field error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// What is wrong.
    pub kind: ErrorKind,
    /// Where.
    pub path: Path,
    /// The value as the message shows it, if it does (text quoted, objects as JSON).
    pub value: Option<String>,
    /// Why.
    pub detail: String,
}

/// A value as upstream's messages show it.
pub fn show(value: &Value) -> String {
    match value {
        Value::String(text) => go_quote(text),
        // Go's encoder writes these three so, for HTML's sake.
        other => other.to_string().replace('&', "\\u0026").replace('<', "\\u003c").replace('>', "\\u003e"),
    }
}

/// Text quoted as Go's `%q` quotes it.
pub fn go_quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", c as u32)),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

impl FieldError {
    fn new(kind: ErrorKind, path: &Path, value: Option<String>, detail: impl Into<String>) -> Self {
        FieldError { kind, path: path.clone(), value, detail: detail.into() }
    }

    /// A required field is absent.
    pub fn required(path: &Path, detail: impl Into<String>) -> Self {
        FieldError::new(ErrorKind::Required, path, None, detail)
    }

    /// A value is wrong.
    pub fn invalid(path: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        FieldError::new(ErrorKind::Invalid, path, Some(show(&value.into())), detail)
    }

    /// A value has the wrong type.
    pub fn type_invalid(path: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        FieldError::new(ErrorKind::TypeInvalid, path, Some(show(&value.into())), detail)
    }

    /// A value appears twice.
    pub fn duplicate(path: &Path, value: impl Into<Value>) -> Self {
        FieldError::new(ErrorKind::Duplicate, path, Some(show(&value.into())), "")
    }

    /// A value refers to what does not exist.
    pub fn not_found(path: &Path, value: impl Into<Value>) -> Self {
        FieldError::new(ErrorKind::NotFound, path, Some(show(&value.into())), "")
    }

    /// A value is none of the allowed ones; they are shown in the order given.
    pub fn not_supported(path: &Path, value: impl Into<Value>, allowed: &[&str]) -> Self {
        let quoted: Vec<String> = allowed.iter().map(|text| go_quote(text)).collect();
        let detail = if quoted.is_empty() {
            String::new()
        } else {
            format!("supported values: {}", quoted.join(", "))
        };
        FieldError::new(ErrorKind::NotSupported, path, Some(show(&value.into())), detail)
    }

    /// A field must not be set or changed here.
    pub fn forbidden(path: &Path, detail: impl Into<String>) -> Self {
        FieldError::new(ErrorKind::Forbidden, path, None, detail)
    }

    /// A text is longer than `limit` bytes.
    pub fn too_long(path: &Path, limit: usize) -> Self {
        let bytes = if limit == 1 { "byte" } else { "bytes" };
        FieldError::new(ErrorKind::TooLong, path, None, format!("may not be more than {limit} {bytes}"))
    }

    /// A list or map has more than `limit` entries.
    pub fn too_many(path: &Path, actual: usize, limit: usize) -> Self {
        let items = if limit == 1 { "item" } else { "items" };
        let detail = format!("must have at most {limit} {items}");
        FieldError::new(ErrorKind::TooMany, path, Some(actual.to_string()), detail)
    }

    /// Something failed on our side.
    pub fn internal(path: &Path, detail: impl Into<String>) -> Self {
        FieldError::new(ErrorKind::Internal, path, None, detail)
    }

    /// The message without the path: `Invalid value: "x": why`.
    pub fn body(&self) -> String {
        let row = KINDS.iter().find(|row| row.0 == self.kind);
        let mut text = row.map_or("", |row| row.2).to_owned();
        if let Some(value) = &self.value {
            text.push_str(": ");
            text.push_str(value);
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }

    /// As an entry of `Status.details.causes`.
    pub fn cause(&self) -> Cause {
        let row = KINDS.iter().find(|row| row.0 == self.kind);
        Cause {
            reason: row.map_or("", |row| row.1).to_owned(),
            message: self.body(),
            field: self.path.to_string(),
        }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.body())
    }
}

/// Messages in one line: a single one alone, several in brackets, repeated ones once.
pub fn aggregate(messages: impl Iterator<Item = String>) -> String {
    let mut seen: Vec<String> = Vec::new();
    for text in messages {
        if !seen.contains(&text) {
            seen.push(text);
        }
    }
    if seen.len() == 1 { seen.remove(0) } else { format!("[{}]", seen.join(", ")) }
}

/// Field errors in the order found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorList(pub Vec<FieldError>);

impl ErrorList {
    /// None yet.
    pub fn new() -> Self {
        ErrorList::default()
    }

    /// Adds one.
    pub fn push(&mut self, error: FieldError) {
        self.0.push(error);
    }

    /// Adds several.
    pub fn extend(&mut self, errors: impl IntoIterator<Item = FieldError>) {
        self.0.extend(errors);
    }

    /// True when nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One line: a single error alone, several in brackets, repeated ones once.
    pub fn aggregate(&self) -> String {
        aggregate(self.0.iter().map(FieldError::to_string))
    }

    /// As `Status.details.causes`.
    pub fn causes(&self) -> Vec<Cause> {
        self.0.iter().map(FieldError::cause).collect()
    }
}

impl IntoIterator for ErrorList {
    type Item = FieldError;
    type IntoIter = std::vec::IntoIter<FieldError>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_read_as_upstream() {
        let path = Path::new("spec").child("containers").index(0).child("image");
        let cases = [
            (FieldError::required(&path, ""), "spec.containers[0].image: Required value"),
            (FieldError::invalid(&path, "a b", "no"), "spec.containers[0].image: Invalid value: \"a b\": no"),
            (FieldError::invalid(&path, 3, "no"), "spec.containers[0].image: Invalid value: 3: no"),
            (
                FieldError::not_supported(&path, "x", &["A", "B"]),
                "spec.containers[0].image: Unsupported value: \"x\": supported values: \"A\", \"B\"",
            ),
            (
                FieldError::too_long(&path, 63),
                "spec.containers[0].image: Too long: may not be more than 63 bytes",
            ),
        ];
        for (error, expect) in &cases {
            assert_eq!(error.to_string(), *expect);
        }
        let list = ErrorList(vec![cases[0].0.clone(), cases[2].0.clone(), cases[0].0.clone()]);
        assert_eq!(list.aggregate(), format!("[{}, {}]", cases[0].1, cases[2].1));
    }
}
