//! One run: everybody, one after the other, as the schedule says, and the laws after each step.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use riverrun_broker::replica::Rules;

use crate::{
    broker::{Broker, NotStarted},
    consumer::Consumer,
    controller::Controller,
    coverage::{Coverage, Fact},
    member,
    message::{End, Envelope, Node},
    metadata_log::Ideal,
    producer::{Identities, Producer},
    setup::{Metadata, Setup},
    stage::{Event, Stage},
};

/// Everybody.
#[derive(Debug)]
pub struct World<R: Rules> {
    /// All that is around them.
    pub stage: Stage,
    /// The controller, if the metadata log is ideal; else it is with the leader of the quorum.
    pub controller: Option<Controller<Ideal>>,
    /// The brokers.
    pub brokers: Vec<Broker<R>>,
    /// Clients that write; their numbers count from 0.
    pub producers: Vec<Producer>,
    /// Clients that read; their numbers follow.
    pub consumers: Vec<Consumer>,
}

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// The first law that was broken.
    pub broken: Option<String>,
    /// The same for the same steps.
    pub hash: u64,
    /// How many steps.
    pub steps: u64,
    /// What happened.
    pub coverage: Coverage,
    /// The steps in words, if they were wanted.
    pub lines: Vec<String>,
}

/// Runs one seed by these rules.
pub fn run<R: Rules>(setup: Setup, rules: R, tells: bool) -> Outcome {
    let mut world = World::new(setup, rules, tells);
    let ran = catch_unwind(AssertUnwindSafe(|| world.run()));
    let broken = match ran {
        Ok(()) => world.stage.broken.take(),
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("a panic without words");
            Some(format!("a panic: {text}"))
        }
    };
    Outcome {
        broken,
        hash: world.stage.trace.hash(),
        steps: world.stage.trace.steps(),
        lines: world.stage.trace.take_lines(),
        coverage: world.stage.coverage,
    }
}

impl<R: Rules> World<R> {
    /// Before anything has happened.
    pub fn new(setup: Setup, rules: R, tells: bool) -> Self {
        let mut stage = Stage::new(setup, tells);
        let setup = stage.setup.clone();
        stage.say(format_args!("{setup:?}"));
        stage.network.note_up(End { node: Node::Controller, run: 0 });
        let brokers: Vec<_> =
            (0..setup.brokers).map(|number| Broker::new(number, rules, &setup)).collect();
        let controller = match setup.metadata {
            Metadata::Ideal => Some(Controller::ideal(&mut stage)),
            Metadata::Quorum => {
                let founder = &brokers[0].machine;
                let voter = founder.voter.expect("every machine of a quorum has one");
                member::make_topic(founder, voter, &setup);
                None
            }
        };
        let mut world =
            Self { stage, controller, brokers, producers: Vec::new(), consumers: Vec::new() };
        for broker in 0..setup.brokers {
            world.stage.schedule.after(Duration::ZERO, Event::Start { broker });
        }
        for partition in 0..setup.partitions {
            for _ in 0..setup.producers {
                let producer = Producer::new(world.producers.len(), partition, &mut world.stage);
                world.producers.push(producer);
            }
        }
        for partition in 0..setup.partitions {
            let number = world.producers.len() + partition;
            world.consumers.push(Consumer::new(number, partition, &mut world.stage));
        }
        world.stage.schedule.after(Duration::from_millis(500), Event::Fault);
        world
    }

    fn run(&mut self) {
        let chaos = self.stage.setup.chaos;
        if self.go_on_until(chaos) {
            self.settle();
        }
    }

    /// Whether no law was broken until then.
    pub fn go_on_until(&mut self, until: Duration) -> bool {
        while self.stage.broken.is_none() && self.stage.now() < until {
            let Some(event) = self.stage.schedule.go_on() else { break };
            self.take(event);
            if std::mem::take(&mut self.stage.is_dirty)
                && let Some(law) = self.violation()
            {
                self.stage.fail(law);
            }
        }
        self.stage.broken.is_none()
    }

