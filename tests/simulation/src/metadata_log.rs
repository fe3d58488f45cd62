//! The metadata log as the controller uses it: commands in, what became of them out, by and by.
//!
//! [`Ideal`] is a log that never fails and applies at once, over the shipped state machine
//! ([`MetadataImage::apply`]). A real quorum goes in its place behind [`MetadataLog`]: it answers
//! later, or never.

use std::{collections::VecDeque, fmt, sync::Arc};

use riverrun_broker::metadata::{Command, MetadataImage, Rejection, Reply};

/// A log of commands, and the image they make.
pub trait MetadataLog: fmt::Debug {
    /// Proposes a command; `tag` names the answer.
    fn propose(&mut self, tag: u64, command: Command);

    /// The next command that was applied, in order of the log.
    fn applied(&mut self) -> Option<Applied>;

    /// The newest image.
    fn image(&self) -> Arc<MetadataImage>;
}

/// What became of a command.
#[derive(Debug)]
pub struct Applied {
    /// As it was proposed here.
    pub tag: u64,
    /// The answer.
    pub outcome: Result<Reply, Rejection>,
    /// The image before, and after.
    pub images: [Arc<MetadataImage>; 2],
}

/// A log that never fails.
#[derive(Debug, Default)]
pub struct Ideal {
    image: Arc<MetadataImage>,
    applied: VecDeque<Applied>,
}

impl MetadataLog for Ideal {
    fn propose(&mut self, tag: u64, command: Command) {
        let before = Arc::clone(&self.image);
        let applied = before.apply(before.offset().next(), &command);
        self.image = Arc::new(applied.image);
        let images = [before, Arc::clone(&self.image)];
        self.applied.push_back(Applied { tag, outcome: applied.outcome, images });
    }

    fn applied(&mut self) -> Option<Applied> {
        self.applied.pop_front()
    }

    fn image(&self) -> Arc<MetadataImage> {
        Arc::clone(&self.image)
    }
}
