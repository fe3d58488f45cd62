use std::ops::Range;

use bytes::Bytes;
use proptest::prelude::*;
use riverrun_proto::ids::ClusterId;

use super::{
    super::frame::{Entry, EntryKind, HardState, VoterId},
    *,
};
use crate::io::sim::{Fault, PowerCut, SimDisk};

const FILE: &str = "/data/meta.wal";

fn header() -> Header {
    Header { uuid: [7; 16], cluster: ClusterId::from_bytes(&[9; 16]).unwrap() }
}

fn entry(index: u64, bytes: usize) -> Item {
    let record = Bytes::from(vec![index.to_le_bytes()[0]; bytes]);
    Item::Entry(Entry { index, term: 1, kind: EntryKind::Command, record })
}

fn hard_state() -> Item {
    Item::HardState(HardState { term: 1, vote: VoterId(5), commit: 1 })
}

fn disk() -> SimDisk {
    let disk = SimDisk::new(1);
    disk.create_dir(Path::new("/data")).unwrap();
    disk.sync_dir(Path::new("/"), SyncPoint::DataDir).unwrap();
    disk
}

fn failure(disk: &SimDisk) -> Failure {
    Failure::open(Arc::new(disk.clone()), "/data")
}

fn create(disk: &SimDisk) -> Result<Wal, AppendError> {
    Wal::create(disk, Path::new(FILE), header(), &failure(disk), &[hard_state()])
}

fn content(disk: &SimDisk) -> Content {
    read(disk, Path::new(FILE)).unwrap()
}

/// The bytes of a file with these groups, and where each frame lies.
fn file(groups: &[Vec<Item>]) -> (Vec<u8>, Vec<Range<usize>>) {
    let mut bytes = header().encode().to_vec();
    let mut frames = Vec::new();
    for group in groups {
        let start = bytes.len();
        bytes.extend(header().frame(start as u64, group));
        frames.push(start..bytes.len());
    }
    (bytes, frames)
}

fn parsed(bytes: &[u8]) -> Result<Content, ReadError> {
    parse(Path::new(FILE), bytes)
}

fn groups() -> impl Strategy<Value = Vec<Vec<Item>>> {
    let item = (1..9_u64, 0..300_usize).prop_map(|(index, bytes)| entry(index, bytes));
    let item = prop_oneof![4 => item, 1 => Just(hard_state())];
    proptest::collection::vec(proptest::collection::vec(item, 1..5), 1..6)
}

proptest! {
    /// Recovery of valid groups and anything after them is those groups.
    #[test]
    fn what_is_valid_is_kept_and_only_that(
        groups in groups(),
        garbage in proptest::collection::vec(any::<u8>(), 0..200),
        zeros in 0..50_usize,
    ) {
        let (mut bytes, _) = file(&groups);
        let end = bytes.len();
        bytes.extend(&garbage);
        bytes.extend(vec![0; zeros]);
        let content = parsed(&bytes).unwrap();
        prop_assert_eq!(&content.groups, &groups);
        prop_assert_eq!(content.end as usize, end);
        prop_assert_eq!(content.torn, !all_zero(&garbage));
    }

    /// A power loss may leave any part of the last group.
    #[test]
    fn a_torn_last_group_is_cut(groups in groups(), keep in 0..2000_usize, hole in 0..2000_usize) {
        prop_assume!(groups.len() > 1);
        let (bytes, frames) = file(&groups);
        let last = frames.last().unwrap().clone();
        let (keep, hole) = (keep % last.len(), hole % last.len());
        let (mut front, mut back) = (bytes.clone(), bytes.clone());
        front[last.start + keep..].fill(0);
        back[last.start..=last.start + hole].fill(0);
        // A part that was all zeros anyway is not missed.
        for damaged in [front, back].into_iter().filter(|damaged| *damaged != bytes) {
            let content = parsed(&damaged).unwrap();
            prop_assert_eq!(&content.groups[..], &groups[..groups.len() - 1]);
            prop_assert_eq!(content.end as usize, last.start);
        }
    }

    /// A bit that flips is noticed: in the last group it looks like a torn write, anywhere before
    /// it is damage, and refused.
    #[test]
    fn a_flipped_bit_is_never_believed(groups in groups(), byte in 0..10_000_usize, bit in 0..8_u8) {
        let (mut bytes, frames) = file(&groups);
        let byte = byte % bytes.len();
        bytes[byte] ^= 1 << bit;
        let hit = frames.iter().position(|frame| frame.contains(&byte));
        match (hit, parsed(&bytes)) {
            // The header.
            (None, Err(ReadError::Open(OpenError::Damaged { .. } | OpenError::Newer { .. }))) => {}
            // Zeros that fill it up are covered as well.
            (None, other) => prop_assert!(false, "{other:?}"),
            (Some(n), result) if n + 1 == groups.len() => match result {
                Ok(content) => prop_assert_eq!(&content.groups[..], &groups[..n]),
                Err(ReadError::Unfinished) => prop_assert_eq!(n, 0),
                Err(error) => prop_assert!(false, "{error:?}"),
            },
            (Some(n), Err(ReadError::Open(OpenError::Damaged { position, problem, .. }))) => {
                prop_assert_eq!(position as usize, frames[n].start);
                prop_assert!(problem.contains("a valid one behind it"), "{}", problem);
            }
            (Some(_), other) => prop_assert!(false, "{other:?}"),
        }
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = parsed(&bytes);
        let mut file = header().encode().to_vec();
        file.extend(bytes);
        let _ = parsed(&file);
    }
}

