//! Sizes and durations as people write them: `64MiB`, `1GB`, `7d`, `500ms`.
//!
//! A bare number is in the unit that the key's name ends in (bytes, milliseconds), as in Kafka.
//! What is shown is the shortest exact form; what is stored or sent (the canonical form) is always
//! the bare number, so that no reader needs this parser.

use std::{fmt, str::FromStr, time::Duration};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
const TIB: u64 = 1024 * GIB;

/// Units of sizes, lower case, and the bytes they stand for. `K`, `M` and `G` alone are refused:
/// half of the world means 1000 by them, the other half 1024.
const SIZE_UNITS: [(&str, u64); 10] = [
    ("", 1),
    ("b", 1),
    ("kib", KIB),
    ("mib", MIB),
    ("gib", GIB),
    ("tib", TIB),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
];

/// Units of durations, largest first, and the milliseconds they stand for. No months and years:
/// nobody agrees how long they are.
const DURATION_UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A number of bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteSize(u64);

/// Why a text is no size or no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUnit {
    /// No digits where a number should begin.
    #[error("{0:?} is no number where one should be")]
    NoNumber(String),
    /// `1.5GiB`
    #[error("{0:?} has a fraction; write a whole number of a smaller unit")]
    Fraction(String),
    /// `64M`
    #[error("unit {0:?} is ambiguous: write {0}B for powers of 1000 or {0}iB for powers of 1024")]
    Ambiguous(String),
    /// `64MiX`
    #[error("unknown unit {0:?}; sizes end in B, kB, MB, GB, TB or KiB, MiB, GiB, TiB")]
    SizeUnit(String),
    /// `7weeks`
    #[error("unknown unit {0:?}; durations end in ms, s, m (minutes), h or d")]
    DurationUnit(String),
    /// More than 2⁶³−1 bytes or milliseconds.
    #[error("{0:?} is too large")]
    TooLarge(String),
}

impl ByteSize {
    /// `n` bytes.
    pub const fn bytes(n: u64) -> Self {
        Self(n)
    }

    /// `n` × 1024 bytes. Overflow is a bug of the caller: these are for constants.
    pub const fn kib(n: u64) -> Self {
        Self(n * KIB)
    }

    /// `n` × 1024² bytes.
    pub const fn mib(n: u64) -> Self {
        Self(n * MIB)
    }

    /// `n` × 1024³ bytes.
    pub const fn gib(n: u64) -> Self {
        Self(n * GIB)
    }

    /// The number of bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number of bytes, for memory that this machine can address; saturates.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// This many hundredths of it, rounded down.
    #[must_use]
    pub const fn percent(self, percent: u8) -> Self {
        // By parts, so that it cannot overflow.
        let percent = percent as u64;
        Self(self.0 / 100 * percent + self.0 % 100 * percent / 100)
    }
}

impl FromStr for ByteSize {
    type Err = InvalidUnit;

    fn from_str(text: &str) -> Result<Self, InvalidUnit> {
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        if number.is_empty() {
            return Err(InvalidUnit::NoNumber(text.to_owned()));
        }
        if unit.starts_with(['.', ',']) {
            return Err(InvalidUnit::Fraction(text.to_owned()));
        }
        let factor = size_unit(unit.trim_start())?;
        let bytes = number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor));
        bytes
            .filter(|bytes| i64::try_from(*bytes).is_ok())
            .map(Self)
            .ok_or_else(|| InvalidUnit::TooLarge(text.to_owned()))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, factor) in [("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)] {
            if self.0 >= factor && self.0.is_multiple_of(factor) {
                return write!(f, "{}{unit}", self.0 / factor);
            }
        }
        self.0.fmt(f)
    }
}

impl fmt::Debug for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reads `7d`, `1h 30m`, `500ms`, or a bare number of milliseconds.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidUnit> {
    let too_large = || InvalidUnit::TooLarge(text.to_owned());
    let mut rest = text.trim();
    if !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()) {
        return millis(rest.parse().ok()).ok_or_else(too_large);
    }
    let mut sum = Some(0u64);
    loop {
        let (number, unit, after) = number_and_unit(rest);
        if number.is_empty() {
            return Err(InvalidUnit::NoNumber(rest.to_owned()));
        }
        if unit.starts_with(['.', ',']) {
            return Err(InvalidUnit::Fraction(rest.to_owned()));
        }
        let factor = DURATION_UNITS
            .iter()
            .find_map(|(name, factor)| (*name == unit).then_some(*factor))
            .ok_or_else(|| InvalidUnit::DurationUnit(unit.to_owned()))?;
        let part = number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor));
        sum = sum.zip(part).and_then(|(sum, part)| sum.checked_add(part));
        rest = after;
        if rest.is_empty() {
            return millis(sum).ok_or_else(too_large);
        }
    }
}

