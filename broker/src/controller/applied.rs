//! What becomes of the image with an entry of the log, for a quorum of one and for several alike.

use super::frame::{Entry, EntryKind};
use crate::metadata::{
    Applied, Delta, MetadataImage, MetadataOffset, RecordError, Rejection, Reply, record,
};

/// An entry that was applied.
#[derive(Debug, Clone)]
pub(super) struct AppliedEntry {
    /// The image after it.
    pub(super) image: MetadataImage,
    /// What it changed, in order.
    pub(super) deltas: Vec<Delta>,
    /// For whoever proposed it; `None` for the quorum's own entries.
    pub(super) outcome: Option<Result<Reply, Rejection>>,
}

/// Applies a committed entry to the image before it. An entry of the quorum's own (the first of a
/// leader's term, a change of voters) takes its place in the log and changes nothing in the image.
pub(super) fn apply(image: &MetadataImage, entry: &Entry) -> Result<AppliedEntry, RecordError> {
    let offset = MetadataOffset::new(entry.index).ok_or_else(|| RecordError::Malformed {
        kind: 0,
        problem: format!("{} is no place in the log", entry.index),
    })?;
    if entry.kind == EntryKind::Change || entry.record.is_empty() {
        return Ok(AppliedEntry { image: image.at(offset), deltas: Vec::new(), outcome: None });
    }
    Ok(image.apply(offset, &record::decode(&entry.record)?).into())
}

impl From<Applied> for AppliedEntry {
    fn from(applied: Applied) -> Self {
        let Applied { image, outcome, deltas } = applied;
        Self { image, deltas, outcome: Some(outcome) }
    }
}
