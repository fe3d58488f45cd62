//! `Produce`: plain records to one topic; the broker partitions and encodes them. One result per
//! record, in order.
//!
//! Each partition's records go their own way: admitted, encoded, appended batch after batch, each
//! after the one before was answered, so that a refused one is not overtaken. Partitions go side by
//! side; one that hangs keeps only its own records waiting.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::join_all;
use parking_lot::Mutex;
use prost::Message;
use riverrun_proto::{
    ids::{BrokerId, PartitionIndex},
    reason::Reason,
    record::{Codec, RecordBatch},
    rpc::v1,
};
use tokio::{sync::Notify, time::timeout};
use v1::{produce_service_client::ProduceServiceClient, record_result::Outcome as Told};

use super::{
    convert::{self, AckMode, PartitionRef, TopicRef},
    core::Core,
    forward::marked,
    record_batches::{self, Group, Place, Spread},
    shares::Admitted,
    status::Failure,
};
use crate::{
    clock::Instant,
    metadata::Topic,
    partition::{Acks, Append, Partition, ProduceError, ProduceSink, Produced, Ticket},
};

/// What a record costs besides its bytes while it waits to be encoded.
const RECORD_OVERHEAD_BYTES: usize = size_of::<v1::Record>();

/// One call, as far as all its partitions share it.
struct Call<'a> {
    core: &'a Arc<Core>,
    topic: &'a Arc<Topic>,
    mode: AckMode,
    codec: Codec,
    /// Both as the client said it.
    acks: i32,
    compression: i32,
    /// How long to wait for replicas and disk.
    ack_timeout: Duration,
    /// When the client gives up.
    ends: Instant,
    /// What other brokers lead is passed on to them.
    forwards: bool,
}

/// What became of one record that was written here.
type RecordOutcome = Result<v1::RecordAck, Failure>;

/// Takes the outcome of one batch.
#[derive(Default)]
struct Answer {
    outcome: Mutex<Option<Result<Produced, ProduceError>>>,
    done: Notify,
}

/// Handles one call.
pub(super) async fn produce(
    core: &Arc<Core>,
    request: v1::ProduceRequest,
    time: Duration,
    forwards: bool,
) -> Result<v1::ProduceResponse, Failure> {
    let ends = core.clock.monotonic() + time;
    let mode = convert::ack_mode(request.acks)?;
    let asked = convert::duration(request.ack_timeout.as_ref(), "ack_timeout")?;
    let list = request.records.unwrap_or_default();
    let codec = convert::codec(list.compression)?.unwrap_or(Codec::None);
    check_records(core, &list)?;
    let named = convert::topic_ref(&request.topic, &request.topic_id)?;
    match request.partition {
        Some(partition) => {
            let named = PartitionRef { topic: named.clone(), partition };
            if !core.catalog.knows(&named) {
                core.catch_up().await;
            }
        }
        None => core.hear_of_topics([named.clone()]).await,
    }
    let topic = core.topic(&named, true).await?;
    let spread = spread(core, &topic, request.partition)?;

    let ack_timeout = core.limits.ack_timeout_for(asked);
    let (acks, compression) = (request.acks, list.compression);
    let call =
        Call { core, topic: &topic, mode, codec, acks, compression, ack_timeout, ends, forwards };
    let records = list.records.len();
    let groups = spread.groups(list.records).into_iter();
    let written = join_all(groups.map(|(partition, group)| call.write(partition, group))).await;

    // Nothing was even admitted: that is an answer to the call.
    if let Some(failure) = written.iter().map(|w| w.as_ref().err()).collect::<Option<Vec<_>>>() {
        let (_, failure) = failure.first().expect("there is a record, hence a group");
        return Err(failure.clone());
    }
    let mut results = vec![v1::RecordResult::default(); records];
    for group in written {
        let outcomes: Vec<(usize, Told)> = match group {
            Ok(outcomes) => outcomes,
            Err((at, failure)) => {
                let error = Told::Error(core.catalog.wire_error(&failure));
                at.into_iter().map(|at| (at, error.clone())).collect()
            }
        };
        for (at, outcome) in outcomes {
            results[at].outcome = Some(outcome);
        }
    }
    Ok(v1::ProduceResponse { results })
}

