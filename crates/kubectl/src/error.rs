//! What can go wrong, and how it is told on standard error.
//!
//! Must not know any command.

use api::validation::go_quote;
use api::{ApiError, Reason};
use client::ClientError;

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line asks for something that makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The command line could not be read.
    #[error("{message}\nSee '{command} --help' for usage.")]
    Flags {
        /// The command, such as `kubectl get`.
        command: String,
        /// What is wrong.
        message: String,
    },
    /// A manifest, a file or a value in it cannot be used.
    #[error("{0}")]
    Input(String),
    /// The state of the cluster does not permit what was asked.
    #[error("{0}")]
    State(String),
    /// The kubeconfig cannot be used.
    #[error("{0}")]
    Config(String),
    /// This machine refused: files, sockets, programs.
    #[error("{what}: {source}")]
    Local {
        /// What was attempted.
        what: String,
        /// The cause.
        source: std::io::Error,
    },
    /// The server refused or could not be reached.
    #[error("{0}")]
    Client(#[from] ClientError),
    /// The same, with what was attempted: `error when creating "a.yaml"`.
    #[error("{context}: {source}")]
    During {
        /// What was attempted.
        context: String,
        /// The cause.
        source: ClientError,
    },
    /// Several.
    #[error("{}", .0.iter().map(Error::to_string).collect::<Vec<_>>().join("\n"))]
    Many(Vec<Error>),
    /// Everything has been said; end with this exit code.
    #[error("exit {0}")]
    Exit(i32),
    /// A text that is printed without any prefix.
    #[error("{message}")]
    Bare {
        /// The text.
        message: String,
        /// The exit code.
        code: i32,
    },
}

impl Error {
    /// The command line asks for something that makes no sense.
    pub fn usage(message: impl Into<String>) -> Error {
        Error::Usage(message.into())
    }

    /// The same, with a hint where to read on.
    pub fn misuse(command: &str, message: &str) -> Error {
        Error::Usage(format!("{message}\nSee 'kubectl {command} -h' for help and examples"))
    }

    /// A manifest, a file or a value cannot be used.
    pub fn input(message: impl Into<String>) -> Error {
        Error::Input(message.into())
    }

    /// The state of the cluster does not permit it.
    pub fn state(message: impl Into<String>) -> Error {
        Error::State(message.into())
    }

    /// This machine refused.
    pub fn local(what: impl Into<String>, source: std::io::Error) -> Error {
        Error::Local { what: what.into(), source }
    }

    /// Says what was attempted.
    pub fn during(context: impl Into<String>) -> impl FnOnce(ClientError) -> Error {
        let context = context.into();
        move |source| Error::During { context, source }
    }

    /// Nothing, the only one, or all of them.
    pub fn all(mut errors: Vec<Error>) -> Result<(), Error> {
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(Error::Many(errors)),
        }
    }

    /// The server's error behind it.
    pub fn api(&self) -> Option<&ApiError> {
        match self {
            Error::Client(error) | Error::During { source: error, .. } => error.api(),
            _ => None,
        }
    }

    /// True when the server said 404.
    pub fn is_not_found(&self) -> bool {
        self.api().is_some_and(|error| error.is(Reason::NotFound))
    }

    /// True when the server said that the name is taken.
    pub fn is_already_exists(&self) -> bool {
        self.api().is_some_and(|error| error.is(Reason::AlreadyExists))
    }

    /// True when the object changed meanwhile.
    pub fn is_conflict(&self) -> bool {
        self.api().is_some_and(|error| error.is(Reason::Conflict))
    }

    /// The text for standard error and the exit code. An empty text prints nothing.
    pub fn report(&self, server: &str) -> (String, i32) {
        match self {
            Error::Exit(code) => (String::new(), *code),
            Error::Bare { message, code } => (message.clone(), *code),
            Error::Many(errors) => {
                let lines: Vec<String> = errors.iter().map(|error| error.listed(server)).collect();
                (lines.join("\n"), 1)
            }
            Error::Client(ClientError::Api(error))
            | Error::During { source: ClientError::Api(error), .. }
                if error.is(Reason::Invalid) =>
            {
                (invalid(error), 1)
            }
            Error::Config(message) => (message.clone(), 1),
            other => (other.message(server), 1),
        }
    }

    /// Among others: only the server's errors say where they come from.
    fn listed(&self, server: &str) -> String {
        match self {
            Error::Client(_) | Error::During { .. } => self.message(server),
            other => other.to_string(),
        }
    }

    fn message(&self, server: &str) -> String {
        match self {
            Error::Client(ClientError::Api(error)) => server_message(error, &error.message),
            Error::During { context, source: ClientError::Api(error) } => {
                server_message(error, &format!("{context}: {}", error.message))
            }
            Error::Client(error) | Error::During { source: error, .. } => unreachable_message(error, server),
            other => format!("error: {other}"),
        }
    }
}

fn server_message(error: &ApiError, text: &str) -> String {
    match error.reason {
        Reason::Unauthorized => format!("error: You must be logged in to the server ({text})"),
        Reason::Unknown => format!("Error from server: {text}"),
        reason => format!("Error from server ({}): {text}", reason.as_str()),
    }
}

fn unreachable_message(error: &ClientError, server: &str) -> String {
    let ClientError::Transport { source, .. } = error else {
        return match error {
            ClientError::Timeout { .. } => format!("Unable to connect to the server: {error}"),
            _ => format!("error: {error}"),
        };
    };
    let text = source.to_string();
    if text.to_ascii_lowercase().contains("connection refused") {
        let host = server.split("://").last().unwrap_or(server).split('/').next().unwrap_or(server);
        return format!(
            "The connection to the server {host} was refused - did you specify the right host or port?"
        );
    }
    format!("Unable to connect to the server: {text}")
}

/// `The Deployment "x" is invalid: …`.
fn invalid(error: &ApiError) -> String {
    let Some(details) = &error.details else {
        let tail = if error.message.is_empty() { String::new() } else { format!(": {}", error.message) };
        return format!("The request is invalid{tail}");
    };
    let mut start = "The request is invalid".to_owned();
    if !details.kind.is_empty() || !details.name.is_empty() {
        start = format!("The {} {} is invalid", details.kind, go_quote(&details.name));
    } else if !error.message.is_empty() && details.causes.is_empty() {
        start = format!("{start}: {}", error.message);
    }
    let mut causes: Vec<String> = Vec::new();
    for cause in &details.causes {
        let text = format!("{}: {}", cause.field, cause.message);
        if !causes.contains(&text) {
            causes.push(text);
        }
    }
    match causes.as_slice() {
        [] => start,
        [one] => format!("{start}: {one}"),
        many => {
            let lines: Vec<String> = many.iter().map(|cause| format!("* {cause}")).collect();
            format!("{start}: \n{}", lines.join("\n"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        let missing = || ClientError::from(ApiError::not_found("apps", "deployments", "x"));
        let refused =
            ClientError::Transport { what: "GET".into(), source: "Connection refused (os error 111)".into() };
        for (error, expect) in [
            (Error::from(missing()), "Error from server (NotFound): deployments.apps \"x\" not found"),
            (
                Error::during("error when deleting \"f\"")(missing()),
                "Error from server (NotFound): error when deleting \"f\": deployments.apps \"x\" not found",
            ),
            (Error::usage("no"), "error: no"),
            (
                Error::from(refused),
                "The connection to the server h:1 was refused - did you specify the right host or port?",
            ),
        ] {
            assert_eq!(error.report("https://h:1/x"), (expect.to_owned(), 1));
        }
    }
}
