//! Carries messages of the metadata quorum to other nodes.
//!
//! One connection per peer, dialled when there is something to say and again after every loss, with
//! pauses. What cannot be sent now is not kept for later than [`QUEUE_MESSAGES_MAX`] messages and
//! [`QUEUE_BYTES_MAX`] bytes allow: what finds no room is dropped and counted, the protocol sends it
//! again. A peer refuses messages that are not for its disk, so that those for a node that is gone
//! never reach its successor.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::stream::unfold;
use parking_lot::Mutex;
use riverrun_proto::{
    ids::BrokerId,
    rpc::internal::v1::{
        ExchangeRequest, QuorumMessages, exchange_request::Request,
        quorum_service_client::QuorumServiceClient,
    },
};
use tokio::{
    runtime::Handle,
    sync::Notify,
    time::{sleep, timeout},
};
use tonic::{Code, Status};

use super::{
    connect::{Backoff, Dialler},
    hello::Card,
};
use crate::controller::{
    Addresses,
    raft::{Transport, Voter, VoterId},
};

/// Messages that may wait for one peer.
pub const QUEUE_MESSAGES_MAX: usize = 512;
/// And their bytes; one message always fits, for it may be a snapshot.
pub const QUEUE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Peers talked to at once. A quorum has a handful of voters and some listeners.
pub const PEERS_MAX: usize = 256;
/// Bytes packed into one request, where more than one message waits.
const REQUEST_BYTES: usize = 256 * 1024;
/// How long a peer may take to answer the hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(2);
/// A peer that is not connected and that nobody wants to talk to for so long is forgotten.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// Where nodes are, for whoever dials: by node, best guess first.
pub type Locate = Arc<dyn Fn(BrokerId) -> Vec<String> + Send + Sync>;

/// See the module. Dropped, its connections end.
#[derive(Debug)]
pub struct PeerTransport {
    shared: Arc<Shared>,
}

/// What the transport has done since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TransportStats {
    /// Messages handed to a connection.
    pub sent: u64,
    /// Messages that found no room, or whose peer could not be reached.
    pub dropped: u64,
    /// Connections made.
    pub connected: u64,
    /// Messages that wait at the moment.
    pub waiting: u64,
}

struct Shared {
    card: Card,
    locate: Locate,
    dialler: Dialler,
    runtime: Handle,
    peers: Mutex<HashMap<VoterId, Arc<Peer>>>,
    sent: AtomicU64,
    dropped: AtomicU64,
    connected: AtomicU64,
}

/// What waits for one peer.
#[derive(Debug)]
struct Peer {
    to: Voter,
    queue: Mutex<Queue>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<Bytes>,
    bytes: usize,
    /// The connection's task has ended, or is about to.
    closed: bool,
}

// === impl PeerTransport ===

impl PeerTransport {
    /// A transport that speaks as `card` and runs on `runtime`.
    pub fn new(card: Card, locate: Locate, dialler: Dialler, runtime: Handle) -> Self {
        let shared = Shared {
            card,
            locate,
            dialler,
            runtime,
            peers: Mutex::default(),
            sent: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            connected: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Counters for metrics.
    pub fn stats(&self) -> TransportStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let peers = self.shared.peers.lock();
        let waiting: usize = peers.values().map(|peer| peer.queue.lock().messages.len()).sum();
        TransportStats {
            sent: get(&self.shared.sent),
            dropped: get(&self.shared.dropped),
            connected: get(&self.shared.connected),
            waiting: waiting as u64,
        }
    }
}

impl Transport for PeerTransport {
    fn send(&self, _: &Voter, to: &Voter, message: Bytes) {
        let shared = &self.shared;
        let mut peers = shared.peers.lock();
        let peer = match peers.get(&to.id) {
            Some(peer) => Arc::clone(peer),
            None if peers.len() >= PEERS_MAX => return shared.drop_messages(1),
            None => {
                let peer =
                    Arc::new(Peer { to: *to, queue: Mutex::default(), arrived: Notify::new() });
                peers.insert(to.id, Arc::clone(&peer));
                shared.runtime.spawn(talk(Arc::downgrade(shared), Arc::clone(&peer)));
                peer
            }
        };
        drop(peers);
        if !peer.put(message) {
            shared.drop_messages(1);
        }
    }
}

impl Drop for PeerTransport {
    fn drop(&mut self) {
        for (_, peer) in self.shared.peers.lock().drain() {
            peer.close();
        }
    }
}

// === impl Shared ===

impl Shared {
    fn drop_messages(&self, count: usize) {
        self.dropped.fetch_add(count as u64, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("card", &self.card).finish_non_exhaustive()
    }
}

// === impl Peer ===

impl Peer {
    fn put(&self, message: Bytes) -> bool {
        let mut queue = self.queue.lock();
        let full = queue.messages.len() >= QUEUE_MESSAGES_MAX
            || (queue.bytes > 0 && queue.bytes + message.len() > QUEUE_BYTES_MAX);
        if full || queue.closed {
            return false;
        }
        queue.bytes += message.len();
        queue.messages.push_back(message);
        self.arrived.notify_one();
        true
    }

    /// What waits, up to a request's worth; waits for something. `None` once it is closed.
    async fn take(&self) -> Option<Vec<Bytes>> {
        loop {
            {
                let mut queue = self.queue.lock();
                if queue.closed {
                    return None;
                }
                let mut taken = Vec::new();
                let mut bytes = 0;
                while let Some(next) = queue.messages.front() {
                    if bytes > 0 && bytes + next.len() > REQUEST_BYTES {
                        break;
                    }
                    bytes += next.len();
                    taken.extend(queue.messages.pop_front());
                }
                queue.bytes -= bytes;
                if !taken.is_empty() {
                    return Some(taken);
                }
            }
            self.arrived.notified().await;
        }
    }

