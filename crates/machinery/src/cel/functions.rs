//! Functions: which there are, the operators, conversions, strings, lists and sets.

use std::cmp::Ordering;
use std::rc::Rc;

use super::eval::{Budget, EvalError, Evaluated};
use super::value::{Val, key_text};
use super::{extensions, regexes, times};

/// Names that stand before a function like a target but are none.
const NAMESPACES: [&str; 7] = ["ip", "format", "sets", "optional", "strings", "jsonpatch", "lists"];

pub(super) fn is_namespace(name: impl AsRef<str>) -> bool {
    NAMESPACES.contains(&name.as_ref())
}

/// Every function, its name and how many arguments it takes (a method's target counted), and whether it is
/// written as a method.
pub(super) const TABLE: &[(&str, &[usize], bool)] = &[
    ("!_", &[1], false),
    ("-_", &[1], false),
    ("_+_", &[2], false),
    ("_-_", &[2], false),
    ("_*_", &[2], false),
    ("_/_", &[2], false),
    ("_%_", &[2], false),
    ("_==_", &[2], false),
    ("_!=_", &[2], false),
    ("_<_", &[2], false),
    ("_<=_", &[2], false),
    ("_>_", &[2], false),
    ("_>=_", &[2], false),
    ("_in_", &[2], false),
    ("size", &[1], false),
    ("size", &[1], true),
    ("int", &[1], false),
    ("uint", &[1], false),
    ("double", &[1], false),
    ("string", &[1], false),
    ("bytes", &[1], false),
    ("bool", &[1], false),
    ("dyn", &[1], false),
    ("type", &[1], false),
    ("duration", &[1], false),
    ("timestamp", &[1], false),
    ("matches", &[2], false),
    ("matches", &[2], true),
    ("contains", &[2], true),
    ("startsWith", &[2], true),
    ("endsWith", &[2], true),
    ("charAt", &[2], true),
    ("indexOf", &[2, 3], true),
    ("lastIndexOf", &[2, 3], true),
    ("join", &[1, 2], true),
    ("lowerAscii", &[1], true),
    ("upperAscii", &[1], true),
    ("replace", &[3, 4], true),
    ("split", &[2, 3], true),
    ("substring", &[2, 3], true),
    ("trim", &[1], true),
    ("format", &[2], true),
    ("strings.quote", &[1], false),
    ("reverse", &[1], true),
    ("isSorted", &[1], true),
    ("sum", &[1], true),
    ("min", &[1], true),
    ("max", &[1], true),
    ("distinct", &[1], true),
    ("flatten", &[1, 2], true),
    ("slice", &[3], true),
    ("sort", &[1], true),
    ("first", &[1], true),
    ("last", &[1], true),
    ("lists.range", &[1], false),
    ("sets.contains", &[2], false),
    ("sets.equivalent", &[2], false),
    ("sets.intersects", &[2], false),
    ("optional.of", &[1], false),
    ("optional.ofNonZeroValue", &[1], false),
    ("optional.none", &[0], false),
    ("hasValue", &[1], true),
    ("value", &[1], true),
    ("orValue", &[2], true),
    ("or", &[2], true),
    ("find", &[2], true),
    ("findAll", &[2, 3], true),
    ("getFullYear", &[1, 2], true),
    ("getMonth", &[1, 2], true),
    ("getDate", &[1, 2], true),
    ("getDayOfMonth", &[1, 2], true),
    ("getDayOfWeek", &[1, 2], true),
    ("getDayOfYear", &[1, 2], true),
    ("getHours", &[1, 2], true),
    ("getMinutes", &[1, 2], true),
    ("getSeconds", &[1, 2], true),
    ("getMilliseconds", &[1, 2], true),
    ("quantity", &[1], false),
    ("isQuantity", &[1], false),
    ("sign", &[1], true),
    ("isGreaterThan", &[2], true),
    ("isLessThan", &[2], true),
    ("compareTo", &[2], true),
    ("asApproximateFloat", &[1], true),
    ("asInteger", &[1], true),
    ("isInteger", &[1], true),
    ("add", &[2], true),
    ("sub", &[2], true),
    ("ip", &[1], false),
    ("ip", &[1], true),
    ("isIP", &[1], false),
    ("ip.isCanonical", &[1], false),
    ("family", &[1], true),
    ("isUnspecified", &[1], true),
    ("isLoopback", &[1], true),
    ("isLinkLocalMulticast", &[1], true),
    ("isLinkLocalUnicast", &[1], true),
    ("isGlobalUnicast", &[1], true),
    ("cidr", &[1], false),
    ("isCIDR", &[1], false),
    ("containsIP", &[2], true),
    ("containsCIDR", &[2], true),
    ("prefixLength", &[1], true),
    ("masked", &[1], true),
    ("url", &[1], false),
    ("isURL", &[1], false),
    ("getScheme", &[1], true),
    ("getHost", &[1], true),
    ("getHostname", &[1], true),
    ("getPort", &[1], true),
    ("getEscapedPath", &[1], true),
    ("getQuery", &[1], true),
    ("format.named", &[1], false),
    ("format.dns1123Label", &[0], false),
    ("format.dns1123Subdomain", &[0], false),
    ("format.dns1035Label", &[0], false),
    ("format.qualifiedName", &[0], false),
    ("format.dns1123LabelPrefix", &[0], false),
    ("format.dns1123SubdomainPrefix", &[0], false),
    ("format.dns1035LabelPrefix", &[0], false),
    ("format.labelValue", &[0], false),
    ("format.uri", &[0], false),
    ("format.uuid", &[0], false),
    ("format.byte", &[0], false),
    ("format.date", &[0], false),
    ("format.datetime", &[0], false),
    ("validate", &[2], true),
    ("semver", &[1, 2], false),
    ("isSemver", &[1, 2], false),
    ("major", &[1], true),
    ("minor", &[1], true),
    ("patch", &[1], true),
    ("jsonpatch.escapeKey", &[1], false),
];

