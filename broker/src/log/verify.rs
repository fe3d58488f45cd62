//! Is everything in a partition's directory what was written? Reads every byte of every segment,
//! checks every checksum there is, decodes every record, and changes nothing.
//!
//! What is found is either **damage** (bytes that were durable and are not what was written:
//! somebody's records are gone) or a **note** (what a crash may leave and recovery puts right by
//! itself: a torn tail above the recovery point, an index to be rebuilt, bytes behind a cut).

use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use riverrun_proto::{
    limits::BATCH_DECOMPRESSED_BYTES_MAX,
    offset::Offset,
    record::{Decompressor, RecordBatch},
};

use super::{
    checkpoint::Checkpoint,
    envelope::FormatError,
    frame::FrameFault,
    index::IndexHead,
    inspect::{InspectError, SegmentEnd, StoredBatch, read_header, scan_segment, segments},
    layout::{CHECKPOINT_FILE, FileKind, META_FILE, offset_index_file, segment_file},
    partition_meta::PartitionMeta,
};

/// What a partition's directory holds, and what is wrong with it.
#[derive(Debug)]
pub struct Verified {
    /// The directory.
    pub dir: PathBuf,
    /// Topic and partition; `None` if `partition.meta` does not say.
    pub meta: Option<PartitionMeta>,
    /// Segment files.
    pub segments: usize,
    /// Batches that are whole.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of batches.
    pub bytes: u64,
    /// The first offset that is there.
    pub start: Offset,
    /// The first offset that is not.
    pub end: Offset,
    /// What is wrong, in order of offsets.
    pub findings: Vec<Finding>,
}

/// One thing that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which file.
    pub file: PathBuf,
    /// About where.
    pub offset: Option<Offset>,
    /// What was found.
    pub what: String,
    /// Records that were durable are gone; otherwise recovery puts it right by itself.
    pub is_damage: bool,
}

impl Verified {
    /// Whether records that were durable are gone.
    pub fn is_damaged(&self) -> bool {
        self.findings.iter().any(|finding| finding.is_damage)
    }
}

/// Reads a partition's directory from end to end. `progress` is called with the bytes read so far,
/// batch by batch.
///
/// # Errors
/// If the directory cannot be listed or a file cannot be read at all.
pub fn verify_partition(
    dir: &Path,
    progress: &mut dyn FnMut(u64),
) -> Result<Verified, InspectError> {
    let bases = segments(dir)?;
    let verified = Verified {
        dir: dir.to_owned(),
        meta: None,
        segments: bases.len(),
        batches: 0,
        records: 0,
        bytes: 0,
        start: bases.first().copied().unwrap_or(Offset::ZERO),
        end: Offset::ZERO,
        findings: Vec::new(),
    };
    let mut verifier =
        Verifier { verified, checkpoint: None, decompressor: Decompressor::new(), progress };
    verifier.meta(dir);
    verifier.checkpoint(dir)?;
    let live = verifier.live(&bases);
    verifier.start(dir, live.first().copied());
    for (i, base) in live.iter().enumerate() {
        let next = live.get(i + 1).copied();
        if verifier.segment(dir, *base, next)?.is_break() {
            break;
        }
    }
    verifier.finish(dir);
    Ok(verifier.verified)
}

struct Verifier<'a> {
    verified: Verified,
    checkpoint: Option<Checkpoint>,
    decompressor: Decompressor,
    progress: &'a mut dyn FnMut(u64),
}

// === impl Verifier ===

