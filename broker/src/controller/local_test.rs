use std::task::Poll;

use riverrun_proto::{
    epoch::BrokerEpoch,
    ids::{BrokerId, ClusterId, DirectoryId},
};

use super::*;
use crate::{
    controller::{
        frame::{Entry, EntryKind, Voter},
        quorum::Accepted,
        subscription::Update,
        test_support::{DATA, NODE, SmallDisk, open_with},
    },
    io::{
        SyncPoint,
        sim::{Fault, Op, PowerCut, SimDisk},
    },
    metadata::{
        Rejection, Reply,
        test_support::{create, level_1, register},
    },
};

fn options() -> LocalOptions {
    LocalOptions::default()
}

fn open(disk: &SimDisk) -> Result<LocalQuorum, OpenError> {
    open_with(disk, options())
}

/// A topic whose record has at least this many bytes. Too large to be accepted if above 32 KiB.
fn large(n: u8, bytes: usize) -> Command {
    let Command::CreateTopic(mut topic) = create(n, &format!("t{n}"), &[&[1]]) else {
        unreachable!()
    };
    topic.configs.insert("k".into(), "v".repeat(bytes));
    Command::CreateTopic(topic)
}

#[tokio::test]
async fn it_leads_at_once_and_answers_after_everybody_can_see() {
    let disk = SimDisk::small();
    let quorum = open(&disk).unwrap();
    assert_eq!(*quorum.leader().borrow(), Some(Leader { node: NODE, term: 1 }));
    let mut subscription = quorum.subscribe();
    let accepted = quorum.propose(register(1, 1)).await.unwrap();
    let epoch = i64::try_from(accepted.offset.get()).unwrap();
    assert_eq!(accepted.reply, Reply::BrokerEpoch(BrokerEpoch::new(epoch).unwrap()));
    assert_eq!(quorum.image().offset(), accepted.offset);
    assert_eq!(quorum.read_barrier().await, Ok(accepted.offset));
    let Some(Update::Change(change)) = subscription.next().await else { panic!() };
    assert_eq!((change.offset, &change.image), (accepted.offset, &quorum.image()));

    let rejected = quorum.propose(level_1()).await.unwrap_err();
    assert!(matches!(rejected, QuorumError::Rejected(Rejection::FeatureLevelOrder { .. })));
    assert!(rejected.is_definite() && !rejected.is_retriable());
    let stats = quorum.stats();
    assert_eq!((stats.entries, stats.rejected, stats.inbox_bytes), (2, 1, 0));
}

#[tokio::test]
async fn shutdown_finishes_what_it_has_and_lets_go() {
    let disk = SimDisk::small();
    let quorum = open(&disk).unwrap();
    quorum.propose(register(1, 1)).await.unwrap();
    let image = quorum.image();
    let mut subscription = quorum.subscribe();
    quorum.shutdown().await;
    quorum.shutdown().await;
    let refused = quorum.propose(create(1, "a", &[&[1]])).await.unwrap_err();
    assert_eq!(refused, QuorumError::ShuttingDown);
    assert!(refused.is_definite() && refused.is_retriable());
    assert_eq!(quorum.read_barrier().await, Err(QuorumError::ShuttingDown));
    assert_eq!(*quorum.leader().borrow(), None);
    drop(quorum);
    assert!(subscription.next().await.is_none());
    let again = open(&disk.power_loss(PowerCut::LoseUnsynced)).unwrap();
    assert_eq!(again.image(), image);
}

/// Without a thread, so that what waits is known: all of it shares one sync.
#[tokio::test]
async fn whatever_waits_is_one_group_and_one_sync() {
    let disk = SimDisk::small();
    let (quorum, worker) = without_thread(&disk, options()).await;
    let mut proposals: Vec<_> =
        (0..100).map(|n| quorum.propose(create(n, &format!("t{n}"), &[&[1]]))).collect();
    for proposal in &mut proposals {
        assert!(futures::poll!(proposal).is_pending());
    }
    let before = disk.trace().len();
    quorum.stop_taking();
    thread::spawn(move || worker.run()).join().unwrap();
    for (n, proposal) in proposals.into_iter().enumerate() {
        let Accepted { reply: Reply::Topic(topic), .. } = proposal.await.unwrap() else { panic!() };
        assert_eq!(topic.name.as_str(), format!("t{n}"), "in the order they came");
    }
    let syncs = disk.trace()[before..]
        .iter()
        .filter(|op| matches!(op, Op::Sync(_, SyncPoint::MetaWal)))
        .count();
    assert_eq!((syncs, quorum.stats().groups), (1, 1));
}

