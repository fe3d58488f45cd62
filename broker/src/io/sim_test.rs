use proptest::prelude::*;

use super::*;

const A: &str = "/a";

fn create(disk: &SimDisk, path: &str) -> Arc<dyn File> {
    let file = disk.create(Path::new(path)).unwrap();
    disk.sync_dir(Path::new("/"), SyncPoint::DataDir).unwrap();
    file
}

fn write(file: &dyn File, bytes: &[u8], position: u64) {
    file.write_at(&[IoSlice::new(bytes)], position).unwrap();
}

fn content(disk: &SimDisk, path: &str) -> Option<Vec<u8>> {
    let file = disk.open(Path::new(path)).ok()?;
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), bytes.len());
    Some(bytes)
}

fn names(disk: &SimDisk, dir: &str) -> Vec<String> {
    disk.list(Path::new(dir)).unwrap().into_iter().map(|entry| entry.name).collect()
}

/// A change of one file.
#[derive(Debug, Clone)]
enum Change {
    Write { position: u64, len: usize, byte: u8 },
    SetLen(u64),
    Allocate(u64),
    Sync,
    FailedSync,
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        6 => (0..20_000_u64, 1..9000_usize, 1..=255_u8)
            .prop_map(|(position, len, byte)| Change::Write { position, len, byte }),
        2 => (0..30_000_u64).prop_map(Change::SetLen),
        1 => (0..30_000_u64).prop_map(Change::Allocate),
        2 => Just(Change::Sync),
        1 => Just(Change::FailedSync),
    ];
    prop::collection::vec(change, 1..20)
}

/// What a file may be after a power loss: every version since what is on the disk for sure.
struct Versions(Vec<Vec<u8>>);

impl Versions {
    fn now(&self) -> &Vec<u8> {
        self.0.last().expect("there is always one")
    }

    fn apply(&mut self, change: &Change, file: &dyn File, disk: &SimDisk) {
        let mut next = self.now().clone();
        match *change {
            Change::Write { position, len, byte } => {
                let start = usize::try_from(position).unwrap();
                next.resize(next.len().max(start + len), 0);
                next[start..start + len].fill(byte);
                write(file, &vec![byte; len], position);
                self.0.push(next);
            }
            Change::SetLen(len) => {
                next.resize(usize::try_from(len).unwrap(), 0);
                file.set_len(len).unwrap();
                self.0.push(next);
            }
            Change::Allocate(len) => {
                next.resize(next.len().max(usize::try_from(len).unwrap()), 0);
                file.allocate(len).unwrap();
                self.0.push(next);
            }
            Change::Sync => {
                file.sync(SyncPoint::SegmentData).unwrap();
                self.0 = vec![next];
            }
            Change::FailedSync => {
                disk.fail_after(0, Fault::SyncError);
                file.sync(SyncPoint::SegmentData).unwrap_err();
            }
        }
    }

