//! `Produce`: plain records to one topic; the broker partitions and encodes them. One result per
//! record, in order.
//!
//! Batches of one partition are appended one after the other, each after the one before was
//! answered, so that a refused one is not overtaken; partitions go side by side.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use parking_lot::Mutex;
use prost::Message;
use riverrun_proto::{
    ids::PartitionIndex,
    reason::Reason,
    record::{Codec, RecordBatch},
    rpc::v1,
};
use tokio::{sync::Notify, time::timeout};

use super::{
    admission::BytePermit,
    convert::{self, AckMode},
    core::Core,
    record_batches::{self, Place, Plan, Spread},
    status::Failure,
};
use crate::{
    clock::Instant,
    metadata::Topic,
    partition::{Acks, Append, ProduceError, ProduceSink, Produced, Ticket},
};

/// Collects the outcomes of one round.
struct Collector {
    state: Mutex<Collected>,
    done: Notify,
}

struct Collected {
    outcomes: Vec<Option<Result<Produced, ProduceError>>>,
    missing: usize,
}

/// How a call's batches are appended.
struct Manner {
    mode: AckMode,
    deadline: Instant,
    /// When the client gives up.
    time: Duration,
    /// Held until the last batch is answered, even where nobody waits for that.
    admitted: Arc<BytePermit>,
}

/// Handles one call.
pub(super) async fn produce(
    core: &Arc<Core>,
    request: v1::ProduceRequest,
    time: Duration,
) -> Result<v1::ProduceResponse, Failure> {
    let mode = convert::ack_mode(request.acks)?;
    let asked = convert::duration(request.ack_timeout.as_ref(), "ack_timeout")?;
    let list = request.records.unwrap_or_default();
    let codec = convert::codec(list.compression)?.unwrap_or(Codec::None);
    let bytes = check_records(core, &list)?;
    let named = convert::topic_ref(&request.topic, &request.topic_id)?;
    let topic = core.topic(&named, true).await?;
    let spread = spread(core, &topic, request.partition)?;
    // The records as they came, and once more as batches.
    let admitted = Arc::new(core.admit(2 * bytes, time).await?);

    let now = core.clock.now();
    let batch_bytes_max = core.topic_config(&topic).max_message_bytes.as_usize();
    let plan = core
        .decoder
        .compute(codec != Codec::None, move || {
            record_batches::plan(&list.records, spread, codec, batch_bytes_max, now)
        })
        .await?;
    let wait = core.limits.ack_timeout_for(asked).min(time);
    let manner = Manner { mode, deadline: core.clock.monotonic() + wait, time, admitted };
    let outcomes = append_all(core, &topic, &plan, &manner).await;
    let results = plan.places.iter().map(|place| {
        let outcome = match place {
            Err(refused) => Err(refused.clone()),
            Ok(place) => {
                let batch = &plan.batches[place.batch];
                match &outcomes[place.batch] {
                    Ok(produced) => {
                        Ok(record_ack(batch.partition, *place, produced.as_ref(), mode))
                    }
                    Err(failure) => Err(failure.clone()),
                }
            }
        };
        v1::RecordResult {
            outcome: Some(match outcome {
                Ok(ack) => v1::record_result::Outcome::Ack(ack),
                Err(failure) => {
                    v1::record_result::Outcome::Error(core.catalog.wire_error(&failure))
                }
            }),
        }
    });
    Ok(v1::ProduceResponse { results: results.collect() })
}

