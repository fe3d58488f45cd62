//! Making slow work for a log, and taking its results in.

use std::sync::Arc;

use riverrun_proto::offset::Offset;

use super::{
    active::{Active, Need, OpenActive},
    checkpoint::LogPoint,
    checkpointing::{Checkpointed, Checkpointing},
    deletion::Delete,
    error::LogError,
    flush::SealedSegment,
    partition_log::Log,
    producer_state::ProducerStates,
    readying::{Readied, Ready},
    segment::{OpenSegment, Segment, SegmentEnd},
    segment_list::SegmentList,
    truncation::{Reset, Truncate, Truncated},
    work::{Completed, Kind, LogWork, LogWorkDone, Outcome, Voided},
};

// === making work ===

impl Log {
    /// Work that is due and not under way; to be asked after every append and every completion,
    /// until it is `None`. Appends that were answered [`super::AppendError::NotReady`] wait for it.
    pub fn take_work(&mut self) -> Option<LogWork> {
        if self.status.is_truncating || self.shared.env.failure.is_failed() {
            return None;
        }
        if self.status.storage_full_until.is_none()
            && let Some(delete) = self.status.undeleted.take()
        {
            return Some(self.delete_again(delete));
        }
        if !self.status.is_readying
            && self.status.storage_full_until.is_none()
            && let Some(ready) = self.ready_work()
        {
            self.status.is_readying = true;
            return Some(self.work(Kind::Ready(ready)));
        }
        if self.status.is_checkpoint_due
            && !self.status.is_checkpointing
            && self.status.storage_full_until.is_none()
            && self.damage.is_none()
        {
            self.status.is_checkpoint_due = false;
            self.status.is_checkpointing = true;
            self.status.bytes_since_checkpoint = 0;
            let checkpointing = self.checkpointing(false);
            return Some(self.work(Kind::Checkpoint(Box::new(checkpointing))));
        }
        None
    }

    /// Group commit: makes everything appended until now durable. `None` if there is nothing to do,
    /// or one is under way: ask again when that is complete.
    pub fn start_flush(&mut self) -> Option<LogWork> {
        if self.status.is_truncating || self.shared.env.failure.is_failed() {
            return None;
        }
        let active = match &self.active {
            Active::Open(active) => Some(&active.open),
            Active::Vacant | Active::Closed => None,
        };
        let flush = self.flush.start(self.shared.log_end(), active)?;
        Some(self.work(Kind::Flush(flush)))
    }

    /// Cuts off everything from `to` on, or from the beginning of the batch that holds `to`. The log
    /// end offset moves at once; nothing can be appended until the work is complete. All work begun
    /// before is void (but still has to be completed). If the work fails the log stays as it is in
    /// memory, cut; start again.
    ///
    /// A damaged log is mended by truncating it to the damaged offset or below.
    pub fn start_truncate(&mut self, to: Offset) -> LogWork {
        if to < self.log_start_offset() {
            return self.start_reset(to);
        }
        let to = to.min(self.log_end_offset());
        self.begin_truncation();
        self.shared.set_log_end(to);
        self.high_watermark = self.high_watermark.min(to);
        self.epochs.truncate(to);
        self.work(Kind::Truncate(Box::new(Truncate {
            to,
            list: self.shared.segments.load_full(),
            unsynced: self.flush.unsynced(),
            ahead: self.config.window_min,
            mode: self.config.write_mode,
            limits: self.config.producer_limits(),
            now: self.status.now,
        })))
    }

    /// Empties the log and lets it begin at `to`: for a replica whose log ends before its leader's
    /// begins. As [`Log::start_truncate`] otherwise.
    pub fn start_reset(&mut self, to: Offset) -> LogWork {
        self.begin_truncation();
        self.side.note_reset();
        self.shared.set_segments(SegmentList::default());
        // In the order in which a reader looks: it never sees a start beyond the end for long.
        if to < self.log_start_offset() {
            self.shared.set_log_start(to);
            self.shared.set_log_end(to);
        } else {
            self.shared.set_log_end(to);
            self.shared.set_log_start(to);
        }
        self.high_watermark = to;
        self.epochs.truncate(Offset::ZERO);
        self.producers = ProducerStates::new(self.config.producer_limits());
        self.work(Kind::Reset(Reset { to }))
    }

