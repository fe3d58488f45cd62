//! What decompresses, what does not, and how much memory either may take.

use std::io::Write;

use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
use proptest::prelude::*;

use super::*;
use crate::record::Compressor;

const CODECS: [Codec; 4] = [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
const MIB: usize = 1024 * 1024;

fn compressed(codec: Codec, records: &[u8]) -> Vec<u8> {
    let mut out = vec![];
    Compressor::new().compress(codec, None, records, &mut out);
    out
}

fn decompressed(codec: Codec, input: &[u8], limit: usize) -> Result<Bytes, BatchError> {
    Decompressor::new().decompress(codec, input, limit)
}

/// Half text, half noise, the same each time.
fn sample(bytes: usize) -> Vec<u8> {
    let mut state = 1_u32;
    (0..bytes)
        .map(|i| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if i / 1000 % 2 == 0 { b"offset"[i % 6] } else { state.to_be_bytes()[0] }
        })
        .collect()
}

#[test]
fn what_is_compressed_comes_back() {
    for codec in CODECS {
        let mut kept = Decompressor::new();
        for size in [1, 100, 32 * 1024, 32 * 1024 + 1, 64 * 1024 + 1, MIB] {
            let records = sample(size);
            let input = compressed(codec, &records);
            for limit in [size, size + 1, usize::MAX] {
                let output = kept.decompress(codec, &input, limit);
                assert!(output.is_ok_and(|output| output == records), "{codec} {size} {limit}");
            }
            let bomb = BatchError::DecompressionBomb { codec, limit: size - 1 };
            assert_eq!(kept.decompress(codec, &input, size - 1), Err(bomb), "{codec} {size}");
        }
    }
}

#[test]
fn a_bomb_is_an_error() {
    let zeros = vec![0; 32 * MIB];
    for codec in CODECS {
        let input = compressed(codec, &zeros);
        assert!(input.len() < 2 * MIB, "{codec}: {} bytes", input.len());
        for limit in [0, 1, MIB, 32 * MIB - 1] {
            let bomb = BatchError::DecompressionBomb { codec, limit };
            assert_eq!(decompressed(codec, &input, limit), Err(bomb), "{codec} {limit}");
        }
    }
}

/// 129 MiB out of what fits a batch: no caller can ask for more than the protocol allows.
#[test]
fn the_protocols_limit_holds_whatever_the_caller_says() {
    let limit = BATCH_DECOMPRESSED_BYTES_MAX;
    let part = vec![0; limit / 4 + 1];
    let input = compressed(Codec::Zstd, &part).repeat(4);
    let bomb = BatchError::DecompressionBomb { codec: Codec::Zstd, limit };
    assert_eq!(decompressed(Codec::Zstd, &input, usize::MAX), Err(bomb));
}

#[test]
fn output_memory_stays_within_the_limit() {
    for limit in [0, 1, 1000, 100_000, MIB + 1] {
        let mut output = BoundedOutput { bytes: vec![], limit };
        assert!(matches!(output.read_all(io::repeat(0)), Err(Fault::Bomb)), "{limit}");
        assert_eq!((output.bytes.len(), output.bytes.capacity()), (limit, limit));

        let mut output = BoundedOutput { bytes: vec![], limit };
        while output.extend(&[0; 700]).is_ok() {}
        assert!(output.bytes.capacity() <= limit, "{} > {limit}", output.bytes.capacity());
    }
}

#[test]
fn what_is_kept_is_no_larger_than_it_says() {
    for codec in CODECS {
        for size in [1, 500, 40_000, MIB] {
            let output = decompressed(codec, &compressed(codec, &sample(size)), MIB).unwrap();
            assert_eq!(Vec::from(output).capacity(), size, "{codec}");
        }
    }
}

/// Sizes that the input declares are no reason to take memory: each of these few bytes promises
/// gigabytes.
#[test]
fn declared_sizes_are_not_believed() {
    let lz4_block = [&compressed(Codec::Lz4, b"x")[..7], &(i32::MAX).to_le_bytes(), b"zz"].concat();
    let mut lz4_stored = lz4_block.clone();
    lz4_stored[10] |= 0x80;
    let snappy = [&[0xfe, 0xff, 0xff, 0xff, 0x0f, 0x00][..], &[0; 30]].concat();
    let mut xerial = XERIAL_HEADER.to_vec();
    xerial.extend_from_slice(&36_u32.to_be_bytes());
    xerial.extend_from_slice(&snappy);
    let xerial_block = [&XERIAL_HEADER[..], &[0xff; 5]].concat();
    // Magic, single segment with 8 bytes of size, 2^62, an empty last block.
    let zstd_size = [0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0, 0, 0, 0, 0, 0, 0, 0x40, 1, 0, 0];
    // Magic, no size, a window of 2 TiB, an empty last block.
    let zstd_window = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xf8, 1, 0, 0];
    let cases: [(Codec, &[u8], &str); 7] = [
        (Codec::Lz4, &lz4_block, "a block of 2147483647 bytes in a frame of 65536 each"),
        (Codec::Lz4, &lz4_stored, "a block of 2147483647 bytes in a frame of 65536 each"),
        (Codec::Snappy, &snappy, "36 bytes cannot decompress to the declared 4294967294"),
        (Codec::Snappy, &xerial, "36 bytes cannot decompress to the declared 4294967294"),
        (Codec::Snappy, &xerial_block, "a block of 4294967295 bytes where 1 are left"),
        (Codec::Zstd, &zstd_size, "too much memory"),
        (Codec::Zstd, &zstd_window, "too much memory"),
    ];
    for (codec, input, due) in cases {
        match decompressed(codec, input, usize::MAX) {
            Err(BatchError::Decompress { codec: named, detail }) => {
                assert_eq!(named, codec, "{due}");
                assert!(detail.contains(due), "{detail:?} where {due:?} is due");
            }
            other => panic!("{due}: {other:?}"),
        }
    }
}

