//! Kubernetes' own functions: quantities, IP addresses and networks, URLs, named formats, semantic versions.

use std::cmp::Ordering;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;

use super::eval::Evaluated;
use super::functions::{fail, overload};
use super::value::Val;

pub(super) fn call<'v>(name: &str, args: &[Val<'v>]) -> Evaluated<'v> {
    match args {
        [Val::Quantity(quantity), rest @ ..] => quantities(name, quantity, rest),
        [Val::Ip(ip)] => addresses(name, *ip),
        [Val::Cidr(ip, bits), rest @ ..] => networks(name, *ip, *bits, rest),
        [Val::Url(url)] => urls(name, url),
        [Val::Format(format), Val::Str(text)] if name == "validate" => Ok(validate(format, text)),
        [Val::Semver(version), rest @ ..] => versions(name, version, rest),
        [Val::Str(text), rest @ ..] => from_text(name, text, rest),
        [] => match name.strip_prefix("format.").and_then(known_format) {
            Some(format) => Ok(Val::Format(format)),
            None => overload(),
        },
        _ => overload(),
    }
}

fn from_text<'v>(name: &str, text: &str, rest: &[Val<'v>]) -> Evaluated<'v> {
    let loose = matches!(rest, [Val::Bool(true)]);
    match name {
        "quantity" => match text.parse::<api::Quantity>() {
            Ok(quantity) => Ok(Val::Quantity(Rc::new(quantity))),
            Err(error) => fail(error.to_string()),
        },
        "isQuantity" => Ok(Val::Bool(text.parse::<api::Quantity>().is_ok())),
        "ip" => match parse_ip(text) {
            Ok(ip) => Ok(Val::Ip(ip)),
            Err(why) => fail(why),
        },
        "isIP" => Ok(Val::Bool(parse_ip(text).is_ok())),
        "ip.isCanonical" => match parse_ip(text) {
            Ok(ip) => Ok(Val::Bool(ip.to_string() == text)),
            Err(why) => fail(why),
        },
        "cidr" => match parse_cidr(text) {
            Ok((ip, bits)) => Ok(Val::Cidr(ip, bits)),
            Err(why) => fail(why),
        },
        "isCIDR" => Ok(Val::Bool(parse_cidr(text).is_ok())),
        "url" => match Url::parse(text) {
            Some(_) => Ok(Val::Url(text.into())),
            None => fail(format!(
                "URL parse error during conversion from string: parse \"{text}\": invalid URI for request"
            )),
        },
        "isURL" => Ok(Val::Bool(Url::parse(text).is_some())),
        "format.named" => Ok(Val::Optional(known_format(text).map(|format| Box::new(Val::Format(format))))),
        "semver" => match parse_semver(text, loose) {
            Some(version) => Ok(Val::Semver(Rc::new(version))),
            None => fail(format!("invalid semantic version: {text}")),
        },
        "isSemver" => Ok(Val::Bool(parse_semver(text, loose).is_some())),
        "jsonpatch.escapeKey" => Ok(Val::string(text.replace('~', "~0").replace('/', "~1"))),
        _ => overload(),
    }
}

fn order_answer<'v>(name: &str, order: Ordering) -> Evaluated<'v> {
    match name {
        "isGreaterThan" => Ok(Val::Bool(order.is_gt())),
        "isLessThan" => Ok(Val::Bool(order.is_lt())),
        "compareTo" => Ok(Val::Int(order as i64)),
        _ => overload(),
    }
}

