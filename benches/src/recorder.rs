//! What happened, counted while it happens: by many tasks, cheaply, read once a second.
//!
//! Throughput counts what was answered within the measured interval. Latencies are those of records
//! whose *start* lies in it, also when the answer came after its end: leaving those out would hide
//! the slowest.

use std::{
    fmt::Display,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use hdrhistogram::Histogram;
use parking_lot::{Mutex, MutexGuard};

use crate::{
    clock::Moment,
    outcome::{Errors, Latency, latency},
};

/// Longest latency told apart; longer ones count as this.
const LATENCY_MAX: Duration = Duration::from_secs(600);

/// Kinds of errors kept in words.
const ERRORS_KEPT: usize = 5;

/// Counters and histograms of one run.
#[derive(Debug)]
pub struct Recorder {
    produced: Counter,
    consumed: Counter,
    appended_bytes: AtomicU64,
    start: AtomicU64,
    end: AtomicU64,
    latencies: [Mutex<Histograms>; MEASURES],
    errors: AtomicU64,
    first_errors: Mutex<Vec<String>>,
}

/// Which latency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// See [`latency::ACK`].
    Ack = 0,
    /// See [`latency::END_TO_END`].
    EndToEnd = 1,
    /// See [`latency::GENERATOR_DELAY`].
    GeneratorDelay = 2,
    /// See [`latency::ROUND_TRIP`].
    RoundTrip = 3,
}

const MEASURES: usize = 4;
const ALL: [(Measure, &str); MEASURES] = [
    (Measure::Ack, latency::ACK),
    (Measure::EndToEnd, latency::END_TO_END),
    (Measure::GeneratorDelay, latency::GENERATOR_DELAY),
    (Measure::RoundTrip, latency::ROUND_TRIP),
];

/// A reading of all counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records acknowledged.
    pub produced_records: u64,
    /// Bytes of their payloads.
    pub produced_bytes: u64,
    /// Records read.
    pub consumed_records: u64,
    /// Bytes of their payloads.
    pub consumed_bytes: u64,
    /// Records that failed.
    pub errors: u64,
}

#[derive(Debug, Default)]
struct Counter {
    records: AtomicU64,
    bytes: AtomicU64,
}

/// Of one kind of latency.
#[derive(Debug)]
struct Histograms {
    /// Since the last look.
    interval: Histogram<u64>,
    /// Before it.
    total: Histogram<u64>,
}

/// For recording many at once.
#[derive(Debug)]
pub struct Recording<'a> {
    histograms: MutexGuard<'a, Histograms>,
    start: u64,
    end: u64,
}

// === impl Recorder ===

impl Recorder {
    /// Nothing yet, and nothing measured until [`Recorder::begin`].
    pub fn new() -> Self {
        Self {
            produced: Counter::default(),
            consumed: Counter::default(),
            appended_bytes: AtomicU64::new(0),
            start: AtomicU64::new(u64::MAX),
            end: AtomicU64::new(u64::MAX),
            latencies: std::array::from_fn(|_| Mutex::new(Histograms::new())),
            errors: AtomicU64::new(0),
            first_errors: Mutex::new(Vec::new()),
        }
    }

    /// The measured interval begins.
    pub fn begin(&self, at: Moment) {
        self.start.store(at.as_nanos(), Ordering::Release);
    }

    /// The measured interval ends.
    pub fn end(&self, at: Moment) {
        self.end.store(at.as_nanos(), Ordering::Release);
    }

    /// Records were acknowledged.
    pub fn produced(&self, records: u64, bytes: u64) {
        self.produced.add(records, bytes);
    }

    /// Records were read.
    pub fn consumed(&self, records: u64, bytes: u64) {
        self.consumed.add(records, bytes);
    }

    /// Batches of so many bytes were handed over or acknowledged: what the broker appends.
    pub fn appended(&self, bytes: u64) {
        self.appended_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Records failed.
    pub fn failed(&self, records: u64, why: impl Display) {
        self.errors.fetch_add(records, Ordering::Relaxed);
        let mut first = self.first_errors.lock();
        if first.len() < ERRORS_KEPT {
            let why = why.to_string();
            if !first.contains(&why) {
                first.push(why);
            }
        }
    }

    /// Takes latencies of one kind.
    pub fn record(&self, measure: Measure) -> Recording<'_> {
        Recording {
            histograms: self.latencies[measure as usize].lock(),
            start: self.start.load(Ordering::Acquire),
            end: self.end.load(Ordering::Acquire),
        }
    }

    /// All counters now.
    pub fn counts(&self) -> Counts {
        let (produced_records, produced_bytes) = self.produced.get();
        let (consumed_records, consumed_bytes) = self.consumed.get();
        let errors = self.errors.load(Ordering::Relaxed);
        Counts { produced_records, produced_bytes, consumed_records, consumed_bytes, errors }
    }

    /// Bytes of batches so far.
    pub fn appended_bytes(&self) -> u64 {
        self.appended_bytes.load(Ordering::Relaxed)
    }

