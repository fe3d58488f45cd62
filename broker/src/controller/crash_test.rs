//! Power lost after every operation of a workload, in many ways; a process killed likewise. And the
//! other side of it: leaving out any one sync shows.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use riverrun_proto::ids::BrokerId;
use tokio::sync::{Semaphore, oneshot, watch};

use super::{
    Counters, Inbox, LocalOptions, MetaProperties, Proposal, Publisher, Shared, Worker, open_store,
    record,
};
use crate::{
    controller::error::{OpenError, QuorumError},
    io::{
        Disk, Failure, SyncPoint,
        sim::{PowerCut, SimDisk},
    },
    metadata::{
        Command, MetadataImage, MetadataOffset,
        test_support::{allocate, alter, create, delete, grow, level_1, registration},
    },
};

const DATA: &str = "/data";
const NODE: BrokerId = BrokerId(1);
/// Mixtures tried at each operation, beside the four extremes.
const MIXTURES: u64 = 6;

type Violation = String;

fn disk(seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed);
    disk.create_dir(Path::new(DATA)).unwrap();
    disk.sync_dir(Path::new("/"), SyncPoint::DataDir).unwrap();
    disk
}

/// A quorum of one without its thread, so that the order of operations is the test's.
struct Node {
    properties: MetaProperties,
    worker: Worker,
    shared: Arc<Shared>,
}

impl Node {
    fn start(disk: &SimDisk) -> Result<Self, OpenError> {
        let data = Path::new(DATA);
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        let failure = Failure::open(Arc::clone(&disk), data);
        let properties = MetaProperties::open_or_format(&disk, data, NODE, None, &failure)?;
        let (store, image) = open_store(disk, data, &properties, &failure)?;
        let shared = Arc::new(Shared {
            inbox: Inbox::default(),
            publisher: Publisher::new(image),
            failure,
            counters: Counters::default(),
        });
        let options = LocalOptions { snapshot_entries: 4, ..LocalOptions::default() };
        let (leads, _) = watch::channel(None);
        let worker = Worker::new(store, Arc::clone(&shared), leads, options);
        Ok(Self { properties, worker, shared })
    }

    fn image(&self) -> MetadataImage {
        MetadataImage::clone(&self.shared.publisher.image())
    }

    /// Proposes all as one group; `true` if all were answered, be it by a rejection.
    fn propose(&mut self, commands: &[Command]) -> bool {
        let budget = Arc::new(Semaphore::new(commands.len()));
        let (group, answers): (Vec<_>, Vec<_>) = commands
            .iter()
            .map(|command| {
                let (answer, answered) = oneshot::channel();
                let permit = Arc::clone(&budget).try_acquire_owned().unwrap();
                let record = record::encode(command).unwrap();
                let command = command.clone();
                (Proposal { record, command, answer, permit }, answered)
            })
            .unzip();
        let committed = self.worker.commit(group).is_ok();
        let acknowledged = answers
            .into_iter()
            .all(|mut a| matches!(a.try_recv(), Ok(Ok(_) | Err(QuorumError::Rejected(_)))));
        assert_eq!(committed, acknowledged, "a full disk plays no part here");
        acknowledged
    }
}

/// Groups of commands, some of which are rejected; enough of them for several snapshots.
fn workload() -> Vec<Vec<Command>> {
    let register = |incarnation| Command::RegisterBroker(registration(NODE.0, incarnation));
    let long = "v".repeat(6000);
    vec![
        vec![register(1)],
        vec![create(1, "a", &[&[1]]), create(1, "a", &[&[1]]), create(2, "b", &[&[1], &[1]])],
        vec![allocate(1, 3, 1000)],
        // Three pages and more in one group: the case where a torn group could look like damage.
        vec![alter(1, 0, &[("k", &long)], &[], 1), alter(2, 0, &[("k", &long)], &[], 1)],
        vec![delete(1), create(3, "a", &[&[1]]), level_1()],
        vec![grow(2, 1, &[&[1]])],
        vec![register(2)],
        vec![allocate(1, 12, 5), alter(2, 2, &[], &["k"], 1)],
        vec![delete(2)],
    ]
}

/// What was promised, and after which operation of the disk.
#[derive(Default)]
struct Promises {
    /// The directory is formatted.
    formatted: Option<(u64, MetaProperties)>,
    /// All up to this offset was acknowledged.
    acknowledged: Vec<(u64, MetadataOffset)>,
    /// The image at each offset that was ever published.
    images: BTreeMap<MetadataOffset, MetadataImage>,
}

