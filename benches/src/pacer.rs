//! Keeps a schedule on a thread of its own: a timer of the runtime wakes to the millisecond, which
//! is several times the latencies to be measured. The thread sleeps until shortly before a moment
//! and then gives way until it has come; at intervals too short for that it sends what is due every
//! fraction of a millisecond. What it is late by is measured and reported
//! ([`GENERATOR_DELAY`](crate::outcome::latency::GENERATOR_DELAY)).

use std::{ops::ControlFlow, thread, time::Duration};

use crate::{clock::Moment, schedule::Schedule, stop::Stop};

/// The kernel wakes a sleeper up to this late (timer slack and a context switch).
const WAKE_SLACK: Duration = Duration::from_micros(120);

/// Longest sleep in one piece, so that a stop is seen.
const NAP_MAX: Duration = Duration::from_millis(50);

/// Calls `send` for every moment of `schedule`, in order, until told to stop or `send` breaks.
/// Blocks the thread.
pub fn keep(schedule: Schedule, stop: &Stop, mut send: impl FnMut(u64, Moment) -> ControlFlow<()>) {
    let precise = schedule.interval() > 2 * WAKE_SLACK;
    for n in 0.. {
        let intended = schedule.intended(n);
        loop {
            if stop.is_told() {
                return;
            }
            let left = intended.since(Moment::now());
            if left.is_zero() {
                break;
            }
            if precise && left <= WAKE_SLACK {
                thread::yield_now();
            } else {
                let early = if precise { WAKE_SLACK } else { Duration::ZERO };
                thread::sleep((left - early).max(WAKE_SLACK / 2).min(NAP_MAX));
            }
        }
        if send(n, intended).is_break() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_sent_in_order_and_never_early() {
        for rate in [2_000.0, 50_000.0] {
            let start = Moment::now();
            let schedule = Schedule::new(start, rate, 0, 1);
            let mut sent = Vec::new();
            keep(schedule, &Stop::new(), |n, intended| {
                assert!(Moment::now() >= intended);
                assert_eq!(intended, schedule.intended(n));
                sent.push(n);
                if n == 99 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            assert_eq!(sent, (0..100).collect::<Vec<_>>());
        }
    }

    #[test]
    fn it_stops_when_told_however_far_the_next_moment_is() {
        let stop = Stop::new();
        let keeper = thread::spawn({
            let stop = stop.clone();
            let schedule = Schedule::new(Moment::now().plus(Duration::from_secs(3600)), 1.0, 0, 1);
            move || keep(schedule, &stop, |_, _| panic!("an hour has not passed"))
        });
        stop.tell();
        keeper.join().unwrap();
    }
}
