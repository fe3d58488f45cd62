//! The log of one partition: what its owner calls. See [`super`] for the picture.
//!
//! Everything here is in memory and short: the owner's lock is held during it. Reading is
//! [`LogReader`]'s, waiting for the disk is [`LogWork`]'s.
//!
//! [`LogReader`]: super::LogReader
//! [`LogWork`]: super::LogWork

use std::{path::Path, sync::Arc, time::Duration};

use riverrun_proto::{
    epoch::LeaderEpoch,
    ids::TopicPartition,
    limits::BATCH_BYTES_MAX,
    offset::Offset,
    record::{ProducerStamp, StampedBatch},
    timestamp::Timestamp,
};

use super::{
    active::{Active, Need, OpenActive},
    checkpoint::LogPoint,
    config::LogConfig,
    deletion::Delete,
    error::{AppendError, Damage},
    flush::FlushState,
    layout::{FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES},
    leader_epochs::LeaderEpochs,
    producer_state::{ProducerCheck, ProducerStates},
    reader::LogReader,
    replay,
    retention::{self, RetentionPolicy, SegmentFacts},
    shared::Shared,
    work::DiskSide,
    writing::Writing,
};
use crate::io;

/// After the disk was found full, this long passes before it is tried again.
const STORAGE_RETRY: Duration = Duration::from_secs(1);

/// The log of one partition. One owner of order; readers and work go on beside it.
#[derive(Debug)]
pub struct Log {
    pub(super) shared: Arc<Shared>,
    pub(super) side: Arc<DiskSide>,
    pub(super) config: LogConfig,
    pub(super) epochs: LeaderEpochs,
    pub(super) producers: ProducerStates,
    pub(super) active: Active,
    pub(super) flush: FlushState,
    pub(super) recovery_point: LogPoint,
    /// As last noted by the owner; goes into checkpoints.
    pub(super) high_watermark: Offset,
    pub(super) damage: Option<Damage>,
    pub(super) writing: Writing,
    pub(super) status: Status,
}

/// What is due and what is under way.
#[derive(Debug, Default)]
pub(super) struct Status {
    /// What the active segment needs.
    pub(super) need: Option<Need>,
    /// Work on that is under way.
    pub(super) is_readying: bool,
    pub(super) is_checkpoint_due: bool,
    pub(super) is_checkpointing: bool,
    /// Bytes appended since the last checkpoint was begun.
    pub(super) bytes_since_checkpoint: u64,
    /// A truncation or reset that is not complete: nothing else happens until it is.
    pub(super) is_truncating: bool,
    /// A deletion that failed.
    pub(super) undeleted: Option<Box<Delete>>,
    /// The disk was full when last tried; when to try again.
    pub(super) storage_full_until: Option<Timestamp>,
    /// The time as last heard.
    pub(super) now: Timestamp,
}

/// A batch that was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Offset of its first record.
    pub base_offset: Offset,
    /// The log end offset now.
    pub log_end_offset: Offset,
}

// === impl Log ===

