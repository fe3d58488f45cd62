//! Which workloads mean the same to the product and to a peer; and how many records a peer has to be
//! given so that it is loaded as long as the product is.

use std::time::Duration;

use super::{Name, kafka};
use crate::{
    accounting::{burst_bytes, dirty_limits},
    error::{BenchError, Result},
    workload::{Acks, Codec, Durability, Kind, Path, Segments, Volume, Workload, name_of},
};

/// Payload of the first load of a peer, which tells roughly how fast it is. Where each record is
/// synced, this is seconds.
const TRIAL_BYTES_MEMORY: u64 = 64 << 20;
const TRIAL_BYTES_DISK: u64 = 2 << 20;

/// The second load, for its code to be compiled; it tells the rate.
pub const WARM_UP: Duration = Duration::from_secs(5);

/// Records of a peer's tool that do not count take at least so long: it has just started, and what
/// it is made of may still be compiled.
const TOOL_WARM_UP_MIN: Duration = Duration::from_secs(5);

/// Share of a burst that is used: batches are larger than payloads, and rates vary.
const BURST_SHARE: f64 = 0.75;

/// The workload as both sides do it, and what was changed about it.
///
/// # Errors
/// Everything in it that a peer has no word for, at once.
pub fn comparable(workload: Workload, peer: Name) -> Result<(Workload, Vec<String>)> {
    let problems = problems(&workload, peer);
    if !problems.is_empty() {
        return Err(BenchError::Usage(format!(
            "workload {:?} cannot be compared with {}:\n  {}",
            workload.name,
            name_of(peer),
            problems.join("\n  ")
        )));
    }
    let mut workload = workload;
    let mut notes = Vec::new();
    if peer == Name::Kafka && workload.in_flight > kafka::IN_FLIGHT_MAX {
        // That of a consumer's backlog too, but then it changes no figure.
        workload.in_flight = kafka::IN_FLIGHT_MAX;
        if workload.writes() {
            notes.push(format!(
                "{} batches in flight on both sides: an idempotent producer of Kafka, as ours is, \
                 has no more",
                kafka::IN_FLIGHT_MAX
            ));
        }
    }
    if workload.kind == Kind::Consume && workload.durability == Durability::Disk {
        // Nothing is acknowledged while it is measured; the backlog is written sooner.
        workload.durability = Durability::Memory;
    }
    Ok((workload, notes))
}

fn problems(workload: &Workload, peer: Name) -> Vec<String> {
    let mut problems = Vec::new();
    let mut check = |fine: bool, problem: &str| {
        if !fine {
            problems.push(problem.to_owned());
        }
    };
    check(
        matches!(workload.kind, Kind::Produce | Kind::Consume),
        "peers bring load generators for produce and for consume, none that writes and reads",
    );
    check(
        workload.path == Path::Records,
        "a peer's load goes through its client: compare path=records (--path records)",
    );
    check(
        workload.producers == 1 && workload.consumers == 1,
        "one producer and one consumer: several of a peer are as many processes",
    );
    check(
        workload.codec == Codec::None,
        "codec=none: payloads of the tools differ, and so do their ratios of compression",
    );
    check(
        workload.segments == Segments::Fresh,
        "segments=fresh: each run of a peer has a topic of its own",
    );
    if peer == Name::Nats {
        check(workload.nodes == 1, "nodes=1: only Kafka is started as a cluster");
        check(workload.partitions == 1, "partitions=1: a stream has none");
        check(workload.acks == Acks::All, "acks=all: JetStream acknowledges what is stored");
    }
    problems
}

/// Records of the first load.
pub fn trial_records(workload: &Workload) -> u64 {
    let bytes = match workload.durability {
        Durability::Disk => TRIAL_BYTES_DISK,
        Durability::Memory => TRIAL_BYTES_MEMORY,
    };
    (bytes / workload.payload_bytes as u64).max(1)
}

/// How many records a producer is given, and how many before them that do not count, if it was seen
/// to do `per_s`.
pub fn records_and_warm_up(workload: &Workload, per_s: f64) -> (u64, u64) {
    let per_s = workload.rate.unwrap_or(per_s);
    let warm_up = (workload.warm_up_ms.max(TOOL_WARM_UP_MIN).as_secs_f64() * per_s).ceil();
    let wanted = match workload.records {
        Some(records) => records as f64,
        None => (workload.duration_ms.as_secs_f64() * per_s).ceil(),
    };
    let most = records_of_a_burst(workload).unwrap_or(f64::INFINITY);
    let share = (most / (wanted + warm_up)).min(1.0);
    (((wanted * share) as u64).max(1), (warm_up * share) as u64)
}

/// Records of the backlog that a consumer reads.
pub fn backlog_records(workload: &Workload) -> u64 {
    let backlog = (workload.backlog_bytes / workload.payload_bytes).max(1) as u64;
    workload.records.map_or(backlog, |records| records.min(backlog))
}

