//! Replication over gRPC on loopback: brokers' partitions on the simulated disk, metadata made by
//! hand, everything between them as it ships.

use std::{collections::HashMap, io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use riverrun_proto::{
    epoch::BrokerEpoch,
    ids::{BrokerId, ClusterId, PartitionIndex, TopicPartition},
    rpc::internal::v1::{self as wire, replication_service_client::ReplicationServiceClient},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Code, Status, transport::Server};

use super::{
    connect::{BULK, Dialler},
    replication::{Follows, Proposal, ReplicationPeers, VERSION, Whereabouts},
};
use crate::{
    metadata::{Command, IsrChange, command::AlterIsr},
    partition::{
        Acks, Produced,
        replication::{Peers, ReplicationLimits},
        test_cluster::{Client, Cluster, Setup, bytes_of, id},
    },
    service::internal::replication::Replication,
    shutdown::Shutdown,
};

const LIMITS: ReplicationLimits = ReplicationLimits { window_bytes: 64 << 10, push_bytes: 4 << 10 };

fn cluster_id() -> ClusterId {
    ClusterId::from_bytes(&[1; 16]).unwrap()
}

/// Brokers, each behind a relay that can be cut.
struct Wired {
    cluster: Cluster,
    relays: Vec<Relay>,
    shutdown: Shutdown,
    runtime: Runtime,
}

#[derive(Debug, Default)]
struct Addresses(Mutex<HashMap<BrokerId, String>>);

impl Whereabouts for Addresses {
    fn addresses_of(&self, broker: BrokerId) -> Vec<String> {
        self.0.lock().get(&broker).cloned().into_iter().collect()
    }
}

impl Wired {
    fn new(setup: Setup) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (shutdown, addresses) = (Shutdown::new(), Arc::new(Addresses::default()));
        let made: Mutex<Vec<(ReplicationPeers, mpsc::Receiver<Proposal>)>> = Mutex::default();
        let setup = Setup { limits: LIMITS, ..setup };
        let cluster = Cluster::wired(setup, runtime.handle().clone(), |broker, epoch| {
            let me = Follows { cluster: cluster_id(), broker, epoch };
            let whereabouts = Arc::clone(&addresses) as Arc<dyn Whereabouts>;
            let tasks = runtime.handle().clone();
            let dialled = (whereabouts, Dialler::default());
            let peers = ReplicationPeers::new(me, dialled, LIMITS, shutdown.clone(), tasks);
            let shared = Arc::new(peers.0.clone()) as Arc<dyn Peers>;
            made.lock().push(peers);
            shared
        });
        let mut relays = Vec::new();
        for (node, (peers, mut proposed)) in cluster.nodes.iter().zip(made.into_inner()) {
            let service = Replication::new(
                cluster_id(),
                node.id,
                Arc::clone(&node.registry),
                shutdown.clone(),
            );
            let relay = runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let target = listener.local_addr().unwrap().to_string();
                let served = Server::builder()
                    .add_service(service.into_server())
                    .serve_with_incoming(TcpListenerStream::new(listener).then(bulk));
                tokio::spawn(served);
                Relay::to(target).await
            });
            addresses.0.lock().insert(node.id, relay.address.clone());
            relays.push(relay);
            let net = Arc::clone(&cluster.net);
            runtime.spawn(async move {
                while let Some(proposal) = proposed.recv().await {
                    net.proposals.lock().push(proposal);
                }
            });
            peers.begin(&node.registry);
        }
        Self { cluster, relays, shutdown, runtime }
    }

    fn relay(&self, broker: u32) -> &Relay {
        &self.relays[broker as usize - 1]
    }

    fn answers(&self, client: &Client, count: usize) -> Vec<(u64, Produced)> {
        let mut answered = Vec::new();
        self.cluster.until("answers", || {
            answered.extend(client.answered().map(|(tag, outcome)| (tag, outcome.unwrap())));
            answered.len() == count
        });
        answered
    }

    fn send(&self, client: &Client, tag: u64, to: TopicPartition, acks: Acks) {
        let leader = self.cluster.leader().expect("somebody leads");
        let leader = self.cluster.net.partition(BrokerId(leader), to).expect("it is there");
        client.send(&leader, tag, batch(tag), acks);
    }
}

