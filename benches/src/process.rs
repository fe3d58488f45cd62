//! Other processes of a benchmark: the broker, the null sink. The load generator and what it loads
//! are separate processes, as in production; each tells in one line of standard output that it is
//! ready, and none outlives its parent.

use std::{
    collections::VecDeque,
    ffi::OsStr,
    io::{self, BufRead, BufReader, Read},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    clock::Moment,
    error::{BenchError, Result},
};

/// Longest start: a broker may have to recover gigabytes.
const START_MAX: Duration = Duration::from_secs(120);

/// Longest orderly end, before it is killed.
const END_MAX: Duration = Duration::from_secs(30);

/// Lines of standard error that are kept, for the error message of a process that died.
const LINES_KEPT: usize = 40;

/// How often an end is looked for.
const END_POLL: Duration = Duration::from_millis(5);

/// A child process. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    what: &'static str,
    child: Child,
    said: Arc<Mutex<VecDeque<String>>>,
    reader: Option<JoinHandle<()>>,
    ended: Option<ExitStatus>,
}

/// A child process that is not ready yet. Killed when dropped.
#[derive(Debug)]
pub struct Starting {
    process: Process,
    shown: String,
    lines: mpsc::Receiver<String>,
}

// === impl Process ===

impl Process {
    /// Starts `command` and waits for the line that begins with `ready `; gives the rest of it.
    ///
    /// # Errors
    /// It cannot be started, ends, or is silent for too long; with the last it wrote to standard
    /// error.
    pub fn start(what: &'static str, command: Command) -> Result<(Self, String)> {
        Self::begin(what, command)?.ready()
    }

    /// Starts `command`, which may take others to get ready.
    ///
    /// The thread that calls this must outlive the process: a child of ours ends with the thread that
    /// made it ([`end_with_parent`]).
    ///
    /// # Errors
    /// It cannot be started.
    pub fn begin(what: &'static str, command: Command) -> Result<Starting> {
        let shown = command.get_program().to_string_lossy().into_owned();
        let (process, stdout) = Self::spawn(what, command)?;
        Ok(Starting { process, shown, lines: first_lines(stdout) })
    }

    fn spawn(what: &'static str, mut command: Command) -> Result<(Self, ChildStdout)> {
        let shown = command.get_program().to_string_lossy().into_owned();
        // Nothing of the tester's environment configures it.
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            command.spawn().map_err(BenchError::io(format!("starting {what} ({shown})")))?;
        let said = Arc::<Mutex<VecDeque<String>>>::default();
        let reader = keep_last_lines(child.stderr.take().expect("piped"), Arc::clone(&said));
        let stdout = child.stdout.take().expect("piped");
        Ok((Self { what, child, said, reader: Some(reader), ended: None }, stdout))
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGTERM, and waits for its end.
    ///
    /// # Errors
    /// It had to be killed, or said that something was wrong.
    pub fn stop(mut self) -> Result<()> {
        // It may have ended by the signal we got as well.
        let _ = kill_process(pid_of(&self.child), Signal::TERM);
        let deadline = Moment::now().plus(END_MAX);
        loop {
            let ended = self.child.try_wait().map_err(BenchError::io("waiting for a process"))?;
            match ended {
                Some(status) => {
                    self.ended = Some(status);
                    if status.success() {
                        return Ok(());
                    }
                    let what = self.what;
                    return Err(BenchError::Failed(format!(
                        "{what} ended with {status}:\n{}",
                        self.last_said()
                    )));
                }
                None if Moment::now() >= deadline => {
                    self.kill();
                    return Err(BenchError::Failed(format!(
                        "{} did not end within {END_MAX:?} and was killed",
                        self.what
                    )));
                }
                None => thread::sleep(END_POLL),
            }
        }
    }

    /// SIGKILL, and waits.
    fn kill(&mut self) {
        if self.ended.is_none() {
            let _ = self.child.kill();
            self.ended = self.child.wait().ok();
        }
    }

    /// The last lines of its standard error, once it has ended.
    fn last_said(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        let said = self.said.lock();
        said.iter().map(|line| format!("  {line}\n")).collect()
    }
}

// === impl Starting ===

impl Starting {
    /// Waits for the line that begins with `ready `; gives the rest of it.
    ///
    /// # Errors
    /// As for [`Process::start`].
    pub fn ready(self) -> Result<(Process, String)> {
        let deadline = Moment::now().plus(START_MAX);
        loop {
            match self.lines.recv_timeout(deadline.since(Moment::now())) {
                Ok(line) => {
                    if let Some(rest) = line.strip_prefix("ready ") {
                        return Ok((self.process, rest.to_owned()));
                    }
                }
                Err(_) => return Err(self.not_ready()),
            }
        }
    }

