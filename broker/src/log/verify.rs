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
    inspect::{InspectError, SegmentEnd, StoredBatch, scan_segment, segments},
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
    let first = bases.first().copied().unwrap_or(Offset::ZERO);
    let verified = Verified {
        dir: dir.to_owned(),
        meta: None,
        segments: bases.len(),
        batches: 0,
        records: 0,
        bytes: 0,
        start: first,
        end: first,
        findings: Vec::new(),
    };
    let mut verifier =
        Verifier { verified, checkpoint: None, decompressor: Decompressor::new(), progress };
    verifier.meta(dir);
    verifier.checkpoint(dir)?;
    for (i, base) in bases.iter().enumerate() {
        verifier.segment(dir, *base, bases.get(i + 1).copied())?;
    }
    verifier.start();
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

    /// A missing one is what a kill before the first checkpoint leaves.
    fn checkpoint(&mut self, dir: &Path) -> Result<(), InspectError> {
        let file = dir.join(CHECKPOINT_FILE);
        let bytes = match fs::read(&file) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(InspectError::Io { path: file, source }),
        };
        match Checkpoint::decode(&bytes) {
            Ok(checkpoint) => self.checkpoint = Some(checkpoint),
            Err(e) => self.find(&file, None, true, e.to_string()),
        }
        Ok(())
    }

    /// All below it is on disk.
    fn recovery_point(&self) -> Offset {
        self.checkpoint.as_ref().map_or(Offset::ZERO, |checkpoint| checkpoint.recovery_point.offset)
    }

    /// `next`: where the segment after it begins, which is where this one ends.
    fn segment(
        &mut self,
        dir: &Path,
        base: Offset,
        next: Option<Offset>,
    ) -> Result<(), InspectError> {
        let path = segment_file(dir, base);
        if base > self.verified.end {
            let what = format!("offsets {} to {base} are missing", self.verified.end);
            self.find(&path, Some(self.verified.end), true, what);
        }
        let mut starts = Vec::new();
        let scanned = scan_segment(&path, |batch| {
            let offset = Offset::new(batch.header.base_offset).unwrap_or_default();
            if next.is_some_and(|next| offset >= next) {
                // A cut: the segment ends where the next begins.
                return ControlFlow::Break(());
            }
            starts.push((offset, batch.position));
            self.batch(&path, batch);
            ControlFlow::Continue(())
        });
        let end = match scanned {
            Ok(end) => end,
            Err(InspectError::Format { source, .. }) => {
                self.broken_head(&path, base, next, &source);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let of_this = self.verified.meta.as_ref().map(|meta| meta.partition);
        if of_this.is_some_and(|partition| partition != end.header.partition) {
            self.find(&path, Some(base), true, "it is a segment of another partition".into());
        }
        let last = starts.last().map_or(base, |_| self.verified.end);
        self.ending(&path, last, next, &end);
        self.index(dir, base, &end, &starts);
        self.verified.end = next.unwrap_or(last);
        Ok(())
    }

    /// A segment that was being made when the power failed has no header and no records; anywhere
    /// else a broken header hides records.
    fn broken_head(&mut self, path: &Path, base: Offset, next: Option<Offset>, why: &FormatError) {
        let is_damage = next.is_some() || base < self.recovery_point();
        self.find(path, Some(base), is_damage, why.to_string());
        self.verified.end = next.unwrap_or(base);
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

    /// Frames that end before they should, and what stands behind the last of all.
    fn ending(&mut self, path: &Path, end: Offset, next: Option<Offset>, found: &SegmentEnd) {
        let fault = found.fault.as_ref();
        let why = fault.map_or_else(String::new, |fault| format!(": {fault}"));
        let at = found.position;
        if let Some(next) = next {
            if end < next {
                let what = format!("offsets {end} to {next} are missing at position {at}{why}");
                self.find(path, Some(end), true, what);
            }
            return;
        }
        let durable = self.recovery_point();
        if end < durable {
            let what = format!("offsets {end} to {durable} are missing at position {at}{why}");
            self.find(path, Some(end), true, what);
        } else if !matches!(fault, None | Some(FrameFault::Nothing)) {
            let what = format!("a torn tail at position {at}{why}; recovery cuts it off");
            self.find(path, Some(end), false, what);
        } else if let Some(stray) = found.stray_at {
            let what =
                format!("bytes behind the last batch at position {stray}; nobody reads them");
            self.find(path, Some(end), false, what);
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

    /// What is below the log start offset may be gone; what is above it may not.
    fn start(&mut self) {
        let Some(checkpoint) = &self.checkpoint else { return };
        let (from, there) = (checkpoint.log_start, self.verified.start);
        if there > from {
            let dir = self.verified.dir.clone();
            self.find(&dir, Some(from), true, format!("offsets {from} to {there} are missing"));
        }
        self.verified.start = there.max(from);
    }
}

#[cfg(test)]
#[path = "verify_test.rs"]
mod tests;