/// Whether the records can be taken; how many bytes they have.
fn check_records(core: &Core, list: &v1::RecordList) -> Result<usize, Failure> {
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
    Ok(bytes)
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

/// The outcome of each batch; `None` where the client waits for none.
async fn append_all(
    core: &Arc<Core>,
    topic: &Topic,
    plan: &Plan,
    manner: &Manner,
) -> Vec<Result<Option<Produced>, Failure>> {
    let mut outcomes: Vec<Option<Result<Option<Produced>, Failure>>> =
        vec![None; plan.batches.len()];
    let mut failed: HashMap<PartitionIndex, Failure> = HashMap::new();
    for round in 0..plan.rounds() {
        let mut sent = Vec::new();
        for (at, batch) in plan.batches.iter().enumerate() {
            if batch.round != round || batch.bytes.is_empty() {
                continue;
            }
            match failed.get(&batch.partition) {
                Some(failure) => outcomes[at] = Some(Err(failure.clone())),
                None => sent.push(at),
            }
        }
        for (at, outcome) in append_round(core, topic, plan, &sent, manner).await {
            if let Err(failure) = &outcome {
                failed.insert(plan.batches[at].partition, failure.clone());
            }
            outcomes[at] = Some(outcome);
        }
    }
    // A batch without an outcome has no records: all of them were too large.
    outcomes.into_iter().map(|outcome| outcome.unwrap_or(Ok(None))).collect()
}

async fn append_round(
    core: &Arc<Core>,
    topic: &Topic,
    plan: &Plan,
    sent: &[usize],
    manner: &Manner,
) -> Vec<(usize, Result<Option<Produced>, Failure>)> {
    let collector = Collector::new(sent.len());
    let mut refused: HashMap<usize, Failure> = HashMap::new();
    for (tag, at) in sent.iter().enumerate() {
        let sink = Arc::clone(&collector) as Arc<dyn ProduceSink>;
        let ticket = Ticket::new(sink, tag as u64, Arc::clone(&manner.admitted));
        if let Err(failure) = append_one(core, topic, plan, *at, manner, ticket) {
            refused.insert(tag, failure);
        }
    }
    if manner.mode != AckMode::None {
        // The partition answers at the deadline; this is for one that does not.
        let _ = timeout(manner.time, collector.all()).await;
    }
    let outcomes = collector.take();
    let traffic = core.catalog.traffic(&topic.name);
    sent.iter()
        .enumerate()
        .map(|(tag, at)| {
            let outcome = match (refused.remove(&tag), outcomes[tag].clone()) {
                (Some(failure), _) => Err(failure),
                (None, Some(Ok(produced))) => {
                    let records = produced.last_offset.next().distance_from(produced.base_offset);
                    traffic.observe_produced(records, plan.batches[*at].bytes.len() as u64);
                    Ok(Some(produced))
                }
                (None, Some(Err(error))) => {
                    Err(core.catalog.refine(Failure::from(error), topic.id))
                }
                (None, None) if manner.mode == AckMode::None => Ok(None),
                (None, None) => Err(ProduceError::TimedOut { appended: true }.into()),
            };
            (*at, outcome)
        })
        .collect()
}

/// Hands one batch to its partition; the ticket of a refused one is answered and not looked at.
fn append_one(
    core: &Core,
    topic: &Topic,
    plan: &Plan,
    at: usize,
    manner: &Manner,
    ticket: Ticket,
) -> Result<(), Failure> {
    let planned = &plan.batches[at];
    let partition = core.catalog.partition_of(topic, planned.partition)?;
    partition.produce(Append {
        batch: RecordBatch::validate(planned.bytes.clone())?,
        acks: match manner.mode {
            AckMode::All => Acks::All,
            AckMode::Leader | AckMode::None => Acks::Leader,
        },
        leader_epoch: None,
        deadline: manner.deadline,
        ticket,
    });
    Ok(())
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

// === impl Collector ===

impl Collector {
    fn new(tickets: usize) -> Arc<Self> {
        let state = Collected { outcomes: vec![None; tickets], missing: tickets };
        Arc::new(Self { state: Mutex::new(state), done: Notify::new() })
    }

    async fn all(&self) {
        while self.state.lock().missing > 0 {
            self.done.notified().await;
        }
    }

    fn take(&self) -> Vec<Option<Result<Produced, ProduceError>>> {
        self.state.lock().outcomes.clone()
    }
}

impl ProduceSink for Collector {
    fn complete(&self, tag: u64, outcome: Result<Produced, ProduceError>) {
        let mut state = self.state.lock();
        let slot = usize::try_from(tag).ok().and_then(|tag| state.outcomes.get_mut(tag));
        if let Some(slot) = slot {
            *slot = Some(outcome);
            state.missing -= 1;
        }
        if state.missing == 0 {
            self.done.notify_one();
        }
    }
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector").field("missing", &self.state.lock().missing).finish()
    }
}
