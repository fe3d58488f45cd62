//! A cluster in memory for this crate's tests: real gRPC over pipes instead of sockets, so that it
//! runs under tokio's paused clock; partitions as vectors; the rules of the real broker where a
//! client can tell (sequences and duplicates, leaders, epochs, credit, generations); and faults on
//! demand. It may use generated types, as the connection module may.

mod admin;
mod fetch;
mod log;
mod metadata;
mod network;
mod produce;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use rand::{Rng, SeedableRng, rngs::StdRng};
use riverrun_proto::{ids::TopicId, reason::Reason, record::RecordBatch, rpc::v1};
use tokio::sync::{mpsc, watch};

pub(crate) use self::log::PartitionLog;
use self::network::Network;
use crate::{Client, client::ClientBuilder};

/// Handle of the cluster; the test's side.
#[derive(Clone)]
pub(crate) struct TestCluster(Arc<Inside>);

pub(crate) struct Inside {
    network: Network,
    state: Mutex<State>,
    /// Counts changes of anything a waiting stream may look at.
    changed: watch::Sender<u64>,
}

pub(crate) struct State {
    pub(crate) topics: BTreeMap<String, TestTopic>,
    brokers: u32,
    next_producer_id: i64,
    pub(crate) faults: Faults,
    pub(crate) seen: Seen,
    /// Followers that serve readers with a rack, and to which leaders send those.
    pub(crate) nearby: HashMap<PartitionAt, u32>,
    /// Acks kept back: where they go, and of which partition they are.
    held: Vec<(PartitionAt, AckSender, v1::ProduceStreamAck)>,
}

pub(crate) struct TestTopic {
    pub(crate) id: TopicId,
    pub(crate) partitions: Vec<PartitionLog>,
    pub(crate) configs: BTreeMap<String, String>,
    pub(crate) max_message_bytes: u32,
}

type PartitionAt = (TopicId, u32);
type AckSender = mpsc::Sender<Result<v1::ProduceStreamResponse, tonic::Status>>;

/// What is to go wrong. Appends are counted over all brokers from 1.
pub(crate) struct Faults {
    /// Happens to the append of that number, once.
    pub(crate) at_append: HashMap<u64, AppendFault>,
    /// Happens to the next appends, in order, before `at_append` is looked at.
    pub(crate) next_appends: VecDeque<AppendFault>,
    /// Each append has one of the faults by chance: one in so many.
    pub(crate) one_in: Option<u32>,
    pub(crate) rng: StdRng,
    /// Answers come this much later.
    pub(crate) ack_delay: Duration,
    /// Answers of one message come in another order, but in order within a partition.
    pub(crate) shuffle_acks: bool,
    /// The brokers take no more messages from produce streams.
    pub(crate) stop_reading: bool,
    /// Advertised with the stream.
    pub(crate) window_bytes: u64,
    pub(crate) in_flight_batches: u32,
    /// Said once, on the stream of the append of that number, after it was taken.
    pub(crate) control_after: Option<(u64, v1::StreamControl)>,
    /// Calls other than streams fail with this.
    pub(crate) refuse_calls: Option<v1::Error>,
    /// Answered to the next requests for topics, in order.
    pub(crate) next_topics: VecDeque<v1::Error>,
    /// This broker heard of nothing any more when it led, in this epoch, and says so.
    pub(crate) cut_off: Option<(u32, i32)>,
    /// This broker answers no request for topics.
    pub(crate) mute_topics: Option<u32>,
    /// The connection breaks after so many messages of each fetch stream.
    pub(crate) cut_fetch_after: Option<u32>,
    /// Fetch streams open and stay silent.
    pub(crate) mute_fetch: bool,
    /// A batch from the old place travels before an update is confirmed.
    pub(crate) stale_before_update: bool,
    /// Answered once for a partition instead of its data.
    pub(crate) fetch_errors: HashMap<PartitionAt, v1::Error>,
    /// So often before the last time; each of them is counted down here.
    pub(crate) fetch_errors_again: u32,
}

