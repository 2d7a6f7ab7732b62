//! Exponential back-off: the one place that computes delays between tries.

use std::time::Duration;

use crate::Rng;

/// Delays that grow by a factor from a first to a longest one.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    factor: f64,
    jitter: f64,
    tries: u32,
}

impl Backoff {
    /// Doubles from `first` to `longest`, without jitter.
    pub const fn doubling(first: Duration, longest: Duration) -> Self {
        Backoff { first, longest, factor: 2.0, jitter: 0.0, tries: 0 }
    }

    /// Adds up to `share` (0.0 to 1.0) of each delay at random.
    pub const fn with_jitter(mut self, share: f64) -> Self {
        self.jitter = share;
        self
    }

    /// The delay before the next try; counts the try.
    pub fn next_delay(&mut self, rng: &Rng) -> Duration {
        let delay = self.peek();
        self.tries = self.tries.saturating_add(1);
        if self.jitter > 0.0 { delay.mul_f64(1.0 + self.jitter * rng.f64()) } else { delay }
    }

    /// The delay before the next try, without jitter; counts the try.
    pub fn next_plain(&mut self) -> Duration {
        let delay = self.peek();
        self.tries = self.tries.saturating_add(1);
        delay
    }

    /// The delay before the next try, without jitter and without counting.
    pub fn peek(&self) -> Duration {
        let exponent = i32::try_from(self.tries.min(60)).unwrap_or(60);
        let seconds = self.first.as_secs_f64() * self.factor.powi(exponent);
        Duration::from_secs_f64(seconds.min(self.longest.as_secs_f64()))
    }

    /// Tries counted since the start or the last reset.
    pub fn tries(&self) -> u32 {
        self.tries
    }

    /// Starts again at the first delay.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_longest() {
        let mut backoff = Backoff::doubling(Duration::from_secs(10), Duration::from_secs(300));
        let rng = Rng::seeded(1);
        let delays: Vec<u64> = (0..7).map(|_| backoff.next_delay(&rng).as_secs()).collect();
        assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
        backoff.reset();
        assert_eq!(backoff.peek().as_secs(), 10);
    }
}
