//! The envelope around every file of a partition: magic, kind, version, length, checksum (bytes in
//! [`super::layout`]).
//!
//! The checksum is looked at before the version: a newer version is believed only if its bytes are
//! whole, so a flipped bit in the version is "broken", not "upgrade first".

use super::layout::{ENVELOPE_BYTES, FileKind, MAGIC};

/// Why the content of a file is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Written by a newer Riverrun: whole, but not ours to read.
    #[error(
        "it has format version {found}, this broker reads up to {known}: start a newer version of \
         Riverrun on this directory"
    )]
    Newer {
        /// The version it has.
        found: u16,
        /// The newest that we read.
        known: u16,
    },
    /// Not what was written.
    #[error("it is broken: {0}")]
    Broken(&'static str),
}

/// Puts `body` into an envelope.
pub fn wrap(kind: FileKind, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(ENVELOPE_BYTES + body.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&kind.code().to_le_bytes());
    bytes.extend_from_slice(&kind.version().to_le_bytes());
    let len = u32::try_from(body.len()).expect("bodies are bounded far below 4 GiB");
    bytes.extend_from_slice(&len.to_le_bytes());
    let crc = checksum(&bytes, body);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// Takes the body out of an envelope; `bytes` may go on behind it.
pub fn unwrap(kind: FileKind, bytes: &[u8]) -> Result<&[u8], FormatError> {
    let (head, rest) =
        bytes.split_at_checked(ENVELOPE_BYTES).ok_or(FormatError::Broken("it is too short"))?;
    if head[..4] != MAGIC {
        return Err(FormatError::Broken("it does not begin with our magic bytes"));
    }
    let len = u32::from_le_bytes([head[8], head[9], head[10], head[11]]) as usize;
    let body = rest.get(..len).ok_or(FormatError::Broken("it is shorter than it says"))?;
    let crc = u32::from_le_bytes([head[12], head[13], head[14], head[15]]);
    if checksum(&head[..12], body) != crc {
        return Err(FormatError::Broken("its checksum does not match"));
    }
    if u16::from_le_bytes([head[4], head[5]]) != kind.code() {
        return Err(FormatError::Broken("it is a file of another kind"));
    }
    let found = u16::from_le_bytes([head[6], head[7]]);
    match found {
        0 => Err(FormatError::Broken("there is no version 0")),
        found if found > kind.version() => Err(FormatError::Newer { found, known: kind.version() }),
        _ => Ok(body),
    }
}

fn checksum(head: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(body);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_envelope_is_what_the_catalogue_says() {
        let bytes = wrap(FileKind::Checkpoint, b"abc");
        assert_eq!(bytes[..12], *b"RRUN\x07\0\x01\0\x03\0\0\0");
        assert_eq!(bytes[16..], *b"abc");
        assert_eq!(unwrap(FileKind::Checkpoint, &bytes), Ok(&b"abc"[..]));
    }

    #[test]
    fn a_newer_version_is_named_and_a_broken_one_is_not_taken_for_newer() {
        let mut bytes = wrap(FileKind::Segment, b"body");
        bytes[6] = 9;
        assert!(matches!(unwrap(FileKind::Segment, &bytes), Err(FormatError::Broken(_))));
        let crc = checksum(&bytes[..12], b"body");
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        let error = unwrap(FileKind::Segment, &bytes).unwrap_err();
        assert_eq!(error, FormatError::Newer { found: 9, known: 1 });
        assert!(error.to_string().contains("start a newer version"), "{error}");
    }

    #[test]
    fn a_file_of_another_kind_is_refused() {
        let bytes = wrap(FileKind::LeaderEpochs, b"");
        assert!(matches!(unwrap(FileKind::Checkpoint, &bytes), Err(FormatError::Broken(_))));
    }

    proptest! {
        #[test]
        fn any_flipped_bit_and_any_cut_is_noticed(
            body in proptest::collection::vec(any::<u8>(), 0..64),
            place in any::<proptest::sample::Index>(),
            bit in 0..8u8,
        ) {
            let whole = wrap(FileKind::Checkpoint, &body);
            let at = place.index(whole.len());
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << bit;
            prop_assert!(unwrap(FileKind::Checkpoint, &flipped).is_err());
            prop_assert!(unwrap(FileKind::Checkpoint, &whole[..at]).is_err());
        }
    }
}
