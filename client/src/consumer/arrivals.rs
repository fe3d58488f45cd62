//! The fetcher's part about what comes: batches into the buffer, errors to where they are dealt
//! with, lost streams to another attempt.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use riverrun_proto::ids::BrokerId;
use tokio_util::sync::CancellationToken;

use super::{
    batch,
    fetcher::{Fetcher, LinkNews, OpenedStream},
    lane::{Key, Lane, Link, OpenLink, Sent},
    nearby::Route,
    partition,
    shared::{Cell, Debt, Item, What},
};
use crate::{
    address::Address,
    clock,
    connection::{FetchEvent, FetchOutcome, FetchedPartition},
    error::{Error, ErrorKind, Result},
    metadata::Freshness,
    retry,
};

impl Fetcher {
    pub(super) fn on_opened(&mut self, broker: BrokerId, opened: Result<OpenedStream>) {
        let now = clock::now();
        let Some(lane) = self.lanes.get_mut(&broker) else { return };
        let Link::Opening { sent, credit } = &mut lane.link else { return };
        match opened {
            Ok((link, events)) => {
                let (sent, credit) = (std::mem::take(sent), *credit);
                lane.incarnation += 1;
                let (incarnation, until) = (lane.incarnation, CancellationToken::new());
                let guard = until.clone().drop_guard();
                lane.link = Link::Open(OpenLink::new(link, guard, sent, credit, now));
                let news = events
                    .map(move |event| (broker, incarnation, Some(event)))
                    .chain(stream::iter([(broker, incarnation, None)]))
                    .take_until(until.cancelled_owned());
                self.events.push(news.boxed());
            }
            Err(error) => self.on_lost(broker, &error),
        }
    }

    pub(super) fn on_link(&mut self, (broker, incarnation, event): LinkNews) {
        let now = clock::now();
        let Some(lane) = self.lanes.get_mut(&broker) else { return };
        let Link::Open(open) = &mut lane.link else { return };
        if lane.incarnation != incarnation {
            return;
        }
        open.last_heard = now;
        match event {
            Some(Ok(FetchEvent::Data(items))) => {
                lane.failures = 0;
                for data in items {
                    self.on_data(broker, data);
                }
                // What was dropped as stale is credit to be granted again.
                let account = self.shared.account(broker, self.window);
                if let Some(Lane { link: Link::Open(open), .. }) = self.lanes.get_mut(&broker) {
                    open.grant(account);
                }
            }
            Some(Ok(FetchEvent::Updated(generation))) => open.confirm(generation),
            Some(Ok(FetchEvent::Heartbeat)) => {}
            Some(Ok(FetchEvent::Control { reconnect: true })) => {
                let error = Error::connection("the broker asked to reconnect");
                self.on_lost(broker, &error);
            }
            Some(Ok(FetchEvent::Control { reconnect: false })) => {}
            Some(Err(error)) => self.on_lost(broker, &error),
            None => self.on_lost(broker, &Error::connection("the broker ended the stream")),
        }
    }

    fn on_data(&mut self, broker: BrokerId, data: FetchedPartition) {
        let key = (data.topic, data.partition);
        let Some(Lane { link: Link::Open(open), .. }) = self.lanes.get_mut(&broker) else {
            return;
        };
        let Some(Sent { cell, version, .. }) = open.accept(key, data.credit_bytes) else { return };
        let (cell, version) = (Arc::clone(cell), *version);
        match data.outcome {
            FetchOutcome::Batches(ref batches) => {
                if !batches.is_empty()
                    && let Some((nearby, Route::Replica(_))) = self.nearby.get_mut(&key)
                {
                    nearby.served();
                }
                self.stale |= data.others_may_lead;
                self.doubts.told(key, broker, data.others_may_lead, clock::now());
                let items = self.received(broker, &cell, version, &data, batches);
                self.shared.push(items);
            }
            FetchOutcome::Error(error) if self.leave_replica(broker, key) => {
                // Whatever it is: the leader knows better (an offset), or has another copy.
                self.stale = true;
                tracing::debug!(partition = %cell.key, %broker, %error, "back to the leader");
                if let Some(hint) = error.leader() {
                    self.client.metadata().learn(hint);
                    self.hints.insert(key, (hint.broker, hint.leader_epoch));
                }
            }
            FetchOutcome::Error(error) => self.on_partition_error(&cell, key, error),
            FetchOutcome::Elsewhere { broker: replica, address } => {
                self.on_replica_nearby(&cell, key, replica, address);
            }
            FetchOutcome::Diverging { leader_epoch, end_offset } => {
                let (read, version) = self
                    .shared
                    .change(&cell, |live| (live.diverged(leader_epoch, end_offset), live.version));
                if let Some(read) = read {
                    let error = partition::truncated(&cell.key, read, end_offset);
                    self.tell_reader(&cell, version, What::Truncated(error));
                }
            }
        }
    }

    /// The leader has a replica nearby to read from.
    fn on_replica_nearby(
        &mut self,
        cell: &Arc<Cell>,
        key: Key,
        replica: BrokerId,
        address: Option<Address>,
    ) {
        self.stale = true;
        tracing::debug!(partition = %cell.key, %replica, ?address, "a replica nearby");
        let now = clock::now();
        let Some((nearby, _)) = self.nearby.get_mut(&key) else {
            // Sent away without having named a rack: asked again, not at once.
            let why = Error::protocol("the leader named another replica, unasked").retriable(true);
            return self.on_partition_error(cell, key, why);
        };
        match address {
            Some(address) => {
                self.client.metadata().learn_address(replica, address);
                nearby.chosen(replica, now);
            }
            None => nearby.failed(now),
        }
        cell.live.lock().asks_anew();
    }

