//! Runs a system tool, its commands on standard input.
//!
//! Must not know what the tool does.

use std::process::Stdio;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// The most of a tool's complaint that is kept, in characters.
const COMPLAINT_LIMIT: usize = 2000;

/// Why a tool did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// It did not run.
    #[error("running {program}: {source}")]
    Run {
        /// The program that was to run.
        program: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It ended with an error.
    #[error("{command}: {complaint}")]
    Failed {
        /// The command line.
        command: String,
        /// The tool's words.
        complaint: String,
    },
}

/// Runs `program` with `arguments` and `input`; returns what it prints.
pub async fn run(program: &str, arguments: &[&str], input: &str) -> Result<String, ExecError> {
    let failed = |source| ExecError::Run { program: program.to_owned(), source };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let feed = async move {
        let fed = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        fed
    };
    let (fed, output) = tokio::join!(feed, child.wait_with_output());
    let output = output.map_err(failed)?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        let complaint: String = complaint.trim().chars().take(COMPLAINT_LIMIT).collect();
        let command = [&[program], arguments].concat().join(" ");
        return Err(ExecError::Failed { command, complaint });
    }
    if let Err(error) = fed
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        return Err(failed(error));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
