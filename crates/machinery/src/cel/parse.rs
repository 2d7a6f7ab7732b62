//! From text to tree: tokens, the grammar, the macros.

use super::ast::{Expr, Fold, Literal, Node};
use super::{CompileError, MAX_DEPTH, MAX_EXPRESSION_BYTES};

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Ident(String),
    Literal(Literal),
    /// An operator or bracket.
    Sign(&'static str),
    End,
}

const SIGNS: [&str; 26] = [
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "+", "-", "*", "/", "%", "!", "?", ":", ".", ",", "(", ")",
    "[", "]", "{", "}", "=", "@",
];

struct Lexer<'a> {
    source: &'a str,
    at: usize,
}

type Parsed<T> = Result<T, CompileError>;

impl<'a> Lexer<'a> {
    fn error<T>(&self, at: usize, message: impl Into<String>) -> Parsed<T> {
        Err(CompileError::at(self.source, at, format!("Syntax error: {}", message.into())))
    }

    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    fn skip(&mut self) {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start_matches([' ', '\t', '\n', '\r', '\u{c}']);
            self.at += rest.len() - trimmed.len();
            if !trimmed.starts_with("//") {
                return;
            }
            self.at += trimmed.find('\n').unwrap_or(trimmed.len());
        }
    }

    fn tokens(mut self) -> Parsed<Vec<(usize, Token)>> {
        let mut out = Vec::new();
        loop {
            self.skip();
            let start = self.at;
            let Some(c) = self.rest().chars().next() else {
                out.push((start, Token::End));
                return Ok(out);
            };
            let token = match c {
                '0'..='9' => self.number()?,
                '.' if self.rest()[1..].starts_with(|c: char| c.is_ascii_digit()) => self.number()?,
                '"' | '\'' => self.string(false, false)?,
                c if c.is_ascii_alphabetic() || c == '_' => match self.prefix() {
                    Some((raw, bytes, length)) => {
                        self.at += length;
                        self.string(raw, bytes)?
                    }
                    None => self.word(),
                },
                '`' => self.quoted_ident()?,
                _ => match SIGNS.iter().find(|sign| self.rest().starts_with(**sign)) {
                    Some(sign) => {
                        self.at += sign.len();
                        Token::Sign(sign)
                    }
                    None => return self.error(start, format!("token recognition error at: '{c}'")),
                },
            };
            out.push((start, token));
        }
    }

    /// `r"`, `b'`, `rb"` and the like: raw, bytes, length.
    fn prefix(&self) -> Option<(bool, bool, usize)> {
        let rest = self.rest();
        let end = rest.find(['"', '\''])?;
        match rest[..end].to_ascii_lowercase().as_str() {
            "r" => Some((true, false, end)),
            "b" => Some((false, true, end)),
            "rb" | "br" => Some((true, true, end)),
            _ => None,
        }
    }

    fn word(&mut self) -> Token {
        let rest = self.rest();
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        self.at += end;
        match &rest[..end] {
            "true" => Token::Literal(Literal::Bool(true)),
            "false" => Token::Literal(Literal::Bool(false)),
            "null" => Token::Literal(Literal::Null),
            "in" => Token::Sign("in"),
            word => Token::Ident(word.to_string()),
        }
    }

    fn quoted_ident(&mut self) -> Parsed<Token> {
        let rest = &self.rest()[1..];
        match rest.find('`') {
            Some(end) => {
                self.at += end + 2;
                Ok(Token::Ident(rest[..end].to_string()))
            }
            None => self.error(self.at, "token recognition error at: '`'"),
        }
    }

    fn number(&mut self) -> Parsed<Token> {
        let (start, rest) = (self.at, self.rest());
        if let Some(hex) = rest.strip_prefix("0x").or_else(|| rest.strip_prefix("0X")) {
            let end = hex.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(hex.len());
            self.at += 2 + end;
            return self.integer(start, &hex[..end], 16);
        }
        let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let mut end = digits(rest);
        let mut float = false;
        if rest[end..].starts_with('.') && rest[end + 1..].starts_with(|c: char| c.is_ascii_digit()) {
            float = true;
            end += 1 + digits(&rest[end + 1..]);
        }
        if rest[end..].starts_with(['e', 'E']) {
            let sign = usize::from(rest[end + 1..].starts_with(['+', '-']));
            let exponent = digits(&rest[end + 1 + sign..]);
            if exponent > 0 {
                float = true;
                end += 1 + sign + exponent;
            }
        }
        self.at += end;
        let text = &rest[..end];
        match float {
            true => match text.parse() {
                Ok(n) => Ok(Token::Literal(Literal::Double(n))),
                Err(_) => self.error(start, "invalid double literal"),
            },
            false => self.integer(start, text, 10),
        }
    }

    fn integer(&mut self, start: usize, digits: &str, base: u32) -> Parsed<Token> {
        if self.rest().starts_with(['u', 'U']) {
            self.at += 1;
            return match u64::from_str_radix(digits, base) {
                Ok(n) => Ok(Token::Literal(Literal::Uint(n))),
                Err(_) => self.error(start, "invalid uint literal"),
            };
        }
        match u64::from_str_radix(digits, base) {
            // The one value that only exists negated is kept for the unary minus to find.
            Ok(n) if n == 1 << 63 => Ok(Token::Literal(Literal::Uint(n))),
            Ok(n) => match i64::try_from(n) {
                Ok(n) => Ok(Token::Literal(Literal::Int(n))),
                Err(_) => self.error(start, "invalid int literal"),
            },
            Err(_) => self.error(start, "invalid int literal"),
        }
    }

    fn string(&mut self, raw: bool, bytes: bool) -> Parsed<Token> {
        let start = self.at;
        let rest = self.rest();
        let quote = &rest[..1];
        let triple = rest.starts_with(&quote.repeat(3));
        let fence = if triple { quote.repeat(3) } else { quote.to_string() };
        self.at += fence.len();
        let mut out: Vec<u8> = Vec::new();
        loop {
            let rest = self.rest();
            if rest.starts_with(&fence) {
                self.at += fence.len();
                break;
            }
            match rest.chars().next() {
                None => return self.error(start, "token recognition error: unterminated string"),
                Some('\n' | '\r') if !triple => {
                    return self.error(start, "token recognition error: unterminated string");
                }
                Some('\\') if !raw => self.escape(bytes, &mut out)?,
                Some(c) => {
                    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                    self.at += c.len_utf8();
                    if c == '\\' && raw && self.rest().starts_with(quote) && !triple {
                        out.push(quote.as_bytes()[0]);
                        self.at += 1;
                    }
                }
            }
        }
        match bytes {
            true => Ok(Token::Literal(Literal::Bytes(out))),
            false => match String::from_utf8(out) {
                Ok(text) => Ok(Token::Literal(Literal::Str(text))),
                Err(_) => self.error(start, "invalid string literal"),
            },
        }
    }

    fn escape(&mut self, bytes: bool, out: &mut Vec<u8>) -> Parsed<()> {
        let start = self.at;
        self.at += 1;
        let Some(c) = self.rest().chars().next() else { return self.error(start, "unterminated string") };
        self.at += c.len_utf8();
        let simple = match c {
            'a' => Some(7),
            'b' => Some(8),
            'f' => Some(12),
            'n' => Some(b'\n'),
            'r' => Some(b'\r'),
            't' => Some(b'\t'),
            'v' => Some(11),
            '\\' => Some(b'\\'),
            '\'' => Some(b'\''),
            '"' => Some(b'"'),
            '`' => Some(b'`'),
            '?' => Some(b'?'),
            _ => None,
        };
        if let Some(byte) = simple {
            out.push(byte);
            return Ok(());
        }
        let (length, base) = match c {
            'x' | 'X' => (2, 16),
            'u' => (4, 16),
            'U' => (8, 16),
            '0'..='3' => {
                self.at -= 1;
                (3, 8)
            }
            _ => return self.error(start, format!("token recognition error at: '\\{c}'")),
        };
        let code = self.rest().get(..length).and_then(|digits| u32::from_str_radix(digits, base).ok());
        let Some(code) = code else { return self.error(start, "invalid escape sequence") };
        self.at += length;
        if bytes && !matches!(c, 'u' | 'U') {
            out.push(code.to_le_bytes()[0]);
            return Ok(());
        }
        match char::from_u32(code) {
            Some(c) => {
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                Ok(())
            }
            None => self.error(start, "invalid unicode code point"),
        }
    }
}

