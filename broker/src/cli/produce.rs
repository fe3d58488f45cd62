//! `riverrun produce`: lines or JSON of files or standard input become records.
//!
//! ```text
//!   reading thread ──lines──► parse and send ──deliveries──► await in order, count, print
//! ```
//! Both queues are bounded, and so is the producer's buffer: input of any length takes the same
//! memory. The first record that fails ends the command; what was acknowledged before stays and is
//! counted in the summary.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use riverrun_client::{Acks, Compression, Delivery, Error, Producer, Record};
use riverrun_proto::limits::BATCH_BYTES_MAX;
use tokio::sync::mpsc;

use super::{
    error::{Failure, Result},
    input::{self, Input, InputFormat, InputRecord},
    interrupt::Interrupt,
    lines::LineReader,
    output::{self, Stdout, bytes, counted},
    session::{self, Session},
};

/// Lines read ahead of the producer.
const LINES_AHEAD: usize = 1024;

/// Records sent and not yet acknowledged. Their bytes are bounded by the producer; this bounds what
/// remembers them.
const DELIVERIES_AHEAD: usize = 64 * 1024;

/// Of the producer's buffer; a record of the largest size fits.
const BUFFER_BYTES: usize = 2 * BATCH_BYTES_MAX as usize;

/// Printed at once when records come faster than one by one.
const PRINT_BYTES: usize = 32 * 1024;

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

/// A line and where it stood.
type NumberedLine = (u64, Bytes);

/// What was acknowledged.
#[derive(Debug, Default)]
struct Summary {
    records: u64,
    bytes: u64,
    /// First and last offset of each partition; `None` where the broker named none.
    partitions: BTreeMap<u32, Option<(i64, i64)>>,
}

/// A record that was sent.
struct Sent {
    line: u64,
    bytes: u64,
    delivery: Delivery,
}

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
    let awaiting = tokio::spawn(await_deliveries(deliveries, print));
    let sending = send_all(&args, topic, &producer, &sent, &mut interrupt).await;
    drop(sent);
    // The second Ctrl-C does not wait for acknowledgements.
    let (summary, failed) = tokio::select! {
        awaited = awaiting => awaited.map_err(|e| Failure::failed(e.to_string()))?,
        () = interrupt.next() => return Err(Failure::failed("given up before all was acknowledged")),
    };
    let elapsed = session::monotonic().duration_since(started);
    session.say(summary.line(&args.topic, elapsed));
    match failed {
        None => {}
        Some(Stopped::Printing(failure)) => return Err(failure),
        Some(Stopped::Record { line, error }) => {
            let failure = session.explain(&client, &args.topic, error).await;
            return Err(failure.context(format!("line {line}")));
        }
    }
    sending?;
    producer.close(DRAIN_TIMEOUT).await?;
    Ok(())
}

