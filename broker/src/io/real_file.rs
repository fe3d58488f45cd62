//! A real file: reads and writes at positions, allocation that is undone, syncs.

use std::{
    fs,
    io::{self, IoSlice},
    os::{fd::AsFd, unix::fs::FileExt},
};

use rustix::{
    fs::FallocateFlags,
    io::{Errno, ReadWriteFlags},
};

use super::{File, SyncPoint};

/// Most parts the kernel takes in one vectored write (`IOV_MAX` of Linux and macOS).
const PARTS_MAX: usize = 1024;

/// Most zeros written at once, 1 MiB: large pieces make large folios in the page cache.
const ZERO_PARTS: usize = 16;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// An open file of the real file system.
#[derive(Debug)]
pub(super) struct RealFile {
    file: fs::File,
}

// === impl RealFile ===

impl RealFile {
    pub(super) fn new(file: fs::File) -> Self {
        Self { file }
    }

    pub(super) fn as_std(&self) -> &fs::File {
        &self.file
    }

    /// Reserves blocks for `[from, to)`, growing the file if need be; new bytes are zero. On error
    /// the file has its old size again: ext4 keeps what a failed allocation got hold of (measured:
    /// 56 of 100 MiB stayed allocated on a full disk).
    pub(super) fn allocate_range(&self, from: u64, to: u64) -> io::Result<()> {
        if from >= to {
            return Ok(());
        }
        let old_len = self.len()?;
        let allocated = match fallocate(&self.file, from, to) {
            Err(Errno::OPNOTSUPP) => self.write_zeros(old_len.max(from), to),
            other => other.map_err(io::Error::from),
        };
        if let Err(error) = allocated {
            // The first error is the one that says why; a file that keeps blocks is only large.
            let _ = self.file.set_len(old_len);
            return Err(error);
        }
        Ok(())
    }

    /// Writes zeros to `[position, to)`.
    pub(super) fn write_zeros(&self, mut position: u64, to: u64) -> io::Result<()> {
        while position < to {
            let left = usize::try_from(to - position).unwrap_or(usize::MAX);
            let parts = if left < ZEROS.len() {
                &[IoSlice::new(&ZEROS[..left])][..]
            } else {
                &[IoSlice::new(&ZEROS); ZERO_PARTS][..ZERO_PARTS.min(left / ZEROS.len())]
            };
            self.write_at(parts, position)?;
            position += parts.iter().map(|part| part.len() as u64).sum::<u64>();
        }
        Ok(())
    }
}

impl File for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buf.len() {
            match self.file.read_at(&mut buf[filled..], position + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn read_cached_at(&self, buf: &mut [u8], position: u64) -> io::Result<bool> {
        read_no_wait(&self.file, buf, position)
    }

    fn write_at(&self, parts: &[IoSlice<'_>], mut position: u64) -> io::Result<()> {
        let mut parts: Vec<IoSlice<'_>> = parts.to_vec();
        let mut left: &mut [IoSlice<'_>] = &mut parts;
        // Drops empty parts in front, so that a write of nothing is not taken for a full disk.
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            let batch = &left[..left.len().min(PARTS_MAX)];
            match rustix::io::pwritev(&self.file, batch, position) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    position += written as u64;
                    IoSlice::advance_slices(&mut left, written);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        // From 0: a hole below would break the promise too. Extents that are there are skipped.
        if self.len()? < len { self.allocate_range(0, len) } else { Ok(()) }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync(&self, _point: SyncPoint) -> io::Result<()> {
        // Never retried, EINTR included: the first answer is the only one that can be believed.
        self.file.sync_data()
    }
}

fn fallocate(file: &fs::File, from: u64, to: u64) -> Result<(), Errno> {
    loop {
        // The system call itself: the C library's posix_fallocate would emulate it by writing.
        match rustix::fs::fallocate(file.as_fd(), FallocateFlags::empty(), from, to - from) {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Reads what the page cache has, all or nothing.
#[cfg(target_os = "linux")]
fn read_no_wait(file: &fs::File, buf: &mut [u8], position: u64) -> io::Result<bool> {
    let mut filled = 0;
    while filled < buf.len() {
        let at = position + filled as u64;
        let mut part = [io::IoSliceMut::new(&mut buf[filled..])];
        match rustix::io::preadv2(file, &mut part, at, ReadWriteFlags::NOWAIT) {
            Ok(0) => return Ok(false),
            Ok(read) => filled += read,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

/// No way to ask elsewhere: every read goes to the I/O pool.
#[cfg(not(target_os = "linux"))]
fn read_no_wait(_file: &fs::File, _buf: &mut [u8], _position: u64) -> io::Result<bool> {
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> RealFile {
        RealFile::new(tempfile::tempfile().unwrap())
    }

    #[test]
    fn parts_are_written_one_after_the_other_however_many() {
        let file = file();
        let bytes: Vec<[u8; 1]> = (0..3000_u32).map(|n| [n as u8]).collect();
        let mut parts: Vec<IoSlice<'_>> = vec![IoSlice::new(&[])];
        parts.extend(bytes.iter().map(|byte| IoSlice::new(byte)));
        file.write_at(&parts, 5).unwrap();
        let mut back = vec![9; 4000];
        assert_eq!(file.read_at(&mut back, 0).unwrap(), 3005);
        assert_eq!(back[..5], [0; 5]);
        assert!(back[5..3005].iter().zip(&bytes).all(|(got, wrote)| *got == wrote[0]));
        file.write_at(&[IoSlice::new(&[]), IoSlice::new(&[])], 0).unwrap();
        file.write_at(&[], 0).unwrap();
    }

    #[test]
    fn allocation_keeps_what_is_there_and_fills_holes() {
        let file = file();
        file.write_at(&[IoSlice::new(b"here")], 0).unwrap();
        file.set_len(1 << 20).unwrap();
        file.allocate(2 << 20).unwrap();
        assert_eq!(file.len().unwrap(), 2 << 20);
        let mut head = [0; 6];
        file.read_at(&mut head, 0).unwrap();
        assert_eq!(&head, b"here\0\0");
        file.allocate(100).unwrap();
        assert_eq!(file.len().unwrap(), 2 << 20, "allocation never shrinks");
    }

    #[test]
    fn zeros_where_nothing_can_be_allocated() {
        let file = file();
        file.write_at(&[IoSlice::new(b"here")], 0).unwrap();
        file.write_zeros(4, 2_000_000).unwrap();
        assert_eq!(file.len().unwrap(), 2_000_000);
        let mut all = vec![1; 2_000_001];
        assert_eq!(file.read_at(&mut all, 0).unwrap(), 2_000_000);
        assert_eq!(&all[..4], b"here");
        assert!(all[4..2_000_000].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn cached_reads_are_all_or_nothing() {
        let file = file();
        file.write_at(&[IoSlice::new(&[7; 10_000])], 0).unwrap();
        let mut buf = [0; 10_000];
        if file.read_cached_at(&mut buf, 0).unwrap() {
            assert_eq!(buf, [7; 10_000]);
        }
        assert!(!file.read_cached_at(&mut buf, 1).unwrap(), "reaches past the end");
    }
}
