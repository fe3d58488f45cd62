//! What must hold after every transition: the invariants S1 to S9, S12 and S13 of the
//! specification, as far as one partition and its controller go. Those about a change (S4, S6, S7)
//! are looked at while it happens, in [`cluster`](crate::cluster).

use riverrun_proto::epoch::LeaderEpoch;

use crate::{
    cluster::{Cluster, N, at, derived, id, index},
    replica,
};

impl<R: replica::Rules> Cluster<R> {
    /// The first law that is broken.
    pub fn violation(&self) -> Option<&'static str> {
        self.fault
            .or_else(|| self.incomplete())
            .or_else(|| self.logs_differ())
            .or_else(|| self.leader_misses_members())
            .or_else(|| self.ends_out_of_order())
    }

    fn has_all_committed(&self, i: usize) -> bool {
        self.node(i).log.starts_with(&self.committed)
    }

    /// S1, S2, S13: who leads or may be elected has all that is committed.
    fn incomplete(&self) -> Option<&'static str> {
        let partition = self.partition();
        for i in 0..N {
            let node = self.node(i);
            if !node.up || node.lossy || self.has_all_committed(i) {
                continue;
            }
            if partition.leader == Some(id(i))
                && node.replica.leads() == Some(partition.leader_epoch)
            {
                return Some("S1: the leader lacks what is committed");
            }
            if partition.isr.contains(&id(i)) || partition.elr.contains(&id(i)) {
                return Some("S2: a candidate lacks what is committed");
            }
        }
        let kept = partition.replicas.iter().any(|id| self.has_all_committed(id.0 as usize));
        (!kept).then_some("S13: no replica has what is committed")
    }

    /// S3: the same offset and epoch is the same record, after the same records.
    fn logs_differ(&self) -> Option<&'static str> {
        for i in 0..N {
            for j in i + 1..N {
                let (a, b) = (&self.node(i).log, &self.node(j).log);
                let same = a.iter().zip(b).rposition(|(x, y)| x.epoch == y.epoch);
                if same.is_some_and(|last| a[..=last] != b[..=last]) {
                    return Some("S3: two records with one offset and epoch");
                }
            }
        }
        None
    }

    /// S5: a leader that knows the present version, and may commit, counts whoever may be elected.
    /// So does one that does not know it but could still commit: its version is the one before.
    fn leader_misses_members(&self) -> Option<&'static str> {
        let partition = self.partition();
        let leader = partition.leader?.0 as usize;
        let node = self.node(leader);
        let registration = node.replica.registration()?;
        if !node.up
            || node.replica.leads() != Some(partition.leader_epoch)
            || registration.isr.len() < registration.effective_min_isr()
        {
            return None;
        }
        let candidates = partition.isr.iter().chain(&partition.elr);
        let missed = candidates.into_iter().any(|member| !node.replica.counts_as_member(*member));
        missed.then_some("S5: the leader does not count everybody who may be elected")
    }

    /// S6, S9: ends are in order, the protocol's view of the log is the log, epochs never go back.
    fn ends_out_of_order(&self) -> Option<&'static str> {
        for i in 0..N {
            let node = self.node(i);
            if !node.up {
                continue;
            }
            let (start, end, flushed_end) = node.replica.log_ends();
            let high_watermark = node.replica.high_watermark();
            if !(start <= high_watermark && high_watermark <= end && flushed_end <= end) {
                return Some("S6: log start, high watermark, log end are out of order");
            }
            if index(end) != node.log.len() {
                return Some("S9: the protocol's log end is not the log's");
            }
            if node.log.windows(2).any(|pair| pair[0].epoch > pair[1].epoch) {
                return Some("S9: epochs go back in a log");
            }
            let mut told = node.replica.epochs().clone();
            if told.latest() > node.log.last().map(|record| record.epoch) {
                // A leader's own epoch, in which nothing has been written yet.
                told.truncate(at(node.log.len()));
            }
            if told != derived(&node.log) {
                return Some("S9: the epoch history is not the log's");
            }
            let committed = self.committed.len();
            if index(high_watermark) > committed && self.era == LeaderEpoch::ZERO {
                return Some("S12: something is shown that is not committed");
            }
        }
        None
    }
}
