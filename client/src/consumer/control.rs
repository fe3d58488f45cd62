//! The handle that moves a consumer while its stream is borrowed.

use std::{fmt, sync::Arc};

use super::{
    shared::{Cell, Shared},
    verify_position,
};
use crate::{
    client::Client,
    error::Result,
    topic::{Position, TopicPartition},
};

/// Moves, pauses and asks a [`Consumer`](super::Consumer). Cheap to clone; usable from other tasks.
/// No call waits; what was asked for holds for the next record that is polled.
#[derive(Clone)]
pub struct ConsumerControl {
    shared: Arc<Shared>,
    client: Client,
}

// === impl ConsumerControl ===

impl ConsumerControl {
    pub(super) fn new(shared: Arc<Shared>, client: Client) -> Self {
        Self { shared, client }
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Reads on from `position`. Whatever was fetched is dropped: no record of the old place is
    /// handed out after this returns.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) if the partition is not assigned, or
    /// the offset is negative. An offset outside the log shows when the consumer is polled.
    pub fn seek(&self, partition: impl Into<TopicPartition>, position: Position) -> Result<()> {
        verify_position(position)?;
        let cell = self.shared.cell(&partition.into())?;
        self.shared.change(&cell, |live| live.seek(position));
        Ok(())
    }

    /// Hands out no more records of these partitions, and drops what was fetched of them, so that
    /// they take no memory and no credit. All or none.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) if one is not assigned.
    pub fn pause<P: Into<TopicPartition>>(
        &self,
        partitions: impl IntoIterator<Item = P>,
    ) -> Result<()> {
        for cell in self.cells(partitions)? {
            self.shared.change(&cell, super::partition::Live::pause);
        }
        Ok(())
    }

    /// Goes on where the partitions were paused. All or none.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) if one is not assigned.
    pub fn resume<P: Into<TopicPartition>>(
        &self,
        partitions: impl IntoIterator<Item = P>,
    ) -> Result<()> {
        for cell in self.cells(partitions)? {
            self.shared.change(&cell, super::partition::Live::resume);
        }
        Ok(())
    }

    /// Assigns another partition, or moves one that is assigned.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for a negative offset.
    pub fn assign(&self, partition: impl Into<TopicPartition>, position: Position) -> Result<()> {
        verify_position(position)?;
        self.shared.assign(partition.into(), position);
        Ok(())
    }

    /// Lets go of a partition.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) if it is not assigned.
    pub fn unassign(&self, partition: impl Into<TopicPartition>) -> Result<()> {
        self.shared.unassign(&partition.into())
    }

    /// What is assigned, in order.
    pub fn assignment(&self) -> Vec<TopicPartition> {
        let mut keys: Vec<_> = self.shared.cells().iter().map(|cell| cell.key.clone()).collect();
        keys.sort();
        keys
    }

    /// Partitions that are paused, in order.
    pub fn paused(&self) -> Vec<TopicPartition> {
        let cells = self.shared.cells();
        let paused = cells.iter().filter(|cell| cell.live.lock().paused);
        let mut keys: Vec<_> = paused.map(|cell| cell.key.clone()).collect();
        keys.sort();
        keys
    }

    /// The offset of the next record that will be handed out; `None` while a place such as
    /// [`Position::Latest`] is being looked up.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) if the partition is not assigned.
    pub fn position(&self, partition: impl Into<TopicPartition>) -> Result<Option<i64>> {
        Ok(self.shared.cell(&partition.into())?.live.lock().position())
    }

    /// Records between position and high watermark, as last heard; `None`: nothing heard yet.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) if the partition is not assigned.
    pub fn lag(&self, partition: impl Into<TopicPartition>) -> Result<Option<u64>> {
        Ok(self.shared.cell(&partition.into())?.live.lock().lag())
    }

    /// The first offset that is not committed, as last heard; `None`: nothing heard yet.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) if the partition is not assigned.
    pub fn high_watermark(&self, partition: impl Into<TopicPartition>) -> Result<Option<i64>> {
        Ok(self.shared.cell(&partition.into())?.live.lock().high_watermark)
    }

    /// The first offset that is there, as last heard; `None`: nothing heard yet.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) if the partition is not assigned.
    pub fn log_start_offset(&self, partition: impl Into<TopicPartition>) -> Result<Option<i64>> {
        Ok(self.shared.cell(&partition.into())?.live.lock().log_start_offset)
    }

    /// Everything that the partitions which are not paused hold was handed out, as last heard.
    pub fn is_caught_up(&self) -> bool {
        self.shared.cells().iter().all(|cell| {
            let live = cell.live.lock();
            live.paused || live.is_caught_up()
        })
    }

    /// Bytes fetched and not handed out.
    pub fn buffered_bytes(&self) -> u64 {
        self.shared.buffered_bytes()
    }

    /// The client it belongs to.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Ends the stream and the background task; what was fetched is dropped.
    pub fn close(&self) {
        self.shared.close();
    }

    fn cells<P: Into<TopicPartition>>(
        &self,
        partitions: impl IntoIterator<Item = P>,
    ) -> Result<Vec<Arc<Cell>>> {
        partitions.into_iter().map(|partition| self.shared.cell(&partition.into())).collect()
    }
}

impl fmt::Debug for ConsumerControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsumerControl").field("shared", &self.shared).finish_non_exhaustive()
    }
}
