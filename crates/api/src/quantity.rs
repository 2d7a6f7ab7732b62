//! Resource quantities: exact decimal numbers with SI, binary or exponent suffixes
//! (apimachinery `pkg/api/resource`).
//!
//! Kept as an integer of nano units in 128 bits: finer digits are rounded up as upstream does, larger
//! numbers are clamped to 2^63-1 units as upstream does on parsing.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// Nano units in one.
const NANO: i128 = 1_000_000_000;
/// The largest whole value, as upstream caps it.
const MAX_UNITS: i128 = i64::MAX as i128;

/// The family of suffixes a quantity is printed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Format {
    /// `m`, none, `k`, `M`, …
    #[default]
    DecimalSi,
    /// `Ki`, `Mi`, …
    BinarySi,
    /// `e3`, `E3`.
    DecimalExponent,
}

/// A quantity such as `100m`, `1.5Gi` or `3`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// A text that is no quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The number or suffix does not have the form of a quantity.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The suffix is not known.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

const BINARY: &[(&str, u32)] = &[("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];
/// Suffix and power of ten, small to large.
const DECIMAL: &[(&str, i32)] = &[
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("", 0),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];

impl Quantity {
    /// A whole number.
    pub fn new(units: i64, format: Format) -> Self {
        Quantity { nanos: i128::from(units) * NANO, format }
    }

    /// Thousandths, as CPU is counted.
    pub fn from_milli(milli: i64) -> Self {
        Quantity { nanos: i128::from(milli) * (NANO / 1_000), format: Format::DecimalSi }
    }

    /// Zero.
    pub fn zero() -> Self {
        Quantity::default()
    }

    /// The value in whole units, rounded up.
    pub fn value(&self) -> i64 {
        saturate(div_up(self.nanos, NANO))
    }

    /// The value in thousandths, rounded up.
    pub fn milli_value(&self) -> i64 {
        saturate(div_up(self.nanos, NANO / 1_000))
    }

    /// The value as a float.
    pub fn as_f64(&self) -> f64 {
        self.nanos as f64 / NANO as f64
    }

    /// True for 0.
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// True below 0.
    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }

    /// True when the value has no fraction of a unit.
    pub fn is_integer(&self) -> bool {
        self.nanos % NANO == 0
    }

    /// The family it prints with.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The sum; a zero takes the other's format.
    pub fn add(&self, other: &Quantity) -> Quantity {
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity { nanos: self.nanos.saturating_add(other.nanos), format }
    }

    /// The difference; a zero takes the other's format.
    pub fn sub(&self, other: &Quantity) -> Quantity {
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity { nanos: self.nanos.saturating_sub(other.nanos), format }
    }
}

fn saturate(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

/// Division rounding away from zero, as upstream's `ScaledValue`.
fn div_up(value: i128, by: i128) -> i128 {
    let quotient = value / by;
    if value % by == 0 { quotient } else { quotient + value.signum() }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl FromStr for Quantity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(ParseError::Format);
        }
        let (scale, format) = parse_suffix(suffix)?;
        let nanos = scaled(whole, fraction, scale);
        Ok(Quantity { nanos: if negative { -nanos } else { nanos }, format })
    }
}

#[derive(Clone, Copy)]
enum Scale {
    Ten(i32),
    Two(u32),
}

fn parse_suffix(suffix: &str) -> Result<(Scale, Format), ParseError> {
    if let Some(row) = DECIMAL.iter().find(|row| row.0 == suffix) {
        return Ok((Scale::Ten(row.1), Format::DecimalSi));
    }
    if let Some(row) = BINARY.iter().find(|row| row.0 == suffix) {
        return Ok((Scale::Two(row.1), Format::BinarySi));
    }
    let after_letters = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
    let signed = after_letters.strip_prefix(['+', '-']).unwrap_or(after_letters);
    if !signed.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(ParseError::Format);
    }
    let exponent = suffix.strip_prefix(['e', 'E']).ok_or(ParseError::Suffix)?;
    let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(ParseError::Suffix);
    }
    // Anything beyond these powers is all zeros or beyond the cap.
    let power = exponent.parse::<i64>().unwrap_or(if exponent.starts_with('-') { -100 } else { 100 });
    Ok((Scale::Ten(i32::try_from(power.clamp(-100, 100)).unwrap_or(0)), Format::DecimalExponent))
}

