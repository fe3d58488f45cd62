//! `Tail`: plain records of one topic as a server stream, for grpcurl, consoles and gRPC-Web, which
//! know no bidirectional streams. Flow control is HTTP/2's alone.
//!
//! Without `follow` the stream ends where the partitions ended when it began. A damaged record is
//! reported in band and skipped; any other error of a partition ends its part.

use std::{collections::HashMap, fmt, sync::Arc};

use futures::Stream;
use riverrun_proto::{ids::TopicPartition, limits::PACK_TARGET_BYTES, offset::Offset, rpc::v1};
use tonic::Status;

use super::{
    admission::BytePermit,
    convert::{self, Format, PartitionRef, Start, TopicRef},
    core::Core,
    nearby::Nearby,
    status::Failure,
    subscriptions::{Piece, Place, Subscriptions},
};
use crate::{
    partition::Partition,
    telemetry::{OpenGuard, Request as Called},
};

/// Opens a stream.
pub(super) async fn open(
    core: &Arc<Core>,
    request: &v1::TailRequest,
) -> Result<impl Stream<Item = Result<v1::TailResponse, Status>> + Send + 'static, Failure> {
    if core.shutdown.is_draining() {
        return Err(Failure::draining());
    }
    if let Ok(named) = convert::topic_ref(&request.topic, &request.topic_id) {
        let partitions = request.partitions.iter().copied();
        let named = |partition| PartitionRef { topic: named.clone(), partition };
        if !partitions.chain([0]).map(named).all(|named| core.catalog.knows(&named)) {
            core.catch_up().await;
        }
    }
    let tail = Tail::new(Arc::clone(core), request)?;
    Ok(futures::stream::unfold(Some(tail), |tail| async {
        let mut tail = tail?;
        match tail.step().await? {
            Ok(data) => Some((Ok(v1::TailResponse { data: Some(data) }), Some(tail))),
            Err(failure) => {
                tail.core.requests.observe_error(Called::Tail, failure.reason());
                Some((Err(tail.core.catalog.status(&failure)), None))
            }
        }
    }))
}

struct Tail {
    core: Arc<Core>,
    /// As the client named it.
    topic: TopicRef,
    subscriptions: Subscriptions,
    /// Partitions not yet at their end, by token.
    reading: HashMap<u64, Reading>,
    /// Records still wanted; `None`: all.
    left: Option<u64>,
    /// Memory of a large message handed out last.
    sent: Option<BytePermit>,
    _open: OpenGuard,
}

struct Reading {
    partition: Arc<Partition>,
    /// Where it ends; `None`: it is followed.
    end: Option<Offset>,
}

// === impl Tail ===

impl Tail {
    fn new(core: Arc<Core>, request: &v1::TailRequest) -> Result<Self, Failure> {
        let named = convert::topic_ref(&request.topic, &request.topic_id)?;
        let topic = core.catalog.topic(&named)?;
        let start = convert::start(request.start.as_ref())?;
        let mut partitions: Vec<_> = if request.partitions.is_empty() {
            topic.partitions().map(|(index, _)| index).collect()
        } else {
            let wanted = request.partitions.iter();
            wanted.map(|p| core.catalog.index_of(&topic, *p)).collect::<Result<_, _>>()?
        };
        partitions.sort_unstable();
        partitions.dedup();
        if partitions.len() > core.limits.fetch_partitions_max {
            core.hits.fetch_partitions.hit();
            let message =
                format!("a stream reads at most {} partitions", core.limits.fetch_partitions_max);
            return Err(Failure::invalid("partitions", message));
        }
        let mut subscriptions =
            Subscriptions::new(core.catalog.clone(), core.decoder.clone(), Format::Records)
                .nearby(Nearby::of(&core, &request.client_rack));
        let mut reading = HashMap::with_capacity(partitions.len());
        for index in partitions {
            let partition = core.catalog.partition_of(&topic, index)?;
            let end = (!request.follow).then(|| partition.high_watermark());
            let token = subscriptions.set(&partition, &named, place(start));
            reading.insert(token, Reading { partition, end });
        }
        Ok(Self {
            _open: core.requests.stream_opened(Called::Tail),
            core,
            topic: named,
            subscriptions,
            reading,
            left: (request.limit > 0).then_some(request.limit),
            sent: None,
        })
    }

    /// The next message; `None`: all has been sent.
    async fn step(&mut self) -> Option<Result<v1::PartitionData, Failure>> {
        self.sent = None;
        loop {
            if self.reading.is_empty() || self.left == Some(0) {
                return None;
            }
            let piece = tokio::select! {
                piece = self.subscriptions.next(PACK_TARGET_BYTES) => piece,
                () = self.core.shutdown.draining() => return Some(Err(Failure::draining())),
            };
            let bytes = piece.bytes;
            let followed = self.reading.get(&piece.token).is_some_and(|r| r.end.is_none());
            if let Some(data) = self.take(piece)
                && (bytes > 0 || followed || is_error(&data))
            {
                if bytes > PACK_TARGET_BYTES {
                    self.sent = Some(self.core.fetch_memory(bytes).await);
                }
                return Some(Ok(data));
            }
        }
    }

    /// Takes note of a piece and cuts it to what is wanted.
    fn take(&mut self, piece: Piece) -> Option<v1::PartitionData> {
        let reading = self.reading.get(&piece.token)?;
        let mut data = piece.data;
        if piece.stopped {
            let past = data.next_offset.and_then(Offset::new);
            let reading = self.reading.remove(&piece.token)?;
            if let Some(past) = past
                && reading.end.is_none_or(|end| past < end)
            {
                let place = place(Start::At(past));
                let token = self.subscriptions.set(&reading.partition, &self.topic, place);
                self.reading.insert(token, reading);
            }
            return Some(data);
        }
        if let Some(v1::partition_data::Outcome::Records(records)) = &mut data.outcome
            && let Some(left) = &mut self.left
        {
            let wanted = usize::try_from(*left).unwrap_or(usize::MAX);
            if records.records.len() > wanted {
                records.records.truncate(wanted);
                data.next_offset = records.records.last().map(|record| record.offset + 1);
                data.caught_up = false;
            }
            *left -= records.records.len() as u64;
        }
        let next = data.next_offset.and_then(Offset::new);
        if let (Some(end), Some(next)) = (reading.end, next)
            && next >= end
        {
            self.reading.remove(&piece.token);
            self.subscriptions.remove_token(piece.token);
        }
        Some(data)
    }
}

fn place(start: Start) -> Place {
    // Nobody is sent elsewhere by a tail.
    let no_redirect = true;
    Place { start, leader_epoch: None, last_read_epoch: None, max_bytes: None, no_redirect }
}

fn is_error(data: &v1::PartitionData) -> bool {
    matches!(data.outcome, Some(v1::partition_data::Outcome::Error(_)))
}

impl fmt::Debug for Tail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let partitions: Vec<TopicPartition> =
            self.reading.values().map(|reading| reading.partition.id()).collect();
        f.debug_struct("Tail").field("reading", &partitions).finish_non_exhaustive()
    }
}
