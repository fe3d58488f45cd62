//! Random walks: where the search is wide and shallow, these are narrow and deep.

use std::collections::BTreeSet;

use crate::{
    cluster::{Cluster, Message},
    metadata,
    model::{Search, Step},
    replica::{self, frame::LeaderFrame},
};

/// What came of some walks.
#[derive(Debug)]
pub struct Walked {
    /// How many steps were taken.
    pub transitions: u64,
    /// What went wrong first: which law, with which seed, by which steps.
    pub found: Option<(&'static str, u64, Vec<Step>)>,
    /// What happened on the way.
    pub seen: Vec<&'static str>,
}

/// Numbers that look random and are the same for the same seed.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// Different numbers for different seeds.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// One of `0..n`.
    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 11) % n as u64).expect("below n")
    }
}

impl<R: replica::Rules, C: metadata::Rules> Search<R, C> {
    /// Walks from the first state, with each of these seeds, until something is wrong, nothing can
    /// happen any more or `length` steps were taken; then lets everything settle.
    pub fn walk(&self, seeds: impl IntoIterator<Item = u64>, length: usize) -> Walked {
        let mut transitions = 0;
        let mut steps = Vec::new();
        let mut seen = BTreeSet::new();
        for seed in seeds {
            let mut random = Random::new(seed);
            let mut cluster = Cluster::new(&self.setup);
            let mut trace = Vec::new();
            while trace.len() < length {
                steps.clear();
                self.steps(&cluster, &mut steps);
                if steps.is_empty() {
                    break;
                }
                let step = steps[random.below(steps.len())];
                let Some(next) = self.after(&cluster, step) else { continue };
                if !self.within(&next) {
                    break;
                }
                look(&cluster, &next, &mut seen);
                cluster = next;
                trace.push(step);
                transitions += 1;
                if let Some(law) = cluster.violation() {
                    return Walked {
                        transitions,
                        found: Some((law, seed, trace)),
                        seen: list(seen),
                    };
                }
            }
            if let Some(law) = cluster.settle(&self.setup) {
                return Walked { transitions, found: Some((law, seed, trace)), seen: list(seen) };
            }
        }
        Walked { transitions, found: None, seen: list(seen) }
    }
}

fn list(seen: BTreeSet<&'static str>) -> Vec<&'static str> {
    seen.into_iter().collect()
}

fn look<R: replica::Rules>(
    before: &Cluster<R>,
    after: &Cluster<R>,
    seen: &mut BTreeSet<&'static str>,
) {
    let (was, is) = (before.partition(), after.partition());
    let shrank = |i: usize| after.node(i).up && after.node(i).log.len() < before.node(i).log.len();
    let parts = |message: &Message| {
        matches!(message, Message::Frame { frame: LeaderFrame::Diverging(_), .. })
    };
    let facts = [
        ("commits after an election", after.committed.last().is_some_and(|r| r.epoch.get() > 0)),
        ("eligible leaders outside the ISR", !is.elr.is_empty()),
        ("leaders elected from outside the ISR", {
            is.leader.is_some_and(|id| was.elr.contains(&id))
        }),
        ("unclean elections", is.unclean_epoch != was.unclean_epoch),
        ("logs that part", after.network.iter().any(parts)),
        ("truncations", (0..crate::cluster::N).any(shrank)),
        ("members that join", is.isr.len() > was.isr.len()),
        ("members that leave", is.isr.len() < was.isr.len()),
        ("restarts", after.restarts > before.restarts),
        ("reassignments completed", was.reassignment.is_some() && is.reassignment.is_none()),
    ];
    seen.extend(facts.iter().filter(|(_, is_so)| *is_so).map(|(fact, _)| *fact));
}
