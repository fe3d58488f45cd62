//! The rule of what is committed.

use riverrun_proto::offset::Offset;

/// The least position over the maximal ISR, if the rule allows the high watermark to move at all.
///
/// * `positions` has one entry per member of the *maximal* ISR, `None` for one not heard from in this
///   leader epoch: its position is unknown, so nothing new can be called committed.
/// * `committed_isr` is the size of the ISR that the controller has confirmed. Smaller than `min_isr`
///   freezes the high watermark (KAFKA-15583): else the last replica standing would commit what no
///   other has. The maximal ISR must not be counted here: a member that has only been proposed may
///   be refused, and then what was committed with it would be on fewer replicas than promised.
pub fn candidate(
    positions: impl IntoIterator<Item = Option<Offset>>,
    committed_isr: usize,
    min_isr: usize,
) -> Option<Offset> {
    if committed_isr < min_isr {
        return None;
    }
    let mut least = None;
    for position in positions {
        let position = position?;
        least = Some(least.map_or(position, |l: Offset| l.min(position)));
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(offset: i64) -> Option<Offset> {
        Offset::new(offset)
    }

    type Case = (Vec<Option<Offset>>, usize, usize, Option<Offset>);

    #[test]
    fn least_of_all_or_nothing() {
        let cases: [Case; 8] = [
            (vec![], 0, 0, None),
            (vec![at(7)], 1, 1, at(7)),
            (vec![at(7)], 1, 2, None),
            (vec![at(7), at(5)], 2, 2, at(5)),
            (vec![at(7), at(5)], 1, 1, at(5)),
            (vec![at(7), at(5)], 1, 2, None),
            (vec![at(7), None], 2, 1, None),
            (vec![at(3), at(9), at(4)], 3, 2, at(3)),
        ];
        for (positions, committed, min_isr, expected) in cases {
            assert_eq!(
                candidate(positions.iter().copied(), committed, min_isr),
                expected,
                "{positions:?} {committed} {min_isr}"
            );
        }
    }
}
