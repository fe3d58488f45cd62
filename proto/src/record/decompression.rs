//! Decompressing what a stranger wrote, in bounded memory.
//!
//! The output grows as bytes come out and is checked as it grows; sizes that the input declares
//! are never trusted with memory. What is taken at most: the limit, for a moment another half of
//! it while the output moves to a larger place, and the decoder's own state: about 50 KiB for
//! gzip, 12 MiB for lz4 (a few of the largest blocks), and for zstd a window. That is reserved as
//! large as the frame declares, up to zstd's own bound of 128 MiB, which every level of every
//! Kafka client needs; it is touched only as far as there is output, so it costs no more memory
//! than the limit either.
//!
//! Accepted is what any Kafka client writes: gzip with several members, snappy with xerial's
//! framing or none, lz4 and zstd with several frames. Truncated streams and trailing bytes are
//! errors.

use std::io::{self, Read};

use bytes::Bytes;
use lz4_flex::frame::FrameDecoder;
use zstd::zstd_safe;

use super::{BatchError, Codec, compression::XERIAL_HEADER};
use crate::limits::BATCH_DECOMPRESSED_BYTES_MAX;

/// The least memory the output takes, limit allowing.
const FIRST_STEP_BYTES: usize = 16 * 1024;
/// A guess at how much larger the output is, so that most batches decompress without a move.
const USUAL_RATIO: usize = 4;
/// No snappy stream is shorter than 1/22 of its output: the best of its elements makes 64 bytes
/// out of 3.
const SNAPPY_RATIO_MAX: usize = 22;
/// Decompresses records; keep one per thread of work: zstd's state is large.
#[derive(Default)]
pub struct Decompressor {
    /// Made with the first zstd batch.
    zstd: Option<zstd_safe::DCtx<'static>>,
}

// === impl Decompressor ===

impl Decompressor {
    /// A new one; takes memory when it is first used.
    pub fn new() -> Self {
        Self::default()
    }

    /// The decompressed `input`, or an error as soon as it is more than `limit` (or
    /// [`BATCH_DECOMPRESSED_BYTES_MAX`]) bytes.
    pub(super) fn decompress(
        &mut self,
        codec: Codec,
        input: &[u8],
        limit: usize,
    ) -> Result<Bytes, BatchError> {
        let limit = limit.min(BATCH_DECOMPRESSED_BYTES_MAX);
        let mut output = BoundedOutput { bytes: Vec::new(), limit };
        output.reserve(input.len().saturating_mul(USUAL_RATIO).min(limit));
        let result = match codec {
            Codec::None => output.extend(input),
            Codec::Gzip => output.read_all(flate2::bufread::MultiGzDecoder::new(input)),
            Codec::Snappy => decompress_snappy(input, &mut output),
            Codec::Lz4 => decompress_lz4(input, &mut output),
            Codec::Zstd => self.decompress_zstd(input, &mut output),
        };
        match result {
            Ok(()) => {
                // Readers keep it: what counts against their budget is its length.
                output.bytes.shrink_to_fit();
                Ok(output.bytes.into())
            }
            Err(Fault::Bomb) => Err(BatchError::DecompressionBomb { codec, limit }),
            Err(Fault::Damaged(detail)) => Err(BatchError::Decompress { codec, detail }),
        }
    }

    fn decompress_zstd(&mut self, input: &[u8], output: &mut BoundedOutput) -> Result<(), Fault> {
        let context = self.zstd.get_or_insert_with(zstd_safe::DCtx::create);
        // Starts afresh, whatever state an error left the context in.
        output.read_all(zstd::stream::read::Decoder::with_context(input, context))
    }
}

impl std::fmt::Debug for Decompressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decompressor").field("zstd", &self.zstd.is_some()).finish()
    }
}

enum Fault {
    Bomb,
    Damaged(String),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Damaged(error.to_string())
    }
}

/// Bytes that grow up to a limit and not beyond.
struct BoundedOutput {
    bytes: Vec<u8>,
    limit: usize,
}

// === impl BoundedOutput ===

impl BoundedOutput {
    fn extend(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.extend_with(bytes.len(), |room| {
            room.copy_from_slice(bytes);
            Ok(bytes.len())
        })
    }

    /// Appends what `write` puts into exactly `bytes` of room.
    fn extend_with(
        &mut self,
        bytes: usize,
        write: impl FnOnce(&mut [u8]) -> Result<usize, Fault>,
    ) -> Result<(), Fault> {
        if bytes > self.left() {
            return Err(Fault::Bomb);
        }
        let at = self.bytes.len();
        self.reserve(at + bytes);
        self.bytes.resize(at + bytes, 0);
        let written = write(&mut self.bytes[at..])?;
        self.bytes.truncate(at + written);
        Ok(())
    }

