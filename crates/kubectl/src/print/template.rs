//! `-o go-template=…`: Go's text templates over untyped objects: fields, variables, pipelines, `if`, `with`,
//! `range`, comparison and print functions, and kubectl's `exists` and `base64decode`.
//!
//! Not there: `define`, `template` and `block`, which nobody needs on a command line; they are refused.

use std::cmp::Ordering;

use base64::Engine as _;
use serde_json::{Value, json};

use crate::Error;
use crate::print::{go_value, json as print_json};

/// Deeper nesting is refused.
const MAX_DEPTH: usize = 64;

/// A parsed template.
#[derive(Debug)]
pub struct Template {
    source: String,
    nodes: Vec<Node>,
}

#[derive(Debug)]
enum Node {
    Text(String),
    Print(Pipe),
    If(Pipe, Vec<Node>, Vec<Node>),
    With(Pipe, Vec<Node>, Vec<Node>),
    Range(Pipe, Vec<Node>, Vec<Node>),
    Break,
    Continue,
}

/// `$a, $b := commands`.
#[derive(Debug, Default)]
struct Pipe {
    names: Vec<String>,
    assigns: bool,
    commands: Vec<Vec<Term>>,
}

#[derive(Debug)]
enum Term {
    Literal(Value),
    Word(String),
    /// `$x`, `.` or `(…)`, and fields behind it.
    Dot(Vec<String>),
    Variable(String, Vec<String>),
    Group(Pipe, Vec<String>),
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Literal(Value),
    Word(String),
    Variable(String),
    /// `.a.b`; empty for the dot alone. The flag tells that it touches what is before it.
    Fields(Vec<String>, bool),
    Sign(&'static str),
}

fn bad(message: impl std::fmt::Display) -> Error {
    Error::usage(format!("error parsing template {message}"))
}

impl Template {
    /// Parses a template.
    pub fn parse(text: &str) -> Result<Template, Error> {
        let mut pieces = pieces(text)?.into_iter();
        let (nodes, end) = block(&mut pieces, 0)?;
        match end {
            None => Ok(Template { source: text.to_owned(), nodes }),
            Some(tokens) => Err(bad(format!("{text}, unexpected {tokens:?}"))),
        }
    }

    /// Fills it in.
    pub fn execute(&self, data: &Value) -> Result<String, Error> {
        let mut run = Run { out: String::new(), scopes: vec![("$".to_owned(), data.clone())] };
        match run.nodes(&self.nodes, data) {
            Ok(_) => Ok(run.out),
            Err(why) => Err(Error::input(format!("error executing template {:?}: {why}", self.source))),
        }
    }
}

enum Piece {
    Text(String),
    Action(Vec<Token>),
}

/// Splits a template into text and actions.
fn pieces(text: &str) -> Result<Vec<Piece>, Error> {
    let (mut found, mut rest, mut trim) = (Vec::new(), text, false);
    loop {
        let (plain, after) = match rest.split_once("{{") {
            Some((plain, after)) => (plain, Some(after)),
            None => (rest, None),
        };
        let mut plain = if trim { plain.trim_start() } else { plain };
        let Some(mut inner) = after else {
            found.push(Piece::Text(plain.to_owned()));
            return Ok(found);
        };
        if let Some(trimmed) = inner.strip_prefix("- ").or(inner.strip_prefix("-\n")) {
            (plain, inner) = (plain.trim_end(), trimmed);
        }
        found.push(Piece::Text(plain.to_owned()));
        let end = action_end(inner).ok_or_else(|| bad(format!("{text}, unclosed action")))?;
        let mut action = &inner[..end];
        rest = &inner[end + 2..];
        trim = action.ends_with(" -");
        if trim {
            action = &action[..action.len() - 2];
        }
        if !action.trim_start().starts_with("/*") {
            found.push(Piece::Action(tokens(action)?));
        }
    }
}

fn action_end(inner: &str) -> Option<usize> {
    let (mut quote, mut escaped) = (None, false);
    for (at, letter) in inner.char_indices() {
        match quote {
            Some(open) => {
                if escaped {
                    escaped = false;
                } else if letter == '\\' && open == '"' {
                    escaped = true;
                } else if letter == open {
                    quote = None;
                }
            }
            None if letter == '"' || letter == '`' => quote = Some(letter),
            None if inner[at..].starts_with("}}") => return Some(at),
            None => {}
        }
    }
    None
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn take(text: &str, fits: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !fits(c)).unwrap_or(text.len()))
}

