//! All that surrounds the parties: time, chance, network, and the books that are kept of them.

use std::time::Duration;

use crate::{
    coverage::{Coverage, Fact},
    decided::Decided,
    ledger::Ledger,
    message::{Body, Connection, End, Envelope, Node},
    network::Network,
    random::Random,
    schedule::Schedule,
    setup::{KEEPALIVE, Setup},
    trace::Trace,
};

/// What happens next somewhere.
#[derive(Debug, Clone)]
pub enum Event {
    /// A message arrives.
    Deliver(Envelope),
    /// A process learns that a connection is gone.
    Lost { at: End, connection: Connection },
    /// Slow work of a broker's process is over.
    Work { at: End, work: u64 },
    /// A broker's regular look at things.
    Tick { at: End },
    /// That of its node in the quorum.
    QuorumTick { at: End },
    /// A write of its node is over.
    QuorumWritten { at: End },
    /// The controller's.
    ControllerTick,
    /// A client's.
    Client { client: usize },
    /// Something goes wrong.
    Fault,
    /// Something that went wrong is over.
    Mend(Mend),
    /// A broker's process is started.
    Start { broker: usize },
    /// A broker that stops in order gives up waiting to be let go.
    StopNow { at: End },
}

/// What is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mend {
    /// Cuts.
    Network,
    /// A full or slow disk.
    Disk(usize),
}

/// See the module.
#[derive(Debug)]
pub struct Stage {
    /// What holds for the run.
    pub setup: Setup,
    /// Time.
    pub schedule: Schedule<Event>,
    /// Chance.
    pub random: Random,
    /// Links.
    pub network: Network,
    /// What has been promised, by partition.
    pub ledgers: Vec<Ledger>,
    /// What the metadata log has decided.
    pub decided: Decided,
    /// What has happened.
    pub coverage: Coverage,
    /// In which order.
    pub trace: Trace,
    /// Something changed that the laws speak of.
    pub is_dirty: bool,
    /// The first law that was broken.
    pub broken: Option<String>,
    /// The kind of fault has ceased for good.
    pub is_calm: bool,
}

impl Stage {
    /// An empty one.
    pub fn new(setup: Setup, tells: bool) -> Self {
        Self {
            schedule: Schedule::new(),
            random: Random::new(setup.seed),
            network: Network::default(),
            ledgers: (0..setup.partitions).map(|_| Ledger::default()).collect(),
            decided: Decided::default(),
            coverage: Coverage::default(),
            trace: Trace::new(tells),
            is_dirty: true,
            broken: None,
            is_calm: false,
            setup,
        }
    }

    /// The time.
    pub fn now(&self) -> Duration {
        self.schedule.now()
    }

    /// Writes down a step.
    pub fn say(&mut self, what: std::fmt::Arguments<'_>) {
        let now = self.now();
        self.trace.step(now, what);
    }

    /// It happened.
    pub fn note(&mut self, fact: Fact) {
        self.coverage.note(fact);
    }

    /// A law is broken.
    pub fn fail(&mut self, law: impl Into<String>) {
        let law = law.into();
        self.say(format_args!("BROKEN: {law}"));
        self.broken.get_or_insert(law);
    }

    /// Sends a message that nobody waits for: it may be lost, come late, or twice.
    pub fn send(&mut self, from: Node, to: Node, body: Body) {
        let Some(to) = self.network.running(to) else { return };
        if self.is_lost(from, to.node) {
            return self.note(Fact::MessageLost);
        }
        let delay = self.delay();
        let envelope = Envelope { from, to, on: None, body };
        if !self.is_calm && self.setup.disorder && self.random.permille(20) {
            self.note(Fact::MessageDoubled);
            let again = self.delay();
            self.schedule.after(again, Event::Deliver(envelope.clone()));
        }
        self.schedule.after(delay, Event::Deliver(envelope));
    }

    /// Makes a connection. Where nobody is there, that is found out a little later.
    pub fn connect(&mut self, from: End, to: Node) -> Connection {
        let connection = self.network.connect(from, to);
        if !self.network.stands(connection) {
            let delay = self.delay();
            self.schedule.after(delay, Event::Lost { at: from, connection });
        }
        connection
    }

    /// Sends a message on a connection: it arrives, in order, or the connection is lost. In runs
    /// with disorder it may overtake others, and come twice, between brokers: stricter than TCP, and
    /// what the protocol is meant to bear. A producer rests on the order of its stream.
    pub fn send_on(&mut self, connection: Connection, from: Node, body: Body) {
        let Some(link) = self.network.link(connection) else { return };
        let direction = usize::from(link.ends[0].node != from);
        let to = link.ends[1 - direction];
        if self.is_lost(from, to.node) {
            self.note(Fact::MessageLost);
            return self.break_connection(connection);
        }
        let brokers = |node| matches!(node, Node::Broker(_));
        let disorder = self.setup.disorder && !self.is_calm && brokers(from) && brokers(to.node);
        let mut at = self.now() + self.delay();
        let Some(link) = self.network.link(connection) else { return };
        let last_at = link.last_at[direction];
        link.last_at[direction] = last_at.max(at);
        if disorder && at < last_at {
            self.note(Fact::MessageOvertook);
        } else {
            at = at.max(last_at);
        }
        let envelope = Envelope { from, to, on: Some(connection), body };
        if disorder && self.random.permille(15) {
            self.note(Fact::MessageDoubled);
            let again = at + self.delay();
            self.schedule.at(again, Event::Deliver(envelope.clone()));
        }
        self.schedule.at(at, Event::Deliver(envelope));
    }

    /// Both ends learn, by and by, that a connection is gone.
    pub fn break_connection(&mut self, connection: Connection) {
        let Some(ends) = self.network.drop_connection(connection) else { return };
        self.note(Fact::ConnectionLost);
        for at in ends {
            let delay = KEEPALIVE.mul_f64(0.5 + self.random.unit() / 2.0);
            self.schedule.after(delay, Event::Lost { at, connection });
        }
    }

    /// A process is gone; those it was connected with learn it at once if its machine still
    /// answers.
    pub fn process_ended(&mut self, node: Node, machine_answers: bool) {
        for (connection, at) in self.network.note_down(node) {
            self.note(Fact::ConnectionLost);
            let silent = !machine_answers || self.network.is_cut(node, at.node);
            let delay = if silent { KEEPALIVE } else { self.delay() };
            self.schedule.after(delay, Event::Lost { at, connection });
        }
    }

    fn is_lost(&mut self, from: Node, to: Node) -> bool {
        let lost = if self.is_calm { 0 } else { self.setup.lost_permille };
        self.network.is_cut(from, to) || self.random.permille(lost)
    }

    fn delay(&mut self) -> Duration {
        let (least, usual) = self.setup.delay_us;
        let tail = if self.random.permille(10) { 40_000 } else { 0 };
        Duration::from_micros(self.random.between(least, usual) + self.random.below(tail + 1))
    }
}
