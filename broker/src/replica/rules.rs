//! The rules that a test may break, one at a time, to see that it would be noticed.
//!
//! A proof that finds nothing proves something only if it finds what is wrong. So every rule that
//! safety rests on asks [`Rules::breaks`] at the place where it is kept. The broker runs on
//! [`Sound`], which has no size and answers `false` at compile time: nothing is left of the question
//! in what ships. The exhaustive search runs on `Sound` too, and on every [`Mutation`] in turn.

use std::{fmt::Debug, hash::Hash};

/// Whether a rule is broken on purpose.
pub trait Rules: Copy + Debug + Eq + Hash {
    /// Whether to do it wrong at this place.
    fn breaks(self, mutation: Mutation) -> bool;
}

/// All rules hold. What the broker runs on.
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
    /// The high watermark is taken over the committed ISR while an expansion is under way.
    CommittedIsrOnExpand,
    /// The high watermark is taken over the smaller ISR that has only been proposed.
    ProposedIsrOnShrink,
    /// The high watermark moves although the committed ISR is below `min.insync.replicas`
    /// (KAFKA-15583).
    CommitBelowMinIsr,
    /// A member not heard from in this leader epoch is left out of the high watermark.
    SkipUnheard,
    /// What is in memory counts as committed where the topic asks for the disk.
    CommitUnflushed,
    /// A follower may join the ISR at the high watermark, short of the epoch's start.
    JoinBeforeEpochStart,
    /// A leader that is elected again keeps what ISR members acknowledged in the earlier epoch.
    KeepProgressOnReelection,
    /// Frames of another leader epoch are believed (KIP-320).
    NoEpochFence,
    /// A new follower cuts its log to its own high watermark (before KIP-101).
    TruncateToHighWatermark,
    /// Leader and follower do not compare the epoch of the last batch.
    NoDivergenceCheck,
    /// A diverging answer is believed if only the offset is still the same (KAFKA-18991).
    DivergingByOffset,
    /// What a diverging follower claims to have counts (KAFKA-13141).
    CountDiverging,
    /// After the controller refused a proposal, the ISR is taken for what it was, although a copy of
    /// the proposal may still be under way.
    ForgetRefused,
    /// A second proposal replaces one that is under way.
    ForgetPending,
    /// A leader that wrote nothing remembers its epoch when it follows another.
    KeepUnwrittenEpoch,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::CommittedIsrOnExpand,
        Self::ProposedIsrOnShrink,
        Self::CommitBelowMinIsr,
        Self::SkipUnheard,
        Self::CommitUnflushed,
        Self::JoinBeforeEpochStart,
        Self::KeepProgressOnReelection,
        Self::NoEpochFence,
        Self::TruncateToHighWatermark,
        Self::NoDivergenceCheck,
        Self::DivergingByOffset,
        Self::CountDiverging,
        Self::ForgetRefused,
        Self::ForgetPending,
        Self::KeepUnwrittenEpoch,
    ];
}
