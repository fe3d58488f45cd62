//! Every sync the broker makes, by name, each with what would be lost without it.
//!
//! A sync is the most expensive call we make and the easiest to forget: nothing shows that one is
//! missing until the power goes. So each has a name here. [`SimDisk`](super::sim::SimDisk) can leave
//! one name out, and a test that walks through [`SyncPoint::ALL`] shows that some test then turns
//! red; a sync that nobody misses has no place here.

macro_rules! sync_points {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Where a sync happens. The doc of a variant says what a power loss takes without it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum SyncPoint {
            $($(#[doc = $doc])+ $name,)+
        }

        impl SyncPoint {
            /// All of them, in the order of this file.
            pub const ALL: &'static [SyncPoint] = &[$(SyncPoint::$name,)+];
        }
    };
}

sync_points! {
    /// Directory: the partition's, after a segment file was created. Without it the file, with
    /// every acked frame in it, may have no name after a power loss.
    SegmentCreatedDir,
    /// File: the group commit of the active segment. Without it `durability = disk` acks records
    /// that only the page cache holds.
    SegmentData,
    /// File: a segment that was sealed, with the first group commit or checkpoint after that.
    /// Without it the flushed end and the recovery point move past bytes that are not on the disk.
    SegmentSealed,
    /// File: what recovery kept, before it is served. Without it a read (or an ack of a follower)
    /// may show records which the next power loss takes away.
    SegmentRecovered,
    /// Directory: the partition's, after recovery removed segments behind a cut and kept others.
    /// Without it the removed come back, and fit on again once new records have grown up to them.
    RecoveredDir,
    /// Directory: the partition's, after a truncation removed segments, before the new one begins.
    /// Without it they come back: a truncated suffix reappears.
    SegmentRemovedDir,
    /// File: an offset or time index, before the recovery point passes its segment's end. Without
    /// it an open after a power loss reads whole segments to make their indexes again.
    IndexFile,
    /// File: a snapshot of the producers' state, before the recovery point passes it. Without it
    /// sequence numbers of deleted records are forgotten, and a retry is appended twice.
    ProducerSnapshot,
    /// File: the history of leader epochs (temporary file, before the rename). Without it the
    /// history may be an empty file under its final name.
    LeaderEpochs,
    /// Directory: the partition's, after indexes, snapshot and leader epochs got their names,
    /// before the checkpoint moves the recovery point past them. Without it the old ones are
    /// believed.
    RecoveryFilesDir,
    /// File: a checkpoint of offsets (temporary file, before the rename). Without it the rename may
    /// be durable before the content is: an empty checkpoint, so no log start offset.
    Checkpoint,
    /// Directory: after the rename of a checkpoint. Without it the old one returns: records that
    /// were deleted on request are back, recovery starts too early.
    CheckpointDir,
    /// File: `partition.meta` (topic id, name, partition), before the partition takes an append.
    /// Without it a directory full of records belongs to nobody.
    PartitionMeta,
    /// Directory: the partition's own, after `partition.meta` got its name; as
    /// [`SyncPoint::PartitionMeta`].
    PartitionMetaDir,
    /// Directory: the data directory, after a partition's directory was created. Without it a whole
    /// partition has no name after a power loss.
    PartitionDir,
    /// Directory: the data directory, after a partition's directory was removed or renamed. Without
    /// it a deleted partition is back.
    PartitionRemovedDir,
    /// File: `meta.properties` (cluster, node, directory id). Without it a broker may start as a
    /// stranger on its own data.
    MetaProperties,
    /// Directory: the data directory and its parents, after they or the files that name them were
    /// created. Without it the data directory itself may be gone.
    DataDir,
    /// File: the marker of a clean stop, written last. Without it an empty marker is believed, or
    /// none found and everything is scanned.
    CleanMarker,
    /// Directory: after the clean marker got its name; as [`SyncPoint::CleanMarker`].
    CleanMarkerDir,
    /// Directory: after the clean marker was removed at the start, before the first append. Without
    /// it the marker survives a power loss and a torn tail is taken for a clean one.
    CleanMarkerRemoved,
    /// File: the mark of a failed log directory. Without it a restart trusts a page cache that has
    /// already lied (best effort: the disk is failing).
    FailureMark,
    /// Directory: after the mark of a failed log directory got its name; as
    /// [`SyncPoint::FailureMark`].
    FailureMarkDir,
    /// Directory: the data directory, after the metadata log's directory got its name and before
    /// `meta.properties` is written. Without it a directory may have its identity and no log.
    MetaFormatted,
    /// File: the metadata log, before a command counts as committed. Without it topics and producer
    /// id blocks that were acknowledged are gone, and an id is given out twice.
    MetaWal,
    /// File: what recovery kept of the metadata log, before it is believed. Without it a topic may
    /// be shown, and have records, which the next power loss takes away.
    MetaWalRecovered,
    /// File: a new file of the metadata log, before the files it replaces are removed. Without it
    /// the only log left may be torn.
    MetaWalHeader,
    /// Directory: after a file of the metadata log was created, before those it replaces are
    /// removed. Without it committed commands may have no file.
    MetaWalDir,
    /// Directory: after files of the metadata log were removed, before the next command. Without it
    /// an old log may come back, and be taken for the newest where the newest is damaged.
    MetaWalRemovedDir,
    /// File: a snapshot of the metadata image (temporary file, before the rename). Without it the
    /// log may be cut behind a snapshot that is empty.
    MetaSnapshot,
    /// Directory: after the rename of a metadata snapshot, before the log behind it is cut.
    MetaSnapshotDir,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_names_are_there_once() {
        let mut seen = std::collections::BTreeSet::new();
        for point in SyncPoint::ALL {
            assert!(seen.insert(*point), "{point:?} stands there twice");
        }
        assert_eq!(seen.first(), Some(&SyncPoint::SegmentCreatedDir));
    }
}
