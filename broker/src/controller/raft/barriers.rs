//! Reads that wait until the image has everything acknowledged before they were asked for.
//!
//! One round is under way at a time and serves all that came before it began. A round has a context
//! of its own, never used again, not even by a later run of this node: an answer that was delayed
//! past a restart says what was committed long ago. A round whose question or answer got lost is
//! asked again.

use std::collections::VecDeque;

use super::{
    mutation::{Mutation, Planted},
    types::Ticket,
};

/// See the module.
#[derive(Debug)]
pub(super) struct Barriers {
    planted: Planted,
    /// Of this run.
    nonce: u64,
    rounds: u64,
    waiting: VecDeque<Asked>,
    round: Option<Round>,
    /// Those who know what to wait for, and that.
    settled: VecDeque<(u64, Ticket)>,
    now: u32,
}

#[derive(Debug, Clone, Copy)]
struct Asked {
    ticket: Ticket,
    /// Tick at which it is told that nobody answers.
    until: u32,
}

#[derive(Debug)]
struct Round {
    context: Vec<u8>,
    asked: Vec<Asked>,
    /// Tick at which it is asked again.
    until: u32,
}

impl Barriers {
    pub(super) fn new(nonce: u64, planted: Planted) -> Self {
        let nonce = if planted.has(Mutation::ReuseReadContexts) { 0 } else { nonce };
        Self {
            planted,
            nonce,
            rounds: 0,
            waiting: VecDeque::new(),
            round: None,
            settled: VecDeque::new(),
            now: 0,
        }
    }

    pub(super) fn ask(&mut self, ticket: Ticket, patience: u32) {
        self.waiting.push_back(Asked { ticket, until: self.now.wrapping_add(patience) });
    }

    /// The context of a new round, if one is due; it is over `patience` ticks from now.
    pub(super) fn begin(&mut self, patience: u32) -> Option<Vec<u8>> {
        if self.round.is_some() || self.waiting.is_empty() {
            return None;
        }
        self.rounds += 1;
        let context = [self.nonce.to_le_bytes(), self.rounds.to_le_bytes()].concat();
        let asked = self.waiting.drain(..).collect();
        let until = self.now.wrapping_add(patience);
        self.round = Some(Round { context: context.clone(), asked, until });
        Some(context)
    }

    /// A leader says, asked with `context`: all up to `index` was committed by then.
    pub(super) fn answered(&mut self, context: &[u8], index: u64) {
        let ours = |round: &mut Round| round.context == context;
        if let Some(round) = self.round.take_if(ours) {
            self.settled.extend(round.asked.into_iter().map(|asked| (index, asked.ticket)));
        }
    }

    /// Those whose wait is over when the image has all up to `applied`.
    pub(super) fn applied(&mut self, applied: u64) -> Vec<Ticket> {
        let skip = self.planted.has(Mutation::ReadWithoutQuorum);
        if skip {
            let round = self.round.take().into_iter().flat_map(|round| round.asked);
            let all = round.chain(self.waiting.drain(..));
            return all.map(|asked| asked.ticket).collect();
        }
        let (done, later): (Vec<_>, Vec<_>) =
            self.settled.drain(..).partition(|(index, _)| *index <= applied);
        self.settled = later.into();
        done.into_iter().map(|(_, ticket)| ticket).collect()
    }

    /// One tick on: a round that was not answered is asked again, and whoever has waited too long is
    /// given up.
    pub(super) fn tick(&mut self) -> Vec<Ticket> {
        self.now = self.now.wrapping_add(1);
        let now = self.now;
        if let Some(round) = self.round.take_if(|round| round.until == now) {
            for asked in round.asked.into_iter().rev() {
                self.waiting.push_front(asked);
            }
        }
        let mut late = Vec::new();
        self.waiting.retain(|asked| {
            let wait = asked.until.wrapping_sub(now);
            // Past, in numbers that wrap.
            let over = wait == 0 || wait > u32::MAX / 2;
            if over {
                late.push(asked.ticket);
            }
            !over
        });
        late
    }

    /// Nobody will answer any more.
    pub(super) fn give_up(&mut self) -> Vec<Ticket> {
        let round = self.round.take().into_iter().flat_map(|round| round.asked);
        let asked = round.chain(self.waiting.drain(..)).map(|asked| asked.ticket);
        asked.chain(self.settled.drain(..).map(|(_, ticket)| ticket)).collect()
    }
}
