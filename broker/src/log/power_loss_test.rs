//! Power loss at every operation of a workload.
//!
//! The workload goes through everything a log does. After each of the operations it makes on the
//! disk the power is cut in several ways, and the log is opened again. Then:
//!
//! * everything below the flushed end of that moment is there, byte for byte, in order;
//! * beyond it there is a prefix of what had been appended, and nothing else;
//! * log start offset, leader epochs, producer state are those of what is there;
//! * nothing is called damaged, and nothing below the recovery point is read again;
//! * a process that is killed, opens, and loses power shows nothing that it loses;
//! * what is appended after the recovery is kept by the next power loss, and what was cut stays cut.
//!
//! The same suite shows that every sync the log makes is needed: with any one of them left out, it
//! turns red.

use bytes::Bytes;
use riverrun_proto::{epoch::LeaderEpoch, offset::Offset};

use super::{
    LeaderEpochs,
    layout::CHECKPOINT_FILE,
    testkit::{Driven, Make, at, env, fingerprint, header, replayed, sim_disk, small_config},
};
use crate::io::{
    SyncPoint,
    sim::{Op, PowerCut, SimDisk},
};

/// What the log is after an action of the workload.
#[derive(Debug, Clone, Default)]
struct Moment {
    /// Operations on the disk until then.
    ops: u64,
    /// Everything that was ever appended and not cut off, also what is deleted by now.
    timeline: Vec<Bytes>,
    /// Where the timeline begins: not at 0 after a reset.
    begin: i64,
    log_start: i64,
    /// What was promised to be durable.
    flushed_end: i64,
    /// A truncation since the last checkpoint: an index may have to be made again.
    truncated: bool,
}

#[derive(Debug, Clone, Copy)]
enum Action {
    Append(Make),
    Flush,
    Checkpoint,
    Truncate(i64),
    Advance(i64),
    Reset(i64),
    Commit,
}

/// The end of a timeline.
fn end_of(begin: i64, timeline: &[Bytes]) -> i64 {
    timeline.last().map_or(begin, |batch| header(batch).next_offset())
}

fn workload() -> Vec<Action> {
    use Action::*;
    let mut sequence = [0; 3];
    let mut append = |epoch: i32, mark: u64, producer: usize| {
        let make = Make {
            records: 2,
            value_bytes: 500,
            epoch,
            mark,
            time: 1000 + mark as i64,
            producer: Some((producer as i64, sequence[producer])),
        };
        sequence[producer] += 2;
        Append(make)
    };
    let mut all = Vec::new();
    // Producer 0 writes only here, and its records are deleted below.
    all.extend([append(0, 1, 0), append(0, 2, 0), Flush, append(0, 3, 1)]);
    // Several rolls, with and without flushes between; checkpoints come by themselves.
    for n in 0..14 {
        all.push(append(1, 10 + n, 1));
        if n % 3 == 0 {
            all.push(Flush);
        }
    }
    all.extend([Commit, Advance(10), append(2, 30, 1), Flush, Advance(21)]);
    // Back and forth: what is cut off must never return.
    all.extend((0..6).map(|n| append(3, 40 + n, 2)));
    all.push(Truncate(34));
    all.extend((0..9).map(|n| append(5, 60 + n, 1)));
    all.push(Flush);
    all.extend([Truncate(30), append(6, 80, 1), Flush, Checkpoint]);
    all.extend((0..5).map(|n| append(7, 90 + n, 2)));
    all.extend([Commit, Advance(1000), append(8, 100, 1), Flush]);
    all.extend([Reset(200), append(9, 110, 1), Flush, append(9, 111, 1)]);
    all
}

/// Runs the workload; the moments after each action.
fn run(disk: &SimDisk, actions: &[Action]) -> Vec<Moment> {
    let mut driven =
        Driven::create(env(std::sync::Arc::new(disk.clone()), "/data", 1), small_config());
    let mut now = Moment { ops: disk.ops(), ..Moment::default() };
    let mut moments = vec![now.clone()];
    for action in actions {
        act(&mut driven, &mut now, *action);
        assert!(driven.error.is_none(), "{action:?}: {:?}", driven.error);
        now.ops = disk.ops();
        now.log_start = driven.log.log_start_offset().get();
        now.flushed_end = driven.log.flushed_end_offset().get();
        let end = end_of(now.begin, &now.timeline);
        assert_eq!(driven.log.log_end_offset().get(), end, "{action:?}");
        moments.push(now.clone());
    }
    moments
}

