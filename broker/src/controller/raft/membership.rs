//! Who votes, and how that is changed.
//!
//! A voter comes in as a learner: it is sent the log and has no say. Once it has caught up it may
//! vote. Several steps are one change: a voter is replaced by `[Vote(new), Leave(old)]`, which goes
//! through a joint configuration, where both sets have to agree, and out of it again by itself.
//!
//! # From one node to three
//! The log of a single broker is the log of a quorum of one. Opened by a
//! [`RaftQuorum`](super::RaftQuorum), it is the first voter; each other node is formatted with
//! [`MetaProperties::open_or_join`](crate::controller::MetaProperties::open_or_join), then
//! `change(&[Listen(node)])` and, when that one has caught up, `change(&[Vote(node)])`. A node whose
//! disk was lost is formatted again: a new directory, and so a new voter, which takes the place of
//! the old one with `[Vote(new), Leave(old)]`. It never comes back under its old name, for it has
//! forgotten what it voted and acknowledged.

use protobuf::Message as _;
use raft::eraftpb::{
    ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState,
};
use riverrun_proto::ids::BrokerId;
use thiserror::Error;

use crate::controller::frame::{Mark, Membership, Voter, VoterId};

/// How far behind the committed end a learner may be to become a voter. A voter that is further
/// behind could hold up everything until it has caught up.
pub(super) const PROMOTION_LAG_MAX: u64 = 128;

/// Part of a change of who votes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A new node is sent the log.
    Listen(Voter),
    /// A node that listens votes from now on.
    Vote(VoterId),
    /// A voter or listener goes.
    Leave(VoterId),
}

/// Why a change of voters was not, or not certainly, made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ChangeError {
    /// Another node leads, or none does.
    #[error("this node does not lead the metadata quorum")]
    NotLeader {
        /// Who may lead, as far as known here.
        leader: Option<BrokerId>,
    },
    /// One at a time.
    #[error("another change of the quorum is under way; try again when it is made")]
    InProgress,
    /// It would not be the change that was asked for.
    #[error("{0}")]
    Refused(String),
    /// It could take the quorum down.
    #[error(
        "{node:?} is {behind} entries behind and cannot vote yet; try again when it has caught up"
    )]
    NotCaughtUp {
        /// Which node.
        node: BrokerId,
        /// How far.
        behind: u64,
    },
    /// The leader says that it cannot be made just now, and why.
    #[error("{0}")]
    NotYet(String),
    /// It may come into force or not.
    #[error("it is not known whether the quorum was changed ({0}); look at it, then try again")]
    OutcomeUnknown(String),
}

impl ChangeError {
    /// Whether the same change may be made later, or on the node that leads.
    pub const fn is_retriable(&self) -> bool {
        !matches!(self, Self::Refused(_))
    }

    /// Whether it is certain that nothing changed.
    pub const fn is_definite(&self) -> bool {
        !matches!(self, Self::OutcomeUnknown(_))
    }
}

/// The change as Raft has it, if it makes sense where `now` is in force. Who comes in is named in
/// its context: numbers alone would not say which node on which disk it is.
pub(super) fn encode(steps: &[Step], now: &Membership) -> Result<ConfChangeV2, ChangeError> {
    let refused = |why: String| Err(ChangeError::Refused(why));
    let mut change = ConfChangeV2::default();
    let mut coming = Membership::default();
    let mut named = Vec::new();
    let mut voters = now.voters.len();
    for step in steps {
        let (kind, id) = match *step {
            Step::Listen(voter) => {
                if voter.id != VoterId::of(voter.directory) {
                    return refused(format!("{:?} is not named after its directory", voter.node));
                }
                if now.all().any(|known| known.id == voter.id) {
                    return refused(format!("{:?} with this directory is known", voter.node));
                }
                coming.learners.push(voter);
                (ConfChangeType::AddLearnerNode, voter.id)
            }
            Step::Vote(id) => {
                if !now.learners.iter().any(|known| known.id == id) {
                    return refused(format!("{id:?} does not listen: it cannot become a voter"));
                }
                voters += 1;
                (ConfChangeType::AddNode, id)
            }
            Step::Leave(id) => {
                if !now.all().any(|known| known.id == id) {
                    return refused(format!("{id:?} is not in the quorum"));
                }
                voters -= usize::from(now.voters.iter().any(|known| known.id == id));
                (ConfChangeType::RemoveNode, id)
            }
        };
        if named.contains(&id) {
            return refused(format!("{id:?} is named twice"));
        }
        named.push(id);
        let mut single = ConfChangeSingle::default();
        single.set_change_type(kind);
        single.node_id = id.0;
        change.mut_changes().push(single);
    }
    if steps.is_empty() {
        return refused("it changes nothing".into());
    }
    if voters == 0 {
        return refused("the last voter cannot leave".into());
    }
    change.set_transition(ConfChangeTransition::Auto);
    change.context = coming.encode().into();
    Ok(change)
}

/// A change as it stands in the log.
pub(super) fn decode(record: &[u8]) -> Result<ConfChangeV2, String> {
    ConfChangeV2::parse_from_bytes(record).map_err(|why| why.to_string())
}

/// Who votes where Raft says `state`, and `before` held until the change.
pub(super) fn after(
    change: &ConfChangeV2,
    state: &ConfState,
    before: &Membership,
    at: Mark,
) -> Result<Membership, String> {
    let coming = Membership::decode(at, &change.context).map_err(|why| format!("{why:?}"))?;
    let find = |id: &u64| {
        let mut known = coming.all().chain(before.all());
        known.find(|voter| voter.id.0 == *id).copied().ok_or_else(|| format!("{id} has no name"))
    };
    let named = |ids: &[u64]| {
        let mut voters = ids.iter().map(find).collect::<Result<Vec<_>, _>>()?;
        voters.sort_unstable_by_key(|voter| voter.id);
        Ok::<_, String>(voters)
    };
    Ok(Membership {
        at,
        voters: named(&state.voters)?,
        learners: named(&state.learners)?,
        outgoing: named(&state.voters_outgoing)?,
        learners_next: named(&state.learners_next)?,
        auto_leave: state.auto_leave,
    })
}

/// Who votes, as Raft has it.
pub(super) fn conf_state(membership: &Membership) -> ConfState {
    let ids = |voters: &[Voter]| voters.iter().map(|voter| voter.id.0).collect::<Vec<_>>();
    ConfState {
        voters: ids(&membership.voters),
        learners: ids(&membership.learners),
        voters_outgoing: ids(&membership.outgoing),
        learners_next: ids(&membership.learners_next),
        auto_leave: membership.auto_leave,
        ..ConfState::default()
    }
}
