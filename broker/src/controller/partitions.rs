//! Decisions about one partition: from what an operator asks for, and the image, to a command. Pure.
//! As with topics, what is refused here is refused in words for the one who asked, and judged again
//! when it is applied.

use riverrun_proto::{
    epoch::PartitionEpoch,
    ids::{BrokerId, TopicPartition},
};
use thiserror::Error;

use crate::metadata::{
    Command, MetadataImage, Partition, Presence,
    command::{CancelReassignment, Choice, ElectLeader, Reassign},
};

/// Why it cannot be. Definite: nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PartitionError {
    /// There is no such partition.
    #[error("there is no partition {0} (any more); its topic may have been deleted")]
    Unknown(TopicPartition),
    /// Somebody changed it since the caller looked.
    #[error(
        "the partition is at version {current}, not {expected}: it was changed since you looked; \
         look again, and repeat the request if it is still what you want"
    )]
    Changed {
        /// What the caller saw.
        expected: PartitionEpoch,
        /// What holds.
        current: PartitionEpoch,
    },
    /// It leads already.
    #[error("broker {0} leads the partition already")]
    LeadsAlready(BrokerId),
    /// It has no copy.
    #[error("broker {broker} has no replica of the partition; {} do", named(.replicas))]
    NotReplica {
        /// Who was asked for.
        broker: BrokerId,
        /// Who has one.
        replicas: Vec<BrokerId>,
    },
    /// It is no member of the ISR.
    #[error(
        "broker {broker} is not in sync and may lack committed records; in sync: {}. Wait until it \
         has caught up{}", named(.isr), preferred_hint(*.preferred)
    )]
    NotInSync {
        /// Who was asked for.
        broker: BrokerId,
        /// Who is.
        isr: Vec<BrokerId>,
        /// It was asked for as the preferred leader.
        preferred: bool,
    },
    /// It is fenced, about to stop, or drained.
    #[error("broker {broker} {}: {}", .why.is(), .why.advice())]
    NotThere {
        /// Who was asked for.
        broker: BrokerId,
        /// Why it is given nothing.
        why: Away,
    },
    /// An unclean election where there is no need.
    #[error(
        "broker {0} leads the partition: an unclean election would throw records away for nothing. \
         To let another replica lead, name a member of the ISR"
    )]
    HasLeader(BrokerId),
    /// No broker of that id.
    #[error("broker {0} is not registered; see riverrun cluster brokers")]
    UnknownBroker(BrokerId),
    /// The partition has those replicas, in that order, and nothing is under way.
    #[error("the replicas are {} already", named(.0))]
    Same(Vec<BrokerId>),
    /// There is nothing to cancel.
    #[error("the replicas of the partition are not being changed")]
    NoneUnderWay,
}

/// Why a broker is given nothing to lead, and no new copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Away {
    /// It is fenced.
    Fenced,
    /// It is about to stop.
    Leaving,
    /// It is drained.
    Draining,
}

impl Away {
    fn is(self) -> &'static str {
        match self {
            Self::Fenced => "is fenced, that is, not heard from or not caught up",
            Self::Leaving => "is about to stop",
            Self::Draining => "is being drained",
        }
    }

    fn advice(self) -> &'static str {
        match self {
            Self::Fenced => "start it, or name another",
            Self::Leaving => "wait until it is back, or name another",
            Self::Draining => "name another, or stop draining it: riverrun broker drain N --cancel",
        }
    }
}

fn named(ids: &[BrokerId]) -> String {
    match ids {
        [] => "nobody".to_owned(),
        ids => ids.iter().map(|id| id.to_string()).collect::<Vec<_>>().join(", "),
    }
}

fn preferred_hint(preferred: bool) -> &'static str {
    if preferred { "; leadership then moves to it by itself" } else { "" }
}

/// Lets another replica lead. `expected`: the version that the caller saw, where it wants to be sure.
pub fn elect(
    image: &MetadataImage,
    id: TopicPartition,
    choice: Choice,
    expected: Option<PartitionEpoch>,
) -> Result<Command, PartitionError> {
    let partition = known(image, id, expected)?;
    let (broker, preferred) = match choice {
        Choice::Preferred => (partition.assigned()[0], true),
        Choice::Member(broker) | Choice::Unclean(broker) => (broker, false),
    };
    if !partition.replicas.contains(&broker) {
        let replicas = partition.replicas.clone();
        return Err(PartitionError::NotReplica { broker, replicas });
    }
    match (choice, partition.leader) {
        (_, Some(leader)) if leader == broker => return Err(PartitionError::LeadsAlready(leader)),
        (Choice::Unclean(_), Some(leader)) => return Err(PartitionError::HasLeader(leader)),
        _ => {}
    }
    let is_unclean = matches!(choice, Choice::Unclean(_));
    match away(image, broker)? {
        Some(Away::Draining) if is_unclean => {}
        Some(why) => return Err(PartitionError::NotThere { broker, why }),
        None => {}
    }
    if !is_unclean && !partition.isr.contains(&broker) {
        let isr = partition.isr.clone();
        return Err(PartitionError::NotInSync { broker, isr, preferred });
    }
    // While replicas are changed the first of them is not yet the one that was asked for.
    let choice = if preferred { Choice::Member(broker) } else { choice };
    Ok(Command::ElectLeader(ElectLeader {
        partition: id,
        expected: partition.partition_epoch,
        choice,
    }))
}

/// Sets out for other replicas. Those that are new have to be there: a copy on a broker that is not
/// would never be in sync.
pub fn reassign(
    image: &MetadataImage,
    id: TopicPartition,
    to: &[BrokerId],
    expected: Option<PartitionEpoch>,
) -> Result<Command, PartitionError> {
    let partition = known(image, id, expected)?;
    if partition.assigned() == to {
        return Err(PartitionError::Same(to.to_vec()));
    }
    for &broker in to.iter().filter(|id| !partition.replicas.contains(id)) {
        if let Some(why) = away(image, broker)? {
            return Err(PartitionError::NotThere { broker, why });
        }
    }
    Ok(Command::Reassign(Reassign {
        partition: id,
        expected: partition.partition_epoch,
        to: to.to_vec(),
    }))
}

/// Goes back to the replicas from before.
pub fn cancel_reassignment(
    image: &MetadataImage,
    id: TopicPartition,
) -> Result<Command, PartitionError> {
    let partition = known(image, id, None)?;
    if partition.reassignment.is_none() {
        return Err(PartitionError::NoneUnderWay);
    }
    let expected = partition.partition_epoch;
    Ok(Command::CancelReassignment(CancelReassignment { partition: id, expected }))
}

fn known(
    image: &MetadataImage,
    id: TopicPartition,
    expected: Option<PartitionEpoch>,
) -> Result<&Partition, PartitionError> {
    let partition = image.partition(id).ok_or(PartitionError::Unknown(id))?;
    let current = partition.partition_epoch;
    match expected {
        Some(expected) if expected != current => Err(PartitionError::Changed { expected, current }),
        _ => Ok(partition),
    }
}

/// Why a broker is given nothing; `None`: it may be.
fn away(image: &MetadataImage, id: BrokerId) -> Result<Option<Away>, PartitionError> {
    let broker = image.broker(id).ok_or(PartitionError::UnknownBroker(id))?;
    Ok(match broker.presence {
        Presence::Fenced => Some(Away::Fenced),
        Presence::Leaving => Some(Away::Leaving),
        Presence::Active if broker.draining => Some(Away::Draining),
        Presence::Active => None,
    })
}

#[cfg(test)]
#[path = "partitions_test.rs"]
mod tests;
