//! Slow work of the log: made under the partition's order, run beside it, taken in when it is over.
//! What `broker/src/partition/{jobs,deletion}.rs` do with threads is done here with virtual time.

use std::collections::BTreeMap;

use riverrun_broker::{
    log::{LogWork, LogWorkDone},
    partition::ProduceError,
    replica::{Durability, Event, Rules},
};
use riverrun_proto::{ids::BrokerId, offset::Offset};

use super::{Around, Shell};
use crate::{controller::broker_id, message::Node, plant::Plant, stage};

/// The slow work of a process. It runs at one moment of the time it takes: at its beginning, so
/// that what it did may be there though nobody was told, or at its end.
#[derive(Debug)]
pub struct Works {
    made: u64,
    under_way: BTreeMap<u64, Piece>,
    /// How long a piece takes, in microseconds.
    pub takes_us: (u64, u64),
}

/// One piece.
#[derive(Debug)]
pub struct Piece {
    /// Of which partition.
    pub partition: usize,
    about: About,
    stands: Stands,
}

#[derive(Debug)]
enum Stands {
    ToRun(LogWork),
    Ran(LogWorkDone),
}

#[derive(Debug, Clone, Copy)]
struct About {
    is_delete: bool,
    is_for_appends: bool,
    /// Where it cuts the log, and whether all goes.
    cut: Option<(Offset, bool)>,
    /// The number of the cut that was begun last.
    cuts: u64,
}

impl Works {
    /// None yet.
    pub fn new(takes_us: (u64, u64)) -> Self {
        Self { made: 0, under_way: BTreeMap::new(), takes_us }
    }

    /// Takes out one that is over.
    pub fn take(&mut self, work: u64) -> Option<Piece> {
        self.under_way.remove(&work)
    }

    /// Takes out all, in the order they were made.
    pub fn take_all(&mut self) -> Vec<Piece> {
        std::mem::take(&mut self.under_way).into_values().collect()
    }

    /// Runs all that is under way, in no order that anybody could rely on, and forgets it: the
    /// process dies in the middle.
    pub fn run_into_death(&mut self) {
        for (_, piece) in std::mem::take(&mut self.under_way) {
            if let Stands::ToRun(work) = piece.stands {
                // Nobody is left to be told.
                let _ = work.run();
            }
        }
    }
}

impl<R: Rules> Shell<R> {
    /// Starts what the log wants done, and the flush that acks wait for.
    pub(super) fn start_work(&mut self, around: &mut Around<'_>) {
        if self.closed || self.stalled {
            return;
        }
        while let Some(work) = self.log.take_work() {
            self.run(work, None, around);
        }
        if self.replica.durability() == Durability::Disk
            && let Some(flush) = self.log.start_flush()
        {
            self.run(flush, None, around);
            if around.stage.setup.plant == Some(Plant::FlushedTooEarly) {
                let flushed_end = self.log.log_end_offset();
                self.step(Event::Flushed { flushed_end }, around);
            }
        }
    }

    pub(super) fn run(
        &mut self,
        work: LogWork,
        cut: Option<(Offset, bool)>,
        around: &mut Around<'_>,
    ) {
        self.works += 1;
        self.cuts += u64::from(cut.is_some());
        self.is_deleting |= work.is_delete();
        let (is_delete, is_for_appends) = (work.is_delete(), work.is_for_appends());
        let about = About { is_delete, is_for_appends, cut, cuts: self.cuts };
        let (stage, works) = (&mut *around.stage, &mut *around.works);
        let (least, most) = works.takes_us;
        let takes = std::time::Duration::from_micros(stage.random.between(least, most));
        let runs_at_once = stage.random.permille(300);
        stage.say(format_args!("{:?} p{} begins {}", around.me, self.partition, work.name()));
        let stands = if runs_at_once { Stands::Ran(work.run()) } else { Stands::ToRun(work) };
        works.made += 1;
        let piece = Piece { partition: self.partition, about, stands };
        works.under_way.insert(works.made, piece);
        stage.schedule.after(takes, stage::Event::Work { at: around.me, work: works.made });
    }

    /// A piece of work is over.
    pub fn work_done(&mut self, piece: Piece, around: &mut Around<'_>) {
        let done = match piece.stands {
            Stands::ToRun(work) => work.run(),
            Stands::Ran(done) => done,
        };
        self.works -= 1;
        self.take_in(piece.about, done, around);
        self.drain_parked(around);
        self.drain_frames(around);
        self.push_all(around);
        self.start_work(around);
    }

    fn take_in(&mut self, about: About, done: LogWorkDone, around: &mut Around<'_>) {
        match self.log.complete(done) {
            Ok(completed) => {
                if let (Some(end), Some((to, _))) = (completed.truncated_to, about.cut)
                    && end != to
                    && around.stage.setup.plant != Some(Plant::CutTooLittle)
                {
                    around.stage.fail(format!("S9: cut at {end}, not at {to}"));
                }
                if let Some(flushed_end) = completed.flushed_end {
                    self.step(Event::Flushed { flushed_end }, around);
                }
                // What a deletion wrote down that began before the log was begun anew is of the log
                // that is gone.
                if let Some(log_start) = completed.log_start
                    && log_start <= self.log.log_start_offset()
                {
                    self.step(Event::LogStartAdvanced { log_start }, around);
                }
                if about.is_delete {
                    self.is_deleting = false;
                    self.delete_next(around);
                }
            }
            Err(error) => {
                around.stage.say(format_args!("{:?} work failed: {error}", around.me));
                self.is_deleting &= !about.is_delete;
                if about.cut.is_some() && about.cuts == self.cuts {
                    self.cut_again = about.cut;
                }
                if !error.is_storage_full() {
                    self.stalled = true;
                    if about.is_for_appends {
                        let why = error.to_string();
                        let failed = ProduceError::StorageFailed { why, appended: false };
                        self.refuse_parked(&failed, around);
                    }
                }
            }
        }
    }

    /// A cut that failed is tried again: until it is done nothing is appended.
    pub(super) fn cut_again(&mut self, around: &mut Around<'_>) {
        if let Some((to, restarts)) = self.cut_again.take() {
            let work =
                if restarts { self.log.start_reset(to) } else { self.log.start_truncate(to) };
            self.run(work, Some((to, restarts)), around);
        }
    }

    /// Records below are to go.
    pub fn advance_log_start(&mut self, to: Offset, around: &mut Around<'_>) {
        self.next_start = self.next_start.max(to);
        self.delete_next(around);
    }

    pub(super) fn delete_next(&mut self, around: &mut Around<'_>) {
        if !self.closed
            && !self.is_deleting
            && let Some(work) = self.log.advance_log_start(self.next_start)
        {
            self.run(work, None, around);
        }
    }

    /// The last work of the log, of a process that stops in order. Whether it went well.
    pub fn finish(&mut self) -> bool {
        let done = self.log.start_close().run();
        let went_well = done.error().is_none();
        self.log.complete(done).is_ok() && went_well
    }

    pub(super) fn me(&self, around: &Around<'_>) -> BrokerId {
        match around.me.node {
            Node::Broker(broker) => broker_id(broker),
            Node::Controller | Node::Client(_) => unreachable!("shells are of brokers"),
        }
    }
}