pub(super) fn overload<'v>() -> Evaluated<'v> {
    Err(EvalError::new("no such overload"))
}

pub(super) fn fail<'v>(message: impl Into<String>) -> Evaluated<'v> {
    Err(EvalError::new(message))
}

/// Calls a function with evaluated arguments, a method's target first.
pub(super) fn call<'v>(name: &str, method: bool, args: &[Val<'v>], budget: &mut Budget) -> Evaluated<'v> {
    for arg in args {
        if let Val::Str(text) = arg {
            budget.pay_text(text.len())?;
        }
    }
    match (name, args) {
        ("!_", [Val::Bool(set)]) => Ok(Val::Bool(!set)),
        ("-_", [Val::Int(n)]) => {
            n.checked_neg().map_or_else(|| fail("integer overflow"), |n| Ok(Val::Int(n)))
        }
        ("-_", [Val::Double(n)]) => Ok(Val::Double(-n)),
        ("_==_", [a, b]) => Ok(Val::Bool(a.equals(b))),
        ("_!=_", [a, b]) => Ok(Val::Bool(!a.equals(b))),
        ("_<_" | "_<=_" | "_>_" | "_>=_", [a, b]) => compare(name, a, b),
        ("_in_", [item, collection]) => contains(item, collection, budget),
        ("_+_" | "_-_" | "_*_" | "_/_" | "_%_", [a, b]) => arithmetic(name, a, b),
        ("size", [value]) => size(value),
        ("dyn", [value]) => Ok(value.clone()),
        ("type", [value]) => Ok(Val::Type(value.type_name())),
        ("int" | "uint" | "double" | "string" | "bytes" | "bool", [value]) => convert(name, value),
        ("duration" | "timestamp", [value]) => times::convert(name, value),
        ("matches", [Val::Str(text), Val::Str(pattern)]) => regexes::matches(text, pattern),
        ("find" | "findAll", [Val::Str(text), Val::Str(pattern), rest @ ..]) => {
            regexes::find(name == "findAll", text, pattern, rest)
        }
        (name, [Val::Timestamp(_) | Val::Duration(_), ..]) if name.starts_with("get") => {
            times::part(name, args)
        }
        (name, _) if name.starts_with("optional.") => optional(name, args),
        (name, [a, b]) if name.starts_with("sets.") => sets(name, a, b, budget),
        ("strings.quote", [Val::Str(text)]) => Ok(Val::string(crate::codec::scalar::go_quote(text))),
        ("lists.range", [Val::Int(n)]) => range(*n, budget),
        (_, [Val::Str(_), ..]) if method => strings(name, args),
        (_, [list, ..]) if method && list.items().is_some() => lists(name, args, budget),
        _ => extensions::call(name, args),
    }
}

