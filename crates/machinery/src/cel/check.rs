//! The type checker: undeclared names, unknown fields, calls that no overload fits, in cel-go's words.
//!
//! What is not known is `dyn` and passes; the evaluator still checks it.

use super::ast::{Expr, Fold, Literal, Node};
use super::value::unescape;
use super::{CompileError, functions, regexes};
use crate::schema::structural::NodeKind;
use crate::schema::{Scalar, Schema, Sort};

/// A type, as far as callers care.
#[derive(Debug, Clone, PartialEq)]
pub enum Type {
    /// Not known before evaluation.
    Dyn,
    /// null
    Null,
    /// bool
    Bool,
    /// int
    Int,
    /// uint
    Uint,
    /// double
    Double,
    /// string
    String,
    /// bytes
    Bytes,
    /// duration
    Duration,
    /// timestamp
    Timestamp,
    /// A type as a value.
    Type,
    /// A list of one type.
    List(Box<Type>),
    /// A map of string keys (others are `dyn`).
    Map(Box<Type>),
    /// An optional of one type.
    Optional(Box<Type>),
    /// An opaque or built type, by name.
    Named(String),
}

impl std::fmt::Display for Type {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Type::Dyn => f.write_str("dyn"),
            Type::Null => f.write_str("null"),
            Type::Bool => f.write_str("bool"),
            Type::Int => f.write_str("int"),
            Type::Uint => f.write_str("uint"),
            Type::Double => f.write_str("double"),
            Type::String => f.write_str("string"),
            Type::Bytes => f.write_str("bytes"),
            Type::Duration => f.write_str("google.protobuf.Duration"),
            Type::Timestamp => f.write_str("google.protobuf.Timestamp"),
            Type::Type => f.write_str("type"),
            Type::List(inner) => write!(f, "list({inner})"),
            Type::Map(inner) => write!(f, "map(string, {inner})"),
            Type::Optional(inner) => write!(f, "optional_type({inner})"),
            Type::Named(name) => f.write_str(name),
        }
    }
}

/// What a variable is.
#[derive(Debug, Clone)]
enum Declared<'a> {
    Schema(Schema<'a>),
    Plain(Type),
    /// An object with these fields and no others (`variables`).
    Fields(Vec<(String, Type)>),
}

/// The variables that an expression may use.
#[derive(Debug, Clone, Default)]
pub struct Env<'a> {
    variables: Vec<(String, Declared<'a>)>,
    /// Whether `Object{…}` and `JSONPatch{…}` may be built, as mutating policies do.
    builds: Option<Schema<'a>>,
}

impl<'a> Env<'a> {
    /// No variables.
    pub fn new() -> Env<'a> {
        Env::default()
    }

    /// Declares a variable with a schema.
    pub fn schema(mut self, name: &str, schema: Schema<'a>) -> Env<'a> {
        self.variables.push((name.to_string(), Declared::Schema(schema)));
        self
    }

    /// Declares a variable of a type.
    pub fn plain(mut self, name: &str, kind: Type) -> Env<'a> {
        self.variables.push((name.to_string(), Declared::Plain(kind)));
        self
    }

    /// Declares an object with named fields, such as `variables`.
    pub fn fields(mut self, name: &str, fields: Vec<(String, Type)>) -> Env<'a> {
        self.variables.push((name.to_string(), Declared::Fields(fields)));
        self
    }

    /// Lets expressions build objects of a schema (`Object{spec: Object.spec{…}}`) and `JSONPatch{…}`.
    pub fn building(mut self, schema: Schema<'a>) -> Env<'a> {
        self.builds = Some(schema);
        self
    }
}

