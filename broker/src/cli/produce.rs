//! `riverrun produce`: lines or JSON of files or standard input become records.
//!
//! ```text
//!   reading thread ──lines──► parse and send ──deliveries──► await in order, count, print
//! ```
//! Both queues are bounded, and so is the producer's buffer: input of any length takes the same
//! memory. The first record that fails ends the command; what was acknowledged before stays and is
//! counted in the summary.

use std::{
    fs::File,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use riverrun_client::{Acks, Compression, Producer, Record};
use riverrun_proto::limits::BATCH_BYTES_MAX;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    acknowledged::{Acknowledged, Sent},
    error::{Failure, Result},
    input::{self, Input, InputFormat, InputRecord},
    lines::LineReader,
    session::{self, Session},
};

/// Chunks of lines read ahead of the producer; each at most 128 KiB and a line.
const CHUNKS_AHEAD: usize = 4;

/// Records sent and not yet acknowledged. Their bytes are bounded by the producer; this bounds what
/// remembers them.
const DELIVERIES_AHEAD: usize = 64 * 1024;

/// Of the producer's buffer; a record of the largest size fits.
const BUFFER_BYTES: usize = 2 * BATCH_BYTES_MAX as usize;

/// Longest wait for the last acknowledgements after the input has ended.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(120);

/// Write lines or JSON of files or standard input to a topic
#[derive(Args, Debug)]
#[command(after_help = r#"Examples:
  echo hello | riverrun produce greetings
  riverrun produce orders orders.ndjson --format json
  riverrun produce orders -K : --print-offsets <<< 'customer-7:one coffee'
  riverrun produce logs -k host-1 -H source=syslog -z zstd /var/log/syslog
  riverrun consume a -e --format ndjson | riverrun produce b --format json

JSON input has one object a line, all parts optional:
  {"key":"a","value":"b","headers":{"h":"x"},"timestamp":1795219200000,"partition":0}
A key or value that is an object or a number is stored as it is written; bytes that are not UTF-8
stand in Base64 as "key_base64" and "value_base64". Names other than these are errors."#)]
pub(crate) struct ProduceArgs {
    /// Topic to write to
    #[arg(value_name = "TOPIC")]
    topic: String,

    /// Files to read, one after the other; - and none at all mean standard input
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,

    /// What a line is
    #[arg(short, long, value_enum, default_value_t)]
    format: InputFormat,

    /// What lines end with; \n, \t, \r and \0 may be written so
    #[arg(short = 'D', long, value_name = "TEXT", default_value = r"\n")]
    #[arg(value_parser = input::delimiter)]
    delimiter: String,

    /// Lines are key, this text, value
    #[arg(short = 'K', long, value_name = "TEXT", value_parser = input::delimiter)]
    key_delimiter: Option<String>,

    /// Key of all records that have none of their own
    #[arg(short, long)]
    key: Option<String>,

    /// A header of all records; may be given several times
    #[arg(short = 'H', long = "header", value_name = "NAME=VALUE", value_parser = input::header)]
    headers: Vec<(String, Option<Bytes>)>,

    /// Partition of all records that name none [default: by hash of the key, as Kafka does]
    #[arg(short, long, value_name = "N")]
    partition: Option<u32>,

    /// An empty value means null (a tombstone)
    #[arg(short = 'Z', long)]
    tombstone: bool,

    /// When a record counts as written
    #[arg(long, value_enum, default_value_t)]
    acks: AcksArg,

    /// What batches are compressed with
    #[arg(short = 'z', long, value_enum, value_name = "CODEC", default_value_t)]
    compression: CompressionArg,

    /// Print TOPIC[PARTITION]@OFFSET of every record
    #[arg(short = 'O', long)]
    print_offsets: bool,
}

/// When a record counts as written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum AcksArg {
    /// All in-sync replicas have it, as durably as the topic says
    #[default]
    #[value(alias = "-1")]
    All,
    /// The leader has it
    #[value(alias = "1")]
    Leader,
    /// It was sent
    #[value(alias = "0")]
    None,
}

/// What batches are compressed with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum CompressionArg {
    None,
    Gzip,
    Snappy,
    #[default]
    Lz4,
    Zstd,
}

/// Lines of an input, and the number of the first; numbers begin at 1 in each file.
type Chunk = (u64, Vec<Bytes>);

pub(crate) async fn run(args: ProduceArgs, session: &Session) -> Result<()> {
    let client = session.client().await?;
    let mut interrupt = session::interrupt()?;
    let producer = client
        .producer()
        .acks(args.acks.into())
        .compression(args.compression.into())
        .buffer_memory(BUFFER_BYTES)
        .max_request_size(BATCH_BYTES_MAX as usize)
        .delivery_timeout(session.timeout().max(DRAIN_TIMEOUT))
        .build()
        .await?;
    let started = session::monotonic();
    let (sent, deliveries) = mpsc::channel(DELIVERIES_AHEAD);
    let topic: Arc<str> = args.topic.as_str().into();
    let print = args.print_offsets.then(|| Arc::clone(&topic));
    let stop = CancellationToken::new();
    let awaiting = tokio::spawn(Acknowledged::all(deliveries, print, stop.clone()));
    let sending = tokio::select! {
        sending = send_all(&args, topic, &producer, &sent) => sending,
        // What was sent is awaited; what was read and not sent is dropped.
        () = interrupt.next() => Ok(()),
        () = stop.cancelled() => Ok(()),
    };
    drop(sent);
    // The second Ctrl-C does not wait for acknowledgements.
    let done = tokio::select! {
        done = awaiting => done.map_err(|e| Failure::failed(e.to_string()))?,
        () = interrupt.next() => return Err(Failure::failed("given up before all was acknowledged")),
    };
    let elapsed = session::monotonic().duration_since(started);
    session.say(done.summary.line(&args.topic, elapsed));
    if let Some((line, error)) = done.failed {
        let failure = session.explain(&client, &args.topic, error).await;
        return Err(failure.context(format!("line {line}")));
    }
    if let Some(failure) = done.unprinted {
        return Err(failure);
    }
    sending?;
    producer.close(DRAIN_TIMEOUT).await?;
    Ok(())
}

