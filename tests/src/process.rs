//! Brokers as processes: real sockets, real files, real kills.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use riverrun_client::Client;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{
    clock,
    raw::Raw,
    skew::{self, SkewedClock},
    wait::{self, HANG},
};

/// Log lines kept of a broker.
const LINES_MAX: usize = 10_000;

/// Log lines shown when a test fails.
const LINES_SHOWN: usize = 60;

/// Ports below those the kernel gives away: a broker that is down for a moment finds its own free.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// What to start a broker with.
#[derive(Debug, Clone)]
pub struct BrokerOptions {
    binary: PathBuf,
    data: PathBuf,
    grpc_port: u16,
    http_port: u16,
    internal_port: u16,
    settings: Vec<String>,
    clock: Option<SkewedClock>,
    log_file: Option<PathBuf>,
}

/// A broker process. Killed when dropped.
#[derive(Debug)]
pub struct BrokerProcess {
    child: Child,
    data: PathBuf,
    grpc: SocketAddr,
    http: SocketAddr,
    log: LogLines,
    ended: bool,
}

/// A broker process that may not serve yet. Killed when dropped.
#[derive(Debug)]
pub struct Starting {
    child: Option<Child>,
    data: PathBuf,
    log: Option<LogLines>,
    said: mpsc::Receiver<String>,
}

/// How a broker that did not start ended.
#[derive(Debug)]
pub struct Refusal {
    /// Its exit code.
    pub status: ExitStatus,
    /// All it said.
    pub said: String,
}

/// What a broker writes to standard error, a JSON object per line; the last of it.
#[derive(Debug)]
struct LogLines {
    lines: Arc<Mutex<VecDeque<String>>>,
    reader: Option<JoinHandle<()>>,
}

// === impl BrokerOptions ===

impl BrokerOptions {
    /// The `binary` on `data`, on free ports that stay the same from start to start.
    pub fn new(binary: impl Into<PathBuf>, data: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            data: data.into(),
            grpc_port: free_port(),
            http_port: free_port(),
            internal_port: free_port(),
            settings: Vec::new(),
            clock: None,
            log_file: None,
        }
    }

    /// Writes all it logs to `file` as well, behind what is there.
    #[must_use]
    pub fn log_to(mut self, file: impl Into<PathBuf>) -> Self {
        self.log_file = Some(file.into());
        self
    }

    /// Goes by this wall clock.
    #[must_use]
    pub fn clock(mut self, clock: SkewedClock) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Sets one configuration key.
    #[must_use]
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.settings.push(format!("{key}={value}"));
        self
    }

    /// The same broker on other ports, so that two can be tried at once.
    #[must_use]
    pub fn on_other_ports(mut self) -> Self {
        self.grpc_port = free_port();
        self.http_port = free_port();
        self.internal_port = free_port();
        self
    }

    /// Where clients will find it.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.grpc_port)
    }

    /// Where its metrics and its health will be.
    pub fn http_address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.http_port).into()
    }

    /// Where it listens for other nodes.
    pub fn internal_address(&self) -> String {
        format!("127.0.0.1:{}", self.internal_port)
    }

    /// Its data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The command, for those who want to run it otherwise.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .arg("serve")
            .args(["--set", &format!("network.grpc.listen=127.0.0.1:{}", self.grpc_port)])
            .args(["--set", &format!("network.http.listen=127.0.0.1:{}", self.http_port)])
            .args(["--set", &format!("network.internal.listen=127.0.0.1:{}", self.internal_port)])
            .args(["--set", &format!("broker.data.dir={}", self.data.display())])
            .args(["--set", "telemetry.log.format=json"]);
        for setting in &self.settings {
            command.args(["--set", setting]);
        }
        // Nothing of the tester's environment configures it.
        command.env_clear();
        if let Some(clock) = &self.clock {
            command.env(skew::VARIABLE, clock.file());
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts it and waits until it serves.
    ///
    /// # Panics
    /// If it ends or hangs instead; with what it said.
    pub fn start(&self) -> BrokerProcess {
        self.spawn().ready()
    }

    /// Starts it; it may take others to get ready.
    pub fn spawn(&self) -> Starting {
        let mut child = self.command().spawn().expect("the binary under test exists");
        let log = self.log_of(&mut child);
        let said = lines_of(child.stdout.take().expect("piped"));
        Starting { child: Some(child), data: self.data.clone(), log: Some(log), said }
    }

    /// Starts a broker that must refuse to start.
    ///
    /// # Panics
    /// If it serves.
    pub fn start_refused(&self) -> Refusal {
        let mut child = self.command().spawn().expect("the binary under test exists");
        let mut log = self.log_of(&mut child);
        let said = lines_of(child.stdout.take().expect("piped"));
        // The channel ends with the process.
        while let Ok(line) = said.recv_timeout(HANG) {
            if ready_line(&line).is_some() {
                let _ = child.kill();
                let _ = child.wait();
                panic!("the broker serves; it was to refuse:\n{}", log.read_to_the_end());
            }
        }
        let status = child.wait().expect("it was ours to wait for");
        Refusal { status, said: log.read_to_the_end() }
    }

    fn log_of(&self, child: &mut Child) -> LogLines {
        let copy = self.log_file.as_ref().map(|file| {
            let file = File::options().create(true).append(true).open(file);
            file.expect("there is room for a log")
        });
        LogLines::of(child.stderr.take().expect("piped"), copy)
    }
}

