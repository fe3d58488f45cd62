//! What callers and the background task of a producer share: the budget, the partitions' open
//! batches, and the list of those the task has to look at.
//!
//! A caller touches: the budget, the map of topics (no lock), the partition's accumulator (a
//! short mutex, its own encoding under it). The task is woken once per batch, not per record.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
};

use arc_swap::{ArcSwap, ArcSwapOption};
use foldhash::fast::RandomState;
use parking_lot::Mutex;
use riverrun_proto::{ids::TopicId, reason::Reason, timestamp::Timestamp};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    accumulator::{Accumulator, Refused},
    budget::{Budget, Charge},
    builder::ProducerConfig,
    delivery::{self, Delivery, Unresolved},
    partitioner::Sticky,
    pool::BufferPool,
};
use crate::{
    clock,
    error::{Error, Result},
    record::Record,
    topic::Topic,
};

/// A partition by identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PartitionKey {
    pub(crate) topic: TopicId,
    pub(crate) partition: u32,
}

/// A partition's batches before they are sent, and whether the task is to look at them.
#[derive(Debug)]
pub(crate) struct PartitionQueue {
    pub(crate) key: PartitionKey,
    pub(crate) topic: Arc<str>,
    pub(crate) accumulator: Mutex<Accumulator>,
    marked: AtomicBool,
}

/// A topic as callers name it.
pub(crate) struct TopicSlot {
    pub(crate) name: Arc<str>,
    route: ArcSwapOption<Route>,
    parked: Mutex<Parked>,
}

/// Where a topic's records go.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) queues: Vec<Arc<PartitionQueue>>,
    sticky: Arc<Sticky>,
}

/// The partitioner's answer.
enum Choice<'r> {
    Queue(&'r Arc<PartitionQueue>),
    /// Not among the partitions known now.
    Unknown,
    Never(Error),
}

/// Records that wait for their topic to be looked up; their charges bound them.
#[derive(Default)]
struct Parked {
    group: Arc<Unresolved>,
    records: Vec<(Record, Timestamp, Charge)>,
    /// The slot is no longer in the map: take the one that is.
    gone: bool,
}

/// How far the producer is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    Open = 0,
    /// Takes no more records, sends what it has.
    Closing = 1,
    /// Gives up what it has.
    Aborting = 2,
}

/// See the module.
pub(crate) struct Shared {
    pub(crate) config: ProducerConfig,
    pub(crate) budget: Arc<Budget>,
    pub(crate) pool: Arc<BufferPool>,
    /// Replaced as a whole, by whoever holds `changing_topics`: each record looks here, and a topic
    /// comes seldom.
    topics: ArcSwap<Topics>,
    changing_topics: Mutex<()>,
    marks: Mutex<Marks>,
    wake: Notify,
    phase: AtomicU8,
    /// It is closing because nobody holds it any more.
    dropped: AtomicBool,
    /// The task has ended.
    pub(crate) finished: CancellationToken,
    first_failure: Mutex<Option<Error>>,
    failed_records: AtomicU64,
}

#[derive(Clone, Default)]
struct Topics {
    slots: HashMap<Arc<str>, Arc<TopicSlot>, RandomState>,
    closed: bool,
}

/// What the task has to look at; each thing at most once.
#[derive(Default)]
pub(crate) struct Marks {
    pub(crate) queues: Vec<Arc<PartitionQueue>>,
    pub(crate) slots: Vec<Arc<TopicSlot>>,
}

// === impl Shared ===

impl Shared {
    pub(crate) fn new(config: ProducerConfig) -> Arc<Self> {
        Arc::new(Self {
            budget: Budget::new(config.buffer_memory),
            pool: BufferPool::new(),
            config,
            topics: ArcSwap::default(),
            changing_topics: Mutex::new(()),
            marks: Mutex::default(),
            wake: Notify::new(),
            phase: AtomicU8::new(Phase::Open as u8),
            dropped: AtomicBool::new(false),
            finished: CancellationToken::new(),
            first_failure: Mutex::new(None),
            failed_records: AtomicU64::new(0),
        })
    }

