//! Calls passed on to whoever leads, so that a client of any language may ask any broker.
//!
//! `Produce`, `Fetch` and `Tail` name partitions that other brokers may lead. Those parts of a call go
//! to their leaders, over the port between nodes, and are served there as a client's call: with the
//! leader's admission, its errors, its word on what was written. One hop: a call that was passed on is
//! marked ([`MARK`]) and is not passed on again; who was asked in error says so, and that comes back
//! unchanged. Nothing is tried twice here.
//!
//! A call holds its place among the broker's forwarded calls until it is answered, so their number,
//! and the memory of their answers, are bounded ([`Limits::forwarded_max`]); past that clients are told
//! to slow down, or to ask the leader themselves. Streams of clients that know leaders (`ProduceStream`,
//! `FetchStream`) are never passed on.
//!
//! [`Limits::forwarded_max`]: super::limits::Limits::forwarded_max

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message as _;
use riverrun_proto::{ids::BrokerId, reason::Reason, rpc::v1};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Request, Status, metadata::MetadataMap, transport::Channel};

use super::status::{ERROR_TRAILER, Failure};
use crate::{
    peer::{connect::Dialler, transport::Locate},
    telemetry::{Bound, Bounds, Usage},
};

/// Says that a call was passed on by another broker.
pub(super) const MARK: &str = "x-riverrun-forwarded";

/// How other brokers are reached.
#[derive(Clone)]
pub struct ToLeaders {
    /// Where they are.
    pub locate: Locate,
    /// How they are dialled.
    pub dialler: Dialler,
}

/// See the module.
pub(super) struct Forwarder {
    routes: Option<ToLeaders>,
    calls: Places,
    tails: Places,
    channels: Mutex<HashMap<BrokerId, Channel>>,
}

/// So many at once, and no waiting.
struct Places {
    free: Arc<Semaphore>,
    full: Bound,
}

/// A connection to a leader, and a place among the forwarded calls until it is dropped.
#[derive(Debug)]
pub(super) struct Passage {
    pub(super) channel: Channel,
    _place: OwnedSemaphorePermit,
}

// === impl Forwarder ===

impl Forwarder {
    /// Passes on `max` calls at once, and as many tails; shown in `bounds`.
    pub(super) fn new(routes: Option<ToLeaders>, max: usize, bounds: &Bounds) -> Self {
        Self {
            routes,
            calls: Places::new("forward.calls", max, bounds),
            tails: Places::new("forward.tails", max, bounds),
            channels: Mutex::default(),
        }
    }

    /// Whether a call that came in with `metadata` may be passed on.
    pub(super) fn may_forward(&self, metadata: &MetadataMap) -> bool {
        self.routes.is_some() && !metadata.contains_key(MARK)
    }

    /// A way to pass a call on to `leader`. Nothing has been asked of it yet.
    pub(super) async fn to(&self, leader: BrokerId) -> Result<Passage, Failure> {
        self.pass(leader, &self.calls).await
    }

    /// The same for a stream that may last.
    pub(super) async fn to_tail(&self, leader: BrokerId) -> Result<Passage, Failure> {
        self.pass(leader, &self.tails).await
    }

    async fn pass(&self, leader: BrokerId, places: &Places) -> Result<Passage, Failure> {
        let place = places.take().ok_or_else(|| {
            Failure::throttled(format!(
                "too many calls are being passed on to other brokers; slow down, or ask broker \
                 {leader}, which leads the partition"
            ))
        })?;
        let known = self.channels.lock().get(&leader).cloned();
        let channel = match known {
            Some(channel) => channel,
            None => self.dial(leader).await?,
        };
        Ok(Passage { channel, _place: place })
    }

    async fn dial(&self, leader: BrokerId) -> Result<Channel, Failure> {
        let routes = self.routes.as_ref().ok_or_else(|| Failure::not_leader(Some(leader), None))?;
        for address in (routes.locate)(leader) {
            match routes.dialler.dial_calls(&address).await {
                Ok(channel) => {
                    self.channels.lock().insert(leader, channel.clone());
                    return Ok(channel);
                }
                Err(why) => tracing::debug!(%leader, address, %why, "no call is passed on"),
            }
        }
        Err(Failure::not_leader(Some(leader), None))
    }

    /// What a call that failed came to: what the leader said, as it said it; where nobody said
    /// anything, that nobody knows what became of it.
    pub(super) fn error_of(&self, leader: BrokerId, status: &Status) -> v1::Error {
        if let Some(said) = said_by_a_broker(status) {
            return said;
        }
        // Whatever is wrong with the connection, the next call has another.
        self.channels.lock().remove(&leader);
        v1::Error {
            reason: Reason::RequestTimedOut.name().to_owned(),
            message: format!("broker {leader} leads the partition and did not answer: {status}"),
            retriable: true,
            definite: false,
            ..Default::default()
        }
    }

