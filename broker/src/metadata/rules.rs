//! The rules that a test may break, one at a time, to see that it would be noticed. As in the
//! replication protocol: what ships runs on [`Sound`], of which nothing is left at run time.

use std::{fmt::Debug, hash::Hash};

/// Whether a rule is broken on purpose.
pub trait Rules: Copy + Debug + Eq + Hash {
    /// Whether to do it wrong at this place.
    fn breaks(self, mutation: Mutation) -> bool;
}

/// All rules hold. What the controller runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Sound;

impl Rules for Sound {
    #[inline(always)]
    fn breaks(self, _: Mutation) -> bool {
        false
    }
}

/// For tests: one rule is broken, or none.
impl Rules for Option<Mutation> {
    fn breaks(self, mutation: Mutation) -> bool {
        self == Some(mutation)
    }
}

/// A rule, named by what happens where it is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mutation {
    /// A member is taken into the ISR whatever run of the broker was heard from (KIP-903).
    NoBrokerEpochCheck,
    /// A proposal is accepted whatever version it was made for.
    NoCompareAndSet,
    /// A fenced broker may be taken into the ISR (KIP-841).
    FencedMayJoin,
    /// Who lost data stays an eligible leader (KIP-966, unclean exclusion).
    UncleanStaysInElr,
    /// A broker that comes back fast, having lost data, stays in the ISR.
    UncleanStaysInIsr,
    /// A leader that was restarted goes on in the same leader epoch (KAFKA-10527).
    LeaderResumesEpoch,
    /// Who leaves the ISR becomes an eligible leader though enough members stay.
    ElrAnyTime,
    /// Eligible leaders are kept as such when somebody else was elected although it may lack records.
    ElrSurvivesUncleanElection,
    /// A new leader is given the epoch of the one before.
    ElectInSameEpoch,
    /// A reassignment is complete once one of the new replicas has caught up.
    ReassignBeforeCaughtUp,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::NoBrokerEpochCheck,
        Self::NoCompareAndSet,
        Self::FencedMayJoin,
        Self::UncleanStaysInElr,
        Self::UncleanStaysInIsr,
        Self::LeaderResumesEpoch,
        Self::ElrAnyTime,
        Self::ElrSurvivesUncleanElection,
        Self::ElectInSameEpoch,
        Self::ReassignBeforeCaughtUp,
    ];
}
