//! What this client knows of the cluster: topics, leaders, addresses.
//!
//! Topics are fetched when first asked for, kept for `metadata_max_age`, and fetched anew when an
//! error says that they are stale. However many tasks find that out at once, one request is under
//! way at a time and answers for all of them; a task that waited for it asks again only if what it
//! got is older than its doubt.
//!
//! Whoever doubts asks another broker than the one that answered last: a leader that was cut off goes on
//! saying that it leads. What brokers say of a partition is told apart by its leader epoch; the newer
//! holds, whoever said it.

use std::{
    collections::{BTreeSet, HashMap},
    future::Future,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use riverrun_proto::{
    ids::{BrokerId, TopicName},
    reason::Reason,
};
use tokio::time::timeout;

use crate::{
    address::Address,
    clock::{self, Instant},
    config::ClientConfig,
    connection::Connections,
    error::{Error, ErrorKind, LeaderHint, Result},
    topic::{Broker, Topic},
};

/// Topics kept; past it the stale ones are dropped, and if that is not enough, all.
const TOPICS_CACHED_MAX: usize = 20_000;
/// Topics asked for in one request.
const TOPICS_PER_REQUEST: usize = 1_000;
/// How long a broker may take for what any other could answer as well, before the next is asked. The last
/// one has the whole `request_timeout`.
const ASK_NEXT_AFTER: Duration = Duration::from_secs(2);

/// How fresh an answer has to be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Freshness {
    /// Whatever is cached and not older than `metadata_max_age`.
    Cached,
    /// Fetched after this [mark](Metadata::mark): the caller learnt then that the cache is wrong.
    After(Mark),
    /// The same, and of another broker than the one that answered last: what that one says may be what
    /// is wrong.
    Doubted(Mark),
}

/// A moment, as the number of requests that had been begun by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Mark(u64);

/// The cache, and the requests that fill it.
#[derive(Debug)]
pub(crate) struct Metadata {
    connections: Arc<Connections>,
    bootstrap: Vec<Address>,
    max_age: Duration,
    known: Mutex<Known>,
    /// Held while a request is under way.
    single_flight: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    brokers: HashMap<BrokerId, Address>,
    topics: HashMap<Arc<str>, Answer>,
    /// Asked for by those who wait; true: make it if the broker may.
    wanted: HashMap<Arc<str>, bool>,
    /// The broker that answered last.
    last_good: Option<Address>,
    /// The latest request for topics.
    requests: Mark,
}

#[derive(Clone, Debug)]
struct Answer {
    outcome: Result<Arc<Topic>>,
    fetched: Instant,
    request: Mark,
}

// === impl Metadata ===

impl Metadata {
    pub(crate) fn new(config: &ClientConfig, connections: Arc<Connections>) -> Self {
        Self {
            connections,
            bootstrap: config.bootstrap.clone(),
            max_age: config.metadata_max_age,
            known: Mutex::default(),
            single_flight: tokio::sync::Mutex::new(()),
        }
    }

    /// A topic. One request at most; the caller retries.
    ///
    /// Cancel safe.
    pub(crate) async fn topic(
        &self,
        name: &Arc<str>,
        freshness: Freshness,
        create: bool,
    ) -> Result<Arc<Topic>> {
        if let Err(error) = TopicName::try_new(name) {
            return Err(Error::from_reason(Reason::InvalidTopic, error.to_string()));
        }
        let asked = match freshness {
            Freshness::Cached => match self.cached(name) {
                Some(topic) => return Ok(topic),
                None => self.mark(),
            },
            Freshness::After(mark) | Freshness::Doubted(mark) => mark,
        };
        {
            let mut known = self.known.lock();
            *known.wanted.entry(Arc::clone(name)).or_default() |= create;
        }
        let _one_at_a_time = self.single_flight.lock().await;
        if let Some(answer) = self.known.lock().topics.get(name)
            && answer.request > asked
            && (answer.outcome.is_ok() || !create)
        {
            return answer.outcome.clone();
        }
        if let Freshness::Doubted(_) = freshness {
            self.doubt();
        }
        self.fetch_wanted(name, create).await?;
        let known = self.known.lock();
        known.topics.get(name).map_or_else(
            || Err(Error::protocol(format!("the broker left topic {name:?} out of its answer"))),
            |answer| answer.outcome.clone(),
        )
    }

    /// Now, for [`Freshness::After`].
    pub(crate) fn mark(&self) -> Mark {
        self.known.lock().requests
    }

    /// What is known of a topic, if it is not too old.
    pub(crate) fn cached(&self, name: &str) -> Option<Arc<Topic>> {
        let known = self.known.lock();
        let answer = known.topics.get(name)?;
        if clock::now().duration_since(answer.fetched) > self.max_age {
            return None;
        }
        answer.outcome.as_ref().ok().cloned()
    }

    /// Where a broker listens.
    pub(crate) fn address(&self, broker: BrokerId) -> Option<Address> {
        self.known.lock().brokers.get(&broker).cloned()
    }

    /// A broker that does not lead a partition said who does.
    pub(crate) fn learn(&self, hint: &LeaderHint) {
        self.known.lock().brokers.insert(hint.broker, hint.address.clone());
    }

    /// A leader said where another broker listens.
    pub(crate) fn learn_address(&self, broker: BrokerId, address: Address) {
        self.known.lock().brokers.insert(broker, address);
    }