/// A type while checking: schemas stay as they are.
#[derive(Clone, Debug)]
enum Ty<'a> {
    Known(Type),
    List(Box<Ty<'a>>),
    Map(Box<Ty<'a>>),
    Optional(Box<Ty<'a>>),
    Object(Schema<'a>),
    Fields(Vec<(String, Type)>),
}

const DYN: Ty<'static> = Ty::Known(Type::Dyn);

struct Checker<'e, 'a> {
    env: &'e Env<'a>,
    locals: Vec<(String, Ty<'a>)>,
    error: CompileError,
}

/// Checks an expression and gives its type.
pub(super) fn check(source: &str, root: &Node, env: &Env<'_>) -> Result<Type, CompileError> {
    let error = CompileError { issues: Vec::new(), source: source.to_string() };
    let mut checker = Checker { env, locals: Vec::new(), error };
    let kind = checker.check(root);
    match checker.error.issues.is_empty() {
        true => Ok(plain(&kind)),
        false => Err(checker.error),
    }
}

fn plain(kind: &Ty<'_>) -> Type {
    match kind {
        Ty::Known(kind) => kind.clone(),
        Ty::List(inner) => Type::List(Box::new(plain(inner))),
        Ty::Map(inner) => Type::Map(Box::new(plain(inner))),
        Ty::Optional(inner) => Type::Optional(Box::new(plain(inner))),
        Ty::Object(schema) => {
            Type::Named(schema.object_type().map_or("object".to_string(), |facts| facts.name.clone()))
        }
        Ty::Fields(_) => Type::Named("object".to_string()),
    }
}

fn lift<'a>(kind: Type) -> Ty<'a> {
    match kind {
        Type::List(inner) => Ty::List(Box::new(lift(*inner))),
        Type::Map(inner) => Ty::Map(Box::new(lift(*inner))),
        Type::Optional(inner) => Ty::Optional(Box::new(lift(*inner))),
        other => Ty::Known(other),
    }
}

fn of_schema<'a>(schema: Schema<'a>) -> Ty<'a> {
    let known = |kind: Type| Ty::Known(kind);
    match schema.sort() {
        Sort::Any => DYN,
        Sort::Object => Ty::Object(schema),
        Sort::Map => Ty::Map(Box::new(schema.field("").map_or(DYN, of_schema))),
        Sort::List => Ty::List(Box::new(of_schema(schema.item()))),
        Sort::Scalar(scalar) => known(match scalar {
            Scalar::Bool => Type::Bool,
            Scalar::I32 | Scalar::I64 | Scalar::U8 => Type::Int,
            Scalar::F64 => Type::Double,
            Scalar::Str => Type::String,
            Scalar::Bytes => Type::Bytes,
            Scalar::Time | Scalar::MicroTime => Type::Timestamp,
            Scalar::Duration => Type::Duration,
            _ => Type::Dyn,
        }),
        Sort::Leaf => match schema {
            Schema::Node(node) => known(match (node.kind, node.format()) {
                (NodeKind::String, Some("date-time" | "date")) => Type::Timestamp,
                (NodeKind::String, Some("duration")) => Type::Duration,
                (NodeKind::String, Some("byte")) => Type::Bytes,
                (NodeKind::String, _) => Type::String,
                (NodeKind::Integer, _) => Type::Int,
                (NodeKind::Number, _) => Type::Double,
                (NodeKind::Boolean, _) => Type::Bool,
                _ => Type::Dyn,
            }),
            _ => DYN,
        },
    }
}

impl<'a> Checker<'_, 'a> {
    fn fail(&mut self, at: usize, message: String) -> Ty<'a> {
        self.error.push(at, message);
        DYN
    }

    fn check(&mut self, node: &Node) -> Ty<'a> {
        match &node.expr {
            Expr::Literal(literal) => Ty::Known(match literal {
                Literal::Null => Type::Null,
                Literal::Bool(_) => Type::Bool,
                Literal::Int(_) => Type::Int,
                Literal::Uint(_) => Type::Uint,
                Literal::Double(_) => Type::Double,
                Literal::Str(_) => Type::String,
                Literal::Bytes(_) => Type::Bytes,
            }),
            Expr::Ident(name) => self.ident(name, node.at),
            Expr::Select { operand, field, optional } => self.select(node, operand, field, *optional),
            Expr::Has { operand, field } => {
                let operand = self.check(operand);
                self.field(&operand, field, node.at);
                Ty::Known(Type::Bool)
            }
            Expr::Index { operand, index, optional } => self.index(node, operand, index, *optional),
            Expr::And(a, b) => self.logic("_&&_", a, b, node.at),
            Expr::Or(a, b) => self.logic("_||_", a, b, node.at),
            Expr::Cond(condition, yes, no) => self.conditional(node, condition, yes, no),
            Expr::Call { name, target, args } => self.call(node, name, target.as_deref(), args),
            Expr::List(items) => {
                let kinds: Vec<Ty<'a>> = items.iter().map(|(_, item)| self.check(item)).collect();
                Ty::List(Box::new(common(&kinds)))
            }
            Expr::Map(entries) => {
                let kinds: Vec<Ty<'a>> = entries
                    .iter()
                    .map(|(_, key, value)| {
                        self.check(key);
                        self.check(value)
                    })
                    .collect();
                Ty::Map(Box::new(common(&kinds)))
            }
            Expr::Struct { name, fields } => self.structure(node, name, fields),
            Expr::Fold { .. } => self.fold(node),
            Expr::Bind { name, value, body } => {
                let value = self.check(value);
                self.with(name, value, |checker| checker.check(body))
            }
            Expr::OptMap { operand, name, body, flat } => {
                let inner = match self.check(operand) {
                    Ty::Optional(inner) => *inner,
                    _ => DYN,
                };
                let made = self.with(name, inner, |checker| checker.check(body));
                if *flat { made } else { Ty::Optional(Box::new(made)) }
            }
        }
    }

    fn with<T>(&mut self, name: &str, kind: Ty<'a>, run: impl FnOnce(&mut Self) -> T) -> T {
        self.locals.push((name.to_string(), kind));
        let out = run(self);
        self.locals.pop();
        out
    }

    fn declared(&self, name: &str) -> Option<Ty<'a>> {
        if let Some((_, kind)) = self.locals.iter().rev().find(|(known, _)| known == name) {
            return Some(kind.clone());
        }
        let (_, declared) = self.env.variables.iter().rev().find(|(known, _)| known == name)?;
        Some(match declared {
            Declared::Schema(schema) => of_schema(*schema),
            Declared::Plain(kind) => lift(kind.clone()),
            Declared::Fields(fields) => Ty::Fields(fields.clone()),
        })
    }

    fn ident(&mut self, name: &str, at: usize) -> Ty<'a> {
        const TYPES: [&str; 13] = [
            "bool",
            "bytes",
            "double",
            "int",
            "list",
            "map",
            "null_type",
            "string",
            "type",
            "uint",
            "optional_type",
            "dyn",
            "google",
        ];
        match self.declared(name) {
            Some(kind) => kind,
            None if TYPES.contains(&name) => Ty::Known(Type::Type),
            None => self.fail(at, format!("undeclared reference to '{name}' (in container '')")),
        }
    }

    fn select(&mut self, node: &Node, operand: &Node, field: &str, optional: bool) -> Ty<'a> {
        let text = &self.error.source[operand.at.min(self.error.source.len())..];
        if text.starts_with("google.protobuf") {
            return Ty::Known(Type::Type);
        }
        let operand = self.check(operand);
        let wrapped = matches!(operand, Ty::Optional(_));
        let found = match operand {
            Ty::Optional(inner) => self.field(&inner, field, node.at),
            other => self.field(&other, field, node.at),
        };
        if wrapped || optional { Ty::Optional(Box::new(found)) } else { found }
    }

    fn field(&mut self, operand: &Ty<'a>, field: &str, at: usize) -> Ty<'a> {
        match operand {
            Ty::Object(schema) => match schema.field(&unescape(field)) {
                Some(place) => of_schema(place),
                None => self.fail(at, format!("undefined field '{field}'")),
            },
            Ty::Fields(fields) => match fields.iter().find(|(name, _)| name == field) {
                Some((_, kind)) => lift(kind.clone()),
                None => self.fail(at, format!("undefined field '{field}'")),
            },
            Ty::Map(inner) => (**inner).clone(),
            Ty::Optional(inner) => self.field(&inner.clone(), field, at),
            Ty::Known(Type::Dyn | Type::Named(_)) => DYN,
            other => {
                let shown = plain(other);
                self.fail(at, format!("type '{shown}' does not support field selection"))
            }
        }
    }

    fn index(&mut self, node: &Node, operand: &Node, index: &Node, optional: bool) -> Ty<'a> {
        let operand = self.check(operand);
        let index = self.check(index);
        let (inner, wrapped) = match operand {
            Ty::Optional(inner) => (*inner, true),
            other => (other, optional),
        };
        let found = match &inner {
            Ty::List(element) => match plain(&index) {
                Type::Int | Type::Uint | Type::Double | Type::Dyn => (**element).clone(),
                other => self.no_overload("_[_]", &[plain(&inner), other], node.at),
            },
            Ty::Map(value) => (**value).clone(),
            Ty::Object(_) | Ty::Fields(_) | Ty::Known(Type::Dyn | Type::Named(_)) => DYN,
            _ => self.no_overload("_[_]", &[plain(&inner), plain(&index)], node.at),
        };
        if wrapped { Ty::Optional(Box::new(found)) } else { found }
    }

    fn no_overload(&mut self, name: &str, args: &[Type], at: usize) -> Ty<'a> {
        let shown: Vec<String> = args.iter().map(ToString::to_string).collect();
        self.fail(at, format!("found no matching overload for '{name}' applied to '({})'", shown.join(", ")))
    }

    fn logic(&mut self, name: &str, a: &Node, b: &Node, at: usize) -> Ty<'a> {
        let kinds = [plain(&self.check(a)), plain(&self.check(b))];
        if kinds.iter().any(|kind| !matches!(kind, Type::Bool | Type::Dyn)) {
            self.no_overload(name, &kinds, at);
        }
        Ty::Known(Type::Bool)
    }

    fn conditional(&mut self, node: &Node, condition: &Node, yes: &Node, no: &Node) -> Ty<'a> {
        let condition = plain(&self.check(condition));
        let branches = [self.check(yes), self.check(no)];
        let kinds = [condition.clone(), plain(&branches[0]), plain(&branches[1])];
        let fits = matches!(condition, Type::Bool | Type::Dyn) && same(&kinds[1], &kinds[2]);
        if !fits {
            return self.no_overload("_?_:_", &kinds, node.at);
        }
        common(&branches)
    }

    fn fold(&mut self, node: &Node) -> Ty<'a> {
        let Expr::Fold { fold, range, first, second, condition, body } = &node.expr else { return DYN };
        let at = range.at;
        let range = self.check(range);
        let (one, two) = match &range {
            Ty::List(element) if second.is_some() => (Ty::Known(Type::Int), (**element).clone()),
            Ty::List(element) => ((**element).clone(), DYN),
            Ty::Map(value) => (Ty::Known(Type::String), (**value).clone()),
            Ty::Object(_) | Ty::Known(Type::Dyn) => (DYN, DYN),
            other => {
                let shown = plain(other);
                self.fail(at, format!("expression of type '{shown}' cannot be range of a comprehension (must be list, map, or dynamic)"));
                (DYN, DYN)
            }
        };
        self.locals.push((first.clone(), one.clone()));
        self.locals.push((second.clone().unwrap_or_default(), two));
        if let Some(condition) = condition {
            self.boolean(condition);
        }
        let result = match fold {
            Fold::All | Fold::Exists | Fold::ExistsOne => {
                self.boolean(body);
                Ty::Known(Type::Bool)
            }
            Fold::Filter => {
                self.boolean(body);
                Ty::List(Box::new(one))
            }
            Fold::Map | Fold::TransformList => Ty::List(Box::new(self.check(body))),
            Fold::TransformMap => Ty::Map(Box::new(self.check(body))),
            Fold::TransformMapEntry => self.check(body),
        };
        self.locals.truncate(self.locals.len() - 2);
        result
    }

    fn boolean(&mut self, node: &Node) {
        let kind = plain(&self.check(node));
        if !matches!(kind, Type::Bool | Type::Dyn) {
            self.fail(node.at, format!("expected type 'bool' but found '{kind}'"));
        }
    }

    fn structure(&mut self, node: &Node, name: &str, fields: &[(bool, String, Node)]) -> Ty<'a> {
        let place = match (name, self.env.builds) {
            ("JSONPatch", Some(_)) => None,
            (name, Some(schema)) => match self.built(name, schema) {
                Some(place) => Some(place),
                None => {
                    return self.fail(node.at, format!("undeclared reference to '{name}' (in container '')"));
                }
            },
            _ => return self.fail(node.at, format!("undeclared reference to '{name}' (in container '')")),
        };
        for (_, field, value) in fields {
            self.check(value);
            let known = match place {
                Some(place) => place.field(&unescape(field)).is_some(),
                None => ["op", "path", "from", "value"].contains(&field.as_str()),
            };
            if !known {
                self.fail(node.at, format!("undefined field '{field}'"));
            }
        }
        Ty::Known(Type::Named(name.to_string()))
    }

    /// The place that `Object.spec.template` names. Lists and maps are stepped into.
    fn built(&self, name: &str, root: Schema<'a>) -> Option<Schema<'a>> {
        let mut parts = name.split('.');
        if parts.next() != Some("Object") {
            return None;
        }
        let step_in = |mut place: Schema<'a>| {
            for _ in 0..3 {
                place = match place.sort() {
                    Sort::List => place.item(),
                    _ => return place,
                };
            }
            place
        };
        parts.try_fold(root, |place, part| match part {
            "@idx" => Some(step_in(place)),
            part => step_in(place).field(&unescape(part)).map(step_in),
        })
    }

    fn call(&mut self, node: &Node, name: &str, target: Option<&Node>, args: &[Node]) -> Ty<'a> {
        let namespace = match target.map(|target| &target.expr) {
            Some(Expr::Ident(owner)) if functions::is_namespace(owner) && self.declared(owner).is_none() => {
                Some(owner)
            }
            _ => None,
        };
        let mut kinds = Vec::with_capacity(args.len() + 1);
        if let (Some(target), None) = (target, namespace) {
            kinds.push(self.check(target));
        }
        kinds.extend(args.iter().map(|arg| self.check(arg)).collect::<Vec<_>>());
        let method = target.is_some() && namespace.is_none();
        if method
            && matches!(kinds.first(), Some(Ty::Known(Type::Named(owner))) if !owner.contains('.') || owner.starts_with("kubernetes.authorization"))
        {
            return match (kinds.first(), name) {
                (Some(Ty::Known(Type::Named(owner))), "allowed" | "errored") if owner.contains('.') => {
                    Ty::Known(Type::Bool)
                }
                (Some(Ty::Known(Type::Named(owner))), "reason" | "error") if owner.contains('.') => {
                    Ty::Known(Type::String)
                }
                // Questions to the authorizer are asked in steps: the steps are as opaque as it is.
                (Some(step @ Ty::Known(Type::Named(owner))), _) if owner.contains('.') => step.clone(),
                _ => DYN,
            };
        }
        let full = namespace.map_or(name.to_string(), |owner| format!("{owner}.{name}"));
        let rows: Vec<_> =
            functions::TABLE.iter().filter(|(known, _, form)| *known == full && *form == method).collect();
        if rows.is_empty() {
            return self.fail(node.at, format!("undeclared reference to '{full}' (in container '')"));
        }
        let shown: Vec<Type> = kinds.iter().map(plain).collect();
        let counted = rows.iter().any(|(_, counts, _)| counts.contains(&kinds.len()));
        match counted.then(|| signature(&full, &kinds, &shown)).flatten() {
            Some(kind) => {
                self.literals(&full, args);
                kind
            }
            None if method => {
                let rest: Vec<String> = shown[1..].iter().map(ToString::to_string).collect();
                let message = format!(
                    "found no matching overload for '{full}' applied to '{}.({})'",
                    shown[0],
                    rest.join(", ")
                );
                self.fail(node.at, message)
            }
            None => self.no_overload(&full, &shown, node.at),
        }
    }

    /// Literal patterns, durations and timestamps must be sound.
    fn literals(&mut self, name: &str, args: &[Node]) {
        let Some(Node { at, expr: Expr::Literal(Literal::Str(text)) }) = args.last() else { return };
        match name {
            "matches" if !regexes::valid(text) => {
                self.fail(*at, "invalid matches argument".to_string());
            }
            "duration" if crate::codec::scalar::parse_duration(text).is_err() => {
                self.fail(*at, "invalid duration argument".to_string());
            }
            "timestamp" if text.parse::<jiff::Timestamp>().is_err() => {
                self.fail(*at, "invalid timestamp argument".to_string());
            }
            _ => {}
        }
    }
}

