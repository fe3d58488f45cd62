//! What a log and its readers share.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU32, Ordering},
    },
};

use arc_swap::ArcSwap;
use riverrun_proto::{ids::TopicPartition, offset::Offset};

use super::{env::LogEnv, layout, segment_list::SegmentList};

/// Written by the log, under its owner's lock; read by anybody.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) env: LogEnv,
    pub(super) dir: PathBuf,
    pub(super) partition: TopicPartition,
    pub(super) segments: ArcSwap<SegmentList>,
    log_start: AtomicI64,
    /// Stored (Release) after bytes and index entries of what lies below it.
    log_end: AtomicI64,
    index_interval_bytes: AtomicU32,
}

// === impl Shared ===

impl Shared {
    pub(super) fn new(
        env: LogEnv,
        dir: PathBuf,
        partition: TopicPartition,
        segments: SegmentList,
        bounds: (Offset, Offset),
        index_interval_bytes: u32,
    ) -> Self {
        Self {
            env,
            dir,
            partition,
            segments: ArcSwap::from_pointee(segments),
            log_start: AtomicI64::new(bounds.0.get()),
            log_end: AtomicI64::new(bounds.1.get()),
            index_interval_bytes: AtomicU32::new(index_interval_bytes),
        }
    }

    pub(super) fn log_start(&self) -> Offset {
        published(&self.log_start)
    }

    pub(super) fn log_end(&self) -> Offset {
        published(&self.log_end)
    }

    pub(super) fn set_log_start(&self, offset: Offset) {
        self.log_start.store(offset.get(), Ordering::Release);
    }

    pub(super) fn set_log_end(&self, offset: Offset) {
        self.log_end.store(offset.get(), Ordering::Release);
    }

    pub(super) fn set_segments(&self, segments: SegmentList) {
        self.segments.store(Arc::new(segments));
    }

    pub(super) fn index_interval_bytes(&self) -> u32 {
        self.index_interval_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn set_index_interval_bytes(&self, bytes: u32) {
        self.index_interval_bytes.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn segment_path(&self, base: Offset) -> PathBuf {
        layout::segment_file(&self.dir, base)
    }
}

fn published(offset: &AtomicI64) -> Offset {
    Offset::new(offset.load(Ordering::Acquire)).expect("only offsets are stored")
}
