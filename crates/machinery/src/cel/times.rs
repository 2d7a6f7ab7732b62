//! Timestamps and durations.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::eval::Evaluated;
use super::functions::{fail, overload};
use super::value::Val;
use crate::codec::scalar::parse_duration;

pub(super) fn convert<'v>(name: &str, value: &Val<'v>) -> Evaluated<'v> {
    match (name, value) {
        ("duration", Val::Duration(_)) | ("timestamp", Val::Timestamp(_)) => Ok(value.clone()),
        ("duration", Val::Str(text)) => parse_duration(text).map(Val::Duration).or_else(fail),
        ("timestamp", Val::Int(seconds)) => {
            Timestamp::from_second(*seconds).map(Val::Timestamp).or_else(|_| fail("timestamp overflow"))
        }
        ("timestamp", Val::Str(text)) => text.parse().map(Val::Timestamp).or_else(|_| {
            fail(format!(
                "parsing time \"{text}\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"{text}\" as \"2006\""
            ))
        }),
        _ => overload(),
    }
}

/// A duration as CEL prints it: seconds.
pub(super) fn duration_text(nanos: i64) -> String {
    let (seconds, rest) = (nanos / 1_000_000_000, (nanos % 1_000_000_000).unsigned_abs());
    let sign = if nanos < 0 && seconds == 0 { "-" } else { "" };
    match rest {
        0 => format!("{sign}{seconds}s"),
        rest => format!("{sign}{seconds}.{}s", format!("{rest:09}").trim_end_matches('0')),
    }
}

pub(super) fn arithmetic<'v>(name: &str, a: &Val<'v>, b: &Val<'v>) -> Evaluated<'v> {
    let shift = |time: &Timestamp, nanos: Option<i64>| {
        let moved = nanos.and_then(|nanos| time.checked_add(SignedDuration::from_nanos(nanos)).ok());
        moved.map_or_else(|| fail("timestamp overflow"), |time| Ok(Val::Timestamp(time)))
    };
    let nanos = |n: Option<i64>| n.map_or_else(|| fail("duration overflow"), |n| Ok(Val::Duration(n)));
    match (name, a, b) {
        ("_+_", Val::Timestamp(time), Val::Duration(n)) | ("_+_", Val::Duration(n), Val::Timestamp(time)) => {
            shift(time, Some(*n))
        }
        ("_-_", Val::Timestamp(time), Val::Duration(n)) => shift(time, n.checked_neg()),
        ("_-_", Val::Timestamp(a), Val::Timestamp(b)) => {
            nanos(i64::try_from(a.as_nanosecond() - b.as_nanosecond()).ok())
        }
        ("_+_", Val::Duration(a), Val::Duration(b)) => nanos(a.checked_add(*b)),
        ("_-_", Val::Duration(a), Val::Duration(b)) => nanos(a.checked_sub(*b)),
        _ => overload(),
    }
}

pub(super) fn part<'v>(name: &str, args: &[Val<'v>]) -> Evaluated<'v> {
    match args {
        [Val::Duration(nanos)] => {
            let unit = match name {
                "getHours" => 3_600_000_000_000,
                "getMinutes" => 60_000_000_000,
                "getSeconds" => 1_000_000_000,
                "getMilliseconds" => return Ok(Val::Int(nanos / 1_000_000 % 1_000)),
                _ => return overload(),
            };
            Ok(Val::Int(nanos / unit))
        }
        [Val::Timestamp(time)] => part_in(name, *time, TimeZone::UTC),
        [Val::Timestamp(time), Val::Str(zone)] => match time_zone(zone) {
            Some(zone) => part_in(name, *time, zone),
            None => fail(format!("unknown time zone {zone}")),
        },
        _ => overload(),
    }
}

/// A zone by name or as an offset: `+02:00`, `-8:30`.
fn time_zone(name: &str) -> Option<TimeZone> {
    if name.is_empty() || name == "UTC" {
        return Some(TimeZone::UTC);
    }
    let Some((hours, minutes)) = name.split_once(':') else { return TimeZone::get(name).ok() };
    let negative = hours.starts_with('-');
    let hours: i32 = hours.trim_start_matches(['+', '-']).parse().ok()?;
    let minutes: i32 = minutes.parse().ok()?;
    let seconds = (hours * 60 + minutes) * 60;
    let offset = jiff::tz::Offset::from_seconds(if negative { -seconds } else { seconds }).ok()?;
    Some(TimeZone::fixed(offset))
}

fn part_in<'v>(name: &str, time: Timestamp, zone: TimeZone) -> Evaluated<'v> {
    let time = time.to_zoned(zone);
    let number = match name {
        "getFullYear" => i64::from(time.year()),
        "getMonth" => i64::from(time.month()) - 1,
        "getDate" => i64::from(time.day()),
        "getDayOfMonth" => i64::from(time.day()) - 1,
        "getDayOfWeek" => i64::from(time.weekday().to_sunday_zero_offset()),
        "getDayOfYear" => i64::from(time.day_of_year()) - 1,
        "getHours" => i64::from(time.hour()),
        "getMinutes" => i64::from(time.minute()),
        "getSeconds" => i64::from(time.second()),
        "getMilliseconds" => i64::from(time.millisecond()),
        _ => return overload(),
    };
    Ok(Val::Int(number))
}
