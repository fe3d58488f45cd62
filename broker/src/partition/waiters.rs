//! Produces that wait: appended, not yet as durable as they asked to be.

use std::collections::VecDeque;

use riverrun_proto::offset::Offset;

use super::produce::{Produced, Ticket};
use crate::clock::Instant;

/// A produce waiting for the high watermark.
#[derive(Debug)]
pub(super) struct Waiter {
    /// The high watermark that completes it.
    pub(super) required: Offset,
    pub(super) deadline: Instant,
    /// The answer, but for what is known only at its time.
    pub(super) produced: Produced,
    pub(super) ticket: Ticket,
}

/// Waiters of one partition in order of the offset they wait for. Bounded by the admission bytes
/// their tickets hold.
///
/// Appends come in offset order, so a new waiter nearly always goes to the back; only a duplicate
/// of an uncommitted batch looks for its place.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    by_offset: VecDeque<Waiter>,
}

impl Waiters {
    pub(super) fn push(&mut self, waiter: Waiter) {
        let behind = self.by_offset.iter().rev().take_while(|w| w.required > waiter.required);
        let at = self.by_offset.len() - behind.count();
        self.by_offset.insert(at, waiter);
    }

    /// Takes out whatever `high_watermark` completes, in order.
    pub(super) fn take_committed(
        &mut self,
        high_watermark: Offset,
    ) -> impl Iterator<Item = Waiter> + '_ {
        let n = self.by_offset.partition_point(|w| w.required <= high_watermark);
        self.by_offset.drain(..n)
    }

    /// Takes out whatever waited past its deadline.
    pub(super) fn take_expired(&mut self, now: Instant) -> Vec<Waiter> {
        if !self.by_offset.iter().any(|w| w.deadline <= now) {
            return Vec::new();
        }
        let (expired, kept) =
            std::mem::take(&mut self.by_offset).into_iter().partition(|w| w.deadline <= now);
        self.by_offset = kept;
        let expired: VecDeque<Waiter> = expired;
        expired.into()
    }

    pub(super) fn take_all(&mut self) -> Vec<Waiter> {
        std::mem::take(&mut self.by_offset).into()
    }

    pub(super) fn len(&self) -> usize {
        self.by_offset.len()
    }
}
