//! `<offset>.snapshot`: the producers' state as of an offset, so that opening a log need not read
//! every header since the beginning.
//!
//! All remembered batches of a producer are in it, not only the last one: a retry that comes after
//! a restart is still recognised. The name says the offset; the body says it again.

use bytes::{Buf, BufMut};
use riverrun_proto::{
    ids::ProducerId, limits::PRODUCER_BATCHES_REMEMBERED, offset::Offset, timestamp::Timestamp,
};

use super::{
    checkpoint::get_offset,
    envelope::{self, FormatError},
    layout::FileKind,
    producer_state::{ProducerLimits, ProducerState, ProducerStates, RememberedBatch},
};

const PRODUCER_BYTES: usize = 8 + 2 + 8 + 1;
const BATCH_BYTES: usize = 4 + 4 + 8 + 8;

/// The most a snapshot may have: 100 000 producers, each with all its batches.
pub const SNAPSHOT_BYTES_MAX: usize =
    100_000 * (PRODUCER_BYTES + PRODUCER_BATCHES_REMEMBERED * BATCH_BYTES);

/// The file's bytes, for a log in this [life](super::checkpoint::Checkpoint::life).
pub fn encode(as_of: Offset, life: u32, states: &ProducerStates) -> Vec<u8> {
    let mut body = Vec::with_capacity(16 + states.len() * (PRODUCER_BYTES + 4 * BATCH_BYTES));
    body.put_i64_le(as_of.get());
    body.put_u32_le(life);
    body.put_u32_le(u32::try_from(states.len()).expect("producers are bounded far below"));
    // In order of ids, so that equal states are equal files.
    let mut all: Vec<_> = states.iter().collect();
    all.sort_unstable_by_key(|(id, _)| id.get());
    for (id, state) in all {
        body.put_i64_le(id.get());
        body.put_i16_le(state.epoch);
        body.put_i64_le(state.last_seen.as_millis());
        body.put_u8(u8::try_from(state.batches.len()).expect("bounded by a constant"));
        for batch in &state.batches {
            body.put_i32_le(batch.base_sequence);
            body.put_i32_le(batch.last_offset_delta);
            body.put_i64_le(batch.base_offset.get());
            body.put_i64_le(batch.timestamp.as_millis());
        }
    }
    envelope::wrap(FileKind::ProducerSnapshot, &body)
}

/// Back from the file's bytes, which were found under the name of `as_of`, if they are of this life.
pub fn decode(
    bytes: &[u8],
    as_of: Offset,
    life: u32,
    limits: ProducerLimits,
) -> Result<ProducerStates, FormatError> {
    let mut body = envelope::unwrap(FileKind::ProducerSnapshot, bytes)?;
    if get_offset(&mut body)? != as_of {
        return Err(FormatError::Broken("it is a snapshot of another offset"));
    }
    if body.try_get_u32_le()? != life {
        return Err(FormatError::Broken("it is of an earlier life of the log"));
    }
    let mut states = ProducerStates::new(limits);
    for _ in 0..body.try_get_u32_le()? {
        let id = ProducerId::new(body.try_get_i64_le()?)
            .ok_or(FormatError::Broken("a producer id is negative"))?;
        let epoch = body.try_get_i16_le()?;
        let last_seen = Timestamp::from_millis(body.try_get_i64_le()?);
        let count = usize::from(body.try_get_u8()?);
        if count == 0 || count > PRODUCER_BATCHES_REMEMBERED {
            return Err(FormatError::Broken("a producer has too few or too many batches"));
        }
        let batches = (0..count).map(|_| decode_batch(&mut body)).collect::<Result<_, _>>()?;
        states.restore(id, ProducerState { epoch, last_seen, batches });
    }
    Ok(states)
}

fn decode_batch(body: &mut &[u8]) -> Result<RememberedBatch, FormatError> {
    let base_sequence = body.try_get_i32_le()?;
    let last_offset_delta = body.try_get_i32_le()?;
    if base_sequence < 0 || last_offset_delta < 0 {
        return Err(FormatError::Broken("a sequence is negative"));
    }
    Ok(RememberedBatch {
        base_sequence,
        last_offset_delta,
        base_offset: get_offset(body)?,
        timestamp: Timestamp::from_millis(body.try_get_i64_le()?),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use riverrun_proto::record::ProducerStamp;

    use super::{super::producer_state::ProducerBatch, *};

    const LIMITS: ProducerLimits =
        ProducerLimits { count_max: 100, expiration: Duration::from_secs(3600) };

    fn content(states: &ProducerStates) -> Vec<(ProducerId, ProducerState)> {
        let mut all: Vec<_> = states.iter().map(|(id, state)| (id, state.clone())).collect();
        all.sort_unstable_by_key(|(id, _)| id.get());
        all
    }

    proptest! {
        /// Snapshot and replay of the rest is the same as replay of all.
        #[test]
        fn a_snapshot_anywhere_changes_nothing(
            batches in proptest::collection::vec((0..5i64, 0..3i16, 0..4i32), 1..200),
            cut in any::<proptest::sample::Index>(),
        ) {
            let now = Timestamp::from_millis(1_000);
            let cut = cut.index(batches.len());
            let (mut all, mut restored) =
                (ProducerStates::new(LIMITS), ProducerStates::new(LIMITS));
            let mut offset = Offset::ZERO;
            for (at, (id, epoch, delta)) in batches.into_iter().enumerate() {
                if at == cut {
                    let bytes = encode(offset, 1, &all);
                    restored = decode(&bytes, offset, 1, LIMITS).unwrap();
                    prop_assert_eq!(encode(offset, 1, &restored), bytes);
                }
                let batch = ProducerBatch {
                    stamp: ProducerStamp {
                        id: ProducerId::new(id).unwrap(),
                        epoch,
                        base_sequence: i32::try_from(at).unwrap(),
                    },
                    last_offset_delta: delta,
                    base_offset: offset,
                    timestamp: Timestamp::from_millis(offset.get()),
                };
                all.record(batch, now);
                if at >= cut {
                    restored.record(batch, now);
                }
                offset = offset.checked_add(delta as u64 + 1).unwrap();
            }
            prop_assert_eq!(content(&restored), content(&all));
        }

        #[test]
        fn a_cut_snapshot_is_refused(cut in any::<proptest::sample::Index>()) {
            let mut states = ProducerStates::new(LIMITS);
            for id in 0..3 {
                let stamp = ProducerStamp {
                    id: ProducerId::new(id).unwrap(), epoch: 0, base_sequence: 0,
                };
                let batch = ProducerBatch {
                    stamp,
                    last_offset_delta: 0,
                    base_offset: Offset::ZERO,
                    timestamp: Timestamp::NONE,
                };
                states.record(batch, Timestamp::from_millis(1));
            }
            let bytes = encode(Offset::ZERO, 0, &states);
            let len = cut.index(bytes.len());
            prop_assert!(decode(&bytes[..len], Offset::ZERO, 0, LIMITS).is_err());
            let other = Offset::new(5).unwrap();
            prop_assert!(decode(&bytes, other, 0, LIMITS).is_err(), "under another's name");
            prop_assert!(decode(&bytes, Offset::ZERO, 1, LIMITS).is_err(), "of another life");
        }
    }
}
