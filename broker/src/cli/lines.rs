//! Cuts a byte stream into lines without copying them and without ever holding more than one
//! line and one read: for `produce`, and for files of any size in `demo`.
//!
//! A line is what stands before a delimiter, whatever its bytes; the last one needs none. Nothing is
//! trimmed: a carriage return before a newline belongs to the line.

use std::io;

use bytes::{Buf as _, Bytes, BytesMut};
use memchr::memmem;

/// Bytes asked of the source at once.
const READ_BYTES: usize = 256 * 1024;

/// A chunk has so many lines, or this many bytes and the rest of a line.
const CHUNK_LINES: usize = 512;
const CHUNK_BYTES: usize = 128 * 1024;

/// Lines of a source. After an error it is over.
#[derive(Debug)]
pub(crate) struct LineReader<R> {
    source: R,
    delimiter: memmem::Finder<'static>,
    /// Longest line.
    bytes_max: usize,
    buffer: BytesMut,
    /// Bytes of `buffer` in which no delimiter begins.
    searched: usize,
    /// Lines handed out.
    lines: u64,
    ended: bool,
    /// Found behind the lines of a chunk; told after them.
    failed: Option<LineError>,
}

/// Why there is no next line.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LineError {
    /// The source failed.
    #[error("line {line}: {source}")]
    Read {
        /// The line that was being read, from 1.
        line: u64,
        /// What the operating system says.
        source: io::Error,
    },
    /// A line without an end in sight.
    #[error("line {line} is longer than {bytes_max} bytes")]
    TooLong {
        /// From 1.
        line: u64,
        /// The bound.
        bytes_max: usize,
    },
}

// === impl LineReader ===

impl<R: io::Read> LineReader<R> {
    /// Lines of `source`, of at most `bytes_max` bytes each. An empty `delimiter` means a newline.
    pub(crate) fn new(source: R, delimiter: &[u8], bytes_max: usize) -> Self {
        let delimiter = if delimiter.is_empty() { b"\n" } else { delimiter };
        Self {
            source,
            delimiter: memmem::Finder::new(delimiter).into_owned(),
            bytes_max,
            buffer: BytesMut::new(),
            searched: 0,
            lines: 0,
            ended: false,
            failed: None,
        }
    }

    /// The next line, without its delimiter. It keeps the read it came in (256 KiB) in memory.
    pub(crate) fn next_line(&mut self) -> Result<Option<Bytes>, LineError> {
        loop {
            if let Some(line) = self.buffered()? {
                return Ok(Some(line));
            }
            if self.ended {
                if self.buffer.is_empty() {
                    return Ok(None);
                }
                self.check_length(self.buffer.len())?;
                let line = self.buffer.split().freeze();
                return Ok(Some(self.hand_out(line)));
            }
            self.check_length(self.searched)?;
            self.read()?;
        }
    }

