//! Directories written by hand, byte by byte from the catalogue, and damage planted in them.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;

use bytes::Bytes;
use riverrun_proto::{
    epoch::LeaderEpoch,
    ids::{PartitionIndex, TopicId, TopicName, TopicPartition},
    record::{BatchBuilder, BatchOptions, Codec},
    timestamp::Timestamp,
};
use tempfile::TempDir;

use super::*;
use crate::log::{
    checkpoint::{CutMark, LogPoint},
    frame::{FrameCodec, Salt},
    layout::{FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES},
    segment_header::SegmentHeader,
};

/// Zeros behind the frames, as an allocation leaves them.
const SET_ASIDE: usize = 8192;

fn offset(n: i64) -> Offset {
    Offset::new(n).unwrap()
}

/// A batch of `records` records at `base`.
fn batch(base: i64, records: i64, codec: Codec) -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions { codec, ..BatchOptions::default() });
    for n in 0..records {
        let value = format!("record {}", base + n);
        let time = Timestamp::from_millis(1_000 + n);
        builder.append(time, Some(b"key"), Some(value.as_bytes()), [("h", None)]).unwrap();
    }
    let batch = RecordBatch::validate(builder.finish()).unwrap();
    batch.stamp(offset(base), LeaderEpoch::new(0).unwrap(), None).to_bytes()
}

/// A partition of two segments: offsets 0 to 5 in one of two batches, 6 to 8 in one of one batch.
struct Partition {
    dir: TempDir,
    id: TopicPartition,
}

impl Partition {
    fn new() -> Self {
        let id = TopicPartition::new(TopicId::random(), PartitionIndex::new(3).unwrap());
        let partition = Self { dir: tempfile::tempdir().unwrap(), id };
        let meta = PartitionMeta { partition: id, topic_name: TopicName::try_new("t").unwrap() };
        fs::write(partition.dir.path().join(META_FILE), meta.encode()).unwrap();
        partition.segment(0, &[batch(0, 2, Codec::None), batch(2, 4, Codec::Lz4)]);
        partition.segment(6, &[batch(6, 3, Codec::Zstd)]);
        partition.checkpoint(9, 0);
        partition
    }

    /// Writes a segment; returns where its frames begin.
    fn segment(&self, base: i64, batches: &[Bytes]) -> Vec<u64> {
        let salt = Salt::new(base.unsigned_abs() + 77);
        let header = SegmentHeader { partition: self.id, base: offset(base), salt };
        let codec = FrameCodec::new(salt);
        let mut bytes = header.encode();
        let mut positions = Vec::new();
        for batch in batches {
            positions.push(bytes.len() as u64);
            bytes.extend_from_slice(&codec.header([batch, &[]]));
            bytes.extend_from_slice(batch);
        }
        bytes.resize(bytes.len() + SET_ASIDE, 0);
        fs::write(self.file(base), bytes).unwrap();
        positions
    }

    fn checkpoint(&self, recovery_point: i64, log_start: i64) {
        self.checkpoint_with(recovery_point, log_start, Vec::new());
    }

    fn checkpoint_with(&self, recovery_point: i64, log_start: i64, cuts: Vec<CutMark>) {
        let checkpoint = Checkpoint {
            recovery_point: LogPoint::start_of_segment(offset(recovery_point)),
            log_start: offset(log_start),
            cuts,
            ..Checkpoint::empty_at(offset(log_start))
        };
        fs::write(self.dir.path().join(CHECKPOINT_FILE), checkpoint.encode()).unwrap();
    }

    fn file(&self, base: i64) -> PathBuf {
        segment_file(self.dir.path(), offset(base))
    }

    /// Flips bits of the byte at `position` of a segment.
    fn flip(&self, base: i64, position: u64) {
        let file = OpenOptions::new().read(true).write(true).open(self.file(base)).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, position).unwrap();
        file.write_all_at(&[byte[0] ^ 0x55], position).unwrap();
    }

    fn verify(&self) -> Verified {
        let mut seen = 0;
        let verified = verify_partition(self.dir.path(), &mut |bytes| seen = bytes).unwrap();
        assert_eq!(seen, verified.bytes, "progress ends where the bytes end");
        verified
    }

    /// All findings as `damage @offset: what` or `note …`.
    fn findings(&self) -> Vec<String> {
        let describe = |finding: &Finding| {
            let kind = if finding.is_damage { "damage" } else { "note" };
            let at = finding.offset.map_or(-1, Offset::get);
            format!("{kind} @{at}: {}", finding.what)
        };
        self.verify().findings.iter().map(describe).collect()
    }
}