#[test]
fn a_part_of_a_stream_is_an_error() {
    for codec in CODECS {
        let input = compressed(codec, &sample(100_000));
        // Snappy's framing has no end: cuts between its blocks are for the record count to find.
        let mut block_ends = vec![];
        if codec == Codec::Snappy {
            let mut at = 16;
            while at < input.len() {
                block_ends.push(at);
                at += 4 + u32::from_be_bytes(*input[at..].first_chunk().unwrap()) as usize;
            }
        }
        for cut in (0..input.len()).step_by(97).chain(input.len() - 20..input.len()) {
            let result = decompressed(codec, &input[..cut], MIB);
            let is_whole = block_ends.contains(&cut);
            let is_error = matches!(result, Err(BatchError::Decompress { .. }));
            assert_eq!(is_error, !is_whole, "{codec} cut to {cut} bytes: {result:?}");
        }
    }
}

#[test]
fn bytes_after_a_stream_are_an_error() {
    for codec in CODECS {
        for tail in [&[0][..], &[1, 2, 3], &[0xff; 40]] {
            let input = [&compressed(codec, &sample(5_000)), tail].concat();
            let result = decompressed(codec, &input, MIB);
            let is_error = matches!(result, Err(BatchError::Decompress { .. }));
            assert!(is_error, "{codec} {tail:02x?}: {result:?}");
        }
    }
}

#[test]
fn several_members_or_frames_are_one_stream() {
    for codec in [Codec::Gzip, Codec::Lz4, Codec::Zstd] {
        let (a, b) = (sample(70_000), sample(300));
        let input = [compressed(codec, &a), compressed(codec, &b)].concat();
        assert_eq!(decompressed(codec, &input, MIB).unwrap(), [a, b].concat(), "{codec}");
    }
}

#[test]
fn snappy_without_a_frame() {
    for size in [1, 20, 100_000] {
        let records = sample(size);
        let input = snap::raw::Encoder::new().compress_vec(&records).unwrap();
        assert_eq!(decompressed(Codec::Snappy, &input, MIB).unwrap(), records);
        let bomb = BatchError::DecompressionBomb { codec: Codec::Snappy, limit: size - 1 };
        assert_eq!(decompressed(Codec::Snappy, &input, size - 1), Err(bomb));
    }
}

/// The best ratio there is passes the check of declared sizes.
#[test]
fn snappys_best_ratio() {
    let records = vec![0; 64 * MIB];
    let input = snap::raw::Encoder::new().compress_vec(&records).unwrap();
    assert!(input.len() * SNAPPY_RATIO_MAX >= records.len());
    assert_eq!(decompressed(Codec::Snappy, &input, 64 * MIB).unwrap().len(), records.len());
}

#[test]
fn every_shape_of_lz4_frame() {
    let records = sample(5 * MIB);
    for block_size in
        [BlockSize::Max64KB, BlockSize::Max256KB, BlockSize::Max1MB, BlockSize::Max4MB]
    {
        for block_mode in [BlockMode::Independent, BlockMode::Linked] {
            for checksums in [false, true] {
                let info = FrameInfo::new()
                    .block_size(block_size)
                    .block_mode(block_mode)
                    .block_checksums(checksums)
                    .content_checksum(checksums)
                    .content_size(checksums.then_some(records.len() as u64));
                let mut encoder = FrameEncoder::with_frame_info(info.clone(), vec![]);
                encoder.write_all(&records).unwrap();
                let mut input = encoder.finish().unwrap();
                let output = decompressed(Codec::Lz4, &input, records.len());
                assert!(output.is_ok_and(|output| output == records), "{info:?}");
                input.pop();
                assert!(decompressed(Codec::Lz4, &input, records.len()).is_err(), "{info:?}");
            }
        }
    }
}

#[test]
fn an_error_leaves_nothing_behind() {
    let mut kept = Decompressor::new();
    let records = sample(300_000);
    let input = compressed(Codec::Zstd, &records);
    for cut in [4, 10, 1000, input.len() - 1] {
        assert!(kept.decompress(Codec::Zstd, &input[..cut], MIB).is_err());
        assert!(kept.decompress(Codec::Zstd, &input, 1000).is_err());
        assert_eq!(kept.decompress(Codec::Zstd, &input, MIB).unwrap(), records);
    }
}

proptest! {
    /// Noise, and streams with noise in them, end in an answer of bounded size and never in a
    /// panic.
    #[test]
    fn any_bytes(
        noise: Vec<u8>,
        records in proptest::collection::vec(0_u8..4, 1..2000),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        for codec in CODECS {
            let mut input = compressed(codec, &records);
            for (at, byte) in &flips {
                let at = at.index(input.len());
                input[at] = *byte;
            }
            for input in [&input, &noise] {
                if let Ok(output) = decompressed(codec, input, 4000) {
                    prop_assert!(output.len() <= 4000);
                }
            }
        }
    }
}
