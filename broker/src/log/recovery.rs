//! Opening a log after any kind of stop.
//!
//! Below the recovery point everything is on the disk, or the disk has lost it: what is not as it
//! should be there is **damage**, reported, kept as it is, never served and never cut. Above it
//! nothing was promised: frames are taken as far as they are whole, in order and of this
//! incarnation of their segment, and what follows is a **torn tail**, cut and reported. Indexes and
//! producer state are made again where their files do not belong to what is found.
//!
//! What was found above the recovery point is synced before it is served: page cache that survived a
//! killed process has not survived the next power loss. The last segment is sealed at its valid
//! end, and the next append begins a new one, so that nothing behind that end ever matters again.
//!
//! A clean stop leaves the recovery point at the end of the log, and a last segment whose file ends
//! there, too: then there is nothing to read, and the segment is appended to again. Whoever opens
//! says whether the stop was clean; the files have the last word.

use std::{path::PathBuf, sync::Arc};

use riverrun_proto::{
    epoch::LeaderEpoch, ids::TopicPartition, offset::Offset, timestamp::Timestamp,
};

use super::{
    active::Active,
    checkpoint::{Checkpoint, CutMark},
    checkpointing,
    config::LogConfig,
    env::LogEnv,
    envelope::FormatError,
    error::{Damage, LogError},
    flush::{self, FlushState},
    inventory::Inventory,
    layout::{CHECKPOINT_FILE, LEADER_EPOCHS_FILE, META_FILE},
    leader_epochs::LeaderEpochs,
    partition_log::{Log, Status},
    partition_meta::PartitionMeta,
    recovery_scan::{Scan, Scanned},
    replay,
    segment::{OpenSegment, Segment},
    segment_list::SegmentList,
    shared::Shared,
    work::DiskSide,
    writing::Writing,
};
use crate::io::{SyncPoint, dir};

/// Small files have a bound; the greatest is a history of leader epochs.
const SMALL_FILE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What opening a log found and did; for the operator's log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Nothing had to be read, and the last segment is appended to again.
    pub was_clean: bool,
    /// Bytes of frames read above the recovery point.
    pub scanned_bytes: u64,
    /// A torn tail that was cut.
    pub cut: Option<Cut>,
    /// Segments behind the cut that were removed, by base offset.
    pub removed_segments: Vec<Offset>,
    /// Segments whose indexes were made again, by base offset.
    pub rebuilt_indexes: Vec<Offset>,
    /// Damage below the recovery point. The log takes no appends until it is truncated.
    pub damage: Option<Damage>,
    /// The checkpoint was missing or broken: everything was read.
    pub checkpoint_lost: bool,
    /// The history of leader epochs was missing or broken, and derived anew.
    pub epochs_lost: bool,
    /// Headers were replayed from here for the producers' state.
    pub producers_replayed_from: Offset,
    /// Files that are not ours, left alone.
    pub unknown_files: Vec<String>,
    /// First offset that may be read.
    pub log_start: Offset,
    /// First offset that is not written yet.
    pub log_end: Offset,
}

/// Where a torn tail was cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// The log ends here now.
    pub offset: Offset,
    /// In the segment with this base offset.
    pub segment: Offset,
    /// At this position.
    pub position: u64,
    /// What is there instead of a frame.
    pub what: String,
}

// === impl Log ===

impl Log {
    /// Makes the log of a new partition; `dir`'s parent exists. Blocks. A directory that a crash
    /// left half-made is taken over. Durable when it returns.
    pub fn create(
        env: LogEnv,
        dir: PathBuf,
        meta: &PartitionMeta,
        config: LogConfig,
    ) -> Result<Self, LogError> {
        env.failure.check()?;
        let disk = env.disk.clone();
        let (begin, partition) = (Checkpoint::empty_at(Offset::ZERO), meta.partition);
        let config = config.bounded();
        let shared = Shared::new(
            env,
            dir,
            partition,
            SegmentList::default(),
            (Offset::ZERO, Offset::ZERO),
            config.index_interval_bytes,
        );
        let dir = &shared.dir;
        disk.create_dir(dir).map_err(|error| shared.failed("making", dir, error))?;
        let found = Inventory::of(disk.as_ref(), dir)?;
        if found.has_meta || !found.segments.is_empty() {
            return Err(LogError::Io {
                what: "making",
                path: dir.clone(),
                source: std::io::ErrorKind::AlreadyExists.into(),
            });
        }
        for (name, bytes, point) in [
            (CHECKPOINT_FILE, begin.encode(), SyncPoint::Checkpoint),
            (META_FILE, meta.encode(), SyncPoint::PartitionMeta),
        ] {
            let path = dir.join(name);
            dir::replace(disk.as_ref(), &path, &bytes, point)
                .map_err(|error| shared.failed("writing", &path, error))?;
        }
        flush::sync_dir(&shared, SyncPoint::PartitionMetaDir)?;
        if let Some(parent) = dir.parent() {
            let synced = disk.sync_dir(parent, SyncPoint::PartitionDir);
            shared
                .env
                .failure
                .of_sync(&parent.display().to_string(), synced)
                .map_err(|error| LogError::io("syncing directory", parent, error))?;
        }
        let states = super::producer_state::ProducerStates::new(config.producer_limits());
        Ok(Self {
            shared: Arc::new(shared),
            recovery_point: begin.recovery_point,
            side: Arc::new(DiskSide::new(begin)),
            config,
            epochs: LeaderEpochs::default(),
            producers: states,
            active: Active::Vacant,
            flush: FlushState::new(Offset::ZERO),
            high_watermark: Offset::ZERO,
            damage: None,
            writing: Writing::new(),
            status: Status::default(),
        })
    }

