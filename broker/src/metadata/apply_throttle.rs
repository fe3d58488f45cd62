//! The rule of the throttle of moves: one value for the whole cluster, the last one set.

use super::{Delta, MetadataImage, Reply, command::SetMoveThrottle};

impl MetadataImage {
    /// Brokers follow it from the delta on. Nothing is expected of what was there before: whoever sets
    /// a throttle means what it says, whatever another has set meanwhile.
    pub(super) fn set_move_throttle(
        &mut self,
        command: SetMoveThrottle,
        deltas: &mut Vec<Delta>,
    ) -> Reply {
        let SetMoveThrottle { bytes_per_second } = command;
        if self.move_throttle != bytes_per_second {
            self.move_throttle = bytes_per_second;
            deltas.push(Delta::MoveThrottleChanged(bytes_per_second));
        }
        Reply::MoveThrottle(bytes_per_second)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::{
        super::{FeatureLevel, Rejection, snapshot, test_support::*},
        *,
    };

    #[test]
    fn the_last_one_set_holds_over_snapshots_and_is_told_when_it_changes() {
        let mut image = after(&[level_1(), level_2(), level_3(), level_4()]);
        assert_eq!(image.move_throttle(), None, "unless somebody asks for one");
        for (set, changes) in [(7, true), (7, false), (9, true), (0, true), (0, false), (5, true)] {
            let rate = NonZeroU64::new(set);
            let applied = apply(&image, &throttle(set));
            assert_eq!(applied.outcome, Ok(Reply::MoveThrottle(rate)));
            let told = changes.then_some(Delta::MoveThrottleChanged(rate));
            assert_eq!(applied.deltas, Vec::from_iter(told), "{set}");
            assert_eq!(Delta::between(&image, &applied.image), applied.deltas);
            image = snapshot::decode(&snapshot::encode(&applied.image)).unwrap();
            assert_eq!((&image, image.move_throttle()), (&applied.image, rate));
        }
    }

    #[test]
    fn before_its_feature_level_there_is_none() {
        let image = after(&[level_1(), level_2(), level_3()]);
        let refused = apply(&image, &throttle(7)).outcome.unwrap_err();
        let (needed, current) = (FeatureLevel::V4, FeatureLevel::V3);
        assert_eq!(refused, Rejection::FeatureLevelTooLow { needed, current });
    }
}
