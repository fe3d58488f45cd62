//! A broker's partitions through any sequence of produces, deletions, changes, kills and power
//! losses: what was acknowledged is there as long as its ack says.
//!
//! * After a kill, everything acknowledged is there: page cache survives a process.
//! * After a power loss, everything acknowledged as `disk` is, and of the rest a prefix.
//! * What a start has found is durable from then on, whatever its ack said.
//! * A retry of what is there is a duplicate, at its old place.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::StdRng};
use riverrun_proto::record::RecordBatch;

use super::{test_node::*, test_support::*, *};
use crate::{
    io::sim::PowerCut,
    metadata::test_support::{alter, delete, topic_id},
};

/// A batch that was acknowledged.
#[derive(Debug, Clone)]
struct Acked {
    base: i64,
    end: i64,
    /// Producer and sequence.
    stamp: (i64, i32),
    durable: bool,
}

/// What one partition promised.
#[derive(Debug, Default)]
struct Promises {
    acked: Vec<Acked>,
    /// What was deleted, as acknowledged.
    deleted_to: i64,
    sent: BTreeMap<u64, ((i64, i32), i32)>,
}

struct Run {
    world: World,
    rng: StdRng,
    partitions: BTreeMap<(u8, u32), Promises>,
    next_producer: i64,
    next_tag: u64,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut world = World::new(seed);
        let node = world.start();
        let mut partitions = BTreeMap::new();
        for (n, durability) in [(1, "disk"), (2, "memory")] {
            let config = [("durability", durability)];
            world.create_with(Some(&node), n, &format!("topic-{n}"), 2, &config);
            for index in 0..2 {
                partitions.insert((n, index), Promises::default());
            }
        }
        world.kill(node);
        let rng = StdRng::seed_from_u64(seed);
        Self { world, rng, partitions, next_producer: 1, next_tag: 0 }
    }

    /// One life of the process.
    fn live(&mut self) {
        let node = self.world.start();
        assert_eq!(node.report.failed, []);
        assert_eq!(node.report.damaged, []);
        let found: Vec<_> = self.partitions.keys().copied().collect();
        for at in found {
            self.check(&node, at);
        }
        let mut sequences = BTreeMap::new();
        for _ in 0..self.rng.random_range(0..25) {
            self.act(&node, &mut sequences);
        }
        if self.rng.random_bool(0.5) {
            self.settle(&node);
        }
        // Only what was heard before the end counts.
        while let Some((tag, outcome)) = node.answered() {
            self.take(tag, outcome);
        }
        for promises in self.partitions.values_mut() {
            promises.sent.clear();
        }
        match self.rng.random_range(0..4) {
            0 => self.world.stop(node),
            1 => self.world.kill(node),
            _ => {
                let cut = match self.rng.random_range(0..4) {
                    0 => PowerCut::LoseUnsynced,
                    1 => PowerCut::LoseNames,
                    2 => PowerCut::LoseContent,
                    _ => PowerCut::Random(self.rng.random()),
                };
                self.world.power_loss(node, cut);
            }
        }
    }

    fn act(&mut self, node: &Node, sequences: &mut BTreeMap<(u8, u32), (i64, i32)>) {
        let keys: Vec<_> = self.partitions.keys().copied().collect();
        let at = keys[self.rng.random_range(0..keys.len())];
        let partition = node.partition(at.0, at.1);
        match self.rng.random_range(0..20) {
            0 => partition.request_checkpoint(),
            1 => partition.tick(),
            2 => {
                self.settle(node);
                let high_watermark = partition.high_watermark().get();
                let before = self.rng.random_range(0..=high_watermark);
                let deleted =
                    block_on(partition.delete_records(Some(super::test_support::at(before)), None));
                let promises = self.partitions.get_mut(&at).unwrap();
                promises.deleted_to = promises.deleted_to.max(before);
                assert!(deleted.unwrap().get() >= promises.deleted_to);
            }
            3 => {
                let durability = if self.rng.random_bool(0.5) { "disk" } else { "memory" };
                let version = self.world.image.topic_by_id(topic_id(at.0)).unwrap().version.0;
                let change = alter(at.0, version, &[("durability", durability)], &[], 1);
                self.world.command(Some(node), &change);
            }
            4 => {
                // Another topic comes and goes: nobody else notices.
                let n = 100 + u8::try_from(self.next_tag % 100).unwrap();
                if self.world.image.topic_by_id(topic_id(n)).is_none()
                    && self.world.image.deleted_at(topic_id(n)).is_none()
                {
                    self.world.create(Some(node), n, &format!("passing-{n}"), 1);
                    if self.rng.random_bool(0.7) {
                        self.world.command(Some(node), &delete(n));
                    }
                }
            }
            _ => {
                let (producer, sequence) = *sequences.entry(at).or_insert_with(|| {
                    self.next_producer += 1;
                    (self.next_producer, 0)
                });
                let records = self.rng.random_range(1..5);
                sequences.insert(at, (producer, sequence + records));
                self.next_tag += 1;
                let (tag, stamp) = (self.next_tag, (producer, sequence));
                self.partitions.get_mut(&at).unwrap().sent.insert(tag, (stamp, records));
                node.send(&partition, tag, marked(stamp, records));
            }
        }
    }

    /// Waits for all answers.
    fn settle(&mut self, node: &Node) {
        while self.partitions.values().any(|promises| !promises.sent.is_empty()) {
            let (tag, outcome) = node.outcome();
            self.take(tag, outcome);
        }
    }

    fn take(&mut self, tag: u64, outcome: Result<Produced, ProduceError>) {
        let of = self.partitions.values_mut().find(|promises| promises.sent.contains_key(&tag));
        let promises = of.expect("answered once");
        let (stamp, records) = promises.sent.remove(&tag).unwrap();
        let produced = outcome.expect("nothing goes wrong here but the end");
        let (base, end) = (produced.base_offset.get(), produced.last_offset.get() + 1);
        assert_eq!(end - base, i64::from(records));
        let durable = produced.durability == Durability::Disk;
        // A disk that has this has all that lies below.
        if durable {
            for below in promises.acked.iter_mut().filter(|acked| acked.end <= base) {
                below.durable = true;
            }
        }
        promises.acked.push(Acked { base, end, stamp, durable });
        promises.acked.sort_by_key(|acked| acked.base);
    }

    /// Compares what a start found with what was promised.
    fn check(&mut self, node: &Node, key: (u8, u32)) {
        let partition = node.partition(key.0, key.1);
        let promises = self.partitions.get_mut(&key).unwrap();
        let offsets = partition.offsets();
        let (start, end) = (offsets.log_start.get(), offsets.log_end.get());
        assert_eq!(offsets.high_watermark.get(), end, "alone, everything found is committed");
        assert!(start >= promises.deleted_to, "deleted records came back at {key:?}");
        let found = node.read_all(&partition);
        let mut expected = found.first().map_or(start, |(base, _)| *base);
        for (base, batch) in &found {
            assert_eq!(*base, expected, "dense");
            expected = RecordBatch::validate(batch.clone()).unwrap().header().last_offset() + 1;
        }
        assert_eq!(expected.max(start), end);
        let by_base: BTreeMap<i64, &Bytes> = found.iter().map(|(b, batch)| (*b, batch)).collect();
        let mut lost = false;
        for acked in &mut promises.acked {
            if acked.end <= start {
                continue;
            }
            let is_there = by_base.get(&acked.base).is_some_and(|batch| {
                let header = *RecordBatch::validate((*batch).clone()).unwrap().header();
                header.producer().map(|p| (p.id.get(), p.base_sequence)) == Some(acked.stamp)
            });
            assert!(is_there || !acked.durable, "{acked:?} of {key:?} is gone");
            assert!(!(is_there && lost), "{acked:?} of {key:?} survived what came before it");
            lost |= !is_there;
            // It was read back and synced.
            acked.durable = true;
        }
        let there = |acked: &Acked| acked.end <= start || by_base.contains_key(&acked.base);
        promises.acked.retain(|acked| there(acked) && acked.end <= end);
        if let Some(last) = promises.acked.last().cloned() {
            let records = i32::try_from(last.end - last.base).unwrap();
            let again = node.write(&partition, marked(last.stamp, records));
            assert!(again.duplicate, "{last:?} of {key:?}");
            assert_eq!(again.base_offset.get(), last.base);
        }
    }
}

/// A batch that can be told from all others.
fn marked((producer, sequence): (i64, i32), records: i32) -> Bytes {
    sequenced(producer, 0, sequence, usize::try_from(records).unwrap())
}

fn run(seed: u64, lives: usize) {
    let mut run = Run::new(seed);
    for _ in 0..lives {
        run.live();
    }
    let node = run.world.start();
    let keys: Vec<_> = run.partitions.keys().copied().collect();
    for key in keys {
        run.check(&node, key);
    }
    assert!(Arc::strong_count(&node.registry) == 1, "nothing holds on to a registry");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn promises_are_kept(seed: u64) {
        run(seed, 6);
    }
}
