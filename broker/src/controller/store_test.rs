use bytes::Bytes;

use super::*;
use crate::{
    io::sim::{PowerCut, SimDisk},
    metadata::test_support::{apply, create, register},
};

const DATA: &str = "/data";

fn identity() -> Identity {
    Identity {
        cluster: ClusterId::from_bytes(&[1; 16]).unwrap(),
        node: BrokerId(1),
        directory: DirectoryId::from_bytes(&[2; 16]).unwrap(),
    }
}

fn formatted() -> SimDisk {
    let disk = SimDisk::new(5);
    disk.create_dir(Path::new(DATA)).unwrap();
    disk.sync_dir(Path::new("/"), SyncPoint::DataDir).unwrap();
    MetaStore::format(&disk, Path::new(DATA), identity(), &failure(&disk)).unwrap();
    disk
}

fn failure(disk: &SimDisk) -> Failure {
    Failure::open(Arc::new(disk.clone()), DATA)
}

fn open(disk: &SimDisk) -> Result<(MetaStore, Recovered), OpenError> {
    MetaStore::open(Arc::new(disk.clone()), Path::new(DATA), &failure(disk))
}

/// The image after all that was recovered.
fn image(recovered: &Recovered) -> MetadataImage {
    recovered.entries.iter().fold(recovered.image.clone(), |image, entry| {
        apply(&image, &record::decode(&entry.record).unwrap()).image
    })
}

/// Appends a command and gives the image after it.
fn append(store: &mut MetaStore, image: &MetadataImage, command: &Command) -> MetadataImage {
    let index = image.offset().next().get();
    let record = record::encode(command).unwrap();
    store
        .append(vec![Entry { index, term: store.term(), kind: EntryKind::Command, record }])
        .unwrap();
    apply(image, command).image
}

fn names(disk: &SimDisk) -> Vec<String> {
    let entries = disk.list(&Path::new(DATA).join(META_DIR)).unwrap();
    entries.into_iter().map(|entry| entry.name).collect()
}

fn path(name: &str) -> PathBuf {
    Path::new(DATA).join(META_DIR).join(name)
}

/// Makes a sector or more read as zeros.
fn wipe(disk: &SimDisk, path: &Path, len: usize) {
    let mut bytes = vec![0; len];
    disk.open(path).unwrap().read_at(&mut bytes, 0).unwrap();
    for (position, byte) in (0..).zip(bytes) {
        for bit in (0..8).filter(|bit| byte & 1 << bit != 0) {
            disk.flip_bit(path, position, bit).unwrap();
        }
    }
}

#[test]
fn a_new_log_is_what_a_raft_node_needs() {
    let disk = formatted();
    let (store, recovered) = open(&disk).unwrap();
    assert_eq!(names(&disk), [snapshot_name(1), wal_name(2)]);
    let vote = VoterId::of(identity().directory);
    let voter = Voter { id: vote, node: BrokerId(1), directory: identity().directory };
    assert_eq!(store.voters(), [voter]);
    assert_eq!(store.hard_state, HardState { term: 1, vote, commit: 2 });
    assert_eq!(store.snapshot, Mark { index: 1, term: 1 });
    assert_eq!(recovered.image, MetadataImage::default().at(MetadataOffset::new(1).unwrap()));
    assert_eq!(recovered.entries.len(), 1);
    assert_eq!(image(&recovered).feature_level(), FeatureLevel::INITIAL);
    assert!(store.is_unused(&recovered));
}

#[test]
fn a_checkpoint_leaves_one_snapshot_and_one_log() {
    let disk = formatted();
    let (mut store, recovered) = open(&disk).unwrap();
    let mut now = append(&mut store, &image(&recovered), &register(1, 1));
    store.checkpoint(&now).unwrap();
    assert_eq!(names(&disk), [snapshot_name(3), wal_name(4)]);
    now = append(&mut store, &now, &create(1, "a", &[&[1]]));
    drop(store);
    let (mut store, recovered) = open(&disk.power_loss(PowerCut::LoseUnsynced)).unwrap();
    assert_eq!(recovered.image.offset().get(), 3);
    assert_eq!(image(&recovered), now);
    assert_eq!(store.hard_state.commit, 3, "a hint, as of the snapshot");
    assert!(!store.is_unused(&recovered));
    store.checkpoint(&now).unwrap();
    store.checkpoint(&now).unwrap();
}

/// The newest log lost its first sector. An older one would open, without what was acknowledged
/// since: it must be gone by then, for good.
#[test]
fn an_older_log_never_stands_in_for_a_damaged_one() {
    let crash = |ignored| {
        let disk = formatted();
        disk.ignore_sync(ignored);
        let (mut store, recovered) = open(&disk).unwrap();
        let now = append(&mut store, &image(&recovered), &register(1, 1));
        store.checkpoint(&now).unwrap();
        append(&mut store, &now, &create(1, "a", &[&[1]]));
        let found = disk.power_loss(PowerCut::LoseUnsynced);
        wipe(&found, &path(&wal_name(4)), 512);
        open(&found).map(|(_, recovered)| image(&recovered).offset())
    };
    assert!(matches!(crash(None), Err(OpenError::Damaged { .. })));
    let without = crash(Some(SyncPoint::MetaWalRemovedDir));
    assert_eq!(without.unwrap().get(), 3, "the sync is needed: an entry is lost in silence");
}

