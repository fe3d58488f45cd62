//! Calls about partitions: who has them, who leads, what holds them back; elections and moves.

use std::{collections::BTreeMap, time::Duration};

use futures::{StreamExt as _, stream};
use riverrun_proto::ids::{BrokerId, TopicId};
use tokio::time::timeout;

use super::Admin;
use crate::{
    address::Address,
    connection::{PartitionQuestion, Reassigned},
    error::{Error, ErrorKind, Result},
    topic::TopicPartition,
};

/// Longest wait for what a broker says of its copy: whoever asks wants to know what is wrong, and a
/// broker that hangs is just that.
const COPY_TIMEOUT: Duration = Duration::from_secs(3);

/// Brokers that are asked at once where each has to be asked.
const ASKED_AT_ONCE: usize = 8;

/// A partition, as the cluster has it registered and as one broker sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionDescription {
    /// Name of the topic.
    pub topic: String,
    /// Its identity.
    pub topic_id: TopicId,
    /// Index of the partition, from 0.
    pub partition: u32,
    /// `None`: nobody leads.
    pub leader: Option<BrokerId>,
    /// Grows with each change of leader.
    pub leader_epoch: i32,
    /// Grows with each change of what is registered.
    pub partition_epoch: i32,
    /// The first is the preferred leader. While replicas are changed: those of both sides.
    pub replicas: Vec<BrokerId>,
    /// Those whose copy is complete.
    pub in_sync_replicas: Vec<BrokerId>,
    /// Out of the ISR, and known to have all that is committed.
    pub eligible_leaders: Vec<BrokerId>,
    /// Were in sync or eligible, and may have lost records since.
    pub last_known_eligible: Vec<BrokerId>,
    /// `min.insync.replicas`.
    pub min_in_sync_replicas: u32,
    /// A change of replicas that is under way: from, to.
    pub reassignment: Option<(Vec<BrokerId>, Vec<BrokerId>)>,
    /// The last leader epoch that began with a leader which may have lacked committed records.
    pub unclean_leader_epoch: Option<i32>,
    /// The broker that told this, and its copy, if it has one.
    pub told_by: (BrokerId, Option<ReplicaState>),
    /// What the leader knows of its term, where the leader told it.
    pub leading: Option<LeaderState>,
    /// How replicas come along that are being added, where the leader told it and there are any.
    pub moving: Option<MovingState>,
}

/// How replicas come along that are being added, as their leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MovingState {
    /// Those that are not in sync yet: the throttle of moves is about them alone.
    pub adding: Vec<BrokerId>,
    /// The throttle of moves ([`Admin::throttle_moves`]); `None`: there is none.
    pub throttle_bytes_per_second: Option<u64>,
    /// What has been written to the partition lately.
    pub growth_bytes_per_second: u64,
}

/// A copy, as its own broker sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReplicaState {
    /// The first offset that is there.
    pub log_start_offset: i64,
    /// The first offset that is not known to be committed.
    pub high_watermark: i64,
    /// The first offset that is not written.
    pub log_end_offset: i64,
    /// The first offset that is not known to be on disk.
    pub flushed_end_offset: i64,
    /// In which leader epoch the last record was written; `None`: there is none.
    pub last_leader_epoch: Option<i32>,
    /// Bytes in segment files.
    pub size_bytes: u64,
}

/// What a leader knows of its term.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaderState {
    /// What counts for the high watermark is what is on the disk, not what is in memory.
    pub waits_for_disk: bool,
    /// How long the oldest record that is not committed has been waiting, at least; `None`: all is
    /// committed.
    pub uncommitted_for: Option<Duration>,
    /// Producers wait for a member of the ISR that is too many bytes behind.
    pub holds_appends: bool,
    /// `replica.lag.bytes.max`.
    pub lag_bytes_max: u64,
    /// `replica.lag.time.max.ms`.
    pub lag_time_max: Duration,
    /// The ISR that the leader has asked for and was not answered yet; empty: none.
    pub proposed_isr: Vec<BrokerId>,
    /// All other replicas.
    pub followers: Vec<FollowerState>,
}

/// A follower, as its leader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FollowerState {
    /// Which broker.
    pub id: BrokerId,
    /// Whether the high watermark waits for it.
    pub counts: bool,
    /// Whether it is subscribed.
    pub connected: bool,
    /// `None`: not heard from in this leader epoch.
    pub log_end_offset: Option<i64>,
    /// Up to where that is on its disk.
    pub flushed_end_offset: Option<i64>,
    /// An upper bound.
    pub bytes_behind: u64,
    /// Since when it has not had everything; `None`: it has, or never had in this leader epoch.
    pub behind_for: Option<Duration>,
}

