//! `tests/fixtures/format_v1`: a partition's directory as the first version of the format wrote it,
//! opened forever. Its bytes are also what the present version writes: a change of the format that
//! nobody meant is seen here first.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use riverrun_proto::{epoch::LeaderEpoch, ids::ProducerId, timestamp::Timestamp};

use super::{
    LogBudgets, LogConfig, LogEnv, SaltSource, layout,
    testkit::{Driven, Make, NOW, at, header, meta, small_config},
    verify,
};
use crate::io::{
    Disk, Failure,
    real::{MapPolicy, RealDisk},
};

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/format_v1")
}

fn env(data: &Path) -> LogEnv {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(MapPolicy::Never));
    let failure = Failure::open(disk.clone(), data);
    LogEnv::new(disk, failure, SaltSource::seeded(42), LogBudgets::default())
}

fn config() -> LogConfig {
    LogConfig { segment_bytes: 8192, ..small_config() }
}

fn make(n: u64) -> Make {
    let (value_bytes, producer) = (300, Some((5, 2 * n as i32)));
    Make { value_bytes, mark: n, time: 1000 * n as i64, producer, epoch: 1, ..Make::default() }
}

/// Rolls, a deletion, a cut that is marked, a producer, two leader epochs, a clean stop.
fn write(data: &Path) {
    let dir = layout::partition_dir(data, meta().partition);
    let mut driven = Driven::around(super::Log::create(env(data), dir, &meta(), config()).unwrap());
    for n in 0..10 {
        driven.append(make(n)).unwrap();
    }
    driven.log.note_high_watermark(at(14));
    driven.advance(at(13));
    driven.truncate(at(16));
    for n in 8..11 {
        driven.append(Make { epoch: 4, ..make(n) }).unwrap();
    }
    assert!(driven.error.is_none(), "{:?}", driven.error);
    driven.close();
}

fn files(data: &Path) -> Vec<(String, Vec<u8>)> {
    let dir = layout::partition_dir(data, meta().partition);
    let mut all: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        })
        .collect();
    all.sort();
    all
}

#[test]
fn the_directory_of_the_first_version_opens() {
    let data = tempfile::tempdir().unwrap();
    let dir = layout::partition_dir(data.path(), meta().partition);
    fs::create_dir(&dir).unwrap();
    for (name, bytes) in files(&fixture()) {
        fs::write(dir.join(name), bytes).unwrap();
    }
    let verified = verify::verify_partition(&dir, &mut |_| {}).unwrap();
    assert!(!verified.is_damaged(), "{:?}", verified.findings);
    assert_eq!((verified.start, verified.end), (at(13), at(22)));
    for clean in [true, false] {
        let (log, report) =
            super::Log::open(env(data.path()), dir.clone(), config(), clean, NOW).unwrap();
        assert_eq!((report.damage, report.cut, report.scanned_bytes), (None, None, 0));
        assert_eq!((log.log_start_offset(), log.log_end_offset()), (at(13), at(22)));
        assert_eq!(log.high_watermark(), at(14));
        assert_eq!(log.last_epoch(), LeaderEpoch::new(4));
        let entries = log.leader_epochs().entries();
        let entries: Vec<_> = entries.iter().map(|e| (e.epoch.get(), e.start.get())).collect();
        assert_eq!(entries, [(1, 13), (4, 16)]);
        let producer = log.producers().get(ProducerId::new(5).unwrap()).unwrap();
        assert_eq!((producer.epoch(), producer.batches().len()), (0, 11));
        let driven = Driven::around(log);
        let batches = driven.batches();
        let expected = [(6, 1), (7, 1), (8, 4), (9, 4), (10, 4)]
            .map(|(n, epoch)| Make { epoch, ..make(n) }.stamped(at(2 * n as i64)).to_bytes());
        assert_eq!(batches, expected);
        assert!(batches.iter().all(|batch| header(batch).record_count == 2));
        let reader = driven.log.reader();
        let time = Timestamp::from_millis(8500);
        let found = reader.offset_for_timestamp(time, at(22)).run().unwrap().unwrap();
        assert_eq!((found.offset, found.timestamp.as_millis()), (at(18), 9000));
    }
}

#[test]
fn the_first_version_is_what_is_written_now() {
    let data = tempfile::tempdir().unwrap();
    write(data.path());
    let (now, then) = (files(data.path()), files(&fixture()));
    let names = |files: &[(String, Vec<u8>)]| -> Vec<String> {
        files.iter().map(|(name, _)| name.clone()).collect()
    };
    assert_eq!(names(&now), names(&then));
    for ((name, now), (_, then)) in now.iter().zip(&then) {
        assert!(now == then, "{name} is not what version 1 writes");
    }
}

/// Wrote the fixture; run by hand, once per format version, into a directory that is not there yet.
#[test]
#[ignore = "writes a fixture"]
fn write_the_fixture() {
    fs::create_dir(fixture()).expect("a fixture is written once");
    write(&fixture());
}
