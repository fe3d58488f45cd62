//! What all calls share: the broker's parts, and the budgets of this service.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use riverrun_proto::{
    ids::{BrokerId, ClusterId},
    reason::Reason,
    rpc::v1,
};
use tokio::time::{sleep, timeout};
use tonic::{Request, Response, Status, Streaming, metadata::MetadataMap};

use super::{
    ServiceEnv,
    admission::{ByteBudget, BytePermit},
    convert::{self, PartitionRef, TopicRef},
    deadline,
    decode::Decoder,
    forward::Forwarder,
    freshness::Freshness,
    limits::Limits,
    resolve::Catalog,
    shares::{Admission, Admitted, Progress, Short},
    status::Failure,
};
use crate::{
    clock::{Clock, WallTrust},
    config::{TopicConfig, TopicDefaults, TopicOverrides},
    controller::{
        Controller, ControllerError, Mode, ProducerIds,
        topics::{NewTopic, TopicError},
    },
    metadata::Topic,
    partition::{Partition, registry::Registry},
    shutdown::Shutdown,
    telemetry::{Bound, Bounds, Request as Called, RequestMetrics, Usage},
};

/// Shortest pause between two looks at whether a partition gets on.
const ADMISSION_LOOK_MIN: Duration = Duration::from_millis(1);

/// See the module.
pub(super) struct Core {
    pub(super) broker: BrokerId,
    pub(super) cluster: ClusterId,
    pub(super) limits: Limits,
    pub(super) catalog: Catalog,
    freshness: Freshness,
    pub(super) forwarder: Forwarder,
    pub(super) controller: Controller,
    pub(super) producer_ids: ProducerIds,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) wall: WallTrust,
    pub(super) shutdown: Shutdown,
    pub(super) requests: RequestMetrics,
    pub(super) hits: Hits,
    /// Batches received and not yet answered.
    admission: Admission,
    /// Large answers on their way.
    fetch_budget: ByteBudget,
    /// Large messages on their way in.
    pub(super) receive_budget: ByteBudget,
    pub(super) decoder: Decoder,
    registry: Arc<Registry>,
    topic_defaults: TopicDefaults,
    auto_create: bool,
    /// Unary fetches that wait.
    fetch_waiters: Arc<AtomicUsize>,
    /// Where the next keyless unary produce goes.
    turn: AtomicU32,
}

/// Counters of bounds that were hit.
pub(super) struct Hits {
    admission: Bound,
    partition_share: Bound,
    pub(super) receiving: Bound,
    pub(super) stream_in_flight: Bound,
    pub(super) fetch_partitions: Bound,
    fetch_memory: Bound,
    fetch_waiters: Bound,
}

/// A unary fetch that waits; counted until dropped.
#[derive(Debug)]
pub(super) struct FetchWaiter(Arc<AtomicUsize>);

// === impl Core ===

impl Core {
    pub(super) fn new(env: ServiceEnv, bounds: &Bounds) -> Self {
        let limits = env.limits;
        let admission = Admission::new(limits.admission_bytes);
        let fetch_budget = ByteBudget::new(limits.fetch_memory_bytes);
        let receive_budget = ByteBudget::new(limits.receive_bytes);
        let fetch_waiters = Arc::new(AtomicUsize::new(0));
        let hits = Hits {
            admission: bounds.watch_pool("produce", {
                let admission = admission.clone();
                move || Usage { used: admission.used() as u64, limit: admission.total() as u64 }
            }),
            partition_share: bounds.watch("produce.partition.share", {
                let admission = admission.clone();
                move || Usage { used: admission.largest() as u64, limit: admission.share() as u64 }
            }),
            fetch_memory: watch_budget(bounds, "fetch", &fetch_budget),
            receiving: watch_budget(bounds, "receive", &receive_budget),
            fetch_waiters: bounds.watch("fetch.waiters.max", {
                let (waiters, limit) =
                    (Arc::clone(&fetch_waiters), limits.fetch_waiters_max as u64);
                move || Usage { used: waiters.load(Ordering::Relaxed) as u64, limit }
            }),
            stream_in_flight: watch_limit(
                bounds,
                "produce.stream.in.flight.bytes",
                limits.stream_in_flight_bytes,
            ),
            fetch_partitions: watch_limit(
                bounds,
                "fetch.partitions.max",
                limits.fetch_partitions_max,
            ),
        };
        let catalog = Catalog::new(
            env.broker,
            Arc::clone(env.controller.quorum()),
            Arc::clone(&env.registry),
            env.topics,
        );
        Self {
            broker: env.broker,
            cluster: env.cluster,
            catalog,
            forwarder: Forwarder::new(env.to_leaders, limits.forwarded_max, bounds),
            freshness: Freshness::new(env.broker, Arc::clone(env.controller.quorum())),
            topic_defaults: env.controller.policy().defaults.clone(),
            controller: env.controller,
            producer_ids: env.producer_ids,
            clock: env.clock,
            wall: env.wall,
            shutdown: env.shutdown,
            requests: env.requests,
            hits,
            admission,
            fetch_budget,
            receive_budget,
            decoder: Decoder::new(limits.decode_jobs_max),
            registry: env.registry,
            auto_create: env.auto_create,
            fetch_waiters,
            turn: AtomicU32::new(0),
            limits,
        }
    }

