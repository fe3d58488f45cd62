//! What a process does for its node of the quorum, and because of it.

use std::sync::Arc;

use riverrun_broker::replica::Rules;

use crate::{
    broker::Process,
    coverage::Fact,
    machine::Machine,
    member::{self, Member},
    message::{Body, Node},
    metadata_log::Told,
    stage::{Event, Stage},
};

impl<R: Rules> Process<R> {
    /// Where the controller is, as far as known here.
    pub fn controller(&self) -> Option<Node> {
        match &self.member {
            None => Some(Node::Controller),
            Some(member) => member.leader().map(Node::Broker),
        }
    }

    /// Its node begins: what was on the disk is followed.
    pub fn begin_attending(&mut self, machine: &mut Machine, stage: &mut Stage) {
        let Some(member) = &self.member else { return };
        let image = member.looked_at().snapshot();
        self.follow(image, None, machine, stage);
        stage.schedule.after(member::TICK, Event::QuorumTick { at: self.end });
        self.attend(machine, stage);
    }

    /// A tick of the quorum's.
    pub fn quorum_tick(&mut self, machine: &mut Machine, stage: &mut Stage) {
        stage.schedule.after(member::TICK, Event::QuorumTick { at: self.end });
        self.in_quorum(machine, stage, |member, _| member.node().tick());
    }

    /// The disk is done with the node's write.
    pub fn quorum_written(&mut self, machine: &mut Machine, stage: &mut Stage) {
        self.in_quorum(machine, stage, |member, _| member.node().finish());
    }

    /// Something for the node, or for the controller that is with it.
    pub fn in_quorum(
        &mut self,
        machine: &mut Machine,
        stage: &mut Stage,
        give: impl FnOnce(&mut Member, &mut Stage),
    ) {
        if let Some(member) = &mut self.member {
            give(member, stage);
            self.attend(machine, stage);
        }
    }

    /// Asks all others to be taken into the quorum, as long as it does not vote; and has the
    /// controller, if it is here, look at things.
    pub fn look_at_quorum(&mut self, machine: &mut Machine, stage: &mut Stage) {
        let Some(member) = &self.member else { return };
        if !member.votes() {
            let voter = member.voter;
            for broker in (0..stage.setup.brokers).map(Node::Broker) {
                if broker != self.end.node {
                    stage.send(self.end.node, broker, Body::Enlist { voter });
                }
            }
        }
        self.in_quorum(machine, stage, Member::tick);
    }

    /// Does what the node wants done, and follows the metadata.
    fn attend(&mut self, machine: &mut Machine, stage: &mut Stage) {
        let Some(member) = &mut self.member else { return };
        let outputs = member.node().outputs();
        if outputs.wants_write {
            let (least, most) = self.works.takes_us;
            let takes = std::time::Duration::from_micros(stage.random.between(least, most));
            // What was done may be there though nobody was told.
            if stage.random.permille(300) {
                member.node().perform();
            }
            stage.schedule.after(takes, Event::QuorumWritten { at: self.end });
        }
        let told = member.take_outputs(outputs, stage);
        if let Some(stopped) = member.looked_at().stopped()
            && !self.has_failed()
        {
            let at = self.end;
            stage.fail(format!("S17: the node of {at:?} stopped: {stopped}"));
        }
        for told in told {
            let Some(member) = &mut self.member else { return };
            match told {
                Told::Applied(applied) => {
                    if let Some((client, id)) = member.controller.note(&applied, stage) {
                        stage.send(self.end.node, Node::Client(client), Body::Identity { id });
                    }
                    let [_, after] = &applied.images;
                    self.follow(Arc::clone(after), Some(applied.deltas), machine, stage);
                }
                Told::Failed { tag, is_definite } => {
                    if !is_definite {
                        stage.note(Fact::MetaUnknown);
                    }
                    member.controller.failed(tag);
                }
            }
        }
    }
}