    /// 99th percentile since the last call: end to end where that is measured, acknowledgements or
    /// round trips otherwise.
    pub fn interval_p99_ns(&self) -> Option<u64> {
        let mut p99 = [None; MEASURES];
        for (found, histograms) in p99.iter_mut().zip(&self.latencies) {
            let mut histograms = histograms.lock();
            if !histograms.interval.is_empty() {
                *found = Some(histograms.interval.value_at_quantile(0.99));
                histograms.close_interval();
            }
        }
        let [ack, end_to_end, _, round_trip] = p99;
        end_to_end.or(ack).or(round_trip)
    }

    /// Everything measured, by name.
    pub fn latencies(&self) -> impl Iterator<Item = (String, Latency)> {
        ALL.into_iter().filter_map(|(measure, name)| {
            let mut histograms = self.latencies[measure as usize].lock();
            histograms.close_interval();
            Latency::of(&histograms.total).map(|latency| (name.to_owned(), latency))
        })
    }

    /// What failed.
    pub fn errors(&self) -> Errors {
        Errors {
            records: self.errors.load(Ordering::Relaxed),
            first: self.first_errors.lock().clone(),
        }
    }
}

impl Default for Recorder {
    fn default() -> Self {
        Self::new()
    }
}

// === impl Recording ===

impl Recording<'_> {
    /// What started at `start` ended at `now`.
    pub fn add(&mut self, start: Moment, now: Moment) {
        let nanos = start.as_nanos();
        if (self.start..self.end).contains(&nanos) {
            let latency = now.since(start).as_nanos();
            let latency = u64::try_from(latency).unwrap_or(u64::MAX).max(1);
            self.histograms.interval.saturating_record(latency);
        }
    }
}

// === impl Counter ===

impl Counter {
    fn add(&self, records: u64, bytes: u64) {
        self.records.fetch_add(records, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn get(&self) -> (u64, u64) {
        (self.records.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}

// === impl Histograms ===

impl Histograms {
    fn new() -> Self {
        let max = u64::try_from(LATENCY_MAX.as_nanos()).expect("ten minutes in nanoseconds fit");
        let empty = Histogram::new_with_bounds(1, max, 3).expect("bounds and digits in range");
        Self { interval: empty.clone(), total: empty }
    }

    fn close_interval(&mut self) {
        self.total.add(&self.interval).expect("both have the same bounds");
        self.interval.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Moment {
        Moment::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn latencies_belong_to_the_interval_in_which_they_start() {
        let recorder = Recorder::new();
        recorder.record(Measure::Ack).add(ms(1), ms(500));
        recorder.begin(ms(10));
        for (start, end) in [(9, 400), (10, 12), (15, 19)] {
            recorder.record(Measure::Ack).add(ms(start), ms(end));
        }
        recorder.end(ms(20));
        // Started in time, answered after the end: the slowest of all, and counted.
        recorder.record(Measure::Ack).add(ms(19), ms(99));
        recorder.record(Measure::Ack).add(ms(20), ms(500));
        let all: Vec<_> = recorder.latencies().collect();
        assert_eq!(all.len(), 1);
        let (name, ack) = &all[0];
        assert_eq!((name.as_str(), ack.count), (latency::ACK, 3));
        assert!((79_900_000..80_200_000).contains(&ack.max_ns), "{ack:?}");
    }

    #[test]
    fn intervals_add_up_and_the_longest_way_is_shown() {
        let recorder = Recorder::new();
        recorder.begin(ms(0));
        assert_eq!(recorder.interval_p99_ns(), None);
        recorder.record(Measure::Ack).add(ms(1), ms(2));
        recorder.record(Measure::GeneratorDelay).add(ms(1), ms(2));
        let ack = recorder.interval_p99_ns().unwrap();
        recorder.record(Measure::Ack).add(ms(1), ms(2));
        recorder.record(Measure::EndToEnd).add(ms(1), ms(11));
        assert!(recorder.interval_p99_ns().unwrap() > 5 * ack);
        let counts: Vec<_> = recorder.latencies().map(|(_, latency)| latency.count).collect();
        assert_eq!(counts, [2, 1, 1]);
    }

    #[test]
    fn counts_and_errors_add_up() {
        let recorder = Recorder::new();
        recorder.produced(2, 20);
        recorder.produced(3, 30);
        recorder.consumed(4, 40);
        recorder.appended(100);
        for _ in 0..10 {
            recorder.failed(2, "disk full");
        }
        (0..10).for_each(|n| recorder.failed(1, n));
        let counts = recorder.counts();
        assert_eq!((counts.produced_records, counts.produced_bytes), (5, 50));
        assert_eq!((counts.consumed_records, counts.consumed_bytes), (4, 40));
        assert_eq!((counts.errors, recorder.appended_bytes()), (30, 100));
        let errors = recorder.errors();
        assert_eq!((errors.records, errors.first.len()), (30, ERRORS_KEPT));
        assert_eq!(errors.first[0], "disk full");
    }
}
