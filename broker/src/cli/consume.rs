//! `riverrun consume`: records of topics, as they are or as they come.

use std::{collections::BTreeMap, sync::Arc, task::Poll, time::Duration};

use clap::Args;
use futures::StreamExt as _;
use riverrun_client::{
    Admin, Client, Consumer, ConsumerRecord, Error, Position, Topic, TopicPartition,
};

use super::{
    consume_range::{Edges, Range, Times},
    error::{Exit, Failure, Result},
    format::Format,
    interrupt::Interrupt,
    json_record::RecordView,
    offset_spec::{OffsetSpec, Place},
    output::{self, Stdout, counted},
    session::{self, Session},
};
use crate::clock::{Clock as _, SystemClock};

/// Records whose output may wait for more of them; then it is written whatever comes.
const UNWRITTEN_RECORDS: u32 = 1024;
const UNWRITTEN_BYTES: usize = 256 * 1024;

/// Silence after which it is looked whether the broker is there.
const SILENCE_CHECK: Duration = Duration::from_secs(5);

/// Read records of topics
#[derive(Args, Debug)]
#[command(after_help = r#"Examples:
  riverrun consume greetings                     from the start, and go on waiting
  riverrun consume greetings -o end              what is written from now on
  riverrun consume greetings -e -o -10           the last 10 of each partition, then exit
  riverrun consume greetings -n 1 -p 2 -o 4711   one certain record
  riverrun consume orders -e -o @-1h:@-30m -f ndjson | jq -r .value
  riverrun consume orders -f '%T{%H:%M:%S} %p@%o %k=%v\n'

Offsets (-o), as in rpk and kcat:
  start, end, 47, +10 (10 after the start), -10 (10 before the end), @TIME,
  and ranges FROM:TO without TO itself: 40:47, :end, -10:-5, @2026-11-21:@2026-11-22
  TIME: a date, a date and time (UTC unless it has a zone), seconds or milliseconds since 1970,
  or how long ago: -90m

Formats (-f):
  value    the value and a line end (default)
  json     an indented object per record;  ndjson  an object on one line
  others   %k key, %v value, %h headers, %t topic, %p partition, %o offset, %T milliseconds,
           %T{%F %T} time in UTC, %K %V lengths (null: -1), %H number of headers, %e leader epoch;
           %k{hex} %k{base64} %k{json}, %v likewise; \n \t \0 \xHH; no line end unless it says \n
In json a key, value or header that is not UTF-8 stands in Base64 as "key_base64", "value_base64"."#)]
pub(crate) struct ConsumeArgs {
    /// Topics to read
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<String>,

    /// Where to begin, and where to end
    #[arg(short, long, value_name = "OFFSET", default_value = "start")]
    #[arg(allow_hyphen_values = true)]
    offset: OffsetSpec,

    /// Exit after this many records
    #[arg(short = 'n', long, value_name = "N", visible_alias = "count", short_alias = 'c')]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    num: Option<u64>,

    /// Exit where the partitions end now, instead of waiting for more
    #[arg(short, long)]
    exit_at_end: bool,

    /// Wait for more at the end (the default)
    #[arg(long, conflicts_with = "exit_at_end")]
    follow: bool,

    /// Only these partitions: 0,2,4-7
    #[arg(short, long, value_name = "LIST", value_delimiter = ',', value_parser = partitions)]
    partitions: Vec<std::ops::RangeInclusive<u32>>,

    /// Read from replicas in this rack, where there are any in sync (`broker.rack` of the brokers)
    #[arg(long, value_name = "RACK", default_value = "", hide_default_value = true)]
    rack: String,

    /// How to print a record
    #[arg(short, long, value_name = "FORMAT", default_value = "value")]
    format: Format,
}

/// What of each partition is still to be read.
type Ranges = BTreeMap<TopicPartition, Range>;

pub(crate) async fn run(args: ConsumeArgs, session: &Session) -> Result<()> {
    let client = session.client().await?;
    let mut interrupt = session::interrupt()?;
    let mut wanted = Vec::new();
    for name in &args.topics {
        let topic = match session.admin(&client).describe_topic(name.as_str()).await {
            Ok(description) => description.topic,
            Err(e) => return Err(session.explain(&client, name, e).await),
        };
        wanted.extend(choose(&topic, &args.partitions)?);
    }
    let ranges = resolve(&session.admin(&client), &wanted, &args).await?;
    let started = session::monotonic();
    let mut printed = Printed::default();
    let read = read(&client, ranges, &args, &mut interrupt, session, &mut printed).await;
    let elapsed = session::monotonic().duration_since(started);
    session.say(printed.line(elapsed));
    read
}

