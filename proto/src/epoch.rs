//! Epochs: numbers that only grow, each of its own type so that they cannot be mixed up.
//!
//! | epoch | grows when | guards against |
//! |---|---|---|
//! | [`LeaderEpoch`] | a partition gets a leader (also the same one again) | old leaders, diverging logs |
//! | [`PartitionEpoch`] | anything of a partition's registration changes | two changes at once |
//! | [`BrokerEpoch`] | a broker process registers | what an earlier process of that broker sent |

use std::fmt;

macro_rules! epoch {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name($inner);

        impl $name {
            /// The first one.
            pub const ZERO: Self = Self(0);

            /// `value` must not be negative: a negative number stands for "none" on the wire only.
            pub const fn new(value: $inner) -> Option<Self> {
                if value < 0 { None } else { Some(Self(value)) }
            }

            /// The number.
            pub const fn get(self) -> $inner {
                self.0
            }

            /// The one after this. Saturates: at one a millisecond the end is decades away.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

epoch! {
    /// One leadership term of one partition; stamped into every batch by the leader that wrote it.
    LeaderEpoch(i32)
}
epoch! {
    /// Version of a partition's registration (leader, ISR, replicas): the compare-and-set token.
    PartitionEpoch(i32)
}
epoch! {
    /// One registration of one broker process: the metadata offset of its registration record.
    BrokerEpoch(i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negative_is_none_and_next_grows() {
        assert_eq!(LeaderEpoch::new(-1), None);
        assert_eq!(LeaderEpoch::ZERO.next(), LeaderEpoch::new(1).unwrap());
        assert_eq!(LeaderEpoch::new(i32::MAX).unwrap().next().get(), i32::MAX);
        assert_eq!(format!("{:?} {}", BrokerEpoch::ZERO, BrokerEpoch::ZERO), "BrokerEpoch(0) 0");
    }
}
