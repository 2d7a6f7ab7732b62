//! JSONPath as kubectl understands it: templates of text and `{expressions}`, with `range`, filters, unions,
//! slices and recursive descent.
//!
//! Pure evaluation over values. It must not know output formats beyond its own text.

use serde_json::Value;
use thiserror::Error;

/// Why a template is wrong or finds nothing. The text is client-go's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct JsonPathError(String);

fn fail<T>(message: impl Into<String>) -> Result<T, JsonPathError> {
    Err(JsonPathError(message.into()))
}

/// A parsed template.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    nodes: Vec<Node>,
}

type List = Vec<Node>;

#[derive(Debug, Clone, PartialEq)]
enum Node {
    /// Text outside of braces or in quotes.
    Text(String),
    Int(i64),
    Float(f64),
    Bool(bool),
    Field(String),
    /// `range` or `end`.
    Word(String),
    Array([Param; 3]),
    Filter(List, String, List),
    Wildcard,
    Recursive,
    Union(Vec<List>),
    /// `{…}`.
    Action(List),
}

#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Param {
    value: i64,
    known: bool,
    derived: bool,
}

/// Nesting of expressions deeper than this is refused.
const MAX_DEPTH: usize = 64;
/// At most this many values are looked at by `..` in one step.
const MAX_DESCENT: usize = 100_000;

// ---- parsing ----

