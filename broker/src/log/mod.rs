//! One partition's log: record batches in segments, appended at the end, read anywhere.
//!
//! ```text
//!   log start offset          recovery point   flushed end    log end offset
//!        │                          │               │               │
//!   ┌────┼───────────┬──────────────┼───┬───────────┼───────────────┼─ ─ ─ ─ ┐
//!   │....│   sealed  │    sealed    │   │       active segment      │ window │
//!   └────┼───────────┴──────────────┼───┴───────────┼───────────────┼─ ─ ─ ─ ┘
//!    gone│ on the disk, with index, │ on the disk   │ page cache    │ allocated,
//!        │ epochs, producer state   │               │ only          │ zero
//! ```
//! All of these offsets only grow, but for a truncation, which cuts the end off, and a reset, which
//! begins anew. What is committed (the high watermark) is not this module's to know: it is told, so
//! that a restart has a lower bound.
//!
//! # Files
//! [`layout`] is the catalogue. A partition has a directory; a segment is a data file of frames (one
//! batch each) and two sparse indexes, which are in memory while the segment is active.
//!
//! # Laws
//! * **Published bytes never change.** Readers slice them without a lock, sockets send them later.
//!   Cutting the end off seals a segment where it is cut and begins a new one.
//! * **Every frame proves that it belongs**: its checksum covers all of the batch and the random
//!   salt of this incarnation of this segment. Nothing that an earlier life of a file or block left
//!   behind is mistaken for a record.
//! * **Below the recovery point all is durable**, with all that belongs to it. What is wrong there
//!   is damage, never cut. Above it, what does not hold together is a torn tail.
//! * **A failed sync is final** for the directory ([`crate::io::Failure`]); a full disk is not: what
//!   was begun is undone and tried again.
//! * **Nothing waits under the owner's lock.** [`Log`] is memory and short copies; what is slow is a
//!   [`LogWork`], run by the caller's I/O pool; readers ([`LogReader`]) wait for nobody.
//!
//! # A life
//! ```text
//! Log::create / Log::open ─► append … append ─► NotReady ─► take_work ─► run ─► complete ─► append
//!                            start_flush ─► run ─► complete: flushed end
//!                            advance_log_start, start_truncate, tick …    start_close ─► run
//! ```
//!
//! # Reading order
//! `layout`, `envelope`, `frame`, `segment_header`; `index`, `offset_index`, `time_index`;
//! `leader_epochs`, `producer_state`, `checkpoint`, `partition_meta`; `walk`, `segment`,
//! `segment_list`, `open_segments`; `reader`, `lookup`; `partition_log`, `active`, `window`, `work`,
//! `scheduling` and the works: `readying`, `flush`, `checkpointing`, `truncation`, `deletion`;
//! `recovery`, `recovery_scan`, `replay`; `retention`. Without a broker: `inspect`, `verify`.
//!
//! # Later
//! Recycling segment files whose pages are still resident (DESIGN D4): [`layout`]'s salts are there
//! for it.

pub mod checkpoint;
pub mod config;
pub mod counters;
pub mod env;
pub mod envelope;
pub mod error;
pub mod frame;
pub mod index;
pub mod inspect;
pub mod layout;
pub mod leader_epochs;
pub mod lookup;
pub mod partition_log;
pub mod partition_meta;
pub mod producer_snapshot;
pub mod producer_state;
pub mod reader;
pub mod recovery;
pub mod retention;
pub mod segment_header;
pub mod verify;
pub mod work;

mod active;
mod checkpointing;
mod deletion;
mod flush;
mod index_files;
mod inventory;
mod offset_index;
mod open_segments;
mod readying;
mod recovery_scan;
mod replay;
mod scheduling;
mod segment;
mod segment_list;
mod shared;
mod time_index;
mod truncation;
mod walk;
mod window;
mod writing;

#[cfg(test)]
mod faults_test;
#[cfg(test)]
mod golden_test;
#[cfg(test)]
mod model_test;
#[cfg(test)]
mod power_loss_test;
#[cfg(test)]
mod reader_test;
#[cfg(test)]
mod recovery_test;
#[cfg(test)]
mod testkit;

pub use self::{
    config::LogConfig,
    counters::LogCounters,
    deletion::{finish_removal, remove_partition},
    env::{LogBudgets, LogEnv, SaltSource},
    error::{AppendError, Damage, LogError, ReadError},
    leader_epochs::LeaderEpochs,
    lookup::{TimedOffset, TimestampLookup},
    partition_log::{Appended, Log},
    partition_meta::PartitionMeta,
    producer_state::{ProducerCheck, ProducerLimits, ProducerStates, RememberedBatch},
    reader::{Batches, ColdRead, LogReader, Read},
    recovery::{Cut, RecoveryReport},
    retention::RetentionPolicy,
    work::{Completed, LogWork, LogWorkDone},
};