fn act(driven: &mut Driven, now: &mut Moment, action: Action) {
    match action {
        Action::Append(make) => {
            let batch = make.stamped(driven.log.log_end_offset());
            driven.append_stamped(&batch).unwrap();
            now.timeline.push(batch.to_bytes());
        }
        Action::Flush => driven.flush(),
        Action::Checkpoint => {
            driven.checkpoint();
            now.truncated = false;
        }
        Action::Commit => driven.log.note_high_watermark(driven.log.log_end_offset()),
        Action::Advance(to) => driven.advance(at(to)),
        Action::Truncate(to) => {
            let done = driven.truncate(at(to));
            let end = done.truncated_to.unwrap().get();
            now.timeline.retain(|batch| header(batch).next_offset() <= end);
            now.truncated = true;
        }
        Action::Reset(to) => {
            let work = driven.log.start_reset(at(to));
            driven.run(work);
            now.timeline.clear();
            now.begin = to;
        }
    }
}

/// What may be found after a crash between two moments.
struct Window<'a> {
    before: &'a Moment,
    after: &'a Moment,
    /// The action was over: its promises hold.
    is_done: bool,
}

impl Window<'_> {
    /// The end that was promised.
    fn promised(&self) -> i64 {
        if self.is_done {
            self.after.flushed_end
        } else {
            self.before.flushed_end.min(self.after.flushed_end)
        }
    }

    /// Whether the log is what one of the two moments allows.
    fn check(&self, driven: &Driven) -> Result<(), String> {
        let candidates: &[&Moment] =
            if self.is_done { &[self.after] } else { &[self.after, self.before] };
        let mut why = Vec::new();
        for moment in candidates {
            match check_against(driven, moment, self.promised()) {
                Ok(()) => return Ok(()),
                Err(what) => why.push(what),
            }
        }
        Err(why.join(" | "))
    }
}

/// The log holds a prefix of the moment's timeline that reaches to `promised`.
fn check_against(driven: &Driven, moment: &Moment, promised: i64) -> Result<(), String> {
    let log = &driven.log;
    let (start, end) = (log.log_start_offset().get(), log.log_end_offset().get());
    if start != moment.log_start {
        return Err(format!("log start {start} where {} is due", moment.log_start));
    }
    if end < promised {
        return Err(format!("the log ends at {end}, {promised} was promised"));
    }
    let prefix: Vec<Bytes> = moment
        .timeline
        .iter()
        .take_while(|batch| header(batch).next_offset() <= end)
        .cloned()
        .collect();
    if end_of(moment.begin, &prefix).max(start) != end {
        return Err(format!("the log ends at {end}, which is no end of a batch"));
    }
    let visible: Vec<Bytes> =
        prefix.iter().filter(|batch| header(batch).next_offset() > start).cloned().collect();
    let reader = log.reader();
    let found = super::testkit::read_all(&reader, at(start), 3000).map_err(|e| e.to_string())?;
    if found != visible {
        let heads = |all: &[Bytes]| {
            all.iter().map(|b| (header(b).base_offset, header(b).leader_epoch)).collect::<Vec<_>>()
        };
        return Err(format!("found {:?}, due {:?}", heads(&found), heads(&visible)));
    }
    let mut epochs = LeaderEpochs::default();
    for batch in &prefix {
        let header = header(batch);
        epochs.note(LeaderEpoch::new(header.leader_epoch).unwrap(), at(header.base_offset));
    }
    epochs.truncate(at(end));
    epochs.advance_start(at(start));
    if log.leader_epochs() != &epochs {
        return Err(format!("epochs {:?}, due {epochs:?}", log.leader_epochs()));
    }
    if fingerprint(log.producers()) != replayed(prefix.iter()) {
        return Err(format!("producers {:?}", log.producers()));
    }
    Ok(())
}

