//! The simulated world: time, machines, network; and the loop that drives them.
//!
//! Everything that happens is an event at a time, taken in order; whatever is left to chance comes
//! from one seed. A node is driven exactly as the broker drives it: an input, then its outputs.

use std::collections::BTreeMap;

use raft::eraftpb::Message;

use super::{
    super::{
        mutation::{Mutation, Planted},
        node::Node,
        types::{Answer, NodeOptions, Stop, Ticket},
    },
    coverage::Coverage,
    ledger::{Ledger, Violation},
    machine::Machine,
};
use crate::{
    controller::frame::VoterId,
    io::{
        SyncPoint,
        sim::{PowerCut, rng::Rng},
    },
};

/// Milliseconds of a tick.
pub(super) const TICK: u64 = 50;

/// What a run is about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) seed: u64,
    /// Voters it grows to.
    pub(super) voters: usize,
    /// Milliseconds with faults.
    pub(super) trouble: u64,
    pub(super) planted: Plant,
}

/// A bug in the node, or in what is around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plant {
    Nothing,
    InNode(Mutation),
    /// A torn end is refused like damage.
    TornAsDamage,
    /// Damage is cut off like a torn end.
    DamageAsTorn,
    /// A wiped disk comes back under its old name.
    WipedAsOld,
}

#[derive(Debug)]
pub(super) enum Event {
    Tick {
        machine: usize,
        run: u64,
    },
    Deliver {
        machine: usize,
        message: Message,
    },
    Disk {
        machine: usize,
        run: u64,
    },
    Start {
        machine: usize,
    },
    /// A full disk has room again.
    Room {
        machine: usize,
    },
    Client,
    Operator,
    Chaos,
}

/// See the module.
pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) rng: Rng,
    pub(super) now: u64,
    events: BTreeMap<(u64, u64), Event>,
    scheduled: u64,
    pub(super) machines: Vec<Machine>,
    /// Which machine a voter lives, or lived, on.
    pub(super) addresses: BTreeMap<VoterId, usize>,
    /// Until when nothing gets from one machine to another.
    pub(super) cuts: BTreeMap<(usize, usize), u64>,
    pub(super) weather: Weather,
    pub(super) ledger: Ledger,
    pub(super) coverage: Coverage,
    /// Checksum over all that happened.
    pub(super) trace: crc32fast::Hasher,
    pub(super) tickets: u64,
    /// Who still waits, and on which run of which machine.
    pub(super) waiting: BTreeMap<Ticket, (usize, u64)>,
    snapshot_entries: u64,
    /// Voters there should be, at the moment.
    pub(super) target: usize,
    pub(super) last_change: u64,
    pub(super) calm: bool,
}

/// How the network is, in percent and milliseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weather {
    pub(super) lost: u64,
    pub(super) doubled: u64,
    pub(super) delay: usize,
}

pub(super) const FAIR: Weather = Weather { lost: 0, doubled: 0, delay: 20 };

impl World {
    pub(super) fn new(plan: Plan) -> Result<Self, Violation> {
        let mut rng = Rng::new(plan.seed);
        let snapshot_entries = 8 + rng.next() % 40;
        let mut world = Self {
            plan,
            rng,
            now: 0,
            events: BTreeMap::new(),
            scheduled: 0,
            machines: Vec::new(),
            addresses: BTreeMap::new(),
            cuts: BTreeMap::new(),
            weather: FAIR,
            ledger: Ledger::default(),
            coverage: Coverage::default(),
            trace: crc32fast::Hasher::new(),
            tickets: 0,
            waiting: BTreeMap::new(),
            snapshot_entries,
            target: plan.voters,
            last_change: 0,
            calm: false,
        };
        for node in 0..plan.voters {
            let machine = world.new_machine(node);
            world.machines.push(machine);
            world.start(node)?;
        }
        for event in [Event::Client, Event::Operator, Event::Chaos] {
            world.at(100, event);
        }
        Ok(world)
    }

    /// A machine with an empty disk, whose name nobody has heard of.
    pub(super) fn new_machine(&mut self, node: usize) -> Machine {
        let (mut directory, seed) = (self.rng.next().max(1), self.rng.next());
        if self.plan.planted == Plant::WipedAsOld {
            directory = 1000 + node as u64;
        }
        let first = self.machines.is_empty();
        let machine = Machine::new(u32::try_from(node).unwrap() + 1, directory, seed, first);
        self.addresses.insert(machine.voter.id, node);
        machine
    }

    pub(super) fn at(&mut self, after: u64, event: Event) {
        self.scheduled += 1;
        self.events.insert((self.now + after, self.scheduled), event);
    }

