//! The service as tests see it: gRPC on loopback TCP, the real metadata log, real partitions on the
//! simulated disk.

pub(super) use std::{
    path::Path,
    sync::{Arc, mpsc},
    time::Duration,
};

pub(super) use bytes::Bytes;
pub(super) use prost::Message;
pub(super) use riverrun_proto::{
    ids::{IncarnationId, TopicId, TopicPartition},
    record::{BatchBuilder, BatchOptions, RecordBatch},
    timestamp::Timestamp,
};
pub(super) use tokio::task::JoinHandle;
pub(super) use tonic::{Code, Status, transport::Channel};

use super::*;
pub(super) use crate::{
    clock::{SystemClock, WallTrust},
    config::{ByteSize, Config},
    controller::{
        LocalOptions, LocalQuorum, MetaProperties, MetaQuorum, Update, topics::TopicPolicy,
    },
    io::{Disk, Failure, sim::SimDisk},
    log::{LogBudgets, LogEnv, SaltSource},
    metadata::{
        Command, Delta, Endpoint, FeatureLevel, FeatureRange, Reply,
        command::{RegisterBroker, SetFeatureLevel},
    },
    partition::{
        IoPool, Lane, ParkedLimit, Partition, PartitionEnv, ReadBudget,
        registry::{Registry, RegistryEnv},
        replication::Replication,
    },
    telemetry::{Registry as Metrics, StorageMetrics},
};
pub(super) use v1::{
    admin_service_client::AdminServiceClient, consume_service_client::ConsumeServiceClient,
    metadata_service_client::MetadataServiceClient, produce_service_client::ProduceServiceClient,
};

/// Only reached when a test is about to fail.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A broker without its ports and housekeeping but the gRPC one.
pub(super) struct Broker {
    pub(super) channel: Channel,
    pub(super) registry: Arc<Registry>,
    pub(super) quorum: Arc<LocalQuorum>,
    pub(super) pool: IoPool,
    pub(super) disk: SimDisk,
    pub(super) shutdown: Shutdown,
    pub(super) metrics: Metrics,
    pub(super) serving: JoinHandle<()>,
}

/// What a test may change before the start.
pub(super) struct Setup {
    pub(super) limits: Limits,
    pub(super) config: Config,
    pub(super) io_threads: usize,
    /// What the service takes for the metadata quorum.
    pub(super) quorum: fn(Arc<LocalQuorum>) -> Arc<dyn MetaQuorum>,
}

/// Holds up all log work of a broker until dropped.
pub(super) struct Gate(Vec<mpsc::SyncSender<()>>);

