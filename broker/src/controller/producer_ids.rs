//! Hands out producer ids, a record of the metadata log per thousand.

use std::sync::Arc;

use riverrun_proto::{
    epoch::BrokerEpoch,
    ids::{BrokerId, ProducerId},
};
use tokio::sync::Mutex;

use super::{error::QuorumError, quorum::MetaQuorum};
use crate::metadata::{Command, ProducerIdBlock, Reply, command::AllocateProducerIds};

/// Ids taken at once. Kafka's number: a broker that starts a thousand producers a second writes one
/// record a second, and a restart wastes a thousand of 2⁶³.
pub const BLOCK: u32 = 1000;

/// Ids that nobody has, or had. What is left of a block when the broker stops is never used.
#[derive(Debug)]
pub struct ProducerIds {
    quorum: Arc<dyn MetaQuorum>,
    broker: BrokerId,
    epoch: BrokerEpoch,
    /// Held while a block is fetched: whoever comes meanwhile waits for that one.
    block: Mutex<Option<ProducerIdBlock>>,
}

impl ProducerIds {
    /// For the broker that registered with `epoch`. Takes nothing until it is asked.
    pub fn new(quorum: Arc<dyn MetaQuorum>, broker: BrokerId, epoch: BrokerEpoch) -> Self {
        Self { quorum, broker, epoch, block: Mutex::new(None) }
    }

    /// An id that no other producer of the cluster ever gets.
    ///
    /// # Errors
    /// Those of [`MetaQuorum::propose`]. None of them gives an id away twice; asking again is safe.
    ///
    /// # Cancel safety
    /// Nothing is handed out twice; a block may go unused.
    pub async fn next(&self) -> Result<ProducerId, QuorumError> {
        let mut block = self.block.lock().await;
        let have = match block.take() {
            Some(have) => have,
            None => self.allocate().await?,
        };
        *block = have.rest();
        Ok(have.first)
    }

    async fn allocate(&self) -> Result<ProducerIdBlock, QuorumError> {
        let command = Command::AllocateProducerIds(AllocateProducerIds {
            broker: self.broker,
            broker_epoch: self.epoch,
            count: BLOCK,
        });
        match self.quorum.propose(command).await?.reply {
            Reply::ProducerIds(block) => Ok(block),
            other => Err(QuorumError::OutcomeUnknown(format!("it was answered with {other:?}"))),
        }
    }
}

#[cfg(test)]
#[path = "producer_ids_test.rs"]
mod tests;