/// What happens to an append.
#[derive(Clone, Debug)]
pub(crate) enum AppendFault {
    /// The connection breaks; nothing was stored.
    CutBefore,
    /// It was stored, and the connection breaks before the answer.
    CutAfter,
    /// Answered so, not stored.
    Refuse(v1::Error),
    /// Stored, and answered so.
    StoreAndRefuse(v1::Error),
}

/// What the brokers saw.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) appends: u64,
    pub(crate) produce_messages: u64,
    pub(crate) produce_streams: u64,
    pub(crate) fetch_streams: u64,
    pub(crate) topic_requests: u64,
    pub(crate) producers: u64,
    /// Bytes readers granted, and bytes sent to them.
    pub(crate) credit_granted: u64,
    pub(crate) credit_used: u64,
    /// Answers with records, by broker.
    pub(crate) served: BTreeMap<u32, u64>,
}

// === impl TestCluster ===

impl TestCluster {
    /// Brokers 1 to `brokers`, running.
    pub(crate) fn start(brokers: u32) -> Self {
        let state = State {
            topics: BTreeMap::new(),
            brokers,
            next_producer_id: 1,
            faults: Faults::default(),
            seen: Seen::default(),
            nearby: HashMap::new(),
            held: Vec::new(),
        };
        let cluster = Self(Arc::new(Inside {
            network: Network::new(),
            state: Mutex::new(state),
            changed: watch::Sender::new(0),
        }));
        for broker in 1..=brokers {
            network::serve(&cluster, broker);
        }
        cluster
    }

    pub(crate) fn client_builder(&self) -> ClientBuilder {
        Client::builder().bootstrap_servers(["b1:9190"]).dial(self.0.network.clone())
    }

    pub(crate) async fn client(&self) -> Client {
        self.client_builder().build().await.unwrap()
    }

    /// Partition `p` is led by broker `p % brokers + 1`.
    pub(crate) fn create_topic(&self, name: &str, partitions: u32) -> TopicId {
        self.change(|state| state.create_topic(name, partitions))
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock()
    }

    /// Changes something and wakes the streams.
    pub(crate) fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let result = change(&mut self.0.state.lock());
        self.0.changed.send_modify(|version| *version += 1);
        result
    }

    pub(crate) fn faults(&self, change: impl FnOnce(&mut Faults)) {
        self.change(|state| change(&mut state.faults));
    }

    /// Breaks all connections to a broker.
    pub(crate) fn cut(&self, broker: u32) {
        self.0.network.cut(broker);
    }

    /// Breaks all connections to a broker and refuses new ones.
    pub(crate) fn stop(&self, broker: u32) {
        self.0.network.set_up(broker, false);
        self.cut(broker);
    }

    /// Takes connections again.
    pub(crate) fn restart(&self, broker: u32) {
        self.0.network.set_up(broker, true);
    }

    /// Connections tried so far.
    pub(crate) fn dials(&self) -> u64 {
        self.0.network.dials()
    }

    /// Another broker leads the partition from now on.
    pub(crate) fn move_leader(&self, topic: &str, partition: usize, leader: u32) {
        self.change(|state| {
            let log = &mut state.topics.get_mut(topic).unwrap().partitions[partition];
            log.lead(leader);
        });
    }

    /// Keeps back the answers of a partition, or gives them out.
    pub(crate) async fn hold_acks(&self, topic: &str, partition: u32, hold: bool) {
        let released = self.change(|state| {
            let topic = state.topics.get_mut(topic).unwrap();
            topic.partitions[partition as usize].hold_acks = hold;
            let at = (topic.id, partition);
            let (released, held): (Vec<_>, Vec<_>) =
                state.held.drain(..).partition(|(of, ..)| !hold && *of == at);
            state.held = held;
            released
        });
        for (_, to, ack) in released {
            let _ = to.send(Ok(produce::acks(vec![ack]))).await;
        }
    }

    /// Values of all records of a partition, in order.
    pub(crate) fn values(&self, topic: &str, partition: usize) -> Vec<String> {
        self.state().topics[topic].partitions[partition].values()
    }

    /// Appends a batch of records with these values, as another producer would.
    pub(crate) fn append(&self, topic: &str, partition: usize, values: &[&str]) {
        self.change(|state| {
            let log = &mut state.topics.get_mut(topic).unwrap().partitions[partition];
            log.append_values(values);
        });
    }

    fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }
}

