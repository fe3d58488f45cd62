//! What opening finds on a directory that is not as it was left: tails of garbage, damage below the
//! recovery point, files that are missing, broken, newer, or of somebody else.

use std::{
    io::IoSlice,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use proptest::prelude::*;
use riverrun_proto::offset::Offset;

use super::{
    AppendError, LogError, Read, ReadError, RecoveryReport,
    envelope::{self, FormatError},
    layout::{self, CHECKPOINT_FILE, FileKind, LEADER_EPOCHS_FILE, META_FILE},
    testkit::{Driven, Make, at, dir, env, fingerprint, header, read_all, sim_disk, small_config},
};
use crate::io::{Disk, SyncPoint, sim::SimDisk};

/// Batches of 1083 bytes with their frame, three to a segment; checkpoints only on request.
fn config() -> super::LogConfig {
    super::LogConfig { checkpoint_bytes: u64::MAX, segment_bytes: 8 * 1024, ..small_config() }
}

fn make(mark: u64) -> Make {
    Make { value_bytes: 500, mark, time: mark as i64, ..Make::default() }
}

/// A log with `below` batches below its recovery point and `above` beyond it; its batches.
fn log(disk: &SimDisk, below: u64, above: u64) -> (Driven, Vec<Bytes>) {
    let mut driven = Driven::create(env(Arc::new(disk.clone()), "/data", 1), config());
    for n in 0..below {
        driven.append(make(n)).unwrap();
    }
    driven.checkpoint();
    driven.stalls_checkpoints = true;
    for n in 0..above {
        driven
            .append(Make { epoch: 1, producer: Some((7, 2 * n as i32)), ..make(100 + n) })
            .unwrap();
    }
    assert_eq!(driven.log.recovery_point(), at(2 * below as i64));
    let batches = driven.batches();
    (driven, batches)
}

fn open(disk: &SimDisk, clean: bool) -> (Driven, RecoveryReport) {
    Driven::open(env(Arc::new(disk.clone()), "/data", 9), config(), clean)
}

fn open_error(disk: &SimDisk) -> LogError {
    Driven::try_open(env(Arc::new(disk.clone()), "/data", 9), config(), false).unwrap_err()
}

fn write(disk: &SimDisk, path: &Path, position: u64, bytes: &[u8]) {
    let file = disk.open(path).unwrap();
    file.write_at(&[IoSlice::new(bytes)], position).unwrap();
    file.sync(SyncPoint::SegmentData).unwrap();
}

fn read_file(disk: &SimDisk, path: &Path) -> Vec<u8> {
    let file = disk.open(path).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    bytes
}

fn segment(base: i64) -> PathBuf {
    layout::segment_file(&dir(), at(base))
}

/// Base offsets of the segments there are.
fn segments(disk: &SimDisk) -> Vec<i64> {
    let names = disk.list(&dir()).unwrap().into_iter().map(|entry| entry.name);
    names.filter_map(|name| name.strip_suffix(".log")?.parse().ok()).collect()
}

/// What one may find behind the last whole frame.
fn garbage() -> impl Strategy<Value = Vec<u8>> {
    let noise = prop::collection::vec(any::<u8>(), 1..3000);
    let zeros_then_noise = (0..2000usize, prop::collection::vec(any::<u8>(), 1..50))
        .prop_map(|(zeros, noise)| [vec![0; zeros], noise].concat());
    prop_oneof![noise, zeros_then_noise]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Recovery of a valid prefix and any garbage is the valid prefix, wherever it ends; what is
    /// appended afterwards is not disturbed by what lies there.
    #[test]
    fn the_longest_valid_prefix_survives(
        below in 0..5u64,
        above in 0..4u64,
        garbage in garbage(),
        old_frame in any::<bool>(),
    ) {
        let disk = sim_disk(1);
        let (driven, batches) = log(&disk, below, above);
        let end = driven.log.end_point();
        prop_assume!(below + above > 0);
        let disk = disk.kill();
        let path = segment(end.segment.get());
        // A copy of a frame of this very segment must not pass either: it is of another offset.
        let bytes = if old_frame {
            read_file(&disk, &path)[4096..end.position as usize].to_vec()
        } else {
            garbage
        };
        write(&disk, &path, end.position, &bytes);
        let (mut driven, report) = open(&disk, false);
        prop_assert_eq!(driven.batches(), batches.clone());
        prop_assert_eq!(report.damage, None);
        prop_assert!(!report.was_clean);
        let is_zero = bytes.iter().take(8).all(|byte| *byte == 0);
        prop_assert_eq!(report.cut.is_none(), is_zero, "{:?}", report.cut);
        prop_assert!(report.scanned_bytes <= above * 1200, "only above the recovery point");

        driven.append(Make { epoch: 5, ..make(500) }).unwrap();
        let now = driven.batches();
        prop_assert_eq!(now.len(), batches.len() + 1);
        let disk = disk.kill();
        let (driven, report) = open(&disk, false);
        prop_assert_eq!(driven.batches(), now);
        prop_assert_eq!(report.cut, None, "was reported once");
    }
}

#[test]
fn a_flipped_bit_above_the_recovery_point_is_the_end() {
    let disk = sim_disk(1);
    let (_, batches) = log(&disk, 2, 5);
    let disk = disk.kill();
    // In the second batch above it, which is the second of its segment.
    disk.flip_bit(&segment(6), 4096 + 500, 3).unwrap();
    let (driven, report) = open(&disk, false);
    assert_eq!(driven.log.log_end_offset(), at(6));
    assert_eq!(driven.batches(), batches[..3]);
    assert_eq!(report.removed_segments, [at(6), at(12)], "what is behind it goes, too");
    let cut = report.cut.unwrap();
    assert_eq!((cut.segment, cut.offset), (at(6), at(6)));
    assert!(cut.what.contains("checksum"), "{cut:?}");
}

#[test]
fn a_flipped_bit_below_the_recovery_point_is_reported_by_whoever_reads_it() {
    let disk = sim_disk(1);
    let (_, batches) = log(&disk, 7, 1);
    let disk = disk.kill();
    // The second of three batches in a sealed segment.
    disk.flip_bit(&segment(0), 4096 + 1083 + 700, 0).unwrap();
    let (mut driven, report) = open(&disk, false);
    assert_eq!(report.damage, None, "nothing below the recovery point is read at the start");
    assert_eq!(driven.log.log_end_offset(), at(16), "and nothing is cut");
    let reader = driven.log.reader();
    let Read::Cold(cold) = reader.read(at(0), Offset::MAX, 100_000).unwrap() else { panic!() };
    let found = cold.run().unwrap();
    assert_eq!(found.batches, batches[..1]);
    assert_eq!(found.next_offset, at(2));
    for from in [2, 3] {
        let error = read_all(&reader, at(from), 100_000).unwrap_err();
        let ReadError::Corrupt(damage) = error else { panic!("{error}") };
        assert_eq!((damage.offset, damage.next_offset), (at(from), at(4)));
    }
    assert_eq!(read_all(&reader, at(4), 100_000).unwrap(), batches[2..]);
    driven.append(Make { epoch: 9, ..make(900) }).unwrap();
}

/// Ways to harm what lies below the recovery point so that opening sees it: name, what to do, the
/// damage (offset, next), and what can still be read in front of it.
type Harm = (&'static str, fn(&SimDisk), (i64, i64), i64);

const HARMS: [Harm; 4] = [
    ("a segment is missing", |disk| disk.remove_file(&segment(6)).unwrap(), (6, 12), 6),
    ("the first is missing", |disk| disk.remove_file(&segment(0)).unwrap(), (0, 6), 0),
    (
        "a segment is cut short",
        |disk| disk.open(&segment(6)).unwrap().set_len(4096 + 1500).unwrap(),
        (8, 12),
        8,
    ),
    (
        "the last is cut short",
        |disk| disk.open(&segment(12)).unwrap().set_len(4096).unwrap(),
        (12, 14),
        12,
    ),
];

#[test]
fn damage_below_the_recovery_point_is_never_cut() {
    for (what, harm, damage, readable) in HARMS {
        let disk = sim_disk(1);
        let (_, batches) = log(&disk, 7, 0);
        let disk = disk.kill();
        harm(&disk);
        for attempt in 0..2 {
            let (mut driven, report) = open(&disk, attempt == 1);
            let found = report.damage.unwrap_or_else(|| panic!("{what}: not seen"));
            assert_eq!((found.offset.get(), found.next_offset.get()), damage, "{what}: {found}");
            let end = driven.log.log_end_offset();
            assert_eq!(end, at(14), "{what}: nothing is cut, attempt {attempt}");
            let error = driven.append(make(9)).unwrap_err();
            assert!(matches!(error, AppendError::Damaged(_)), "{what}: {error}");
            let reader = driven.log.reader();
            let error = read_all(&reader, at(damage.0), 1000).unwrap_err();
            let ReadError::Corrupt(corrupt) = error else { panic!("{what}: {error}") };
            assert_eq!(corrupt.offset, at(damage.0), "{what}");
            let below = readable as usize / 2;
            for (n, batch) in batches.iter().enumerate().take(below) {
                let found = match reader.read(at(2 * n as i64), at(readable), 1).unwrap() {
                    Read::Cold(cold) => cold.run().unwrap().batches,
                    Read::Batches(found) => found.batches,
                    Read::Empty => Vec::new(),
                };
                assert_eq!(found, std::slice::from_ref(batch), "{what}");
            }
            driven.close();
        }
        // Accepting the loss mends it.
        let (mut driven, _) = open(&disk, false);
        driven.truncate(at(damage.0));
        assert!(driven.log.damage().is_none(), "{what}: {:?}", driven.error);
        driven.append(Make { epoch: 3, ..make(77) }).unwrap();
        let batches = driven.batches();
        assert_eq!(driven.log.log_end_offset(), at(damage.0 + 2), "{what}");
        driven.flush();
        let disk = disk.kill();
        let (driven, report) = open(&disk, false);
        assert_eq!(report.damage, None, "{what}");
        assert_eq!(driven.batches(), batches, "{what}");
    }
}

#[test]
fn indexes_are_made_again() {
    type Spoil = fn(&SimDisk, &Path);
    let spoils: [(&str, Spoil); 4] = [
        ("missing", |disk, path| disk.remove_file(path).unwrap()),
        ("flipped", |disk, path| disk.flip_bit(path, 40, 1).unwrap()),
        ("cut", |disk, path| disk.open(path).unwrap().set_len(30).unwrap()),
        ("of zeros", |disk, path| write(disk, path, 0, &[0; 200])),
    ];
    for (what, spoil) in spoils {
        let disk = sim_disk(1);
        let (_, batches) = log(&disk, 7, 0);
        let disk = disk.kill();
        for base in [0, 6, 12] {
            spoil(&disk, &layout::offset_index_file(&dir(), at(base)));
            spoil(&disk, &layout::time_index_file(&dir(), at(base)));
        }
        let (driven, report) = open(&disk, false);
        assert_eq!(report.rebuilt_indexes, [at(0), at(6), at(12)], "{what}");
        assert_eq!((report.damage, driven.batches()), (None, batches.clone()), "{what}");
        let reader = driven.log.reader();
        let time = riverrun_proto::timestamp::Timestamp::from_millis(4);
        let found = reader.offset_for_timestamp(time, Offset::MAX).run().unwrap();
        assert_eq!(found.unwrap().offset, at(7), "{what}: time 3 + 1");
        // And written: the next open needs nothing.
        let (_, report) = open(&disk.kill(), false);
        assert_eq!(report.rebuilt_indexes, [], "{what}");
    }
}

#[test]
fn an_entry_that_lies_within_a_whole_index_does_no_harm() {
    let disk = sim_disk(1);
    let (driven, _) = log(&disk, 7, 0);
    driven.close();
    // Numbers of the sealed segment's index that nobody wrote, below their checksum: found when it
    // is loaded, not when the log is opened.
    let path = layout::offset_index_file(&dir(), at(0));
    disk.flip_bit(&path, super::index::INDEX_HEAD_BYTES as u64 + 2, 5).unwrap();
    let (driven, report) = open(&disk.kill(), true);
    assert!(report.was_clean, "{report:?}");
    assert_eq!(driven.batches().len(), 7);
    assert_eq!(driven.log.shared.env.counters.indexes_rebuilt.get(), 1);
}

#[test]
fn without_its_small_files_a_log_reads_everything() {
    let disk = sim_disk(1);
    let (driven, batches) = log(&disk, 7, 2);
    let (epochs, producers) =
        (driven.log.leader_epochs().clone(), fingerprint(driven.log.producers()));
    let disk = disk.kill();
    for name in [CHECKPOINT_FILE, LEADER_EPOCHS_FILE] {
        disk.remove_file(&dir().join(name)).unwrap();
    }
    disk.remove_file(&layout::snapshot_file(&dir(), at(14))).unwrap();
    let (driven, report) = open(&disk, false);
    assert!(report.checkpoint_lost);
    assert_eq!(driven.batches(), batches);
    assert_eq!(driven.log.leader_epochs(), &epochs);
    assert_eq!(fingerprint(driven.log.producers()), producers);
    // Once.
    let (_, report) = open(&disk.kill(), false);
    assert!(!report.checkpoint_lost && !report.epochs_lost);
    assert_eq!(report.scanned_bytes, 0);
}

#[test]
fn without_a_checkpoint_a_broken_frame_before_a_later_segment_is_damage() {
    let disk = sim_disk(1);
    let (_, batches) = log(&disk, 7, 0);
    let disk = disk.kill();
    disk.remove_file(&dir().join(CHECKPOINT_FILE)).unwrap();
    disk.flip_bit(&segment(0), 4096 + 1083 + 700, 0).unwrap();
    let (driven, report) = open(&disk, false);
    let damage = report.damage.unwrap();
    assert_eq!((damage.offset, damage.next_offset), (at(2), at(6)));
    assert_eq!(driven.log.log_end_offset(), at(14));
    assert_eq!(read_all(&driven.log.reader(), at(6), 5000).unwrap(), batches[3..]);
}

#[test]
fn a_newer_format_is_refused_by_name() {
    let files: [(PathBuf, FileKind); 6] = [
        (dir().join(META_FILE), FileKind::PartitionMeta),
        (dir().join(CHECKPOINT_FILE), FileKind::Checkpoint),
        (dir().join(LEADER_EPOCHS_FILE), FileKind::LeaderEpochs),
        (layout::snapshot_file(&dir(), at(14)), FileKind::ProducerSnapshot),
        (layout::offset_index_file(&dir(), at(0)), FileKind::OffsetIndex),
        (segment(12), FileKind::Segment),
    ];
    for (path, kind) in files {
        let disk = sim_disk(1);
        log(&disk, 7, 1);
        let disk = disk.kill();
        let bytes = read_file(&disk, &path);
        let body = envelope::unwrap(kind, &bytes).unwrap();
        let mut newer = envelope::wrap(kind, body);
        newer[6] += 1;
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&newer[..12]);
        hasher.update(body);
        newer[12..16].copy_from_slice(&hasher.finalize().to_le_bytes());
        write(&disk, &path, 0, &newer);
        let before = disk.ops();
        let error = open_error(&disk);
        let LogError::Format { path: named, source } = &error else { panic!("{kind:?}: {error}") };
        assert_eq!(named, &path, "{kind:?}");
        assert_eq!(*source, FormatError::Newer { found: 2, known: 1 });
        assert!(error.to_string().contains("newer version of Riverrun"), "{error}");
        let changed = disk.trace().split_off(before as usize);
        assert!(changed.is_empty(), "{kind:?}: a newer directory is left alone: {changed:?}");
    }
}

#[test]
fn whose_directory_it_is() {
    let disk = sim_disk(1);
    log(&disk, 1, 0);
    let disk = disk.kill();
    write(&disk, &disk_file(&disk, "lost+found"), 0, b"?");
    let (_, report) = open(&disk, false);
    assert_eq!(report.unknown_files, ["lost+found"], "named and left alone");

    let meta = dir().join(META_FILE);
    let mut bytes = read_file(&disk, &meta);
    bytes[20] ^= 1;
    let body = bytes[16..].to_vec();
    write(&disk, &meta, 0, &envelope::wrap(FileKind::PartitionMeta, &body));
    assert!(matches!(open_error(&disk), LogError::WrongPartition { .. }));

    disk.flip_bit(&meta, 30, 0).unwrap();
    assert!(matches!(open_error(&disk), LogError::Format { .. }));

    disk.remove_file(&meta).unwrap();
    assert!(matches!(open_error(&disk), LogError::NoMeta { has_segments: true, .. }));
}

fn disk_file(disk: &SimDisk, name: &str) -> PathBuf {
    let path = dir().join(name);
    disk.create(&path).unwrap();
    path
}

#[test]
fn a_log_is_made_once_and_a_half_made_one_is_taken_over() {
    let disk = sim_disk(1);
    disk.create_dir(&dir()).unwrap();
    let env = env(Arc::new(disk.clone()), "/data", 1);
    drop(Driven::create(env.clone(), config()));
    let meta = super::testkit::meta();
    let error = super::Log::create(env, dir(), &meta, config()).unwrap_err();
    assert!(error.to_string().contains(dir().to_str().unwrap()), "{error}");
}

/// After a clean stop nothing is read, and the last segment is appended to again.
#[test]
fn a_clean_stop_costs_nothing_at_the_next_start() {
    let disk = sim_disk(1);
    let (driven, batches) = log(&disk, 2, 2);
    let epochs = driven.log.leader_epochs().clone();
    driven.close();
    let disk = disk.kill();
    let before = disk.ops();
    let (mut driven, report) = open(&disk, true);
    assert!(report.was_clean && report.scanned_bytes == 0, "{report:?}");
    assert_eq!(disk.ops(), before, "nothing is written");
    assert_eq!(driven.log.shared.env.open_segments(), 0, "nothing is mapped");
    assert_eq!(driven.log.leader_epochs(), &epochs);
    let files = segments(&disk);
    driven.append(Make { epoch: 1, ..make(50) }).unwrap();
    assert_eq!(segments(&disk), files, "into the same segment");
    assert_eq!(driven.batches()[..4], batches);
    assert_eq!(header(&driven.batches()[4]).base_offset, 8);
}

/// The owner's word for a clean stop is not enough.
#[test]
fn a_stop_that_was_not_clean_is_found_out() {
    let disk = sim_disk(1);
    let (_, batches) = log(&disk, 2, 3);
    let (driven, report) = open(&disk.kill(), true);
    assert!(!report.was_clean);
    assert_eq!(driven.batches(), batches);
}
