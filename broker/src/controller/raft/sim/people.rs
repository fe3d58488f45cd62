//! Who acts in the world: clients that propose and read, an operator who mends, and chaos.

use bytes::Bytes;
use riverrun_proto::ids::IncarnationId;

use super::{
    super::{
        membership::{ChangeError, Step},
        node::Node,
    },
    ledger::Violation,
    world::{Event, FAIR, Plant, Weather, World},
};
use crate::{
    controller::frame::{Membership, Voter, VoterId},
    io::{
        Disk,
        sim::{Fault, PowerCut},
    },
    metadata::{
        Command, record,
        test_support::{create, registration},
    },
};

/// After a change of voters, no disk is lost for so long: the quorum has settled by then.
const SETTLED_MILLIS: u64 = 4000;

impl World {
    // --- clients ---

    pub(super) fn client(&mut self) -> Result<(), Violation> {
        let after = 20 + self.rng.next() % 120;
        self.at(after, Event::Client);
        let chosen = match self.leader() {
            Some(leader) if self.rng.percent(75) => leader,
            _ => self.rng.below(self.machines.len()),
        };
        if self.machines[chosen].running.is_none() {
            return Ok(());
        }
        if self.rng.percent(30) {
            let ticket = self.ticket(chosen);
            self.ledger.asked(ticket);
            return self.input(chosen, |node| node.read(ticket));
        }
        self.propose(chosen).map(drop)
    }

    /// Proposes something that nobody else proposes.
    pub(super) fn propose(&mut self, machine: usize) -> Result<(), Violation> {
        let ticket = self.ticket(machine);
        let mut name = [1; 16];
        name[..8].copy_from_slice(&ticket.0.to_le_bytes());
        let mut registration = registration(1 + u32::try_from(ticket.0 % 3).unwrap(), 1);
        registration.incarnation = IncarnationId::from_bytes(&name).unwrap();
        let command = if self.rng.percent(20) {
            // Large, so that a frame has several pages; rejected, for there is no such broker.
            let Command::CreateTopic(mut topic) = create(1, &format!("t{}", ticket.0), &[&[99]])
            else {
                unreachable!()
            };
            topic.configs.insert("k".into(), "v".repeat(self.rng.below(40_000)));
            Command::CreateTopic(topic)
        } else {
            Command::RegisterBroker(registration)
        };
        let record: Bytes = record::encode(&command).unwrap();
        self.ledger.proposed(ticket, record.to_vec());
        self.input(machine, |node| node.propose(ticket, record))
    }

    // --- the operator ---

    pub(super) fn operator(&mut self) -> Result<(), Violation> {
        let after = 200 + self.rng.next() % 500;
        self.at(after, Event::Operator);
        // A lost disk is replaced by an empty one, on the same machine.
        for machine in 0..self.machines.len() {
            if self.machines[machine].lost {
                self.replace_disk(machine)?;
            }
        }
        let Some(leader) = self.leader() else { return Ok(()) };
        let Some(running) = &self.machines[leader].running else { return Ok(()) };
        let membership = running.node.membership().clone();
        if let Some(steps) = self.next_change(&membership) {
            let ticket = self.ticket(leader);
            self.last_change = self.now;
            for step in &steps {
                match step {
                    Step::Vote(_) if steps.len() == 2 => self.coverage.met("replacements tried"),
                    Step::Vote(_) => self.coverage.met("promotions tried"),
                    Step::Listen(_) | Step::Leave(_) => {}
                }
            }
            self.input(leader, |node| node.change(ticket, &steps))?;
        }
        Ok(())
    }

    pub(super) fn replace_disk(&mut self, machine: usize) -> Result<(), Violation> {
        self.stop(machine, None);
        self.machines[machine] = self.new_machine(machine);
        self.coverage.met("disks wiped");
        self.start(machine)
    }

