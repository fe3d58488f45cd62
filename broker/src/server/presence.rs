//! Whether this broker is there, in the eyes of the cluster: it says so, waits to be taken in, and
//! asks for leave before it stops. And, on the node that leads the quorum, who else is.

use std::{sync::Arc, thread, time::Duration};

use futures::future::join_all;
use riverrun_proto::{epoch::BrokerEpoch, ids::BrokerId};
use tokio::{runtime::Builder, time::timeout};

use super::{StartError, io_error, membership::Membership};
use crate::{
    clock::{Clock, WallAnchor, WallTrust},
    config::Config,
    controller::{ClusterQuorum, MetaQuorum, raft::RaftQuorum},
    metadata::{Command, MetadataImage, MetadataOffset, Presence},
    partition::Lease,
    peer::{
        connect::is_refused,
        heartbeat::{Heard, Heart, Pacemaker, Pulse},
    },
    service::internal::{Door, Inside},
    shutdown::Shutdown,
};

/// How often the leader looks who is there, beside each time it hears somebody.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a broker that stops waits for others to take over what it leads.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);
/// And for somebody to ask for leave, where nobody leads.
const LEADER_TIMEOUT: Duration = Duration::from_secs(1);

/// This broker, to those who decide whether it is there.
#[derive(Debug, Clone)]
pub(super) struct OwnPresence {
    pacemaker: Arc<Pacemaker>,
    quorum: Arc<ClusterQuorum>,
    me: BrokerId,
    lease: Lease,
    clock: Arc<dyn Clock>,
}

// === impl OwnPresence ===

impl OwnPresence {
    /// Begins to say that this broker is there, on a thread of its own.
    pub(super) fn begin(
        member: &Membership,
        epoch: BrokerEpoch,
        config: &Config,
        (clock, wall, shutdown): (&Arc<dyn Clock>, &WallTrust, &Shutdown),
    ) -> Result<Self, StartError> {
        let lease = Lease::not_granted();
        let first = Pulse { epoch, applied: MetadataOffset::ZERO, wants_to_stop: false };
        let (pacemaker, pulse, heard) = Pacemaker::new(first);
        let heart = Heart {
            card: member.card.clone(),
            locate: member.locate.clone(),
            dialler: member.dialler.clone(),
            leader: member.quorum.leader(),
            pulse,
            heard,
            interval: config.broker.heartbeat_interval_ms,
            lease: lease.clone(),
            clock: Arc::clone(clock),
            wall: wall.clone(),
        };
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(io_error("starting the heartbeat thread"))?;
        let stopping = shutdown.clone();
        thread::Builder::new()
            .name("heartbeat".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = heart.beat() => {}
                        () = stopping.stopping() => {}
                    }
                });
            })
            .map_err(io_error("starting the heartbeat thread"))?;
        let (quorum, me) = (Arc::clone(&member.quorum), member.identity.node);
        Ok(Self { pacemaker, quorum, me, lease, clock: Arc::clone(clock) })
    }

    /// Until when this broker may act on what it leads by itself.
    pub(super) fn lease(&self) -> &Lease {
        &self.lease
    }

    /// All metadata up to `offset` is carried out here.
    pub(super) fn applied(&self, offset: MetadataOffset) {
        self.pacemaker.pulse.send_modify(|pulse| pulse.applied = offset);
    }

    /// Waits until this broker takes part, and may act on what it leads.
    pub(super) async fn taken_in(&self) {
        let mut changes = self.quorum.subscribe();
        while self.now() != Some(Presence::Active) {
            if changes.next().await.is_none() {
                return;
            }
        }
        // Nobody answers for it any more where this fails: the broker stops.
        let _ = self.pacemaker.heard.clone().wait_for(|heard| heard.leased).await;
    }

    /// Whether the cluster has forgotten this broker, which had registered: it was removed while it
    /// was fenced, and ran all the same.
    pub(super) fn is_forgotten(&self, image: &MetadataImage) -> bool {
        image.broker(self.me).is_none()
    }

    /// A later run that the cluster knows in this one's place. A join that was long on its way, of a
    /// process that is gone, may arrive after this one's; or there are two with one id. This run
    /// stays fenced from then on, and nothing it says is heard.
    pub(super) fn replaced_by(&self, image: &MetadataImage) -> Option<BrokerEpoch> {
        let ours = self.pacemaker.pulse.borrow().epoch;
        image.broker(self.me).map(|broker| broker.epoch).filter(|known| *known > ours)
    }

    /// How this broker stands.
    pub(super) fn now(&self) -> Option<Presence> {
        self.quorum.image().broker(self.me).map(|broker| broker.presence)
    }

    /// Replicas here that have yet to catch up.
    pub(super) fn replicas_behind(&self) -> usize {
        let image = self.quorum.image();
        let partitions = image.topics().flat_map(|topic| topic.partitions());
        partitions.filter(|(_, partition)| partition.is_to_catch_up(self.me)).count()
    }

    /// Asks for leave, and waits a little until others lead what this broker led; and hands on the
    /// lead of the quorum. A broker that nobody answers stops all the same.
    pub(super) async fn leave(&self) {
        self.pacemaker.pulse.send_modify(|pulse| pulse.wants_to_stop = true);
        // Others lead from some moment on that is heard of here only afterwards.
        self.lease.end(self.clock.monotonic());
        let mut heard = self.pacemaker.heard.clone();
        let leave = async {
            let answered = |heard: &Heard| heard.connected;
            if timeout(LEADER_TIMEOUT, heard.wait_for(answered)).await.is_err() {
                return false;
            }
            heard.wait_for(|heard| heard.may_stop).await.is_ok()
        };
        match timeout(LEAVE_TIMEOUT, leave).await {
            Ok(true) => {}
            Ok(false) | Err(_) => {
                tracing::warn!("nobody took over from this broker in time; it stops all the same");
            }
        }
        hand_over(self.quorum.here()).await;
    }
}

