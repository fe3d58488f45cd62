//! The Rust client of Riverrun.
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
mod topic;

pub use riverrun_proto::{
    ids::{BrokerId, TopicId},
    record::Codec as Compression,
};

pub use self::{
    address::{Address, DEFAULT_PORT},
    admin::{
        Admin, AlterConfigs, ConfigEntry, CreateTopic, ListedOffset, PartitionOffsets,
        TopicDescription, TopicPage,
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
    topic::{Broker, Cluster, OffsetReset, Partition, Position, Topic, TopicPartition},
};