/// A quorum whose thread is still to be started, by the test.
async fn without_thread(disk: &SimDisk, options: LocalOptions) -> (LocalQuorum, Worker) {
    let quorum = open(disk).unwrap();
    quorum.propose(register(1, 1)).await.unwrap();
    quorum.shutdown().await;
    let failure = quorum.shared.failure.clone();
    let (store, _) = MetaStore::open(Arc::new(disk.clone()), Path::new(DATA), &failure).unwrap();
    let shared = Arc::new(Shared {
        inbox: Inbox::default(),
        publisher: Publisher::new(MetadataImage::clone(&quorum.image())),
        failure,
        counters: Counters::default(),
    });
    let (leads, leader) = watch::channel(Some(Leader { node: NODE, term: 1 }));
    let worker = Worker::new(store, Arc::clone(&shared), leads, options);
    let idle = LocalQuorum {
        me: quorum.me,
        shared,
        budget: Arc::new(Semaphore::new(options.inbox_bytes)),
        inbox_bytes: options.inbox_bytes,
        thread: Mutex::new(None),
        leader,
    };
    (idle, worker)
}

#[tokio::test]
async fn proposals_wait_when_too_many_bytes_are_under_way() {
    let disk = SimDisk::small();
    // One record of the largest kind must fit, whatever was configured.
    let small = LocalOptions { inbox_bytes: 1, ..options() };
    let least = open_with(&SimDisk::small(), small).unwrap().inbox_bytes;
    assert_eq!(least, INBOX_BYTES_MIN);
    let small = LocalOptions { inbox_bytes: least, ..options() };
    let (quorum, worker) = without_thread(&disk, small).await;

    let mut first = quorum.propose(large(1, 700_000));
    let mut second = quorum.propose(large(2, 700_000));
    assert!(futures::poll!(&mut first).is_pending());
    assert!(futures::poll!(&mut second).is_pending());
    let waiting = quorum.stats().inbox_bytes;
    assert!((700_000..1_400_000).contains(&waiting), "{waiting} bytes of two are under way");
    // Who gives up takes no permit from the one that is on its way.
    drop(first);
    assert_eq!(quorum.stats().inbox_bytes, waiting);
    assert!(futures::poll!(&mut second).is_pending());

    let thread = thread::spawn(move || worker.run());
    assert!(matches!(second.await, Err(QuorumError::Rejected(Rejection::ConfigTooLarge(_)))));
    quorum.shutdown().await;
    thread.join().unwrap();
    assert_eq!(quorum.stats().entries, 2, "the one given up was written as well");
}

