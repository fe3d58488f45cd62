//! Persisted forms since feature level 4: the throttle of moves, and the snapshot that has it. As in
//! [`wire`](super::wire), a form never changes.

use std::num::NonZeroU64;

use super::{
    Command, MetadataImage,
    command::SetMoveThrottle,
    wire::{BadField, Parsed},
    wire_drain::ImageV3,
};

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SetMoveThrottleV1 {
    /// 0: none.
    #[prost(uint64, tag = "1")]
    bytes_per_second: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ImageV4 {
    #[prost(message, required, tag = "1")]
    image: ImageV3,
    /// 0: none.
    #[prost(uint64, tag = "2")]
    move_bytes_per_second: u64,
}

impl From<&SetMoveThrottle> for SetMoveThrottleV1 {
    fn from(command: &SetMoveThrottle) -> Self {
        Self { bytes_per_second: number(command.bytes_per_second) }
    }
}

impl TryFrom<SetMoveThrottleV1> for Command {
    type Error = BadField;

    fn try_from(form: SetMoveThrottleV1) -> Parsed<Self> {
        let bytes_per_second = NonZeroU64::new(form.bytes_per_second);
        Ok(Self::SetMoveThrottle(SetMoveThrottle { bytes_per_second }))
    }
}

impl From<&MetadataImage> for ImageV4 {
    fn from(image: &MetadataImage) -> Self {
        Self { image: image.into(), move_bytes_per_second: number(image.move_throttle()) }
    }
}

impl TryFrom<ImageV4> for MetadataImage {
    type Error = BadField;

    fn try_from(form: ImageV4) -> Parsed<Self> {
        let mut image = Self::try_from(form.image)?;
        image.move_throttle = NonZeroU64::new(form.move_bytes_per_second);
        Ok(image)
    }
}

fn number(bytes_per_second: Option<NonZeroU64>) -> u64 {
    bytes_per_second.map_or(0, NonZeroU64::get)
}
