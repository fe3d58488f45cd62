//! What replicas say to each other, as it stands on the wire: both directions, both ways.
//!
//! What a frame is about (topic id, partition, session, epoch) stands in every frame; of which run
//! of which follower it is was said when the stream was opened. What cannot be read is `None`: the
//! stream it came on is given up, for whoever sent it is no broker that this one understands.

use bytes::Bytes;
use riverrun_proto::{
    epoch::{BrokerEpoch, LeaderEpoch},
    ids::{BrokerId, PartitionIndex, TopicId, TopicPartition},
    offset::Offset,
    rpc::internal::v1 as wire,
};
use wire::{follower_frame, leader_frame, refused};

use crate::partition::{
    frame::{Ack, Diverging, Position, Progress, Refusal, Refused, Session, Subscribe},
    replication::{Push, ToFollower, ToLeader, Traffic},
};

/// A run of a follower: all that is said on one stream is said by it, or to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Follower {
    /// Which broker.
    pub id: BrokerId,
    /// Its registration.
    pub epoch: BrokerEpoch,
}

// === follower to leader ===

/// For the wire.
pub fn to_leader(about: TopicPartition, said: &ToLeader) -> wire::FollowerFrame {
    let (session, says) = match said {
        ToLeader::Subscribe(Subscribe(has)) => {
            (has.session, follower_frame::Says::Subscribe(position(has)))
        }
        ToLeader::Ack(Ack(has)) => (has.session, follower_frame::Says::Ack(position(has))),
        ToLeader::Unsubscribe(session) => {
            (*session, follower_frame::Says::Unsubscribe(wire::Unsubscribe {}))
        }
    };
    wire::FollowerFrame {
        topic_id: topic_id(about),
        partition: about.partition.get(),
        session: session.number,
        says: Some(says),
    }
}

/// From the wire.
pub fn read_to_leader(
    frame: wire::FollowerFrame,
    from: Follower,
) -> Option<(TopicPartition, ToLeader)> {
    let about = read_about(&frame.topic_id, frame.partition)?;
    let session = Session { broker_epoch: from.epoch, number: frame.session };
    let said = match frame.says? {
        follower_frame::Says::Subscribe(has) => {
            ToLeader::Subscribe(Subscribe(read_position(&has, from.id, session)?))
        }
        follower_frame::Says::Ack(has) => {
            ToLeader::Ack(Ack(read_position(&has, from.id, session)?))
        }
        follower_frame::Says::Unsubscribe(_) => ToLeader::Unsubscribe(session),
    };
    Some((about, said))
}

// === leader to follower ===

/// For the wire. Takes batches along, and copies none.
pub fn to_follower(about: TopicPartition, said: ToFollower) -> wire::LeaderFrame {
    let (session, epoch, says) = match said {
        ToFollower::Push(Push { progress: at, previous_epoch, batches }) => {
            let previous_epoch = previous_epoch.map(LeaderEpoch::get);
            let push = wire::Push { progress: Some(progress(at)), previous_epoch, batches };
            (at.session, at.leader_epoch, leader_frame::Says::Push(push))
        }
        ToFollower::Progress(at) => {
            (at.session, at.leader_epoch, leader_frame::Says::Progress(progress(at)))
        }
        ToFollower::Diverging(Diverging { asked, epoch, end }) => {
            let diverging = wire::Diverging {
                asked: Some(position(&asked)),
                epoch: epoch.map(LeaderEpoch::get),
                end: end.get(),
            };
            (asked.session, asked.leader_epoch, leader_frame::Says::Diverging(diverging))
        }
        ToFollower::Refused(Refused { session, leader_epoch, reason }) => {
            (session, leader_epoch, leader_frame::Says::Refused(refusal(reason)))
        }
        ToFollower::Ended(session) => {
            (session, LeaderEpoch::ZERO, leader_frame::Says::Ended(wire::Ended {}))
        }
    };
    wire::LeaderFrame {
        topic_id: topic_id(about),
        partition: about.partition.get(),
        session: session.number,
        leader_epoch: epoch.get(),
        says: Some(says),
    }
}