fn same(a: &Type, b: &Type) -> bool {
    match (a, b) {
        (Type::Dyn | Type::Null, _) | (_, Type::Dyn | Type::Null) => true,
        (Type::List(a), Type::List(b))
        | (Type::Map(a), Type::Map(b))
        | (Type::Optional(a), Type::Optional(b)) => same(a, b),
        (Type::Named(_), Type::Map(_)) | (Type::Map(_), Type::Named(_)) => true,
        (a, b) => a == b,
    }
}

fn common<'a>(kinds: &[Ty<'a>]) -> Ty<'a> {
    let Some((first, rest)) = kinds.split_first() else { return DYN };
    let wanted = plain(first);
    if rest.iter().all(|kind| plain(kind) == wanted) { first.clone() } else { DYN }
}

fn number(kind: &Type) -> bool {
    matches!(kind, Type::Int | Type::Uint | Type::Double | Type::Dyn)
}

/// Whether two types have an order between them.
fn comparable(shown: &[Type]) -> bool {
    let ordered = [Type::Bool, Type::String, Type::Bytes, Type::Duration, Type::Timestamp, Type::Dyn];
    let single = |kind: &Type| ordered.contains(kind) || number(kind);
    let numbers = number(&shown[0]) && number(&shown[1]);
    let free = shown.contains(&Type::Dyn);
    single(&shown[0]) && single(&shown[1]) && (numbers || free || shown[0] == shown[1])
}

