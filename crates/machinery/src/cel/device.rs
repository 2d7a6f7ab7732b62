//! The environment of device selectors: expressions over the variable `device`. It must not know claims.

use super::{Env, Program, Type};

/// What one evaluation may cost, as upstream.
pub const MAX_COST: u64 = 1_000_000;

/// Compiles a selector, or says in upstream's words why it is none.
pub fn compile(expression: &str) -> Result<Program, String> {
    let fields = vec![
        ("driver".to_owned(), Type::String),
        ("allowMultipleAllocations".to_owned(), Type::Bool),
        ("attributes".to_owned(), Type::Dyn),
        ("capacity".to_owned(), Type::Dyn),
    ];
    let program = Program::compile(expression, &Env::new().fields("device", fields))
        .map_err(|error| format!("compilation failed: {error}"))?;
    match program.result_type() {
        Type::Bool | Type::Dyn => Ok(program),
        other => Err(format!("must evaluate to bool or the unknown type, not {other}")),
    }
}
