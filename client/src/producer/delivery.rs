//! What became of a record. A whole batch shares one [`BatchAck`]; a [`Delivery`] is that and an
//! index, so that nothing is allocated per record and a batch is answered once.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;

use crate::{
    config::Durability,
    connection::Appended,
    error::{Error, Result},
};

/// Where a record is, and what it survives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordMetadata {
    partition: u32,
    offset: Option<i64>,
    timestamp_ms: i64,
    duplicate: bool,
    leader_epoch: i32,
    durability: Durability,
    replicas: u32,
}

/// The promise of an answer: resolves when the record is written as `acks` demands, or is known to
/// have failed.
///
/// Dropping it does not take the record back: it is still sent. Within a partition deliveries
/// resolve in the order the records were sent.
///
/// Cancel safe: it can be awaited by reference, given up, and awaited again.
#[must_use = "await it to know what became of the record, or detach() it"]
pub struct Delivery {
    source: Source,
    timestamp_ms: i64,
    /// Place among the waiters of what `source` points to.
    slot: Option<usize>,
}

enum Source {
    Batch {
        ack: Arc<BatchAck>,
        index: u32,
    },
    /// The topic is not known yet.
    Unresolved {
        group: Arc<Unresolved>,
        index: u32,
    },
    Failed(Error),
}

/// Answer to a batch, shared by the deliveries of its records.
#[derive(Debug)]
pub(crate) struct BatchAck {
    partition: u32,
    outcome: OnceLock<Result<Appended>>,
    waiters: Mutex<Waiters>,
}

/// Records of a topic that is being looked up: where each of them went.
#[derive(Debug, Default)]
pub(crate) struct Unresolved {
    placed: OnceLock<Vec<Placed>>,
    waiters: Mutex<Waiters>,
}

/// Where a record of an [`Unresolved`] group ended up.
pub(crate) type Placed = Result<(Arc<BatchAck>, u32)>;

/// Wakers of whoever waits for one answer: a place each, used again when its owner has gone, so
/// that there are never more than there were waiters at a time.
#[derive(Debug, Default)]
struct Waiters {
    places: Vec<Option<Waker>>,
    free: Vec<usize>,
}

/// A place among waiters; leaves it when dropped.
struct Waiting<'a> {
    waiters: &'a Mutex<Waiters>,
    slot: Option<usize>,
}

// === impl RecordMetadata ===

impl RecordMetadata {
    /// The partition it is in.
    pub fn partition(&self) -> u32 {
        self.partition
    }

    /// Its offset; `None` if the broker did not say (acks none).
    pub fn offset(&self) -> Option<i64> {
        self.offset
    }

    /// Its time in milliseconds since the epoch: the producer's, or the broker's where the topic
    /// says so.
    pub fn timestamp_ms(&self) -> i64 {
        self.timestamp_ms
    }

    /// An earlier attempt had written it already; the place is that one's.
    pub fn is_duplicate(&self) -> bool {
        self.duplicate
    }

    /// The leadership that answered.
    pub fn leader_epoch(&self) -> i32 {
        self.leader_epoch
    }

    /// What it survives.
    pub fn durability(&self) -> Durability {
        self.durability
    }

    /// Replicas that have it so.
    pub fn replicas(&self) -> u32 {
        self.replicas
    }
}

// === impl Delivery ===

impl Delivery {
    pub(crate) fn of_batch(ack: Arc<BatchAck>, index: u32, timestamp_ms: i64) -> Self {
        Self { source: Source::Batch { ack, index }, timestamp_ms, slot: None }
    }

    pub(crate) fn of_unresolved(group: Arc<Unresolved>, index: u32, timestamp_ms: i64) -> Self {
        Self { source: Source::Unresolved { group, index }, timestamp_ms, slot: None }
    }

    pub(crate) fn failed(error: Error) -> Self {
        Self { source: Source::Failed(error), timestamp_ms: 0, slot: None }
    }

    /// Lets the record go its way unwatched. Its failure still shows in the next
    /// [`flush`](crate::Producer::flush) or [`close`](crate::Producer::close).
    pub fn detach(self) {}