    /// Waits until there is something to say; `false` once it is closed.
    async fn has_something(&self) -> bool {
        loop {
            {
                let queue = self.queue.lock();
                if queue.closed || !queue.messages.is_empty() {
                    return !queue.closed;
                }
            }
            self.arrived.notified().await;
        }
    }

    /// Drops what waits; it will be old when there is a connection.
    fn clear(&self) -> usize {
        let mut queue = self.queue.lock();
        queue.bytes = 0;
        std::mem::take(&mut queue.messages).len()
    }

    fn close(&self) {
        self.queue.lock().closed = true;
        self.arrived.notify_one();
    }
}

/// Connects to a peer and sends what waits for it, until nobody wants to say anything any more.
async fn talk(shared: Weak<Shared>, peer: Arc<Peer>) {
    let mut backoff = Backoff::default();
    let mut said = String::new();
    loop {
        match timeout(IDLE_MAX, peer.has_something()).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(_) => {
                if retire(&shared, &peer) {
                    return;
                }
                continue;
            }
        }
        let Some(alive) = shared.upgrade() else { return };
        let addresses = (alive.locate)(peer.to.node);
        drop(alive);
        let mut failures = Vec::new();
        if addresses.is_empty() {
            failures.push(Status::unavailable("nobody said yet where it is"));
        }
        for address in addresses {
            match exchange(&shared, &peer, &address).await {
                Ok(()) => {
                    backoff.reset();
                    said.clear();
                    failures.clear();
                    break;
                }
                Err(failure) => failures.push(failure),
            }
        }
        let Some(alive) = shared.upgrade() else { return };
        alive.drop_messages(peer.clear());
        drop(alive);
        report(&peer.to, &failures, &mut said);
        sleep(backoff.pause()).await;
    }
}

/// Ends the task of a peer that nobody talks to; `false` if somebody just did.
fn retire(shared: &Weak<Shared>, peer: &Arc<Peer>) -> bool {
    let Some(shared) = shared.upgrade() else { return true };
    let mut peers = shared.peers.lock();
    let mut queue = peer.queue.lock();
    if !queue.messages.is_empty() {
        return false;
    }
    queue.closed = true;
    peers.remove(&peer.to.id);
    true
}

/// Says what keeps us from a peer: once, not with every try.
fn report(to: &Voter, failures: &[Status], said: &mut String) {
    let Some(failure) = failures.iter().max_by_key(|f| f.code() == Code::FailedPrecondition) else {
        return;
    };
    if *said == failure.message() {
        return;
    }
    failure.message().clone_into(said);
    let why = failure.message();
    if failure.code() == Code::FailedPrecondition {
        tracing::error!(node = to.node.0, why, "another node refuses to talk to this one");
    } else {
        tracing::warn!(node = to.node.0, why, "another node of the quorum cannot be reached");
    }
}

/// One connection, from hello to its end. `Ok` if it came to an exchange.
async fn exchange(shared: &Weak<Shared>, peer: &Arc<Peer>, address: &str) -> Result<(), Status> {
    let gone = || Status::cancelled("this node stops");
    let (card, dialler) = {
        let alive = shared.upgrade().ok_or_else(gone)?;
        (alive.card.clone(), alive.dialler.clone())
    };
    let channel = dialler.dial(address).await?;
    let hello = Request::Hello(card.hello(Some(peer.to)));
    let requests = unfold((Some(hello), shared.clone(), Arc::clone(peer)), next_request);
    let mut client = QuorumServiceClient::new(channel).max_encoding_message_size(usize::MAX);
    let late = |_| Status::unavailable(format!("{address}: no answer to the hello in time"));
    let opened = async {
        let mut answers = client.exchange(requests).await?.into_inner();
        let first = answers.message().await?.ok_or_else(|| Status::unavailable("no hello"))?;
        let greeting = card.check(first.hello)?;
        if greeting.from != peer.to {
            return Err(Status::failed_precondition(format!(
                "{address} is node {} with another data directory than was expected",
                greeting.from.node
            )));
        }
        Ok(answers)
    };
    let mut answers = timeout(HELLO_TIMEOUT, opened).await.map_err(late)??;
    shared.upgrade().ok_or_else(gone)?.connected.fetch_add(1, Ordering::Relaxed);
    tracing::debug!(node = peer.to.node.0, address, "talking to another node of the quorum");
    // Nothing more is answered: this ends with the connection.
    while let Ok(Some(_)) = answers.message().await {}
    Ok(())
}

type Requests = (Option<Request>, Weak<Shared>, Arc<Peer>);

async fn next_request((hello, shared, peer): Requests) -> Option<(ExchangeRequest, Requests)> {
    let request = match hello {
        Some(hello) => hello,
        None => {
            let messages = peer.take().await?;
            shared.upgrade()?.sent.fetch_add(messages.len() as u64, Ordering::Relaxed);
            Request::Messages(QuorumMessages { messages })
        }
    };
    Some((ExchangeRequest { request: Some(request) }, (None, shared, peer)))
}

/// Finds nodes by what they said and by what is registered in `image`.
pub fn locate_by(
    addresses: Arc<Addresses>,
    image: impl Fn() -> Option<Arc<crate::metadata::MetadataImage>> + Send + Sync + 'static,
) -> Locate {
    Arc::new(move |node| {
        let image = image();
        addresses.of(node, image.as_deref().unwrap_or(&crate::metadata::MetadataImage::default()))
    })
}

#[cfg(test)]
#[path = "transport_test.rs"]
mod tests;
