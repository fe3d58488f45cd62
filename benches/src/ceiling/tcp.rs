//! The same batches through bare TCP over loopback: what the kernel leaves to HTTP/2. Blocking
//! sockets, a thread on each side, as many bytes per call as the product's messages have.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

use riverrun_proto::limits::PACK_TARGET_BYTES;

use crate::{
    error::{BenchError, Result},
    payload::Batches,
    recorder::Recorder,
    stop::{Quota, Stop},
};

/// First byte of a connection that sends to the server, and is told how much arrived.
const UP: u8 = b'U';

/// First byte of a connection that the server sends to until it is closed.
const DOWN: u8 = b'D';

/// Bytes per call.
pub(super) const CALL_BYTES: usize = PACK_TARGET_BYTES;

/// Longest silence of the other side.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// What is sent or received, and where it is counted.
#[derive(Debug)]
pub(super) struct Streams {
    pub(super) address: String,
    pub(super) batches: Batches,
    pub(super) recorder: Arc<Recorder>,
    pub(super) stop: Stop,
    pub(super) quota: Arc<Quota>,
    /// Whether what arrives is written.
    pub(super) kept: bool,
}

/// Counts whole batches out of a stream of bytes.
struct Counted {
    recorder: Arc<Recorder>,
    records: u64,
    payload_bytes: u64,
    batch_bytes: u64,
    bytes: u64,
    batches: u64,
}

/// Serves connections on threads, for ever.
pub(super) fn serve(listener: TcpListener, batches: Batches) -> Result<()> {
    let accept = move || {
        for stream in listener.incoming().map_while(io::Result::ok) {
            let batches = batches.clone();
            // A connection that breaks is its client's to report.
            thread::spawn(move || _ = answer(stream, &batches));
        }
    };
    thread::Builder::new()
        .name("tcp".into())
        .spawn(accept)
        .map(drop)
        .map_err(BenchError::io("starting a thread"))
}

fn answer(mut stream: TcpStream, batches: &Batches) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut what = [0];
    stream.read_exact(&mut what)?;
    if what[0] == DOWN {
        let bytes = joined(batches);
        loop {
            for call in bytes.chunks(CALL_BYTES) {
                stream.write_all(call)?;
            }
        }
    }
    let mut buffer = vec![0; CALL_BYTES];
    let mut received = 0u64;
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            n => received += n as u64,
        }
    }
    stream.write_all(&received.to_be_bytes())
}

/// Sends until told to stop.
pub(super) async fn upload(streams: Streams) -> Result<()> {
    blocking(move || {
        let mut stream = connect(&streams.address, UP)?;
        let bytes = joined(&streams.batches);
        let mut counted = Counted::new(&streams);
        'all: loop {
            for call in bytes.chunks(CALL_BYTES) {
                if streams.stop.is_told() || streams.quota.take(records_per_call(&streams)) == 0 {
                    break 'all;
                }
                stream.write_all(call)?;
                counted.add(call.len(), Recorder::produced);
                if streams.kept {
                    streams.recorder.appended(call.len() as u64);
                }
            }
        }
        stream.shutdown(Shutdown::Write)?;
        let mut received = [0; 8];
        stream.read_exact(&mut received)?;
        if u64::from_be_bytes(received) != counted.bytes {
            return Err(io::Error::other("the other side received another number of bytes"));
        }
        Ok(())
    })
    .await
}

/// Receives until told to stop.
pub(super) async fn download(streams: Streams) -> Result<()> {
    blocking(move || {
        let mut stream = connect(&streams.address, DOWN)?;
        let mut buffer = vec![0; CALL_BYTES];
        let mut counted = Counted::new(&streams);
        while !streams.stop.is_told() && streams.quota.take(records_per_call(&streams)) > 0 {
            match stream.read(&mut buffer)? {
                0 => return Err(io::Error::other("the other side ended the stream")),
                n => counted.add(n, Recorder::consumed),
            }
        }
        Ok(())
    })
    .await
}

pub(super) fn connect(address: &str, what: u8) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    stream.set_write_timeout(Some(SILENCE_MAX))?;
    stream.write_all(&[what])?;
    Ok(stream)
}

fn joined(batches: &Batches) -> Vec<u8> {
    batches.all().concat()
}

/// What a full call carries, about.
fn records_per_call(streams: &Streams) -> u64 {
    let batch = streams.batches.bytes_max() as u64;
    (streams.batches.records * CALL_BYTES as u64 / batch.max(1)).max(1)
}

async fn blocking(job: impl FnOnce() -> io::Result<()> + Send + 'static) -> Result<()> {
    let ended = tokio::task::spawn_blocking(job).await;
    let ended = ended.map_err(|e| BenchError::Failed(format!("a thread died: {e}")))?;
    ended.map_err(BenchError::io("bare TCP"))
}

// === impl Counted ===

impl Counted {
    fn new(streams: &Streams) -> Self {
        Self {
            recorder: Arc::clone(&streams.recorder),
            records: streams.batches.records,
            payload_bytes: streams.batches.payload_bytes,
            batch_bytes: streams.batches.bytes_max() as u64,
            bytes: 0,
            batches: 0,
        }
    }

    /// So many more bytes; whole batches are told to the recorder.
    fn add(&mut self, bytes: usize, tell: impl Fn(&Recorder, u64, u64)) {
        self.bytes += bytes as u64;
        let whole = self.bytes / self.batch_bytes.max(1);
        let new = whole - self.batches;
        if new > 0 {
            self.batches = whole;
            tell(&self.recorder, new * self.records, new * self.payload_bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Workload;

    fn streams(records: u64) -> Streams {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let batches = Batches::encode(&Workload::default()).unwrap();
        serve(listener, batches.clone()).unwrap();
        Streams {
            address,
            batches,
            recorder: Arc::new(Recorder::new()),
            stop: Stop::new(),
            quota: Arc::new(Quota::new(Some(records))),
            kept: false,
        }
    }

    #[tokio::test]
    async fn bytes_go_both_ways_and_are_counted_in_whole_batches() {
        let up = streams(6_300);
        let recorder = Arc::clone(&up.recorder);
        upload(up).await.unwrap();
        let counts = recorder.counts();
        assert!(counts.produced_records >= 6_000, "{counts:?}");
        assert_eq!(counts.produced_bytes, counts.produced_records * 1024);
        assert_eq!(counts.consumed_records, 0);
        let down = streams(63_000);
        let recorder = Arc::clone(&down.recorder);
        download(down).await.unwrap();
        assert!(recorder.counts().consumed_records > 0);
    }

    #[tokio::test]
    async fn nobody_there_is_an_error() {
        let mut nobody = streams(1);
        nobody.address = "127.0.0.1:1".into();
        assert!(upload(nobody).await.unwrap_err().to_string().contains("bare TCP"));
    }
}
