//! Where a reader is, and which replica its leader sends it to (KIP-392).
//!
//! As in Kafka the leader chooses, by racks, and nobody else does (KAFKA-13778): it knows who is in sync
//! (KAFKA-14372: one that is not would keep its readers back with it) and how far each follower has
//! come. It looks when a reader comes and, while it reads here, every second: a follower that comes back
//! has its readers back soon.

use std::{fmt, sync::Arc, time::Duration};

use riverrun_proto::{ids::BrokerId, offset::Offset, rpc::v1};

use super::{core::Core, resolve::Catalog};
use crate::{
    clock::{Clock, Instant},
    metadata::{Broker, Endpoint, MetadataImage},
    partition::Partition,
};

/// How long a reader that nobody nearby could serve is read for before that is looked at again.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// A reader that named its rack.
pub(super) struct Nearby {
    rack: String,
    /// Leaders send it to followers (`fetch.follower.enable`).
    redirects: bool,
    clock: Arc<dyn Clock>,
}

/// A follower, as its leader and the cluster see it.
#[derive(Debug, Clone, Copy)]
struct Candidate<'a> {
    broker: BrokerId,
    rack: Option<&'a str>,
    /// Neither fenced, nor on its way out, nor without an address for clients.
    is_present: bool,
    /// Of the ISR that the controller has confirmed, which it knows of itself as well.
    is_member: bool,
    /// Its subscription is open.
    is_connected: bool,
    log_end: Option<Offset>,
}

// === impl Nearby ===

impl Nearby {
    /// `None`: it did not say where it is, and has the leader or nobody.
    pub(super) fn of(core: &Core, rack: &str) -> Option<Self> {
        (!rack.is_empty()).then(|| Self {
            rack: rack.to_owned(),
            redirects: core.limits.sends_to_followers,
            clock: Arc::clone(&core.clock),
        })
    }

    /// One that is given its records and told of a replica beside.
    pub(super) fn without_redirects(self) -> Self {
        Self { redirects: false, ..self }
    }

    /// Whether it is time to look for a replica; notes that it was done.
    pub(super) fn looks(&self, look_at: &mut Option<Instant>) -> bool {
        if !self.redirects {
            return false;
        }
        let now = self.clock.monotonic();
        let is_due = look_at.is_none_or(|at| now >= at);
        if is_due {
            *look_at = Some(now + LOOK_INTERVAL);
        }
        is_due
    }

    /// The replica to read from instead of this one, where this broker leads.
    pub(super) fn replica(
        &self,
        catalog: &Catalog,
        partition: &Partition,
        from: Offset,
    ) -> Option<v1::ReadReplica> {
        if !self.redirects || partition.leads().is_none() {
            return None;
        }
        let image = catalog.image();
        let rack_of = |id| image.broker(id).and_then(|broker| broker.rack.as_deref());
        // Most readers are in the rack of their leader, or in one of nobody's.
        if rack_of(catalog.broker()) == Some(&self.rack) || !image.has_rack(&self.rack) {
            return None;
        }
        let replicas = partition.replicas()?;
        if from < partition.log_start_offset() {
            return None;
        }
        let candidates = replicas.followers.iter().map(|follower| Candidate {
            broker: follower.id,
            rack: rack_of(follower.id),
            is_present: image.broker(follower.id).is_some_and(|broker| is_present(broker)),
            is_member: replicas.registration.isr.contains(&follower.id),
            is_connected: follower.connected,
            log_end: follower.log_end,
        });
        let chosen = choose(&self.rack, from, rack_of(catalog.broker()), candidates)?;
        wire(&image, chosen)
    }
}