    /// Runs one unary call: refuses it while draining, bounds its time, counts it, and makes its
    /// failure a status.
    pub(super) async fn unary<Req, Resp>(
        &self,
        called: Called,
        request: Request<Req>,
        handle: impl AsyncFnOnce(Req, Duration) -> Result<Resp, Failure>,
    ) -> Result<Response<Resp>, Status> {
        let began = self.clock.monotonic();
        let (metadata, _, request) = request.into_parts();
        let outcome = match self.shutdown.is_draining() {
            true => Err(Failure::draining()),
            false => handle(request, self.time_for(&metadata)).await,
        };
        self.requests.observe(called, self.clock.monotonic().duration_since(began));
        outcome.map(Response::new).map_err(|failure| {
            self.requests.observe_error(called, failure.reason());
            self.catalog.status(&failure)
        })
    }

    fn time_for(&self, metadata: &MetadataMap) -> Duration {
        deadline::time_for(metadata, self.limits.request_timeout)
    }

    /// The first request of a stream; `None` if the client ended it without one.
    pub(super) async fn first_request<T>(
        &self,
        requests: &mut Streaming<T>,
    ) -> Result<Option<T>, Failure> {
        if self.shutdown.is_draining() {
            return Err(Failure::draining());
        }
        match timeout(self.limits.request_timeout, requests.message()).await {
            Ok(Ok(first)) => Ok(first),
            Ok(Err(status)) => Err(Failure::from(&status)),
            Err(_) => Err(Failure::timed_out("no `open` came; it must be the first request")),
        }
    }

    /// Admission of `bytes` for `partition`, if it need not wait.
    pub(super) fn try_admit(&self, partition: &Partition, bytes: usize) -> Option<Admitted> {
        match self.admission.try_take(partition.id(), bytes, self.progress(partition)) {
            Ok(admitted) => return Some(admitted),
            Err(Short::Share) => self.hits.partition_share.hit(),
            Err(Short::Budget) => self.hits.admission.hit(),
        }
        None
    }

    /// Admission of `bytes` for `partition`, when it is its turn; refused when the partition hangs:
    /// it holds bytes and its high watermark has stood still for `produce.admission.wait.ms`. Else
    /// whoever waits for it would hang with it, and what comes behind as well.
    ///
    /// Cancel safe; dropped, it loses its place in the line.
    pub(super) async fn admit_in_turn(
        self: Arc<Self>,
        partition: Arc<Partition>,
        bytes: usize,
    ) -> Result<Admitted, Failure> {
        let most = self.limits.admission_wait;
        let taking = self.admission.clone().take(partition.id(), bytes);
        tokio::pin!(taking);
        loop {
            let still_for = self.admission.still_for(partition.id(), self.progress(&partition));
            let left = most.saturating_sub(still_for.unwrap_or_default());
            let hangs = still_for.is_some() && left.is_zero();
            tokio::select! {
                biased;
                admitted = &mut taking => return Ok(admitted),
                () = std::future::ready(()), if hangs => {
                    let message = format!(
                        "the partition has not got on for {most:?} and holds as much as it may of \
                         what the broker keeps unanswered (produce.admission.wait.ms); slow down, \
                         or look at its disk and replicas"
                    );
                    return Err(Failure::throttled(message));
                }
                () = sleep(left.max(ADMISSION_LOOK_MIN)), if !hangs => {}
            }
        }
    }

    /// Admission of a unary produce: waits its turn, but not forever.
    pub(super) async fn admit(
        self: &Arc<Self>,
        partition: &Arc<Partition>,
        bytes: usize,
        time: Duration,
    ) -> Result<Admitted, Failure> {
        if let Some(admitted) = self.try_admit(partition, bytes) {
            return Ok(admitted);
        }
        let wait = self.limits.admission_wait.min(time);
        let admitting = Arc::clone(self).admit_in_turn(Arc::clone(partition), bytes);
        timeout(wait, admitting).await.map_err(|_| {
            Failure::throttled(format!(
                "the broker holds {} bytes of batches that are not yet answered; its limit is {} \
                 (produce.admission.percent), a quarter of that for one partition; slow down",
                self.admission.used(),
                self.admission.total()
            ))
        })?
    }

    fn progress(&self, partition: &Partition) -> Progress {
        Progress { high_watermark: partition.high_watermark(), now: self.clock.monotonic() }
    }

    /// Memory for a large answer.
    pub(super) async fn fetch_memory(&self, bytes: usize) -> BytePermit {
        if let Some(permit) = self.fetch_budget.try_take(bytes) {
            return permit;
        }
        self.hits.fetch_memory.hit();
        self.fetch_budget.clone().take(bytes).await
    }

    /// The right to wait for records; `None` if too many wait already.
    pub(super) fn fetch_waiter(&self) -> Option<FetchWaiter> {
        let waiter = FetchWaiter(Arc::clone(&self.fetch_waiters));
        if self.fetch_waiters.fetch_add(1, Ordering::Relaxed) >= self.limits.fetch_waiters_max {
            self.hits.fetch_waiters.hit();
            return None;
        }
        Some(waiter)
    }

