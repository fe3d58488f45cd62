//! Says to the leader of the metadata quorum that this broker is there.
//!
//! On a thread and a connection of their own, so that nothing which this broker does keeps it from
//! saying so. A lost connection is made again at once: whoever does not is taken for dead.
//!
//! What is answered extends this broker's lease ([`Lease`]), from when the heartbeat was sent, and shows
//! what time it is there ([`WallTrust`]).

use std::{fmt, sync::Arc, time::Duration};

use riverrun_proto::{
    epoch::BrokerEpoch,
    ids::BrokerId,
    rpc::internal::v1::{self as wire, broker_service_client::BrokerServiceClient},
    timestamp::Timestamp,
};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, timeout},
};
use tonic::{Code, Status};

use super::{
    connect::{Backoff, Dialler},
    hello::Card,
    transport::Locate,
};
use crate::{
    clock::{Clock, ClockNews, ClockOffset, ClocksTold, Instant, WallAnchor, WallTrust},
    controller::{Compared, Leader},
    metadata::MetadataOffset,
    partition::Lease,
};

/// How long an answer may take before the connection is given up. Below the time after which a silent
/// broker is fenced, so that there is time for another.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a lease outlives the connection it came by: less than it takes until a broker is fenced that
/// has hung up and does not dial again ([`crate::controller::REDIAL_GRACE`]).
const LEASE_PAST_CONNECTION: Duration = Duration::from_millis(400);

/// What this broker says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pulse {
    /// Its registration.
    pub epoch: BrokerEpoch,
    /// All metadata up to here is carried out.
    pub applied: MetadataOffset,
    /// It wants to stop.
    pub wants_to_stop: bool,
}

/// What the leader makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Heard {
    /// A leader answers.
    pub connected: bool,
    /// This broker may stop.
    pub may_stop: bool,
    /// And may act on what it leads.
    pub leased: bool,
}

/// Sends heartbeats for as long as somebody holds the other end of `pulse`.
pub struct Heart {
    /// Who this node is.
    pub card: Card,
    /// Where others are.
    pub locate: Locate,
    /// How they are dialled.
    pub dialler: Dialler,
    /// Who leads.
    pub leader: watch::Receiver<Option<Leader>>,
    /// What to say; whatever changes is said at once.
    pub pulse: watch::Receiver<Pulse>,
    /// What the leader says.
    pub heard: watch::Sender<Heard>,
    /// How often to say it.
    pub interval: Duration,
    /// What the answers extend.
    pub lease: Lease,
    /// Tells the time that leases are counted by, and the time of day that is compared.
    pub clock: Arc<dyn Clock>,
    /// What the comparison comes to.
    pub wall: WallTrust,
}

// === impl Heart ===

impl Heart {
    /// Until `pulse` is dropped.
    pub async fn beat(mut self) {
        tokio::select! {
            () = gone(self.pulse.clone()) => {}
            () = self.beat_on() => {}
        }
    }