    /// The same as the status of a whole call.
    pub(super) fn status_of(&self, leader: BrokerId, status: Status) -> Status {
        if said_by_a_broker(&status).is_none() {
            self.channels.lock().remove(&leader);
        }
        status
    }
}

/// A call to be passed on, which the leader has `time` for.
pub(super) fn marked<T>(message: T, time: Option<Duration>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(time) = time {
        request.set_timeout(time);
    }
    request.metadata_mut().insert(MARK, "1".parse().expect("it is ASCII"));
    request
}

fn said_by_a_broker(status: &Status) -> Option<v1::Error> {
    let trailer = status.metadata().get_bin(ERROR_TRAILER)?;
    let bytes: Bytes = trailer.to_bytes().ok()?;
    v1::Error::decode(bytes).ok()
}

// === impl Places ===

impl Places {
    fn new(name: &'static str, max: usize, bounds: &Bounds) -> Self {
        let free = Arc::new(Semaphore::new(max));
        let full = bounds.watch(name, {
            let free = Arc::clone(&free);
            move || Usage { used: (max - free.available_permits()) as u64, limit: max as u64 }
        });
        Self { free, full }
    }

    fn take(&self) -> Option<OwnedSemaphorePermit> {
        let place = Arc::clone(&self.free).try_acquire_owned();
        place.inspect_err(|_| self.full.hit()).ok()
    }
}

impl fmt::Debug for ToLeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ToLeaders").field("dialler", &self.dialler).finish_non_exhaustive()
    }
}

impl fmt::Debug for Forwarder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forwarder").field("routes", &self.routes).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{metadata::MetadataImage, telemetry::Registry};

    fn routes(addresses: Vec<String>) -> ToLeaders {
        ToLeaders { locate: Arc::new(move |_| addresses.clone()), dialler: Dialler::default() }
    }

    #[tokio::test]
    async fn so_many_at_once_and_past_that_clients_are_told_to_slow_down() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let registry = Registry::new();
        let bounds = Bounds::register(&registry);
        let forwarder = Forwarder::new(Some(routes(vec![address])), 1, &bounds);
        let first = forwarder.to(BrokerId(2)).await.unwrap();
        let refused = forwarder.to(BrokerId(2)).await.unwrap_err();
        assert_eq!(refused.reason(), Reason::ThrottlingQuotaExceeded);
        // Tails that last keep no call from being passed on.
        let tail = forwarder.to_tail(BrokerId(2)).await.unwrap();
        let text = registry.encode();
        for line in [
            "riverrun_bound_used{bound=\"forward.calls\"} 1",
            "riverrun_bound_limit{bound=\"forward.calls\"} 1",
            "riverrun_bound_hits_total{bound=\"forward.calls\"} 1",
            "riverrun_bound_used{bound=\"forward.tails\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        drop((first, tail));
        forwarder.to(BrokerId(2)).await.unwrap();
    }

    #[tokio::test]
    async fn a_leader_that_cannot_be_reached_is_named_and_nothing_was_written() {
        let bounds = Bounds::register(&Registry::new());
        let nowhere = Forwarder::new(Some(routes(Vec::new())), 1, &bounds);
        let refused = nowhere.to(BrokerId(2)).await.unwrap_err();
        let error = refused.to_proto(&MetadataImage::default());
        assert_eq!(refused.reason(), Reason::NotLeaderOrFollower);
        assert!(error.retriable && error.definite, "{error:?}");
    }

    #[test]
    fn what_a_leader_says_comes_back_as_it_was_said_and_silence_promises_nothing() {
        let bounds = Bounds::register(&Registry::new());
        let forwarder = Forwarder::new(None, 1, &bounds);
        let failure = Failure::draining().with("broker", 2);
        let said = failure.to_proto(&MetadataImage::default());
        let status = failure.to_status(&MetadataImage::default());
        assert_eq!(forwarder.error_of(BrokerId(2), &status), said);
        let silence = forwarder.error_of(BrokerId(2), &Status::unavailable("broken pipe"));
        assert!(silence.retriable && !silence.definite, "{silence:?}");
    }

    #[test]
    fn one_hop_and_no_more() {
        let bounds = Bounds::register(&Registry::new());
        let forwarder = Forwarder::new(Some(routes(Vec::new())), 1, &bounds);
        assert!(forwarder.may_forward(&MetadataMap::new()));
        assert!(!forwarder.may_forward(marked((), None).metadata()));
        assert!(
            !Forwarder::new(None, 1, &Bounds::register(&Registry::new()))
                .may_forward(&MetadataMap::new())
        );
    }
}