    /// What is still to be changed; `None` when all is as it should be.
    pub(super) fn next_change(&self, now: &Membership) -> Option<Vec<Step>> {
        if !now.outgoing.is_empty() {
            return None;
        }
        let there: Vec<Voter> = self.machines.iter().map(|machine| machine.voter).collect();
        let is_there = |voter: &&Voter| there.iter().any(|known| known.id == voter.id);
        let gone = now.voters.iter().find(|voter| !is_there(voter));
        let idle = now.learners.iter().find(|voter| !is_there(voter));
        if let Some(idle) = idle {
            return Some(vec![Step::Leave(idle.id)]);
        }
        let listens = now.learners.first();
        let missing = there.iter().find(|voter| now.all().all(|known| known.id != voter.id));
        let fresh = gone.and_then(|gone| {
            there
                .iter()
                .find(|voter| voter.node == gone.node)
                .filter(|voter| now.all().all(|known| known.id != voter.id))
        });
        match (gone, listens) {
            (Some(gone), Some(new)) => Some(vec![Step::Vote(new.id), Step::Leave(gone.id)]),
            (Some(_), None) => Some(vec![Step::Listen(*fresh?)]),
            (None, Some(new)) if now.voters.len() < self.target => Some(vec![Step::Vote(new.id)]),
            (None, Some(new)) => Some(vec![Step::Leave(new.id)]),
            (None, None) if now.voters.len() < self.target => Some(vec![Step::Listen(*missing?)]),
            (None, None) if now.voters.len() > self.target => {
                let i = usize::try_from(self.now).unwrap_or(0) % now.voters.len();
                Some(vec![Step::Leave(now.voters[i].id)])
            }
            (None, None) => None,
        }
    }

    pub(super) fn changed(
        &mut self,
        result: Result<Membership, ChangeError>,
    ) -> Result<(), Violation> {
        match result {
            Err(ChangeError::NotCaughtUp { .. }) => {
                self.coverage.met("changes refused: not caught up");
            }
            Err(ChangeError::InProgress) => self.coverage.met("changes refused: in progress"),
            Err(ChangeError::Refused(why)) => return Err(format!("a change was refused: {why}")),
            Err(_) => self.coverage.met("changes not known"),
            Ok(after) if !after.outgoing.is_empty() => self.coverage.met("voters replaced"),
            Ok(after) if after.learners.is_empty() && after.voters.len() < self.plan.voters => {
                self.coverage.met("voters removed");
            }
            Ok(after) if after.learners.is_empty() => self.coverage.met("voters added"),
            Ok(_) => self.coverage.met("learners added"),
        }
        Ok(())
    }

    // --- chaos ---

    pub(super) fn chaos(&mut self) -> Result<(), Violation> {
        if self.calm {
            return Ok(());
        }
        let after = 300 + self.rng.next() % 2500;
        self.at(after, Event::Chaos);
        let count = self.machines.len();
        let any = self.rng.below(count);
        let leader = self.leader().unwrap_or(any);
        // The leader is where it hurts.
        let one = if self.rng.percent(40) { leader } else { any };
        let long = self.now + 500 + self.rng.next() % 5000;
        match self.rng.below(18) {
            0 => self.crash(one, None),
            1 | 2 => {
                let cut = self.cut();
                self.crash(one, Some(cut));
            }
            3 | 4 => self.machines[one].cut_write = Some([0, 1, 1, 1, 2, 3][self.rng.below(6)]),
            5 => {
                self.coverage.met("power losses of all");
                for machine in 0..count {
                    let cut = self.cut();
                    self.crash(machine, Some(cut));
                }
            }
            6 if count > 1 => {
                self.coverage.met("leaders isolated");
                for other in 0..count {
                    self.cuts.insert((leader, other), long);
                    self.cuts.insert((other, leader), long);
                }
            }
            7 | 8 if count > 1 => {
                self.coverage.met("one-way cuts");
                for other in 0..count {
                    if self.rng.percent(60) {
                        let way = if self.rng.percent(50) { (one, other) } else { (other, one) };
                        self.cuts.insert(way, long);
                    }
                }
            }
            9 => {
                self.coverage.met("slow disks");
                self.machines[one].slow_until = long;
            }
            10 => self.fill(one),
            11 if self.may_lose(one) => {
                self.coverage.met("failed syncs");
                let point = Self::SYNCS[self.rng.below(2)];
                self.machines[one].disk.fail_sync(point);
                self.machines[one].disk.fail_after(3, Fault::WriteError);
                self.last_change = self.now;
                self.machines[one].failing = true;
            }
            12 | 13 if self.may_lose(one) => self.damage(one)?,
            14 if self.may_lose(one) => self.replace_disk(one)?,
            15 => self.hand_over(leader)?,
            16 => {
                self.weather = Weather {
                    lost: self.rng.next() % 15,
                    doubled: self.rng.next() % 15,
                    delay: 2 + self.rng.below(200),
                };
            }
            17 if self.plan.voters > 2 => {
                let fewer = self.target == self.plan.voters;
                self.target = if fewer { self.plan.voters - 1 } else { self.plan.voters };
            }
            _ => self.weather = FAIR,
        }
        Ok(())
    }

