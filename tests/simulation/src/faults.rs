//! What goes wrong, and when. Some of it must not happen too often: an acknowledged record is
//! promised to survive so many losses and no more, so no more are made
//! ([`World::may_lose`]).

use std::time::Duration;

use riverrun_broker::{
    io::sim::{Fault, PowerCut},
    metadata::Partition,
    replica::{Durability, Rules},
};
use riverrun_proto::offset::Offset;

use crate::{
    controller::{broker_id, broker_number, partition_id},
    coverage::Fact,
    message::Node,
    stage::{Event, Mend},
    world::World,
};

/// Of a write with so many bytes a power loss may leave some sectors and not others.
const TORN_BYTES_MIN: u64 = 1500;

macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// A kind of fault.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Kind { $($(#[doc = $doc])+ $name,)+ }

        impl Kind {
            /// All of them; those of operators who change what the cluster is like, last.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];
        }
    };
}

kinds! {
    /// A process dies; the page cache lives on.
    Crash,
    /// A process dies in the middle of what its disk does.
    CrashInWork,
    /// A machine loses its power.
    PowerLoss,
    /// All machines do, at once.
    Blackout,
    /// A process stands still for a while.
    Pause,
    /// A wall clock jumps.
    ClockJump,
    /// A disk is full for a while.
    DiskFull,
    /// A disk is slow for a while.
    SlowDisk,
    /// A write or read fails, some time soon.
    IoError,
    /// A sync fails, some time soon: the directory is lost.
    SyncError,
    /// A broker stops in order.
    Stop,
    /// One direction between two nodes is cut for a while.
    CutOneWay,
    /// A node is cut off for a while.
    Isolate,
    /// An operator has another broker lead.
    HandOver,
    /// Another controller takes over and knows nobody.
    NewController,
    /// Records are deleted.
    Delete,
    /// An operator wants other replicas, or the old ones after all.
    Reassign,
    /// An operator changes the topic's configuration.
    Configure,
    /// Records are deleted up to the middle of a batch.
    Trim,
}

impl<R: Rules> World<R> {
    /// Something goes wrong, and the next thing is arranged.
    pub fn fault(&mut self) {
        if self.stage.is_calm {
            return;
        }
        let every = self.stage.setup.fault_every;
        let wait = every.mul_f64(0.2 + 1.6 * self.stage.random.unit());
        self.stage.schedule.after(wait, Event::Fault);
        let weights = self.stage.setup.weights.clone();
        let mut at = self.stage.random.below(weights.iter().sum());
        for (kind, weight) in Kind::ALL.iter().zip(weights) {
            if at < weight {
                let broker = self.whom_to_strike();
                self.stage.say(format_args!("fault {kind:?} at b{broker}"));
                return self.strike(*kind, broker);
            }
            at -= weight;
        }
    }

    fn strike(&mut self, kind: Kind, broker: usize) {
        let is_up = self.brokers[broker].process.is_some();
        match kind {
            Kind::Crash if is_up => self.crash(broker),
            Kind::CrashInWork if is_up => self.crash_in_work(broker),
            Kind::PowerLoss => self.power_loss_of(broker),
            Kind::Blackout => self.blackout(),
            Kind::Pause if is_up => self.pause(broker),
            Kind::ClockJump => self.jump_clock(broker),
            Kind::DiskFull => self.fill_disk(broker),
            Kind::SlowDisk => self.slow_disk(broker),
            Kind::IoError if is_up => self.fail_some_call(broker),
            Kind::SyncError if is_up && self.may_lose_disk(broker) => {
                self.stage.note(Fact::SyncFailed);
                self.brokers[broker].machine.is_doomed = true;
                self.note_lost(broker);
                let after = self.stage.random.below(20);
                self.brokers[broker].machine.disk.fail_after(after, Fault::SyncError);
            }
            Kind::Stop if is_up => self.ask_to_stop(broker),
            Kind::CutOneWay => self.cut_one_way(broker),
            Kind::Isolate => self.isolate(broker),
            Kind::HandOver => self.hand_over(broker),
            Kind::NewController => {
                let now = self.stage.now();
                match &mut self.controller {
                    Some(controller) => controller.forget_sessions(now),
                    None => self.hand_on_quorum(),
                }
            }
            Kind::Delete if self.stage.setup.deletes => self.delete_records(false),
            Kind::Trim => self.delete_records(true),
            Kind::Reassign => self.reassign(),
            Kind::Configure => self.configure(),
            _ => {}
        }
    }

