use std::path::PathBuf;

use rustix::fs::Advice;

use super::*;
use crate::io::AppendError;

struct Place {
    disk: RealDisk,
    tmp: tempfile::TempDir,
}

impl Place {
    /// `None`, loudly, where nothing is mapped: then there is nothing to test here.
    fn new(bounds: DiskBounds) -> Option<Self> {
        let place = Self {
            disk: RealDisk::with_bounds(MapPolicy::Auto, bounds),
            tmp: tempfile::tempdir().unwrap(),
        };
        match place.disk.mapping(place.tmp.path()).unwrap() {
            Mapping::Safe => Some(place),
            other => {
                eprintln!("SKIPPED: {other}");
                None
            }
        }
    }

    fn path(&self, n: usize) -> PathBuf {
        self.tmp.path().join(format!("{n:020}.log"))
    }

    /// A sealed segment of 64 KiB, each byte its number, opened for reading, synced, without a map.
    fn sealed(&self, n: usize) -> Arc<dyn SegmentFile> {
        let segment = self.disk.create_segment(&self.path(n), 64 << 10, WriteMode::Write).unwrap();
        segment.append(&[&vec![n as u8; 64 << 10]]).unwrap();
        segment.sync(SyncPoint::SegmentSealed).unwrap();
        drop(segment);
        self.disk.open_segment(&self.path(n), 64 << 10, Access::Read).unwrap()
    }
}

fn bounds(maps: usize, sealed_maps: usize) -> DiskBounds {
    DiskBounds { maps, sealed_maps, ..DiskBounds::default() }
}

#[test]
fn segments_nobody_reads_or_writes_cost_no_map() {
    let Some(place) = Place::new(DiskBounds::default()) else { return };
    let sealed: Vec<_> = (0..50).map(|n| place.sealed(n)).collect();
    let idle: Vec<_> = (50..100)
        .map(|n| {
            let segment = place.disk.create_segment(&place.path(n), 8192, WriteMode::Map).unwrap();
            segment.append(&[b"once"]).unwrap();
            segment.release_window().unwrap();
            segment
        })
        .collect();
    assert_eq!(place.disk.map_counts().live, 0);
    assert_eq!(&idle[7].try_slice(0, 4).expect("cached")[..], b"once");
    drop((sealed, idle));
}

#[test]
fn sealed_segments_share_a_bounded_number_of_maps() {
    let Some(place) = Place::new(bounds(100, 3)) else { return };
    let segments: Vec<_> = (0..10).map(|n| place.sealed(n)).collect();
    for (n, segment) in segments.iter().enumerate() {
        assert_eq!(segment.try_slice(0, 100), None, "a read makes the map, not an async worker");
        assert_eq!(segment.read(0, 100).unwrap(), vec![n as u8; 100]);
        let slice = segment.try_slice(0, 64 << 10).expect("mapped and just written");
        assert_eq!(slice, vec![n as u8; 64 << 10]);
        assert!(place.disk.map_counts().sealed <= 3);
    }
    let counts = place.disk.map_counts();
    assert_eq!((counts.live, counts.sealed, counts.evicted, counts.refused), (3, 3, 7, 0));
}

#[test]
fn the_map_that_is_used_stays() {
    let Some(place) = Place::new(bounds(100, 3)) else { return };
    let hot = place.sealed(99);
    hot.read(0, 1).unwrap();
    for n in 0..10 {
        assert!(hot.try_slice(0, 10).is_some(), "evicted although in use, at {n}");
        place.sealed(n).read(0, 1).unwrap();
    }
}

#[test]
fn idle_maps_are_dropped_and_slices_live_on() {
    let Some(place) = Place::new(bounds(100, 10)) else { return };
    let [busy, idle] = [place.sealed(1), place.sealed(2)];
    busy.read(0, 1).unwrap();
    idle.read(0, 1).unwrap();
    let slice = idle.try_slice(1000, 60_000).unwrap();
    place.disk.drop_idle_maps();
    busy.try_slice(0, 1).unwrap();
    place.disk.drop_idle_maps();
    let counts = place.disk.map_counts();
    assert_eq!((counts.sealed, counts.live), (1, 2), "one is held by its slice only");
    drop(idle);
    assert_eq!(slice, vec![2; 60_000]);
    drop(slice);
    assert_eq!(place.disk.map_counts().live, 1);
    place.disk.drop_idle_maps();
    assert_eq!(place.disk.map_counts().live, 0);
}

