//! Bugs that are put in on purpose, one at a time, to see that they are found.
//!
//! Those of the core are its own [`Mutation`]s: the rule is broken in the shipped code, at the place
//! where it is kept. Those of the log leave out one of its syncs, on the disk's side, or have it
//! say what it must not; those of the client do so to the producer's shipped parts.

use std::fmt;

use riverrun_broker::{io::SyncPoint, replica::Mutation};

use crate::setup::Metadata;

/// A planted bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    /// A rule of the replication protocol.
    Core(Mutation),
    /// A sync that does nothing.
    NoSync(SyncPoint),
    /// The log says that it has flushed what it is about to flush.
    FlushedTooEarly,
    /// The log cuts off one batch less than it was told to, and says nothing.
    CutTooLittle,
    /// The producer takes another identity whenever a connection breaks, and numbers everything
    /// anew.
    NewIdentityOnLoss,
    /// The producer takes the answer to one batch for that to the one before.
    AnswersMixedUp,
    /// Of the quorum: a leader takes for decided what it has proposed.
    ActsBeforeCommit,
    /// Of the quorum: a node whose disk was lost goes on under its old name.
    WipedAsOld,
}

impl Plant {
    /// Those that the simulator must find with every change, each within a few seeds. By name there
    /// are more: every mutation of the core, every sync of the log.
    pub fn all() -> Vec<Self> {
        let core = [
            Mutation::CommittedIsrOnExpand,
            Mutation::ProposedIsrOnShrink,
            Mutation::CommitBelowMinIsr,
            Mutation::SkipUnheard,
            Mutation::CommitUnflushed,
            Mutation::TruncateToHighWatermark,
            Mutation::NoDivergenceCheck,
            Mutation::CountDiverging,
        ];
        let log = [
            Self::NoSync(SyncPoint::SegmentData),
            Self::NoSync(SyncPoint::SegmentCreatedDir),
            Self::FlushedTooEarly,
            Self::CutTooLittle,
        ];
        let client = [Self::NewIdentityOnLoss, Self::AnswersMixedUp];
        core.map(Self::Core).into_iter().chain(log).chain(client).collect()
    }

    /// Those that must be found over such a metadata log.
    pub fn all_over(metadata: Metadata) -> Vec<Self> {
        match metadata {
            Metadata::Ideal => Self::all(),
            Metadata::Quorum => Self::all_of_quorum(),
        }
    }

    /// Those of the metadata quorum.
    pub fn all_of_quorum() -> Vec<Self> {
        vec![
            Self::NoSync(SyncPoint::MetaWal),
            Self::NoSync(SyncPoint::MetaSnapshot),
            Self::ActsBeforeCommit,
            Self::WipedAsOld,
        ]
    }

    /// By its name.
    pub fn named(name: &str) -> Option<Self> {
        let core = Mutation::ALL.into_iter().map(Self::Core);
        let syncs = SyncPoint::ALL.iter().copied().map(Self::NoSync);
        core.chain(syncs)
            .chain(Self::all())
            .chain(Self::all_of_quorum())
            .find(|plant| plant.to_string() == name)
    }

    /// The rule of the core that is broken.
    pub fn mutation(self) -> Option<Mutation> {
        match self {
            Self::Core(mutation) => Some(mutation),
            _ => None,
        }
    }

    /// The sync that does nothing.
    pub fn ignored_sync(self) -> Option<SyncPoint> {
        match self {
            Self::NoSync(point) => Some(point),
            _ => None,
        }
    }
}

impl fmt::Display for Plant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Core(mutation) => write!(f, "{mutation:?}"),
            Self::NoSync(point) => write!(f, "No{point:?}Sync"),
            other => write!(f, "{other:?}"),
        }
    }
}