    /// The topic a request names; made, if it does not exist and `may_create` and the configuration
    /// allow that.
    pub(super) async fn topic(
        &self,
        named: &TopicRef,
        may_create: bool,
    ) -> Result<Arc<Topic>, Failure> {
        let failure = match self.catalog.topic(named) {
            Ok(topic) => return Ok(topic),
            Err(failure) => failure,
        };
        let (Some(name), true, Reason::UnknownTopicOrPartition) =
            (&named.name, may_create && self.auto_create, failure.reason())
        else {
            return Err(failure);
        };
        let new = NewTopic { name: name.to_string(), ..NewTopic::default() };
        match self.controller.create_topic(&new, Mode::Apply).await {
            // Somebody else just made it.
            Ok(_) | Err(ControllerError::Topic(TopicError::Exists { .. })) => {}
            Err(error) => return Err(error.into()),
        }
        self.wait_applied().await;
        self.catalog.topic(named)
    }

    /// Waits, where one of these topics is not known here, until it is certain that it is not known
    /// anywhere, as far as that can be had: what is said of it then is not said from behind.
    pub(super) async fn hear_of_topics(&self, named: impl IntoIterator<Item = TopicRef>) {
        if named.into_iter().any(|topic| !self.catalog.knows_topic(&topic)) {
            self.catch_up().await;
        }
    }

    /// The same for partitions; what names none does not matter here.
    pub(super) async fn hear_of<'a>(
        &self,
        named: impl IntoIterator<Item = Option<&'a v1::TopicPartition>>,
    ) {
        let unknown = |named: Option<&v1::TopicPartition>| {
            let named: Option<PartitionRef> = convert::partition_ref(named).ok();
            named.is_some_and(|named| !self.catalog.knows(&named))
        };
        if named.into_iter().any(unknown) {
            self.catch_up().await;
        }
    }

    /// Waits until this broker has all that was made anywhere; not forever.
    pub(super) async fn catch_up(&self) {
        if self.freshness.catch_up().await {
            self.wait_applied().await;
        }
    }

    /// Waits until what the metadata log says now holds on this broker: a topic just made can be
    /// written to.
    pub(super) async fn wait_applied(&self) {
        self.registry.wait_applied(self.catalog.image().offset()).await;
    }

    /// Runs a change of the cluster within the call's time. It may be carried out even so.
    pub(super) async fn within<T>(
        &self,
        time: Duration,
        change: impl Future<Output = Result<T, ControllerError>>,
    ) -> Result<T, Failure> {
        match timeout(time, change).await {
            Ok(outcome) => outcome.map_err(Failure::from),
            Err(_) => {
                let message = "the controller did not answer in time; the change may yet be made";
                Err(Failure::timed_out(message).indefinite())
            }
        }
    }

    /// Refuses a request that names too many partitions.
    pub(super) fn check_partition_count(
        &self,
        count: usize,
        field: &'static str,
    ) -> Result<(), Failure> {
        let max = self.limits.partitions_per_request_max;
        if count > max {
            let message = format!("{count} partitions in one call; at most {max}");
            return Err(Failure::invalid(field, message));
        }
        Ok(())
    }

    /// A topic as clients see it.
    pub(super) fn wire_topic(&self, topic: &Topic) -> v1::Topic {
        convert::wire_topic(topic, self.topic_config(topic).max_message_bytes.as_usize())
    }

    /// A topic's configuration in force.
    pub(super) fn topic_config(&self, topic: &Topic) -> TopicConfig {
        let replicas = u32::try_from(topic.replication_factor()).unwrap_or(u32::MAX);
        self.topic_overrides(topic).resolve(&self.topic_defaults, replicas)
    }

    /// What a topic sets; nothing where it was stored by a version that knew other keys.
    pub(super) fn topic_overrides(&self, topic: &Topic) -> TopicOverrides {
        TopicOverrides::from_stored(&topic.configs).unwrap_or_default()
    }

    /// What topics that set nothing are like.
    pub(super) fn topic_defaults(&self) -> &TopicDefaults {
        &self.topic_defaults
    }

    /// Numbers that go round: where keyless records go next.
    pub(super) fn next_turn(&self) -> u32 {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }
}

impl Drop for FetchWaiter {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core")
            .field("broker", &self.broker)
            .field("admission", &self.admission)
            .finish_non_exhaustive()
    }
}

fn watch_budget(bounds: &Bounds, pool: &'static str, budget: &ByteBudget) -> Bound {
    let budget = budget.clone();
    bounds.watch_pool(pool, move || Usage {
        used: budget.used() as u64,
        limit: budget.total() as u64,
    })
}

/// A limit of each stream or call: only hits are counted, nothing is taken from a common stock.
fn watch_limit(bounds: &Bounds, key: &'static str, limit: usize) -> Bound {
    bounds.watch(key, move || Usage { used: 0, limit: limit as u64 })
}