// === impl Starting ===

impl Starting {
    /// The process.
    ///
    /// # Panics
    /// If it was waited for.
    pub fn id(&self) -> u32 {
        self.child.as_ref().expect("it was not waited for").id()
    }

    /// Waits until it serves.
    ///
    /// # Panics
    /// If it ends or hangs instead; with what it said.
    pub fn ready(mut self) -> BrokerProcess {
        loop {
            match self.said.recv_timeout(HANG) {
                Ok(line) => {
                    if let Some(process) = self.serves(&line) {
                        return process;
                    }
                }
                Err(error) => self.failed(&error.to_string()),
            }
        }
    }

    /// The process, if it serves by now; it is given once.
    ///
    /// # Panics
    /// If it ended instead; with what it said.
    pub fn try_ready(&mut self) -> Option<BrokerProcess> {
        loop {
            match self.said.try_recv() {
                Ok(line) => {
                    if let Some(process) = self.serves(&line) {
                        return Some(process);
                    }
                }
                Err(mpsc::TryRecvError::Empty) => return None,
                Err(mpsc::TryRecvError::Disconnected) => self.failed("it ended"),
            }
        }
    }

    fn serves(&mut self, line: &str) -> Option<BrokerProcess> {
        let (grpc, http) = ready_line(line)?;
        let child = self.child.take().expect("it is waited for once");
        let log = self.log.take().expect("it is waited for once");
        Some(BrokerProcess { child, data: self.data.clone(), grpc, http, log, ended: false })
    }

    fn failed(&mut self, why: &str) -> ! {
        let mut child = self.child.take().expect("it is waited for once");
        let _ = child.kill();
        let _ = child.wait();
        let mut log = self.log.take().expect("it is waited for once");
        panic!("the broker did not get ready ({why}):\n{}", log.read_to_the_end());
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A port nobody listens on now, and that no other call in this process gets.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let span = PORTS.end - PORTS.start;
    // Test processes that run at once begin at different places.
    let first = u16::try_from(std::process::id() * 61 % u32::from(span)).expect("below the span");
    for _ in 0..span {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = PORTS.start + (first + step % span) % span;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port in {PORTS:?}");
}

/// `ready grpc=ADDRESS http=ADDRESS`, what `riverrun serve` prints once it serves.
fn ready_line(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let (grpc, http) = line.strip_prefix("ready grpc=")?.split_once(" http=")?;
    Some((grpc.parse().ok()?, http.parse().ok()?))
}

/// The first lines of a pipe; the rest is read so that it never fills. Ends with the pipe.
fn lines_of(pipe: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (lines, said) = mpsc::sync_channel(64);
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            let _ = lines.try_send(line);
        }
    });
    said
}

// === impl BrokerProcess ===

impl BrokerProcess {
    /// Where clients connect.
    pub fn address(&self) -> String {
        self.grpc.to_string()
    }

    /// Where clients connect.
    pub fn grpc(&self) -> SocketAddr {
        self.grpc
    }

