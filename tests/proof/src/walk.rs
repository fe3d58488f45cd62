//! Random walks: where the search is wide and shallow, these are narrow and deep.

use crate::{
    cluster::Cluster,
    metadata,
    model::{Search, Step},
    replica,
};

/// What came of some walks.
#[derive(Debug)]
pub struct Walked {
    /// How many steps were taken.
    pub transitions: u64,
    /// What went wrong first: which law, with which seed, by which steps.
    pub found: Option<(&'static str, u64, Vec<Step>)>,
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
    /// happen any more or `length` steps were taken.
    pub fn walk(&self, seeds: impl IntoIterator<Item = u64>, length: usize) -> Walked {
        let mut transitions = 0;
        let mut steps = Vec::new();
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
                cluster = next;
                trace.push(step);
                transitions += 1;
                if let Some(law) = cluster.violation() {
                    return Walked { transitions, found: Some((law, seed, trace)) };
                }
            }
        }
        Walked { transitions, found: None }
    }
}