impl Log {
    /// Appends a batch that was stamped with the log end offset and an epoch not older than the
    /// last one. Never blocks. On error nothing of it is in the log.
    ///
    /// The batch is readable at once by whoever may read up to the log end offset; it is durable
    /// once the flushed end reaches [`Appended::log_end_offset`]. Whether its producer may append it
    /// was asked of [`Log::check_producer`] before, under the same lock.
    pub fn append(
        &mut self,
        batch: &StampedBatch,
        now: Timestamp,
    ) -> Result<Appended, AppendError> {
        self.status.now = now;
        let log_end = self.log_end_offset();
        self.check_append(batch, log_end)?;
        let header = batch.header();
        let next = batch.next_offset();
        let frame_bytes = (FRAME_HEADER_BYTES + batch.total_bytes()) as u64;
        let active = match &mut self.active {
            Active::Vacant => return Err(self.not_ready(Need::Roll, now)),
            Active::Closed => return Err(self.not_ready(Need::Reopen, now)),
            Active::Open(active) => active,
        };
        if self.status.need == Some(Need::Roll)
            || active.is_full_for(frame_bytes, batch.last_offset(), log_end, now, &self.config)
        {
            return Err(self.not_ready(Need::Roll, now));
        }
        let parts = batch.parts();
        let frame = active.open.codec.header(parts);
        let position = match active.open.file.append(&[&frame, parts[0], parts[1]]) {
            Ok(position) => position,
            Err(error) => return Err(self.append_failed(error, now)),
        };
        let (segment, open) = (&active.segment, &active.open);
        active.index.note(segment, open, log_end, position, batch.total_bytes());
        segment.note_timestamp(header.max_timestamp, log_end);
        active.first_append.get_or_insert(now);
        active.last_append = now;
        self.writing.note(frame_bytes);
        if self.status.need == Some(Need::Release) {
            self.status.need = None;
        }
        if self.status.need.is_none() && active.is_window_due(&self.config) {
            let needed = open.file.window() + 1;
            self.status.need = Some(Need::Window { needed });
        }
        if let Some(epoch) = LeaderEpoch::new(header.leader_epoch) {
            self.epochs.note(epoch, log_end);
        }
        replay::follow(&mut self.producers, header, log_end, now);
        self.status.bytes_since_checkpoint += frame_bytes;
        if self.status.bytes_since_checkpoint >= self.config.checkpoint_bytes {
            self.status.is_checkpoint_due = true;
        }
        // Last: who sees the new end sees everything above.
        self.shared.set_log_end(next);
        let counters = &self.shared.env.counters;
        counters.batches_appended.add(1);
        counters.bytes_appended.add(batch.total_bytes() as u64);
        Ok(Appended { base_offset: log_end, log_end_offset: next })
    }

    /// How long the last append took, by its caller's clock. One that made the caller wait should not
    /// have: room for those to come is made ready otherwise for a while.
    pub fn note_took(&mut self, took: Duration) {
        self.writing.note_took(took, self.status.now);
    }

    /// What a batch would be to this log if it were appended now; `None`: the log is being cut, ask
    /// again when it is ready for appends.
    ///
    /// Until a cut is complete the producers' state is that of the log before it. A leader that
    /// answered by it would call a batch a duplicate that it has just cut off, and that no log has any
    /// more: an acknowledged record would be lost.
    pub fn check_producer(
        &self,
        stamp: ProducerStamp,
        last_offset_delta: i32,
        now: Timestamp,
    ) -> Option<ProducerCheck> {
        (!self.status.is_truncating).then(|| self.producers.check(stamp, last_offset_delta, now))
    }

    /// Notes that a leader epoch begins at the log end: a leader does this when it takes over,
    /// before it has written anything.
    pub fn note_epoch(&mut self, epoch: LeaderEpoch) {
        let log_end = self.log_end_offset();
        self.epochs.note(epoch, log_end);
    }

    /// Forgets an epoch that was noted and in which nothing was written: its leader leads no more,
    /// and what it is sent next may be of an older epoch.
    pub fn forget_unwritten_epoch(&mut self) {
        let log_end = self.log_end_offset();
        self.epochs.truncate(log_end);
    }

    /// Notes the high watermark, for checkpoints: after a restart it is a lower bound.
    pub fn note_high_watermark(&mut self, offset: Offset) {
        self.high_watermark = offset.min(self.log_end_offset());
    }

    /// Asks for a checkpoint with the next [`Log::take_work`], unless nothing has changed: so that
    /// little has to be read after a kill. For whoever bounds that over a directory.
    pub fn request_checkpoint(&mut self) {
        if self.recovery_point.offset < self.log_end_offset() {
            self.status.is_checkpoint_due = true;
        }
    }

    /// To be called every few seconds: tries a full disk again, gives back what an idle partition
    /// holds. Work may be due afterwards.
    pub fn tick(&mut self, now: Timestamp) {
        self.status.now = now;
        self.forget_storage_full(now);
        if let Active::Open(active) = &self.active
            && self.status.need.is_none()
            && active.is_idle(now, &self.config)
        {
            self.status.need = Some(Need::Release);
        }
    }

