//! What fixed work costs, in instructions: the guard against slow changes that no clock on a shared
//! machine would notice.
//!
//! ```sh
//! cargo test -p riverrun-bench --bench instructions            # compares with instructions.toml
//! cargo test -p riverrun-bench --bench instructions -- --bless # writes it anew
//! ```
//!
//! Each piece of work runs under Valgrind, once so many times and once twice as many; the difference
//! is what it costs, without the start of the process. Instructions of the kernel, waiting and caches
//! are not in it: it finds a copy, an allocation or a decoding too many, not a page fault. One piece
//! is the same within a fraction of a percent from run to run; [`TOLERANCE`] is for C libraries that
//! differ a little. With another compiler than that of the figures it tells and fails nothing. It is
//! built as tests are, lightly optimised, which costs no build of its own: these figures are to be
//! compared with each other, not to be told.

use std::{
    collections::BTreeMap,
    env, fs,
    hint::black_box,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::Arc,
};

use bytes::Bytes;
use prost::Message as _;
use riverrun_broker::{
    io::{
        Disk, Failure,
        real::{MapPolicy, RealDisk},
    },
    log::{
        AppendError, Log, LogBudgets, LogConfig, LogEnv, PartitionMeta, Read, SaltSource, layout,
    },
};
use riverrun_proto::{
    epoch::LeaderEpoch,
    ids::{PartitionIndex, TopicId, TopicName, TopicPartition},
    offset::Offset,
    record::{BatchBuilder, BatchOptions, RecordBatch},
    rpc::v1::{
        ProduceStreamAppend, ProduceStreamAppends, ProduceStreamRequest,
        produce_stream_request::Request,
    },
    timestamp::Timestamp,
};

/// More instructions than written down, as a share of them, that are taken for a slow change.
const TOLERANCE: f64 = 0.03;

/// The line of instructions.toml that says which compiler the figures are of.
const MADE_BY: &str = "# Compiler: ";
const COMPILER: &str = env!("RIVERRUN_COMPILER");

/// How often the work is done in the shorter of the two runs.
const TIMES: usize = 32;

const BATCH_BYTES: usize = 64 * 1024;
const NOW: Timestamp = Timestamp::from_millis(1_763_700_000_000);

/// A name, and what makes the work: everything before its first run is not counted.
type Work = (&'static str, fn() -> Box<dyn FnMut()>);

const WORKS: [Work; 7] = [
    ("encode a batch of 64 KiB, records of 1 KiB", || encode(1024)),
    ("encode a batch of 64 KiB, records of 100 B", || encode(100)),
    ("iterate over a batch of 64 KiB, records of 100 B", iterate),
    ("take in a message of one batch of 64 KiB", || take_in(1)),
    ("take in a message of 16 batches of 4 KiB", || take_in(16)),
    ("append a batch of 64 KiB to a log", append),
    ("find and slice a batch of 4 KiB in a log", find),
];

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    if cfg!(not(target_arch = "x86_64")) {
        println!("SKIPPED: the figures written down are of x86_64");
        return ExitCode::SUCCESS;
    }
    if let ["work", index, times] = arguments[..] {
        let (_, make) = WORKS[index.parse::<usize>().expect("a number")];
        let mut work = make();
        (0..times.parse::<usize>().expect("a number")).for_each(|_| work());
        return ExitCode::SUCCESS;
    }
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("SKIPPED: valgrind is not installed, so nothing counts instructions");
        return ExitCode::SUCCESS;
    }
    let counted: BTreeMap<String, u64> =
        WORKS.iter().enumerate().map(|(i, (name, _))| ((*name).to_owned(), count(i))).collect();
    let written = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("instructions.toml");
    if arguments.contains(&"--bless") {
        let text = toml::to_string(&counted).expect("names and numbers");
        let text = format!("# By micro/instructions.rs; see there.\n{MADE_BY}{COMPILER}\n{text}");
        fs::write(&written, text).expect("it can be written");
    }
    compare(&written, &counted)
}

fn compare(written: &Path, counted: &BTreeMap<String, u64>) -> ExitCode {
    let text = fs::read_to_string(written).expect("it is checked in");
    let expected: BTreeMap<String, u64> = toml::from_str(&text).expect("names and numbers");
    let same_compiler = text.lines().any(|line| line.strip_prefix(MADE_BY) == Some(COMPILER));
    let mut outcome = ExitCode::SUCCESS;
    for (name, counted) in counted {
        let Some(expected) = expected.get(name) else {
            println!("{counted:>10}              {name}: not written down");
            outcome = ExitCode::FAILURE;
            continue;
        };
        let change = *counted as f64 / *expected as f64 - 1.0;
        let verdict = if change > TOLERANCE {
            outcome = ExitCode::FAILURE;
            "  MORE THAN IT MAY"
        } else if change < -TOLERANCE {
            "  less: keep the gain with --bless"
        } else {
            ""
        };
        println!("{counted:>10} ({:+6.2} %)  {name}{verdict}", change * 100.0);
    }
    if !same_compiler {
        println!("another compiler wrote them down ({COMPILER} here): nothing is held against it");
        return ExitCode::SUCCESS;
    }
    outcome
}