fn compare<'v>(name: &str, a: &Val<'v>, b: &Val<'v>) -> Evaluated<'v> {
    let doubles = [a, b].iter().any(|value| matches!(value, Val::Double(n) if n.is_nan()));
    match a.order(b) {
        Some(order) => Ok(Val::Bool(match name {
            "_<_" => order.is_lt(),
            "_<=_" => order.is_le(),
            "_>_" => order.is_gt(),
            _ => order.is_ge(),
        })),
        None if doubles => Ok(Val::Bool(false)),
        None => overload(),
    }
}

fn contains<'v>(item: &Val<'v>, collection: &Val<'v>, budget: &mut Budget) -> Evaluated<'v> {
    if let Some(items) = collection.items() {
        budget.pay(items.len() as u64)?;
        return Ok(Val::Bool(items.iter().any(|other| other.equals(item))));
    }
    if let (Val::Json(serde_json::Value::Object(map), _), Val::Str(key)) = (collection, item) {
        return Ok(Val::Bool(map.contains_key(key.as_ref())));
    }
    match collection.entries() {
        Some(entries) => Ok(Val::Bool(entries.iter().any(|(key, _)| key.equals(item)))),
        None => overload(),
    }
}

fn arithmetic<'v>(name: &str, a: &Val<'v>, b: &Val<'v>) -> Evaluated<'v> {
    match (a, b) {
        (Val::Int(a), Val::Int(b)) => integers(name, *a, *b),
        (Val::Uint(a), Val::Uint(b)) => unsigned(name, *a, *b),
        (Val::Double(a), Val::Double(b)) => match name {
            "_+_" => Ok(Val::Double(a + b)),
            "_-_" => Ok(Val::Double(a - b)),
            "_*_" => Ok(Val::Double(a * b)),
            "_/_" => Ok(Val::Double(a / b)),
            _ => overload(),
        },
        (Val::Str(a), Val::Str(b)) if name == "_+_" => Ok(Val::string(format!("{a}{b}"))),
        (Val::Bytes(a), Val::Bytes(b)) if name == "_+_" => {
            Ok(Val::Bytes(Rc::new(a.iter().chain(b.iter()).copied().collect())))
        }
        (Val::Duration(_) | Val::Timestamp(_), Val::Duration(_) | Val::Timestamp(_)) => {
            times::arithmetic(name, a, b)
        }
        _ => match (name, a.items(), b.items()) {
            ("_+_", Some(mut a), Some(b)) => {
                a.extend(b);
                Ok(Val::list(a))
            }
            _ => overload(),
        },
    }
}

fn integers<'v>(name: &str, a: i64, b: i64) -> Evaluated<'v> {
    let result = match name {
        "_+_" => a.checked_add(b),
        "_-_" => a.checked_sub(b),
        "_*_" => a.checked_mul(b),
        "_/_" if b == 0 => return fail("division by zero"),
        "_%_" if b == 0 => return fail("modulus by zero"),
        "_/_" => a.checked_div(b),
        _ => a.checked_rem(b),
    };
    result.map_or_else(|| fail("integer overflow"), |n| Ok(Val::Int(n)))
}