fn tokens(action: &str) -> Result<Vec<Token>, Error> {
    let (mut found, mut rest, mut touches) = (Vec::new(), action, false);
    while let Some(first) = rest.chars().next() {
        let touching = std::mem::replace(&mut touches, true);
        match first {
            c if c.is_whitespace() => {
                rest = rest.trim_start();
                touches = false;
            }
            '"' | '`' => {
                let (value, after) = quoted(rest, first)?;
                found.push(Token::Literal(value));
                rest = after;
            }
            '$' => {
                let (name, after) = take(&rest[1..], is_name);
                found.push(Token::Variable(format!("${name}")));
                rest = after;
            }
            '.' => {
                let mut fields = Vec::new();
                while let Some(after) = rest.strip_prefix('.') {
                    let (name, after) = take(after, is_name);
                    rest = after;
                    if !name.is_empty() {
                        fields.push(name.to_owned());
                    }
                }
                found.push(Token::Fields(fields, touching));
            }
            c if c.is_ascii_digit() || (c == '-' && rest[1..].starts_with(|c: char| c.is_ascii_digit())) => {
                let (digits, after) = take(&rest[1..], |c| c.is_ascii_alphanumeric() || c == '.');
                let text = &rest[..1 + digits.len()];
                let number =
                    text.parse::<i64>().map(Value::from).or_else(|_| text.parse::<f64>().map(Value::from));
                found.push(Token::Literal(number.map_err(|_| bad(format!("bad number {text}")))?));
                rest = after;
            }
            c if is_name(c) => {
                let (word, after) = take(rest, is_name);
                found.push(match word {
                    "true" | "false" => Token::Literal(json!(word == "true")),
                    "nil" => Token::Literal(Value::Null),
                    _ => Token::Word(word.to_owned()),
                });
                rest = after;
            }
            _ => {
                let sign = [":=", "=", "|", "(", ")", ","].into_iter().find(|sign| rest.starts_with(sign));
                let sign = sign.ok_or_else(|| bad(format!("unexpected {first:?} in action")))?;
                found.push(Token::Sign(sign));
                rest = &rest[sign.len()..];
                touches = sign == ")";
            }
        }
    }
    Ok(found)
}

fn quoted(text: &str, quote: char) -> Result<(Value, &str), Error> {
    let mut out = String::new();
    let mut letters = text.char_indices().skip(1);
    while let Some((at, letter)) = letters.next() {
        if letter == quote {
            return Ok((Value::String(out), &text[at + 1..]));
        }
        if letter != '\\' || quote == '`' {
            out.push(letter);
            continue;
        }
        out.push(match letters.next().map(|(_, letter)| letter) {
            Some('n') => '\n',
            Some('t') => '\t',
            Some('r') => '\r',
            Some(other) => other,
            None => break,
        });
    }
    Err(bad("unterminated quoted string"))
}

/// Nodes up to an `else` or `end`, whose tokens are the second value.
fn block(
    pieces: &mut std::vec::IntoIter<Piece>,
    depth: usize,
) -> Result<(Vec<Node>, Option<Vec<Token>>), Error> {
    if depth > MAX_DEPTH {
        return Err(bad("nesting is too deep"));
    }
    let mut nodes = Vec::new();
    while let Some(piece) = pieces.next() {
        let tokens = match piece {
            Piece::Text(text) => {
                nodes.push(Node::Text(text));
                continue;
            }
            Piece::Action(tokens) => tokens,
        };
        let word = match tokens.first() {
            Some(Token::Word(word)) => word.clone(),
            _ => String::new(),
        };
        match word.as_str() {
            "end" | "else" => return Ok((nodes, Some(tokens))),
            "if" | "with" | "range" => nodes.push(branch(&word, &tokens[1..], pieces, depth)?),
            "break" => nodes.push(Node::Break),
            "continue" => nodes.push(Node::Continue),
            "define" | "template" | "block" => {
                return Err(bad(format!("{word:?} is not supported; use a program such as jq on -o json")));
            }
            _ => nodes.push(Node::Print(whole_pipe(&tokens)?)),
        }
    }
    Ok((nodes, None))
}