/// The result of a call, or `None` when the arguments do not fit.
fn signature<'a>(name: &str, kinds: &[Ty<'a>], shown: &[Type]) -> Option<Ty<'a>> {
    let known = |kind: Type| Some(Ty::Known(kind));
    let is = |at: usize, wanted: &[Type]| {
        shown.get(at).is_none_or(|kind| *kind == Type::Dyn || wanted.contains(kind))
    };
    match name {
        "_==_" | "_!=_" => {
            let numbers = number(&shown[0]) && number(&shown[1]);
            (numbers || same(&shown[0], &shown[1])).then_some(Ty::Known(Type::Bool))
        }
        "_<_" | "_<=_" | "_>_" | "_>=_" => comparable(shown).then_some(Ty::Known(Type::Bool)),
        "_+_" | "_-_" | "_*_" | "_/_" | "_%_" => arithmetic(name, kinds, shown),
        "!_" => is(0, &[Type::Bool]).then_some(Ty::Known(Type::Bool)),
        "-_" => is(0, &[Type::Int, Type::Double]).then(|| kinds[0].clone()),
        "_in_" => match &shown[1] {
            Type::List(inner) => same(&shown[0], inner).then_some(Ty::Known(Type::Bool)),
            Type::Map(_) | Type::Dyn | Type::Named(_) => known(Type::Bool),
            _ => None,
        },
        "size" => match &shown[0] {
            Type::String | Type::Bytes | Type::List(_) | Type::Map(_) | Type::Dyn | Type::Named(_) => {
                known(Type::Int)
            }
            _ => None,
        },
        "int" => known(Type::Int),
        "uint" => known(Type::Uint),
        "double" => known(Type::Double),
        "string" => known(Type::String),
        "bytes" => known(Type::Bytes),
        "bool" => known(Type::Bool),
        "type" => known(Type::Type),
        "duration" => is(0, &[Type::String, Type::Duration, Type::Int]).then_some(Ty::Known(Type::Duration)),
        "timestamp" => {
            is(0, &[Type::String, Type::Timestamp, Type::Int]).then_some(Ty::Known(Type::Timestamp))
        }
        "matches" | "contains" | "startsWith" | "endsWith" => {
            (is(0, &[Type::String]) && is(1, &[Type::String])).then_some(Ty::Known(Type::Bool))
        }
        "charAt" | "lowerAscii" | "upperAscii" | "replace" | "substring" | "trim" | "format" | "find" => {
            is(0, &[Type::String]).then_some(Ty::Known(Type::String))
        }
        "split" | "findAll" => is(0, &[Type::String]).then(|| Ty::List(Box::new(Ty::Known(Type::String)))),
        "join" | "strings.quote" | "jsonpatch.escapeKey" => known(Type::String),
        "indexOf" | "lastIndexOf" => known(Type::Int),
        "isSorted" | "sets.contains" | "sets.equivalent" | "sets.intersects" | "hasValue" => {
            known(Type::Bool)
        }
        "sum" | "min" | "max" => match &kinds[0] {
            Ty::List(element) => Some((**element).clone()),
            Ty::Known(Type::Dyn) => Some(DYN),
            _ => None,
        },
        "distinct" | "slice" | "sort" | "reverse" => Some(kinds[0].clone()),
        "optional.of" | "optional.ofNonZeroValue" => Some(Ty::Optional(Box::new(kinds[0].clone()))),
        "value" | "orValue" => match &kinds[0] {
            Ty::Optional(inner) => Some((**inner).clone()),
            Ty::Known(Type::Dyn) => Some(DYN),
            _ => None,
        },
        name => Some(lift(named_result(name, shown))),
    }
}

