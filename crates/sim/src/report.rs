//! What a simulation has seen: counts while it runs, rates and latencies at its end.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use base::Clock;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Between lines of progress.
const EVERY: Duration = Duration::from_secs(1);

/// When things happened to a pod, since the start of the process.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    created: Option<Duration>,
    bound: Option<Duration>,
    ran: Option<Duration>,
}

#[derive(Debug, Default)]
struct Seen {
    pods: BTreeMap<Box<str>, Times>,
    nodes_done: Option<Duration>,
    load_began: Option<Duration>,
    created_done: Option<Duration>,
}

/// Gathers what happens.
pub struct Report {
    clock: Clock,
    began: Duration,
    nodes: AtomicUsize,
    created: AtomicUsize,
    bound: AtomicUsize,
    ran: AtomicUsize,
    addresses: AtomicU32,
    seen: Mutex<Seen>,
    changed: Notify,
}

impl Report {
    pub fn new(clock: Clock) -> Report {
        Report {
            began: clock.monotonic(),
            clock,
            nodes: AtomicUsize::new(0),
            created: AtomicUsize::new(0),
            bound: AtomicUsize::new(0),
            ran: AtomicUsize::new(0),
            addresses: AtomicU32::new(0),
            seen: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// A node is registered.
    pub fn node(&self) {
        self.nodes.fetch_add(1, Ordering::Relaxed);
    }

    /// All nodes are.
    pub fn nodes_done(&self) {
        self.seen.lock().nodes_done = Some(self.clock.monotonic());
    }

    /// The first pod is about to be created.
    pub fn load_begins(&self) {
        self.seen.lock().load_began = Some(self.clock.monotonic());
    }

    /// A pod is about to be created.
    pub fn creating(&self, name: &str) {
        let now = self.clock.monotonic();
        self.seen.lock().pods.entry(name.into()).or_default().created = Some(now);
    }

    /// So many more pods were asked for.
    pub fn created(&self, count: usize) {
        self.created.fetch_add(count, Ordering::Relaxed);
        self.seen.lock().created_done = Some(self.clock.monotonic());
    }

    /// A bound pod was seen in a phase.
    pub fn seen(&self, name: &str, phase: &str) {
        let now = self.clock.monotonic();
        let mut seen = self.seen.lock();
        let times = seen.pods.entry(name.into()).or_default();
        if times.bound.is_none() {
            times.bound = Some(now);
            self.bound.fetch_add(1, Ordering::Relaxed);
        }
        if times.ran.is_none() && matches!(phase, "Running" | "Succeeded") {
            times.ran = Some(now);
            self.ran.fetch_add(1, Ordering::Relaxed);
            self.changed.notify_waiters();
        }
    }

    /// An address for a pod: of the network between providers and their customers (RFC 6598), each once.
    pub fn address(&self) -> String {
        let number = self.addresses.fetch_add(1, Ordering::Relaxed) % (1 << 22);
        Ipv4Addr::from(u32::from(Ipv4Addr::new(100, 64, 0, 0)) + number).to_string()
    }

    /// Waits until so many pods have run.
    pub async fn all_ran(&self, count: usize) {
        loop {
            let changed = self.changed.notified();
            if self.ran.load(Ordering::Relaxed) >= count {
                return;
            }
            changed.await;
        }
    }

    /// Prints a line a second while something changes.
    pub async fn progress(&self) {
        let mut last = [0; 4];
        loop {
            self.clock.sleep(EVERY).await;
            let now = [&self.nodes, &self.created, &self.bound, &self.ran]
                .map(|count| count.load(Ordering::Relaxed));
            if now != last {
                let [nodes, created, bound, ran] = now;
                let (rate, seconds) = (ran - last[3], (self.clock.monotonic() - self.began).as_secs());
                println!(
                    "{seconds:>5} s  {nodes} nodes  {created} pods created  {bound} bound  {ran} ran  (+{rate}/s)"
                );
                last = now;
            }
        }
    }

    /// Prints rates and latencies.
    pub fn summary(&self) {
        let seen = self.seen.lock();
        let nodes = self.nodes.load(Ordering::Relaxed);
        println!();
        if let Some(done) = seen.nodes_done {
            println!("nodes      {}", rate(nodes, done.saturating_sub(self.began)));
        }
        let began = seen.load_began.unwrap_or(self.began);
        let last = |pick: fn(&Times) -> Option<Duration>| seen.pods.values().filter_map(pick).max();
        let ends = [
            ("created", &self.created, seen.created_done),
            ("bound", &self.bound, last(|times| times.bound)),
            ("ran", &self.ran, last(|times| times.ran)),
        ];
        for (what, count, end) in ends {
            if let Some(end) = end {
                println!("{what:<10} {}", rate(count.load(Ordering::Relaxed), end.saturating_sub(began)));
            }
        }
        let between = |from: fn(&Times) -> Option<Duration>, to: fn(&Times) -> Option<Duration>| {
            let gaps = seen.pods.values().filter_map(|times| Some(to(times)?.saturating_sub(from(times)?)));
            let mut gaps: Vec<Duration> = gaps.collect();
            gaps.sort_unstable();
            gaps
        };
        for (what, gaps) in [
            ("create to bound", between(|t| t.created, |t| t.bound)),
            ("bound to running", between(|t| t.bound, |t| t.ran)),
            ("create to running", between(|t| t.created, |t| t.ran)),
        ] {
            if let Some(text) = quantiles(&gaps) {
                println!("{what:<18} {text}");
            }
        }
    }
}

fn rate(count: usize, time: Duration) -> String {
    let seconds = time.as_secs_f64().max(0.001);
    format!("{count} in {seconds:.1} s ({:.0}/s)", count as f64 / seconds)
}

/// Quantiles of sorted times; `None` of no times.
fn quantiles(sorted: &[Duration]) -> Option<String> {
    let last = sorted.len().checked_sub(1)?;
    let at = |share: f64| sorted[(last as f64 * share).round() as usize].as_millis();
    Some(format!("p50 {} ms  p90 {} ms  p99 {} ms  max {} ms", at(0.5), at(0.9), at(0.99), at(1.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_quantiles() {
        let times: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(quantiles(&times).as_deref(), Some("p50 51 ms  p90 90 ms  p99 99 ms  max 100 ms"));
        assert_eq!(quantiles(&[]), None);
        assert_eq!(rate(100, Duration::from_secs(2)), "100 in 2.0 s (50/s)");
    }

    #[tokio::test]
    async fn pods_are_counted_once() {
        let report = Report::new(Clock::system());
        for phase in ["Pending", "Running", "Running", "Succeeded"] {
            report.seen("a", phase);
        }
        report.all_ran(1).await;
        assert_eq!((report.bound.into_inner(), report.ran.into_inner()), (1, 1));
    }
}