    /// Runs for so many milliseconds.
    pub(super) fn run(&mut self, millis: u64) -> Result<(), Violation> {
        let until = self.now + millis;
        while let Some(entry) = self.events.first_entry() {
            if entry.key().0 > until {
                break;
            }
            let ((now, _), event) = entry.remove_entry();
            self.now = now;
            self.happen(event)?;
        }
        self.now = until;
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        self.note(&event);
        match event {
            Event::Tick { machine, run } => {
                if self.machines[machine].run == run && self.machines[machine].running.is_some() {
                    self.at(TICK, Event::Tick { machine, run });
                    self.input(machine, Node::tick)?;
                }
            }
            Event::Deliver { machine, message } => {
                let now = self.machines[machine].voter.id;
                if now.0 != message.to && self.machines[machine].running.is_some() {
                    self.coverage.met("messages for another disk");
                }
                self.input(machine, |node| node.step(message))?;
            }
            Event::Disk { machine, run } => {
                if self.machines[machine].run == run {
                    self.write(machine)?;
                }
            }
            Event::Start { machine } => self.start(machine)?,
            Event::Room { machine } => self.machines[machine].disk.set_capacity(None),
            Event::Client => self.client()?,
            Event::Operator => self.operator()?,
            Event::Chaos => self.chaos()?,
        }
        Ok(())
    }

    fn note(&mut self, event: &Event) {
        let line = match event {
            Event::Deliver { machine, message } => format!(
                "{} to {machine} {:?} {} {} {} {}",
                self.now,
                message.get_msg_type(),
                message.term,
                message.index,
                message.commit,
                message.entries.len()
            ),
            other => format!("{} {other:?}", self.now),
        };
        self.trace.update(line.as_bytes());
    }

    // --- machines ---

    pub(super) fn start(&mut self, machine: usize) -> Result<(), Violation> {
        let options = NodeOptions {
            election_ticks: 10,
            heartbeat_ticks: 2,
            snapshot_entries: self.snapshot_entries,
            snapshot_bytes: 1024 * 1024,
            keep_entries: 4,
            seed: self.rng.next(),
            planted: self.planted(),
        };
        let there = &mut self.machines[machine];
        if there.running.is_some() || there.lost {
            return Ok(());
        }
        match there.start(options) {
            Ok(torn) => {
                if torn && self.plan.planted == Plant::TornAsDamage {
                    return Err("a torn end was taken for damage".into());
                }
                self.coverage.add("torn tails cut", u64::from(torn));
            }
            Err(error) => return Err(format!("machine {machine} does not start: {error}")),
        }
        let run = self.machines[machine].run;
        let first = 1 + self.rng.next() % TICK;
        self.at(first, Event::Tick { machine, run });
        self.outputs(machine)
    }

    fn planted(&self) -> Planted {
        let mutation = match self.plan.planted {
            Plant::InNode(mutation) => Some(mutation),
            _ => None,
        };
        Planted { mutation }
    }

    /// The process is gone; its disk is what `disk` makes of it.
    pub(super) fn stop(&mut self, machine: usize, cut: Option<PowerCut>) {
        let there = &mut self.machines[machine];
        if let Some(running) = there.running.take() {
            let stats = running.node.stats();
            for (what, n) in [
                ("elections won", stats.elections_won),
                ("suffixes truncated", stats.truncations),
                ("snapshots made", stats.snapshots_made),
                ("snapshots installed", stats.snapshots_installed),
                ("entries applied", stats.entries),
                ("proposals refused by a full disk", stats.disk_full),
            ] {
                self.coverage.add(what, n);
            }
        }
        there.disk = match cut {
            Some(cut) => there.disk.power_loss(cut),
            None => there.disk.kill(),
        };
        there.cut_write = None;
        self.waiting.retain(|_, (on, _)| *on != machine);
    }

    /// The disk does what the node asked of it.
    fn write(&mut self, machine: usize) -> Result<(), Violation> {
        let there = &mut self.machines[machine];
        let Some(running) = &mut there.running else { return Ok(()) };
        let Some(write) = running.writing.take() else { return Ok(()) };
        // A write of several sectors, if there is one soon: the others are not torn.
        let cut = write.len() > 2000 || self.rng.percent(20);
        if let Some(ops) = there.cut_write.take_if(|_| cut) {
            there.disk.off_after(ops);
            let _ = write.perform(&mut running.store);
            let cut = PowerCut::Random(self.rng.next());
            self.coverage.met("power losses in a write");
            self.stop(machine, Some(cut));
            let after = self.rng.next() % 3000;
            self.at(after, Event::Start { machine });
            return Ok(());
        }
        let written = write.perform(&mut running.store);
        self.input(machine, |node| node.written(written))
    }

    /// Gives a node something, and does what it wants done.
    pub(super) fn input(
        &mut self,
        machine: usize,
        give: impl FnOnce(&mut Node),
    ) -> Result<(), Violation> {
        let Some(running) = &mut self.machines[machine].running else { return Ok(()) };
        give(&mut running.node);
        self.outputs(machine)
    }

