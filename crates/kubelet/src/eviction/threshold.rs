//! Eviction thresholds: which signal, how little of it is too little, and for how long that is borne.
//!
//! Must not know pods or read anything.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::amount;

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// Memory of the machine.
    Memory,
    /// The disk of volumes and logs.
    NodeFs,
    /// Its inodes.
    NodeFsInodes,
    /// The disk of images and containers' own files.
    ImageFs,
    /// Its inodes.
    ImageFsInodes,
    /// Process ids.
    Pids,
}

/// What the node says of itself while a threshold is crossed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// `MemoryPressure`.
    Memory,
    /// `DiskPressure`.
    Disk,
    /// `PIDPressure`.
    Pids,
}

impl Pressure {
    /// The node condition.
    pub fn condition(self) -> &'static str {
        match self {
            Pressure::Memory => "MemoryPressure",
            Pressure::Disk => "DiskPressure",
            Pressure::Pids => "PIDPressure",
        }
    }
}

impl Signal {
    const NAMES: [(Signal, &'static str); 6] = [
        (Signal::Memory, "memory.available"),
        (Signal::NodeFs, "nodefs.available"),
        (Signal::NodeFsInodes, "nodefs.inodesFree"),
        (Signal::ImageFs, "imagefs.available"),
        (Signal::ImageFsInodes, "imagefs.inodesFree"),
        (Signal::Pids, "pid.available"),
    ];

    /// From its name in settings.
    pub fn parse(name: &str) -> Option<Signal> {
        Signal::NAMES.into_iter().find(|(_, known)| *known == name).map(|(signal, _)| signal)
    }

    /// The condition that it makes.
    pub fn pressure(self) -> Pressure {
        match self {
            Signal::Memory => Pressure::Memory,
            Signal::Pids => Pressure::Pids,
            _ => Pressure::Disk,
        }
    }

    /// What runs out, in messages.
    pub fn resource(self) -> &'static str {
        match self {
            Signal::Memory => "memory",
            Signal::NodeFs | Signal::ImageFs => "ephemeral-storage",
            Signal::NodeFsInodes | Signal::ImageFsInodes => "inodes",
            Signal::Pids => "pids",
        }
    }

    /// Counted in bytes.
    pub fn is_bytes(self) -> bool {
        matches!(self, Signal::Memory | Signal::NodeFs | Signal::ImageFs)
    }
}

/// A number, or a share of what there is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    /// Bytes, inodes or processes.
    Number(u64),
    /// Percent of the capacity.
    Percent(f64),
}

impl Amount {
    /// `100Mi`, `10%`.
    pub fn parse(text: &str) -> Option<Amount> {
        match text.strip_suffix('%') {
            Some(percent) => {
                let percent = percent.parse::<f64>().ok()?;
                (0.0..=100.0).contains(&percent).then_some(Amount::Percent(percent))
            }
            None => Some(Amount::Number(u64::try_from(amount::whole(text)).ok()?)),
        }
    }

    /// As a number, of a capacity.
    pub fn of(self, capacity: u64) -> u64 {
        match self {
            Amount::Number(number) => number,
            #[allow(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a share of a size"
            )]
            Amount::Percent(percent) => (capacity as f64 * percent / 100.0) as u64,
        }
    }
}

/// A threshold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Threshold {
    /// Of what.
    pub signal: Signal,
    /// Less than this is too little.
    pub least: Amount,
    /// How long that is borne; `None` = a hard threshold.
    pub grace: Option<Duration>,
    /// Once crossed, this much more must come back.
    pub reclaim: Amount,
}

/// When pods are evicted.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The thresholds.
    pub thresholds: Vec<Threshold>,
    /// How long a condition stays after its threshold was last crossed.
    pub transition: Duration,
    /// The longest grace of pods evicted by a soft threshold, seconds; 0 = none.
    pub max_grace_seconds: i64,
    /// Of disks, what is below a share but not below this is no pressure, bytes: a tenth of a large disk is room
    /// enough. Zero once thresholds are set by hand.
    pub disk_enough_bytes: u64,
}

impl Default for Settings {
    fn default() -> Self {
        let hard = |signal, least| Threshold { signal, least, grace: None, reclaim: Amount::Number(0) };
        Settings {
            thresholds: vec![
                hard(Signal::Memory, Amount::Number(100 << 20)),
                hard(Signal::NodeFs, Amount::Percent(10.0)),
                hard(Signal::NodeFsInodes, Amount::Percent(5.0)),
                hard(Signal::ImageFs, Amount::Percent(15.0)),
                hard(Signal::ImageFsInodes, Amount::Percent(5.0)),
            ],
            transition: Duration::from_secs(300),
            max_grace_seconds: 0,
            disk_enough_bytes: 5 << 30,
        }
    }
}

