//! Programs of others that run to their end: package clients, and the load generators of peers.

use std::{
    collections::VecDeque,
    env,
    ffi::OsStr,
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use rustix::param::clock_ticks_per_second;
use tokio::time::sleep;

use crate::{
    clock::Moment,
    error::{BenchError, Result},
    process::{self, keep_last_lines},
};

/// The hidden command that becomes another program, which then ends with its parent.
pub const AS_PEER: &str = "as-peer";

/// How often an end is looked for: small against the seconds that a load lasts.
const END_POLL: Duration = Duration::from_millis(5);

/// A program that is about to run.
#[derive(Debug)]
pub struct Tool {
    what: &'static str,
    command: Command,
    limit: Duration,
}

/// What a program left.
#[derive(Clone, Debug, Default)]
pub struct Said {
    /// The last lines of its standard output.
    pub lines: Vec<String>,
    /// Processor time it took from beginning to end; `None` where that is not known.
    pub cpu_s: Option<f64>,
    /// What could not be measured around it.
    pub notes: Vec<String>,
}

/// Killed when dropped: Ctrl-C drops what runs.
struct Running(Child);

// === impl Tool ===

impl Tool {
    /// `command`, called `what` in errors, killed after `limit`.
    pub fn new(what: &'static str, command: Command, limit: Duration) -> Self {
        Self { what, command, limit }
    }

    /// Runs it. Cancel safe: it is killed.
    ///
    /// # Errors
    /// It cannot be started, fails, or takes too long; with the last it said.
    pub async fn run(mut self) -> Result<Said> {
        let Self { what, limit, .. } = self;
        let before = children_cpu_s();
        self.command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = self.command.spawn().map_err(BenchError::io(format!("starting {what}")))?;
        let mut running = Running(child);
        let [out, err] = [(); 2].map(|()| Arc::<Mutex<VecDeque<String>>>::default());
        let readers = [
            keep_last_lines(running.0.stdout.take().expect("piped"), Arc::clone(&out)),
            keep_last_lines(running.0.stderr.take().expect("piped"), Arc::clone(&err)),
        ];
        let deadline = Moment::now().plus(limit);
        let ended = loop {
            match running.0.try_wait().map_err(BenchError::io(format!("waiting for {what}")))? {
                Some(status) => break Some(status),
                None if Moment::now() >= deadline => break None,
                None => sleep(END_POLL).await,
            }
        };
        drop(running);
        for reader in readers {
            // What a killed one left running may hold the pipe: then the lines so far have to do.
            if ended.is_some() {
                let _ = reader.join();
            }
        }
        let cpu_s = children_cpu_s().zip(before).map(|(now, before)| now - before);
        let lines: Vec<String> = out.lock().iter().cloned().collect();
        let because = match ended {
            Some(status) if status.success() => return Ok(Said { lines, cpu_s, notes: vec![] }),
            Some(status) => format!("ended with {status}"),
            None => format!("did not end within {limit:?} and was killed"),
        };
        let said = err.lock().iter().chain(&lines).map(|l| format!("\n  {l}")).collect::<String>();
        Err(BenchError::Failed(format!("{what} {because}:{said}")))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !matches!(self.0.try_wait(), Ok(Some(_))) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// `program`, with nothing of the tester's environment, ending when this process ends.
///
/// # Errors
/// The system does not say where this program is.
pub fn of_peer(program: &Path) -> Result<Command> {
    let mut command = process::this_program([OsStr::new(AS_PEER), program.as_os_str()])?;
    command.env_clear();
    Ok(command)
}

/// Becomes `arguments`, a program and what it is told. Called in a child of ours.
///
/// # Errors
/// Always: it only comes back if the program could not be started.
pub fn become_peer(arguments: &[std::ffi::OsString]) -> Result<()> {
    let [program, arguments @ ..] = arguments else {
        return Err(BenchError::Usage(format!("{AS_PEER} needs a program")));
    };
    process::end_with_parent().map_err(BenchError::io("tying the process to its parent"))?;
    let failed = Command::new(program).args(arguments).exec();
    Err(BenchError::io(format!("starting {}", program.display()))(failed))
}

/// Where `program` is, after `PATH`.
///
/// # Errors
/// It is nowhere; `install` says what to do about it.
pub fn find(program: &str, install: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    find_in(&path, program).ok_or_else(|| {
        BenchError::Failed(format!("there is no {program} on this machine: {install}"))
    })
}

/// The first executable file of that name in the directories of `path`.
pub fn find_in(path: &OsStr, program: &str) -> Option<PathBuf> {
    let is_program = |file: &PathBuf| {
        fs::metadata(file)
            .is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
    };
    env::split_paths(path).map(|dir| dir.join(program)).find(is_program)
}

/// Processor time of the children of this process that have ended.
fn children_cpu_s() -> Option<f64> {
    let ticks = children_ticks(&fs::read_to_string("/proc/self/stat").ok()?)?;
    Some(ticks as f64 / clock_ticks_per_second() as f64)
}

/// User and system time of waited-for children, of `/proc/PID/stat`.
fn children_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(13);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn shell(script: &str, limit: Duration) -> Tool {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        Tool::new("a test", command, limit)
    }

    #[tokio::test]
    async fn the_last_lines_and_the_processor_time_are_kept() {
        let said = shell("i=0; while [ $i -lt 100 ]; do i=$((i+1)); echo $i; done", LIMIT);
        let said = said.run().await.unwrap();
        assert_eq!(said.lines.last().map(String::as_str), Some("100"));
        assert!(said.lines.len() < 100, "only the last are kept");
        assert!(said.cpu_s.unwrap() >= 0.0);
    }

    #[tokio::test]
    async fn a_failure_and_a_hang_are_told_with_what_was_said() {
        let error = shell("echo half; echo no space >&2; exit 3", LIMIT).run().await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("exit status: 3") && text.contains("no space"), "{text}");
        let error = shell("exec sleep 600", Duration::from_millis(30)).run().await.unwrap_err();
        assert!(error.to_string().contains("did not end within"), "{error}");
    }

    #[test]
    fn programs_are_found_and_missing_ones_come_with_advice() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("java");
        fs::write(&file, "").unwrap();
        assert_eq!(find_in(dir.path().as_os_str(), "java"), None, "it cannot be executed");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find_in(dir.path().as_os_str(), "java"), Some(file));
        let error = find("no-such-program", "install a JDK").unwrap_err().to_string();
        assert!(error.contains("no-such-program") && error.contains("install a JDK"), "{error}");
    }

    #[test]
    fn childrens_ticks_are_read() {
        let stat = "42 (a (b) c) S 1 42 42 0 -1 4194560 10 0 0 0 250 50 7 9 20 0 4 0 100";
        assert_eq!(children_ticks(stat), Some(16));
        assert_eq!(children_ticks("42 (a"), None);
    }
}