    /// All brokers of an answer.
    pub(crate) fn learn_brokers(&self, brokers: &[Broker]) {
        if brokers.is_empty() {
            return;
        }
        let mut known = self.known.lock();
        known.brokers = brokers.iter().map(|broker| (broker.id, broker.address.clone())).collect();
    }

    /// Forgets a topic: it was deleted or changed by this client.
    pub(crate) fn forget(&self, name: &str) {
        self.known.lock().topics.remove(name);
    }

    /// Runs `call` against the broker that answered last, and on failure to reach it against the
    /// others, each once.
    pub(crate) async fn at_any_broker<T, F: Future<Output = Result<T>>>(
        &self,
        call: impl Fn(Address) -> F,
    ) -> Result<T> {
        self.at_candidates(call, |_| true).await
    }

    /// As [`Metadata::at_any_broker`], for a call that must not be carried out twice: after a
    /// failure in which it may have been, no other broker is tried.
    pub(crate) async fn at_any_definite<T, F: Future<Output = Result<T>>>(
        &self,
        call: impl Fn(Address) -> F,
    ) -> Result<T> {
        self.at_candidates(call, Error::is_definite).await
    }

    async fn at_candidates<T, F: Future<Output = Result<T>>>(
        &self,
        call: impl Fn(Address) -> F,
        try_next: impl Fn(&Error) -> bool,
    ) -> Result<T> {
        let mut last_error = None;
        let mut candidates = self.candidates().into_iter().peekable();
        while let Some(address) = candidates.next() {
            let silent =
                Error::connection(format!("{address}: no answer within {ASK_NEXT_AFTER:?}"))
                    // It may have heard the call all the same: what must not be done twice waits for it.
                    .definite(false);
            let answer = match candidates.peek().is_some() && try_next(&silent) {
                true => timeout(ASK_NEXT_AFTER, call(address.clone())).await.unwrap_or(Err(silent)),
                false => call(address.clone()).await,
            };
            match answer {
                Ok(answer) => {
                    self.known.lock().last_good = Some(address);
                    return Ok(answer);
                }
                Err(error) if is_of_one_broker(&error) && try_next(&error) => {
                    last_error = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(last_error.unwrap_or_else(|| Error::connection("no broker is known")))
    }

    /// What was answered last turned out to be stale: another broker is asked next, that one last.
    fn doubt(&self) {
        let mut known = self.known.lock();
        let Some(doubted) = known.last_good.take() else { return };
        let others: BTreeSet<&Address> =
            known.brokers.values().filter(|other| **other != doubted).collect();
        let after = others.iter().find(|other| ***other > doubted);
        let next = after.or_else(|| others.first()).map(|next| (*next).clone());
        known.last_good = next.or(Some(doubted));
    }

    /// Every address worth trying, the last good one first, the bootstrap servers last.
    fn candidates(&self) -> Vec<Address> {
        let known = self.known.lock();
        let others: BTreeSet<&Address> = known.brokers.values().collect();
        let mut candidates = Vec::with_capacity(1 + others.len() + self.bootstrap.len());
        let all = known.last_good.iter().chain(others).chain(&self.bootstrap);
        for address in all {
            if !candidates.contains(address) {
                candidates.push(address.clone());
            }
        }
        candidates
    }

    /// Fetches `name` and whatever else is wanted meanwhile.
    async fn fetch_wanted(&self, name: &Arc<str>, create: bool) -> Result<()> {
        let (request, names): (Mark, Vec<Arc<str>>) = {
            let mut known = self.known.lock();
            known.requests.0 += 1;
            // Those who may not create must not ride on a request that does.
            let mut names: Vec<_> = known
                .wanted
                .iter()
                .filter(|(other, wants)| **wants == create && *other != name)
                .map(|(other, _)| Arc::clone(other))
                .take(TOPICS_PER_REQUEST - 1)
                .collect();
            names.push(Arc::clone(name));
            for name in &names {
                known.wanted.remove(name);
            }
            (known.requests, names)
        };
        let fetched = clock::now();
        let (connections, names) = (&self.connections, &names);
        let ask = |at: Address| async move { connections.topics(&at, names, create).await };
        let listed = self.at_any_broker(ask).await?;
        self.learn_brokers(&listed.brokers);
        let mut known = self.known.lock();
        if known.topics.len() > TOPICS_CACHED_MAX {
            let max_age = self.max_age;
            known.topics.retain(|_, answer| fetched.duration_since(answer.fetched) < max_age);
            if known.topics.len() > TOPICS_CACHED_MAX {
                known.topics.clear();
            }
        }
        for (name, outcome) in listed.topics {
            let before = known.topics.get(&name).and_then(|answer| answer.outcome.as_ref().ok());
            let outcome = outcome.map(|topic| Arc::new(newest(topic, before.map(AsRef::as_ref))));
            known.topics.insert(name, Answer { outcome, fetched, request });
        }
        Ok(())
    }
}

/// `told`, but for partitions of which a newer leader is `known`.
fn newest(mut told: Topic, known: Option<&Topic>) -> Topic {
    let Some(known) = known.filter(|known| known.id == told.id) else { return told };
    for (told, known) in told.partitions.iter_mut().zip(&known.partitions) {
        if known.leader_epoch > told.leader_epoch {
            told.clone_from(known);
        }
    }
    told
}

/// Another broker may well answer: this one is away, or its certificate is wrong.
fn is_of_one_broker(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Connection | ErrorKind::Security)
}

#[cfg(test)]
#[path = "metadata_test.rs"]
mod tests;