/// From the wire. Batches stay slices of what was received.
pub fn read_to_follower(
    frame: wire::LeaderFrame,
    to: Follower,
) -> Option<(TopicPartition, ToFollower)> {
    let about = read_about(&frame.topic_id, frame.partition)?;
    let session = Session { broker_epoch: to.epoch, number: frame.session };
    let leader_epoch = LeaderEpoch::new(frame.leader_epoch)?;
    let read_progress = |progress: wire::Progress| {
        let high_watermark = Offset::new(progress.high_watermark)?;
        let log_start = Offset::new(progress.log_start)?;
        Some(Progress { session, leader_epoch, high_watermark, log_start })
    };
    let said = match frame.says? {
        leader_frame::Says::Push(wire::Push { progress, previous_epoch, batches }) => {
            let progress = read_progress(progress?)?;
            let previous_epoch = read_epoch(previous_epoch)?;
            ToFollower::Push(Push { progress, previous_epoch, batches })
        }
        leader_frame::Says::Progress(progress) => ToFollower::Progress(read_progress(progress)?),
        leader_frame::Says::Diverging(diverging) => {
            let asked = read_position(&diverging.asked?, to.id, session)?;
            let (epoch, end) = (read_epoch(diverging.epoch)?, Offset::new(diverging.end)?);
            ToFollower::Diverging(Diverging { asked, epoch, end })
        }
        leader_frame::Says::Refused(refused) => {
            let reason = read_refusal(refused)?;
            ToFollower::Refused(Refused { session, leader_epoch, reason })
        }
        leader_frame::Says::Ended(_) => ToFollower::Ended(session),
    };
    Some((about, said))
}

/// For the wire.
pub const fn traffic(traffic: Traffic) -> wire::Traffic {
    match traffic {
        Traffic::InSync => wire::Traffic::InSync,
        Traffic::CatchUp => wire::Traffic::CatchUp,
    }
}

// === parts ===

fn position(has: &Position) -> wire::Position {
    wire::Position {
        leader_epoch: has.leader_epoch.get(),
        log_end: has.log_end.get(),
        last_epoch: has.last_epoch.map(LeaderEpoch::get),
        flushed_end: has.flushed_end.get(),
        log_start: has.log_start.get(),
    }
}

fn read_position(has: &wire::Position, follower: BrokerId, session: Session) -> Option<Position> {
    Some(Position {
        follower,
        leader_epoch: LeaderEpoch::new(has.leader_epoch)?,
        session,
        log_end: Offset::new(has.log_end)?,
        last_epoch: read_epoch(has.last_epoch)?,
        flushed_end: Offset::new(has.flushed_end)?,
        log_start: Offset::new(has.log_start)?,
    })
}

fn progress(at: Progress) -> wire::Progress {
    wire::Progress { high_watermark: at.high_watermark.get(), log_start: at.log_start.get() }
}

/// `None` where it is no epoch; `Some(None)` where there is none.
fn read_epoch(epoch: Option<i32>) -> Option<Option<LeaderEpoch>> {
    epoch.map_or(Some(None), |epoch| LeaderEpoch::new(epoch).map(Some))
}

fn refusal(reason: Refusal) -> wire::Refused {
    let (reason, log_start) = match reason {
        Refusal::FencedEpoch => (refused::Reason::FencedEpoch, Offset::ZERO),
        Refusal::UnknownEpoch => (refused::Reason::UnknownEpoch, Offset::ZERO),
        Refusal::NotReplica => (refused::Reason::NotReplica, Offset::ZERO),
        Refusal::StaleBrokerEpoch => (refused::Reason::StaleBrokerEpoch, Offset::ZERO),
        Refusal::UnknownSession => (refused::Reason::UnknownSession, Offset::ZERO),
        Refusal::OutOfRange { log_start } => (refused::Reason::OutOfRange, log_start),
        Refusal::Inconsistent => (refused::Reason::Inconsistent, Offset::ZERO),
    };
    wire::Refused { reason: reason.into(), log_start: log_start.get() }
}

fn read_refusal(refused: wire::Refused) -> Option<Refusal> {
    Some(match refused.reason() {
        // Of a newer broker: whatever it is, it is no grant.
        refused::Reason::Unspecified | refused::Reason::UnknownEpoch => Refusal::UnknownEpoch,
        refused::Reason::FencedEpoch => Refusal::FencedEpoch,
        refused::Reason::NotReplica => Refusal::NotReplica,
        refused::Reason::StaleBrokerEpoch => Refusal::StaleBrokerEpoch,
        refused::Reason::UnknownSession => Refusal::UnknownSession,
        refused::Reason::OutOfRange => {
            Refusal::OutOfRange { log_start: Offset::new(refused.log_start)? }
        }
        refused::Reason::Inconsistent => Refusal::Inconsistent,
    })
}

fn topic_id(about: TopicPartition) -> Bytes {
    Bytes::copy_from_slice(about.topic.as_bytes())
}

