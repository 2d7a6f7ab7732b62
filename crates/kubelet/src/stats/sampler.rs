//! CPU counters over time: a rate is the growth between two samples.
//!
//! Must not know pods: a group is a path.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use runtime::cgroup::{Cgroups, Usage};

/// A sample younger than this is not replaced: rates over less say little.
const FRESH: Duration = Duration::from_secs(5);

/// A control group to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its path.
    pub group: String,
    /// When its counters began, if that is known: the first rate is over all time since.
    pub since: Option<Timestamp>,
}

/// What a control group uses.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// Counters and amounts now.
    pub usage: Usage,
    /// CPU time in a second, ns; `None` until there are two samples.
    pub nano_cores: Option<u64>,
    /// When the rate's second sample was taken.
    pub at: Timestamp,
    /// The time between the rate's samples.
    pub window: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Sample {
    mono: Duration,
    at: Timestamp,
    cpu_ns: u64,
}

#[derive(Clone, Copy, Debug)]
struct Track {
    /// `None` until a second sample is there.
    base: Option<Sample>,
    latest: Sample,
}

impl Track {
    fn begin(wanted: &Wanted, sample: Sample) -> Track {
        let age = wanted.since.and_then(|since| Duration::try_from(sample.at.duration_since(since)).ok());
        let base = age.filter(|age| *age >= Duration::from_millis(500)).map(|age| Sample {
            mono: sample.mono.saturating_sub(age),
            at: wanted.since.unwrap_or_default(),
            cpu_ns: 0,
        });
        Track { base, latest: sample }
    }

    fn add(&mut self, sample: Sample) {
        if sample.mono.saturating_sub(self.latest.mono) >= FRESH {
            self.base = Some(self.latest);
            self.latest = sample;
        }
    }

    fn rate(&self) -> (Option<u64>, Duration) {
        let Some(base) = self.base else { return (None, Duration::ZERO) };
        let window = self.latest.mono.saturating_sub(base.mono);
        let grown = u128::from(self.latest.cpu_ns.saturating_sub(base.cpu_ns));
        let rate = (grown * 1_000_000_000).checked_div(window.as_nanos());
        (rate.and_then(|rate| u64::try_from(rate).ok()), window)
    }
}

/// Samples of all groups that are read; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Sampler(Arc<Mutex<BTreeMap<String, Track>>>);

impl Sampler {
    /// Samples CPU counters; forgets groups that are no longer wanted. Blocks.
    pub fn tick(&self, cgroups: &Cgroups, wanted: &[Wanted], now: (Duration, Timestamp)) {
        let samples: Vec<(&Wanted, Option<u64>)> =
            wanted.iter().map(|wanted| (wanted, cgroups.cpu_ns(&wanted.group))).collect();
        let mut tracks = self.0.lock();
        let names: BTreeSet<&str> = wanted.iter().map(|wanted| wanted.group.as_str()).collect();
        tracks.retain(|group, _| names.contains(group.as_str()));
        for (wanted, cpu_ns) in samples {
            if let Some(cpu_ns) = cpu_ns {
                note(&mut tracks, wanted, cpu_ns, now);
            }
        }
    }

    /// Reads groups; those that do not exist are left out. Blocks.
    pub fn read(
        &self,
        cgroups: &Cgroups,
        wanted: &[Wanted],
        now: (Duration, Timestamp),
    ) -> BTreeMap<String, Reading> {
        let read = |wanted: &Wanted| {
            let usage = cgroups.usage(&wanted.group)?;
            let track = note(&mut self.0.lock(), wanted, usage.cpu_ns, now);
            let (nano_cores, window) = track.rate();
            let reading = Reading { usage, nano_cores, at: track.latest.at, window };
            Some((wanted.group.clone(), reading))
        };
        wanted.iter().filter_map(read).collect()
    }
}

fn note(
    tracks: &mut BTreeMap<String, Track>,
    wanted: &Wanted,
    cpu_ns: u64,
    (mono, at): (Duration, Timestamp),
) -> Track {
    let sample = Sample { mono, at, cpu_ns };
    let track = tracks.entry(wanted.group.clone()).or_insert_with(|| Track::begin(wanted, sample));
    // A counter that went back is another group of the same name.
    if cpu_ns < track.latest.cpu_ns {
        *track = Track::begin(wanted, sample);
    }
    track.add(sample);
    *track
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_over_samples() {
        let dir = tempfile::tempdir().expect("a directory");
        let put = |file: &str, text: &str| std::fs::write(dir.path().join(file), text).expect("written");
        std::fs::create_dir(dir.path().join("pod")).expect("made");
        put("cgroup.controllers", "cpu memory");
        put("pod/memory.stat", "anon 5\ninactive_file 30\n");
        put("pod/memory.current", "100\n");
        let cgroups = Cgroups::at(dir.path());
        let sampler = Sampler::default();
        let start = Timestamp::UNIX_EPOCH;
        let wanted = [Wanted { group: "/pod".into(), since: Some(start) }];
        let ask = |second: u64, cpu_us: u64, ticks: bool| {
            put("pod/cpu.stat", &format!("usage_usec {cpu_us}\n"));
            let at = start + jiff::SignedDuration::from_secs(i64::try_from(second).expect("small"));
            let now = (Duration::from_secs(1_000 + second), at);
            if ticks {
                sampler.tick(&cgroups, &wanted, now);
            }
            let reading = sampler.read(&cgroups, &wanted, now).remove("/pod").expect("read");
            assert_eq!(reading.usage.working_set_bytes, 70);
            (reading.nano_cores, reading.window.as_secs())
        };
        assert_eq!(ask(2, 1_000_000, false), (Some(500_000_000), 2), "since the start");
        assert_eq!(ask(4, 1_000_000, false), (Some(500_000_000), 2), "too soon for another");
        assert_eq!(ask(12, 11_000_000, true), (Some(1_000_000_000), 10));
        assert_eq!(ask(22, 11_000_000, false), (Some(0), 10));
        assert_eq!(ask(32, 5, false), (Some(156), 32), "another group of this name");
    }
}
