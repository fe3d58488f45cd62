//! A client that writes to one partition: the shipped accumulator, sender and retry policy, with
//! connections and leaders looked after here.

use std::{
    collections::{BTreeSet, HashSet, VecDeque},
    time::Duration,
};

use riverrun_broker::partition::{Acks, ProduceError};
use riverrun_client::{
    Record,
    simulation::{Options, PartitionProducer, Refusal},
};
use riverrun_proto::{
    epoch::LeaderEpoch,
    ids::{BrokerId, ProducerId},
    offset::Offset,
    reason::Reason,
};

use crate::{
    controller::{Controller, broker_number},
    coverage::Fact,
    message::{Body, Connection, End, Node},
    metadata_log::Ideal,
    plant::Plant,
    setup::REQUEST_TIMEOUT,
    stage::{Event, Stage},
};

/// A broker is asked who leads no more often than this.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// The client's, shorter than the default so that it is reached.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(8);

/// Where producer ids come from: the ideal controller's, at once; or, over the quorum, a broker's
/// answer.
#[derive(Debug)]
pub struct Identities<'a>(pub &'a mut Option<Controller<Ideal>>);

/// See the module.
#[derive(Debug)]
pub struct Producer {
    /// Which client.
    pub number: usize,
    /// What it writes to.
    pub partition: usize,
    /// When a batch counts as written.
    pub acks: Acks,
    /// Whether retries are to be recognised.
    pub idempotent: bool,
    /// What became of each record, by its number.
    pub outcomes: Vec<Outcome>,
    shipped: PartitionProducer,
    /// Records that were sent and not answered.
    unanswered: VecDeque<usize>,
    leader: Option<(BrokerId, LeaderEpoch)>,
    /// The connection, and to whom.
    link: Option<(Connection, BrokerId)>,
    on_the_wire: BTreeSet<u64>,
    last_heard: Duration,
    asked_at: Duration,
    asked_identity_at: Duration,
    /// One that was asked for and has come.
    identity: Option<ProducerId>,
    /// All that ever came. The network may bring an answer twice; a call has one.
    identities: BTreeSet<ProducerId>,
    next_write: Duration,
    woken_at: Option<Duration>,
    last_answer: Option<Offset>,
    identified: bool,
}

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Not known yet.
    Open,
    /// It is written, there.
    Written(Offset),
    /// It is not, and never will be.
    Refused,
    /// Nobody knows.
    Unknown,
}

impl Producer {
    /// A client.
    pub fn new(number: usize, partition: usize, stage: &mut Stage) -> Self {
        let (acks, idempotence) = stage.random.pick(&[
            (Acks::All, true),
            (Acks::All, true),
            (Acks::All, true),
            (Acks::All, false),
            (Acks::Leader, true),
            (Acks::Leader, false),
        ]);
        let options = Options {
            idempotence,
            batch_size: stage.random.pick(&[300, 2000, 8000]),
            linger: stage.random.millis(0, 10),
            delivery_timeout: DELIVERY_TIMEOUT,
            max_in_flight: stage.random.pick(&[1, 5, 32]),
            buffer_memory: 256 * 1024,
        };
        let start = stage.random.millis(0, 100);
        stage.schedule.after(start, Event::Client { client: number });
        stage.network.note_up(End { node: Node::Client(number), run: 0 });
        Self {
            number,
            partition,
            acks,
            idempotent: idempotence,
            outcomes: Vec::new(),
            shipped: PartitionProducer::new(u32::try_from(partition).expect("few"), options),
            unanswered: VecDeque::new(),
            leader: None,
            link: None,
            on_the_wire: BTreeSet::new(),
            last_heard: Duration::ZERO,
            asked_at: Duration::ZERO,
            asked_identity_at: Duration::ZERO,
            identity: None,
            identities: BTreeSet::new(),
            next_write: Duration::ZERO,
            woken_at: None,
            last_answer: None,
            identified: false,
        }
    }

    /// The value of a record: no other has it.
    pub fn value(&self, record: usize) -> String {
        format!("{}/{record}/", self.number)
    }

    /// Everything is answered.
    pub fn is_done(&self) -> bool {
        self.unanswered.is_empty() && self.shipped.is_empty()
    }

    /// Time has passed.
    pub fn wake(&mut self, mut ids: Identities<'_>, stage: &mut Stage) {
        let now = stage.now();
        if self.woken_at.is_some_and(|at| at != now) {
            return;
        }
        self.woken_at = None;
        let due = now >= self.next_write;
        if due {
            let every = stage.setup.record_every_us;
            let wait = stage.random.between(every / 2, every * 2);
            self.next_write = now + Duration::from_micros(wait);
        }
        if due && !stage.is_calm {
            let burst = if stage.random.permille(100) { stage.random.between(2, 12) } else { 1 };
            for _ in 0..burst {
                self.write(stage);
            }
        }
        self.shipped.expire(now);
        let waits = now.saturating_sub(self.last_heard) > REQUEST_TIMEOUT;
        if waits && !self.on_the_wire.is_empty() {
            self.lose(&mut ids, stage);
        }
        self.go_on(&mut ids, stage);
    }