    /// Waits until `is_ready`, where the process does not tell it.
    ///
    /// # Errors
    /// As for [`Process::start`].
    pub fn ready_when(mut self, is_ready: impl Fn() -> bool) -> Result<Process> {
        let deadline = Moment::now().plus(START_MAX);
        loop {
            let ended = self.process.child.try_wait();
            let ended = ended.map_err(BenchError::io("waiting for a process"))?;
            if ended.is_none() && is_ready() {
                return Ok(self.process);
            }
            if ended.is_some() || Moment::now() >= deadline {
                return Err(self.not_ready());
            }
            thread::sleep(END_POLL);
        }
    }

    fn not_ready(mut self) -> BenchError {
        self.process.kill();
        let (what, said) = (self.process.what, self.process.last_said());
        let shown = &self.shown;
        BenchError::Failed(format!("{what} ({shown}) did not get ready:\n{said}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// This program again, with other arguments.
///
/// # Errors
/// The system does not say where it is.
pub fn this_program<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Result<Command> {
    let program = std::env::current_exe().map_err(BenchError::io("finding this program"))?;
    let mut command = Command::new(program);
    command.args(arguments);
    Ok(command)
}

/// Called in a child of ours: it gets SIGTERM when the thread that made it is gone, however that ended.
///
/// # Errors
/// The system refuses.
pub fn end_with_parent() -> io::Result<()> {
    Ok(set_parent_process_death_signal(Some(Signal::TERM))?)
}

/// Called in a child of ours, on a runtime, before it says that it is ready: resolves when its parent
/// tells it to end. Ctrl-C goes to the whole group, and is for the parent to act on.
///
/// # Errors
/// The system has no signals to give.
pub fn told_to_end() -> Result<impl Future<Output = ()>> {
    let listen = |kind| signal(kind).map_err(BenchError::io("signals"));
    let mut terminated = listen(SignalKind::terminate())?;
    let interrupted = listen(SignalKind::interrupt())?;
    Ok(async move {
        let _ignored = interrupted;
        terminated.recv().await;
    })
}

fn pid_of(child: &Child) -> Pid {
    let id = i32::try_from(child.id()).expect("process ids are positive ints");
    Pid::from_raw(id).expect("not zero")
}

/// The first lines of a pipe; the rest is read so that it never fills. Ends with the pipe.
fn first_lines(pipe: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (lines, said) = mpsc::sync_channel(64);
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(io::Result::ok) {
            let _ = lines.try_send(line);
        }
    });
    said
}

/// The last lines of a pipe, until it ends.
pub(crate) fn keep_last_lines(
    pipe: impl Read + Send + 'static,
    kept: Arc<Mutex<VecDeque<String>>>,
) -> JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(io::Result::ok) {
            let mut kept = kept.lock();
            if kept.len() == LINES_KEPT {
                kept.pop_front();
            }
            kept.push_back(line);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn it_is_ready_when_it_says_so_and_ends_when_told() {
        let script = "echo hello; echo ready a=1 b=2; exec sleep 600";
        let (process, rest) = Process::start("a test", shell(script)).unwrap();
        assert_eq!(rest, "a=1 b=2");
        let error = process.stop().unwrap_err().to_string();
        assert!(error.contains("signal: 15"), "sleep does not handle it: {error}");
        let (process, _) = Process::start("a test", shell("trap '' TERM; echo ready .")).unwrap();
        process.stop().unwrap();
    }

    #[test]
    fn what_it_said_is_told_when_it_dies() {
        let script = "echo no such directory >&2; exit 3";
        let error = Process::start("a test", shell(script)).unwrap_err().to_string();
        assert!(error.contains("did not get ready") && error.contains("no such directory"));
        assert!(Process::start("a test", Command::new("/no/such/program")).is_err());
    }

    #[test]
    fn one_that_tells_nothing_is_asked_until_it_is_ready() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ready");
        let script = format!("echo $$ > {}; exec sleep 600", file.display());
        let starting = Process::begin("a test", shell(&script)).unwrap();
        let process = starting.ready_when(|| file.exists()).unwrap();
        assert!(std::path::Path::new("/proc").join(process.id().to_string()).exists());
        let dies = Process::begin("a test", shell("echo no heap >&2; exit 1")).unwrap();
        assert!(dies.ready_when(|| false).unwrap_err().to_string().contains("no heap"));
    }

    #[test]
    fn dropping_kills_it() {
        let (process, rest) =
            Process::start("a test", shell("echo ready $$; exec sleep 600")).unwrap();
        drop(process);
        assert!(!std::path::Path::new("/proc").join(rest).exists());
    }
}
