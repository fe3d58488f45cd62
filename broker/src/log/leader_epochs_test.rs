//! The history against a naive scan over the batches it was derived from.

use proptest::prelude::*;
use riverrun_proto::offset::Offset;

use super::*;

fn at(n: i64) -> Offset {
    Offset::new(n).unwrap()
}

fn epoch(n: i32) -> LeaderEpoch {
    LeaderEpoch::new(n).unwrap()
}

fn history(entries: &[(i32, i64)]) -> LeaderEpochs {
    let mut epochs = LeaderEpochs::default();
    for &(e, start) in entries {
        assert!(epochs.note(epoch(e), at(start)));
    }
    epochs
}

#[test]
fn end_offset_for_follows_kip_279() {
    let epochs = history(&[(2, 0), (4, 10), (7, 25)]);
    let table = [
        (7, Some((7, 40))), // the newest: the log end
        (4, Some((4, 25))), // ends where the next begins
        (5, Some((4, 25))), // unknown in between: the one before
        (6, Some((4, 25))),
        (2, Some((2, 10))),
        (3, Some((2, 10))),
        (1, Some((1, 0))), // older than all: where the oldest begins
        (8, None),         // newer than all
    ];
    for (asked, want) in table {
        let want = want.map(|(e, o)| (epoch(e), at(o)));
        assert_eq!(epochs.end_offset_for(epoch(asked), at(40)), want, "epoch {asked}");
    }
    assert_eq!(LeaderEpochs::default().end_offset_for(epoch(0), at(0)), None);
}

#[test]
fn an_epoch_without_records_is_displaced_by_the_next() {
    let mut epochs = history(&[(1, 0), (2, 10)]);
    assert!(epochs.note(epoch(3), at(10)));
    assert_eq!(epochs, history(&[(1, 0), (3, 10)]));
    assert!(!epochs.note(epoch(3), at(12)), "known already");
    assert!(!epochs.note(epoch(2), at(12)), "older than what is known");
    assert_eq!(epochs, history(&[(1, 0), (3, 10)]));
}

#[test]
fn the_covering_epoch_survives_an_advanced_start() {
    let mut epochs = history(&[(1, 0), (2, 10), (3, 20)]);
    epochs.advance_start(at(15));
    assert_eq!(epochs, history(&[(2, 15), (3, 20)]));
    epochs.advance_start(at(20));
    assert_eq!(epochs, history(&[(3, 20)]));
    epochs.advance_start(at(5));
    assert_eq!(epochs, history(&[(3, 20)]), "never moves back");
}

proptest! {
    /// A log as the epoch of each offset, after appends, truncations and retention, always has the
    /// history that scanning it would give.
    #[test]
    fn history_equals_a_scan(ops in proptest::collection::vec((0..4u8, 0..100usize), 0..60)) {
        let (mut log, mut start, mut current) = (Vec::<i32>::new(), 0usize, 0);
        let mut epochs = LeaderEpochs::default();
        for (op, n) in ops {
            match op {
                0 => {
                    epochs.note(epoch(current), at(log.len() as i64));
                    log.extend(std::iter::repeat_n(current, n % 7 + 1));
                }
                1 => current += 1 + i32::try_from(n % 3).unwrap(),
                2 => {
                    let to = start + n % (log.len() - start + 1);
                    log.truncate(to);
                    epochs.truncate(at(to as i64));
                    // A truncated log is a follower's: its leader has a newer epoch.
                    current += 1;
                }
                _ => {
                    start += n % (log.len() - start + 1);
                    epochs.advance_start(at(start as i64));
                }
            }
            check_against_scan(&epochs, &log, start, current)?;
        }
        prop_assert_eq!(&LeaderEpochs::decode(&epochs.encode(2), 2).unwrap(), &epochs);
        prop_assert!(LeaderEpochs::decode(&epochs.encode(2), 3).is_err());
    }
}

fn check_against_scan(
    epochs: &LeaderEpochs,
    log: &[i32],
    start: usize,
    current: i32,
) -> Result<(), TestCaseError> {
    #[expect(clippy::needless_range_loop, reason = "offsets are what this is about")]
    for offset in start..log.len() {
        prop_assert_eq!(epochs.epoch_of(at(offset as i64)), Some(epoch(log[offset])));
    }
    let end = at(log.len() as i64);
    for asked in 0..=current {
        let Some(&newest) = log[start..].last() else { break };
        let naive = if asked == newest {
            Some((asked, log.len()))
        } else {
            let higher = (start..log.len()).find(|&o| log[o] > asked);
            let found = log[start..].iter().copied().filter(|&e| e <= asked).max();
            higher.map(|h| (found.unwrap_or(asked), h))
        };
        let naive = naive.map(|(e, o)| (epoch(e), at(o as i64)));
        prop_assert_eq!(epochs.end_offset_for(epoch(asked), end), naive, "epoch {}", asked);
    }
    Ok(())
}
