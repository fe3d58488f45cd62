//! Batches written once and read forever: a file that this test no longer opens means that data on
//! disks is lost. Files are added, never changed.
//!
//! `tests/golden/record_batch_v2/ours-*` were written by the first version of this codec. The
//! records of `theirs-*` were compressed by kafka-protocol 0.18 where that gives other bytes: LZ4
//! by the reference implementation, zstd as a stream that does not declare its size.
//! All hold the records of [`records`], apart from the control batches.
#![expect(clippy::unwrap_used, reason = "a test fails where it is wrong")]

use std::{fs, path::PathBuf};

use bytes::{BufMut, BytesMut};
use kafka_protocol::compression::{self, Compressor};
use riverrun_proto::{
    epoch::LeaderEpoch,
    ids::ProducerId,
    offset::Offset,
    record::{
        BatchBuilder, BatchOptions, Codec, ControlKind, ControlRecord, HEADER_BYTES, ProducerStamp,
        RecordBatch, TimestampType, control_batch,
    },
    timestamp::Timestamp,
};

const BASE_OFFSET: i64 = 1_234_567_890_123;
const TIME: i64 = 1_763_700_000_000;
const APPEND_TIME: Timestamp = Timestamp::from_millis(1_763_700_009_999);

type Record = (i64, Option<&'static [u8]>, Option<Vec<u8>>, Vec<(&'static str, Option<Vec<u8>>)>);

/// Every shape of key, value and header, 600 lines of text and a block of noise: more than one
/// block of each codec.
fn records() -> Vec<Record> {
    let mut records: Vec<Record> = vec![
        (TIME, None, None, vec![]),
        (TIME + 1, Some(b""), Some(vec![]), vec![("", Some(vec![]))]),
        (
            TIME - 5,
            Some(b"key"),
            None,
            vec![("a", None), ("a", Some(b"b".to_vec())), ("\u{e9}", None)],
        ),
    ];
    let mut noise = 1_u32;
    let noise = (0..3000).map(|_| {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        noise.to_be_bytes()[0]
    });
    records.push((TIME + 86_400_000, Some(b"noise"), Some(noise.collect()), vec![]));
    for i in 0..600 {
        let line = format!(
            "{{\"sequence\":{i},\"level\":\"info\",\"text\":\"partition {} rolled\"}}",
            i % 7
        )
        .repeat(2);
        let headers = vec![("trace", Some(vec![i.to_string().len() as u8; 16]))];
        records.push((TIME + i, Some(b"log"), Some(line.into_bytes()), headers));
    }
    records
}

fn producer() -> ProducerStamp {
    ProducerStamp { id: ProducerId::new(77).unwrap(), epoch: 5, base_sequence: i32::MAX - 1 }
}

fn encoded(codec: Codec) -> RecordBatch {
    let options = BatchOptions {
        codec,
        size_budget: 1 << 20,
        producer: Some(producer()),
        ..Default::default()
    };
    let mut builder = BatchBuilder::new(options);
    for (time, key, value, headers) in &records() {
        let headers = headers.iter().map(|(name, value)| (*name, value.as_deref()));
        builder.append(Timestamp::from_millis(*time), *key, value.as_deref(), headers).unwrap();
    }
    RecordBatch::validate(builder.finish()).unwrap()
}

fn stored(codec: Codec, append_time: Option<Timestamp>) -> Vec<u8> {
    let offset = Offset::new(BASE_OFFSET).unwrap();
    encoded(codec).stamp(offset, LeaderEpoch::new(42).unwrap(), append_time).to_bytes().to_vec()
}

fn marker(kind: ControlKind) -> Vec<u8> {
    control_batch(kind, producer().id, 5, 9, APPEND_TIME).to_vec()
}

fn path(name: &str) -> PathBuf {
    let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/record_batch_v2");
    golden.join(name).with_extension("batch")
}

