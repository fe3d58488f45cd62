//! A data directory from outside: read by the letter of the format, and damaged.
//!
//! Nothing of the broker's own code is used, so that a change of the format shows.

use std::{
    fs::{self, File},
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use riverrun_proto::rpc::v1;

/// Bytes of a segment before its first frame.
pub const SEGMENT_HEADER_BYTES: u64 = 4096;

/// Bytes of a frame before its batch.
pub const FRAME_HEADER_BYTES: u64 = 8;

/// Bytes of an envelope before its body.
const ENVELOPE_BYTES: usize = 16;

/// A frame of a segment file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Position of its first byte in the file.
    pub position: u64,
    /// Bytes of its batch.
    pub batch_bytes: u64,
    /// Of its batch.
    pub base_offset: i64,
    /// Of its batch.
    pub last_offset: i64,
}

/// What `checkpoint` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// First offset not known to be on disk.
    pub recovery_offset: i64,
    /// Base offset of the segment it is in.
    pub recovery_segment: i64,
    /// Where in that segment's file.
    pub recovery_position: u64,
}

/// The directory of a partition.
pub fn partition_dir(data: &Path, topic: &v1::Topic, partition: i32) -> PathBuf {
    let id: String = topic.topic_id.iter().map(|byte| format!("{byte:02x}")).collect();
    data.join("data").join(format!("{id}-{partition}"))
}

/// Files of a directory with this suffix, by name.
pub fn with_suffix(dir: &Path, suffix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("the directory exists");
    let paths = entries.map(|entry| entry.expect("it can be listed").path());
    let mut found: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|it| it == suffix)).collect();
    found.sort();
    found
}

/// The frames of a segment file, up to its zeros.
pub fn frames(segment: &Path) -> Vec<Frame> {
    let bytes = fs::read(segment).expect("the segment exists");
    let mut frames = Vec::new();
    let mut position = SEGMENT_HEADER_BYTES as usize;
    while let Some(head) = bytes.get(position..position + 8) {
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let batch = position + FRAME_HEADER_BYTES as usize;
        if length == 0 || bytes.len() < batch + length {
            break;
        }
        let base_offset = i64::from_be_bytes(bytes[batch..][..8].try_into().expect("eight bytes"));
        let delta = i32::from_be_bytes(bytes[batch + 23..][..4].try_into().expect("four bytes"));
        frames.push(Frame {
            position: position as u64,
            batch_bytes: length as u64,
            base_offset,
            last_offset: base_offset + i64::from(delta),
        });
        position = batch + length;
    }
    frames
}

/// The batches of a partition as they stand on the disk, each with its base offset. What lies past the
/// end of a segment that was cut off, where the next begins, is not of the log.
pub fn batches(dir: &Path) -> Vec<(i64, Vec<u8>)> {
    let segments = with_suffix(dir, "log");
    let base = |segment: &PathBuf| {
        let stem = segment.file_stem().and_then(|stem| stem.to_str());
        stem.and_then(|stem| stem.parse::<i64>().ok()).expect("named by its base offset")
    };
    let mut all = Vec::new();
    for (at, segment) in segments.iter().enumerate() {
        let bytes = fs::read(segment).expect("the segment exists");
        let end = segments.get(at + 1).map_or(i64::MAX, base);
        for frame in frames(segment).iter().filter(|frame| frame.base_offset < end) {
            let batch = (frame.position + FRAME_HEADER_BYTES) as usize;
            let batch = &bytes[batch..][..frame.batch_bytes as usize];
            all.push((frame.base_offset, batch.to_vec()));
        }
    }
    all
}

/// The checkpoint of a partition.
pub fn checkpoint(dir: &Path) -> Checkpoint {
    let bytes = fs::read(dir.join("checkpoint")).expect("a partition has a checkpoint");
    let number = |at: usize| {
        let field = &bytes[ENVELOPE_BYTES + at..][..8];
        i64::from_le_bytes(field.try_into().expect("eight bytes"))
    };
    Checkpoint {
        recovery_offset: number(0),
        recovery_segment: number(8),
        recovery_position: number(16).cast_unsigned(),
    }
}

/// Turns over all bits of a byte.
pub fn flip(file: &Path, position: u64) {
    let byte = fs::read(file).expect("it can be read")[position as usize];
    overwrite(file, position, &[!byte]);
}

/// Overwrites part of a file and changes nothing else.
pub fn overwrite(file: &Path, position: u64, with: &[u8]) {
    let mut opened = File::options().write(true).open(file).expect("it can be written");
    opened.seek(SeekFrom::Start(position)).expect("it is a file");
    opened.write_all(with).expect("it can be written");
}

/// Makes a file of ours say that it is of another version of its format, checksum and all.
pub fn set_format_version(file: &Path, version: u16) {
    let mut bytes = fs::read(file).expect("it can be read");
    assert_eq!(bytes[..4], *b"RRUN", "{} is a file of ours", file.display());
    bytes[6..8].copy_from_slice(&version.to_le_bytes());
    let body = u32::from_le_bytes(bytes[8..12].try_into().expect("four bytes")) as usize;
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes[..12]);
    crc.update(&bytes[ENVELOPE_BYTES..][..body]);
    bytes[12..16].copy_from_slice(&crc.finalize().to_le_bytes());
    overwrite(file, 0, &bytes[..ENVELOPE_BYTES]);
}