struct Parser<'a> {
    source: &'a str,
    tokens: Vec<(usize, Token)>,
    next: usize,
    depth: usize,
}

/// Parses an expression.
pub(super) fn parse(source: &str) -> Parsed<Node> {
    if source.len() > MAX_EXPRESSION_BYTES {
        return Err(CompileError::at(
            "",
            0,
            format!("expression code point size exceeds limit: {MAX_EXPRESSION_BYTES}"),
        ));
    }
    let tokens = Lexer { source, at: 0 }.tokens()?;
    let mut parser = Parser { source, tokens, next: 0, depth: 0 };
    let root = parser.expression()?;
    match parser.peek() {
        Token::End => Ok(root),
        _ => parser.unexpected("<EOF>"),
    }
}

impl Parser<'_> {
    fn peek(&self) -> &Token {
        &self.tokens[self.next].1
    }

    fn at(&self) -> usize {
        self.tokens[self.next].0
    }

    fn is(&self, sign: &str) -> bool {
        matches!(self.peek(), Token::Sign(found) if *found == sign)
    }

    fn advance(&mut self) -> Token {
        let token = self.tokens[self.next].1.clone();
        if self.next + 1 < self.tokens.len() {
            self.next += 1;
        }
        token
    }

    fn accept(&mut self, sign: &str) -> bool {
        let found = self.is(sign);
        if found {
            self.advance();
        }
        found
    }

    fn expect(&mut self, sign: &str) -> Parsed<()> {
        match self.accept(sign) {
            true => Ok(()),
            false => self.unexpected(&format!("'{sign}'")),
        }
    }

    fn fail<T>(&self, at: usize, message: impl Into<String>) -> Parsed<T> {
        Err(CompileError::at(self.source, at, message.into()))
    }

    fn unexpected<T>(&self, expecting: &str) -> Parsed<T> {
        let end = self.tokens.get(self.next + 1).map_or(self.source.len(), |(at, _)| *at);
        let found = match self.peek() {
            Token::End => "<EOF>",
            _ => self.source[self.at()..end].trim_end(),
        };
        let expecting = match expecting {
            "expression" => {
                "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}"
            }
            other => other,
        };
        self.fail(self.at(), format!("Syntax error: mismatched input '{found}' expecting {expecting}"))
    }

    fn expression(&mut self) -> Parsed<Node> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return self.fail(self.at(), format!("expression recursion limit exceeded: {MAX_DEPTH}"));
        }
        let node = self.conditional();
        self.depth -= 1;
        node
    }

    fn conditional(&mut self) -> Parsed<Node> {
        let condition = self.binary(0)?;
        let at = self.at();
        if !self.accept("?") {
            return Ok(condition);
        }
        let yes = self.binary(0)?;
        self.expect(":")?;
        let no = self.expression()?;
        Ok(Node { at, expr: Expr::Cond(Box::new(condition), Box::new(yes), Box::new(no)) })
    }

    /// Operators by precedence climbing: those that bind at least as tight as `least`.
    fn binary(&mut self, least: usize) -> Parsed<Node> {
        let mut left = self.unary()?;
        let mut length = 0;
        while let Token::Sign(sign) = self.peek() {
            let sign = *sign;
            let Some(level) =
                LEVELS.iter().position(|signs| signs.contains(&sign)).filter(|level| *level >= least)
            else {
                break;
            };
            length += 1;
            if length > MAX_CHAIN {
                return self.fail(self.at(), format!("expression recursion limit exceeded: {MAX_CHAIN}"));
            }
            let at = self.at();
            if level < 2 {
                left = self.logic(left, sign, level)?;
                continue;
            }
            self.advance();
            let right = self.binary(level + 1)?;
            left = Node {
                at,
                expr: Expr::Call { name: format!("_{sign}_"), target: None, args: vec![left, right] },
            };
        }
        Ok(left)
    }

    /// A chain of one logical operator as a balanced tree, so that long ones do not nest deep.
    fn logic(&mut self, first: Node, sign: &str, level: usize) -> Parsed<Node> {
        let mut operands = vec![(first.at, first)];
        while self.is(sign) {
            let at = self.at();
            self.advance();
            operands.push((at, self.binary(level + 1)?));
        }
        Ok(balanced(operands, sign == "&&"))
    }

    fn unary(&mut self) -> Parsed<Node> {
        let at = self.at();
        for sign in ["!", "-"] {
            let mut count = 0;
            while self.accept(sign) {
                count += 1;
            }
            if count == 0 {
                continue;
            }
            let smallest = sign == "-" && *self.peek() == Token::Literal(Literal::Uint(1 << 63));
            let mut node = match smallest {
                true => {
                    self.advance();
                    count -= 1;
                    Node { at, expr: Expr::Literal(Literal::Int(i64::MIN)) }
                }
                false => self.member()?,
            };
            if sign == "-" && count % 2 == 1 {
                match &mut node.expr {
                    Expr::Literal(Literal::Int(n)) => {
                        *n = -*n;
                        return Ok(node);
                    }
                    Expr::Literal(Literal::Double(n)) => {
                        *n = -*n;
                        return Ok(node);
                    }
                    _ => {}
                }
            }
            if count % 2 == 1 {
                let name = format!("{sign}_");
                node = Node { at, expr: Expr::Call { name, target: None, args: vec![node] } };
            }
            return Ok(node);
        }
        self.member()
    }

    fn member(&mut self) -> Parsed<Node> {
        let mut node = self.primary()?;
        let mut length = 0;
        loop {
            let at = self.at();
            length += 1;
            if length > MAX_CHAIN {
                return self.fail(at, format!("expression recursion limit exceeded: {MAX_CHAIN}"));
            }
            if self.accept(".") {
                let optional = self.accept("?");
                let at_name = self.at();
                let field = match self.advance() {
                    Token::Ident(name) => name,
                    Token::Sign("in") => "in".to_string(),
                    _ => {
                        self.next = self.next.saturating_sub(1);
                        return self.unexpected("IDENTIFIER");
                    }
                };
                if !optional && self.is("(") {
                    node = self.method(node, field, at_name)?;
                } else {
                    node = Node { at, expr: Expr::Select { operand: Box::new(node), field, optional } };
                }
            } else if self.accept("[") {
                let optional = self.accept("?");
                let index = Box::new(self.expression()?);
                self.expect("]")?;
                node = Node { at, expr: Expr::Index { operand: Box::new(node), index, optional } };
            } else if self.is("{") && type_name(&node).is_some() {
                let name = type_name(&node).unwrap_or_default();
                node = self.message(name, at)?;
            } else {
                return Ok(node);
            }
        }
    }

    fn arguments(&mut self) -> Parsed<Vec<Node>> {
        self.expect("(")?;
        let mut args = Vec::new();
        while !self.accept(")") {
            args.push(self.expression()?);
            if !self.accept(",") && !self.is(")") {
                return self.unexpected("')'");
            }
        }
        Ok(args)
    }

    fn primary(&mut self) -> Parsed<Node> {
        let at = self.at();
        match self.peek().clone() {
            Token::Literal(Literal::Uint(n)) if n == 1 << 63 && !self.source[at..].contains(['u', 'U']) => {
                self.fail(at, "Syntax error: invalid int literal")
            }
            Token::Literal(literal) => {
                self.advance();
                Ok(Node { at, expr: Expr::Literal(literal) })
            }
            Token::Ident(name) => {
                self.advance();
                self.name_or_call(name, at)
            }
            Token::Sign(".") => {
                self.advance();
                match self.advance() {
                    Token::Ident(name) => self.name_or_call(name, at),
                    _ => self.unexpected("IDENTIFIER"),
                }
            }
            Token::Sign("(") => {
                self.advance();
                let node = self.expression()?;
                self.expect(")")?;
                Ok(node)
            }
            Token::Sign("[") => {
                self.advance();
                let mut items = Vec::new();
                while !self.accept("]") {
                    let optional = self.accept("?");
                    items.push((optional, self.expression()?));
                    if !self.accept(",") && !self.is("]") {
                        return self.unexpected("']'");
                    }
                }
                Ok(Node { at, expr: Expr::List(items) })
            }
            Token::Sign("{") => {
                self.advance();
                let mut entries = Vec::new();
                while !self.accept("}") {
                    let optional = self.accept("?");
                    let key = self.expression()?;
                    self.expect(":")?;
                    entries.push((optional, key, self.expression()?));
                    if !self.accept(",") && !self.is("}") {
                        return self.unexpected("'}'");
                    }
                }
                Ok(Node { at, expr: Expr::Map(entries) })
            }
            _ => self.unexpected("expression"),
        }
    }

    fn name_or_call(&mut self, name: String, at: usize) -> Parsed<Node> {
        if !self.is("(") {
            return Ok(Node { at, expr: Expr::Ident(name) });
        }
        let mut args = self.arguments()?;
        if name == "has" && args.len() == 1 {
            return match args.remove(0) {
                Node { expr: Expr::Select { operand, field, optional: false }, .. } => {
                    Ok(Node { at, expr: Expr::Has { operand, field } })
                }
                _ => self.fail(at, "invalid argument to has() macro"),
            };
        }
        Ok(Node { at, expr: Expr::Call { name, target: None, args } })
    }

    fn message(&mut self, name: String, at: usize) -> Parsed<Node> {
        self.expect("{")?;
        let mut fields = Vec::new();
        while !self.accept("}") {
            let optional = self.accept("?");
            let Token::Ident(field) = self.advance() else {
                self.next = self.next.saturating_sub(1);
                return self.unexpected("IDENTIFIER");
            };
            self.expect(":")?;
            fields.push((optional, field, self.expression()?));
            if !self.accept(",") && !self.is("}") {
                return self.unexpected("'}'");
            }
        }
        Ok(Node { at, expr: Expr::Struct { name, fields } })
    }

    fn method(&mut self, target: Node, name: String, at: usize) -> Parsed<Node> {
        let mut args = self.arguments()?;
        let ident = |node: &Node| match &node.expr {
            Expr::Ident(name) => Some(name.clone()),
            _ => None,
        };
        if matches!(&target.expr, Expr::Ident(owner) if owner == "cel") && name == "bind" && args.len() == 3 {
            let Some(bound) = ident(&args[0]) else {
                return self.fail(args[0].at, "cel.bind() variable names must be simple identifiers");
            };
            let body = Box::new(args.remove(2));
            let value = Box::new(args.remove(1));
            return Ok(Node { at, expr: Expr::Bind { name: bound, value, body } });
        }
        if (name == "optMap" || name == "optFlatMap") && args.len() == 2 {
            let Some(bound) = ident(&args[0]) else {
                return self.fail(args[0].at, format!("{name}() variable name must be a simple identifier"));
            };
            let body = Box::new(args.remove(1));
            let flat = name == "optFlatMap";
            return Ok(Node {
                at,
                expr: Expr::OptMap { operand: Box::new(target), name: bound, body, flat },
            });
        }
        let Some((fold, variables, condition)) = fold(&name, &args) else {
            return Ok(Node { at, expr: Expr::Call { name, target: Some(Box::new(target)), args } });
        };
        let mut names = Vec::new();
        for arg in &args[..variables] {
            match ident(arg) {
                Some(name) => names.push(name),
                None => return self.fail(arg.at, "argument must be a simple name"),
            }
        }
        let body = Box::new(args.pop().expect("a macro has a body"));
        let condition = if condition { args.pop().map(Box::new) } else { None };
        let mut names = names.into_iter();
        Ok(Node {
            at,
            expr: Expr::Fold {
                fold,
                range: Box::new(target),
                first: names.next().unwrap_or_default(),
                second: names.next(),
                condition,
                body,
            },
        })
    }
}

