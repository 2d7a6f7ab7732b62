//! What a request asks for, read from its method, path and query as upstream's `requestinfo.go` does.
//! It must not know which resources exist.

use std::num::IntErrorKind;

use http::Method;

use api::ApiError;

/// Subresources of a namespace itself; any other segment after `namespaces/NAME` is a resource in it.
const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

/// A request, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// True below `/api/VERSION` and `/apis/GROUP/VERSION`.
    pub is_resource: bool,
    /// The decoded path.
    pub path: String,
    /// get, list, watch, create, update, patch, delete, deletecollection, proxy; the lower-case method for
    /// other paths.
    pub verb: String,
    /// API group, empty for core.
    pub group: String,
    /// API version.
    pub version: String,
    /// Namespace, empty when the path names none.
    pub namespace: String,
    /// Plural resource name.
    pub resource: String,
    /// Subresource, empty for the object itself.
    pub subresource: String,
    /// Object name.
    pub name: String,
    /// What follows the subresource in the path, for proxies; begins with `/` when present.
    pub rest: String,
}

impl RequestInfo {
    /// Reads method, path and query.
    pub fn parse(method: &Method, raw_path: &str, query: &Query) -> RequestInfo {
        let path = percent_decode(raw_path);
        let mut info =
            RequestInfo { path, verb: method.as_str().to_ascii_lowercase(), ..RequestInfo::default() };
        let path = info.path.clone();
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        let mut rest = match segments.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => {
                info.version = (*version).to_owned();
                rest
            }
            ["apis", group, version, rest @ ..] if !rest.is_empty() => {
                info.group = (*group).to_owned();
                info.version = (*version).to_owned();
                rest
            }
            _ => return info,
        };
        info.is_resource = true;
        info.verb = verb_of(method).to_owned();
        if matches!(rest[0], "watch" | "proxy") {
            if rest.len() < 2 {
                info.is_resource = false;
                return info;
            }
            info.verb = rest[0].to_owned();
            rest = &rest[1..];
        }
        if rest[0] == "namespaces" && rest.len() > 1 {
            info.namespace = rest[1].to_owned();
            if rest.len() > 2 && !NAMESPACE_SUBRESOURCES.contains(&rest[2]) {
                rest = &rest[2..];
            }
        }
        info.resource = rest[0].to_owned();
        info.name = rest.get(1).unwrap_or(&"").to_string();
        info.subresource = rest.get(2).unwrap_or(&"").to_string();
        if rest.len() > 3 || (rest.len() == 3 && path.ends_with('/')) {
            info.rest = format!("/{}", rest[3..].join("/"));
            if path.ends_with('/') && info.rest.len() > 1 {
                info.rest.push('/');
            }
        }
        info.refine_verb(query);
        info
    }

    fn refine_verb(&mut self, query: &Query) {
        if self.name.is_empty() && self.verb == "get" {
            self.verb = if query.flag("watch") { "watch" } else { "list" }.to_owned();
        }
        if self.name.is_empty() && self.verb == "delete" {
            self.verb = "deletecollection".to_owned();
        }
        if self.name.is_empty() && matches!(self.verb.as_str(), "list" | "watch" | "deletecollection") {
            let selector =
                query.get("fieldSelector").and_then(|text| api::fields::Selector::parse(text).ok());
            if let Some(name) = selector.as_ref().and_then(|selector| selector.exact("metadata.name"))
                && api::names::path_segment(name).is_empty()
            {
                self.name = name.to_owned();
            }
        }
    }

    /// True for get, list and watch.
    pub fn read_only(&self) -> bool {
        matches!(self.verb.as_str(), "get" | "list" | "watch")
    }
}

fn verb_of(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::GET | Method::HEAD => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    }
}

/// Undoes `%XX`; broken escapes stay as they are, invalid UTF-8 is replaced.
pub fn percent_decode(text: &str) -> String {
    decode(text, false)
}

fn decode(text: &str, plus_is_space: bool) -> String {
    if !text.contains('%') && !(plus_is_space && text.contains('+')) {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = |i: usize| bytes.get(i).and_then(|b| (*b as char).to_digit(16));
        match (bytes[at], hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (b'+', ..) if plus_is_space => {
                out.push(b' ');
                at += 1;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// Query parameters in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(pub Vec<(String, String)>);

impl Query {
    /// Reads the text after `?`.
    pub fn parse(text: Option<&str>) -> Query {
        let pairs = text.unwrap_or("").split('&').filter(|pair| !pair.is_empty());
        Query(
            pairs
                .map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(key, true), decode(value, true))
                })
                .collect(),
        )
    }

    /// The first value of a parameter.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|pair| pair.0 == key).map(|pair| pair.1.as_str())
    }

    /// Every value of a parameter.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |pair| pair.0 == key).map(|pair| pair.1.as_str())
    }

    /// The text of a parameter, empty when absent.
    pub fn text(&self, key: &str) -> &str {
        self.get(key).unwrap_or("")
    }

    /// A boolean as upstream reads it: present and neither `false` nor `0` (any case).
    pub fn flag(&self, key: &str) -> bool {
        match self.get(key) {
            None => false,
            Some(text) => !text.eq_ignore_ascii_case("false") && text != "0",
        }
    }

    /// A boolean that may be absent.
    pub fn optional_flag(&self, key: &str) -> Option<bool> {
        self.get(key).map(|_| self.flag(key))
    }

    /// An integer; 400 with upstream's text when it is none.
    pub fn integer(&self, key: &str) -> Result<Option<i64>, ApiError> {
        match self.get(key) {
            None | Some("") => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|error: std::num::ParseIntError| {
                let quoted = api::validation::go_quote(text);
                let why = match error.kind() {
                    IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
                    _ => "invalid syntax",
                };
                ApiError::bad_request(format!("strconv.ParseInt: parsing {quoted}: {why}"))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: Method, uri: &str) -> String {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let info = RequestInfo::parse(&method, path, &Query::parse(Some(query)));
        format!(
            "{} {}/{} ns={} {} {} {} {}",
            info.verb,
            info.group,
            info.version,
            info.namespace,
            info.resource,
            info.name,
            info.subresource,
            info.rest
        )
    }

    #[test]
    fn reads_paths_as_upstream() {
        for (method, uri, expect) in [
            (Method::GET, "/api/v1/namespaces/a/pods", "list /v1 ns=a pods   "),
            (Method::GET, "/api/v1/namespaces/a/pods?watch=1", "watch /v1 ns=a pods   "),
            (Method::GET, "/api/v1/watch/namespaces/a/pods/x", "watch /v1 ns=a pods x  "),
            (Method::PUT, "/api/v1/namespaces/a/finalize", "update /v1 ns=a namespaces a finalize "),
            (Method::GET, "/api/v1/namespaces/a", "get /v1 ns=a namespaces a  "),
            (Method::DELETE, "/apis/apps/v1/deployments", "deletecollection apps/v1 ns= deployments   "),
            (Method::GET, "/api/v1/nodes/n/proxy/a/b/", "get /v1 ns= nodes n proxy /a/b/"),
            (Method::GET, "/api/v1/nodes?fieldSelector=metadata.name%3Dx", "list /v1 ns= nodes x  "),
            (Method::GET, "/healthz", "get / ns=    "),
        ] {
            assert_eq!(check(method, uri), expect, "{uri}");
        }
    }
}