impl Verifier<'_> {
    fn find(&mut self, file: &Path, offset: Option<Offset>, is_damage: bool, what: String) {
        self.verified.findings.push(Finding { file: file.to_owned(), offset, what, is_damage });
    }

    fn meta(&mut self, dir: &Path) {
        let file = dir.join(META_FILE);
        let decoded = fs::read(&file)
            .map_err(|e| e.to_string())
            .and_then(|bytes| PartitionMeta::decode(&bytes).map_err(|e| e.to_string()));
        match decoded {
            Ok(meta) => self.verified.meta = Some(meta),
            Err(what) => self.find(&file, None, true, what),
        }
    }

    /// It was durable before the first record, so a missing one is lost.
    fn checkpoint(&mut self, dir: &Path) -> Result<(), InspectError> {
        let file = dir.join(CHECKPOINT_FILE);
        let decoded = match fs::read(&file) {
            Ok(bytes) => Checkpoint::decode(&bytes).map_err(|e| e.to_string()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err("it is missing".to_owned()),
            Err(source) => return Err(InspectError::Io { path: file, source }),
        };
        match decoded {
            Ok(checkpoint) => self.checkpoint = Some(checkpoint),
            Err(what) => self.find(&file, None, true, what),
        }
        Ok(())
    }

    /// Whether what is at `offset` was promised to be on disk. Without a checkpoint nobody knows;
    /// then what has a segment behind it counts as promised.
    fn is_durable(&self, offset: Offset, is_last: bool) -> bool {
        self.checkpoint
            .as_ref()
            .map_or(!is_last, |checkpoint| offset < checkpoint.recovery_point.offset)
    }

    /// Segments that lie below the log start offset as a whole are deleted, whether or not their
    /// removal survived: what is in them is nobody's.
    fn live<'b>(&self, bases: &'b [Offset]) -> &'b [Offset] {
        let Some(checkpoint) = &self.checkpoint else { return bases };
        let begins = checkpoint.recovery_point.segment;
        let end = |at: usize| {
            let next = bases.get(at + 1).copied();
            next.or_else(|| Some(begins).filter(|begins| *begins > bases[at]))
        };
        let is_dead = |at: &usize| end(*at).is_some_and(|end| end <= checkpoint.log_start);
        &bases[(0..bases.len()).take_while(is_dead).count()..]
    }

    /// What is below the log start offset may be gone; what is above it may not.
    fn start(&mut self, dir: &Path, first: Option<Offset>) {
        let begins = first.unwrap_or(Offset::ZERO);
        self.verified.end = begins;
        let Some(checkpoint) = &self.checkpoint else { return };
        let from = checkpoint.log_start;
        self.verified.start = from;
        if begins > from && self.is_durable(from, first.is_none()) {
            self.find(dir, Some(from), true, format!("offsets {from} to {begins} are missing"));
            self.verified.start = begins;
        }
    }

    /// All that was durable must be there, also if no segment is left to say so.
    fn finish(&mut self, dir: &Path) {
        let end = self.verified.end.max(self.verified.start);
        self.verified.end = end;
        let told = self.verified.findings.iter().any(|finding| finding.is_damage);
        if let Some(checkpoint) = &self.checkpoint
            && end < checkpoint.recovery_point.offset
            && !told
        {
            let durable = checkpoint.recovery_point.offset;
            self.find(dir, Some(end), true, format!("offsets {end} to {durable} are missing"));
        }
    }

    /// `next`: where the segment after it begins, which is where this one ends. Breaks off where
    /// recovery would remove what follows.
    fn segment(
        &mut self,
        dir: &Path,
        base: Offset,
        next: Option<Offset>,
    ) -> Result<ControlFlow<()>, InspectError> {
        let path = segment_file(dir, base);
        let is_last = next.is_none();
        let expected = self.verified.end;
        if base > expected {
            let is_damage = self.is_durable(expected, is_last);
            let what = format!("offsets {expected} to {base} are missing before it");
            self.find(&path, Some(expected), is_damage, what);
            if !is_damage {
                return Ok(ControlFlow::Break(()));
            }
        }
        let mut limit = next;
        if let Ok(header) = read_header(&path)
            && let Some(checkpoint) = &self.checkpoint
            && let Some(cut) = checkpoint.cut_of(base, header.salt)
        {
            limit = Some(next.map_or(cut, |next| next.min(cut)));
        }
        let mut starts = Vec::new();
        self.verified.end = base;
        let scanned = scan_segment(&path, |batch| {
            let offset = Offset::new(batch.header.base_offset).unwrap_or_default();
            if limit.is_some_and(|limit| offset >= limit) {
                // Behind a cut: no part of the log any more.
                return ControlFlow::Break(());
            }
            starts.push((offset, batch.position));
            self.batch(&path, batch);
            ControlFlow::Continue(())
        });
        let end = match scanned {
            Ok(end) => end,
            Err(InspectError::Format { source, .. }) => {
                return Ok(self.broken_head(&path, base, next, &source));
            }
            Err(error) => return Err(error),
        };
        let of_this = self.verified.meta.as_ref().map(|meta| meta.partition);
        if of_this.is_some_and(|partition| partition != end.header.partition) {
            self.find(&path, Some(base), true, "it is a segment of another partition".into());
        }
        self.index(dir, base, &end, &starts);
        Ok(self.ending(&path, limit, is_last, &end))
    }

    /// A segment that was being made when the power failed has no header and no records; below the
    /// recovery point a broken header hides records.
    fn broken_head(
        &mut self,
        path: &Path,
        base: Offset,
        next: Option<Offset>,
        why: &FormatError,
    ) -> ControlFlow<()> {
        let is_damage = self.is_durable(base, next.is_none());
        self.find(path, Some(base), is_damage, why.to_string());
        self.verified.end = next.unwrap_or(base);
        if is_damage { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }

    /// Frames that end before they should, and what stands behind the last of all.
    fn ending(
        &mut self,
        path: &Path,
        limit: Option<Offset>,
        is_last: bool,
        found: &SegmentEnd,
    ) -> ControlFlow<()> {
        let (end, at) = (self.verified.end, found.position);
        let fault = found.fault.as_ref();
        let why = fault.map_or_else(String::new, |fault| format!(": {fault}"));
        let durable = self.checkpoint.as_ref().map(|checkpoint| checkpoint.recovery_point.offset);
        let due = if is_last { limit.or(durable) } else { limit };
        if let Some(due) = due.filter(|due| end < *due) {
            if self.is_durable(end, is_last) {
                let what = format!("offsets {end} to {due} are missing at position {at}{why}");
                self.find(path, Some(end), true, what);
                self.verified.end = if is_last { end } else { due };
                return ControlFlow::Continue(());
            }
            let what = format!("a torn tail at position {at}{why}; recovery cuts it off");
            self.find(path, Some(end), false, what);
            return ControlFlow::Break(());
        }
        if limit.is_none() && !matches!(fault, None | Some(FrameFault::Nothing)) {
            let what = format!("a torn tail at position {at}{why}; recovery cuts it off");
            self.find(path, Some(end), false, what);
        } else if limit.is_none()
            && let Some(stray) = found.stray_at
        {
            let what =
                format!("bytes behind the last batch at position {stray}; nobody reads them");
            self.find(path, Some(end), false, what);
        }
        ControlFlow::Continue(())
    }

    fn batch(&mut self, path: &Path, batch: &StoredBatch) {
        let offset = Offset::new(batch.header.base_offset);
        self.verified.batches += 1;
        self.verified.bytes += batch.bytes.len() as u64;
        self.verified.end = Offset::new(batch.header.next_offset()).unwrap_or(Offset::MAX);
        (self.progress)(self.verified.bytes);
        let decoded = RecordBatch::parse_stored(batch.bytes.clone()).and_then(|whole| {
            whole.records_with(&mut self.decompressor, BATCH_DECOMPRESSED_BYTES_MAX)
        });
        let records = match decoded {
            Ok(records) => records,
            Err(e) => return self.find(path, offset, true, e.to_string()),
        };
        for record in records.iter() {
            match record {
                Ok(_) => self.verified.records += 1,
                Err(e) => self.find(path, offset, true, e.to_string()),
            }
        }
    }

    /// Every entry must be where a batch begins. One of another incarnation, or none, is rebuilt.
    fn index(&mut self, dir: &Path, base: Offset, end: &SegmentEnd, starts: &[(Offset, u64)]) {
        let path = offset_index_file(dir, base);
        let Ok(bytes) = fs::read(&path) else { return };
        let rebuilt = |what: String| format!("{what}; it is rebuilt when the broker starts");
        let (head, numbers) = match IndexHead::decode_all(FileKind::OffsetIndex, &bytes) {
            Ok(decoded) => decoded,
            Err(e) => return self.find(&path, Some(base), false, rebuilt(e.to_string())),
        };
        if head.salt != end.header.salt || head.base != base {
            let what = rebuilt("it belongs to another life of the segment".into());
            return self.find(&path, Some(base), false, what);
        }
        for number in numbers {
            let (relative, position) = (number >> 32, number & u64::from(u32::MAX));
            let offset = base.checked_add(relative).unwrap_or(Offset::MAX);
            let behind = starts.last().is_none_or(|(last, _)| offset > *last);
            if !behind && starts.binary_search(&(offset, position)).is_err() {
                let what =
                    rebuilt(format!("no batch begins at offset {offset}, position {position}"));
                return self.find(&path, Some(offset), false, what);
            }
        }
    }
}

#[cfg(test)]
#[path = "verify_test.rs"]
mod tests;