fn quantities<'v>(name: &str, quantity: &api::Quantity, rest: &[Val<'v>]) -> Evaluated<'v> {
    let whole = |n: &i64| api::Quantity::new(*n, quantity.format());
    match (name, rest) {
        ("sign", []) => Ok(Val::Int(match (quantity.is_zero(), quantity.is_negative()) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        })),
        ("isInteger", []) => Ok(Val::Bool(quantity.is_integer())),
        ("asInteger", []) if quantity.is_integer() => Ok(Val::Int(quantity.value())),
        ("asInteger", []) => fail("cannot convert value to integer"),
        ("asApproximateFloat", []) => Ok(Val::Double(quantity.as_f64())),
        ("add", [Val::Quantity(other)]) => Ok(Val::Quantity(Rc::new(quantity.add(other)))),
        ("sub", [Val::Quantity(other)]) => Ok(Val::Quantity(Rc::new(quantity.sub(other)))),
        ("add", [Val::Int(n)]) => Ok(Val::Quantity(Rc::new(quantity.add(&whole(n))))),
        ("sub", [Val::Int(n)]) => Ok(Val::Quantity(Rc::new(quantity.sub(&whole(n))))),
        (_, [Val::Quantity(other)]) => order_answer(name, quantity.cmp(other)),
        _ => overload(),
    }
}

/// Addresses as upstream accepts them: no IPv4-mapped IPv6, no zones, no leading zeros.
fn parse_ip(text: &str) -> Result<IpAddr, String> {
    let ip: IpAddr = text.parse().map_err(|_| {
        format!("IP Address {} parse error during conversion from string: ParseAddr(\"{text}\"): unable to parse IP", crate::codec::scalar::go_quote(text))
    })?;
    match ip {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Err(format!("IPv4-mapped IPv6 address \"{text}\" is not allowed"))
        }
        ip => Ok(ip),
    }
}

fn parse_cidr(text: &str) -> Result<(IpAddr, u8), String> {
    let bad = || {
        format!("network address parse error during conversion from string: network \"{text}\" parse error")
    };
    let (address, bits) = text.split_once('/').ok_or_else(bad)?;
    let ip = parse_ip(address).map_err(|_| bad())?;
    let most = if ip.is_ipv4() { 32 } else { 128 };
    let plain = bits.bytes().all(|b| b.is_ascii_digit()) && (bits.len() == 1 || !bits.starts_with('0'));
    let bits: u8 = bits.parse().ok().filter(|bits| plain && *bits <= most).ok_or_else(bad)?;
    Ok((ip, bits))
}

fn addresses<'v>(name: &str, ip: IpAddr) -> Evaluated<'v> {
    Ok(match name {
        "family" => Val::Int(if ip.is_ipv4() { 4 } else { 6 }),
        "isUnspecified" => Val::Bool(ip.is_unspecified()),
        "isLoopback" => Val::Bool(ip.is_loopback()),
        "isLinkLocalMulticast" => Val::Bool(match ip {
            IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
            IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
        }),
        "isLinkLocalUnicast" => Val::Bool(link_local(ip)),
        "isGlobalUnicast" => {
            let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
            Val::Bool(
                !ip.is_unspecified()
                    && !ip.is_loopback()
                    && !ip.is_multicast()
                    && !link_local(ip)
                    && !broadcast,
            )
        }
        _ => return overload(),
    })
}

fn link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    }
}

fn mask(ip: IpAddr, bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => {
            let keep = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from(u32::from(v4) & keep))
        }
        IpAddr::V6(v6) => {
            let keep = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(u128::from(v6) & keep))
        }
    }
}

fn networks<'v>(name: &str, ip: IpAddr, bits: u8, rest: &[Val<'v>]) -> Evaluated<'v> {
    let holds = |other: IpAddr| other.is_ipv4() == ip.is_ipv4() && mask(other, bits) == mask(ip, bits);
    match (name, rest) {
        ("ip", []) => Ok(Val::Ip(ip)),
        ("prefixLength", []) => Ok(Val::Int(i64::from(bits))),
        ("masked", []) => Ok(Val::Cidr(mask(ip, bits), bits)),
        ("containsIP", [Val::Ip(other)]) => Ok(Val::Bool(holds(*other))),
        ("containsIP", [Val::Str(text)]) => parse_ip(text).map(|other| Val::Bool(holds(other))).or_else(fail),
        ("containsCIDR", [Val::Cidr(other, length)]) => Ok(Val::Bool(holds(*other) && *length >= bits)),
        ("containsCIDR", [Val::Str(text)]) => {
            parse_cidr(text).map(|(other, length)| Val::Bool(holds(other) && length >= bits)).or_else(fail)
        }
        _ => overload(),
    }
}

