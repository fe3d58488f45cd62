//! A quorum of one, as the first version ran it: for tests alone. It writes directories as that
//! version did, which [`RaftQuorum`](super::raft::RaftQuorum) has to open, and the test that takes
//! away each sync of the metadata log runs on it, for nothing in it happens by chance.
//!
//! One thread owns the log. It takes all proposals that wait, writes them as one group, syncs once,
//! applies them in order, answers. It leads as soon as the log is open, in the term of the log. The
//! directory is a Raft node's: term, vote, voters and indices are real, so that a quorum of several
//! goes on where this one stopped.
//!
//! # Bounds
//! Proposals under way hold at most [`LocalOptions::inbox_bytes`]; proposers beyond that wait, in
//! the order they came. A full disk answers [`QuorumError::StorageFull`] and leaves the log
//! as it was. A failed write or sync is final: those under way learn that their outcome is unknown,
//! later ones that nothing was written.

mod inbox;
mod worker;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use self::{inbox::Inbox, worker::Worker};
use super::{
    applied,
    error::{OpenError, QuorumError},
    frame::{EntryKind, Voter, VoterId},
    meta_properties::MetaProperties,
    quorum::{Accepted, Leader, MetaQuorum},
    raft::{ChangeError, Step, Voters},
    store::{MetaStore, Recovered},
    subscription::{Publisher, Subscription},
};
use crate::{
    io::{Disk, Failure},
    metadata::{Command, MetadataImage, MetadataOffset, record},
};

/// What a proposal counts for beside its record: the command and its answer.
const PROPOSAL_OVERHEAD_BYTES: usize = 512;
/// The least there has to be room for: one record, as large as they come.
const INBOX_BYTES_MIN: usize = record::RECORD_BYTES_MAX + PROPOSAL_OVERHEAD_BYTES;

/// Bounds of a quorum of one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LocalOptions {
    /// Bytes of proposals under way, and so of what one sync has to write. One record of the
    /// largest kind always fits.
    pub(crate) inbox_bytes: usize,
    /// A snapshot is made after so many entries: what a start replays.
    pub(crate) snapshot_entries: u64,
    /// A snapshot is made when the log file has so many bytes.
    pub(crate) snapshot_bytes: u64,
}

impl Default for LocalOptions {
    fn default() -> Self {
        Self {
            inbox_bytes: 8 * 1024 * 1024,
            snapshot_entries: 10_000,
            snapshot_bytes: 16 * 1024 * 1024,
        }
    }
}

/// What the log has done since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct LocalStats {
    /// Entries written.
    pub(crate) entries: u64,
    /// Of these, commands that were rejected.
    pub(crate) rejected: u64,
    /// Groups, each with one sync.
    pub(crate) groups: u64,
    /// Snapshots made.
    pub(crate) snapshots: u64,
    /// Snapshots and groups that met a full disk.
    pub(crate) disk_full: u64,
    /// Bytes of proposals under way at the moment.
    pub(crate) inbox_bytes: usize,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct LocalQuorum {
    me: Voter,
    shared: Arc<Shared>,
    budget: Arc<Semaphore>,
    inbox_bytes: usize,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
    leader: watch::Receiver<Option<Leader>>,
}

/// What the thread and the handle both see.
#[derive(Debug)]
struct Shared {
    inbox: Inbox,
    publisher: Publisher,
    failure: Failure,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    entries: AtomicU64,
    rejected: AtomicU64,
    groups: AtomicU64,
    snapshots: AtomicU64,
    disk_full: AtomicU64,
}

/// A command on its way into the log. The permit goes with it: a proposer that gives up frees
/// nothing before its time.
#[derive(Debug)]
struct Proposal {
    record: Bytes,
    command: Command,
    answer: oneshot::Sender<Result<Accepted, QuorumError>>,
    permit: OwnedSemaphorePermit,
}

// === impl LocalQuorum ===

impl LocalQuorum {
    /// Opens the log of a formatted data directory and leads it. Blocks while it reads the log;
    /// everything the image then has is durable. The caller holds the directory's lock.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        data_dir: &Path,
        identity: &MetaProperties,
        failure: &Failure,
        options: LocalOptions,
    ) -> Result<Self, OpenError> {
        let (store, image) = open_store(disk, data_dir, identity, failure)?;
        let leader = Leader { node: identity.node, term: store.term() };
        let shared = Arc::new(Shared {
            inbox: Inbox::default(),
            publisher: Publisher::new(image),
            failure: failure.clone(),
            counters: Counters::default(),
        });
        let (leads, leader) = watch::channel(Some(leader));
        let worker = Worker::new(store, Arc::clone(&shared), leads, options);
        let thread = thread::Builder::new()
            .name("meta-log".into())
            .spawn(move || worker.run())
            .map_err(OpenError::io("cannot start the thread of", data_dir))?;
        let inbox_bytes = options.inbox_bytes.clamp(INBOX_BYTES_MIN, Semaphore::MAX_PERMITS);
        Ok(Self {
            me: Voter::new(identity.node, identity.directory),
            shared,
            budget: Arc::new(Semaphore::new(inbox_bytes)),
            inbox_bytes,
            thread: Mutex::new(Some(thread)),
            leader,
        })
    }

    /// Takes no more proposals, finishes those it has, and lets go of the directory. Idempotent.
    pub(crate) async fn shutdown(&self) {
        self.stop_taking();
        let mut leader = self.leader.clone();
        // Closed when the thread is at its end, with nothing of the directory open.
        while leader.changed().await.is_ok() {}
        self.join();
    }

    /// Counters for metrics.
    pub(crate) fn stats(&self) -> LocalStats {
        let counters = &self.shared.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LocalStats {
            entries: get(&counters.entries),
            rejected: get(&counters.rejected),
            groups: get(&counters.groups),
            snapshots: get(&counters.snapshots),
            disk_full: get(&counters.disk_full),
            inbox_bytes: self.inbox_bytes - self.budget.available_permits(),
        }
    }

    async fn propose_now(&self, command: Command) -> Result<Accepted, QuorumError> {
        let record = record::encode(&command)?;
        // What replay will read is what is applied now.
        let command = record::decode(&record)?;
        let cost = u32::try_from(record.len() + PROPOSAL_OVERHEAD_BYTES)
            .expect("bounded by RECORD_BYTES_MAX");
        let budget = Arc::clone(&self.budget);
        let permit = budget.acquire_many_owned(cost).await.map_err(|_| self.stopped())?;
        let (answer, answered) = oneshot::channel();
        let proposal = Proposal { record, command, answer, permit };
        if self.shared.inbox.put(proposal).is_err() {
            return Err(self.stopped());
        }
        answered.await.unwrap_or_else(|_| {
            Err(QuorumError::OutcomeUnknown("the metadata log's thread ended".into()))
        })
    }

    /// Why it takes nothing.
    fn stopped(&self) -> QuorumError {
        match self.shared.failure.check() {
            Err(failed) => QuorumError::StorageFailed(failed),
            Ok(()) => QuorumError::ShuttingDown,
        }
    }

    fn stop_taking(&self) {
        self.budget.close();
        self.shared.inbox.close();
    }

    fn join(&self) {
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the metadata log panicked");
        }
    }
}