fn branch(
    word: &str,
    tokens: &[Token],
    pieces: &mut std::vec::IntoIter<Piece>,
    depth: usize,
) -> Result<Node, Error> {
    let pipe = whole_pipe(tokens)?;
    let (then, end) = block(pieces, depth + 1)?;
    let mut otherwise = Vec::new();
    match end.as_deref() {
        Some([Token::Word(end)]) if end == "end" => {}
        Some([Token::Word(_else)]) => {
            let (nodes, end) = block(pieces, depth + 1)?;
            otherwise = nodes;
            if end.is_none() {
                return Err(bad("unexpected EOF"));
            }
        }
        Some([Token::Word(_else), Token::Word(again), rest @ ..]) => {
            otherwise.push(branch(again, rest, pieces, depth + 1)?);
        }
        _ => return Err(bad("unexpected EOF")),
    }
    Ok(match word {
        "if" => Node::If(pipe, then, otherwise),
        "with" => Node::With(pipe, then, otherwise),
        _ => Node::Range(pipe, then, otherwise),
    })
}

fn whole_pipe(tokens: &[Token]) -> Result<Pipe, Error> {
    let mut rest = tokens;
    let pipe = pipe(&mut rest, 0)?;
    if rest.is_empty() { Ok(pipe) } else { Err(bad(format!("unexpected {:?}", rest[0]))) }
}

fn pipe(rest: &mut &[Token], depth: usize) -> Result<Pipe, Error> {
    if depth > MAX_DEPTH {
        return Err(bad("nesting is too deep"));
    }
    let mut pipe = Pipe::default();
    let at = rest.iter().position(|token| matches!(token, Token::Sign(":=" | "=")));
    if let Some(at) = at {
        for token in &rest[..at] {
            match token {
                Token::Variable(name) => pipe.names.push(name.clone()),
                Token::Sign(",") => {}
                other => return Err(bad(format!("unexpected {other:?} before :="))),
            }
        }
        pipe.assigns = rest[at] == Token::Sign("=");
        *rest = &rest[at + 1..];
    }
    let mut command = Vec::new();
    while let Some((token, after)) = rest.split_first() {
        *rest = after;
        match token {
            Token::Sign("|") => pipe.commands.push(std::mem::take(&mut command)),
            Token::Sign(")") if depth > 0 => {
                pipe.commands.push(command);
                return Ok(pipe);
            }
            Token::Sign("(") => command.push(Term::Group(self::pipe(rest, depth + 1)?, Vec::new())),
            Token::Sign(sign) => return Err(bad(format!("unexpected {sign:?}"))),
            Token::Literal(value) => command.push(Term::Literal(value.clone())),
            Token::Word(word) => command.push(Term::Word(word.clone())),
            Token::Variable(name) => command.push(Term::Variable(name.clone(), Vec::new())),
            Token::Fields(fields, touching) => match command.last_mut() {
                Some(Term::Variable(_, known) | Term::Group(_, known)) if *touching => {
                    known.extend(fields.clone())
                }
                _ => command.push(Term::Dot(fields.clone())),
            },
        }
    }
    pipe.commands.push(command);
    if depth > 0 || pipe.commands.iter().any(Vec::is_empty) {
        return Err(bad("missing value for command"));
    }
    Ok(pipe)
}

struct Run {
    out: String,
    scopes: Vec<(String, Value)>,
}

#[derive(PartialEq)]
enum Flow {
    On,
    Break,
    Continue,
}

type Outcome<T> = Result<T, String>;

