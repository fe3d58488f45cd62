//! The metadata log over the shipped quorum: a node of it, in a broker's process.

use std::{collections::VecDeque, sync::Arc};

use riverrun_broker::{
    controller::raft::{SteppedNode, stepped::StepAnswer},
    metadata::{Command, Delta, MetadataImage},
};

use crate::{
    metadata_log::{Applied, MetadataLog, Told},
    plant::Plant,
};

/// See the module.
#[derive(Debug)]
pub struct RaftLog {
    /// The shipped node, with its log on the broker's disk.
    pub node: SteppedNode,
    image: Arc<MetadataImage>,
    told: VecDeque<Told>,
    plant: Option<Plant>,
}

impl RaftLog {
    /// Over an opened node.
    pub fn new(node: SteppedNode, plant: Option<Plant>) -> Self {
        Self { image: node.snapshot(), node, told: VecDeque::new(), plant }
    }

    /// Takes in what the node applied and answered. S17: in order, each entry once, but for what
    /// came as an image.
    pub fn take(
        &mut self,
        applied: Vec<(Arc<MetadataImage>, Vec<Delta>)>,
        mut answers: Vec<(u64, StepAnswer)>,
        installed: bool,
    ) -> Result<(), String> {
        for (image, deltas) in applied {
            let (before, offset) = (self.image.offset(), image.offset());
            let speculates = self.plant == Some(Plant::ActsBeforeCommit);
            if offset != before.next() && !(installed && offset > before) && !speculates {
                return Err(format!("S17: {offset} of the metadata was applied after {before}"));
            }
            let here = answers.iter().position(|(_, answer)| {
                matches!(answer, StepAnswer::Proposed(Ok(judged)) if judged.offset == offset)
            });
            let answer = here.and_then(|at| match answers.swap_remove(at) {
                (tag, StepAnswer::Proposed(Ok(judged))) => Some((tag, judged.outcome)),
                _ => None,
            });
            let before = std::mem::replace(&mut self.image, Arc::clone(&image));
            self.told.push_back(Told::Applied(Box::new(Applied {
                answer,
                images: [before, image],
                deltas,
            })));
        }
        for (tag, answer) in answers {
            match answer {
                StepAnswer::Proposed(Ok(judged)) => {
                    let at = judged.offset;
                    return Err(format!("S17: answered with {at}, which was not applied"));
                }
                StepAnswer::Proposed(Err(error)) => {
                    self.told.push_back(Told::Failed { tag, is_definite: error.is_definite() });
                }
                // The operator looks again.
                StepAnswer::Changed(_) => {}
            }
        }
        Ok(())
    }

    /// [`Plant::ActsBeforeCommit`]: what the leader has proposed counts as decided.
    fn speculate(&mut self, command: &Command) {
        let before = Arc::clone(&self.image);
        let applied = before.apply(before.offset().next(), command);
        self.image = Arc::new(applied.image);
        let images = [before, Arc::clone(&self.image)];
        let deltas = applied.deltas;
        self.told.push_back(Told::Applied(Box::new(Applied { answer: None, images, deltas })));
    }
}

impl MetadataLog for RaftLog {
    fn propose(&mut self, tag: u64, command: Command) {
        if self.plant == Some(Plant::ActsBeforeCommit) && self.node.leads().is_some() {
            self.speculate(&command);
        }
        if self.node.propose(tag, &command).is_err() {
            self.told.push_back(Told::Failed { tag, is_definite: true });
        }
    }

    fn told(&mut self) -> Option<Told> {
        self.told.pop_front()
    }

    fn image(&self) -> Arc<MetadataImage> {
        Arc::clone(&self.image)
    }
}
