//! The metadata quorum of several nodes, as the broker sees it.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use protobuf::Message as _;
use raft::eraftpb::Message;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use super::{
    inbox::{Asked, Inbox, Input},
    membership::{ChangeError, Step},
    mutation::Planted,
    node::Node,
    transport::Transport,
    types::{NodeOptions, NodeStats},
    worker::{Waiters, Worker, write_all},
};
use crate::{
    clock::Clock,
    controller::{
        error::{OpenError, QuorumError},
        frame::{Membership, Voter, VoterId},
        meta_properties::MetaProperties,
        quorum::{Accepted, Judged, Leader, MetaQuorum},
        store::MetaStore,
        subscription::{Publisher, Subscription},
    },
    io::{Disk, Failure},
    metadata::{Command, MetadataImage, MetadataOffset, record},
};

/// What a request counts for beside its record.
const REQUEST_BYTES: usize = 512;
/// The least there has to be room for: one record, as large as they come.
const INBOX_BYTES_MIN: usize = record::RECORD_BYTES_MAX + REQUEST_BYTES;

/// Bounds and times of a node.
#[derive(Debug, Clone, Copy)]
pub struct RaftOptions {
    /// The unit of the times below.
    pub tick: Duration,
    /// Without a sign of the leader for so many ticks, and up to twice that, a voter stands for
    /// election.
    pub election_ticks: u32,
    /// The leader shows itself so often.
    pub heartbeat_ticks: u32,
    /// Bytes of requests under way: proposals, reads, changes of voters. Who comes later waits.
    pub inbox_bytes: usize,
    /// A snapshot is made after so many entries.
    pub snapshot_entries: u64,
    /// A snapshot is made when the entries in memory have twice so many bytes.
    pub snapshot_bytes: u64,
    /// Entries kept for voters that are a little behind; those further behind are sent the image.
    pub keep_entries: u64,
}

impl Default for RaftOptions {
    fn default() -> Self {
        Self {
            tick: Duration::from_millis(50),
            election_ticks: 20,
            heartbeat_ticks: 4,
            inbox_bytes: 8 * 1024 * 1024,
            snapshot_entries: 10_000,
            snapshot_bytes: 16 * 1024 * 1024,
            keep_entries: 1000,
        }
    }
}

/// What a node has done since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RaftStats {
    /// The node itself.
    pub node: NodeStats,
    /// Messages of peers that found no room, or could not be read.
    pub messages_dropped: u64,
    /// Bytes of requests under way at the moment.
    pub inbox_bytes: usize,
}

/// A node of the quorum. A proposal on a node that does not lead is refused with
/// [`QuorumError::NotLeader`], which names the one that does: forwarding is for whoever has a
/// connection to it, as a Kafka broker forwards to its controller. Reads are answered everywhere.
#[derive(Debug)]
pub struct RaftQuorum {
    me: Voter,
    shared: Arc<Shared>,
    budget: Arc<Semaphore>,
    inbox_bytes: usize,
    threads: Mutex<Vec<thread::JoinHandle<()>>>,
    leader: watch::Receiver<Option<Leader>>,
}

/// What the threads and the handle all see.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) inbox: Inbox,
    pub(super) publisher: Publisher,
    pub(super) stats: Mutex<NodeStats>,
    pub(super) membership: Mutex<Membership>,
    failure: Failure,
    messages_dropped: AtomicU64,
}

// === impl RaftQuorum ===

