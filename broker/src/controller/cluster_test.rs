use std::{collections::BTreeMap, path::Path};

use parking_lot::Mutex;
use riverrun_proto::ids::ClusterId;

use super::*;
use crate::{
    clock::SystemClock,
    config::{BrokerConfig, TopicDefaults},
    controller::{
        Controller, MetaProperties, Mode,
        raft::{NoPeers, RaftOptions, Transport, Voter, VoterId},
        subscription::Publisher,
        test_support::{DATA, NODE, SmallDisk},
        topics::{NewTopic, TopicPolicy, TopicRef},
    },
    io::{Disk, Failure, sim::SimDisk},
    metadata::{
        Rejection, Reply,
        test_support::{after, apply, create, delete, level_1, register},
    },
};

/// A network within the process, for messages and for calls.
#[derive(Debug, Default)]
struct Switch {
    nodes: Mutex<BTreeMap<VoterId, Arc<RaftQuorum>>>,
    /// What the next calls are answered with, instead of being delivered.
    refusals: Mutex<Vec<QuorumError>>,
}

impl Transport for Switch {
    fn send(&self, from: &Voter, to: &Voter, message: Bytes) {
        let node = self.nodes.lock().get(&to.id).cloned();
        if let Some(node) = node {
            node.receive(*from, &message);
        }
    }
}

impl LeaderCalls for Switch {
    fn propose(
        &self,
        leader: BrokerId,
        record: Bytes,
    ) -> BoxFuture<'_, Result<MetadataOffset, QuorumError>> {
        let node = self.nodes.lock().values().find(|n| n.voter().node == leader).cloned();
        Box::pin(async move {
            if let Some(refusal) = self.refusals.lock().pop() {
                return Err(refusal);
            }
            let node = node.ok_or(QuorumError::NotLeader { leader: Some(leader) })?;
            node.propose_record(record).await.map(|judged| judged.offset)
        })
    }

    fn change(&self, leader: BrokerId, steps: Vec<Step>) -> BoxFuture<'_, Result<(), ChangeError>> {
        let node = self.nodes.lock().values().find(|n| n.voter().node == leader).cloned();
        Box::pin(async move {
            let node = node.ok_or(ChangeError::NotLeader { leader: Some(leader) })?;
            node.change(&steps).await.map(drop)
        })
    }
}

fn start(
    switch: &Arc<Switch>,
    node: BrokerId,
    join: Option<ClusterId>,
) -> (ClusterQuorum, ClusterId) {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::small());
    let failure = Failure::open(Arc::clone(&disk), DATA);
    let data = Path::new(DATA);
    let properties = match join {
        Some(cluster) => MetaProperties::open_or_join(&disk, data, node, cluster, &failure),
        None => MetaProperties::open_or_format(&disk, data, node, None, &failure),
    };
    // A busy machine must not look like a dead leader.
    let properties = properties.unwrap();
    let options =
        RaftOptions { tick: Duration::from_millis(10), election_ticks: 500, ..Default::default() };
    let opened = RaftQuorum::open(
        disk,
        data,
        &properties,
        &failure,
        Arc::new(SystemClock),
        Arc::clone(switch) as Arc<dyn Transport>,
        u64::from(node.0),
        options,
    );
    let quorum = Arc::new(opened.unwrap());
    switch.nodes.lock().insert(quorum.voter().id, Arc::clone(&quorum));
    let cluster = ClusterQuorum::new(quorum, Arc::clone(switch) as Arc<dyn LeaderCalls>);
    (cluster, properties.cluster)
}

/// A leader, and a node that listens.
async fn two() -> (Arc<Switch>, ClusterQuorum, ClusterQuorum) {
    let switch = Arc::new(Switch::default());
    let (leader, cluster) = start(&switch, NODE, None);
    leader.propose(register(1, 1)).await.unwrap();
    let (listener, _) = start(&switch, BrokerId(2), Some(cluster));
    leader.change_voters(vec![Step::Listen(listener.here().voter())]).await.unwrap();
    listener.leader().wait_for(Option::is_some).await.unwrap();
    (switch, leader, listener)
}

async fn stop(switch: &Switch, nodes: [&ClusterQuorum; 2]) {
    for node in nodes {
        node.here().shutdown().await;
    }
    switch.nodes.lock().clear();
}

