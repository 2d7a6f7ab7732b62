//! Cron schedules of five fields, with upstream's names and short forms, in a time zone.

use std::time::Duration;

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

/// A schedule that fires on no day within this many years never fires.
const MAX_YEARS: i16 = 5;

/// A parsed schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    kind: Kind,
    zone: TimeZone,
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Every(Duration),
    Fields { minute: u64, hour: u64, day: u64, month: u64, weekday: u64, any_day: bool, any_weekday: bool },
}

const SHORT: &[(&str, &str)] = &[
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];
const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

impl Schedule {
    /// Reads a schedule; the error says what is wrong.
    pub fn parse(text: &str, zone: Option<&str>) -> Result<Schedule, String> {
        let zone = match zone {
            None => TimeZone::UTC,
            Some(name) => TimeZone::get(name).map_err(|_| format!("unknown time zone {name}"))?,
        };
        let text = text.trim();
        if let Some(rest) = text.strip_prefix("@every ") {
            let every = parse_duration(rest).ok_or_else(|| format!("failed to parse duration {text}"))?;
            return Ok(Schedule { kind: Kind::Every(every.max(Duration::from_secs(1))), zone });
        }
        let text = SHORT.iter().find(|(short, _)| *short == text).map_or(text, |(_, long)| long);
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields[..] else {
            return Err(format!("expected exactly 5 fields, found {}: {fields:?}", fields.len()));
        };
        let kind = Kind::Fields {
            minute: field(minute, 0, 59, &[])?,
            hour: field(hour, 0, 23, &[])?,
            day: field(day, 1, 31, &[])?,
            month: field(month, 1, 12, MONTHS)?,
            weekday: field(weekday, 0, 6, DAYS)?,
            any_day: is_any(day),
            any_weekday: is_any(weekday),
        };
        Ok(Schedule { kind, zone })
    }

    /// The schedule's time zone.
    pub fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// The first time after `after`; `None` when there is none.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        match &self.kind {
            Kind::Every(every) => Timestamp::from_second((after + *every).as_second()).ok(),
            Kind::Fields { .. } => self.next_match(after),
        }
    }

    fn day_fits(&self, date: Date) -> bool {
        let Kind::Fields { day, month, weekday, any_day, any_weekday, .. } = &self.kind else { return true };
        let has = |set: &u64, value: i8| set & (1 << value) != 0;
        let (by_day, by_weekday) =
            (has(day, date.day()), has(weekday, date.weekday().to_sunday_zero_offset()));
        let fits = if *any_day || *any_weekday { by_day && by_weekday } else { by_day || by_weekday };
        has(month, date.month()) && fits
    }

    fn next_match(&self, after: Timestamp) -> Option<Timestamp> {
        let Kind::Fields { minute, hour, .. } = &self.kind else { return None };
        let start: DateTime = after.to_zoned(self.zone.clone()).datetime();
        let mut date = start.date();
        let last = date.year().checked_add(MAX_YEARS)?;
        while date.year() <= last {
            if self.day_fits(date) {
                let hours = (0..24_i8).filter(|value| hour & (1 << value) != 0);
                for value in hours {
                    for at in (0..60_i8).filter(|value| minute & (1 << value) != 0) {
                        let candidate = date.at(value, at, 0, 0);
                        if candidate < start.checked_sub(Span::new().hours(3)).ok()? {
                            continue;
                        }
                        // A clock put forward skips times: they do not fire.
                        let Ok(zoned) = self.zone.to_ambiguous_zoned(candidate).compatible() else {
                            continue;
                        };
                        if zoned.datetime() == candidate && zoned.timestamp() > after {
                            return Some(zoned.timestamp());
                        }
                    }
                }
            }
            date = date.tomorrow().ok()?;
        }
        None
    }
}

fn is_any(text: &str) -> bool {
    text.split(',').any(|part| part == "*" || part == "?" || part.starts_with("*/"))
}

