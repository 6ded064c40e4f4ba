//! Sizes and durations with units, such as `"512 MiB"` and `"1.5 s"`.
//!
//! All arithmetic is checked integer arithmetic. A text either means an exact number of bytes or
//! nanoseconds, or is an error: nothing is rounded or converted to a float.

use std::time::Duration;

/// Units of size, largest first; if two give equally short texts, the first is used.
const SIZES: &[(&str, u128)] = &[
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("B", 1),
];

/// Units of duration in nanoseconds, largest first.
const DURATIONS: &[(&str, u128)] =
    &[("h", 3_600_000_000_000), ("min", 60_000_000_000), ("s", 1_000_000_000), ("ms", 1_000_000)];

/// Maximum digits after the decimal point. Enough for one nanosecond in hours, and few enough that
/// digits × unit fits easily into a `u128`.
const MAX_DECIMALS: usize = 18;

/// Maximum digits after the decimal point when formatting; more would be exact but hard to read.
const SHOWN_DECIMALS: u32 = 4;

/// Why a text is not a size or a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnitError {
    /// The text is empty.
    #[error("empty")]
    Empty,
    /// A word such as `unlimited`.
    #[error("unlimited is not supported: every limit is a number")]
    Unlimited,
    /// A minus sign.
    #[error("negative")]
    Negative,
    /// Not digits with at most one decimal point.
    #[error("not a number followed by a unit")]
    NotANumber,
    /// A number without a unit.
    #[error("no unit")]
    MissingUnit,
    /// An unknown unit.
    #[error("unknown unit{0}")]
    UnknownUnit(
        /// ` (did you mean …?)`, or nothing.
        String,
    ),
    /// The number is too large to be represented.
    #[error("too large to represent")]
    Overflow,
    /// Not a whole number of bytes or nanoseconds.
    #[error("not a whole number of {0}")]
    NotWhole(
        /// `bytes` or `nanoseconds`.
        &'static str,
    ),
}

/// Reads a size: a number, an optional space, and `B`, `KB`, `MB`, `GB` (powers of 1000) or
/// `KiB`, `MiB`, `GiB` (powers of 1024). A bare `0` needs no unit. The result is in bytes.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let bytes = parse(text, SIZES, "bytes")?;
    u64::try_from(bytes).map_err(|_| UnitError::Overflow)
}

/// Reads a duration: a number, an optional space, and `ms`, `s`, `min` or `h`. A bare `0` needs
/// no unit. Exact to the nanosecond.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    const SECOND: u128 = 1_000_000_000;
    let nanos = parse(text, DURATIONS, "nanoseconds")?;
    let secs = u64::try_from(nanos / SECOND).map_err(|_| UnitError::Overflow)?;
    let rest = u32::try_from(nanos % SECOND).map_err(|_| UnitError::Overflow)?;
    Ok(Duration::new(secs, rest))
}

/// The shortest text that [`parse_size`] reads back as exactly `bytes`, such as `1.5 GiB`.
#[must_use]
pub fn format_size(bytes: u64) -> String {
    format(u128::from(bytes), SIZES, SHOWN_DECIMALS)
}

/// The shortest text that [`parse_duration`] reads back as exactly `duration`, such as `1.5 s`.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    // Six decimals of a millisecond reach the nanosecond, so there is always an exact text.
    format(duration.as_nanos(), DURATIONS, 6)
}

/// What to write, for a hint: the units of size.
pub(super) const SIZE_HINT: &str =
    "a number with B, KB, MB, GB, KiB, MiB or GiB, in quotes, for example \"512 MiB\"";

/// What to write, for a hint: the units of duration.
pub(super) const DURATION_HINT: &str =
    "a number with ms, s, min or h, in quotes, for example \"1.5 s\"";