impl Run {
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Outcome<Flow> {
        for node in nodes {
            let depth = self.scopes.len();
            let flow = match node {
                Node::Text(text) => {
                    self.out.push_str(text);
                    Flow::On
                }
                Node::Print(pipe) => {
                    let value = self.pipe(pipe, dot)?;
                    if pipe.names.is_empty() {
                        self.out.push_str(&shown(value.as_ref()));
                    }
                    continue;
                }
                Node::Break => return Ok(Flow::Break),
                Node::Continue => return Ok(Flow::Continue),
                Node::If(pipe, then, otherwise) => {
                    let value = self.pipe(pipe, dot)?;
                    self.nodes(if truth(value.as_ref()) { then } else { otherwise }, dot)?
                }
                Node::With(pipe, then, otherwise) => match self.pipe(pipe, dot)? {
                    Some(value) if truth(Some(&value)) => self.nodes(then, &value)?,
                    _ => self.nodes(otherwise, dot)?,
                },
                Node::Range(pipe, body, otherwise) => self.range(pipe, body, otherwise, dot)?,
            };
            self.scopes.truncate(depth);
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    fn range(&mut self, pipe: &Pipe, body: &[Node], otherwise: &[Node], dot: &Value) -> Outcome<Flow> {
        let value = self.commands(&pipe.commands, dot)?;
        let entries: Vec<(Value, Value)> = match value {
            Some(Value::Array(items)) => {
                items.into_iter().enumerate().map(|(at, item)| (json!(at), item)).collect()
            }
            Some(Value::Object(fields)) => fields.into_iter().map(|(key, item)| (json!(key), item)).collect(),
            Some(Value::Number(n)) => (0..n.as_i64().unwrap_or(0)).map(|at| (json!(at), json!(at))).collect(),
            None | Some(Value::Null) => Vec::new(),
            Some(other) => return Err(format!("range can't iterate over {}", go_value(&other))),
        };
        if entries.is_empty() {
            return self.nodes(otherwise, dot);
        }
        for (key, item) in entries {
            let depth = self.scopes.len();
            match pipe.names.as_slice() {
                [one] => self.scopes.push((one.clone(), item.clone())),
                [first, second, ..] => {
                    self.scopes.push((first.clone(), key));
                    self.scopes.push((second.clone(), item.clone()));
                }
                [] => {}
            }
            let flow = self.nodes(body, &item)?;
            self.scopes.truncate(depth);
            if flow == Flow::Break {
                break;
            }
        }
        Ok(Flow::On)
    }

    fn pipe(&mut self, pipe: &Pipe, dot: &Value) -> Outcome<Option<Value>> {
        let value = self.commands(&pipe.commands, dot)?;
        for name in &pipe.names {
            let content = value.clone().unwrap_or(Value::Null);
            let known = self.scopes.iter_mut().rev().find(|(known, _)| known == name);
            match known {
                Some((_, place)) if pipe.assigns => *place = content,
                _ => self.scopes.push((name.clone(), content)),
            }
        }
        Ok(value)
    }

    fn commands(&mut self, commands: &[Vec<Term>], dot: &Value) -> Outcome<Option<Value>> {
        let mut last: Option<Option<Value>> = None;
        for command in commands {
            last = Some(self.command(command, dot, last.take())?);
        }
        Ok(last.flatten())
    }

    fn command(
        &mut self,
        terms: &[Term],
        dot: &Value,
        piped: Option<Option<Value>>,
    ) -> Outcome<Option<Value>> {
        let Some((Term::Word(name), rest)) = terms.split_first() else {
            return match terms.first() {
                Some(term) if terms.len() == 1 && piped.is_none() => self.term(term, dot),
                _ => Err("can't give argument to non-function".to_owned()),
            };
        };
        let mut values = Vec::new();
        for term in rest {
            let value = self.term(term, dot)?;
            // `and` and `or` stop where the outcome is known.
            let known = (name == "and" && !truth(value.as_ref())) || (name == "or" && truth(value.as_ref()));
            if known {
                return Ok(value);
            }
            values.push(value);
        }
        values.extend(piped);
        call(name, &values)
    }

    fn term(&mut self, term: &Term, dot: &Value) -> Outcome<Option<Value>> {
        match term {
            Term::Literal(value) => Ok(Some(value.clone())),
            Term::Word(name) => call(name, &[]),
            Term::Dot(fields) => walk(Some(dot), fields),
            Term::Variable(name, fields) => {
                let known = self.scopes.iter().rev().find(|(known, _)| known == name);
                let (_, value) = known.ok_or_else(|| format!("undefined variable {name:?}"))?;
                walk(Some(value), fields)
            }
            Term::Group(pipe, fields) => {
                let value = self.pipe(pipe, dot)?;
                walk(value.as_ref(), fields)
            }
        }
    }
}

fn walk(from: Option<&Value>, fields: &[String]) -> Outcome<Option<Value>> {
    let mut at = from;
    for field in fields {
        at = match at {
            Some(Value::Object(map)) => map.get(field),
            None | Some(Value::Null) => return Err(format!("nil pointer evaluating interface {{}}.{field}")),
            Some(other) => return Err(format!("can't evaluate field {field} in {}", go_value(other))),
        };
    }
    Ok(at.cloned())
}

fn shown(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "<no value>".to_owned(),
        Some(value) => go_value(value),
    }
}

fn truth(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => false,
        Some(Value::Bool(on)) => *on,
        Some(Value::Number(n)) => n.as_f64() != Some(0.0),
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(items)) => !items.is_empty(),
        Some(Value::Object(fields)) => !fields.is_empty(),
    }
}

