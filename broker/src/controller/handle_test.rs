use futures::future::join_all;
use riverrun_proto::ids::TopicName;

use super::{
    super::{
        LocalQuorum,
        test_support::{SmallDisk, registered},
    },
    *,
};
use crate::{
    config::{BrokerConfig, TopicDefaults},
    io::sim::SimDisk,
};

async fn controller() -> (Controller, Arc<LocalQuorum>) {
    let quorum = registered(&SimDisk::small()).await;
    let policy = TopicPolicy::new(&BrokerConfig::default(), TopicDefaults::default());
    (Controller::new(Arc::clone(&quorum) as Arc<dyn MetaQuorum>, policy), quorum)
}

fn orders() -> NewTopic {
    NewTopic { name: "orders".into(), partitions: Some(2), ..NewTopic::default() }
}

fn orders_ref() -> TopicRef {
    TopicRef { name: TopicName::try_new("orders").unwrap(), id: None }
}

fn set(key: &str, value: &str) -> ConfigChanges {
    ConfigChanges { set: [(key.to_owned(), value.to_owned())].into(), ..ConfigChanges::default() }
}

#[tokio::test]
async fn a_topic_from_creation_to_deletion() {
    let (controller, quorum) = controller().await;
    let made = controller.create_topic(&orders(), Mode::Apply).await.unwrap();
    assert_eq!(quorum.image().topic_by_id(made.id), Some(&made));
    let grown = controller.create_partitions(&orders_ref(), 5, Mode::Apply).await.unwrap();
    assert_eq!(grown.partition_count(), 5);
    let changes = set("retention.ms", "1h");
    let altered =
        controller.alter_topic_configs(&orders_ref(), &changes, Mode::Apply).await.unwrap();
    assert_eq!(altered.configs["retention.ms"], "3600000");
    controller.delete_topic(&orders_ref(), Mode::Apply).await.unwrap();
    assert_eq!(quorum.image().topics().len(), 0);
    let again = controller.create_topic(&orders(), Mode::Apply).await.unwrap();
    assert_ne!(again.id, made.id);
}

#[tokio::test]
async fn validation_says_the_same_and_writes_nothing() {
    let (controller, quorum) = controller().await;
    let before = quorum.image();
    let would_be = controller.create_topic(&orders(), Mode::ValidateOnly).await.unwrap();
    assert_eq!(would_be.partition_count(), 2);
    controller.create_topic(&orders(), Mode::Apply).await.unwrap();
    let after = quorum.image();
    assert_eq!(after.offset(), before.offset().next());
    let exists = controller.create_topic(&orders(), Mode::ValidateOnly).await.unwrap_err();
    assert!(matches!(exists, ControllerError::Topic(TopicError::Exists { .. })));
    controller.create_partitions(&orders_ref(), 3, Mode::ValidateOnly).await.unwrap();
    controller.delete_topic(&orders_ref(), Mode::ValidateOnly).await.unwrap();
    let changes = set("retention.ms", "1h");
    controller.alter_topic_configs(&orders_ref(), &changes, Mode::ValidateOnly).await.unwrap();
    assert_eq!(quorum.image(), after);
}

/// All decide on an image without the topic; whoever loses is told what he would be told later.
#[tokio::test]
async fn of_many_creators_of_one_name_one_wins() {
    let (controller, quorum) = controller().await;
    let topic = orders();
    let made = join_all((0..10).map(|_| controller.create_topic(&topic, Mode::Apply))).await;
    assert_eq!(made.iter().filter(|result| result.is_ok()).count(), 1);
    for lost in made.into_iter().filter_map(Result::err) {
        assert!(matches!(&lost, ControllerError::Topic(TopicError::Exists { .. })), "{lost:?}");
        assert!(lost.is_definite() && !lost.is_retriable());
    }
    assert_eq!(quorum.image().topics().len(), 1);
}

#[tokio::test]
async fn changes_that_meet_are_both_made() {
    let (controller, quorum) = controller().await;
    controller.create_topic(&orders(), Mode::Apply).await.unwrap();
    let (retention, segment) = (set("retention.ms", "1h"), set("segment.bytes", "2MiB"));
    let orders = orders_ref();
    let (a, b, c) = futures::join!(
        controller.alter_topic_configs(&orders, &retention, Mode::Apply),
        controller.alter_topic_configs(&orders, &segment, Mode::Apply),
        controller.create_partitions(&orders, 3, Mode::Apply),
    );
    for result in [a, b, c] {
        result.unwrap();
    }
    let image = quorum.image();
    let topic = image.topic(&orders.name).unwrap();
    assert_eq!((topic.configs.len(), topic.partition_count(), topic.version.0), (2, 3, 3));
}

#[tokio::test]
async fn what_the_log_cannot_do_is_said() {
    let (controller, quorum) = controller().await;
    quorum.shutdown().await;
    let error = controller.create_topic(&orders(), Mode::Apply).await.unwrap_err();
    assert_eq!(error, ControllerError::Quorum(QuorumError::ShuttingDown));
    assert!(error.is_definite() && error.is_retriable());
}
