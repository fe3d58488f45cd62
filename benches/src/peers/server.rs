//! The server of a peer, or several that are one cluster: started on loopback with a directory of
//! their own, their costs read around a load as those of the product are.

use std::{
    fs::{self, File},
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rustix::fs::syncfs;
use tempfile::TempDir;

use super::tool::{Said, Tool};
use crate::{
    accounting::Accounts,
    error::{BenchError, Result},
    outcome::Cost,
    process::Process,
};

/// Longest wait for loopback to say whether anyone listens.
const CONNECT_MAX: Duration = Duration::from_millis(200);

/// Processes of a server that runs. Killed when dropped, and their directory removed.
#[derive(Debug)]
pub struct Server {
    processes: Vec<Process>,
    dir: TempDir,
}

// === impl Server ===

impl Server {
    /// Starts `commands` together, each of which listens at its port when it is ready; their data is
    /// below `dir`.
    ///
    /// # Errors
    /// One does not start, with what it said.
    pub fn start(
        what: &'static str,
        commands: impl IntoIterator<Item = (Command, u16)>,
        dir: TempDir,
    ) -> Result<Self> {
        // Each may wait for the others.
        let starting = commands
            .into_iter()
            .map(|(command, port)| Ok((Process::begin(what, command)?, port)))
            .collect::<Result<Vec<_>>>()?;
        let processes = starting
            .into_iter()
            .map(|(starting, port)| starting.ready_when(|| listens(port)))
            .collect::<Result<_>>()?;
        Ok(Self { processes, dir })
    }

    /// The directory it was given.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Lets `load` run against it; `appended` tells afterwards how many bytes of log came of it.
    /// Begins and ends with everything written back, as runs of the product do.
    ///
    /// # Errors
    /// Those of `load`.
    pub async fn load(
        &self,
        load: Tool,
        appended: impl FnOnce() -> Option<u64>,
    ) -> Result<(Said, Cost)> {
        self.write_back().await?;
        let accounts = Accounts::of(self.processes.iter().map(Process::id), Some(self.dir()));
        let begun = accounts.read();
        let mut said = load.run().await?;
        said.notes = accounts.notes().to_vec();
        let interval = accounts.read().since(&begun);
        let memory = accounts.memory();
        let appended = appended();
        self.write_back().await?;
        let whole = accounts.read().since(&begun);
        let mut cost = Cost {
            generator_cpu_s: said.cpu_s,
            subject_cpu_s: interval.subject_cpu_s,
            subject_resident_bytes_max: memory.resident_bytes_max,
            subject_anonymous_bytes: memory.anonymous_bytes,
            subject_written_bytes: whole.subject_written_bytes,
            device_written_bytes: whole.device_written_bytes.filter(|_| appended.is_some()),
            ..Cost::default()
        };
        cost.set_appended(appended.unwrap_or(0));
        Ok((said, cost))
    }

    async fn write_back(&self) -> Result<()> {
        let dir = self.dir().to_owned();
        let sync = move || -> io::Result<()> { Ok(syncfs(File::open(dir)?)?) };
        let synced = tokio::task::spawn_blocking(sync).await.expect("syncing does not panic");
        synced.map_err(BenchError::io("syncing the data"))
    }

    /// SIGTERM, and waits. Its data is thrown away, so how it ends does not matter: a JVM says 143.
    /// Several are killed: the last would wait for a majority.
    pub fn stop(mut self) {
        if let [_] = self.processes[..] {
            let _ = self.processes.remove(0).stop();
        }
    }
}

/// Puts CPU seconds in relation to `bytes` of payload, all that went through while they were spent.
pub fn cost_per_gb(cost: &mut Cost, bytes: u64) {
    let per_gb = |cpu_s: Option<f64>| cpu_s.filter(|_| bytes > 0).map(|s| s / (bytes as f64 / 1e9));
    cost.generator_cpu_s_per_gb = per_gb(cost.generator_cpu_s);
    cost.subject_cpu_s_per_gb = per_gb(cost.subject_cpu_s);
}

/// Ports of loopback that were free a moment ago.
///
/// # Errors
/// There is none.
pub fn free_ports(count: usize) -> Result<Vec<u16>> {
    let failed = || BenchError::io("looking for a free port");
    // All are held until all are known, so that they differ.
    let listening = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let held: io::Result<Vec<_>> = (0..count).map(|_| listening()).collect();
    let ports: io::Result<Vec<u16>> =
        held.and_then(|held| held.iter().map(|it| Ok(it.local_addr()?.port())).collect());
    ports.map_err(failed())
}

fn listens(port: u16) -> bool {
    TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), CONNECT_MAX).is_ok()
}

/// Lengths of all files below `dir` whose names end in `.extension`. `None`: `dir` cannot be read.
pub fn bytes_of_files(dir: &Path, extension: &str) -> Option<u64> {
    let mut bytes = 0;
    let mut dirs: Vec<PathBuf> = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).ok()? {
            let path = entry.ok()?.path();
            // A file may be gone since.
            let Ok(about) = fs::symlink_metadata(&path) else { continue };
            if about.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                bytes += about.len();
            }
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_differ_and_nobody_listens_there() {
        let [a, b] = free_ports(2).unwrap()[..] else { panic!("two were asked for") };
        assert!(a != b && a != 0 && b != 0);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert!(listens(listener.local_addr().unwrap().port()));
    }

    #[test]
    fn files_of_a_log_are_added_up() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("t-0")).unwrap();
        for (name, bytes) in [("t-0/0.log", 10), ("t-0/1.log", 5), ("t-0/0.index", 7)] {
            fs::write(dir.path().join(name), vec![0; bytes]).unwrap();
        }
        assert_eq!(bytes_of_files(dir.path(), "log"), Some(15));
        assert_eq!(bytes_of_files(&dir.path().join("none"), "log"), None);
    }

    #[tokio::test]
    async fn a_load_is_accounted_and_the_directory_goes_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut sleep = Command::new("/bin/sh");
        sleep.args(["-c", "exec sleep 600"]);
        let server = Server::start("a test", [(sleep, port)], dir).unwrap();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo 12345 > \"$0\"; echo done"]).arg(path.join("a.log"));
        let tool = Tool::new("a load", command, Duration::from_secs(60));
        let (said, mut cost) = server.load(tool, || bytes_of_files(&path, "log")).await.unwrap();
        assert_eq!(said.lines, ["done"]);
        assert_eq!(cost.appended_bytes, Some(6));
        cost.subject_cpu_s = Some(1.0);
        cost_per_gb(&mut cost, 500_000_000);
        assert_eq!(cost.subject_cpu_s_per_gb, Some(2.0));
        server.stop();
        assert!(!path.exists());
    }
}
