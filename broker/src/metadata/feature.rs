//! Feature levels: which rules `apply` follows, agreed on by the whole cluster.
//!
//! All nodes must compute the same image from the same log, also while some of them run a newer
//! binary. So a new kind of command, or a new way to judge an old one, is written only once the
//! level that introduced it has been set by a record of the same log.

use std::fmt;

/// The rules in force. Zero: a log in which no level has been set yet; it takes nothing but that.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct FeatureLevel(u32);

impl FeatureLevel {
    /// No level set.
    pub const NONE: Self = Self(0);
    /// Brokers, topics, configurations, producer ids.
    pub const V1: Self = Self(1);
    /// Clusters: brokers that come and go, elections, reassignments.
    pub const V2: Self = Self(2);
    /// Brokers that are drained and removed.
    pub const V3: Self = Self(3);
    /// Moves of replicas that are throttled.
    pub const V4: Self = Self(4);
    /// The highest this binary knows.
    pub const LATEST: Self = Self::V4;
    /// What a new log begins at. A broker alone needs no more, and an older binary can still read it;
    /// whoever makes a cluster of it raises it.
    pub const INITIAL: Self = Self::V1;

    /// Any number: records may name levels this binary does not know.
    pub const fn new(level: u32) -> Self {
        Self(level)
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for FeatureLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The levels a broker's binary can run at, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FeatureRange {
    /// The lowest.
    pub min: FeatureLevel,
    /// The highest.
    pub max: FeatureLevel,
}

impl FeatureRange {
    /// Those of this binary.
    pub const SUPPORTED: Self = Self { min: FeatureLevel::V1, max: FeatureLevel::LATEST };

    /// Whether `level` lies within.
    pub fn contains(self, level: FeatureLevel) -> bool {
        self.min <= level && level <= self.max
    }
}

impl fmt::Display for FeatureRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.min, self.max)
    }
}
