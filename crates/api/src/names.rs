//! Name rules. Each check returns upstream's messages, none when the name is good
//! (apimachinery `pkg/util/validation`).

/// The longest DNS label, in bytes.
pub const DNS1123_LABEL_MAX: usize = 63;
/// The longest DNS subdomain, in bytes.
pub const DNS1123_SUBDOMAIN_MAX: usize = 253;

const LABEL_FORMAT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN_FORMAT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const QUALIFIED_FORMAT: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";

fn too_long(limit: usize) -> String {
    format!("must be no more than {limit} characters")
}

/// As [`too_long`]; upstream's newer rules count otherwise.
fn too_many_bytes(limit: usize) -> String {
    format!("must be no more than {limit} bytes")
}

/// A rule with the pattern behind it and examples, as upstream words it.
pub fn format_error(rule: &str, format: &str, examples: &[&str]) -> String {
    let mut text = format!("{rule} (");
    for (index, example) in examples.iter().enumerate() {
        text.push_str(if index == 0 { "e.g. " } else { " or " });
        text.push_str(&format!("'{example}', "));
    }
    format!("{text}regex used for validation is '{format}')")
}

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    !bytes.is_empty()
        && edge(bytes[0])
        && edge(bytes[bytes.len() - 1])
        && bytes.iter().all(|byte| edge(*byte) || *byte == b'-')
}

/// RFC 1123 label: most names of parts (containers, namespaces, services' ports).
pub fn dns1123_label(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > DNS1123_LABEL_MAX {
        errors.push(too_long(DNS1123_LABEL_MAX));
    }
    if !is_label(text) && text.split('.').all(is_label) {
        errors.push("must not contain dots".to_owned());
    } else if !is_label(text) {
        let rule = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', \
                    and must start and end with an alphanumeric character";
        errors.push(format_error(rule, LABEL_FORMAT, &["my-name", "123-abc"]));
    }
    errors
}

/// RFC 1123 subdomain: most object names.
pub fn dns1123_subdomain(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > DNS1123_SUBDOMAIN_MAX {
        errors.push(too_long(DNS1123_SUBDOMAIN_MAX));
    }
    if !text.split('.').all(is_label) {
        let rule = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, \
                    '-' or '.', and must start and end with an alphanumeric character";
        errors.push(format_error(rule, SUBDOMAIN_FORMAT, &["example.com"]));
    }
    errors
}

/// RFC 1035 label: service names.
pub fn dns1035_label(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > DNS1123_LABEL_MAX {
        errors.push(too_long(DNS1123_LABEL_MAX));
    }
    if !is_label(text) || !text.starts_with(|c: char| c.is_ascii_lowercase()) {
        let rule = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with \
                    an alphabetic character, and end with an alphanumeric character";
        errors.push(format_error(rule, "[a-z]([-a-z0-9]*[a-z0-9])?", &["my-name", "abc-123"]));
    }
    errors
}

/// A wildcard subdomain: `*.example.com`.
pub fn wildcard_dns1123_subdomain(text: &str) -> Vec<String> {
    match text.strip_prefix("*.") {
        Some(rest) if rest.split('.').all(is_label) && text.len() <= DNS1123_SUBDOMAIN_MAX => Vec::new(),
        _ => {
            let rule = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS \
                        subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and \
                        end with an alphanumeric character";
            vec![format_error(rule, &format!("\\*\\.{SUBDOMAIN_FORMAT}"), &["*.example.com"])]
        }
    }
}

fn is_qualified_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    !bytes.is_empty()
        && bytes[0].is_ascii_alphanumeric()
        && bytes[bytes.len() - 1].is_ascii_alphanumeric()
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