    fn write(&mut self, stage: &mut Stage) {
        let record = self.outcomes.len();
        let padding = stage.random.below(stage.setup.value_bytes_max);
        let padding = usize::try_from(padding).expect("small");
        let value = format!("{}{:x<padding$}", self.value(record), "");
        let now = stage.now();
        let ms = i64::try_from(now.as_millis()).expect("runs are short");
        let record_to_send = Record::to("orders").value(value);
        if self.shipped.send(now, &record_to_send, 1_700_000_000_000 + ms) {
            self.outcomes.push(Outcome::Open);
            self.unanswered.push_back(record);
        }
    }

    /// Takes a message.
    pub fn hear(
        &mut self,
        on: Option<Connection>,
        body: Body,
        mut ids: Identities<'_>,
        stage: &mut Stage,
    ) {
        match body {
            Body::Leader { leader: Some(leader), epoch, .. } => self.learn(leader, epoch),
            Body::Produced { correlation_id, outcome }
                if on.is_some() && on == self.link.map(|(on, _)| on) =>
            {
                self.answered(correlation_id, outcome, stage);
            }
            Body::Identity { id } if self.identities.insert(id) => self.identity = Some(id),
            _ => {}
        }
        self.go_on(&mut ids, stage);
    }

    /// A connection is gone.
    pub fn lost(&mut self, connection: Connection, mut ids: Identities<'_>, stage: &mut Stage) {
        if self.link.is_some_and(|(on, _)| on == connection) {
            self.lose(&mut ids, stage);
            self.go_on(&mut ids, stage);
        }
    }

    fn answered(
        &mut self,
        correlation_id: u64,
        outcome: Result<(Offset, bool), ProduceError>,
        stage: &mut Stage,
    ) {
        if !self.on_the_wire.remove(&correlation_id) {
            return;
        }
        self.last_heard = stage.now();
        let outcome = match outcome {
            Ok((base, duplicate)) => {
                let before = self.last_answer.replace(base).unwrap_or(base);
                let mixed_up = stage.setup.plant == Some(Plant::AnswersMixedUp);
                Ok((Some(if mixed_up { before } else { base }.get()), duplicate))
            }
            Err(error) => {
                let refusal = refusal(&error);
                match refusal.leader {
                    Some((leader, epoch)) => {
                        self.learn(leader, LeaderEpoch::new(epoch).unwrap_or(LeaderEpoch::ZERO));
                    }
                    None if matches!(
                        error,
                        ProduceError::NotLeader { .. } | ProduceError::FencedLeaderEpoch { .. }
                    ) =>
                    {
                        self.leader = None;
                    }
                    None => {}
                }
                Err(refusal)
            }
        };
        let (now, jitter) = (stage.now(), stage.random.unit());
        self.shipped.answered(now, correlation_id, outcome, jitter);
    }

    fn learn(&mut self, leader: BrokerId, epoch: LeaderEpoch) {
        if self.leader.is_none_or(|(_, known)| known <= epoch) {
            self.leader = Some((leader, epoch));
        }
    }

    fn lose(&mut self, ids: &mut Identities<'_>, stage: &mut Stage) {
        if let Some((on, _)) = self.link.take() {
            stage.break_connection(on);
        }
        self.leader = None;
        let sent = std::mem::take(&mut self.on_the_wire);
        let plant = stage.setup.plant;
        let lies = plant == Some(Plant::NewIdentityOnLoss);
        let untaken: HashSet<u64> = if lies { sent.into_iter().collect() } else { HashSet::new() };
        self.shipped.lost(stage.now(), &untaken);
        if plant == Some(Plant::NewIdentityOnLoss)
            && self.identified
            && let Some(id) = self.new_identity(ids, stage)
        {
            self.shipped.identify(id, 0);
        }
    }

    /// Sends what can be sent, and hands out answers.
    fn go_on(&mut self, ids: &mut Identities<'_>, stage: &mut Stage) {
        if let Some(lost) = self.shipped.wants_identity()
            && let Some(id) = self.new_identity(ids, stage)
        {
            if lost.is_some() {
                stage.note(Fact::NewIdentity);
            }
            self.shipped.identify(id, 0);
            self.identified = true;
        }
        self.reach_leader(stage);
        while let Some((on, _)) = self.link
            && let Some(outgoing) = self.shipped.next(stage.now())
        {
            if self.on_the_wire.is_empty() {
                self.last_heard = stage.now();
            }
            self.on_the_wire.insert(outgoing.correlation_id);
            let produce = Body::Produce {
                partition: self.partition,
                correlation_id: outgoing.correlation_id,
                batch: outgoing.batch,
                acks: self.acks,
                leader_epoch: self.leader.map(|(_, epoch)| epoch),
            };
            stage.send_on(on, Node::Client(self.number), produce);
        }
        self.hand_out(stage);
        self.arrange(stage);
    }