#[test]
fn a_frame_of_another_file_or_place_does_not_count() {
    let (bytes, frames) = file(&[vec![hard_state()], vec![entry(2, 10)]]);
    let mut moved = bytes[..frames[0].end].to_vec();
    moved.extend([0; 16]);
    moved.extend(&bytes[frames[1].clone()]);
    let content = parsed(&moved).unwrap();
    assert_eq!((content.groups.len(), content.torn), (1, true));

    let mut other = Header { uuid: [8; 16], ..header() }.encode().to_vec();
    other.extend(&bytes[HEADER_BYTES..]);
    assert!(matches!(parsed(&other), Err(ReadError::Unfinished)));
}

#[test]
fn what_a_newer_binary_wrote_is_refused() {
    let (mut bytes, _) = file(&[vec![hard_state()]]);
    bytes[8] = 2;
    let Err(ReadError::Open(error)) = parsed(&bytes) else { panic!() };
    assert!(error.to_string().contains("format version 2"), "{error}");

    let mut body = header().frame(HEADER_BYTES as u64, &[hard_state()]);
    body[FRAME_HEAD_BYTES] = 77;
    let Err(Unreadable::Newer(what)) = Item::decode_all(&body[FRAME_HEAD_BYTES..]) else {
        panic!()
    };
    assert_eq!(what, "an item of unknown kind 77");
}

#[test]
fn a_group_is_durable_when_append_returns() {
    let disk = disk();
    let mut wal = create(&disk).unwrap();
    disk.sync_dir(Path::new("/data"), SyncPoint::MetaWalDir).unwrap();
    // More than is allocated at once.
    for index in 2..20 {
        wal.append(&[entry(index, 40_000), hard_state()]).unwrap();
    }
    assert_eq!(wal.len(), content(&disk).end);
    let content = content(&disk.power_loss(PowerCut::LoseUnsynced));
    assert_eq!((content.groups.len(), content.torn), (19, false));
}

#[test]
fn a_full_disk_changes_nothing_and_passes() {
    let disk = disk();
    disk.set_capacity(Some(1024));
    assert_eq!(create(&disk).unwrap_err(), AppendError::Full);
    assert_eq!(disk.list(Path::new("/data")).unwrap(), [], "no file is left to be taken for a log");

    disk.set_capacity(Some(300 * 1024));
    let mut wal = create(&disk).unwrap();
    let mut index = 1;
    while wal.append(&[entry(index, 50_000)]).is_ok() {
        index += 1;
    }
    assert!(index > 3);
    assert_eq!(wal.append(&[entry(index, 50_000)]), Err(AppendError::Full));
    disk.set_capacity(None);
    wal.append(&[entry(index, 50_000)]).unwrap();
    let content = content(&disk);
    assert_eq!((content.groups.len() as u64, content.torn), (index + 1, false));
}

/// Some file systems run out of space where it was allocated. Whatever reached the file is gone for
/// good before the caller hears of it.
#[test]
fn a_full_disk_in_the_middle_of_a_write_is_undone() {
    let disk = disk();
    let mut wal = create(&disk).unwrap();
    disk.sync_dir(Path::new("/data"), SyncPoint::MetaWalDir).unwrap();
    wal.append(&[entry(2, 100)]).unwrap();
    disk.fail_after(0, Fault::NoSpace);
    assert_eq!(wal.append(&[entry(3, 9000)]), Err(AppendError::Full));
    assert_eq!(disk.faults_left(), 0);
    for cut in PowerCut::sample(10) {
        let found = disk.snapshot().power_loss(cut);
        assert_eq!((content(&found).groups.len(), content(&found).torn), (2, false), "{cut:?}");
    }
    wal.append(&[entry(3, 200)]).unwrap();
    assert_eq!(content(&disk).groups.len(), 3);
}

#[test]
fn a_failed_write_or_sync_is_final() {
    for fault in [Fault::WriteError, Fault::SyncError] {
        let disk = disk();
        let mut wal = create(&disk).unwrap();
        disk.fail_after(0, fault);
        let Err(AppendError::Failed(failed)) = wal.append(&[entry(2, 10)]) else { panic!() };
        assert!(failed.to_string().contains("meta.wal"), "{failed}");
        assert_eq!(wal.append(&[entry(2, 10)]), Err(AppendError::Failed(failed)));
        assert!(failure(&disk).is_failed(), "the next start knows");
    }
}

#[test]
fn a_torn_end_is_cut_before_anything_is_written_behind_it() {
    let disk = disk();
    let mut wal = create(&disk).unwrap();
    wal.append(&[entry(2, 100)]).unwrap();
    wal.append(&[entry(3, 9000)]).unwrap();
    let end = content(&disk).end;
    disk.flip_bit(Path::new(FILE), end - 1, 0).unwrap();
    let torn = content(&disk);
    assert_eq!((torn.groups.len(), torn.torn), (2, true));
    drop(wal);
    let mut wal = Wal::open(&disk, Path::new(FILE), &torn, &failure(&disk)).unwrap();
    wal.append(&[entry(3, 10)]).unwrap();
    let after = content(&disk);
    assert_eq!((after.groups.len(), after.torn), (3, false));
    assert_eq!(after.groups[2], [entry(3, 10)]);
}
