//! The one source of time. Real in production, virtual in tests and simulation.
//!
//! Must not know who asks. Under `tokio::time::pause` a virtual clock advances with tokio's.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

/// A handle to the time of day and to timers; cheap to clone.
///
/// The time of day is an origin plus tokio's monotonic time when virtual, and the system's clock otherwise.
#[derive(Clone, Debug)]
pub struct Clock {
    started: Instant,
    origin: Option<Timestamp>,
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Clock { started: Instant::now(), origin: None }
    }

    /// A clock that shows `origin` now and moves with tokio's (possibly paused) timer.
    pub fn starting_at(origin: Timestamp) -> Self {
        Clock { started: Instant::now(), origin: Some(origin) }
    }

    /// The time of day.
    #[allow(clippy::disallowed_methods, reason = "the one home of the system clock")]
    pub fn now(&self) -> Timestamp {
        match self.origin {
            None => Timestamp::now(),
            Some(origin) => origin + self.monotonic(),
        }
    }

    /// Time since this clock was made; never goes back.
    pub fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }

    /// Waits for `duration`.
    pub async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    /// Waits until the time of day is `at`; returns at once when that has passed.
    pub async fn sleep_until(&self, at: Timestamp) {
        let wait = at.duration_since(self.now());
        if let Ok(wait) = Duration::try_from(wait) {
            self.sleep(wait).await;
        }
    }

    /// Runs `work` for at most `limit`; `None` when the time ran out.
    pub async fn timeout<F: Future>(&self, limit: Duration, work: F) -> Option<F::Output> {
        tokio::time::timeout(limit, work).await.ok()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Clock::system()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_virtual_clock_moves_with_the_timer() {
        let origin: Timestamp = "2030-01-01T00:00:00Z".parse().expect("a timestamp");
        let clock = Clock::starting_at(origin);
        clock.sleep(Duration::from_secs(90)).await;
        assert_eq!(clock.now().as_second() - origin.as_second(), 90);
        assert!(clock.timeout(Duration::from_secs(1), std::future::pending::<()>()).await.is_none());
        clock.sleep_until(origin + Duration::from_secs(200)).await;
        assert_eq!(clock.now().as_second() - origin.as_second(), 200);
    }
}