/// A partition, and what each broker that should have a copy says of it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PartitionReport {
    /// As the leader tells it, or, where that cannot be asked, any broker.
    pub partition: PartitionDescription,
    /// Per replica where its log stands, or why that is not known.
    pub copies: Vec<(BrokerId, Result<ReplicaState>)>,
}

/// Which partitions to list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum PartitionFilter {
    /// All.
    #[default]
    All,
    /// Without leader, below their minimum, or with replicas that are not in sync.
    NotWell,
    /// Whose replicas are being changed.
    Reassigning,
}

/// Who is to lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Election {
    /// The first of the replicas, which has to be in sync.
    Preferred,
    /// This member of the ISR.
    Member(BrokerId),
    /// This replica, although it may lack committed records. Only where nobody leads; what it lacks
    /// is lost.
    Unclean(BrokerId),
}

/// A page of partitions.
#[derive(Debug)]
#[non_exhaustive]
pub struct PartitionPage {
    /// Ordered by topic and index.
    pub partitions: Vec<PartitionDescription>,
    /// Asks for the next page; empty: this was the last.
    pub next_page_token: String,
}

impl PartitionDescription {
    /// Which partition.
    pub fn id(&self) -> TopicPartition {
        TopicPartition::new(self.topic.as_str(), self.partition)
    }
}

impl Admin {
    /// A page of at most `page_size` partitions (0: the broker's default), as any one broker has
    /// them. Cancel safe.
    ///
    /// # Errors
    /// [`UnknownTopic`](ErrorKind::UnknownTopic) if `topic` is named and there is none.
    pub async fn list_partitions_page(
        &self,
        topic: Option<&str>,
        filter: PartitionFilter,
        page_size: u32,
        page_token: impl Into<String>,
    ) -> Result<PartitionPage> {
        let question = PartitionQuestion {
            topic: topic.unwrap_or_default().to_owned(),
            partitions: Vec::new(),
            filter,
            page_size,
            page_token: page_token.into(),
        };
        let (connections, question) = (self.client.connections(), &question);
        let call = |at: Address| async move {
            connections.describe_partitions(&at, question.clone()).await
        };
        self.look(call).await
    }

    /// All partitions that pass, of one topic or of all. Cancel safe.
    ///
    /// # Errors
    /// As [`Admin::list_partitions_page`].
    pub async fn list_partitions(
        &self,
        topic: Option<&str>,
        filter: PartitionFilter,
    ) -> Result<Vec<PartitionDescription>> {
        let (mut all, mut token) = (Vec::new(), String::new());
        loop {
            let page = self.list_partitions_page(topic, filter, 0, token).await?;
            all.extend(page.partitions);
            if page.next_page_token.is_empty() {
                return Ok(all);
            }
            token = page.next_page_token;
        }
    }

