//! How replicas come along that are being added to a partition, in words, from what its replicas say.
//! Pure.

use std::{fmt, time::Duration};

use riverrun_proto::ids::BrokerId;

use super::PartitionReport;

/// A replica that is being added and not in sync yet.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Arrival {
    /// Which broker.
    pub id: BrokerId,
    /// Whether it is subscribed.
    pub connected: bool,
    /// Records it lacks; `None`: its leader has not heard from it.
    pub records: Option<u64>,
    /// Bytes it lacks, where both copies tell their sizes.
    pub bytes: Option<u64>,
    /// What a broker sends to replicas that are being added, all of them together, in bytes a second;
    /// `None`: as much as there is.
    pub throttle: Option<u64>,
    /// What is written to the partition, in bytes a second.
    pub growth: u64,
}

impl PartitionReport {
    /// Replicas that are being added and not in sync yet, as far as the leader tells.
    pub fn arrivals(&self) -> Vec<Arrival> {
        let p = &self.partition;
        let (Some(moving), Some(leading)) = (&p.moving, &p.leading) else { return Vec::new() };
        let copy = |id: BrokerId| {
            let copy = self.copies.iter().find(|(of, _)| *of == id);
            copy.and_then(|(_, copy)| copy.as_ref().ok())
        };
        let own = p.leader.and_then(copy);
        let arrival = |id: &BrokerId| {
            let follower = leading.followers.iter().find(|follower| follower.id == *id);
            let end = follower.and_then(|follower| follower.log_end_offset);
            let end = end.or_else(|| copy(*id).map(|copy| copy.log_end_offset));
            let missing = |own: u64, copied: u64| own.saturating_sub(copied);
            Arrival {
                id: *id,
                connected: follower.is_some_and(|follower| follower.connected),
                records: own.zip(end).map(|(own, end)| {
                    let begins = end.max(own.log_start_offset);
                    u64::try_from(own.log_end_offset - begins).unwrap_or(0)
                }),
                bytes: own
                    .zip(copy(*id))
                    .map(|(own, copy)| missing(own.size_bytes, copy.size_bytes)),
                throttle: moving.throttle_bytes_per_second,
                growth: moving.growth_bytes_per_second,
            }
        };
        moving.adding.iter().map(arrival).collect()
    }
}

impl Arrival {
    /// Whether it never gets there: as much is written as the throttle lets through.
    pub fn gains_nothing(&self) -> bool {
        self.throttle.is_some_and(|throttle| throttle <= self.growth)
    }

    /// How long it takes at least, by the throttle; `None`: nobody knows, or nothing holds it back.
    pub fn takes_at_least(&self) -> Option<Duration> {
        let gain = self.throttle?.checked_sub(self.growth).filter(|gain| *gain > 0)?;
        Some(Duration::from_secs(self.bytes? / gain))
    }
}

impl fmt::Display for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "broker {} is being added", self.id)?;
        match (self.records, self.bytes) {
            (Some(records), Some(bytes)) => {
                write!(f, ": it lacks {records} records, {}", Size(bytes))?;
            }
            (Some(records), None) => write!(f, ": it lacks {records} records")?,
            (None, _) => write!(f, ": nothing was heard of it yet")?,
        }
        if !self.connected {
            write!(f, ", and is not connected")?;
        }
        let Some(throttle) = self.throttle else { return Ok(()) };
        write!(
            f,
            "; the throttle of moves lets {} a second through to all that are being added",
            Size(throttle)
        )?;
        if self.gains_nothing() {
            return write!(
                f,
                ", and the move gains nothing: the partition grows by {} a second. Raise it: \
                 riverrun cluster throttle RATE, or lift it: riverrun cluster throttle none",
                Size(self.growth)
            );
        }
        match self.takes_at_least() {
            Some(left) if left > Duration::ZERO => {
                write!(f, ", so it takes {} more at least", Span(left))
            }
            _ => Ok(()),
        }
    }
}

/// Bytes as people read them, in powers of 1000.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
        if self.0 < 1000 {
            return write!(f, "{} B", self.0);
        }
        let (mut tenths, mut unit) = (self.0 / 100, 0);
        while tenths >= 10_000 {
            tenths /= 1000;
            unit += 1;
        }
        write!(f, "{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
    }
}

/// A long time in its two largest units.
struct Span(Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match seconds {
            0..60 => write!(f, "{seconds} s"),
            60..3600 => write!(f, "{} m {} s", seconds / 60, seconds % 60),
            3600..86400 => write!(f, "{} h {} m", seconds / 3600, seconds % 3600 / 60),
            _ => write!(f, "{} d {} h", seconds / 86400, seconds % 86400 / 3600),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrival() -> Arrival {
        Arrival {
            id: BrokerId(4),
            connected: true,
            records: Some(600),
            bytes: Some(64_000_000),
            throttle: Some(10_000),
            growth: 2_000,
        }
    }

    #[test]
    fn it_says_how_long_and_when_never() {
        let cases = [
            (
                arrival(),
                "broker 4 is being added: it lacks 600 records, 64.0 MB; the throttle of moves lets \
                 10.0 kB a second through to all that are being added, so it takes 2 h 13 m more at \
                 least",
            ),
            (
                Arrival { growth: 10_000, ..arrival() },
                "broker 4 is being added: it lacks 600 records, 64.0 MB; the throttle of moves lets \
                 10.0 kB a second through to all that are being added, and the move gains nothing: \
                 the partition grows by 10.0 kB a second. Raise it: riverrun cluster throttle RATE, \
                 or lift it: riverrun cluster throttle none",
            ),
            (
                Arrival { throttle: None, bytes: None, ..arrival() },
                "broker 4 is being added: it lacks 600 records",
            ),
            (
                Arrival { throttle: None, records: None, connected: false, ..arrival() },
                "broker 4 is being added: nothing was heard of it yet, and is not connected",
            ),
            (
                Arrival { bytes: Some(0), records: Some(0), throttle: Some(u64::MAX), ..arrival() },
                "broker 4 is being added: it lacks 0 records, 0 B; the throttle of moves lets \
                 18.4 EB a second through to all that are being added",
            ),
        ];
        for (arrival, expected) in cases {
            assert_eq!(arrival.to_string(), expected);
        }
        assert!(!Arrival { throttle: None, ..arrival() }.gains_nothing());
        assert_eq!(Arrival { growth: 1 << 40, ..arrival() }.takes_at_least(), None);
    }

    #[test]
    fn sizes_and_spans_read_well() {
        let sizes = [0, 999, 1000, 1550, 999_999, 52_428_800, u64::MAX];
        let shown = sizes.map(|bytes| Size(bytes).to_string());
        let expected = ["0 B", "999 B", "1.0 kB", "1.5 kB", "999.9 kB", "52.4 MB", "18.4 EB"];
        assert_eq!(shown, expected);
        let spans = [5, 65, 3600 * 5 + 120, 86400 * 3 + 7300];
        let shown = spans.map(|seconds| Span(Duration::from_secs(seconds)).to_string());
        assert_eq!(shown, ["5 s", "1 m 5 s", "5 h 2 m", "3 d 2 h"]);
    }
}