/// The parts of a URL, as Go's `url.ParseRequestURI` splits it.
struct Url<'a> {
    scheme: &'a str,
    host: &'a str,
    path: &'a str,
    query: &'a str,
}

impl<'a> Url<'a> {
    fn parse(text: &'a str) -> Option<Url<'a>> {
        if text.is_empty() || text.bytes().any(|b| b <= b' ' || b == 0x7f) {
            return None;
        }
        let (rest, query) = text.split_once('?').unwrap_or((text, ""));
        if rest.starts_with('/') && !rest.starts_with("//") {
            return Some(Url { scheme: "", host: "", path: rest, query });
        }
        let (scheme, after) = match rest.split_once(':') {
            Some((scheme, after)) => (scheme, after),
            None => ("", rest),
        };
        let named = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
        if !scheme.is_empty() && !named {
            return None;
        }
        let Some(after) = after.strip_prefix("//") else {
            return (named && after.starts_with('/')).then_some(Url { scheme, host: "", path: after, query });
        };
        let (authority, path) = after.split_at(after.find('/').unwrap_or(after.len()));
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let port = host.rsplit_once(':').filter(|(_, port)| !port.contains(']')).map(|(_, port)| port);
        let sound = port.is_none_or(|port| port.bytes().all(|b| b.is_ascii_digit()));
        (sound && (named || text.starts_with("//"))).then_some(Url { scheme, host, path, query })
    }
}

fn urls<'v>(name: &str, text: &str) -> Evaluated<'v> {
    let Some(url) = Url::parse(text) else { return fail("invalid URL") };
    let bracketed = url.host.find(']').map(|end| &url.host[..=end]);
    let bare = bracketed.unwrap_or_else(|| url.host.split(':').next().unwrap_or_default());
    let answer = |text: &str| Ok(Val::string(text.to_string()));
    match name {
        "getScheme" => answer(&url.scheme.to_ascii_lowercase()),
        "getHost" => answer(url.host),
        "getHostname" => answer(bare.trim_start_matches('[').trim_end_matches(']')),
        "getPort" => answer(url.host[bare.len()..].trim_start_matches(':')),
        "getEscapedPath" => answer(url.path),
        "getQuery" => {
            let mut entries: Vec<(Val<'v>, Vec<Val<'v>>)> = Vec::new();
            for pair in url.query.split('&').filter(|pair| !pair.is_empty()) {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                let (key, value) = (Val::string(decode(key)), Val::string(decode(value)));
                match entries.iter_mut().find(|(known, _)| known.equals(&key)) {
                    Some((_, values)) => values.push(value),
                    None => entries.push((key, vec![value])),
                }
            }
            Ok(Val::Map(Rc::new(entries.into_iter().map(|(key, values)| (key, Val::list(values))).collect())))
        }
        _ => overload(),
    }
}

/// Percent and plus decoding of a query part.
fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let pair: Vec<u8> = bytes.by_ref().take(2).collect();
                let code = std::str::from_utf8(&pair).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok());
                out.push(code.unwrap_or(b'%'));
            }
            byte => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

const FORMATS: [&str; 13] = [
    "dns1123Label",
    "dns1123Subdomain",
    "dns1035Label",
    "qualifiedName",
    "dns1123LabelPrefix",
    "dns1123SubdomainPrefix",
    "dns1035LabelPrefix",
    "labelValue",
    "uri",
    "uuid",
    "byte",
    "date",
    "datetime",
];

fn known_format(name: &str) -> Option<&'static str> {
    FORMATS.iter().find(|known| **known == name).copied()
}