    /// Connects to whoever leads; moves only while nothing is on the wire.
    fn reach_leader(&mut self, stage: &mut Stage) {
        let me = Node::Client(self.number);
        let Some((leader, _)) = self.leader else {
            if stage.now() >= self.asked_at + ASK_EVERY {
                self.asked_at = stage.now();
                let broker = stage.random.index(stage.setup.brokers);
                let ask = Body::Ask { partition: self.partition };
                stage.send(me, Node::Broker(broker), ask);
            }
            return;
        };
        if self.link.is_some_and(|(_, to)| to == leader) || self.shipped.on_the_wire() > 0 {
            return;
        }
        if let Some((old, _)) = self.link.take() {
            stage.break_connection(old);
        }
        let to = Node::Broker(broker_number(leader));
        let on = stage.connect(End { node: me, run: 0 }, to);
        self.link = Some((on, leader));
    }

    /// A producer id that nobody else has; asked for, and here later, where the controller may be
    /// anywhere.
    fn new_identity(&mut self, ids: &mut Identities<'_>, stage: &mut Stage) -> Option<ProducerId> {
        if let Some(controller) = ids.0 {
            return controller.producer_id(self.number, stage);
        }
        if self.identity.is_none() && stage.now() >= self.asked_identity_at + ASK_EVERY {
            self.asked_identity_at = stage.now();
            let broker = Node::Broker(stage.random.index(stage.setup.brokers));
            stage.send(Node::Client(self.number), broker, Body::Identify { client: self.number });
        }
        self.identity.take()
    }

    fn hand_out(&mut self, stage: &mut Stage) {
        while let Some(answer) = self.shipped.answer() {
            for place in 0..answer.records {
                let Some(record) = self.unanswered.pop_front() else {
                    return stage.fail("the producer answered a record that nobody sent");
                };
                self.outcomes[record] = match &answer.outcome {
                    Ok(base) => {
                        let offset = base.and_then(|base| Offset::new(base + i64::from(place)));
                        offset.map_or(Outcome::Unknown, Outcome::Written)
                    }
                    Err(failure) if failure.definite => Outcome::Refused,
                    Err(_) => Outcome::Unknown,
                };
                if self.outcomes[record] == Outcome::Unknown {
                    stage.note(Fact::Uncertain);
                }
            }
        }
    }

    /// One wake is arranged at a time; of those that came to be too many, all but one are ignored.
    fn arrange(&mut self, stage: &mut Stage) {
        // What was due before and could not go waits for an answer or a connection, not for time.
        let due = self.shipped.wake_at().filter(|at| *at > stage.now());
        let next = due.map_or(self.next_write, |at| at.min(self.next_write));
        let next = next.max(stage.now() + Duration::from_micros(1));
        if self.woken_at.is_none_or(|at| next < at) {
            self.woken_at = Some(next);
            stage.schedule.at(next, Event::Client { client: self.number });
        }
    }
}

/// As `broker/src/service/status.rs` puts it on the wire.
fn refusal(error: &ProduceError) -> Refusal {
    const SOON: Duration = Duration::from_millis(100);
    let (reason, retriable, wait) = match error {
        ProduceError::NotLeader { .. } => (Reason::NotLeaderOrFollower, true, None),
        ProduceError::FencedLeaderEpoch { .. } => (Reason::FencedLeaderEpoch, true, None),
        ProduceError::UnknownLeaderEpoch { .. } => (Reason::UnknownLeaderEpoch, true, Some(SOON)),
        ProduceError::LeaseEnded => (Reason::LeaderNotAvailable, true, Some(SOON)),
        ProduceError::NotEnoughReplicas { .. } => (Reason::NotEnoughReplicas, true, Some(SOON)),
        ProduceError::NotEnoughReplicasAfterAppend { .. } => {
            (Reason::NotEnoughReplicasAfterAppend, true, Some(SOON))
        }
        ProduceError::OutOfOrderSequence { .. } => (Reason::OutOfOrderSequence, false, None),
        ProduceError::InvalidProducerEpoch { .. } => (Reason::InvalidProducerEpoch, false, None),
        ProduceError::TooManyProducers { .. } | ProduceError::Busy { .. } => {
            (Reason::ThrottlingQuotaExceeded, true, Some(SOON))
        }
        ProduceError::TimedOut { .. } => (Reason::RequestTimedOut, true, None),
        ProduceError::StorageFull => (Reason::StorageFull, true, Some(SOON)),
        ProduceError::StorageFailed { .. } => (Reason::KafkaStorageError, true, Some(SOON)),
        ProduceError::Closing { .. } => (Reason::BrokerShuttingDown, true, Some(SOON)),
        ProduceError::TooLarge { .. } => (Reason::MessageTooLarge, false, None),
        ProduceError::InvalidTimestamp { .. } => (Reason::InvalidTimestamp, false, None),
        ProduceError::Unstorable(_) => (Reason::InvalidRecord, false, None),
    };
    let leader = match error {
        ProduceError::NotLeader { leader: Some(leader), epoch, .. } => {
            Some((*leader, epoch.map_or(-1, LeaderEpoch::get)))
        }
        _ => None,
    };
    Refusal { reason, retriable, definite: error.is_definite(), retry_after: wait, leader }
}