impl Promises {
    fn acknowledged_by(&self, ops: u64) -> MetadataOffset {
        let mut kept = self.acknowledged.iter().filter(|(at, _)| *at <= ops);
        kept.next_back().map_or(MetadataOffset::ZERO, |(_, offset)| *offset)
    }
}

/// Runs the workload on a disk that leaves out `ignored`.
fn run(disk: &SimDisk) -> Promises {
    let mut promises = Promises::default();
    let mut node = Node::start(disk).unwrap();
    promises.formatted = Some((disk.ops(), node.properties));
    promises.images.insert(node.image().offset(), node.image());
    for group in workload() {
        // One image per entry, though a group publishes several.
        for command in &group {
            let last = promises.images.last_entry().unwrap().get().clone();
            let next = last.apply(last.offset().next(), command).image;
            promises.images.insert(next.offset(), next);
        }
        assert!(node.propose(&group));
        promises.acknowledged.push((disk.ops(), node.image().offset()));
        node.worker.snapshot_if_due().unwrap();
    }
    assert!(node.shared.counters.snapshots.load(std::sync::atomic::Ordering::Relaxed) >= 3);
    promises
}

/// What must hold when the node starts on `found`, the disk after `ops` operations of the run.
fn check(promises: &Promises, ops: u64, found: &SimDisk) -> Result<(), Violation> {
    let node = Node::start(found).map_err(|error| format!("it does not start: {error}"))?;
    let image = node.image();
    let (formatted_at, properties) = promises.formatted.as_ref().unwrap();
    if ops >= *formatted_at && node.properties != *properties {
        return Err("it is another directory".into());
    }
    let acknowledged = promises.acknowledged_by(ops);
    if image.offset() < acknowledged {
        return Err(format!("{acknowledged} was acknowledged, {} is there", image.offset()));
    }
    match promises.images.get(&image.offset()) {
        Some(expected) if *expected == image => {}
        _ => return Err(format!("the image at {} is another", image.offset())),
    }
    drop(node);

    // What a start has shown stays, and the log goes on from there.
    let again = found.power_loss(PowerCut::LoseUnsynced);
    let mut node = Node::start(&again).map_err(|error| format!("not again: {error}"))?;
    if node.image() != image {
        return Err("what was shown after the first loss is gone after the second".into());
    }
    assert!(node.propose(&[level_1(), Command::RegisterBroker(registration(7, 7))]));
    node.worker.snapshot_if_due().unwrap();
    let image = node.image();
    drop(node);
    let last = again.power_loss(PowerCut::LoseUnsynced);
    let node = Node::start(&last).map_err(|error| format!("not after going on: {error}"))?;
    if node.image() == image { Ok(()) } else { Err("what was written after it is gone".into()) }
}

/// Every operation, every cut: power lost; or the process killed, restarted, then power lost.
fn crash_everywhere(seed: u64, ignored: Option<SyncPoint>) -> Result<usize, Violation> {
    let disk = disk(seed);
    disk.ignore_sync(ignored);
    // One in three: the process may also be killed in the middle of a write.
    disk.split_writes((seed % 3 == 2).then_some(2000));
    disk.record_history();
    let promises = run(&disk);
    let mut crashes = 0;
    for (ops, state) in disk.history().iter().enumerate() {
        for cut in PowerCut::sample(MIXTURES) {
            let found = state.snapshot().power_loss(cut);
            found.ignore_sync(ignored);
            check(&promises, ops as u64, &found)
                .map_err(|what| format!("{cut:?} after operation {ops}: {what}"))?;
            crashes += 1;
        }
        let found = state.snapshot().kill();
        found.ignore_sync(ignored);
        check(&promises, ops as u64, &found)
            .map_err(|what| format!("killed after operation {ops}: {what}"))?;
        crashes += 1;
    }
    Ok(crashes)
}

#[test]
fn what_was_acknowledged_outlives_every_power_loss() {
    for seed in 0..3 {
        let crashes = crash_everywhere(seed, None).unwrap_or_else(|what| panic!("{what}"));
        assert!(crashes > 500, "{crashes} are too few to mean anything");
    }
}

#[test]
fn every_sync_is_needed() {
    for point in [
        SyncPoint::DataDir,
        SyncPoint::MetaProperties,
        SyncPoint::MetaFormatted,
        SyncPoint::MetaWal,
        SyncPoint::MetaWalRecovered,
        SyncPoint::MetaWalHeader,
        SyncPoint::MetaWalDir,
        SyncPoint::MetaSnapshot,
        SyncPoint::MetaSnapshotDir,
    ] {
        let noticed = (0..6).any(|seed| crash_everywhere(seed, Some(point)).is_err());
        assert!(noticed, "nothing shows that {point:?} was left out");
    }
}
