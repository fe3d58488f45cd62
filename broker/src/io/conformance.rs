//! One suite for every [`SegmentFile`]: mapped and appended to by copy, mapped and appended to by
//! write, not mapped on a real disk, and on the simulated disk. A difference between them is a bug.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use bytes::Bytes;

use super::{
    Access, AppendError, Disk, SegmentFile, SyncPoint, WriteMode,
    file_system::Mapping,
    real::{DiskBounds, MapPolicy, RealDisk},
    sim::SimDisk,
};

/// What the suite runs on.
struct Subject {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    mode: WriteMode,
    /// Removed with the test.
    _tmp: Option<tempfile::TempDir>,
}

impl Subject {
    fn real(policy: MapPolicy, mode: WriteMode) -> Self {
        Self::bounded(policy, mode, DiskBounds::default())
    }

    /// Maps that have to be replaced all the time, and hardly any for sealed files.
    fn cramped(mode: WriteMode) -> Self {
        let bounds = DiskBounds { reserve: 4096, sealed_maps: 1, ..DiskBounds::default() };
        Self::bounded(MapPolicy::Auto, mode, bounds)
    }

    /// No map is ever to be had.
    fn without_maps(mode: WriteMode) -> Self {
        let bounds = DiskBounds { maps: 0, ..DiskBounds::default() };
        Self::bounded(MapPolicy::Auto, mode, bounds)
    }

    fn bounded(policy: MapPolicy, mode: WriteMode, bounds: DiskBounds) -> Self {
        let tmp = tempfile::tempdir().unwrap();
        let disk = RealDisk::with_bounds(policy, bounds);
        if policy == MapPolicy::Auto && disk.mapping(tmp.path()).unwrap() != Mapping::Safe {
            eprintln!("SKIPPED maps: {}", disk.mapping(tmp.path()).unwrap());
        }
        Self { disk: Arc::new(disk), dir: tmp.path().into(), mode, _tmp: Some(tmp) }
    }

    fn sim() -> Self {
        let disk = Arc::new(SimDisk::new(5));
        Self { disk, dir: "/".into(), mode: WriteMode::Write, _tmp: None }
    }

    fn path(&self) -> PathBuf {
        self.dir.join("00.log")
    }

    fn create(&self, len: u64) -> Arc<dyn SegmentFile> {
        self.disk.create_segment(&self.path(), len, self.mode).unwrap()
    }

    fn reopen(&self, published: u64) -> Arc<dyn SegmentFile> {
        self.disk.open_segment(&self.path(), published, Access::Append).unwrap()
    }

    fn file_len(&self) -> u64 {
        let entries = self.disk.list(&self.dir).unwrap();
        entries.iter().find(|entry| entry.name == "00.log").expect("it is there").len
    }
}

/// Bytes that say where they lie.
fn pattern(from: u64, len: usize) -> Vec<u8> {
    (from..from + len as u64).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect()
}

/// A slice now, or by way of a read.
fn bytes_at(segment: &dyn SegmentFile, position: u64, len: usize) -> Bytes {
    match segment.try_slice(position, len) {
        Some(slice) => slice,
        None => segment.read(position, len).unwrap(),
    }
}

macro_rules! suite {
    ($($test:ident),+ $(,)?) => {
        mod map { $( #[test] fn $test() {
            super::$test(&super::Subject::real(super::MapPolicy::Auto, super::WriteMode::Map));
        } )+ }
        mod map_written { $( #[test] fn $test() {
            super::$test(&super::Subject::real(super::MapPolicy::Auto, super::WriteMode::Write));
        } )+ }
        mod map_cramped { $( #[test] fn $test() {
            super::$test(&super::Subject::cramped(super::WriteMode::Map));
        } )+ }
        mod map_written_cramped { $( #[test] fn $test() {
            super::$test(&super::Subject::cramped(super::WriteMode::Write));
        } )+ }
        mod no_maps_left { $( #[test] fn $test() {
            super::$test(&super::Subject::without_maps(super::WriteMode::Map));
        } )+ }
        mod plain { $( #[test] fn $test() {
            super::$test(&super::Subject::real(super::MapPolicy::Never, super::WriteMode::Write));
        } )+ }
        mod simulated { $( #[test] fn $test() { super::$test(&super::Subject::sim()); } )+ }
    };
}

