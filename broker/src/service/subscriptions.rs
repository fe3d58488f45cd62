//! The partitions one call reads, and the next piece of data from any of them: the engine under
//! `Fetch`, `FetchStream` and `Tail`.
//!
//! Fair: ready partitions stand in a line; each gives one piece and goes to the back. A read that
//! has to wait (for the disk, for decompression) steps aside and the others go on; so many may do
//! that at once ([`ASIDE_MAX`]), and each holds one piece, so this bounds the memory as well.
//!
//! A reader that named its rack is served by followers that are in sync as well ([`Nearby`]); a leader
//! sends it to one nearby, where the call can say so.
//!
//! A subscription moves on when its piece is handed out, not when it was read: what was read for a
//! place that has been left since is dropped.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::Arc,
};

use futures::{
    FutureExt,
    future::BoxFuture,
    stream::{FuturesUnordered, StreamExt},
};
use riverrun_proto::{epoch::LeaderEpoch, ids::TopicPartition, offset::Offset, rpc::v1};

use super::{
    convert::{Format, ReadPlace, Start, TopicRef, wire_partition},
    decode::Decoder,
    nearby::Nearby,
    reading::{self, ReadData, ReadSpec, ReadStop},
    resolve::Catalog,
};
use crate::{
    clock::Instant,
    partition::{
        Copies, Partition,
        watch::{ReadySet, Watch},
    },
    telemetry::TopicTraffic,
};

/// Reads of one call that wait for the disk or for decompression at once.
pub(super) const ASIDE_MAX: usize = 8;

/// The partitions one call reads. Bounded by its caller
/// ([`super::limits::Limits::fetch_partitions_max`]).
pub(super) struct Subscriptions {
    catalog: Catalog,
    decoder: Decoder,
    format: Format,
    all: HashMap<u64, Subscription>,
    by_id: HashMap<TopicPartition, u64>,
    next_token: u64,
    /// Tokens of partitions that may have data, each once.
    line: VecDeque<u64>,
    ready: Arc<ReadySet>,
    /// Taken from `ready`, about to go into the line.
    woken: Vec<u64>,
    aside: FuturesUnordered<BoxFuture<'static, ReadDone>>,
    /// Where the reader is, if it said so.
    nearby: Option<Nearby>,
}

struct Subscription {
    id: TopicPartition,
    /// The name, where the client used one.
    topic: String,
    partition: Arc<Partition>,
    start: Start,
    leader_epoch: Option<LeaderEpoch>,
    last_read_epoch: Option<LeaderEpoch>,
    max_bytes: Option<usize>,
    no_redirect: bool,
    /// When to look again for a replica nearby.
    look_at: Option<Instant>,
    traffic: TopicTraffic,
    /// Grows with every pause; a read of an earlier turn is dropped.
    turn: u64,
    in_line: bool,
    reading: bool,
    /// Woken while it was being read.
    woken: bool,
    paused: bool,
    /// The client was told where it stands, whether that was the end, and whether there may be more
    /// elsewhere.
    told: Option<(bool, bool)>,
    _watch: Watch,
}

/// A place to read a partition from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) start: Start,
    pub(super) leader_epoch: Option<LeaderEpoch>,
    pub(super) last_read_epoch: Option<LeaderEpoch>,
    /// Of one piece.
    pub(super) max_bytes: Option<usize>,
    pub(super) no_redirect: bool,
}

impl From<&ReadPlace> for Place {
    fn from(place: &ReadPlace) -> Self {
        Self {
            start: place.start,
            leader_epoch: place.leader_epoch,
            last_read_epoch: place.last_read_epoch,
            max_bytes: place.max_bytes,
            no_redirect: place.no_redirect,
        }
    }
}

struct ReadDone {
    token: u64,
    turn: u64,
    outcome: Result<ReadData, ReadStop>,
}

/// Data of one partition, or why there is no more of it.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) token: u64,
    pub(super) data: v1::PartitionData,
    /// Bytes of the payload; 0 for an error.
    pub(super) bytes: usize,
    /// Where the payload begins; `None` for an error.
    pub(super) from: Option<Offset>,
    /// The partition gave an error or diverges: it is not read on until it is set anew.
    pub(super) stopped: bool,
}

// === impl Subscription ===

impl Subscription {
    /// As the client named it.
    fn wire(&self) -> v1::TopicPartition {
        v1::TopicPartition { topic: self.topic.clone(), ..wire_partition(self.id) }
    }
}

// === impl Piece ===