    /// The size is that of some version. Each sector is from some version, perhaps cut where
    /// another one ended: its bytes were lost or kept, the cut, or the size, the other way round.
    fn allow(&self, found: &[u8]) -> bool {
        let ends: std::collections::BTreeSet<usize> = self.0.iter().map(Vec::len).collect();
        let padded: Vec<Vec<u8>> = self
            .0
            .iter()
            .flat_map(|version| {
                ends.iter().filter(|end| **end <= version.len()).map(|end| {
                    let mut version = version[..*end].to_vec();
                    version.resize(found.len(), 0);
                    version
                })
            })
            .collect();
        let sectors_are = |start: usize| {
            let range = start..found.len().min(start + 512);
            padded.iter().any(|version| version[range.clone()] == found[range.clone()])
        };
        self.0.iter().any(|version| version.len() == found.len())
            && (0..found.len()).step_by(512).all(sectors_are)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Whatever was done: what the cache shows is what was done, and after a power loss each sector
    /// is one it was since the last sync that worked. After a failed sync nothing narrows that.
    #[test]
    fn content_after_a_power_loss_is_made_of_what_was_written(
        changes in changes(), seed in any::<u64>(),
    ) {
        let disk = SimDisk::new(seed);
        let file = create(&disk, A);
        let mut versions = Versions(vec![Vec::new()]);
        let mut lost = false;
        for change in &changes {
            lost |= matches!(change, Change::FailedSync);
            let before = versions.0.clone();
            versions.apply(change, &*file, &disk);
            if lost && matches!(change, Change::Sync) {
                // This sync returned, but proves nothing any more.
                versions.0 = before;
            }
            prop_assert_eq!(&content(&disk.snapshot(), A).unwrap(), versions.now());
            for cut in PowerCut::sample(6) {
                let found = content(&disk.snapshot().power_loss(cut), A).unwrap();
                prop_assert!(versions.allow(&found), "{:?} after {:?}", cut, change);
            }
        }
    }

    #[test]
    fn what_was_synced_survives_every_power_loss(
        mut changes in changes(), seed in any::<u64>(), cut in any::<u64>(),
    ) {
        changes.retain(|change| !matches!(change, Change::FailedSync));
        let disk = SimDisk::new(seed);
        let file = create(&disk, A);
        let mut versions = Versions(vec![Vec::new()]);
        for change in &changes {
            versions.apply(change, &*file, &disk);
        }
        file.sync(SyncPoint::SegmentData).unwrap();
        let found = disk.power_loss(PowerCut::Random(cut));
        prop_assert_eq!(&content(&found, A).unwrap(), versions.now());
        prop_assert_eq!(file.len().unwrap_err().to_string(), "the simulated disk has no power");
    }

    #[test]
    fn the_same_seed_gives_the_same_disk(
        changes in changes(), seed in any::<u64>(), cut in any::<u64>(),
    ) {
        let run = || {
            let disk = SimDisk::new(seed);
            let file = create(&disk, A);
            let mut versions = Versions(vec![Vec::new()]);
            for change in &changes {
                versions.apply(change, &*file, &disk);
            }
            (content(&disk.power_loss(PowerCut::Random(cut)), A), disk.trace())
        };
        prop_assert_eq!(run(), run());
    }

    /// Names: each change is kept whole or not at all, in order for each name, and for good once
    /// its directories were synced.
    #[test]
    fn names_after_a_power_loss_are_some_of_those_that_were(
        steps in prop::collection::vec((0..4_u8, 0..4_usize, 0..4_usize, any::<bool>()), 1..15),
        seed in any::<u64>(),
    ) {
        let disk = SimDisk::new(seed);
        for dir in ["/p", "/q"] {
            disk.create_dir(Path::new(dir)).unwrap();
        }
        disk.sync_dir(Path::new("/"), SyncPoint::DataDir).unwrap();
        let path = |n: usize| PathBuf::from(["/p/0", "/p/1", "/q/0", "/q/1"][n]);
        // Each file has its number as content, synced: found anywhere, it says who it is.
        let mut number = 0_u8;
        let mut now = std::collections::BTreeMap::<PathBuf, u8>::new();
        let mut ever = std::collections::BTreeMap::<PathBuf, Vec<Option<u8>>>::new();
        let mut may = |now: &std::collections::BTreeMap<PathBuf, u8>, forget: bool| {
            for n in 0..4 {
                let versions = ever.entry(path(n)).or_default();
                if forget { versions.clear(); }
                versions.push(now.get(&path(n)).copied());
            }
            ever.clone()
        };
        may(&now, false);
        for (step, one, two, sync) in steps {
            match step {
                0 if !now.contains_key(&path(one)) => {
                    number += 1;
                    let file = disk.create(&path(one)).unwrap();
                    write(&*file, &[number], 0);
                    file.sync(SyncPoint::SegmentData).unwrap();
                    now.insert(path(one), number);
                }
                1 if now.contains_key(&path(one)) => {
                    disk.remove_file(&path(one)).unwrap();
                    now.remove(&path(one));
                }
                _ if now.contains_key(&path(one)) && one != two => {
                    disk.rename(&path(one), &path(two)).unwrap();
                    let moved = now.remove(&path(one)).unwrap();
                    now.insert(path(two), moved);
                }
                _ => {}
            }
            if sync {
                for dir in ["/p", "/q"] {
                    disk.sync_dir(Path::new(dir), SyncPoint::DataDir).unwrap();
                }
            }
            let allowed = may(&now, sync);
            for cut in PowerCut::sample(6) {
                let found = disk.snapshot().power_loss(cut);
                let mut seen = Vec::new();
                for n in 0..4 {
                    let file = content(&found, path(n).to_str().unwrap()).map(|bytes| bytes[0]);
                    prop_assert!(allowed[&path(n)].contains(&file), "{:?} at {}", cut, n);
                    seen.extend(file);
                }
                seen.sort_unstable();
                seen.dedup();
                let files = names(&found, "/p").len() + names(&found, "/q").len();
                prop_assert_eq!(seen.len(), files, "no file has two names");
            }
        }
    }
}

/// Every kind of loss does happen: else the tests above would hold for a disk that loses nothing.
#[test]
fn unsynced_pages_are_lost_kept_mixed_and_torn() {
    let disk = SimDisk::new(1);
    let file = create(&disk, A);
    write(&*file, &[b'o'; 4 * 4096], 0);
    file.sync(SyncPoint::SegmentData).unwrap();
    write(&*file, &[b'n'; 6 * 4096], 0);
    let [mut old, mut new, mut mixed, mut torn, mut longer, mut holes] = [0; 6];
    for seed in 0..400 {
        let found = content(&disk.snapshot().power_loss(PowerCut::Random(seed)), A).unwrap();
        let pages: Vec<&[u8]> = found[..4 * 4096].chunks(4096).collect();
        let is = |page: &&[u8], byte| page.iter().all(|b| *b == byte);
        let olds = pages.iter().filter(|page| is(page, b'o')).count();
        let news = pages.iter().filter(|page| is(page, b'n')).count();
        old += u32::from(olds == 4);
        new += u32::from(news == 4);
        mixed += u32::from(olds > 0 && news > 0);
        torn += u32::from(olds + news < 4);
        longer += u32::from(found.len() > 4 * 4096);
        holes += u32::from(found[4 * 4096..].contains(&0));
    }
    for (what, times) in [
        ("old", old),
        ("new", new),
        ("mixed", mixed),
        ("torn", torn),
        ("longer", longer),
        ("longer without its content", holes),
    ] {
        assert!(times > 5, "{what} only {times} times of 400");
    }
}

/// fsyncgate: the sync after a failed one succeeds, reads show the data, the disk has lost it.
#[test]
fn after_a_failed_sync_the_next_one_succeeds_and_the_data_is_gone() {
    let mut gone = 0;
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        let file = create(&disk, A);
        write(&*file, b"acked?", 0);
        disk.fail_sync(SyncPoint::SegmentData);
        assert!(file.sync(SyncPoint::SegmentData).is_err());
        file.sync(SyncPoint::SegmentData).unwrap();
        assert_eq!(content(&disk, A).unwrap(), b"acked?");
        assert_eq!(content(&disk.snapshot().kill(), A).unwrap(), b"acked?");
        let evicted = disk.snapshot();
        evicted.drop_caches();
        let after = content(&disk.power_loss(PowerCut::KeepUnsynced), A).unwrap();
        if after != b"acked?" {
            gone += 1;
            assert_ne!(content(&evicted, A).unwrap(), b"acked?");
        }
    }
    assert!(gone > 10, "lost {gone} times of 50");
}