suite!(
    what_is_appended_is_read_back,
    nothing_is_appended_past_the_window,
    a_window_grows_as_often_as_it_must,
    steps_may_be_prepared_in_turns_for_copies_and_for_writes,
    nothing_past_the_published_end_is_sliced,
    reads_reach_past_the_published_end_up_to_the_end_of_the_file,
    a_sealed_file_keeps_its_slices_and_nothing_else,
    a_released_window_comes_back_when_asked_for,
    a_reopened_file_goes_on_where_it_was_published,
    a_file_shorter_than_published_is_refused,
    a_read_only_file_changes_in_no_way,
    slices_outlive_file_name_and_disk,
    a_name_that_is_taken_is_not_opened_as_new,
    published_bytes_never_change_under_readers,
    extensions_may_run_beside_appends,
    appends_from_several_threads_do_not_mix,
    sync_is_possible_at_any_time,
);

fn what_is_appended_is_read_back(subject: &Subject) {
    let segment = subject.create(100_000);
    assert_eq!((segment.published(), segment.window()), (0, 100_000));
    assert_eq!(segment.append(&[&pattern(0, 10), &[], &pattern(10, 5000)]).unwrap(), 0);
    assert_eq!(segment.append(&[&pattern(5010, 90)]).unwrap(), 5010);
    let many: Vec<Vec<u8>> = (0..3000).map(|n| pattern(5100 + n, 1)).collect();
    let many: Vec<&[u8]> = many.iter().map(Vec::as_slice).collect();
    assert_eq!(segment.append(&many).unwrap(), 5100);
    assert_eq!(segment.append(&[]).unwrap(), 8100);
    assert_eq!(segment.published(), 8100);
    for (at, len) in [(0, 8100), (0, 1), (8099, 1), (4095, 2), (4096, 4004), (5010, 90), (8100, 0)]
    {
        assert_eq!(bytes_at(&*segment, at, len), pattern(at, len), "{len} at {at}");
        assert_eq!(segment.read(at, len).unwrap(), pattern(at, len), "{len} at {at}");
    }
    if subject.mode == WriteMode::Map {
        assert!(segment.try_slice(0, 8100).is_some(), "the window was populated");
    }
}

fn nothing_is_appended_past_the_window(subject: &Subject) {
    let segment = subject.create(5000);
    segment.append(&[&pattern(0, 4990)]).unwrap();
    let full = segment.append(&[&[1; 6], &[1; 5]]).unwrap_err();
    assert!(matches!(full, AppendError::WindowFull { needed: 5001 }), "{full}");
    assert_eq!(segment.published(), 4990);
    assert_eq!(segment.read(4990, 100).unwrap(), vec![0; 10], "no byte of it");
    assert_eq!(segment.append(&[&pattern(4990, 10)]).unwrap(), 4990);
    assert!(matches!(segment.append(&[&[1]]), Err(AppendError::WindowFull { needed: 5001 })));
    assert_eq!(bytes_at(&*segment, 0, 5000), pattern(0, 5000));
}

fn a_window_grows_as_often_as_it_must(subject: &Subject) {
    let segment = subject.create(1);
    let first = {
        segment.append(&[&pattern(0, 1)]).unwrap();
        bytes_at(&*segment, 0, 1)
    };
    let mut end = 1;
    for step in [1, 4094, 1, 4096, 100_000, 3] {
        segment.extend(end + step, subject.mode).unwrap();
        segment.extend(end, subject.mode).unwrap();
        assert_eq!(segment.window(), end + step, "never back");
        let len = usize::try_from(step).unwrap();
        assert_eq!(segment.append(&[&pattern(end, len)]).unwrap(), end);
        end += step;
    }
    let len = usize::try_from(end).unwrap();
    assert_eq!(bytes_at(&*segment, 0, len), pattern(0, len));
    assert_eq!(first, pattern(0, 1));
    assert!(subject.file_len() >= end);
}

