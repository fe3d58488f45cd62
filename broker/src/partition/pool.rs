//! Threads for what blocks: rolls, syncs, cold reads.
//!
//! Two lanes, so that readers of history never delay a sync and syncs never delay a read. Each
//! lane's line of jobs is bounded by its callers: a partition has at most one piece of log work of
//! each kind under way, reads and look-ups are admitted by bytes ([`super::ReadBudget`]) and keep
//! what admitted them until they have run.
//!
//! A job that panics ends that job, never its thread: whoever waits for it is told by what the job
//! held (a channel, a guard).

use std::{
    any::Any,
    collections::VecDeque,
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, OnceLock},
    thread,
};

use parking_lot::{Condvar, Mutex};

use crate::telemetry::{Bound, Bounds, Usage};

type Job = Box<dyn FnOnce() + Send>;

/// Which line a job stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Rolls, window extensions, syncs, checkpoints.
    Work,
    /// Reads that may wait for the disk.
    Read,
}

/// The I/O threads of a broker. Cheap to clone. Once closed, or with the last handle gone, they
/// finish what is in line and end.
#[derive(Clone)]
pub struct IoPool {
    lines: Arc<Lines>,
}

/// Closes when the last handle is dropped; the threads hold their lines only.
struct Lines {
    work: Arc<Line>,
    read: Arc<Line>,
}

struct Line {
    name: &'static str,
    threads: usize,
    state: Mutex<LineState>,
    more: Condvar,
    /// Told of jobs that found all threads busy.
    bound: OnceLock<Bound>,
}

#[derive(Default)]
struct LineState {
    jobs: VecDeque<Job>,
    /// Threads that run a job.
    busy: usize,
    closed: bool,
}

impl IoPool {
    /// Starts the threads of both lanes.
    ///
    /// # Errors
    /// If the system gives no threads; those it gave end.
    pub fn start(work_threads: usize, read_threads: usize) -> io::Result<Self> {
        let lines = Arc::new(Lines {
            work: Line::new("log_work", work_threads),
            read: Line::new("cold_read", read_threads),
        });
        for line in [&lines.work, &lines.read] {
            for i in 0..line.threads {
                line.spawn(format!("io-{}-{i}", line.name))?;
            }
        }
        Ok(Self { lines })
    }

    /// Puts a job in line. Jobs of a lane start in order. After [`IoPool::close`] the job is dropped
    /// instead: what it holds has to say so to whoever waits for it.
    pub fn run(&self, lane: Lane, job: impl FnOnce() + Send + 'static) {
        self.line(lane).put(Box::new(job));
    }

    /// Jobs in line of a lane.
    pub fn waiting(&self, lane: Lane) -> usize {
        self.line(lane).state.lock().jobs.len()
    }

    /// Shows how many threads are busy, and counts jobs that had to wait for one.
    pub fn watch(&self, bounds: &Bounds) {
        for (line, name) in
            [(&self.lines.work, "log.io.threads"), (&self.lines.read, "log.io.threads.read")]
        {
            let watched = Arc::clone(line);
            let bound = bounds.watch(name, move || Usage {
                used: watched.state.lock().busy as u64,
                limit: watched.threads as u64,
            });
            // Watched twice, the first counter goes on counting.
            let _ = line.bound.set(bound);
        }
    }

    /// Takes no more jobs; the threads end once the lines are empty.
    pub fn close(&self) {
        self.lines.close();
    }

    fn line(&self, lane: Lane) -> &Arc<Line> {
        match lane {
            Lane::Work => &self.lines.work,
            Lane::Read => &self.lines.read,
        }
    }
}

impl Lines {
    fn close(&self) {
        for line in [&self.work, &self.read] {
            line.state.lock().closed = true;
            line.more.notify_all();
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.close();
    }
}

impl Line {
    fn new(name: &'static str, threads: usize) -> Arc<Self> {
        Arc::new(Self {
            name,
            threads: threads.max(1),
            state: Mutex::default(),
            more: Condvar::new(),
            bound: OnceLock::new(),
        })
    }

    fn put(&self, job: Job) {
        let mut state = self.state.lock();
        if state.closed {
            drop(state);
            // Outside the lock: what it holds may put the next job in line when it is dropped.
            drop(job);
            return;
        }
        let waits = state.busy + state.jobs.len() >= self.threads;
        state.jobs.push_back(job);
        drop(state);
        self.more.notify_one();
        if waits && let Some(bound) = self.bound.get() {
            bound.hit();
        }
    }