/// The partitions of a topic that were asked for.
fn choose(topic: &Topic, wanted: &[std::ops::RangeInclusive<u32>]) -> Result<Vec<TopicPartition>> {
    let name = &topic.name;
    let count = u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX);
    if let Some(missing) = wanted.iter().map(std::ops::RangeInclusive::end).find(|p| **p >= count) {
        return Err(Failure::new(
            Exit::NotFound,
            format!(
                "topic '{name}' has no partition {missing}: its partitions are 0 to {}",
                count.saturating_sub(1)
            ),
        ));
    }
    let chosen = (0..count).filter(|partition| {
        wanted.is_empty() || wanted.iter().any(|range| range.contains(partition))
    });
    Ok(chosen.map(|partition| TopicPartition::new(name.clone(), partition)).collect())
}

/// Turns what was typed into offsets of each partition, once, at the start.
async fn resolve(admin: &Admin, wanted: &[TopicPartition], args: &ConsumeArgs) -> Result<Ranges> {
    let now = SystemClock.now();
    let offsets = async |position| offsets(admin, wanted, position).await;
    let starts = offsets(Position::Earliest).await?;
    let ends = offsets(Position::Latest).await?;
    let at_time = async |place: Option<Place>| match place {
        Some(Place::Time(time)) => {
            offsets(Position::Timestamp(time.resolve(now).as_millis())).await.map(Some)
        }
        _ => Ok(None),
    };
    let from_times = at_time(Some(args.offset.from)).await?;
    let to_times = at_time(args.offset.to).await?;
    let mut ranges = Ranges::new();
    for (i, partition) in wanted.iter().enumerate() {
        let edges = Edges { start: starts[i], end: ends[i] };
        let times = Times {
            from: from_times.as_ref().map(|times| times[i]),
            to: to_times.as_ref().map(|times| times[i]),
        };
        let range = Range::new(&args.offset, edges, times, args.exit_at_end);
        ranges.insert(partition.clone(), range);
    }
    Ok(ranges)
}

/// An offset per partition, in order.
async fn offsets(
    admin: &Admin,
    partitions: &[TopicPartition],
    position: Position,
) -> Result<Vec<i64>> {
    let queries = partitions.iter().map(|partition| (partition.clone(), position));
    let results = admin.list_offsets(queries).await?;
    results.into_iter().map(|result| Ok(result?.offset)).collect()
}

/// Prints records until all ranges are read, the count is reached, or Ctrl-C.
async fn read(
    client: &Client,
    mut ranges: Ranges,
    args: &ConsumeArgs,
    interrupt: &mut Interrupt,
    session: &Session,
    printed: &mut Printed,
) -> Result<()> {
    ranges.retain(|_, range| !range.is_done());
    if ranges.is_empty() {
        return Ok(());
    }
    let positions = ranges.iter().map(|(partition, range)| {
        (Arc::clone(&partition.topic), partition.partition, Position::Offset(range.read_from))
    });
    let consumer = client.consumer().assign(positions).rack(args.rack.as_str());
    let mut consumer: Consumer = consumer.build().await?;
    let mut out = Vec::new();
    let mut unwritten = 0;
    let mut silence = Silence::new(session.timeout());
    let mut told_of_end = !session.shows_progress() || args.exit_at_end;
    loop {
        let next = match futures::poll!(consumer.next()) {
            Poll::Ready(next) => next,
            Poll::Pending => {
                // What was read is written before anything is waited for.
                write(&mut out)?;
                unwritten = 0;
                skip(&mut ranges, &consumer)?;
                if ranges.is_empty() {
                    return Ok(());
                }
                if !told_of_end && printed.records > 0 && consumer.is_caught_up() {
                    told_of_end = true;
                    session.say("at the end; waiting for more, Ctrl-C stops (-e exits here)");
                }
                tokio::select! {
                    next = consumer.next() => next,
                    () = interrupt.next() => return Ok(()),
                    () = tokio::time::sleep(silence.patience()) => {
                        silence.goes_on(&ranges, session).await?;
                        continue;
                    }
                }
            }
        };
        silence.ends(session);
        let Some(next) = next else { return Ok(()) };
        let record = match next {
            Ok(record) => record,
            Err(error) => {
                write(&mut out)?;
                return Err(explain(&error));
            }
        };
        if take(&record, &mut ranges, &consumer)? {
            args.format
                .write(&RecordView::from(&record), &mut out)
                .map_err(|e| Failure::io("cannot print a record", &e))?;
            printed.add(&record);
            unwritten += 1;
        }
        if ranges.is_empty() || args.num.is_some_and(|num| printed.records >= num) {
            return write(&mut out);
        }
        if unwritten >= UNWRITTEN_RECORDS || out.len() >= UNWRITTEN_BYTES {
            write(&mut out)?;
            unwritten = 0;
        }
    }
}

