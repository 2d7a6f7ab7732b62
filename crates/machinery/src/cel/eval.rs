//! Evaluation with a cost limit.

use std::rc::Rc;

use super::ast::{Expr, Fold, Literal, Node};
use super::value::{Val, key_text};
use super::{PER_CALL_LIMIT, REQUEST_BUDGET, functions};

/// Why an evaluation failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvalError {
    message: String,
    /// Whether the cost limit ended it; no operator absorbs that.
    pub out_of_budget: bool,
}

impl EvalError {
    /// An error with a message.
    pub fn new(message: impl Into<String>) -> EvalError {
        EvalError { message: message.into(), out_of_budget: false }
    }
}

impl std::error::Error for EvalError {}

impl std::fmt::Display for EvalError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

/// What evaluations may still cost.
#[derive(Debug, Clone)]
pub struct Budget {
    /// Left for this evaluation.
    call: u64,
    /// Left for all.
    pub left: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Budget { call: PER_CALL_LIMIT, left: REQUEST_BUDGET }
    }
}

impl Budget {
    /// A budget of so much for all evaluations.
    pub fn new(left: u64) -> Budget {
        Budget { call: PER_CALL_LIMIT.min(left), left }
    }

    /// Pays, or ends the evaluation.
    pub fn pay(&mut self, cost: u64) -> Result<(), EvalError> {
        if cost > self.call || cost > self.left {
            self.left = self.left.saturating_sub(cost);
            return Err(EvalError {
                message: "operation cancelled: actual cost limit exceeded".to_string(),
                out_of_budget: true,
            });
        }
        self.call -= cost;
        self.left -= cost;
        Ok(())
    }

    /// Pays for going through text.
    pub(super) fn pay_text(&mut self, length: usize) -> Result<(), EvalError> {
        self.pay(1 + (length as u64).div_ceil(10))
    }
}

/// The variables of an evaluation.
#[derive(Clone, Debug, Default)]
pub struct Activation<'v> {
    variables: Vec<(String, Val<'v>)>,
}

impl<'v> Activation<'v> {
    /// No variables.
    pub fn new() -> Activation<'v> {
        Activation::default()
    }

    /// Adds a variable.
    pub fn with(mut self, name: &str, value: Val<'v>) -> Activation<'v> {
        self.variables.push((name.to_string(), value));
        self
    }

    fn get(&self, name: &str) -> Option<&Val<'v>> {
        self.variables.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value)
    }
}

/// As [`eval`], from within another evaluation, which keeps its own limit.
pub(super) fn nested<'v>(root: &Node, variables: &Activation<'v>, budget: &mut Budget) -> Evaluated<'v> {
    let outer = budget.call;
    let value = eval(root, variables, budget);
    budget.call = outer;
    value
}

pub(super) type Evaluated<'v> = Result<Val<'v>, EvalError>;

struct Scope<'s, 'v> {
    outer: &'s Activation<'v>,
    inner: Vec<(&'s str, Val<'v>)>,
}

pub(super) fn eval<'v>(root: &Node, variables: &Activation<'v>, budget: &mut Budget) -> Evaluated<'v> {
    budget.call = PER_CALL_LIMIT.min(budget.left);
    let mut scope = Scope { outer: variables, inner: Vec::new() };
    scope.eval(root, budget)
}

/// `size`, `list` and such are types as well as names.
const TYPES: [&str; 14] = [
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
    "google.protobuf.Timestamp",
    "google.protobuf.Duration",
    "dyn",
];

fn no_key<'v>(name: &str) -> Evaluated<'v> {
    Err(EvalError::new(format!("no such key: {name}")))
}

fn overload<'v>() -> Evaluated<'v> {
    Err(EvalError::new("no such overload"))
}

