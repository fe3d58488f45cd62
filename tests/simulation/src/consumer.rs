//! A client that reads one partition from the beginning, from whoever has it. That what it is shown
//! is committed is looked at where it is read; here, that it gets all of it, once and in order.

use std::time::Duration;

use bytes::Bytes;
use riverrun_proto::offset::Offset;

use crate::{
    message::{Body, End, Node, Readable},
    mirror::Entry,
    stage::{Event, Stage},
};

/// See the module.
#[derive(Debug)]
pub struct Consumer {
    /// Which client.
    pub number: usize,
    /// What it reads.
    pub partition: usize,
    /// What it reads next.
    pub position: Offset,
    /// Whom it asks; another one where that does not help.
    broker: usize,
}

impl Consumer {
    /// A client.
    pub fn new(number: usize, partition: usize, stage: &mut Stage) -> Self {
        stage.network.note_up(End { node: Node::Client(number), run: 0 });
        stage.schedule.after(Duration::ZERO, Event::Client { client: number });
        Self { number, partition, position: Offset::ZERO, broker: 0 }
    }

    /// Asks for more.
    pub fn wake(&mut self, stage: &mut Stage) {
        let again = stage.random.millis(5, 60);
        stage.schedule.after(again, Event::Client { client: self.number });
        if stage.random.permille(100) {
            self.broker = stage.random.index(stage.setup.brokers);
        }
        self.fetch(stage);
    }

    fn fetch(&self, stage: &mut Stage) {
        let fetch = Body::Fetch { partition: self.partition, from: self.position };
        stage.send(Node::Client(self.number), Node::Broker(self.broker), fetch);
    }

    /// Takes an answer; one to an earlier question is none.
    pub fn hear(&mut self, body: Body, stage: &mut Stage) {
        let Body::Fetched { from, read, .. } = body else { return };
        if from != self.position {
            return;
        }
        match read {
            Ok(batches) => {
                self.read(&batches, stage);
                // While faults go on it lags, and reads what is cold; then it goes on at once, so that
                // how much was written is no matter of liveness.
                if stage.is_calm && !batches.is_empty() {
                    self.fetch(stage);
                }
            }
            Err(Readable::NotHere) => self.broker = stage.random.index(stage.setup.brokers),
            Err(Readable::OutOfRange { start, .. }) => {
                if start > stage.ledgers[self.partition].deleted() {
                    stage.fail(format!("S12: the log begins at {start}, nobody asked for that"));
                }
                self.position = self.position.max(start);
            }
        }
    }

    fn read(&mut self, batches: &[Bytes], stage: &mut Stage) {
        for batch in batches {
            let Some(entry) = Entry::of_batch(batch) else {
                return stage.fail("S12: a batch that is none");
            };
            if entry.base > self.position || entry.end <= self.position {
                let position = self.position;
                return stage.fail(format!("S12: read {entry:?} at {position}"));
            }
            self.position = entry.end;
        }
    }
}