/// Binary operators, loosest first.
const LEVELS: [&[&str]; 5] =
    [&["||"], &["&&"], &["<", "<=", ">", ">=", "==", "!=", "in"], &["+", "-"], &["*", "/", "%"]];

/// At most this many operators or selections in a row, which nest to the left.
const MAX_CHAIN: usize = 200;

fn balanced(mut operands: Vec<(usize, Node)>, and: bool) -> Node {
    if operands.len() == 1 {
        return operands.remove(0).1;
    }
    let right = operands.split_off(operands.len().div_ceil(2));
    let at = right[0].0;
    let (left, right) = (Box::new(balanced(operands, and)), Box::new(balanced(right, and)));
    Node { at, expr: if and { Expr::And(left, right) } else { Expr::Or(left, right) } }
}

/// The macro of a method call: which, how many variables, whether there is a condition before the body.
fn fold(name: &str, args: &[Node]) -> Option<(Fold, usize, bool)> {
    match (name, args.len()) {
        ("all", 2) => Some((Fold::All, 1, false)),
        ("all", 3) => Some((Fold::All, 2, false)),
        ("exists", 2) => Some((Fold::Exists, 1, false)),
        ("exists", 3) => Some((Fold::Exists, 2, false)),
        ("exists_one" | "existsOne", 2) => Some((Fold::ExistsOne, 1, false)),
        ("exists_one" | "existsOne", 3) => Some((Fold::ExistsOne, 2, false)),
        ("filter", 2) => Some((Fold::Filter, 1, false)),
        ("map", 2) => Some((Fold::Map, 1, false)),
        ("map", 3) => Some((Fold::Map, 1, true)),
        ("transformList", 3) => Some((Fold::TransformList, 2, false)),
        ("transformList", 4) => Some((Fold::TransformList, 2, true)),
        ("transformMap", 3) => Some((Fold::TransformMap, 2, false)),
        ("transformMap", 4) => Some((Fold::TransformMap, 2, true)),
        ("transformMapEntry", 3) => Some((Fold::TransformMapEntry, 2, false)),
        ("transformMapEntry", 4) => Some((Fold::TransformMapEntry, 2, true)),
        _ => None,
    }
}

/// `Object.spec.template` as the name of a type to build.
fn type_name(node: &Node) -> Option<String> {
    match &node.expr {
        Expr::Ident(name) => Some(name.clone()),
        Expr::Select { operand, field, optional: false } => Some(format!("{}.{field}", type_name(operand)?)),
        _ => None,
    }
}