    /// Whether the data of a broker may be lost now: at most `min.insync.replicas` − 1 brokers are
    /// without what was acknowledged, and one that lost it has it again once it is back in every
    /// ISR.
    pub fn may_lose(&self, broker: usize) -> bool {
        let image = self.stage.decided.image();
        let mut lost = 1;
        for other in self.brokers.iter().filter(|other| other.number != broker) {
            let Some(lost_at) = other.lost_at else { continue };
            let is_back = self.stage.decided.epoch_of(other.number) > Some(lost_at)
                && (0..self.stage.setup.partitions).all(|at| {
                    let id = broker_id(other.number);
                    let is_well = |p: &Partition| !p.replicas.contains(&id) || p.isr.contains(&id);
                    image.partition(partition_id(at)).is_some_and(is_well)
                });
            lost += u32::from(!is_back);
        }
        lost < self.stage.setup.min_isr
    }

    /// A read that fails may be tried again; a write that does costs the directory.
    fn fail_some_call(&mut self, broker: usize) {
        self.stage.note(Fact::IoError);
        let fault = if self.stage.random.permille(500) && self.may_lose_disk(broker) {
            self.brokers[broker].machine.is_doomed = true;
            self.note_lost(broker);
            Fault::WriteError
        } else {
            Fault::ReadError
        };
        let after = self.stage.random.below(20);
        self.brokers[broker].machine.disk.fail_after(after, fault);
    }

    fn note_lost(&mut self, broker: usize) {
        self.brokers[broker].lost_at = self.stage.decided.epoch_of(broker);
    }

    fn crash(&mut self, broker: usize) {
        self.stage.note(Fact::Crash);
        self.end_process(broker, true);
        self.brokers[broker].machine.kill();
        self.start_later(broker);
    }

    /// What is under way on the disk is done in part: what comes after so many operations never
    /// happened. Then the process is gone, or the power is.
    fn crash_in_work(&mut self, broker: usize) {
        let power_too = self.stage.random.permille(400) && self.may_lose_power(broker);
        self.stage.note(Fact::CrashInWork);
        let operations = self.stage.random.below(12);
        let target = &mut self.brokers[broker];
        target.machine.disk.off_after(operations);
        if let Some(process) = &mut target.process {
            if let Some(member) = &mut process.member {
                member.node().perform();
            }
            process.works.run_into_death();
        }
        self.end_process(broker, !power_too);
        if power_too {
            let cut = self.any_cut();
            self.cut_power(broker, cut);
        } else {
            self.brokers[broker].machine.kill();
        }
        self.start_later(broker);
    }

    /// With `durability=disk` nothing that was acknowledged is lost by it, however often.
    fn may_lose_power(&self, broker: usize) -> bool {
        self.stage.setup.durability == Durability::Disk || self.may_lose(broker)
    }

    fn power_loss_of(&mut self, broker: usize) {
        if self.may_lose_power(broker) {
            self.end_process(broker, false);
            let cut = self.any_cut();
            self.cut_power(broker, cut);
            self.start_later(broker);
        }
    }

    fn any_cut(&mut self) -> PowerCut {
        let extremes: Vec<_> = PowerCut::sample(0).collect();
        if self.stage.random.permille(300) {
            self.stage.random.pick(&extremes)
        } else {
            PowerCut::Random(self.stage.random.number())
        }
    }

    fn cut_power(&mut self, broker: usize, cut: PowerCut) {
        self.stage.note(Fact::PowerLoss);
        if self.stage.setup.durability == Durability::Memory {
            self.note_lost(broker);
        }
        self.brokers[broker].machine.power_loss(cut);
    }

    /// The power goes in the middle of a write of the metadata log, if it was to: of one with several
    /// sectors, for others are not torn.
    pub fn lose_power_in_write(&mut self, broker: usize) {
        let target = &mut self.brokers[broker];
        let member = target.process.as_ref().and_then(|process| process.member.as_ref());
        let unwritten = member.map_or(0, |member| member.looked_at().stats().unwritten_bytes);
        let Some(operations) = target.machine.cut_write.take_if(|_| unwritten > TORN_BYTES_MIN)
        else {
            return;
        };
        if self.stage.is_calm || !self.may_lose_power(broker) {
            return;
        }
        self.stage.note(Fact::MetaWriteCut);
        let target = &mut self.brokers[broker];
        target.machine.disk.off_after(operations);
        if let Some(member) = target.process.as_mut().and_then(|process| process.member.as_mut()) {
            member.node().perform();
        }
        self.end_process(broker, false);
        let cut = PowerCut::Random(self.stage.random.number());
        self.cut_power(broker, cut);
        self.start_later(broker);
    }

