//! What a log is said to hold, batch by batch: written down beside the log by whoever changes it, so
//! that the laws can be asked of all logs after every step. The log itself is read back, and
//! compared, when it is opened and in the end.

use bytes::Bytes;
use riverrun_proto::{
    epoch::LeaderEpoch,
    epoch_history::{EpochHistory, EpochStart},
    offset::Offset,
    record::{BatchHeader, ProducerStamp},
};

/// A batch in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Offset of its first record.
    pub base: Offset,
    /// The first offset after it.
    pub end: Offset,
    /// The epoch it was written in.
    pub epoch: LeaderEpoch,
    /// Its checksum, which stands for its records: all values differ.
    pub crc: u32,
    /// As its producer numbered it.
    pub producer: Option<ProducerStamp>,
    /// Records − 1.
    pub last_offset_delta: i32,
}

impl Entry {
    /// As a header in a log says.
    pub fn of(header: &BatchHeader) -> Option<Self> {
        let base = Offset::new(header.base_offset)?;
        let end = Offset::new(header.last_offset())?.next();
        let epoch = LeaderEpoch::new(header.leader_epoch)?;
        let producer = header.producer();
        let last_offset_delta = header.last_offset_delta;
        Some(Self { base, end, epoch, crc: header.crc, producer, last_offset_delta })
    }

    /// As a stored batch says.
    pub fn of_batch(batch: &Bytes) -> Option<Self> {
        Self::of(&BatchHeader::parse(batch).ok()?)
    }
}

/// The batches of one log, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mirror(Vec<Entry>);

impl Mirror {
    /// These.
    pub fn new(entries: Vec<Entry>) -> Self {
        Self(entries)
    }

    /// One more, if it is a batch.
    pub fn extend(&mut self, entry: Option<Entry>) {
        self.0.extend(entry);
    }

    /// One more.
    pub fn push(&mut self, entry: Entry) {
        self.0.push(entry);
    }

    /// Those that reach past `to` are gone.
    pub fn truncate(&mut self, to: Offset) {
        let keep = self.0.partition_point(|entry| entry.end <= to);
        self.0.truncate(keep);
    }

    /// All are gone.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// All of them.
    pub fn entries(&self) -> &[Entry] {
        &self.0
    }

    /// Those that reach past an offset.
    pub fn from(&self, start: Offset) -> &[Entry] {
        &self.0[self.0.partition_point(|entry| entry.end <= start)..]
    }

    /// Those that begin below an offset and reach past another.
    pub fn between(&self, start: Offset, end: Offset) -> &[Entry] {
        let from = self.from(start);
        &from[..from.partition_point(|entry| entry.base < end)]
    }

    /// The first offset after the last one.
    pub fn end(&self) -> Option<Offset> {
        self.0.last().map(|entry| entry.end)
    }

    /// The history of epochs that they tell, of a log that begins at `start`.
    pub fn epochs(&self, start: Offset) -> EpochHistory {
        let mut history: EpochHistory = self
            .0
            .iter()
            .map(|entry| EpochStart { epoch: entry.epoch, start: entry.base })
            .collect();
        history.advance_start(start);
        history
    }
}
