//! Ceilings: what the machine and the transport leave to a broker, measured with the load generator
//! that loads the broker, in the same shape and between two processes as well.
//!
//! | subject | what | held against it |
//! |---|---|---|
//! | `null-sink` | `ProduceStream` into nothing | producing |
//! | `null-source` | `FetchStream` out of nothing | consuming |
//! | `grpc-ping-pong` | one batch of one record, answered at once | latencies |
//! | `tcp-loopback-*` | the same batches through bare TCP | the two above: below 0.55 of it they are refused |
//! | `disk` | 1 MiB pwrite and fdatasync in turn | producing with durability=disk |
//! | `bare-copies`, `bare-copy` | bare TCP into files, sent on to as many others as there are replicas, and to none | a cluster beside one broker |

mod copies;
mod disk;
mod server;
mod tcp;

use std::{path::PathBuf, sync::Arc};

use riverrun_proto::ids::TopicId;

pub use self::copies::{AS_COPY, Copies, CopyArgs, keep};
pub use self::server::{AS_NULL, NullServer, ServerArgs, serve};
use crate::{
    accounting::Accounts,
    error::Result,
    measure::Measurement,
    outcome::{Run, Subject},
    payload::Batches,
    recorder::{Measure, Recorder},
    stop::{Quota, Stop},
    wire::{drain, pump},
    workload::{Kind, Path, Workload},
};

/// A ceiling of one workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ceiling {
    /// See [`Subject::NULL_SINK`].
    NullSink,
    /// See [`Subject::NULL_SOURCE`].
    NullSource,
    /// See [`Subject::PING_PONG`].
    PingPong,
    /// See [`Subject::TCP_UP`].
    TcpUp,
    /// See [`Subject::TCP_DOWN`].
    TcpDown,
    /// See [`Subject::DISK`].
    Disk,
}

// === impl Ceiling ===

impl Ceiling {
    /// What it is called in documents.
    pub fn subject(self) -> &'static str {
        match self {
            Self::NullSink => Subject::NULL_SINK,
            Self::NullSource => Subject::NULL_SOURCE,
            Self::PingPong => Subject::PING_PONG,
            Self::TcpUp => Subject::TCP_UP,
            Self::TcpDown => Subject::TCP_DOWN,
            Self::Disk => Subject::DISK,
        }
    }

    /// The workload in the ceiling's terms: the same shape, with batches that are encoded already,
    /// nothing kept, and no end of a burst.
    fn workload(self, of: &Workload) -> Workload {
        let mut workload = Workload { path: Path::Batches, ..of.clone() };
        workload.kind = match self {
            Self::NullSource | Self::TcpDown => Kind::Consume,
            _ => Kind::Produce,
        };
        if self == Self::PingPong {
            // One at a time: at the rate of what it is compared with, or back to back.
            workload.batch_bytes = of.payload_bytes.max(256);
            workload.in_flight = if of.rate.is_some() { of.in_flight } else { 1 };
            workload.partitions = 1;
            workload.consumers = 1;
        } else {
            workload.rate = None;
        }
        workload
    }
}

/// Measures ceilings of one workload against one null server.
#[derive(Debug)]
pub struct Ceilings {
    server: NullServer,
    /// Where the disk is measured.
    dir: PathBuf,
    progress: bool,
}

// === impl Ceilings ===

impl Ceilings {
    /// Starts the null server. The disk is measured in `dir`.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(workload: &Workload, dir: PathBuf, progress: bool) -> Result<Self> {
        Ok(Self { server: NullServer::start(workload)?, dir, progress })
    }

    /// Measures one.
    ///
    /// # Errors
    /// It breaks.
    pub async fn run(&self, ceiling: Ceiling, of: &Workload, round: u32) -> Result<Run> {
        let workload = Arc::new(ceiling.workload(of));
        let batches = match ceiling {
            Ceiling::PingPong => Batches::single(&workload)?,
            _ => Batches::encode(&workload)?,
        };
        let recorder = Arc::new(Recorder::new());
        let stop = Stop::new();
        let quota = Arc::new(Quota::new(workload.records));
        let on_disk = ceiling == Ceiling::Disk;
        let accounts = match on_disk {
            true => Accounts::own(&self.dir),
            false => Accounts::of([self.server.process_id()], None),
        };
        let measurement = Measurement {
            subject: ceiling.subject(),
            round,
            workload: &workload,
            recorder: &recorder,
            stop: &stop,
            accounts: &accounts,
            data: on_disk.then(|| self.dir.clone()),
            burst_bytes: None,
            settings: std::collections::BTreeMap::new(),
            progress: self.progress,
        };
        let streams = tcp::Streams {
            address: self.server.tcp().to_owned(),
            batches: batches.clone(),
            recorder: Arc::clone(&recorder),
            stop: stop.clone(),
            quota: Arc::clone(&quota),
            kept: false,
        };
        match ceiling {
            Ceiling::NullSink | Ceiling::PingPong => {
                let pumps = pump::Pumps {
                    address: self.server.grpc().to_owned(),
                    topic: TopicId::random(),
                    workload: Arc::clone(&workload),
                    batches,
                    measure: match ceiling {
                        Ceiling::PingPong => Measure::RoundTrip,
                        _ => Measure::Ack,
                    },
                    recorder: Arc::clone(&recorder),
                    stop: stop.clone(),
                    quota,
                };
                measurement.run(|start| pump::run(&pumps, start)).await
            }
            Ceiling::NullSource => {
                let drains = drain::Drains {
                    address: self.server.grpc().to_owned(),
                    topic: TopicId::random(),
                    workload: Arc::clone(&workload),
                    ends: None,
                    recorder: Arc::clone(&recorder),
                    stop: stop.clone(),
                    quota,
                };
                measurement.run(|_| drain::run(&drains)).await
            }
            Ceiling::TcpUp => measurement.run(|_| tcp::upload(streams)).await,
            Ceiling::TcpDown => measurement.run(|_| tcp::download(streams)).await,
            Ceiling::Disk => {
                let file = self.dir.join("ceiling");
                measurement.run(|_| disk::write(file, batches, &recorder, &stop, &quota)).await
            }
        }
    }

    /// Ends the null server.
    ///
    /// # Errors
    /// It did not end in order.
    pub fn stop(self) -> Result<()> {
        self.server.stop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ceiling_has_the_shape_of_what_it_is_held_against() {
        let of = Workload {
            kind: Kind::ProduceConsume,
            partitions: 7,
            producers: 2,
            rate: Some(100.0),
            ..Workload::default()
        };
        for ceiling in [
            Ceiling::NullSink,
            Ceiling::NullSource,
            Ceiling::PingPong,
            Ceiling::TcpUp,
            Ceiling::TcpDown,
            Ceiling::Disk,
        ] {
            let workload = ceiling.workload(&of).checked().unwrap();
            assert_eq!((workload.payload_bytes, workload.producers), (of.payload_bytes, 2));
            let paced = ceiling == Ceiling::PingPong;
            assert_eq!(workload.rate.is_some(), paced, "{ceiling:?}");
        }
        let saturating = Workload { rate: None, ..of };
        assert_eq!(Ceiling::PingPong.workload(&saturating).in_flight, 1);
    }
}