#[test]
fn a_killed_process_loses_nothing_and_the_power_may_still_go_later() {
    let disk = SimDisk::new(1);
    let file = disk.create(Path::new(A)).unwrap();
    write(&*file, b"bytes", 0);
    let next = disk.kill();
    assert!(file.write_at(&[], 0).is_err(), "the old process is gone");
    assert!(disk.list(Path::new("/")).is_err());
    assert_eq!(content(&next, A).unwrap(), b"bytes");
    assert_eq!(names(&next.power_loss(PowerCut::LoseUnsynced), "/"), [""; 0]);
}

#[test]
fn extremes_keep_and_lose_what_they_say() {
    let disk = SimDisk::new(1);
    let file = create(&disk, A);
    write(&*file, b"old", 0);
    file.sync(SyncPoint::SegmentData).unwrap();
    write(&*file, b"new", 0);
    disk.rename(Path::new(A), Path::new("/b")).unwrap();
    for (cut, name, bytes) in [
        (PowerCut::LoseUnsynced, A, b"old"),
        (PowerCut::KeepUnsynced, "/b", b"new"),
        (PowerCut::LoseContent, "/b", b"old"),
        (PowerCut::LoseNames, A, b"new"),
    ] {
        let found = disk.snapshot().power_loss(cut);
        assert_eq!(names(&found, "/"), [&name[1..]]);
        assert_eq!(content(&found, name).unwrap(), bytes);
    }
}