fn golden(name: &str) -> RecordBatch {
    let bytes = fs::read(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    RecordBatch::parse_stored(bytes.into()).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn check_records(name: &str, batch: &RecordBatch, append_time: Option<Timestamp>) {
    let header = batch.header();
    assert_eq!((header.base_offset, header.leader_epoch), (BASE_OFFSET, 42), "{name}");
    assert_eq!(header.producer(), Some(producer()), "{name}");
    let due = records();
    let read = batch.records(1 << 20).unwrap();
    let mut read = read.iter();
    for (offset, (time, key, value, headers)) in (BASE_OFFSET..).zip(&due) {
        let view = read.next().unwrap().unwrap();
        assert_eq!(view.offset.get(), offset, "{name}");
        let time = append_time.unwrap_or(Timestamp::from_millis(*time));
        assert_eq!(view.timestamp, time, "{name} {offset}");
        assert_eq!((view.key, view.value), (*key, value.as_deref()), "{name} {offset}");
        let read: Vec<_> = view.headers().collect::<Result<_, _>>().unwrap();
        let due: Vec<_> = headers.iter().map(|(n, v)| (*n, v.as_deref())).collect();
        assert_eq!(read, due, "{name} {offset}");
    }
    assert!(read.next().is_none(), "{name}");
}

#[test]
fn every_codec() {
    for codec in Codec::ALL {
        let name = format!("ours-{codec}");
        let batch = golden(&name);
        assert_eq!(batch.codec(), codec, "{name}");
        check_records(&name, &batch, None);
    }
}

#[test]
fn other_encoders() {
    for codec in [Codec::Lz4, Codec::Zstd] {
        let name = format!("theirs-{codec}");
        let batch = golden(&name);
        assert_eq!(batch.codec(), codec, "{name}");
        assert_ne!(batch.bytes(), golden(&format!("ours-{codec}")).bytes(), "{name} says more");
        check_records(&name, &batch, None);
    }
}

#[test]
fn log_append_time() {
    let batch = golden("ours-log-append-time");
    assert_eq!(batch.header().attributes.timestamp_type(), TimestampType::LogAppendTime);
    check_records("ours-log-append-time", &batch, Some(APPEND_TIME));
}

#[test]
fn control() {
    for (name, kind) in
        [("ours-control-abort", ControlKind::Abort), ("ours-control-commit", ControlKind::Commit)]
    {
        let batch = golden(name);
        assert!(batch.header().attributes.is_control(), "{name}");
        let records = batch.records(0).unwrap();
        let view = records.iter().next().unwrap().unwrap();
        let due = ControlRecord { kind, coordinator_epoch: Some(9) };
        assert_eq!(ControlRecord::parse(&view), Some(due), "{name}");
        assert_eq!(batch.bytes(), &marker(kind), "{name}: written as it was");
    }
}

/// What no compressor has a say in is also still written as it was.
#[test]
fn uncompressed_batches_are_written_as_they_were() {
    assert_eq!(golden("ours-none").bytes(), &stored(Codec::None, None));
    let stamped = stored(Codec::None, Some(APPEND_TIME));
    assert_eq!(golden("ours-log-append-time").bytes(), &stamped);
}

/// Writes the files that are not there yet: `cargo test -p riverrun-proto --test record_golden --
/// --ignored`.
#[test]
#[ignore = "writes golden files, for a new format or codec"]
fn write_missing_files() {
    let mut files = vec![
        ("ours-control-abort".to_owned(), marker(ControlKind::Abort)),
        ("ours-control-commit".to_owned(), marker(ControlKind::Commit)),
        ("ours-log-append-time".to_owned(), stored(Codec::None, Some(APPEND_TIME))),
    ];
    for codec in Codec::ALL {
        files.push((format!("ours-{codec}"), stored(codec, None)));
    }
    for codec in [Codec::Lz4, Codec::Zstd] {
        files.push((format!("theirs-{codec}"), compressed_by_them(codec)));
    }
    for (name, bytes) in files {
        if !path(&name).exists() {
            fs::create_dir_all(path(&name).parent().unwrap()).unwrap();
            fs::write(path(&name), bytes).unwrap();
        }
    }
}

/// Our batch with its records compressed by kafka-protocol.
fn compressed_by_them(codec: Codec) -> Vec<u8> {
    let batch = RecordBatch::parse_stored(stored(codec, None).into()).unwrap();
    let records = batch.records(1 << 20).unwrap();
    let put = |buffer: &mut BytesMut| {
        buffer.put_slice(records.bytes());
        Ok(())
    };
    let mut body = BytesMut::new();
    match codec {
        Codec::Lz4 => compression::Lz4::compress(&mut body, put).unwrap(),
        Codec::Zstd => compression::Zstd::compress(&mut body, put).unwrap(),
        other => panic!("{other}: their bytes are ours"),
    }
    let mut header = *batch.header();
    header.batch_length = i32::try_from(HEADER_BYTES - 12 + body.len()).unwrap();
    header.crc = crc32c::crc32c_append(crc32c::crc32c(&header.encode()[21..]), &body);
    [&header.encode()[..], &body].concat()
}