/// A label key, annotation key, finalizer or resource name: `name` or `prefix/name`.
pub fn qualified_name(text: &str) -> Vec<String> {
    let rule = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
                alphanumeric character";
    let examples = ["MyName", "my.name", "123-abc"];
    let mut errors = Vec::new();
    let parts: Vec<&str> = text.split('/').collect();
    let name = match parts[..] {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".to_owned());
            } else {
                errors.extend(dns1123_subdomain(prefix).into_iter().map(|why| format!("prefix part {why}")));
            }
            name
        }
        _ => {
            let text = format_error(&format!("a valid label key {rule}"), QUALIFIED_FORMAT, &examples);
            return vec![format!(
                "{text} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > DNS1123_LABEL_MAX {
        errors.push(format!("name part {}", too_many_bytes(DNS1123_LABEL_MAX)));
    }
    if !is_qualified_part(name) {
        errors.push(format!("name part {}", format_error(rule, QUALIFIED_FORMAT, &examples)));
    }
    errors
}

/// A label's value.
pub fn label_value(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > DNS1123_LABEL_MAX {
        errors.push(too_many_bytes(DNS1123_LABEL_MAX));
    }
    if !text.is_empty() && !is_qualified_part(text) {
        let rule = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or \
                    '.', and must start and end with an alphanumeric character";
        let format = format!("({QUALIFIED_FORMAT})?");
        errors.push(format_error(rule, &format, &["MyValue", "my_value", "12345"]));
    }
    errors
}

/// A name of the C language.
pub fn c_identifier(text: &str) -> Vec<String> {
    let first = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if first && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Vec::new();
    }
    let rule = "a valid C identifier must start with alphabetic character or '_', followed by a string of \
                alphanumeric characters or '_'";
    vec![format_error(rule, "[A-Za-z_][A-Za-z0-9_]*", &["my_name", "MY_NAME", "MyName"])]
}

/// An environment variable's name, as upstream has accepted it since v1.30: any printable ASCII but `=`.
pub fn env_var_name(text: &str) -> Vec<String> {
    if text.is_empty() || !text.bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b'=') {
        let rule = "a valid environment variable name must consist only of printable ASCII characters other \
                    than '='";
        return vec![rule.to_owned()];
    }
    Vec::new()
}

/// A ConfigMap's or Secret's key.
pub fn config_map_key(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > DNS1123_SUBDOMAIN_MAX {
        errors.push(too_long(DNS1123_SUBDOMAIN_MAX));
    }
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)) {
        let rule = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
        errors.push(format_error(rule, "[-._a-zA-Z0-9]+", &["key.name", "KEY_NAME", "key-name"]));
    }
    match text {
        "." => errors.push("must not be '.'".to_owned()),
        ".." => errors.push("must not be '..'".to_owned()),
        _ if text.starts_with("..") => errors.push("must not start with '..'".to_owned()),
        _ => {}
    }
    errors
}

/// A port's number.
pub fn port_number(port: i64) -> Vec<String> {
    if (1..=65_535).contains(&port) { Vec::new() } else { vec![in_range(1, 65_535)] }
}

/// A named port (IANA service name).
pub fn port_name(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > 15 {
        errors.push("must be no more than 15 characters".to_owned());
    }
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        errors.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        errors.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        errors.push("must not begin or end with a hyphen".to_owned());
    }
    errors
}

/// The message for a number outside `low..=high`.
pub fn in_range(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

/// The name of an object in a URL path: no `.`, `..`, `/` or `%`.
pub fn path_segment(text: &str) -> Vec<String> {
    if text == "." || text == ".." {
        return vec![format!("may not be '{text}'")];
    }
    ["/", "%"].iter().filter(|c| text.contains(**c)).map(|c| format!("may not contain '{c}'")).collect()
}

/// An IP address in its canonical or an accepted legacy form.
pub fn ip(text: &str) -> Vec<String> {
    match text.parse::<std::net::IpAddr>() {
        Ok(_) => Vec::new(),
        Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules() {
        type Check = fn(&str) -> Vec<String>;
        for (check, good, bad) in [
            (dns1123_label as Check, vec!["a", "a-1", "1a"], vec!["", "A", "-a", "a-", "a.b"]),
            (dns1123_subdomain, vec!["a", "a.b-c"], vec!["", ".a", "a..b", "A"]),
            (dns1035_label, vec!["a1"], vec!["1a", ""]),
            (qualified_name, vec!["a", "A_b.c", "x.io/Ab"], vec!["", "/a", "a/", "a/b/c", "-a", "X/a"]),
            (label_value, vec!["", "a", "A.b_c"], vec!["-a", "a b"]),
            (config_map_key, vec!["a.b_c-D", ".x"], vec!["", "..", "..a", "a/b"]),
            (port_name, vec!["http", "a-1"], vec!["", "123", "a--b", "-a", "abcdefghijklmnop"]),
            (env_var_name, vec!["A", "1", "a b"], vec!["", "a=b", "a\n"]),
            (path_segment, vec!["a:b"], vec!["..", "a/b", "a%"]),
            (ip, vec!["10.0.0.1", "::1"], vec!["", "10.0.0", "010.0.0.1"]),
        ] {
            good.iter().for_each(|text| assert_eq!(check(text), Vec::<String>::new(), "{text}"));
            bad.iter().for_each(|text| assert!(!check(text).is_empty(), "{text}"));
        }
    }
}