impl<'s, 'v> Scope<'s, 'v> {
    fn eval(&mut self, node: &'s Node, budget: &mut Budget) -> Evaluated<'v> {
        match &node.expr {
            Expr::Literal(literal) => Ok(literal_value(literal)),
            Expr::Ident(name) => {
                budget.pay(1)?;
                self.ident(name)
            }
            Expr::Select { operand, field, optional } => self.select(operand, field, *optional, budget),
            Expr::Has { operand, field } => {
                let operand = self.eval(operand, budget)?;
                has(&operand, field, budget).map(Val::Bool)
            }
            Expr::Index { operand, index, optional } => {
                let operand = self.eval(operand, budget)?;
                let index = self.eval(index, budget)?;
                budget.pay(1)?;
                index_into(operand, &index, *optional)
            }
            Expr::And(a, b) => self.logic(a, b, false, budget),
            Expr::Or(a, b) => self.logic(a, b, true, budget),
            Expr::Cond(condition, yes, no) => match self.eval(condition, budget)? {
                Val::Bool(true) => self.eval(yes, budget),
                Val::Bool(false) => self.eval(no, budget),
                _ => overload(),
            },
            Expr::Call { name, target, args } => self.call(name, target.as_deref(), args, budget),
            Expr::List(_) | Expr::Map(_) | Expr::Struct { .. } => self.literal_collection(node, budget),
            Expr::Fold { .. } => self.fold(node, budget),
            Expr::Bind { name, value, body } => {
                let value = self.eval(value, budget)?;
                self.with(name, value, |scope| scope.eval(body, budget))
            }
            Expr::OptMap { operand, name, body, flat } => match self.eval(operand, budget)? {
                Val::Optional(None) => Ok(Val::Optional(None)),
                Val::Optional(Some(inner)) => {
                    let made = self.with(name, *inner, |scope| scope.eval(body, budget))?;
                    Ok(if *flat { made } else { Val::Optional(Some(Box::new(made))) })
                }
                _ => overload(),
            },
        }
    }

    fn with<T>(&mut self, name: &'s str, value: Val<'v>, run: impl FnOnce(&mut Self) -> T) -> T {
        self.inner.push((name, value));
        let out = run(self);
        self.inner.pop();
        out
    }

    fn ident(&self, name: &str) -> Evaluated<'v> {
        if let Some((_, value)) = self.inner.iter().rev().find(|(known, _)| *known == name) {
            return Ok(value.clone());
        }
        match self.outer.get(name) {
            Some(value) => Ok(value.clone()),
            None if TYPES.contains(&name) => Ok(Val::Type(name.to_string())),
            None => Err(EvalError::new(format!("no such attribute(s): {name}"))),
        }
    }