struct Parser<'a> {
    input: &'a str,
    at: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<char> {
        self.input[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn starts(&self, text: &str) -> bool {
        self.input[self.at..].starts_with(text)
    }

    fn take_while(&mut self, keep: impl Fn(char) -> bool) -> &'a str {
        let start = self.at;
        while self.peek().is_some_and(&keep) {
            self.next();
        }
        &self.input[start..self.at]
    }

    /// Text and actions up to the end.
    fn template(&mut self) -> Result<List, JsonPathError> {
        let mut out = List::new();
        while self.at < self.input.len() {
            let text = self.take_while(|c| c != '{');
            if !text.is_empty() {
                out.push(Node::Text(text.to_string()));
            }
            if self.next().is_some() {
                let mut inside = List::new();
                self.action(&mut inside, true)?;
                out.push(Node::Action(inside));
            }
        }
        Ok(out)
    }

    /// Inside of braces, or (without `closed`) a piece of an expression up to its end.
    fn action(&mut self, out: &mut List, closed: bool) -> Result<(), JsonPathError> {
        loop {
            match self.peek() {
                None | Some('\n') if closed => return fail("unclosed action"),
                None => return Ok(()),
                Some('}') if closed => {
                    self.next();
                    return Ok(());
                }
                Some(' ' | '\t' | '@' | '$' | '\n' | '\r') => {
                    self.next();
                }
                Some('[') if self.starts("[?(") => self.filter(out)?,
                Some('[') => self.array(out)?,
                Some(quote @ ('"' | '\'')) => self.quoted(quote, out)?,
                Some('.') if self.starts("..") => {
                    if out.last() == Some(&Node::Recursive) {
                        return fail("invalid multiple recursive descent");
                    }
                    self.at += 2;
                    out.push(Node::Recursive);
                    if self.peek().is_some_and(|c| c == '_' || c.is_alphanumeric()) {
                        self.field(out);
                    }
                }
                Some('.') => {
                    self.next();
                    self.field(out);
                }
                Some('+' | '-' | '0'..='9') => self.number(out)?,
                Some(c) if c == '_' || c.is_alphanumeric() => {
                    let word = self.take_while(|c| !terminator(c));
                    out.push(match word {
                        "true" => Node::Bool(true),
                        "false" => Node::Bool(false),
                        word => Node::Word(word.to_string()),
                    });
                }
                Some(c) => {
                    return fail(format!("unrecognized character in action: U+{:04X} '{c}'", c as u32));
                }
            }
        }
    }

    fn field(&mut self, out: &mut List) {
        let mut name = String::new();
        while let Some(c) = self.peek() {
            if c == '\\' {
                self.next();
                name.extend(self.next());
            } else if terminator(c) {
                break;
            } else {
                name.extend(self.next());
            }
        }
        out.push(if name == "*" { Node::Wildcard } else { Node::Field(name) });
    }

    fn number(&mut self, out: &mut List) -> Result<(), JsonPathError> {
        let start = self.at;
        if let Some('+' | '-') = self.peek() {
            self.next();
        }
        self.take_while(|c| c == '.' || c.is_ascii_digit());
        let text = &self.input[start..self.at];
        match (text.parse::<i64>(), text.parse::<f64>()) {
            (Ok(n), _) => out.push(Node::Int(n)),
            (_, Ok(n)) => out.push(Node::Float(n)),
            _ => return fail(format!("cannot parse number {text}")),
        }
        Ok(())
    }

    fn quoted(&mut self, quote: char, out: &mut List) -> Result<(), JsonPathError> {
        self.next();
        let mut text = String::new();
        loop {
            match self.next() {
                None | Some('\n') => return fail("unterminated quoted string"),
                Some('\\') => match self.next() {
                    Some('n') => text.push('\n'),
                    Some('t') => text.push('\t'),
                    Some('r') => text.push('\r'),
                    Some(c) => text.push(c),
                    None => return fail("unterminated quoted string"),
                },
                Some(c) if c == quote => break,
                Some(c) => text.push(c),
            }
        }
        out.push(Node::Text(text));
        Ok(())
    }

    fn piece(&self, text: &str) -> Result<List, JsonPathError> {
        if self.depth >= MAX_DEPTH {
            return fail("expression is nested too deep");
        }
        let mut parser = Parser { input: text, at: 0, depth: self.depth + 1 };
        let mut out = List::new();
        parser.action(&mut out, false)?;
        Ok(out)
    }

    fn array(&mut self, out: &mut List) -> Result<(), JsonPathError> {
        let rest = &self.input[self.at + 1..];
        let Some(end) = rest.find(']').filter(|end| !rest[..*end].contains('\n')) else {
            return fail("unterminated array");
        };
        let text = &rest[..end];
        self.at += end + 2;
        let text = if text == "*" { ":" } else { text };
        if text.contains(',') {
            let parts = text.split(',').map(|part| self.piece(&format!("[{}]", part.trim_matches(' '))));
            out.push(Node::Union(parts.collect::<Result<_, _>>()?));
            return Ok(());
        }
        if let Some(key) = dict_key(text) {
            out.extend(self.piece(&format!(".{key}"))?);
            return Ok(());
        }
        out.push(Node::Array(slice(text)?));
        Ok(())
    }

    fn filter(&mut self, out: &mut List) -> Result<(), JsonPathError> {
        self.at += 3;
        let start = self.at;
        let mut quote = None;
        let mut closed_quotes = true;
        let end = loop {
            let here = self.at;
            match self.next() {
                None | Some('\n') => return fail("unterminated filter"),
                Some('\\') if quote.is_some() => {
                    self.next();
                }
                Some(c @ ('"' | '\'')) => match quote {
                    None => (quote, closed_quotes) = (Some(c), false),
                    Some(open) if open == c => (quote, closed_quotes) = (None, true),
                    Some(_) => {}
                },
                Some(')') if closed_quotes => break here,
                Some(_) => {}
            }
        };
        if self.next() != Some(']') {
            return fail("unclosed array expect ]");
        }
        let text = &self.input[start..end];
        let operator = |c: char| matches!(c, '!' | '<' | '>' | '=');
        match text.find(operator).filter(|at| *at > 0) {
            None => out.push(Node::Filter(self.piece(text)?, "exists".to_string(), List::new())),
            Some(at) => {
                let length = text[at..].find(|c| !operator(c)).unwrap_or(text.len() - at);
                let (left, rest) = text.split_at(at);
                let (word, right) = rest.split_at(length);
                out.push(Node::Filter(self.piece(left)?, word.to_string(), self.piece(right)?));
            }
        }
        Ok(())
    }
}

