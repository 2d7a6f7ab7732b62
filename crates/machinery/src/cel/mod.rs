//! The Common Expression Language as Kubernetes uses it: parser, type checker, evaluator with a cost limit, the
//! standard library and Kubernetes' own (quantities, IPs, URLs, regular expressions, lists, sets, formats,
//! semantic versions, optionals, JSON patches, typed objects).
//!
//! Expressions run over [`serde_json::Value`] trees with a [`Schema`](crate::schema::Schema) and never copy
//! them. It must not know admission, custom resources or authorization: what those add comes in as variables
//! and [`Host`] objects.

mod ast;
mod check;
pub mod device;
mod eval;
mod extensions;
mod functions;
mod parse;
mod regexes;
mod rules;
mod times;
mod value;

pub use check::{Env, Type};
pub use eval::{Activation, Budget, EvalError};
pub use rules::{BadRule, RuleSet};
pub use value::{Host, KEYWORDS, Val};

use ast::Node;

/// Nesting of an expression deeper than this is refused: it must fit a worker's stack (cel-go stops at 250).
pub const MAX_DEPTH: usize = 64;
/// Cost of one evaluation above this ends it, as upstream's per-call limit.
pub const PER_CALL_LIMIT: u64 = 1_000_000;
/// Cost that all expressions of one request may have together, as upstream.
pub const REQUEST_BUDGET: u64 = 10_000_000;
/// Longest expression in bytes: more is no rule but an attack.
pub const MAX_EXPRESSION_BYTES: usize = 100_000;

/// A compiled expression.
#[derive(Debug, Clone)]
pub struct Program {
    root: Node,
    source: String,
    kind: Type,
}

/// Where and why an expression is wrong; printed as cel-go does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompileError {
    /// What is wrong: 1-based line, 0-based column, message.
    pub issues: Vec<(usize, usize, String)>,
    source: String,
}

impl CompileError {
    fn at(source: &str, offset: usize, message: String) -> CompileError {
        let mut error = CompileError { issues: Vec::new(), source: source.to_string() };
        error.push(offset, message);
        error
    }

    fn push(&mut self, offset: usize, message: String) {
        let before = &self.source[..offset.min(self.source.len())];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count();
        self.issues.push((line, column, message));
    }
}

impl std::error::Error for CompileError {}

impl std::fmt::Display for CompileError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, (line, column, message)) in self.issues.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            // cel-go has no place in an empty text.
            let shown = if self.source.is_empty() { 0 } else { column + 1 };
            write!(f, "ERROR: <input>:{line}:{shown}: {message}")?;
            if let Some(text) = self.source.lines().nth(line - 1) {
                write!(f, "\n | {text}\n | {}^", ".".repeat(*column))?;
            }
        }
        Ok(())
    }
}

impl Program {
    /// Parses and type checks an expression.
    pub fn compile(source: &str, env: &Env<'_>) -> Result<Program, CompileError> {
        let root = parse::parse(source)?;
        let kind = check::check(source, &root, env)?;
        Ok(Program { root, source: source.to_string(), kind })
    }

    /// The type that the checker found for the result.
    pub fn result_type(&self) -> &Type {
        &self.kind
    }

    /// The text that was compiled.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the expression names a variable, such as `oldSelf`.
    pub fn uses(&self, variable: &str) -> bool {
        self.root.any(&mut |node| matches!(&node.expr, ast::Expr::Ident(name) if name == variable))
    }

    /// Evaluates it. The budget loses what the evaluation costs.
    pub fn eval<'v>(&self, variables: &Activation<'v>, budget: &mut Budget) -> Result<Val<'v>, EvalError> {
        eval::eval(&self.root, variables, budget)
    }

    /// Evaluates it for a [`Host`] in the midst of another evaluation: its cost counts against the whole only.
    pub fn eval_nested<'v>(
        &self,
        variables: &Activation<'v>,
        budget: &mut Budget,
    ) -> Result<Val<'v>, EvalError> {
        eval::nested(&self.root, variables, budget)
    }

    /// Evaluates an expression that must give a boolean.
    pub fn eval_bool(&self, variables: &Activation<'_>, budget: &mut Budget) -> Result<bool, EvalError> {
        match self.eval(variables, budget)? {
            Val::Bool(set) => Ok(set),
            other => Err(EvalError::new(format!("expected bool, got {}", other.type_name()))),
        }
    }
}

#[cfg(test)]
mod tests;
