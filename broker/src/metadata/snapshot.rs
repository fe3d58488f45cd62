//! An image as bytes: for the disk, and for a broker that is too far behind for the log.
//!
//! ```text
//!   magic "RRIMAGE\0" │ version u32 LE │ crc32 u32 LE over all that follows │ fields (see `wire`)
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use thiserror::Error;

use super::{
    FeatureLevel, MetadataImage,
    record::strict,
    wire::{BadField, ImageV1},
    wire_cluster::ImageV2,
    wire_drain::ImageV3,
    wire_throttle::ImageV4,
};

const MAGIC: [u8; 8] = *b"RRIMAGE\0";
/// Up to feature level 1, which knows no clusters; an older binary can read it.
const V1: u32 = 1;
/// Of feature level 2.
const V2: u32 = 2;
/// Of feature level 3.
const V3: u32 = 3;
/// From feature level 4 on.
const V4: u32 = 4;
const HEADER_BYTES: usize = 16;

/// Bytes that are no image, or none this binary can use.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SnapshotError {
    /// Something else, or cut short.
    #[error("this is no metadata snapshot")]
    NoSnapshot,
    /// Written by a newer binary.
    #[error(
        "the metadata snapshot has format version {0}, this binary knows up to {V4}: start the \
         version of Riverrun that wrote it or a later one"
    )]
    NewerVersion(u32),
    /// The log went on by rules this binary does not know.
    #[error(
        "the metadata snapshot is at feature level {0}, this binary knows levels up to {latest}: \
         start the version of Riverrun that wrote it or a later one",
        latest = FeatureLevel::LATEST
    )]
    NewerFeatureLevel(FeatureLevel),
    /// Not the bytes that were written.
    #[error("the metadata snapshot is corrupt: its checksum is {found:08x}, not {expected:08x}")]
    Corrupt {
        /// As stored.
        expected: u32,
        /// As computed.
        found: u32,
    },
    /// Intact, and wrong all the same.
    #[error("the metadata snapshot is malformed: {0}")]
    Malformed(String),
}

/// The bytes of an image. Equal images make equal bytes.
pub fn encode(image: &MetadataImage) -> Bytes {
    match form_of(image.feature_level()) {
        V1 => wrap(V1, &ImageV1::from(image)),
        V2 => wrap(V2, &ImageV2::from(image)),
        V3 => wrap(V3, &ImageV3::from(image)),
        newest => wrap(newest, &ImageV4::from(image)),
    }
}

/// Each level is written in the oldest form that can say it.
fn form_of(level: FeatureLevel) -> u32 {
    match level {
        level if level < FeatureLevel::V2 => V1,
        level if level < FeatureLevel::V3 => V2,
        level if level < FeatureLevel::V4 => V3,
        _ => V4,
    }
}

fn wrap(version: u32, form: &impl Message) -> Bytes {
    let mut bytes = BytesMut::with_capacity(HEADER_BYTES + form.encoded_len());
    bytes.put_slice(&MAGIC);
    bytes.put_u32_le(version);
    bytes.put_u32_le(0);
    form.encode(&mut bytes).expect("a BytesMut grows");
    let crc = crc32fast::hash(&bytes[HEADER_BYTES..]);
    bytes[12..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    bytes.freeze()
}

/// The image that bytes hold, checked as a whole: a snapshot installed is believed from then on.
pub fn decode(bytes: &[u8]) -> Result<MetadataImage, SnapshotError> {
    let Some((header, fields)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Err(SnapshotError::NoSnapshot);
    };
    let [m @ .., v0, v1, v2, v3, c0, c1, c2, c3] = *header;
    if m != MAGIC {
        return Err(SnapshotError::NoSnapshot);
    }
    let version = u32::from_le_bytes([v0, v1, v2, v3]);
    if !(V1..=V4).contains(&version) {
        return Err(SnapshotError::NewerVersion(version));
    }
    let (expected, found) = (u32::from_le_bytes([c0, c1, c2, c3]), crc32fast::hash(fields));
    if expected != found {
        return Err(SnapshotError::Corrupt { expected, found });
    }
    let image = match version {
        V1 => form::<ImageV1>(fields),
        V2 => form::<ImageV2>(fields),
        V3 => form::<ImageV3>(fields),
        _ => form::<ImageV4>(fields),
    }?;
    if form_of(image.feature_level()) != version {
        return Err(SnapshotError::Malformed("its form is not that of its feature level".into()));
    }
    if image.feature_level() > FeatureLevel::LATEST {
        return Err(SnapshotError::NewerFeatureLevel(image.feature_level()));
    }
    match image.violation() {
        None => Ok(image),
        Some(violation) => Err(SnapshotError::Malformed(violation)),
    }
}

fn form<T>(fields: &[u8]) -> Result<MetadataImage, SnapshotError>
where
    T: Message + Default,
    MetadataImage: TryFrom<T, Error = BadField>,
{
    let form: T = strict(fields).map_err(SnapshotError::Malformed)?;
    MetadataImage::try_from(form)
        .map_err(|BadField(field)| SnapshotError::Malformed(format!("a {field} in it is invalid")))
}

#[cfg(test)]
#[path = "snapshot_test.rs"]
mod tests;
