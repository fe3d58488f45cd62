//! Which replicas to move where: off brokers that are drained, over racks, evenly over brokers; and no
//! more of them than that takes. Pure: an image in, changes of replicas out. Who carries them out
//! asks again after each few, so that whatever happens meanwhile is taken into account.
//!
//! Four steps, each of which leaves what those before it achieved:
//!
//! 1. **Off.** A replica on a drained broker goes to another, in its place in the list.
//! 2. **Racks.** Where a partition has two replicas in one rack and none in another, one of them goes
//!    there. Only if every broker that takes replicas names its rack.
//! 3. **Even.** While one broker has two replicas more than another, one of them moves. What is moved
//!    is the least that makes it even: every move takes from a broker that has too many, or gives to
//!    one that has too few, and both where there are both.
//! 4. **Leaders.** Preferred leaders are spread by changing the order of replicas; no data moves.
//!
//! Brokers that are fenced keep what they have: they come back, or somebody drains them. Partitions
//! whose replicas are being changed count as they will be, and are left alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use riverrun_proto::{
    epoch::PartitionEpoch,
    ids::{BrokerId, TopicName, TopicPartition},
};

use crate::metadata::MetadataImage;

/// What the moves are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// All of it.
    Spread,
    /// Nothing stays on this broker; everything else stays where it is.
    Off(BrokerId),
}

/// A partition that is to have other replicas, or the same in another order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// The topic's name.
    pub topic: TopicName,
    /// Which partition.
    pub partition: TopicPartition,
    /// The version that was planned on.
    pub epoch: PartitionEpoch,
    /// What it has.
    pub from: Vec<BrokerId>,
    /// What it is to have.
    pub to: Vec<BrokerId>,
}

/// All that is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// By topic and partition.
    pub moves: Vec<Move>,
    /// Replicas that should go and cannot: there is no broker that could have them.
    pub stuck: usize,
}

impl Move {
    /// Replicas that have to be copied for it.
    pub fn copies(&self) -> usize {
        self.to.iter().filter(|id| !self.from.contains(id)).count()
    }
}

/// A partition in the making.
struct Placed<'a> {
    topic: &'a TopicName,
    id: TopicPartition,
    epoch: PartitionEpoch,
    from: &'a [BrokerId],
    to: Vec<BrokerId>,
    is_free: bool,
}

/// Where everything is, while it is planned.
struct Planner<'a> {
    placed: Vec<Placed<'a>>,
    /// Brokers that take more, and how many replicas they have.
    load: BTreeMap<BrokerId, usize>,
    /// Their racks; empty where one of them names none.
    racks: BTreeMap<BrokerId, &'a str>,
    /// Places in `placed`, by broker.
    on: BTreeMap<BrokerId, BTreeSet<usize>>,
    stuck: usize,
}

/// What is to be done to get there from `image`.
pub fn plan(image: &MetadataImage, goal: Goal) -> Plan {
    let mut planner = Planner::new(image, goal);
    let off: BTreeSet<_> = match goal {
        Goal::Off(broker) => BTreeSet::from([broker]),
        Goal::Spread => image.brokers().filter(|b| b.draining).map(|b| b.id).collect(),
    };
    planner.leave(&off);
    if goal == Goal::Spread {
        planner.spread_over_racks();
        planner.even_out();
        planner.spread_leaders();
    }
    planner.finish()
}

impl<'a> Planner<'a> {
    fn new(image: &'a MetadataImage, goal: Goal) -> Self {
        let takes = |id: BrokerId| goal != Goal::Off(id);
        let taking: Vec<_> =
            image.brokers().filter(|broker| broker.takes_more() && takes(broker.id)).collect();
        let mut planner = Self {
            placed: Vec::with_capacity(image.partition_count()),
            load: taking.iter().map(|broker| (broker.id, 0)).collect(),
            racks: BTreeMap::new(),
            on: BTreeMap::new(),
            stuck: 0,
        };
        if taking.iter().all(|broker| broker.rack.is_some()) {
            let racks = image.brokers().filter_map(|b| Some((b.id, b.rack.as_deref()?)));
            planner.racks = racks.collect();
        }
        for topic in image.topics().map(Arc::as_ref) {
            for (index, partition) in topic.partitions() {
                let from = partition.assigned();
                for broker in from {
                    planner.on.entry(*broker).or_default().insert(planner.placed.len());
                    if let Some(load) = planner.load.get_mut(broker) {
                        *load += 1;
                    }
                }
                planner.placed.push(Placed {
                    topic: &topic.name,
                    id: TopicPartition::new(topic.id, index),
                    epoch: partition.partition_epoch,
                    from,
                    to: from.to_vec(),
                    is_free: partition.reassignment.is_none(),
                });
            }
        }
        planner
    }

    /// Puts `to` in the place of `from`.
    fn relocate(&mut self, at: usize, from: BrokerId, to: BrokerId) {
        let place = self.placed[at].to.iter_mut().find(|id| **id == from);
        *place.expect("whoever calls found it there") = to;
        self.on.entry(from).or_default().remove(&at);
        self.on.entry(to).or_default().insert(at);
        if let Some(load) = self.load.get_mut(&from) {
            *load -= 1;
        }
        if let Some(load) = self.load.get_mut(&to) {
            *load += 1;
        }
    }

