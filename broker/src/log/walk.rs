//! Walking along the frames of a segment: the one loop under recovery, index rebuilds, warm and
//! cold reads. It differs only in where bytes come from and how much is trusted.

use std::io;

use bytes::Bytes;
use riverrun_proto::{offset::Offset, record::BatchHeader};

use super::{
    frame::{FrameCodec, FrameFault, FrameHeader, batch_header},
    layout::FRAME_HEADER_BYTES,
};

/// Bytes asked of the source at once where a whole segment is walked.
pub(super) const SCAN_CHUNK_BYTES: usize = 1024 * 1024;

/// Where to begin, where to end, what to believe.
#[derive(Debug, Clone, Copy)]
pub(super) struct WalkStart {
    /// Position of the first frame.
    pub position: u64,
    /// Offset due there.
    pub offset: Offset,
    /// Nothing at or past this position belongs to the segment.
    pub end: u64,
    /// Frames below this position are checked against their checksum; those above were appended by
    /// this process, which had it in hand.
    pub verify_below: u64,
    /// Bytes asked of the source at once.
    pub chunk_bytes: usize,
}

/// Goes from frame to frame. `S` gives bytes at a position: fewer than asked only at the end of the
/// file, `None` if they are not in memory.
pub(super) struct Walk<'a, S> {
    source: S,
    codec: &'a FrameCodec,
    end: u64,
    verify_below: u64,
    chunk_bytes: usize,
    /// Next frame, and the offset due there.
    position: u64,
    expected: Offset,
    epoch: i32,
    chunk: Bytes,
    chunk_at: u64,
}

/// What is next.
#[derive(Debug)]
pub(super) enum Step {
    /// A frame that is what it should be.
    Frame(Frame),
    /// No valid frame; [`FrameFault::Nothing`] where nothing was written. Stays there.
    Fault(FrameFault),
    /// Its bytes are not in memory.
    NotResident,
}

/// A valid frame.
#[derive(Debug)]
pub(super) struct Frame {
    /// Where it begins.
    pub position: u64,
    /// Its batch's header.
    pub header: BatchHeader,
    /// Its batch, as stored.
    pub batch: Bytes,
    /// First offset of the batch.
    pub base: Offset,
    /// First offset after it.
    pub next: Offset,
}

impl Frame {
    /// Bytes of the frame.
    pub(super) fn bytes(&self) -> u64 {
        (FRAME_HEADER_BYTES + self.batch.len()) as u64
    }
}

impl<'a, S> Walk<'a, S>
where
    S: FnMut(u64, usize) -> io::Result<Option<Bytes>>,
{
    pub(super) fn new(codec: &'a FrameCodec, start: WalkStart, source: S) -> Self {
        Self {
            source,
            codec,
            end: start.end,
            verify_below: start.verify_below,
            chunk_bytes: start.chunk_bytes,
            position: start.position,
            expected: start.offset,
            epoch: -1,
            chunk: Bytes::new(),
            chunk_at: start.position,
        }
    }

    /// Where the next frame begins or should.
    pub(super) const fn position(&self) -> u64 {
        self.position
    }

    /// The offset due there.
    pub(super) const fn expected(&self) -> Offset {
        self.expected
    }

    /// The next frame. An error is the disk's.
    pub(super) fn step(&mut self) -> io::Result<Step> {
        let Some(head) = self.fetch(FRAME_HEADER_BYTES)? else { return Ok(Step::NotResident) };
        let frame = match FrameHeader::parse(&head) {
            Ok(frame) => frame,
            Err(fault) => return Ok(Step::Fault(fault)),
        };
        let needed = frame.frame_bytes();
        let available = usize::try_from(self.end - self.position).unwrap_or(usize::MAX);
        if needed > available {
            return Ok(Step::Fault(FrameFault::Cut { needed, available }));
        }
        let Some(bytes) = self.fetch(needed)? else { return Ok(Step::NotResident) };
        if bytes.len() < needed {
            return Ok(Step::Fault(FrameFault::Cut { needed, available: bytes.len() }));
        }
        let batch = bytes.slice(FRAME_HEADER_BYTES..);
        match self.check(frame, &batch) {
            Ok(header) => {
                let found = Frame {
                    position: self.position,
                    batch,
                    base: self.expected,
                    next: Offset::new(header.next_offset()).unwrap_or(Offset::MAX),
                    header,
                };
                self.position += needed as u64;
                self.expected = found.next;
                self.epoch = found.header.leader_epoch;
                Ok(Step::Frame(found))
            }
            Err(fault) => Ok(Step::Fault(fault)),
        }
    }

    fn check(&self, frame: FrameHeader, batch: &[u8]) -> Result<BatchHeader, FrameFault> {
        if self.position < self.verify_below {
            self.codec.verify(frame, batch)?;
        }
        let header = batch_header(batch, frame, self.expected)?;
        if header.leader_epoch < self.epoch {
            let (found, before) = (header.leader_epoch, self.epoch);
            return Err(FrameFault::Epoch { base: self.expected, found, before });
        }
        Ok(header)
    }

    /// `len` bytes from the present position, fewer only at the end.
    fn fetch(&mut self, len: usize) -> io::Result<Option<Bytes>> {
        let left = usize::try_from(self.end.saturating_sub(self.position)).unwrap_or(usize::MAX);
        let len = len.min(left);
        let skip = usize::try_from(self.position - self.chunk_at).unwrap_or(usize::MAX);
        if self.chunk.len().saturating_sub(skip) < len {
            let asked = len.max(self.chunk_bytes.min(left));
            let mut chunk = (self.source)(self.position, asked)?;
            if chunk.is_none() && asked > len {
                // Not all of a large chunk needs to be in memory for this frame to be.
                chunk = (self.source)(self.position, len)?;
            }
            let Some(chunk) = chunk else { return Ok(None) };
            self.chunk = chunk;
            self.chunk_at = self.position;
            return Ok(Some(self.chunk.slice(..len.min(self.chunk.len()))));
        }
        Ok(Some(self.chunk.slice(skip..skip + len)))
    }
}
