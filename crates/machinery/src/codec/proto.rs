//! Protobuf: values to messages and back, upstream's envelope, list assembly and watch frames.
//!
//! Zero optional fields are not written (Go reads them back as zero). Lists and watch events are built from
//! already encoded items. It must not know HTTP framing beyond the four length bytes of a watch frame.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::{DecodeError, MAX_DEPTH, canonical, json, scalar};
use crate::schema::{Base, FieldFacts, Scalar, Schema, Shape, TypeFacts, facts};

/// The bytes that open every self-describing message.
pub const MAGIC: &[u8; 4] = b"k8s\0";

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const BYTES: u32 = 2;

/// `runtime.Unknown`: the envelope of a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unknown<'a> {
    /// `apiVersion` of the message.
    pub api_version: String,
    /// `kind` of the message.
    pub kind: String,
    /// The message itself.
    pub raw: &'a [u8],
    /// Content encoding; empty in practice.
    pub content_encoding: String,
    /// Content type; empty means protobuf.
    pub content_type: String,
}

// ---- writing ----

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

fn put_key(out: &mut Vec<u8>, number: u32, wire: u32) {
    put_varint(out, u64::from(number << 3 | wire));
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_key(out, number, BYTES);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(crate) fn put_int(out: &mut Vec<u8>, number: u32, value: i64) {
    put_key(out, number, VARINT);
    put_varint(out, value.cast_unsigned());
}

pub(crate) fn put_double(out: &mut Vec<u8>, number: u32, value: f64) {
    put_key(out, number, FIXED64);
    out.extend_from_slice(&value.to_le_bytes());
}

/// Writes a length-delimited field whose body `write` appends.
pub(crate) fn put_nested(out: &mut Vec<u8>, number: u32, write: impl FnOnce(&mut Vec<u8>)) {
    put_key(out, number, BYTES);
    let start = out.len();
    out.push(0);
    write(out);
    let length = out.len() - start - 1;
    if length < 0x80 {
        out[start] = length.to_le_bytes()[0];
        return;
    }
    let mut prefix = Vec::with_capacity(5);
    put_varint(&mut prefix, length as u64);
    out.splice(start..=start, prefix);
}

/// The message of a value, without envelope. Fields of a wrong type are left out.
pub fn encode(facts: &'static TypeFacts, value: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    if let Value::Object(object) = value {
        encode_message(facts, object, &mut out);
    }
    out
}

/// The self-describing message of an object, its `apiVersion` and `kind` in the envelope.
pub fn encode_object(facts: &'static TypeFacts, value: &Value) -> Vec<u8> {
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
    wrap_unknown(text("apiVersion"), text("kind"), &encode(facts, value))
}

/// Puts a message into its envelope.
pub fn wrap_unknown(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len() + api_version.len() + kind.len() + 32);
    out.extend_from_slice(MAGIC);
    put_nested(&mut out, 1, |out| {
        put_bytes(out, 1, api_version.as_bytes());
        put_bytes(out, 2, kind.as_bytes());
    });
    put_bytes(&mut out, 2, raw);
    put_bytes(&mut out, 3, b"");
    put_bytes(&mut out, 4, b"");
    out
}

/// The envelope's bytes before the message, for assembling without copying: the message must have `length`
/// bytes and be followed by [`ENVELOPE_END`].
pub fn envelope_start(api_version: &str, kind: &str, length: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    out.extend_from_slice(MAGIC);
    put_nested(&mut out, 1, |out| {
        put_bytes(out, 1, api_version.as_bytes());
        put_bytes(out, 2, kind.as_bytes());
    });
    put_key(&mut out, 2, BYTES);
    put_varint(&mut out, length as u64);
    out
}

/// What follows the message in an envelope: empty content encoding and type.
pub const ENVELOPE_END: [u8; 4] = [0x1a, 0, 0x22, 0];

/// A self-describing list from its metadata and its items' messages (without envelopes).
pub fn encode_list<'a>(
    api_version: &str,
    kind: &str,
    list_meta: &Value,
    items: impl Iterator<Item = &'a [u8]> + Clone,
) -> Vec<u8> {
    let meta = facts().meta("ListMeta").map(|facts| encode(facts, list_meta)).unwrap_or_default();
    let length = |bytes: &[u8]| 1 + varint_length(bytes.len() as u64) + bytes.len();
    let total = length(&meta) + items.clone().map(length).sum::<usize>();
    let mut out = envelope_start(api_version, kind, total);
    out.reserve(total + ENVELOPE_END.len());
    put_bytes(&mut out, 1, &meta);
    for item in items {
        put_bytes(&mut out, 2, item);
    }
    out.extend_from_slice(&ENVELOPE_END);
    out
}