/// What can be written before the kernel makes writers wait, if that is to be avoided.
fn records_of_a_burst(workload: &Workload) -> Option<f64> {
    let bound = workload.volume == Volume::Burst && workload.durability == Durability::Memory;
    let bytes = bound.then(dirty_limits).flatten().map(burst_bytes)?;
    // All copies are written on this machine.
    let bytes = bytes / u64::from(workload.replication_factor);
    Some(bytes as f64 * BURST_SHARE / workload.payload_bytes as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_peers_have_no_word_for_is_told_at_once() {
        let workload = Workload {
            kind: Kind::ProduceConsume,
            codec: Codec::Zstd,
            producers: 2,
            partitions: 4,
            acks: Acks::Leader,
            ..Workload::default()
        };
        let error = |peer| comparable(workload.clone(), peer).unwrap_err().to_string();
        for word in ["codec=none", "one producer", "none that writes and reads"] {
            assert!(error(Name::Kafka).contains(word), "{word}");
            assert!(error(Name::Nats).contains(word), "{word}");
        }
        for word in ["partitions=1", "acks=all"] {
            assert!(!error(Name::Kafka).contains(word) && error(Name::Nats).contains(word));
        }
        let batches = Workload { path: Path::Batches, ..Workload::default() };
        let error = comparable(batches, Name::Kafka).unwrap_err().to_string();
        assert!(error.contains("--path records"), "{error}");
    }

    #[test]
    fn both_sides_have_as_many_in_flight_as_kafka_may() {
        let workload = Workload { in_flight: 32, ..Workload::default() };
        let (kafka, notes) = comparable(workload.clone(), Name::Kafka).unwrap();
        assert_eq!((kafka.in_flight, notes.len()), (kafka::IN_FLIGHT_MAX, 1));
        let (nats, notes) = comparable(workload.clone(), Name::Nats).unwrap();
        assert_eq!((nats.in_flight, notes.len()), (32, 0));
        let consume = Workload { kind: Kind::Consume, ..workload.clone() };
        let (consume, notes) = comparable(consume, Name::Kafka).unwrap();
        assert_eq!((consume.in_flight, notes.len()), (kafka::IN_FLIGHT_MAX, 0), "its backlog");
        let few = Workload { in_flight: 2, ..workload };
        let (few, notes) = comparable(few, Name::Kafka).unwrap();
        assert_eq!((few.in_flight, notes.len()), (2, 0));
    }

    #[test]
    fn durability_stays_unless_nothing_is_acknowledged() {
        let of = |kind| {
            let workload = Workload { kind, ..Workload::default() };
            comparable(workload, Name::Kafka).unwrap().0.durability
        };
        assert_eq!(of(Kind::Produce), Durability::Disk);
        assert_eq!(of(Kind::Consume), Durability::Memory);
    }

    #[test]
    fn a_peer_is_loaded_as_long_as_the_product() {
        let workload = Workload {
            duration_ms: Duration::from_secs(10),
            warm_up_ms: Duration::from_secs(7),
            ..Workload::default()
        };
        assert_eq!(records_and_warm_up(&workload, 1000.0), (10_000, 7_000));
        let short = Workload { warm_up_ms: Duration::ZERO, ..workload.clone() };
        assert_eq!(records_and_warm_up(&short, 1000.0), (10_000, 5_000));
        let counted = Workload { records: Some(77), ..workload.clone() };
        assert_eq!(records_and_warm_up(&counted, 1000.0).0, 77);
        let paced = Workload { rate: Some(50.0), ..workload };
        assert_eq!(records_and_warm_up(&paced, 1000.0), (500, 350));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_burst_is_not_exceeded_and_a_sustained_run_is_not_cut() {
        let burst = Workload { durability: Durability::Memory, ..Workload::default() };
        let most = burst_bytes(dirty_limits().unwrap());
        let (records, warm_up) = records_and_warm_up(&burst, 1e12);
        assert!((records + warm_up) * 1024 < most);
        assert!(records > warm_up);
        let copies = Workload { nodes: 3, replication_factor: 3, ..burst.clone() };
        let (of_three, _) = records_and_warm_up(&copies, 1e12);
        assert!(of_three * 3 <= records, "{of_three} {records}");
        let sustained = Workload { volume: Volume::Sustained, ..burst };
        assert_eq!(records_and_warm_up(&sustained, 1e6).0, 10_000_000);
    }

    #[test]
    fn a_backlog_is_counted_in_records() {
        let workload = Workload { backlog_bytes: 1 << 20, ..Workload::default() };
        assert_eq!(backlog_records(&workload), 1024);
        let few = Workload { records: Some(10), ..workload };
        assert_eq!(backlog_records(&few), 10);
        assert_eq!(trial_records(&Workload { payload_bytes: 4 << 20, ..few }), 1);
    }
}
