//! Times as the API writes them.

use jiff::Timestamp;

/// RFC 3339 in UTC with whole seconds, as `metav1.Time`.
pub fn format(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// RFC 3339 in UTC with microseconds, as `metav1.MicroTime`.
pub fn format_micro(time: Timestamp) -> String {
    let micros = time.subsec_nanosecond().rem_euclid(1_000_000_000) / 1_000;
    format!("{}.{micros:06}Z", time.strftime("%Y-%m-%dT%H:%M:%S"))
}

/// Reads RFC 3339.
pub fn parse(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats() {
        let time = parse("2030-01-02T03:04:05.678901234+01:00").expect("a time");
        assert_eq!(format(time), "2030-01-02T02:04:05Z");
        assert_eq!(format_micro(time), "2030-01-02T02:04:05.678901Z");
        assert_eq!(parse("yesterday"), None);
    }
}