    /// Moves the log start offset forward, to at most the log end; readers see it at once. The work
    /// makes it durable and deletes the segments below. `None` if that changes nothing, or if an
    /// earlier one failed and is tried again first ([`Log::take_work`]).
    ///
    /// If the log becomes empty, its active segment goes, too.
    pub fn advance_log_start(&mut self, to: Offset) -> Option<LogWork> {
        let log_end = self.log_end_offset();
        let to = to.min(log_end);
        if to <= self.log_start_offset()
            || self.status.is_truncating
            || self.status.undeleted.is_some()
        {
            return None;
        }
        // As things stand before anything of them is deleted.
        let checkpoint_first = (to > self.recovery_point.offset && self.damage.is_none())
            .then(|| Box::new(self.checkpointing(false)));
        self.shared.set_log_start(to);
        self.epochs.advance_start(to);
        self.high_watermark = self.high_watermark.max(to);
        let list = self.shared.segments.load_full();
        let all = to == log_end && !self.status.is_readying;
        let dead = list
            .as_slice()
            .iter()
            .enumerate()
            .take_while(|&(at, _)| match list.next_base(at) {
                Some(next) => next <= to,
                // The last one, if it has anything that could be deleted.
                None => all && list.as_slice()[at].base() < to,
            })
            .count();
        let segments: Vec<_> =
            list.as_slice()[..dead].iter().map(|segment| segment.base()).collect();
        let empty_at = (dead == list.len()).then_some(log_end);
        if empty_at.is_some() {
            self.vacate();
            self.flush.truncate(log_end, None);
            self.recovery_point = LogPoint::start_of_segment(log_end);
        }
        self.shared.set_segments(list.without_first(dead));
        self.flush.sealed.retain(|sealed| sealed.end.offset > to);
        let resets = self.side.resets();
        Some(self.work(Kind::Delete(Box::new(Delete {
            log_start: to,
            checkpoint_first,
            list,
            segments,
            empty_at,
            resets,
            limits: self.config.producer_limits(),
            now: self.status.now,
        }))))
    }

    /// The same again, with a checkpoint of the log as it is now: its start has moved already.
    fn delete_again(&self, mut delete: Box<Delete>) -> LogWork {
        delete.checkpoint_first =
            self.damage.is_none().then(|| Box::new(self.checkpointing(false)));
        self.work(Kind::Delete(delete))
    }

    /// The last work of this log: makes everything durable, so that the next open reads nothing.
    /// Nothing else may be under way. Readers live on.
    pub fn start_close(&mut self) -> LogWork {
        self.flush.finish();
        if self.damage.is_some() || self.status.is_truncating {
            // What memory says is not what the files are; the next open looks again.
            return self.work(Kind::Nothing);
        }
        let checkpointing = self.checkpointing(true);
        self.work(Kind::Checkpoint(Box::new(checkpointing)))
    }

    fn work(&self, kind: Kind) -> LogWork {
        LogWork {
            shared: self.shared.clone(),
            side: self.side.clone(),
            generation: self.side.generation(),
            kind,
        }
    }

    fn ready_work(&mut self) -> Option<Ready> {
        let need = self.status.need?;
        let mode = self.writing.next(self.config.write_mode, self.status.now);
        let ahead = self.config.window_min;
        let base = self.log_end_offset();
        let ready = match (need, &mut self.active) {
            (Need::Roll, _) | (_, Active::Vacant) => Ready::Create { base, ahead, mode },
            (_, Active::Closed) => {
                let segment = self.shared.segments.load().last()?.clone();
                Ready::Reopen { segment, ahead, mode }
            }
            (Need::Window { needed }, Active::Open(active)) => {
                let to = active.next_window(needed, self.status.now, &self.config);
                Ready::Extend { open: active.open.clone(), to, mode }
            }
            (Need::Release, Active::Open(active)) => {
                active.grant.resize(0);
                Ready::Release { open: active.open.clone() }
            }
            (Need::Reopen, Active::Open(_)) => {
                self.status.need = None;
                return None;
            }
        };
        Some(ready)
    }

