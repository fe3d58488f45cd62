//! What happened, in order: as a number that two runs can be compared by, and as lines if somebody
//! wants to read them.

use std::{fmt, time::Duration};

/// Past this many lines the oldest half is let go of: the end is what one wants to see.
const LINES_MAX: usize = 400_000;

/// The steps of a run.
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    steps: u64,
    lines: Option<Vec<String>>,
    buffer: String,
}

impl Trace {
    /// An empty one; with its lines if it `tells`.
    pub fn new(tells: bool) -> Self {
        Self {
            hash: 0xcbf2_9ce4_8422_2325,
            steps: 0,
            lines: tells.then(Vec::new),
            buffer: String::new(),
        }
    }

    /// Adds a step.
    pub fn step(&mut self, now: Duration, what: fmt::Arguments<'_>) {
        use fmt::Write as _;
        self.steps += 1;
        self.buffer.clear();
        // Writing to a String does not fail.
        let _ = write!(self.buffer, "{:>10.6} {what}", now.as_secs_f64());
        // FNV-1a.
        for byte in self.buffer.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if let Some(lines) = &mut self.lines {
            if lines.len() == LINES_MAX {
                lines.drain(..LINES_MAX / 2);
            }
            lines.push(self.buffer.clone());
        }
    }

    /// The same for the same steps.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How many there were.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The steps in words, if they were kept.
    pub fn take_lines(&mut self) -> Vec<String> {
        self.lines.take().unwrap_or_default()
    }
}
