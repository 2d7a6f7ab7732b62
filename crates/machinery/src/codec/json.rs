//! JSON text to a value, guided by a schema.
//!
//! One pass: syntax, types, duplicate and unknown fields (in document order, upstream's wording), pruning and
//! the canonical form. It must not know which schema is a custom resource's: those decode as [`Schema::Any`].

use std::borrow::Cow;

use serde_json::{Map, Number, Value};

use super::canonical;
use super::scalar::{self, ScalarError};
use super::{DecodeError, MAX_DEPTH, MAX_STRICT_ERRORS};
use crate::schema::{Base, FieldFacts, Scalar, Schema, Shape, Sort, TypeFacts};

/// A decoded value and what a strict reader would object to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Decoded {
    /// The value, canonical for built-in types; `null` for an empty document.
    pub value: Value,
    /// `unknown field "spec.foo"` and `duplicate field "spec.replicas"`, in document order, at most 100.
    pub strict_errors: Vec<String>,
}

/// Decodes JSON of a built-in type (or of anything with [`Schema::Any`]).
///
/// Unknown fields are dropped and reported; the last of duplicates wins and they are reported. The first type
/// error fails the whole, as upstream's decoder does.
pub fn decode(schema: Schema<'_>, bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let mut parser = Parser::new(bytes, true);
    let value = parser.document(schema)?;
    match parser.type_error {
        Some(message) => Err(DecodeError::Type { message }),
        None => Ok(Decoded { value, strict_errors: parser.strict_errors }),
    }
}

/// Holds a value (a patched object, say) against its schema as [`decode`] does text.
pub fn conform(schema: Schema<'_>, value: &Value) -> Result<Decoded, DecodeError> {
    let mut settled = value.clone();
    if settle(schema, &mut settled) {
        return Ok(Decoded { value: settled, strict_errors: Vec::new() });
    }
    decode(schema, &serde_json::to_vec(value).expect("a value tree is always JSON"))
}

/// Makes of a value what [`conform`] would, when nothing is wrong with it but fields that are not there and always
/// printed. Otherwise it is left as it is, and false. May give up on one that [`conform`] would have nothing to
/// object to.
pub fn settle(schema: Schema<'_>, value: &mut Value) -> bool {
    let mut lacks = false;
    let holds = canonical::holds(schema, value, 1, &mut lacks);
    if holds && lacks {
        canonical::complete(schema, value);
    }
    holds
}

/// Decodes any JSON, reporting duplicate fields.
pub fn decode_any(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    decode(Schema::Any, bytes)
}

enum Segment<'a> {
    Key(Cow<'a, str>),
    Index(usize),
}

struct Parser<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
    strict: bool,
    path: Vec<Segment<'a>>,
    /// Go names of the structs and fields being decoded, for type errors.
    go_fields: Vec<&'static str>,
    go_struct: &'static str,
    strict_errors: Vec<String>,
    type_error: Option<String>,
}

type Parsed<T> = Result<T, DecodeError>;

/// Which fields of an object were read: no type has more than 256.
#[derive(Default)]
struct Seen([u64; 4]);

impl Seen {
    /// Notes a field; true when it was noted before.
    fn again(&mut self, position: usize) -> bool {
        let (word, bit) = (position / 64 % 4, 1 << (position % 64));
        let before = self.0[word] & bit != 0;
        self.0[word] |= bit;
        before
    }
}

impl<'a> Parser<'a> {
    fn new(bytes: &'a [u8], strict: bool) -> Self {
        Parser {
            bytes,
            at: 0,
            depth: 0,
            strict,
            path: Vec::new(),
            go_fields: Vec::new(),
            go_struct: "",
            strict_errors: Vec::new(),
            type_error: None,
        }
    }

    fn document(&mut self, schema: Schema<'_>) -> Parsed<Value> {
        let value = self.value(schema)?;
        self.space();
        match self.bytes.get(self.at) {
            None => Ok(value),
            Some(_) => Err(self.unexpected("after top-level value")),
        }
    }

    // ---- lexing ----

    fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.bytes.get(self.at) {
            self.at += 1;
        }
    }

    fn peek(&mut self) -> Parsed<u8> {
        self.space();
        self.bytes.get(self.at).copied().ok_or_else(end_of_input)
    }

    fn unexpected(&self, context: &str) -> DecodeError {
        let Some(&byte) = self.bytes.get(self.at) else { return end_of_input() };
        let shown = match byte {
            b'\'' => "'\\''".to_string(),
            b'"' => "'\"'".to_string(),
            b'\n' => "'\\n'".to_string(),
            b'\t' => "'\\t'".to_string(),
            b'\r' => "'\\r'".to_string(),
            0x20..0x7f => format!("'{}'", char::from(byte)),
            0..0x80 => format!("'\\x{byte:02x}'"),
            _ => format!("'{}'", char::from(byte)),
        };
        DecodeError::Syntax { message: format!("invalid character {shown} {context}") }
    }

    fn enter(&mut self) -> Parsed<()> {
        self.depth += 1;
        match self.depth > MAX_DEPTH {
            true => Err(self.unexpected("exceeded max depth")),
            false => Ok(()),
        }
    }

    fn literal(&mut self, text: &'static str, value: Value) -> Parsed<Value> {
        for (done, expected) in text.bytes().enumerate() {
            match self.bytes.get(self.at) {
                Some(&byte) if byte == expected => self.at += 1,
                None => return Err(end_of_input()),
                Some(_) if done == 0 => return Err(self.unexpected("looking for beginning of value")),
                Some(_) => {
                    let context = format!("in literal {text} (expecting '{}')", char::from(expected));
                    return Err(self.unexpected(&context));
                }
            }
        }
        Ok(value)
    }

    /// The text of a number, checked against JSON's grammar.
    fn number(&mut self) -> Parsed<&'a str> {
        let start = self.at;
        if self.bytes.get(self.at) == Some(&b'-') {
            self.at += 1;
        }
        match self.bytes.get(self.at) {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            _ => return Err(self.unexpected("in numeric literal")),
        }
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            match self.bytes.get(self.at) {
                Some(b'0'..=b'9') => self.digits(),
                _ => return Err(self.unexpected("after decimal point in numeric literal")),
            }
        }
        if let Some(b'e' | b'E') = self.bytes.get(self.at) {
            self.at += 1;
            if let Some(b'+' | b'-') = self.bytes.get(self.at) {
                self.at += 1;
            }
            match self.bytes.get(self.at) {
                Some(b'0'..=b'9') => self.digits(),
                _ => return Err(self.unexpected("in exponent of numeric literal")),
            }
        }
        Ok(std::str::from_utf8(&self.bytes[start..self.at]).expect("digits and signs are ASCII"))
    }

    fn digits(&mut self) {
        while let Some(b'0'..=b'9') = self.bytes.get(self.at) {
            self.at += 1;
        }
    }

    /// A string; invalid UTF-8 and lone surrogates become U+FFFD, as in Go.
    fn string(&mut self) -> Parsed<Cow<'a, str>> {
        self.at += 1;
        let start = self.at;
        loop {
            match self.bytes.get(self.at) {
                None => return Err(end_of_input()),
                Some(b'"') => {
                    let text = String::from_utf8_lossy(&self.bytes[start..self.at]);
                    self.at += 1;
                    return Ok(text);
                }
                Some(b'\\') => break,
                Some(0..0x20) => return Err(self.unexpected("in string literal")),
                Some(_) => self.at += 1,
            }
        }
        let mut out = self.bytes[start..self.at].to_vec();
        loop {
            match self.bytes.get(self.at) {
                None => return Err(end_of_input()),
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Cow::Owned(match String::from_utf8(out) {
                        Ok(text) => text,
                        Err(broken) => String::from_utf8_lossy(broken.as_bytes()).into_owned(),
                    }));
                }
                Some(b'\\') => self.escape(&mut out)?,
                Some(0..0x20) => return Err(self.unexpected("in string literal")),
                Some(&byte) => {
                    out.push(byte);
                    self.at += 1;
                }
            }
        }
    }

    fn escape(&mut self, out: &mut Vec<u8>) -> Parsed<()> {
        self.at += 1;
        let byte = match self.bytes.get(self.at) {
            None => return Err(end_of_input()),
            Some(b'"') => b'"',
            Some(b'\\') => b'\\',
            Some(b'/') => b'/',
            Some(b'b') => 8,
            Some(b'f') => 12,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'u') => return self.unicode(out),
            Some(_) => return Err(self.unexpected("in string escape code")),
        };
        self.at += 1;
        out.push(byte);
        Ok(())
    }

    fn unicode(&mut self, out: &mut Vec<u8>) -> Parsed<()> {
        self.at += 1;
        let first = self.hex4()?;
        let mut code = u32::from(first);
        if (0xd800..0xdc00).contains(&code) && self.bytes[self.at..].starts_with(b"\\u") {
            let back = self.at;
            self.at += 2;
            let second = u32::from(self.hex4()?);
            if (0xdc00..0xe000).contains(&second) {
                code = 0x10000 + ((code - 0xd800) << 10) + (second - 0xdc00);
            } else {
                self.at = back;
            }
        }
        let shown = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
        out.extend_from_slice(shown.encode_utf8(&mut [0; 4]).as_bytes());
        Ok(())
    }

    fn hex4(&mut self) -> Parsed<u16> {
        let mut code = 0u16;
        for _ in 0..4 {
            let digit = match self.bytes.get(self.at) {
                None => return Err(end_of_input()),
                Some(byte) => char::from(*byte).to_digit(16),
            };
            let Some(digit) = digit else {
                return Err(self.unexpected("in \\u hexadecimal character escape"));
            };
            code = (code << 4) | u16::try_from(digit).expect("one hexadecimal digit");
            self.at += 1;
        }
        Ok(code)
    }

    // ---- errors a strict reader reports ----

    fn strict_error(&mut self, what: &str, key: &str) {
        if !self.strict || self.strict_errors.len() >= MAX_STRICT_ERRORS {
            return;
        }
        let mut path = String::new();
        for segment in &self.path {
            match segment {
                Segment::Key(key) => {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(key);
                }
                Segment::Index(index) => path.push_str(&format!("[{index}]")),
            }
        }
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(key);
        let message = format!("{what} field {}", scalar::go_quote(&path));
        if !self.strict_errors.contains(&message) {
            self.strict_errors.push(message);
        }
    }

    fn mismatch(&mut self, found: &str, go_type: &str) {
        if self.type_error.is_none() {
            self.type_error = Some(self.mismatch_text(found, go_type));
        }
    }

    fn mismatch_text(&self, found: &str, go_type: &str) -> String {
        match self.go_struct {
            "" => format!("json: cannot unmarshal {found} into Go value of type {go_type}"),
            name => format!(
                "json: cannot unmarshal {found} into Go struct field {name}.{} of type {go_type}",
                self.go_fields.join(".")
            ),
        }
    }

    // ---- values ----

    fn value(&mut self, schema: Schema<'_>) -> Parsed<Value> {
        let first = self.peek()?;
        match schema.sort() {
            Sort::Any => self.any(first),
            Sort::Object | Sort::Map if first == b'{' => self.object(schema),
            Sort::List if first == b'[' => self.array(schema),
            Sort::Scalar(kind) => self.scalar(kind, schema),
            _ if first == b'n' => self.literal("null", Value::Null),
            _ => {
                let found = self.skip_described()?;
                self.mismatch(&found, &go_type(schema));
                Ok(Value::Null)
            }
        }
    }

    fn any(&mut self, first: u8) -> Parsed<Value> {
        match first {
            b'{' => self.object(Schema::Any),
            b'[' => self.array(Schema::Any),
            b'"' => Ok(Value::String(self.string()?.into_owned())),
            b't' => self.literal("true", Value::Bool(true)),
            b'f' => self.literal("false", Value::Bool(false)),
            b'n' => self.literal("null", Value::Null),
            b'-' | b'0'..=b'9' => {
                let text = self.number()?;
                Ok(untyped_number(text).unwrap_or_else(|| {
                    self.mismatch(&format!("number {text}"), "float64");
                    Value::Null
                }))
            }
            _ => Err(self.unexpected("looking for beginning of value")),
        }
    }

    /// Parses a value whose type is wrong and names it as Go does.
    fn skip_described(&mut self) -> Parsed<String> {
        let first = self.peek()?;
        let strict = std::mem::replace(&mut self.strict, false);
        let value = self.any(first);
        self.strict = strict;
        Ok(match value? {
            Value::Object(_) => "object",
            Value::Array(_) => "array",
            Value::String(_) => "string",
            Value::Bool(_) => "bool",
            _ => "number",
        }
        .to_string())
    }

    fn array(&mut self, schema: Schema<'_>) -> Parsed<Value> {
        self.enter()?;
        self.at += 1;
        let item = schema.item();
        let keep_null = matches!(item.sort(), Sort::Any);
        let mut out = Vec::new();
        if self.peek()? == b']' {
            self.at += 1;
        } else {
            loop {
                if let Schema::Field(field) = schema
                    && super::is_full(field, out.len())
                {
                    return Err(DecodeError::Syntax { message: super::too_many(field) });
                }
                self.path.push(Segment::Index(out.len()));
                let mut value = match schema {
                    Schema::Field(FieldFacts { base: Base::Scalar(Scalar::Strs), .. }) => {
                        self.string_item()?
                    }
                    Schema::Item(_) => self.string_item()?,
                    _ => self.value(item)?,
                };
                if value.is_null() && !keep_null {
                    value = canonical::zero(item);
                }
                out.push(value);
                self.path.pop();
                match self.peek()? {
                    b',' => self.at += 1,
                    b']' => {
                        self.at += 1;
                        break;
                    }
                    _ => return Err(self.unexpected("after array element")),
                }
            }
        }
        self.depth -= 1;
        Ok(Value::Array(out))
    }

    fn string_item(&mut self) -> Parsed<Value> {
        match self.peek()? {
            b'"' => Ok(Value::String(self.string()?.into_owned())),
            b'n' => self.literal("null", Value::String(String::new())),
            _ => {
                let found = self.skip_described()?;
                self.mismatch(&found, "string");
                Ok(Value::String(String::new()))
            }
        }
    }

    fn object(&mut self, schema: Schema<'_>) -> Parsed<Value> {
        self.enter()?;
        self.at += 1;
        let facts = schema.object_type();
        let mut out = Map::new();
        let outer = (self.go_struct, self.go_fields.len());
        let mut seen = Seen::default();
        if self.peek()? == b'}' {
            self.at += 1;
        } else {
            loop {
                self.member(schema, facts, &mut seen, &mut out)?;
                self.go_struct = outer.0;
                self.go_fields.truncate(outer.1);
                match self.peek()? {
                    b',' => self.at += 1,
                    b'}' => {
                        self.at += 1;
                        break;
                    }
                    _ => return Err(self.unexpected("after object key:value pair")),
                }
            }
        }
        self.depth -= 1;
        if let Some(facts) = facts {
            canonical::add_printed(facts, &mut out);
        }
        Ok(Value::Object(out))
    }

    fn member(
        &mut self,
        schema: Schema<'_>,
        facts: Option<&'static TypeFacts>,
        seen: &mut Seen,
        out: &mut Map<String, Value>,
    ) -> Parsed<()> {
        if self.peek()? != b'"' {
            return Err(self.unexpected("looking for beginning of object key string"));
        }
        let key = self.string()?;
        if self.peek()? != b':' {
            return Err(self.unexpected("after object key"));
        }
        self.at += 1;
        let Some(facts) = facts else {
            let inner = schema.field(&key).unwrap_or(Schema::Any);
            return self.map_entry(inner, key, out);
        };
        let Some(position) = facts.position(&key) else {
            self.strict_error("unknown", &key);
            let strict = std::mem::replace(&mut self.strict, false);
            let first = self.peek()?;
            let skipped = self.any(first);
            self.strict = strict;
            return skipped.map(|_| ());
        };
        let flat = &facts.flat()[position];
        if seen.again(position) {
            self.strict_error("duplicate", &key);
            out.remove(key.as_ref());
        }
        self.go_struct = facts.go_name;
        self.go_fields.extend(&flat.embeds);
        self.go_fields.push(flat.field.json);
        self.path.push(Segment::Key(Cow::Borrowed(flat.field.json)));
        let value = self.value(Schema::Field(flat.field))?;
        self.path.pop();
        if !canonical::omitted(flat.field, &value) {
            out.insert(key.into_owned(), value);
        }
        Ok(())
    }

    fn map_entry(
        &mut self,
        schema: Schema<'_>,
        key: Cow<'a, str>,
        out: &mut Map<String, Value>,
    ) -> Parsed<()> {
        if out.contains_key(key.as_ref()) {
            self.strict_error("duplicate", &key);
        }
        self.path.push(Segment::Key(key.clone()));
        let mut value = self.value(schema)?;
        self.path.pop();
        if value.is_null() && !matches!(schema.sort(), Sort::Any) {
            value = canonical::zero(schema);
        }
        out.insert(key.into_owned(), value);
        Ok(())
    }

    fn scalar(&mut self, kind: Scalar, schema: Schema<'_>) -> Parsed<Value> {
        let first = self.peek()?;
        if first == b'n' {
            return self.literal("null", Value::Null);
        }
        match (kind, first) {
            (Scalar::Str, b'"') => return Ok(Value::String(self.string()?.into_owned())),
            (Scalar::Bool, b't') => return self.literal("true", Value::Bool(true)),
            (Scalar::Bool, b'f') => return self.literal("false", Value::Bool(false)),
            (Scalar::I32 | Scalar::I64 | Scalar::U8 | Scalar::F64, b'-' | b'0'..=b'9') => {
                return self.typed_number(kind, schema);
            }
            _ => {}
        }
        let number_text = match first {
            b'-' | b'0'..=b'9' => {
                let start = self.at;
                let text = self.number()?;
                self.at = start;
                Some(text)
            }
            _ => None,
        };
        let schema_inside = match kind {
            Scalar::SchemaOrArray | Scalar::SchemaOrBool | Scalar::SchemaOrStrings if first == b'{' => {
                schema_props()
            }
            _ => None,
        };
        let inside = match schema_inside {
            Some(facts) => Some(Schema::Type(facts)),
            None if kind == Scalar::SchemaOrArray && first == b'[' => None,
            None => return self.leaf_value(kind, schema, first, number_text),
        };
        // Upstream reads these by themselves, and not strictly.
        let strict = std::mem::take(&mut self.strict);
        let value = match inside {
            Some(schema) => self.value(schema),
            None => self.schema_list(),
        };
        self.strict = strict;
        value
    }

    fn leaf_value(
        &mut self,
        kind: Scalar,
        schema: Schema<'_>,
        first: u8,
        number_text: Option<&str>,
    ) -> Parsed<Value> {
        let value = self.any(first)?;
        match scalar::from_json(kind, value, number_text) {
            Ok(value) => Ok(value),
            Err(ScalarError::Mismatch { found, go_type: fallback }) => {
                let wanted = match fallback {
                    Some(name) => name.to_string(),
                    None => go_type(schema),
                };
                self.mismatch(&found, &wanted);
                Ok(Value::Null)
            }
            Err(ScalarError::Message(message)) => Err(DecodeError::Type { message }),
        }
    }

    fn schema_list(&mut self) -> Parsed<Value> {
        self.enter()?;
        self.at += 1;
        let mut out = Vec::new();
        while self.peek()? != b']' {
            out.push(self.value(schema_props().map_or(Schema::Any, Schema::Type))?);
            match self.peek()? {
                b',' => self.at += 1,
                b']' => {}
                _ => return Err(self.unexpected("after array element")),
            }
        }
        self.at += 1;
        self.depth -= 1;
        Ok(Value::Array(out))
    }

    fn typed_number(&mut self, kind: Scalar, schema: Schema<'_>) -> Parsed<Value> {
        let text = self.number()?;
        let value = match kind {
            Scalar::I32 => text.parse::<i32>().ok().map(Value::from),
            Scalar::I64 => text.parse::<i64>().ok().map(Value::from),
            Scalar::U8 => text.parse::<u8>().ok().map(Value::from),
            _ => text.parse::<f64>().ok().filter(|n| n.is_finite()).and_then(float),
        };
        Ok(value.unwrap_or_else(|| {
            self.mismatch(&format!("number {text}"), &go_type(schema));
            Value::Null
        }))
    }
}