#[test]
fn without_maps_left_all_goes_on_and_it_is_counted() {
    let Some(place) = Place::new(bounds(1, 1)) else { return };
    let segments: Vec<_> = (0..3)
        .map(|n| place.disk.create_segment(&place.path(n), 8192, WriteMode::Map).unwrap())
        .collect();
    for (n, segment) in segments.iter().enumerate() {
        segment.append(&[&[n as u8; 5000]]).unwrap();
        assert_eq!(segment.read(0, 5000).unwrap(), vec![n as u8; 5000]);
    }
    let counts = place.disk.map_counts();
    assert_eq!((counts.live, counts.refused), (1, 2));
    drop(segments);
    let sealed = place.sealed(7);
    sealed.read(0, 10).unwrap();
    assert!(sealed.try_slice(0, 10).is_some());
    let active = place.disk.create_segment(&place.path(8), 8192, WriteMode::Map).unwrap();
    assert_eq!(place.disk.map_counts().sealed, 0, "sealed ones make room for active ones");
    assert_eq!(place.disk.map_counts().evicted, 1);
    drop(active);
}

#[test]
fn maps_come_and_go_under_readers() {
    let Some(place) = Place::new(bounds(100, 2)) else { return };
    let segments: Vec<_> = (0..8).map(|n| place.sealed(n)).collect();
    std::thread::scope(|scope| {
        for thread in 0..4_usize {
            let (segments, disk) = (&segments, &place.disk);
            scope.spawn(move || {
                let mut kept = Vec::new();
                for round in 0..2000_usize {
                    let n = (round * (thread + 1) + round / 7) % segments.len();
                    let (at, len) = ((round * 977) % 60_000, 1 + (round * 31) % 5000);
                    let slice = segments[n].try_slice(at as u64, len);
                    let bytes = match slice {
                        Some(slice) => slice,
                        None => segments[n].read(at as u64, len).unwrap(),
                    };
                    assert!(bytes.len() == len && bytes.iter().all(|byte| *byte == n as u8));
                    if round % 50 == 0 {
                        kept.push((n, bytes));
                        disk.drop_idle_maps();
                    }
                }
                for (n, bytes) in kept {
                    assert!(bytes.iter().all(|byte| *byte == n as u8));
                }
            });
        }
    });
    assert!(place.disk.map_counts().sealed <= 2);
    assert!(place.disk.map_counts().evicted > 100, "they did go");
}

#[test]
fn what_was_evicted_is_not_sliced_until_it_was_read() {
    let Some(place) = Place::new(bounds(100, 10)) else { return };
    drop(place.sealed(3));
    let file = open(&place.path(3)).unwrap();
    let extent = Arc::new(crate::io::extent::Extent::closed(64 << 10));
    let mapped = Arc::new(crate::io::mmap::MappedFile::new(file, extent, 4096));
    assert!(place.disk.maps.map_sealed(&mapped));
    let last = (64 << 10) - 4096;
    // Nothing has touched the map, so nothing keeps the pages; a moment's writeback may.
    let evicted = (0..20).any(|_| {
        let file = mapped.file().as_std();
        file.sync_all().unwrap();
        rustix::fs::fadvise(file, 0, None, Advice::DontNeed).unwrap();
        !mapped.resident(last, 4096)
    });
    if !evicted {
        eprintln!("SKIPPED: this file system keeps its pages in memory");
        return;
    }
    let mut all = vec![0; 64 << 10];
    mapped.file().read_at(&mut all, 0).unwrap();
    assert!(mapped.resident(0, 64 << 10));
    assert_eq!(mapped.slice(last, 4096).unwrap(), vec![3; 4096]);
}

#[test]
fn bytes_somebody_reads_are_not_written_to() {
    let Some(place) = Place::new(DiskBounds::default()) else { return };
    let busy = |result: io::Result<Arc<dyn SegmentFile>>| {
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::ResourceBusy);
    };
    let path = place.path(0);
    let segment = place.disk.create_segment(&path, 8192, WriteMode::Map).unwrap();
    segment.append(&[&[1; 5000]]).unwrap();
    assert_eq!(place.disk.open(&path).unwrap_err().kind(), io::ErrorKind::ResourceBusy);
    busy(place.disk.open_segment(&path, 5001, Access::Read));
    let reader = place.disk.open_segment(&path, 5000, Access::Read).unwrap();
    assert_eq!(reader.read(0, 5000).unwrap(), vec![1; 5000]);
    drop(reader);
    let slice = segment.try_slice(4000, 1000).unwrap();
    drop(segment);
    busy(place.disk.open_segment(&path, 4999, Access::Append));
    let again = place.disk.open_segment(&path, 5000, Access::Append).unwrap();
    again.extend(8192, WriteMode::Map).unwrap();
    again.append(&[&[2; 3000]]).unwrap();
    assert_eq!(slice, vec![1; 1000]);
    drop((again, slice));
    let cut = place.disk.open_segment(&path, 100, Access::Append).unwrap();
    assert_eq!(cut.published(), 100);
    drop(cut);
    assert_eq!(place.disk.open(&path).unwrap().len().unwrap(), 100);
}

