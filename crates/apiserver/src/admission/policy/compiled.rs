//! Policies made ready to be evaluated, and what their expressions see. It must not know what follows from a
//! result.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use machinery::cel::{Activation, Budget, EvalError, Host, Program, REQUEST_BUDGET, Type, Val};
use machinery::policy::Names;
use machinery::schema::Schema;
use registry::tree::Tree;
use registry::validation::admission::compile;
use serde_json::Value;

use super::authorizer::Authorizer;
use crate::admission::Review;
use crate::authz::Attributes;
use crate::server::Server;

/// What match conditions may cost together, as upstream.
const CONDITIONS_BUDGET: u64 = REQUEST_BUDGET / 4;
/// How many compiled conditions of webhooks are kept.
const KEPT_CONDITIONS: usize = 1000;
const SPENT: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// An expression with its program, or why there is none.
pub struct Expression {
    /// As written.
    pub text: String,
    program: Result<Program, String>,
}

impl Expression {
    fn new(text: &str, names: Names<'_>, wanted: &[Type]) -> Expression {
        Expression { text: text.to_owned(), program: compile(text, names, wanted) }
    }
}

/// Why an expression gave nothing.
pub enum Failure {
    /// It failed; others may go on.
    Failed(String),
    /// What all may cost together is spent.
    Spent,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Failed(why) => f.write_str(why),
            Failure::Spent => f.write_str(SPENT),
        }
    }
}

/// One condition: its name and expression.
pub type Condition = (String, Arc<Expression>);

/// A policy of either kind.
pub struct Policy {
    /// Its name.
    pub name: String,
    /// As stored.
    pub tree: Value,
    variables: Vec<(String, Expression)>,
    /// Match conditions.
    pub conditions: Vec<Condition>,
    /// Expressions and message expressions of `spec.validations`.
    pub validations: Vec<(Expression, Option<Expression>)>,
    /// Of `spec.auditAnnotations`, with their keys.
    pub annotations: Vec<(String, Expression)>,
    /// Of `spec.mutations`.
    pub mutations: Vec<Expression>,
}

impl Policy {
    /// Compiles a stored policy.
    pub fn new(tree: Value) -> Policy {
        let params = tree.has("spec.paramKind");
        let mut known: Vec<(String, Type)> = Vec::new();
        let mut variables = Vec::new();
        for variable in tree.list("spec.variables") {
            let names = Names { params, authorizer: true, variables: &known, builds: false };
            let expression = Expression::new(variable.text("expression"), names, &[]);
            let kind = expression.program.as_ref().map_or(Type::Dyn, |p| p.result_type().clone());
            known.push((variable.text("name").to_owned(), kind));
            variables.push((variable.text("name").to_owned(), expression));
        }
        let names = Names { params, authorizer: true, variables: &known, builds: false };
        let quiet = Names { authorizer: false, ..names };
        let condition = |c: &Value| {
            let expression = Expression::new(c.text("expression"), names, &[Type::Bool]);
            (c.text("name").to_owned(), Arc::new(expression))
        };
        let validation = |v: &Value| {
            let message = v.text("messageExpression");
            let message = (!message.is_empty()).then(|| Expression::new(message, quiet, &[Type::String]));
            (Expression::new(v.text("expression"), names, &[Type::Bool]), message)
        };
        let annotation = |a: &Value| {
            let wanted = [Type::String, Type::Null];
            (a.text("key").to_owned(), Expression::new(a.text("valueExpression"), names, &wanted))
        };
        let built = Names { builds: true, ..names };
        let mutation = |m: &Value| match m.text("patchType") {
            "JSONPatch" => Expression::new(m.text("jsonPatch.expression"), built, &patch_types()),
            _ => Expression::new(m.text("applyConfiguration.expression"), built, &[object_type()]),
        };
        Policy {
            name: tree.text("metadata.name").to_owned(),
            conditions: tree.list("spec.matchConditions").iter().map(condition).collect(),
            validations: tree.list("spec.validations").iter().map(validation).collect(),
            annotations: tree.list("spec.auditAnnotations").iter().map(annotation).collect(),
            mutations: tree.list("spec.mutations").iter().map(mutation).collect(),
            variables,
            tree,
        }
    }

    /// Whether failures let the request pass.
    pub fn ignores_failures(&self) -> bool {
        self.tree.text("spec.failurePolicy") == "Ignore"
    }
}

fn object_type() -> Type {
    Type::Named("Object".to_owned())
}

fn patch_types() -> [Type; 2] {
    [Type::List(Box::new(Type::Named("JSONPatch".to_owned()))), Type::List(Box::new(Type::Dyn))]
}

/// What expressions are about.
#[derive(Clone, Copy)]
pub struct Subject<'v> {
    /// The server that answers questions to the authorizer.
    pub server: &'v Server,
    /// The object, null when there is none.
    pub object: &'v Value,
    /// The object before, null when there was none.
    pub old: &'v Value,
    /// The request.
    pub request: &'v Value,
    /// The parameter object, or null.
    pub params: &'v Value,
    /// The namespace, or null.
    pub namespace: &'v Value,
}