    /// Racks of a partition's replicas, but for that on `but`.
    fn racks_of(&self, at: usize, but: BrokerId) -> BTreeSet<&'a str> {
        let others = self.placed[at].to.iter().filter(|id| **id != but);
        others.filter_map(|id| self.racks.get(id).copied()).collect()
    }

    /// Whether the rack of `broker` is none of `taken`.
    fn is_new_rack(&self, broker: BrokerId, taken: &BTreeSet<&str>) -> bool {
        self.racks.get(&broker).is_some_and(|rack| !taken.contains(rack))
    }

    /// Who takes a partition over from `from`: somebody in a rack where it has no replica yet, if
    /// there is such; of those whoever has least.
    fn heir(&self, at: usize, from: BrokerId) -> Option<BrokerId> {
        let taken = self.racks_of(at, from);
        let may = |id: &&BrokerId| !self.placed[at].to.contains(id);
        let cost = |id: &&BrokerId| (!self.is_new_rack(**id, &taken), self.load[*id], **id);
        self.load.keys().filter(may).min_by_key(cost).copied()
    }

    fn leave(&mut self, off: &BTreeSet<BrokerId>) {
        for &broker in off {
            let there: Vec<_> = self.on.get(&broker).into_iter().flatten().copied().collect();
            for at in there {
                // What is under way is looked at again when it is done.
                if !self.placed[at].is_free {
                    continue;
                }
                match self.heir(at, broker) {
                    Some(heir) => self.relocate(at, broker, heir),
                    None => self.stuck += 1,
                }
            }
        }
    }

    fn spread_over_racks(&mut self) {
        for at in 0..self.placed.len() {
            if !self.placed[at].is_free {
                continue;
            }
            // Followers first: the preferred leader stays where it can.
            for broker in self.placed[at].to.clone().into_iter().rev() {
                let taken = self.racks_of(at, broker);
                // A fenced broker's replica stays: it is not known to be lost.
                let is_double = self.load.contains_key(&broker)
                    && self.racks.get(&broker).is_some_and(|rack| taken.contains(rack));
                if is_double
                    && let Some(heir) = self.heir(at, broker)
                    && self.is_new_rack(heir, &taken)
                {
                    self.relocate(at, broker, heir);
                }
            }
        }
    }

    fn even_out(&mut self) {
        while let Some((at, from, to)) = self.next_to_even_out() {
            self.relocate(at, from, to);
        }
    }

    /// A replica on a broker that has two more than another, and that other; the widest gap first.
    fn next_to_even_out(&self) -> Option<(usize, BrokerId, BrokerId)> {
        let mut by_load: Vec<_> = self.load.iter().map(|(id, load)| (*load, *id)).collect();
        by_load.sort_unstable();
        for &(most, from) in by_load.iter().rev() {
            for &(least, to) in &by_load {
                if most < least + 2 {
                    break;
                }
                if let Some(at) = self.movable(from, to) {
                    return Some((at, from, to));
                }
            }
        }
        None
    }

    /// A partition that may move from one to the other without losing a rack; one that moves anyway
    /// before one that would not, a follower before a preferred leader.
    fn movable(&self, from: BrokerId, to: BrokerId) -> Option<usize> {
        let may = |at: &usize| {
            let placed = &self.placed[*at];
            placed.is_free && !placed.to.contains(&to) && {
                let taken = self.racks_of(*at, from);
                self.is_new_rack(to, &taken) || !self.is_new_rack(from, &taken)
            }
        };
        let cost = |at: &usize| {
            let placed = &self.placed[*at];
            // On its way to `from` already: it goes straight on, at no cost.
            (placed.from.contains(&from), placed.to == placed.from, placed.to[0] == from)
        };
        self.on.get(&from)?.iter().copied().filter(may).min_by_key(cost)
    }

    fn spread_leaders(&mut self) {
        let mut leads: BTreeMap<BrokerId, usize> = self.load.keys().map(|id| (*id, 0)).collect();
        for placed in &self.placed {
            if let Some(leads) = placed.to.first().and_then(|id| leads.get_mut(id)) {
                *leads += 1;
            }
        }
        // Each change narrows a gap by two, so there is an end to it.
        let mut has_changed = true;
        while has_changed {
            has_changed = false;
            for placed in self.placed.iter_mut().filter(|placed| placed.is_free) {
                let Some(first) = leads.get(&placed.to[0]).copied() else { continue };
                let others = placed.to.iter().enumerate().skip(1);
                let known = others.filter_map(|(at, id)| Some((*leads.get(id)?, at)));
                let Some((least, at)) = known.min() else { continue };
                if first >= least + 2 {
                    *leads.get_mut(&placed.to[0]).expect("it was just read") -= 1;
                    *leads.get_mut(&placed.to[at]).expect("it was just read") += 1;
                    placed.to.swap(0, at);
                    has_changed = true;
                }
            }
        }
    }

    fn finish(self) -> Plan {
        let changed = self.placed.into_iter().filter(|placed| placed.to != placed.from);
        let moves = changed.map(|placed| Move {
            topic: placed.topic.clone(),
            partition: placed.id,
            epoch: placed.epoch,
            from: placed.from.to_vec(),
            to: placed.to,
        });
        Plan { moves: moves.collect(), stuck: self.stuck }
    }
}

#[cfg(test)]
#[path = "moves_test.rs"]
mod tests;
