//! How far the log start offset may advance: a pure rule over segments.
//!
//! Only whole segments go, the oldest first, so that the log stays contiguous. By age, a segment goes
//! when its latest record is older than the bound; one whose records carry no time (or one before
//! 1970) never goes by age, as nothing says that it is old. By size, the oldest go while
//! the log without them is still at least as large as the bound, so that it never keeps less than
//! was asked for. Nothing at or above the limit (the high watermark) ever goes: it is not
//! committed.

use std::time::Duration;

use riverrun_proto::{offset::Offset, timestamp::Timestamp};

/// What is kept; `None`: no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RetentionPolicy {
    /// Bytes to keep at least.
    pub bytes: Option<u64>,
    /// Time to keep records at least, by their own timestamps.
    pub age: Option<Duration>,
}

/// What the rule looks at of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentFacts {
    /// The first offset that is not in it.
    pub end: Offset,
    /// Its size.
    pub bytes: u64,
    /// Its latest record; of a segment without any, far in the past.
    pub max_timestamp: Timestamp,
    /// Whether it has any records.
    pub is_empty: bool,
}

/// Where the log start offset should go: the end of the last segment that is due; `None`: nothing
/// is.
pub fn due(
    segments: &[SegmentFacts],
    limit: Offset,
    now: Timestamp,
    policy: &RetentionPolicy,
) -> Option<Offset> {
    let deletable = segments.iter().take_while(|one| one.end <= limit && !one.is_empty).count();
    let by_age = policy.age.map_or(0, |age| {
        let horizon = now.saturating_sub(age);
        segments[..deletable]
            .iter()
            .take_while(|one| one.max_timestamp.as_millis() >= 0 && one.max_timestamp < horizon)
            .count()
    });
    let by_size = policy.bytes.map_or(0, |keep| {
        let mut rest: u64 = segments.iter().map(|one| one.bytes).sum();
        let fits = |one: &&SegmentFacts| {
            rest -= one.bytes;
            rest >= keep
        };
        segments[..deletable].iter().take_while(fits).count()
    });
    by_age.max(by_size).checked_sub(1).map(|last| segments[last].end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(end: i64, bytes: u64, time: i64) -> SegmentFacts {
        SegmentFacts {
            end: Offset::new(end).unwrap(),
            bytes,
            max_timestamp: Timestamp::from_millis(time),
            is_empty: false,
        }
    }

    #[test]
    fn the_rule() {
        let segments = [segment(10, 100, 1_000), segment(20, 100, 5_000), segment(30, 100, 2_000)];
        let age = |ms| RetentionPolicy { age: Some(Duration::from_millis(ms)), bytes: None };
        let bytes = |n| RetentionPolicy { age: None, bytes: Some(n) };
        let both = RetentionPolicy { age: Some(Duration::from_millis(9_000)), bytes: Some(100) };
        // (what, limit, policy, expected), at time 10 000
        let table = [
            ("no bound", 30, RetentionPolicy::default(), None),
            ("nothing is old enough", 30, age(9_000), None),
            ("exactly at the bound is kept", 30, age(9_000), None),
            ("the oldest", 30, age(8_999), Some(10)),
            ("an older one behind a younger one waits", 30, age(7_000), Some(10)),
            ("all, the active one too", 30, age(4_999), Some(30)),
            ("not what is not committed", 29, age(4_999), Some(20)),
            ("nothing is committed", 9, age(0), None),
            ("size: keeps at least the bound", 30, bytes(200), Some(10)),
            ("size: a byte more keeps all", 30, bytes(201), None),
            ("size: zero keeps nothing", 30, bytes(0), Some(30)),
            ("whichever takes more", 30, both, Some(20)),
        ];
        for (what, limit, policy, expected) in table {
            let limit = Offset::new(limit).unwrap();
            let found = due(&segments, limit, Timestamp::from_millis(10_000), &policy);
            assert_eq!(found, expected.and_then(Offset::new), "{what}");
        }
    }

    #[test]
    fn records_without_a_time_do_not_go_by_age() {
        let all = RetentionPolicy { bytes: None, age: Some(Duration::ZERO) };
        let now = Timestamp::from_millis(1_000);
        assert_eq!(due(&[segment(10, 100, -1)], Offset::MAX, now, &all), None);
    }

    #[test]
    fn an_empty_active_segment_is_never_due() {
        let mut empty = segment(10, 4096, i64::MIN);
        empty.is_empty = true;
        let all = RetentionPolicy { bytes: Some(0), age: Some(Duration::ZERO) };
        let now = Timestamp::from_millis(1);
        assert_eq!(due(&[empty], Offset::MAX, now, &all), None);
        assert_eq!(due(&[segment(10, 100, 0), empty], Offset::MAX, now, &all), Offset::new(10));
    }
}