fn validate<'v>(format: &str, text: &str) -> Val<'v> {
    use base64::Engine as _;
    // A prefix for generated names may end in a dash.
    let prefix = text.strip_suffix('-').map(|stem| format!("{stem}a")).unwrap_or_else(|| text.to_string());
    let one = |fits: bool, message: &str| if fits { Vec::new() } else { vec![message.to_string()] };
    let problems = match format {
        "dns1123Label" => api::names::dns1123_label(text),
        "dns1123Subdomain" => api::names::dns1123_subdomain(text),
        "dns1035Label" => api::names::dns1035_label(text),
        "qualifiedName" => api::names::qualified_name(text),
        "dns1123LabelPrefix" => api::names::dns1123_label(&prefix),
        "dns1123SubdomainPrefix" => api::names::dns1123_subdomain(&prefix),
        "dns1035LabelPrefix" => api::names::dns1035_label(&prefix),
        "labelValue" => api::names::label_value(text),
        "uri" => one(Url::parse(text).is_some(), "invalid URI"),
        "uuid" => {
            let plain: String = text.chars().filter(|c| *c != '-').collect();
            one(
                plain.len() == 32 && plain.bytes().all(|b| b.is_ascii_hexdigit()),
                "does not match the UUID format",
            )
        }
        "byte" => one(base64::engine::general_purpose::STANDARD.decode(text).is_ok(), "invalid base64"),
        "date" => one(text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(), "invalid date"),
        _ => one(text.parse::<jiff::Timestamp>().is_ok(), "invalid datetime"),
    };
    match problems.is_empty() {
        true => Val::Optional(None),
        false => Val::Optional(Some(Box::new(Val::list(problems.into_iter().map(Val::string).collect())))),
    }
}

type Semver = (u64, u64, u64, String);

/// `1.2.3-pre+build`; loosely also `v1.2` and `01.2.3`.
pub(super) fn parse_semver(text: &str, loose: bool) -> Option<Semver> {
    let text = if loose { text.trim().trim_start_matches('v') } else { text };
    let (rest, build) = text.split_once('+').map_or((text, None), |(rest, build)| (rest, Some(build)));
    let (core, pre) = rest.split_once('-').map_or((rest, None), |(core, pre)| (core, Some(pre)));
    let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if build.is_some_and(|build| !build.split('.').all(word)) {
        return None;
    }
    let numeric = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let sound = |part: &str| word(part) && (!numeric(part) || part == "0" || !part.starts_with('0'));
    if pre.is_some_and(|pre| !pre.split('.').all(sound)) {
        return None;
    }
    let mut parts: Vec<&str> = core.split('.').collect();
    if loose {
        parts.resize(parts.len().max(3), "0");
    }
    let number = |part: &str| {
        let padded = part.len() > 1 && part.starts_with('0');
        (numeric(part) && (loose || !padded)).then(|| part.parse().ok()).flatten()
    };
    match parts.as_slice() {
        [major, minor, patch] => {
            Some((number(major)?, number(minor)?, number(patch)?, pre.unwrap_or_default().to_string()))
        }
        _ => None,
    }
}

fn versions<'v>(name: &str, version: &Semver, rest: &[Val<'v>]) -> Evaluated<'v> {
    let int = |n: u64| Ok(Val::Int(i64::try_from(n).unwrap_or(i64::MAX)));
    match (name, rest) {
        ("major", []) => int(version.0),
        ("minor", []) => int(version.1),
        ("patch", []) => int(version.2),
        (_, [Val::Semver(other)]) => order_answer(name, order(version, other)),
        _ => overload(),
    }
}

fn order(a: &Semver, b: &Semver) -> Ordering {
    let core = (a.0, a.1, a.2).cmp(&(b.0, b.1, b.2));
    let pre = match (a.3.is_empty(), b.3.is_empty()) {
        (true, true) => Ordering::Equal,
        (true, false) => Ordering::Greater,
        (false, true) => Ordering::Less,
        (false, false) => {
            let mut pairs = a.3.split('.').zip(b.3.split('.'));
            let differing = pairs.find_map(|(x, y)| {
                match (x.parse::<u64>(), y.parse::<u64>()) {
                    (Ok(x), Ok(y)) => Some(x.cmp(&y)),
                    (Ok(_), Err(_)) => Some(Ordering::Less),
                    (Err(_), Ok(_)) => Some(Ordering::Greater),
                    _ => Some(x.cmp(y)),
                }
                .filter(|order| order.is_ne())
            });
            differing.unwrap_or_else(|| a.3.split('.').count().cmp(&b.3.split('.').count()))
        }
    };
    core.then(pre)
}