impl MetaQuorum for LocalQuorum {
    fn propose(&self, command: Command) -> BoxFuture<'_, Result<Accepted, QuorumError>> {
        Box::pin(self.propose_now(command))
    }

    fn read_barrier(&self) -> BoxFuture<'_, Result<MetadataOffset, QuorumError>> {
        // Whatever was acknowledged was applied before that, here: nobody else acknowledges.
        Box::pin(async {
            let alive = self.leader.has_changed().is_ok();
            if alive && self.leader.borrow().is_some() {
                Ok(self.image().offset())
            } else {
                Err(self.stopped())
            }
        })
    }

    fn image(&self) -> Arc<MetadataImage> {
        self.shared.publisher.image()
    }

    fn subscribe(&self) -> Subscription {
        self.shared.publisher.subscribe()
    }

    fn leader(&self) -> watch::Receiver<Option<Leader>> {
        self.leader.clone()
    }

    fn voters(&self) -> Voters {
        Voters { voting: vec![self.me], listening: Vec::new(), leaving: Vec::new() }
    }

    fn change_voters(&self, steps: Vec<Step>) -> BoxFuture<'_, Result<Voters, ChangeError>> {
        let refused = format!("this quorum has one node and stays as it is: {steps:?}");
        Box::pin(async { Err(ChangeError::Refused(refused)) })
    }
}

/// Finishes what is under way, at most a group; blocks for that. Prefer
/// [`LocalQuorum::shutdown`].
impl Drop for LocalQuorum {
    fn drop(&mut self) {
        self.stop_taking();
        self.join();
    }
}

/// Opens the log of this node, and replays it.
fn open_store(
    disk: Arc<dyn Disk>,
    data_dir: &Path,
    identity: &MetaProperties,
    failure: &Failure,
) -> Result<(MetaStore, MetadataImage), OpenError> {
    let (store, recovered) = MetaStore::open(disk, data_dir, failure)?;
    check_identity(&store, identity)?;
    if recovered.entries.iter().any(|entry| entry.kind == EntryKind::Change) {
        // Who votes after that is for a quorum's own code to say.
        return Err(OpenError::NotAlone { path: store.dir().to_owned(), voters: 2 });
    }
    if recovered.torn {
        tracing::info!(
            dir = %store.dir().display(),
            "the end of the metadata log was torn and is cut off; nothing of it was answered"
        );
    }
    Ok((store, replay(recovered)?))
}

/// The log has to be this node's, and nobody else's.
fn check_identity(store: &MetaStore, identity: &MetaProperties) -> Result<(), OpenError> {
    let path = store.dir().to_owned();
    if store.cluster() != identity.cluster {
        let (found, expected) = (store.cluster(), identity.cluster);
        return Err(OpenError::OtherCluster { path, found, expected });
    }
    let voters = store.membership().all().count();
    if voters > 1 {
        return Err(OpenError::NotAlone { path, voters });
    }
    match store.voters() {
        [voter] if voter.id == VoterId::of(identity.directory) && voter.node == identity.node => {
            Ok(())
        }
        [voter] if voter.node != identity.node => {
            Err(OpenError::OtherNode { path, found: voter.node, expected: identity.node })
        }
        [_] => Err(OpenError::Properties {
            path,
            problem: "the metadata log was made in another data directory than meta.properties \
                      names: one of the two was copied here"
                .into(),
        }),
        voters => Err(OpenError::NotAlone { path, voters: voters.len() }),
    }
}

/// The image after all entries. Each of them is committed: it is durable on all voters there are.
fn replay(recovered: Recovered) -> Result<MetadataImage, OpenError> {
    let Recovered { mut image, entries, .. } = recovered;
    for entry in entries {
        let offset =
            MetadataOffset::new(entry.index).expect("indices follow one another from 1 on");
        image = applied::apply(&image, &entry)
            .map_err(|source| OpenError::Record { offset, source })?
            .image;
    }
    Ok(image)
}

#[cfg(test)]
#[path = "crash_test.rs"]
mod crash_test;
#[cfg(test)]
#[path = "local_test.rs"]
mod tests;