    fn select(
        &mut self,
        operand: &'s Node,
        field: &str,
        optional: bool,
        budget: &mut Budget,
    ) -> Evaluated<'v> {
        if let Some(name) = dotted(operand)
            && TYPES.contains(&format!("{name}.{field}").as_str())
        {
            return Ok(Val::Type(format!("{name}.{field}")));
        }
        let operand = self.eval(operand, budget)?;
        budget.pay(1)?;
        match operand {
            Val::Optional(None) => Ok(Val::Optional(None)),
            Val::Optional(Some(inner)) => Ok(match get_field(&inner, field, budget) {
                Some(found) => Val::Optional(Some(Box::new(found?))),
                None => Val::Optional(None),
            }),
            operand if optional => Ok(match get_field(&operand, field, budget) {
                Some(found) => Val::Optional(Some(Box::new(found?))),
                None => Val::Optional(None),
            }),
            operand => match get_field(&operand, field, budget) {
                Some(found) => found,
                None if operand.entries().is_some() || matches!(operand, Val::Host(_) | Val::Object(_)) => {
                    no_key(field)
                }
                None => Err(EvalError::new(format!("no such key: {field}"))),
            },
        }
    }

    /// `&&` and `||`: an error on one side does not matter when the other decides.
    fn logic(&mut self, a: &'s Node, b: &'s Node, decides: bool, budget: &mut Budget) -> Evaluated<'v> {
        budget.pay(1)?;
        let left = self.eval(a, budget);
        match &left {
            Ok(Val::Bool(set)) if *set == decides => return Ok(Val::Bool(decides)),
            Err(error) if error.out_of_budget => return left,
            _ => {}
        }
        let right = self.eval(b, budget);
        match (left, right) {
            (_, Ok(Val::Bool(set))) if set == decides => Ok(Val::Bool(decides)),
            (_, Err(error)) if error.out_of_budget => Err(error),
            (Err(error), _) | (Ok(Val::Bool(_)), Err(error)) => Err(error),
            (Ok(Val::Bool(_)), Ok(Val::Bool(_))) => Ok(Val::Bool(!decides)),
            _ => overload(),
        }
    }

    fn call(
        &mut self,
        name: &str,
        target: Option<&'s Node>,
        args: &'s [Node],
        budget: &mut Budget,
    ) -> Evaluated<'v> {
        // `ip.isCanonical("…")`, `sets.contains(…)`: the target is a namespace, not a value.
        let namespace = target.and_then(dotted).filter(|owner| {
            functions::is_namespace(owner)
                && !self.inner.iter().any(|(known, _)| known == owner)
                && self.outer.get(owner).is_none()
        });
        let mut values = Vec::with_capacity(args.len() + 1);
        if let (Some(target), None) = (target, &namespace) {
            let value = self.eval(target, budget)?;
            if let Some(found) = optional_method(name, &value, args, self, budget) {
                return found;
            }
            values.push(value);
        }
        for arg in args {
            values.push(self.eval(arg, budget)?);
        }
        budget.pay(1)?;
        if let (Some(Val::Host(host)), Some(_), None) = (values.first(), target, &namespace) {
            let found = host.call(name, &values[1..], budget);
            return found.unwrap_or_else(overload);
        }
        let full = match &namespace {
            Some(owner) => format!("{owner}.{name}"),
            None => name.to_string(),
        };
        functions::call(&full, target.is_some() && namespace.is_none(), &values, budget)
    }

    fn literal_collection(&mut self, node: &'s Node, budget: &mut Budget) -> Evaluated<'v> {
        match &node.expr {
            Expr::List(items) => {
                budget.pay(10)?;
                let mut out = Vec::with_capacity(items.len());
                for (optional, item) in items {
                    let value = self.eval(item, budget)?;
                    out.extend(unwrap_optional(*optional, value)?);
                }
                Ok(Val::list(out))
            }
            Expr::Map(entries) => {
                budget.pay(30)?;
                let mut out: Vec<(Val<'v>, Val<'v>)> = Vec::with_capacity(entries.len());
                for (optional, key, value) in entries {
                    let key = self.eval(key, budget)?;
                    if key_text(&key).is_none() {
                        return Err(EvalError::new(format!("unsupported key type: {}", key.type_name())));
                    }
                    let value = self.eval(value, budget)?;
                    if out.iter().any(|(known, _)| known.equals(&key)) {
                        return Err(EvalError::new("Failed with repeated key"));
                    }
                    if let Some(value) = unwrap_optional(*optional, value)? {
                        out.push((key, value));
                    }
                }
                Ok(Val::Map(Rc::new(out)))
            }
            Expr::Struct { name, fields } => {
                budget.pay(40)?;
                let mut out = Vec::with_capacity(fields.len());
                for (optional, field, value) in fields {
                    let value = self.eval(value, budget)?;
                    if let Some(value) = unwrap_optional(*optional, value)? {
                        out.push((field.clone(), value));
                    }
                }
                Ok(Val::Object(Rc::new((name.clone(), out))))
            }
            _ => overload(),
        }
    }

    fn fold(&mut self, node: &'s Node, budget: &mut Budget) -> Evaluated<'v> {
        let Expr::Fold { fold, range, first, second, condition, body } = &node.expr else {
            return overload();
        };
        let range = self.eval(range, budget)?;
        let pairs = pairs(&range, second.is_some()).ok_or_else(|| EvalError::new("no such overload"))?;
        let mut state = FoldState::new(*fold);
        for (key, value) in pairs {
            budget.pay(1)?;
            self.inner.push((first, key));
            if let Some(second) = second {
                self.inner.push((second, value));
            }
            let step = self.fold_step(condition.as_deref(), body, &mut state, budget);
            self.inner.truncate(self.inner.len() - 1 - usize::from(second.is_some()));
            if step? {
                break;
            }
        }
        state.finish()
    }

    /// One element; true when the result is decided.
    fn fold_step(
        &mut self,
        condition: Option<&'s Node>,
        body: &'s Node,
        state: &mut FoldState<'v>,
        budget: &mut Budget,
    ) -> Result<bool, EvalError> {
        if let Some(condition) = condition {
            match self.eval(condition, budget)? {
                Val::Bool(true) => {}
                Val::Bool(false) => return Ok(false),
                _ => return Err(EvalError::new("no such overload")),
            }
        }
        let element = self.inner.last().map(|(_, value)| value.clone()).unwrap_or(Val::Null);
        let key = match state.fold {
            Fold::TransformMap => self.inner.iter().rev().nth(1).map(|(_, value)| value.clone()),
            _ => None,
        };
        let value = self.eval(body, budget);
        if let Err(error) = &value
            && error.out_of_budget
        {
            return Err(error.clone());
        }
        state.take(value, element, key)
    }
}

/// What a comprehension has gathered.
struct FoldState<'v> {
    fold: Fold,
    error: Option<EvalError>,
    count: usize,
    decided: bool,
    list: Vec<Val<'v>>,
    map: Vec<(Val<'v>, Val<'v>)>,
}