fn unsigned<'v>(name: &str, a: u64, b: u64) -> Evaluated<'v> {
    let result = match name {
        "_+_" => a.checked_add(b),
        "_-_" => a.checked_sub(b),
        "_*_" => a.checked_mul(b),
        "_/_" if b == 0 => return fail("division by zero"),
        "_%_" if b == 0 => return fail("modulus by zero"),
        "_/_" => a.checked_div(b),
        _ => a.checked_rem(b),
    };
    result.map_or_else(|| fail("unsigned integer overflow"), |n| Ok(Val::Uint(n)))
}

fn int_of(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn size<'v>(value: &Val<'v>) -> Evaluated<'v> {
    match value {
        Val::Str(text) => Ok(Val::Int(int_of(text.chars().count()))),
        Val::Bytes(bytes) => Ok(Val::Int(int_of(bytes.len()))),
        other => other.count().map_or_else(overload, |n| Ok(Val::Int(int_of(n)))),
    }
}

fn convert<'v>(name: &str, value: &Val<'v>) -> Evaluated<'v> {
    let range = || fail("integer overflow");
    let whole = |n: f64| format!("{:.0}", n.trunc());
    match (name, value) {
        ("int", Val::Int(n)) => Ok(Val::Int(*n)),
        ("int", Val::Uint(n)) => i64::try_from(*n).map_or_else(|_| range(), |n| Ok(Val::Int(n))),
        ("int", Val::Double(n)) => whole(*n).parse().map_or_else(|_| range(), |n| Ok(Val::Int(n))),
        ("int", Val::Timestamp(time)) => Ok(Val::Int(time.as_second())),
        ("int", Val::Str(text)) => text.parse().map_or_else(
            |_| fail(format!("strconv.ParseInt: parsing \"{text}\": invalid syntax")),
            |n| Ok(Val::Int(n)),
        ),
        ("uint", Val::Uint(n)) => Ok(Val::Uint(*n)),
        ("uint", Val::Int(n)) => {
            u64::try_from(*n).map_or_else(|_| fail("unsigned integer overflow"), |n| Ok(Val::Uint(n)))
        }
        ("uint", Val::Double(n)) => {
            whole(*n).parse().map_or_else(|_| fail("unsigned integer overflow"), |n| Ok(Val::Uint(n)))
        }
        ("uint", Val::Str(text)) => text.parse().map_or_else(
            |_| fail(format!("strconv.ParseUint: parsing \"{text}\": invalid syntax")),
            |n| Ok(Val::Uint(n)),
        ),
        ("double", Val::Double(n)) => Ok(Val::Double(*n)),
        ("double", Val::Int(n)) => n.to_string().parse().map_or_else(|_| range(), |n| Ok(Val::Double(n))),
        ("double", Val::Uint(n)) => n.to_string().parse().map_or_else(|_| range(), |n| Ok(Val::Double(n))),
        ("double", Val::Str(text)) => text.parse().map_or_else(
            |_| fail(format!("strconv.ParseFloat: parsing \"{text}\": invalid syntax")),
            |n| Ok(Val::Double(n)),
        ),
        ("bool", Val::Bool(set)) => Ok(Val::Bool(*set)),
        ("bool", Val::Str(text)) => match text.as_ref() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Val::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Val::Bool(false)),
            _ => fail(format!("strconv.ParseBool: parsing \"{text}\": invalid syntax")),
        },
        ("bytes", Val::Bytes(_)) | ("string", Val::Str(_)) => Ok(value.clone()),
        ("bytes", Val::Str(text)) => Ok(Val::Bytes(Rc::new(text.as_bytes().to_vec()))),
        ("string", Val::Bytes(bytes)) => match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Val::string(text.to_string())),
            Err(_) => fail("invalid UTF-8 in bytes, cannot convert to string"),
        },
        ("string", Val::Bool(set)) => Ok(Val::string(set.to_string())),
        ("string", Val::Int(n)) => Ok(Val::string(n.to_string())),
        ("string", Val::Uint(n)) => Ok(Val::string(n.to_string())),
        ("string", Val::Double(n)) => Ok(Val::string(double_text(*n))),
        ("string", Val::Duration(nanos)) => Ok(Val::string(times::duration_text(*nanos))),
        ("string", Val::Timestamp(_) | Val::Ip(_) | Val::Cidr(..) | Val::Quantity(_)) => {
            match value.to_json() {
                Some(serde_json::Value::String(text)) => Ok(Val::string(text)),
                _ => overload(),
            }
        }
        _ => overload(),
    }
}

