//! The values of expressions. JSON is referred to, never copied, until a leaf is needed.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::EvalError;
use crate::schema::structural::NodeKind;
use crate::schema::{Base, Scalar, Schema, Shape, Sort};

/// What the embedder adds: an object with fields or methods of its own (`variables`, `authorizer`).
pub trait Host<'v> {
    /// The type's name in messages.
    fn type_name(&self) -> String;
    /// A field; `None` when there is none.
    fn select(&self, field: &str, budget: &mut super::Budget) -> Option<Result<Val<'v>, EvalError>>;
    /// A method; `None` when there is none.
    fn call(
        &self,
        name: &str,
        args: &[Val<'v>],
        budget: &mut super::Budget,
    ) -> Option<Result<Val<'v>, EvalError>>;
}

/// A value.
#[derive(Clone)]
pub enum Val<'v> {
    /// null
    Null,
    /// bool
    Bool(bool),
    /// int
    Int(i64),
    /// uint
    Uint(u64),
    /// double
    Double(f64),
    /// string
    Str(Cow<'v, str>),
    /// bytes
    Bytes(Rc<Vec<u8>>),
    /// A list made by the expression.
    List(Rc<Vec<Val<'v>>>),
    /// A map made by the expression, in order of insertion.
    Map(Rc<Vec<(Val<'v>, Val<'v>)>>),
    /// A list or object of the input.
    Json(&'v Value, Schema<'v>),
    /// Nanoseconds.
    Duration(i64),
    /// timestamp
    Timestamp(Timestamp),
    /// A type, by name.
    Type(String),
    /// optional_type
    Optional(Option<Box<Val<'v>>>),
    /// An object built by the expression: type name and fields.
    Object(Rc<(String, Vec<(String, Val<'v>)>)>),
    /// kubernetes.Quantity
    Quantity(Rc<api::Quantity>),
    /// net.IP
    Ip(IpAddr),
    /// net.CIDR: address and prefix length.
    Cidr(IpAddr, u8),
    /// kubernetes.URL
    Url(Rc<str>),
    /// kubernetes.NamedFormat
    Format(&'static str),
    /// kubernetes.Semver: major, minor, patch, pre-release, build.
    Semver(Rc<(u64, u64, u64, String)>),
    /// An object of the embedder.
    Host(Rc<dyn Host<'v> + 'v>),
}

impl fmt::Debug for Val<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_json() {
            Some(json) => write!(f, "{}({json})", self.type_name()),
            None => f.write_str(&self.type_name()),
        }
    }
}

impl<'v> Val<'v> {
    /// A place in the input.
    pub fn json(value: &'v Value, schema: Schema<'v>) -> Val<'v> {
        match value {
            Value::Null => Val::Null,
            Value::Bool(set) => Val::Bool(*set),
            Value::Number(n) => match (n.as_i64(), n.as_f64()) {
                (Some(n), Some(float)) if wants_double(schema) => {
                    let _ = n;
                    Val::Double(float)
                }
                (Some(n), _) => Val::Int(n),
                (None, float) => Val::Double(float.unwrap_or(f64::NAN)),
            },
            Value::String(text) => string(text, schema),
            Value::Array(_) | Value::Object(_) => Val::Json(value, schema),
        }
    }

    /// A string.
    pub fn string(text: impl Into<Cow<'v, str>>) -> Val<'v> {
        Val::Str(text.into())
    }

    /// A semantic version; `None` when the text is none.
    pub fn semver(text: &str) -> Option<Val<'v>> {
        super::extensions::parse_semver(text, false).map(|version| Val::Semver(Rc::new(version)))
    }

    pub(super) fn list(items: Vec<Val<'v>>) -> Val<'v> {
        Val::List(Rc::new(items))
    }

    /// The type's name.
    pub fn type_name(&self) -> String {
        match self {
            Val::Null => "null_type",
            Val::Bool(_) => "bool",
            Val::Int(_) => "int",
            Val::Uint(_) => "uint",
            Val::Double(_) => "double",
            Val::Str(_) => "string",
            Val::Bytes(_) => "bytes",
            Val::List(_) | Val::Json(Value::Array(_), _) => "list",
            Val::Map(_) => "map",
            Val::Json(..) => "map",
            Val::Duration(_) => "google.protobuf.Duration",
            Val::Timestamp(_) => "google.protobuf.Timestamp",
            Val::Type(_) => "type",
            Val::Optional(_) => "optional_type",
            Val::Object(object) => return object.0.clone(),
            Val::Quantity(_) => "kubernetes.Quantity",
            Val::Ip(_) => "net.IP",
            Val::Cidr(..) => "net.CIDR",
            Val::Url(_) => "kubernetes.URL",
            Val::Format(_) => "kubernetes.NamedFormat",
            Val::Semver(_) => "kubernetes.Semver",
            Val::Host(host) => return host.type_name(),
        }
        .to_string()
    }

    /// What is wrong with the types inside an object that the expression built: below the field `spec` of an
    /// `Object` there may only be an `Object.spec`.
    pub fn misplaced(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if let Val::Object(object) = self {
            self.place_types(&object.0, &mut wrong);
        }
        wrong
    }

    fn place_types(&self, place: &str, wrong: &mut Vec<String>) {
        match self {
            Val::Object(object) => {
                if object.0 != place {
                    wrong.push(format!(
                        "unexpected type name {:?}, expected {place:?}, which matches field name path from root Object type",
                        object.0
                    ));
                }
                for (field, value) in &object.1 {
                    value.place_types(&format!("{place}.{field}"), wrong);
                }
            }
            Val::List(items) => items.iter().for_each(|item| item.place_types(place, wrong)),
            Val::Map(entries) => entries.iter().for_each(|(_, value)| value.place_types(place, wrong)),
            _ => {}
        }
    }

    /// The elements of a list.
    pub fn items(&self) -> Option<Vec<Val<'v>>> {
        match self {
            Val::List(items) => Some(items.to_vec()),
            Val::Json(Value::Array(items), schema) => {
                Some(items.iter().map(|item| Val::json(item, schema.item())).collect())
            }
            _ => None,
        }
    }

    /// The entries of a map. Fields of objects are escaped as identifiers have to be.
    pub(super) fn entries(&self) -> Option<Vec<(Val<'v>, Val<'v>)>> {
        match self {
            Val::Map(entries) => Some(entries.to_vec()),
            Val::Json(Value::Object(map), schema) => {
                let entry = |(key, value): (&'v String, &'v Value)| {
                    let place = schema.field(key).unwrap_or(Schema::Any);
                    (Val::string(key.as_str()), Val::json(value, place))
                };
                Some(map.iter().map(entry).collect())
            }
            _ => None,
        }
    }

    /// Number of elements or entries.
    pub(super) fn count(&self) -> Option<usize> {
        match self {
            Val::List(items) => Some(items.len()),
            Val::Map(entries) => Some(entries.len()),
            Val::Json(Value::Array(items), _) => Some(items.len()),
            Val::Json(Value::Object(map), _) => Some(map.len()),
            _ => None,
        }
    }

    /// A map's value or an object's field, by name.
    pub(super) fn get(&self, name: &str) -> Option<Val<'v>> {
        match self {
            Val::Json(Value::Object(map), schema) => {
                let key = unescape(name);
                let value = map.get(key.as_ref()).or_else(|| map.get(name))?;
                // A null in an object means that the field is not set.
                let object = matches!(schema.sort(), Sort::Object);
                if value.is_null() && object {
                    return None;
                }
                Some(Val::json(value, schema.field(&key).unwrap_or(Schema::Any)))
            }
            Val::Map(entries) => entries
                .iter()
                .find(|(key, _)| matches!(key, Val::Str(k) if k == name))
                .map(|(_, v)| v.clone()),
            Val::Object(object) => object.1.iter().find(|(key, _)| key == name).map(|(_, v)| v.clone()),
            _ => None,
        }
    }

    /// The value as JSON; `None` for what has no such form.
    pub fn to_json(&self) -> Option<Value> {
        Some(match self {
            Val::Null => Value::Null,
            Val::Bool(set) => Value::Bool(*set),
            Val::Int(n) => Value::from(*n),
            Val::Uint(n) => Value::from(*n),
            Val::Double(n) => Value::from(*n),
            Val::Str(text) => Value::String(text.to_string()),
            Val::Bytes(bytes) => {
                use base64::Engine as _;
                Value::String(base64::engine::general_purpose::STANDARD.encode(bytes.as_slice()))
            }
            Val::List(items) => Value::Array(items.iter().map(Val::to_json).collect::<Option<_>>()?),
            Val::Map(entries) => {
                let entry = |(key, value): &(Val<'v>, Val<'v>)| Some((key_text(key)?, value.to_json()?));
                Value::Object(entries.iter().map(entry).collect::<Option<_>>()?)
            }
            Val::Json(value, _) => (*value).clone(),
            Val::Duration(nanos) => Value::String(crate::codec::scalar::format_duration(*nanos)),
            Val::Timestamp(time) => Value::String(time.to_string()),
            Val::Optional(Some(inner)) => inner.to_json()?,
            Val::Optional(None) => Value::Null,
            Val::Object(object) => {
                let mut map = Map::new();
                for (name, value) in &object.1 {
                    map.insert(unescape(name).into_owned(), value.to_json()?);
                }
                Value::Object(map)
            }
            Val::Quantity(quantity) => Value::String(quantity.to_string()),
            Val::Ip(ip) => Value::String(ip.to_string()),
            Val::Cidr(ip, bits) => Value::String(format!("{ip}/{bits}")),
            Val::Url(url) => Value::String(url.to_string()),
            Val::Semver(version) => {
                let (major, minor, patch, pre) = &**version;
                let dash = if pre.is_empty() { "" } else { "-" };
                Value::String(format!("{major}.{minor}.{patch}{dash}{pre}"))
            }
            Val::Type(_) | Val::Format(_) | Val::Host(_) => return None,
        })
    }

    /// The same value without the input: what an expression hands out.
    pub fn equals(&self, other: &Val<'v>) -> bool {
        match (self, other) {
            (Val::Null, Val::Null) => true,
            (Val::Bool(a), Val::Bool(b)) => a == b,
            (Val::Str(a), Val::Str(b)) => a == b,
            (Val::Bytes(a), Val::Bytes(b)) => a == b,
            (Val::Duration(a), Val::Duration(b)) => a == b,
            (Val::Timestamp(a), Val::Timestamp(b)) => a == b,
            (Val::Type(a), Val::Type(b)) => a == b,
            (Val::Quantity(a), Val::Quantity(b)) => a.cmp(b) == Ordering::Equal,
            (Val::Ip(a), Val::Ip(b)) => a == b,
            (Val::Cidr(a, n), Val::Cidr(b, m)) => a == b && n == m,
            (Val::Url(a), Val::Url(b)) => a == b,
            (Val::Semver(a), Val::Semver(b)) => a == b,
            (Val::Format(a), Val::Format(b)) => a == b,
            (Val::Optional(None), Val::Optional(None)) => true,
            (Val::Optional(Some(a)), Val::Optional(Some(b))) => a.equals(b),
            (Val::Json(a, x), Val::Json(b, y)) if std::ptr::eq(*a, *b) => {
                let _ = (x, y);
                true
            }
            (Val::Object(_), Val::Object(_)) => self.to_json() == other.to_json(),
            _ => self.equals_numbers(other).unwrap_or_else(|| self.equals_collections(other)),
        }
    }

    fn equals_numbers(&self, other: &Val<'v>) -> Option<bool> {
        let number = |value: &Val<'v>| matches!(value, Val::Int(_) | Val::Uint(_) | Val::Double(_));
        (number(self) && number(other)).then(|| self.order(other) == Some(Ordering::Equal))
    }

    fn equals_collections(&self, other: &Val<'v>) -> bool {
        if let (Some(a), Some(b)) = (self.items(), other.items()) {
            if a.len() != b.len() {
                return false;
            }
            return match self.is_set() || other.is_set() {
                true => a.iter().all(|item| b.iter().any(|other| item.equals(other))),
                false => a.iter().zip(&b).all(|(a, b)| a.equals(b)),
            };
        }
        match (self.entries(), other.entries()) {
            (Some(a), Some(b)) => {
                a.len() == b.len()
                    && a.iter().all(|(key, value)| {
                        b.iter().any(|(other_key, other)| key.equals(other_key) && value.equals(other))
                    })
            }
            _ => false,
        }
    }

    fn is_set(&self) -> bool {
        matches!(self, Val::Json(_, schema) if schema.list_kind() == crate::schema::ListKind::Set)
    }

    /// The order of two comparable values.
    pub(super) fn order(&self, other: &Val<'v>) -> Option<Ordering> {
        match (self, other) {
            (Val::Bool(a), Val::Bool(b)) => Some(a.cmp(b)),
            (Val::Str(a), Val::Str(b)) => Some(a.cmp(b)),
            (Val::Bytes(a), Val::Bytes(b)) => Some(a.cmp(b)),
            (Val::Duration(a), Val::Duration(b)) => Some(a.cmp(b)),
            (Val::Timestamp(a), Val::Timestamp(b)) => Some(a.cmp(b)),
            (Val::Int(a), Val::Int(b)) => Some(a.cmp(b)),
            (Val::Uint(a), Val::Uint(b)) => Some(a.cmp(b)),
            (Val::Int(a), Val::Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            (Val::Uint(a), Val::Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            (Val::Double(a), Val::Double(b)) => a.partial_cmp(b),
            (Val::Double(a), Val::Int(b)) => a.partial_cmp(&double(*b)),
            (Val::Int(a), Val::Double(b)) => double(*a).partial_cmp(b),
            (Val::Double(a), Val::Uint(b)) => a.partial_cmp(&unsigned_double(*b)),
            (Val::Uint(a), Val::Double(b)) => unsigned_double(*a).partial_cmp(b),
            _ => None,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "CEL compares integers with doubles as doubles")]
fn double(n: i64) -> f64 {
    n as f64
}

#[expect(clippy::cast_precision_loss, reason = "CEL compares integers with doubles as doubles")]
fn unsigned_double(n: u64) -> f64 {
    n as f64
}

/// A map key as JSON has it.
pub(super) fn key_text(key: &Val<'_>) -> Option<String> {
    match key {
        Val::Str(text) => Some(text.to_string()),
        Val::Int(n) => Some(n.to_string()),
        Val::Uint(n) => Some(n.to_string()),
        Val::Bool(set) => Some(set.to_string()),
        _ => None,
    }
}

fn wants_double(schema: Schema<'_>) -> bool {
    match schema {
        Schema::Node(node) => node.kind == NodeKind::Number,
        Schema::Field(field) => field.shape == Shape::One && matches!(field.base, Base::Scalar(Scalar::F64)),
        _ => false,
    }
}

fn string<'v>(text: &'v str, schema: Schema<'v>) -> Val<'v> {
    let scalar = match schema {
        Schema::Field(field) if field.shape == Shape::One => field.base,
        Schema::Item(field) => field.base,
        Schema::Node(node) => return by_format(text, node.format()),
        _ => return Val::string(text),
    };
    match scalar {
        Base::Scalar(Scalar::Time | Scalar::MicroTime) => by_format(text, Some("date-time")),
        Base::Scalar(Scalar::Duration) => by_format(text, Some("duration")),
        Base::Scalar(Scalar::Bytes) => by_format(text, Some("byte")),
        _ => Val::string(text),
    }
}

fn by_format<'v>(text: &'v str, format: Option<&str>) -> Val<'v> {
    use base64::Engine as _;
    let made = match format {
        Some("date-time") => text.parse().ok().map(Val::Timestamp),
        Some("date") => format!("{text}T00:00:00Z").parse().ok().map(Val::Timestamp),
        Some("duration") => crate::codec::scalar::parse_duration(text).ok().map(Val::Duration),
        Some("byte") => {
            base64::engine::general_purpose::STANDARD.decode(text).ok().map(|b| Val::Bytes(Rc::new(b)))
        }
        _ => None,
    };
    made.unwrap_or_else(|| Val::string(text))
}

const ESCAPES: [(&str, &str); 4] =
    [("__dot__", "."), ("__dash__", "-"), ("__slash__", "/"), ("__underscores__", "__")];
/// Words of the language that cannot name a variable, and that fields escape.
pub const KEYWORDS: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// A field's own name from the identifier that expressions use: `__dash__` for `-`, `__if__` for `if`.
pub(super) fn unescape(name: &str) -> Cow<'_, str> {
    if !name.contains("__") {
        return Cow::Borrowed(name);
    }
    if let Some(keyword) = name.strip_prefix("__").and_then(|rest| rest.strip_suffix("__"))
        && KEYWORDS.contains(&keyword)
    {
        return Cow::Owned(keyword.to_string());
    }
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while !rest.is_empty() {
        match ESCAPES.iter().find(|(escape, _)| rest.starts_with(escape)) {
            Some((escape, plain)) => {
                out.push_str(plain);
                rest = &rest[escape.len()..];
            }
            None => {
                let length = rest.chars().next().map_or(1, char::len_utf8);
                out.push_str(&rest[..length]);
                rest = &rest[length..];
            }
        }
    }
    Cow::Owned(out)
}
