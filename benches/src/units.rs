//! Sizes, times and rates as people write them, in files and on the command line, and as machines
//! read them: `64KiB` and `65536`, `10s` and `10000`. A bare number is in the unit the key's name
//! ends in; JSON always has the bare number.

use std::time::Duration;

use riverrun_broker::config::{ByteSize, parse_duration};
use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

/// A number, or a text with a unit.
#[derive(Deserialize)]
#[serde(untagged)]
enum NumberOrText {
    Number(u64),
    Text(String),
}

/// A size for clap: `1KiB`, `100`.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_size(text: &str) -> Result<usize, String> {
    text.parse::<ByteSize>().map(ByteSize::as_usize).map_err(|e| e.to_string())
}

/// A time for clap: `10s`, `1500ms`.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|e| e.to_string())
}

/// A rate above zero for clap, in records per second: `1000`, `0.5`, `200k`, `3M`.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_rate(text: &str) -> Result<f64, String> {
    let (number, factor) = match text.strip_suffix(['k', 'K']) {
        Some(number) => (number, 1e3),
        None => match text.strip_suffix('M') {
            Some(number) => (number, 1e6),
            None => (text, 1.0),
        },
    };
    match number.trim().parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate * factor),
        _ => Err("write records per second, above zero: 1000, 200k, 3M".into()),
    }
}

/// `#[serde(with = "units::size")]`: bytes.
pub(crate) mod size {
    use super::*;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(crate) fn serialize<S: Serializer>(bytes: &usize, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u64(*bytes as u64)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<usize, D::Error> {
        match NumberOrText::deserialize(d)? {
            NumberOrText::Number(bytes) => usize::try_from(bytes).map_err(D::Error::custom),
            NumberOrText::Text(text) => parse_size(&text).map_err(D::Error::custom),
        }
    }
}

/// `#[serde(with = "units::millis")]`: milliseconds.
pub(crate) mod millis {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(time: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u64(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        match NumberOrText::deserialize(d)? {
            NumberOrText::Number(ms) => Ok(Duration::from_millis(ms)),
            NumberOrText::Text(text) => parse_time(&text).map_err(D::Error::custom),
        }
    }
}

/// `1.23 GB/s`, `456 MB/s`: powers of 1000, as networks and disks are sold.
pub fn show_bytes_rate(bytes_per_second: f64) -> String {
    let (unit, factor) = match bytes_per_second {
        rate if rate >= 1e9 => ("GB/s", 1e9),
        rate if rate >= 1e6 => ("MB/s", 1e6),
        rate if rate >= 1e3 => ("kB/s", 1e3),
        _ => ("B/s", 1.0),
    };
    format!("{:.*} {unit}", decimals(bytes_per_second / factor), bytes_per_second / factor)
}

/// `1.97 M/s`, `345 k/s`.
pub fn show_rate(per_second: f64) -> String {
    let (unit, factor) = match per_second {
        rate if rate >= 1e6 => (" M/s", 1e6),
        rate if rate >= 1e4 => (" k/s", 1e3),
        _ => ("/s", 1.0),
    };
    format!("{:.*}{unit}", decimals(per_second / factor), per_second / factor)
}

/// `950 ns`, `138 us`, `4.21 ms`, `1.50 s`.
pub fn show_nanos(nanos: u64) -> String {
    let value = nanos as f64;
    let (unit, factor) = match nanos {
        n if n >= 1_000_000_000 => ("s", 1e9),
        n if n >= 1_000_000 => ("ms", 1e6),
        n if n >= 1_000 => ("us", 1e3),
        _ => ("ns", 1.0),
    };
    format!("{:.*} {unit}", decimals(value / factor), value / factor)
}

/// Three digits in all.
fn decimals(value: f64) -> usize {
    match value {
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_and_refused() {
        for (text, rate) in [("1000", 1e3), ("0.5", 0.5), ("200k", 2e5), ("3M", 3e6)] {
            assert_eq!(parse_rate(text), Ok(rate), "{text}");
        }
        for text in ["", "0", "-1", "fast", "inf", "NaN", "1G"] {
            assert!(parse_rate(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn figures_have_three_digits() {
        for (rate, shown) in [
            (1.234e9, "1.23 GB/s"),
            (456.4e6, "456 MB/s"),
            (12.34e3, "12.3 kB/s"),
            (0.0, "0.00 B/s"),
        ] {
            assert_eq!(show_bytes_rate(rate), shown);
        }
        for (ns, shown) in [(950, "950 ns"), (138_400, "138 us"), (4_210_000, "4.21 ms")] {
            assert_eq!(show_nanos(ns), shown);
        }
        assert_eq!(show_rate(1_970_000.0), "1.97 M/s");
        assert_eq!(show_rate(9_000.0), "9000/s");
    }
}