    /// Appends all that `decoder` gives.
    fn read_all(&mut self, mut decoder: impl Read) -> Result<(), Fault> {
        loop {
            if self.left() == 0 {
                return match read(&mut decoder, &mut [0])? {
                    0 => Ok(()),
                    _ => Err(Fault::Bomb),
                };
            }
            let at = self.bytes.len();
            self.reserve(at + 1);
            // Capacity may exceed what was asked for.
            let end = self.bytes.capacity().min(self.limit);
            self.bytes.resize(end, 0);
            let mut filled = at;
            while filled < end {
                match read(&mut decoder, &mut self.bytes[filled..])? {
                    0 => {
                        self.bytes.truncate(filled);
                        return Ok(());
                    }
                    bytes => filled += bytes,
                }
            }
        }
    }

    fn left(&self) -> usize {
        self.limit - self.bytes.len()
    }

    /// Room for `total` bytes; at least twice as much as before if there was not enough, but never
    /// above the limit.
    fn reserve(&mut self, total: usize) {
        if total > self.bytes.capacity() {
            let capacity = total.max(self.bytes.capacity() * 2).max(FIRST_STEP_BYTES);
            self.bytes.reserve_exact(capacity.min(self.limit) - self.bytes.len());
        }
    }
}

fn read(decoder: &mut impl Read, room: &mut [u8]) -> io::Result<usize> {
    loop {
        match decoder.read(room) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn decompress_snappy(mut input: &[u8], output: &mut BoundedOutput) -> Result<(), Fault> {
    // Two version numbers follow the eight bytes of magic; readers take any.
    let framed = input.len() >= XERIAL_HEADER.len() && input[..8] == XERIAL_HEADER[..8];
    if !framed {
        return decompress_snappy_block(input, output);
    }
    input = &input[XERIAL_HEADER.len()..];
    while !input.is_empty() {
        let Some((length, rest)) = input.split_first_chunk() else {
            return Err(Fault::Damaged("the stream ends within a block's length".to_owned()));
        };
        let length = u32::from_be_bytes(*length);
        let Some((block, rest)) = rest.split_at_checked(length as usize) else {
            let detail = format!("a block of {length} bytes where {} are left", rest.len());
            return Err(Fault::Damaged(detail));
        };
        decompress_snappy_block(block, output)?;
        input = rest;
    }
    Ok(())
}

fn decompress_snappy_block(block: &[u8], output: &mut BoundedOutput) -> Result<(), Fault> {
    let declared = snap::raw::decompress_len(block).map_err(snappy_fault)?;
    if declared > block.len().saturating_mul(SNAPPY_RATIO_MAX) {
        let detail = format!("{} bytes cannot decompress to the declared {declared}", block.len());
        return Err(Fault::Damaged(detail));
    }
    output.extend_with(declared, |room| {
        snap::raw::Decoder::new().decompress(block, room).map_err(snappy_fault)
    })
}

fn decompress_lz4(mut input: &[u8], output: &mut BoundedOutput) -> Result<(), Fault> {
    if input.is_empty() {
        return Err(Fault::Damaged("no frame".to_owned()));
    }
    while !input.is_empty() {
        let (frame, rest) = split_lz4_frame(input)?;
        output.read_all(FrameDecoder::new(frame))?;
        input = rest;
    }
    Ok(())
}

/// Splits the first frame off by walking its blocks. The library takes a block's declared length
/// (up to 2 GiB) for granted when it takes memory, and the end of the input for the end of a
/// frame; so both are checked here first.
fn split_lz4_frame(input: &[u8]) -> Result<(&[u8], &[u8]), Fault> {
    const MAGIC: [u8; 4] = 0x184d_2204_u32.to_le_bytes();
    const BLOCK_CHECKSUM: u8 = 1 << 4;
    const CONTENT_SIZE: u8 = 1 << 3;
    const CONTENT_CHECKSUM: u8 = 1 << 2;
    const DICTIONARY: u8 = 1;
    const STORED: u32 = 1 << 31;

    let truncated = || Fault::Damaged("the frame is cut off".to_owned());
    let [m0, m1, m2, m3, flags, sizes, ..] = *input else { return Err(truncated()) };
    if [m0, m1, m2, m3] != MAGIC {
        return Err(Fault::Damaged("no LZ4 frame starts here".to_owned()));
    }
    let has = |flag: u8| usize::from(flags & flag != 0);
    let block_bytes_max = match sizes >> 4 & 0b111 {
        size @ 4..=7 => 1_u32 << (8 + 2 * size),
        size => return Err(Fault::Damaged(format!("block size {size} does not exist"))),
    };
    let mut at = 7 + 8 * has(CONTENT_SIZE) + 4 * has(DICTIONARY);
    loop {
        let length = input.get(at..).and_then(<[u8]>::first_chunk).ok_or_else(truncated)?;
        let length = u32::from_le_bytes(*length);
        at += 4;
        if length == 0 {
            at += 4 * has(CONTENT_CHECKSUM);
            return input.split_at_checked(at).ok_or_else(truncated);
        }
        let length = length & !STORED;
        if length > block_bytes_max {
            let detail = format!("a block of {length} bytes in a frame of {block_bytes_max} each");
            return Err(Fault::Damaged(detail));
        }
        at += length as usize + 4 * has(BLOCK_CHECKSUM);
    }
}

fn snappy_fault(error: snap::Error) -> Fault {
    Fault::Damaged(error.to_string())
}

#[cfg(test)]
#[path = "decompression_test.rs"]
mod tests;
