//! Runs `riverrun` and says how it ended.

use std::{
    ffi::OsStr,
    io::{BufRead as _, BufReader, Read, Write as _},
    path::Path,
    process::{Child, ChildStdin, Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Longest wait for anything; only reached when a test is about to fail.
const LONG: Duration = Duration::from_secs(60);

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

/// A command that runs.
pub(crate) struct Running {
    child: Child,
    stdout: Lines,
    stderr: Lines,
}

/// A broker of `riverrun dev` on free ports. Stopped and removed when dropped.
pub(crate) struct Broker {
    address: String,
    running: Running,
    dir: TempDir,
}

/// Output as it comes, line by line.
struct Lines {
    receiver: mpsc::Receiver<Vec<u8>>,
    seen: Vec<u8>,
}

// === impl Ended ===

impl Ended {
    /// Standard output as text.
    #[track_caller]
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("text")
    }

    /// Standard output as one JSON document.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Fails unless the exit code is this one.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    /// Fails unless standard error contains all of this.
    #[track_caller]
    pub(crate) fn says(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.stderr.contains(part), "{part:?} is not in {self:#?}");
        }
        self
    }
}

/// Runs a command without a broker to its end, with this on its standard input.
pub(crate) fn riverrun_with<S: AsRef<OsStr>>(args: &[S], input: &[u8]) -> Ended {
    let (running, stdin) = start(args, None);
    let input = input.to_vec();
    // From a thread: the command may write before it has read everything.
    let feeding = thread::spawn(move || {
        let mut stdin = stdin;
        // A command that does not read its input is no failure of the test.
        let _ = stdin.write_all(&input);
    });
    let ended = running.wait();
    feeding.join().expect("feeding does not panic");
    ended
}

/// Runs a command without a broker to its end.
pub(crate) fn riverrun<S: AsRef<OsStr>>(args: &[S]) -> Ended {
    riverrun_with(args, b"")
}

/// Starts a command; closing the second part ends its standard input.
pub(crate) fn start<S: AsRef<OsStr>>(args: &[S], brokers: Option<&str>) -> (Running, ChildStdin) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_riverrun"));
    // Whatever the developer has set must not change what is tested.
    let ours = std::env::vars_os()
        .map(|(name, _)| name)
        .filter(|name| name.to_string_lossy().starts_with("RIVERRUN_"));
    ours.for_each(|name| _ = command.env_remove(name));
    if let Some(brokers) = brokers {
        command.env("RIVERRUN_BROKERS", brokers);
    }
    let mut child = command
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let stdin = child.stdin.take().expect("piped");
    let stdout = Lines::new(child.stdout.take().expect("piped"));
    let stderr = Lines::new(child.stderr.take().expect("piped"));
    (Running { child, stdout, stderr }, stdin)
}

/// Runs a command whose standard output is closed after its first line; gives that line and how it
/// ended.
pub(crate) fn riverrun_head<S: AsRef<OsStr>>(args: &[S], brokers: &str) -> (String, Output) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_riverrun"))
        .args(args)
        .env("RIVERRUN_BROKERS", brokers)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    stdout.read_line(&mut line).expect("a line of text");
    drop(stdout);
    (line, child.wait_with_output().expect("it ends"))
}

// === impl Running ===

impl Running {
    /// Waits for a line of standard error that contains this, and gives it.
    #[track_caller]
    pub(crate) fn stderr_line(&mut self, part: &str) -> String {
        self.stderr.until(part)
    }

    /// Waits for a line of standard output that contains this, and gives it.
    #[track_caller]
    pub(crate) fn stdout_line(&mut self, part: &str) -> String {
        self.stdout.until(part)
    }

    /// Ctrl-C.
    pub(crate) fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a process id");
        let pid = Pid::from_raw(pid).expect("not zero");
        kill_process(pid, signal).expect("it runs");
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> Ended {
        self.stdout.rest();
        self.stderr.rest();
        let status = self.child.wait().expect("our child");
        Ended {
            code: status.code(),
            stdout: std::mem::take(&mut self.stdout.seen),
            stderr: String::from_utf8_lossy(&self.stderr.seen).into_owned(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail where it has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// === impl Lines ===

impl Lines {
    fn new(source: impl Read + Send + 'static) -> Self {
        let (sender, receiver) = mpsc::sync_channel(1024);
        thread::spawn(move || {
            let mut source = BufReader::new(source);
            let mut line = Vec::new();
            while matches!(source.read_until(b'\n', &mut line), Ok(read) if read > 0) {
                if sender.send(std::mem::take(&mut line)).is_err() {
                    break;
                }
            }
        });
        Self { receiver, seen: Vec::new() }
    }

    #[track_caller]
    fn until(&mut self, part: &str) -> String {
        loop {
            let Ok(line) = self.receiver.recv_timeout(LONG) else {
                panic!("{part:?} did not come after {}", String::from_utf8_lossy(&self.seen));
            };
            self.seen.extend_from_slice(&line);
            let line = String::from_utf8_lossy(&line).into_owned();
            if line.contains(part) {
                return line;
            }
        }
    }

    fn rest(&mut self) {
        loop {
            match self.receiver.recv_timeout(LONG) {
                Ok(line) => self.seen.extend_from_slice(&line),
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    panic!("it does not end; so far: {}", String::from_utf8_lossy(&self.seen))
                }
            }
        }
    }
}

// === impl Broker ===

impl Broker {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut running = Self::run(dir.path());
        let line = running.stderr_line("gRPC");
        let address = line.split_whitespace().last().expect("an address").to_owned();
        Self { address, running, dir }
    }

    /// `riverrun dev` on free ports.
    pub(crate) fn run(dir: &Path) -> Running {
        Self::run_at(dir, "127.0.0.1:0")
    }

    fn run_at(dir: &Path, grpc: &str) -> Running {
        let grpc = format!("network.grpc.listen={grpc}");
        let free = [grpc.as_str(), "network.http.listen=127.0.0.1:0"];
        let dir = dir.to_str().expect("UTF-8");
        start(&["dev", "--data-dir", dir, "--set", free[0], "--set", free[1]], None).0
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Runs a command against it to its end, with this on its standard input.
    pub(crate) fn with(&self, args: &[&str], input: impl AsRef<[u8]>) -> Ended {
        let mut all = vec!["--brokers", self.address()];
        all.extend(args);
        riverrun_with(&all, input.as_ref())
    }

    /// Runs a command against it to its end.
    pub(crate) fn riverrun(&self, args: &[&str]) -> Ended {
        self.with(args, "")
    }

    /// Starts a command against it.
    pub(crate) fn start_command(&self, args: &[&str]) -> (Running, ChildStdin) {
        start(args, Some(self.address()))
    }

    /// Stops it in order, does something meanwhile, and starts it again where it was.
    pub(crate) fn restart(self, meanwhile: impl FnOnce()) -> Self {
        let address = self.address.clone();
        let (dir, ended) = self.stop();
        ended.expect(0);
        meanwhile();
        let mut running = Self::run_at(dir.path(), &address);
        running.stderr_line("gRPC");
        Self { address, running, dir }
    }

    /// SIGSTOP: it is there and does not answer.
    pub(crate) fn pause(&self) {
        self.running.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub(crate) fn resume(&self) {
        self.running.signal(Signal::CONT);
    }

    /// Stops it in order and gives its directory and what it said.
    pub(crate) fn stop(self) -> (TempDir, Ended) {
        let Self { running, dir, .. } = self;
        running.interrupt();
        (dir, running.wait())
    }
}