/// Opens the log on a disk as it is found.
fn reopen(disk: &SimDisk, ignored: Option<SyncPoint>, seed: u64) -> Result<Driven, String> {
    disk.ignore_sync(ignored);
    let env = env(std::sync::Arc::new(disk.clone()), "/data", seed);
    let (driven, report) =
        Driven::try_open(env, small_config(), false).map_err(|e| format!("open: {e}"))?;
    match report.damage {
        Some(damage) => Err(format!("called damaged: {damage}")),
        None => Ok(driven),
    }
}

/// One crash: recovery, then more of life, then another crash.
fn crash(
    found: &SimDisk,
    window: &Window<'_>,
    ignored: Option<SyncPoint>,
    seed: u64,
) -> Result<(), String> {
    let mut driven = reopen(found, ignored, 1000 + seed)?;
    window.check(&driven)?;
    let rebuilt = driven.log.shared.env.counters.indexes_rebuilt.get();
    // In the middle of a checkpoint the index of the active segment may be ahead of it.
    if rebuilt > 0 && window.is_done && !window.after.truncated {
        return Err(format!("{rebuilt} segments below the recovery point were read again"));
    }
    same_again(found, &driven, ignored, seed)?;
    // New records of the size of those that were lost, so that old frames would fit on.
    let (start, kept) = (driven.log.log_start_offset(), driven.batches());
    let mut timeline = kept;
    for n in 0..4 {
        let make =
            Make { value_bytes: 500, epoch: 20, mark: 7000 + n, time: 5000, ..Make::default() };
        let batch = make.stamped(driven.log.log_end_offset());
        driven.append_stamped(&batch).map_err(|error| format!("append after recovery: {error}"))?;
        timeline.push(batch.to_bytes());
        if n == 1 {
            driven.flush();
        }
    }
    let promised = driven.log.flushed_end_offset();
    let producers = fingerprint(driven.log.producers());
    for cut in cuts(seed, 2) {
        let found = found.snapshot().power_loss(cut);
        let again = reopen(&found, ignored, 2000 + seed)
            .map_err(|what| format!("second crash, {cut:?}: {what}"))?;
        let (end, batches) = (again.log.log_end_offset(), again.batches());
        let is_prefix = timeline.starts_with(&batches);
        if end < promised || !is_prefix || again.log.log_start_offset() != start {
            return Err(format!("second crash, {cut:?}: end {end}, {promised} was promised"));
        }
        if fingerprint(again.log.producers()) != producers {
            return Err(format!("second crash, {cut:?}: producers differ"));
        }
    }
    Ok(())
}

fn cuts(seed: u64, random: u64) -> impl Iterator<Item = PowerCut> {
    PowerCut::sample(0).chain((0..random).map(move |n| PowerCut::Random(seed * 100 + n)))
}

/// The whole suite; the first thing that is wrong, if anything is.
fn suite(ignored: Option<SyncPoint>, random: u64) -> Result<(), String> {
    let disk = sim_disk(7);
    disk.ignore_sync(ignored);
    // Creation is part of it.
    disk.record_history();
    let moments = run(&disk, &workload());
    let (history, trace) = (disk.history(), disk.trace());
    let created = moments[0].ops;
    for (ops, state) in history.iter().enumerate().skip(created as usize) {
        let after = moments.partition_point(|moment| moment.ops < ops as u64);
        let is_done = moments[after].ops == ops as u64;
        // Several actions may end at the same operation: the last of them is what is promised.
        let last = moments.partition_point(|moment| moment.ops <= ops as u64).max(1) - 1;
        let window = Window {
            before: &moments[after.max(1) - 1],
            after: if is_done { &moments[last] } else { &moments[after] },
            is_done,
        };
        // Just after a checkpoint got its name, whatever else is not durable shows.
        let is_named = |op: &Op| matches!(op, Op::Rename(_, to) if to.ends_with(CHECKPOINT_FILE));
        let is_tender = ops.checked_sub(1).is_some_and(|last| is_named(&trace[last]));
        for cut in cuts(ops as u64, if is_tender { 12 * random } else { random }) {
            let found = state.snapshot().power_loss(cut);
            crash(&found, &window, ignored, ops as u64)
                .map_err(|what| format!("power loss after {ops} operations, {cut:?}: {what}"))?;
        }
        killed_then_power_loss(state, &window, ignored, ops as u64)
            .map_err(|what| format!("kill after {ops} operations: {what}"))?;
    }
    Ok(())
}