/// Whichever way a step was prepared, whoever appends there, whatever was there before: the bytes are
/// the same.
fn steps_may_be_prepared_in_turns_for_copies_and_for_writes(subject: &Subject) {
    const STEP: u64 = 10_000;
    let modes = [WriteMode::Write, subject.mode];
    let segment = subject.create(STEP);
    let (mut end, mut window) = (0, STEP);
    for n in 0..40 {
        // Sometimes two steps ahead; appends end within a step, at its end, and beyond it.
        while window < end + 14_000 {
            segment.extend(window + STEP, modes[n / 3 % 2]).unwrap();
            window += STEP;
        }
        let len = [7000, 3000, 14_000, 1, 9999][n % 5];
        assert_eq!(segment.append(&[&pattern(end, len)]).unwrap(), end);
        end += len as u64;
        if n % 7 == 6 {
            segment.sync(SyncPoint::SegmentData).unwrap();
        }
        if n % 16 == 15 {
            segment.release_window().unwrap();
            window = end;
        }
        let all = usize::try_from(end).unwrap();
        assert_eq!(bytes_at(&*segment, 0, all), pattern(0, all));
    }
}

fn nothing_past_the_published_end_is_sliced(subject: &Subject) {
    let segment = subject.create(10_000);
    assert_eq!(segment.try_slice(0, 1), None);
    segment.append(&[&pattern(0, 100)]).unwrap();
    for (at, len) in [(0, 101), (100, 1), (5000, 1), (99, 2), (u64::MAX, 1), (1, usize::MAX)] {
        assert_eq!(segment.try_slice(at, len), None, "{len} at {at}");
    }
}

fn reads_reach_past_the_published_end_up_to_the_end_of_the_file(subject: &Subject) {
    let segment = subject.create(8192);
    segment.append(&[&pattern(0, 100)]).unwrap();
    let all = segment.read(0, 100_000).unwrap();
    assert_eq!(all.len(), 8192);
    assert_eq!(all[..100], pattern(0, 100));
    assert!(all[100..].iter().all(|byte| *byte == 0), "a new window is zeros");
    assert_eq!(segment.read(8192, 10).unwrap(), Bytes::new());
    assert_eq!(segment.read(1 << 40, 10).unwrap(), Bytes::new());
}

fn a_sealed_file_keeps_its_slices_and_nothing_else(subject: &Subject) {
    let segment = subject.create(1 << 20);
    segment.append(&[&pattern(0, 5000)]).unwrap();
    let before = bytes_at(&*segment, 100, 4900);
    segment.seal().unwrap();
    assert_eq!(subject.file_len(), 5000);
    assert_eq!((segment.published(), segment.window()), (5000, 5000));
    assert!(matches!(segment.append(&[&[1]]), Err(AppendError::Sealed)));
    assert!(matches!(segment.append(&[]), Err(AppendError::Sealed)));
    assert!(segment.extend(10_000, subject.mode).is_err());
    segment.seal().unwrap();
    segment.release_window().unwrap();
    assert_eq!(subject.file_len(), 5000);
    assert_eq!(before, pattern(100, 4900));
    // Cold or not, by view or by copy, before and after a read has made a map.
    for _ in 0..3 {
        assert_eq!(bytes_at(&*segment, 0, 5000), pattern(0, 5000));
        assert_eq!(segment.read(4000, 5000).unwrap(), pattern(4000, 1000));
    }
    assert_eq!(segment.try_slice(4000, 1001), None);
}

fn a_released_window_comes_back_when_asked_for(subject: &Subject) {
    let segment = subject.create(1 << 20);
    segment.append(&[&pattern(0, 5000)]).unwrap();
    let slice = bytes_at(&*segment, 0, 5000);
    segment.release_window().unwrap();
    assert_eq!(subject.file_len(), 5000, "gives the blocks back");
    assert!(matches!(segment.append(&[&[1]]), Err(AppendError::WindowFull { needed: 5001 })));
    assert_eq!(bytes_at(&*segment, 10, 4990), pattern(10, 4990));
    segment.extend(20_000, subject.mode).unwrap();
    assert_eq!(segment.append(&[&pattern(5000, 15_000)]).unwrap(), 5000);
    assert_eq!(bytes_at(&*segment, 0, 20_000), pattern(0, 20_000));
    assert_eq!(slice, pattern(0, 5000));
}

