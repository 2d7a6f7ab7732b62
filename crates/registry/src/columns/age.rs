//! Durations as people read them in tables: two or three significant figures.
//! The steps are upstream's (apimachinery duration.HumanDuration).

use jiff::Timestamp;
use serde_json::Value;

use crate::tree::Tree;

/// A duration in whole seconds as text: `5s`, `2m3s`, `3h4m`, `2d`, `1y20d`.
pub fn human_duration(seconds: i64) -> String {
    if seconds < -1 {
        return "<invalid>".to_string();
    }
    if seconds < 120 {
        return format!("{}s", seconds.max(0));
    }
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let pair = |a: i64, unit_a: &str, b: i64, unit_b: &str| {
        if b == 0 { format!("{a}{unit_a}") } else { format!("{a}{unit_a}{b}{unit_b}") }
    };
    match (minutes, hours) {
        (m, _) if m < 10 => pair(m, "m", seconds % 60, "s"),
        (m, _) if m < 180 => format!("{m}m"),
        (m, h) if h < 8 => pair(h, "h", m % 60, "m"),
        (_, h) if h < 48 => format!("{h}h"),
        (_, h) if h < 24 * 8 => pair(h / 24, "d", h % 24, "h"),
        (_, h) if h < 24 * 365 * 2 => format!("{}d", h / 24),
        (_, h) if h < 24 * 365 * 8 => pair(h / 24 / 365, "y", (h / 24) % 365, "d"),
        (_, h) => format!("{}y", h / 24 / 365),
    }
}

/// How long before `now` the time was; `<unknown>` without one.
pub fn since(now: Timestamp, time: Option<Timestamp>) -> String {
    match time {
        Some(time) => human_duration(now.duration_since(time).as_secs()),
        None => "<unknown>".to_string(),
    }
}

/// The timestamp at a path, if one is there.
pub fn time_at(object: &Value, path: &str) -> Option<Timestamp> {
    object.text(path).parse().ok()
}

/// As [`since`], of the time at a path.
pub fn since_at(object: &Value, path: &str, now: Timestamp) -> String {
    since(now, time_at(object, path))
}

/// The Age cell.
pub fn of(object: &Value, now: Timestamp) -> Value {
    since_at(object, "metadata.creationTimestamp", now).into()
}

#[cfg(test)]
mod tests {
    use super::human_duration;

    #[test]
    fn prints_as_upstream() {
        let (m, h, d, y) = (60, 3600, 86400, 86400 * 365);
        let table = [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (2 * m, "2m"),
            (2 * m + 3, "2m3s"),
            (10 * m + 5, "10m"),
            (3 * h - 1, "179m"),
            (3 * h, "3h"),
            (3 * h + 4 * m, "3h4m"),
            (8 * h + 59 * m, "8h"),
            (47 * h, "47h"),
            (2 * d, "2d"),
            (2 * d + 3 * h, "2d3h"),
            (8 * d + 3 * h, "8d"),
            (729 * d, "729d"),
            (2 * y, "2y"),
            (2 * y + 10 * d, "2y10d"),
            (9 * y + 10 * d, "9y"),
        ];
        for (seconds, text) in table {
            assert_eq!(human_duration(seconds), text, "{seconds}");
        }
    }
}