/// Takes off the first byte, as the internal port does.
async fn bulk(accepted: io::Result<TcpStream>) -> io::Result<TcpStream> {
    let mut accepted = accepted?;
    assert_eq!(accepted.read_u8().await?, BULK);
    Ok(accepted)
}

impl Drop for Wired {
    fn drop(&mut self) {
        self.shutdown.begin_drain();
        self.shutdown.stop();
        let ended = self.runtime.block_on(self.shutdown.finished(Duration::from_secs(20)));
        assert!(
            ended.is_ok() || std::thread::panicking(),
            "streams end with the broker: {ended:?}"
        );
    }
}

fn batch(tag: u64) -> Bytes {
    use riverrun_proto::{
        record::{BatchBuilder, BatchOptions},
        timestamp::Timestamp,
    };
    let mut builder = BatchBuilder::new(BatchOptions::default());
    let time = Timestamp::from_millis(1_700_000_000_000);
    for record in 0..5 {
        let value = format!("{tag}/{record}/{}", "x".repeat(200));
        builder.append(time, None, Some(value.as_bytes()), []).unwrap();
    }
    builder.finish()
}

/// Passes connections on, until they are cut. Those made while it says so stand still on their way
/// back after a few bytes.
struct Relay {
    address: String,
    connections: Arc<Mutex<Vec<JoinHandle<()>>>>,
    stalls_new: watch::Sender<bool>,
}

/// What passes through a connection that stands still: enough to open it.
const PASSES: usize = 12 << 10;

impl Relay {
    async fn to(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let connections: Arc<Mutex<Vec<JoinHandle<()>>>> = Arc::default();
        let (stalls_new, stalls) = watch::channel(false);
        let all = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let (target, stalls) = (target.clone(), stalls.clone());
                all.lock().push(tokio::spawn(pass(near, target, stalls)));
            }
        });
        Self { address, connections, stalls_new }
    }

    fn cut(&self) {
        self.connections.lock().drain(..).for_each(|connection| connection.abort());
    }
}

async fn pass(near: TcpStream, target: String, mut stalls: watch::Receiver<bool>) {
    let Ok(far) = TcpStream::connect(target).await else { return };
    let is_stalled = *stalls.borrow();
    let ((mut near_in, mut near_out), (mut far_in, mut far_out)) =
        (near.into_split(), far.into_split());
    let up = async { tokio::io::copy(&mut near_in, &mut far_out).await.map(drop) };
    let down = async {
        let (mut buffer, mut passed) = (vec![0; 4 << 10], 0);
        loop {
            if is_stalled && passed >= PASSES {
                // The sender lives as long as the test.
                let _ = stalls.wait_for(|stalls| !stalls).await;
            }
            let read = far_in.read(&mut buffer).await?;
            if read == 0 {
                return Ok::<_, std::io::Error>(());
            }
            near_out.write_all(&buffer[..read]).await?;
            passed += read;
        }
    };
    let _ = tokio::try_join!(up, down);
}

#[test]
fn what_is_acknowledged_is_on_every_replica_byte_for_byte() {
    let (wired, client) = (Wired::new(Setup::default()), Client::new());
    let mut sent = 0;
    for leader in [1, 2, 3, 1] {
        if wired.cluster.leader() != Some(leader) {
            wired.cluster.command(&wired.cluster.election(leader)).unwrap();
        }
        for _ in 0..40 {
            wired.send(&client, sent, id(), Acks::All);
            sent += 1;
        }
        let answers = wired.answers(&client, 40);
        assert!(answers.is_sorted_by_key(|(tag, _)| *tag), "in order");
        assert!(answers.iter().all(|(_, produced)| produced.replicas == 3));
        wired.cluster.until_in_sync();
    }
    assert_eq!(wired.cluster.assert_equal(), 160);
}