fn parse(text: &str, units: &[(&str, u128)], base: &'static str) -> Result<u128, UnitError> {
    let text = text.trim_matches(' ');
    if text.is_empty() {
        return Err(UnitError::Empty);
    }
    let word = text.trim_start_matches(['+', '-']).to_ascii_lowercase();
    if ["unlimited", "infinite", "infinity", "inf", "none", "never", "max"].contains(&&*word) {
        return Err(UnitError::Unlimited);
    }
    if text.starts_with(['-', '−']) {
        return Err(UnitError::Negative);
    }
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let (whole, decimals) = match number.split_once('.') {
        // A decimal point needs digits on both sides.
        Some((_, d)) if d.is_empty() || d.contains('.') => return Err(UnitError::NotANumber),
        Some((whole, d)) => (whole, d.trim_end_matches('0')),
        None => (number, ""),
    };
    let unit = unit.strip_prefix(' ').unwrap_or(unit);
    if whole.is_empty() || !unit.chars().all(char::is_alphabetic) {
        return Err(UnitError::NotANumber);
    }
    let is_zero = number.bytes().all(|b| b == b'0' || b == b'.');
    let scale = match units.iter().find(|(name, _)| *name == unit) {
        Some((_, scale)) => *scale,
        None if unit.is_empty() && is_zero => 1,
        None if unit.is_empty() => return Err(UnitError::MissingUnit),
        None => return Err(UnitError::UnknownUnit(suggestion(unit, units))),
    };
    if decimals.len() > MAX_DECIMALS {
        return Err(UnitError::NotWhole(base));
    }
    let whole = digits(whole)?.checked_mul(scale).ok_or(UnitError::Overflow)?;
    let fraction = digits(decimals)?.checked_mul(scale).ok_or(UnitError::Overflow)?;
    // At most 10^18, see MAX_DECIMALS.
    let ten_to = 10_u128.pow(u32::try_from(decimals.len()).map_err(|_| UnitError::Overflow)?);
    if fraction % ten_to != 0 {
        return Err(UnitError::NotWhole(base));
    }
    whole.checked_add(fraction / ten_to).ok_or(UnitError::Overflow)
}

/// ASCII digits to a number; no digits are zero.
fn digits(text: &str) -> Result<u128, UnitError> {
    text.bytes()
        .try_fold(0_u128, |n, b| n.checked_mul(10)?.checked_add(u128::from(b.checked_sub(b'0')?)))
        .ok_or(UnitError::Overflow)
}

/// Most wrong units differ only in case, or are spelled out.
fn suggestion(unit: &str, units: &[(&str, u128)]) -> String {
    let folded = unit.to_ascii_lowercase();
    let spelled = match folded.trim_end_matches('s') {
        "byte" => "B",
        "sec" | "second" => "s",
        "minute" => "min",
        "hour" | "hr" => "h",
        "millisecond" | "msec" => "ms",
        "k" => "KiB",
        "g" => "GiB",
        _ => "",
    };
    let known = |name: &str| units.iter().map(|(n, _)| *n).find(|n| n.eq_ignore_ascii_case(name));
    match known(&folded).or_else(|| known(spelled)) {
        Some(name) => format!(" (did you mean {name}?)"),
        None => String::new(),
    }
}

fn format(value: u128, units: &[(&str, u128)], last_decimals: u32) -> String {
    let last = units.len().saturating_sub(1);
    let mut best: Option<String> = None;
    for (i, (unit, scale)) in units.iter().enumerate() {
        let decimals = if i == last { last_decimals } else { SHOWN_DECIMALS };
        if value < *scale && i != last {
            continue;
        }
        let ten_to = 10_u128.pow(decimals);
        // `value % scale` is below the largest unit, so this product is far from overflowing.
        let fraction = (value % scale) * ten_to;
        if !fraction.is_multiple_of(*scale) {
            continue;
        }
        let mut text = (value / scale).to_string();
        if fraction != 0 {
            let width = decimals as usize;
            let all = format!("{:0width$}", fraction / scale);
            text.push('.');
            text.push_str(all.trim_end_matches('0'));
        }
        text.push(' ');
        text.push_str(unit);
        if best.as_ref().is_none_or(|b| text.len() < b.len()) {
            best = Some(text);
        }
    }
    // The last unit always gives an exact text: bytes divide by one, and a nanosecond has six
    // decimals in ms.
    best.unwrap_or_default()
}
