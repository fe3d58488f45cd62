//! The catalogue of everything a partition keeps on disk: names, magic, versions, byte layouts.
//! Nothing else formats or parses a path or a number of a format.
//!
//! ```text
//! <data directory>/<topic id>-<partition>/
//!   partition.meta              which partition this is; written and synced before any data
//!   <base offset>.log           segment: header, frames, zeros
//!   <base offset>.index         sparse: offset → position, and the summary of the segment
//!   <base offset>.timeindex     sparse: timestamp → offset
//!   <offset>.snapshot           producer state as of an offset
//!   leader-epochs               leader epoch → its first offset
//!   checkpoint                  recovery point, log start offset, high watermark
//!   *.tmp                       being written; worthless after a restart
//! ```
//! Offsets in names have 20 digits, so that names sort as offsets do.
//!
//! # Bytes
//! All our own numbers are little endian; the record batch within a frame is Kafka's and big
//! endian. Every file begins with the same [envelope](crate::log::envelope), whose 16 bytes and
//! meaning stay the same in all versions, so that any version can tell "newer than me" from
//! "broken":
//!
//! ```text
//!  0  4  magic "RRUN"
//!  4  2  kind of file (FileKind)
//!  6  2  version of that kind's format
//!  8  4  length of the body
//! 12  4  crc32 (IEEE) of bytes 0..12 and the body
//! 16  …  body
//! ```
//!
//! A segment's envelope and body fill its first 4 KiB; frames follow, each beginning where the one
//! before ended:
//!
//! ```text
//! segment header, body (the rest is zero)      frame
//! 16 16  topic id                               0  4  length of the batch; the top four bits are the
//! 32  4  partition                                    kind of frame: 0, a record batch
//! 36  8  base offset                            4  4  crc32 (IEEE) of salt, the four bytes above, batch
//! 44  8  salt                                   8  …  record batch
//! ```
//!
//! A length of zero is the end: the file is zero from there on. The salt is a random number drawn
//! for every segment file made, so what an earlier file of that name (or an earlier life of a
//! recycled block) left behind never passes for a frame of this one.

use std::path::{Path, PathBuf};

use riverrun_proto::{ids::TopicPartition, offset::Offset};

/// First bytes of every file of ours.
pub const MAGIC: [u8; 4] = *b"RRUN";

/// Bytes of the envelope before the body.
pub const ENVELOPE_BYTES: usize = 16;

/// Bytes of a segment's header: one page, so that frames start page-aligned and the header is
/// never written again.
pub const SEGMENT_HEADER_BYTES: usize = 4096;

/// Bytes of a frame before its batch.
pub const FRAME_HEADER_BYTES: usize = 8;

/// Bits of a frame's length that say how long the batch is; those above are the kind.
pub const FRAME_LENGTH_BITS: u32 = 28;

/// What a partition is: see [`super::partition_meta`].
pub const META_FILE: &str = "partition.meta";

/// Leader epochs: see [`super::leader_epochs`].
pub const LEADER_EPOCHS_FILE: &str = "leader-epochs";

/// Recovery point and friends: see [`super::checkpoint`].
pub const CHECKPOINT_FILE: &str = "checkpoint";

const SEGMENT_SUFFIX: &str = "log";
const OFFSET_INDEX_SUFFIX: &str = "index";
const TIME_INDEX_SUFFIX: &str = "timeindex";
const SNAPSHOT_SUFFIX: &str = "snapshot";
const TMP_SUFFIX: &str = "tmp";
const DELETED_SUFFIX: &str = "deleted";
const OFFSET_DIGITS: usize = 20;

/// Kinds of files, as the envelope names them. A number is never used again for something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum FileKind {
    /// `<base offset>.log`
    Segment = 1,
    /// `<base offset>.index`
    OffsetIndex = 2,
    /// `<base offset>.timeindex`
    TimeIndex = 3,
    /// `<offset>.snapshot`
    ProducerSnapshot = 4,
    /// `partition.meta`
    PartitionMeta = 5,
    /// `leader-epochs`
    LeaderEpochs = 6,
    /// `checkpoint`
    Checkpoint = 7,
}

impl FileKind {
    /// The number in the envelope.
    pub const fn code(self) -> u16 {
        self as u16
    }

    /// The newest version of its format that we read, and the one that we write.
    pub const fn version(self) -> u16 {
        match self {
            Self::Segment
            | Self::OffsetIndex
            | Self::TimeIndex
            | Self::ProducerSnapshot
            | Self::PartitionMeta
            | Self::LeaderEpochs
            | Self::Checkpoint => 1,
        }
    }
}

/// What a name in a partition's directory stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileName {
    /// The segment with this base offset.
    Segment(Offset),
    /// The offset index of the segment with this base offset.
    OffsetIndex(Offset),
    /// The time index of the segment with this base offset.
    TimeIndex(Offset),
    /// Producer state as of this offset.
    Snapshot(Offset),
    /// [`META_FILE`]
    Meta,
    /// [`LEADER_EPOCHS_FILE`]
    LeaderEpochs,
    /// [`CHECKPOINT_FILE`]
    Checkpoint,
    /// Left by a write that did not end.
    Tmp,
}