#[test]
fn a_connection_that_breaks_is_made_anew_and_nothing_is_missing_or_twice() {
    let (wired, client) = (Wired::new(Setup::default()), Client::new());
    wired.cluster.until_in_sync();
    for tag in 0..120 {
        wired.send(&client, tag, id(), Acks::All);
        if tag % 20 == 10 {
            wired.cluster.until("connected", || !wired.relay(1).connections.lock().is_empty());
            wired.relay(1).cut();
        }
    }
    let answers = wired.answers(&client, 120);
    assert!(answers.is_sorted_by_key(|(tag, _)| *tag), "in order");
    wired.cluster.until_in_sync();
    assert_eq!(wired.cluster.assert_equal(), 120);
    assert_eq!(wired.cluster.registered().isr.len(), 3, "nobody was put out for it");
}

#[test]
fn who_catches_up_does_not_stand_in_the_way_of_who_is_in_sync() {
    let setup = Setup { replicas: 2, partitions: 2, ..Setup::default() };
    let (wired, client) = (Wired::new(setup), Client::new());
    let second = TopicPartition::new(id().topic, PartitionIndex::new(1).unwrap());
    let of_second = |broker| wired.cluster.net.partition(BrokerId(broker), second).unwrap();
    wired.cluster.until_in_sync();
    wired.send(&client, 1000, second, Acks::All);
    wired.answers(&client, 1);

    // The second partition is put out of its ISR, and kept out for the time being; its connection
    // stands still.
    wired.cluster.net.undecided.lock().insert(second);
    wired.relay(1).stalls_new.send_replace(true);
    let state = wired.cluster.image.lock().partition(second).unwrap().clone();
    let leader = BrokerId(1);
    let broker_epoch = wired.cluster.image.lock().broker(leader).unwrap().epoch;
    let change = IsrChange {
        leader,
        broker_epoch,
        leader_epoch: state.leader_epoch,
        partition_epoch: state.partition_epoch,
        isr: vec![(leader, Some(broker_epoch))],
    };
    wired.cluster.command(&Command::AlterIsr(AlterIsr { partition: second, change })).unwrap();
    let history = 200;
    for tag in 0..history {
        wired.send(&client, tag, second, Acks::Leader);
    }
    for _ in 0..history {
        client.outcome().1.unwrap();
    }
    let end = of_second(1).offsets().log_end;
    assert_eq!(end.get(), i64::try_from(history + 1).unwrap() * 5);
    // As much as fits into the window is on its way, and stays there.
    let pushed = || of_second(1).under_way().pushed_bytes;
    wired.cluster.until("the window is full", || pushed() >= LIMITS.window_bytes);

    for tag in 0..40 {
        wired.send(&client, tag, id(), Acks::All);
    }
    assert_eq!(wired.answers(&client, 40).len(), 40, "the other one is not waited for");
    assert!(of_second(2).offsets().log_end < end, "it still stands");

    wired.relay(1).stalls_new.send_replace(false);
    wired.cluster.net.undecided.lock().clear();
    wired.cluster.until("it has all", || of_second(2).offsets().log_end == end);
    // What was proposed meanwhile is proposed again.
    wired.cluster.pass(Duration::from_secs(1));
    wired.cluster.until("it has caught up, and is in sync", || {
        let isr = wired.cluster.image.lock().partition(second).unwrap().isr.len();
        isr == 2 && of_second(2).offsets().high_watermark == end
    });
    assert_eq!(bytes_of(&of_second(1)), bytes_of(&of_second(2)));
    assert_eq!(wired.cluster.assert_equal(), 40);
}

