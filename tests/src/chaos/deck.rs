//! What may go wrong, and in which order: kinds of faults are dealt from a shuffled deck, so that each
//! comes as often as any other. One seed is one order of faults, roles and times; what the processes make
//! of it is theirs.

use std::{fmt, time::Duration};

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// SIGKILL for the leader of a partition.
    KillLeader,
    /// SIGKILL for a follower of a partition.
    KillFollower,
    /// SIGKILL for the leader of the metadata quorum.
    KillQuorumLeader,
    /// SIGKILL for all of them at once.
    KillAll,
    /// SIGSTOP for the leader of a partition.
    PauseLeader,
    /// SIGSTOP for a follower of a partition.
    PauseFollower,
    /// SIGSTOP for the leader of the metadata quorum.
    PauseQuorumLeader,
    /// One node is not heard by another, which it hears.
    CutOneWay,
    /// Two nodes do not hear one another.
    CutBothWays,
    /// The leader of a partition hears no other node, and none hears it; clients reach it.
    IsolateLeader,
    /// The same with the leader of the metadata quorum.
    IsolateQuorumLeader,
    /// All connections between two nodes are dropped.
    Reset,
    /// What two nodes say to one another takes long.
    SlowLink,
    /// No room on the disk of one node.
    FullDisk,
    /// All nodes stop in order and start again, one after the other.
    RollingRestart,
    /// A partition is to be on other nodes, or on the same ones in another order.
    Move,
    /// What is sent to replicas that are being added is held back.
    Throttle,
    /// A node votes no more in the metadata quorum.
    TakeVote,
}

/// Chance, and what comes next.
#[derive(Debug)]
pub struct Deck {
    random: ChaCha8Rng,
    kinds: Vec<Kind>,
    left: Vec<Kind>,
}

// === impl Kind ===

impl Kind {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::KillLeader,
        Self::KillFollower,
        Self::KillQuorumLeader,
        Self::KillAll,
        Self::PauseLeader,
        Self::PauseFollower,
        Self::PauseQuorumLeader,
        Self::CutOneWay,
        Self::CutBothWays,
        Self::IsolateLeader,
        Self::IsolateQuorumLeader,
        Self::Reset,
        Self::SlowLink,
        Self::FullDisk,
        Self::RollingRestart,
        Self::Move,
        Self::Throttle,
        Self::TakeVote,
    ];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KillLeader => "kill a leader",
            Self::KillFollower => "kill a follower",
            Self::KillQuorumLeader => "kill the quorum's leader",
            Self::KillAll => "kill all",
            Self::PauseLeader => "pause a leader",
            Self::PauseFollower => "pause a follower",
            Self::PauseQuorumLeader => "pause the quorum's leader",
            Self::CutOneWay => "cut a link one way",
            Self::CutBothWays => "cut a link both ways",
            Self::IsolateLeader => "isolate a leader",
            Self::IsolateQuorumLeader => "isolate the quorum's leader",
            Self::Reset => "drop connections",
            Self::SlowLink => "slow a link",
            Self::FullDisk => "fill a disk",
            Self::RollingRestart => "restart all in turn",
            Self::Move => "move a partition",
            Self::Throttle => "throttle moves",
            Self::TakeVote => "take a vote",
        })
    }
}

// === impl Deck ===

impl Deck {
    /// A deck of these kinds.
    pub fn new(seed: u64, kinds: Vec<Kind>) -> Self {
        Self { random: ChaCha8Rng::seed_from_u64(seed), kinds, left: Vec::new() }
    }

    /// The next fault.
    pub fn draw(&mut self) -> Kind {
        if self.left.is_empty() {
            self.left = self.shuffled(&self.kinds.clone());
        }
        self.left.pop().expect("a deck has cards")
    }

    /// It could not be done now; it comes again, as the last of this deal.
    pub fn put_back(&mut self, kind: Kind) {
        self.left.insert(0, kind);
    }

    /// One of `0..n`.
    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.random.next_u64() % n as u64).expect("below a usize")
    }

    /// One of them.
    pub fn pick<T: Copy>(&mut self, among: &[T]) -> T {
        among[self.below(among.len())]
    }

    /// All of them, in any order.
    pub fn shuffled<T: Clone>(&mut self, all: &[T]) -> Vec<T> {
        let mut all = all.to_vec();
        for at in (1..all.len()).rev() {
            let other = self.below(at + 1);
            all.swap(at, other);
        }
        all
    }

    /// Two different ones of them.
    pub fn pick_two<T: Copy + PartialEq>(&mut self, among: &[T]) -> (T, T) {
        let first = self.below(among.len());
        let second = (first + 1 + self.below(among.len() - 1)) % among.len();
        (among[first], among[second])
    }

    /// Short ones are as likely as long ones: uniform in the logarithm.
    pub fn time(&mut self, from: Duration, to: Duration) -> Duration {
        let share = f64::from(u32::try_from(self.random.next_u64() >> 32).expect("32 bits"))
            / f64::from(u32::MAX);
        let (low, high) = (from.as_secs_f64().ln(), to.max(from).as_secs_f64().ln());
        Duration::from_secs_f64((low + (high - low) * share).exp())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_kind_comes_once_a_deal_and_a_seed_is_an_order() {
        let deal = |seed| {
            let mut deck = Deck::new(seed, Kind::ALL.to_vec());
            (0..36).map(|_| deck.draw()).collect::<Vec<_>>()
        };
        let kinds = deal(7);
        for half in kinds.chunks(18) {
            assert_eq!(half.iter().collect::<BTreeSet<_>>().len(), 18);
        }
        assert_eq!(kinds, deal(7));
        assert_ne!(kinds, deal(8));
    }

    #[test]
    fn what_was_put_back_comes_in_the_same_deal() {
        let mut deck = Deck::new(1, Kind::ALL.to_vec());
        let first = deck.draw();
        deck.put_back(first);
        let rest: BTreeSet<_> = (0..18).map(|_| deck.draw()).collect();
        assert_eq!(rest.len(), 18);
    }

    #[test]
    fn times_and_pairs_are_within_their_bounds() {
        let mut deck = Deck::new(1, Kind::ALL.to_vec());
        let (from, to) = (Duration::from_millis(100), Duration::from_secs(30));
        let mut short = 0;
        for _ in 0..1000 {
            let time = deck.time(from, to);
            assert!(
                time >= from - Duration::from_micros(1) && time <= to + Duration::from_micros(1)
            );
            short += usize::from(time < Duration::from_millis(1732));
            let (a, b) = deck.pick_two(&[1, 2, 3]);
            assert_ne!(a, b);
        }
        assert!((400..600).contains(&short), "half of them are below the geometric mean: {short}");
    }
}