/// The only finding, which begins so and contains that.
#[track_caller]
fn assert_only(findings: &[String], begins: &str, contains: &str) {
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(findings[0].starts_with(begins) && findings[0].contains(contains), "{findings:?}");
}

#[test]
fn a_whole_partition_is_counted_and_has_no_findings() {
    let partition = Partition::new();
    let verified = partition.verify();
    assert_eq!(verified.findings, []);
    assert_eq!((verified.segments, verified.batches, verified.records), (2, 3, 9));
    assert_eq!((verified.start.get(), verified.end.get()), (0, 9));
    assert_eq!(verified.meta.unwrap().topic_name.as_str(), "t");
    assert!(!partition.verify().is_damaged());
}

#[test]
fn a_flipped_bit_anywhere_in_a_durable_frame_is_damage() {
    let partition = Partition::new();
    let frame = SEGMENT_HEADER_BYTES as u64;
    let bytes = (FRAME_HEADER_BYTES + batch(6, 3, Codec::Zstd).len()) as u64;
    for position in frame..frame + bytes {
        partition.flip(6, position);
        assert_only(
            &partition.findings(),
            "damage @6: offsets 6 to 9 are missing",
            "position 4096",
        );
        partition.flip(6, position);
    }
    assert_eq!(partition.findings(), Vec::<String>::new());
}

#[test]
fn the_same_flip_above_the_recovery_point_is_a_torn_tail() {
    let partition = Partition::new();
    partition.checkpoint(6, 0);
    partition.flip(6, SEGMENT_HEADER_BYTES as u64 + 30);
    assert_only(&partition.findings(), "note @6: a torn tail", "recovery cuts it off");
    assert!(!partition.verify().is_damaged());
}

#[test]
fn a_gap_below_the_recovery_point_is_damage_and_above_it_cuts_off_what_follows() {
    let partition = Partition::new();
    let second = partition.segment(0, &[batch(0, 2, Codec::None), batch(2, 4, Codec::Lz4)])[1];
    partition.flip(0, second + 20);
    let findings = partition.findings();
    assert_only(&findings, "damage @2: offsets 2 to 6 are missing", "checksum");
    // What comes after it is still looked at.
    assert_eq!(partition.verify().records, 2 + 3);
    partition.checkpoint(2, 0);
    assert_only(&partition.findings(), "note @2: a torn tail", "checksum");
    assert_eq!((partition.verify().records, partition.verify().end.get()), (2, 2));
    // Without a checkpoint nobody knows.
    fs::remove_file(partition.dir.path().join(CHECKPOINT_FILE)).unwrap();
    let findings = partition.findings();
    assert_eq!(findings.len(), 2, "{findings:?}");
    assert!(findings[0].contains("it is missing") && findings[1].starts_with("damage @2"));
}

#[test]
fn a_frame_that_is_whole_around_a_batch_that_is_not_is_damage() {
    let partition = Partition::new();
    let mut lying = batch(6, 3, Codec::None).to_vec();
    let last = lying.len() - 1;
    lying[last] ^= 1;
    partition.segment(6, &[lying.into()]);
    assert_only(&partition.findings(), "damage @6: ", "CRC");
}

#[test]
fn missing_and_foreign_segments_are_damage() {
    let partition = Partition::new();
    fs::remove_file(partition.file(0)).unwrap();
    assert_only(&partition.findings(), "damage @0: offsets 0 to 6 are missing", "");
    partition.checkpoint(9, 6);
    assert_eq!(partition.findings(), Vec::<String>::new(), "retention may have removed it");
    fs::remove_file(partition.file(6)).unwrap();
    assert_only(&partition.findings(), "damage @6: offsets 6 to 9 are missing", "");
    partition.checkpoint(9, 9);
    assert_eq!(partition.findings(), Vec::<String>::new(), "all of it");
    assert_eq!((partition.verify().start.get(), partition.verify().end.get()), (9, 9));

    let partition = Partition::new();
    fs::remove_file(partition.file(0)).unwrap();
    partition.checkpoint(9, 6);

    let other = Partition::new();
    fs::copy(other.file(6), partition.file(6)).unwrap();
    assert_only(&partition.findings(), "damage @6: ", "another partition");
    fs::copy(other.file(0), partition.file(6)).unwrap();
    assert_only(&partition.findings(), "damage @6: ", "than its name says");
}