#[test]
fn who_does_not_belong_here_is_told_what_to_do() {
    let wired = Wired::new(Setup::default());
    let good = wire::ReplicateHello {
        cluster_id: Bytes::copy_from_slice(cluster_id().as_bytes()),
        broker_id: 2,
        broker_epoch: 3,
        leader_id: 1,
        traffic: wire::Traffic::InSync.into(),
        window_bytes: 1000,
        version: VERSION,
    };
    let refused = Code::FailedPrecondition;
    let stranger = Bytes::from_static(&[9; 16]);
    let cases = [
        (
            Some(wire::ReplicateHello { cluster_id: stranger, ..good.clone() }),
            refused,
            "own cluster",
        ),
        (
            Some(wire::ReplicateHello { leader_id: 3, ..good.clone() }),
            refused,
            "advertised address",
        ),
        (Some(wire::ReplicateHello { broker_id: 1, ..good.clone() }), refused, "two brokers"),
        (Some(wire::ReplicateHello { version: VERSION + 1, ..good.clone() }), refused, "upgrade"),
        (
            Some(wire::ReplicateHello { broker_epoch: -1, ..good.clone() }),
            Code::InvalidArgument,
            "",
        ),
        (Some(wire::ReplicateHello { traffic: 0, ..good.clone() }), Code::InvalidArgument, ""),
        (Some(wire::ReplicateHello { window_bytes: 0, ..good.clone() }), Code::InvalidArgument, ""),
        (
            Some(wire::ReplicateHello { cluster_id: Bytes::new(), ..good.clone() }),
            Code::InvalidArgument,
            "",
        ),
        (None, Code::InvalidArgument, "hello"),
    ];
    for (hello, code, advice) in cases {
        let said = wire::ReplicateRequest { hello: hello.clone(), frames: Vec::new() };
        let ended = wired.runtime.block_on(end_of(&wired.relay(1).address, vec![said]));
        assert_eq!(ended.code(), code, "{hello:?}: {ended:?}");
        assert!(ended.message().contains(advice), "{ended:?}");
    }
    // Who belongs here and then talks nonsense, or introduces itself twice, is cut off.
    let hello = wire::ReplicateRequest { hello: Some(good), frames: Vec::new() };
    let nonsense =
        wire::ReplicateRequest { hello: None, frames: vec![wire::FollowerFrame::default()] };
    for second in [nonsense, hello.clone()] {
        let said = vec![hello.clone(), second];
        let ended = wired.runtime.block_on(end_of(&wired.relay(1).address, said));
        assert_eq!(ended.code(), Code::InvalidArgument, "{ended:?}");
    }
}

/// How a stream on which this is said ends.
async fn end_of(address: &str, said: Vec<wire::ReplicateRequest>) -> Status {
    let (requests, sent) = mpsc::channel(said.len());
    for request in said {
        requests.try_send(request).unwrap();
    }
    let mut client =
        ReplicationServiceClient::new(Dialler::default().dial_bulk(address).await.unwrap());
    let mut responses = match client.replicate(ReceiverStream::new(sent)).await {
        Ok(responses) => responses.into_inner(),
        Err(status) => return status,
    };
    loop {
        match responses.message().await {
            Ok(Some(_)) => {}
            Ok(None) => return Status::ok("ended"),
            Err(status) => return status,
        }
    }
}

#[test]
fn what_is_not_here_is_refused_and_not_left_unanswered() {
    let wired = Wired::new(Setup::default());
    let unknown = wire::FollowerFrame {
        topic_id: Bytes::from_static(&[77; 16]),
        partition: 0,
        session: 4,
        says: Some(wire::follower_frame::Says::Subscribe(wire::Position::default())),
    };
    let hello = wire::ReplicateHello {
        cluster_id: Bytes::copy_from_slice(cluster_id().as_bytes()),
        broker_id: 2,
        broker_epoch: BrokerEpoch::ZERO.get(),
        leader_id: 1,
        traffic: wire::Traffic::CatchUp.into(),
        window_bytes: 1000,
        version: VERSION,
    };
    let answered = wired.runtime.block_on(async {
        let (requests, sent) = mpsc::channel(1);
        let first = wire::ReplicateRequest { hello: Some(hello), frames: vec![unknown.clone()] };
        requests.try_send(first).unwrap();
        let channel = Dialler::default().dial_bulk(&wired.relay(1).address).await.unwrap();
        let mut client = ReplicationServiceClient::new(channel);
        let mut responses = client.replicate(ReceiverStream::new(sent)).await.unwrap().into_inner();
        responses.message().await.unwrap().unwrap()
    });
    let [frame] = &answered.frames[..] else { panic!("{answered:?}") };
    assert_eq!((&frame.topic_id, frame.session), (&unknown.topic_id, 4));
    let Some(wire::leader_frame::Says::Refused(refused)) = &frame.says else { panic!("{frame:?}") };
    assert_eq!(refused.reason(), wire::refused::Reason::UnknownEpoch);
}
