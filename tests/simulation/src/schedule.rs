//! Virtual time: what is to happen, and when. Nothing else moves the clock.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

/// What will happen, in order; at one moment, in the order it was arranged.
#[derive(Debug)]
pub struct Schedule<E> {
    now: Duration,
    arranged: u64,
    to_come: BinaryHeap<Reverse<Due<E>>>,
}

#[derive(Debug)]
struct Due<E> {
    at: Duration,
    number: u64,
    event: E,
}

impl<E> Schedule<E> {
    /// Nothing is to happen, and no time has passed.
    pub fn new() -> Self {
        Self { now: Duration::ZERO, arranged: 0, to_come: BinaryHeap::new() }
    }

    /// The time.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// Arranges something for a moment, or for now if that has passed.
    pub fn at(&mut self, at: Duration, event: E) {
        let at = at.max(self.now);
        self.arranged += 1;
        self.to_come.push(Reverse(Due { at, number: self.arranged, event }));
    }

    /// Arranges something for later.
    pub fn after(&mut self, delay: Duration, event: E) {
        self.at(self.now + delay, event);
    }

    /// Goes on to what happens next.
    pub fn go_on(&mut self) -> Option<E> {
        let Reverse(due) = self.to_come.pop()?;
        self.now = due.at;
        Some(due.event)
    }
}

impl<E> Default for Schedule<E> {
    fn default() -> Self {
        Self::new()
    }
}

impl<E> Due<E> {
    fn key(&self) -> (Duration, u64) {
        (self.at, self.number)
    }
}

impl<E> PartialEq for Due<E> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<E> Eq for Due<E> {}

impl<E> PartialOrd for Due<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Due<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_happen_in_order_of_time_and_then_of_arrangement() {
        let mut schedule = Schedule::new();
        let ms = Duration::from_millis;
        for (at, what) in [(5, 'c'), (1, 'a'), (5, 'd'), (1, 'b')] {
            schedule.at(ms(at), what);
        }
        let order: String = std::iter::from_fn(|| schedule.go_on()).collect();
        assert_eq!((order.as_str(), schedule.now()), ("abcd", ms(5)));
        schedule.at(ms(2), 'e');
        schedule.go_on();
        assert_eq!(schedule.now(), ms(5), "time does not go back");
    }
}
