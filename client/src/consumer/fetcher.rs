//! The consumer's background task: it learns where partitions are, turns places into offsets,
//! keeps one stream per leader, and moves what comes into the buffer within the credit.
//!
//! [`Fetcher::reconcile`] compares what each partition wants with what its leader was told, and
//! tells the difference; everything else only changes what is wanted.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures::{
    FutureExt, StreamExt,
    future::BoxFuture,
    stream::{BoxStream, FuturesUnordered, SelectAll},
};
use riverrun_proto::{ids::BrokerId, reason::Reason};

use super::{
    doubts::Doubts,
    lane::{self, Key, Lane, Lanes, Link, Wanted},
    nearby::{Nearby, Route},
    partition,
    shared::{Cell, Shared},
};
use crate::{
    admin::ListedOffset,
    client::Client,
    clock::{self, Instant},
    connection::{FetchEvent, FetchFrom, FetchLink, FetchSetup},
    error::{Error, Result},
    metadata::Freshness,
    retry,
    topic::{Position, Topic, TopicPartition},
};

/// See the module.
pub(super) struct Fetcher {
    pub(super) shared: Arc<Shared>,
    pub(super) client: Client,
    /// Topics of which all partitions are read.
    whole_topics: HashSet<Arc<str>>,
    topics: HashMap<Arc<str>, Known>,
    /// Leaders that were told by hint, and of which epoch.
    pub(super) hints: HashMap<Key, (BrokerId, i32)>,
    /// Where partitions are read from, if this consumer named its rack.
    pub(super) nearby: HashMap<Key, (Nearby, Route)>,
    /// Leaders that may be superseded.
    pub(super) doubts: Doubts,
    pub(super) lanes: Lanes,
    pub(super) events: SelectAll<BoxStream<'static, LinkNews>>,
    tasks: FuturesUnordered<BoxFuture<'static, TaskDone>>,
    next_refresh: Instant,
    /// Credit of each lane.
    pub(super) window: u64,
    /// What is wanted may differ from what was told.
    pub(super) stale: bool,
    /// When something that only waits for time is due.
    next_due: Option<Instant>,
}

/// What is known of a topic.
#[derive(Default)]
struct Known {
    topic: Option<Arc<Topic>>,
    under_way: bool,
    failures: u32,
    /// Before it is looked up again.
    wait: Duration,
}

/// News of a stream: of which lane and incarnation; `None`: it ended.
pub(super) type LinkNews = (BrokerId, u64, Option<Result<FetchEvent>>);

