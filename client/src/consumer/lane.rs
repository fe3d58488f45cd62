//! One fetch stream to one leader: which partitions it carries, from where, and the credit.
//!
//! The credit law: bytes buffered + bytes the broker may still send ≤ window, but for the one
//! batch by which a broker may overdraw. More is granted when half the window is free.

use std::{collections::HashMap, sync::Arc};

use riverrun_proto::ids::{BrokerId, TopicId};
use tokio_util::sync::DropGuard;

use super::shared::{Account, Cell};
use crate::{
    clock::Instant,
    connection::{FetchFrom, FetchLink, FetchUpdate},
};

/// A partition by identity, as it travels.
pub(super) type Key = (TopicId, u32);

/// The way to one leader.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) link: Link,
    /// Attempts to open the stream since it last carried anything.
    pub(super) failures: u32,
    /// Streams opened so far; tells late news of an earlier one apart.
    pub(super) incarnation: u64,
}

/// State of the stream.
#[derive(Debug)]
pub(super) enum Link {
    Closed {
        retry_at: Option<Instant>,
    },
    /// With these partitions, and this credit.
    Opening {
        sent: HashMap<Key, Sent>,
        credit: u64,
    },
    Open(OpenLink),
}

/// A stream that carries batches.
#[derive(Debug)]
pub(super) struct OpenLink {
    link: FetchLink,
    _listening: DropGuard,
    sent: HashMap<Key, Sent>,
    /// Bytes the broker may still send; below zero if it has overdrawn.
    outstanding: i64,
    /// The latest update that was sent, and the latest that is in force.
    generation: u64,
    confirmed: u64,
    pub(super) last_heard: Instant,
}

/// What the broker was told of a partition.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) cell: Arc<Cell>,
    pub(super) version: u64,
    pub(super) attempt: u64,
    generation: u64,
}

/// What it should be told.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) cell: Arc<Cell>,
    pub(super) version: u64,
    pub(super) attempt: u64,
    pub(super) from: FetchFrom,
}

// === impl Lane ===

impl Lane {
    pub(super) fn new() -> Self {
        Self { link: Link::Closed { retry_at: None }, failures: 0, incarnation: 0 }
    }

    /// It could not be reached, and is being tried again.
    pub(super) fn is_failing(&self, now: Instant) -> bool {
        match self.link {
            Link::Open(_) => false,
            Link::Opening { .. } => self.failures > 0,
            Link::Closed { retry_at } => retry_at.is_some_and(|at| at > now),
        }
    }
}

impl Wanted {
    /// As it will be once a stream is opened with it.
    pub(super) fn as_sent(&self) -> Sent {
        Sent {
            cell: Arc::clone(&self.cell),
            version: self.version,
            attempt: self.attempt,
            generation: 0,
        }
    }
}

// === impl OpenLink ===

impl OpenLink {
    pub(super) fn new(
        link: FetchLink,
        listening: DropGuard,
        sent: HashMap<Key, Sent>,
        credit: u64,
        now: Instant,
    ) -> Self {
        Self {
            link,
            _listening: listening,
            sent,
            outstanding: i64::try_from(credit).unwrap_or(i64::MAX),
            generation: 0,
            confirmed: 0,
            last_heard: now,
        }
    }

    /// Tells the broker what has changed.
    pub(super) fn update(&mut self, wanted: HashMap<Key, Wanted>) {
        let mut update = FetchUpdate { generation: self.generation + 1, ..FetchUpdate::default() };
        self.sent.retain(|key, _| {
            let keep = wanted.contains_key(key);
            if !keep {
                update.remove.push(*key);
            }
            keep
        });
        for (key, wanted) in wanted {
            let known = self.sent.get(&key);
            let told = |sent: &Sent| {
                (sent.version, sent.attempt) == (wanted.version, wanted.attempt)
                    && Arc::ptr_eq(&sent.cell, &wanted.cell)
            };
            if !known.is_some_and(told) {
                let sent = Sent { generation: update.generation, ..wanted.as_sent() };
                self.sent.insert(key, sent);
                update.set.push(wanted.from);
            }
        }
        if !update.set.is_empty() || !update.remove.is_empty() {
            self.generation = update.generation;
            self.link.update(update);
        }
    }

    /// An update is in force.
    pub(super) fn confirm(&mut self, generation: u64) {
        self.confirmed = self.confirmed.max(generation);
    }

    /// The partition this data is for, if it is not from an old place. Its bytes are used up in
    /// any case.
    pub(super) fn accept(&mut self, key: Key, credit_bytes: u64) -> Option<&Sent> {
        let used = i64::try_from(credit_bytes).unwrap_or(i64::MAX);
        self.outstanding = self.outstanding.saturating_sub(used);
        let confirmed = self.confirmed;
        self.sent.get(&key).filter(|sent| {
            sent.generation <= confirmed && {
                let live = sent.cell.live.lock();
                (live.version, live.attempt) == (sent.version, sent.attempt)
            }
        })
    }

    /// Grants what is free of the window, if that is half of it.
    pub(super) fn grant(&mut self, account: Account) {
        let taken = i64::try_from(account.buffered).unwrap_or(i64::MAX);
        let window = i64::try_from(account.window).unwrap_or(i64::MAX);
        let free = window.saturating_sub(taken).saturating_sub(self.outstanding);
        if free > 0 && free >= window / 2 {
            self.outstanding += free;
            self.link.credit(free.unsigned_abs());
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }

    /// Partitions on this stream.
    pub(super) fn cells(&self) -> impl Iterator<Item = &Arc<Cell>> {
        self.sent.values().map(|sent| &sent.cell)
    }
}

/// The share of the window for each of `lanes` leaders.
pub(super) fn window(prefetch_bytes: u64, lanes: usize) -> u64 {
    (prefetch_bytes / lanes.max(1) as u64).max(1)
}

/// So that a lane can be found by its broker.
pub(super) type Lanes = HashMap<BrokerId, Lane>;