    /// Of what was not synced, often nothing is left anywhere.
    fn blackout(&mut self) {
        if self.stage.setup.durability != Durability::Disk {
            return;
        }
        self.stage.note(Fact::Blackout);
        let worst = self.stage.random.permille(600);
        for broker in 0..self.stage.setup.brokers {
            self.end_process(broker, false);
            let cut = if worst { PowerCut::LoseUnsynced } else { self.any_cut() };
            self.cut_power(broker, cut);
            self.start_later(broker);
        }
    }

    fn pause(&mut self, broker: usize) {
        self.stage.note(Fact::Pause);
        let until = self.stage.now() + self.stage.random.millis(20, 2_500);
        if let Some(process) = &mut self.brokers[broker].process {
            process.paused_until = process.paused_until.max(until);
        }
    }

    fn jump_clock(&mut self, broker: usize) {
        self.stage.note(Fact::ClockJump);
        let ms = i64::try_from(self.stage.random.between(0, 120_000)).expect("small");
        self.brokers[broker].machine.skew_ms = ms - 60_000;
    }

    fn fill_disk(&mut self, broker: usize) {
        self.stage.note(Fact::DiskFull);
        let room = self.stage.random.below(3) * 4096;
        self.brokers[broker].machine.leave_room(Some(room));
        self.mend_later(Mend::Disk(broker), 200, 2_000);
    }

    fn slow_disk(&mut self, broker: usize) {
        self.stage.note(Fact::SlowDisk);
        let least = self.stage.random.between(20_000, 200_000);
        self.brokers[broker].machine.work_us = (least, 3 * least);
        self.mend_later(Mend::Disk(broker), 200, 2_000);
    }

    fn ask_to_stop(&mut self, broker: usize) {
        if let Some(process) = &mut self.brokers[broker].process {
            process.leaves = true;
            let at = process.end;
            self.stage.schedule.after(Duration::from_millis(800), Event::StopNow { at });
        }
    }

    fn cut_one_way(&mut self, broker: usize) {
        self.stage.note(Fact::CutOneWay);
        let brokers = self.stage.setup.brokers;
        let other = self.stage.random.index(brokers + 1);
        let other = match other {
            controller if controller == brokers => self.controller_node(),
            other => Node::Broker(other),
        };
        if self.stage.random.permille(500) {
            self.stage.network.cut(Node::Broker(broker), other);
        } else {
            self.stage.network.cut(other, Node::Broker(broker));
        }
        self.mend_later(Mend::Network, 100, 2_000);
    }

    fn isolate(&mut self, broker: usize) {
        self.stage.note(Fact::Isolated);
        let me = Node::Broker(broker);
        let others = (0..self.stage.setup.brokers).map(Node::Broker).filter(|other| *other != me);
        // Clients may still reach it: they must not be told what is not so.
        for other in others.chain([Node::Controller]) {
            self.stage.network.cut(me, other);
            self.stage.network.cut(other, me);
        }
        self.mend_later(Mend::Network, 100, 2_500);
    }

    /// As DeleteRecords, and retention, do it: the leader, only below its high watermark, only when
    /// that is current; at the boundary of a batch or inside one.
    fn delete_records(&mut self, inside: bool) {
        let partition = self.stage.random.index(self.stage.setup.partitions);
        let Some(leader) = self.stage.decided.partition(partition).leader.map(broker_number) else {
            return;
        };
        let share = self.stage.random.index(100);
        let Self { stage, brokers, .. } = self;
        brokers[leader].with_process(stage, |process, machine, stage| {
            process.one(partition, machine, stage, |shell, around| {
                if !shell.replica.high_watermark_is_current() {
                    return;
                }
                let end = shell.replica.high_watermark();
                let entries = shell.mirror.between(shell.log.log_start_offset(), end);
                if let Some(entry) = entries.get(entries.len() * share / 100) {
                    around.stage.note(Fact::Deleted);
                    let records = i64::from(entry.last_offset_delta);
                    let middle = entry.base.get() + if inside { records.midpoint(1) } else { 0 };
                    let to = Offset::new(middle).unwrap_or(entry.base);
                    let to = to.max(shell.log.log_start_offset());
                    if to > entry.base {
                        around.stage.note(Fact::DeletedInside);
                    }
                    around.stage.ledgers[partition].delete(to);
                    shell.advance_log_start(to, around);
                }
            });
        });
    }

    fn mend_later(&mut self, mend: Mend, from_ms: u64, to_ms: u64) {
        let wait = self.stage.random.millis(from_ms, to_ms);
        self.stage.schedule.after(wait, Event::Mend(mend));
    }

    /// Something is over.
    pub fn mend(&mut self, mend: Mend) {
        match mend {
            Mend::Network => self.stage.network.mend(),
            Mend::Disk(broker) => {
                let machine = &mut self.brokers[broker].machine;
                machine.leave_room(None);
                machine.work_us = self.stage.setup.work_us;
            }
        }
    }
}