#[test]
fn a_log_that_was_not_finished_gives_way_to_the_one_before() {
    let disk = formatted();
    let (mut store, recovered) = open(&disk).unwrap();
    let now = append(&mut store, &image(&recovered), &register(1, 1));
    drop(store);
    for begun in [&b""[..], &[0; 4096]] {
        let file = disk.create(&path(&wal_name(4))).unwrap();
        file.write_at(&[std::io::IoSlice::new(begun)], 0).unwrap();
        let (_, recovered) = open(&disk).unwrap();
        assert_eq!(image(&recovered), now);
        assert_eq!(names(&disk), [snapshot_name(1), wal_name(2)]);
    }
}

#[test]
fn what_is_missing_or_damaged_is_named() {
    let message = |spoil: &dyn Fn(&SimDisk)| {
        let disk = formatted();
        spoil(&disk);
        open(&disk).unwrap_err().to_string()
    };
    let remove = |name: String| move |disk: &SimDisk| disk.remove_file(&path(&name)).unwrap();
    let flip = |name: String, at| move |disk: &SimDisk| disk.flip_bit(&path(&name), at, 3).unwrap();
    for (error, parts) in [
        (message(&remove(snapshot_name(1))), [snapshot_name(1), "is missing".into()]),
        (message(&remove(wal_name(2))), ["meta-*.wal".into(), "is missing".into()]),
        (message(&flip(snapshot_name(1), 100)), [snapshot_name(1), "checksum".into()]),
        (message(&flip(snapshot_name(1), 40)), [snapshot_name(1), "checksum".into()]),
        (message(&flip(wal_name(2), 0)), [wal_name(2), "does not begin like".into()]),
        (message(&flip(wal_name(2), 80)), [wal_name(2), "first group".into()]),
    ] {
        for part in parts {
            assert!(error.contains(&part), "{error}");
        }
    }
    let disk = SimDisk::new(1);
    disk.create_dir(Path::new(DATA)).unwrap();
    assert!(matches!(open(&disk), Err(OpenError::Missing { .. })));
}

#[test]
fn a_snapshot_of_another_cluster_is_refused() {
    let disk = formatted();
    let header = new_header(ClusterId::from_bytes(&[9; 16]).unwrap());
    let file = disk.open(&path(&snapshot_name(1))).unwrap();
    file.write_at(&[std::io::IoSlice::new(&header.encode())], 0).unwrap();
    assert!(matches!(open(&disk), Err(OpenError::OtherCluster { .. })));
}

#[test]
fn files_of_others_are_left_alone() {
    let disk = formatted();
    let notes = path("notes.txt");
    disk.create(&notes).unwrap();
    disk.create(&path("meta-00000000000000000009.snapshot.tmp")).unwrap();
    open(&disk).unwrap();
    assert_eq!(names(&disk), [snapshot_name(1), wal_name(2), "notes.txt".into()]);
}

#[test]
fn a_failed_directory_is_not_opened() {
    let disk = formatted();
    failure(&disk).poison("sync failed").unwrap();
    assert!(matches!(open(&disk), Err(OpenError::Failed(_))));
}

#[test]
fn a_full_disk_costs_the_checkpoint_and_nothing_else() {
    let disk = formatted();
    let (mut store, recovered) = open(&disk).unwrap();
    let now = append(&mut store, &image(&recovered), &register(1, 1));
    disk.set_capacity(Some(270 * 1024));
    assert_eq!(store.checkpoint(&now), Err(AppendError::Full));
    let now = append(&mut store, &now, &create(1, "a", &[&[1]]));
    disk.set_capacity(None);
    store.checkpoint(&now).unwrap();
    drop(store);
    let (_, recovered) = open(&disk).unwrap();
    assert_eq!(image(&recovered), now);
    assert_eq!(names(&disk), [snapshot_name(4), wal_name(5)]);
}

/// A later entry of the same index stands for all from there on: how Raft takes back what was never
/// committed. Nothing else may be out of order.
#[test]
fn entries_follow_one_another_or_supersede() {
    let entry = |index, term| Entry {
        index,
        term,
        kind: EntryKind::Command,
        record: Bytes::from_static(b"r"),
    };
    let mut log = Replayed::default();
    assert!(log.take_entry(&entry(2, 1)).unwrap_err().contains("before the snapshot"));
    log.take(&Item::SnapshotMark(Mark { index: 4, term: 2 })).unwrap();
    for (index, term) in [(5, 2), (6, 2), (7, 2), (6, 3), (7, 3)] {
        log.take(&Item::Entry(entry(index, term))).unwrap();
    }
    assert_eq!(log.entries, [entry(5, 2), entry(6, 3), entry(7, 3)]);
    assert!(log.take_entry(&entry(9, 3)).unwrap_err().contains("comes after 7"));
    assert!(log.take_entry(&entry(8, 2)).unwrap_err().contains("term 2 comes after 3"));
    assert!(log.take_entry(&entry(4, 3)).is_err(), "the snapshot has it");
    assert!(log.take(&Item::Image(Mark { index: 1, term: 1 }, Bytes::new())).is_err());
}