/// Gives the lead of the quorum to another voter, where this node has it.
async fn hand_over(quorum: &RaftQuorum) {
    let me = quorum.voter();
    let mut leader = quorum.leader();
    let heirs: Vec<_> = quorum.voters().voting.into_iter().filter(|voter| *voter != me).collect();
    for heir in heirs {
        if leader.borrow().is_none_or(|leader| leader.node != me.node) {
            return;
        }
        quorum.transfer(heir.id);
        // One that is away does not take it.
        let taken = leader.wait_for(|leader| leader.is_some_and(|l| l.node != me.node));
        let _ = timeout(LEADER_TIMEOUT, taken).await;
    }
}

/// Those that did not dial whoever began to lead a moment ago.
async fn look_for_missing(inside: &Inside) {
    let (image, now) = (inside.quorum.image(), inside.clock.monotonic());
    let (term, missing) = {
        let liveness = inside.liveness.lock();
        (liveness.term(), liveness.missing(&image, now))
    };
    let Some(term) = term else { return };
    let look = |(broker, epoch): (BrokerId, BrokerEpoch)| {
        let addresses = inside.addresses.of(broker, &image);
        async move {
            let answers = join_all(addresses.iter().map(|address| is_refused(address))).await;
            let is_gone = !answers.is_empty() && answers.into_iter().all(|refused| refused);
            is_gone.then_some((broker, epoch))
        }
    };
    let gone = join_all(missing.into_iter().map(look)).await;
    for (broker, epoch) in gone.into_iter().flatten() {
        inside.liveness.lock().found_gone(broker, epoch, term);
    }
}

/// Who begins to lead knows all that was decided before once its term has got anything decided.
async fn catch_up(inside: &Inside) {
    let Some(term) = inside.liveness.lock().term_to_catch_up() else { return };
    // Where it fails another leads, or it is asked again a moment later.
    if inside.quorum.here().read_barrier().await.is_ok() {
        inside.liveness.lock().caught_up(term);
    }
}

/// On whichever node leads the quorum: fences brokers that are gone, takes in those that are back.
pub(super) async fn look_after(door: Door) {
    let Ok(inside) = door.inside() else { return };
    let quorum = &inside.quorum;
    loop {
        // Heartbeats wake it, so that nobody waits to be taken in.
        let _ = timeout(LOOK_EVERY, inside.heard.notified()).await;
        look_for_missing(inside).await;
        catch_up(inside).await;
        let changes = {
            let mut liveness = inside.liveness.lock();
            let (image, now) = (quorum.image(), inside.clock.monotonic());
            liveness.lead(inside.term_led(), now);
            liveness.own_clock(WallAnchor::of(inside.clock.now(), now));
            liveness.decide(&image, now)
        };
        for change in changes {
            let (broker, presence) = (change.broker.0, change.presence);
            match quorum.here().propose(Command::SetPresence(change)).await {
                Ok(_) if presence == Presence::Fenced => {
                    tracing::warn!(broker, "a broker is not heard from and is fenced");
                }
                Ok(_) => tracing::info!(broker, ?presence, "a broker stands differently now"),
                // Somebody else leads, or it runs anew: whoever leads then looks again.
                Err(why) => tracing::debug!(broker, ?presence, %why, "not changed"),
            }
        }
    }
}
