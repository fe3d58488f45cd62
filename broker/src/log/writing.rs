//! How the next step of a window is to be written: copied into a map that is populated ahead, or
//! written by the kernel when the append comes. Pure.
//!
//! A window that is populated has its pages written twice, zeros first, and mapped, and taken out of
//! the map again to be synced; for that an append costs no call of the kernel. From some size of
//! frame on, the call is the cheaper one (`benches/RESULTS.md`). But where more is written than the
//! disk takes, the kernel makes whoever writes wait; for those who store to a map that is the I/O
//! pool, and otherwise the thread of whoever appends. So once appends were made to wait again and again,
//! windows are populated for a while, whatever the size of frames. One wait alone is nothing to go by: the
//! file system's journal makes for those, too, and so do other processes.

use std::time::Duration;

use riverrun_proto::timestamp::Timestamp;

use crate::io::WriteMode;

/// Frames of this size in the mean, in bytes, are written: 16 KiB cost a fifth less so, 8 KiB as much
/// either way.
const WRITTEN_FROM: u64 = 12 << 10;

/// An append that took this long was made to wait.
const STALL: Duration = Duration::from_millis(50);

/// So many of them, each within [`STALLS_WITHIN`] of the one before, are what a kernel does that has
/// more to write than the disk takes: there nearly every append waits.
const STALLS: u32 = 3;
const STALLS_WITHIN: Duration = Duration::from_secs(5);

/// For so long after the last append that waited, windows are populated.
const CALM_AFTER: Duration = Duration::from_secs(30);

/// What was appended of late, and what follows from it.
#[derive(Debug)]
pub(super) struct Writing {
    mode: WriteMode,
    /// Appended since the last step was asked for.
    frames: u64,
    bytes: u64,
    /// How many appends were made to wait, each soon after another, and when the last one was.
    stalls: u32,
    stalled_at: Timestamp,
}

// === impl Writing ===

impl Writing {
    /// Nothing is known yet.
    pub(super) const fn new() -> Self {
        Self {
            mode: WriteMode::Map,
            frames: 0,
            bytes: 0,
            stalls: 0,
            stalled_at: Timestamp::from_millis(0),
        }
    }

    /// A frame was appended.
    pub(super) const fn note(&mut self, bytes: u64) {
        self.frames += 1;
        self.bytes += bytes;
    }

    /// An append took so long.
    pub(super) fn note_took(&mut self, took: Duration, now: Timestamp) {
        if took >= STALL {
            self.forget_stalls(now);
            self.stalls += 1;
            self.stalled_at = now;
        }
    }

    /// For the next step of a log that is configured with `allowed`. Without an append since the
    /// last one, as that.
    pub(super) fn next(&mut self, allowed: WriteMode, now: Timestamp) -> WriteMode {
        self.forget_stalls(now);
        if let Some(mean) = self.bytes.checked_div(self.frames) {
            self.mode = if mean >= WRITTEN_FROM { WriteMode::Write } else { WriteMode::Map };
            (self.frames, self.bytes) = (0, 0);
        }
        match allowed {
            WriteMode::Write => WriteMode::Write,
            WriteMode::Map if self.stalls >= STALLS => WriteMode::Map,
            WriteMode::Map => self.mode,
        }
    }