fn double_text(n: f64) -> String {
    match n {
        n if n.is_nan() => "NaN".to_string(),
        n if n.is_infinite() => if n > 0.0 { "+Inf" } else { "-Inf" }.to_string(),
        n if n != 0.0 && (n.abs() < 1e-4 || n.abs() >= 1e21) => {
            let text = format!("{n:e}");
            let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let exponent: i32 = exponent.parse().unwrap_or_default();
            format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
        }
        n => n.to_string(),
    }
}

fn optional<'v>(name: &str, args: &[Val<'v>]) -> Evaluated<'v> {
    match (name, args) {
        ("optional.none", []) => Ok(Val::Optional(None)),
        ("optional.of", [value]) => Ok(Val::Optional(Some(Box::new(value.clone())))),
        ("optional.ofNonZeroValue", [value]) => {
            let zero = match value {
                Val::Null | Val::Bool(false) | Val::Int(0) | Val::Uint(0) | Val::Duration(0) => true,
                Val::Double(n) => *n == 0.0,
                Val::Str(text) => text.is_empty(),
                Val::Bytes(bytes) => bytes.is_empty(),
                other => other.count() == Some(0),
            };
            Ok(Val::Optional((!zero).then(|| Box::new(value.clone()))))
        }
        _ => overload(),
    }
}

fn sets<'v>(name: &str, a: &Val<'v>, b: &Val<'v>, budget: &mut Budget) -> Evaluated<'v> {
    let (Some(a), Some(b)) = (a.items(), b.items()) else { return overload() };
    budget.pay((a.len() as u64).saturating_mul(b.len() as u64))?;
    let within =
        |outer: &[Val<'v>], inner: &[Val<'v>]| inner.iter().all(|x| outer.iter().any(|y| x.equals(y)));
    match name {
        "sets.contains" => Ok(Val::Bool(within(&a, &b))),
        "sets.equivalent" => Ok(Val::Bool(within(&a, &b) && within(&b, &a))),
        "sets.intersects" => Ok(Val::Bool(a.iter().any(|x| b.iter().any(|y| x.equals(y))))),
        _ => overload(),
    }
}

fn range<'v>(n: i64, budget: &mut Budget) -> Evaluated<'v> {
    budget.pay(u64::try_from(n).unwrap_or(0))?;
    Ok(Val::list((0..n.max(0)).map(Val::Int).collect()))
}

/// A character position in text, within its length.
fn place(text_length: usize, at: i64) -> Result<usize, EvalError> {
    match usize::try_from(at).ok().filter(|at| *at <= text_length) {
        Some(at) => Ok(at),
        None => Err(EvalError::new(format!("index out of range: {at}"))),
    }
}

