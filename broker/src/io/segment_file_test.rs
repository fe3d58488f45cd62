use std::path::Path;

use super::*;
use crate::io::{
    Access, Disk, WriteMode,
    sim::{PowerCut, SimDisk},
};

const PATH: &str = "/00.log";

/// Whatever happens when: what was synced is there, and of the rest each sector is what was
/// appended or zeros.
#[test]
fn what_was_synced_of_a_segment_survives_a_power_loss_at_any_time() {
    let disk = SimDisk::new(11);
    disk.record_history();
    // After how many operations how much is safe; nothing before the name is.
    let mut safe = Vec::new();
    let segment = disk.create_segment(Path::new(PATH), 20_000, WriteMode::Write).unwrap();
    disk.sync_dir(Path::new("/"), SyncPoint::SegmentCreatedDir).unwrap();
    safe.push((disk.ops(), 0));
    let mut end = 0;
    for len in [100, 5000, 1, 4096, 9000, 12_000] {
        if end + len > segment.window() {
            segment.extend(end + 20_000, WriteMode::Write).unwrap();
        }
        segment.append(&[&vec![7; usize::try_from(len).unwrap()]]).unwrap();
        end += len;
        if len != 4096 {
            segment.sync(SyncPoint::SegmentData).unwrap();
            safe.push((disk.ops(), end));
        }
    }
    segment.seal().unwrap();
    segment.sync(SyncPoint::SegmentSealed).unwrap();
    for (ops, state) in disk.history().iter().enumerate() {
        let safe = safe.iter().rev().find(|(after, _)| *after <= ops as u64);
        for cut in PowerCut::sample(30) {
            let found = state.snapshot().power_loss(cut);
            let Some(&(_, safe)) = safe else { continue };
            let segment = found.open_segment(Path::new(PATH), safe, Access::Read).unwrap();
            let bytes = segment.read(0, 100_000).unwrap();
            let (before, behind) = bytes.split_at(usize::try_from(safe).unwrap());
            assert!(before.iter().all(|byte| *byte == 7), "{cut:?} after {ops}");
            assert!(behind.iter().all(|byte| [0, 7].contains(byte)), "{cut:?} after {ops}");
        }
    }
}

/// A whole frame behind a torn one must not come back to life when a new frame fills the gap.
#[test]
fn what_was_cut_off_when_reopened_never_stands_behind_new_bytes() {
    let disk = SimDisk::new(11);
    let segment = disk.create_segment(Path::new(PATH), 40_000, WriteMode::Write).unwrap();
    disk.sync_dir(Path::new("/"), SyncPoint::SegmentCreatedDir).unwrap();
    segment.append(&[&[b'v'; 9000], &[b'o'; 20_000]]).unwrap();
    segment.sync(SyncPoint::SegmentData).unwrap();
    let disk = disk.power_loss(PowerCut::LoseUnsynced);
    disk.record_history();
    let segment = disk.open_segment(Path::new(PATH), 9000, Access::Append).unwrap();
    segment.extend(40_000, WriteMode::Write).unwrap();
    segment.append(&[&[b'n'; 10_000]]).unwrap();
    let mut both_ways = [0, 0];
    for state in disk.history() {
        for cut in PowerCut::sample(60) {
            let found = state.snapshot().power_loss(cut);
            let segment = found.open_segment(Path::new(PATH), 9000, Access::Read).unwrap();
            let bytes = segment.read(0, 40_000).unwrap();
            assert!(bytes[..9000].iter().all(|byte| *byte == b'v'));
            let [new, old] = [b'n', b'o'].map(|byte| bytes[9000..].contains(&byte));
            assert!(!(new && old), "{cut:?}");
            both_ways[0] += u32::from(new);
            both_ways[1] += u32::from(old);
        }
    }
    assert!(both_ways.iter().all(|times| *times > 10), "{both_ways:?}");
}

/// A write that fails leaves bytes nobody knows: they are not appended behind.
#[test]
fn a_failed_append_is_the_last_and_publishes_nothing() {
    let disk = SimDisk::new(2);
    let segment = disk.create_segment(Path::new(PATH), 20_000, WriteMode::Write).unwrap();
    segment.append(&[&[1; 5000]]).unwrap();
    disk.fail_after(0, crate::io::sim::Fault::WriteError);
    let error = segment.append(&[&[2; 5000]]).unwrap_err();
    assert!(matches!(error, AppendError::Io(_)), "{error}");
    assert_eq!((segment.published(), segment.window()), (5000, 5000));
    assert!(matches!(segment.append(&[&[3]]), Err(AppendError::Sealed)));
    assert!(segment.extend(30_000, WriteMode::Write).is_err());
    segment.seal().unwrap();
    assert_eq!(segment.read(0, 20_000).unwrap(), vec![1; 5000]);
}

#[test]
fn a_full_disk_ends_an_extension_and_nothing_else() {
    let disk = SimDisk::new(2);
    let segment = disk.create_segment(Path::new(PATH), 8192, WriteMode::Write).unwrap();
    disk.set_capacity(Some(4 * 4096));
    let error = segment.extend(5 * 4096, WriteMode::Write).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(segment.window(), 8192);
    segment.append(&[&[1; 8192]]).unwrap();
    segment.extend(4 * 4096, WriteMode::Write).unwrap();
    segment.append(&[&[1; 8192]]).unwrap();
    assert_eq!(segment.read(0, 20_000).unwrap(), vec![1; 16_384]);
}