fn varint_length(value: u64) -> usize {
    match value {
        0 => 1,
        _ => (64 - value.leading_zeros() as usize).div_ceil(7),
    }
}

/// One frame of a protobuf watch: four length bytes and a `WatchEvent` that holds an enveloped object.
pub fn watch_frame(event: &str, enveloped: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(enveloped.len() + 32);
    out.extend_from_slice(&[0; 4]);
    put_bytes(&mut out, 1, event.as_bytes());
    put_nested_bytes(&mut out, 2, enveloped);
    let length = u32::try_from(out.len() - 4).expect("an object is far below 4 GiB");
    out[..4].copy_from_slice(&length.to_be_bytes());
    out
}

/// A message field whose only field is bytes number 1.
fn put_nested_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_key(out, number, BYTES);
    put_varint(out, (1 + varint_length(bytes.len() as u64) + bytes.len()) as u64);
    put_bytes(out, 1, bytes);
}

fn encode_message(facts: &'static TypeFacts, object: &Map<String, Value>, out: &mut Vec<u8>) {
    for field in facts.wire_order() {
        if field.inline() {
            if let Some(inner) = field.message() {
                put_nested(out, field.number, |out| encode_message(inner, object, out));
            }
            continue;
        }
        match (field.shape, object.get(field.json)) {
            (_, None | Some(Value::Null)) => {}
            (Shape::One, Some(value)) => encode_element(field, field.number, value, out),
            (Shape::List, Some(Value::Array(items))) => {
                for item in items {
                    encode_element(field, field.number, item, out);
                }
            }
            (Shape::Map, Some(Value::Object(map))) => {
                for (key, value) in map {
                    put_nested(out, field.number, |out| {
                        put_bytes(out, 1, key.as_bytes());
                        encode_element(field, 2, value, out);
                    });
                }
            }
            _ => {}
        }
    }
}

fn encode_element(field: &'static FieldFacts, number: u32, value: &Value, out: &mut Vec<u8>) {
    match (field.base, field.message(), value) {
        (Base::Message(_), Some(inner), Value::Object(object)) => {
            put_nested(out, number, |out| encode_message(inner, object, out));
        }
        (Base::Message(_), ..) => put_bytes(out, number, b""),
        (Base::Scalar(kind), ..) => encode_scalar(kind, number, value, out),
    }
}

fn encode_scalar(kind: Scalar, number: u32, value: &Value, out: &mut Vec<u8>) {
    match (kind, value) {
        (Scalar::Bool, Value::Bool(set)) => put_int(out, number, i64::from(*set)),
        (Scalar::I32 | Scalar::I64 | Scalar::U8, Value::Number(n)) => {
            put_int(out, number, n.as_i64().unwrap_or(0))
        }
        (Scalar::F64, Value::Number(n)) => {
            put_key(out, number, FIXED64);
            out.extend_from_slice(&n.as_f64().unwrap_or(0.0).to_le_bytes());
        }
        (Scalar::Str, Value::String(text)) => put_bytes(out, number, text.as_bytes()),
        (Scalar::Bytes, Value::String(text)) => {
            put_bytes(out, number, &STANDARD.decode(text).unwrap_or_default());
        }
        (Scalar::Quantity, Value::String(text)) => put_nested_bytes(out, number, text.as_bytes()),
        (Scalar::Time | Scalar::MicroTime, Value::String(text)) => {
            let time = text.parse::<jiff::Timestamp>().unwrap_or_default();
            let nanos = i64::from(time.subsec_nanosecond());
            let (seconds, nanos) = if nanos < 0 {
                (time.as_second() - 1, nanos + 1_000_000_000)
            } else {
                (time.as_second(), nanos)
            };
            put_nested(out, number, |out| {
                put_int(out, 1, seconds);
                put_int(out, 2, nanos);
            });
        }
        (Scalar::Duration, Value::String(text)) => {
            let nanos = scalar::parse_duration(text).unwrap_or_default();
            put_nested(out, number, |out| put_int(out, 1, nanos));
        }
        (Scalar::IntOrString, value) => put_nested(out, number, |out| match value {
            Value::String(text) => {
                put_int(out, 1, 1);
                put_int(out, 2, 0);
                put_bytes(out, 3, text.as_bytes());
            }
            _ => {
                put_int(out, 1, 0);
                put_int(out, 2, value.as_i64().unwrap_or(0));
                put_bytes(out, 3, b"");
            }
        }),
        (Scalar::Raw | Scalar::Json | Scalar::Fields, value) => {
            put_nested_bytes(out, number, &serde_json::to_vec(value).expect("a value tree is always JSON"));
        }
        (Scalar::Unknown, value) => {
            let raw = serde_json::to_vec(value).expect("a value tree is always JSON");
            put_nested(out, number, |out| {
                put_bytes(out, 2, &raw);
                put_bytes(out, 4, b"application/json");
            });
        }
        (Scalar::Strs, Value::Array(items)) => put_nested(out, number, |out| {
            for item in items {
                put_bytes(out, 1, item.as_str().unwrap_or_default().as_bytes());
            }
        }),
        (Scalar::SchemaOrArray | Scalar::SchemaOrBool | Scalar::SchemaOrStrings, value) => {
            put_nested(out, number, |out| encode_schema_or(kind, value, out));
        }
        // A null element of a list or map reads back as the zero element.
        (_, Value::Null) => encode_scalar_zero(kind, number, out),
        _ => {}
    }
}