fn end_of_input() -> DecodeError {
    DecodeError::Syntax { message: "unexpected end of JSON input".to_string() }
}

fn schema_props() -> Option<&'static TypeFacts> {
    crate::schema::facts().by_name("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps")
}

/// A number in an untyped place: an int64 when it is written as one and fits, else a double.
fn untyped_number(text: &str) -> Option<Value> {
    if !text.contains('.')
        && let Ok(n) = text.parse::<i64>()
    {
        return Some(Value::from(n));
    }
    text.parse::<f64>().ok().filter(|n| n.is_finite()).and_then(float)
}

/// Go prints a whole double without a fraction, so a whole one is held as an integer.
fn float(n: f64) -> Option<Value> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if n.fract() == 0.0 && n.abs() < EXACT {
        #[expect(clippy::cast_possible_truncation, reason = "a whole number below 2^53 is an i64")]
        return Some(Value::from(n as i64));
    }
    Number::from_f64(n).map(Value::Number)
}

/// Fields whose lists or maps have names in Go, or whose keys do: type, field, name.
const NAMED: &[(&str, &str, &str)] = &[
    ("api.resource.v1.CapacityRequirements", "requests", "map[v1.QualifiedName]resource.Quantity"),
    (
        "api.resource.v1.DeviceRequestAllocationResult",
        "consumedCapacity",
        "map[v1.QualifiedName]resource.Quantity",
    ),
    ("api.resource.v1.Device", "attributes", "map[v1.QualifiedName]v1.DeviceAttribute"),
    ("api.resource.v1.Device", "capacity", "map[v1.QualifiedName]v1.DeviceCapacity"),
    (
        "api.resource.v1.Device",
        "nodeAllocatableResourceMappings",
        "map[v1.ResourceName]v1.NodeAllocatableResourceMapping",
    ),
    ("api.authorization.v1.SubjectAccessReviewSpec", "extra", "map[string]v1.ExtraValue"),
    (JSON_SCHEMA, "definitions", "v1.JSONSchemaDefinitions"),
    (JSON_SCHEMA, "dependencies", "v1.JSONSchemaDependencies"),
    (JSON_SCHEMA, "x-kubernetes-validations", "v1.ValidationRules"),
];