    /// Forgets producers that wrote nothing for `producer.id.expiration.ms`. Apart from
    /// [`Log::tick`], for those who do not trust their clock.
    pub fn expire_producers(&mut self, now: Timestamp) {
        let expired = self.producers.expire(now);
        self.shared.env.counters.producers_expired.add(expired as u64);
    }

    /// Takes new settings; what they say of segments counts from the next roll on.
    pub fn reconfigure(&mut self, config: LogConfig) {
        self.config = config.bounded();
        self.producers.set_limits(self.config.producer_limits());
        self.shared.set_index_interval_bytes(self.config.index_interval_bytes);
    }

    /// How far the log start offset should advance by this rule; nothing above the high watermark
    /// goes. Changes nothing.
    pub fn retention_due(
        &self,
        now: Timestamp,
        policy: &RetentionPolicy,
        high_watermark: Offset,
    ) -> Option<Offset> {
        if self.status.is_truncating || self.damage.is_some() {
            return None;
        }
        let list = self.shared.segments.load();
        let facts: Vec<_> = list
            .as_slice()
            .iter()
            .enumerate()
            .map(|(at, segment)| {
                let end = list.next_base(at).unwrap_or_else(|| self.log_end_offset());
                SegmentFacts {
                    end,
                    bytes: segment.size_bytes(),
                    max_timestamp: segment.max_timestamp(),
                    is_empty: end == segment.base(),
                }
            })
            .collect();
        // A segment that a truncation left wholly below the log start goes with the next one.
        retention::due(&facts, high_watermark, now, policy)
            .filter(|due| *due > self.log_start_offset())
    }

    // --- queries ---

    /// A reader of this log.
    pub fn reader(&self) -> LogReader {
        LogReader { shared: self.shared.clone() }
    }

    /// First offset that may be read.
    pub fn log_start_offset(&self) -> Offset {
        self.shared.log_start()
    }

    /// First offset that is not written yet.
    pub fn log_end_offset(&self) -> Offset {
        self.shared.log_end()
    }

    /// First offset that is not known to be on the disk.
    pub fn flushed_end_offset(&self) -> Offset {
        self.flush.flushed_end()
    }

    /// What lies below is not read again after a crash.
    pub fn recovery_point(&self) -> Offset {
        self.recovery_point.offset
    }

    /// Bytes a restart after a kill would have to read, about.
    pub fn bytes_above_recovery_point(&self) -> u64 {
        self.status.bytes_since_checkpoint
    }

    /// The high watermark as last noted, or as of the last checkpoint before the log was opened.
    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// Which leader wrote what.
    pub fn leader_epochs(&self) -> &LeaderEpochs {
        &self.epochs
    }

    /// Epoch of the last batch; `None` if the log is empty.
    pub fn last_epoch(&self) -> Option<LeaderEpoch> {
        let last = Offset::new(self.log_end_offset().get() - 1)?;
        (last >= self.log_start_offset()).then(|| self.epochs.epoch_of(last)).flatten()
    }

    /// Where the batches of `epoch` end, as `LeaderEpochs::end_of`.
    pub fn end_offset_for(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        self.epochs.end_offset_for(epoch, self.log_end_offset())
    }

    /// Idempotent producers.
    pub fn producers(&self) -> &ProducerStates {
        &self.producers
    }

    /// Damage that was found when the log was opened: it takes no appends until it is truncated.
    pub fn damage(&self) -> Option<&Damage> {
        self.damage.as_ref()
    }

    /// Bytes in its segments.
    pub fn size_bytes(&self) -> u64 {
        self.shared.segments.load().size_bytes()
    }

    /// How many segments it has.
    pub fn segment_count(&self) -> usize {
        self.shared.segments.load().len()
    }

    /// Which partition it is of.
    pub fn partition(&self) -> TopicPartition {
        self.shared.partition
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.shared.dir
    }

    /// Its settings.
    pub const fn config(&self) -> &LogConfig {
        &self.config
    }