impl Broker {
    pub(super) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub(super) async fn with(change: impl FnOnce(&mut Setup)) -> Self {
        let config = Config::default();
        let limits = Limits::new(&config, ByteSize::mib(64));
        let mut setup = Setup { limits, config, io_threads: 2, quorum: |quorum| quorum };
        change(&mut setup);
        let Setup { limits, config, io_threads, quorum: seen } = setup;

        let disk = SimDisk::new(3);
        let root = Path::new("/broker");
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        shared.create_dir(root).unwrap();
        shared.create_dir(&root.join("data")).unwrap();
        let failure = Failure::open(Arc::clone(&shared), root);
        let node = BrokerId(1);
        let identity = MetaProperties::open_or_format(&shared, root, node, None, &failure).unwrap();
        let quorum = LocalQuorum::open(
            Arc::clone(&shared),
            root,
            &identity,
            &failure,
            LocalOptions::default(),
        );
        let quorum = Arc::new(quorum.unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let epoch = register(&quorum, identity, address.port()).await;

        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let metrics = Metrics::new();
        let pool = IoPool::start(io_threads, 2).unwrap();
        let env = RegistryEnv {
            me: node,
            dir: root.join("data"),
            log: LogEnv::new(shared, failure.clone(), SaltSource::seeded(5), LogBudgets::default()),
            partition: PartitionEnv {
                clock: Arc::clone(&clock),
                wall: WallTrust::unquestioned(),
                pool: pool.clone(),
                read_budget: ReadBudget::new(4 << 20),
                parked: ParkedLimit::new(limits.parked_bytes_max),
                replication: Replication::alone(),
                gate: crate::partition::WriteGate::default(),
                failure,
                metrics: StorageMetrics::register(&metrics),
            },
            topic_defaults: config.topic.clone(),
            log_settings: config.log.clone(),
            produce_settings: config.produce.clone(),
        };
        let subscription = quorum.subscribe();
        let (registry, _) = Registry::open(env, subscription.start(), false).unwrap();
        tokio::spawn(follow(subscription, Arc::clone(&registry)));

        let shutdown = Shutdown::new();
        let bounds = Bounds::register(&metrics);
        let log = seen(Arc::clone(&quorum));
        let env = ServiceEnv {
            broker: node,
            to_leaders: None,
            cluster: identity.cluster,
            limits,
            network: config.network.clone(),
            security: None,
            auto_create: config.broker.auto_create_topics_enable,
            registry: Arc::clone(&registry),
            producer_ids: ProducerIds::new(Arc::clone(&log), node, epoch),
            controller: Controller::new(
                log,
                TopicPolicy::new(&config.broker, config.topic.clone()),
            ),
            clock,
            wall: WallTrust::unquestioned(),
            requests: RequestMetrics::register(&metrics),
            topics: TopicMetrics::register(&metrics, 10),
            shutdown: shutdown.clone(),
        };
        let serving =
            tokio::spawn(serve(listener, tokio::sync::mpsc::channel(1).1, env, &bounds).await);
        let channel = Channel::from_shared(format!("http://{address}")).unwrap();
        let channel = channel.connect().await.unwrap();
        Self { channel, registry, quorum, pool, disk, shutdown, metrics, serving }
    }

    pub(super) fn producer(&self) -> ProduceServiceClient<Channel> {
        ProduceServiceClient::new(self.channel.clone())
    }

    pub(super) fn consumer(&self) -> ConsumeServiceClient<Channel> {
        ConsumeServiceClient::new(self.channel.clone())
    }

    pub(super) fn metadata(&self) -> MetadataServiceClient<Channel> {
        MetadataServiceClient::new(self.channel.clone())
    }

    pub(super) fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel.clone())
    }

    pub(super) async fn topic(&self, name: &str, partitions: u32) -> TopicId {
        self.topic_with(name, partitions, &[]).await
    }

    pub(super) async fn topic_with(
        &self,
        name: &str,
        partitions: u32,
        configs: &[(&str, &str)],
    ) -> TopicId {
        let request = v1::CreateTopicRequest {
            name: name.to_owned(),
            partitions: Some(partitions),
            configs: configs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            ..Default::default()
        };
        let made = self.admin().create_topic(request).await.unwrap().into_inner();
        TopicId::from_bytes(&made.topic.unwrap().topic_id).unwrap()
    }

    pub(super) fn partition(&self, topic: TopicId, partition: i32) -> Arc<Partition> {
        let index = convert::partition_index(partition).unwrap();
        self.registry.get(TopicPartition::new(topic, index)).unwrap()
    }

    /// Writes records one batch each, and waits until they are committed.
    pub(super) async fn write(&self, topic: TopicId, partition: i32, values: &[&str]) {
        for value in values {
            let request = v1::ProduceRequest {
                topic_id: convert::wire_topic_id(topic),
                partition: Some(partition),
                records: Some(records(&[value])),
                ..Default::default()
            };
            let answer = self.producer().produce(request).await.unwrap().into_inner();
            ack(&answer.results[0]);
        }
    }

    /// Stops all log work (flushes among it) until the gate is dropped. The work lane has
    /// `threads` threads.
    pub(super) async fn hold_log_work(&self, threads: usize) -> Gate {
        let mut gates = Vec::new();
        for _ in 0..threads {
            let (gate, held) = mpsc::sync_channel::<()>(0);
            let (began, begun) = tokio::sync::oneshot::channel();
            self.pool.run(Lane::Work, move || {
                began.send(()).unwrap();
                // Ends with an error when the gate is dropped.
                let _ = held.recv();
            });
            begun.await.unwrap();
            gates.push(gate);
        }
        Gate(gates)
    }

    pub(super) fn metric(&self, line_start: &str) -> f64 {
        let text = self.metrics.encode();
        let line = text.lines().find(|line| line.starts_with(line_start));
        let line = line.unwrap_or_else(|| panic!("no {line_start} in\n{text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.0.clear();
    }
}

async fn register(
    quorum: &LocalQuorum,
    identity: MetaProperties,
    port: u16,
) -> riverrun_proto::epoch::BrokerEpoch {
    if quorum.image().feature_level() == FeatureLevel::NONE {
        let level = SetFeatureLevel { expected: FeatureLevel::NONE, level: FeatureLevel::INITIAL };
        quorum.propose(Command::SetFeatureLevel(level)).await.unwrap();
    }
    let register = Command::RegisterBroker(RegisterBroker {
        broker: identity.node,
        incarnation: IncarnationId::random(),
        directory: identity.directory,
        endpoints: vec![Endpoint {
            listener: Endpoint::CLIENTS.to_owned(),
            host: "127.0.0.1".to_owned(),
            port,
        }],
        rack: None,
        features: FeatureRange::SUPPORTED,
    });
    match quorum.propose(register).await.unwrap().reply {
        Reply::BrokerEpoch(epoch) => epoch,
        other => panic!("{other:?}"),
    }
}

async fn follow(mut subscription: crate::controller::Subscription, registry: Arc<Registry>) {
    let mut image = Arc::clone(subscription.start());
    while let Some(update) = subscription.next().await {
        let (deltas, next) = match update {
            Update::Change(change) => (change.deltas.clone(), Arc::clone(&change.image)),
            Update::Resync(newest) => (Delta::between(&image, &newest), newest),
        };
        image = Arc::clone(&next);
        let registry = Arc::clone(&registry);
        tokio::task::spawn_blocking(move || {
            deltas.iter().for_each(|delta| registry.apply(delta));
            registry.note_applied(next.offset());
        })
        .await
        .unwrap();
    }
}

/// Fails a test that would hang.
pub(super) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it takes too long")
}

