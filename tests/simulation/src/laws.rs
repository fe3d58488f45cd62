//! What must hold after every step that changed anything: the invariants of replication.md 3.8, as
//! far as they can be asked of all parties at once. Those about a change are asked where it happens:
//! S4, S6, S7 and S12 in [`shell`](crate::shell) and [`broker`](crate::broker), S8 in
//! [`controller`](crate::controller), S9's cuts and S14 in the shells; those about everything that
//! was ever written, in the end ([`audit`](crate::audit)).

use riverrun_broker::{
    metadata::Partition,
    replica::{Registration, Rules},
};
use riverrun_proto::offset::Offset;

use crate::{
    controller::{broker_number, partition_id},
    mirror::Entry,
    shell::Shell,
    world::World,
};

impl<R: Rules> World<R> {
    /// The first law that is broken.
    pub fn violation(&self) -> Option<String> {
        let image = self.stage.decided.image();
        (0..self.stage.setup.partitions).find_map(|at| {
            let partition = image.partition(partition_id(at))?;
            self.incomplete(at, partition)
                .or_else(|| self.logs_differ(at))
                .or_else(|| self.leader_misses_members(at, partition))
                .or_else(|| self.out_of_order(at))
                .map(|law| format!("{law} (p{at})"))
        })
    }

    /// A broker's copy, if its process takes part in the run that is registered.
    fn current(&self, broker: usize, partition: usize) -> Option<&Shell<R>> {
        let process = self.brokers[broker].process.as_ref()?;
        let registered = process.begun && process.epoch() == self.stage.decided.epoch_of(broker);
        process.shells.get(partition).filter(|_| registered)
    }

    /// S1, S2: who leads, or may be elected, has all that is committed.
    fn incomplete(&self, at: usize, partition: &Partition) -> Option<String> {
        let ledger = &self.stage.ledgers[at];
        for id in partition.isr.iter().chain(&partition.elr) {
            let Some(shell) = self.current(broker_number(*id), at) else { continue };
            if let Some(what) = ledger.missing_in(&shell.mirror, shell.log.log_start_offset()) {
                let leads = partition.leader == Some(*id)
                    && shell.replica.leads() == Some(partition.leader_epoch);
                let law = if leads { "S1: the leader" } else { "S2: a candidate" };
                return Some(format!("{law} lacks what is committed: {id:?} {what}"));
            }
        }
        let leader = partition.leader?;
        let shell = self.current(broker_number(leader), at)?;
        let shows_all = shell.replica.high_watermark() >= ledger.end();
        let claims = shell.replica.leads() == Some(partition.leader_epoch)
            && shell.replica.high_watermark_is_current();
        (claims && !shows_all)
            .then(|| format!("S12: {leader:?} takes its high watermark for current, and it is not"))
    }

    /// S3: the same offset and epoch is the same batch, after the same batches.
    fn logs_differ(&self, at: usize) -> Option<String> {
        let shells: Vec<_> = self.shells(at).collect();
        for (i, (a, left)) in shells.iter().enumerate() {
            for (b, right) in &shells[i + 1..] {
                let begin = |shell: &Shell<R>| shell.mirror.entries().first().map(|e| e.base);
                let start = begin(left).max(begin(right)).unwrap_or(Offset::ZERO);
                let (x, y) = (left.mirror.from(start), right.mirror.from(start));
                let is_one = |(x, y): (&Entry, &Entry)| x.base == y.base && x.epoch == y.epoch;
                let last = x.iter().zip(y).rposition(is_one);
                if last.is_some_and(|last| x[..=last] != y[..=last]) {
                    return Some(format!("S3: b{a} and b{b} have two batches in one place"));
                }
            }
        }
        None
    }

    fn shells(&self, at: usize) -> impl Iterator<Item = (usize, &Shell<R>)> {
        self.brokers.iter().filter_map(move |broker| {
            Some((broker.number, broker.process.as_ref()?.shells.get(at)?))
        })
    }

    /// S5: a leader that may commit counts whoever may be elected.
    fn leader_misses_members(&self, at: usize, partition: &Partition) -> Option<String> {
        let shell = self.current(broker_number(partition.leader?), at)?;
        let may_commit = |known: &Registration| known.isr.len() >= known.effective_min_isr();
        if shell.replica.leads() != Some(partition.leader_epoch)
            || !shell.replica.registration().is_some_and(may_commit)
        {
            return None;
        }
        let mut candidates = partition.isr.iter().chain(&partition.elr);
        let missed = candidates.find(|id| !shell.replica.counts_as_member(**id))?;
        Some(format!("S5: the leader does not count {missed:?}, who may be elected"))
    }

    /// S6, S9: ends are in order; the log, the protocol's view of it and what was written to it are
    /// the same; epochs never go back.
    fn out_of_order(&self, at: usize) -> Option<String> {
        for (broker, shell) in self.shells(at) {
            let (start, end, flushed_end) = shell.replica.log_ends();
            let high_watermark = shell.replica.high_watermark();
            let log = &shell.log;
            if !(start <= high_watermark && high_watermark <= end && flushed_end <= end) {
                return Some(format!("S6: the ends of b{broker} are out of order"));
            }
            let ends = [Some(log.log_end_offset()), shell.mirror.end()];
            if ends.iter().flatten().any(|other| *other != end) {
                return Some(format!("S9: the protocol says {end}, the log of b{broker} {ends:?}"));
            }
            if shell.mirror.entries().windows(2).any(|pair| pair[0].epoch > pair[1].epoch) {
                return Some(format!("S9: epochs go back in the log of b{broker}"));
            }
            let told = [shell.replica.epochs(), log.leader_epochs().history()];
            let starts = [start, log.log_start_offset()];
            for (told, start) in told.into_iter().zip(starts) {
                let mut told = told.clone();
                told.truncate(end);
                told.advance_start(start);
                let derived = shell.mirror.epochs(start);
                if start < end && told != derived {
                    return Some(format!(
                        "S9: the epochs of b{broker} are {derived:?}, it says {told:?}"
                    ));
                }
            }
        }
        None
    }
}
