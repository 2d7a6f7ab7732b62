//! The commands, one file a command or family of commands; each file has its rows of the table.

pub mod delete;
pub mod discovery;
pub mod get;
pub mod wait;

use crate::commands::Command;

/// The table of commands.
pub const TABLES: &[&[Command]] = &[get::COMMANDS, delete::COMMANDS, discovery::COMMANDS, wait::COMMANDS];

/// Makes an async function a table's entry.
macro_rules! run {
    ($function:path) => {
        |app, args| Box::pin($function(app, args))
    };
}
pub(crate) use run;
