//! The commands, one file a command or family of commands; each file has its rows of the table.

pub mod access;
pub mod apply;
pub mod change;
pub mod config;
pub mod cp;
pub mod create;
pub mod debug;
pub mod delete;
pub mod discovery;
pub mod edit;
pub mod events;
pub mod exec;
pub mod explain;
pub mod forward;
pub mod get;
pub mod logs;
pub mod metadata;
pub mod node;
pub mod pods;
pub mod rollout;
pub mod scale;
pub mod set;
pub mod start;
pub mod top;
pub mod wait;

use crate::commands::Command;
use crate::describe;

/// The table of commands, in parts.
pub const TABLES: &[&[&[Command]]] = &[
    create::TABLES,
    &[
        apply::COMMANDS,
        top::COMMANDS,
        forward::COMMANDS,
        explain::COMMANDS,
        events::COMMANDS,
        debug::COMMANDS,
        cp::COMMANDS,
        config::COMMANDS,
        access::COMMANDS,
        delete::COMMANDS,
        describe::COMMANDS,
        discovery::COMMANDS,
        edit::COMMANDS,
        exec::COMMANDS,
        get::COMMANDS,
        logs::COMMANDS,
        metadata::COMMANDS,
        node::COMMANDS,
        rollout::COMMANDS,
        start::COMMANDS,
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
