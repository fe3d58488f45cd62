//! `FetchStream`: byte credit out, batches in.

use std::{collections::HashMap, fmt, time::Duration};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream::BoxStream};
use riverrun_proto::{
    ids::{BrokerId, TopicId},
    limits,
    rpc::v1::{
        self, consume_service_client::ConsumeServiceClient, fetch_stream_request::Request,
        fetch_stream_response::Response, partition_data::Outcome,
    },
};
use tonic::Status;

use super::{
    Connections, Use, convert,
    outbox::{Outbox, Pull},
    status,
};
use crate::{
    address::Address,
    error::{Error, Result},
};

/// What a stream is opened with.
#[derive(Clone, Debug)]
pub(crate) struct FetchSetup {
    pub(crate) partitions: Vec<FetchFrom>,
    pub(crate) credit_bytes: u64,
    pub(crate) min_bytes: u32,
    pub(crate) max_wait: Duration,
    pub(crate) read_committed: bool,
    /// Where the reader is; empty: nowhere in particular, and leaders are read from.
    pub(crate) rack: String,
}

/// A partition and where to read it from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FetchFrom {
    pub(crate) topic: TopicId,
    pub(crate) partition: u32,
    pub(crate) offset: i64,
    pub(crate) leader_epoch: Option<i32>,
    pub(crate) last_read_epoch: Option<i32>,
    pub(crate) max_bytes: u32,
    /// Whoever leads is not to name a replica nearby.
    pub(crate) no_redirect: bool,
}

/// Partitions to add or move, and to let go of. Data before the broker's echo of `generation` is
/// from the old places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FetchUpdate {
    pub(crate) generation: u64,
    pub(crate) set: Vec<FetchFrom>,
    pub(crate) remove: Vec<(TopicId, u32)>,
}

/// What the broker says on the stream.
#[derive(Debug)]
pub(crate) enum FetchEvent {
    Data(Vec<FetchedPartition>),
    /// All updates up to this generation are in force.
    Updated(u64),
    Control {
        reconnect: bool,
    },
    Heartbeat,
}

/// What one partition gave.
#[derive(Debug)]
pub(crate) struct FetchedPartition {
    pub(crate) topic: TopicId,
    pub(crate) partition: u32,
    pub(crate) outcome: FetchOutcome,
    pub(crate) next_offset: Option<i64>,
    pub(crate) high_watermark: Option<i64>,
    pub(crate) log_start_offset: Option<i64>,
    pub(crate) caught_up: bool,
    pub(crate) credit_bytes: u64,
    /// The cluster has not heard this leader lately: another may have more.
    pub(crate) others_may_lead: bool,
}

/// Batches, or why there are none.
#[derive(Debug)]
pub(crate) enum FetchOutcome {
    /// May be none: the offsets beside it are news by themselves.
    Batches(Vec<Bytes>),
    Error(Error),
    /// The log ends where this epoch ends, below what was read.
    Diverging {
        leader_epoch: i32,
        end_offset: i64,
    },
    /// There is a replica nearby to read from.
    Elsewhere {
        broker: BrokerId,
        /// `None`: it has none that can be dialled.
        address: Option<Address>,
    },
}

/// An open stream: the way in.
pub(crate) struct FetchLink(Outbox<Changes>);

/// Coalesced: however long the transport does not pull, there is one change per partition and one
/// sum of credit.
struct Changes {
    open: Option<v1::FetchStreamOpen>,
    credit_bytes: u64,
    generation: u64,
    set: HashMap<(TopicId, u32), Option<FetchFrom>>,
}

// === impl FetchLink ===

impl FetchLink {
    /// Lets the broker push more.
    pub(crate) fn credit(&self, bytes: u64) {
        self.0.with(|changes| changes.credit_bytes += bytes);
    }

    /// Moves, adds and removes partitions.
    pub(crate) fn update(&self, update: FetchUpdate) {
        self.0.with(|changes| {
            changes.generation = update.generation;
            for from in update.set {
                changes.set.insert((from.topic, from.partition), Some(from));
            }
            changes.set.extend(update.remove.into_iter().map(|key| (key, None)));
        });
    }
}

impl fmt::Debug for FetchLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FetchLink").finish_non_exhaustive()
    }
}

impl Pull for Changes {
    type Message = v1::FetchStreamRequest;

    fn pull(&mut self) -> Option<v1::FetchStreamRequest> {
        let request = if let Some(open) = self.open.take() {
            Request::Open(open)
        } else if !self.set.is_empty() {
            let mut update =
                v1::UpdatePartitions { generation: self.generation, ..Default::default() };
            for ((topic, partition), from) in self.set.drain() {
                match from {
                    Some(from) => update.set.push(from_to_wire(from)),
                    None => update.remove.push(partition_to_wire(topic, partition)),
                }
            }
            Request::Update(update)
        } else if self.credit_bytes > 0 {
            Request::Credit(v1::Credit { bytes: std::mem::take(&mut self.credit_bytes) })
        } else {
            return None;
        };
        Some(v1::FetchStreamRequest { request: Some(request) })
    }
}