    /// Opens the log of a partition. Blocks: O(1) per segment, and O(bytes above the recovery
    /// point); O(segment) more for each segment whose index has to be made again. `clean`: the last
    /// process that had it open closed it.
    pub fn open(
        env: LogEnv,
        dir: PathBuf,
        config: LogConfig,
        clean: bool,
        now: Timestamp,
    ) -> Result<(Self, RecoveryReport), LogError> {
        env.failure.check()?;
        let config = config.bounded();
        let mut report = RecoveryReport::default();
        let disk = env.disk.clone();
        let mut found = Inventory::of(disk.as_ref(), &dir)?;
        report.unknown_files = std::mem::take(&mut found.unknown);
        let partition = read_meta(&env, &dir, &found)?;
        let (checkpoint, lost) = read_checkpoint(&env, &dir, &found)?;
        report.checkpoint_lost = lost;

        let bounds = (checkpoint.log_start, checkpoint.log_start);
        let interval = config.index_interval_bytes;
        let shared = Shared::new(env, dir, partition, SegmentList::default(), bounds, interval);
        let scanned = Scan { shared: &shared, checkpoint: checkpoint.clone(), clean, lost }
            .run(found, &mut report)?;
        let (touched, is_changed) = (scanned.touched.clone(), scanned.is_changed);
        let mut log = Self::from_scan(shared, checkpoint, scanned, config, now, &mut report)?;
        if !report.was_clean {
            log.keep(&touched, is_changed, report.cut.as_ref())?;
        }
        report.log_start = log.log_start_offset();
        report.log_end = log.log_end_offset();
        report.damage.clone_from(&log.damage);
        Ok((log, report))
    }

    /// Epochs and producers, and all put together.
    fn from_scan(
        shared: Shared,
        checkpoint: Checkpoint,
        scanned: Scanned,
        config: LogConfig,
        now: Timestamp,
        report: &mut RecoveryReport,
    ) -> Result<Self, LogError> {
        let Scanned { list, log_start, log_end, recovery_point, reopen, damage, .. } = scanned;
        shared.set_log_end(log_end);
        shared.set_log_start(log_start);
        shared.set_segments(list.clone());

        let point = recovery_point.offset.min(log_end);
        let epochs = read_epochs(&shared, point, checkpoint.life)?;
        let is_covered = |epochs: &LeaderEpochs| epochs.epoch_of(log_start).is_some();
        report.epochs_lost = point > log_start && !epochs.as_ref().is_some_and(is_covered);
        let epochs_from = if report.epochs_lost { log_start } else { point.max(log_start) };
        let mut epochs = epochs.filter(|_| !report.epochs_lost).unwrap_or_default();
        let mut producers =
            replay::load_snapshot(&shared, point, checkpoint.life, config.producer_limits())?;
        let producers_from = producers.as_of.unwrap_or(Offset::ZERO);
        report.producers_replayed_from = producers_from;

        let from = epochs_from.min(producers_from);
        replay::frames(&shared, &list, from, log_end, |frame| {
            if frame.next > epochs_from
                && let Some(epoch) = LeaderEpoch::new(frame.header.leader_epoch)
            {
                epochs.note(epoch, frame.base);
            }
            if frame.next > producers_from {
                replay::follow(&mut producers.states, &frame.header, frame.base, now);
            }
        })?;
        epochs.truncate(log_end);
        epochs.advance_start(log_start);
        producers.states.expire(now);
        Ok(Self {
            active: if reopen { Active::Closed } else { Active::Vacant },
            shared: Arc::new(shared),
            high_watermark: checkpoint.high_watermark.clamp(log_start, log_end),
            side: Arc::new(DiskSide::new(checkpoint)),
            config,
            epochs,
            producers: producers.states,
            flush: FlushState::new(log_end),
            recovery_point,
            damage,
            writing: Writing::new(),
            status: Status { now, ..Status::default() },
        })
    }