fn a_reopened_file_goes_on_where_it_was_published(subject: &Subject) {
    let segment = subject.create(20_000);
    segment.append(&[&pattern(0, 9000)]).unwrap();
    // A torn tail: in the file, past what the next one counts as published.
    segment.append(&[&[0xff; 1000]]).unwrap();
    drop(segment);
    let segment = subject.reopen(9000);
    assert_eq!((segment.published(), segment.window()), (9000, 9000));
    assert_eq!(subject.file_len(), 9000, "the tail is gone");
    assert!(matches!(segment.append(&[&[1]]), Err(AppendError::WindowFull { needed: 9001 })));
    segment.extend(30_000, subject.mode).unwrap();
    assert_eq!(segment.append(&[&pattern(9000, 100)]).unwrap(), 9000);
    assert_eq!(bytes_at(&*segment, 0, 9100), pattern(0, 9100));
    assert!(segment.read(9100, 10_000).unwrap().iter().all(|byte| *byte == 0));
}

fn a_file_shorter_than_published_is_refused(subject: &Subject) {
    let segment = subject.create(100);
    segment.append(&[&[1; 100]]).unwrap();
    drop(segment);
    for access in [Access::Read, Access::Append] {
        let error = subject.disk.open_segment(&subject.path(), 101, access).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
    let missing =
        subject.disk.open_segment(&subject.dir.join("none"), 0, Access::Read).unwrap_err();
    assert_eq!(missing.kind(), io::ErrorKind::NotFound);
}

fn a_read_only_file_changes_in_no_way(subject: &Subject) {
    let segment = subject.create(20_000);
    segment.append(&[&pattern(0, 9000)]).unwrap();
    drop(segment);
    let segment = subject.disk.open_segment(&subject.path(), 5000, Access::Read).unwrap();
    assert!(matches!(segment.append(&[&[1]]), Err(AppendError::Sealed)));
    assert!(segment.extend(30_000, subject.mode).is_err());
    segment.seal().unwrap();
    segment.release_window().unwrap();
    segment.sync(SyncPoint::SegmentRecovered).unwrap();
    assert_eq!(subject.file_len(), 20_000);
    assert_eq!(segment.read(0, 9000).unwrap(), pattern(0, 9000));
    assert_eq!(bytes_at(&*segment, 0, 5000), pattern(0, 5000));
    assert_eq!(segment.try_slice(0, 5001), None);
}

fn slices_outlive_file_name_and_disk(subject: &Subject) {
    let sealed = subject.create(1 << 20);
    sealed.append(&[&pattern(0, 600_000)]).unwrap();
    let mut slices = vec![bytes_at(&*sealed, 0, 600_000)];
    sealed.seal().unwrap();
    sealed.read(0, 1).unwrap();
    slices.push(bytes_at(&*sealed, 1000, 500_000));
    drop(sealed);
    subject.disk.remove_file(&subject.path()).unwrap();
    let next = subject.create(1 << 20);
    next.append(&[&[0xee; 600_000]]).unwrap();
    drop(next);
    assert_eq!(slices[0], pattern(0, 600_000));
    assert_eq!(slices[1], pattern(1000, 500_000));
    let part = slices.swap_remove(0).slice(599_990..);
    drop(slices);
    assert_eq!(part, pattern(599_990, 10));
}

fn a_name_that_is_taken_is_not_opened_as_new(subject: &Subject) {
    subject.create(100).append(&[b"first"]).unwrap();
    let error = subject.disk.create_segment(&subject.path(), 100, subject.mode).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    let segment = subject.disk.open_segment(&subject.path(), 5, Access::Read).unwrap();
    assert_eq!(&bytes_at(&*segment, 0, 5)[..], b"first", "the file is still there");
}

fn published_bytes_never_change_under_readers(subject: &Subject) {
    const END: u64 = 400_000;
    let segment = subject.create(END);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for reader in 0..3_u64 {
            let (segment, stop) = (segment.clone(), &stop);
            scope.spawn(move || {
                let mut kept = Vec::new();
                let mut round = reader;
                // One more round after the writer is done, so that all is looked at.
                let mut last = false;
                while !last {
                    last = stop.load(Ordering::Acquire);
                    let published = segment.published();
                    let from = published.saturating_sub(1 + round * 37 % 9000);
                    let len = usize::try_from(published - from).unwrap();
                    let bytes = bytes_at(&*segment, from, len);
                    assert_eq!(bytes, pattern(from, len), "{len} at {from}");
                    if round % 16 == 0 && kept.len() < 200 {
                        kept.push((from, bytes));
                    }
                    round += 1;
                }
                for (from, bytes) in kept {
                    assert_eq!(bytes, pattern(from, bytes.len()), "kept from {from}");
                }
            });
        }
        let mut at = 0;
        while at < END {
            let len = usize::try_from((1 + at % 1777).min(END - at)).unwrap();
            segment.append(&[&pattern(at, len)]).unwrap();
            at += len as u64;
        }
        segment.seal().unwrap();
        stop.store(true, Ordering::Release);
    });
}

