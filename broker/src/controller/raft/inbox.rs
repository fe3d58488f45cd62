//! What waits for the quorum's thread.

use std::{mem, time::Duration};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use raft::eraftpb::Message;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{
    membership::{ChangeError, Step},
    writes::Written,
};
use crate::{
    controller::{
        error::QuorumError,
        frame::{Membership, Voter, VoterId},
        quorum::Judged,
    },
    metadata::MetadataOffset,
};

/// Messages of peers that may wait. A peer's messages are worth little when they are old.
pub(super) const PEER_MESSAGES_MAX: usize = 1024;
/// And their bytes; one snapshot always fits.
pub(super) const PEER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Who asked for something, and what it holds of the budget until it is answered.
#[derive(Debug)]
pub(super) struct Asked<T> {
    pub(super) answer: oneshot::Sender<T>,
    pub(super) permit: OwnedSemaphorePermit,
}

#[derive(Debug)]
pub(super) enum Input {
    Message { from: Voter, message: Box<Message>, bytes: usize },
    Propose { record: Bytes, asked: Asked<Result<Judged, QuorumError>> },
    Read { asked: Asked<Result<MetadataOffset, QuorumError>> },
    Change { steps: Vec<Step>, asked: Asked<Result<Membership, ChangeError>> },
    Transfer(VoterId),
    Written(Written),
}

/// See the module. Requests are bounded by the permits they hold, messages here; of the disk there is
/// one answer at a time.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<Input>,
    messages: usize,
    bytes: usize,
    closed: bool,
}

/// It was not taken: nobody will, or there is no room.
#[derive(Debug)]
pub(super) struct NotTaken;

impl Inbox {
    pub(super) fn put(&self, input: Input) -> Result<(), NotTaken> {
        let mut state = self.state.lock();
        let open = !state.closed || matches!(input, Input::Written(_) | Input::Message { .. });
        if !open {
            return Err(NotTaken);
        }
        if let Input::Message { bytes, .. } = &input {
            let full = state.messages >= PEER_MESSAGES_MAX
                || (state.bytes > 0 && state.bytes + bytes > PEER_BYTES_MAX);
            if full {
                return Err(NotTaken);
            }
            state.messages += 1;
            state.bytes += bytes;
        }
        state.waiting.push(input);
        self.arrived.notify_one();
        Ok(())
    }

    /// Takes all that waits, in order; waits for something, but no longer than `patience`. Whether
    /// it is closed, too.
    pub(super) fn take(&self, patience: Duration) -> (Vec<Input>, bool) {
        let mut state = self.state.lock();
        if state.waiting.is_empty() {
            self.arrived.wait_for(&mut state, patience);
        }
        state.messages = 0;
        state.bytes = 0;
        (mem::take(&mut state.waiting), state.closed)
    }

    /// Requests are not taken any more; what is in stays.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.arrived.notify_one();
    }
}