fn order(a: &Value, b: &Value) -> Outcome<Ordering> {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => {
            Ok(a.as_f64().partial_cmp(&b.as_f64()).unwrap_or(Ordering::Equal))
        }
        (Value::String(a), Value::String(b)) => Ok(a.cmp(b)),
        _ => Err("incompatible types for comparison".to_owned()),
    }
}

fn call(name: &str, given: &[Option<Value>]) -> Outcome<Option<Value>> {
    let values: Vec<Value> = given.iter().map(|value| value.clone().unwrap_or(Value::Null)).collect();
    let at = |index: usize| values.get(index).ok_or_else(|| format!("wrong number of args for {name}"));
    let compared = |fits: fn(Ordering) -> bool| Ok::<_, String>(Some(json!(fits(order(at(0)?, at(1)?)?))));
    match name {
        "and" | "or" => Ok(given.last().cloned().flatten()),
        "not" => Ok(Some(json!(!truth(Some(at(0)?))))),
        "eq" => {
            let first = at(0)?;
            let same =
                |other: &Value| order(first, other).map_or(first == other, |order| order == Ordering::Equal);
            Ok(Some(json!(values[1..].iter().any(same))))
        }
        "ne" => Ok(Some(json!(at(0)? != at(1)?))),
        "lt" => compared(Ordering::is_lt),
        "le" => compared(Ordering::is_le),
        "gt" => compared(Ordering::is_gt),
        "ge" => compared(Ordering::is_ge),
        "len" => match at(0)? {
            Value::String(text) => Ok(Some(json!(text.len()))),
            Value::Array(items) => Ok(Some(json!(items.len()))),
            Value::Object(fields) => Ok(Some(json!(fields.len()))),
            other => Err(format!("len of {}", go_value(other))),
        },
        "index" => {
            let mut value = at(0)?;
            for key in &values[1..] {
                let next = match key {
                    Value::Number(n) => {
                        let found =
                            n.as_u64().and_then(|n| usize::try_from(n).ok()).and_then(|n| value.get(n));
                        Some(found.ok_or_else(|| format!("error calling index: index out of range: {n}"))?)
                    }
                    Value::String(key) => value.get(key),
                    _ => None,
                };
                match next {
                    Some(next) => value = next,
                    None => return Ok(None),
                }
            }
            Ok(Some(value.clone()))
        }
        "exists" => {
            let mut value = given.first().cloned().flatten();
            for key in values.iter().skip(1) {
                value = match (value, key) {
                    (Some(value), Value::String(key)) => value.get(key).cloned(),
                    (Some(value), Value::Number(n)) => {
                        n.as_u64().and_then(|n| value.get(usize::try_from(n).ok()?).cloned())
                    }
                    _ => None,
                };
            }
            Ok(Some(json!(value.is_some())))
        }
        _ => text_function(name, &values).map(Some),
    }
}

fn text_function(name: &str, values: &[Value]) -> Outcome<Value> {
    let words = || values.iter().map(go_value).collect::<Vec<_>>();
    let text = match name {
        "print" => words().concat(),
        "println" => format!("{}\n", words().join(" ")),
        "printf" => printf(values),
        "base64decode" => {
            let coded = values.first().and_then(Value::as_str).unwrap_or_default();
            let bytes = base64::engine::general_purpose::STANDARD.decode(coded);
            let bytes = bytes.map_err(|error| format!("base64 decode failed: {error}"))?;
            String::from_utf8_lossy(&bytes).into_owned()
        }
        "html" => words().concat().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;"),
        "js" | "urlquery" => words().concat(),
        _ => return Err(format!("function {name:?} not defined")),
    };
    Ok(Value::String(text))
}