fn terminator(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n' | '.' | ',' | '[' | ']' | '$' | '@' | '{' | '}')
}

/// `'name'`: a field in brackets.
fn dict_key(text: &str) -> Option<&str> {
    let inner = text.strip_prefix('\'')?.strip_suffix('\'')?;
    (!inner.is_empty() && !inner.contains('\'')).then_some(inner)
}

fn slice(text: &str) -> Result<[Param; 3], JsonPathError> {
    let parts: Vec<&str> = text.split(':').collect();
    if parts.len() > 3 {
        return fail(format!("invalid array index {text}"));
    }
    let mut params = [Param::default(); 3];
    for (at, part) in parts.iter().enumerate().filter(|(_, part)| !part.is_empty()) {
        match part.parse() {
            Ok(value) => params[at] = Param { value, known: true, derived: false },
            Err(_) => return fail(format!("invalid array index {text}")),
        }
    }
    match parts.as_slice() {
        [""] => return fail(format!("invalid array index {text}")),
        [_] => params[1] = Param { value: params[0].value + 1, known: true, derived: true },
        _ => {}
    }
    Ok(params)
}

// ---- evaluating ----

/// A found value: part of the object, or made by the expression.
#[derive(Debug, Clone)]
enum Found<'v> {
    Here(&'v Value),
    Made(Value),
}

impl<'v> Found<'v> {
    fn get(&self) -> &Value {
        match self {
            Found::Here(value) => value,
            Found::Made(value) => value,
        }
    }
}

struct Evaluation {
    allow_missing: bool,
    depth: usize,
}

type Values<'v> = Vec<Found<'v>>;

impl Template {
    /// Parses a template such as `{.items[*].metadata.name}{"\n"}`.
    pub fn parse(text: &str) -> Result<Template, JsonPathError> {
        Ok(Template { nodes: Parser { input: text, at: 0, depth: 0 }.template()? })
    }

    /// Parses what kubectl accepts on a command line: the braces and the leading dot may be missing
    /// (`metadata.name`, `.metadata.name`, `{metadata.name}`).
    pub fn parse_relaxed(text: &str) -> Result<Template, JsonPathError> {
        let inner = text.trim();
        let inner = inner.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(inner);
        let dotted = inner.starts_with(['.', '[', '$', '@']);
        Template::parse(&if dotted { format!("{{{inner}}}") } else { format!("{{.{inner}}}") })
    }

    /// The values each part of the template finds.
    pub fn find(&self, object: &Value, allow_missing: bool) -> Result<Vec<Vec<Value>>, JsonPathError> {
        let mut all = Vec::new();
        let mut evaluation = Evaluation { allow_missing, depth: 0 };
        evaluation.run(&self.nodes, object, &mut |values| {
            all.push(values.iter().map(|found| found.get().clone()).collect());
        })?;
        Ok(all)
    }

    /// The text: values of a part joined by spaces, objects and lists as JSON.
    pub fn execute(&self, object: &Value, allow_missing: bool) -> Result<String, JsonPathError> {
        let mut out = String::new();
        let mut evaluation = Evaluation { allow_missing, depth: 0 };
        evaluation.run(&self.nodes, object, &mut |values| {
            for (at, found) in values.iter().enumerate() {
                if at > 0 {
                    out.push(' ');
                }
                out.push_str(&print(found.get()));
            }
        })?;
        Ok(out)
    }
}

fn print(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(n) => match n.as_f64() {
            Some(float) if n.is_f64() && float.abs() >= 1e21 => format!("{float:e}"),
            _ => n.to_string(),
        },
        other => other.to_string(),
    }
}

