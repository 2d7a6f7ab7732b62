//! Runs the `nft` tool, one child for each transaction, the commands on its standard input.
//!
//! Must not know what the commands mean.

use std::process::Stdio;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::{Family, Model};

/// The most of nft's complaint that is kept, in bytes.
const COMPLAINT_LIMIT: usize = 2000;

/// Why a transaction was not applied. The table is then as it was before.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The tool did not run.
    #[error("running {program}: {source}")]
    Run {
        /// The program that was to run.
        program: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The tool refused the commands.
    #[error("nft refused a transaction of {bytes} bytes: {complaint}")]
    Refused {
        /// The length of the commands.
        bytes: usize,
        /// The tool's words.
        complaint: String,
    },
}

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
    /// After a failure the next call replaces the whole table.
    pub async fn apply(&mut self, model: &mut Model) -> Result<bool, ApplyError> {
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

    /// Removes the table, if it is there.
    pub async fn remove(&mut self, family: Family, table: &str) -> Result<(), ApplyError> {
        let table = format!("{} {table}", family.word());
        self.in_step = false;
        self.run(&format!("add table {table}\ndelete table {table}\n")).await
    }

    /// Runs commands as one transaction.
    pub async fn run(&self, commands: &str) -> Result<(), ApplyError> {
        let failed = |source| ApplyError::Run { program: self.program.clone(), source };
        tracing::trace!(commands, "nft transaction");
        let mut child = Command::new(&self.program)
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let mut stdin = child.stdin.take().expect("stdin is piped");
        let feed = async move {
            let fed = stdin.write_all(commands.as_bytes()).await;
            drop(stdin);
            fed
        };
        let (fed, output) = tokio::join!(feed, child.wait_with_output());
        let output = output.map_err(failed)?;
        if !output.status.success() {
            let complaint = String::from_utf8_lossy(&output.stderr);
            let complaint: String = complaint.chars().take(COMPLAINT_LIMIT).collect();
            return Err(ApplyError::Refused {
                bytes: commands.len(),
                complaint: complaint.trim().to_owned(),
            });
        }
        fed.map_err(failed)
    }
}