#[test]
fn who_opens_a_segment_to_append_supersedes_the_one_before() {
    let Some(place) = Place::new(DiskBounds::default()) else { return };
    let path = place.path(0);
    let before = place.disk.create_segment(&path, 8192, WriteMode::Map).unwrap();
    before.append(&[&[1; 5000]]).unwrap();
    let after = place.disk.open_segment(&path, 5000, Access::Append).unwrap();
    after.extend(8192, WriteMode::Map).unwrap();
    after.append(&[&[2; 3000]]).unwrap();
    assert!(matches!(before.append(&[&[3]]), Err(AppendError::Sealed)));
    assert!(before.extend(10_000, WriteMode::Map).is_err());
    let slice = after.try_slice(0, 8000).unwrap();
    before.release_window().unwrap();
    before.seal().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), 8192, "not cut under its successor");
    assert_eq!((slice[0], slice[7999]), (1, 2));
    assert_eq!(before.read(0, 5000).unwrap(), vec![1; 5000]);
}

/// The registry forgets files that are closed.
#[test]
fn opened_files_are_not_remembered_for_ever() {
    let Some(place) = Place::new(DiskBounds::default()) else { return };
    for n in 0..500 {
        drop(place.disk.create_segment(&place.path(n), 1, WriteMode::Write).unwrap());
    }
    assert!(place.disk.maps.files_remembered() <= 2 * 64 + 2);
}

/// File systems give the number of a file that is gone to the next one at once. By then the registry
/// must have forgotten it, or a log that rolls while another lets go of a segment fails its disk.
#[test]
fn a_new_file_is_not_taken_for_one_that_is_gone() {
    let Some(place) = Place::new(DiskBounds::default()) else { return };
    let place = &place;
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                for turn in 0..500 {
                    let path = place.path(thread);
                    let segment = place.disk.create_segment(&path, 8192, WriteMode::Map).unwrap();
                    segment.append(&[&[1; 5000]]).unwrap();
                    let slice = segment.try_slice(0, 5000).unwrap();
                    place.disk.remove_file(&path).unwrap();
                    // Now the handle is the last to go, now the map.
                    if turn % 2 == 0 { drop((slice, segment)) } else { drop((segment, slice)) }
                }
            });
        }
    });
}

#[test]
fn a_write_that_fails_is_the_last_of_its_segment() {
    let Some(place) = Place::new(DiskBounds::default()) else { return };
    // A file opened for reading takes no write: the closest to EIO that can be had.
    let path = place.path(0);
    fs::write(&path, [0; 100]).unwrap();
    let file = Arc::new(RealFile::new(fs::File::open(&path).unwrap()));
    let segment = PwriteSegment::open(file, 100, Buffers::default()).unwrap();
    assert!(segment.extend(8192, WriteMode::Map).is_err());
    assert_eq!(segment.window(), 100);
    assert!(matches!(segment.append(&[&[1]]), Err(AppendError::WindowFull { needed: 101 })));
}

#[test]
fn directories_and_names() {
    let tmp = tempfile::tempdir().unwrap();
    let disk = RealDisk::new(MapPolicy::Never);
    let dir = tmp.path().join("data");
    disk.create_dir(&dir).unwrap();
    disk.create_dir(&dir).unwrap();
    disk.create_dir(&dir.join("part")).unwrap();
    disk.create(&dir.join("b")).unwrap().set_len(7).unwrap();
    disk.create(&dir.join("a")).unwrap();
    assert_eq!(disk.create(&dir.join("a")).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    disk.sync_dir(&dir, SyncPoint::DataDir).unwrap();
    let entry = |name: &str, is_dir, len| DirEntry { name: name.into(), is_dir, len };
    let expected = [entry("a", false, 0), entry("b", false, 7), entry("part", true, 0)];
    assert_eq!(disk.list(&dir).unwrap(), expected);
    assert!(disk.create_dir(&dir.join("a")).is_err(), "a file is there");
    disk.rename(&dir.join("b"), &dir.join("a")).unwrap();
    assert_eq!(disk.open(&dir.join("a")).unwrap().len().unwrap(), 7);
    disk.remove_file(&dir.join("a")).unwrap();
    disk.remove_dir(&dir.join("part")).unwrap();
    assert_eq!(disk.list(&dir).unwrap(), []);
    assert_eq!(disk.list(&dir.join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    let space = disk.space(&dir).unwrap();
    assert!(space.free > 0 && space.free <= space.total);
    assert!(disk.mapping(&dir).unwrap().to_string().contains("switched off"));
}