fn strings<'v>(name: &str, args: &[Val<'v>]) -> Evaluated<'v> {
    let [Val::Str(text), rest @ ..] = args else { return overload() };
    let answer = |found: String| Ok(Val::string(found));
    match (name, rest) {
        ("contains", [Val::Str(part)]) => Ok(Val::Bool(text.contains(part.as_ref()))),
        ("startsWith", [Val::Str(part)]) => Ok(Val::Bool(text.starts_with(part.as_ref()))),
        ("endsWith", [Val::Str(part)]) => Ok(Val::Bool(text.ends_with(part.as_ref()))),
        ("charAt", [Val::Int(at)]) => {
            let at = place(text.chars().count(), *at)?;
            answer(text.chars().nth(at).map(String::from).unwrap_or_default())
        }
        ("indexOf" | "lastIndexOf", [Val::Str(part), rest @ ..]) => index_of(name, text, part, rest),
        ("lowerAscii", []) => answer(text.to_ascii_lowercase()),
        ("upperAscii", []) => answer(text.to_ascii_uppercase()),
        ("trim", []) => answer(text.trim().to_string()),
        ("reverse", []) => answer(text.chars().rev().collect()),
        ("replace", [Val::Str(from), Val::Str(to)]) => answer(text.replace(from.as_ref(), to)),
        ("replace", [Val::Str(from), Val::Str(to), Val::Int(n)]) => match usize::try_from(*n) {
            Ok(n) => answer(text.replacen(from.as_ref(), to, n)),
            Err(_) => answer(text.replace(from.as_ref(), to)),
        },
        ("split", [Val::Str(by)]) => Ok(split(text, by, None)),
        ("split", [Val::Str(by), Val::Int(n)]) => Ok(split(text, by, usize::try_from(*n).ok())),
        ("substring", [Val::Int(from)]) => {
            let from = place(text.chars().count(), *from)?;
            answer(text.chars().skip(from).collect())
        }
        ("substring", [Val::Int(from), Val::Int(to)]) => {
            let length = text.chars().count();
            let (start, end) = (place(length, *from)?, place(length, *to)?);
            if start > end {
                return fail(format!("invalid substring range. start: {from}, end: {to}"));
            }
            answer(text.chars().skip(start).take(end - start).collect())
        }
        ("format", [list]) => match list.items() {
            Some(items) => format_text(text, &items),
            None => overload(),
        },
        _ => extensions::call(name, args),
    }
}

fn split<'v>(text: &str, by: &str, most: Option<usize>) -> Val<'v> {
    let owned = |part: &str| Val::string(part.to_string());
    let characters = || text.chars().map(|c| Val::string(c.to_string())).collect::<Vec<_>>();
    Val::list(match most {
        Some(0) => Vec::new(),
        None if by.is_empty() => characters(),
        None => text.split(by).map(owned).collect(),
        Some(n) => text.splitn(n, by).map(owned).collect(),
    })
}

fn index_of<'v>(name: &str, text: &str, part: &str, rest: &[Val<'v>]) -> Evaluated<'v> {
    let text: Vec<char> = text.chars().collect();
    let part: Vec<char> = part.chars().collect();
    let last = name == "lastIndexOf";
    let offset = match rest {
        [] => None,
        [Val::Int(at)] => Some(place(text.len(), *at)?),
        _ => return overload(),
    };
    if part.is_empty() {
        let end = if last { text.len() } else { 0 };
        return Ok(Val::Int(int_of(offset.unwrap_or(end))));
    }
    let fits = |at: &usize| text[*at..].starts_with(&part);
    let found = match last {
        true => (0..=offset.unwrap_or(text.len()).min(text.len())).rev().find(fits),
        false => (offset.unwrap_or(0)..=text.len()).find(fits),
    };
    Ok(Val::Int(found.map_or(-1, int_of)))
}

