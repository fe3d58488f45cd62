//! `riverrun demo`: the main job in one command. A broker on TCP loopback, every line of a file
//! through it with acks=all, read back meanwhile, and everything checked.

mod machine;
mod pipeline;
mod progress;
mod report;
mod source;
mod uplink;
mod verify;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use riverrun_client::Client;
use riverrun_proto::limits::BATCH_BYTES_MAX;
use tempfile::TempDir;
use tokio::runtime::Runtime;

pub use self::machine::Machine;
use self::{
    pipeline::{Outcome, Pipeline},
    progress::Progress,
    report::{Rate, Report},
    source::Source,
};
use super::{
    error::{Exit, Failure, Result},
    output::{OutputArgs, Stdout},
    serve,
    session::{self, Session},
};
use crate::server::Embedded;

const TOPIC: &str = "demo";

/// Longest time that a stopping broker waits for its clients; there is only our own.
const DRAIN: Duration = Duration::from_secs(2);

/// Longest wait for threads that still run when all is over.
const RUNTIME_END: Duration = Duration::from_secs(5);

/// Stream a file through a broker and check that everything arrives
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  riverrun demo                          a million made-up orders of about 200 bytes
  riverrun demo /var/log/syslog          every line of a file, whatever its bytes
  riverrun demo --records 10000 --json
  zcat big.gz | riverrun demo -

Starts a broker on a free port of 127.0.0.1 with default durability (synced to disk before it
acknowledges), data in a temporary directory that is removed whatever happens. Each line becomes a
record; line n has key n mod 1024. A consumer reads meanwhile. At the end both sides are compared:
order per key, count, content hash, offsets. The exit code is 0 only if all of it is right.")]
pub(crate) struct DemoArgs {
    /// Any file; - means standard input; without it records are made up
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,

    /// So many records: made up, or the first of FILE [default: 1000000, or all of FILE]
    #[arg(short = 'n', long, value_name = "N")]
    records: Option<u64>,

    /// Partitions of the topic
    #[arg(short, long, value_name = "N", default_value_t = 6)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
    partitions: u32,

