//! Producers and one consumer at full speed, and what they count.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use futures::{StreamExt as _, future::join_all};
use parking_lot::Mutex;
use riverrun_client::{Client, Compression, Delivery, Position, Record};
use tokio::sync::mpsc;

use super::SAMPLE;

/// Bytes of a value.
const VALUE_BYTES: usize = 1024;
/// Each has 32 batches of 64 KiB on their way at most: together, more than the 64 MiB that a leader lets
/// followers be behind by default. Not compressed: these values would shrink to a hundredth, and with them
/// what is on its way.
const PRODUCERS: usize = 48;
/// Memory of each: the batches on their way, and as many that wait.
const BUFFER_BYTES: usize = 4 << 20;
/// Records of each on their way, whose answers are looked at in order.
const IN_FLIGHT_MAX: usize = 4 * 1024;

/// What the load counts.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Of values that were acknowledged.
    pub(super) acked_bytes: AtomicU64,
    /// Of values that the consumer was given.
    pub(super) consumed_bytes: AtomicU64,
    /// Records that were not acknowledged.
    pub(super) failed: AtomicU64,
    /// Nothing more is sent.
    pub(super) stop: AtomicBool,
    /// Why the first of them was not.
    pub(super) first_error: Mutex<Option<String>>,
}

/// What came between two counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sample {
    /// Acknowledged to the producer.
    pub(super) acked: u64,
    /// Given to the consumer.
    pub(super) consumed: u64,
}

// === impl Counters ===

impl Counters {
    /// All so far.
    pub(super) fn total(&self) -> Sample {
        Sample {
            acked: self.acked_bytes.load(Ordering::Relaxed),
            consumed: self.consumed_bytes.load(Ordering::Relaxed),
        }
    }
}

// === impl Sample ===

impl Sample {
    /// What came to it since `earlier`.
    pub(super) fn since(self, earlier: Self) -> Self {
        Self { acked: self.acked - earlier.acked, consumed: self.consumed - earlier.consumed }
    }
}

/// Bytes per second over samples; zero of none.
pub(super) fn rate(samples: &[Sample], of: fn(&Sample) -> u64) -> f64 {
    let seconds = SAMPLE.as_secs_f64() * samples.len().max(1) as f64;
    samples.iter().map(of).sum::<u64>() as f64 / seconds
}

/// Those in which less than half of `usual` came.
pub(super) fn slow(samples: &[Sample], usual: f64, of: fn(&Sample) -> u64) -> Vec<Sample> {
    samples.iter().filter(|sample| rate(&[**sample], of) < usual / 2.0).copied().collect()
}

/// Writes until it is told to stop, and until all is answered.
pub(super) async fn produce(client: Client, topic: String, counters: Arc<Counters>) {
    let one = || produce_one(&client, &topic, &counters);
    join_all((0..PRODUCERS).map(|_| one())).await;
}

async fn produce_one(client: &Client, topic: &str, counters: &Counters) {
    let settings = client.producer().compression(Compression::None).buffer_memory(BUFFER_BYTES);
    let building = settings.build().await;
    let producer = match building {
        Ok(producer) => producer,
        Err(error) => {
            counters.failed.fetch_add(1, Ordering::SeqCst);
            counters.first_error.lock().get_or_insert_with(|| error.to_string());
            return;
        }
    };
    let (sent, mut answers) = mpsc::channel::<Delivery>(IN_FLIGHT_MAX);
    let answering = async {
        while let Some(delivery) = answers.recv().await {
            match delivery.await {
                Ok(_) => _ = counters.acked_bytes.fetch_add(VALUE_BYTES as u64, Ordering::Relaxed),
                Err(error) => {
                    counters.failed.fetch_add(1, Ordering::SeqCst);
                    counters.first_error.lock().get_or_insert_with(|| error.to_string());
                }
            }
        }
    };
    let sending = async {
        let value = bytes::Bytes::from(vec![7; VALUE_BYTES]);
        while !counters.stop.load(Ordering::SeqCst) {
            let record = Record::to(topic).value(value.clone());
            let Ok(delivery) = producer.send(record).await else { break };
            if sent.send(delivery).await.is_err() {
                break;
            }
        }
        drop(sent);
    };
    tokio::join!(answering, sending);
}

/// Reads from the beginning.
pub(super) async fn consume(client: Client, topic: String, counters: Arc<Counters>) {
    let consumer = client.consumer().assign_all(topic.as_str(), Position::Earliest).build().await;
    let Ok(mut consumer) = consumer else { return };
    while let Some(Ok(record)) = consumer.next().await {
        let bytes = record.value().map_or(0, <[u8]>::len);
        counters.consumed_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_is_less_than_half_of_what_is_usual() {
        let of = |acked: u64| Sample { acked, consumed: 0 };
        let samples = [100, 49, 0, 50, 51].map(of);
        assert_eq!(rate(&samples, |s| s.acked).to_bits(), 200.0f64.to_bits());
        assert_eq!(rate(&[], |s| s.acked).to_bits(), 0.0f64.to_bits());
        assert_eq!(slow(&samples, 400.0, |s| s.acked), [samples[1], samples[2]]);
        assert_eq!(samples[1].since(samples[2]).acked, 49);
    }
}
