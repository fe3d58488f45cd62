//! The lines that the demo streams: of a file, or made up. Read on a thread of its own, handed over
//! in chunks through a bounded channel: the file is never in memory as a whole.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    thread,
};

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::sync::mpsc;

use super::verify::{Tally, fingerprint};
use crate::cli::{
    error::{Failure, Result},
    lines::LineReader,
    output,
};

/// Records without a file and without `--records`.
pub(super) const DEFAULT_RECORDS: u64 = 1_000_000;

/// Made-up lines of a chunk.
const CHUNK_LINES: u64 = 512;

/// Chunks between the thread and its reader: enough that neither waits for a context switch.
const CHUNKS: usize = 8;

/// Where lines come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Of a file, at most `records` of them if that is given.
    File { path: PathBuf, records: Option<u64> },
    /// So many made-up orders, always the same.
    Orders { records: u64 },
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// From 0.
    pub(super) number: u64,
    pub(super) bytes: Bytes,
    pub(super) fingerprint: u128,
}

/// What comes out of the channel.
#[derive(Debug)]
pub(super) enum Chunk {
    /// The next lines.
    Lines(Vec<Line>),
    /// That was all of them.
    End(Tally),
    /// The source failed.
    Failed(Failure),
}

// === impl Source ===

impl Source {
    /// Of what the arguments say.
    pub(super) fn new(file: Option<&Path>, records: Option<u64>) -> Self {
        match file {
            Some(path) => Self::File { path: path.to_owned(), records },
            None => Self::Orders { records: records.unwrap_or(DEFAULT_RECORDS) },
        }
    }

    /// For people.
    pub(super) fn name(&self) -> String {
        match self {
            Self::File { path, .. } if is_stdin(path) => "standard input".to_owned(),
            Self::File { path, .. } => path.display().to_string(),
            Self::Orders { records } => format!("{} made-up orders", output::count(*records)),
        }
    }

    /// Bytes that will be read at most, if that can be known; and an early, clear error for what
    /// cannot be read.
    pub(super) fn size(&self) -> Result<Option<u64>> {
        let Self::File { path, .. } = self else { return Ok(None) };
        if is_stdin(path) {
            return Ok(None);
        }
        let failed = |e: io::Error| Failure::io(format!("cannot read {}", path.display()), &e);
        let about = File::open(path).and_then(|file| file.metadata()).map_err(failed)?;
        if about.is_dir() {
            return Err(Failure::usage(format!("{} is a directory, not a file", path.display())));
        }
        Ok(about.is_file().then_some(about.len()))
    }

    /// Starts reading. The thread ends with the last chunk, or when the receiver is dropped.
    pub(super) fn start(self, line_bytes_max: usize) -> io::Result<mpsc::Receiver<Chunk>> {
        let (sender, receiver) = mpsc::channel(CHUNKS);
        thread::Builder::new().name("demo-source".into()).spawn(move || {
            let mut handover = Handover { sender, tally: Tally::default() };
            let done = match self {
                Self::File { path, records } => {
                    read(&path, records.unwrap_or(u64::MAX), line_bytes_max, &mut handover)
                }
                Self::Orders { records } => make_up(records, &mut handover),
            };
            handover.end(done);
        })?;
        Ok(receiver)
    }
}

fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

/// Counts lines and hands them over.
struct Handover {
    sender: mpsc::Sender<Chunk>,
    tally: Tally,
}

/// How a source ended early.
enum Ended {
    /// Nobody listens any more.
    Abandoned,
    /// It cannot go on.
    Failed(Failure),
}

// === impl Handover ===

impl Handover {
    fn chunk(&mut self, lines: impl IntoIterator<Item = Bytes>) -> Result<(), Ended> {
        let line = |bytes: Bytes| {
            let number = self.tally.records;
            let fingerprint = fingerprint(number, &bytes);
            self.tally.add(fingerprint, bytes.len());
            Line { number, bytes, fingerprint }
        };
        let lines = lines.into_iter().map(line).collect();
        self.sender.blocking_send(Chunk::Lines(lines)).map_err(|_| Ended::Abandoned)
    }

    fn end(self, done: Result<(), Ended>) {
        let last = match done {
            Ok(()) => Chunk::End(self.tally),
            Err(Ended::Failed(failure)) => Chunk::Failed(failure),
            Err(Ended::Abandoned) => return,
        };
        // Nobody there any more: nobody to tell.
        let _ = self.sender.blocking_send(last);
    }
}

fn read(path: &Path, records: u64, line_bytes_max: usize, to: &mut Handover) -> Result<(), Ended> {
    let failed = |what: String| {
        Ended::Failed(Failure::failed(format!("cannot read {}: {what}", path.display())))
    };
    let source: Box<dyn io::Read> = if is_stdin(path) {
        Box::new(io::stdin().lock())
    } else {
        Box::new(File::open(path).map_err(|e| failed(e.to_string()))?)
    };
    let mut lines = LineReader::new(source, b"\n", line_bytes_max);
    let mut left = records;
    while left > 0 {
        let mut chunk = lines.next_chunk().map_err(|e| failed(e.to_string()))?;
        if chunk.is_empty() {
            break;
        }
        chunk.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        left -= chunk.len() as u64;
        to.chunk(chunk)?;
    }
    Ok(())
}