    /// Back to the leader, where `broker` is the replica that a partition was read from.
    fn leave_replica(&mut self, broker: BrokerId, key: Key) -> bool {
        let now = clock::now();
        match self.nearby.get_mut(&key) {
            Some((nearby, _)) if nearby.replica(now) == Some(broker) => {
                nearby.failed(now);
                true
            }
            _ => false,
        }
    }

    /// Moves batches into the buffer, each with its share of the credit they took.
    fn received(
        &self,
        broker: BrokerId,
        cell: &Arc<Cell>,
        version: u64,
        data: &FetchedPartition,
        batches: &[bytes::Bytes],
    ) -> Vec<Item> {
        let mut live = cell.live.lock();
        let last = batches.last().and_then(|batch| batch::peek(batch));
        let next_offset =
            data.next_offset.or(last.map(|(last, _)| last + 1)).unwrap_or(live.fetch_offset);
        // A follower may know of less than its leader has told us.
        let route = self.nearby.get(&(data.topic, data.partition)).map(|(_, route)| route);
        let is_behind = matches!(route, Some(Route::Replica(_)));
        let known = live.high_watermark.filter(|_| is_behind);
        live.heard(data.high_watermark.max(known), data.log_start_offset, data.caught_up);
        if !batches.is_empty() {
            live.fetched(next_offset, last.map(|(_, epoch)| epoch));
        }
        let mut credit = data.credit_bytes;
        let mut items: Vec<Item> = batches
            .iter()
            .map(|bytes| {
                let share = credit.min(bytes.len() as u64);
                credit -= share;
                let what = What::Batch { bytes: bytes.clone(), next_offset };
                let debt = Debt { broker, bytes: share };
                Item { cell: Arc::clone(cell), version, what, debt }
            })
            .collect();
        if let Some(last) = items.last_mut() {
            last.debt.bytes += credit;
        }
        if data.caught_up && self.shared.config.end_events {
            let debt = Debt { broker, bytes: 0 };
            items.push(Item {
                cell: Arc::clone(cell),
                version,
                what: What::End(next_offset),
                debt,
            });
        }
        items
    }

    fn on_partition_error(&mut self, cell: &Arc<Cell>, key: Key, error: Error) {
        self.stale = true;
        tracing::debug!(partition = %cell.key, %error, "no data");
        // A leader that does not know the topic may be behind whoever named it as leader. Whether the
        // topic is gone, or another one now, the metadata says that is asked for next.
        let elsewhere = matches!(error.kind(), ErrorKind::NotLeader | ErrorKind::UnknownTopic);
        if !error.is_retriable() && !elsewhere {
            self.fail(cell, error.context(&cell.key));
            return;
        }
        let retry = self.shared.config.retry;
        let now = clock::now();
        // Old news leads in circles, without a pause: another broker is asked.
        let known = self.hints.get(&key).map(|(_, epoch)| *epoch);
        let hint =
            error.leader().filter(|hint| known.is_none_or(|epoch| hint.leader_epoch > epoch));
        let hint = hint.cloned();
        cell.live.lock().retry_at(match &hint {
            Some(_) => now,
            None => now + partition::backoff(&retry, 0, &error),
        });
        match hint {
            Some(hint) => {
                self.client.metadata().learn(&hint);
                self.hints.insert(key, (hint.broker, hint.leader_epoch));
            }
            None => {
                let mark = self.client.metadata().mark();
                self.look_up(&cell.key.topic.clone(), Freshness::Doubted(mark));
            }
        }
    }

    /// Nothing more is asked for until the reader has met the error, behind what is buffered.
    pub(super) fn fail(&self, cell: &Arc<Cell>, error: Error) {
        let version = {
            let mut live = cell.live.lock();
            if std::mem::replace(&mut live.halted, true) {
                return;
            }
            live.version
        };
        self.tell_reader(cell, version, What::Failed(error));
    }

    fn tell_reader(&self, cell: &Arc<Cell>, version: u64, what: What) {
        let debt = Debt { broker: BrokerId(0), bytes: 0 };
        self.shared.push([Item { cell: Arc::clone(cell), version, what, debt }]);
    }

    pub(super) fn on_lost(&mut self, broker: BrokerId, error: &Error) {
        self.stale = true;
        let now = clock::now();
        let Some(lane) = self.lanes.get_mut(&broker) else { return };
        let topics: HashSet<Arc<str>> = match &lane.link {
            Link::Open(open) => open.cells().map(|cell| Arc::clone(&cell.key.topic)).collect(),
            Link::Opening { sent, .. } => {
                sent.values().map(|sent| Arc::clone(&sent.cell.key.topic)).collect()
            }
            Link::Closed { .. } => HashSet::new(),
        };
        for (nearby, _) in self.nearby.values_mut() {
            if nearby.replica(now) == Some(broker) {
                nearby.failed(now);
            }
        }
        let backoff = self.shared.config.retry.backoff(lane.failures, retry::jitter());
        let wait: Duration = error.retry_after().unwrap_or(backoff);
        lane.failures = lane.failures.saturating_add(1);
        lane.link = Link::Closed { retry_at: Some(now + wait) };
        tracing::debug!(%broker, %error, ?wait, "lost a fetch stream");
        // Perhaps other brokers lead them by now.
        let mark = self.client.metadata().mark();
        for name in topics {
            self.look_up(&name, Freshness::After(mark));
        }
    }
}
