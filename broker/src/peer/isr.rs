//! Takes what leaders propose of their ISRs to the metadata log.
//!
//! A proposal is compare-and-set, and made again every second until the partition's registration has
//! moved on: so one that is lost, late or doubled does no harm, and nothing is tried again here. What
//! came of it is heard from the metadata log, but for one answer that changes nothing there: a member
//! that may not be one.

use std::sync::Arc;

use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::replication::Proposal;
use crate::{
    controller::{MetaQuorum, QuorumError},
    metadata::{Command, IsrChange, Rejection, command::AlterIsr, decision::IsrRejection},
    partition::{IsrProposal, registry::Registry},
};

/// Proposals that are being decided at once: more wait in line.
const AT_ONCE: usize = 64;

/// Takes proposals to `quorum` until there are no more to come.
pub async fn carry(
    proposed: mpsc::Receiver<Proposal>,
    quorum: Arc<dyn MetaQuorum>,
    registry: Arc<Registry>,
) {
    let decide = |command| {
        let quorum = Arc::clone(&quorum);
        async move { quorum.propose(command).await.map(drop) }
    };
    carry_to(proposed, decide, &registry).await;
}

async fn carry_to<F>(
    proposed: mpsc::Receiver<Proposal>,
    decide: impl Fn(Command) -> F,
    registry: &Registry,
) where
    F: Future<Output = Result<(), QuorumError>>,
{
    let decide = &decide;
    let each = |(partition, proposal): Proposal| async move {
        let IsrProposal { leader, broker_epoch, leader_epoch, partition_epoch, isr } = proposal;
        let change = IsrChange { leader, broker_epoch, leader_epoch, partition_epoch, isr };
        match decide(Command::AlterIsr(AlterIsr { partition, change })).await {
            Ok(()) => {}
            Err(QuorumError::Rejected(Rejection::Isr(IsrRejection::Ineligible(member)))) => {
                tracing::debug!(%partition, %member, "not taken into the ISR");
                if let Some(partition) = registry.get(partition) {
                    partition.isr_refused(leader_epoch, partition_epoch);
                }
            }
            // This broker's news are old, or nobody decides now.
            Err(why) => tracing::debug!(%partition, %why, "a proposed ISR was not adopted"),
        }
    };
    ReceiverStream::new(proposed).for_each_concurrent(AT_ONCE, each).await;
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use riverrun_proto::ids::BrokerId;

    use super::*;
    use crate::{
        metadata::Presence,
        partition::test_cluster::{Cluster, Setup, id},
    };

    #[test]
    fn a_member_that_may_not_be_one_is_told_to_the_leader_and_nothing_else_is() {
        let cluster = Cluster::new(Setup::default());
        cluster.until_in_sync();
        cluster.net.undecided.lock().insert(id());
        for presence in [Presence::Fenced, Presence::Active] {
            cluster.command(&cluster.presence(3, presence)).unwrap();
        }
        let leader = cluster.partition(1);
        let pending = || leader.pending_proposal();
        cluster.until("the third is proposed", || pending().is_some());
        let proposal = pending().unwrap();
        let members = |proposal: &IsrProposal| {
            proposal.isr.iter().map(|(member, _)| member.0).collect::<Vec<_>>()
        };
        assert_eq!(members(&proposal), [1, 2, 3]);

        let ineligible = IsrRejection::Ineligible(BrokerId(3));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let answers = Mutex::new(vec![
            Err(QuorumError::Rejected(Rejection::Isr(ineligible))),
            Err(QuorumError::NotLeader { leader: None }),
            Ok(()),
        ]);
        for expected in [vec![1, 2, 3], vec![1, 2, 3], vec![1, 2]] {
            let (sender, proposed) = mpsc::channel(1);
            sender.try_send((id(), proposal.clone())).unwrap();
            drop(sender);
            let decide = |_| async { answers.lock().pop().unwrap() };
            runtime.block_on(carry_to(proposed, decide, &cluster.nodes[0].registry));
            assert_eq!(members(&pending().unwrap()), expected);
        }
    }
}
