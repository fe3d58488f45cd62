//! The worker's way from accumulators to streams and back: turns, sending, answers, lost links.

use std::{collections::HashSet, sync::Arc};

use futures::stream::BoxStream;
use riverrun_proto::{ids::BrokerId, reason::Reason, record::Compressor};
use tokio_util::sync::CancellationToken;

use super::{
    accumulator::{Batch, Due},
    batch::Payload,
    lane::{Lane, Link, OpenLink},
    pool::BufferPool,
    sender::Sender,
    shared::PartitionKey,
    worker::{Timer, Worker},
};
use crate::{
    clock::{self, Instant},
    connection::{Ack, Append, ProduceEvent, ProduceLimits, ProduceLink},
    error::{Error, ErrorKind, Result},
    retry,
};

/// What came of a partition's turn.
enum Turn {
    Sent,
    /// It has something, but the stream's window is full.
    WindowFull,
    /// Nothing to send now; at this time there may be.
    Nothing(Option<Instant>),
}

impl Worker {
    // --- turns ---

    /// Lets a partition have a turn on its lane, unless it waits for one already.
    pub(super) fn give_turn(&mut self, key: PartitionKey) {
        self.relocate(key);
        let Some(state) = self.partitions.get_mut(&key) else { return };
        let Some(leader) = state.leader else {
            let name = Arc::clone(&state.queue.topic);
            if !state.is_empty() {
                self.refresh(&name);
            }
            return;
        };
        if !std::mem::replace(&mut state.has_turn, true) {
            self.lanes.entry(leader).or_insert_with(|| Lane::new(leader)).enqueue(key);
        }
        self.dirty.insert(leader);
    }

    /// Moves a partition to the lane of its leader, unless a batch is on the wire.
    pub(super) fn relocate(&mut self, key: PartitionKey) {
        let Some(state) = self.partitions.get_mut(&key) else { return };
        if state.leader == state.wanted_leader || state.sender.sent_count() > 0 {
            return;
        }
        // A turn left behind on the old lane finds that the partition is not its any more.
        state.leader = state.wanted_leader;
        state.has_turn = false;
        if state.leader.is_some() && !state.is_empty() {
            self.give_turn(key);
        }
    }

    /// Sends what can be sent, on every lane where something may have become possible.
    pub(super) fn pump(&mut self) {
        while let Some(broker) = self.dirty.iter().next().copied() {
            self.dirty.remove(&broker);
            self.pump_lane(broker);
        }
    }

    fn pump_lane(&mut self, broker: BrokerId) {
        let now = clock::now();
        let Some(lane) = self.lanes.get_mut(&broker) else { return };
        let has_turns = lane.has_turns();
        match &mut lane.link {
            Link::Opening => return,
            Link::Closed { .. } if !has_turns => return,
            Link::Closed { retry_at } => {
                if let Some(at) = retry_at.filter(|at| *at > now) {
                    self.set_timer(at, Timer::Lane(broker.0));
                } else {
                    lane.link = Link::Opening;
                    self.open(broker);
                }
                return;
            }
            Link::Open(open) if open.draining && open.is_idle() => {
                // A stream that was asked to end before it was of use is a failed attempt.
                let retry_at = (!open.carried).then(|| {
                    lane.failures = lane.failures.saturating_add(1);
                    now + self.shared.config.retry.backoff(lane.failures, retry::jitter())
                });
                lane.link = Link::Closed { retry_at };
                self.dirty.insert(broker);
                return;
            }
            Link::Open(_) => {}
        }
        self.take_turns(broker, now);
    }

    fn take_turns(&mut self, broker: BrokerId, now: Instant) {
        loop {
            let Some(lane) = self.lanes.get_mut(&broker) else { return };
            let Link::Open(open) = &mut lane.link else { return };
            if !open.is_ready(now) {
                if let Some(until) = open.throttled_until {
                    self.set_timer(until, Timer::Lane(broker.0));
                }
                return;
            }
            let Some(key) = lane.next_turn() else { return };
            self.identify(key);
            let Some(state) = self.partitions.get_mut(&key) else { continue };
            if state.leader != Some(broker) {
                continue;
            }
            match self.take_turn(broker, key, now) {
                Turn::Sent => {
                    if let Some(lane) = self.lanes.get_mut(&broker) {
                        lane.enqueue(key);
                    }
                }
                Turn::WindowFull => {
                    if let Some(lane) = self.lanes.get_mut(&broker) {
                        lane.put_back(key);
                    }
                    return;
                }
                Turn::Nothing(until) => {
                    if let Some(state) = self.partitions.get_mut(&key) {
                        state.has_turn = false;
                    }
                    if let Some(at) = until {
                        self.arm(key, at);
                    }
                }
            }
        }
    }