fn encode_scalar_zero(kind: Scalar, number: u32, out: &mut Vec<u8>) {
    match kind {
        Scalar::Bool | Scalar::I32 | Scalar::I64 | Scalar::U8 => put_int(out, number, 0),
        Scalar::F64 => {
            put_key(out, number, FIXED64);
            out.extend_from_slice(&[0; 8]);
        }
        _ => put_bytes(out, number, b""),
    }
}

fn schema_props() -> &'static TypeFacts {
    let name = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
    facts().by_name(name).expect("facts.txt has JSONSchemaProps")
}

fn encode_schema_or(kind: Scalar, value: &Value, out: &mut Vec<u8>) {
    let schema_number = if kind == Scalar::SchemaOrBool { 2 } else { 1 };
    match value {
        Value::Object(object) => {
            if kind == Scalar::SchemaOrBool {
                put_int(out, 1, 1);
            }
            put_nested(out, schema_number, |out| encode_message(schema_props(), object, out));
        }
        Value::Bool(allows) => put_int(out, 1, i64::from(*allows)),
        Value::Array(items) => {
            for item in items {
                match item {
                    Value::Object(object) => {
                        put_nested(out, 2, |out| encode_message(schema_props(), object, out))
                    }
                    Value::String(text) => put_bytes(out, 2, text.as_bytes()),
                    _ => {}
                }
            }
        }
        _ => {}
    }
}

// ---- reading ----

#[derive(Clone, Copy)]
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

struct Reader<'a> {
    bytes: &'a [u8],
}