    fn outputs(&mut self, machine: usize) -> Result<(), Violation> {
        let there = &mut self.machines[machine];
        let Some(running) = &mut there.running else { return Ok(()) };
        let outputs = running.node.outputs();
        if !outputs.applied.is_empty() {
            let (_, log) = running.log();
            for applied in &outputs.applied {
                let offset = applied.image.offset().get();
                if let Some(entry) = log.iter().find(|entry| entry.index == offset) {
                    self.ledger.applied(entry)?;
                    if offset != running.applied + 1 {
                        return Err(format!("{offset} was applied after {}", running.applied));
                    }
                }
                running.applied = offset;
                self.ledger.image(&applied.image)?;
            }
        }
        let leads = running.node.is_leader();
        let membership = running.node.membership();
        let mut voters = membership.voters.iter().chain(&membership.outgoing);
        if leads && !voters.any(|voter| voter.id == there.voter.id) {
            return Err(format!("{:?} leads, and does not vote any more", there.voter.id));
        }
        if leads && !running.led {
            let term = running.node.leader().map_or(0, |leader| leader.term);
            let (first, log) = running.log();
            self.ledger.leads(there.voter.id, term, first, &log)?;
        }
        running.led = leads;
        let stopped = running.node.stopped().cloned();
        if let Some(write) = outputs.write {
            running.writing = Some(write);
            let slow = there.slow_until > self.now;
            let run = there.run;
            let takes = if slow { 300 + self.rng.next() % 1500 } else { 1 + self.rng.next() % 10 };
            self.at(takes, Event::Disk { machine, run });
        }
        for (ticket, answer) in outputs.answers {
            self.answered(ticket, answer)?;
        }
        for message in outputs.messages {
            self.ledger.sent(&message)?;
            self.send(machine, message);
        }
        match stopped {
            None => Ok(()),
            // As it should: the operator gives it another disk.
            Some(Stop::Storage(_)) if self.machines[machine].failing => {
                self.stop(machine, None);
                self.machines[machine].lost = true;
                self.last_change = self.now;
                Ok(())
            }
            Some(stop) => Err(format!("machine {machine} stopped: {stop}")),
        }
    }

    fn answered(&mut self, ticket: Ticket, answer: Answer) -> Result<(), Violation> {
        if self.waiting.remove(&ticket).is_none() {
            return Err(format!("{ticket:?} was answered twice"));
        }
        use crate::controller::{error::QuorumError, quorum::Judged};
        match answer {
            Answer::Proposed(result) => {
                let result =
                    result.and_then(Judged::accepted).map(|accepted| accepted.offset.get());
                self.coverage.met(match &result {
                    Ok(_) => "proposals acknowledged",
                    Err(QuorumError::Rejected(_)) => "proposals rejected",
                    Err(QuorumError::NotLeader { .. }) => "proposals refused: not leader",
                    Err(QuorumError::OutcomeUnknown(_)) => "proposals of unknown outcome",
                    Err(_) => "proposals refused otherwise",
                });
                self.ledger.answered(ticket, &result)
            }
            Answer::Read(Ok(offset)) => {
                self.coverage.met("reads answered");
                self.ledger.read(ticket, offset.get())
            }
            Answer::Read(Err(_)) => {
                self.coverage.met("reads refused");
                Ok(())
            }
            Answer::Changed(result) => self.changed(result),
        }
    }

    // --- network ---

    fn send(&mut self, from: usize, message: Message) {
        let Some(&to) = self.addresses.get(&VoterId(message.to)) else { return };
        if self.cuts.get(&(from, to)).is_some_and(|until| *until > self.now) {
            self.coverage.met("messages cut off");
            return;
        }
        if self.rng.percent(self.weather.lost) {
            self.coverage.met("messages lost");
            return;
        }
        let copies = if self.rng.percent(self.weather.doubled) {
            self.coverage.met("messages doubled");
            2
        } else {
            1
        };
        for _ in 0..copies {
            // Each takes a time of its own, so they overtake one another.
            let mut delay = 1 + self.rng.below(self.weather.delay) as u64;
            if !self.calm && self.rng.percent(2) {
                delay += self.rng.next() % 6000;
            }
            self.at(delay, Event::Deliver { machine: to, message: message.clone() });
        }
    }

    /// The machine whose node leads; of several, in the newest term.
    pub(super) fn leader(&self) -> Option<usize> {
        let terms = self.machines.iter().enumerate().filter_map(|(i, machine)| {
            let node = &machine.running.as_ref()?.node;
            node.is_leader().then(|| (node.leader().map(|leader| leader.term), i))
        });
        terms.max().map(|(_, i)| i)
    }

    pub(super) fn ticket(&mut self, machine: usize) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.waiting.insert(ticket, (machine, self.machines[machine].run));
        ticket
    }

    /// All sync points that a failed sync may strike.
    pub(super) const SYNCS: [SyncPoint; 2] = [SyncPoint::MetaWal, SyncPoint::MetaSnapshot];
}
