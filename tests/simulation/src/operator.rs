//! What operators ask for: another leader, other replicas, another configuration.

use std::collections::{BTreeMap, BTreeSet};

use riverrun_broker::{
    metadata::{
        Command,
        command::{AlterTopicConfigs, CancelReassignment, Choice, Reassign},
    },
    replica::{Durability, Rules},
};
use riverrun_proto::ids::BrokerId;

use crate::{
    controller::{broker_id, partition_id, topic},
    world::World,
};

/// The topic's key for [`Durability`].
pub const DURABILITY: &str = "durability";
/// One that means nothing: its value makes records of several sectors.
const REMARK: &str = "remark";
const REMARK_BYTES: (u64, u64) = (0, 12_000);

impl<R: Rules> World<R> {
    /// Another leader of a partition.
    pub fn hand_over(&mut self, broker: usize) {
        let partition = self.stage.random.index(self.stage.setup.partitions);
        let preferred = self.stage.random.permille(300);
        let choice = if preferred { Choice::Preferred } else { Choice::Member(broker_id(broker)) };
        let Self { stage, controller, .. } = self;
        if let Some(controller) = controller {
            controller.hand_over(partition, choice);
            controller.take_told(stage);
        } else {
            self.at_quorum_leader(|member, _| member.controller.hand_over(partition, choice));
        }
    }

    /// Other replicas, more or fewer, in another order; or, where that is under way, sometimes the old
    /// ones.
    pub fn reassign(&mut self) {
        let number = self.stage.random.index(self.stage.setup.partitions);
        let (partition, state) = (partition_id(number), self.stage.decided.partition(number));
        let expected = state.partition_epoch;
        if state.reassignment.is_some() && self.stage.random.permille(500) {
            let cancel = CancelReassignment { partition, expected };
            return self.order(&Command::CancelReassignment(cancel));
        }
        let mut brokers: Vec<BrokerId> = (0..self.stage.setup.brokers).map(broker_id).collect();
        let least = u64::from(self.stage.setup.min_isr);
        let count = self.stage.random.between(least, 3);
        let to = (0..count).map(|_| brokers.swap_remove(self.stage.random.index(brokers.len())));
        let to: Vec<_> = to.collect();
        self.order(&Command::Reassign(Reassign { partition, expected, to }));
    }

    /// More is promised for a while, or again what was promised at first: less never is, for what was
    /// acknowledged stands.
    pub fn configure(&mut self) {
        let (_, id) = topic();
        let image = self.stage.decided.image();
        let Some(known) = image.topic_by_id(id) else { return };
        let setup = &self.stage.setup;
        let durability = match setup.durability {
            Durability::Memory => self.stage.random.pick(&["memory", "memory", "disk"]),
            Durability::Disk => "disk",
        };
        let least = u64::from(setup.min_isr);
        let min_isr = u32::try_from(self.stage.random.between(least, 3)).expect("few");
        let bytes = usize::try_from(self.stage.random.between(REMARK_BYTES.0, REMARK_BYTES.1))
            .expect("few");
        let set = [(DURABILITY, durability.to_owned()), (REMARK, "x".repeat(bytes))];
        self.order(&Command::AlterTopicConfigs(AlterTopicConfigs {
            topic: id,
            expected: known.version,
            set: set
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value))
                .collect::<BTreeMap<_, _>>(),
            reset: BTreeSet::new(),
            min_isr,
        }));
        // It is being written everywhere by now, or soon.
        if self.controller.is_none() && self.stage.random.permille(500) {
            let unlucky = self.stage.random.index(self.brokers.len());
            let operations = self.stage.random.between(1, 2);
            self.brokers[unlucky].machine.cut_write = Some(operations);
        }
    }

    fn order(&mut self, command: &Command) {
        let Self { stage, controller, .. } = self;
        if let Some(controller) = controller {
            controller.order(command.clone());
            controller.take_told(stage);
        } else {
            self.at_quorum_leader(|member, _| member.controller.order(command.clone()));
        }
    }
}
