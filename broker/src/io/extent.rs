//! The three ends of a segment file: published, window, and whether it may still grow.
//!
//! One small state machine under every [`SegmentFile`](super::SegmentFile), so that the memory map
//! and plain writes cannot differ in it. Its laws, on which the safety of [`mmap`](super::mmap)
//! rests:
//! * `published` never moves back, and only [`Extent::append`] moves it;
//! * at most one append runs at a time, and it writes `[published, published + len)` only, inside
//!   the window as it is while the append runs: nobody shrinks the file meanwhile;
//! * nothing is ever written below `published`.
//!
//! Lock order: `resize` before `writer`. Readers take neither.

use std::{
    io,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use parking_lot::Mutex;

use super::AppendError;

/// Published end, window's end, and the locks of those who move them.
#[derive(Debug)]
pub(super) struct Extent {
    /// Written with Release under `writer`, read with Acquire by anybody.
    published: AtomicU64,
    /// A copy of [`Writer::window`] for those who only want to know.
    window: AtomicU64,
    /// A copy of [`Writer::closed`], likewise.
    closed: AtomicBool,
    /// Held while bytes are written, never during anything that waits for a disk's allocation.
    writer: Mutex<Writer>,
    /// Held while the file grows or shrinks, so that these do not meet; appends go on beside.
    resize: Mutex<()>,
}

#[derive(Debug)]
struct Writer {
    window: u64,
    closed: bool,
    /// Whether shrinking cuts the file: not if it was opened read-only, or is somebody else's to
    /// append to by now.
    cuts: bool,
}

// === impl Extent ===

impl Extent {
    /// An extent that can be appended to once it was grown; its window is empty.
    pub(super) fn open(published: u64) -> Self {
        Self::new(published, false)
    }

    /// An extent that takes no appends and never cuts its file.
    pub(super) fn closed(published: u64) -> Self {
        Self::new(published, true)
    }

    fn new(published: u64, closed: bool) -> Self {
        Self {
            published: AtomicU64::new(published),
            window: AtomicU64::new(published),
            closed: AtomicBool::new(closed),
            writer: Mutex::new(Writer { window: published, closed, cuts: !closed }),
            resize: Mutex::new(()),
        }
    }

    /// Runs `write` with the position where `len` bytes go, and publishes them if it succeeds.
    ///
    /// If `write` fails, bytes past `published` are unknown, perhaps whole frames of an append that
    /// was answered with an error; a later append in front of them could bring them back to life.
    /// So a failed write closes the extent.
    pub(super) fn append(
        &self,
        len: u64,
        write: impl FnOnce(u64) -> io::Result<()>,
    ) -> Result<u64, AppendError> {
        let mut writer = self.writer.lock();
        if writer.closed {
            return Err(AppendError::Sealed);
        }
        let at = self.published.load(Ordering::Relaxed);
        let end = at.checked_add(len).ok_or(AppendError::WindowFull { needed: u64::MAX })?;
        if end > writer.window {
            return Err(AppendError::WindowFull { needed: end });
        }
        if let Err(error) = write(at) {
            self.set(&mut writer, at, true);
            return Err(AppendError::Io(error));
        }
        self.published.store(end, Ordering::Release);
        Ok(at)
    }

    /// Moves the window's end to `to`, unless it is there already, after `make_room` made
    /// `[window, to)` writable. Appends go on meanwhile.
    pub(super) fn grow(
        &self,
        to: u64,
        make_room: impl FnOnce(u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let _resize = self.resize.lock();
        let from = {
            let writer = self.writer.lock();
            if writer.closed {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "a sealed segment file cannot be extended",
                ));
            }
            writer.window
        };
        if to <= from {
            return Ok(());
        }
        make_room(from)?;
        let mut writer = self.writer.lock();
        // A write may have failed meanwhile; what was allocated goes when the file is sealed.
        if !writer.closed {
            self.set(&mut writer, to, false);
        }
        Ok(())
    }

    /// Empties the window, for good if `close`, then lets `give_back` shrink the file down to the
    /// published end: no append can be under way above it, none can begin. One that is
    /// read-only or superseded leaves the file alone.
    pub(super) fn shrink(
        &self,
        close: bool,
        give_back: impl FnOnce(u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let _resize = self.resize.lock();
        let (published, cuts) = {
            let mut writer = self.writer.lock();
            let published = self.published.load(Ordering::Relaxed);
            let closed = writer.closed || close;
            self.set(&mut writer, published, closed);
            (published, writer.cuts)
        };
        if cuts { give_back(published) } else { Ok(()) }
    }

    /// Ends all appends, and the file is not cut any more either: somebody else appends to it from
    /// now on. Returns the end of what may have been sliced.
    pub(super) fn supersede(&self) -> u64 {
        let _resize = self.resize.lock();
        let mut writer = self.writer.lock();
        let published = self.published.load(Ordering::Relaxed);
        self.set(&mut writer, published, true);
        writer.cuts = false;
        published
    }

    /// Whether the file may yet be cut to what is published here.
    pub(super) fn cuts(&self) -> bool {
        self.writer.lock().cuts
    }

    /// End of what readers may see.
    pub(super) fn published(&self) -> u64 {
        self.published.load(Ordering::Acquire)
    }

    /// End of what can be appended.
    pub(super) fn window(&self) -> u64 {
        self.window.load(Ordering::Relaxed)
    }

    /// Whether no append will ever come; once true, so is it for good.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Whether `[position, position + len)` is published.
    pub(super) fn contains(&self, position: u64, len: usize) -> bool {
        position.checked_add(len as u64).is_some_and(|end| end <= self.published())
    }

    fn set(&self, writer: &mut Writer, window: u64, closed: bool) {
        (writer.window, writer.closed) = (window, closed);
        self.window.store(window, Ordering::Relaxed);
        self.closed.store(closed, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_publishes_nothing_and_is_the_last() {
        let extent = Extent::open(10);
        extent.grow(100, |_| Ok(())).unwrap();
        assert_eq!(
            extent
                .append(5, |at| {
                    assert_eq!(at, 10);
                    Ok(())
                })
                .unwrap(),
            10
        );
        let failed = extent.append(5, |_| Err(io::Error::other("no")));
        assert!(matches!(failed, Err(AppendError::Io(_))));
        assert_eq!((extent.published(), extent.window()), (15, 15));
        assert!(matches!(extent.append(0, |_| Ok(())), Err(AppendError::Sealed)));
        assert!(extent.grow(200, |_| Ok(())).is_err());
    }

    #[test]
    fn room_that_could_not_be_made_does_not_count() {
        let extent = Extent::open(0);
        extent
            .grow(8, |from| {
                assert_eq!(from, 0);
                Ok(())
            })
            .unwrap();
        assert!(extent.grow(16, |_| Err(io::Error::other("full"))).is_err());
        assert_eq!(extent.window(), 8);
        let full = extent.append(9, |_| unreachable!("does not fit"));
        assert!(matches!(full, Err(AppendError::WindowFull { needed: 9 })));
        let absurd = extent.append(u64::MAX, |_| unreachable!("does not fit"));
        assert!(matches!(absurd, Err(AppendError::WindowFull { .. })));
        extent.grow(4, |_| unreachable!("is there already")).unwrap();
    }

    #[test]
    fn a_shrunk_window_can_grow_again_unless_closed() {
        let extent = Extent::open(0);
        extent.grow(8, |_| Ok(())).unwrap();
        extent.append(3, |_| Ok(())).unwrap();
        extent
            .shrink(false, |to| {
                assert_eq!(to, 3);
                Ok(())
            })
            .unwrap();
        assert!(matches!(extent.append(1, |_| Ok(())), Err(AppendError::WindowFull { needed: 4 })));
        extent
            .grow(8, |from| {
                assert_eq!(from, 3);
                Ok(())
            })
            .unwrap();
        extent.append(1, |_| Ok(())).unwrap();
        extent.shrink(true, |_| Ok(())).unwrap();
        assert!(matches!(extent.append(1, |_| Ok(())), Err(AppendError::Sealed)));
        assert!(extent.contains(0, 4) && !extent.contains(0, 5) && !extent.contains(u64::MAX, 2));
    }
    #[test]
    fn a_superseded_extent_neither_appends_nor_cuts() {
        let extent = Extent::open(0);
        extent.grow(8, |_| Ok(())).unwrap();
        extent.append(3, |_| Ok(())).unwrap();
        assert_eq!(extent.supersede(), 3);
        assert!(matches!(extent.append(1, |_| Ok(())), Err(AppendError::Sealed)));
        assert!(extent.grow(9, |_| unreachable!("closed")).is_err());
        extent.shrink(true, |_| unreachable!("not ours any more")).unwrap();
    }
}
