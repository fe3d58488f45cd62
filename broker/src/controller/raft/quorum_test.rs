use std::collections::BTreeMap;

use bytes::Bytes;

use riverrun_proto::ids::{BrokerId, ClusterId};

use super::*;
use crate::{
    clock::SystemClock,
    controller::{
        LocalOptions, LocalQuorum, Update,
        raft::transport::NoPeers,
        test_support::{DATA, NODE, SmallDisk},
    },
    io::{
        SyncPoint,
        sim::{PowerCut, SimDisk},
    },
    metadata::{
        Rejection, Reply,
        test_support::{create, level_1, register},
    },
};

/// A network within the process.
#[derive(Debug, Default)]
struct Switch {
    nodes: Mutex<BTreeMap<VoterId, Arc<RaftQuorum>>>,
}

impl Transport for Switch {
    fn send(&self, from: &Voter, to: &Voter, message: Bytes) {
        let node = self.nodes.lock().get(&to.id).cloned();
        if let Some(node) = node {
            node.receive(*from, &message);
        }
    }
}

fn quick() -> RaftOptions {
    RaftOptions { tick: Duration::from_millis(10), ..RaftOptions::default() }
}

fn identity(disk: &SimDisk, node: BrokerId, join: Option<ClusterId>) -> (MetaProperties, Failure) {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let failure = Failure::open(Arc::clone(&disk), DATA);
    let data = Path::new(DATA);
    let properties = match join {
        Some(cluster) => MetaProperties::open_or_join(&disk, data, node, cluster, &failure),
        None => MetaProperties::open_or_format(&disk, data, node, None, &failure),
    };
    (properties.unwrap(), failure)
}

fn open(disk: &SimDisk, options: RaftOptions) -> Result<RaftQuorum, OpenError> {
    let (properties, failure) = identity(disk, NODE, None);
    let disk = Arc::new(disk.clone());
    let (clock, peers) = (Arc::new(SystemClock), Arc::new(NoPeers));
    RaftQuorum::open(disk, Path::new(DATA), &properties, &failure, clock, peers, 1, options)
}

