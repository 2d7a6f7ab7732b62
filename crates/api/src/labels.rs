//! Label selectors, in their text and their object form (apimachinery `pkg/labels`).

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use crate::names;

/// How a requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "upstream's own names")]
pub enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

/// One condition on a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// The comparison.
    pub operator: Operator,
    /// The values compared with, sorted.
    pub values: Vec<String>,
}

/// A conjunction of requirements; empty selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// All must hold.
    pub requirements: Vec<Requirement>,
    /// Selects nothing, whatever the requirements.
    nothing: bool,
}

/// A text or object that is no label selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(String);

impl Requirement {
    /// True when labels, read through `lookup`, satisfy it.
    pub fn matches<'a>(&self, lookup: impl Fn(&str) -> Option<&'a str>) -> bool {
        let value = lookup(&self.key);
        let compare = |holds: fn(i64, i64) -> bool| {
            let own = value.and_then(|value| value.parse().ok());
            let bound = self.values.first().and_then(|value| value.parse().ok());
            matches!((own, bound), (Some(own), Some(bound)) if holds(own, bound))
        };
        match self.operator {
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::In => value.is_some_and(|value| self.values.iter().any(|one| one == value)),
            Operator::NotIn => value.is_none_or(|value| self.values.iter().all(|one| one != value)),
            Operator::GreaterThan => compare(|own, bound| own > bound),
            Operator::LessThan => compare(|own, bound| own < bound),
        }
    }
}

impl Selector {
    /// Selects everything.
    pub fn everything() -> Self {
        Selector::default()
    }

    /// Selects nothing.
    pub fn nothing() -> Self {
        Selector { requirements: Vec::new(), nothing: true }
    }

    /// True when everything is selected.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    /// True when nothing can be selected.
    pub fn is_nothing(&self) -> bool {
        self.nothing
    }

    /// From a map of labels that must all be equal (a Service's or ReplicationController's selector).
    pub fn from_map(map: &BTreeMap<String, String>) -> Self {
        let requirement = |(key, value): (&String, &String)| Requirement {
            key: key.clone(),
            operator: Operator::In,
            values: vec![value.clone()],
        };
        Selector { requirements: map.iter().map(requirement).collect(), nothing: false }
    }

    /// From the object form. Absent selects nothing, empty selects everything.
    pub fn from_object(selector: Option<&LabelSelector>) -> Result<Self, ParseError> {
        let Some(selector) = selector else { return Ok(Selector::nothing()) };
        let mut out = selector.match_labels.as_ref().map(Selector::from_map).unwrap_or_default();
        for expression in selector.match_expressions.iter().flatten() {
            out.requirements.push(requirement_from_object(expression)?);
        }
        Ok(out)
    }

    /// Reads the text of a `labelSelector` parameter: `a=b,c!=d,e in (f,g),h,!i,j>3`.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let fail = |why: String| ParseError(format!("unable to parse requirement: {why}"));
        let mut parser = Parser { text, at: 0 };
        let mut requirements = Vec::new();
        while parser.peek().is_some() {
            requirements.push(parser.requirement().map_err(fail)?);
            match parser.peek() {
                None => break,
                Some(',') => {
                    parser.bump();
                    if parser.peek().is_none() {
                        return Err(fail("found '', expected: identifier after ','".to_owned()));
                    }
                }
                Some(c) => return Err(fail(format!("found '{c}', expected: ',' or 'end of string'"))),
            }
        }
        requirements.sort_by(|a: &Requirement, b| a.key.cmp(&b.key));
        Ok(Selector { requirements, nothing: false })
    }

    /// True when labels, read through `lookup`, are selected.
    pub fn matches_with<'a>(&self, lookup: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|requirement| requirement.matches(&lookup))
    }

    /// True when these labels are selected.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.matches_with(|key| labels.get(key).map(String::as_str))
    }

    /// True when an object's optional labels are selected.
    pub fn matches_opt(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        self.matches_with(|key| labels.and_then(|labels| labels.get(key)).map(String::as_str))
    }

    /// The value that `key` must equal, if the selector demands exactly one.
    pub fn exact(&self, key: &str) -> Option<&str> {
        let one = |r: &&Requirement| r.key == key && r.operator == Operator::In && r.values.len() == 1;
        self.requirements.iter().find(one).map(|r| r.values[0].as_str())
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            let (key, values) = (&requirement.key, requirement.values.join(","));
            match (requirement.operator, requirement.values.len()) {
                (Operator::Exists, _) => write!(f, "{key}")?,
                (Operator::DoesNotExist, _) => write!(f, "!{key}")?,
                (Operator::In, 1) => write!(f, "{key}={values}")?,
                (Operator::In, _) => write!(f, "{key} in ({values})")?,
                (Operator::NotIn, 1) => write!(f, "{key}!={values}")?,
                (Operator::NotIn, _) => write!(f, "{key} notin ({values})")?,
                (Operator::GreaterThan, _) => write!(f, "{key}>{values}")?,
                (Operator::LessThan, _) => write!(f, "{key}<{values}")?,
            }
        }
        Ok(())
    }
}