/// Results of Kubernetes' functions.
fn named_result(name: &str, shown: &[Type]) -> Type {
    let named = |name: &str| Type::Named(name.to_string());
    match name {
        "isQuantity"
        | "isIP"
        | "isCIDR"
        | "isURL"
        | "isSemver"
        | "ip.isCanonical"
        | "isInteger"
        | "isGreaterThan"
        | "isLessThan"
        | "isUnspecified"
        | "isLoopback"
        | "isLinkLocalMulticast"
        | "isLinkLocalUnicast"
        | "isGlobalUnicast"
        | "containsIP"
        | "containsCIDR" => Type::Bool,
        "sign" | "compareTo" | "asInteger" | "family" | "prefixLength" | "major" | "minor" | "patch" => {
            Type::Int
        }
        "asApproximateFloat" => Type::Double,
        "quantity" | "add" | "sub" => named("kubernetes.Quantity"),
        "ip" => named("net.IP"),
        "cidr" | "masked" => named("net.CIDR"),
        "url" => named("kubernetes.URL"),
        "semver" => named("kubernetes.Semver"),
        "getScheme" | "getHost" | "getHostname" | "getPort" | "getEscapedPath" => Type::String,
        "getQuery" => Type::Map(Box::new(Type::List(Box::new(Type::String)))),
        "format.named" => Type::Optional(Box::new(named("kubernetes.NamedFormat"))),
        "validate" => Type::Optional(Box::new(Type::List(Box::new(Type::String)))),
        name if name.starts_with("format.") => named("kubernetes.NamedFormat"),
        name if name.starts_with("get") && !shown.is_empty() => Type::Int,
        _ => Type::Dyn,
    }
}

