//! Field selectors: `metadata.name=x,status.phase!=Running` (apimachinery `pkg/fields`).

/// One condition on a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The field's path, such as `spec.nodeName`.
    pub field: String,
    /// The value compared with.
    pub value: String,
    /// True for `=` and `==`, false for `!=`.
    pub equal: bool,
}

/// A conjunction of requirements; empty selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector(pub Vec<Requirement>);

/// A text that is no field selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid selector: '{selector}'; can't understand '{term}'")]
pub struct ParseError {
    selector: String,
    term: String,
}

impl Selector {
    /// Reads the text of a `fieldSelector` parameter; `\` escapes `,`, `=` and itself in values.
    pub fn parse(text: &str) -> Result<Selector, ParseError> {
        let mut requirements = Vec::new();
        for term in split_terms(text) {
            if term.is_empty() {
                continue;
            }
            let error = || ParseError { selector: text.to_owned(), term: term.clone() };
            let at = term.find(['=', '!']).ok_or_else(error)?;
            let (field, rest) = term.split_at(at);
            let (value, equal) = if let Some(value) = rest.strip_prefix("!=") {
                (value, false)
            } else if let Some(value) = rest.strip_prefix("==") {
                (value, true)
            } else {
                (rest.strip_prefix('=').ok_or_else(error)?, true)
            };
            let value = unescape(value).ok_or_else(error)?;
            requirements.push(Requirement { field: field.to_owned(), value, equal });
        }
        Ok(Selector(requirements))
    }

    /// True when everything is selected.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True when the object whose fields `lookup` knows is selected; an unknown field reads as empty.
    pub fn matches<'a>(&self, lookup: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.0.iter().all(|r| (lookup(&r.field).unwrap_or("") == r.value) == r.equal)
    }

    /// The value that `field` must equal, if the selector demands one.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.0.iter().find(|r| r.equal && r.field == field).map(|r| r.value.as_str())
    }
}

fn split_terms(text: &str) -> Vec<String> {
    let (mut terms, mut term, mut escaped) = (Vec::new(), String::new(), false);
    for c in text.chars() {
        if c == ',' && !escaped {
            terms.push(std::mem::take(&mut term));
            continue;
        }
        escaped = c == '\\' && !escaped;
        term.push(c);
    }
    terms.push(term);
    terms
}

fn unescape(text: &str) -> Option<String> {
    let (mut out, mut chars) = (String::with_capacity(text.len()), text.chars());
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.push(chars.next().filter(|c| matches!(c, '\\' | ',' | '='))?),
            ',' | '=' => return None,
            c => out.push(c),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_matches() {
        let fields = |name: &str| match name {
            "a" => Some("1"),
            "b" => Some("x,y"),
            _ => None,
        };
        for (text, expect) in [
            ("", Ok(true)),
            ("a=1", Ok(true)),
            ("a==1,b=x\\,y", Ok(true)),
            ("a!=1", Ok(false)),
            ("c=", Ok(true)),
            ("c!=z", Ok(true)),
            ("a", Err(())),
            ("a=1=2", Err(())),
        ] {
            let result = Selector::parse(text).map(|s| s.matches(fields)).map_err(|_| ());
            assert_eq!(result, expect, "{text}");
        }
        assert_eq!(Selector::parse("a=1").expect("valid").exact("a"), Some("1"));
    }
}
