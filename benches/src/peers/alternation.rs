//! Product and peer in turn (A B A B), after a peer's virtual machine and files are warm.

use std::io::{IsTerminal as _, stderr};

use super::{
    Name, Peer, Task,
    cache::Cache,
    comparable::{WARM_UP, backlog_records, comparable, records_and_warm_up, trial_records},
    kafka::{self, Kafka},
    nats::{self, Nats},
};
use crate::{
    broker::BrokerArgs,
    error::Result,
    outcome::{Comparison, Document, Run, Subject, latency},
    product::Product,
    session::{self, SessionArgs},
    statistics::{self, Figure},
    workload::{Kind, Workload},
};

/// Said with every run of a comparison.
const BESIDE: &str = "all servers of a comparison are up all the time, those not measured idle";

/// Loads before the first that counts, after the very first.
const WARM_UPS_MAX: usize = 4;

/// A load that is faster than the one before by this is followed by another one.
const STILL_FASTER: f64 = 1.1;

/// Where a peer comes from.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// Where artifacts are kept.
    pub cache: Option<std::path::PathBuf>,
    /// Version of the peer.
    pub version: Option<String>,
    /// Programs of NATS.
    pub nats: nats::Sources,
}

/// Compares `workloads`, each with servers of its own.
///
/// # Errors
/// A workload does not mean the same on both sides; the peer is not to be had; a run fails.
pub async fn compare(
    peer: Name,
    workloads: Vec<Workload>,
    origin: &Origin,
    broker: &BrokerArgs,
    args: &SessionArgs,
) -> Result<Document> {
    let workloads =
        workloads.into_iter().map(|w| comparable(w, peer)).collect::<Result<Vec<_>>>()?;
    let cache = Cache::open(origin.cache.as_deref())?;
    let mut document = session::document(&broker.dir)?;
    for (workload, notes) in workloads {
        let durability = workload.durability;
        let version = origin.version.as_deref();
        let (mut runs, comparisons) = match peer {
            Name::Kafka => {
                let version = version.unwrap_or(kafka::VERSION);
                let rows = Kafka::start(&cache, version, workload.nodes, &broker.dir).await?;
                alternate(rows, &workload, broker, args).await?
            }
            Name::Nats => {
                let rows = Nats::start(&cache, &origin.nats, durability, &broker.dir).await?;
                alternate(rows, &workload, broker, args).await?
            }
        };
        for run in &mut runs {
            run.notes.extend(notes.iter().cloned());
            run.notes.push(BESIDE.to_owned());
        }
        document.runs.extend(runs);
        document.comparisons.extend(comparisons);
    }
    Ok(document)
}

async fn alternate<P: Peer>(
    mut rows: Vec<P>,
    workload: &Workload,
    broker: &BrokerArgs,
    args: &SessionArgs,
) -> Result<(Vec<Run>, Vec<Comparison>)> {
    let mut product = Product::start(broker, workload, !args.quiet).await?;
    let measured = rounds(&mut product, &mut rows, workload, args).await;
    let stopped = product.stop();
    rows.into_iter().for_each(P::stop);
    let measured = measured?;
    stopped?;
    Ok(measured)
}

async fn rounds<P: Peer>(
    product: &mut Product,
    rows: &mut [P],
    workload: &Workload,
    args: &SessionArgs,
) -> Result<(Vec<Run>, Vec<Comparison>)> {
    let mut rates = Vec::new();
    for row in &mut *rows {
        tell(args, workload, row.subject(), 0);
        rates.push(warm_up(row, workload).await?);
    }
    let mut runs = Vec::new();
    for round in 1..=args.rounds {
        tell(args, workload, Subject::RIVERRUN, round);
        runs.push(product.run(workload, round).await?);
        for (row, rate) in rows.iter_mut().zip(&mut rates) {
            tell(args, workload, row.subject(), round);
            let run = row.run(&task(workload, round, *rate)).await?;
            // What is warmer may have become faster.
            *rate = rate_of(&run).unwrap_or(*rate);
            runs.push(run);
        }
    }
    let comparisons = rows
        .iter()
        .flat_map(|row| figures(workload, &runs, row.subject()).map(|f| (row.subject(), f)))
        .map(|(to, figure)| statistics::compare(&runs, (Subject::RIVERRUN, figure), (to, figure)))
        .collect::<Result<Vec<_>>>()?;
    Ok((runs, comparisons))
}