/// The value in nano units, rounded up and clamped; bounded work whatever the length of the digits.
fn scaled(whole: &str, fraction: &str, scale: Scale) -> i128 {
    const CAP: i128 = MAX_UNITS * NANO;
    let digits: String = whole.chars().chain(fraction.chars()).collect();
    let significant = digits.trim_start_matches('0');
    if significant.is_empty() {
        return 0;
    }
    let point = i32::try_from(fraction.len()).unwrap_or(i32::MAX);
    let (power, shift) = match scale {
        Scale::Ten(power) => (power, 0),
        Scale::Two(shift) => (0, shift),
    };
    // Digits kept exactly, as many as the cap has; the rest only decides the rounding up.
    let kept = significant.len().min(28);
    let dropped = significant.len() - kept;
    let mut value: i128 = significant[..kept].parse().unwrap_or(0);
    let mut inexact = significant[kept..].bytes().any(|byte| byte != b'0');
    let exponent =
        power.saturating_sub(point).saturating_add(9 + i32::try_from(dropped).unwrap_or(i32::MAX / 2));
    // The binary factor first while it fits, so that 1.5Gi stays exact.
    match value.checked_mul(1_i128 << shift) {
        Some(product) => value = product,
        None => return CAP,
    }
    for _ in 0..exponent.clamp(0, 60) {
        value = match value.checked_mul(10) {
            Some(product) if product <= CAP => product,
            _ => return CAP,
        };
    }
    for _ in 0..exponent.saturating_neg().clamp(0, 60) {
        inexact |= value % 10 != 0;
        value /= 10;
    }
    if exponent < -60 {
        return 1;
    }
    (value + i128::from(inexact)).min(CAP)
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        // Binary suffixes need whole units of at least 1024; anything else prints as decimal SI.
        if self.format == Format::BinarySi && self.is_integer() && self.nanos.abs() >= 1024 * NANO {
            let units = self.nanos / NANO;
            let fits = |row: &&(&str, u32)| units % (1_i128 << row.1) == 0;
            return match BINARY.iter().rev().find(fits) {
                Some((suffix, shift)) => write!(f, "{}{suffix}", units >> shift),
                None => write!(f, "{units}"),
            };
        }
        let (mut mantissa, mut power) = (self.nanos, -9);
        while power < 18 && mantissa % 1_000 == 0 {
            mantissa /= 1_000;
            power += 3;
        }
        match self.format {
            Format::DecimalExponent if power != 0 => write!(f, "{mantissa}e{power}"),
            _ => {
                let suffix = DECIMAL.iter().find(|row| row.1 == power).map_or("", |row| row.0);
                write!(f, "{mantissa}{suffix}")
            }
        }
    }
}

/// Reads a quantity of a typed object; an unreadable one counts as zero (validation has refused it before).
pub fn of(quantity: &k8s_openapi::apimachinery::pkg::api::resource::Quantity) -> Quantity {
    quantity.0.parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms() {
        for (text, printed, value, milli) in [
            ("0", "0", 0, 0),
            ("1", "1", 1, 1_000),
            ("100m", "100m", 1, 100),
            ("0.1", "100m", 1, 100),
            ("1500m", "1500m", 2, 1_500),
            ("1.5", "1500m", 2, 1_500),
            ("1Ki", "1Ki", 1_024, 1_024_000),
            ("1024", "1024", 1_024, 1_024_000),
            ("1.5Gi", "1536Mi", 1_610_612_736, 1_610_612_736_000),
            ("1000k", "1M", 1_000_000, 1_000_000_000),
            ("1e3", "1e3", 1_000, 1_000_000),
            ("12E-1", "1200e-3", 2, 1_200),
            ("-5", "-5", -5, -5_000),
            ("0.5Ki", "512", 512, 512_000),
            ("1n", "1n", 1, 1),
            ("0.0000000001", "1n", 1, 1),
            ("128974848000m", "128974848", 128_974_848, 128_974_848_000),
        ] {
            let quantity: Quantity = text.parse().expect(text);
            assert_eq!(quantity.to_string(), printed, "{text}");
            assert_eq!((quantity.value(), quantity.milli_value()), (value, milli), "{text}");
        }
        for text in ["", "a", "1.2.3", "1x", "1Kii", "e3", "1e", "--1", "1 "] {
            assert!(text.parse::<Quantity>().is_err(), "{text}");
        }
        let huge: Quantity = "9".repeat(400).parse().expect("clamped");
        assert_eq!(huge.value(), i64::MAX);
    }

    #[test]
    fn arithmetic_keeps_the_format() {
        let mi: Quantity = "64Mi".parse().expect("valid");
        assert_eq!(mi.add(&mi).to_string(), "128Mi");
        assert_eq!(Quantity::zero().add(&mi).to_string(), "64Mi");
        assert_eq!(mi.sub(&"1Ki".parse().expect("valid")).to_string(), "65535Ki");
        assert!(Quantity::from_milli(1) > Quantity::zero());
    }

    #[test]
    fn the_longest_print_is_read_back() {
        let long: Quantity = "374922922337203.00000000017580777581Ki".parse().expect("valid");
        assert_eq!(long.to_string().parse::<Quantity>().expect("valid"), long);
    }
}
