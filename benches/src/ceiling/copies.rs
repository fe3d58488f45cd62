//! What copies cost without a broker: a process that takes bytes from bare TCP, writes them to a new file
//! and sends them on to others that write them too. Nothing is checked, indexed or acknowledged, and no
//! message has a head: what is left is what plain `read`, `pwrite` and `write` take.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use clap::Args;
use tokio::runtime::Runtime;

use super::tcp;
use crate::{
    accounting::{self, Accounts},
    error::{BenchError, Result},
    measure::Measurement,
    outcome::Run,
    payload::Batches,
    process::{self, Process},
    recorder::Recorder,
    stop::{Quota, Stop},
    workload::Workload,
};

/// The hidden command.
pub const AS_COPY: &str = "as-copy";

/// Where a file begins anew, so that the disk does not fill.
const FILE_BYTES_MAX: u64 = 8 << 30;

/// What a process is told.
#[derive(Args, Clone, Debug)]
pub struct CopyArgs {
    /// What is written
    #[arg(long)]
    file: PathBuf,
    /// Whom it is sent on to
    #[arg(long)]
    to: Vec<String>,
}

/// The processes, from their parent's side.
#[derive(Debug)]
pub struct Copies {
    /// The one that is sent to, then those it sends to.
    processes: Vec<Process>,
    address: String,
    subject: &'static str,
    progress: bool,
}

// === impl Copies ===

impl Copies {
    /// Starts as many as `workload` has replicas, with files in `dir`.
    ///
    /// # Errors
    /// One does not start.
    pub fn start(
        subject: &'static str,
        workload: &Workload,
        dir: &Path,
        progress: bool,
    ) -> Result<Self> {
        let start = |index: u32, to: &[String]| {
            let file = dir.join(format!("copy-{index}")).display().to_string();
            let to = to.iter().map(|address| format!("--to={address}"));
            let arguments = [AS_COPY.to_owned(), format!("--file={file}")].into_iter().chain(to);
            Process::start("a bare copy", process::this_program(arguments)?)
        };
        let (mut processes, mut addresses) = (Vec::new(), Vec::new());
        for index in 1..workload.replication_factor {
            let (process, address) = start(index, &[])?;
            processes.push(process);
            addresses.push(address);
        }
        let (first, address) = start(0, &addresses)?;
        processes.insert(0, first);
        Ok(Self { processes, address, subject, progress })
    }

    /// Sends the batches of `workload` as fast as they are taken.
    ///
    /// # Errors
    /// It breaks, or not all bytes arrived everywhere.
    pub async fn run(&self, workload: &Workload, round: u32) -> Result<Run> {
        let recorder = Arc::new(Recorder::new());
        let stop = Stop::new();
        let accounts = Accounts::of(self.processes.iter().map(Process::id), None);
        let streams = tcp::Streams {
            address: self.address.clone(),
            batches: Batches::encode(workload)?,
            recorder: Arc::clone(&recorder),
            stop: stop.clone(),
            quota: Arc::new(Quota::new(workload.records)),
            kept: true,
        };
        let measurement = Measurement {
            subject: self.subject,
            round,
            workload,
            recorder: &recorder,
            stop: &stop,
            accounts: &accounts,
            data: None,
            burst_bytes: accounting::burst(workload),
            settings: std::collections::BTreeMap::new(),
            progress: self.progress,
        };
        measurement.run(|_| tcp::upload(streams)).await
    }

    /// Ends them.
    ///
    /// # Errors
    /// One did not end in order.
    pub fn stop(self) -> Result<()> {
        self.processes.into_iter().try_for_each(Process::stop)
    }
}

/// Is one of the processes, until SIGTERM.
///
/// # Errors
/// No port, or no signals.
pub fn keep(args: &CopyArgs) -> Result<()> {
    process::end_with_parent().map_err(BenchError::io("tying the process to its parent"))?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let listener = listener.map_err(BenchError::io("listening on 127.0.0.1"))?;
    let address = listener.local_addr().map_err(BenchError::io("listening on 127.0.0.1"))?;
    let runtime = Runtime::new().map_err(BenchError::io("starting threads"))?;
    runtime.block_on(async {
        let told = process::told_to_end()?;
        serve(listener, args.clone())?;
        let _ = writeln!(io::stdout(), "ready {address}");
        told.await;
        Ok(())
    })
}

/// Serves one connection after the other, on a thread, for ever.
fn serve(listener: TcpListener, args: CopyArgs) -> Result<()> {
    let accept = move || {
        for stream in listener.incoming().map_while(io::Result::ok) {
            // A connection that breaks is its client's to report.
            _ = copy(stream, &args);
        }
    };
    let thread = thread::Builder::new().name("copy".into());
    thread.spawn(accept).map(drop).map_err(BenchError::io("starting a thread"))
}

fn copy(mut from: TcpStream, CopyArgs { file: path, to }: &CopyArgs) -> io::Result<()> {
    from.set_nodelay(true)?;
    let mut what = [0];
    from.read_exact(&mut what)?;
    let mut others =
        to.iter().map(|address| tcp::connect(address, what[0])).collect::<io::Result<Vec<_>>>()?;
    let mut file = File::create(path)?;
    let mut buffer = vec![0; tcp::CALL_BYTES];
    let (mut received, mut position) = (0, 0);
    loop {
        let bytes = match from.read(&mut buffer)? {
            0 => break,
            n => &buffer[..n],
        };
        received += bytes.len() as u64;
        if position >= FILE_BYTES_MAX {
            file = File::create(path)?;
            position = 0;
        }
        file.write_all_at(bytes, position)?;
        position += bytes.len() as u64;
        others.iter_mut().try_for_each(|other| other.write_all(bytes))?;
    }
    // Pages that are gone are not written back while the next run is measured.
    fs::remove_file(path)?;
    for other in &mut others {
        other.shutdown(Shutdown::Write)?;
        let mut has = [0; 8];
        other.read_exact(&mut has)?;
        // Whoever sent it compares.
        received = received.min(u64::from_be_bytes(has));
    }
    from.write_all(&received.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy_in(dir: &Path, name: &str, to: Vec<String>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        serve(listener, CopyArgs { file: dir.join(name), to }).unwrap();
        address
    }

    fn streams(address: String) -> tcp::Streams {
        tcp::Streams {
            address,
            batches: Batches::encode(&Workload::default()).unwrap(),
            recorder: Arc::new(Recorder::new()),
            stop: Stop::new(),
            quota: Arc::new(Quota::new(Some(6_300))),
            kept: true,
        }
    }

    #[tokio::test]
    async fn all_have_all_bytes_and_no_file_stays() {
        let dir = tempfile::tempdir().unwrap();
        let others = ["one", "two"].map(|name| copy_in(dir.path(), name, Vec::new()));
        let first = copy_in(dir.path(), "first", others.into());
        let streams = streams(first);
        let recorder = Arc::clone(&streams.recorder);
        tcp::upload(streams).await.unwrap();
        assert!(recorder.counts().produced_records >= 6_000);
        assert!(recorder.appended_bytes() > recorder.counts().produced_bytes);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn one_that_is_not_there_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let first = copy_in(dir.path(), "first", vec!["127.0.0.1:1".into()]);
        let failed = tcp::upload(streams(first)).await.unwrap_err().to_string();
        assert!(failed.contains("bare TCP"), "{failed}");
    }
}