/// Loads a peer without counting until it gets no faster; its records per second then. One load of
/// a length that suits a cold virtual machine would be too short for a warm one.
async fn warm_up<P: Peer>(row: &mut P, workload: &Workload) -> Result<f64> {
    let warm = Workload { duration_ms: WARM_UP, records: None, ..workload.clone() };
    let trial = trial_records(workload);
    let mut next = Task { workload, round: 0, records: trial, warm_up: 0 };
    let mut rate = rate_of(&row.run(&next).await?).unwrap_or(trial as f64);
    for _ in 0..WARM_UPS_MAX {
        (next.records, next.warm_up) = match workload.kind {
            Kind::Consume => (backlog_records(workload), 0),
            _ => records_and_warm_up(&warm, rate),
        };
        let before = rate;
        rate = rate_of(&row.run(&next).await?).unwrap_or(rate);
        if rate < before * STILL_FASTER {
            break;
        }
    }
    Ok(rate)
}

fn task(workload: &Workload, round: u32, rate: f64) -> Task<'_> {
    let (records, warm_up) = match workload.kind {
        Kind::Consume => (backlog_records(workload), 0),
        _ => records_and_warm_up(workload, rate),
    };
    Task { workload, round, records, warm_up }
}

fn rate_of(run: &Run) -> Option<f64> {
    let throughput = run.consumed.or(run.produced)?;
    Some(throughput.records_per_s).filter(|rate| *rate > 0.0)
}

/// What is divided: CPU per GB where both tell it; and throughput of a saturating load, the latency
/// that both tell otherwise.
fn figures(workload: &Workload, runs: &[Run], peer: &str) -> impl Iterator<Item = Figure> + use<> {
    let tells_latency =
        runs.iter().any(|run| run.subject == peer && run.latencies.contains_key(latency::ACK));
    let figure = match (workload.rate, workload.kind) {
        (Some(_), _) => Some(Figure::Median(latency::ACK)).filter(|_| tells_latency),
        (None, Kind::Consume) => Some(Figure::ConsumedBytes),
        (None, _) => Some(Figure::ProducedBytes),
    };
    let of_both = move |run: &Run| run.subject == peer || run.subject == Subject::RIVERRUN;
    let cpu = Figure::SubjectCpu;
    let tell_cpu = runs.iter().filter(|run| of_both(run)).all(|run| cpu.of(run).is_some());
    figure.into_iter().chain(Some(cpu).filter(|_| tell_cpu))
}

