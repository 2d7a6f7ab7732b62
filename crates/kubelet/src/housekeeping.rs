//! What is done now and then: logs rotated, dead containers and unused images removed.
//!
//! Must not touch what runs.

use std::sync::Arc;
use std::time::Duration;

use crate::shared::Shared;

/// How often.
const PERIOD: Duration = Duration::from_secs(10);

/// Keeps house until cancelled.
pub async fn run(shared: Arc<Shared>) {
    loop {
        shared.clock.sleep(PERIOD).await;
    }
}
