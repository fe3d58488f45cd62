//! Offsets: the dense numbers of records within a partition.
//!
//! All offsets of one partition keep one order, whatever happens:
//!
//! ```text
//!   log start offset  ≤  high watermark  ≤  log end offset
//!                        flushed end     ≤  log end offset
//!
//!   … deleted │ committed: readable │ not yet committed │ not yet written …
//!             ^ log start offset    ^ high watermark    ^ log end offset
//! ```
//!
//! Ends are exclusive: the log end offset is the first one not yet written, the high watermark the
//! first one not yet committed, the flushed end the first one not known to be on disk.

use std::fmt;

/// Place of a record in a partition: 0 ≤ offset ≤ `i64::MAX`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Offset(i64);

impl Offset {
    /// The first offset of every partition.
    pub const ZERO: Self = Self(0);
    /// The greatest one.
    pub const MAX: Self = Self(i64::MAX);

    /// `None` for a negative number, which on the wire means "no offset".
    pub const fn new(value: i64) -> Option<Self> {
        if value < 0 { None } else { Some(Self(value)) }
    }

    /// The number; never negative.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// The offset `n` records further on; `None` past the end of the number line.
    pub const fn checked_add(self, n: u64) -> Option<Self> {
        match self.0.checked_add_unsigned(n) {
            Some(value) => Some(Self(value)),
            None => None,
        }
    }

    /// The one after this. Saturates at [`Offset::MAX`], which no partition reaches.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// How many offsets lie in `earlier..self`; 0 if `earlier` is not earlier.
    pub const fn distance_from(self, earlier: Self) -> u64 {
        if earlier.0 >= self.0 { 0 } else { self.0.abs_diff(earlier.0) }
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_stays_on_the_number_line() {
        assert_eq!(Offset::new(-1), None);
        let five = Offset::new(5).unwrap();
        assert_eq!(five.checked_add(3).map(Offset::get), Some(8));
        assert_eq!(Offset::MAX.checked_add(1), None);
        assert_eq!(Offset::MAX.next(), Offset::MAX);
        assert_eq!(five.distance_from(Offset::new(2).unwrap()), 3);
        assert_eq!(Offset::ZERO.distance_from(five), 0);
    }
}