impl Piece {
    /// The same without what was read, as if it had not been: the place and what is known of the
    /// partition.
    pub(super) fn without_payload(mut self) -> Self {
        use v1::partition_data::Outcome;
        match &mut self.data.outcome {
            Some(Outcome::Batches(batches)) => batches.batches.clear(),
            Some(Outcome::Records(records)) => records.records.clear(),
            _ => return self,
        }
        self.data.next_offset = self.from.map(Offset::get);
        self.data.caught_up = false;
        self.data.credit_bytes = 0;
        self.bytes = 0;
        self
    }
}

// === impl Subscriptions ===

impl Subscriptions {
    pub(super) fn new(catalog: Catalog, decoder: Decoder, format: Format) -> Self {
        Self {
            catalog,
            decoder,
            format,
            all: HashMap::new(),
            by_id: HashMap::new(),
            next_token: 0,
            line: VecDeque::new(),
            ready: ReadySet::new(),
            woken: Vec::new(),
            aside: FuturesUnordered::new(),
            nearby: None,
        }
    }

    /// For a reader that may have said where it is.
    pub(super) fn nearby(self, nearby: Option<Nearby>) -> Self {
        Self { nearby, ..self }
    }

    /// Adds a partition, or moves it to another place; it is no longer paused then. Returns its
    /// token.
    pub(super) fn set(
        &mut self,
        partition: &Arc<Partition>,
        topic: &TopicRef,
        place: Place,
    ) -> u64 {
        let id = partition.id();
        // Another token: what is being read for the old place finds nobody. And a partition that
        // stopped may have been closed and opened anew: the new one is watched.
        self.remove(id);
        let token = self.next_token;
        self.next_token += 1;
        let subscription = Subscription {
            id,
            topic: topic.name.as_ref().map(ToString::to_string).unwrap_or_default(),
            partition: Arc::clone(partition),
            start: place.start,
            leader_epoch: place.leader_epoch,
            last_read_epoch: place.last_read_epoch,
            max_bytes: place.max_bytes,
            no_redirect: place.no_redirect,
            look_at: None,
            traffic: self.catalog.traffic(partition.topic()),
            turn: 0,
            in_line: false,
            reading: false,
            woken: false,
            paused: false,
            told: None,
            _watch: partition.watch(&self.ready, token),
        };
        self.all.insert(token, subscription);
        self.by_id.insert(id, token);
        self.enter_line(token);
        token
    }

    /// Reads a partition no more. Whether it was there.
    pub(super) fn remove(&mut self, id: TopicPartition) -> bool {
        match self.by_id.remove(&id) {
            Some(token) => self.all.remove(&token).is_some(),
            None => false,
        }
    }

    /// Reads a partition no more, by its token.
    pub(super) fn remove_token(&mut self, token: u64) {
        if let Some(gone) = self.all.remove(&token) {
            self.by_id.remove(&gone.id);
        }
    }

    /// Keeps the place, reads nothing. Whether it is there.
    pub(super) fn pause(&mut self, id: TopicPartition) -> bool {
        let Some(subscription) = self.by_id.get(&id).and_then(|token| self.all.get_mut(token))
        else {
            return false;
        };
        subscription.paused = true;
        // What is being read now will not be handed out.
        subscription.turn += 1;
        subscription.reading = false;
        true
    }

    /// Goes on from where it was paused. Whether it is there.
    pub(super) fn resume(&mut self, id: TopicPartition) -> bool {
        let Some(&token) = self.by_id.get(&id) else { return false };
        if let Some(subscription) = self.all.get_mut(&token) {
            subscription.paused = false;
        }
        self.enter_line(token);
        true
    }

