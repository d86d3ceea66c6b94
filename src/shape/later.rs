//! What is due later. Things and their times go in; they come out when their time has come, the earliest first, and of
//! one time in the order in which they went in. It never reads a clock.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::Nanos;

#[derive(Debug)]
struct Entry<T> {
    at: Nanos,
    number: u64,
    what: T,
}

impl<T> Ord for Entry<T> {
    /// Reversed, for the greatest is the first out of a heap.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Entry<T> {}

/// Things in order of their time.
#[derive(Debug)]
pub struct Later<T> {
    heap: BinaryHeap<Entry<T>>,
    next: u64,
}

impl<T> Default for Later<T> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), next: 0 }
    }
}

impl<T> Later<T> {
    pub fn push(&mut self, at: Nanos, what: T) {
        self.heap.push(Entry { at, number: self.next, what });
        self.next += 1;
    }

    /// When the first is due.
    #[must_use]
    pub fn due(&self) -> Option<Nanos> {
        self.heap.peek().map(|entry| entry.at)
    }

    /// The first, if it is due.
    pub fn pop(&mut self, now: Nanos) -> Option<T> {
        if self.due()? > now {
            return None;
        }
        self.heap.pop().map(|entry| entry.what)
    }

    /// The first, if it is due and `take` wants it.
    pub fn pop_if(&mut self, now: Nanos, take: impl FnOnce(&T) -> bool) -> Option<T> {
        let wanted = self.heap.peek().is_some_and(|entry| take(&entry.what));
        if wanted { self.pop(now) } else { None }
    }

    /// Puts something else in the place of each thing, at the same time, or nothing.
    pub fn retain_map(&mut self, mut f: impl FnMut(T) -> Option<T>) {
        let heap = std::mem::take(&mut self.heap).into_iter();
        self.heap = heap
            .filter_map(|Entry { at, number, what }| Some(Entry { at, number, what: f(what)? }))
            .collect();
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }
}