    fn checkpointing(&self, is_last: bool) -> Checkpointing {
        let point = self.end_point();
        let end = SegmentEnd { offset: point.offset, position: point.position };
        let active = match &self.active {
            Active::Open(OpenActive { segment, open, .. }) => {
                Some((segment.head(open.salt, end), open.clone()))
            }
            Active::Vacant | Active::Closed => None,
        };
        Checkpointing {
            point,
            high_watermark: self.high_watermark,
            sealed: self.flush.sealed.clone(),
            active,
            epochs: self.epochs.clone(),
            producers: self.producers.clone(),
            flushed: self.flush.would_flush(point.offset),
            is_last,
        }
    }

    fn begin_truncation(&mut self) {
        self.side.next_generation();
        self.status.is_truncating = true;
        self.status.need = None;
        self.status.is_checkpoint_due = false;
    }

    /// The active segment is no more, or sealed: the next append begins a new one.
    fn vacate(&mut self) {
        self.active = Active::Vacant;
        self.status.need = None;
    }
}

// === taking results in ===

impl Log {
    /// Takes in what a work did. An error is for the operator's log and for whoever waits: after a
    /// failed sync the whole directory has failed, after a full disk the log goes on by itself.
    pub fn complete(&mut self, done: LogWorkDone) -> Result<Completed, LogError> {
        let is_void = done.generation != self.side.generation();
        let result = match done.outcome {
            Outcome::Void(voided) => {
                match voided {
                    Voided::Ready => self.status.is_readying = false,
                    Voided::Checkpoint => self.status.is_checkpointing = false,
                    Voided::Other => {}
                }
                Ok(Completed::default())
            }
            Outcome::Ready(result) => {
                self.status.is_readying = false;
                match result {
                    // What it made was removed by the truncation, or was cut.
                    _ if is_void => Ok(Completed::default()),
                    Ok(readied) => Ok(self.readied(readied)),
                    Err(error) => Err(error),
                }
            }
            Outcome::Flush(result) => {
                self.flush.finish();
                result.map(|flushed| Completed {
                    flushed_end: if is_void { None } else { self.flush.note(flushed) },
                    ..Completed::default()
                })
            }
            Outcome::Checkpoint(result) => {
                self.status.is_checkpointing = false;
                self.status.is_checkpoint_due |=
                    result.as_ref().is_err_and(LogError::is_storage_full) && !is_void;
                result.map(|done| if is_void { Completed::default() } else { self.saved(done) })
            }
            Outcome::Truncate(result) if is_void => result.map(|_| Completed::default()),
            Outcome::Truncate(result) => result.map(|truncated| self.truncated(*truncated)),
            Outcome::Reset(result) if is_void => result.map(|_| Completed::default()),
            Outcome::Reset(result) => result.map(|to| self.reset(to)),
            Outcome::Delete(Ok(deleted)) => Ok(Completed {
                log_start: Some(deleted.log_start),
                ..match deleted.checkpointed {
                    Some(done) if !is_void => self.saved(done),
                    _ => Completed::default(),
                }
            }),
            Outcome::Delete(Err((error, delete))) => {
                self.status.undeleted = Some(delete);
                Err(error)
            }
        };
        if let Err(error) = &result {
            if error.is_storage_full() {
                self.note_storage_full();
            } else {
                self.shared.env.counters.work_failed.add(1);
            }
        }
        result
    }

