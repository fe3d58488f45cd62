//! Threads for what blocks: rolls, syncs, cold reads.
//!
//! Two lanes, so that readers of history never delay a sync and syncs never delay a read. Each
//! lane's line of jobs is bounded by its callers: a partition has at most one piece of log work and
//! one flush under way, cold reads are admitted by bytes ([`super::ReadBudget`]).

use std::{collections::VecDeque, fmt, io, sync::Arc, thread};

use parking_lot::{Condvar, Mutex};

type Job = Box<dyn FnOnce() + Send>;

/// Which line a job stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Rolls, window extensions, syncs, checkpoints.
    Work,
    /// Reads that may wait for the disk.
    Read,
}

/// The I/O threads of a broker. Dropping the last handle lets them finish what is in line.
#[derive(Clone)]
pub struct IoPool {
    work: Arc<Line>,
    read: Arc<Line>,
}

struct Line {
    state: Mutex<LineState>,
    more: Condvar,
}

#[derive(Default)]
struct LineState {
    jobs: VecDeque<Job>,
    closed: bool,
}

impl IoPool {
    /// Starts the threads of both lanes.
    ///
    /// # Errors
    /// If the system gives no threads.
    pub fn start(work_threads: usize, read_threads: usize) -> io::Result<Self> {
        let pool = Self { work: Line::new(), read: Line::new() };
        for i in 0..work_threads.max(1) {
            pool.work.spawn(format!("io-work-{i}"))?;
        }
        for i in 0..read_threads.max(1) {
            pool.read.spawn(format!("io-read-{i}"))?;
        }
        Ok(pool)
    }

    /// Puts a job in line. Jobs of a lane start in order.
    pub fn run(&self, lane: Lane, job: impl FnOnce() + Send + 'static) {
        let line = match lane {
            Lane::Work => &self.work,
            Lane::Read => &self.read,
        };
        line.state.lock().jobs.push_back(Box::new(job));
        line.more.notify_one();
    }

    /// Jobs in line of a lane, for metrics.
    pub fn waiting(&self, lane: Lane) -> usize {
        let line = match lane {
            Lane::Work => &self.work,
            Lane::Read => &self.read,
        };
        line.state.lock().jobs.len()
    }

    /// Lets the threads end once the lines are empty.
    pub fn close(&self) {
        for line in [&self.work, &self.read] {
            line.state.lock().closed = true;
            line.more.notify_all();
        }
    }
}

impl Line {
    fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), more: Condvar::new() })
    }

    fn spawn(self: &Arc<Self>, name: String) -> io::Result<()> {
        let line = Arc::clone(self);
        thread::Builder::new().name(name).spawn(move || {
            while let Some(job) = line.next() {
                job();
            }
        })?;
        Ok(())
    }

    fn next(&self) -> Option<Job> {
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

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
}