pub(super) type OpenedStream = (FetchLink, BoxStream<'static, Result<FetchEvent>>);

/// Partitions whose place is asked for, and their versions then.
type Asked = Vec<(Arc<Cell>, u64)>;

enum TaskDone {
    Topic(Arc<str>, Result<Arc<Topic>>),
    Places(Asked, Result<Vec<Result<ListedOffset>>>),
    Opened(BrokerId, Result<OpenedStream>),
}

// === impl Fetcher ===

impl Fetcher {
    pub(super) fn new(shared: Arc<Shared>, client: Client, whole: HashSet<Arc<str>>) -> Self {
        Self {
            next_refresh: clock::now() + client.config().metadata_max_age,
            shared,
            client,
            whole_topics: whole,
            topics: HashMap::new(),
            hints: HashMap::new(),
            nearby: HashMap::new(),
            doubts: Doubts::default(),
            lanes: HashMap::new(),
            events: SelectAll::new(),
            tasks: FuturesUnordered::new(),
            window: 0,
            stale: true,
            next_due: None,
        }
    }

    /// Runs until the consumer is closed.
    pub(super) async fn run(mut self) {
        while !self.shared.is_closed() {
            if std::mem::take(&mut self.stale) {
                self.reconcile();
            }
            let due = self.next_due.map_or(self.next_refresh, |due| due.min(self.next_refresh));
            tokio::select! {
                () = self.shared.changed() => self.stale = true,
                // Batches, the many, change nothing but the credit.
                Some(news) = self.events.next(), if !self.events.is_empty() => self.on_link(news),
                Some(done) = self.tasks.next(), if !self.tasks.is_empty() => {
                    self.stale = true;
                    self.on_task(done);
                }
                () = tokio::time::sleep_until(due) => {
                    self.stale = true;
                    self.on_time();
                }
            }
        }
    }

    // --- wanted and told ---

    fn reconcile(&mut self) {
        let now = clock::now();
        self.next_due = None;
        let mut places = Vec::new();
        let mut wanted: BTreeMap<u32, HashMap<Key, Wanted>> = BTreeMap::new();
        for cell in self.shared.cells() {
            let Some(key) = self.identify(&cell) else { continue };
            let resume_at = {
                let mut live = cell.live.lock();
                let waits = live.resume_at.filter(|at| *at > now);
                if waits.is_none()
                    && let Some(position) = live.ask_place()
                {
                    places.push((Arc::clone(&cell), live.version, position));
                }
                waits
            };
            if let Some(at) = resume_at {
                self.due(at);
            }
            if let Some((broker, want)) = self.want(&cell, key, now) {
                self.ask_who_leads(&cell, key, broker, now);
                wanted.entry(broker.0).or_default().insert(key, want);
            }
        }
        if !places.is_empty() {
            self.ask_places(places);
        }
        for broker in wanted.keys() {
            self.lanes.entry(BrokerId(*broker)).or_insert_with(Lane::new);
        }
        self.window = lane::window(self.shared.config.prefetch_bytes, wanted.len());
        let brokers: Vec<BrokerId> = self.lanes.keys().copied().collect();
        for broker in brokers {
            self.tell(broker, wanted.remove(&broker.0).unwrap_or_default(), now);
        }
    }

    /// The partition's identity, once its topic is known.
    fn identify(&mut self, cell: &Arc<Cell>) -> Option<Key> {
        let name = &cell.key.topic;
        let known = self.topics.entry(Arc::clone(name)).or_default();
        let Some(topic) = &known.topic else {
            self.look_up(&Arc::clone(name), Freshness::Cached);
            return None;
        };
        let mut live = cell.live.lock();
        let id = *live.topic.get_or_insert(topic.id);
        Some((id, cell.key.partition))
    }

    /// Whom a partition is to be read from, if it is not simply its leader.
    fn route(&mut self, cell: &Arc<Cell>, key: Key, now: Instant) -> Route {
        if self.shared.config.rack.is_empty() {
            return Route::Leader;
        }
        let max_age = self.client.config().metadata_max_age;
        let fresh = || (Nearby::new(max_age), Route::Leader);
        let (nearby, told) = self.nearby.entry(key).or_insert_with(fresh);
        let (route, until) = nearby.route(now);
        if std::mem::replace(told, route) != route {
            cell.live.lock().asks_anew();
        }
        if let Some(until) = until {
            self.due(until);
        }
        route
    }

    /// What the broker to read a partition from should be told, and who that is.
    fn want(&mut self, cell: &Arc<Cell>, key: Key, now: Instant) -> Option<(BrokerId, Wanted)> {
        if !cell.live.lock().wants_data(now) {
            return None;
        }
        let route = self.route(cell, key, now);
        let live = cell.live.lock().clone();
        if !live.wants_data(now) {
            return None;
        }
        let topic = self.topics.get(&cell.key.topic)?.topic.clone()?;
        let missing = if topic.id != key.0 {
            Some((Reason::UnknownTopicId, "was deleted and made anew"))
        } else if topic.partitions.len() <= key.1 as usize {
            Some((Reason::UnknownTopicOrPartition, "does not exist"))
        } else {
            None
        };
        if let Some((reason, what)) = missing {
            self.fail(cell, Error::from_reason(reason, format!("{} {what}", cell.key)));
            // It may come into being.
            self.look_up(&cell.key.topic.clone(), Freshness::After(self.client.metadata().mark()));
            return None;
        }
        let partition = &topic.partitions[key.1 as usize];
        let (leader, epoch) = match self.hints.get(&key) {
            Some((broker, epoch)) if *epoch > partition.leader_epoch => (Some(*broker), *epoch),
            _ => (partition.leader, partition.leader_epoch),
        };
        let Some(leader) = leader else {
            self.look_up(&cell.key.topic.clone(), Freshness::After(self.client.metadata().mark()));
            return None;
        };
        let from = FetchFrom {
            topic: key.0,
            partition: key.1,
            offset: live.fetch_offset,
            leader_epoch: (epoch >= 0).then_some(epoch),
            last_read_epoch: live.fetched_epoch.filter(|epoch| *epoch >= 0),
            max_bytes: self.shared.config.partition_bytes,
            no_redirect: route == Route::LeaderOnly,
        };
        let (version, attempt) = (live.version, live.attempt);
        let broker = match route {
            Route::Replica(replica) => replica,
            Route::Leader | Route::LeaderOnly => leader,
        };
        Some((broker, Wanted { cell: Arc::clone(cell), version, attempt, from }))
    }

    /// Where whoever serves a partition says that another may lead by now.
    fn ask_who_leads(&mut self, cell: &Arc<Cell>, key: Key, broker: BrokerId, now: Instant) {
        self.doubts.reads_from(key, broker);
        let Some((is_due, next)) = self.doubts.asks(key, now) else { return };
        if is_due {
            let mark = self.client.metadata().mark();
            self.look_up(&cell.key.topic.clone(), Freshness::Doubted(mark));
        }
        self.due(next);
    }

    fn tell(&mut self, broker: BrokerId, wanted: HashMap<Key, Wanted>, now: Instant) {
        let window = self.window;
        let account = self.shared.account(broker, window);
        let silence = self.shared.config.silence_timeout;
        let Some(lane) = self.lanes.get_mut(&broker) else { return };
        match &mut lane.link {
            Link::Opening { .. } => {}
            Link::Closed { .. } if wanted.is_empty() => {}
            Link::Closed { retry_at } => match retry_at.filter(|at| *at > now) {
                Some(at) => self.due(at),
                None => self.open(broker, wanted, window.saturating_sub(account.buffered)),
            },
            Link::Open(open) => {
                open.update(wanted);
                open.grant(account);
                if open.is_empty() {
                    lane.link = Link::Closed { retry_at: None };
                } else {
                    let silent_at = open.last_heard + silence;
                    self.due(silent_at);
                }
            }
        }
    }

    fn due(&mut self, at: Instant) {
        self.next_due = Some(self.next_due.map_or(at, |due| due.min(at)));
    }

    // --- things asked for ---

    pub(super) fn look_up(&mut self, name: &Arc<str>, freshness: Freshness) {
        let known = self.topics.entry(Arc::clone(name)).or_default();
        if std::mem::replace(&mut known.under_way, true) {
            return;
        }
        let wait = known.wait;
        let (client, name) = (self.client.clone(), Arc::clone(name));
        self.tasks.push(
            async move {
                tokio::time::sleep(wait).await;
                let topic = client.metadata().topic(&name, freshness, false).await;
                TaskDone::Topic(name, topic)
            }
            .boxed(),
        );
    }

    fn ask_places(&mut self, places: Vec<(Arc<Cell>, u64, Position)>) {
        let admin = self.client.admin().timeout(self.client.config().request_timeout);
        let asked: Vec<(TopicPartition, Position)> =
            places.iter().map(|(cell, _, position)| (cell.key.clone(), *position)).collect();
        let cells: Asked = places.into_iter().map(|(cell, version, _)| (cell, version)).collect();
        self.tasks
            .push(async move { TaskDone::Places(cells, admin.list_offsets(asked).await) }.boxed());
    }

    fn open(&mut self, broker: BrokerId, wanted: HashMap<Key, Wanted>, credit_bytes: u64) {
        let Some(lane) = self.lanes.get_mut(&broker) else { return };
        let sent = wanted.iter().map(|(key, wanted)| (*key, wanted.as_sent())).collect();
        lane.link = Link::Opening { sent, credit: credit_bytes };
        let config = &self.shared.config;
        let setup = FetchSetup {
            partitions: wanted.into_values().map(|wanted| wanted.from).collect(),
            credit_bytes,
            min_bytes: config.min_bytes,
            max_wait: config.max_wait,
            read_committed: config.read_committed,
            rack: config.rack.clone(),
        };
        let address = self.client.metadata().address(broker);
        let client = self.client.clone();
        self.tasks.push(
            async move {
                let opened = match address {
                    Some(address) => client.connections().fetch_stream(&address, setup).await,
                    None => {
                        let why = format!("the address of {broker:?} is not known");
                        Err(Error::connection(why))
                    }
                };
                TaskDone::Opened(broker, opened)
            }
            .boxed(),
        );
    }

    fn on_task(&mut self, done: TaskDone) {
        match done {
            TaskDone::Topic(name, topic) => self.on_topic(&name, topic),
            TaskDone::Places(asked, Ok(offsets)) => {
                for ((cell, version), offset) in asked.into_iter().zip(offsets) {
                    self.on_place(&cell, version, offset.map(|listed| listed.offset));
                }
            }
            TaskDone::Places(asked, Err(error)) => {
                for (cell, version) in asked {
                    self.on_place(&cell, version, Err(error.clone()));
                }
            }
            TaskDone::Opened(broker, opened) => self.on_opened(broker, opened),
        }
    }

    fn on_topic(&mut self, name: &Arc<str>, topic: Result<Arc<Topic>>) {
        let known = self.topics.entry(Arc::clone(name)).or_default();
        known.under_way = false;
        let (retry, jitter) = (self.shared.config.retry, retry::jitter());
        match topic {
            Ok(topic) => {
                // Where a leader cannot be reached, it may be that another is being elected.
                let (lanes, now) = (&self.lanes, clock::now());
                let is_sought = |cell: &Arc<Cell>| {
                    let index = cell.key.partition as usize;
                    let leader = topic.partitions.get(index).and_then(|p| p.leader);
                    cell.key.topic == *name
                        && leader
                            .is_some_and(|l| lanes.get(&l).is_some_and(|lane| lane.is_failing(now)))
                };
                let sought = self.shared.cells().iter().any(is_sought);
                let leaderless = topic.partitions.iter().any(|p| p.leader.is_none());
                let fails = sought || leaderless;
                let wait = || retry.seeking(known.failures, jitter);
                known.wait = if fails { wait() } else { Duration::ZERO };
                known.failures = if fails { known.failures.saturating_add(1) } else { 0 };
                known.topic = Some(Arc::clone(&topic));
                if self.whole_topics.contains(name) {
                    self.assign_new(&topic);
                }
                if sought {
                    let mark = self.client.metadata().mark();
                    self.look_up(name, Freshness::Doubted(mark));
                }
            }
            Err(error) => {
                known.wait = retry.backoff(known.failures, jitter);
                known.failures = known.failures.saturating_add(1);
                tracing::debug!(topic = %name, %error, "no metadata");
                if !error.is_retriable() {
                    let error = error.context(format_args!("topic {name:?}"));
                    for cell in self.shared.cells().iter().filter(|cell| cell.key.topic == *name) {
                        self.fail(cell, error.clone());
                    }
                }
            }
        }
    }

    /// Partitions that a topic has grown by are read from their beginning.
    fn assign_new(&self, topic: &Topic) {
        for partition in &topic.partitions {
            let key = TopicPartition::new(Arc::clone(&topic.name), partition.index);
            if self.shared.cell(&key).is_err() {
                self.shared.assign(key, Position::Earliest);
            }
        }
    }

    fn on_place(&mut self, cell: &Arc<Cell>, version: u64, offset: Result<i64>) {
        let retry = self.shared.config.retry;
        let now = clock::now();
        let failed = self.shared.change(cell, |live| {
            if live.version != version {
                return None;
            }
            match offset {
                Ok(offset) => {
                    live.resolved(offset);
                    None
                }
                Err(error) => {
                    live.ask_again();
                    live.retry_at(now + partition::backoff(&retry, live.failures, &error));
                    (!error.is_retriable()).then_some(error)
                }
            }
        });
        if let Some(error) = failed {
            self.fail(cell, error);
        }
    }

    // --- time ---

    fn on_time(&mut self) {
        let now = clock::now();
        let silence = self.shared.config.silence_timeout;
        let silent: Vec<BrokerId> = self
            .lanes
            .iter()
            .filter(|(_, lane)| match &lane.link {
                Link::Open(open) => now.duration_since(open.last_heard) >= silence,
                Link::Opening { .. } | Link::Closed { .. } => false,
            })
            .map(|(broker, _)| *broker)
            .collect();
        for broker in silent {
            let error = Error::connection(format!("not even a heartbeat for {silence:?}"));
            self.on_lost(broker, &error);
        }
        if self.next_refresh <= now {
            self.next_refresh = now + self.client.config().metadata_max_age;
            let mark = self.client.metadata().mark();
            let names: Vec<Arc<str>> = self.topics.keys().cloned().collect();
            for name in names {
                self.look_up(&name, Freshness::After(mark));
            }
        }
    }
}

impl Drop for Fetcher {
    /// Its runtime is being shut down: the reader must not wait for ever.
    fn drop(&mut self) {
        self.shared.close();
    }
}
