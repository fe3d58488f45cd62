//! The rules of brokers that are on their way out: drained first, then removed.

use std::sync::Arc;

use super::{
    Broker, Delta, MetadataImage, Presence, Rejection, Reply,
    command::{RemoveBroker, SetDraining},
};

impl MetadataImage {
    /// Says that a broker is to be given nothing new, or may be again. Who leads what stays as it is:
    /// whoever leads the quorum moves that on, one partition at a time.
    pub(super) fn set_draining(
        &mut self,
        command: &SetDraining,
        deltas: &mut Vec<Delta>,
    ) -> Result<Reply, Rejection> {
        let &SetDraining { broker: id, draining } = command;
        let known = self.broker(id).cloned().ok_or(Rejection::UnknownBroker(id))?;
        if known.draining != draining {
            let broker = Arc::new(Broker { draining, ..Broker::clone(&known) });
            self.put_broker(Arc::clone(&broker));
            deltas.push(Delta::BrokerRegistered(broker));
        }
        Ok(Reply::BrokerEpoch(known.epoch))
    }

    /// Forgets a broker that is gone and has nothing. It may come again, as one that was never there.
    pub(super) fn remove_broker(
        &mut self,
        command: &RemoveBroker,
        deltas: &mut Vec<Delta>,
    ) -> Result<Reply, Rejection> {
        let &RemoveBroker { broker: id, broker_epoch } = command;
        let known = self.broker_in_run(id, broker_epoch)?;
        if known.presence != Presence::Fenced {
            return Err(Rejection::BrokerIsThere(id));
        }
        let partitions = self.topics().flat_map(|topic| topic.partitions());
        let replicas = partitions.filter(|(_, p)| p.replicas.contains(&id)).count();
        if replicas > 0 {
            return Err(Rejection::BrokerHasReplicas { broker: id, replicas });
        }
        self.forget_broker(id);
        deltas.push(Delta::BrokerRemoved(id));
        Ok(Reply::BrokerRemoved)
    }
}

#[cfg(test)]
mod tests {
    use riverrun_proto::ids::BrokerId;

    use super::{
        super::{Command, FeatureLevel, snapshot, test_support::*},
        *,
    };

    const TWO: BrokerId = BrokerId(2);

    /// Brokers 1 and 2, which share a topic.
    fn cluster() -> MetadataImage {
        let mut image = after(&[level_1(), level_2(), level_3()]);
        for broker in [1, 2] {
            image = apply(&image, &join(broker, u8::try_from(broker).unwrap(), None)).image;
            let epoch = image.broker(BrokerId(broker)).unwrap().epoch.get();
            image = apply(&image, &stand(broker, epoch, Presence::Active)).image;
        }
        apply(&image, &create(1, "a", &[&[1, 2]])).image
    }

    fn is(image: &mut MetadataImage, command: &Command) -> Vec<Delta> {
        let applied = apply(image, command);
        assert!(applied.outcome.is_ok(), "{command:?}: {:?}", applied.outcome);
        *image = applied.image;
        applied.deltas
    }

    fn refusal(image: &MetadataImage, command: &Command) -> Rejection {
        apply(image, command).outcome.unwrap_err()
    }

    fn run(image: &MetadataImage) -> i64 {
        image.broker(TWO).unwrap().epoch.get()
    }

    #[test]
    fn a_drained_broker_stays_so_over_restarts_and_snapshots_until_told_otherwise() {
        let mut image = cluster();
        assert_eq!(is(&mut image, &drain(2, true)).len(), 1);
        assert_eq!(is(&mut image, &drain(2, true)), vec![], "once is enough");
        is(&mut image, &join(2, 9, None));
        assert!(image.broker(TWO).unwrap().draining);
        image = snapshot::decode(&snapshot::encode(&image)).unwrap();
        assert!(
            image.broker(TWO).unwrap().draining && !image.broker(BrokerId(1)).unwrap().draining
        );
        is(&mut image, &drain(2, false));
        assert!(!image.broker(TWO).unwrap().draining);
        assert_eq!(refusal(&image, &drain(7, true)), Rejection::UnknownBroker(BrokerId(7)));
    }

    #[test]
    fn only_who_is_gone_and_has_nothing_is_removed() {
        let mut image = cluster();
        let this_run = remove(2, run(&image));
        assert_eq!(refusal(&image, &this_run), Rejection::BrokerIsThere(TWO));
        let fenced = stand(2, run(&image), Presence::Fenced);
        is(&mut image, &fenced);
        let has_replicas = Rejection::BrokerHasReplicas { broker: TWO, replicas: 1 };
        assert_eq!(refusal(&image, &this_run), has_replicas);
        is(&mut image, &delete(1));
        let earlier = remove(2, run(&image) - 1);
        assert!(matches!(refusal(&image, &earlier), Rejection::StaleBrokerEpoch { .. }));
        assert_eq!(is(&mut image, &this_run), vec![Delta::BrokerRemoved(TWO)]);
        assert_eq!(image.broker(TWO), None);
        assert_eq!(refusal(&image, &this_run), Rejection::UnknownBroker(TWO));
        // It may come again, on another disk as well.
        is(&mut image, &join(2, 8, None));
        assert_eq!(image.broker(TWO).unwrap().presence, Presence::Fenced);
    }

    #[test]
    fn an_older_cluster_has_neither() {
        let image = after(&[level_1(), level_2(), register(1, 1)]);
        for command in [drain(1, true), remove(1, 3)] {
            let needed = FeatureLevel::V3;
            let current = FeatureLevel::V2;
            assert_eq!(
                refusal(&image, &command),
                Rejection::FeatureLevelTooLow { needed, current }
            );
        }
    }
}