impl<'v> Subject<'v> {
    /// The variables of an expression; those of a policy where there is one.
    pub fn activation(
        &self,
        review: &Review<'_>,
        policy: Option<&'v Policy>,
        authorizer: bool,
    ) -> Activation<'v> {
        let json = |value: &'v Value| Val::json(value, Schema::Any);
        let mut all = Activation::new()
            .with("object", json(self.object))
            .with("oldObject", json(self.old))
            .with("request", json(self.request))
            .with("namespaceObject", json(self.namespace))
            .with("params", json(self.params));
        if authorizer {
            let own = Attributes {
                is_resource: true,
                group: review.row.group.clone(),
                version: review.row.version.clone(),
                resource: review.row.plural.clone(),
                subresource: review.subresource.clone(),
                namespace: review.namespace.clone(),
                name: self.request.text("name").to_owned(),
                ..Attributes::default()
            };
            let user = review.exchange.user.clone();
            all = all.with("authorizer", Authorizer::new(self.server, user, own).value());
        }
        match policy.filter(|policy| !policy.variables.is_empty()) {
            None => all,
            Some(policy) => {
                let variables = Rc::new_cyclic(|me| Variables {
                    me: me.clone(),
                    policy,
                    outer: all.clone(),
                    known: RefCell::default(),
                });
                all.with("variables", Val::Host(variables))
            }
        }
    }
}

/// A policy's variables, each evaluated when it is first asked for.
struct Variables<'v> {
    me: Weak<Variables<'v>>,
    policy: &'v Policy,
    outer: Activation<'v>,
    known: RefCell<BTreeMap<String, Result<Val<'v>, EvalError>>>,
}

impl<'v> Variables<'v> {
    fn find(&self, name: &str, budget: &mut Budget) -> Option<Result<Val<'v>, EvalError>> {
        let (_, expression) = self.policy.variables.iter().find(|(known, _)| known == name)?;
        let program = match &expression.program {
            Ok(program) => program,
            Err(why) => {
                let text = format!("composited variable {name:?} fails to compile: {why}");
                return Some(Err(EvalError::new(text)));
            }
        };
        let me: Rc<dyn Host<'v> + 'v> = self.me.upgrade()?;
        let activation = self.outer.clone().with("variables", Val::Host(me));
        Some(program.eval_nested(&activation, budget).map_err(|error| match error.out_of_budget {
            true => error,
            false => EvalError::new(format!("composited variable {name:?} fails to evaluate: {error}")),
        }))
    }
}

impl<'v> Host<'v> for Variables<'v> {
    fn type_name(&self) -> String {
        "kubernetes.variables".to_owned()
    }

    fn select(&self, field: &str, budget: &mut Budget) -> Option<Result<Val<'v>, EvalError>> {
        if let Some(known) = self.known.borrow().get(field) {
            return Some(known.clone());
        }
        // One that asks for itself (two of the same name) must not go round for ever.
        let cycle = Err(EvalError::new(format!("variable {field:?} depends on itself")));
        self.known.borrow_mut().insert(field.to_owned(), cycle);
        let found = self.find(field, budget)?;
        self.known.borrow_mut().insert(field.to_owned(), found.clone());
        Some(found)
    }

    fn call(&self, _: &str, _: &[Val<'v>], _: &mut Budget) -> Option<Result<Val<'v>, EvalError>> {
        None
    }
}

/// What an expression gives.
pub fn evaluate<'v>(
    expression: &Expression,
    activation: &Activation<'v>,
    budget: &mut Budget,
) -> Result<Val<'v>, Failure> {
    let program =
        expression.program.as_ref().map_err(|why| Failure::Failed(format!("compilation error: {why}")))?;
    program.eval(activation, budget).map_err(|error| match error.out_of_budget && budget.left == 0 {
        true => Failure::Spent,
        false => Failure::Failed(format!("expression '{}' resulted in error: {error}", expression.text)),
    })
}

/// Whether all conditions hold. One that says no counts more than those that fail.
pub fn conditions_hold(conditions: &[Condition], activation: &Activation<'_>) -> Result<bool, String> {
    let mut budget = Budget::new(CONDITIONS_BUDGET);
    let mut failed = Vec::new();
    for (_, expression) in conditions {
        match evaluate(expression, activation, &mut budget) {
            Ok(Val::Bool(true)) => {}
            Ok(Val::Bool(false)) => return Ok(false),
            Ok(other) => failed.push(format!("must evaluate to bool but got {}", other.type_name())),
            Err(Failure::Spent) => return Err(SPENT.to_owned()),
            Err(Failure::Failed(why)) => failed.push(why),
        }
    }
    match failed.as_slice() {
        [] => Ok(true),
        [one] => Err(one.clone()),
        all => Err(format!("[{}]", all.join(", "))),
    }
}

/// The conditions of a webhook, compiled once for each text.
pub fn webhook_conditions(server: &Server, hook: &Value) -> Vec<Condition> {
    let mut held = server.policies.conditions.lock();
    if held.len() > KEPT_CONDITIONS {
        held.clear();
    }
    let names = Names { params: false, authorizer: true, variables: &[], builds: false };
    let mut ready = |condition: &Value| {
        let text = condition.text("expression");
        let made = held
            .entry(text.to_owned())
            .or_insert_with(|| Arc::new(Expression::new(text, names, &[Type::Bool])));
        (condition.text("name").to_owned(), made.clone())
    };
    hook.list("matchConditions").iter().map(&mut ready).collect()
}