impl Evaluation {
    /// Runs a template's parts in order; `range` repeats up to its `end`.
    fn run<'v>(
        &mut self,
        nodes: &[Node],
        object: &'v Value,
        emit: &mut impl FnMut(&Values<'v>),
    ) -> Result<(), JsonPathError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return fail("ranges are nested too deep");
        }
        let mut at = 0;
        while at < nodes.len() {
            let node = &nodes[at];
            at += 1;
            match word(node) {
                Some("range") => {
                    let end = match_end(&nodes[at..]).map(|length| at + length);
                    let body = &nodes[at..end.unwrap_or(nodes.len())];
                    let Node::Action(inside) = node else { continue };
                    for item in self.list(vec![Found::Here(object)], &inside[1..])? {
                        if let Found::Here(item) = item {
                            self.run(body, item, emit)?;
                        }
                    }
                    at = end.map_or(nodes.len(), |end| end + 1);
                }
                Some("end") => return fail("not in range, nothing to end"),
                _ => {
                    let values = self.step(vec![Found::Here(object)], node)?;
                    emit(&values);
                }
            }
        }
        self.depth -= 1;
        Ok(())
    }

    fn list<'v>(&self, mut values: Values<'v>, nodes: &[Node]) -> Result<Values<'v>, JsonPathError> {
        for node in nodes {
            values = self.step(values, node)?;
        }
        Ok(values)
    }

    fn step<'v>(&self, values: Values<'v>, node: &Node) -> Result<Values<'v>, JsonPathError> {
        let made = |value: Value| Ok(vec![Found::Made(value)]);
        match node {
            Node::Text(text) => made(Value::String(text.clone())),
            Node::Int(n) => made(Value::from(*n)),
            Node::Float(n) => made(Value::from(*n)),
            Node::Bool(set) => made(Value::Bool(*set)),
            Node::Action(inside) => self.list(values, inside),
            Node::Field(name) => self.field(values, name),
            Node::Word(word) => fail(format!("unrecognized identifier {word}")),
            Node::Array(params) => array(values, *params),
            Node::Filter(left, operator, right) => self.filter(values, left, operator, right),
            Node::Wildcard => Ok(values.iter().flat_map(children).collect()),
            Node::Recursive => {
                let mut out = Values::new();
                for value in values {
                    descend(value, &mut out)?;
                }
                Ok(out)
            }
            Node::Union(lists) => {
                let mut out = Values::new();
                for list in lists {
                    out.extend(self.list(values.clone(), list)?);
                }
                Ok(out)
            }
        }
    }

    fn field<'v>(&self, values: Values<'v>, name: &str) -> Result<Values<'v>, JsonPathError> {
        if values.is_empty() || name.is_empty() {
            return Ok(values);
        }
        let found: Values<'v> = values.iter().filter_map(|value| below(value, name)).collect();
        match found.is_empty() && !self.allow_missing {
            true => fail(format!("{name} is not found")),
            false => Ok(found),
        }
    }

    fn filter<'v>(
        &self,
        values: Values<'v>,
        left: &[Node],
        operator: &str,
        right: &[Node],
    ) -> Result<Values<'v>, JsonPathError> {
        let mut out = Values::new();
        for value in values {
            if !value.get().is_array() {
                return fail(format!("{} is not array or slice and cannot be filtered", print(value.get())));
            }
            for item in children(&value) {
                let lefts = self.list(vec![item.clone()], left);
                if operator == "exists" {
                    if lefts.is_ok_and(|lefts| !lefts.is_empty()) {
                        out.push(item);
                    }
                    continue;
                }
                let lefts = lefts?;
                if lefts.is_empty() {
                    continue;
                }
                let rights = self.list(vec![item.clone()], right)?;
                match (lefts.as_slice(), rights.as_slice()) {
                    (_, []) => {}
                    ([one], [other]) => {
                        if compare(one.get(), operator, other.get())? {
                            out.push(item);
                        }
                    }
                    _ => return fail("can only compare one element at a time"),
                }
            }
        }
        Ok(out)
    }
}

/// `range` or `end` when a part is one.
fn word(node: &Node) -> Option<&str> {
    match node {
        Node::Action(inside) => match inside.first() {
            Some(Node::Word(word)) if word == "range" || word == "end" => Some(word),
            _ => None,
        },
        _ => None,
    }
}