/// What a process shows after a kill is not taken away by a power loss.
fn killed_then_power_loss(
    state: &SimDisk,
    window: &Window<'_>,
    ignored: Option<SyncPoint>,
    seed: u64,
) -> Result<(), String> {
    let survivor = state.snapshot().kill();
    let driven = reopen(&survivor, ignored, 3000 + seed)?;
    window.check(&driven)?;
    same_again(&survivor, &driven, ignored, seed)
}

/// A log that was opened, and lost power before anything was appended, is found again as it was.
fn same_again(
    disk: &SimDisk,
    driven: &Driven,
    ignored: Option<SyncPoint>,
    seed: u64,
) -> Result<(), String> {
    let (shown, batches) = (driven.log.log_end_offset(), driven.batches());
    for cut in cuts(seed, 1) {
        let found = disk.snapshot().power_loss(cut);
        let again = reopen(&found, ignored, 4000 + seed)?;
        let end = again.log.log_end_offset();
        if end != shown || again.batches() != batches {
            return Err(format!(
                "power loss after that, {cut:?}: ends at {end}, {shown} was shown"
            ));
        }
        if fingerprint(again.log.producers()) != fingerprint(driven.log.producers()) {
            return Err(format!("power loss after that, {cut:?}: producers differ"));
        }
    }
    Ok(())
}

#[test]
fn power_loss_at_every_operation() {
    suite(None, 3).unwrap();
}

/// Syncs that the log makes while it lives; those of its creation have their own test.
const IN_LIFE: [SyncPoint; 12] = [
    SyncPoint::SegmentCreatedDir,
    SyncPoint::SegmentData,
    SyncPoint::SegmentSealed,
    SyncPoint::SegmentRecovered,
    SyncPoint::RecoveredDir,
    SyncPoint::SegmentRemovedDir,
    SyncPoint::IndexFile,
    SyncPoint::ProducerSnapshot,
    SyncPoint::LeaderEpochs,
    SyncPoint::RecoveryFilesDir,
    SyncPoint::Checkpoint,
    SyncPoint::CheckpointDir,
];

#[test]
fn every_sync_is_needed() {
    let mut unneeded = Vec::new();
    for point in IN_LIFE {
        match suite(Some(point), 3) {
            Err(what) => println!("{point:?}: red: {what}"),
            Ok(()) => unneeded.push(point),
        }
    }
    assert!(unneeded.is_empty(), "nothing turns red without {unneeded:?}");
}

/// A log that was made is there after a power loss, for whoever was told that it was made.
fn creation(ignored: Option<SyncPoint>) -> Result<(), String> {
    let disk = sim_disk(7);
    disk.ignore_sync(ignored);
    let driven = Driven::create(env(std::sync::Arc::new(disk.clone()), "/data", 1), small_config());
    drop(driven);
    for cut in cuts(1, 10) {
        let found = disk.snapshot().power_loss(cut);
        let mut driven = reopen(&found, None, 5).map_err(|what| format!("{cut:?}: {what}"))?;
        driven.append(Make::default()).map_err(|error| error.to_string())?;
        driven.flush();
        if driven.log.flushed_end_offset() != Offset::new(2).unwrap() {
            return Err(format!("{cut:?}: {:?}", driven.error));
        }
    }
    Ok(())
}

#[test]
fn every_sync_of_the_creation_is_needed() {
    creation(None).unwrap();
    for point in [SyncPoint::PartitionMeta, SyncPoint::PartitionMetaDir, SyncPoint::PartitionDir] {
        let what = creation(Some(point)).expect_err(&format!("{point:?} is not needed"));
        println!("{point:?}: red: {what}");
    }
}
