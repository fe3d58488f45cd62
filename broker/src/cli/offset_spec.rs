//! Where `consume -o` begins and ends, in the notations that users of rpk and kcat know.
//!
//! ```text
//!   start  oldest  earliest  beginning      the first record that is there
//!   end    newest  latest                   what is written from now on
//!   47                                      offset 47
//!   +10                                     10 after the first that is there
//!   -10                                     the last 10 of each partition
//!   @TIME                                   the first at or after a time
//!   FROM:TO  :TO  FROM:                     from there up to, not including, there
//! ```
//! A time is milliseconds (13 digits) or seconds (10 digits) since 1970, `2026-11-21`,
//! `2026-11-21T07:35` with or without seconds and zone (UTC without), or how long ago: `-90m`.

use std::{str::FromStr, time::Duration};

use jiff::{
    civil,
    tz::{Offset, TimeZone},
};
use riverrun_proto::timestamp::Timestamp;

use crate::config::parse_duration;

const NOTATIONS: &str = "write start, end, 47, +10, -10 or @TIME (a date, a date and time, \
    seconds or milliseconds since 1970, or how long ago: @-1h), or a range of two: 40:47, @-1h:end";

/// A place in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Log start offset.
    Start,
    /// High watermark.
    End,
    /// This offset.
    At(i64),
    /// So many offsets after the log start offset.
    AfterStart(u64),
    /// So many offsets before the high watermark.
    BeforeEnd(u64),
    /// The first record at or after a time.
    Time(TimeSpec),
}

/// A moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimeSpec {
    /// Milliseconds since the epoch.
    At(i64),
    /// So long before now.
    Ago(Duration),
}

/// What of each partition is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OffsetSpec {
    /// The first record.
    pub(crate) from: Place,
    /// The first record that is not read any more; `None`: there is no such.
    pub(crate) to: Option<Place>,
}

/// Not one of the notations.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}; {NOTATIONS}")]
pub(crate) struct InvalidOffsetSpec(String);

// === impl OffsetSpec ===

impl FromStr for OffsetSpec {
    type Err = InvalidOffsetSpec;

    fn from_str(text: &str) -> Result<Self, InvalidOffsetSpec> {
        if let Some(from) = place(text) {
            return Ok(Self { from, to: None });
        }
        // Times contain colons too: the range is cut where both sides are places. At most one cut
        // of a text can be (a time of day has no part that is a place and ends in a date).
        let mut ranges = text.match_indices(':').filter_map(|(at, _)| {
            let (from, to) = (&text[..at], &text[at + 1..]);
            let start = if from.is_empty() { Some(Place::Start) } else { place(from) }?;
            let end = match to {
                "" => None,
                to => Some(place(to).or_else(|| match start {
                    Place::Time(_) => time(to).map(Place::Time),
                    _ => None,
                })?),
            };
            Some(Self { from: start, to: end })
        });
        match ranges.next_back() {
            Some(Self { from: Place::At(from), to: Some(Place::At(to)) }) if to < from => {
                Err(InvalidOffsetSpec(format!("'{text}' ends before it begins")))
            }
            Some(spec) => Ok(spec),
            None => Err(InvalidOffsetSpec(format!("'{text}' is no offset"))),
        }
    }
}

// === impl TimeSpec ===

impl TimeSpec {
    /// In milliseconds since the epoch.
    pub(crate) fn resolve(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(ms) => Timestamp::from_millis(ms),
            Self::Ago(ago) => now.saturating_sub(ago),
        }
    }
}

/// Reads a moment; also what JSON input has as a record's time.
pub(crate) fn time(text: &str) -> Option<TimeSpec> {
    if let Some(ago) = text.strip_prefix('-') {
        let has_unit = ago.ends_with(|c: char| c.is_ascii_alphabetic());
        return parse_duration(ago).ok().filter(|_| has_unit).map(TimeSpec::Ago);
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        let number = text.parse::<i64>().ok()?;
        return match text.len() {
            13 => Some(TimeSpec::At(number)),
            10 => Some(TimeSpec::At(number * 1000)),
            _ => None,
        };
    }
    let with_zone = text.parse::<jiff::Timestamp>().ok();
    let stamp = with_zone.or_else(|| {
        let utc = TimeZone::fixed(Offset::UTC);
        let at = text.parse::<civil::DateTime>().ok()?;
        utc.to_timestamp(at).ok()
    })?;
    Some(TimeSpec::At(stamp.as_millisecond()))
}