    pub(super) fn contains(&self, id: TopicPartition) -> bool {
        self.by_id.contains_key(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Some read waits for the disk or for decompression.
    pub(super) fn is_reading(&self) -> bool {
        !self.aside.is_empty()
    }

    /// The next piece, of at most `max_bytes` (but one batch or record comes whole).
    ///
    /// Cancel safe.
    pub(super) async fn next(&mut self, max_bytes: usize) -> Piece {
        loop {
            if let Some(piece) = self.try_next(max_bytes) {
                return piece;
            }
            let Self { ready, woken, aside, .. } = self;
            tokio::select! {
                () = ready.ready(woken) => {}
                Some(done) = aside.next(), if !aside.is_empty() => {
                    if let Some(piece) = self.finish(done) {
                        return piece;
                    }
                }
            }
        }
    }

    /// The next piece, if there is one without waiting.
    pub(super) fn try_next(&mut self, max_bytes: usize) -> Option<Piece> {
        // Those that stepped aside first, or a busy partition would keep them there.
        while let Some(Some(done)) = self.aside.next().now_or_never() {
            if let Some(piece) = self.finish(done) {
                return Some(piece);
            }
        }
        self.ready.take_ready(&mut self.woken);
        for token in std::mem::take(&mut self.woken) {
            self.enter_line(token);
        }
        while self.aside.len() < ASIDE_MAX
            && let Some(token) = self.line.pop_front()
        {
            if let Some(piece) = self.send_away(token) {
                return Some(piece);
            }
            let Some(mut read) = self.start_read(token, max_bytes) else { continue };
            match (&mut read).now_or_never() {
                None => self.aside.push(read),
                Some(done) => {
                    if let Some(piece) = self.finish(done) {
                        return Some(piece);
                    }
                }
            }
        }
        None
    }

    fn enter_line(&mut self, token: u64) {
        let Some(subscription) = self.all.get_mut(&token) else { return };
        if subscription.reading {
            subscription.woken = true;
        } else if !subscription.in_line && !subscription.paused {
            subscription.in_line = true;
            self.line.push_back(token);
        }
    }

    /// A reader that is better served elsewhere is told where, and not read for any more.
    fn send_away(&mut self, token: u64) -> Option<Piece> {
        let nearby = self.nearby.as_ref()?;
        let subscription = self.all.get_mut(&token).filter(|s| !s.paused && !s.no_redirect)?;
        let Start::At(from) = subscription.start else { return None };
        if !nearby.looks(&mut subscription.look_at) {
            return None;
        }
        let replica = nearby.replica(&self.catalog, &subscription.partition, from)?;
        let data = v1::PartitionData {
            partition: Some(subscription.wire()),
            preferred_read_replica: Some(replica),
            ..v1::PartitionData::default()
        };
        self.remove_token(token);
        Some(Piece { token, data, bytes: 0, from: None, stopped: true })
    }

    fn start_read(&mut self, token: u64, max_bytes: usize) -> Option<BoxFuture<'static, ReadDone>> {
        let subscription = self.all.get_mut(&token)?;
        subscription.in_line = false;
        if subscription.paused {
            return None;
        }
        subscription.reading = true;
        subscription.woken = false;
        let spec = ReadSpec {
            start: subscription.start,
            leader_epoch: subscription.leader_epoch,
            last_read_epoch: subscription.last_read_epoch,
            max_bytes: subscription.max_bytes.map_or(max_bytes, |own| own.min(max_bytes)),
            format: self.format,
            copies: if self.nearby.is_some() { Copies::InSync } else { Copies::Leader },
        };
        let turn = subscription.turn;
        let partition = Arc::clone(&subscription.partition);
        let (catalog, decoder) = (self.catalog.clone(), self.decoder.clone());
        let read = async move {
            let outcome = reading::read(&catalog, &decoder, &partition, spec).await;
            ReadDone { token, turn, outcome }
        };
        Some(read.boxed())
    }

    /// Takes note of a read; `None` if there is nothing to tell the client.
    fn finish(&mut self, done: ReadDone) -> Option<Piece> {
        let ReadDone { token, turn, outcome } = done;
        let subscription = self.all.get_mut(&token).filter(|s| s.turn == turn)?;
        subscription.reading = false;
        let partition = subscription.wire();
        match outcome {
            Ok(data) => {
                subscription.start = Start::At(data.next_offset);
                subscription.last_read_epoch = None;
                let records = data.next_offset.distance_from(data.from);
                let bytes = data.bytes as u64;
                subscription.traffic.observe_fetched(records, bytes);
                if self.nearby.is_some() && subscription.partition.leads().is_none() {
                    subscription.traffic.observe_followed(bytes);
                }
                let stands = (data.is_caught_up(), data.others_may_lead);
                let told = subscription.told.replace(stands);
                let silent = data.is_empty() && told == Some(stands);
                if !data.is_exhausted() || subscription.woken {
                    self.enter_line(token);
                }
                (!silent).then(|| Piece {
                    token,
                    bytes: data.bytes,
                    from: Some(data.from),
                    data: data.into_wire(partition),
                    stopped: false,
                })
            }
            Err(stop) => {
                self.remove_token(token);
                let data = stop.into_wire(partition, &self.catalog);
                Some(Piece { token, data, bytes: 0, from: None, stopped: true })
            }
        }
    }
}

impl fmt::Debug for Subscriptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriptions")
            .field("partitions", &self.all.len())
            .field("in_line", &self.line.len())
            .field("aside", &self.aside.len())
            .finish_non_exhaustive()
    }
}
