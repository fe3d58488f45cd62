//! Consumers: records through the public `Consumer`, one by one. Partitions are dealt out to them.
//!
//! A consumer of a backlog reads it to its end and begins again, until the time is over; a lap that
//! does not give as many records as were written is an error. One of a live topic reads until it has
//! as many records as were acknowledged.

use std::{sync::Arc, task::Poll, time::Duration};

use futures::{StreamExt as _, future::try_join_all, poll};
use riverrun_client::{Consumer, ConsumerRecord, Position, TopicPartition};
use tokio::{sync::watch, time::timeout};
use tokio_util::task::AbortOnDropHandle;

use super::Load;
use crate::{
    clock::Moment,
    error::{BenchError, Result},
    payload::Stamp,
    recorder::Measure,
};

/// Silence after which records that must be there count as lost.
const STALL: Duration = Duration::from_secs(30);

/// Ready records taken before it is asked whether to stop.
const RECORDS_PER_LOOK: u64 = 256;

/// Reads what is there again and again, until it is told to stop or the quota is used up.
/// `records` is how many each partition holds.
///
/// # Errors
/// A consumer fails, or finds another number of records than there must be.
pub async fn read_backlog(load: &Load, records: &[u64]) -> Result<()> {
    let reading = readers(load).map(|partitions| {
        let expected = partitions.iter().map(|partition| records[*partition as usize]).sum();
        read_laps(load.clone(), partitions, expected)
    });
    join(reading).await
}

/// Reads what is being written, until as many records were read as `written` tells in the end.
///
/// # Errors
/// A consumer fails, or records are missing for too long after the last was written.
pub async fn follow(load: &Load, written: watch::Receiver<Option<u64>>) -> Result<()> {
    join(readers(load).map(|partitions| read_live(load.clone(), partitions, written.clone()))).await
}

/// The partitions of each consumer.
fn readers(load: &Load) -> impl Iterator<Item = Vec<u32>> {
    let consumers = u32::try_from(load.workload.consumers).expect("there are at most 256");
    let partitions = load.workload.partitions;
    (0..consumers).map(move |first| (first..partitions).step_by(consumers as usize).collect())
}

async fn join<F>(reading: impl Iterator<Item = F>) -> Result<()>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let running: Vec<_> = reading.map(|task| AbortOnDropHandle::new(tokio::spawn(task))).collect();
    let ended = try_join_all(running).await;
    let ended = ended.map_err(|e| BenchError::Failed(format!("a task of the load died: {e}")))?;
    ended.into_iter().collect()
}

async fn consumer(load: &Load, partitions: &[u32]) -> Result<Consumer> {
    let from = |partition: &u32| (Arc::clone(&load.topic.name), *partition, Position::Earliest);
    let consumer = load.client.consumer().assign(partitions.iter().map(from)).build().await;
    consumer.map_err(BenchError::client("building a consumer"))
}

async fn read_laps(load: Load, partitions: Vec<u32>, expected: u64) -> Result<()> {
    let mut consumer = consumer(&load, &partitions).await?;
    let mut lap = 0;
    loop {
        let wanted = load.quota.take(RECORDS_PER_LOOK.min(expected - lap));
        if load.stop.is_told() || wanted == 0 {
            return Ok(());
        }
        let mut left = wanted;
        while left > 0 {
            let mut batch = Taken::default();
            while left > 0 {
                let Poll::Ready(next) = poll!(consumer.next()) else { break };
                batch.take(&load, next)?;
                left -= 1;
            }
            batch.count(&load);
            if left > 0 && batch.records == 0 {
                let next = tokio::select! {
                    next = timeout(STALL, consumer.next()) => next,
                    () = load.stop.told() => return Ok(()),
                };
                let next = next.map_err(|_| missing(expected - lap))?;
                let mut one = Taken::default();
                one.take(&load, next)?;
                one.count(&load);
                left -= 1;
            }
        }
        lap += wanted;
        if lap == expected {
            lap = 0;
            for partition in &partitions {
                let partition = TopicPartition::new(Arc::clone(&load.topic.name), *partition);
                consumer
                    .seek(partition, Position::Earliest)
                    .map_err(BenchError::client("seeking to the beginning"))?;
            }
        }
    }
}

async fn read_live(
    load: Load,
    partitions: Vec<u32>,
    mut written: watch::Receiver<Option<u64>>,
) -> Result<()> {
    let mut consumer = consumer(&load, &partitions).await?;
    loop {
        let mut batch = Taken::default();
        while batch.records < RECORDS_PER_LOOK {
            let Poll::Ready(next) = poll!(consumer.next()) else { break };
            batch.take(&load, next)?;
        }
        batch.count(&load);
        let end = *written.borrow_and_update();
        let read = load.recorder.counts().consumed_records;
        if end.is_some_and(|end| read >= end) {
            return Ok(());
        }
        if batch.records > 0 {
            continue;
        }
        let next = tokio::select! {
            next = timeout(STALL, consumer.next()) => next,
            // Also when another consumer has read the last.
            _ = written.changed() => continue,
            () = tokio::time::sleep(Duration::from_millis(100)), if end.is_some() => continue,
        };
        match (next, end) {
            (Ok(next), _) => {
                let mut one = Taken::default();
                one.take(&load, next)?;
                one.count(&load);
            }
            // Nothing to read may only mean that nothing is written.
            (Err(_), None) => {}
            (Err(_), Some(end)) => return Err(missing(end - read)),
        }
    }
}

fn missing(records: u64) -> BenchError {
    BenchError::Failed(format!(
        "no record came for {STALL:?}, {records} must be there: they are lost or the broker hangs"
    ))
}

/// Records taken since the last count.
#[derive(Default)]
struct Taken {
    records: u64,
    bytes: u64,
}

// === impl Taken ===

impl Taken {
    fn take(
        &mut self,
        load: &Load,
        next: Option<riverrun_client::Result<ConsumerRecord>>,
    ) -> Result<()> {
        let Some(record) = next else {
            return Err(BenchError::Failed("the consumer ended by itself".into()));
        };
        let record = record.map_err(BenchError::client("reading"))?;
        let value = record.value().unwrap_or_default();
        self.records += 1;
        self.bytes += value.len() as u64;
        if load.workload.stamps()
            && let Some(stamp) = Stamp::read(value)
        {
            load.recorder.record(Measure::EndToEnd).add(stamp.intended, Moment::now());
        }
        Ok(())
    }

    fn count(&self, load: &Load) {
        if self.records > 0 {
            load.recorder.consumed(self.records, self.bytes);
        }
    }
}
