//! What a phase took: time, and this process's CPU time and memory, as Linux tells them.

use std::time::Duration;

use base::Clock;

/// Linux counts CPU time for processes in these ticks a second, whatever the kernel's own rate.
const TICKS: u64 = 100;

/// A phase under way.
pub struct Phase {
    name: &'static str,
    clock: Clock,
    began: Duration,
    cpu: Duration,
}

impl Phase {
    /// Begins now, with a fresh memory peak.
    pub fn begin(name: &'static str, clock: &Clock) -> Phase {
        // Where it cannot be reset, the peak is that of the whole run.
        let _ = std::fs::write("/proc/self/clear_refs", "5");
        Phase { name, clock: clock.clone(), began: clock.monotonic(), cpu: cpu() }
    }

    /// Ends now: one line of what it took. With `--own` that is the control plane and the nodes together.
    pub fn end(self, what: &str) {
        let (time, cpu) = (self.clock.monotonic().saturating_sub(self.began), cpu().saturating_sub(self.cpu));
        let [now, peak] = ["VmRSS:", "VmHWM:"].map(memory_mib);
        println!(
            "{:<8} {:>8.1} s   CPU {:>8.1} s   memory {now} MiB, peak {peak} MiB   {what}",
            self.name,
            time.as_secs_f64(),
            cpu.as_secs_f64()
        );
    }
}

/// CPU time of this process; zero where it is not told.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks = cpu_ticks(&text).unwrap_or(0);
    Duration::from_millis(ticks * 1000 / TICKS)
}

/// User and system time of a `/proc/PID/stat`; the command in it may hold spaces and parentheses.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11).map(str::parse::<u64>);
    Some(fields.next()?.ok()? + fields.next()?.ok()?)
}

fn memory_mib(field: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_past_odd_names() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 1 0 5 6 7";
        assert_eq!(cpu_ticks(stat), Some(300));
        assert_eq!(cpu_ticks("nonsense"), None);
        assert!(memory_mib("VmRSS:") > 0);
    }
}