    fn readied(&mut self, readied: Readied) -> Completed {
        self.status.storage_full_until = None;
        self.status.need = None;
        match readied {
            Readied::Created { base, open } => self.rolled(base, open),
            Readied::Reopened { open } => self.reopened(open),
            Readied::Released => return Completed::default(),
            Readied::Extended => {}
        }
        Completed { appendable: true, ..Completed::default() }
    }

    /// The active segment, if there is one, is sealed, and the new one takes appends.
    fn rolled(&mut self, base: Offset, open: Arc<OpenSegment>) {
        debug_assert_eq!(base, self.log_end_offset(), "nothing is appended while a roll is due");
        let end = self.end_point();
        if let Active::Open(active) = &self.active {
            let end = SegmentEnd { offset: end.offset, position: end.position };
            active.segment.seal(end);
            self.flush.sealed.push(SealedSegment {
                segment: active.segment.clone(),
                open: active.open.clone(),
                end,
                is_synced: false,
            });
            self.shared.env.open_segments.admit(&active.segment, active.open.index_bytes());
            self.status.is_checkpoint_due = true;
        }
        self.flush.note_created();
        self.begin_active(Arc::new(Segment::active(base, open.clone())), open);
    }

    fn reopened(&mut self, open: Arc<OpenSegment>) {
        let list = self.shared.segments.load_full();
        let Some(last) = list.last() else { return };
        let segment = Arc::new(Segment::active(last.base(), open.clone()));
        segment.note_timestamp(last.max_timestamp(), last.max_timestamp_at());
        self.shared.set_segments(list.below(last.base()));
        self.begin_active(segment, open);
    }

    fn begin_active(&mut self, segment: Arc<Segment>, open: Arc<OpenSegment>) {
        let list = self.shared.segments.load_full();
        self.shared.set_segments(list.with(segment.clone()));
        let grant = self.shared.env.windows.grant();
        let now = self.status.now;
        self.active = Active::Open(OpenActive::new(segment, open, grant, now, &self.config));
    }

    fn saved(&mut self, done: Checkpointed) -> Completed {
        self.flush.forget_sealed(done.point.offset);
        if done.point.offset >= self.recovery_point.offset {
            self.recovery_point = done.point;
        }
        Completed {
            flushed_end: self.flush.note(done.flushed),
            recovery_point: Some(self.recovery_point.offset),
            log_start: Some(done.log_start),
            ..Completed::default()
        }
    }

    fn truncated(&mut self, truncated: Truncated) -> Completed {
        let Truncated { end, kept, cut, active, producers, recovery_point } = truncated;
        self.vacate();
        self.shared.set_segments(kept);
        self.shared.set_log_start(self.log_start_offset().min(end));
        self.shared.set_log_end(end);
        self.epochs.truncate(end);
        self.high_watermark = self.high_watermark.min(end);
        self.producers = producers;
        self.flush.truncate(end, cut);
        self.flush.note_created();
        self.recovery_point = recovery_point;
        self.begin_active(Arc::new(Segment::active(end, active.clone())), active);
        self.cut_is_over();
        Completed {
            truncated_to: Some(end),
            appendable: true,
            flushed_end: Some(end),
            recovery_point: Some(self.recovery_point.offset),
            ..Completed::default()
        }
    }

    fn reset(&mut self, to: Offset) -> Completed {
        self.vacate();
        self.flush.truncate(to, None);
        self.flush.sealed.clear();
        self.recovery_point = LogPoint::start_of_segment(to);
        self.cut_is_over();
        Completed {
            truncated_to: Some(to),
            log_start: Some(to),
            flushed_end: Some(to),
            recovery_point: Some(to),
            ..Completed::default()
        }
    }

    fn cut_is_over(&mut self) {
        self.status.is_truncating = false;
        self.status.storage_full_until = None;
        self.status.bytes_since_checkpoint = 0;
        if self.damage.as_ref().is_some_and(|damage| self.log_end_offset() <= damage.offset) {
            self.damage = None;
        }
    }
}