#[test]
fn a_full_disk_fails_what_needs_room_and_changes_nothing() {
    let disk = SimDisk::new(1);
    let file = create(&disk, A);
    file.allocate(8192).unwrap();
    disk.set_capacity(Some(3 * 4096));
    assert_eq!(disk.space(Path::new("/")).unwrap(), Space { total: 3 * 4096, free: 4096 });
    write(&*file, &[1; 8192], 0);
    let full = |result: io::Result<()>| {
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::StorageFull);
    };
    full(file.allocate(4 * 4096));
    full(file.write_at(&[IoSlice::new(&[2; 8192])], 8192));
    assert_eq!(content(&disk, A).unwrap(), [1; 8192]);
    let other = create(&disk, "/b");
    write(&*other, &[3; 4096], 0);
    full(other.write_at(&[IoSlice::new(&[3])], 4096));
    assert_eq!(disk.space(Path::new("/")).unwrap().free, 0);
    // A removed file keeps its blocks while it is open.
    disk.remove_file(Path::new(A)).unwrap();
    assert_eq!(disk.space(Path::new("/")).unwrap().free, 0);
    drop(file);
    assert_eq!(disk.space(Path::new("/")).unwrap().free, 8192);
    let segment = disk.create_segment(Path::new("/s"), 16_384, WriteMode::Write).unwrap_err();
    assert_eq!(segment.kind(), io::ErrorKind::StorageFull);
    assert_eq!(names(&disk, "/"), ["b"], "no file is left");
    other.set_len(0).unwrap();
    assert_eq!(disk.space(Path::new("/")).unwrap().free, 3 * 4096);
}

#[test]
fn a_directory_that_is_lost_takes_its_files_and_their_blocks_with_it() {
    let disk = SimDisk::new(1);
    disk.create_dir(Path::new("/d")).unwrap();
    let file = disk.create(Path::new("/d/f")).unwrap();
    write(&*file, &[1; 9000], 0);
    file.sync(SyncPoint::SegmentData).unwrap();
    disk.sync_dir(Path::new("/d"), SyncPoint::SegmentCreatedDir).unwrap();
    let found = disk.snapshot().power_loss(PowerCut::LoseUnsynced);
    assert_eq!(names(&found, "/"), [""; 0]);
    let Space { total, free } = found.space(Path::new("/")).unwrap();
    assert_eq!(free, total);
    disk.sync_dir(Path::new("/"), SyncPoint::PartitionDir).unwrap();
    let found = disk.power_loss(PowerCut::LoseUnsynced);
    assert_eq!(content(&found, "/d/f").unwrap(), [1; 9000]);
}

#[test]
fn planned_faults_strike_once_where_they_can() {
    let disk = SimDisk::new(1);
    let file = create(&disk, A);
    disk.fail_after(1, Fault::WriteError);
    disk.fail_after(0, Fault::ReadError);
    write(&*file, &[1; 100], 0);
    file.sync(SyncPoint::SegmentData).unwrap();
    let error = file.write_at(&[IoSlice::new(&[2; 100])], 100).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5));
    let len = file.len().unwrap();
    assert!((100..=200).contains(&len), "any prefix: {len}");
    assert!(file.read_at(&mut [0; 1], 0).is_err());
    assert_eq!(file.read_at(&mut [0; 1], 0).unwrap(), 1);
    assert_eq!(disk.faults_left(), 0);
    write(&*file, &[2; 100], 100);
    disk.fail_sync(SyncPoint::CheckpointDir);
    disk.sync_dir(Path::new("/"), SyncPoint::DataDir).unwrap();
    assert!(disk.sync_dir(Path::new("/"), SyncPoint::CheckpointDir).is_err());
}

#[test]
fn a_sync_that_is_left_out_is_missed() {
    let disk = SimDisk::new(1);
    let file = create(&disk, A);
    disk.ignore_sync(Some(SyncPoint::SegmentData));
    write(&*file, b"x", 0);
    file.sync(SyncPoint::SegmentData).unwrap();
    assert_eq!(content(&disk.snapshot().power_loss(PowerCut::LoseUnsynced), A).unwrap(), b"");
    file.sync(SyncPoint::SegmentSealed).unwrap();
    assert_eq!(content(&disk.snapshot().power_loss(PowerCut::LoseUnsynced), A).unwrap(), b"x");
    assert_eq!(
        disk.trace()[2..],
        [
            Op::Write { path: A.into(), position: 0, len: 1 },
            Op::Sync(A.into(), SyncPoint::SegmentData),
            Op::Sync(A.into(), SyncPoint::SegmentSealed),
        ]
    );
}

