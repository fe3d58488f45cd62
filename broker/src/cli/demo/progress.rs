//! Two bars on a terminal, nothing elsewhere: what is acknowledged and what was read back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use super::source::Source;
use crate::cli::output;

/// How often bars move.
const TICK: Duration = Duration::from_millis(100);

/// How far the demo is. Cheap to clone; counting is one addition.
#[derive(Clone, Debug)]
pub(super) struct Progress(Arc<Bars>);

#[derive(Debug)]
struct Bars {
    unit: Unit,
    acked: AtomicU64,
    read: AtomicU64,
    acked_bar: ProgressBar,
    read_bar: ProgressBar,
    all: MultiProgress,
}

/// What is counted: what the total is known of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Records,
    /// Of lines, with their ends.
    Bytes,
}

// === impl Progress ===

impl Progress {
    /// `size`: bytes of the source, if it has a size.
    pub(super) fn new(source: &Source, size: Option<u64>, visible: bool) -> Self {
        let (unit, total) = match (source, size) {
            (Source::Orders { records }, _) => (Unit::Records, Some(*records)),
            (Source::File { records: Some(records), .. }, _) => (Unit::Records, Some(*records)),
            (_, Some(bytes)) => (Unit::Bytes, Some(bytes)),
            (_, None) => (Unit::Records, None),
        };
        let target =
            if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let all = MultiProgress::with_draw_target(target);
        let bar = |name: &'static str| {
            let bar = match total {
                Some(total) => ProgressBar::new(total),
                None => ProgressBar::no_length(),
            };
            all.add(bar.with_style(style(unit, total.is_some())).with_message(name))
        };
        let (acked_bar, read_bar) = (bar("acknowledged"), bar("read back"));
        Self(Arc::new(Bars {
            unit,
            acked: AtomicU64::new(0),
            read: AtomicU64::new(0),
            acked_bar,
            read_bar,
            all,
        }))
    }

    /// A line of so many bytes was acknowledged.
    pub(super) fn acked(&self, line_bytes: usize) {
        self.0.acked.fetch_add(self.0.unit.of(line_bytes), Relaxed);
    }

    /// A line of so many bytes was read back.
    pub(super) fn read(&self, line_bytes: usize) {
        self.0.read.fetch_add(self.0.unit.of(line_bytes), Relaxed);
    }

    /// Moves the bars for as long as it is polled.
    pub(super) async fn show(&self) {
        let mut ticks = tokio::time::interval(TICK);
        loop {
            ticks.tick().await;
            self.0.acked_bar.set_position(self.0.acked.load(Relaxed));
            self.0.read_bar.set_position(self.0.read.load(Relaxed));
        }
    }

    /// Takes the bars away: the report follows. A terminal that is gone is no failure.
    pub(super) fn finish(&self) {
        self.0.acked_bar.finish_and_clear();
        self.0.read_bar.finish_and_clear();
        let _ = self.0.all.clear();
    }
}

// === impl Unit ===

impl Unit {
    fn of(self, line_bytes: usize) -> u64 {
        match self {
            Self::Records => 1,
            Self::Bytes => line_bytes as u64 + 1,
        }
    }
}

fn style(unit: Unit, has_end: bool) -> ProgressStyle {
    let template = match (unit, has_end) {
        (Unit::Records, true) => "{msg:>12} {wide_bar} {human_pos}/{human_len} {rate} {eta}",
        (Unit::Bytes, true) => {
            "{msg:>12} {wide_bar} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}"
        }
        (_, false) => "{msg:>12} {spinner} {human_pos} records {rate}",
    };
    let rate = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        // A bar without its rate is still a bar.
        let _ = write!(out, "{}/s", output::count(state.per_sec() as u64));
    };
    let style = ProgressStyle::with_template(template);
    style.expect("the templates are valid; a test makes them all").with_key("rate", rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_style_is_valid_and_counts_in_its_unit() {
        let orders = Source::new(None, Some(5));
        let file = Source::new(Some(std::path::Path::new("x")), None);
        for (source, size, expected) in
            [(&orders, None, 2), (&file, Some(100), 12), (&file, None, 2)]
        {
            let progress = Progress::new(source, size, false);
            progress.acked(3);
            progress.acked(7);
            progress.read(3);
            assert_eq!(progress.0.acked.load(Relaxed), expected, "{source:?}");
            assert!(progress.0.read.load(Relaxed) < expected);
            progress.finish();
        }
    }
}