    fn answer(&self, appended: &Appended, partition: u32, index: u32) -> RecordMetadata {
        RecordMetadata {
            partition,
            offset: appended.base_offset.map(|base| base + i64::from(index)),
            timestamp_ms: appended.log_append_time_ms.unwrap_or(self.timestamp_ms),
            duplicate: appended.duplicate,
            leader_epoch: appended.leader_epoch,
            durability: appended.durability,
            replicas: appended.replicas,
        }
    }

    fn waiters(&self) -> Option<&Mutex<Waiters>> {
        match &self.source {
            Source::Batch { ack, .. } => Some(&ack.waiters),
            Source::Unresolved { group, .. } => Some(&group.waiters),
            Source::Failed(_) => None,
        }
    }
}

impl Future for Delivery {
    type Output = Result<RecordMetadata>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let moved = match &self.source {
                Source::Failed(error) => return Poll::Ready(Err(error.clone())),
                Source::Batch { ack, index } => {
                    return match ack.poll_outcome(self.slot, cx) {
                        (Poll::Ready(outcome), _) => Poll::Ready(
                            outcome
                                .as_ref()
                                .map_err(Error::clone)
                                .map(|appended| self.answer(appended, ack.partition, *index)),
                        ),
                        (Poll::Pending, slot) => {
                            self.slot = slot;
                            Poll::Pending
                        }
                    };
                }
                Source::Unresolved { group, index } => match group.poll_placed(self.slot, cx) {
                    (Poll::Ready(placed), _) => match &placed[*index as usize] {
                        Ok((ack, index)) => Source::Batch { ack: Arc::clone(ack), index: *index },
                        Err(error) => Source::Failed(error.clone()),
                    },
                    (Poll::Pending, slot) => {
                        self.slot = slot;
                        return Poll::Pending;
                    }
                },
            };
            self.source = moved;
            self.slot = None;
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let (Some(slot), Some(waiters)) = (self.slot, self.waiters()) {
            waiters.lock().leave(slot);
        }
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.source {
            Source::Batch { ack, .. } if ack.is_done() => "answered",
            Source::Batch { .. } => "in a batch",
            Source::Unresolved { .. } => "waiting for metadata",
            Source::Failed(_) => "failed",
        };
        write!(f, "Delivery({state})")
    }
}

// === impl BatchAck ===

impl BatchAck {
    pub(crate) fn new(partition: u32) -> Arc<Self> {
        Arc::new(Self { partition, outcome: OnceLock::new(), waiters: Mutex::default() })
    }

    /// Answers all records of the batch. Only the first answer counts.
    pub(crate) fn complete(&self, outcome: Result<Appended>) {
        if self.outcome.set(outcome).is_ok() {
            Waiters::wake_all(&self.waiters);
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.outcome.get().is_some()
    }

    /// Resolves when the batch is answered, whatever the answer.
    pub(crate) async fn done(&self) {
        let mut waiting = Waiting { waiters: &self.waiters, slot: None };
        std::future::poll_fn(|cx| waiting.poll(&self.outcome, cx)).await;
    }

    fn poll_outcome(
        &self,
        slot: Option<usize>,
        cx: &mut Context<'_>,
    ) -> (Poll<&Result<Appended>>, Option<usize>) {
        poll_once_set(&self.outcome, &self.waiters, slot, cx)
    }
}

// === impl Unresolved ===

impl Unresolved {
    /// Says where the records went, in the order they came.
    pub(crate) fn resolve(&self, placed: Vec<Placed>) {
        if self.placed.set(placed).is_ok() {
            Waiters::wake_all(&self.waiters);
        }
    }

    /// Resolves when every record of the group has its place.
    pub(crate) async fn done(&self) {
        let mut waiting = Waiting { waiters: &self.waiters, slot: None };
        std::future::poll_fn(|cx| waiting.poll(&self.placed, cx)).await;
    }

    fn poll_placed(
        &self,
        slot: Option<usize>,
        cx: &mut Context<'_>,
    ) -> (Poll<&Vec<Placed>>, Option<usize>) {
        poll_once_set(&self.placed, &self.waiters, slot, cx)
    }
}

/// Ready if the cell is set; otherwise waits at `slot`, or at a new one.
fn poll_once_set<'a, T>(
    cell: &'a OnceLock<T>,
    waiters: &Mutex<Waiters>,
    slot: Option<usize>,
    cx: &Context<'_>,
) -> (Poll<&'a T>, Option<usize>) {
    if let Some(value) = cell.get() {
        return (Poll::Ready(value), None);
    }
    let mut waiters = waiters.lock();
    // Set between the look and the lock: nobody would wake us.
    if let Some(value) = cell.get() {
        return (Poll::Ready(value), None);
    }
    (Poll::Pending, Some(waiters.enter(slot, cx.waker())))
}

