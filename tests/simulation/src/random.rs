//! The one source of chance of a run. ChaCha's numbers are fixed by its definition: a seed in a bug
//! report means the same run for as long as the code is the same.

use std::time::Duration;

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};

/// Numbers that look random and are the same for the same seed.
#[derive(Debug, Clone)]
pub struct Random(ChaCha8Rng);

impl Random {
    /// The numbers of this seed.
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// One of `0..n`; 0 if there is none.
    pub fn below(&mut self, n: u64) -> u64 {
        if n == 0 { 0 } else { self.number() % n }
    }

    /// One of `from..=to`.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to.saturating_sub(from) + 1)
    }

    /// True so many times of a thousand.
    pub fn permille(&mut self, of: u64) -> bool {
        self.below(1000) < of
    }

    /// One of them.
    pub fn pick<T: Clone>(&mut self, among: &[T]) -> T {
        let at = usize::try_from(self.below(among.len() as u64)).expect("below a length");
        among[at].clone()
    }

    /// An index of a list of `n`.
    pub fn index(&mut self, n: usize) -> usize {
        usize::try_from(self.below(n as u64)).expect("below a length")
    }

    /// Milliseconds within these bounds, with microseconds.
    pub fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_micros(self.between(from * 1000, to * 1000))
    }

    /// Uniform in `0.0..1.0`.
    pub fn unit(&mut self) -> f64 {
        let bits = u32::try_from(self.number() >> 32).expect("32 bits");
        f64::from(bits) / (f64::from(u32::MAX) + 1.0)
    }
}