fn extensions_may_run_beside_appends(subject: &Subject) {
    const END: u64 = 1_000_000;
    let segment = subject.create(4096);
    thread::scope(|scope| {
        let extender = segment.clone();
        scope.spawn(move || {
            let mut window = 4096;
            while window < END {
                window += 50_000;
                extender.extend(window, subject.mode).unwrap();
            }
        });
        let mut at = 0;
        while at < END {
            let len = usize::try_from(3000.min(END - at)).unwrap();
            match segment.append(&[&pattern(at, len)]) {
                Ok(position) => {
                    assert_eq!(position, at);
                    at += len as u64;
                }
                Err(AppendError::WindowFull { needed }) => {
                    assert_eq!(needed, at + len as u64);
                    thread::yield_now();
                }
                Err(error) => panic!("{error}"),
            }
        }
    });
    let len = usize::try_from(END).unwrap();
    assert_eq!(bytes_at(&*segment, 0, len), pattern(0, len));
}

fn appends_from_several_threads_do_not_mix(subject: &Subject) {
    let segment = subject.create(100 * 4 * 100);
    thread::scope(|scope| {
        for thread in 1..=4_u8 {
            let segment = segment.clone();
            scope.spawn(move || {
                for _ in 0..100 {
                    let at = segment.append(&[&[thread; 60], &[thread; 40]]).unwrap();
                    assert_eq!(at % 100, 0);
                }
            });
        }
    });
    let all = bytes_at(&*segment, 0, 40_000);
    let mut counts = [0; 5];
    for hundred in all.chunks(100) {
        assert!(hundred.iter().all(|byte| *byte == hundred[0]), "two appends are mixed");
        counts[usize::from(hundred[0])] += 1;
    }
    assert_eq!(counts, [0, 100, 100, 100, 100]);
}

fn sync_is_possible_at_any_time(subject: &Subject) {
    let segment = subject.create(10_000);
    segment.sync(SyncPoint::SegmentData).unwrap();
    segment.append(&[&pattern(0, 5000)]).unwrap();
    segment.sync(SyncPoint::SegmentData).unwrap();
    segment.seal().unwrap();
    segment.sync(SyncPoint::SegmentSealed).unwrap();
    subject.disk.sync_dir(&subject.dir, SyncPoint::SegmentCreatedDir).unwrap();
    assert_eq!(bytes_at(&*segment, 0, 5000), pattern(0, 5000));
}