fn broken(message: &str) -> DecodeError {
    DecodeError::Proto { message: message.to_string() }
}

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.bytes.split_first().ok_or_else(|| broken("unexpected EOF"))?;
            self.bytes = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(broken("integer overflow"))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.bytes.split_at_checked(length).ok_or_else(|| broken("unexpected EOF"))?;
        self.bytes = rest;
        Ok(head)
    }

    /// The next field, or `None` at the end. Groups are skipped whole.
    fn next(&mut self) -> Result<Option<(u32, Wire<'a>)>, DecodeError> {
        let mut open_groups = 0usize;
        while !self.bytes.is_empty() {
            let key = self.varint()?;
            let number = u32::try_from(key >> 3).map_err(|_| broken("illegal tag"))?;
            if number == 0 {
                return Err(broken("illegal tag 0 (wire type 0)"));
            }
            let wire = match key & 7 {
                0 => Wire::Number(self.varint()?),
                1 => Wire::Number(u64::from_le_bytes(
                    self.take(8)?.try_into().expect("eight bytes were taken"),
                )),
                2 => {
                    let length = usize::try_from(self.varint()?).map_err(|_| broken("invalid length"))?;
                    Wire::Bytes(self.take(length)?)
                }
                5 => {
                    let bytes = self.take(4)?.try_into().expect("four bytes were taken");
                    Wire::Number(u64::from(u32::from_le_bytes(bytes)))
                }
                3 => {
                    open_groups += 1;
                    continue;
                }
                4 if open_groups > 0 => {
                    open_groups -= 1;
                    continue;
                }
                other => return Err(broken(&format!("illegal wireType {other}"))),
            };
            if open_groups == 0 {
                return Ok(Some((number, wire)));
            }
        }
        match open_groups {
            0 => Ok(None),
            _ => Err(broken("unexpected EOF")),
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Opens an envelope.
pub fn unwrap_unknown(bytes: &[u8]) -> Result<Unknown<'_>, DecodeError> {
    let body = bytes.strip_prefix(MAGIC.as_slice()).ok_or_else(|| {
        broken("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")
    })?;
    let mut unknown = Unknown::default();
    let mut reader = Reader { bytes: body };
    while let Some((number, wire)) = reader.next()? {
        match (number, wire) {
            (1, Wire::Bytes(meta)) => {
                let mut meta = Reader { bytes: meta };
                while let Some(entry) = meta.next()? {
                    match entry {
                        (1, Wire::Bytes(value)) => unknown.api_version = text(value),
                        (2, Wire::Bytes(value)) => unknown.kind = text(value),
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(raw)) => unknown.raw = raw,
            (3, Wire::Bytes(value)) => unknown.content_encoding = text(value),
            (4, Wire::Bytes(value)) => unknown.content_type = text(value),
            _ => {}
        }
    }
    Ok(unknown)
}

/// The canonical value of a message of a known type. It has no `apiVersion` and `kind`: those are in the
/// envelope.
pub fn decode(facts: &'static TypeFacts, bytes: &[u8]) -> Result<Value, DecodeError> {
    let mut object = Map::new();
    decode_message(facts, bytes, &mut object, 0)?;
    tidy(facts, &mut object);
    Ok(Value::Object(object))
}

/// The value of an enveloped message, `apiVersion` and `kind` included. The second value is true when the
/// envelope names a kind that the facts do not know; the value is then only `apiVersion` and `kind`.
pub fn decode_object(bytes: &[u8]) -> Result<(Value, bool), DecodeError> {
    let unknown = unwrap_unknown(bytes)?;
    let (group, version) = unknown.api_version.split_once('/').unwrap_or(("", &unknown.api_version));
    let found = facts().by_gvk(group, version, &unknown.kind);
    let mut value = match found {
        _ if unknown.content_type == "application/json" => json::decode_any(unknown.raw)?.value,
        Some(facts) => decode(facts, unknown.raw)?,
        None => Value::Object(Map::new()),
    };
    if let Value::Object(object) = &mut value {
        object.insert("apiVersion".to_string(), Value::String(unknown.api_version));
        object.insert("kind".to_string(), Value::String(unknown.kind));
    }
    Ok((value, found.is_none()))
}

/// A watch event's type, its enveloped object and its frame's length in bytes.
pub type WatchFrame<'a> = (String, &'a [u8], usize);

/// One watch frame from the front of a buffer: the event's type, the enveloped object and the frame's length
/// in bytes; `None` when the buffer holds less than a frame.
pub fn read_watch_frame(bytes: &[u8]) -> Result<Option<WatchFrame<'_>>, DecodeError> {
    let Some((head, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*head) as usize;
    let Some(frame) = rest.get(..length) else { return Ok(None) };
    let (mut event, mut object) = (String::new(), &[][..]);
    let mut reader = Reader { bytes: frame };
    while let Some(entry) = reader.next()? {
        match entry {
            (1, Wire::Bytes(value)) => event = text(value),
            (2, Wire::Bytes(value)) => object = only_bytes(value, 1)?,
            _ => {}
        }
    }
    Ok(Some((event, object, length + 4)))
}

fn only_bytes(bytes: &[u8], wanted: u32) -> Result<&[u8], DecodeError> {
    let mut found = &[][..];
    let mut reader = Reader { bytes };
    while let Some((number, wire)) = reader.next()? {
        if let Wire::Bytes(value) = wire
            && number == wanted
        {
            found = value;
        }
    }
    Ok(found)
}

fn decode_message(
    facts: &'static TypeFacts,
    bytes: &[u8],
    object: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), DecodeError> {
    if depth > MAX_DEPTH {
        return Err(broken("exceeded max depth"));
    }
    let mut reader = Reader { bytes };
    while let Some((number, wire)) = reader.next()? {
        let Some(field) = facts.numbered(number) else { continue };
        if field.inline() {
            if let (Some(inner), Wire::Bytes(body)) = (field.message(), wire) {
                decode_message(inner, body, object, depth + 1)?;
            }
            continue;
        }
        decode_field(field, wire, object, depth)?;
    }
    Ok(())
}

fn decode_field(
    field: &'static FieldFacts,
    wire: Wire<'_>,
    object: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), DecodeError> {
    match field.shape {
        Shape::One => {
            let value = decode_element(field, wire, depth)?;
            object.insert(field.json.to_string(), value);
        }
        Shape::List => {
            let slot = object.entry(field.json).or_insert_with(|| Value::Array(Vec::new()));
            let Value::Array(items) = slot else { return Ok(()) };
            if super::is_full(field, items.len()) {
                return Err(DecodeError::Proto { message: super::too_many(field) });
            }
            let packed = matches!(field.base, Base::Scalar(Scalar::I32 | Scalar::I64 | Scalar::Bool));
            match wire {
                Wire::Bytes(body) if packed => {
                    let mut inner = Reader { bytes: body };
                    while !inner.bytes.is_empty() {
                        let number = inner.varint()?;
                        items.push(decode_element(field, Wire::Number(number), depth)?);
                    }
                }
                _ => items.push(decode_element(field, wire, depth)?),
            }
        }
        Shape::Map => {
            let Wire::Bytes(body) = wire else { return Err(wrong_wire(field)) };
            let mut key = String::new();
            let mut value = None;
            let mut inner = Reader { bytes: body };
            while let Some(entry) = inner.next()? {
                match entry {
                    (1, Wire::Bytes(bytes)) => key = text(bytes),
                    (2, wire) => value = Some(decode_element(field, wire, depth)?),
                    _ => {}
                }
            }
            let slot = object.entry(field.json).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(map) = slot {
                let zero = || match field.base {
                    // As Go reads it: empty rather than nil.
                    Base::Scalar(Scalar::Bytes) => Value::String(String::new()),
                    _ => canonical::zero(Schema::Item(field)),
                };
                map.insert(key, value.unwrap_or_else(zero));
            }
        }
    }
    Ok(())
}

fn wrong_wire(field: &FieldFacts) -> DecodeError {
    broken(&format!("wrong wireType for field {}", field.json))
}

fn decode_element(field: &'static FieldFacts, wire: Wire<'_>, depth: usize) -> Result<Value, DecodeError> {
    match (field.base, field.message(), wire) {
        (Base::Message(_), Some(inner), Wire::Bytes(body)) => {
            let mut object = Map::new();
            decode_message(inner, body, &mut object, depth + 1)?;
            tidy(inner, &mut object);
            Ok(Value::Object(object))
        }
        (Base::Scalar(kind), _, wire) => decode_scalar(field, kind, wire, depth),
        _ => Err(wrong_wire(field)),
    }
}

fn tidy(facts: &'static TypeFacts, object: &mut Map<String, Value>) {
    canonical::finish(facts, object);
    if facts.is_object() {
        // The envelope of the outermost object carries these; nested objects never had them.
        object.remove("kind");
        object.remove("apiVersion");
    }
}

fn decode_scalar(
    field: &FieldFacts,
    kind: Scalar,
    wire: Wire<'_>,
    depth: usize,
) -> Result<Value, DecodeError> {
    match (kind, wire) {
        (Scalar::Bool, Wire::Number(n)) => Ok(Value::Bool(n != 0)),
        (Scalar::I32, Wire::Number(n)) => {
            let low = u32::try_from(n & 0xffff_ffff).expect("masked to 32 bits");
            Ok(Value::from(low.cast_signed()))
        }
        (Scalar::I64, Wire::Number(n)) => Ok(Value::from(n.cast_signed())),
        (Scalar::U8, Wire::Number(n)) => Ok(Value::from(n & 0xff)),
        (Scalar::F64, Wire::Number(n)) => Ok(whole_or_float(f64::from_bits(n))),
        (Scalar::Bool | Scalar::I32 | Scalar::I64 | Scalar::U8 | Scalar::F64, _) | (_, Wire::Number(_)) => {
            Err(wrong_wire(field))
        }
        (Scalar::Str, Wire::Bytes(body)) => Ok(Value::String(text(body))),
        (Scalar::Bytes, Wire::Bytes(body)) => Ok(Value::String(STANDARD.encode(body))),
        (_, Wire::Bytes(body)) => decode_special(kind, body, depth),
    }
}

fn whole_or_float(n: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if n.fract() == 0.0 && n.abs() < EXACT {
        #[expect(clippy::cast_possible_truncation, reason = "a whole number below 2^53 is an i64")]
        return Value::from(n as i64);
    }
    Value::from(n)
}

fn decode_special(kind: Scalar, body: &[u8], depth: usize) -> Result<Value, DecodeError> {
    let mut reader = Reader { bytes: body };
    let (mut numbers, mut blobs) = ([0u64; 4], Vec::new());
    while let Some((number, wire)) = reader.next()? {
        match wire {
            Wire::Number(n) if number < 4 => numbers[number as usize] = n,
            Wire::Bytes(bytes) => blobs.push((number, bytes)),
            Wire::Number(_) => {}
        }
    }
    let blob =
        |wanted: u32| blobs.iter().rev().find(|(number, _)| *number == wanted).map(|(_, bytes)| *bytes);
    Ok(match kind {
        Scalar::Quantity => {
            // Any spelling may come, and what is no quantity.
            let written = blob(1).map(text).filter(|t| !t.is_empty()).unwrap_or_else(|| "0".into());
            scalar::from_json(kind, Value::String(written), None).map_err(|error| match error {
                scalar::ScalarError::Message(message) => DecodeError::Proto { message },
                scalar::ScalarError::Mismatch { .. } => broken("not a quantity"),
            })?
        }
        Scalar::Time | Scalar::MicroTime if body.is_empty() => Value::Null,
        Scalar::Time | Scalar::MicroTime => decode_time(kind, numbers)?,
        Scalar::Duration => Value::String(scalar::format_duration(numbers[1].cast_signed())),
        Scalar::IntOrString if numbers[1] == 1 => Value::String(blob(3).map(text).unwrap_or_default()),
        Scalar::IntOrString => {
            let low = u32::try_from(numbers[2] & 0xffff_ffff).expect("masked to 32 bits");
            Value::from(low.cast_signed())
        }
        Scalar::Raw | Scalar::Json | Scalar::Fields => decode_embedded(blob(1).unwrap_or_default())?,
        Scalar::Unknown => decode_embedded(blob(2).unwrap_or_default())?,
        Scalar::Strs => texts(blobs.iter().filter(|(number, _)| *number == 1).map(|(_, body)| *body)),
        _ => decode_schema_or(kind, numbers, &blobs, depth)?,
    })
}

/// The first second of the year 0: RFC 3339 has no years before it.
const YEAR_ZERO: jiff::Timestamp = jiff::Timestamp::constant(-62_167_219_200, 0);

fn decode_time(kind: Scalar, numbers: [u64; 4]) -> Result<Value, DecodeError> {
    let outside = || broken("time out of range");
    let nanos = i32::try_from(numbers[2].cast_signed()).map_err(|_| outside())?;
    let time = jiff::Timestamp::new(numbers[1].cast_signed(), nanos).map_err(|_| outside())?;
    if time < YEAR_ZERO {
        return Err(outside());
    }
    Ok(Value::String(match kind {
        Scalar::MicroTime => api::time::format_micro(time),
        _ => api::time::format(time),
    }))
}

/// Embedded bytes: JSON, or an enveloped message.
fn decode_embedded(bytes: &[u8]) -> Result<Value, DecodeError> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    match bytes.starts_with(MAGIC) {
        true => decode_object(bytes).map(|(value, _)| value),
        false => json::decode_any(bytes).map(|decoded| decoded.value),
    }
}

fn decode_schema_or(
    kind: Scalar,
    numbers: [u64; 4],
    blobs: &[(u32, &[u8])],
    depth: usize,
) -> Result<Value, DecodeError> {
    let schema = |body: &[u8]| {
        let mut object = Map::new();
        decode_message(schema_props(), body, &mut object, depth + 1)?;
        tidy(schema_props(), &mut object);
        Ok(Value::Object(object))
    };
    let schema_number = if kind == Scalar::SchemaOrBool { 2 } else { 1 };
    if let Some((_, body)) = blobs.iter().rev().find(|(number, _)| *number == schema_number) {
        return schema(body);
    }
    let rest = blobs.iter().filter(|(number, _)| *number == 2).map(|(_, body)| *body);
    match kind {
        Scalar::SchemaOrBool => Ok(Value::Bool(numbers[1] != 0)),
        Scalar::SchemaOrArray => rest.map(schema).collect::<Result<_, _>>().map(Value::Array),
        _ => Ok(texts(rest)),
    }
}

/// Texts that stand by themselves: an empty list and none are the same on the wire, and read as none.
fn texts<'a>(bodies: impl Iterator<Item = &'a [u8]>) -> Value {
    let texts: Vec<Value> = bodies.map(|body| Value::String(text(body))).collect();
    if texts.is_empty() { Value::Null } else { Value::Array(texts) }
}