/// The tools of peers show no progress of their own: say at least who is at it.
fn tell(args: &SessionArgs, workload: &Workload, subject: &str, round: u32) {
    if args.quiet || !stderr().is_terminal() {
        return;
    }
    match round {
        0 => eprintln!("{}: warming up {subject}", workload.name),
        _ => eprintln!("{}: {subject}, round {round} of {}", workload.name, args.rounds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::{Cost, Errors, Latency, Throughput};

    /// Does a fixed number of records per second.
    struct Fake {
        /// One per run; the last goes on.
        per_s: Vec<f64>,
        tasks: Vec<(u32, u64, u64)>,
    }

    impl Peer for Fake {
        fn subject(&self) -> &'static str {
            "fake"
        }

        async fn run(&mut self, task: &Task<'_>) -> Result<Run> {
            let per_s = self.per_s[self.tasks.len().min(self.per_s.len() - 1)];
            self.tasks.push((task.round, task.records, task.warm_up));
            let seconds = task.records as f64 / per_s;
            Ok(run(task.workload, Throughput::new(task.records, task.records, seconds)))
        }

        fn stop(self) {}
    }

    fn run(workload: &Workload, produced: Throughput) -> Run {
        Run {
            subject: "fake".into(),
            subject_version: None,
            round: 1,
            workload: workload.clone(),
            settings: Default::default(),
            produced: Some(produced),
            consumed: None,
            latencies: Default::default(),
            cost: Cost::default(),
            errors: Errors::default(),
            series: vec![],
            notes: vec![],
        }
    }

    #[tokio::test]
    async fn a_peer_is_warm_and_its_rate_known_before_it_counts() {
        let workload = Workload::default();
        let mut row = Fake { per_s: vec![100.0, 400.0, 500.0], tasks: vec![] };
        let rate = warm_up(&mut row, &workload).await.unwrap();
        assert!((rate - 500.0).abs() < 1e-6);
        assert_eq!(row.tasks.len(), 4, "until it gets no faster");
        assert!(row.tasks.iter().all(|(round, ..)| *round == 0));
        assert_eq!(row.tasks[1], (0, 500, 500), "five seconds of it, and as many before");
        assert_eq!(row.tasks[3], (0, 2500, 2500));
        let mut endless = Fake { per_s: (0..9).map(|i| 10f64.powi(i)).collect(), tasks: vec![] };
        warm_up(&mut endless, &workload).await.unwrap();
        assert_eq!(endless.tasks.len(), 1 + WARM_UPS_MAX);
        let task = task(&workload, 1, rate);
        assert_eq!((task.records, task.warm_up), (5000, 2500));
        let consume = Workload { kind: Kind::Consume, ..Workload::default() };
        let task = super::task(&consume, 1, rate);
        assert_eq!((task.records, task.warm_up), (1 << 20, 0));
    }

    #[test]
    fn ratios_are_of_what_both_sides_tell() {
        let of =
            |workload: &Workload, runs: &[Run]| figures(workload, runs, "fake").collect::<Vec<_>>();
        let saturating = Workload::default();
        let mut runs = vec![run(&saturating, Throughput::new(1, 1, 1.0))];
        assert_eq!(of(&saturating, &runs), [Figure::ProducedBytes]);
        let consume = Workload { kind: Kind::Consume, ..Workload::default() };
        assert_eq!(of(&consume, &runs), [Figure::ConsumedBytes]);
        let mut told = runs.clone();
        told[0].cost.subject_cpu_s_per_gb = Some(1.0);
        assert_eq!(of(&consume, &told), [Figure::ConsumedBytes, Figure::SubjectCpu]);
        told.push(Run { subject: Subject::RIVERRUN.into(), ..runs[0].clone() });
        assert_eq!(of(&consume, &told), [Figure::ConsumedBytes], "ours is unknown");
        let paced = Workload { rate: Some(10.0), ..Workload::default() };
        assert_eq!(of(&paced, &runs), []);
        let latency = Latency {
            count: 1,
            p50_ns: 1,
            p90_ns: None,
            p99_ns: 1,
            p999_ns: 1,
            max_ns: 1,
            histogram: String::new(),
        };
        runs[0].latencies.insert(latency::ACK.into(), latency);
        assert_eq!(of(&paced, &runs), [Figure::Median(latency::ACK)]);
    }

    #[tokio::test]
    async fn what_cannot_be_compared_is_refused_before_anything_is_fetched() {
        let workload = Workload { kind: Kind::EndToEnd, rate: Some(1.0), ..Workload::default() };
        let broker = BrokerArgs::default();
        let origin = Origin { version: Some("../x".into()), ..Origin::default() };
        let args = SessionArgs::default();
        let compared = compare(Name::Kafka, vec![workload], &origin, &broker, &args);
        let error = compared.await.unwrap_err().to_string();
        assert!(error.contains("none that writes and reads"), "{error}");
    }
}