    fn take(&mut self, event: Event) {
        let target = match &event {
            Event::Deliver(envelope) => Some(envelope.to),
            Event::Lost { at, .. }
            | Event::Work { at, .. }
            | Event::Tick { at }
            | Event::QuorumTick { at }
            | Event::QuorumWritten { at }
            | Event::StopNow { at } => Some(*at),
            _ => None,
        };
        if let Some(End { node: Node::Broker(broker), run }) = target {
            let Some(process) = &self.brokers[broker].process else { return };
            if process.end.run != run {
                return;
            }
            let paused_until = process.paused_until;
            if paused_until > self.stage.now() {
                return self.stage.schedule.at(paused_until, event);
            }
        }
        match &event {
            Event::Client { .. }
            | Event::ControllerTick
            | Event::Tick { .. }
            | Event::QuorumTick { .. } => {}
            event => self.stage.say(format_args!("{event:?}")),
        }
        match event {
            Event::Deliver(envelope) => self.deliver(envelope),
            Event::Lost { at, connection } => match at.node {
                Node::Broker(broker) => {
                    let Self { stage, brokers, .. } = self;
                    brokers[broker].with_process(stage, |p, machine, stage| {
                        p.lost(connection, machine, stage)
                    });
                }
                Node::Client(client) => {
                    let Self { stage, producers, controller, .. } = self;
                    if let Some(producer) = producers.get_mut(client) {
                        producer.lost(connection, Identities(controller), stage);
                    }
                }
                Node::Controller => {}
            },
            Event::Work { at, work } => {
                self.in_process(at, |p, machine, stage| p.work_done(work, machine, stage));
            }
            Event::Tick { at } => {
                self.in_process(at, |p, machine, stage| p.tick(machine, stage));
            }
            Event::QuorumTick { at } => {
                self.in_process(at, |p, machine, stage| p.quorum_tick(machine, stage));
            }
            Event::QuorumWritten { at } => {
                if let Node::Broker(broker) = at.node {
                    self.lose_power_in_write(broker);
                }
                self.in_process(at, |p, machine, stage| p.quorum_written(machine, stage));
            }
            Event::StopNow { at } => self.stop(at),
            Event::ControllerTick => {
                if let Some(controller) = &mut self.controller {
                    controller.tick(&mut self.stage);
                }
            }
            Event::Client { client } => self.wake_client(client),
            Event::Fault => self.fault(),
            Event::Mend(mend) => self.mend(mend),
            Event::Start { broker } => self.start(broker),
        }
        self.end_failed();
    }

    fn deliver(&mut self, envelope: Envelope) {
        let to = envelope.to;
        match to.node {
            Node::Controller => {
                if let Some(controller) = &mut self.controller {
                    controller.hear(envelope.from, envelope.body, &mut self.stage);
                }
            }
            Node::Broker(_) => {
                self.in_process(to, |p, machine, stage| p.hear(envelope, machine, stage));
            }
            Node::Client(client) => {
                let Self { stage, producers, consumers, controller, .. } = self;
                match producers.get_mut(client) {
                    Some(producer) => {
                        producer.hear(envelope.on, envelope.body, Identities(controller), stage);
                    }
                    None => consumers[client - producers.len()].hear(envelope.body, stage),
                }
            }
        }
    }

    fn in_process(
        &mut self,
        at: End,
        f: impl FnOnce(&mut crate::broker::Process<R>, &mut crate::machine::Machine, &mut Stage),
    ) {
        if let Node::Broker(broker) = at.node {
            self.brokers[broker].with_process(&mut self.stage, f);
        }
    }

    fn wake_client(&mut self, client: usize) {
        let Self { stage, producers, consumers, controller, .. } = self;
        match producers.get_mut(client) {
            Some(producer) => producer.wake(Identities(controller), stage),
            None => consumers[client - producers.len()].wake(stage),
        }
    }

    /// A process is started, unless one runs.
    pub fn start(&mut self, broker: usize) {
        if self.brokers[broker].process.is_some() {
            return;
        }
        match self.brokers[broker].start(&mut self.stage) {
            Ok(()) => {}
            Err(NotStarted::DiskFailed) => {
                self.replace_disk(broker);
                self.start_later(broker);
            }
            Err(NotStarted::TryAgain) => {
                // The process is gone again, and with it what it had open.
                self.brokers[broker].machine.kill();
                self.start_later(broker);
            }
        }
    }

    /// A process is to be started some time soon.
    pub fn start_later(&mut self, broker: usize) {
        let wait = if self.stage.is_calm { (50, 200) } else { (50, 1500) };
        let wait = self.stage.random.millis(wait.0, wait.1);
        self.stage.schedule.after(wait, Event::Start { broker });
    }

    /// A process is gone. What becomes of its machine is the caller's.
    pub fn end_process(&mut self, broker: usize, machine_answers: bool) {
        if let Some(process) = self.brokers[broker].process.take() {
            if process.member.is_some_and(|member| member.is_in_the_midst()) {
                self.stage.note(Fact::MetaLeaderLost);
            }
            self.stage.process_ended(Node::Broker(broker), machine_answers);
            self.stage.is_dirty = true;
        }
    }

    /// Brokers that cannot go on end: those whose directory has failed get another disk from somebody,
    /// those that another run has replaced are started again.
    fn end_failed(&mut self) {
        for broker in 0..self.brokers.len() {
            if self.brokers[broker].has_failed() {
                self.end_process(broker, true);
                self.replace_disk(broker);
                self.start_later(broker);
            } else if self.brokers[broker].is_replaced() {
                self.stage.say(format_args!("b{broker} was replaced by another run"));
                self.end_process(broker, true);
                self.brokers[broker].machine.kill();
                self.start_later(broker);
            }
        }
    }

    fn replace_disk(&mut self, broker: usize) {
        self.stage.note(Fact::DiskLost);
        self.stage.say(format_args!("b{broker} gets another disk"));
        self.brokers[broker].machine.replace_disk();
    }

    fn stop(&mut self, at: End) {
        let Node::Broker(broker) = at.node else { return };
        self.stage.note(Fact::CleanStop);
        self.brokers[broker].stop_in_order(&mut self.stage);
        self.stage.process_ended(at.node, true);
        self.stage.is_dirty = true;
        if self.brokers[broker].machine.disk.faults_left() == 0 {
            self.stage.say(format_args!("b{broker} has stopped"));
        }
        self.start_later(broker);
    }
}
