//! Leaves with a JSON form of their own: quantities, times, durations, bytes, int-or-string.
//!
//! Reading one yields its canonical spelling. It must not know objects.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::schema::Scalar;

/// Why a leaf could not be read.
#[derive(Debug, PartialEq, Eq)]
pub enum ScalarError {
    /// The JSON type is wrong: what was found (`string`, `number 5`), and the Go type named instead of the
    /// field's own.
    Mismatch {
        /// Found JSON type.
        found: String,
        /// Go type to name, when it is not the field's.
        go_type: Option<&'static str>,
    },
    /// The leaf's own parser failed with this message.
    Message(String),
}

/// Go's name of a leaf type, for error messages.
pub fn go_type(kind: Scalar) -> &'static str {
    match kind {
        Scalar::Bool => "bool",
        Scalar::I32 => "int32",
        Scalar::I64 => "int64",
        Scalar::U8 => "uint8",
        Scalar::F64 => "float64",
        Scalar::Str => "string",
        Scalar::Bytes => "[]uint8",
        Scalar::Quantity => "resource.Quantity",
        Scalar::Time => "v1.Time",
        Scalar::MicroTime => "v1.MicroTime",
        Scalar::Duration => "v1.Duration",
        Scalar::IntOrString => "intstr.IntOrString",
        Scalar::Raw => "runtime.RawExtension",
        Scalar::Unknown => "runtime.Unknown",
        Scalar::Any => "interface {}",
        Scalar::Fields => "v1.FieldsV1",
        Scalar::Json => "v1.JSON",
        Scalar::SchemaOrArray => "v1.JSONSchemaPropsOrArray",
        Scalar::SchemaOrBool => "v1.JSONSchemaPropsOrBool",
        Scalar::SchemaOrStrings => "v1.JSONSchemaPropsOrStringArray",
        Scalar::Strs => "[]string",
    }
}

/// Reads a leaf from its JSON value into the canonical one. `number` is the literal's text when the value is
/// a number (quantities keep its digits).
pub fn from_json(kind: Scalar, value: Value, number: Option<&str>) -> Result<Value, ScalarError> {
    let mismatch = |value: &Value, go_type: Option<&'static str>| ScalarError::Mismatch {
        found: describe(value).to_string(),
        go_type,
    };
    match (kind, value) {
        (_, Value::Null) => Ok(Value::Null),
        (Scalar::Quantity, Value::String(text)) => quantity(&text),
        (Scalar::Quantity, Value::Number(n)) => quantity(number.unwrap_or(&n.to_string())),
        (Scalar::Quantity, _) => quantity("{"),
        (Scalar::Time, Value::String(text)) => time(&text, false),
        (Scalar::MicroTime, Value::String(text)) => time(&text, true),
        (Scalar::Duration, Value::String(text)) => parse_duration(&text)
            .map(|nanos| Value::String(format_duration(nanos)))
            .map_err(ScalarError::Message),
        (Scalar::Time | Scalar::MicroTime | Scalar::Duration, other) => Err(mismatch(&other, Some("string"))),
        (Scalar::IntOrString, value @ Value::String(_)) => Ok(value),
        (Scalar::IntOrString, Value::Number(n)) => match n.as_i64().and_then(|n| i32::try_from(n).ok()) {
            Some(n) => Ok(Value::from(n)),
            None => Err(ScalarError::Mismatch {
                found: format!("number {}", number.unwrap_or(&n.to_string())),
                go_type: Some("int32"),
            }),
        },
        (Scalar::IntOrString, other) => Err(mismatch(&other, Some("int32"))),
        (Scalar::Bytes, Value::String(text)) => bytes(text),
        (Scalar::SchemaOrBool, value @ (Value::Bool(_) | Value::Object(_))) => Ok(value),
        (Scalar::SchemaOrBool, _) => Err(ScalarError::Message("boolean or JSON schema expected".to_string())),
        (Scalar::SchemaOrArray, value @ (Value::Object(_) | Value::Array(_))) => Ok(value),
        (Scalar::SchemaOrStrings, value @ Value::Object(_)) => Ok(value),
        (Scalar::SchemaOrStrings, Value::Array(all)) => {
            let text = |one| match one {
                Value::Null => Ok(Value::String(String::new())),
                Value::String(_) => Ok(one),
                other => Err(mismatch(&other, Some("string"))),
            };
            all.into_iter().map(text).collect::<Result<_, _>>().map(Value::Array)
        }
        // Upstream's readers pass over what is neither.
        (Scalar::SchemaOrArray | Scalar::SchemaOrStrings, _) => Ok(Value::Null),
        (Scalar::Raw | Scalar::Unknown | Scalar::Any | Scalar::Json | Scalar::Fields, value) => Ok(value),
        (_, other) => Err(mismatch(&other, None)),
    }
}