    /// Where to make the temporary directory [default: TMPDIR, or /var/tmp, which is on a disk]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,

    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(args: &DemoArgs, session: &Session) -> Result<()> {
    let source = Source::new(args.file.as_deref(), args.records);
    let progress = Progress::new(&source, source.size()?, session.shows_progress());
    let dir = make_dir(args.dir.as_deref())?;
    let machine = Machine::here(dir.path());
    if machine.is_memory_only() {
        session.say(format_args!(
            "note: {} is {}: syncing costs nothing there; --dir DIR puts the data on a disk",
            dir.path().display(),
            machine.file_system
        ));
    }
    let runtime = Runtime::new().map_err(|e| Failure::io("cannot start threads", &e))?;
    let outcome = runtime.block_on(measure(args, source.clone(), dir.path(), session, &progress));
    runtime.shutdown_timeout(RUNTIME_END);
    progress.finish();
    remove(dir, session);
    let report = report(args, &source, machine, outcome?, session);
    let mut out = Stdout::lock();
    if args.output.is_json() {
        out.json(&report)?;
    } else {
        out.line(report.text())?;
    }
    out.flush()?;
    if report.verified {
        return Ok(());
    }
    let faults = report.faults.into_iter();
    Err(faults.fold(Failure::failed("what was read is not what was written"), Failure::advise))
}

/// A broker, the pipeline through it, and the broker's orderly end whatever became of that.
async fn measure(
    args: &DemoArgs,
    source: Source,
    dir: &Path,
    session: &Session,
    progress: &Progress,
) -> Result<Outcome> {
    let mut interrupt = session::interrupt()?;
    let broker = Embedded::builder()
        .data_dir(dir)
        .configure(|config| {
            config.broker.auto_create_topics_enable = false;
            config.broker.shutdown_drain_ms = DRAIN;
        })
        .start()
        .await
        .map_err(serve::cannot_start)?;
    let outcome = tokio::select! {
        outcome = stream(args, source, &broker, session, progress) => outcome,
        () = interrupt.next() => Err(Failure::failed("interrupted")),
    };
    broker.stop().await;
    outcome
}

async fn stream(
    args: &DemoArgs,
    source: Source,
    broker: &Embedded,
    session: &Session,
    progress: &Progress,
) -> Result<Outcome> {
    let client = Client::builder()
        .bootstrap_servers([broker.address()])
        .client_id("riverrun-demo")
        .build()
        .await?;
    // The bound on a line is the protocol's, not the default of a topic; it costs nothing where
    // lines are short.
    client
        .admin()
        .create_topic(TOPIC)
        .partitions(args.partitions)
        .config("max.message.bytes", BATCH_BYTES_MAX.to_string())
        .send()
        .await?;
    Pipeline::new(client, args.partitions, session.start(), progress).run(source).await
}

fn report(
    args: &DemoArgs,
    source: &Source,
    machine: Machine,
    outcome: Outcome,
    session: &Session,
) -> Report {
    let Outcome { written, acked, read, moments, durability, ack_latency, end_to_end } = outcome;
    let faults = verify::faults(&written, &acked, &read);
    let since_start = |moment: Option<crate::clock::Instant>| {
        let elapsed = moment.map_or(Duration::ZERO, |at| at.duration_since(session.start()));
        u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX)
    };
    Report {
        version: env!("CARGO_PKG_VERSION"),
        source: source.name(),
        machine,
        partitions: args.partitions,
        acks: "all",
        durability,
        records: written.records,
        bytes: written.bytes,
        produce: Rate::new(&written, moments.first_send, moments.last_ack),
        produce_and_consume: Rate::new(&read.tally, moments.first_send, moments.last_read),
        ack_latency: ack_latency.percentiles(),
        end_to_end_latency: end_to_end.percentiles(),
        first_ack_us: since_start(moments.first_ack),
        first_read_us: since_start(moments.first_read),
        keys: verify::KEYS.min(written.records),
        content_hash: format!("{:032x}", written.content),
        verified: faults.is_empty(),
        faults,
    }
}

/// On a disk if possible: /tmp is memory on many machines, /var/tmp is not.
fn make_dir(wanted: Option<&Path>) -> Result<TempDir> {
    let var_tmp = Path::new("/var/tmp");
    let parent = match wanted {
        Some(dir) => {
            fs::create_dir_all(dir)
                .map_err(|e| Failure::io(format!("cannot make {}", dir.display()), &e))?;
            dir.to_owned()
        }
        None if std::env::var_os("TMPDIR").is_none() && var_tmp.is_dir() => var_tmp.to_owned(),
        None => std::env::temp_dir(),
    };
    let made = tempfile::Builder::new().prefix("riverrun-demo-").tempdir_in(&parent);
    made.map_err(|e| {
        Failure::io(format!("cannot make a directory in {}", parent.display()), &e)
            .advise("name another place: --dir DIR")
    })
}

/// Removing may meet files that a thread of the broker was still writing: then once more.
fn remove(dir: TempDir, session: &Session) {
    let path = dir.path().to_owned();
    if dir.close().is_err()
        && let Err(error) = fs::remove_dir_all(&path)
        && path.exists()
    {
        session.say(format_args!("could not remove {}: {error}", path.display()));
    }
}

/// A task of the demo ended by a panic, which it has printed.
fn task_died(error: &tokio::task::JoinError) -> Failure {
    Failure::new(Exit::Failure, format!("a task of the demo died: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_is_made_where_it_is_wanted_and_goes_away() {
        let parent = tempfile::tempdir().unwrap();
        let wanted = parent.path().join("a/b");
        let dir = make_dir(Some(&wanted)).unwrap();
        assert!(dir.path().starts_with(&wanted));
        drop(dir);
        assert_eq!(fs::read_dir(&wanted).unwrap().count(), 0);
        let file = parent.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(make_dir(Some(&file)).is_err());
    }
}