/// The shortest exact form: `7d`, `90m`, `1500ms`.
pub fn show_duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    DURATION_UNITS
        .iter()
        .map(|(unit, factor)| (unit, u128::from(*factor)))
        .find(|(_, factor)| ms >= *factor && ms.is_multiple_of(*factor))
        .map_or_else(|| "0ms".to_owned(), |(unit, factor)| format!("{}{unit}", ms / factor))
}

/// As a duration if it is a number of milliseconds that Kafka can hold too.
fn millis(ms: Option<u64>) -> Option<Duration> {
    ms.filter(|ms| i64::try_from(*ms).is_ok()).map(Duration::from_millis)
}

/// `1h 30m` → `1`, `h`, `30m`. Spaces may stand before a unit and after it.
fn number_and_unit(text: &str) -> (&str, &str, &str) {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(digits);
    let rest = rest.trim_start();
    let end = rest.find(|c: char| c.is_ascii_digit() || c.is_whitespace()).unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(end);
    (number, unit, rest.trim_start())
}

fn size_unit(unit: &str) -> Result<u64, InvalidUnit> {
    let lower = unit.to_ascii_lowercase();
    if let Some((_, factor)) = SIZE_UNITS.iter().find(|(name, _)| *name == lower) {
        return Ok(*factor);
    }
    match lower.as_str() {
        "k" | "m" | "g" | "t" => Err(InvalidUnit::Ambiguous(unit.to_owned())),
        _ => Err(InvalidUnit::SizeUnit(unit.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_in_every_unit() {
        let cases = [
            ("0", 0),
            ("1048576", 1 << 20),
            ("1048588", 1_048_588),
            ("64MiB", 64 << 20),
            ("64 mib", 64 << 20),
            ("1GiB", 1 << 30),
            ("1TiB", 1 << 40),
            ("1MB", 1_000_000),
            ("2kB", 2_000),
            ("3b", 3),
            (" 5KiB ", 5 << 10),
        ];
        for (text, bytes) in cases {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn bad_sizes_name_what_is_wrong() {
        let cases = [
            ("64MiX", "unknown unit \"MiX\"; sizes end in B, kB, MB, GB, TB or KiB, MiB, GiB, TiB"),
            (
                "64M",
                "unit \"M\" is ambiguous: write MB for powers of 1000 or MiB for powers of 1024",
            ),
            ("1.5GiB", "\"1.5GiB\" has a fraction; write a whole number of a smaller unit"),
            ("", "\"\" is no number where one should be"),
            ("-1", "\"-1\" is no number where one should be"),
            ("9999999999TiB", "\"9999999999TiB\" is too large"),
            ("9223372036854775808", "\"9223372036854775808\" is too large"),
        ];
        for (text, why) in cases {
            assert_eq!(text.parse::<ByteSize>().unwrap_err().to_string(), why, "{text}");
        }
    }

    #[test]
    fn durations() {
        let cases = [
            ("604800000", 604_800_000),
            ("7d", 604_800_000),
            ("10s", 10_000),
            ("500ms", 500),
            ("1h 30m", 5_400_000),
            ("1h30m", 5_400_000),
            (" 2 d ", 172_800_000),
            ("0", 0),
        ];
        for (text, ms) in cases {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        let unit = |u: &str| Err(InvalidUnit::DurationUnit(u.to_owned()));
        assert_eq!(parse_duration("7 fortnights"), unit("fortnights"));
        assert_eq!(parse_duration("1M"), unit("M"), "neither a minute nor a month");
        assert_eq!(parse_duration("10s5"), unit(""));
        assert_eq!(parse_duration("500us"), unit("us"));
        assert_eq!(parse_duration("1.5h"), Err(InvalidUnit::Fraction("1.5h".to_owned())));
        for no_number in ["", "-1", "d", "1h x"] {
            assert!(
                matches!(parse_duration(no_number), Err(InvalidUnit::NoNumber(_))),
                "{no_number}"
            );
        }
        for large in ["99999999999999999999", "99999999999999999999d", "9223372036854775807s"] {
            assert!(matches!(parse_duration(large), Err(InvalidUnit::TooLarge(_))), "{large}");
        }
    }

    #[test]
    fn a_percentage_neither_overflows_nor_rounds_up() {
        assert_eq!(ByteSize(199).percent(50), ByteSize(99));
        assert_eq!(ByteSize(u64::MAX).percent(100), ByteSize(u64::MAX));
        assert_eq!(ByteSize::gib(4).percent(25), ByteSize::gib(1));
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(n in 0..i64::MAX as u64) {
            prop_assert_eq!(ByteSize(n).to_string().parse(), Ok(ByteSize(n)));
            let d = Duration::from_millis(n);
            prop_assert_eq!(parse_duration(&show_duration(d)), Ok(d));
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = text.parse::<ByteSize>();
            let _ = parse_duration(&text);
        }
    }
}
