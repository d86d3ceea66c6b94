//! Packets of many queues in one order of time. Packets go in as their queues are read; they come out by their stamps,
//! once nothing older can come any more. It reads no clock: the time up to which all has been read is an argument.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// A packet that waits for its turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held<T> {
    /// Nanoseconds since 1970.
    pub(super) at: u64,
    /// Packets of one moment keep the order in which they were read.
    number: u64,
    pub(super) packet: T,
}

impl<T: Eq> Ord for Held<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl<T: Eq> PartialOrd for Held<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Packets that wait.
#[derive(Debug)]
pub(super) struct Merge<T: Eq> {
    held: BinaryHeap<Reverse<Held<T>>>,
    number: u64,
    last: u64,
    late: u64,
}

impl<T: Eq> Default for Merge<T> {
    fn default() -> Self {
        Self { held: BinaryHeap::new(), number: 0, last: 0, late: 0 }
    }
}

impl<T: Eq> Merge<T> {
    pub(super) fn push(&mut self, at: u64, packet: T) {
        self.number += 1;
        self.held.push(Reverse(Held { at, number: self.number, packet }));
    }

    /// The oldest packet, if it is no younger than `until`.
    pub(super) fn pop(&mut self, until: u64) -> Option<Held<T>> {
        if self.held.peek()?.0.at > until {
            return None;
        }
        let Reverse(held) = self.held.pop()?;
        self.late += u64::from(held.at < self.last);
        self.last = self.last.max(held.at);
        Some(held)
    }

    /// When the oldest packet passed.
    #[must_use]
    pub(super) fn oldest(&self) -> Option<u64> {
        self.held.peek().map(|held| held.0.at)
    }

    /// How many came out behind a younger one.
    #[must_use]
    pub(super) fn late(&self) -> u64 {
        self.late
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_may_still_be_overtaken_waits() {
        let mut merge = Merge::default();
        for (at, packet) in [(5, 'b'), (9, 'd'), (2, 'a'), (5, 'c')] {
            merge.push(at, packet);
        }
        let mut out = |until| std::iter::from_fn(|| merge.pop(until)).map(|h| h.packet).collect::<String>();
        assert_eq!(out(1), "");
        assert_eq!(out(5), "abc");
        assert_eq!(out(8), "");
        assert_eq!(out(9), "d");
        merge.push(8, 'e');
        assert_eq!(merge.pop(u64::MAX).map(|h| h.packet), Some('e'));
        assert_eq!(merge.late(), 1);
    }

    proptest! {
        #[test]
        fn queues_that_are_read_to_a_time_come_out_in_order(
            mut queues in prop::collection::vec(prop::collection::vec(0u64..1000, 0..50), 1..6),
            step in 1u64..300,
        ) {
            let all: usize = queues.iter().map(Vec::len).sum();
            queues.iter_mut().for_each(|q| q.sort_unstable());
            let (mut merge, mut out) = (Merge::default(), Vec::new());
            let mut until = 0;
            while until < 1000 + step {
                for queue in &mut queues {
                    let ready = queue.partition_point(|at| *at <= until);
                    queue.drain(..ready).for_each(|at| merge.push(at, ()));
                }
                out.extend(std::iter::from_fn(|| merge.pop(until)).map(|h| h.at));
                until += step;
            }
            prop_assert_eq!(out.len(), all);
            prop_assert!(out.is_sorted());
            prop_assert_eq!(merge.late(), 0);
        }
    }
}
