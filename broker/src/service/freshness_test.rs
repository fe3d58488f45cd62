//! A broker that is behind, alone and as its clients see it.

use std::sync::atomic::AtomicUsize;

use futures::future::{BoxFuture, join_all};
use parking_lot::Mutex as Lock;
use tokio::sync::{Semaphore, watch};

use super::*;
use crate::{
    controller::{
        Accepted, Leader, QuorumError, Subscription,
        raft::{ChangeError, Step, Voter, Voters},
        topics::{self, NewTopic},
    },
    metadata::{MetadataImage, MetadataOffset},
    service::{freshness::PATIENCE, test_support::*, v1},
};

/// The quorum as a follower sees it that hears of changes only when it asks.
#[derive(Debug)]
struct Behind {
    real: Arc<LocalQuorum>,
    known: Lock<Arc<MetadataImage>>,
    alone: bool,
    barriers: AtomicUsize,
    /// What a barrier takes before it is passed.
    open: Semaphore,
}

impl Behind {
    fn new(real: Arc<LocalQuorum>, alone: bool) -> Arc<Self> {
        let known = Lock::new(real.image());
        let open = Semaphore::new(Semaphore::MAX_PERMITS);
        Arc::new(Self { real, known, alone, barriers: AtomicUsize::new(0), open })
    }

    fn barriers(&self) -> usize {
        self.barriers.load(Ordering::SeqCst)
    }
}

impl MetaQuorum for Behind {
    fn propose(&self, command: Command) -> BoxFuture<'_, Result<Accepted, QuorumError>> {
        self.real.propose(command)
    }

    fn read_barrier(&self) -> BoxFuture<'_, Result<MetadataOffset, QuorumError>> {
        self.barriers.fetch_add(1, Ordering::SeqCst);
        Box::pin(async {
            let image = self.real.image();
            self.open.acquire().await.expect("it is never closed").forget();
            let offset = image.offset();
            *self.known.lock() = image;
            Ok(offset)
        })
    }

    fn image(&self) -> Arc<MetadataImage> {
        Arc::clone(&self.known.lock())
    }

    fn subscribe(&self) -> Subscription {
        self.real.subscribe()
    }

    fn leader(&self) -> watch::Receiver<Option<Leader>> {
        self.real.leader()
    }

    fn voters(&self) -> Voters {
        let mut voters = self.real.voters();
        if !self.alone {
            let other = voters.voting[0];
            voters.voting.push(Voter::new(BrokerId(2), other.directory));
        }
        voters
    }

    fn change_voters(&self, steps: Vec<Step>) -> BoxFuture<'_, Result<Voters, ChangeError>> {
        self.real.change_voters(steps)
    }
}

thread_local! {
    /// How the broker of this test sees the quorum.
    static SEEN: std::cell::RefCell<Option<Arc<Behind>>> = const { std::cell::RefCell::new(None) };
}

/// A broker that is behind, and what keeps it so.
async fn broker(alone: bool) -> (Broker, Arc<Behind>) {
    fn behind(real: Arc<LocalQuorum>, alone: bool) -> Arc<dyn MetaQuorum> {
        let behind = Behind::new(real, alone);
        SEEN.with(|seen| *seen.borrow_mut() = Some(Arc::clone(&behind)));
        behind
    }
    let broker = Broker::with(|setup| {
        setup.quorum = if alone { |real| behind(real, true) } else { |real| behind(real, false) };
    })
    .await;
    let behind = SEEN.with(|seen| seen.borrow_mut().take()).expect("the broker was made with it");
    (broker, behind)
}

/// Makes a topic as if through another broker.
async fn made_elsewhere(broker: &Broker, name: &str) -> TopicId {
    let config = Config::default();
    let policy = TopicPolicy::new(&config.broker, config.topic.clone());
    let topic = NewTopic { name: name.to_owned(), ..NewTopic::default() };
    let id = TopicId::random();
    let command = topics::create_topic(&broker.quorum.image(), &policy, &topic, id).unwrap();
    broker.quorum.propose(command).await.unwrap();
    id
}

fn by_name(name: &str) -> v1::TopicPartition {
    v1::TopicPartition { topic: name.to_owned(), ..Default::default() }
}

