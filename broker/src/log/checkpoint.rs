//! `checkpoint`: how far the log is durable, where it begins, what was known to be committed.
//!
//! The law of the recovery point: **every byte below it is on disk, and so are the leader epochs,
//! the producer state and the index entries that belong to those bytes.** Whatever moves it forward
//! syncs all of these first. After any crash the log is therefore read from the recovery point
//! only; an invalid frame below it is damage, above it a torn tail.
//!
//! It also marks the ends of segments that were cut. Behind such an end lie, after a truncation, whole
//! frames, and nothing else says that they are no part of the log any more; after a recovery, the
//! torn tail that was reported. A mark names the salt of
//! the segment that it is for, so it never cuts another one of the same name.

use bytes::{Buf, BufMut};
use riverrun_proto::offset::Offset;

use super::{
    envelope::{self, FormatError},
    frame::Salt,
    layout::{FileKind, SEGMENT_HEADER_BYTES},
};

/// A place between two batches, by offset and by position of a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogPoint {
    /// The offset of the record after it.
    pub offset: Offset,
    /// Base offset of the segment that the position is in.
    pub segment: Offset,
    /// Where in that segment's file.
    pub position: u64,
}

impl LogPoint {
    /// The beginning of a segment that begins at `offset`, whether it exists already or not.
    pub const fn start_of_segment(offset: Offset) -> Self {
        Self { offset, segment: offset, position: SEGMENT_HEADER_BYTES as u64 }
    }
}

/// The end of a segment that was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CutMark {
    /// Base offset of the segment.
    pub segment: Offset,
    /// Which incarnation of it.
    pub salt: Salt,
    /// The first offset that is not in it any more.
    pub end: Offset,
}

/// What outlives a restart beside the data itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// All below is on disk.
    pub recovery_point: LogPoint,
    /// First offset that may be read.
    pub log_start: Offset,
    /// The high watermark when this was written: a lower bound, as any point in the past is.
    pub high_watermark: Offset,
    /// Grows when the log is emptied to begin elsewhere. Leader epochs and snapshots of an earlier
    /// life are not believed, so that emptying a log takes one step: replacing this file.
    pub life: u32,
    /// Of segments that were cut; at most one for each that is kept.
    pub cuts: Vec<CutMark>,
}

impl Checkpoint {
    /// Of a log that has nothing and begins at `start`.
    pub fn empty_at(start: Offset) -> Self {
        Self {
            recovery_point: LogPoint::start_of_segment(start),
            log_start: start,
            high_watermark: start,
            life: 0,
            cuts: Vec::new(),
        }
    }

    /// Where a segment was cut, if it was.
    pub fn cut_of(&self, segment: Offset, salt: Salt) -> Option<Offset> {
        let of = |cut: &&CutMark| cut.segment == segment && cut.salt == salt;
        self.cuts.iter().find(of).map(|cut| cut.end)
    }

    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(40);
        body.put_i64_le(self.recovery_point.offset.get());
        body.put_i64_le(self.recovery_point.segment.get());
        body.put_u64_le(self.recovery_point.position);
        body.put_i64_le(self.log_start.get());
        body.put_i64_le(self.high_watermark.get());
        body.put_u32_le(self.life);
        body.put_u32_le(u32::try_from(self.cuts.len()).expect("not more than segments"));
        for cut in &self.cuts {
            body.put_i64_le(cut.segment.get());
            body.put_u64_le(cut.salt.get());
            body.put_i64_le(cut.end.get());
        }
        envelope::wrap(FileKind::Checkpoint, &body)
    }

    /// Back from the file's bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut body = envelope::unwrap(FileKind::Checkpoint, bytes)?;
        let recovery_point = LogPoint {
            offset: get_offset(&mut body)?,
            segment: get_offset(&mut body)?,
            position: body.try_get_u64_le()?,
        };
        let log_start = get_offset(&mut body)?;
        let high_watermark = get_offset(&mut body)?;
        let life = body.try_get_u32_le()?;
        let mut cuts = Vec::new();
        for _ in 0..body.try_get_u32_le()? {
            cuts.push(CutMark {
                segment: get_offset(&mut body)?,
                salt: Salt::new(body.try_get_u64_le()?),
                end: get_offset(&mut body)?,
            });
        }
        if recovery_point.segment > recovery_point.offset
            || recovery_point.position < SEGMENT_HEADER_BYTES as u64
        {
            return Err(FormatError::Broken("its recovery point lies outside its segment"));
        }
        Ok(Self { recovery_point, log_start, high_watermark, life, cuts })
    }
}

/// Takes an offset off the front.
pub(super) fn get_offset(body: &mut &[u8]) -> Result<Offset, FormatError> {
    Offset::new(body.try_get_i64_le()?).ok_or(FormatError::Broken("an offset is negative"))
}

impl From<bytes::TryGetError> for FormatError {
    fn from(_: bytes::TryGetError) -> Self {
        Self::Broken("it ends too early")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_nonsense_is_refused() {
        let at = |n| Offset::new(n).unwrap();
        let checkpoint = Checkpoint {
            recovery_point: LogPoint { offset: at(90), segment: at(50), position: 5000 },
            log_start: at(7),
            high_watermark: at(80),
            life: 3,
            cuts: vec![CutMark { segment: at(50), salt: Salt::new(9), end: at(90) }],
        };
        assert_eq!(Checkpoint::decode(&checkpoint.encode()).as_ref(), Ok(&checkpoint));
        assert_eq!(checkpoint.cut_of(at(50), Salt::new(9)), Some(at(90)));
        assert_eq!(checkpoint.cut_of(at(50), Salt::new(8)), None, "another life of that segment");

        let mut outside = checkpoint.clone();
        outside.recovery_point.segment = at(91);
        assert!(Checkpoint::decode(&outside.encode()).is_err());
        outside = checkpoint.clone();
        outside.recovery_point.position = 100;
        assert!(Checkpoint::decode(&outside.encode()).is_err());
    }
}
