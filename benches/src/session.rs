//! A command that measures: the product, alternating with its ceilings or with one broker if that is
//! asked for (A B A B), and the document that comes out of it.

use std::path::PathBuf;

use clap::Args;

use crate::{
    accounting,
    broker::{BrokerArgs, DataDir},
    ceiling::{Ceiling, Ceilings, Copies},
    clock,
    error::{BenchError, Result},
    outcome::{Comparison, Document, Run, SCHEMA, Subject, Surroundings, latency},
    product::Product,
    statistics::{self, Figure},
    workload::{Durability, Kind, Workload},
};

/// How often, and where the results go.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Measuring")]
pub struct SessionArgs {
    /// Measure so often; ratios are told with median and range
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,

    /// Write everything that was measured into FILE, as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// No progress on standard error
    #[arg(short, long)]
    pub quiet: bool,
}

/// What the product alternates with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Beside {
    /// Nothing.
    #[default]
    Nothing,
    /// The ceilings of its shape.
    Ceiling,
    /// One broker that keeps the only copy, where the workload has a cluster.
    OneBroker,
}

/// A ratio to be told: of whom, to whom, and what the second is held against itself.
struct Ratio {
    of: (&'static str, Figure),
    to: (&'static str, Figure),
    against: Option<(&'static str, Figure)>,
}

/// Measures `workloads` with brokers of their own each, alternating with what they are to be held
/// against, and adds each that is done to `document`.
///
/// # Errors
/// A run fails. What was measured of that workload is lost. One broker is to be held against itself.
///
/// # Cancel safety
/// Dropped, it leaves the workloads that were done in `document`.
pub async fn run(
    document: &mut Document,
    workloads: &[Workload],
    broker: &BrokerArgs,
    args: &SessionArgs,
    beside: Beside,
) -> Result<()> {
    if let Some(alone) = workloads.iter().find(|w| w.nodes == 1 && beside == Beside::OneBroker) {
        return Err(BenchError::Usage(format!(
            "{:?} is one broker: --against-one-broker needs --nodes 3 --replication-factor 3, or a \
             workload that says so",
            alone.name
        )));
    }
    for workload in workloads {
        let mut product = Product::start(broker, workload, !args.quiet).await?;
        let measured = match beside {
            Beside::Nothing => {
                alone(&mut product, workload, args).await.map(|runs| (runs, Vec::new()))
            }
            Beside::Ceiling => alternating(&mut product, workload, &broker.dir, args).await,
            Beside::OneBroker => beside_one_broker(&mut product, workload, broker, args).await,
        };
        let stopped = product.stop();
        let (runs, comparisons) = measured?;
        stopped?;
        document.runs.extend(runs);
        document.comparisons.extend(comparisons);
    }
    Ok(())
}

/// Measures the ceilings alone.
///
/// # Errors
/// A run fails.
pub async fn ceilings(workload: &Workload, dir: &DataDir, args: &SessionArgs) -> Result<Document> {
    let mut document = document(dir)?;
    let dir = dir.make()?;
    let ceilings = Ceilings::start(workload, dir.path().to_owned(), !args.quiet)?;
    let mut runs = Vec::new();
    for round in 1..=args.rounds {
        for ceiling in [
            Ceiling::NullSink,
            Ceiling::TcpUp,
            Ceiling::NullSource,
            Ceiling::TcpDown,
            Ceiling::PingPong,
            Ceiling::Disk,
        ] {
            runs.push(ceilings.run(ceiling, workload, round).await?);
        }
    }
    ceilings.stop()?;
    for (of, to) in [(SINK, TCP_UP), (SOURCE, TCP_DOWN)] {
        let mut share = statistics::compare(&runs, of, to)?;
        share.yardstick = Some(statistics::yardstick(&share));
        document.comparisons.push(share);
    }
    document.runs = runs;
    Ok(document)
}

async fn alone(product: &mut Product, workload: &Workload, args: &SessionArgs) -> Result<Vec<Run>> {
    let mut runs = Vec::new();
    for round in 1..=args.rounds {
        runs.push(product.run(workload, round).await?);
    }
    Ok(runs)
}

async fn alternating(
    product: &mut Product,
    workload: &Workload,
    dir: &DataDir,
    args: &SessionArgs,
) -> Result<(Vec<Run>, Vec<Comparison>)> {
    // Beside the broker's directory: on the same disk.
    let dir = dir.make()?;
    let ceilings = Ceilings::start(workload, dir.path().to_owned(), !args.quiet)?;
    let mut runs = Vec::new();
    for round in 1..=args.rounds {
        runs.push(product.run(workload, round).await?);
        for ceiling in ceilings_of(workload) {
            runs.push(ceilings.run(ceiling, workload, round).await?);
        }
    }
    ceilings.stop()?;
    let comparisons =
        ratios_of(workload).into_iter().map(|ratio| ratio.of(&runs)).collect::<Result<Vec<_>>>()?;
    Ok((runs, comparisons))
}

/// The cluster and one broker in turn, and what as many copies cost beside one without any broker. All
/// are up all the time, those not measured idle.
async fn beside_one_broker(
    product: &mut Product,
    workload: &Workload,
    broker: &BrokerArgs,
    args: &SessionArgs,
) -> Result<(Vec<Run>, Vec<Comparison>)> {
    let single = workload.on_one_broker();
    let one = Product::start(broker, &single, !args.quiet).await?;
    let mut one = one.called(Subject::ONE_BROKER);
    let dir = broker.dir.make()?;
    let mut bare = Vec::new();
    if has_bare_copies(workload) {
        for (subject, of) in [(Subject::BARE_COPIES, workload), (Subject::BARE_COPY, &single)] {
            bare.push((Copies::start(subject, of, dir.path(), !args.quiet)?, of));
        }
    }
    let mut runs = Vec::new();
    for round in 1..=args.rounds {
        runs.push(product.run(workload, round).await?);
        runs.push(one.run(&single, round).await?);
        for (copies, of) in &bare {
            runs.push(copies.run(of, round).await?);
        }
    }
    one.stop()?;
    let mut pairs = vec![[Subject::RIVERRUN, Subject::ONE_BROKER]];
    if !bare.is_empty() {
        pairs.push([Subject::BARE_COPIES, Subject::BARE_COPY]);
    }
    bare.into_iter().try_for_each(|(copies, _)| copies.stop())?;
    let mut comparisons = Vec::new();
    for [of, to] in pairs {
        for figure in figures_of_a_cluster(workload) {
            let mut compared = runs.iter().filter(|run| [of, to].contains(&&*run.subject));
            // The processor time is not known everywhere.
            if compared.all(|run| figure.of(run).is_some()) {
                comparisons.push(statistics::compare(&runs, (of, figure), (to, figure))?);
            }
        }
    }
    Ok((runs, comparisons))
}

/// Whether bytes that only go in, and wait for no disk, are all there is to it: then copies of them can
/// be made without a broker, and what those cost is a yardstick.
fn has_bare_copies(workload: &Workload) -> bool {
    workload.kind == Kind::Produce
        && workload.durability == Durability::Memory
        && workload.rate.is_none()
}

/// What a cluster is held against one broker by: what it costs, and how fast it is.
fn figures_of_a_cluster(workload: &Workload) -> Vec<Figure> {
    let mut figures = vec![Figure::SubjectCpu];
    if workload.rate.is_some() {
        let name = if workload.stamps() { latency::END_TO_END } else { latency::ACK };
        figures.push(Figure::Median(name));
        return figures;
    }
    if workload.writes() {
        figures.push(Figure::ProducedBytes);
    }
    if workload.reads() {
        figures.push(Figure::ConsumedBytes);
    }
    figures
}

const SINK: (&str, Figure) = (Subject::NULL_SINK, Figure::ProducedBytes);
const SOURCE: (&str, Figure) = (Subject::NULL_SOURCE, Figure::ConsumedBytes);
const TCP_UP: (&str, Figure) = (Subject::TCP_UP, Figure::ProducedBytes);
const TCP_DOWN: (&str, Figure) = (Subject::TCP_DOWN, Figure::ConsumedBytes);
const DISK: (&str, Figure) = (Subject::DISK, Figure::ProducedBytes);
const PING: (&str, Figure) = (Subject::PING_PONG, Figure::Median(latency::ROUND_TRIP));

/// What alternates with a workload.
fn ceilings_of(workload: &Workload) -> Vec<Ceiling> {
    if workload.rate.is_some() {
        return vec![Ceiling::PingPong];
    }
    let mut ceilings = Vec::new();
    if workload.writes() {
        ceilings.extend([Ceiling::NullSink, Ceiling::TcpUp]);
        if workload.durability == Durability::Disk {
            ceilings.push(Ceiling::Disk);
        }
    }
    if workload.reads() {
        ceilings.extend([Ceiling::NullSource, Ceiling::TcpDown]);
    }
    ceilings
}

/// The ratios that a workload is judged by.
fn ratios_of(workload: &Workload) -> Vec<Ratio> {
    let produced = (Subject::RIVERRUN, Figure::ProducedBytes);
    let consumed = (Subject::RIVERRUN, Figure::ConsumedBytes);
    if workload.rate.is_some() {
        let name = if workload.stamps() { latency::END_TO_END } else { latency::ACK };
        let of = (Subject::RIVERRUN, Figure::Median(name));
        return vec![Ratio { of, to: PING, against: None }];
    }
    let mut ratios = Vec::new();
    if workload.writes() {
        ratios.push(Ratio { of: produced, to: SINK, against: Some(TCP_UP) });
        if workload.durability == Durability::Disk {
            ratios.push(Ratio { of: produced, to: DISK, against: None });
        }
    }
    if workload.kind != Kind::Produce {
        ratios.push(Ratio { of: consumed, to: SOURCE, against: Some(TCP_DOWN) });
    }
    ratios
}

// === impl Ratio ===

impl Ratio {
    fn of(self, runs: &[Run]) -> Result<Comparison> {
        let mut comparison = statistics::compare(runs, self.of, self.to)?;
        if let Some(against) = self.against {
            let share = statistics::compare(runs, self.to, against)?;
            comparison.yardstick = Some(statistics::yardstick(&share));
        }
        Ok(comparison)
    }
}

/// The ceilings of a document that are none.
///
/// # Errors
/// [`BenchError::Yardstick`], naming them.
pub fn refuse_bad_yardsticks(document: &Document) -> Result<()> {
    let refused: Vec<String> = document
        .comparisons
        .iter()
        .filter_map(|comparison| {
            let yardstick = comparison.yardstick.as_ref().filter(|y| !y.accepted)?;
            // A ceiling measured alone is the numerator.
            let ceiling = match comparison.to == yardstick.against {
                true => &comparison.of,
                false => &comparison.to,
            };
            Some(format!(
                "{}: the {ceiling} reached {:.2} of {}, which is below {}: something else took the \
                 machine, the ratio is not told. Measure again on a quieter one",
                comparison.workload, yardstick.share, yardstick.against, yardstick.least
            ))
        })
        .collect();
    if refused.is_empty() {
        return Ok(());
    }
    Err(BenchError::Yardstick(refused.join("\n")))
}

/// A document of what will be measured now and here.
pub(crate) fn document(dir: &DataDir) -> Result<Document> {
    let dir = dir.make()?;
    Ok(Document {
        schema: SCHEMA,
        started: clock::utc(),
        command: std::env::args().collect(),
        surroundings: Surroundings {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: option_env!("RIVERRUN_COMMIT").map(str::to_owned),
            build: if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned(),
            machine: riverrun_broker::cli::Machine::here(dir.path()),
            load_average: accounting::load_average(),
            dirty: accounting::dirty_limits(),
        },
        runs: Vec::new(),
        comparisons: Vec::new(),
        restarts: Vec::new(),
        failovers: Vec::new(),
        isr_faults: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;
    use crate::outcome::Yardstick;

    #[test]
    fn every_ratio_has_both_of_its_sides_measured() {
        for kind in Kind::value_variants() {
            for rate in [None, Some(10.0)] {
                for durability in Durability::value_variants() {
                    let workload = Workload {
                        kind: *kind,
                        rate,
                        durability: *durability,
                        ..Workload::default()
                    };
                    let measured: Vec<_> =
                        ceilings_of(&workload).into_iter().map(Ceiling::subject).collect();
                    let ratios = ratios_of(&workload);
                    assert!(!ratios.is_empty());
                    for Ratio { of, to, against } in ratios {
                        assert_eq!(of.0, Subject::RIVERRUN);
                        for side in [Some(to), against].into_iter().flatten() {
                            assert!(measured.contains(&side.0), "{workload:?}: {}", side.0);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_refused_yardstick_is_named_with_its_share() {
        let comparison = |share: f64| Comparison {
            workload: "w".into(),
            of: Subject::RIVERRUN.into(),
            to: Subject::NULL_SINK.into(),
            figure: "produced_bytes_per_s".into(),
            ratios: vec![1.0],
            median: 1.0,
            min: 1.0,
            max: 1.0,
            yardstick: Some(Yardstick {
                against: Subject::TCP_UP.into(),
                share,
                least: 0.55,
                accepted: share >= 0.55,
            }),
        };
        let mut document = document(&DataDir::default()).unwrap();
        document.comparisons = vec![comparison(0.6)];
        refuse_bad_yardsticks(&document).unwrap();
        document.comparisons.push(comparison(0.42));
        let refused = refuse_bad_yardsticks(&document).unwrap_err().to_string();
        assert!(refused.contains("0.42") && refused.contains("null-sink"), "{refused}");
        assert_eq!(refused.lines().count(), 1);
    }
}