fn requirement_from_object(expression: &LabelSelectorRequirement) -> Result<Requirement, ParseError> {
    let operator = match expression.operator.as_str() {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        other => return Err(ParseError(format!("{other:?} is not a valid label selector operator"))),
    };
    let mut values = expression.values.clone().unwrap_or_default();
    values.sort();
    Ok(Requirement { key: expression.key.clone(), operator, values })
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl Parser<'_> {
    fn peek(&mut self) -> Option<char> {
        let rest = &self.text[self.at..];
        let trimmed = rest.trim_start();
        self.at += rest.len() - trimmed.len();
        trimmed.chars().next()
    }

    fn bump(&mut self) {
        self.at += self.text[self.at..].chars().next().map_or(0, char::len_utf8);
    }

    fn word(&mut self) -> String {
        self.peek();
        let rest = &self.text[self.at..];
        let end = rest.find(|c: char| c.is_whitespace() || "=!(),<>".contains(c)).unwrap_or(rest.len());
        self.at += end;
        rest[..end].to_owned()
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let negated = self.peek() == Some('!');
        if negated {
            self.bump();
        }
        let key = self.word();
        if key.is_empty() {
            let found = self.peek().map(String::from).unwrap_or_default();
            return Err(format!("found '{found}', expected: !, identifier, or 'end of string'"));
        }
        if let Some(why) = names::qualified_name(&key).into_iter().next() {
            return Err(format!("<nil>: Invalid value: {key:?}: {why}"));
        }
        let plain = |operator, values| Ok(Requirement { key: key.clone(), operator, values });
        if negated {
            return plain(Operator::DoesNotExist, Vec::new());
        }
        match self.peek() {
            None | Some(',') => plain(Operator::Exists, Vec::new()),
            Some('=') => {
                self.bump();
                if self.peek() == Some('=') {
                    self.bump();
                }
                let value = self.value(&key)?;
                plain(Operator::In, vec![value])
            }
            Some('!') => {
                self.bump();
                if self.peek() != Some('=') {
                    return Err("found '!', expected: in, notin, =, ==, !=, gt, lt".to_owned());
                }
                self.bump();
                let value = self.value(&key)?;
                plain(Operator::NotIn, vec![value])
            }
            Some(sign @ ('>' | '<')) => {
                self.bump();
                let value = self.value(&key)?;
                if value.parse::<i64>().is_err() {
                    let detail = "for 'Gt', 'Lt' operators, the value must be an integer";
                    return Err(format!("values[0]: Invalid value: {value:?}: {detail}"));
                }
                plain(if sign == '>' { Operator::GreaterThan } else { Operator::LessThan }, vec![value])
            }
            Some(_) => self.set(&key),
        }
    }

    fn value(&mut self, key: &str) -> Result<String, String> {
        // An empty value is legal: `a=` or `a=,b`.
        let value = match self.peek() {
            None | Some(',') => String::new(),
            Some(symbol @ ('=' | '!' | '(' | ')' | '<' | '>')) => {
                self.bump();
                let double = matches!(symbol, '=' | '!') && self.peek() == Some('=');
                let more = if double { "=" } else { "" };
                return Err(format!("found '{symbol}{more}', expected: identifier"));
            }
            Some(_) => self.word(),
        };
        check_value(key, &value)?;
        Ok(value)
    }

    fn set(&mut self, key: &str) -> Result<Requirement, String> {
        let operator = match self.word().as_str() {
            "in" => Operator::In,
            "notin" => Operator::NotIn,
            other => return Err(format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt")),
        };
        if self.peek() != Some('(') {
            let found = self.peek().map(String::from).unwrap_or_default();
            return Err(format!("found '{found}' expected: '('"));
        }
        self.bump();
        let mut values = Vec::new();
        loop {
            let value = self.word();
            check_value(key, &value)?;
            values.push(value);
            match self.peek() {
                Some(',') => self.bump(),
                Some(')') => {
                    self.bump();
                    break;
                }
                found => {
                    let found = found.map(String::from).unwrap_or_default();
                    return Err(format!("found '{found}', expected: ',' or ')'"));
                }
            }
        }
        values.sort();
        values.dedup();
        Ok(Requirement { key: key.to_owned(), operator, values })
    }
}

fn check_value(key: &str, value: &str) -> Result<(), String> {
    match names::label_value(value).into_iter().next() {
        None => Ok(()),
        Some(why) => Err(format!("values[0][{key}]: Invalid value: {value:?}: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_prints_and_matches() {
        let labels: BTreeMap<String, String> =
            [("app", "web"), ("tier", "3"), ("empty", "")].map(|(k, v)| (k.into(), v.into())).into();
        for (text, printed, expect) in [
            ("", "", true),
            ("app=web", "app=web", true),
            ("app == web , tier", "app=web,tier", true),
            ("app!=web", "app!=web", false),
            ("gone!=x", "gone!=x", true),
            ("app in (db, web)", "app in (db,web)", true),
            ("app notin (web)", "app!=web", false),
            ("!gone", "!gone", true),
            ("!app", "!app", false),
            ("tier>2", "tier>2", true),
            ("tier<3", "tier<3", false),
            ("empty=", "empty=", true),
        ] {
            let selector = Selector::parse(text).expect(text);
            assert_eq!(
                (selector.to_string().as_str(), selector.matches(&labels)),
                (printed, expect),
                "{text}"
            );
        }
        for text in ["a=b,", "a b", "=", "a in b", "a in (b", "a!b", "a=b c", "-a=b", "a>x", "a=-"] {
            assert!(Selector::parse(text).is_err(), "{text}");
        }
        assert!(!Selector::from_object(None).expect("valid").matches(&labels));
        assert!(Selector::from_object(Some(&LabelSelector::default())).expect("valid").matches(&labels));
    }
}
