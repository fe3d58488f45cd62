//! Following a leader: connecting, appending what is pushed, cutting what must go.

use bytes::Bytes;
use riverrun_broker::{
    log::AppendError,
    replica::{
        Event, Rules,
        frame::{DataHead, LeaderFrame, Session, Subscribe},
    },
};
use riverrun_proto::{offset::Offset, record::RecordBatch};

use super::{Around, Shell};
use crate::{
    controller::broker_number,
    coverage::Fact,
    message::{Body, Node},
    mirror::Entry,
    plant::Plant,
};

/// A frame of data.
#[derive(Debug, Clone)]
pub(super) struct Arrived {
    head: DataHead,
    batches: Vec<Bytes>,
}

impl<R: Rules> Shell<R> {
    /// The leader says something.
    pub fn leader_says(
        &mut self,
        frame: LeaderFrame,
        batches: Vec<Bytes>,
        around: &mut Around<'_>,
    ) {
        match frame {
            LeaderFrame::Data(head) => {
                let arrived = Arrived { head, batches };
                // Behind those that wait already: what comes on a session stays in order.
                if self.frames.is_empty() {
                    self.give(arrived, around);
                } else {
                    self.frames.push_back(arrived);
                }
            }
            frame => self.step(Event::Leader(frame), around),
        }
        self.start_work(around);
    }

    /// The leader pushes no more.
    pub fn leader_ended(&mut self, session: Session, around: &mut Around<'_>) {
        // Of another session than this it is no news: what waits goes on waiting.
        if self.session() == Some(session) {
            self.forget_frames();
        }
        self.step(Event::LeaderLost { session }, around);
        self.start_work(around);
    }

    pub(super) fn session_lost(&mut self, around: &mut Around<'_>) {
        if let Some(session) = self.session() {
            self.forget_frames();
            self.step(Event::LeaderLost { session }, around);
        }
    }

    /// Asks on the connection to the leader, or on a new one.
    pub(super) fn subscribe(&mut self, subscribe: Subscribe, around: &mut Around<'_>) {
        self.forget_frames();
        let Some((leader, _)) = self.replica.position_for_leader() else { return };
        let known = around.uplinks.get(&leader).copied();
        let on = match known.filter(|known| around.stage.network.stands(*known)) {
            Some(known) => known,
            None => {
                let node = Node::Broker(broker_number(leader));
                let made = around.stage.connect(around.me, node);
                around.uplinks.insert(leader, made);
                made
            }
        };
        self.uplink = Some(on);
        around.send_on(on, Body::Subscribe { partition: self.partition, subscribe });
    }

    pub(super) fn unsubscribe(&mut self, session: Session, around: &mut Around<'_>) {
        self.forget_frames();
        if let Some(uplink) = self.uplink {
            let (partition, follower) = (self.partition, self.me(around));
            around.send_on(uplink, Body::Unsubscribed { partition, follower, session });
        }
    }

    pub(super) fn forget_frames(&mut self) {
        self.frames.clear();
        self.given = None;
        self.append_given = false;
    }

    /// Frames that waited for the log.
    pub(super) fn drain_frames(&mut self, around: &mut Around<'_>) {
        for _ in 0..self.frames.len() {
            let waiting = self.frames.len();
            let Some(arrived) = self.frames.pop_front() else { return };
            self.give(arrived, around);
            if self.frames.len() >= waiting {
                return;
            }
        }
    }

    fn give(&mut self, arrived: Arrived, around: &mut Around<'_>) {
        let head = arrived.head.clone();
        self.given = Some(arrived);
        self.step(Event::Leader(LeaderFrame::Data(head)), around);
        self.given = None;
    }

    /// Appends the batches of the frame just given, as they are. Where the log is not ready in the
    /// middle, what is in it is told, and the rest waits.
    pub(super) fn append_arrived(&mut self, around: &mut Around<'_>) {
        let Some(Arrived { head, batches }) = self.given.take() else { return };
        for (at, bytes) in batches.iter().enumerate() {
            let Ok(batch) = RecordBatch::parse_stored(bytes.clone()) else {
                return around.stage.fail("S14: the leader pushed a broken batch");
            };
            let stamped = batch.as_stamped();
            match self.log.append(&stamped, around.wall) {
                Ok(_) => self.mirror.extend(Entry::of(stamped.header())),
                Err(AppendError::NotReady) => {
                    around.stage.note(Fact::FrameParked);
                    let rest = batches[at..].to_vec();
                    return self.park_rest(&head, batch.base_offset(), rest, around);
                }
                Err(AppendError::StorageFull | AppendError::Failed(_)) => {
                    self.told_of_part(&head, batch.base_offset(), around);
                    // It cannot: the session is over, and asked for again when some time has passed.
                    if let Some(session) = self.session() {
                        self.unsubscribe(session, around);
                        self.step(Event::LeaderLost { session }, around);
                    }
                    return;
                }
                Err(error) => return around.stage.fail(format!("S3: not appended: {error}")),
            }
        }
        around.stage.is_dirty = true;
        self.step(Event::Replicated(head), around);
    }

    /// What lies below `at` is in the log; the rest waits until the log is ready.
    fn park_rest(
        &mut self,
        head: &DataHead,
        at: Offset,
        batches: Vec<Bytes>,
        around: &mut Around<'_>,
    ) {
        self.frames.push_front(Arrived { head: head.since(at), batches });
        self.told_of_part(head, at, around);
    }

    fn told_of_part(&mut self, head: &DataHead, at: Offset, around: &mut Around<'_>) {
        around.stage.is_dirty = true;
        if at > head.base {
            self.step(Event::Replicated(head.until(at)), around);
        }
    }

    /// Cuts the log to `to`, or empties it to begin there.
    pub(super) fn cut(&mut self, to: Offset, restarts: bool, around: &mut Around<'_>) {
        self.forget_frames();
        around.stage.note(if restarts { Fact::Restarted } else { Fact::Truncated });
        if restarts {
            self.mirror.clear();
            // What waits to be deleted is gone.
            self.next_start = to;
        } else {
            self.mirror.truncate(to);
        }
        let work = if restarts {
            self.log.start_reset(to)
        } else {
            self.log.start_truncate(self.planted_cut(to, around))
        };
        self.cut_again = None;
        self.run(work, Some((to, restarts)), around);
    }

    /// [`Plant::CutTooLittle`]: one batch less.
    fn planted_cut(&self, to: Offset, around: &Around<'_>) -> Offset {
        let log_end = self.log.log_end_offset();
        match around.stage.setup.plant {
            Some(Plant::CutTooLittle) if log_end > to => to.next(),
            _ => to,
        }
    }

    pub(super) fn session(&self) -> Option<Session> {
        let (_, says) = self.replica.position_for_leader()?;
        Some(match says {
            Ok(ack) => ack.0.session,
            Err(subscribe) => subscribe.0.session,
        })
    }
}