/// Whether the records can be taken.
fn check_records(core: &Core, list: &v1::RecordList) -> Result<(), Failure> {
    let limits = &core.limits;
    if list.records.is_empty() {
        let message = "there are no records: an empty batch cannot be written";
        return Err(Failure::new(Reason::InvalidRecord, message).at_field("records"));
    }
    if list.records.len() > limits.unary_records_max {
        let message = format!(
            "{} records in one call; at most {}: send several calls, or use ProduceStream",
            list.records.len(),
            limits.unary_records_max
        );
        return Err(Failure::new(Reason::MessageTooLarge, message).at_field("records"));
    }
    let bytes = list.encoded_len();
    // Up to the limit in what users write; what encoding adds is on the house.
    let max = limits.unary_bytes_max + limits.unary_bytes_max / 16;
    if bytes > max {
        return Err(Failure::unary_too_large(bytes, limits.unary_bytes_max));
    }
    if list.records.iter().any(|record| record.idempotency_key.is_some()) {
        return Err(Failure::unsupported(
            "idempotency keys do not exist in this version: leave idempotency_key out, or use \
             ProduceStream with a producer id",
        )
        .at_field("records.idempotency_key"));
    }
    Ok(())
}

fn spread(core: &Core, topic: &Topic, partition: Option<i32>) -> Result<Spread, Failure> {
    let partitions = topic.partition_count();
    match partition {
        Some(partition) => core.catalog.index_of(topic, partition).map(Spread::To),
        None => Ok(Spread::ByKey {
            partitions,
            keyless: PartitionIndex::new(core.next_turn() % partitions)
                .expect("below the number of partitions"),
        }),
    }
}

// === impl Call ===

