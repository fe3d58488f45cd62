//! The codecs, and compressing with them the way Kafka's readers expect.
//!
//! | id | codec | form | levels |
//! |---|---|---|---|
//! | 0 | none | | |
//! | 1 | gzip | RFC 1952 | 0 to 9, default 6 |
//! | 2 | snappy | blocks of at most 32 KiB in xerial's framing (snappy-java) | |
//! | 3 | lz4 | LZ4 frame, independent blocks of 64 KiB, no checksums: what Kafka's Java reader takes | |
//! | 4 | zstd | one frame that declares its size | as zstd, 1 to 22 and negative, default 3 |
//!
//! Frames carry no checksums of their own: the batch's CRC covers the compressed bytes.

use std::{fmt, io::Write, ops::RangeInclusive, str::FromStr};

use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
use thiserror::Error;

/// Start of xerial's framing: its magic, version 1, compatible down to version 1.
pub(super) const XERIAL_HEADER: &[u8; 16] = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
/// Block size of snappy-java's stream, which Kafka's producers use.
const SNAPPY_BLOCK_BYTES: usize = 32 * 1024;

/// How the records of a batch are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Codec {
    /// Not at all.
    #[default]
    None,
    /// gzip: for old readers; zstd is smaller and faster.
    Gzip,
    /// snappy: fast, weak.
    Snappy,
    /// LZ4: as fast, often a little smaller.
    Lz4,
    /// Zstandard: small at a fair speed.
    Zstd,
}

/// A codec number or name that means nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0} is no codec: they are none (0), gzip (1), snappy (2), lz4 (3) and zstd (4)")]
pub struct UnknownCodec(pub String);

// === impl Codec ===