    /// Puts a record that has its charge where it belongs. Gives it back if the producer is
    /// closed.
    pub(crate) fn enqueue(
        &self,
        mut record: Record,
        mut charge: Charge,
    ) -> Result<Delivery, Record> {
        let ms = record.timestamp_ms.unwrap_or_else(clock::wall_ms);
        let timestamp = Timestamp::from_millis(ms);
        loop {
            let topics = self.topics.load();
            let added;
            let slot = match topics.slots.get(&record.topic) {
                Some(slot) => slot,
                None => match self.add_topic(&record.topic) {
                    Some(slot) => {
                        added = slot;
                        &added
                    }
                    None => return Err(record),
                },
            };
            let route = slot.route.load();
            let choice = route.as_ref().map(|route| self.choose(route, &record));
            match choice {
                Some(Choice::Queue(queue)) => {
                    let placed =
                        queue.accumulator.lock().append(&record, timestamp, charge, clock::now);
                    match placed {
                        Ok(placed) => {
                            if placed.wake {
                                self.mark_queue(queue);
                            }
                            return Ok(Delivery::of_batch(placed.ack, placed.index, ms));
                        }
                        Err(Refused::TooLarge { bytes, max }) => {
                            let error = too_large(bytes, max);
                            self.count_failed(&error, 1);
                            return Ok(Delivery::failed(error));
                        }
                        // The route is being replaced: look again, below at the latest.
                        Err(Refused::Closed(returned, _)) => charge = returned,
                    }
                }
                Some(Choice::Never(error)) => {
                    self.count_failed(&error, 1);
                    return Ok(Delivery::failed(error));
                }
                // No route yet, or a partition past the known ones that may have been added.
                Some(Choice::Unknown) | None => {}
            }
            match slot.park(record, timestamp, charge) {
                Ok(delivery) => {
                    self.mark_slot(Arc::clone(slot));
                    return Ok(delivery);
                }
                // Another slot has taken this one's place, or the producer is closed.
                Err((returned, returned_charge)) => (record, charge) = (returned, returned_charge),
            }
        }
    }

    /// Says where a topic's records go, and sends those that waited on their way.
    pub(crate) fn route(&self, slot: &TopicSlot, queues: Vec<Arc<PartitionQueue>>) {
        let mut parked = slot.parked.lock();
        let sticky = match slot.route.load().as_ref() {
            Some(route) => Arc::clone(&route.sticky),
            None => {
                let partitions = u32::try_from(queues.len()).unwrap_or(u32::MAX).max(1);
                Arc::new(Sticky::starting_at(rand::random::<u32>() % partitions))
            }
        };
        let route = Arc::new(Route { queues, sticky });
        let records = std::mem::take(&mut parked.records);
        let group = std::mem::take(&mut parked.group);
        let placed = records
            .into_iter()
            .map(|(record, timestamp, charge)| self.place(&route, &record, timestamp, charge))
            .collect();
        slot.route.store(Some(route));
        drop(parked);
        group.resolve(placed);
    }

    /// The topic cannot be routed: fails the records that waited, and forgets the topic unless
    /// some of its partitions are known.
    pub(crate) fn refuse(&self, slot: &TopicSlot, error: &Error) {
        let (group, failed) = {
            let mut parked = slot.parked.lock();
            if slot.route.load().is_none() {
                parked.gone = true;
                self.change_topics(|topics| {
                    let known = topics.slots.get(&slot.name);
                    if known.is_some_and(|known| std::ptr::eq(&**known, slot)) {
                        topics.slots.remove(&slot.name);
                    }
                });
            }
            let failed = std::mem::take(&mut parked.records).len();
            (std::mem::take(&mut parked.group), failed)
        };
        group.resolve((0..failed).map(|_| Err(error.clone())).collect());
        self.count_failed(error, failed as u64);
    }

