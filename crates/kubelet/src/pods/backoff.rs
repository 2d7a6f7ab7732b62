//! Pauses between restarts of a container that keeps ending.
//!
//! Must not know containers: times in, a decision out. The rule is upstream's (`flowcontrol.Backoff`).

use std::time::Duration;

use jiff::Timestamp;

/// The first pause.
const FIRST: Duration = Duration::from_secs(10);

/// The pauses of one container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartBackoff {
    delay: Duration,
    updated: Timestamp,
}

fn after(time: Timestamp, duration: Duration) -> Timestamp {
    time.checked_add(duration).unwrap_or(Timestamp::MAX)
}

/// Whether a container that ended at `finished` may start at `now`; `Err` says until when not, and the pause.
/// A start counts: the next pause is twice as long, up to `longest`, and a container that ran for twice the
/// longest pause begins anew.
pub fn check(
    entry: &mut Option<RestartBackoff>,
    finished: Timestamp,
    now: Timestamp,
    longest: Duration,
) -> Result<(), (Timestamp, Duration)> {
    let current = entry.filter(|entry| finished <= after(entry.updated, longest * 2));
    if let Some(current) = current {
        let until = after(finished, current.delay);
        if now < until {
            return Err((until, current.delay));
        }
    }
    let delay = current.map_or(FIRST, |current| current.delay * 2).min(longest);
    *entry = Some(RestartBackoff { delay, updated: now });
    Ok(())
}

/// The pauses of a container that was restarted before the agent was: as if it had ended soon each time.
pub fn guess(restarts: i32, started: Timestamp, longest: Duration) -> RestartBackoff {
    let doublings = u32::try_from(restarts - 1).unwrap_or(0).min(16);
    RestartBackoff { delay: (FIRST * (1 << doublings)).min(longest), updated: started }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_reset() {
        let at = |seconds: i64| Timestamp::from_second(1_000_000 + seconds).expect("a time");
        let longest = Duration::from_secs(300);
        let mut entry = None;
        assert!(check(&mut entry, at(0), at(0), longest).is_ok());
        assert_eq!(check(&mut entry, at(1), at(2), longest), Err((at(11), Duration::from_secs(10))));
        assert!(check(&mut entry, at(1), at(11), longest).is_ok());
        assert_eq!(check(&mut entry, at(12), at(13), longest), Err((at(32), Duration::from_secs(20))));
        assert!(check(&mut entry, at(12), at(32), longest).is_ok());
        assert_eq!(guess(3, at(0), longest).delay, Duration::from_secs(40));
        // It ran for a quarter of an hour.
        assert!(check(&mut entry, at(1000), at(1000), longest).is_ok());
        assert_eq!(check(&mut entry, at(1001), at(1002), longest), Err((at(1011), Duration::from_secs(10))));
    }
}