fn field(text: &str, low: u32, high: u32, names: &[&str]) -> Result<u64, String> {
    let mut set = 0;
    for part in text.split(',') {
        set |= range(part, low, high, names)?;
    }
    Ok(set)
}

fn range(text: &str, low: u32, high: u32, names: &[&str]) -> Result<u64, String> {
    let number = |text: &str| {
        let named = names.iter().position(|name| name.eq_ignore_ascii_case(text));
        let offset = if names.len() == 12 { 1 } else { 0 };
        match named.and_then(|at| u32::try_from(at).ok()) {
            Some(at) => Ok(at + offset),
            None => text.parse::<u32>().map_err(|_| format!("failed to parse int from {text}")),
        }
    };
    let (span, step) = match text.split_once('/') {
        None => (text, None),
        Some((span, step)) => (span, Some(number(step)?)),
    };
    let (from, to) = match span.split_once('-') {
        Some((from, to)) => (number(from)?, number(to)?),
        None if span == "*" || span == "?" => (low, high),
        None if step.is_some() => (number(span)?, high),
        None => (number(span)?, number(span)?),
    };
    let step = step.unwrap_or(1);
    if from < low {
        return Err(format!("beginning of range ({from}) below minimum ({low}): {text}"));
    }
    if to > high {
        return Err(format!("end of range ({to}) above maximum ({high}): {text}"));
    }
    if from > to {
        return Err(format!("beginning of range ({from}) beyond end of range ({to}): {text}"));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {text}"));
    }
    Ok((from..=to).step_by(usize::try_from(step).unwrap_or(1)).fold(0, |set, value| set | (1_u64 << value)))
}

/// Go's durations: `1h30m`, `45s`.
fn parse_duration(text: &str) -> Option<Duration> {
    let (mut total, mut digits) = (0.0, String::new());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if c.is_ascii_digit() || c == '.' {
            digits.push(c);
            rest = &rest[1..];
            continue;
        }
        let (unit, seconds) = [("ms", 0.001), ("h", 3600.0), ("m", 60.0), ("s", 1.0)]
            .into_iter()
            .find(|(unit, _)| rest.starts_with(unit))?;
        total += digits.parse::<f64>().ok()? * seconds;
        digits.clear();
        rest = &rest[unit.len()..];
    }
    (digits.is_empty() && total > 0.0).then(|| Duration::from_secs_f64(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_times() {
        let next = |text: &str, zone: Option<&str>, after: &str| {
            let schedule = Schedule::parse(text, zone).expect(text);
            schedule.next(after.parse().expect("a time")).map(|time| time.to_string()).unwrap_or_default()
        };
        for (text, zone, after, expect) in [
            ("* * * * *", None, "2030-01-01T00:00:30Z", "2030-01-01T00:01:00Z"),
            ("*/15 9-17 * * mon-fri", None, "2030-01-04T17:50:00Z", "2030-01-07T09:00:00Z"),
            ("0 0 13 * fri", None, "2030-01-01T00:00:00Z", "2030-01-04T00:00:00Z"),
            ("0 0 29 feb *", None, "2030-01-01T00:00:00Z", "2032-02-29T00:00:00Z"),
            ("0 0 31 2 *", None, "2030-01-01T00:00:00Z", ""),
            ("@hourly", None, "2030-01-01T00:00:00Z", "2030-01-01T01:00:00Z"),
            ("0 12 * * *", Some("Europe/Berlin"), "2030-07-01T00:00:00Z", "2030-07-01T10:00:00Z"),
            ("@every 1m30s", None, "2030-01-01T00:00:00Z", "2030-01-01T00:01:30Z"),
        ] {
            assert_eq!(next(text, zone, after), expect, "{text}");
        }
        for text in ["", "* * * *", "60 * * * *", "* 5-3 * * *", "*/0 * * * *", "x * * * *", "* * * * 7"] {
            assert!(Schedule::parse(text, None).is_err(), "{text}");
        }
        assert!(Schedule::parse("* * * * *", Some("No/Where")).is_err());
    }
}