    fn place(
        &self,
        route: &Route,
        record: &Record,
        timestamp: Timestamp,
        charge: Charge,
    ) -> delivery::Placed {
        let placed = match self.choose(route, record) {
            Choice::Queue(queue) => {
                let placed = queue.accumulator.lock().append(record, timestamp, charge, clock::now);
                match placed {
                    Ok(placed) => {
                        if placed.wake {
                            self.mark_queue(queue);
                        }
                        Ok((placed.ack, placed.index))
                    }
                    Err(Refused::TooLarge { bytes, max }) => Err(too_large(bytes, max)),
                    Err(Refused::Closed(_, error)) => Err(error),
                }
            }
            Choice::Unknown => Err(no_such_partition(record, route.queues.len())),
            Choice::Never(error) => Err(error),
        };
        if let Err(error) = &placed {
            self.count_failed(error, 1);
        }
        placed
    }

    fn choose<'r>(&self, route: &'r Route, record: &Record) -> Choice<'r> {
        let partitions = u32::try_from(route.queues.len()).unwrap_or(u32::MAX);
        let queue = |partition: u32| route.queues.get(partition as usize);
        if let Some(partition) = record.partition {
            return queue(partition).map_or(Choice::Unknown, Choice::Queue);
        }
        let key = record.key.as_deref();
        let chosen = self.config.partitioner.choose(&record.topic, key, partitions);
        let partition = chosen.unwrap_or_else(|| {
            let batch_size = self.config.batch_size;
            route.sticky.pick(record.size(), batch_size, partitions, rand::random::<u32>)
        });
        match queue(partition) {
            Some(queue) => Choice::Queue(queue),
            None => Choice::Never(Error::invalid(format!(
                "the partitioner chose partition {partition} of {} for topic {:?}",
                partitions, record.topic
            ))),
        }
    }

    /// The slot of a topic that was not there; `None` once the producer takes no more.
    fn add_topic(&self, name: &Arc<str>) -> Option<Arc<TopicSlot>> {
        self.change_topics(|topics| {
            if topics.closed {
                return None;
            }
            let new = || {
                Arc::new(TopicSlot {
                    name: Arc::clone(name),
                    route: ArcSwapOption::empty(),
                    parked: Mutex::default(),
                })
            };
            Some(Arc::clone(topics.slots.entry(Arc::clone(name)).or_insert_with(new)))
        })
    }

    fn change_topics<T>(&self, change: impl FnOnce(&mut Topics) -> T) -> T {
        let _changing = self.changing_topics.lock();
        let mut topics = Topics::clone(&self.topics.load());
        let outcome = change(&mut topics);
        self.topics.store(Arc::new(topics));
        outcome
    }

    /// All topics there are records for, or were.
    pub(crate) fn slots(&self) -> Vec<Arc<TopicSlot>> {
        self.topics.load().slots.values().cloned().collect()
    }

    /// Takes no topics, and so no records, any more.
    pub(crate) fn close_topics(&self) {
        let slots: Vec<_> = self.change_topics(|topics| {
            topics.closed = true;
            topics.slots.drain().map(|(_, slot)| slot).collect()
        });
        let error = Error::closed("producer");
        for slot in slots {
            slot.route.store(None);
            self.refuse(&slot, &error);
        }
    }

    /// Asks the task to look at a partition.
    pub(crate) fn mark_queue(&self, queue: &Arc<PartitionQueue>) {
        if !queue.marked.swap(true, Ordering::AcqRel) {
            self.marks.lock().queues.push(Arc::clone(queue));
            self.wake.notify_one();
        }
    }

    fn mark_slot(&self, slot: Arc<TopicSlot>) {
        {
            let mut marks = self.marks.lock();
            if marks.slots.iter().any(|known| Arc::ptr_eq(known, &slot)) {
                return;
            }
            marks.slots.push(slot);
        }
        self.wake.notify_one();
    }

    /// What was marked since the last time.
    pub(crate) fn take_marks(&self) -> Marks {
        let marks = std::mem::take(&mut *self.marks.lock());
        for queue in &marks.queues {
            // Before it is looked at: what comes after the look marks it again.
            queue.marked.store(false, Ordering::Release);
        }
        marks
    }

    /// Resolves when something was marked, or the phase changed.
    pub(crate) async fn marked(&self) {
        self.wake.notified().await;
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Open,
            1 => Phase::Closing,
            _ => Phase::Aborting,
        }
    }

    /// Moves on to `phase`; never back.
    pub(crate) fn advance(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::AcqRel);
        self.budget.close();
        self.wake.notify_one();
    }

    /// The last handle is gone.
    pub(crate) fn drop_last(&self) {
        if self.phase() == Phase::Open {
            self.dropped.store(true, Ordering::Release);
            self.advance(Phase::Closing);
        }
    }

    pub(crate) fn was_dropped(&self) -> bool {
        self.dropped.load(Ordering::Acquire)
    }

    pub(crate) fn count_failed(&self, error: &Error, records: u64) {
        if records > 0 {
            self.failed_records.fetch_add(records, Ordering::Relaxed);
            self.first_failure.lock().get_or_insert_with(|| error.clone());
        }
    }

    /// The first failure since the last call.
    pub(crate) fn take_failure(&self) -> Result<()> {
        self.first_failure.lock().take().map_or(Ok(()), Err)
    }

    pub(crate) fn failed_records(&self) -> u64 {
        self.failed_records.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("budget", &self.budget)
            .field("phase", &self.phase())
            .finish_non_exhaustive()
    }
}