    /// Makes durable what recovery keeps, and moves the recovery point to the end of it.
    fn keep(
        &mut self,
        touched: &[(Arc<Segment>, Arc<OpenSegment>)],
        is_changed: bool,
        torn: Option<&Cut>,
    ) -> Result<(), LogError> {
        let shared = self.shared.clone();
        for (_, open) in touched {
            flush::sync_segment(&shared, open, SyncPoint::SegmentRecovered)?;
        }
        // Also if nothing was changed here: the names that were found, of the checkpoint for one, may
        // be in memory only. On a directory that is durable already this costs next to nothing.
        flush::sync_dir(&shared, SyncPoint::RecoveredDir)?;
        if !is_changed || self.damage.is_some() {
            // All of it lies below the recovery point already; or the small files stay as they
            // were found, so that the next open finds the same damage.
            return Ok(());
        }
        for (segment, open) in touched {
            let end = segment.end().expect("everything is sealed after a recovery");
            let head = segment.head(open.salt, end);
            super::index_files::write(shared.env.disk.as_ref(), &shared.dir, &head, open)?;
        }
        let point = self.end_point();
        let mut on_disk = self.side.checkpoint.lock();
        let life = on_disk.life;
        let mut cuts = on_disk.cuts.clone();
        // So that the next open knows that what lies behind the end was looked at.
        let torn = |segment: &Segment| torn.is_some_and(|torn| torn.segment == segment.base());
        if let Some((segment, open)) = touched.iter().find(|(segment, _)| torn(segment)) {
            cuts.retain(|cut| cut.segment != segment.base());
            cuts.push(CutMark { segment: segment.base(), salt: open.salt, end: point.offset });
        }
        checkpointing::write_states(&shared, point.offset, life, &self.producers, &self.epochs)?;
        flush::sync_dir(&shared, SyncPoint::RecoveryFilesDir)?;
        let next = Checkpoint {
            recovery_point: point,
            log_start: self.log_start_offset(),
            high_watermark: self.high_watermark,
            life,
            cuts,
        };
        checkpointing::write_checkpoint(&shared, &mut on_disk, next)?;
        drop(on_disk);
        self.recovery_point = point;
        Ok(())
    }
}

fn read_meta(
    env: &LogEnv,
    dir: &std::path::Path,
    found: &Inventory,
) -> Result<TopicPartition, LogError> {
    let path = dir.join(META_FILE);
    let no_meta =
        || LogError::NoMeta { dir: dir.to_owned(), has_segments: !found.segments.is_empty() };
    if !found.has_meta {
        return Err(no_meta());
    }
    let bytes = dir::read_small(env.disk.as_ref(), &path, SMALL_FILE_BYTES_MAX)
        .map_err(|error| LogError::io("reading", &path, error))?
        .ok_or_else(no_meta)?;
    let meta = PartitionMeta::decode(&bytes).map_err(|source| LogError::Format { path, source })?;
    let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match name.parse::<TopicPartition>() {
        Ok(named) if named != meta.partition => {
            Err(LogError::WrongPartition { dir: dir.to_owned(), found: meta.partition })
        }
        _ => Ok(meta.partition),
    }
}

/// The checkpoint, and whether it had to be made up. Without one nothing is known to be durable but
/// that the first segment is where the log begins.
fn read_checkpoint(
    env: &LogEnv,
    dir: &std::path::Path,
    found: &Inventory,
) -> Result<(Checkpoint, bool), LogError> {
    let path = dir.join(CHECKPOINT_FILE);
    let first = found.segments.first().map_or(Offset::ZERO, |(base, _)| *base);
    let made_up = Ok((Checkpoint::empty_at(first), !found.segments.is_empty()));
    let bytes = match dir::read_small(env.disk.as_ref(), &path, SMALL_FILE_BYTES_MAX) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return made_up,
        Err(error) => return Err(LogError::io("reading", &path, error)),
    };
    match Checkpoint::decode(&bytes) {
        Ok(checkpoint) => Ok((checkpoint, false)),
        Err(FormatError::Broken(_)) => made_up,
        Err(source) => Err(LogError::Format { path, source }),
    }
}

/// Leader epochs below the recovery point; those above it are derived from what is found there.
fn read_epochs(
    shared: &Shared,
    point: Offset,
    life: u32,
) -> Result<Option<LeaderEpochs>, LogError> {
    let path = shared.dir.join(LEADER_EPOCHS_FILE);
    let bytes = dir::read_small(shared.env.disk.as_ref(), &path, SMALL_FILE_BYTES_MAX)
        .map_err(|error| LogError::io("reading", &path, error))?;
    match bytes.as_deref().map(|bytes| LeaderEpochs::decode(bytes, life)) {
        None | Some(Err(FormatError::Broken(_))) => Ok(None),
        Some(Err(source)) => Err(LogError::Format { path, source }),
        Some(Ok(mut epochs)) => {
            epochs.truncate(point);
            Ok(Some(epochs))
        }
    }
}