/// Where the `end` of a range is among the parts after it.
fn match_end(nodes: &[Node]) -> Option<usize> {
    let mut open = 1;
    for (at, node) in nodes.iter().enumerate() {
        match word(node) {
            Some("range") => open += 1,
            Some(_) => open -= 1,
            None => {}
        }
        if open == 0 {
            return Some(at);
        }
    }
    None
}

fn below<'v>(value: &Found<'v>, name: &str) -> Option<Found<'v>> {
    match value {
        Found::Here(Value::Object(map)) => map.get(name).map(Found::Here),
        Found::Made(Value::Object(map)) => map.get(name).cloned().map(Found::Made),
        _ => None,
    }
}

fn children<'v>(value: &Found<'v>) -> Values<'v> {
    match value {
        Found::Here(Value::Array(items)) => items.iter().map(Found::Here).collect(),
        Found::Here(Value::Object(map)) => map.values().map(Found::Here).collect(),
        Found::Made(Value::Array(items)) => items.iter().cloned().map(Found::Made).collect(),
        Found::Made(Value::Object(map)) => map.values().cloned().map(Found::Made).collect(),
        _ => Values::new(),
    }
}

fn descend<'v>(value: Found<'v>, out: &mut Values<'v>) -> Result<(), JsonPathError> {
    if out.len() > MAX_DESCENT {
        return fail("recursive descent finds too much");
    }
    let inner = children(&value);
    if value.get().is_array() || value.get().is_object() {
        out.push(value);
    }
    inner.into_iter().try_for_each(|value| descend(value, out))
}

fn array<'v>(values: Values<'v>, params: [Param; 3]) -> Result<Values<'v>, JsonPathError> {
    let mut out = Values::new();
    for value in values {
        if value.get().is_null() {
            continue;
        }
        let Value::Array(items) = value.get() else {
            return fail(format!("{} is not array or slice", go_kind(value.get())));
        };
        let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
        let [first, last, step] = params;
        let mut from = if first.known { first.value } else { 0 };
        if from < 0 {
            from += length;
        }
        let mut to = if last.known { last.value } else { length };
        if to < 0 || (to == 0 && last.derived) {
            to += length;
        }
        if from == to {
            continue;
        }
        if from >= length || from < 0 {
            return fail(format!("array index out of bounds: index {from}, length {length}"));
        }
        if to > length || to < 0 {
            return fail(format!("array index out of bounds: index {}, length {length}", to - 1));
        }
        if from > to {
            return fail(format!("starting index {from} is greater than ending index {to}"));
        }
        if step.known && step.value <= 0 {
            return fail("step must be > 0");
        }
        let step = if step.known { usize::try_from(step.value).unwrap_or(usize::MAX) } else { 1 };
        let bound = |n: i64| usize::try_from(n).expect("checked to lie within the list");
        let inner = children(&value);
        out.extend(inner[bound(from)..bound(to)].iter().step_by(step).cloned());
    }
    Ok(out)
}

fn go_kind(value: &Value) -> &'static str {
    match value {
        Value::Object(_) => "map[string]interface {}",
        Value::String(_) => "string",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::Array(_) => "[]interface {}",
        Value::Null => "<nil>",
    }
}