    /// The next lines, none at the end. Waits for the source only for the first of them: what a
    /// person has typed is not held back until more is. Ends with the line that makes it
    /// [`CHUNK_LINES`] or more than [`CHUNK_BYTES`].
    pub(crate) fn next_chunk(&mut self) -> Result<Vec<Bytes>, LineError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let mut chunk = Vec::new();
        let mut bytes = 0;
        let mut next = self.next_line()?;
        while let Some(line) = next {
            bytes += line.len();
            chunk.push(line);
            if chunk.len() >= CHUNK_LINES || bytes > CHUNK_BYTES {
                break;
            }
            next = match self.buffered() {
                Ok(next) => next,
                Err(error) => {
                    // The lines before it are handed out first.
                    self.failed = Some(error);
                    None
                }
            };
        }
        Ok(chunk)
    }

    /// The next line, if all of it has been read.
    fn buffered(&mut self) -> Result<Option<Bytes>, LineError> {
        let delimiter_bytes = self.delimiter.needle().len();
        let Some(at) = self.delimiter.find(&self.buffer[self.searched..]) else {
            self.searched = self.buffer.len().saturating_sub(delimiter_bytes - 1);
            return Ok(None);
        };
        let end = self.searched + at;
        self.check_length(end)?;
        let line = self.buffer.split_to(end).freeze();
        self.buffer.advance(delimiter_bytes);
        Ok(Some(self.hand_out(line)))
    }

    /// Lines handed out so far.
    pub(crate) fn lines(&self) -> u64 {
        self.lines
    }

    fn hand_out(&mut self, line: Bytes) -> Bytes {
        self.searched = 0;
        self.lines += 1;
        line
    }

    fn check_length(&mut self, bytes: usize) -> Result<(), LineError> {
        if bytes <= self.bytes_max {
            return Ok(());
        }
        self.end();
        Err(LineError::TooLong { line: self.lines + 1, bytes_max: self.bytes_max })
    }

    fn read(&mut self) -> Result<(), LineError> {
        let filled = self.buffer.len();
        self.buffer.resize(filled + READ_BYTES, 0);
        let read = loop {
            match self.source.read(&mut self.buffer[filled..]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        self.buffer.truncate(filled + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(read) => self.ended = read == 0,
            Err(source) => {
                self.end();
                return Err(LineError::Read { line: self.lines + 1, source });
            }
        }
        Ok(())
    }

    fn end(&mut self) {
        self.ended = true;
        self.buffer.clear();
        self.searched = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Gives at most `step` bytes a read.
    struct Slow<'a>(&'a [u8], usize);

    impl io::Read for Slow<'_> {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            let n = self.1.min(to.len()).min(self.0.len());
            to[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    fn lines(reader: &mut LineReader<impl io::Read>) -> Vec<Vec<u8>> {
        let mut lines = Vec::new();
        while let Some(line) = reader.next_line().unwrap() {
            lines.push(line.to_vec());
        }
        assert_eq!(reader.lines(), lines.len() as u64);
        lines
    }

    #[test]
    fn lines_are_what_stands_between_delimiters() {
        for (text, delimiter, expected) in [
            (&b""[..], &b"\n"[..], &[][..]),
            (b"a\nb\n", b"\n", &[&b"a"[..], b"b"][..]),
            (b"a\nb", b"\n", &[b"a", b"b"]),
            (b"\n\n", b"\n", &[b"", b""]),
            (b"a\r\n\xff\xfe\n", b"", &[b"a\r", b"\xff\xfe"]),
            (b"a--b-c--", b"--", &[b"a", b"b-c"]),
            (b"a-", b"--", &[b"a-"]),
        ] {
            for step in [1, 2, 3, 100] {
                let mut reader = LineReader::new(Slow(text, step), delimiter, 100);
                assert_eq!(lines(&mut reader), expected, "{text:?} by {step}");
            }
        }
    }

    #[test]
    fn a_line_at_the_bound_is_taken_and_one_above_is_named() {
        for end in ["", "\n"] {
            let text = format!("x\n{}{end}", "y".repeat(10));
            let mut reader = LineReader::new(text.as_bytes(), b"\n", 10);
            assert_eq!(lines(&mut reader).len(), 2);
            let mut reader = LineReader::new(text.as_bytes(), b"\n", 9);
            assert_eq!(reader.next_line().unwrap().unwrap(), "x");
            let error = reader.next_line().unwrap_err();
            assert!(matches!(error, LineError::TooLong { line: 2, bytes_max: 9 }), "{error}");
            assert!(reader.next_line().unwrap().is_none());
        }
    }

    #[test]
    fn chunks_are_bounded_and_do_not_wait_for_a_second_read() {
        // What was typed so far is there although the next line has begun.
        let mut reader = LineReader::new(Slow(b"a\nb\nc", 5), b"\n", 100);
        assert_eq!(reader.next_chunk().unwrap(), ["a", "b"]);
        assert_eq!(reader.next_chunk().unwrap(), ["c"]);
        assert!(reader.next_chunk().unwrap().is_empty());

        let many = b"x\n".repeat(CHUNK_LINES + 1);
        let mut reader = LineReader::new(&many[..], b"\n", 100);
        assert_eq!(reader.next_chunk().unwrap().len(), CHUNK_LINES);
        assert_eq!(reader.next_chunk().unwrap().len(), 1);

        let long = format!("{}\n", "y".repeat(CHUNK_BYTES / 2)).repeat(5);
        let mut reader = LineReader::new(long.as_bytes(), b"\n", CHUNK_BYTES);
        let first = reader.next_chunk().unwrap();
        assert!(first.iter().map(Bytes::len).sum::<usize>() <= CHUNK_BYTES * 3 / 2);
    }

    #[test]
    fn a_chunk_gives_the_lines_before_a_faulty_one_first() {
        let mut reader = LineReader::new(&b"a\nb\ntoo long\nd\n"[..], b"\n", 3);
        assert_eq!(reader.next_chunk().unwrap(), ["a", "b"]);
        assert!(matches!(reader.next_chunk(), Err(LineError::TooLong { line: 3, .. })));
        assert!(reader.next_chunk().unwrap().is_empty());
    }

    #[test]
    fn an_endless_line_is_not_read_into_memory() {
        let mut reader = LineReader::new(io::repeat(b'x'), b"\n", 1000);
        assert!(matches!(reader.next_line(), Err(LineError::TooLong { line: 1, .. })));
        assert!(reader.buffer.capacity() <= 2 * READ_BYTES, "{}", reader.buffer.capacity());
    }

    #[test]
    fn a_failing_source_names_the_line() {
        struct Fails;
        impl io::Read for Fails {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::PermissionDenied.into())
            }
        }
        let mut reader = LineReader::new(io::Read::chain(&b"a\nb"[..], Fails), b"\n", 10);
        assert_eq!(reader.next_line().unwrap().unwrap(), "a");
        assert!(matches!(reader.next_line(), Err(LineError::Read { line: 2, .. })));
        assert!(reader.next_line().unwrap().is_none());
    }

    proptest! {
        #[test]
        fn as_split_says(text in proptest::collection::vec(0_u8..4, 0..60), step in 1_usize..9) {
            let mut expected: Vec<_> = text.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
            if expected.last().is_some_and(Vec::is_empty) {
                expected.pop();
            }
            let mut reader = LineReader::new(Slow(&text, step), &[0], 100);
            prop_assert_eq!(lines(&mut reader), expected);
        }
    }
}