/// The widest field that `printf` pads to; Go has a limit, too.
const WIDEST: usize = 10_000;

/// `%s`, `%v`, `%d`, `%q`, `%t`, `%f` and widths.
fn printf(values: &[Value]) -> String {
    let format = values.first().and_then(Value::as_str).unwrap_or_default();
    let (mut out, mut rest) = (String::new(), values.iter().skip(1));
    let mut letters = format.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        let mut width = String::new();
        while letters.peek().is_some_and(|c| c.is_ascii_digit() || "-.+ ".contains(*c)) {
            width.extend(letters.next());
        }
        let text = match letters.next() {
            Some('%') => "%".to_owned(),
            Some('q') => rest.next().map_or_else(String::new, |value| print_json::text(&go_value(value))),
            Some(verb) => rest.next().map_or_else(|| format!("%!{verb}(MISSING)"), go_value),
            None => "%!(NOVERB)".to_owned(),
        };
        let digits = width.trim_start_matches(['-', '+', ' ']).split('.').next().unwrap_or_default();
        let size: usize = if digits.is_empty() { 0 } else { digits.parse().unwrap_or(WIDEST + 1) };
        let padding = " ".repeat(size.min(WIDEST).saturating_sub(text.chars().count()));
        match () {
            () if size > WIDEST => out.push_str("%!(BADWIDTH)"),
            () if width.starts_with('-') => out.extend([text, padding]),
            () => out.extend([padding, text]),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(template: &str, expect: &str) {
        let data = json!({
            "kind": "List", "n": 3, "b": "aGk=",
            "items": [
                {"metadata": {"name": "a"}, "status": {"ready": true}},
                {"metadata": {"name": "b"}},
            ],
        });
        let shown = Template::parse(template).and_then(|template| template.execute(&data));
        assert_eq!(shown.unwrap_or_else(|error| error.to_string()), expect, "{template}");
    }

    #[test]
    fn templates() {
        check("{{range .items}}{{.metadata.name}} {{end}}", "a b ");
        check("{{range $i, $x := .items}}{{$i}}={{$x.metadata.name}};{{end}}", "0=a;1=b;");
        check("{{range .items}}{{if exists . \"status\" \"ready\"}}yes{{else}}no{{end}}{{end}}", "yesno");
        check(
            "{{range .items}}{{if (and (eq .metadata.name \"a\") (exists . \"status\"))}}true{{end}}{{end}}",
            "true",
        );
        check("{{if eq .kind \"X\"}}x{{else if gt .n 2}}big{{else}}small{{end}}", "big");
        check("{{.nope}}", "<no value>");
        check("{{with .nope}}x{{else}}none{{end}}", "none");
        check("{{len .items}}{{\"\\n\"}}{{index .items 1 | printf \"%v\"}}", "2\nmap[metadata:map[name:b]]");
        check("{{(index .items 0).metadata.name}} {{ .b | base64decode }}", "a hi");
        check("a {{- .n -}} b{{/* note */}}", "a3b");
        check("{{$x := .n}}{{range .items}}{{$x}}{{end}}{{$.kind}}", "33List");
        check("{{printf \"%-4s|%d\" .kind .n}}", "List|3");
        check("{{printf \"%-6s|%4d|%+d\" .kind .n .n}}", "List  |   3|3");
        check("{{printf \"%99999999999999999999s|%70000d\" .kind .n}}", "%!(BADWIDTH)|%!(BADWIDTH)");
        check("{{printf \"%1111111111111111111s\" .kind}}", "%!(BADWIDTH)");
        check("{{not (or false .n)}}", "false");
    }

    #[test]
    fn mistakes_are_told() {
        check(
            "{{.nope.x}}",
            "error executing template \"{{.nope.x}}\": nil pointer evaluating interface {}.x",
        );
        for (template, expect) in
            [("{{if .x}}", "unexpected EOF"), ("{{template \"x\"}}", "not supported"), ("{{.x", "unclosed")]
        {
            let error = Template::parse(template).expect_err(template).to_string();
            assert!(error.contains(expect), "{error}");
        }
    }
}
