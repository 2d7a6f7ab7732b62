//! What a process tells of itself under Prometheus' usual names (`process_cpu_seconds_total`, …), read from `/proc`.

use std::fs;

use crate::metrics::Metrics;

/// Ticks of a second in `/proc` (`USER_HZ`), the same on every architecture of Linux that we run on.
const TICKS: f64 = 100.0;
const PAGE_BYTES: f64 = 4096.0;

/// The fields of `/proc/self/stat` behind the name, which may hold spaces: the first is the state.
fn fields(stat: &str) -> Vec<&str> {
    stat.rsplit_once(')').map_or_else(Vec::new, |(_, rest)| rest.split_whitespace().collect())
}

/// A number among them.
fn number(fields: &[&str], at: usize) -> Option<f64> {
    fields.get(at)?.parse().ok()
}

/// When the machine was started, in seconds since 1970.
fn boot_seconds(stat: &str) -> Option<f64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// The soft limit of open files.
fn max_fds(limits: &str) -> Option<f64> {
    limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

/// Brings the metrics of this process up to date; what `/proc` does not tell is left out.
pub fn measure(metrics: &Metrics) {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let stat = read("/proc/self/stat");
    let stat = fields(&stat);
    let cpu = number(&stat, 11).zip(number(&stat, 12)).map(|(user, system)| (user + system) / TICKS);
    let start = number(&stat, 19).zip(boot_seconds(&read("/proc/stat")));
    if let Some(cpu) = cpu {
        metrics.counter("process_cpu_seconds_total", "CPU time of the process, in seconds.", &[]).set(cpu);
    }
    let open = fs::read_dir("/proc/self/fd").ok().and_then(|all| u32::try_from(all.count()).ok());
    let gauges = [
        (
            "process_resident_memory_bytes",
            "Memory in use.",
            number(&stat, 21).map(|pages| pages * PAGE_BYTES),
        ),
        ("process_virtual_memory_bytes", "Memory mapped.", number(&stat, 20)),
        (
            "process_start_time_seconds",
            "Start, in seconds since 1970.",
            start.map(|(at, boot)| boot + at / TICKS),
        ),
        ("process_open_fds", "Open files.", open.map(f64::from)),
        ("process_max_fds", "Most files that may be open.", max_fds(&read("/proc/self/limits"))),
    ];
    for (name, help, value) in gauges {
        if let Some(value) = value {
            metrics.gauge(name, help, &[]).set(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_read() {
        let stat = fields("7 (a ) b) S 1 7 7 0 -1 4 5 6 7 8 250 50 0 0 20 0 9 0 1000 4096 3 0");
        assert_eq!((number(&stat, 11), number(&stat, 12)), (Some(250.0), Some(50.0)));
        assert_eq!((number(&stat, 19), number(&stat, 21)), (Some(1000.0), Some(3.0)));
        assert_eq!(boot_seconds("cpu 1\nbtime 1700000000\n"), Some(1_700_000_000.0));
        assert_eq!(max_fds("Max processes 1 1\nMax open files            1024  4096 files\n"), Some(1024.0));
        let metrics = Metrics::new();
        measure(&metrics);
        let text = metrics.render();
        for name in ["process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"] {
            assert!(text.contains(&format!("\n{name} ")), "{text}");
        }
    }
}
