//! Runs the `nft` tool, one child for each transaction, the commands on its standard input.
//!
//! Must not know what the commands mean.

use super::{Family, Model};
use crate::exec::{self, ExecError};

/// The nft tool and what it was last told.
#[derive(Debug)]
pub struct Nft {
    program: String,
    /// The kernel's table is known to be the model's last written state.
    in_step: bool,
}

impl Nft {
    /// A tool that has applied nothing yet, so its first transaction replaces the table.
    pub fn new(program: &str) -> Nft {
        Nft { program: program.to_owned(), in_step: false }
    }

    /// Makes the next transaction replace the whole table.
    pub fn forget(&mut self) {
        self.in_step = false;
    }

    /// Brings the kernel to the model's state. True when there was something to do.
    ///
    /// A transaction that fails leaves the table as it was; the next call then replaces the whole table.
    pub async fn apply(&mut self, model: &mut Model) -> Result<bool, ExecError> {
        let transactions = if self.in_step { model.take_changes() } else { vec![model.take_whole()] };
        if transactions.is_empty() {
            return Ok(false);
        }
        self.in_step = false;
        for commands in transactions {
            self.run(&commands).await?;
        }
        self.in_step = true;
        Ok(true)
    }

    /// Looks whether the table is still there: reloading another firewall may flush everybody's tables.
    /// If it is not, the next transaction replaces it. True when it was as left.
    pub async fn look_after(&mut self, family: Family, table: &str) -> bool {
        let listed = exec::run(&self.program, &["list", "chain", family.word(), table, "services"], "").await;
        let good = listed.is_ok_and(|text| text.contains("vmap"));
        if !good {
            self.in_step = false;
        }
        good
    }

    /// Removes the table, if it is there.
    pub async fn remove(&mut self, family: Family, table: &str) -> Result<(), ExecError> {
        let table = format!("{} {table}", family.word());
        self.in_step = false;
        self.run(&format!("add table {table}\ndelete table {table}\n")).await
    }

    /// Runs commands as one transaction.
    pub async fn run(&self, commands: &str) -> Result<(), ExecError> {
        tracing::trace!(commands, "nft transaction");
        exec::run(&self.program, &["-f", "-"], commands).await.map(drop)
    }
}