impl<'v> FoldState<'v> {
    fn new(fold: Fold) -> Self {
        FoldState { fold, error: None, count: 0, decided: false, list: Vec::new(), map: Vec::new() }
    }

    fn take(
        &mut self,
        value: Evaluated<'v>,
        element: Val<'v>,
        key: Option<Val<'v>>,
    ) -> Result<bool, EvalError> {
        let truth = |value: &Val<'v>| match value {
            Val::Bool(set) => Ok(*set),
            _ => Err(EvalError::new("no such overload")),
        };
        match self.fold {
            Fold::All | Fold::Exists => {
                match value.and_then(|value| truth(&value)) {
                    Ok(set) => self.decided |= set == (self.fold == Fold::Exists),
                    Err(error) => self.error = Some(error),
                }
                return Ok(self.decided);
            }
            Fold::ExistsOne => self.count += usize::from(truth(&value?)?),
            Fold::Filter => {
                if truth(&value?)? {
                    self.list.push(element);
                }
            }
            Fold::Map | Fold::TransformList => self.list.push(value?),
            Fold::TransformMap => {
                self.map.extend(key.map(|key| value.map(|value| (key, value))).transpose()?)
            }
            Fold::TransformMapEntry => {
                for (key, value) in value?.entries().ok_or_else(|| EvalError::new("no such overload"))? {
                    if self.map.iter().any(|(known, _)| known.equals(&key)) {
                        let shown = key_text(&key).unwrap_or_default();
                        return Err(EvalError::new(format!("insert failed: key {shown} already exists")));
                    }
                    self.map.push((key, value));
                }
            }
        }
        Ok(false)
    }

    fn finish(self) -> Evaluated<'v> {
        match self.fold {
            Fold::All | Fold::Exists => match (self.decided, self.error) {
                (true, _) => Ok(Val::Bool(self.fold == Fold::Exists)),
                (false, Some(error)) => Err(error),
                (false, None) => Ok(Val::Bool(self.fold == Fold::All)),
            },
            Fold::ExistsOne => Ok(Val::Bool(self.count == 1)),
            Fold::Filter | Fold::Map | Fold::TransformList => Ok(Val::list(self.list)),
            Fold::TransformMap | Fold::TransformMapEntry => Ok(Val::Map(Rc::new(self.map))),
        }
    }
}

/// What a comprehension runs over: elements or keys, or with two variables index and element, key and value.
fn pairs<'v>(range: &Val<'v>, two: bool) -> Option<Vec<(Val<'v>, Val<'v>)>> {
    if let Some(items) = range.items() {
        return Some(match two {
            true => (0i64..).map(Val::Int).zip(items).collect(),
            false => items.into_iter().map(|item| (item, Val::Null)).collect(),
        });
    }
    let entries = range.entries()?;
    Some(match two {
        true => entries,
        false => entries.into_iter().map(|(key, _)| (key, Val::Null)).collect(),
    })
}

fn unwrap_optional(optional: bool, value: Val<'_>) -> Result<Option<Val<'_>>, EvalError> {
    match (optional, value) {
        (false, value) => Ok(Some(value)),
        (true, Val::Optional(inner)) => Ok(inner.map(|inner| *inner)),
        (true, other) => Err(EvalError::new(format!(
            "cannot initialize optional entry from non-optional value {}",
            other.type_name()
        ))),
    }
}

fn literal_value<'v>(literal: &Literal) -> Val<'v> {
    match literal {
        Literal::Null => Val::Null,
        Literal::Bool(set) => Val::Bool(*set),
        Literal::Int(n) => Val::Int(*n),
        Literal::Uint(n) => Val::Uint(*n),
        Literal::Double(n) => Val::Double(*n),
        Literal::Str(text) => Val::string(text.clone()),
        Literal::Bytes(bytes) => Val::Bytes(Rc::new(bytes.clone())),
    }
}

/// `a.b.c` as text.
fn dotted(node: &Node) -> Option<String> {
    match &node.expr {
        Expr::Ident(name) => Some(name.clone()),
        Expr::Select { operand, field, optional: false } => Some(format!("{}.{field}", dotted(operand)?)),
        _ => None,
    }
}

fn get_field<'v>(operand: &Val<'v>, field: &str, budget: &mut Budget) -> Option<Evaluated<'v>> {
    match operand {
        Val::Host(host) => host.select(field, budget),
        other => other.get(field).map(Ok),
    }
}

