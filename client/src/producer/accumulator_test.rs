//! Size, linger and Nagle's rule, as tables; order and conservation, as a property.

use proptest::prelude::*;

use super::*;
use crate::{clock, error::ErrorKind, producer::budget::Budget};

const LINGER: Duration = Duration::from_millis(5);

struct Fixture {
    accumulator: Accumulator,
    budget: Arc<Budget>,
    start: Instant,
}

impl Fixture {
    fn new(batch_bytes: usize) -> Self {
        let options =
            BatchOptions { size_budget: batch_bytes, bytes_max: 4_000, ..BatchOptions::default() };
        Self {
            accumulator: Accumulator::new(7, options, LINGER, BufferPool::new()),
            budget: Budget::new(1 << 20),
            start: clock::now(),
        }
    }

    fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    fn append(&mut self, value_bytes: usize, ms: u64) -> Result<Placed, Refused> {
        let record = Record::to("t").value(vec![b'x'; value_bytes]);
        let charge = self.budget.try_take(record.size()).unwrap();
        let now = self.at(ms);
        self.accumulator.append(&record, Timestamp::from_millis(1), charge, || now)
    }

    fn take(&mut self, ms: u64) -> Option<u32> {
        let now = self.at(ms);
        self.accumulator.take(now).map(|batch| batch.builder.record_count())
    }
}

#[test]
fn an_idle_partition_sends_at_once_and_a_busy_one_lingers() {
    let mut it = Fixture::new(1_000);
    assert_eq!(it.accumulator.due(), Due::Never);
    assert!(it.append(10, 0).unwrap().wake);
    assert!(!it.append(10, 0).unwrap().wake);
    assert_eq!(it.accumulator.due(), Due::Now);
    assert_eq!(it.take(0), Some(2));

    assert!(it.append(10, 1).unwrap().wake);
    assert_eq!(it.accumulator.due(), Due::At(it.at(6)));
    assert_eq!(it.take(5), None);
    assert_eq!(it.take(6), Some(1), "linger is over though two are in flight");

    it.append(10, 7).unwrap();
    it.accumulator.answered();
    assert_eq!(it.take(8), None, "one is still in flight");
    it.accumulator.answered();
    assert_eq!(it.take(8), Some(1), "nothing is in flight any more");
}

#[test]
fn a_full_batch_does_not_linger_and_the_record_goes_to_the_next() {
    let mut it = Fixture::new(300);
    it.append(10, 0).unwrap();
    assert_eq!(it.take(0), Some(1));
    it.append(100, 0).unwrap();
    it.append(100, 0).unwrap();
    let placed = it.append(100, 0).unwrap();
    assert!(placed.wake, "a batch got full");
    assert_eq!(placed.index, 0, "the first of the next one");
    assert_eq!(it.take(0), Some(2));
    assert_eq!(it.take(0), None);
    assert_eq!(it.take(5), Some(1));
}

#[test]
fn a_record_above_the_batch_size_has_a_batch_to_itself_and_one_above_the_limit_none() {
    let mut it = Fixture::new(300);
    it.append(10, 0).unwrap();
    it.append(2_000, 0).unwrap();
    it.append(10, 0).unwrap();
    match it.append(4_000, 0) {
        Err(Refused::TooLarge { bytes, max: 4_000 }) => assert!(bytes > 4_000),
        other => panic!("{other:?}"),
    }
    assert_eq!([it.take(0), it.take(0), it.take(9)], [Some(1), Some(1), Some(1)]);
    drop(it.accumulator);
    assert_eq!(it.budget.used(), 0, "the refused record's charge came back as well");
}

#[test]
fn a_flush_makes_the_open_batch_due_once() {
    let mut it = Fixture::new(1_000);
    assert!(it.accumulator.flush().is_none());
    it.append(10, 0).unwrap();
    assert_eq!(it.take(0), Some(1));
    it.append(10, 0).unwrap();
    assert!(it.accumulator.flush().is_some());
    assert_eq!(it.take(0), Some(1));
    it.append(10, 0).unwrap();
    assert_eq!(it.take(0), None, "the flush is over");
    let ack = it.accumulator.flush().unwrap();
    ack.complete(Err(Error::closed("producer")));
    assert!(it.accumulator.flush().is_none(), "all is answered");
}

#[test]
fn what_waited_too_long_comes_out_oldest_first() {
    let mut it = Fixture::new(300);
    for ms in 0..4 {
        it.append(200, ms).unwrap();
    }
    let start = it.start;
    assert_eq!(it.accumulator.expire(start).len(), 0);
    let second = it.at(2);
    assert_eq!(it.accumulator.expire(second).len(), 2);
    let end = it.at(100);
    assert_eq!(it.accumulator.expire(end).len(), 2);
    assert!(it.accumulator.is_empty());
}

#[test]
fn a_closed_partition_gives_the_charge_back() {
    let mut it = Fixture::new(300);
    it.append(10, 0).unwrap();
    assert_eq!(it.accumulator.close(Error::closed("producer")).len(), 1);
    match it.append(10, 0) {
        Err(Refused::Closed(charge, error)) => {
            assert!(charge.bytes() > 0);
            assert_eq!(error.kind(), ErrorKind::Closed);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(it.budget.used(), 0);
}

proptest! {
    /// Whatever the sizes and times: each record is in exactly one batch, batches come out in
    /// order, and the budget is whole again in the end.
    #[test]
    fn every_record_comes_out_once_in_order(
        steps in prop::collection::vec((0_usize..500, 0_u64..10, any::<bool>()), 1..80),
    ) {
        let mut it = Fixture::new(600);
        let mut placed: Vec<(Arc<BatchAck>, u32)> = Vec::new();
        let mut taken: Vec<(Arc<BatchAck>, u32)> = Vec::new();
        let mut ms = 0;
        for (bytes, wait, take) in steps {
            ms += wait;
            let place = it.append(bytes, ms).unwrap();
            placed.push((place.ack, place.index));
            while take && let Some(batch) = it.accumulator.take(it.start + Duration::from_millis(ms)) {
                taken.extend((0..batch.builder.record_count()).map(|i| (Arc::clone(&batch.ack), i)));
            }
        }
        for batch in it.accumulator.close(Error::closed("producer")) {
            taken.extend((0..batch.builder.record_count()).map(|i| (Arc::clone(&batch.ack), i)));
        }
        prop_assert_eq!(taken.len(), placed.len());
        for (a, b) in taken.iter().zip(&placed) {
            prop_assert!(Arc::ptr_eq(&a.0, &b.0) && a.1 == b.1);
        }
        prop_assert_eq!(it.budget.used(), 0);
    }
}
