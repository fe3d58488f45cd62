//! One produce stream to one leader, shared by all partitions it leads: its window, what is on it,
//! and whose turn is next. Pure but for the link it sends on.
//!
//! Partitions take turns, a batch each. The window bounds the sum of bytes on the wire, a quarter
//! of it those of one partition: a partition whose replicas do not answer leaves three quarters to
//! the others.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use riverrun_proto::ids::BrokerId;
use tokio_util::sync::DropGuard;

use super::shared::PartitionKey;
use crate::{
    clock::Instant,
    connection::{Append, ProduceLimits, ProduceLink},
};

/// The share of the window that one partition may hold is one in this many.
const PARTITION_SHARE: u64 = 4;

/// The way to one leader.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) broker: BrokerId,
    pub(crate) link: Link,
    /// Partitions that may have something to send, each once, in order of their turns.
    turns: VecDeque<PartitionKey>,
    /// Attempts to open the stream since it last carried an answer.
    pub(crate) failures: u32,
    /// Streams opened so far; tells late news of an earlier one apart.
    pub(crate) incarnation: u64,
}

/// State of the stream.
#[derive(Debug)]
pub(crate) enum Link {
    /// To be opened when there is something to send, not before this.
    Closed {
        retry_at: Option<Instant>,
    },
    Opening,
    Open(OpenLink),
}

/// A stream that carries batches.
#[derive(Debug)]
pub(crate) struct OpenLink {
    link: ProduceLink,
    /// Ends the stream of answers with the link.
    _listening: DropGuard,
    limits: ProduceLimits,
    in_flight_bytes: u64,
    /// Whose batch each unanswered append is, and its bytes.
    on_the_wire: HashMap<u64, (PartitionKey, usize)>,
    /// When the latest answer came, or the stream was opened.
    last_heard: Instant,
    /// In the order sent; answered ones are dropped from the front.
    sent_order: VecDeque<(u64, Instant)>,
    /// The broker asked for it: nothing more is sent, and the stream is closed when all is
    /// answered.
    pub(crate) draining: bool,
    /// It has carried an answer.
    pub(crate) carried: bool,
    /// The broker asked to send nothing before this.
    pub(crate) throttled_until: Option<Instant>,
}

// === impl Lane ===

impl Lane {
    pub(crate) fn new(broker: BrokerId) -> Self {
        Self {
            broker,
            link: Link::Closed { retry_at: None },
            turns: VecDeque::new(),
            failures: 0,
            incarnation: 0,
        }
    }

    /// Lets a partition have its turn after the others. The caller sees to it that each is in here
    /// once.
    pub(crate) fn enqueue(&mut self, key: PartitionKey) {
        self.turns.push_back(key);
    }

    /// The partition whose turn it is again, as it could not take it.
    pub(crate) fn put_back(&mut self, key: PartitionKey) {
        self.turns.push_front(key);
    }

    pub(crate) fn next_turn(&mut self) -> Option<PartitionKey> {
        self.turns.pop_front()
    }

    pub(crate) fn has_turns(&self) -> bool {
        !self.turns.is_empty()
    }

    /// All partitions that wait for their turn, which they lose.
    pub(crate) fn take_turns(&mut self) -> VecDeque<PartitionKey> {
        std::mem::take(&mut self.turns)
    }

    /// It could not be reached, and is being tried again.
    pub(crate) fn is_failing(&self, now: Instant) -> bool {
        match self.link {
            Link::Open(_) => false,
            Link::Opening => self.failures > 0,
            Link::Closed { retry_at } => retry_at.is_some_and(|at| at > now),
        }
    }

    pub(crate) fn open_link(&mut self) -> Option<&mut OpenLink> {
        match &mut self.link {
            Link::Open(open) => Some(open),
            Link::Closed { .. } | Link::Opening => None,
        }
    }
}

// === impl OpenLink ===

impl OpenLink {
    pub(crate) fn new(
        link: ProduceLink,
        limits: ProduceLimits,
        listening: DropGuard,
        now: Instant,
    ) -> Self {
        Self {
            link,
            _listening: listening,
            limits,
            in_flight_bytes: 0,
            on_the_wire: HashMap::new(),
            last_heard: now,
            sent_order: VecDeque::new(),
            draining: false,
            carried: false,
            throttled_until: None,
        }
    }

    /// Whether `bytes` more fit. A batch larger than the whole window goes alone.
    pub(crate) fn fits(&self, bytes: usize) -> bool {
        self.in_flight_bytes == 0
            || self.in_flight_bytes + bytes as u64 <= self.limits.in_flight_bytes
    }

    /// Whether anything may be sent now.
    pub(crate) fn is_ready(&self, now: Instant) -> bool {
        !self.draining && self.throttled_until.is_none_or(|until| until <= now)
    }

    /// Bytes one partition may have on the wire.
    pub(crate) fn partition_bytes_max(&self) -> usize {
        usize::try_from(self.limits.in_flight_bytes / PARTITION_SHARE).unwrap_or(usize::MAX)
    }

    /// Batches of one partition the broker recognises.
    pub(crate) fn in_flight_batches(&self) -> usize {
        self.limits.in_flight_batches
    }

    pub(crate) fn send(&mut self, key: PartitionKey, append: Append, now: Instant) {
        let (id, bytes) = (append.correlation_id, append.batch.len());
        self.in_flight_bytes += bytes as u64;
        self.on_the_wire.insert(id, (key, bytes));
        self.sent_order.push_back((id, now));
        self.link.send(append);
    }

    /// Whose batch this answers; `None` if nobody waits for it.
    pub(crate) fn answered(&mut self, correlation_id: u64) -> Option<PartitionKey> {
        let (key, bytes) = self.on_the_wire.remove(&correlation_id)?;
        self.in_flight_bytes -= bytes as u64;
        while let Some((id, _)) = self.sent_order.front()
            && !self.on_the_wire.contains_key(id)
        {
            self.sent_order.pop_front();
        }
        Some(key)
    }

    /// An answer came.
    pub(crate) fn heard(&mut self, now: Instant) {
        self.last_heard = now;
        self.carried = true;
    }

    pub(crate) fn set_window(&mut self, bytes: u64) {
        self.limits.in_flight_bytes = bytes;
    }

    /// Nothing is on the wire.
    pub(crate) fn is_idle(&self) -> bool {
        self.on_the_wire.is_empty()
    }

    /// The stream is dead: something waits for its answer, and for `timeout` none came at all. An
    /// answer that stays away while others come is given twice the time: the broker is slow, and
    /// sending everything again would not make it faster.
    pub(crate) fn is_silent(&self, timeout: Duration, now: Instant) -> bool {
        let Some((_, sent)) = self.sent_order.front() else { return false };
        let (waiting, silent) = (now.duration_since(*sent), now.duration_since(self.last_heard));
        waiting >= timeout && (silent >= timeout || waiting >= 2 * timeout)
    }

    /// Batches that the transport never took.
    pub(crate) fn untaken(&self) -> HashSet<u64> {
        self.link.untaken()
    }

    /// Partitions with a batch on the wire.
    pub(crate) fn partitions(&self) -> HashSet<PartitionKey> {
        self.on_the_wire.values().map(|(key, _)| *key).collect()
    }
}