/// Offsets may be no records: then the consumer is past them and no record says so.
fn skip(ranges: &mut Ranges, consumer: &Consumer) -> Result<()> {
    for (partition, range) in ranges.iter_mut() {
        if let Some(position) = consumer.position(partition)? {
            range.advance_to(position);
        }
    }
    ranges.retain(|_, range| !range.is_done());
    Ok(())
}

/// How long nothing has come. A consumer retries without end, so only silence tells that the broker
/// is gone: an error where records are owed, a word to whoever sits there where they may yet come.
struct Silence {
    timeout: Duration,
    so_far: Duration,
    told: bool,
}

// === impl Silence ===

impl Silence {
    fn new(timeout: Duration) -> Self {
        Self { timeout, so_far: Duration::ZERO, told: false }
    }

    /// How long to wait before looking.
    fn patience(&self) -> Duration {
        self.timeout.min(SILENCE_CHECK)
    }

    /// The patience is over and nothing has come.
    async fn goes_on(&mut self, ranges: &Ranges, session: &Session) -> Result<()> {
        self.so_far += self.patience();
        let owed = ranges.iter().filter(|(_, range)| range.is_owed());
        let owed: Vec<String> = owed.map(|(partition, _)| partition.to_string()).collect();
        if !owed.is_empty() && self.so_far >= self.timeout {
            let waited = output::duration(self.so_far);
            let owed = owed.join(", ");
            let what = format!("no record came for {waited}, although there are more: {owed}");
            return Err(Failure::new(Exit::Unavailable, what)
                .advise("is the broker up? riverrun topic list"));
        }
        match session.knock().await {
            Ok(()) if self.told => self.ends(session),
            Err(_) if !self.told => {
                self.told = true;
                session.say("the broker cannot be reached; waiting for it, Ctrl-C stops");
            }
            _ => {}
        }
        Ok(())
    }

    /// Something came.
    fn ends(&mut self, session: &Session) {
        self.so_far = Duration::ZERO;
        if std::mem::take(&mut self.told) {
            session.say("the broker is back");
        }
    }
}

/// What the stream of records ended with; damage has a way on.
fn explain(error: &Error) -> Failure {
    let failure = Failure::from(error.clone());
    match error.next_offset() {
        Some(next) => failure.advise(format!("go on behind it: -o {next} -p PARTITION")),
        None => failure,
    }
}

/// Whether a record is one of those that were asked for. A partition that has been read to its end
/// is not asked for any more.
fn take(record: &ConsumerRecord, ranges: &mut Ranges, consumer: &Consumer) -> Result<bool> {
    let partition = record.topic_partition();
    let Some(range) = ranges.get_mut(&partition) else { return Ok(false) };
    let wanted = range.take(record.offset());
    if range.is_done() {
        consumer.pause([&partition])?;
        ranges.remove(&partition);
    }
    Ok(wanted)
}

fn write(bytes: &mut Vec<u8>) -> Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let mut out = Stdout::lock();
    out.bytes(bytes)?;
    bytes.clear();
    out.flush()
}

/// What was printed.
#[derive(Debug, Default)]
struct Printed {
    records: u64,
    bytes: u64,
}

// === impl Printed ===

impl Printed {
    fn add(&mut self, record: &ConsumerRecord) {
        self.records += 1;
        self.bytes += record.value().map_or(0, <[u8]>::len) as u64;
    }

    fn line(&self, elapsed: Duration) -> String {
        format!(
            "{}, {} in {}",
            counted(self.records, "record"),
            output::bytes(self.bytes),
            output::duration(elapsed)
        )
    }
}

/// `3` or `4-7`
fn partitions(text: &str) -> Result<std::ops::RangeInclusive<u32>, String> {
    let number = |text: &str| {
        text.trim().parse::<u32>().map_err(|_| format!("'{text}' is no partition; write 0,2,4-7"))
    };
    match text.split_once('-') {
        None => number(text).map(|partition| partition..=partition),
        Some((from, to)) => match (number(from)?, number(to)?) {
            (from, to) if from <= to => Ok(from..=to),
            (from, to) => Err(format!("{from}-{to} is empty; write {to}-{from}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_as_typed() {
        assert_eq!(partitions("3"), Ok(3..=3));
        assert_eq!(partitions("4-7"), Ok(4..=7));
        for bad in ["", "x", "-1", "7-4", "1-", "1-2-3"] {
            assert!(partitions(bad).is_err(), "{bad}");
        }
    }
}