fn compare(left: &Value, operator: &str, right: &Value) -> Result<bool, JsonPathError> {
    use std::cmp::Ordering;
    let order = match (left, right) {
        (Value::Number(a), Value::Number(b)) => {
            a.as_f64().and_then(|a| b.as_f64().and_then(|b| a.partial_cmp(&b)))
        }
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Bool(a), Value::Bool(b)) if a == b => Some(Ordering::Equal),
        (Value::Bool(_), Value::Bool(_)) if matches!(operator, "==" | "!=") => Some(Ordering::Less),
        _ => None,
    };
    match (operator, order) {
        ("==", Some(order)) => Ok(order.is_eq()),
        ("!=", Some(order)) => Ok(order.is_ne()),
        ("<", Some(order)) => Ok(order.is_lt()),
        (">", Some(order)) => Ok(order.is_gt()),
        ("<=", Some(order)) => Ok(order.is_le()),
        (">=", Some(order)) => Ok(order.is_ge()),
        ("==" | "!=" | "<" | ">" | "<=" | ">=", None) => fail("incompatible types for comparison"),
        _ => fail(format!("unrecognized filter operator {operator}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pods() -> Value {
        json!({"kind": "List", "items": [
            {"metadata": {"name": "a", "labels": {"app.kubernetes.io/name": "x"}}, "n": 1, "status": {"conditions": [{"type": "Ready", "status": "True"}]}},
            {"metadata": {"name": "b"}, "n": 2, "status": {"conditions": [{"type": "Ready", "status": "False"}]}},
            {"metadata": {"name": "c"}, "n": 3.5, "ok": true},
        ]})
    }

    #[test]
    fn templates_print_as_kubectl_does() {
        for (template, expect) in [
            ("{.kind}", "List"),
            ("kind is {.kind}!", "kind is List!"),
            ("{.items[*].metadata.name}", "a b c"),
            ("{.items[0].metadata}", r#"{"labels":{"app.kubernetes.io/name":"x"},"name":"a"}"#),
            ("{.items[-1:].metadata.name}", "c"),
            ("{.items[-1].metadata.name}", "c"),
            ("{.items[0:2].metadata.name}", "a b"),
            ("{.items[0,2].metadata.name}", "a c"),
            ("{.items[::2].n}", "1 3.5"),
            ("{range .items[*]}{.metadata.name}={.n}{\"\\n\"}{end}", "a=1\nb=2\nc=3.5\n"),
            ("{.items[?(@.n>1)].metadata.name}", "b c"),
            ("{.items[?(@.metadata.name==\"b\")].n}", "2"),
            ("{.items[?(@.ok)].metadata.name}", "c"),
            ("{.items[?(@.ok==true)].metadata.name}", "c"),
            ("{.items[0].status.conditions[?(@.type=='Ready')].status}", "True"),
            ("{..name}", "a b c"),
            ("{.items[0].metadata.labels.app\\.kubernetes\\.io/name}", "x"),
            ("{.items[0].metadata.labels['app\\.kubernetes\\.io/name']}", "x"),
            ("{.items[0]['metadata']['name']}", "a"),
            ("{'x'}{\"y\"}", "xy"),
            ("{@.kind}{$.kind}", "ListList"),
            ("{.items[*]['metadata.name', 'n']}", "a b c 1 2 3.5"),
        ] {
            let got =
                Template::parse(template).and_then(|t| t.execute(&pods(), true)).map_err(|e| e.to_string());
            assert_eq!(got, Ok(expect.to_string()), "{template}");
        }
    }

    #[test]
    fn errors_are_client_go_s() {
        for (template, expect) in [
            ("{.nope}", "nope is not found"),
            ("{.items[7]}", "array index out of bounds: index 7, length 3"),
            ("{.kind[0]}", "string is not array or slice"),
            ("{.kind", "unclosed action"),
            ("{.items[}", "unterminated array"),
            ("{.items[?(@.n>1}", "unterminated filter"),
            ("{end}", "not in range, nothing to end"),
            ("{foo}", "unrecognized identifier foo"),
            ("{.items[x]}", "invalid array index x"),
        ] {
            let got =
                Template::parse(template).and_then(|t| t.execute(&pods(), false)).map_err(|e| e.to_string());
            assert_eq!(got, Err(expect.to_string()), "{template}");
        }
        let missing = Template::parse("{.nope.deeper}").and_then(|t| t.execute(&pods(), true));
        assert_eq!(missing, Ok(String::new()));
        for relaxed in ["kind", ".kind", "{.kind}", "{kind}"] {
            assert_eq!(
                Template::parse_relaxed(relaxed).and_then(|t| t.execute(&pods(), false)),
                Ok("List".into())
            );
        }
    }
}