    fn spawn(self: &Arc<Self>, name: String) -> io::Result<()> {
        let line = Arc::clone(self);
        thread::Builder::new().name(name).spawn(move || {
            while let Some(job) = line.next() {
                // What the job touched is behind locks that do not poison, or its own.
                if let Err(panic) = catch_unwind(AssertUnwindSafe(job)) {
                    tracing::error!(lane = line.name, panic = %panic_text(panic.as_ref()), "a job panicked; please report this");
                }
                line.state.lock().busy -= 1;
            }
        })?;
        Ok(())
    }

    fn next(&self) -> Option<Job> {
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                state.busy += 1;
                return Some(job);
            }
            if state.closed {
                return None;
            }
            self.more.wait(&mut state);
        }
    }
}

impl fmt::Debug for IoPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IoPool")
            .field("work", &self.waiting(Lane::Work))
            .field("read", &self.waiting(Lane::Read))
            .finish()
    }
}

/// What a panic said, for a log line.
pub(super) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without words")
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use super::*;
    use crate::telemetry::Registry;

    /// Only reached when a test is about to fail.
    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn lanes_do_not_wait_for_each_other_and_close_drains() {
        let pool = IoPool::start(1, 1).unwrap();
        let (blocked, gate) = mpsc::sync_channel::<()>(0);
        let (done, finished) = mpsc::sync_channel(3);
        pool.run(Lane::Work, move || gate.recv().unwrap());
        for (lane, what) in [(Lane::Work, "work"), (Lane::Read, "read")] {
            let done = done.clone();
            pool.run(lane, move || done.send(what).unwrap());
        }
        assert_eq!(finished.recv().unwrap(), "read", "work is blocked, reads are not");
        pool.close();
        blocked.send(()).unwrap();
        assert_eq!(finished.recv().unwrap(), "work", "what was in line is still done");
    }

    #[test]
    fn a_job_that_panics_costs_no_thread() {
        let pool = IoPool::start(1, 1).unwrap();
        let (done, finished) = mpsc::sync_channel(1);
        for _ in 0..3 {
            pool.run(Lane::Work, || panic!("on purpose"));
        }
        pool.run(Lane::Work, move || done.send(()).unwrap());
        finished.recv_timeout(PATIENCE).unwrap();
    }

    #[test]
    fn after_close_a_job_is_dropped_and_not_kept() {
        let pool = IoPool::start(1, 1).unwrap();
        pool.close();
        let (held, dropped) = mpsc::sync_channel::<()>(1);
        pool.run(Lane::Read, move || held.send(()).unwrap());
        assert_eq!(dropped.recv_timeout(PATIENCE), Err(mpsc::RecvTimeoutError::Disconnected));
        assert_eq!(pool.waiting(Lane::Read), 0);
    }

    #[test]
    fn the_threads_end_with_the_last_handle() {
        let pool = IoPool::start(2, 2).unwrap();
        let lines = [&pool.lines.work, &pool.lines.read].map(Arc::downgrade);
        let (done, finished) = mpsc::sync_channel(1);
        let other = pool.clone();
        drop(pool);
        other.run(Lane::Read, move || done.send(()).unwrap());
        finished.recv_timeout(PATIENCE).unwrap();
        drop(other);
        for line in lines {
            // Each thread holds its line until it ends.
            while line.upgrade().is_some() {
                thread::yield_now();
            }
        }
    }

    #[test]
    fn busy_threads_and_jobs_that_wait_are_shown() {
        let (metrics, pool) = (Registry::new(), IoPool::start(1, 1).unwrap());
        pool.watch(&Bounds::register(&metrics));
        let (started, has_started) = mpsc::sync_channel(1);
        let (gate, held) = mpsc::sync_channel::<()>(0);
        pool.run(Lane::Work, move || {
            started.send(()).unwrap();
            let _ = held.recv();
        });
        has_started.recv_timeout(PATIENCE).unwrap();
        pool.run(Lane::Work, || {});
        let text = metrics.encode();
        for line in [
            "riverrun_bound_used{bound=\"log.io.threads\"} 1",
            "riverrun_bound_limit{bound=\"log.io.threads\"} 1",
            "riverrun_bound_hits_total{bound=\"log.io.threads\"} 1",
            "riverrun_bound_hits_total{bound=\"log.io.threads.read\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        drop(gate);
    }
}