    /// Where `/metrics` is.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Its data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// A client of it.
    pub async fn client(&self) -> Client {
        Client::builder().bootstrap_servers([self.address()]).build().await.expect("valid settings")
    }

    /// Its stubs.
    pub async fn raw(&self) -> Raw {
        Raw::connect(&self.address()).await
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.wait();
    }

    /// Sends a signal. A process that is to stop has stopped when this returns: one thread of it has to
    /// hear of that first, and on a busy machine the others go on meanwhile.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("it runs");
        if signal == Signal::STOP {
            let sent = clock::now();
            while !self.has_stopped() {
                assert!(sent.elapsed() < HANG, "it goes on {HANG:?} after it was stopped");
                thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// All threads stand still.
    fn has_stopped(&self) -> bool {
        let tasks = format!("/proc/{}/task", self.pid().as_raw_nonzero());
        let mut tasks = fs::read_dir(tasks).expect("it runs").flatten();
        tasks.all(|task| {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            // The name before it may hold anything, and stands in parentheses. Gone counts as well.
            stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['T', 't', 'X', 'Z']))
        })
    }

    /// SIGTERM, and waits; how it ended and all it logged.
    pub fn stop(mut self) -> (ExitStatus, Vec<Value>) {
        self.signal(Signal::TERM);
        let status = self.wait();
        (status, self.logged())
    }

    /// Waits for its end. Whoever calls made sure that it comes.
    pub fn wait(&mut self) -> ExitStatus {
        let status = self.child.wait().expect("it was ours to wait for");
        self.ended = true;
        self.log.read_to_the_end();
        status
    }

    /// What it logged so far, the last 10 000 lines.
    pub fn logged(&self) -> Vec<Value> {
        let lines = self.log.lines.lock().expect("nobody panics while holding it");
        lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits for a line of its log.
    pub async fn logs(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut found = None;
        wait::until("the broker logs something", async || {
            found = self.logged().into_iter().find(&wanted);
            found.is_some()
        })
        .await;
        found.expect("it was waited for")
    }

    /// Bytes of memory that are nobody else's: neither file pages nor code. Maps of segments belong
    /// to the page cache, which the kernel takes back when it needs it.
    pub fn anonymous_bytes(&self) -> u64 {
        self.status_bytes("RssAnon:")
    }

    /// Resident bytes, file pages included.
    pub fn resident_bytes(&self) -> u64 {
        self.status_bytes("VmRSS:")
    }

    fn status_bytes(&self, field: &str) -> u64 {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let kib = status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.trim().strip_suffix(" kB"))
            .and_then(|kib| kib.trim().parse::<u64>().ok())
            .expect("the kernel says how much it has");
        kib * 1024
    }

    /// The process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    fn pid(&self) -> Pid {
        pid_of(&self.child)
    }
}

/// The process id of a child, for signals.
pub fn pid_of(child: &Child) -> Pid {
    let raw = i32::try_from(child.id()).expect("process ids are positive ints");
    Pid::from_raw(raw).expect("not zero")
}

impl Drop for BrokerProcess {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if thread::panicking() {
            eprintln!(
                "what the broker at {} logged last:\n{}",
                self.grpc,
                self.log.read_to_the_end()
            );
        }
    }
}

// === impl LogLines ===

impl LogLines {
    fn of(pipe: impl Read + Send + 'static, mut copy: Option<File>) -> Self {
        let lines: Arc<Mutex<VecDeque<String>>> = Arc::default();
        let reader = thread::spawn({
            let lines = Arc::clone(&lines);
            move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    if let Some(copy) = &mut copy {
                        // Of use to whoever looks for a cause; no test rests on it.
                        let _ = writeln!(copy, "{line}");
                    }
                    let mut lines = lines.lock().expect("nobody panics while holding it");
                    if lines.len() == LINES_MAX {
                        lines.pop_front();
                    }
                    lines.push_back(line);
                }
            }
        });
        Self { lines, reader: Some(reader) }
    }

    /// The last of it, once the process has ended.
    fn read_to_the_end(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        let lines = self.lines.lock().expect("nobody panics while holding it");
        let from = lines.len().saturating_sub(LINES_SHOWN);
        lines.range(from..).map(|line| format!("{line}\n")).collect()
    }
}