    fn take_turn(&mut self, broker: BrokerId, key: PartitionKey, now: Instant) -> Turn {
        let in_flight_max = self.shared.config.max_in_flight;
        let Self { shared, lanes, partitions, compressor, next_correlation_id, .. } = self;
        let (Some(state), Some(open)) =
            (partitions.get_mut(&key), lanes.get_mut(&broker).and_then(Lane::open_link))
        else {
            return Turn::Nothing(None);
        };
        let share = open.partition_bytes_max();
        if !state.sender.has_waiting() {
            if !state.sender.has_room(in_flight_max.min(open.in_flight_batches()), now) {
                return Turn::Nothing(state.sender.resume_at().filter(|at| *at > now));
            }
            // Taken too early a batch could not grow any more.
            if !open.fits(1) {
                return Turn::WindowFull;
            }
            let batch = {
                let mut accumulator = state.queue.accumulator.lock();
                match accumulator.take(now) {
                    Some(batch) => batch,
                    None => {
                        return Turn::Nothing(match accumulator.due() {
                            Due::At(at) => Some(at),
                            Due::Now | Due::Never => None,
                        });
                    }
                }
            };
            finish(&mut state.sender, batch, compressor, &shared.pool);
        }
        let Some(bytes) = state.sender.next_bytes(share, now) else {
            return Turn::Nothing(state.sender.resume_at().filter(|at| *at > now));
        };
        if !open.fits(bytes) {
            return Turn::WindowFull;
        }
        let correlation_id = *next_correlation_id;
        *next_correlation_id += 1;
        let leader_epoch = (state.leader_epoch >= 0).then_some(state.leader_epoch);
        if let Some(payload) = state.sender.send_next(correlation_id) {
            let batch = payload.bytes.clone();
            let (topic, partition) = (key.topic, key.partition);
            let append = Append { correlation_id, topic, partition, leader_epoch, batch };
            open.send(key, append, now);
        }
        Turn::Sent
    }

    /// Looks at the partition again at `at`, unless that is arranged.
    fn arm(&mut self, key: PartitionKey, at: Instant) {
        let now = clock::now();
        if let Some(state) = self.partitions.get_mut(&key) {
            if state.armed.is_some_and(|armed| now < armed && armed <= at) {
                return;
            }
            state.armed = Some(at);
            self.set_timer(at, Timer::of_partition(key));
        }
    }

    // --- news of links ---