    /// Stalls count together, or not at all, until windows are populated for them; from then on until
    /// it is calm. A clock that was set back knows nothing of when they were.
    fn forget_stalls(&mut self, now: Timestamp) {
        let apart = if self.stalls >= STALLS { CALM_AFTER } else { STALLS_WITHIN };
        if now < self.stalled_at || now.duration_since(self.stalled_at) >= apart {
            self.stalls = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{
        super::{
            LogConfig,
            readying::Ready,
            testkit::{Driven, Make, env, sim_disk, small_config},
            work::Kind,
        },
        *,
    };

    const SMALL: u64 = 4 << 10;
    const LARGE: u64 = 64 << 10;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn appended(frames: &[u64]) -> Writing {
        let mut writing = Writing::new();
        for bytes in frames {
            writing.note(*bytes);
        }
        writing
    }

    #[test]
    fn large_frames_are_written_and_small_ones_copied() {
        let cases: [(&[u64], WriteMode); 5] = [
            (&[], WriteMode::Map),
            (&[LARGE], WriteMode::Write),
            (&[SMALL; 9], WriteMode::Map),
            (&[LARGE, SMALL], WriteMode::Write),
            (&[LARGE, SMALL, SMALL, SMALL, SMALL, SMALL, SMALL, SMALL], WriteMode::Map),
        ];
        for (frames, expected) in cases {
            assert_eq!(appended(frames).next(WriteMode::Map, at(0)), expected, "{frames:?}");
        }
    }

    /// How a log that is appended to asks for its windows, once it knows what comes.
    fn asked_for(allowed: WriteMode, value_bytes: usize, took: Duration) -> Vec<WriteMode> {
        let config = LogConfig {
            write_mode: allowed,
            segment_bytes: 1 << 20,
            window_min: 256 << 10,
            window_max: 256 << 10,
            ..small_config()
        };
        let mut driven = Driven::create(env(Arc::new(sim_disk(1)), "/data", 1), config);
        let mut asked = Vec::new();
        let make = Make { records: 1, value_bytes, ..Make::default() };
        for _ in 0..(3 << 20) / value_bytes {
            let batch = make.stamped(driven.log.log_end_offset());
            while driven.log.append(&batch, driven.now).is_err() {
                let work = driven.log.take_work().expect("it is not ready");
                if let Kind::Ready(Ready::Create { mode, .. } | Ready::Extend { mode, .. }) =
                    &work.kind
                {
                    asked.push(*mode);
                }
                driven.run(work);
            }
            driven.log.note_took(took);
        }
        assert_eq!(asked.first(), Some(&allowed), "nothing is known of a new log");
        assert!(asked.len() > 10, "through several segments: {asked:?}");
        asked.split_off(1)
    }

    #[test]
    fn a_log_asks_for_windows_by_what_is_appended_to_it() {
        let (large, small) = (LARGE as usize, SMALL as usize);
        for (allowed, bytes, took, expected) in [
            (WriteMode::Map, large, Duration::ZERO, WriteMode::Write),
            (WriteMode::Map, small, Duration::ZERO, WriteMode::Map),
            (WriteMode::Write, small, Duration::ZERO, WriteMode::Write),
        ] {
            let asked = asked_for(allowed, bytes, took);
            assert!(asked.iter().all(|mode| *mode == expected), "{bytes}: {asked:?}");
        }
        let asked = asked_for(WriteMode::Map, large, STALL);
        assert_eq!(asked.last(), Some(&WriteMode::Map), "each append waits: {asked:?}");
    }

    #[test]
    fn each_step_goes_by_what_was_appended_since_the_last() {
        let mut writing = appended(&[LARGE; 3]);
        assert_eq!(writing.next(WriteMode::Map, at(0)), WriteMode::Write);
        assert_eq!(writing.next(WriteMode::Map, at(1)), WriteMode::Write, "nothing new is known");
        writing.note(SMALL);
        assert_eq!(writing.next(WriteMode::Map, at(2)), WriteMode::Map);
    }

    /// What the next step is after a large frame and these appends, which were made to wait.
    fn after_stalls(seconds: &[i64], now: i64) -> WriteMode {
        let mut writing = appended(&[LARGE]);
        for second in seconds {
            writing.note_took(STALL, at(*second));
        }
        writing.next(WriteMode::Map, at(now))
    }

    #[test]
    fn who_has_to_wait_again_and_again_copies_for_a_while() {
        let cases: [(&[i64], i64, WriteMode); 7] = [
            (&[10], 10, WriteMode::Write),
            (&[10, 14], 14, WriteMode::Write),
            (&[10, 14, 18], 18, WriteMode::Map),
            (&[10, 15, 19], 19, WriteMode::Write),
            (&[10, 11, 12], 41, WriteMode::Map),
            (&[10, 11, 12], 42, WriteMode::Write),
            (&[10, 11, 12, 35], 64, WriteMode::Map),
        ];
        for (seconds, now, expected) in cases {
            assert_eq!(after_stalls(seconds, now), expected, "{seconds:?} at {now}");
        }
        let mut quick = appended(&[LARGE]);
        for second in 10..20 {
            quick.note_took(STALL - Duration::from_millis(1), at(second));
        }
        assert_eq!(quick.next(WriteMode::Map, at(20)), WriteMode::Write);
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_keep_it_waiting() {
        assert_eq!(after_stalls(&[1000, 1001, 1002], 0), WriteMode::Write);
    }

    #[test]
    fn what_is_synced_for_each_batch_is_always_written() {
        assert_eq!(appended(&[SMALL]).next(WriteMode::Write, at(0)), WriteMode::Write);
    }
}