fn has(operand: &Val<'_>, field: &str, budget: &mut Budget) -> Result<bool, EvalError> {
    match operand {
        Val::Optional(None) => Ok(false),
        Val::Optional(Some(inner)) => has(inner, field, budget),
        Val::Host(host) => match host.select(field, budget) {
            Some(Err(error)) => Err(error),
            found => Ok(found.is_some()),
        },
        Val::Json(serde_json::Value::Object(_), _) | Val::Map(_) | Val::Object(_) => {
            Ok(operand.get(field).is_some())
        }
        _ => Err(EvalError::new(format!("no such key: {field}"))),
    }
}

fn index_into<'v>(operand: Val<'v>, index: &Val<'v>, optional: bool) -> Evaluated<'v> {
    if let Val::Optional(inner) = operand {
        return match inner {
            None => Ok(Val::Optional(None)),
            Some(inner) => index_into(*inner, index, true),
        };
    }
    let found = look_up(&operand, index)?;
    match (found, optional) {
        (Some(value), false) => Ok(value),
        (found, true) => Ok(Val::Optional(found.map(Box::new))),
        (None, false) => match operand.items() {
            Some(_) => {
                Err(EvalError::new(format!("index out of bounds: {}", key_text(index).unwrap_or_default())))
            }
            None => no_key(&key_text(index).unwrap_or_default()),
        },
    }
}

fn look_up<'v>(operand: &Val<'v>, index: &Val<'v>) -> Result<Option<Val<'v>>, EvalError> {
    let position = match index {
        Val::Int(n) => usize::try_from(*n).ok(),
        Val::Uint(n) => usize::try_from(*n).ok(),
        Val::Double(n) if n.fract() == 0.0 && *n >= 0.0 => format!("{n:.0}").parse().ok(),
        _ => None,
    };
    match operand {
        Val::List(items) => Ok(position.and_then(|at| items.get(at).cloned())),
        Val::Json(serde_json::Value::Array(items), schema) => {
            Ok(position.and_then(|at| items.get(at)).map(|item| Val::json(item, schema.item())))
        }
        Val::Json(serde_json::Value::Object(map), schema) => match index {
            Val::Str(key) => Ok(map
                .get(key.as_ref())
                .map(|value| Val::json(value, schema.field(key).unwrap_or(crate::schema::Schema::Any)))),
            _ => Ok(None),
        },
        Val::Map(entries) => {
            Ok(entries.iter().find(|(key, _)| key.equals(index)).map(|(_, value)| value.clone()))
        }
        Val::Host(host) => match index {
            Val::Str(key) => host.select(key, &mut Budget::new(super::PER_CALL_LIMIT)).transpose(),
            _ => Ok(None),
        },
        Val::Object(_) => match index {
            Val::Str(key) => Ok(operand.get(key)),
            _ => Ok(None),
        },
        _ => Err(EvalError::new("no such overload")),
    }
}

/// Methods of optionals that do not evaluate their argument always.
fn optional_method<'s, 'v>(
    name: &str,
    value: &Val<'v>,
    args: &'s [Node],
    scope: &mut Scope<'s, 'v>,
    budget: &mut Budget,
) -> Option<Evaluated<'v>> {
    let Val::Optional(inner) = value else { return None };
    Some(match (name, args) {
        ("hasValue", []) => Ok(Val::Bool(inner.is_some())),
        ("value", []) => match inner {
            Some(inner) => Ok((**inner).clone()),
            None => Err(EvalError::new("optional.none() dereference")),
        },
        ("orValue", [other]) => match inner {
            Some(inner) => Ok((**inner).clone()),
            None => scope.eval(other, budget),
        },
        ("or", [other]) => match inner {
            Some(_) => Ok(value.clone()),
            None => scope.eval(other, budget),
        },
        _ => return None,
    })
}
