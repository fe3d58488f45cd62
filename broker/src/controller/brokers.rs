//! Decisions about brokers on their way out: drained, then removed. Pure, as with topics.

use riverrun_proto::ids::BrokerId;
use thiserror::Error;

use crate::metadata::{
    Command, MetadataImage,
    command::{RemoveBroker, SetDraining},
};

/// Why it cannot be. Definite: nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BrokerError {
    /// No broker of that id.
    #[error("broker {0} is not registered; see riverrun cluster brokers")]
    Unknown(BrokerId),
    /// Nobody could take over.
    #[error(
        "no other broker is there that could take over from broker {0}: all others are fenced, \
         stopping or drained"
    )]
    NobodyElse(BrokerId),
    /// Its node votes.
    #[error(
        "node {0} votes on the metadata; take it out of the vote first: riverrun cluster \
         remove-voter {0}"
    )]
    Votes(BrokerId),
}

/// Drains a broker, or takes that back.
pub fn drain(image: &MetadataImage, id: BrokerId, draining: bool) -> Result<Command, BrokerError> {
    if image.broker(id).is_none() {
        return Err(BrokerError::Unknown(id));
    }
    if draining && !image.brokers().any(|other| other.id != id && other.takes_more()) {
        return Err(BrokerError::NobodyElse(id));
    }
    Ok(Command::SetDraining(SetDraining { broker: id, draining }))
}

/// Removes a broker; that it is gone and has nothing is judged when it is applied.
pub fn remove(image: &MetadataImage, id: BrokerId) -> Result<Command, BrokerError> {
    let broker = image.broker(id).ok_or(BrokerError::Unknown(id))?;
    Ok(Command::RemoveBroker(RemoveBroker { broker: id, broker_epoch: broker.epoch }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::{
        Presence,
        test_support::{after, apply, join, level_1, level_2, level_3, stand},
    };

    #[test]
    fn somebody_has_to_be_left_to_take_over() {
        let mut image = after(&[level_1(), level_2(), level_3()]);
        for broker in [1, 2] {
            image = apply(&image, &join(broker, 1, None)).image;
        }
        let (one, two) = (BrokerId(1), BrokerId(2));
        assert_eq!(drain(&image, BrokerId(7), true), Err(BrokerError::Unknown(BrokerId(7))));
        assert_eq!(drain(&image, one, true), Err(BrokerError::NobodyElse(one)), "2 is fenced");
        let epoch = image.broker(two).unwrap().epoch.get();
        image = apply(&image, &stand(2, epoch, Presence::Active)).image;
        let drains = drain(&image, one, true).unwrap();
        image = apply(&image, &drains).image;
        assert_eq!(drain(&image, two, true), Err(BrokerError::NobodyElse(two)), "1 is drained");
        drain(&image, one, false).unwrap();
    }
}