#[test]
fn a_cut_suffix_is_no_damage_and_not_counted() {
    let partition = Partition::new();
    // Truncated to 4 after 0 to 5 had been written: the next segment begins there.
    partition.segment(
        0,
        &[batch(0, 2, Codec::None), batch(2, 2, Codec::None), batch(4, 2, Codec::None)],
    );
    fs::rename(partition.file(6), partition.file(4)).unwrap();
    partition.segment(4, &[batch(4, 5, Codec::None)]);
    let verified = partition.verify();
    assert_eq!(verified.findings, []);
    assert_eq!((verified.records, verified.end.get()), (9, 9));
    // And before anything was appended there: a mark says so.
    fs::remove_file(partition.file(4)).unwrap();
    let cut = CutMark { segment: Offset::ZERO, salt: Salt::new(77), end: offset(4) };
    partition.checkpoint_with(4, 0, vec![cut]);
    let verified = partition.verify();
    assert_eq!(verified.findings, []);
    assert_eq!((verified.records, verified.end.get()), (4, 4));
    // One for another life of the segment says nothing.
    partition.checkpoint_with(4, 0, vec![CutMark { salt: Salt::new(1), ..cut }]);
    assert_eq!(partition.verify().end.get(), 6);
}

#[test]
fn segments_below_the_log_start_are_nobodys() {
    let partition = Partition::new();
    partition.checkpoint(9, 7);
    partition.flip(0, SEGMENT_HEADER_BYTES as u64 + 20);
    let verified = partition.verify();
    assert_eq!(verified.findings, []);
    assert_eq!((verified.records, verified.start.get()), (3, 7));
}

#[test]
fn bytes_behind_the_end_are_noted_and_an_empty_new_segment_is_fine() {
    let partition = Partition::new();
    partition.segment(9, &[]);
    assert_eq!(partition.findings(), Vec::<String>::new());
    partition.flip(9, SEGMENT_HEADER_BYTES as u64 + 4000);
    assert_only(&partition.findings(), "note @9: bytes behind the last batch", "position 8096");
    // Made when the power failed: its header never reached the disk.
    fs::write(partition.file(9), [0; SEGMENT_HEADER_BYTES]).unwrap();
    assert_only(&partition.findings(), "note @9: ", "");
    partition.checkpoint(10, 0);
    assert_only(&partition.findings(), "damage @9: ", "");
}

#[test]
fn an_index_that_points_elsewhere_is_noted() {
    let partition = Partition::new();
    let positions = partition.segment(0, &[batch(0, 2, Codec::None), batch(2, 4, Codec::Lz4)]);
    let index = |salt: u64, position: u64| {
        let head = IndexHead {
            base: Offset::ZERO,
            salt: Salt::new(salt),
            end_offset: offset(6),
            end_position: positions[1],
            max_timestamp: Timestamp::from_millis(1),
            max_timestamp_at: Offset::ZERO,
        };
        let bytes = head.encode(FileKind::OffsetIndex, &[2 << 32 | position]);
        fs::write(offset_index_file(partition.dir.path(), Offset::ZERO), bytes).unwrap();
    };
    index(77, positions[1]);
    assert_eq!(partition.findings(), Vec::<String>::new());
    index(77, positions[1] + 8);
    assert_only(&partition.findings(), "note @2: no batch begins at offset 2", "rebuilt");
    index(78, positions[1]);
    assert_only(&partition.findings(), "note @0: it belongs to another life", "rebuilt");
    fs::write(offset_index_file(partition.dir.path(), Offset::ZERO), b"?").unwrap();
    assert_only(&partition.findings(), "note @0: ", "rebuilt");
}

#[test]
fn broken_small_files_are_damage_and_directories_are_found() {
    let partition = Partition::new();
    fs::write(partition.dir.path().join(CHECKPOINT_FILE), b"?").unwrap();
    fs::write(partition.dir.path().join(META_FILE), b"?").unwrap();
    let findings = partition.findings();
    assert_eq!(findings.len(), 2, "{findings:?}");
    assert!(findings.iter().all(|finding| finding.starts_with("damage @-1")), "{findings:?}");

    use crate::log::inspect::partition_dirs;
    let data = tempfile::tempdir().unwrap();
    assert!(matches!(partition_dirs(data.path()), Err(InspectError::NoPartitions(_))));
    assert!(partition_dirs(&data.path().join("nowhere")).unwrap_err().is_not_found());
    let inside = data.path().join("data").join(partition.id.to_string());
    fs::create_dir_all(&inside).unwrap();
    fs::write(inside.join(META_FILE), b"?").unwrap();
    for dir in [data.path(), &data.path().join("data"), &inside] {
        assert_eq!(partition_dirs(dir).unwrap(), std::slice::from_ref(&inside));
    }
    assert!(matches!(
        scan_segment(&inside.join("x.log"), |_| ControlFlow::Continue(())),
        Err(InspectError::NotASegment(_))
    ));
}