/// Sends until the input ends, a line is wrong, or Ctrl-C.
async fn send_all(
    args: &ProduceArgs,
    topic: Arc<str>,
    producer: &Producer,
    sent: &mpsc::Sender<Sent>,
    interrupt: &mut Interrupt,
) -> Result<()> {
    let input = Input {
        format: args.format,
        key_delimiter: args.key_delimiter.clone(),
        tombstones: args.tombstone,
        key: args.key.clone().map(Bytes::from),
        headers: args.headers.clone(),
        partition: args.partition,
    };
    let mut lines = read_lines(args.files.clone(), args.delimiter.clone())?;
    loop {
        let line = tokio::select! {
            line = lines.recv() => line,
            () = interrupt.next() => return Ok(()),
        };
        let Some(line) = line else { return Ok(()) };
        let (number, line) = line?;
        let record = input.record(line).map_err(|what| {
            Failure::usage(format!("line {number}: {what}"))
                .advise("the lines before it are written; this one and those after it are not")
        })?;
        let Some(record) = record else { continue };
        let bytes = record.value.as_ref().map_or(0, Bytes::len) as u64;
        let delivery = producer
            .send(build(record, &topic))
            .await
            .map_err(|e| Failure::from(e).context(format!("line {number}")))?;
        if sent.send(Sent { line: number, bytes, delivery }).await.is_err() {
            // The other side has met a failure and says so.
            return Ok(());
        }
    }
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
fn read_lines(
    files: Vec<PathBuf>,
    delimiter: String,
) -> Result<mpsc::Receiver<Result<NumberedLine>>> {
    let (sender, receiver) = mpsc::channel(LINES_AHEAD);
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

fn read_file(path: &Path, delimiter: &[u8], to: &mpsc::Sender<Result<NumberedLine>>) -> Result<()> {
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
    while let Some(line) = lines.next_line().map_err(|e| failed(&e))? {
        if to.blocking_send(Ok((lines.lines(), line))).is_err() {
            break;
        }
    }
    Ok(())
}

/// Why not everything was acknowledged or printed.
enum Stopped {
    /// A record was not written.
    Record { line: u64, error: Error },
    /// Nobody reads what is printed.
    Printing(Failure),
}

/// Counts what is acknowledged until all is or something fails.
async fn await_deliveries(
    mut deliveries: mpsc::Receiver<Sent>,
    print: Option<Arc<str>>,
) -> (Summary, Option<Stopped>) {
    let mut summary = Summary::default();
    let mut unprinted = Vec::new();
    let mut stopped = None;
    while let Some(Sent { line, bytes, delivery }) = deliveries.recv().await {
        let written = match delivery.await {
            Ok(written) => written,
            Err(error) => {
                stopped = Some(Stopped::Record { line, error });
                break;
            }
        };
        summary.add(written.partition(), written.offset(), bytes);
        let Some(topic) = &print else { continue };
        let place = place(topic, written.partition(), written.offset());
        unprinted.extend_from_slice(place.as_bytes());
        if (deliveries.is_empty() || unprinted.len() > PRINT_BYTES)
            && let Err(failure) = print_all(&mut unprinted)
        {
            return (summary, Some(Stopped::Printing(failure)));
        }
    }
    // What was acknowledged is told whatever came after it.
    match print_all(&mut unprinted) {
        Ok(()) => (summary, stopped),
        Err(failure) => (summary, stopped.or(Some(Stopped::Printing(failure)))),
    }
}

fn place(topic: &str, partition: u32, offset: Option<i64>) -> String {
    match offset {
        Some(offset) => format!("{topic}[{partition}]@{offset}\n"),
        None => format!("{topic}[{partition}]\n"),
    }
}

fn print_all(lines: &mut Vec<u8>) -> Result<()> {
    let mut out = Stdout::lock();
    out.bytes(lines)?;
    lines.clear();
    out.flush()
}

// === impl Summary ===

impl Summary {
    fn add(&mut self, partition: u32, offset: Option<i64>, bytes: u64) {
        self.records += 1;
        self.bytes += bytes;
        let range = self.partitions.entry(partition).or_default();
        if let Some(offset) = offset {
            let (first, last) = range.unwrap_or((offset, offset));
            *range = Some((first.min(offset), last.max(offset)));
        }
    }

    /// `3 records, 12 B to greetings in 4.20 ms: [0]@7 to 8, [2]@0`
    fn line(&self, topic: &str, elapsed: Duration) -> String {
        const PARTITIONS_SHOWN: usize = 8;
        let mut places: Vec<String> = self
            .partitions
            .iter()
            .take(PARTITIONS_SHOWN)
            .map(|(partition, range)| match range {
                None => format!("[{partition}]"),
                Some((first, last)) if first == last => format!("[{partition}]@{first}"),
                Some((first, last)) => format!("[{partition}]@{first} to {last}"),
            })
            .collect();
        if self.partitions.len() > PARTITIONS_SHOWN {
            places.push(format!("{} partitions more", self.partitions.len() - PARTITIONS_SHOWN));
        }
        let places =
            if places.is_empty() { String::new() } else { format!(": {}", places.join(", ")) };
        format!(
            "{}, {} to {topic} in {}{places}",
            counted(self.records, "record"),
            bytes(self.bytes),
            output::duration(elapsed),
        )
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
    fn the_summary_names_where_records_went() {
        let mut summary = Summary::default();
        let took = Duration::from_micros(4_200);
        assert_eq!(summary.line("t", took), "0 records, 0 B to t in 4.20 ms");
        for (partition, offset) in [(2, Some(0)), (0, Some(7)), (0, Some(8)), (1, None)] {
            summary.add(partition, offset, 3);
        }
        assert_eq!(
            summary.line("t", took),
            "4 records, 12 B to t in 4.20 ms: [0]@7 to 8, [1], [2]@0"
        );
        (0..20).for_each(|partition| summary.add(partition, Some(9), 0));
        assert!(summary.line("t", took).ends_with(", 12 partitions more"));
    }

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
