//! `Fetch`: a long poll over many partitions.
//!
//! Reads whatever there is, in turns, up to `max_bytes`; with less than `min_bytes` it waits for
//! more until `max_wait` is over. An error, a divergence or a full answer ends the wait. Reads that
//! are under way are waited for beyond `max_wait`, up to the call's deadline: else a reader of cold
//! data that polls with a short wait would never get anywhere.

use std::{collections::HashMap, sync::Arc, time::Duration};

use prost::Message;
use riverrun_proto::{limits::PACK_TARGET_BYTES, offset::Offset, rpc::v1};
use tokio::time::{sleep, timeout};

use super::{
    admission::BytePermit,
    convert,
    core::Core,
    nearby::Nearby,
    status::Failure,
    subscriptions::{Piece, Place, Subscriptions},
};
use crate::{metadata::broker::NAME_CHARS_MAX, telemetry::Request as Called};

/// What naming a replica takes: the longest host there is, and some numbers.
const READ_REPLICA_BYTES_MAX: usize = NAME_CHARS_MAX + 24;

/// An answer and the right to hold it, to be kept until it has been sent.
pub(super) type Answer = (v1::FetchResponse, Option<BytePermit>);

/// Handles one call.
pub(super) async fn fetch(
    core: &Arc<Core>,
    request: v1::FetchRequest,
    time: Duration,
) -> Result<Answer, Failure> {
    let limits = &core.limits;
    if request.partitions.is_empty() {
        return Err(Failure::invalid("partitions", "name at least one partition"));
    }
    if request.partitions.len() > limits.fetch_partitions_max {
        core.hits.fetch_partitions.hit();
        let message = format!("a fetch reads at most {} partitions", limits.fetch_partitions_max);
        return Err(Failure::invalid("partitions", message));
    }
    convert::isolation(request.isolation)?;
    let format = convert::read_format(request.format)?;
    // What surrounds the batches counts as well: ten thousand long names are no small thing.
    let mut around: usize = request.partitions.iter().map(answer_envelope_bytes).sum();
    if !request.client_rack.is_empty() {
        around += request.partitions.len() * READ_REPLICA_BYTES_MAX;
    }
    let room = limits.response_bytes_max.saturating_sub(around).max(1);
    let max_bytes = match request.max_bytes as usize {
        0 => room,
        bytes => bytes.min(room),
    };
    let asked = convert::duration(request.max_wait.as_ref(), "max_wait")?;
    let max_wait = asked.unwrap_or(limits.fetch_wait).min(limits.fetch_wait_max).min(time);

    let subscriptions = Subscriptions::new(core.catalog.clone(), core.decoder.clone(), format)
        .nearby(Nearby::of(core, &request.client_rack).map(Nearby::without_redirects));
    let mut poll = Poll {
        subscriptions,
        answers: Vec::with_capacity(request.partitions.len()),
        by_token: HashMap::with_capacity(request.partitions.len()),
        bytes: 0,
        untold: 0,
        min_bytes: (request.min_bytes as usize).clamp(1, max_bytes),
        max_bytes,
        full: false,
        due: false,
    };
    core.hear_of(request.partitions.iter().map(|wire| wire.partition.as_ref())).await;
    for wire in &request.partitions {
        poll.add(core, wire)?;
    }
    // Past the deadline the call is answered with what there is.
    let _ = timeout(time, poll.gather(core, max_wait)).await;
    let permit = match poll.bytes {
        0..=PACK_TARGET_BYTES => None,
        large => {
            let memory = timeout(time, core.fetch_memory(large)).await;
            Some(memory.map_err(|_| {
                Failure::throttled("too many large answers are on their way; try again")
            })?)
        }
    };
    let mut partitions: Vec<_> = poll.answers.into_iter().map(|answer| answer.data).collect();
    if let Some(nearby) = Nearby::of(core, &request.client_rack) {
        let asked = partitions.iter_mut().zip(&request.partitions);
        asked.for_each(|(answer, asked)| name_replica(core, &nearby, asked, answer));
    }
    Ok((v1::FetchResponse { partitions }, permit))
}

/// Says where the reader had better go on, beside what it was given: one that cannot go there goes on
/// here, and misses nothing.
fn name_replica(
    core: &Core,
    nearby: &Nearby,
    asked: &v1::PartitionFrom,
    answer: &mut v1::PartitionData,
) {
    let Some(from) = answer.next_offset.and_then(Offset::new).filter(|_| !asked.no_redirect) else {
        return;
    };
    let named = convert::partition_ref(asked.partition.as_ref());
    if let Ok(partition) = named.and_then(|named| core.catalog.partition(&named)) {
        answer.preferred_read_replica = nearby.replica(&core.catalog, &partition, from);
    }
}

/// Offsets and flags of one partition's answer, and its name as the request had it.
fn answer_envelope_bytes(asked: &v1::PartitionFrom) -> usize {
    64 + asked.partition.as_ref().map_or(0, Message::encoded_len)
}

struct Poll {
    subscriptions: Subscriptions,
    /// One per partition asked for, in order.
    answers: Vec<Gathered>,
    by_token: HashMap<u64, usize>,
    bytes: usize,
    /// Partitions of which nothing is known yet.
    untold: usize,
    min_bytes: usize,
    max_bytes: usize,
    /// What was read last did not fit.
    full: bool,
    /// There is something the client has to hear of at once.
    due: bool,
}

/// What one partition gave so far.
struct Gathered {
    data: v1::PartitionData,
    bytes: usize,
    bytes_max: usize,
    told: bool,
}

// === impl Poll ===