fn place(text: &str) -> Option<Place> {
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse::<i64>().ok()).flatten()
    };
    match text {
        "start" | "oldest" | "earliest" | "beginning" => return Some(Place::Start),
        "end" | "newest" | "latest" => return Some(Place::End),
        _ => {}
    }
    match text.as_bytes().first()? {
        b'@' => time(&text[1..]).map(Place::Time),
        b'+' => number(&text[1..]).map(|n| Place::AfterStart(n.unsigned_abs())),
        b'-' => number(&text[1..]).map(|n| Place::BeforeEnd(n.unsigned_abs())),
        _ => number(text).map(Place::At),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIDNIGHT: i64 = 1_795_219_200_000; // 2026-11-21T00:00:00Z

    fn at(ms: i64) -> Place {
        Place::Time(TimeSpec::At(ms))
    }

    #[test]
    fn every_notation_of_a_start() {
        let hour = Place::Time(TimeSpec::Ago(Duration::from_secs(3600)));
        for (text, from) in [
            ("start", Place::Start),
            ("oldest", Place::Start),
            ("beginning", Place::Start),
            ("end", Place::End),
            ("latest", Place::End),
            ("0", Place::At(0)),
            ("9223372036854775807", Place::At(i64::MAX)),
            ("+0", Place::AfterStart(0)),
            ("+12", Place::AfterStart(12)),
            ("-12", Place::BeforeEnd(12)),
            ("@1795219200000", at(MIDNIGHT)),
            ("@1795219200", at(MIDNIGHT)),
            ("@2026-11-21", at(MIDNIGHT)),
            ("@2026-11-21T01:00", at(MIDNIGHT + 3_600_000)),
            ("@2026-11-21T01:00:00.5", at(MIDNIGHT + 3_600_500)),
            ("@2026-11-21T01:00:00Z", at(MIDNIGHT + 3_600_000)),
            ("@2026-11-21T01:00:00+01:00", at(MIDNIGHT)),
            ("@-1h", hour),
            ("@-60m", hour),
        ] {
            assert_eq!(text.parse(), Ok(OffsetSpec { from, to: None }), "{text}");
        }
    }

    #[test]
    fn every_notation_of_a_range() {
        for (text, from, to) in [
            ("3:7", Place::At(3), Some(Place::At(7))),
            ("3:3", Place::At(3), Some(Place::At(3))),
            (":end", Place::Start, Some(Place::End)),
            (":7", Place::Start, Some(Place::At(7))),
            ("7:", Place::At(7), None),
            (":", Place::Start, None),
            ("-10:end", Place::BeforeEnd(10), Some(Place::End)),
            ("-10:-5", Place::BeforeEnd(10), Some(Place::BeforeEnd(5))),
            ("start:+5", Place::Start, Some(Place::AfterStart(5))),
            ("@2026-11-21:2026-11-22", at(MIDNIGHT), Some(at(MIDNIGHT + 86_400_000))),
            (
                "@2026-11-21T01:00:00Z:@2026-11-21T02:00",
                at(MIDNIGHT + 3_600_000),
                Some(at(MIDNIGHT + 7_200_000)),
            ),
            ("@2026-11-21T01:00:end", at(MIDNIGHT + 3_600_000), Some(Place::End)),
            (
                "@-2h:-1h",
                Place::Time(TimeSpec::Ago(Duration::from_secs(7200))),
                Some(Place::Time(TimeSpec::Ago(Duration::from_secs(3600)))),
            ),
        ] {
            assert_eq!(text.parse(), Ok(OffsetSpec { from, to }), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_the_notations() {
        for text in [
            "",
            "x",
            "--1",
            "+-1",
            "1.5",
            "-",
            "+",
            "@",
            "@x",
            "@123",
            "@-5",
            "@-",
            "7:3",
            "a:b",
            "1:2:3",
            "9223372036854775808",
            "@2026-13-01",
            "END",
        ] {
            let error = text.parse::<OffsetSpec>().unwrap_err();
            assert!(error.to_string().contains("write start, end"), "{text}: {error}");
        }
    }

    #[test]
    fn ago_is_counted_from_the_now_that_is_given() {
        let now = Timestamp::from_millis(10_000);
        assert_eq!(TimeSpec::Ago(Duration::from_secs(4)).resolve(now).as_millis(), 6_000);
        assert_eq!(TimeSpec::At(5).resolve(now).as_millis(), 5);
    }
}
