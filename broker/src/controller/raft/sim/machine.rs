//! One machine: a simulated disk, and the node that runs on it or does not.

use std::{path::Path, sync::Arc};

use riverrun_proto::ids::{BrokerId, ClusterId, DirectoryId};

use super::super::{node::Node, types::NodeOptions, writes::Write};
use crate::{
    controller::{
        error::OpenError,
        frame::{Entry, EntryKind, Voter},
        store::{Identity, META_DIR, MetaStore},
    },
    io::{Disk, Failure, SyncPoint, sim::SimDisk},
};

const DATA: &str = "/data";

/// See the module.
pub(super) struct Machine {
    pub(super) voter: Voter,
    pub(super) disk: SimDisk,
    pub(super) running: Option<Running>,
    /// Runs so far.
    pub(super) run: u64,
    /// Its disk is lost: it must never start again under this name.
    pub(super) lost: bool,
    /// Its disk is about to fail.
    pub(super) failing: bool,
    pub(super) slow_until: u64,
    /// The power goes in the next write, after so many operations.
    pub(super) cut_write: Option<u64>,
}

/// A node, its log and the write that is under way.
pub(super) struct Running {
    pub(super) node: Node,
    pub(super) store: MetaStore,
    pub(super) writing: Option<Write>,
    pub(super) led: bool,
    /// Checked up to here.
    pub(super) applied: u64,
}

pub(in super::super) fn cluster() -> ClusterId {
    ClusterId::from_bytes(&[7; 16]).unwrap()
}

impl Machine {
    pub(super) fn new(node: u32, directory: u64, seed: u64, first: bool) -> Self {
        let mut bytes = [1; 16];
        bytes[..8].copy_from_slice(&directory.to_le_bytes());
        let directory = DirectoryId::from_bytes(&bytes).unwrap();
        let voter = Voter::new(BrokerId(node), directory);
        let disk = SimDisk::new(seed);
        disk.create_dir(Path::new(DATA)).unwrap();
        disk.sync_dir(Path::new("/"), SyncPoint::DataDir).unwrap();
        let machine = Self {
            voter,
            disk,
            running: None,
            run: 0,
            lost: false,
            failing: false,
            slow_until: 0,
            cut_write: None,
        };
        let failure = machine.failure();
        let (disk, data) = (&machine.disk, Path::new(DATA));
        if first {
            let identity = Identity { cluster: cluster(), node: voter.node, directory };
            MetaStore::format(disk, data, identity, &failure).unwrap();
        } else {
            MetaStore::format_joining(disk, data, cluster(), &failure).unwrap();
        }
        machine
    }

    fn failure(&self) -> Failure {
        Failure::open(Arc::new(self.disk.clone()), DATA)
    }

    /// Starts its node; `true` if the end of its log was torn.
    pub(super) fn start(&mut self, options: NodeOptions) -> Result<bool, OpenError> {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let (store, recovered) = MetaStore::open(disk, Path::new(DATA), &self.failure())?;
        let (torn, applied) = (recovered.torn, store.snapshot().index);
        let node = Node::new(self.voter, &store, recovered, options);
        self.run += 1;
        self.running = Some(Running { node, store, writing: None, led: false, applied });
        Ok(torn)
    }

    /// Whether its log is recognised as damaged.
    pub(super) fn refuses_to_start(&self) -> bool {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let opened = MetaStore::open(disk, Path::new(DATA), &self.failure());
        matches!(opened, Err(OpenError::Damaged { .. }))
    }

    /// Whether it runs, and no change of voters waits in its log.
    pub(super) fn is_settled(&self) -> bool {
        self.running.as_ref().is_some_and(|running| {
            let (_, log) = running.log();
            let changes = log.iter().filter(|entry| entry.kind == EntryKind::Change);
            changes.into_iter().all(|change| change.index <= running.applied)
        })
    }

    /// Flips a bit of a frame that is not the last one of the log; `false` if there is none.
    pub(super) fn damage(&self, choice: u64) -> bool {
        let dir = Path::new(DATA).join(META_DIR);
        let wal = self.disk.list(&dir).unwrap().into_iter().rfind(|e| e.name.ends_with(".wal"));
        let Some(wal) = wal else { return false };
        let path = dir.join(wal.name);
        let mut bytes = vec![0; usize::try_from(wal.len).unwrap()];
        self.disk.open(&path).unwrap().read_at(&mut bytes, 0).unwrap();
        let frames = frames(&bytes);
        let Some((_, whole)) = frames.split_last().filter(|(_, rest)| rest.len() > 1) else {
            return false;
        };
        let (start, len) = whole[1 + usize::try_from(choice).unwrap() % (whole.len() - 1)];
        self.disk.flip_bit(&path, (start + len / 2) as u64, 3).unwrap();
        true
    }
}

/// Place and length of each frame.
fn frames(bytes: &[u8]) -> Vec<(usize, usize)> {
    use crate::controller::frame::{FRAME_HEAD_BYTES, HEADER_BYTES, Header};
    let Ok(header) = Header::decode(bytes) else { return Vec::new() };
    let mut frames = Vec::new();
    let mut at = HEADER_BYTES;
    while let Some(body) = header.body(bytes, at) {
        frames.push((at, FRAME_HEAD_BYTES + body.len()));
        at += FRAME_HEAD_BYTES + body.len();
    }
    frames
}

impl Running {
    /// The entries a leader has, and the index of the first of them.
    pub(super) fn log(&self) -> (u64, Vec<Entry>) {
        self.node.entries()
    }
}