// === impl State ===

impl State {
    pub(crate) fn create_topic(&mut self, name: &str, partitions: u32) -> TopicId {
        let id = TopicId::random();
        let partitions =
            (0..partitions).map(|index| PartitionLog::new(index % self.brokers + 1)).collect();
        let topic =
            TestTopic { id, partitions, configs: BTreeMap::new(), max_message_bytes: 1 << 20 };
        self.topics.insert(name.to_owned(), topic);
        id
    }

    pub(crate) fn log(&mut self, topic: &[u8], partition: i32) -> Option<&mut PartitionLog> {
        let topic = self.topics.values_mut().find(|known| known.id.as_bytes() == topic)?;
        topic.partitions.get_mut(usize::try_from(partition).ok()?)
    }
}

// === impl Faults ===

impl Faults {
    /// What happens to the append of this number.
    fn of_append(&mut self, number: u64) -> Option<AppendFault> {
        if let Some(fault) = self.next_appends.pop_front() {
            return Some(fault);
        }
        if let Some(fault) = self.at_append.remove(&number) {
            return Some(fault);
        }
        let one_in = self.one_in?;
        if !self.rng.random_ratio(1, one_in) {
            return None;
        }
        Some(match self.rng.random_range(0..5) {
            0 => AppendFault::CutBefore,
            1 => AppendFault::CutAfter,
            2 => AppendFault::Refuse(error(Reason::NotEnoughReplicas, true, true)),
            3 => AppendFault::Refuse(error(Reason::ThrottlingQuotaExceeded, true, true)),
            _ => AppendFault::StoreAndRefuse(error(Reason::RequestTimedOut, true, false)),
        })
    }
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            at_append: HashMap::new(),
            next_appends: VecDeque::new(),
            one_in: None,
            rng: StdRng::seed_from_u64(0),
            ack_delay: Duration::ZERO,
            shuffle_acks: false,
            stop_reading: false,
            window_bytes: 8 << 20,
            in_flight_batches: 32,
            control_after: None,
            refuse_calls: None,
            next_topics: VecDeque::new(),
            cut_off: None,
            mute_topics: None,
            cut_fetch_after: None,
            mute_fetch: false,
            stale_before_update: false,
            fetch_errors: HashMap::new(),
            fetch_errors_again: 0,
        }
    }
}

/// An error as a broker sends it.
pub(crate) fn error(reason: Reason, retriable: bool, definite: bool) -> v1::Error {
    v1::Error {
        reason: reason.name().into(),
        message: format!("the test wants {reason}"),
        retriable,
        definite,
        ..Default::default()
    }
}

/// The same as the failure of a call.
pub(crate) fn status(error: &v1::Error) -> tonic::Status {
    use prost::Message;
    use tonic::metadata::{MetadataMap, MetadataValue};

    let reason = Reason::from_name(&error.reason).unwrap_or(Reason::UnknownServerError);
    let mut trailers = MetadataMap::new();
    let encoded = MetadataValue::from_bytes(&error.encode_to_vec());
    trailers.insert_bin("riverrun-error-bin", encoded);
    tonic::Status::with_details_and_metadata(
        reason.grpc_code(error.definite),
        error.message.clone(),
        Bytes::new(),
        trailers,
    )
}

/// Values of a batch's records.
pub(crate) fn values_of(batch: &Bytes) -> Vec<String> {
    let batch = RecordBatch::parse_stored(batch.clone()).unwrap();
    let records = batch.records(1 << 30).unwrap();
    records
        .iter()
        .map(|record| {
            String::from_utf8(record.unwrap().value.unwrap_or_default().to_vec()).unwrap()
        })
        .collect()
}
