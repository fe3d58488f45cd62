//! `riverrun log`: a broker's files, read without a broker.

use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use riverrun_proto::{
    limits::BATCH_DECOMPRESSED_BYTES_MAX,
    record::{Decompressor, RecordBatch},
};
use serde_json::{Value, json};

use super::{
    error::{Exit, Failure, Result},
    json_record::RecordView,
    output::{self, OutputArgs, Stdout, count, counted},
    session::Session,
};
use crate::log::{
    inspect::{self, InspectError, SegmentEnd, StoredBatch},
    layout::segment_file,
    verify::{Finding, Verified, verify_partition},
};

/// Look into a broker's files, without a broker
#[derive(Debug, Subcommand)]
pub(crate) enum LogCommand {
    Dump(DumpArgs),
    Verify(VerifyArgs),
}

/// Print the batches of segments, as kafka-dump-log does
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  riverrun log dump riverrun-data/data/<id>-0/00000000000000000000.log
  riverrun log dump riverrun-data/data/<id>-0 --records
  riverrun log dump riverrun-data -o json | jq -r '.records[].value'   (with --records)

Reads only. On a running broker the end of the active segment may look torn.")]
pub(crate) struct DumpArgs {
    /// A segment (.log), a partition's directory, or a data directory
    #[arg(value_name = "FILE|DIR")]
    path: PathBuf,

    /// Also print the records of each batch
    #[arg(short, long)]
    records: bool,

    #[command(flatten)]
    output: OutputArgs,
}

/// Check every byte of partitions: checksums, records, offsets, indexes
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  riverrun log verify riverrun-data
  riverrun log verify riverrun-data/data/<id>-0 -o json

