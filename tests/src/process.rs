//! Brokers as processes: real sockets, real files, real kills.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use riverrun_client::Client;

/// How long a broker may take to say that it is ready. Generous: only a hang reaches it.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// A broker process. Killed when dropped.
#[derive(Debug)]
pub struct BrokerProcess {
    child: Child,
    data: PathBuf,
    grpc: SocketAddr,
    http: SocketAddr,
}

/// What to start a broker with.
#[derive(Debug, Clone)]
pub struct BrokerOptions {
    binary: PathBuf,
    data: PathBuf,
    settings: Vec<String>,
}

impl BrokerOptions {
    /// The `binary` on `data`, on free ports.
    pub fn new(binary: impl Into<PathBuf>, data: impl Into<PathBuf>) -> Self {
        Self { binary: binary.into(), data: data.into(), settings: Vec::new() }
    }

    /// Sets one configuration key.
    #[must_use]
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.settings.push(format!("{key}={value}"));
        self
    }

    /// The command, for those who want to run it otherwise.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .arg("serve")
            .args(["--set", "network.grpc.listen=127.0.0.1:0"])
            .args(["--set", "network.http.listen=127.0.0.1:0"])
            .args(["--set", &format!("broker.data.dir={}", self.data.display())]);
        for setting in &self.settings {
            command.args(["--set", setting]);
        }
        command
    }

    /// Starts it and waits until it serves.
    ///
    /// # Panics
    /// If it ends or hangs instead; with what it said.
    pub fn start(&self) -> BrokerProcess {
        let mut child = self
            .command()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the binary under test exists");
        let stdout = child.stdout.take().expect("piped");
        let (lines, said) = mpsc::sync_channel(64);
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // Only the first lines matter; the rest is read so that the pipe never fills.
                let _ = lines.try_send(line);
            }
        });
        let mut heard = Vec::new();
        loop {
            match said.recv_timeout(READY_WITHIN) {
                Ok(line) => {
                    if let Some((grpc, http)) = ready_line(&line) {
                        return BrokerProcess { child, data: self.data.clone(), grpc, http };
                    }
                    heard.push(line);
                }
                Err(error) => {
                    let _ = child.kill();
                    panic!("the broker did not get ready ({error}); it said: {heard:#?}");
                }
            }
        }
    }
}

/// `ready grpc=ADDRESS http=ADDRESS`, what `riverrun serve` prints once it serves.
fn ready_line(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let (grpc, http) = line.strip_prefix("ready grpc=")?.split_once(" http=")?;
    Some((grpc.parse().ok()?, http.parse().ok()?))
}

impl BrokerProcess {
    /// Where clients connect.
    pub fn address(&self) -> String {
        self.grpc.to_string()
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

    /// SIGKILL, and waits until it is gone.
    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it was ours to wait for");
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(self.pid(), signal).expect("it runs");
    }

    /// SIGTERM, and waits; whether it said that all went well.
    pub fn stop(mut self) -> bool {
        self.signal(rustix::process::Signal::TERM);
        self.child.wait().expect("it was ours to wait for").success()
    }

    /// Resident bytes of the process.
    pub fn resident_bytes(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let kib = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"))
            .and_then(|kib| kib.trim().parse::<u64>().ok())
            .expect("the kernel says how much it has");
        kib * 1024
    }

    fn pid(&self) -> rustix::process::Pid {
        let raw = i32::try_from(self.child.id()).expect("process ids are positive ints");
        rustix::process::Pid::from_raw(raw).expect("not zero")
    }
}

impl Drop for BrokerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
