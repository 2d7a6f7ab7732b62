//! What can go wrong with a call to the API server.

use api::{ApiError, Reason};
use base::BoxError;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server answered with a `Status`.
    #[error("{0}")]
    Api(#[from] ApiError),
    /// The server could not be reached, or the connection broke.
    #[error("{what}: {source}")]
    Transport {
        /// What was attempted.
        what: String,
        /// The cause.
        source: BoxError,
    },
    /// No answer in time.
    #[error("{what}: no answer within {seconds} s")]
    Timeout {
        /// What was attempted.
        what: String,
        /// The limit, in seconds.
        seconds: u64,
    },
    /// The answer was not what it should be.
    #[error("cannot read the answer to {what}: {source}")]
    Decode {
        /// What was attempted.
        what: String,
        /// The JSON error.
        source: serde_json::Error,
    },
    /// What was to be sent could not be written as a request.
    #[error("cannot write the request {what}: {source}")]
    Encode {
        /// What was attempted.
        what: String,
        /// The cause.
        source: BoxError,
    },
    /// The kubeconfig or another setting cannot be used.
    #[error("{what}: {detail}")]
    Config {
        /// Which setting or file.
        what: String,
        /// Why not.
        detail: String,
    },
}

impl ClientError {
    pub(crate) fn transport(what: impl Into<String>, source: impl Into<BoxError>) -> Self {
        ClientError::Transport { what: what.into(), source: source.into() }
    }

    pub(crate) fn config(what: impl Into<String>, detail: impl ToString) -> Self {
        ClientError::Config { what: what.into(), detail: detail.to_string() }
    }

    /// The server's error, if it answered with one.
    pub fn api(&self) -> Option<&ApiError> {
        match self {
            ClientError::Api(error) => Some(error),
            _ => None,
        }
    }

    /// True when the server answered with this reason.
    pub fn is(&self, reason: Reason) -> bool {
        self.api().is_some_and(|error| error.is(reason))
    }

    /// True for 404.
    pub fn is_not_found(&self) -> bool {
        self.is(Reason::NotFound)
    }

    /// True for 409 because of a stale resourceVersion or another conflict.
    pub fn is_conflict(&self) -> bool {
        self.is(Reason::Conflict)
    }

    /// True for 409 because the name is taken.
    pub fn is_already_exists(&self) -> bool {
        self.is(Reason::AlreadyExists)
    }

    /// True for 410: the resourceVersion or continue token is too old.
    pub fn is_expired(&self) -> bool {
        self.is(Reason::Expired) || self.is(Reason::Gone)
    }

    /// True when creation was refused because the namespace is going away.
    pub fn is_namespace_terminating(&self) -> bool {
        let details = self.api().and_then(|error| error.details.as_ref());
        details
            .is_some_and(|details| details.causes.iter().any(|cause| cause.reason == "NamespaceTerminating"))
    }
}
