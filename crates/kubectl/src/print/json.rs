//! JSON as Go indents it, and KYAML: YAML in flow style that every YAML reader takes.

use serde_json::Value;

/// Four spaces a level; `<`, `>` and `&` escaped, as Go does.
pub fn pretty(value: &Value) -> String {
    let mut out = String::new();
    write(value, 0, &mut out);
    out.push('\n');
    out
}

fn indent(depth: usize, out: &mut String) {
    out.push('\n');
    out.extend(std::iter::repeat_n("    ", depth));
}

fn write(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Array(items) if !items.is_empty() => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                out.push_str(if at > 0 { "," } else { "" });
                indent(depth + 1, out);
                write(item, depth + 1, out);
            }
            indent(depth, out);
            out.push(']');
        }
        Value::Object(fields) if !fields.is_empty() => {
            out.push('{');
            for (at, (key, item)) in fields.iter().enumerate() {
                out.push_str(if at > 0 { "," } else { "" });
                indent(depth + 1, out);
                out.push_str(&text(key));
                out.push_str(": ");
                write(item, depth + 1, out);
            }
            indent(depth, out);
            out.push('}');
        }
        Value::String(content) => out.push_str(&text(content)),
        other => out.push_str(&other.to_string()),
    }
}

/// A quoted text as Go's encoder writes it.
pub fn text(content: &str) -> String {
    let quoted = Value::String(content.to_owned()).to_string();
    let mut out = String::with_capacity(quoted.len());
    for letter in quoted.chars() {
        match letter {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            other => out.push(other),
        }
    }
    out
}

/// A value in one line, as Go's encoder writes it.
pub fn compact(value: &Value) -> String {
    let plain = value.to_string();
    let mut out = String::with_capacity(plain.len());
    for letter in plain.chars() {
        match letter {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            other => out.push(other),
        }
    }
    out
}

/// KYAML of one document.
pub fn kyaml(value: &Value) -> String {
    let mut out = "---\n".to_owned();
    write_kyaml(value, 0, &mut out);
    out.push('\n');
    out
}

fn kyaml_indent(depth: usize, out: &mut String) {
    out.push('\n');
    out.extend(std::iter::repeat_n("  ", depth));
}

fn write_kyaml(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Array(items) if !items.is_empty() => {
            // Objects hug the brackets of their list.
            let hug = items.iter().all(Value::is_object);
            let inner = if hug { depth } else { depth + 1 };
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if hug {
                    out.push_str(if at > 0 { ", " } else { "" });
                } else {
                    kyaml_indent(inner, out);
                }
                write_kyaml(item, inner, out);
                out.push_str(if hug { "" } else { "," });
            }
            if !hug {
                kyaml_indent(depth, out);
            }
            out.push(']');
        }
        Value::Object(fields) if !fields.is_empty() => {
            out.push('{');
            for (key, item) in fields {
                kyaml_indent(depth + 1, out);
                out.push_str(&kyaml_key(key));
                out.push_str(": ");
                write_kyaml(item, depth + 1, out);
                out.push(',');
            }
            kyaml_indent(depth, out);
            out.push('}');
        }
        Value::String(content) => out.push_str(&Value::String(content.clone()).to_string()),
        other => out.push_str(&other.to_string()),
    }
}

fn kyaml_key(key: &str) -> String {
    const WORDS: [&str; 10] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n", "~"];
    let plain = key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && key.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c))
        && !WORDS.contains(&key.to_lowercase().as_str());
    if plain { key.to_owned() } else { Value::String(key.to_owned()).to_string() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn indented_as_go_does() {
        let value = json!({"a": [], "b": {}, "c": [1, {"d": "x&y"}], "e": null});
        let expect = "{\n    \"a\": [],\n    \"b\": {},\n    \"c\": [\n        1,\n        {\n            \"d\": \
            \"x\\u0026y\"\n        }\n    ],\n    \"e\": null\n}\n";
        assert_eq!(pretty(&value), expect);
    }

    #[test]
    fn kyaml_hugs_lists_of_objects() {
        let value = json!({"items": [{"a": "x"}, {"b": 1}], "words": ["u"], "yes": true});
        let expect = "---\n{\n  items: [{\n    a: \"x\",\n  }, {\n    b: 1,\n  }],\n  words: [\n    \"u\",\n  ],\n  \"yes\": true,\n}\n";
        assert_eq!(kyaml(&value), expect);
    }
}