impl Codec {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// Its number in a batch's attributes.
    pub const fn id(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    /// From its number.
    pub fn from_id(id: u8) -> Result<Self, UnknownCodec> {
        Self::ALL.get(usize::from(id)).copied().ok_or_else(|| UnknownCodec(id.to_string()))
    }

    /// Its name in Kafka's configuration (`compression.type`).
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// The levels it takes; `None` if it has none.
    pub fn levels(self) -> Option<RangeInclusive<i32>> {
        match self {
            Self::None | Self::Snappy | Self::Lz4 => None,
            Self::Gzip => Some(0..=9),
            Self::Zstd => Some(zstd::compression_level_range()),
        }
    }

    /// Its default level; 0 if it has none. Kafka's defaults.
    pub const fn default_level(self) -> i32 {
        match self {
            Self::None | Self::Snappy | Self::Lz4 => 0,
            Self::Gzip => 6,
            Self::Zstd => 3,
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Codec {
    type Err = UnknownCodec;

    fn from_str(name: &str) -> Result<Self, UnknownCodec> {
        Self::ALL
            .into_iter()
            .find(|codec| codec.name() == name)
            .ok_or_else(|| UnknownCodec(format!("{name:?}")))
    }
}

/// Compresses records; keep one per thread of work, since making the codecs' tables anew for each
/// batch costs more than compressing a small one.
#[derive(Default)]
pub struct Compressor {
    /// Made with the first snappy batch.
    snappy: Option<snap::raw::Encoder>,
    /// Made with the first zstd batch: it holds up to some MiB, more with the level.
    zstd: Option<zstd::bulk::Compressor<'static>>,
}

// === impl Compressor ===

impl Compressor {
    /// A new one; takes memory when it is first used.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends `records` to `out`, compressed. A level outside [`Codec::levels`] is taken to the
    /// nearest in it.
    pub(super) fn compress(
        &mut self,
        codec: Codec,
        level: Option<i32>,
        records: &[u8],
        out: &mut Vec<u8>,
    ) {
        let level = match codec.levels() {
            Some(levels) => {
                level.unwrap_or(codec.default_level()).clamp(*levels.start(), *levels.end())
            }
            None => 0,
        };
        match codec {
            Codec::None => out.extend_from_slice(records),
            Codec::Gzip => compress_gzip(level, records, out),
            Codec::Snappy => self.compress_snappy(records, out),
            Codec::Lz4 => compress_lz4(records, out),
            Codec::Zstd => self.compress_zstd(level, records, out),
        }
    }

    fn compress_snappy(&mut self, records: &[u8], out: &mut Vec<u8>) {
        let snappy = self.snappy.get_or_insert_with(snap::raw::Encoder::new);
        out.extend_from_slice(XERIAL_HEADER);
        for block in records.chunks(SNAPPY_BLOCK_BYTES) {
            let length_at = out.len();
            let block_at = length_at + 4;
            out.resize(block_at + snap::raw::max_compress_len(block.len()), 0);
            let bytes = snappy
                .compress(block, &mut out[block_at..])
                .expect("a block of 32 KiB into room for the worst case");
            out.truncate(block_at + bytes);
            let bytes = u32::try_from(bytes).expect("about 32 KiB");
            out[length_at..block_at].copy_from_slice(&bytes.to_be_bytes());
        }
    }

    fn compress_zstd(&mut self, level: i32, records: &[u8], out: &mut Vec<u8>) {
        const WHY: &str = "zstd fails only for want of memory";
        let zstd = self.zstd.get_or_insert_with(|| zstd::bulk::Compressor::new(level).expect(WHY));
        zstd.set_compression_level(level).expect("the level is within bounds");
        let at = out.len();
        out.resize(at + zstd::zstd_safe::compress_bound(records.len()), 0);
        let bytes = zstd.compress_to_buffer(records, &mut out[at..]).expect(WHY);
        out.truncate(at + bytes);
    }
}

impl fmt::Debug for Compressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compressor").field("zstd", &self.zstd.is_some()).finish_non_exhaustive()
    }
}

fn compress_gzip(level: i32, records: &[u8], out: &mut Vec<u8>) {
    let level = flate2::Compression::new(level.cast_unsigned());
    let mut encoder = flate2::write::GzEncoder::new(out, level);
    encoder.write_all(records).expect("a Vec takes all bytes");
    encoder.finish().expect("a Vec takes all bytes");
}

fn compress_lz4(records: &[u8], out: &mut Vec<u8>) {
    let frame = FrameInfo::new().block_mode(BlockMode::Independent).block_size(BlockSize::Max64KB);
    let mut encoder = FrameEncoder::with_frame_info(frame, out);
    encoder.write_all(records).expect("a Vec takes all bytes");
    encoder.finish().expect("a Vec takes all bytes");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_round_trip() {
        for codec in Codec::ALL {
            assert_eq!(Codec::from_id(codec.id()), Ok(codec));
            assert_eq!(codec.to_string().parse(), Ok(codec));
            if let Some(levels) = codec.levels() {
                assert!(levels.contains(&codec.default_level()), "{codec}");
            }
        }
        assert_eq!(Codec::from_id(5), Err(UnknownCodec("5".to_owned())));
        assert_eq!("LZ4".parse::<Codec>(), Err(UnknownCodec("\"LZ4\"".to_owned())));
    }

    #[test]
    fn levels_outside_the_range_are_taken_to_the_nearest() {
        let records = b"abcabcabcabc".repeat(100);
        for codec in [Codec::Gzip, Codec::Zstd] {
            let levels = codec.levels().unwrap();
            for (far, near) in [(i32::MIN, *levels.start()), (i32::MAX, *levels.end())] {
                let [mut a, mut b] = [vec![], vec![]];
                Compressor::new().compress(codec, Some(far), &records, &mut a);
                Compressor::new().compress(codec, Some(near), &records, &mut b);
                assert_eq!(a, b, "{codec} {far}");
            }
        }
    }

    /// snappy-java reads into blocks of a size it knows.
    #[test]
    fn snappys_blocks_are_small_enough_for_java() {
        let mut out = vec![];
        Compressor::new().compress(Codec::Snappy, None, &[7; 100_000], &mut out);
        let (header, mut blocks) = out.split_at(16);
        assert_eq!(header, b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01");
        let mut sizes = vec![];
        while let Some((length, rest)) = blocks.split_first_chunk() {
            let (block, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
            sizes.push(snap::raw::decompress_len(block).unwrap());
            blocks = rest;
        }
        assert_eq!(sizes, [32_768, 32_768, 32_768, 1_696]);
    }

    /// What Kafka's Java reader asks for: version 1, independent blocks of 64 KiB, no checksums.
    #[test]
    fn lz4s_frame_is_one_that_java_reads() {
        let mut out = vec![];
        Compressor::new().compress(Codec::Lz4, None, &[7; 100_000], &mut out);
        assert_eq!(out[..6], [0x04, 0x22, 0x4d, 0x18, 0b0110_0000, 0x40]);
        assert_eq!(out[out.len() - 4..], [0; 4], "the end mark");
    }

    #[test]
    fn a_kept_compressor_gives_the_same_bytes_as_a_new_one() {
        let mut kept = Compressor::new();
        for (codec, level) in [
            (Codec::Zstd, Some(1)),
            (Codec::Snappy, None),
            (Codec::Zstd, None),
            (Codec::Lz4, None),
            (Codec::Snappy, None),
            (Codec::Zstd, Some(7)),
        ] {
            let records = format!("{codec} {level:?} ").repeat(9_000).into_bytes();
            let [mut a, mut b] = [vec![1, 2, 3], vec![1, 2, 3]];
            kept.compress(codec, level, &records, &mut a);
            Compressor::new().compress(codec, level, &records, &mut b);
            assert_eq!(a, b, "{codec} {level:?}");
            assert_eq!(a[..3], [1, 2, 3], "appended");
        }
    }
}