impl Connections {
    /// Opens a stream of the partitions in `setup` from the broker at `address`.
    ///
    /// Cancel safe: a dropped call leaves at most a stream that the broker sees closed.
    pub(crate) async fn fetch_stream(
        &self,
        address: &Address,
        setup: FetchSetup,
    ) -> Result<(FetchLink, BoxStream<'static, Result<FetchEvent>>)> {
        let isolation = if setup.read_committed {
            v1::IsolationLevel::ReadCommitted
        } else {
            v1::IsolationLevel::ReadUncommitted
        };
        let open = v1::FetchStreamOpen {
            partitions: setup.partitions.into_iter().map(from_to_wire).collect(),
            format: v1::ReadFormat::Encoded.into(),
            isolation: isolation.into(),
            client_rack: setup.rack,
            max_response_bytes: 0,
            min_bytes: setup.min_bytes,
            max_wait: convert::duration(setup.max_wait),
            initial_credit_bytes: Some(setup.credit_bytes),
        };
        let (outbox, pulled) = Outbox::new(Changes {
            open: Some(open),
            credit_bytes: 0,
            generation: 0,
            set: HashMap::new(),
        });
        let mut client = ConsumeServiceClient::new(self.channel(address, Use::Data)?)
            .max_decoding_message_size(limits::GRPC_DECODE_BYTES_MAX);
        let opening = async { Ok(client.fetch_stream(pulled).await?.into_inner()) };
        let answers = self.bounded(address, "opening a fetch stream", opening).await?;
        Ok((FetchLink(outbox), events(answers).boxed()))
    }
}

fn from_to_wire(from: FetchFrom) -> v1::PartitionFrom {
    v1::PartitionFrom {
        partition: Some(partition_to_wire(from.topic, from.partition)),
        start: Some(v1::ReadFrom { at: Some(v1::read_from::At::Offset(from.offset)) }),
        leader_epoch: from.leader_epoch,
        max_bytes: from.max_bytes,
        last_read_epoch: from.last_read_epoch,
        no_redirect: from.no_redirect,
    }
}

fn partition_to_wire(topic: TopicId, partition: u32) -> v1::TopicPartition {
    v1::TopicPartition {
        topic: String::new(),
        topic_id: convert::topic_id_bytes(topic),
        partition: partition.cast_signed(),
    }
}

fn events(
    answers: impl Stream<Item = Result<v1::FetchStreamResponse, Status>> + Send + 'static,
) -> impl Stream<Item = Result<FetchEvent>> + Send + 'static {
    answers.filter_map(|answer| async {
        let answer = match answer {
            Ok(answer) => answer,
            Err(status) => return Some(Err(status::to_error(&status))),
        };
        Some(match answer.response? {
            Response::Data(list) => list
                .items
                .into_iter()
                .map(partition_from_wire)
                .collect::<Result<Vec<_>>>()
                .map(FetchEvent::Data),
            Response::Updated(updated) => Ok(FetchEvent::Updated(updated.generation)),
            Response::Control(control) => Ok(FetchEvent::Control { reconnect: control.reconnect }),
            Response::Heartbeat(_) => Ok(FetchEvent::Heartbeat),
        })
    })
}

fn partition_from_wire(data: v1::PartitionData) -> Result<FetchedPartition> {
    let place = data
        .partition
        .ok_or_else(|| Error::protocol("the broker sent data of no partition").retriable(true))?;
    let outcome = match data.outcome {
        Some(Outcome::Batches(batches)) => FetchOutcome::Batches(batches.batches),
        None => match data.preferred_read_replica {
            Some(replica) => FetchOutcome::Elsewhere {
                broker: BrokerId(replica.broker_id),
                address: u16::try_from(replica.port)
                    .ok()
                    .and_then(|port| Address::new(&replica.host, port).ok()),
            },
            None => FetchOutcome::Batches(Vec::new()),
        },
        Some(Outcome::Error(error)) => {
            FetchOutcome::Error(status::from_wire(error).with_next_offset(data.next_offset))
        }
        Some(Outcome::Diverging(diverging)) => FetchOutcome::Diverging {
            leader_epoch: diverging.leader_epoch,
            end_offset: diverging.end_offset,
        },
        Some(Outcome::Records(_)) => {
            return Err(Error::protocol("the broker sent plain records, batches were asked for"));
        }
    };
    Ok(FetchedPartition {
        topic: convert::topic_id(&place.topic_id)?,
        partition: convert::partition_index(place.partition)?,
        outcome,
        next_offset: data.next_offset,
        high_watermark: data.high_watermark,
        log_start_offset: data.log_start_offset,
        caught_up: data.caught_up,
        credit_bytes: data.credit_bytes,
        others_may_lead: data.others_may_lead,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(topic: TopicId, partition: u32, offset: i64) -> FetchFrom {
        FetchFrom {
            topic,
            partition,
            offset,
            leader_epoch: None,
            last_read_epoch: None,
            max_bytes: 0,
            no_redirect: false,
        }
    }

    #[test]
    fn changes_coalesce_per_partition_and_go_before_credit() {
        let topic = TopicId::random();
        let changes = Changes { open: None, credit_bytes: 0, generation: 0, set: HashMap::new() };
        let (outbox, _pulled) = Outbox::new(changes);
        let link = FetchLink(outbox);
        link.credit(10);
        link.update(FetchUpdate { generation: 1, set: vec![from(topic, 0, 5)], remove: vec![] });
        link.update(FetchUpdate {
            generation: 2,
            set: vec![from(topic, 0, 9)],
            remove: vec![(topic, 1)],
        });
        link.credit(5);
        let pull = || link.0.with(Pull::pull).map(|message| message.request.unwrap());
        match pull() {
            Some(Request::Update(update)) => {
                assert_eq!(update.generation, 2);
                assert_eq!(update.set.len(), 1);
                let start = update.set[0].start.unwrap().at;
                assert_eq!(start, Some(v1::read_from::At::Offset(9)));
                assert_eq!(update.remove.len(), 1);
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(pull(), Some(Request::Credit(credit)) if credit.bytes == 15));
        assert!(pull().is_none());
    }
}
