//! Which partition a record goes to. With a key: Kafka's murmur2, the same in every client, so that
//! a key's records keep their order whoever writes them. Without: one partition at a time until a
//! batch worth of bytes went there ("sticky", KIP-480, KIP-794), because full batches beat even
//! spreading.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use riverrun_proto::murmur2;

/// Chooses a partition for records that do not name one.
pub trait ChoosePartition: Send + Sync + 'static {
    /// A partition below `partitions` (at least 1), or `None` to let the producer choose as for
    /// records without a key. A partition that does not exist fails the record.
    fn partition(&self, topic: &str, key: Option<&[u8]>, partitions: u32) -> Option<u32>;
}

/// How records are spread over partitions.
#[derive(Clone, Default)]
pub enum Partitioner {
    /// Keys by murmur2, as Kafka's Java client (not librdkafka's `consistent_random`); records
    /// without a key to one partition per batch. The default.
    #[default]
    Murmur2,
    /// All records, keys or not, to one partition per batch.
    Sticky,
    /// The caller's own.
    Custom(Arc<dyn ChoosePartition>),
}

/// The partition that records without a key go to now, and how many bytes went there. Lock free.
#[derive(Debug, Default)]
pub(crate) struct Sticky(AtomicU64);

// === impl Partitioner ===

impl Partitioner {
    /// `None`: wherever is best.
    pub(crate) fn choose(&self, topic: &str, key: Option<&[u8]>, partitions: u32) -> Option<u32> {
        match self {
            Self::Murmur2 => key.map(|key| murmur2::partition_of(key, partitions)),
            Self::Sticky => None,
            Self::Custom(custom) => custom.partition(topic, key, partitions),
        }
    }
}

impl fmt::Debug for Partitioner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Murmur2 => "Murmur2",
            Self::Sticky => "Sticky",
            Self::Custom(_) => "Custom",
        })
    }
}

// === impl Sticky ===

impl Sticky {
    /// Starts at a partition of its own, so that many producers do not all begin with the first.
    pub(crate) fn starting_at(partition: u32) -> Self {
        Self(AtomicU64::new(Self::pack(partition, 0)))
    }

    /// The partition for a record of `bytes`. After `batch_bytes` it moves on to another, chosen by
    /// `random`.
    pub(crate) fn pick(
        &self,
        bytes: usize,
        batch_bytes: usize,
        partitions: u32,
        random: impl Fn() -> u32,
    ) -> u32 {
        let mut current = self.0.load(Ordering::Relaxed);
        loop {
            let (mut partition, used) = Self::unpack(current);
            let mut sum = used as usize + bytes;
            if (used > 0 && sum > batch_bytes) || partition >= partitions {
                partition = Self::another(partition, partitions, random());
                sum = bytes;
            }
            let used = u32::try_from(sum).unwrap_or(u32::MAX);
            let next = Self::pack(partition, used);
            match self.0.compare_exchange_weak(current, next, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return partition,
                Err(seen) => current = seen,
            }
        }
    }

    /// Any partition but this one, if there is another.
    fn another(partition: u32, partitions: u32, random: u32) -> u32 {
        if partitions <= 1 {
            return 0;
        }
        if partition >= partitions {
            return random % partitions;
        }
        let other = random % (partitions - 1);
        if other >= partition { other + 1 } else { other }
    }

    fn pack(partition: u32, used: u32) -> u64 {
        u64::from(partition) << 32 | u64::from(used)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
    fn unpack(packed: u64) -> (u32, u32) {
        ((packed >> 32) as u32, packed as u32)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Last;

    impl ChoosePartition for Last {
        fn partition(&self, _topic: &str, _key: Option<&[u8]>, partitions: u32) -> Option<u32> {
            Some(partitions - 1)
        }
    }

    #[test]
    fn keys_decide_as_in_kafka_and_no_key_decides_nothing() {
        let key = Some(&b"21"[..]);
        // murmur2("21") is -973932308; Kafka: toPositive(hash) % partitions.
        let expected = (-973_932_308_i32 & 0x7fff_ffff).cast_unsigned() % 12;
        assert_eq!(Partitioner::Murmur2.choose("t", key, 12), Some(expected));
        assert_eq!(Partitioner::Murmur2.choose("t", None, 12), None);
        assert_eq!(Partitioner::Sticky.choose("t", key, 12), None);
        assert_eq!(Partitioner::Custom(Arc::new(Last)).choose("t", key, 12), Some(11));
    }

    #[test]
    fn sticks_until_a_batch_is_full_then_moves_elsewhere() {
        let sticky = Sticky::starting_at(2);
        for _ in 0..10 {
            assert_eq!(sticky.pick(100, 1_000, 4, || 1), 2);
        }
        let moved = sticky.pick(100, 1_000, 4, || 2);
        assert_ne!(moved, 2);
        assert_eq!(sticky.pick(100, 1_000, 4, || 0), moved);
        // A record larger than a batch has a batch to itself.
        assert_ne!(sticky.pick(5_000, 1_000, 4, || 1), moved);
    }

    proptest! {
        #[test]
        fn always_names_a_partition_that_exists(
            start in 0_u32..20,
            partitions in 1_u32..10,
            records in prop::collection::vec((0_usize..3_000, any::<u32>()), 1..50),
        ) {
            let sticky = Sticky::starting_at(start);
            for (bytes, random) in records {
                prop_assert!(sticky.pick(bytes, 1_000, partitions, || random) < partitions);
            }
        }
    }
}
