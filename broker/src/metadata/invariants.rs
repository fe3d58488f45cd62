//! What holds for a partition's registration at every offset (replication.md, S8).

use std::collections::BTreeSet;

use super::{MetadataImage, Partition, Reassignment, partition::REPLICATION_FACTOR_MAX};

impl Partition {
    /// What is wrong with this registration; `None` is as it must be. Cheap: `apply` asks it of
    /// every registration it makes.
    pub(super) fn violation_in(&self, image: &MetadataImage) -> Option<String> {
        let unknown = self.replicas.iter().find(|id| image.broker(**id).is_none());
        unknown.map(|id| format!("{id:?} is not registered")).or_else(|| self.violation())
    }

    /// What is wrong with this registration by itself.
    pub fn violation(&self) -> Option<String> {
        let replicas: BTreeSet<_> = self.replicas.iter().collect();
        let isr: BTreeSet<_> = self.isr.iter().collect();
        let elr: BTreeSet<_> = self.elr.iter().collect();
        if replicas.is_empty() || replicas.len() > REPLICATION_FACTOR_MAX {
            return Some(format!("{} replicas", replicas.len()));
        }
        for (set, list) in [(&replicas, &self.replicas), (&isr, &self.isr), (&elr, &self.elr)] {
            if set.len() != list.len() {
                return Some(format!("{list:?} names a broker twice"));
            }
        }
        if !isr.is_subset(&replicas) || !elr.is_subset(&replicas) || !isr.is_disjoint(&elr) {
            return Some(format!(
                "ISR {:?} and ELR {:?} are not disjoint parts of {:?}",
                self.isr, self.elr, self.replicas
            ));
        }
        if self.leader.is_some_and(|leader| !isr.contains(&leader)) {
            return Some(format!("leader {:?} is not in the ISR {:?}", self.leader, self.isr));
        }
        if self.min_isr == 0 {
            return Some("min ISR is 0".into());
        }
        if self.isr_suffices() && !(elr.is_empty() && self.last_known_elr.is_empty()) {
            return Some(format!("ISR {:?} suffices, yet there is an ELR", self.isr));
        }
        if isr.is_empty() && elr.is_empty() && self.last_known_elr.is_empty() {
            return Some("nobody is known to have had what is committed".into());
        }
        if let Some(Reassignment { from, to }) = &self.reassignment {
            let both: BTreeSet<_> = from.iter().chain(to).collect();
            if both != replicas {
                return Some(format!("{from:?} and {to:?} are not the replicas {replicas:?}"));
            }
        }
        None
    }
}
