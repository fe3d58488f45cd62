//! What the metadata log has decided, as whoever was first to apply it saw it. No party knows it
//! all; the laws are asked of it.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use riverrun_broker::metadata::{MetadataImage, MetadataOffset, Partition, snapshot};
use riverrun_proto::epoch::BrokerEpoch;

use crate::{
    controller::{broker_id, partition_id, topic},
    coverage::Fact,
    message::End,
    stage::Stage,
};

/// The book of the metadata log.
#[derive(Debug, Default)]
pub struct Decided {
    newest: Arc<MetadataImage>,
    /// The image at each offset, in its stored form.
    images: BTreeMap<MetadataOffset, Bytes>,
    /// Which process led the quorum in which term.
    leaders: BTreeMap<u64, End>,
}

impl Decided {
    /// The newest image that anybody has.
    pub fn image(&self) -> Arc<MetadataImage> {
        Arc::clone(&self.newest)
    }

    /// A partition as it is registered.
    pub fn partition(&self, partition: usize) -> Partition {
        self.newest.partition(partition_id(partition)).expect("it is never deleted").clone()
    }

    /// The epoch of a broker's registration.
    pub fn epoch_of(&self, broker: usize) -> Option<BrokerEpoch> {
        self.newest.broker(broker_id(broker)).map(|known| known.epoch)
    }

    /// S16: at one offset there is one image.
    fn note(&mut self, image: &MetadataImage) -> Result<(), String> {
        let (offset, stored) = (image.offset(), snapshot::encode(image));
        match self.images.insert(offset, stored.clone()) {
            Some(before) if before != stored => {
                Err(format!("S16: two brokers have two images at {offset}"))
            }
            _ => Ok(()),
        }
    }

    /// S17: a term is led by one run of one node.
    pub fn lead(&mut self, term: u64, who: End) -> Result<(), String> {
        match self.leaders.insert(term, who) {
            Some(known) if known != who => {
                Err(format!("S17: term {term} of the quorum is led by {known:?} and {who:?}"))
            }
            _ => Ok(()),
        }
    }
}

impl Stage {
    /// Somebody has applied the metadata log up to an image.
    pub fn note_decided(&mut self, after: &Arc<MetadataImage>) {
        if let Err(law) = self.decided.note(after) {
            self.fail(law);
        }
        if after.offset() <= self.decided.newest.offset() {
            return;
        }
        let before = std::mem::replace(&mut self.decided.newest, Arc::clone(after));
        self.is_dirty = true;
        if let Some(what) = after.violation() {
            self.fail(format!("S8: {what}"));
        }
        let version =
            |image: &MetadataImage| image.topic_by_id(topic().1).map(|topic| topic.version);
        if version(&before).is_some_and(|was| Some(was) != version(after)) {
            self.note(Fact::Configured);
        }
        for partition in 0..self.setup.partitions {
            let id = partition_id(partition);
            if let (Some(was), Some(is)) = (before.partition(id), after.partition(id))
                && was != is
            {
                self.count_changes(was, is);
                self.say(format_args!(
                    "p{partition} is now {} {} led by {:?} of {:?}, isr {:?} elr {:?}",
                    is.partition_epoch, is.leader_epoch, is.leader, is.replicas, is.isr, is.elr
                ));
            }
        }
    }

    fn count_changes(&mut self, was: &Partition, is: &Partition) {
        let grown = is.isr.iter().any(|id| !was.isr.contains(id));
        let shrunk = was.isr.iter().any(|id| !is.isr.contains(id));
        let begins = was.reassignment.is_none() && is.reassignment.is_some();
        let ended = was.reassignment.is_some() && is.reassignment.is_none();
        let arrived = was.reassignment.as_ref().is_some_and(|way| way.to == is.replicas);
        let from_elr = is.leader.is_some_and(|id| was.elr.contains(&id));
        for (fact, is_so) in [
            (Fact::Election, is.leader.is_some() && is.leader_epoch != was.leader_epoch),
            (Fact::ElectedFromElr, from_elr),
            (Fact::IsrGrew, grown),
            (Fact::IsrShrunk, shrunk),
            (Fact::ReassignmentBegun, begins),
            (Fact::ReassignmentCompleted, ended && arrived),
            (Fact::ReassignmentCancelled, ended && !arrived),
        ] {
            if is_so {
                self.note(fact);
            }
        }
    }
}
