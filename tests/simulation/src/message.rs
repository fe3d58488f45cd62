//! What nodes say to each other, and on what.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use riverrun_broker::{
    controller::raft::{Voter, stepped},
    metadata::{MetadataImage, MetadataOffset},
    partition::{Acks, ProduceError},
    replica::{
        IsrProposal,
        frame::{Ack, LeaderFrame, Session, Subscribe},
    },
};
use riverrun_proto::{
    epoch::{BrokerEpoch, LeaderEpoch, PartitionEpoch},
    ids::{BrokerId, IncarnationId, ProducerId},
    offset::Offset,
};

/// A party.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Node {
    /// The controller, with the metadata log.
    Controller,
    /// A broker's machine.
    Broker(usize),
    /// A client.
    Client(usize),
}

/// A node in one run of its process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct End {
    /// Which.
    pub node: Node,
    /// Which run; 0 for those that never stop.
    pub run: u32,
}

/// A connection between two ends.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Connection(pub u64);

/// A message under way.
#[derive(Clone)]
pub struct Envelope {
    /// Who sent it.
    pub from: Node,
    /// To whom; a process that was started since does not get it.
    pub to: End,
    /// On which connection, if on one.
    pub on: Option<Connection>,
    /// What it says.
    pub body: Body,
}

/// How far a broker's copy of a partition goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The epoch of its last batch.
    pub last_epoch: Option<LeaderEpoch>,
    /// Its log end.
    pub log_end: Offset,
}

/// What is said.
#[derive(Clone)]
pub enum Body {
    // --- broker to controller ---
    /// A process runs.
    Join { incarnation: IncarnationId, whole_since: Option<BrokerEpoch> },
    /// It still does, has applied so much, and has copies that go so far.
    Heartbeat { epoch: BrokerEpoch, applied: MetadataOffset, copies: Vec<Extent>, leaves: bool },
    /// It wants to stop.
    Leave { epoch: BrokerEpoch },
    /// A leader wants another ISR.
    Propose { partition: usize, proposal: IsrProposal },

    // --- among nodes of the metadata quorum ---
    /// Raft's words.
    Quorum { message: Bytes },
    /// A node on a disk wants to vote.
    Enlist { voter: Voter },

    // --- controller to broker ---
    /// The run is registered.
    Joined { incarnation: IncarnationId, epoch: BrokerEpoch },
    /// The metadata as of some offset.
    Metadata(Arc<MetadataImage>),
    /// A proposal names a member that may not be one.
    Refused { partition: usize, leader_epoch: LeaderEpoch, partition_epoch: PartitionEpoch },

    // --- follower to leader ---
    /// See [`Subscribe`].
    Subscribe { partition: usize, subscribe: Subscribe },
    /// See [`Ack`].
    Ack { partition: usize, ack: Ack },
    /// The follower listens no more.
    Unsubscribed { partition: usize, follower: BrokerId, session: Session },

    // --- leader to follower ---
    /// A frame, with the batches if it is one of data.
    Frame { partition: usize, frame: LeaderFrame, batches: Vec<Bytes> },
    /// The leader pushes no more.
    Ended { partition: usize, session: Session },

    // --- client to broker ---
    /// A batch to be stored.
    Produce {
        partition: usize,
        correlation_id: u64,
        batch: Bytes,
        acks: Acks,
        leader_epoch: Option<LeaderEpoch>,
    },
    /// Who leads?
    Ask { partition: usize },
    /// Batches to be read.
    Fetch { partition: usize, from: Offset },

    /// A producer id is wanted, where the controller is a broker's.
    Identify { client: usize },

    // --- broker to client ---
    /// A producer id.
    Identity { id: ProducerId },
    /// What became of a batch.
    Produced { correlation_id: u64, outcome: Result<(Offset, bool), ProduceError> },
    /// Who leads, as far as known here.
    Leader { partition: usize, leader: Option<BrokerId>, epoch: LeaderEpoch },
    /// What was read, from where; or what is there to be read.
    Fetched { partition: usize, from: Offset, read: Result<Vec<Bytes>, Readable> },
}

/// Why nothing was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readable {
    /// Only this is there.
    OutOfRange { start: Offset, end: Offset },
    /// Nothing here, or not now.
    NotHere,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Controller => f.write_str("controller"),
            Self::Broker(n) => write!(f, "b{n}"),
            Self::Client(n) => write!(f, "c{n}"),
        }
    }
}

impl fmt::Debug for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.node)?;
        if self.run > 0 { write!(f, "#{}", self.run) } else { Ok(()) }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "~{}", self.0)
    }
}

impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}→{:?} {:?}", self.from, self.to, self.body)
    }
}

/// Batches and images by their size only.
impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Join { whole_since, .. } => write!(f, "join, whole since {whole_since:?}"),
            Self::Heartbeat { epoch, applied, .. } => write!(f, "heartbeat {epoch} {applied}"),
            Self::Leave { epoch } => write!(f, "leave {epoch}"),
            Self::Propose { partition, proposal } => {
                write!(
                    f,
                    "p{partition} propose {:?} for {}",
                    proposal.isr, proposal.partition_epoch
                )
            }
            Self::Quorum { message } => write!(f, "quorum: {}", stepped::describe(message)),
            Self::Enlist { voter } => write!(f, "enlist {:?}", voter.id),
            Self::Identify { client } => write!(f, "an id for c{client}"),
            Self::Identity { id } => write!(f, "id {id:?}"),
            Self::Joined { epoch, .. } => write!(f, "joined {epoch}"),
            Self::Metadata(image) => write!(f, "metadata {}", image.offset()),
            Self::Refused { partition, partition_epoch, .. } => {
                write!(f, "p{partition} refused {partition_epoch}")
            }
            Self::Subscribe { partition, subscribe } => {
                write!(f, "p{partition} subscribe {:?}", subscribe.0)
            }
            Self::Ack { partition, ack } => write!(f, "p{partition} ack {:?}", ack.0),
            Self::Unsubscribed { partition, session, .. } => {
                write!(f, "p{partition} unsubscribed {session:?}")
            }
            Self::Frame { partition, frame, batches } => {
                write!(f, "p{partition} {frame:?} of {}", batches.len())
            }
            Self::Ended { partition, session } => write!(f, "p{partition} ended {session:?}"),
            Self::Produce { partition, correlation_id, batch, acks, leader_epoch } => write!(
                f,
                "p{partition} produce {correlation_id} {acks:?} {leader_epoch:?} {} bytes",
                batch.len()
            ),
            Self::Ask { partition } => write!(f, "p{partition} who leads"),
            Self::Fetch { partition, from } => write!(f, "p{partition} fetch {from}"),
            Self::Produced { correlation_id, outcome } => {
                write!(f, "produced {correlation_id} {outcome:?}")
            }
            Self::Leader { partition, leader, epoch } => {
                write!(f, "p{partition} led by {leader:?} in {epoch}")
            }
            Self::Fetched { partition, from, read } => match read {
                Ok(batches) => write!(f, "p{partition} fetched {from} of {}", batches.len()),
                Err(readable) => write!(f, "p{partition} fetched {from} {readable:?}"),
            },
        }
    }
}