impl FileName {
    /// `None`: not one of ours; whoever meets it leaves it alone and says so.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            META_FILE => return Some(Self::Meta),
            LEADER_EPOCHS_FILE => return Some(Self::LeaderEpochs),
            CHECKPOINT_FILE => return Some(Self::Checkpoint),
            _ => {}
        }
        let (stem, suffix) = name.rsplit_once('.')?;
        if suffix == TMP_SUFFIX {
            return Self::parse(stem).map(|_| Self::Tmp);
        }
        if stem.len() != OFFSET_DIGITS || !stem.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let offset = Offset::new(stem.parse().ok()?)?;
        match suffix {
            SEGMENT_SUFFIX => Some(Self::Segment(offset)),
            OFFSET_INDEX_SUFFIX => Some(Self::OffsetIndex(offset)),
            TIME_INDEX_SUFFIX => Some(Self::TimeIndex(offset)),
            SNAPSHOT_SUFFIX => Some(Self::Snapshot(offset)),
            _ => None,
        }
    }
}

/// The directory of a partition within a data directory.
pub fn partition_dir(data: &Path, partition: TopicPartition) -> PathBuf {
    data.join(partition.to_string())
}

/// What the directory of a partition is renamed to before it is removed, so that a removal that
/// did not end is never taken for a partition.
pub fn deleted_dir(dir: &Path) -> PathBuf {
    with_suffix(dir, DELETED_SUFFIX)
}

/// Whether this is a partition's directory on its way out.
pub fn is_deleted_dir(name: &str) -> bool {
    name.strip_suffix(DELETED_SUFFIX)
        .and_then(|stem| stem.strip_suffix('.'))
        .is_some_and(|stem| stem.parse::<TopicPartition>().is_ok())
}

/// The data file of a segment.
pub fn segment_file(dir: &Path, base: Offset) -> PathBuf {
    numbered(dir, base, SEGMENT_SUFFIX)
}

/// The offset index of a segment.
pub fn offset_index_file(dir: &Path, base: Offset) -> PathBuf {
    numbered(dir, base, OFFSET_INDEX_SUFFIX)
}

/// The time index of a segment.
pub fn time_index_file(dir: &Path, base: Offset) -> PathBuf {
    numbered(dir, base, TIME_INDEX_SUFFIX)
}

/// The producer state as of an offset.
pub fn snapshot_file(dir: &Path, offset: Offset) -> PathBuf {
    numbered(dir, offset, SNAPSHOT_SUFFIX)
}

/// What a file is called while it is being written.
pub fn tmp_file(path: &Path) -> PathBuf {
    with_suffix(path, TMP_SUFFIX)
}

fn numbered(dir: &Path, offset: Offset, suffix: &str) -> PathBuf {
    dir.join(format!("{:0digits$}.{suffix}", offset.get(), digits = OFFSET_DIGITS))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

const _: () = assert!(riverrun_proto::limits::BATCH_BYTES_MAX < 1 << FRAME_LENGTH_BITS);

#[cfg(test)]
mod tests {
    use super::*;

    fn offset(n: i64) -> Offset {
        Offset::new(n).unwrap()
    }

    #[test]
    fn every_name_that_is_written_is_read_back() {
        let dir = Path::new("d");
        let table = [
            (segment_file(dir, offset(0)), FileName::Segment(offset(0))),
            (segment_file(dir, Offset::MAX), FileName::Segment(Offset::MAX)),
            (offset_index_file(dir, offset(7)), FileName::OffsetIndex(offset(7))),
            (time_index_file(dir, offset(7)), FileName::TimeIndex(offset(7))),
            (snapshot_file(dir, offset(9)), FileName::Snapshot(offset(9))),
            (dir.join(META_FILE), FileName::Meta),
            (dir.join(LEADER_EPOCHS_FILE), FileName::LeaderEpochs),
            (dir.join(CHECKPOINT_FILE), FileName::Checkpoint),
            (tmp_file(&dir.join(CHECKPOINT_FILE)), FileName::Tmp),
            (tmp_file(&snapshot_file(dir, offset(9))), FileName::Tmp),
        ];
        for (path, want) in table {
            let name = path.file_name().unwrap().to_str().unwrap();
            assert_eq!(FileName::parse(name), Some(want), "{name}");
        }
        assert_eq!(
            segment_file(dir, offset(42)).to_str(),
            Some("d/00000000000000000042.log"),
            "the name is part of the format"
        );
    }

    #[test]
    fn foreign_names_are_nobodys() {
        for name in [
            "",
            "log",
            ".log",
            "1.log",
            "0000000000000000000x.log",
            "+0000000000000000042.log",
            "99999999999999999999.log",
            "00000000000000000042.bak",
            "00000000000000000042",
            "notes.tmp",
            "lost+found",
        ] {
            assert_eq!(FileName::parse(name), None, "{name}");
        }
    }

    #[test]
    fn only_partitions_on_their_way_out_look_deleted() {
        let dir = "67e5504410b1426f9247bb680e5fe0c8-3";
        let deleted = deleted_dir(Path::new(dir));
        assert!(is_deleted_dir(deleted.to_str().unwrap()));
        for name in [dir, "x.deleted", ".deleted", "deleted"] {
            assert!(!is_deleted_dir(name), "{name}");
        }
    }
}