/// Orders of a shop, about 200 bytes of JSON each, from a fixed seed.
fn make_up(records: u64, to: &mut Handover) -> Result<(), Ended> {
    let mut random = SplitMix(0x0072_6976_6572_7275);
    let mut buffer = BytesMut::new();
    let mut number = 0;
    while number < records {
        let end = records.min(number + CHUNK_LINES);
        to.chunk((number..end).map(|number| {
            buffer.reserve(512);
            write_order(number, &mut random, &mut buffer);
            buffer.split().freeze()
        }))?;
        number = end;
    }
    Ok(())
}

fn write_order(number: u64, random: &mut SplitMix, out: &mut BytesMut) {
    const STATUS: [&str; 4] = ["placed", "paid", "shipped", "delivered"];
    const CITIES: [&str; 8] =
        ["Lisbon", "Osaka", "Nairobi", "Quito", "Tromsø", "Hobart", "Austin", "Gdańsk"];
    let mut pick = |n: u64| random.next() % n;
    let (customer, sku, quantity, cents) =
        (pick(50_000), pick(9_000), 1 + pick(5), 199 + pick(50_000));
    let (status, city) = (STATUS[pick(4) as usize], CITIES[pick(8) as usize]);
    let (note, seconds) = (pick(u64::MAX), pick(100_000));
    let written = std::io::Write::write_fmt(
        &mut out.writer(),
        format_args!(
            r#"{{"order":{number},"customer":"c-{customer:05}","placed_at":{},"status":"{status}","items":[{{"sku":"SKU-{sku:04}","quantity":{quantity},"price":{}.{:02}}}],"currency":"EUR","ship_to":"{city}","trace":"{note:016x}"}}"#,
            1_795_219_200 + seconds,
            cents / 100,
            cents % 100,
        ),
    );
    written.expect("memory takes everything");
}

/// Steele, Lea and Flood's SplitMix64: the same numbers on every machine and in every version.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// All lines and how it ended.
    fn drain(source: Source, line_bytes_max: usize) -> (Vec<Line>, Result<Tally>) {
        let mut chunks = source.start(line_bytes_max).unwrap();
        let mut lines = Vec::new();
        loop {
            match chunks.blocking_recv().expect("it says how it ends") {
                Chunk::Lines(chunk) => lines.extend(chunk),
                Chunk::End(tally) => return (lines, Ok(tally)),
                Chunk::Failed(failure) => return (lines, Err(failure)),
            }
        }
    }

    fn file(content: &[u8]) -> (tempfile::NamedTempFile, Source) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        let source = Source::new(Some(file.path()), None);
        (file, source)
    }

    #[test]
    fn every_line_of_a_file_whatever_its_bytes() {
        let (_file, source) = file(b"a\n\n\xff\xfe\r\nlast");
        assert_eq!(source.size().unwrap(), Some(11));
        let (lines, tally) = drain(source, 100);
        let texts: Vec<&[u8]> = lines.iter().map(|line| &line.bytes[..]).collect();
        assert_eq!(texts, [&b"a"[..], b"", b"\xff\xfe\r", b"last"]);
        let mut expected = Tally::default();
        for (number, text) in (0..).zip(texts) {
            assert_eq!(lines[number as usize].number, number);
            expected.add(fingerprint(number, text), text.len());
        }
        assert_eq!(tally.unwrap(), expected);
    }

    #[test]
    fn more_lines_than_a_chunk_come_in_order_and_can_be_cut_short() {
        let text: String = (0..5_000).map(|n| format!("{n}\n")).collect();
        let (_file, source) = file(text.as_bytes());
        let (lines, _) = drain(source.clone(), 100);
        assert!(lines.iter().enumerate().all(|(n, line)| line.bytes == n.to_string().as_bytes()));
        assert_eq!(lines.len(), 5_000);
        let Source::File { path, .. } = source else { unreachable!() };
        let (lines, tally) = drain(Source::new(Some(&path), Some(7)), 100);
        assert_eq!((lines.len(), tally.unwrap().records), (7, 7));
    }

    #[test]
    fn a_line_above_the_bound_and_a_missing_file_are_clear_errors() {
        let (_file, source) = file(b"short\nfar too long\n");
        let (lines, end) = drain(source, 5);
        assert!(lines.len() <= 1);
        let error = end.unwrap_err().to_string();
        assert!(error.contains("line 2 is longer than 5 bytes"), "{error}");

        let missing = Source::new(Some(Path::new("/nowhere/at/all")), None);
        assert_eq!(missing.size().unwrap_err().exit(), crate::cli::error::Exit::NotFound);
        assert!(drain(missing, 5).1.is_err());
        let directory = Source::new(Some(Path::new("/")), None);
        assert!(directory.size().unwrap_err().to_string().contains("is a directory"));
    }

    #[test]
    fn made_up_orders_are_json_of_about_200_bytes_and_always_the_same() {
        let (lines, tally) = drain(Source::new(None, Some(2_000)), 1000);
        let tally = tally.unwrap();
        assert_eq!(tally.records, 2_000);
        let mean = tally.bytes / tally.records;
        assert!((180..230).contains(&mean), "{mean}");
        for line in &lines {
            serde_json::from_slice::<serde_json::Value>(&line.bytes).unwrap();
        }
        assert_eq!(drain(Source::new(None, Some(2_000)), 1000).1.unwrap(), tally);
    }

    #[test]
    fn a_source_that_nobody_reads_ends() {
        let source = Source::new(None, Some(u64::MAX));
        drop(source.start(1000).unwrap());
    }
}