impl Call<'_> {
    /// Has the records of one partition written, here or by whoever leads it. The outcome of each
    /// by its place in the request, or which they are and why none was admitted.
    async fn write(
        &self,
        partition: PartitionIndex,
        group: Group,
    ) -> Result<Vec<(usize, Told)>, (Vec<usize>, Failure)> {
        let topic = TopicRef { id: Some(self.topic.id), name: None };
        let named = PartitionRef { topic, partition: partition.to_wire() };
        if self.forwards
            && let Some(leader) = self.core.catalog.led_elsewhere(&named)
        {
            return Ok(self.pass_on(leader, partition, group).await);
        }
        let told = |outcome: RecordOutcome| match outcome {
            Ok(ack) => Told::Ack(ack),
            Err(failure) => Told::Error(self.core.catalog.wire_error(&failure)),
        };
        let written = self.write_here(partition, group).await?;
        Ok(written.into_iter().map(|(at, outcome)| (at, told(outcome))).collect())
    }

    /// Has another broker write the records. What it says of each is handed on as it is.
    async fn pass_on(
        &self,
        leader: BrokerId,
        partition: PartitionIndex,
        group: Group,
    ) -> Vec<(usize, Told)> {
        let Group { records, at } = group;
        let refused = |error: v1::Error| {
            at.iter().map(|at| (*at, Told::Error(error.clone()))).collect::<Vec<_>>()
        };
        let forwarder = &self.core.forwarder;
        let passage = match forwarder.to(leader).await {
            Ok(passage) => passage,
            Err(failure) => return refused(self.core.catalog.wire_error(&failure)),
        };
        let request = v1::ProduceRequest {
            topic: self.topic.name.to_string(),
            topic_id: convert::wire_topic_id(self.topic.id),
            partition: Some(partition.to_wire()),
            records: Some(v1::RecordList { records, compression: self.compression }),
            acks: self.acks,
            ack_timeout: Some(convert::wire_duration(self.ack_timeout)),
        };
        let mut client = ProduceServiceClient::new(passage.channel.clone());
        match client.produce(marked(request, Some(self.time_left()))).await {
            Ok(answer) => {
                let silent = || {
                    let message = "the leader did not say what became of the record";
                    let failure = Failure::timed_out(message).indefinite();
                    Told::Error(self.core.catalog.wire_error(&failure))
                };
                let told = answer.into_inner().results.into_iter().map(|result| result.outcome);
                let told = told.chain(std::iter::repeat(None));
                at.iter().zip(told).map(|(at, told)| (*at, told.unwrap_or_else(silent))).collect()
            }
            Err(status) => refused(forwarder.error_of(leader, &status)),
        }
    }

    /// As [`Call::write`], by this broker.
    async fn write_here(
        &self,
        partition: PartitionIndex,
        group: Group,
    ) -> Result<BTreeMap<usize, RecordOutcome>, (Vec<usize>, Failure)> {
        let Group { records, at } = group;
        let found = match self.core.catalog.partition_of(self.topic, partition) {
            Ok(found) => found,
            Err(failure) => {
                return Ok(at.into_iter().map(|at| (at, Err(failure.clone()))).collect());
            }
        };
        // The records as they came, and once more as batches.
        let bytes: usize = records.iter().map(Message::encoded_len).sum();
        let bytes = 2 * bytes + records.len() * RECORD_OVERHEAD_BYTES;
        let admitted = match self.core.admit(&found, bytes, self.time_left()).await {
            Ok(admitted) => Arc::new(admitted),
            Err(failure) => return Err((at, failure)),
        };
        let outcomes = match self.append(partition, &found, records, &admitted).await {
            Ok(outcomes) => outcomes,
            Err(failure) => at.iter().map(|_| Err(failure.clone())).collect(),
        };
        Ok(at.into_iter().zip(outcomes).collect())
    }

    /// Encodes and appends. One outcome per record, in order.
    async fn append(
        &self,
        index: PartitionIndex,
        partition: &Arc<Partition>,
        records: Vec<v1::Record>,
        admitted: &Arc<Admitted>,
    ) -> Result<Vec<RecordOutcome>, Failure> {
        let (codec, now) = (self.codec, self.core.clock.now());
        let bytes_max = self.core.topic_config(self.topic).max_message_bytes.as_usize();
        let plan = self
            .core
            .decoder
            .compute(codec != Codec::None, move || {
                record_batches::plan(&records, codec, bytes_max, now)
            })
            .await?;
        let mut written = Vec::with_capacity(plan.batches.len());
        for batch in plan.batches {
            let outcome = match written.last() {
                Some(Err(failure)) => Err(Failure::clone(failure)),
                _ => self.append_one(partition, batch, admitted).await,
            };
            written.push(outcome);
        }
        let outcome = |place: Result<Place, Failure>| {
            let place = place?;
            let produced = written[place.batch].as_ref().map_err(Failure::clone)?;
            Ok(record_ack(index, place, produced.as_ref(), self.mode))
        };
        Ok(plan.places.into_iter().map(outcome).collect())
    }

    /// The outcome of one batch; `None` where the client waits for none.
    async fn append_one(
        &self,
        partition: &Arc<Partition>,
        bytes: Bytes,
        admitted: &Arc<Admitted>,
    ) -> Result<Option<Produced>, Failure> {
        let answer = Arc::new(Answer::default());
        let size = bytes.len() as u64;
        let time = self.time_left();
        partition.produce(Append {
            batch: RecordBatch::validate(bytes)?,
            acks: match self.mode {
                AckMode::All => Acks::All,
                AckMode::Leader | AckMode::None => Acks::Leader,
            },
            leader_epoch: None,
            deadline: self.core.clock.monotonic() + self.ack_timeout.min(time),
            // Held until it is answered, even where nobody waits for that.
            ticket: Ticket::new(
                Arc::clone(&answer) as Arc<dyn ProduceSink>,
                0,
                Arc::clone(admitted),
            ),
        });
        if self.mode != AckMode::None {
            // The partition answers at the deadline; this is for one that does not.
            let _ = timeout(time, answer.done.notified()).await;
        }
        let outcome = answer.outcome.lock().take();
        match outcome {
            Some(Ok(produced)) => {
                if !produced.duplicate {
                    let records = produced.last_offset.next().distance_from(produced.base_offset);
                    self.core.catalog.traffic(&self.topic.name).observe_produced(records, size);
                }
                Ok(Some(produced))
            }
            Some(Err(error)) => Err(self.core.catalog.refine(Failure::from(error), self.topic.id)),
            None if self.mode == AckMode::None => Ok(None),
            None => Err(ProduceError::TimedOut { appended: true }.into()),
        }
    }

    fn time_left(&self) -> Duration {
        self.ends.duration_since(self.core.clock.monotonic())
    }
}

fn record_ack(
    partition: PartitionIndex,
    place: Place,
    produced: Option<&Produced>,
    mode: AckMode,
) -> v1::RecordAck {
    let told = produced.filter(|_| mode != AckMode::None);
    let offset = told.and_then(|p| p.base_offset.checked_add(place.index.into()));
    let time = told.map(|p| p.log_append_time.unwrap_or(place.timestamp));
    v1::RecordAck {
        partition: partition.to_wire(),
        offset: offset.map(|offset| offset.get()),
        timestamp_ms: time.map(|time| time.as_millis()),
        duplicate: told.is_some_and(|p| p.duplicate),
        durability: told
            .map_or(v1::Durability::Unspecified, |p| convert::wire_durability(p.durability))
            .into(),
        replicas: told.map_or(0, |p| p.replicas),
    }
}

// === impl Answer ===

impl ProduceSink for Answer {
    fn complete(&self, _: u64, outcome: Result<Produced, ProduceError>) {
        *self.outcome.lock() = Some(outcome);
        self.done.notify_one();
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("outcome", &self.outcome.lock().is_some())
            .finish_non_exhaustive()
    }
}