/// Settings as maps from signal to text, as files and flags give them.
pub type Texts = BTreeMap<String, String>;

impl Settings {
    /// Replaces the hard thresholds.
    pub fn set_hard(&mut self, texts: &Texts) -> Result<(), String> {
        let parsed = parse(texts, |_| Ok(None))?;
        self.thresholds.retain(|threshold| threshold.grace.is_some());
        self.thresholds.extend(parsed);
        self.disk_enough_bytes = 0;
        Ok(())
    }

    /// Replaces the soft thresholds.
    pub fn set_soft(&mut self, texts: &Texts, graces: &Texts) -> Result<(), String> {
        let grace = |name: &str| {
            let text = graces.get(name).ok_or_else(|| format!("no grace period for {name}"))?;
            duration(text).map(Some).ok_or_else(|| format!("{text:?} is no duration"))
        };
        let parsed = parse(texts, grace)?;
        self.thresholds.retain(|threshold| threshold.grace.is_none());
        self.thresholds.extend(parsed);
        Ok(())
    }

    /// Sets what must come back.
    pub fn set_reclaim(&mut self, texts: &Texts) -> Result<(), String> {
        for row in parse(texts, |_| Ok(None))? {
            for threshold in self.thresholds.iter_mut().filter(|threshold| threshold.signal == row.signal) {
                threshold.reclaim = row.least;
            }
        }
        Ok(())
    }

    /// The hard threshold of a signal.
    pub fn hard(&self, signal: Signal) -> Option<Amount> {
        let found = self.thresholds.iter().find(|row| row.signal == signal && row.grace.is_none());
        found.map(|row| row.least)
    }
}

fn parse(
    texts: &Texts,
    grace: impl Fn(&str) -> Result<Option<Duration>, String>,
) -> Result<Vec<Threshold>, String> {
    let one = |(name, text): (&String, &String)| {
        let signal = Signal::parse(name).ok_or_else(|| format!("unknown eviction signal {name:?}"))?;
        let least = Amount::parse(text).ok_or_else(|| format!("{text:?} is no eviction threshold"))?;
        Ok(Threshold { signal, least, grace: grace(name)?, reclaim: Amount::Number(0) })
    };
    let rows: Result<Vec<Threshold>, String> = texts.iter().map(one).collect();
    // Nothing, or everything, switches a threshold off.
    let on = |row: &Threshold| !matches!(row.least, Amount::Percent(p) if p == 0.0 || p == 100.0);
    Ok(rows?.into_iter().filter(on).collect())
}

/// Go's durations of whole units: `1m30s`, `500ms`.
pub fn duration(text: &str) -> Option<Duration> {
    let (mut total, mut rest) = (Duration::ZERO, text.trim());
    if rest == "0" {
        return Some(total);
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let unit_end = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| digits + at);
        let unit = match &rest[digits..unit_end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total += Duration::try_from_secs_f64(number * unit).ok()?;
        rest = &rest[unit_end..];
    }
    (!text.trim().is_empty()).then_some(total)
}

/// What there is of something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Left.
    pub available: u64,
    /// In all.
    pub capacity: u64,
}

/// What a look found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Look {
    /// The conditions that hold.
    pub pressures: BTreeSet<Pressure>,
    /// The thresholds to act on, memory first.
    pub due: Vec<Threshold>,
}

/// Remembers since when thresholds are crossed.
#[derive(Clone, Debug, Default)]
pub struct Keeper {
    crossed: Vec<(Threshold, Duration)>,
    last_seen: BTreeMap<Pressure, Duration>,
}