// === impl PartitionQueue ===

impl PartitionQueue {
    pub(crate) fn new(topic: &Topic, partition: u32, shared: &Shared) -> Arc<Self> {
        let options = shared.config.batch_options(topic.max_message_bytes);
        let (linger, pool) = (shared.config.linger, Arc::clone(&shared.pool));
        Arc::new(Self {
            key: PartitionKey { topic: topic.id, partition },
            topic: Arc::clone(&topic.name),
            accumulator: Mutex::new(Accumulator::new(partition, options, linger, pool)),
            marked: AtomicBool::new(false),
        })
    }
}

// === impl TopicSlot ===

impl TopicSlot {
    /// Where its records go, if that is known.
    pub(crate) fn routed(&self) -> Option<Arc<Route>> {
        self.route.load_full()
    }

    /// From now on records wait for another look at the metadata.
    pub(crate) fn unroute(&self) {
        let _parked = self.parked.lock();
        self.route.store(None);
    }

    /// Resolves when the records that wait now have a place, or failed; `None` if there are none.
    pub(crate) fn waiting(&self) -> Option<Arc<Unresolved>> {
        let parked = self.parked.lock();
        (!parked.records.is_empty()).then(|| Arc::clone(&parked.group))
    }

    /// Records that wait.
    pub(crate) fn parked_count(&self) -> u64 {
        self.parked.lock().records.len() as u64
    }

    fn park(
        &self,
        record: Record,
        timestamp: Timestamp,
        charge: Charge,
    ) -> Result<Delivery, (Record, Charge)> {
        let mut parked = self.parked.lock();
        let routed = || match (self.route.load().as_ref(), record.partition) {
            (Some(route), Some(partition)) => (partition as usize) < route.queues.len(),
            (Some(_), None) => true,
            (None, _) => false,
        };
        // Routed between the look and the lock, or replaced.
        if parked.gone || routed() {
            return Err((record, charge));
        }
        let index = u32::try_from(parked.records.len()).unwrap_or(u32::MAX);
        parked.records.push((record, timestamp, charge));
        let group = Arc::clone(&parked.group);
        Ok(Delivery::of_unresolved(group, index, timestamp.as_millis()))
    }
}

impl fmt::Debug for TopicSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TopicSlot").field("name", &self.name).finish_non_exhaustive()
    }
}

pub(crate) fn too_large(bytes: usize, max: usize) -> Error {
    Error::from_reason(
        Reason::MessageTooLarge,
        format!(
            "the record takes {bytes} bytes, {max} is the most; raise max_request_size, and \
             max.message.bytes of the topic"
        ),
    )
}

fn no_such_partition(record: &Record, partitions: usize) -> Error {
    Error::from_reason(
        Reason::UnknownTopicOrPartition,
        format!(
            "topic {:?} has partitions 0 to {}, not {}",
            record.topic,
            partitions.saturating_sub(1),
            record.partition.unwrap_or_default()
        ),
    )
}
