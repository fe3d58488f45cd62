//! What a consumer, its control handles and its background task share: the assigned partitions, the
//! buffer of fetched batches, and the account of bytes.
//!
//! Lock order: the state, then a partition. Per record only the partition's lock is taken.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::Arc,
    task::Waker,
};

use bytes::Bytes;
use parking_lot::Mutex;
use riverrun_proto::ids::BrokerId;
use tokio::sync::Notify;

use super::{builder::ConsumerConfig, partition::Live};
use crate::{
    error::{Error, Result},
    topic::{Position, TopicPartition},
};

/// See the module.
pub(crate) struct Shared {
    pub(crate) config: ConsumerConfig,
    state: Mutex<State>,
    /// Tells the background task that something it acts on has changed.
    changed: Notify,
}

/// An assigned partition.
#[derive(Debug)]
pub(crate) struct Cell {
    pub(crate) key: TopicPartition,
    pub(crate) live: Mutex<Live>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) cells: HashMap<TopicPartition, Arc<Cell>>,
    buffer: VecDeque<Item>,
    /// Whoever polls.
    waker: Option<Waker>,
    accounts: HashMap<BrokerId, Account>,
    closed: bool,
}

/// Bytes of one leader's batches.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Account {
    /// In the buffer, or being read.
    pub(crate) buffered: u64,
    /// What the background task allows.
    pub(crate) window: u64,
    /// Given back since it was last told.
    returned: u64,
}

/// What waits for the reader.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) cell: Arc<Cell>,
    /// Dropped if the partition's is another.
    pub(crate) version: u64,
    pub(crate) what: What,
    pub(crate) debt: Debt,
}

#[derive(Debug)]
pub(crate) enum What {
    /// A batch, and the offset the broker goes on with.
    Batch { bytes: Bytes, next_offset: i64 },
    /// An error of the partition, to be handed out when all before it is.
    Failed(Error),
    /// The log was cut below what the reader had: told, and done with.
    Truncated(Error),
    /// Everything up to here was fetched and there is no more.
    End(i64),
}

/// Bytes to be given back to a leader's account.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Debt {
    pub(crate) broker: BrokerId,
    pub(crate) bytes: u64,
}

// === impl Shared ===

impl Shared {
    pub(crate) fn new(config: ConsumerConfig) -> Arc<Self> {
        Arc::new(Self { config, state: Mutex::default(), changed: Notify::new() })
    }

    pub(crate) fn cell(&self, partition: &TopicPartition) -> Result<Arc<Cell>> {
        self.state
            .lock()
            .cells
            .get(partition)
            .cloned()
            .ok_or_else(|| Error::invalid(format!("{partition} is not assigned to this consumer")))
    }

    pub(crate) fn cells(&self) -> Vec<Arc<Cell>> {
        self.state.lock().cells.values().cloned().collect()
    }

    /// Assigns a partition, or moves one that is.
    pub(crate) fn assign(&self, partition: TopicPartition, position: Position) {
        {
            let mut state = self.state.lock();
            if let Some(cell) = state.cells.get(&partition).cloned() {
                cell.live.lock().seek(position);
                state.purge(&cell);
            } else {
                let live = Mutex::new(Live::new(position));
                let cell = Arc::new(Cell { key: partition.clone(), live });
                state.cells.insert(partition, cell);
            }
        }
        self.changed.notify_one();
    }

    pub(crate) fn unassign(&self, partition: &TopicPartition) -> Result<()> {
        let cell = self.cell(partition)?;
        self.change(&cell, |live| {
            live.removed = true;
            live.pause();
        });
        self.state.lock().cells.remove(partition);
        self.changed.notify_one();
        Ok(())
    }

    /// Changes where a partition stands; what is buffered for it goes if it is not wanted any
    /// more, and the background task acts on it.
    pub(crate) fn change<R>(&self, cell: &Arc<Cell>, change: impl FnOnce(&mut Live) -> R) -> R {
        let mut state = self.state.lock();
        let (result, stale) = {
            let mut live = cell.live.lock();
            let version = live.version;
            (change(&mut live), live.version != version)
        };
        if stale {
            state.purge(cell);
        }
        drop(state);
        self.changed.notify_one();
        result
    }

    /// Adds to the buffer and wakes the reader.
    pub(crate) fn push(&self, items: impl IntoIterator<Item = Item>) {
        let waker = {
            let mut state = self.state.lock();
            for item in items {
                let account = state.accounts.entry(item.debt.broker).or_default();
                account.buffered += item.debt.bytes;
                state.buffer.push_back(item);
            }
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The next item that is still wanted, or `None` and the waker is kept.
    pub(crate) fn pop(&self, waker: &Waker) -> Popped {
        let mut told = false;
        let popped = {
            let mut state = self.state.lock();
            loop {
                let Some(item) = state.buffer.pop_front() else {
                    if state.closed {
                        break Popped::Closed;
                    }
                    state.waker = Some(waker.clone());
                    break Popped::Empty;
                };
                if item.is_wanted() {
                    break Popped::Item(item);
                }
                told |= state.give_back(item.debt);
            }
        };
        if told {
            self.changed.notify_one();
        }
        popped
    }

    /// A batch has been read.
    pub(crate) fn give_back(&self, debt: Debt) {
        if self.state.lock().give_back(debt) {
            self.changed.notify_one();
        }
    }

    /// What a leader's batches take now. With `window`, what they may.
    pub(crate) fn account(&self, broker: BrokerId, window: u64) -> Account {
        let mut state = self.state.lock();
        let account = state.accounts.entry(broker).or_default();
        account.window = window;
        account.returned = 0;
        *account
    }

    /// Bytes fetched and not read.
    pub(crate) fn buffered_bytes(&self) -> u64 {
        self.state.lock().accounts.values().map(|account| account.buffered).sum()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// Ends the background task; whoever polls gets an end.
    pub(crate) fn close(&self) {
        let waker = {
            let mut state = self.state.lock();
            state.closed = true;
            state.buffer.clear();
            state.waker.take()
        };
        self.changed.notify_one();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut keys: Vec<_> = self.state.lock().cells.keys().cloned().collect();
        keys.sort();
        f.debug_struct("Shared").field("assigned", &keys).finish_non_exhaustive()
    }
}

// === impl Item ===

impl Item {
    /// Data of an older version is not; that the log was cut under the reader is always news.
    fn is_wanted(&self) -> bool {
        matches!(self.what, What::Truncated(_)) || self.cell.live.lock().version == self.version
    }
}

/// See [`Shared::pop`].
#[derive(Debug)]
pub(crate) enum Popped {
    Item(Item),
    Empty,
    Closed,
}

// === impl State ===

impl State {
    /// Drops what is buffered for a partition and not wanted any more.
    fn purge(&mut self, cell: &Arc<Cell>) {
        let stale = |item: &Item| Arc::ptr_eq(&item.cell, cell) && !item.is_wanted();
        let debts: Vec<Debt> =
            self.buffer.iter().filter(|item| stale(item)).map(|item| item.debt).collect();
        self.buffer.retain(|item| !stale(item));
        for debt in debts {
            self.give_back(debt);
        }
    }

    /// Whether the background task should hear of it: enough for a new grant has come together.
    fn give_back(&mut self, debt: Debt) -> bool {
        if debt.bytes == 0 {
            return false;
        }
        let account = self.accounts.entry(debt.broker).or_default();
        account.buffered = account.buffered.saturating_sub(debt.bytes);
        account.returned += debt.bytes;
        let tell = account.returned >= account.window / 4 || account.buffered == 0;
        if tell {
            account.returned = 0;
        }
        tell
    }
}