fn arithmetic<'a>(name: &str, kinds: &[Ty<'a>], shown: &[Type]) -> Option<Ty<'a>> {
    let (a, b) = (&shown[0], &shown[1]);
    let known = |kind: &Type| Some(Ty::Known(kind.clone()));
    match (name, a, b) {
        (_, Type::Dyn, Type::Dyn) => Some(DYN),
        (_, Type::Dyn, Type::Timestamp) | (_, Type::Timestamp, Type::Dyn) => Some(DYN),
        (_, Type::Dyn, other) | (_, other, Type::Dyn) => match other {
            Type::Int | Type::Uint | Type::Double => known(other),
            Type::String | Type::Bytes if name == "_+_" => known(other),
            Type::List(_) if name == "_+_" => Some(DYN),
            Type::Duration if name == "_+_" || name == "_-_" => Some(DYN),
            _ => None,
        },
        ("_%_", Type::Double, _) => None,
        (_, Type::Int, Type::Int) | (_, Type::Uint, Type::Uint) | (_, Type::Double, Type::Double) => known(a),
        ("_+_", Type::String, Type::String) | ("_+_", Type::Bytes, Type::Bytes) => known(a),
        ("_+_", Type::List(x), Type::List(y)) => {
            if same(x, y) {
                Some(common(kinds))
            } else {
                None
            }
        }
        ("_+_" | "_-_", Type::Duration, Type::Duration) => known(&Type::Duration),
        ("_+_" | "_-_", Type::Timestamp, Type::Duration) => known(&Type::Timestamp),
        ("_+_", Type::Duration, Type::Timestamp) => known(&Type::Timestamp),
        ("_-_", Type::Timestamp, Type::Timestamp) => known(&Type::Duration),
        _ => None,
    }
}