    fn cut(&mut self) -> PowerCut {
        match self.rng.below(6) {
            0 => PowerCut::LoseUnsynced,
            1 => PowerCut::KeepUnsynced,
            _ => PowerCut::Random(self.rng.next()),
        }
    }

    fn crash(&mut self, machine: usize, cut: Option<PowerCut>) {
        if self.machines[machine].running.is_none() {
            return;
        }
        self.coverage.met(if cut.is_some() { "power losses" } else { "processes killed" });
        self.stop(machine, cut);
        let after = self.rng.next() % 4000;
        self.at(after, Event::Start { machine });
    }

    /// No room on the disk, for a while.
    fn fill(&mut self, machine: usize) {
        self.coverage.met("full disks");
        let disk = &self.machines[machine].disk;
        let Ok(space) = disk.space(std::path::Path::new("/")) else { return };
        disk.set_capacity(Some(space.total - space.free));
        self.at(15_000, Event::Room { machine });
    }

    /// A bit of a log flips while its machine is off: it must refuse to start.
    fn damage(&mut self, machine: usize) -> Result<(), Violation> {
        self.stop(machine, None);
        let choice = self.rng.next() % 1000;
        let damaged = self.machines[machine].damage(choice);
        if !damaged {
            return self.start(machine);
        }
        let refused = self.machines[machine].refuses_to_start();
        if self.plan.planted == Plant::DamageAsTorn || !refused {
            return Err(format!("machine {machine} started on a damaged log"));
        }
        self.coverage.met("damaged logs refused");
        self.machines[machine].lost = true;
        self.last_change = self.now;
        Ok(())
    }

    fn hand_over(&mut self, leader: usize) -> Result<(), Violation> {
        let Some(running) = &self.machines[leader].running else { return Ok(()) };
        let voters: Vec<VoterId> =
            running.node.membership().voters.iter().map(|voter| voter.id).collect();
        if voters.is_empty() {
            return Ok(());
        }
        let to = voters[self.rng.below(voters.len())];
        self.coverage.met("leads handed over");
        self.input(leader, |node: &mut Node| node.transfer(to))
    }

    /// Whether the quorum stands the loss of a disk: it is whole, and nothing changes in it.
    fn may_lose(&self, machine: usize) -> bool {
        let Some(leader) = self.leader() else { return false };
        let Some(running) = &self.machines[leader].running else { return false };
        let membership = running.node.membership();
        let newest = self.machines.iter().filter_map(|m| m.running.as_ref());
        self.now > self.last_change + SETTLED_MILLIS
            && newest.clone().all(|r| r.node.membership().at.index <= membership.at.index)
            && membership.voters.len() >= 3
            && membership.outgoing.is_empty()
            && membership.learners.is_empty()
            && self.next_change(membership).is_none()
            && self.machines.iter().all(|m| !m.lost && !m.failing && m.is_settled())
            && membership.voters.iter().any(|v| v.id == self.machines[machine].voter.id)
    }
}