/// `"%s is %d".format([…])`.
fn format_text<'v>(pattern: &str, args: &[Val<'v>]) -> Evaluated<'v> {
    let mut out = String::new();
    let mut args = args.iter();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        if chars.peek() == Some(&'%') {
            chars.next();
            out.push('%');
            continue;
        }
        let mut precision = None;
        if chars.peek() == Some(&'.') {
            chars.next();
            let mut digits = String::new();
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            precision = digits.parse::<usize>().ok().filter(|n| *n <= 1000);
        }
        let Some(verb) = chars.next() else { return fail("unexpected end of string") };
        let Some(arg) = args.next() else { return fail(format!("index {} out of range", out.len())) };
        match format_one(verb, precision, arg) {
            Some(text) => out.push_str(&text),
            None => {
                return fail(format!(
                    "error during formatting: {verb} clause cannot be used on {}",
                    arg.type_name()
                ));
            }
        }
    }
    Ok(Val::string(out))
}

fn format_one(verb: char, precision: Option<usize>, arg: &Val<'_>) -> Option<String> {
    Some(match (verb, arg) {
        ('s', value) => show(value),
        ('d', Val::Int(n)) => n.to_string(),
        ('d', Val::Uint(n)) => n.to_string(),
        ('d', Val::Double(n)) if !n.is_finite() => double_text(*n),
        ('f', Val::Double(n)) => format!("{n:.*}", precision.unwrap_or(6)),
        ('f', Val::Int(n)) => format!("{n}.{}", "0".repeat(precision.unwrap_or(6))),
        ('e', Val::Double(n)) => {
            let text = format!("{n:.*e}", precision.unwrap_or(6));
            let (mantissa, exponent) = text.split_once('e')?;
            let exponent: i32 = exponent.parse().ok()?;
            format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
        }
        ('b', Val::Int(n)) => format!("{}{:b}", if *n < 0 { "-" } else { "" }, n.unsigned_abs()),
        ('b', Val::Uint(n)) => format!("{n:b}"),
        ('b', Val::Bool(set)) => u8::from(*set).to_string(),
        ('o', Val::Int(n)) => format!("{}{:o}", if *n < 0 { "-" } else { "" }, n.unsigned_abs()),
        ('o', Val::Uint(n)) => format!("{n:o}"),
        ('x' | 'X', value) => {
            let text = match value {
                Val::Int(n) => format!("{}{:x}", if *n < 0 { "-" } else { "" }, n.unsigned_abs()),
                Val::Uint(n) => format!("{n:x}"),
                Val::Str(text) => text.bytes().map(|b| format!("{b:02x}")).collect(),
                Val::Bytes(bytes) => bytes.iter().map(|b| format!("{b:02x}")).collect(),
                _ => return None,
            };
            if verb == 'X' { text.to_uppercase() } else { text }
        }
        _ => return None,
    })
}

/// A value as `%s` prints it.
fn show(value: &Val<'_>) -> String {
    match value {
        Val::Null => "null".to_string(),
        Val::Bool(set) => set.to_string(),
        Val::Int(n) => n.to_string(),
        Val::Uint(n) => n.to_string(),
        Val::Double(n) => double_text(*n),
        Val::Str(text) => text.to_string(),
        Val::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Val::Duration(nanos) => times::duration_text(*nanos),
        Val::Type(name) => name.clone(),
        other => {
            if let Some(items) = other.items() {
                return format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(", "));
            }
            if let Some(mut entries) = other.entries() {
                entries.sort_by_key(|(key, _)| key_text(key));
                let shown: Vec<String> =
                    entries.iter().map(|(k, v)| format!("{}: {}", show(k), show(v))).collect();
                return format!("{{{}}}", shown.join(", "));
            }
            match other.to_json() {
                Some(serde_json::Value::String(text)) => text,
                _ => other.type_name(),
            }
        }
    }
}