/// The follower to read from `from` on, for a reader in `rack`; `None`: the leader, which is in
/// `leaders_rack`. Of several the one that has most; of these the first by id, so that the choice does
/// not change without a reason.
fn choose<'a>(
    rack: &str,
    from: Offset,
    leaders_rack: Option<&str>,
    candidates: impl IntoIterator<Item = Candidate<'a>>,
) -> Option<BrokerId> {
    if leaders_rack == Some(rack) {
        return None;
    }
    let fits = |candidate: &Candidate<'_>| {
        candidate.rack == Some(rack)
            && candidate.is_present
            && candidate.is_member
            && candidate.is_connected
            && candidate.log_end.is_some_and(|end| end >= from)
    };
    let order =
        |candidate: &Candidate<'_>| (candidate.log_end, std::cmp::Reverse(candidate.broker));
    candidates.into_iter().filter(fits).max_by_key(order).map(|candidate| candidate.broker)
}

fn is_present(broker: &Broker) -> bool {
    broker.takes_more() && broker.endpoint(Endpoint::CLIENTS).is_some()
}

fn wire(image: &MetadataImage, broker: BrokerId) -> Option<v1::ReadReplica> {
    let endpoint = image.broker(broker)?.endpoint(Endpoint::CLIENTS)?;
    let (host, port) = (endpoint.host.clone(), endpoint.port.into());
    Some(v1::ReadReplica { broker_id: broker.0, host, port })
}

impl fmt::Debug for Nearby {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nearby").field("rack", &self.rack).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In sync, there, connected, in rack `b`, with everything below 100.
    const GOOD: Candidate<'static> = Candidate {
        broker: BrokerId(2),
        rack: Some("b"),
        is_present: true,
        is_member: true,
        is_connected: true,
        log_end: Offset::new(100),
    };

    fn chosen(rack: &str, from: i64, leader: Option<&str>, of: &[Candidate<'_>]) -> Option<u32> {
        let from = Offset::new(from).unwrap();
        choose(rack, from, leader, of.iter().copied()).map(|broker| broker.0)
    }

    #[test]
    fn a_follower_in_the_readers_rack_that_has_what_is_asked_for() {
        let third = Candidate { broker: BrokerId(3), ..GOOD };
        let elsewhere = Candidate { broker: BrokerId(4), rack: Some("c"), ..GOOD };
        let more = Candidate { log_end: Offset::new(101), ..third };
        let a = Some("a");
        for (what, rack, from, leader, candidates, expected) in [
            ("the only one", "b", 50, a, vec![GOOD], Some(2)),
            ("all it has was read", "b", 100, a, vec![GOOD], Some(2)),
            ("the leader has no rack", "b", 50, None, vec![GOOD], Some(2)),
            ("whoever has most", "b", 50, a, vec![GOOD, more], Some(3)),
            ("whoever has it", "b", 101, a, vec![GOOD, more], Some(3)),
            ("alike: always the same", "b", 50, a, vec![third, GOOD, elsewhere], Some(2)),
            ("of the rack", "c", 50, a, vec![GOOD, more, elsewhere], Some(4)),
        ] {
            assert_eq!(chosen(rack, from, leader, &candidates), expected, "{what}");
        }
    }

    #[test]
    fn else_the_leader() {
        let a = Some("a");
        for (what, rack, from, leader, candidate) in [
            ("the leader is in that rack", "b", 50, Some("b"), GOOD),
            ("nobody is", "d", 50, a, GOOD),
            ("racks are told apart by case", "B", 50, a, GOOD),
            ("no rack is no rack", "b", 50, a, Candidate { rack: None, ..GOOD }),
            ("fenced, or draining", "b", 50, a, Candidate { is_present: false, ..GOOD }),
            ("not in sync", "b", 50, a, Candidate { is_member: false, ..GOOD }),
            ("its connection is gone", "b", 50, a, Candidate { is_connected: false, ..GOOD }),
            ("it has less", "b", 101, a, GOOD),
            ("not heard from", "b", 0, a, Candidate { log_end: None, ..GOOD }),
        ] {
            assert_eq!(chosen(rack, from, leader, &[candidate]), None, "{what}");
        }
        assert_eq!(chosen("b", 0, a, &[]), None);
    }
}
