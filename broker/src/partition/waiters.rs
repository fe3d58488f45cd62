//! Produces that wait: appended, not yet as durable as they asked to be.

use std::collections::VecDeque;

use riverrun_proto::offset::Offset;

use super::produce::{Stored, Ticket};
use crate::clock::Instant;

/// A produce waiting to be acknowledged by all.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) deadline: Instant,
    pub(super) stored: Stored,
    pub(super) ticket: Ticket,
}

impl Waiter {
    /// The end of what is acknowledged that completes it.
    fn required(&self) -> Offset {
        self.stored.end()
    }
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
        let required = waiter.required();
        let behind = self.by_offset.iter().rev().take_while(|w| w.required() > required);
        let at = self.by_offset.len() - behind.count();
        self.by_offset.insert(at, waiter);
    }

    /// Takes out whatever is complete when everything below `end` is acknowledged, in order.
    pub(super) fn take_below(&mut self, end: Offset) -> Vec<Waiter> {
        let n = self.by_offset.partition_point(|w| w.required() <= end);
        self.by_offset.drain(..n).collect()
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

    pub(super) fn is_empty(&self) -> bool {
        self.by_offset.is_empty()
    }
}