fn read_about(topic_id: &[u8], partition: u32) -> Option<TopicPartition> {
    let topic = TopicId::from_bytes(topic_id).ok()?;
    Some(TopicPartition::new(topic, PartitionIndex::new(partition)?))
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    const FOLLOWER: Follower = Follower { id: BrokerId(3), epoch: BrokerEpoch::ZERO };

    fn about() -> TopicPartition {
        let topic = TopicId::from_bytes(&[9; 16]).unwrap();
        TopicPartition::new(topic, PartitionIndex::new(4).unwrap())
    }

    fn session(number: u64) -> Session {
        Session { broker_epoch: FOLLOWER.epoch, number }
    }

    fn has(last_epoch: Option<i32>) -> Position {
        Position {
            follower: FOLLOWER.id,
            leader_epoch: LeaderEpoch::new(7).unwrap(),
            session: session(5),
            log_end: Offset::new(100).unwrap(),
            last_epoch: last_epoch.map(|epoch| LeaderEpoch::new(epoch).unwrap()),
            flushed_end: Offset::new(90).unwrap(),
            log_start: Offset::new(10).unwrap(),
        }
    }

    fn all_from_leader() -> Vec<ToFollower> {
        let leader_epoch = LeaderEpoch::new(7).unwrap();
        let (high_watermark, log_start) = (Offset::new(80).unwrap(), Offset::new(2).unwrap());
        let progress = Progress { session: session(5), leader_epoch, high_watermark, log_start };
        let batches = vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")];
        let mut all: Vec<_> = [None, Some(LeaderEpoch::ZERO)]
            .map(|previous_epoch| {
                ToFollower::Push(Push { progress, previous_epoch, batches: batches.clone() })
            })
            .into();
        all.push(ToFollower::Progress(progress));
        for last_epoch in [None, Some(0), Some(6)] {
            let (epoch, end) = (last_epoch.and_then(LeaderEpoch::new), Offset::new(50).unwrap());
            all.push(ToFollower::Diverging(Diverging { asked: has(last_epoch), epoch, end }));
        }
        let refusals = [
            Refusal::FencedEpoch,
            Refusal::UnknownEpoch,
            Refusal::NotReplica,
            Refusal::StaleBrokerEpoch,
            Refusal::UnknownSession,
            Refusal::OutOfRange { log_start },
            Refusal::Inconsistent,
        ];
        all.extend(refusals.map(|reason| {
            ToFollower::Refused(Refused { session: session(5), leader_epoch, reason })
        }));
        all.push(ToFollower::Ended(session(5)));
        all
    }

    #[test]
    fn what_is_said_is_what_is_heard() {
        for last_epoch in [None, Some(0), Some(6)] {
            for said in [
                ToLeader::Subscribe(Subscribe(has(last_epoch))),
                ToLeader::Ack(Ack(has(last_epoch))),
                ToLeader::Unsubscribe(session(5)),
            ] {
                let bytes = to_leader(about(), &said).encode_to_vec();
                let frame = wire::FollowerFrame::decode(&*bytes).unwrap();
                assert_eq!(read_to_leader(frame, FOLLOWER), Some((about(), said)));
            }
        }
        for said in all_from_leader() {
            let bytes = to_follower(about(), said.clone()).encode_to_vec();
            let frame = wire::LeaderFrame::decode(&*bytes).unwrap();
            assert_eq!(read_to_follower(frame, FOLLOWER), Some((about(), said)));
        }
    }

    #[test]
    fn what_makes_no_sense_is_not_heard() {
        let said = to_leader(about(), &ToLeader::Ack(Ack(has(Some(6)))));
        let with = |change: &dyn Fn(&mut wire::FollowerFrame, &mut wire::Position)| {
            let mut position = position(&has(Some(6)));
            let mut frame = said.clone();
            change(&mut frame, &mut position);
            if frame.says.is_some() {
                frame.says = Some(follower_frame::Says::Ack(position));
            }
            read_to_leader(frame, FOLLOWER)
        };
        assert!(with(&|_, _| ()).is_some());
        assert_eq!(with(&|frame, _| frame.topic_id = Bytes::from_static(b"short")), None);
        assert_eq!(with(&|frame, _| frame.partition = u32::MAX), None);
        assert_eq!(with(&|frame, _| frame.says = None), None);
        assert_eq!(with(&|_, position| position.leader_epoch = -1), None);
        assert_eq!(with(&|_, position| position.last_epoch = Some(-1)), None);
        assert_eq!(with(&|_, position| position.log_end = -1), None);
        assert_eq!(with(&|_, position| position.flushed_end = i64::MIN), None);
        assert_eq!(with(&|_, position| position.log_start = -2), None);
        for said in all_from_leader() {
            let frame = to_follower(about(), said);
            let said = wire::LeaderFrame { says: None, ..frame.clone() };
            assert_eq!(read_to_follower(said, FOLLOWER), None);
            let said = wire::LeaderFrame { leader_epoch: -1, ..frame };
            assert_eq!(read_to_follower(said, FOLLOWER), None);
        }
    }
}