// === impl Waiting ===

impl Waiting<'_> {
    fn poll<T>(&mut self, cell: &OnceLock<T>, cx: &Context<'_>) -> Poll<()> {
        let (answer, slot) = poll_once_set(cell, self.waiters, self.slot, cx);
        self.slot = slot;
        answer.map(|_| ())
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            self.waiters.lock().leave(slot);
        }
    }
}

// === impl Waiters ===

impl Waiters {
    fn enter(&mut self, slot: Option<usize>, waker: &Waker) -> usize {
        let slot = slot.or_else(|| self.free.pop()).unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() - 1
        });
        match &mut self.places[slot] {
            Some(known) if known.will_wake(waker) => {}
            place => *place = Some(waker.clone()),
        }
        slot
    }

    /// After the wake there is nothing to leave.
    fn leave(&mut self, slot: usize) {
        if let Some(place) = self.places.get_mut(slot) {
            *place = None;
            self.free.push(slot);
        }
    }

    /// Outside the lock: a waker may run anything.
    fn wake_all(waiters: &Mutex<Self>) {
        let wakers = std::mem::take(&mut *waiters.lock()).places;
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn appended(base_offset: i64) -> Appended {
        Appended {
            base_offset: Some(base_offset),
            log_append_time_ms: None,
            duplicate: false,
            leader_epoch: 4,
            durability: Durability::Disk,
            replicas: 1,
        }
    }

    #[test]
    fn one_answer_gives_each_record_its_own_place() {
        let ack = BatchAck::new(3);
        let mut first = Delivery::of_batch(Arc::clone(&ack), 0, 10);
        let last = Delivery::of_batch(Arc::clone(&ack), 9, 11);
        assert!((&mut first).now_or_never().is_none());
        ack.complete(Ok(appended(100)));
        ack.complete(Err(Error::closed("producer")));
        let place = first.now_or_never().unwrap().unwrap();
        assert_eq!((place.partition(), place.offset(), place.timestamp_ms()), (3, Some(100), 10));
        let place = last.now_or_never().unwrap().unwrap();
        assert_eq!((place.offset(), place.timestamp_ms()), (Some(109), 11));
    }

    #[test]
    fn a_record_of_an_unknown_topic_finds_its_batch_later() {
        let group = Arc::new(Unresolved::default());
        let mut placed = Delivery::of_unresolved(Arc::clone(&group), 0, 1);
        let refused = Delivery::of_unresolved(Arc::clone(&group), 1, 2);
        assert!((&mut placed).now_or_never().is_none());
        let ack = BatchAck::new(0);
        group.resolve(vec![Ok((Arc::clone(&ack), 5)), Err(Error::invalid("no such partition"))]);
        assert!((&mut placed).now_or_never().is_none());
        ack.complete(Ok(appended(7)));
        assert_eq!(placed.now_or_never().unwrap().unwrap().offset(), Some(12));
        assert!(refused.now_or_never().unwrap().is_err());
    }

    #[tokio::test]
    async fn polling_from_another_task_moves_the_waker_and_dropping_removes_it() {
        let ack = BatchAck::new(0);
        let mut delivery = Delivery::of_batch(Arc::clone(&ack), 0, 0);
        assert!((&mut delivery).now_or_never().is_none());
        let mut dropped = Delivery::of_batch(Arc::clone(&ack), 1, 0);
        assert!((&mut dropped).now_or_never().is_none());
        assert_eq!(ack.waiters.lock().places.len(), 2);
        drop(dropped);
        assert!(ack.waiters.lock().places[1].is_none());
        for _ in 0..10 {
            assert!(ack.done().now_or_never().is_none());
        }
        let waiting = tokio::spawn(delivery);
        tokio::task::yield_now().await;
        assert_eq!(ack.waiters.lock().places.len(), 2, "places are used again");
        ack.complete(Ok(appended(0)));
        waiting.await.unwrap().unwrap();
    }
}