/// Instructions of one piece of work.
fn count(index: usize) -> u64 {
    let (once, twice) = (instructions(index, TIMES), instructions(index, 2 * TIMES));
    twice.saturating_sub(once) / TIMES as u64
}

/// Instructions of a process that does it so many times.
fn instructions(index: usize, times: usize) -> u64 {
    let output = Command::new("valgrind")
        .args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"])
        .arg(env::current_exe().expect("it runs"))
        .args(["work", &index.to_string(), &times.to_string()])
        .output()
        .expect("it was there a moment ago");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let line = said.lines().find(|line| line.contains("I ") && line.contains("refs:"));
    let count: String = line
        .and_then(|line| line.rsplit(':').next())
        .map(|count| count.chars().filter(char::is_ascii_digit).collect())
        .unwrap_or_default();
    count.parse().unwrap_or_else(|_| panic!("no count in {said}"))
}

/// Bytes that do not compress, the same each time.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut byte = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..bytes).map(|_| byte()).collect()
}

fn filled(bytes: usize, source: &[u8], record_bytes: usize) -> Bytes {
    let options = BatchOptions { size_budget: bytes, ..BatchOptions::default() };
    let mut builder = BatchBuilder::new(options);
    for value in source.chunks_exact(record_bytes).cycle() {
        if builder.append(NOW, None, Some(value), []).is_err() {
            break;
        }
    }
    builder.finish()
}

fn encode(record_bytes: usize) -> Box<dyn FnMut()> {
    let source = noise(BATCH_BYTES);
    Box::new(move || _ = black_box(filled(BATCH_BYTES, &source, record_bytes)))
}

fn iterate() -> Box<dyn FnMut()> {
    let batch = RecordBatch::validate(filled(BATCH_BYTES, &noise(BATCH_BYTES), 100));
    let batch = batch.expect("just built");
    Box::new(move || {
        let records = batch.records(0).expect("not compressed");
        let bytes = records.iter().map(|record| record.expect("sound").value.map(<[u8]>::len));
        black_box(bytes.flatten().sum::<usize>());
    })
}

/// Decoding the gRPC message and checking what it carries.
fn take_in(batches: usize) -> Box<dyn FnMut()> {
    let batch = filled(BATCH_BYTES / batches, &noise(BATCH_BYTES), 100);
    let topic_id = Bytes::copy_from_slice(TopicId::random().as_bytes());
    let item = |n: usize| ProduceStreamAppend {
        correlation_id: n as u64,
        topic_id: topic_id.clone(),
        batch: batch.clone(),
        format: 1,
        ..Default::default()
    };
    let items = (0..batches).map(item).collect();
    let appends = Request::Appends(ProduceStreamAppends { items });
    let message: Bytes = ProduceStreamRequest { request: Some(appends) }.encode_to_vec().into();
    Box::new(move || {
        let decoded = ProduceStreamRequest::decode(message.clone()).expect("sound");
        let Some(Request::Appends(appends)) = decoded.request else { panic!("these are appends") };
        for item in appends.items {
            black_box(RecordBatch::validate(item.batch).expect("sound"));
        }
    })
}

/// A log, and the directory that goes with it.
fn log() -> (Log, tempfile::TempDir) {
    let data = tempfile::tempdir().expect("a temporary directory");
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(MapPolicy::Auto));
    let failure = Failure::open(disk.clone(), data.path());
    let salts = SaltSource::random();
    let env = LogEnv::new(disk, failure, salts, LogBudgets::default());
    let partition = PartitionIndex::new(0).expect("the first of all");
    let meta = PartitionMeta {
        partition: TopicPartition::new(TopicId::random(), partition),
        topic_name: TopicName::try_new("bench").expect("a legal name"),
    };
    let dir = layout::partition_dir(data.path(), meta.partition);
    (Log::create(env, dir, &meta, LogConfig::default()).expect("a new log"), data)
}

fn append_one(log: &mut Log, batch: &RecordBatch) {
    let stamped = batch.stamp(log.log_end_offset(), LeaderEpoch::ZERO, None);
    while let Err(error) = log.append(&stamped, NOW) {
        assert!(matches!(error, AppendError::NotReady), "{error}");
        while let Some(work) = log.take_work() {
            log.complete(work.run()).expect("works");
        }
    }
}

fn append() -> Box<dyn FnMut()> {
    let (mut log, data) = log();
    let batch = RecordBatch::validate(filled(BATCH_BYTES, &noise(BATCH_BYTES), 100));
    let batch = batch.expect("just built");
    Box::new(move || {
        append_one(&mut log, &batch);
        black_box(&data);
    })
}

fn find() -> Box<dyn FnMut()> {
    let (mut log, data) = log();
    let batch = RecordBatch::validate(filled(4096, &noise(4096), 100)).expect("just built");
    (0..1000).for_each(|_| append_one(&mut log, &batch));
    let (reader, end) = (log.reader(), log.log_end_offset().get());
    let mut at = 1;
    Box::new(move || {
        at = (at * 7_919 + 13) % end;
        let from = Offset::new(at).expect("below the end");
        match reader.read(from, Offset::MAX, 1).expect("in range") {
            Read::Batches(found) => black_box(found.batches.len()),
            Read::Cold(_) | Read::Empty => panic!("it was just written"),
        };
        black_box(&data);
    })
}