/// Waits until something becomes true that nobody tells of.
pub(super) async fn until(mut holds: impl FnMut() -> bool) {
    soon(async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

pub(super) fn record(value: &str) -> v1::Record {
    v1::Record { value: Some(Bytes::copy_from_slice(value.as_bytes())), ..Default::default() }
}

pub(super) fn records(values: &[&str]) -> v1::RecordList {
    let records = values.iter().map(|value| record(value)).collect();
    v1::RecordList { records, compression: 0 }
}

/// One batch with these values.
pub(super) fn batch(values: &[&str]) -> Bytes {
    batch_with(values, BatchOptions::default())
}

pub(super) fn batch_with(values: &[&str], options: BatchOptions) -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions { size_budget: 8 << 20, ..options });
    let now = crate::clock::Clock::now(&SystemClock);
    for value in values {
        builder.append(now, None, Some(value.as_bytes()), []).unwrap();
    }
    builder.finish()
}

/// Values of the records of encoded batches.
pub(super) fn values(batches: &v1::EncodedBatches) -> Vec<String> {
    let mut values = Vec::new();
    for bytes in &batches.batches {
        let batch = RecordBatch::parse_stored(bytes.clone()).unwrap();
        let records = batch.records(1 << 24).unwrap();
        for record in records.iter() {
            values.push(String::from_utf8(record.unwrap().value.unwrap().to_vec()).unwrap());
        }
    }
    values
}

pub(super) fn plain_values(records: &v1::ConsumedRecords) -> Vec<String> {
    let value = |record: &v1::ConsumedRecord| {
        String::from_utf8(record.record.as_ref().unwrap().value.as_ref().unwrap().to_vec()).unwrap()
    };
    records.records.iter().map(value).collect()
}

pub(super) fn ack(result: &v1::RecordResult) -> &v1::RecordAck {
    match result.outcome.as_ref().unwrap() {
        v1::record_result::Outcome::Ack(ack) => ack,
        v1::record_result::Outcome::Error(error) => panic!("{error:?}"),
    }
}

/// The error of a failed call, as its trailer says; the other forms agree with it.
pub(super) fn error_of(status: &Status) -> v1::Error {
    let trailer = status.metadata().get_bin(status::ERROR_TRAILER).expect("our trailer is there");
    let error = v1::Error::decode(trailer.to_bytes().unwrap()).unwrap();
    let reason = riverrun_proto::reason::Reason::from_name(&error.reason).unwrap();
    assert_eq!(status.code(), reason.grpc_code(error.definite), "{error:?}");
    assert_eq!(status.metadata().get(status::REASON_TRAILER).unwrap(), reason.name());
    error
}

/// Reason of a failed call.
pub(super) fn reason_of<T: std::fmt::Debug>(outcome: Result<T, Status>) -> String {
    error_of(&outcome.expect_err("it has to fail")).reason
}

pub(super) fn named(topic: &str, partition: i32) -> v1::TopicPartition {
    v1::TopicPartition { topic: topic.to_owned(), topic_id: Bytes::new(), partition }
}

pub(super) fn by_id(topic: TopicId, partition: i32) -> v1::TopicPartition {
    v1::TopicPartition { topic: String::new(), topic_id: convert::wire_topic_id(topic), partition }
}

pub(super) fn from_offset(partition: v1::TopicPartition, offset: i64) -> v1::PartitionFrom {
    v1::PartitionFrom {
        partition: Some(partition),
        start: Some(v1::ReadFrom { at: Some(v1::read_from::At::Offset(offset)) }),
        ..Default::default()
    }
}
