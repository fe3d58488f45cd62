//! Where a reader starts: places by offset, time, distance from the end, or name, made into offsets.

use riverrun_proto::{epoch::LeaderEpoch, offset::Offset};

use std::sync::Arc;

use super::{convert::Start, status::Failure};
use crate::partition::{Copies, OffsetSpec, OffsetsError, Partition};

/// The offset that `start` means in `partition` now. A plain offset is taken as it is; whether the
/// log has it, the read says.
///
/// Cancel safe.
pub(super) async fn resolve(
    partition: &Arc<Partition>,
    start: Start,
    leader_epoch: Option<LeaderEpoch>,
    copies: Copies,
) -> Result<Offset, Failure> {
    let named = async |spec| -> Result<Option<Offset>, OffsetsError> {
        let found = partition.offset_at_any(spec, leader_epoch, copies).await?;
        Ok(found.map(|at| at.offset))
    };
    let end = async || named(OffsetSpec::Latest).await.map(Option::unwrap_or_default);
    Ok(match start {
        Start::At(offset) => offset,
        Start::Earliest => named(OffsetSpec::Earliest).await?.unwrap_or_default(),
        Start::Latest => end().await?,
        Start::Timestamp(at) => match named(OffsetSpec::Timestamp(at)).await? {
            Some(offset) => offset,
            None => end().await?,
        },
        Start::FromEnd(records) => {
            let earliest = named(OffsetSpec::Earliest).await?.unwrap_or_default();
            before(end().await?, records).max(earliest)
        }
    })
}

/// The offset `records` before `end`; offsets are dense, so this is that many records at most.
fn before(end: Offset, records: u64) -> Offset {
    let records = i64::try_from(records).unwrap_or(i64::MAX);
    Offset::new(end.get().saturating_sub(records)).unwrap_or(Offset::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_end_stops_at_zero() {
        let at = |n| Offset::new(n).unwrap();
        assert_eq!(before(at(10), 3), at(7));
        assert_eq!(before(at(10), 0), at(10));
        assert_eq!(before(at(10), 11), at(0));
        assert_eq!(before(at(10), u64::MAX), at(0));
    }
}