impl RaftQuorum {
    /// Opens the log of a formatted data directory, be it a quorum's, a single broker's or an empty
    /// one that is to join, and takes part. Blocks while it reads the log. The caller holds the
    /// directory's lock. `seed` is another in every run: elections and reads are told apart by it.
    pub fn open(
        disk: Arc<dyn Disk>,
        data_dir: &Path,
        identity: &MetaProperties,
        failure: &Failure,
        clock: Arc<dyn Clock>,
        transport: Arc<dyn Transport>,
        seed: u64,
        options: RaftOptions,
    ) -> Result<Self, OpenError> {
        let (store, recovered) = MetaStore::open(disk, data_dir, failure)?;
        let me = Voter::new(identity.node, identity.directory);
        check_identity(&store, identity, me)?;
        if recovered.torn {
            tracing::info!(
                dir = %store.dir().display(),
                "the end of the metadata log was torn and is cut off; nothing of it was answered"
            );
        }
        let publisher = Publisher::new(recovered.image.clone());
        let node = Node::new(me, &store, recovered, options.node(seed));
        let shared = Arc::new(Shared {
            inbox: Inbox::default(),
            publisher,
            stats: Mutex::default(),
            membership: Mutex::new(node.membership().clone()),
            failure: failure.clone(),
            messages_dropped: AtomicU64::new(0),
        });
        let (leads, leader) = watch::channel(None);
        let (writes, to_write) = mpsc::sync_channel(1);
        let worker = Worker {
            node,
            me,
            shared: Arc::clone(&shared),
            disk: writes,
            transport,
            clock,
            tick: options.tick,
            leads,
            waiters: Waiters::default(),
        };
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            let made = thread::Builder::new().name(name.into()).spawn(run);
            made.map_err(OpenError::io("cannot start a thread of", data_dir))
        };
        let on_disk = Arc::clone(&shared);
        let threads = vec![
            spawn("meta-disk", Box::new(move || write_all(store, &to_write, &on_disk)))?,
            spawn("meta-quorum", Box::new(move || worker.run()))?,
        ];
        let inbox_bytes = options.inbox_bytes.clamp(INBOX_BYTES_MIN, Semaphore::MAX_PERMITS);
        Ok(Self {
            me,
            shared,
            budget: Arc::new(Semaphore::new(inbox_bytes)),
            inbox_bytes,
            threads: Mutex::new(threads),
            leader,
        })
    }

    /// This node, as the quorum knows it.
    pub const fn voter(&self) -> Voter {
        self.me
    }

    /// Takes a message that a peer's [`Transport`] sent. Never waits: what finds no room is dropped.
    pub fn receive(&self, from: Voter, message: &[u8]) {
        let taken = Message::parse_from_bytes(message).ok().and_then(|parsed| {
            let bytes = message.len();
            self.shared.inbox.put(Input::Message { from, message: Box::new(parsed), bytes }).ok()
        });
        if taken.is_none() {
            self.shared.messages_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Changes who votes; see [`membership`](super::membership) for how a quorum grows.
    pub async fn change(&self, steps: &[Step]) -> Result<Voters, ChangeError> {
        let gone = |_| ChangeError::NotLeader { leader: None };
        let permit = self.permit(0).await.map_err(|_| gone(()))?;
        let (answer, answered) = oneshot::channel();
        let asked = Asked { answer, permit };
        let input = Input::Change { steps: steps.to_vec(), asked };
        self.shared.inbox.put(input).map_err(|_| gone(()))?;
        match answered.await {
            Ok(result) => result.map(|after| Voters::of(&after)),
            Err(_) => Err(ChangeError::OutcomeUnknown("this node stopped".into())),
        }
    }

    /// Asks this node, which leads, to hand the lead to another voter. Whether it comes to that,
    /// [`MetaQuorum::leader`] shows.
    pub fn transfer(&self, to: VoterId) {
        // A node that stops hands nothing over.
        let _ = self.shared.inbox.put(Input::Transfer(to));
    }

    /// Takes no more requests, waits a little for those it has, and lets go of the directory.
    pub async fn shutdown(&self) {
        self.stop_taking();
        let mut leader = self.leader.clone();
        // Closed when the node's thread is at its end.
        while leader.changed().await.is_ok() {}
        self.join();
    }

    /// Counters for metrics.
    pub fn stats(&self) -> RaftStats {
        RaftStats {
            node: *self.shared.stats.lock(),
            messages_dropped: self.shared.messages_dropped.load(Ordering::Relaxed),
            inbox_bytes: self.inbox_bytes - self.budget.available_permits(),
        }
    }

    async fn permit(&self, bytes: usize) -> Result<OwnedSemaphorePermit, QuorumError> {
        let cost = u32::try_from(bytes + REQUEST_BYTES).expect("bounded by RECORD_BYTES_MAX");
        let budget = Arc::clone(&self.budget);
        budget.acquire_many_owned(cost).await.map_err(|_| self.stopped())
    }

    /// Writes a command, as the log stores it, that another node was asked for. As
    /// [`MetaQuorum::propose`], but also who is rejected learns his place in the log.
    pub async fn propose_record(&self, record: Bytes) -> Result<Judged, QuorumError> {
        // What cannot be read back must not get in.
        record::decode(&record)?;
        let permit = self.permit(record.len()).await?;
        let (answer, answered) = oneshot::channel();
        let asked = Asked { answer, permit };
        self.shared.inbox.put(Input::Propose { record, asked }).map_err(|_| self.stopped())?;
        answered.await.unwrap_or_else(|_| {
            Err(QuorumError::OutcomeUnknown("the metadata quorum's thread ended".into()))
        })
    }

    async fn read_now(&self) -> Result<MetadataOffset, QuorumError> {
        let permit = self.permit(0).await?;
        let (answer, answered) = oneshot::channel();
        let asked = Asked { answer, permit };
        self.shared.inbox.put(Input::Read { asked }).map_err(|_| self.stopped())?;
        answered.await.unwrap_or_else(|_| Err(self.stopped()))
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
        for thread in self.threads.lock().drain(..).rev() {
            if thread.join().is_err() {
                tracing::error!("a thread of the metadata quorum panicked");
            }
        }
    }
}

impl MetaQuorum for RaftQuorum {
    fn propose(&self, command: Command) -> BoxFuture<'_, Result<Accepted, QuorumError>> {
        Box::pin(async move { self.propose_record(record::encode(&command)?).await?.accepted() })
    }

    fn read_barrier(&self) -> BoxFuture<'_, Result<MetadataOffset, QuorumError>> {
        Box::pin(self.read_now())
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
        Voters::of(&self.shared.membership.lock())
    }

    fn change_voters(&self, steps: Vec<Step>) -> BoxFuture<'_, Result<Voters, ChangeError>> {
        Box::pin(async move { self.change(&steps).await })
    }
}