    /// Until the quorum is gone.
    async fn beat_on(&mut self) {
        let mut backoff = Backoff::default();
        let mut said = String::new();
        let mut leads = self.leader.clone();
        loop {
            let known = *leads.borrow_and_update();
            let Some(leader) = known else {
                if leads.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let ended = tokio::select! {
                ended = self.talk_to(leader.node) => Some(ended),
                // Whoever leads now waits for us.
                _ = leads.wait_for(|now| *now != known) => None,
            };
            if self.heard.send_replace(Heard::default()).connected {
                backoff.reset();
                // Whoever leads on, and saw the connection end as well, may fence soon.
                self.lease.end(self.clock.monotonic() + LEASE_PAST_CONNECTION);
            }
            let Some(ended) = ended else {
                if leads.has_changed().is_err() {
                    return;
                }
                continue;
            };
            if let Err(why) = ended
                && said != why.message()
            {
                why.message().clone_into(&mut said);
                report(leader.node, &why);
            }
            // Until it may be asked again, or another leads.
            let _ = timeout(backoff.pause(), leads.wait_for(|now| *now != known)).await;
            if leads.has_changed().is_err() {
                return;
            }
        }
    }

    /// One connection, to its end.
    async fn talk_to(&self, leader: BrokerId) -> Result<(), Status> {
        let mut failure = Status::unavailable("nobody said yet where it is");
        for address in (self.locate)(leader) {
            match self.dialler.dial(&address).await {
                Ok(channel) => {
                    let client = BrokerServiceClient::new(channel);
                    return self.talk_over(leader, client).await;
                }
                Err(why) => failure = why,
            }
        }
        Err(failure)
    }

    async fn talk_over(
        &self,
        leader: BrokerId,
        mut client: BrokerServiceClient<tonic::transport::Channel>,
    ) -> Result<(), Status> {
        let (compares, compared) = watch::channel(None);
        let requests = {
            let (pulse, hello) = (self.pulse.clone(), Some(self.card.hello(None)));
            let mut beats = interval(self.interval);
            beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let clock = Arc::clone(&self.clock);
            futures::stream::unfold(Beats { pulse, beats, hello, clock, compared }, next_beat)
        };
        let late = |_| Status::deadline_exceeded("a heartbeat was not answered in time");
        let patience = ANSWER_TIMEOUT + self.interval;
        let opening = timeout(patience, client.heartbeat(requests));
        let mut answers = opening.await.map_err(late)??.into_inner();
        loop {
            let answer = timeout(patience, answers.message()).await.map_err(late)??;
            let Some(answer) = answer else { return Ok(()) };
            let sent_at = Instant::from_start(Duration::from_nanos(answer.sent_at_ns));
            let leased = answer.lease_ms > 0;
            if leased {
                self.lease.extend(sent_at + Duration::from_millis(answer.lease_ms.into()));
            }
            let offset = self.compare(leader, sent_at, &answer);
            let next = Compared { offset, leader: WallAnchor::told(answer.wall_anchor_ms) };
            compares.send_if_modified(|known: &mut Option<Compared>| {
                let before = known.replace(next).map(|before| self.wall.is_beyond(before.offset));
                // Whoever waits to be taken in for its clock is not to wait for the next beat as well.
                before != Some(self.wall.is_beyond(offset))
            });
            self.heard.send_replace(Heard { connected: true, may_stop: answer.may_stop, leased });
        }
    }
}

// The clocks.
impl Heart {
    /// Compares the wall clocks, and says what that changes.
    fn compare(
        &self,
        leader: BrokerId,
        sent_at: Instant,
        answer: &wire::HeartbeatResponse,
    ) -> ClockOffset {
        let (here, now) = (self.clock.now(), self.clock.monotonic());
        let there = Timestamp::from_millis(answer.wall_clock_ms);
        let offset = ClockOffset::measured(there, here, now.duration_since(sent_at));
        let off = answer.clocks_off.iter().map(|one| {
            let offset = one.offset.unwrap_or_default();
            (BrokerId(one.broker_id), ClockOffset::told(offset.ahead_ms, offset.uncertain_ms))
        });
        let told = ClocksTold {
            off: off.collect(),
            disputed: answer.clock_disputed,
            confirmed: answer.clock_confirmed,
        };
        for news in self.wall.compare(leader, offset, (here, now), told) {
            report_clock(leader, news);
        }
        offset
    }
}

/// What goes into heartbeats, and when.
struct Beats {
    pulse: watch::Receiver<Pulse>,
    beats: tokio::time::Interval,
    hello: Option<wire::Hello>,
    clock: Arc<dyn Clock>,
    compared: watch::Receiver<Option<Compared>>,
}

async fn next_beat(mut next: Beats) -> Option<(wire::HeartbeatRequest, Beats)> {
    let Beats { pulse, beats, hello, clock, compared } = &mut next;
    if hello.is_none() {
        tokio::select! {
            _ = beats.tick() => {}
            changed = pulse.changed() => changed.ok()?,
            changed = compared.changed() => changed.ok()?,
        }
    }
    let now = *pulse.borrow_and_update();
    let compared = compared.borrow_and_update().map(|Compared { offset, leader }| {
        let (ahead_ms, uncertain_ms) = (offset.ahead_ms(), offset.uncertain_ms());
        let offset = Some(wire::ClockOffset { ahead_ms, uncertain_ms });
        wire::ClockCompared { offset, wall_anchor_ms: leader.ms() }
    });
    let request = wire::HeartbeatRequest {
        hello: hello.take(),
        broker_epoch: now.epoch.get(),
        applied_offset: now.applied.get(),
        wants_to_stop: now.wants_to_stop,
        sent_at_ns: u64::try_from(clock.monotonic().since_start().as_nanos()).unwrap_or(0),
        clock: compared,
    };
    Some((request, next))
}

/// Waits until nobody has anything to say any more.
async fn gone(mut pulse: watch::Receiver<Pulse>) {
    while pulse.changed().await.is_ok() {}
}

fn report(leader: BrokerId, why: &Status) {
    let (node, why_text) = (leader.0, why.message());
    if why.code() == Code::FailedPrecondition {
        tracing::error!(node, why = why_text, "the leader of the quorum refuses this broker");
    } else {
        tracing::info!(node, why = why_text, "the leader of the quorum does not hear this broker");
    }
}

fn report_clock(leader: BrokerId, news: ClockNews) {
    let node = leader.0;
    match news {
        ClockNews::Off(why) => tracing::error!(
            %why,
            "this clock is off: this broker is not taken in, or, if it is in, deletes nothing for its age"
        ),
        ClockNews::Well(offset) => {
            tracing::info!(node, %offset, "this clock agrees again with that of the quorum's leader");
        }
        ClockNews::Disputed(true) => tracing::error!(
            node,
            "no more than half of the brokers' clocks agree with that of the quorum's leader, which \
             may be the wrong one: nothing is deleted for its age until clocks are set right, best by NTP"
        ),
        ClockNews::Disputed(false) => {
            tracing::info!(node, "most brokers' clocks agree with that of the quorum's leader");
        }
    }
}

impl fmt::Debug for Heart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heart").field("card", &self.card).finish_non_exhaustive()
    }
}

/// Where the sender of pulses and the receiver of answers are kept.
#[derive(Debug)]
pub struct Pacemaker {
    /// What to say.
    pub pulse: watch::Sender<Pulse>,
    /// What was answered.
    pub heard: watch::Receiver<Heard>,
}

impl Pacemaker {
    /// Both ends: for the broker, and for [`Heart`].
    pub fn new(first: Pulse) -> (Arc<Self>, watch::Receiver<Pulse>, watch::Sender<Heard>) {
        let (pulse, said) = watch::channel(first);
        let (answers, heard) = watch::channel(Heard::default());
        (Arc::new(Self { pulse, heard }), said, answers)
    }
}