fn lists<'v>(name: &str, args: &[Val<'v>], budget: &mut Budget) -> Evaluated<'v> {
    let Some(items) = args.first().and_then(Val::items) else { return overload() };
    budget.pay(items.len() as u64)?;
    let rest = &args[1..];
    match (name, rest) {
        ("isSorted", []) => {
            let sorted = items.windows(2).map(|pair| pair[0].order(&pair[1])).collect::<Option<Vec<_>>>();
            sorted.map_or_else(overload, |orders| Ok(Val::Bool(orders.iter().all(|order| order.is_le()))))
        }
        ("sum", []) => sum(&items),
        ("min" | "max", []) => extreme(name, &items),
        ("indexOf", [item]) => Ok(Val::Int(items.iter().position(|x| x.equals(item)).map_or(-1, int_of))),
        ("lastIndexOf", [item]) => {
            Ok(Val::Int(items.iter().rposition(|x| x.equals(item)).map_or(-1, int_of)))
        }
        ("join", []) => join(&items, ""),
        ("join", [Val::Str(by)]) => join(&items, by),
        ("distinct", []) => {
            budget.pay((items.len() as u64).saturating_mul(items.len() as u64))?;
            let mut out: Vec<Val<'v>> = Vec::new();
            for item in items {
                if !out.iter().any(|known| known.equals(&item)) {
                    out.push(item);
                }
            }
            Ok(Val::list(out))
        }
        ("flatten", []) => flatten(items, 1, budget),
        ("flatten", [Val::Int(depth)]) => flatten(items, *depth, budget),
        ("reverse", []) => Ok(Val::list(items.into_iter().rev().collect())),
        ("slice", [Val::Int(from), Val::Int(to)]) => {
            let (from, to) = (place(items.len(), *from)?, place(items.len(), *to)?);
            if from > to {
                return fail(format!(
                    "cannot slice({from}, {to}), start index must be less than or equal to end index"
                ));
            }
            Ok(Val::list(items[from..to].to_vec()))
        }
        ("sort", []) => {
            let mut items = items;
            if items.windows(2).any(|pair| pair[0].order(&pair[1]).is_none()) {
                return fail("list elements must have the same type");
            }
            items.sort_by(|a, b| a.order(b).unwrap_or(Ordering::Equal));
            Ok(Val::list(items))
        }
        ("first", []) => Ok(Val::Optional(items.first().cloned().map(Box::new))),
        ("last", []) => Ok(Val::Optional(items.last().cloned().map(Box::new))),
        _ => overload(),
    }
}

fn sum<'v>(items: &[Val<'v>]) -> Evaluated<'v> {
    let Some((first, rest)) = items.split_first() else { return Ok(Val::Int(0)) };
    rest.iter().try_fold(first.clone(), |total, item| arithmetic("_+_", &total, item))
}

fn extreme<'v>(name: &str, items: &[Val<'v>]) -> Evaluated<'v> {
    let Some((first, rest)) = items.split_first() else {
        return fail(format!("{name} called on empty list"));
    };
    let wanted = if name == "min" { Ordering::Less } else { Ordering::Greater };
    rest.iter().try_fold(first.clone(), |best, item| match item.order(&best) {
        Some(order) => Ok(if order == wanted { item.clone() } else { best }),
        None => overload(),
    })
}

fn join<'v>(items: &[Val<'v>], by: &str) -> Evaluated<'v> {
    let texts: Option<Vec<&str>> = items
        .iter()
        .map(|item| match item {
            Val::Str(text) => Some(text.as_ref()),
            _ => None,
        })
        .collect();
    texts.map_or_else(overload, |texts| Ok(Val::string(texts.join(by))))
}

fn flatten<'v>(items: Vec<Val<'v>>, depth: i64, budget: &mut Budget) -> Evaluated<'v> {
    budget.pay(items.len() as u64)?;
    if depth < 0 {
        return fail("level must be non-negative");
    }
    let mut out = Vec::new();
    for item in items {
        match item.items() {
            Some(inner) if depth > 1 => {
                out.extend(flatten(inner, depth - 1, budget)?.items().unwrap_or_default())
            }
            Some(inner) if depth == 1 => out.extend(inner),
            _ => out.push(item),
        }
    }
    Ok(Val::list(out))
}
