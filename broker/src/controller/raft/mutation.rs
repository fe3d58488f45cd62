//! Bugs that tests plant, to see that the simulation finds them. None is there in a release.

/// One rule left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mutation {
    /// Messages leave before what they promise is on the disk.
    SendBeforeSync,
    /// A leader sends entries before its term is on the disk.
    LeadBeforeSync,
    /// The vote is not written.
    ForgetVote,
    /// The commit index is not written with the entries.
    ForgetCommit,
    /// Entries are applied when they are in the log, committed or not.
    ApplyBeforeCommit,
    /// A proposal is answered by what stands at its place, whoever wrote that.
    AnswerByIndex,
    /// A read asks nobody whether this node still leads.
    ReadWithoutQuorum,
    /// A read takes an answer to a read of an earlier run for its own.
    ReuseReadContexts,
    /// A voter that was removed goes on leading.
    LeadAfterRemoval,
}

/// What is planted in a node.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Planted {
    #[cfg(test)]
    pub(super) mutation: Option<Mutation>,
}

impl Planted {
    #[cfg(test)]
    pub(super) fn has(self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "nothing is ever planted in a release")]
    pub(super) const fn has(self, _: Mutation) -> bool {
        false
    }
}
