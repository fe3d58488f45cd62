//! Proposals on their way to the log's thread.

use std::mem;

use parking_lot::{Condvar, Mutex};

use super::Proposal;

/// What waits for the log. Bounded by the permits the proposals hold, so that putting one in never
/// waits, and a proposer that is parked elsewhere never holds up a stop.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<Proposal>,
    closed: bool,
}

impl Inbox {
    /// Puts a proposal in; gives it back if nobody will take it any more.
    pub(super) fn put(&self, proposal: Proposal) -> Result<(), Proposal> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(proposal);
        }
        state.waiting.push(proposal);
        self.arrived.notify_one();
        Ok(())
    }

    /// Takes all that waits, in order, and blocks until that is something. `None` once it is closed
    /// and empty.
    pub(super) fn take(&self) -> Option<Vec<Proposal>> {
        let mut state = self.state.lock();
        loop {
            if !state.waiting.is_empty() {
                return Some(mem::take(&mut state.waiting));
            }
            if state.closed {
                return None;
            }
            self.arrived.wait(&mut state);
        }
    }

    /// From now on takes nothing more; what is in stays.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.arrived.notify_one();
    }
}
