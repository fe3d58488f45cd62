//! Places in the metadata log.

use std::fmt;

/// Index of an entry of the metadata log; an image at offset *n* has applied all up to and including
/// *n*. Zero is before the first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MetadataOffset(u64);

impl MetadataOffset {
    /// Before the first entry.
    pub const ZERO: Self = Self(0);

    /// `None` past `i64::MAX`, which broker epochs (signed on the wire) could not carry.
    pub const fn new(index: u64) -> Option<Self> {
        if index <= i64::MAX as u64 { Some(Self(index)) } else { None }
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The one after this. Saturates; a million a second take 292 thousand years to get there.
    #[must_use]
    pub const fn next(self) -> Self {
        if self.0 < i64::MAX as u64 { Self(self.0 + 1) } else { self }
    }
}

impl fmt::Display for MetadataOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for MetadataOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{}", self.0)
    }
}