impl Keeper {
    /// Judges what was observed.
    pub fn look(
        &mut self,
        settings: &Settings,
        observed: &BTreeMap<Signal, Observed>,
        now: Duration,
    ) -> Look {
        let before = std::mem::take(&mut self.crossed);
        for threshold in &settings.thresholds {
            let Some(seen) = observed.get(&threshold.signal).filter(|seen| seen.capacity > 0) else {
                continue;
            };
            let since = before.iter().find(|(known, _)| known == threshold).map(|(_, since)| *since);
            let mut least = threshold.least.of(seen.capacity);
            if since.is_some() {
                least = least.saturating_add(threshold.reclaim.of(seen.capacity));
            }
            let share = matches!(threshold.least, Amount::Percent(_));
            if share
                && matches!(threshold.signal, Signal::NodeFs | Signal::ImageFs)
                && settings.disk_enough_bytes > 0
            {
                least = least.min(settings.disk_enough_bytes);
            }
            if seen.available < least {
                self.crossed.push((*threshold, since.unwrap_or(now)));
                self.last_seen.insert(threshold.signal.pressure(), now);
            }
        }
        let fresh = |at: &Duration| *at == now || now.saturating_sub(*at) < settings.transition;
        let pressures = self.last_seen.iter().filter(|(_, at)| fresh(at)).map(|(kind, _)| *kind).collect();
        let mut due: Vec<Threshold> = self
            .crossed
            .iter()
            .filter(|(threshold, since)| now.saturating_sub(*since) >= threshold.grace.unwrap_or_default())
            .map(|(threshold, _)| *threshold)
            .collect();
        due.sort_by_key(|threshold| (threshold.signal, threshold.grace.is_some()));
        Look { pressures, due }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(pairs: &[(&str, &str)]) -> Texts {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn thresholds_from_text() {
        let mut settings = Settings::default();
        settings.set_hard(&texts(&[("memory.available", "1Gi"), ("pid.available", "10%")])).expect("valid");
        settings
            .set_soft(&texts(&[("nodefs.available", "15%")]), &texts(&[("nodefs.available", "1m30s")]))
            .expect("valid");
        settings.set_reclaim(&texts(&[("memory.available", "500Mi")])).expect("valid");
        let shown: Vec<_> = settings
            .thresholds
            .iter()
            .map(|row| (row.signal, row.grace.map(|grace| grace.as_secs())))
            .collect();
        assert_eq!(shown, [(Signal::Memory, None), (Signal::Pids, None), (Signal::NodeFs, Some(90))]);
        assert_eq!(settings.thresholds[0].reclaim, Amount::Number(500 << 20));
        for (bad, why) in [("memory.free", "1Gi"), ("memory.available", "x%")] {
            assert!(Settings::default().set_hard(&texts(&[(bad, why)])).is_err(), "{bad} {why}");
        }
        assert!(Settings::default().set_soft(&texts(&[("pid.available", "5%")]), &Texts::new()).is_err());
        for (text, expect) in
            [("1h", Some(3600)), ("1m1s", Some(61)), ("0", Some(0)), ("5", None), ("", None)]
        {
            assert_eq!(duration(text).map(|d| d.as_secs()), expect, "{text}");
        }
    }

    #[test]
    fn pressure_comes_stays_and_goes() {
        let mut settings = Settings::default();
        settings.set_hard(&texts(&[("memory.available", "100")])).expect("valid");
        settings
            .set_soft(&texts(&[("memory.available", "200")]), &texts(&[("memory.available", "60s")]))
            .expect("valid");
        settings.set_reclaim(&texts(&[("memory.available", "50")])).expect("valid");
        let mut keeper = Keeper::default();
        let mut look = |second: u64, available: u64| {
            let observed = [(Signal::Memory, Observed { available, capacity: 1000 })].into();
            let look = keeper.look(&settings, &observed, Duration::from_secs(second));
            let due: Vec<bool> = look.due.iter().map(|threshold| threshold.grace.is_none()).collect();
            (look.pressures.contains(&Pressure::Memory), due)
        };
        assert_eq!(look(0, 500), (false, vec![]));
        assert_eq!(look(10, 150), (true, vec![]), "the soft one is borne for a minute");
        assert_eq!(look(70, 150), (true, vec![false]));
        assert_eq!(look(80, 50), (true, vec![true, false]));
        assert_eq!(look(90, 120), (true, vec![true, false]), "50 more must come back");
        assert_eq!(look(100, 500), (true, vec![]), "the condition stays");
        assert_eq!(look(389, 500), (true, vec![]));
        assert_eq!(look(390, 500), (false, vec![]));
    }

    #[test]
    fn a_tenth_of_a_large_disk_is_enough() {
        let (mut keeper, settings) = (Keeper::default(), Settings::default());
        let mut due = |available: u64, capacity: u64| {
            let observed = [(Signal::NodeFs, Observed { available, capacity })].into();
            !keeper.look(&settings, &observed, Duration::ZERO).due.is_empty()
        };
        assert!(!due(20 << 30, 500 << 30));
        assert!(due(4 << 30, 500 << 30));
        assert!(due(1 << 30, 20 << 30));
        assert!(!due(3 << 30, 20 << 30));
    }
}