#[tokio::test]
async fn who_asks_elsewhere_gets_the_same_answer_and_sees_his_change() {
    let (switch, leader, listener) = two().await;
    let made = listener.propose(create(1, "a", &[&[1]])).await.unwrap();
    let Reply::Topic(topic) = &made.reply else { panic!("{made:?}") };
    assert_eq!(listener.image().topic_by_id(topic.id), Some(topic));
    assert!(listener.image().offset() >= made.offset);
    leader.read_barrier().await.unwrap();
    assert_eq!(leader.image().topic_by_id(topic.id), Some(topic));
    let again = listener.propose(create(2, "a", &[&[1]])).await.unwrap_err();
    assert!(
        matches!(again, QuorumError::Rejected(Rejection::TopicExists { id, .. }) if id == topic.id),
        "{again:?}"
    );
    stop(&switch, [&leader, &listener]).await;
}

#[tokio::test]
async fn a_node_behind_the_others_decides_on_what_was_acknowledged_to_them() {
    let (switch, leader, listener) = two().await;
    let (leader, listener) = (Arc::new(leader), Arc::new(listener));
    let policy = TopicPolicy::new(&BrokerConfig::default(), TopicDefaults::default());
    let [first, behind] = [&leader, &listener]
        .map(|quorum| Controller::new(Arc::clone(quorum) as Arc<dyn MetaQuorum>, policy.clone()));
    for n in 0..20 {
        let topic = NewTopic { name: format!("t{n}"), ..NewTopic::default() };
        let made = first.create_topic(&topic, Mode::Apply).await.unwrap();
        let name = made.name.clone();
        behind.delete_topic(&TopicRef { name, id: Some(made.id) }, Mode::Apply).await.unwrap();
    }
    stop(&switch, [&leader, &listener]).await;
}

#[tokio::test]
async fn a_leader_that_could_not_be_asked_is_asked_again() {
    let (switch, leader, listener) = two().await;
    let nobody = QuorumError::NotLeader { leader: None };
    *switch.refusals.lock() = vec![nobody.clone(), nobody];
    listener.propose(create(1, "a", &[&[1]])).await.unwrap();
    // But not where it may have been carried out.
    *switch.refusals.lock() = vec![QuorumError::OutcomeUnknown("a test".into())];
    let unknown = listener.propose(create(2, "b", &[&[1]])).await.unwrap_err();
    assert!(matches!(unknown, QuorumError::OutcomeUnknown(_)), "{unknown:?}");
    assert_eq!(listener.image().topics().len(), 1);
    stop(&switch, [&leader, &listener]).await;
}

#[tokio::test]
async fn voters_are_changed_from_anywhere() {
    let (switch, leader, listener) = two().await;
    let me = listener.here().voter();
    while let Err(why) = listener.change_voters(vec![Step::Vote(me.id)]).await {
        assert!(why.is_retriable() && why.is_definite(), "{why}");
    }
    listener.read_barrier().await.unwrap();
    assert_eq!(leader.voters().voting.len(), 2);
    stop(&switch, [&leader, &listener]).await;
}

#[tokio::test(start_paused = true)]
async fn where_nobody_leads_the_wait_has_an_end() {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::small());
    let failure = Failure::open(Arc::clone(&disk), DATA);
    let data = Path::new(DATA);
    let cluster = ClusterId::from_bytes(&[3; 16]).unwrap();
    let properties = MetaProperties::open_or_join(&disk, data, NODE, cluster, &failure).unwrap();
    let (clock, peers) = (Arc::new(SystemClock), Arc::new(NoPeers));
    let options = RaftOptions::default();
    let blank = RaftQuorum::open(disk, data, &properties, &failure, clock, peers, 1, options);
    let blank = ClusterQuorum::new(Arc::new(blank.unwrap()), Arc::new(Switch::default()));
    let nobody = QuorumError::NotLeader { leader: None };
    assert_eq!(blank.propose(level_1()).await, Err(nobody.clone()));
    assert!(nobody.to_string().contains("majority"), "{nobody}");
    let change = blank.change_voters(vec![]).await.unwrap_err();
    assert_eq!(change, ChangeError::NotLeader { leader: None });
}

#[tokio::test]
async fn a_place_that_goes_by_unseen_is_not_guessed_at() {
    let image = after(&[level_1(), register(1, 1), create(1, "a", &[&[1]])]);
    let command = delete(1);
    let at = image.offset().next();
    let expected = apply(&image, &command);

    let publisher = Publisher::new(image.clone());
    let judged = judge(publisher.subscribe(), at, &command);
    publisher.publish(expected.image.clone(), expected.deltas.clone());
    assert_eq!(judged.await.unwrap(), Judged { offset: at, outcome: expected.outcome });

    // It was there before anybody looked; or a snapshot has it and more.
    let publisher = Publisher::new(expected.image.clone());
    assert_eq!(judge(publisher.subscribe(), at, &command).await, None);
    let publisher = Publisher::new(image);
    let judged = judge(publisher.subscribe(), at, &command);
    publisher.publish(expected.image.at(at.next().next()), Vec::new());
    assert_eq!(judged.await, None);
}