/// Waits for what is under way. Prefer [`RaftQuorum::shutdown`].
impl Drop for RaftQuorum {
    fn drop(&mut self) {
        self.stop_taking();
        self.join();
    }
}

/// Who takes part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Voters {
    /// Those who vote.
    pub voting: Vec<Voter>,
    /// Those who have the log and do not vote.
    pub listening: Vec<Voter>,
    /// Those who vote as well until the change that is under way is made.
    pub leaving: Vec<Voter>,
}

impl Voters {
    pub(super) fn of(membership: &Membership) -> Self {
        Self {
            voting: membership.voters.clone(),
            listening: membership.learners.clone(),
            leaving: membership.outgoing.clone(),
        }
    }
}

impl RaftOptions {
    pub(super) fn node(&self, seed: u64) -> NodeOptions {
        NodeOptions {
            election_ticks: self.election_ticks,
            heartbeat_ticks: self.heartbeat_ticks,
            snapshot_entries: self.snapshot_entries,
            snapshot_bytes: self.snapshot_bytes,
            keep_entries: self.keep_entries,
            seed,
            planted: Planted::default(),
        }
    }
}

/// The log has to be of this cluster, and of this disk as far as it says.
fn check_identity(
    store: &MetaStore,
    identity: &MetaProperties,
    me: Voter,
) -> Result<(), OpenError> {
    let path = store.dir().to_owned();
    if store.cluster() != identity.cluster {
        let (found, expected) = (store.cluster(), identity.cluster);
        return Err(OpenError::OtherCluster { path, found, expected });
    }
    // A single broker's log names it as the only voter from the first entry on. Later ones may be
    // those of a node that has left, and whose quorum went on without it.
    match store.voters() {
        [only] if store.is_of_single_broker() && only.node != me.node => {
            Err(OpenError::OtherNode { path, found: only.node, expected: me.node })
        }
        [only] if store.is_of_single_broker() && only.id != me.id => Err(OpenError::Properties {
            path,
            problem: "the metadata log was made in another data directory than meta.properties \
                      names: one of the two was copied here"
                .into(),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "quorum_test.rs"]
mod tests;
