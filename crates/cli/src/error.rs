//! What can go wrong on the command line, said with the next step.

use std::path::{Path, PathBuf};

/// An error shown to the user.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// A file or directory.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Keys and certificates.
    #[error(transparent)]
    Pki(#[from] base::pki::PkiError),
    /// A call to the API server.
    #[error(transparent)]
    Client(#[from] client::ClientError),
    /// A program we start.
    #[error("{program} failed: {detail}{hint}")]
    Program {
        /// The program.
        program: String,
        /// Its last words.
        detail: String,
        /// What the user can do.
        hint: &'static str,
    },
    /// A flag's value.
    #[error("invalid value {value:?} for --{flag}: {why}")]
    Flag {
        /// The flag, without dashes.
        flag: &'static str,
        /// The value given.
        value: String,
        /// What is wrong with it.
        why: String,
    },
    /// A component that did not start.
    #[error("the {component} did not start: {source}")]
    Component {
        /// The component.
        component: &'static str,
        /// Why.
        source: base::BoxError,
    },
    /// Nothing to act on.
    #[error("no cluster runs from {path}; start one with `navarch up`", path = .0.display())]
    NotRunning(PathBuf),
    /// A machine that does not become, or stay, a node; or a token that is not made.
    #[error("{what}: {detail}; {next}")]
    Join {
        /// What was tried.
        what: String,
        /// What went wrong.
        detail: String,
        /// What the user can do.
        next: String,
    },
    /// Something took too long.
    #[error("{what} took longer than {seconds} s; see {log}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// For how long, seconds.
        seconds: u64,
        /// Where to look.
        log: String,
    },
}

impl CliError {
    /// A failed file operation.
    pub fn file(action: &'static str, path: &Path, source: std::io::Error) -> CliError {
        CliError::File { action, path: path.to_owned(), source }
    }

    /// A component's failure.
    pub fn component(component: &'static str, source: impl Into<base::BoxError>) -> CliError {
        CliError::Component { component, source: source.into() }
    }
}
