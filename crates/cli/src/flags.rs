//! Values of flags that several commands take.

use std::time::Duration;

/// A duration as upstream's flags take it: `90s`, `1h30m`; `0` alone needs no unit.
pub fn duration(text: &str) -> Result<Duration, String> {
    let nanos = if text == "0" { Ok(0) } else { machinery::codec::scalar::parse_duration(text) };
    let nanos = nanos.map_err(|why| format!("{why}; write it like 30s, 10m or 24h"))?;
    u64::try_from(nanos).map(Duration::from_nanos).map_err(|_| "it must not be negative".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert!(duration("-1s").is_err() && duration("soon").is_err());
    }
}