#[test]
fn the_power_can_go_in_the_middle_of_a_write() {
    let disk = SimDisk::new(1);
    let file = create(&disk, A);
    disk.split_writes(Some(1));
    disk.off_after(3);
    assert!(file.write_at(&[IoSlice::new(b"ab"), IoSlice::new(b"cde")], 0).is_err());
    assert!(file.len().is_err(), "off");
    assert_eq!(content(&disk.kill(), A).unwrap(), b"abc");
}

#[test]
fn history_has_the_state_after_each_operation() {
    let disk = SimDisk::new(1);
    let file = create(&disk, A);
    disk.record_history();
    write(&*file, b"1", 0);
    write(&*file, b"2", 1);
    file.set_len(1).unwrap();
    assert_eq!(disk.ops(), 3);
    let found: Vec<_> = disk.history().iter().map(|disk| content(disk, A).unwrap()).collect();
    assert_eq!(found, [&b""[..], b"1", b"12", b"1"]);
    // Branches do not touch one another.
    let branch = &disk.history()[1];
    write(&*branch.open(Path::new(A)).unwrap(), b"other", 0);
    assert_eq!(content(&disk, A).unwrap(), b"1");
    assert_eq!(content(&disk.history()[1], A).unwrap(), b"1");
}

#[test]
fn a_flipped_bit_is_there_to_stay() {
    let disk = SimDisk::new(1);
    let file = create(&disk, A);
    write(&*file, &[0; 10], 0);
    file.sync(SyncPoint::SegmentData).unwrap();
    disk.flip_bit(Path::new(A), 3, 7).unwrap();
    assert_eq!(content(&disk, A).unwrap()[2..5], [0, 128, 0]);
    assert!(disk.flip_bit(Path::new(A), 10, 0).is_err(), "past the end");
    assert_eq!(content(&disk.power_loss(PowerCut::LoseUnsynced), A).unwrap()[3], 128);
}

#[test]
fn cold_bytes_are_read_but_not_sliced() {
    let disk = SimDisk::new(1);
    let segment = disk.create_segment(Path::new(A), 100, WriteMode::Map).unwrap();
    segment.append(&[b"bytes"]).unwrap();
    assert_eq!(&segment.try_slice(0, 5).unwrap()[..], b"bytes");
    disk.set_cold(true);
    assert_eq!(segment.try_slice(0, 5), None);
    assert_eq!(&segment.read(0, 5).unwrap()[..], b"bytes");
}

#[test]
fn names_and_directories_follow_the_rules() {
    let disk = SimDisk::new(1);
    let kind = |result: io::Result<()>| result.unwrap_err().kind();
    disk.create_dir(Path::new("/d")).unwrap();
    disk.create_dir(Path::new("/d")).unwrap();
    disk.create(Path::new("/d/f")).unwrap().set_len(5).unwrap();
    assert_eq!(kind(disk.create_dir(Path::new("/d/f"))), io::ErrorKind::AlreadyExists);
    assert_eq!(kind(disk.create_dir(Path::new("/no/d"))), io::ErrorKind::NotFound);
    assert_eq!(kind(disk.create(Path::new("/d/f/g")).map(drop)), io::ErrorKind::NotADirectory);
    assert_eq!(kind(disk.open(Path::new("/d")).map(drop)), io::ErrorKind::IsADirectory);
    assert_eq!(kind(disk.remove_dir(Path::new("/d"))), io::ErrorKind::DirectoryNotEmpty);
    assert_eq!(kind(disk.rename(Path::new("/x"), Path::new("/y"))), io::ErrorKind::NotFound);
    disk.rename(Path::new("/d"), Path::new("/e")).unwrap();
    let entry = DirEntry { name: "f".into(), is_dir: false, len: 5 };
    assert_eq!(disk.list(Path::new("/e")).unwrap(), [entry]);
    disk.remove_file(Path::new("/e/f")).unwrap();
    disk.remove_dir(Path::new("/e")).unwrap();
    assert_eq!(names(&disk, "/"), [""; 0]);
}