    // --- helpers of append ---

    fn check_append(&self, batch: &StampedBatch, log_end: Offset) -> Result<(), AppendError> {
        self.shared.env.failure.check()?;
        if let Some(damage) = &self.damage {
            return Err(AppendError::Damaged(damage.clone()));
        }
        if self.status.is_truncating {
            return Err(AppendError::NotReady);
        }
        let header = batch.header();
        if header.base_offset != log_end.get() {
            return Err(AppendError::WrongOffset { log_end, found: header.base_offset });
        }
        let latest = self.epochs.latest().map_or(0, LeaderEpoch::get);
        if header.leader_epoch < latest {
            return Err(AppendError::StaleEpoch { latest, found: header.leader_epoch });
        }
        let (bytes, max) = (batch.total_bytes(), BATCH_BYTES_MAX as usize);
        if bytes > max {
            return Err(AppendError::TooLarge { bytes, max });
        }
        Ok(())
    }

    /// Notes what is needed; the answer to the append that met it.
    fn not_ready(&mut self, need: Need, now: Timestamp) -> AppendError {
        self.forget_storage_full(now);
        if self.status.storage_full_until.is_some() {
            return AppendError::StorageFull;
        }
        self.shared.env.counters.appends_not_ready.add(1);
        // What an append waits for comes before what would only be nice to have.
        self.status.need = Some(match (need, self.status.need) {
            (Need::Window { needed }, Some(Need::Window { needed: known })) => {
                Need::Window { needed: needed.max(known) }
            }
            _ => need,
        });
        AppendError::NotReady
    }

    fn append_failed(&mut self, error: io::AppendError, now: Timestamp) -> AppendError {
        let error = match error {
            io::AppendError::WindowFull { needed } => {
                return self.not_ready(Need::Window { needed }, now);
            }
            io::AppendError::Sealed => return self.broken(now),
            io::AppendError::Io(error) => error,
        };
        let path = self.shared.segment_path(
            self.shared
                .segments
                .load()
                .last()
                .map_or_else(|| self.log_end_offset(), |last| last.base()),
        );
        // What lies behind the published end is unknown now: the next append begins a new segment.
        let full = self.shared.failed("appending to", &path, error).is_storage_full();
        let answer = self.broken(now);
        match self.shared.env.failure.check() {
            Err(failed) => failed.into(),
            Ok(()) if full => {
                self.note_storage_full();
                AppendError::StorageFull
            }
            Ok(()) => answer,
        }
    }

    fn broken(&mut self, now: Timestamp) -> AppendError {
        if let Active::Open(active) = &mut self.active {
            active.is_broken = true;
        }
        self.not_ready(Need::Roll, now)
    }

    /// The disk was found full: leave it alone for a moment.
    pub(super) fn note_storage_full(&mut self) {
        self.shared.env.counters.storage_full.add(1);
        self.status.storage_full_until = Some(self.status.now.saturating_add(STORAGE_RETRY));
    }

    /// A full disk is tried again when the moment has passed, or when the wall clock says that it has
    /// not come yet: then the clock was set back, and would keep the log from writing for as long as
    /// it was set back by.
    fn forget_storage_full(&mut self, now: Timestamp) {
        let waits = |until: Timestamp| now < until && now >= until.saturating_sub(STORAGE_RETRY);
        self.status.storage_full_until = self.status.storage_full_until.filter(|u| waits(*u));
    }

    /// The end of the log by offset and position.
    pub(super) fn end_point(&self) -> LogPoint {
        let offset = self.log_end_offset();
        let list = self.shared.segments.load();
        match (&self.active, list.last()) {
            (Active::Open(OpenActive { segment, open, .. }), _) => {
                LogPoint { offset, segment: segment.base(), position: open.file.published() }
            }
            (_, Some(last)) => LogPoint {
                offset,
                segment: last.base(),
                position: last.end().map_or(SEGMENT_HEADER_BYTES as u64, |end| end.position),
            },
            (_, None) => LogPoint::start_of_segment(offset),
        }
    }
}