fn describe(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn quantity(text: &str) -> Result<Value, ScalarError> {
    let plain = text.len() <= 6 && text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    if plain && !text.ends_with("000") && !text.is_empty() {
        return Ok(Value::String(text.to_string()));
    }
    match text.trim().parse::<api::Quantity>() {
        Ok(quantity) => Ok(Value::String(quantity.to_string())),
        Err(error) => Err(ScalarError::Message(error.to_string())),
    }
}

fn bytes(text: String) -> Result<Value, ScalarError> {
    // Go's decoder skips line breaks inside base64.
    let clean = match text.contains(['\n', '\r']) {
        true => text.replace(['\n', '\r'], ""),
        false => text,
    };
    match STANDARD.decode(&clean) {
        Ok(_) => Ok(Value::String(clean)),
        Err(base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _)) => {
            Err(ScalarError::Message(format!("illegal base64 data at input byte {at}")))
        }
        Err(_) => {
            Err(ScalarError::Message(format!("illegal base64 data at input byte {}", clean.len() / 4 * 4)))
        }
    }
}

fn time(text: &str, micro: bool) -> Result<Value, ScalarError> {
    let layout = match micro {
        true => "2006-01-02T15:04:05.000000Z07:00",
        false => "2006-01-02T15:04:05Z07:00",
    };
    let shaped = text.len() >= 20 && text.as_bytes().get(10) == Some(&b'T');
    let wrong = |rest: &str, part: &str| {
        let [text, layout, rest] = [text, layout, rest].map(go_quote);
        Err(ScalarError::Message(format!("parsing time {text} as {layout}: cannot parse {rest} as {part}")))
    };
    // Microseconds are six digits, no more and no less.
    if let Some(rest) = text.get(19..).filter(|_| micro && shaped && text.parse::<jiff::Timestamp>().is_ok())
    {
        let digits =
            rest.strip_prefix('.').map_or(0, |rest| rest.bytes().take_while(u8::is_ascii_digit).count());
        match digits {
            6 => {}
            0..6 => return wrong(rest, "\".000000\""),
            _ => return wrong(&rest[7..], "\"Z07:00\""),
        }
    }
    match shaped.then(|| text.parse::<jiff::Timestamp>().ok()).flatten() {
        Some(time) if micro => Ok(Value::String(api::time::format_micro(time))),
        Some(time) => Ok(Value::String(api::time::format(time))),
        None => wrong(text, "\"2006\""),
    }
}

const NANOS: [(&str, i128); 7] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Reads a Go duration (`1h30m`, `1.5s`) as nanoseconds; the error is Go's text.
pub fn parse_duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {}", go_quote(text));
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(number_end);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        if unit.is_empty() && !number.is_empty() {
            return Err(format!("time: missing unit in duration {}", go_quote(text)));
        }
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || number.len() > 40 {
            return Err(invalid());
        }
        let Some((_, scale)) = NANOS.iter().find(|(name, _)| *name == unit) else {
            return Err(format!("time: unknown unit {} in duration {}", go_quote(unit), go_quote(text)));
        };
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
        total += whole.checked_mul(*scale).ok_or_else(invalid)?;
        let mut place = *scale;
        for digit in fraction.bytes() {
            place /= 10;
            total += i128::from(digit - b'0') * place;
        }
        rest = next;
    }
    i64::try_from(if negative { -total } else { total }).map_err(|_| invalid())
}

/// Writes nanoseconds as Go prints a duration: `1h0m0s`, `1.5s`, `250ms`, `0s`.
pub fn format_duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let left = nanos.unsigned_abs();
    let fraction = |value: u64, unit: u64, name: &str| {
        let digits = format!("{:0width$}", value % unit, width = unit.ilog10() as usize);
        match digits.trim_end_matches('0') {
            "" => format!("{sign}{}{name}", value / unit),
            digits => format!("{sign}{}.{digits}{name}", value / unit),
        }
    };
    match left {
        0 => "0s".to_string(),
        1..1_000 => format!("{sign}{left}ns"),
        1_000..1_000_000 => fraction(left, 1_000, "µs"),
        1_000_000..1_000_000_000 => fraction(left, 1_000_000, "ms"),
        _ => {
            let (minutes, rest) = (left / 60_000_000_000, left % 60_000_000_000);
            let seconds = fraction(rest, 1_000_000_000, "s");
            let seconds = seconds.trim_start_matches('-');
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{sign}{seconds}"),
                (0, minutes) => format!("{sign}{minutes}m{seconds}"),
                (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

pub use api::validation::go_quote;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_schemas_or_texts() {
        use serde_json::json;
        for (value, read) in [
            (json!({"type": "string"}), Some(json!({"type": "string"}))),
            (json!(["a", null]), Some(json!(["a", ""]))),
            (json!("a"), Some(Value::Null)),
            (json!([{}]), None),
            (json!(["a", 1]), None),
        ] {
            let found = from_json(Scalar::SchemaOrStrings, value.clone(), None);
            assert_eq!(found.ok(), read, "{value}");
        }
    }

    #[test]
    fn durations() {
        for (text, spelled) in [
            ("1h", "1h0m0s"),
            ("90s", "1m30s"),
            ("1.5s", "1.5s"),
            ("-250ms", "-250ms"),
            ("0", "0s"),
            ("1h0.5s", "1h0m0.5s"),
            ("10us", "10µs"),
        ] {
            assert_eq!(parse_duration(text).map(format_duration).as_deref(), Ok(spelled), "{text}");
        }
        assert_eq!(parse_duration("5"), Err("time: missing unit in duration \"5\"".to_string()));
        assert_eq!(parse_duration("5d"), Err("time: unknown unit \"d\" in duration \"5d\"".to_string()));
        assert!(parse_duration("9999999999999999999999999999999999999999h").is_err());
    }
}
