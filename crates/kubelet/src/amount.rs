//! Amounts of CPU and memory as the node's interfaces take them.
//!
//! Must not know containers: numbers in, numbers out.

use std::collections::BTreeMap;

use api::k8s::apimachinery::pkg::api::resource::Quantity as Text;

/// Resource amounts by name.
pub type Amounts = BTreeMap<String, Text>;

/// The period of CPU quotas, µs.
pub const CPU_PERIOD_US: i64 = 100_000;
/// The kernel's smallest CPU weight.
const MIN_SHARES: i64 = 2;
/// The kernel's largest CPU weight.
const MAX_SHARES: i64 = 262_144;
/// The kernel's smallest quota, µs.
const MIN_QUOTA_US: i64 = 1000;

/// Thousandths of a quantity, rounded up; what does not parse is 0 (the API server has checked it).
pub fn milli(text: &str) -> i64 {
    parse(text).map_or(0, |value| saturate((value * 1000.0).ceil()))
}

/// A quantity in whole units, rounded up.
pub fn whole(text: &str) -> i64 {
    parse(text).map_or(0, |value| saturate(value.ceil()))
}

#[allow(clippy::cast_possible_truncation, reason = "`as` saturates, which is what is meant")]
fn saturate(value: f64) -> i64 {
    value as i64
}

/// Exact up to 2^53, which is far above any node's resources.
fn parse(text: &str) -> Option<f64> {
    const SUFFIXES: [(&str, f64); 15] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("Ei", 1_152_921_504_606_846_976.0),
        ("n", 1e-9),
        ("u", 1e-6),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        ("E", 1e18),
    ];
    let text = text.trim();
    let hit = SUFFIXES.iter().find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, *factor)));
    let (number, factor) = hit.unwrap_or((text, 1.0));
    if let (Ok(integer), 1e-3) = (number.parse::<i64>(), factor) {
        #[allow(clippy::cast_precision_loss, reason = "milli amounts are small")]
        return Some(integer as f64 / 1000.0);
    }
    number.parse::<f64>().ok().map(|value| value * factor)
}

/// Thousandths of the resource `name`, if given.
pub fn milli_of(amounts: Option<&Amounts>, name: &str) -> Option<i64> {
    amounts?.get(name).map(|quantity| milli(&quantity.0))
}

/// Whole units of the resource `name`, if given.
pub fn whole_of(amounts: Option<&Amounts>, name: &str) -> Option<i64> {
    amounts?.get(name).map(|quantity| whole(&quantity.0))
}

/// CPU weight (1024 = one CPU) of thousandths of a CPU.
pub fn shares(milli_cpu: i64) -> i64 {
    (milli_cpu.saturating_mul(1024) / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

/// CPU time per [`CPU_PERIOD_US`] of thousandths of a CPU; 0 = no limit.
pub fn quota(milli_cpu: i64) -> i64 {
    if milli_cpu <= 0 { 0 } else { (milli_cpu.saturating_mul(CPU_PERIOD_US) / 1000).max(MIN_QUOTA_US) }
}

/// Thousandths of a CPU of a weight: the inverse of [`shares`].
pub fn milli_from_shares(shares: i64) -> i64 {
    (shares.saturating_mul(1000) + 1023) / 1024
}

/// Thousandths of a CPU of a quota: the inverse of [`quota`].
pub fn milli_from_quota(quota_us: i64, period_us: i64) -> i64 {
    if quota_us <= 0 || period_us <= 0 { 0 } else { quota_us.saturating_mul(1000) / period_us }
}

/// Thousandths of a CPU as a quantity.
pub fn cpu_text(milli_cpu: i64) -> Text {
    Text(if milli_cpu % 1000 == 0 { (milli_cpu / 1000).to_string() } else { format!("{milli_cpu}m") })
}

/// Bytes as a quantity, in the largest binary unit that fits exactly.
pub fn bytes_text(bytes: i64) -> Text {
    for (suffix, unit) in [("Ti", 1i64 << 40), ("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)] {
        if bytes != 0 && bytes % unit == 0 {
            return Text(format!("{}{suffix}", bytes / unit));
        }
    }
    Text(bytes.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        for (text, expect_milli, expect_whole) in [
            ("100m", 100, 1),
            ("1", 1000, 1),
            ("1.5", 1500, 2),
            ("2Gi", 2_147_483_648_000, 2_147_483_648),
            ("1k", 1_000_000, 1000),
            ("1e3", 1_000_000, 1000),
            ("", 0, 0),
        ] {
            assert_eq!((milli(text), whole(text)), (expect_milli, expect_whole), "{text}");
        }
        assert_eq!((shares(1000), shares(0), quota(500), quota(1), quota(0)), (1024, 2, 50_000, 1000, 0));
        assert_eq!(milli_from_shares(shares(100)), 100);
        assert_eq!((cpu_text(250).0, bytes_text(1 << 21).0), ("250m".to_owned(), "2Mi".to_owned()));
    }
}