    pub(super) fn on_opened(
        &mut self,
        broker: BrokerId,
        opened: Result<(ProduceLimits, ProduceLink, BoxStream<'static, Result<ProduceEvent>>)>,
    ) {
        let Some(lane) = self.lanes.get_mut(&broker) else { return };
        match opened {
            Ok((limits, link, events)) => {
                lane.incarnation += 1;
                let incarnation = lane.incarnation;
                let until = CancellationToken::new();
                lane.link = Link::Open(OpenLink::new(
                    link,
                    limits,
                    until.clone().drop_guard(),
                    clock::now(),
                ));
                self.listen(broker, incarnation, events, until);
                self.dirty.insert(broker);
            }
            Err(error) => {
                tracing::debug!(%broker, %error, "no produce stream");
                self.on_lost(broker, &error);
            }
        }
    }

    pub(super) fn on_link(
        &mut self,
        (broker, incarnation, event): (BrokerId, u64, Option<Result<ProduceEvent>>),
    ) {
        let Some(lane) = self.lanes.get_mut(&broker) else { return };
        if lane.incarnation != incarnation {
            return;
        }
        let Some(open) = lane.open_link() else { return };
        match event {
            Some(Ok(ProduceEvent::Acks { acks, in_flight_bytes })) => {
                if let Some(bytes) = in_flight_bytes {
                    open.set_window(bytes);
                }
                open.heard(clock::now());
                lane.failures = 0;
                for ack in acks {
                    self.on_ack(broker, ack);
                }
                self.dirty.insert(broker);
            }
            Some(Ok(ProduceEvent::Control { reconnect, throttle })) => {
                open.draining |= reconnect;
                if let Some(wait) = throttle {
                    open.throttled_until = Some(clock::now() + wait);
                }
                self.dirty.insert(broker);
            }
            Some(Err(error)) => self.on_lost(broker, &error),
            None => self.on_lost(broker, &Error::connection("the broker ended the stream")),
        }
    }

    fn on_ack(&mut self, broker: BrokerId, ack: Ack) {
        let open = self.lanes.get_mut(&broker).and_then(Lane::open_link);
        let Some(key) = open.and_then(|open| open.answered(ack.correlation_id)) else { return };
        let Some(state) = self.partitions.get_mut(&key) else { return };
        let error = ack.outcome.as_ref().err().cloned();
        let retry = self.shared.config.retry;
        let now = clock::now();
        state.sender.answered(ack.correlation_id, ack.outcome, now, &retry, retry::jitter());
        if let Some(error) = error {
            self.on_refusal(key, &error);
        }
        self.hand_out(key);
        self.give_turn(key);
    }

    /// What a refusal says about where the partition is.
    fn on_refusal(&mut self, key: PartitionKey, error: &Error) {
        let Some(state) = self.partitions.get_mut(&key) else { return };
        let name = Arc::clone(&state.queue.topic);
        tracing::debug!(topic = %name, partition = key.partition, %error, "a batch was refused");
        match (error.kind(), error.leader()) {
            (_, Some(hint)) if hint.leader_epoch >= state.leader_epoch => {
                state.wanted_leader = Some(hint.broker);
                state.leader_epoch = hint.leader_epoch;
                self.client.metadata().learn(hint);
            }
            (ErrorKind::NotLeader | ErrorKind::UnknownTopic, _) => self.refresh(&name),
            // Replicas that answer nobody, or a leader that was cut off from them.
            _ if error.is_reason(Reason::RequestTimedOut) => self.refresh(&name),
            _ => {}
        }
    }

    /// A stream broke, or could not be opened: its batches go again when there is another, to the
    /// same leader or a new one.
    pub(super) fn on_lost(&mut self, broker: BrokerId, error: &Error) {
        let now = clock::now();
        let Some(lane) = self.lanes.get_mut(&broker) else { return };
        let (mut touched, untaken) = match lane.open_link() {
            Some(open) => (open.partitions(), open.untaken()),
            None => (HashSet::new(), HashSet::new()),
        };
        let backoff = self.shared.config.retry;
        let wait =
            error.retry_after().unwrap_or_else(|| backoff.backoff(lane.failures, retry::jitter()));
        lane.failures = lane.failures.saturating_add(1);
        let retry_at = now + wait;
        lane.link = Link::Closed { retry_at: Some(retry_at) };
        touched.extend(lane.take_turns());
        self.set_timer(retry_at, Timer::Lane(broker.0));
        tracing::debug!(%broker, %error, ?wait, "lost a produce stream");
        for key in touched {
            let Some(state) = self.partitions.get_mut(&key) else { continue };
            if state.leader != Some(broker) {
                continue;
            }
            state.sender.lost(&untaken, now);
            state.has_turn = false;
            let name = Arc::clone(&state.queue.topic);
            self.hand_out(key);
            self.give_turn(key);
            // Perhaps another broker leads it by now.
            self.refresh(&name);
        }
    }

    /// Gives the answers of a partition to those who wait for them, in order.
    pub(super) fn hand_out(&mut self, key: PartitionKey) {
        let Some(state) = self.partitions.get_mut(&key) else { return };
        while let Some((payload, outcome)) = state.sender.pop_done() {
            state.queue.accumulator.lock().answered();
            if let Err(error) = &outcome {
                self.shared.count_failed(error, payload.records.into());
            }
            let Payload { ack, charge, bytes, .. } = payload;
            // Memory first: whoever is woken by the answer may want to send.
            self.shared.pool.reclaim(bytes);
            drop(charge);
            ack.complete(outcome);
        }
    }
}

/// Gives a taken batch its sequence, compresses and checksums it, and queues it for sending.
pub(super) fn finish(
    sender: &mut Sender<Payload>,
    batch: Batch,
    compressor: &mut Compressor,
    pool: &BufferPool,
) {
    let Batch { mut builder, ack, charge, created } = batch;
    let records = builder.record_count();
    if let Some(stamp) = sender.next_stamp(records.cast_signed()) {
        builder.set_producer(stamp);
    }
    let (bytes, buffer) = builder.finish_with(compressor);
    pool.give(buffer);
    let size = bytes.len();
    let payload = Payload { bytes, records, ack, charge };
    sender.push(payload, size, records.cast_signed(), created);
}