impl Poll {
    fn add(&mut self, core: &Core, wire: &v1::PartitionFrom) -> Result<(), Failure> {
        let place = convert::read_place(wire)?;
        let bytes_max = place.max_bytes.unwrap_or(usize::MAX);
        let data = match core.catalog.partition(&place.partition) {
            Ok(partition) => {
                if self.subscriptions.contains(partition.id()) {
                    let message = format!("partition {} is named twice", partition.id());
                    return Err(Failure::invalid("partitions", message));
                }
                let topic = &place.partition.topic;
                let token = self.subscriptions.set(&partition, topic, Place::from(&place));
                self.by_token.insert(token, self.answers.len());
                self.untold += 1;
                v1::PartitionData { partition: wire.partition.clone(), ..Default::default() }
            }
            Err(failure) => {
                core.requests.observe_error(Called::Fetch, failure.reason());
                self.due = true;
                let error = core.catalog.wire_error(&failure);
                convert::partition_error(wire.partition.clone(), error)
            }
        };
        self.answers.push(Gathered { data, bytes: 0, bytes_max, told: false });
        Ok(())
    }

    async fn gather(&mut self, core: &Core, max_wait: Duration) {
        let over = sleep(max_wait);
        tokio::pin!(over);
        let mut waiter = None;
        loop {
            while !self.is_full()
                && let Some(piece) = self.subscriptions.try_next(self.piece_bytes())
            {
                self.take(piece);
            }
            let enough = self.untold == 0 && (self.due || self.bytes >= self.min_bytes);
            if enough || self.is_full() {
                return;
            }
            if waiter.is_none() {
                waiter = core.fetch_waiter();
            }
            let may_wait = waiter.is_some() && !over.is_elapsed();
            if !may_wait && !self.subscriptions.is_reading() {
                return;
            }
            let piece_bytes = self.piece_bytes();
            tokio::select! {
                piece = self.subscriptions.next(piece_bytes) => self.take(piece),
                () = &mut over, if !over.is_elapsed() => {}
                () = core.shutdown.draining() => return,
            }
        }
    }

    fn take(&mut self, piece: Piece) {
        let Some(answer) = self.by_token.get(&piece.token).and_then(|at| self.answers.get_mut(*at))
        else {
            return;
        };
        if !answer.told {
            answer.told = true;
            self.untold -= 1;
        }
        self.due |= piece.stopped;
        // One batch comes whole, but only alone: most gRPC clients take no larger answer than they
        // asked for. What does not fit is left for the next fetch.
        let too_much_here = answer.bytes > 0 && answer.bytes + piece.bytes > answer.bytes_max;
        let too_much = self.bytes > 0 && self.bytes + piece.bytes > self.max_bytes;
        self.full |= too_much;
        let token = piece.token;
        let piece = match too_much || too_much_here {
            true if answer.bytes > 0 => None,
            true => Some(piece.without_payload()),
            false => Some(piece),
        };
        if let Some(piece) = piece {
            self.bytes += piece.bytes;
            answer.bytes += piece.bytes;
            merge(&mut answer.data, piece.data);
        } else {
            answer.data.caught_up = false;
        }
        if too_much_here || answer.bytes >= answer.bytes_max {
            self.subscriptions.remove_token(token);
        }
    }

    fn is_full(&self) -> bool {
        self.full || self.bytes >= self.max_bytes
    }

    fn piece_bytes(&self) -> usize {
        PACK_TARGET_BYTES.min(self.max_bytes.saturating_sub(self.bytes)).max(1)
    }
}

/// Adds a later piece of the same partition. What was read before an error stays; the next fetch,
/// which begins behind it, meets the error again.
fn merge(data: &mut v1::PartitionData, mut later: v1::PartitionData) {
    use v1::partition_data::Outcome;
    later.partition = data.partition.take();
    match (data.outcome.take(), &mut later.outcome) {
        (Some(Outcome::Batches(mut first)), Some(Outcome::Batches(more))) => {
            first.batches.append(&mut more.batches);
            more.batches = first.batches;
        }
        (Some(Outcome::Records(mut first)), Some(Outcome::Records(more))) => {
            first.records.append(&mut more.records);
            more.records = first.records;
        }
        (Some(first), Some(Outcome::Error(_) | Outcome::Diverging(_))) => {
            data.partition = later.partition;
            data.outcome = Some(first);
            return;
        }
        (_, _) => {}
    }
    later.credit_bytes += data.credit_bytes;
    *data = later;
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn piece(batches: &[&'static str], next: i64) -> v1::PartitionData {
        let batches = batches.iter().map(|b| Bytes::from_static(b.as_bytes())).collect();
        v1::PartitionData {
            next_offset: Some(next),
            credit_bytes: 1,
            outcome: Some(v1::partition_data::Outcome::Batches(v1::EncodedBatches {
                batches,
                format: 1,
            })),
            ..Default::default()
        }
    }

    #[test]
    fn pieces_of_a_partition_become_one_answer() {
        let asked = v1::TopicPartition { topic: "t".into(), ..Default::default() };
        let mut data = v1::PartitionData { partition: Some(asked.clone()), ..Default::default() };
        merge(&mut data, piece(&["a", "b"], 2));
        merge(&mut data, piece(&["c"], 3));
        assert_eq!(
            data,
            v1::PartitionData {
                partition: Some(asked.clone()),
                credit_bytes: 2,
                ..piece(&["a", "b", "c"], 3)
            }
        );

        let before = data.clone();
        let error = convert::partition_error(None, v1::Error::default());
        merge(&mut data, error.clone());
        assert_eq!(data, before, "what was read comes first, the error with the next fetch");

        let mut nothing =
            v1::PartitionData { partition: Some(asked.clone()), ..Default::default() };
        merge(&mut nothing, error.clone());
        assert_eq!(nothing, v1::PartitionData { partition: Some(asked), ..error });
    }
}
