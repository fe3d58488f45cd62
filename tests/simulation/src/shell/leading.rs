//! Pushing to followers: a cursor per subscription, read from the log, never from a queue.

use riverrun_broker::{
    log::Read,
    replica::{
        Event, Rules,
        frame::{Ack, LeaderFrame, Session, Subscribe},
    },
};
use riverrun_proto::{ids::BrokerId, offset::Offset};

use super::{Around, Shell};
use crate::{
    controller::broker_number,
    coverage::Fact,
    message::{Body, Connection, Node},
    mirror::Entry,
};

/// How far a sender runs ahead of what was acknowledged, in records.
const CREDIT: u64 = 60;
/// Bytes of a frame, about.
const FRAME_BYTES: usize = 4096;

/// What is being pushed to a follower.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sender {
    session: Session,
    on: Connection,
    /// What comes next.
    cursor: Offset,
    /// What the follower said it has.
    acked: Offset,
}

impl<R: Rules> Shell<R> {
    /// A follower asks for records; its connection is where it asked.
    pub fn subscribed(&mut self, on: Connection, subscribe: Subscribe, around: &mut Around<'_>) {
        let Subscribe(position) = subscribe;
        // Where to answer, whatever the answer; if the session is granted it begins in `serve`.
        let asked = Sender {
            session: position.session,
            on,
            cursor: position.log_end,
            acked: position.log_end,
        };
        let before = self.senders.insert(position.follower, asked);
        self.step(Event::Subscribe(subscribe), around);
        let granted = self.replica.progress(position.follower).map(|progress| progress.session);
        if granted != Some(position.session) {
            // The one that is being served, if there is one, goes on.
            match before.filter(|before| granted == Some(before.session)) {
                Some(before) => self.senders.insert(position.follower, before),
                None => self.senders.remove(&position.follower),
            };
        }
        self.start_work(around);
    }

    /// A follower says what it has.
    pub fn acked(&mut self, on: Connection, ack: Ack, around: &mut Around<'_>) {
        let Ack(position) = ack;
        if let Some(sender) = self.senders.get_mut(&position.follower)
            && sender.session == position.session
        {
            sender.acked = sender.acked.max(position.log_end);
        }
        let stranger = !self.senders.contains_key(&position.follower);
        if stranger {
            // Only to say that the session is none.
            let (cursor, acked) = (position.log_end, position.log_end);
            let sender = Sender { session: position.session, on, cursor, acked };
            self.senders.insert(position.follower, sender);
        }
        self.step(Event::Ack(ack), around);
        if stranger {
            self.senders.remove(&position.follower);
        }
        self.push(position.follower, around);
        self.start_work(around);
    }

    /// A follower listens no more.
    pub fn unsubscribed(&mut self, follower: BrokerId, session: Session, around: &mut Around<'_>) {
        if self.senders.get(&follower).is_some_and(|sender| sender.session == session) {
            self.senders.remove(&follower);
        }
        self.step(Event::FollowerLost { follower, session }, around);
        self.start_work(around);
    }

    pub(super) fn sender_lost(&mut self, connection: Connection, around: &mut Around<'_>) {
        let lost: Vec<_> = self
            .senders
            .iter()
            .filter(|(_, sender)| sender.on == connection)
            .map(|(follower, sender)| (*follower, sender.session))
            .collect();
        for (follower, session) in lost {
            self.unsubscribed(follower, session, around);
        }
    }

    pub(super) fn serve(
        &mut self,
        follower: BrokerId,
        session: Session,
        from: Offset,
        around: &mut Around<'_>,
    ) {
        let Some(sender) = self.senders.get_mut(&follower) else { return };
        sender.session = session;
        sender.cursor = from;
        sender.acked = from;
        self.tell_progress(follower, around);
        self.push(follower, around);
    }

    pub(super) fn reply(
        &mut self,
        follower: BrokerId,
        frame: LeaderFrame,
        around: &mut Around<'_>,
    ) {
        let Some(sender) = self.senders.get(&follower) else { return };
        let batches = Vec::new();
        let body = Body::Frame { partition: self.partition, frame, batches };
        around.send_on(sender.on, body);
    }

    pub(super) fn end_session(
        &mut self,
        follower: BrokerId,
        session: Session,
        around: &mut Around<'_>,
    ) {
        if let Some(sender) = self.senders.get(&follower).copied()
            && sender.session == session
        {
            self.senders.remove(&follower);
            around.send_on(sender.on, Body::Ended { partition: self.partition, session });
        }
    }

    pub(super) fn share_progress(&mut self, around: &mut Around<'_>) {
        for follower in self.senders.keys().copied().collect::<Vec<_>>() {
            self.tell_progress(follower, around);
        }
    }

    pub(super) fn push_all(&mut self, around: &mut Around<'_>) {
        for follower in self.senders.keys().copied().collect::<Vec<_>>() {
            self.push(follower, around);
        }
    }

    fn tell_progress(&mut self, follower: BrokerId, around: &mut Around<'_>) {
        if let Some(progress) = self.replica.progress(follower) {
            self.reply(follower, LeaderFrame::Progress(progress), around);
        }
    }

    /// Reads on from the cursor, as far as credit goes. What cannot be read ends the session: the
    /// follower asks anew, and is told where the log begins.
    fn push(&mut self, follower: BrokerId, around: &mut Around<'_>) {
        while let Some(sender) = self.senders.get(&follower).copied() {
            let end = self.log.log_end_offset();
            let current = self.replica.progress(follower).map(|progress| progress.session);
            if sender.cursor >= end
                || sender.cursor.distance_from(sender.acked) >= CREDIT
                || current != Some(sender.session)
            {
                return;
            }
            // The first batch may begin below the log start: read there, it comes whole.
            let kept = sender.cursor.max(self.log.log_start_offset());
            let read = match self.log.reader().read(kept, end, FRAME_BYTES) {
                Ok(Read::Batches(batches)) => Ok(batches),
                Ok(Read::Cold(cold)) => cold.run(),
                Ok(Read::Empty) => return,
                Err(error) => Err(error),
            };
            let begins = read.as_ref().ok().and_then(|read| Entry::of_batch(read.batches.first()?));
            let begins = begins.map_or(sender.cursor, |first| first.base);
            if begins < sender.cursor {
                around.stage.note(Fact::InsideBatch);
                let session = sender.session;
                self.step(Event::InsideBatch { follower, session, begins }, around);
                self.senders.remove(&follower);
                return;
            }
            // Past it, the log start has moved on, and the protocol is told when that is durable.
            let head = read.ok().filter(|_| begins == sender.cursor).and_then(|read| {
                let head = self.replica.data_head(follower, sender.cursor, read.next_offset)?;
                Some((head, read))
            });
            let Some((head, read)) = head else {
                let session = sender.session;
                self.end_session(follower, session, around);
                return self.step(Event::FollowerLost { follower, session }, around);
            };
            if let Some(sender) = self.senders.get_mut(&follower) {
                sender.cursor = read.next_offset;
            }
            let (partition, frame) = (self.partition, LeaderFrame::Data(head));
            around.send_on(sender.on, Body::Frame { partition, frame, batches: read.batches });
        }
    }

    /// Who follows, for whoever looks.
    pub fn followers(&self) -> impl Iterator<Item = Node> + '_ {
        self.senders.keys().map(|id| Node::Broker(broker_number(*id)))
    }
}
