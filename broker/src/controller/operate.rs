//! What operators ask of the controller: elections, changes of replicas and their throttle, brokers on
//! their way out.

use std::num::NonZeroU64;

use riverrun_proto::{
    epoch::PartitionEpoch,
    ids::{BrokerId, TopicPartition},
};

use super::{
    Controller, ControllerError, Mode, QuorumError,
    brokers::{self, BrokerError},
    handle::unexpected,
    partitions,
    raft::Step,
};
use crate::metadata::{
    Command, FeatureLevel, Partition, Rejection, Reply,
    command::{Choice, SetFeatureLevel, SetMoveThrottle},
};

impl Controller {
    /// Lets another replica lead, and gives the partition as it is then.
    pub async fn elect(
        &self,
        id: TopicPartition,
        choice: Choice,
        expected: Option<PartitionEpoch>,
        mode: Mode,
    ) -> Result<Partition, ControllerError> {
        let decide = |image: &_| partitions::elect(image, id, choice, expected);
        self.carry_out(mode, decide).await?.into_partition()
    }

    /// Sets out for other replicas, and gives the partition as it is then.
    pub async fn reassign(
        &self,
        id: TopicPartition,
        to: &[BrokerId],
        expected: Option<PartitionEpoch>,
        mode: Mode,
    ) -> Result<Partition, ControllerError> {
        let decide = |image: &_| partitions::reassign(image, id, to, expected);
        self.carry_out(mode, decide).await?.into_partition()
    }

    /// Goes back to the replicas from before, and gives the partition as it is then.
    pub async fn cancel_reassignment(
        &self,
        id: TopicPartition,
        mode: Mode,
    ) -> Result<Partition, ControllerError> {
        let decide = |image: &_| partitions::cancel_reassignment(image, id);
        self.carry_out(mode, decide).await?.into_partition()
    }

    /// Drains a broker, or takes that back.
    pub async fn drain(&self, id: BrokerId, draining: bool) -> Result<(), ControllerError> {
        self.catch_up().await?;
        // Before the level is raised: what cannot be must not change even that.
        brokers::drain(&self.quorum().image(), id, draining)?;
        self.raise_to(FeatureLevel::V3).await?;
        self.carry_out(Mode::Apply, |image| brokers::drain(image, id, draining)).await?;
        Ok(())
    }

    /// Forgets a broker that is gone and has nothing; its node is sent the metadata log no longer.
    pub async fn remove_broker(&self, id: BrokerId) -> Result<(), ControllerError> {
        self.catch_up().await?;
        brokers::remove(&self.quorum().image(), id)?;
        let voters = self.quorum().voters();
        if voters.voting.iter().any(|voter| voter.node == id) {
            return Err(BrokerError::Votes(id).into());
        }
        self.raise_to(FeatureLevel::V3).await?;
        // Judged before anything is changed; the log has the last word.
        self.carry_out(Mode::ValidateOnly, |image| brokers::remove(image, id)).await?;
        let listening = voters.listening.iter().filter(|voter| voter.node == id);
        for step in listening.map(|voter| Step::Leave(voter.id)) {
            self.quorum().change_voters(vec![step]).await?;
        }
        self.carry_out(Mode::Apply, |image| brokers::remove(image, id)).await?;
        Ok(())
    }

    /// Limits what replicas that are being added may be sent by a broker, and may take on one; `None`
    /// lifts that. Gives what holds then.
    pub async fn throttle_moves(
        &self,
        bytes_per_second: Option<NonZeroU64>,
    ) -> Result<Option<NonZeroU64>, ControllerError> {
        self.catch_up().await?;
        if bytes_per_second.is_none() && self.quorum().image().move_throttle().is_none() {
            // Nothing that a level would have to be raised for.
            return Ok(None);
        }
        self.raise_to(FeatureLevel::V4).await?;
        let command = Command::SetMoveThrottle(SetMoveThrottle { bytes_per_second });
        match self.quorum().propose(command).await?.reply {
            Reply::MoveThrottle(bytes_per_second) => Ok(bytes_per_second),
            other => Err(unexpected(&other)),
        }
    }

    /// Raises the feature level where it is below `needed`; refused while a broker's binary does not
    /// know it. On demand and not before: as long as nobody uses what is new, brokers of an older
    /// version can come back.
    async fn raise_to(&self, needed: FeatureLevel) -> Result<(), ControllerError> {
        loop {
            let current = self.quorum().image().feature_level();
            if current >= needed {
                return Ok(());
            }
            let level = SetFeatureLevel { expected: current, level: needed };
            match self.quorum().propose(Command::SetFeatureLevel(level)).await {
                Ok(_) => tracing::info!(%current, level = %needed, "the feature level is raised"),
                // Somebody else just did.
                Err(QuorumError::Rejected(Rejection::FeatureLevelOrder { .. })) => {
                    self.catch_up().await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Reply {
    fn into_partition(self) -> Result<Partition, ControllerError> {
        match self {
            Self::Partition(partition) => Ok(partition),
            other => Err(unexpected(&other)),
        }
    }
}