const JSON_SCHEMA: &str = "apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";

fn named_type(field: &'static FieldFacts) -> Option<&'static str> {
    let is = |(owner, name, _): &&(&str, &str, &str)| {
        *name == field.json
            && crate::schema::facts()
                .by_name(&format!("io.k8s.{owner}"))
                .and_then(|facts| facts.field(name))
                .is_some_and(|own| std::ptr::eq(own, field))
    };
    NAMED.iter().find(is).map(|row| row.2)
}

/// Maps whose keys are the names of resources, as Go has them, beside those of its `ResourceList`.
const BY_RESOURCE: [&str; 2] = ["allocatedResourceStatuses", "resources"];

/// The Go type a place has, for error messages.
fn go_type(schema: Schema<'_>) -> String {
    let element = |field: &'static FieldFacts| match field.base {
        Base::Message(_) => {
            field.message().map_or(String::new(), |t| format!("{}.{}", t.go_package, t.go_name))
        }
        // Maps of these are what users know besides.
        Base::Scalar(Scalar::Strs) if field.shape == Shape::Map => "v1.ExtraValue".to_string(),
        Base::Scalar(scalar) => field.go_type.unwrap_or(scalar::go_type(scalar)).to_string(),
    };
    if let Schema::Field(field) = schema
        && let Some(name) = named_type(field)
    {
        return name.to_owned();
    }
    if let Schema::Item(field) = schema
        && let Some(element) = named_type(field).and_then(|name| name.strip_prefix("map[string]"))
    {
        return element.to_owned();
    }
    match schema {
        Schema::Field(field) if field.shape == Shape::Map && BY_RESOURCE.contains(&field.json) => {
            format!("map[v1.ResourceName]{}", element(field))
        }
        // The one map that Go has a name for.
        Schema::Field(field)
            if field.shape == Shape::Map
                && matches!(field.base, Base::Scalar(Scalar::Quantity))
                && field.go_type.is_none() =>
        {
            "v1.ResourceList".to_string()
        }
        Schema::Field(field) => match field.shape {
            Shape::One => element(field),
            Shape::List => format!("[]{}", element(field)),
            Shape::Map => format!("map[string]{}", element(field)),
        },
        Schema::Item(field) => element(field),
        Schema::Type(facts) => format!("{}.{}", facts.go_package, facts.go_name),
        Schema::Any | Schema::Node(_) => "interface {}".to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::facts;

    fn schema(kind: &str) -> Schema<'static> {
        let name = format!("io.k8s.api.{kind}");
        Schema::Type(facts().by_name(&name).expect("a known type"))
    }

    #[test]
    fn strict_errors_are_in_document_order_and_upstream_words() {
        let text = br#"{"kind":"Deployment","apiVersion":"apps/v1","spec":{"unknownField":{"x":1,"x":2},
            "replicas":1,"replicas":2,"template":{"spec":{"containers":[{"name":"a","foo":1,"name":"b"}]}},
            "selector":{"matchLabels":{"a":"b","a":"c"}}}}"#;
        let decoded = decode(schema("apps.v1.Deployment"), text).expect("decodes");
        assert_eq!(
            decoded.strict_errors,
            [
                "unknown field \"spec.unknownField\"",
                "duplicate field \"spec.replicas\"",
                "unknown field \"spec.template.spec.containers[0].foo\"",
                "duplicate field \"spec.template.spec.containers[0].name\"",
                "duplicate field \"spec.selector.matchLabels.a\"",
            ]
        );
        assert_eq!(decoded.value["spec"]["replicas"], json!(2));
        assert_eq!(decoded.value["spec"].get("unknownField"), None);
        assert_eq!(decoded.value["spec"]["strategy"], json!({}));
        assert_eq!(decoded.value["status"], json!({}));
    }

    #[test]
    fn what_conforms_is_what_decoding_leaves_alone() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {"a": "b"},
            "creationTimestamp": "2026-01-02T03:04:05Z", "managedFields": [{"manager": "m", "operation": "Update",
                "apiVersion": "v1", "time": "2026-01-02T03:04:05Z", "fieldsType": "FieldsV1",
                "fieldsV1": {"f:spec": {"k:{\"name\":\"c\"}": {".": {}}}}}]},
            "spec": {"containers": [{"name": "c", "image": "i", "args": ["x"],
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "resources": {"limits": {"cpu": "500m"}},
                "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 10}}]},
            "status": {"conditions": [{"type": "Ready", "status": "True", "lastProbeTime": null,
                "lastTransitionTime": "2026-01-02T03:04:05Z"}]}});
        let cases: &[(&str, Value, bool)] = &[
            ("", json!(null), true),
            ("/metadata/name", json!(1), false),
            ("/metadata/name", json!(""), false),
            ("/metadata/labels", json!({}), false),
            ("/metadata/labels/a", json!(null), false),
            ("/metadata/creationTimestamp", json!("2026-01-02T03:04:05.5Z"), false),
            ("/spec/unknown", json!(1), false),
            ("/spec/hostNetwork", json!(false), false),
            ("/spec/hostNetwork", json!(true), true),
            ("/spec/activeDeadlineSeconds", json!(1.5), false),
            ("/spec/containers/0/args/0", json!(null), false),
            ("/spec/containers/0/ports/0/containerPort", json!(1u64 << 40), false),
            ("/spec/containers/0/resources/limits/cpu", json!("0.5"), false),
            ("/spec/containers/0/resources/limits/cpu", json!(2), false),
            ("/spec/containers/0/readinessProbe/httpGet/port", json!(8080), true),
            ("/spec/containers/0/readinessProbe/httpGet/port", json!(true), false),
            ("/status/conditions/0/lastProbeTime", json!("x"), false),
            ("/metadata/managedFields/0/fieldsV1/f:x", json!(u64::MAX), false),
            // What is always printed may lack.
            ("/status/conditions/0", json!({"type": "Ready", "status": "True"}), true),
            ("/spec/containers/0", json!({"name": "d", "ports": [{"hostPort": 80}]}), true),
            ("/status", json!({"containerStatuses": [{"name": "d"}]}), true),
            ("/spec", json!({}), true),
            ("/spec", json!({"containers": [{"name": "d"}, {"name": "", "x": 1}]}), false),
        ];
        for (at, value, expect) in cases {
            let mut object = pod.clone();
            if let Some((parent, name)) = at.rsplit_once('/') {
                let parent = object.pointer_mut(parent).expect("it is there");
                match name.parse::<usize>() {
                    Ok(index) => parent[index] = value.clone(),
                    Err(_) => parent[name] = value.clone(),
                }
            }
            let (text, before) =
                (serde_json::to_vec(&object).expect("a tree is always JSON"), object.clone());
            assert_eq!(settle(schema("core.v1.Pod"), &mut object), *expect, "{at} {value}");
            assert!(*expect || object == before, "{at} {value}");
            let decoded = decode(schema("core.v1.Pod"), &text);
            let same = decoded.is_ok_and(|d| d.value == object && d.strict_errors.is_empty());
            assert!(same || !expect, "{at} {value}");
        }
    }

    #[test]
    fn type_errors_are_in_upstream_words() {
        for (kind, text, expect) in [
            (
                "apps.v1.Deployment",
                r#"{"spec":{"replicas":"3"}}"#,
                "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
            ),
            (
                "apps.v1.Deployment",
                r#"{"spec":{"replicas":1.5}}"#,
                "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
            ),
            (
                "core.v1.Pod",
                r#"{"spec":{"containers":{}}}"#,
                "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container",
            ),
            (
                "core.v1.Pod",
                r#"{"metadata":{"labels":{"a":1}}}"#,
                "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
            ),
            ("core.v1.Pod", r#"{"spec":"#, "unexpected end of JSON input"),
            ("core.v1.Pod", r#"{"spec":x"#, "invalid character 'x' looking for beginning of value"),
            (
                "core.v1.Pod",
                r#"{"spec":{"containers":[{"resources":{"limits":{"cpu":"x"}}}]}}"#,
                "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
            ),
        ] {
            let error = decode(schema(kind), text.as_bytes()).expect_err("refused").to_string();
            assert_eq!(error, expect, "{text}");
        }
    }

    #[test]
    fn values_become_canonical() {
        for (kind, text, expect) in [
            (
                "core.v1.Pod",
                r#"{"metadata":{"name":"a","creationTimestamp":null,"labels":{}},"spec":{"containers":[{"name":"c","resources":{"limits":{"cpu":"1000m","memory":1024}},"tty":false,"command":null}],"hostNetwork":false,"priority":0}}"#,
                json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "1", "memory": "1024"}}}], "priority": 0}, "status": {}}),
            ),
            (
                "core.v1.Secret",
                r#"{"data":{"a":"Zm9v\nYmFy","b":null}}"#,
                json!({"metadata": {}, "data": {"a": "Zm9vYmFy", "b": null}}),
            ),
            ("rbac.v1.Role", r#"{}"#, json!({"metadata": {}, "rules": null})),
            (
                "core.v1.PodCondition",
                r#"{"type":"Ready","lastTransitionTime":"2030-01-01T01:00:00+01:00"}"#,
                json!({"type": "Ready", "status": "", "lastProbeTime": null, "lastTransitionTime": "2030-01-01T00:00:00Z"}),
            ),
        ] {
            let got = decode(schema(kind), text.as_bytes()).expect("decodes").value;
            assert_eq!(got, expect, "{text}");
        }
    }

    #[test]
    fn odd_json_reads_as_in_go() {
        for (text, expect) in [
            (r#""\ud800x""#, Ok(json!("\u{fffd}x"))),
            (r#""\ud83d\ude00""#, Ok(json!("\u{1f600}"))),
            ("1.0", Ok(json!(1))),
            ("1e2", Ok(json!(100))),
            ("12345678901234567890", Ok(json!(12345678901234567890_f64))),
            ("01", Err("invalid character '1' after top-level value")),
            ("[1,]", Err("invalid character ']' looking for beginning of value")),
            ("", Err("unexpected end of JSON input")),
            ("tru", Err("unexpected end of JSON input")),
            ("nulx", Err("invalid character 'x' in literal null (expecting 'l')")),
        ] {
            let got = decode_any(text.as_bytes()).map(|d| d.value).map_err(|e| e.to_string());
            assert_eq!(got, expect.map_err(str::to_string), "{text}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(
            decode_any(deep.as_bytes()).expect_err("too deep").to_string(),
            "invalid character '[' exceeded max depth"
        );
    }
}
