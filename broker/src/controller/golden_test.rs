//! `tests/fixtures/meta_v1`: a data directory as the first version wrote it, opened forever. Its
//! snapshot and its log both hold something of every kind.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use riverrun_proto::{
    epoch::{LeaderEpoch, PartitionEpoch},
    ids::{BrokerId, ClusterId, DirectoryId, IncarnationId},
};

use super::{LocalOptions, LocalQuorum, MetaProperties, MetaQuorum, OpenError};
use crate::{
    io::{
        Disk, Failure,
        real::{MapPolicy, RealDisk},
    },
    metadata::{
        Command, Endpoint, FeatureLevel, FeatureRange, MetadataImage, MetadataOffset,
        command::RegisterBroker,
        test_support::{
            after, allocate, alter, bytes16, configs, create, delete, grow, level_1, name, topic_id,
        },
    },
};

const NODE: BrokerId = BrokerId(1);

const FIXTURE: &str = "meta_v1";

pub(super) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

fn properties() -> MetaProperties {
    MetaProperties {
        cluster: ClusterId::from_bytes(&[0xc1; 16]).unwrap(),
        node: NODE,
        directory: DirectoryId::from_bytes(&[0xd1; 16]).unwrap(),
    }
}

fn register(incarnation: u8) -> Command {
    Command::RegisterBroker(RegisterBroker {
        broker: NODE,
        incarnation: IncarnationId::from_bytes(&bytes16(incarnation)).unwrap(),
        directory: properties().directory,
        endpoints: vec![Endpoint {
            listener: Endpoint::CLIENTS.into(),
            host: "127.0.0.1".into(),
            port: 9190,
        }],
        rack: Some("rack-1".into()),
        features: FeatureRange { min: FeatureLevel::V1, max: FeatureLevel::V1 },
    })
}

/// What was written; the second half after the snapshot.
fn history() -> [Vec<Command>; 2] {
    let topic = |n, text: &str, partitions: usize| {
        let Command::CreateTopic(mut topic) = create(n, text, &vec![&[1_u32][..]; partitions])
        else {
            unreachable!()
        };
        topic.configs = configs(&[("retention.ms", "3600000"), ("segment.bytes", "1048576")]);
        Command::CreateTopic(topic)
    };
    [
        vec![
            register(1),
            topic(1, "orders", 3),
            topic(2, "gone-before-the-snapshot", 1),
            alter(1, 0, &[("retention.ms", "7200000")], &["segment.bytes"], 1),
            grow(1, 1, &[&[1]]),
            delete(2),
            allocate(1, 3, 1000),
        ],
        vec![
            register(2),
            topic(3, "payments", 2),
            topic(4, "gone-after-the-snapshot", 1),
            grow(3, 0, &[&[1], &[1]]),
            alter(3, 1, &[("min.insync.replicas", "1")], &[], 1),
            delete(4),
            delete(4),
            allocate(1, 10, 500),
        ],
    ]
}

pub(super) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

pub(super) fn open(data: &Path, options: LocalOptions) -> Result<LocalQuorum, OpenError> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(MapPolicy::Never));
    let failure = Failure::open(Arc::clone(&disk), data);
    let found = MetaProperties::open_or_format(&disk, data, NODE, None, &failure)?;
    assert_eq!(found, properties());
    LocalQuorum::open(disk, data, &found, &failure, options)
}

async fn propose(quorum: &LocalQuorum, commands: &[Command]) {
    for command in commands {
        // One of them is rejected, and has its place in the log all the same.
        let _ = quorum.propose(command.clone()).await;
    }
}

#[tokio::test]
async fn the_directory_of_the_first_version_opens() {
    let data = tempfile::tempdir().unwrap();
    copy(&fixture(FIXTURE), data.path());
    let quorum = open(data.path(), LocalOptions::default()).unwrap();
    let image = quorum.image();

    assert_eq!(image.offset(), MetadataOffset::new(17).unwrap());
    assert_eq!(image.feature_level(), FeatureLevel::V1);
    let broker = image.broker(NODE).unwrap();
    assert_eq!((broker.epoch.get(), broker.rack.as_deref()), (10, Some("rack-1")));
    assert_eq!(broker.endpoint(Endpoint::CLIENTS).unwrap().port, 9190);
    let names: Vec<_> = image.topics().map(|topic| topic.name.to_string()).collect();
    assert_eq!(names, ["orders", "payments"]);
    let orders = image.topic(&name("orders")).unwrap();
    assert_eq!((orders.id, orders.partition_count(), orders.version.0), (topic_id(1), 4, 2));
    assert_eq!(*orders.configs, configs(&[("retention.ms", "7200000")]));
    for (_, partition) in orders.partitions() {
        assert_eq!(partition.leader, Some(NODE));
        assert_eq!(partition.leader_epoch, LeaderEpoch::new(1).unwrap(), "of the second run");
        assert_eq!(partition.partition_epoch, PartitionEpoch::new(1).unwrap());
        assert_eq!((&partition.replicas, &partition.isr), (&vec![NODE], &vec![NODE]));
        assert_eq!((partition.elr.len(), partition.min_isr), (0, 1));
    }
    let payments = image.topic(&name("payments")).unwrap();
    assert_eq!((payments.partition_count(), payments.configs.len()), (4, 3));
    assert_eq!(image.deleted_at(topic_id(2)), MetadataOffset::new(8));
    assert_eq!(image.deleted_at(topic_id(4)), MetadataOffset::new(15));

    // And exactly what the same commands come to now.
    let mut commands = vec![level_1()];
    commands.extend(history().concat());
    let mut expected = MetadataImage::default().at(MetadataOffset::new(1).unwrap());
    for command in &commands {
        expected = expected.apply(expected.offset().next(), command).image;
    }
    assert_eq!(*image, expected);
    assert!(after(&commands[..1]).offset() < image.offset());

    quorum.propose(register(3)).await.unwrap();
    let image = quorum.image();
    quorum.shutdown().await;
    assert_eq!(open(data.path(), LocalOptions::default()).unwrap().image(), image);
}

/// Wrote the fixture; run by hand, once per format version, into a directory that is not there yet.
#[tokio::test]
#[ignore = "writes a fixture"]
async fn write_the_fixture() {
    let [before, after] = history();
    write(FIXTURE, &before, &after).await;
}

/// Writes a fixture with a snapshot between the two.
pub(super) async fn write(name: &str, before: &[Command], after: &[Command]) {
    let data = fixture(name);
    fs::create_dir(&data).expect("a fixture is written once");
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(MapPolicy::Never));
    let failure = Failure::open(Arc::clone(&disk), &data);
    properties().format(&*disk, &data, &failure).unwrap();
    let now = LocalOptions { snapshot_entries: 1 + before.len() as u64, ..LocalOptions::default() };
    let quorum = open(&data, now).unwrap();
    propose(&quorum, before).await;
    quorum.shutdown().await;
    assert_eq!(quorum.stats().snapshots, 1);
    let quorum = open(&data, LocalOptions::default()).unwrap();
    propose(&quorum, after).await;
    quorum.shutdown().await;
    // What is allocated ahead is zeros; a copy need not have them.
    for entry in fs::read_dir(data.join("meta")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        bytes.truncate(end);
        fs::write(&path, bytes).unwrap();
    }
}