/// Sends until the input ends or a line is wrong. Dropped, it has sent what it has sent.
async fn send_all(
    args: &ProduceArgs,
    topic: Arc<str>,
    producer: &Producer,
    sent: &mpsc::Sender<Sent>,
) -> Result<()> {
    let input = Input {
        format: args.format,
        key_delimiter: args.key_delimiter.clone(),
        tombstones: args.tombstone,
        key: args.key.clone().map(Bytes::from),
        headers: args.headers.clone(),
        partition: args.partition,
    };
    let mut chunks = read_lines(args.files.clone(), args.delimiter.clone())?;
    while let Some(chunk) = chunks.recv().await {
        let (first, lines) = chunk?;
        for (number, line) in (first..).zip(lines) {
            let record = input.record(line).map_err(|what| {
                Failure::usage(format!("line {number}: {what}"))
                    .advise("the lines before it are written; this one and those after it are not")
            })?;
            let Some(record) = record else { continue };
            let bytes = record.value.as_ref().map_or(0, Bytes::len) as u64;
            // The place first: what is sent is always awaited.
            let Ok(place) = sent.reserve().await else { return Ok(()) };
            let delivery = producer.send(build(record, &topic)).await?;
            place.send(Sent { line: number, bytes, delivery });
        }
    }
    Ok(())
}

fn build(input: InputRecord, topic: &Arc<str>) -> Record {
    let mut record = Record::to(Arc::clone(topic));
    if let Some(key) = input.key {
        record = record.key(key);
    }
    if let Some(value) = input.value {
        record = record.value(value);
    }
    for (name, value) in input.headers {
        record = match value {
            Some(value) => record.header(name, value),
            None => record.null_header(name),
        };
    }
    if let Some(ms) = input.timestamp_ms {
        record = record.timestamp(ms);
    }
    if let Some(partition) = input.partition {
        record = record.partition(partition);
    }
    record
}

/// Reads on a thread of its own: standard input may never end, and reading it cannot be given up.
fn read_lines(files: Vec<PathBuf>, delimiter: String) -> Result<mpsc::Receiver<Result<Chunk>>> {
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
    let files = if files.is_empty() { vec![PathBuf::from("-")] } else { files };
    // Found before anything is sent.
    for file in files.iter().filter(|file| *file != Path::new("-")) {
        File::open(file).map_err(|e| Failure::io(format!("cannot read {}", file.display()), &e))?;
    }
    let read = move || {
        for file in files {
            if let Err(failure) = read_file(&file, delimiter.as_bytes(), &sender) {
                // Nobody there any more: nobody to tell.
                let _ = sender.blocking_send(Err(failure));
                return;
            }
        }
    };
    let spawned = thread::Builder::new().name("input".into()).spawn(read);
    spawned.map_err(|e| Failure::io("cannot start a thread", &e))?;
    Ok(receiver)
}

fn read_file(path: &Path, delimiter: &[u8], to: &mpsc::Sender<Result<Chunk>>) -> Result<()> {
    let failed = |what: &dyn std::fmt::Display| {
        Failure::failed(format!("cannot read {}: {what}", path.display()))
    };
    let source: Box<dyn io::Read> = if path == Path::new("-") {
        if io::stdin().is_terminal() {
            eprintln!("One record a line; Ctrl-D ends.");
        }
        Box::new(io::stdin().lock())
    } else {
        Box::new(File::open(path).map_err(|e| failed(&e))?)
    };
    let mut lines = LineReader::new(source, delimiter, BATCH_BYTES_MAX as usize);
    loop {
        let first = lines.lines() + 1;
        let chunk = lines.next_chunk().map_err(|e| failed(&e))?;
        if chunk.is_empty() || to.blocking_send(Ok((first, chunk))).is_err() {
            return Ok(());
        }
    }
}

impl From<AcksArg> for Acks {
    fn from(acks: AcksArg) -> Self {
        match acks {
            AcksArg::All => Self::All,
            AcksArg::Leader => Self::Leader,
            AcksArg::None => Self::None,
        }
    }
}

impl From<CompressionArg> for Compression {
    fn from(codec: CompressionArg) -> Self {
        match codec {
            CompressionArg::None => Self::None,
            CompressionArg::Gzip => Self::Gzip,
            CompressionArg::Snappy => Self::Snappy,
            CompressionArg::Lz4 => Self::Lz4,
            CompressionArg::Zstd => Self::Zstd,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_has_every_part() {
        let topic = Arc::from("t");
        let input = InputRecord {
            key: Some("k".into()),
            value: None,
            headers: vec![("a".into(), Some("1".into())), ("b".into(), None)],
            timestamp_ms: Some(5),
            partition: Some(3),
        };
        let expected = Record::to("t").key("k").header("a", "1").null_header("b");
        assert_eq!(build(input, &topic), expected.timestamp(5).partition(3));
        assert_eq!(build(InputRecord::default(), &topic), Record::to("t"));
    }
}
