//! The commands, one file a command or family of commands; each file has its rows of the table.

pub mod apply;
pub mod change;
pub mod create;
pub mod delete;
pub mod discovery;
pub mod edit;
pub mod get;
pub mod metadata;
pub mod node;
pub mod rollout;
pub mod scale;
pub mod set;
pub mod wait;

use crate::commands::Command;
use crate::describe;

/// The table of commands, in parts.
pub const TABLES: &[&[&[Command]]] = &[
    create::TABLES,
    &[
        apply::COMMANDS,
        delete::COMMANDS,
        describe::COMMANDS,
        discovery::COMMANDS,
        edit::COMMANDS,
        get::COMMANDS,
        metadata::COMMANDS,
        node::COMMANDS,
        rollout::COMMANDS,
        scale::COMMANDS,
        set::COMMANDS,
        wait::COMMANDS,
    ],
];

/// Makes an async function a table's entry.
macro_rules! run {
    ($function:path) => {
        |app, args| Box::pin($function(app, args))
    };
}
pub(crate) use run;
