//! Connections to agents.

use api::ApiError;

use crate::config::Config;

/// What it takes to reach agents.
pub struct Agents {}

impl Agents {
    /// From the configured certificates.
    pub fn new(_config: &Config) -> Result<Agents, ApiError> {
        Ok(Agents {})
    }
}