#[tokio::test]
async fn a_full_disk_is_an_answer_and_passes() {
    let disk = SimDisk::small();
    let quorum = open(&disk).unwrap();
    quorum.propose(register(1, 1)).await.unwrap();
    disk.set_capacity(Some(280 * 1024));
    let mut made = 0;
    let full = loop {
        match quorum.propose(large(made, 30_000)).await {
            Ok(_) => made += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(full, QuorumError::StorageFull);
    assert!(full.is_definite() && full.is_retriable());
    let image = quorum.image();
    assert_eq!(image.topics().len(), usize::from(made));
    assert_eq!(quorum.stats().disk_full, 1);
    disk.set_capacity(None);
    quorum.propose(large(made, 30_000)).await.unwrap();
    let image = quorum.image();
    drop(quorum);
    assert_eq!(open(&disk.power_loss(PowerCut::LoseUnsynced)).unwrap().image(), image);
}

#[tokio::test]
async fn a_full_disk_costs_the_snapshot_not_the_log() {
    let disk = SimDisk::small();
    let eager = LocalOptions { snapshot_entries: 3, ..options() };
    let quorum = open_with(&disk, eager).unwrap();
    quorum.propose(register(1, 1)).await.unwrap();
    disk.set_capacity(Some(280 * 1024));
    for n in 0..7 {
        quorum.propose(large(n, 3000)).await.unwrap();
    }
    let stats = quorum.stats();
    assert!((1..7).contains(&stats.disk_full), "tried again, not each time: {stats:?}");
    assert_eq!(stats.snapshots, 0);
    disk.set_capacity(None);
    for n in 7..12 {
        quorum.propose(large(n, 3000)).await.unwrap();
    }
    let image = quorum.image();
    quorum.shutdown().await;
    assert!(quorum.stats().snapshots > 0);
    assert_eq!(open(&disk.power_loss(PowerCut::LoseUnsynced)).unwrap().image(), image);
}

#[tokio::test]
async fn snapshots_come_by_entries_and_by_bytes() {
    let by_entries = LocalOptions { snapshot_entries: 5, ..options() };
    let by_bytes = LocalOptions { snapshot_bytes: 20_000, ..options() };
    for (options, record_bytes) in [(by_entries, 1), (by_bytes, 5000)] {
        let disk = SimDisk::small();
        let quorum = open_with(&disk, options).unwrap();
        quorum.propose(register(1, 1)).await.unwrap();
        for n in 0..20 {
            quorum.propose(large(n, record_bytes)).await.unwrap();
        }
        quorum.shutdown().await;
        let snapshots = quorum.stats().snapshots;
        assert!((3..10).contains(&snapshots), "{snapshots} with {options:?}");
    }
}

#[tokio::test]
async fn a_failed_sync_is_final_and_the_next_start_knows() {
    let disk = SimDisk::small();
    let quorum = open(&disk).unwrap();
    quorum.propose(register(1, 1)).await.unwrap();
    let image = quorum.image();
    disk.fail_sync(SyncPoint::MetaWal);
    let unknown = quorum.propose(create(1, "a", &[&[1]])).await.unwrap_err();
    assert!(matches!(unknown, QuorumError::OutcomeUnknown(_)), "{unknown:?}");
    assert!(!unknown.is_definite() && unknown.is_retriable());
    let failed = quorum.propose(create(2, "b", &[&[1]])).await.unwrap_err();
    assert!(matches!(failed, QuorumError::StorageFailed(_)), "{failed:?}");
    assert!(failed.is_definite() && !failed.is_retriable());
    assert!(quorum.read_barrier().await.is_err());
    assert_eq!(*quorum.leader().borrow(), None);
    assert_eq!(quorum.image(), image, "nothing was applied that is not on the disk");
    drop(quorum);
    let error = open(&disk.kill()).unwrap_err();
    assert!(matches!(error, OpenError::Failed(_)), "{error}");
}

/// A snapshot may fail after the group it follows was answered: those answers stand.
#[tokio::test]
async fn a_failed_snapshot_takes_back_nothing() {
    let disk = SimDisk::small();
    let eager = LocalOptions { snapshot_entries: 1, ..options() };
    let quorum = open_with(&disk, eager).unwrap();
    disk.fail_sync(SyncPoint::MetaSnapshot);
    quorum.propose(register(1, 1)).await.unwrap();
    let mut leader = quorum.leader();
    leader.wait_for(Option::is_none).await.unwrap();
    let error = quorum.propose(create(1, "a", &[&[1]])).await.unwrap_err();
    assert!(matches!(error, QuorumError::StorageFailed(_)));
}

#[tokio::test]
async fn a_write_error_is_final() {
    let disk = SimDisk::small();
    let quorum = open(&disk).unwrap();
    disk.fail_after(0, Fault::WriteError);
    let unknown = quorum.propose(register(1, 1)).await.unwrap_err();
    assert!(matches!(unknown, QuorumError::OutcomeUnknown(_)), "{unknown:?}");
}

#[tokio::test]
async fn what_cannot_be_stored_is_refused_before_it_is_proposed() {
    let quorum = open(&SimDisk::small()).unwrap();
    let error = quorum.propose(large(1, record::RECORD_BYTES_MAX)).await.unwrap_err();
    assert!(matches!(error, QuorumError::Record(_)), "{error}");
    assert!(error.is_definite() && !error.is_retriable());
    assert_eq!(quorum.stats().entries, 0);
}

#[tokio::test]
async fn a_proposal_not_polled_is_not_made() {
    let quorum = open(&SimDisk::small()).unwrap();
    drop(quorum.propose(register(1, 1)));
    let mut polled = quorum.propose(register(1, 2));
    let answered = matches!(futures::poll!(&mut polled), Poll::Ready(_));
    drop(polled);
    quorum.shutdown().await;
    assert_eq!(quorum.stats().entries, 1, "the other is made, answered ({answered}) or not");
}

#[test]
fn a_record_of_a_newer_binary_stops_the_start() {
    let disk = SimDisk::small();
    drop(open(&disk).unwrap());
    let failure = Failure::open(Arc::new(disk.clone()), DATA);
    let (mut store, _) =
        MetaStore::open(Arc::new(disk.clone()), Path::new(DATA), &failure).unwrap();
    let record = Bytes::from_static(&[99, 0, 1, 0]);
    store.append(vec![Entry { index: 3, term: 1, kind: EntryKind::Command, record }]).unwrap();
    drop(store);
    let error = open(&disk).unwrap_err();
    let OpenError::Record { offset, source } = &error else { panic!("{error}") };
    assert_eq!(offset.get(), 3);
    assert!(source.to_string().contains("unknown kind 99"), "{source}");
}

#[test]
fn somebody_elses_log_is_refused() {
    let disk = SimDisk::small();
    drop(open(&disk).unwrap());
    let failure = Failure::open(Arc::new(disk.clone()), DATA);
    let (store, _) = MetaStore::open(Arc::new(disk), Path::new(DATA), &failure).unwrap();
    let [Voter { directory, .. }] = *store.voters() else { panic!() };
    let mine = MetaProperties { cluster: store.cluster(), node: NODE, directory };
    check_identity(&store, &mine).unwrap();
    let cluster = ClusterId::from_bytes(&[3; 16]).unwrap();
    let directory = DirectoryId::from_bytes(&[3; 16]).unwrap();
    for (other, what) in [
        (MetaProperties { cluster, ..mine }, "belongs to cluster"),
        (MetaProperties { node: BrokerId(9), ..mine }, "belongs to broker 1"),
        (MetaProperties { directory, ..mine }, "was copied here"),
    ] {
        let error = check_identity(&store, &other).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}
