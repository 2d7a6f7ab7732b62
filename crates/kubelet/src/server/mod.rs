//! The agent's HTTPS server.

use std::sync::Arc;

use crate::shared::Shared;

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The port is taken or not allowed.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// The cause.
        source: std::io::Error,
    },
}

/// What the server is given.
#[derive(Default)]
pub struct Parts {}

/// Starts the server.
pub async fn start(_shared: &Arc<Shared>, _parts: Parts) -> Result<(), ServerError> {
    Ok(())
}