Reads everything, changes nothing. The exit code is 1 if records that were durable are damaged or
missing. A torn tail or an index to be rebuilt is only noted: the broker puts them right by itself.
On a running broker the end of active segments may look torn.")]
pub(crate) struct VerifyArgs {
    /// A partition's directory, or a data directory
    #[arg(value_name = "DIR")]
    dir: PathBuf,

    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(command: &LogCommand, session: &Session) -> Result<()> {
    match command {
        LogCommand::Dump(args) => dump(args),
        LogCommand::Verify(args) => verify(args, session),
    }
}

fn dump(args: &DumpArgs) -> Result<()> {
    let mut dump = Dump {
        records: args.records,
        json: args.output.is_json(),
        decompressor: Decompressor::new(),
        out: Stdout::lock(),
    };
    if args.path.is_file() {
        dump.segment(&args.path)?;
        return dump.out.flush();
    }
    for dir in inspect::partition_dirs(&args.path)? {
        for base in inspect::segments(&dir)? {
            dump.segment(&segment_file(&dir, base))?;
        }
    }
    dump.out.flush()
}

struct Dump {
    records: bool,
    json: bool,
    decompressor: Decompressor,
    out: Stdout,
}

// === impl Dump ===

impl Dump {
    fn segment(&mut self, path: &Path) -> Result<()> {
        if !self.json {
            self.out.line(format_args!("{}", path.display()))?;
        }
        let mut printed = Ok(());
        let end = inspect::scan_segment(path, |batch| {
            printed = if self.json { self.batch_json(path, batch) } else { self.batch(batch) };
            if printed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        printed?;
        if self.json { self.end_json(path, &end) } else { self.end(&end) }
    }

    fn batch(&mut self, batch: &StoredBatch) -> Result<()> {
        let whole = RecordBatch::parse_stored(batch.bytes.clone());
        let wrong = whole.as_ref().err().map_or_else(String::new, |e| format!(", DAMAGED: {e}"));
        self.out.line(format_args!("  {}{wrong}", about(batch)))?;
        let (true, Ok(whole)) = (self.records, whole) else { return Ok(()) };
        match whole.records_with(&mut self.decompressor, BATCH_DECOMPRESSED_BYTES_MAX) {
            Err(e) => self.out.line(format_args!("    DAMAGED: {e}")),
            Ok(records) => records.iter().try_for_each(|record| match record {
                Err(e) => self.out.line(format_args!("    DAMAGED: {e}")),
                Ok(record) => {
                    write!(
                        self.out,
                        "    @{} {} ",
                        record.offset,
                        time(record.timestamp.as_millis())
                    )
                    .map_err(|e| Failure::stdout(&e))?;
                    if let Some(key) = record.key {
                        self.out.bytes(key)?;
                        self.out.bytes(b": ")?;
                    }
                    self.out.bytes(record.value.unwrap_or(b"(null)"))?;
                    self.out.bytes(b"\n")
                }
            }),
        }
    }

    fn end(&mut self, end: &SegmentEnd) -> Result<()> {
        let mut line = format!("  ends before offset {} at position {}", end.offset, end.position);
        if let Some(fault) = &end.fault
            && end.stray_at.is_some()
        {
            // A string takes everything.
            let _ = write!(line, ": {fault}");
        }
        self.out.line(format_args!("{line} of {}", end.file_bytes))
    }

    fn batch_json(&mut self, path: &Path, batch: &StoredBatch) -> Result<()> {
        let header = &batch.header;
        let mut json = json!({
            "file": path.display().to_string(),
            "position": batch.position,
            "base_offset": header.base_offset,
            "last_offset": header.last_offset(),
            "record_count": header.record_count,
            "bytes": batch.bytes.len(),
            "compression": codec(batch),
            "leader_epoch": header.leader_epoch,
            "producer_id": header.producer_id,
            "producer_epoch": header.producer_epoch,
            "base_sequence": header.base_sequence,
            "base_timestamp": header.base_timestamp.as_millis(),
            "max_timestamp": header.max_timestamp.as_millis(),
            "crc": header.crc,
        });
        match self.decode(batch) {
            Ok(records) => {
                json["valid"] = true.into();
                if self.records {
                    json["records"] = records;
                }
            }
            Err(what) => {
                json["valid"] = false.into();
                json["error"] = what.into();
            }
        }
        self.out.line(json)
    }

    /// All records of a batch as JSON, or what is wrong with it.
    fn decode(&mut self, batch: &StoredBatch) -> Result<Value, String> {
        let header = &batch.header;
        let whole = RecordBatch::parse_stored(batch.bytes.clone()).map_err(|e| e.to_string())?;
        let records = whole
            .records_with(&mut self.decompressor, BATCH_DECOMPRESSED_BYTES_MAX)
            .map_err(|e| e.to_string())?;
        let records = records.iter().map(|record| {
            let record = record.map_err(|e| e.to_string())?;
            let headers = record.headers().map(|header| header.map_err(|e| e.to_string()));
            let view = RecordView {
                topic: "",
                partition: 0,
                offset: record.offset.get(),
                timestamp_ms: record.timestamp.as_millis(),
                leader_epoch: header.leader_epoch,
                key: record.key,
                value: record.value,
                headers: headers.collect::<Result<_, _>>()?,
            };
            let mut json = serde_json::to_value(&view).map_err(|e| e.to_string())?;
            if let Some(record) = json.as_object_mut() {
                // The files do not name them, and the batch says it once for all.
                record.retain(|name, _| {
                    !matches!(name.as_str(), "topic" | "partition" | "leader_epoch")
                });
            }
            Ok(json)
        });
        records.collect::<Result<Vec<_>, String>>().map(Value::from)
    }

    fn end_json(&mut self, path: &Path, end: &SegmentEnd) -> Result<()> {
        let fault = end.fault.as_ref().filter(|_| end.stray_at.is_some());
        self.out.line(json!({
            "file": path.display().to_string(),
            "end_offset": end.offset.get(),
            "end_position": end.position,
            "file_bytes": end.file_bytes,
            "error": fault.map(ToString::to_string),
        }))
    }
}

/// A batch's fixed fields, for people.
fn about(batch: &StoredBatch) -> String {
    let header = &batch.header;
    let mut line = format!(
        "@{} to {}, {}, {} bytes at {}, {}, leader epoch {}",
        header.base_offset,
        header.last_offset(),
        counted(u64::from(header.record_count.unsigned_abs()), "record"),
        batch.bytes.len(),
        batch.position,
        codec(batch),
        header.leader_epoch,
    );
    // A string takes everything.
    if let (Some(producer), Some(last)) = (header.producer(), header.last_sequence()) {
        let _ = write!(
            line,
            ", producer {} epoch {} sequence {} to {last}",
            header.producer_id, producer.epoch, producer.base_sequence
        );
    }
    if header.attributes.is_control() {
        line.push_str(", control");
    }
    let _ = write!(line, ", {}", time(header.max_timestamp.as_millis()));
    line
}

fn codec(batch: &StoredBatch) -> String {
    match batch.header.attributes.compression() {
        Ok(codec) => codec.name().to_owned(),
        Err(e) => e.to_string(),
    }
}

/// As a date where the calendar has it.
fn time(ms: i64) -> String {
    match jiff::Timestamp::from_millisecond(ms) {
        Ok(time) => time.to_string(),
        Err(_) => format!("{ms} ms"),
    }
}

fn verify(args: &VerifyArgs, session: &Session) -> Result<()> {
    let dirs = inspect::partition_dirs(&args.dir)?;
    let bar = progress(&dirs, session);
    let mut all = Vec::new();
    let mut done = 0;
    for dir in &dirs {
        let verified = verify_partition(dir, &mut |bytes| bar.set_position(done + bytes))?;
        done += verified.bytes;
        all.push(verified);
    }
    bar.finish_and_clear();
    let mut out = Stdout::lock();
    if args.output.is_json() {
        out.json(&all.iter().map(verified_json).collect::<Vec<_>>())?;
    } else {
        all.iter().try_for_each(|verified| print(verified, &mut out))?;
    }
    out.flush()?;
    let damaged = all.iter().filter(|verified| verified.is_damaged()).count();
    if damaged > 0 {
        return Err(Failure::failed(format!(
            "{} of {} damaged",
            damaged,
            counted(all.len() as u64, "partition")
        ))
        .advise("restore the files from a replica or a backup; the broker serves what is whole"));
    }
    Ok(())
}

/// By the files' sizes, which contain room for more: the bar may end early.
fn progress(dirs: &[PathBuf], session: &Session) -> ProgressBar {
    if !session.shows_progress() {
        return ProgressBar::hidden();
    }
    let files = dirs.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten();
    let bytes = files.filter_map(|file| file.metadata().ok()).map(|about| about.len()).sum();
    let style = ProgressStyle::with_template("{wide_bar} {decimal_bytes} {decimal_bytes_per_sec}");
    ProgressBar::new(bytes).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn print(verified: &Verified, out: &mut Stdout) -> Result<()> {
    let name = match &verified.meta {
        Some(meta) => format!("{}[{}]", meta.topic_name, meta.partition.partition.get()),
        None => verified.dir.display().to_string(),
    };
    let verdict = if verified.is_damaged() { "DAMAGED" } else { "ok" };
    out.line(format_args!(
        "{name}: {verdict}; offsets {} to {}, {}, {}, {}, {}",
        verified.start,
        verified.end,
        counted(verified.records, "record"),
        counted_batches(verified.batches),
        output::bytes(verified.bytes),
        counted(verified.segments as u64, "segment"),
    ))?;
    verified.findings.iter().try_for_each(|finding| {
        let kind = if finding.is_damage { "damage" } else { "note" };
        let at = finding.offset.map_or_else(String::new, |offset| format!(" @{offset}"));
        out.line(format_args!("  {kind}{at} {}: {}", finding.file.display(), finding.what))
    })
}

fn counted_batches(n: u64) -> String {
    format!("{} {}", count(n), if n == 1 { "batch" } else { "batches" })
}

fn verified_json(verified: &Verified) -> Value {
    let finding = |finding: &Finding| {
        json!({
            "file": finding.file.display().to_string(),
            "offset": finding.offset.map(riverrun_proto::offset::Offset::get),
            "damage": finding.is_damage,
            "what": finding.what,
        })
    };
    json!({
        "dir": verified.dir.display().to_string(),
        "topic": verified.meta.as_ref().map(|meta| meta.topic_name.to_string()),
        "partition": verified.meta.as_ref().map(|meta| meta.partition.partition.get()),
        "start_offset": verified.start.get(),
        "end_offset": verified.end.get(),
        "records": verified.records,
        "batches": verified.batches,
        "bytes": verified.bytes,
        "segments": verified.segments,
        "damaged": verified.is_damaged(),
        "findings": verified.findings.iter().map(finding).collect::<Vec<_>>(),
    })
}

impl From<InspectError> for Failure {
    fn from(error: InspectError) -> Self {
        let exit = match error {
            _ if error.is_not_found() => Exit::NotFound,
            InspectError::NotASegment(_) => Exit::Usage,
            InspectError::NoPartitions(_) => Exit::NotFound,
            _ => Exit::Failure,
        };
        Self::new(exit, error.to_string())
    }
}
