//! The Rust client of Riverrun: [`Producer`], [`Consumer`], [`Reader`], [`Admin`], made by one
//! [`Client`].
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//!
//! use futures::TryStreamExt;
//! use riverrun_client::{Client, Position, Record};
//!
//! // A whole broker in this process, for tests; a real one is just another address.
//! let broker = riverrun_broker::Embedded::start().await?;
//! let client = Client::builder().bootstrap_servers([broker.address()]).build().await?;
//! client.admin().create_topic("orders").partitions(3).send().await?;
//!
//! let producer = client.producer().build().await?;
//! for n in 0..100 {
//!     // Waits for memory only; what became of the record is in the delivery.
//!     let record = Record::to("orders").key(format!("customer {}", n % 7)).value("one coffee");
//!     producer.send(record).await?.detach();
//! }
//! producer.flush().await?; // all of them are written now
//!
//! let orders = client.reader("orders").stop_at_end().build().await?;
//! let orders: Vec<_> = orders.try_collect().await?;
//! assert_eq!(orders.len(), 100);
//! # Ok(())
//! # }
//! ```
//!
//! # What holds everywhere
//!
//! - **Memory is bounded in bytes**, by options with names: `buffer_memory` of a producer,
//!   `prefetch_bytes` of a consumer. At the bound a producer waits, a consumer is sent no more.
//! - **Dropping a future is safe.** Each async method says what that leaves behind.
//! - **Errors answer two questions**: may the same call succeed later
//!   ([`Error::is_retriable`]), can anything have been written ([`Error::is_definite`]). What can
//!   be retried is retried inside, with full jitter, within the time the options give.
//! - **One connection per broker for data and one for control**, made when needed, made again when
//!   they broke.
//! - A topic deleted and made anew is another topic: what was meant for the old one is an error,
//!   never written to or read from the new one.
//!
//! Consumer groups are not in this version. Producers and consumers run a background task each on
//! the tokio runtime they were built in; it needs time and I/O enabled.
#![forbid(unsafe_code)]

mod address;
mod admin;
mod client;
mod clock;
mod config;
mod connection;
mod consumer;
mod error;
mod metadata;
mod producer;
mod reader;
mod record;
mod retry;
#[cfg(test)]
mod test_broker;
mod tls;
mod topic;

pub use riverrun_proto::{
    ids::{BrokerId, TopicId},
    record::Codec as Compression,
};

#[doc(hidden)]
pub use self::producer::simulation;
pub use self::{
    address::{Address, DEFAULT_PORT},
    admin::{
        Admin, AlterConfigs, Arrival, Behind, BrokerPresence, BrokerState, ClusterDescription,
        ConfigEntry, CreateTopic, Election, Explanation, FollowerState, Hindrance, LeaderState,
        ListedOffset, MovePlan, MovingState, NoLeader, Outlook, PartitionCounts,
        PartitionDescription, PartitionFilter, PartitionOffsets, PartitionPage, PartitionReport,
        PlannedMove, QuorumNode, QuorumRole, ReplicaState, TopicDescription, TopicPage,
    },
    client::{Client, ClientBuilder},
    config::{Acks, Durability},
    consumer::{Consumer, ConsumerBuilder, ConsumerControl, ConsumerEvent, ConsumerEvents},
    error::{Error, ErrorKind, Result},
    producer::{
        ChoosePartition, Delivery, Partitioner, Permit, Producer, ProducerBuilder, RecordMetadata,
        RecordSink, SendError, TrySendError,
    },
    reader::{Reader, ReaderBuilder},
    record::{ConsumerRecord, Header, Record},
    tls::Tls,
    topic::{Broker, Cluster, OffsetReset, Partition, Position, Topic, TopicPartition},
};