async fn leads(quorum: &RaftQuorum) -> Leader {
    quorum.leader().wait_for(Option::is_some).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_quorum_of_one_leads_and_answers() {
    let disk = SimDisk::small();
    let quorum = open(&disk, quick()).unwrap();
    assert_eq!(leads(&quorum).await.node, NODE);
    let mut subscription = quorum.subscribe();
    let accepted = quorum.propose(register(1, 1)).await.unwrap();
    assert!(matches!(accepted.reply, Reply::BrokerEpoch(_)));
    assert_eq!(quorum.read_barrier().await, Ok(accepted.offset));
    assert_eq!(quorum.image().offset(), accepted.offset);
    let last = loop {
        let Some(Update::Change(change)) = subscription.next().await else { panic!() };
        if change.offset == accepted.offset {
            break change;
        }
    };
    assert_eq!(last.image, quorum.image());
    let rejected = quorum.propose(level_1()).await.unwrap_err();
    assert!(matches!(rejected, QuorumError::Rejected(Rejection::FeatureLevelOrder { .. })));
    assert_eq!(quorum.stats().inbox_bytes, 0);
}

#[tokio::test]
async fn a_single_brokers_log_goes_on_in_a_quorum_of_one_and_back() {
    let disk = SimDisk::small();
    let (properties, failure) = identity(&disk, NODE, None);
    let local = |disk: &SimDisk| {
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        let options = LocalOptions::default();
        LocalQuorum::open(disk, Path::new(DATA), &properties, &failure, options).unwrap()
    };
    let single = local(&disk);
    single.propose(register(1, 1)).await.unwrap();
    let before = single.image();
    single.shutdown().await;
    drop(single);

    let quorum = open(&disk, quick()).unwrap();
    leads(&quorum).await;
    quorum.read_barrier().await.unwrap();
    let topics = |image: &MetadataImage| image.brokers().cloned().collect::<Vec<_>>();
    assert_eq!(topics(&quorum.image()), topics(&before));
    quorum.propose(create(1, "a", &[&[1]])).await.unwrap();
    let after = quorum.image();
    quorum.shutdown().await;
    drop(quorum);
    assert_eq!(local(&disk).image(), after);
}

#[tokio::test]
async fn what_was_answered_is_there_after_the_power_is_lost() {
    let disk = SimDisk::small();
    let few = RaftOptions { snapshot_entries: 5, ..quick() };
    let quorum = open(&disk, few).unwrap();
    quorum.propose(register(1, 1)).await.unwrap_or_else(|error| panic!("{error}"));
    for n in 0..20 {
        quorum.propose(create(n, &format!("t{n}"), &[&[1]])).await.unwrap();
    }
    let image = quorum.image();
    let found = disk.power_loss(PowerCut::LoseUnsynced);
    drop(quorum);
    let again = open(&found, few).unwrap();
    leads(&again).await;
    again.read_barrier().await.unwrap();
    assert_eq!(again.image().topics().len(), image.topics().len());
}

#[tokio::test]
async fn a_full_disk_is_an_answer_and_passes() {
    let disk = SimDisk::small();
    let quorum = open(&disk, quick()).unwrap();
    quorum.propose(register(1, 1)).await.unwrap();
    disk.set_capacity(Some(280 * 1024));
    let large = |n| {
        let Command::CreateTopic(mut topic) = create(n, &format!("t{n}"), &[&[1]]) else {
            unreachable!()
        };
        topic.configs.insert("k".into(), "v".repeat(30_000));
        Command::CreateTopic(topic)
    };
    let mut made = 0;
    let full = loop {
        match quorum.propose(large(made)).await {
            Ok(_) => made += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(full, QuorumError::StorageFull);
    assert_eq!(quorum.image().topics().len(), usize::from(made));
    disk.set_capacity(None);
    quorum.propose(large(made)).await.unwrap();
}

#[tokio::test]
async fn a_failed_sync_is_final() {
    let disk = SimDisk::small();
    let quorum = open(&disk, quick()).unwrap();
    quorum.propose(register(1, 1)).await.unwrap();
    disk.fail_sync(SyncPoint::MetaWal);
    let unknown = quorum.propose(create(1, "a", &[&[1]])).await.unwrap_err();
    assert!(matches!(unknown, QuorumError::OutcomeUnknown(_)), "{unknown:?}");
    let failed = quorum.propose(create(2, "b", &[&[1]])).await.unwrap_err();
    assert!(matches!(failed, QuorumError::StorageFailed(_)), "{failed:?}");
    assert!(quorum.read_barrier().await.is_err());
    assert_eq!(*quorum.leader().borrow(), None);
    quorum.shutdown().await;
    assert!(Failure::open(Arc::new(disk.kill()), DATA).is_failed(), "the next start knows");
}

#[tokio::test]
async fn what_comes_after_a_stop_is_refused() {
    let disk = SimDisk::small();
    let quorum = open(&disk, quick()).unwrap();
    quorum.propose(register(1, 1)).await.unwrap();
    let image = quorum.image();
    quorum.shutdown().await;
    quorum.shutdown().await;
    assert_eq!(quorum.propose(level_1()).await, Err(QuorumError::ShuttingDown));
    assert_eq!(quorum.read_barrier().await, Err(QuorumError::ShuttingDown));
    assert_eq!(quorum.image(), image);
}

/// Who waits because too much is under way is let in when that is answered.
#[tokio::test]
async fn requests_wait_for_room() {
    let disk = SimDisk::small();
    let small = RaftOptions { inbox_bytes: 1, ..quick() };
    let quorum = open(&disk, small).unwrap();
    assert_eq!(quorum.inbox_bytes, INBOX_BYTES_MIN);
    quorum.propose(register(1, 1)).await.unwrap();
    let held = quorum.permit(record::RECORD_BYTES_MAX).await.unwrap();
    let mut waits = quorum.propose(create(1, "a", &[&[1]]));
    assert!(futures::poll!(&mut waits).is_pending());
    assert_eq!(quorum.stats().node.entries, quorum.stats().node.entries);
    drop(held);
    waits.await.unwrap();
}

/// From one broker's log to three voters, a change of leader, and a proposal where nobody leads.
#[tokio::test]
async fn three_nodes_grow_from_one() {
    let switch = Arc::new(Switch::default());
    let start = |disk: &SimDisk, node, join| {
        let (properties, failure) = identity(disk, node, join);
        let (peers, clock) = (Arc::clone(&switch), Arc::new(SystemClock));
        let disk = Arc::new(disk.clone());
        let seed = u64::from(node.0);
        let opened = RaftQuorum::open(
            disk,
            Path::new(DATA),
            &properties,
            &failure,
            clock,
            peers,
            seed,
            // A busy machine must not look like a dead leader.
            RaftOptions { election_ticks: 500, ..quick() },
        );
        let quorum = Arc::new(opened.unwrap());
        switch.nodes.lock().insert(quorum.voter().id, Arc::clone(&quorum));
        (quorum, properties.cluster)
    };
    let (first, cluster) = start(&SimDisk::small(), NODE, None);
    leads(&first).await;
    first.propose(register(1, 1)).await.unwrap();
    let mut nodes = vec![Arc::clone(&first)];
    for node in [2, 3] {
        let (joins, _) = start(&SimDisk::small(), BrokerId(node), Some(cluster));
        first.change(&[Step::Listen(joins.voter())]).await.unwrap();
        let voters = loop {
            match first.change(&[Step::Vote(joins.voter().id)]).await {
                Err(error) if error.is_retriable() && error.is_definite() => {
                    tokio::task::yield_now().await;
                }
                other => break other.unwrap(),
            }
        };
        assert_eq!(voters.voting.len(), nodes.len() + 1);
        nodes.push(joins);
    }
    let made = first.propose(create(1, "a", &[&[1]])).await.unwrap();
    for node in &nodes {
        assert!(node.read_barrier().await.unwrap() >= made.offset);
        assert_eq!(node.image().topics().len(), 1);
    }
    let refused = nodes[1].propose(create(2, "b", &[&[1]])).await.unwrap_err();
    assert_eq!(refused, QuorumError::NotLeader { leader: Some(NODE) });

    let heir = nodes[2].voter();
    first.transfer(heir.id);
    nodes[2].leader().wait_for(|l| l.is_some_and(|l| l.node == heir.node)).await.unwrap();
    nodes[2].propose(create(2, "b", &[&[1]])).await.unwrap();
    first.read_barrier().await.unwrap();
    assert_eq!(first.image().topics().len(), 2);

    // Taken out, it is sent nothing more: it must not believe in the last leader it heard.
    nodes[2].change(&[Step::Leave(first.voter().id)]).await.unwrap();
    first.leader().wait_for(Option::is_none).await.unwrap();
    nodes[2].change(&[Step::Listen(first.voter())]).await.unwrap();
    assert_eq!(leads(&first).await.node, heir.node);
    // A node's thread must not be the last to hold another node.
    for node in &nodes {
        node.shutdown().await;
    }
    switch.nodes.lock().clear();
}
