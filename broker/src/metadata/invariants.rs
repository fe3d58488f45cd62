//! What holds for a partition's registration at every offset (replication.md, S8).

use std::collections::BTreeSet;

use super::{MetadataImage, Partition, topic::REPLICATION_FACTOR_MAX};

impl Partition {
    /// What is wrong with this registration; `None` is as it must be. Cheap: `apply` asks it of
    /// every registration it makes.
    pub(super) fn violation(&self, image: &MetadataImage) -> Option<String> {
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
        if let Some(unknown) = self.replicas.iter().find(|id| image.broker(**id).is_none()) {
            return Some(format!("{unknown:?} is not registered"));
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
        if isr.len() >= self.min_isr as usize && !elr.is_empty() {
            return Some(format!("ISR {:?} suffices, yet there is an ELR", self.isr));
        }
        None
    }
}