    /// A partition as its leader tells it, and what each replica's broker says of its copy: for
    /// whoever has to choose among them, or wants to know what holds the high watermark back.
    /// Brokers that do not answer do not fail it. Cancel safe.
    ///
    /// # Errors
    /// [`UnknownTopic`](ErrorKind::UnknownTopic) if there is no such partition, or if no broker
    /// answers at all.
    pub async fn describe_partition(
        &self,
        partition: impl Into<TopicPartition>,
    ) -> Result<PartitionReport> {
        let of = partition.into();
        let question = PartitionQuestion {
            topic: of.topic.to_string(),
            partitions: vec![of.partition],
            filter: PartitionFilter::All,
            page_size: 1,
            page_token: String::new(),
        };
        let (connections, question) = (self.client.connections(), &question);
        let call = |at: Address| async move {
            connections.describe_partitions(&at, question.clone()).await
        };
        let first = |page: PartitionPage| {
            let missing = || Error::protocol("the broker left the partition out of its answer");
            page.partitions.into_iter().next().ok_or_else(missing)
        };
        let mut partition = first(self.look(call).await?)?;
        let brokers: BTreeMap<_, _> =
            self.cluster().await?.brokers.into_iter().map(|b| (b.id, b.address)).collect();
        let ask = |id: BrokerId| {
            let address = brokers.get(&id).cloned();
            async move {
                let address = address.ok_or_else(|| {
                    Error::new(ErrorKind::Connection, "nobody knows where it can be reached")
                })?;
                let limit = COPY_TIMEOUT.min(self.timeout);
                let told = timeout(limit, call(address)).await.map_err(|_| {
                    Error::new(ErrorKind::Timeout, format!("no answer within {limit:?}"))
                })?;
                let told = first(told?)?;
                // Another broker took its address over.
                if told.told_by.0 != id {
                    let message = format!("broker {} answers at its address", told.told_by.0);
                    return Err(Error::new(ErrorKind::Connection, message));
                }
                Ok::<_, Error>(told)
            }
        };
        let replicas = partition.replicas.clone();
        // Ids and not references to them: a future with these in it could not be spawned.
        let told: Vec<_> = stream::iter(replicas.clone().into_iter().map(ask))
            .buffered(ASKED_AT_ONCE)
            .collect()
            .await;
        let mut copies = Vec::with_capacity(replicas.len());
        for (id, told) in replicas.into_iter().zip(told) {
            let copy = match told {
                Ok(told) => {
                    let copy = told.told_by.1;
                    if told.leading.is_some() && told.partition_epoch >= partition.partition_epoch {
                        partition = told;
                    }
                    let none = || {
                        let message = "it has not opened its copy, or has none yet";
                        Error::new(ErrorKind::Storage, message)
                    };
                    copy.ok_or_else(none)
                }
                Err(error) => Err(error),
            };
            copies.push((id, copy));
        }
        Ok(PartitionReport { partition, copies })
    }

    /// Lets another replica lead; gives the partition as it is then. `seen`: the
    /// [`partition_epoch`](PartitionDescription::partition_epoch) on which the choice was made;
    /// refused if the partition has changed since.
    ///
    /// # Cancel safety
    /// Dropped, it may or may not be carried out.
    ///
    /// # Errors
    /// With reasons such as `ELIGIBLE_LEADERS_NOT_AVAILABLE` and `ELECTION_NOT_NEEDED` if that one
    /// may not lead now.
    pub async fn elect_leader(
        &self,
        partition: impl Into<TopicPartition>,
        election: Election,
        seen: Option<i32>,
    ) -> Result<PartitionDescription> {
        let (connections, of) = (self.client.connections(), &partition.into());
        let call =
            |at: Address| async move { connections.elect_leader(&at, of, election, seen).await };
        self.change(call).await
    }

    /// Sets out for other replicas, the preferred leader first; gives the partition as it is then.
    /// The data moves after that. `seen` as for [`Admin::elect_leader`].
    ///
    /// # Cancel safety
    /// Dropped, it may or may not be carried out.
    ///
    /// # Errors
    /// `INVALID_REPLICA_ASSIGNMENT` if those cannot be its replicas.
    pub async fn reassign_partition(
        &self,
        partition: impl Into<TopicPartition>,
        to: &[BrokerId],
        seen: Option<i32>,
    ) -> Result<PartitionDescription> {
        self.move_partition(partition.into(), Reassigned::To(to, seen), false).await
    }

    /// Whether [`reassign_partition`](Admin::reassign_partition) would be accepted; changes nothing.
    ///
    /// # Errors
    /// Those of [`reassign_partition`](Admin::reassign_partition).
    pub async fn check_reassign_partition(
        &self,
        partition: impl Into<TopicPartition>,
        to: &[BrokerId],
    ) -> Result<PartitionDescription> {
        self.move_partition(partition.into(), Reassigned::To(to, None), true).await
    }

    /// Goes back to the replicas from before; gives the partition as it is then.
    ///
    /// # Cancel safety
    /// Dropped, it may or may not be carried out.
    ///
    /// # Errors
    /// `NO_REASSIGNMENT_IN_PROGRESS` if there is nothing to cancel.
    pub async fn cancel_reassignment(
        &self,
        partition: impl Into<TopicPartition>,
    ) -> Result<PartitionDescription> {
        self.move_partition(partition.into(), Reassigned::Back, false).await
    }

    async fn move_partition(
        &self,
        of: TopicPartition,
        to: Reassigned<'_>,
        validate_only: bool,
    ) -> Result<PartitionDescription> {
        let (connections, of) = (self.client.connections(), &of);
        let call =
            |at: Address| async move { connections.reassign(&at, of, to, validate_only).await };
        self.change(call).await
    }
}