#[tokio::test]
async fn a_topic_made_elsewhere_a_moment_ago_is_known_by_whoever_is_asked() {
    let (broker, behind) = broker(false).await;
    let mut expected = 0;
    let mut fresh = async |name: &str| {
        let id = made_elsewhere(&broker, name).await;
        assert!(
            !behind.image().topics().any(|topic| topic.name.to_string() == name),
            "it is behind"
        );
        expected += 1;
        (id, expected)
    };

    let (id, asked) = fresh("names").await;
    let request = v1::GetTopicsRequest { topics: vec!["names".into()], ..Default::default() };
    let found = broker.metadata().get_topics(request).await.unwrap().into_inner();
    assert!(matches!(found.topics[0].outcome, Some(v1::topic_result::Outcome::Topic(_))));
    assert_eq!(found.topics[0].topic_id, id.as_bytes()[..]);
    assert_eq!(behind.barriers(), asked);

    let (id, asked) = fresh("ids").await;
    let ids = vec![Bytes::copy_from_slice(id.as_bytes())];
    let request = v1::GetTopicsRequest { topic_ids: ids, ..Default::default() };
    let found = broker.metadata().get_topics(request).await.unwrap().into_inner();
    assert_eq!(found.topics[0].name, "ids");
    assert_eq!(behind.barriers(), asked);

    let (_, asked) = fresh("offsets").await;
    let query = v1::OffsetQuery {
        partition: Some(by_name("offsets")),
        at: Some(v1::offset_query::At::Edge(v1::Edge::Latest.into())),
        ..Default::default()
    };
    let request = v1::ListOffsetsRequest { queries: vec![query] };
    let found = broker.metadata().list_offsets(request).await.unwrap().into_inner();
    let outcome = found.results[0].outcome.as_ref().unwrap();
    assert!(matches!(outcome, v1::offset_result::Outcome::Found(_)), "{outcome:?}");
    assert_eq!(behind.barriers(), asked);

    let (_, asked) = fresh("described").await;
    let request = v1::DescribeTopicRequest { name: "described".into() };
    broker.admin().describe_topic(request).await.unwrap();
    assert_eq!(behind.barriers(), asked);

    let (_, asked) = fresh("emptied").await;
    let emptied =
        v1::DeleteRecordsBefore { partition: Some(by_name("emptied")), ..Default::default() };
    let request = v1::DeleteRecordsRequest { partitions: vec![emptied], ..Default::default() };
    let deleted = broker.admin().delete_records(request).await.unwrap().into_inner();
    let outcome = &deleted.results[0].outcome;
    assert!(
        matches!(outcome, Some(v1::delete_records_result::Outcome::LogStartOffset(0))),
        "{outcome:?}"
    );
    assert_eq!(behind.barriers(), asked);

    let (_, asked) = fresh("produced").await;
    let request = v1::ProduceRequest {
        topic: "produced".into(),
        records: Some(records(&["a"])),
        ..Default::default()
    };
    broker.producer().produce(request).await.unwrap();
    assert_eq!(behind.barriers(), asked);

    let (_, asked) = fresh("fetched").await;
    let places =
        vec![v1::PartitionFrom { partition: Some(by_name("fetched")), ..Default::default() }];
    let request = v1::FetchRequest { partitions: places, ..Default::default() };
    let read = broker.consumer().fetch(request).await.unwrap().into_inner();
    let outcome = &read.partitions[0].outcome;
    assert!(!matches!(outcome, Some(v1::partition_data::Outcome::Error(_))), "{outcome:?}");
    assert_eq!(behind.barriers(), asked);

    let (_, asked) = fresh("tailed").await;
    let request = v1::TailRequest { topic: "tailed".into(), ..Default::default() };
    broker.consumer().tail(request).await.unwrap();
    assert_eq!(behind.barriers(), asked);
}

#[tokio::test]
async fn a_broker_that_is_the_whole_quorum_asks_nobody() {
    let (broker, behind) = broker(true).await;
    let request = v1::TailRequest { topic: "nowhere".into(), ..Default::default() };
    let refused = broker.consumer().tail(request).await.map(drop).unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    assert_eq!(behind.barriers(), 0);
}

#[tokio::test]
async fn what_is_known_to_be_deleted_costs_no_barrier() {
    let (broker, behind) = broker(false).await;
    let id = broker.topic("gone", 1).await;
    let request = v1::DeleteTopicRequest { name: "gone".into(), ..Default::default() };
    broker.admin().delete_topic(request).await.unwrap();
    *behind.known.lock() = behind.real.image();
    let before = behind.barriers();
    let ids = vec![Bytes::copy_from_slice(id.as_bytes())];
    let request = v1::GetTopicsRequest { topic_ids: ids, ..Default::default() };
    broker.metadata().get_topics(request).await.unwrap();
    assert_eq!(behind.barriers(), before);
}

/// However many ask, a barrier under way and one behind it are enough for all who are there.
#[tokio::test]
async fn many_who_ask_at_once_share_a_barrier() {
    let (broker, behind) = broker(false).await;
    tokio::time::pause();
    let quorum: Arc<dyn MetaQuorum> = Arc::clone(&behind) as Arc<dyn MetaQuorum>;
    let freshness = Arc::new(Freshness::new(BrokerId(1), quorum));
    let before = behind.barriers();
    behind.open.forget_permits(Semaphore::MAX_PERMITS);
    let ask = || {
        tokio::spawn({
            let freshness = Arc::clone(&freshness);
            async move { freshness.catch_up().await }
        })
    };
    let early: Vec<_> = (0..100).map(|_| ask()).collect();
    while behind.barriers() == before {
        sleep(Duration::from_millis(1)).await;
    }
    // The barrier that is under way began before these came.
    let late: Vec<_> = (0..100).map(|_| ask()).collect();
    // One of them is gone before it had its turn.
    late[0].abort();
    sleep(Duration::from_millis(20)).await;
    assert_eq!(behind.barriers() - before, 1, "one at a time");
    behind.open.add_permits(2);
    assert!(join_all(early).await.into_iter().all(|fresh| fresh.unwrap()));
    assert!(join_all(late).await.into_iter().skip(1).all(|fresh| fresh.unwrap()));
    assert_eq!(behind.barriers() - before, 2);

    // Nobody passes it: the wait ends all the same, and says so.
    let began = tokio::time::Instant::now();
    assert!(!ask().await.unwrap());
    assert!((PATIENCE..PATIENCE * 2).contains(&began.elapsed()));
    drop(broker);
}