/// Runs on file systems of 8 MiB, one that takes back what a failed allocation got, and one that
/// does not.
#[test]
fn a_full_disk_is_an_error_and_leaves_nothing_behind() {
    for kind in ["ext4", "tmpfs"] {
        let Some(small) = SmallFileSystem::mount(kind, 8 << 20) else {
            eprintln!("SKIPPED a_full_disk_is_an_error on {kind}: it cannot be mounted here");
            continue;
        };
        for policy in [MapPolicy::Auto, MapPolicy::Never] {
            for mode in [WriteMode::Map, WriteMode::Write] {
                full_disk(&RealDisk::new(policy), &small.path, mode);
            }
        }
    }
}

/// What a file system may keep for its own bookkeeping of a file.
const METADATA: u64 = 32 << 10;

fn full_disk(disk: &RealDisk, dir: &Path, mode: WriteMode) {
    let path = dir.join("00.log");
    let free = disk.space(dir).unwrap().free;
    let error = disk.create_segment(&path, 100 << 20, mode).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
    assert!(!path.exists(), "no file is left");
    assert!(disk.space(dir).unwrap().free >= free - METADATA, "no block is left");

    let segment = disk.create_segment(&path, 1 << 20, mode).unwrap();
    segment.append(&[&pattern(0, 500_000)]).unwrap();
    segment.sync(SyncPoint::SegmentData).unwrap();
    let slice = bytes_at(&*segment, 0, 500_000);
    let free = disk.space(dir).unwrap().free;
    let error = segment.extend(100 << 20, mode).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
    assert_eq!(segment.window(), 1 << 20);
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 1 << 20, "undone");
    assert!(disk.space(dir).unwrap().free >= free - METADATA, "no block is left");

    // Fill the disk: the window is ours all the same.
    let filler = disk.create(&dir.join("filler")).unwrap();
    let mut step = 1 << 20;
    let mut len = 0;
    while step >= 4096 {
        match filler.allocate(len + step) {
            Ok(()) => len += step,
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::StorageFull);
                step /= 2;
            }
        }
    }
    let rest = (1 << 20) - 500_000;
    segment.append(&[&pattern(500_000, rest)]).unwrap();
    segment.sync(SyncPoint::SegmentData).unwrap();
    let full = segment.append(&[&[1]]).unwrap_err();
    assert!(matches!(full, AppendError::WindowFull { .. }));
    assert_eq!(
        segment.extend((1 << 20) + (1 << 19), mode).unwrap_err().kind(),
        io::ErrorKind::StorageFull
    );
    assert_eq!(bytes_at(&*segment, 0, 1 << 20), pattern(0, 1 << 20));

    // And it goes on once there is room.
    drop(filler);
    disk.remove_file(&dir.join("filler")).unwrap();
    segment.extend(2 << 20, mode).unwrap();
    segment.append(&[&pattern(1 << 20, 1 << 20)]).unwrap();
    assert_eq!(bytes_at(&*segment, 0, 2 << 20), pattern(0, 2 << 20));
    assert_eq!(slice, pattern(0, 500_000));
    drop((segment, slice));
    disk.remove_file(&path).unwrap();
}

/// A file system in an image of its own; needs privileges.
struct SmallFileSystem {
    path: PathBuf,
    _tmp: tempfile::TempDir,
}

impl SmallFileSystem {
    fn mount(kind: &str, bytes: u64) -> Option<Self> {
        let tmp = tempfile::tempdir().ok()?;
        let path = tmp.path().join("mounted");
        std::fs::create_dir(&path).ok()?;
        let run = |program: &str, arguments: &[&str]| {
            let done = std::process::Command::new(program).args(arguments).output();
            done.is_ok_and(|output| output.status.success())
        };
        let target = path.to_str()?;
        let mounted = if kind == "tmpfs" {
            run("mount", &["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs", target])
        } else {
            let image = tmp.path().join("image");
            std::fs::File::create(&image).and_then(|file| file.set_len(bytes)).ok()?;
            let image = image.to_str()?;
            run(&format!("mkfs.{kind}"), &["-q", "-m", "0", image])
                && run("mount", &["-o", "loop", image, target])
        };
        mounted.then_some(Self { path, _tmp: tmp })
    }
}

impl Drop for SmallFileSystem {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.path).output();
    }
}
