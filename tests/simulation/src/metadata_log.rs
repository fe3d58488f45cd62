//! The metadata log as the controller uses it: commands in, what became of them out, by and by.
//!
//! [`Ideal`] is a log that never fails and applies at once, over the shipped state machine
//! ([`MetadataImage::apply`]). The shipped quorum stands in its place behind [`MetadataLog`] in
//! [`RaftLog`](crate::raft_log::RaftLog): it answers later, or never.

use std::{collections::VecDeque, fmt, sync::Arc};

use riverrun_broker::metadata::{Command, Delta, MetadataImage, Rejection, Reply};

/// A log of commands, and the image they make.
pub trait MetadataLog: fmt::Debug {
    /// Proposes a command; `tag` names the answer.
    fn propose(&mut self, tag: u64, command: Command);

    /// What happened next: what was applied, in order of the log, and what will not be answered.
    fn told(&mut self) -> Option<Told>;

    /// The newest image.
    fn image(&self) -> Arc<MetadataImage>;
}

/// Something that happened.
#[derive(Debug)]
pub enum Told {
    /// A command, or several that came as an image, were applied.
    Applied(Box<Applied>),
    /// A command was refused, or nobody knows what became of it.
    Failed {
        /// As it was proposed here.
        tag: u64,
        /// It is certain that it is not in the log.
        is_definite: bool,
    },
}

/// What was applied.
#[derive(Debug)]
pub struct Applied {
    /// The answer, if it was proposed here.
    pub answer: Option<(u64, Result<Reply, Rejection>)>,
    /// The image before, and after.
    pub images: [Arc<MetadataImage>; 2],
    /// What changed.
    pub deltas: Vec<Delta>,
}

/// A log that never fails.
#[derive(Debug, Default)]
pub struct Ideal {
    image: Arc<MetadataImage>,
    told: VecDeque<Told>,
}

impl MetadataLog for Ideal {
    fn propose(&mut self, tag: u64, command: Command) {
        let before = Arc::clone(&self.image);
        let applied = before.apply(before.offset().next(), &command);
        self.image = Arc::new(applied.image);
        let images = [before, Arc::clone(&self.image)];
        let answer = Some((tag, applied.outcome));
        let deltas = applied.deltas;
        self.told.push_back(Told::Applied(Box::new(Applied { answer, images, deltas })));
    }

    fn told(&mut self) -> Option<Told> {
        self.told.pop_front()
    }

    fn image(&self) -> Arc<MetadataImage> {
        Arc::clone(&self.image)
    }
}
